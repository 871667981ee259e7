//! Logs on stderr: text for people, JSON for collectors.

use std::io::IsTerminal as _;
use std::sync::Arc;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::queue::{Flush, Queue};

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

/// How to log.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `error`, `warn`, `info`, `debug`, `trace`, or tracing's filter syntax.
    pub level: String,
    /// `None`: text when stderr is a terminal, else JSON.
    pub format: Option<Format>,
}

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the log level {0:?} is none of error, warn, info, debug, trace")]
    Level(String),
    #[error("logging was set up twice")]
    Twice,
}

/// Changes how much is logged while the process runs. When the last one goes, what is queued is
/// written.
#[derive(Clone, Debug)]
pub struct Level {
    handle: reload::Handle<EnvFilter, tracing_subscriber::Registry>,
    _flush: Arc<Flush>,
}

impl Level {
    /// Logs by `level` from now on.
    ///
    /// # Errors
    /// [`LogError::Level`]; the level stays as it was.
    pub fn set(&self, level: &str) -> Result<(), LogError> {
        // The handle fails only when logging itself is gone.
        self.handle.reload(filter(level)?).map_err(|_| LogError::Level(level.to_owned()))
    }
}

/// Whether a log can be told to keep to `level`.
pub fn is_level(level: &str) -> bool {
    filter(level).is_ok()
}

fn filter(level: &str) -> Result<EnvFilter, LogError> {
    // What actix says about its start is noise at `info`; a filter of one's own can ask for it.
    EnvFilter::try_new(format!("actix_server=warn,{level}"))
        .map_err(|_| LogError::Level(level.to_owned()))
}

/// Starts logging for the whole process.
///
/// # Errors
/// See [`LogError`].
pub fn init(settings: &Settings) -> Result<Level, LogError> {
    let (filter, handle) = reload::Layer::new(filter(&settings.level)?);
    let terminal = std::io::stderr().is_terminal();
    let format = settings.format.unwrap_or(if terminal { Format::Text } else { Format::Json });
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(Queue)
        .with_timer(SystemTime)
        .with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        Format::Text => registry.with(lines.with_ansi(terminal)).try_init(),
        Format::Json => {
            registry.with(lines.json().flatten_event(true).with_current_span(false)).try_init()
        }
    }
    .map_err(|_| LogError::Twice)?;
    Ok(Level { handle, _flush: Arc::new(Flush) })
}
