//! The last steps: limits, directory, user, capabilities, system call policy, program.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use oci_spec::runtime::{Capability, PosixRlimitType, Process};
use rustix::fs::{Mode, Uid};
use rustix::io::Errno;

use super::failure::{InitFailure, at, failed};
use super::files::{self, Kind, Root};
use super::talk::{self, FromChild};
use super::terminal::Standard;
use super::user::User;
use super::{Done, OwnIds, Step, environment, give_up, reaper, words};
use crate::known_bad::left_out;
use crate::seccomp::Program;
use crate::spec::capability_mask;
use crate::sys;

/// What the last steps need.
pub(super) struct Outcome<'a> {
    pub(super) process: &'a Process,
    /// Variables that are no UTF-8.
    pub(super) environment_bytes: &'a [Vec<u8>],
    pub(super) user: &'a User,
    pub(super) seccomp: Option<Program>,
    pub(super) entered: Entered,
    /// A reaper of ours is process 1, the program its child.
    pub(super) is_init: bool,
    pub(super) own_ids: Option<OwnIds>,
    /// The program is a child in another PID namespace.
    pub(super) enters: bool,
}

/// Proof that the working directory has been entered.
pub(super) struct Entered(());

/// Resources that have limits. Source: `asm-generic/resource.h`, `RLIM_NLIMITS`.
const RESOURCES: u32 = 16;

/// `--ulimit` and `--oom-score-adj` for a child, or for this process, while the privileges to raise
/// them are there and `/proc` is the host's; every other limit as it usually is, whatever the caller
/// has.
///
/// # Errors
/// The step that failed.
pub fn limits(child: Option<i32>, process: &Process) -> Done {
    let pid = child.unwrap_or(0);
    let asked: Vec<u32> =
        process.rlimits().iter().flatten().map(|limit| resource(limit.typ())).collect();
    let unasked = (0..RESOURCES).filter(|number| !asked.contains(number));
    for number in unasked.filter(|_| !left_out("limits-of-its-own")) {
        let usual = sys::surroundings::usual_limit(number);
        let set = sys::surroundings::set_limit_as_far_as_possible(pid, number, usual);
        at(Step::Limit, usize::from(u16::MAX), set)?;
    }
    for (item, limit) in process.rlimits().as_deref().unwrap_or_default().iter().enumerate() {
        let number = resource(limit.typ());
        at(Step::Limit, item, sys::process::set_limit(pid, number, limit.soft(), limit.hard()))?;
    }
    if let Some(score) = process.oom_score_adj() {
        let whose = child.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        let written = std::fs::write(format!("/proc/{whose}/oom_score_adj"), score.to_string());
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
pub(super) fn enter_directory(root: &Root, process: &Process, missing: Missing) -> Done<Entered> {
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

/// What is left to do when nothing of the host is needed any more. It makes few calls, since the
/// container's policy has to allow each of them: capset, clone and write; setsid, ioctl, prctl and
/// execve.
pub(super) struct Last {
    arguments: Vec<CString>,
    variables: Vec<CString>,
    candidates: Candidates,
    seccomp: Option<Program>,
    no_new_privileges: bool,
    capabilities: Sets,
    is_init: bool,
    enters: bool,
    is_terminal: bool,
}

/// Does everything but the last calls: streams, user, limits of its capabilities, and what is to
/// be executed.
pub(super) fn prepare(outcome: Outcome<'_>, standard: Standard) -> Done<Last> {
    let Outcome { process, environment_bytes, user, seccomp, entered, is_init, own_ids, enters } =
        outcome;
    let Entered(()) = entered;
    let is_terminal = standard.is_terminal;
    connect(standard, user)?;
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    let mut capabilities = Sets::of(process);
    if seccomp.is_some() && !no_new_privileges {
        // Without no_new_privs the kernel asks for it when the policy is loaded.
        capabilities.kept = capability_mask(&[Capability::SysAdmin].into());
    }
    become_user(user, &capabilities, own_ids.is_some_and(|own| own.is_single))?;
    // A directory outside the root has no path in here.
    let directory = at(Step::WorkingDirectory, 0, rustix::process::getcwd(Vec::new()))?;
    if !directory.as_bytes().starts_with(b"/") && !left_out("directory-checked") {
        return Err(failed(Step::WorkingDirectory, 0, libc::ENOENT));
    }
    let arguments = words(process.args().iter().flatten().map(String::as_bytes));
    let mut variables = words(environment(process).iter().map(String::as_bytes));
    variables.extend(words(environment_bytes.iter().map(Vec::as_slice)));
    // An empty one is none, as with Docker.
    variables.retain(|text| text.as_bytes() != b"HOME=");
    if !variables.iter().any(|text| text.as_bytes().starts_with(b"HOME=")) {
        variables.extend(CString::new(format!("HOME={}", user.home)));
    }
    // As the user, whose rights decide what is found.
    let candidates = Candidates::find(&arguments, &variables);
    // Docker's. 0022 is what every image expects.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    sys::process::reset_signals();
    if no_new_privileges {
        at(Step::NoNewPrivileges, 0, sys::process::no_new_privileges())?;
    }
    Ok(Last {
        arguments,
        variables,
        candidates,
        seccomp,
        no_new_privileges,
        capabilities,
        is_init,
        enters,
        is_terminal,
    })
}

impl Last {
    /// Becomes the program, or has a child that does.
    pub(super) fn take(self, status: OwnedFd) -> ! {
        let status = match left_out("descriptors-closed") {
            true => status,
            // All of them now, and not with execve(2): the child is seen before it gets there.
            false => match sys::process::keep_alone(status) {
                Ok(status) => status,
                Err(_) => sys::clone::exit_now(1),
            },
        };
        let failure = match self.go(&status) {
            Ok(failure) | Err(failure) => failure,
        };
        give_up(&status, failure)
    }

    fn go(&self, status: &OwnedFd) -> Done<InitFailure> {
        self.confine()?;
        if self.enters {
            enter_processes(status)?;
            at(Step::Session, 0, rustix::process::setsid())?;
        }
        if self.is_terminal {
            at(Step::Terminal, 1, sys::process::take_terminal(rustix::stdio::stdin()))?;
        }
        // The kernel forgets it at a fork and at a change of user. prctl(2).
        at(Step::ParentGone, 0, sys::process::die_with_parent(libc::SIGKILL))?;
        // It may have ended before: then nobody hears this.
        at(Step::ParentGone, 0, talk::say(status, FromChild::Last.to_bytes()))?;
        if self.is_init {
            at(Step::Reaper, 0, reaper::stay_as_parent(&self.arguments))?;
            sys::process::reset_signals();
        }
        Ok(self.candidates.execute(&self.arguments, &self.variables))
    }

    /// Policy and capabilities, in the order that the kernel asks for.
    fn confine(&self) -> Done {
        let sets = &self.capabilities;
        if self.no_new_privileges {
            sets.set(sets.effective, sets.permitted)?;
            return load(self.seccomp.as_ref());
        }
        sets.set(sets.kept, sets.permitted | sets.kept)?;
        load(self.seccomp.as_ref())?;
        sets.set(sets.effective, sets.permitted)
    }
}

/// Goes on as a child of this process's parent in the PID namespace that was joined; this process
/// says who that is, and ends.
pub(super) fn enter_processes(status: &OwnedFd) -> Done {
    match at(Step::EnterProcesses, 0, sys::clone::fork_for_parent())? {
        None => Ok(()),
        Some(child) => {
            let _ = talk::say(status, FromChild::Entered(child).to_bytes());
            sys::clone::exit_now(0)
        }
    }
}

fn load(seccomp: Option<&Program>) -> Done {
    match seccomp {
        Some(program) => at(Step::Seccomp, 0, sys::seccomp::load(program)),
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
    Ok(())
}

fn is_pipe(fd: &OwnedFd) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo
    })
}

/// The capabilities of a process, as masks.
struct Sets {
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    /// Held until the policy is loaded.
    kept: u64,
}

impl Sets {
    /// Inheritable and ambient are empty unless asked for (CVE-2022-29162).
    fn of(process: &Process) -> Self {
        let sets = process.capabilities().as_ref();
        let mask = |set: Option<&oci_spec::runtime::Capabilities>| set.map_or(0, capability_mask);
        let permitted = mask(sets.and_then(|sets| sets.permitted().as_ref()));
        Self {
            bounding: mask(sets.and_then(|sets| sets.bounding().as_ref())),
            effective: mask(sets.and_then(|sets| sets.effective().as_ref())),
            permitted,
            inheritable: match left_out("inheritable-empty") {
                true => permitted,
                false => mask(sets.and_then(|sets| sets.inheritable().as_ref())),
            },
            kept: 0,
        }
    }

    fn set(&self, effective: u64, permitted: u64) -> Done {
        let set = sys::process::set_capabilities(effective, permitted, self.inheritable);
        at(Step::Capabilities, 3, set)
    }
}

/// Bounding set, ids, then the other sets; stray groups of the caller go away.
fn become_user(user: &User, sets: &Sets, keeps_groups: bool) -> Done {
    at(Step::Capabilities, 0, sys::process::bound_capabilities(sets.bounding))?;
    at(Step::Capabilities, 1, sys::process::keep_capabilities(true))?;
    at(
        Step::Ids,
        0,
        sys::process::set_ids(user.uid, user.gid, (!keeps_groups).then_some(&user.groups[..])),
    )?;
    at(Step::Capabilities, 2, sys::process::keep_capabilities(false))?;
    at(Step::Capabilities, 4, sys::process::clear_ambient_capabilities())?;
    // What is looked up from here on is looked up with the user's rights.
    sets.set(sets.effective, sets.permitted | sets.kept)
}

/// What the command may be, in the order in which it is tried.
enum Candidates {
    /// A path, and whether something is there.
    Path(CString, bool),
    Found(Vec<CString>),
}

impl Candidates {
    /// Looks the command up as a shell would.
    fn find(arguments: &[CString], variables: &[CString]) -> Self {
        let Some(name) = arguments.first() else { return Self::Found(Vec::new()) };
        if name.as_bytes().contains(&b'/') {
            return Self::Path(name.clone(), rustix::fs::stat(name.as_c_str()).is_ok());
        }
        let path = variables.iter().find_map(|text| text.as_bytes().strip_prefix(b"PATH="));
        let directories = path.unwrap_or_default().split(|&byte| byte == b':');
        let candidates = directories.filter_map(|directory| {
            let directory: &[u8] = if directory.is_empty() { b"." } else { directory };
            CString::new([directory, b"/", name.as_bytes()].concat()).ok()
        });
        let is_file = |candidate: &CString| {
            rustix::fs::stat(candidate.as_c_str()).is_ok_and(|stat| {
                rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory
            })
        };
        Self::Found(candidates.filter(is_file).collect())
    }

    /// Executes the first that can be. One that cannot does not end the search, but is what is told
    /// if nothing better comes.
    fn execute(&self, arguments: &[CString], variables: &[CString]) -> InitFailure {
        let errno = |error: std::io::Error| error.raw_os_error().unwrap_or(libc::EIO);
        match self {
            Self::Path(path, is_there) => {
                let errno = errno(sys::process::execute(path, arguments, variables));
                // A path that is not there is "not found"; one that is there and says ENOENT lacks
                // its loader.
                let missing = matches!(errno, libc::ENOENT | libc::ENOTDIR) && !is_there;
                failed(if missing { Step::NotFound } else { Step::Execute }, 0, errno)
            }
            Self::Found(candidates) => {
                let mut best = failed(Step::NotFound, 0, libc::ENOENT);
                for candidate in candidates {
                    let errno = errno(sys::process::execute(candidate, arguments, variables));
                    best = failed(Step::Execute, 0, errno);
                    if errno != libc::EACCES {
                        break;
                    }
                }
                best
            }
        }
    }
}
