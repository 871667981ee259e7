//! Docker's default policy, for the capabilities that a container holds.

use std::collections::BTreeMap;

use oci_spec::runtime::{Capabilities, Capability};

use super::table::{Policy, TABLE};
use super::{Action, Architecture, Calls, Comparison, FLAG_SPEC_ALLOW, Filter, Operator, Rule};

/// CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}. Source: clone(2).
const NEW_NAMESPACES: u64 = 0x7E02_0000;
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
/// PER_LINUX, PER_LINUX32, UNAME26 with each of them, and "only tell". Source: personality(2).
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// An `int` argument: the kernel drops the upper half of the register, so must the filter, or
/// `socket(1 << 32 | AF_VSOCK, …)` passes.
const INT: u64 = 0xffff_ffff;

pub(super) fn filter(host: Architecture, held: &Capabilities) -> Filter {
    let calls = host.family().iter().map(|&architecture| {
        let mut rules = BTreeMap::new();
        for (_, numbers, policy) in TABLE {
            if let Some(number) = architecture.number(numbers) {
                rules.insert(number, rules_of(*policy, held));
            }
        }
        Calls { architecture, rules }
    });
    Filter {
        default: Action::Errno(libc::EPERM as u16),
        calls: calls.collect(),
        flags: FLAG_SPEC_ALLOW,
    }
}

/// Takes socketcall(2) away, by which 32-bit programs could open a socket of any family: its
/// arguments lie in memory, where no filter sees them. To the C library it is a call that this
/// kernel does not have, and socket(2) is.
pub(super) fn make_strict(filter: &mut Filter) {
    let refused = Rule { action: Action::Errno(libc::ENOSYS as u16), when: Vec::new() };
    for calls in &mut filter.calls {
        let numbers = TABLE.iter().find(|(name, ..)| *name == "socketcall");
        if let Some(number) = numbers.and_then(|(_, row, _)| calls.architecture.number(row)) {
            calls.rules.insert(number, vec![refused.clone()]);
        }
    }
}

fn rules_of(policy: Policy, held: &Capabilities) -> Vec<Rule> {
    let always = |action| vec![Rule { action, when: Vec::new() }];
    let is_admin = held.contains(&Capability::SysAdmin);
    match policy {
        Policy::Always => always(Action::Allow),
        Policy::Never => Vec::new(),
        Policy::With(any) if any.iter().any(|one| held.contains(one)) => always(Action::Allow),
        Policy::With(_) => Vec::new(),
        Policy::CloneCall | Policy::Clone3Call if is_admin => always(Action::Allow),
        Policy::CloneCall => {
            let operator = Operator::MaskedEqual(NEW_NAMESPACES);
            let none = Comparison { argument: 0, operator, value: 0 };
            vec![Rule { action: Action::Allow, when: vec![none] }]
        }
        Policy::Clone3Call => always(Action::Errno(libc::ENOSYS as u16)),
        Policy::Socket => {
            let refused = Action::Errno(libc::EPERM as u16);
            let family =
                |value| Comparison { argument: 0, operator: Operator::MaskedEqual(INT), value };
            vec![
                Rule { action: refused, when: vec![family(AF_ALG)] },
                Rule { action: refused, when: vec![family(AF_VSOCK)] },
                Rule { action: Action::Allow, when: Vec::new() },
            ]
        }
        Policy::Personality => PERSONALITIES
            .iter()
            .map(|&value| Rule {
                action: Action::Allow,
                when: vec![Comparison { argument: 0, operator: Operator::Equal, value }],
            })
            .collect(),
    }
}
