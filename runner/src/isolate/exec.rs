//! A further process in a running container.

use std::os::fd::{AsFd as _, OwnedFd};

use oci_spec::runtime::Process;

use super::failure::at;
use super::files::Root;
use super::{
    Done, NeverBack, OwnIds, Stdio, Step, command, end_with_launcher, give_up, terminal, user,
};
use crate::known_bad::left_out;
use crate::place::Descriptors;
use crate::seccomp::Program;
use crate::sys;

/// Everything the child of an exec needs.
#[derive(Debug)]
pub struct ExecPlan<'a> {
    pub process: &'a Process,
    pub environment_bytes: &'a [Vec<u8>],
    /// As `-u` takes it.
    pub user: &'a str,
    pub groups_added: &'a [String],
    pub seccomp: Option<Program>,
    /// The container's first process: whose namespaces are joined.
    pub init: OwnedFd,
    /// It has a user namespace of its own.
    pub own_ids: Option<OwnIds>,
    pub v1_tasks: Vec<OwnedFd>,
    pub stdio: Stdio,
    pub status: OwnedFd,
}

/// Makes the process. The child's only function.
///
/// This child stays outside of the container's PID namespace, where nobody in the container sees
/// it, until it has nothing of the host left: no directory, no descriptor, no capability that the
/// container does not have (CVE-2016-9962). Only its own child is inside.
pub fn run_exec(mut plan: ExecPlan<'_>) -> ! {
    let _guard = NeverBack;
    match enter(&mut plan) {
        Ok(last) => last.take(plan.status),
        Err(failure) => give_up(&plan.status, failure),
    }
}

fn enter(plan: &mut ExecPlan<'_>) -> Done<command::Last> {
    end_with_launcher()?;
    for (index, tasks) in plan.v1_tasks.iter().enumerate() {
        at(Step::Cgroup, index, rustix::io::write(tasks, b"0"))?;
    }
    plan.v1_tasks.clear();
    command::limits(None, plan.process)?;
    let inside = left_out("entered-last");
    if inside {
        at(Step::EnterProcesses, 1, sys::clone::join(plan.init.as_fd(), libc::CLONE_NEWPID))?;
        command::enter_processes(&plan.status)?;
        end_with_launcher()?;
        at(Step::Session, 0, rustix::process::setsid())?;
    }
    // For the child, which inherits it: it is not to be looked into before it is its program.
    at(Step::Dumpable, 0, sys::process::set_dumpable(left_out("dumpable")))?;
    match sys::process::new_session_keyring() {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {}
        other => at(Step::Keyring, 0, other)?,
    }
    let descriptors = at(Step::JoinNamespace, 2, Descriptors::open())?;
    let user = if plan.own_ids.is_some() { libc::CLONE_NEWUSER } else { 0 };
    // All at once: what of them may be joined is judged by the rights from before.
    let all = user
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP
        // Of this process's children, not its own.
        | libc::CLONE_NEWPID;
    at(Step::JoinNamespace, 0, sys::clone::join(plan.init.as_fd(), all))?;
    if let Some(own) = plan.own_ids {
        super::become_root(own)?;
    }
    let root = Root::new(at(Step::JoinNamespace, 1, terminal::own_root())?, descriptors);
    let standard = terminal::open(&plan.stdio, &root, &plan.status, terminal::Console::Keep)?;
    let user = user::look_up(&root, plan.user, plan.groups_added)?;
    let outcome = command::Outcome {
        process: plan.process,
        environment_bytes: plan.environment_bytes,
        user: &user,
        seccomp: plan.seccomp.take(),
        entered: command::enter_directory(&root, plan.process, command::Missing::Refuse)?,
        is_init: false,
        own_ids: plan.own_ids,
        enters: !inside,
    };
    drop(root);
    command::prepare(outcome, standard)
}
