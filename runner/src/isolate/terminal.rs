//! The standard streams: pipes from the launcher, or a terminal of the container's own devpts.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::failure::{Message, at};
use super::files::{self, Kind};
use super::{Done, Stdio, Step, paths, rootfs};
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
    root: &OwnedFd,
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
/// fifo, waited for.
fn null(root: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let null = files::open(root, Path::new("/dev/null"), flags)?;
    let stat = rustix::fs::fstat(&null)?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) == (1, 3);
    if !is_null {
        return Err(Errno::NXIO);
    }
    rustix::fs::fcntl_setfl(&null, OFlags::empty())?;
    Ok(null)
}

/// A new pair in the container's devpts. The launcher gets one end; the other is returned.
fn make(
    root: &OwnedFd,
    window: Option<WindowSize>,
    status: &OwnedFd,
    console: Console,
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let ours = files::open(root, Path::new("/dev/pts/ptmx"), flags)?;
    // It must be a devpts's own multiplexer: another file's "other end" could be anything, and a
    // node of the same numbers elsewhere leads to whichever devpts lies beside it (CVE-2025-52565).
    let stat = rustix::fs::fstat(&ours)?;
    let is_multiplexer = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) == (5, 2)
        && rustix::fs::fstatfs(&ours)?.f_type == DEVPTS_SUPER_MAGIC;
    if !is_multiplexer && !left_out("terminal-checked") {
        return Err(Errno::NXIO);
    }
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
    send(status, &ours)?;
    Ok(theirs)
}

fn show_as_console(root: &OwnedFd, terminal: &OwnedFd) -> Result<(), Errno> {
    let place = files::locate_or_make(root, Path::new("/dev/console"), Kind::File)?;
    let tree = paths::clone_tree(terminal)?;
    rootfs::attach(&tree, &place)
}

fn send(status: &OwnedFd, terminal: &OwnedFd) -> Result<(), Errno> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [terminal.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let bytes = Message::Terminal.to_bytes();
    rustix::net::sendmsg(
        status,
        &[std::io::IoSlice::new(&bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// The root of the file system that this process is in.
pub(super) fn own_root() -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open("/", flags, Mode::empty())
}
