//! User namespaces: which ids of the host stand behind those of a container.
//!
//! A container of root's with `--userns=auto` has ids that nobody else has: not the host, not another
//! container. They are no user's, so that `/etc/subuid` need not name them. Layers keep their owners
//! and are mounted with these ids put in their place (mount_setattr(2), `MOUNT_ATTR_IDMAP`), so
//! every container shares them.
//!
//! An ordinary user's containers have his own id as their root, and the ids that `/etc/subuid` and
//! `/etc/subgid` grant him as all others. Which these are is settled when his store is made: the
//! owners on the disk hang on it. Whatever of the store is theirs is worked on by processes that
//! have entered such a namespace ([`IdMap::enter`]).

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::mount::OpenTreeFlags;
use serde::{Deserialize, Serialize};

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

    /// The ids of an ordinary user: his own as root, and those that he is granted, if any and if
    /// there is a program that hands them out.
    pub fn of_user() -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let name = name_of(uid, &read("/etc/passwd"));
        let granted = |path: &str| granted(&read(path), name.as_deref(), uid);
        let (uids, gids) = (granted("/etc/subuid"), granted("/etc/subgid"));
        if uids.is_empty() || gids.is_empty() || helper("newuidmap").is_none() {
            return Self { uids: mapping(uid, 1), gids: mapping(gid, 1) };
        }
        Self { uids: own_and(uid, &uids), gids: own_and(gid, &gids) }
    }

    /// Whether there is but one id: every file is the user's, and groups cannot be set.
    pub fn is_single(&self) -> bool {
        self.count() == 1
    }

    /// How many users or groups there are, whichever are fewer.
    pub fn count(&self) -> u32 {
        let count = |all: &[LinuxIdMapping]| all.iter().map(LinuxIdMapping::size).sum::<u32>();
        count(&self.uids).min(count(&self.gids))
    }

    pub fn uids(&self) -> &[LinuxIdMapping] {
        &self.uids
    }

    pub fn gids(&self) -> &[LinuxIdMapping] {
        &self.gids
    }

    /// Gives the user namespace of a child, or of one that waits for it, its ids.
    ///
    /// # Errors
    /// As user_namespaces(7) says of writing to these files; what newuidmap(1) says.
    pub fn write(&self, pid: i32) -> io::Result<()> {
        if !rustix::process::geteuid().is_root() && !self.is_single() {
            run_helper("newgidmap", pid, &self.gids, "/etc/subgid")?;
            return run_helper("newuidmap", pid, &self.uids, "/etc/subuid");
        }
        if !rustix::process::geteuid().is_root() {
            // Or the kernel lets no ordinary user map a group (CVE-2014-8989).
            std::fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
        }
        std::fs::write(format!("/proc/{pid}/gid_map"), text(&self.gids))?;
        std::fs::write(format!("/proc/{pid}/uid_map"), text(&self.uids))
    }

    /// Enters a new user namespace with these ids, as its root. This process has one thread.
    ///
    /// # Errors
    /// As unshare(2), and [`Self::write`].
    pub fn enter(&self) -> io::Result<()> {
        let pid = std::process::id().cast_signed();
        let (ours, theirs) = status_pair()?;
        // Outside is who can hand out the ids.
        match sys::clone::clone(0, None)? {
            Forked::Child => {
                drop(ours);
                let is_told = matches!(rustix::io::read(&theirs, &mut [0_u8; 1][..]), Ok(1));
                let written = if is_told { self.write(pid) } else { Ok(()) };
                if let Err(error) = &written {
                    let _ = rustix::io::write(&theirs, error.to_string().as_bytes());
                }
                sys::clone::exit_now(i32::from(written.is_err()))
            }
            Forked::Parent { pidfd, .. } => {
                drop(theirs);
                let entered = sys::clone::unshare(libc::CLONE_NEWUSER)
                    .and_then(|()| Ok(rustix::io::write(&ours, b"x").map(drop)?));
                if entered.is_err() {
                    rustix::net::shutdown(&ours, rustix::net::Shutdown::Both)?;
                }
                let written = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED);
                entered?;
                if !matches!(written, Ok(WaitStatus::Exited(_, 0))) {
                    let mut why = vec![0; 1024];
                    let count = rustix::io::read(&ours, &mut why[..]).unwrap_or(0);
                    let why = String::from_utf8_lossy(&why[..count]).into_owned();
                    return Err(io::Error::other(why));
                }
            }
        }
        sys::process::set_ids(0, 0, (!self.is_single()).then_some(&[]))
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

/// Where setuid programs are; a user's own PATH is not asked.
const HELPERS: [&str; 4] = ["/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin"];

/// The program of this name.
pub fn helper(name: &str) -> Option<PathBuf> {
    HELPERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists())
}

fn run_helper(name: &str, pid: i32, map: &[LinuxIdMapping], table: &str) -> io::Result<()> {
    let program = helper(name).ok_or_else(|| {
        io::Error::other(format!("there is no {name}, which hands out ids: apt install uidmap"))
    })?;
    let numbers = map.iter().flat_map(|one| [one.container_id(), one.host_id(), one.size()]);
    let output = std::process::Command::new(program)
        .arg(pid.to_string())
        .args(numbers.map(|number| number.to_string()))
        .env_clear()
        .current_dir("/")
        .stdin(std::process::Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let says = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let last = map.last().map_or(0, |one| one.host_id() + one.size() - 1);
    let first = map.get(1).map_or(0, LinuxIdMapping::host_id);
    Err(io::Error::other(format!(
        "{name} refuses {first}-{last}, which the store was made with: a line of {table} has to grant \
         them to this user ({says})"
    )))
}

/// Source: passwd(5).
fn name_of(uid: u32, accounts: &str) -> Option<String> {
    let is_his = |line: &&str| line.split(':').nth(2) == Some(uid.to_string().as_str());
    accounts.lines().find(is_his)?.split(':').next().map(str::to_owned)
}

/// The ranges that a table grants to a user, by name or number. Source: subuid(5).
fn granted(table: &str, name: Option<&str>, uid: u32) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let whose = fields.next().filter(|whose| Some(*whose) == name || *whose == number)?;
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let is_whole = u32::checked_add(first, count).is_some() && count > 0;
        (is_whole && !whose.is_empty()).then_some((first, count))
    };
    table.lines().filter_map(range).collect()
}

/// The user's own id as 0, and what he is granted from 1 on.
fn own_and(own: u32, granted: &[(u32, u32)]) -> Vec<LinuxIdMapping> {
    let mut map = mapping(own, 1);
    let mut next = 1_u32;
    for &(first, count) in granted {
        let count = count.min(u32::MAX - 1 - next);
        map.push(range(next, first, count));
        next += count;
    }
    map
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

fn range(inside: u32, outside: u32, count: u32) -> LinuxIdMapping {
    let range = LinuxIdMappingBuilder::default().container_id(inside).host_id(outside).size(count);
    // Nothing of it is required: this does not fail.
    range.build().unwrap_or_default()
}

/// A map of the first `count` ids of a container, to the host's from `first` on.
pub fn mapping(first: u32, count: u32) -> Vec<LinuxIdMapping> {
    vec![range(0, first, count)]
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
    fn what_a_user_is_granted() {
        let table = "ann:100000:65536\nbob:200000:65536\n1000:300000:10\n:1:1\nann:x:1\nann:5:0\n\
                     ann:4294967295:2\n";
        let ann = granted(table, Some("ann"), 1000);
        assert_eq!(ann, [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(granted(table, None, 1001), []);
        let map = IdMap { uids: own_and(1000, &ann), gids: own_and(1000, &ann) };
        assert_eq!(text(&map.uids), "0 1000 1\n1 100000 65536\n65537 300000 10\n");
        assert_eq!(map.outside(0, 1), Some((1000, 100_000)));
        assert_eq!((map.count(), map.is_single()), (65_547, false));
        assert_eq!(
            name_of(1000, "root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:/bin/sh\n").as_deref(),
            Some("ann")
        );
    }

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
