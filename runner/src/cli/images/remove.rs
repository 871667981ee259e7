//! `rrun rmi`, `rrun image prune`

use super::describe::Described;
use crate::cli::flags::{Arguments, Flag, FlagsEnd};
use crate::cli::{Globals, Verb, print};
use crate::failure::Failure;
use crate::images::{Removed, StoreError};
use crate::pull::human_bytes;
use crate::timestamp::Timestamp;

pub(crate) const RMI: Verb = Verb {
    names: &["rmi", "image rm", "image remove"],
    operands: "IMAGE [IMAGE…]",
    operands_min: 1,
    operands_max: usize::MAX,
    about: "Remove images",
    details: "",
    flags: &[
        Flag::switch("force", "also one that containers were made of, or that has many names")
            .short('f'),
        Flag::switch("no-prune", ""),
    ],
    flags_end: FlagsEnd::AtDashes,
    run: rmi,
};

pub(crate) const PRUNE: Verb = Verb {
    names: &["image prune"],
    operands: "",
    operands_min: 0,
    operands_max: 0,
    about: "Remove images that nobody uses",
    details: "Without --all only those that no tag names any more.\n\
              Filters: until=DURATION|TIME, label=KEY[=VALUE], label!=KEY[=VALUE].",
    flags: &[
        Flag::switch("all", "every image that no container was made of").short('a'),
        Flag::switch("force", "do not ask").short('f'),
        Flag::many("filter", "KEY=VALUE", "only these"),
    ],
    flags_end: FlagsEnd::AtDashes,
    run: prune,
};

fn rmi(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let store = globals.store()?;
    let mut failed = None;
    for text in &arguments.operands {
        match store.remove_image(text, arguments.has("force")) {
            Ok(removed) => {
                print(&lines(&removed, "Untagged", "Deleted"))?;
                tell_of_kept(removed);
            }
            // Under --force what is not there is as good as removed, but still said.
            Err(StoreError::NoSuchImage(_)) if arguments.has("force") => {
                crate::cli::tell(format!("rrun: no such image: {text}"));
            }
            Err(error) => {
                if let Some(earlier) = failed.replace(Failure::from(error)) {
                    crate::cli::tell(&earlier);
                }
            }
        }
    }
    match failed {
        // Docker's code for a command that failed in part or whole, but was understood.
        Some(failure) => Err(failure.exits(1)),
        None => Ok(0),
    }
}

/// Says why space is not given back, and what to do about it.
fn tell_of_kept(removed: Removed) {
    if let Some(error) = removed.kept_for {
        crate::cli::tell("rrun: no content is removed while a record cannot be read:");
        crate::cli::tell(Failure::from(error));
    }
}

fn lines(removed: &Removed, untagged: &str, deleted: &str) -> String {
    let untagged = removed.untagged.iter().map(|name| format!("{untagged}: {name}\n"));
    let deleted = removed.deleted.iter().map(|id| format!("{deleted}: {id}\n"));
    untagged.chain(deleted).collect()
}

fn prune(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let all = arguments.has("all");
    let filters = arguments.values("filter").map(Filter::parse).collect::<Result<Vec<_>, _>>()?;
    if !arguments.has("force") && !agreed(all)? {
        return Ok(0);
    }
    let store = globals.store()?;
    let removed = store.prune_images(all, |image| {
        filters.is_empty()
            || Described::read(&store, image.clone())
                .is_ok_and(|described| filters.iter().all(|filter| filter.admits(&described)))
    })?;
    let mut text = String::new();
    if !removed.untagged.is_empty() || !removed.deleted.is_empty() {
        text = format!("Deleted Images:\n{}\n", lines(&removed, "untagged", "deleted"));
    }
    text.push_str(&format!("Total reclaimed space: {}\n", human_bytes(removed.bytes)));
    print(&text)?;
    tell_of_kept(removed);
    Ok(0)
}

fn agreed(all: bool) -> Result<bool, Failure> {
    let which = if all {
        "all images without at least one container associated to them"
    } else {
        "all dangling images"
    };
    crate::cli::confirm(&format!("This will remove {which}."))
}

enum Filter {
    Until(Timestamp),
    Label { text: String, wanted: bool },
}

impl Filter {
    fn parse(text: &str) -> Result<Self, Failure> {
        if let Some(label) = text.strip_prefix("label!=") {
            return Ok(Self::Label { text: label.to_owned(), wanted: false });
        }
        match text.split_once('=') {
            Some(("label", label)) => Ok(Self::Label { text: label.to_owned(), wanted: true }),
            Some(("until", time)) => until(time).map(Self::Until).ok_or_else(|| {
                Failure::new(format!("--filter {text}: 24h, or 2026-11-24T08:00:00Z"))
            }),
            _ => Err(Failure::new(format!("--filter {text}: there is no such filter"))
                .hint("there is: until, label")),
        }
    }

    fn admits(&self, image: &Described) -> bool {
        match self {
            Self::Until(time) => image.created() < *time,
            Self::Label { text, wanted } => image.has_label(text) == *wanted,
        }
    }
}

/// A point in time, or how long ago (`1h30m`), as Go writes durations.
fn until(text: &str) -> Option<Timestamp> {
    if let Some(time) = Timestamp::parse(text) {
        return Some(time);
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return Some(Timestamp { seconds, nanoseconds: 0 });
    }
    let (mut rest, mut ago) = (text, 0i64);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest[..end].parse().ok()?;
        let unit = match rest.as_bytes()[end] {
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        ago = ago.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[end + 1..];
    }
    let now = Timestamp::now();
    Some(Timestamp { seconds: now.seconds - ago, ..now })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let now = Timestamp::now().seconds;
        let ago = |text| now - until(text).unwrap().seconds;
        assert!((5399..=5401).contains(&ago("1h30m")));
        assert!((86_399..=86_401).contains(&ago("24h")));
        assert_eq!(until("2026-01-01T00:00:00Z").unwrap().seconds, 1_767_225_600);
        for text in ["x", "1", "1d", "h", "1h2"] {
            assert!(text == "1" || until(text).is_none(), "{text}");
        }
    }
}
