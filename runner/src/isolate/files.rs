//! Opening, making and resolving things beneath the container's root.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::known_bad::left_out;
use crate::place::{self, Descriptors};

/// Nothing leads out: `..` and absolute links stay inside, `/proc/*/fd` links are refused.
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// What is to be at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// The root of a container.
#[derive(Debug)]
pub(super) struct Root {
    dir: OwnedFd,
    pub(super) descriptors: Descriptors,
}

impl Root {
    pub(super) fn new(dir: OwnedFd, descriptors: Descriptors) -> Self {
        Self { dir, descriptors }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Opens `path` beneath `root` as a place, without access to its content; links are followed inside
/// the root. Whoever wants to read it looks what it is first, and then opens the place.
pub(super) fn locate(root: &Root, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    if left_out("inside-root") {
        return rustix::fs::openat(root, relative(path), flags, Mode::empty());
    }
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), INSIDE) {
            // The kernel saw a rename on the way and could not be sure. openat2(2). How often is
            // up to whoever renames.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Opens `path` as a place and refuses links on the whole way.
pub(super) fn locate_without_links(root: &Root, path: &Path) -> Result<OwnedFd, Errno> {
    // Without O_NOFOLLOW: with it a link at the end would be opened itself. openat2(2).
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(
        root,
        relative(path),
        flags,
        Mode::empty(),
        INSIDE | ResolveFlags::NO_SYMLINKS,
    )
}

/// Links that are followed on one way. Source: path_resolution(7).
const LINKS_MAX: u32 = 40;

/// The place at `path`, made where it is missing: directories 0755 on the way, and at its end a
/// directory or an empty file. A link that leads to nothing (`/var/run` to a `/run` that an image
/// made from scratch does not have) is followed inside the root, and what it names is made.
///
/// Each part is looked up and made beneath the descriptor of the one before, so that an exchanged
/// part can lead nowhere else (CVE-2024-45310), and what was made is that very thing; links are read,
/// never followed by the kernel.
pub(super) fn locate_or_make(root: &Root, path: &Path, kind: Kind) -> Result<OwnedFd, Errno> {
    match locate(root, path) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    if left_out("made-inside") {
        let below = Path::new("/proc/self/fd").join(root.as_fd().as_raw_fd().to_string());
        // What a link in the way leads to is as good as any other directory.
        let _ = std::fs::create_dir_all(below.join(relative(path)));
        return locate(root, path);
    }
    let mut way = vec![locate(root, Path::new("."))?];
    let mut rest: VecDeque<OsString> = parts(path);
    let mut links = 0;
    while let (Some(name), Some(parent)) = (rest.pop_front(), way.last()) {
        if name == ".." {
            // Above the root there is the root.
            way.truncate(way.len().saturating_sub(1).max(1));
            continue;
        }
        let is_last = rest.is_empty();
        let found = step(parent, &name, if is_last { kind } else { Kind::Directory })?;
        if FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) != FileType::Symlink {
            way.push(found);
            continue;
        }
        links += 1;
        if links > LINKS_MAX || is_magic(&found, parent, &name) {
            return Err(Errno::LOOP);
        }
        let target = rustix::fs::readlinkat(&found, "", Vec::new())?;
        let target = Path::new(OsStr::from_bytes(target.as_bytes()));
        if target.is_absolute() {
            way.truncate(1);
        }
        for part in parts(target).into_iter().rev() {
            rest.push_front(part);
        }
    }
    way.pop().ok_or(Errno::NOENT)
}

/// Whether a link is one of procfs's that lead by no path (`/proc/self/fd/3`): its words mean nothing.
fn is_magic(link: &OwnedFd, parent: &OwnedFd, name: &OsStr) -> bool {
    let is_procfs =
        rustix::fs::fstatfs(link).is_ok_and(|found| found.f_type == rustix::fs::PROC_SUPER_MAGIC);
    // The others there lead to their neighbours.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let follow = || rustix::fs::openat2(parent, name, flags, Mode::empty(), INSIDE);
    is_procfs && matches!(follow(), Err(Errno::LOOP))
}

/// The names that a path is made of, `..` among them.
fn parts(path: &Path) -> VecDeque<OsString> {
    let named = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    named.collect()
}

/// What stands under `name` in `parent`, a link itself if it is one; made where nothing does.
fn step(parent: &OwnedFd, name: &OsStr, kind: Kind) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(parent, name, flags, Mode::empty());
    match open() {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    match make(parent, Path::new(name), kind) {
        // Somebody was faster: theirs is as good.
        Err(Errno::EXIST) => open(),
        other => other,
    }
}

/// Makes a directory or an empty file, and gives that very one.
pub(super) fn make(parent: &OwnedFd, name: &Path, kind: Kind) -> Result<OwnedFd, Errno> {
    match kind {
        Kind::Directory => {
            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
            place::open_made(parent, name.as_os_str().as_bytes(), FileType::Directory, None)
        }
        Kind::File => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644))
        }
    }
}

/// Whether `fd` is a directory.
pub(super) fn is_directory(fd: &OwnedFd) -> Result<bool, Errno> {
    let mode = rustix::fs::fstat(fd)?.st_mode;
    Ok(FileType::from_raw_mode(mode) == FileType::Directory)
}

/// `path` as seen from a directory: without the slashes in front.
pub(super) fn relative(path: &Path) -> &Path {
    let relative = path.strip_prefix("/").unwrap_or(path);
    if relative.as_os_str().is_empty() { Path::new(".") } else { relative }
}

/// A regular file's content, at most `limit` bytes of it; `None` when there is no such file.
///
/// Anything else under that name — a pipe would block, a device would never end — is an error
/// (CVE-2024-9676, CVE-2026-47262).
pub(super) fn read_regular(root: &Root, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read as _;
    let place = match locate(root, path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        other => other?,
    };
    let stat = rustix::fs::fstat(&place)?;
    if left_out("files-regular") {
        return std::fs::read(Path::new("/proc/self/root").join(relative(path))).map(Some);
    }
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    if u64::try_from(stat.st_size).unwrap_or(0) > limit {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    let file = root.descriptors.reopen(&place, OFlags::RDONLY)?;
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(limit).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// The last part of `path` and the place that it is in.
pub(super) fn split(path: &Path) -> Option<(&Path, &Path)> {
    let name = path.file_name()?;
    Some((path.parent().unwrap_or(Path::new("/")), Path::new(name)))
}

/// Whether two paths are the same but for slashes.
pub(super) fn same(path: &Path, other: &str) -> bool {
    path.components().eq(Path::new(other).components())
        || path.as_os_str().as_bytes() == other.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_only_beneath_the_root() {
        let outer = tempfile::tempdir().unwrap();
        let root_path = outer.path().join("root");
        std::fs::create_dir_all(root_path.join("a")).unwrap();
        std::fs::create_dir(outer.path().join("host")).unwrap();
        std::os::unix::fs::symlink("../../host", root_path.join("a/up")).unwrap();
        std::os::unix::fs::symlink(outer.path().join("host"), root_path.join("abs")).unwrap();
        for (target, link) in
            [("/nowhere", "dangling"), ("../../host/deep/dir", "a/out"), ("b", "c"), ("c", "b")]
        {
            std::os::unix::fs::symlink(target, root_path.join(link)).unwrap();
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&root_path, flags, Mode::empty()).unwrap();
        let root = Root::new(dir, Descriptors::open().unwrap());
        for path in ["/a/up/x", "/abs/x", "/../../host/x", "/new/deep/dir"] {
            let _ = locate_or_make(&root, Path::new(path), Kind::Directory);
        }
        assert!(root_path.join("new/deep/dir").is_dir());
        assert!(root_path.join("host/x").is_dir(), "`..` ends at the root");
        assert_eq!(std::fs::read_dir(outer.path().join("host")).unwrap().count(), 0);
        // Links that lead to nothing have it made, inside; a circle leads nowhere.
        let place = locate_or_make(&root, Path::new("/dangling"), Kind::File).unwrap();
        assert!(!is_directory(&place).unwrap() && root_path.join("nowhere").is_file());
        let place = locate_or_make(&root, Path::new("/a/out/x"), Kind::Directory).unwrap();
        assert!(is_directory(&place).unwrap() && root_path.join("host/deep/dir/x").is_dir());
        assert_eq!(std::fs::read_dir(outer.path().join("host")).unwrap().count(), 0);
        assert_eq!(locate_or_make(&root, Path::new("/b"), Kind::File).unwrap_err(), Errno::LOOP);
        assert!(locate_without_links(&root, Path::new("/abs")).is_err());
    }
}
