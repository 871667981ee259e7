//! Opening, making and resolving things beneath the container's root.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::known_bad::left_out;

/// Nothing leads out: `..` and absolute links stay inside, `/proc/*/fd` links are refused.
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// What is to be at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// Opens `path` beneath `root`, links followed inside it.
pub(super) fn open(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    if left_out("inside-root") {
        return rustix::fs::openat(root, relative(path), flags | OFlags::CLOEXEC, Mode::empty());
    }
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), INSIDE) {
            // The kernel saw a rename on the way and could not be sure. openat2(2).
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Opens `path` as a place, without access to its content.
pub(super) fn locate(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    open(root, path, OFlags::PATH)
}

/// Opens `path` as a place and refuses links on the whole way.
pub(super) fn locate_without_links(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
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

/// The place at `path`, made where it is missing: directories 0755 on the way, and at its end a
/// directory or an empty file.
///
/// Each part is made beneath the descriptor of the one before, so that an exchanged part can lead
/// nowhere else (CVE-2024-45310).
pub(super) fn locate_or_make(root: &OwnedFd, path: &Path, kind: Kind) -> Result<OwnedFd, Errno> {
    match locate(root, path) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    if left_out("made-inside") {
        let below = Path::new("/proc/self/fd").join(root.as_raw_fd().to_string());
        // What a link in the way leads to is as good as any other directory.
        let _ = std::fs::create_dir_all(below.join(relative(path)));
        return locate(root, path);
    }
    let mut at = std::path::PathBuf::new();
    let parts: Vec<&Path> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(Path::new(name)),
            Component::ParentDir => Some(Path::new("..")),
            _ => None,
        })
        .collect();
    let mut parent = locate(root, Path::new("."))?;
    for (index, name) in parts.iter().enumerate() {
        at.push(name);
        parent = match locate(root, &at) {
            Ok(found) => found,
            Err(Errno::NOENT) => {
                let is_last = index + 1 == parts.len();
                make(parent.as_fd(), name, if is_last { kind } else { Kind::Directory })?;
                locate(root, &at)?
            }
            Err(error) => return Err(error),
        };
    }
    Ok(parent)
}

fn make(parent: BorrowedFd<'_>, name: &Path, kind: Kind) -> Result<(), Errno> {
    let made = match kind {
        Kind::Directory => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        Kind::File => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    match made {
        // A dangling link of the image: what it points at is not made for it.
        Err(Errno::EXIST) => Err(Errno::LOOP),
        other => other,
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
pub(super) fn read_regular(root: &OwnedFd, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
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
    let file = open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    let opened = rustix::fs::fstat(&file)?;
    if (opened.st_dev, opened.st_ino) != (stat.st_dev, stat.st_ino) {
        return Err(io::Error::from_raw_os_error(libc::ESTALE));
    }
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
        std::os::unix::fs::symlink("/nowhere", root_path.join("dangling")).unwrap();
        let root = rustix::fs::open(
            &root_path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap();
        for path in ["/a/up/x", "/abs/x", "/../../host/x", "/new/deep/dir"] {
            let _ = locate_or_make(&root, Path::new(path), Kind::Directory);
        }
        assert!(root_path.join("new/deep/dir").is_dir());
        assert!(root_path.join("host/x").is_dir(), "`..` ends at the root");
        assert_eq!(std::fs::read_dir(outer.path().join("host")).unwrap().count(), 0);
        assert_eq!(
            locate_or_make(&root, Path::new("/dangling"), Kind::File).unwrap_err(),
            Errno::LOOP
        );
        assert!(locate_without_links(&root, Path::new("/abs")).is_err());
    }
}
