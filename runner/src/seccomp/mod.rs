//! Which system calls a container may make: a policy, compiled into a program for the kernel.
//!
//! Docker's default policy stands in `table` and is compiled straight from there; a policy of the
//! OCI configuration (`--security-opt seccomp=FILE`) takes the same path behind `oci`. The
//! compiler is ours because its result is loaded on every start: a linear program of the usual 700
//! instructions costs about a millisecond there, since the kernel runs it once for every call
//! number to find those that are always allowed. A balanced tree over ranges of numbers takes a
//! tenth of that. Source: seccomp(2); `seccomp_cache_prepare` in the kernel's `kernel/seccomp.c`.

mod compile;
mod docker;
mod oci;
mod table;

use oci_spec::runtime::{Arch, Capabilities, LinuxSeccomp};

pub use self::oci::SeccompError;
pub use self::oci::read_profile;
use crate::container::{Record, Seccomp};
use crate::known_bad::left_out;
pub use crate::sys::seccomp::{Instruction, Program};

/// The program for the container of `record`; `None` where it runs unconfined.
///
/// # Errors
/// Where a policy of the configuration asks for something that this compiler cannot do.
pub fn program_of(record: &Record) -> Result<Option<Program>, SeccompError> {
    let linux = record.spec.linux().as_ref();
    match record.seccomp {
        Seccomp::Unconfined => Ok(None),
        Seccomp::Docker | Seccomp::Strict => {
            let process = record.spec.process().as_ref();
            let held = process.and_then(|process| process.capabilities().as_ref());
            let held = held.and_then(|sets| sets.bounding().as_ref());
            let none = Capabilities::new();
            let mut filter = docker::filter(Architecture::HOST, held.unwrap_or(&none));
            if record.seccomp == Seccomp::Strict && !left_out("socketcall-denied") {
                docker::make_strict(&mut filter);
            }
            Ok(Some(compile::compile(&filter)))
        }
        Seccomp::Spec => linux.and_then(|linux| linux.seccomp().as_ref()).map(program).transpose(),
    }
}

/// The program for a policy of the OCI runtime configuration.
///
/// # Errors
/// As [`program_of`].
pub fn program(policy: &LinuxSeccomp) -> Result<Program, SeccompError> {
    Ok(compile::compile(&oci::filter(Architecture::HOST, policy)?))
}

/// A calling convention, as the kernel tells it to a filter (`AUDIT_ARCH_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Architecture {
    X8664,
    X86,
    /// x86-64 by its audit number; told apart by a bit in the call's number.
    X32,
    Aarch64,
    Arm,
}

/// Marks an x32 call. Source: `arch/x86/include/uapi/asm/unistd.h`.
const X32_BIT: u32 = 0x4000_0000;

impl Architecture {
    #[cfg(target_arch = "x86_64")]
    const HOST: Self = Self::X8664;
    #[cfg(target_arch = "aarch64")]
    const HOST: Self = Self::Aarch64;

    /// Every convention that programs on this kind of processor may use, itself first.
    fn family(self) -> &'static [Self] {
        match self {
            Self::X8664 | Self::X86 | Self::X32 => &[Self::X8664, Self::X86, Self::X32],
            Self::Aarch64 | Self::Arm => &[Self::Aarch64, Self::Arm],
        }
    }

    /// Source: `include/uapi/linux/audit.h`.
    fn audit(self) -> u32 {
        match self {
            Self::X8664 | Self::X32 => 0xC000_003E,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xC000_00B7,
            Self::Arm => 0x4000_0028,
        }
    }

    fn from_oci(arch: Arch, host: Self) -> Option<Self> {
        match arch {
            Arch::ScmpArchNative => Some(host),
            Arch::ScmpArchX86_64 => Some(Self::X8664),
            Arch::ScmpArchX86 => Some(Self::X86),
            Arch::ScmpArchX32 => Some(Self::X32),
            Arch::ScmpArchAarch64 => Some(Self::Aarch64),
            Arch::ScmpArchArm => Some(Self::Arm),
            _ => None,
        }
    }

    /// The number of the call in `row`, as a filter sees it.
    fn number(self, row: &[u32; 5]) -> Option<u32> {
        let column = match self {
            Self::X8664 => 0,
            Self::X86 => 1,
            Self::X32 => 2,
            Self::Aarch64 => 3,
            Self::Arm => 4,
        };
        match row[column] {
            table::NO => None,
            number if self == Self::X32 => Some(number | X32_BIT),
            number => Some(number),
        }
    }
}

/// What happens to a call. Source: seccomp(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    KillProcess,
    KillThread,
    Trap,
    Errno(u16),
    Trace(u16),
    Log,
    Allow,
}

impl Action {
    fn value(self) -> u32 {
        match self {
            Self::KillProcess => 0x8000_0000,
            Self::KillThread => 0,
            Self::Trap => 0x0003_0000,
            Self::Errno(errno) => 0x0005_0000 | u32::from(errno),
            Self::Trace(data) => 0x7ff0_0000 | u32::from(data),
            Self::Log => 0x7ffc_0000,
            Self::Allow => 0x7fff_0000,
        }
    }

    /// Whether the call is made.
    fn lets_through(self) -> bool {
        matches!(self, Self::Log | Self::Allow | Self::Trace(_))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Equal in the bits of the mask.
    MaskedEqual(u64),
}

/// A condition on one of a call's six arguments, compared as 64 unsigned bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Comparison {
    argument: u8,
    operator: Operator,
    value: u64,
}

/// Holds where all of its comparisons do.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    action: Action,
    when: Vec<Comparison>,
}

/// A policy with every name resolved: the compiler's input.
struct Filter {
    /// For what no rule covers.
    default: Action,
    /// In order of number; the first rule of a call that holds decides.
    calls: Vec<Calls>,
    /// `SECCOMP_FILTER_FLAG_*`.
    flags: u32,
}

/// The rules of one calling convention.
struct Calls {
    architecture: Architecture,
    rules: std::collections::BTreeMap<u32, Vec<Rule>>,
}

/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`: without it the kernel turns speculation off for the whole
/// container, which costs far more than it brings since kernel 5.16 stopped doing so by default.
const FLAG_SPEC_ALLOW: u32 = 4;
