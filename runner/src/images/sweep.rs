//! Removal: what nothing reaches any more goes to `trash/`, and is deleted from there.

use rustix::io::Errno;

use super::{Store, StoreError, files, lock};

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

    /// Takes away the working directories of processes that died, and empties the trash.
    pub fn tidy(&self) -> Result<(), StoreError> {
        let what = || StoreError::io("tidy the store");
        for folder in ["work", "leases"] {
            if !files::names(self.dir(), folder).map_err(what())?.is_empty() {
                let _hold = self.hold_exclusive()?;
                self.abandon_work()?;
                self.living_leases()?;
                break;
            }
        }
        self.empty_trash()
    }

    /// With `lock` held exclusively: whoever works holds the lock of its directory.
    pub(super) fn abandon_work(&self) -> Result<(), StoreError> {
        let what = || StoreError::io("tidy the store");
        for name in files::names(self.dir(), "work").map_err(what())? {
            let path = format!("work/{name}");
            let dir = match files::open_dir(self.dir(), &path) {
                Err(Errno::NOENT) => continue,
                other => other.map_err(what())?,
            };
            if lock::try_exclusive(&dir).map_err(what())? {
                self.to_trash(&path).map_err(what())?;
            }
        }
        self.drop_unfinished_records().map_err(what())
    }

    /// With `lock` held exclusively: image records are written under a shared hold, so a temporary
    /// file beside them now is one whose writer was killed.
    fn drop_unfinished_records(&self) -> rustix::io::Result<()> {
        let folder = files::open_dir(self.dir(), "images")?;
        for entry in rustix::fs::Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_bytes().starts_with(b".") && name != c"." && name != c".." {
                rustix::fs::unlinkat(&folder, name, rustix::fs::AtFlags::empty())?;
            }
        }
        Ok(())
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
            let Err(error) = deleted else { continue };
            // Two commands empty the same trash, or a process that is ending still writes into what
            // was thrown away: what is gone is gone, and what came is the next command's.
            let passing = matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::DirectoryNotEmpty
            );
            if !passing && first.is_ok() {
                let what = format!("delete {}", path.display());
                first = Err(StoreError::Io { what, source: error });
            }
        }
        first
    }
}
