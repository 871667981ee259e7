//! The records on disk: one SQLite database beside the blobs.
//!
//! One thread writes (`writer`), a few read (`readers`), one keeps the log short (`checkpoint`).
//! The statements are in `blobs`, `manifests`, `lists`, `collect` and `admin`, as plain functions
//! over a connection; nothing but this folder knows that there is one.

mod admin;
mod blobs;
mod checkpoint;
mod collect;
mod ids;
mod lists;
mod log;
mod manifests;
mod readers;
mod schema;
#[cfg(test)]
mod tests;
mod whole;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use prometheus_client::metrics::histogram::Histogram;
use shared::{Digest, Reference, RepoName, Tag};

use self::checkpoint::Checkpointer;
use self::readers::Readers;
pub use self::schema::{OpenError, inspect};
use self::writer::{Outcome, Shared, Writer};
use super::{
    BlobRecord, CheckCursor, CheckPage, Fault, GcClock, GcTime, Kept, Page, Place, Publish,
    PutManifest, PutManifestError, PutOutcome, Reclaimable, Records, RecordsError, ReferrerPage,
    RepoBlob, RepoUsage, Result, ReviewScope, Reviewed, ScrubProgress, StoredManifest, Totals,
    Waiting,
};
use crate::failpoint::fail_point;

/// The database's name in its directory.
pub const DATABASE: &str = "registry.db";

/// Threads that count and check, for metrics, collection, scrub and operators.
const UPKEEP_READERS: usize = 2;

/// How the records are kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long after an upload or mount the link is looked at: by then nearly always named.
    pub review_delay: Duration,
    /// Threads that read.
    pub readers: usize,
    /// Counts how long each commit takes.
    pub commits: Option<Histogram>,
}

impl Default for Options {
    fn default() -> Self {
        Self { review_delay: Duration::from_secs(3600), readers: 4, commits: None }
    }
}

/// See the module.
pub struct SqliteRecords {
    path: PathBuf,
    writer: Writer,
    readers: Readers,
    /// For what reads much: counting and checking must not keep those waiting who pull.
    upkeep: Readers,
    shared: Arc<Shared>,
    review_delay: Duration,
    needs_sweep: AtomicBool,
}

impl SqliteRecords {
    /// Opens the records in `directory`, or creates them there, durably. The caller holds the
    /// directory's lock: two processes would each answer from memory of their own.
    ///
    /// Blocks on the disk; after a crash it reads the write-ahead log, 64 MiB at most.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was changed if the format is newer or foreign.
    pub fn open(directory: &Path, options: &Options) -> Result<Self, OpenError> {
        let path = directory.join(DATABASE);
        let damage = if fail_point!("log-look", off) { None } else { log::keep_if_damaged(&path)? };
        if let Some(log::Damage { frame, lost }) = damage {
            tracing::error!(
                frame,
                lost,
                "the records' log is damaged: changes that were acknowledged are lost; the log was \
                 kept, see `registry fsck`"
            );
        }
        let connection = schema::open_writer(&path)?;
        let clean = schema::meta(&connection, "clean")? != 0;
        let created = schema::meta(&connection, "created")? == 0;
        let owed = schema::meta(&connection, "sweep")? != 0;
        let clock = schema::meta(&connection, "gc_clock")?;
        connection.execute_batch("BEGIN IMMEDIATE")?;
        schema::set_meta(&connection, "created", 1)?;
        schema::give_identity(&connection)?;
        // Unclean from now until it is closed in order.
        schema::set_meta(&connection, "clean", 0)?;
        connection.execute_batch("COMMIT")?;
        let clock = GcClock::starting_at(GcTime::from_millis(u64::try_from(clock).unwrap_or(0)));
        let shared = Arc::new(Shared::new(clock));
        let checkpointer = Checkpointer::start(&path, Arc::clone(&shared))?;
        let readers = Readers::start(&path, "records-read", options.readers.max(1))?;
        let upkeep = Readers::start(&path, "records-upkeep", UPKEEP_READERS)?;
        let (own, commits) = (Arc::clone(&shared), options.commits.clone());
        let writer = Writer::start(&path, connection, checkpointer, own, commits)?;
        Ok(Self {
            path,
            writer,
            readers,
            upkeep,
            shared,
            review_delay: options.review_delay,
            // Files of lost records can be linked again, as long as they are there.
            needs_sweep: AtomicBool::new(damage.is_none() && (owed || (!clean && !created))),
        })
    }

    /// Lets the collection clock run ahead, for tests of grace.
    #[doc(hidden)]
    pub fn advance_clock(&self, by: Duration) {
        self.shared.clock.advance(by);
    }

    fn review_due(&self) -> GcTime {
        self.shared.clock.now().after(self.review_delay)
    }

    /// A change that nothing refuses.
    async fn change<T, F>(&self, apply: F) -> Result<T>
    where
        T: Send + 'static,
        F: Fn(&mut writer::Change<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        self.writer.change(move |change| apply(change).map(Outcome::Keep)).await
    }
}

impl SqliteRecords {
    /// Writes a consistent copy of the records into `directory`, durably. Changes go on meanwhile.
    ///
    /// # Errors
    /// When the copy cannot be written.
    pub async fn backup(&self, directory: &Path) -> Result<()> {
        let (source, target) = (self.path.clone(), directory.join(DATABASE));
        let failed = |error: String| RecordsError::Failed(format!("backup: {error}"));
        let copy = tokio::task::spawn_blocking(move || copy_database(&source, &target));
        copy.await
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(error.to_string()))
    }
}

#[async_trait]
impl Records for SqliteRecords {
    async fn find_blob(&self, repo: &RepoName, digest: &Digest) -> Result<Option<RepoBlob>> {
        let (repo, digest) = (repo.clone(), digest.clone());
        self.readers.read(move |c| blobs::find(c, &repo, &digest)).await
    }

    async fn promise_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        may_write: bool,
    ) -> Result<Option<RepoBlob>> {
        let Some(blob) = self.find_blob(repo, digest).await? else { return Ok(None) };
        if !blob.condemned || !may_write {
            return Ok(Some(blob));
        }
        let (repo, digest) = (repo.clone(), digest.clone());
        let rescued = self.change(move |change| blobs::rescue(change, &repo, &digest)).await?;
        Ok(rescued.then_some(RepoBlob { condemned: false, ..blob }))
    }

    async fn publish(&self, publish: Publish) -> Result<Kept> {
        let due = self.review_due();
        let Publish { repo, digest, size, .. } = publish;
        self.change(move |change| blobs::link_published(change, &repo, &digest, size, due)).await?;
        // The file has just been replaced.
        Ok(Kept::Mine)
    }

    async fn mount(
        &self,
        to: &RepoName,
        from: Option<&RepoName>,
        digest: &Digest,
    ) -> Result<Option<RepoBlob>> {
        let (to, from, digest, due) =
            (to.clone(), from.cloned(), digest.clone(), self.review_due());
        self.change(move |change| blobs::mount(change, &to, from.as_ref(), &digest, due)).await
    }

    async fn holders(&self, digest: &Digest, max: usize) -> Result<Vec<RepoName>> {
        let digest = digest.clone();
        self.readers.read(move |c| blobs::holders(c, &digest, max)).await
    }

    async fn unlink_blob(&self, repo: &RepoName, digest: &Digest) -> Result<bool> {
        let (repo, digest) = (repo.clone(), digest.clone());
        self.change(move |change| blobs::unlink(change, &repo, &digest)).await
    }

    async fn put_manifest(&self, push: PutManifest) -> Result<PutOutcome, PutManifestError> {
        let push = Arc::new(push);
        let asked = Arc::clone(&push);
        let missing = self.readers.read(move |c| manifests::missing(c, &asked)).await?;
        if !missing.is_empty() && !fail_point!("missing-on-reader", off) {
            return Err(PutManifestError::Missing(missing));
        }
        self.writer
            .change(move |change| manifests::put(change, &push))
            .await?
            .map_err(PutManifestError::Missing)
    }

    async fn resolve(
        &self,
        repo: &RepoName,
        reference: &Reference,
    ) -> Result<Option<StoredManifest>> {
        let (repo, reference) = (repo.clone(), reference.clone());
        self.readers.read(move |c| manifests::resolve(c, &repo, &reference)).await
    }

    async fn delete_manifest(&self, repo: &RepoName, digest: &Digest) -> Result<bool> {
        let (repo, digest) = (repo.clone(), digest.clone());
        self.change(move |change| manifests::delete(change, &repo, &digest)).await
    }

    async fn delete_untagged(
        &self,
        repo: &RepoName,
        digest: &Digest,
        pushed_before: GcTime,
    ) -> Result<bool> {
        let (repo, digest, before) = (repo.clone(), digest.clone(), pushed_before.as_millis());
        self.change(move |change| manifests::delete_untagged(change, &repo, &digest, before)).await
    }

    async fn delete_tag(&self, repo: &RepoName, tag: &Tag) -> Result<bool> {
        let (repo, tag) = (repo.clone(), tag.clone());
        self.change(move |change| manifests::delete_tag(change, &repo, &tag)).await
    }

    async fn list_tags(
        &self,
        repo: &RepoName,
        last: Option<&str>,
        n: usize,
    ) -> Result<Option<Page<Tag>>> {
        let (repo, last) = (repo.clone(), last.map(str::to_owned));
        self.readers.read(move |c| lists::tags(c, &repo, last.as_deref(), n)).await
    }

    async fn list_repositories(&self, last: Option<&str>, n: usize) -> Result<Page<RepoName>> {
        let last = last.map(str::to_owned);
        self.readers.read(move |c| lists::repositories(c, last.as_deref(), n)).await
    }

    async fn referrers(
        &self,
        repo: &RepoName,
        subject: &Digest,
        types: &[String],
        after: Option<&str>,
        max_bytes: usize,
    ) -> Result<ReferrerPage> {
        let (repo, subject, types) = (repo.clone(), subject.clone(), types.to_vec());
        let after = after.map(str::to_owned);
        self.readers
            .read(move |c| {
                lists::referrers(c, &repo, &subject, &types, after.as_deref(), max_bytes)
            })
            .await
    }

    fn change_stamp(&self, repo: &RepoName) -> Option<u64> {
        Some(self.shared.stamps.of(repo))
    }

    fn is_writable(&self) -> bool {
        !self.shared.is_poisoned()
    }

    fn is_failing(&self) -> bool {
        self.shared.is_failing()
    }

    async fn probe(&self) -> Result<()> {
        self.change(|change| schema::set_meta(change.connection, "probe", change.wall)).await
    }

    fn gc_now(&self) -> GcTime {
        self.shared.clock.now()
    }

    async fn review(&self, scope: ReviewScope) -> Result<Reviewed> {
        self.change(move |change| collect::review(change, &scope)).await
    }

    async fn waiting(&self) -> Result<Waiting> {
        let rescued = self.shared.rescued.load(Ordering::Relaxed);
        let readers = if fail_point!("upkeep-readers", off) { &self.readers } else { &self.upkeep };
        readers.read(move |c| collect::waiting(c, rescued)).await
    }

    async fn reclaimable(&self, grace: Duration) -> Result<Reclaimable> {
        let now = self.gc_now();
        self.upkeep.read(move |c| collect::reclaimable(c, now, grace)).await
    }

    async fn begin_removal(&self, digest: &Digest) -> Result<Option<Place>> {
        let digest = digest.clone();
        let begun = self.change(move |change| blobs::begin_removal(change, &digest)).await?;
        Ok(begun.then_some(Place::File))
    }

    async fn end_removal(&self, digest: &Digest, _: &Place) -> Result<()> {
        let digest = digest.clone();
        self.change(move |change| blobs::end_removal(change, &digest)).await
    }

    async fn interrupted_removals(&self, max: usize) -> Result<Vec<Digest>> {
        self.upkeep.read(move |c| blobs::interrupted_removals(c, max)).await
    }

    async fn quarantine(&self, digest: &Digest) -> Result<bool> {
        let digest = digest.clone();
        self.writer.change(move |change| blobs::quarantine(change, &digest)).await
    }

    async fn forget_repositories(&self) -> Result<u64> {
        if fail_point!("forget-repositories", off) {
            return Ok(0);
        }
        self.shared.watch_repositories(true);
        let empty = self.upkeep.read(collect::empty_repositories).await?;
        let shared = Arc::clone(&self.shared);
        let forgotten = if empty.is_empty() {
            Ok(0)
        } else {
            self.change(move |change| {
                // What was given something since the look is not empty any more.
                let still = empty.iter().filter(|repo| !shared.is_used(**repo));
                collect::forget_repositories(change.connection, still)
            })
            .await
        };
        self.shared.watch_repositories(false);
        forgotten
    }

    fn needs_sweep(&self) -> bool {
        self.needs_sweep.load(Ordering::Acquire)
    }

    async fn sweep_done(&self) -> Result<()> {
        self.needs_sweep.store(false, Ordering::Release);
        Ok(())
    }

    async fn scrub_progress(&self) -> Result<ScrubProgress> {
        self.upkeep.read(admin::scrub_progress).await
    }

    async fn save_scrub_progress(&self, progress: &ScrubProgress) -> Result<()> {
        let progress = progress.clone();
        self.change(move |change| admin::save_scrub_progress(change.connection, &progress)).await
    }

    async fn list_blobs(&self, after: Option<&Digest>, n: usize) -> Result<Vec<BlobRecord>> {
        let after = after.cloned();
        self.upkeep.read(move |c| admin::blobs(c, after.as_ref(), n)).await
    }

    async fn find_blobs(&self, digests: &[Digest]) -> Result<Vec<Option<BlobRecord>>> {
        let digests = digests.to_vec();
        self.upkeep.read(move |c| admin::find_blobs(c, &digests)).await
    }

    async fn list_manifests(
        &self,
        repo: &RepoName,
        untagged: Option<GcTime>,
        after: Option<&Digest>,
        n: usize,
    ) -> Result<Page<Digest>> {
        let (repo, after) = (repo.clone(), after.cloned());
        self.upkeep
            .read(move |c| admin::list_manifests(c, &repo, untagged, after.as_ref(), n))
            .await
    }

    async fn usage(&self, repo: &RepoName) -> Result<Option<RepoUsage>> {
        let repo = repo.clone();
        self.upkeep.read(move |c| admin::usage(c, &repo)).await
    }

    async fn remove_repository(&self, repo: &RepoName) -> Result<bool> {
        let repo = repo.clone();
        self.change(move |change| admin::remove_repository(change, &repo)).await
    }

    async fn totals(&self) -> Result<Option<Totals>> {
        self.upkeep.read(admin::totals).await.map(Some)
    }

    async fn check(&self, cursor: CheckCursor, n: usize, repair: bool) -> Result<CheckPage> {
        let cursor = admin::Cursor::parse(&cursor);
        if cursor == admin::Cursor::default() {
            let path = self.path.clone();
            let look = move || whole::check(&path, whole::LOG_GROWTH_MAX);
            let failed = |error: String| RecordsError::Failed(error);
            let mut faults = tokio::task::spawn_blocking(look)
                .await
                .map_err(|error| failed(error.to_string()))?
                .map_err(|error| failed(error.to_string()))?;
            if let Some(kept) = log::kept(&self.path) {
                let detail = format!(
                    "its log had lost acknowledged changes when it was opened, and is kept as {}: \
                     restore a backup or push again what is missing, then remove that file",
                    kept.display()
                );
                faults.push(Fault::Damaged { detail });
            }
            let page = self.upkeep.read(move |c| admin::check(c, cursor, n, None)).await?;
            return Ok(CheckPage { faults, ..page });
        }
        if repair {
            self.change(move |change| admin::check(change.connection, cursor, n, Some(change.now)))
                .await
        } else {
            self.upkeep.read(move |c| admin::check(c, cursor, n, None)).await
        }
    }

    async fn close(&self) -> Result<()> {
        // A sweep that did not get through is owed to the next start.
        let owed = i64::from(self.needs_sweep());
        self.change(move |change| schema::set_meta(change.connection, "sweep", owed)).await?;
        let closed = self.writer.close().await;
        self.readers.close();
        self.upkeep.close();
        closed
    }
}

/// A compact copy of the newest state, durable when this returns.
fn copy_database(source: &Path, target: &Path) -> Result<(), OpenError> {
    let connection = schema::open_reader(source)?;
    connection.execute("VACUUM INTO ?1", [target.to_string_lossy()])?;
    std::fs::File::open(target)?.sync_all()?;
    if let Some(directory) = target.parent() {
        std::fs::File::open(directory)?.sync_all()?;
    }
    Ok(())
}
