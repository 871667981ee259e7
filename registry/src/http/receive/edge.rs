//! What this folder reads, for [`crate::edge`]: beside actix's own decoder, because a request that
//! the two see in different places is a smuggled one.

use std::future::poll_fn;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use actix_codec::Decoder as _;
use actix_http::ServiceConfig;
use actix_http::h1::{Codec, Message, MessageType};
use bytes::BytesMut;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use super::chunked::Decoder;
use super::front::{Front, Handover, Turn};
use super::head::{self, Framing, Parsed};
use super::{Direct, lock};

/// Bytes that stand for the byte 1 on a connection, so that a short input can have a body that is
/// taken past actix. In lines: actix panics at a field's name of 64 KiB, which oddly framed heads can
/// still give it.
const LONG: [u8; 16 << 10] = {
    let mut bytes = [b'x'; 16 << 10];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = b'\n';
        at += 64;
    }
    bytes
};

/// Most such bytes of one input: what is sent waits in the socket's buffer.
const LONG_MAX: usize = 7;

thread_local! {
    static RUNTIME: (actix_rt::Runtime, ServiceConfig) = {
        let runtime = actix_rt::Runtime::new().expect("a runtime");
        let config = runtime.block_on(async { ServiceConfig::default() });
        (runtime, config)
    };
}

/// actix's decoder, as a new connection has it.
fn actix() -> Codec {
    // Its clock is a task of the runtime.
    RUNTIME.with(|(_, config)| Codec::new(config.clone()))
}

/// A head in the plain form is one to actix too, of the same length and with the same body, or one
/// that it refuses.
pub(crate) fn read_head(bytes: &[u8]) {
    let Parsed::Plain(head) = head::parse(bytes) else { return };
    assert!(bytes[..head.length].ends_with(b"\r\n\r\n"));
    let mut codec = actix();
    let mut text = BytesMut::from(&bytes[..head.length]);
    match codec.decode(&mut text) {
        Err(_) => return,
        Ok(Some(Message::Item(_))) => assert!(text.is_empty(), "actix sees a shorter head"),
        other => panic!("actix sees {other:?}"),
    }
    let bodiless = matches!(head.framing, Framing::None | Framing::Length(0));
    let kind = if bodiless { MessageType::None } else { MessageType::Payload };
    assert_eq!(codec.message_type(), kind, "{:?}", head.framing);
    if let Framing::Length(length @ 1..4096) = head.framing {
        let mut body = BytesMut::from(&LONG[..=usize::try_from(length).unwrap_or_default()]);
        while let Ok(Some(Message::Chunk(Some(_)))) = codec.decode(&mut body) {}
        assert_eq!(body.len(), 1, "actix sees a body of another length");
    }
}

/// A chunked body is the same however it is cut, and the same to actix where both take it.
pub(crate) fn read_chunks(bytes: &[u8]) {
    let whole = decode(&[bytes]);
    for cut in 0..bytes.len().min(64) {
        let (start, end) = bytes.split_at(cut);
        assert_eq!(decode(&[start, end]), whole, "cut at {cut}");
    }
    let single: Vec<_> = bytes.chunks(1).collect();
    assert_eq!(decode(&single), whole, "cut everywhere");

    let Some((body, Some(used))) = whole else { return };
    let head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (mut codec, mut text) = (actix(), BytesMut::from(&head[..]));
    text.extend_from_slice(bytes);
    let mut seen = Vec::new();
    loop {
        match codec.decode(&mut text) {
            Ok(Some(Message::Item(_))) => {}
            Ok(Some(Message::Chunk(Some(piece)))) => seen.extend_from_slice(&piece),
            Ok(Some(Message::Chunk(None))) => break,
            Ok(None) => panic!("actix does not see the end"),
            // It takes no trailers.
            Err(_) => return,
        }
    }
    assert_eq!((seen, bytes.len() - text.len()), (body, used));
}

/// The body, and the length of the coding when its end was met; `None` when it is malformed.
fn decode(pieces: &[&[u8]]) -> Option<(Vec<u8>, Option<usize>)> {
    let mut decoder = Decoder::default();
    let (mut body, mut used) = (Vec::new(), 0);
    for piece in pieces {
        let mut piece = piece.to_vec();
        let decoded = decoder.decode(&mut piece);
        assert!(decoded.body <= decoded.used);
        body.extend_from_slice(&piece[..decoded.body]);
        used += decoded.used;
        if decoder.is_malformed() {
            return None;
        }
        if decoder.is_done() {
            return Some((body, Some(used)));
        }
        assert_eq!(decoded.used, piece.len());
        assert!(decoder.least() > 0);
    }
    Some((body, None))
}

/// Requests on a connection are those that actix alone would have seen, wherever the bytes are
/// cut, and one at a time while they are in the plain form.
pub(crate) fn read_connection(bytes: &[u8]) {
    let mut sent = Vec::new();
    let mut long = 0;
    for byte in bytes.iter().take(8 << 10) {
        match byte {
            1 if long < LONG_MAX => {
                sent.extend_from_slice(&LONG);
                long += 1;
            }
            byte => sent.push(*byte),
        }
    }
    let alone = Seen::by_actix_alone(&sent);
    let run = |most| {
        let pieces = cut(&sent, most);
        let run = RUNTIME.with(|(runtime, _)| runtime.block_on(Connection::run(&pieces)));
        run.expect("a pair of sockets")
    };
    let seen = [usize::MAX, 97, 7].map(run);
    for seen in &seen {
        seen.agrees_with(&alone);
    }
    assert!(seen.windows(2).all(|two| two[0] == two[1]), "{seen:?}");
}

/// Cuts `bytes` up to 48 times, at distances up to `most` that depend on them.
fn cut(bytes: &[u8], most: usize) -> Vec<&[u8]> {
    let mut state = bytes.iter().fold(most, |hash, byte| hash.wrapping_mul(31) ^ *byte as usize);
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    while pieces.len() < 48 && !rest.is_empty() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let length = if most == usize::MAX { most } else { 1 + (state >> 33) % most };
        let (piece, left) = rest.split_at(length.min(rest.len()));
        pieces.push(piece);
        rest = left;
    }
    if !rest.is_empty() {
        pieces.push(rest);
    }
    pieces
}

/// What became of a connection's bytes.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    /// Method and target, number of header fields, body.
    requests: Vec<(String, usize, Vec<u8>)>,
    /// The last request's body is not at its end.
    open: bool,
    refused: bool,
}

impl Seen {
    fn by_actix_alone(bytes: &[u8]) -> Self {
        let (mut codec, mut bytes) = (actix(), BytesMut::from(bytes));
        let mut seen = Self::default();
        loop {
            match codec.decode(&mut bytes) {
                Ok(Some(message)) => seen.note(message, codec.message_type()),
                Ok(None) => return seen,
                Err(_) => {
                    seen.refused = true;
                    return seen;
                }
            }
        }
    }

    fn note(&mut self, message: Message<actix_http::Request>, kind: MessageType) {
        match message {
            Message::Item(req) => {
                let line = format!("{} {}", req.method(), req.uri());
                self.requests.push((line, req.head().headers.len(), Vec::new()));
                self.open = kind != MessageType::None;
            }
            Message::Chunk(Some(piece)) => self.body(&piece),
            Message::Chunk(None) => self.open = false,
        }
    }

    fn body(&mut self, piece: &[u8]) {
        if let Some((.., body)) = self.requests.last_mut() {
            body.extend_from_slice(piece);
        }
    }

    /// The requests that are whole to both are the same; neither sees one that the other has not
    /// seen unless the other ended the connection before.
    fn agrees_with(&self, other: &Self) {
        let whole = |seen: &Self| seen.requests.len() - usize::from(seen.open);
        let both = whole(self).min(whole(other));
        assert_eq!(self.requests[..both], other.requests[..both]);
        assert!(self.refused || other.refused || self.open == other.open, "{self:?} {other:?}");
        assert!(self.refused || whole(self) >= whole(other), "{self:?} {other:?}");
        assert!(other.refused || whole(self) <= whole(other), "{self:?} {other:?}");
    }
}

/// A connection whose requests are answered as late as possible.
struct Connection {
    front: Front,
    handover: Rc<Handover>,
    codec: Codec,
    /// What was read for the codec.
    bytes: BytesMut,
    turn: Option<Turn>,
    direct: Option<Direct>,
    seen: Seen,
}

impl Connection {
    async fn run(pieces: &[&[u8]]) -> io::Result<Seen> {
        let (mut client, server) = UnixStream::pair()?;
        client.set_nonblocking(true)?;
        server.set_nonblocking(true)?;
        let server = std::net::TcpStream::from(OwnedFd::from(server));
        let front = Front::new(Arc::new(TcpStream::from_std(server)?.into()));
        let mut connection = Self {
            handover: front.handover(),
            front,
            codec: actix(),
            bytes: BytesMut::new(),
            turn: None,
            direct: None,
            seen: Seen::default(),
        };
        for piece in pieces {
            client.write_all(piece)?;
            connection.work().await;
        }
        Ok(connection.seen)
    }

    /// Until nothing happens any more.
    async fn work(&mut self) {
        let mut idle = 0;
        while idle < 2 && !self.seen.refused {
            // Lets the runtime look at the socket.
            tokio::task::yield_now().await;
            let worked = self.read().await | self.decode() | self.take();
            // The answer comes when nothing else happens any more.
            if worked || (idle == 1 && self.answer()) {
                idle = 0;
            } else {
                idle += 1;
            }
        }
    }

    async fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let mut buffer = ReadBuf::new(&mut buffer);
        poll_fn(|cx| {
            if !self.front.is_handed_over(cx) {
                let _ = self.front.poll_read(cx, &mut buffer);
            }
            Poll::Ready(())
        })
        .await;
        self.bytes.extend_from_slice(buffer.filled());
        !buffer.filled().is_empty()
    }

    fn decode(&mut self) -> bool {
        match self.codec.decode(&mut self.bytes) {
            Ok(Some(message)) => {
                let new = matches!(message, Message::Item(_));
                self.seen.note(message, self.codec.message_type());
                if new {
                    assert!(self.turn.is_none() || self.front.is_lost(), "two at a time");
                    let (turn, direct) = Rc::clone(&self.handover).begin();
                    self.turn = Some(turn);
                    self.seen.open |= direct.is_some();
                    self.direct = direct;
                }
                true
            }
            Ok(None) => false,
            Err(_) => {
                self.seen.refused = true;
                false
            }
        }
    }

    /// Takes some of a body that is not actix's.
    fn take(&mut self) -> bool {
        let Some(direct) = &self.direct else { return false };
        let (reader, mut buffer) = (direct.reader(), [0; 5000]);
        let read = lock(&reader).read(&mut buffer);
        match read {
            Ok(0) => {
                self.seen.open = false;
                self.direct = None;
                true
            }
            Ok(read) => {
                self.seen.body(&buffer[..read]);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(_) => {
                self.seen.refused = true;
                false
            }
        }
    }

    fn answer(&mut self) -> bool {
        !self.seen.open && self.turn.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::tests::{INPUTS, Random, input};

    const LINES: [&str; 5] = [
        "GET /v2/ HTTP/1.1\r\n",
        "HEAD /v2/a/tags/list HTTP/1.1\r\n",
        "PUT / HTTP/1.1\r\n",
        "POST /v2/a/blobs/uploads/ HTTP/1.1\r\n",
        "GET / HTTP/1.0\r\n",
    ];

    /// Fields that frame a body, and the body.
    const BODIES: [(&str, &str); 8] = [
        ("", ""),
        ("Content-Length: 0\r\n", ""),
        ("content-LENGTH:3\r\n", "abc"),
        ("Content-Length:  65536 \r\n", "\u{1}\u{1}\u{1}\u{1}"),
        ("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: Chunked\r\n", "3\r\nabc\r\n00A;x=\"y\"\r\n0123456789\r\n0\r\n\r\n"),
        (
            "transfer-encoding:chunked\r\n",
            "4000\r\n\u{1}\r\n4003 \r\n\u{1}abc\r\n00\r\nT: u\r\n\r\n",
        ),
        ("Content-Length: 4\r\n", "1\r\na\r\n0\r\n\r\n"),
    ];

    /// What smugglers and careless clients put between the fields.
    const FIELDS: [&str; 16] = [
        "Content-Length: 1\r\n",
        "Content-Length: +1\r\n",
        "Content-Length : 1\r\n",
        "Content-Length: 1, 1\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding:\u{b}chunked\r\n",
        "Expect: 100-continue\r\n",
        "Connection: close\r\n",
        "Upgrade: websocket\r\n",
        "Host: y\r\n",
        "X: a\r\n b\r\n",
        "X: a\n",
        "X: a\rContent-Length: 7\r\n",
        "X\r\n",
        "\u{0}: \u{7f}\r\n",
    ];

    fn pick<T: Copy>(random: &mut Random, of: &[T]) -> T {
        of[random.below(of.len())]
    }

    /// A request; every other one is odd.
    fn request(random: &mut Random) -> String {
        let (framing, body) = pick(random, &BODIES);
        let mut head = format!("{}Host: x\r\n{framing}", pick(random, &LINES[..4]));
        match random.below(8) {
            0 | 1 => head.push_str(pick(random, &FIELDS)),
            2 => head.insert_str(0, pick(random, &["\r\n", "\n", " ", "a"])),
            3 => return input(&[&format!("{head}\r\n{body}")], random.below(1 << 30) as u64),
            _ => {}
        }
        format!("{head}\r\n{body}")
    }

    #[test]
    fn heads_are_what_actix_sees() {
        let mut plain = 0;
        for number in 0..INPUTS {
            let bytes = request(&mut Random::of(number)).into_bytes();
            plain += u64::from(matches!(head::parse(&bytes), Parsed::Plain(_)));
            read_head(&bytes);
        }
        assert!((INPUTS / 4..INPUTS * 9 / 10).contains(&plain), "{plain}");
    }

    #[test]
    fn chunks_are_what_actix_sees_however_they_are_cut() {
        let mut whole = 0;
        for number in 0..INPUTS {
            let body = pick(&mut Random::of(number), &BODIES[4..7]).1.replace('\u{1}', "xx");
            let body = input(&[&body.replace("400", "")], number).into_bytes();
            whole += u64::from(matches!(decode(&[&body]), Some((_, Some(_)))));
            read_chunks(&body);
        }
        assert!((INPUTS / 20..INPUTS * 9 / 10).contains(&whole), "{whole}");
    }

    #[test]
    fn requests_are_those_that_actix_alone_would_see() {
        for number in 0..INPUTS / 20 {
            let mut random = Random::of(number);
            let several = (0..2 + random.below(3)).map(|_| request(&mut random));
            read_connection(several.collect::<String>().as_bytes());
        }
    }
}
