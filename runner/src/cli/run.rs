//! `run` and `create`, and the shorthand without a verb.

use crate::cli::flags::{Arguments, FlagsEnd};
pub(super) use crate::cli::run_flags::FLAGS;
use crate::cli::{Globals, Verb};
use crate::failure::Failure;

pub(super) const VERBS: &[Verb] = &[Verb {
    names: &["run", "container run"],
    operands: "REF [COMMAND…]",
    operands_min: 1,
    operands_max: usize::MAX,
    about: "Run a command in a new container",
    details: "",
    flags: FLAGS,
    flags_end: FlagsEnd::AtOperand,
    run: run_verb,
}];

fn run_verb(_globals: &Globals, _arguments: &Arguments) -> Result<u8, Failure> {
    Err(Failure::new("not yet"))
}

/// `rrun [flags] REF [CMD…]`.
pub(super) fn shorthand(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    run_verb(globals, arguments)
}
