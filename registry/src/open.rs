//! Opening what a configuration stores in: the same for the server and for operators' commands.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, Storage};
use crate::content::{Upkeep, backup};
use crate::records::memory::MemoryRecords;
use crate::records::{Records, sqlite};
use crate::store::Store;
use crate::store::disk::{self, Disk, DiskStore};
use crate::store::memory::{self, MemoryStore};

/// Why it cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] disk::OpenError),
    #[error(transparent)]
    Records(#[from] sqlite::OpenError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Bytes, facts, and what they need beside the two traits.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) records: Arc<dyn Records>,
    pub(crate) upkeep: Upkeep,
}

/// Opens the configured storage, and waits up to `wait` for another process to let go of it.
///
/// # Errors
/// See [`OpenError`].
pub(crate) fn open(config: &Config, wait: Duration) -> Result<Opened, OpenError> {
    match config.storage {
        Storage::Directory => directory(config, wait),
        Storage::Memory(options) => Ok(in_memory(config, options)),
    }
}

fn in_memory(config: &Config, options: memory::Options) -> Opened {
    tracing::warn!(
        limit = options.limit,
        "storage.inmemory: images are kept in memory, and all of them are lost when this ends"
    );
    Opened {
        store: Arc::new(MemoryStore::new(options)),
        records: Arc::new(MemoryRecords::bounded(config.gc.review_delay, options.limit)),
        upkeep: Upkeep::default(),
    }
}

fn directory(config: &Config, wait: Duration) -> Result<Opened, OpenError> {
    let options = disk::Options { wait_for_lock: wait, ..config.store.clone() };
    let disk = Arc::new(Disk::open(&config.root, &options)?);
    backup::adopt(&config.root)?;
    let options = sqlite::Options {
        review_delay: config.gc.review_delay,
        commits: Some(disk.timings().commit.clone()),
        ..sqlite::Options::default()
    };
    let records = Arc::new(sqlite::SqliteRecords::open(&config.root, &options)?);
    let store = Arc::new(DiskStore::new(Arc::clone(&disk)));
    Ok(Opened { store, upkeep: Upkeep::directory(disk, Arc::clone(&records)), records })
}
