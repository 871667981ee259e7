//! The certificate that new connections are shown, which changes while the server runs.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use prometheus_client::metrics::gauge::Gauge;
use tokio_rustls::rustls::ServerConfig;

use super::load::load;
use super::{Settings, TlsError};
use crate::files::Stamp;

/// What handshakes are made with. A connection keeps what it was greeted with until it ends.
#[derive(Debug)]
pub struct Tls {
    settings: Settings,
    current: RwLock<Arc<ServerConfig>>,
    seen: Mutex<Vec<Option<Stamp>>>,
    /// See [`Tls::warnings`].
    warnings: Mutex<Vec<String>>,
    not_after: Gauge,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn new(settings: Settings) -> Result<Self, TlsError> {
        let seen = stamps(&settings);
        let loaded = load(&settings)?;
        let not_after = Gauge::default();
        not_after.set(loaded.not_after.unwrap_or(0));
        Ok(Self {
            settings,
            current: RwLock::new(Arc::new(loaded.server)),
            seen: Mutex::new(seen),
            warnings: Mutex::new(loaded.warnings),
            not_after,
        })
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What an operator should be told about the files as they were read last.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When the certificate that is shown ends, in Unix time; 0 where that is not understood.
    pub(crate) fn not_after(&self) -> Gauge {
        self.not_after.clone()
    }

    /// For a handshake that begins now.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files again. When that fails, what was there before stays.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn reload(&self) -> Result<(), TlsError> {
        // Before the files: a change while they are read is seen the next time.
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = stamps(&self.settings);
        let loaded = load(&self.settings)?;
        self.not_after.set(loaded.not_after.unwrap_or(0));
        *self.warnings.lock().unwrap_or_else(PoisonError::into_inner) = loaded.warnings;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded.server);
        Ok(())
    }

    /// [`Tls::reload`] if a file has changed since it was last read. `None`: none has.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn reload_if_changed(&self) -> Option<Result<(), TlsError>> {
        let changed =
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) != stamps(&self.settings);
        changed.then(|| self.reload())
    }
}

fn stamps(settings: &Settings) -> Vec<Option<Stamp>> {
    settings.files().map(|path| Stamp::of(path)).collect()
}
