//! Who refers to a manifest. Source: distribution-spec, "Listing Referrers".

use shared::{Digest, RepoName, media_type};

use super::{Content, ContentError};
use crate::records::ReferrerPage;

/// Bytes of descriptors on a page: with the frame around them below what containerd and crane
/// read of a manifest, which a page is to them; they take one page only.
const PAGE_BYTES: usize = shared::manifest::BYTES_MAX - 4096;

impl Content {
    /// A page of the referrers of `subject`, which may be absent, as may be the repository.
    ///
    /// # Errors
    /// When the records fail.
    pub async fn referrers(
        &self,
        repo: &RepoName,
        subject: &Digest,
        types: &[String],
        after: Option<&str>,
    ) -> Result<ReferrerPage, ContentError> {
        Ok(self.records.referrers(repo, subject, types, after, PAGE_BYTES).await?)
    }
}

/// The index that lists `page`.
pub fn referrers_index(page: &ReferrerPage) -> String {
    let mut index =
        format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":["#, media_type::OCI_INDEX);
    for (at, descriptor) in page.descriptors.iter().enumerate() {
        if at > 0 {
            index.push(',');
        }
        index.push_str(descriptor);
    }
    index.push_str("]}");
    index
}
