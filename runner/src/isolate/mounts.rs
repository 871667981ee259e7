//! The mounts of the Spec, in its order, and the files that the runner puts into `/etc`.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Mount;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};

use super::failure::at;
use super::files::{self, Kind, Root};
use super::{Done, EtcFile, Plan, Step, cgroupfs, populate, rootfs};
use crate::known_bad::left_out;
use crate::spec::OF_OTHER_CONTAINER;
use crate::sys::mount as attr;
use crate::sys::mount::{Attributes, set_attributes};

/// A mount's options, taken apart.
#[derive(Debug, Default)]
struct Options<'a> {
    is_bind: bool,
    is_recursive: bool,
    set: u64,
    clear: u64,
    /// `rro`: for everything below as well.
    read_only_recursively: bool,
    propagation: Option<(u64, bool)>,
    /// For the file system itself: name, and value if it has one.
    data: Vec<(&'a str, Option<&'a str>)>,
}

fn parse(mount: &Mount) -> Options<'_> {
    let mut all = Options::default();
    for option in mount.options().as_deref().unwrap_or_default() {
        let (set, clear) = match option.as_str() {
            "bind" => {
                all.is_bind = true;
                continue;
            }
            "rbind" => {
                (all.is_bind, all.is_recursive) = (true, true);
                continue;
            }
            "rro" => {
                all.read_only_recursively = true;
                (attr::RDONLY, 0)
            }
            "ro" => (attr::RDONLY, 0),
            "rw" => (0, attr::RDONLY),
            "nosuid" => (attr::NOSUID, 0),
            "suid" => (0, attr::NOSUID),
            "nodev" => (attr::NODEV, 0),
            "dev" => (0, attr::NODEV),
            "noexec" => (attr::NOEXEC, 0),
            "exec" => (0, attr::NOEXEC),
            "noatime" => (attr::NOATIME, attr::ATIME_FIELD),
            "strictatime" => (attr::STRICTATIME, attr::ATIME_FIELD),
            "relatime" => (0, attr::ATIME_FIELD),
            "nodiratime" => (attr::NODIRATIME, 0),
            "diratime" => (0, attr::NODIRATIME),
            "defaults" => continue,
            other => {
                match propagation(other) {
                    Some(found) => all.propagation = Some(found),
                    None => all.data.push(match other.split_once('=') {
                        Some((name, value)) => (name, Some(value)),
                        None => (other, None),
                    }),
                }
                continue;
            }
        };
        // The last word on a matter counts.
        all.set = all.set & !clear | set;
        all.clear = all.clear & !set | clear;
    }
    all
}

fn propagation(option: &str) -> Option<(u64, bool)> {
    let (name, recursive) = match option.strip_prefix('r') {
        Some(rest) if ["private", "slave", "shared", "unbindable"].contains(&rest) => (rest, true),
        _ => (option, false),
    };
    let kind = match name {
        "private" => libc::MS_PRIVATE,
        "slave" => libc::MS_SLAVE,
        "shared" => libc::MS_SHARED,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => return None,
    };
    Some((kind, recursive))
}

/// The sources of those binds whose mounts are to go both ways (`rshared`), by their place in the
/// Spec: opened before this mount namespace hears of the host's mounts only, they stay the host's
/// peers.
pub(super) fn open_shared(plan: &Plan<'_>) -> Done<Vec<(usize, OwnedFd)>> {
    let mut all = Vec::new();
    for (item, mount) in plan.record.spec.mounts().iter().flatten().enumerate() {
        let options = parse(mount);
        let is_shared = options.propagation.is_some_and(|(kind, _)| kind == libc::MS_SHARED);
        let is_open = plan.sources.get(item).is_some_and(Option::is_some);
        if options.is_bind && is_shared && !is_open {
            all.push((item, at(Step::MountSource, item, open_source(mount, &options))?));
        }
    }
    Ok(all)
}

/// The sources of all binds, opened where the container's own ids would not lead to them; `None`
/// for mounts that have none on the host.
///
/// # Errors
/// The step that failed.
pub fn open_sources(mounts: &[Mount]) -> Done<Vec<Option<OwnedFd>>> {
    let open = |(item, mount): (usize, &Mount)| {
        let options = parse(mount);
        let is_of_other = mount.source().as_deref() == Some(Path::new(OF_OTHER_CONTAINER));
        if !options.is_bind || is_of_other {
            return Ok(None);
        }
        at(Step::MountSource, item, open_source(mount, &options)).map(Some)
    };
    mounts.iter().enumerate().map(open).collect()
}

fn open_source(mount: &Mount, options: &Options<'_>) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if options.is_recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(CWD, mount.source().as_deref().unwrap_or(Path::new("")), flags)
}

/// Attaches all mounts. Gives the root of the container's procfs, by the descriptor that made it:
/// what a path leads to could be something else by now (CVE-2025-52881).
pub(super) fn attach_all(
    plan: &Plan<'_>,
    root: &Root,
    mut shared: Vec<(usize, OwnedFd)>,
) -> Done<OwnedFd> {
    let mut procfs = None;
    let spec = &plan.record.spec;
    for (item, mount) in spec.mounts().as_deref().unwrap_or_default().iter().enumerate() {
        let options = parse(mount);
        if options.is_bind {
            let volume = plan.volumes.iter().find(|(mount, _)| *mount == item);
            let early = shared.iter().position(|(of, _)| *of == item);
            let early = early.map(|at| shared.swap_remove(at).1);
            bind(plan, root, mount, &options, item, volume.map(|(_, volume)| volume), early)?;
        } else if is_of(mount, "cgroup") {
            let place = target(root, mount, Kind::Directory, item)?;
            at(Step::MountTarget, item, leave_proc_alone(None, &place, mount.destination()))?;
            at(Step::Mount, item, cgroupfs::attach(plan, &place, options.set))?;
        } else {
            let mut options = options;
            let mode = mode_of_place(root, mount, &options);
            options.data.extend(mode.as_deref().map(|mode| ("mode", Some(mode))));
            let made = at(Step::Mount, item, make_or_take(plan, mount, &options))?;
            let place = target(root, mount, Kind::Directory, item)?;
            let kept = leave_proc_alone(Some(&made), &place, mount.destination());
            at(Step::MountTarget, item, kept)?;
            at(Step::Mount, item, rootfs::attach(&made, &place))?;
            propagate(&made, &options, item)?;
            if is_of(mount, "proc") {
                procfs = Some(made);
            }
        }
    }
    if let Some(procfs) = procfs {
        return Ok(procfs);
    }
    let plain = Options::default();
    let mut proc = Mount::default();
    proc.set_typ(Some("proc".to_owned()));
    at(Step::Sysctl, usize::from(u16::MAX), make_or_take(plan, &proc, &plain))
}

/// A tmpfs over a directory has that one's mode, unless it was told another: `/tmp` stays 1777, a
/// home 0700. Source: runc, `mountToRootfs`.
fn mode_of_place(root: &Root, mount: &Mount, options: &Options<'_>) -> Option<String> {
    let is_told = options.data.iter().any(|(name, _)| *name == "mode");
    if mount.typ().as_deref() != Some("tmpfs") || is_told {
        return None;
    }
    let place = files::locate(root, mount.destination()).ok()?;
    let mode = rustix::fs::fstat(&place).ok()?.st_mode;
    Some(format!("{:04o}", mode & 0o7777))
}

/// Where a mount goes: found or made inside the root.
fn target(root: &Root, mount: &Mount, kind: Kind, item: usize) -> Done<OwnedFd> {
    let path = mount.destination();
    let of_kernel =
        matches!(mount.typ().as_deref(), Some("proc" | "sysfs")) && !left_out("proc-without-links");
    let found = if of_kernel {
        // A link would have procfs mounted somewhere else, and the real /proc be the image's
        // (CVE-2019-19921, CVE-2023-27561).
        match files::locate_without_links(root, path) {
            Err(Errno::NOENT) => files::locate_or_make(root, path, kind),
            other => other,
        }
    } else {
        files::locate_or_make(root, path, kind)
    };
    let place = at(Step::MountTarget, item, found)?;
    let is_directory = at(Step::MountTarget, item, files::is_directory(&place))?;
    if is_directory == (kind == Kind::Directory) {
        Ok(place)
    } else {
        let errno = if is_directory { libc::EISDIR } else { libc::ENOTDIR };
        Err(super::failure::failed(Step::MountTarget, item, errno))
    }
}

/// Files of procfs over which a mount is allowed: what lxcfs shows in their place, and CRIU's.
/// Source: runc, `checkProcMount`.
const OVER_PROC: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Nothing else may pose as procfs, or lie over a part of it (CVE-2019-16884): later steps, and
/// every security module, trust what they read and write there.
pub(super) fn leave_proc_alone(
    tree: Option<&OwnedFd>,
    place: &OwnedFd,
    path: &Path,
) -> Result<(), Errno> {
    let poses = files::same(path, "/proc") && !tree.is_some_and(is_procfs);
    let covers = is_procfs(place)
        && !files::same(path, "/proc")
        && !OVER_PROC.iter().any(|allowed| files::same(path, allowed));
    if (poses || covers) && !left_out("proc-kept-free") { Err(Errno::PERM) } else { Ok(()) }
}

pub(super) fn is_procfs(fd: &OwnedFd) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|found| found.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

/// A file system of its own, detached, or the procfs of those whose processes it shares.
fn make_or_take(plan: &Plan<'_>, mount: &Mount, options: &Options<'_>) -> Result<OwnedFd, Errno> {
    let Some(theirs) = plan.joined_procfs.as_ref().filter(|_| is_of(mount, "proc")) else {
        return make(mount, options);
    };
    let taken = rustix::io::fcntl_dupfd_cloexec(theirs, 0)?;
    let attributes = Attributes { set: options.set, clear: options.clear, ..Attributes::default() };
    set_attributes(taken.as_fd(), attributes, false)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(taken)
}

fn is_of(mount: &Mount, kind: &str) -> bool {
    mount.typ().as_deref() == Some(kind)
}

/// A file system of its own, detached.
fn make(mount: &Mount, options: &Options<'_>) -> Result<OwnedFd, Errno> {
    let kind = mount.typ().as_deref().unwrap_or("none");
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    if let Some(source) = mount.source() {
        rustix::mount::fsconfig_set_string(context.as_fd(), "source", source)?;
    }
    for &(name, value) in &options.data {
        match value {
            Some(value) => rustix::mount::fsconfig_set_string(context.as_fd(), name, value)?,
            None => rustix::mount::fsconfig_set_flag(context.as_fd(), name)?,
        }
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes =
        MountAttrFlags::from_bits_retain(u32::try_from(options.set).map_err(|_| Errno::INVAL)?);
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn bind(
    plan: &Plan<'_>,
    root: &Root,
    mount: &Mount,
    options: &Options<'_>,
    item: usize,
    volume: Option<&OwnedFd>,
    early: Option<OwnedFd>,
) -> Done {
    let is_of_other = mount.source().as_deref() == Some(Path::new(OF_OTHER_CONTAINER));
    let opened = plan.sources.get(item).and_then(Option::as_ref);
    let tree = match (&plan.shm, early) {
        (_, Some(tree)) => tree,
        _ if opened.is_some() => {
            at(Step::MountSource, item, opened.map(OwnedFd::try_clone).transpose())?
                .ok_or_else(|| super::failure::failed(Step::MountSource, item, libc::EBADF))?
        }
        (Some(shm), None) if is_of_other => at(Step::MountSource, item, shm.try_clone())?,
        _ => at(Step::MountSource, item, open_source(mount, options))?,
    };
    let is_directory = at(Step::MountSource, item, files::is_directory(&tree))?;
    let kind = if is_directory { Kind::Directory } else { Kind::File };
    let place = target(root, mount, kind, item)?;
    let kept = leave_proc_alone(Some(&tree), &place, mount.destination());
    at(Step::MountTarget, item, kept)?;
    if let (Some(volume), true) = (volume, is_directory) {
        at(Step::Populate, item, populate::fill_if_empty(&root.descriptors, &place, volume))?;
    }
    if options.set | options.clear != 0 {
        let attributes =
            Attributes { set: options.set, clear: options.clear, ..Attributes::default() };
        let everything = options.read_only_recursively;
        at(Step::Mount, item, set_attributes(tree.as_fd(), attributes, everything))?;
    }
    propagate(&tree, options, item)?;
    at(Step::Mount, item, rootfs::attach(&tree, &place))
}

fn propagate(mount: &OwnedFd, options: &Options<'_>, item: usize) -> Done {
    let Some((propagation, recursive)) = options.propagation else { return Ok(()) };
    let attributes = Attributes { propagation, ..Attributes::default() };
    at(Step::Mount, item, set_attributes(mount.as_fd(), attributes, recursive))
}

/// `/etc/hosts` and its like, over whatever the image has there.
pub(super) fn attach_etc(plan: &Plan<'_>, root: &Root) -> Done {
    let spec = &plan.record.spec;
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let read_only = spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly);
    for (item, EtcFile { target, path, tree }) in plan.etc.iter().enumerate() {
        let theirs = |mount: &Mount| {
            files::same(mount.destination(), target) || files::same(mount.destination(), "/etc")
        };
        if mounts.iter().any(theirs) {
            continue;
        }
        let tree = match tree {
            Some(tree) => at(Step::EtcFile, item, tree.try_clone())?,
            None => {
                let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
                at(Step::EtcFile, item, rustix::mount::open_tree(CWD, path, flags))?
            }
        };
        if read_only == Some(true) {
            let attributes = Attributes { set: attr::RDONLY, ..Attributes::default() };
            at(Step::EtcFile, item, set_attributes(tree.as_fd(), attributes, false))?;
        }
        let place = files::locate_or_make(root, Path::new(target), Kind::File);
        let place = at(Step::EtcFile, item, place)?;
        at(Step::EtcFile, item, leave_proc_alone(Some(&tree), &place, Path::new(target)))?;
        at(Step::EtcFile, item, rootfs::attach(&tree, &place))?;
    }
    if !mounts.iter().any(|mount| files::same(mount.destination(), "/etc")) {
        link_mount_table(root);
    }
    Ok(())
}

/// Where old programs read what is mounted; Docker makes it as well. An image that has one, or
/// whose `/etc` is no directory, keeps what it has.
fn link_mount_table(root: &Root) {
    if let Ok(etc) = files::locate(root, Path::new("/etc")) {
        let _ = rustix::fs::symlinkat("/proc/mounts", &etc, "mtab");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_apart() {
        let mut mount = Mount::default();
        let words = ["rbind", "rprivate", "ro", "nosuid", "suid", "mode=1777", "newinstance"];
        mount.set_options(Some(words.iter().map(|&word| word.to_owned()).collect()));
        let options = parse(&mount);
        assert!(options.is_bind && options.is_recursive && !options.read_only_recursively);
        assert_eq!((options.set, options.clear), (attr::RDONLY, attr::NOSUID));
        assert_eq!(options.propagation, Some((libc::MS_PRIVATE, true)));
        assert_eq!(options.data, [("mode", Some("1777")), ("newinstance", None)]);
        assert_eq!(propagation("rslave"), Some((libc::MS_SLAVE, true)));
        assert_eq!(propagation("shared"), Some((libc::MS_SHARED, false)));
        assert_eq!(propagation("ro"), None);
    }
}
