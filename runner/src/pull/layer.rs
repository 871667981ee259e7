//! One layer: fetched, verified, unpacked at the same time.
//!
//! ```text
//! registry ─▶ sha256 ─▶ ingest/….part ─▶ (page cache) ─▶ workers ─▶ work/… ─▶ layers/…
//! ```
//!
//! The download never waits for the unpacking, nor the other way round: the file stands between
//! them. What an earlier pull left in it is fed and hashed in the same way.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use rustix::io::Errno;
use shared::{Digest, Hasher};
use tokio::sync::Semaphore;

use super::PullError;
use super::client::Client;
use super::error::human_bytes;
use super::progress::{LayerState, Progress};
use super::resolve::LayerToFetch;
use crate::images::{
    FORMAT, LayerFacts, LayerLock, Lease, Locking, Marks, Part, Staging, Store, StoreError,
    boot_id, layer_path,
};
use crate::unpack::{Limits, Outcome, Refusal, RefusalKind, Unpacked, Workers};

/// How often a broken connection is taken up again without a byte arriving in between.
const ATTEMPTS_MAX: u32 = 5;
const BACKOFF: Duration = Duration::from_millis(250);
/// How often the lock of a layer that another process produces is tried.
const LOCK_RETRY: Duration = Duration::from_millis(20);
const FEED_BYTES: usize = 1 << 20;

pub(crate) struct Fetcher<'a> {
    pub(crate) store: &'a Store,
    pub(crate) lease: &'a Lease,
    pub(crate) client: &'a Client,
    pub(crate) program: &'a Path,
    pub(crate) limits: Limits,
    pub(crate) progress: &'a Progress,
    /// How many layers are worked on at once.
    pub(crate) slots: Semaphore,
    /// `--pull never`: only from what the store has.
    pub(crate) offline: bool,
}

/// How much of a blob is in its file.
#[derive(Default)]
struct Arrived {
    state: Mutex<ArrivedState>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct ArrivedState {
    length: u64,
    ended: bool,
    failed: bool,
}

impl Arrived {
    fn change(&self, change: impl FnOnce(&mut ArrivedState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Waits until there is more than `fed`, or no more to come.
    fn more_than(&self, fed: u64) -> ArrivedState {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *self
            .changed
            .wait_while(state, |state| state.length <= fed && !state.ended && !state.failed)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the feeding thread go when the download is given up.
struct GivenUp(Arc<Arrived>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.change(|state| state.failed |= !state.ended);
    }
}

/// Why an attempt at a layer did not end well.
enum Stop {
    /// The bytes at hand are not the blob's: once more, from nothing.
    Restart,
    Fail(PullError),
}

impl<E: Into<PullError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Fail(error.into())
    }
}

/// Where a blob's bytes come from.
enum Source {
    /// It is in the store, whole.
    Blob(File),
    Part(Part),
}

impl Fetcher<'_> {
    /// Brings one layer into the store, unless it is there. Answers whether it had to be unpacked.
    pub(crate) async fn fetch(&self, layer: &LayerToFetch) -> Result<bool, PullError> {
        if self.is_here(layer)? {
            self.progress.state(&layer.blob, LayerState::AlreadyExists);
            return Ok(false);
        }
        self.progress.state(&layer.blob, LayerState::Pulling);
        let (_slot, _lock) = self.become_producer(layer).await?;
        // Whoever held the lock has finished it, or died.
        if self.is_here(layer)? {
            self.progress.state(&layer.blob, LayerState::AlreadyExists);
            return Ok(false);
        }
        self.store.discard_torn(&layer_path(&layer.diff_id))?;
        match self.attempt(layer).await {
            Err(Stop::Restart) => {}
            Err(Stop::Fail(error)) => return Err(error),
            Ok(()) => return Ok(true),
        }
        self.store.discard_part(&layer.blob);
        match self.attempt(layer).await {
            Ok(()) => Ok(true),
            Err(Stop::Fail(error)) => Err(error),
            Err(Stop::Restart) => {
                let why = "does not serve the same layer twice alike";
                Err(self.client.protocol(why.into()))
            }
        }
    }

    fn is_here(&self, layer: &LayerToFetch) -> Result<bool, PullError> {
        let _hold = self.store.hold_shared()?;
        self.lease.add_layer(&layer.diff_id)?;
        self.lease.add_blob(&layer.blob)?;
        match self.store.layer(&layer.diff_id) {
            Ok(_) => Ok(true),
            Err(StoreError::NoSuchLayer(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A slot first, then the lock: so a lock is never held by somebody who waits for a slot.
    async fn become_producer(
        &self,
        layer: &LayerToFetch,
    ) -> Result<(tokio::sync::SemaphorePermit<'_>, LayerLock), PullError> {
        loop {
            let slot = self.slots.acquire().await.map_err(|_| PullError::Worker {
                layer: layer.blob.clone(),
                why: "the pull is being given up".into(),
            })?;
            match self.store.try_lock_layer(&layer.diff_id)? {
                Locking::Taken(lock) => return Ok((slot, lock)),
                Locking::Busy(pid) => {
                    self.progress.state(&layer.blob, LayerState::WaitingFor(pid));
                    drop(slot);
                    tokio::time::sleep(LOCK_RETRY).await;
                }
            }
        }
    }

    async fn attempt(&self, layer: &LayerToFetch) -> Result<(), Stop> {
        let mut source = match self.store.open_blob(&layer.blob)? {
            Some(file) => Source::Blob(file),
            None if self.offline => {
                return Err(PullError::NotLocal(self.client.image().to_string()).into());
            }
            None => Source::Part(self.store.open_part(&layer.blob)?),
        };
        let file = match &source {
            Source::Blob(file) => file.try_clone(),
            Source::Part(part) => part.file.try_clone(),
        };
        let file = file.map_err(|error| self.failed(layer, &error))?;
        let staging = self.store.stage()?;
        let algorithm = layer.diff_id.0.algorithm();
        let tree = staging.tree();
        let workers = Workers::start(
            self.program,
            &tree,
            algorithm,
            self.limits,
            layer.size,
            self.store.ids(),
        )
        .map_err(|error| self.failed(layer, &error))?;
        let arrived = Arc::new(Arrived::default());
        let _given_up = GivenUp(Arc::clone(&arrived));
        let feeding = feed(file, workers, Arc::clone(&arrived), self.progress, &layer.blob);
        let mut feeding = tokio::task::spawn_blocking(feeding);
        let (bytes, outcome) = {
            let bytes = self.bytes(layer, &mut source, &arrived);
            tokio::pin!(bytes);
            tokio::select! {
                bytes = &mut bytes => {
                    arrived.change(|state| if bytes.is_ok() { state.ended = true } else { state.failed = true });
                    (bytes, (&mut feeding).await)
                }
                outcome = &mut feeding => match &outcome {
                    // Whether the bytes themselves are wrong decides what is to be said.
                    Ok(Ok(Outcome::Refused(refusal))) if is_about_bytes(refusal.kind) => {
                        (bytes.await, outcome)
                    }
                    _ => (Ok(()), outcome),
                },
            }
        };
        bytes?;
        let outcome = outcome.map_err(|error| self.failed(layer, &std::io::Error::other(error)))?;
        let outcome = outcome.map_err(|error| self.failed(layer, &error))?;
        self.conclude(layer, outcome, source, staging)
    }

    /// All bytes have come and are right; whether the layer is, the outcome says.
    fn conclude(
        &self,
        layer: &LayerToFetch,
        outcome: Outcome,
        source: Source,
        staging: Staging<'_>,
    ) -> Result<(), Stop> {
        let unpacked = match outcome {
            Outcome::Unpacked(unpacked) if unpacked.diff_id == layer.diff_id => unpacked,
            Outcome::Unpacked(unpacked) => {
                self.store.discard_part(&layer.blob);
                return Err(Stop::Fail(PullError::Corrupt {
                    image: self.client.image().to_string(),
                    what: format!("the content of layer {} ({})", layer.blob, layer.diff_id),
                    got: unpacked.diff_id.to_string(),
                }));
            }
            Outcome::Refused(refusal) => return Err(Stop::Fail(self.refused(layer, refusal))),
            Outcome::Died(why) => {
                return Err(PullError::Worker { layer: layer.blob.clone(), why }.into());
            }
        };
        if let Source::Part(part) = source {
            self.store.commit_part(part, &layer.blob)?;
        }
        let facts = facts(unpacked, self.store.marks)?;
        staging.commit_layer(&layer.diff_id, &facts)?;
        self.progress.state(&layer.blob, LayerState::PullComplete);
        Ok(())
    }

    fn refused(&self, layer: &LayerToFetch, refusal: Refusal) -> PullError {
        if refusal.kind != RefusalKind::NoSpace {
            self.store.discard_part(&layer.blob);
            return PullError::Unpack { layer: layer.blob.clone(), refusal: Box::new(refusal) };
        }
        // How much the whole of it takes is known for what is known of it; the rest is a guess
        // from the usual ratio of gzip.
        let whole = refusal.tar_bytes.max(layer.size.saturating_mul(3));
        self.no_space(whole.saturating_sub(refusal.tar_bytes).max(1))
    }

    fn no_space(&self, needed: u64) -> PullError {
        PullError::NoSpace {
            image: self.client.image().to_string(),
            needed: format!("about {}", human_bytes(needed)),
            free: human_bytes(self.store.free_bytes().unwrap_or(0)),
            root: self.store.root().to_owned(),
        }
    }

    fn failed(&self, layer: &LayerToFetch, error: &std::io::Error) -> PullError {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                self.no_space(layer.size)
            }
            _ => PullError::Worker { layer: layer.blob.clone(), why: error.to_string() },
        }
    }

    /// Sees to it that all of the blob's bytes are in its file and have its digest.
    async fn bytes(
        &self,
        layer: &LayerToFetch,
        source: &mut Source,
        arrived: &Arrived,
    ) -> Result<(), Stop> {
        let mut hasher = Hasher::new(layer.blob.algorithm());
        match source {
            Source::Blob(file) => {
                let length = file.metadata().map_err(|error| self.failed(layer, &error))?.len();
                arrived.change(|state| state.length = length);
                self.hash_start(layer, file, length, &mut hasher).await?;
                if length == layer.size && hasher.finish() == layer.blob {
                    return Ok(());
                }
                // Rotten, or torn by a power cut: it is fetched again.
                self.store.discard_blob(&layer.blob);
                Err(Stop::Restart)
            }
            Source::Part(part) => {
                if part.length > layer.size {
                    return Err(Stop::Restart);
                }
                let resumed = part.length > 0;
                arrived.change(|state| state.length = part.length);
                self.hash_start(layer, &part.file, part.length, &mut hasher).await?;
                if let Err(stop) = self.download(layer, part, &mut hasher, arrived).await {
                    if part.length == 0 {
                        self.store.discard_part(&layer.blob);
                    }
                    return Err(stop);
                }
                self.progress.state(&layer.blob, LayerState::Verifying);
                let got = hasher.finish();
                if got == layer.blob {
                    self.progress.state(&layer.blob, LayerState::DownloadComplete);
                    return Ok(());
                }
                if resumed {
                    // A file torn by a power cut is our fault, not the registry's.
                    return Err(Stop::Restart);
                }
                self.store.discard_part(&layer.blob);
                Err(self.corrupt(layer, got.to_string()).into())
            }
        }
    }

    async fn hash_start(
        &self,
        layer: &LayerToFetch,
        file: &File,
        length: u64,
        hasher: &mut Hasher,
    ) -> Result<(), PullError> {
        let mut buffer = vec![0; if length == 0 { 0 } else { FEED_BYTES }];
        let mut at = 0;
        while at < length {
            let take = usize::try_from(length - at).unwrap_or(usize::MAX).min(buffer.len());
            file.read_exact_at(&mut buffer[..take], at)
                .map_err(|error| self.failed(layer, &error))?;
            hasher.update(&buffer[..take]);
            at += take as u64;
            self.progress.downloaded(&layer.blob, at, layer.size);
            // Other layers' downloads go on meanwhile.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Appends what is missing, taking up broken connections where they broke.
    async fn download(
        &self,
        layer: &LayerToFetch,
        part: &mut Part,
        hasher: &mut Hasher,
        arrived: &Arrived,
    ) -> Result<(), Stop> {
        let mut attempt = 0;
        while part.length < layer.size {
            let before = part.length;
            let problem = match self.request(layer, part).await {
                Ok(response) => self.receive(layer, part, hasher, arrived, response).await?,
                Err(Stop::Fail(error)) if is_transient(&error) => Some(error),
                Err(stop) => return Err(stop),
            };
            let Some(problem) = problem else { continue };
            attempt = if part.length > before { 1 } else { attempt + 1 };
            if attempt >= ATTEMPTS_MAX {
                return Err(problem.into());
            }
            tracing::debug!(layer = %layer.blob, at = part.length, %problem, "download broke off");
            tokio::time::sleep(BACKOFF * 2u32.pow(attempt)).await;
        }
        Ok(())
    }

    async fn request(&self, layer: &LayerToFetch, part: &mut Part) -> Result<Response, Stop> {
        let mut headers = HeaderMap::new();
        if part.length > 0 {
            let range = format!("bytes={}-", part.length);
            headers.insert(header::RANGE, HeaderValue::try_from(range).map_err(|_| Stop::Restart)?);
            // By convention the ETag is the digest; where it is another one, it was written down.
            let etag = self.store.part_etag(&layer.blob).unwrap_or(format!("\"{}\"", layer.blob));
            if let Ok(etag) = HeaderValue::try_from(etag) {
                headers.insert(header::IF_RANGE, etag);
            }
        }
        let path = format!("blobs/{}", layer.blob);
        let response = self.client.send(Method::GET, &path, headers).await?;
        let length = response.content_length();
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let wanted = format!("bytes {}-", part.length);
                let range = response.headers().get(header::CONTENT_RANGE);
                if !range.is_some_and(|range| range.as_bytes().starts_with(wanted.as_bytes())) {
                    return Err(Stop::Restart);
                }
            }
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(Stop::Restart),
            // The server begins at the beginning; so must we.
            _ if part.length > 0 => return Err(Stop::Restart),
            _ => self.remember_etag(layer, &response)?,
        }
        match length {
            Some(length) if length != layer.size - part.length => {
                self.store.discard_part(&layer.blob);
                let got = format!("{} bytes, not {}", part.length + length, layer.size);
                Err(self.corrupt(layer, got).into())
            }
            _ => Ok(response),
        }
    }

    fn remember_etag(&self, layer: &LayerToFetch, response: &Response) -> Result<(), PullError> {
        let etag = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok());
        // A weak one does for nothing here (RFC 9110, If-Range).
        match etag.filter(|etag| !etag.starts_with("W/")) {
            Some(etag) if etag.trim_matches('"') != layer.blob.to_string() => {
                Ok(self.store.write_part_etag(&layer.blob, etag)?)
            }
            _ => Ok(()),
        }
    }

    /// Answers what broke the connection; none when the answer came to its end.
    async fn receive(
        &self,
        layer: &LayerToFetch,
        part: &mut Part,
        hasher: &mut Hasher,
        arrived: &Arrived,
        mut response: Response,
    ) -> Result<Option<PullError>, Stop> {
        use std::io::{Seek, SeekFrom};
        part.file.seek(SeekFrom::Start(part.length)).map_err(|error| self.failed(layer, &error))?;
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) if part.length == layer.size => return Ok(None),
                Ok(None) => {
                    let why = format!("ended the layer at byte {}", part.length);
                    return Ok(Some(self.client.protocol(why)));
                }
                Err(error) => return Ok(Some(self.client.transport_error(&error))),
            };
            if part.length + chunk.len() as u64 > layer.size {
                self.store.discard_part(&layer.blob);
                let got = format!("more than its {} bytes", layer.size);
                return Err(self.corrupt(layer, got).into());
            }
            part.file.write_all(&chunk).map_err(|error| self.failed(layer, &error))?;
            hasher.update(&chunk);
            part.length += chunk.len() as u64;
            arrived.change(|state| state.length = part.length);
            self.progress.downloaded(&layer.blob, part.length, layer.size);
        }
    }

    fn corrupt(&self, layer: &LayerToFetch, got: String) -> PullError {
        let image = self.client.image().to_string();
        PullError::Corrupt { image, what: format!("layer {}", layer.blob), got }
    }
}

/// Refusals that wrong bytes explain as well as a wrong layer.
fn is_about_bytes(kind: RefusalKind) -> bool {
    matches!(kind, RefusalKind::Compression | RefusalKind::Format | RefusalKind::Starved)
}

fn is_transient(error: &PullError) -> bool {
    match error {
        PullError::Status { status, .. } => *status >= 500 || *status == 429,
        PullError::Refused { .. } | PullError::Unreachable { .. } => true,
        _ => false,
    }
}

fn facts(unpacked: Unpacked, marks: Marks) -> Result<LayerFacts, StoreError> {
    Ok(LayerFacts {
        format: FORMAT,
        form: "directory".into(),
        boot_id: boot_id()?,
        xattrs: marks.name().into(),
        entries: unpacked.entries,
        bytes: unpacked.bytes,
        tar_bytes: unpacked.tar_bytes,
        implied: unpacked.implied,
        whiteouts_in: unpacked.whiteouts_in,
        root: unpacked.root,
        opaque_root: unpacked.opaque_root,
        id_max: Some(unpacked.id_max),
    })
}

/// What a thread does that hands a file to the workers as it grows.
fn feed(
    file: File,
    workers: Workers,
    arrived: Arc<Arrived>,
    progress: &Progress,
    blob: &Digest,
) -> impl FnOnce() -> std::io::Result<Outcome> + Send + 'static {
    let (progress, blob) = (progress.clone(), blob.clone());
    move || {
        let mut fed = 0u64;
        loop {
            let state = arrived.more_than(fed);
            if state.failed {
                // Dropping the workers ends them.
                return Err(std::io::Error::other("the download was given up"));
            }
            if state.length == fed {
                break;
            }
            let Some(stdin) = workers.stdin() else { break };
            match feed_some(&file, stdin, &mut fed, state.length) {
                // The workers have gone, and say why.
                Err(Errno::PIPE) => break,
                other => other?,
            }
            progress.extracted(&blob, fed);
        }
        workers.finish()
    }
}

/// Moves bytes from the page cache into the pipe without copying them here.
fn feed_some(
    file: &File,
    stdin: std::os::fd::BorrowedFd<'_>,
    fed: &mut u64,
    until: u64,
) -> rustix::io::Result<()> {
    let take = usize::try_from(until - *fed).unwrap_or(usize::MAX).min(FEED_BYTES);
    let flags = rustix::pipe::SpliceFlags::empty();
    match rustix::pipe::splice(file, Some(fed), stdin, None, take, flags) {
        Ok(0) => Err(Errno::IO),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        // A file system without splice.
        Err(Errno::INVAL) => {
            let mut buffer = vec![0; take.min(64 << 10)];
            let count = rustix::io::pread(file, &mut buffer, *fed)?;
            crate::images::write_all(stdin, &buffer[..count])?;
            *fed += count as u64;
            Ok(())
        }
        Err(error) => Err(error),
    }
}
