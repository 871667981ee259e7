//! Starting containers, and talking to those that run.
//!
//! Every container has one launcher that becomes its monitor: this program, executed once more
//! from a copy that cannot be written to, single-threaded from birth. It makes the container,
//! relays its streams, keeps its log and its exit code, and cleans up.

mod client;
mod etc;
mod exec;
mod finish;
mod launcher;
mod log;
mod monitor;
mod ports;
mod process;
pub mod protocol;
mod recover;
mod rest;
mod run_directory;
mod seal;
mod share;
pub mod state;
mod undo;
mod wall;

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

pub use self::launcher::main as launcher_main;
use self::protocol::{Attach, Request};
pub use self::recover::{recover_all, settled_status};
pub use self::rest::{Conversation, receive_rest};
use self::run_directory::Found;
pub use self::run_directory::RunDirectory;
use crate::dirs::Dirs;
use crate::images::ContainerDir;
use crate::known_bad;

/// The hidden verb that this program is executed with as launcher.
pub const VERB: &str = "launch-monitor";

/// The container's log, as Docker's json-file driver writes it; older parts are `.1`, `.2` ….
pub fn log_path(container: &Path) -> PathBuf {
    container.join("log").join("json.log")
}

/// `hosts`, `hostname` and `resolv.conf` of a container, made anew at each start.
pub fn etc_path(container: &Path) -> PathBuf {
    container.join("etc")
}

/// How long a launcher may take to open its socket, a monitor to end, a command to clean up.
pub(crate) const MOMENT: Duration = Duration::from_secs(10);

/// Between two looks at one of them.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Takes hold of a container: while the answer lives, nobody else starts or removes it. `None`
/// where it runs, is about to, or has ended just now.
///
/// # Errors
/// When the run directory cannot be made.
pub fn hold(dirs: &Dirs, id: &str) -> io::Result<Option<RunDirectory>> {
    dirs.make_runroot()?;
    loop {
        match RunDirectory::take(dirs, id)? {
            Found::New(held) => return Ok(Some(held)),
            Found::Taken => return Ok(None),
            Found::Orphan(held) => {
                // Its lock goes without the directory, which is put right as a whole.
                held.hand_over();
                recover::put_right(dirs, id)?;
            }
        }
    }
}

/// Starts a container, and gives the conversation with its monitor: it tells that the program runs
/// or why not. With `attach` it goes on with the output and the end.
///
/// # Errors
/// When the launcher cannot be started.
pub fn start(
    dirs: &Dirs,
    container: &ContainerDir,
    held: RunDirectory,
    attach: Option<Attach>,
) -> io::Result<Conversation> {
    let (ours, theirs) = UnixStream::pair()?;
    let sealed = seal::own_program(&dirs.runroot.join("mnt"))?;
    let mut launcher = Command::new(format!("/proc/self/fd/{}", sealed.program.as_raw_fd()));
    launcher
        .arg0("rrun")
        .arg(VERB)
        .args([dirs.root.as_os_str(), dirs.runroot.as_os_str()])
        .arg(&container.id)
        // Nothing of the caller's environment: a token in it is none of the container's business.
        .env_clear()
        .envs(known_bad::passed_on())
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        // Nothing is ever written to these two; they are handed down.
        .stdout(sealed.view.map_or_else(Stdio::null, Stdio::from))
        .stderr(Stdio::from(held.lock()?));
    launcher.spawn()?;
    // Only now that there is a new owner: a failure above leaves nothing behind.
    drop(launcher);
    held.hand_over();
    Conversation::attach(ours, attach.map_or(Request::State, Request::Attach))
}

/// A conversation with the monitor of container `id`; `None` where it has none. One that is about
/// to have one is waited for.
///
/// # Errors
/// When there is one and it cannot be reached.
pub fn connect(dirs: &Dirs, id: &str) -> io::Result<Option<UnixStream>> {
    let deadline = Instant::now() + MOMENT;
    loop {
        if let Some(stream) = connect_now(dirs, id)? {
            return Ok(Some(stream));
        }
        let directory = state::run_directory(&dirs.runroot, id);
        if !run_directory::is_locked(&directory)? || Instant::now() > deadline {
            return Ok(None);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn connect_now(dirs: &Dirs, id: &str) -> io::Result<Option<UnixStream>> {
    let directory = state::run_directory(&dirs.runroot, id);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(&directory, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        other => other?,
    };
    match UnixStream::connect(socket_path(directory.as_fd())) {
        Ok(stream) => Ok(Some(stream)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A pair that carries whole messages: the end of whoever makes a process, and that one's.
pub(crate) fn status_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// The control socket, by way of a descriptor: its whole path may be longer than the 107 bytes
/// that fit into an address. unix(7).
fn socket_path(run_directory: std::os::fd::BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/ctl.sock", run_directory.as_raw_fd()))
}
