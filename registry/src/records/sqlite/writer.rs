//! The one thread that writes, and how changes that wait together share a sync.
//!
//! A group is one transaction; each change in it has a savepoint, so that one that is refused or
//! fails leaves the others alone. Nobody is answered before COMMIT has returned.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::histogram::Histogram;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

use super::checkpoint::Checkpointer;
use super::schema;
use crate::failpoint::fail_point;
use crate::records::stamps::Stamps;
use crate::records::{GcClock, GcTime, RecordsError, RepoName, Result};

/// Changes that share a transaction at most: what one sync of a slow disk lets pile up from a few
/// hundred clients. More would only make the first of them wait.
const GROUP_MAX: usize = 512;

/// How long a group is worked on at most before it is committed: the first change in it waits for the
/// last one.
const GROUP_TIME: Duration = Duration::from_millis(50);

/// Changes that wait at most; whoever comes then waits for a place, which is back-pressure.
const QUEUE_MAX: usize = 1024;

/// How far the stored collection clock may lag behind, which is what a crash adds to a grace.
const CLOCK_LAG_MAX: Duration = Duration::from_secs(10);

/// What a change decided.
pub(super) enum Outcome<T> {
    Keep(T),
    /// Undo what it wrote; the answer stands.
    Discard(T),
}

/// What a change works with.
pub(super) struct Change<'c> {
    pub(super) connection: &'c Connection,
    /// The collection clock.
    pub(super) now: GcTime,
    /// Unix seconds, for people.
    pub(super) wall: i64,
    notes: Notes,
    shared: &'c Shared,
}

/// What becomes visible outside the database once the change is durable.
#[derive(Default)]
struct Notes {
    touched: Vec<RepoName>,
    touched_all: bool,
    rescued: u64,
    keep_time: bool,
}

impl Change<'_> {
    /// Says that what readers may remember of `repo` is no longer true.
    pub(super) fn touch(&mut self, repo: &RepoName) {
        self.notes.touched.push(repo.clone());
    }

    /// Says so of every repository.
    pub(super) fn touch_all(&mut self) {
        self.notes.touched_all = true;
    }

    /// Says that a repository is about to hold something.
    pub(super) fn use_repository(&self, id: i64) {
        if let Some(used) = &mut *self.shared.used() {
            used.insert(id);
        }
    }

    /// Asks for the clock to be stored, though nothing else may change: something waits for time to
    /// pass, and a restart should not make it wait again.
    pub(super) fn keep_time(&mut self) {
        self.notes.keep_time = true;
    }

    /// Counts condemned links that turned live.
    pub(super) fn note_rescued(&mut self, links: u64) {
        self.notes.rescued += links;
    }
}

/// What the writer shares with the rest of the process.
pub(super) struct Shared {
    pub(super) clock: GcClock,
    pub(super) stamps: Stamps,
    /// Condemned links that turned live since the start.
    pub(super) rescued: AtomicU64,
    /// Set once, when a write or sync has failed.
    poisoned: AtomicBool,
    /// The last change could not be written.
    failing: AtomicBool,
    /// Repositories that were given something since somebody began to look for empty ones.
    used: Mutex<Option<HashSet<i64>>>,
}

impl Shared {
    pub(super) fn new(clock: GcClock) -> Self {
        Self {
            clock,
            stamps: Stamps::new(),
            rescued: AtomicU64::new(0),
            poisoned: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            used: Mutex::new(None),
        }
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Acquire)
    }

    fn used(&self) -> MutexGuard<'_, Option<HashSet<i64>>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins or ends to note which repositories are given something.
    pub(super) fn watch_repositories(&self, watch: bool) {
        *self.used() = watch.then(HashSet::new);
    }

    /// Whether a repository was given something meanwhile, or nobody knows.
    pub(super) fn is_used(&self, id: i64) -> bool {
        self.used().as_ref().is_none_or(|used| used.contains(&id))
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// Whoever waits is told when the thread that would have answered is gone.
    fn gone(&self) -> RecordsError {
        if self.is_poisoned() { RecordsError::ReadOnly } else { RecordsError::Closed }
    }

    /// No write from here on. The kernel marks pages clean after a failed sync: a second attempt
    /// would seem to work and prove nothing. Only a restart reads back what is really there. So too
    /// when a sync fails with ENOSPC: a full file system refuses the write before, as
    /// [`is_full`] says; a sync only when storage below it ran out and lost what was written.
    pub(super) fn poison(&self, error: &dyn std::fmt::Display) {
        if fail_point!("read-only", off) {
            return;
        }
        if !self.poisoned.swap(true, Ordering::AcqRel) {
            tracing::error!(%error, "records: a write to disk failed; read-only until a restart");
        }
    }
}

/// Where changes are handed in.
#[derive(Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Message>,
    shared: Arc<Shared>,
}

/// Turns the records read-only when their thread panics: nobody would take a change any more, and
/// the readiness probe has to say so.
struct Alarm(Arc<Shared>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                "records: the thread that writes has panicked; read-only until a restart"
            );
            self.0.poisoned.store(true, Ordering::Release);
        }
    }
}

enum Message {
    Change(Box<dyn Job>),
    Close(oneshot::Sender<Result<()>>),
}

impl Writer {
    /// Starts the thread; it ends when it is closed or every `Writer` is dropped.
    pub(super) fn start(
        path: &Path,
        connection: Connection,
        checkpointer: Checkpointer,
        shared: Arc<Shared>,
        commits: Option<Histogram>,
    ) -> std::io::Result<Self> {
        let (queue, receiver) = mpsc::channel(QUEUE_MAX);
        let saved_clock = shared.clock.now();
        let (file, own) = (Place::new(path), Arc::clone(&shared));
        let mut thread =
            Thread { file, connection, checkpointer, shared: own, saved_clock, commits };
        let alarm = Alarm(Arc::clone(&shared));
        std::thread::Builder::new().name("records-write".into()).spawn(move || {
            let _alarm = alarm;
            thread.run(receiver);
        })?;
        Ok(Self { queue, shared })
    }

    /// Applies a change and waits until it is durable. `apply` may run more than once, each time
    /// on a state in which it has not run.
    pub(super) async fn change<T, F>(&self, apply: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Change<'_>) -> rusqlite::Result<Outcome<T>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Pending { apply, value: None, reply });
        self.queue.send(Message::Change(job)).await.map_err(|_| self.shared.gone())?;
        answer.await.map_err(|_| self.shared.gone())?
    }

    /// Ends the thread after what is queued.
    pub(super) async fn close(&self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(Message::Close(reply)).await.map_err(|_| RecordsError::Closed)?;
        answer.await.map_err(|_| RecordsError::Closed)?
    }
}

/// A change that waits, whatever its answer's type.
trait Job: Send {
    /// Whether to keep what it wrote.
    fn apply(&mut self, change: &mut Change<'_>) -> rusqlite::Result<bool>;
    fn answer(self: Box<Self>, outcome: Result<()>);
}

struct Pending<T, F> {
    apply: F,
    value: Option<T>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T, F> Job for Pending<T, F>
where
    T: Send,
    F: FnMut(&mut Change<'_>) -> rusqlite::Result<Outcome<T>> + Send,
{
    fn apply(&mut self, change: &mut Change<'_>) -> rusqlite::Result<bool> {
        let (keep, value) = match (self.apply)(change)? {
            Outcome::Keep(value) => (true, value),
            Outcome::Discard(value) => (false, value),
        };
        self.value = Some(value);
        Ok(keep)
    }

    fn answer(self: Box<Self>, outcome: Result<()>) {
        let Self { value, reply, .. } = *self;
        let unapplied = || RecordsError::Failed("the change did not run".into());
        let answer = outcome.and_then(|()| value.ok_or_else(unapplied));
        // Whoever asked may be gone; the change stands all the same.
        let _ = reply.send(answer);
    }
}

/// The database's file: its place, and what lay there when it was opened.
struct Place {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl Place {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), identity: identity(path) }
    }

    fn is_there(&self) -> bool {
        identity(&self.path) == self.identity || fail_point!("records-place", off)
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

struct Thread {
    file: Place,
    connection: Connection,
    checkpointer: Checkpointer,
    shared: Arc<Shared>,
    /// The collection clock as the database has it.
    saved_clock: GcTime,
    /// How long commits take.
    commits: Option<Histogram>,
}

impl Thread {
    fn run(&mut self, mut queue: mpsc::Receiver<Message>) {
        while let Some(message) = queue.blocking_recv() {
            let mut group = Vec::new();
            let mut close = None;
            let mut next = Some(message);
            while let Some(message) = next {
                match message {
                    Message::Change(job) => group.push(job),
                    Message::Close(reply) => close = Some(reply),
                }
                next = if close.is_none() && group.len() < GROUP_MAX {
                    queue.try_recv().ok()
                } else {
                    None
                };
            }
            self.commit(group);
            if let Some(reply) = close {
                queue.close();
                while let Some(message) = queue.blocking_recv() {
                    if let Message::Change(job) = message {
                        job.answer(Err(RecordsError::Closed));
                    }
                }
                let _ = reply.send(self.close());
                return;
            }
            self.checkpointer.after_commit(&self.connection);
        }
    }

    /// Applies a group in one transaction, or in more where it takes long, and answers it.
    fn commit(&mut self, mut group: Vec<Box<dyn Job>>) {
        // Each turn either answers the group, or its beginning, or takes one failed change out of it.
        while !group.is_empty() {
            if !self.file.is_there() {
                // Commits into a file without a name succeed, and are lost with the process.
                self.shared.poison(&"the database's file was moved or removed");
            }
            if self.shared.is_poisoned() {
                return answer_all(group, || RecordsError::ReadOnly);
            }
            match self.attempt(&mut group) {
                Attempt::Done { applied, failed } => {
                    let rest = group.split_off(applied);
                    self.answer(group, failed);
                    group = rest;
                }
                Attempt::Lost { index, error } => {
                    let error = self.judge(&error);
                    group.remove(index).answer(Err(error));
                }
                Attempt::Failed(error) => {
                    let kind = self.judge(&error);
                    tracing::error!(error = %error, changes = group.len(), "records: a group of changes failed");
                    return answer_all(group, || kind.clone());
                }
            }
        }
    }

    fn attempt(&mut self, group: &mut [Box<dyn Job>]) -> Attempt {
        let mut change = Change {
            connection: &self.connection,
            now: self.shared.clock.now(),
            wall: unix_seconds(),
            notes: Notes::default(),
            shared: &self.shared,
        };
        let (mut failed, mut applied, began) = (Vec::new(), 0, Instant::now());
        if let Err(error) = self.connection.execute_batch("BEGIN IMMEDIATE") {
            return Attempt::Failed(error);
        }
        for (index, job) in group.iter_mut().enumerate() {
            let before = std::mem::take(&mut change.notes);
            let result = run_in_savepoint(job.as_mut(), &mut change);
            let kept = matches!(result, Ok(true));
            let notes = std::mem::replace(&mut change.notes, before);
            if kept {
                change.notes.touched.extend(notes.touched);
                change.notes.touched_all |= notes.touched_all;
                change.notes.rescued += notes.rescued;
                change.notes.keep_time |= notes.keep_time;
            }
            if let Err(error) = result {
                // FULL, IOERR, NOMEM and BUSY may have rolled back the whole transaction and with
                // it the changes before this one: they run again without it.
                // https://www.sqlite.org/c3ref/get_autocommit.html
                if self.connection.is_autocommit() {
                    return Attempt::Lost { index, error };
                }
                failed.push((index, error));
            }
            applied += 1;
            if began.elapsed() > GROUP_TIME && !fail_point!("group-time", off) {
                break;
            }
        }
        let (now, notes) = (change.now, change.notes);
        if let Err(error) = self.finish(now, notes.keep_time) {
            if !self.connection.is_autocommit() {
                let _ = self.connection.execute_batch("ROLLBACK");
            }
            return Attempt::Failed(error);
        }
        self.publish(&notes);
        Attempt::Done { applied, failed }
    }

    /// Stores the clock if it is time, and commits. Without a change that is nothing: an idle
    /// registry leaves the disk alone.
    fn finish(&mut self, now: GcTime, keep_time: bool) -> rusqlite::Result<()> {
        let save_clock = keep_time && now.since(self.saved_clock) > CLOCK_LAG_MAX;
        if save_clock {
            schema::set_meta(&self.connection, "gc_clock", to_sql(now))?;
        }
        fail_point!("records-before-commit");
        if fail_point!("commit", off) {
            return self.connection.execute_batch("ROLLBACK");
        }
        if fail_point!("commit-fails", io).is_err() {
            let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
            return Err(rusqlite::Error::SqliteFailure(busy, None));
        }
        let began = Instant::now();
        self.connection.execute_batch("COMMIT")?;
        self.shared.failing.store(false, Ordering::Release);
        if let Some(commits) = &self.commits {
            commits.observe(began.elapsed().as_secs_f64());
        }
        fail_point!("records-after-commit");
        if save_clock {
            self.saved_clock = now;
        }
        Ok(())
    }

    /// After COMMIT and before any answer: what readers remember becomes void.
    fn publish(&self, notes: &Notes) {
        if notes.touched_all {
            self.shared.stamps.move_all();
        }
        for repo in &notes.touched {
            self.shared.stamps.move_on(repo);
        }
        self.shared.rescued.fetch_add(notes.rescued, Ordering::Relaxed);
    }

    fn answer(&self, group: Vec<Box<dyn Job>>, failed: Vec<(usize, rusqlite::Error)>) {
        let mut failed = failed.into_iter().peekable();
        for (index, job) in group.into_iter().enumerate() {
            match failed.next_if(|(failed, _)| *failed == index) {
                Some((_, error)) => {
                    tracing::error!(error = %error, "records: a change failed");
                    job.answer(Err(self.judge(&error)));
                }
                None => job.answer(Ok(())),
            }
        }
    }

    /// What a failure means for whoever asked, and for everybody after.
    fn judge(&self, error: &rusqlite::Error) -> RecordsError {
        if is_full(error) {
            return RecordsError::Full;
        }
        if !fail_point!("failing", off) {
            self.shared.failing.store(true, Ordering::Release);
        }
        if is_lost_write(error) {
            self.shared.poison(error);
            return RecordsError::ReadOnly;
        }
        RecordsError::Failed(error.to_string())
    }

    fn close(&mut self) -> Result<()> {
        self.checkpointer.stop();
        if self.shared.is_poisoned() {
            return Err(RecordsError::ReadOnly);
        }
        let now = self.shared.clock.now();
        let closed = self
            .connection
            .execute_batch("BEGIN IMMEDIATE")
            .and_then(|()| schema::set_meta(&self.connection, "gc_clock", to_sql(now)))
            .and_then(|()| schema::set_meta(&self.connection, "clean", 1))
            .and_then(|()| self.connection.execute_batch("COMMIT"))
            // So that the next start has nothing to recover, and a copy of the one file is whole.
            .and_then(|()| {
                self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            });
        closed.map_err(|error| self.judge(&error))
    }
}

enum Attempt {
    /// Committed, so many of them from the first, but for these.
    Done { applied: usize, failed: Vec<(usize, rusqlite::Error)> },
    /// This change took the whole transaction down with it.
    Lost { index: usize, error: rusqlite::Error },
    /// Nothing happened.
    Failed(rusqlite::Error),
}

fn run_in_savepoint(job: &mut dyn Job, change: &mut Change<'_>) -> rusqlite::Result<bool> {
    let connection = change.connection;
    connection.prepare_cached("SAVEPOINT change")?.execute([])?;
    fail_point!("records-apply");
    let result = job.apply(change);
    if connection.is_autocommit() {
        // No transaction is left to roll back in.
        return result.and(Err(rusqlite::Error::InvalidQuery));
    }
    if !matches!(result, Ok(true)) {
        connection.prepare_cached("ROLLBACK TO change")?.execute([])?;
    }
    connection.prepare_cached("RELEASE change")?.execute([])?;
    result
}

fn answer_all(group: Vec<Box<dyn Job>>, error: impl Fn() -> RecordsError) {
    for job in group {
        job.answer(Err(error()));
    }
}

fn to_sql(time: GcTime) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn unix_seconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
    match error {
        // The shared-memory index beside the WAL grows by a write of its own, whose lack of space
        // SQLite reports as an IO error.
        rusqlite::Error::SqliteFailure(failure, _) => {
            failure.code == ErrorCode::DiskFull || failure.extended_code == SQLITE_IOERR_SHMSIZE
        }
        _ => false,
    }
}

/// Whether a write or sync failed, so that what is on disk is unknown. A failed *read* loses
/// nothing.
pub(super) fn is_lost_write(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{
        SQLITE_IOERR_DIR_FSYNC, SQLITE_IOERR_FSYNC, SQLITE_IOERR_TRUNCATE, SQLITE_IOERR_WRITE,
    };
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => matches!(
            failure.extended_code,
            SQLITE_IOERR_FSYNC
                | SQLITE_IOERR_WRITE
                | SQLITE_IOERR_DIR_FSYNC
                | SQLITE_IOERR_TRUNCATE
        ),
        _ => false,
    }
}
