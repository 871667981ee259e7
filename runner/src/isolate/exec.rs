//! A further process in a running container.

use std::os::fd::{AsFd as _, OwnedFd};

use oci_spec::runtime::Process;

use super::failure::{Message, at};
use super::{
    Done, Never, NeverBack, Stdio, Step, command, end_with_launcher, report, terminal, user,
};
use crate::known_bad::left_out;
use crate::seccomp::Program;
use crate::sys;

/// Everything the child of an exec needs.
#[derive(Debug)]
pub struct ExecPlan<'a> {
    pub process: &'a Process,
    /// As `-u` takes it.
    pub user: &'a str,
    pub groups_added: &'a [String],
    pub seccomp: Option<Program>,
    /// The container's first process: whose namespaces are joined.
    pub init: OwnedFd,
    pub v1_tasks: Vec<OwnedFd>,
    pub stdio: Stdio,
    pub status: OwnedFd,
}

/// Becomes the process. The child's only function; it is in the container's PID namespace
/// already, since only children can be.
pub fn run_exec(mut plan: ExecPlan<'_>) -> ! {
    let _guard = NeverBack;
    let failure = match enter(&mut plan) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    report(&plan.status, &Message::Failed(failure));
    sys::clone::exit_now(1)
}

fn enter(plan: &mut ExecPlan<'_>) -> Done<Never> {
    end_with_launcher()?;
    for (index, tasks) in plan.v1_tasks.iter().enumerate() {
        at(Step::Cgroup, index, rustix::io::write(tasks, b"0"))?;
    }
    plan.v1_tasks.clear();
    command::limits(plan.process)?;
    // Before joining: from then on the container's processes see this one (CVE-2016-9962).
    at(Step::Dumpable, 0, sys::process::set_dumpable(left_out("dumpable")))?;
    at(Step::Session, 0, rustix::process::setsid())?;
    match sys::process::new_session_keyring() {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {}
        other => at(Step::Keyring, 0, other)?,
    }
    let all = libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    at(Step::JoinNamespace, 0, sys::clone::join(plan.init.as_fd(), all))?;
    let root = at(Step::JoinNamespace, 1, terminal::own_root())?;
    let standard = terminal::open(&plan.stdio, &root, &plan.status, terminal::Console::Keep)?;
    let user = user::look_up(&root, plan.user, plan.groups_added)?;
    let outcome = command::Outcome {
        process: plan.process,
        user: &user,
        seccomp: plan.seccomp.as_ref(),
        entered: command::enter_directory(&root, plan.process, command::Missing::Refuse)?,
        is_init: false,
    };
    drop(root);
    command::become_program(outcome, standard, &plan.status)
}
