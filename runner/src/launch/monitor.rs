//! The monitor: one thread, one loop. It lives as long as its container.

use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::client::{self, Client};
use super::finish::{self, Container};
use super::launcher::ours;
use super::log::{Log, Stream};
use super::process::{Begun, Process, Starting, identify};
use super::protocol::{Attach, CHUNK, Exit, Failure, Frame, Reply, Request};
use super::state::{self, State};
use super::undo::{Init, Leftovers};
use super::wall::Wall;
use crate::cgroup::Cgroup;
use crate::failure::{EXIT_CANNOT_EXECUTE, EXIT_OURS};
use crate::images::Store;
use crate::isolate;
use crate::known_bad::left_out;
use crate::signal::Signal;

/// Between a stop's signal and KILL, unless something else was said. Docker's.
const STOP_TIMEOUT_SECONDS: i64 = 10;

/// When the monitor leaves its caller's cgroup. In cgroup v2 the move waits some 10 ms for the
/// kernel; a container that ends at once is spared it.
const MOVE_AFTER: Duration = Duration::from_millis(300);

/// Conversations at once; each costs a descriptor.
const CLIENTS_MAX: usize = 256;

/// What clients together may have waiting in memory, bytes. Above it nothing is read for those who
/// do not read themselves, and no new one is heard.
const HELD_MAX: usize = 24 << 20;

/// Signals, and ended processes of others, that are seen to in one turn: a container can make them
/// faster than they are seen to, and others want to be heard.
const TURN_MAX: usize = 256;

/// The most that is read of a stream at its process's end, bytes. A pipe holds 1 MiB at most, unless
/// its owner has CAP_SYS_RESOURCE and made it larger.
const LAST_BYTES_MAX: usize = 16 << 20;

/// The number of the command that started the container, among the clients.
pub(super) const FIRST_CLIENT: u64 = 0;

pub(super) struct Monitor {
    pub(super) container: Container,
    pub(super) state: State,
    pub(super) cgroup: Cgroup,
    log: Option<Log>,
    signals: SignalFd,
    pub(super) clients: Vec<Client>,
    clients_seen: u64,
    /// The container's first process, then those of exec. An ended one keeps its place.
    pub(super) processes: Vec<Process>,
    /// Why the container could not be started.
    failure: Option<Failure>,
    kill_at: Option<Instant>,
    move_at: Option<Instant>,
    /// Ended processes of others are left for the next turn.
    has_orphans: bool,
    pub(super) wall: Wall,
}

/// What a descriptor in the poll set belongs to.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Listener,
    Client(usize),
    Begin(usize),
    End(usize),
    Output(usize, Stream),
    Input(usize),
    Ports,
}

impl Monitor {
    #[expect(clippy::too_many_arguments, reason = "called once, with what the launcher has made")]
    pub(super) fn new(
        container: Container,
        state: State,
        cgroup: Cgroup,
        log: Option<Log>,
        signals: SignalFd,
        init: Process,
        mut client: Client,
        first: Option<Request>,
    ) -> io::Result<Self> {
        if let Some(Request::Attach(attach)) = first {
            client.attached = Some((0, attach));
        }
        Ok(Self {
            container,
            state,
            cgroup,
            log,
            signals,
            clients: vec![client],
            clients_seen: 1,
            processes: vec![init],
            failure: None,
            kill_at: None,
            move_at: Some(Instant::now() + MOVE_AFTER),
            has_orphans: false,
            wall: Wall::put_up()?,
        })
    }

    /// Runs until the container has ended and everything is cleaned up. The exit code is nobody's.
    pub(super) fn run(mut self) -> u8 {
        loop {
            for source in self.wait() {
                self.serve(source);
            }
            if self.kill_at.is_some_and(|at| at <= Instant::now()) {
                self.kill_at = None;
                self.kill();
            }
            if self.move_at.is_some_and(|at| at <= Instant::now()) {
                self.move_at = None;
                // Where that cannot be it ends with its caller's cgroup, and the container too.
                let _ = self.cgroup.join_monitor();
            }
            self.container.ports.look_at_clock(Instant::now());
            if self.has_orphans {
                self.bury_orphans();
            }
            self.forget_clients();
            if let Some(failure) = self.failure.take() {
                self.give_up(&failure);
                return 1;
            }
            if let Some(exit) = self.processes[0].exit.clone() {
                self.finish(exit);
                return 0;
            }
        }
    }

    fn wait(&self) -> Vec<Source> {
        let mut sources = vec![Source::Signals, Source::Listener];
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.container.run.listener.as_fd(), PollFlags::IN),
        ];
        let mut add = |source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        };
        let is_crowded = self.clients.iter().map(Client::held).sum::<usize>() > HELD_MAX;
        for (index, client) in self.clients.iter().enumerate() {
            let more = if client.has_output() { PollFlags::OUT } else { PollFlags::empty() };
            add(Source::Client(index), client.stream().as_fd(), PollFlags::IN | more);
        }
        for (index, process) in self.processes.iter().enumerate() {
            if let Some(starting) = &process.starting {
                add(Source::Begin(index), starting.status.as_fd(), PollFlags::IN);
            }
            if process.exit.is_none() {
                add(Source::End(index), process.pidfd.as_fd(), PollFlags::IN);
            }
            let blocked = self.clients.iter().any(|one| {
                one.is_attached_to(index) && (one.is_full() || is_crowded && one.has_output())
            });
            if let (Some(stdout), false) = (&process.streams.stdout, blocked) {
                add(Source::Output(index, Stream::Stdout), stdout.as_fd(), PollFlags::IN);
            }
            if let (Some(stderr), false) = (&process.streams.stderr, blocked) {
                add(Source::Output(index, Stream::Stderr), stderr.as_fd(), PollFlags::IN);
            }
            if let (Some(stdin), false) = (&process.streams.stdin, process.input.is_empty()) {
                add(Source::Input(index), stdin.as_fd(), PollFlags::OUT);
            }
        }
        for fd in self.container.ports.watched() {
            add(Source::Ports, fd, PollFlags::IN);
        }
        let pause = self.container.ports.pause_until;
        let timeout = self.kill_at.into_iter().chain(self.move_at).chain(pause).min();
        let timeout = timeout.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = if self.has_orphans { Some(Duration::ZERO) } else { timeout };
        let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            // Out of memory: nothing better than to try again.
            Err(_) => return Vec::new(),
        }
        let ready = fds.iter().zip(sources).filter(|(fd, _)| !fd.revents().is_empty());
        ready.map(|(_, source)| source).collect()
    }

    fn serve(&mut self, source: Source) {
        match source {
            Source::Signals => self.hear_signals(),
            Source::Listener => self.accept(),
            Source::Client(index) => self.serve_client(index),
            Source::Begin(index) => self.begin_process(index),
            Source::End(index) => self.end_process(index),
            Source::Output(index, stream) => drop(self.relay_output(index, stream)),
            Source::Input(index) => self.relay_input(index),
            Source::Ports => self.container.ports.serve(),
        }
    }

    fn hear_signals(&mut self) {
        for _ in 0..TURN_MAX {
            let Ok(Some(info)) = self.signals.read_signal() else { return };
            match info.ssi_signo as i32 {
                libc::SIGCHLD => self.bury_orphans(),
                // A service manager or the host's shutdown: the container gets its stop signal.
                libc::SIGTERM | libc::SIGINT | libc::SIGQUIT => self.stop(None, None),
                _ => {}
            }
        }
    }

    /// Processes that have become ours because their parents ended (`--pid host`). Our own
    /// children are told apart and left: their pidfds tell of them.
    fn bury_orphans(&mut self) {
        self.has_orphans = false;
        // One that is entering has made a child that is not known yet.
        let is_entering = |one: &Process| one.starting.as_ref().is_some_and(|it| it.enters);
        if self.processes.iter().any(is_entering) {
            return;
        }
        for _ in 0..TURN_MAX {
            let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            let Ok(status) = waitid(Id::All, peek) else { return };
            let Some(pid) = status.pid() else { return };
            if matches!(status, WaitStatus::StillAlive)
                || self.processes.iter().any(|one| one.exit.is_none() && one.pid == pid.as_raw())
            {
                return;
            }
            if waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG).is_err() {
                return;
            }
        }
        // No signal may come for those that are left.
        self.has_orphans = true;
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.container.run.listener.accept() {
            let held: usize = self.clients.iter().map(Client::held).sum();
            if self.clients.len() >= CLIENTS_MAX || held > HELD_MAX {
                return;
            }
            if let Ok(client) = Client::new(self.clients_seen, stream, None) {
                self.clients_seen += 1;
                self.clients.push(client);
            }
        }
    }

    fn serve_client(&mut self, index: usize) {
        self.clients[index].flush();
        for frame in self.clients[index].hear() {
            match client::request(frame) {
                Ok(request) => self.serve_request(index, request),
                Err(Some(bytes)) => self.take_input(index, bytes),
                Err(None) => {}
            }
        }
    }

    fn serve_request(&mut self, index: usize, request: Request) {
        let reply = match request {
            Request::State => Reply::State(Box::new(self.state.clone())),
            Request::Signal(number) => self.signal(0, number),
            Request::SignalAttached(number) => {
                let process = self.clients[index].attached.map_or(0, |(process, _)| process);
                self.signal(process, number)
            }
            Request::Stop { signal, timeout_seconds } => {
                self.clients[index].waits = true;
                self.stop(signal, timeout_seconds);
                return;
            }
            Request::Wait => {
                self.clients[index].waits = true;
                return;
            }
            Request::Attach(attach) => {
                self.clients[index].attached = Some((0, attach));
                if let Some(size) = attach.window {
                    self.processes[0].resize(size);
                }
                Reply::Done
            }
            Request::Exec(request, attach) => {
                let number = self.clients[index].number;
                match self.exec(&request, attach, number) {
                    Ok(process) => {
                        self.clients[index].attached =
                            Some((process, attach)).filter(|_| !request.detached);
                        // The answer comes when it runs or has failed.
                        return;
                    }
                    Err(failure) => Reply::Failed(failure),
                }
            }
            Request::Resize(size) => {
                if let Some((process, _)) = self.clients[index].attached {
                    self.processes[process].resize(size);
                }
                return;
            }
            Request::Detach => {
                self.clients[index].attached = None;
                return;
            }
            Request::StdoutClosed => return self.close_output(index, Stream::Stdout),
            Request::StderrClosed => return self.close_output(index, Stream::Stderr),
            Request::Pause => self.freeze(true),
            Request::Unpause => self.freeze(false),
        };
        self.clients[index].reply(reply);
    }

    fn signal(&self, process: usize, number: i32) -> Reply {
        if number == libc::SIGKILL && self.state.paused {
            // A frozen process of cgroup v1 does not even die.
            let _ = self.cgroup.thaw();
        }
        match self.processes[process].signal(number) {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Refused(format!("cannot send signal {number}: {error}")),
        }
    }

    fn freeze(&mut self, frozen: bool) -> Reply {
        if self.processes[0].starting.is_some() {
            return Reply::Refused(format!("container {:.12} does not run yet", self.state.id));
        }
        if self.state.paused == frozen {
            let is = if frozen { "paused already" } else { "not paused" };
            return Reply::Refused(format!("container {:.12} is {is}", self.state.id));
        }
        let done = if frozen { self.cgroup.freeze() } else { self.cgroup.thaw() };
        if let Err(error) = done {
            if error.kind() == io::ErrorKind::Unsupported {
                return Reply::Refused("it has no cgroup by which it could be held still".into());
            }
            return Reply::Refused(format!("the kernel refuses: {error}"));
        }
        self.state.paused = frozen;
        match self.write_state() {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Refused(format!("cannot note it: {error}")),
        }
    }

    /// Asks the container to end; after a while it is made to. A second request may only shorten
    /// the wait.
    fn stop(&mut self, signal: Option<i32>, timeout_seconds: Option<i64>) {
        let record = &self.container.record;
        let own = record.stop_signal.as_deref().and_then(|name| name.parse::<Signal>().ok());
        let number = signal.unwrap_or_else(|| own.map_or(libc::SIGTERM, Signal::number));
        let own = record.stop_timeout_seconds.map_or(STOP_TIMEOUT_SECONDS, i64::from);
        let timeout = u64::try_from(timeout_seconds.unwrap_or(own)).ok();
        if self.state.paused {
            let _ = self.cgroup.thaw();
        }
        let _ = self.processes[0].signal(number);
        let at = timeout.and_then(|time| Instant::now().checked_add(Duration::from_secs(time)));
        self.kill_at = match (self.kill_at, at) {
            (Some(before), Some(at)) => Some(before.min(at)),
            (before, at) => at.or(before),
        };
    }

    fn kill(&self) {
        let _ = self.cgroup.thaw();
        // With a PID namespace all others go with the first process; without, they are found in
        // the cgroup when it is dissolved.
        let _ = self.processes[0].signal(libc::SIGKILL);
    }

    /// Takes input for the process that the client is attached to. The next piece is not sent
    /// before this one has been taken.
    fn take_input(&mut self, index: usize, bytes: Vec<u8>) {
        let number = self.clients[index].number;
        let Some((at, attach)) = self.clients[index].attached else { return };
        let process = &mut self.processes[at];
        if !attach.stdin || process.exit.is_some() {
            self.clients[index].reply(Reply::StdinTaken);
            return;
        }
        if bytes.is_empty() {
            // The end. A terminal has none: its user types one. That of a container which was made
            // to run on its own is kept for whoever is attached next, as Docker does.
            let is_kept = at == 0 && self.container.record.stdio.detached;
            if !process.streams.is_terminal && process.input.is_empty() && !is_kept {
                process.streams.stdin = None;
            }
            self.clients[index].reply(Reply::StdinTaken);
            return;
        }
        process.input.extend_from_slice(&bytes);
        process.input_of = Some(number);
        self.relay_input(at);
    }

    fn relay_input(&mut self, at: usize) {
        let process = &mut self.processes[at];
        if !process.write_input() {
            return;
        }
        let Some(number) = process.input_of.take() else { return };
        if let Some(client) = self.clients.iter_mut().find(|client| client.number == number) {
            client.reply(Reply::StdinTaken);
        }
    }

    /// Hands one piece of output on, and says how large it was: 0 when there is nothing (more).
    fn relay_output(&mut self, at: usize, stream: Stream) -> usize {
        let slot = self.processes[at].streams.of(stream);
        let Some(fd) = slot.as_ref() else { return 0 };
        let mut chunk = [0; CHUNK];
        let count = match rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut chunk[..])) {
            Ok(count) => count,
            Err(Errno::AGAIN) => return 0,
            // EIO: every process has closed the terminal.
            Err(_) => 0,
        };
        if count == 0 {
            *slot = None;
            return 0;
        }
        let bytes = &chunk[..count];
        if let (0, Some(log)) = (at, &mut self.log) {
            log.take(stream, bytes);
        }
        for client in self.clients.iter_mut().filter(|client| client.is_attached_to(at)) {
            let wants = client.attached.is_some_and(|(_, attach)| wants(attach, stream));
            if wants {
                client.say(&match stream {
                    Stream::Stdout => Frame::Stdout(bytes.to_vec()),
                    Stream::Stderr => Frame::Stderr(bytes.to_vec()),
                });
            }
        }
        count
    }

    /// Hands on what a process that has ended wrote before its end: it is in the pipes. Others may
    /// hold these open and go on writing, so no more is taken than they can have held.
    fn drain(&mut self, at: usize) {
        let is_bounded = !left_out("drain-bounded");
        if is_bounded {
            let attached = self.clients.iter_mut().filter(|client| client.is_attached_to(at));
            attached.for_each(Client::end_soon);
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            let capacity = self.processes[at].streams.capacity(stream).min(LAST_BYTES_MAX);
            let mut left = if is_bounded { capacity } else { usize::MAX };
            while left > 0 {
                match self.relay_output(at, stream) {
                    0 => break,
                    count => left = left.saturating_sub(count),
                }
            }
        }
    }

    /// The process learns that the reader of its output is gone, as in a pipeline of this host
    /// (`rrun IMAGE yes | head`), if the client is the one for whose sake it runs.
    fn close_output(&mut self, index: usize, stream: Stream) {
        let Some((at, attach)) = &mut self.clients[index].attached else { return };
        let streams = &mut self.processes[*at].streams;
        let (wanted, slot) = match stream {
            Stream::Stdout => (&mut attach.stdout, &mut streams.stdout),
            Stream::Stderr => (&mut attach.stderr, &mut streams.stderr),
        };
        *wanted = false;
        if attach.stop_on_hangup && !streams.is_terminal {
            *slot = None;
        }
    }

    /// A child that was starting runs its program now, or could not.
    fn begin_process(&mut self, at: usize) {
        let known: Vec<i32> =
            self.processes.iter().filter(|one| one.exit.is_none()).map(|one| one.pid).collect();
        let process = &mut self.processes[at];
        let begun = process.hear(&known);
        let starting = process.starting.take_if(|_| !matches!(begun, Begun::NotYet));
        // Among them whoever has entered for it, and is known to nobody any more.
        self.bury_orphans();
        let Some(starting) = starting else { return };
        match begun {
            Begun::NotYet => {}
            Begun::Lost => {
                let why = "its first process was killed before the program ran";
                let hint = "its seccomp policy has to allow what a start ends with: capset, \
                            clone, write, setsid, ioctl, prctl, execve";
                self.could_not_begin(at, starting.client, ours(why, Some(hint.to_owned())));
            }
            Begun::Runs if at == 0 => self.begin(),
            Begun::Runs => {
                let reply = Reply::Started { pid: self.processes[at].pid, marks: Vec::new() };
                self.tell(starting.client, reply);
            }
            Begun::Failed(failure) => {
                let record = &self.container.record;
                let Starting { command, user, client, directory, .. } = starting;
                let mut failure = isolate::describe(failure, record, &command, &user, &directory);
                // Of a process in a container that runs Docker says so of everything.
                if at != 0 && failure.exit_code == EXIT_OURS {
                    failure.exit_code = EXIT_CANNOT_EXECUTE;
                }
                self.could_not_begin(at, client, failure);
            }
        }
    }

    fn could_not_begin(&mut self, at: usize, client: u64, failure: Failure) {
        if at == 0 {
            self.failure = Some(failure);
            return;
        }
        for client in self.clients.iter_mut().filter(|one| one.is_attached_to(at)) {
            client.attached = None;
        }
        self.tell(client, Reply::Failed(failure));
    }

    /// The container runs.
    fn begin(&mut self) {
        let pid = self.processes[0].pid;
        // Another one, where it has entered another container's processes.
        let identified = match pid == self.state.init.pid {
            true => Ok(self.state.init.clone()),
            false => identify(pid),
        };
        let noted = identified.and_then(|init| {
            self.state.init = init;
            self.write_state()
        });
        if let Err(error) = noted {
            self.failure =
                Some(ours(format!("cannot note that the container runs: {error}"), None));
            return;
        }
        crate::timings::mark("program runs");
        let reply = Reply::Started { pid: self.processes[0].pid, marks: crate::timings::take() };
        self.tell(FIRST_CLIENT, reply);
    }

    fn write_state(&self) -> io::Result<()> {
        state::write_json(&self.container.run.directory.path().join("state.json"), &self.state)
    }

    fn tell(&mut self, number: u64, reply: Reply) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.number == number) {
            client.reply(reply);
        }
    }

    fn end_process(&mut self, at: usize) {
        // What it said before its end comes first.
        self.begin_process(at);
        let Some(exit) = self.processes[at].ended() else { return };
        self.drain(at);
        let process = &mut self.processes[at];
        process.exit = Some(exit.clone());
        if at == 0 {
            return;
        }
        process.streams.stdin = None;
        process.streams.stdout = None;
        process.streams.stderr = None;
        for client in self.clients.iter_mut().filter(|client| client.is_attached_to(at)) {
            client.attached = None;
            client.end(Reply::Exited(exit.clone()));
        }
    }

    /// Lets go of conversations that are over. One that ended without a word of leave takes what
    /// it was attached to along, if it said so.
    fn forget_clients(&mut self) {
        let mut stops = false;
        let processes = &self.processes;
        self.clients.retain(|client| {
            if !client.is_gone {
                return true;
            }
            if let Some((at, attach)) = client.attached
                && attach.stop_on_hangup
            {
                if at == 0 {
                    stops = true;
                } else {
                    let _ = processes[at].signal(libc::SIGKILL);
                }
            }
            false
        });
        if stops {
            self.stop(None, None);
        }
        for process in self.processes.iter_mut().filter(|process| process.input_of.is_some()) {
            if !self.clients.iter().any(|client| Some(client.number) == process.input_of) {
                process.input_of = None;
            }
        }
    }

    /// The container could not be started: everything is put back before that is told.
    fn give_up(&mut self, failure: &Failure) {
        let Container { dirs, record, run, ports, .. } = &mut self.container;
        let made = Leftovers {
            init: Some(Init::Child(&self.processes[0].pidfd)),
            cgroup: Some(&self.cgroup),
            ports: Some(ports),
            ..Leftovers::of(dirs, &record.id)
        };
        finish::give_up(made, record, failure);
        run.directory.remove();
        let exit = Exit { code: failure.exit_code, signal: None, oom: None };
        for client in &mut self.clients {
            client.end(match client.number {
                FIRST_CLIENT => Reply::Failed(failure.clone()),
                _ => Reply::Exited(exit.clone()),
            });
        }
        self.clients.iter_mut().for_each(Client::flush_all);
    }

    /// Exit code, name and cgroup are settled before anybody is answered; what takes time comes
    /// after.
    fn finish(&mut self, mut exit: Exit) {
        let Container { dirs, record, ports, .. } = &mut self.container;
        let made = Leftovers {
            cgroup: Some(&self.cgroup),
            ports: Some(ports),
            ..Leftovers::of(dirs, &record.id)
        };
        // What stays is met again by the next command.
        let (undone, _) = made.undo();
        exit.oom.clone_from(&undone.oom);
        for at in 1..self.processes.len() {
            self.end_process(at);
        }
        if let Some(log) = &mut self.log {
            log.finish();
        }
        let Container { dirs, record, run, .. } = &mut self.container;
        let ended = finish::ended(exit.clone(), self.state.started.clone());
        finish::conclude(dirs, record, &ended);
        run.directory.remove();
        for client in &mut self.clients {
            let waits = client.waits || client.is_attached_to(0);
            if waits {
                client.end(Reply::Exited(exit.clone()));
            }
        }
        self.clients.iter_mut().for_each(Client::flush_all);
        self.clients.clear();
        if record.remove_on_exit
            && let Ok(store) = Store::open(&dirs.root)
        {
            let _ = store.empty_trash();
        }
        undone.finish_last();
    }
}

fn wants(attach: Attach, stream: Stream) -> bool {
    match stream {
        Stream::Stdout => attach.stdout,
        Stream::Stderr => attach.stderr,
    }
}
