//! Keeping the write-ahead log short: a start after a crash reads all of it.
//!
//! Pages move from the log into the database on a connection and thread of their own, while writes
//! go on. The log starts over only when everything in it was moved, which under steady writing
//! never happens by itself; so once the log is long, the writer moves the little that is left
//! between two groups.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use rusqlite::Connection;

use super::schema;
use super::writer::{Shared, is_full, is_lost_write};

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

/// See the module.
pub(super) struct Checkpointer {
    wake: SyncSender<()>,
    shared: Arc<Shared>,
    stopped: Arc<AtomicBool>,
}

impl Checkpointer {
    pub(super) fn start(path: &Path, shared: Arc<Shared>) -> rusqlite::Result<Self> {
        let connection = schema::open_checkpointer(path)?;
        let (wake, woken) = sync_channel(1);
        let stopped = Arc::new(AtomicBool::new(false));
        let mover = Mover { shared: Arc::clone(&shared), stopped: Arc::clone(&stopped) };
        let spawned = std::thread::Builder::new().name("records-move".into()).spawn(move || {
            while woken.recv().is_ok() {
                mover.passive(&connection);
            }
        });
        // Without the thread the writer does all of it: slower, and right.
        if let Err(error) = spawned {
            tracing::warn!(%error, "records: no thread for checkpoints");
        }
        Ok(Self { wake, shared, stopped })
    }

    /// For the writer, between two groups.
    pub(super) fn after_commit(&self, writer: &Connection) {
        let Ok((log, moved)) = pages(writer, "PRAGMA wal_checkpoint(NOOP)") else { return };
        let rest = log - moved;
        if log > LOG_PAGES_MAX || (log > FOREGROUND_PAGES && rest < FOREGROUND_REST_MAX) {
            let (shared, stopped) = (Arc::clone(&self.shared), Arc::clone(&self.stopped));
            Mover { shared, stopped }.passive(writer);
        } else if rest > BACKGROUND_PAGES {
            match self.wake.try_send(()) {
                Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
            }
        }
    }

    /// No checkpoint begins from here on.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }
}

struct Mover {
    shared: Arc<Shared>,
    stopped: Arc<AtomicBool>,
}

impl Mover {
    fn passive(&self, connection: &Connection) {
        if self.stopped.load(Ordering::Acquire) || self.shared.is_poisoned() {
            return;
        }
        match pages(connection, "PRAGMA wal_checkpoint(PASSIVE)") {
            Ok(_) => {}
            // What was not moved is still in the log, so nothing is lost, but a failed sync must
            // not be followed by one that seems to succeed, after which the log is written over.
            Err(error) if is_lost_write(&error) => self.shared.poison(&error),
            Err(error) if is_full(&error) => {
                tracing::warn!("records: no space to move the log into the database; it grows");
            }
            Err(error) => tracing::warn!(%error, "records: a checkpoint failed"),
        }
    }
}

/// Pages in the log, and how many of them are in the database already.
fn pages(connection: &Connection, sql: &str) -> rusqlite::Result<(i64, i64)> {
    connection.prepare_cached(sql)?.query_row([], |row| Ok((row.get(1)?, row.get(2)?)))
}
