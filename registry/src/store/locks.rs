//! One lock per digest, striped: publishing and removing the same bytes exclude each other.
//!
//! The records serialise facts, not files. Without this lock a collector that has committed "blob
//! removed" could unlink a file that a pusher has just published under the same name and been
//! acknowledged for.

use shared::Digest;
use tokio::sync::Mutex;

use super::DigestGuard;

/// More than threads that could ever wait at once, so that unrelated digests seldom meet.
const STRIPES: usize = 256;

/// Locks by digest. Held across the file's change *and* the change of the records.
#[derive(Debug)]
pub(super) struct DigestLocks {
    stripes: Vec<Mutex<()>>,
}

impl Default for DigestLocks {
    fn default() -> Self {
        Self { stripes: (0..STRIPES).map(|_| Mutex::new(())).collect() }
    }
}

impl DigestLocks {
    /// Waits for whoever works on `digest` (or on one that shares its stripe).
    pub(super) async fn lock(&self, digest: &Digest) -> DigestGuard<'_> {
        // The first byte of a hash is spread evenly; one stripe per value.
        let stripe = digest.hash().first().copied().map_or(0, usize::from);
        DigestGuard { _held: Some(self.stripes[stripe % STRIPES].lock().await) }
    }
}
