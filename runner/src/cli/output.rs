//! Standard output, which is data, and standard error, which is talk.
//!
//! A reader that has left is nobody's failure. Whatever else keeps words from being written is told
//! and is the exit code: a script that goes on after a full disk goes on with half an answer.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::{EXIT_OURS, Failure};
use crate::visible::visible;

/// Whether something could not be written and there was no other way to say so.
static LOST: AtomicBool = AtomicBool::new(false);

/// The exit code of a command that would answer `code`, had all of its words been written.
pub(super) fn exit_code(code: u8) -> u8 {
    if LOST.load(Ordering::Relaxed) { EXIT_OURS } else { code }
}

/// Says a line on standard error. Foreign words in it are shown and not obeyed.
pub(crate) fn tell(line: impl Display) {
    // `Talk` answers no error.
    let _ = Talk.write_all(format!("{}\n", visible(&line.to_string())).as_bytes());
}

/// Standard error for those who cannot do anything about an error: it becomes the exit code.
pub(crate) struct Talk;

impl Write for Talk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        note(io::stderr().lock().write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a line where a command's progress is shown.
pub(crate) fn show_progress(line: &str, to_stdout: bool) {
    if to_stdout {
        note(writeln!(io::stdout(), "{line}"));
    } else {
        tell(line);
    }
}

fn note(written: io::Result<()>) {
    if written.is_err_and(|error| error.kind() != ErrorKind::BrokenPipe) {
        LOST.store(true, Ordering::Relaxed);
    }
}

/// What became of bytes of a container's that were to be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PassedOn {
    Written,
    /// Whoever read has left.
    ReaderLeft,
    /// Told, and the exit code.
    Lost,
}

/// Passes on what a container has written; `name` is the stream in words.
pub(super) fn pass_on(mut to: impl Write, name: &str, bytes: &[u8]) -> PassedOn {
    match to.write_all(bytes).and_then(|()| to.flush()) {
        Ok(()) => PassedOn::Written,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => PassedOn::ReaderLeft,
        Err(error) => {
            drop(to);
            LOST.store(true, Ordering::Relaxed);
            tell(Failure::new(format!("cannot write to {name}")).because(&error));
            PassedOn::Lost
        }
    }
}

/// Writes `text` to standard output, as it can be shown: foreign words in it are not obeyed.
///
/// # Errors
/// Where it cannot be written. A reader that has left (`rrun ps | head -1`) is not an error worth
/// words: the answer is an empty failure with the exit code of a process that SIGPIPE killed.
pub fn print(text: &str) -> Result<(), Failure> {
    print_bytes(visible(text).as_bytes())
}

/// As [`print`], with a line feed.
///
/// # Errors
/// As [`print`].
pub fn print_line(text: &str) -> Result<(), Failure> {
    print(&format!("{text}\n"))
}

/// Bytes of a container's own, as they are.
///
/// # Errors
/// As [`print`].
pub(super) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
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
    // A question that nobody can read is answered by nobody.
    let _ = write!(Talk, "WARNING! {what}\nAre you sure you want to continue? [y/N] ");
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::new("cannot read the answer").because(&error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
