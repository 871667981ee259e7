//! The directory as a [`Store`]: the pool, the open uploads and the locks of digests around it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use shared::{Algorithm, Digest, RepoName};

use super::uploads::Uploads;
use super::{Disk, Rotten, StoreError, UploadId};
use crate::failpoint::fail_point;
use crate::pool::{blocking, slow};
use crate::records::{BlobRecord, Place, RepoBlob};
use crate::store::locks::DigestLocks;
use crate::store::{Counts, DigestGuard, Figures, Pace, Source, Store, Upload, UploadError};

/// See the module.
#[derive(Debug)]
pub struct DiskStore {
    disk: Arc<Disk>,
    uploads: Arc<Uploads>,
    locks: DigestLocks,
}

impl DiskStore {
    pub fn new(disk: Arc<Disk>) -> Self {
        Self {
            uploads: Arc::new(Uploads::new(Arc::clone(&disk))),
            locks: DigestLocks::default(),
            disk,
        }
    }

    /// What is at hand is opened here: the pool may be full of those who wait for the disk.
    async fn open_file(&self, digest: &Digest) -> Result<io::Result<File>, StoreError> {
        if let Some(file) = self.disk.open_blob_in_memory(digest)
            && !fail_point!("open-in-memory", off)
        {
            return Ok(Ok(file));
        }
        let (disk, name) = (Arc::clone(&self.disk), digest.clone());
        Ok(blocking(move || disk.open_blob(&name)).await?)
    }
}

fn unreadable(source: io::Error) -> StoreError {
    StoreError::Io { what: "open the blob", source }
}

#[async_trait]
impl Store for DiskStore {
    async fn begin(
        &self,
        repo: &RepoName,
        algorithm: Algorithm,
    ) -> Result<Box<dyn Upload>, UploadError> {
        self.uploads.begin(repo, algorithm).await
    }

    async fn resume(&self, repo: &RepoName, id: UploadId) -> Result<Box<dyn Upload>, UploadError> {
        self.uploads.resume(repo, id).await
    }

    async fn offset(&self, repo: &RepoName, id: UploadId) -> Result<u64, UploadError> {
        self.uploads.offset(repo, id).await
    }

    async fn cancel(&self, repo: &RepoName, id: UploadId) -> Result<(), UploadError> {
        self.uploads.cancel(repo, id).await
    }

    async fn expire(&self, age: Duration) -> Result<u64, StoreError> {
        let uploads = Arc::clone(&self.uploads);
        slow(move || uploads.expire(age))
            .await?
            .map_err(|source| StoreError::Io { what: "list the uploads", source })
    }

    async fn lock(&self, digest: &Digest) -> DigestGuard<'_> {
        self.locks.lock(digest).await
    }

    async fn open(
        &self,
        blob: &RepoBlob,
        _range: Range<u64>,
        _redirect: bool,
    ) -> Result<Result<Source, Rotten>, StoreError> {
        match self.open_file(blob.digest()).await? {
            Ok(file) => match file.metadata().map_err(unreadable)?.len() {
                length if length == blob.size() => Ok(Ok(Source::File(file))),
                // Sent as it is it would be a short answer, or an endless one.
                length => Ok(Err(Rotten::Length(length))),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Err(Rotten::Absent)),
            Err(source) => Err(unreadable(source)),
        }
    }

    async fn remove(&self, digest: &Digest, _place: &Place) -> Result<(), StoreError> {
        let (disk, name) = (Arc::clone(&self.disk), digest.clone());
        slow(move || disk.remove_blob(&name)).await?
    }

    async fn verify(&self, blob: &BlobRecord, pace: Pace) -> Result<Option<Rotten>, StoreError> {
        let (disk, digest, size) = (Arc::clone(&self.disk), blob.digest.clone(), blob.size);
        blocking(move || disk.verify_blob(&digest, size, pace))
            .await?
            .map_err(|source| StoreError::Io { what: "read the blob", source })
    }

    async fn look_at(&self, blob: &BlobRecord) -> Result<Option<Rotten>, StoreError> {
        let (disk, digest, size) = (Arc::clone(&self.disk), blob.digest.clone(), blob.size);
        blocking(move || disk.look_at_blob(&digest, size))
            .await?
            .map_err(|source| StoreError::Io { what: "look at the blob", source })
    }

    fn broken(&self) -> Option<String> {
        self.disk.broken().map(str::to_owned)
    }

    fn ready(&self) -> Result<(), StoreError> {
        self.disk.ready_for_writes()
    }

    fn figures(&self) -> Figures {
        Figures {
            uploads: self.uploads.count(),
            free_bytes: self.disk.free_bytes().unwrap_or(0),
            capacity_bytes: self.disk.capacity_bytes().unwrap_or(0),
        }
    }

    fn counts(&self) -> Counts {
        Counts {
            actions: self.disk.timings().family().clone(),
            outcomes: self.uploads.outcomes().clone(),
        }
    }

    async fn settled(&self) {
        self.uploads.settled().await;
    }
}
