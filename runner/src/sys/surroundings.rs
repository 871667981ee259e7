//! What a process has of its caller besides descriptors, environment and directory: a container is
//! the same from a shell, from cron and from a service.

use std::fs;
use std::io;
use std::ptr;

/// Sets what this process has inherited to what a program of a freshly started machine has. Whatever
/// this process may not set stays as it is.
///
/// Left out is what the kernel lets nobody take back: the caller's seccomp filters, no_new_privs and
/// `PR_SET_MDWE`, its time namespace, its audit session, its core scheduling cookie, and what it has
/// switched off of the processor's speculation.
pub fn reset() {
    /// Bytes of a mask of 8192 processors, as many as Linux is built for at most.
    const MASK_BYTES: usize = 1024;
    /// Nanoseconds. Source: prctl(2), `PR_SET_TIMERSLACK`; the kernel's `init_task`.
    const TIMER_SLACK: libc::c_ulong = 50_000;
    /// Source: ioprio_set(2), `IOPRIO_WHO_PROCESS`.
    const IO_OF_PROCESS: libc::c_int = 1;
    /// Source: `linux/prctl.h`, Linux 5.6 and 6.4.
    const PR_SET_IO_FLUSHER: libc::c_int = 57;
    const PR_SET_MEMORY_MERGE: libc::c_int = 67;
    let all = [0xff_u8; MASK_BYTES];
    let zero: libc::c_ulong = 0;
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: every call is about this process alone and takes numbers, but for two that read a
    // structure of this frame: sched_setaffinity(2) `MASK_BYTES` bytes, sched_setscheduler(2) one
    // `sched_param`. set_mempolicy(2) takes a null pointer for a policy without nodes. By the
    // kernel's own calls where libc has none or another notion of a process.
    unsafe {
        libc::syscall(libc::SYS_sched_setaffinity, 0, MASK_BYTES, all.as_ptr());
        libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_OTHER, &raw const parameters);
        libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, 0);
        libc::syscall(libc::SYS_ioprio_set, IO_OF_PROCESS, 0, 0);
        libc::syscall(libc::SYS_personality, zero);
        libc::syscall(libc::SYS_set_mempolicy, 0, ptr::null::<libc::c_ulong>(), zero);
        libc::prctl(libc::PR_SET_TIMERSLACK, TIMER_SLACK, zero, zero, zero);
        libc::prctl(libc::PR_SET_THP_DISABLE, zero, zero, zero, zero);
        libc::prctl(PR_SET_IO_FLUSHER, zero, zero, zero, zero);
        libc::prctl(PR_SET_MEMORY_MERGE, zero, zero, zero, zero);
        libc::prctl(libc::PR_SET_SECUREBITS, zero, zero, zero, zero);
    }
    // Anonymous memory, ELF headers and private huge pages. Source: core(5).
    let _ = fs::write("/proc/self/coredump_filter", "0x33");
    let _ = fs::write("/proc/self/oom_score_adj", "0");
}

/// Resource limits: soft, hard; `u64::MAX` is none.
pub type Limit = (u64, u64);

/// The limit that a container has of a resource (`asm-generic/resource.h`) unless it was told one:
/// those of current Docker's service for open files, processes and core files, those of a freshly
/// started machine for the rest.
pub fn usual_limit(resource: u32) -> Limit {
    const MIB: u64 = 1 << 20;
    const NONE: u64 = u64::MAX;
    match resource {
        libc::RLIMIT_NOFILE => (1024, 524_288),
        libc::RLIMIT_STACK => (8 * MIB, NONE),
        libc::RLIMIT_MEMLOCK => (8 * MIB, 8 * MIB),
        libc::RLIMIT_MSGQUEUE => (819_200, 819_200),
        libc::RLIMIT_NICE | libc::RLIMIT_RTPRIO => (0, 0),
        libc::RLIMIT_SIGPENDING => {
            // Half of the threads that there can be, as the kernel gives its first process.
            let text = fs::read_to_string("/proc/sys/kernel/threads-max").unwrap_or_default();
            let half = text.trim().parse::<u64>().map_or(NONE, |threads| threads / 2);
            (half, half)
        }
        _ => (NONE, NONE),
    }
}

/// Sets a limit of a process (0: this one) to what is wanted, or to what of it this one may give: a hard limit that is
/// lower stays.
///
/// # Errors
/// As prlimit(2), but for `EPERM`.
pub fn set_limit_as_far_as_possible(
    pid: i32,
    resource: u32,
    (soft, hard): Limit,
) -> io::Result<()> {
    match super::process::set_limit(pid, resource, soft, hard) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
        other => return other,
    }
    let (_, highest) = super::process::limit(resource)?;
    super::process::set_limit(pid, resource, soft.min(highest), hard.min(highest))
}
