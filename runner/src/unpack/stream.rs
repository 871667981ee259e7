//! The decoded bytes of a layer, hashed as they pass.

use std::io::Read;

use shared::{Algorithm, Digest, Hasher};

use super::decode::Decoder;
use super::report::Refusal;

/// One read brings up to this much; large enough that neither reads nor writes are many, small
/// enough to stay in the second-level cache between hashing and writing.
const BUFFER_BYTES: usize = 256 << 10;

pub(crate) const BLOCK: usize = 512;

/// Bytes of a tar in order, with their digest.
pub(crate) struct Stream<R: Read> {
    decoder: Decoder<R>,
    hasher: Hasher,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    passed: u64,
    bytes_max: u64,
}

impl<R: Read> Stream<R> {
    pub(crate) fn new(decoder: Decoder<R>, algorithm: Algorithm, bytes_max: u64) -> Self {
        Self {
            decoder,
            hasher: Hasher::new(algorithm),
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            passed: 0,
            bytes_max,
        }
    }

    /// How many bytes have been consumed.
    pub(crate) fn position(&self) -> u64 {
        self.passed - (self.end - self.start) as u64
    }

    /// Bytes that are at hand; none at the end.
    pub(crate) fn fill(&mut self) -> Result<&[u8], Refusal> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            self.refill()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn refill(&mut self) -> Result<bool, Refusal> {
        let count = self.decoder.read(&mut self.buffer[self.end..])?;
        self.hasher.update(&self.buffer[self.end..self.end + count]);
        self.end += count;
        self.passed += count as u64;
        if self.passed > self.bytes_max {
            return Err(super::limits::too_many_bytes(self.bytes_max));
        }
        Ok(count != 0)
    }

    pub(crate) fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.end - self.start);
        self.start += count;
    }

    /// The next 512 bytes; none at the end of the stream.
    pub(crate) fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Refusal> {
        if self.end - self.start < BLOCK {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            while self.end < BLOCK && self.refill()? {}
        }
        match self.end - self.start {
            0 => Ok(None),
            count if count < BLOCK => Err(too_short()),
            _ => {
                let mut block = [0; BLOCK];
                block.copy_from_slice(&self.buffer[self.start..self.start + BLOCK]);
                self.start += BLOCK;
                Ok(Some(block))
            }
        }
    }

    /// Hands `count` bytes to `sink`, piece by piece.
    pub(crate) fn copy(
        &mut self,
        mut count: u64,
        mut sink: impl FnMut(&[u8]) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        while count > 0 {
            let bytes = self.fill()?;
            if bytes.is_empty() {
                return Err(too_short());
            }
            let take = usize::try_from(count).unwrap_or(usize::MAX).min(bytes.len());
            sink(&bytes[..take])?;
            self.consume(take);
            count -= take as u64;
        }
        Ok(())
    }

    pub(crate) fn skip(&mut self, count: u64) -> Result<(), Refusal> {
        self.copy(count, |_| Ok(()))
    }

    /// Reads what follows the tar, which belongs to the digest, and answers digest and length.
    pub(crate) fn finish(mut self) -> Result<(Digest, u64), Refusal> {
        loop {
            let count = self.fill()?.len();
            if count == 0 {
                return Ok((self.hasher.finish(), self.passed));
            }
            self.consume(count);
        }
    }
}

fn too_short() -> Refusal {
    Refusal::new(super::report::RefusalKind::Starved, "the tar ends in the middle of an entry")
}
