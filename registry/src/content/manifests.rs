//! Manifests and tags: pushed as one change, read from memory where possible.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use shared::{Algorithm, Digest, Reference, RepoName, Tag};

use super::check::{Checked, check};
use super::{Content, ContentError, InvalidManifest};
use crate::failpoint::fail_point;
use crate::pool::slow;
use crate::records::{Page, PutManifest, PutManifestError, StoredManifest};

/// Why a manifest was not stored.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error(transparent)]
    Invalid(#[from] InvalidManifest),
    /// The bytes are not the digest's that the request named.
    #[error("the manifest's digest is {actual}")]
    DigestMismatch { actual: Digest },
    /// The repository lacks these.
    #[error("the manifest names content that the repository lacks")]
    Missing(Vec<Digest>),
    #[error(transparent)]
    Content(#[from] ContentError),
}

/// Why something was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    #[error("it is not there")]
    Unknown,
    #[error("deleting is turned off (storage.delete.enabled)")]
    Disabled,
    #[error(transparent)]
    Content(#[from] ContentError),
}

/// A stored manifest.
#[derive(Debug)]
pub struct Pushed {
    pub digest: Digest,
    pub subject: Option<Digest>,
}

/// Up to here a manifest is read where it arrives, in less time than it takes to have it done
/// elsewhere.
const INLINE_BYTES: usize = 32 << 10;

fn read_manifest(
    algorithm: Algorithm,
    named: Option<&Digest>,
    content_type: Option<&str>,
    bytes: &[u8],
) -> Result<(Digest, Checked), PushError> {
    fail_point!("manifest-read");
    let digest = Digest::of(algorithm, bytes);
    if named.is_some_and(|named| *named != digest) {
        return Err(PushError::DigestMismatch { actual: digest });
    }
    let checked = check(content_type, bytes, &digest)?;
    Ok((digest, checked))
}

impl Content {
    /// Stores a manifest under `reference` and `tags`: one change, durable when this returns.
    ///
    /// `content_type` has no parameters.
    ///
    /// # Errors
    /// See [`PushError`].
    pub async fn push_manifest(
        &self,
        repo: &RepoName,
        reference: &Reference,
        mut tags: Vec<Tag>,
        content_type: Option<&str>,
        bytes: Bytes,
    ) -> Result<Pushed, PushError> {
        self.writable()?;
        self.store.ready().map_err(ContentError::from)?;
        let algorithm = match reference {
            Reference::Digest(digest) => digest.algorithm(),
            Reference::Tag(_) => Algorithm::Sha256,
        };
        let named = match reference {
            Reference::Digest(digest) => Some(digest.clone()),
            Reference::Tag(tag) => {
                tags.push(tag.clone());
                None
            }
        };
        let content_type = content_type.map(str::to_owned);
        let (size, read) = (bytes.len(), bytes.clone());
        let read = move || read_manifest(algorithm, named.as_ref(), content_type.as_deref(), &read);
        // The largest ones take a worker's time for everybody on it.
        let (digest, checked) = if size > INLINE_BYTES && !fail_point!("read-on-pool", off) {
            slow(read).await.map_err(ContentError::from)??
        } else {
            read()?
        };
        let subject = checked.referrer.as_ref().map(|referrer| referrer.subject.clone());
        let push = PutManifest {
            repo: repo.clone(),
            digest: digest.clone(),
            media_type: checked.media_type.to_owned(),
            bytes,
            children: checked.children,
            referrer: checked.referrer,
            tags,
            missing: self.policy.missing,
        };
        match self.records.put_manifest(push).await {
            Ok(_) => Ok(Pushed { digest, subject }),
            Err(PutManifestError::Missing(digests)) => Err(PushError::Missing(digests)),
            Err(PutManifestError::Records(error)) => Err(ContentError::from(error).into()),
        }
    }

    /// The manifest that a tag or digest names, from memory if it did not change.
    ///
    /// # Errors
    /// When the records fail.
    pub async fn manifest(
        &self,
        repo: &RepoName,
        reference: &Reference,
    ) -> Result<Option<Arc<StoredManifest>>, ContentError> {
        self.cache.totals.requests.inc();
        // The stamp before the read: what changes during the read makes the entry stale at once.
        let stamp = self.records.change_stamp(repo);
        if let Some(stamp) = stamp
            && let Some(found) = self.cache.get(repo, reference, stamp)
        {
            self.cache.totals.hits.inc();
            return Ok(Some(found));
        }
        let Some(found) = self.records.resolve(repo, reference).await? else { return Ok(None) };
        let found = Arc::new(found);
        if let Some(stamp) = stamp {
            self.cache.put(repo, reference, stamp, &found);
        }
        Ok(Some(found))
    }

    pub(super) fn deletable(&self) -> Result<(), DeleteError> {
        if !self.policy.delete_enabled {
            return Err(DeleteError::Disabled);
        }
        Ok(self.writable()?)
    }

    /// Deletes a tag, or a manifest with every tag on it; durable when this returns.
    ///
    /// # Errors
    /// See [`DeleteError`].
    pub async fn delete_manifest(
        &self,
        repo: &RepoName,
        reference: &Reference,
    ) -> Result<(), DeleteError> {
        self.deletable()?;
        let found = match reference {
            Reference::Tag(tag) => self.records.delete_tag(repo, tag).await,
            Reference::Digest(digest) => self.records.delete_manifest(repo, digest).await,
        };
        if found.map_err(ContentError::from)? { Ok(()) } else { Err(DeleteError::Unknown) }
    }

    /// A page of a repository's tags in byte order; `None` when the repository is unknown.
    ///
    /// # Errors
    /// When the records fail.
    pub async fn tags(
        &self,
        repo: &RepoName,
        last: Option<&str>,
        n: usize,
    ) -> Result<Option<Page<Tag>>, ContentError> {
        Ok(self.records.list_tags(repo, last, n).await?)
    }

    /// A page of the repositories.
    ///
    /// # Errors
    /// When the records fail.
    pub async fn repositories(
        &self,
        last: Option<&str>,
        n: usize,
    ) -> Result<Page<RepoName>, ContentError> {
        Ok(self.records.list_repositories(last, n).await?)
    }
}

/// Bytes of manifests in memory at most, names and overhead included.
const CACHE_BYTES: usize = 32 << 20;

/// What an entry costs beside the manifest's bytes.
const ENTRY_BYTES: usize = 512;

/// Manifests that were read lately, each with its repository's stamp at that time.
///
/// Two generations: when the young one has half the budget, the old one goes. An entry that is
/// read moves to the young one, so what is in use stays, without a list to maintain on each read.
#[derive(Debug, Default)]
pub(super) struct Cache {
    generations: Mutex<Generations>,
    pub(super) totals: CacheTotals,
}

/// Counted since the start.
#[derive(Debug, Default)]
pub struct CacheTotals {
    pub requests: Counter,
    pub hits: Counter,
}

#[derive(Debug, Default)]
struct Generations {
    young: Entries,
    old: Entries,
    young_bytes: usize,
}

type Entries = HashMap<RepoName, HashMap<Reference, Entry>>;

#[derive(Clone, Debug)]
struct Entry {
    stamp: u64,
    manifest: Arc<StoredManifest>,
}

impl Cache {
    fn get(
        &self,
        repo: &RepoName,
        reference: &Reference,
        stamp: u64,
    ) -> Option<Arc<StoredManifest>> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |entries: &Entries| entries.get(repo)?.get(reference).cloned();
        if let Some(entry) = find(&generations.young) {
            return (entry.stamp == stamp).then_some(entry.manifest);
        }
        let entry = find(&generations.old)?;
        if entry.stamp != stamp {
            return None;
        }
        generations.insert(repo, reference, entry.clone());
        Some(entry.manifest)
    }

    fn put(
        &self,
        repo: &RepoName,
        reference: &Reference,
        stamp: u64,
        manifest: &Arc<StoredManifest>,
    ) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.insert(repo, reference, Entry { stamp, manifest: Arc::clone(manifest) });
    }
}

impl Generations {
    fn insert(&mut self, repo: &RepoName, reference: &Reference, entry: Entry) {
        let bytes = entry.manifest.bytes.len() + ENTRY_BYTES;
        if self.young_bytes + bytes > CACHE_BYTES / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        match self.young.get_mut(repo) {
            Some(of_repo) => of_repo.insert(reference.clone(), entry),
            None => self.young.entry(repo.clone()).or_default().insert(reference.clone(), entry),
        };
    }
}
