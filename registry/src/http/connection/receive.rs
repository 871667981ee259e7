//! A body that is taken from its connection.

use std::future::poll_fn;
use std::io::{self, Read};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::BytesMut;
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::Link;
use super::chunked::Decoder;
use super::head::Framing;
use super::link::Rest;
use super::socket::Socket;
use crate::http::incoming::BodyError;

/// Bytes that are waited for before the pool is asked to take them, where so many are to come: it
/// takes them in few, long turns. They wait in the kernel, which makes room for them.
const LOW_WATER_BYTES: u64 = 256 << 10;

/// Bytes of a body that nobody wants that are dropped to keep its connection. They must have
/// arrived.
const DROPPED_BYTES_MAX: usize = 64 << 10;

/// What a client gets that waits for a word before it sends a body. Source: RFC 9110 §15.2.1.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A body that its handler takes from the connection.
///
/// Dropping it gives the connection back, if the body was read to its end or what is left of it is
/// short and there already, and else lets the connection end with the answer.
#[derive(Debug)]
pub(crate) struct Direct {
    socket: Arc<Socket>,
    reader: Arc<Mutex<Reader>>,
    link: Rc<Link>,
    length: Option<u64>,
    expects_continue: bool,
    low_water: u64,
}

impl Direct {
    pub(super) fn new(reader: Reader, link: Rc<Link>, expects_continue: bool) -> Self {
        link.begin_body();
        Self {
            socket: Arc::clone(&reader.socket),
            length: reader.left(),
            reader: Arc::new(Mutex::new(reader)),
            link,
            expects_continue,
            low_water: 1,
        }
    }

    /// The body's length, if the request gave it.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// Counts the body's bytes.
    pub(crate) fn count_into(&self, received: Arc<AtomicU64>) {
        lock(&self.reader).received = Some(received);
    }

    /// What the body's bytes are read from, without waiting.
    pub(crate) fn reader(&self) -> Arc<Mutex<Reader>> {
        Arc::clone(&self.reader)
    }

    /// Waits until there is something to read, be it the end; `taken` bytes were read since the
    /// last time.
    ///
    /// # Errors
    /// When the connection is broken, or the client too slow.
    pub(crate) async fn ready(&mut self, taken: u64) -> Result<(), BodyError> {
        let least = lock(&self.reader).least();
        if least == 0 || self.socket.has_decrypted() {
            return Ok(());
        }
        if std::mem::take(&mut self.expects_continue) {
            // It is the only thing to be sent. If it cannot be, the client goes on without it.
            let _ = self.socket.try_write(CONTINUE, false);
        }
        self.set_low_water(self.socket.to_come(least).min(LOW_WATER_BYTES));
        self.link.receive(taken);
        let ready = poll_fn(|cx| self.poll_ready(cx)).await;
        self.link.received();
        ready
    }

    /// With a low-water mark the worker is woken once for many packets.
    fn set_low_water(&mut self, bytes: u64) {
        if bytes != self.low_water {
            self.low_water = bytes;
            // Where it cannot be set there are more wake-ups.
            let _ = crate::sys::set_low_water(self.socket.tcp(), bytes);
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let tcp = self.socket.tcp();
        loop {
            match tcp.poll_read_ready(cx) {
                Poll::Pending if self.link.is_late(cx) => return Poll::Ready(Err(BodyError::Slow)),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(ready) => ready?,
            }
            match tcp.try_io(Interest::READABLE, || readable(tcp)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(Ok(result?)),
            }
        }
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        self.set_low_water(1);
        // Locked: it is read at this moment for a handler that was dropped.
        let rest = match self.reader.try_lock() {
            Ok(mut reader) => reader.end(),
            Err(_) => Rest::Unknown,
        };
        self.link.leave(rest);
    }
}

/// Whether the socket has as much as its low-water mark, or its end.
fn readable(tcp: &TcpStream) -> io::Result<()> {
    let mut fds = [PollFd::new(tcp, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut fds, Some(&at_once))? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    }
}

pub(crate) fn lock(reader: &Mutex<Reader>) -> MutexGuard<'_, Reader> {
    // A panic in the middle of a read leaves a body that is not done, and is treated so.
    reader.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a body's bytes, without its framing, and no further. `WouldBlock` when none are there.
#[derive(Debug)]
pub(crate) struct Reader {
    socket: Arc<Socket>,
    coding: Coding,
    /// What was read too early: at first behind the head, in the end behind the body.
    early: BytesMut,
    /// Counts the body's bytes.
    received: Option<Arc<AtomicU64>>,
}

#[derive(Debug)]
enum Coding {
    Length(u64),
    Chunked(Decoder),
}

impl Reader {
    pub(super) fn new(socket: Arc<Socket>, framing: Framing, early: BytesMut) -> Self {
        let coding = match framing {
            Framing::None => Coding::Length(0),
            Framing::Length(length) => Coding::Length(length),
            Framing::Chunked => Coding::Chunked(Decoder::default()),
        };
        Self { socket, coding, early, received: None }
    }

    fn left(&self) -> Option<u64> {
        match self.coding {
            Coding::Length(left) => Some(left),
            Coding::Chunked(_) => None,
        }
    }

    fn is_done(&self) -> bool {
        match &self.coding {
            Coding::Length(left) => *left == 0,
            Coding::Chunked(decoder) => decoder.is_done(),
        }
    }

    /// Bytes that the socket will hold at the least before the body ends; 0 when it is not needed.
    fn least(&self) -> u64 {
        match &self.coding {
            _ if !self.early.is_empty() || self.is_done() => 0,
            Coding::Length(left) => *left,
            Coding::Chunked(decoder) => decoder.least(),
        }
    }

    /// Reads what is there, framing and all.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.early.is_empty() {
            let part = self.early.split_to(self.early.len().min(buffer.len()));
            buffer[..part.len()].copy_from_slice(&part);
            return Ok(part.len());
        }
        match self.socket.recv(buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            received => Ok(received),
        }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.read_body(buffer)?;
        if let Some(received) = &self.received {
            received.fetch_add(read as u64, Ordering::Relaxed);
        }
        Ok(read)
    }
}

impl Reader {
    /// Drops what is there of the body, if it is not much.
    fn end(&mut self) -> Rest {
        let mut buffer = [0; 8 << 10];
        // Counted by reads: the framing of small chunks is many times as long as they are.
        for _ in 0..DROPPED_BYTES_MAX / buffer.len() {
            if self.is_done() || self.read_body(&mut buffer).is_err() {
                break;
            }
        }
        if self.is_done() { Rest::Surplus(self.early.split()) } else { Rest::Unknown }
    }

    /// Puts bytes before those that were read too early.
    fn put_back(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            let behind = std::mem::replace(&mut self.early, BytesMut::from(bytes));
            self.early.extend_from_slice(&behind);
        }
    }

    fn read_body(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.is_done() && !buffer.is_empty() {
            if matches!(&self.coding, Coding::Chunked(decoder) if decoder.is_malformed()) {
                let why = "the body's chunks are malformed";
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            let most = self.left().and_then(|left| usize::try_from(left).ok());
            let most = most.map_or(buffer.len(), |left| left.min(buffer.len()));
            let received = self.receive(&mut buffer[..most])?;
            let decoder = match &mut self.coding {
                Coding::Length(left) => {
                    *left -= received as u64;
                    return Ok(received);
                }
                Coding::Chunked(decoder) => decoder,
            };
            let decoded = decoder.decode(&mut buffer[..received]);
            self.put_back(&buffer[decoded.used..received]);
            if decoded.body > 0 {
                return Ok(decoded.body);
            }
        }
        Ok(0)
    }
}
