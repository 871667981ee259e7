//! What was made for a container and has to go with it. One list: a start that is given up, an end
//! and the recovery of what a killed monitor has left walk the same one, so that what one of them
//! takes away none of the others forgets.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::ports::Ports;
use super::process::identify;
use super::state::ProcessId;
use crate::cgroup::{Cgroup, Oom};
use crate::dirs::Dirs;
use crate::known_bad::left_out;
use crate::net::{self, Released};

/// How long killed processes may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How long the kernel may take to see an empty cgroup as empty.
const REMOVE_PATIENCE: Duration = Duration::from_secs(2);

/// What a container may have; what is not there is passed over.
pub(super) struct Leftovers<'a> {
    pub(super) dirs: &'a Dirs,
    pub(super) id: &'a str,
    /// Its first process: a child of this one, by its pidfd, or one that somebody has noted.
    pub(super) init: Option<Init<'a>>,
    pub(super) cgroup: Option<&'a Cgroup>,
    pub(super) ports: Option<&'a mut Ports>,
    pub(super) done: Undone,
}

#[derive(Clone, Copy)]
pub(super) enum Init<'a> {
    Child(&'a OwnedFd),
    Noted(&'a ProcessId),
}

/// What came to light on the way.
#[derive(Default)]
pub(super) struct Undone {
    /// Whether memory ran out, which only the cgroup knows.
    pub(super) oom: Option<Oom>,
    /// Cables that are to be cut, which takes time: [`Undone::finish`].
    released: Option<Released>,
}

type Step = (&'static str, fn(&mut Leftovers<'_>) -> io::Result<()>);

/// In the order in which it is undone.
const STEPS: [Step; 4] = [
    ("cgroup", |left| left.dissolve()),
    // After the cgroup, which thaws what is frozen.
    ("init", |left| left.end_init()),
    ("networks", |left| left.release_networks()),
    ("ports", |left| left.close_ports()),
];

impl<'a> Leftovers<'a> {
    pub(super) fn of(dirs: &'a Dirs, id: &'a str) -> Self {
        Self { dirs, id, init: None, cgroup: None, ports: None, done: Undone::default() }
    }

    /// Walks the whole list: when this returns nothing of the container runs, and whatever it had
    /// is free for others. Gives the first error beside it; what stays is met again by recovery.
    pub(super) fn undo(mut self) -> (Undone, io::Result<()>) {
        let mut first = Ok(());
        for (name, step) in STEPS {
            if !left_out(&format!("undo-{name}")) {
                first = first.and(step(&mut self));
            }
        }
        (self.done, first)
    }

    /// Kills the first process. Where it has a PID namespace all others go with it.
    fn end_init(&mut self) -> io::Result<()> {
        match self.init {
            None => Ok(()),
            Some(Init::Child(pidfd)) => {
                kill(pidfd)?;
                // Buried already, if its end is why this is undone.
                let _ = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED);
                Ok(())
            }
            Some(Init::Noted(noted)) => {
                let Some(pid) = Pid::from_raw(noted.pid).filter(|_| noted.pid > 1) else {
                    return Ok(());
                };
                let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
                    return Ok(());
                };
                // Now that the number is held: that it is still that one's.
                if identify(noted.pid).is_ok_and(|found| found == *noted) {
                    kill(&pidfd)?;
                    wait_for_end(&pidfd);
                }
                Ok(())
            }
        }
    }

    /// Ends everything in the cgroup and removes it: without a PID namespace of its own, whatever
    /// the container has left behind.
    fn dissolve(&mut self) -> io::Result<()> {
        let Some(cgroup) = self.cgroup else { return Ok(()) };
        self.done.oom = cgroup.oom();
        let killed = cgroup.kill_all(KILL_PATIENCE);
        let _ = cgroup.remove(REMOVE_PATIENCE);
        killed
    }

    fn release_networks(&mut self) -> io::Result<()> {
        let rules = self.ports.as_mut().and_then(|ports| ports.rules.take());
        self.done.released = net::release(self.dirs, self.id, rules)?;
        Ok(())
    }

    fn close_ports(&mut self) -> io::Result<()> {
        self.ports.as_mut().into_iter().for_each(|ports| ports.close());
        Ok(())
    }
}

impl Undone {
    /// What takes time, and nobody need wait for.
    pub(super) fn finish(self) {
        if let Some(released) = &self.released {
            net::cut(released);
        }
    }

    /// The same, as the last that this process does.
    pub(super) fn finish_last(mut self) {
        let released = self.released.take();
        if let Some(released) = released {
            net::cut(&released);
            net::let_go(released);
        }
    }
}

fn kill(pidfd: &OwnedFd) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(pidfd, Signal::KILL) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        other => Ok(other?),
    }
}

/// Of a process that is somebody else's child.
fn wait_for_end(pidfd: &OwnedFd) {
    let patience = Timespec::try_from(KILL_PATIENCE).ok();
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let _ = rustix::event::poll(&mut fds, patience.as_ref());
}
