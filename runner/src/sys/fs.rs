//! `fchmodat2(2)`, which the wrappers lack.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use crate::known_bad::left_out;

/// Gives what `fd` leads to another mode, whatever it is: the descriptor may be a mere place
/// (`O_PATH`), for which fchmod(2) is refused.
///
/// # Errors
/// As fchmodat2(2): `ENOSYS` before Linux 6.6, `EOPNOTSUPP` for a symbolic link.
pub fn change_mode(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    /// The same on every architecture. Source: `asm-generic/unistd.h`.
    const SYS_FCHMODAT2: libc::c_long = 452;
    // A test of what is done before Linux 6.6 has to run on any kernel.
    if left_out("fchmodat2") {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    // SAFETY: an open descriptor, an empty C string that outlives the call, and numbers.
    // fchmodat2(2).
    let result = unsafe {
        libc::syscall(SYS_FCHMODAT2, fd.as_raw_fd(), c"".as_ptr(), mode, libc::AT_EMPTY_PATH)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
