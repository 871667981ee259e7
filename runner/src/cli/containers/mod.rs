//! The verbs about containers that exist.

mod exec;
mod inspect;
mod list;
mod logs;
mod network;
mod prune;
mod remove;
mod signal;
mod start;
mod view;

pub(crate) use self::list::rows_with_sizes;

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub(in crate::cli) use self::remove::remove;
use super::{Globals, Verb, print_line};
use crate::failure::Failure;
use crate::images::{ContainerDir, Store};
use crate::launch::RunDirectory;
use crate::launch::protocol::{Frame, Reply, Request};
use crate::launch::state::Status;

/// In the order of help.
pub(super) const VERBS: &[&[Verb]] = &[
    start::VERBS,
    signal::VERBS,
    remove::VERBS,
    list::VERBS,
    logs::VERBS,
    exec::VERBS,
    inspect::VERBS,
    network::VERBS,
    prune::VERBS,
];

/// The container of this name or id. Where there is none the exit code is 1, as Docker's is for
/// what its engine refuses.
pub(super) fn find(store: &Store, name: &str) -> Result<ContainerDir, Failure> {
    store.container(name).map_err(|error| Failure::from(error).exits(1))
}

/// What is known of the container's life now. One that lost its monitor is put right first, and one
/// that is just starting or ending is waited for.
pub(super) fn status(globals: &Globals, id: &str) -> Result<Status, Failure> {
    status_within(globals, id, crate::launch::MOMENT)
}

/// The same, waiting no longer than `patience`.
pub(super) fn status_within(
    globals: &Globals,
    id: &str,
    patience: Duration,
) -> Result<Status, Failure> {
    crate::launch::settled_status(&globals.dirs, id, patience)
        .map_err(|error| Failure::new(format!("cannot tell the state of {id:.12}")).because(&error))
}

/// Keeps others from starting or removing the container; `None` where it runs or is about to.
pub(in crate::cli) fn hold(globals: &Globals, id: &str) -> Result<Option<RunDirectory>, Failure> {
    crate::launch::hold(&globals.dirs, id).map_err(|error| {
        Failure::new(format!("cannot use {}", globals.dirs.runroot.display())).because(&error)
    })
}

/// A conversation with the monitor of a container that lives; `None` where it has none.
pub(super) fn connect(globals: &Globals, id: &str) -> Result<Option<UnixStream>, Failure> {
    crate::launch::connect(&globals.dirs, id).map_err(|error| {
        Failure::new(format!("cannot reach the monitor of {id:.12}")).because(&error)
    })
}

/// A conversation with the monitor of a container that has to be running.
pub(super) fn connect_running(globals: &Globals, id: &str) -> Result<UnixStream, Failure> {
    let running = matches!(status(globals, id)?, Status::Running(_) | Status::Paused(_));
    match connect(globals, id)? {
        Some(stream) if running => Ok(stream),
        _ => Err(Failure::new(format!("container {id} is not running"))
            .hint(format!("rrun start {id:.12}"))
            .exits(1)),
    }
}

/// Asks and waits for the answer. Notices are shown on the way.
pub(super) fn ask(stream: &UnixStream, request: Request) -> Result<Reply, Failure> {
    ask_unless_ended(stream, request)?.ok_or_else(|| {
        Failure::new("the container's monitor is gone")
            .hint("rrun ps -a shows what became of the container")
    })
}

/// The same; `None` where the monitor ended before it answered, which it does with its container.
pub(super) fn ask_unless_ended(
    stream: &UnixStream,
    request: Request,
) -> Result<Option<Reply>, Failure> {
    match send(stream, request)? {
        true => answer(stream),
        false => Ok(None),
    }
}

/// A request that a monitor has not read when it ends resets the connection.
fn has_ended(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

fn broke(error: io::Error) -> Failure {
    Failure::new("the conversation with the container's monitor broke").because(&error)
}

/// Asks without waiting for the answer; false where the monitor has ended.
pub(super) fn send(stream: &UnixStream, request: Request) -> Result<bool, Failure> {
    match Frame::Request(request).write(stream) {
        Err(error) if has_ended(&error) => Ok(false),
        other => other.map(|()| true).map_err(broke),
    }
}

/// Waits for the answer; `None` where the monitor ended before it gave one.
pub(super) fn answer(stream: &UnixStream) -> Result<Option<Reply>, Failure> {
    loop {
        let frame = match Frame::read(stream) {
            Err(error) if has_ended(&error) => return Ok(None),
            other => other.map_err(broke)?,
        };
        match frame {
            Some(Frame::Reply(Reply::Notice(text))) => crate::cli::tell(format!("rrun: {text}")),
            Some(Frame::Reply(Reply::Refused(why))) => return Err(Failure::new(why)),
            Some(Frame::Reply(Reply::Failed(failure))) => return Err(failure.into()),
            Some(Frame::Reply(reply)) => return Ok(Some(reply)),
            Some(_) => {}
            None => return Ok(None),
        }
    }
}

/// Deletes the files of what was removed. What cannot be deleted is told, and no failure: the
/// containers are gone, and every later command tries again.
pub(super) fn empty_trash(store: &Store) {
    if let Err(error) = store.empty_trash() {
        let failure = Failure::from(error);
        crate::cli::tell(format!("rrun: some of it stays for now: {}", failure.message));
    }
}

/// Does something to each container that is named and goes on after a failure, as Docker does:
/// the names of those that worked are printed, the failures told, and the code is 1 if any failed.
pub(super) fn each(
    store: &Store,
    names: &[String],
    mut act: impl FnMut(&ContainerDir) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    each_at_once(store, names, |_| Ok(()), |container, ()| act(container))
}

/// Containers that are waited for together; each costs two descriptors.
const AT_ONCE_MAX: usize = 100;

/// The same for what takes the containers a while: begun with all of them, then waited for one after
/// the other.
pub(super) fn each_at_once<T>(
    store: &Store,
    names: &[String],
    begin: impl Fn(&ContainerDir) -> Result<T, Failure>,
    mut finish: impl FnMut(&ContainerDir, T) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let begin = |name: &String| -> Result<(ContainerDir, T), Failure> {
        let container = store.container(name)?;
        let begun = begin(&container)?;
        Ok((container, begun))
    };
    let mut code = 0;
    for names in names.chunks(AT_ONCE_MAX) {
        let begun: Vec<_> = names.iter().map(begin).collect();
        for (name, begun) in names.iter().zip(begun) {
            match begun.and_then(|(container, begun)| finish(&container, begun)) {
                Ok(()) => print_line(name)?,
                Err(failure) => {
                    crate::cli::tell(&failure);
                    code = 1;
                }
            }
        }
    }
    Ok(code)
}
