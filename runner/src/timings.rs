//! `--timings`: where the time between a command and its container's program goes.
//!
//! Marks are set always (a clock reading each) and shown when asked for. They are of the host's
//! monotonic clock, so those of the command and of the launcher stand in one row.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// A moment, and what was done then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub done: String,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub at: u64,
}

static MARKS: Mutex<Vec<Mark>> = Mutex::new(Vec::new());

/// Notes that something has been done just now.
pub fn mark(done: &str) {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let at = seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0);
    adopt(vec![Mark { done: done.to_owned(), at }]);
}

/// Adds the marks of another process.
pub fn adopt(marks: Vec<Mark>) {
    MARKS.lock().unwrap_or_else(PoisonError::into_inner).extend(marks);
}

/// All marks, which are forgotten here.
pub fn take() -> Vec<Mark> {
    std::mem::take(&mut *MARKS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A line for each mark: milliseconds since the first, since the one before, and what was done.
pub fn table(mut marks: Vec<Mark>) -> String {
    marks.sort_by_key(|mark| mark.at);
    let first = marks.first().map_or(0, |mark| mark.at);
    let mut before = first;
    let mut text = String::new();
    for mark in marks {
        let milliseconds = |from: u64| (mark.at - from) as f64 / 1e6;
        let (since, step) = (milliseconds(first), milliseconds(before));
        let _ = writeln!(text, "{since:9.3} ms  +{step:8.3}  {}", mark.done);
        before = mark.at;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_two_processes_in_one_row() {
        let mark = |done: &str, at| Mark { done: done.to_owned(), at };
        let table =
            table(vec![mark("begun", 1_000_000), mark("ended", 9_500_000), mark("ran", 3_000_000)]);
        assert_eq!(
            table,
            "    0.000 ms  +   0.000  begun\n    2.000 ms  +   2.000  ran\n    8.500 ms  +   6.500  ended\n"
        );
    }
}
