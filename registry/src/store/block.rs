//! Memory that a file takes without a copy.

use std::sync::{Mutex, PoisonError};

/// Bytes of a whole block: few enough that many uploads at once stay small, enough that the disk
/// is not asked often.
pub(super) const BLOCK_BYTES: usize = 1 << 20;

/// What direct I/O wants of memory and offset, on every disk in use. Source: open(2), `O_DIRECT`.
const ALIGNMENT: usize = 4096;

/// Blocks kept for the next upload. More are given back to the system.
const SPARE_BLOCKS: usize = 8;

static SPARE: Mutex<Vec<Block>> = Mutex::new(Vec::new());

/// What arrived of an upload and is to be written at once.
#[derive(Debug)]
pub struct Block {
    memory: Box<[u8]>,
    /// Where its bytes begin: the first aligned place.
    start: usize,
    filled: usize,
    limit: usize,
}

impl Block {
    /// An empty one, of memory that was used before if there is some.
    pub fn take() -> Self {
        let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| {
            let memory = vec![0; BLOCK_BYTES + ALIGNMENT].into_boxed_slice();
            // A place that is not known to be aligned makes the disk refuse, and nothing worse.
            let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
            Self { memory, start, filled: 0, limit: BLOCK_BYTES }
        })
    }

    /// Gives its memory to the next upload.
    pub fn give_back(mut self) {
        self.filled = 0;
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_BLOCKS {
            spare.push(self);
        }
    }

    /// Makes an empty block end where a whole one would, in a file that has `offset` bytes.
    pub fn begin(&mut self, offset: u64) {
        let whole = BLOCK_BYTES as u64;
        self.limit = usize::try_from(whole - offset % whole).unwrap_or(BLOCK_BYTES);
    }

    /// Where the next bytes belong.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.memory[self.start + self.filled..self.start + self.limit]
    }

    /// Notes that so many bytes were put into the room.
    pub fn add(&mut self, bytes: usize) {
        self.filled = (self.filled + bytes).min(self.limit);
    }

    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.filled]
    }

    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Has its whole length, and so an aligned place in its file.
    pub(super) fn is_whole(&self) -> bool {
        self.filled == BLOCK_BYTES
    }

    pub fn clear(&mut self) {
        self.filled = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_where_a_whole_one_would() {
        let mut block = Block::take();
        for (offset, room) in
            [(0, BLOCK_BYTES), (1, BLOCK_BYTES - 1), ((3 << 20) + 4096, BLOCK_BYTES - 4096)]
        {
            block.begin(offset);
            assert_eq!(block.room().len(), room);
            assert_eq!(block.room().as_ptr().align_offset(ALIGNMENT), 0);
            block.add(room);
            assert_eq!(block.room().len(), 0);
            assert_eq!(block.is_whole(), offset == 0);
            block.clear();
        }
        block.give_back();
    }
}
