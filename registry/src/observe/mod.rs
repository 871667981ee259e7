//! What an operator sees: logs and metrics.

mod counted;
mod form;
mod log;
mod metrics;
mod process;
mod queue;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

pub use counted::Counted;
pub use form::Form;
pub use log::{Format, Level, LogError, Settings, init, is_level};
pub use metrics::{Gauges, Metrics};
pub use queue::write_apart;

/// One request and its answer, from the head's arrival to the last byte sent. Dropping it counts the
/// request and logs it, so that one whose connection breaks is counted as well.
#[derive(Debug)]
pub struct Exchange {
    pub id: Arc<str>,
    pub method: String,
    pub handler: &'static str,
    /// Without the query, which may carry secrets.
    pub path: String,
    pub repository: Option<String>,
    pub reference: Option<String>,
    pub remote: Option<IpAddr>,
    pub user_agent: Option<String>,
    pub started: Instant,
    pub status: u16,
    pub error_code: Option<&'static str>,
    /// Bytes of the request's body.
    pub received: Arc<AtomicU64>,
    /// Bytes of the answer's body.
    pub sent: u64,
    pub access_log: bool,
    pub metrics: Arc<Metrics>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        let received = self.received.load(Ordering::Relaxed);
        self.metrics.exchange(self, received, duration);
        if !self.access_log {
            return;
        }
        tracing::info!(
            target: "access",
            request_id = &*self.id,
            remote = self.remote.map(tracing::field::display),
            method = self.method,
            path = self.path,
            repo = self.repository,
            reference = self.reference,
            status = self.status,
            received,
            bytes = self.sent,
            duration_ms = duration.as_micros() as f64 / 1000.0,
            user_agent = self.user_agent,
            error_code = self.error_code,
            "request"
        );
    }
}
