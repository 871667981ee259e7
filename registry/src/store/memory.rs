//! Bytes in memory, for tests of clients and for what nobody has to keep: everything is gone when
//! the process ends.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use shared::{Algorithm, Digest, Hasher, RepoName};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::locks::DigestLocks;
use super::{
    Block, Checkpoint, Counts, DigestGuard, Figures, Outcome, Pace, Rotten, SealError, Sealed,
    Source, Store, StoreError, Upload, UploadError, UploadId, UploadOutcomes, no_actions,
};
use crate::records::{BlobRecord, Kept, Place, RepoBlob};

/// Open uploads at once.
const UPLOADS_MAX: usize = 4096;

/// How long a request waits for the one before it on the same upload.
const WRITER_WAIT: Duration = Duration::from_secs(2);

/// Bytes hashed again at a time.
const STEP_BYTES: usize = 1 << 20;

/// How much is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of blobs and uploads, together.
    pub limit: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { limit: 512 << 20 }
    }
}

/// See the module.
#[derive(Debug)]
pub struct MemoryStore {
    held: Arc<Held>,
    locks: DigestLocks,
}

impl MemoryStore {
    pub fn new(options: Options) -> Self {
        let held = Held {
            limit: options.limit,
            things: Mutex::default(),
            outcomes: UploadOutcomes::default(),
        };
        Self { held: Arc::new(held), locks: DigestLocks::default() }
    }
}

#[derive(Debug)]
struct Held {
    limit: u64,
    things: Mutex<Things>,
    outcomes: UploadOutcomes,
}

#[derive(Debug, Default)]
struct Things {
    blobs: HashMap<Digest, Bytes>,
    uploads: HashMap<UploadId, Arc<Open>>,
    /// Of both.
    bytes: u64,
}

#[derive(Debug)]
struct Open {
    id: UploadId,
    repo: RepoName,
    /// For status requests, which do not wait for the writer.
    offset: AtomicU64,
    cancelled: AtomicBool,
    touched: Mutex<Instant>,
    arrived: Arc<AsyncMutex<Arrived>>,
}

#[derive(Debug)]
struct Arrived {
    hasher: Hasher,
    bytes: Vec<u8>,
}

impl Held {
    fn things(&self) -> MutexGuard<'_, Things> {
        self.things.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, repo: &RepoName, id: UploadId) -> Result<Arc<Open>, UploadError> {
        let found = self.things().uploads.get(&id).cloned();
        found.filter(|open| open.repo == *repo).ok_or(UploadError::Unknown)
    }

    /// Ends an upload; false if somebody else has.
    fn forget(&self, id: UploadId, outcome: Outcome) -> bool {
        let mut things = self.things();
        let Some(open) = things.uploads.remove(&id) else { return false };
        open.cancelled.store(true, Ordering::Release);
        things.bytes -= open.offset.load(Ordering::Acquire);
        self.outcomes.count(outcome);
        true
    }

    /// Makes room for more of an upload.
    fn claim(&self, open: &Open, bytes: u64) -> Result<(), StoreError> {
        let mut things = self.things();
        if open.cancelled.load(Ordering::Acquire) {
            return Err(StoreError::Gone);
        }
        if things.bytes + bytes > self.limit {
            return Err(StoreError::Full);
        }
        things.bytes += bytes;
        open.offset.fetch_add(bytes, Ordering::AcqRel);
        Ok(())
    }
}

async fn writer(held: &Arc<Held>, open: Arc<Open>) -> Result<Box<dyn Upload>, UploadError> {
    let lock = Arc::clone(&open.arrived).lock_owned();
    let Ok(arrived) = tokio::time::timeout(WRITER_WAIT, lock).await else {
        return Err(UploadError::Busy { offset: open.offset.load(Ordering::Acquire) });
    };
    let writer = Writer { held: Arc::clone(held), open, arrived };
    if writer.cancelled() { Err(UploadError::Unknown) } else { Ok(Box::new(writer)) }
}

#[async_trait]
impl Store for MemoryStore {
    async fn begin(
        &self,
        repo: &RepoName,
        algorithm: Algorithm,
    ) -> Result<Box<dyn Upload>, UploadError> {
        let arrived = Arrived { hasher: Hasher::new(algorithm), bytes: Vec::new() };
        let open = Arc::new(Open {
            id: UploadId::new(),
            repo: repo.clone(),
            offset: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            touched: Mutex::new(Instant::now()),
            arrived: Arc::new(AsyncMutex::new(arrived)),
        });
        {
            let mut things = self.held.things();
            if things.uploads.len() >= UPLOADS_MAX {
                return Err(UploadError::TooMany);
            }
            things.uploads.insert(open.id, Arc::clone(&open));
        }
        writer(&self.held, open).await
    }

    async fn resume(&self, repo: &RepoName, id: UploadId) -> Result<Box<dyn Upload>, UploadError> {
        let open = self.held.find(repo, id)?;
        writer(&self.held, open).await
    }

    async fn offset(&self, repo: &RepoName, id: UploadId) -> Result<u64, UploadError> {
        Ok(self.held.find(repo, id)?.offset.load(Ordering::Acquire))
    }

    async fn cancel(&self, repo: &RepoName, id: UploadId) -> Result<(), UploadError> {
        let open = self.held.find(repo, id)?;
        self.held.forget(open.id, Outcome::Cancelled);
        Ok(())
    }

    async fn expire(&self, age: Duration) -> Result<u64, StoreError> {
        let open: Vec<Arc<Open>> = self.held.things().uploads.values().cloned().collect();
        let mut expired = 0;
        for open in open {
            let touched = *open.touched.lock().unwrap_or_else(PoisonError::into_inner);
            // One that is written to is not at rest.
            if touched.elapsed() >= age && Arc::clone(&open.arrived).try_lock_owned().is_ok() {
                expired += u64::from(self.held.forget(open.id, Outcome::Expired));
            }
        }
        Ok(expired)
    }

    async fn lock(&self, digest: &Digest) -> DigestGuard<'_> {
        self.locks.lock(digest).await
    }

    async fn open(
        &self,
        blob: &RepoBlob,
        range: Range<u64>,
        _redirect: bool,
    ) -> Result<Result<Source, Rotten>, StoreError> {
        let found = self.held.things().blobs.get(blob.digest()).cloned();
        let Some(bytes) = found else { return Ok(Err(Rotten::Absent)) };
        let place = |at| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        Ok(Ok(Source::Bytes(bytes.slice(place(range.start)..place(range.end)))))
    }

    async fn remove(&self, digest: &Digest, _place: &Place) -> Result<(), StoreError> {
        let mut things = self.held.things();
        if let Some(bytes) = things.blobs.remove(digest) {
            things.bytes -= bytes.len() as u64;
        }
        Ok(())
    }

    async fn verify(
        &self,
        blob: &BlobRecord,
        mut pace: Pace,
    ) -> Result<Option<Rotten>, StoreError> {
        if let Some(rotten) = self.look_at(blob).await? {
            return Ok(Some(rotten));
        }
        let found = self.held.things().blobs.get(&blob.digest).cloned();
        let (bytes, digest) = (found.unwrap_or_default(), blob.digest.clone());
        let rotten = crate::pool::blocking(move || {
            let mut hasher = Hasher::new(digest.algorithm());
            for step in bytes.chunks(STEP_BYTES) {
                hasher.update(step);
                if !pace(step.len() as u64) {
                    return None;
                }
            }
            (hasher.finish() != digest).then_some(Rotten::Content)
        });
        Ok(rotten.await?)
    }

    async fn look_at(&self, blob: &BlobRecord) -> Result<Option<Rotten>, StoreError> {
        let length = self.held.things().blobs.get(&blob.digest).map(|bytes| bytes.len() as u64);
        Ok(match length {
            None => Some(Rotten::Absent),
            Some(length) => (length != blob.size).then_some(Rotten::Length(length)),
        })
    }

    fn broken(&self) -> Option<String> {
        None
    }

    fn ready(&self) -> Result<(), StoreError> {
        if self.held.things().bytes < self.held.limit { Ok(()) } else { Err(StoreError::Full) }
    }

    fn figures(&self) -> Figures {
        let things = self.held.things();
        Figures {
            uploads: things.uploads.len(),
            free_bytes: self.held.limit.saturating_sub(things.bytes),
            capacity_bytes: self.held.limit,
        }
    }

    fn counts(&self) -> Counts {
        Counts { actions: no_actions(), outcomes: self.held.outcomes.clone() }
    }

    async fn settled(&self) {}
}

/// The right to write to one upload.
#[derive(Debug)]
struct Writer {
    held: Arc<Held>,
    open: Arc<Open>,
    arrived: OwnedMutexGuard<Arrived>,
}

impl Writer {
    fn touch(&self) {
        *self.open.touched.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

#[async_trait]
impl Upload for Writer {
    fn id(&self) -> UploadId {
        self.open.id
    }

    fn repo(&self) -> &RepoName {
        &self.open.repo
    }

    fn offset(&self) -> u64 {
        self.arrived.bytes.len() as u64
    }

    fn cancelled(&self) -> bool {
        self.open.cancelled.load(Ordering::Acquire)
    }

    fn expect(&mut self, _bytes: Option<u64>) {}

    fn append(&mut self, mut block: Block) -> Result<Block, StoreError> {
        if let Err(error) = self.held.claim(&self.open, block.bytes().len() as u64) {
            block.give_back();
            self.held.forget(self.open.id, Outcome::Failed);
            return Err(error);
        }
        let Arrived { hasher, bytes } = &mut *self.arrived;
        hasher.update(block.bytes());
        bytes.extend_from_slice(block.bytes());
        self.touch();
        block.clear();
        Ok(block)
    }

    async fn room(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint { hasher: self.arrived.hasher.clone(), offset: self.offset() }
    }

    async fn rewind(mut self: Box<Self>, to: Checkpoint) -> Result<(), StoreError> {
        let back = self.offset() - to.offset;
        let length = usize::try_from(to.offset).unwrap_or(usize::MAX);
        self.arrived.bytes.truncate(length);
        self.arrived.hasher = to.hasher;
        let mut things = self.held.things();
        // Whoever has ended it meanwhile has given back all of it.
        if !self.cancelled() {
            things.bytes -= back;
            self.open.offset.fetch_sub(back, Ordering::AcqRel);
        }
        Ok(())
    }

    async fn pause(self: Box<Self>) -> Result<u64, StoreError> {
        self.touch();
        Ok(self.offset())
    }

    async fn seal(mut self: Box<Self>, digest: &Digest) -> Result<Box<dyn Sealed>, SealError> {
        if self.cancelled() {
            return Err(SealError::Cancelled);
        }
        let hasher = self.arrived.hasher.clone();
        let bytes = Bytes::from(std::mem::take(&mut self.arrived.bytes));
        let (wanted, whole) = (digest.algorithm(), bytes.clone());
        let actual = crate::pool::slow(move || match &hasher {
            // Another one than it was begun with.
            hasher if hasher.clone().finish().algorithm() != wanted => Digest::of(wanted, &whole),
            hasher => hasher.clone().finish(),
        });
        let actual = actual.await?;
        if actual != *digest {
            self.held.forget(self.open.id, Outcome::Failed);
            return Err(SealError::Mismatch { actual });
        }
        Ok(Box::new(Whole { writer: *self, bytes, digest: actual }))
    }
}

/// An upload that is a blob.
#[derive(Debug)]
struct Whole {
    writer: Writer,
    bytes: Bytes,
    digest: Digest,
}

#[async_trait]
impl Sealed for Whole {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    async fn publish(&mut self) -> Result<Place, StoreError> {
        let mut things = self.writer.held.things();
        if self.writer.cancelled() {
            return Err(StoreError::Gone);
        }
        // The upload's share goes with the upload; from here on it counts as a blob.
        things.bytes += self.bytes.len() as u64;
        if let Some(before) = things.blobs.insert(self.digest.clone(), self.bytes.clone()) {
            things.bytes -= before.len() as u64;
        }
        Ok(Place::File)
    }

    fn resumed(&self) -> bool {
        false
    }

    async fn end(self: Box<Self>, kept: Option<Kept>) {
        let outcome = match kept {
            Some(Kept::Mine | Kept::Other) => Outcome::Completed,
            Some(Kept::StartOver) | None => Outcome::Failed,
        };
        self.writer.held.forget(self.writer.open.id, outcome);
    }
}
