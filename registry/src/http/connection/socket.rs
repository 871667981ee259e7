//! The bytes of a client's connection, with TLS or without.
//!
//! Everything above this reads, writes and waits the same way. What is different with TLS: bytes
//! may wait inside this process on both sides, and the kernel cannot send files.

use std::io::{self, IoSlice, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio_rustls::rustls::ServerConnection;
use tokio_rustls::server::TlsStream;

use crate::failpoint::fail_point;

/// Bytes read at once where a head may be: most heads and small bodies fit.
const PIECE_BYTES: usize = 8 << 10;

/// Reads of a few KiB that may give nothing before others have their turn: records may be empty, and
/// a client could send them for ever.
const READS_MAX: usize = 64;

/// Encrypted bytes that a session may hold at the most: one record and what it is read with.
/// Source: RFC 8446 §5.2.
const HELD_BYTES_MAX: u64 = 32 << 10;

/// A connection whose handshake is done. Never blocks.
#[derive(Debug)]
pub(crate) struct Socket {
    tcp: TcpStream,
    /// Locked for as long as it takes to encrypt or decrypt what fits in a buffer: a body may be
    /// read on the pool while the worker writes. Apart: a plain connection has no room for it.
    tls: Option<Box<Mutex<ServerConnection>>>,
}

impl From<TcpStream> for Socket {
    fn from(tcp: TcpStream) -> Self {
        Self { tcp, tls: None }
    }
}

impl From<TlsStream<TcpStream>> for Socket {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        let (tcp, session) = stream.into_inner();
        Self { tcp, tls: Some(Box::new(Mutex::new(session))) }
    }
}

impl Socket {
    /// What carries the bytes, for waiting and for asking how it is.
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Whether the bytes on the wire are those that are read and written here.
    pub(crate) fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    fn session(&self) -> Option<MutexGuard<'_, ServerConnection>> {
        self.tls.as_ref().map(|tls| tls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads what is there; `WouldBlock` if nothing is, 0 at the end. To be called from anywhere.
    pub(crate) fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.session() {
            None => Asked(&self.tcp).read(buffer),
            Some(mut session) => decrypt(&mut session, &self.tcp, &mut Asked(&self.tcp), buffer),
        }
    }

    /// Appends what is there, on the connection's own task. Gives the number of bytes; 0 is the end.
    /// Takes no memory while nothing is there.
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        let mut piece = [0; PIECE_BYTES];
        loop {
            let read = match self.session() {
                None => self.tcp.try_read(&mut piece),
                Some(mut session) => {
                    decrypt(&mut session, &self.tcp, &mut Tried(&self.tcp), &mut piece)
                }
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.tcp.poll_read_ready(cx))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => {
                    return Poll::Ready(
                        read.inspect(|read| buffer.extend_from_slice(&piece[..*read])),
                    );
                }
            }
        }
    }

    /// Whether decrypted bytes wait, of which the kernel knows nothing.
    pub(crate) fn has_decrypted(&self) -> bool {
        let waiting = |mut session: MutexGuard<'_, ServerConnection>| {
            session.process_new_packets().is_ok_and(|state| state.plaintext_bytes_to_read() > 0)
        };
        self.session().is_some_and(waiting)
    }

    /// Of `bytes` that are to be read from here, those that have to come through the kernel yet.
    pub(crate) fn to_come(&self, bytes: u64) -> u64 {
        if self.is_plain() { bytes } else { bytes.saturating_sub(HELD_BYTES_MAX).max(1) }
    }

    /// Takes bytes; `WouldBlock` if it can take none. With `more` they may be kept until the next
    /// ones come.
    pub(crate) fn try_write(&self, bytes: &[u8], more: bool) -> io::Result<usize> {
        let Some(mut session) = self.session() else {
            let flags = if more { SendFlags::MORE } else { SendFlags::empty() };
            let send = || Ok(rustix::net::send(&self.tcp, bytes, SendFlags::NOSIGNAL | flags)?);
            return self.tcp.try_io(Interest::WRITABLE, send);
        };
        // It would be asked for ever to take none of them.
        if bytes.is_empty() && !fail_point!("zero-bytes", off) {
            return Ok(0);
        }
        loop {
            let taken = session.writer().write(bytes)?;
            if more && taken > 0 {
                return Ok(taken);
            }
            let sent = send_all(&mut session, &self.tcp);
            match sent.map_err(|error| (error.kind(), error)) {
                Err((io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted, _)) if taken > 0 => {}
                Err((_, error)) => return Err(error),
                Ok(()) => {}
            }
            if taken > 0 {
                return Ok(taken);
            }
        }
    }

    /// Sends what was kept; `WouldBlock` if not all of it can be.
    pub(crate) fn try_flush(&self) -> io::Result<()> {
        self.session().map_or(Ok(()), |mut session| send_all(&mut session, &self.tcp))
    }

    /// Puts the word behind what was written that nothing more will be. It has to be flushed.
    pub(crate) fn end_writing(&self) {
        if let Some(mut session) = self.session() {
            session.send_close_notify();
        }
    }
}

/// Reads what has arrived, by way of `from`, which does not block.
fn decrypt(
    session: &mut ServerConnection,
    tcp: &TcpStream,
    from: &mut dyn Read,
    buffer: &mut [u8],
) -> io::Result<usize> {
    for _ in 0..READS_MAX {
        match session.reader().read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The connection has ended without TLS's own word. Nothing is cut off unnoticed: HTTP
            // says itself where each message ends. Source: RFC 9112 §9.8.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
            read => return read,
        }
        session.read_tls(from)?;
        if let Err(error) = session.process_new_packets() {
            // The client may want to know why; if it cannot be told now, it is not.
            let _ = send_all(session, tcp);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

fn send_all(session: &mut ServerConnection, tcp: &TcpStream) -> io::Result<()> {
    while session.wants_write() {
        if session.write_tls(&mut Tried(tcp))? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

/// Reads and writes if tokio knows of something to read or of room, and lets it learn when there is
/// no more: waiting is possible then.
struct Tried<'a>(&'a TcpStream);

impl Read for Tried<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Tried<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Asks the kernel, whatever tokio knows.
struct Asked<'a>(&'a TcpStream);

impl Read for Asked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(self.0, buffer, RecvFlags::DONTWAIT)?.0)
    }
}
