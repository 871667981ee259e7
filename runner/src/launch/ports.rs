//! A container's published ports and its resolver: sockets that the monitor holds, and the helper
//! that serves them from the first word on that no rule of the kernel's has taken.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::net::{Rules, Served, helper};

/// Between two helpers, where the first one has ended or could not be started.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Ports {
    held: Option<Served>,
    /// While it lives it takes the connections; its end is heard here.
    helper: Option<OwnedFd>,
    pub(super) pause_until: Option<Instant>,
    /// What the container's rules were made by, kept for taking them away.
    pub(super) rules: Option<Rules>,
}

impl Ports {
    pub(super) fn new(held: Option<Served>, rules: Option<Rules>) -> Self {
        Self { held, helper: None, pause_until: None, rules }
    }

    /// What is to be listened to; any word there is for [`Self::serve`].
    pub(super) fn watched(&self) -> Vec<BorrowedFd<'_>> {
        match (&self.helper, &self.held) {
            (Some(helper), _) => vec![helper.as_fd()],
            (None, Some(held)) if self.pause_until.is_none() => held.sockets().collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn serve(&mut self) {
        let pause = Some(Instant::now() + PAUSE);
        if let Some(helper) = &self.helper {
            // It says nothing but its end; one of the sockets may have had something to say before.
            if !matches!(recv(helper, &mut [0; 1], RecvFlags::DONTWAIT), Err(Errno::AGAIN)) {
                self.helper = None;
                self.pause_until = pause;
            }
        } else if let Some(held) = &self.held {
            match helper::start(held) {
                Ok(helper) => self.helper = Some(helper),
                Err(_) => self.pause_until = pause,
            }
        }
    }

    pub(super) fn look_at_clock(&mut self, now: Instant) {
        if self.pause_until.is_some_and(|until| until <= now) {
            self.pause_until = None;
        }
    }

    /// Nobody has these ports any more.
    pub(super) fn close(&mut self) {
        *self = Self::default();
    }
}
