//! Where requests begin and end on a connection.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::ReadBuf;

use super::Direct;
use super::body::Reader;
use super::head::{self, Framing, Head, Parsed};
use crate::http::socket::Socket;

/// Bodies of fewer bytes are actix's: they arrive with their head.
const DIRECT_BYTES_MIN: u64 = 64 << 10;

/// What `Transfer-Encoding` is called in a head whose body actix must not see.
const BLANKED_NAME: &[u8; 17] = b"X-Body-Is-Chunked";

/// What actix gets in place of a head that is too long: it answers 400 and ends the connection.
const REFUSED: &[u8] = b"\0";

/// What a connection's stream knows of the requests on it.
#[derive(Debug)]
pub(crate) struct Front {
    socket: Arc<Socket>,
    handover: Rc<Handover>,
    place: Place,
    /// Bytes that were read and that actix has not yet got. The first `admitted` are for it.
    held: Vec<u8>,
    admitted: usize,
    requests: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At a head.
    Head,
    /// In a head whose first part is held, with nothing unanswered before it.
    PartOfHead,
    /// In a body that actix reads, with so many bytes to come.
    Body(u64),
    /// In a body that a handler takes.
    Direct,
    /// Unknown, for the rest of the connection.
    Lost,
    /// Behind a head that is refused: the connection ends.
    Refused,
}

/// Where the stream leaves a body for the handler of its request.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    /// The body, and which of the connection's requests it belongs to.
    offered: RefCell<Option<(u64, Reader)>>,
    dispatched: Cell<u64>,
    answered: Cell<u64>,
    end: RefCell<End>,
    reader: RefCell<Option<Waker>>,
}

/// That a request is answered at present: until it is dropped, the next one is kept from actix.
#[derive(Debug)]
pub(crate) struct Turn(Rc<Handover>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.answered.set(self.0.answered.get() + 1);
        self.0.wake();
    }
}

/// How the taking of a body ended.
#[derive(Debug, Default)]
pub(super) enum End {
    #[default]
    NotYet,
    /// Whole, with what was read beyond it.
    Whole(Vec<u8>),
    /// Not whole: where the next request begins is not known any more.
    Broken,
}

impl Handover {
    /// Begins the request that is dispatched now. Gives its body, if that is taken past actix. To
    /// be called once for every request.
    pub(crate) fn begin(self: Rc<Self>) -> (Turn, Option<Direct>) {
        let request = self.dispatched.get() + 1;
        self.dispatched.set(request);
        let own = self.offered.borrow_mut().take_if(|(of, _)| *of == request);
        let body = own.map(|(_, reader)| Direct::new(reader, Rc::clone(&self)));
        (Turn(self), body)
    }

    /// Whether the connection must end because a body was not taken whole.
    pub(crate) fn is_broken(&self) -> bool {
        matches!(*self.end.borrow(), End::Broken)
    }

    pub(super) fn end(&self, end: End) {
        *self.end.borrow_mut() = end;
        self.wake();
    }

    /// The stream was not read from meanwhile, and nothing else would wake its task.
    fn wake(&self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }
}

impl Front {
    pub(crate) fn new(socket: Arc<Socket>) -> Self {
        Self {
            socket,
            handover: Rc::default(),
            place: Place::Head,
            held: Vec::new(),
            admitted: 0,
            requests: 0,
        }
    }

    pub(crate) fn handover(&self) -> Rc<Handover> {
        Rc::clone(&self.handover)
    }

    /// How many of the connection's requests reached their handlers.
    pub(crate) fn dispatched(&self) -> u64 {
        self.handover.dispatched.get()
    }

    /// Whether the connection's bytes are a handler's at present; `cx` is woken when they are not
    /// any more.
    pub(crate) fn is_handed_over(&mut self, cx: &Context<'_>) -> bool {
        if self.place != Place::Direct || self.admitted > 0 {
            return false;
        }
        let mut end = self.handover.end.borrow_mut();
        if let End::Whole(surplus) = &mut *end {
            self.held = std::mem::take(surplus);
            self.place = Place::Head;
            *end = End::NotYet;
            return false;
        }
        drop(end);
        self.wake_later(cx);
        true
    }

    fn wake_later(&self, cx: &Context<'_>) {
        *self.handover.reader.borrow_mut() = Some(cx.waker().clone());
    }

    /// Whether a request was let through that has no answer yet.
    ///
    /// actix decodes what it can read, and then answers the request before by what the last one
    /// asked for: the answer to a GET loses its body to a HEAD behind it.
    fn is_answering(&self) -> bool {
        self.requests > self.handover.answered.get()
    }

    /// Whether the beginning of a head waits for its rest.
    pub(crate) fn is_in_head(&self) -> bool {
        self.place == Place::PartOfHead
    }

    /// Whether a head was refused, so that bytes may be left that nobody reads.
    pub(crate) fn is_refused(&self) -> bool {
        self.place == Place::Refused
    }

    /// Whether the connection is actix's from here on.
    pub(crate) fn is_lost(&self) -> bool {
        self.place == Place::Lost
    }

    /// Reads what is actix's. Not to be called while the connection is handed over.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.admitted > 0 {
                let part = self.admitted.min(buffer.remaining());
                buffer.put_slice(&self.held[..part]);
                self.held.drain(..part);
                self.admitted -= part;
                return Poll::Ready(Ok(()));
            }
            if self.is_refused() || self.is_handed_over(cx) {
                return Poll::Pending;
            }
            if self.place == Place::Head && !self.held.is_empty() && self.is_answering() {
                self.wake_later(cx);
                return Poll::Pending;
            }
            if self.held.is_empty() {
                let start = buffer.filled().len();
                if ready!(self.socket.poll_read(cx, buffer))? == 0 {
                    return Poll::Ready(Ok(()));
                }
                let admitted = self.admit(&mut buffer.filled_mut()[start..]);
                if self.place != Place::Direct {
                    self.held.extend_from_slice(&buffer.filled()[start + admitted..]);
                }
                buffer.set_filled(start + admitted);
                if self.is_refused() {
                    self.held = REFUSED.to_vec();
                    self.admitted = REFUSED.len();
                }
                if admitted > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                let mut held = std::mem::take(&mut self.held);
                if self.place == Place::PartOfHead {
                    match self.socket.poll_read(cx, &mut held) {
                        Poll::Ready(Ok(got)) if got > 0 => self.place = Place::Head,
                        // The end, in the middle of a head: nobody needs its beginning.
                        Poll::Ready(Ok(_)) => return Poll::Ready(Ok(())),
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Pending => {
                            self.held = held;
                            return Poll::Pending;
                        }
                    }
                }
                self.admitted = self.admit(&mut held);
                if matches!(self.place, Place::Direct | Place::Refused) {
                    held.truncate(self.admitted);
                }
                if self.is_refused() {
                    held.extend_from_slice(REFUSED);
                    self.admitted = held.len();
                }
                self.held = held;
            }
        }
    }

    /// Looks at bytes that were read. Gives how many of them are actix's. What follows them is
    /// part of a head, or must wait for an answer, or belongs to the body that was left for its
    /// handler.
    fn admit(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            match self.place {
                Place::Body(left) => {
                    let rest = bytes.len() - at;
                    let part = usize::try_from(left).map_or(rest, |left| left.min(rest));
                    at += part;
                    let left = left - part as u64;
                    self.place = if left == 0 { Place::Head } else { Place::Body(left) };
                }
                Place::Head if self.is_answering() => return at,
                Place::Head => match head::parse(&bytes[at..]) {
                    Parsed::Odd => self.place = Place::Lost,
                    Parsed::TooLong => self.place = Place::Refused,
                    Parsed::Partial => self.place = Place::PartOfHead,
                    Parsed::Plain(head) => {
                        let (head_bytes, rest) = bytes[at..].split_at_mut(head.length);
                        self.request(&head, head_bytes, rest);
                        at += head.length;
                    }
                },
                Place::PartOfHead | Place::Direct | Place::Refused => return at,
                Place::Lost => return bytes.len(),
            }
        }
        at
    }

    /// Sees to a request's body, of which `rest` may be the beginning.
    fn request(&mut self, head: &Head, head_bytes: &mut [u8], rest: &[u8]) {
        self.requests += 1;
        let field = &mut head_bytes[head.field.clone()];
        match head.framing {
            Framing::None | Framing::Length(0) => return,
            Framing::Length(length) if length < DIRECT_BYTES_MIN => {
                self.place = Place::Body(length);
                return;
            }
            Framing::Length(_) => field.fill(b'0'),
            Framing::Chunked => field.copy_from_slice(BLANKED_NAME),
        }
        let reader = Reader::new(Arc::clone(&self.socket), head.framing, rest.to_vec());
        *self.handover.offered.borrow_mut() = Some((self.requests, reader));
        self.place = Place::Direct;
    }
}
