//! bpf(2), as far as device rules need it.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// One instruction of the BPF machine, in the kernel's layout. Source: `linux/bpf.h`, `bpf_insn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    pub code: u8,
    /// Destination register in the low half, source register in the high half (little endian).
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// The programs of ancestors keep their say, and so may a container's own, below.
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;

/// The first fields of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The first fields of `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// Has the kernel verify and translate a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`.
///
/// # Errors
/// EINVAL or EACCES from the verifier; EPERM without `CAP_BPF`, and before Linux 5.11 also when
/// `RLIMIT_MEMLOCK` is used up; E2BIG when the program is too long.
pub fn load_device_program(program: &[Instruction]) -> io::Result<OwnedFd> {
    let count = u32::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let license = c"Apache-2.0";
    let attributes = LoadAttributes {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: count,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: `attributes` has the layout of the union's first fields and its length is passed, so
    // the kernel takes the rest as zero. `instructions` points at `instruction_count` values of
    // `bpf_insn`'s layout and `license` at a NUL-terminated string; both live until the call
    // returns, and the kernel only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attributes,
            size_of::<LoadAttributes>(),
        )
    };
    let descriptor = libc::c_int::try_from(result).unwrap_or(-1);
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so `descriptor` is a new open descriptor (close-on-exec, as
    // bpf(2) makes all of its own) that nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Attaches a loaded program to a cgroup of the unified hierarchy. It stays with the cgroup until
/// that is removed.
///
/// # Errors
/// EPERM when an ancestor's program forbids others below it.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let number = |fd: BorrowedFd<'_>| fd.as_raw_fd().cast_unsigned();
    let attributes = AttachAttributes {
        target: number(cgroup),
        program: number(program),
        attach_type: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: `attributes` has the layout of the union's first fields, its length is passed, and
    // it holds no pointers; both descriptors are borrowed, so open during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            &raw const attributes,
            size_of::<AttachAttributes>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
