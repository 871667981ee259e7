//! The root file system: attached, changed into, sealed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, UnmountFlags};

use super::failure::at;
use super::files::Root;
use super::{Done, Plan, RootSource, Step, paths};
use crate::container::Record;
use crate::overlay::{self, Layers};
use crate::sys::mount::{Attributes, RDONLY, set_attributes};

/// Where the root goes.
pub(super) fn mount_point(plan: &Plan<'_>) -> Done<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::open(plan.mount_point.as_c_str(), flags, Mode::empty());
    at(Step::AttachRoot, 0, place)
}

/// Attaches the stacked layers at the mount point of this mount namespace, and gives their mount.
pub(super) fn assemble(plan: &Plan<'_>, place: &OwnedFd) -> Done<OwnedFd> {
    let root = match &plan.root {
        RootSource::Mount(root) => at(Step::AttachRoot, 1, root.try_clone())?,
        RootSource::Layers(paths) => {
            let open = |path: &PathBuf| {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                rustix::fs::open(path, flags, Mode::empty())
            };
            let layers = || -> Result<Layers, Errno> {
                Ok(Layers {
                    lowers: paths.lowers.iter().map(open).collect::<Result<_, _>>()?,
                    upper: open(&paths.upper)?,
                    work: open(&paths.work)?,
                    is_volatile: paths.is_volatile,
                    marks_of_user: true,
                })
            };
            let layers = at(Step::Stack, 0, layers())?;
            // This mount namespace is the container's own.
            let place = Path::new(OsStr::from_bytes(plan.mount_point.to_bytes()));
            let stacked = match overlay::stack(&layers) {
                Err(error) if overlay::wants_names(error) => overlay::stack_by_name(&layers, place),
                other => other,
            };
            at(Step::Stack, 1, stacked)?
        }
    };
    at(Step::AttachRoot, 0, attach(&root, place))?;
    Ok(root)
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
pub(super) fn pivot(root: &Root) -> Done {
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
pub(super) fn seal(plan: &Plan<'_>, root: &Root) -> Done {
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
