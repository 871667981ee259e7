//! What the registry promises about content: the order in which bytes and facts change.
//!
//! bytes durable → published → facts changed → answered. A crash between any two leaves at worst
//! bytes that nobody names, which collection removes; never a name without bytes.

pub mod backup;
mod blobs;
mod check;
pub mod collect;
pub mod fsck;
mod locks;
mod manifests;
mod referrers;
pub mod rot;
pub mod scrub;
mod sessions;
mod uploads;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shared::{Digest, RepoName};
use tokio::sync::Semaphore;

use crate::failpoint::fail_point;
use crate::records::{Missing, Records, RecordsError};
use crate::store::{Disk, SessionId, StoreError};

pub use blobs::OpenBlob;
pub use check::InvalidManifest;
pub use locks::DigestLocks;
pub use manifests::{CacheTotals, DeleteError, PushError, Pushed};
pub use referrers::referrers_index;
use sessions::Outcome;
pub use sessions::{SessionError, UploadOutcomes, Writer};
pub use uploads::{FinishError, ReceiveError};

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
    /// A task of ours died.
    #[error("an internal task failed")]
    Task,
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
    pub(crate) disk: Arc<Disk>,
    pub(crate) records: Arc<dyn Records>,
    pub(crate) locks: Arc<DigestLocks>,
    sessions: Arc<sessions::Sessions>,
    cache: Arc<manifests::Cache>,
    rot: Arc<rot::Totals>,
    health: Arc<Health>,
    policy: Policy,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl Content {
    pub fn new(disk: Arc<Disk>, records: Arc<dyn Records>, policy: Policy) -> Self {
        Self {
            sessions: Arc::new(sessions::Sessions::new(Arc::clone(&disk))),
            disk,
            records,
            locks: Arc::default(),
            cache: Arc::default(),
            rot: Arc::default(),
            health: Arc::default(),
            policy,
        }
    }

    pub fn policy(&self) -> Policy {
        self.policy
    }

    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// How often manifests were found in memory.
    pub fn manifest_cache(&self) -> &CacheTotals {
        &self.cache.totals
    }

    /// What pulls found rotten.
    pub fn rot(&self) -> &rot::Totals {
        &self.rot
    }

    /// How uploads ended.
    pub fn upload_outcomes(&self) -> &UploadOutcomes {
        self.sessions.outcomes()
    }

    pub fn records(&self) -> &dyn Records {
        &*self.records
    }

    /// Why writes are refused at present, if they are, for the readiness probe.
    pub fn writes_refused(&self) -> Option<String> {
        if let Some(why) = self.disk.broken() {
            return Some(why.to_owned());
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

    /// Publishes the synced bytes of an upload, links them to its repository, durably, and ends the
    /// upload. Gives the blob's size.
    ///
    /// Runs to its end even when the caller goes away: a rename without its record is a file that
    /// nothing would ever look for.
    async fn publish(&self, writer: Writer, digest: Digest) -> Result<u64, FinishError> {
        let this = self.clone();
        run_to_end(async move {
            let (id, size) = (writer.id(), writer.offset());
            let published = this.publish_bytes(id, writer.repo(), &digest, size).await;
            let cancelled = writer.cancelled();
            let outcome = match (&published, cancelled) {
                (Ok(()), _) => Outcome::Completed,
                (Err(_), true) => Outcome::Cancelled,
                (Err(_), false) => Outcome::Failed,
            };
            slow(move || writer.finish(outcome)).await?;
            match published {
                Ok(()) => Ok(size),
                Err(ContentError::Store(StoreError::Gone)) => Err(FinishError::Cancelled),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    async fn publish_bytes(
        &self,
        id: SessionId,
        repo: &RepoName,
        digest: &Digest,
        size: u64,
    ) -> Result<(), ContentError> {
        let _guard = self.locks.lock(digest).await;
        let (disk, name) = (Arc::clone(&self.disk), digest.clone());
        if let Err(error) = slow(move || disk.publish(&id, &name)).await? {
            self.remove_if_unrecorded(digest).await;
            return Err(error.into());
        }
        let linked = self.records.link_published(repo, digest, size).await;
        // Only where it is certain that nothing was recorded: after a failed sync of the log the
        // record may be there at the next start, which sweeps.
        if let Err(RecordsError::Full | RecordsError::Failed(_)) = linked
            && !fail_point!("remove-unrecorded", off)
        {
            self.remove_if_unrecorded(digest).await;
        }
        Ok(linked?)
    }

    /// Gives back the space of bytes that were published and not recorded: waiting for a sweep
    /// would keep a full disk full. Call under the digest's lock.
    async fn remove_if_unrecorded(&self, digest: &Digest) {
        let known = self.records.find_blobs(std::slice::from_ref(digest)).await;
        let removed = match known.as_deref() {
            Ok([None]) => {
                let (disk, name) = (Arc::clone(&self.disk), digest.clone());
                slow(move || disk.remove_blob(&name)).await.and_then(|removed| Ok(removed?))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error.clone().into()),
        };
        if let Err(error) = removed {
            tracing::warn!(%digest, %error, "an unrecorded blob's space comes back later");
            self.health.stray.store(true, Ordering::Release);
        }
    }
}

/// Threads of one worker's pool that may wait for the disk at once. The others are left to those who
/// read: a disk that takes seconds for a sync must not hold up what is in memory.
const SLOW_MAX: usize = 32;

/// The same for what may take long: writing, syncing, large manifests.
async fn slow<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ContentError> {
    // One per worker, as the pool is.
    thread_local! {
        static PLACES: Arc<Semaphore> = Arc::new(Semaphore::new(SLOW_MAX));
    }
    if fail_point!("slow-places", off) {
        return blocking(work).await;
    }
    let places = PLACES.with(Arc::clone);
    let place = places.acquire_owned().await.map_err(|_| ContentError::Task)?;
    blocking(move || {
        let _place = place;
        work()
    })
    .await
}

/// Runs `work` on the pool for blocking calls.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ContentError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ContentError::Task)
}

/// Runs `work` as a task of its own, so that a client that hangs up cannot stop it half way.
async fn run_to_end<T: Send + 'static, E: From<ContentError> + Send + 'static>(
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E> {
    tokio::spawn(work).await.map_err(|_| ContentError::Task)?
}
