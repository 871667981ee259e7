//! The layer's directory while it is written: everything beneath one descriptor, nothing through
//! a symbolic link.
//!
//! Directories get mode, owner, xattrs and times at the very end. Until then they are plain
//! `0755 0:0`, so that a setgid bit or a default ACL of a directory does not change what is made
//! in it, and times are not touched by later entries.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::CString;
use std::ops::Bound;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::entry::Entry;
use super::limits::{DEPTH_MAX, DIRECTORY_NAMES_BYTES_MAX};
use super::report::Refusal;
use crate::container::RootAttributes;
use crate::known_bad::left_out;

/// Open directories that are kept. Tars come in the order of a walk, so few are enough.
const CACHED_MAX: usize = 64;

pub(crate) struct Tree {
    root: Rc<OwnedFd>,
    directories: BTreeMap<Vec<u8>, Directory>,
    /// Bytes of the names in `directories`.
    name_bytes: usize,
    /// Directories that hold a whiteout.
    whiteouts_in: BTreeSet<Vec<u8>>,
    cache: HashMap<Vec<u8>, Rc<OwnedFd>>,
    root_given: Option<Given>,
    opaque_root: bool,
    opaque_mark: &'static str,
}

#[derive(Default)]
struct Directory {
    /// None: implied by what lies in it.
    given: Option<Given>,
    opaque: bool,
}

/// What an entry says about its directory.
struct Given {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, u32),
    xattrs: Vec<(String, Vec<u8>)>,
}

/// What stands under a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Directory,
    /// Character device 0:0. Only this program makes one here: an entry that is one is refused.
    Whiteout,
    Symlink,
    Other,
}

/// What is known when everything is written.
pub(crate) struct Finished {
    /// Directories without an entry of their own.
    pub(crate) implied: Vec<Vec<u8>>,
    /// Directories that hold whiteouts (or held them: a later entry may have replaced one).
    pub(crate) whiteouts_in: Vec<Vec<u8>>,
    pub(crate) root: Option<RootAttributes>,
    pub(crate) opaque_root: bool,
}

impl Tree {
    pub(crate) fn new(root: OwnedFd, opaque_mark: &'static str) -> Self {
        Self {
            root: Rc::new(root),
            directories: BTreeMap::new(),
            name_bytes: 0,
            whiteouts_in: BTreeSet::new(),
            cache: HashMap::new(),
            root_given: None,
            opaque_root: false,
            opaque_mark,
        }
    }

    /// The directory at `path`, made with its parents where the layer has not named them yet.
    pub(crate) fn directory(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Refusal> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some(fd) = self.cache.get(path) {
            return Ok(Rc::clone(fd));
        }
        if !self.directories.contains_key(path) {
            // From the top down, without recursion: depth is bounded, stack frames add up.
            let slashes = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/');
            let ends: Vec<usize> = slashes.map(|(at, _)| at).chain([path.len()]).collect();
            for end in ends {
                let part = &path[..end];
                if !self.directories.contains_key(part) {
                    self.make_directory(part, false)?;
                }
            }
        }
        self.open(path)
    }

    /// A directory that is known to exist.
    fn open(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Refusal> {
        let fd = Rc::new(self.open_uncached(path)?);
        if self.cache.len() >= CACHED_MAX {
            self.cache.clear();
        }
        self.cache.insert(path.to_vec(), Rc::clone(&fd));
        Ok(fd)
    }

    fn open_uncached(&self, path: &[u8]) -> Result<OwnedFd, Refusal> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        open_beneath(&self.root, path, flags).map_err(|error| match error {
            Errno::LOOP => a_link_in_the_way(),
            error => Refusal::system("open its directory", error),
        })
    }

    /// Opens what `path` is, following nothing; for the target of a hard link.
    pub(crate) fn existing_parent(&self, path: &[u8]) -> Result<Rc<OwnedFd>, Errno> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some(fd) = self.cache.get(path) {
            return Ok(Rc::clone(fd));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open_beneath(&self.root, path, flags).map(Rc::new)
    }

    /// Makes one directory whose parent exists. An explicit one replaces whatever is in its place,
    /// an implied one only a whiteout.
    fn make_directory(&mut self, path: &[u8], explicit: bool) -> Result<(), Refusal> {
        let (parent_path, name) = split(path);
        let parent = self.directory_known(parent_path)?;
        let mode = Mode::from_raw_mode(0o755);
        let mut opaque = false;
        loop {
            match rustix::fs::mkdirat(&*parent, name, mode) {
                Ok(()) => break,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(Refusal::system("make its directory", error)),
            }
            match standing(&parent, name)? {
                Some(Standing::Directory) => break,
                Some(Standing::Symlink) if left_out("unpacked-inside") => break,
                // A whiteout beside the directory that takes its place: nothing of the lower one
                // may show through.
                Some(Standing::Whiteout) => opaque = true,
                Some(Standing::Symlink) if !explicit => return Err(a_link_in_the_way()),
                Some(Standing::Other) if !explicit => {
                    return Err(Refusal::hostile("a file stands where a directory is expected"));
                }
                Some(_) => {}
                None => continue,
            }
            unlink(&parent, name, AtFlags::empty())?;
        }
        self.remember(path, opaque)
    }

    fn directory_known(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Refusal> {
        match self.cache.get(path) {
            Some(fd) => Ok(Rc::clone(fd)),
            None if path.is_empty() => Ok(Rc::clone(&self.root)),
            None => self.open(path),
        }
    }

    fn remember(&mut self, path: &[u8], opaque: bool) -> Result<(), Refusal> {
        if let Some(known) = self.directories.get_mut(path) {
            known.opaque |= opaque;
            return Ok(());
        }
        self.name_bytes += path.len();
        if self.name_bytes > DIRECTORY_NAMES_BYTES_MAX {
            return Err(Refusal::limit(format!(
                "the names of the layer's directories take more than {DIRECTORY_NAMES_BYTES_MAX} bytes"
            )));
        }
        self.directories.insert(path.to_vec(), Directory { given: None, opaque });
        Ok(())
    }

    /// A directory with an entry of its own. One that exists is kept with what is in it.
    pub(crate) fn give_directory(&mut self, path: &[u8], entry: Entry) -> Result<(), Refusal> {
        let given = Given {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: entry.xattrs,
        };
        if path.is_empty() {
            self.root_given = Some(given);
            return Ok(());
        }
        if !self.directories.contains_key(path) {
            self.directory(split(path).0)?;
            self.make_directory(path, true)?;
        }
        if let Some(directory) = self.directories.get_mut(path) {
            directory.given = Some(given);
        }
        Ok(())
    }

    /// Nothing of lower layers shows in `path`.
    pub(crate) fn make_opaque(&mut self, path: &[u8]) -> Result<(), Refusal> {
        if path.is_empty() {
            self.opaque_root = true;
            return Ok(());
        }
        self.directory(path)?;
        self.remember(path, true)
    }

    /// `path` of lower layers is gone; what this layer itself has there stays.
    pub(crate) fn white_out(&mut self, path: &[u8]) -> Result<(), Refusal> {
        let (parent_path, name) = split(path);
        let parent = self.directory(parent_path)?;
        let mode = Mode::empty();
        match rustix::fs::mknodat(&*parent, name, FileType::CharacterDevice, mode, 0) {
            Ok(()) => {
                if !self.whiteouts_in.contains(parent_path) {
                    self.whiteouts_in.insert(parent_path.to_vec());
                }
                Ok(())
            }
            Err(Errno::EXIST) if self.directories.contains_key(path) => self.remember(path, true),
            // A file hides the lower one by itself.
            Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(Refusal::system("write a whiteout", error)),
        }
    }

    /// Makes something that is no directory: `make` again after whatever stands in its place has
    /// been removed.
    pub(crate) fn place<T>(
        &mut self,
        path: &[u8],
        make: impl Fn(&OwnedFd, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<T, Refusal> {
        let (parent_path, name) = split(path);
        let parent = self.directory(parent_path)?;
        match make(&parent, name) {
            Err(Errno::EXIST) => {}
            other => return other.map_err(|error| Refusal::system("make it", error)),
        }
        self.remove(&parent, path, name)?;
        make(&parent, name).map_err(|error| Refusal::system("make it", error))
    }

    fn remove(&mut self, parent: &OwnedFd, path: &[u8], name: &[u8]) -> Result<(), Refusal> {
        if standing(parent, name)? != Some(Standing::Directory) {
            return unlink(parent, name, AtFlags::empty());
        }
        self.cache.clear();
        let entry = CString::new(name).map_err(|_| Refusal::format("a name with a NUL in it"))?;
        crate::images::remove_tree(parent.as_fd(), &entry)
            .map_err(|error| Refusal::system("remove what is in its place", error))?;
        let beneath = [path, b"/"].concat();
        let range = (Bound::Included(beneath.clone()), Bound::Unbounded);
        let gone: Vec<Vec<u8>> = self
            .directories
            .range(range)
            .map(|(known, _)| known)
            .take_while(|known| known.starts_with(&beneath))
            .cloned()
            .chain([path.to_vec()])
            .collect();
        for known in gone {
            self.name_bytes -= known.len();
            self.directories.remove(&known);
        }
        Ok(())
    }

    /// Gives every directory what its entry said, now that nothing is made in it any more.
    pub(crate) fn finish(mut self) -> Result<Finished, Refusal> {
        self.cache.clear();
        let directories = std::mem::take(&mut self.directories);
        let mut implied = Vec::new();
        for (path, directory) in directories {
            if directory.given.is_some() || directory.opaque {
                self.settle(&path, &directory).map_err(|refusal| refusal.at(&path))?;
            }
            if directory.given.is_none() {
                implied.push(path);
            }
        }
        let root = self.root_given.map(|given| RootAttributes {
            mode: given.mode,
            uid: given.uid,
            gid: given.gid,
            xattrs: given
                .xattrs
                .into_iter()
                .filter(|(name, _)| !crate::overlay::speaks_to_overlay(name))
                .collect(),
        });
        let whiteouts_in = self.whiteouts_in.into_iter().filter(|path| !path.is_empty()).collect();
        Ok(Finished { implied, whiteouts_in, root, opaque_root: self.opaque_root })
    }

    fn settle(&self, path: &[u8], directory: &Directory) -> Result<(), Refusal> {
        let fd = self.open_uncached(path)?;
        if directory.opaque {
            rustix::fs::fsetxattr(&fd, self.opaque_mark, b"y", rustix::fs::XattrFlags::empty())
                .map_err(|error| Refusal::system("mark a directory opaque", error))?;
        }
        let Some(given) = &directory.given else { return Ok(()) };
        let (uid, gid) = (Uid::from_raw(given.uid), Gid::from_raw(given.gid));
        if given.uid != 0 || given.gid != 0 {
            rustix::fs::fchown(&fd, Some(uid), Some(gid))
                .map_err(|error| Refusal::system("set its owner", error))?;
        }
        set_xattrs(&fd, &given.xattrs)?;
        if given.mode != 0o755 || !given.xattrs.is_empty() {
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(given.mode))
                .map_err(|error| Refusal::system("set its mode", error))?;
        }
        rustix::fs::futimens(&fd, &times(given.mtime))
            .map_err(|error| Refusal::system("set its times", error))
    }
}

/// Access and modification time alike: a tar knows one, and Docker takes it for both.
pub(crate) fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Sets extended attributes of an open file, but for overlay's.
///
/// A file system that knows no such attribute is passed over, as Docker does.
pub(crate) fn set_xattrs(fd: &OwnedFd, xattrs: &[(String, Vec<u8>)]) -> Result<(), Refusal> {
    for (name, value) in xattrs.iter().filter(|(name, _)| !crate::overlay::speaks_to_overlay(name))
    {
        let set = rustix::fs::fsetxattr(fd, name.as_str(), value, rustix::fs::XattrFlags::empty());
        xattr_set(name, set)?;
    }
    Ok(())
}

pub(crate) fn xattr_set(name: &str, set: rustix::io::Result<()>) -> Result<(), Refusal> {
    match set {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        Err(error) => {
            let name = crate::path_text::to_text(name.as_bytes());
            Err(Refusal::system(&format!("set its attribute {name}"), error))
        }
    }
}

/// Parent and last component; the path is normal, so neither is empty but for the root's parent.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn open_beneath(root: &OwnedFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    if left_out("unpacked-inside") {
        return rustix::fs::openat(root, path, flags - OFlags::NOFOLLOW, Mode::empty());
    }
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    loop {
        // EAGAIN: a rename elsewhere raced with the walk (openat2(2)).
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

fn standing(parent: &OwnedFd, name: &[u8]) -> Result<Option<Standing>, Refusal> {
    let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.map_err(|error| Refusal::system("look at what is in its place", error))?,
    };
    Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Standing::Directory,
        FileType::Symlink => Standing::Symlink,
        FileType::CharacterDevice if stat.st_rdev == 0 => Standing::Whiteout,
        _ => Standing::Other,
    }))
}

fn unlink(parent: &OwnedFd, name: &[u8], flags: AtFlags) -> Result<(), Refusal> {
    rustix::fs::unlinkat(parent, name, flags)
        .map_err(|error| Refusal::system("remove what is in its place", error))
}

fn a_link_in_the_way() -> Refusal {
    Refusal::hostile("a symbolic link stands where a directory is expected")
}

pub(crate) fn too_deep() -> Refusal {
    Refusal::limit(format!("it lies more than {DEPTH_MAX} directories deep"))
}
