//! The one body type of this server's answers.

use std::fs::File;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::observe::Exchange;

/// What an answer carries. Its exchange ends when it is dropped, which is when the answer was sent
/// or given up.
#[derive(Debug, Default)]
pub(crate) struct Body {
    /// Sent one after the other.
    parts: Vec<Part>,
    /// Bytes that the answer announces.
    length: u64,
    /// Bytes that were sent.
    pub(super) sent: u64,
    exchange: Option<Box<Exchange>>,
}

#[derive(Debug)]
pub(crate) enum Part {
    Bytes(Bytes),
    File(FilePart),
    Stream(StreamPart),
}

/// Bytes that arrive while they are sent, as many as that.
pub(crate) struct StreamPart {
    pub(crate) stream: BoxStream<'static, io::Result<Bytes>>,
    pub(crate) length: u64,
}

impl std::fmt::Debug for StreamPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamPart").field("length", &self.length).finish_non_exhaustive()
    }
}

/// Bytes of a file, which has that many.
pub(crate) struct FilePart {
    pub(crate) file: Arc<File>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    short: Rc<dyn Fn(u64)>,
}

impl FilePart {
    /// `length` bytes of `file` from `offset`. `short` is called if the file ends before them after
    /// all, with the place where it does.
    pub(crate) fn new(file: Arc<File>, offset: u64, length: u64, short: Rc<dyn Fn(u64)>) -> Self {
        Self { file, offset, length, short }
    }

    /// Tells that the file has ended at `offset`.
    pub(crate) fn tell_short(&self, offset: u64) {
        (self.short)(offset);
    }
}

impl std::fmt::Debug for FilePart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FilePart")
            .field("file", &self.file)
            .field("offset", &self.offset)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl Part {
    fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(part) => part.length,
            Self::Stream(part) => part.length,
        }
    }
}

impl Body {
    pub(crate) fn empty() -> Self {
        Self::default()
    }

    /// The answer to a HEAD: a length and no bytes.
    pub(crate) fn head(length: u64) -> Self {
        let mut body = Self::default();
        body.length = length;
        body
    }

    /// Several parts, in this order.
    pub(crate) fn parts(parts: Vec<Part>) -> Self {
        let length = parts.iter().map(Part::length).sum();
        let mut body = Self::head(length);
        body.parts = parts;
        body
    }

    pub(crate) fn logged(mut self, exchange: Box<Exchange>) -> Self {
        self.exchange = Some(exchange);
        self
    }

    /// Bytes that the answer announces.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// The whole body, if it is in memory and has up to `most` bytes.
    pub(crate) fn take_joined(&mut self, most: usize) -> Option<Bytes> {
        let bytes = match self.parts.as_slice() {
            [Part::Bytes(bytes)] if bytes.len() <= most => bytes.clone(),
            _ => return None,
        };
        self.parts.clear();
        Some(bytes)
    }

    pub(crate) fn take_parts(&mut self) -> Vec<Part> {
        std::mem::take(&mut self.parts)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(exchange) = &mut self.exchange {
            exchange.sent = self.sent;
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        match bytes.len() {
            0 => Self::empty(),
            _ => Self::parts(vec![Part::Bytes(bytes)]),
        }
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}
