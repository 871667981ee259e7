//! A connection that can send files and that does not wait for ever.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::{Errno, ReadWriteFlags};
use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::{Job, Receiving, Slot, State, Warming};
use crate::http::receive::{Front, Handover};
use crate::http::socket::Socket;
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

/// Bytes taken from a client that does not read its answers. More would make actix spin.
const UNREAD_ANSWERS_BYTES: usize = 64 << 10;

/// How long a connection may stand still.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// From a request's first byte, or a connection's beginning, to the end of the head. actix times
    /// only a connection's first request, by a clock that ticks twice a second.
    pub(crate) head: Duration,
    /// For the client to take one byte of an answer; twice as long at the most. actix has no such
    /// limit.
    pub(crate) write: Duration,
    /// For a client to stop sending a body that is not wanted, once it has its answer.
    pub(crate) linger: Duration,
}

/// A connection of an HTTP client.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: Arc<Socket>,
    front: Front,
    slot: Rc<Slot>,
    limits: Limits,
    head: Option<Pin<Box<Sleep>>>,
    /// Requests that were dispatched before the head that is timed.
    dispatched: u64,
    stall: Option<Stall>,
    /// A write is blocked.
    blocked: bool,
    /// Bytes read since a write was blocked.
    read_while_blocked: usize,
    /// The client sends nothing any more.
    ended: bool,
    /// Until when a body that nobody took is read and dropped.
    linger: Option<Pin<Box<Sleep>>>,
}

/// Watches that blocked writes go on. It outlives them: a fast connection is blocked many times in
/// a second, and setting a timer each time costs more than looking back when it ends.
#[derive(Debug)]
struct Stall {
    timer: Pin<Box<Sleep>>,
    /// Something was written since the timer was set.
    moved: bool,
    /// Bytes that the client had not acknowledged when the timer was set.
    unacknowledged: u64,
}

impl Wire {
    /// `head_end` is when the first head must be complete.
    pub(crate) fn new(socket: Socket, head_end: Instant, limits: Limits) -> Self {
        let socket = Arc::new(socket);
        Self {
            front: Front::new(Arc::clone(&socket)),
            socket,
            slot: Rc::new(Slot::new()),
            limits,
            head: Some(Box::pin(tokio::time::sleep_until(head_end))),
            dispatched: 0,
            stall: None,
            blocked: false,
            read_while_blocked: 0,
            ended: false,
            linger: None,
        }
    }

    pub(crate) fn slot(&self) -> Rc<Slot> {
        Rc::clone(&self.slot)
    }

    pub(crate) fn handover(&self) -> Rc<Handover> {
        self.front.handover()
    }

    fn unblocked(&mut self) {
        self.blocked = false;
        self.read_while_blocked = 0;
        if let Some(stall) = &mut self.stall {
            stall.moved = true;
        }
    }

    /// Called where a write is blocked: fails once the client has taken nothing for too long, which
    /// is at most twice the limit.
    ///
    /// Progress is what the client acknowledged, not what the kernel took: it reports a socket
    /// writable only when a third of its buffer is free, which a slow reader reaches rarely.
    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.blocked = true;
        let limit = self.limits.write;
        let queued = |tcp: &TcpStream| sys::unacknowledged_bytes(tcp).unwrap_or(0);
        let stall = self.stall.get_or_insert_with(|| Stall {
            timer: Box::pin(tokio::time::sleep(limit)),
            moved: false,
            unacknowledged: queued(self.socket.tcp()),
        });
        while stall.timer.as_mut().poll(cx).is_ready() {
            let now = queued(self.socket.tcp());
            if !stall.moved && now >= stall.unacknowledged {
                return Poll::Ready(timed_out("the client takes no answer"));
            }
            stall.moved = false;
            stall.unacknowledged = now;
            stall.timer.as_mut().reset(Instant::now() + limit);
        }
        Poll::Pending
    }

    fn blocked<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        match self.poll_stall(cx) {
            Poll::Ready(error) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Sends the rest of the job, or as much of it as one turn allows.
    fn poll_job(&mut self, cx: &mut Context<'_>, job: &mut Job) -> Poll<io::Result<()>> {
        let turn_end = job.offset.saturating_add(TURN_BYTES);
        while job.offset < job.end {
            if job.offset >= turn_end {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if job.offset >= job.warm_until {
                ready!(poll_warm(cx, job));
            }
            match self.socket.tcp().poll_write_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => return self.blocked(cx),
            }
            let want = (job.warm_until.min(turn_end) - job.offset).min(job.end - job.offset);
            match send_part(&self.socket, job, want) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(sent) => {
                    job.offset += sent;
                    self.slot.sent.set(self.slot.sent.get() + sent);
                    self.unblocked();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what the socket has taken and kept.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.socket.is_plain() {
            return Poll::Ready(Ok(()));
        }
        loop {
            match self.socket.try_flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Poll::Ready(Err(error)),
                Ok(()) => {
                    self.unblocked();
                    return Poll::Ready(Ok(()));
                }
            }
            match self.socket.tcp().poll_write_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => return self.blocked(cx),
            }
        }
    }

    /// Tells that the client sends nothing any more, once the reader of the body has taken what came
    /// before: actix forgets what it has read and not yet handed on as soon as it knows.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended = true;
        if self.slot.body.get() == Receiving::Behind {
            *self.slot.drained.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads and drops what the client still sends: closing a socket with unread bytes resets it,
    /// and the client may lose the answer. Source: RFC 9112 §9.6.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let limit = self.limits.linger;
        let timer = self.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut dropped = vec![0; COPY_BYTES];
        loop {
            ready!(self.socket.tcp().poll_read_ready(cx))?;
            match self.socket.tcp().try_read(&mut dropped) {
                Ok(0) => return Poll::Ready(Ok(())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Times a request's head; `got` bytes were read for actix just now.
    fn poll_head(&mut self, cx: &mut Context<'_>, got: usize) -> Poll<io::Error> {
        let dispatched = self.front.dispatched();
        if self.slot.is_handling() || dispatched != self.dispatched {
            self.dispatched = dispatched;
            self.head = None;
        }
        // On a connection that is actix's, whatever comes while no handler runs is a head.
        let begun = self.front.is_in_head() || (self.front.is_lost() && got > 0);
        if self.head.is_none() && begun && !self.slot.is_handling() {
            self.head = Some(Box::pin(tokio::time::sleep(self.limits.head)));
        }
        let Some(timer) = &mut self.head else { return Poll::Pending };
        timer.as_mut().poll(cx).map(|()| timed_out("the request's head did not arrive"))
    }
}

fn timed_out(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

/// Sends up to `want` bytes from the job's offset, without blocking.
fn send_part(socket: &Socket, job: &mut Job, want: u64) -> io::Result<u64> {
    if socket.is_plain() && !job.copy {
        let tcp = socket.tcp();
        let mut offset = job.offset;
        let count = usize::try_from(want).unwrap_or(usize::MAX);
        let send = || Ok(rustix::fs::sendfile(tcp, &job.file, Some(&mut offset), count)?);
        match tcp.try_io(Interest::WRITABLE, send) {
            Ok(sent) => return Ok(sent as u64),
            // File systems that cannot: nothing was sent, so copying may begin here.
            Err(error) if cannot(&error) => job.copy = true,
            Err(error) => return Err(error),
        }
    }
    let mut buffer = [0; COPY_BYTES];
    let length = usize::try_from(want).unwrap_or(usize::MAX).min(COPY_BYTES);
    let read = job.file.read_at(&mut buffer[..length], job.offset)?;
    Ok(socket.try_write(&buffer[..read], false)? as u64)
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

/// Sees to it that the window at the job's offset is in memory.
fn poll_warm(cx: &mut Context<'_>, job: &mut Job) -> Poll<()> {
    if job.warming.is_none() {
        job.warming = warm(job, job.warm_until);
    }
    let Some(warming) = &mut job.warming else {
        job.warm_until = window_end(job, job.warm_until);
        return Poll::Ready(());
    };
    // A failed read shows itself when it is sent.
    let _ = ready!(Pin::new(&mut warming.task).poll(cx));
    job.warm_until = warming.until;
    // While this window is sent the next one is read.
    job.warming = warm(job, job.warm_until);
    Poll::Ready(())
}

fn window_end(job: &Job, start: u64) -> u64 {
    job.end.min(start + WINDOW_BYTES)
}

/// Has the window at `start` read on the pool, unless it is in memory.
fn warm(job: &Job, start: u64) -> Option<Warming> {
    let until = window_end(job, start);
    if start >= until || in_memory(&job.file, start, until) {
        return None;
    }
    let file = Arc::clone(&job.file);
    let task = tokio::task::spawn_blocking(move || {
        if let Err(error) = read_into_memory(&file, start, until) {
            tracing::debug!(%error, "could not read ahead of what is sent");
        }
    });
    Some(Warming { until, task })
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

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Nothing is lost by not reading: the end of the job wakes the task. Reading on would let
        // a client that pipelines and does not read make the dispatcher spin.
        if this.slot.is_sending() || this.read_while_blocked >= UNREAD_ANSWERS_BYTES {
            return Poll::Pending;
        }
        if this.ended {
            return this.poll_end(cx);
        }
        if this.front.is_handed_over(cx) {
            this.head = None;
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = this.front.poll_read(cx, buffer);
        let got = buffer.filled().len() - before;
        let receiving = this.slot.body.get() != Receiving::Nothing;
        match &read {
            Poll::Ready(Ok(())) if got == 0 => return this.poll_end(cx),
            // As an error it would end the handler in the middle of what it keeps of the body.
            Poll::Ready(Err(error))
                if receiving && error.kind() == io::ErrorKind::ConnectionReset =>
            {
                return this.poll_end(cx);
            }
            _ => {}
        }
        if this.blocked {
            this.read_while_blocked += got;
        }
        match this.poll_head(cx, got) {
            Poll::Ready(error) => Poll::Ready(Err(error)),
            Poll::Pending => read,
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.slot.state.get() == State::Poisoned {
            return Poll::Ready(Err(io::Error::other("a response was cut off")));
        }
        if this.slot.is_sending() && this.slot.sent.get() > 0 {
            return Poll::Ready(Err(io::Error::other("a response was about to be mixed up")));
        }
        // With a file behind it the head waits for the file's first bytes: two small packets
        // would meet Nagle's algorithm and the client's delayed acknowledgement.
        let more = this.slot.is_sending();
        loop {
            match this.socket.tcp().poll_write_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => return this.blocked(cx),
            }
            match this.socket.try_write(bytes, more) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(written) => {
                    this.unblocked();
                    return Poll::Ready(Ok(written));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.slot.state.get() {
            State::Free | State::Sent => return this.poll_rest(cx),
            State::Poisoned => {
                return Poll::Ready(Err(io::Error::other("a response was cut off")));
            }
            State::Sending => {}
        }
        let Some(mut job) = this.slot.job.borrow_mut().take() else { return Poll::Ready(Ok(())) };
        let sent = this.poll_job(cx, &mut job);
        match sent {
            Poll::Ready(Ok(())) => {
                this.slot.state.set(State::Sent);
                // The body waits in the same task.
                cx.waker().wake_by_ref();
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => *this.slot.job.borrow_mut() = Some(job),
        }
        sent
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let unread = this.front.handover().is_broken() || this.front.is_refused();
        if this.linger.is_none() {
            this.socket.end_writing();
            ready!(this.poll_rest(cx))?;
            match rustix::net::shutdown(this.socket.tcp(), Shutdown::Write) {
                Ok(()) if unread => {}
                Ok(()) | Err(Errno::NOTCONN) => return Poll::Ready(Ok(())),
                Err(errno) => return Poll::Ready(Err(errno.into())),
            }
        }
        this.poll_linger(cx)
    }
}
