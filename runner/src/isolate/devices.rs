//! Device nodes and the links that belong into `/dev`.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use super::failure::at;
use super::files::{self, Kind};
use super::{Done, Plan, Step, rootfs};
use crate::known_bad::left_out;

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
pub(super) fn make_all(plan: &Plan<'_>, root: &OwnedFd) -> Done {
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
            let made = make_node(&dev, Path::new(name), FileType::CharacterDevice, (major, minor));
            let made = match made {
                // No CAP_MKNOD for whoever started us: the host's own node does as well.
                Err(Errno::PERM) => bind_host_node(&dev, Path::new(name), &host_path(name)),
                other => other.and_then(|()| give(&dev, Path::new(name), 0o666, 0, 0)),
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
        at(Step::Device, item, make_asked(root, device))?;
    }
    Ok(())
}

fn host_path(name: &str) -> PathBuf {
    Path::new("/dev").join(name)
}

fn make_asked(root: &OwnedFd, device: &LinuxDevice) -> Result<(), Errno> {
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A | LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
    };
    let Some((parent, name)) = files::split(device.path()) else { return Err(Errno::INVAL) };
    let parent = files::locate_or_make(root, parent, Kind::Directory)?;
    let number = |part: i64| u32::try_from(part).map_err(|_| Errno::INVAL);
    let numbers = (number(device.major())?, number(device.minor())?);
    match make_node(&parent, name, kind, numbers) {
        Err(Errno::EXIST) => Ok(()),
        Err(Errno::PERM) => bind_host_node(&parent, name, device.path()),
        Err(error) => Err(error),
        Ok(()) => {
            let mode = device.file_mode().unwrap_or(0o666);
            give(&parent, name, mode, device.uid().unwrap_or(0), device.gid().unwrap_or(0))
        }
    }
}

fn make_node(
    parent: &OwnedFd,
    name: &Path,
    kind: FileType,
    (major, minor): (u32, u32),
) -> Result<(), Errno> {
    let device = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device)?;
    let stat = rustix::fs::statat(parent, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    // Between the two calls somebody may have put something else there.
    let same = FileType::from_raw_mode(stat.st_mode) == kind
        && (kind == FileType::Fifo || stat.st_rdev == device);
    if same { Ok(()) } else { Err(Errno::STALE) }
}

fn give(parent: &OwnedFd, name: &Path, mode: u32, uid: u32, gid: u32) -> Result<(), Errno> {
    use rustix::fs::AtFlags;
    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
    rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())
}

fn bind_host_node(parent: &OwnedFd, name: &Path, host: &Path) -> Result<(), Errno> {
    let tree = rustix::mount::open_tree(
        CWD,
        host,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(parent.as_fd(), name, flags, Mode::from_raw_mode(0o644))?;
    let place = rustix::fs::openat(
        parent.as_fd(),
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    rootfs::attach(&tree, &place)
}
