//! The files that hold them: `auth.json` of containers and `config.json` of Docker.

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::{CredentialsError, Place, Secret};

/// Largest file that is read, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How Docker's command calls Docker Hub in its file, and to its helpers.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// What a file says of one registry.
pub(super) struct Entry {
    pub(super) username: String,
    pub(super) secret: Secret,
}

#[derive(Debug)]
pub(super) struct AuthFile {
    place: Place,
    content: Map<String, Value>,
}

impl AuthFile {
    /// `None` where there is no such file.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, CredentialsError> {
        let place = Place::File(path.to_owned());
        let mut bytes = Vec::new();
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
        match read {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(unreadable(&place, error.to_string())),
            Ok(_) if bytes.len() as u64 > FILE_BYTES_MAX => {
                Err(unreadable(&place, format!("it has more than {FILE_BYTES_MAX} bytes")))
            }
            Ok(_) => Self::parse(place, &bytes).map(Some),
        }
    }

    pub(super) fn parse(place: Place, bytes: &[u8]) -> Result<Self, CredentialsError> {
        if bytes.trim_ascii().is_empty() {
            return Ok(Self { place, content: Map::new() });
        }
        match serde_json::from_slice(bytes) {
            Ok(content) => Ok(Self { place, content }),
            Err(error) => Err(unreadable(&place, format!("no JSON object: {error}"))),
        }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// In words, for messages.
    pub(super) fn shown(&self) -> String {
        self.place.to_string()
    }

    /// The helper that is to be asked for this registry.
    pub(super) fn helper_of(&self, registry: &str) -> Option<&str> {
        let own = self.content.get("credHelpers").and_then(Value::as_object);
        let own = own.and_then(|helpers| {
            let named = helpers.iter().find(|(key, _)| is_of(key, registry));
            named.and_then(|(_, name)| name.as_str())
        });
        let every = self.content.get("credsStore").and_then(Value::as_str);
        own.or(every).filter(|name| !name.is_empty())
    }

    fn auths(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.content.get("auths").and_then(Value::as_object).into_iter().flatten()
    }

    /// Whether the registry itself has an entry here.
    pub(super) fn has(&self, registry: &str) -> bool {
        self.auths().any(|(key, _)| is_of(key, registry))
    }

    pub(super) fn registries(&self) -> Vec<String> {
        self.auths().map(|(key, _)| plain(key)).collect()
    }

    /// The entry whose key is the longest beginning of the repository's name.
    pub(super) fn entry(
        &self,
        registry: &str,
        repository: Option<&str>,
    ) -> Result<Option<Entry>, CredentialsError> {
        for key in keys_of(registry, repository) {
            for (known, value) in self.auths().filter(|(known, _)| plain(known) == key) {
                let entry = entry(value).map_err(|why| {
                    unreadable(&self.place, format!("the entry of {known}: {why}"))
                })?;
                if entry.is_some() {
                    return Ok(entry);
                }
            }
        }
        Ok(None)
    }
}

fn unreadable(place: &Place, why: String) -> CredentialsError {
    CredentialsError::Unreadable { place: place.to_string(), why }
}

/// `None`: an empty one, as Docker leaves them beside a helper.
fn entry(value: &Value) -> Result<Option<Entry>, String> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let both = match text("auth") {
        // Docker has written NULs at the end.
        Some(encoded) => {
            let bytes = BASE64_STANDARD.decode(encoded.trim());
            let bytes = bytes.map_err(|_| "its auth is not base64".to_owned())?;
            let text = String::from_utf8(bytes).map_err(|_| "its auth is not UTF-8".to_owned())?;
            let (username, password) = text
                .trim_end_matches('\0')
                .split_once(':')
                .ok_or_else(|| "its auth is not USER:PASSWORD".to_owned())?;
            Some((username.to_owned(), password.to_owned()))
        }
        None => text("username")
            .map(|username| (username.to_owned(), text("password").unwrap_or_default().to_owned())),
    };
    let username = || both.as_ref().map(|(username, _)| username.clone()).unwrap_or_default();
    if let Some(token) = text("identitytoken") {
        let secret = Secret::IdentityToken(token.to_owned());
        return Ok(Some(Entry { username: username(), secret }));
    }
    if let Some(token) = text("registrytoken") {
        let secret = Secret::RegistryToken(token.to_owned());
        return Ok(Some(Entry { username: username(), secret }));
    }
    Ok(both.map(|(username, password)| Entry { username, secret: Secret::Password(password) }))
}

/// The names under which one registry stands in files: Docker Hub has several.
fn hosts_of(registry: &str) -> Vec<String> {
    match registry {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => {
            ["docker.io", "index.docker.io", "registry-1.docker.io"].map(str::to_owned).to_vec()
        }
        other => vec![other.to_owned()],
    }
}

/// What to look for, the most specific first: `host/a/b`, `host/a`, `host`.
fn keys_of(registry: &str, repository: Option<&str>) -> Vec<String> {
    let mut keys = Vec::new();
    let mut name = repository;
    while let Some(path) = name {
        keys.extend(hosts_of(registry).iter().map(|host| format!("{host}/{path}")));
        name = path.rsplit_once('/').map(|(above, _)| above);
    }
    keys.extend(hosts_of(registry));
    keys
}

/// A key as it is compared: Docker's are addresses (`https://host/v1/`), of which the host counts.
fn plain(key: &str) -> String {
    let with_scheme = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    match with_scheme {
        Some(rest) => rest.split('/').next().unwrap_or_default().to_owned(),
        None => {
            let key = key.trim_end_matches('/');
            key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key).to_owned()
        }
    }
}

fn is_of(key: &str, registry: &str) -> bool {
    hosts_of(registry).contains(&plain(key))
}

/// What helpers are asked for.
pub(super) fn server_of(registry: &str) -> String {
    if registry == "docker.io" { DOCKER_HUB_KEY.to_owned() } else { registry.to_owned() }
}

/// Puts one registry's entry in, in place of those it had. Everything else in the file stays.
pub(super) fn put(
    path: &Path,
    registry: &str,
    username: &str,
    secret: &Secret,
) -> Result<(), CredentialsError> {
    let entry = match secret {
        Secret::Password(password) => {
            json!({ "auth": BASE64_STANDARD.encode(format!("{username}:{password}")) })
        }
        Secret::IdentityToken(token) => {
            json!({ "auth": BASE64_STANDARD.encode(format!("{username}:")), "identitytoken": token })
        }
        Secret::RegistryToken(token) => json!({ "registrytoken": token }),
    };
    edit(path, |auths| {
        let before: Vec<String> =
            auths.keys().filter(|key| is_of(key, registry)).cloned().collect();
        // Docker looks its Hub up under one name only: the name that stands there is kept.
        let key = before.first().cloned().unwrap_or_else(|| registry.to_owned());
        before.iter().for_each(|key| drop(auths.remove(key)));
        auths.insert(key, entry);
    })
}

pub(super) fn remove(path: &Path, registry: &str) -> Result<(), CredentialsError> {
    edit(path, |auths| auths.retain(|key, _| !is_of(key, registry)))
}

/// Changes the entries of a file: at once, beside others who do, and for its owner's eyes only.
fn edit(path: &Path, change: impl FnOnce(&mut Map<String, Value>)) -> Result<(), CredentialsError> {
    let failed = |error: io::Error| CredentialsError::Unwritable {
        path: path.to_owned(),
        why: error.to_string(),
    };
    // People link it to where they keep such files: the link stays.
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = real.parent().unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let lock = std::fs::File::open(folder).map_err(failed)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|errno| failed(errno.into()))?;
    let file = AuthFile::read(&real)?;
    let mut content = file.map(|file| file.content).unwrap_or_default();
    let auths = content.entry("auths").or_insert_with(|| Value::Object(Map::new()));
    let Some(auths) = auths.as_object_mut() else {
        return Err(unreadable(&Place::File(real), "its \"auths\" is no object".into()));
    };
    change(auths);
    let text = serde_json::to_vec_pretty(&content).map_err(|error| failed(error.into()))?;
    replace(&real, &text).map_err(failed)
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside: PathBuf = path.with_file_name(format!(".auth-{}", crate::random::name()));
    let written = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        assert_eq!(keys_of("r:5", Some("a/b")), ["r:5/a/b", "r:5/a", "r:5"]);
        assert_eq!(keys_of("r", None), ["r"]);
        for (key, host) in [
            ("https://index.docker.io/v1/", "index.docker.io"),
            ("r.example/v2/", "r.example"),
            ("http://r.example:5000", "r.example:5000"),
            ("r.example/a", "r.example/a"),
        ] {
            assert_eq!(plain(key), host);
        }
        assert!(is_of("https://index.docker.io/v1/", "docker.io"));
        assert!(!is_of("r.example/a", "r.example"));
    }

    #[test]
    fn entries() {
        let of = |value: Value| {
            let found = entry(&value)?;
            Ok::<_, String>(found.map(|entry| (entry.username, entry.secret)))
        };
        let password = |text: &str| Secret::Password(text.into());
        // "ann:p:w", and with a NUL behind it.
        let ann = Some(("ann".to_owned(), password("p:w")));
        assert_eq!(of(json!({ "auth": "YW5uOnA6dw==" })), Ok(ann.clone()));
        assert_eq!(of(json!({ "auth": "YW5uOnA6dwA=" })), Ok(ann.clone()));
        assert_eq!(of(json!({ "username": "ann", "password": "p:w" })), Ok(ann));
        assert_eq!(of(json!({})), Ok(None));
        assert_eq!(of(json!({ "auth": "" })), Ok(None));
        let token = Secret::IdentityToken("t".into());
        assert_eq!(
            of(json!({ "auth": "YW5uOg==", "identitytoken": "t" })),
            Ok(Some(("ann".into(), token)))
        );
        let token = Secret::RegistryToken("t".into());
        assert_eq!(of(json!({ "registrytoken": "t" })), Ok(Some((String::new(), token))));
        for auth in ["!", "YW5u", "/w=="] {
            assert!(of(json!({ "auth": auth })).is_err(), "{auth}");
        }
    }
}
