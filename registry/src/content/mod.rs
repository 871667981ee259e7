//! What the registry promises about content: the order in which bytes and facts change.
//!
//! bytes durable → published → facts changed → answered. A crash between any two leaves at worst
//! bytes that nobody names, which collection removes; never a name without bytes.

pub mod backup;
mod blobs;
mod check;
pub mod collect;
pub mod fsck;
mod manifests;
mod referrers;
pub mod rot;
pub mod scrub;
mod upkeep;
mod uploads;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shared::{Digest, RepoName};

use crate::failpoint::fail_point;
use crate::pool::Died;
use crate::records::{Kept, Missing, Place, Publish, Records, RecordsError};
use crate::store::{Sealed, Store, StoreError};

pub use crate::records::RepoBlob;
pub use crate::store::{Source, UploadId};
pub use check::InvalidManifest;
pub use manifests::{CacheTotals, DeleteError, PushError, Pushed};
pub use referrers::referrers_index;
pub use upkeep::Upkeep;
pub use uploads::{FinishError, ReceiveError, SessionError, Writer};

/// Reads a manifest and forgets it, for [`crate::edge`].
pub(crate) fn read_manifest(bytes: &[u8], digest: &Digest) {
    let _ = check::check(None, bytes, digest);
}

/// What an operator may turn on and off.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// What happens to manifests whose children are absent.
    pub missing: Missing,
    /// Whether tags, manifests and blobs may be deleted (`storage.delete.enabled`).
    pub delete_enabled: bool,
    /// Whether nothing may be written (`storage.maintenance.readonly`).
    pub read_only: bool,
}

/// Why content could not be written or read, for a reason that is not the request's.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The operator allows no writes.
    #[error("the registry is in read-only maintenance")]
    Maintenance,
}

impl From<Died> for ContentError {
    fn from(died: Died) -> Self {
        Self::Store(died.into())
    }
}

/// What went wrong and is not over.
#[derive(Debug, Default)]
struct Health {
    /// Somebody tries a change, to find out whether the records work again.
    probing: AtomicBool,
    /// A file may lie about that no record knows.
    stray: AtomicBool,
}

/// Time from one try to the next.
const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// The content of one registry. Cheap to clone.
#[derive(Clone)]
pub struct Content {
    store: Arc<dyn Store>,
    records: Arc<dyn Records>,
    upkeep: Upkeep,
    cache: Arc<manifests::Cache>,
    rot: Arc<rot::Totals>,
    health: Arc<Health>,
    policy: Policy,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Content {
    pub fn new(
        store: Arc<dyn Store>,
        records: Arc<dyn Records>,
        upkeep: Upkeep,
        policy: Policy,
    ) -> Self {
        Self {
            store,
            records,
            upkeep,
            cache: Arc::default(),
            rot: Arc::default(),
            health: Arc::default(),
            policy,
        }
    }

    pub fn policy(&self) -> Policy {
        self.policy
    }

    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// How often manifests were found in memory.
    pub fn manifest_cache(&self) -> &CacheTotals {
        &self.cache.totals
    }

    /// What pulls found rotten.
    pub fn rot(&self) -> &rot::Totals {
        &self.rot
    }

    pub fn records(&self) -> &dyn Records {
        &*self.records
    }

    /// Why writes are refused at present, if they are, for the readiness probe.
    pub fn writes_refused(&self) -> Option<String> {
        if let Some(why) = self.store.broken() {
            return Some(why);
        }
        (!self.records.is_writable()).then(|| RecordsError::ReadOnly.to_string())
    }

    /// Whether the last change could not be written, for the readiness probe. Has another one tried,
    /// in the background: nobody pushes to what is not ready.
    pub fn is_failing(&self) -> bool {
        if !self.records.is_failing() {
            return false;
        }
        if !self.health.probing.swap(true, Ordering::AcqRel) {
            let this = self.clone();
            tokio::spawn(async move {
                if let Err(error) = this.records.probe().await {
                    tracing::warn!(%error, "the records cannot be written yet");
                }
                tokio::time::sleep(PROBE_PAUSE).await;
                this.health.probing.store(false, Ordering::Release);
            });
        }
        true
    }

    /// Whether a sweep is owed, from now on not any more.
    fn take_stray(&self) -> bool {
        self.health.stray.swap(false, Ordering::AcqRel)
    }

    fn writable(&self) -> Result<(), ContentError> {
        if self.policy.read_only {
            return Err(ContentError::Maintenance);
        }
        match self.writes_refused() {
            Some(why) => Err(StoreError::ReadOnly(why).into()),
            None => Ok(()),
        }
    }

    /// Publishes the bytes of an upload, links them to its repository, durably, and ends the upload.
    async fn publish(
        &self,
        repo: RepoName,
        sealed: &mut dyn Sealed,
        digest: &Digest,
    ) -> Result<Kept, ContentError> {
        let _guard = self.store.lock(digest).await;
        let place = match sealed.publish().await {
            Ok(place) => place,
            Err(error) => {
                // Half done, perhaps.
                self.remove_if_unrecorded(digest, &Place::File).await;
                return Err(error.into());
            }
        };
        let (size, resumed) = (sealed.size(), sealed.resumed());
        let publish = Publish { repo, digest: digest.clone(), size, place: place.clone(), resumed };
        let kept = self.records.publish(publish).await;
        // Only where it is certain that nothing was recorded: after a failed sync of the log the
        // record may be there at the next start, which sweeps.
        if let Err(RecordsError::Full | RecordsError::Failed(_)) = kept
            && !fail_point!("remove-unrecorded", off)
        {
            self.remove_if_unrecorded(digest, &place).await;
        }
        Ok(kept?)
    }

    /// Gives back the space of bytes that were published and not recorded: waiting for a sweep
    /// would keep a full disk full. Call under the digest's lock.
    async fn remove_if_unrecorded(&self, digest: &Digest, place: &Place) {
        let known = self.records.find_blobs(std::slice::from_ref(digest)).await;
        let removed = match known.as_deref() {
            Ok([None]) => self.store.remove(digest, place).await.map_err(ContentError::from),
            Ok(_) => Ok(()),
            Err(error) => Err(error.clone().into()),
        };
        if let Err(error) = removed {
            tracing::warn!(%digest, %error, "an unrecorded blob's space comes back later");
            self.health.stray.store(true, Ordering::Release);
        }
    }
}
