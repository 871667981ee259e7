//! Keeping the write-ahead log short: a start after a crash reads all of it.
//!
//! Pages move from the log into the database on a connection and thread of their own, while writes
//! go on. The log starts over only when everything in it was moved, which under steady writing
//! never happens by itself; so once the log is long, the writer moves the little that is left
//! between two groups.
//!
//! After a second without a change the log is moved whole and emptied: what stands in it is there
//! once only, and a flipped byte in its middle would take everything behind it along.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use super::schema;
use super::writer::{Shared, is_full, is_lost_write};
use crate::failpoint::fail_point;

/// Pages (of 4 KiB) in the log from which on the background moves them: 4 MiB.
const BACKGROUND_PAGES: i64 = 1024;

/// Pages from which on the writer finishes the move itself: 16 MiB, a quarter of what a start
/// within a second could read.
const FOREGROUND_PAGES: i64 = 4096;

/// Pages that the writer moves at most by itself, so that no change waits for long, unless the log
/// has grown to [`LOG_PAGES_MAX`].
const FOREGROUND_REST_MAX: i64 = 2048;

/// Pages that the log has at most, whatever it costs: 64 MiB.
const LOG_PAGES_MAX: i64 = 16 * 1024;

/// How long nothing must have changed for the log to be emptied.
const REST: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Checkpointer {
    /// Says that something was committed. Full most of the time, which costs the writer nothing.
    changed: SyncSender<()>,
    mover: Option<Thread>,
    commits: Arc<AtomicU64>,
    shared: Arc<Shared>,
    stopped: Arc<AtomicBool>,
}

impl Checkpointer {
    pub(super) fn start(path: &Path, shared: Arc<Shared>) -> rusqlite::Result<Self> {
        let connection = schema::open_checkpointer(path)?;
        // It gives way where others are at work: it tries again.
        connection.busy_timeout(Duration::ZERO)?;
        let (changed, change) = sync_channel(1);
        let stopped = Arc::new(AtomicBool::new(false));
        let commits = Arc::new(AtomicU64::new(0));
        let mover = Mover { shared: Arc::clone(&shared), stopped: Arc::clone(&stopped) };
        let counted = Arc::clone(&commits);
        let spawned = std::thread::Builder::new().name("records-move".into()).spawn(move || {
            while change.recv().is_ok() {
                mover.until_rest(&connection, &counted);
            }
        });
        // Without the thread the writer does all of it: slower, and right.
        let mover = spawned.map(|thread| thread.thread().clone());
        let mover = mover.inspect_err(|error| {
            tracing::warn!(%error, "records: no thread for checkpoints");
        });
        Ok(Self { changed, mover: mover.ok(), commits, shared, stopped })
    }

    /// For the writer, between two groups.
    pub(super) fn after_commit(&self, writer: &Connection) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        match self.changed.try_send(()) {
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
        let Ok((log, moved)) = pages(writer, "PRAGMA wal_checkpoint(NOOP)") else { return };
        let rest = log - moved;
        if log > LOG_PAGES_MAX || (log > FOREGROUND_PAGES && rest < FOREGROUND_REST_MAX) {
            let (shared, stopped) = (Arc::clone(&self.shared), Arc::clone(&self.stopped));
            Mover { shared, stopped }.passive(writer);
        } else if rest > BACKGROUND_PAGES {
            self.mover.iter().for_each(Thread::unpark);
        }
    }

    /// No checkpoint begins from here on.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.mover.iter().for_each(Thread::unpark);
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Mover {
    shared: Arc<Shared>,
    stopped: Arc<AtomicBool>,
}

impl Mover {
    /// Moves what is in the log whenever it is long, and all of it once nothing changes any more.
    fn until_rest(&self, connection: &Connection, commits: &AtomicU64) {
        if fail_point!("rest-checkpoint", off) {
            return self.until_long(connection);
        }
        loop {
            let (before, began) = (commits.load(Ordering::Relaxed), Instant::now());
            std::thread::park_timeout(REST);
            if self.is_over() {
                return;
            }
            if began.elapsed() < REST {
                // Woken: the log is long.
                self.passive(connection);
            } else if commits.load(Ordering::Relaxed) == before && self.empty(connection) {
                return;
            }
        }
    }

    fn until_long(&self, connection: &Connection) {
        std::thread::park();
        self.passive(connection);
    }

    fn is_over(&self) -> bool {
        self.stopped.load(Ordering::Acquire) || self.shared.is_poisoned()
    }

    /// Moves everything and empties the log; false if somebody is at work on it, to try again.
    fn empty(&self, connection: &Connection) -> bool {
        // Most of it without keeping anybody from writing.
        self.passive(connection);
        if self.is_over() {
            return true;
        }
        let emptied: rusqlite::Result<bool> =
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
        match emptied {
            Ok(busy) => !busy,
            Err(error) => self.failed(&error),
        }
    }
    fn passive(&self, connection: &Connection) {
        if self.is_over() {
            return;
        }
        if let Err(error) = pages(connection, "PRAGMA wal_checkpoint(PASSIVE)") {
            self.failed(&error);
        }
    }

    /// Says so; whether there is no sense in trying again soon.
    fn failed(&self, error: &rusqlite::Error) -> bool {
        match error {
            error if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => return false,
            // What was not moved is still in the log, so nothing is lost, but a failed sync must
            // not be followed by one that seems to succeed, after which the log is written over.
            error if is_lost_write(error) => self.shared.poison(error),
            error if is_full(error) => {
                tracing::warn!("records: no space to move the log into the database; it grows");
            }
            error => tracing::warn!(%error, "records: a checkpoint failed"),
        }
        true
    }
}

/// Pages in the log, and how many of them are in the database already.
fn pages(connection: &Connection, sql: &str) -> rusqlite::Result<(i64, i64)> {
    connection.prepare_cached(sql)?.query_row([], |row| Ok((row.get(1)?, row.get(2)?)))
}
