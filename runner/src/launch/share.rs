//! What a container has in common with another one. Looked up whenever it starts: the other one's
//! processes change with each of its own starts, and a process id is somebody else's in time.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::OpenTreeFlags;
use rustix::net::RecvFlags;
use rustix::net::sockopt::Timeout;

use super::launcher::ours;
use super::process::identify;
use super::protocol::Failure;
use super::{MOMENT, state, status_pair};
use crate::container::{Ipc, Record};
use crate::dirs::Dirs;
use crate::images::Store;
use crate::isolate::talk;
use crate::spec::OF_OTHER_CONTAINER;
use crate::sys;
use crate::sys::clone::Forked;

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
    let found = namespace_of(dirs, id, "mnt").map(|theirs| mounted_at(&theirs, "/dev/shm"))?;
    found.map(Some).map_err(|error| {
        ours(format!("cannot share /dev/shm of container {id:.12}: {error}"), None)
    })
}

/// The procfs of the container whose processes the record's are to be among, detached: one can be
/// made only by who is among them. What that container has mounted on it, its masks above all,
/// stays behind.
pub(super) fn procfs(dirs: &Dirs, record: &Record) -> Result<Option<OwnedFd>, Failure> {
    /// Source: `PROC_ROOT_INO`, include/linux/proc_ns.h.
    const ROOT_INODE: u64 = 1;
    let Some(id) = &record.pid_of else { return Ok(None) };
    let theirs = namespace_of(dirs, id, "mnt")?;
    let checked = mounted_at(&theirs, "/proc").and_then(|tree| {
        let is_procfs = rustix::fs::fstatfs(&tree)?.f_type == rustix::fs::PROC_SUPER_MAGIC
            && rustix::fs::fstat(&tree)?.st_ino == ROOT_INODE;
        if is_procfs { Ok(tree) } else { Err(io::Error::other("it is no procfs")) }
    });
    checked.map(Some).map_err(|error| {
        ours(
            format!("cannot share /proc of container {id:.12}, so not its processes: {error}"),
            None,
        )
    })
}

/// A detached copy of the mount at `place` in another mount namespace, without those below it. A
/// process of its own goes there, since there may be no way back.
fn mounted_at(theirs: &OwnedFd, place: &str) -> io::Result<OwnedFd> {
    let (ours, its) = status_pair()?;
    match sys::clone::clone(0, None)? {
        Forked::Child => {
            let done = sys::clone::join(theirs.as_fd(), libc::CLONE_NEWNS)
                .and_then(|()| {
                    let flags = OpenTreeFlags::OPEN_TREE_CLONE
                        | OpenTreeFlags::OPEN_TREE_CLOEXEC
                        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
                    Ok(rustix::mount::open_tree(CWD, place, flags)?)
                })
                .and_then(|tree| {
                    Ok(talk::say_with(&its, talk::FromChild::Last.to_bytes(), tree.as_fd())?)
                });
            let errno = done.err().and_then(|error| error.raw_os_error());
            sys::clone::exit_now(errno.unwrap_or(0))
        }
        Forked::Parent { pidfd, .. } => {
            drop(its);
            rustix::net::sockopt::set_socket_timeout(&ours, Timeout::Recv, Some(MOMENT))?;
            let received = talk::hear(&ours, RecvFlags::empty()).map(|(_, _, tree)| tree);
            // What it looks at there may hold it up.
            let kill = rustix::process::Signal::KILL;
            let _ = rustix::process::pidfd_send_signal(&pidfd, kill);
            match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) {
                Ok(WaitStatus::Exited(_, errno)) if errno != 0 => {
                    Err(io::Error::from_raw_os_error(errno))
                }
                _ => received?.ok_or_else(|| io::ErrorKind::TimedOut.into()),
            }
        }
    }
}

/// Binds whose propagation was asked for: that the source's mount can have it, in Docker's words.
///
/// # Errors
/// When one cannot.
pub(super) fn check_propagation(record: &Record) -> Result<(), Failure> {
    for mount in record.spec.mounts().iter().flatten() {
        let asked = |names: &[&str]| {
            mount.options().iter().flatten().any(|option| names.contains(&option.as_str()))
        };
        let (wants_shared, wants_slave) =
            (asked(&["shared", "rshared"]), asked(&["slave", "rslave"]));
        let Some(source) = mount.source().as_ref().filter(|_| wants_shared || wants_slave) else {
            continue;
        };
        // What is not there is told when it is mounted.
        let Some((mounted_on, optional)) = mount_of(source) else { continue };
        let is = |kind: &str| optional.iter().any(|field| field.starts_with(kind));
        let what = match (wants_shared, is("shared:"), is("master:")) {
            (true, false, _) => "shared mount",
            (false, false, false) => "shared or slave mount",
            _ => continue,
        };
        let (source, hint) = (source.display(), format!("mount --make-shared {mounted_on}"));
        let message = format!("path {source} is mounted on {mounted_on} but it is not a {what}");
        return Err(ours(message, Some(hint)));
    }
    Ok(())
}

/// Where the mount is mounted that `path` lies on, and its optional fields:
/// proc_pid_mountinfo(5).
fn mount_of(path: &Path) -> Option<(String, Vec<String>)> {
    let flags = rustix::fs::AtFlags::empty();
    let found = rustix::fs::statx(CWD, path, flags, rustix::fs::StatxFlags::MNT_ID).ok()?;
    let id = found.stx_mnt_id.to_string();
    let text = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = text.lines().find(|line| line.split(' ').next() == Some(&id))?;
    let (before, _) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(4).map(str::to_owned);
    let mounted_on = fields.next()?;
    Some((mounted_on, fields.skip(1).collect()))
}
