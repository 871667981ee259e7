//! Netlink by hand, and blocking: what is asked for here is answered within microseconds.
//!
//! Source: netlink(7), linux/netlink.h. Lengths of what comes back are checked before they are
//! used (CVE-2021-43784).

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_send_buffer_size_force, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

pub(super) const REQUEST: u16 = 0x001;
pub(super) const ACK: u16 = 0x004;
pub(super) const DUMP: u16 = 0x300;
pub(super) const EXCL: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const NESTED: u16 = 0x8000;
const KIND_MASK: u16 = 0x3fff;

/// The header of each message, bytes: length, type, flags, sequence number, port.
const HEADER_BYTES: usize = 16;

/// Largest datagram that the kernel answers with: a dump's pieces are at most this long.
const DATAGRAM_BYTES: usize = 64 << 10;

/// A batch is one datagram; the rules and a thousand published ports are some 200 KB.
const SEND_BYTES: usize = 4 << 20;

/// The kernel answers at once; what does not come by then will not.
const PATIENCE: Duration = Duration::from_secs(10);

/// One message, without its sequence number.
#[derive(Clone, Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// `flags`: `REQUEST` is always among them.
    pub(super) fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        Self { bytes }
    }

    /// The fixed part after the header.
    #[must_use]
    pub(super) fn put(mut self, fixed: &[u8]) -> Self {
        self.bytes.extend_from_slice(fixed);
        self.pad();
        self
    }

    #[must_use]
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.add(kind, value);
        self
    }

    /// Text with the NUL that the kernel's strings end with.
    #[must_use]
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let value = [value.as_bytes(), b"\0"].concat();
        self.attribute(kind, &value)
    }

    /// nf_tables has its numbers in network order, rtnetlink in the machine's.
    #[must_use]
    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    #[must_use]
    pub(super) fn big(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// An attribute that holds attributes.
    #[must_use]
    pub(super) fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        let mut filled = fill(self);
        filled.seal(start, kind | NESTED);
        filled
    }

    /// What stands after the header.
    pub(super) fn into_body(mut self) -> Vec<u8> {
        self.bytes.split_off(HEADER_BYTES)
    }

    fn add(&mut self, kind: u16, value: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(value);
        self.seal(start, kind);
        self.pad();
    }

    /// Writes the head of the attribute that began at `start` and ends here.
    fn seal(&mut self, start: usize, kind: u16) {
        // Names, addresses and rules: three orders of magnitude below it.
        #[expect(clippy::cast_possible_truncation, reason = "callers bound what they put in")]
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(&mut self, sequence: u32) -> &[u8] {
        #[expect(clippy::cast_possible_truncation, reason = "a message is below SEND_BYTES")]
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.bytes
    }

    fn want_answer(&mut self) {
        self.bytes[6] |= ACK as u8;
    }
}

/// The attributes of `bytes`, kind and value; what is malformed ends it.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (length, kind) = (number16(rest, 0)?, number16(rest, 2)?);
        let length = usize::from(length);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & KIND_MASK, value))
    })
}

pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A string of the kernel's, up to its NUL.
pub(super) fn text_of(value: &[u8]) -> &str {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    std::str::from_utf8(&value[..end]).unwrap_or_default()
}

fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A socket to one of the kernel's subsystems, in the network namespace of whoever opens it.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Links, addresses and routes.
    pub(super) fn route() -> io::Result<Self> {
        // Protocol 0.
        Self::open(None)
    }

    /// nf_tables and connection tracking.
    pub(super) fn netfilter() -> io::Result<Self> {
        Self::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&fd, Timeout::Recv, Some(PATIENCE))?;
        // Without CAP_NET_ADMIN of the first namespace it stays as it is, which is enough for most.
        let _ = set_socket_send_buffer_size_force(&fd, SEND_BYTES);
        Ok(Self { fd, sequence: 0 })
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match rustix::net::send(&self.fd, bytes, SendFlags::empty()) {
                Err(Errno::INTR) => {}
                other => return Ok(other.map(drop)?),
            }
        }
    }

    /// Sends a message and waits for the kernel's word that it is done.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(super) fn ask(&mut self, mut message: Message) -> io::Result<()> {
        let sequence = self.next();
        message.want_answer();
        self.send(message.finish(sequence))?;
        self.answers(|answer| match answer {
            Answer::Done(of, errno) if of == sequence => Some(result(errno)),
            _ => None,
        })
    }

    /// Asks for a list, and gives the payload of each entry, fixed part included.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(super) fn dump(&mut self, message: Message, each: impl FnMut(&[u8])) -> io::Result<()> {
        self.list(message, DUMP, each)
    }

    /// Asks for one thing.
    pub(super) fn get(&mut self, message: Message) -> io::Result<Vec<u8>> {
        let mut found = Vec::new();
        self.list(message, ACK, |payload| found = payload.to_vec())?;
        Ok(found)
    }

    fn list(
        &mut self,
        mut message: Message,
        flags: u16,
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let sequence = self.next();
        let all = number16(&message.bytes, 6).unwrap_or_default() | flags;
        message.bytes[6..8].copy_from_slice(&all.to_ne_bytes());
        self.send(message.finish(sequence))?;
        self.answers(|answer| match answer {
            Answer::Entry(of, payload) if of == sequence => {
                each(payload);
                None
            }
            Answer::Done(of, errno) if of == sequence => Some(result(errno)),
            _ => None,
        })
    }

    /// Sends messages of nf_tables that come into force together or not at all.
    ///
    /// # Errors
    /// The first errno, with the number of the message that it belongs to.
    pub(super) fn batch(&mut self, mut messages: Vec<Message>) -> Result<(), BatchError> {
        /// Of nfnetlink.h: NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NFNL_SUBSYS_NFTABLES.
        const BEGIN: u16 = 0x10;
        const END: u16 = 0x11;
        const NFTABLES: u8 = 10;
        let frame = |kind| Message::new(kind, 0).put(&[0, 0, 0, NFTABLES]);
        let Some(last) = messages.last_mut() else { return Ok(()) };
        last.want_answer();
        let first = self.next();
        let mut bytes = frame(BEGIN).finish(first).to_vec();
        for message in &mut messages {
            let sequence = self.next();
            bytes.extend_from_slice(message.finish(sequence));
        }
        let last = self.sequence;
        let end = self.next();
        bytes.extend_from_slice(frame(END).finish(end));
        let failed = |error| BatchError { at: 0, error };
        self.send(&bytes).map_err(failed)?;
        let mut worst = None;
        let done = self.answers(|answer| {
            let Answer::Done(of, errno) = answer else { return None };
            // Older ones are of a batch before, which has failed.
            let at = of.wrapping_sub(first);
            if at > last.wrapping_sub(first) {
                return None;
            }
            if let (Err(error), true) = (result(errno), worst.is_none()) {
                worst = Some(BatchError { at: (at as usize).saturating_sub(1), error });
            }
            // The head of the batch is refused when nothing of it is looked at.
            (of == last || of == first).then_some(Ok(()))
        });
        match worst {
            Some(error) => Err(error),
            None => done.map_err(failed),
        }
    }

    /// Reads answers until one decides.
    fn answers<T>(
        &self,
        mut judge: impl FnMut(Answer<'_>) -> Option<io::Result<T>>,
    ) -> io::Result<T> {
        let mut buffer = vec![0; DATAGRAM_BYTES];
        loop {
            let received = rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::empty());
            let count = match received {
                Ok((count, _)) => count,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut rest = &buffer[..count];
            while let Some((answer, after)) = Answer::take(rest) {
                rest = after;
                if let Some(decided) = judge(answer) {
                    return decided;
                }
            }
        }
    }
}

/// A batch of which nothing came into force.
#[derive(Debug, thiserror::Error)]
#[error("message {at}")]
pub(super) struct BatchError {
    /// The number of the message, from 0.
    pub(super) at: usize,
    #[source]
    pub(super) error: io::Error,
}

impl From<BatchError> for io::Error {
    fn from(batch: BatchError) -> Self {
        batch.error
    }
}

enum Answer<'a> {
    /// Sequence number and payload.
    Entry(u32, &'a [u8]),
    /// Sequence number and the kernel's errno, 0 or negative.
    Done(u32, i32),
}

impl<'a> Answer<'a> {
    fn take(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let length = number32(bytes, 0)? as usize;
        let (kind, sequence) = (number16(bytes, 4)?, number32(bytes, 8)?);
        let payload = bytes.get(HEADER_BYTES..length)?;
        let errno = || number32(payload, 0).unwrap_or_default().cast_signed();
        let answer = match kind {
            ERROR | DONE => Self::Done(sequence, errno()),
            _ => Self::Entry(sequence, payload),
        };
        Some((answer, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
    }
}

fn result(errno: i32) -> io::Result<()> {
    if errno < 0 { Err(io::Error::from_raw_os_error(-errno)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_lie_about_their_length_are_not_read() {
        let message = Message::new(1, 0)
            .text(3, "eth0")
            .nest(18, |inner| inner.number(4, 1500).nest(2, |inner| inner.attribute(1, &[7])));
        let body = &message.bytes[HEADER_BYTES..];
        assert_eq!(attribute(body, 3).map(text_of), Some("eth0"));
        let inner = attribute(body, 18).unwrap();
        assert_eq!(attribute(inner, 4).and_then(|value| number32(value, 0)), Some(1500));
        assert_eq!(attribute(attribute(inner, 2).unwrap(), 1), Some(&[7][..]));
        for bytes in [&[][..], &[1, 0, 1, 0], &[0, 0, 1, 0], &[9, 0, 1, 0, 1, 2, 3, 4], &[4]] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
        assert!(Answer::take(&[20, 0, 0, 0, 2, 0, 0, 0]).is_none());
    }

    #[test]
    fn what_is_not_there_is_said_by_the_kernel() {
        let mut socket = Socket::route().unwrap();
        // RTM_GETLINK of an interface that nobody has.
        let ask = Message::new(18, 0).put(&[0; 16]).text(3, "rrun-nobody");
        assert_eq!(socket.get(ask).unwrap_err().raw_os_error(), Some(libc::ENODEV));
        let loopback = Message::new(18, 0).put(&[0; 16]).text(3, "lo");
        assert!(!socket.get(loopback).unwrap().is_empty());
    }
}
