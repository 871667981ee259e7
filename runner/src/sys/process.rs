//! What a process does to itself before it becomes a container's program.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr;
use std::sync::OnceLock;

use crate::known_bad::left_out;

pub(super) fn check(result: libc::c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes every descriptor from `first` on.
///
/// # Errors
/// As close_range(2); Linux 5.9.
pub fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: descriptors of this process only. Nothing that owns one of them is used again: the
    // callers are a program's first lines, and the last ones before execve(2). close_range(2).
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) })
}

/// Closes every descriptor but 0, 1, 2 and `kept`, which gets the number 3 and is closed when the
/// next program starts.
///
/// # Errors
/// As dup3(2) and close_range(2).
pub fn keep_alone(kept: OwnedFd) -> io::Result<OwnedFd> {
    const NUMBER: RawFd = 3;
    if kept.as_raw_fd() == NUMBER {
        close_from(NUMBER + 1)?;
        return Ok(kept);
    }
    // SAFETY: whatever has the number is closed, and so is all the rest: nothing that owns one of
    // them is used again, since the caller's next step is another program. dup3(2).
    check(libc::c_long::from(unsafe { libc::dup3(kept.as_raw_fd(), NUMBER, libc::O_CLOEXEC) }))?;
    // It is closed with the others, not by its owner.
    std::mem::forget(kept);
    close_from(NUMBER + 1)?;
    // SAFETY: the call succeeded, so the number is open, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(NUMBER) })
}

/// Closes every descriptor from `first` on when the next program starts.
///
/// # Errors
/// As close_range(2); `CLOSE_RANGE_CLOEXEC` is of Linux 5.11.
pub fn close_from_on_exec(first: RawFd) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: sets a flag of descriptors of this process. close_range(2).
    check(unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC)
    })
}

/// Puts `fds` where the next program finds them, from number `first` on. They must lie above.
///
/// # Errors
/// As dup2(2); `EINVAL` where one would be overwritten.
pub fn hand_down(fds: &[BorrowedFd<'_>], first: RawFd) -> io::Result<()> {
    let end = first + fds.len() as RawFd;
    if fds.iter().any(|fd| fd.as_raw_fd() < end) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (fd, number) in fds.iter().zip(first..) {
        // SAFETY: an open descriptor and a number; whatever was open there belongs to a process
        // that is about to become another program. dup2(2).
        check(libc::c_long::from(unsafe { libc::dup2(fd.as_raw_fd(), number) }))?;
    }
    Ok(())
}

/// The descriptor that a parent has handed down as number `fd`.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: asks for a flag of whatever is open under that number. fcntl(2).
    check(libc::c_long::from(unsafe { libc::fcntl(fd, libc::F_GETFD) }))?;
    // SAFETY: it is open, as just seen, and by the contract with the parent it is ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// All signals as they are for a new program: default action, none blocked. Rust ignores SIGPIPE,
/// which execve(2) would hand on: `yes | head` would never end.
pub fn reset_signals() {
    /// Bytes of the kernel's `sigset_t`.
    const SET_BYTES: usize = 8;
    // The kernel's `struct sigaction`, all zero: SIG_DFL, no flags, nothing blocked.
    let default_action = [0_u64; 4];
    let none = [0_u8; SET_BYTES];
    // SAFETY: by the kernel's own calls, since libc keeps two numbers (32, 33) for itself and does
    // not let them be reset. The calls read the two arrays, which are as large as the kernel's
    // structures and outlive them; for KILL and STOP they fail, which is as well.
    // rt_sigaction(2), rt_sigprocmask(2).
    unsafe {
        for number in 1..=64 {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                default_action.as_ptr(),
                ptr::null_mut::<u8>(),
                SET_BYTES,
            );
        }
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            none.as_ptr(),
            ptr::null_mut::<u8>(),
            SET_BYTES,
        );
    }
}

/// A new, empty session keyring, so that the container does not have the caller's keys.
///
/// # Errors
/// As keyctl(2); `ENOSYS` where the kernel has no keyrings.
pub fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring. keyctl_join_session_keyring(3).
    check(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<u8>())
    })
}

/// Sets all user and group ids of this thread, groups first, by the kernel's own calls: libc's
/// would want to tell other threads, of which there are none.
///
/// # Errors
/// As setgroups(2), setresgid(2), setresuid(2).
pub fn set_ids(uid: u32, gid: u32, groups: Option<&[u32]>) -> io::Result<()> {
    if let Some(groups) = groups.filter(|_| !left_out("groups-cleared")) {
        // SAFETY: the pointer is to `len` numbers that outlive the call. setgroups(2).
        check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    }
    // SAFETY: numbers only. setresgid(2).
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: numbers only. setresuid(2).
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })
}

/// Shows `words` as this process's command line, as much of them as there is room for, and `name`
/// as its name. What it was started with is forgotten, and what it shows is inherited by a fork.
///
/// # Errors
/// When `/proc` is not this process's, for the first time it is needed; as prctl(2).
pub fn show_as(name: &CStr, words: &[CString]) -> io::Result<()> {
    static AREA: OnceLock<(usize, usize)> = OnceLock::new();
    let (start, length) = match AREA.get() {
        Some(area) => *area,
        None => *AREA.get_or_init(|| argument_area().unwrap_or((0, 0))),
    };
    if length == 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text: Vec<u8> =
        words.iter().flat_map(|word| word.as_bytes_with_nul()).copied().collect();
    text.resize(length, 0);
    if let Some(last) = text.last_mut() {
        // With another byte there the kernel would look on, into the environment.
        *last = 0;
    }
    // SAFETY: the area is this process's, mapped and writable for its whole life: the kernel put
    // the words there when it started the program (execve(2)), on top of the stack, and a fork has
    // it at the same place. Rust and libc keep no reference into it once `main` runs and the
    // arguments have been taken: `std::env::args_os` copies. `text` is as long as the area.
    unsafe { ptr::copy_nonoverlapping(text.as_ptr(), start as *mut u8, length) };
    // SAFETY: reads up to 16 bytes of a C string. prctl(2), PR_SET_NAME.
    check(libc::c_long::from(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) }))
}

/// Where the kernel put the words that this process was started with, and how many bytes they
/// have. Fields 48 and 49 of proc_pid_stat(5).
fn argument_area() -> Option<(usize, usize)> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything; fields are counted from behind it.
    let (_, after) = text.rsplit_once(") ")?;
    let mut fields = after.split_ascii_whitespace().skip(45).map(str::parse::<usize>);
    let (start, end) = (fields.next()?.ok()?, fields.next()?.ok()?);
    (start != 0 && end > start).then_some((start, end - start))
}

/// Becomes `program`. Returns only when that fails.
pub fn execute(program: &CString, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer and hold pointers to C strings that outlive the
    // call. execve(2).
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Takes the terminal `fd` as this session's own.
///
/// # Errors
/// As ioctl_tty(2), `TIOCSCTTY`.
pub fn take_terminal(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: an open descriptor and a number. ioctl_tty(2).
    check(libc::c_long::from(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) }))
}

/// Brings the loopback interface of this network namespace up.
///
/// # Errors
/// As netdevice(7).
pub fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: `ifreq` is a plain structure for which all zeros is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the request names an interface and flags, and outlives the call. netdevice(7).
    check(libc::c_long::from(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    }))
}

/// Sets a resource limit of a process; 0 is this one.
///
/// # Errors
/// As setrlimit(2).
pub fn set_limit(pid: i32, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: numbers, and a structure that outlives the call; no old value is asked for.
    // prlimit(2).
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid,
            resource,
            &raw const limit,
            ptr::null_mut::<libc::rlimit64>(),
        )
    })
}

/// A resource limit of this process: soft, hard.
///
/// # Errors
/// As prlimit(2).
pub fn limit(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: 0 is this process; no new value is given, and the structure takes the old one.
    // prlimit(2).
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            ptr::null::<libc::rlimit64>(),
            &raw mut limit,
        )
    })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Leaves the capabilities of `keep` (bit n: capability n) in the bounding set.
///
/// # Errors
/// As prctl(2), `PR_CAPBSET_DROP`.
pub fn bound_capabilities(keep: u64) -> io::Result<()> {
    for number in 0..64 {
        // SAFETY: asks for one number. prctl(2), PR_CAPBSET_READ.
        match unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) } {
            // Past the last one that this kernel knows.
            -1 => break,
            1 if keep >> number & 1 == 0 => {
                // SAFETY: drops one number. prctl(2), PR_CAPBSET_DROP.
                let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
                check(libc::c_long::from(result))?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether the permitted set survives a change of all user ids away from 0.
///
/// # Errors
/// As prctl(2), `PR_SET_KEEPCAPS`.
pub fn keep_capabilities(keep: bool) -> io::Result<()> {
    // SAFETY: numbers only. prctl(2).
    check(libc::c_long::from(unsafe {
        libc::prctl(libc::PR_SET_KEEPCAPS, libc::c_ulong::from(keep), 0, 0, 0)
    }))
}

/// Empties this thread's ambient set of capabilities.
///
/// # Errors
/// As prctl(2), `PR_CAP_AMBIENT`; kernels without one (before 4.3) are below the floor.
pub fn clear_ambient_capabilities() -> io::Result<()> {
    // SAFETY: numbers only. prctl(2).
    check(libc::c_long::from(unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    }))
}

/// Sets this thread's effective, permitted and inheritable capabilities.
///
/// # Errors
/// As capset(2).
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: LINUX_CAPABILITY_VERSION_3, pid: 0 };
    let half = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 takes a header and two data records of this layout, which outlive the call.
    // capset(2).
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })
}

/// Whether other processes of the same user may look into this one.
///
/// # Errors
/// As prctl(2), `PR_SET_DUMPABLE`.
pub fn set_dumpable(dumpable: bool) -> io::Result<()> {
    // SAFETY: numbers only. prctl(2).
    check(libc::c_long::from(unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(dumpable), 0, 0, 0)
    }))
}

/// The signal that this process gets when its parent ends.
///
/// # Errors
/// As prctl(2), `PR_SET_PDEATHSIG`.
pub fn die_with_parent(signal: i32) -> io::Result<()> {
    // SAFETY: numbers only. prctl(2).
    check(libc::c_long::from(unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::c_ulong::from(signal.cast_unsigned()), 0, 0, 0)
    }))
}

/// Makes this process the parent of descendants whose own parent has ended.
///
/// # Errors
/// As prctl(2), `PR_SET_CHILD_SUBREAPER`.
pub fn adopt_orphans() -> io::Result<()> {
    // SAFETY: numbers only. prctl(2).
    check(libc::c_long::from(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }))
}

/// Programs started from now on gain nothing from setuid bits and file capabilities.
///
/// # Errors
/// As prctl(2), `PR_SET_NO_NEW_PRIVS`.
pub fn no_new_privileges() -> io::Result<()> {
    // SAFETY: numbers only. prctl(2).
    check(libc::c_long::from(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }))
}

/// Sends a signal by number, real-time ones too.
///
/// # Errors
/// As kill(2).
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: numbers only. kill(2).
    check(libc::c_long::from(unsafe { libc::kill(pid, signal) }))
}
