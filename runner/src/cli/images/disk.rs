//! `rrun system df`

use std::collections::{HashMap, HashSet};
use std::fs;

use serde_json::{Value, json};

use super::describe::Described;
use crate::cli::containers::rows_with_sizes;
use crate::cli::flags::{Arguments, Flag, FlagsEnd};
use crate::cli::listing::{Column, Listing};
use crate::cli::{Globals, Verb, print_line};
use crate::failure::Failure;
use crate::images::{Store, Usage, volume_bytes, written_bytes};
use crate::pull::human_bytes;
use crate::timestamp::Timestamp;

pub(crate) const DF: Verb = Verb {
    names: &["system df"],
    operands: "",
    operands_min: 0,
    operands_max: 0,
    about: "Show how much room things take",
    details: "",
    flags: &[
        Flag::one("format", "table|json|TEMPLATE", "how to show it (a Go template)"),
        Flag::switch("verbose", "each image, container and volume").short('v'),
    ],
    flags_end: FlagsEnd::AtDashes,
    run,
};

const FIELDS: &[Column] = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];

fn run(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let store = Store::open(&globals.dirs.root)?;
    if arguments.has("verbose") {
        return each(globals, &store, arguments.value("format"));
    }
    let rows = [
        row("Images", store.image_usage()?),
        row("Containers", containers(globals, &store)?),
        row("Local Volumes", volumes(&store)?),
        row("Build Cache", Usage::default()),
    ];
    let shown = FIELDS.iter().map(|(name, _)| *name).collect();
    Listing { fields: FIELDS, shown }.print(&rows, arguments.value("format")).map(|()| 0)
}

/// `-v`
fn each(globals: &Globals, store: &Store, format: Option<&str>) -> Result<u8, Failure> {
    let images = each_image(store)?;
    let containers = rows_with_sizes(globals, store)?;
    let volumes = each_volume(store)?;
    match format {
        None | Some("" | "table") => {}
        Some("json") => {
            let all = json!({
                "Images": images, "Containers": containers, "Volumes": volumes, "BuildCache": [],
            });
            return print_line(&all.to_string()).map(|()| 0);
        }
        Some(_) => {
            return Err(Failure::new("system df: --verbose takes --format table or json"));
        }
    }
    let section = |heading: &str, fields: &'static [Column], rows: &[Value]| {
        print_line(&format!("{heading}:\n"))?;
        let shown = fields.iter().map(|(name, _)| *name).collect();
        Listing { fields, shown }.print(rows, None)?;
        print_line("")
    };
    section("Images space usage", IMAGE_FIELDS, &images)?;
    section("Containers space usage", CONTAINER_FIELDS, &containers)?;
    section("Local Volumes space usage", VOLUME_FIELDS, &volumes)?;
    print_line("Build cache usage: 0B").map(|()| 0)
}

const IMAGE_FIELDS: &[Column] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("Containers", "CONTAINERS"),
];

const CONTAINER_FIELDS: &[Column] = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Size", "SIZE"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Names", "NAMES"),
];

const VOLUME_FIELDS: &[Column] = &[("Name", "VOLUME NAME"), ("Links", "LINKS"), ("Size", "SIZE")];

fn each_image(store: &Store) -> Result<Vec<Value>, Failure> {
    let described = Described::all(store)?;
    let images: Vec<_> = described.iter().map(|one| one.image.clone()).collect();
    let sizes = store.image_sizes(&images);
    let mut users: HashMap<_, usize> = HashMap::new();
    for container in store.containers()? {
        if let Ok(record) = container.record() {
            *users.entry(record.image.config).or_default() += 1;
        }
    }
    let now = Timestamp::now();
    let row = |one: &Described| {
        let size = sizes.get(&one.image.config).copied().unwrap_or_default();
        json!({
            "Repository": one.repository(),
            "Tag": one.tag().unwrap_or("<none>"),
            "ID": one.image.config.short(),
            "CreatedSince": one.created_since(now),
            "Size": human_bytes(size.shared + size.unique),
            "SharedSize": human_bytes(size.shared),
            "UniqueSize": human_bytes(size.unique),
            "Containers": users.get(&one.image.config).copied().unwrap_or(0).to_string(),
        })
    };
    Ok(super::list::rows(described).iter().map(row).collect())
}

fn each_volume(store: &Store) -> Result<Vec<Value>, Failure> {
    let mut links: HashMap<String, usize> = HashMap::new();
    for container in store.containers()? {
        let volumes = container.record().map(|record| record.volumes).unwrap_or_default();
        let names: HashSet<String> = volumes.into_iter().map(|volume| volume.name).collect();
        for name in names {
            *links.entry(name).or_default() += 1;
        }
    }
    let mut rows = Vec::new();
    for entry in fs::read_dir(store.volumes()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        rows.push(json!({
            "Name": name,
            "Links": links.get(&name).copied().unwrap_or(0).to_string(),
            "Size": human_bytes(volume_bytes(store, &name)),
        }));
    }
    rows.sort_by_key(|row| row["Name"].to_string());
    Ok(rows)
}

fn row(kind: &str, usage: Usage) -> Value {
    let percent = usage.reclaimable.saturating_mul(100).checked_div(usage.bytes).unwrap_or(0);
    let reclaimable = if kind == "Build Cache" || usage.total == 0 {
        human_bytes(usage.reclaimable)
    } else {
        format!("{} ({percent}%)", human_bytes(usage.reclaimable))
    };
    json!({
        "Type": kind,
        "TotalCount": usage.total.to_string(),
        "Active": usage.active.to_string(),
        "Size": human_bytes(usage.bytes),
        "Reclaimable": reclaimable,
    })
}

/// Containers with what they have written; those without a directory of this boot do not run.
fn containers(globals: &Globals, store: &Store) -> Result<Usage, Failure> {
    let mut usage = Usage::default();
    for container in store.containers()? {
        let bytes = written_bytes(store, &container);
        let running = globals.dirs.runroot.join("c").join(&container.id).exists()
            && !container.path().join("exit.json").exists();
        usage.add(bytes, running);
    }
    Ok(usage)
}

/// Volumes; active are those that a container's record names.
fn volumes(store: &Store) -> Result<Usage, Failure> {
    let mut used = HashSet::new();
    for container in store.containers()? {
        // One that was removed since the list was read uses nothing.
        let volumes = container.record().map(|record| record.volumes).unwrap_or_default();
        used.extend(volumes.into_iter().map(|volume| volume.name));
    }
    let mut usage = Usage::default();
    for entry in fs::read_dir(store.volumes()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            // Being made, or removed.
            continue;
        }
        usage.add(volume_bytes(store, &name), used.contains(&name));
    }
    Ok(usage)
}
