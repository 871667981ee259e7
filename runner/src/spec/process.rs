//! Arguments and environment of the first process.

use std::collections::{HashMap, HashSet};

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
    let mut texts = vec![PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if request.terminal {
        texts.push("TERM=xterm".to_owned());
    }
    let mut bytes = Vec::new();
    change(&mut texts, &mut bytes, &request.environment);
    let asked: HashSet<&[u8]> = request.environment.iter().map(Variable::name).collect();
    let mut all: Environment = texts.into_iter().collect();
    for text in image.env.iter().filter(|text| !asked.contains(name_of(text).as_bytes())) {
        all.set(text.clone());
    }
    (all.into_words(), bytes)
}

/// Sets and takes away variables in their order: texts, and those that are no UTF-8.
pub fn change(texts: &mut Vec<String>, bytes: &mut Vec<Vec<u8>>, asked: &[Variable]) {
    let mut all: Environment = std::mem::take(texts).into_iter().collect();
    for variable in asked {
        let name = variable.name();
        bytes.retain(|known| known.split(|byte| *byte == b'=').next() != Some(name));
        match variable {
            Variable::Set(text) => all.set(text.clone()),
            Variable::Unset(_) => all.unset(name),
            Variable::Bytes(text) => {
                all.unset(name);
                bytes.push(text.clone());
            }
        }
    }
    *texts = all.into_words();
}

/// Variables in the order in which their names came. An image may have as many as fit into its
/// configuration, so none is looked for among the others.
#[derive(Debug, Default)]
struct Environment {
    words: Vec<Option<String>>,
    places: HashMap<String, usize>,
}

impl Environment {
    /// `NAME=VALUE`, in the place of an earlier value.
    fn set(&mut self, text: String) {
        match self.places.get(name_of(&text)) {
            Some(&place) => self.words[place] = Some(text),
            None => {
                self.places.insert(name_of(&text).to_owned(), self.words.len());
                self.words.push(Some(text));
            }
        }
    }

    fn unset(&mut self, name: &[u8]) {
        let known = std::str::from_utf8(name).ok().and_then(|name| self.places.remove(name));
        if let Some(place) = known {
            self.words[place] = None;
        }
    }

    fn into_words(self) -> Vec<String> {
        self.words.into_iter().flatten().collect()
    }
}

impl FromIterator<String> for Environment {
    fn from_iter<T: IntoIterator<Item = String>>(words: T) -> Self {
        let mut all = Self::default();
        words.into_iter().for_each(|text| all.set(text));
        all
    }
}

fn name_of(text: &str) -> &str {
    text.split('=').next().unwrap_or(text)
}
