//! From files to what a handshake needs.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{
    Error, InconsistentKeys, RootCertStore, ServerConfig, SupportedCipherSuite, version,
};

use super::{Clients, Minimum, Settings, dates};

/// Why the configured certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{key}: cannot read {}: {source}", .path.display())]
    Read { key: &'static str, path: PathBuf, source: io::Error },
    #[error("{key}: {}: {what}", .path.display())]
    File { key: &'static str, path: PathBuf, what: String },
    #[error("http.tls: {0}")]
    Settings(String),
}

const CERTIFICATE: &str = "http.tls.certificate";
const KEY: &str = "http.tls.key";
const AUTHORITIES: &str = "http.tls.clientcas";

/// Largest file read: a bundle of all public authorities has a quarter of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the files gave.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) server: ServerConfig,
    /// When the certificate ends, in Unix time, if it says so in a way that is understood.
    pub(super) not_after: Option<i64>,
    /// What an operator should be told.
    pub(super) warnings: Vec<String>,
}

/// Names of the cipher suites of TLS 1.2 that can be asked for.
pub fn cipher_suites() -> Vec<&'static str> {
    let older = |suite: &&SupportedCipherSuite| suite.tls13().is_none();
    aws_lc_rs::ALL_CIPHER_SUITES.iter().filter(older).filter_map(name).collect()
}

fn name(suite: &SupportedCipherSuite) -> Option<&'static str> {
    suite.suite().as_str()
}

/// Reads everything.
pub(super) fn load(settings: &Settings) -> Result<Loaded, TlsError> {
    let provider = Arc::new(provider(settings));
    let identity = identity(settings, &provider)?;
    let mut warnings: Vec<_> = readable_by_others(&settings.key).into_iter().collect();
    let leaf = identity.cert.first().map(|leaf| dates::validity(leaf));
    let validity = leaf.flatten();
    warnings.extend(validity.and_then(|validity| validity.trouble(dates::now())));
    let verifier = verifier(&settings.clients, &provider)?;
    let versions: &[_] = match settings.minimum {
        Minimum::Tls12 => &[&version::TLS12, &version::TLS13],
        Minimum::Tls13 => &[&version::TLS13],
    };
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| TlsError::Settings(error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Loaded { server, not_after: validity.map(|validity| validity.not_after), warnings })
}

fn provider(settings: &Settings) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    if !settings.cipher_suites.is_empty() {
        provider.cipher_suites.retain(|suite| {
            let wanted = |name| settings.cipher_suites.iter().any(|wanted| wanted == name);
            suite.tls13().is_some() || name(suite).is_some_and(wanted)
        });
    }
    provider
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { key, path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > FILE_BYTES_MAX {
        let what = format!("it has {length} bytes, more than any certificate file");
        return Err(TlsError::File { key, path: path.to_owned(), what });
    }
    std::fs::read(path).map_err(failed)
}

/// The certificates of a file; at least one.
fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(key, path)?;
    let broken = |what: String| TlsError::File { key, path: path.to_owned(), what };
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| broken(format!("it is no sound PEM: {error}")))?;
    if found.is_empty() {
        return Err(broken(
            "it holds no certificate in PEM, which begins with -----BEGIN CERTIFICATE-----".into(),
        ));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(KEY, path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        let encrypted = bytes.windows(9).any(|window| window == b"ENCRYPTED");
        let what = if encrypted {
            "the key is encrypted, and nobody is there to give the password: store it in the clear, \
             readable by the registry only (openssl pkey -in IT -out OTHER)"
        } else {
            "it holds no private key in PEM, which begins with -----BEGIN PRIVATE KEY-----"
        };
        TlsError::File { key: KEY, path: path.to_owned(), what: what.to_owned() }
    })
}

fn identity(settings: &Settings, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(CERTIFICATE, &settings.certificate)?;
    let key = private_key(&settings.key)?;
    let key = provider.key_provider.load_private_key(key).map_err(|error| TlsError::File {
        key: KEY,
        path: settings.key.clone(),
        what: format!("the key cannot be used: {error}; RSA from 2048 bits, ECDSA and Ed25519 can"),
    })?;
    let identity = CertifiedKey::new(chain, key);
    match identity.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(identity),
        Err(Error::InconsistentKeys(_)) => Err(TlsError::File {
            key: KEY,
            path: settings.key.clone(),
            what: format!(
                "it is not the key of the first certificate in {}: name a pair that was made \
                 together, and put the server's own certificate first",
                settings.certificate.display()
            ),
        }),
        Err(error) => Err(TlsError::File {
            key: CERTIFICATE,
            path: settings.certificate.clone(),
            what: format!("the certificate cannot be used: {error}"),
        }),
    }
}

fn verifier(
    clients: &Clients,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for path in clients.authorities() {
        for authority in certificates(AUTHORITIES, path)? {
            roots.add(authority).map_err(|error| TlsError::File {
                key: AUTHORITIES,
                path: path.clone(),
                what: format!("a certificate in it cannot be used: {error}"),
            })?;
        }
    }
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = match clients {
        Clients::Anybody => return Ok(WebPkiClientVerifier::no_client_auth()),
        Clients::Certified(_) => builder,
        Clients::CertifiedIfGiven(_) => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| TlsError::Settings(error.to_string()))
}

fn readable_by_others(key: &Path) -> Option<String> {
    let mode = std::fs::metadata(key).ok()?.mode();
    (mode & 0o004 != 0).then(|| {
        let path = key.display();
        format!("{KEY}: {path} can be read by everybody on this machine: chmod o-r {path}")
    })
}
