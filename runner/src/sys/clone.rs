//! `clone3(2)` and joining namespaces.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Forked {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// Past the 32 bits that libc has for it. Source: linux/sched.h.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` up to `cgroup` (`CLONE_ARGS_SIZE_VER2`, Linux 5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks this single-threaded process into new namespaces (`CLONE_NEW*` in `namespaces`) and, with
/// `cgroup`, straight into that cgroup-v2 directory.
///
/// The child sees `CLONE_PIDFD`-less copies of everything: memory, descriptors, signal mask. It
/// must not return into the parent's code: it ends by execve(2) or `_exit`.
///
/// # Errors
/// As clone3(2).
///
/// # Panics
/// When this process has more than one thread: locks of the others would stay locked for ever in
/// the child.
pub fn clone(namespaces: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    assert!(is_single_threaded(), "only a process of one thread may be cloned");
    let mut pidfd: i32 = -1;
    let mut flags = u64::from(namespaces.cast_unsigned()) | libc::CLONE_PIDFD as u64;
    if cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    let arguments = CloneArguments {
        flags,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
        ..CloneArguments::default()
    };
    // SAFETY: the structure has the layout of `struct clone_args` and its size is passed along;
    // `pidfd` outlives the call. Without CLONE_VM and with no stack given this is fork(2): the
    // child has its own copy of all memory. One thread (asserted), so no lock of the allocator or
    // of libc can be held by somebody who does not exist in the child. clone3(2).
    let result = unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArguments>())
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => {
            // SAFETY: the kernel has put a new descriptor there, which nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent { pid: pid as i32, pidfd })
        }
    }
}

fn is_single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").map_or(true, |tasks| tasks.count() == 1)
}

/// Joins namespaces: of a namespace descriptor, or several at once of a pidfd (Linux 5.8).
///
/// # Errors
/// As setns(2).
pub fn join(fd: BorrowedFd<'_>, kinds: i32) -> io::Result<()> {
    // SAFETY: takes an open descriptor and flags, touches no memory of ours. setns(2).
    match unsafe { libc::setns(fd.as_raw_fd(), kinds) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Leaves namespaces for new ones.
///
/// # Errors
/// As unshare(2).
pub fn unshare(kinds: i32) -> io::Result<()> {
    // SAFETY: flags only. unshare(2).
    match unsafe { libc::unshare(kinds) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// fork(2) by the old call: inside a container the policy may answer clone3(2) with ENOSYS. `None`
/// in the child.
///
/// # Errors
/// As fork(2).
pub fn fork() -> io::Result<Option<i32>> {
    // SAFETY: one thread, as in `clone`; the child goes on in its own copy of all memory.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        child => Ok(Some(child)),
    }
}

/// clone(2) by the old call, for the same reason; the child is not this process's but its parent's,
/// and signals its end as this one does. `None` in the child, its number for this process else.
///
/// # Errors
/// As clone(2), `CLONE_PARENT`.
pub fn fork_for_parent() -> io::Result<Option<i32>> {
    let flags = libc::c_long::from(libc::CLONE_PARENT);
    // SAFETY: without CLONE_VM and with no stack given this is fork(2), and numbers that are not
    // asked for are null. One thread, as in `clone`; the child goes on in its own copy of all
    // memory. clone(2).
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        child => Ok(Some(child as i32)),
    }
}

/// Ends this process at once: no destructor, no buffer is flushed.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not return and touches no memory. _exit(2).
    unsafe { libc::_exit(code) }
}
