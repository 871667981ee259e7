//! The checker: every promise about what is stored, looked at.
//!
//! | promise | how it is checked |
//! |---|---|
//! | a name is whole or absent | every tag names a manifest whose bytes match its digest |
//! | closure | what a manifest names, and no client deleted, is readable from its repository |
//! | bytes are true | every blob's file is read and hashed |
//! | nothing half-visible | every link leads to a blob, every blob to a file of its length |
//! | bounded leftovers | every file has a record, and whatever nobody names waits for collection |
//!
//! On a live server a finding counts only when it is still there under the digest's lock.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::Serialize;
use shared::Digest;

use super::collect::Collector;
use super::{Content, ContentError};
use crate::pool::blocking;
use crate::records::{BlobRecord, BlobState, CheckCursor, Fault, RecordsError};
use crate::store::disk::{Found, SHARDS};
use crate::store::{Rotten, StoreError};

/// Records per step: short enough that a live server's writer is not kept waiting.
const PAGE: usize = 500;

/// What is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Put right what has one right answer.
    pub repair: bool,
    /// Look at lengths only, do not read the blobs.
    pub quick: bool,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A promise about acknowledged content is broken.
    Damage,
    /// Space that should come back, as a crash leaves it.
    Leftover,
    /// Nothing is known to be wrong, and not everything was looked at.
    Unchecked,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// For programs: a stable word.
    pub kind: &'static str,
    /// For people.
    pub text: String,
    pub repaired: bool,
}

/// What a check saw, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub records: u64,
    pub blobs: u64,
    pub bytes: u64,
    pub files: u64,
    /// Findings of damage that this run did not repair.
    pub damage: u64,
    pub leftovers: u64,
    pub unchecked: u64,
    pub repaired: u64,
}

/// Somebody who is told; false ends the check.
#[async_trait]
pub trait Listener: Send {
    /// A finding.
    async fn found(&mut self, finding: Finding) -> bool;
    /// How far it is; called often.
    async fn progress(&mut self, summary: &Summary) -> bool;
}

/// Why a check ended early.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error("nobody listens any more")]
    Unheard,
}

/// Checks everything. Leaves uploads alone: they are progress, not promises.
///
/// # Errors
/// See [`CheckError`].
pub async fn run(
    content: &Content,
    collector: &Collector,
    options: Options,
    listener: &mut dyn Listener,
) -> Result<Summary, CheckError> {
    let mut check = Check { content, collector, options, listener, summary: Summary::default() };
    let records = check.records().await;
    check.survive(records).await?;
    let blobs = check.blobs().await;
    check.survive(blobs).await?;
    let files = check.files().await;
    check.survive(files).await?;
    Ok(check.summary)
}

struct Check<'c> {
    content: &'c Content,
    collector: &'c Collector,
    options: Options,
    listener: &'c mut dyn Listener,
    summary: Summary,
}

impl Check<'_> {
    /// A database that cannot be read is a finding, and no reason to look no further.
    async fn survive(&mut self, phase: Result<(), CheckError>) -> Result<(), CheckError> {
        match phase {
            Err(CheckError::Content(ContentError::Records(RecordsError::Failed(why)))) => {
                let (severity, text) = (Severity::Damage, format!("the database: {why}"));
                self.report(Finding { severity, kind: "database", text, repaired: false }).await
            }
            other => other,
        }
    }

    async fn records(&mut self) -> Result<(), CheckError> {
        let mut cursor = Some(CheckCursor::default());
        while let Some(at) = cursor {
            let page = self.content.records().check(at, PAGE, self.options.repair).await;
            let page = page.map_err(ContentError::from)?;
            self.summary.records += page.examined;
            for fault in page.faults {
                let repaired = self.options.repair && fault.is_repairable();
                let (severity, kind) = class(&fault);
                self.report(Finding { severity, kind, text: fault.to_string(), repaired }).await?;
            }
            cursor = page.next;
            self.progress().await?;
        }
        Ok(())
    }

    async fn blobs(&mut self) -> Result<(), CheckError> {
        let mut after: Option<Digest> = None;
        loop {
            let page = self.content.records().list_blobs(after.as_ref(), PAGE).await;
            let page = page.map_err(ContentError::from)?;
            let Some(last) = page.last() else { break };
            after = Some(last.digest.clone());
            for blob in &page {
                match blob.state {
                    BlobState::Live => self.live_blob(blob).await?,
                    BlobState::Removing => self.interrupted(blob).await?,
                    BlobState::Quarantined => self.quarantined(blob).await?,
                }
                self.summary.blobs += 1;
                self.progress().await?;
            }
        }
        if self.options.repair {
            self.collector.finish_interrupted().await?;
        }
        Ok(())
    }

    async fn live_blob(&mut self, blob: &BlobRecord) -> Result<(), CheckError> {
        let store = self.content.store();
        let looked = if self.options.quick {
            store.look_at(blob).await
        } else {
            store.verify(blob, Box::new(|_| true)).await
        };
        self.summary.bytes += blob.size;
        let digest = &blob.digest;
        let why = match looked {
            Ok(None) => return Ok(()),
            Ok(Some(Rotten::Absent)) => "its file is missing".to_owned(),
            Ok(Some(Rotten::Length(bytes))) => {
                format!("its file has {bytes} bytes instead of {}", blob.size)
            }
            Ok(Some(Rotten::Content)) => "its bytes do not match its digest".to_owned(),
            Err(error) => {
                let error = std::error::Error::source(&error).unwrap_or(&error);
                let text = format!("{digest}: its file cannot be read: {error}");
                let severity = Severity::Damage;
                return self
                    .report(Finding { severity, kind: "unreadable", text, repaired: false })
                    .await;
            }
        };
        let confirmed = if self.options.repair {
            self.content.quarantine(digest, blob.size).await?
        } else {
            self.content.is_rotten(digest, blob.size).await?
        };
        if !confirmed {
            return Ok(());
        }
        // Out of service is not healed: that takes a push, so it stays damage.
        let remedy = if self.options.repair { "taken out of service; " } else { "" };
        let text = format!("{digest}: {why} ({remedy}push it again to heal it)");
        self.report(Finding { severity: Severity::Damage, kind: "rotten", text, repaired: false })
            .await
    }

    async fn interrupted(&mut self, blob: &BlobRecord) -> Result<(), CheckError> {
        let text = format!("{}: its removal was interrupted", blob.digest);
        let (severity, repaired) = (Severity::Leftover, self.options.repair);
        self.report(Finding { severity, kind: "interrupted-removal", text, repaired }).await
    }

    async fn quarantined(&mut self, blob: &BlobRecord) -> Result<(), CheckError> {
        if blob.links == 0 {
            return Ok(());
        }
        let text = format!("{}: found rotten earlier (push it again to heal it)", blob.digest);
        let severity = Severity::Damage;
        self.report(Finding { severity, kind: "quarantined", text, repaired: false }).await
    }

    /// Files without a record.
    async fn files(&mut self) -> Result<(), CheckError> {
        let Some(disk) = self.content.upkeep.disk().cloned() else { return Ok(()) };
        for shard in 0..SHARDS {
            let disk = Arc::clone(&disk);
            let found =
                blocking(move || disk.list_shard(shard)).await.map_err(ContentError::from)?;
            let found = found.map_err(|source| {
                ContentError::from(StoreError::Io { what: "list the blobs", source })
            })?;
            self.summary.files += found.len() as u64;
            let (named, unnamed): (Vec<Found>, Vec<Found>) =
                found.into_iter().partition(|file| file.digest.is_some());
            for file in unnamed {
                let text = format!("{}: not a blob's name; left alone", file.path);
                let severity = Severity::Leftover;
                self.report(Finding { severity, kind: "foreign-file", text, repaired: false })
                    .await?;
            }
            self.known_names(named).await?;
            self.progress().await?;
        }
        Ok(())
    }

    async fn known_names(&mut self, files: Vec<Found>) -> Result<(), CheckError> {
        let digests: Vec<Digest> = files.iter().filter_map(|file| file.digest.clone()).collect();
        let known =
            self.content.records().find_blobs(&digests).await.map_err(ContentError::from)?;
        for ((file, digest), known) in files.iter().zip(digests).zip(known) {
            if known.is_some() {
                continue;
            }
            let unknown = if self.options.repair {
                self.collector.remove_unknown(digest).await?
            } else {
                self.collector.is_unknown(digest).await?
            };
            if unknown {
                let age = SystemTime::now().duration_since(file.modified).unwrap_or(Duration::ZERO);
                let (path, bytes, age) = (&file.path, file.bytes, age.as_secs());
                let text = format!("{path}: {bytes} bytes without a record, {age} s old");
                let (severity, repaired) = (Severity::Leftover, self.options.repair);
                self.report(Finding { severity, kind: "unrecorded-file", text, repaired }).await?;
            }
        }
        Ok(())
    }

    async fn report(&mut self, finding: Finding) -> Result<(), CheckError> {
        match (finding.repaired, finding.severity) {
            (true, _) => self.summary.repaired += 1,
            (false, Severity::Damage) => self.summary.damage += 1,
            (false, Severity::Leftover) => self.summary.leftovers += 1,
            (false, Severity::Unchecked) => self.summary.unchecked += 1,
        }
        if self.listener.found(finding).await { Ok(()) } else { Err(CheckError::Unheard) }
    }

    async fn progress(&mut self) -> Result<(), CheckError> {
        if self.listener.progress(&self.summary).await { Ok(()) } else { Err(CheckError::Unheard) }
    }
}

fn class(fault: &Fault) -> (Severity, &'static str) {
    match fault {
        Fault::ManifestRotten { .. } => (Severity::Damage, "manifest-rotten"),
        Fault::ChildMissing { .. } => (Severity::Damage, "child-missing"),
        Fault::TagDangling { .. } => (Severity::Damage, "tag-dangling"),
        Fault::LinkDangling { .. } => (Severity::Damage, "link-dangling"),
        Fault::EdgeMissing { .. } => (Severity::Damage, "edge-missing"),
        Fault::Listing { .. } => (Severity::Damage, "listing"),
        Fault::Damaged { .. } => (Severity::Damage, "database"),
        Fault::EdgeStray { .. } => (Severity::Leftover, "edge-stray"),
        Fault::Unwatched { .. } => (Severity::Leftover, "unwatched"),
        Fault::Unchecked { .. } => (Severity::Unchecked, "unchecked"),
    }
}
