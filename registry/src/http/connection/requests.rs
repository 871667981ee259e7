//! The requests of a connection, one by one.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};

use super::head::{self, End, Framing, Head};
use super::link::Rest;
use super::receive::Reader;
use super::socket::Socket;
use super::{Direct, Link, State};

/// What comes next on a connection.
pub(super) enum Next {
    Request(Head),
    /// What is no request, for this reason.
    Refused(&'static str),
    /// The client has ended the connection.
    End,
}

/// Where requests begin and end on a connection.
#[derive(Debug)]
pub(super) struct Requests {
    socket: Arc<Socket>,
    link: Rc<Link>,
    /// What was read and not used yet. Empty, it holds no memory: most connections rest.
    held: BytesMut,
}

impl Requests {
    pub(super) fn new(socket: Arc<Socket>, link: Rc<Link>) -> Self {
        Self { socket, link, held: BytesMut::new() }
    }

    /// Waits for the next request. The body of the one before must have ended.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(super) async fn next(&mut self) -> io::Result<Next> {
        loop {
            // Some clients put an empty line behind a body. Source: RFC 9112 §2.2.
            while self.held.starts_with(b"\r\n") {
                self.held.advance(2);
            }
            match head::end(&self.held) {
                End::At(length) => {
                    let bytes = self.held.split_to(length).freeze();
                    return Ok(head::read(&bytes).map_or_else(Next::Refused, Next::Request));
                }
                End::Never(why) => return Ok(Next::Refused(why)),
                End::NotYet if self.held.is_empty() => self.held = BytesMut::new(),
                End::NotYet => {}
            }
            if self.read().await? == 0 {
                return Ok(Next::End);
            }
            match self.link.state() {
                State::Silent => self.link.go_on_as(State::Head),
                State::Resting => self.link.enter(State::Head),
                _ => {}
            }
        }
    }

    async fn read(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.socket.poll_read(cx, &mut self.held)).await
    }

    /// The body of a request that was just read, if it has one.
    pub(super) fn body(&mut self, framing: Framing, expects_continue: bool) -> Option<Direct> {
        if let Framing::None | Framing::Length(0) = framing {
            return None;
        }
        let reader = Reader::new(Arc::clone(&self.socket), framing, self.held.split());
        Some(Direct::new(reader, Rc::clone(&self.link), expects_continue))
    }

    /// Sees to what is left of the last request's body. Says whether another request may follow.
    pub(super) fn end_body(&mut self) -> bool {
        match self.link.take_rest() {
            Rest::Nothing => true,
            Rest::Surplus(bytes) => {
                self.held = bytes;
                true
            }
            Rest::Unknown => false,
        }
    }

    /// What was read and is no part of a request.
    pub(super) fn held(&self) -> &[u8] {
        &self.held
    }
}
