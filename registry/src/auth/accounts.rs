//! The users of `auth.htpasswd`.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::checker::{Busy, Checker};
use super::htpasswd::{Htpasswd, InvalidHtpasswd};
use crate::files::Stamp;

/// Largest file read: a hundred thousand users.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What `auth.htpasswd` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What clients are asked for the password of.
    pub realm: String,
    pub path: PathBuf,
}

/// Why the users are not known.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    #[error("auth.htpasswd.path: there is no {}: make it with `registry user add NAME --file {}`", .path.display(), .path.display())]
    Absent { path: PathBuf },
    #[error("auth.htpasswd.path: cannot read {}: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("auth.htpasswd.path: {}: {source}", .path.display())]
    Invalid { path: PathBuf, source: InvalidHtpasswd },
    #[error("passwords cannot be compared: {0}")]
    Checker(#[source] io::Error),
}

/// Who has an account, by the file as it was read last.
#[derive(Debug)]
pub struct Accounts {
    settings: Settings,
    users: RwLock<Arc<Htpasswd>>,
    seen: Mutex<Option<Stamp>>,
    checker: Checker,
}

impl Accounts {
    /// Reads the file.
    ///
    /// # Errors
    /// See [`AccountsError`].
    pub fn open(settings: Settings) -> Result<Self, AccountsError> {
        let seen = Mutex::new(Stamp::of(&settings.path));
        let users = RwLock::new(Arc::new(read(&settings.path)?));
        let checker = Checker::start().map_err(AccountsError::Checker)?;
        Ok(Self { settings, users, seen, checker })
    }

    /// What clients are asked for the password of.
    pub fn realm(&self) -> &str {
        &self.settings.realm
    }

    fn users(&self) -> Arc<Htpasswd> {
        Arc::clone(&self.users.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What an operator should be told about the file as it was read last.
    pub fn warnings(&self) -> Vec<String> {
        let path = self.settings.path.display();
        self.users().warnings().iter().map(|warning| format!("{path}: {warning}")).collect()
    }

    /// Reads the file again. When that fails, who was there before stays.
    ///
    /// # Errors
    /// See [`AccountsError`].
    pub fn reload(&self) -> Result<(), AccountsError> {
        // Before the file: a change while it is read is seen the next time.
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Stamp::of(&self.settings.path);
        let users = Arc::new(read(&self.settings.path)?);
        *self.users.write().unwrap_or_else(PoisonError::into_inner) = users;
        Ok(())
    }

    /// [`Accounts::reload`] if the file has changed since it was last read. `None`: it has not.
    ///
    /// # Errors
    /// See [`AccountsError`].
    pub fn reload_if_changed(&self) -> Option<Result<(), AccountsError>> {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen != Stamp::of(&self.settings.path)).then(|| self.reload())
    }

    /// Whether `name` has this password; takes as long for names that nobody has.
    ///
    /// # Errors
    /// [`Busy`] when too many passwords wait to be compared.
    pub async fn check(
        &self,
        name: &str,
        password: &[u8],
        from: Option<IpAddr>,
    ) -> Result<bool, Busy> {
        self.checker.check(&self.users(), name, password, from).await
    }
}

fn read(path: &Path) -> Result<Htpasswd, AccountsError> {
    let failed = |source| AccountsError::Read { path: path.to_owned(), source };
    let length = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(AccountsError::Absent { path: path.to_owned() });
        }
        found => found.map_err(failed)?.len(),
    };
    if length > FILE_BYTES_MAX {
        return Err(failed(io::Error::other("it is longer than any such file")));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    Htpasswd::parse(&text)
        .map_err(|source| AccountsError::Invalid { path: path.to_owned(), source })
}
