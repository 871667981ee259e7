//! User namespaces: which ids of the host stand behind those of a container.
//!
//! A container of root's with `--userns=auto` has ids that nobody else has: not the host, not another
//! container. They are no user's, so that `/etc/subuid` need not name them. Layers keep their owners
//! and are mounted with these ids put in their place (mount_setattr(2), `MOUNT_ATTR_IDMAP`), so
//! every container shares them.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::mount::OpenTreeFlags;

use crate::launch::status_pair;
use crate::sys;
use crate::sys::clone::Forked;
use crate::sys::mount::{Attributes, IDMAP, set_attributes};

/// Ids of a container unless another number was asked for, and the unit in which they are handed
/// out.
pub const SLOT_IDS: u32 = 65_536;

/// Where the ids begin: a range that systemd's table of ids leaves to nobody (UIDS-GIDS.md).
const POOL_FIRST: u32 = 0x7000_0000;
const POOL_END: u32 = 0x7FFE_0000;

/// How many slots there are.
pub const SLOTS: u32 = (POOL_END - POOL_FIRST) / SLOT_IDS;

/// The first id of a slot.
pub fn first_of_slot(slot: u32) -> u32 {
    POOL_FIRST + slot * SLOT_IDS
}

/// The slots that a range of ids takes.
pub fn slots_of(first: u32, count: u32) -> std::ops::Range<u32> {
    let slot = first.saturating_sub(POOL_FIRST) / SLOT_IDS;
    slot..slot + count.div_ceil(SLOT_IDS)
}

/// The ids of a container's user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMap {
    uids: Vec<LinuxIdMapping>,
    gids: Vec<LinuxIdMapping>,
}

impl IdMap {
    /// Those that a record's configuration has; `None`: the container has the host's.
    pub fn of(spec: &Spec) -> Option<Self> {
        let linux = spec.linux().as_ref()?;
        let uids = linux.uid_mappings().clone().filter(|all| !all.is_empty())?;
        let gids = linux.gid_mappings().clone().filter(|all| !all.is_empty())?;
        Some(Self { uids, gids })
    }

    /// Which ids of the host these ids of the container are.
    pub fn outside(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        Some((outside(&self.uids, uid)?, outside(&self.gids, gid)?))
    }

    /// The first of the host's ids and how many they are.
    pub fn range(&self) -> Option<(u32, u32)> {
        self.uids.first().map(|range| (range.host_id(), range.size()))
    }

    /// The host's ids of the container's root.
    ///
    /// # Errors
    /// EOVERFLOW where it has none.
    pub fn root(&self) -> io::Result<(u32, u32)> {
        self.outside(0, 0).ok_or_else(|| io::Error::from_raw_os_error(libc::EOVERFLOW))
    }

    /// Gives the user namespace of a child its ids. gid_map first: its order is nobody's business,
    /// but only once both are there may the child go on.
    ///
    /// # Errors
    /// As user_namespaces(7) says of writing to these files.
    pub fn write(&self, pid: i32) -> io::Result<()> {
        std::fs::write(format!("/proc/{pid}/gid_map"), text(&self.gids))?;
        std::fs::write(format!("/proc/{pid}/uid_map"), text(&self.uids))
    }

    /// A user namespace with these ids in which nobody lives: for mounts.
    ///
    /// # Errors
    /// As clone3(2), and [`Self::write`].
    pub fn for_mounts(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = status_pair()?;
        match sys::clone::clone(libc::CLONE_NEWUSER, None)? {
            Forked::Child => {
                drop(ours);
                // Until the other end is closed, by whatever.
                let _ = rustix::io::read(&theirs, &mut [0_u8; 1][..]);
                sys::clone::exit_now(0)
            }
            Forked::Parent { pid, pidfd } => {
                drop(theirs);
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let path = format!("/proc/{pid}/ns/user");
                let made = self
                    .write(pid)
                    .and_then(|()| Ok(rustix::fs::open(path, flags, Mode::empty())?));
                drop(ours);
                let _ = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED);
                made
            }
        }
    }
}

fn outside(map: &[LinuxIdMapping], id: u32) -> Option<u32> {
    let range = map.iter().find(|range| {
        id.checked_sub(range.container_id()).is_some_and(|offset| offset < range.size())
    })?;
    range.host_id().checked_add(id - range.container_id())
}

/// As the kernel takes it: user_namespaces(7).
fn text(map: &[LinuxIdMapping]) -> String {
    let line = |range: &LinuxIdMapping| {
        format!("{} {} {}\n", range.container_id(), range.host_id(), range.size())
    };
    map.iter().map(line).collect()
}

/// A map of the first `count` ids of a container, to the host's from `first` on.
pub fn mapping(first: u32, count: u32) -> Vec<LinuxIdMapping> {
    let range = LinuxIdMappingBuilder::default().container_id(0_u32).host_id(first).size(count);
    // Nothing of it is required: this does not fail.
    vec![range.build().unwrap_or_default()]
}

/// A detached mount of the directory or file that `place` is, with the ids of `namespace` in the
/// place of the owners that are stored.
///
/// # Errors
/// As open_tree(2) and mount_setattr(2): EINVAL where the file system has no such mounts.
pub fn with_ids(place: BorrowedFd<'_>, namespace: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(place, "", flags)?;
    give_ids(&tree, namespace)?;
    Ok(tree)
}

/// The same to a mount that is detached already.
///
/// # Errors
/// As mount_setattr(2).
pub fn give_ids(tree: &OwnedFd, namespace: &OwnedFd) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let namespace = u64::try_from(namespace.as_raw_fd()).unwrap_or(u64::MAX);
    let attributes = Attributes { set: IDMAP, userns_fd: namespace, ..Attributes::default() };
    set_attributes(tree.as_fd(), attributes, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_inside_and_outside() {
        let mut linux = oci_spec::runtime::Linux::default();
        linux.set_uid_mappings(Some(mapping(first_of_slot(3), 1000)));
        linux.set_gid_mappings(Some(mapping(first_of_slot(3), 1000)));
        let mut spec = Spec::default();
        spec.set_linux(None);
        assert_eq!(IdMap::of(&spec), None);
        spec.set_linux(Some(linux));
        let map = IdMap::of(&spec).unwrap();
        assert_eq!(map.root().unwrap(), (0x7003_0000, 0x7003_0000));
        assert_eq!(map.outside(999, 0), Some((0x7003_03e7, 0x7003_0000)));
        assert_eq!(map.outside(1000, 0), None);
        assert_eq!(text(&map.uids), "0 1879244800 1000\n");
        assert_eq!(slots_of(first_of_slot(3), 1000), 3..4);
        assert_eq!(slots_of(first_of_slot(3), SLOT_IDS + 1), 3..5);
        assert_eq!(first_of_slot(SLOTS - 1) + (SLOT_IDS - 1), POOL_END - 1);
    }
}
