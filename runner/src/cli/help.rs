//! `--help`, made from the tables that parse.

use std::ffi::OsString;
use std::fmt::Write;

use crate::cli::flags::{Flag, Takes};
use crate::cli::{Verb, find_verb, globals, print, usage, verbs};
use crate::failure::Failure;

const INTRODUCTION: &str = "\
rrun REF [COMMAND…] pulls an image and runs it; the container is removed when it ends.

  rrun localhost:5000/app                   run it: the same as `rrun run --rm`, with -it on a terminal
  rrun -m 512m --cpus 0.5 REF python x.py   with limits
  rrun run -d --name web REF                keep it, in the background: then ps, logs, exec, stop, rm
  rrun REF sh -c 'echo $HOSTNAME'           everything after REF belongs to the container

";

/// `rrun --help`.
pub(super) fn overview() -> Result<(), Failure> {
    let mut text = INTRODUCTION.to_owned();
    text.push_str("Commands:\n");
    for verb in verbs().filter(|verb| !verb.about.is_empty()) {
        let _ = writeln!(text, "  {:<16} {}", verb.names[0], verb.about);
    }
    text.push_str("\nFlags for every command:\n");
    flags(&mut text, globals::FLAGS, &[]);
    text.push_str(
        "\n`rrun COMMAND --help` tells more; `rrun run --help` has the flags of a container.\n",
    );
    print(&text)
}

/// `rrun help WORD…`.
pub(super) fn of_words(words: &[OsString]) -> Result<(), Failure> {
    let word = words.first().and_then(|word| word.to_str()).unwrap_or_default();
    match find_verb(word, &words[1.min(words.len())..]) {
        Some((verb, _)) => of(verb),
        None => Err(usage(&format!("there is no command {word:?}")).hint("rrun --help")),
    }
}

/// `rrun VERB --help`.
pub(super) fn of(verb: &Verb) -> Result<(), Failure> {
    let name = verb.names[0];
    let mut text = format!("rrun {name}");
    if !verb.flags.is_empty() {
        text.push_str(" [FLAGS]");
    }
    if !verb.operands.is_empty() {
        let _ = write!(text, " {}", verb.operands);
    }
    let _ = write!(text, "\n\n{}.\n", verb.about);
    if !verb.details.is_empty() {
        let _ = write!(text, "\n{}\n", verb.details.trim_end());
    }
    if verb.names.len() > 1 {
        let _ = write!(text, "\nAlso spelled: {}\n", verb.names[1..].join(", "));
    }
    if !verb.flags.is_empty() {
        text.push_str("\nFlags:\n");
        flags(&mut text, verb.flags, &[]);
    }
    text.push_str("\nFlags for every command:\n");
    flags(&mut text, globals::FLAGS, verb.flags);
    print(&text)
}

/// Lists `table`, without the short forms that `hiding` gives another meaning.
fn flags(text: &mut String, table: &[Flag], hiding: &[Flag]) {
    for flag in table.iter().filter(|flag| !flag.about.is_empty()) {
        let short = flag.short.filter(|short| !hiding.iter().any(|h| h.short == Some(*short)));
        let short = short.map_or("    ".to_owned(), |short| format!("-{short}, "));
        let mut spelled = format!("{short}--{}", flag.long);
        if flag.takes != Takes::Nothing {
            let _ = write!(spelled, " {}", flag.value);
        }
        if flag.takes == Takes::Many {
            spelled.push('…');
        }
        let _ = writeln!(text, "  {spelled:<34} {}", flag.about);
    }
}
