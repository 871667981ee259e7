//! gzip, zstd or nothing: told by the first bytes, as Docker tells them, because media types lie.

use std::io::{self, BufReader, Chain, Cursor, Read};

use super::limits::{INFLATED_BYTES_FREE, INFLATED_RATIO, ZSTD_WINDOW_LOG_MAX};
use super::report::{Refusal, RefusalKind};

const INPUT_BUFFER_BYTES: usize = 256 << 10;

/// A blob's content, decoded while it is read, and never more of it than its size permits.
pub(crate) struct Decoder<R: Read> {
    content: Content<R>,
    inflated: u64,
}

/// The blob from its start: the bytes that were looked at, then the others.
type Input<R> = BufReader<Counted<Chain<Cursor<Vec<u8>>, R>>>;

enum Content<R: Read> {
    Plain(Input<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Input<R>>>),
    Zstd(zstd::stream::read::Decoder<'static, Input<R>>),
}

/// Counts the compressed bytes.
struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

impl<R: Read> Decoder<R> {
    pub(crate) fn new(mut inner: R) -> Result<Self, Refusal> {
        let mut start = Vec::with_capacity(4);
        inner.by_ref().take(4).read_to_end(&mut start).map_err(|e| compression(&e))?;
        let counted = Counted { inner: Cursor::new(start.clone()).chain(inner), bytes: 0 };
        let input = BufReader::with_capacity(INPUT_BUFFER_BYTES, counted);
        let content = match start[..] {
            [0x1f, 0x8b, ..] => {
                Content::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(input)))
            }
            // A zstd frame, or a skippable one in front of it.
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(input).map_err(|e| compression(&e))?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|e| compression(&e))?;
                Content::Zstd(decoder)
            }
            [b'B', b'Z', b'h', _] => return Err(unsupported("bzip2")),
            [0xfd, b'7', b'z', b'X'] => return Err(unsupported("xz")),
            _ => Content::Plain(input),
        };
        Ok(Self { content, inflated: 0 })
    }

    /// The next decoded bytes; none at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Refusal> {
        let (count, consumed) = match &mut self.content {
            Content::Plain(input) => (input.read(buffer), input.get_ref().bytes),
            Content::Gzip(decoder) => (decoder.read(buffer), decoder.get_ref().get_ref().bytes),
            Content::Zstd(decoder) => (decoder.read(buffer), decoder.get_ref().get_ref().bytes),
        };
        let count = count.map_err(|error| compression(&error))?;
        self.inflated += count as u64;
        let allowed = INFLATED_BYTES_FREE.saturating_add(consumed.saturating_mul(INFLATED_RATIO));
        if self.inflated > allowed {
            return Err(Refusal::limit(format!(
                "it inflates without end: {} bytes came out of {consumed} (limit: {} and {} for each \
                 compressed byte)",
                self.inflated, INFLATED_BYTES_FREE, INFLATED_RATIO
            )));
        }
        Ok(count)
    }
}

fn compression(error: &io::Error) -> Refusal {
    let kind = match error.kind() {
        io::ErrorKind::UnexpectedEof => RefusalKind::Starved,
        _ => RefusalKind::Compression,
    };
    Refusal::new(kind, format!("its compressed bytes are damaged: {error}"))
}

fn unsupported(name: &str) -> Refusal {
    Refusal::new(RefusalKind::Unsupported, format!("{name} layers are not supported"))
}
