//! A container's log: one JSON object a line, as Docker's json-file driver writes it, in files
//! that are exchanged before they grow without end.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::container::LogFiles;
use crate::timestamp::Timestamp;

/// A line without an end is written after this many bytes. Source: moby, `daemon/logger/copier.go`.
const LINE_MAX: usize = 16 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    files: LogFiles,
    file: Option<File>,
    size: u64,
    /// The beginnings of lines whose end has not come.
    partial: [Vec<u8>; 2],
    out: Vec<u8>,
}

impl Log {
    /// The log at `path`, whose file is opened with the first word.
    pub(super) fn new(path: &Path, files: LogFiles) -> Self {
        let (path, out) = (path.to_owned(), Vec::new());
        Self { path, files, file: None, size: 0, partial: Default::default(), out }
    }

    fn open(&mut self) -> io::Result<()> {
        let file = File::options().create(true).append(true).open(&self.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Takes what came on a stream. A log that cannot be written is lost, and never stops the
    /// container.
    pub(super) fn take(&mut self, stream: Stream, bytes: &[u8]) {
        let time = Timestamp::now().to_rfc3339();
        let mut line = std::mem::take(&mut self.partial[stream as usize]);
        for &byte in bytes {
            line.push(byte);
            if byte == b'\n' || line.len() >= LINE_MAX {
                self.entry(stream, &line, &time);
                line.clear();
            }
        }
        self.partial[stream as usize] = line;
        self.flush();
    }

    /// Writes lines that will not be ended.
    pub(super) fn finish(&mut self) {
        let time = Timestamp::now().to_rfc3339();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let line = std::mem::take(&mut self.partial[stream as usize]);
            if !line.is_empty() {
                self.entry(stream, &line, &time);
            }
        }
        self.flush();
    }

    fn entry(&mut self, stream: Stream, line: &[u8], time: &str) {
        let name = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        let text = String::from_utf8_lossy(line);
        let entry = serde_json::json!({"log": text, "stream": name, "time": time});
        // Into memory: this cannot fail.
        let _ = serde_json::to_writer(&mut self.out, &entry);
        self.out.push(b'\n');
    }

    fn flush(&mut self) {
        if self.out.is_empty() {
            return;
        }
        if self.file.is_none() {
            // Where there is no room for it now, there may be for the next word.
            let _ = self.open();
        }
        if self.size > self.files.file_max_bytes {
            self.exchange();
        }
        if let Some(file) = &mut self.file {
            match file.write_all(&self.out) {
                Ok(()) => self.size += self.out.len() as u64,
                // A full disk, most likely: there is nobody to tell, and the next one may fit.
                Err(_) => self.size = file.metadata().map_or(self.size, |metadata| metadata.len()),
            }
        }
        self.out.clear();
        // A burst must not keep its memory for the container's whole life.
        self.out.shrink_to(LINE_MAX);
    }

    fn exchange(&mut self) {
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        let oldest = self.files.files.saturating_sub(1);
        for number in (1..oldest).rev() {
            let _ = fs::rename(numbered(number), numbered(number + 1));
        }
        let _ = if oldest == 0 {
            fs::remove_file(&self.path)
        } else {
            fs::rename(&self.path, numbered(1))
        };
        self.file = None;
        self.size = 0;
        let _ = self.open();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_entries() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("json.log");
        let mut log = Log::new(&path, LogFiles::default());
        log.take(Stream::Stdout, b"one\ntw");
        log.take(Stream::Stderr, b"err\n");
        log.take(Stream::Stdout, b"o\n\xff");
        log.take(Stream::Stderr, &[b'x'; LINE_MAX + 1]);
        log.finish();
        let text = fs::read_to_string(&path).unwrap();
        let entries: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let logs: Vec<&str> = entries.iter().map(|entry| entry["log"].as_str().unwrap()).collect();
        assert_eq!(logs[..3], ["one\n", "err\n", "two\n"]);
        assert_eq!(logs[3].len(), LINE_MAX);
        assert_eq!(logs[4..], ["\u{fffd}", "x"]);
        assert_eq!(entries[1]["stream"], "stderr");
    }

    #[test]
    fn files_are_exchanged() {
        for limits in [LogFiles::default(), LogFiles { file_max_bytes: 100_000, files: 1 }] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("json.log");
            let mut log = Log::new(&path, limits);
            let line = [b"y".repeat(LINE_MAX - 1), b"\n".to_vec()].concat();
            for _ in 0..(limits.file_max_bytes as usize / LINE_MAX + 1) * 6 {
                log.take(Stream::Stdout, &line);
            }
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), limits.files as usize);
            let size = |entry: io::Result<fs::DirEntry>| entry.unwrap().metadata().unwrap().len();
            let largest = fs::read_dir(dir.path()).unwrap().map(size).max().unwrap();
            assert!(largest <= limits.file_max_bytes + 2 * LINE_MAX as u64, "{largest}");
        }
    }
}
