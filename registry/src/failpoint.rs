//! Failing on purpose, at named places; compiled with debug assertions only, which no
//! release has.
//!
//! `REGISTRY_FAILPOINTS="NAME=ACTION;NAME=ACTION@N"`, read once, at the first point that is
//! reached. With `@N` the action happens at the N-th arrival only (counted from 1), without it at
//! every one. With `REGISTRY_FAILPOINTS_ARMED=FILE` nothing happens, and nothing is counted, while
//! that file does not exist: a test prepares, then arms.
//! - `abort`: the process dies at once, as by `kill -9`.
//! - `off`: the step that the point guards is left out. For variants that are known to be bad and
//!   must turn a test red.
//! - `eio`, `enospc`: the step fails so.
//! - `panic`: the thread panics.
//! - `sleep`: 20 ms pass, which makes a race wide.
//! - `hang`: nothing goes on while the file `REGISTRY_FAILPOINTS_ARMED` exists.

/// A place where a process may die: `fail_point!("name")`.
///
/// As an expression, `fail_point!("name", off)` is whether the step is left out, and
/// `fail_point!("name", io)` is an `std::io::Result<()>`.
#[cfg(debug_assertions)]
macro_rules! fail_point {
    ($name:literal) => {
        let _ = $crate::failpoint::arrive($name);
    };
    ($name:literal, off) => {
        $crate::failpoint::arrive($name) == Some($crate::failpoint::Action::Off)
    };
    ($name:literal, io) => {
        match $crate::failpoint::arrive($name) {
            Some($crate::failpoint::Action::Errno(errno)) => {
                Err(std::io::Error::from_raw_os_error(errno))
            }
            _ => Ok::<(), std::io::Error>(()),
        }
    };
}

/// See the other definition: in a release nothing is left of it.
#[cfg(not(debug_assertions))]
macro_rules! fail_point {
    ($name:literal) => {};
    ($name:literal, off) => {
        false
    };
    ($name:literal, io) => {
        Ok::<(), std::io::Error>(())
    };
}

pub(crate) use fail_point;

#[cfg(debug_assertions)]
pub(crate) use enabled::{Action, arrive};

#[cfg(debug_assertions)]
mod enabled {
    use std::collections::HashMap;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Action {
        Abort,
        Off,
        Errno(i32),
        Panic,
        Sleep,
        Hang,
    }

    struct Point {
        action: Action,
        at: Option<u64>,
        arrivals: AtomicU64,
    }

    static POINTS: OnceLock<HashMap<String, Point>> = OnceLock::new();

    /// What is to happen here, now. Aborting and sleeping have happened already.
    pub(crate) fn arrive(name: &str) -> Option<Action> {
        let points =
            POINTS.get_or_init(|| parse(&std::env::var("REGISTRY_FAILPOINTS").unwrap_or_default()));
        let point = points.get(name)?;
        static ARMED: OnceLock<Option<std::ffi::OsString>> = OnceLock::new();
        let armed = ARMED.get_or_init(|| std::env::var_os("REGISTRY_FAILPOINTS_ARMED"));
        let is_armed = || armed.as_ref().is_none_or(|file| std::path::Path::new(file).exists());
        if !is_armed() {
            return None;
        }
        let arrival = point.arrivals.fetch_add(1, Ordering::Relaxed) + 1;
        if point.at.is_some_and(|at| at != arrival) {
            return None;
        }
        match point.action {
            Action::Abort => {
                eprintln!("failpoint {name}: abort");
                std::process::abort()
            }
            Action::Panic => panic!("failpoint {name}"),
            Action::Sleep => std::thread::sleep(Duration::from_millis(20)),
            Action::Hang => {
                while armed.is_some() && is_armed() {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            Action::Off | Action::Errno(_) => {}
        }
        Some(point.action)
    }

    /// A text that is not understood is a mistake in a test: it must not pass as "no failure".
    fn parse(text: &str) -> HashMap<String, Point> {
        text.split(';')
            .filter(|entry| !entry.is_empty())
            .map(|entry| {
                let (name, action) = entry.split_once('=').unwrap_or((entry, ""));
                let (action, at) = match action.split_once('@') {
                    Some((action, at)) => (action, at.parse().ok()),
                    None => (action, None),
                };
                let action = match action {
                    "abort" => Action::Abort,
                    "off" => Action::Off,
                    "eio" => Action::Errno(libc::EIO),
                    "enospc" => Action::Errno(libc::ENOSPC),
                    "panic" => Action::Panic,
                    "sleep" => Action::Sleep,
                    "hang" => Action::Hang,
                    _ => {
                        eprintln!("REGISTRY_FAILPOINTS: {entry:?} is not NAME=ACTION[@N]");
                        std::process::exit(64)
                    }
                };
                (name.to_owned(), Point { action, at, arrivals: AtomicU64::new(0) })
            })
            .collect()
    }
}
