//! A volume's first use: it gets what the image has in that place, as with Docker.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Gid, Mode, OFlags, Stat, Timespec, Uid};
use rustix::io::Errno;

/// Deepest directory that is copied. A path of more parts than this cannot be opened by name.
const DEPTH_MAX: u32 = 2048;

/// Copies what is in `image` to `volume`, unless there is something in it already.
///
/// Two containers may use a new volume at the same moment: the second one waits and finds it full.
pub(super) fn fill_if_empty(image: &OwnedFd, volume: &OwnedFd) -> Result<(), Errno> {
    let image = open_directory(image)?;
    let volume = open_directory(volume)?;
    rustix::fs::flock(&volume, FlockOperation::LockExclusive)?;
    if entries(&volume)?.is_empty() {
        copy_directory(&image, &volume, 0)?;
    }
    rustix::fs::flock(&volume, FlockOperation::Unlock)
}

fn open_directory(place: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(place, ".", flags, Mode::empty())
}

fn entries(directory: &OwnedFd) -> Result<Vec<std::ffi::CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

fn copy_directory(from: &OwnedFd, to: &OwnedFd, depth: u32) -> Result<(), Errno> {
    if depth > DEPTH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    for name in entries(from)? {
        let stat = rustix::fs::statat(from, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW)?;
        copy_entry(from, to, &name, &stat, depth)?;
    }
    let stat = rustix::fs::fstat(from)?;
    attributes(from, to, &stat)
}

fn copy_entry(
    from: &OwnedFd,
    to: &OwnedFd,
    name: &CStr,
    stat: &Stat,
    depth: u32,
) -> Result<(), Errno> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match kind {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, Mode::RWXU)?;
            let flags = read | OFlags::DIRECTORY;
            let from = rustix::fs::openat(from, name, flags, Mode::empty())?;
            let to = rustix::fs::openat(to, name, flags, Mode::empty())?;
            copy_directory(&from, &to, depth + 1)
        }
        FileType::RegularFile => {
            let from = rustix::fs::openat(from, name, read | OFlags::NONBLOCK, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let to = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
            let (mut reader, mut writer) = (File::from(from), File::from(to));
            std::io::copy(&mut reader, &mut writer)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            attributes(&reader.into(), &writer.into(), stat)
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(&target, to, name)?;
            owner(to, name, stat)
        }
        FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?;
            owner(to, name, stat)?;
            rustix::fs::chmodat(to, name, mode, AtFlags::empty())
        }
        // A socket is nothing without its process.
        FileType::Socket | FileType::Unknown => Ok(()),
    }
}

fn owner(directory: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// Owner first (it clears setuid bits), then extended attributes, mode, times.
fn attributes(from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(to, Some(uid), Some(gid))?;
    copy_xattrs(from, to)?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    rustix::fs::futimens(
        to.as_fd(),
        &rustix::fs::Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
        },
    )
}

fn copy_xattrs(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(from, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        other => other?,
    };
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let Ok(text) = std::str::from_utf8(name) else { continue };
        // Overlay's own marks mean something else, or nothing, on the volume's file system.
        if crate::unpack::speaks_to_overlay(text) {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::fgetxattr(from, text, &mut value[..])?;
        rustix::fs::fsetxattr(to, text, &value[..length], rustix::fs::XattrFlags::empty())?;
    }
    Ok(())
}
