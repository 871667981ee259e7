//! `rrun system df`

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::cli::flags::{Arguments, Flag, FlagsEnd};
use crate::cli::listing::{Column, Listing};
use crate::cli::{Globals, Verb};
use crate::failure::Failure;
use crate::images::{Store, Usage};
use crate::pull::human_bytes;

pub(crate) const DF: Verb = Verb {
    names: &["system df"],
    operands: "",
    operands_min: 0,
    operands_max: 0,
    about: "Show how much room things take",
    details: "",
    flags: &[Flag::one("format", "table|json|TEMPLATE", "how to show it (a Go template)")],
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
    let store = globals.store()?;
    let rows = [
        row("Images", store.image_usage()?),
        row("Containers", containers(globals, &store)?),
        row("Local Volumes", volumes(&store)?),
        row("Build Cache", Usage::default()),
    ];
    let shown = FIELDS.iter().map(|(name, _)| *name).collect();
    Listing { fields: FIELDS, shown }.print(&rows, arguments.value("format")).map(|()| 0)
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
        let bytes = tree_bytes(&container.path().join("rw/u"));
        let running = globals.dirs.runroot.join("c").join(&container.id).exists()
            && !container.path().join("exit.json").exists();
        usage.total += 1;
        usage.active += usize::from(running);
        usage.bytes += bytes;
        usage.reclaimable += if running { 0 } else { bytes };
    }
    Ok(usage)
}

/// Volumes; active are those that a container's record names.
fn volumes(store: &Store) -> Result<Usage, Failure> {
    let mut used = std::collections::HashSet::new();
    for container in store.containers()? {
        // One that was removed since the list was read uses nothing.
        let volumes = container.record().map(|record| record.volumes).unwrap_or_default();
        used.extend(volumes.into_iter().map(|volume| volume.name));
    }
    let mut usage = Usage::default();
    for entry in fs::read_dir(store.volumes()).into_iter().flatten().flatten() {
        let bytes = tree_bytes(&entry.path().join("_data"));
        let active = used.contains(&*entry.file_name().to_string_lossy());
        usage.total += 1;
        usage.active += usize::from(active);
        usage.bytes += bytes;
        usage.reclaimable += if active { 0 } else { bytes };
    }
    Ok(usage)
}

/// Content of the regular files beneath `path`, bytes. What vanishes meanwhile takes no room.
fn tree_bytes(path: &Path) -> u64 {
    let mut bytes = 0;
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) if metadata.is_file() => bytes += metadata.size(),
                _ => {}
            }
        }
    }
    bytes
}
