//! What this folder reads, for [`crate::edge`]: beside actix's own decoder, because a request that
//! two servers see in different places is a smuggled one.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;

use actix_codec::Decoder as _;
use actix_http::ServiceConfig;
use actix_http::h1::{Codec, Message, MessageType};
use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;

use super::chunked::Decoder;
use super::head::{self, End, Framing, Head};
use super::requests::{Next, Requests};
use super::{Direct, Link, State, lock};

/// Bytes that stand for the byte 1 on a connection, so that a short input can have a long body. In
/// lines: actix panics at a field's name of 64 KiB.
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

/// What is a head is one to actix too, of the same length and with the same body, or one that it
/// refuses.
pub(crate) fn read_head(bytes: &[u8]) {
    let End::At(length) = head::end(bytes) else { return };
    assert!(bytes[..length].ends_with(b"\r\n\r\n") || length == 2);
    let Ok(head) = head::read(&Bytes::copy_from_slice(&bytes[..length])) else { return };
    let mut codec = actix();
    let mut text = BytesMut::from(&bytes[..length]);
    match codec.decode(&mut text) {
        Err(_) => return,
        Ok(Some(Message::Item(request))) => {
            assert!(text.is_empty(), "actix sees a shorter head");
            assert_eq!(line(&request), line(&head.request));
        }
        other => panic!("actix sees {other:?}"),
    }
    // It takes what follows for another protocol.
    if codec.message_type() == MessageType::Stream {
        return;
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

/// Method and target, and the number of header fields.
fn line(request: &actix_http::Request) -> (String, usize) {
    (format!("{} {}", request.method(), request.uri()), request.head().headers.len())
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

/// Requests on a connection are those that actix alone would have seen, wherever the bytes are cut.
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
        let run = RUNTIME.with(|(runtime, _)| runtime.block_on(run_connection(&pieces)));
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
    requests: Vec<((String, usize), Vec<u8>)>,
    /// The last request's body is not at its end.
    open: bool,
    refused: bool,
    /// What follows is none of HTTP's.
    left: bool,
}

impl Seen {
    fn by_actix_alone(bytes: &[u8]) -> Self {
        let (mut codec, mut bytes) = (actix(), BytesMut::from(bytes));
        let mut seen = Self::default();
        while !seen.refused && !seen.left {
            match codec.decode(&mut bytes) {
                Ok(Some(Message::Item(request))) => {
                    seen.requests.push((line(&request), Vec::new()));
                    seen.open = codec.message_type() != MessageType::None;
                    seen.left = codec.message_type() == MessageType::Stream;
                }
                Ok(Some(Message::Chunk(Some(piece)))) => seen.body(&piece),
                Ok(Some(Message::Chunk(None))) => seen.open = false,
                Ok(None) => break,
                Err(_) => seen.refused = true,
            }
        }
        seen
    }

    fn body(&mut self, piece: &[u8]) {
        if let Some((_, body)) = self.requests.last_mut() {
            body.extend_from_slice(piece);
        }
    }

    /// The requests that are whole to both are the same; neither sees one that the other has not
    /// seen unless the other ended the connection before.
    fn agrees_with(&self, other: &Self) {
        let whole = |seen: &Self| seen.requests.len() - usize::from(seen.open);
        let both = whole(self).min(whole(other));
        assert_eq!(self.requests[..both], other.requests[..both]);
        if other.left {
            return;
        }
        assert!(self.refused || other.refused || self.open == other.open, "{self:?} {other:?}");
        assert!(self.refused || whole(self) >= whole(other), "{self:?} {other:?}");
        assert!(other.refused || whole(self) <= whole(other), "{self:?} {other:?}");
    }
}

/// Reads a connection's requests, with their bodies, from bytes that come in these pieces.
async fn run_connection(pieces: &[&[u8]]) -> io::Result<Seen> {
    let (mut client, server) = UnixStream::pair()?;
    client.set_nonblocking(true)?;
    server.set_nonblocking(true)?;
    let server = std::net::TcpStream::from(OwnedFd::from(server));
    let socket = Arc::new(TcpStream::from_std(server)?.into());
    let mut requests = Requests::new(socket, Rc::new(Link::new(State::Silent)));
    let mut seen = Seen::default();
    let reading = async {
        loop {
            match requests.next().await? {
                Next::Request(head) => {
                    if !read_request(&mut requests, head, &mut seen).await {
                        seen.refused = true;
                        break;
                    }
                }
                Next::Refused(_) => {
                    seen.refused = true;
                    break;
                }
                Next::End => break,
            }
        }
        io::Result::Ok(())
    };
    let writing = async {
        for piece in pieces {
            // What nobody reads any more is lost.
            let _ = client.write_all(piece);
            // Lets the runtime look at the socket, and the other side read.
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        }
        // The end, so that the reading ends.
        client.shutdown(Shutdown::Write)
    };
    let (read, written) = tokio::join!(reading, writing);
    read.and(written)?;
    Ok(seen)
}

/// Whether the request has arrived whole.
async fn read_request(requests: &mut Requests, head: Head, seen: &mut Seen) -> bool {
    seen.requests.push((line(&head.request), Vec::new()));
    let body = requests.body(head.framing, head.expects_continue);
    seen.open = body.is_some();
    if let Some(body) = body {
        match read_body(body, seen).await {
            Ok(()) => seen.open = false,
            // The pieces have ended: more could have come.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return true,
            Err(_) => return false,
        }
    }
    requests.end_body()
}

async fn read_body(mut body: Direct, seen: &mut Seen) -> io::Result<()> {
    let (mut buffer, mut taken) = ([0; 5000], 0);
    loop {
        body.ready(taken).await.map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let reader = body.reader();
        let read = lock(&reader).read(&mut buffer);
        taken = match read {
            Ok(0) => return Ok(()),
            Ok(read) => {
                seen.body(&buffer[..read]);
                read as u64
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
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
        let mut legal = 0;
        for number in 0..INPUTS {
            let bytes = request(&mut Random::of(number)).into_bytes();
            if let End::At(length) = head::end(&bytes) {
                let head = head::read(&Bytes::copy_from_slice(&bytes[..length]));
                legal += u64::from(head.is_ok());
            }
            read_head(&bytes);
        }
        assert!((INPUTS / 4..INPUTS * 9 / 10).contains(&legal), "{legal}");
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
