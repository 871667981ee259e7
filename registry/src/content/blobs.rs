//! Blobs of a repository: reading, mounting, unlinking.

use std::ops::Range;

use shared::{Digest, RepoName};

use super::{Content, ContentError, DeleteError};
use crate::records::RepoBlob;
use crate::store::Source;

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
        // A read-only store cannot rescue, and cannot collect either.
        let may_write = self.writable().is_ok();
        Ok(self.records.promise_blob(repo, digest, may_write).await?)
    }

    /// Proof that `repo` holds `digest`, for a client that reads it. Writes nothing.
    ///
    /// # Errors
    /// When the records fail; a blob that is not there is `None`.
    pub async fn find_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Option<RepoBlob>, ContentError> {
        Ok(self.records.find_blob(repo, digest).await?)
    }

    /// Opens `range` of a blob of `repo`, or all of it. `redirect`: whether the client may be sent
    /// elsewhere.
    ///
    /// # Errors
    /// When records or store fail; a blob that is not there is `None`.
    pub async fn open_blob(
        &self,
        repo: &RepoName,
        mut blob: RepoBlob,
        range: Range<u64>,
        redirect: bool,
    ) -> Result<Option<Source>, ContentError> {
        // Twice: between the look-up and the open a collector may remove the bytes and a pusher
        // publish them again.
        for _ in 0..2 {
            let rotten = match self.store.open(&blob, range.clone(), redirect).await? {
                Ok(source) => return Ok(Some(source)),
                Err(rotten) => rotten,
            };
            let Some(now) = self.records.find_again(repo, &blob).await? else { return Ok(None) };
            if now.place() == blob.place()
                && self.meet_rot(repo, blob.digest(), blob.size(), rotten).await
            {
                return Ok(None);
            }
            blob = now;
        }
        Ok(None)
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
