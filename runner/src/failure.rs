//! What a person is told when something fails.

use std::fmt;

use crate::visible::{in_one_line, visible};

/// The exit code of every failure of our own, usage errors included. Source: `docker run`(1).
pub const EXIT_OURS: u8 = 125;
/// The command exists and cannot be executed.
pub const EXIT_CANNOT_EXECUTE: u8 = 126;
/// The command does not exist in the container.
pub const EXIT_NOT_FOUND: u8 = 127;

/// A failure in words: what and why on the first line, then hints that hold real commands.
///
/// Printed as `rrun: <what>: <why>` and `hint: <what to do>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub exit_code: u8,
    /// One line, `<what>: <why>`; lower case, no full stop.
    pub message: String,
    pub hints: Vec<String>,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Self { exit_code: EXIT_OURS, message: message.into(), hints: Vec::new() }
    }

    /// An error that says itself what failed, with all of its sources.
    pub fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let failure = Self::new(error.to_string());
        match error.source() {
            Some(source) => failure.because(source),
            None => failure,
        }
    }

    /// Appends the reason, with all of its sources.
    #[must_use]
    pub fn because(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.message.push_str(": ");
            self.message.push_str(&error.to_string());
            next = error.source();
        }
        self
    }

    #[must_use]
    pub fn hint(mut self, text: impl Into<String>) -> Self {
        self.hints.push(text.into());
        self
    }

    #[must_use]
    pub fn exits(mut self, code: u8) -> Self {
        self.exit_code = code;
        self
    }
}

/// Safe to show: its words may be an image's or a registry's.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rrun: {}", in_one_line(&self.message))?;
        for hint in &self.hints {
            // Further lines of one hint stand under its first.
            write!(f, "\nhint: {}", visible(hint).replace('\n', "\n      "))?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_why_and_hints() {
        let error = std::io::Error::from_raw_os_error(libc::ENOENT);
        let failure = Failure::new("cannot read x").because(&error).hint("one\ntwo").hint("three");
        assert_eq!(
            failure.to_string(),
            "rrun: cannot read x: No such file or directory (os error 2)\n\
             hint: one\n      two\nhint: three"
        );
        assert_eq!(failure.exit_code, 125);
    }
}
