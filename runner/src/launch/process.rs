//! A process of a container, as its monitor knows it, and what its streams carry.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::log::Stream;
use super::protocol::{Exit, WindowSize};
use super::state::ProcessId;
use crate::isolate::InitFailure;
use crate::isolate::talk::{self, FromChild};

/// The monitor's ends of a process's streams. None of them blocks.
#[derive(Debug)]
pub(super) struct Streams {
    /// Also the terminal, if it has one.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    pub(super) is_terminal: bool,
}

/// What a terminal holds for its reader at most, bytes, with room to spare. Source: Linux,
/// `drivers/tty/tty_buffer.c`.
const TERMINAL_BYTES: usize = 1 << 20;

impl Streams {
    pub(super) fn of(&mut self, stream: Stream) -> &mut Option<OwnedFd> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// How much it can hold that has not been read, bytes.
    pub(super) fn capacity(&mut self, stream: Stream) -> usize {
        let fd = self.of(stream).as_ref();
        fd.map_or(0, |fd| rustix::pipe::fcntl_getpipe_size(fd).unwrap_or(TERMINAL_BYTES))
    }
}

/// A child that has not become its program yet. How long that takes is up to what it finds in the
/// container, so nothing waits for it.
#[derive(Debug)]
pub(super) struct Starting {
    /// Where it tells of its failure; the end says that the program runs.
    pub(super) status: OwnedFd,
    /// The child is still outside of the container's PID namespace: the program will be a child
    /// that it makes for us.
    pub(super) enters: bool,
    /// Who wants to know.
    pub(super) client: u64,
    /// What a failure is told with.
    pub(super) command: Vec<String>,
    pub(super) user: String,
    pub(super) directory: PathBuf,
}

/// What has become of a child that was starting.
pub(super) enum Begun {
    NotYet,
    Runs,
    Failed(InitFailure),
    /// It has ended before the process that was to be the program was there.
    Lost,
}

/// A child of the monitor's that runs in the container.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) streams: Streams,
    pub(super) starting: Option<Starting>,
    /// Of its terminal, until it has one.
    window: Option<WindowSize>,
    /// What could not be written yet, and which client waits for that.
    pub(super) input: Vec<u8>,
    pub(super) input_of: Option<u64>,
    pub(super) exit: Option<Exit>,
}

impl Process {
    pub(super) fn new(pid: i32, pidfd: OwnedFd, streams: Streams, starting: Starting) -> Self {
        Self {
            pid,
            pidfd,
            streams,
            starting: Some(starting),
            window: None,
            input: Vec::new(),
            input_of: None,
            exit: None,
        }
    }

    /// Hears what a child that is starting has to say; takes its terminal on the way. `known` are
    /// the numbers of all children that this process knows.
    ///
    /// With CAP_SYS_PTRACE somebody in the container can get hold of the socket as soon as the
    /// child is in there. So nothing that comes by it is believed but what can be seen.
    pub(super) fn hear(&mut self, known: &[i32]) -> Begun {
        loop {
            let Some(starting) = &self.starting else { return Begun::NotYet };
            let (bytes, count, terminal) = match talk::hear(&starting.status, RecvFlags::DONTWAIT) {
                Ok(heard) => heard,
                Err(Errno::AGAIN) => return Begun::NotYet,
                // As good as its end: what it was going to say is lost.
                Err(_) => ([0; 8], 0, None),
            };
            match FromChild::from_bytes(&bytes[..count]) {
                _ if count == 0 && starting.enters => return Begun::Lost,
                _ if count == 0 => return Begun::Runs,
                Some(FromChild::Failed(failure)) => return Begun::Failed(failure),
                Some(FromChild::Terminal) => {
                    terminal.into_iter().for_each(|fd| self.take_terminal(fd));
                }
                Some(FromChild::Entered(pid)) if !known.contains(&pid) => self.follow(pid),
                Some(FromChild::Entered(_) | FromChild::Last) | None => {}
            }
        }
    }

    /// The process is from now on the child `pid`, if that is a child of ours.
    fn follow(&mut self, pid: i32) {
        let Some(starting) = self.starting.as_mut().filter(|starting| starting.enters) else {
            return;
        };
        let number = if pid > 0 { rustix::process::Pid::from_raw(pid) } else { None };
        let Some(number) = number else { return };
        let Ok(pidfd) = rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty())
        else {
            return;
        };
        // Nobody who is not ours can be waited for.
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        if waitid(Id::PIDFd(pidfd.as_fd()), peek).is_ok() {
            starting.enters = false;
            (self.pid, self.pidfd) = (pid, pidfd);
        }
    }

    fn take_terminal(&mut self, terminal: OwnedFd) {
        if !self.streams.is_terminal || self.streams.stdin.is_some() {
            return;
        }
        let _ = rustix::io::ioctl_fionbio(&terminal, true);
        self.streams.stdout = terminal.try_clone().ok();
        self.streams.stdin = Some(terminal);
        if let Some(size) = self.window.take() {
            self.resize(size);
        }
    }

    /// Sends a signal; one that has ended is no error.
    pub(super) fn signal(&self, number: i32) -> io::Result<()> {
        let Some(signal) = rustix::process::Signal::from_named_raw(number) else {
            return self.signal_by_number(number);
        };
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Err(Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Real-time signals have no names. The process is our child and not waited for yet, so its
    /// number is still its own.
    fn signal_by_number(&self, number: i32) -> io::Result<()> {
        if self.exit.is_some() {
            return Ok(());
        }
        crate::sys::process::kill(self.pid, number)
    }

    /// Its end, if it has ended.
    pub(super) fn ended(&self) -> Option<Exit> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        match waitid(Id::PIDFd(self.pidfd.as_fd()), flags) {
            Ok(WaitStatus::Exited(_, code)) => {
                Some(Exit { code: (code & 0xff) as u8, signal: None, oom: None })
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(killed(signal)),
            _ => None,
        }
    }

    /// Tells its terminal a new size.
    pub(super) fn resize(&mut self, size: WindowSize) {
        if self.starting.is_some() && self.streams.stdin.is_none() {
            self.window = Some(size);
        }
        if let (true, Some(terminal)) = (self.streams.is_terminal, &self.streams.stdin) {
            let size = rustix::termios::Winsize {
                ws_row: size.rows,
                ws_col: size.columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            // The terminal may be gone: the process ends.
            let _ = rustix::termios::tcsetwinsize(terminal, size);
        }
    }

    /// Writes as much of the waiting input as goes. True when nothing waits any more.
    pub(super) fn write_input(&mut self) -> bool {
        while !self.input.is_empty() {
            let Some(stdin) = &self.streams.stdin else {
                if self.streams.is_terminal && self.starting.is_some() {
                    // Typed ahead.
                    return false;
                }
                self.input.clear();
                break;
            };
            match rustix::io::write(stdin, &self.input) {
                Ok(written) => drop(self.input.drain(..written)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                // Nobody reads any more. Docker drops the rest as well.
                Err(_) => {
                    self.input.clear();
                    if !self.streams.is_terminal {
                        self.streams.stdin = None;
                    }
                }
            }
        }
        true
    }
}

fn killed(signal: Signal) -> Exit {
    Exit { code: 0, signal: u8::try_from(signal as i32).ok(), oom: None }
}

/// This very process or a child, in a form that a reused number does not fit.
pub(super) fn identify(pid: i32) -> io::Result<ProcessId> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; fields are counted from behind it.
    let after = text.rsplit_once(") ").map_or("", |(_, after)| after);
    let start_time = after.split(' ').nth(19).and_then(|field| field.parse().ok());
    let start_time = start_time.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    Ok(ProcessId { pid, start_time, boot_id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::status_pair;

    #[test]
    fn who_entered_is_believed_once_and_only_if_it_is_a_child() {
        let open = |pid: i32| {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap()
        };
        let own = std::process::id().cast_signed();
        let (status, theirs) = status_pair().unwrap();
        let starting = Starting {
            status,
            enters: true,
            client: 0,
            command: Vec::new(),
            user: String::new(),
            directory: Default::default(),
        };
        let streams = Streams { stdin: None, stdout: None, stderr: None, is_terminal: false };
        let mut process = Process::new(own, open(own), streams, starting);
        let say = |message: FromChild| rustix::io::write(&theirs, &message.to_bytes()).unwrap();
        let mut children: Vec<std::process::Child> = (0..3)
            .map(|_| std::process::Command::new("sleep").arg("60").spawn().unwrap())
            .collect();
        let numbers: Vec<i32> = children.iter().map(|child| child.id().cast_signed()).collect();
        // The host's first process, nobody, itself, and one that is known already.
        for pid in [1, -1, 0, i32::MAX, own, numbers[0]] {
            say(FromChild::Entered(pid));
        }
        assert!(matches!(process.hear(&[own, numbers[0]]), Begun::NotYet));
        assert_eq!(process.pid, own);
        say(FromChild::Entered(numbers[1]));
        say(FromChild::Entered(numbers[2]));
        assert!(matches!(process.hear(&[own]), Begun::NotYet));
        assert_eq!(process.pid, numbers[1]);
        say(FromChild::Terminal);
        assert!(matches!(process.hear(&[own]), Begun::NotYet));
        assert!(process.streams.stdin.is_none(), "none was asked for");
        // Not by closing it: a child that another thread is making has a copy for a moment.
        rustix::net::shutdown(&theirs, rustix::net::Shutdown::Both).unwrap();
        assert!(matches!(process.hear(&[own]), Begun::Runs));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
