//! What a connection's task, its timer and its handlers tell each other.

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use super::State;
use super::socket::Socket;
use crate::http::server::Limits;
use crate::sys;

/// The least that is taken for progress of a body: so many bytes in each `limits.body`. There is no
/// limit on the whole request: layers are large and lines are slow.
const BODY_BYTES_MIN: u64 = 4 << 10;

/// How the taking of a request's body ended.
#[derive(Debug, Default)]
pub(super) enum Rest {
    /// It did not, or there was none.
    #[default]
    Nothing,
    /// Whole, with what was read beyond it.
    Surplus(BytesMut),
    /// Not whole: where the next request begins is not known any more.
    Unknown,
}

/// The one cell of a connection. It belongs to one thread.
#[derive(Debug)]
pub(crate) struct Link {
    state: Cell<State>,
    /// When the state began, or was last seen to go on.
    since: Cell<Instant>,
    /// Something was sent since then. Noted in place of the time: a fast connection sends many times
    /// in each second.
    moved: Cell<bool>,
    /// What the kernel held for the connection when that was last asked.
    queued: Cell<Option<u64>>,
    /// Bytes of the body since its time began anew, and how much of that time is over.
    arrived: Cell<u64>,
    waited: Cell<Duration>,
    /// The body comes too slowly.
    late: Cell<bool>,
    /// In which state the connection was when it had to go.
    dismissed: Cell<Option<State>>,
    /// Who waits for bytes of the body.
    reader: RefCell<Option<Waker>>,
    task: RefCell<Option<Waker>>,
    rest: RefCell<Rest>,
    socket: OnceCell<Arc<Socket>>,
}

impl Link {
    pub(super) fn new(state: State) -> Self {
        Self {
            state: Cell::new(state),
            since: Cell::new(Instant::now()),
            moved: Cell::default(),
            queued: Cell::default(),
            arrived: Cell::default(),
            waited: Cell::default(),
            late: Cell::default(),
            dismissed: Cell::default(),
            reader: RefCell::default(),
            task: RefCell::default(),
            rest: RefCell::default(),
            socket: OnceCell::new(),
        }
    }

    pub(super) fn state(&self) -> State {
        self.state.get()
    }

    pub(super) fn since(&self) -> Instant {
        self.since.get()
    }

    /// When the connection has stood still for too long.
    pub(super) fn end(&self, limits: &Limits) -> Instant {
        self.since.get() + self.state.get().limit(limits)
    }

    /// Begins a state, with its whole time before it.
    pub(super) fn enter(&self, state: State) {
        self.state.set(state);
        self.since.set(Instant::now());
        self.moved.set(false);
        self.queued.set(None);
    }

    /// Begins a state that has what is left of the time of the one before.
    pub(super) fn go_on_as(&self, state: State) {
        self.state.set(state);
    }

    pub(super) fn connected(&self, socket: &Arc<Socket>) {
        let _ = self.socket.set(Arc::clone(socket));
    }

    pub(super) fn socket(&self) -> Option<&Arc<Socket>> {
        self.socket.get()
    }

    /// Notes that something was sent.
    pub(super) fn moved(&self) {
        self.moved.set(true);
    }

    /// Whether the client went on since this was last asked. Its time begins anew then.
    ///
    /// Progress of an answer is what the client acknowledged, too, and not only what the kernel took:
    /// it reports a socket writable only when a third of its buffer is free, which a slow reader
    /// reaches rarely. Bytes of a body may have arrived below the mark at which its reader is woken.
    pub(super) fn went_on(&self) -> bool {
        let tcp = self.socket.get().map(|socket| socket.tcp());
        let went_on = match (self.state.get(), tcp) {
            (State::Sending, Some(tcp)) => {
                let queued = sys::unacknowledged_bytes(tcp).unwrap_or(0);
                let before = self.queued.replace(Some(queued));
                self.moved.take() | before.is_none_or(|before| queued < before)
            }
            (State::Receiving, Some(tcp)) => {
                let queued = rustix::io::ioctl_fionread(tcp).unwrap_or(0);
                let before = self.queued.replace(Some(queued)).unwrap_or(0);
                queued >= before + BODY_BYTES_MIN
            }
            _ => false,
        };
        if went_on {
            self.since.set(Instant::now());
        }
        went_on
    }

    /// Begins a request that has a body.
    pub(super) fn begin_body(&self) {
        self.arrived.set(0);
        self.waited.set(Duration::ZERO);
        self.late.set(false);
        self.leave(Rest::Unknown);
    }

    /// Begins to wait for a body's bytes; `taken` were read since the last time. Time in which nobody
    /// asked for bytes is not counted against the client.
    pub(super) fn receive(&self, taken: u64) {
        self.arrived.set(self.arrived.get() + taken);
        if self.arrived.get() >= BODY_BYTES_MIN {
            self.arrived.set(0);
            self.waited.set(Duration::ZERO);
        }
        self.enter(State::Receiving);
        self.since.set(self.since.get() - self.waited.get());
    }

    /// Ends that.
    pub(super) fn received(&self) {
        self.waited.set(self.since.get().elapsed());
        self.enter(State::Working);
    }

    /// Whether the body is too late; else `cx` is woken when it is.
    pub(super) fn is_late(&self, cx: &Context<'_>) -> bool {
        if !self.late.get() {
            *self.reader.borrow_mut() = Some(cx.waker().clone());
        }
        self.late.get()
    }

    /// Tells the reader of the body that it comes too slowly. Says `false` if that was told before.
    pub(super) fn tell_late(&self) -> bool {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        self.since.set(Instant::now());
        !self.late.replace(true)
    }

    /// Ends the connection where it is. If it is elsewhere by then, it ends with its answer.
    pub(super) fn dismiss(&self) {
        self.dismissed.set(Some(self.state.get()));
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// Whether the connection has to go with its answer.
    pub(super) fn is_dismissed(&self) -> bool {
        self.dismissed.get().is_some()
    }

    /// Whether the connection has to go at once.
    pub(super) fn is_over(&self) -> bool {
        let state = self.state.get();
        self.dismissed.get().is_some_and(|then| then == state || state == State::Resting)
    }

    pub(super) fn wake_later(&self, cx: &Context<'_>) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
    }

    pub(super) fn leave(&self, rest: Rest) {
        *self.rest.borrow_mut() = rest;
    }

    /// What became of the request's body.
    pub(super) fn take_rest(&self) -> Rest {
        self.rest.take()
    }
}
