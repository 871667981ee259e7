//! The page of differences: written from what was seen, and compared.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Result, ensure};
use conformance::workspace;

use super::reasons::REASONS;
use super::{Difference, Seen, oracle_version};

const PATH: &str = "docs/from-distribution.md";
const MARK: &str = "<!-- what follows is written by the test -->\n";

/// Set to write the page anew instead of failing over what it says.
const WRITE: &str = "ROADSTEAD_WRITE_DOCS";

/// The first reason that is meant for a row: `*` stands for any text.
fn reason(name: &str) -> Option<usize> {
    REASONS.iter().position(|(pattern, _)| matches(pattern, name))
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, rest)) => name.strip_prefix(before).is_some_and(|name| {
            (0..=name.len())
                .filter(|at| name.is_char_boundary(*at))
                .any(|at| matches(rest, &name[at..]))
        }),
    }
}

/// A row's name as what it is about and what of it: `POST /v2/` is of the route, `gc.pace: x (file)`
/// of the key.
fn split(name: &str) -> (&str, &str) {
    if let Some((method, route)) = name.split_once(' ')
        && !route.contains(' ')
        && route.starts_with(['/', 'U'])
        && method.bytes().all(|byte| byte.is_ascii_uppercase())
    {
        return (route, method);
    }
    let key = name.strip_suffix(" (file)").or(name.strip_suffix(" (variable)"));
    key.and_then(|key| key.split_once(": ")).unwrap_or((name, ""))
}

pub(crate) fn verdict(sections: &[(&str, Seen)]) -> Result<()> {
    let mut used = BTreeSet::new();
    let mut unexplained = Vec::new();
    let (mut asked, mut differing) = (0, 0);
    let mut page = String::from(MARK);
    for (title, seen) in sections {
        asked += seen.asked;
        differing += seen.differences.len();
        page += &format!("\n## {title}\n\n");
        page += &format!("{} asked, {} differ.\n\n", seen.asked, seen.differences.len());
        // What is answered alike under one key, or by one route, is one row.
        let mut rows: Vec<(&str, Vec<&str>, &Difference, usize)> = Vec::new();
        for difference in &seen.differences {
            let Some(why) = reason(&difference.name) else {
                unexplained.push(difference);
                continue;
            };
            used.insert(why);
            let (group, item) = split(&difference.name);
            let like = rows.iter_mut().find(|(of, _, first, reason)| {
                (*of, *reason, &first.theirs, &first.ours)
                    == (group, why, &difference.theirs, &difference.ours)
            });
            match like {
                Some((_, items, ..)) if items.contains(&item) => {}
                Some((_, items, ..)) => items.push(item),
                None => rows.push((group, vec![item], difference, why)),
            }
        }
        if !rows.is_empty() {
            page += "| | distribution | here | why |\n|---|---|---|---|\n";
        }
        for (group, items, difference, why) in rows {
            let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
            let (theirs, ours) = (cell(&difference.theirs), cell(&difference.ours));
            let items = cell(&items.join(" ⋅ "));
            let name = if items.is_empty() { String::new() } else { format!(" {items}") };
            let why = REASONS[why].1;
            page += &format!("| `{}`{name} | {theirs} | {ours} | {why} |\n", cell(group));
        }
    }
    println!("{asked} asked, {differing} differ, {} reasons", REASONS.len());
    let stale: Vec<_> = REASONS
        .iter()
        .enumerate()
        .filter(|(number, _)| !used.contains(number))
        .map(|(_, (pattern, _))| pattern)
        .collect();
    for difference in &unexplained {
        let Difference { name, theirs, ours } = difference;
        println!("unexplained: {name}\n  theirs {theirs}\n  ours   {ours}");
    }
    ensure!(unexplained.is_empty(), "{} differences without a reason", unexplained.len());
    ensure!(stale.is_empty(), "reasons for what is no difference: {stale:?}");
    let path = workspace().join(PATH);
    let text = fs::read_to_string(&path)?;
    let (head, tail) = text.split_once(MARK).unwrap_or((&text, ""));
    let version = oracle_version()?;
    ensure!(head.contains(&version), "{PATH} was not written against docker-registry {version}");
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, format!("{head}{page}"))?;
        return Ok(());
    }
    let old: BTreeSet<_> = tail.lines().collect();
    let new: BTreeSet<_> = page[MARK.len()..].lines().collect();
    let gone: Vec<_> = old.difference(&new).collect();
    let come: Vec<_> = new.difference(&old).collect();
    ensure!(
        gone.is_empty() && come.is_empty() && tail == &page[MARK.len()..],
        "{PATH} is stale ({WRITE}=1 writes it anew): gone {gone:#?}, new {come:#?}"
    );
    Ok(())
}

#[test]
fn patterns() {
    assert!(matches("a*c", "abc") && matches("*", "") && matches("*b*", "abc"));
    assert!(!matches("a*c", "abd") && !matches("a", "ab"));
}
