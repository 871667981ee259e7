//! Lines on their way to stderr: a reader that does not read must not stop the server.
//!
//! One thread writes; whoever logs puts a line into a queue, and where that is full the line is
//! dropped and counted. Until that thread is there, whoever logs writes: a start has one thread,
//! which may have rights to give up.

use std::io::{self, Write as _};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::fmt::MakeWriter;

use crate::failpoint::fail_point;

/// Lines that wait at most: a few megabytes.
const LINES_MAX: usize = 8192;

/// How long the process's end waits for what is queued.
const LAST: Duration = Duration::from_secs(1);

/// Lines that nobody took since the start of the process. One per process, as stderr is.
pub(super) fn dropped() -> &'static Counter {
    static DROPPED: OnceLock<Counter> = OnceLock::new();
    DROPPED.get_or_init(Counter::default)
}

enum Message {
    Line(Vec<u8>),
    End(SyncSender<()>),
}

/// One per process, as stderr is.
static QUEUE: OnceLock<SyncSender<Message>> = OnceLock::new();

/// Where lines are put.
pub(super) struct Queue;

/// Waits a moment, when it is dropped, for what is queued to be written.
#[derive(Debug)]
pub(super) struct Flush;

/// From now on a thread writes the lines of the log. Doing it again does nothing.
///
/// # Errors
/// When there can be no thread.
pub fn write_apart() -> io::Result<()> {
    let (sender, lines) = sync_channel(LINES_MAX);
    if QUEUE.set(sender).is_ok() {
        std::thread::Builder::new().name("log".into()).spawn(move || write(&lines))?;
    }
    Ok(())
}

impl Drop for Flush {
    fn drop(&mut self) {
        let Some(queue) = QUEUE.get() else { return };
        let (done, end) = sync_channel(1);
        if queue.try_send(Message::End(done)).is_ok() {
            // A reader that does not read is not waited for.
            let _ = end.recv_timeout(LAST);
        }
    }
}

fn write(lines: &Receiver<Message>) {
    let mut told = 0;
    while let Ok(message) = lines.recv() {
        match message {
            // Nobody can be told that nobody can be told.
            Message::Line(line) => drop(io::stderr().lock().write_all(&line)),
            Message::End(done) => {
                let _ = done.try_send(());
            }
        }
        let dropped = dropped().get();
        if dropped > told {
            tracing::warn!(
                lines = dropped - told,
                "lines of the log were dropped: nobody took them"
            );
            told = dropped;
        }
    }
}

/// One line.
pub(super) struct Line;

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if fail_point!("log-queue", off) {
            return io::stderr().write(bytes);
        }
        let Some(queue) = QUEUE.get() else { return io::stderr().write(bytes) };
        match queue.try_send(Message::Line(bytes.to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                dropped().inc();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'q> MakeWriter<'q> for Queue {
    type Writer = Line;

    fn make_writer(&'q self) -> Line {
        Line
    }
}
