//! From a registry into the store. The only part of the runner that is async.

mod certificates;
mod challenge;
mod client;
mod error;
mod fence;
mod layer;
mod local;
mod progress;
mod registry;
mod resolve;

use shared::ImageRef;
use shared::manifest::Platform;

pub(crate) use self::client::Login;
pub use self::error::{PullError, human_bytes};
pub use self::resolve::{foreign_platform, parse_platform, platform_text};
use crate::credentials::{CredentialsOptions, Place};
use crate::images::{Image, Lease, Store};

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
    /// `--creds`, `--authfile`
    pub credentials: CredentialsOptions,
    pub progress: ProgressOptions,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            policy: PullPolicy::default(),
            platform: None,
            tls_verify: true,
            plain_http: false,
            credentials: CredentialsOptions::default(),
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

/// The tags of a repository, as the registry orders them.
///
/// # Errors
/// As [`ensure`], where the registry cannot be asked.
pub fn tags(name: &ImageRef, options: &PullOptions) -> Result<Vec<String>, PullError> {
    registry::tags(name, options)
}

/// Logs in at a registry, and keeps the credentials once it has taken them. Whether it asks anybody,
/// and where they are kept.
///
/// # Errors
/// As [`ensure`], where the registry cannot be asked or refuses; where they cannot be kept.
pub(crate) fn log_in(
    registry: &str,
    username: &str,
    password: &str,
    options: &PullOptions,
) -> Result<(Login, Place), PullError> {
    registry::log_in(registry, username, password, options)
}

/// The image that `text` names (a reference, or the id of a local image), with all of its layers
/// whole in the store, and a lease that keeps it there: hold it until the container's record is
/// written. Blocks; runs a runtime of its own where the registry has to be asked.
///
/// # Errors
/// See [`PullError`]. Whatever failed, nothing unverified stays in the store but resumable parts.
pub fn ensure(
    store: &Store,
    text: &str,
    options: &PullOptions,
) -> Result<(Image, Lease), PullError> {
    let asks_first = matches!(options.policy, PullPolicy::Always | PullPolicy::Newer);
    let local = local::find(store, text, options)?;
    if let (Some(found), false) = (&local, asks_first) {
        return found.image(store, options);
    }
    if options.policy == PullPolicy::Never {
        return Err(PullError::NotLocal(text.into()));
    }
    let name: ImageRef =
        text.parse().map_err(|source| PullError::Reference { text: text.into(), source })?;
    // Nothing of a pull that was killed stays for longer than until the next one.
    store.tidy()?;
    let pulled = registry::pull(store, &name, options);
    match (pulled, local) {
        (Err(error), Some(found)) if options.policy == PullPolicy::Newer => {
            tracing::warn!(%error, "the registry cannot be asked; using the local image");
            found.image(store, options)
        }
        (pulled, _) => pulled,
    }
}
