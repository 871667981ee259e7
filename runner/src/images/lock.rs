//! The store's locks. A crash releases them, a reboot releases them.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use shared::{DiffId, Digest};

use super::{Store, StoreError, files};

/// `lock` is held, shared or exclusive, until this is dropped.
#[must_use]
#[derive(Debug)]
pub struct Hold {
    _file: OwnedFd,
}

impl Store {
    /// Takes `lock` shared: for making something reachable, or for relying on something.
    pub fn hold_shared(&self) -> Result<Hold, StoreError> {
        self.hold(FlockOperation::LockShared)
    }

    /// Takes `lock` exclusively: for deciding what is removed.
    pub fn hold_exclusive(&self) -> Result<Hold, StoreError> {
        self.hold(FlockOperation::LockExclusive)
    }

    fn hold(&self, operation: FlockOperation) -> Result<Hold, StoreError> {
        let what = || StoreError::io(format!("lock the store {}", self.root().display()));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.dir(), "lock", flags, Mode::RUSR | Mode::WUSR)
            .map_err(what())?;
        wait_for(&file, operation).map_err(what())?;
        Ok(Hold { _file: file })
    }

    /// A new lease that names nothing yet.
    pub fn lease(&self) -> Result<Lease, StoreError> {
        let what = || StoreError::io("make a lease");
        let name = crate::random::name();
        let folder = files::open_dir(self.dir(), "leases").map_err(what())?;
        // Under SH, so that no sweep meets the file between its making and its locking.
        let _hold = self.hold_shared()?;
        let flags =
            OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(&folder, &name, flags, Mode::RUSR | Mode::WUSR).map_err(what())?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(what())?;
        Ok(Lease { folder, name, file })
    }
}

/// Digests and DiffIDs that a living process relies on: a sweep keeps what they reach.
///
/// The kernel keeps the liveness: the file is locked as long as this value (or the process) lives.
#[must_use]
#[derive(Debug)]
pub struct Lease {
    folder: OwnedFd,
    name: String,
    file: OwnedFd,
}

impl Lease {
    /// Names a blob. To be called with `lock` held shared, *before* its presence is tested.
    pub fn add_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        self.add(&format!("blob {digest}\n"))
    }

    /// Names a layer. To be called with `lock` held shared, *before* its presence is tested.
    pub fn add_layer(&self, diff_id: &DiffId) -> Result<(), StoreError> {
        self.add(&format!("layer {diff_id}\n"))
    }

    /// Names a directory under `fixups/`.
    pub fn add_fixups(&self, chain: &str) -> Result<(), StoreError> {
        self.add(&format!("fixups {chain}\n"))
    }

    fn add(&self, line: &str) -> Result<(), StoreError> {
        files::write_all(self.file.as_fd(), line.as_bytes())
            .map_err(StoreError::io("write a lease"))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A lease that stays behind unlocked is dead, and the next sweep takes it away.
        let _ = rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty());
    }
}

pub(crate) fn wait_for(file: &OwnedFd, operation: FlockOperation) -> rustix::io::Result<()> {
    loop {
        match rustix::fs::flock(file, operation) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Whether the lock was free and is now held by `file`.
pub(crate) fn try_exclusive(file: &OwnedFd) -> rustix::io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error),
    }
}
