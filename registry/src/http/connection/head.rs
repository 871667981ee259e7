//! Where a request's head ends, what it says, and how its body is framed.
//!
//! A head is taken in one form only, which cannot be read in two ways: lines that end with CR LF, no
//! folded ones, tokens for names, one field at the most that frames the body. What is not in it is
//! refused, however much of it has arrived. Source: RFC 9112 §2.2, §3, §5, §6.

use actix_http::Request;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{Method, Uri, Version};
use bytes::Bytes;

/// Longest head.
const HEAD_BYTES_MAX: usize = 32 << 10;

/// Most fields of a head. Clients send about ten, and proxies add as many.
const FIELDS_MAX: usize = 96;

/// How a request's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
}

/// Where a head ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Behind so many bytes, the empty line among them.
    At(usize),
    /// More bytes are needed.
    NotYet,
    /// This is no head, for this reason.
    Never(&'static str),
}

/// A request without its body.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) request: Request,
    pub(super) framing: Framing,
    /// The client wants to go on with the connection.
    pub(super) keep_alive: bool,
    /// The client waits for a word before it sends the body.
    pub(super) expects_continue: bool,
}

/// Looks for the end of a head at the beginning of `bytes`.
pub(super) fn end(bytes: &[u8]) -> End {
    let mut at = 0;
    while let Some(length) = bytes[at..].iter().position(|byte| *byte == b'\n') {
        let Some(line) = bytes[at..=at + length].strip_suffix(b"\r\n") else {
            return End::Never("a line of its head does not end with CR LF");
        };
        if at + length >= HEAD_BYTES_MAX {
            return End::Never(TOO_LONG);
        }
        match line {
            [] => return End::At(at + length + 1),
            line if at == 0 && !is_printable(line) => return End::Never(NOT_HTTP),
            line if line.contains(&b'\r') => return End::Never("a line of its head has a bare CR"),
            _ => {}
        }
        at += length + 1;
    }
    // What will never be a request is refused at once and not when its time is up.
    if at == 0 {
        let start = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
        if !is_printable(start.strip_suffix(b"\r").unwrap_or(start)) {
            return End::Never(NOT_HTTP);
        }
    }
    if bytes.len() >= HEAD_BYTES_MAX { End::Never(TOO_LONG) } else { End::NotYet }
}

const NOT_HTTP: &str = "it is not HTTP/1";
const TOO_LONG: &str = "its head is longer than 32 KiB";

fn is_printable(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| (b' '..=b'~').contains(byte))
}

/// Reads a whole head.
///
/// # Errors
/// Why it is none.
pub(super) fn read(bytes: &Bytes) -> Result<Head, &'static str> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err("its head has more than 96 fields"),
        Err(httparse::Error::Version) => return Err("its version is neither 1.1 nor 1.0"),
        _ => return Err("its head is malformed"),
    }
    let mut request = Request::new();
    let head = request.head_mut();
    let method = parsed.method.unwrap_or_default();
    head.method = Method::from_bytes(method.as_bytes()).map_err(|_| "its method is malformed")?;
    let target = parsed.path.unwrap_or_default();
    head.uri = Uri::try_from(target).map_err(|_| "its target is malformed")?;
    let new = parsed.version == Some(1);
    head.version = if new { Version::HTTP_11 } else { Version::HTTP_10 };
    let mut said = Said::default();
    for field in parsed.headers.iter() {
        let malformed = "a field of its head is malformed";
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| malformed)?;
        said.note(&name, field.value)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value));
        head.headers.append(name, value.map_err(|_| malformed)?);
    }
    if new && !said.host {
        return Err("it has no Host field");
    }
    if !new && said.framing == Some(Framing::Chunked) {
        return Err("its body is chunked, which its version does not know");
    }
    Ok(Head {
        request,
        framing: said.framing.unwrap_or(Framing::None),
        keep_alive: said.keep_alive.unwrap_or(new),
        // In HTTP/1.0 it means nothing. Source: RFC 9110 §10.1.1.
        expects_continue: new && said.expects_continue,
    })
}

/// What the fields of a head say about the connection.
#[derive(Debug, Default)]
struct Said {
    framing: Option<Framing>,
    host: bool,
    keep_alive: Option<bool>,
    expects_continue: bool,
}

impl Said {
    fn note(&mut self, name: &HeaderName, value: &[u8]) -> Result<(), &'static str> {
        let mut options = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        let framing = match *name {
            header::CONTENT_LENGTH => Framing::Length(length(value)?),
            header::TRANSFER_ENCODING if value.trim_ascii().eq_ignore_ascii_case(b"chunked") => {
                Framing::Chunked
            }
            header::TRANSFER_ENCODING => return Err("its transfer coding is not chunked alone"),
            header::HOST if self.host => return Err("it has two Host fields"),
            header::HOST => {
                self.host = true;
                return Ok(());
            }
            header::CONNECTION => {
                let has =
                    |word: &[u8]| options.clone().any(|option| option.eq_ignore_ascii_case(word));
                if has(b"close") {
                    self.keep_alive = Some(false);
                } else if has(b"keep-alive") && self.keep_alive.is_none() {
                    self.keep_alive = Some(true);
                }
                return Ok(());
            }
            header::EXPECT => {
                self.expects_continue |=
                    options.any(|option| option.eq_ignore_ascii_case(b"100-continue"));
                return Ok(());
            }
            _ => return Ok(()),
        };
        match self.framing.replace(framing) {
            None => Ok(()),
            Some(_) => Err("two fields of its head frame the body"),
        }
    }
}

/// A `Content-Length`: digits alone, and no more than any body has.
fn length(value: &[u8]) -> Result<u64, &'static str> {
    let digits = value.trim_ascii();
    let plain = (1..=18).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).ok().filter(|_| plain);
    text.and_then(|text| text.parse().ok()).ok_or("its Content-Length is malformed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Head, &'static str> {
        match end(text.as_bytes()) {
            End::At(end) => {
                assert!(text[..end].ends_with("\r\n\r\n"));
                read(&Bytes::copy_from_slice(&text.as_bytes()[..end]))
            }
            End::NotYet => panic!("{text:?} is complete"),
            End::Never(why) => Err(why),
        }
    }

    fn framing(fields: &str) -> Result<Framing, &'static str> {
        let text = format!("PUT /v2/ HTTP/1.1\r\nHost: x\r\n{fields}\r\nbody\r\n\r\n");
        parse(&text).map(|head| head.framing)
    }

    #[test]
    fn legal_heads_are_read() {
        assert_eq!(framing(""), Ok(Framing::None));
        assert_eq!(framing("content-LENGTH:  17 \r\n"), Ok(Framing::Length(17)));
        assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Ok(Framing::Chunked));
        for fields in [
            "Expect: 100-continue\r\nContent-Length: 0\r\n",
            "!#$%&'*+-.^_`|~0aZ: any token\r\nContent-Length: 0\r\n",
            "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: 0\r\n",
            "X: \u{e9}\t\u{80}\r\nContent-Length: 0\r\n",
            "X:\r\nContent-Length: 0\r\n",
        ] {
            assert_eq!(framing(fields), Ok(Framing::Length(0)), "{fields:?}");
        }
        for (text, keep_alive) in [
            ("get / HTTP/1.1\r\nHost: x\r\n\r\n", true),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: x\r\nConnection: x, Close\r\n\r\n", false),
            ("POST / HTTP/1.0\r\n\r\n", false),
            ("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", true),
            ("GET http://x/v2/ HTTP/1.1\r\nHost: x\r\n\r\n", true),
        ] {
            let head = parse(text).unwrap();
            assert_eq!((head.keep_alive, head.framing), (keep_alive, Framing::None), "{text:?}");
        }
        assert_eq!(parse("get /a HTTP/1.1\r\nHost: x\r\n\r\n").unwrap().request.path(), "/a");
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for fields in [
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length:\r\n",
            "Content-Length: 1234567890123456789\r\n",
            "Content-Length: 1\n",
            "X: a\r\n Content-Length: 1\r\n",
            "X: a\rContent-Length: 1\r\n",
            "X: \u{0}\r\n",
            "Host: y\r\n",
            "no colon\r\n",
            ": no name\r\n",
            "X(: no token\r\n",
        ] {
            assert!(framing(fields).is_err(), "{fields:?}");
        }
        for text in [
            "\n\n",
            "GET / HTTP/1.1\nHost: x\n\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET / HTTP/2.0\r\nHost: x\r\n\r\n",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "\x16\x03\x01",
            // The same however much of it is there.
            "GET /\0 HTTP/1.1\r\nX: a",
            "GET /\0 HTTP/1.1\r",
            "GET /\ra",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert_eq!(end(&[b'A'; HEAD_BYTES_MAX]), End::Never(TOO_LONG));
        let long = format!("GET / HTTP/1.1\r\n{}: a\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
        assert_eq!(end(long.as_bytes()), End::Never(TOO_LONG));
        let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: a\r\n".repeat(FIELDS_MAX));
        assert!(parse(&many).is_err());
    }

    #[test]
    fn a_part_of_a_head_is_waited_for() {
        let text = b"PUT / HTTP/1.1\r\nContent-Length: 123\r\nA: b\r\n\r\n";
        for length in 0..text.len() {
            assert_eq!(end(&text[..length]), End::NotYet, "{length}");
        }
        assert_eq!(end(text), End::At(text.len()));
    }
}
