//! Blobs of a repository: reading, mounting, unlinking.

use std::fs::File;
use std::io;
use std::sync::Arc;

use shared::{Digest, RepoName};

use super::{Content, ContentError, DeleteError, blocking};
use crate::failpoint::fail_point;
use crate::records::RepoBlob;
use crate::store::{Rotten, StoreError};

/// A blob that is open for reading. The file stays readable when the blob is removed meanwhile.
#[derive(Debug)]
pub struct OpenBlob {
    pub file: File,
    pub blob: RepoBlob,
}

impl Content {
    /// Proof that `repo` holds `digest`, for a client that may skip its upload because of it.
    ///
    /// A condemned link is turned live first: what is promised here must outlive the client's
    /// push.
    ///
    /// # Errors
    /// When the records fail.
    pub async fn promise_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Option<RepoBlob>, ContentError> {
        let Some(blob) = self.records.find_blob(repo, digest).await? else { return Ok(None) };
        // A read-only store cannot rescue, and cannot collect either.
        if blob.condemned()
            && self.writable().is_ok()
            && !self.records.rescue_blob(repo, digest).await?
        {
            return Ok(None);
        }
        Ok(Some(blob))
    }

    /// Opens a blob of `repo`. Writes nothing.
    ///
    /// # Errors
    /// When records or disk fail; a blob that is not there is `None`.
    pub async fn open_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Option<OpenBlob>, ContentError> {
        // Twice: between the look-up and the open a collector may remove the file and a pusher
        // publish it again.
        for _ in 0..2 {
            let Some(blob) = self.records.find_blob(repo, digest).await? else { return Ok(None) };
            let rotten = match self.open_file(digest).await? {
                Ok(file) => match file.metadata().map_err(unreadable)?.len() {
                    length if length == blob.size() => return Ok(Some(OpenBlob { file, blob })),
                    // Sent as it is it would be a short answer, or an endless one.
                    length => Rotten::Length(length),
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => Rotten::Absent,
                Err(source) => return Err(unreadable(source).into()),
            };
            if self.meet_rot(repo, digest, blob.size(), rotten).await {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// What is at hand is opened here: the pool may be full of those who wait for the disk.
    async fn open_file(&self, digest: &Digest) -> Result<io::Result<File>, ContentError> {
        if let Some(file) = self.disk.open_blob_in_memory(digest)
            && !fail_point!("open-in-memory", off)
        {
            return Ok(Ok(file));
        }
        let (disk, name) = (Arc::clone(&self.disk), digest.clone());
        blocking(move || disk.open_blob(&name)).await
    }

    /// Links a blob of another repository (of any, without `from`) to `to`, durably. `None`: not
    /// found.
    ///
    /// # Errors
    /// When the records fail or nothing may be written.
    pub async fn mount(
        &self,
        to: &RepoName,
        from: Option<&RepoName>,
        digest: &Digest,
    ) -> Result<Option<RepoBlob>, ContentError> {
        self.writable()?;
        Ok(self.records.mount(to, from, digest).await?)
    }

    /// Removes a blob from one repository, durably; other repositories keep it.
    ///
    /// # Errors
    /// See [`DeleteError`].
    pub async fn delete_blob(&self, repo: &RepoName, digest: &Digest) -> Result<(), DeleteError> {
        self.deletable()?;
        if self.records.unlink_blob(repo, digest).await.map_err(ContentError::from)? {
            Ok(())
        } else {
            Err(DeleteError::Unknown)
        }
    }
}

fn unreadable(source: io::Error) -> StoreError {
    StoreError::Io { what: "open the blob", source }
}
