//! Child processes: commands that must end in time, and servers that are killed when dropped.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::janitor::{self, Chore, Scratch};
use crate::wait;

/// What a command that ended said.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end, which must come within `limit`; its exit code is the caller's to
/// judge.
///
/// # Errors
/// When it cannot be started or does not end in time (it is killed then).
pub fn run_for(limit: Duration, command: &mut Command) -> anyhow::Result<Output> {
    let scratch = Scratch::new("run")?;
    // Files, not pipes: a daemon that a command leaves behind would hold a pipe open for ever.
    let stdout = File::create_new(scratch.join("stdout"))?;
    let stderr = File::create_new(scratch.join("stderr"))?;
    let line = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .with_context(|| format!("start {line}"))?;
    let status = wait::until(&line, limit, || Ok(child.try_wait()?));
    if status.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let text = |name| -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(scratch.join(name))?).into_owned())
    };
    let (stdout, stderr) = (text("stdout")?, text("stderr")?);
    let status = status.with_context(|| format!("{stdout}\n{stderr}"))?;
    Ok(Output { status, stdout, stderr })
}

/// Runs a command that must succeed within two minutes; gives what it wrote to stdout.
///
/// # Errors
/// When it fails, with everything it said.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = run_for(Duration::from_secs(120), command)?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        output.stdout,
        output.stderr
    );
    Ok(output.stdout)
}

/// A shell script that must succeed; its arguments are `$1`, `$2`, …
///
/// # Errors
/// When it fails, with everything it said.
pub fn shell<S: AsRef<OsStr>>(script: &str, arguments: &[S]) -> anyhow::Result<String> {
    run(Command::new("sh").args(["-euc", script, "sh"]).args(arguments))
}

/// A server: killed with SIGKILL when dropped, its output kept in a file.
#[derive(Debug)]
pub struct Server {
    child: Child,
    log: PathBuf,
    chore: Chore,
}

impl Server {
    /// Starts `command` with stdout and stderr appended to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let chore = janitor::leave(&format!("kill -9 {}", child.id()))?;
        Ok(Self { child, log: log.to_owned(), chore })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When it has ended, with the end of its log.
    pub fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the server ended: {status}\n{}", self.log_tail());
        }
        Ok(())
    }

    /// Sends a signal by name or number, as `kill` takes it.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: &str) -> anyhow::Result<()> {
        run(Command::new("kill").arg(format!("-{signal}")).arg(self.pid().to_string()))?;
        Ok(())
    }

    /// Kills it at once and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.chore.done();
    }

    /// Asks it to stop and waits for that.
    ///
    /// # Errors
    /// When it is still there after `limit`.
    pub fn stop(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        self.signal("TERM")?;
        let child = &mut self.child;
        let status = wait::until("the server to stop", limit, || Ok(child.try_wait()?))?;
        self.chore.done();
        Ok(status)
    }

    /// The last 8 KiB of what it wrote.
    pub fn log_tail(&self) -> String {
        let text = read_lossy(&self.log);
        let start = text.len().saturating_sub(8192);
        let start = (start..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text[start..].to_owned()
    }

    /// Resident memory now and at its highest, in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let field = |name: &str| -> anyhow::Result<u64> {
            let line = status.lines().find(|line| line.starts_with(name));
            let kib = line.and_then(|line| line.split_whitespace().nth(1));
            Ok(kib.with_context(|| format!("{name} in {path}"))?.parse::<u64>()? * 1024)
        };
        Ok(Memory { resident_bytes: field("VmRSS:")?, peak_bytes: field("VmHWM:")? })
    }

    /// Lets the peak of [`Server::memory`] start anew from what is resident now.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn reset_peak(&self) -> anyhow::Result<()> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.pid()), "5")?)
    }

    /// User and system time used so far by all of its threads.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let mut text = String::new();
        File::open(format!("/proc/{}/stat", self.pid()))?.read_to_string(&mut text)?;
        cpu_of_stat(&text).with_context(|| format!("read the times in {text}"))
    }
}

/// Resident memory of a process.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub resident_bytes: u64,
    pub peak_bytes: u64,
}

/// Sum of utime and stime of a line of `/proc/PID/stat` (proc(5)); a tick is 10 ms.
fn cpu_of_stat(line: &str) -> Option<Duration> {
    // The command's name may hold anything, so count from its closing parenthesis.
    let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log_tail());
        }
    }
}
