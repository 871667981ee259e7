//! `container prune`.

use super::{remove, status};
use crate::cli::flags::{Arguments, Flag, FlagsEnd};
use crate::cli::{Globals, Verb, print_line};
use crate::failure::Failure;
use crate::launch::state::Status;

pub(super) const VERBS: &[Verb] = &[Verb {
    names: &["container prune"],
    operands: "",
    operands_min: 0,
    operands_max: 0,
    about: "Remove all containers that do not run",
    details: "",
    flags: &[Flag::switch("force", "do not ask").short('f')],
    flags_end: FlagsEnd::AtDashes,
    run: prune,
}];

fn prune(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let what = "This will remove all stopped containers.";
    if !arguments.has("force") && !crate::cli::confirm(what)? {
        return Ok(0);
    }
    let store = globals.store()?;
    let mut removed = Vec::new();
    for id in store.container_ids()? {
        if matches!(status(globals, &id)?, Status::Created | Status::Exited(_)) {
            remove::remove(globals, &store, &id, false, false)?;
            removed.push(id);
        }
    }
    store.empty_trash()?;
    if !removed.is_empty() {
        print_line("Deleted Containers:")?;
        for id in removed {
            print_line(&id)?;
        }
    }
    Ok(0)
}
