//! From the clone to the container's program: what the child does to itself, in order.
//!
//! The child is a copy of the launcher's memory in new namespaces. It walks a straight list of
//! steps; each later one relies on the ones before it, and the comments say how. It never returns,
//! never logs, never prints: a step that fails crosses to the launcher as an [`InitFailure`], and
//! the launcher puts it into words.
//!
//! Paths inside the container are resolved by descriptor and confined to its root
//! (CVE-2019-19921, CVE-2021-30465, CVE-2024-45310, CVE-2025-31133); new mounts are made detached
//! and attached to a descriptor, never to a path that could be exchanged meanwhile.

mod cgroupfs;
mod command;
mod devices;
mod exec;
mod failure;
mod files;
mod mounts;
mod paths;
mod populate;
mod reaper;
mod rootfs;
pub mod talk;
mod terminal;
mod user;

use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::Process;

pub use self::cgroupfs::Hierarchy;
pub use self::command::limits;
pub use self::exec::{ExecPlan, run_exec};
pub use self::failure::{InitFailure, Step, describe};
use self::files::Root;
pub use self::mounts::open_sources;
use self::talk::{FromChild, ToChild};
use crate::container::Record;
use crate::known_bad::left_out;
use crate::launch::protocol::WindowSize;
use crate::net::Inside;
use crate::place::Descriptors;
use crate::seccomp::Program;
use crate::sys;

/// Everything the child needs. It holds descriptors that were opened before the clone: afterwards
/// the host's files are out of reach.
#[derive(Debug)]
pub struct Plan<'a> {
    pub record: &'a Record,
    pub root: RootSource,
    /// An empty directory that container root may traverse: where the root is attached.
    pub mount_point: CString,
    /// `tasks` of each cgroup-v1 hierarchy.
    pub v1_tasks: Vec<OwnedFd>,
    pub private_cgroups: bool,
    /// It has a user namespace of its own: the child becomes that one's root.
    pub own_ids: Option<OwnIds>,
    /// The sources of binds, detached, in the order of the Spec's mounts, where the child itself
    /// could not open them.
    pub sources: Vec<Option<OwnedFd>>,
    pub hierarchies: Vec<Hierarchy>,
    /// Namespaces to join instead of making them.
    pub joined: Vec<OwnedFd>,
    /// A PID namespace to enter, and the procfs of those who are in it, a detached mount.
    pub joined_pid: Option<OwnedFd>,
    pub joined_procfs: Option<OwnedFd>,
    /// A network namespace was made: its loopback interface is down.
    pub new_network: bool,
    /// The interfaces of that namespace, which the launcher puts there.
    pub network: Option<Inside>,
    /// The volumes to fill from the image, as indices of their mounts and as what holds their
    /// `_data`.
    pub volumes: Vec<(usize, OwnedFd)>,
    /// `/etc/hosts` and its like.
    pub etc: Vec<EtcFile>,
    /// A `/dev/shm` of another container, a detached mount.
    pub shm: Option<OwnedFd>,
    pub stdio: Stdio,
    pub seccomp: Option<Program>,
    /// To the launcher: failures, the terminal; its end says that the program runs.
    pub status: OwnedFd,
}

/// Where the root file system comes from.
#[derive(Debug)]
pub enum RootSource {
    /// The stacked layers, a detached mount.
    Mount(OwnedFd),
    /// The child stacks them, as the root of its user namespace: an ordinary user cannot.
    Layers(LayerPaths),
}

/// Layers by path: overlayfs takes none that were opened in another mount namespace.
#[derive(Debug)]
pub struct LayerPaths {
    /// The topmost first.
    pub lowers: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
    pub is_volatile: bool,
}

/// A file of ours that lies over one of the image's.
#[derive(Debug)]
pub struct EtcFile {
    pub target: &'static str,
    /// On the host.
    pub path: PathBuf,
    /// A detached mount of it; without, the child opens the path.
    pub tree: Option<OwnedFd>,
}

/// A user namespace of the container's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnIds {
    /// It has one id alone, and the kernel lets it set no groups.
    pub is_single: bool,
}

/// What becomes descriptors 0, 1 and 2.
#[derive(Debug)]
pub enum Stdio {
    /// `stdin` is `/dev/null` of the container without one.
    Pipes { stdin: Option<OwnedFd>, stdout: OwnedFd, stderr: OwnedFd },
    /// Made by the child, in the container's own devpts.
    Terminal(Option<WindowSize>),
}

/// Becomes the container's first process. The child's only function.
pub fn run(mut plan: Plan<'_>) -> ! {
    let _guard = NeverBack;
    match init(&mut plan) {
        Ok(last) => last.take(plan.status),
        Err(failure) => give_up(&plan.status, failure),
    }
}

/// Tells why, and ends this process.
fn give_up(status: &OwnedFd, failure: InitFailure) -> ! {
    // It fails when the launcher has ended: nobody to tell.
    let _ = talk::say(status, FromChild::Failed(failure).to_bytes());
    sys::clone::exit_now(1)
}

/// Ends the child where a panic would carry it back into the launcher's code, of which it is a copy.
struct NeverBack;

impl Drop for NeverBack {
    fn drop(&mut self) {
        sys::clone::exit_now(1)
    }
}

/// Ends this child with the launcher, however long a step may take. The kernel forgets it at a
/// change of credentials (prctl(2)), so it is said again there.
fn end_with_launcher() -> Done {
    failure::at(Step::ParentGone, 0, sys::process::die_with_parent(libc::SIGKILL))
}

/// Becomes the root of the user namespace that this process is in.
fn become_root(own: OwnIds) -> Done {
    let groups: Option<&[u32]> = if own.is_single { None } else { Some(&[]) };
    failure::at(Step::Ids, 1, sys::process::set_ids(0, 0, groups))?;
    // The kernel has forgotten it.
    end_with_launcher()
}

/// Waits for a word of the launcher's.
fn wait_for(plan: &Plan<'_>, word: ToChild, step: Step) -> Done {
    match talk::wait_for(&plan.status, word) {
        Err(rustix::io::Errno::SRCH) => Err(failure::failed(Step::ParentGone, 0, libc::ESRCH)),
        other => failure::at(step, 0, other),
    }
}

/// Waits for the interfaces, as late as can be: settings may name them.
fn set_up_network(plan: &Plan<'_>) -> Done {
    let Some(network) = &plan.network else { return Ok(()) };
    wait_for(plan, ToChild::Network, Step::Network)?;
    failure::at(Step::Network, 0, network.set_up())
}

type Done<T = ()> = Result<T, InitFailure>;

fn init(plan: &mut Plan<'_>) -> Done<command::Last> {
    use Step::{Cgroup, CgroupNamespace, Dumpable, JoinNamespace, Loopback, Propagation, Session};
    let record = plan.record;
    let process = record.spec.process().clone().unwrap_or_default();

    end_with_launcher()?;
    // At once, so that everything this container ever does is under its limits. `0` is the writing
    // thread itself: moving oneself, alone, does not wait for the kernel's global lock.
    for (index, tasks) in plan.v1_tasks.iter().enumerate() {
        failure::at(Cgroup, index, rustix::io::write(tasks, b"0"))?;
    }
    plan.v1_tasks.clear();
    wait_for(plan, ToChild::Go, Step::Ready)?;
    for (index, namespace) in plan.joined.iter().enumerate() {
        failure::at(JoinNamespace, index, sys::clone::join(namespace.as_fd(), 0))?;
    }
    // As the host's user still, and in this mount namespace: a descriptor from before the clone
    // would be of another one's mount.
    let mount_point = rootfs::mount_point(plan)?;
    if let Some(own) = plan.own_ids {
        become_root(own)?;
    }
    // CVE-2016-9962: once inside, nobody there may look into this process before it is theirs.
    failure::at(Dumpable, 0, sys::process::set_dumpable(left_out("dumpable")))?;
    match &plan.joined_pid {
        // Moves this process's children only: the program is one (`command::Last`).
        Some(processes) => {
            let joined = sys::clone::join(processes.as_fd(), libc::CLONE_NEWPID);
            failure::at(JoinNamespace, usize::from(u16::MAX), joined)?;
            if left_out("entered-last") {
                command::enter_processes(&plan.status)?;
            }
        }
        None => drop(failure::at(Session, 0, rustix::process::setsid())?),
    }
    match sys::process::new_session_keyring() {
        // Kernels without keyrings, and engines whose seccomp policy forbids the call: nothing of
        // the caller's can be reached then either.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {}
        other => failure::at(Step::Keyring, 0, other)?,
    }
    // While `/proc` is the host's, which shows this process too.
    let descriptors = failure::at(Step::AttachRoot, 2, Descriptors::open())?;
    // After joining, or the namespace's root would be the caller's cgroup.
    if plan.private_cgroups {
        failure::at(CgroupNamespace, 0, sys::clone::unshare(libc::CLONE_NEWCGROUP))?;
    }
    if plan.new_network {
        match sys::process::loopback_up() {
            // Without CAP_NET_ADMIN it stays down; so does everything else of a network.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && plan.network.is_none() => {}
            other => failure::at(Loopback, 0, other)?,
        }
    }
    let shared = mounts::open_shared(plan)?;
    // Slave and not private: what the host unmounts later goes away here too, instead of being
    // held for the container's whole life.
    failure::at(
        Propagation,
        0,
        rustix::mount::mount_change(
            c"/",
            rustix::mount::MountPropagationFlags::DOWNSTREAM
                | rustix::mount::MountPropagationFlags::REC,
        ),
    )?;
    rustix::process::umask(rustix::fs::Mode::empty());

    let stacked = rootfs::assemble(plan, &mount_point)?;
    let root = Root::new(stacked, descriptors);
    // proc and sysfs must be mounted while the old root is still there (the kernel asks whether a
    // full instance is visible), and everything below is attached by descriptor.
    let proc = mounts::attach_all(plan, &root, shared)?;
    devices::make_all(plan, &root)?;
    let standard = terminal::open(&plan.stdio, &root, &plan.status, terminal::Console::Show)?;
    mounts::attach_etc(plan, &root)?;
    set_up_network(plan)?;
    rootfs::write_sysctls(plan, &proc)?;
    rootfs::set_names(record)?;
    rootfs::pivot(&root)?;
    // After the pivot "/" is the container's root.
    rootfs::seal(plan, &root)?;

    let user = user::look_up(&root, &record.user, &record.groups_added)?;
    let outcome = command::Outcome {
        process: &process,
        environment_bytes: &record.environment_bytes,
        user: &user,
        seccomp: plan.seccomp.take(),
        entered: command::enter_directory(&root, &process, command::Missing::Make)?,
        is_init: record.init,
        own_ids: plan.own_ids,
        enters: plan.joined_pid.is_some() && !left_out("entered-last"),
    };
    drop((root, proc));
    command::prepare(outcome, standard)
}

/// The arguments, environment and capabilities of a process, as the last steps need them.
fn words<'a>(list: impl Iterator<Item = &'a [u8]>) -> Vec<CString> {
    // A NUL cannot come from a command line, an environment or JSON that this program wrote
    // without being refused before; what remains is cut off where the kernel would cut it.
    list.map(|bytes| {
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        CString::new(&bytes[..end]).unwrap_or_default()
    })
    .collect()
}

fn environment(process: &Process) -> &[String] {
    process.env().as_deref().unwrap_or_default()
}
