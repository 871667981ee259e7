//! What the server is told to do.

use std::path::PathBuf;
use std::time::Duration;

use crate::content::{Policy, collect, scrub};
use crate::http::{Limits, Settings};
use crate::records::Missing;
use crate::{observe, store};

/// Everything that is configured, with defaults filled in.
#[derive(Clone, Debug)]
pub struct Config {
    /// `host:port` to listen on.
    pub addr: String,
    /// The data directory.
    pub root: PathBuf,
    pub log: observe::Settings,
    pub http: Settings,
    pub limits: Limits,
    pub policy: Policy,
    pub gc: collect::Settings,
    pub scrub: scrub::Settings,
    pub store: store::Options,
    /// `None`: uploads stay until they are finished or cancelled.
    pub purge: Option<Purge>,
    /// Threads that serve; `None` is one per processor.
    pub workers: Option<usize>,
}

/// When uploads that nobody finishes are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purge {
    pub age: Duration,
    pub interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            addr: "127.0.0.1:5000".to_owned(),
            root: PathBuf::from("./registry-data"),
            log: observe::Settings { level: "info".to_owned(), format: None },
            http: Settings {
                access_log: true,
                headers: Vec::new(),
                host: None,
                relative_urls: true,
                catalog_max: 1000,
                tags_max: 10_000,
                metrics: true,
            },
            limits,
            policy: Policy { missing: Missing::Refuse, delete_enabled: true, read_only: false },
            gc: collect::Settings::default(),
            scrub: scrub::Settings::default(),
            store: store::Options { wait_for_lock: limits.drain, reserve: None },
            purge: Some(Purge {
                age: Duration::from_secs(24 * 3600),
                interval: Duration::from_secs(3600),
            }),
            workers: None,
        }
    }
}
