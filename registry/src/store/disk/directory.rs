//! Opening the data directory: what it may lie on, who else holds it, what it must contain.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::ahead::Ahead;
use super::{ALGORITHMS, Disk, Timings};

/// How a directory is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long to wait for another process to let go of the directory.
    pub wait_for_lock: Duration,
    /// Bytes of free space that uploads leave untouched; `None` is 64 MiB or 1 % of the disk,
    /// whichever is less.
    pub reserve: Option<u64>,
    /// From this offset on the bytes of an upload are written past the page cache; `None` is
    /// never.
    ///
    /// What is large costs less processor time so, and does not push out of memory what others
    /// pull. As far as there is memory at hand it is read back in the background.
    pub direct_from: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { wait_for_lock: Duration::ZERO, reserve: None, direct_from: Some(DIRECT_FROM_BYTES) }
    }
}

/// Most layers are smaller, and are in memory without being read back.
const DIRECT_FROM_BYTES: u64 = 32 << 20;

/// Largest default reserve: enough for the database's log and for deletes.
const RESERVE_BYTES: u64 = 64 << 20;

/// How often a held lock is tried again.
const LOCK_RETRY: Duration = Duration::from_millis(100);

/// Why a directory cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "{} is in use by another registry process (waited {} s): stop it, or choose another \
         directory with --root",
        .root.display(), .waited.as_secs()
    )]
    Locked { root: PathBuf, waited: Duration },
    #[error(
        "{} is on {kind}, where file locks and write-ahead logs are not reliable: choose a \
         directory on a local disk with --root",
        .root.display()
    )]
    NetworkFileSystem { root: PathBuf, kind: &'static str },
    #[error(
        "{} holds the data of another registry (docker/registry/v2), which this one does not \
         read: choose an empty directory with --root and push the images into it, for example \
         with `skopeo sync` from the running old registry",
        .root.display()
    )]
    ForeignTree { root: PathBuf },
    #[error("cannot {what} {}: {source}", .path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

impl Disk {
    /// Opens or creates the store in `root` and takes its lock.
    ///
    /// Everything made here is durable when this returns.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(root: &Path, options: &Options) -> Result<Self, OpenError> {
        // Only for its owner: private images are no other local user's business. A directory that
        // is there keeps the mode that somebody chose for it.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(|source| failed("create", root, source))?;
        if root.join("docker/registry/v2").exists() {
            return Err(OpenError::ForeignTree { root: root.to_owned() });
        }
        refuse_network_file_system(root)?;
        let lock = take_lock(root, options.wait_for_lock)?;
        make_directories(root)?;
        let stat = rustix::fs::statvfs(root)
            .map_err(|source| failed("read the free space of", root, source.into()))?;
        let percent = (stat.f_blocks / 100).saturating_mul(stat.f_frsize);
        Ok(Self {
            root: root.to_owned(),
            reserve: options.reserve.unwrap_or(RESERVE_BYTES.min(percent)),
            direct_from: options.direct_from.unwrap_or(u64::MAX),
            ahead: options.direct_from.and_then(|_| Ahead::start()),
            boot_id: boot_id(),
            broken: OnceLock::new(),
            timings: Timings::default(),
            _lock: lock,
        })
    }
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> OpenError {
    OpenError::Io { what, path: path.to_owned(), source }
}

/// Names of this boot. Without one (no /proc) nothing saved is trusted, which is safe.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| uuid::Uuid::new_v4().to_string(), |text| text.trim().to_owned())
}

/// Refuses file systems whose locks and shared memory do not hold between hosts.
///
/// The numbers are those of statfs(2).
fn refuse_network_file_system(root: &Path) -> Result<(), OpenError> {
    let stat = rustix::fs::statfs(root)
        .map_err(|source| failed("read the file system of", root, source.into()))?;
    #[allow(clippy::unnecessary_cast, reason = "the type of f_type differs between targets")]
    let kind = match (stat.f_type as i64) & 0xffff_ffff {
        0x6969 => "NFS",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x6573_5546 => "FUSE",
        0x0102_1997 => "9P",
        0x5346_414f => "AFS",
        0x00c3_6400 => "CephFS",
        _ => return Ok(()),
    };
    Err(OpenError::NetworkFileSystem { root: root.to_owned(), kind })
}

fn take_lock(root: &Path, wait: Duration) -> Result<File, OpenError> {
    let path = root.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| failed("open", &path, source))?;
    let deadline = Instant::now() + wait;
    let mut said = false;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                if !said {
                    said = true;
                    tracing::warn!(
                        root = %root.display(),
                        seconds = wait.as_secs(),
                        "another registry process holds the directory; waiting for it to stop"
                    );
                }
                std::thread::sleep(LOCK_RETRY);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(OpenError::Locked { root: root.to_owned(), waited: wait });
            }
            Err(source) => return Err(failed("lock", &path, source.into())),
        }
    }
}

/// Makes every directory that a push may need, so that a push syncs one directory and no parents.
fn make_directories(root: &Path) -> Result<(), OpenError> {
    let make = |path: &Path| match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(source) => Err(failed("create", path, source)),
    };
    let sync = |path: &Path| {
        File::open(path)
            .and_then(|dir| dir.sync_all())
            .map_err(|source| failed("sync", path, source))
    };
    let blobs = root.join("blobs");
    let mut made_algorithm = make(&blobs)?;
    for algorithm in ALGORITHMS {
        let dir = blobs.join(algorithm.as_str());
        made_algorithm |= make(&dir)?;
        let mut made_shard = false;
        for shard in 0..=255u8 {
            made_shard |= make(&dir.join(format!("{shard:02x}")))?;
        }
        if made_shard {
            sync(&dir)?;
        }
    }
    if made_algorithm {
        sync(&blobs)?;
    }
    make(&root.join("uploads"))?;
    // Always: it also covers what an earlier start, cut short, has made and not synced.
    sync(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            wait_for_lock: Duration::from_millis(150),
            reserve: Some(0),
            ..Options::default()
        }
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Disk::open(dir.path(), &options()).unwrap();
        assert!(matches!(Disk::open(dir.path(), &options()), Err(OpenError::Locked { .. })));
        drop(first);
        Disk::open(dir.path(), &options()).unwrap();
    }

    #[test]
    fn shards_exist_before_the_first_push() {
        let dir = tempfile::tempdir().unwrap();
        let _disk = Disk::open(dir.path(), &options()).unwrap();
        for algorithm in ["sha256", "sha512"] {
            let count = fs::read_dir(dir.path().join("blobs").join(algorithm)).unwrap().count();
            assert_eq!(count, 256);
        }
    }

    #[test]
    fn refuses_the_tree_of_distribution() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("docker/registry/v2/repositories")).unwrap();
        let error = Disk::open(dir.path(), &options()).unwrap_err();
        assert!(matches!(error, OpenError::ForeignTree { .. }), "{error}");
        assert!(!dir.path().join("blobs").exists(), "nothing is created beside it");
    }
}
