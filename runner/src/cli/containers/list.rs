//! `ps`.

use std::mem::discriminant;
use std::time::Duration;

use regex::Regex;
use serde_json::Value;
use shared::Digest;

use super::{network, status_within, view};
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
Filters: id, name (both are patterns), label, status, exited, ancestor, volume, network, before,
since.

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
    let store = globals.store()?;
    let filters = filters(arguments, &store)?;
    let last = match arguments.value("last") {
        Some(text) => Some(values::number("last", text, 0, i64::MAX)? as usize),
        None => arguments.has("latest").then_some(1),
    };
    let mut shown = all(globals, &store)?;
    shown.sort_by(|a, b| b.record.created.cmp(&a.record.created));
    // With Docker `before` and `since` count all containers too.
    let chosen = filters.iter().any(|filter| {
        matches!(
            filter,
            Filter::Status(_) | Filter::Exited(_) | Filter::Before(_) | Filter::Since(_)
        )
    });
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
    let mut rows: Vec<Value> = shown.iter().map(|one| row(globals, one, now, whole)).collect();
    let mut listing = listing();
    let format = arguments.value("format");
    if arguments.has("size") || format.is_some_and(|format| format.contains(".Size")) {
        for (row, one) in rows.iter_mut().zip(&shown) {
            row["Size"] = Value::from(size(&store, &one.record)?);
        }
        listing.shown.push("Size");
    }
    listing.print(&rows, format)?;
    Ok(0)
}

fn row(globals: &Globals, one: &Shown, now: Timestamp, whole: bool) -> Value {
    let ports = match one.status {
        Status::Running(_) | Status::Paused(_) => {
            network::ports_text(&one.record, &network::attached(globals, &one.record.id))
        }
        _ => String::new(),
    };
    view::row(&one.record, &one.status, ports, now, whole)
}

/// What a container has written, and with its image: `2B (virtual 1.24MB)`.
fn size(store: &Store, record: &Record) -> Result<String, Failure> {
    let Some(container) = store.open_container(&record.id)? else { return Ok("0B".to_owned()) };
    let (written, image) = sizes(store, &container, record);
    Ok(format!("{} (virtual {})", human_bytes(written), human_bytes(written.saturating_add(image))))
}

/// Bytes that a container has written, and those of its image's layers.
pub(super) fn sizes(store: &Store, container: &ContainerDir, record: &Record) -> (u64, u64) {
    (written_bytes(store, container), store.layers_bytes(&record.image.layers))
}

/// Every container, as `ps -as` shows it.
pub(crate) fn rows_with_sizes(globals: &Globals, store: &Store) -> Result<Vec<Value>, Failure> {
    let now = Timestamp::now();
    let row = |one: &Shown| {
        let mut row = row(globals, one, now, false);
        let container = store.open_container(&one.record.id)?;
        let written = container.as_ref().map_or(0, |one| written_bytes(store, one));
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

/// How long a list waits for one container that is just changing.
const PATIENCE: Duration = Duration::from_millis(100);

fn all(globals: &Globals, store: &Store) -> Result<Vec<Shown>, Failure> {
    let mut all = Vec::new();
    for container in store.containers()? {
        match container.record() {
            Ok(record) => {
                let status = status_within(globals, &container.id, PATIENCE)?;
                all.push(Shown { record, status });
            }
            // It went away meanwhile, or it is damaged: the others are still to be seen.
            Err(crate::images::StoreError::NoSuchContainer(_)) => {}
            Err(error) => crate::cli::tell(Failure::from(error)),
        }
    }
    Ok(all)
}

/// What a list can be narrowed to.
enum Filter {
    Id(Regex),
    Name(Regex),
    Label(String),
    Status(String),
    Exited(u8),
    /// The image of this name now, if there is one, or of an id that begins so.
    Ancestor(Option<Digest>, String),
    Volume(String),
    Network(String),
    /// Made before or after this moment, which is a container's.
    Before(String),
    Since(String),
}

/// Digits of an image's id below which it is rather a name.
const ID_LEAST: usize = 4;

const FILTERS: &str = "id, name, label, status, exited, ancestor, volume, network, before, since";

const STATES: [&str; 7] =
    ["created", "restarting", "running", "removing", "paused", "exited", "dead"];

impl Filter {
    fn parse(text: &str, store: &Store) -> Result<Self, Failure> {
        let wrong = |why: String| Failure::new(format!("--filter={text}: {why}"));
        let (name, value) =
            text.split_once('=').ok_or_else(|| wrong("it is NAME=VALUE".to_owned()))?;
        let pattern = || {
            let built = Regex::new(value);
            built.map_err(|error| wrong(format!("it is no pattern: {error}")).exits(1))
        };
        let created = || Ok::<_, Failure>(super::find(store, value)?.record()?.created);
        Ok(match name {
            "id" => Self::Id(pattern()?),
            "name" => Self::Name(pattern()?),
            "label" => Self::Label(value.to_owned()),
            "status" if STATES.contains(&value) => Self::Status(value.to_owned()),
            "status" => {
                return Err(wrong("there is no such status".to_owned())
                    .hint(format!("there is: {}", STATES.join(", ")))
                    .exits(1));
            }
            "exited" => Self::Exited(
                value.parse().map_err(|_| wrong("it takes an exit status".to_owned()).exits(1))?,
            ),
            "ancestor" => {
                let id = value.strip_prefix("sha256:").unwrap_or(value).to_owned();
                Self::Ancestor(store.find_image(value)?.map(|image| image.config), id)
            }
            "volume" => Self::Volume(value.to_owned()),
            "network" => Self::Network(value.to_owned()),
            "before" => Self::Before(created()?),
            "since" => Self::Since(created()?),
            _ => {
                return Err(wrong(format!("there is no filter {name}"))
                    .hint(format!("there is: {FILTERS}"))
                    .exits(1));
            }
        })
    }

    fn matches(&self, one: &Shown) -> bool {
        let record = &one.record;
        match self {
            Self::Id(pattern) => pattern.is_match(&record.id),
            Self::Name(pattern) => has_name(pattern, &record.name),
            Self::Label(wanted) => has_label(record, wanted),
            Self::Status(wanted) => view::state_word(&one.status) == wanted,
            Self::Exited(wanted) => match &one.status {
                Status::Exited(ended) => ended.exit.status() == *wanted,
                _ => false,
            },
            Self::Ancestor(wanted, id) => {
                let config = &record.image.config;
                wanted.as_ref() == Some(config)
                    || (id.len() >= ID_LEAST && config.hex().starts_with(id))
            }
            Self::Volume(wanted) => {
                record.volumes.iter().any(|volume| volume.name == *wanted)
                    || record.spec.mounts().iter().flatten().any(|mount| {
                        mount.destination().to_str() == Some(wanted)
                            || mount.source().as_ref().and_then(|path| path.to_str())
                                == Some(wanted)
                    })
            }
            Self::Network(wanted) => view::network_names(&record.network).contains(wanted),
            Self::Before(moment) => record.created < *moment,
            Self::Since(moment) => record.created > *moment,
        }
    }
}

fn filters(arguments: &Arguments, store: &Store) -> Result<Vec<Filter>, Failure> {
    arguments.values("filter").map(|text| Filter::parse(text, store)).collect()
}

/// Several values of one filter are alternatives, but all labels have to be there.
fn matches(one: &Shown, filters: &[Filter]) -> bool {
    filters.iter().all(|filter| match filter {
        Filter::Label(_) => filter.matches(one),
        _ => filters
            .iter()
            .filter(|other| discriminant(*other) == discriminant(filter))
            .any(|other| other.matches(one)),
    })
}

/// Docker's names begin with a slash where it keeps them, and people write both.
fn has_name(pattern: &Regex, name: &str) -> bool {
    pattern.is_match(name) || pattern.is_match(&format!("/{name}"))
}

fn has_label(record: &Record, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((name, value)) => record.labels.get(name).is_some_and(|known| known == value),
        None => record.labels.contains_key(wanted),
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
            ("^/web$", true),
            ("we$", false),
            ("w.b", true),
            ("^(db|web)$", true),
            ("", true),
        ] {
            let pattern = Regex::new(pattern).unwrap();
            assert_eq!(has_name(&pattern, "web"), want, "{pattern}");
        }
    }
}
