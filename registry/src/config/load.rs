//! From file and environment to one tree, and what to say when they are wrong.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::file::File;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {source}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}:{line}:{column}: {what}", .path.display())]
    File { path: PathBuf, line: u64, column: u64, what: String },
    #[error("{name}: {what}")]
    Variable { name: String, what: String },
    /// A value that is well-formed and cannot be served.
    #[error("{key}: {what}")]
    Value { key: &'static str, what: String },
}

/// Prefix of the variables that override the file.
const PREFIX: &str = "REGISTRY_";

/// Reads the text of the file `path`, if there is one, and puts the variables over it. Gives also
/// what an operator should be told.
pub(super) fn load(
    file: Option<(&Path, &str)>,
    variables: &[(String, String)],
) -> Result<(File, Vec<String>), ConfigError> {
    let mut tree = match file {
        Some((path, text)) => parse(path, text)?,
        None => Value::Object(serde_json::Map::new()),
    };
    let mut notes = Vec::new();
    let mut variables: Vec<_> =
        variables.iter().filter(|(name, value)| is_ours(name) && !value.is_empty()).collect();
    // Distribution's order: a later name may reach into what an earlier one has set.
    variables.sort();
    for (name, value) in variables {
        overlay(&mut tree, name, value, &mut notes)?;
    }
    match serde_json::from_value(tree) {
        Ok(file) => Ok((file, notes)),
        Err(error) => Err(ConfigError::Value { key: "configuration", what: error.to_string() }),
    }
}

fn parse(path: &Path, text: &str) -> Result<Value, ConfigError> {
    let located = |error: serde_saphyr::Error| {
        let location = error.location();
        ConfigError::File {
            path: path.to_owned(),
            line: location.map_or(0, |location| location.line()),
            column: location.map_or(0, |location| location.column()),
            what: describe(error.without_snippet()),
        }
    };
    // By its types, for errors with a place in the file, and so that text needs no quotes.
    let file = match text.trim() {
        "" => File::default(),
        _ => serde_saphyr::from_str::<Option<File>>(text).map_err(located)?.unwrap_or_default(),
    };
    serde_json::to_value(file)
        .map_err(|error| ConfigError::Value { key: "configuration", what: error.to_string() })
}

fn describe(error: &serde_saphyr::Error) -> String {
    match error {
        serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => {
            unknown_key(field, expected.iter().copied())
        }
        serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key {key:?} is given twice")
        }
        serde_saphyr::Error::InvalidScalar { ty, .. } => match *ty {
            "boolean" => "true or false is expected here".to_owned(),
            _ => "a number is expected here, whole and not negative".to_owned(),
        },
        serde_saphyr::Error::Unexpected { expected: "mapping start", .. } => {
            "a section is expected here: keys, each on a line of its own".to_owned()
        }
        serde_saphyr::Error::Unexpected { expected: "sequence start", .. } => {
            "a list is expected here: [VALUE, VALUE]".to_owned()
        }
        other => {
            let text = other.to_string();
            let line = text.lines().next().unwrap_or("");
            // The place stands in front already.
            line.rsplit_once(" at line ").map_or(line, |(what, _)| what).to_owned()
        }
    }
}

fn unknown_key<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> String {
    match nearest(found, known) {
        Some(near) => format!("unknown key {found:?}: did you mean {near:?}?"),
        None => format!("unknown key {found:?}"),
    }
}

/// Variables of Kubernetes' service links (`REGISTRY_PORT=tcp://…`) are not ours: a Service named
/// `registry` puts them into every pod of its namespace.
fn is_ours(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let service_link = rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_");
    !service_link && rest != "CONFIGURATION_PATH"
}

/// Puts one variable into the tree. An unknown one is a note: somebody else may have meant it.
fn overlay(
    tree: &mut Value,
    name: &str,
    text: &str,
    notes: &mut Vec<String>,
) -> Result<(), ConfigError> {
    let path: Vec<String> = name[PREFIX.len()..].split('_').map(str::to_ascii_lowercase).collect();
    if path == ["version"] {
        // Images put their own version there.
        notes.push(format!("{name} has no effect: the version is taken from a file"));
        return Ok(());
    }
    let driver = is_driver(name, text);
    // A value is YAML, so that lists and numbers can be given; where that does not fit the key,
    // it is text.
    let values = if driver {
        vec![serde_json::json!({ text: {} })]
    } else {
        let parsed = serde_saphyr::from_str::<Value>(text).unwrap_or(Value::Null);
        vec![parsed, Value::String(text.to_owned())]
    };
    let mut failure = String::new();
    for value in values {
        let mut changed = tree.clone();
        if !set(&mut changed, &path, value) {
            failure = "the path leads through something that is not a section".to_owned();
            continue;
        }
        match serde_json::from_value::<File>(changed.clone()) {
            Ok(_) => {
                *tree = changed;
                return Ok(());
            }
            Err(error) => failure = error.to_string(),
        }
    }
    if let Some((found, known)) = unknown_field(&failure) {
        let what = unknown_key(found, known.into_iter());
        if driver {
            // An empty disk must not stand in for what was asked for.
            return Err(ConfigError::Variable { name: name.to_owned(), what });
        }
        notes.push(format!("{name} has no effect: {what}"));
        return Ok(());
    }
    let what = match failure.split_once(", expected struct ") {
        Some((found, _)) => format!("{found}, expected a section: name one of its keys"),
        None => failure,
    };
    Err(ConfigError::Variable { name: name.to_owned(), what })
}

/// Whether a variable names a driver, which is a section without keys: `REGISTRY_STORAGE=filesystem`.
fn is_driver(name: &str, text: &str) -> bool {
    matches!(name, "REGISTRY_STORAGE" | "REGISTRY_AUTH")
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// What serde says of a key that it does not know: the key, and those that it knows there.
pub(super) fn unknown_field(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let mut quoted = rest.split('`').step_by(2);
    Some((quoted.next()?, quoted.collect()))
}

pub(super) fn set(tree: &mut Value, path: &[String], value: Value) -> bool {
    let Some((key, rest)) = path.split_first() else {
        *tree = value;
        return true;
    };
    if tree.is_null() {
        *tree =
            if key == "0" { Value::Array(Vec::new()) } else { Value::Object(Default::default()) };
    }
    match tree {
        Value::Object(map) => set(map.entry(key.clone()).or_insert(Value::Null), rest, value),
        Value::Array(list) => {
            let Ok(index) = key.parse::<usize>() else { return false };
            if index == list.len() {
                list.push(Value::Null);
            }
            list.get_mut(index).is_some_and(|entry| set(entry, rest, value))
        }
        _ => false,
    }
}

/// The known word that is fewest edits away, if it is near enough to be meant.
pub(super) fn nearest<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (found.len() / 3).clamp(2, 3).min(found.len() / 2);
    known
        .map(|word| (edits(found, word), word))
        .filter(|(edits, _)| *edits <= limit)
        .min()
        .map(|(_, word)| word)
}

/// Levenshtein's distance, of short words.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
