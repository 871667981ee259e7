//! The functions of templates: Go's (text/template) and Docker's (`docker/cli`, `templates`).

use std::cmp::Ordering;

use serde_json::Value;

use super::printf::{print, printf};
use super::{Error, shown, truth};

/// Calls a function, `and` and `or` excepted, which look at their arguments one by one.
pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let wants = || format!("{name} is given the wrong arguments");
    let text = |at: usize| arguments.get(at).and_then(Value::as_str).ok_or_else(wants);
    let value = |at: usize| arguments.get(at).ok_or_else(wants);
    let number = |at: usize| {
        let number = arguments.get(at).and_then(Value::as_u64);
        number.and_then(|number| usize::try_from(number).ok()).ok_or_else(wants)
    };
    Ok(match name {
        "json" => Value::String(value(0)?.to_string()),
        "len" => Value::from(match value(0)? {
            Value::String(text) => text.len(),
            Value::Array(items) => items.len(),
            Value::Object(map) => map.len(),
            _ => return Err(wants()),
        }),
        "index" => index(arguments)?,
        "slice" => slice(arguments)?,
        "join" => {
            let items = match value(0)? {
                Value::Null => &[][..],
                items => items.as_array().ok_or_else(wants)?,
            };
            Value::String(items.iter().map(shown).collect::<Vec<_>>().join(text(1)?))
        }
        "split" => text(0)?.split(text(1)?).collect(),
        "upper" => Value::String(text(0)?.to_uppercase()),
        "lower" => Value::String(text(0)?.to_lowercase()),
        "title" => Value::String(title(text(0)?)),
        "pad" => match text(0)? {
            "" => Value::from(""),
            text => {
                Value::String(format!("{:w$}{text}{:v$}", "", "", w = number(1)?, v = number(2)?))
            }
        },
        "truncate" => {
            let (text, length) = (text(0)?, number(1)?);
            Value::from(text.get(..length).unwrap_or(text))
        }
        "print" => Value::String(print(arguments)),
        "println" => {
            let words: Vec<_> = arguments.iter().map(shown).collect();
            Value::String(words.join(" ") + "\n")
        }
        "printf" => Value::String(printf(text(0)?, &arguments[1..])),
        "html" => Value::String(escaped(&print(arguments), html)),
        "js" => Value::String(escaped(&print(arguments), js)),
        "urlquery" => Value::String(url_query(&print(arguments))),
        "not" => Value::Bool(!truth(value(0)?)),
        "eq" | "ne" | "lt" | "le" | "gt" | "ge" => Value::Bool(compare(name, arguments)?),
        "call" => return Err("call: this is no function".into()),
        _ => return Err(format!("function {name:?} is not known")),
    })
}

/// `eq` compares the first with each of the others, the rest compare two.
fn compare(name: &str, arguments: &[Value]) -> Result<bool, Error> {
    let (first, others) = match arguments {
        [first, others @ ..] if !others.is_empty() => (first, others),
        _ => return Err(format!("{name} needs two values to compare")),
    };
    if name == "eq" || name == "ne" {
        if name == "ne" && others.len() > 1 {
            return Err("ne compares two values".into());
        }
        for other in others {
            if equal(first, other)? {
                return Ok(name == "eq");
            }
        }
        return Ok(name == "ne");
    }
    let [second] = others else { return Err(format!("{name} compares two values")) };
    let order = match (first, second) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap_or(0.0), b.as_f64().unwrap_or(0.0));
            a.partial_cmp(&b).unwrap_or(Ordering::Equal)
        }
        (Value::String(a), Value::String(b)) => a.cmp(b),
        _ => return Err(format!("{name}: {} and {} have no order", shown(first), shown(second))),
    };
    Ok(match name {
        "lt" => order.is_lt(),
        "le" => order.is_le(),
        "gt" => order.is_gt(),
        _ => order.is_ge(),
    })
}

/// Values of different kinds cannot be compared, but for a number and a text: `eq .ExitCode "0"` is
/// what it looks like, as with Docker, which tries such a template on its JSON's own digits. Nothing
/// equals nothing only.
fn equal(a: &Value, b: &Value) -> Result<bool, Error> {
    match (a, b) {
        (Value::Null, _) | (_, Value::Null) => Ok(a.is_null() && b.is_null()),
        (Value::Number(number), Value::String(text))
        | (Value::String(text), Value::Number(number)) => Ok(number.to_string() == *text),
        (Value::Bool(_), Value::Bool(_))
        | (Value::Number(_), Value::Number(_))
        | (Value::String(_), Value::String(_)) => Ok(a == b),
        _ => Err(format!("{} and {} cannot be compared", shown(a), shown(b))),
    }
}

fn index(arguments: &[Value]) -> Result<Value, Error> {
    let (mut value, keys) = arguments.split_first().ok_or("index needs something to look in")?;
    for key in keys {
        value = match (value, key) {
            (Value::Object(map), Value::String(name)) => match map.get(name) {
                Some(value) => value,
                // Go answers the zero value of the map's type.
                None => return Ok(zero(map.values().next())),
            },
            (Value::Null, Value::String(_)) => return Ok(Value::from("")),
            (Value::Array(items), Value::Number(_)) => {
                let at = key.as_u64().and_then(|at| usize::try_from(at).ok());
                at.and_then(|at| items.get(at))
                    .ok_or_else(|| format!("index: {key} is out of range: {}", items.len()))?
            }
            (Value::String(text), Value::Number(_)) => {
                let at = key.as_u64().and_then(|at| usize::try_from(at).ok());
                let byte = at.and_then(|at| text.as_bytes().get(at));
                let byte = byte.ok_or_else(|| format!("index: {key} is out of range"))?;
                return Ok(Value::from(*byte));
            }
            _ => return Err(format!("index: there is no {key} in {}", shown(value))),
        };
    }
    Ok(value.clone())
}

fn zero(like: Option<&Value>) -> Value {
    match like {
        None | Some(Value::String(_)) => Value::from(""),
        Some(Value::Number(_)) => Value::from(0),
        Some(Value::Bool(_)) => Value::from(false),
        Some(_) => Value::Null,
    }
}

fn slice(arguments: &[Value]) -> Result<Value, Error> {
    let wrong = || "slice is given the wrong arguments, or is out of range".to_owned();
    let (value, ends) = arguments.split_first().ok_or_else(wrong)?;
    let mut numbers = Vec::new();
    for end in ends {
        let end = end.as_u64().and_then(|end| usize::try_from(end).ok());
        numbers.push(end.ok_or_else(wrong)?);
    }
    let from = numbers.first().copied().unwrap_or(0);
    let range = |length: usize| from..numbers.get(1).copied().unwrap_or(length);
    match value {
        Value::Array(items) if numbers.len() <= 3 => {
            let part = items.get(range(items.len())).ok_or_else(wrong)?;
            Ok(Value::from(part.to_vec()))
        }
        Value::String(text) if numbers.len() <= 2 => {
            Ok(Value::from(text.get(range(text.len())).ok_or_else(wrong)?))
        }
        _ => Err(wrong()),
    }
}

/// The first letter of each word. Source: Go's `strings.Title`.
fn title(text: &str) -> String {
    let mut before = ' ';
    let mut out = String::new();
    for letter in text.chars() {
        if before.is_alphanumeric() || before == '_' || before == '\'' {
            out.push(letter);
        } else {
            out.extend(letter.to_uppercase());
        }
        before = letter;
    }
    out
}

fn escaped(text: &str, escape: impl Fn(char) -> Option<String>) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        match escape(letter) {
            Some(escaped) => out.push_str(&escaped),
            None => out.push(letter),
        }
    }
    out
}

/// Source: Go's `template.HTMLEscaper`.
fn html(letter: char) -> Option<String> {
    let escaped = match letter {
        '"' => "&#34;",
        '\'' => "&#39;",
        '&' => "&amp;",
        '<' => "&lt;",
        '>' => "&gt;",
        '\0' => "\u{fffd}",
        _ => return None,
    };
    Some(escaped.to_owned())
}

/// Source: Go's `template.JSEscaper`.
fn js(letter: char) -> Option<String> {
    match letter {
        '\\' => Some("\\\\".into()),
        '\'' => Some("\\'".into()),
        '"' => Some("\\\"".into()),
        '<' | '>' | '&' | '=' => Some(format!("\\u{:04X}", u32::from(letter))),
        letter if letter < ' ' => Some(format!("\\u{:04X}", u32::from(letter))),
        _ => None,
    }
}

/// Source: Go's `url.QueryEscape`.
fn url_query(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn as_in_go() {
        for (name, arguments, want) in [
            ("title", json!(["two wOrds it's"]), json!("Two WOrds It's")),
            ("pad", json!(["x", 1, 2]), json!(" x  ")),
            ("truncate", json!(["abcdef", 3]), json!("abc")),
            ("truncate", json!(["ab", 3]), json!("ab")),
            ("slice", json!(["abcdef", 1, 3]), json!("bc")),
            ("slice", json!([["a", "b", "c"], 1]), json!(["b", "c"])),
            ("html", json!(["<a href='x'>&"]), json!("&lt;a href=&#39;x&#39;&gt;&amp;")),
            ("js", json!(["it's <\n"]), json!("it\\'s \\u003C\\u000A")),
            ("urlquery", json!(["a b/ä"]), json!("a+b%2F%C3%A4")),
            ("eq", json!([1, 2, 1]), json!(true)),
            ("eq", json!([null, "x"]), json!(false)),
            ("eq", json!([0, "0"]), json!(true)),
            ("ne", json!(["1", 0]), json!(true)),
            ("lt", json!(["a", "b"]), json!(true)),
            ("ge", json!([2, 1.5]), json!(true)),
            ("index", json!([{"a": {}}, "b"]), json!(null)),
            ("index", json!([{"a": "x"}, "b"]), json!("")),
            ("index", json!([[["x"]], 0, 0]), json!("x")),
            ("join", json!([null, ","]), json!("")),
        ] {
            let arguments = arguments.as_array().unwrap();
            assert_eq!(call(name, arguments).as_ref(), Ok(&want), "{name} {arguments:?}");
        }
        for (name, arguments) in [
            ("eq", json!([true, "true"])),
            ("eq", json!([0])),
            ("ne", json!([[], []])),
            ("lt", json!([1, "2"])),
            ("gt", json!([true, false])),
            ("slice", json!(["abc", 2, 1])),
            ("pad", json!(["x", -1, 2])),
            ("call", json!(["x"])),
        ] {
            assert!(call(name, arguments.as_array().unwrap()).is_err(), "{name} {arguments:?}");
        }
    }
}
