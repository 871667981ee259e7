//! `container prune`.

use super::{empty_trash, remove, status};
use crate::cli::flags::{Arguments, Flag, FlagsEnd};
use crate::cli::{Globals, Verb, print_line};
use crate::failure::Failure;
use crate::images::written_bytes;
use crate::launch::state::Status;
use crate::pull::human_bytes;

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
    let (mut removed, mut reclaimed, mut code) = (Vec::new(), 0u64, 0);
    for id in store.container_ids()? {
        let done = status(globals, &id).and_then(|status| {
            if !matches!(status, Status::Created | Status::Exited(_)) {
                return Ok(());
            }
            let bytes =
                store.open_container(&id)?.as_ref().map_or(0, |one| written_bytes(&store, one));
            remove::remove(globals, &store, &id, false, false)?;
            reclaimed = reclaimed.saturating_add(bytes);
            removed.push(id.clone());
            Ok(())
        });
        // The others go all the same.
        if let Err(failure) = done {
            crate::cli::tell(&failure);
            code = 1;
        }
    }
    empty_trash(&store);
    if !removed.is_empty() {
        print_line("Deleted Containers:")?;
        for id in removed {
            print_line(&id)?;
        }
        print_line("")?;
    }
    print_line(&format!("Total reclaimed space: {}", human_bytes(reclaimed)))?;
    Ok(code)
}
