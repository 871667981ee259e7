//! Lines on their way to stderr: a reader that does not read must not stop the server.
//!
//! One thread writes; whoever logs puts a line into a queue, and where that is full the line is
//! dropped and counted.

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

/// Where lines are put. Clones share one queue.
#[derive(Clone)]
pub(super) struct Queue(SyncSender<Message>);

/// Waits a moment, when it is dropped, for what is queued to be written.
pub(super) struct Flush(SyncSender<Message>);

impl std::fmt::Debug for Flush {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flush").finish_non_exhaustive()
    }
}

impl Queue {
    /// Starts the thread.
    ///
    /// # Errors
    /// When there can be none.
    pub(super) fn start() -> io::Result<(Self, Flush)> {
        let (sender, lines) = sync_channel(LINES_MAX);
        std::thread::Builder::new().name("log".into()).spawn(move || write(&lines))?;
        Ok((Self(sender.clone()), Flush(sender)))
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let (done, end) = sync_channel(1);
        if self.0.try_send(Message::End(done)).is_ok() {
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
pub(super) struct Line<'q>(&'q Queue);

impl io::Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if fail_point!("log-queue", off) {
            return io::stderr().write(bytes);
        }
        match self.0.0.try_send(Message::Line(bytes.to_vec())) {
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
    type Writer = Line<'q>;

    fn make_writer(&'q self) -> Line<'q> {
        Line(self)
    }
}
