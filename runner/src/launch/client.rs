//! One command's conversation with a monitor.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use super::protocol::{Attach, CHUNK, Frame, Reply, Request};

/// Output that waits for a command which does not read. Above this the process is not read from
/// either: it blocks, as it would on a pipe.
const OUTPUT_MAX: usize = 1 << 20;

/// Requests that are read ahead.
const INPUT_MAX: usize = super::protocol::MAX_FRAME + 4;

#[derive(Debug)]
pub(super) struct Client {
    pub(super) number: u64,
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Which process it is connected to (its place in the monitor's list), and how.
    pub(super) attached: Option<(usize, Attach)>,
    /// It wants to know when the container has ended.
    pub(super) waits: bool,
    /// Everything has been said: it goes when that has been sent.
    ends: bool,
    pub(super) is_gone: bool,
}

impl Client {
    pub(super) fn new(number: u64, stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            number,
            stream,
            input: Vec::new(),
            output: Vec::new(),
            attached: None,
            waits: false,
            ends: false,
            is_gone: false,
        })
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    pub(super) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.output.len() > OUTPUT_MAX
    }

    pub(super) fn is_attached_to(&self, process: usize) -> bool {
        self.attached.is_some_and(|(attached, _)| attached == process)
    }

    /// Queues a frame and sends what goes at once.
    pub(super) fn say(&mut self, frame: &Frame) {
        if self.is_gone || frame.encode(&mut self.output).is_err() {
            return;
        }
        self.flush();
    }

    pub(super) fn reply(&mut self, reply: Reply) {
        self.say(&Frame::Reply(reply));
    }

    /// The last word: the conversation ends when it has been sent.
    pub(super) fn end(&mut self, reply: Reply) {
        self.reply(reply);
        self.ends = true;
        self.flush();
    }

    pub(super) fn flush(&mut self) {
        while !self.output.is_empty() && !self.is_gone {
            match self.stream.write(&self.output) {
                Ok(0) => self.is_gone = true,
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.is_gone = true,
            }
        }
        // A burst must not keep its memory for the container's whole life.
        self.output.shrink_to(CHUNK);
        self.is_gone |= self.ends;
    }

    /// Sends what is queued, for as long as the command is there to read it.
    pub(super) fn flush_all(&mut self) {
        if self.has_output() && self.stream.set_nonblocking(false).is_ok() {
            let _ = self.stream.write_all(&self.output);
        }
        self.output.clear();
    }

    /// What has been asked, in order. The end of the stream makes the client gone.
    pub(super) fn hear(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut chunk = [0; CHUNK];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.is_gone = true,
            Ok(count) => self.input.extend_from_slice(&chunk[..count]),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(_) => self.is_gone = true,
        }
        loop {
            match Frame::take(&mut self.input) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) if self.input.len() <= INPUT_MAX => break,
                // Another version, or nonsense: say so, and have nothing more to do with it.
                Ok(None) | Err(_) => {
                    let why = "this container's monitor does not understand the command: \
                               it was started by another version of rrun";
                    self.end(Reply::Refused(why.to_owned()));
                    break;
                }
            }
        }
        self.input.shrink_to(CHUNK);
        frames
    }
}

/// What a client may ask for, apart from streams.
pub(super) fn request(frame: Frame) -> Result<Request, Option<Vec<u8>>> {
    match frame {
        Frame::Request(request) => Ok(request),
        Frame::Stdin(bytes) => Err(Some(bytes)),
        Frame::Reply(_) | Frame::Stdout(_) | Frame::Stderr(_) => Err(None),
    }
}
