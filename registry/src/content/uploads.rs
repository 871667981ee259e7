//! Receiving bytes into an upload, and making a blob of it.

use std::io::{self, Read};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shared::{Algorithm, Digest, RepoName};

use super::{Content, ContentError};
use crate::pool::{Died, run_to_end, slow};
use crate::records::Kept;
use crate::store::{Block, SealError, StoreError, Upload, UploadError, UploadId};

/// The right to write to one upload. Dropping it leaves the upload resumable.
pub type Writer = Box<dyn Upload>;

/// Bytes that one body may keep a thread of the pool for, while others wait for one.
const TURN_BYTES: u64 = 4 << 20;

/// Bytes of a turn from which on its last ones are held back until a whole block is there. Clients
/// that send less at a time get nothing held for them.
const HOLD_BYTES: u64 = 64 << 10;

/// How long they are held.
const HOLD: Duration = Duration::from_millis(100);

/// Why a body did not arrive whole.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError<E> {
    /// The client or its connection failed; what arrived is kept.
    #[error("the body did not arrive")]
    Body(E),
    /// The body is longer than the request said. Nothing of it is kept.
    #[error("the body is longer than announced")]
    TooLong,
    /// The body is shorter than the request said. Nothing of it is kept.
    #[error("the body is shorter than announced")]
    TooShort,
    /// The upload was cancelled meanwhile.
    #[error("the upload was cancelled")]
    Cancelled,
    #[error(transparent)]
    Content(#[from] ContentError),
}

/// Why an upload cannot be written to.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
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
    Content(#[from] ContentError),
}

impl From<UploadError> for SessionError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Unknown => Self::Unknown,
            UploadError::Busy { offset } => Self::Busy { offset },
            UploadError::TooMany => Self::TooMany,
            UploadError::Store(error) => Self::Content(error.into()),
        }
    }
}

/// Why an upload did not become a blob.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    /// The bytes are not the digest's. The upload is gone.
    #[error("the content's digest is {actual}")]
    Mismatch { actual: Digest },
    /// The upload was cancelled meanwhile.
    #[error("the upload was cancelled")]
    Cancelled,
    /// The bytes were removed while they were being recorded. The upload is gone.
    #[error("the upload has to begin anew")]
    StartOver,
    #[error(transparent)]
    Content(#[from] ContentError),
}

impl From<SealError> for FinishError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Mismatch { actual } => Self::Mismatch { actual },
            SealError::Cancelled => Self::Cancelled,
            SealError::Store(error) => Self::Content(error.into()),
        }
    }
}

impl From<Died> for FinishError {
    fn from(died: Died) -> Self {
        Self::Content(died.into())
    }
}

impl Content {
    /// Starts an upload to `repo`. It survives the process, not a power cut.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn start_upload(
        &self,
        repo: &RepoName,
        algorithm: Algorithm,
    ) -> Result<Writer, SessionError> {
        self.writable()?;
        Ok(self.store.begin(repo, algorithm).await?)
    }

    /// The right to write to an upload.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn resume_upload(
        &self,
        repo: &RepoName,
        id: UploadId,
    ) -> Result<Writer, SessionError> {
        self.writable()?;
        Ok(self.store.resume(repo, id).await?)
    }

    /// Bytes that an upload has received.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn upload_offset(&self, repo: &RepoName, id: UploadId) -> Result<u64, SessionError> {
        Ok(self.store.offset(repo, id).await?)
    }

    /// Ends an upload and drops its bytes. A request that is writing to it fails.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn cancel_upload(&self, repo: &RepoName, id: UploadId) -> Result<(), SessionError> {
        Ok(self.store.cancel(repo, id).await?)
    }

    /// Ends uploads that nothing was written to for `age`. Gives their number.
    ///
    /// # Errors
    /// When the uploads cannot be listed.
    pub async fn purge_uploads(&self, age: Duration) -> Result<u64, ContentError> {
        Ok(self.store.expire(age).await?)
    }

    /// Ends the writing for now: the upload can be gone on with. Gives the bytes received.
    ///
    /// # Errors
    /// When it cannot be.
    pub async fn pause_upload(&self, writer: Writer) -> Result<u64, ContentError> {
        Ok(writer.pause().await?)
    }

    /// Appends a body to an upload: durable only once [`Content::finish_upload`] has answered.
    ///
    /// `length`, where the request gave one, is what the body must have. It is read on the pool,
    /// without waiting, once `ready` has been waited for, which is told the number of bytes that were
    /// read since its last call. Bytes stay where they are read: hashed and written on one thread,
    /// from one block.
    ///
    /// # Errors
    /// See [`ReceiveError`]; except for a full disk and a broken one, the writer stays usable.
    pub async fn receive<E: From<io::Error>>(
        &self,
        mut writer: Writer,
        length: Option<u64>,
        reader: Arc<Mutex<impl Read + Send + 'static>>,
        mut ready: impl AsyncFnMut(u64) -> Result<(), E>,
    ) -> Result<Writer, ReceiveError<E>> {
        let start = writer.checkpoint();
        writer.expect(length);
        let (mut received, mut turn) = (0, Turn::default());
        loop {
            let (held, result);
            (writer, held, result) = wait(ready(turn.bytes), writer, turn.held).await?;
            result.map_err(ReceiveError::Body)?;
            writer.room().await.map_err(ContentError::from)?;
            let left = length.map(|length| length.saturating_sub(received));
            let reader = Arc::clone(&reader);
            let taken = slow(move || take_turn(writer, &reader, held, left)).await;
            (writer, turn) = taken.map_err(ContentError::from)?.map_err(ContentError::from)?;
            received += turn.bytes;
            if writer.cancelled() {
                return Err(ReceiveError::Cancelled);
            }
            match turn.then {
                Then::Wait => {}
                Then::Broken(error) => return Err(ReceiveError::Body(error.into())),
                Then::TooLong => {
                    writer.rewind(start).await.map_err(ContentError::from)?;
                    return Err(ReceiveError::TooLong);
                }
                Then::End if length.is_some_and(|length| received < length) => {
                    writer.rewind(start).await.map_err(ContentError::from)?;
                    return Err(ReceiveError::TooShort);
                }
                Then::End => return Ok(writer),
            }
        }
    }

    /// Makes a blob of an upload: durable and linked to its repository when this returns. Gives its
    /// size.
    ///
    /// # Errors
    /// See [`FinishError`].
    pub async fn finish_upload(&self, writer: Writer, digest: &Digest) -> Result<u64, FinishError> {
        let repo = writer.repo().clone();
        let mut sealed = writer.seal(digest).await?;
        let (this, digest) = (self.clone(), digest.clone());
        // To its end even when the caller goes away: bytes that were published without a record are
        // nothing that anybody would ever look for.
        run_to_end(async move {
            let size = sealed.size();
            let published = this.publish(repo, &mut *sealed, &digest).await;
            sealed.end(published.as_ref().ok().copied()).await;
            match published {
                Ok(Kept::Mine | Kept::Other) => Ok(size),
                Ok(Kept::StartOver) => Err(FinishError::StartOver),
                Err(ContentError::Store(StoreError::Gone)) => Err(FinishError::Cancelled),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }
}

/// What was done on the pool at one go.
#[derive(Default)]
struct Turn {
    bytes: u64,
    then: Then,
    /// The last of the bytes, which are not appended yet: more are about to come.
    held: Option<Block>,
}

#[derive(Default)]
enum Then {
    /// For more bytes.
    #[default]
    Wait,
    End,
    /// There are more bytes than were left.
    TooLong,
    Broken(io::Error),
}

/// Reads what is there and appends it to what is held. `left` bytes may come at most. Blocks.
fn take_turn(
    writer: Writer,
    reader: &Mutex<impl Read>,
    held: Option<Block>,
    left: Option<u64>,
) -> Result<(Writer, Turn), StoreError> {
    let mut writer = writer;
    // A panic in a reader leaves one that is not at its end, which is all that is asked of it.
    let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
    let mut block = held.unwrap_or_else(Block::take);
    let mut bytes = 0;
    let then = loop {
        if bytes >= TURN_BYTES {
            break Then::Wait;
        }
        if block.is_empty() {
            block.begin(writer.offset());
        }
        let (read, then) = fill(&mut *reader, &mut block);
        bytes += read;
        if left.is_some_and(|left| bytes > left) {
            break Then::TooLong;
        }
        if matches!(then, Some(Then::Wait)) && bytes >= HOLD_BYTES {
            break Then::Wait;
        }
        block = writer.append(block)?;
        if let Some(then) = then {
            break then;
        }
    };
    let hold = matches!(then, Then::Wait) && !block.is_empty();
    let held = if hold {
        Some(block)
    } else {
        block.give_back();
        None
    };
    Ok((writer, Turn { bytes, then, held }))
}

/// Waits for more bytes, and appends what is held if they do not come soon.
async fn wait<E>(
    ready: impl Future<Output = Result<(), E>>,
    writer: Writer,
    held: Option<Block>,
) -> Result<(Writer, Option<Block>, Result<(), E>), ContentError> {
    let mut ready = pin!(ready);
    let Some(block) = held else { return Ok((writer, None, ready.await)) };
    match tokio::time::timeout(HOLD, &mut ready).await {
        Ok(Ok(())) => Ok((writer, Some(block), Ok(()))),
        Ok(broken) => Ok((append_held(writer, block).await?, None, broken)),
        Err(_) => Ok((append_held(writer, block).await?, None, ready.await)),
    }
}

async fn append_held(writer: Writer, block: Block) -> Result<Writer, ContentError> {
    let appended = slow(move || {
        let mut writer = writer;
        writer.append(block)?.give_back();
        Ok::<_, StoreError>(writer)
    });
    Ok(appended.await??)
}

/// Reads until the block is full, or tells what comes next.
fn fill(reader: &mut impl Read, block: &mut Block) -> (u64, Option<Then>) {
    let mut filled = 0;
    while !block.room().is_empty() {
        match reader.read(block.room()) {
            Ok(0) => return (filled, Some(Then::End)),
            Ok(read) => {
                block.add(read);
                filled += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return (filled, Some(Then::Wait));
            }
            Err(error) => return (filled, Some(Then::Broken(error))),
        }
    }
    (filled, None)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;
    use crate::content::{Policy, Upkeep};
    use crate::records::Missing;
    use crate::records::memory::MemoryRecords;
    use crate::store::disk::{self, Disk, DiskStore};

    type Received = ReceiveError<std::io::Error>;

    /// Whether this is answered as an unknown upload.
    fn is_unknown(error: &anyhow::Error) -> bool {
        let gone = |error: &ContentError| matches!(error, ContentError::Store(StoreError::Gone));
        let session = error.downcast_ref::<SessionError>().is_some_and(|error| match error {
            SessionError::Unknown => true,
            SessionError::Content(error) => gone(error),
            _ => false,
        });
        let received = error.downcast_ref::<Received>().is_some_and(|error| match error {
            ReceiveError::Cancelled => true,
            ReceiveError::Content(error) => gone(error),
            _ => false,
        });
        let finished = error.downcast_ref::<FinishError>().is_some_and(|error| match error {
            FinishError::Cancelled => true,
            FinishError::Content(error) => gone(error),
            FinishError::Mismatch { .. } | FinishError::StartOver => false,
        });
        session || received || finished
    }

    /// Whoever asks for uploads to be dropped at age 0 gets no broken ones.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_upload_that_is_purged_while_it_begins_is_unknown_and_no_failure() {
        let directory = tempfile::tempdir().unwrap();
        let options = disk::Options { reserve: Some(0), ..disk::Options::default() };
        let disk = Arc::new(Disk::open(directory.path(), &options).unwrap());
        let policy = Policy { missing: Missing::Refuse, delete_enabled: true, read_only: false };
        let store = Arc::new(DiskStore::new(disk));
        let records = Arc::new(MemoryRecords::new(Duration::ZERO));
        let content = Content::new(store, records, Upkeep::default(), policy);
        let (purged, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let purging = tokio::spawn({
            let (content, purged, done) = (content.clone(), Arc::clone(&purged), Arc::clone(&done));
            async move {
                while !done.load(Ordering::Acquire) {
                    let now = content.purge_uploads(Duration::ZERO).await.unwrap();
                    purged.fetch_add(now, Ordering::AcqRel);
                }
            }
        });
        let repo: RepoName = "a".parse().unwrap();
        let mut tries = 0;
        while tries < 150 || purged.load(Ordering::Acquire) < 20 {
            tries += 1;
            let upload = async {
                let writer = content.start_upload(&repo, Algorithm::Sha256).await?;
                let id = writer.id();
                drop(writer);
                let writer = content.resume_upload(&repo, id).await?;
                let body = Arc::new(Mutex::new(&b"abc"[..]));
                let ready = async |_| Ok::<_, std::io::Error>(());
                let writer = content.receive(writer, None, body, ready).await?;
                content.finish_upload(writer, &Digest::sha256(b"abc")).await?;
                anyhow::Ok(())
            };
            if let Err(error) = upload.await {
                assert!(is_unknown(&error), "{error:?}");
            }
        }
        done.store(true, Ordering::Release);
        purging.await.unwrap();
    }
}
