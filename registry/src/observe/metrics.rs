//! Prometheus metrics. Distribution's names where the meaning is the same, so that dashboards go
//! on working; no repository label, whose number nothing bounds.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use shared::ErrorCode;

use super::Exchange;
use super::form::{self, Form};
use super::process::Process;
use crate::content::{Content, collect, scrub};
use crate::records::{Totals, Waiting};
use crate::tls::Tls;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    handler: &'static str,
    method: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Endpoint {
    handler: &'static str,
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handler {
    handler: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

/// Values that are read when somebody asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauges {
    pub uploads_active: usize,
    pub disk_free_bytes: u64,
    pub disk_capacity_bytes: u64,
    pub writable: bool,
    pub waiting: Waiting,
    pub totals: Totals,
}

/// Everything that is counted. One per server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    durations: Family<Endpoint, Histogram, fn() -> Histogram>,
    in_flight: Family<Handler, Gauge>,
    request_bytes: Family<Endpoint, Histogram, fn() -> Histogram>,
    response_bytes: Family<Endpoint, Histogram, fn() -> Histogram>,
    errors: Family<Code, Counter>,
    blob_bytes: Family<Direction, Counter>,
    pulls: Counter,
    pushes: Family<Kind, Counter>,
    uploads_active: Gauge,
    disk_free: Gauge<u64, AtomicU64>,
    disk_capacity: Gauge<u64, AtomicU64>,
    writable: Gauge,
    waiting: WaitingGauges,
    stored: StoredGauges,
    reload_successful: Gauge,
    handshake_errors: Counter,
    process: Process,
}

/// How much is stored.
#[derive(Debug, Default)]
struct StoredGauges {
    repositories: Gauge<u64, AtomicU64>,
    tags: Gauge<u64, AtomicU64>,
    manifests: Gauge<u64, AtomicU64>,
    blobs: Gauge<u64, AtomicU64>,
    bytes: Gauge<u64, AtomicU64>,
}

/// What waits for collection.
#[derive(Debug, Default)]
struct WaitingGauges {
    reviews: Gauge<u64, AtomicU64>,
    links: Gauge<u64, AtomicU64>,
    bytes: Gauge<u64, AtomicU64>,
    rescued: Counter,
    quarantined: Gauge<u64, AtomicU64>,
}

fn duration_histogram() -> Histogram {
    // Seconds: from a manifest out of memory to a large layer over a slow line.
    Histogram::new([0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0])
}

fn size_histogram() -> Histogram {
    // Distribution's: powers of two from 1 KiB, here by fours, to 4 GiB.
    Histogram::new(exponential_buckets(1024.0, 4.0, 12))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(duration_histogram as fn() -> Histogram),
            in_flight: Family::default(),
            request_bytes: Family::new_with_constructor(size_histogram as fn() -> Histogram),
            response_bytes: Family::new_with_constructor(size_histogram as fn() -> Histogram),
            errors: Family::default(),
            blob_bytes: Family::default(),
            pulls: Counter::default(),
            pushes: Family::default(),
            uploads_active: Gauge::default(),
            disk_free: Gauge::default(),
            disk_capacity: Gauge::default(),
            writable: Gauge::default(),
            waiting: WaitingGauges::default(),
            stored: StoredGauges::default(),
            reload_successful: Gauge::default(),
            handshake_errors: Counter::default(),
            process: Process::default(),
        };
        metrics.reloaded(true);
        metrics.begin_at_zero();
        metrics.register();
        metrics
    }
}

/// What is answered under each name of [`Exchange::handler`], as labels have it.
const ENDPOINTS: [(&str, &[&str]); 12] = [
    ("root", &["get", "head"]),
    ("base", &["get", "head"]),
    ("catalog", &["get", "head"]),
    ("blob", &["get", "head", "delete"]),
    ("blob_upload", &["post"]),
    ("blob_upload_chunk", &["get", "head", "patch", "put", "delete"]),
    ("manifest", &["get", "head", "put", "delete"]),
    ("tags", &["get", "head"]),
    ("referrers", &["get", "head"]),
    ("health", &["get", "head"]),
    ("metrics", &["get", "head"]),
    ("unknown", &[]),
];

impl Metrics {
    /// Makes every series whose labels are known: of one that begins with its first event, `rate`
    /// misses that event.
    fn begin_at_zero(&self) {
        for code in ErrorCode::ALL {
            drop(self.errors.get_or_create(&Code { code: code.as_str() }));
        }
        for kind in ["blob", "manifest"] {
            drop(self.pushes.get_or_create(&Kind { kind }));
        }
        for direction in ["in", "out"] {
            drop(self.blob_bytes.get_or_create(&Direction { direction }));
        }
        for (handler, methods) in ENDPOINTS {
            drop(self.in_flight.get_or_create(&Handler { handler }));
            for method in methods {
                let endpoint = Endpoint { handler, method };
                drop(self.durations.get_or_create(&endpoint));
                drop(self.request_bytes.get_or_create(&endpoint));
                drop(self.response_bytes.get_or_create(&endpoint));
            }
        }
    }

    fn register(&mut self) {
        self.process.register(&mut self.registry);
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        let root = self.registry.sub_registry_with_prefix("registry");
        root.register("build", "The running version", build);
        root.register("pulls", "Manifests pulled", self.pulls.clone());
        root.register("pushes", "Blobs and manifests pushed", self.pushes.clone());
        root.register("blob_bytes", "Bytes of blobs moved", self.blob_bytes.clone());
        root.register("errors", "Failed requests by error code", self.errors.clone());
        let dropped = super::queue::dropped().clone();
        root.register("log_dropped_lines", "Lines of the log that nobody took", dropped);
        root.register("uploads_active", "Open uploads", self.uploads_active.clone());
        root.register("storage_free_bytes", "Free space of the disk", self.disk_free.clone());
        let capacity = self.disk_capacity.clone();
        root.register("storage_capacity_bytes", "Space of the disk, free or not", capacity);
        root.register("storage_writable", "1 while pushes can succeed", self.writable.clone());
        root.register(
            "config_last_reload_successful",
            "1 unless the configuration could not be read again",
            self.reload_successful.clone(),
        );
        root.register(
            "tls_handshake_errors",
            "Connections that ended in their TLS handshake",
            self.handshake_errors.clone(),
        );
        let stored = &self.stored;
        root.register("storage_repositories", "Repositories", stored.repositories.clone());
        root.register("storage_tags", "Tags", stored.tags.clone());
        root.register("storage_manifests", "Manifests", stored.manifests.clone());
        root.register("storage_blobs", "Blobs, each counted once", stored.blobs.clone());
        root.register("storage_bytes", "Bytes of these blobs", stored.bytes.clone());
        let http = root.sub_registry_with_prefix("http");
        http.register("requests", "Requests answered", self.requests.clone());
        http.register(
            "request_duration_seconds",
            "Time from a request's head to its answer's last byte",
            self.durations.clone(),
        );
        http.register("in_flight_requests", "Requests being handled", self.in_flight.clone());
        http.register("request_size_bytes", "Bytes of request bodies", self.request_bytes.clone());
        http.register("response_size_bytes", "Bytes of answer bodies", self.response_bytes.clone());
    }

    /// Shows when the certificate ends.
    pub fn show_tls(&mut self, tls: &Tls) {
        self.registry.sub_registry_with_prefix("registry").register(
            "tls_certificate_expiry_timestamp_seconds",
            "End of the certificate that is shown, in Unix time",
            tls.not_after(),
        );
    }

    /// Shows what the store counts.
    pub fn show_storage(&mut self, content: &Content) {
        let root = self.registry.sub_registry_with_prefix("registry");
        let counts = content.store().counts();
        counts.outcomes.register(root);
        let storage = root.sub_registry_with_prefix("storage");
        storage.register("action_seconds", "Time that the disk takes", counts.actions);
        let met = content.rot().met.clone();
        storage.register("rot_met", "Pulls that met a missing or short file of a blob", met);
        let cache = content.manifest_cache();
        let requests = cache.requests.clone();
        storage.register("cache_requests", "Manifests looked up in memory", requests);
        storage.register("cache_hits", "Manifests found in memory", cache.hits.clone());
    }

    /// Shows what collection and scrub count.
    pub fn show_upkeep(&mut self, collect: &collect::Totals, scrub: &scrub::Totals) {
        let waiting = &self.waiting;
        let root = self.registry.sub_registry_with_prefix("registry");
        let quarantined = waiting.quarantined.clone();
        root.register("storage_quarantined_blobs", "Blobs found rotten, not healed", quarantined);
        let gc = root.sub_registry_with_prefix("gc");
        gc.register("runs", "Rounds of collection", collect.rounds.clone());
        gc.register("failed_runs", "Rounds that ended early", collect.rounds_failed.clone());
        gc.register("duration_seconds", "Time that rounds took", collect.seconds.clone());
        gc.register(
            "last_success_timestamp_seconds",
            "End of the last round that ended well, in Unix time",
            collect.last_success.clone(),
        );
        gc.register("deleted", "Blobs removed", collect.blobs.clone());
        gc.register("freed_bytes", "Bytes of removed blobs", collect.bytes.clone());
        gc.register("condemned", "Links condemned", collect.condemned.clone());
        let rescued = waiting.rescued.clone();
        gc.register("rescued", "Condemned links that are in use again", rescued);
        gc.register("swept_files", "Files removed that a crash had left", collect.swept.clone());
        gc.register("waiting_reviews", "Reviews queued", waiting.reviews.clone());
        gc.register("waiting_links", "Links condemned, not yet removed", waiting.links.clone());
        gc.register("waiting_bytes", "Bytes that come back after the grace", waiting.bytes.clone());
        let scrubbed = root.sub_registry_with_prefix("scrub");
        scrubbed.register("bytes", "Bytes read to find rot", scrub.bytes.clone());
        scrubbed.register("rotten", "Blobs found rotten", scrub.rotten.clone());
        scrubbed.register("errors", "Blobs and passes that failed", scrub.errors.clone());
        scrubbed.register("passes", "Times that everything was read", scrub.passes.clone());
        scrubbed.register(
            "last_success_timestamp_seconds",
            "End of the last pass, in Unix time",
            scrub.last_success.clone(),
        );
    }

    /// Says whether a configuration was read anew.
    pub fn reloaded(&self, successful: bool) {
        self.reload_successful.set(i64::from(successful));
    }

    /// Counts connections that end in their handshake.
    pub(crate) fn handshake_errors(&self) -> Counter {
        self.handshake_errors.clone()
    }

    /// Counts a request that begins to be handled.
    pub fn begin(&self, handler: &'static str) {
        self.in_flight.get_or_create(&Handler { handler }).inc();
    }

    pub(super) fn exchange(&self, exchange: &Exchange, received: u64, duration: Duration) {
        let (handler, method) = (exchange.handler, method_label(&exchange.method));
        let endpoint = Endpoint { handler, method };
        self.in_flight.get_or_create(&Handler { handler }).dec();
        self.requests.get_or_create(&Request { handler, method, code: exchange.status }).inc();
        self.durations.get_or_create(&endpoint).observe(duration.as_secs_f64());
        self.request_bytes.get_or_create(&endpoint).observe(received as f64);
        self.response_bytes.get_or_create(&endpoint).observe(exchange.sent as f64);
        if let Some(code) = exchange.error_code {
            self.errors.get_or_create(&Code { code }).inc();
        }
        match (handler, method, exchange.status) {
            ("manifest", "get", 200) => {
                self.pulls.inc();
            }
            ("manifest", "put", 201) => {
                self.pushes.get_or_create(&Kind { kind: "manifest" }).inc();
            }
            ("blob_upload" | "blob_upload_chunk", "put" | "post", 201) => {
                self.pushes.get_or_create(&Kind { kind: "blob" }).inc();
            }
            _ => {}
        }
        if handler == "blob" && exchange.sent > 0 {
            self.blob_bytes.get_or_create(&Direction { direction: "out" }).inc_by(exchange.sent);
        }
        if handler.starts_with("blob_upload") && received > 0 {
            self.blob_bytes.get_or_create(&Direction { direction: "in" }).inc_by(received);
        }
    }

    /// The metrics as text.
    pub fn encode(&self, gauges: Gauges, form: Form) -> String {
        self.uploads_active.set(i64::try_from(gauges.uploads_active).unwrap_or(i64::MAX));
        self.disk_free.set(gauges.disk_free_bytes);
        self.disk_capacity.set(gauges.disk_capacity_bytes);
        self.writable.set(i64::from(gauges.writable));
        self.waiting.reviews.set(gauges.waiting.reviews);
        self.waiting.links.set(gauges.waiting.condemned_links);
        self.waiting.bytes.set(gauges.waiting.condemned_bytes);
        // Counted where it happens, and never less than before.
        self.waiting.rescued.inner().store(gauges.waiting.rescued, Ordering::Relaxed);
        self.waiting.quarantined.set(gauges.waiting.quarantined);
        let Totals { repositories, tags, manifests, blobs, blob_bytes } = gauges.totals;
        self.stored.repositories.set(repositories);
        self.stored.tags.set(tags);
        self.stored.manifests.set(manifests);
        self.stored.blobs.set(blobs);
        self.stored.bytes.set(blob_bytes);
        self.process.read();
        let mut text = String::new();
        if prometheus_client::encoding::text::encode(&mut text, &self.registry).is_err() {
            // Writing to a String does not fail.
            let _ = write!(text, "# EOF");
        }
        match form {
            Form::OpenMetrics => text,
            Form::Classic => form::classic(&text),
        }
    }
}

/// Distribution has methods in lower case. Anything else is one label, or clients could make any
/// number of them.
fn method_label(method: &str) -> &'static str {
    match method {
        "GET" => "get",
        "HEAD" => "head",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        "OPTIONS" => "options",
        _ => "other",
    }
}
