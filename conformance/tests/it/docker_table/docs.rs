//! The differences that the documentation owns up to.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};

pub(crate) const PATH: &str = "docs/from-docker.md";

/// Names in the first column of the table under a heading; each row says what Docker does, what
/// rrun does, and why.
pub(crate) fn listed(heading: &str) -> Result<BTreeSet<String>> {
    let text = fs::read_to_string(conformance::workspace().join(PATH)).context(PATH)?;
    let (_, section) =
        text.split_once(heading).with_context(|| format!("{PATH} has no {heading:?}"))?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut names = BTreeSet::new();
    for row in section.lines().filter_map(|l| l.strip_prefix("| `")) {
        let cells: Vec<&str> = row.trim_end_matches('|').split(" | ").map(str::trim).collect();
        ensure!(
            cells.len() == 4 && cells.iter().all(|c| !c.is_empty()),
            "a row without reasons: {row}"
        );
        names.insert(cells[0].trim_end_matches('`').to_owned());
    }
    Ok(names)
}

/// The differences that were found must be those that are listed, no more and no fewer.
pub(crate) fn verdict(found: &BTreeSet<String>, listed: &BTreeSet<String>) -> Result<()> {
    let unlisted: Vec<_> = found.difference(listed).collect();
    let gone: Vec<_> = listed.difference(found).collect();
    ensure!(
        unlisted.is_empty() && gone.is_empty(),
        "differences that {PATH} does not list: {unlisted:?}; listed there, but none: {gone:?}"
    );
    Ok(())
}
