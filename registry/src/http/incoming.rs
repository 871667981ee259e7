//! Request bodies: counted, and not waited for without end.

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
use super::send::{Receiving, Slot};

/// The slowest body that is waited for: [`WINDOW_BYTES`] in each [`WINDOW`], which a modem keeps
/// up with. There is no limit on the whole request: layers are large and lines are slow.
const WINDOW: Duration = Duration::from_secs(15);
const WINDOW_BYTES: u64 = 4 << 10;

/// Time between two polls that is the server's own, and not counted against the client.
const OWN_PAUSE: Duration = Duration::from_millis(200);

/// Why a body did not arrive.
#[derive(Debug)]
pub(crate) enum BodyError {
    Slow,
    Broken(PayloadError),
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
    payload: Payload,
    received: Arc<AtomicU64>,
    /// Where the connection learns how far the reading is.
    slot: Option<Rc<Slot>>,
    window: Option<Pin<Box<Sleep>>>,
    in_window: u64,
    /// When the last piece was handed out, until the next one is asked for.
    handed_out: Option<Instant>,
}

impl Incoming {
    /// `received` counts the bytes.
    pub(crate) fn new(payload: Payload, received: Arc<AtomicU64>, slot: Option<Rc<Slot>>) -> Self {
        let slot = slot.filter(|_| !matches!(payload, Payload::None));
        if let Some(slot) = &slot {
            slot.receiving(Receiving::Behind);
        }
        Self { payload, received, slot, window: None, in_window: 0, handed_out: None }
    }

    /// The whole body. `Ok(None)` beyond `max` bytes.
    pub(crate) async fn collect(mut self, max: usize) -> Result<Option<Bytes>, BodyError> {
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

impl Stream for Incoming {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        match Pin::new(&mut this.payload).poll_next(cx) {
            Poll::Ready(Some(Ok(piece))) => {
                this.received.fetch_add(piece.len() as u64, Ordering::Relaxed);
                this.in_window += piece.len() as u64;
                this.handed_out = Some(Instant::now());
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
                let now = Instant::now();
                // Taken, so that the window's own end, which polls as well, is no pause of ours.
                let pause = this.handed_out.take().map_or(Duration::ZERO, |since| now - since);
                let window =
                    this.window.get_or_insert_with(|| Box::pin(tokio::time::sleep(WINDOW)));
                if this.in_window >= WINDOW_BYTES {
                    this.in_window = 0;
                    window.as_mut().reset(now + WINDOW);
                } else if pause > OWN_PAUSE && window.deadline() <= now {
                    // Nobody asked for bytes in between: the client may have had them ready.
                    window.as_mut().reset(now + OWN_PAUSE);
                }
                match window.as_mut().poll(cx) {
                    Poll::Ready(()) => Poll::Ready(Some(Err(BodyError::Slow))),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(slot) = &self.slot {
            slot.receiving(Receiving::Nothing);
        }
    }
}
