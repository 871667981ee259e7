//! How content comes in: blobs, layers and fixups are staged where nobody looks and renamed to
//! their public names when they are known to be right.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use shared::{DiffId, Digest};

use super::layer::file_name;
use super::record::blob_path;
use super::{LayerFacts, Store, StoreError, files, lock, to_json};

/// "I am producing this layer": held by one process at a time, released when it dies.
#[derive(Debug)]
pub(crate) struct LayerLock {
    _file: OwnedFd,
}

/// Whether the layer's lock could be taken.
#[derive(Debug)]
pub(crate) enum Locking {
    Taken(LayerLock),
    /// By the process with this id, as far as it has written it down.
    Busy(Option<u32>),
}

/// A directory under `work/`, locked for as long as it is worked in. Dropped uncommitted, it goes
/// to the trash.
#[derive(Debug)]
pub(crate) struct Staging<'s> {
    store: &'s Store,
    path: String,
    dir: OwnedFd,
    committed: bool,
}

impl Store {
    /// Tries to become the producer of a layer, without waiting.
    pub(crate) fn try_lock_layer(&self, diff_id: &DiffId) -> Result<Locking, StoreError> {
        let what = || StoreError::io(format!("lock layer {diff_id}"));
        let path = format!("locks/{}", file_name(&diff_id.0));
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
            let mode = Mode::RUSR | Mode::WUSR;
            let file = rustix::fs::openat(self.dir(), &path, flags, mode).map_err(what())?;
            if !lock::try_exclusive(&file).map_err(what())? {
                return Ok(Locking::Busy(self.holder(&path)));
            }
            // A sweep may have taken the file away between opening and locking.
            let ours = rustix::fs::fstat(&file).map_err(what())?;
            match rustix::fs::statat(self.dir(), &path, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if (stat.st_dev, stat.st_ino) == (ours.st_dev, ours.st_ino) => {}
                Ok(_) | Err(Errno::NOENT) => continue,
                Err(error) => return Err(what()(error)),
            }
            let pid = format!("{}\n", std::process::id());
            rustix::fs::ftruncate(&file, 0).map_err(what())?;
            files::write_all(file.as_fd(), pid.as_bytes()).map_err(what())?;
            return Ok(Locking::Taken(LayerLock { _file: file }));
        }
    }

    fn holder(&self, path: &str) -> Option<u32> {
        let bytes = files::read(self.dir(), path).ok()??;
        std::str::from_utf8(&bytes).ok()?.trim().parse().ok()
    }

    /// A directory to work in.
    pub(crate) fn stage(&self) -> Result<Staging<'_>, StoreError> {
        let what = || StoreError::io("make a working directory");
        let path = format!("work/{}", crate::random::name());
        // Under SH, so that no sweep meets it between its making and its locking.
        let _hold = self.hold_shared()?;
        rustix::fs::mkdirat(self.dir(), &path, Mode::RWXU).map_err(what())?;
        let dir = files::open_dir(self.dir(), &path).map_err(what())?;
        rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).map_err(what())?;
        rustix::fs::mkdirat(&dir, "fs", Mode::from_raw_mode(0o755)).map_err(what())?;
        Ok(Staging { store: self, path, dir, committed: false })
    }

    /// Takes away a layer or fixups that a power cut may have torn, so that it is made again. The
    /// caller holds the lock that makes it the producer.
    pub(crate) fn discard_torn(&self, path: &str) -> Result<(), StoreError> {
        let _hold = self.hold_exclusive()?;
        if self.find_whole(path)?.is_none() {
            match self.to_trash(path) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(StoreError::io(format!("discard {path}"))(error)),
            }
        }
        Ok(())
    }

    /// Keeps a manifest or configuration. Durable when it returns.
    pub(crate) fn write_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        debug_assert_eq!(Digest::of(digest.algorithm(), bytes), *digest);
        let folder = format!("blobs/{}", digest.algorithm());
        files::replace(self.dir(), &folder, &digest.hex(), bytes, files::Durably::Yes)
            .map_err(StoreError::io(format!("write {}", blob_path(digest))))
    }

    pub(crate) fn has_blob(&self, digest: &Digest) -> bool {
        files::exists(self.dir(), &blob_path(digest))
    }

    /// A blob for reading from its start.
    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<Option<std::fs::File>, StoreError> {
        let path = blob_path(digest);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(self.dir(), &path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(StoreError::io(format!("open {path}"))(error)),
        }
    }

    /// Takes away a blob that is not what its name says.
    pub(crate) fn discard_blob(&self, digest: &Digest) {
        self.discard(&blob_path(digest));
    }

    /// Free and total bytes of the store's file system, as far as this user may use them.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::fstatvfs(self.dir()).ok()?;
        let free = if super::is_root() { stat.f_bfree } else { stat.f_bavail };
        free.checked_mul(stat.f_frsize)
    }
}

/// Compressed bytes that have arrived so far. They stay when the process dies, and are read, not
/// trusted, by the next one.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) file: std::fs::File,
    pub(crate) length: u64,
    path: String,
}

impl Store {
    /// Opens the unfinished download of a blob, or begins one. The caller holds the lock of the
    /// layer that the blob is, so it is alone with the file.
    pub(crate) fn open_part(&self, digest: &Digest) -> Result<Part, StoreError> {
        let path = format!("ingest/{}.part", file_name(digest));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.dir(), &path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(StoreError::io(format!("open {path}")))?;
        let length =
            rustix::fs::fstat(&fd).map_err(StoreError::io(format!("open {path}")))?.st_size;
        Ok(Part { file: fd.into(), length: u64::try_from(length).unwrap_or(0), path })
    }

    /// The `ETag` under which the bytes of the part were served.
    pub(crate) fn part_etag(&self, digest: &Digest) -> Option<String> {
        let bytes = files::read(self.dir(), &etag_path(digest)).ok()??;
        String::from_utf8(bytes).ok()
    }

    pub(crate) fn write_part_etag(&self, digest: &Digest, etag: &str) -> Result<(), StoreError> {
        let name = format!("{}.etag", file_name(digest));
        files::replace(self.dir(), "ingest", &name, etag.as_bytes(), files::Durably::No)
            .map_err(StoreError::io(format!("write ingest/{name}")))
    }

    /// Forgets the part and what belongs to it.
    pub(crate) fn discard_part(&self, digest: &Digest) {
        // One that stays is read, found wrong and begun anew.
        let path = format!("ingest/{}.part", file_name(digest));
        let _ = rustix::fs::unlinkat(self.dir(), path, AtFlags::empty());
        let _ = rustix::fs::unlinkat(self.dir(), etag_path(digest), AtFlags::empty());
    }

    /// A part whose digest has been checked becomes the blob. Not synced: whoever reads the blob
    /// later checks it again, and a power cut costs at worst another download.
    pub(crate) fn commit_part(&self, part: Part, digest: &Digest) -> Result<(), StoreError> {
        rustix::fs::renameat(self.dir(), &part.path, self.dir(), blob_path(digest))
            .map_err(StoreError::io(format!("keep {digest}")))?;
        let _ = rustix::fs::unlinkat(self.dir(), etag_path(digest), AtFlags::empty());
        Ok(())
    }
}

fn etag_path(digest: &Digest) -> String {
    format!("ingest/{}.etag", file_name(digest))
}

impl Staging<'_> {
    /// `fs/`, absolute: where a worker writes.
    pub(crate) fn tree(&self) -> PathBuf {
        self.store.root().join(&self.path).join("fs")
    }

    pub(crate) fn dir(&self) -> std::os::fd::BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Publishes the staged tree as `layers/<diffid>`. Durable later, by [`super::sync_worker`];
    /// until then it counts within this boot.
    pub(crate) fn commit_layer(
        self,
        diff_id: &DiffId,
        facts: &LayerFacts,
    ) -> Result<(), StoreError> {
        self.commit(&super::layer_path(diff_id), facts)
    }

    pub(crate) fn commit(mut self, public: &str, facts: &LayerFacts) -> Result<(), StoreError> {
        let what = || StoreError::io(format!("publish {public}"));
        files::replace(self.dir.as_fd(), ".", "layer.json", &to_json(facts), files::Durably::No)
            .map_err(what())?;
        let store = self.store;
        let _hold = store.hold_shared()?;
        let (from, flags) = (self.path.as_str(), RenameFlags::NOREPLACE);
        match rustix::fs::renameat_with(store.dir(), from, store.dir(), public, flags) {
            Ok(()) => {
                self.committed = true;
                Ok(())
            }
            // The same content under the same name: ours goes.
            Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(what()(error)),
        }
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        if !self.committed {
            self.store.discard(&self.path);
        }
    }
}
