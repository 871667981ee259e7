//! `exec`: a further process in a running container.

use std::io::IsTerminal;

use oci_spec::runtime::{LinuxCapabilitiesBuilder, Process};

use super::connect_running;
use crate::cli::client::{self, Connection, Ended, relay};
use crate::cli::flags::{Arguments, Flag, FlagsEnd};
use crate::cli::run::bounding_set;
use crate::cli::{Globals, Verb, values};
use crate::container::Record;
use crate::failure::{EXIT_CANNOT_EXECUTE, Failure};
use crate::launch::Conversation;
use crate::launch::protocol::{ExecRequest, Request};
use crate::launch::state::Status;

pub(super) const VERBS: &[Verb] = &[Verb {
    names: &["exec", "container exec"],
    operands: "CONTAINER COMMAND [WORD…]",
    operands_min: 2,
    operands_max: usize::MAX,
    about: "Run a further command in a running container",
    details: "\
It gets the container's environment, user, limits and rights, and joins its namespaces.

  rrun exec -it web sh
  rrun exec -u 0 -e DEBUG=1 web /bin/migrate",
    flags: &[
        Flag::switch("interactive", "keep standard input open").short('i'),
        Flag::switch("tty", "give it a terminal").short('t'),
        Flag::switch("detach", "do not wait for it").short('d'),
        Flag::many("env", "NAME[=VALUE]", "set a variable").short('e'),
        Flag::many("env-file", "FILE", "set the variables of a file"),
        Flag::one("workdir", "DIR", "start in this directory").short('w'),
        Flag::one("user", "USER[:GROUP]", "run as (the container's user)").short('u'),
        Flag::switch("privileged", "with all capabilities"),
        Flag::one("detach-keys", "KEYS", "leave with these (ctrl-p,ctrl-q)"),
    ],
    flags_end: FlagsEnd::AtOperand,
    run: exec,
}];

fn exec(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let (interactive, terminal) = (arguments.has("interactive"), arguments.has("tty"));
    if interactive && terminal && !arguments.has("detach") && !std::io::stdin().is_terminal() {
        return Err(Failure::new("the input device is not a TTY")
            .hint("leave -t away: input comes from a pipe or file"));
    }
    let store = globals.store()?;
    let container = super::find(&store, &arguments.operands[0])?;
    let record = container.record()?;
    let detach_keys = client::detach_keys(arguments.value("detach-keys"))?;
    let request = request(&record, arguments)?;
    if matches!(super::status(globals, &container.id)?, Status::Paused(_)) {
        return Err(Failure::new(format!("container {:.12} is paused", container.id))
            .hint(format!("rrun unpause {:.12}", container.id))
            .exits(1));
    }
    let stream = connect_running(globals, &container.id)?;
    let signals = client::catch_signals()?;
    let detached = request.detached;
    let attach = client::attach(interactive, terminal, !detached);
    let request = Request::Exec(Box::new(request), attach);
    if detached {
        return super::ask(&stream, request).map(|_| 0);
    }
    let conversation = Conversation::attach(stream, request)
        .map_err(|error| Failure::new("exec").because(&error))?;
    let connection = Connection {
        conversation,
        stdin: interactive,
        terminal,
        passes_signals: true,
        is_exec: true,
        is_starting: true,
        detach_keys,
    };
    match relay(connection, &signals)? {
        Ended::Exited(exit) => Ok(exit.status()),
        Ended::Detached => Ok(0),
    }
}

fn request(record: &Record, arguments: &Arguments) -> Result<ExecRequest, Failure> {
    let mut process = record.spec.process().clone().unwrap_or_default();
    process.set_args(Some(arguments.operands[1..].to_vec()));
    process.set_terminal(Some(arguments.has("tty")));
    let (texts, environment_bytes) = environment(record, &process, arguments)?;
    process.set_env(Some(texts));
    if let Some(workdir) = arguments.value("workdir") {
        if !workdir.starts_with('/') {
            return Err(Failure::new(format!("--workdir={workdir}: it is not absolute"))
                .exits(EXIT_CANNOT_EXECUTE));
        }
        process.set_cwd(workdir.into());
    }
    let privileged = arguments.has("privileged");
    if privileged {
        let all = bounding_set();
        let sets = LinuxCapabilitiesBuilder::default()
            .bounding(all.clone())
            .effective(all.clone())
            .permitted(all)
            .build()
            .map_err(|error| Failure::new("--privileged").because(&error))?;
        process.set_capabilities(Some(sets));
    }
    let user = match arguments.value("user") {
        Some(user) => {
            crate::spec::check_user(user).map_err(|error| Failure::of(&error))?;
            user.to_owned()
        }
        None => record.user.clone(),
    };
    Ok(ExecRequest {
        process,
        environment_bytes,
        user,
        groups_added: record.groups_added.clone(),
        privileged,
        stdin_open: arguments.has("interactive"),
        detached: arguments.has("detach"),
    })
}

/// The container's environment, with what is asked for on top, and TERM with a terminal: texts, and
/// variables that are no UTF-8.
fn environment(
    record: &Record,
    process: &Process,
    arguments: &Arguments,
) -> Result<(Vec<String>, Vec<Vec<u8>>), Failure> {
    let mut all = process.env().clone().unwrap_or_default();
    let mut bytes = record.environment_bytes.clone();
    if arguments.has("tty") && !all.iter().any(|text| text.starts_with("TERM=")) {
        all.push("TERM=xterm".to_owned());
    }
    let mut asked = Vec::new();
    for path in arguments.values("env-file") {
        asked.extend(values::variables_of_file("env-file", path)?);
    }
    for text in arguments.values("env") {
        asked.push(values::variable("env", text)?);
    }
    crate::spec::change_environment(&mut all, &mut bytes, &asked);
    Ok((all, bytes))
}
