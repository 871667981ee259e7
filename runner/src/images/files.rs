//! Small files beneath a directory descriptor: read bounded, written whole or not at all.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::{Errno, Result};

use crate::known_bad::left_out;

/// No record of the store comes near this; what is larger is not ours. Bytes.
pub(crate) const RECORD_BYTES_MAX: u64 = 64 << 20;

/// The content of a file, or none where it does not exist.
pub(crate) fn read(dir: BorrowedFd<'_>, path: &str) -> Result<Option<Vec<u8>>> {
    let fd = match rustix::fs::openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::from(fd);
    let length = file.metadata().map_err(errno)?.len();
    if length > RECORD_BYTES_MAX {
        return Err(Errno::FBIG);
    }
    bytes.reserve_exact(usize::try_from(length).unwrap_or(0) + 1);
    file.take(RECORD_BYTES_MAX).read_to_end(&mut bytes).map_err(errno)?;
    Ok(Some(bytes))
}

/// Whether a rename must survive a power cut by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durably {
    /// The file is synced, then renamed, then its directory is synced.
    Yes,
    /// Within this boot only: a reader never sees half a file, a power cut may lose it whole.
    No,
}

/// Replaces `folder/name` as one step: temporary name, content, rename.
///
/// # Errors
/// FBIG for what [`read`] would not read back: a record that nobody can use is not published.
pub(crate) fn replace(
    dir: BorrowedFd<'_>,
    folder: &str,
    name: &str,
    bytes: &[u8],
    durably: Durably,
) -> Result<()> {
    if bytes.len() as u64 > RECORD_BYTES_MAX && !left_out("records-readable") {
        return Err(Errno::FBIG);
    }
    let folder = open_dir(dir, folder)?;
    let durably = if left_out("record-synced") { Durably::No } else { durably };
    let temporary = format!(".{name:.100}.{}", crate::random::name());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&folder, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
    let written = write_all(file.as_fd(), bytes)
        .and_then(|()| if durably == Durably::Yes { rustix::fs::fdatasync(&file) } else { Ok(()) })
        .and_then(|()| rustix::fs::renameat(&folder, &temporary, &folder, name));
    if let Err(error) = written {
        // The temporary file is ours alone; that it may stay is worth less than the first error.
        let _ = rustix::fs::unlinkat(&folder, &temporary, AtFlags::empty());
        return Err(error);
    }
    if durably == Durably::Yes { rustix::fs::fsync(&folder) } else { Ok(()) }
}

pub(crate) fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// As [`open_dir`], for a name of any bytes.
pub(crate) fn open_dir_at(dir: BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// A directory, for reading names and as the base of further paths.
pub(crate) fn open_dir(dir: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(dir, path, flags, Mode::empty())
}

/// Makes a directory where there is none.
pub(crate) fn make_dir(dir: BorrowedFd<'_>, path: &str, mode: Mode) -> Result<()> {
    match rustix::fs::mkdirat(dir, path, mode) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// The names in a directory, without those that begin with a dot (temporary files of ours).
pub(crate) fn names(dir: BorrowedFd<'_>, path: &str) -> Result<Vec<String>> {
    names_that(dir, path, |name| !name.starts_with('.'))
}

/// The names in a directory for which `wanted` holds, ordered.
pub(crate) fn names_that(
    dir: BorrowedFd<'_>,
    path: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<String>> {
    let folder = match open_dir(dir, path) {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(folder)? {
        // Every name in the store is ASCII and ours.
        if let Ok(name) = entry?.file_name().to_str()
            && wanted(name)
        {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

pub(crate) fn exists(dir: BorrowedFd<'_>, path: &str) -> bool {
    rustix::fs::statat(dir, path, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

pub(crate) fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
