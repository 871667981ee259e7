//! One command's conversation with a monitor.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::protocol::{Attach, CHUNK, Frame, Reply, Request};
use super::rest;
use crate::known_bad::left_out;

/// Output that waits for a command which does not read. Above this the process is not read from
/// either: it blocks, as it would on a pipe.
const OUTPUT_MAX: usize = 1 << 20;

/// For whom nothing but its stream is left to say the last words by.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Requests that are read ahead.
const INPUT_MAX: usize = super::protocol::MAX_FRAME + 4;

#[derive(Debug)]
pub(super) struct Client {
    pub(super) number: u64,
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Where it wants what it has not read when the end comes.
    rest: Option<OwnedFd>,
    /// The end is near: what the stream does not take goes into the file, and nobody waits.
    is_ending: bool,
    unread: Option<File>,
    /// Which process it is connected to (its place in the monitor's list), and how.
    pub(super) attached: Option<(usize, Attach)>,
    /// It wants to know when the container has ended.
    pub(super) waits: bool,
    /// Everything has been said: it goes when that has been sent.
    ends: bool,
    pub(super) is_gone: bool,
}

impl Client {
    pub(super) fn new(number: u64, stream: UnixStream, rest: Option<OwnedFd>) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            number,
            stream,
            input: Vec::new(),
            output: Vec::new(),
            rest,
            is_ending: false,
            unread: None,
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

    /// What is held in memory for it, bytes.
    pub(super) fn held(&self) -> usize {
        self.output.capacity() + self.input.capacity()
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
        if self.unread.is_none() {
            self.flush();
        }
        if self.is_ending && self.has_output() {
            self.put_aside();
        }
    }

    /// From here on nothing is held in memory for it, however much comes and whatever it reads.
    pub(super) fn end_soon(&mut self) {
        self.is_ending = self.rest.is_some() && !left_out("rest-handed-over");
        if self.is_ending && self.has_output() {
            self.put_aside();
        }
    }

    fn put_aside(&mut self) {
        let put = match &mut self.unread {
            Some(file) => file.write_all(&self.output),
            None => rest::memory_file().and_then(|mut file| {
                file.write_all(&self.output)?;
                self.unread = Some(file);
                Ok(())
            }),
        };
        // Without memory for it the rest is lost, which its reader sees: the last word is missing.
        self.is_gone |= put.is_err();
        self.output = Vec::new();
    }

    pub(super) fn reply(&mut self, reply: Reply) {
        self.say(&Frame::Reply(reply));
    }

    /// The last word: the conversation ends when it has been sent, or handed over.
    pub(super) fn end(&mut self, reply: Reply) {
        self.end_soon();
        self.reply(reply);
        if let (Some(file), Some(rest)) = (self.unread.take(), &self.rest) {
            // One that has gone meanwhile reads nothing.
            let _ = rest::hand_over(rest, file);
        }
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

    /// Sends what is queued. One that gave nothing to hand the rest over by, and does not read, is
    /// waited for a moment.
    pub(super) fn flush_all(&mut self) {
        let moment = if left_out("rest-handed-over") { None } else { Some(LAST_WAIT) };
        if self.has_output()
            && self.stream.set_nonblocking(false).is_ok()
            && self.stream.set_write_timeout(moment).is_ok()
        {
            let _ = self.stream.write_all(&self.output);
        }
        self.output.clear();
    }

    /// What has been asked, in order. The end of the stream makes the client gone.
    pub(super) fn hear(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut chunk = [0; CHUNK];
        match rest::receive(&self.stream, &mut chunk) {
            Ok((0, _)) => self.is_gone = true,
            Ok((count, rest)) => {
                self.input.extend_from_slice(&chunk[..count]);
                if rest.is_some() {
                    self.rest = rest;
                }
            }
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
