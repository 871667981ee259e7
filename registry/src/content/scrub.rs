//! Reading every blob again, slowly, to find the ones that rotted before a client does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use shared::Digest;

use super::collect::Collector;
use super::{Content, ContentError, blocking};
use crate::records::{BlobRecord, BlobState};

/// Blobs looked up at a time.
const PAGE: usize = 100;

/// The first pass begins this long after the start, when clients have had their turn.
const START_DELAY: Duration = Duration::from_secs(60);

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
    pub passes: Counter,
}

/// See the module.
#[derive(Debug)]
pub struct Scrub {
    content: Content,
    collector: Arc<Collector>,
    settings: Settings,
    totals: Totals,
    /// Ends the read under way: a runtime that ends waits for its blocking threads.
    stopped: Arc<AtomicBool>,
}

impl Scrub {
    pub fn new(content: Content, collector: Arc<Collector>, settings: Settings) -> Self {
        let (totals, stopped) = (Totals::default(), Arc::default());
        Self { content, collector, settings, totals, stopped }
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
            if let Err(error) = self.pass().await {
                tracing::warn!(%error, "the scrub stopped early; it begins anew later");
            }
            tokio::time::sleep(self.settings.interval).await;
        }
    }

    /// Reads every blob once.
    ///
    /// # Errors
    /// When records or disk fail.
    pub async fn pass(&self) -> Result<(), ContentError> {
        let mut after: Option<Digest> = None;
        loop {
            let page = self.content.records.list_blobs(after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.digest.clone());
            for blob in page.iter().filter(|blob| blob.state == BlobState::Live) {
                if self.stopped.load(Ordering::Acquire) {
                    return Ok(());
                }
                self.look_at(blob).await?;
            }
        }
        self.totals.passes.inc();
        Ok(())
    }

    async fn look_at(&self, blob: &BlobRecord) -> Result<(), ContentError> {
        let (disk, digest, size) = (Arc::clone(&self.content.disk), blob.digest.clone(), blob.size);
        let (rate, stopped) = (self.settings.rate, Arc::clone(&self.stopped));
        let read = blocking(move || {
            let (began, mut bytes) = (Instant::now(), 0_u64);
            let verified = disk.verify_blob(&digest, size, |step| {
                bytes += step;
                if let Some(due) = time_for(bytes, rate) {
                    std::thread::sleep(due.saturating_sub(began.elapsed()));
                }
                !stopped.load(Ordering::Acquire)
            });
            (verified, bytes)
        });
        let (verified, bytes) = read.await?;
        self.totals.bytes.inc_by(bytes);
        match verified {
            Ok(None) => {}
            Ok(Some(rotten)) => {
                if self.collector.quarantine(&blob.digest, blob.size).await? {
                    self.totals.rotten.inc();
                    tracing::error!(
                        digest = %blob.digest,
                        ?rotten,
                        "a blob is rotten and is served no more; push it again to heal it"
                    );
                }
            }
            // Unreadable is not rotten: the cable may be loose.
            Err(error) => tracing::error!(digest = %blob.digest, %error, "a blob cannot be read"),
        }
        Ok(())
    }
}

/// How long this many bytes may take; `None` without a limit.
fn time_for(bytes: u64, rate: u64) -> Option<Duration> {
    let micros = u128::from(bytes) * 1_000_000 / u128::from(rate.max(1));
    (rate != 0).then(|| Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
}
