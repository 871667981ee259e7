//! Sending an answer: bytes from where they are, files by sendfile(2).
//!
//! With TLS a file is read and encrypted in place of sendfile.

use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use futures_util::StreamExt as _;
use rustix::io::{Errno, ReadWriteFlags};
use tokio::io::Interest;
use tokio::task::JoinHandle;

use super::Link;
use super::socket::Socket;
use crate::http::body::{FilePart, Part, StreamPart};
use crate::sys;

/// Bytes of a file sent before other connections of the worker have their turn.
const TURN_BYTES: u64 = 2 << 20;

/// Bytes that are made sure to be in memory before they are sent: a sendfile that reads the disk
/// blocks the whole worker.
const WINDOW_BYTES: u64 = 2 << 20;

/// Distance of the bytes that are probed where the kernel does not tell what is cached. Read-ahead
/// fills at least this much at a time.
const PROBE_BYTES: usize = 128 << 10;

/// The same where it does, for what is still being read.
const SPARSE_PROBE_BYTES: usize = 1 << 20;

/// Bytes copied at once where the kernel cannot send a file by itself.
const COPY_BYTES: usize = 64 << 10;

/// Bytes in memory that the kernel takes over before they can be sent. Of longer answers more would
/// be copied for each client that does not read, and a client with time is nobody's expense.
const UNSENT_BYTES_MAX: u64 = 128 << 10;

/// Sends on one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sender<'a> {
    pub(super) socket: &'a Socket,
    pub(super) link: &'a Link,
}

impl Sender<'_> {
    /// Sends an answer's body behind `head`, and counts the bytes of the body into `sent`.
    pub(super) async fn answer(
        self,
        head: &[u8],
        parts: Vec<Part>,
        sent: &mut u64,
    ) -> io::Result<()> {
        // With a body behind it the head waits for the body's first bytes: two small packets would
        // meet Nagle's algorithm and the client's delayed acknowledgement.
        let mut parts = parts.into_iter().peekable();
        self.write(head, parts.peek().is_some()).await?;
        while let Some(part) = parts.next() {
            let more = parts.peek().is_some();
            match part {
                Part::Bytes(bytes) => {
                    if bytes.len() as u64 > UNSENT_BYTES_MAX {
                        // Where it cannot be set the kernel holds more.
                        let _ = sys::set_unsent_limit(self.socket.tcp(), UNSENT_BYTES_MAX);
                    }
                    self.write(&bytes, more).await?;
                    *sent += bytes.len() as u64;
                }
                Part::File(part) => self.file(part, sent).await?,
                Part::Stream(part) => self.stream(part, more, sent).await?,
            }
        }
        self.flush().await
    }

    async fn write(self, mut bytes: &[u8], more: bool) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.socket.try_write(bytes, more) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    self.link.moved();
                }
                Err(error) => self.wait(error).await?,
            }
        }
        Ok(())
    }

    /// Sends what the socket has taken and kept.
    pub(super) async fn flush(self) -> io::Result<()> {
        while let Err(error) = self.socket.try_flush() {
            self.wait(error).await?;
        }
        Ok(())
    }

    /// Waits for room if that is all that there is none of.
    async fn wait(self, error: io::Error) -> io::Result<()> {
        match error.kind() {
            io::ErrorKind::WouldBlock => poll_fn(|cx| self.socket.tcp().poll_write_ready(cx)).await,
            io::ErrorKind::Interrupted => Ok(()),
            _ => Err(error),
        }
    }

    /// Sends what arrives from elsewhere. One that ends early, or fails, ends the connection: its
    /// length was announced.
    async fn stream(self, mut part: StreamPart, more: bool, sent: &mut u64) -> io::Result<()> {
        let mut left = part.length;
        while left > 0 {
            let piece =
                part.stream.next().await.unwrap_or(Err(io::ErrorKind::UnexpectedEof.into()))?;
            if piece.len() as u64 > left {
                return Err(io::ErrorKind::InvalidData.into());
            }
            left -= piece.len() as u64;
            self.write(&piece, more || left > 0).await?;
            *sent += piece.len() as u64;
        }
        Ok(())
    }

    async fn file(self, part: FilePart, sent: &mut u64) -> io::Result<()> {
        let mut job = Job::new(&part);
        let mut turn_end = job.offset.saturating_add(TURN_BYTES);
        while job.offset < job.end {
            if job.offset >= turn_end {
                tokio::task::yield_now().await;
                turn_end = job.offset.saturating_add(TURN_BYTES);
            }
            if job.offset >= job.warm_until {
                job.warm().await;
            }
            let want = (job.warm_until.min(turn_end) - job.offset).min(job.end - job.offset);
            match job.send_part(self.socket, want) {
                Ok(0) => {
                    part.tell_short(job.offset);
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(bytes) => {
                    job.offset += bytes;
                    *sent += bytes;
                    self.link.moved();
                }
                Err(error) => self.wait(error).await?,
            }
        }
        Ok(())
    }
}

/// Bytes of a file that are being sent.
#[derive(Debug)]
struct Job {
    file: Arc<File>,
    offset: u64,
    end: u64,
    /// Up to here the file was found in memory, or was read into it.
    warm_until: u64,
    /// The window behind that, while it is being read.
    warming: Option<Warming>,
    /// Set where the kernel does not send this file so: it is copied instead.
    copy: bool,
}

/// The pool reads a part of a file that was not in memory.
#[derive(Debug)]
struct Warming {
    until: u64,
    task: JoinHandle<()>,
}

impl Job {
    fn new(part: &FilePart) -> Self {
        Self {
            file: Arc::clone(&part.file),
            offset: part.offset,
            end: part.offset + part.length,
            warm_until: part.offset,
            warming: None,
            copy: false,
        }
    }

    /// Sends up to `want` bytes, without blocking. 0: the file has no more.
    fn send_part(&mut self, socket: &Socket, want: u64) -> io::Result<u64> {
        if socket.is_plain() && !self.copy {
            let tcp = socket.tcp();
            let mut offset = self.offset;
            let count = usize::try_from(want).unwrap_or(usize::MAX);
            let send = || Ok(rustix::fs::sendfile(tcp, &self.file, Some(&mut offset), count)?);
            match tcp.try_io(Interest::WRITABLE, send) {
                Ok(sent) => return Ok(sent as u64),
                // File systems that cannot: nothing was sent, so copying may begin here.
                Err(error) if cannot(&error) => self.copy = true,
                Err(error) => return Err(error),
            }
        }
        let mut buffer = [0; COPY_BYTES];
        let length = usize::try_from(want).unwrap_or(usize::MAX).min(COPY_BYTES);
        let read = self.file.read_at(&mut buffer[..length], self.offset)?;
        Ok(socket.try_write(&buffer[..read], false)? as u64)
    }

    /// Sees to it that the window at the offset is in memory.
    async fn warm(&mut self) {
        if self.warming.is_none() {
            self.warming = self.read_ahead(self.warm_until);
        }
        let Some(warming) = &mut self.warming else {
            self.warm_until = self.window_end(self.warm_until);
            return;
        };
        // A failed read shows itself when it is sent.
        let _ = (&mut warming.task).await;
        self.warm_until = warming.until;
        // While this window is sent the next one is read.
        self.warming = self.read_ahead(self.warm_until);
    }

    fn window_end(&self, start: u64) -> u64 {
        self.end.min(start + WINDOW_BYTES)
    }

    /// Has the window at `start` read on the pool, unless it is in memory.
    fn read_ahead(&self, start: u64) -> Option<Warming> {
        let until = self.window_end(start);
        if start >= until || in_memory(&self.file, start, until) {
            return None;
        }
        let file = Arc::clone(&self.file);
        let task = tokio::task::spawn_blocking(move || {
            if let Err(error) = read_into_memory(&file, start, until) {
                tracing::debug!(%error, "could not read ahead of what is sent");
            }
        });
        Some(Warming { until, task })
    }
}

fn cannot(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP))
}

/// Whether a range of the file can be sent without waiting for the disk.
fn in_memory(file: &File, start: u64, end: u64) -> bool {
    let probes = match sys::is_cached(file, start, end - start) {
        Ok(false) => return false,
        Ok(true) => SPARSE_PROBE_BYTES,
        Err(_) => PROBE_BYTES,
    };
    let mut byte = [0];
    (start..end).step_by(probes).all(|at| {
        let slice = io::IoSliceMut::new(&mut byte);
        match rustix::io::preadv2(file, &mut [slice], at, ReadWriteFlags::NOWAIT) {
            Ok(_) => true,
            // tmpfs does not know the flag, and needs no probe.
            Err(Errno::OPNOTSUPP) => true,
            Err(_) => false,
        }
    })
}

/// Reads a range of the file and copies it nowhere.
fn read_into_memory(file: &File, start: u64, end: u64) -> io::Result<()> {
    let nowhere = File::options().write(true).open("/dev/null")?;
    // The kernel reads further ahead then.
    rustix::fs::fadvise(file, start, None, rustix::fs::Advice::Sequential)?;
    let mut at = start;
    while at < end {
        let count = usize::try_from(end - at).unwrap_or(usize::MAX);
        if rustix::fs::sendfile(&nowhere, file, Some(&mut at), count)? == 0 {
            break;
        }
    }
    Ok(())
}
