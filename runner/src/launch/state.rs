//! What is known of a container's life, and how its status is told from it.
//!
//! `$RUN/c/<id>/state.json` is written by the monitor alone, by rename; `containers/<id>/exit.json`
//! is written once per run of the container and outlives reboots. A process is alive when its
//! monitor holds `monitor.lock`: a pid is never proof of anything.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::protocol::Exit;
use super::run_directory;

/// Largest state file that is read, in bytes; ours are under 1 KiB.
const MAX_STATE_BYTES: u64 = 64 << 10;

/// The code of a container whose end nobody saw because the machine was switched off. Docker's.
pub(super) const HOST_RESTARTED: u8 = 255;

pub(super) const AFTER_RESTART: &str = "the host was restarted";

/// A process, named so that a reused number is not taken for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`, in clock ticks since boot.
    pub start_time: u64,
    pub boot_id: String,
}

/// `state.json`: a container that has been started and whose monitor has not finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub id: String,
    pub init: ProcessId,
    pub monitor: ProcessId,
    /// RFC 3339.
    pub started: String,
    pub paused: bool,
    /// The container's directory in each cgroup hierarchy, absolute paths on the host.
    pub cgroups: Vec<PathBuf>,
}

/// `exit.json`: how the last run of the container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    pub exit: Exit,
    /// RFC 3339; `None` when the container never came to run.
    pub started: Option<String>,
    pub finished: String,
    /// Why it could not be started, or what happened to its monitor.
    pub error: Option<String>,
}

/// What `ps` and `inspect` say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Never started.
    Created,
    Running(State),
    Paused(State),
    Exited(ExitRecord),
    /// The monitor is gone and its container may live: [`super::recover`] puts it right.
    Orphaned(Option<State>),
}

impl State {
    /// Whether the container's program has ended and its monitor is about to say how.
    pub(super) fn is_ending(&self) -> bool {
        // Seen from another PID namespace both are gone, which says nothing.
        self.init.has_ended() && !self.monitor.has_ended()
    }
}

impl ProcessId {
    /// Whether it is no more, or only waits to be buried. That somebody else has its number, or
    /// nobody, proves its end; only of a life a number proves nothing.
    fn has_ended(&self) -> bool {
        let Ok(text) = fs::read_to_string(format!("/proc/{}/stat", self.pid)) else { return true };
        // The name in parentheses may hold anything; fields are counted from behind it.
        let mut fields = text.rsplit_once(") ").map_or("", |(_, after)| after).split(' ');
        let is_zombie = fields.next().is_none_or(|state| state == "Z" || state == "X");
        let start_time = fields.nth(18).and_then(|field| field.parse().ok());
        is_zombie || start_time != Some(self.start_time)
    }
}

/// The status of container `id`.
///
/// # Errors
/// When a file is there and cannot be read; a file that is missing is an answer.
pub fn status(root: &Path, run: &Path, id: &str) -> io::Result<Status> {
    let run_directory = run_directory(run, id);
    let ended = || Ok(exit_record(root, id)?.map_or(Status::Created, Status::Exited));
    if !run_directory.exists() {
        return ended();
    }
    let locked = run_directory::is_locked(&run_directory)?;
    let state = read_json::<State>(&run_directory.join("state.json"))?;
    match (locked, state) {
        (true, Some(state)) if state.paused => Ok(Status::Paused(state)),
        (true, Some(state)) => Ok(Status::Running(state)),
        // Between taking the lock and the first instruction, or between the end and the cleanup.
        (true, None) => ended(),
        (false, state) => Ok(Status::Orphaned(state)),
    }
}

/// How the last run ended, if it did. Not written durably: after a power cut the file may be
/// there without its content.
///
/// # Errors
/// When it cannot be read.
pub(super) fn exit_record(root: &Path, id: &str) -> io::Result<Option<ExitRecord>> {
    match read_json(&record_directory(root, id).join("exit.json")) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Ok(Some(ExitRecord::unseen(HOST_RESTARTED, AFTER_RESTART, None)))
        }
        other => other,
    }
}

/// `$RUN/c/<id>`
pub fn run_directory(run: &Path, id: &str) -> PathBuf {
    run.join("c").join(id)
}

/// `$ROOT/containers/<id>`
pub fn record_directory(root: &Path, id: &str) -> PathBuf {
    root.join("containers").join(id)
}

/// Reads a JSON file; `None` when it is not there.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let file = match fs::OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_STATE_BYTES).read_to_end(&mut bytes)?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
    })
}

/// Writes a JSON file by rename: a reader sees the old one or the new one. Not durable.
///
/// # Errors
/// `InvalidData` for one that would not be read back.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let bytes = serde_json::to_vec(value)?;
    if bytes.len() as u64 > MAX_STATE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too large to be read again"));
    }
    fs::write(&temporary, bytes)?;
    fs::rename(&temporary, path)
}

impl ExitRecord {
    /// A container of which nobody saw the end.
    pub(crate) fn unseen(code: u8, why: &str, started: Option<String>) -> Self {
        Self {
            exit: Exit { code, signal: None, oom: None },
            started,
            finished: crate::timestamp::Timestamp::now().to_rfc3339(),
            error: Some(why.to_owned()),
        }
    }
}
