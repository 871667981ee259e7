//! This program in a form that nobody can write to.
//!
//! A process in a container can reach the program that set it up by `/proc/1/exe`, and with root's
//! rights could overwrite it on the host (CVE-2019-5736). Executed from an overlayfs without an
//! upper layer, or from a sealed memory file, there is nothing to write to.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::known_bad::left_out;

/// This program, to be executed by descriptor. `empty` is a directory with nothing in it.
///
/// # Errors
/// When neither form can be made.
pub(super) fn own_program(empty: &Path) -> io::Result<Sealed> {
    let path = std::fs::read_link("/proc/self/exe")?;
    if left_out("sealed-program") {
        let program = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        return Ok(Sealed { program, view: None });
    }
    // The copy costs some ten milliseconds; the overlay a fraction of one. Overlayfs refuses layers
    // of which one lies in the other, so where this program lies above the run root another
    // directory has to be the second one; nothing is looked for in it.
    read_only_view(&path, empty)
        .or_else(|_| read_only_view(&path, Path::new("/etc")))
        .or_else(|_| Ok(Sealed { program: sealed_copy()?, view: None }))
}

/// The program, and the detached mount that it lies on. The mount is dissolved with its last
/// descriptor, and that waits for the kernel: the launcher keeps it, nobody waits for its end.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) program: OwnedFd,
    pub(super) view: Option<OwnedFd>,
}

fn read_only_view(path: &Path, empty: &Path) -> io::Result<Sealed> {
    let no_path = || io::Error::from(io::ErrorKind::NotFound);
    let directory = path.parent().ok_or_else(no_path)?;
    let name = path.file_name().ok_or_else(no_path)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags | OFlags::DIRECTORY, Mode::empty())?;
    // Overlayfs wants two layers when none can be written.
    let other = rustix::fs::open(empty, flags | OFlags::DIRECTORY, Mode::empty())?;
    let overlay = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let lowers =
        format!("/proc/self/fd/{}:/proc/self/fd/{}", directory.as_raw_fd(), other.as_raw_fd());
    rustix::mount::fsconfig_set_string(overlay.as_fd(), "lowerdir", lowers)?;
    rustix::mount::fsconfig_create(overlay.as_fd())?;
    let view = rustix::mount::fsmount(
        overlay.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV,
    )?;
    let name = CString::new(name.as_bytes())?;
    let program =
        rustix::fs::openat(&view, name.as_c_str(), flags | OFlags::NOFOLLOW, Mode::empty())?;
    same_content(&program)?;
    Ok(Sealed { program, view: Some(view) })
}

/// The file under our name may be another one by now: an upgrade while this command runs.
fn same_content(program: &OwnedFd) -> io::Result<()> {
    let (theirs, ours) = (rustix::fs::fstat(program)?, rustix::fs::stat("/proc/self/exe")?);
    let facts = |stat: &rustix::fs::Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    if facts(&theirs) == facts(&ours) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}

fn sealed_copy() -> io::Result<OwnedFd> {
    let copy = rustix::fs::memfd_create("rrun", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut writer = std::fs::File::from(copy);
    io::copy(&mut std::fs::File::open("/proc/self/exe")?, &mut writer)?;
    let copy = OwnedFd::from(writer);
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    // An open writer would make execve(2) answer ETXTBSY.
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_above_the_run_root_needs_no_copy() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let own = std::env::current_exe().unwrap();
        let below = tempfile::tempdir_in(own.parent().unwrap()).unwrap();
        assert!(own_program(below.path()).unwrap().view.is_some());
        assert!(own_program(Path::new("/var")).unwrap().view.is_some());
    }

    #[test]
    fn a_sealed_copy_runs_and_cannot_be_written() {
        let copy = sealed_copy().unwrap();
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        let written = std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"x"));
        assert!(written.is_err());
        let output = std::process::Command::new(&path).arg("--list").output().unwrap();
        assert!(output.status.success());
    }
}
