//! Which devices a container may use.
//!
//! The rules of the runtime configuration are applied in their order: of the rules that name a
//! device and an access, the last one decides, and without one the answer is no. cgroup v1 keeps a
//! default and exact exceptions; cgroup v2 asks a BPF program. Sources: runtime-spec
//! `config-linux.md`, "Allowed Device list"; the kernel's `cgroup-v1/devices.rst` and
//! `cgroup-v2.rst`, "Device controller".

use std::fs;
use std::io;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::files;
use crate::sys::bpf::{self, Instruction};
use std::os::fd::AsFd as _;

/// Accesses and types as the BPF program is given them. Source: `linux/bpf.h`, `BPF_DEVCG_*`.
const MAKE: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MAKE | READ | WRITE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Block = 1,
    Character = 2,
}

/// One rule, checked. `None` is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<Kind>,
    major: Option<i32>,
    minor: Option<i32>,
    access: u8,
}

/// A list of rules in which the last word is spoken last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules(Vec<Rule>);

impl Rules {
    /// # Errors
    /// In words, for a rule that makes no sense.
    pub(super) fn parse(rules: &[LinuxDeviceCgroup]) -> Result<Self, String> {
        let mut all: Vec<Rule> = Vec::with_capacity(rules.len());
        for rule in rules {
            let rule = parse(rule)?;
            // What stands before a rule about everything is void.
            if rule.kind.is_none() {
                all.clear();
            }
            all.push(rule);
        }
        Ok(Self(all))
    }

    /// Whether everything is allowed.
    pub(super) fn allow_all(&self) -> bool {
        matches!(self.0[..], [Rule { allow: true, kind: None, .. }])
    }
}

fn parse(rule: &LinuxDeviceCgroup) -> Result<Rule, String> {
    let kind = match rule.typ().unwrap_or(LinuxDeviceType::A) {
        LinuxDeviceType::A => None,
        LinuxDeviceType::B => Some(Kind::Block),
        LinuxDeviceType::C | LinuxDeviceType::U => Some(Kind::Character),
        LinuxDeviceType::P => return Err(format!("`{rule}`: a pipe is no device")),
    };
    // Both versions of the kernel's interface take a rule about everything at its word: it has no
    // numbers and every access.
    if kind.is_none() {
        let allow = rule.allow();
        return Ok(Rule { allow, kind, major: None, minor: None, access: ALL });
    }
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => i32::try_from(number)
            .ok()
            .filter(|&number| number >= 0)
            .map(Some)
            .ok_or_else(|| format!("`{rule}`: {number} is no device number")),
    };
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
        access |= match letter {
            'm' => MAKE,
            'r' => READ,
            'w' => WRITE,
            other => return Err(format!("`{rule}`: {other:?} is none of r, w and m")),
        };
    }
    let (major, minor) = (number(rule.major())?, number(rule.minor())?);
    Ok(Rule { allow: rule.allow(), kind, major, minor, access })
}

// --- cgroup v1 -----------------------------------------------------------------------------------

/// Confines a new cgroup of the devices hierarchy.
pub(super) fn write_v1(directory: &Path, rules: &Rules) -> io::Result<()> {
    // A new cgroup has what its parent has, and cannot have more.
    if rules.allow_all() {
        return Ok(());
    }
    let writes = v1_writes(rules)
        .map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, format!("cgroup v1: {why}")))?;
    for (file, line) in &writes {
        files::write(directory, file, line)
            .map_err(|error| io::Error::new(error.kind(), format!("`{line}`: {error}")))?;
    }
    check_v1(directory, &writes)
}

/// Reads back what the kernel has made of it: a device that is denied must not be missing from the
/// list only because the kernel understood something else.
fn check_v1(directory: &Path, writes: &[(&'static str, String)]) -> io::Result<()> {
    let denied = writes.first().is_some_and(|(file, _)| *file == "devices.deny");
    let list = files::read(directory, "devices.list")?;
    if denied && list.lines().count() > writes.len() - 1 {
        let message = "the kernel allows more devices than it was told to";
        return Err(io::Error::other(message));
    }
    Ok(())
}

/// The lines for `devices.allow` and `devices.deny`: first the default, then each exception.
///
/// The kernel removes an exception only when it is named exactly, so a rule that takes something
/// back is applied here and never written.
fn v1_writes(rules: &Rules) -> Result<Vec<(&'static str, String)>, String> {
    let allowed = rules.0.first().is_some_and(|rule| rule.allow && rule.kind.is_none());
    let mut exceptions: Vec<Rule> = Vec::new();
    for rule in rules.0.iter().filter(|rule| rule.kind.is_some()) {
        if rule.allow != allowed {
            exceptions.push(*rule);
            continue;
        }
        for exception in &mut exceptions {
            if !overlap(exception, rule) || exception.access & rule.access == 0 {
                continue;
            }
            if !covers(rule, exception) {
                let message = "a rule takes back a part of an earlier, wider one";
                return Err(message.to_owned());
            }
            exception.access &= !rule.access;
        }
    }
    let (default, other) =
        if allowed { ("devices.allow", "devices.deny") } else { ("devices.deny", "devices.allow") };
    let mut writes = vec![(default, "a *:* rwm".to_owned())];
    let left = exceptions.iter().filter(|exception| exception.access != 0);
    writes.extend(left.map(|exception| (other, v1_line(exception))));
    Ok(writes)
}

fn v1_line(rule: &Rule) -> String {
    let kind = if rule.kind == Some(Kind::Block) { 'b' } else { 'c' };
    let number = |number: Option<i32>| number.map_or("*".to_owned(), |number| number.to_string());
    let letters = [(READ, 'r'), (WRITE, 'w'), (MAKE, 'm')];
    let access: String = letters
        .iter()
        .filter(|(bit, _)| rule.access & bit != 0)
        .map(|(_, letter)| letter)
        .collect();
    format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor))
}

fn overlap(one: &Rule, other: &Rule) -> bool {
    let meet = |a: Option<i32>, b: Option<i32>| a.is_none() || b.is_none() || a == b;
    one.kind == other.kind && meet(one.major, other.major) && meet(one.minor, other.minor)
}

fn covers(wide: &Rule, narrow: &Rule) -> bool {
    let holds = |a: Option<i32>, b: Option<i32>| a.is_none() || a == b;
    wide.kind == narrow.kind && holds(wide.major, narrow.major) && holds(wide.minor, narrow.minor)
}

// --- cgroup v2 -----------------------------------------------------------------------------------

/// Confines a new cgroup of the unified hierarchy.
pub(super) fn attach_v2(directory: &Path, rules: &Rules) -> io::Result<()> {
    if rules.allow_all() {
        return Ok(());
    }
    let program = bpf::load_device_program(&program(rules))?;
    bpf::attach_device_program(fs::File::open(directory)?.as_fd(), program.as_fd())
}

/// Registers: the answer, the context, and what is taken out of it.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
/// The accesses that no rule has granted yet.
const WANTED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// Codes. Source: `linux/bpf.h`, `linux/bpf_common.h`; the kernel's `bpf/standardization`.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    // Little endian: big-endian machines have the halves the other way round.
    let registers = if cfg!(target_endian = "little") { to | from << 4 } else { to << 4 | from };
    Instruction { code, registers, offset, immediate }
}

/// The program that decides about one access to one device: 1 allows it.
///
/// Rules are asked from the last to the first. One that allows strikes its accesses off what is
/// wanted, and when nothing is left the answer is yes; one that forbids something still wanted says
/// no.
fn program(rules: &Rules) -> Vec<Instruction> {
    // struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }, where access_type is
    // access << 16 | type.
    let mut all = vec![
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(MOVE_REGISTER, WANTED, KIND, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, WANTED, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    let mut default = false;
    for rule in rules.0.iter().rev() {
        match rule.kind {
            Some(kind) => push_rule(&mut all, rule, kind),
            None => default = rule.allow,
        }
    }
    answer(&mut all, default);
    all
}

fn push_rule(all: &mut Vec<Instruction>, rule: &Rule, kind: Kind) {
    let mut tests = vec![(KIND, kind as i32)];
    tests.extend(rule.major.map(|major| (MAJOR, major)));
    tests.extend(rule.minor.map(|minor| (MINOR, minor)));
    let mut rest = Vec::with_capacity(5);
    if rule.allow {
        rest.push(instruction(AND, WANTED, 0, 0, i32::from(ALL & !rule.access)));
        rest.push(instruction(JUMP_UNLESS_EQUAL, WANTED, 0, 2, 0));
    } else {
        rest.push(instruction(MOVE_REGISTER, ANSWER, WANTED, 0, 0));
        rest.push(instruction(AND, ANSWER, 0, 0, i32::from(rule.access)));
        rest.push(instruction(JUMP_IF_EQUAL, ANSWER, 0, 2, 0));
    }
    answer(&mut rest, rule.allow);
    let mut left = tests.len() + rest.len();
    for (register, value) in tests {
        left -= 1;
        #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "below 9")]
        let over = left as i16;
        all.push(instruction(JUMP_UNLESS_EQUAL, register, 0, over, value));
    }
    all.extend(rest);
}

fn answer(all: &mut Vec<Instruction>, allow: bool) {
    all.push(instruction(MOVE, ANSWER, 0, 0, i32::from(allow)));
    all.push(instruction(EXIT, 0, 0, 0, 0));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(allow: bool, kind: Option<Kind>, major: i32, minor: i32, access: u8) -> Rule {
        let some = |number: i32| (number >= 0).then_some(number);
        Rule { allow, kind, major: some(major), minor: some(minor), access }
    }

    /// What the rules say, straight from the definition.
    fn meant(rules: &[Rule], kind: Kind, major: i32, minor: i32, access: u8) -> bool {
        let device = rule(true, Some(kind), major, minor, access);
        [MAKE, READ, WRITE].into_iter().filter(|bit| access & bit != 0).all(|bit| {
            let speaks =
                |one: &&Rule| one.kind.is_none() || (covers(one, &device) && one.access & bit != 0);
            rules.iter().rev().find(speaks).is_some_and(|one| one.allow)
        })
    }

    /// As much of the machine as the programs use.
    fn run(program: &[Instruction], kind: Kind, major: i32, minor: i32, access: u8) -> bool {
        let context = [u64::from(access) << 16 | kind as u64, major as u64, minor as u64];
        let mut registers = [0_u64; 6];
        let mut at = 0;
        loop {
            let one = program[at];
            at += 1;
            let to = usize::from(one.registers & 15);
            let from = usize::from(one.registers >> 4);
            let value = one.immediate as i64 as u64;
            match one.code {
                LOAD_WORD => registers[to] = context[one.offset as usize / 4],
                MOVE => registers[to] = value,
                MOVE_REGISTER => registers[to] = registers[from],
                AND => registers[to] &= value,
                SHIFT_RIGHT => registers[to] >>= value,
                JUMP_IF_EQUAL if registers[to] == value => at += one.offset as usize,
                JUMP_UNLESS_EQUAL if registers[to] != value => at += one.offset as usize,
                JUMP_IF_EQUAL | JUMP_UNLESS_EQUAL => {}
                EXIT => return registers[0] == 1,
                code => panic!("unknown code {code:#x}"),
            }
        }
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let kind = prop_oneof![
            1 => Just(None),
            5 => Just(Some(Kind::Block)),
            5 => Just(Some(Kind::Character)),
        ];
        (any::<bool>(), kind, -1..3, -1..3, 0..8_u8).prop_map(
            |(allow, kind, major, minor, access)| match kind {
                None => rule(allow, None, -1, -1, ALL),
                kind => rule(allow, kind, major, minor, access),
            },
        )
    }

    proptest! {
        #[test]
        fn the_program_says_what_the_rules_mean(rules in prop::collection::vec(any_rule(), 0..7)) {
            let rules = Rules(rules);
            let mut last = rules.clone();
            if let Some(all) = rules.0.iter().rposition(|one| one.kind.is_none()) {
                last.0.drain(..all);
            }
            let program = program(&last);
            let writes = v1_writes(&last).ok();
            for kind in [Kind::Block, Kind::Character] {
                for major in 0..3 { for minor in 0..3 { for access in 1..8 {
                    let expected = meant(&rules.0, kind, major, minor, access);
                    prop_assert_eq!(run(&program, kind, major, minor, access), expected);
                    if let Some(writes) = &writes {
                        prop_assert_eq!(v1_says(writes, kind, major, minor, access), expected);
                    }
                }}}
            }
        }
    }

    /// What the kernel's cgroup v1 makes of the lines.
    fn v1_says(
        writes: &[(&'static str, String)],
        kind: Kind,
        major: i32,
        minor: i32,
        access: u8,
    ) -> bool {
        let allowed = writes[0].0 == "devices.allow";
        let named = |bit: u8| {
            writes[1..].iter().any(|(_, line)| {
                let fields: Vec<&str> = line.split([' ', ':']).collect();
                let letter = match bit {
                    MAKE => 'm',
                    READ => 'r',
                    _ => 'w',
                };
                fields[0] == if kind == Kind::Block { "b" } else { "c" }
                    && (fields[1] == "*" || fields[1] == major.to_string())
                    && (fields[2] == "*" || fields[2] == minor.to_string())
                    && fields[3].contains(letter)
            })
        };
        [MAKE, READ, WRITE]
            .into_iter()
            .filter(|bit| access & bit != 0)
            .all(|bit| named(bit) != allowed)
    }

    fn oci(
        allow: bool,
        kind: LinuxDeviceType,
        major: Option<i64>,
        access: &str,
    ) -> LinuxDeviceCgroup {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow).set_typ(Some(kind)).set_major(major).set_minor(Some(3));
        rule.set_access(Some(access.to_owned()));
        rule
    }

    #[test]
    fn lines_for_v1() {
        use LinuxDeviceType::{A, C};
        let rules = [
            oci(true, C, Some(9), "rwm"),
            oci(false, A, None, "rwm"),
            oci(true, C, Some(-1), "m"),
            oci(true, C, Some(1), "rwm"),
            oci(true, C, Some(5), "rwm"),
            oci(false, C, Some(5), "w"),
        ];
        // The last rule would take `m` back from a wider one if it named it.
        let writes = v1_writes(&Rules::parse(&rules).unwrap()).unwrap();
        let lines: Vec<String> =
            writes.iter().map(|(file, line)| format!("{file} {line}")).collect();
        assert_eq!(
            lines,
            [
                "devices.deny a *:* rwm",
                "devices.allow c *:3 m",
                "devices.allow c 1:3 rwm",
                "devices.allow c 5:3 rm",
            ]
        );
        let narrow = [oci(true, C, None, "m"), oci(false, C, Some(1), "m")];
        assert!(v1_writes(&Rules::parse(&narrow).unwrap()).is_err());
    }

    #[test]
    fn nonsense_is_refused_and_everything_is_recognised() {
        use LinuxDeviceType::{A, C, P};
        for rule in
            [oci(true, P, None, "r"), oci(true, C, Some(-2), "r"), oci(true, C, Some(1), "x")]
        {
            assert!(Rules::parse(&[rule]).is_err());
        }
        let all = Rules::parse(&[oci(false, C, None, "r"), oci(true, A, None, "rwm")]).unwrap();
        assert!(all.allow_all());
        assert!(!Rules::parse(&[]).unwrap().allow_all());
    }
}
