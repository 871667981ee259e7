//! Arguments and environment of the first process.

use super::SpecError;
use super::image_config::Execution;
use super::request::{Request, Variable};

/// Docker's, for images that set none.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Entrypoint and command: `--entrypoint` drops the image's command too; words after the image's
/// name replace the image's command only. Also: how many of them are the entrypoint.
pub(super) fn arguments(
    request: &Request,
    image: &Execution,
) -> Result<(Vec<String>, usize), SpecError> {
    let (mut arguments, command) = match &request.entrypoint {
        Some(entrypoint) => (entrypoint.clone(), &request.command),
        None if request.command.is_empty() => (image.entrypoint.clone(), &image.cmd),
        None => (image.entrypoint.clone(), &request.command),
    };
    let entrypoint_words = arguments.len();
    arguments.extend(command.iter().cloned());
    if arguments.is_empty() {
        return Err(SpecError::NoCommand);
    }
    if arguments[0].is_empty() {
        return Err(SpecError::EmptyCommand);
    }
    Ok((arguments, entrypoint_words))
}

/// In Docker's order: PATH, HOSTNAME, TERM with a terminal, then what was asked for, then the
/// image's; a later value takes an earlier one's place. HOME is not here: only the container's
/// own `/etc/passwd` tells it, so the first process adds it where nothing has set it.
pub(super) fn environment(request: &Request, image: &Execution, hostname: &str) -> Vec<String> {
    let mut all = vec![PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if request.terminal {
        all.push("TERM=xterm".to_owned());
    }
    let asked = |name: &str| {
        request.environment.iter().any(|variable| match variable {
            Variable::Set(text) => name_of(text) == name,
            Variable::Unset(unset) => unset == name,
        })
    };
    for variable in &request.environment {
        match variable {
            Variable::Set(text) => put(&mut all, text),
            Variable::Unset(name) => all.retain(|text| name_of(text) != name),
        }
    }
    for text in image.env.iter().filter(|text| !asked(name_of(text))) {
        put(&mut all, text);
    }
    all
}

fn put(all: &mut Vec<String>, text: &str) {
    match all.iter_mut().find(|known| name_of(known) == name_of(text)) {
        Some(known) => text.clone_into(known),
        None => all.push(text.to_owned()),
    }
}

fn name_of(text: &str) -> &str {
    text.split('=').next().unwrap_or(text)
}
