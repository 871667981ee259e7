//! From the text of a template to its nodes.

use serde_json::Value;

use super::{Error, Node, Pipe, Term};

/// Deeper than any template that a person writes.
const DEPTH_MAX: usize = 64;

pub(super) fn nodes(text: &str) -> Result<Vec<Node>, Error> {
    let mut pieces = pieces(text)?.into_iter().peekable();
    let (nodes, end) = block(&mut pieces, Place { depth: 0, in_range: false })?;
    match end {
        None => Ok(nodes),
        Some(word) => Err(format!("unexpected {{{{{word}}}}}")),
    }
}

/// Where in the template a block stands.
#[derive(Clone, Copy)]
struct Place {
    depth: usize,
    in_range: bool,
}

impl Place {
    fn inside(self) -> Self {
        Self { depth: self.depth + 1, ..self }
    }

    fn inside_range(self) -> Self {
        Self { in_range: true, ..self.inside() }
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
            (None, b'"' | b'`' | b'\'') => quote = Some(bytes[at]),
            (Some(b'"' | b'\''), b'\\') => at += 1,
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
fn block(pieces: &mut Pieces, place: Place) -> Result<(Vec<Node>, Option<String>), Error> {
    if place.depth > DEPTH_MAX {
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
            "if" => nodes.push(conditions(pieces, rest, place)?),
            "with" => nodes.push(with(pieces, rest, place)?),
            "break" | "continue" if place.in_range && rest.is_empty() => {
                nodes.push(if word == "break" { Node::Break } else { Node::Continue });
            }
            "break" | "continue" | "define" | "template" | "block" => {
                return Err(format!("{{{{{action}}}}} cannot stand here"));
            }
            "range" => {
                let (names, over) = match rest.split_once(":=") {
                    Some((names, over)) if names.starts_with('$') => (names, over),
                    _ => ("", rest),
                };
                let names = names.split(',').map(|name| name.trim().to_owned());
                let names = names.filter(|name| !name.is_empty()).collect();
                let (body, otherwise) = body(pieces, place)?;
                nodes.push(Node::Range { names, over: pipe(over)?, body, otherwise });
            }
            _ => nodes.push(match assignment(&action) {
                Some((name, value, is_new)) => Node::Set(name.to_owned(), pipe(value)?, is_new),
                None => Node::Print(pipe(&action)?),
            }),
        }
    }
    Ok((nodes, None))
}

/// Name and value of `$x := …` or `$x = …`, and whether it is the first.
fn assignment(action: &str) -> Option<(&str, &str, bool)> {
    let name = action.strip_prefix('$')?;
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_')? + 1;
    let (name, rest) = action.split_at(end);
    let rest = rest.trim_start();
    match rest.strip_prefix(":=") {
        Some(value) => Some((name, value, true)),
        None => rest.strip_prefix('=').map(|value| (name, value, false)),
    }
}

fn with(pieces: &mut Pieces, over: &str, place: Place) -> Result<Node, Error> {
    let over = pipe(over)?;
    let (nodes, end) = block(pieces, place.inside())?;
    let otherwise = match end.as_deref() {
        Some("end") => Vec::new(),
        Some("else") => closed(pieces, place)?,
        Some(end) => match end.strip_prefix("else with ") {
            Some(next) => vec![with(pieces, next, place.inside())?],
            None => return Err(format!("unexpected {{{{{end}}}}}")),
        },
        None => return Err("a {{with}} without its {{end}}".into()),
    };
    Ok(Node::With(over, nodes, otherwise))
}

/// Nodes up to an `end`.
fn closed(pieces: &mut Pieces, place: Place) -> Result<Vec<Node>, Error> {
    match block(pieces, place.inside())? {
        (nodes, Some(word)) if word == "end" => Ok(nodes),
        _ => Err("a block without its {{end}}".into()),
    }
}

fn conditions(pieces: &mut Pieces, first: &str, place: Place) -> Result<Node, Error> {
    let mut branches = Vec::new();
    let mut condition = pipe(first)?;
    loop {
        let (nodes, end) = block(pieces, place.inside())?;
        branches.push((condition, nodes));
        match end.as_deref() {
            Some("end") => return Ok(Node::If(branches, Vec::new())),
            Some("else") => return Ok(Node::If(branches, closed(pieces, place)?)),
            Some(end) => match end.strip_prefix("else if ") {
                Some(next) => condition = pipe(next)?,
                None => return Err(format!("unexpected {{{{{end}}}}}")),
            },
            None => return Err("an {{if}} without its {{end}}".into()),
        }
    }
}

/// The body of a `range`, and what stands behind its `else`.
fn body(pieces: &mut Pieces, place: Place) -> Result<(Vec<Node>, Vec<Node>), Error> {
    let (nodes, end) = block(pieces, place.inside_range())?;
    match end.as_deref() {
        Some("end") => Ok((nodes, Vec::new())),
        Some("else") => Ok((nodes, closed(pieces, place)?)),
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
            '\'' => {
                // A letter is its number, as in Go.
                let text = string(rest)?;
                let mut letters = text.chars();
                match (letters.next(), letters.next()) {
                    (Some(letter), None) => Term::Literal(Value::from(u32::from(letter))),
                    _ => return Err(format!("'{text}' is not one letter")),
                }
            }
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
            '\\' if open != '`' => match letters.next().map(|(_, letter)| letter) {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some('r') => text.push('\r'),
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
        return number(word).map(Term::Literal).ok_or_else(|| format!("{word} is no number"));
    }
    if word.is_empty() {
        return Err(format!("unexpected {rest:?}"));
    }
    Ok(Term::Function(word.to_owned()))
}

/// As Go reads numbers: `12`, `-1.5e3`, `0x1f`, `0b101`, `1_000`.
fn number(word: &str) -> Option<Value> {
    let plain = word.replace('_', "");
    let (sign, digits) = match plain.strip_prefix(['-', '+']) {
        Some(digits) if plain.starts_with('-') => (-1, digits),
        Some(digits) => (1, digits),
        None => (1, plain.as_str()),
    };
    for (prefix, radix) in [("0x", 16), ("0X", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = digits.strip_prefix(prefix) {
            return Some(Value::from(sign * i64::from_str_radix(digits, radix).ok()?));
        }
    }
    match digits.parse::<i64>() {
        Ok(number) => Some(Value::from(sign * number)),
        Err(_) => Some(Value::from(plain.parse::<f64>().ok().filter(|one| one.is_finite())?)),
    }
}
