//! Receiving bytes into an upload, and making a blob of it.

use std::io::{self, Read};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shared::Digest;

use super::sessions::Outcome;
use super::{Content, ContentError, Writer, slow};
use crate::failpoint::fail_point;
use crate::store::{Block, Disk, Session, StoreError, timed};

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

/// Why an upload did not become a blob.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    /// The bytes are not the digest's. The upload is gone.
    #[error("the content's digest is {actual}")]
    Mismatch { actual: Digest },
    /// The upload was cancelled meanwhile.
    #[error("the upload was cancelled")]
    Cancelled,
    #[error(transparent)]
    Content(#[from] ContentError),
}

impl Content {
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
            let left = length.map(|length| length.saturating_sub(received));
            let reader = Arc::clone(&reader);
            let taken = slow(move || take_turn(writer, &reader, held, left)).await?;
            (writer, turn) = taken.map_err(ContentError::from)?;
            received += turn.bytes;
            if writer.cancelled() {
                return Err(ReceiveError::Cancelled);
            }
            match turn.then {
                Then::Wait => {}
                Then::Broken(error) => return Err(ReceiveError::Body(error.into())),
                Then::TooLong => {
                    rewind(writer, start).await?;
                    return Err(ReceiveError::TooLong);
                }
                Then::End if length.is_some_and(|length| received < length) => {
                    rewind(writer, start).await?;
                    return Err(ReceiveError::TooShort);
                }
                Then::End => return Ok(writer),
            }
        }
    }

    /// Makes a blob of an upload: durable and linked to its repository when this returns.
    ///
    /// # Errors
    /// See [`FinishError`].
    pub async fn finish_upload(&self, writer: Writer, digest: &Digest) -> Result<u64, FinishError> {
        let algorithm = digest.algorithm();
        let (writer, synced) = slow(move || {
            let mut writer = writer;
            let synced = writer.with(|disk, session| {
                timed(&disk.timings().sync, || session.sync(disk, algorithm))
            });
            (writer, synced)
        })
        .await?;
        let actual = match synced {
            Ok(actual) => actual,
            Err(error) => {
                // After a failed sync the bytes must not be synced again: nothing to resume.
                drop_upload(writer).await?;
                return Err(ContentError::from(error).into());
            }
        };
        if writer.cancelled() {
            return Err(FinishError::Cancelled);
        }
        if actual != *digest {
            drop_upload(writer).await?;
            return Err(FinishError::Mismatch { actual });
        }
        self.publish(writer, digest.clone()).await
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
    let taken = writer.with(|disk, session| {
        let mut bytes = 0;
        while bytes < TURN_BYTES {
            if block.is_empty() {
                block.begin(session.offset());
            }
            let (read, then) = fill(&mut *reader, &mut block);
            bytes += read;
            if left.is_some_and(|left| bytes > left) {
                return Ok((bytes, Then::TooLong));
            }
            if matches!(then, Some(Then::Wait)) && bytes >= HOLD_BYTES {
                return Ok((bytes, Then::Wait));
            }
            append(disk, session, &mut block)?;
            if let Some(then) = then {
                return Ok((bytes, then));
            }
        }
        Ok((bytes, Then::Wait))
    });
    match taken {
        Ok((bytes, then)) => {
            let hold = matches!(then, Then::Wait) && !block.is_empty();
            let held = if hold {
                Some(block)
            } else {
                block.give_back();
                None
            };
            Ok((writer, Turn { bytes, then, held }))
        }
        Err(error) => {
            give_up(writer);
            Err(error)
        }
    }
}

fn append(disk: &Disk, session: &mut Session, block: &mut Block) -> Result<(), StoreError> {
    timed(&disk.timings().writer, || session.append_block(disk, block))?;
    block.clear();
    Ok(())
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
        let (mut writer, mut block) = (writer, block);
        match writer.with(|disk, session| append(disk, session, &mut block)) {
            Ok(()) => {
                block.give_back();
                Ok(writer)
            }
            Err(error) => {
                give_up(writer);
                Err(error)
            }
        }
    });
    Ok(appended.await??)
}

/// Full or broken: gives back the space at once. Waiting for the client to come back would keep the
/// disk full for everybody.
fn give_up(writer: Writer) {
    if !fail_point!("give-back", off) {
        writer.finish(Outcome::Failed);
    }
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

async fn rewind(writer: Writer, to: crate::store::Checkpoint) -> Result<(), ContentError> {
    slow(move || {
        let mut writer = writer;
        writer.with(|disk, session| session.rewind(disk, to))
    })
    .await??;
    Ok(())
}

async fn drop_upload(writer: Writer) -> Result<(), ContentError> {
    if fail_point!("give-back", off) {
        return Ok(());
    }
    slow(move || writer.finish(Outcome::Failed)).await
}
