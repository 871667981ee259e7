//! Go's `fmt` for the values of templates. Source: pkg.go.dev/fmt.

use serde_json::Value;

use super::shown;

/// Widest field: what a person reads on one line, with room.
const WIDTH_MAX: usize = 4096;

/// `Sprint`: a space between two of which neither is a text.
pub(super) fn print(arguments: &[Value]) -> String {
    let mut out = String::new();
    for (at, value) in arguments.iter().enumerate() {
        if at > 0 && !value.is_string() && !arguments[at - 1].is_string() {
            out.push(' ');
        }
        out.push_str(&shown(value));
    }
    out
}

/// A verb with its flags: `%-8.3s`.
#[derive(Default)]
struct Verb {
    left: bool,
    plus: bool,
    zero: bool,
    space: bool,
    sharp: bool,
    width: usize,
    precision: Option<usize>,
}

/// `Sprintf`; what does not fit is said in the text, as Go does.
pub(super) fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut letters = format.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut verb = Verb::default();
        while let Some(flag) = letters.next_if(|c| "-+ 0#".contains(*c)) {
            match flag {
                '-' => verb.left = true,
                '+' => verb.plus = true,
                ' ' => verb.space = true,
                '0' => verb.zero = true,
                _ => verb.sharp = true,
            }
        }
        verb.width = count(&mut letters, &mut arguments).unwrap_or(0);
        if letters.next_if_eq(&'.').is_some() {
            verb.precision = Some(count(&mut letters, &mut arguments).unwrap_or(0));
        }
        match (letters.next(), arguments.as_slice().first()) {
            (None, _) => out.push_str("%!(NOVERB)"),
            (Some('%'), _) => out.push('%'),
            (Some(name), None) => out.push_str(&format!("%!{name}(MISSING)")),
            (Some(name), Some(value)) => {
                arguments.next();
                out.push_str(&verb.show(name, value));
            }
        }
    }
    let left: Vec<String> =
        arguments.map(|value| format!("{}={}", kind(value), shown(value))).collect();
    if !left.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", left.join(", ")));
    }
    out
}

/// A number in the format, or `*` for one among the arguments.
fn count(
    letters: &mut std::iter::Peekable<std::str::Chars<'_>>,
    arguments: &mut std::slice::Iter<'_, Value>,
) -> Option<usize> {
    let number = if letters.next_if_eq(&'*').is_some() {
        arguments.next().and_then(Value::as_u64).and_then(|number| usize::try_from(number).ok())
    } else {
        let mut digits = String::new();
        while let Some(digit) = letters.next_if(char::is_ascii_digit) {
            digits.push(digit);
        }
        digits.parse().ok()
    };
    number.map(|number: usize| number.min(WIDTH_MAX))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

impl Verb {
    fn show(&self, name: char, value: &Value) -> String {
        let text = match (name, value) {
            ('v', Value::String(_)) if self.sharp => quoted(value),
            ('v' | 's', Value::String(text)) => self.cut(text),
            ('v', _) => shown(value),
            ('s', Value::Array(_)) => shown(value),
            ('q', Value::String(_)) => quoted(value),
            ('q', Value::Array(items)) => {
                format!("[{}]", items.iter().map(quoted).collect::<Vec<_>>().join(" "))
            }
            ('T', _) => kind(value).to_owned(),
            ('t', Value::Bool(truth)) => truth.to_string(),
            ('x' | 'X', Value::String(text)) => {
                let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
                if name == 'X' { hex.to_uppercase() } else { hex }
            }
            ('d' | 'x' | 'X' | 'o' | 'b' | 'c' | 'U', Value::Number(number)) => {
                match number.as_i64() {
                    Some(number) => self.integer(name, number),
                    None => format!("%!{name}({}={number})", kind(value)),
                }
            }
            ('f' | 'F' | 'e' | 'E' | 'g' | 'G', Value::Number(number)) if number.is_f64() => {
                self.real(name, number.as_f64().unwrap_or(0.0))
            }
            _ => format!("%!{name}({}={})", kind(value), shown(value)),
        };
        self.pad(&text, value.is_number())
    }

    fn cut(&self, text: &str) -> String {
        text.chars().take(self.precision.unwrap_or(usize::MAX)).collect()
    }

    fn integer(&self, name: char, number: i64) -> String {
        let size = number.unsigned_abs();
        let digits = match (name, self.sharp) {
            ('c', _) => {
                let letter = u32::try_from(number).ok().and_then(char::from_u32);
                return letter.unwrap_or('\u{fffd}').to_string();
            }
            ('U', _) => return format!("U+{size:04X}"),
            ('x', false) => format!("{size:x}"),
            ('x', true) => format!("{size:#x}"),
            ('X', false) => format!("{size:X}"),
            ('X', true) => format!("0X{size:X}"),
            ('o', false) => format!("{size:o}"),
            ('o', true) => format!("0{size:o}"),
            ('b', false) => format!("{size:b}"),
            ('b', true) => format!("{size:#b}"),
            _ => format!("{size:0width$}", width = self.precision.unwrap_or(0)),
        };
        format!("{}{digits}", self.sign(number < 0))
    }

    fn real(&self, name: char, number: f64) -> String {
        let (size, precision) = (number.abs(), self.precision.unwrap_or(6));
        let text = match name {
            'f' | 'F' => format!("{size:.precision$}"),
            'e' | 'E' => {
                let text = format!("{size:.precision$e}");
                let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
                let power: i32 = power.parse().unwrap_or(0);
                let sign = if power < 0 { '-' } else { '+' };
                format!("{digits}{}{sign}{:02}", name, power.abs())
            }
            _ => size.to_string(),
        };
        format!("{}{text}", self.sign(number < 0.0))
    }

    fn sign(&self, is_negative: bool) -> &'static str {
        match (is_negative, self.plus, self.space) {
            (true, ..) => "-",
            (false, true, _) => "+",
            (false, false, true) => " ",
            (false, false, false) => "",
        }
    }

    fn pad(&self, text: &str, is_number: bool) -> String {
        let width = self.width;
        if self.left {
            return format!("{text:width$}");
        }
        if !self.zero {
            return format!("{text:>width$}");
        }
        let sign = usize::from(is_number && text.starts_with(['-', '+', ' ']));
        let (sign, digits) = text.split_at(sign);
        let width = width.saturating_sub(sign.len());
        format!("{sign}{digits:0>width$}")
    }
}

/// Between double quotes, escaped as Go does.
fn quoted(value: &Value) -> String {
    format!("{:?}", shown(value)).replace("\\'", "'")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn as_in_go() {
        for (format, arguments, want) in [
            ("%s|%5s|%-5s|%.2s", json!(["a", "b", "c", "defg"]), "a|    b|c    |de"),
            ("%d %5d %-5d| %05d %+d", json!([1, 2, 3, -4, 5]), "1     2 3    | -0004 +5"),
            ("%x %X %#x %o %b", json!([255, 255, 255, 8, 5]), "ff FF 0xff 10 101"),
            ("%x %q %v", json!(["hi", "a\"b", ["x", "y"]]), "6869 \"a\\\"b\" [x y]"),
            ("%t %c %U %%", json!([true, 65, 65]), "true A U+0041 %"),
            ("%.2f %8.3f %e", json!([1.5, 2.25, 1234.5]), "1.50    2.250 1.234500e+03"),
            ("%*d", json!([4, 7]), "   7"),
            ("%d", json!(["x"]), "%!d(string=x)"),
            ("%s", json!([3]), "%!s(int=3)"),
            ("%d %d", json!([1]), "1 %!d(MISSING)"),
            ("x", json!([1, "a"]), "x%!(EXTRA int=1, string=a)"),
            ("%z %", json!([1]), "%!z(int=1) %!(NOVERB)"),
            ("%T", json!(["a"]), "string"),
        ] {
            assert_eq!(printf(format, arguments.as_array().unwrap()), want, "{format}");
        }
        assert_eq!(print(json!(["a", 1, 2, "b", 3]).as_array().unwrap()), "a1 2b3");
    }
}
