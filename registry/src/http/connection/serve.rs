//! A connection's task.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use actix_http::ServiceConfig;
use actix_web::HttpResponse;
use actix_web::http::{Method, StatusCode, Version, header};
use rustix::io::Errno;
use rustix::net::Shutdown;
use shared::ErrorCode;
use tokio::net::TcpStream;

use super::crowd::{Crowd, Place};
use super::encode::{self, Framed};
use super::head::Head;
use super::requests::{Next, Requests};
use super::send::Sender;
use super::socket::Socket;
use super::{Link, State, watch};
use crate::http::body::Body;
use crate::http::error::ApiError;
use crate::http::server::Limits;
use crate::http::{self, Listener, is_probe};
use crate::tls::{self, Greeting, Tls};

/// Bodies up to here are sent in one piece with their head: a copy costs less than a system call.
pub(in crate::http) const JOINED_BYTES: usize = 16 << 10;

/// Bytes of what a client still sends that are dropped at once.
const DROPPED_BYTES: usize = 16 << 10;

/// How TLS begins: a record of type 22, version 3. Source: RFC 8446 §5.1.
const TLS_HELLO: &[u8] = b"\x16\x03";

/// What the connections of one thread have in common.
#[derive(Debug)]
pub(crate) struct Worker {
    state: Arc<http::State>,
    listener: Listener,
    tls: Option<Arc<Tls>>,
    limits: Limits,
    crowd: Rc<Crowd>,
    /// Knows the date.
    clock: ServiceConfig,
    stopping: std::cell::Cell<bool>,
}

impl Worker {
    /// For `connections` at once. Must be called on the thread.
    pub(crate) fn new(
        state: Arc<http::State>,
        listener: Listener,
        tls: Option<Arc<Tls>>,
        limits: Limits,
        connections: usize,
    ) -> Self {
        Self {
            state,
            listener,
            tls,
            limits,
            crowd: Rc::new(Crowd::new(connections)),
            clock: ServiceConfig::default(),
            stopping: std::cell::Cell::new(false),
        }
    }

    /// Ends connections as soon as they have no request to answer.
    pub(crate) fn stop(&self) {
        self.stopping.set(true);
        self.crowd.stop();
    }

    /// Serves a connection to its end.
    pub(crate) async fn serve(self: Rc<Self>, tcp: TcpStream) {
        let first = if self.tls.is_some() { State::Handshake } else { State::Silent };
        let Some(place) = self.crowd.admit(first) else { return };
        let peer = tcp.peer_addr().ok();
        let link = Rc::clone(place.link());
        let connection = pin!(async {
            if let Err(error) = self.run(tcp, peer, &place).await {
                tracing::debug!(peer = peer.map(address).map(tracing::field::display), %error, "a connection broke");
            }
        });
        watch::watched(&link, &self.limits, connection).await;
        match link.state() {
            State::Handshake => self.no_handshake(peer, &"it took too long"),
            State::Silent | State::Head | State::Resting => {
                if let Some(socket) = link.socket() {
                    socket.end_writing();
                    // What cannot be sent now is not worth waiting for.
                    let _ = socket.try_flush();
                }
            }
            State::Working | State::Receiving | State::Sending | State::Parting => {}
        }
    }

    async fn run(&self, tcp: TcpStream, peer: Option<SocketAddr>, place: &Place) -> io::Result<()> {
        // An answer's last, short packet must not wait for an acknowledgement.
        let _ = tcp.set_nodelay(true);
        let link = place.link();
        let socket = match &self.tls {
            None => Socket::from(tcp),
            // Apart, so that it takes no memory later.
            Some(tls) => match Box::pin(tls::accept(tls, tcp)).await? {
                Greeting::Done(stream) => {
                    link.go_on_as(State::Silent);
                    Socket::from(*stream)
                }
                Greeting::Silent => {
                    link.enter(State::Parting);
                    return Ok(());
                }
                Greeting::Failed(error, tcp) => {
                    self.no_handshake(peer, &error);
                    return part(&Socket::from(tcp), link, true).await;
                }
            },
        };
        let socket = Arc::new(socket);
        link.connected(&socket);
        let mut requests = Requests::new(Arc::clone(&socket), Rc::clone(link));
        let sender = Sender { socket: &socket, link };
        loop {
            let more = match requests.next().await? {
                // Apart, so that a connection that rests has no room for what it does not do.
                Next::Request(head) => {
                    Box::pin(self.answer(&mut requests, head, peer, place, sender)).await?
                }
                Next::Refused(why) => {
                    Box::pin(self.refuse(why, requests.held(), peer, sender)).await?;
                    false
                }
                // It has sent all, and has every answer.
                Next::End => return part(&socket, link, false).await,
            };
            if !more {
                break;
            }
            link.enter(State::Resting);
        }
        part(&socket, link, true).await
    }

    /// Answers a request. Says whether another one may follow.
    async fn answer(
        &self,
        requests: &mut Requests,
        head: Head,
        peer: Option<SocketAddr>,
        place: &Place,
        sender: Sender<'_>,
    ) -> io::Result<bool> {
        let Head { mut request, framing, keep_alive, expects_continue } = head;
        sender.link.enter(State::Working);
        request.head_mut().peer_addr = peer;
        let body = requests.body(framing, expects_continue);
        let (version, to_head) = (request.head().version, request.method() == Method::HEAD);
        let response = if place.probes_only() && !is_probe(request.path()) {
            drop(body);
            crowded()
        } else {
            http::dispatch(Arc::clone(&self.state), self.listener, request, body).await
        };
        let goes_on = requests.end_body()
            && keep_alive
            && !place.probes_only()
            && !sender.link.is_dismissed()
            && !self.stopping.get();
        self.send(response, version, to_head, !goes_on, sender).await?;
        Ok(goes_on)
    }

    async fn send(
        &self,
        response: HttpResponse<Body>,
        version: Version,
        to_head: bool,
        close: bool,
        sender: Sender<'_>,
    ) -> io::Result<()> {
        sender.link.enter(State::Sending);
        let (response, mut body) = response.into_parts();
        let framed = Framed { version, length: body.length(), close };
        let mut head = encode::head(&response, framed, &self.clock);
        if to_head {
            body.take_parts();
        }
        if let Some(bytes) = body.take_joined(JOINED_BYTES) {
            head.extend_from_slice(&bytes);
            body.sent = bytes.len() as u64;
        }
        let parts = body.take_parts();
        sender.answer(&head, parts, &mut body.sent).await
    }

    /// Answers what is no request.
    async fn refuse(
        &self,
        why: &'static str,
        what: &[u8],
        peer: Option<SocketAddr>,
        sender: Sender<'_>,
    ) -> io::Result<()> {
        let peer = peer.map(address).map(tracing::field::display);
        if what.starts_with(TLS_HELLO) {
            // Docker and containerd try it before they fall back, at every pull.
            tracing::debug!(peer, "a client speaks TLS, and this port does not");
        } else {
            tracing::debug!(peer, why, "refused what is no request");
        }
        let message = format!("this is not a request that can be answered: {why}");
        let error = ApiError::bad_request(ErrorCode::Unsupported, message);
        let response = error.into_reply().response;
        self.send(response, Version::HTTP_11, false, true, sender).await
    }

    fn no_handshake(&self, peer: Option<SocketAddr>, error: &dyn std::fmt::Display) {
        self.state.metrics().handshake_errors().inc();
        tracing::debug!(peer = peer.map(address).map(tracing::field::display), %error, "no TLS handshake");
    }
}

/// An address as people write it.
fn address(peer: SocketAddr) -> IpAddr {
    peer.ip().to_canonical()
}

/// The answer where only probes have a place.
fn crowded() -> HttpResponse<Body> {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::TooManyRequests,
        "the registry has as many connections as it may (limits.connections): try again",
    )
    .with_header(header::RETRY_AFTER, header::HeaderValue::from_static("5"))
    .into_reply()
    .response
}

/// Tells the client that nothing more comes. If `it_sends` still, that is read and dropped until it
/// has closed too: closing a socket with unread bytes resets it, and the client may lose the answer.
/// Source: RFC 9112 §9.6.
async fn part(socket: &Socket, link: &Link, it_sends: bool) -> io::Result<()> {
    link.enter(State::Parting);
    socket.end_writing();
    Sender { socket, link }.flush().await?;
    match rustix::net::shutdown(socket.tcp(), Shutdown::Write) {
        Err(Errno::NOTCONN) => return Ok(()),
        result => result?,
    }
    if !it_sends {
        return Ok(());
    }
    loop {
        poll_fn(|cx| socket.tcp().poll_read_ready(cx)).await?;
        match drop_some(socket.tcp()) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

fn drop_some(tcp: &TcpStream) -> io::Result<usize> {
    tcp.try_read(&mut [0; DROPPED_BYTES])
}
