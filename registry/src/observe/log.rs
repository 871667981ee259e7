//! Logs on stderr: text for people, JSON for collectors.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

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

/// Starts logging for the whole process.
///
/// # Errors
/// See [`LogError`].
pub fn init(settings: &Settings) -> Result<(), LogError> {
    // What actix says about its start is noise at `info`; a filter of one's own can ask for it.
    let filter = EnvFilter::try_new(format!("actix_server=warn,{}", settings.level))
        .map_err(|_| LogError::Level(settings.level.clone()))?;
    let terminal = std::io::stderr().is_terminal();
    let format = settings.format.unwrap_or(if terminal { Format::Text } else { Format::Json });
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_timer(SystemTime)
        .with_target(false);
    match format {
        Format::Text => builder.with_ansi(terminal).try_init(),
        Format::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    }
    .map_err(|_| LogError::Twice)
}
