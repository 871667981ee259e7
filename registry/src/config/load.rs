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

/// Sections whose every name restricts something: one that is not understood must not be passed
/// over, since what it should have shut would be open.
const GUARDS: [&str; 3] = ["auth", "access", "tokens"];

/// What file and variables say together.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) file: File,
    /// What an operator should be told.
    pub(super) notes: Vec<String>,
    pub(super) from: Origins,
}

/// Which variables had a say: dotted keys and names.
#[derive(Debug, Default)]
pub(super) struct Origins(Vec<(String, String)>);

impl Origins {
    /// Names the variable in what is said of a value that came from one.
    pub(super) fn name(&self, error: ConfigError) -> ConfigError {
        let ConfigError::Value { key, what } = error else { return error };
        let within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let section = key.rsplit_once('.').map_or(key, |(section, _)| section);
        let found = self.0.iter().find(|(path, _)| within(path, key) || within(key, path));
        // What is missing beside a variable is missed because of it.
        let found = found.or_else(|| {
            self.0.iter().find(|(path, _)| what.starts_with("is missing") && within(path, section))
        });
        match found {
            Some((_, name)) => {
                ConfigError::Variable { name: name.clone(), what: format!("{key}: {what}") }
            }
            None => ConfigError::Value { key, what },
        }
    }
}

/// Reads the text of the file `path`, if there is one, and puts the variables over it.
pub(super) fn load(
    file: Option<(&Path, &str)>,
    variables: &[(String, String)],
) -> Result<Tree, ConfigError> {
    let mut tree = match file {
        Some((path, text)) => parse(path, text)?,
        None => Value::Object(serde_json::Map::new()),
    };
    let (mut notes, mut from) = (Vec::new(), Origins::default());
    let mut variables: Vec<_> =
        variables.iter().filter(|(name, value)| is_ours(name) && !value.is_empty()).collect();
    // Distribution's order: a later name may reach into what an earlier one has set.
    variables.sort();
    for (name, value) in variables {
        let refuse = |what| ConfigError::Variable { name: name.clone(), what };
        match overlay(&mut tree, name, value).map_err(refuse)? {
            Effect::Set(path) => from.0.push((path.join("."), name.clone())),
            Effect::None(why) => notes.push(format!("{name} has no effect: {why}")),
        }
    }
    match serde_json::from_value(tree) {
        Ok(file) => Ok(Tree { file, notes, from }),
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

/// Variables that others set under our prefix are not looked at: where our file is, where podman's
/// passwords are, and Kubernetes' service links, which a Service called `registry`, or `registry-`
/// and anything else, puts into every pod of its namespace.
fn is_ours(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    !matches!(rest, "CONFIGURATION_PATH" | "AUTH_FILE") && !is_service_link(rest)
}

/// Source: Kubernetes, "Accessing the Service"; the older half is Docker's `--link`.
fn is_service_link(name: &str) -> bool {
    let words: Vec<&str> = name.split('_').collect();
    let number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    (0..words.len()).any(|at| match &words[at..] {
        ["PORT"] | ["SERVICE", "HOST"] | ["SERVICE", "PORT", ..] => true,
        ["PORT", port, _, ..] => number(port),
        _ => false,
    })
}

/// What a variable did.
enum Effect {
    Set(Vec<String>),
    /// Nothing, and why: somebody else may have meant it.
    None(String),
}

/// Puts one variable into the tree. The error is what is wrong with its value.
fn overlay(tree: &mut Value, name: &str, text: &str) -> Result<Effect, String> {
    let path: Vec<String> = name[PREFIX.len()..].split('_').map(str::to_ascii_lowercase).collect();
    if path == ["version"] {
        // Images put their own version there.
        return Ok(Effect::None("the version is taken from a file".to_owned()));
    }
    let driver = is_driver(name, text);
    let quoted = || serde_json::json!(text).to_string();
    // A value is YAML, read as if it stood in the file, so that lists and numbers can be given;
    // where that does not fit the key, it is text.
    let read = if driver {
        value(&path, &format!("{}: {{}}", quoted()))
    } else {
        value(&path, text).or_else(|first| {
            value(&path, &quoted()).map_err(|second| {
                let syntax = serde_saphyr::from_str::<Value>(text).is_err();
                if syntax { second } else { first }
            })
        })
    };
    let what = match read {
        Ok(value) => {
            if set(tree, &path, value) {
                return Ok(Effect::Set(path));
            }
            "the entries before it are missing: they are counted from 0".to_owned()
        }
        Err(what) => what,
    };
    let guard = GUARDS.contains(&path[0].as_str());
    if guard {
        let what = "this registry does not know it, and what it should have shut would be open";
        return Err(format!("{what}: unset it"));
    }
    // An empty disk must not stand in for what was asked for.
    if driver || is_key(&path) { Err(what) } else { Ok(Effect::None(what)) }
}

/// Whether any value is taken at `path`.
fn is_key(path: &[String]) -> bool {
    ["", "x", "0", "true", "[]", "{}"].iter().any(|text| value(path, text).is_ok())
}

/// Reads `text` as the value of the key `path`, by its type.
fn value(path: &[String], text: &str) -> Result<Value, String> {
    let mut document = String::new();
    let is_entry = |key: &str| key.bytes().all(|byte| byte.is_ascii_digit());
    for (depth, key) in path.iter().enumerate() {
        let indent = "  ".repeat(depth);
        match is_entry(key) {
            true => document.push_str(&format!("{indent}-\n")),
            false => document.push_str(&format!("{indent}{}:\n", serde_json::json!(key))),
        }
    }
    for line in text.lines() {
        document.push_str(&format!("{}{line}\n", "  ".repeat(path.len())));
    }
    let file: File =
        serde_saphyr::from_str(&document).map_err(|error| describe(error.without_snippet()))?;
    let mut found = serde_json::to_value(file).map_err(|error| error.to_string())?;
    for key in path {
        let next = match (&mut found, is_entry(key)) {
            (Value::Array(list), true) => list.first_mut(),
            (Value::Object(map), _) => map.get_mut(key),
            _ => None,
        };
        // What is not there was given as nothing.
        found = next.map(Value::take).unwrap_or_default();
    }
    Ok(found)
}

/// Whether a variable names a driver, which is a section without keys: `REGISTRY_STORAGE=filesystem`.
fn is_driver(name: &str, text: &str) -> bool {
    matches!(name, "REGISTRY_STORAGE" | "REGISTRY_AUTH")
        && text != "null"
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
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
        Value::Object(map) => {
            // Names of headers, which the file may have in capitals.
            let known = map.keys().find(|known| known.eq_ignore_ascii_case(key)).cloned();
            set(map.entry(known.unwrap_or_else(|| key.clone())).or_insert(Value::Null), rest, value)
        }
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
