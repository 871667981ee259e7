//! Who names whom in the two programs, read from their sources and held to the tables below, which
//! are ARCHITECTURE.md's sentence about it. A row that nothing needs any more is a failure too.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A file of a crate, by its path as a module: `http::connection` for `http/connection/mod.rs`.
type Module = Vec<String>;

struct House {
    sources: &'static str,
    /// What each room (a file or folder at the top) may name.
    rooms: &'static [(&'static str, &'static [&'static str])],
    /// Crates that one folder alone may name.
    crates: &'static [(&'static str, &'static str)],
    /// The circles between files that are still there; `None`: nobody has looked yet.
    circles: Option<&'static [&'static str]>,
}

const REGISTRY: House = House {
    sources: "registry/src",
    rooms: &[
        ("admin", &["config", "content", "open", "records", "store"]),
        ("auth", &["failpoint", "files"]),
        ("config", &["auth", "content", "http", "observe", "records", "store", "tls"]),
        ("content", &["failpoint", "pool", "records", "store"]),
        ("edge", &["config", "content", "http"]),
        ("http", &["auth", "content", "failpoint", "observe", "records", "store", "sys", "tls"]),
        ("observe", &["content", "failpoint", "records", "tls"]),
        ("open", &["config", "content", "records", "store"]),
        ("pool", &["failpoint"]),
        ("privileges", &["failpoint"]),
        ("records", &["failpoint"]),
        (
            "serve",
            &[
                "admin",
                "auth",
                "config",
                "content",
                "http",
                "observe",
                "open",
                "privileges",
                "records",
                "service",
                "tls",
            ],
        ),
        ("service", &["http", "sys"]),
        ("store", &["failpoint", "pool", "records", "sys"]),
        ("tls", &["files"]),
    ],
    crates: &[("rusqlite", "records/sqlite"), ("actix_web", "http")],
    circles: Some(&[
        "http::connection, http::server",
        "records::sqlite::checkpoint, records::sqlite::writer",
    ]),
};

const RUNNER: House = House {
    sources: "runner/src",
    rooms: &[
        ("cgroup", &["failure", "sys"]),
        (
            "cli",
            &[
                "container",
                "credentials",
                "dirs",
                "failure",
                "images",
                "known_bad",
                "launch",
                "net",
                "path_text",
                "pull",
                "random",
                "signal",
                "spec",
                "sys",
                "timestamp",
                "timings",
                "unpack",
                "userns",
                "visible",
                "volumes",
            ],
        ),
        ("container", &["net"]),
        ("credentials", &["random"]),
        ("dirs", &["known_bad"]),
        ("failure", &["visible"]),
        (
            "images",
            &[
                "container",
                "dirs",
                "known_bad",
                "overlay",
                "path_text",
                "random",
                "timestamp",
                "unpack",
                "userns",
                "volumes",
            ],
        ),
        (
            "isolate",
            &[
                "container",
                "known_bad",
                "launch",
                "net",
                "overlay",
                "place",
                "seccomp",
                "spec",
                "sys",
            ],
        ),
        (
            "launch",
            &[
                "cgroup",
                "container",
                "dirs",
                "failure",
                "images",
                "isolate",
                "known_bad",
                "net",
                "overlay",
                "random",
                "seccomp",
                "signal",
                "spec",
                "sys",
                "timestamp",
                "timings",
                "userns",
                "volumes",
            ],
        ),
        (
            "net",
            &["container", "dirs", "failure", "known_bad", "launch", "random", "sys", "timestamp"],
        ),
        ("overlay", &["sys"]),
        ("place", &["sys"]),
        (
            "pull",
            &[
                "cli",
                "credentials",
                "failure",
                "images",
                "known_bad",
                "spec",
                "timestamp",
                "unpack",
            ],
        ),
        ("seccomp", &["container", "known_bad", "sys"]),
        ("spec", &["container", "known_bad", "net", "random", "seccomp", "userns"]),
        ("sys", &["known_bad"]),
        (
            "unpack",
            &[
                "container",
                "failure",
                "images",
                "known_bad",
                "overlay",
                "path_text",
                "place",
                "sys",
                "userns",
            ],
        ),
        ("userns", &["launch", "sys"]),
        ("visible", &["known_bad"]),
        ("volumes", &["images", "random"]),
    ],
    crates: &[("reqwest", "pull"), ("tokio", "pull")],
    circles: None,
};

#[test]
fn rooms_of_the_registry() {
    check(&REGISTRY);
}

#[test]
fn rooms_of_the_runner() {
    check(&RUNNER);
}

fn check(house: &House) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(house.sources);
    let files = sources(&root);
    assert!(files.len() > 40, "{} has moved", house.sources);
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    let mut edges: BTreeMap<&Module, BTreeSet<Module>> = BTreeMap::new();
    for (module, file) in &files {
        let tokens = tokens(&fs::read_to_string(file).unwrap());
        let shown = file.strip_prefix(&root).unwrap().display();
        for (name, folder) in house.crates {
            let is_named = tokens.iter().any(|token| token == name);
            if is_named && !file.starts_with(root.join(folder)) {
                wrong.push(format!("{shown} names {name}, which {folder} alone may"));
            }
        }
        for named in named(module, &tokens, &files) {
            let (from, to) = (room(module), room(&named));
            if from != to && !is_allowed(house, from, to) {
                wrong.push(format!("{shown} names {}; {from} may not name {to}", named.join("::")));
            }
            used.insert((from.to_owned(), to.to_owned()));
            edges.entry(module).or_default().insert(named);
        }
    }
    for (from, all) in house.rooms {
        for to in *all {
            if !used.contains(&((*from).to_owned(), (*to).to_owned())) {
                wrong.push(format!("{from} may name {to}, and does not: take it out of the table"));
            }
        }
    }
    if let Some(known) = house.circles {
        let found = circles(&edges);
        let is_known = |circle: &String| known.contains(&circle.as_str());
        wrong.extend(
            found.iter().filter(|circle| !is_known(circle)).map(|one| format!("a circle: {one}")),
        );
        let gone = known.iter().filter(|circle| !found.iter().any(|one| one == *circle));
        wrong.extend(gone.map(|one| format!("no circle any more, take it out of the list: {one}")));
    }
    assert!(wrong.is_empty(), "in {}:\n  {}", house.sources, wrong.join("\n  "));
}

fn room(module: &Module) -> &str {
    module.first().map_or("lib", String::as_str)
}

/// What stands at the top itself ties the rooms together, and everybody may name it.
fn is_allowed(house: &House, from: &str, to: &str) -> bool {
    let is_room = |name: &str| house.rooms.iter().find(|(room, _)| *room == name);
    from == "lib"
        || from == "main"
        || to == "lib"
        || is_room(from).is_some_and(|(_, all)| all.contains(&to))
}

/// Every source file below `root`, by its module.
fn sources(root: &Path) -> BTreeMap<Module, PathBuf> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inside = path.strip_prefix(root).unwrap().with_extension("");
                let mut module: Module =
                    inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
                if module.last().is_some_and(|last| last == "mod") || module == ["lib"] {
                    module.pop();
                }
                found.insert(module, path);
            }
        }
    }
    found
}

/// The other modules that a file's paths lead to.
fn named(module: &Module, tokens: &[String], all: &BTreeMap<Module, PathBuf>) -> BTreeSet<Module> {
    let mut found = BTreeSet::new();
    for path in paths(tokens) {
        let mut at = if path[0] == "crate" { Vec::new() } else { module.clone() };
        let up = path.iter().take_while(|part| *part == "super").count();
        at.truncate(at.len().saturating_sub(up));
        for part in &path[up.max(1)..] {
            at.push(part.clone());
            if !all.contains_key(&at) {
                at.pop();
                break;
            }
        }
        if at != *module {
            found.insert(at);
        }
    }
    found
}

/// Each path that begins with `crate`, `self` or `super`, groups of a `use` taken apart.
fn paths(tokens: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let begins = matches!(token.as_str(), "crate" | "self" | "super");
        let goes_on = index > 0 && tokens[index - 1] == "::";
        if begins && !goes_on && tokens.get(index + 1).is_some_and(|next| next == "::") {
            path(tokens, index, Vec::new(), &mut found);
        }
    }
    found
}

/// One path from `index` on below `above`; where it ends.
fn path(
    tokens: &[String],
    mut index: usize,
    mut above: Vec<String>,
    found: &mut Vec<Vec<String>>,
) -> usize {
    let text = |index: usize| tokens.get(index).map_or("", String::as_str);
    while is_word(text(index)) {
        above.push(text(index).to_owned());
        index += 1;
        if text(index) != "::" {
            break;
        }
        index += 1;
    }
    if text(index) != "{" || text(index - 1) != "::" {
        found.push(above);
        return if text(index) == "as" { index + 2 } else { index };
    }
    index += 1;
    while !matches!(text(index), "}" | "") {
        index = match text(index) {
            "," => index + 1,
            _ => path(tokens, index, above.clone(), found).max(index + 1),
        };
    }
    index + 1
}

fn is_word(token: &str) -> bool {
    token.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
}

/// The words and signs of a source file, without comments, texts and what is there for tests alone.
fn tokens(source: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(length) = text_length(rest) {
            length
        } else if is_word(rest) {
            let end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
            rest.find(end).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(length);
        if !first.is_whitespace() && !token.starts_with("//") && text_length(token).is_none() {
            tokens.push(token.to_owned());
        }
        rest = after;
    }
    without_tests(tokens)
}

/// How long the literal of a text or character is that stands here.
fn text_length(source: &str) -> Option<usize> {
    let raw = source.trim_start_matches(['b', 'c']);
    let prefix = source.len() - raw.len();
    if prefix <= 1
        && let Some(hashes) = raw.strip_prefix('r')
    {
        let count = hashes.len() - hashes.trim_start_matches('#').len();
        if hashes[count..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(count));
            let length = hashes[count + 1..].find(&end)? + end.len();
            return Some(prefix + 1 + count + 1 + length);
        }
    }
    if prefix <= 1 && raw.starts_with('"') {
        let mut escaped = false;
        let end = raw[1..].find(|c| {
            let is_end = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            is_end
        })?;
        return Some(prefix + end + 2);
    }
    // 'a' and '\'', but no lifetime.
    let inside = source.strip_prefix('\'')?;
    let end = if inside.starts_with('\\') { 2 } else { inside.chars().next()?.len_utf8() };
    let close = inside.get(end..)?.find('\'')?;
    (close == 0 || inside.starts_with('\\')).then_some(1 + end + close + 1)
}

/// Takes what follows `#[cfg(test)]` out: an item up to its `;`, or up to the end of its braces.
fn without_tests(tokens: Vec<String>) -> Vec<String> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        let is_mark = tokens[index..].len() > MARK.len()
            && MARK.iter().zip(&tokens[index..]).all(|(mark, token)| mark == token);
        if !is_mark {
            kept.push(tokens[index].clone());
            index += 1;
            continue;
        }
        index += MARK.len();
        let mut depth = 0;
        while index < tokens.len() {
            let token = tokens[index].as_str();
            index += 1;
            match token {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 && matches!(token, "}" | ";") {
                break;
            }
        }
    }
    kept
}

/// The circles between files, each by its files.
fn circles(edges: &BTreeMap<&Module, BTreeSet<Module>>) -> Vec<String> {
    let reach = |from: &Module| {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&Module> = vec![from];
        while let Some(module) = next.pop() {
            for to in edges.get(module).into_iter().flatten() {
                if seen.insert(to) {
                    next.push(to);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<&Module>> =
        edges.keys().map(|from| (*from, reach(from))).collect();
    let mut found = BTreeSet::new();
    for (from, all) in &reached {
        if all.contains(*from) {
            let circle: BTreeSet<String> = all
                .iter()
                .filter(|to| reached.get(**to).is_some_and(|back| back.contains(*from)))
                .map(|to| to.join("::"))
                .collect();
            found.insert(circle.into_iter().collect::<Vec<_>>().join(", "));
        }
    }
    found.into_iter().collect()
}

#[test]
fn what_is_read_of_a_source() {
    let source = r#"
        //! crate::comment
        use crate::{a::{b, c as d}, e};
        use super::f;
        fn g<'a>(h: &'a str) -> char { let _ = "crate::text \" crate::more"; crate::i(); '\'' }
        #[cfg(test)]
        mod tests { use crate::j; fn k() { { crate::l() } } }
        const M: char = '"'; use crate::n;
    "#;
    let found: Vec<String> = paths(&tokens(source)).iter().map(|path| path.join("::")).collect();
    let expected = ["crate::a::b", "crate::a::c", "crate::e", "super::f", "crate::i", "crate::n"];
    assert_eq!(found, expected);
}

#[test]
fn a_circle_is_found() {
    let module = |name: &str| vec![name.to_owned()];
    let (a, b, c) = (module("a"), module("b"), module("c"));
    let mut edges = BTreeMap::from([
        (&a, BTreeSet::from([b.clone()])),
        (&b, BTreeSet::from([c.clone()])),
        (&c, BTreeSet::new()),
    ]);
    assert!(circles(&edges).is_empty());
    edges.insert(&c, BTreeSet::from([a.clone()]));
    assert_eq!(circles(&edges), ["a, b, c"]);
}
