//! What belongs to one registry's TLS: authorities that vouch for it, and a certificate of ours
//! that it asks for. From the places where podman and Docker look. Source: containers-certs.d(5).

use std::path::{Path, PathBuf};

use reqwest::{Certificate, Identity};

use super::PullError;

/// Largest file that is read, bytes: the authorities of a whole system take a quarter of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Default)]
pub(crate) struct Certificates {
    /// `*.crt`
    pub(crate) authorities: Vec<Certificate>,
    /// `*.cert` with the `*.key` beside it; the first of several.
    pub(crate) identity: Option<Identity>,
}

impl Certificates {
    /// Of `registry`: a host, with its port if the person gave one.
    ///
    /// # Errors
    /// A file that cannot be used: without it the pull would fail with words that do not tell why.
    pub(crate) fn of(registry: &str) -> Result<Self, PullError> {
        let mut all = Self::default();
        for folder in folders().map(|folder| folder.join(registry)) {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            for path in paths {
                all.add(&path).map_err(|why| PullError::CertificateFile { path, why })?;
            }
        }
        Ok(all)
    }

    fn add(&mut self, path: &Path) -> Result<(), String> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => {
                let bundle = Certificate::from_pem_bundle(&read(path)?).unwrap_or_default();
                if bundle.is_empty() {
                    return Err("it holds no certificate in PEM".into());
                }
                self.authorities.extend(bundle);
            }
            Some("cert") if self.identity.is_none() => {
                let key = read(&path.with_extension("key"))
                    .map_err(|why| format!("its key beside it (*.key) cannot be used: {why}"))?;
                let both = [read(path)?, b"\n".to_vec(), key].concat();
                let identity = Identity::from_pem(&both);
                let why = "it and its key (*.key) are not a certificate and a key in PEM";
                self.identity = Some(identity.map_err(|_| why)?);
            }
            _ => {}
        }
        Ok(())
    }
}

fn folders() -> impl Iterator<Item = PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let configuration = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| home.map(|home| home.join(".config")));
    let own = ["containers", "docker"]
        .into_iter()
        .filter_map(move |name| Some(configuration.as_ref()?.join(name)));
    ["/etc/containers", "/etc/docker"]
        .into_iter()
        .map(PathBuf::from)
        .chain(own)
        .map(|folder| folder.join("certs.d"))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}
