//! Where a request's head ends, and how its body is framed.
//!
//! This is no second parser of HTTP: actix parses every head. What is looked for here is the end of
//! the head and the two fields that say where the request ends, and only in the one plain form that
//! cannot be read in two ways. Everything else is [`Parsed::Odd`] and left to actix. Source:
//! RFC 9112 §2.2, §5.1, §6.

use std::ops::Range;

/// Longest head. It must be less than 64 KiB: actix panics at a field's name of so many bytes.
const HEAD_BYTES_MAX: usize = 32 << 10;

/// How a request's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
}

/// A head in its plain form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Bytes of the head, with the empty line.
    pub(super) length: usize,
    pub(super) framing: Framing,
    /// The digits of the `Content-Length`, or the name of `Transfer-Encoding`.
    pub(super) field: Range<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// More bytes are needed.
    Partial,
    /// Not in the plain form; perhaps no head at all.
    Odd,
    /// Longer than any head may be.
    TooLong,
    Plain(Head),
}

/// Looks for a head at the beginning of `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let mut head = Head { length: 0, framing: Framing::None, field: 0..0 };
    let mut first = true;
    while let Some(length) = bytes[head.length..].iter().position(|byte| *byte == b'\n') {
        let start = head.length;
        head.length += length + 1;
        if head.length > HEAD_BYTES_MAX {
            break;
        }
        let Some(line) = bytes[start..head.length].strip_suffix(b"\r\n") else {
            return Parsed::Odd;
        };
        let plain = match (first, line) {
            (true, line) => is_request_line(line),
            (false, []) => return Parsed::Plain(head),
            (false, line) => read_field(&mut head, start, line).is_some(),
        };
        if !plain || line.contains(&b'\r') {
            return Parsed::Odd;
        }
        first = false;
    }
    // What will never be a request is refused at once and not when its time is up.
    let start = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    if first && !is_printable(start.strip_suffix(b"\r").unwrap_or(start)) {
        return Parsed::Odd;
    }
    if bytes.len() >= HEAD_BYTES_MAX { Parsed::TooLong } else { Parsed::Partial }
}

fn is_request_line(line: &[u8]) -> bool {
    line.ends_with(b" HTTP/1.1")
        && line[0].is_ascii_uppercase()
        && !line.starts_with(b"CONNECT ")
        && is_printable(line)
}

fn is_printable(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| (b' '..=b'~').contains(byte))
}

/// Notes what a header field says about the body. `None`: not plain.
fn read_field(head: &mut Head, start: usize, line: &[u8]) -> Option<()> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    // A blank before the colon or at the line's beginning is what smugglers use.
    if name.is_empty()
        || !name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
    {
        return None;
    }
    let framing = if name.eq_ignore_ascii_case(b"content-length") {
        let digits = value.trim_ascii();
        let at = start + colon + 1 + (value.len() - value.trim_ascii_start().len());
        head.field = at..at + digits.len();
        let short = (1..=18).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
        Framing::Length(std::str::from_utf8(digits).ok().filter(|_| short)?.parse().ok()?)
    } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
        head.field = start..start + colon;
        value.trim_ascii().eq_ignore_ascii_case(b"chunked").then_some(Framing::Chunked)?
    } else if name.eq_ignore_ascii_case(b"upgrade") {
        return None;
    } else {
        return Some(());
    };
    // One of the two, and once.
    let only = head.framing == Framing::None;
    head.framing = framing;
    only.then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing(fields: &str) -> Option<Framing> {
        let text = format!("PUT /v2/ HTTP/1.1\r\nHost: x\r\n{fields}\r\nbody\r\n\r\n");
        match parse(text.as_bytes()) {
            Parsed::Plain(head) => {
                assert!(
                    text[..head.length].ends_with("\r\n\r\n")
                        && text[head.length..].starts_with("body")
                );
                Some(head.framing)
            }
            Parsed::Odd | Parsed::TooLong => None,
            Parsed::Partial => panic!("{text:?} is complete"),
        }
    }

    #[test]
    fn plain_heads_are_understood() {
        assert_eq!(framing(""), Some(Framing::None));
        assert_eq!(framing("content-LENGTH:  17 \r\n"), Some(Framing::Length(17)));
        assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Some(Framing::Chunked));
        assert_eq!(
            framing("Expect: 100-continue\r\nContent-Length: 0\r\n"),
            Some(Framing::Length(0))
        );
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_odd() {
        for fields in [
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length:\r\n",
            "Content-Length: 1234567890123456789\r\n",
            "Content-Length: 1\n",
            "X: a\r\n Content-Length: 1\r\n",
            "X: a\rContent-Length: 1\r\n",
            "Upgrade: h2c\r\n",
            "no colon\r\n",
        ] {
            assert_eq!(framing(fields), None, "{fields:?}");
        }
        for text in [
            "\r\n\r\n",
            "\n\n",
            "GET / HTTP/1.0\r\n\r\n",
            "CONNECT x HTTP/1.1\r\n\r\n",
            "\x16\x03\x01",
            // The same however much of it is there.
            "GET /\0 HTTP/1.1\r\nX: a",
            "GET /\0 HTTP/1.1\r",
            "GET /\ra",
        ] {
            assert_eq!(parse(text.as_bytes()), Parsed::Odd, "{text:?}");
        }
        assert_eq!(parse(&[b'A'; HEAD_BYTES_MAX]), Parsed::TooLong);
        let long = format!("GET / HTTP/1.1\r\n{}: a\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
        assert_eq!(parse(long.as_bytes()), Parsed::TooLong);
    }

    #[test]
    fn a_part_of_a_head_is_waited_for() {
        let text = b"PUT / HTTP/1.1\r\nContent-Length: 123\r\nA: b\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(parse(&text[..end]), Parsed::Partial, "{end}");
        }
        let Parsed::Plain(head) = parse(text) else { panic!() };
        assert_eq!((&text[head.field.clone()], head.length), (b"123".as_slice(), text.len()));
    }
}
