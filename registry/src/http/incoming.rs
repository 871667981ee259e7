//! Request bodies: counted, and not waited for without end.

use std::io::{self, Read as _};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::http::StatusCode;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use shared::ErrorCode;
use tokio::time::{Instant, Sleep};

use super::error::ApiError;
use super::receive::{self, Direct};
use super::send::{Receiving, Slot};
use crate::content::{Content, ReceiveError, Writer};

/// The slowest body that is waited for: [`WINDOW_BYTES`] in each [`WINDOW`], which a modem keeps
/// up with. There is no limit on the whole request: layers are large and lines are slow.
const WINDOW: Duration = Duration::from_secs(15);
pub(super) const WINDOW_BYTES: u64 = 4 << 10;

/// Time between two polls that is the server's own, and not counted against the client.
const OWN_PAUSE: Duration = Duration::from_millis(200);

/// Bytes of a small body read at once.
const PIECE_BYTES: usize = 64 << 10;

/// Why a body did not arrive.
#[derive(Debug)]
pub(crate) enum BodyError {
    Slow,
    Broken(PayloadError),
}

impl From<io::Error> for BodyError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.into())
    }
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Slow => Self::new(
                StatusCode::REQUEST_TIMEOUT,
                ErrorCode::SizeInvalid,
                "the request's body arrives too slowly; an upload can be resumed",
            ),
            BodyError::Broken(error) => {
                tracing::debug!(%error, "a request's body broke off");
                Self::body_broken()
            }
        }
    }
}

/// A request's body.
pub(crate) struct Incoming {
    source: Source,
    length: Option<u64>,
}

enum Source {
    /// Read by actix, which small bodies are.
    Payload(Paced),
    Direct(Direct),
}

impl Incoming {
    /// A body of `length` bytes, if that is known. `received` counts them.
    pub(crate) fn new(
        payload: Payload,
        length: Option<u64>,
        received: Arc<AtomicU64>,
        slot: Option<Rc<Slot>>,
    ) -> Self {
        let slot = slot.filter(|_| !matches!(payload, Payload::None));
        if let Some(slot) = &slot {
            slot.receiving(Receiving::Behind);
        }
        let paced = Paced { payload, received, slot, pace: Pace::default() };
        Self { source: Source::Payload(paced), length }
    }

    /// A body that is taken past actix.
    pub(crate) fn direct(direct: Direct, received: Arc<AtomicU64>) -> Self {
        direct.count_into(received);
        Self { length: direct.length(), source: Source::Direct(direct) }
    }

    /// The body's length, if the request gave it.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// The whole body. `Ok(None)` beyond `max` bytes.
    pub(crate) async fn collect(self, max: usize) -> Result<Option<Bytes>, BodyError> {
        match self.source {
            Source::Payload(paced) => paced.collect(max).await,
            Source::Direct(direct) => collect(direct, max).await,
        }
    }

    /// Appends the body to an upload; `length` is what it must have, where something else than its
    /// framing says so.
    pub(crate) async fn append_to(
        self,
        content: &Content,
        writer: Writer,
        length: Option<u64>,
    ) -> Result<Writer, ReceiveError<BodyError>> {
        match self.source {
            Source::Payload(paced) => content.receive(writer, length, paced).await,
            Source::Direct(mut direct) => {
                let (reader, length) = (direct.reader(), length.or(self.length));
                let ready = async move |taken| direct.ready(taken).await;
                content.receive_direct(writer, length, reader, ready).await
            }
        }
    }
}

async fn collect(mut direct: Direct, max: usize) -> Result<Option<Bytes>, BodyError> {
    let (mut whole, mut piece, mut taken) = (BytesMut::new(), vec![0; PIECE_BYTES], 0);
    loop {
        direct.ready(taken).await?;
        let reader = direct.reader();
        let read = receive::lock(&reader).read(&mut piece);
        let part = match read {
            Ok(0) => return Ok(Some(whole.freeze())),
            Ok(read) => &piece[..read],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => &[],
            Err(error) => return Err(error.into()),
        };
        taken = part.len() as u64;
        if whole.len() + part.len() > max {
            return Ok(None);
        }
        whole.extend_from_slice(part);
    }
}

/// Whether a body arrives at the least rate.
#[derive(Debug, Default)]
pub(super) struct Pace {
    window: Option<Pin<Box<Sleep>>>,
    in_window: u64,
    /// When the last piece was handed out, until the next one is asked for.
    handed_out: Option<Instant>,
}

impl Pace {
    pub(super) fn received(&mut self, bytes: u64) {
        self.in_window += bytes;
        self.handed_out = Some(Instant::now());
    }

    /// Begins a new window.
    pub(super) fn restart(&mut self) {
        self.in_window = WINDOW_BYTES;
    }

    /// To be polled while no byte is there; ready when too few came for too long.
    pub(super) fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        // Taken, so that the window's own end, which polls as well, is no pause of ours.
        let pause = self.handed_out.take().map_or(Duration::ZERO, |since| now - since);
        let window = self.window.get_or_insert_with(|| Box::pin(tokio::time::sleep(WINDOW)));
        if self.in_window >= WINDOW_BYTES {
            self.in_window = 0;
            window.as_mut().reset(now + WINDOW);
        } else if pause > OWN_PAUSE && window.deadline() <= now {
            // Nobody asked for bytes in between: the client may have had them ready.
            window.as_mut().reset(now + OWN_PAUSE);
        }
        window.as_mut().poll(cx)
    }
}

/// What actix reads, at the least rate.
pub(crate) struct Paced {
    payload: Payload,
    received: Arc<AtomicU64>,
    /// Where the connection learns how far the reading is.
    slot: Option<Rc<Slot>>,
    pace: Pace,
}

impl Paced {
    async fn collect(mut self, max: usize) -> Result<Option<Bytes>, BodyError> {
        let mut whole = BytesMut::new();
        while let Some(piece) = self.next().await {
            let piece = piece?;
            if whole.len() + piece.len() > max {
                return Ok(None);
            }
            whole.extend_from_slice(&piece);
        }
        Ok(Some(whole.freeze()))
    }
}

impl Stream for Paced {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        match Pin::new(&mut this.payload).poll_next(cx) {
            Poll::Ready(Some(Ok(piece))) => {
                this.received.fetch_add(piece.len() as u64, Ordering::Relaxed);
                this.pace.received(piece.len() as u64);
                if let Some(slot) = &this.slot {
                    slot.receiving(Receiving::Behind);
                }
                Poll::Ready(Some(Ok(piece)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(BodyError::Broken(error)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                if let Some(slot) = &this.slot {
                    slot.receiving(Receiving::Drained);
                }
                this.pace.poll_late(cx).map(|()| Some(Err(BodyError::Slow)))
            }
        }
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        if let Some(slot) = &self.slot {
            slot.receiving(Receiving::Nothing);
        }
    }
}
