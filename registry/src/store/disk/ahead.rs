//! What was just pushed is about to be pulled: what went past the page cache is read back into it, in
//! the background, while the rest of the push goes on.
//!
//! No more in a minute than a share of the memory at hand: nobody may pull it after all, and what
//! others pull often has to stay.

use std::collections::VecDeque;
use std::fs::File;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::Advice;

use super::memory;
use crate::failpoint::fail_point;

/// Bytes asked for at once: long enough to be read at the disk's full speed.
pub(super) const PART_BYTES: u64 = 16 << 20;

/// Bytes of one call: the kernel reads no more of it than it reads ahead by itself, and that is its
/// default.
const CALL_BYTES: u64 = 128 << 10;

/// Part of the memory at hand that is filled in a [`WINDOW`].
const SHARE: u64 = 4;
const WINDOW: Duration = Duration::from_secs(60);

/// Parts that wait for the disk at most; those beyond are left on it.
const QUEUE_MAX: usize = 256;

struct Part {
    file: File,
    from: u64,
    length: NonZeroU64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ahead {
    queue: SyncSender<Part>,
    /// What was asked for in the last window, and when.
    asked: Mutex<Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    parts: VecDeque<(Instant, u64)>,
    bytes: u64,
}

impl Ahead {
    /// Starts its thread; `None` if there can be none, which costs speed only.
    pub(super) fn start() -> Option<Self> {
        let (queue, parts) = sync_channel(QUEUE_MAX);
        let spawned = std::thread::Builder::new().name("read-ahead".into()).spawn(move || {
            read(&parts);
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread to read ahead: first pulls wait for the disk");
            return None;
        }
        Some(Self { queue, asked: Mutex::default() })
    }

    /// Has a part of a file read, if there is memory for it.
    pub(super) fn ask(&self, file: &File, from: u64, length: u64) {
        let Some(length) = NonZeroU64::new(length) else { return };
        if fail_point!("read-ahead", off) || !self.fits(length.get()) {
            return;
        }
        if let Ok(file) = file.try_clone() {
            // Full: the disk is busy with others'.
            let _ = self.queue.try_send(Part { file, from, length });
        }
    }

    fn fits(&self, bytes: u64) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.forget(Instant::now());
        if asked.bytes + bytes > memory::at_hand(Path::new("/")) / SHARE {
            return false;
        }
        asked.parts.push_back((Instant::now(), bytes));
        asked.bytes += bytes;
        true
    }
}

impl Asked {
    fn forget(&mut self, now: Instant) {
        while let Some((when, bytes)) = self.parts.front()
            && now.saturating_duration_since(*when) > WINDOW
        {
            self.bytes -= bytes;
            self.parts.pop_front();
        }
    }
}

fn read(parts: &Receiver<Part>) {
    while let Ok(Part { file, from, length }) = parts.recv() {
        let end = from + length.get();
        let step = usize::try_from(CALL_BYTES).unwrap_or(usize::MAX);
        for at in (from..end).step_by(step) {
            let length = NonZeroU64::new(CALL_BYTES.min(end - at));
            // Asks the disk and copies nothing; whoever pulls it meanwhile waits for the same pages.
            if let Err(error) = rustix::fs::fadvise(&file, at, length, Advice::WillNeed) {
                tracing::debug!(%error, "could not read ahead");
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_forgotten_after_a_while() {
        let (began, second) = (Instant::now(), Duration::from_secs(1));
        let mut asked = Asked::default();
        for (at, bytes) in [(0, 5), (30, 7)] {
            asked.parts.push_back((began + second * at, bytes));
            asked.bytes += bytes;
        }
        asked.forget(began + WINDOW);
        assert_eq!(asked.bytes, 12);
        asked.forget(began + WINDOW + second);
        assert_eq!(asked.bytes, 7);
    }
}
