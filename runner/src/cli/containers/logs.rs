//! `logs`: what a container wrote, from the files that its monitor keeps.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify;
use rustix::io::Errno;
use serde::Deserialize;

use super::status;
use crate::cli::flags::{Arguments, Flag, FlagsEnd};
use crate::cli::output::pass_on;
use crate::cli::{Globals, Verb, values};
use crate::failure::Failure;
use crate::known_bad::left_out;
use crate::launch::state::Status;
use crate::timestamp::Timestamp;

pub(super) const VERBS: &[Verb] = &[Verb {
    names: &["logs", "container logs"],
    operands: "CONTAINER",
    operands_min: 1,
    operands_max: 1,
    about: "Show what a container wrote",
    details: "Times are RFC 3339 (2026-01-02T03:04:05Z), seconds since 1970, or an age (10m, 1h30m).",
    flags: &[
        Flag::switch("follow", "go on until the container ends").short('f'),
        Flag::one("tail", "NUMBER|all", "only the last lines").short('n'),
        Flag::one("since", "TIME", "only what was written after"),
        Flag::one("until", "TIME", "only what was written before"),
        Flag::switch("timestamps", "with the time of each line").short('t'),
        Flag::switch("details", ""),
    ],
    flags_end: FlagsEnd::AtDashes,
    run: logs,
}];

/// A line of the log, as Docker's json-file driver writes it.
#[derive(Deserialize)]
struct Entry {
    log: String,
    stream: String,
    time: String,
}

/// Longest line that is read, bytes; the monitor writes entries of at most 16 KiB, which JSON may
/// make six times as long.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Files beside the current one that are looked for: as many as `--log-opt max-file` allows.
const ROTATED_MAX: usize = 1000;

struct Choice {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    timestamps: bool,
}

fn logs(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let now = Timestamp::now();
    let moment = |flag: &'static str| {
        arguments.value(flag).map(|text| values::moment(flag, text, now)).transpose()
    };
    let choice = Choice {
        since: moment("since")?,
        until: moment("until")?,
        timestamps: arguments.has("timestamps"),
    };
    let tail = match arguments.value("tail") {
        None | Some("all" | "-1") => None,
        Some(text) => Some(values::number("tail", text, 0, i64::from(i32::MAX))? as usize),
    };
    let store = globals.store()?;
    let container = super::find(&store, &arguments.operands[0])?;
    if container.record()?.stdio.log.is_none() {
        return Err(Failure::new(format!("container {:.12} keeps no log", container.id))
            .hint("it was started with --log-driver none"));
    }
    let path = crate::launch::log_path(container.path());
    // Watching begins before reading, or what is written between would be seen late.
    let watch = if arguments.has("follow") { Some(Watch::new(&path)?) } else { None };
    let mut reader = show_past(&path, &choice, tail)?;
    if let Some(watch) = watch {
        follow(globals, &container.id, &path, &choice, &mut reader, &watch)?;
    }
    Ok(0)
}

/// The files of a log with their inodes, the oldest first: `x.2`, `x.1`, `x`. Looked for in the
/// order in which the monitor moves them, so one that is moved meanwhile may be there twice, and is
/// never missed.
fn files(path: &Path) -> Vec<(PathBuf, u64)> {
    let rotated = |number: usize| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    let mut all = Vec::new();
    let mut missing = 0;
    for name in std::iter::once(path.to_owned()).chain((1..=ROTATED_MAX).map(rotated)) {
        match std::fs::metadata(&name) {
            Ok(metadata) => all.push((name, metadata.ino())),
            Err(_) => missing += 1,
        }
        // One gap is where a file is just being moved to.
        if missing > 2 {
            break;
        }
    }
    all.reverse();
    all
}

/// Shows what is there and returns the place where it ended.
fn show_past(path: &Path, choice: &Choice, tail: Option<usize>) -> Result<Option<Reader>, Failure> {
    let mut last = VecDeque::new();
    let mut reader = Reader::first(path)?;
    while let Some(open) = &mut reader {
        while let Some(entry) = open.next()? {
            match tail {
                None => choice.show(&entry)?,
                Some(0) => {}
                Some(count) => {
                    if last.len() == count {
                        last.pop_front();
                    }
                    last.push_back(entry);
                }
            }
        }
        match open.after(path)? {
            Some(next) => reader = Some(next),
            None => break,
        }
    }
    for entry in &last {
        choice.show(entry)?;
    }
    Ok(reader)
}

fn follow(
    globals: &Globals,
    id: &str,
    path: &Path,
    choice: &Choice,
    reader: &mut Option<Reader>,
    watch: &Watch,
) -> Result<(), Failure> {
    loop {
        // First whether it lives, then what it wrote: the other way round its last words are lost.
        let lives = matches!(
            crate::launch::state::status(&globals.dirs.root, &globals.dirs.runroot, id),
            Ok(Status::Running(_) | Status::Paused(_))
        );
        if reader.is_none() {
            *reader = Reader::first(path)?;
        }
        while let Some(open) = reader {
            // Looked for first: to one that has a successor nothing is added any more.
            let next = open.after(path)?;
            while let Some(entry) = open.next()? {
                choice.show(&entry)?;
            }
            match next {
                Some(next) => *reader = Some(next),
                None => break,
            }
        }
        if !lives {
            status(globals, id).map(drop).ok();
            return Ok(());
        }
        watch.wait();
    }
}

impl Choice {
    fn show(&self, entry: &Entry) -> Result<(), Failure> {
        if self.since.is_some() || self.until.is_some() {
            let at = Timestamp::parse(&entry.time);
            let early = self.since.is_some_and(|since| at.is_some_and(|at| at < since));
            let late = self.until.is_some_and(|until| at.is_some_and(|at| at > until));
            if early || late {
                return Ok(());
            }
        }
        let text = if self.timestamps {
            format!("{} {}", entry.time, entry.log)
        } else {
            entry.log.clone()
        };
        if entry.stream == "stderr" {
            pass_on(std::io::stderr().lock(), "standard error", text.as_bytes());
            return Ok(());
        }
        // What the container said, as it said it.
        crate::cli::print_bytes(text.as_bytes())
    }
}

struct Reader {
    file: BufReader<File>,
    inode: u64,
}

impl Reader {
    /// The oldest file of the log; `None` where nothing has been written yet.
    fn first(path: &Path) -> Result<Option<Self>, Failure> {
        match files(path).first() {
            Some((file, _)) => Self::open(file),
            None => Ok(None),
        }
    }

    /// The file that follows this one; `None` where this is the last.
    fn after(&self, path: &Path) -> Result<Option<Self>, Failure> {
        loop {
            let all = files(path);
            // One that is not there was removed as too old: the oldest follows.
            let at = all.iter().rposition(|(_, inode)| *inode == self.inode).map_or(0, |at| at + 1);
            let Some((file, inode)) = all.get(at) else { return Ok(None) };
            match Self::open(file)? {
                Some(next) if next.inode == *inode => return Ok(Some(next)),
                // Moved on between the two steps.
                _ => {}
            }
        }
    }

    fn open(path: &Path) -> Result<Option<Self>, Failure> {
        match File::open(path) {
            Ok(file) => {
                let inode = file.metadata().map(|metadata| metadata.ino()).unwrap_or(0);
                Ok(Some(Self { file: BufReader::new(file), inode }))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(&error)),
        }
    }

    /// The next whole entry. Half a line is one that is being written, and is read again later;
    /// one that cannot be read (a power cut) is passed over.
    fn next(&mut self) -> Result<Option<Entry>, Failure> {
        use std::io::Read;
        loop {
            let mut line = Vec::new();
            let mut bounded = (&mut self.file).take(LINE_BYTES_MAX);
            let count = bounded.read_until(b'\n', &mut line).map_err(|e| unreadable(&e))?;
            if count == 0 {
                return Ok(None);
            }
            if line.last() != Some(&b'\n') && (count as u64) < LINE_BYTES_MAX {
                let back = -i64::try_from(count).unwrap_or(0);
                self.file.seek(SeekFrom::Current(back)).map_err(|error| unreadable(&error))?;
                return Ok(None);
            }
            if let Ok(entry) = serde_json::from_slice(&line) {
                return Ok(Some(entry));
            }
        }
    }
}

fn unreadable(error: &std::io::Error) -> Failure {
    Failure::new("cannot read the log").because(error)
}

/// Tells when something in the log's directory changes. Without a descriptor it is looked at from
/// time to time: there are few instances of inotify for all that root runs, containers included,
/// and one can have taken them all (inotify(7), `max_user_instances`).
struct Watch(Option<rustix::fd::OwnedFd>);

impl Watch {
    fn new(path: &Path) -> Result<Self, Failure> {
        let failed =
            |error: rustix::io::Errno| Failure::new("cannot watch the log").because(&error);
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let fd = match inotify::init(flags) {
            Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM) if !left_out("watch-optional") => {
                return Ok(Self(None));
            }
            other => other.map_err(failed)?,
        };
        let what = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO;
        let directory = path.parent().unwrap_or(path);
        match inotify::add_watch(&fd, directory, what) {
            // Of watches there are only so many, too.
            Err(Errno::NOSPC | Errno::NOMEM) => Ok(Self(None)),
            other => other.map(|_| Self(Some(fd))).map_err(failed),
        }
    }

    /// Until something changes, or a while: the end of a container changes nothing in its log.
    fn wait(&self) {
        const LOOK_AGAIN: Duration = Duration::from_millis(200);
        let Some(watch) = &self.0 else { return std::thread::sleep(LOOK_AGAIN) };
        let mut fds = [PollFd::new(watch, PollFlags::IN)];
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK_AGAIN.subsec_nanos()) };
        let _ = rustix::event::poll(&mut fds, Some(&timeout));
        // Once: whatever comes meanwhile is seen by the next wait.
        let mut events = [0_u8; 64 << 10];
        let _ = rustix::io::read(watch, &mut events);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_whole_entries_and_waits_for_half_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let line = |text: &str| {
            format!(
                "{{\"log\":\"{text}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:00Z\"}}\n"
            )
        };
        std::fs::write(&path, line("a") + "garbage\n" + &line("b")[..10]).unwrap();
        let mut reader = Reader::first(&path).unwrap().unwrap();
        assert_eq!(reader.next().unwrap().unwrap().log, "a\n");
        assert!(reader.next().unwrap().is_none());
        std::fs::write(&path, line("a") + "garbage\n" + &line("b")).unwrap();
        assert_eq!(reader.next().unwrap().unwrap().log, "b\n");
        assert!(reader.next().unwrap().is_none());
        assert!(reader.after(&path).unwrap().is_none());
    }

    #[test]
    fn files_are_read_one_after_the_other_however_they_are_moved() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let write = |text: &str| {
            let entry = serde_json::json!({"log": text, "stream": "stdout", "time": ""});
            std::fs::write(&path, format!("{entry}\n")).unwrap();
        };
        let rotate = |text: &str| {
            for (from, to) in [("log.2", "log.3"), ("log.1", "log.2"), ("log", "log.1")] {
                let _ = std::fs::rename(dir.path().join(from), dir.path().join(to));
            }
            write(text);
        };
        write("a");
        let mut reader = Reader::first(&path).unwrap().unwrap();
        // Twice before anybody looks, and again while the second is read.
        rotate("b");
        rotate("c");
        assert_eq!(reader.next().unwrap().unwrap().log, "a");
        let mut reader = reader.after(&path).unwrap().unwrap();
        rotate("d");
        assert_eq!(reader.next().unwrap().unwrap().log, "b");
        let mut reader = reader.after(&path).unwrap().unwrap();
        assert_eq!(reader.next().unwrap().unwrap().log, "c");
        rotate("e");
        rotate("f");
        rotate("g");
        rotate("h");
        // Everything between has been removed: the oldest that there is.
        let mut reader = reader.after(&path).unwrap().unwrap();
        assert_eq!(reader.next().unwrap().unwrap().log, "e");
    }
}
