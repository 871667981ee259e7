//! Putting right what a killed monitor or a switched-off machine has left behind.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::finish::{self, Started};
use super::run_directory::{self, Found, RunDirectory};
use super::state::{self, AFTER_RESTART, ExitRecord, HOST_RESTARTED, State, Status};
use super::undo::{Init, Leftovers};
use crate::cgroup::Cgroup;
use crate::container::Record;
use crate::dirs::Dirs;
use crate::images::{Store, boot_id};
use crate::net;

/// The code of a container that lost its monitor: 128 + KILL, which is what it gets.
const MONITOR_LOST: u8 = 137;

/// In ROOT: the boot in which all containers were last looked through.
const SETTLED: &str = "settled";

/// The status of a container, after putting right what is not as a monitor leaves it. One that is
/// just being started, or whose program has ended while its monitor has not said how, is waited
/// for, for at most `patience`: it is not yet what it is about to be.
///
/// # Errors
/// When its files cannot be read.
pub fn settled_status(dirs: &Dirs, id: &str, patience: Duration) -> io::Result<Status> {
    let now = || state::status(&dirs.root, &dirs.runroot, id);
    let deadline = Instant::now() + patience;
    loop {
        let status = now()?;
        let changes = match &status {
            Status::Orphaned(_) => false,
            Status::Running(state) | Status::Paused(state) => state.is_ending(),
            Status::Created | Status::Exited(_) => {
                run_directory::is_locked(&state::run_directory(&dirs.runroot, id))?
            }
        };
        if changes && Instant::now() < deadline {
            std::thread::sleep(super::LOOK_AGAIN);
            continue;
        }
        match status {
            Status::Orphaned(_) => {}
            Status::Created if started_file(dirs, id).exists() => {}
            other => return Ok(other),
        }
        put_right(dirs, id)?;
        return now();
    }
}

/// Puts every container right that has lost its monitor, and, for the first command of a boot,
/// those that ran when the machine was switched off. Cheap where there is nothing to do. One that
/// cannot be put right must not keep others from working, and is met again by its own status.
pub fn recover_all(dirs: &Dirs) {
    let ids = run_directory::ids(dirs);
    for id in &ids {
        let directory = state::run_directory(&dirs.runroot, id);
        if !run_directory::is_locked(&directory).unwrap_or(true) {
            let _ = put_right(dirs, id);
        }
    }
    // Rules that nobody has a use for come with the next start. What cannot be put back is met
    // again, and told, by whoever starts a container there.
    if !ids.is_empty() {
        let _ = net::heal(dirs);
    }
    let Ok(boot) = boot_id() else { return };
    let settled = dirs.root.join(SETTLED);
    if fs::read_to_string(&settled).is_ok_and(|text| text == boot) {
        return;
    }
    let Ok(entries) = fs::read_dir(dirs.root.join("containers")) else { return };
    for entry in entries.flatten() {
        let Ok(id) = entry.file_name().into_string() else { continue };
        if started_file(dirs, &id).exists() {
            let _ = put_right(dirs, &id);
        }
        remove_torn(dirs, &id);
    }
    let _ = fs::write(settled, boot);
}

fn started_file(dirs: &Dirs, id: &str) -> PathBuf {
    state::record_directory(&dirs.root, id).join("started.json")
}

/// Does what a container's monitor would have done at its end, holding the monitor's lock.
pub(super) fn put_right(dirs: &Dirs, id: &str) -> io::Result<()> {
    dirs.make_runroot()?;
    let (run, is_orphan) = match RunDirectory::take(dirs, id)? {
        // It has a monitor after all, or somebody else is putting it right.
        Found::Taken => return Ok(()),
        Found::New(run) => (run, false),
        Found::Orphan(run) => (run, true),
    };
    let done = clean_up(dirs, id, &run, is_orphan);
    if is_orphan && done.is_err() {
        // It stays, and says that there is work to do.
        run.hand_over();
    }
    done
}

fn clean_up(dirs: &Dirs, id: &str, run: &RunDirectory, is_orphan: bool) -> io::Result<()> {
    let last = state::read_json::<State>(&run.path().join("state.json")).unwrap_or(None);
    let cgroup = match &last {
        Some(last) => Cgroup::open(&last.cgroups)?,
        None => Cgroup::find(id, cgroup_parent(dirs, id).as_deref())?,
    };
    if !is_orphan && cgroup.is_populated()? {
        // It runs under another --runroot, and is not ours to judge.
        return Ok(());
    }
    let left = Leftovers {
        init: last.as_ref().map(|last| Init::Noted(&last.init)),
        cgroup: Some(&cgroup),
        ..Leftovers::of(dirs, id)
    };
    let (undone, done) = left.undo();
    undone.finish();
    done?;
    note_end(dirs, id, last.as_ref());
    Ok(())
}

/// Notes how the container ended, unless that has been noted. One that was to be removed goes, also
/// where it never came to run: the command that made it was killed.
fn note_end(dirs: &Dirs, id: &str, last: Option<&State>) {
    let Ok(store) = Store::open(&dirs.root) else { return };
    let Ok(Some(container)) = store.open_container(id) else { return };
    let Ok(record): Result<Record, _> = container.record() else { return };
    let started_file = started_file(dirs, id);
    let has_started = last.is_some() || started_file.exists();
    let is_noted = matches!(state::exit_record(&dirs.root, id), Ok(Some(_)));
    if !record.remove_on_exit && (is_noted || !has_started) {
        let _ = fs::remove_file(started_file);
        return;
    }
    // Not written durably either: without its content it is of another boot.
    let started = state::read_json::<Started>(&started_file).unwrap_or(None);
    let boot = last.map(|state| &state.monitor.boot_id);
    let boot = boot.or(started.as_ref().map(|started| &started.boot_id));
    let (code, why) = match (boot, boot_id()) {
        (Some(then), Ok(now)) if *then == now => {
            (MONITOR_LOST, "the container's monitor was killed")
        }
        _ => (HOST_RESTARTED, AFTER_RESTART),
    };
    let since = last.map(|state| state.started.clone()).or(started.map(|started| started.started));
    finish::conclude(dirs, &record, &ExitRecord::unseen(code, why, since));
}

/// Removes a container whose record is not whole: it was written when the machine was switched
/// off, and not durably, because the container was to be removed at its end.
fn remove_torn(dirs: &Dirs, id: &str) {
    let path = state::record_directory(&dirs.root, id).join("config.json");
    let is_torn = match fs::read(path) {
        Ok(bytes) => serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_err(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if is_torn && let Ok(store) = Store::open(&dirs.root) {
        let _ = store.remove_container(id);
    }
}

/// `--cgroup-parent`, if the container still has a record that says so.
fn cgroup_parent(dirs: &Dirs, id: &str) -> Option<String> {
    let container = Store::open(&dirs.root).ok()?.open_container(id).ok()??;
    container.record().ok()?.cgroup_parent
}
