//! Putting right what a killed monitor or a switched-off machine has left behind.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::finish::{self, Started};
use super::state::{self, ExitRecord, State, Status};
use crate::cgroup::Cgroup;
use crate::container::Record;
use crate::dirs::Dirs;
use crate::images::Store;

/// The code of a container whose end nobody saw because the machine was switched off. Docker's.
const HOST_RESTARTED: u8 = 255;

/// From the making of a run directory to its lock; milliseconds, but on a host out of breath.
const BEGINNING: Duration = Duration::from_secs(10);

/// The code of a container that lost its monitor: 128 + KILL, which is what it gets.
const MONITOR_LOST: u8 = 137;

/// The status of a container, after putting right what is not as a monitor leaves it.
///
/// # Errors
/// When its files cannot be read.
pub fn settled_status(dirs: &Dirs, id: &str) -> io::Result<Status> {
    let status = state::status(&dirs.root, &dirs.runroot, id)?;
    match status {
        // A launcher that has made the directory and not locked it yet looks the same.
        Status::Orphaned(None) if is_fresh(&state::run_directory(&dirs.runroot, id)) => {
            Ok(Status::Created)
        }
        Status::Orphaned(last) => {
            recover(dirs, id, last.as_ref())?;
            state::status(&dirs.root, &dirs.runroot, id)
        }
        Status::Created => {
            let directory = state::record_directory(&dirs.root, id);
            let Some(started) = state::read_json::<Started>(&directory.join("started.json"))?
            else {
                return Ok(Status::Created);
            };
            let ended =
                ExitRecord::unseen(HOST_RESTARTED, "the host was restarted", Some(started.started));
            note(dirs, id, &ended);
            Ok(Status::Exited(ended))
        }
        other => Ok(other),
    }
}

/// Puts every container right that has lost its monitor, or ran when the machine was switched off.
/// Cheap where there is nothing to do.
pub fn recover_all(dirs: &Dirs) {
    let names = |directory: &Path| -> Vec<String> {
        let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    for id in names(&dirs.runroot.join("c")) {
        if state::monitor_is_alive(&state::run_directory(&dirs.runroot, &id)).unwrap_or(true) {
            continue;
        }
        // One that cannot be put right must not keep others from working.
        let _ = settled_status(dirs, &id);
    }
}

/// Whether the directory was changed so lately that somebody may be about to use it.
fn is_fresh(directory: &Path) -> bool {
    let changed = fs::metadata(directory).and_then(|metadata| metadata.modified());
    changed.is_ok_and(|time| time.elapsed().is_ok_and(|age| age < BEGINNING))
}

fn recover(dirs: &Dirs, id: &str, last: Option<&State>) -> io::Result<()> {
    let run = state::run_directory(&dirs.runroot, id);
    let lock = match fs::File::open(run.join("monitor.lock")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other?),
    };
    if let Some(lock) = &lock {
        match rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
            // It has a monitor after all, or somebody else is putting it right.
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
            other => other?,
        }
    }
    let cgroup = match last {
        Some(last) => Cgroup::open(&last.cgroups)?,
        None => Cgroup::find(id, cgroup_parent(dirs, id).as_deref())?,
    };
    cgroup.kill_all(Duration::from_secs(5))?;
    let _ = cgroup.remove(Duration::from_secs(2));
    let started = last.map(|state| state.started.clone());
    note(
        dirs,
        id,
        &ExitRecord::unseen(MONITOR_LOST, "the container's monitor was killed", started),
    );
    match fs::remove_dir_all(&run) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// `--cgroup-parent`, if the container still has a record that says so.
fn cgroup_parent(dirs: &Dirs, id: &str) -> Option<String> {
    let container = Store::open(&dirs.root).ok()?.open_container(id).ok()??;
    container.record().ok()?.cgroup_parent
}

/// Notes the end, unless one has been noted; removes the container if it was to be removed.
fn note(dirs: &Dirs, id: &str, ended: &ExitRecord) {
    let Ok(store) = Store::open(&dirs.root) else { return };
    let Ok(Some(container)) = store.open_container(id) else { return };
    let Ok(record): Result<Record, _> = container.record() else { return };
    finish::conclude(dirs, &record, ended);
}
