//! Deleting trees of directories that somebody else has filled, while that somebody may still be
//! changing them.
//!
//! A container decides how deep they are, so neither descriptors nor stack may grow with that: what
//! lies deeper than [`LEVELS`] is moved beside the tree and deleted from there in the same way.
//! Nothing is followed: no link, and no mount.

use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

use crate::known_bad::left_out;

/// Directories that are open at once, one in the other. Trees of real programs are not deeper, and
/// are deleted without anything being moved.
const LEVELS: usize = 32;

/// Deletes `name` in `parent` with everything beneath it. What is gone already is as good as
/// deleted, and a directory into which somebody has written meanwhile stays without being an error.
///
/// # Errors
/// The first; everything else is deleted all the same. EXDEV: something is mounted there.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let mut first = Ok(());
    let mut next = Some(name.to_owned());
    while let Some(name) = next {
        let mut pass = Pass { parent, levels: Vec::new(), deeper: None, moved: 0, first: Ok(()) };
        pass.remove(&name);
        first = first.and(pass.first);
        next = pass.deeper.map(|(name, _)| name);
    }
    first
}

/// One tree, down to [`LEVELS`].
struct Pass<'a> {
    parent: BorrowedFd<'a>,
    /// The way down, each with its name in the one above.
    levels: Vec<(CString, Dir)>,
    /// A directory beside the tree, with what lies deeper.
    deeper: Option<(CString, OwnedFd)>,
    moved: u64,
    first: Result<()>,
}

impl Pass<'_> {
    fn remove(&mut self, name: &CStr) {
        match open(self.parent, name) {
            Ok(dir) => self.levels.push((name.to_owned(), dir)),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let removed = rustix::fs::unlinkat(self.parent, name, AtFlags::empty());
                return self.note(removed);
            }
            Err(error) => return self.note(Err(error)),
        }
        while let Some((_, dir)) = self.levels.last_mut() {
            match dir.read() {
                Some(Ok(entry)) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                Some(Ok(entry)) => {
                    let done = self.remove_entry(entry.file_name(), entry.file_type());
                    self.note(done);
                }
                Some(Err(error)) => {
                    self.note(Err(error));
                    self.go_up();
                }
                None => self.go_up(),
            }
        }
    }

    fn remove_entry(&mut self, name: &CStr, kind: FileType) -> Result<()> {
        let Some((_, dir)) = self.levels.last() else { return Ok(()) };
        let here = dir.fd()?;
        if kind != FileType::Directory {
            match rustix::fs::unlinkat(here, name, AtFlags::empty()) {
                // Not every file system tells the type of an entry.
                Err(Errno::ISDIR) => {}
                other => return other,
            }
        }
        if self.levels.len() < LEVELS || left_out("removal-bounded") {
            let below = open(here, name)?;
            self.levels.push((name.to_owned(), below));
            return Ok(());
        }
        let deeper = match &self.deeper {
            Some((_, deeper)) => deeper,
            None => {
                let beside = CString::new(crate::random::name()).unwrap_or_default();
                rustix::fs::mkdirat(self.parent, &*beside, Mode::RWXU)?;
                let fd = super::files::open_dir_at(self.parent, &beside)?;
                &self.deeper.insert((beside, fd)).1
            }
        };
        self.moved += 1;
        rustix::fs::renameat(here, name, deeper, self.moved.to_string())
    }

    fn go_up(&mut self) {
        let Some((name, _)) = self.levels.pop() else { return };
        let removed = match self.levels.last() {
            None => rustix::fs::unlinkat(self.parent, &*name, AtFlags::REMOVEDIR),
            Some((_, above)) => {
                above.fd().and_then(|fd| rustix::fs::unlinkat(fd, &*name, AtFlags::REMOVEDIR))
            }
        };
        self.note(removed);
    }

    fn note(&mut self, done: Result<()>) {
        match done {
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => {}
            Err(error) => self.first = self.first.and(Err(error)),
        }
    }
}

fn open(parent: BorrowedFd<'_>, name: &CStr) -> Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    loop {
        // EAGAIN: a rename elsewhere raced with the look-up (openat2(2)).
        match rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Dir::new(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::images::files::open_dir_at;

    /// A chain of `depth` directories below `top`, each with a file in it.
    fn chain(top: &OwnedFd, depth: usize) {
        let mut dir = top.try_clone().unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&dir, "f", flags, Mode::RUSR).unwrap();
            dir = open_dir_at(dir.as_fd(), c"d").unwrap();
        }
    }

    #[test]
    fn trees_of_any_depth_go_with_few_descriptors() {
        let place = tempfile::tempdir().unwrap();
        let parent = super::super::files::open_dir_at(
            rustix::fs::CWD,
            &CString::new(place.path().to_str().unwrap()).unwrap(),
        )
        .unwrap();
        for depth in [0, 1, LEVELS - 1, LEVELS, LEVELS + 1, 3 * LEVELS, 5000] {
            rustix::fs::mkdirat(&parent, "t", Mode::RWXU).unwrap();
            let top = open_dir_at(parent.as_fd(), c"t").unwrap();
            chain(&top, depth);
            std::os::unix::fs::symlink("/etc", place.path().join("t/link")).unwrap();
            remove_tree(parent.as_fd(), c"t").unwrap();
            assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "{depth}");
        }
        std::fs::write(place.path().join("file"), "").unwrap();
        remove_tree(parent.as_fd(), c"file").unwrap();
        remove_tree(parent.as_fd(), c"gone").unwrap();
        assert!(std::path::Path::new("/etc/passwd").exists());
    }
}
