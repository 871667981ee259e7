//! The end of a container: what is noted, what is removed, and in which order.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::launcher::Run;
use super::ports::Ports;
use super::protocol::{Exit, Failure};
use super::state::{self, ExitRecord};
use super::undo::Leftovers;
use crate::container::Record;
use crate::dirs::Dirs;
use crate::images::Store;
use crate::volumes;

/// How much of a failure is noted.
const ERROR_LETTERS_MAX: usize = 4096;

/// What a monitor knows of its container.
pub(super) struct Container {
    pub(super) dirs: Dirs,
    pub(super) record: Record,
    pub(super) run: Run,
    /// Keeps the root mounted beyond the container's end: unmounting it writes all that the
    /// container has written to the disk, and nobody need wait for that.
    pub(super) _root: Option<OwnedFd>,
    pub(super) ports: Ports,
}

/// `containers/<id>/started.json`: there while it runs, so that a switched-off machine shows.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Started {
    pub(super) boot_id: String,
    pub(super) started: String,
}

/// Notes that the container is about to run; how it ended before is forgotten.
pub(super) fn mark_started(container: &Path) -> io::Result<()> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    let started = crate::timestamp::Timestamp::now().to_rfc3339();
    state::write_json(&container.join("started.json"), &Started { boot_id, started })?;
    match fs::remove_file(container.join("exit.json")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Notes the end; with `--rm` the container goes, and its anonymous volumes with it.
pub(super) fn conclude(dirs: &Dirs, record: &Record, ended: &ExitRecord) {
    let directory = state::record_directory(&dirs.root, &record.id);
    if !record.remove_on_exit {
        // The directory is there unless somebody has removed the container by force.
        let _ = state::write_json(&directory.join("exit.json"), ended);
        let _ = fs::remove_file(directory.join("started.json"));
        return;
    }
    if let Ok(store) = Store::open(&dirs.root) {
        remove(&store, record);
    }
}

/// Puts back what was made for a container that could not be started, and notes why.
pub(super) fn give_up(made: Leftovers<'_>, record: &Record, failure: &Failure) {
    let dirs = made.dirs;
    let (undone, _) = made.undo();
    let ended = ExitRecord {
        exit: Exit { code: failure.exit_code, signal: None, oom: None },
        started: None,
        finished: crate::timestamp::Timestamp::now().to_rfc3339(),
        // An image's words are in it, as long as it likes; what is noted has to be read again.
        error: Some(failure.message.chars().take(ERROR_LETTERS_MAX).collect()),
    };
    conclude(dirs, record, &ended);
    undone.finish();
}

/// Removes the container and its anonymous volumes. Its files are only deleted by
/// [`Store::empty_trash`].
pub(super) fn remove(store: &Store, record: &Record) {
    let _ = store.remove_container(&record.id);
    for volume in record.volumes.iter().filter(|volume| volume.anonymous) {
        let _ = volumes::remove(&store.volumes(), &volume.name);
    }
}

/// How a container ended whose end was seen.
pub(super) fn ended(exit: Exit, started: String) -> ExitRecord {
    ExitRecord {
        exit,
        started: Some(started),
        finished: crate::timestamp::Timestamp::now().to_rfc3339(),
        error: None,
    }
}
