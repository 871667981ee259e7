//! seccomp(2): programs that judge a thread's system calls.

use std::io;

use super::process::check;

/// One instruction, in the layout of `struct sock_filter`. Source: `linux/filter.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// A program for `seccomp(SECCOMP_SET_MODE_FILTER)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub instructions: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

/// Loads a seccomp filter into this thread. It holds for every program started from now on.
///
/// # Errors
/// As seccomp(2): `EACCES` without no_new_privs and CAP_SYS_ADMIN.
pub fn load(program: &Program) -> io::Result<()> {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    let filter: Vec<libc::sock_filter> = program
        .instructions
        .iter()
        .map(|one| libc::sock_filter { code: one.code, jt: one.jt, jf: one.jf, k: one.k })
        .collect();
    let length = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program_of = libc::sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
    // SAFETY: `sock_fprog` points at `len` instructions that outlive the call; the kernel copies
    // and checks them. seccomp(2).
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            program.flags,
            &raw const program_of,
        )
    })
}
