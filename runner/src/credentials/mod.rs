//! Who somebody is at a registry, as podman, Docker and their helpers have kept it.
//!
//! Looked up only when a registry asks. The first place that knows the registry decides: `--creds`;
//! the one file of `--authfile` or `REGISTRY_AUTH_FILE`; else `DOCKER_AUTH_CONFIG`, containers' files
//! and Docker's. Source: containers-auth.json(5), Docker's command (`cli/config/configfile`).

mod file;
mod helper;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use self::file::{AuthFile, Entry};

/// What proves it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Secret {
    Password(String),
    /// Given to the registry's token server in place of a password (`identitytoken`).
    IdentityToken(String),
    /// Shown to the registry as it is (`registrytoken`).
    RegistryToken(String),
}

/// It stands in no message.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where credentials were found, or are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Flag,
    Environment,
    File(PathBuf),
    /// `docker-credential-NAME`
    Helper(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("--creds"),
            Self::Environment => f.write_str("DOCKER_AUTH_CONFIG"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Helper(name) => write!(f, "docker-credential-{name}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// Empty where a token alone says who it is.
    pub(crate) username: String,
    pub(crate) secret: Secret,
    pub(crate) place: Place,
}

/// Why nobody can say who somebody is, or keep it.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("--creds: it has the form USER:PASSWORD")]
    Flag,
    #[error("the credentials in {place} cannot be read: {why}")]
    Unreadable { place: String, why: String },
    #[error("the credentials in {} cannot be kept: {why}", path.display())]
    Unwritable { path: PathBuf, why: String },
    #[error("docker-credential-{name} (named in {file}): {why}")]
    Helper { name: String, file: String, why: String },
    #[error("there is no place for credentials: neither HOME nor XDG_RUNTIME_DIR is set")]
    NoPlace,
}

/// What the command line says of it.
#[derive(Clone, Debug, Default)]
pub struct CredentialsOptions {
    /// `--creds USER:PASSWORD`
    pub creds: Option<String>,
    /// `--authfile FILE`
    pub authfile: Option<PathBuf>,
}

/// The places to look in, of one command.
#[derive(Clone, Debug)]
pub(crate) struct Keyring {
    creds: Option<String>,
    /// JSON that the environment holds itself.
    environment: Option<String>,
    files: Vec<PathBuf>,
    /// The person named this one file, which therefore exists.
    named: bool,
}

impl Keyring {
    pub(crate) fn new(options: &CredentialsOptions) -> Self {
        Self::with(options, &|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn with(options: &CredentialsOptions, variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let creds = options.creds.clone();
        let named = options.authfile.clone();
        let named = named.or_else(|| variable("REGISTRY_AUTH_FILE").map(PathBuf::from));
        if let Some(file) = named {
            return Self { creds, environment: None, files: vec![file], named: true };
        }
        let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("HOME");
        let runtime = absolute("XDG_RUNTIME_DIR").map_or_else(
            || PathBuf::from(format!("/run/containers/{}", rustix::process::geteuid().as_raw())),
            |path| path.join("containers"),
        );
        let below_home = |path: &str| home.as_ref().map(|home| home.join(path));
        let configuration = absolute("XDG_CONFIG_HOME").or_else(|| below_home(".config"));
        let docker = variable("DOCKER_CONFIG").map(PathBuf::from).or_else(|| below_home(".docker"));
        let environment = variable("DOCKER_AUTH_CONFIG").and_then(|text| text.into_string().ok());
        let files = [
            Some(runtime.join("auth.json")),
            configuration.map(|path| path.join("containers/auth.json")),
            docker.map(|path| path.join("config.json")),
        ];
        Self { creds, environment, files: files.into_iter().flatten().collect(), named: false }
    }

    /// Of a repository, or of the registry alone. `None`: no place knows it.
    ///
    /// # Errors
    /// A file or helper that cannot be asked: what it would have said is not left out silently.
    pub(crate) fn find(
        &self,
        registry: &str,
        repository: Option<&str>,
    ) -> Result<Option<Credentials>, CredentialsError> {
        if let Some(creds) = &self.creds {
            let (username, password) = creds.split_once(':').ok_or(CredentialsError::Flag)?;
            let secret = Secret::Password(password.to_owned());
            return Ok(Some(Credentials {
                username: username.to_owned(),
                secret,
                place: Place::Flag,
            }));
        }
        if let Some(text) = &self.environment {
            let file = AuthFile::parse(Place::Environment, text.as_bytes())?;
            if let Some(found) = look(&file, registry, repository)? {
                return Ok(Some(found));
            }
        }
        for path in &self.files {
            if let Some(file) = self.read(path)?
                && let Some(found) = look(&file, registry, repository)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn read(&self, path: &Path) -> Result<Option<AuthFile>, CredentialsError> {
        let file = AuthFile::read(path)?;
        if file.is_none() && self.named {
            let place = path.display().to_string();
            return Err(CredentialsError::Unreadable {
                place,
                why: "there is no such file".into(),
            });
        }
        Ok(file)
    }

    /// Keeps them where the registry stands already, else in the first of the files. Where that is.
    ///
    /// # Errors
    /// As [`Self::find`], and where nothing can be written.
    pub(crate) fn keep(
        &self,
        registry: &str,
        username: &str,
        secret: &Secret,
    ) -> Result<Place, CredentialsError> {
        let mut place = None;
        for path in &self.files {
            if let Some(file) = AuthFile::read(path)? {
                if let Some(helper) = file.helper_of(registry) {
                    helper::store(helper, &file.shown(), registry, username, secret)?;
                    return Ok(Place::Helper(helper.to_owned()));
                }
                if file.has(registry) {
                    place = Some(path);
                    break;
                }
            }
        }
        let path = place.or(self.files.first()).ok_or(CredentialsError::NoPlace)?;
        file::put(path, registry, username, secret)?;
        Ok(Place::File(path.clone()))
    }

    /// Forgets a registry wherever it stands. The places that knew it.
    ///
    /// # Errors
    /// As [`Self::keep`].
    pub(crate) fn forget(&self, registry: &str) -> Result<Vec<Place>, CredentialsError> {
        let mut places = Vec::new();
        for path in &self.files {
            let Some(file) = AuthFile::read(path)? else { continue };
            if let Some(helper) = file.helper_of(registry)
                && helper::erase(helper, &file.shown(), registry)?
            {
                places.push(Place::Helper(helper.to_owned()));
            }
            if file.has(registry) {
                file::remove(path, registry)?;
                places.push(Place::File(path.clone()));
            }
        }
        Ok(places)
    }

    /// Every registry that a file knows.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(crate) fn registries(&self) -> Result<Vec<String>, CredentialsError> {
        let mut all = std::collections::BTreeSet::new();
        for path in &self.files {
            if let Some(file) = AuthFile::read(path)? {
                all.extend(file.registries());
            }
        }
        Ok(all.into_iter().collect())
    }
}

/// What one file says of it, the helpers that it names first.
fn look(
    file: &AuthFile,
    registry: &str,
    repository: Option<&str>,
) -> Result<Option<Credentials>, CredentialsError> {
    if let Some(helper) = file.helper_of(registry)
        && let Some((username, secret)) = helper::get(helper, &file.shown(), registry)?
    {
        let place = Place::Helper(helper.to_owned());
        return Ok(Some(Credentials { username, secret, place }));
    }
    let entry = file.entry(registry, repository)?;
    Ok(entry.map(|Entry { username, secret }| {
        let place = file.place().clone();
        Credentials { username, secret, place }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(home: &Path, more: &[(&str, &str)]) -> Keyring {
        let home = home.to_str().unwrap();
        let variables = |name: &str| {
            let own = [("HOME", home), ("XDG_RUNTIME_DIR", &format!("{home}/run"))];
            let found = more.iter().find(|(known, _)| *known == name);
            let found =
                found.copied().or_else(|| own.into_iter().find(|(known, _)| *known == name));
            found.map(|(_, value)| OsString::from(value))
        };
        Keyring::with(&CredentialsOptions::default(), &variables)
    }

    fn user(keyring: &Keyring, registry: &str, repository: &str) -> Option<String> {
        keyring.find(registry, Some(repository)).unwrap().map(|found| found.username)
    }

    #[test]
    fn the_first_place_that_knows_it() {
        let home = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = home.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let none = keyring(home.path(), &[]);
        assert!(none.find("r.example", Some("a/b")).unwrap().is_none());
        // "ann:x", "bob:x", "cat:x", "dan:x"
        write(
            ".docker/config.json",
            r#"{"auths":{"r.example":{"auth":"YW5uOng="},"https://s.example/v2/":{"auth":"ZGFuOng="}}}"#,
        );
        assert_eq!(user(&none, "r.example", "a/b").as_deref(), Some("ann"));
        assert_eq!(user(&none, "s.example", "a/b").as_deref(), Some("dan"));
        write(
            ".config/containers/auth.json",
            r#"{"auths":{"r.example":{"auth":"Ym9iOng="},"r.example/a":{"auth":"Y2F0Ong="}}}"#,
        );
        assert_eq!(user(&none, "r.example", "x/b").as_deref(), Some("bob"));
        assert_eq!(user(&none, "r.example", "a/b").as_deref(), Some("cat"));
        assert_eq!(user(&none, "r.example", "ab/b").as_deref(), Some("bob"));
        assert_eq!(user(&none, "r.example:443", "a/b"), None);
        let environment = keyring(
            home.path(),
            &[(
                "DOCKER_AUTH_CONFIG",
                r#"{"auths":{"r.example":{"username":"eve","password":"y:z"}}}"#,
            )],
        );
        assert_eq!(user(&environment, "r.example", "a/b").as_deref(), Some("eve"));
        let named = keyring(home.path(), &[("REGISTRY_AUTH_FILE", "/nonexistent/auth.json")]);
        assert!(named.find("r.example", None).is_err());
        write("run/containers/auth.json", "{");
        assert!(none.find("r.example", None).is_err(), "what cannot be read is told");
    }

    #[test]
    fn kept_where_it_stands_and_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let keyring = keyring(home.path(), &[]);
        let secret = Secret::Password("p:w".into());
        let first = keyring.keep("r.example:5000", "ann", &secret).unwrap();
        let runtime = home.path().join("run/containers/auth.json");
        assert_eq!(first, Place::File(runtime.clone()));
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(runtime.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let found = keyring.find("r.example:5000", None).unwrap().unwrap();
        assert_eq!((found.username.as_str(), &found.secret), ("ann", &secret));

        let docker = home.path().join(".docker/config.json");
        std::fs::create_dir_all(docker.parent().unwrap()).unwrap();
        let text = r#"{"psFormat":"table","auths":{"s.example":{"auth":"YTpi"}}}"#;
        std::fs::write(&docker, text).unwrap();
        let second = keyring.keep("s.example", "bob", &secret).unwrap();
        assert_eq!(second, Place::File(docker.clone()));
        let text = std::fs::read_to_string(&docker).unwrap();
        assert!(text.contains("psFormat"), "{text}");
        assert_eq!(keyring.registries().unwrap(), ["r.example:5000", "s.example"]);

        assert_eq!(keyring.forget("s.example").unwrap(), [Place::File(docker.clone())]);
        assert!(keyring.find("s.example", None).unwrap().is_none());
        assert!(std::fs::read_to_string(&docker).unwrap().contains("psFormat"));
        assert!(keyring.forget("s.example").unwrap().is_empty());
    }
}
