//! How long the disk takes, as distribution names it: `registry_storage_action_seconds`.

use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Action {
    driver: &'static str,
    action: &'static str,
}

/// One histogram per action; those of distribution's names mean what they mean there. Clones count
/// together.
#[derive(Clone, Debug)]
pub struct Timings {
    family: Family<Action, Histogram>,
    /// Opening a blob.
    pub reader: Histogram,
    /// Hashing and writing a batch of received bytes.
    pub writer: Histogram,
    /// Making an upload's bytes durable.
    pub sync: Histogram,
    /// Giving an upload its blob's name, durably.
    pub publish: Histogram,
    /// Removing a blob, durably.
    pub delete: Histogram,
    /// Committing a group of changes to the records, durably.
    pub commit: Histogram,
}

impl Default for Timings {
    fn default() -> Self {
        let family = no_actions();
        let of = |driver, action| family.get_or_create(&Action { driver, action }).clone();
        Self {
            reader: of("filesystem", "Reader"),
            writer: of("filesystem", "Writer"),
            sync: of("filesystem", "Sync"),
            publish: of("filesystem", "Move"),
            delete: of("filesystem", "Delete"),
            commit: of("sqlite", "Commit"),
            family,
        }
    }
}

impl Timings {
    /// All of them, to be shown.
    pub fn family(&self) -> &Family<Action, Histogram> {
        &self.family
    }
}

/// For a store that waits for nothing.
pub(super) fn no_actions() -> Family<Action, Histogram> {
    Family::new_with_constructor(duration_histogram as fn() -> Histogram)
}

/// Runs `work` and counts how long it took.
pub fn timed<T>(histogram: &Histogram, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = work();
    histogram.observe(began.elapsed().as_secs_f64());
    result
}

fn duration_histogram() -> Histogram {
    // Seconds: from a file in memory to a disk that is about to fail.
    Histogram::new([0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0])
}
