//! `rrun images`

use std::collections::HashSet;

use serde_json::{Value, json};

use super::describe::Described;
use crate::cli::flags::{Arguments, Flag, FlagsEnd};
use crate::cli::listing::{Column, Listing};
use crate::cli::{Globals, Verb, print};
use crate::failure::Failure;
use crate::images::familiar_name;
use crate::pull::human_bytes;
use crate::timestamp::Timestamp;

pub(crate) const IMAGES: Verb = Verb {
    names: &["images", "image ls", "image list"],
    operands: "[REPOSITORY[:TAG]]",
    operands_min: 0,
    operands_max: 1,
    about: "List images",
    details: "Filters: dangling=true|false, label=KEY[=VALUE], before=IMAGE, since=IMAGE, reference=PATTERN.",
    flags: &[
        Flag::switch("all", "").short('a'),
        Flag::switch("digests", "show digests"),
        Flag::many("filter", "KEY=VALUE", "show only these").short('f'),
        Flag::one("format", "table|json|TEMPLATE", "how to show them (a Go template)"),
        Flag::switch("no-trunc", "do not shorten ids"),
        Flag::switch("quiet", "print ids only").short('q'),
    ],
    flags_end: FlagsEnd::AtDashes,
    run,
};

const FIELDS: &[Column] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("VirtualSize", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];

fn run(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let store = globals.store()?;
    let mut images = rows(Described::all(&store)?);
    for filter in arguments.values("filter") {
        // As with Docker, whose engine refuses a filter, not its command line.
        let filter = Filter::parse(filter, &images).map_err(|failure| failure.exits(1))?;
        filter.apply(&mut images);
    }
    if let Some(pattern) = arguments.operands.first() {
        images.retain(|image| matches_reference(pattern, image));
    }
    let full = arguments.has("no-trunc");
    if arguments.has("quiet") {
        let mut seen = HashSet::new();
        let ids = images.iter().map(|image| id(image, full)).filter(|id| seen.insert(id.clone()));
        return print(&ids.map(|id| id + "\n").collect::<String>()).map(|()| 0);
    }
    let now = Timestamp::now();
    let rows: Vec<Value> = images.iter().map(|image| row(image, full, now)).collect();
    let mut shown = vec!["Repository", "Tag", "ID", "CreatedSince", "Size"];
    if arguments.has("digests") {
        shown.insert(2, "Digest");
    }
    Listing { fields: FIELDS, shown }.print(&rows, arguments.value("format")).map(|()| 0)
}

/// The newest first; a name by digest only where no tag says the same.
pub(super) fn rows(mut images: Vec<Described>) -> Vec<Described> {
    let tagged: HashSet<String> = images
        .iter()
        .filter(|image| image.tag().is_some())
        .map(|image| format!("{} {}", image.repository(), image.image.config))
        .collect();
    images.retain(|image| {
        image.tag().is_some()
            || !tagged.contains(&format!("{} {}", image.repository(), image.image.config))
    });
    images.sort_by_key(|image| std::cmp::Reverse(image.created()));
    images
}

fn id(image: &Described, full: bool) -> String {
    if full { image.image.config.to_string() } else { image.image.config.short() }
}

fn row(image: &Described, full: bool, now: Timestamp) -> Value {
    json!({
        "Repository": image.repository(),
        "Tag": image.tag().unwrap_or("<none>"),
        "Digest": image.image.digest.to_string(),
        "ID": id(image, full),
        "CreatedSince": image.created_since(now),
        "CreatedAt": image.created().to_readable(),
        "Size": human_bytes(image.image.size),
        "VirtualSize": human_bytes(image.image.size),
        "Containers": "N/A",
        "SharedSize": "N/A",
        "UniqueSize": "N/A",
    })
}

enum Filter {
    Dangling(bool),
    Label(String),
    Before(Timestamp),
    Since(Timestamp),
    Reference(String),
}

impl Filter {
    fn parse(text: &str, images: &[Described]) -> Result<Self, Failure> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| Failure::new(format!("--filter {text}: it has the form KEY=VALUE")))?;
        let created = || {
            let found = images.iter().find(|image| {
                familiar_name(&image.image.reference) == value
                    || image.image.reference == value
                    || (value.len() >= 3 && image.image.config.hex().starts_with(value))
                    || format!("{}:latest", image.repository()) == format!("{value}:latest")
            });
            found
                .map(Described::created)
                .ok_or_else(|| Failure::new(format!("--filter {text}: no such image: {value}")))
        };
        Ok(match key {
            "dangling" => match value {
                "true" | "1" => Self::Dangling(true),
                "false" | "0" => Self::Dangling(false),
                _ => return Err(Failure::new(format!("--filter {text}: true or false"))),
            },
            "label" => Self::Label(value.to_owned()),
            "before" => Self::Before(created()?),
            "since" => Self::Since(created()?),
            "reference" => Self::Reference(value.to_owned()),
            _ => {
                return Err(Failure::new(format!("--filter {text}: there is no filter {key}"))
                    .hint("there is: dangling, label, before, since, reference"));
            }
        })
    }

    fn apply(&self, images: &mut Vec<Described>) {
        images.retain(|image| match self {
            Self::Dangling(wanted) => image.tag().is_none() == *wanted,
            Self::Label(label) => image.has_label(label),
            Self::Before(time) => image.created() < *time,
            Self::Since(time) => image.created() > *time,
            Self::Reference(pattern) => matches_reference(pattern, image),
        });
    }
}

/// The pattern matches the repository, or repository and tag; of the complete or the familiar name.
fn matches_reference(pattern: &str, image: &Described) -> bool {
    let full = image.image.reference.as_str();
    [full, familiar_name(full)]
        .iter()
        .any(|name| glob(pattern, name) || glob(pattern, crate::images::repository_of(name)))
}

/// `*` and `?` as Go's `path.Match`: neither goes past a slash.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    // reached[j]: the pattern so far matches the first j letters.
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for wanted in pattern {
        let before = reached.clone();
        for at in 0..=text.len() {
            reached[at] = match wanted {
                '*' => before[at] || (at > 0 && reached[at - 1] && text[at - 1] != '/'),
                _ if at == 0 => false,
                '?' => before[at - 1] && text[at - 1] != '/',
                letter => before[at - 1] && text[at - 1] == letter,
            };
        }
    }
    reached[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, text, want) in [
            ("app", "app", true),
            ("app", "apps", false),
            ("a*", "app", true),
            ("*", "a/b", false),
            ("*/b", "a/b", true),
            ("a?p", "app", true),
            ("localhost:5000/*:1*", "localhost:5000/app:1.2", true),
            ("", "", true),
        ] {
            assert_eq!(glob(pattern, text), want, "{pattern} {text}");
        }
    }
}
