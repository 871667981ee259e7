//! The small files that a cgroup is made of. Each takes one value per `write(2)`.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// Largest table of `/proc` that is read, in bytes: some 60,000 mounts.
const MAX_TABLE_BYTES: u64 = 16 << 20;

/// Largest file of a cgroup that is read, in bytes: `cgroup.procs` with a million lines.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// The first and the longest pause while waiting for the kernel.
const PAUSE: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(20));

pub(super) fn read_proc(path: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(16 << 10);
    fs::File::open(path)?.take(MAX_TABLE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn read(directory: &Path, file: &str) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(directory.join(file))?.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// The number in a file; `None` when there is no such file, and for `max`.
pub(super) fn number(directory: &Path, file: &str) -> Option<u64> {
    read(directory, file).ok()?.trim().parse().ok()
}

/// The number after `key` in a file of `key number` lines.
pub(super) fn keyed(directory: &Path, file: &str, key: &str) -> Option<u64> {
    let text = read(directory, file).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    value.trim().parse().ok()
}

/// Writes a value; never makes a file.
pub(super) fn write(directory: &Path, file: &str, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(directory.join(file))?.write_all(value.as_bytes())
}

/// Makes a directory and its parents below an existing one.
pub(super) fn make_all(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_all(directory.parent().ok_or(error)?)?;
            make_all(directory)
        }
        Err(error) => Err(error),
    }
}

/// Removes a cgroup with all cgroups below it. One that is not there is removed.
pub(super) fn remove_tree(directory: &Path, deadline: Instant) -> io::Result<()> {
    // Most have none below: one call.
    if matches!(rustix::fs::rmdir(directory), Ok(()) | Err(Errno::NOENT)) {
        return Ok(());
    }
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path(), deadline)?;
        }
    }
    // The last process is counted out a moment after its parent has heard of its end.
    retry(deadline, || match rustix::fs::rmdir(directory) {
        Ok(()) | Err(Errno::NOENT) => Ok(Some(())),
        Err(Errno::BUSY) => Ok(None),
        Err(error) => Err(error.into()),
    })?
    .ok_or_else(|| io::Error::from(Errno::BUSY))
}

/// Calls `attempt` until it gives a value, with growing pauses; `None` after the deadline.
pub(super) fn retry<T>(
    deadline: Instant,
    mut attempt: impl FnMut() -> io::Result<Option<T>>,
) -> io::Result<Option<T>> {
    let mut pause = PAUSE.0;
    loop {
        if let Some(value) = attempt()? {
            return Ok(Some(value));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = PAUSE.1.min(pause * 2);
    }
}
