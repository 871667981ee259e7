//! The last steps: limits, directory, user, capabilities, system call policy, program.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use oci_spec::runtime::{PosixRlimitType, Process};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, Uid};
use rustix::io::Errno;

use super::failure::{at, failed};
use super::files::{self, Kind};
use super::terminal::Standard;
use super::user::User;
use super::{Done, Never, Step, environment, reaper, words};
use crate::known_bad::left_out;
use crate::seccomp::Program;
use crate::spec::capability_mask;
use crate::sys;

/// What the last steps need.
pub(super) struct Outcome<'a> {
    pub(super) process: &'a Process,
    pub(super) user: &'a User,
    pub(super) seccomp: Option<&'a Program>,
    pub(super) entered: Entered,
    /// A reaper of ours is process 1, the program its child.
    pub(super) is_init: bool,
}

/// Proof that the working directory has been entered.
pub(super) struct Entered(());

/// `--ulimit` and `--oom-score-adj`, while the privileges to raise them are there and `/proc` is
/// the host's.
pub(super) fn limits(process: &Process) -> Done {
    for (item, limit) in process.rlimits().as_deref().unwrap_or_default().iter().enumerate() {
        let number = resource(limit.typ());
        at(Step::Limit, item, sys::process::set_limit(number, limit.soft(), limit.hard()))?;
    }
    if let Some(score) = process.oom_score_adj() {
        let written = std::fs::write("/proc/self/oom_score_adj", score.to_string());
        at(Step::OomScore, 0, written)?;
    }
    Ok(())
}

/// Source: `asm-generic/resource.h`.
fn resource(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    }
}

/// What happens when the working directory is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    Make,
    Refuse,
}

/// Enters the working directory. Resolved inside the root and without `/proc/*/fd` links: by one of
/// those a directory of the host could be reached (CVE-2024-21626).
pub(super) fn enter_directory(
    root: &OwnedFd,
    process: &Process,
    missing: Missing,
) -> Done<Entered> {
    let step = Step::WorkingDirectory;
    let path = process.cwd();
    if left_out("directory-checked") {
        at(step, 0, rustix::process::chdir(path))?;
        return Ok(Entered(()));
    }
    let place = match files::locate(root, path) {
        Err(Errno::NOENT) if missing == Missing::Make => {
            // Root's, whoever the user is: so does Docker.
            at(step, 0, files::locate_or_make(root, path, Kind::Directory))?
        }
        other => at(step, 0, other)?,
    };
    at(step, 0, rustix::process::fchdir(&place))?;
    Ok(Entered(()))
}

/// Becomes the program. Returns only when a step fails.
pub(super) fn become_program(
    outcome: Outcome<'_>,
    standard: Standard,
    status: &OwnedFd,
) -> Done<Never> {
    let Outcome { process, user, seccomp, entered: Entered(()), is_init } = outcome;
    connect(standard, user)?;
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    if !no_new_privileges {
        // While CAP_SYS_ADMIN is there: without no_new_privs the kernel asks for it.
        load(seccomp)?;
    }
    become_user(process, user)?;
    // After the last change of credentials: the kernel clears it there. prctl(2).
    at(Step::ParentGone, 0, sys::process::die_with_parent(libc::SIGKILL))?;
    if has_hung_up(status) {
        return Err(failed(Step::ParentGone, 0, libc::ESRCH));
    }
    // A directory outside the root has no path in here.
    let directory = at(Step::WorkingDirectory, 0, rustix::process::getcwd(Vec::new()))?;
    if !directory.as_bytes().starts_with(b"/") && !left_out("directory-checked") {
        return Err(failed(Step::WorkingDirectory, 0, libc::ENOENT));
    }
    if no_new_privileges {
        at(Step::NoNewPrivileges, 0, sys::process::no_new_privileges())?;
        load(seccomp)?;
    }
    if !left_out("descriptors-closed") {
        at(Step::Execute, 0, sys::process::close_from_on_exec(3))?;
    }
    let arguments = words(process.args().as_deref().unwrap_or_default());
    let mut variables = words(environment(process));
    if !variables.iter().any(|text| text.as_bytes().starts_with(b"HOME=")) {
        variables.extend(CString::new(format!("HOME={}", user.home)));
    }
    if is_init {
        at(Step::Reaper, 0, reaper::stay_as_parent(&arguments))?;
    }
    // Docker's. 0022 is what every image expects.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    sys::process::reset_signals();
    Err(execute(&arguments, &variables))
}

fn load(seccomp: Option<&Program>) -> Done {
    match seccomp {
        Some(program) => at(Step::Seccomp, 0, sys::process::load_seccomp(program)),
        None => Ok(()),
    }
}

/// Descriptors 0, 1, 2. They are the user's: a server that is not root opens `/dev/stdout` anew.
fn connect(standard: Standard, user: &User) -> Done {
    let step = Step::StandardStreams;
    for (number, stream) in (0..).zip(&standard.streams) {
        if user.uid != 0 && (standard.is_terminal || number > 0 || is_pipe(stream)) {
            // Only its mode and owner: a pipe of ours, or the container's own terminal.
            let owner = Some(Uid::from_raw(user.uid));
            match rustix::fs::fchown(stream, owner, None) {
                Ok(()) | Err(Errno::PERM | Errno::INVAL | Errno::ROFS) => {}
                Err(error) => return Err(failed(step, number, error.raw_os_error())),
            }
        }
    }
    let [stdin, stdout, stderr] = &standard.streams;
    at(step, 0, rustix::stdio::dup2_stdin(stdin))?;
    at(step, 1, rustix::stdio::dup2_stdout(stdout))?;
    at(step, 2, rustix::stdio::dup2_stderr(stderr))?;
    if standard.is_terminal {
        at(Step::Terminal, 1, sys::process::take_terminal(rustix::stdio::stdin()))?;
    }
    Ok(())
}

fn is_pipe(fd: &OwnedFd) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo
    })
}

/// Bounding set, ids, then the other sets. Inheritable and ambient are empty unless asked for
/// (CVE-2022-29162); stray groups of the caller go away.
fn become_user(process: &Process, user: &User) -> Done {
    let sets = process.capabilities().as_ref();
    let mask = |set: Option<&oci_spec::runtime::Capabilities>| set.map_or(0, capability_mask);
    let bounding = mask(sets.and_then(|sets| sets.bounding().as_ref()));
    let effective = mask(sets.and_then(|sets| sets.effective().as_ref()));
    let permitted = mask(sets.and_then(|sets| sets.permitted().as_ref()));
    let inheritable = match left_out("inheritable-empty") {
        true => permitted,
        false => mask(sets.and_then(|sets| sets.inheritable().as_ref())),
    };
    at(Step::Capabilities, 0, sys::process::bound_capabilities(bounding))?;
    at(Step::Capabilities, 1, sys::process::keep_capabilities(true))?;
    at(Step::Ids, 0, sys::process::set_ids(user.uid, user.gid, &user.groups))?;
    at(Step::Capabilities, 2, sys::process::keep_capabilities(false))?;
    at(Step::Capabilities, 3, sys::process::set_capabilities(effective, permitted, inheritable))
}

fn has_hung_up(status: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(status, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(count) if count > 0)
        && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

/// Looks the command up as a shell would and executes it. A candidate that cannot be executed
/// does not end the search, but is what is told if nothing better comes.
fn execute(arguments: &[CString], variables: &[CString]) -> super::InitFailure {
    let Some(name) = arguments.first() else { return failed(Step::NotFound, 0, libc::ENOENT) };
    if name.as_bytes().contains(&b'/') {
        let error = sys::process::execute(name, arguments, variables);
        return told(name, error.raw_os_error().unwrap_or(libc::EIO));
    }
    let path = variables.iter().find_map(|text| text.as_bytes().strip_prefix(b"PATH="));
    let mut best = failed(Step::NotFound, 0, libc::ENOENT);
    for directory in path.unwrap_or_default().split(|&byte| byte == b':') {
        let directory: &[u8] = if directory.is_empty() { b"." } else { directory };
        let Ok(candidate) = CString::new([directory, b"/", name.as_bytes()].concat()) else {
            continue;
        };
        let Ok(stat) = rustix::fs::stat(candidate.as_c_str()) else { continue };
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory {
            continue;
        }
        let error = sys::process::execute(&candidate, arguments, variables);
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        best = failed(Step::Execute, 0, errno);
        if errno != libc::EACCES {
            break;
        }
    }
    best
}

/// A path that is not there is "not found"; one that is there and says ENOENT lacks its loader.
fn told(name: &CString, errno: i32) -> super::InitFailure {
    let missing =
        matches!(errno, libc::ENOENT | libc::ENOTDIR) && rustix::fs::stat(name.as_c_str()).is_err();
    failed(if missing { Step::NotFound } else { Step::Execute }, 0, errno)
}
