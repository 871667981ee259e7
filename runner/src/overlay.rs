//! Layers stacked into one file system that is attached nowhere yet.
//!
//! Overlayfs clones the mounts that its layers are on, and does so only for mounts of the caller's
//! own mount namespace: so this happens in the launcher, before the clone.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

/// Given explicitly, so that nothing hangs on how the host has configured overlayfs.
const OPTIONS: [(&str, &str); 4] =
    [("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow"), ("xino", "off")];

/// The kernel's own limit. Source: `OVL_MAX_STACK`, fs/overlayfs/params.h.
pub const LAYERS_MAX: usize = 500;

/// What is stacked. All are directories, opened as places (`O_PATH`).
#[derive(Debug)]
pub struct Layers {
    /// The topmost first.
    pub lowers: Vec<OwnedFd>,
    pub upper: OwnedFd,
    pub work: OwnedFd,
    /// The upper layer will be thrown away: it is never synced.
    pub is_volatile: bool,
    /// The marks of layers are attributes that any user may write (`userxattr`).
    pub marks_of_user: bool,
}

/// Whether an error of [`stack`] says that this kernel takes no descriptors as layers (before
/// Linux 6.13), so that [`stack_by_name`] is to be tried.
pub fn wants_names(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::BADF | Errno::NOSYS | Errno::OPNOTSUPP)
}

/// Stacks the layers by descriptor. The result is a detached mount.
///
/// # Errors
/// As fsconfig(2); see [`wants_names`].
pub fn stack(layers: &Layers) -> Result<OwnedFd, Errno> {
    use rustix::mount::{fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string};
    let overlay = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for lower in &layers.lowers {
        fsconfig_set_fd(overlay.as_fd(), "lowerdir+", lower.as_fd())?;
    }
    fsconfig_set_fd(overlay.as_fd(), "upperdir", layers.upper.as_fd())?;
    fsconfig_set_fd(overlay.as_fd(), "workdir", layers.work.as_fd())?;
    for (name, value) in OPTIONS {
        fsconfig_set_string(overlay.as_fd(), name, value)?;
    }
    if layers.is_volatile {
        fsconfig_set_flag(overlay.as_fd(), "volatile")?;
    }
    if layers.marks_of_user {
        fsconfig_set_flag(overlay.as_fd(), "userxattr")?;
    }
    fsconfig_create(overlay.as_fd())?;
    rustix::mount::fsmount(overlay.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// Leaves the caller's mount namespace, so that what is mounted from here on is nobody else's.
/// Descriptors that were opened before belong to the old one.
///
/// # Errors
/// As unshare(2) and mount(2).
pub fn leave_mount_namespace() -> io::Result<()> {
    crate::sys::clone::unshare(libc::CLONE_NEWNS)?;
    // Slave and not private: what the host unmounts later goes away here too.
    let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change(c"/", downstream)?)
}

/// As [`stack_by_name`], of lower layers that are detached mounts: a kernel that wants names wants
/// mounts too that are attached somewhere, and so they are, on a file system of their own.
///
/// # Errors
/// As mount(2) and move_mount(2).
pub fn stack_mounts_by_name(mut layers: Layers, place: &Path) -> Result<OwnedFd, Errno> {
    let kind = c"tmpfs";
    rustix::mount::mount(kind, place, kind, MountFlags::empty(), Some(c"mode=0700"))?;
    let made = attach_lowers(&mut layers, place).and_then(|()| {
        let root = place.join("root");
        rustix::fs::mkdir(&root, Mode::RWXU)?;
        stack_by_name(&layers, &root)
    });
    rustix::mount::unmount(place, UnmountFlags::DETACH)?;
    made
}

fn attach_lowers(layers: &mut Layers, place: &Path) -> Result<(), Errno> {
    for (number, lower) in layers.lowers.iter_mut().enumerate() {
        let here = place.join(number.to_string());
        rustix::fs::mkdir(&here, Mode::RWXU)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(lower.as_fd(), "", CWD, &here, flags)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        *lower = rustix::fs::open(&here, flags, Mode::empty())?;
    }
    Ok(())
}

/// Stacks the layers with mount(2), whose paths are descriptors: no race, and no comma or colon of
/// a directory's name can become an option. In a mount namespace of this process's own
/// ([`leave_mount_namespace`]) the result, first attached at the absolute path `place`, is made a
/// detached mount. The working directory is `/` afterwards.
///
/// # Errors
/// As mount(2); `E2BIG` where the options do not fit into one page, which [`LAYERS_MAX`] do.
pub fn stack_by_name(layers: &Layers, place: &Path) -> Result<OwnedFd, Errno> {
    // From here a descriptor's path is its number: four bytes for each layer instead of eighteen.
    rustix::process::chdir("/proc/self/fd")?;
    let stacked = stack_by_number(layers, place);
    rustix::process::chdir("/")?;
    stacked
}

fn stack_by_number(layers: &Layers, place: &Path) -> Result<OwnedFd, Errno> {
    let name = |fd: &OwnedFd| fd.as_raw_fd().to_string();
    let lowers: Vec<String> = layers.lowers.iter().map(name).collect();
    let (upper, work) = (name(&layers.upper), name(&layers.work));
    let mut data = format!("lowerdir={},upperdir={upper},workdir={work}", lowers.join(":"));
    for (option, value) in OPTIONS {
        data.push_str(&format!(",{option}={value}"));
    }
    if layers.is_volatile {
        data.push_str(",volatile");
    }
    if layers.marks_of_user {
        data.push_str(",userxattr");
    }
    let data = std::ffi::CString::new(data).map_err(|_| Errno::INVAL)?;
    if data.as_bytes().len() >= 4096 {
        return Err(Errno::TOOBIG);
    }
    let flags = MountFlags::empty();
    rustix::mount::mount(c"overlay", place, c"overlay", flags, Some(data.as_c_str()))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let detached = rustix::mount::open_tree(CWD, place, flags);
    rustix::mount::unmount(place, UnmountFlags::DETACH)?;
    detached
}

/// Whether an extended attribute would be read by overlayfs as a mark of its own.
///
/// A layer must not speak to overlayfs: it could hide or redirect what other layers hold.
pub fn speaks_to_overlay(xattr: &str) -> bool {
    xattr.starts_with("trusted.overlay.") || xattr.starts_with("user.overlay.")
}
