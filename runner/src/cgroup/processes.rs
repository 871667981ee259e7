//! The processes in a cgroup: who they are, stopping all of them, ending all of them.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::files;
use super::{Cgroup, Leaf};

/// How long the kernel may take to freeze what can be frozen.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(2);

impl Cgroup {
    /// The processes in the cgroup and below it, as numbers of this process's PID namespace.
    ///
    /// # Errors
    /// When the list cannot be read; a cgroup that is gone has no processes.
    pub fn processes(&self) -> io::Result<Vec<i32>> {
        let mut all = Vec::new();
        if let Some(leaf) = self.watched() {
            collect(&leaf.directory, &mut all)?;
        }
        Ok(all)
    }

    /// Whether there is a process in the cgroup or below it.
    ///
    /// # Errors
    /// As [`Self::processes`].
    pub fn is_populated(&self) -> io::Result<bool> {
        match self.leaves.iter().find(|leaf| leaf.unified) {
            Some(leaf) => match files::read(&leaf.directory, "cgroup.events") {
                Ok(text) => Ok(text.lines().any(|line| line == "populated 1")),
                Err(error) if is_gone(&error) => Ok(false),
                Err(error) => Err(error),
            },
            None => Ok(!self.processes()?.is_empty()),
        }
    }

    /// A descriptor that polls ready (`POLLPRI`) when the cgroup gets its first or loses its last
    /// process. `None` where there is no unified hierarchy. Source: cgroup-v2.rst, "cgroup.events".
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn events_fd(&self) -> io::Result<Option<fs::File>> {
        let leaf = self.leaves.iter().find(|leaf| leaf.unified);
        leaf.map(|leaf| fs::File::open(leaf.directory.join("cgroup.events"))).transpose()
    }

    /// Ends every process in the cgroup and returns when none is left.
    ///
    /// `cgroup.kill` (Linux 5.14) reaches all of them at once, also those that fork meanwhile.
    /// Without it they are frozen, signalled and thawed, until none is left.
    ///
    /// # Errors
    /// `TimedOut` when something still lives at the deadline: a process in an uninterruptible wait.
    pub fn kill_all(&self, timeout: Duration) -> io::Result<()> {
        let deadline = Instant::now() + timeout;
        let done = files::retry(deadline, || {
            if !self.is_populated()? {
                return Ok(Some(()));
            }
            if !self.kill_at_once()? {
                self.kill_one_by_one()?;
            }
            // SIGKILL does not end what the freezer of cgroup v1 holds.
            if let Some(freezer) = self.v1("freezer") {
                ignore_gone(files::write(&freezer.directory, "freezer.state", "THAWED"))?;
            }
            Ok(if self.is_populated()? { None } else { Some(()) })
        })?;
        done.ok_or_else(|| io::ErrorKind::TimedOut.into())
    }

    fn kill_at_once(&self) -> io::Result<bool> {
        let Some(leaf) = self.leaves.iter().find(|leaf| leaf.unified) else { return Ok(false) };
        match files::write(&leaf.directory, "cgroup.kill", "1") {
            Ok(()) => Ok(true),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn kill_one_by_one(&self) -> io::Result<()> {
        // Frozen processes neither fork nor end, so no number is another process's by now. What
        // cannot be frozen is met by the next round.
        let _ = self.freeze();
        let own = std::process::id();
        for number in self.processes()? {
            let pid = Pid::from_raw(number).filter(|_| number.cast_unsigned() != own);
            if let Some(pid) = pid {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        self.thaw()
    }

    /// Stops every process in the cgroup where it stands.
    ///
    /// # Errors
    /// `TimedOut` when some process cannot be frozen; `Unsupported` where there is no freezer.
    pub fn freeze(&self) -> io::Result<()> {
        let (leaf, file, value) = self.freezer()?;
        files::write(&leaf.directory, file, value.0)?;
        let frozen = files::retry(Instant::now() + FREEZE_TIMEOUT, || {
            let done = if leaf.unified {
                files::keyed(&leaf.directory, "cgroup.events", "frozen") == Some(1)
            } else {
                // A process that was forked meanwhile is frozen by a further write only.
                files::write(&leaf.directory, file, value.0)?;
                files::read(&leaf.directory, file)?.trim() == "FROZEN"
            };
            Ok(done.then_some(()))
        })?;
        frozen.ok_or_else(|| io::ErrorKind::TimedOut.into())
    }

    /// Lets the processes go on.
    ///
    /// # Errors
    /// `Unsupported` where there is no freezer.
    pub fn thaw(&self) -> io::Result<()> {
        let (leaf, file, value) = self.freezer()?;
        files::write(&leaf.directory, file, value.1)
    }

    /// The freezer with its file and the words for freezing and thawing. The unified one first:
    /// what it holds can be killed.
    fn freezer(&self) -> io::Result<(&Leaf, &'static str, (&'static str, &'static str))> {
        let unified = self
            .leaves
            .iter()
            .find(|leaf| leaf.unified && leaf.directory.join("cgroup.freeze").exists());
        if let Some(leaf) = unified {
            return Ok((leaf, "cgroup.freeze", ("1", "0")));
        }
        match self.v1("freezer") {
            Some(leaf) => Ok((leaf, "freezer.state", ("FROZEN", "THAWED"))),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The hierarchy that tells about processes.
    fn watched(&self) -> Option<&Leaf> {
        let unified = self.leaves.iter().find(|leaf| leaf.unified);
        unified.or_else(|| self.v1("pids")).or_else(|| self.leaves.first())
    }
}

fn collect(directory: &Path, all: &mut Vec<i32>) -> io::Result<()> {
    match files::read(directory, "cgroup.procs") {
        // 0 stands for a process of another PID namespace.
        Ok(text) => all.extend(
            text.lines().filter_map(|line| line.parse().ok()).filter(|&number: &i32| number > 0),
        ),
        Err(error) if is_gone(&error) => return Ok(()),
        // A threaded cgroup has no list of processes; their cgroup is above it.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) => return Err(error),
    }
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), all)?;
        }
    }
    Ok(())
}

/// ENODEV is the answer of a file that was opened before its cgroup was removed.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

fn ignore_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is_gone(&error) => Ok(()),
        result => result,
    }
}
