//! The outer side of the worker: starting it, and making sense of how it ended.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use shared::Algorithm;

use super::report::{Refusal, RefusalKind, Report, Unpacked};
use super::{Limits, worker};
use crate::images::RECORD_BYTES_MAX as REPORT_BYTES_MAX;
use crate::known_bad::{self, left_out};
use crate::userns::IdMap;

/// Blobs from this size on are decoded in a process of their own, so that inflating and writing
/// files run at the same time. Below it the second process costs more than it gains. Bytes.
const DECODED_APART_FROM: u64 = 1 << 20;

/// Pipes between the processes; 1 MiB is what an unprivileged user may ask for. Bytes.
const PIPE_BYTES: usize = 1 << 20;

/// Running workers of one layer. Dropped, they are killed.
#[derive(Debug)]
pub(crate) struct Workers {
    decode: Option<Child>,
    extract: Child,
    stdin: Option<OwnedFd>,
}

/// How a layer's unpacking ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Unpacked(Unpacked),
    Refused(Refusal),
    /// A worker ended without a word.
    Died(String),
}

impl Workers {
    /// Starts the workers that write into `tree`, which exists and is empty; with `ids` as these.
    pub(crate) fn start(
        program: &Path,
        tree: &Path,
        algorithm: Algorithm,
        limits: Limits,
        blob_bytes: u64,
        ids: Option<&IdMap>,
    ) -> io::Result<Self> {
        let (input, stdin) = pipe()?;
        let (input, decode) = if blob_bytes >= DECODED_APART_FROM {
            let (decoded, output) = pipe()?;
            let decode = command(program)
                .arg("decode")
                .current_dir("/")
                .stdin(input)
                .stdout(output)
                .stderr(Stdio::piped())
                .spawn()?;
            (decoded, Some(decode))
        } else {
            (input, None)
        };
        let extract = command(program)
            .args(["extract", algorithm.as_str()])
            .args([limits.entries.to_string(), limits.bytes.to_string()])
            .args(ids.map(|ids| String::from_utf8(crate::images::to_json(ids)).unwrap_or_default()))
            .current_dir(tree)
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        match extract {
            Ok(extract) => Ok(Self { decode, extract, stdin: Some(stdin) }),
            Err(error) => {
                decode.into_iter().for_each(kill);
                Err(error)
            }
        }
    }

    /// Where the blob's bytes go.
    pub(crate) fn stdin(&self) -> Option<BorrowedFd<'_>> {
        self.stdin.as_ref().map(AsFd::as_fd)
    }

    /// Says that no more bytes come, and waits for the verdict.
    pub(crate) fn finish(mut self) -> io::Result<Outcome> {
        self.stdin = None;
        let extracted = Ended::wait(&mut self.extract)?;
        let decoded = self.decode.as_mut().map(Ended::wait).transpose()?;
        Ok(verdict(decoded, extracted))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for child in self.decode.iter_mut().chain([&mut self.extract]) {
            // Both fail for a process that has ended and been waited for, as it should be.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A worker, with nothing of the caller's environment: what a loader or a library does at somebody's
/// word (`LD_PRELOAD`) is not what reads foreign bytes, and its talk would be taken for a report.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg(worker::VERB);
    if !left_out("worker-environment") {
        command.env_clear().envs(known_bad::passed_on());
    }
    command
}

fn kill(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // A smaller pipe works as well, only slower.
    let _ = rustix::pipe::fcntl_setpipe_size(&writer, PIPE_BYTES);
    Ok((reader, writer))
}

struct Ended {
    report: Option<Report>,
    status: ExitStatus,
}

impl Ended {
    fn wait(child: &mut Child) -> io::Result<Self> {
        let mut bytes = Vec::new();
        // A worker reads foreign bytes, and is not believed without end.
        if let Some(stdout) = &mut child.stdout {
            stdout.take(REPORT_BYTES_MAX).read_to_end(&mut bytes)?;
        }
        if let Some(stderr) = &mut child.stderr {
            stderr.take(REPORT_BYTES_MAX).read_to_end(&mut bytes)?;
        }
        // One that has more to say must not wait for somebody to hear it.
        (child.stdout, child.stderr) = (None, None);
        let status = child.wait()?;
        Ok(Self { report: serde_json::from_slice(&bytes).ok(), status })
    }
}

/// Which of the two is to be believed: a refusal for want of bytes is only an echo of the other's.
fn verdict(decoded: Option<Ended>, extracted: Ended) -> Outcome {
    let refused = |ended: &Ended| match &ended.report {
        Some(Report::Refused(refusal)) => Some(refusal.clone()),
        _ => None,
    };
    let of_extract = refused(&extracted);
    if let Some(refusal) = of_extract.as_ref().filter(|r| r.kind != RefusalKind::Starved) {
        return Outcome::Refused(refusal.clone());
    }
    if let Some(decoded) = &decoded {
        match (&decoded.report, refused(decoded)) {
            (_, Some(refusal)) => return Outcome::Refused(refusal),
            (None, _) => return Outcome::Died(death(decoded.status)),
            _ => {}
        }
    }
    match (of_extract, extracted.report) {
        (Some(refusal), _) => Outcome::Refused(refusal),
        (None, Some(Report::Unpacked(unpacked))) => Outcome::Unpacked(unpacked),
        _ => Outcome::Died(death(extracted.status)),
    }
}

fn death(status: ExitStatus) -> String {
    let limit = super::limits::WORKER_MEMORY_MAX >> 20;
    format!("its worker ended without a word ({status}; it may use {limit} MiB of memory)")
}
