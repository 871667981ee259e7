//! Bytes by digest, wherever they lie.
//!
//! What is above knows [`Store`], [`Upload`], [`Sealed`] and [`Source`], and no file. Which
//! repository holds which digest is none of this module's business; the order of bytes and facts is
//! `content`'s, and the same for every store:
//! ```text
//! seal -> lock d -> publish -> records -> unlock -> end
//! ```

mod block;
pub mod disk;
mod locks;
pub mod memory;
mod name;
mod outcomes;
#[cfg(test)]
mod suite;
mod timings;

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use shared::{Algorithm, Digest, Hasher, RepoName};
use tokio::sync::MutexGuard;

use crate::failpoint::fail_point;
use crate::pool::Died;
use crate::records::{BlobRecord, Kept, Place, RepoBlob};

pub use block::Block;
pub use name::{InvalidUploadId, UploadId};
pub use outcomes::{Outcome, UploadOutcomes};
use timings::no_actions;
pub use timings::{Action, Timings, timed};

/// Why bytes could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no room beyond the reserve, which is kept for the database and for deletes.
    #[error("the disk is full")]
    Full,
    /// An earlier write failed in a way that leaves the disk's state unknown.
    #[error("the store is read-only since a write failed: {0}")]
    ReadOnly(String),
    /// The upload was ended meanwhile, and its files are gone.
    #[error("the upload is gone")]
    Gone,
    #[error("{what}")]
    Io {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    /// A task of ours died.
    #[error("an internal task failed")]
    Task,
}

impl From<Died> for StoreError {
    fn from(_: Died) -> Self {
        Self::Task
    }
}

/// Why an upload cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// No such upload in this repository.
    #[error("no such upload")]
    Unknown,
    /// Another request writes to it.
    #[error("another request is writing to this upload")]
    Busy {
        /// Bytes received so far.
        offset: u64,
    },
    /// Too many uploads are open.
    #[error("too many uploads are open already")]
    TooMany,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Died> for UploadError {
    fn from(died: Died) -> Self {
        Self::Store(died.into())
    }
}

/// Why an upload was not sealed. Except after `Cancelled` its bytes are gone.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The bytes are not the digest's.
    #[error("the content's digest is {actual}")]
    Mismatch { actual: Digest },
    /// The upload was ended meanwhile.
    #[error("the upload was cancelled")]
    Cancelled,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Died> for SealError {
    fn from(died: Died) -> Self {
        Self::Store(died.into())
    }
}

/// What is wrong with a blob's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotten {
    Absent,
    /// There are this many.
    Length(u64),
    /// They are not the digest's.
    Content,
}

/// Where the bytes of a blob come from.
pub enum Source {
    /// A file that has the whole blob, whichever range was asked for. It stays readable when the
    /// blob is removed meanwhile.
    File(File),
    /// The range.
    Bytes(Bytes),
    /// The client gets them there by itself.
    Redirect(String),
    /// The range, as it arrives.
    Stream(BoxStream<'static, io::Result<Bytes>>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => f.debug_tuple("File").field(file).finish(),
            Self::Bytes(bytes) => f.debug_tuple("Bytes").field(&bytes.len()).finish(),
            // An address may let whoever reads it in.
            Self::Redirect(_) => f.write_str("Redirect"),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// Where an upload stood, to go back to.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub(crate) hasher: Hasher,
    pub(crate) offset: u64,
}

/// What there is at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Uploads that are open, those of an earlier process included.
    pub uploads: usize,
    pub free_bytes: u64,
    /// Bytes of the whole, free or not; 0 where there is no end.
    pub capacity_bytes: u64,
}

/// What is counted since the start.
#[derive(Clone, Debug)]
pub struct Counts {
    pub actions: Family<Action, Histogram>,
    pub outcomes: UploadOutcomes,
}

/// The right to change what a digest's bytes are. Empty where the store needs none.
#[derive(Debug, Default)]
pub struct DigestGuard<'s> {
    _held: Option<MutexGuard<'s, ()>>,
}

/// Bytes of blobs. Shared as `Arc<dyn Store>`.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Starts an upload, hashed by `algorithm` as it arrives.
    async fn begin(
        &self,
        repo: &RepoName,
        algorithm: Algorithm,
    ) -> Result<Box<dyn Upload>, UploadError>;

    /// The right to write to an upload.
    async fn resume(&self, repo: &RepoName, id: UploadId) -> Result<Box<dyn Upload>, UploadError>;

    /// Bytes that an upload has received.
    async fn offset(&self, repo: &RepoName, id: UploadId) -> Result<u64, UploadError>;

    /// Ends an upload and drops its bytes. A request that is writing to it fails.
    async fn cancel(&self, repo: &RepoName, id: UploadId) -> Result<(), UploadError>;

    /// Ends uploads that nothing was written to for `age`. Gives their number. One that begins or
    /// is loaded at this moment may be hit at a low age; its request finds it unknown.
    async fn expire(&self, age: Duration) -> Result<u64, StoreError>;

    /// Waits for whoever publishes or removes `digest`.
    async fn lock(&self, digest: &Digest) -> DigestGuard<'_>;

    /// Opens the bytes of a blob: those of `range`, or all of them. `redirect`: whether the client
    /// may be sent elsewhere. Writes nothing.
    async fn open(
        &self,
        blob: &RepoBlob,
        range: Range<u64>,
        redirect: bool,
    ) -> Result<Result<Source, Rotten>, StoreError>;

    /// Removes the bytes of `digest` at `place`, durably. Bytes that are not there are no error.
    /// Call under the digest's lock.
    async fn remove(&self, digest: &Digest, place: &Place) -> Result<(), StoreError>;

    /// Reads a blob's bytes to their end and compares them with what they should be. `pace` is told
    /// of bytes read, on the pool, and may wait; false from it ends the reading early, as if all
    /// were well.
    ///
    /// # Errors
    /// When they cannot be read, which says nothing about them.
    async fn verify(&self, blob: &BlobRecord, pace: Pace) -> Result<Option<Rotten>, StoreError>;

    /// Whether there are as many bytes of a blob as there should be, without reading them.
    ///
    /// # Errors
    /// When that cannot be told.
    async fn look_at(&self, blob: &BlobRecord) -> Result<Option<Rotten>, StoreError>;

    /// Why no writes are taken any more, if so.
    fn broken(&self) -> Option<String>;

    /// Refuses when nothing can be written, or when fewer than the reserved bytes are free.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`], [`StoreError::Full`].
    fn ready(&self) -> Result<(), StoreError>;

    /// From memory, without waiting.
    fn figures(&self) -> Figures;

    fn counts(&self) -> Counts;

    /// Waits, for a few seconds at most, until uploads that were dropped have been saved.
    async fn settled(&self);
}

/// What [`Store::verify`] tells of bytes read.
pub type Pace = Box<dyn FnMut(u64) -> bool + Send>;

/// The right to write to one upload. Dropped, it stays resumable.
#[async_trait]
pub trait Upload: fmt::Debug + Send {
    fn id(&self) -> UploadId;

    fn repo(&self) -> &RepoName;

    /// Bytes received.
    fn offset(&self) -> u64;

    /// Whether somebody has ended it meanwhile.
    fn cancelled(&self) -> bool;

    /// Says how many bytes are about to be appended, if that is known.
    fn expect(&mut self, bytes: Option<u64>);

    /// Appends a block and hashes it. Gives back an empty one. Blocks.
    ///
    /// # Errors
    /// Then the upload is gone, and its space given back.
    fn append(&mut self, block: Block) -> Result<Block, StoreError>;

    /// Waits until more may be appended. Between two turns, with nothing held.
    async fn room(&mut self) -> Result<(), StoreError>;

    fn checkpoint(&self) -> Checkpoint;

    /// Takes back everything appended since, and ends the writing for now.
    async fn rewind(self: Box<Self>, to: Checkpoint) -> Result<(), StoreError>;

    /// Ends the writing for now: the upload can be gone on with, after a restart too. Gives the
    /// bytes received.
    async fn pause(self: Box<Self>) -> Result<u64, StoreError>;

    /// Makes the bytes durable, unless they are not the digest's.
    async fn seal(self: Box<Self>, digest: &Digest) -> Result<Box<dyn Sealed>, SealError>;
}

/// Durable bytes of an upload, whose digest is known.
#[async_trait]
pub trait Sealed: fmt::Debug + Send {
    /// Bytes.
    fn size(&self) -> u64;

    /// Puts the bytes where the digest's are read, durably; replaces what is there. Call under the
    /// digest's lock.
    ///
    /// Replacing heals: the new bytes were just verified, the old ones may be rotten.
    ///
    /// # Errors
    /// [`StoreError::Gone`] when the upload was cancelled meanwhile.
    async fn publish(&mut self) -> Result<Place, StoreError>;

    /// Whether the upload was found by an earlier request, and may have been published before.
    fn resumed(&self) -> bool;

    /// Ends the upload: what became of its bytes, or nothing where they were not recorded.
    async fn end(self: Box<Self>, kept: Option<Kept>);
}

/// Whether there were too many open files: somebody else's doing, and over soon.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE)) && !fail_point!("out-of-descriptors", off)
}
