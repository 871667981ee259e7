//! A volume's first use: it gets what the image has in that place, as with Docker.
//!
//! The copy is made beside the volume's content, where no container reaches, and its entries are
//! then moved in whole: neither does anything that is still being made lie where a neighbour could
//! exchange it, nor does a copy that failed halfway look like a volume that is in use.
//!
//! ```text
//! volumes/<name>/_data      what is mounted
//! volumes/<name>/.filling   a copy being made; one that was left behind goes at the next start
//! volumes/<name>/.filled    a copy that is whole, being moved into `_data`
//! ```

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat, Timespec,
};
use rustix::io::Errno;

use crate::known_bad::left_out;
use crate::place::{self, Descriptors};

/// Deepest directory that is copied: each level costs a descriptor. Layers have no deeper ones.
const DEPTH_MAX: usize = 512;

const DATA: &str = "_data";
const FILLING: &str = ".filling";
const FILLED: &str = ".filled";

const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Copies what is in `image`, a directory, to the volume whose directory `volume` is, unless there
/// is something in it already.
///
/// Two containers may use a new volume at the same moment: the second one waits and finds it full.
/// The lock lies where no container can open it, or one could make all others wait.
pub(super) fn fill_if_empty(
    descriptors: &Descriptors,
    image: &OwnedFd,
    volume: &OwnedFd,
) -> Result<(), Errno> {
    let image = open_directory(image)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let data = rustix::fs::openat(volume, DATA, flags, Mode::empty())?;
    let locked = if left_out("lock-out-of-reach") { &data } else { volume };
    rustix::fs::flock(locked, FlockOperation::LockExclusive)?;
    let filled = fill(descriptors, image, volume, &data);
    rustix::fs::flock(locked, FlockOperation::Unlock)?;
    filled
}

fn fill(
    descriptors: &Descriptors,
    image: OwnedFd,
    volume: &OwnedFd,
    data: &OwnedFd,
) -> Result<(), Errno> {
    // A copy that was whole when its maker was killed.
    move_in(volume, data)?;
    if !entries(data)?.is_empty() {
        return Ok(());
    }
    if left_out("by-descriptor") || left_out("filled-apart") {
        return copy_tree(descriptors, image, open_directory(data)?);
    }
    remove(volume, FILLING)?;
    rustix::fs::mkdirat(volume, FILLING, Mode::RWXU)?;
    let staging = rustix::fs::openat(volume, FILLING, READ | OFlags::DIRECTORY, Mode::empty())?;
    let copied = copy_tree(descriptors, image, staging)
        .and_then(|()| rustix::fs::renameat(volume, FILLING, volume, FILLED));
    if let Err(error) = copied {
        // The failure that is being reported matters more than one to clean up after it.
        let _ = remove(volume, FILLING);
        return Err(error);
    }
    move_in(volume, data)
}

/// Moves the entries of a copy into the volume. What somebody has put there meanwhile stays.
fn move_in(volume: &OwnedFd, data: &OwnedFd) -> Result<(), Errno> {
    let flags = READ | OFlags::DIRECTORY;
    let filled = match rustix::fs::openat(volume, FILLED, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    // Before its entries go, which changes its times.
    let stat = rustix::fs::fstat(&filled)?;
    for name in entries(&filled)? {
        let name = name.as_c_str();
        match rustix::fs::renameat_with(&filled, name, data, name, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => other?,
        }
    }
    attributes(&filled, data, &stat)?;
    remove(volume, FILLED)
}

/// Removes a directory of ours beside the volume's content.
fn remove(volume: &OwnedFd, name: &str) -> Result<(), Errno> {
    let path = format!("/proc/self/fd/{}/{name}", volume.as_raw_fd());
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(errno(&error)),
        _ => Ok(()),
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn open_directory(place: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(place, ".", flags, Mode::empty())
}

fn entries(directory: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Copies a tree. Upwards it goes in the copy by `..`, which is ours, and in the original by the
/// descriptors that it came by: that may lie in another volume, where somebody could have moved a
/// directory out from under it.
fn copy_tree(descriptors: &Descriptors, from: OwnedFd, mut to: OwnedFd) -> Result<(), Errno> {
    let names = entries(&from)?;
    let mut levels = vec![(from, names)];
    while let Some((from, names)) = levels.last_mut() {
        let Some(name) = names.pop() else {
            attributes(from, &to, &rustix::fs::fstat(&*from)?)?;
            levels.pop();
            if !levels.is_empty() {
                to = rustix::fs::openat(&to, "..", READ | OFlags::DIRECTORY, Mode::empty())?;
            }
            continue;
        };
        let found = place::open_here(&*from, name.as_bytes())?;
        let stat = rustix::fs::fstat(&found)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            copy_entry(descriptors, &found, &to, &name, &stat)?;
            continue;
        }
        if levels.len() >= DEPTH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        rustix::fs::mkdirat(&to, &*name, Mode::RWXU)?;
        to = rustix::fs::openat(&to, &*name, READ | OFlags::DIRECTORY, Mode::empty())?;
        let below = open_directory(&found)?;
        let names = entries(&below)?;
        levels.push((below, names));
    }
    Ok(())
}

/// Copies `found`, which is no directory, to `name` in `to`.
fn copy_entry(
    descriptors: &Descriptors,
    found: &OwnedFd,
    to: &OwnedFd,
    name: &CStr,
    stat: &Stat,
) -> Result<(), Errno> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::RegularFile => {
            let from = descriptors.reopen(found, OFlags::RDONLY)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let to = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
            let length = u64::try_from(stat.st_size).unwrap_or(0);
            let (reader, mut writer) = (File::from(from), File::from(to));
            std::io::copy(&mut (&reader).take(length), &mut writer).map_err(|it| errno(&it))?;
            attributes(&reader.into(), &writer.into(), stat)
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(found, "", Vec::new())?;
            rustix::fs::symlinkat(&target, to, name)?;
            let link = place::open_made(to, name.to_bytes(), kind, None)?;
            place::change_owner(&link, stat.st_uid, stat.st_gid)
        }
        FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o777);
            rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?;
            if left_out("by-descriptor") {
                return give_by_name(to, name, stat);
            }
            let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            let device = (kind != FileType::Fifo).then_some(device);
            let node = place::open_made(to, name.to_bytes(), kind, device)?;
            place::change_owner(&node, stat.st_uid, stat.st_gid)?;
            descriptors.change_mode(&node, stat.st_mode)
        }
        // A socket is nothing without its process.
        FileType::Socket | FileType::Directory | FileType::Unknown => Ok(()),
    }
}

/// What must not be: between the calls the name can come to lead elsewhere.
#[expect(clippy::disallowed_methods, reason = "never in a release")]
fn give_by_name(to: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    rustix::fs::chmodat(to, name, mode, AtFlags::empty())
}

/// Owner first (it clears setuid bits), then extended attributes, mode, times.
fn attributes(from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
    place::change_owner(to, stat.st_uid, stat.st_gid)?;
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
        if crate::overlay::speaks_to_overlay(text) {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::fgetxattr(from, text, &mut value[..])?;
        rustix::fs::fsetxattr(to, text, &value[..length], rustix::fs::XattrFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).unwrap()
    }

    #[test]
    fn filled_once_whole_and_never_by_halves() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (image, volume) = (dir.path().join("image"), dir.path().join("volume"));
        let mut deep = image.clone();
        (0..300).for_each(|_| deep.push("d"));
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("file"), "content").unwrap();
        std::os::unix::fs::symlink("d", image.join("link")).unwrap();
        let mode = std::fs::Permissions::from_mode(0o1750);
        File::open(&image).unwrap().set_permissions(mode).unwrap();
        std::fs::create_dir_all(volume.join("_data")).unwrap();
        // Left behind by one that was killed.
        std::fs::create_dir_all(volume.join(".filling/half")).unwrap();
        let descriptors = Descriptors::open().unwrap();
        let fill = || fill_if_empty(&descriptors, &open(&image), &open(&volume)).unwrap();
        fill();
        let copy = volume.join("_data").join(deep.strip_prefix(&image).unwrap());
        assert_eq!(std::fs::read_to_string(copy.join("file")).unwrap(), "content");
        assert_eq!(std::fs::read_link(volume.join("_data/link")).unwrap().to_str(), Some("d"));
        let mode = std::fs::metadata(volume.join("_data")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o1750);
        assert_eq!(std::fs::read_dir(&volume).unwrap().count(), 1, "nothing is left beside it");
        std::fs::remove_file(volume.join("_data/link")).unwrap();
        fill();
        assert!(!volume.join("_data/link").exists(), "it is in use");
        // Killed while it was moved in: what is there stays, the rest follows.
        std::fs::remove_dir_all(volume.join("_data")).unwrap();
        std::fs::create_dir_all(volume.join("_data/d")).unwrap();
        std::fs::create_dir_all(volume.join(".filled/d/not-this")).unwrap();
        std::fs::write(volume.join(".filled/late"), "").unwrap();
        fill();
        assert!(volume.join("_data/late").exists() && !volume.join("_data/d/not-this").exists());
        assert_eq!(std::fs::read_dir(&volume).unwrap().count(), 1);
    }
}
