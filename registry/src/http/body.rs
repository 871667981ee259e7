//! The one body type of this server's answers.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;

use super::send::FileBody;
use crate::observe::Exchange;

/// What an answer carries. Its exchange ends when it is dropped, which is when the answer was sent
/// or given up.
#[derive(Debug)]
pub(crate) struct Body {
    kind: Kind,
    exchange: Option<Box<Exchange>>,
}

#[derive(Debug)]
enum Kind {
    Bytes(Bytes),
    /// The answer to a HEAD: a length and no bytes. (`HttpResponse::finish` would announce 0.)
    Head(u64),
    File {
        body: FileBody,
        length: u64,
    },
    Pieces(Pieces),
}

/// Texts and parts of files, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    waiting: VecDeque<Piece>,
    length: u64,
    sent: u64,
}

#[derive(Debug)]
enum Piece {
    Text(Bytes),
    File { body: FileBody, length: u64 },
}

impl Pieces {
    pub(crate) fn text(&mut self, text: String) {
        self.length += text.len() as u64;
        self.waiting.push_back(Piece::Text(text.into()));
    }

    pub(crate) fn file(&mut self, body: FileBody, length: u64) {
        self.length += length;
        self.waiting.push_back(Piece::File { body, length });
    }

    /// Bytes in all.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    fn sent(&self) -> u64 {
        let begun = self.waiting.front().map_or(0, |piece| match piece {
            Piece::Text(_) => 0,
            Piece::File { body, length } => body.sent(*length),
        });
        self.sent + begun
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, io::Error>>> {
        loop {
            match self.waiting.front_mut() {
                None => return Poll::Ready(None),
                Some(Piece::Text(text)) => {
                    let text = std::mem::take(text);
                    self.sent += text.len() as u64;
                    self.waiting.pop_front();
                    return Poll::Ready(Some(Ok(text)));
                }
                Some(Piece::File { body, length }) => match ready!(Pin::new(body).poll_next(cx)) {
                    None => {
                        self.sent += *length;
                        self.waiting.pop_front();
                    }
                    some => return Poll::Ready(some),
                },
            }
        }
    }
}

impl Body {
    pub(crate) fn empty() -> Self {
        Self::from(Bytes::new())
    }

    pub(crate) fn head(length: u64) -> Self {
        Self { kind: Kind::Head(length), exchange: None }
    }

    /// The answer must carry `length` as its `Content-Length`.
    pub(crate) fn file(body: FileBody, length: u64) -> Self {
        Self { kind: Kind::File { body, length }, exchange: None }
    }

    /// The answer must carry their length as its `Content-Length`.
    pub(crate) fn pieces(pieces: Pieces) -> Self {
        Self { kind: Kind::Pieces(pieces), exchange: None }
    }

    /// The same as the answer to a HEAD.
    pub(crate) fn without_bytes(mut self) -> Self {
        self.kind = match self.kind {
            Kind::Bytes(ref bytes) => Kind::Head(bytes.len() as u64),
            Kind::Head(length) | Kind::File { length, .. } => Kind::Head(length),
            Kind::Pieces(ref pieces) => Kind::Head(pieces.length()),
        };
        self
    }

    pub(crate) fn logged(mut self, exchange: Box<Exchange>) -> Self {
        self.exchange = Some(exchange);
        self
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self { kind: Kind::Bytes(bytes), exchange: None }
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl MessageBody for Body {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        match &self.kind {
            Kind::Bytes(bytes) => BodySize::Sized(bytes.len() as u64),
            Kind::Head(length) => BodySize::Sized(*length),
            Kind::File { .. } | Kind::Pieces(_) => BodySize::Stream,
        }
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, io::Error>>> {
        let this = self.get_mut();
        match &mut this.kind {
            Kind::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Bytes(bytes) => {
                let bytes = std::mem::take(bytes);
                if let Some(exchange) = &mut this.exchange {
                    exchange.sent = bytes.len() as u64;
                }
                Poll::Ready(Some(Ok(bytes)))
            }
            Kind::Head(_) => Poll::Ready(None),
            Kind::File { body, .. } => Pin::new(body).poll_next(cx),
            Kind::Pieces(pieces) => pieces.poll_next(cx),
        }
    }

    fn try_into_bytes(self) -> Result<Bytes, Self> {
        Err(self)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let Some(exchange) = &mut self.exchange else { return };
        match &self.kind {
            Kind::File { body, length } => exchange.sent = body.sent(*length),
            Kind::Pieces(pieces) => exchange.sent = pieces.sent(),
            Kind::Bytes(_) | Kind::Head(_) => {}
        }
    }
}
