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
    // Docker's word for none, in images as on the command line.
    let of_image = if image.entrypoint == [""] { Vec::new() } else { image.entrypoint.clone() };
    let (mut arguments, command) = match &request.entrypoint {
        Some(entrypoint) => (entrypoint.clone(), &request.command),
        None if request.command.is_empty() => (of_image, &image.cmd),
        None => (of_image, &request.command),
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
///
/// Apart from it those that are no UTF-8, for which the Spec has no place.
pub(super) fn environment(
    request: &Request,
    image: &Execution,
    hostname: &str,
) -> (Vec<String>, Vec<Vec<u8>>) {
    let mut all = vec![PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if request.terminal {
        all.push("TERM=xterm".to_owned());
    }
    let mut bytes = Vec::new();
    change(&mut all, &mut bytes, &request.environment);
    let is_asked = |text: &str| {
        request.environment.iter().any(|variable| variable.name() == name_of(text).as_bytes())
    };
    for text in image.env.iter().filter(|text| !is_asked(text)) {
        put(&mut all, text);
    }
    (all, bytes)
}

/// Sets and takes away variables in their order: texts, and those that are no UTF-8.
pub fn change(texts: &mut Vec<String>, bytes: &mut Vec<Vec<u8>>, asked: &[Variable]) {
    for variable in asked {
        let name = variable.name();
        bytes.retain(|known| known.split(|byte| *byte == b'=').next() != Some(name));
        match variable {
            Variable::Set(text) => put(texts, text),
            Variable::Unset(_) => texts.retain(|text| name_of(text).as_bytes() != name),
            Variable::Bytes(text) => {
                texts.retain(|text| name_of(text).as_bytes() != name);
                bytes.push(text.clone());
            }
        }
    }
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
