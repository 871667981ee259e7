//! What a container has in common with another one. Looked up whenever it starts: the other one's
//! processes change with each of its own starts, and a process id is somebody else's in time.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::OpenTreeFlags;

use super::launcher::ours;
use super::process::identify;
use super::protocol::Failure;
use super::state;
use crate::container::{Ipc, Record};
use crate::dirs::Dirs;
use crate::images::Store;
use crate::spec::OF_OTHER_CONTAINER;
use crate::sys;

/// A namespace of a running container, `/proc/<pid>/ns/<kind>`: opened, then seen that the process
/// of that number was and is the container's.
///
/// # Errors
/// When it does not run.
pub(super) fn namespace_of(dirs: &Dirs, id: &str, kind: &str) -> Result<OwnedFd, Failure> {
    let not_running = || {
        let hint = format!("rrun start {id:.12}");
        ours(
            format!("container {id:.12} is not running, so its {kind} cannot be shared"),
            Some(hint),
        )
    };
    match state::status(&dirs.root, &dirs.runroot, id) {
        Ok(state::Status::Running(state) | state::Status::Paused(state)) => {
            let path = format!("/proc/{}/ns/{kind}", state.init.pid);
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(|_| not_running())?;
            let now = identify(state.init.pid).map_err(|_| not_running())?;
            if now == state.init { Ok(opened) } else { Err(not_running()) }
        }
        _ => Err(not_running()),
    }
}

/// `--ipc container:NAME`: that it may be asked for, in Docker's words.
pub(super) fn check_ipc(store: &Store, id: &str) -> Result<(), Failure> {
    let owner = store.open_container(id).ok().flatten().and_then(|found| found.record().ok());
    match owner.map(|owner| owner.ipc) {
        Some(Ipc::Shareable) => Ok(()),
        Some(_) => {
            let message = format!("container {id:.12}: non-shareable IPC");
            Err(ours(message, Some("start that container with --ipc shareable".into())))
        }
        None => Err(ours(format!("no such container: {id:.12}"), None)),
    }
}

/// The `/dev/shm` that the record takes from another container, detached.
pub(super) fn shm(dirs: &Dirs, record: &Record) -> Result<Option<OwnedFd>, Failure> {
    let Ipc::Container(id) = &record.ipc else { return Ok(None) };
    let mut mounts = record.spec.mounts().iter().flatten();
    if !mounts.any(|mount| mount.source().as_deref() == Some(Path::new(OF_OTHER_CONTAINER))) {
        // Another mount was asked for in its place.
        return Ok(None);
    }
    let theirs = namespace_of(dirs, id, "mnt")?;
    let found = visit(&theirs, || {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        Ok(rustix::mount::open_tree(CWD, "/dev/shm", flags)?)
    });
    found.map(Some).map_err(|error| {
        ours(format!("cannot share /dev/shm of container {id:.12}: {error}"), None)
    })
}

/// Does something in another mount namespace, and comes back.
fn visit<T>(theirs: &OwnedFd, what: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let own = fs::File::open("/proc/self/ns/mnt")?;
    sys::clone::join(theirs.as_fd(), libc::CLONE_NEWNS)?;
    let done = what();
    // Not to come back would be to make this container in that one.
    sys::clone::join(own.as_fd(), libc::CLONE_NEWNS)?;
    done
}
