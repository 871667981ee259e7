//! The chunked transfer coding. Source: RFC 9112 §7.1.

/// Longest line of a chunk's size with its extensions.
const LINE_BYTES_MAX: usize = 4 << 10;

/// Most bytes of trailer fields, which are read and dropped.
const TRAILER_BYTES_MAX: usize = 16 << 10;

/// Undoes the coding, piece by piece.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    state: State,
    /// Length of the line, or of the trailers, so far.
    line: usize,
    size: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// In the digits of a size; there must be one.
    #[default]
    Size,
    /// Behind the digits: blanks, then extensions.
    Blank,
    Extension,
    SizeEnd,
    Data,
    DataEnd(u8),
    /// At the beginning of a line of the trailers, in its name, in its value.
    TrailerStart,
    TrailerName,
    Trailer,
    TrailerEnd,
    LastEnd,
    Done,
    Malformed,
}

/// What [`Decoder::decode`] did to a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    /// Bytes of the body, now at the buffer's beginning.
    pub(super) body: usize,
    /// Bytes of the buffer that belonged to the coding; fewer than all only at the body's end.
    pub(super) used: usize,
}

impl Decoder {
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether what followed the last bytes of the body is not this coding.
    pub(super) fn is_malformed(&self) -> bool {
        self.state == State::Malformed
    }

    /// Bytes that must follow at the least before the body ends; 0 when none are needed.
    pub(super) fn least(&self) -> u64 {
        match self.state {
            State::Malformed => 0,
            State::Data => self.size.saturating_add(b"\r\n0\r\n\r\n".len() as u64),
            _ => 1,
        }
    }

    /// Takes the coding out of `buffer`, and stops at the body's end or where it is malformed.
    pub(super) fn decode(&mut self, buffer: &mut [u8]) -> Decoded {
        let (mut body, mut used) = (0, 0);
        while used < buffer.len() && !self.is_done() && !self.is_malformed() {
            if self.state == State::Data {
                let size = usize::try_from(self.size).unwrap_or(usize::MAX);
                let part = size.min(buffer.len() - used);
                buffer.copy_within(used..used + part, body);
                body += part;
                used += part;
                self.size -= part as u64;
                if self.size == 0 {
                    self.state = State::DataEnd(b'\r');
                }
                continue;
            }
            self.state = self.step(buffer[used]).unwrap_or(State::Malformed);
            used += 1;
        }
        Decoded { body, used }
    }

    fn step(&mut self, byte: u8) -> Option<State> {
        self.line += 1;
        let next = match (self.state, byte) {
            (State::Size, byte) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16)?;
                self.size = self.size.checked_mul(16)?.checked_add(u64::from(digit))?;
                State::Size
            }
            (State::Size, _) if self.line == 1 => return None,
            (State::Size | State::Blank | State::Extension, b'\r') => State::SizeEnd,
            (State::Size | State::Blank, b' ' | b'\t') => State::Blank,
            (State::Size | State::Blank, b';') => State::Extension,
            (State::Extension, byte) if is_text(byte) => State::Extension,
            (State::SizeEnd, b'\n') => {
                self.line = 0;
                if self.size == 0 { State::TrailerStart } else { State::Data }
            }
            (State::DataEnd(b'\r'), b'\r') => State::DataEnd(b'\n'),
            (State::DataEnd(b'\n'), b'\n') => {
                self.line = 0;
                State::Size
            }
            (State::TrailerStart, b'\r') => State::LastEnd,
            (State::TrailerName, b':') => State::Trailer,
            (State::TrailerStart | State::TrailerName, byte) if is_token(byte) => {
                State::TrailerName
            }
            (State::Trailer, b'\r') => State::TrailerEnd,
            (State::Trailer, byte) if is_text(byte) => State::Trailer,
            (State::TrailerEnd, b'\n') => State::TrailerStart,
            (State::LastEnd, b'\n') => State::Done,
            _ => return None,
        };
        let in_trailers = matches!(
            next,
            State::TrailerStart | State::TrailerName | State::Trailer | State::TrailerEnd
        );
        let most = if in_trailers { TRAILER_BYTES_MAX } else { LINE_BYTES_MAX };
        (self.line <= most).then_some(next)
    }
}

/// A byte of a field's value or of an extension.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

/// A byte of a field's name. Source: RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Whole = (Vec<u8>, Vec<u8>);

    /// Decodes `text` in pieces of `step` bytes. Gives the body and what follows it; an error when
    /// it is malformed.
    fn decode(text: &[u8], step: usize) -> Result<Option<Whole>, ()> {
        let mut decoder = Decoder::default();
        let (mut body, mut used) = (Vec::new(), 0);
        for piece in text.chunks(step) {
            let mut piece = piece.to_vec();
            let decoded = decoder.decode(&mut piece);
            if decoder.is_malformed() {
                return Err(());
            }
            body.extend_from_slice(&piece[..decoded.body]);
            used += decoded.used;
            if decoder.is_done() {
                return Ok(Some((body, text[used..].to_vec())));
            }
            assert_eq!(decoded.used, piece.len());
        }
        Ok(None)
    }

    #[test]
    fn chunks_become_a_body_however_they_are_cut() {
        let text = b"3\r\nabc\r\n00A;x=\"y\"\r\n0123456789\r\n0\r\nT: u\r\nV: w\r\n\r\nGET /";
        for step in 1..=text.len() {
            let (body, rest) = decode(text, step).unwrap().unwrap();
            assert_eq!(
                (body.as_slice(), rest.as_slice()),
                (b"abc0123456789".as_slice(), b"GET /".as_slice())
            );
            if step == 1 {
                continue;
            }
            for end in 0..text.len() - 5 {
                assert_eq!(decode(&text[..end], step).unwrap(), None);
            }
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        let long = format!("1;{}\r\n", "x".repeat(LINE_BYTES_MAX));
        let trailers = format!("0\r\n{}", "a: b\r\n".repeat(TRAILER_BYTES_MAX));
        for text in [
            "\r\n",
            "x\r\n",
            ";\r\n",
            "-1\r\n",
            "+1\r\na",
            "0x1\r\n",
            "1\na",
            "1\r\nab",
            "1\r\na\n",
            "10000000000000000\r\n",
            "0\r\n\n",
            "0\r\na: b\n",
            "1;a\n",
            "1 2\r\n",
            "1;\0\r\n",
            "0\r\n: a\r\n\r\n",
            "0\r\n a: b\r\n\r\n",
            "0\r\na: \0\r\n\r\n",
            // A request to whoever takes no trailers.
            "0\r\nGET /a:b HTTP/1.1\r\n\r\n",
            &long,
            &trailers,
        ] {
            for step in [1, text.len()] {
                assert_eq!(decode(text.as_bytes(), step), Err(()), "{text:?}");
            }
        }
    }
}
