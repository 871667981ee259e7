//! Acting on what a descriptor leads to, whatever that is, instead of on a name.
//!
//! A name that is looked up a second time can lead somewhere else by then: a neighbour that shares
//! a volume exchanges it for a symbolic link, and what was meant for the new file happens to one of
//! the host. So a thing is made, opened as a place (`O_PATH`) without following anything, looked
//! at, and from then on only the descriptor counts.
#![expect(clippy::disallowed_methods, reason = "here they get a descriptor and no name")]

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, StatxFlags, Timestamps, Uid, XattrFlags};
use rustix::io::{Errno, Result};

/// This process's descriptors as files of a procfs: by these names a place can be opened, and
/// reached by calls that take nothing but a path.
#[derive(Debug)]
pub(crate) struct Descriptors(OwnedFd);

impl Descriptors {
    /// `/proc/self/fd` of a procfs that shows this very process. It stays when the root changes.
    pub(crate) fn open() -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open("/proc/self/fd", flags, Mode::empty()).map(Self)
    }

    /// Opens the file that `place` is.
    pub(crate) fn reopen(&self, place: &OwnedFd, flags: OFlags) -> Result<OwnedFd> {
        rustix::fs::openat(&self.0, name(place), flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// Gives anything but a symbolic link, which has none, the permission bits of `mode`.
    pub(crate) fn change_mode(&self, place: &OwnedFd, mode: u32) -> Result<()> {
        let mode = mode & 0o7777;
        match crate::sys::fs::change_mode(place.as_fd(), mode).map_err(|error| errno(&error)) {
            // Before Linux 6.6, or under the policy of an engine that does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => {
                let mode = Mode::from_raw_mode(mode);
                rustix::fs::chmodat(&self.0, name(place), mode, AtFlags::empty())
            }
            other => other,
        }
    }

    /// Sets an extended attribute of anything. The working directory is another one afterwards.
    pub(crate) fn set_xattr(&self, place: &OwnedFd, xattr: &str, value: &[u8]) -> Result<()> {
        rustix::process::fchdir(&self.0)?;
        rustix::fs::setxattr(name(place), xattr, value, XattrFlags::empty())
    }
}

fn name(place: &OwnedFd) -> String {
    place.as_raw_fd().to_string()
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Gives anything another owner, a symbolic link too.
pub(crate) fn change_owner(place: &OwnedFd, uid: u32, gid: u32) -> Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(place, "", uid, gid, AtFlags::EMPTY_PATH)
}

/// Gives anything other times, a symbolic link too.
pub(crate) fn change_times(place: &OwnedFd, times: &Timestamps) -> Result<()> {
    rustix::fs::utimensat(place, "", times, AtFlags::EMPTY_PATH)
}

/// Opens `name` in `parent` as a place, following nothing.
pub(crate) fn open_here(parent: impl AsFd, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, OsStr::from_bytes(name), flags, Mode::empty())
}

/// Opens what has just been made under a name, if it is still there: of this kind, of this device
/// number where it is a device, and on the mount that the name is on.
///
/// # Errors
/// `ESTALE` where something else is there by now; as openat(2).
pub(crate) fn open_made(
    parent: &OwnedFd,
    name: &[u8],
    kind: FileType,
    device: Option<(u32, u32)>,
) -> Result<OwnedFd> {
    let place = open_here(parent, name)?;
    let look = |fd: &OwnedFd| {
        let wanted = StatxFlags::TYPE | StatxFlags::MNT_ID;
        rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, wanted)
    };
    let (made, around) = (look(&place)?, look(parent)?);
    let is_same = FileType::from_raw_mode(u32::from(made.stx_mode)) == kind
        && device.is_none_or(|numbers| numbers == (made.stx_rdev_major, made.stx_rdev_minor))
        && made.stx_mnt_id == around.stx_mnt_id;
    if is_same { Ok(place) } else { Err(Errno::STALE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::open(dir.path(), flags, Mode::empty()).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
        let file = open_made(&parent, b"file", FileType::RegularFile, None).unwrap();
        let link = open_made(&parent, b"link", FileType::RegularFile, None);
        assert_eq!(link.unwrap_err(), Errno::STALE);
        let descriptors = Descriptors::open().unwrap();
        descriptors.change_mode(&file, 0o640).unwrap();
        let mode = rustix::fs::stat(dir.path().join("file")).unwrap().st_mode;
        assert_eq!(mode & 0o7777, 0o640);
        let link = open_here(&parent, b"link").unwrap();
        assert!(descriptors.change_mode(&link, 0o600).is_err());
        assert!(descriptors.reopen(&file, OFlags::RDONLY).is_ok());
    }
}
