//! The part of Go's text/template that people write after `--format`.
//!
//! `{{.A.B}}`, `{{json .A}}`, pipes, parentheses, variables, `range` (with `else` and
//! `$key, $value :=`), `if`/`else if`/`else`, `with`, `{{-` and `-}}`, and the functions `json join
//! split len index upper lower title println print printf eq ne lt gt and or not`.
//! Source: pkg.go.dev/text/template, and Docker's `docker inspect --format` reference.

use std::fmt::Write;

use serde_json::Value;

/// A template that has been read.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

/// Why a template cannot be read, or not be filled in.
pub(crate) type Error = String;

#[derive(Clone, Debug)]
enum Node {
    Text(String),
    Print(Pipe),
    If(Vec<(Pipe, Vec<Node>)>, Vec<Node>),
    With(Pipe, Vec<Node>, Vec<Node>),
    Range { names: Vec<String>, over: Pipe, body: Vec<Node>, otherwise: Vec<Node> },
    Set(String, Pipe),
}

/// Commands, each getting the value of the one before as its last argument.
type Pipe = Vec<Vec<Term>>;

#[derive(Clone, Debug)]
enum Term {
    /// `.A.B` of the current value; none is `.` itself.
    Field(Vec<String>),
    /// `$x.A`
    Variable(String, Vec<String>),
    Literal(Value),
    Function(String),
    /// `(pipe).A`
    Nested(Pipe, Vec<String>),
}

/// Fields whose own fields are anybody's words.
const MAPS: [&str; 4] = ["Annotations", "Labels", "Options", "Sysctls"];

/// Fields that are lists: where there is none JSON has `null`, and Docker's templates an empty one.
const LISTS: [&str; 13] = [
    "Aliases",
    "Binds",
    "CapAdd",
    "CapDrop",
    "Cmd",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "Entrypoint",
    "ExecIDs",
    "GroupAdd",
    "OnBuild",
    "SecurityOpt",
];

/// Deeper than any template that a person writes.
const DEPTH_MAX: usize = 64;

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let mut pieces = pieces(text)?.into_iter().peekable();
        let (nodes, end) = block(&mut pieces, 0)?;
        match end {
            None => Ok(Self { nodes }),
            Some(word) => Err(format!("unexpected {{{{{word}}}}}")),
        }
    }

    /// Fills it in. A field that `data` lacks is an error, as with Docker: a script should not go
    /// on with a word that was misspelled. A label that is not there is `<no value>`.
    pub(crate) fn render(&self, data: &Value) -> Result<String, Error> {
        let mut state = State { variables: vec![("$".into(), data.clone())] };
        let mut out = String::new();
        state.nodes(&self.nodes, data, &mut out)?;
        Ok(out)
    }
}

enum Piece {
    Text(String),
    Action(String),
}

fn pieces(text: &str) -> Result<Vec<Piece>, Error> {
    let mut pieces = Vec::new();
    let (mut rest, mut trim) = (text, false);
    loop {
        let open = rest.find("{{");
        let mut before = &rest[..open.unwrap_or(rest.len())];
        if trim {
            before = before.trim_start();
        }
        let Some(open) = open else {
            pieces.push(Piece::Text(before.to_owned()));
            return Ok(pieces);
        };
        let inside = &rest[open + 2..];
        let close = closing(inside).ok_or("an {{ without its }}")?;
        let mut action = &inside[..close];
        if let Some(trimmed) = action.strip_prefix("- ") {
            before = before.trim_end();
            action = trimmed;
        }
        trim = action.ends_with(" -");
        action = action.strip_suffix(" -").unwrap_or(action).trim();
        pieces.push(Piece::Text(before.to_owned()));
        if !action.starts_with("/*") {
            pieces.push(Piece::Action(action.to_owned()));
        }
        rest = &inside[close + 2..];
    }
}

/// Where the `}}` is that stands in no string.
fn closing(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut quote) = (0, None);
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (None, b'"' | b'`') => quote = Some(bytes[at]),
            (Some(b'"'), b'\\') => at += 1,
            (Some(open), byte) if open == byte => quote = None,
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

type Pieces = std::iter::Peekable<std::vec::IntoIter<Piece>>;

/// Nodes up to `end`, `else` or the end of the text; answers the word that ended them.
fn block(pieces: &mut Pieces, depth: usize) -> Result<(Vec<Node>, Option<String>), Error> {
    if depth > DEPTH_MAX {
        return Err("nested too deeply".into());
    }
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let action = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(action) => action,
        };
        let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((&action, ""));
        match word {
            "end" | "else" => return Ok((nodes, Some(action))),
            "if" => nodes.push(conditions(pieces, rest, depth)?),
            "with" => {
                let (body, otherwise) = body(pieces, depth)?;
                nodes.push(Node::With(pipe(rest)?, body, otherwise));
            }
            "range" => {
                let (names, over) = match rest.split_once(":=") {
                    Some((names, over)) => (names, over),
                    None => ("", rest),
                };
                let names = names.split(',').map(|name| name.trim().to_owned());
                let names = names.filter(|name| !name.is_empty()).collect();
                let (body, otherwise) = body(pieces, depth)?;
                nodes.push(Node::Range { names, over: pipe(over)?, body, otherwise });
            }
            _ => nodes.push(match action.split_once(":=") {
                Some((name, value)) if name.starts_with('$') => {
                    Node::Set(name.trim().to_owned(), pipe(value)?)
                }
                _ => Node::Print(pipe(&action)?),
            }),
        }
    }
    Ok((nodes, None))
}

fn conditions(pieces: &mut Pieces, first: &str, depth: usize) -> Result<Node, Error> {
    let mut branches = Vec::new();
    let mut condition = pipe(first)?;
    loop {
        let (nodes, end) = block(pieces, depth + 1)?;
        branches.push((condition, nodes));
        match end.as_deref() {
            Some("end") => return Ok(Node::If(branches, Vec::new())),
            Some("else") => {
                let (otherwise, end) = block(pieces, depth + 1)?;
                return match end.as_deref() {
                    Some("end") => Ok(Node::If(branches, otherwise)),
                    _ => Err("an {{else}} without its {{end}}".into()),
                };
            }
            Some(end) => match end.strip_prefix("else if ") {
                Some(next) => condition = pipe(next)?,
                None => return Err(format!("unexpected {{{{{end}}}}}")),
            },
            None => return Err("an {{if}} without its {{end}}".into()),
        }
    }
}

fn body(pieces: &mut Pieces, depth: usize) -> Result<(Vec<Node>, Vec<Node>), Error> {
    let (nodes, end) = block(pieces, depth + 1)?;
    let otherwise = match end.as_deref() {
        Some("end") => return Ok((nodes, Vec::new())),
        Some("else") => block(pieces, depth + 1)?,
        _ => return Err("a block without its {{end}}".into()),
    };
    match otherwise.1.as_deref() {
        Some("end") => Ok((nodes, otherwise.0)),
        _ => Err("a block without its {{end}}".into()),
    }
}

fn pipe(text: &str) -> Result<Pipe, Error> {
    let mut rest = text;
    let pipe = terms(&mut rest, 0)?;
    if !rest.trim().is_empty() || pipe.iter().any(Vec::is_empty) {
        return Err(format!("{{{{{text}}}}} cannot be read"));
    }
    Ok(pipe)
}

/// Reads up to the end or a closing parenthesis, which is left where it is.
fn terms(rest: &mut &str, depth: usize) -> Result<Pipe, Error> {
    if depth > DEPTH_MAX {
        return Err("nested too deeply".into());
    }
    let mut pipe = vec![Vec::new()];
    loop {
        *rest = rest.trim_start();
        let Some(first) = rest.chars().next() else { return Ok(pipe) };
        let term = match first {
            ')' => return Ok(pipe),
            '|' => {
                *rest = &rest[1..];
                pipe.push(Vec::new());
                continue;
            }
            '(' => {
                *rest = &rest[1..];
                let nested = terms(rest, depth + 1)?;
                *rest = rest.strip_prefix(')').ok_or("a ( without its )")?;
                Term::Nested(nested, fields(rest))
            }
            '"' | '`' => Term::Literal(Value::String(string(rest)?)),
            '.' => {
                let path = fields(rest);
                if path.is_empty() {
                    *rest = &rest[1..];
                }
                Term::Field(path)
            }
            _ => word(rest)?,
        };
        if let Some(command) = pipe.last_mut() {
            command.push(term);
        }
    }
}

/// `.A.B` from the start of `rest`.
fn fields(rest: &mut &str) -> Vec<String> {
    let mut path = Vec::new();
    while let Some(after) = rest.strip_prefix('.') {
        let end = after.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(after.len());
        if end == 0 {
            break;
        }
        path.push(after[..end].to_owned());
        *rest = &after[end..];
    }
    path
}

fn string(rest: &mut &str) -> Result<String, Error> {
    let open = rest.chars().next().unwrap_or('"');
    let mut text = String::new();
    let mut letters = rest[1..].char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            letter if letter == open => {
                *rest = &rest[at + 2..];
                return Ok(text);
            }
            '\\' if open == '"' => match letters.next().map(|(_, letter)| letter) {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some(other) => text.push(other),
                None => break,
            },
            letter => text.push(letter),
        }
    }
    Err("a string without its end".into())
}

fn word(rest: &mut &str) -> Result<Term, Error> {
    let ends = |c: char| c.is_whitespace() || matches!(c, '|' | '(' | ')' | '"' | '.');
    let is_number = rest.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    let end = rest.find(|c| ends(c) && !(is_number && c == '.')).unwrap_or(rest.len());
    let word = &rest[..end];
    *rest = &rest[end..];
    if let Some(name) = word.strip_prefix('$') {
        return Ok(Term::Variable(format!("${name}"), fields(rest)));
    }
    match word {
        "true" => return Ok(Term::Literal(Value::Bool(true))),
        "false" => return Ok(Term::Literal(Value::Bool(false))),
        "nil" => return Ok(Term::Literal(Value::Null)),
        _ => {}
    }
    if is_number {
        let number: serde_json::Number =
            word.parse().map_err(|_| format!("{word} is no number"))?;
        return Ok(Term::Literal(Value::Number(number)));
    }
    if word.is_empty() {
        return Err(format!("unexpected {rest:?}"));
    }
    Ok(Term::Function(word.to_owned()))
}

struct State {
    variables: Vec<(String, Value)>,
}

impl State {
    fn nodes(&mut self, nodes: &[Node], dot: &Value, out: &mut String) -> Result<(), Error> {
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Print(pipe) => match self.pipe(pipe, dot)? {
                    Value::Null if is_list(pipe) => out.push_str("[]"),
                    value => out.push_str(&shown(&value)),
                },
                Node::Set(name, pipe) => {
                    let value = self.pipe(pipe, dot)?;
                    self.variables.push((name.clone(), value));
                }
                Node::If(branches, otherwise) => {
                    let mut chosen = otherwise;
                    for (condition, nodes) in branches {
                        if truth(&self.pipe(condition, dot)?) {
                            chosen = nodes;
                            break;
                        }
                    }
                    self.scope(chosen, dot, out)?;
                }
                Node::With(pipe, nodes, otherwise) => {
                    let value = self.pipe(pipe, dot)?;
                    if truth(&value) {
                        self.scope(nodes, &value, out)?;
                    } else {
                        self.scope(otherwise, dot, out)?;
                    }
                }
                Node::Range { names, over, body, otherwise } => {
                    let over = self.pipe(over, dot)?;
                    self.range(names, &over, (body, otherwise), dot, out)?;
                }
            }
        }
        Ok(())
    }

    /// Variables that are set inside are gone afterwards.
    fn scope(&mut self, nodes: &[Node], dot: &Value, out: &mut String) -> Result<(), Error> {
        let known = self.variables.len();
        let result = self.nodes(nodes, dot, out);
        self.variables.truncate(known);
        result
    }

    fn range(
        &mut self,
        names: &[String],
        over: &Value,
        (body, otherwise): (&[Node], &[Node]),
        dot: &Value,
        out: &mut String,
    ) -> Result<(), Error> {
        let items: Vec<(Value, &Value)> = match over {
            Value::Array(items) => {
                items.iter().enumerate().map(|(at, item)| (Value::from(at), item)).collect()
            }
            Value::Object(map) => {
                map.iter().map(|(key, item)| (Value::from(key.as_str()), item)).collect()
            }
            Value::Null => Vec::new(),
            other => return Err(format!("range can't iterate over {}", shown(other))),
        };
        if items.is_empty() {
            return self.scope(otherwise, dot, out);
        }
        for (key, item) in items {
            let known = self.variables.len();
            match names {
                [value] => self.variables.push((value.clone(), item.clone())),
                [name, value] => {
                    self.variables.push((name.clone(), key));
                    self.variables.push((value.clone(), item.clone()));
                }
                _ => {}
            }
            let result = self.nodes(body, item, out);
            self.variables.truncate(known);
            result?;
        }
        Ok(())
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, Error> {
        let mut last = None;
        for command in pipe {
            last = Some(self.command(command, last, dot)?);
        }
        Ok(last.unwrap_or(Value::Null))
    }

    fn command(
        &mut self,
        command: &[Term],
        piped: Option<Value>,
        dot: &Value,
    ) -> Result<Value, Error> {
        let (first, rest) = command.split_first().ok_or("an empty command")?;
        if let Term::Function(name) = first {
            let mut arguments = Vec::new();
            for term in rest {
                arguments.push(self.term(term, dot)?);
            }
            arguments.extend(piped);
            return call(name, &arguments);
        }
        if !rest.is_empty() || piped.is_some() {
            return Err("only functions take arguments".into());
        }
        self.term(first, dot)
    }

    fn term(&mut self, term: &Term, dot: &Value) -> Result<Value, Error> {
        match term {
            Term::Literal(value) => Ok(value.clone()),
            Term::Field(path) => self.walk(dot, path),
            Term::Variable(name, path) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                let value = known.map(|(_, value)| value.clone());
                self.walk(&value.ok_or_else(|| format!("{name} is not set"))?, path)
            }
            Term::Nested(pipe, path) => {
                let value = self.pipe(pipe, dot)?;
                self.walk(&value, path)
            }
            Term::Function(name) => call(name, &[]),
        }
    }

    fn walk(&self, from: &Value, path: &[String]) -> Result<Value, Error> {
        let mut value = from;
        for (place, name) in path.iter().enumerate() {
            let of = place.checked_sub(1).map(|before| path[before].as_str());
            value = match value.get(name) {
                Some(value) => value,
                None if of.is_some_and(|of| MAPS.contains(&of)) => {
                    return Ok(Value::String("<no value>".into()));
                }
                None => return Err(format!("there is no field .{}", path.join("."))),
            };
        }
        Ok(value.clone())
    }
}

/// Whether this names a field that is a list, and does nothing more with it.
fn is_list(pipe: &Pipe) -> bool {
    let [command] = &pipe[..] else { return false };
    let [Term::Field(path) | Term::Variable(_, path) | Term::Nested(_, path)] = &command[..] else {
        return false;
    };
    path.last().is_some_and(|name| LISTS.contains(&name.as_str()))
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// As Go's `%v` prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" "))
        }
        Value::Object(map) => {
            let pairs = map.iter().map(|(key, value)| format!("{key}:{}", shown(value)));
            format!("map[{}]", pairs.collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

fn call(name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let wants = || format!("{name} is given the wrong arguments");
    let text = |at: usize| arguments.get(at).and_then(Value::as_str).ok_or_else(wants);
    let value = |at: usize| arguments.get(at).ok_or_else(wants);
    Ok(match name {
        "json" => Value::String(value(0)?.to_string()),
        "len" => Value::from(match value(0)? {
            Value::String(text) => text.len(),
            Value::Array(items) => items.len(),
            Value::Object(map) => map.len(),
            _ => return Err(wants()),
        }),
        "index" => index(arguments).ok_or_else(wants)?,
        "join" => {
            let items = value(0)?.as_array().ok_or_else(wants)?;
            Value::String(items.iter().map(shown).collect::<Vec<_>>().join(text(1)?))
        }
        "split" => text(0)?.split(text(1)?).collect(),
        "upper" => Value::String(text(0)?.to_uppercase()),
        "lower" => Value::String(text(0)?.to_lowercase()),
        "title" => {
            let mut letters = text(0)?.chars();
            let first = letters.next().map(|first| first.to_uppercase().to_string());
            Value::String(first.unwrap_or_default() + letters.as_str())
        }
        "print" => Value::String(arguments.iter().map(shown).collect()),
        "println" => {
            let words: Vec<_> = arguments.iter().map(shown).collect();
            Value::String(words.join(" ") + "\n")
        }
        "printf" => Value::String(printf(text(0)?, &arguments[1..])),
        "not" => Value::Bool(!truth(value(0)?)),
        "and" => {
            arguments.iter().find(|v| !truth(v)).or(arguments.last()).ok_or_else(wants)?.clone()
        }
        "or" => arguments.iter().find(|v| truth(v)).or(arguments.last()).ok_or_else(wants)?.clone(),
        "eq" => Value::Bool(arguments.iter().skip(1).any(|other| Some(other) == arguments.first())),
        "ne" => Value::Bool(value(0)? != value(1)?),
        "lt" | "le" | "gt" | "ge" => {
            let pair = (value(0)?.as_f64(), value(1)?.as_f64());
            let (Some(a), Some(b)) = pair else { return Err(wants()) };
            Value::Bool(match name {
                "lt" => a < b,
                "le" => a <= b,
                "gt" => a > b,
                _ => a >= b,
            })
        }
        _ => return Err(format!("function {name:?} is not known")),
    })
}

fn index(arguments: &[Value]) -> Option<Value> {
    let (mut value, keys) = arguments.split_first()?;
    for key in keys {
        value = match key {
            Value::String(key) => match value.as_object()?.get(key) {
                Some(value) => value,
                // Go answers the map's zero value.
                None => return Some(Value::String(String::new())),
            },
            key => value.as_array()?.get(usize::try_from(key.as_u64()?).ok()?)?,
        };
    }
    Some(value.clone())
}

fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let end = rest.find(|c: char| c.is_alphabetic() || c == '%');
        let Some(end) = end else { break };
        let width = rest[..end].trim_start_matches(['-', '.']).parse::<usize>().unwrap_or(0);
        let (left, precise) = (rest.starts_with('-'), rest.starts_with('.'));
        let verb = rest[end..].chars().next().unwrap_or('v');
        rest = &rest[end + verb.len_utf8()..];
        let text = match (verb, arguments.as_slice().first()) {
            ('%', _) => {
                out.push('%');
                continue;
            }
            ('q', Some(value)) => format!("{:?}", shown(value)),
            (_, Some(value)) => shown(value),
            (verb, None) => format!("%!{verb}(MISSING)"),
        };
        arguments.next();
        // Writing to a string cannot fail.
        let _ = match (left, precise) {
            (_, true) => write!(out, "{text:.width$}"),
            (true, _) => write!(out, "{text:width$}"),
            _ => write!(out, "{text:>width$}"),
        };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(template: &str) -> Result<String, Error> {
        let data = json!({
            "Id": "sha256:0123", "Size": 12, "Tags": ["a", "b"], "Empty": [], "On": true,
            "Config": { "Env": ["A=1", "B=2"], "Labels": { "x.y": "z" }, "Cmd": null },
        });
        Template::parse(template)?.render(&data)
    }

    #[test]
    fn what_people_write() {
        for (template, want) in [
            ("{{.Id}}", "sha256:0123"),
            ("a {{ .Size }} b", "a 12 b"),
            ("{{.Config.Env}}", "[A=1 B=2]"),
            ("{{json .Config.Labels}}", r#"{"x.y":"z"}"#),
            ("{{.Config.Labels}}", "map[x.y:z]"),
            ("{{index .Config.Labels \"x.y\"}}", "z"),
            ("{{index .Tags 1}}", "b"),
            ("{{range .Tags}}<{{.}}>{{end}}", "<a><b>"),
            ("{{range $i, $t := .Tags}}{{$i}}={{$t}} {{end}}", "0=a 1=b "),
            ("{{range .Empty}}x{{else}}none{{end}}", "none"),
            ("{{range .Config.Env}}{{println .}}{{end}}", "A=1\nB=2\n"),
            ("{{if .On}}yes{{else}}no{{end}}", "yes"),
            ("{{if .Empty}}a{{else if .On}}b{{else}}c{{end}}", "b"),
            ("{{with .Config}}{{.Cmd}} {{json .Cmd}}{{end}}", "[] null"),
            ("{{join .Tags \",\"}}", "a,b"),
            ("{{.Id | upper}}", "SHA256:0123"),
            ("{{len .Tags}}", "2"),
            ("{{(index .Tags 0) | printf \"%-3s|\"}}", "a  |"),
            ("{{printf \"%.3s %d %q\" .Id .Size .Id}}", "sha 12 \"sha256:0123\""),
            ("{{eq .Size 12}} {{ne .Id \"x\"}} {{not .On}}", "true true false"),
            ("{{and .On .Size}} {{or .Empty .Id}}", "12 sha256:0123"),
            ("{{$x := .Id}}{{$x}}", "sha256:0123"),
            ("{{range .Tags}}{{$.Size}}{{end}}", "1212"),
            ("a  {{- .Size -}}  b", "a12b"),
            ("{{/* comment */}}x", "x"),
            ("{{.Config.Labels.nothing}}", "<no value>"),
            ("{{\"}}\"}}", "}}"),
        ] {
            assert_eq!(render(template).as_deref(), Ok(want), "{template}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for template in [
            "{{",
            "{{.Id",
            "{{end}}",
            "{{if .On}}",
            "{{range .Tags}}x",
            "{{nope .Id}}",
            "{{(.Id}}",
            "{{.Id .Size}}",
            "{{}}",
            "{{range .On}}{{end}}",
            "{{$x}}",
            "{{.Id.Foo}}",
            "{{len}}",
            "{{\"a}}",
            "{{|}}",
            "{{else}}",
            "{{.Nothing}}",
            "{{.Config.Nothing}}",
            "{{.Config.Cmd.Nothing}}",
        ] {
            assert!(render(template).is_err(), "{template}");
        }
    }
}
