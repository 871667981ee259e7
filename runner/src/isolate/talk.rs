//! What the one who makes a process and the process that is made say to each other, until it is its
//! program: one table for all who launch. Each message is one packet of eight bytes on a socket of
//! their own, with a descriptor beside it where the table says so.

use std::io::IoSlice;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::failure::{InitFailure, Step};

/// Bytes of a message.
const PACKET: usize = 8;

/// Descriptors that come with one message at most.
const DESCRIPTORS_MAX: usize = 1;

/// What the child says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromChild {
    Failed(InitFailure),
    /// The terminal's other end comes along.
    Terminal,
    /// The process in the container has this number; whoever says so ends now.
    Entered(i32),
    /// Said by the process that becomes the program, to see whether anybody hears it.
    Last,
}

/// What the child is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToChild {
    /// What can only be done from outside is done: its limits are set, its ids are mapped.
    Go,
    /// Its network is up: settings may name the interfaces.
    Network,
}

impl FromChild {
    pub fn to_bytes(self) -> [u8; PACKET] {
        match self {
            Self::Failed(failure) => {
                let [i0, i1] = failure.item.to_le_bytes();
                let [e0, e1, e2, e3] = failure.errno.to_le_bytes();
                [0, failure.step as u8, i0, i1, e0, e1, e2, e3]
            }
            Self::Terminal => [1, 0, 0, 0, 0, 0, 0, 0],
            Self::Entered(pid) => {
                let [p0, p1, p2, p3] = pid.to_le_bytes();
                [2, 0, 0, 0, p0, p1, p2, p3]
            }
            Self::Last => [3, 0, 0, 0, 0, 0, 0, 0],
        }
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let &[kind, step, i0, i1, n0, n1, n2, n3] = bytes else { return None };
        let number = i32::from_le_bytes([n0, n1, n2, n3]);
        match kind {
            0 => Some(Self::Failed(InitFailure {
                step: Step::of_number(step)?,
                item: u16::from_le_bytes([i0, i1]),
                errno: number,
            })),
            1 => Some(Self::Terminal),
            2 => Some(Self::Entered(number)),
            3 => Some(Self::Last),
            _ => None,
        }
    }
}

impl ToChild {
    pub fn to_bytes(self) -> [u8; PACKET] {
        let kind = match self {
            Self::Go => 0x80,
            Self::Network => 0x81,
        };
        [kind, 0, 0, 0, 0, 0, 0, 0]
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x80, 0, 0, 0, 0, 0, 0, 0] => Some(Self::Go),
            [0x81, 0, 0, 0, 0, 0, 0, 0] => Some(Self::Network),
            _ => None,
        }
    }
}

/// Says something by write(2), which a container's policy allows more surely than another call.
///
/// # Errors
/// As write(2): nobody hears it any more.
pub fn say(socket: &OwnedFd, packet: [u8; PACKET]) -> Result<(), Errno> {
    rustix::io::write(socket, &packet).map(drop)
}

/// Says something, with a descriptor beside it.
///
/// # Errors
/// As sendmsg(2).
pub fn say_with(
    socket: &OwnedFd,
    packet: [u8; PACKET],
    descriptor: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [descriptor];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let packet = [IoSlice::new(&packet)];
    rustix::net::sendmsg(socket, &packet, &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// The next packet and the descriptor that came with it; no bytes: the other end is closed.
///
/// # Errors
/// As recvmsg(2), but for EINTR.
pub fn hear(
    socket: &OwnedFd,
    flags: RecvFlags,
) -> Result<([u8; PACKET], usize, Option<OwnedFd>), Errno> {
    loop {
        let mut bytes = [0; PACKET];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut packet = [IoSliceMut::new(&mut bytes)];
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let count = match rustix::net::recvmsg(socket.as_fd(), &mut packet, &mut control, flags) {
            Err(Errno::INTR) => continue,
            other => other?.bytes,
        };
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        return Ok((bytes, count, descriptor));
    }
}

/// Waits, in the child, until it is told `wanted`.
///
/// # Errors
/// ESRCH: whoever was to say it has ended. EPROTO: something else was said.
pub fn wait_for(socket: &OwnedFd, wanted: ToChild) -> Result<(), Errno> {
    match hear(socket, RecvFlags::empty())? {
        (_, 0, _) => Err(Errno::SRCH),
        (bytes, count, _) if ToChild::from_bytes(&bytes[..count]) == Some(wanted) => Ok(()),
        _ => Err(Errno::PROTO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::status_pair;

    #[test]
    fn every_message_crosses_as_bytes() {
        for step in Step::ALL {
            let failure = InitFailure { step: *step, item: 0x1234, errno: -5 };
            let message = FromChild::Failed(failure);
            assert_eq!(FromChild::from_bytes(&message.to_bytes()), Some(message));
        }
        for message in [FromChild::Terminal, FromChild::Entered(70_000), FromChild::Last] {
            assert_eq!(FromChild::from_bytes(&message.to_bytes()), Some(message));
            assert_eq!(ToChild::from_bytes(&message.to_bytes()), None);
        }
        for message in [ToChild::Go, ToChild::Network] {
            assert_eq!(ToChild::from_bytes(&message.to_bytes()), Some(message));
            assert_eq!(FromChild::from_bytes(&message.to_bytes()), None);
        }
        for bytes in [&[][..], &[0; 7], &[0, 250, 0, 0, 0, 0, 0, 0], &[9; 8]] {
            assert_eq!(FromChild::from_bytes(bytes), None);
            assert_eq!(ToChild::from_bytes(bytes), None);
        }
    }

    #[test]
    fn the_child_waits_for_the_right_word() {
        let (ours, theirs) = status_pair().unwrap();
        say(&ours, ToChild::Go.to_bytes()).unwrap();
        assert_eq!(wait_for(&theirs, ToChild::Go), Ok(()));
        say(&ours, ToChild::Go.to_bytes()).unwrap();
        assert_eq!(wait_for(&theirs, ToChild::Network), Err(Errno::PROTO));
        say_with(&theirs, FromChild::Terminal.to_bytes(), ours.as_fd()).unwrap();
        let (bytes, count, descriptor) = hear(&ours, RecvFlags::DONTWAIT).unwrap();
        assert_eq!(FromChild::from_bytes(&bytes[..count]), Some(FromChild::Terminal));
        assert!(descriptor.is_some());
        assert_eq!(hear(&ours, RecvFlags::DONTWAIT).err(), Some(Errno::AGAIN));
        // Not by closing it: a child that another thread is making has a copy for a moment.
        rustix::net::shutdown(&ours, rustix::net::Shutdown::Both).unwrap();
        assert_eq!(wait_for(&theirs, ToChild::Go), Err(Errno::SRCH));
    }
}
