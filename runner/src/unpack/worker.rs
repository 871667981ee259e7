//! The process on the inner side: `rrun unpack-worker decode|extract|sync`.
//!
//! Bytes come on stdin, the working directory is the tree to write, and one [`Report`] leaves:
//! on stdout (`extract`) or, because the decoded bytes go there, on stderr (`decode`).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit};
use shared::Algorithm;

use super::decode::Decoder;
use super::extract::Extractor;
use super::limits::{Limits, WORKER_MEMORY_MAX};
use super::report::{Refusal, RefusalKind, Report};
use super::tree::Tree;
use crate::images::Marks;
use crate::known_bad::left_out;
use crate::place::Descriptors;
use crate::userns::IdMap;

/// The word by which `rrun` knows that it is a worker.
pub const VERB: &str = "unpack-worker";

const DECODED_BUFFER_BYTES: usize = 256 << 10;

/// Runs one worker. The exit code says only whether a report could be written.
pub fn main(words: &[OsString]) -> u8 {
    // What the caller had open is none of a worker's business. Where /proc or the call is missing
    // there is nothing that could be done about it.
    let _ = crate::sys::process::close_from(3);
    let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    let written = match words[..] {
        ["decode"] => report(io::stderr(), decode()),
        ["extract", algorithm, entries, bytes] => {
            report(io::stdout(), extract(algorithm, entries, bytes, None))
        }
        ["extract", algorithm, entries, bytes, ids] => {
            report(io::stdout(), extract(algorithm, entries, bytes, Some(ids)))
        }
        ["inside", ref rest @ ..] => return crate::images::store_worker(rest),
        ["sync"] => return crate::images::sync_worker(),
        _ => return crate::failure::EXIT_OURS,
    };
    if written.is_ok() { 0 } else { crate::failure::EXIT_OURS }
}

fn report(mut to: impl Write, outcome: Result<Report, Refusal>) -> io::Result<()> {
    let report = outcome.unwrap_or_else(Report::Refused);
    to.write_all(&crate::images::to_json(&report))?;
    to.flush()
}

/// Stdin decoded to stdout.
fn decode() -> Result<Report, Refusal> {
    confine()?;
    let mut decoder = Decoder::new(input())?;
    let output = descriptor(io::stdout().as_fd())?;
    let mut output = File::from(output);
    let mut buffer = vec![0; DECODED_BUFFER_BYTES];
    let mut bytes = 0;
    loop {
        let count = decoder.read(&mut buffer)?;
        if count == 0 {
            return Ok(Report::Decoded { bytes });
        }
        output.write_all(&buffer[..count]).map_err(|error| {
            // The extractor has gone, and says why itself.
            Refusal::new(RefusalKind::Starved, format!("cannot pass on what was decoded: {error}"))
        })?;
        bytes += count as u64;
    }
}

/// Stdin into the working directory.
fn extract(
    algorithm: &str,
    entries: &str,
    bytes: &str,
    ids: Option<&str>,
) -> Result<Report, Refusal> {
    let usage = || Refusal::new(RefusalKind::System, "the worker was started wrongly");
    let algorithm: Algorithm = algorithm.parse().map_err(|_| usage())?;
    let limits = Limits {
        entries: entries.parse().map_err(|_| usage())?,
        bytes: bytes.parse().map_err(|_| usage())?,
    };
    let ids: Option<IdMap> = ids.map(serde_json::from_str).transpose().map_err(|_| usage())?;
    if let Some(ids) = &ids {
        // First of all: whoever hands them out is a setuid program.
        ids.enter().map_err(|error| {
            let why = format!("cannot have the ids of the layer's owners: {error}");
            Refusal::new(RefusalKind::System, why)
        })?;
    }
    let root =
        rustix::fs::open(".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| Refusal::system("open the staging directory", error))?;
    // Modes are the entries', exactly.
    rustix::process::umask(Mode::empty());
    // While there is a `/proc`.
    let descriptors = Descriptors::open()
        .map_err(|error| Refusal::system("open its own descriptors in /proc", error))?;
    enter(&root)?;
    confine()?;
    let marks = if ids.is_some() { Marks::User } else { Marks::Trusted };
    let decoder = Decoder::new(input())?;
    let tree = Tree::new(root, marks.opaque());
    Extractor::new(decoder, algorithm, tree, descriptors, limits, ids).run().map(Report::Unpacked)
}

/// The second wall: paths are resolved beneath the descriptor, and there is nothing else to reach.
fn enter(root: &OwnedFd) -> Result<(), Refusal> {
    let failed = |error| Refusal::system("enter the staging directory", error);
    rustix::process::fchdir(root).map_err(failed)?;
    if left_out("unpacked-inside") {
        return Ok(());
    }
    match rustix::process::chroot(".") {
        // Without privilege there is only the first wall.
        Err(rustix::io::Errno::PERM) => Ok(()),
        other => other.map_err(failed),
    }
}

/// Memory bounded, no new privileges, no network.
fn confine() -> Result<(), Refusal> {
    let failed = |error| Refusal::system("confine the worker", error);
    let limit = Rlimit { current: Some(WORKER_MEMORY_MAX), maximum: Some(WORKER_MEMORY_MAX) };
    rustix::process::setrlimit(Resource::As, limit).map_err(failed)?;
    rustix::thread::set_no_new_privs(true).map_err(failed)?;
    match nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
        // Neither privilege nor need: the worker opens no socket.
        Ok(()) | Err(nix::errno::Errno::EPERM | nix::errno::Errno::ENOSPC) => Ok(()),
        Err(error) => Err(failed(rustix::io::Errno::from_raw_os_error(error as i32))),
    }
}

/// Unbuffered: the decoder has a buffer of its own.
fn input() -> impl Read {
    struct Stdin;
    impl Read for Stdin {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            Ok(rustix::io::retry_on_intr(|| rustix::io::read(io::stdin().as_fd(), &mut *buffer))?)
        }
    }
    Stdin
}

fn descriptor(fd: std::os::fd::BorrowedFd<'_>) -> Result<OwnedFd, Refusal> {
    fd.try_clone_to_owned()
        .map_err(|error| Refusal::new(RefusalKind::System, format!("cannot write: {error}")))
}
