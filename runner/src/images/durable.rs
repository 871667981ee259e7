//! Durability without waiting: one `syncfs`, in the background, after an image has come in.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::{Store, StoreError, files};
use crate::known_bad::left_out;

/// Marks every layer of this boot that is not yet durable, in the store that is the working
/// directory. The exit code is nobody's business.
pub(crate) fn sync_worker() -> u8 {
    let synced = std::env::current_dir()
        .map_err(|source| StoreError::Io { what: "find the store".into(), source })
        .and_then(|root| Store::open(&root))
        .and_then(|store| store.make_durable());
    u8::from(synced.is_err())
}

impl Store {
    /// Writes all layers and fixups through to the disk, then marks them `durable`. Durable itself
    /// when it returns, but for the marks: one that a power cut loses costs an unpacking.
    pub fn make_durable(&self) -> Result<(), StoreError> {
        let pending = self.not_durable()?;
        if pending.is_empty() {
            return Ok(());
        }
        if !left_out("synced-before-marked") {
            rustix::fs::syncfs(self.dir()).map_err(StoreError::io("sync the store"))?;
        }
        for dir in pending {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
            // By descriptor: a layer that was removed meanwhile is marked in the trash.
            match rustix::fs::openat(&dir, "durable", flags, Mode::RUSR | Mode::WUSR) {
                Ok(_) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(StoreError::io("mark a layer durable")(error)),
            }
        }
        Ok(())
    }

    /// What is whole in this boot only.
    fn not_durable(&self) -> Result<Vec<OwnedFd>, StoreError> {
        let mut pending = Vec::new();
        for folder in ["layers", "fixups"] {
            for name in files::names(self.dir(), folder).map_err(StoreError::io("list layers"))? {
                // One that cannot be read is of no use to anybody, and keeps no other from being
                // made durable.
                let whole = match self.find_whole(&format!("{folder}/{name}")) {
                    Err(error) if left_out("records-readable") => return Err(error),
                    other => other.unwrap_or(None),
                };
                if let Some(dir) = whole
                    && rustix::fs::statat(&dir, "durable", AtFlags::SYMLINK_NOFOLLOW).is_err()
                {
                    pending.push(dir);
                }
            }
        }
        Ok(pending)
    }

    /// Starts the above in a process of its own, and does not wait for it.
    pub(crate) fn make_durable_later(&self, program: &Path) {
        use std::os::unix::process::CommandExt;
        use std::process::Stdio;
        // Where it cannot be started, the next command that pulls tries again.
        let _ = crate::unpack::worker_command(program)
            .arg("sync")
            .current_dir(self.root())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
    }
}
