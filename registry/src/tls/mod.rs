//! TLS: the certificate that is shown, and the handshakes.
//!
//! Files are read at the start, at SIGHUP and when they change (see [`Tls`]); what is already
//! connected goes on with what it was greeted with. TLS 1.2 and 1.3, HTTP/1.1 only.

mod accept;
mod dates;
mod load;
mod reload;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use accept::{Greeting, accept};
pub use load::{TlsError, cipher_suites};
pub use reload::Tls;

/// How the registry presents itself, and who is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The certificate and those between it and its authority, in that order, as PEM.
    pub certificate: PathBuf,
    /// Its key, as PEM.
    pub key: PathBuf,
    pub clients: Clients,
    pub minimum: Minimum,
    /// For TLS 1.2, those of [`cipher_suites`]; empty for all of them.
    pub cipher_suites: Vec<String>,
    /// How often the files are looked at.
    pub refresh: Duration,
}

impl Settings {
    /// The defaults, for this pair of files.
    pub fn new(certificate: PathBuf, key: PathBuf) -> Self {
        Self {
            certificate,
            key,
            clients: Clients::Anybody,
            minimum: Minimum::Tls12,
            cipher_suites: Vec::new(),
            refresh: REFRESH,
        }
    }

    /// Every file that is read, with its key in the configuration.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.certificate, &self.key].into_iter().chain(self.clients.authorities())
    }
}

/// A few calls of stat(2) cost nothing, and whoever renews a certificate wants to see it.
const REFRESH: Duration = Duration::from_secs(10);

/// Which clients are let in. The paths are of authorities, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clients {
    Anybody,
    /// Those with a certificate by one of the authorities.
    Certified(Vec<PathBuf>),
    /// Those, and whoever shows none.
    CertifiedIfGiven(Vec<PathBuf>),
}

impl Clients {
    fn authorities(&self) -> &[PathBuf] {
        match self {
            Self::Anybody => &[],
            Self::Certified(authorities) | Self::CertifiedIfGiven(authorities) => authorities,
        }
    }
}

/// The oldest version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Minimum {
    Tls12,
    Tls13,
}
