//! Taking rotten blobs out of service, whoever has found them: the scrub, `fsck`, or a pull.

use prometheus_client::metrics::counter::Counter;
use shared::{Digest, RepoName};

use super::{Content, ContentError};
use crate::failpoint::fail_point;
use crate::pool::run_to_end;
use crate::records::{BlobRecord, BlobState};
use crate::store::Rotten;

/// Counted since the start.
#[derive(Debug, Default)]
pub struct Totals {
    /// Blobs whose file a pull found missing or of another length.
    pub met: Counter,
}

impl Content {
    /// Takes a rotten blob out of service. False: it is sound, or gone, by now.
    ///
    /// # Errors
    /// When the records fail.
    pub async fn quarantine(&self, digest: &Digest, size: u64) -> Result<bool, ContentError> {
        self.with_rotten(digest, size, true).await
    }

    /// Whether a blob is rotten still, with nobody publishing or removing it at this moment.
    ///
    /// # Errors
    /// When the records fail.
    pub async fn is_rotten(&self, digest: &Digest, size: u64) -> Result<bool, ContentError> {
        self.with_rotten(digest, size, false).await
    }

    /// Deals with a blob whose file ended at `offset` while it was being sent.
    pub(crate) async fn meet_end(&self, repo: &RepoName, digest: &Digest, size: u64, offset: u64) {
        self.meet_rot(repo, digest, size, Rotten::Length(offset)).await;
    }

    /// Deals with a blob whose file a pull found missing or of another length: from here on HEAD
    /// says 404 as well, or clients would skip the push that heals it. False: it is sound, or gone,
    /// by now.
    pub(super) async fn meet_rot(
        &self,
        repo: &RepoName,
        digest: &Digest,
        size: u64,
        rotten: Rotten,
    ) -> bool {
        if fail_point!("meet-rot", off) {
            return true;
        }
        let quarantined = match self.writable() {
            Ok(()) => self.quarantine(digest, size).await,
            Err(error) => Err(error),
        };
        if let Ok(false) = quarantined {
            return false;
        }
        self.rot.met.inc();
        match quarantined {
            Ok(_) => tracing::error!(
                %repo, %digest, ?rotten,
                "a blob is rotten and is served no more; push it again to heal it"
            ),
            Err(error) => tracing::error!(
                %repo, %digest, ?rotten, %error,
                "a blob is rotten and could not be taken out of service"
            ),
        }
        true
    }

    async fn with_rotten(
        &self,
        digest: &Digest,
        size: u64,
        quarantine: bool,
    ) -> Result<bool, ContentError> {
        let (content, digest) = (self.clone(), digest.clone());
        run_to_end(async move {
            let _guard = content.store.lock(&digest).await;
            let known = content.records.find_blobs(std::slice::from_ref(&digest)).await?;
            let known = known.into_iter().flatten().next();
            let Some(blob) = known.filter(|blob| blob.state == BlobState::Live) else {
                return Ok(false);
            };
            let blob = BlobRecord { size, ..blob };
            let again = content.store.verify(&blob, Box::new(|_| true)).await;
            if !matches!(again, Ok(Some(_))) {
                return Ok(false);
            }
            if quarantine {
                content.records.quarantine(&digest).await?;
            }
            Ok(true)
        })
        .await
    }
}
