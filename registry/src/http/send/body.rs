//! The body of a response that is part of a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use tokio::task::JoinHandle;

use super::{Job, Slot, State};

/// Bytes read at once where a file is copied; one such read is ahead.
const READ_BYTES: u64 = 1 << 20;

/// Part of a file as a response body. The response must carry its `Content-Length`.
#[derive(Debug)]
pub(crate) struct FileBody {
    file: Arc<File>,
    offset: u64,
    end: u64,
    how: How,
}

#[derive(Debug)]
enum How {
    /// Sent by the connection's stream; `armed` once the job is in the slot.
    Slot { slot: Rc<Slot>, armed: bool, done: bool },
    /// Read on the pool and handed to actix, on connections without a slot.
    Read { ahead: Option<JoinHandle<io::Result<Bytes>>> },
}

impl FileBody {
    /// `length` bytes of `file` from `offset`; the file has that many.
    pub(crate) fn new(file: Arc<File>, offset: u64, length: u64, slot: Option<Rc<Slot>>) -> Self {
        let how = match slot {
            Some(slot) => How::Slot { slot, armed: false, done: false },
            None => How::Read { ahead: None },
        };
        Self { file, offset, end: offset + length, how }
    }

    /// Bytes sent so far.
    pub(crate) fn sent(&self, length: u64) -> u64 {
        match &self.how {
            How::Slot { armed: false, .. } => 0,
            How::Slot { slot, .. } => slot.sent.get(),
            How::Read { .. } => length.saturating_sub(self.end - self.offset),
        }
    }
}

impl MessageBody for FileBody {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, io::Error>>> {
        let this = &mut *self;
        match &mut this.how {
            How::Slot { slot, armed, done } => {
                if !*armed {
                    if slot.state.get() != State::Free {
                        // One task polls one body at a time; anything else is a bug that must
                        // not mix two responses.
                        return Poll::Ready(Some(Err(io::Error::other(
                            "the connection is in use",
                        ))));
                    }
                    slot.sent.set(0);
                    slot.state.set(State::Sending);
                    *slot.job.borrow_mut() = Some(Job {
                        file: Arc::clone(&this.file),
                        offset: this.offset,
                        end: this.end,
                        warm_until: this.offset,
                        warming: None,
                        copy: false,
                    });
                    *armed = true;
                    return Poll::Pending;
                }
                if slot.state.get() == State::Sent {
                    slot.state.set(State::Free);
                    *done = true;
                    return Poll::Ready(None);
                }
                if *done { Poll::Ready(None) } else { Poll::Pending }
            }
            How::Read { ahead } => {
                if this.offset == this.end {
                    return Poll::Ready(None);
                }
                let reading = ahead.get_or_insert_with(|| read(&this.file, this.offset, this.end));
                let Poll::Ready(read_now) = Pin::new(reading).poll(cx) else {
                    return Poll::Pending;
                };
                *ahead = None;
                let piece = read_now.map_err(io::Error::other)??;
                this.offset += piece.len() as u64;
                if this.offset < this.end {
                    *ahead = Some(read(&this.file, this.offset, this.end));
                }
                Poll::Ready(Some(Ok(piece)))
            }
        }
    }
}

impl Drop for FileBody {
    fn drop(&mut self) {
        if let How::Slot { slot, armed: true, done: false } = &self.how {
            slot.job.borrow_mut().take();
            slot.state.set(State::Poisoned);
        }
    }
}

fn read(file: &Arc<File>, offset: u64, end: u64) -> JoinHandle<io::Result<Bytes>> {
    let file = Arc::clone(file);
    tokio::task::spawn_blocking(move || {
        let length = usize::try_from((end - offset).min(READ_BYTES)).unwrap_or(usize::MAX);
        let mut buffer = vec![0; length];
        file.read_exact_at(&mut buffer, offset)?;
        Ok(buffer.into())
    })
}
