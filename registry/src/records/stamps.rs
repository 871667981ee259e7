//! Change stamps: how memory of the records finds out that it is out of date.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};

use shared::RepoName;

/// Stamps; repositories that share one only forget a little more than they need to.
const STAMPS: usize = 1024;

/// One number for each group of repositories, moved on after each durable change.
pub(super) struct Stamps(Box<[AtomicU64]>);

impl Stamps {
    pub(super) fn new() -> Self {
        Self((0..STAMPS).map(|_| AtomicU64::new(0)).collect())
    }

    pub(super) fn of(&self, repo: &RepoName) -> u64 {
        // Acquire, here and Release below: whoever sees the old stamp may have read old facts,
        // whoever sees the new one reads new facts.
        self.slot(repo).load(Ordering::Acquire)
    }

    pub(super) fn move_on(&self, repo: &RepoName) {
        self.slot(repo).fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn move_all(&self) {
        for stamp in &self.0 {
            stamp.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn slot(&self, repo: &RepoName) -> &AtomicU64 {
        let mut hasher = DefaultHasher::new();
        repo.as_str().hash(&mut hasher);
        &self.0[hasher.finish() as usize % STAMPS]
    }
}
