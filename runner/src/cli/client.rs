//! A command's side of the conversation with a container's monitor: this terminal's streams,
//! signals and size on one end, the socket on the other.

use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::termios::{OptionalActions, OutputModes, Termios};

use crate::cli::output::{PassedOn, pass_on};
use crate::failure::Failure;
use crate::launch::protocol::{Attach, CHUNK, Exit, Frame, Reply, Request, WindowSize};
use crate::launch::{Conversation, receive_rest};

/// How a command is connected to a process.
pub(super) struct Connection {
    pub(super) conversation: Conversation,
    pub(super) stdin: bool,
    /// The process has a terminal: ours becomes raw, its size is told, keys can detach.
    pub(super) terminal: bool,
    /// Signals that this command gets go on to the process.
    pub(super) passes_signals: bool,
    /// The connection is an exec's: signals go to its process, not to the container's first.
    pub(super) is_exec: bool,
    /// The process has to begin first. Until it does nothing is read for it: whoever leaves by keys
    /// leaves something that runs.
    pub(super) is_starting: bool,
    pub(super) detach_keys: Vec<u8>,
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Ended {
    Exited(Exit),
    /// By keys: the process goes on.
    Detached,
}

/// The streams to be connected to, and the size of this terminal if the process has one.
pub(super) fn attach(stdin: bool, terminal: bool, stop_on_hangup: bool) -> Attach {
    Attach {
        stdin,
        stdout: true,
        stderr: true,
        window: if terminal { window() } else { None },
        stop_on_hangup,
    }
}

/// The size of the terminal that standard output is, if it is one.
fn window() -> Option<WindowSize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0).then_some(WindowSize { columns: size.ws_col, rows: size.ws_row })
}

/// Signals from now on are told by the descriptor instead of ending this command.
///
/// The signals of job control keep their meaning for this command; CHLD, PIPE and URG are about
/// this process. Source: docker/cli, `signals.go`.
pub(super) fn catch_signals() -> Result<SignalFd, Failure> {
    let mut caught = SigSet::all();
    for kept in [
        Signal::SIGCHLD,
        Signal::SIGPIPE,
        Signal::SIGURG,
        Signal::SIGKILL,
        Signal::SIGSTOP,
        Signal::SIGTSTP,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGABRT,
        Signal::SIGTRAP,
        Signal::SIGSYS,
    ] {
        caught.remove(kept);
    }
    let failed = |error: nix::Error| Failure::new("cannot catch signals").because(&error);
    caught.thread_block().map_err(failed)?;
    SignalFd::with_flags(&caught, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(failed)
}

/// Which way a terminal hands bytes on as they are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Raw {
    Both,
    Output,
}

/// Puts a terminal back as it was.
struct RawTerminal {
    terminal: Box<dyn AsFd>,
    before: Termios,
}

impl RawTerminal {
    fn new(terminal: impl AsFd + 'static, way: Raw) -> Option<Self> {
        let before = rustix::termios::tcgetattr(&terminal).ok()?;
        let mut raw = before.clone();
        match way {
            Raw::Both => raw.make_raw(),
            Raw::Output => raw.output_modes.remove(OutputModes::OPOST),
        }
        rustix::termios::tcsetattr(&terminal, OptionalActions::Now, &raw).ok()?;
        Some(Self { terminal: Box::new(terminal), before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(&*self.terminal, OptionalActions::Drain, &self.before);
    }
}

/// Relays until the process ends or is left.
///
/// # Errors
/// Where it could not be started (with the exit code that Docker has for that), or its monitor
/// went away.
pub(super) fn relay(connection: Connection, signals: &SignalFd) -> Result<Ended, Failure> {
    let mut relay = Relay {
        reads_stdin: connection.stdin,
        connection,
        raw: None,
        received: Vec::new(),
        window_free: true,
        keys: 0,
    };
    if !relay.connection.is_starting {
        relay.make_raw();
    }
    relay.run(signals)
}

/// Until the process of a detached container runs, or could not be started.
pub(super) fn wait_for_start(stream: &UnixStream) -> Result<(), Failure> {
    loop {
        match Frame::read(stream).map_err(lost)? {
            Some(Frame::Reply(Reply::Started { marks, .. })) => {
                crate::timings::adopt(marks);
                return Ok(());
            }
            Some(Frame::Reply(Reply::Exited(_))) => return Ok(()),
            Some(Frame::Reply(Reply::Notice(text))) => crate::cli::tell(format!("rrun: {text}")),
            Some(Frame::Reply(Reply::Failed(failure))) => return Err(failure.into()),
            Some(Frame::Reply(Reply::Refused(why))) => return Err(Failure::new(why)),
            Some(_) => {}
            None => return Err(Failure::new("the container's monitor is gone")),
        }
    }
}

struct Relay {
    connection: Connection,
    /// Put back when this ends.
    raw: Option<RawTerminal>,
    received: Vec<u8>,
    /// Whether standard input goes on being read.
    reads_stdin: bool,
    /// Whether the monitor has taken what was sent last.
    window_free: bool,
    /// How many of the keys that detach have been typed.
    keys: usize,
}

impl Relay {
    fn make_raw(&mut self) {
        self.raw = match (self.connection.terminal, self.connection.stdin) {
            (true, true) if io::stdin().is_terminal() => RawTerminal::new(io::stdin(), Raw::Both),
            // The container's terminal has put the line ends right already.
            (true, false) if io::stdout().is_terminal() => {
                RawTerminal::new(io::stdout(), Raw::Output)
            }
            _ => None,
        };
    }

    fn run(&mut self, signals: &SignalFd) -> Result<Ended, Failure> {
        loop {
            let asks_stdin = self.reads_stdin && self.window_free && !self.connection.is_starting;
            let stdin = io::stdin();
            let (socket_ready, signal_ready, stdin_ready) = {
                let stdin_fd = stdin.as_fd();
                let mut fds = vec![
                    PollFd::new(&self.connection.conversation.stream, PollFlags::IN),
                    PollFd::new(signals, PollFlags::IN),
                ];
                if asks_stdin {
                    fds.push(PollFd::new(&stdin_fd, PollFlags::IN));
                }
                match rustix::event::poll(&mut fds, None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(lost(error.into())),
                }
                let ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
                (ready(0), ready(1), ready(2))
            };
            if signal_ready {
                self.pass_signals(signals)?;
            }
            if socket_ready && let Some(ended) = self.receive()? {
                return Ok(ended);
            }
            if stdin_ready && let Some(ended) = self.send_input(stdin.as_fd())? {
                return Ok(ended);
            }
        }
    }

    fn send(&self, frame: &Frame) -> Result<(), Failure> {
        match frame.write(&self.connection.conversation.stream) {
            // The monitor has ended the conversation; what it said last is still to be read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(lost),
        }
    }

    fn pass_signals(&self, signals: &SignalFd) -> Result<(), Failure> {
        while let Ok(Some(info)) = signals.read_signal() {
            let number = info.ssi_signo as i32;
            let request = if number == libc::SIGWINCH {
                match window().filter(|_| self.connection.terminal) {
                    Some(size) => Request::Resize(size),
                    None => continue,
                }
            } else if self.connection.is_exec {
                Request::SignalAttached(number)
            } else {
                Request::Signal(number)
            };
            let is_end =
                matches!(number, libc::SIGINT | libc::SIGTERM | libc::SIGQUIT | libc::SIGHUP);
            if self.connection.is_starting && is_end {
                // There is no program yet that could hear it. The monitor sees this command go, and
                // ends what it was starting.
                return Err(Failure::new("").exits(128_u8.saturating_add(number as u8)));
            }
            if self.connection.passes_signals || number == libc::SIGWINCH {
                self.send(&Frame::Request(request))?;
            } else {
                // As if it had not been caught: this command ends, the container goes on.
                self.send(&Frame::Request(Request::Detach))?;
                return Err(Failure::new("").exits(128_u8.saturating_add(number as u8)));
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Option<Ended>, Failure> {
        let mut chunk = [0; CHUNK];
        match (&self.connection.conversation.stream).read(&mut chunk) {
            Ok(0) => self.receive_rest(),
            Ok(count) => self.take_bytes(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            // It had not read our last request when it ended.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.receive_rest(),
            Err(error) => Err(lost(error)),
        }
    }

    /// The monitor has ended: what this command had not read until then comes by another way.
    fn receive_rest(&mut self) -> Result<Option<Ended>, Failure> {
        let rest = receive_rest(&self.connection.conversation.rest).map_err(lost)?;
        if let Some(mut rest) = rest {
            let mut chunk = [0; CHUNK];
            loop {
                let count = match rest.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(lost(error)),
                };
                if let Some(ended) = self.take_bytes(&chunk[..count])? {
                    return Ok(Some(ended));
                }
            }
        }
        Err(Failure::new("the container's monitor is gone")
            .hint("rrun ps -a shows what became of the container"))
    }

    fn take_bytes(&mut self, bytes: &[u8]) -> Result<Option<Ended>, Failure> {
        self.received.extend_from_slice(bytes);
        while let Some(frame) = Frame::take(&mut self.received).map_err(lost)? {
            if let Some(ended) = self.take(frame)? {
                return Ok(Some(ended));
            }
        }
        Ok(None)
    }

    fn take(&mut self, frame: Frame) -> Result<Option<Ended>, Failure> {
        match frame {
            // Whoever read has left (`rrun REF yes | head -1`): the process learns it from its own
            // pipe, and decides, as it would in a pipeline of this host. Waiting for a signal to
            // end it would take ten seconds of one that handles none. The same where bytes are lost
            // otherwise (a full disk), which is this command's failure.
            Frame::Stdout(bytes) => {
                if pass_on(io::stdout().lock(), "standard output", &bytes) != PassedOn::Written {
                    self.send(&Frame::Request(Request::StdoutClosed))?;
                }
            }
            Frame::Stderr(bytes) => {
                if pass_on(io::stderr().lock(), "standard error", &bytes) != PassedOn::Written {
                    self.send(&Frame::Request(Request::StderrClosed))?;
                }
            }
            Frame::Reply(Reply::StdinTaken) => self.window_free = true,
            Frame::Reply(Reply::Notice(text)) => crate::cli::tell(format!("rrun: {text}")),
            Frame::Reply(Reply::Failed(failure)) => return Err(failure.into()),
            Frame::Reply(Reply::Refused(why)) => return Err(Failure::new(why)),
            Frame::Reply(Reply::Exited(exit)) => return Ok(Some(Ended::Exited(exit))),
            Frame::Reply(Reply::Started { marks, .. }) => {
                self.connection.is_starting = false;
                self.make_raw();
                crate::timings::adopt(marks);
            }
            Frame::Reply(Reply::Done | Reply::State(_)) => {}
            Frame::Request(_) | Frame::Stdin(_) => {
                return Err(Failure::new("the monitor sent what only a command sends"));
            }
        }
        Ok(None)
    }

    fn send_input(&mut self, stdin: BorrowedFd<'_>) -> Result<Option<Ended>, Failure> {
        let mut chunk = vec![0; CHUNK];
        let count = match rustix::io::read(stdin, &mut chunk[..]) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(None),
            // A terminal whose session has gone, a closed descriptor: as good as the end.
            Err(_) => 0,
        };
        chunk.truncate(count);
        if count == 0 {
            self.reads_stdin = false;
        } else if self.connection.terminal && !self.connection.detach_keys.is_empty() {
            let (bytes, detaches) = self.without_keys(&chunk);
            if detaches {
                self.send(&Frame::Request(Request::Detach))?;
                return Ok(Some(Ended::Detached));
            }
            if bytes.is_empty() {
                return Ok(None);
            }
            chunk = bytes;
        }
        self.window_free = false;
        self.send(&Frame::Stdin(chunk))?;
        Ok(None)
    }

    /// What to send of `typed`, with keys held back that may become the sequence that detaches;
    /// and whether it is complete.
    fn without_keys(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let keys = &self.connection.detach_keys;
        let mut out = Vec::with_capacity(typed.len());
        for &byte in typed {
            if byte == keys[self.keys] {
                self.keys += 1;
                if self.keys == keys.len() {
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(&keys[..self.keys]);
            self.keys = usize::from(byte == keys[0]);
            if self.keys == 0 {
                out.push(byte);
            }
        }
        (out, false)
    }
}

fn lost(error: io::Error) -> Failure {
    Failure::new("the conversation with the container's monitor broke").because(&error)
}

impl From<crate::launch::protocol::Failure> for Failure {
    fn from(failure: crate::launch::protocol::Failure) -> Self {
        let mut told = Self::new(failure.message).exits(failure.exit_code);
        told.hints.extend(failure.hint);
        told
    }
}

/// `ctrl-p,ctrl-q`: what Docker's `--detach-keys` takes.
pub(super) fn detach_keys(text: Option<&str>) -> Result<Vec<u8>, Failure> {
    let text = text.unwrap_or("ctrl-p,ctrl-q");
    let key = |name: &str| match name.strip_prefix("ctrl-") {
        Some(key) => match key.as_bytes() {
            [c @ (b'a'..=b'z' | b'A'..=b'Z')] => Some(c.to_ascii_uppercase() - b'@'),
            [c @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Some(c - b'@'),
            _ => None,
        },
        None => match name.as_bytes() {
            [c] if c.is_ascii() => Some(*c),
            _ => None,
        },
    };
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(',').map(key).collect::<Option<Vec<u8>>>().ok_or_else(|| {
        Failure::new(format!("--detach-keys={text}: it is a list of keys: ctrl-p,ctrl-q"))
    })
}

/// The exit code, and a line about what the code alone does not tell.
pub(super) fn conclude(exit: &Exit) -> u8 {
    if let Some(oom) = exit.oom
        && exit.status() != 0
    {
        let size = |bytes: Option<u64>| bytes.map_or("unknown".to_owned(), readable);
        let limit = oom.limit.map_or("none of its own".to_owned(), readable);
        let peak = size(oom.peak);
        crate::cli::tell(format!(
            "rrun: container killed: out of memory (limit {limit}, peak {peak}); raise -m"
        ));
    }
    exit.status()
}

/// `512 MiB`
fn readable(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        let one = 1_u64 << shift;
        if bytes >= one {
            let tenths = (bytes as f64 / one as f64 * 10.0).round() / 10.0;
            return format!("{tenths} {unit}");
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(typed: &[&[u8]]) -> (Vec<u8>, bool) {
        let (stream, rest) = UnixStream::pair().unwrap();
        let connection = Connection {
            conversation: Conversation { stream, rest },
            stdin: true,
            terminal: true,
            passes_signals: true,
            is_exec: false,
            is_starting: false,
            detach_keys: detach_keys(None).unwrap(),
        };
        let mut relay = Relay {
            connection,
            raw: None,
            received: Vec::new(),
            reads_stdin: true,
            window_free: true,
            keys: 0,
        };
        let mut sent = Vec::new();
        for part in typed {
            let (bytes, detaches) = relay.without_keys(part);
            sent.extend(bytes);
            if detaches {
                return (sent, true);
            }
        }
        (sent, false)
    }

    #[test]
    fn keys_detach_and_are_else_passed_on() {
        const P: u8 = 16;
        const Q: u8 = 17;
        assert_eq!(keys(&[b"ab"]), (b"ab".to_vec(), false));
        assert_eq!(keys(&[&[b'a', P, Q]]), (b"a".to_vec(), true));
        assert_eq!(keys(&[&[P], &[Q]]), (vec![], true));
        assert_eq!(keys(&[&[P], b"x"]), (vec![P, b'x'], false));
        assert_eq!(keys(&[&[P, P, Q]]), (vec![P], true));
        assert_eq!(keys(&[&[Q, P]]), (vec![Q], false));
    }

    #[test]
    fn key_names() {
        for (text, want) in [
            (None, Some(vec![16, 17])),
            (Some("ctrl-a"), Some(vec![1])),
            (Some("a,ctrl-@"), Some(vec![b'a', 0])),
            (Some(""), Some(vec![])),
            (Some("ctrl-1"), None),
            (Some("xy"), None),
        ] {
            assert_eq!(detach_keys(text).ok(), want, "{text:?}");
        }
    }

    #[test]
    fn sizes_for_people() {
        for (bytes, want) in
            [(512 << 20, "512 MiB"), (3 << 29, "1.5 GiB"), (10, "10 bytes"), (4096, "4 KiB")]
        {
            assert_eq!(readable(bytes), want);
        }
    }
}
