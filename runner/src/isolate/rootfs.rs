//! The root file system: stacked, attached, changed into, sealed.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    UnmountFlags,
};

use super::failure::{at, failed};
use super::{Done, Plan, Step, paths};
use crate::container::Record;
use crate::sys::mount::{Attributes, RDONLY, set_attributes};

/// Given explicitly, so that nothing hangs on how the host has configured overlayfs.
const OPTIONS: [(&str, &str); 4] =
    [("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow"), ("xino", "off")];

/// Stacks the layers and attaches them at the mount point of this mount namespace.
pub(super) fn assemble(plan: &Plan<'_>) -> Done<OwnedFd> {
    let place = || {
        rustix::fs::open(plan.mount_point.as_c_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    };
    match stack_by_descriptor(plan) {
        Ok(root) => {
            let place = at(Step::AttachRoot, 0, place())?;
            at(Step::AttachRoot, 0, attach(&root, &place))?;
            Ok(root)
        }
        // Before Linux 6.13 overlayfs takes no descriptors.
        Err(Errno::INVAL | Errno::BADF | Errno::NOSYS | Errno::OPNOTSUPP) => {
            at(Step::Overlay, 0, stack_by_name(plan))?;
            at(Step::AttachRoot, 0, place())
        }
        Err(error) => Err(failed(Step::Overlay, 0, error.raw_os_error())),
    }
}

fn stack_by_descriptor(plan: &Plan<'_>) -> Result<OwnedFd, Errno> {
    use rustix::mount::{fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string};
    let overlay = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for lower in &plan.lowers {
        fsconfig_set_fd(overlay.as_fd(), "lowerdir+", lower.as_fd())?;
    }
    fsconfig_set_fd(overlay.as_fd(), "upperdir", plan.upper.as_fd())?;
    fsconfig_set_fd(overlay.as_fd(), "workdir", plan.work.as_fd())?;
    for (name, value) in OPTIONS {
        fsconfig_set_string(overlay.as_fd(), name, value)?;
    }
    if plan.record.remove_on_exit {
        fsconfig_set_flag(overlay.as_fd(), "volatile")?;
    }
    fsconfig_create(overlay.as_fd())?;
    rustix::mount::fsmount(overlay.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// mount(2) with paths that are descriptors: no race, and no comma or colon of a directory's name
/// can become an option. The whole text must fit into one page.
fn stack_by_name(plan: &Plan<'_>) -> Result<(), Errno> {
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let lowers: Vec<String> = plan.lowers.iter().map(name).collect();
    let mut data = format!(
        "lowerdir={},upperdir={},workdir={}",
        lowers.join(":"),
        name(&plan.upper),
        name(&plan.work)
    );
    for (option, value) in OPTIONS {
        data.push_str(&format!(",{option}={value}"));
    }
    if plan.record.remove_on_exit {
        data.push_str(",volatile");
    }
    let data = std::ffi::CString::new(data).map_err(|_| Errno::INVAL)?;
    if data.as_bytes().len() >= 4096 {
        return Err(Errno::TOOBIG);
    }
    rustix::mount::mount(
        c"overlay",
        plan.mount_point.as_c_str(),
        c"overlay",
        MountFlags::empty(),
        Some(data.as_c_str()),
    )
}

/// Puts a detached mount at a place.
pub(super) fn attach(mount: &OwnedFd, place: &OwnedFd) -> Result<(), Errno> {
    rustix::mount::move_mount(
        mount.as_fd(),
        "",
        place.as_fd(),
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}

/// Makes `root` the root of this mount namespace, and lets go of the host's.
pub(super) fn pivot(root: &OwnedFd) -> Done {
    let go = || -> Result<(), Errno> {
        let old = rustix::fs::open(
            "/",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        rustix::process::fchdir(root)?;
        // On top of itself: no directory for the old root is needed. pivot_root(2), NOTES.
        rustix::process::pivot_root(".", ".")?;
        rustix::process::fchdir(&old)?;
        // Or the unmount would travel to the host.
        rustix::mount::mount_change(
            c".",
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
        )?;
        rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")
    };
    at(Step::PivotRoot, 0, go())
}

/// The read-only root, read-only paths and masked paths.
pub(super) fn seal(plan: &Plan<'_>, root: &OwnedFd) -> Done {
    let spec = &plan.record.spec;
    if spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false) {
        let read_only = Attributes { set: RDONLY, ..Attributes::default() };
        at(Step::ReadOnlyRoot, 0, set_attributes(root.as_fd(), read_only, false))?;
    }
    let Some(linux) = spec.linux() else { return Ok(()) };
    paths::make_read_only(root, linux.readonly_paths().as_deref().unwrap_or_default())?;
    paths::mask(root, linux.masked_paths().as_deref().unwrap_or_default())
}

/// In order of name: the position is what a failure is told by.
pub(super) fn sorted(all: &HashMap<String, String>) -> Vec<(&String, &String)> {
    let mut all: Vec<_> = all.iter().collect();
    all.sort();
    all
}

/// Writes sysctls through `proc`, an instance of our own: one inside the container could be
/// something else by now (CVE-2025-52881).
pub(super) fn write_sysctls(plan: &Plan<'_>, proc: &OwnedFd) -> Done {
    let linux = plan.record.spec.linux().as_ref();
    let Some(all) = linux.and_then(|linux| linux.sysctl().as_ref()) else { return Ok(()) };
    for (index, (name, value)) in sorted(all).into_iter().enumerate() {
        let path = format!("sys/{}", name.replace('.', "/"));
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let written = rustix::fs::openat2(proc, Path::new(&path), flags, Mode::empty(), resolve)
            .and_then(|file| rustix::io::write(&file, value.as_bytes()));
        at(Step::Sysctl, index, written)?;
    }
    Ok(())
}

/// Host and domain name, where the container has its own.
pub(super) fn set_names(record: &Record) -> Done {
    if let Some(name) = record.spec.hostname() {
        at(Step::Hostname, 0, rustix::system::sethostname(name.as_bytes()))?;
    }
    if let Some(name) = record.spec.domainname() {
        at(Step::Hostname, 1, rustix::system::setdomainname(name.as_bytes()))?;
    }
    Ok(())
}
