//! From a filter to classic BPF.
//!
//! The program is written backwards, from its last instruction to its first: then every jump's
//! target stands already, and a target too far for the eight bits of a conditional jump gets an
//! unconditional one (32 bits) beside it.

use crate::sys::seccomp::{Instruction, Program};

use super::{Action, Architecture, Calls, Comparison, Filter, Operator, Rule, X32_BIT};

// Source: `linux/bpf_common.h`.
const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

// Offsets in `struct seccomp_data`; arguments are 64 bits, little-endian on all that we run on.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Numbers from here on are arm's private calls, far above all others.
const ARM_PRIVATE: u32 = 0x000f_0001;

pub(super) fn compile(filter: &Filter) -> Program {
    let mut code = Backwards::default();
    // A convention that the filter does not name must not be a way around it.
    let mut next = code.answer(Action::KillProcess);
    for (audit, calls) in by_audit(filter).into_iter().rev() {
        let ranges = ranges(&calls, filter.default);
        let tree = code.tree(&ranges, filter.default);
        let body = code.push(LOAD_WORD, NUMBER, 0, 0, tree);
        next = code.branch(JUMP_EQUAL, audit, body, next);
    }
    code.push(LOAD_WORD, ARCHITECTURE, 0, 0, next);
    code.instructions.reverse();
    Program { instructions: code.instructions, flags: filter.flags }
}

/// The conventions grouped as a filter tells them apart: x86-64 and x32 share a number.
fn by_audit(filter: &Filter) -> Vec<(u32, Vec<&Calls>)> {
    let mut groups: Vec<(u32, Vec<&Calls>)> = Vec::new();
    for calls in &filter.calls {
        let audit = calls.architecture.audit();
        match groups.iter_mut().find(|(known, _)| *known == audit) {
            Some((_, group)) => group.push(calls),
            None => groups.push((audit, vec![calls])),
        }
    }
    groups
}

/// What holds from a number up to the next range's.
struct Range<'a> {
    from: u32,
    decision: Decision<'a>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Decision<'a> {
    Answer(Action),
    Rules(&'a [Rule]),
}

/// Covers all numbers, in order, with neighbours of the same answer in one range.
fn ranges<'a>(group: &[&'a Calls], default: Action) -> Vec<Range<'a>> {
    let mut all: Vec<Range<'a>> = Vec::new();
    let mut put = |from: u32, decision: Decision<'a>| match all.last_mut() {
        Some(last) if last.decision == decision => {}
        Some(last) if last.from == from => last.decision = decision,
        _ => all.push(Range { from, decision }),
    };
    let has = |wanted| group.iter().any(|calls| calls.architecture == wanted);
    // An x32 number where only x86-64 is known, and the other way round, is as foreign as another
    // processor's.
    let foreign = Decision::Answer(Action::KillProcess);
    let x32_only = has(Architecture::X32) && !has(Architecture::X8664);
    put(0, if x32_only { foreign } else { Decision::Answer(default) });
    let mut group: Vec<&Calls> = group.to_vec();
    group.sort_by_key(|calls| calls.architecture == Architecture::X32);
    for calls in group {
        let base = if calls.architecture == Architecture::X32 { X32_BIT } else { 0 };
        let mut at = base;
        for (&number, rules) in &calls.rules {
            if number > at {
                let private = number >= ARM_PRIVATE && at < ARM_PRIVATE && base == 0;
                put(at, if private { beyond(default) } else { Decision::Answer(default) });
            }
            put(number, decide(rules, default));
            at = number + 1;
        }
        put(at, beyond(default));
        if calls.architecture == Architecture::X8664 && !has(Architecture::X32) {
            put(X32_BIT, foreign);
        }
    }
    all
}

/// A call that is newer than the policy does not exist as far as the container knows: with EPERM
/// a C library that tries a new call first would not fall back to the old one. Source: runc's
/// seccomp "patchbpf".
fn beyond<'a>(default: Action) -> Decision<'a> {
    if default.lets_through() {
        Decision::Answer(default)
    } else {
        Decision::Answer(Action::Errno(libc::ENOSYS as u16))
    }
}

/// A rule without conditions decides whatever stands beside it, unless an earlier one holds.
fn decide(rules: &[Rule], default: Action) -> Decision<'_> {
    match rules {
        [] => Decision::Answer(default),
        [first, ..] if first.when.is_empty() => Decision::Answer(first.action),
        _ => Decision::Rules(rules),
    }
}

/// A place in the program, counted from its end.
type Label = usize;

#[derive(Default)]
struct Backwards {
    /// Last instruction first.
    instructions: Vec<Instruction>,
    answers: Vec<(Action, Label)>,
}

/// How far a label may be to be used as it is: some below 255, because a jump that is written
/// between adds one.
const NEAR: usize = 250;

impl Backwards {
    /// Writes an instruction that stands in front of `next`.
    fn push(&mut self, code: u16, k: u32, jt: u8, jf: u8, next: Label) -> Label {
        // What is not written directly behind has to be jumped to.
        if next + 1 != self.instructions.len() {
            self.jump(next);
        }
        self.instructions.push(Instruction { code, jt, jf, k });
        self.instructions.len() - 1
    }

    fn jump(&mut self, to: Label) -> Label {
        let distance = (self.instructions.len() - to - 1) as u32;
        self.instructions.push(Instruction { code: JUMP, jt: 0, jf: 0, k: distance });
        self.instructions.len() - 1
    }

    fn near(&mut self, label: Label) -> Label {
        if self.instructions.len() - label > NEAR { self.jump(label) } else { label }
    }

    /// Writes a comparison of the loaded word with `k`.
    fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        let yes = self.near(yes);
        let no = self.near(no);
        let here = self.instructions.len();
        let distance = |label: Label| (here - label - 1) as u8;
        self.instructions.push(Instruction { code, jt: distance(yes), jf: distance(no), k });
        here
    }

    fn answer(&mut self, action: Action) -> Label {
        let here = self.instructions.len();
        let known = self.answers.iter().rev().find(|(known, _)| *known == action);
        if let Some((_, label)) = known
            && here - label < NEAR
        {
            return *label;
        }
        let instruction = Instruction { code: RETURN, jt: 0, jf: 0, k: action.value() };
        self.instructions.push(instruction);
        self.answers.push((action, here));
        here
    }

    /// A balanced tree: every number is decided after log2 of the ranges.
    fn tree(&mut self, ranges: &[Range<'_>], default: Action) -> Label {
        if let [only] = ranges {
            return match only.decision {
                Decision::Answer(action) => self.answer(action),
                Decision::Rules(rules) => self.rules(rules, default),
            };
        }
        let (lower, upper) = ranges.split_at(ranges.len() / 2);
        let above = self.tree(upper, default);
        let below = self.tree(lower, default);
        self.branch(JUMP_GREATER_EQUAL, upper[0].from, above, below)
    }

    fn rules(&mut self, rules: &[Rule], default: Action) -> Label {
        let mut fails = self.answer(default);
        for rule in rules.iter().rev() {
            let mut holds = self.answer(rule.action);
            for comparison in rule.when.iter().rev() {
                holds = self.comparison(*comparison, holds, fails);
            }
            fails = holds;
        }
        fails
    }

    /// Words are 32 bits, arguments 64: the upper half first, then, where it is equal, the lower.
    fn comparison(&mut self, comparison: Comparison, yes: Label, no: Label) -> Label {
        let low_at = ARGUMENTS + 8 * u32::from(comparison.argument);
        let (low, high) = (comparison.value as u32, (comparison.value >> 32) as u32);
        let (code, yes, no) = match comparison.operator {
            Operator::Equal => (JUMP_EQUAL, yes, no),
            Operator::NotEqual => (JUMP_EQUAL, no, yes),
            Operator::Greater => (JUMP_GREATER, yes, no),
            Operator::LessOrEqual => (JUMP_GREATER, no, yes),
            Operator::GreaterOrEqual => (JUMP_GREATER_EQUAL, yes, no),
            Operator::Less => (JUMP_GREATER_EQUAL, no, yes),
            Operator::MaskedEqual(mask) => {
                let test = self.branch(JUMP_EQUAL, low, yes, no);
                let masked = self.push(AND, mask as u32, 0, 0, test);
                let lower = self.push(LOAD_WORD, low_at, 0, 0, masked);
                let test = self.branch(JUMP_EQUAL, high, lower, no);
                let masked = self.push(AND, (mask >> 32) as u32, 0, 0, test);
                return self.push(LOAD_WORD, low_at + 4, 0, 0, masked);
            }
        };
        let test = self.branch(code, low, yes, no);
        let lower = self.push(LOAD_WORD, low_at, 0, 0, test);
        let mut upper = self.branch(JUMP_EQUAL, high, lower, no);
        if code != JUMP_EQUAL {
            upper = self.branch(JUMP_GREATER, high, yes, upper);
        }
        self.push(LOAD_WORD, low_at + 4, 0, 0, upper)
    }
}

#[cfg(test)]
mod tests;
