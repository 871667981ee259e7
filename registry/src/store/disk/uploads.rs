//! Which uploads are open, and who writes to each.
//!
//! One writer per session: whoever holds its [`Writer`] has the session to itself from the check
//! of the offset to the end of the request, so that a late append cannot land in a blob that was
//! already verified.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use shared::{Algorithm, Digest, RepoName};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, OwnedRwLockReadGuard, RwLock};

use super::session::Session;
use super::{Checkpoint, Disk, StoreError, UploadId, timed};
use crate::failpoint::fail_point;
use crate::pool::slow;
use crate::records::{Kept, Place};
use crate::store::{Block, Outcome, SealError, Sealed, Upload, UploadError, UploadOutcomes};

/// Open uploads at once. Each is two files and a few hundred bytes of memory.
const SESSIONS_MAX: usize = 65_536;

/// Bytes up to which an upload gives way to a new one when there are too many: little is lost with
/// it, and one client could keep everybody else out otherwise.
const GIVES_WAY_BYTES: u64 = 64 << 10;

/// How long a request waits for the one before it on the same session: a client that lost its
/// connection comes back before the server has noticed.
const WRITER_WAIT: Duration = Duration::from_secs(2);

/// How long the end of the server waits for uploads to be saved.
const SETTLE_MAX: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Open {
    id: UploadId,
    repo: RepoName,
    /// For status requests, which do not wait for the writer.
    offset: AtomicU64,
    cancelled: AtomicBool,
    session: Arc<AsyncMutex<Session>>,
}

impl Open {
    fn gives_way(&self) -> bool {
        self.offset.load(Ordering::Acquire) <= GIVES_WAY_BYTES
    }
}

/// The open uploads of one store.
#[derive(Debug)]
pub(super) struct Uploads {
    disk: Arc<Disk>,
    open: Mutex<HashMap<UploadId, Arc<Open>>>,
    /// In the order in which they were started; some have ended since.
    order: Mutex<VecDeque<UploadId>>,
    /// What an earlier process left and nobody has gone on with since.
    left: Mutex<HashSet<UploadId>>,
    max: usize,
    outcomes: UploadOutcomes,
    /// Read while a dropped upload is being saved.
    saving: Arc<RwLock<()>>,
}

impl Uploads {
    /// With those that an earlier process left on the disk. Blocks.
    pub(super) fn new(disk: Arc<Disk>) -> Self {
        let order = left_on(&disk);
        Self {
            disk,
            open: Mutex::default(),
            left: Mutex::new(order.iter().copied().collect()),
            order: Mutex::new(order),
            max: if fail_point!("many-uploads", off) { 8 } else { SESSIONS_MAX },
            outcomes: UploadOutcomes::default(),
            saving: Arc::default(),
        }
    }

    /// `None`: the server ends, and waits for no more of them.
    fn saving(&self) -> Option<OwnedRwLockReadGuard<()>> {
        Arc::clone(&self.saving).try_read_owned().ok()
    }

    /// Waits until what was dropped is saved.
    pub(super) async fn settled(&self) {
        if tokio::time::timeout(SETTLE_MAX, self.saving.write()).await.is_err() {
            tracing::warn!("some uploads could not be saved in time: they are read back");
        }
    }

    fn order(&self) -> MutexGuard<'_, VecDeque<UploadId>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that an upload was started just now.
    fn started(&self, id: UploadId) {
        let mut order = self.order();
        order.push_back(id);
        if order.len() > self.max.saturating_mul(2) {
            let open = self.map();
            let left = self.left();
            order.retain(|id| match open.get(id) {
                Some(open) => open.gives_way(),
                None => left.contains(id),
            });
        }
    }

    /// The oldest upload that may give way and that nobody writes to, and the right to write to it
    /// if it is in memory. Blocks.
    fn oldest(&self) -> Option<(UploadId, Option<OwnedMutexGuard<Session>>)> {
        let mut order = self.order();
        for _ in 0..order.len() {
            let id = order.pop_front()?;
            let Some(open) = self.map().get(&id).cloned() else {
                let bytes = self.left().contains(&id).then(|| self.disk.session_bytes(&id));
                if bytes.is_some_and(|bytes| bytes <= GIVES_WAY_BYTES) {
                    return Some((id, None));
                }
                continue;
            };
            if !open.gives_way() {
                continue;
            }
            match Arc::clone(&open.session).try_lock_owned() {
                Ok(session) => return Some((id, Some(session))),
                Err(_) => order.push_back(id),
            }
        }
        None
    }

    pub(super) fn outcomes(&self) -> &UploadOutcomes {
        &self.outcomes
    }

    fn left(&self) -> MutexGuard<'_, HashSet<UploadId>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uploads that are open, those of an earlier process included.
    pub(super) fn count(&self) -> usize {
        self.map().len() + self.left().len()
    }

    fn map(&self) -> MutexGuard<'_, HashMap<UploadId, Arc<Open>>> {
        // A panic elsewhere cannot leave a half-changed map: every use is one call.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, session: Session) -> Arc<Open> {
        let open = Arc::new(Open {
            id: session.id(),
            repo: session.repo().clone(),
            offset: AtomicU64::new(session.offset()),
            cancelled: AtomicBool::new(false),
            session: Arc::new(AsyncMutex::new(session)),
        });
        self.left().remove(&open.id);
        // Two requests may have loaded the same session; the first one counts.
        Arc::clone(self.map().entry(open.id).or_insert(open))
    }

    /// Ends a session. Files before memory: whoever loads it meanwhile looks for its files once it
    /// is in memory (see [`Self::find`]), so no order of the two leaves it there for ever.
    fn forget(&self, id: &UploadId, outcome: Outcome) {
        self.outcomes.count(outcome);
        if let Some(open) = self.map().get(id) {
            open.cancelled.store(true, Ordering::Release);
        }
        self.disk.remove_session(id);
        self.left().remove(id);
        if let Some(open) = self.map().remove(id) {
            open.cancelled.store(true, Ordering::Release);
        }
    }

    async fn find(&self, repo: &RepoName, id: UploadId) -> Result<Arc<Open>, UploadError> {
        let known = self.map().get(&id).cloned();
        let open = match known {
            Some(open) => open,
            None => {
                let disk = Arc::clone(&self.disk);
                let loaded = slow(move || disk.load_session(id)).await?;
                let session = loaded?.ok_or(UploadError::Unknown)?;
                let open = self.remember(session);
                if !self.disk.has_session(&id) {
                    self.map().remove(&id);
                    return Err(UploadError::Unknown);
                }
                open
            }
        };
        if open.repo == *repo { Ok(open) } else { Err(UploadError::Unknown) }
    }
}

/// The uploads on a disk, the one that was written to longest ago first.
fn left_on(disk: &Disk) -> VecDeque<UploadId> {
    if fail_point!("uploads-left", off) {
        return VecDeque::new();
    }
    let mut left = disk.sessions().unwrap_or_else(|error| {
        tracing::warn!(%error, "uploads of before the start are not counted");
        Vec::new()
    });
    left.sort_unstable_by_key(|(_, touched)| *touched);
    left.into_iter().map(|(id, _)| id).collect()
}

/// The right to write to one upload. Dropping it leaves the upload resumable.
#[derive(Debug)]
struct Writer {
    uploads: Arc<Uploads>,
    open: Arc<Open>,
    session: OwnedMutexGuard<Session>,
    finished: bool,
}

impl Writer {
    /// Shows status requests how far it has come.
    fn show_offset(&self) {
        self.open.offset.store(self.session.offset(), Ordering::Release);
    }

    fn cancelled(&self) -> bool {
        self.open.cancelled.load(Ordering::Acquire)
    }

    /// Ends the session and removes what is left of its files. Blocks.
    fn finish(&mut self, outcome: Outcome) {
        self.finished = true;
        self.uploads.forget(&self.open.id, outcome);
    }

    /// Full or broken: gives back the space at once. Waiting for the client to come back would keep
    /// the disk full for everybody. Blocks.
    fn give_up(&mut self) {
        if !fail_point!("give-back", off) {
            self.finish(Outcome::Failed);
        }
    }
}

impl Drop for Writer {
    /// In the middle of a broken request too: what is saved lets a restarted process go on where it
    /// was.
    fn drop(&mut self) {
        if self.finished || self.cancelled() {
            return;
        }
        let runtime = tokio::runtime::Handle::try_current();
        let (Ok(runtime), false) = (runtime, self.session.is_saved()) else {
            return save(&self.uploads.disk, self.open.id, &mut self.session);
        };
        // Shortening and writing files is no work for whoever drops this, an async worker mostly.
        let (uploads, open) = (Arc::clone(&self.uploads), Arc::clone(&self.open));
        let saving = uploads.saving();
        runtime.spawn(async move {
            let mut session = Arc::clone(&open.session).lock_owned().await;
            if !open.cancelled.load(Ordering::Acquire) {
                let _ = slow(move || save(&uploads.disk, open.id, &mut session)).await;
            }
            drop(saving);
        });
    }
}

fn save(disk: &Disk, id: UploadId, session: &mut Session) {
    if !session.is_saved() {
        fail_point!("upload-save");
    }
    if let Err(error) = session.pause(disk) {
        tracing::warn!(upload = %id, %error, "could not save an upload's state");
    }
}

#[async_trait]
impl Upload for Writer {
    fn id(&self) -> UploadId {
        self.open.id
    }

    fn repo(&self) -> &RepoName {
        &self.open.repo
    }

    fn offset(&self) -> u64 {
        self.session.offset()
    }

    fn cancelled(&self) -> bool {
        Writer::cancelled(self)
    }

    fn expect(&mut self, bytes: Option<u64>) {
        self.session.expect(bytes);
    }

    fn append(&mut self, mut block: Block) -> Result<Block, StoreError> {
        let disk = Arc::clone(&self.uploads.disk);
        let appended = timed(&disk.timings().writer, || self.session.append_block(&disk, &block));
        self.show_offset();
        block.clear();
        match appended {
            Ok(()) => Ok(block),
            Err(error) => {
                block.give_back();
                self.give_up();
                Err(error)
            }
        }
    }

    async fn room(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn checkpoint(&self) -> Checkpoint {
        self.session.checkpoint()
    }

    async fn rewind(mut self: Box<Self>, to: Checkpoint) -> Result<(), StoreError> {
        slow(move || {
            let disk = Arc::clone(&self.uploads.disk);
            let rewound = self.session.rewind(&disk, to);
            self.show_offset();
            rewound
        })
        .await?
    }

    async fn pause(mut self: Box<Self>) -> Result<u64, StoreError> {
        let offset = self.session.offset();
        let mut pause = move || {
            let writer = &mut *self;
            if !writer.cancelled() {
                save(&writer.uploads.disk, writer.open.id, &mut writer.session);
            }
            writer.finished = true;
        };
        if fail_point!("save-on-pool", off) {
            pause();
        } else {
            slow(pause).await?;
        }
        Ok(offset)
    }

    async fn seal(self: Box<Self>, digest: &Digest) -> Result<Box<dyn Sealed>, SealError> {
        let (mut writer, digest) = (self, digest.clone());
        let sealed = slow(move || {
            let disk = Arc::clone(&writer.uploads.disk);
            let synced =
                timed(&disk.timings().sync, || writer.session.sync(&disk, digest.algorithm()));
            let actual = match synced {
                Ok(actual) => actual,
                Err(error) => {
                    // After a failed sync the bytes must not be synced again: nothing to resume.
                    writer.give_up();
                    return Err(error.into());
                }
            };
            if writer.cancelled() {
                return Err(SealError::Cancelled);
            }
            if actual != digest {
                writer.give_up();
                return Err(SealError::Mismatch { actual });
            }
            let sealed: Box<dyn Sealed> = Box::new(Synced { writer, digest });
            Ok(sealed)
        });
        sealed.await?
    }
}

/// An upload whose bytes are durable.
#[derive(Debug)]
struct Synced {
    writer: Box<Writer>,
    digest: Digest,
}

#[async_trait]
impl Sealed for Synced {
    fn size(&self) -> u64 {
        self.writer.session.offset()
    }

    async fn publish(&mut self) -> Result<Place, StoreError> {
        let (disk, id) = (Arc::clone(&self.writer.uploads.disk), self.writer.open.id);
        let digest = self.digest.clone();
        slow(move || disk.publish(&id, &digest)).await??;
        Ok(Place::File)
    }

    fn resumed(&self) -> bool {
        false
    }

    async fn end(self: Box<Self>, kept: Option<Kept>) {
        let mut writer = self.writer;
        let outcome = match kept {
            Some(Kept::Mine | Kept::Other) => Outcome::Completed,
            Some(Kept::StartOver) | None if writer.cancelled() => Outcome::Cancelled,
            Some(Kept::StartOver) | None => Outcome::Failed,
        };
        if slow(move || writer.finish(outcome)).await.is_err() {
            tracing::warn!("an upload's files could not be removed: their space comes back later");
        }
    }
}

impl Uploads {
    /// Starts an upload to `repo`. It survives the process, not a power cut.
    pub(super) async fn begin(
        self: &Arc<Self>,
        repo: &RepoName,
        algorithm: Algorithm,
    ) -> Result<Box<dyn Upload>, UploadError> {
        if self.count() >= self.max && !self.make_room().await? {
            return Err(UploadError::TooMany);
        }
        let (disk, name) = (Arc::clone(&self.disk), repo.clone());
        let session = slow(move || disk.create_session(&name, algorithm)).await??;
        let open = self.remember(session);
        self.started(open.id);
        self.writer(open).await
    }

    /// Ends an upload in favour of a new one; false if there is none to end.
    async fn make_room(self: &Arc<Self>) -> Result<bool, StoreError> {
        if fail_point!("upload-gives-way", off) {
            return Ok(false);
        }
        let uploads = Arc::clone(self);
        let made = slow(move || {
            let Some((id, _held)) = uploads.oldest() else { return false };
            uploads.forget(&id, Outcome::Expired);
            tracing::debug!(upload = %id, "the oldest empty upload gave way to a new one");
            true
        });
        Ok(made.await?)
    }

    pub(super) async fn resume(
        self: &Arc<Self>,
        repo: &RepoName,
        id: UploadId,
    ) -> Result<Box<dyn Upload>, UploadError> {
        let open = self.find(repo, id).await?;
        self.writer(open).await
    }

    async fn writer(self: &Arc<Self>, open: Arc<Open>) -> Result<Box<dyn Upload>, UploadError> {
        let lock = Arc::clone(&open.session).lock_owned();
        let Ok(session) = tokio::time::timeout(WRITER_WAIT, lock).await else {
            return Err(UploadError::Busy { offset: open.offset.load(Ordering::Acquire) });
        };
        let writer = Writer { uploads: Arc::clone(self), open, session, finished: false };
        // Whoever held the session before may have ended it.
        if writer.cancelled() { Err(UploadError::Unknown) } else { Ok(Box::new(writer)) }
    }

    pub(super) async fn offset(&self, repo: &RepoName, id: UploadId) -> Result<u64, UploadError> {
        Ok(self.find(repo, id).await?.offset.load(Ordering::Acquire))
    }

    pub(super) async fn cancel(
        self: &Arc<Self>,
        repo: &RepoName,
        id: UploadId,
    ) -> Result<(), UploadError> {
        let open = self.find(repo, id).await?;
        let uploads = Arc::clone(self);
        Ok(slow(move || uploads.forget(&open.id, Outcome::Cancelled)).await?)
    }

    /// Ends what nothing was written to for `age`. Gives its number. Blocks.
    pub(super) fn expire(&self, age: Duration) -> std::io::Result<u64> {
        let now = SystemTime::now();
        let mut expired = 0;
        for (id, touched) in self.disk.sessions()? {
            if !now.duration_since(touched).is_ok_and(|since| since >= age) {
                continue;
            }
            let session = self.map().get(&id).map(|open| Arc::clone(&open.session));
            // Held to the end: whoever comes next finds that the upload is no more.
            let held = session.map(AsyncMutex::try_lock_owned);
            if !matches!(held, Some(Err(_))) {
                self.forget(&id, Outcome::Expired);
                expired += 1;
            }
        }
        Ok(expired)
    }
}
