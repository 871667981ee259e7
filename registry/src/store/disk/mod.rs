//! Bytes in a directory.
//!
//! ```text
//! <root>/lock                              held by the one process that serves the directory
//! <root>/blobs/<algorithm>/<xx>/<hex>      published bytes; never rewritten in place
//! <root>/uploads/<uuid>/{data,state}       what arrives, before its digest is known
//! ```
//! Everything of [`Disk`] blocks; [`DiskStore`] runs it on the pool.

mod ahead;
mod directory;
mod inventory;
mod memory;
mod session;
mod store;
mod uploads;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

use shared::{Algorithm, Digest, Hasher};

use crate::failpoint::fail_point;

use super::{Checkpoint, Rotten, StoreError, Timings, UploadId, timed};
pub use directory::{OpenError, Options};
pub use inventory::{Found, SHARDS};
pub use store::DiskStore;

/// The store of one directory.
///
/// Holds the directory's lock for as long as it lives.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    /// Bytes of free space that uploads leave untouched.
    reserve: u64,
    /// From here on the bytes of an upload are written past the page cache.
    direct_from: u64,
    /// `None` where everything goes through the page cache.
    ahead: Option<ahead::Ahead>,
    boot_id: String,
    broken: OnceLock<String>,
    timings: Timings,
    _lock: File,
}

/// Read at a time where a file is hashed again.
const REHASH_BYTES: usize = 1 << 20;

impl Disk {
    /// The directory that this store lives in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How long it takes.
    pub fn timings(&self) -> &Timings {
        &self.timings
    }

    /// Why the store takes no writes any more, if so.
    pub fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }

    /// Turns the store read-only for the rest of the process's life.
    ///
    /// After a failed fsync the kernel marks the lost pages clean, so a second fsync that succeeds
    /// proves nothing: nothing may be acknowledged any more.
    pub fn mark_broken(&self, why: &str) {
        if fail_point!("read-only", off) {
            return;
        }
        if self.broken.set(why.to_owned()).is_ok() {
            tracing::error!(reason = why, "the store is read-only from now on; pulls go on");
        }
    }

    /// Refuses when the store is read-only or when fewer than the reserved bytes are free.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`], [`StoreError::Full`].
    pub fn ready_for_writes(&self) -> Result<(), StoreError> {
        if let Some(why) = self.broken() {
            return Err(StoreError::ReadOnly(why.to_owned()));
        }
        let free =
            self.free_bytes().map_err(|source| self.failed("read the free space", source))?;
        if free < self.reserve { Err(StoreError::Full) } else { Ok(()) }
    }

    /// Free bytes that this process may use.
    ///
    /// # Errors
    /// Those of statvfs(3).
    pub fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Bytes of the file system, free or not.
    ///
    /// # Errors
    /// Those of statvfs(3).
    pub fn capacity_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
    }

    /// Opens the bytes of a published blob.
    ///
    /// # Errors
    /// `NotFound` when no such bytes are published; what is no regular file (a link, a pipe) is
    /// none of ours and leads nowhere. Another error when the directory is gone in which they would
    /// be: a disk that is not mounted says nothing about its blobs.
    pub fn open_blob(&self, digest: &Digest) -> io::Result<File> {
        match timed(&self.timings.reader, || open_regular(&self.blob_path(digest))) {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && !self.shard_path(digest).is_dir() =>
            {
                Err(io::Error::other("the blobs' directory is gone"))
            }
            other => other,
        }
    }

    /// The same where that takes no wait for the disk; `None` where it might, or fails.
    pub fn open_blob_in_memory(&self, digest: &Digest) -> Option<File> {
        use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let (path, began) = (self.blob_path(digest), Instant::now());
        // Linux 5.12; where it is not known, or not allowed, the pool does it.
        let file = rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED);
        let file = File::from(file.ok()?);
        self.timings.reader.observe(began.elapsed().as_secs_f64());
        file.metadata().is_ok_and(|meta| meta.is_file()).then_some(file)
    }

    /// Moves an upload's bytes to their digest's place, durably; replaces what is there.
    ///
    /// Replacing heals: the new bytes were just verified, the old ones may be rotten. The caller
    /// has synced the data ([`session::Session::sync`]) and holds the digest's lock.
    ///
    /// # Errors
    /// [`StoreError::Gone`] when the upload was cancelled meanwhile.
    pub fn publish(&self, session: &UploadId, digest: &Digest) -> Result<(), StoreError> {
        timed(&self.timings.publish, || self.publish_untimed(session, digest))
    }

    fn publish_untimed(&self, session: &UploadId, digest: &Digest) -> Result<(), StoreError> {
        let target = self.blob_path(digest);
        // Before the rename: whatever cannot be opened leaves everything as it is.
        let shard = self.open_shard(digest)?;
        std::fs::rename(self.session_dir(session).join("data"), &target)
            .map_err(|source| self.upload_failed(session, "publish the blob", source))?;
        fail_point!("publish-renamed");
        self.sync_shard(&shard)?;
        fail_point!("publish-synced");
        Ok(())
    }

    /// Removes a published blob's bytes, durably. The caller holds the digest's lock. Bytes that
    /// are not there are no error.
    ///
    /// # Errors
    /// What unlink and fsync answer.
    pub fn remove_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        timed(&self.timings.delete, || {
            let shard = self.open_shard(digest)?;
            match std::fs::remove_file(self.blob_path(digest)) {
                Ok(()) => self.sync_shard(&shard),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(source) => Err(self.failed("remove the blob", source)),
            }
        })
    }

    fn open_shard(&self, digest: &Digest) -> Result<File, StoreError> {
        File::open(self.shard_path(digest))
            .map_err(|source| self.failed("open the blob's directory", source))
    }

    fn sync_shard(&self, shard: &File) -> Result<(), StoreError> {
        if fail_point!("shard-sync", off) {
            return Ok(());
        }
        fail_point!("shard-sync-fails", io)
            .and_then(|()| shard.sync_all())
            .map_err(|source| self.sync_failed("sync the blob's directory", source))
    }

    /// Turns the store read-only, whatever the error says. ENOSPC at a sync is not a full file
    /// system, which refuses the write or the rename: it is storage that ran out below one, and what
    /// was lost may be other requests' too. A second sync would prove nothing.
    fn sync_failed(&self, what: &'static str, source: io::Error) -> StoreError {
        self.mark_broken(&format!("could not {what}: {source}"));
        StoreError::Io { what, source }
    }

    fn shard_path(&self, digest: &Digest) -> PathBuf {
        let mut path = self.root.join("blobs");
        path.push(digest.algorithm().as_str());
        path.push(&digest.hex()[..2]);
        path
    }

    /// Where the bytes of `digest` are or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.shard_path(digest).join(digest.hex())
    }

    /// Sorts an error: out of space, a broken disk, or neither.
    fn failed(&self, what: &'static str, source: io::Error) -> StoreError {
        use rustix::io::Errno;
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC | Errno::DQUOT) => StoreError::Full,
            Some(Errno::IO | Errno::ROFS | Errno::NXIO | Errno::NODEV) => {
                self.mark_broken(&format!("could not {what}: {source}"));
                StoreError::Io { what, source }
            }
            _ => StoreError::Io { what, source },
        }
    }
}

/// Opens a file for reading, and nothing that is none: a name that leads elsewhere would serve what
/// lies there.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    // Without NONBLOCK a pipe would be waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => {
            return Err(io::ErrorKind::NotFound.into());
        }
        Err(errno) => return Err(errno.into()),
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// Hashes `length` bytes of `file` from `offset` into `hasher`.
fn hash_range(file: &File, hasher: &mut Hasher, offset: u64, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; REHASH_BYTES];
    let (mut at, end) = (offset, offset + length);
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(REHASH_BYTES);
        let got = file.read_at(&mut buffer[..want], at)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(&buffer[..got]);
        at += got as u64;
    }
    Ok(())
}

/// Both algorithms, where something is made for each.
const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];
