//! Started as root by the image: becoming whoever owns the data, or staying root without a single
//! capability.
//!
//! An image that takes the place of another registry's finds data that is root's, and keys that
//! root alone can read; one that is started anew finds an empty directory. So the image names no
//! user, and what to become is decided here, once, before the process has a second thread: the
//! calls below change the calling thread alone.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

use crate::failpoint::fail_point;

/// Set to `1` in the image's environment. Elsewhere root stays root: who starts a program as root
/// by hand has not asked for its files to change hands.
pub const VARIABLE: &str = "ROADSTEAD_DROP_ROOT";

/// The image's own user, `registry` in its passwd(5).
const OWN: u32 = 65532;

const ROOT: Identity = Identity { uid: Uid::ROOT, gid: Gid::ROOT };

/// Why a process that was started as root does not go on.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error(
        "{} can be read by root alone, and the data in {} belongs to user {uid}: give the file to \
         that user (chown {uid} {}), or mount it so that user {uid} can read it",
        .file.display(), .root.display(), .file.display()
    )]
    FileOfRoots { file: PathBuf, root: PathBuf, uid: u32 },
    #[error(
        "this process is root without the capabilities to become user {uid}, who is to own {}: \
         start it as that user (--user {uid}:{gid})",
        .root.display()
    )]
    Incapable { root: PathBuf, uid: u32, gid: u32 },
    #[error("cannot {what} {}: {source}", .path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot give up root: {0}")]
    Confine(#[source] io::Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    uid: Uid,
    gid: Gid,
}

/// The data directory as it was found.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    root: &'a Path,
    owner: Identity,
    empty: bool,
}

/// Whether [`give_up`] has anything to give up.
pub fn are_given_up() -> bool {
    rustix::process::geteuid().is_root()
        && std::env::var_os(VARIABLE).is_some_and(|value| value == "1")
}

/// Gives up what a start as root does not need. Does nothing for any other user.
///
/// `files` are those that the configuration names: they are read again while the registry runs, so
/// whoever it becomes must be able to. Without a `root` nothing says who that is. Sockets that want a privileged port are bound before this is
/// called.
///
/// # Errors
/// See [`PrivilegeError`]; nothing was given up then.
pub fn give_up(root: Option<&Path>, files: &[PathBuf]) -> Result<(), PrivilegeError> {
    if !are_given_up() {
        if rustix::process::geteuid().is_root() {
            tracing::warn!("this process is root and stays it: a user of its own is enough for it");
        }
        return Ok(());
    }
    let Some(root) = root else {
        tracing::info!("nothing is kept in files: root without capabilities");
        return confine().map_err(PrivilegeError::Confine);
    };
    let place = Place::look(root)?;
    let wanted = place.wanted();
    if wanted == ROOT {
        tracing::info!(root = %root.display(), "the data is root's: root without capabilities");
        return confine().map_err(PrivilegeError::Confine);
    }
    if !capable(place.owner != wanted) {
        let (uid, gid) = (wanted.uid.as_raw(), wanted.gid.as_raw());
        return Err(PrivilegeError::Incapable { root: root.to_owned(), uid, gid });
    }
    let unreadable = match as_if(wanted, || unreadable(files)) {
        Ok(unreadable) => unreadable,
        Err(error) => {
            stay(wanted, &error);
            return Ok(());
        }
    };
    if let Some(file) = unreadable.into_iter().find(|file| readable_by_bare_root(file)) {
        return place.keep_for(file);
    }
    if let Err(error) = place.give_to(wanted) {
        stay(wanted, &error);
        return Ok(());
    }
    become_user(wanted).map_err(PrivilegeError::Confine)?;
    tracing::info!(uid = wanted.uid.as_raw(), gid = wanted.gid.as_raw(), "no longer root");
    Ok(())
}

/// In a user namespace that has no such user (rootless Docker with a small range) root is nobody
/// outside either.
fn stay(wanted: Identity, error: &io::Error) {
    let uid = wanted.uid.as_raw();
    tracing::warn!(uid, %error, "this process stays root: it was not let become this user");
}

impl<'a> Place<'a> {
    /// Looks at the directory, which is made if it is not there.
    fn look(root: &'a Path) -> Result<Self, PrivilegeError> {
        let failed = |what, source| PrivilegeError::Io { what, path: root.to_owned(), source };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(|source| failed("create", source))?;
        let stat = fs::metadata(root).map_err(|source| failed("look at", source))?;
        let owner = Identity { uid: Uid::from_raw(stat.uid()), gid: Gid::from_raw(stat.gid()) };
        let empty = match fs::read_dir(root) {
            // A file system of its own begins with lost+found.
            Ok(mut entries) => {
                entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lost+found"))
            }
            // Root without capabilities before a directory of somebody's, whoever that is.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => false,
            Err(source) => return Err(failed("list", source)),
        };
        Ok(Self { root, owner, empty })
    }

    fn wanted(&self) -> Identity {
        match (self.empty, self.owner.uid.is_root()) {
            (true, _) => Identity { uid: Uid::from_raw(OWN), gid: Gid::from_raw(OWN) },
            (false, true) => ROOT,
            (false, false) => self.owner,
        }
    }

    /// Stays root for the sake of a file; data that is somebody else's would be out of reach then.
    fn keep_for(&self, file: PathBuf) -> Result<(), PrivilegeError> {
        if !self.empty {
            let uid = self.owner.uid.as_raw();
            return Err(PrivilegeError::FileOfRoots { file, root: self.root.to_owned(), uid });
        }
        self.give_to(ROOT).map_err(|source| PrivilegeError::Io {
            what: "take over",
            path: self.root.to_owned(),
            source,
        })?;
        let file = file.display();
        tracing::info!(%file, "only root can read this file: root without capabilities");
        confine().map_err(PrivilegeError::Confine)
    }

    fn give_to(&self, new: Identity) -> io::Result<()> {
        if self.owner == new {
            return Ok(());
        }
        Ok(rustix::fs::chown(self.root, Some(new.uid), Some(new.gid))?)
    }
}

/// Whether the kernel would let root become somebody, and give a directory away.
fn capable(gives_away: bool) -> bool {
    let mut needed = CapabilitySet::SETUID | CapabilitySet::SETGID;
    if gives_away {
        needed |= CapabilitySet::CHOWN;
    }
    thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}

/// Files that are there and that whoever this thread is may not read.
fn unreadable(files: &[PathBuf]) -> Vec<PathBuf> {
    let refused = |file: &&PathBuf| {
        let opened = fs::File::open(file);
        opened.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    files.iter().filter(refused).cloned().collect()
}

fn readable_by_bare_root(file: &Path) -> bool {
    let Ok(sets) = thread::capabilities(None) else { return false };
    let bare = CapabilitySets { effective: CapabilitySet::empty(), ..sets };
    if thread::set_capabilities(None, bare).is_err() {
        return false;
    }
    let opened = fs::File::open(file);
    // What is permitted may be made effective: this does not fail.
    thread::set_capabilities(None, sets).is_ok() && opened.is_ok()
}

/// Does something with the rights that `identity` will have, and is root again afterwards.
fn as_if<T>(identity: Identity, act: impl FnOnce() -> T) -> io::Result<T> {
    let groups = rustix::process::getgroups()?;
    thread::set_thread_groups(&kept(&groups))?;
    thread::set_thread_res_gid(None, identity.gid, None)?;
    let done = thread::set_thread_res_uid(None, identity.uid, None).map(|()| act());
    thread::set_thread_res_uid(None, Uid::ROOT, None)?;
    thread::set_thread_res_gid(None, Gid::ROOT, None)?;
    thread::set_thread_groups(&groups)?;
    Ok(done?)
}

/// Groups that were given on purpose (`--group-add`) stay; root's does not.
fn kept(groups: &[Gid]) -> Vec<Gid> {
    groups.iter().copied().filter(|group| !group.is_root()).collect()
}

fn become_user(identity: Identity) -> io::Result<()> {
    let Identity { uid, gid } = identity;
    empty_bounding_set();
    thread::set_thread_groups(&kept(&rustix::process::getgroups()?))?;
    thread::set_thread_res_gid(gid, gid, gid)?;
    // The kernel clears what is permitted, effective and ambient with the last uid that was 0.
    thread::set_thread_res_uid(uid, uid, uid)?;
    confine()
}

/// Leaves the thread without capabilities, and without a way to any.
fn confine() -> io::Result<()> {
    if fail_point!("root-keeps-capabilities", off) {
        return Ok(());
    }
    empty_bounding_set();
    thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    thread::set_capabilities(None, sets)?;
    Ok(thread::set_no_new_privs(true)?)
}

/// As far as it is allowed to: with `no_new_privs` an exec gives nothing back in any case.
fn empty_bounding_set() {
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // EINVAL: the kernel knows no more of them. EPERM: it was taken from us already.
            Err(Errno::INVAL | Errno::PERM) => break,
            Err(error) => tracing::debug!(bit, %error, "the bounding set keeps a capability"),
        }
    }
}
