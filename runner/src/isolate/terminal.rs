//! The standard streams: pipes from the launcher, or a terminal of the container's own devpts.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::failure::at;
use super::files::{self, Kind, Root};
use super::talk::{self, FromChild};
use super::{Done, Stdio, Step, mounts, paths, rootfs};
use crate::known_bad::left_out;
use crate::launch::protocol::WindowSize;

/// Source: statfs(2).
const DEVPTS_SUPER_MAGIC: rustix::fs::FsWord = 0x1cd1;

/// What the program gets as 0, 1 and 2.
#[derive(Debug)]
pub(super) struct Standard {
    pub(super) streams: [OwnedFd; 3],
    pub(super) is_terminal: bool,
}

/// Whether a terminal becomes the container's `/dev/console`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Console {
    Show,
    /// A process that comes later leaves the first one's alone.
    Keep,
}

pub(super) fn open(
    stdio: &Stdio,
    root: &Root,
    status: &OwnedFd,
    console: Console,
) -> Done<Standard> {
    match stdio {
        Stdio::Pipes { stdin, stdout, stderr } => {
            let copy = |fd: &OwnedFd| at(Step::StandardStreams, 0, fd.try_clone());
            let stdin = match stdin {
                Some(stdin) => copy(stdin)?,
                None => at(Step::StandardStreams, 0, null(root))?,
            };
            let streams = [stdin, copy(stdout)?, copy(stderr)?];
            Ok(Standard { streams, is_terminal: false })
        }
        Stdio::Terminal(window) => {
            let peer = at(Step::Terminal, 0, make(root, *window, status, console))?;
            let copy = || at(Step::Terminal, 0, peer.try_clone());
            Ok(Standard { streams: [copy()?, copy()?, copy()?], is_terminal: true })
        }
    }
}

/// The container's `/dev/null`. Its root can put something else there, which would be read or, a
/// fifo, waited for; then it is a pipe that has ended, where nothing is read either. Never the
/// host's: whoever has it open can change its mode.
fn null(root: &Root) -> Result<OwnedFd, Errno> {
    let found = files::locate(root, Path::new("/dev/null"));
    match found.and_then(|null| if is_device(&null, (1, 3))? { Ok(null) } else { Err(Errno::NXIO) })
    {
        Ok(null) => root.descriptors.reopen(&null, OFlags::RDONLY),
        Err(_) if !left_out("null-replaced") => {
            Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?.0)
        }
        Err(error) => Err(error),
    }
}

fn is_device(place: &OwnedFd, numbers: (u32, u32)) -> Result<bool, Errno> {
    let stat = rustix::fs::fstat(place)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) == numbers)
}

/// A new pair in the container's devpts. The launcher gets one end; the other is returned.
fn make(
    root: &Root,
    window: Option<WindowSize>,
    status: &OwnedFd,
    console: Console,
) -> Result<OwnedFd, Errno> {
    let place = files::locate(root, Path::new("/dev/pts/ptmx"))?;
    // It must be a devpts's own multiplexer: another file's "other end" could be anything, and a
    // node of the same numbers elsewhere leads to whichever devpts lies beside it (CVE-2025-52565).
    let is_multiplexer =
        is_device(&place, (5, 2))? && rustix::fs::fstatfs(&place)?.f_type == DEVPTS_SUPER_MAGIC;
    if !is_multiplexer && !left_out("terminal-checked") {
        return Err(Errno::NXIO);
    }
    let ours = root.descriptors.reopen(&place, OFlags::RDWR | OFlags::NOCTTY)?;
    rustix::pty::unlockpt(&ours)?;
    // By the descriptor and not by the name /dev/pts/N, which somebody could exchange.
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags)?;
    if let Some(size) = window {
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&ours, size)?;
    }
    if console == Console::Show {
        show_as_console(root, &theirs)?;
    }
    talk::say_with(status, FromChild::Terminal.to_bytes(), ours.as_fd())?;
    Ok(theirs)
}

fn show_as_console(root: &Root, terminal: &OwnedFd) -> Result<(), Errno> {
    let path = Path::new("/dev/console");
    let place = files::locate_or_make(root, path, Kind::File)?;
    mounts::leave_proc_alone(Some(terminal), &place, path)?;
    let tree = paths::clone_tree(terminal)?;
    rootfs::attach(&tree, &place)
}

/// The root of the file system that this process is in.
pub(super) fn own_root() -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open("/", flags, Mode::empty())
}
