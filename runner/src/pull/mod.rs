//! From a registry into the store. The only part of the runner that is async.

use shared::manifest::Platform;

use crate::images::{Image, Lease, Store, StoreError};

/// When the registry is asked. `--pull`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    /// Only where the image is not in the store.
    #[default]
    Missing,
    Never,
    /// Always, but what is in the store will do where the registry cannot be asked.
    Newer,
}

/// How the registry is spoken to, and for what.
#[derive(Clone, Debug)]
pub struct PullOptions {
    pub policy: PullPolicy,
    /// `--platform`; without it the host's.
    pub platform: Option<Platform>,
    /// `--tls-verify=false` clears it: certificates are not checked, and a registry that answers
    /// plain HTTP is spoken to in plain HTTP.
    pub tls_verify: bool,
    /// `--plain-http`: the default for loopback, and only there.
    pub plain_http: bool,
    pub progress: ProgressOptions,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            policy: PullPolicy::default(),
            platform: None,
            tls_verify: true,
            plain_http: false,
            progress: ProgressOptions::default(),
        }
    }
}

/// `--progress`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgressMode {
    /// Bars where the stream is a terminal, plain lines otherwise.
    #[default]
    Auto,
    Tty,
    Plain,
    Json,
    None,
}

/// Where and how progress is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProgressOptions {
    pub mode: ProgressMode,
    /// `rrun pull` talks on stdout, as Docker's does; every other verb on stderr.
    pub to_stdout: bool,
    /// `-q`
    pub quiet: bool,
}

/// Why an image did not come into the store.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("not built yet")]
    NotBuilt,
}

impl PullError {
    /// What to do about it: lines for `hint:`.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Store(error) => error.hints(),
            Self::NotBuilt => Vec::new(),
        }
    }
}

/// The image that `text` names (a reference, or the id of a local image), with all of its layers
/// whole in the store, and a lease that keeps it there: hold it until the container's record is
/// written. Blocks; runs a runtime of its own where the registry has to be asked.
pub fn ensure(
    store: &Store,
    text: &str,
    options: &PullOptions,
) -> Result<(Image, Lease), PullError> {
    let _ = (store, text, options);
    Err(PullError::NotBuilt)
}
