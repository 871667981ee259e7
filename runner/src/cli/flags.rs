//! Flags as people who type `docker` expect them, read by one table for each command.
//!
//! The rules are pflag's, which Docker uses: `--flag value` and `--flag=value`; switches take
//! `=true` and `=false` but never the next word; short flags combine (`-it`, `-eA=b`, `-e=A=b`);
//! `--` ends the flags; the last of several values wins unless the flag collects them.
//!
//! Hand-written because the start of a container waits for it: nothing is built before parsing,
//! and `clap` has no words for switches with `=false` beside combined short flags.

use std::ffi::OsString;

use crate::failure::Failure;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// A switch: present, `=true` or `=false`.
    Nothing,
    /// One value; the last one wins.
    One,
    /// Every value counts.
    Many,
}

/// One flag of a command.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without the dashes.
    pub long: &'static str,
    pub short: Option<char>,
    pub takes: Takes,
    /// How help calls the value.
    pub value: &'static str,
    /// One line for help; empty hides the flag.
    pub about: &'static str,
}

impl Flag {
    pub const fn switch(long: &'static str, about: &'static str) -> Self {
        Self { long, short: None, takes: Takes::Nothing, value: "", about }
    }

    pub const fn one(long: &'static str, value: &'static str, about: &'static str) -> Self {
        Self { long, short: None, takes: Takes::One, value, about }
    }

    pub const fn many(long: &'static str, value: &'static str, about: &'static str) -> Self {
        Self { long, short: None, takes: Takes::Many, value, about }
    }

    #[must_use]
    pub const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }
}

/// Where flags stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagsEnd {
    /// At `--` only: `rrun rm NAME -f` works.
    AtDashes,
    /// At the first operand: what follows an image's name belongs to the container.
    AtOperand,
}

/// What one command line said.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    flags: Vec<(&'static str, String)>,
    pub operands: Vec<String>,
    /// Names that may be asked for: asking for another is a mistake in this program.
    known: Vec<&'static str>,
}

impl Arguments {
    /// Nothing on the command line, for the flags of `table`.
    pub fn of(table: &'static [Flag]) -> Self {
        Self { known: table.iter().map(|flag| flag.long).collect(), ..Self::default() }
    }

    /// Whether the switch is on.
    pub fn has(&self, long: &str) -> bool {
        self.value(long).is_some_and(|value| value == "true")
    }

    /// Whether the flag stands on the command line, whatever its value.
    pub fn given(&self, long: &str) -> bool {
        self.value(long).is_some()
    }

    pub fn value(&self, long: &str) -> Option<&str> {
        debug_assert!(self.known.contains(&long), "no flag is called {long}");
        self.flags.iter().rev().find(|(name, _)| *name == long).map(|(_, value)| value.as_str())
    }

    pub fn values(&self, long: &str) -> impl Iterator<Item = &str> {
        debug_assert!(self.known.contains(&long), "no flag is called {long}");
        self.flags.iter().filter(move |(name, _)| *name == long).map(|(_, value)| value.as_str())
    }

    /// The names of all flags that were given, in their order, with repeats.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.flags.iter().map(|(name, _)| *name)
    }

    /// Gives a flag a value where the command line gave none.
    pub fn assume(&mut self, long: &'static str, value: &str) {
        if !self.given(long) {
            self.flags.insert(0, (long, value.to_owned()));
        }
    }

    /// Puts flags that stood before the verb in front.
    pub fn precede_with(&mut self, earlier: &Arguments) {
        self.flags.splice(0..0, earlier.flags.iter().cloned());
    }
}

/// Reads `words` by the flags of `tables`.
///
/// # Errors
/// An unknown flag, a missing value, a switch with a value that is neither true nor false, a word
/// that is not UTF-8: the message names it and suggests the nearest flag.
pub fn parse(
    tables: &[&'static [Flag]],
    words: &[OsString],
    end: FlagsEnd,
) -> Result<Arguments, Failure> {
    let mut arguments = Arguments {
        known: tables.iter().flat_map(|table| table.iter().map(|flag| flag.long)).collect(),
        ..Arguments::default()
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let word = utf8(word)?;
        if word == "--" {
            break;
        }
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (long, None),
            };
            let flag = find(tables, |flag| flag.long == name)
                .ok_or_else(|| unknown(tables, &format!("--{name}"), name))?;
            arguments.take(flag, &format!("--{name}"), value, &mut words)?;
        } else if word.len() > 1 && word.starts_with('-') {
            parse_short(tables, &word[1..], &mut arguments, &mut words)?;
        } else {
            arguments.operands.push(word.to_owned());
            if end == FlagsEnd::AtOperand {
                break;
            }
        }
    }
    for word in words {
        arguments.operands.push(utf8(word)?.to_owned());
    }
    Ok(arguments)
}

fn parse_short<'a>(
    tables: &[&'static [Flag]],
    letters: &str,
    arguments: &mut Arguments,
    words: &mut impl Iterator<Item = &'a OsString>,
) -> Result<(), Failure> {
    let mut rest = letters;
    while let Some(letter) = rest.chars().next() {
        rest = &rest[letter.len_utf8()..];
        let shown = format!("-{letter}");
        let flag = find(tables, |flag| flag.short == Some(letter))
            .ok_or_else(|| unknown(tables, &shown, letters))?;
        if let Some(value) = rest.strip_prefix('=') {
            return arguments.take(flag, &shown, Some(value), words);
        }
        if flag.takes == Takes::Nothing {
            arguments.take(flag, &shown, None, words)?;
        } else {
            let value = if rest.is_empty() { None } else { Some(rest) };
            return arguments.take(flag, &shown, value, words);
        }
    }
    Ok(())
}

impl Arguments {
    fn take<'a>(
        &mut self,
        flag: &Flag,
        shown: &str,
        value: Option<&str>,
        words: &mut impl Iterator<Item = &'a OsString>,
    ) -> Result<(), Failure> {
        let value = match (flag.takes, value) {
            (Takes::Nothing, None) => "true".to_owned(),
            (Takes::Nothing, Some(text)) => truth(text)
                .ok_or_else(|| Failure::new(format!("{shown}={text}: it takes true or false")))?
                .to_string(),
            (_, Some(text)) => text.to_owned(),
            (_, None) => match words.next() {
                Some(word) => utf8(word)?.to_owned(),
                None => {
                    return Err(Failure::new(format!("{shown} needs a value: {}", flag.value)));
                }
            },
        };
        self.flags.push((flag.long, value));
        Ok(())
    }
}

/// What Go's `strconv.ParseBool` takes.
pub fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn find(tables: &[&'static [Flag]], wanted: impl Fn(&Flag) -> bool) -> Option<&'static Flag> {
    tables.iter().flat_map(|table| table.iter()).find(|flag| wanted(flag))
}

fn utf8(word: &OsString) -> Result<&str, Failure> {
    word.to_str().ok_or_else(|| Failure::new(format!("{word:?} is not UTF-8")))
}

fn unknown(tables: &[&'static [Flag]], shown: &str, name: &str) -> Failure {
    let failure = Failure::new(format!("unknown flag {shown}"));
    let names = tables.iter().flat_map(|table| table.iter()).filter(|flag| !flag.about.is_empty());
    let names: Vec<&'static str> = names.map(|flag| flag.long).collect();
    let begun = names.iter().filter(|long| name.len() >= 3 && long.starts_with(name));
    let begun = begun.min_by_key(|long| long.len()).copied();
    match nearest(name, names.iter().copied()).or(begun) {
        Some(near) => failure.hint(format!("did you mean `--{near}`?")),
        None => failure,
    }
}

/// The candidate that a typing mistake most likely meant.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = if word.len() < 4 { 1 } else { 2 };
    candidates
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edit distance (Levenshtein) in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let kept = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = kept.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Flag] = &[
        Flag::switch("interactive", "x").short('i'),
        Flag::switch("tty", "x").short('t'),
        Flag::many("env", "NAME=VALUE", "x").short('e'),
        Flag::one("memory", "SIZE", "x").short('m'),
        Flag::switch("rm", "x"),
    ];

    fn read(words: &[&str], end: FlagsEnd) -> Result<Arguments, Failure> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        parse(&[TABLE], &words, end)
    }

    #[test]
    fn all_spellings() {
        for words in [
            &["-it", "-eA=b", "-m", "1g", "img"][..],
            &["-i", "-t", "-e=A=b", "-m=1g", "img"],
            &["--interactive", "--tty=true", "--env=A=b", "--memory", "1g", "img"],
            &["-ite", "A=b", "-m1g", "img"],
            &["-m2g", "-ti", "--env", "A=b", "--memory=1g", "--", "img"],
        ] {
            let got = read(words, FlagsEnd::AtOperand).unwrap();
            assert!(got.has("interactive") && got.has("tty") && !got.has("rm"), "{words:?}");
            assert_eq!(got.values("env").collect::<Vec<_>>(), ["A=b"], "{words:?}");
            assert_eq!(got.value("memory"), Some("1g"), "{words:?}");
            assert_eq!(got.operands, ["img"], "{words:?}");
        }
    }

    #[test]
    fn switches_can_be_turned_off() {
        let got = read(&["--rm", "--rm=false"], FlagsEnd::AtOperand).unwrap();
        assert!(!got.has("rm") && got.given("rm"));
    }

    #[test]
    fn flags_after_the_operand_are_the_containers() {
        let words = ["img", "-e", "--", "--rm"];
        let got = read(&words, FlagsEnd::AtOperand).unwrap();
        assert_eq!(got.operands, ["img", "-e", "--", "--rm"]);
        let got = read(&["img", "--rm", "--", "-x"], FlagsEnd::AtDashes).unwrap();
        assert!(got.has("rm"));
        assert_eq!(got.operands, ["img", "-x"]);
    }

    #[test]
    fn a_single_dash_is_an_operand() {
        assert_eq!(read(&["-"], FlagsEnd::AtDashes).unwrap().operands, ["-"]);
    }

    #[test]
    fn mistakes_are_named() {
        for (words, message, hint) in [
            (&["--memroy=1"][..], "unknown flag --memroy", Some("did you mean `--memory`?")),
            (&["-x"], "unknown flag -x", None),
            (&["-ix"], "unknown flag -x", None),
            (&["--memory"], "--memory needs a value: SIZE", None),
            (&["-m"], "-m needs a value: SIZE", None),
            (&["--rm=maybe"], "--rm=maybe: it takes true or false", None),
        ] {
            let failure = read(words, FlagsEnd::AtDashes).unwrap_err();
            assert_eq!(failure.message, message);
            assert_eq!(failure.hints.first().map(String::as_str), hint, "{words:?}");
        }
    }
}
