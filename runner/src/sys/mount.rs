//! `mount_setattr(2)`, which the wrappers lack.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

// Source: linux/mount.h.
pub const RDONLY: u64 = 0x1;
pub const NOSUID: u64 = 0x2;
pub const NODEV: u64 = 0x4;
pub const NOEXEC: u64 = 0x8;
/// `userns_fd` says whose ids are shown.
pub const IDMAP: u64 = 0x0010_0000;
/// The whole field of access-time modes; cleared when one of them is set.
pub const ATIME_FIELD: u64 = 0x70;
pub const NOATIME: u64 = 0x10;
pub const STRICTATIME: u64 = 0x20;
pub const NODIRATIME: u64 = 0x80;

/// `struct mount_attr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes {
    pub set: u64,
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`, or 0 to leave it.
    pub propagation: u64,
    pub userns_fd: u64,
}

/// Changes the mount that `fd` is the root of; with `recursive` all mounts below it too.
///
/// # Errors
/// As mount_setattr(2); Linux 5.12.
pub fn set_attributes(
    fd: BorrowedFd<'_>,
    attributes: Attributes,
    recursive: bool,
) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, the structure has the kernel's layout and its size is
    // passed along; both outlive the call, which only reads them. mount_setattr(2).
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
