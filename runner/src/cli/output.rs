//! Standard output, which is data. Talk goes to standard error.

use std::io::{ErrorKind, Write};

use crate::failure::Failure;

/// Writes `text` to standard output.
///
/// # Errors
/// Where it cannot be written. A reader that has left (`rrun ps | head -1`) is not an error worth
/// words: the answer is an empty failure with the exit code of a process that SIGPIPE killed.
pub fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// As [`print`], with a line feed.
///
/// # Errors
/// As [`print`].
pub fn print_line(text: &str) -> Result<(), Failure> {
    print(&format!("{text}\n"))
}

/// As [`print`], for bytes that need not be UTF-8.
///
/// # Errors
/// As [`print`].
pub(super) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            Err(Failure::new("").exits(128 + libc::SIGPIPE as u8))
        }
        Err(error) => Err(Failure::new("cannot write to standard output").because(&error)),
    }
}

/// Asks on standard error and reads the answer; anything but yes is no.
///
/// # Errors
/// Where standard input cannot be read.
pub(super) fn confirm(what: &str) -> Result<bool, Failure> {
    let mut err = std::io::stderr();
    // A question that nobody can read is answered by nobody.
    let _ = write!(err, "WARNING! {what}\nAre you sure you want to continue? [y/N] ");
    let _ = err.flush();
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::new("cannot read the answer").because(&error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
