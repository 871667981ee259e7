//! The system calls that no safe wrapper in our dependencies covers. All `unsafe` of this crate.
#![allow(
    unsafe_code,
    reason = "the system calls without a safe wrapper; each call states why it holds"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd as _, OwnedFd, RawFd};

/// Takes over a descriptor that whoever started this process handed to it. Once for each: the
/// number is then this owner's alone.
pub(crate) fn take_over(handed: RawFd) -> OwnedFd {
    // SAFETY: the descriptor is one of LISTEN_FDS, which the service manager opened for this process
    // (LISTEN_PID), was found open just now (its flags were set), and is named by nothing else here:
    // descriptors that this process opens get other numbers while it is open.
    unsafe { OwnedFd::from_raw_fd(handed) }
}

/// Asks the kernel to begin writing `length` dirty bytes at `offset` out to the disk, without
/// waiting for them.
///
/// Makes nothing durable: it only shortens the `fdatasync` that comes later. Source:
/// sync_file_range(2), `SYNC_FILE_RANGE_WRITE`.
///
/// # Errors
/// Write-back errors, `ESPIPE` for what is not a file, `ENOSYS` on kernels without it.
pub(crate) fn start_writeback(file: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: takes integers only and touches no memory of this process; `fd` is open because it
    // is borrowed from `file` until the call returns.
    let code = unsafe { libc::sync_file_range(fd, offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reports `socket` as readable only when it holds `bytes`, or its end. Source: socket(7),
/// `SO_RCVLOWAT`; tcp(7): the kernel makes room for so many.
///
/// # Errors
/// When `socket` is none.
pub(crate) fn set_low_water(socket: impl AsFd, bytes: u64) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: SO_RCVLOWAT reads `length` bytes, one int, through the pointer, which points to a
    // live int; `fd` is open because it is borrowed from `socket` until the call returns.
    let code = unsafe {
        let value = (&raw const bytes).cast();
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, length)
    };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has `socket` take no more bytes while so many wait to be sent. Source: tcp(7),
/// `TCP_NOTSENT_LOWAT`.
///
/// # Errors
/// When `socket` is none of TCP.
pub(crate) fn set_unsent_limit(socket: impl AsFd, bytes: u64) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: TCP_NOTSENT_LOWAT reads `length` bytes, one int, through the pointer, which points to
    // a live int; `fd` is open because it is borrowed from `socket` until the call returns.
    let code = unsafe {
        let value = (&raw const bytes).cast();
        libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, value, length)
    };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Bytes in the socket's send queue that the peer has not acknowledged. Source: tcp(7), `SIOCOUTQ`.
///
/// # Errors
/// When `socket` is not a stream socket.
pub(crate) fn unacknowledged_bytes(socket: impl AsFd) -> io::Result<u64> {
    let mut queued: libc::c_int = 0;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: SIOCOUTQ (== TIOCOUTQ) writes one int through the pointer, which points to a live
    // int; `fd` is open because it is borrowed from `socket` until the call returns.
    let code = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut queued) };
    if code == 0 { Ok(u64::try_from(queued).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

/// Whether all of `length` bytes of `file` from `offset` have a place in the page cache, be it that
/// they are still being read into it. Source: cachestat(2), Linux 6.5.
///
/// # Errors
/// `ENOSYS` on older kernels, `EPERM` where a sandbox does not know the call.
pub(crate) fn is_cached(file: impl AsFd, offset: u64, length: u64) -> io::Result<bool> {
    /// Not in `libc` yet. The same on every architecture that shares the new numbers (all but Alpha).
    const SYS_CACHESTAT: libc::c_long = 451;
    let range = [offset, length];
    // Pages that are cached, dirty, being written, evicted, evicted lately.
    let mut pages = [0_u64; 5];
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: reads two and writes five 64-bit numbers through pointers to arrays of that size,
    // which live until the call returns; `fd` is open because it is borrowed from `file`.
    let code = unsafe { libc::syscall(SYS_CACHESTAT, fd, range.as_ptr(), pages.as_mut_ptr(), 0) };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    let page = rustix::param::page_size() as u64;
    let whole = (offset + length).div_ceil(page) - offset / page;
    Ok(pages[0] >= whole)
}
