//! Request bodies: counted, and not waited for without end.

use std::io::{self, Read as _};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use actix_web::http::StatusCode;
use bytes::{Bytes, BytesMut};
use shared::ErrorCode;

use super::connection::{Direct, lock};
use super::error::ApiError;
use crate::content::{Content, ReceiveError, Writer};

/// Bytes of a small body read at once.
const PIECE_BYTES: usize = 64 << 10;

/// Why a body did not arrive.
#[derive(Debug)]
pub(crate) enum BodyError {
    Slow,
    Broken(io::Error),
}

impl From<io::Error> for BodyError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Slow => Self::new(
                StatusCode::REQUEST_TIMEOUT,
                ErrorCode::SizeInvalid,
                "the request's body arrives too slowly (limits.body); an upload can be resumed",
            ),
            BodyError::Broken(error) => {
                tracing::debug!(%error, "a request's body broke off");
                Self::body_broken()
            }
        }
    }
}

/// A request's body.
pub(crate) struct Incoming(Option<Direct>);

impl Incoming {
    /// A body, or none. `received` counts its bytes.
    pub(crate) fn new(body: Option<Direct>, received: Arc<AtomicU64>) -> Self {
        if let Some(body) = &body {
            body.count_into(received);
        }
        Self(body)
    }

    /// The body's length, if it is known.
    pub(crate) fn length(&self) -> Option<u64> {
        self.0.as_ref().map_or(Some(0), Direct::length)
    }

    /// The whole body. `Ok(None)` beyond `max` bytes.
    pub(crate) async fn collect(self, max: usize) -> Result<Option<Bytes>, BodyError> {
        let Some(body) = self.0 else { return Ok(Some(Bytes::new())) };
        collect(body, max).await
    }

    /// Appends the body to an upload; `length` is what it must have, where something else than its
    /// framing says so.
    pub(crate) async fn append_to(
        self,
        content: &Content,
        writer: Writer,
        length: Option<u64>,
    ) -> Result<Writer, ReceiveError<BodyError>> {
        let length = length.or(self.length());
        let Some(mut body) = self.0 else { return Ok(writer) };
        let reader = body.reader();
        let ready = async move |taken| body.ready(taken).await;
        content.receive(writer, length, reader, ready).await
    }
}

async fn collect(mut direct: Direct, max: usize) -> Result<Option<Bytes>, BodyError> {
    let (mut whole, mut piece, mut taken) = (BytesMut::new(), vec![0; PIECE_BYTES], 0);
    loop {
        direct.ready(taken).await?;
        let reader = direct.reader();
        let read = lock(&reader).read(&mut piece);
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
