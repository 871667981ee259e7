//! The command line: what was typed becomes a verb with its arguments.
//!
//! `rrun [flags] REF [CMD…]` is `rrun run --rm` (and `-it` on a terminal). The first word that is
//! no flag is a verb if it *exactly* equals one, built in or reserved; otherwise it names an image.
//! Reserved words answer that they are not supported, so that `rrun prune` never pulls an image
//! of that name.

mod client;
mod completion;
mod containers;
mod doctor;
pub mod flags;
mod globals;
mod help;
mod hidden;
pub(crate) mod images;
pub(crate) mod listing;
mod login;
mod mount_flags;
mod names;
mod network;
mod network_flags;
pub(crate) mod output;
mod request;
mod run;
mod run_flags;
mod system;
pub(crate) mod template;
mod values;
mod volume;

use std::ffi::OsString;

use self::flags::{Arguments, Flag, FlagsEnd};
pub use self::globals::Globals;
pub(crate) use self::output::tell;
use self::output::{confirm, exit_code, print_bytes};
pub use self::output::{print, print_line};
use crate::failure::Failure;
use crate::{launch, net, unpack};

/// A command of `rrun`.
pub struct Verb {
    /// `ps`, and the longer spellings: `container ls`.
    pub names: &'static [&'static str],
    /// How help shows the operands: `NAME [NAME…]`.
    pub operands: &'static str,
    pub operands_min: usize,
    pub operands_max: usize,
    /// One line.
    pub about: &'static str,
    /// Further paragraphs and examples, for `--help`.
    pub details: &'static str,
    pub flags: &'static [Flag],
    pub flags_end: FlagsEnd,
    /// Answers the exit code.
    pub run: fn(&Globals, &Arguments) -> Result<u8, Failure>,
}

/// Every command, in the order of help.
fn verbs() -> impl Iterator<Item = &'static Verb> {
    let containers = containers::VERBS.iter().copied().flatten();
    let near = [login::VERBS, volume::VERBS, network::VERBS];
    let rest = near.into_iter().chain([doctor::VERBS, system::VERBS, completion::VERBS]).flatten();
    run::VERBS.iter().chain(containers).chain(images::VERBS.iter().copied()).chain(rest)
}

/// Words that Docker or a later release gives a meaning.
const RESERVED: &[&str] = &[
    "attach",
    "bake",
    "build",
    "builder",
    "buildx",
    "bundle",
    "checkpoint",
    "commit",
    "completion",
    "compose",
    "config",
    "container",
    "context",
    "copy",
    "cp",
    "create",
    "diff",
    "digest",
    "doctor",
    "events",
    "exec",
    "explain",
    "export",
    "help",
    "history",
    "image",
    "images",
    "import",
    "info",
    "init",
    "inspect",
    "kill",
    "load",
    "login",
    "logout",
    "logs",
    "manifest",
    "network",
    "node",
    "oci",
    "pause",
    "plugin",
    "pod",
    "port",
    "prune",
    "ps",
    "pull",
    "push",
    "referrers",
    "rename",
    "restart",
    "rm",
    "rmi",
    "run",
    "save",
    "sbom",
    "scan",
    "search",
    "secret",
    "service",
    "stack",
    "start",
    "stats",
    "stop",
    "swarm",
    "system",
    "tag",
    "tags",
    "top",
    "trust",
    "unpack",
    "unpause",
    "update",
    "version",
    "volume",
    "wait",
];

/// Runs the command line `words`, without the program's name, and tells what went wrong. The exit
/// code.
pub fn main(words: &[OsString]) -> u8 {
    exit_code(run(words).unwrap_or_else(|failure| {
        if !failure.message.is_empty() {
            tell(&failure);
        }
        failure.exit_code
    }))
}

fn run(words: &[OsString]) -> Result<u8, Failure> {
    match words {
        [first, rest @ ..] if first == unpack::worker::VERB => {
            return Ok(unpack::worker::main(rest));
        }
        [first, rest @ ..] if first == net::helper::VERB => {
            return Ok(net::helper::main(rest));
        }
        [first, rest @ ..] if first == launch::VERB => return Ok(launch::launcher_main(rest)),
        [first, rest @ ..] if first == completion::ASK => return completion::answer(rest),
        [] => return help::overview().map(|()| 0),
        [only] if only == "-h" || only == "--help" || only == "help" => {
            return help::overview().map(|()| 0);
        }
        [only] if only == "--version" => return print_line(&version_line()).map(|()| 0),
        [first, rest @ ..] if first == "help" => return help::of_words(rest).map(|()| 0),
        _ => {}
    }
    // Flags that no verb has yet: the shorthand's, because an image may follow.
    let tables = [run::FLAGS, globals::FLAGS];
    let mut first = flags::parse(&tables, words, FlagsEnd::AtOperand)?;
    if first.has("help") {
        return help::overview().map(|()| 0);
    }
    let Some(word) = first.operands.first() else {
        return Err(usage("name an image or a command").hint("rrun --help"));
    };
    let rest: Vec<OsString> = first.operands.iter().skip(1).map(OsString::from).collect();
    let named = find_verb(word, &rest);
    if named.is_none() && !RESERVED.contains(&word.as_str()) {
        return run::shorthand(&Globals::new(&first)?, &first);
    }
    let word = word.clone();
    first.operands.clear();
    if let Some(name) = first.names().find(|name| !globals::FLAGS.iter().any(|f| f.long == *name)) {
        return Err(usage(&format!("--{name} stands before the command {word}"))
            .hint(format!("put it after: rrun {word} --{name} …"))
            .hint(format!("an image of that name: rrun run docker.io/library/{word}")));
    }
    match named {
        Some((verb, used)) => dispatch(verb, &first, &rest[used..]),
        None => Err(reserved(&word, &rest)),
    }
}

/// The verb that `word`, or `word` with the first of `rest`, spells, and how many of `rest` it took.
fn find_verb(word: &str, rest: &[OsString]) -> Option<(&'static Verb, usize)> {
    let second = rest.first().and_then(|second| second.to_str());
    let long = second.map(|second| format!("{word} {second}"));
    let spelled = |name: &str| verbs().find(|verb| verb.names.contains(&name));
    if let Some(verb) = long.as_deref().and_then(spelled) {
        return Some((verb, 1));
    }
    spelled(word).map(|verb| (verb, 0))
}

fn dispatch(verb: &'static Verb, before: &Arguments, words: &[OsString]) -> Result<u8, Failure> {
    let name = verb.names[0];
    // The verb's table comes first: where -h is the host name it does not ask for help.
    let mut arguments = flags::parse(&[verb.flags, globals::FLAGS], words, verb.flags_end)
        .map_err(|failure| failure.hint(format!("rrun {name} --help")))?;
    arguments.precede_with(before);
    if arguments.has("help") {
        return help::of(verb).map(|()| 0);
    }
    let count = arguments.operands.len();
    if count < verb.operands_min || count > verb.operands_max {
        let wanted = if verb.operands.is_empty() { "no operands" } else { verb.operands };
        return Err(usage(&format!("{name}: it takes {wanted}, and got {count} words"))
            .hint(format!("rrun {name} --help")));
    }
    (verb.run)(&Globals::new(&arguments)?, &arguments)
}

fn reserved(word: &str, rest: &[OsString]) -> Failure {
    let group: Vec<&str> = verbs()
        .flat_map(|verb| verb.names)
        .filter_map(|name| name.strip_prefix(word)?.strip_prefix(' '))
        .collect();
    if group.is_empty() {
        return usage(&format!("{word} is not supported"))
            .hint(format!("an image of that name: rrun run docker.io/library/{word}"));
    }
    let second = rest.first().map(|second| second.to_string_lossy().into_owned());
    let what = match second {
        Some(second) => format!("{word} {second} is not supported"),
        None => format!("{word} needs a command"),
    };
    usage(&what).hint(format!("there is: {}", group.join(", ")))
}

fn usage(message: &str) -> Failure {
    Failure::new(message)
}

fn version_line() -> String {
    format!("rrun version {}", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn reserved_words_are_never_images() {
        for line in ["build .", "compose up", "swarm", "prune", "network nosuch"] {
            let failure = run(&words(line)).unwrap_err();
            assert_eq!(failure.exit_code, 125);
            assert!(failure.message.contains("is not supported"), "{line}: {failure}");
        }
    }

    #[test]
    fn flags_of_a_container_do_not_stand_before_a_verb() {
        let failure = run(&words("-it run x")).unwrap_err();
        assert!(failure.message.contains("stands before the command run"), "{failure}");
    }

    #[test]
    fn every_name_is_a_verb_once_and_reserved() {
        let mut names: Vec<&str> = verbs().flat_map(|verb| verb.names).copied().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for name in names {
            let first = name.split(' ').next().unwrap_or_default();
            assert!(RESERVED.contains(&first), "{first} is not reserved");
        }
    }

    #[test]
    fn no_flag_is_defined_twice() {
        for verb in verbs() {
            let all: Vec<&Flag> = verb.flags.iter().chain(globals::FLAGS).collect();
            for (at, flag) in all.iter().enumerate() {
                for other in &all[at + 1..] {
                    assert_ne!(flag.long, other.long, "{}", verb.names[0]);
                    if flag.short.is_some() && other.long != "help" {
                        assert_ne!(flag.short, other.short, "{}", verb.names[0]);
                    }
                }
            }
        }
    }
}
