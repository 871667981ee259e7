//! `rrun` as a person starts it, with a store of its own, and the question what it left behind.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// The variable that marks every process that descends from one [`Rrun`]'s commands.
const MARK: &str = "CONFORMANCE_RRUN_MARK";

/// What a container that has ended may take to be cleaned up behind the answer's back.
const CLEANUP: Duration = Duration::from_secs(5);

/// One `rrun` with its own `--root` and `--runroot`.
#[derive(Debug)]
pub struct Rrun {
    binary: PathBuf,
    directory: tempfile::TempDir,
    mark: String,
    cgroups_before: BTreeSet<PathBuf>,
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The exit status; 128+n after signal n.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
}

impl Outcome {
    /// Names what was expected and shows both streams.
    ///
    /// # Errors
    /// If the command ended with another exit status.
    pub fn expect_code(self, code: i32) -> Result<Self> {
        ensure!(
            self.code == code,
            "exit status {} instead of {code}\nstdout: {}\nstderr: {}",
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }
}

impl Rrun {
    /// An empty store in a new temporary directory.
    ///
    /// # Errors
    /// If the binary is not there or the directory cannot be made.
    pub fn new(binary: PathBuf) -> Result<Self> {
        Self::under(binary, &std::env::temp_dir())
    }

    /// An empty store in a new directory below `parent`.
    ///
    /// # Errors
    /// If the binary is not there or the directory cannot be made.
    pub fn under(binary: PathBuf, parent: &Path) -> Result<Self> {
        ensure!(binary.is_file(), "{} is not there: build it first (make build)", binary.display());
        let directory = tempfile::Builder::new()
            .prefix("rrun-")
            .tempdir_in(parent)
            .with_context(|| format!("making a store under {}", parent.display()))?;
        let mark = directory.path().to_string_lossy().into_owned();
        Ok(Self { binary, directory, mark, cgroups_before: container_cgroups() })
    }

    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// `--root`
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// `--runroot`
    #[must_use]
    pub fn runroot(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// A command on this store, not started yet.
    pub fn command<I, S>(&self, arguments: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = Command::new(&self.binary);
        self.prepare(&mut command);
        command.args(arguments);
        command
    }

    /// Points a command, which is `rrun` or starts it, at this store.
    pub fn prepare(&self, command: &mut Command) {
        command
            .env("RRUN_ROOT", self.root())
            .env("RRUN_RUNROOT", self.runroot())
            .env("NO_COLOR", "1")
            // Nothing of the machine's own network is changed; what is about networks says so.
            .env("RRUN_NETWORK", "none")
            .env(MARK, &self.mark)
            .stdin(Stdio::null());
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// If it cannot be started, or runs for more than two minutes.
    pub fn run<I, S>(&self, arguments: I) -> Result<Outcome>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        finish(self.command(arguments), Duration::from_secs(120))
    }

    /// Runs a command that must succeed; its standard output.
    ///
    /// # Errors
    /// If it does not end with exit status 0.
    pub fn out<I, S>(&self, arguments: I) -> Result<String>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        Ok(self.run(arguments)?.expect_code(0)?.stdout)
    }

    /// Waits until nothing of the containers that were started here is left: no process, mount,
    /// cgroup, run directory, record or staging directory. Images stay.
    ///
    /// # Errors
    /// If something is still there after five seconds; the error lists it.
    pub fn expect_nothing_left(&self) -> Result<()> {
        let deadline = Instant::now() + CLEANUP;
        loop {
            let left = self.left_behind();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("left behind after {CLEANUP:?}:\n  {}", left.join("\n  "));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What there is of containers now, one line each.
    #[must_use]
    pub fn left_behind(&self) -> Vec<String> {
        let mut left = Vec::new();
        left.extend(
            self.processes().into_iter().map(|(pid, what)| format!("process {pid}: {what}")),
        );
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        left.extend(
            mounts.lines().filter(|l| l.contains(&self.mark)).map(|l| format!("mount: {l}")),
        );
        for cgroup in container_cgroups().difference(&self.cgroups_before) {
            // A populated one that is ours shows as a process as well; the others are a neighbour's.
            if members(cgroup).is_empty() {
                left.push(format!("cgroup: {}", cgroup.display()));
            }
        }
        for directory in ["containers", "names", "work"] {
            left.extend(
                entries(&self.root().join(directory)).map(|p| format!("entry: {}", p.display())),
            );
        }
        left.extend(entries(&self.runroot().join("c")).map(|p| format!("entry: {}", p.display())));
        left
    }

    /// Processes that descend from this store's commands or live on its directories.
    fn processes(&self) -> Vec<(u32, String)> {
        let this = std::process::id();
        let mark = format!("{MARK}={}", self.mark);
        let pids = entries(Path::new("/proc"))
            .filter_map(|p| p.file_name()?.to_str()?.parse::<u32>().ok())
            .filter(|pid| *pid != this);
        let ours = |pid: &u32| {
            let process = PathBuf::from(format!("/proc/{pid}"));
            let marked = fs::read(process.join("environ"))
                .is_ok_and(|e| e.split(|b| *b == 0).any(|variable| variable == mark.as_bytes()));
            let mounted = || {
                fs::read_to_string(process.join("mountinfo")).is_ok_and(|m| m.contains(&self.mark))
            };
            (marked || mounted()) && !is_zombie(&process)
        };
        pids.filter(ours).map(|pid| (pid, command_line(pid))).collect()
    }

    /// The cgroup directory of the controller whose container's short id is given.
    ///
    /// # Errors
    /// If there is none.
    pub fn cgroup_of(&self, controller: &str, short_id: &str) -> Result<PathBuf> {
        let wanted = |p: &PathBuf| {
            let v1 = Path::new("/sys/fs/cgroup").join(controller);
            let here = if v1.is_dir() { p.starts_with(&v1) } else { true };
            here && p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(short_id))
        };
        container_cgroups()
            .into_iter()
            .find(wanted)
            .with_context(|| format!("no {controller} cgroup of container {short_id}"))
    }

    /// The store's directory, with images in it, stays usable under another `Rrun`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Rrun {
    /// Kills what is left, so that the temporary directory can go.
    fn drop(&mut self) {
        for (pid, _) in self.processes() {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for target in mounts.lines().rev().filter_map(|l| l.split(' ').nth(4)) {
            if target.contains(&self.mark) {
                let _ = Command::new("umount").args(["--lazy", target]).status();
            }
        }
    }
}

/// Runs a command to its end; both streams are collected.
///
/// # Errors
/// If it cannot be started, or runs for longer than `patience`; it is killed then.
pub fn finish(mut command: Command, patience: Duration) -> Result<Outcome> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = Instant::now();
    let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    let (output, elapsed) = wait_with_output(child, started, patience)
        .with_context(|| format!("running {command:?}"))?;
    Ok(outcome(&output, elapsed))
}

/// Waits for a child whose streams are pipes.
///
/// # Errors
/// If it runs for longer than `patience`; it is killed then.
pub fn wait_for(child: Child, patience: Duration) -> Result<Outcome> {
    let (output, elapsed) = wait_with_output(child, Instant::now(), patience)?;
    Ok(outcome(&output, elapsed))
}

fn wait_with_output(
    child: Child,
    started: Instant,
    patience: Duration,
) -> Result<(Output, Duration)> {
    let pid = child.id();
    let (sender, receiver) = std::sync::mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let output = child.wait_with_output();
        let _ = sender.send(started.elapsed());
        output
    });
    let elapsed = match receiver.recv_timeout(patience) {
        Ok(elapsed) => elapsed,
        Err(_) => {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
            bail!("still running after {patience:?}; killed");
        }
    };
    let output = waiter.join().map_err(|_| anyhow::anyhow!("the waiting thread panicked"))??;
    Ok((output, elapsed))
}

fn outcome(output: &Output, elapsed: Duration) -> Outcome {
    use std::os::unix::process::ExitStatusExt as _;
    let status = output.status;
    Outcome {
        code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        elapsed,
    }
}

/// Every cgroup directory of a container of ours, in every hierarchy.
#[must_use]
pub fn container_cgroups() -> BTreeSet<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = std::iter::once(top.to_owned()).chain(entries(top).filter(|p| p.is_dir()));
    let mut found = BTreeSet::new();
    for hierarchy in hierarchies {
        collect_directories(&hierarchy.join("roadstead"), &mut found);
    }
    // Where monitors live in cgroup v2, for all containers: it stays, as `/roadstead` itself does.
    found.retain(|path| path.file_name().is_none_or(|name| name != "monitors"));
    found
}

fn collect_directories(below: &Path, found: &mut BTreeSet<PathBuf>) {
    for path in entries(below).filter(|p| p.is_dir()) {
        collect_directories(&path, found);
        found.insert(path);
    }
}

fn members(cgroup: &Path) -> Vec<u32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|l| l.parse().ok()).collect()
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|e| e.path())
}

fn is_zombie(process: &Path) -> bool {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}
