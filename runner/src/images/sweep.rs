//! Removal: what nothing reaches any more goes to `trash/`, and is deleted from there.

use std::ffi::CString;
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::{Store, StoreError, files, lock, remove_tree};
use crate::known_bad::left_out;

impl Store {
    /// Takes something away under its public name. Deciding that it may go is the caller's.
    pub(crate) fn to_trash(&self, path: &str) -> rustix::io::Result<()> {
        let target = format!("trash/{}", crate::random::name());
        rustix::fs::renameat(self.dir(), path, self.dir(), target)
    }

    /// Takes away something of our own that nobody else can be using, whatever else fails.
    pub(crate) fn discard(&self, path: &str) {
        if self.to_trash(path).is_ok() {
            // What remains is deleted by the next command.
            let _ = self.try_empty_trash();
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
        self.try_empty_trash()
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

    /// Deletes what lies in `trash/`, and volumes that somebody was removing when he was killed.
    ///
    /// # Errors
    /// The first that a deletion met; the others are tried all the same. Rubbish that cannot be
    /// deleted is nobody's failure: whoever did something else goes on, and may tell of it.
    pub fn empty_trash(&self) -> Result<(), StoreError> {
        let mut first = Ok(());
        let hidden = |name: &str| name.starts_with(crate::volumes::REMOVING);
        let volumes = files::names_that(self.dir(), "volumes", hidden);
        let trash = files::names(self.dir(), "trash").map_err(StoreError::io("list trash"))?;
        let all = [("trash", trash), ("volumes", volumes.unwrap_or_default())];
        if self.ids_to_enter().is_some() {
            let is_empty = all.iter().all(|(_, names)| names.is_empty());
            return if is_empty { Ok(()) } else { self.empty_trash_inside() };
        }
        for (folder, names) in all {
            let Ok(dir) = files::open_dir(self.dir(), folder) else { continue };
            for name in names {
                let path = self.root().join(folder).join(&name);
                let Ok(name) = CString::new(name) else { continue };
                if let Err(error) = remove_tree(dir.as_fd(), &name) {
                    let what = format!("delete {}", path.display());
                    first = first.and(Err(StoreError::io(what)(error)));
                }
            }
        }
        first
    }

    /// As [`Self::empty_trash`], for those who have something else to do.
    pub(super) fn try_empty_trash(&self) -> Result<(), StoreError> {
        match self.empty_trash() {
            Err(error) if !left_out("rubbish-fails-nobody") => {
                tracing::warn!(%error, source = ?std::error::Error::source(&error), "rubbish stays");
                Ok(())
            }
            other => other,
        }
    }
}
