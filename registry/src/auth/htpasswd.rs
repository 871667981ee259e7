//! `htpasswd`'s file, of which bcrypt counts alone, as with distribution.

use std::collections::HashMap;
use std::sync::Arc;

/// Cost of new entries: about a tenth of a second.
pub const COST_NEW: u32 = 10;

/// Below this a stolen file is guessed through too quickly.
const COST_LOW: u32 = 10;

/// Above this one login takes a processor for seconds.
const COST_MAX: u32 = 16;

/// Longest name.
const NAME_BYTES_MAX: usize = 255;

/// A file that cannot be used, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct InvalidHtpasswd {
    pub line: usize,
    pub what: String,
}

/// Names and what their passwords hash to.
#[derive(Debug, Default)]
pub struct Htpasswd {
    entries: HashMap<String, Arc<str>>,
    /// The same hashes, for names that nobody has.
    hashes: Vec<Arc<str>>,
    warnings: Vec<String>,
}

impl Htpasswd {
    /// Reads a file's text. Of two lines with one name the last one counts.
    ///
    /// # Errors
    /// At a line without a colon or name, and at a cost that would take a processor for seconds.
    pub fn parse(text: &str) -> Result<Self, InvalidHtpasswd> {
        let mut read = Self::default();
        for (number, line) in lines(text) {
            let invalid = |what: &str| InvalidHtpasswd { line: number, what: what.to_owned() };
            let (name, hash) =
                line.split_once(':').ok_or_else(|| invalid("it is not NAME:HASH"))?;
            if name.is_empty() {
                return Err(invalid("it has no name before the colon"));
            }
            // Even where its hash is none that is taken: an older line must not come back.
            read.entries.remove(name);
            let Some(cost) = cost(hash) else {
                read.warnings.push(format!(
                    "line {number}: {name}'s password is not hashed by bcrypt, so it never fits: \
                     set it anew with `registry user add {name}`, or htpasswd -B"
                ));
                continue;
            };
            if cost > COST_MAX {
                let what =
                    format!("a cost of {cost} takes a processor for seconds: 16 at the most");
                return Err(invalid(&what));
            }
            if cost < COST_LOW {
                read.warnings.push(format!(
                    "line {number}: {name}'s password has a cost of {cost}, which is soon guessed \
                     from a stolen file: 10 at the least"
                ));
            }
            read.entries.insert(name.to_owned(), hash.into());
        }
        read.hashes = read.entries.values().cloned().collect();
        // In an order that a reload does not change.
        read.hashes.sort_unstable();
        Ok(read)
    }

    pub(super) fn hash_of(&self, name: &str) -> Option<&Arc<str>> {
        self.entries.get(name)
    }

    /// Some entry's hash, for a name that nobody has: what it costs to refuse it must not tell.
    pub(super) fn any_hash(&self, pick: u64) -> Arc<str> {
        // A hash of nothing, of the cost that new entries have.
        const NONE: &str = "$2b$10$.....................................................";
        match self.hashes.len() {
            0 => NONE.into(),
            many => Arc::clone(&self.hashes[usize::try_from(pick).unwrap_or(0) % many]),
        }
    }

    /// The names, in order.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.entries.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// What an operator should be told.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// Lines that say something, counted from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// A bcrypt hash's cost; `None` for any other text.
fn cost(hash: &str) -> Option<u32> {
    let rest = ["$2a$", "$2b$", "$2x$", "$2y$"].iter().find_map(|kind| hash.strip_prefix(kind))?;
    let (cost, rest) = rest.split_once('$')?;
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"./".contains(&byte);
    let whole = cost.len() == 2 && rest.len() == 53 && rest.bytes().all(letters);
    cost.parse().ok().filter(|cost| whole && *cost >= 4)
}

/// Whether a user can be called so: nothing that a line of the file or a challenge would read as
/// something else.
pub fn is_user(name: &str) -> bool {
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && c != ':';
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(plain) && !name.starts_with('#')
}

/// The file with `name`'s hash in the place of an older one, or at the end.
pub fn with_user(text: &str, name: &str, hash: &str) -> String {
    format!("{}{name}:{hash}\n", without_user(text, name).unwrap_or_else(|| ended(text)))
}

/// The file without `name`; `None` if it is not in it.
pub fn without_user(text: &str, name: &str) -> Option<String> {
    let is = |line: &str| line.trim().split_once(':').is_some_and(|(known, _)| known == name);
    let kept: String = text.split_inclusive('\n').filter(|line| !is(line)).collect();
    (kept.len() != text.len()).then(|| ended(&kept))
}

fn ended(text: &str) -> String {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$10$abcdefghijklmnopqrstuuabcdefghijklmnopqrstuvwxyz01234";

    #[test]
    fn files() {
        let text = format!("# c\n\nann:{HASH}\r\n bob:{HASH}\nold:{{SHA}}x\nbob:plain\n");
        let read = Htpasswd::parse(&text).unwrap();
        assert_eq!(read.names(), ["ann"]);
        assert_eq!(read.warnings().len(), 2, "{:?}", read.warnings());
        assert!(read.warnings()[0].starts_with("line 5: old's"), "{:?}", read.warnings());
        let low = HASH.replace("$10$", "$05$");
        assert_eq!(Htpasswd::parse(&format!("a:{low}")).unwrap().warnings().len(), 1);
        let high = HASH.replace("$10$", "$17$");
        for (text, line) in [("a", 1), ("a:b\nc", 2), (":b", 1), (&format!("a:{high}"), 1)] {
            assert_eq!(Htpasswd::parse(text).unwrap_err().line, line, "{text}");
        }
    }

    #[test]
    fn changes_leave_the_other_lines_as_they_are() {
        assert_eq!(with_user("", "a", "h"), "a:h\n");
        assert_eq!(with_user("# c\nb:x", "a", "h"), "# c\nb:x\na:h\n");
        assert_eq!(with_user("a:1\nb:x\na:2\n", "a", "h"), "b:x\na:h\n");
        assert_eq!(without_user("a:1\nab:2\n", "a").as_deref(), Some("ab:2\n"));
        assert_eq!(without_user("ab:2\n", "a"), None);
        for name in ["", "a:b", "a b", "a\n", "#a"] {
            assert!(!is_user(name), "{name:?}");
        }
    }
}
