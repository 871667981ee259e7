//! `rm`.

use std::time::Instant;

use super::{each_at_once, empty_trash, signal, status};
use crate::cli::flags::{Arguments, Flag, FlagsEnd};
use crate::cli::{Globals, Verb};
use crate::failure::Failure;
use crate::images::{ContainerDir, Store, StoreError};
use crate::launch::state::Status;
use crate::launch::{self, RunDirectory};
use crate::signal::Signal;
use crate::volumes;

pub(super) const VERBS: &[Verb] = &[Verb {
    names: &["rm", "container rm", "container remove"],
    operands: "CONTAINER [CONTAINER…]",
    operands_min: 1,
    operands_max: usize::MAX,
    about: "Remove containers",
    details: "",
    flags: &[
        Flag::switch("force", "kill running ones first").short('f'),
        Flag::switch("volumes", "remove their volumes without a name too").short('v'),
        Flag::switch("link", "").short('l'),
    ],
    flags_end: FlagsEnd::AtDashes,
    run: rm,
}];

fn rm(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let store = globals.store()?;
    let force = arguments.has("force");
    let mut names = arguments.operands.clone();
    if force {
        // With Docker too it is told, and no failure.
        names.retain(|name| match store.container(name) {
            Err(error @ StoreError::NoSuchContainer(_)) => {
                crate::cli::tell(Failure::from(error));
                false
            }
            _ => true,
        });
    }
    // Those that run are killed all at once; what became of it is seen when each is removed.
    let kill = |container: &ContainerDir| {
        let only = force && names.len() > 1;
        Ok(only.then(|| signal::begin_stop(globals, &container.id, Some(Signal::KILL), Some(10))))
    };
    let code = each_at_once(&store, &names, kill, |container, _| {
        remove(globals, &store, &container.id, force, arguments.has("volumes"))
    })?;
    empty_trash(&store);
    Ok(code)
}

/// Takes a container away; a running one only with `force`.
pub(in crate::cli) fn remove(
    globals: &Globals,
    store: &Store,
    id: &str,
    force: bool,
    with_volumes: bool,
) -> Result<(), Failure> {
    // Held to the end: nobody starts what is being removed.
    let _held = hold(globals, id, force)?;
    let found = store.open_container(id)?;
    let record = found.and_then(|directory| directory.record().ok());
    match store.remove_container(id) {
        // With --rm the monitor was faster, which is what was wanted.
        Err(StoreError::NoSuchContainer(_)) if force => {}
        other => other?,
    }
    if let Some(record) = record.filter(|_| with_volumes) {
        for volume in record.volumes.iter().filter(|volume| volume.anonymous) {
            // Docker's rule: one that another container uses stays, without a word.
            if !crate::cli::volume::is_used(store, &volume.name)? {
                let _ = volumes::remove(&store.volumes(), &volume.name);
            }
        }
    }
    Ok(())
}

/// Holds a container that does not run; one that runs, or is about to, is killed with `force`.
fn hold(globals: &Globals, id: &str, force: bool) -> Result<RunDirectory, Failure> {
    let deadline = Instant::now() + launch::MOMENT;
    loop {
        if let Some(held) = super::hold(globals, id)? {
            return Ok(held);
        }
        match status(globals, id)? {
            Status::Exited(_) | Status::Orphaned(_) => {}
            _ if force => signal::stop_one(globals, id, Some(Signal::KILL), Some(10))?,
            Status::Running(_) => return Err(still(id, "running")),
            Status::Paused(_) => return Err(still(id, "paused")),
            Status::Created => return Err(still(id, "being started")),
        }
        if Instant::now() > deadline {
            return Err(Failure::new(format!("container {id:.12} does not come to its end")));
        }
        std::thread::sleep(launch::LOOK_AGAIN);
    }
}

fn still(id: &str, what: &str) -> Failure {
    Failure::new(format!("cannot remove container {id}: it is {what}"))
        .hint(format!("rrun stop {id:.12}, or rrun rm -f {id:.12}"))
}
