//! Collection: always on, online, and paid for by what changes, not by what is stored.
//!
//! The records say what may go (see `records`, "The state machine"); here files go with it, each
//! under its digest's lock, so that a push of the same bytes at the same moment is either before
//! the removal or after it:
//! ```text
//! lock d | records: no link? -> removing | unlink, sync the directory | records: forget d | unlock
//! ```
//! A crash in between leaves a blob in state `removing`, and the next start does it again.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt as _;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use shared::{Digest, RepoName};
use tokio::sync::{Mutex, MutexGuard};

use super::{Content, ContentError};
use crate::failpoint::fail_point;
use crate::pool::{blocking, run_to_end};
use crate::records::{GcTime, Place, ReviewScope};
use crate::store::disk::SHARDS;

/// Reviews settled in one change. A change this long takes a few milliseconds of the writer.
const REVIEWS_PER_CHANGE: usize = 256;

/// Blobs removed at once, so that they share syncs.
const REMOVALS_AT_ONCE: usize = 8;

/// Names per page where all repositories or manifests are walked.
const PAGE: usize = 500;

/// A wait between two rounds is never shorter.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// How collection goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long something that nobody names is kept: longer than the longest push, because a layer
    /// that a client finds present at its start is named only by the manifest at its end.
    pub grace: Duration,
    /// How long after an upload or a mount it is first looked at.
    pub review_delay: Duration,
    /// Time between two rounds at most.
    pub interval: Duration,
    /// Blobs removed per second at most; 0 is no limit.
    pub pace: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(24 * 3600),
            review_delay: Duration::from_secs(3600),
            interval: Duration::from_secs(60),
            pace: 500,
        }
    }
}

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Manifests that a rule removed.
    pub manifests: u64,
    /// Links that were condemned, and links that turned live again.
    pub condemned: u64,
    pub rescued: u64,
    /// Links that went after their grace.
    pub unlinked: u64,
    pub blobs: u64,
    pub bytes: u64,
}

/// Counted since the start.
#[derive(Debug, Default)]
pub struct Totals {
    pub blobs: Counter,
    pub bytes: Counter,
    pub condemned: Counter,
    pub rounds: Counter,
    pub rounds_failed: Counter,
    /// Seconds that rounds took.
    pub seconds: Counter<f64, AtomicU64>,
    /// Unix time of the end of the last round that ended well.
    pub last_success: Gauge,
    /// Files without a record, which a crash had left.
    pub swept: Counter,
}

/// Which manifests a walk over all repositories deals with: deleted, or only counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untagged {
    Delete,
    Count,
}

/// See the module.
#[derive(Debug)]
pub struct Collector {
    content: Content,
    settings: Settings,
    /// One round at a time; a backup holds it, so that what it found stays.
    turn: Mutex<()>,
    totals: Totals,
}

impl Collector {
    pub fn new(content: Content, settings: Settings) -> Self {
        Self { content, settings, turn: Mutex::new(()), totals: Totals::default() }
    }

    pub fn settings(&self) -> Settings {
        self.settings
    }

    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Nothing is collected while the guard lives.
    pub async fn hold(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Finishes what a crash interrupted, then collects what is due, for ever.
    pub async fn run(self: Arc<Self>) {
        if self.content.records.needs_sweep() {
            let this = Arc::clone(&self);
            tokio::spawn(async move {
                if let Err(error) = this.sweep().await {
                    tracing::warn!(%error, "could not look for files that a crash left behind");
                }
            });
        }
        let interval = self.settings.interval.min(self.settings.grace / 4).max(INTERVAL_MIN);
        loop {
            if self.content.writable().is_ok() {
                self.round().await;
            }
            tokio::time::sleep(interval).await;
        }
    }

    async fn round(&self) {
        let began = Instant::now();
        if self.content.take_stray()
            && let Err(error) = self.sweep().await
        {
            tracing::warn!(%error, "could not look for files that a failure left behind");
        }
        let finished = self.finish_interrupted().await;
        let collected = match finished {
            Ok(()) => self.collect(self.settings.grace, false).await,
            Err(error) => Err(error),
        };
        self.totals.rounds.inc();
        self.totals.seconds.inc_by(began.elapsed().as_secs_f64());
        if collected.is_ok() {
            self.totals.last_success.set(unix_seconds());
        }
        match collected {
            Ok(collected) if collected.blobs > 0 => {
                let Collected { blobs, bytes, unlinked, .. } = collected;
                tracing::info!(blobs, bytes, links = unlinked, "collected what nobody names");
            }
            Ok(_) => {}
            Err(error) => {
                self.totals.rounds_failed.inc();
                tracing::warn!(%error, "collection stopped early; it tries again");
            }
        }
    }

    /// Collects what has been condemned for `grace`; with `all`, looks at everything queued rather
    /// than at what is due.
    ///
    /// # Errors
    /// When records or disk fail. What was collected stays so.
    pub async fn collect(&self, grace: Duration, all: bool) -> Result<Collected, ContentError> {
        let _turn = self.turn.lock().await;
        let mut collected = Collected::default();
        // A link that goes queues its blob, and the review of a blob that went is still queued: the
        // next pass finds both.
        while self.pass(grace, all, &mut collected).await? {}
        if collected.unlinked > 0 || all {
            self.content.records.forget_repositories().await?;
        }
        Ok(collected)
    }

    /// One walk over the queue; whether another one will find more.
    async fn pass(
        &self,
        grace: Duration,
        all: bool,
        collected: &mut Collected,
    ) -> Result<bool, ContentError> {
        let (mut after, mut unlinked, before) = (None, 0, collected.blobs);
        loop {
            let began = Instant::now();
            let scope = ReviewScope { grace, all, max: REVIEWS_PER_CHANGE, after };
            let reviewed = self.content.records.review(scope).await?;
            collected.condemned += reviewed.condemned;
            collected.rescued += reviewed.rescued;
            self.totals.condemned.inc_by(reviewed.condemned);
            unlinked += reviewed.unlinked;
            let removals = reviewed.removable.len();
            self.remove_all(reviewed.removable, collected).await?;
            after = reviewed.next;
            if after.is_none() {
                collected.unlinked += unlinked;
                return Ok(unlinked > 0 || collected.blobs > before);
            }
            self.rest(removals, began).await;
        }
    }

    /// Waits as long as the pace asks after this many removals.
    async fn rest(&self, removals: usize, began: Instant) {
        let share = u32::try_from(removals).unwrap_or(u32::MAX);
        if let Some(each) = Duration::from_secs(1).checked_div(self.settings.pace) {
            tokio::time::sleep_until((began + each * share).into()).await;
        }
    }

    async fn remove_all(
        &self,
        digests: Vec<Digest>,
        collected: &mut Collected,
    ) -> Result<(), ContentError> {
        let mut removals = futures_util::stream::iter(digests)
            .map(|digest| self.remove(digest))
            .buffer_unordered(REMOVALS_AT_ONCE);
        let mut failed = None;
        while let Some(removed) = removals.next().await {
            match removed {
                Ok(Some(bytes)) => {
                    collected.blobs += 1;
                    collected.bytes += bytes;
                    self.totals.blobs.inc();
                    self.totals.bytes.inc_by(bytes);
                }
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Removes a blob that no link names; `None` if one does by now.
    async fn remove(&self, digest: Digest) -> Result<Option<u64>, ContentError> {
        let content = self.content.clone();
        run_to_end(async move {
            let _guard = if fail_point!("collect-lock", off) {
                None
            } else {
                Some(content.store.lock(&digest).await)
            };
            let known = content.records.find_blobs(std::slice::from_ref(&digest)).await?;
            let Some(Some(blob)) = known.into_iter().next() else { return Ok(None) };
            let Some(place) = content.records.begin_removal(&digest).await? else {
                return Ok(None);
            };
            fail_point!("collect-begun");
            content.store.remove(&digest, &place).await?;
            fail_point!("collect-unlinked");
            content.records.end_removal(&digest, &place).await?;
            fail_point!("collect-ended");
            Ok(Some(blob.size))
        })
        .await
    }

    /// Removes again what a crash, or a failure, left in removal.
    ///
    /// # Errors
    /// When records or disk fail.
    pub async fn finish_interrupted(&self) -> Result<(), ContentError> {
        let _turn = self.turn.lock().await;
        let mut collected = Collected::default();
        loop {
            let interrupted = self.content.records.interrupted_removals(PAGE).await?;
            if interrupted.is_empty() {
                return Ok(());
            }
            tracing::info!(blobs = interrupted.len(), "finishing removals that were interrupted");
            self.remove_all(interrupted, &mut collected).await?;
        }
    }

    /// Looks once through all files for those that no record knows: a crash between the rename of
    /// a published file and its record leaves one, or a commit that failed, and no event would ever
    /// lead to it.
    ///
    /// # Errors
    /// When records or disk fail; the next start begins again.
    pub async fn sweep(&self) -> Result<(), ContentError> {
        let shards = self.content.upkeep.disk().map_or(0, |_| SHARDS);
        for shard in 0..shards {
            for (digest, bytes) in self.unknown_files(shard).await? {
                if self.remove_unknown(digest.clone()).await? {
                    tracing::info!(%digest, bytes, "removed a file that a crash or a failure had left");
                    self.totals.swept.inc();
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(self.content.records.sweep_done().await?)
    }

    /// Files of a shard that no record knows, or not yet: [`Self::remove_unknown`] finds out.
    async fn unknown_files(&self, shard: usize) -> Result<Vec<(Digest, u64)>, ContentError> {
        let Some(disk) = self.content.upkeep.disk().cloned() else { return Ok(Vec::new()) };
        let found = blocking(move || disk.list_shard(shard)).await?;
        let found = found
            .map_err(|source| crate::store::StoreError::Io { what: "list the blobs", source })?;
        let files: Vec<(Digest, u64)> =
            found.into_iter().filter_map(|file| Some((file.digest?, file.bytes))).collect();
        let digests: Vec<Digest> = files.iter().map(|(digest, _)| digest.clone()).collect();
        let known = self.content.records.find_blobs(&digests).await?;
        Ok(files
            .into_iter()
            .zip(known)
            .filter(|(_, known)| known.is_none())
            .map(|(f, _)| f)
            .collect())
    }

    /// Removes a file that still has no record, under the lock that publishing holds from its
    /// rename to its record. False: it has one.
    ///
    /// # Errors
    /// When records or disk fail.
    pub async fn remove_unknown(&self, digest: Digest) -> Result<bool, ContentError> {
        self.with_unknown(digest, true).await
    }

    /// Whether a file has no record, and nobody is about to write one.
    ///
    /// # Errors
    /// When the records fail.
    pub async fn is_unknown(&self, digest: Digest) -> Result<bool, ContentError> {
        self.with_unknown(digest, false).await
    }

    async fn with_unknown(&self, digest: Digest, remove: bool) -> Result<bool, ContentError> {
        let content = self.content.clone();
        run_to_end(async move {
            let _guard = content.store.lock(&digest).await;
            let known = content.records.find_blobs(std::slice::from_ref(&digest)).await?;
            if known.iter().any(Option::is_some) {
                return Ok(false);
            }
            if remove {
                content.store.remove(&digest, &Place::File).await?;
            }
            Ok(true)
        })
        .await
    }

    /// Deletes (or counts) the manifests that no tag, no index and no existing subject keeps and
    /// that nobody has pushed for `grace`. A manifest that goes may leave others untagged; they
    /// go too.
    ///
    /// # Errors
    /// When the records fail.
    pub async fn untagged(&self, grace: Duration, what: Untagged) -> Result<u64, ContentError> {
        let records = &self.content.records;
        let now = records.gc_now().as_millis();
        let grace = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        // Younger than the store itself is young.
        let Some(before) = now.checked_sub(grace).map(GcTime::from_millis) else { return Ok(0) };
        let (mut total, mut last): (u64, Option<RepoName>) = (0, None);
        loop {
            let page = records.list_repositories(last.as_ref().map(RepoName::as_str), PAGE).await?;
            for repo in &page.entries {
                total += self.untagged_in(repo, before, what).await?;
            }
            last = page.entries.last().cloned();
            if !page.more || last.is_none() {
                return Ok(total);
            }
        }
    }

    async fn untagged_in(
        &self,
        repo: &RepoName,
        before: GcTime,
        what: Untagged,
    ) -> Result<u64, ContentError> {
        let records = &self.content.records;
        let mut total = 0;
        loop {
            let (mut found, mut after): (u64, Option<Digest>) = (0, None);
            loop {
                let page = records.list_manifests(repo, Some(before), after.as_ref(), PAGE).await?;
                for digest in &page.entries {
                    found += match what {
                        Untagged::Count => 1,
                        Untagged::Delete => {
                            u64::from(records.delete_untagged(repo, digest, before).await?)
                        }
                    };
                }
                after = page.entries.last().cloned();
                if !page.more || after.is_none() {
                    break;
                }
            }
            total += found;
            if found == 0 || what == Untagged::Count {
                return Ok(total);
            }
        }
    }
}

/// Unix time.
pub(super) fn unix_seconds() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
