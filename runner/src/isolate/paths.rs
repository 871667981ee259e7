//! Read-only and masked paths. Only a path that is not there is passed over: everything else that
//! goes wrong is a failure, or the container would run with less protection than it was given.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};

use super::failure::{at, failed};
use super::files::Root;
use super::{Done, Step, files, rootfs};
use crate::known_bad::left_out;
use crate::sys::mount::{Attributes, RDONLY, set_attributes};

fn place(root: &Root, path: &str, step: Step, item: usize) -> Done<Option<OwnedFd>> {
    match files::locate(root, Path::new(path)) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(failed(step, item, error.raw_os_error())),
    }
}

/// A detached copy of the mount tree at `place`, read-only, put on top of it. The place is
/// resolved once: what is made read-only is what was found.
pub(super) fn make_read_only(root: &Root, paths: &[String]) -> Done {
    for (item, path) in paths.iter().enumerate() {
        let step = Step::ReadOnlyPath;
        let Some(place) = place(root, path, step, item)? else { continue };
        let copy = at(step, item, clone_tree(&place))?;
        let read_only = Attributes { set: RDONLY, ..Attributes::default() };
        at(step, item, set_attributes(copy.as_fd(), read_only, true))?;
        at(step, item, rootfs::attach(&copy, &place))?;
    }
    Ok(())
}

/// A detached copy of what is mounted at `place` and below.
pub(super) fn clone_tree(place: &OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::mount::open_tree(
        place.as_fd(),
        "",
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE,
    )
}

/// Files are covered with `/dev/null`, directories with an empty read-only directory.
pub(super) fn mask(root: &Root, paths: &[String]) -> Done {
    let mut null = None;
    let mut empty = None;
    let paths = if left_out("masked") { &[] } else { paths };
    for (item, path) in paths.iter().enumerate() {
        let step = Step::MaskedPath;
        let Some(place) = place(root, path, step, item)? else { continue };
        let cover =
            if at(step, item, files::is_directory(&place))? { &mut empty } else { &mut null };
        // One instance serves all paths: only the copies of its mount are many.
        if let Some(cover) = cover {
            let copy = at(step, item, clone_tree(cover))?;
            at(step, item, rootfs::attach(&copy, &place))?;
            continue;
        }
        let is_directory = at(step, item, files::is_directory(&place))?;
        let made =
            at(step, item, if is_directory { empty_directory() } else { null_device(root) })?;
        // The first directory gets the instance itself: a mount that is attached nowhere is
        // dissolved when its descriptor is closed, and that waits for the kernel.
        let copy = if is_directory { None } else { Some(at(step, item, clone_tree(&made))?) };
        at(step, item, rootfs::attach(copy.as_ref().unwrap_or(&made), &place))?;
        *cover = Some(made);
    }
    Ok(())
}

fn empty_directory() -> Result<OwnedFd, Errno> {
    let tmpfs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(tmpfs.as_fd(), "mode", "0755")?;
    rustix::mount::fsconfig_set_flag(tmpfs.as_fd(), "ro")?;
    rustix::mount::fsconfig_create(tmpfs.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(tmpfs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// The container's `/dev/null`, looked at: something else under that name would leave the path
/// readable, or give it other content (CVE-2025-31133).
fn null_device(root: &Root) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let null = files::locate_without_links(root, Path::new("/dev/null"))
        .or_else(|_| rustix::fs::openat(CWD, "/dev/null", flags, Mode::empty()))?;
    let stat = rustix::fs::fstat(&null)?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) == (1, 3);
    if is_null || left_out("null-checked") { Ok(null) } else { Err(Errno::NXIO) }
}
