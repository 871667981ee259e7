//! Device nodes and the links that belong into `/dev`.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use super::failure::at;
use super::files::{self, Kind, Root};
use super::{Done, Plan, Step, mounts, rootfs};
use crate::known_bad::left_out;
use crate::place;

/// What every container has. Source: runtime-spec config-linux.md, "Default Devices".
const USUAL: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Source: runtime-spec runtime-linux.md, "Dev symbolic links"; moby has `core` besides.
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", KERNEL_MEMORY),
];

/// Not every kernel has it.
const KERNEL_MEMORY: &str = "/proc/kcore";

/// Fills `/dev`, unless somebody has mounted a `/dev` of theirs.
pub(super) fn make_all(plan: &Plan<'_>, root: &Root) -> Done {
    let spec = &plan.record.spec;
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let of_ours = mounts.iter().any(|mount| {
        files::same(mount.destination(), "/dev") && mount.typ().as_deref() == Some("tmpfs")
    });
    if of_ours {
        // In-root: an image whose /dev is a link must not get nodes made elsewhere
        // (CVE-2026-41579, CVE-2026-47766).
        let found = match left_out("dev-inside") {
            true => rustix::fs::openat(root, "dev", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()),
            false => files::locate(root, Path::new("/dev")),
        };
        let dev = at(Step::Device, usize::from(u16::MAX), found)?;
        for (name, major, minor) in USUAL {
            let kind = FileType::CharacterDevice;
            let node = Node { kind, numbers: (major, minor), mode: 0o666, owner: (0, 0) };
            let made = match node.make(root, &dev, Path::new(name)) {
                // No CAP_MKNOD for whoever started us: the host's own node does as well.
                Err(Errno::PERM) => bind_host_node(&dev, Path::new(name), &host_path(name)),
                other => other,
            };
            at(Step::Device, usize::from(u16::MAX), made)?;
        }
        for (item, (name, target)) in LINKS.into_iter().enumerate() {
            if target == KERNEL_MEMORY && !Path::new(target).exists() {
                continue;
            }
            match rustix::fs::symlinkat(target, &dev, name) {
                Err(Errno::EXIST) => {}
                other => at(Step::DeviceLink, item, other)?,
            }
        }
    }
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref());
    for (item, device) in devices.unwrap_or_default().iter().enumerate() {
        at(Step::Device, item, make_asked(plan, root, device))?;
    }
    Ok(())
}

fn host_path(name: &str) -> PathBuf {
    Path::new("/dev").join(name)
}

fn make_asked(plan: &Plan<'_>, root: &Root, device: &LinuxDevice) -> Result<(), Errno> {
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A | LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
    };
    let Some((parent, name)) = files::split(device.path()) else { return Err(Errno::INVAL) };
    let parent = files::locate_or_make(root, parent, Kind::Directory)?;
    let number = |part: i64| u32::try_from(part).map_err(|_| Errno::INVAL);
    let numbers = (number(device.major())?, number(device.minor())?);
    let node = Node {
        kind,
        numbers,
        mode: device.file_mode().unwrap_or(0o666),
        owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
    };
    match node.make(root, &parent, name) {
        Err(Errno::PERM) => bind_host_node(&parent, name, device.path()),
        // The host's own stands there, as one of the usual ones.
        Err(Errno::EXIST) if plan.own_ids.is_some() && node.is_at(&parent, name) => Ok(()),
        other => other,
    }
}

/// A device node or a pipe.
struct Node {
    kind: FileType,
    numbers: (u32, u32),
    mode: u32,
    owner: (u32, u32),
}

impl Node {
    /// Makes it, whole or not at all: half a node would be taken for a whole one at the next start.
    /// One that is there already, as at a second start, is given the same attributes.
    fn make(&self, root: &Root, parent: &OwnedFd, name: &Path) -> Result<(), Errno> {
        let device = rustix::fs::makedev(self.numbers.0, self.numbers.1);
        let mode = Mode::from_raw_mode(0o600);
        let is_new = match rustix::fs::mknodat(parent, name, self.kind, mode, device) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error),
        };
        if left_out("by-descriptor") {
            return self.give_by_name(parent, name);
        }
        let numbers = (self.kind != FileType::Fifo).then_some(self.numbers);
        let found = place::open_made(parent, name.as_os_str().as_bytes(), self.kind, numbers);
        let given = found.and_then(|found| {
            place::change_owner(&found, self.owner.0, self.owner.1)?;
            root.descriptors.change_mode(&found, self.mode)
        });
        match given {
            Err(Errno::STALE) if !is_new => Err(Errno::EXIST),
            Err(error) if is_new => {
                let _ = rustix::fs::unlinkat(parent, name, AtFlags::empty());
                Err(error)
            }
            other => other,
        }
    }

    /// Whether this very device is shown there.
    fn is_at(&self, parent: &OwnedFd, name: &Path) -> bool {
        let found = place::open_here(parent, name.as_os_str().as_bytes())
            .and_then(|found| rustix::fs::fstat(&found));
        found.is_ok_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == self.kind
                && stat.st_rdev == rustix::fs::makedev(self.numbers.0, self.numbers.1)
        })
    }

    /// What must not be: between the calls the name can come to lead elsewhere.
    #[expect(clippy::disallowed_methods, reason = "never in a release")]
    fn give_by_name(&self, parent: &OwnedFd, name: &Path) -> Result<(), Errno> {
        rustix::fs::chmodat(parent, name, Mode::from_raw_mode(self.mode), AtFlags::empty())
    }
}

/// Shows the host's own node in a place that is made for it, or was at an earlier start.
fn bind_host_node(parent: &OwnedFd, name: &Path, host: &Path) -> Result<(), Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, host, flags)?;
    let place = match files::make(parent, name, Kind::File) {
        Err(Errno::EXIST) => {
            place::open_made(parent, name.as_os_str().as_bytes(), FileType::RegularFile, None)?
        }
        other => other?,
    };
    if mounts::is_procfs(&place) {
        return Err(Errno::PERM);
    }
    rootfs::attach(&tree, &place)
}
