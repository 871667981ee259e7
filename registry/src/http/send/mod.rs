//! Sending files by sendfile(2) from inside actix.
//!
//! A response body cannot write to its connection, and the connection does not know the response:
//! the two meet in a [`Slot`], which belongs to the connection. The body's first poll puts a job
//! (file, offset, length) there and then is pending. The dispatcher always flushes after it has
//! polled a body: first what is buffered, the response's head, then the stream's own
//! `poll_flush`, and there [`Wire`] sends the file. When nothing is left it wakes the task, and
//! the body's next poll says that it ends.
//!
//! The body has no size of its own to actix (`BodySize::Stream`) and the response carries
//! `Content-Length` (`no_chunking`), so the encoder frames and counts nothing. Nothing may poll
//! the body but the dispatcher: no `Compress`, no wrapper that buffers.
//!
//! With TLS the same job is read and encrypted in place of sendfile.
//!
//! Connections without a slot get an ordinary streamed body from the same [`FileBody`].

mod body;
mod wire;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::sync::Arc;
use std::task::Waker;

use tokio::task::JoinHandle;

pub(crate) use body::FileBody;
pub(crate) use wire::{Limits, Wire};

/// Bytes of a file that a body wants sent.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No body uses the slot.
    Free,
    /// A job waits or runs.
    Sending,
    /// The job is done and the body does not know yet.
    Sent,
    /// A body was dropped in the middle of its job: what follows on this connection would be read
    /// as the rest of that file.
    Poisoned,
}

/// Where one connection's stream and the bodies of its responses meet.
#[derive(Debug)]
pub(crate) struct Slot {
    job: RefCell<Option<Job>>,
    state: Cell<State>,
    /// Requests whose handler runs. While none does, the stream times how long a head takes.
    handling: Cell<u32>,
    /// Bytes of files sent by the job that runs, or ran last.
    sent: Cell<u64>,
    /// A request's body that is being received.
    body: Cell<Receiving>,
    /// Who waits for that body's reader to have taken everything.
    drained: RefCell<Option<Waker>>,
}

/// How far the reader of a request's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receiving {
    /// There is none, or nobody reads it any more.
    Nothing,
    /// Bytes may wait for it between here and the connection.
    Behind,
    /// It has taken all that there was.
    Drained,
}

impl Slot {
    pub(crate) fn new() -> Self {
        Self {
            job: RefCell::new(None),
            state: Cell::new(State::Free),
            handling: Cell::new(0),
            sent: Cell::new(0),
            body: Cell::new(Receiving::Nothing),
            drained: RefCell::new(None),
        }
    }

    /// Notes how far the reader of the body is.
    pub(crate) fn receiving(&self, state: Receiving) {
        self.body.set(state);
        if state != Receiving::Behind
            && let Some(waker) = self.drained.take()
        {
            waker.wake();
        }
    }

    /// Notes that a request's head is complete and its handler runs, until the guard is dropped.
    pub(crate) fn handling(self: std::rc::Rc<Self>) -> Handling {
        self.handling.set(self.handling.get() + 1);
        Handling(self)
    }

    fn is_handling(&self) -> bool {
        self.handling.get() > 0
    }

    fn is_sending(&self) -> bool {
        self.state.get() == State::Sending
    }
}

/// See [`Slot::handling`].
#[derive(Debug)]
pub(crate) struct Handling(std::rc::Rc<Slot>);

impl Drop for Handling {
    fn drop(&mut self) {
        self.0.handling.set(self.0.handling.get().saturating_sub(1));
    }
}
