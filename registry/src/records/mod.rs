//! Mutable facts: which repository holds which blob, what a tag names, who refers to whom, and
//! what waits for collection. Bytes of blobs are elsewhere (`store/`); bytes of manifests are here,
//! so that a manifest push is one change and one sync.
//!
//! Every operation of [`Records`] is whole: it either happened, durably and all of it, or it did
//! not. No transaction, closure or iterator crosses the trait, because the next implementation has
//! none to give.
//!
//! # The state machine
//! ```text
//! link(repo, digest):  live -> condemned(at) -> absent        blob(digest):  live -> removing -> gone
//! ```
//! - A link is condemned only while no manifest of its repository names it, and removed only if it
//!   is still condemned, still unnamed, and `grace` has passed since. An upload, a mount, a
//!   manifest push and a HEAD that meet a condemned link turn it live again; meeting a live one
//!   they write nothing.
//! - So the condemned period *is* the lease of whoever saw the link: what was live at `h` cannot go
//!   before `h + grace`, and a HEAD of a live link costs no write.
//! - A blob is removed only while no link to it exists, condemned ones included.
//! - Whatever may orphan something queues it for review in the same change. Invariant: a live link
//!   that no manifest names, a condemned link and an unlinked blob each have a review queued.
//!
//! # Who locks
//! The records serialise facts, not files. [`Records::publish`],
//! [`Records::begin_removal`] to [`Records::end_removal`], and [`Records::quarantine`] are called
//! under the per-digest lock of `content/`, held from before the first effect on the blob's file
//! until after the last change here.

mod clock;
#[cfg(test)]
mod histories;
pub mod memory;
pub mod sqlite;
mod stamps;
#[cfg(test)]
mod suite;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use shared::{Digest, Reference, RepoName, Tag};

pub use clock::{GcClock, GcTime};

/// Why an operation on the records did not happen.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RecordsError {
    /// No space for the change. Nothing changed; it may work again once there is space.
    #[error("no space left for the records")]
    Full,
    /// An earlier write or sync failed, so that what is on disk is no longer known for certain.
    /// Reads go on; writes work again after a restart, which reads back what was kept.
    #[error("the records are read-only since a write to disk failed")]
    ReadOnly,
    /// The records are being closed, or are closed.
    #[error("the records are closed")]
    Closed,
    /// Anything else: evidence for the log. Nothing changed.
    #[error("the records failed: {0}")]
    Failed(String),
    /// What keeps them cannot be reached, for now. Nothing changed.
    #[error("the records cannot be reached")]
    Unavailable,
    /// Nobody knows whether the change happened, and nobody may assume either.
    #[error("whether the change was recorded is not known")]
    Unknown,
}

pub type Result<T, E = RecordsError> = std::result::Result<T, E>;

/// Where the bytes of a blob are. Made by the store that published them, and kept here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where its digest says.
    File,
}

/// Proof that a repository holds a blob; the only way to a readable one.
///
/// Invariant: made by [`Records`] only, after the link was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoBlob {
    digest: Digest,
    size: u64,
    place: Place,
    condemned: bool,
}

impl RepoBlob {
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Whether the link waits for removal. Whoever promises the blob to a client that may name it
    /// later (a HEAD, not a GET) gets it from [`Records::promise_blob`].
    pub fn condemned(&self) -> bool {
        self.condemned
    }
}

/// Verified bytes that were published.
#[derive(Clone, Debug)]
pub struct Publish {
    pub repo: RepoName,
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    pub place: Place,
    /// Whether an earlier request may have published them.
    pub resumed: bool,
}

impl Publish {
    /// Bytes that lie where their digest says.
    pub fn file(repo: &RepoName, digest: &Digest, size: u64) -> Self {
        let (repo, digest) = (repo.clone(), digest.clone());
        Self { repo, digest, size, place: Place::File, resumed: false }
    }
}

/// Which bytes of a digest are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Those that were published just now.
    Mine,
    /// Others of the same digest, which were there.
    Other,
    /// None: they may have been removed since they were published. The upload begins anew.
    StartOver,
}

/// A manifest as it was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredManifest {
    pub digest: Digest,
    pub media_type: String,
    pub bytes: Bytes,
}

/// What a child descriptor may resolve to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildKind {
    /// A config or a layer.
    Blob,
    /// An entry of an index: BuildKit before 0.21 lists layer blobs there.
    ManifestOrBlob,
}

/// One thing that a manifest names (config, layer, entry of an index; not the subject).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    pub digest: Digest,
    pub kind: ChildKind,
    /// Whether the push is refused when the repository lacks it ([`Missing::Refuse`]). False for
    /// layers that a registry may lack, because they are fetched by their `urls`.
    pub required: bool,
}

/// What happens to a manifest whose children the repository lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Refuse it: [`PutManifestError::Missing`].
    Refuse,
    /// Take it: sparse images and indexes (`validation.manifests.missing: accept`).
    Accept,
}

/// The edge from a manifest to its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// May be absent from the repository.
    pub subject: Digest,
    /// The manifest's `artifactType`, or its config's media type.
    pub artifact_type: String,
    /// The descriptor that the referrers API lists: one JSON object.
    pub descriptor: String,
}

/// A manifest push: everything that changes with it.
#[derive(Clone, Debug)]
pub struct PutManifest {
    pub repo: RepoName,
    /// Of `bytes`; verified by the caller.
    pub digest: Digest,
    pub media_type: String,
    pub bytes: Bytes,
    /// In the manifest's order; the same digest may stand there twice.
    pub children: Vec<Child>,
    pub referrer: Option<Referrer>,
    /// Tags that name the manifest from now on.
    pub tags: Vec<Tag>,
    pub missing: Missing,
}

/// What a manifest push found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutOutcome {
    /// Whether the repository did not have the manifest before.
    pub created: bool,
}

/// Missing children that are named at most: whoever lacks more will learn of them with the next push.
pub const MISSING_MAX: usize = 100;

/// Why a manifest push did not happen.
#[derive(Debug, thiserror::Error)]
pub enum PutManifestError {
    /// The repository lacks these required children; in the manifest's order, each once, the first
    /// [`MISSING_MAX`] of them.
    #[error("the manifest names {} blobs or manifests that the repository lacks", .0.len())]
    Missing(Vec<Digest>),
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// Part of an ordered list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub entries: Vec<T>,
    /// Whether the list goes on after the last entry.
    pub more: bool,
}

/// Part of the list of a subject's referrers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReferrerPage {
    /// JSON objects, as [`Referrer::descriptor`] gave them.
    pub descriptors: Vec<String>,
    /// What to pass as `after` for the rest; `None` at the end. Letters, digits, `-` and `_` only.
    pub next: Option<String>,
}

/// What a round of reviews did. See [`Records::review`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reviewed {
    /// Reviews settled.
    pub settled: u64,
    /// Links that turned from live to condemned.
    pub condemned: u64,
    /// Links that were condemned and found named: live again.
    pub rescued: u64,
    /// Links removed after their grace.
    pub unlinked: u64,
    /// Blobs that no link names any more: the caller removes each by [`Records::begin_removal`],
    /// or finds it linked again.
    pub removable: Vec<Digest>,
    /// Where to go on; `None` when nothing in scope is left.
    pub next: Option<ReviewCursor>,
}

/// Which reviews to settle.
#[derive(Clone, Debug)]
pub struct ReviewScope {
    /// How long a link stays condemned before it is removed. Zero removes at once what nobody
    /// names, and suspends the promise to pushes under way.
    pub grace: Duration,
    /// False: what is due. True: everything queued, due or not.
    pub all: bool,
    /// At most so many.
    pub max: usize,
    /// From an earlier round's [`Reviewed::next`].
    pub after: Option<ReviewCursor>,
}

/// A place in the queue of reviews, in words of the implementation's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReviewCursor(String);

/// What waits for collection, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Reviews queued, due or not.
    pub reviews: u64,
    /// When the first of them is due.
    pub next_review: Option<GcTime>,
    /// Links condemned.
    pub condemned_links: u64,
    /// Bytes of the blobs that have condemned links only.
    pub condemned_bytes: u64,
    /// When the first and the last condemned link were condemned.
    pub condemned_first: Option<GcTime>,
    pub condemned_last: Option<GcTime>,
    /// Links that a HEAD, an upload, a mount, a push or a review turned live again since the start.
    pub rescued: u64,
    /// Blobs being removed.
    pub removing: u64,
    /// Blobs found rotten and not yet healed.
    pub quarantined: u64,
}

/// How far the scrub has come. It outlives the process: a store that takes longer to read than its
/// server runs at a time would otherwise never be read to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubProgress {
    /// The last blob that the pass under way has looked at; `None` between two passes.
    pub after: Option<Digest>,
    /// When the last whole pass ended.
    pub finished: Option<GcTime>,
}

/// How much is stored. See [`Records::totals`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub repositories: u64,
    pub tags: u64,
    pub manifests: u64,
    /// Blobs with bytes, each counted once.
    pub blobs: u64,
    pub blob_bytes: u64,
}

/// What could be freed. See [`Records::reclaimable`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimable {
    pub blobs: u64,
    pub bytes: u64,
}

/// What the records know about a blob, whoever links it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobRecord {
    pub digest: Digest,
    pub size: u64,
    pub state: BlobState,
    /// Repositories that link it, condemned links included.
    pub links: u64,
}

/// The state of a blob's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobState {
    Live,
    /// Its file is being removed; no link exists.
    Removing,
    /// Found rotten: not served, not linkable, until it is published anew.
    Quarantined,
}

/// What a repository holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoUsage {
    pub repo: RepoName,
    pub tags: u64,
    pub manifests: u64,
    pub manifest_bytes: u64,
    pub blobs: u64,
    /// Bytes of its blobs, each counted once, shared ones included.
    pub blob_bytes: u64,
    /// Bytes of the blobs that no other repository links.
    pub own_bytes: u64,
}

/// Something in the records that contradicts a promise. See [`Records::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A manifest's bytes do not match its digest.
    ManifestRotten { repo: RepoName, digest: Digest },
    /// A manifest names something that was there when it was pushed, that no client deleted, and
    /// that the repository does not have.
    ChildMissing { repo: RepoName, manifest: Digest, child: Digest },
    /// A tag names a manifest that is not there.
    TagDangling { repo: RepoName, tag: Tag },
    /// A link names a blob that is not there or is being removed.
    LinkDangling { repo: RepoName, digest: Digest },
    /// A manifest is not protected or not found by way of what it names: an edge is missing.
    EdgeMissing { repo: RepoName, manifest: Digest, child: Digest },
    /// An edge of a manifest that is not there: it keeps space that should come back.
    EdgeStray { repo: RepoName, child: Digest },
    /// Nobody names it and no review is queued: its space would never come back.
    Unwatched { repo: Option<RepoName>, digest: Digest },
    /// A repository is listed without a manifest, or has manifests and is not listed.
    Listing { repo: RepoName },
    /// The database itself is damaged.
    Damaged { detail: String },
    /// Part of the database's file could not be looked at, because too much was written meanwhile.
    Unchecked { table: String },
}

impl Fault {
    /// Whether [`Records::check`] with `repair` puts it right, with certainty and without loss.
    pub fn is_repairable(&self) -> bool {
        match self {
            Self::EdgeMissing { .. }
            | Self::EdgeStray { .. }
            | Self::Unwatched { .. }
            | Self::Listing { .. } => true,
            Self::ManifestRotten { .. }
            | Self::ChildMissing { .. }
            | Self::TagDangling { .. }
            | Self::LinkDangling { .. }
            | Self::Damaged { .. }
            | Self::Unchecked { .. } => false,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ManifestRotten { repo, digest } => {
                write!(f, "{repo}@{digest}: the manifest's bytes do not match its digest")
            }
            Self::ChildMissing { repo, manifest, child } => {
                write!(f, "{repo}@{manifest}: names {child}, which the repository lacks")
            }
            Self::TagDangling { repo, tag } => {
                write!(f, "{repo}:{tag}: names a manifest that is not there")
            }
            Self::LinkDangling { repo, digest } => {
                write!(f, "{repo}@{digest}: links a blob that is not there")
            }
            Self::EdgeMissing { repo, manifest, child } => {
                write!(f, "{repo}@{manifest}: does not protect {child}, which it names")
            }
            Self::EdgeStray { repo, child } => {
                write!(f, "{repo}@{child}: is kept for a manifest that is not there")
            }
            Self::Unwatched { repo: Some(repo), digest } => {
                write!(f, "{repo}@{digest}: nobody names it and it is not queued for collection")
            }
            Self::Unwatched { repo: None, digest } => {
                write!(f, "{digest}: no repository links it and it is not queued for collection")
            }
            Self::Listing { repo } => {
                write!(f, "{repo}: the catalog and the repository's manifests disagree")
            }
            Self::Damaged { detail } => write!(f, "the database is damaged: {detail}"),
            Self::Unchecked { table } => write!(
                f,
                "table {table}: not looked at as a whole, too much is written to it: check again \
                 later, or a backup"
            ),
        }
    }
}

/// Part of a check of the records. See [`Records::check`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckPage {
    pub faults: Vec<Fault>,
    /// Records looked at.
    pub examined: u64,
    /// Where to go on; `None` at the end.
    pub next: Option<CheckCursor>,
}

/// A place in a check of the records, in words of the implementation's own; the default is the
/// beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckCursor(String);

/// The facts. Shared as `Arc<dyn Records>`.
///
/// **Durability**: when a changing operation returns `Ok`, the change survives `kill -9` and power
/// loss. When it returns an error, or its future is dropped, the change happened wholly or not at
/// all; [`RecordsError`] says which is known.
///
/// **Cost**: a logarithm of what is stored plus what is returned, unless an operation says
/// otherwise.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    // --- blobs ---

    /// Proof that `repo` holds `digest`, live or condemned; `None` for a quarantined blob too, so
    /// that a client pushes it again. Writes nothing.
    async fn find_blob(&self, repo: &RepoName, digest: &Digest) -> Result<Option<RepoBlob>>;

    /// The same for a HEAD that is about to answer 200: a condemned link is turned live first,
    /// unless nothing `may_write`. `None`: it is gone, answer 404. Of a live link nothing is
    /// written.
    async fn promise_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        may_write: bool,
    ) -> Result<Option<RepoBlob>>;

    /// The proof anew, where the bytes of an earlier one were not at their place: `None` when
    /// `repo` does not hold them any more.
    async fn find_again(&self, repo: &RepoName, blob: &RepoBlob) -> Result<Option<RepoBlob>> {
        self.find_blob(repo, blob.digest()).await
    }

    /// Records that verified bytes of a digest are durable at their place, and that a repository
    /// holds them: blob live (a quarantined one is healed), link live, review queued.
    ///
    /// Call under the digest's lock, after the bytes were published.
    async fn publish(&self, publish: Publish) -> Result<Kept>;

    /// Links a blob that `from` holds (or, without `from`, that any repository holds) to `to`, and
    /// turns a condemned link of `to` live. `None`: not found, nothing changed.
    ///
    /// Whoever has access rules asks [`Self::holders`] and passes one that the caller may read.
    async fn mount(
        &self,
        to: &RepoName,
        from: Option<&RepoName>,
        digest: &Digest,
    ) -> Result<Option<RepoBlob>>;

    /// Repositories that link `digest`, at most `max`.
    async fn holders(&self, digest: &Digest, max: usize) -> Result<Vec<RepoName>>;

    /// Removes the link at once, though manifests may name it, and queues the blob for review.
    /// False: there was none.
    async fn unlink_blob(&self, repo: &RepoName, digest: &Digest) -> Result<bool>;

    // --- manifests and tags ---

    /// Stores a manifest with its edges, its referrer entry and its tags, and turns the condemned
    /// links among its children live: one change.
    async fn put_manifest(&self, push: PutManifest) -> Result<PutOutcome, PutManifestError>;

    /// The manifest that a tag or a digest names.
    async fn resolve(
        &self,
        repo: &RepoName,
        reference: &Reference,
    ) -> Result<Option<StoredManifest>>;

    /// Deletes a manifest with all its tags and its referrer entry, and queues its children for
    /// review: one change. False: there was none.
    async fn delete_manifest(&self, repo: &RepoName, digest: &Digest) -> Result<bool>;

    /// Deletes a manifest that no tag, no index and no existing subject keeps and that was last
    /// pushed at `pushed_before` or earlier. False: it is kept, or there is none.
    async fn delete_untagged(
        &self,
        repo: &RepoName,
        digest: &Digest,
        pushed_before: GcTime,
    ) -> Result<bool>;

    /// Deletes a tag; its manifest stays. False: there was none.
    async fn delete_tag(&self, repo: &RepoName, tag: &Tag) -> Result<bool>;

    /// The tags after `last` (any text), in byte order, at most `n`. `None`: the repository is
    /// unknown, which means it has no manifest.
    async fn list_tags(
        &self,
        repo: &RepoName,
        last: Option<&str>,
        n: usize,
    ) -> Result<Option<Page<Tag>>>;

    /// The repositories that have a manifest, after `last` (any text), at most `n`. In byte order,
    /// but that `/` sorts before everything else, as distribution's catalog does.
    async fn list_repositories(&self, last: Option<&str>, n: usize) -> Result<Page<RepoName>>;

    /// The manifests whose subject is `subject`; only those of one of `types`, unless that is
    /// empty. A page ends before it exceeds `max_bytes` of descriptors, each
    /// with a comma, but has one at least.
    ///
    /// `after` is an earlier page's `next`; one that no page gave starts from the beginning.
    async fn referrers(
        &self,
        repo: &RepoName,
        subject: &Digest,
        types: &[String],
        after: Option<&str>,
        max_bytes: usize,
    ) -> Result<ReferrerPage>;

    // --- memory ---

    /// A number that is another one after every change to `repo`: it moves after the change is
    /// durable and before the operation returns. `None`: changes by others cannot be seen.
    ///
    /// So what was read may be kept with the stamp that was taken *before* the read, and served
    /// while the stamp is still the same.
    fn change_stamp(&self, repo: &RepoName) -> Option<u64>;

    /// Whether changes can succeed: false once a write to disk has failed.
    fn is_writable(&self) -> bool;

    /// Whether the last change could not be written, for a reason other than a full disk. The next
    /// one that is written ends it.
    fn is_failing(&self) -> bool;

    /// A change that nobody sees, to find out whether one can be written.
    async fn probe(&self) -> Result<()>;

    // --- collection ---

    /// Now, on the clock that ages are measured by.
    fn gc_now(&self) -> GcTime;

    /// Settles queued reviews, oldest first, as the state machine says: one change.
    async fn review(&self, scope: ReviewScope) -> Result<Reviewed>;

    /// What waits. Cost: proportional to what waits.
    async fn waiting(&self) -> Result<Waiting>;

    /// What a round over everything queued would free now, under this grace. Cost: proportional to
    /// what waits.
    async fn reclaimable(&self, grace: Duration) -> Result<Reclaimable>;

    /// Begins to remove a blob: where its bytes are, if no link to it exists, and then nothing can
    /// link it before it is published anew. Call under the digest's lock, then remove the bytes,
    /// then [`Self::end_removal`].
    async fn begin_removal(&self, digest: &Digest) -> Result<Option<Place>>;

    /// Forgets a blob whose bytes were removed. Does nothing unless it is in removal.
    async fn end_removal(&self, digest: &Digest, place: &Place) -> Result<()>;

    /// Blobs whose removal a crash interrupted, at most `max`. To be finished at start, each under
    /// its lock.
    async fn interrupted_removals(&self, max: usize) -> Result<Vec<Digest>>;

    /// Takes a blob whose bytes are rotten out of service until it is published anew. False: there
    /// is no such blob. Call under the digest's lock. The file stays in its place: the next
    /// publication replaces it.
    async fn quarantine(&self, digest: &Digest) -> Result<bool>;

    /// Forgets the repositories that hold nothing: a mount or an upload makes one, and collection
    /// may empty it again. Their number.
    /// Cost: proportional to all links, of which the writer pays nothing.
    async fn forget_repositories(&self) -> Result<u64>;

    /// Whether the last process closed the records; if not, files may lie about that no record
    /// knows, and a sweep looks for them. Cleared by [`Self::sweep_done`].
    fn needs_sweep(&self) -> bool;

    /// Records that the sweep went through.
    async fn sweep_done(&self) -> Result<()>;

    /// How far the scrub of an earlier process came.
    async fn scrub_progress(&self) -> Result<ScrubProgress>;

    /// Keeps how far the scrub has come.
    async fn save_scrub_progress(&self, progress: &ScrubProgress) -> Result<()>;

    // --- operators ---

    /// Blobs in an order of the implementation's own, after the digest `after`, at most `n`.
    async fn list_blobs(&self, after: Option<&Digest>, n: usize) -> Result<Vec<BlobRecord>>;

    /// What the records know about these blobs, in the same order.
    async fn find_blobs(&self, digests: &[Digest]) -> Result<Vec<Option<BlobRecord>>>;

    /// The manifests of `repo` after the digest `after`, at most `n`, in an order of the
    /// implementation's own; with `untagged`, only those that no tag, no index and no existing
    /// subject keeps and that were last pushed then or earlier.
    async fn list_manifests(
        &self,
        repo: &RepoName,
        untagged: Option<GcTime>,
        after: Option<&Digest>,
        n: usize,
    ) -> Result<Page<Digest>>;

    /// What `repo` holds; `None` when it is unknown. Cost: proportional to that.
    async fn usage(&self, repo: &RepoName) -> Result<Option<RepoUsage>>;

    /// Deletes every manifest and tag of a repository: one change. Its links go as those of any
    /// deleted manifest, after their grace. False: it is unknown.
    /// Cost: proportional to what it holds.
    async fn remove_repository(&self, repo: &RepoName) -> Result<bool>;

    /// How much is stored; `None` where that is not known yet.
    /// Cost: proportional to it, some 100 ms per million rows; the caller remembers the answer.
    async fn totals(&self) -> Result<Option<Totals>>;

    /// Checks part of the records against the promises they were written under, from `cursor` on,
    /// about `n` records; puts right what [`Fault::is_repairable`] with `repair`.
    async fn check(&self, cursor: CheckCursor, n: usize, repair: bool) -> Result<CheckPage>;

    /// Refuses further changes, finishes those under way, and marks the records as closed in order.
    async fn close(&self) -> Result<()>;
}
