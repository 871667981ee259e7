//! How uploads ended.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// How an upload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
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
struct OutcomeLabel {
    outcome: &'static str,
}

/// Uploads that ended, counted since the start. Clones count together.
#[derive(Clone, Debug)]
pub struct UploadOutcomes(Family<OutcomeLabel, Counter>);

impl Default for UploadOutcomes {
    fn default() -> Self {
        let counts = Self(Family::default());
        // From the start: of a series that begins with its first event, `rate` misses that event.
        for outcome in [Outcome::Completed, Outcome::Cancelled, Outcome::Expired, Outcome::Failed] {
            drop(counts.0.get_or_create(&outcome.label()));
        }
        counts
    }
}

impl UploadOutcomes {
    pub(super) fn count(&self, outcome: Outcome) {
        self.0.get_or_create(&outcome.label()).inc();
    }

    /// Shows them in a registry of metrics.
    pub fn register(&self, registry: &mut prometheus_client::registry::Registry) {
        registry.register("upload_outcomes", "Uploads that ended, by how", self.0.clone());
    }
}
