//! `start`, `restart`, `attach`.

use std::time::Instant;

use super::{connect_running, each, signal, status};
use crate::cli::client::{self, Connection, Ended, relay};
use crate::cli::flags::{Arguments, Flag, FlagsEnd};
use crate::cli::run::{Foreground, start_container};
use crate::cli::{Globals, Verb, print_line, values};
use crate::failure::Failure;
use crate::images::Store;
use crate::launch::protocol::Request;
use crate::launch::state::Status;
use crate::launch::{self, Conversation, RunDirectory};

pub(super) const VERBS: &[Verb] = &[
    Verb {
        names: &["start", "container start"],
        operands: "CONTAINER [CONTAINER…]",
        operands_min: 1,
        operands_max: usize::MAX,
        about: "Start containers that do not run",
        details: "",
        flags: &[
            Flag::switch("attach", "connect to its output and wait for its end").short('a'),
            Flag::switch("interactive", "connect to its input").short('i'),
            Flag::one("detach-keys", "KEYS", "leave with these (ctrl-p,ctrl-q)"),
            Flag::switch("sig-proxy", "hand signals on to it (true)"),
        ],
        flags_end: FlagsEnd::AtDashes,
        run: start,
    },
    Verb {
        names: &["restart", "container restart"],
        operands: "CONTAINER [CONTAINER…]",
        operands_min: 1,
        operands_max: usize::MAX,
        about: "Stop and start containers",
        details: "",
        flags: &[
            Flag::one("time", "SECONDS", "how long to wait before killing (10)").short('t'),
            Flag::one("signal", "SIGNAL", "stop with this signal").short('s'),
        ],
        flags_end: FlagsEnd::AtDashes,
        run: restart,
    },
    Verb {
        names: &["attach", "container attach"],
        operands: "CONTAINER",
        operands_min: 1,
        operands_max: 1,
        about: "Connect to a running container",
        details: "The exit code is the container's.",
        flags: &[
            Flag::switch("no-stdin", "do not connect to its input"),
            Flag::one("detach-keys", "KEYS", "leave with these (ctrl-p,ctrl-q)"),
            Flag::switch("sig-proxy", "hand signals on to it (true)"),
        ],
        flags_end: FlagsEnd::AtDashes,
        run: attach,
    },
];

fn passes_signals(arguments: &Arguments) -> bool {
    !arguments.given("sig-proxy") || arguments.has("sig-proxy")
}

fn start(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let store = globals.store()?;
    if !arguments.has("attach") && !arguments.has("interactive") {
        return each(&store, &arguments.operands, |container| {
            start_detached(globals, &store, &container.id)
        });
    }
    let [name] = &arguments.operands[..] else {
        return Err(Failure::new("start: only one container can be attached to"));
    };
    let id = super::find(&store, name)?.id;
    let Some(held) = hold_unless_running(globals, &id)? else {
        return attach_to(globals, &store, name, arguments.has("interactive"), arguments);
    };
    let foreground = Foreground {
        stdin: arguments.has("interactive"),
        // Docker leaves a container running whose `start -a` ends.
        stop_on_hangup: false,
        passes_signals: passes_signals(arguments),
        detach_keys: client::detach_keys(arguments.value("detach-keys"))?,
    };
    start_container(globals, &store, &id, held, Some(foreground))
}

/// Holds a container that does not run. `None`: it runs; where another command is starting it, it
/// has been waited for.
fn hold_unless_running(globals: &Globals, id: &str) -> Result<Option<RunDirectory>, Failure> {
    let deadline = Instant::now() + launch::MOMENT;
    loop {
        if let Some(held) = super::hold(globals, id)? {
            return Ok(Some(held));
        }
        match status(globals, id)? {
            Status::Running(_) => return Ok(None),
            Status::Paused(_) => {
                return Err(Failure::new(format!("container {id:.12} is paused: it runs already"))
                    .hint(format!("rrun unpause {id:.12}"))
                    .exits(1));
            }
            Status::Created | Status::Exited(_) | Status::Orphaned(_) => {}
        }
        if Instant::now() > deadline {
            return Err(Failure::new(format!("container {id:.12} is being started already"))
                .hint(format!("rrun rm -f {id:.12}")));
        }
        std::thread::sleep(launch::LOOK_AGAIN);
    }
}

/// Starts it; one that runs is started already.
fn start_detached(globals: &Globals, store: &Store, id: &str) -> Result<(), Failure> {
    let Some(held) = hold_unless_running(globals, id)? else { return Ok(()) };
    start_container(globals, store, id, held, None).map(drop)
}

fn restart(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let store = globals.store()?;
    let timeout = arguments.value("time");
    let timeout = timeout.map(|text| values::number("time", text, -1, i64::from(i32::MAX)));
    let timeout = timeout.transpose()?;
    let stop_signal = signal::signal(arguments)?;
    each(&store, &arguments.operands, |container| {
        signal::stop_one(globals, &container.id, stop_signal, timeout)?;
        start_detached(globals, &store, &container.id)
    })
}

fn attach(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let name = &arguments.operands[0];
    attach_to(globals, &globals.store()?, name, !arguments.has("no-stdin"), arguments)
}

fn attach_to(
    globals: &Globals,
    store: &Store,
    name: &str,
    stdin: bool,
    arguments: &Arguments,
) -> Result<u8, Failure> {
    let container = super::find(store, name)?;
    let record = container.record()?;
    let detach_keys = client::detach_keys(arguments.value("detach-keys"))?;
    let stream = connect_running(globals, &container.id)?;
    let signals = client::catch_signals()?;
    let stdin = stdin && record.stdio.stdin_open;
    let terminal = record.stdio.terminal;
    let request = Request::Attach(client::attach(stdin, terminal, false));
    let conversation = Conversation::attach(stream, request)
        .map_err(|error| Failure::new(format!("cannot attach to {name}")).because(&error))?;
    let connection = Connection {
        conversation,
        stdin,
        terminal,
        passes_signals: passes_signals(arguments),
        is_exec: false,
        is_starting: false,
        detach_keys,
    };
    match relay(connection, &signals)? {
        Ended::Exited(exit) => Ok(client::conclude(&exit)),
        Ended::Detached => {
            crate::cli::tell("read escape sequence");
            print_line("").map(|()| 0)
        }
    }
}
