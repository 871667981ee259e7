//! `exec`: a further process, made by the monitor, because it is to be the parent. How it begins is
//! heard by the monitor's loop.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use super::launcher::{ours, own_ids, streams};
use super::monitor::Monitor;
use super::process::{Process, Starting};
use super::protocol::{Attach, ExecRequest, Failure};
use super::status_pair;
use crate::container::Seccomp;
use crate::isolate::{self, ExecPlan};
use crate::seccomp::{self, Program};
use crate::sys;
use crate::sys::clone::Forked;
use crate::userns::IdMap;

/// Processes of exec in a container's life, running and ended.
const PROCESSES_MAX: usize = 65_536;

impl Monitor {
    /// Makes it for a client and gives its place in the list.
    pub(super) fn exec(
        &mut self,
        request: &ExecRequest,
        attach: Attach,
        client: u64,
    ) -> Result<usize, Failure> {
        let failed = |what: &str, error: io::Error| ours(format!("{what}: {error}"), None);
        if self.state.paused {
            let hint = format!("rrun unpause {:.12}", self.state.id);
            return Err(ours("the container is paused", Some(hint)));
        }
        if self.processes[0].starting.is_some() {
            // Its namespaces are still half the host's.
            return Err(ours(format!("container {:.12} does not run yet", self.state.id), None));
        }
        if self.processes.len() >= PROCESSES_MAX {
            return Err(ours("too many processes were started in this container", None));
        }
        let entry = self.cgroup.entry().map_err(|error| failed("open the cgroup", error))?;
        let terminal = request.process.terminal().unwrap_or(false);
        let ids = IdMap::of(&self.container.record.spec);
        let (stdio, mut streams) =
            streams(terminal, request.stdin_open, attach.window, ids.as_ref())
                .map_err(|error| failed("make pipes", error))?;
        let (status, theirs) = status_pair().map_err(|error| failed("make a socket", error))?;
        let init = self.processes[0].pidfd.try_clone();
        let plan = ExecPlan {
            process: &request.process,
            environment_bytes: &request.environment_bytes,
            user: &request.user,
            groups_added: &request.groups_added,
            seccomp: self.policy(request)?,
            init: init.map_err(|error| failed("copy a descriptor", error))?,
            own_ids: ids.as_ref().map(own_ids),
            v1_tasks: entry.v1_tasks,
            stdio,
            status: theirs,
        };
        let unified = entry.unified.as_ref().map(OwnedFd::as_fd);
        let forked = sys::clone::clone(0, unified);
        let (pid, pidfd) = match forked.map_err(|error| failed("make a process", error))? {
            Forked::Child => {
                drop(status);
                if self.wall.take_down().is_err() {
                    sys::clone::exit_now(1);
                }
                isolate::run_exec(plan)
            }
            Forked::Parent { pid, pidfd } => (pid, pidfd),
        };
        drop(plan);
        if request.detached {
            // Nobody reads it: discarded, as Docker does.
            streams.stdin = None;
        }
        let starting = Starting {
            status,
            client,
            enters: true,
            command: request.process.args().clone().unwrap_or_default(),
            user: request.user.clone(),
            directory: request.process.cwd().clone(),
        };
        let process = Process::new(pid, pidfd, streams, starting);
        // The place of one that has ended, and that nobody asks about any more: a container that
        // is looked after by exec for years must not gather them.
        let over = (1..self.processes.len()).find(|&at| {
            self.processes[at].exit.is_some()
                && !self.clients.iter().any(|one| one.is_attached_to(at))
        });
        match over {
            Some(at) => {
                self.processes[at] = process;
                Ok(at)
            }
            None => {
                self.processes.push(process);
                Ok(self.processes.len() - 1)
            }
        }
    }

    /// The container's own policy; none for a privileged process.
    fn policy(&self, request: &ExecRequest) -> Result<Option<Program>, Failure> {
        let record = &self.container.record;
        if request.privileged && matches!(record.seccomp, Seccomp::Docker | Seccomp::Strict) {
            return Ok(None);
        }
        seccomp::program_of(record).map_err(|error| ours(error.to_string(), None))
    }
}
