//! `rrun completion`, and what the shells ask while somebody types.
//!
//! The scripts know nothing: they hand over the words up to the cursor and get candidates, so that
//! they never disagree with the program, and know the names of containers and images.

use std::ffi::OsString;

use super::flags::{Arguments, Flag, FlagsEnd, Takes};
use super::{Globals, RESERVED, Verb, find_verb, globals, print, run, verbs};
use crate::failure::Failure;
use crate::images::{Store, familiar_name};

pub(super) const VERBS: &[Verb] = &[Verb {
    names: &["completion"],
    operands: "bash|zsh|fish",
    operands_min: 1,
    operands_max: 1,
    about: "Print a script with which a shell completes rrun's words",
    details: "\
  source <(rrun completion bash)                 in ~/.bashrc
  source <(rrun completion zsh)                  in ~/.zshrc, after compinit
  rrun completion fish > ~/.config/fish/completions/rrun.fish",
    flags: &[],
    flags_end: FlagsEnd::AtDashes,
    run: |_, arguments| script(arguments),
}];

/// The hidden verb that the scripts call with the words so far, the one at the cursor last.
pub(super) const ASK: &str = "__complete";

const BASH: &str = r#"_rrun() {
    local cur words cword
    if declare -F _get_comp_words_by_ref >/dev/null; then
        _get_comp_words_by_ref -n := cur words cword
    else
        words=("${COMP_WORDS[@]}") cword=$COMP_CWORD cur=${COMP_WORDS[COMP_CWORD]}
    fi
    mapfile -t COMPREPLY < <(rrun __complete "${words[@]:1:cword}" 2>/dev/null | cut -f1)
    if declare -F __ltrimcolon_completions >/dev/null; then __ltrimcolon_completions "$cur"; fi
}
complete -o bashdefault -o default -F _rrun rrun
"#;

const ZSH: &str = r#"#compdef rrun
_rrun() {
    local line
    local -a values
    for line in "${(@f)$(rrun __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        [[ -n $line ]] && values+=("${line%%$'\t'*}")
    done
    if (( $#values )); then compadd -- "${values[@]}"; else _files; fi
}
compdef _rrun rrun
"#;

const FISH: &str = r#"complete -c rrun -a '(rrun __complete (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
"#;

fn script(arguments: &Arguments) -> Result<u8, Failure> {
    let script = match arguments.operands[0].as_str() {
        "bash" => BASH,
        "zsh" => ZSH,
        "fish" => FISH,
        other => {
            return Err(Failure::new(format!("completion: there is no script for {other}"))
                .hint("there is: bash, zsh, fish"));
        }
    };
    print(script).map(|()| 0)
}

/// Prints what may stand at the cursor: one candidate a line, what it is after a tab.
pub(super) fn answer(words: &[OsString]) -> Result<u8, Failure> {
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let Some((partial, before)) = words.split_last() else { return Ok(0) };
    let mut lines = candidates(before, partial);
    lines.retain(|(word, _)| word.starts_with(partial.as_str()));
    lines.sort();
    lines.dedup();
    let lines = lines.into_iter().map(|(word, about)| format!("{word}\t{about}\n"));
    print(&lines.collect::<String>()).map(|()| 0)
}

type Candidate = (String, String);

fn candidates(before: &[String], partial: &str) -> Vec<Candidate> {
    let Some(at) = first_word(before) else {
        if partial.starts_with('-') {
            return flags(&[run::FLAGS, globals::FLAGS]);
        }
        if value_is_awaited(&[run::FLAGS, globals::FLAGS], before) {
            return Vec::new();
        }
        let commands = verbs().filter(|verb| !verb.about.is_empty());
        let commands = commands.map(|verb| {
            let first = verb.names[0].split(' ').next().unwrap_or_default();
            (first.to_owned(), if first == verb.names[0] { verb.about } else { "" }.to_owned())
        });
        return commands.chain(images()).collect();
    };
    let rest: Vec<OsString> = before[at + 1..].iter().map(OsString::from).collect();
    match find_verb(&before[at], &rest) {
        Some((verb, used)) => of_verb(verb, &before[at + 1 + used..], partial),
        None if rest.is_empty() && RESERVED.contains(&before[at].as_str()) => {
            let second = |verb: &Verb| {
                let names = verb.names.iter();
                let words =
                    names.filter_map(|name| name.strip_prefix(&before[at])?.strip_prefix(' '));
                words.map(|word| (word.to_owned(), verb.about.to_owned())).collect::<Vec<_>>()
            };
            verbs().flat_map(second).collect()
        }
        // What follows an image belongs to the container.
        None => Vec::new(),
    }
}

/// The first word that is neither a flag nor the value of one.
fn first_word(before: &[String]) -> Option<usize> {
    let tables = [run::FLAGS, globals::FLAGS];
    (0..before.len())
        .find(|&at| !before[at].starts_with('-') && !value_is_awaited(&tables, &before[..at]))
}

/// Whether the last word is a flag that takes the next one as its value.
fn value_is_awaited(tables: &[&'static [Flag]], before: &[String]) -> bool {
    let Some(last) = before.last() else { return false };
    let all = || tables.iter().flat_map(|table| table.iter());
    let flag = match last.strip_prefix("--") {
        Some(long) => all().find(|flag| flag.long == long),
        None => last.strip_prefix('-').and_then(|letters| {
            let letter = letters.chars().last()?;
            all().find(|flag| flag.short == Some(letter))
        }),
    };
    flag.is_some_and(|flag| flag.takes != Takes::Nothing)
}

fn of_verb(verb: &Verb, before: &[String], partial: &str) -> Vec<Candidate> {
    let tables = [verb.flags, globals::FLAGS];
    let is_awaited = value_is_awaited(&tables, before);
    let mut operands = (0..before.len())
        .filter(|&at| !before[at].starts_with('-') && !value_is_awaited(&tables, &before[..at]));
    let is_over = verb.flags_end == FlagsEnd::AtOperand && operands.next().is_some();
    match () {
        () if is_over || is_awaited => Vec::new(),
        () if partial.starts_with('-') => flags(&tables),
        () => operands_of(verb),
    }
}

fn flags(tables: &[&'static [Flag]]) -> Vec<Candidate> {
    let all = tables.iter().flat_map(|table| table.iter()).filter(|flag| !flag.about.is_empty());
    all.map(|flag| (format!("--{}", flag.long), flag.about.to_owned())).collect()
}

fn operands_of(verb: &Verb) -> Vec<Candidate> {
    let first = verb.operands.trim_start_matches('[').split([' ', '[']).next().unwrap_or_default();
    match first {
        "CONTAINER" => names("names"),
        "VOLUME" => names("volumes"),
        "IMAGE" | "REF" | "REPOSITORY" => images(),
        "NAME" => [names("names"), images(), names("volumes")].concat(),
        words => words
            .split('|')
            .filter(|word| word.chars().all(|letter| letter.is_ascii_lowercase()))
            .map(|word| (word.to_owned(), String::new()))
            .collect(),
    }
}

/// The store, where there is one: asking must not make it.
fn store() -> Option<Store> {
    let globals = Globals::new(&Arguments::of(globals::FLAGS)).ok()?;
    globals.dirs.root.join("VERSION").exists().then(|| globals.store().ok())?
}

fn names(folder: &str) -> Vec<Candidate> {
    let Some(store) = store() else { return Vec::new() };
    let entries = std::fs::read_dir(store.root().join(folder)).into_iter().flatten().flatten();
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), String::new())).collect()
}

fn images() -> Vec<Candidate> {
    let images = store().and_then(|store| store.images().ok()).unwrap_or_default();
    let name = |reference: &str| (familiar_name(reference).to_owned(), "an image".to_owned());
    images.iter().map(|image| name(&image.reference)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(line: &str) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (partial, before) = words.split_last().unwrap();
        let mut found: Vec<String> =
            candidates(before, partial).into_iter().map(|(word, _)| word).collect();
        found.retain(|word| word.starts_with(partial.as_str()));
        found.sort();
        found.dedup();
        found
    }

    #[test]
    fn words_flags_and_groups() {
        for (line, want) in [
            ("sto", &["stop"][..]),
            ("--debug st", &["start", "stop"]),
            ("--root st", &[]),
            ("run --memory-r", &["--memory-reservation"]),
            ("run -m --cp", &[]),
            ("run -itm 5m --cpuset-c", &["--cpuset-cpus"]),
            ("run an/image --", &[]),
            ("an/image --", &[]),
            ("--read", &["--read-only"]),
            ("volume r", &["remove", "rm"]),
            ("container pr", &["prune"]),
            ("completion ", &["bash", "fish", "zsh"]),
            ("stop --ti", &["--time"]),
            ("nonsense ", &[]),
        ] {
            assert_eq!(ask(line), want, "{line:?}");
        }
    }
}
