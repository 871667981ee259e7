//! What the commands and a container's monitor say to each other.
//!
//! A stream socket carries frames: `length: u32 LE` (of what follows), `version: u8`, `kind: u8`,
//! payload. Requests and replies are JSON, so that an old monitor can ignore what a newer command
//! adds; stream data is raw. A monitor lives as long as its container and meets newer commands
//! after an upgrade: a frame of another version is answered by [`Reply::Refused`], never guessed.
//!
//! Standard input has a window of one frame: after each [`Frame::Stdin`] the client waits for
//! [`Reply::StdinTaken`]. So a process that does not read cannot keep a signal from being heard.

use std::io::{self, Read, Write};

use oci_spec::runtime::Process;
use serde::{Deserialize, Serialize};

use super::state::State;

pub const VERSION: u8 = 1;

/// Largest stream frame, in bytes: a pipe's capacity.
pub const CHUNK: usize = 64 << 10;

/// Largest frame, in bytes; an exec request with a large environment is the biggest. Linux refuses
/// more than 6 MiB of arguments and environment itself (`execve(2)`).
pub const MAX_FRAME: usize = 8 << 20;

const KIND_REQUEST: u8 = 1;
const KIND_REPLY: u8 = 2;
const KIND_STDIN: u8 = 3;
const KIND_STDOUT: u8 = 4;
const KIND_STDERR: u8 = 5;

/// One unit on the wire.
#[derive(Debug)]
pub enum Frame {
    Request(Request),
    Reply(Reply),
    /// Empty: end of input.
    Stdin(Vec<u8>),
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
}

/// Columns and rows of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    pub columns: u16,
    pub rows: u16,
}

/// Which streams a client wants to be connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// The size of the client's terminal, when the process has one.
    pub window: Option<WindowSize>,
    /// When this client's connection ends, the process is stopped: a foreground command that was
    /// killed takes its container along.
    pub stop_on_hangup: bool,
}

/// A further process in a running container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Arguments, environment, working directory, terminal, capabilities, rlimits.
    pub process: Process,
    /// As [`crate::container::Record::environment_bytes`].
    #[serde(default)]
    pub environment_bytes: Vec<Vec<u8>>,
    /// As [`crate::container::Record::user`].
    pub user: String,
    pub groups_added: Vec<String>,
    /// All devices, no seccomp filter, unmasked: the capabilities stand in `process`.
    pub privileged: bool,
    /// `-i`
    pub stdin_open: bool,
    /// `-d`: the process keeps running without a client; the answer is [`Reply::Started`] alone.
    pub detached: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    State,
    /// Sends a signal to the container's first process.
    Signal(i32),
    /// Sends the signal (default: the record's), then KILL after the time (default: the record's,
    /// else 10 s; negative: never). Answered by [`Reply::Exited`] when the container has ended.
    Stop {
        signal: Option<i32>,
        timeout_seconds: Option<i64>,
    },
    /// Answered by [`Reply::Exited`] when the container has ended.
    Wait,
    Attach(Attach),
    Exec(Box<ExecRequest>, Attach),
    /// Sends a signal to the process that this connection is attached to.
    SignalAttached(i32),
    /// The client's terminal has a new size.
    Resize(WindowSize),
    /// The client leaves; what it was attached to goes on.
    Detach,
    /// Nobody reads the client's standard output (or error) any more.
    StdoutClosed,
    StderrClosed,
    Pause,
    Unpause,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Done,
    State(Box<State>),
    /// The process has been executed; `pid` is the host's number of it.
    Started {
        pid: i32,
        /// What the launcher did until then.
        #[serde(default)]
        marks: Vec<crate::timings::Mark>,
    },
    /// It could not be started.
    Failed(Failure),
    /// A default that could not be applied: to be shown once.
    Notice(String),
    /// The last [`Frame::Stdin`] has been taken.
    StdinTaken,
    /// The process has ended; everything it wrote has been sent before.
    Exited(Exit),
    /// The request makes no sense now, or is not understood.
    Refused(String),
}

/// Why a process could not be started, in words for the person who asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// 125, 126 (cannot be executed) or 127 (not found).
    pub exit_code: u8,
    pub message: String,
    /// What to do about it; holds real commands where there are any.
    pub hint: Option<String>,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code as `wait(2)` gave it; 0 when `signal` is set.
    pub code: u8,
    /// The signal that killed it.
    pub signal: Option<u8>,
    /// Set when the kernel killed something in the container for want of memory.
    pub oom: Option<crate::cgroup::Oom>,
}

impl Exit {
    /// The number that a shell would show: the code, or 128 + the signal's number.
    pub fn status(&self) -> u8 {
        match self.signal {
            Some(signal) => 128_u8.saturating_add(signal),
            None => self.code,
        }
    }
}

impl Frame {
    fn parts(&self) -> io::Result<(u8, std::borrow::Cow<'_, [u8]>)> {
        Ok(match self {
            Self::Request(request) => (KIND_REQUEST, serde_json::to_vec(request)?.into()),
            Self::Reply(reply) => (KIND_REPLY, serde_json::to_vec(reply)?.into()),
            Self::Stdin(bytes) => (KIND_STDIN, bytes.into()),
            Self::Stdout(bytes) => (KIND_STDOUT, bytes.into()),
            Self::Stderr(bytes) => (KIND_STDERR, bytes.into()),
        })
    }

    /// Appends the frame's bytes to `out`.
    ///
    /// # Errors
    /// `InvalidInput` when the frame is larger than [`MAX_FRAME`].
    pub fn encode(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let (kind, payload) = self.parts()?;
        let length = payload.len() + 2;
        if length > MAX_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the request is too large"));
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most MAX_FRAME")]
        out.extend_from_slice(&(length as u32).to_le_bytes());
        out.extend_from_slice(&[VERSION, kind]);
        out.extend_from_slice(&payload);
        Ok(())
    }

    /// Writes the frame.
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.encode(&mut bytes)?;
        to.write_all(&bytes)
    }

    /// Reads one frame; `None` at the end of the stream.
    pub fn read(mut from: impl Read) -> io::Result<Option<Self>> {
        let mut length = [0; 4];
        match from.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut body = vec![0; checked_length(length)?];
        from.read_exact(&mut body)?;
        Self::from_body(&body).map(Some)
    }

    /// Takes one whole frame from the front of `buffer`, if there is one.
    pub fn take(buffer: &mut Vec<u8>) -> io::Result<Option<Self>> {
        let Some(length) = buffer.first_chunk::<4>() else { return Ok(None) };
        let length = checked_length(*length)?;
        let Some(body) = buffer.get(4..4 + length) else { return Ok(None) };
        let frame = Self::from_body(body);
        buffer.drain(..4 + length);
        frame.map(Some)
    }

    fn from_body(body: &[u8]) -> io::Result<Self> {
        let [version, kind, payload @ ..] = body else { return Err(invalid("frame too short")) };
        if *version != VERSION {
            return Err(invalid("another version of the protocol"));
        }
        Ok(match *kind {
            KIND_REQUEST => Self::Request(serde_json::from_slice(payload)?),
            KIND_REPLY => Self::Reply(serde_json::from_slice(payload)?),
            KIND_STDIN => Self::Stdin(payload.to_vec()),
            KIND_STDOUT => Self::Stdout(payload.to_vec()),
            KIND_STDERR => Self::Stderr(payload.to_vec()),
            _ => return Err(invalid("unknown kind of frame")),
        })
    }
}

fn checked_length(length: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(length) as usize;
    if !(2..=MAX_FRAME).contains(&length) {
        return Err(invalid("frame of a length that cannot be"));
    }
    Ok(length)
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_whole_or_not_yet() {
        let mut bytes = Vec::new();
        Frame::Stdout(b"hello".to_vec()).encode(&mut bytes).unwrap();
        Frame::Request(Request::Signal(15)).encode(&mut bytes).unwrap();
        for cut in 0..11 {
            let mut part = bytes[..cut].to_vec();
            assert!(Frame::take(&mut part).unwrap().is_none(), "{cut}");
            assert_eq!(part.len(), cut);
        }
        assert!(
            matches!(Frame::take(&mut bytes).unwrap(), Some(Frame::Stdout(b)) if b == b"hello")
        );
        let second = Frame::read(&bytes[..]).unwrap();
        assert!(matches!(second, Some(Frame::Request(Request::Signal(15)))));
        assert!(Frame::read(&[][..]).unwrap().is_none());
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let too_long = (MAX_FRAME as u32 + 1).to_le_bytes().to_vec();
        let cases: [Vec<u8>; 5] = [
            vec![0, 0, 0, 0],
            too_long,
            vec![2, 0, 0, 0, VERSION + 1, KIND_STDIN],
            vec![2, 0, 0, 0, VERSION, 99],
            vec![3, 0, 0, 0, VERSION, KIND_REQUEST, b'{'],
        ];
        for mut bytes in cases {
            assert!(Frame::take(&mut bytes).is_err(), "{bytes:?}");
        }
    }
}
