//! Manifests on their way to clients. A client may be slow for minutes; it may not be expensive.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use shared::Digest;

use crate::failpoint::fail_point;
use crate::records::StoredManifest;

/// Manifests up to here are copied into the answer's head, and so are nobody's to hold.
const FREE_BYTES: usize = super::connection::JOINED_BYTES;

/// Manifests beyond this have three quarters of the room: a few that are hardly ever as long in
/// earnest must not keep all others from being pulled.
const LARGE_BYTES: usize = 256 << 10;

/// What is held until the last client that is being sent a manifest has it. Each manifest is held
/// once, however many clients take it.
#[derive(Debug)]
pub(crate) struct InFlight {
    most: usize,
    held: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    manifests: HashMap<Digest, Weak<Held>>,
    bytes: usize,
}

#[derive(Debug)]
struct Held {
    manifest: Arc<StoredManifest>,
    table: Arc<Mutex<Table>>,
}

/// One client's part.
struct Share(Arc<Held>);

impl AsRef<[u8]> for Share {
    fn as_ref(&self) -> &[u8] {
        &self.0.manifest.bytes
    }
}

impl InFlight {
    /// For `most` bytes.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, held: Arc::default() }
    }

    /// The manifest's bytes, to be sent. `None`: too many others are being sent.
    pub(crate) fn share(&self, manifest: &Arc<StoredManifest>) -> Option<Bytes> {
        let length = manifest.bytes.len();
        if length <= FREE_BYTES {
            return Some(manifest.bytes.clone());
        }
        if fail_point!("share-manifests", off) {
            return Some(Bytes::copy_from_slice(&manifest.bytes));
        }
        let mut table = lock(&self.held);
        let held = table.manifests.get(&manifest.digest).and_then(Weak::upgrade);
        let held = match held {
            Some(held) => held,
            None => {
                let most = if length > LARGE_BYTES { self.most / 4 * 3 } else { self.most };
                if table.bytes + length > most {
                    return None;
                }
                let (manifest, digest) = (Arc::clone(manifest), manifest.digest.clone());
                let held = Arc::new(Held { manifest, table: Arc::clone(&self.held) });
                table.manifests.insert(digest, Arc::downgrade(&held));
                table.bytes += length;
                held
            }
        };
        Some(Bytes::from_owner(Share(held)))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        table.bytes -= self.manifest.bytes.len();
        // Another client may have begun anew meanwhile.
        let digest = &self.manifest.digest;
        if table.manifests.get(digest).is_some_and(|held| held.strong_count() == 0) {
            table.manifests.remove(digest);
        }
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(length: usize, fill: u8) -> Arc<StoredManifest> {
        let bytes = Bytes::from(vec![fill; length]);
        let digest = Digest::sha256(&bytes);
        Arc::new(StoredManifest { digest, media_type: String::new(), bytes })
    }

    #[test]
    fn a_manifest_is_held_once_and_until_its_last_client_has_it() {
        let in_flight = InFlight::new(1 << 20);
        let one = manifest(700 << 10, 1);
        let first = in_flight.share(&one).unwrap();
        // The same, read again.
        let second = in_flight.share(&manifest(700 << 10, 1)).unwrap();
        assert_eq!(first.as_ptr(), second.as_ptr());
        assert!(in_flight.share(&manifest(700 << 10, 2)).is_none());
        // What is shorter has more room, and what is short needs none.
        let short = in_flight.share(&manifest(200 << 10, 3)).unwrap();
        assert!(in_flight.share(&manifest(200 << 10, 4)).is_none());
        assert!(in_flight.share(&manifest(1000, 5)).is_some());
        drop((first, short));
        assert!(in_flight.share(&manifest(700 << 10, 2)).is_none());
        drop(second);
        let other = in_flight.share(&manifest(700 << 10, 2)).unwrap();
        assert_eq!(lock(&in_flight.held).bytes, other.len());
        drop(other);
        let table = lock(&in_flight.held);
        assert_eq!((table.bytes, table.manifests.len()), (0, 0));
    }
}
