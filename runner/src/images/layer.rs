//! One layer on disk, keyed by its DiffID and shared by every image.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use shared::{DiffId, Digest};

use super::{Marks, Store, StoreError, boot_id, files};
use crate::container::RootAttributes;
use crate::known_bad::left_out;

/// Mode, owner and xattrs of a directory.
pub type Attributes = RootAttributes;

/// `layer.json`: what unpacking found out, written before the layer gets its public name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LayerFacts {
    pub format: u32,
    /// `directory`; other forms are to come.
    pub form: String,
    /// The boot in which this was written: until `durable` exists, it counts in this boot only.
    pub boot_id: String,
    /// Which xattrs hold overlay's marks: `trusted` or `user`.
    pub xattrs: String,
    pub entries: u64,
    /// Content of regular files, bytes, as Docker counts a layer's size.
    pub bytes: u64,
    /// The uncompressed tar, bytes.
    pub tar_bytes: u64,
    /// Directories without an entry of their own; bytes outside printable ASCII as `%xx`.
    #[serde(default)]
    pub implied: Vec<String>,
    /// Directories other than the root that hold whiteouts, written in the same way.
    #[serde(default)]
    pub whiteouts_in: Vec<String>,
    /// Attributes of the layer's own entry for `/`.
    #[serde(default)]
    pub root: Option<Attributes>,
    /// `/` itself is opaque: nothing of lower layers shows. Overlayfs looks for that mark
    /// everywhere but on the root, so lower layers are left out of the stack instead.
    #[serde(default)]
    pub opaque_root: bool,
    /// The largest id of an owner; `None`: not looked at when it was unpacked.
    #[serde(default)]
    pub id_max: Option<u32>,
}

/// A layer that is whole.
#[derive(Debug)]
pub struct Layer {
    pub diff_id: DiffId,
    dir: OwnedFd,
    marks: Marks,
}

impl Layer {
    /// What overlayfs stacks: an O_PATH descriptor of a directory (or, later, of a detached mount).
    pub fn as_lower(&self) -> Result<OwnedFd, StoreError> {
        open_tree(&self.dir).map_err(StoreError::io(format!("open layer {}", self.diff_id)))
    }

    /// What unpacking found out.
    pub fn facts(&self) -> Result<LayerFacts, StoreError> {
        read_facts(&self.dir, &self.diff_id.to_string())
    }

    /// Where the symbolic link at `path` leads; none where there is none.
    pub(crate) fn link_at(&self, path: &[u8]) -> Option<Vec<u8>> {
        use rustix::fs::ResolveFlags;
        let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b"."[..], path),
        };
        let root = open_tree(&self.dir).ok()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let parent = rustix::fs::openat2(&root, parent, flags, Mode::empty(), resolve).ok()?;
        rustix::fs::readlinkat(&parent, name, Vec::new()).ok().map(|target| target.into_bytes())
    }

    /// What is at `path`, relative to the layer's root; symbolic links are not followed.
    pub(crate) fn look(&self, path: &[u8]) -> Result<Found, StoreError> {
        let what = || StoreError::io(format!("look into layer {}", self.diff_id));
        let root = open_tree(&self.dir).map_err(what())?;
        look_beneath(&root, path, self.marks.opaque()).map_err(what())
    }
}

/// What a path is in one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Directory {
        opaque: bool,
    },
    /// A file, a symbolic link, a whiteout: whatever hides a lower directory.
    Other,
}

fn look_beneath(root: &OwnedFd, path: &[u8], mark: &str) -> rustix::io::Result<Found> {
    use rustix::fs::ResolveFlags;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        Err(Errno::NOENT) => return Ok(Found::Nothing),
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Found::Other),
        other => other?,
    };
    let stat = rustix::fs::fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(Found::Other);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(&fd, ".", flags, Mode::empty())?;
    let mut value = [0; 1];
    let opaque = match rustix::fs::fgetxattr(&dir, mark, &mut value) {
        Ok(count) => value[..count] == *b"y",
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => false,
        Err(error) => return Err(error),
    };
    Ok(Found::Directory { opaque })
}

impl Layer {
    /// Mode, owner and xattrs of the directory at `path` (which must be one).
    pub fn attributes_of(&self, path: &[u8]) -> Result<Attributes, StoreError> {
        let what = || StoreError::io(format!("read attributes in layer {}", self.diff_id));
        let root = open_tree(&self.dir).map_err(what())?;
        let resolve = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve)
            .and_then(|dir| attributes(&dir))
            .map_err(what())
    }
}

/// Attributes of an open directory, without overlay's own marks.
pub(crate) fn attributes(dir: &OwnedFd) -> rustix::io::Result<Attributes> {
    let stat = rustix::fs::fstat(dir)?;
    let mut xattrs = BTreeMap::new();
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(dir, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        if crate::overlay::speaks_to_overlay(name) {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::fgetxattr(dir, name, &mut value[..])?;
        value.truncate(length);
        xattrs.insert(name.to_owned(), value);
    }
    Ok(Attributes { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, xattrs })
}

/// Gives an open directory these attributes.
pub(crate) fn set_attributes(dir: &OwnedFd, wanted: &Attributes) -> rustix::io::Result<()> {
    use rustix::fs::{Gid, Uid, XattrFlags};
    let (uid, gid) = (Uid::from_raw(wanted.uid), Gid::from_raw(wanted.gid));
    rustix::fs::fchown(dir, Some(uid), Some(gid))?;
    rustix::fs::fchmod(dir, Mode::from_raw_mode(wanted.mode))?;
    for (name, value) in &wanted.xattrs {
        rustix::fs::fsetxattr(dir, name.as_str(), value, XattrFlags::empty())?;
    }
    Ok(())
}

/// `fs/` of a layer's directory.
fn open_tree(dir: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, "fs", flags, Mode::empty())
}

fn read_facts(dir: &OwnedFd, name: &str) -> Result<LayerFacts, StoreError> {
    let damaged = |why: String| StoreError::Damaged { what: format!("layer {name}"), why };
    let bytes = files::read(dir.as_fd(), "layer.json")
        .or_else(|error| match error {
            // Larger than any that this program writes.
            Errno::FBIG if !left_out("records-readable") => Ok(None),
            error => Err(error),
        })
        .map_err(StoreError::io(format!("read layer.json of {name}")))?
        .ok_or_else(|| damaged("it has no layer.json".into()))?;
    serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))
}

/// Digests as names of files: `sha256-<hex>`.
pub(crate) fn file_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm(), digest.hex())
}

/// `layers/sha256-<hex>`
pub(crate) fn layer_path(diff_id: &DiffId) -> String {
    format!("layers/{}", file_name(&diff_id.0))
}

/// The reverse of [`file_name`].
pub(crate) fn digest_of(file_name: &str) -> Option<Digest> {
    file_name.replacen('-', ":", 1).parse().ok()
}

impl Store {
    /// A layer that is there and whole: it is durable, or of this boot.
    ///
    /// # Errors
    /// [`StoreError::NoSuchLayer`] where it is missing or cannot be trusted after a power cut.
    pub fn layer(&self, diff_id: &DiffId) -> Result<Layer, StoreError> {
        match self.find_whole(&layer_path(diff_id))? {
            Some(dir) => Ok(Layer { diff_id: diff_id.clone(), dir, marks: self.marks }),
            None => Err(StoreError::NoSuchLayer(diff_id.clone())),
        }
    }

    /// The tiny top layer that gives implied parents their attributes back, as a lower.
    pub fn fixups(&self, chain: &str) -> Result<OwnedFd, StoreError> {
        let damaged =
            || StoreError::Damaged { what: format!("fixups {chain}"), why: "gone".into() };
        let dir = self.find_whole(&format!("fixups/{chain}"))?.ok_or_else(damaged)?;
        open_tree(&dir).map_err(StoreError::io(format!("open fixups {chain}")))
    }

    /// The directory of a layer or of fixups, if it may be relied upon.
    pub(crate) fn find_whole(&self, path: &str) -> Result<Option<OwnedFd>, StoreError> {
        let what = || StoreError::io(format!("open {path}"));
        let dir = match files::open_dir(self.dir(), path) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(what())?,
        };
        match rustix::fs::statat(&dir, "durable", AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => return Ok(Some(dir)),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(what()(error)),
        }
        // Torn by a power cut, or of another boot: made again, never used.
        match read_facts(&dir, path) {
            Ok(facts) if facts.boot_id == boot_id()? || left_out("boot-compared") => Ok(Some(dir)),
            Ok(_) | Err(StoreError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
