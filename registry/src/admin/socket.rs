//! The live server's ear: a unix socket in the data directory that only its owner can reach.
//!
//! One command per connection: a line of JSON in, lines of JSON out, the exit code last. Whoever
//! may connect may also read and change the files beside it, so there is nothing to authenticate.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::{Command, Line, Store, run};

/// The socket's name in the data directory.
const SOCKET: &str = "admin.sock";

/// Bytes of a command at most.
const COMMAND_BYTES_MAX: u64 = 1 << 20;

/// Lines on their way at most.
pub(super) const LINES: usize = 256;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

/// Listens in the data directory and answers until the future is dropped. The caller holds the
/// directory's lock: a socket that is there already is a dead process's.
///
/// # Errors
/// When the socket cannot be made.
pub fn serve(root: &Path, store: Store) -> io::Result<impl Future<Output = ()> + use<>> {
    let listener = UnixListener::from_std(bind(root)?.into())?;
    Ok(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let store = store.clone();
                    actix_rt::spawn(async move {
                        // The client hung up, or talks nonsense: its own loss.
                        if let Err(error) = answer(&store, stream).await {
                            tracing::debug!(%error, "admin: a connection ended early");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "admin: could not accept");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        }
    })
}

fn bind(root: &Path) -> io::Result<OwnedFd> {
    let path = root.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Before bind: the file is born with the socket's mode, so nobody else can connect in between.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    let directory = std::fs::File::open(root)?;
    rustix::net::bind(&socket, &address(&path, &directory)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// A socket's address has 107 bytes at most (unix(7)); a longer path is named by its directory's
/// descriptor, which must stay open until the address was used.
fn address(path: &Path, directory: &std::fs::File) -> io::Result<SocketAddrUnix> {
    SocketAddrUnix::new(path).or_else(|_| {
        let through = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
        Ok(SocketAddrUnix::new(PathBuf::from(through))?)
    })
}

async fn answer(store: &Store, stream: UnixStream) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut text = String::new();
    let mut reader = BufReader::new(reader.take(COMMAND_BYTES_MAX));
    reader.read_line(&mut text).await?;
    let command: Command = serde_json::from_str(&text)?;
    tracing::info!(?command, "admin");
    let (lines, mut receiver) = mpsc::channel(LINES);
    let work = run(store, command, lines);
    let print = async {
        while let Some(line) = receiver.recv().await {
            let mut text = serde_json::to_string(&line)?;
            text.push('\n');
            writer.write_all(text.as_bytes()).await?;
        }
        // The other half sees the channel closed and ends.
        drop(receiver);
        io::Result::Ok(())
    };
    let ((), printed) = tokio::join!(work, print);
    printed
}

/// Connects to the server of a directory; `None` if none runs.
pub(super) async fn connect(root: &Path) -> io::Result<Option<UnixStream>> {
    let path = root.join(SOCKET);
    let Ok(directory) = std::fs::File::open(root) else { return Ok(None) };
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address(&path, &directory)?) {
        Ok(()) => {}
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let stream = std::os::unix::net::UnixStream::from(socket);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream).map(Some)
}

/// Sends a command and hands on the answer's lines; the exit code, or an error if the server went
/// away before it came.
pub(super) async fn ask(
    stream: UnixStream,
    command: &Command,
    mut print: impl FnMut(Line) -> io::Result<()>,
) -> io::Result<u8> {
    let (reader, mut writer) = stream.into_split();
    let mut text = serde_json::to_string(command)?;
    text.push('\n');
    writer.write_all(text.as_bytes()).await?;
    let mut lines = BufReader::new(reader).lines();
    while let Some(text) = lines.next_line().await? {
        match serde_json::from_str(&text)? {
            Line::Exit(code) => return Ok(code),
            line => print(line)?,
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}
