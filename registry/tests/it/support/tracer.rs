//! Makes the n-th system call fail that a running server makes on its data directory, whichever
//! thread makes it: by ptrace(2), because strace counts for each thread by itself.
#![allow(unreachable_pub, reason = "what the suites share")]

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// What a call does to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Makes a file or a directory.
    Create,
    Write,
    Sync,
    Rename,
    /// Takes a name away.
    Remove,
}

/// The call that failed.
#[derive(Clone, Debug)]
pub struct Hit {
    pub kind: Kind,
    pub name: &'static str,
    pub path: String,
}

impl Hit {
    /// Whether what is on the disk is unknown after it.
    pub fn loses_writes(&self) -> bool {
        matches!(self.kind, Kind::Write | Kind::Sync | Kind::Rename)
    }
}

#[derive(Default)]
struct Plan {
    armed: Option<(u64, Errno)>,
    /// Removing a name takes no space.
    removals: bool,
    seen: u64,
    hit: Option<Hit>,
}

struct Shared {
    root: PathBuf,
    plan: Mutex<Plan>,
    stop: AtomicBool,
}

impl Shared {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap()
    }
}

/// A tracer of one server. While it is attached nobody may wait for the server's end: a process's
/// threads share what wait(2) reports of a child.
pub struct Tracer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Tracer {
    /// Attaches to all threads of `pid`; counts calls on files below `root`.
    pub fn attach(pid: u32, root: &Path) -> Self {
        let shared = Arc::new(Shared {
            root: root.canonicalize().unwrap(),
            plan: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let (tell, told) = mpsc::channel();
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                let mut tracer = Loop { shared, known: HashSet::new(), failing: HashMap::new() };
                tracer.attach(pid);
                tell.send(()).unwrap();
                tracer.run();
            })
        };
        told.recv().unwrap();
        Self { shared, thread: Some(thread) }
    }

    /// Fails the `nth` call from now on (counted from 1).
    pub fn arm(&self, nth: u64, errno: Errno) {
        let removals = errno != Errno::ENOSPC;
        *self.shared.plan() = Plan { armed: Some((nth, errno)), removals, ..Plan::default() };
    }

    /// Waits until the server makes no more calls: some come after the answer.
    pub fn rest(&self) {
        let mut seen = self.seen();
        loop {
            std::thread::sleep(Duration::from_millis(60));
            if std::mem::replace(&mut seen, self.seen()) == seen {
                return;
            }
        }
    }

    /// Calls since [`Self::arm`].
    pub fn seen(&self) -> u64 {
        self.shared.plan().seen
    }

    /// Fails nothing any more. The call that failed; `None` if there were fewer.
    pub fn disarm(&self) -> Option<Hit> {
        let mut plan = self.shared.plan();
        plan.armed = None;
        plan.hit.take()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

struct Loop {
    shared: Arc<Shared>,
    known: HashSet<Pid>,
    /// Threads in a call that was taken from them, and what it is to return.
    failing: HashMap<Pid, Errno>,
}

impl Loop {
    fn attach(&mut self, pid: u32) {
        let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
        // Until a look at the list finds nobody new: threads start threads.
        loop {
            let before = self.known.len();
            for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
                let name = task.unwrap().file_name();
                let task = Pid::from_raw(name.to_str().unwrap().parse().unwrap());
                if !self.known.contains(&task) && ptrace::seize(task, options).is_ok() {
                    self.known.insert(task);
                    ptrace::interrupt(task).unwrap();
                }
            }
            if self.known.len() == before {
                return;
            }
        }
    }

    fn run(&mut self) {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD | WaitPidFlag::WNOHANG;
        let mut leaving = false;
        loop {
            if !leaving && self.shared.stop.load(Ordering::Acquire) {
                leaving = true;
                for task in &self.known {
                    let _ = ptrace::interrupt(*task);
                }
            }
            let status = match waitpid(Pid::from_raw(-1), Some(flags)) {
                Ok(WaitStatus::StillAlive) => {
                    std::thread::sleep(Duration::from_micros(30));
                    continue;
                }
                Ok(status) => status,
                Err(_) => return,
            };
            let Some(task) = status.pid() else { continue };
            self.known.insert(task);
            let signal = match status {
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                    self.known.remove(&task);
                    continue;
                }
                WaitStatus::Stopped(_, signal) => Some(signal),
                WaitStatus::PtraceSyscall(_) => {
                    self.at_call(task);
                    None
                }
                _ => None,
            };
            // Errors: the thread was killed meanwhile.
            if leaving && !self.failing.contains_key(&task) {
                let _ = ptrace::detach(task, signal);
                self.known.remove(&task);
                if self.known.is_empty() {
                    return;
                }
            } else {
                let _ = ptrace::syscall(task, signal);
            }
        }
    }

    fn at_call(&mut self, task: Pid) {
        let Ok(info) = ptrace::syscall_info(task) else { return };
        let Ok(mut registers) = ptrace::getregs(task) else { return };
        if info.op == libc::PTRACE_SYSCALL_INFO_EXIT {
            if let Some(errno) = self.failing.remove(&task) {
                registers.rax = (-i64::from(errno as i32)).cast_unsigned();
                let _ = ptrace::setregs(task, registers);
            }
            return;
        }
        let mut plan = self.shared.plan();
        let Some((nth, errno)) = plan.armed else { return };
        let Some(hit) = self.of_interest(task, &registers) else { return };
        if hit.kind == Kind::Remove && !plan.removals {
            return;
        }
        plan.seen += 1;
        if plan.seen == nth {
            // No such call: the kernel skips it, and its result is set at its end.
            registers.orig_rax = u64::MAX;
            if ptrace::setregs(task, registers).is_ok() {
                plan.hit = Some(hit);
                drop(plan);
                self.failing.insert(task, errno);
            }
        }
    }

    /// Whether the call is one that changes the data directory.
    fn of_interest(&self, task: Pid, registers: &libc::user_regs_struct) -> Option<Hit> {
        let call = registers.orig_rax.cast_signed();
        let (first, second) = (registers.rdi, registers.rsi);
        let (kind, name, path) = match call {
            libc::SYS_write => (Kind::Write, "write", opened(task, first)?),
            libc::SYS_writev => (Kind::Write, "writev", opened(task, first)?),
            libc::SYS_pwrite64 => (Kind::Write, "pwrite64", opened(task, first)?),
            libc::SYS_pwritev => (Kind::Write, "pwritev", opened(task, first)?),
            libc::SYS_pwritev2 => (Kind::Write, "pwritev2", opened(task, first)?),
            libc::SYS_ftruncate => (Kind::Write, "ftruncate", opened(task, first)?),
            libc::SYS_fallocate => (Kind::Write, "fallocate", opened(task, first)?),
            libc::SYS_fsync => (Kind::Sync, "fsync", opened(task, first)?),
            libc::SYS_fdatasync => (Kind::Sync, "fdatasync", opened(task, first)?),
            libc::SYS_rename => (Kind::Rename, "rename", text(task, first)?),
            libc::SYS_renameat => (Kind::Rename, "renameat", text(task, second)?),
            libc::SYS_renameat2 => (Kind::Rename, "renameat2", text(task, second)?),
            libc::SYS_mkdir => (Kind::Create, "mkdir", text(task, first)?),
            libc::SYS_mkdirat => (Kind::Create, "mkdirat", text(task, second)?),
            libc::SYS_openat if registers.rdx & libc::O_CREAT as u64 != 0 => {
                (Kind::Create, "openat", text(task, second)?)
            }
            libc::SYS_unlink => (Kind::Remove, "unlink", text(task, first)?),
            libc::SYS_rmdir => (Kind::Remove, "rmdir", text(task, first)?),
            libc::SYS_unlinkat => (Kind::Remove, "unlinkat", text(task, second)?),
            _ => return None,
        };
        // SQLite syncs the directory of its log once more than it must, and does not look at the
        // result: the start has synced it already.
        let counts =
            Path::new(&path).starts_with(&self.shared.root) && Path::new(&path) != self.shared.root;
        counts.then_some(Hit { kind, name, path })
    }
}

/// The path of a descriptor.
fn opened(task: Pid, descriptor: u64) -> Option<String> {
    let link = std::fs::read_link(format!("/proc/{task}/fd/{descriptor}")).ok()?;
    link.into_os_string().into_string().ok()
}

/// The text at an address.
fn text(task: Pid, address: u64) -> Option<String> {
    let memory = std::fs::File::open(format!("/proc/{task}/mem")).ok()?;
    let mut bytes = vec![0; 512];
    let read = memory.read_at(&mut bytes, address).ok()?;
    let end = bytes[..read].iter().position(|byte| *byte == 0)?;
    String::from_utf8(bytes[..end].to_vec()).ok()
}
