//! The records in memory: the same answers from plain maps, for tests that need no disk and as the
//! model that the other implementation is tested against. Nothing here is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use shared::{Digest, Reference, RepoName, Tag};

use super::stamps::Stamps;
use super::{
    BlobRecord, BlobState, CheckCursor, CheckPage, ChildKind, Fault, GcClock, GcTime, Kept,
    MISSING_MAX, Missing, Page, Place, Publish, PutManifest, PutManifestError, PutOutcome,
    Reclaimable, Records, RecordsError, ReferrerPage, RepoBlob, RepoUsage, Result, ReviewCursor,
    ReviewScope, Reviewed, ScrubProgress, StoredManifest, Totals, Waiting,
};

/// See the module.
pub struct MemoryRecords {
    facts: Mutex<Facts>,
    stamps: Stamps,
    clock: GcClock,
    review_delay: Duration,
    /// Bytes of manifests, links and tags, roughly.
    limit: usize,
    scrub: Mutex<ScrubProgress>,
}

#[derive(Default)]
struct Facts {
    blobs: BTreeMap<Digest, Blob>,
    repos: BTreeMap<RepoName, Repo>,
    reviews: BTreeSet<Review>,
    arrivals: u64,
    rescued: u64,
}

#[derive(Clone, Copy)]
struct Blob {
    size: u64,
    state: BlobState,
}

#[derive(Default)]
struct Repo {
    /// When each link was condemned; `None` is live.
    links: BTreeMap<Digest, Option<GcTime>>,
    manifests: BTreeMap<Digest, Manifest>,
    tags: BTreeMap<Tag, Digest>,
}

struct Manifest {
    push: PutManifest,
    arrival: u64,
    pushed_at: GcTime,
    /// Children that were there, and that no client has deleted since.
    promised: BTreeSet<Digest>,
}

/// A link's review, or a blob's (no repository); ordered by when it is due.
type Review = (GcTime, Option<RepoName>, Digest);

impl Repo {
    fn names(&self, digest: &Digest) -> bool {
        self.manifests.values().any(|manifest| manifest.names(digest))
    }

    /// Whether a tag, an index or an existing subject keeps the manifest.
    fn keeps(&self, digest: &Digest) -> bool {
        let subject =
            self.manifests.get(digest).and_then(|manifest| manifest.push.referrer.as_ref());
        self.tags.values().any(|tagged| tagged == digest)
            || self.names(digest)
            || subject.is_some_and(|referrer| self.manifests.contains_key(&referrer.subject))
    }

    fn break_promise(&mut self, digest: &Digest) {
        for manifest in self.manifests.values_mut() {
            manifest.promised.remove(digest);
        }
    }
}

impl Manifest {
    fn names(&self, digest: &Digest) -> bool {
        self.push.children.iter().any(|child| child.digest == *digest)
    }
}

/// What a fact takes up beside a manifest's bytes.
const ENTRY_BYTES: usize = 512;

impl Facts {
    /// Bytes that it takes up, roughly.
    fn weight(&self) -> usize {
        let of_manifest = |manifest: &Manifest| {
            manifest.push.bytes.len() + ENTRY_BYTES * (1 + manifest.push.children.len())
        };
        let of_repo = |repo: &Repo| {
            let entries = 1 + repo.links.len() + repo.tags.len();
            repo.manifests.values().map(of_manifest).sum::<usize>() + ENTRY_BYTES * entries
        };
        self.repos.values().map(of_repo).sum()
    }

    fn readable(&self, repo: &RepoName, digest: &Digest) -> Option<RepoBlob> {
        let condemned = self.repos.get(repo)?.links.get(digest)?.is_some();
        let blob = self.blobs.get(digest).filter(|blob| blob.state == BlobState::Live)?;
        Some(RepoBlob { digest: digest.clone(), size: blob.size, place: Place::File, condemned })
    }

    fn is_linked(&self, digest: &Digest) -> bool {
        self.repos.values().any(|repo| repo.links.contains_key(digest))
    }

    /// Links a blob that is live.
    fn add_link(&mut self, repo: &RepoName, digest: &Digest, due: GcTime) {
        let facts = self.repos.entry(repo.clone()).or_default();
        match facts.links.insert(digest.clone(), None) {
            Some(Some(_)) => self.rescued += 1,
            Some(None) => {}
            None => {
                for manifest in facts.manifests.values_mut().filter(|m| m.names(digest)) {
                    manifest.promised.insert(digest.clone());
                }
                self.reviews.insert((due, Some(repo.clone()), digest.clone()));
            }
        }
    }

    fn remove_manifest(&mut self, repo: &RepoName, digest: &Digest, now: GcTime) -> bool {
        let Some(facts) = self.repos.get_mut(repo) else { return false };
        let Some(manifest) = facts.manifests.remove(digest) else { return false };
        facts.tags.retain(|_, tagged| tagged != digest);
        for child in &manifest.push.children {
            if facts.links.contains_key(&child.digest) && !facts.names(&child.digest) {
                self.reviews.insert((now, Some(repo.clone()), child.digest.clone()));
            }
        }
        if !facts.links.contains_key(digest) {
            facts.break_promise(digest);
        }
        self.forget_digests();
        true
    }

    fn review_link(
        &mut self,
        entry: &Review,
        repo: &RepoName,
        now: GcTime,
        grace: Duration,
        reviewed: &mut Reviewed,
    ) {
        let digest = &entry.2;
        let facts = self.repos.entry(repo.clone()).or_default();
        let named = facts.names(digest);
        let Some(condemned) = facts.links.get_mut(digest) else {
            return self.settle(entry, reviewed);
        };
        if named {
            if condemned.take().is_some() {
                self.rescued += 1;
                reviewed.rescued += 1;
            }
            return self.settle(entry, reviewed);
        }
        let due = condemned.unwrap_or(now).after(grace);
        if due <= now {
            facts.links.remove(digest);
            reviewed.unlinked += 1;
            if !self.is_linked(digest) {
                self.reviews.insert((now, None, digest.clone()));
            }
            return self.settle(entry, reviewed);
        }
        if condemned.is_none() {
            *condemned = Some(now);
            reviewed.condemned += 1;
        }
        if due != entry.0 {
            self.settle(entry, reviewed);
            self.reviews.insert((due, Some(repo.clone()), digest.clone()));
        }
    }

    fn review_blob(&mut self, entry: &Review, reviewed: &mut Reviewed) {
        if !self.blobs.contains_key(&entry.2) || self.is_linked(&entry.2) {
            return self.settle(entry, reviewed);
        }
        reviewed.removable.push(entry.2.clone());
    }

    fn settle(&mut self, entry: &Review, reviewed: &mut Reviewed) {
        self.reviews.remove(entry);
        reviewed.settled += 1;
    }

    /// Drops the reviews of digests that nothing refers to: a later blob of the same digest starts
    /// its life anew.
    fn forget_digests(&mut self) {
        let (blobs, repos) = (&self.blobs, &self.repos);
        let refers = |manifest: &Manifest, digest: &Digest| {
            let subject = manifest.push.referrer.as_ref().map(|referrer| &referrer.subject);
            manifest.names(digest) || subject == Some(digest)
        };
        self.reviews.retain(|(_, _, digest)| {
            blobs.contains_key(digest)
                || repos.values().any(|repo| {
                    repo.manifests.contains_key(digest)
                        || repo.manifests.values().any(|manifest| refers(manifest, digest))
                })
        });
    }

    fn record(&self, digest: &Digest) -> Option<BlobRecord> {
        let blob = self.blobs.get(digest)?;
        let links = self.repos.values().filter(|repo| repo.links.contains_key(digest)).count();
        Some(BlobRecord {
            digest: digest.clone(),
            size: blob.size,
            state: blob.state,
            links: links as u64,
        })
    }

    fn check(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (name, repo) in &self.repos {
            for (digest, manifest) in &repo.manifests {
                for child in &manifest.promised {
                    if self.readable(name, child).is_none() && !repo.manifests.contains_key(child) {
                        faults.push(Fault::ChildMissing {
                            repo: name.clone(),
                            manifest: digest.clone(),
                            child: child.clone(),
                        });
                    }
                }
            }
            for digest in repo.links.keys().filter(|digest| !repo.names(digest)) {
                let watched =
                    |review: &Review| review.1.as_ref() == Some(name) && review.2 == *digest;
                if !self.reviews.iter().any(watched) {
                    let (repo, digest) = (Some(name.clone()), digest.clone());
                    faults.push(Fault::Unwatched { repo, digest });
                }
            }
        }
        for (digest, blob) in &self.blobs {
            let watched = |review: &Review| review.1.is_none() && review.2 == *digest;
            if blob.state != BlobState::Removing
                && !self.is_linked(digest)
                && !self.reviews.iter().any(watched)
            {
                faults.push(Fault::Unwatched { repo: None, digest: digest.clone() });
            }
        }
        faults
    }
}

impl MemoryRecords {
    /// Empty records; a link's first review comes `review_delay` after it was made.
    pub fn new(review_delay: Duration) -> Self {
        Self::bounded(review_delay, u64::MAX)
    }

    /// The same, which take up `limit` bytes at most, roughly.
    pub fn bounded(review_delay: Duration, limit: u64) -> Self {
        Self {
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            facts: Mutex::default(),
            stamps: Stamps::new(),
            clock: GcClock::starting_at(GcTime::default()),
            scrub: Mutex::default(),
            review_delay,
        }
    }

    /// Lets the collection clock run ahead, for tests of grace.
    #[doc(hidden)]
    pub fn advance_clock(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something of `bytes` fits.
    fn room(&self, facts: &Facts, bytes: usize) -> Result<()> {
        let all = facts.weight().saturating_add(bytes).saturating_add(ENTRY_BYTES);
        if all > self.limit { Err(RecordsError::Full) } else { Ok(()) }
    }

    fn review_due(&self) -> GcTime {
        self.clock.now().after(self.review_delay)
    }
}

/// Byte order with `/` before everything else.
fn catalog_key(name: &str) -> String {
    name.replace('/', "!")
}

fn page<T>(mut entries: Vec<T>, n: usize) -> Page<T> {
    let more = entries.len() > n;
    entries.truncate(n);
    Page { entries, more }
}

/// A place in the queue, as numbers: how many entries come before it would not survive changes,
/// so the due time alone, which is enough because whatever is requeued is due later.
fn cursor(review: &Review) -> ReviewCursor {
    // Its order is the queue's.
    ReviewCursor(format!("{:020}", review.0.as_millis()))
}

#[async_trait]
impl Records for MemoryRecords {
    async fn find_blob(&self, repo: &RepoName, digest: &Digest) -> Result<Option<RepoBlob>> {
        Ok(self.facts().readable(repo, digest))
    }

    async fn promise_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        may_write: bool,
    ) -> Result<Option<RepoBlob>> {
        let mut facts = self.facts();
        let Some(blob) = facts.readable(repo, digest) else { return Ok(None) };
        if !blob.condemned || !may_write {
            return Ok(Some(blob));
        }
        if let Some(repo) = facts.repos.get_mut(repo) {
            repo.links.insert(digest.clone(), None);
        }
        facts.rescued += 1;
        self.stamps.move_on(repo);
        Ok(Some(RepoBlob { condemned: false, ..blob }))
    }

    async fn publish(&self, publish: Publish) -> Result<Kept> {
        let Publish { repo, digest, size, .. } = publish;
        let due = self.review_due();
        let mut facts = self.facts();
        self.room(&facts, 0)?;
        facts.blobs.insert(digest.clone(), Blob { size, state: BlobState::Live });
        facts.add_link(&repo, &digest, due);
        self.stamps.move_all();
        Ok(Kept::Mine)
    }

    async fn mount(
        &self,
        to: &RepoName,
        from: Option<&RepoName>,
        digest: &Digest,
    ) -> Result<Option<RepoBlob>> {
        let due = self.review_due();
        let mut facts = self.facts();
        self.room(&facts, 0)?;
        let found = match from {
            Some(from) => facts.readable(from, digest),
            None => facts.repos.keys().find_map(|from| facts.readable(from, digest)),
        };
        let Some(found) = found else { return Ok(None) };
        facts.add_link(to, digest, due);
        self.stamps.move_on(to);
        Ok(Some(RepoBlob { condemned: false, ..found }))
    }

    async fn holders(&self, digest: &Digest, max: usize) -> Result<Vec<RepoName>> {
        let facts = self.facts();
        let holds = |repo: &&RepoName| facts.readable(repo, digest).is_some();
        Ok(facts.repos.keys().filter(holds).take(max).cloned().collect())
    }

    async fn unlink_blob(&self, repo: &RepoName, digest: &Digest) -> Result<bool> {
        let now = self.clock.now();
        let mut facts = self.facts();
        let Some(links) = facts.repos.get_mut(repo) else { return Ok(false) };
        if links.links.remove(digest).is_none() {
            return Ok(false);
        }
        links.break_promise(digest);
        if !facts.is_linked(digest) {
            facts.reviews.insert((now, None, digest.clone()));
        }
        self.stamps.move_on(repo);
        Ok(true)
    }

    async fn put_manifest(&self, push: PutManifest) -> Result<PutOutcome, PutManifestError> {
        let now = self.clock.now();
        let mut facts = self.facts();
        let mut missing: Vec<Digest> = Vec::new();
        let mut promised = BTreeSet::new();
        for child in &push.children {
            let is_manifest = child.kind == ChildKind::ManifestOrBlob
                && facts
                    .repos
                    .get(&push.repo)
                    .is_some_and(|repo| repo.manifests.contains_key(&child.digest));
            if is_manifest || facts.readable(&push.repo, &child.digest).is_some() {
                promised.insert(child.digest.clone());
            } else if child.required
                && push.missing == Missing::Refuse
                && missing.len() < MISSING_MAX
                && !missing.contains(&child.digest)
            {
                missing.push(child.digest.clone());
            }
        }
        if !missing.is_empty() {
            return Err(PutManifestError::Missing(missing));
        }
        self.room(&facts, push.bytes.len())?;
        facts.arrivals += 1;
        let arrival = facts.arrivals;
        let live: BTreeSet<Digest> = facts
            .blobs
            .iter()
            .filter(|b| b.1.state == BlobState::Live)
            .map(|b| b.0.clone())
            .collect();
        let repo = facts.repos.entry(push.repo.clone()).or_default();
        let mut rescued = 0;
        for digest in promised.intersection(&live) {
            if let Some(condemned) = repo.links.get_mut(digest)
                && condemned.take().is_some()
            {
                rescued += 1;
            }
        }
        for tag in &push.tags {
            repo.tags.insert(tag.clone(), push.digest.clone());
        }
        let created = !repo.manifests.contains_key(&push.digest);
        let (name, tags) = (push.repo.clone(), push.tags.len());
        let manifest = repo.manifests.entry(push.digest.clone()).or_insert_with(|| Manifest {
            push: push.clone(),
            arrival,
            pushed_at: now,
            promised: BTreeSet::new(),
        });
        manifest.promised = promised;
        if tags == 0 {
            manifest.pushed_at = now;
        }
        manifest.push.media_type = push.media_type;
        facts.rescued += rescued;
        self.stamps.move_on(&name);
        Ok(PutOutcome { created })
    }

    async fn resolve(
        &self,
        repo: &RepoName,
        reference: &Reference,
    ) -> Result<Option<StoredManifest>> {
        let facts = self.facts();
        let Some(repo) = facts.repos.get(repo) else { return Ok(None) };
        let digest = match reference {
            Reference::Digest(digest) => Some(digest),
            Reference::Tag(tag) => repo.tags.get(tag),
        };
        let manifest = digest.and_then(|digest| repo.manifests.get(digest));
        Ok(manifest.map(|manifest| StoredManifest {
            digest: manifest.push.digest.clone(),
            media_type: manifest.push.media_type.clone(),
            bytes: manifest.push.bytes.clone(),
        }))
    }

    async fn delete_manifest(&self, repo: &RepoName, digest: &Digest) -> Result<bool> {
        let deleted = self.facts().remove_manifest(repo, digest, self.clock.now());
        self.stamps.move_on(repo);
        Ok(deleted)
    }

    async fn delete_untagged(
        &self,
        repo: &RepoName,
        digest: &Digest,
        pushed_before: GcTime,
    ) -> Result<bool> {
        let now = self.clock.now();
        let mut facts = self.facts();
        let Some(found) = facts.repos.get(repo) else { return Ok(false) };
        let young = found.manifests.get(digest).is_none_or(|m| m.pushed_at > pushed_before);
        if young || found.keeps(digest) {
            return Ok(false);
        }
        let deleted = facts.remove_manifest(repo, digest, now);
        self.stamps.move_on(repo);
        Ok(deleted)
    }

    async fn delete_tag(&self, repo: &RepoName, tag: &Tag) -> Result<bool> {
        let mut facts = self.facts();
        let deleted = facts.repos.get_mut(repo).is_some_and(|repo| repo.tags.remove(tag).is_some());
        self.stamps.move_on(repo);
        Ok(deleted)
    }

    async fn list_tags(
        &self,
        repo: &RepoName,
        last: Option<&str>,
        n: usize,
    ) -> Result<Option<Page<Tag>>> {
        let facts = self.facts();
        let repo = facts.repos.get(repo).filter(|repo| !repo.manifests.is_empty());
        Ok(repo.map(|repo| {
            let tags = repo.tags.keys().filter(|tag| tag.as_str() > last.unwrap_or(""));
            page(tags.take(n.saturating_add(1)).cloned().collect(), n)
        }))
    }

    async fn list_repositories(&self, last: Option<&str>, n: usize) -> Result<Page<RepoName>> {
        let facts = self.facts();
        let last = catalog_key(last.unwrap_or(""));
        let mut names: Vec<(String, &RepoName)> = facts
            .repos
            .iter()
            .filter(|(_, repo)| !repo.manifests.is_empty())
            .map(|(name, _)| (catalog_key(name.as_str()), name))
            .filter(|(key, _)| *key > last)
            .collect();
        names.sort();
        Ok(page(names.into_iter().map(|(_, name)| name.clone()).collect(), n))
    }

    async fn referrers(
        &self,
        repo: &RepoName,
        subject: &Digest,
        types: &[String],
        after: Option<&str>,
        max_bytes: usize,
    ) -> Result<ReferrerPage> {
        let facts = self.facts();
        let Some(repo) = facts.repos.get(repo) else { return Ok(ReferrerPage::default()) };
        let mut found: Vec<(&str, u64, &str)> = repo
            .manifests
            .values()
            .filter_map(|manifest| Some((manifest, manifest.push.referrer.as_ref()?)))
            .filter(|(_, referrer)| referrer.subject == *subject)
            .filter(|(_, referrer)| types.is_empty() || types.contains(&referrer.artifact_type))
            .map(|(m, referrer)| {
                (referrer.artifact_type.as_str(), m.arrival, referrer.descriptor.as_str())
            })
            .collect();
        found.sort_unstable();
        // A place is the number of the last one given, which keeps its place in the order.
        let after: Option<u64> = after.and_then(|after| after.parse().ok());
        let start = found.iter().position(|f| Some(f.1) == after).map_or(0, |at| at + 1);
        let mut page = ReferrerPage::default();
        let mut bytes = 0;
        for (at, (_, _, descriptor)) in found.iter().enumerate().skip(start) {
            bytes += descriptor.len() + 1;
            if !page.descriptors.is_empty() && bytes > max_bytes {
                page.next = Some(found[at - 1].1.to_string());
                break;
            }
            page.descriptors.push((*descriptor).to_owned());
        }
        Ok(page)
    }

    fn change_stamp(&self, repo: &RepoName) -> Option<u64> {
        Some(self.stamps.of(repo))
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn is_failing(&self) -> bool {
        false
    }

    async fn probe(&self) -> Result<()> {
        Ok(())
    }

    fn gc_now(&self) -> GcTime {
        self.clock.now()
    }

    async fn review(&self, scope: ReviewScope) -> Result<Reviewed> {
        let now = self.clock.now();
        let mut facts = self.facts();
        let until = if scope.all { GcTime::MAX } else { now };
        let after = scope.after.and_then(|cursor| cursor.0.parse::<u64>().ok());
        let mut queue: Vec<Review> = facts
            .reviews
            .iter()
            .filter(|review| review.0 <= until && after.is_none_or(|a| review.0.as_millis() > a))
            .cloned()
            .collect();
        // Never stops inside one due time, which is all that a cursor says.
        let mut end = scope.max.min(queue.len());
        while end > 0 && end < queue.len() && queue[end].0 == queue[end - 1].0 {
            end += 1;
        }
        let mut reviewed = Reviewed::default();
        if end < queue.len() {
            reviewed.next = queue.get(end.saturating_sub(1)).map(cursor);
        }
        queue.truncate(end);
        for entry in &queue {
            match &entry.1 {
                Some(repo) => {
                    facts.review_link(entry, repo, now, scope.grace, &mut reviewed);
                    self.stamps.move_on(repo);
                }
                None => facts.review_blob(entry, &mut reviewed),
            }
        }
        Ok(reviewed)
    }

    async fn waiting(&self) -> Result<Waiting> {
        let facts = self.facts();
        let condemned: Vec<GcTime> =
            facts.repos.values().flat_map(|repo| repo.links.values().copied().flatten()).collect();
        let has_live_link = |digest: &Digest| {
            facts.repos.values().any(|repo| matches!(repo.links.get(digest), Some(None)))
        };
        let waits: BTreeSet<&Digest> = facts.reviews.iter().map(|review| &review.2).collect();
        let in_state =
            |state| facts.blobs.values().filter(|blob| blob.state == state).count() as u64;
        Ok(Waiting {
            reviews: facts.reviews.len() as u64,
            next_review: facts.reviews.first().map(|review| review.0),
            condemned_links: condemned.len() as u64,
            condemned_bytes: waits
                .into_iter()
                .filter(|digest| !has_live_link(digest))
                .filter_map(|digest| facts.blobs.get(digest))
                .filter(|blob| blob.state == BlobState::Live)
                .map(|blob| blob.size)
                .sum(),
            condemned_first: condemned.iter().min().copied(),
            condemned_last: condemned.iter().max().copied(),
            rescued: facts.rescued,
            removing: in_state(BlobState::Removing),
            quarantined: in_state(BlobState::Quarantined),
        })
    }

    async fn reclaimable(&self, grace: Duration) -> Result<Reclaimable> {
        let now = self.clock.now();
        let facts = self.facts();
        let goes = |digest: &Digest| {
            facts.repos.values().all(|repo| match repo.links.get(digest) {
                Some(condemned) => {
                    !repo.names(digest) && condemned.unwrap_or(now).after(grace) <= now
                }
                None => true,
            })
        };
        let queued: BTreeSet<&Digest> = facts.reviews.iter().map(|review| &review.2).collect();
        let blobs: Vec<&Blob> = queued
            .into_iter()
            .filter(|digest| goes(digest))
            .filter_map(|digest| facts.blobs.get(digest))
            .collect();
        Ok(Reclaimable {
            blobs: blobs.len() as u64,
            bytes: blobs.iter().map(|blob| blob.size).sum(),
        })
    }

    async fn begin_removal(&self, digest: &Digest) -> Result<Option<Place>> {
        let mut facts = self.facts();
        if facts.is_linked(digest) {
            return Ok(None);
        }
        let Some(blob) = facts.blobs.get_mut(digest) else { return Ok(None) };
        blob.state = BlobState::Removing;
        Ok(Some(Place::File))
    }

    async fn end_removal(&self, digest: &Digest, _: &Place) -> Result<()> {
        let mut facts = self.facts();
        if facts.blobs.get(digest).is_some_and(|blob| blob.state == BlobState::Removing) {
            facts.blobs.remove(digest);
            facts.forget_digests();
        }
        Ok(())
    }

    async fn interrupted_removals(&self, max: usize) -> Result<Vec<Digest>> {
        let facts = self.facts();
        let removing = facts.blobs.iter().filter(|(_, blob)| blob.state == BlobState::Removing);
        Ok(removing.map(|(digest, _)| digest.clone()).take(max).collect())
    }

    async fn quarantine(&self, digest: &Digest) -> Result<bool> {
        let mut facts = self.facts();
        let live = facts.blobs.get_mut(digest).filter(|blob| blob.state == BlobState::Live);
        let Some(blob) = live else { return Ok(false) };
        blob.state = BlobState::Quarantined;
        self.stamps.move_all();
        Ok(true)
    }

    async fn forget_repositories(&self) -> Result<u64> {
        let repos = &mut self.facts().repos;
        let before = repos.len();
        repos.retain(|_, repo| !repo.links.is_empty() || !repo.manifests.is_empty());
        Ok((before - repos.len()) as u64)
    }

    fn needs_sweep(&self) -> bool {
        false
    }

    async fn sweep_done(&self) -> Result<()> {
        Ok(())
    }

    async fn scrub_progress(&self) -> Result<ScrubProgress> {
        Ok(self.scrub.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    async fn save_scrub_progress(&self, progress: &ScrubProgress) -> Result<()> {
        *self.scrub.lock().unwrap_or_else(PoisonError::into_inner) = progress.clone();
        Ok(())
    }

    async fn list_blobs(&self, after: Option<&Digest>, n: usize) -> Result<Vec<BlobRecord>> {
        let facts = self.facts();
        let later = facts.blobs.keys().filter(|digest| after.is_none_or(|after| *digest > after));
        Ok(later.take(n).filter_map(|digest| facts.record(digest)).collect())
    }

    async fn find_blobs(&self, digests: &[Digest]) -> Result<Vec<Option<BlobRecord>>> {
        let facts = self.facts();
        Ok(digests.iter().map(|digest| facts.record(digest)).collect())
    }

    async fn list_manifests(
        &self,
        repo: &RepoName,
        untagged: Option<GcTime>,
        after: Option<&Digest>,
        n: usize,
    ) -> Result<Page<Digest>> {
        let facts = self.facts();
        let Some(repo) = facts.repos.get(repo) else {
            return Ok(Page { entries: Vec::new(), more: false });
        };
        let digests = repo
            .manifests
            .iter()
            .filter(|(digest, _)| after.is_none_or(|after| *digest > after))
            .filter(|(digest, manifest)| {
                untagged.is_none_or(|before| manifest.pushed_at <= before && !repo.keeps(digest))
            })
            .map(|(digest, _)| digest);
        Ok(page(digests.take(n.saturating_add(1)).cloned().collect(), n))
    }

    async fn usage(&self, name: &RepoName) -> Result<Option<RepoUsage>> {
        let facts = self.facts();
        let Some(repo) = facts.repos.get(name).filter(|repo| !repo.manifests.is_empty()) else {
            return Ok(None);
        };
        let mut usage = RepoUsage {
            repo: name.clone(),
            tags: repo.tags.len() as u64,
            manifests: repo.manifests.len() as u64,
            manifest_bytes: repo.manifests.values().map(|m| m.push.bytes.len() as u64).sum(),
            blobs: 0,
            blob_bytes: 0,
            own_bytes: 0,
        };
        for digest in repo.links.keys().filter(|digest| repo.names(digest)) {
            if let Some(blob) = facts.record(digest).filter(|blob| blob.state == BlobState::Live) {
                usage.blobs += 1;
                usage.blob_bytes += blob.size;
                usage.own_bytes += if blob.links == 1 { blob.size } else { 0 };
            }
        }
        Ok(Some(usage))
    }

    async fn totals(&self) -> Result<Option<Totals>> {
        let facts = self.facts();
        let listed = || facts.repos.values().filter(|repo| !repo.manifests.is_empty());
        let live = || facts.blobs.values().filter(|blob| blob.state == BlobState::Live);
        Ok(Some(Totals {
            repositories: listed().count() as u64,
            tags: listed().map(|repo| repo.tags.len() as u64).sum(),
            manifests: listed().map(|repo| repo.manifests.len() as u64).sum(),
            blobs: live().count() as u64,
            blob_bytes: live().map(|blob| blob.size).sum(),
        }))
    }

    async fn remove_repository(&self, name: &RepoName) -> Result<bool> {
        let now = self.clock.now();
        let mut facts = self.facts();
        let Some(repo) = facts.repos.get(name).filter(|repo| !repo.manifests.is_empty()) else {
            return Ok(false);
        };
        for digest in repo.manifests.keys().cloned().collect::<Vec<_>>() {
            facts.remove_manifest(name, &digest, now);
        }
        self.stamps.move_on(name);
        Ok(true)
    }

    async fn check(&self, _: CheckCursor, _: usize, _: bool) -> Result<CheckPage> {
        let facts = self.facts();
        let examined = facts.repos.len() as u64;
        Ok(CheckPage { faults: facts.check(), examined, next: None })
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}
