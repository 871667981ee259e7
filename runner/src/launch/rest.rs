//! What a command has not read when its container ends.
//!
//! A monitor must not live for the sake of a reader who does not read, a pager that was left
//! overnight, and that reader must lose nothing. So a command that attaches hands over the end of a
//! second socket with its request; at the end the monitor puts what the first one does not take
//! into a sealed memory file, sends that over the second, and is gone. The file goes on where the
//! stream stopped, in the middle of a frame perhaps.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::protocol::{Frame, Request};

/// A command's two ends.
#[derive(Debug)]
pub struct Conversation {
    pub stream: UnixStream,
    /// Where the monitor hands over the rest; [`receive_rest`].
    pub rest: UnixStream,
}

impl Conversation {
    /// Sends the request that attaches, with the means to hand over the rest.
    ///
    /// # Errors
    /// As sendmsg(2).
    pub fn attach(stream: UnixStream, request: Request) -> io::Result<Self> {
        let (rest, theirs) = UnixStream::pair()?;
        let mut bytes = Vec::new();
        Frame::Request(request).encode(&mut bytes)?;
        let sent = send_with(&stream, &bytes, &theirs, SendFlags::NOSIGNAL)?;
        (&stream).write_all(&bytes[sent..])?;
        Ok(Self { stream, rest })
    }
}

/// The file with what was not read; `None` where there is none.
///
/// # Errors
/// As recvmsg(2).
pub fn receive_rest(rest: &UnixStream) -> io::Result<Option<File>> {
    rest.set_nonblocking(true)?;
    match receive(rest, &mut [0]) {
        Ok((_, file)) => Ok(file.map(File::from)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// A memory file that takes what a stream does not.
pub(super) fn memory_file() -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(rustix::fs::memfd_create("rrun-rest", flags)?.into())
}

/// Hands it over, from its beginning.
pub(super) fn hand_over(rest: &OwnedFd, mut file: File) -> io::Result<()> {
    file.rewind()?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    send_with(rest, b"r", &file, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(drop)
}

fn send_with(
    socket: impl AsFd,
    bytes: &[u8],
    fd: impl AsFd,
    flags: SendFlags,
) -> io::Result<usize> {
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    loop {
        match rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Reads what is there, and a descriptor that comes along.
pub(super) fn receive(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received =
        rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok((received.bytes, fds.flatten().last()))
}

/// A stream, read together with the descriptor that comes along.
pub(super) struct WithRest<'a> {
    pub(super) stream: &'a UnixStream,
    pub(super) rest: Option<OwnedFd>,
}

impl Read for WithRest<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (count, rest) = receive(self.stream, buffer)?;
        if rest.is_some() {
            self.rest = rest;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::protocol::Attach;

    #[test]
    fn the_rest_comes_where_the_stream_stops() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let conversation = Conversation::attach(ours, Request::Attach(Attach::default())).unwrap();
        assert!(receive_rest(&conversation.rest).unwrap().is_none());
        let mut reader = WithRest { stream: &theirs, rest: None };
        let frame = Frame::read(&mut reader).unwrap();
        assert!(matches!(frame, Some(Frame::Request(Request::Attach(_)))), "{frame:?}");
        let mut file = memory_file().unwrap();
        file.write_all(b"the rest").unwrap();
        hand_over(&reader.rest.unwrap(), file).unwrap();
        let mut file = receive_rest(&conversation.rest).unwrap().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "the rest");
        assert!(file.write_all(b"x").is_err(), "sealed");
        assert!(receive_rest(&conversation.rest).unwrap().is_none());
    }
}
