//! `stop`, `kill`, `wait`, `pause`, `unpause`.

use std::os::unix::net::UnixStream;

use super::{
    answer, ask, ask_unless_ended, connect, connect_running, each, each_at_once, send, status,
};
use crate::cli::flags::{Arguments, Flag, FlagsEnd};
use crate::cli::{Globals, Verb, print_line, tell, values};
use crate::failure::Failure;
use crate::launch;
use crate::launch::protocol::{Reply, Request};
use crate::launch::state::Status;
use crate::signal::Signal;

pub(super) const VERBS: &[Verb] = &[
    Verb {
        names: &["stop", "container stop"],
        operands: "CONTAINER [CONTAINER…]",
        operands_min: 1,
        operands_max: usize::MAX,
        about: "Ask containers to end, and kill them after a while",
        details: "The signal is the container's own (--stop-signal, the image's, else SIGTERM).",
        flags: &[
            Flag::one("time", "SECONDS", "how long to wait before killing; -1: for ever (10)")
                .short('t'),
            Flag::one("timeout", "SECONDS", ""),
            Flag::one("signal", "SIGNAL", "send this signal instead").short('s'),
        ],
        flags_end: FlagsEnd::AtDashes,
        run: stop,
    },
    Verb {
        names: &["kill", "container kill"],
        operands: "CONTAINER [CONTAINER…]",
        operands_min: 1,
        operands_max: usize::MAX,
        about: "Send a signal to running containers",
        details: "",
        flags: &[Flag::one("signal", "SIGNAL", "the signal (SIGKILL)").short('s')],
        flags_end: FlagsEnd::AtDashes,
        run: kill,
    },
    Verb {
        names: &["wait", "container wait"],
        operands: "CONTAINER [CONTAINER…]",
        operands_min: 1,
        operands_max: usize::MAX,
        about: "Wait until containers have ended and print their exit codes",
        details: "",
        flags: &[],
        flags_end: FlagsEnd::AtDashes,
        run: wait,
    },
    Verb {
        names: &["pause", "container pause"],
        operands: "CONTAINER [CONTAINER…]",
        operands_min: 1,
        operands_max: usize::MAX,
        about: "Freeze the processes of containers",
        details: "",
        flags: &[],
        flags_end: FlagsEnd::AtDashes,
        run: |globals, arguments| order(globals, arguments, Request::Pause),
    },
    Verb {
        names: &["unpause", "container unpause"],
        operands: "CONTAINER [CONTAINER…]",
        operands_min: 1,
        operands_max: usize::MAX,
        about: "Let frozen containers go on",
        details: "",
        flags: &[],
        flags_end: FlagsEnd::AtDashes,
        run: |globals, arguments| order(globals, arguments, Request::Unpause),
    },
];

fn stop(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let time = arguments.value("time").or(arguments.value("timeout"));
    let timeout = time.map(|text| values::number("time", text, -1, i64::from(i32::MAX)));
    let timeout = timeout.transpose()?;
    let signal = signal(arguments)?;
    each_at_once(
        &globals.store()?,
        &arguments.operands,
        |container| begin_stop(globals, &container.id, signal, timeout),
        |_, stopping| finish_stop(stopping),
    )
}

/// Asks a container to stop; `None` where it does not run, and so has stopped already.
pub(super) fn begin_stop(
    globals: &Globals,
    id: &str,
    signal: Option<Signal>,
    timeout_seconds: Option<i64>,
) -> Result<Option<UnixStream>, Failure> {
    status(globals, id)?;
    let Some(stream) = connect(globals, id)? else { return Ok(None) };
    let signal = signal.map(Signal::number);
    let lives = send(&stream, Request::Stop { signal, timeout_seconds })?;
    Ok(lives.then_some(stream))
}

/// Until it has stopped.
pub(super) fn finish_stop(stopping: Option<UnixStream>) -> Result<(), Failure> {
    stopping.map_or(Ok(()), |stream| answer(&stream).map(drop))
}

/// Both.
pub(super) fn stop_one(
    globals: &Globals,
    id: &str,
    signal: Option<Signal>,
    timeout_seconds: Option<i64>,
) -> Result<(), Failure> {
    finish_stop(begin_stop(globals, id, signal, timeout_seconds)?)
}

pub(super) fn signal(arguments: &Arguments) -> Result<Option<Signal>, Failure> {
    let parse = |text: &str| {
        text.parse::<Signal>()
            .map_err(|error| Failure::new(format!("--signal={text}")).because(&error))
    };
    arguments.value("signal").map(parse).transpose()
}

fn kill(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let signal = signal(arguments)?.unwrap_or(Signal::KILL);
    each_at_once(
        &globals.store()?,
        &arguments.operands,
        |container| {
            let stream = connect_running(globals, &container.id)?;
            ask(&stream, Request::Signal(signal.number())).map(|_| stream)
        },
        // Nothing outlives KILL: as with Docker it has ended when this says so.
        |container, stream| match signal {
            Signal::KILL => await_end(&stream, &container.id),
            _ => Ok(()),
        },
    )
}

/// Until a container has ended that cannot but end.
fn await_end(stream: &UnixStream, id: &str) -> Result<(), Failure> {
    let slow = |failure: Failure| {
        let told = Failure::new(format!("container {id:.12} does not come to its end")).exits(1);
        told.hint(failure.message)
    };
    stream
        .set_read_timeout(Some(launch::MOMENT))
        .map_err(|error| Failure::new("cannot wait").because(&error))?;
    ask_unless_ended(stream, Request::Wait).map(drop).map_err(slow)
}

fn wait(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let store = globals.store()?;
    let mut code = 0;
    for name in &arguments.operands {
        // The others are waited for all the same, as with Docker.
        match super::find(&store, name).and_then(|found| wait_for_end(globals, &found.id)) {
            Ok(exit) => print_line(&exit.to_string())?,
            Err(failure) => {
                tell(&failure);
                code = 1;
            }
        }
    }
    Ok(code)
}

/// The exit code, when there is one.
pub(super) fn wait_for_end(globals: &Globals, id: &str) -> Result<u8, Failure> {
    match status(globals, id)? {
        Status::Exited(ended) => return Ok(ended.exit.status()),
        Status::Created => return Ok(0),
        Status::Running(_) | Status::Paused(_) | Status::Orphaned(_) => {}
    }
    if let Some(stream) = connect(globals, id)?
        && let Some(Reply::Exited(exit)) = ask_unless_ended(&stream, Request::Wait)?
    {
        return Ok(exit.status());
    }
    // It ended between the question and the connection.
    match status(globals, id)? {
        Status::Exited(ended) => Ok(ended.exit.status()),
        _ => Err(Failure::new(format!("nobody saw container {id:.12} end"))),
    }
}

fn order(globals: &Globals, arguments: &Arguments, request: Request) -> Result<u8, Failure> {
    each(&globals.store()?, &arguments.operands, |container| {
        let stream = connect_running(globals, &container.id)?;
        ask(&stream, request.clone()).map(drop)
    })
}
