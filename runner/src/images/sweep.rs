//! Removal: what nothing reaches any more goes to `trash/`, and is deleted from there.

use super::{Store, StoreError, files};

impl Store {
    /// Takes something away under its public name. Deciding that it may go is the caller's.
    pub(crate) fn to_trash(&self, path: &str) -> rustix::io::Result<()> {
        let target = format!("trash/{}", files::random_name());
        rustix::fs::renameat(self.dir(), path, self.dir(), target)
    }

    /// Takes away something of our own that nobody else can be using, whatever else fails.
    pub(crate) fn discard(&self, path: &str) {
        if self.to_trash(path).is_ok() {
            // What remains is deleted by the next command.
            let _ = self.empty_trash();
        }
    }

    /// Deletes what lies in `trash/`.
    ///
    /// # Errors
    /// The first that a deletion met; the others are tried all the same.
    pub fn empty_trash(&self) -> Result<(), StoreError> {
        let mut first = Ok(());
        for name in files::names(self.dir(), "trash").map_err(StoreError::io("list trash"))? {
            let path = self.root().join("trash").join(&name);
            let is_dir = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
            let deleted =
                if is_dir { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            match deleted {
                // Two commands empty the same trash: what is gone is gone.
                Err(error) if error.kind() != std::io::ErrorKind::NotFound && first.is_ok() => {
                    let what = format!("delete {}", path.display());
                    first = Err(StoreError::Io { what, source: error });
                }
                _ => {}
            }
        }
        first
    }
}
