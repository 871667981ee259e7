//! Reading every blob again, slowly, to find the ones that rotted before a client does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::collect::unix_seconds;
use super::{Content, ContentError};
use crate::records::{BlobRecord, BlobState, ScrubProgress};

/// Blobs looked up at a time.
const PAGE: usize = 100;

/// The first pass begins this long after the start, when clients have had their turn.
const START_DELAY: Duration = Duration::from_secs(60);

/// How often a pass keeps how far it has come: what a restart reads again at most.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);

/// Time from a pass that failed to the next attempt at most.
const RETRY: Duration = Duration::from_secs(3600);

/// How a scrub goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes read per second at most; 0 turns the scrub off.
    pub rate: u64,
    /// Time from the end of one pass to the beginning of the next.
    pub interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { rate: 8 << 20, interval: Duration::from_secs(7 * 24 * 3600) }
    }
}

/// Counted since the start.
#[derive(Debug, Default)]
pub struct Totals {
    pub bytes: Counter,
    pub rotten: Counter,
    /// Blobs that could not be read, and passes that ended early.
    pub errors: Counter,
    pub passes: Counter,
    /// Unix time of the end of the last pass.
    pub last_success: Gauge,
}

/// See the module.
#[derive(Debug)]
pub struct Scrub {
    content: Content,
    settings: Settings,
    totals: Totals,
    /// Ends the read under way: a runtime that ends waits for its blocking threads.
    stopped: Arc<AtomicBool>,
}

impl Scrub {
    pub fn new(content: Content, settings: Settings) -> Self {
        let (totals, stopped) = (Totals::default(), Arc::default());
        Self { content, settings, totals, stopped }
    }

    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Ends a pass, within a MiB and a second.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Passes for ever, if it is turned on.
    pub async fn run(self: Arc<Self>) {
        if self.settings.rate == 0 {
            return;
        }
        tokio::time::sleep(START_DELAY.min(self.settings.interval)).await;
        loop {
            let wait = match self.pass().await {
                Ok(wait) => wait,
                Err(error) => {
                    self.totals.errors.inc();
                    tracing::warn!(%error, "the scrub stopped early; it goes on later");
                    RETRY.min(self.settings.interval)
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Reads every blob once, from where an earlier process stopped; nothing, while the last pass is
    /// younger than the interval. Gives the time until the next one.
    ///
    /// # Errors
    /// When records or disk fail.
    pub async fn pass(&self) -> Result<Duration, ContentError> {
        let records = &self.content.records;
        let mut progress = records.scrub_progress().await?;
        if progress.after.is_none()
            && let Some(finished) = progress.finished
        {
            let next = finished.after(self.settings.interval).since(records.gc_now());
            if !next.is_zero() {
                return Ok(next);
            }
        }
        let mut saved = Instant::now();
        loop {
            let page = records.list_blobs(progress.after.as_ref(), PAGE).await?;
            if page.is_empty() {
                break;
            }
            for blob in &page {
                if self.stopped.load(Ordering::Acquire) {
                    return Ok(self.settings.interval);
                }
                if blob.state == BlobState::Live {
                    self.look_at(blob).await?;
                }
                progress.after = Some(blob.digest.clone());
                if saved.elapsed() > SAVE_INTERVAL {
                    self.save(&progress).await?;
                    saved = Instant::now();
                }
            }
        }
        self.save(&ScrubProgress { after: None, finished: Some(records.gc_now()) }).await?;
        self.totals.passes.inc();
        self.totals.last_success.set(unix_seconds());
        Ok(self.settings.interval)
    }

    /// A store that takes no writes is read all the same.
    async fn save(&self, progress: &ScrubProgress) -> Result<(), ContentError> {
        if self.content.writable().is_ok() {
            self.content.records.save_scrub_progress(progress).await?;
        }
        Ok(())
    }

    async fn look_at(&self, blob: &BlobRecord) -> Result<(), ContentError> {
        let (rate, stopped) = (self.settings.rate, Arc::clone(&self.stopped));
        let (began, read) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let so_far = Arc::clone(&read);
        let pace = move |step| {
            let bytes = so_far.fetch_add(step, Ordering::AcqRel) + step;
            if let Some(due) = time_for(bytes, rate) {
                std::thread::sleep(due.saturating_sub(began.elapsed()));
            }
            !stopped.load(Ordering::Acquire)
        };
        let verified = self.content.store.verify(blob, Box::new(pace)).await;
        let bytes = read.load(Ordering::Acquire);
        self.totals.bytes.inc_by(bytes);
        match verified {
            Ok(None) => {}
            Ok(Some(rotten)) => {
                if self.content.quarantine(&blob.digest, blob.size).await? {
                    self.totals.rotten.inc();
                    tracing::error!(
                        digest = %blob.digest,
                        ?rotten,
                        "a blob is rotten and is served no more; push it again to heal it"
                    );
                }
            }
            // Unreadable is not rotten: the cable may be loose.
            Err(error) => {
                self.totals.errors.inc();
                tracing::error!(digest = %blob.digest, %error, "a blob cannot be read");
            }
        }
        Ok(())
    }
}

/// How long this many bytes may take; `None` without a limit.
fn time_for(bytes: u64, rate: u64) -> Option<Duration> {
    let micros = u128::from(bytes) * 1_000_000 / u128::from(rate.max(1));
    (rate != 0).then(|| Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use shared::Digest;

    use super::*;
    use crate::content::{Policy, Upkeep};
    use crate::records::sqlite::{self, SqliteRecords};
    use crate::records::{Missing, Publish};
    use crate::store::disk::{self, Disk, DiskStore};

    async fn content(root: &std::path::Path) -> Content {
        let options = disk::Options { reserve: Some(0), ..disk::Options::default() };
        let disk = Arc::new(Disk::open(root, &options).unwrap());
        let store = Arc::new(DiskStore::new(Arc::clone(&disk)));
        let records = SqliteRecords::open(root, &sqlite::Options::default()).unwrap();
        let records = Arc::new(records);
        let policy = Policy { missing: Missing::Refuse, delete_enabled: true, read_only: false };
        let upkeep = Upkeep::directory(disk, Arc::clone(&records));
        Content::new(store, records, upkeep, policy)
    }

    fn scrub(content: &Content) -> Scrub {
        let interval = Duration::from_secs(3600);
        Scrub::new(content.clone(), Settings { rate: u64::MAX, interval })
    }

    /// A blob whose bytes are not its digest's.
    async fn rotten(content: &Content, text: &str) -> Digest {
        let digest = Digest::sha256(text.as_bytes());
        std::fs::write(content.upkeep.disk().unwrap().blob_path(&digest), "x").unwrap();
        content.records.publish(Publish::file(&"a".parse().unwrap(), &digest, 1)).await.unwrap();
        digest
    }

    #[tokio::test]
    async fn a_pass_goes_on_where_the_process_before_stopped_and_rests_after_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let content = content(directory.path()).await;
        let mut blobs = Vec::new();
        for n in 0..5 {
            blobs.push(rotten(&content, &n.to_string()).await);
        }
        blobs.sort();
        let after = Some(blobs[2].clone());
        let progress = ScrubProgress { after, finished: None };
        content.records.save_scrub_progress(&progress).await.unwrap();
        let first = scrub(&content);
        assert_eq!(first.pass().await.unwrap(), Duration::from_secs(3600));
        assert_eq!(first.totals().rotten.get(), 2, "only what the process before had not seen");

        // A restart does not begin a new pass before its time.
        let second = scrub(&content);
        assert!(second.pass().await.unwrap() > Duration::from_secs(3000));
        assert_eq!(second.totals().rotten.get(), 0);
    }
}
