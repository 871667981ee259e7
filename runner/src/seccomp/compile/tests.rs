//! The program is run by an interpreter of the kernel's machine and must answer, for every number
//! of every convention and for telling arguments, what the filter says when it is read directly.

use std::collections::BTreeMap;

use oci_spec::runtime::{Capabilities, Capability};

use super::super::{docker, oci};
use super::*;

const EPERM: Action = Action::Errno(libc::EPERM as u16);
const ENOSYS: Action = Action::Errno(libc::ENOSYS as u16);

fn run(program: &Program, audit: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut words = [0u32; 16];
    words[0] = number;
    words[1] = audit;
    for (at, argument) in arguments.iter().enumerate() {
        words[4 + 2 * at] = *argument as u32;
        words[5 + 2 * at] = (*argument >> 32) as u32;
    }
    let (mut at, mut word) = (0usize, 0u32);
    loop {
        let Instruction { code, jt, jf, k } = program.instructions[at];
        at += 1;
        let mut jump = |holds: bool| at += usize::from(if holds { jt } else { jf });
        match code {
            LOAD_WORD => word = words[(k / 4) as usize],
            AND => word &= k,
            JUMP => at += k as usize,
            JUMP_EQUAL => jump(word == k),
            JUMP_GREATER => jump(word > k),
            JUMP_GREATER_EQUAL => jump(word >= k),
            RETURN => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn holds(comparison: &Comparison, arguments: [u64; 6]) -> bool {
    let argument = arguments[usize::from(comparison.argument)];
    let value = comparison.value;
    match comparison.operator {
        Operator::Equal => argument == value,
        Operator::NotEqual => argument != value,
        Operator::Less => argument < value,
        Operator::LessOrEqual => argument <= value,
        Operator::Greater => argument > value,
        Operator::GreaterOrEqual => argument >= value,
        Operator::MaskedEqual(mask) => argument & mask == value,
    }
}

fn read(filter: &Filter, calls: &Calls, number: u32, arguments: [u64; 6]) -> Action {
    let newest = calls.rules.keys().copied();
    let is_private = |number: &u32| number & !X32_BIT >= ARM_PRIVATE;
    let limit = if is_private(&number) {
        newest.max().unwrap()
    } else {
        newest.filter(|number| !is_private(number)).max().unwrap()
    };
    if number > limit && !filter.default.lets_through() {
        return ENOSYS;
    }
    let rules = calls.rules.get(&number).map(Vec::as_slice).unwrap_or_default();
    let holding = rules.iter().find(|rule| rule.when.iter().all(|one| holds(one, arguments)));
    holding.map_or(filter.default, |rule| rule.action)
}

/// The values around every constant that the rules compare with.
fn telling(calls: &Calls, number: u32) -> Vec<[u64; 6]> {
    let mut all = vec![[0; 6], [u64::MAX; 6]];
    for comparison in calls.rules.get(&number).into_iter().flatten().flat_map(|rule| &rule.when) {
        let value = comparison.value;
        for near in [value, value.wrapping_sub(1), value.wrapping_add(1), value ^ (1 << 32)] {
            let mut arguments = [0; 6];
            arguments[usize::from(comparison.argument)] = near;
            all.push(arguments);
        }
        if let Operator::MaskedEqual(mask) = comparison.operator {
            for bit in 0..64 {
                let mut arguments = [0; 6];
                arguments[usize::from(comparison.argument)] = value ^ (1 << bit) & mask;
                all.push(arguments);
            }
        }
    }
    all
}

fn agrees(filter: &Filter) -> Program {
    let program = compile(filter);
    assert!(program.instructions.len() < 4096, "BPF_MAXINSNS");
    for calls in &filter.calls {
        let base = if calls.architecture == Architecture::X32 { X32_BIT } else { 0 };
        for number in (0..600).chain(ARM_PRIVATE - 1..ARM_PRIVATE + 8).map(|n| n | base) {
            for arguments in telling(calls, number) {
                let got = run(&program, calls.architecture.audit(), number, arguments);
                let want = read(filter, calls, number, arguments).value();
                assert_eq!(
                    got, want,
                    "{:?} {number:#x} {arguments:x?}: got {got:#x}, want {want:#x}",
                    calls.architecture
                );
            }
        }
    }
    program
}

fn caps(list: &[Capability]) -> Capabilities {
    list.iter().copied().collect()
}

#[test]
fn docker_policy_on_every_convention() {
    use Capability::{Bpf, DacReadSearch, SysAdmin, SysPtrace, SysTime, Syslog};
    for host in [Architecture::X8664, Architecture::Aarch64] {
        for held in [&[][..], &[SysAdmin], &[DacReadSearch, SysPtrace, Bpf], &[SysTime, Syslog]] {
            agrees(&docker::filter(host, &caps(held)));
        }
    }
}

#[test]
fn docker_policy_by_example() {
    let plain = compile(&docker::filter(Architecture::X8664, &caps(&[])));
    let admin = compile(&docker::filter(Architecture::X8664, &caps(&[Capability::SysAdmin])));
    const NEWUSER: u64 = 0x1000_0000;
    const SIGCHLD: u64 = 17;
    for (what, number, argument, want, want_admin) in [
        ("read", 0, 0, Action::Allow, Action::Allow),
        ("clone", 56, SIGCHLD, Action::Allow, Action::Allow),
        ("clone newuser", 56, NEWUSER | SIGCHLD, EPERM, Action::Allow),
        ("clone3", 435, 0, ENOSYS, Action::Allow),
        ("unshare", 272, NEWUSER, EPERM, Action::Allow),
        ("mount", 165, 0, EPERM, Action::Allow),
        ("keyctl", 250, 0, EPERM, EPERM),
        ("io_uring_setup", 425, 0, EPERM, EPERM),
        ("socket inet", 41, 2, Action::Allow, Action::Allow),
        ("socket alg", 41, 38, EPERM, EPERM),
        ("socket vsock", 41, 40, EPERM, EPERM),
        ("socket vsock, upper half set", 41, 1 << 32 | 40, EPERM, EPERM),
        ("personality linux32", 135, 8, Action::Allow, Action::Allow),
        ("personality other", 135, 1, EPERM, EPERM),
        ("a later call", 600, 0, ENOSYS, ENOSYS),
    ] {
        let arguments = [argument, 0, 0, 0, 0, 0];
        assert_eq!(run(&plain, 0xC000_003E, number, arguments), want.value(), "{what}");
        assert_eq!(run(&admin, 0xC000_003E, number, arguments), want_admin.value(), "{what}");
    }
    let foreign = run(&plain, 0xC000_00B7, 0, [0; 6]);
    assert_eq!(foreign, Action::KillProcess.value(), "another processor's convention");
}

#[test]
fn the_strict_policy_has_no_socketcall() {
    const I386: u32 = 0x4000_0003;
    let arguments = [1, 0, 0, 0, 0, 0];
    let mut filter = docker::filter(Architecture::X8664, &caps(&[]));
    assert_eq!(run(&compile(&filter), I386, 102, arguments), Action::Allow.value());
    docker::make_strict(&mut filter);
    let strict = compile(&filter);
    agrees(&filter);
    assert_eq!(run(&strict, I386, 102, arguments), ENOSYS.value());
    assert_eq!(run(&strict, I386, 359, [2, 0, 0, 0, 0, 0]), Action::Allow.value());
    assert_eq!(run(&strict, I386, 359, [40, 0, 0, 0, 0, 0]), EPERM.value());
}

#[test]
fn the_tree_is_short() {
    let program = compile(&docker::filter(Architecture::X8664, &caps(&[])));
    // Instructions from entry to answer, at worst: what the kernel repeats for every number.
    let mut depth: BTreeMap<usize, usize> = BTreeMap::new();
    for at in (0..program.instructions.len()).rev() {
        let Instruction { code, jt, jf, k } = program.instructions[at];
        let next = |skip: usize| depth[&(at + 1 + skip)];
        let longest = match code {
            RETURN => 0,
            JUMP => next(k as usize),
            JUMP_EQUAL | JUMP_GREATER | JUMP_GREATER_EQUAL => {
                next(usize::from(jt)).max(next(usize::from(jf)))
            }
            _ => next(0),
        };
        depth.insert(at, longest + 1);
    }
    assert!(depth[&0] < 40, "{}", depth[&0]);
}

#[test]
fn all_operators_on_both_halves() {
    let operators = [
        Operator::Equal,
        Operator::NotEqual,
        Operator::Less,
        Operator::LessOrEqual,
        Operator::Greater,
        Operator::GreaterOrEqual,
        Operator::MaskedEqual(0xff00_0000_00ff),
    ];
    for operator in operators {
        for value in [0, 1, 0xffff_ffff, 1 << 32, 0xab_0000_00cd, u64::MAX] {
            let value = match operator {
                Operator::MaskedEqual(mask) => value & mask,
                _ => value,
            };
            let when = vec![
                Comparison { argument: 1, operator, value },
                Comparison { argument: 5, operator: Operator::Equal, value: 0 },
            ];
            let rules = BTreeMap::from([
                (3, vec![Rule { action: Action::Allow, when }]),
                (5, vec![Rule { action: Action::Log, when: Vec::new() }]),
            ]);
            let calls = vec![Calls { architecture: Architecture::X8664, rules }];
            agrees(&Filter { default: EPERM, calls, flags: 0 });
        }
    }
}

#[test]
fn a_profile_file_with_dockers_conditions() {
    let profile = br#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}
        ],
        "syscalls": [
            {"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
            {"name": "write", "action": "SCMP_ACT_LOG", "args": [
                {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
                {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW",
             "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["chroot"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38,
             "excludes": {"caps": ["CAP_SYS_CHROOT"]}}
        ]
    }"#;
    let held = caps(&[Capability::SysAdmin]);
    let policy = oci::read_profile(profile, &held).unwrap();
    let filter = oci::filter(Architecture::HOST, &policy).unwrap();
    let program = agrees(&filter);
    let audit = Architecture::HOST.audit();
    let number = |wanted: &str| {
        let row = super::super::table::TABLE.iter().find(|(name, _, _)| *name == wanted);
        Architecture::HOST.number(&row.unwrap().1).unwrap()
    };
    for (name, argument, want) in [
        ("read", 0, Action::Allow),
        ("write", 1, Action::Log),
        ("write", 2, Action::Log),
        ("write", 3, Action::Errno(13)),
        ("mount", 0, Action::Allow),
        ("chroot", 0, ENOSYS),
        ("open_by_handle_at", 0, ENOSYS),
    ] {
        let got = run(&program, audit, number(name), [argument, 0, 0, 0, 0, 0]);
        if name == "open_by_handle_at" {
            // Not named, and newer than all that are: it does not exist for the container.
            assert_eq!(got, ENOSYS.value());
        } else {
            assert_eq!(got, want.value(), "{name} {argument}");
        }
    }
}

#[test]
fn what_a_profile_cannot_say() {
    let held = Capabilities::new();
    for (text, want) in [
        ("{", "not valid JSON"),
        (r#"{"defaultAction": "SCMP_ACT_NONSENSE"}"#, "not valid JSON"),
        (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, "SCMP_ACT_NOTIFY"),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["VAX"]}"#, "VAX"),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"],
                "action": "SCMP_ACT_KILL", "args": [{"index": 6, "value": 0,
                "op": "SCMP_CMP_EQ"}]}]}"#,
            "argument 6",
        ),
    ] {
        let result = oci::read_profile(text.as_bytes(), &held)
            .and_then(|policy| oci::filter(Architecture::HOST, &policy).map(|_| ()));
        assert!(result.unwrap_err().to_string().contains(want), "{text}");
    }
}
