//! The local store: images, their layers, the containers made of them.
//!
//! ```text
//! ROOT 0700
//!   VERSION                     format, owner kind; an unknown format is refused
//!   lock                        flock: SH = making something reachable, or relying on it;
//!                               EX = deciding a removal. Held for milliseconds
//!   blobs/<alg>/<hex>           manifests, configurations, compressed layers: write-once
//!   ingest/<alg>-<hex>.part     compressed bytes that have arrived so far
//!   locks/<alg>-<hex>           flock EX = "I am producing this layer"
//!   layers/<alg>-<hex>/         layer.json, fs/, durable
//!   fixups/<chain>/             layer.json, fs/, durable
//!   work/<rand>/                staging, flock on the directory; unlocked = abandoned
//!   trash/<rand>                only ever deleted from
//!   images/<sha256 of name>.json
//!   leases/<rand>               digests and DiffIDs in use by a process, flock EX for its life
//!   containers/<id>/            config.json, rw/{u,w}, exit.json, log/
//!   names/<name>                -> ../containers/<id>
//!   volumes/<name>/             meta.json, _data
//!   ids/<slot>                  -> the container whose ids these are
//!   settled                     the boot in which containers were last looked through
//! ```
//!
//! Every edge that makes something reachable is written under SH, every removal is decided under
//! EX, so a decision sees each edge wholly or not at all. Long work holds leases only, whose
//! liveness the kernel keeps. Nothing is deleted under its public name: it is renamed into
//! `trash/` first, so a reader sees a whole layer or none.
//!
//! Lock order: `locks/*`, then `lock`, then the directory `names`. Nobody waits for anything else
//! while holding `lock`. flock only: POSIX locks vanish when any descriptor of the file is closed.

pub mod containers;
mod durable;
mod error;
mod files;
mod fixups;
mod ids;
mod ingest;
mod layer;
mod lock;
mod record;
mod removal;
mod remove;
mod sweep;
mod usage;
mod worker;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

pub use self::containers::ContainerDir;
pub(crate) use self::durable::sync_worker;
pub use self::error::{InUse, StoreError};
pub(crate) use self::files::{RECORD_BYTES_MAX, write_all};
pub(crate) use self::ingest::{LayerLock, Locking, Part, Staging};
pub(crate) use self::layer::layer_path;
pub use self::layer::{Attributes, Layer, LayerFacts};
pub use self::lock::{Hold, Lease};
pub use self::record::{Image, familiar_name, repository_of};
pub(crate) use self::removal::remove_tree;
pub use self::remove::Removed;
pub use self::usage::{ImageSize, Usage, tree_bytes, volume_bytes, written_bytes};
pub(crate) use self::worker::main as store_worker;
use crate::userns::IdMap;

/// The layout of the store that this program writes.
pub const FORMAT: u32 = 1;

const FOLDERS: [&str; 14] = [
    "blobs",
    "blobs/sha256",
    "blobs/sha512",
    "ingest",
    "locks",
    "layers",
    "fixups",
    "work",
    "trash",
    "images",
    "leases",
    "containers",
    "names",
    "volumes",
];

/// An open store. Cheap to open: two system calls and one small file.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    dir: OwnedFd,
    pub(crate) marks: Marks,
    /// An ordinary user's store: the ids behind those of its files.
    ids: Option<IdMap>,
    /// This process has entered these ids.
    is_inside: bool,
}

/// Which extended attributes hold overlay's marks: only root may write the first kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marks {
    Trusted,
    User,
}

impl Marks {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::User => "user",
        }
    }

    pub(crate) fn opaque(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Version {
    format: u32,
    /// `root` or `rootless`.
    owner: String,
    /// The prefix of overlay's xattrs in layers: `trusted` or `user`.
    xattrs: String,
    /// Of an ordinary user's store, settled when it is made.
    #[serde(default)]
    ids: Option<IdMap>,
}

impl Store {
    /// Opens the store at `root`, and makes it where there is none.
    ///
    /// # Errors
    /// [`StoreError::UnknownFormat`] and [`StoreError::OtherOwner`] where another program or
    /// another kind of user made it; [`StoreError::Unfit`] where its file system cannot hold one.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Self::open_as(root, false)
    }

    /// The store for a process that has entered its ids ([`IdMap::enter`]), where it is root.
    pub(crate) fn open_inside(root: &Path) -> Result<Self, StoreError> {
        Self::open_as(root, true)
    }

    fn open_as(root: &Path, is_inside: bool) -> Result<Self, StoreError> {
        let what = || StoreError::io(format!("open the store {}", root.display()));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match rustix::fs::open(root, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => {
                make_root(root)?;
                rustix::fs::open(root, flags, Mode::empty()).map_err(what())?
            }
            other => other.map_err(what())?,
        };
        let mut store =
            Self { root: root.to_owned(), dir, marks: Marks::Trusted, ids: None, is_inside };
        let version = match files::read(store.dir(), "VERSION").map_err(what())? {
            Some(bytes) => bytes,
            None => store.initialise()?,
        };
        let version = store.check_version(&version)?;
        store.marks = if version.xattrs == "user" { Marks::User } else { Marks::Trusted };
        store.ids = version.ids;
        Ok(store)
    }

    /// An ordinary user's ids, which all of his containers have.
    pub fn ids(&self) -> Option<&IdMap> {
        self.ids.as_ref()
    }

    /// The ids to enter before its files can be worked on; `None` where they can be already.
    pub(crate) fn ids_to_enter(&self) -> Option<&IdMap> {
        self.ids.as_ref().filter(|_| !self.is_inside)
    }

    /// The store's directory, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The store's directory as a base for paths.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// `volumes/`: one directory per volume, with `meta.json` and `_data`.
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    fn initialise(&self) -> Result<Vec<u8>, StoreError> {
        let what = || StoreError::io(format!("make the store {}", self.root.display()));
        // Two first commands at once: the later one finds what the earlier one made.
        let _alone = self.hold_exclusive()?;
        if let Some(version) = files::read(self.dir(), "VERSION").map_err(what())? {
            return Ok(version);
        }
        self.probe()?;
        for folder in FOLDERS {
            files::make_dir(self.dir(), folder, Mode::RWXU).map_err(what())?;
        }
        let (owner, xattrs) = if is_root() { ("root", "trusted") } else { ("rootless", "user") };
        let ids = (!is_root()).then(IdMap::of_user);
        let version = Version { format: FORMAT, owner: owner.into(), xattrs: xattrs.into(), ids };
        let bytes = to_json(&version);
        files::replace(self.dir(), ".", "VERSION", &bytes, files::Durably::Yes).map_err(what())?;
        Ok(bytes)
    }

    fn check_version(&self, bytes: &[u8]) -> Result<Version, StoreError> {
        let root = || self.root.clone();
        let version: Version = serde_json::from_slice(bytes).map_err(|_| {
            StoreError::UnknownFormat { root: root(), found: "that cannot be read".into() }
        })?;
        if version.format != FORMAT {
            let found = version.format.to_string();
            return Err(StoreError::UnknownFormat { root: root(), found });
        }
        let (made, now) = match (version.owner.as_str(), is_root() && !self.is_inside) {
            ("root", false) => ("by root", "not root"),
            ("rootless", true) => ("without root", "root"),
            _ if version.owner == "rootless" && version.ids.is_none() => {
                // Of a program that made such stores and could not fill them.
                let why = "it was made before its ids were settled: remove it".to_owned();
                return Err(StoreError::Unfit { root: root(), why });
            }
            _ => return Ok(version),
        };
        Err(StoreError::OtherOwner { root: root(), made, now })
    }

    /// Tries on the real file system what layers need of it.
    fn probe(&self) -> Result<(), StoreError> {
        const OVERLAYFS_SUPER_MAGIC: i64 = 0x794c_7630;
        let unfit = |why: String| StoreError::Unfit { root: self.root.clone(), why };
        let statfs = rustix::fs::fstatfs(&self.dir)
            .map_err(StoreError::io(format!("examine {}", self.root.display())))?;
        if statfs.f_type == OVERLAYFS_SUPER_MAGIC {
            return Err(unfit(
                "it lies on overlayfs, on which no further overlay can be writable".into(),
            ));
        }
        let name = if is_root() { "trusted.roadstead" } else { "user.roadstead" };
        rustix::fs::fsetxattr(&self.dir, name, b"y", rustix::fs::XattrFlags::empty()).map_err(
            |error| unfit(format!("its file system keeps no {name} attributes: {error}")),
        )?;
        // Only a probe: whether it can be taken away again does not matter.
        let _ = rustix::fs::fremovexattr(&self.dir, name);
        Ok(())
    }
}

fn make_root(root: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::DirBuilderExt;
    let failed = |source| StoreError::Io { what: format!("make {}", root.display()), source };
    if let Some(parent) = root.parent() {
        crate::dirs::make_parents(parent).map_err(failed)?;
    }
    // 0700: images hold setuid programs that no other user may reach (CVE-2021-41091).
    match std::fs::DirBuilder::new().mode(0o700).create(root) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(failed),
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Records of ours hold nothing that JSON cannot say.
pub(crate) fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// This boot's random id. Within one boot the page cache is coherent, whatever process died.
pub(crate) fn boot_id() -> Result<String, StoreError> {
    let path = "/proc/sys/kernel/random/boot_id";
    std::fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|source| StoreError::Io { what: format!("read {path}"), source })
}
