//! `ps`.

use serde_json::Value;

use super::{status, view};
use crate::cli::flags::{Arguments, Flag, FlagsEnd};
use crate::cli::listing::Listing;
use crate::cli::{Globals, Verb, print_line, values};
use crate::container::Record;
use crate::failure::Failure;
use crate::images::{ContainerDir, Store, written_bytes};
use crate::launch::state::Status;
use crate::pull::human_bytes;
use crate::timestamp::Timestamp;

pub(super) const VERBS: &[Verb] = &[Verb {
    names: &["ps", "container ls", "container list", "container ps"],
    operands: "",
    operands_min: 0,
    operands_max: 0,
    about: "List containers",
    details: "\
Filters: id, name, label, status, exited, ancestor, volume, network.

  rrun ps -a --filter status=exited -q
  rrun ps --format '{{.Names}}: {{.Status}}'",
    flags: &[
        Flag::switch("all", "those that do not run too").short('a'),
        Flag::switch("quiet", "ids only").short('q'),
        Flag::switch("no-trunc", "nothing shortened"),
        Flag::many("filter", "NAME=VALUE", "only those").short('f'),
        Flag::one("format", "table|json|TEMPLATE", "how they are shown"),
        Flag::one("last", "NUMBER", "the last ones created, whatever their state").short('n'),
        Flag::switch("latest", "the last one created").short('l'),
        Flag::switch("size", "how much each has written, and with its image").short('s'),
    ],
    flags_end: FlagsEnd::AtDashes,
    run: ps,
}];

/// A container with what is known of its life.
struct Shown {
    record: Record,
    status: Status,
}

fn ps(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let filters = filters(arguments)?;
    let last = match arguments.value("last") {
        Some(text) => Some(values::number("last", text, 0, i64::MAX)? as usize),
        None => arguments.has("latest").then_some(1),
    };
    let mut shown = all(globals, &globals.store()?)?;
    shown.sort_by(|a, b| b.record.created.cmp(&a.record.created));
    let chosen = filters.iter().any(|(name, _)| name == "status" || name == "exited");
    if !arguments.has("all") && last.is_none() && !chosen {
        shown.retain(|one| matches!(one.status, Status::Running(_) | Status::Paused(_)));
    }
    shown.retain(|one| matches(one, &filters));
    shown.truncate(last.unwrap_or(usize::MAX));
    let now = Timestamp::now();
    let whole = arguments.has("no-trunc");
    if arguments.has("quiet") && !arguments.given("format") {
        for one in &shown {
            print_line(if whole { &one.record.id } else { &one.record.id[..12] })?;
        }
        return Ok(0);
    }
    let mut rows: Vec<Value> =
        shown.iter().map(|one| view::row(&one.record, &one.status, now, whole)).collect();
    let mut listing = listing();
    let format = arguments.value("format");
    if arguments.has("size") || format.is_some_and(|format| format.contains(".Size")) {
        let store = globals.store()?;
        for (row, one) in rows.iter_mut().zip(&shown) {
            row["Size"] = Value::from(size(&store, &one.record)?);
        }
        listing.shown.push("Size");
    }
    listing.print(&rows, format)?;
    Ok(0)
}

/// What a container has written, and with its image: `2B (virtual 1.24MB)`.
fn size(store: &Store, record: &Record) -> Result<String, Failure> {
    let Some(container) = store.open_container(&record.id)? else { return Ok("0B".to_owned()) };
    let (written, image) = sizes(store, &container, record);
    Ok(format!("{} (virtual {})", human_bytes(written), human_bytes(written + image)))
}

/// Bytes that a container has written, and those of its image's layers.
pub(super) fn sizes(store: &Store, container: &ContainerDir, record: &Record) -> (u64, u64) {
    (written_bytes(container), store.layers_bytes(&record.image.layers))
}

/// Every container, as `ps -as` shows it.
pub(crate) fn rows_with_sizes(globals: &Globals, store: &Store) -> Result<Vec<Value>, Failure> {
    let now = Timestamp::now();
    let row = |one: &Shown| {
        let mut row = view::row(&one.record, &one.status, now, false);
        let container = store.open_container(&one.record.id)?;
        let written = container.as_ref().map_or(0, written_bytes);
        row["Size"] = Value::from(human_bytes(written));
        Ok(row)
    };
    all(globals, store)?.iter().map(row).collect()
}

fn listing() -> Listing {
    Listing {
        fields: &[
            ("ID", "CONTAINER ID"),
            ("Image", "IMAGE"),
            ("Command", "COMMAND"),
            ("RunningFor", "CREATED"),
            ("CreatedAt", "CREATED AT"),
            ("Status", "STATUS"),
            ("State", "STATE"),
            ("Ports", "PORTS"),
            ("Names", "NAMES"),
            ("Labels", "LABELS"),
            ("Mounts", "MOUNTS"),
            ("Networks", "NETWORKS"),
            ("LocalVolumes", "LOCAL VOLUMES"),
            ("Size", "SIZE"),
        ],
        shown: vec!["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"],
    }
}

fn all(globals: &Globals, store: &Store) -> Result<Vec<Shown>, Failure> {
    let mut all = Vec::new();
    for container in store.containers()? {
        match container.record() {
            Ok(record) => {
                let status = status(globals, &container.id)?;
                all.push(Shown { record, status });
            }
            // It went away meanwhile, or it is damaged: the others are still to be seen.
            Err(crate::images::StoreError::NoSuchContainer(_)) => {}
            Err(error) => eprintln!("{}", Failure::from(error)),
        }
    }
    Ok(all)
}

/// Fields that can be filtered by.
const FILTERS: [&str; 8] =
    ["id", "name", "label", "status", "exited", "ancestor", "volume", "network"];

fn filters(arguments: &Arguments) -> Result<Vec<(String, String)>, Failure> {
    let one = |text: &str| match text.split_once('=') {
        Some((name, value)) if FILTERS.contains(&name) => Ok((name.to_owned(), value.to_owned())),
        Some((name, _)) => Err(Failure::new(format!("--filter={text}: there is no filter {name}"))
            .hint(format!("there is: {}", FILTERS.join(", ")))),
        None => Err(Failure::new(format!("--filter={text}: it is NAME=VALUE"))),
    };
    arguments.values("filter").map(one).collect()
}

/// Several values of one filter are alternatives, but all labels have to be there.
fn matches(one: &Shown, filters: &[(String, String)]) -> bool {
    FILTERS.iter().all(|name| {
        let mut values =
            filters.iter().filter(|(known, _)| known == name).map(|(_, v)| v).peekable();
        if values.peek().is_none() {
            return true;
        }
        if *name == "label" {
            return values.all(|value| has_label(&one.record, value));
        }
        values.any(|value| matches_one(one, name, value))
    })
}

fn has_label(record: &Record, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((name, value)) => record.labels.get(name).is_some_and(|known| known == value),
        None => record.labels.contains_key(wanted),
    }
}

fn matches_one(one: &Shown, name: &str, value: &str) -> bool {
    let record = &one.record;
    match name {
        "id" => record.id.starts_with(value),
        "name" => name_matches(&record.name, value),
        "status" => view::state_word(&one.status) == value,
        "exited" => match &one.status {
            Status::Exited(ended) => ended.exit.status().to_string() == value,
            _ => false,
        },
        "ancestor" => {
            let image = &record.image;
            let bare = value.strip_prefix("sha256:").unwrap_or(value);
            let named = value.parse::<shared::ImageRef>().map(|name| name.to_string());
            named.is_ok_and(|name| name == image.reference)
                || (bare.len() >= 4 && image.config.hex().starts_with(bare))
        }
        "volume" => {
            record.volumes.iter().any(|volume| volume.name == value)
                || record.spec.mounts().iter().flatten().any(|mount| {
                    mount.destination().to_str() == Some(value)
                        || mount.source().as_ref().and_then(|path| path.to_str()) == Some(value)
                })
        }
        "network" => view::network_word(&record.network) == value,
        _ => false,
    }
}

/// A part of the name; `^` and `$` hold it to an end. Docker takes any regular expression, and
/// people write these two.
fn name_matches(name: &str, pattern: &str) -> bool {
    let pattern = pattern.strip_prefix('/').unwrap_or(pattern);
    let (from_start, pattern) = match pattern.strip_prefix('^') {
        Some(rest) => (true, rest.strip_prefix('/').unwrap_or(rest)),
        None => (false, pattern),
    };
    match (from_start, pattern.strip_suffix('$')) {
        (true, Some(pattern)) => name == pattern,
        (false, Some(pattern)) => name.ends_with(pattern),
        (true, None) => name.starts_with(pattern),
        (false, None) => name.contains(pattern),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_pattern() {
        for (pattern, want) in [
            ("eb", true),
            ("^web$", true),
            ("^eb", false),
            ("/web", true),
            ("we$", false),
            ("", true),
        ] {
            assert_eq!(name_matches("web", pattern), want, "{pattern}");
        }
    }
}
