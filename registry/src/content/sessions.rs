//! Which uploads are open, and who writes to each.
//!
//! One writer per session: whoever holds its [`Writer`] has the session to itself from the check
//! of the offset to the end of the request, so that a late append cannot land in a blob that was
//! already verified.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use shared::{Algorithm, RepoName};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::{Content, ContentError, slow};
use crate::failpoint::fail_point;
use crate::store::{Checkpoint, Disk, Session, SessionId};

/// Open uploads at once. Each is two files and a few hundred bytes of memory.
const SESSIONS_MAX: usize = 65_536;

/// Bytes up to which an upload gives way to a new one when there are too many: little is lost with
/// it, and one client could keep everybody else out otherwise.
const GIVES_WAY_BYTES: u64 = 64 << 10;

/// How long a request waits for the one before it on the same session: a client that lost its
/// connection comes back before the server has noticed.
const WRITER_WAIT: Duration = Duration::from_secs(2);

/// Why a session cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No such upload in this repository.
    #[error("no such upload")]
    Unknown,
    /// Another request writes to it.
    #[error("another request is writing to this upload")]
    Busy {
        /// Bytes received so far.
        offset: u64,
    },
    /// Too many uploads are open.
    #[error("too many uploads are open already")]
    TooMany,
    #[error(transparent)]
    Content(#[from] ContentError),
}

/// How an upload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    /// It became a blob.
    Completed,
    /// A client gave it up.
    Cancelled,
    /// Nobody went on with it.
    Expired,
    /// Its bytes were not the digest's, or the disk failed.
    Failed,
}

impl Outcome {
    fn label(self) -> OutcomeLabel {
        let outcome = match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Failed => "failed",
        };
        OutcomeLabel { outcome }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    outcome: &'static str,
}

/// Uploads that ended, counted since the start.
pub type UploadOutcomes = Family<OutcomeLabel, Counter>;

#[derive(Debug)]
struct Open {
    id: SessionId,
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
pub(super) struct Sessions {
    disk: Arc<Disk>,
    open: Mutex<HashMap<SessionId, Arc<Open>>>,
    /// In the order in which they were started; some have ended since.
    order: Mutex<VecDeque<SessionId>>,
    /// What an earlier process left and nobody has gone on with since.
    left: Mutex<HashSet<SessionId>>,
    max: usize,
    outcomes: UploadOutcomes,
}

impl Sessions {
    /// With those that an earlier process left on the disk. Blocks.
    pub(super) fn new(disk: Arc<Disk>) -> Self {
        let order = left_on(&disk);
        let outcomes = UploadOutcomes::default();
        // From the start: of a series that begins with its first event, `rate` misses that event.
        for outcome in [Outcome::Completed, Outcome::Cancelled, Outcome::Expired, Outcome::Failed] {
            drop(outcomes.get_or_create(&outcome.label()));
        }
        Self {
            disk,
            open: Mutex::default(),
            left: Mutex::new(order.iter().copied().collect()),
            order: Mutex::new(order),
            max: if fail_point!("many-uploads", off) { 8 } else { SESSIONS_MAX },
            outcomes,
        }
    }

    fn order(&self) -> MutexGuard<'_, VecDeque<SessionId>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that an upload was started just now.
    fn started(&self, id: SessionId) {
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
    fn oldest(&self) -> Option<(SessionId, Option<OwnedMutexGuard<Session>>)> {
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

    fn map(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Open>>> {
        // A panic elsewhere cannot leave a half-changed map: every use is one call.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self) -> MutexGuard<'_, HashSet<SessionId>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uploads that are open.
    fn count(&self) -> usize {
        self.map().len() + self.left().len()
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
    fn forget(&self, id: &SessionId, outcome: Outcome) {
        self.outcomes.get_or_create(&outcome.label()).inc();
        if let Some(open) = self.map().get(id) {
            open.cancelled.store(true, Ordering::Release);
        }
        self.disk.remove_session(id);
        self.left().remove(id);
        if let Some(open) = self.map().remove(id) {
            open.cancelled.store(true, Ordering::Release);
        }
    }

    async fn find(&self, repo: &RepoName, id: SessionId) -> Result<Arc<Open>, SessionError> {
        let known = self.map().get(&id).cloned();
        let open = match known {
            Some(open) => open,
            None => {
                let disk = Arc::clone(&self.disk);
                let loaded = slow(move || disk.load_session(id)).await?;
                let session = loaded.map_err(ContentError::from)?.ok_or(SessionError::Unknown)?;
                let open = self.remember(session);
                if !self.disk.has_session(&id) {
                    self.map().remove(&id);
                    return Err(SessionError::Unknown);
                }
                open
            }
        };
        if open.repo == *repo { Ok(open) } else { Err(SessionError::Unknown) }
    }
}

/// The uploads on a disk, the one that was written to longest ago first.
fn left_on(disk: &Disk) -> VecDeque<SessionId> {
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
pub struct Writer {
    sessions: Arc<Sessions>,
    open: Arc<Open>,
    session: OwnedMutexGuard<Session>,
    finished: bool,
}

impl Writer {
    pub fn id(&self) -> SessionId {
        self.open.id
    }

    pub fn repo(&self) -> &RepoName {
        &self.open.repo
    }

    /// Bytes received.
    pub fn offset(&self) -> u64 {
        self.session.offset()
    }

    pub(super) fn checkpoint(&self) -> Checkpoint {
        self.session.checkpoint()
    }

    pub(super) fn cancelled(&self) -> bool {
        self.open.cancelled.load(Ordering::Acquire)
    }

    /// Says how many bytes are about to be appended, if that is known.
    pub(super) fn expect(&mut self, bytes: Option<u64>) {
        self.session.expect(bytes);
    }

    /// Runs `work` on the session and publishes its new offset for status requests. Blocks.
    pub(super) fn with<T>(&mut self, work: impl FnOnce(&Disk, &mut Session) -> T) -> T {
        let result = work(&self.sessions.disk, &mut self.session);
        self.open.offset.store(self.session.offset(), Ordering::Release);
        result
    }

    /// Saves how far it has come. Blocks.
    pub(super) fn pause(mut self) {
        if !self.cancelled() {
            save(&self.sessions.disk, self.open.id, &mut self.session);
        }
        self.finished = true;
    }

    /// Ends the session and removes what is left of its files. Blocks.
    pub(super) fn finish(mut self, outcome: Outcome) {
        self.finished = true;
        self.sessions.forget(&self.open.id, outcome);
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
            return save(&self.sessions.disk, self.open.id, &mut self.session);
        };
        // Shortening and writing files is no work for whoever drops this, an async worker mostly.
        let (disk, open) = (Arc::clone(&self.sessions.disk), Arc::clone(&self.open));
        runtime.spawn(async move {
            let mut session = Arc::clone(&open.session).lock_owned().await;
            if !open.cancelled.load(Ordering::Acquire) {
                let _ = slow(move || save(&disk, open.id, &mut session)).await;
            }
        });
    }
}

fn save(disk: &Disk, id: SessionId, session: &mut Session) {
    if !session.is_saved() {
        fail_point!("upload-save");
    }
    if let Err(error) = session.pause(disk) {
        tracing::warn!(upload = %id, %error, "could not save an upload's state");
    }
}

impl Content {
    /// Starts an upload to `repo`. It survives the process, not a power cut.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn start_upload(
        &self,
        repo: &RepoName,
        algorithm: Algorithm,
    ) -> Result<Writer, SessionError> {
        self.writable()?;
        if self.open_uploads() >= self.sessions.max && !self.make_room().await? {
            return Err(SessionError::TooMany);
        }
        let (disk, name) = (Arc::clone(&self.disk), repo.clone());
        let session = slow(move || disk.create_session(&name, algorithm)).await?;
        let open = self.sessions.remember(session.map_err(ContentError::from)?);
        self.sessions.started(open.id);
        self.writer(open).await
    }

    /// Ends an upload in favour of a new one; false if there is none to end.
    async fn make_room(&self) -> Result<bool, ContentError> {
        if fail_point!("upload-gives-way", off) {
            return Ok(false);
        }
        let sessions = Arc::clone(&self.sessions);
        slow(move || {
            let Some((id, _held)) = sessions.oldest() else { return false };
            sessions.forget(&id, Outcome::Expired);
            tracing::debug!(upload = %id, "the oldest empty upload gave way to a new one");
            true
        })
        .await
    }

    /// Ends the writing for now: the upload can be gone on with. Gives the bytes received.
    ///
    /// # Errors
    /// When our own task fails.
    pub async fn pause_upload(&self, writer: Writer) -> Result<u64, ContentError> {
        let offset = writer.offset();
        if fail_point!("save-on-pool", off) {
            writer.pause();
            return Ok(offset);
        }
        slow(move || writer.pause()).await?;
        Ok(offset)
    }

    /// The right to write to an upload.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn resume_upload(
        &self,
        repo: &RepoName,
        id: SessionId,
    ) -> Result<Writer, SessionError> {
        self.writable()?;
        let open = self.sessions.find(repo, id).await?;
        self.writer(open).await
    }

    async fn writer(&self, open: Arc<Open>) -> Result<Writer, SessionError> {
        let lock = Arc::clone(&open.session).lock_owned();
        let Ok(session) = tokio::time::timeout(WRITER_WAIT, lock).await else {
            return Err(SessionError::Busy { offset: open.offset.load(Ordering::Acquire) });
        };
        let sessions = Arc::clone(&self.sessions);
        let writer = Writer { sessions, open, session, finished: false };
        // Whoever held the session before may have ended it.
        if writer.cancelled() { Err(SessionError::Unknown) } else { Ok(writer) }
    }

    /// Bytes that an upload has received.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn upload_offset(&self, repo: &RepoName, id: SessionId) -> Result<u64, SessionError> {
        Ok(self.sessions.find(repo, id).await?.offset.load(Ordering::Acquire))
    }

    /// Ends an upload and drops its bytes. A request that is writing to it fails.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn cancel_upload(&self, repo: &RepoName, id: SessionId) -> Result<(), SessionError> {
        let open = self.sessions.find(repo, id).await?;
        let sessions = Arc::clone(&self.sessions);
        slow(move || sessions.forget(&open.id, Outcome::Cancelled)).await?;
        Ok(())
    }

    /// Uploads that are open, those of an earlier process included.
    pub fn open_uploads(&self) -> usize {
        self.sessions.count()
    }

    /// Ends uploads that nothing was written to for `age`. Gives their number. One that begins or
    /// is loaded at this moment may be hit at a low age; its request finds it unknown.
    ///
    /// # Errors
    /// When the uploads cannot be listed.
    pub async fn purge_uploads(&self, age: Duration) -> Result<usize, ContentError> {
        let sessions = Arc::clone(&self.sessions);
        let purge = move || -> std::io::Result<usize> {
            let now = SystemTime::now();
            let mut purged = 0;
            for (id, touched) in sessions.disk.sessions()? {
                if !now.duration_since(touched).is_ok_and(|since| since >= age) {
                    continue;
                }
                let session = sessions.map().get(&id).map(|open| Arc::clone(&open.session));
                // Held to the end: whoever comes next finds that the upload is no more.
                let held = session.map(AsyncMutex::try_lock_owned);
                if !matches!(held, Some(Err(_))) {
                    sessions.forget(&id, Outcome::Expired);
                    purged += 1;
                }
            }
            Ok(purged)
        };
        slow(purge).await?.map_err(|source| {
            crate::store::StoreError::Io { what: "list the uploads", source }.into()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use shared::Digest;

    use super::*;
    use crate::content::{FinishError, Policy, ReceiveError};
    use crate::records::Missing;
    use crate::records::memory::MemoryRecords;
    use crate::store::{self, StoreError};

    type Received = ReceiveError<std::io::Error>;

    /// Whether this is answered as an unknown upload.
    fn is_unknown(error: &anyhow::Error) -> bool {
        let gone = |error: &ContentError| matches!(error, ContentError::Store(StoreError::Gone));
        let session = error.downcast_ref::<SessionError>().is_some_and(|error| match error {
            SessionError::Unknown => true,
            SessionError::Content(error) => gone(error),
            _ => false,
        });
        let received = error.downcast_ref::<Received>().is_some_and(|error| match error {
            ReceiveError::Cancelled => true,
            ReceiveError::Content(error) => gone(error),
            _ => false,
        });
        let finished = error.downcast_ref::<FinishError>().is_some_and(|error| match error {
            FinishError::Cancelled => true,
            FinishError::Content(error) => gone(error),
            FinishError::Mismatch { .. } => false,
        });
        session || received || finished
    }

    /// Whoever asks for uploads to be dropped at age 0 gets no broken ones.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_upload_that_is_purged_while_it_begins_is_unknown_and_no_failure() {
        let directory = tempfile::tempdir().unwrap();
        let options = store::Options { reserve: Some(0), ..store::Options::default() };
        let disk = Arc::new(Disk::open(directory.path(), &options).unwrap());
        let policy = Policy { missing: Missing::Refuse, delete_enabled: true, read_only: false };
        let content = Content::new(disk, Arc::new(MemoryRecords::new(Duration::ZERO)), policy);
        let (purged, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let purging = tokio::spawn({
            let (content, purged, done) = (content.clone(), Arc::clone(&purged), Arc::clone(&done));
            async move {
                while !done.load(Ordering::Acquire) {
                    let now = content.purge_uploads(Duration::ZERO).await.unwrap();
                    purged.fetch_add(now, Ordering::AcqRel);
                }
            }
        });
        let repo: RepoName = "a".parse().unwrap();
        let mut tries = 0;
        while tries < 150 || purged.load(Ordering::Acquire) < 20 {
            tries += 1;
            let upload = async {
                let writer = content.start_upload(&repo, Algorithm::Sha256).await?;
                let id = writer.id();
                drop(writer);
                let writer = content.resume_upload(&repo, id).await?;
                let body = Arc::new(Mutex::new(&b"abc"[..]));
                let ready = async |_| Ok::<_, std::io::Error>(());
                let writer = content.receive(writer, None, body, ready).await?;
                content.finish_upload(writer, &Digest::sha256(b"abc")).await?;
                anyhow::Ok(())
            };
            if let Err(error) = upload.await {
                assert!(is_unknown(&error), "{error:?}");
            }
        }
        done.store(true, Ordering::Release);
        purging.await.unwrap();
    }
}
