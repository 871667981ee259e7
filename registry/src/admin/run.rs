//! The commands, on an open store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::Serialize;
use shared::{Reference, RepoName, Tag};
use tokio::sync::mpsc;

use super::words::{bytes, count, duration};
use super::{Command, EXIT_DAMAGE, Line};
use crate::content::collect::{Collected, Collector, Untagged};
use crate::content::fsck::{CheckError, Finding, Listener, Options, Severity, Summary};
use crate::content::{Content, ContentError, backup, fsck};
use crate::records::{RepoUsage, Waiting};

/// Names per page of a list.
const PAGE: usize = 500;

/// How often a long command says how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

/// An open store.
#[derive(Clone, Debug)]
pub struct Store {
    pub content: Content,
    pub collector: Arc<Collector>,
}

/// Where the lines go. Bounded, so that a reader that stops reading stops the command.
pub(super) type Lines = mpsc::Sender<Line>;

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Backup(#[from] backup::BackupError),
    /// Nobody reads any more.
    #[error("nobody listens any more")]
    Unheard,
}

impl From<crate::records::RecordsError> for Failure {
    fn from(error: crate::records::RecordsError) -> Self {
        Self::Content(error.into())
    }
}

/// Runs a command; its exit code is the last line.
pub async fn run(store: &Store, command: Command, lines: Lines) {
    let run = Run { store, lines: lines.clone() };
    let result = match command {
        Command::GarbageCollect { dry_run, delete_untagged, grace, quiet } => {
            run.collect(Asked { dry_run, delete_untagged, grace, quiet }).await
        }
        Command::Fsck { repair, quick, json } => run.fsck(Options { repair, quick }, json).await,
        Command::Du { repositories, json } => run.du(repositories, json).await,
        Command::RepoList => run.repo_list().await,
        Command::RepoRemove { repositories } => run.repo_remove(repositories).await,
        Command::TagList { repository } => run.tag_list(&repository).await,
        Command::TagRemove { repository, tags } => run.tag_remove(&repository, tags).await,
        Command::Backup { directory } => run.backup(&directory).await,
    };
    let exit = match result {
        Ok(exit) => exit,
        Err(Failure::Unheard) => return,
        Err(error) => {
            let _ = lines.send(Line::Err(format!("registry: {}", chain(&error)))).await;
            1
        }
    };
    let _ = lines.send(Line::Exit(exit)).await;
}

/// An error and what caused it, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

struct Asked {
    dry_run: bool,
    delete_untagged: bool,
    grace: Option<Duration>,
    quiet: bool,
}

struct Run<'s> {
    store: &'s Store,
    lines: Lines,
}

impl Run<'_> {
    async fn out(&self, text: impl Into<String>) -> Result<(), Failure> {
        self.lines.send(Line::Out(text.into())).await.map_err(|_| Failure::Unheard)
    }

    async fn talk(&self, text: impl Into<String>) -> Result<(), Failure> {
        self.lines.send(Line::Err(text.into())).await.map_err(|_| Failure::Unheard)
    }

    async fn collect(&self, asked: Asked) -> Result<u8, Failure> {
        let collector = &self.store.collector;
        let grace = asked.grace.unwrap_or(collector.settings().grace);
        if grace.is_zero() && !asked.dry_run {
            self.talk(
                "registry: --grace 0 removes at once what nobody names: a push that is under way \
                 may be refused and has to be repeated",
            )
            .await?;
        }
        if asked.dry_run {
            return self.rehearse(&asked, grace).await;
        }
        let mut collected = Collected::default();
        if asked.delete_untagged {
            collected.manifests = collector.untagged(grace, Untagged::Delete).await?;
        }
        collector.finish_interrupted().await?;
        if self.store.content.records().needs_sweep() {
            collector.sweep().await?;
        }
        let manifests = collected.manifests;
        collected = collector.collect(grace, asked.grace.is_some()).await?;
        if !asked.quiet {
            if asked.delete_untagged {
                self.out(format!("removed {}", count(manifests, "untagged manifest"))).await?;
            }
            let freed = bytes(collected.bytes);
            self.out(format!("freed {}, {freed}", count(collected.blobs, "blob"))).await?;
            self.say_what_waits(grace).await?;
        }
        Ok(0)
    }

    async fn rehearse(&self, asked: &Asked, grace: Duration) -> Result<u8, Failure> {
        if asked.delete_untagged {
            let manifests = self.store.collector.untagged(grace, Untagged::Count).await?;
            let manifests = count(manifests, "untagged manifest");
            self.out(format!("would remove {manifests} (and then what only they name)")).await?;
        }
        let free = self.store.content.records().reclaimable(grace).await?;
        self.out(format!("would free {}, {}", count(free.blobs, "blob"), bytes(free.bytes)))
            .await?;
        if !asked.quiet {
            self.say_what_waits(grace).await?;
        }
        Ok(0)
    }

    /// What comes back when.
    async fn say_what_waits(&self, grace: Duration) -> Result<(), Failure> {
        let records = self.store.content.records();
        let (waiting, now) = (records.waiting().await?, records.gc_now());
        let Waiting { condemned_links, condemned_bytes, condemned_first, condemned_last, .. } =
            waiting;
        if let (Some(first), Some(last)) = (condemned_first, condemned_last) {
            let left = |at: crate::records::GcTime| duration(at.after(grace).since(now));
            self.out(format!(
                "{} that nobody names, {}, come back in {} to {}",
                count(condemned_links, "link"),
                bytes(condemned_bytes),
                left(first),
                left(last),
            ))
            .await?;
        }
        let unseen = waiting.reviews.saturating_sub(condemned_links);
        if let (1.., Some(next)) = (unseen, waiting.next_review) {
            let within = next.since(now).max(self.store.collector.settings().review_delay);
            self.out(format!(
                "{} to be looked at, within {}",
                if unseen == 1 {
                    "1 change waits".to_owned()
                } else {
                    format!("{unseen} changes wait")
                },
                duration(within)
            ))
            .await?;
        }
        Ok(())
    }

    async fn fsck(&self, options: Options, json: bool) -> Result<u8, Failure> {
        let mut printer =
            Printer { lines: self.lines.clone(), json, findings: Vec::new(), said: Instant::now() };
        let Store { content, collector } = self.store;
        let summary = fsck::run(content, collector, options, &mut printer).await?;
        if json {
            let report = Report { summary, findings: printer.findings };
            self.out(serde_json::to_string(&report).unwrap_or_default()).await?;
        } else {
            self.out(format!(
                "checked {}, {}, {}: {} of damage, {}, {} repaired",
                count(summary.records, "record"),
                count(summary.blobs, "blob"),
                bytes(summary.bytes),
                count(summary.damage, "finding"),
                count(summary.leftovers, "leftover"),
                summary.repaired,
            ))
            .await?;
            if summary.leftovers > 0 && !options.repair {
                self.talk("hint: leftovers cost space only; `registry fsck --repair` removes them")
                    .await?;
            }
        }
        Ok(match summary {
            Summary { damage: 1.., .. } => EXIT_DAMAGE,
            // Not "everything is well".
            Summary { unchecked: 1.., .. } => 1,
            _ => 0,
        })
    }

    async fn repositories(&self) -> Result<Vec<RepoName>, Failure> {
        let mut all: Vec<RepoName> = Vec::new();
        loop {
            let last = all.last().map(RepoName::as_str);
            let page = self.store.content.records().list_repositories(last, PAGE).await?;
            all.extend(page.entries);
            if !page.more {
                return Ok(all);
            }
        }
    }

    async fn du(&self, mut repositories: Vec<RepoName>, json: bool) -> Result<u8, Failure> {
        let records = self.store.content.records();
        let everything = repositories.is_empty();
        if everything {
            repositories = self.repositories().await?;
        }
        if !json {
            self.out(usage_row("SIZE", "OWN", "MANIFESTS", "TAGS", "REPOSITORY")).await?;
        }
        let mut exit = 0;
        for repo in repositories {
            match records.usage(&repo).await? {
                Some(usage) if json => self.out(usage_json(&usage)).await?,
                Some(usage) => {
                    let (size, own) = (usage.blob_bytes + usage.manifest_bytes, usage.own_bytes);
                    self.out(usage_row(
                        &bytes(size),
                        &bytes(own + usage.manifest_bytes),
                        &usage.manifests.to_string(),
                        &usage.tags.to_string(),
                        repo.as_str(),
                    ))
                    .await?;
                }
                None => {
                    self.talk(format!("registry: {repo}: no such repository")).await?;
                    exit = 1;
                }
            }
        }
        if everything && !json {
            let waiting = records.waiting().await?;
            let total = records.totals().await?.unwrap_or_default().blob_bytes;
            self.out(format!(
                "{} of blobs are stored; {} of them nobody names",
                bytes(total),
                bytes(waiting.condemned_bytes)
            ))
            .await?;
        }
        Ok(exit)
    }

    async fn repo_list(&self) -> Result<u8, Failure> {
        for repo in self.repositories().await? {
            self.out(repo.as_str()).await?;
        }
        Ok(0)
    }

    async fn repo_remove(&self, repositories: Vec<RepoName>) -> Result<u8, Failure> {
        let mut exit = 0;
        for repo in repositories {
            let usage = self.store.content.records().usage(&repo).await?;
            let removed = self.store.content.records().remove_repository(&repo).await?;
            let (true, Some(usage)) = (removed, usage) else {
                self.talk(format!("registry: {repo}: no such repository")).await?;
                exit = 1;
                continue;
            };
            let grace = duration(self.store.collector.settings().grace);
            self.out(format!(
                "removed {repo}: {}, {}; {} come back after {grace}",
                count(usage.manifests, "manifest"),
                count(usage.tags, "tag"),
                bytes(usage.own_bytes)
            ))
            .await?;
        }
        Ok(exit)
    }

    async fn tag_list(&self, repository: &RepoName) -> Result<u8, Failure> {
        let records = self.store.content.records();
        let mut last: Option<Tag> = None;
        loop {
            let page = records.list_tags(repository, last.as_ref().map(Tag::as_str), PAGE).await?;
            let Some(page) = page else {
                self.talk(format!("registry: {repository}: no such repository")).await?;
                return Ok(1);
            };
            for tag in &page.entries {
                let reference = Reference::Tag(tag.clone());
                if let Some(manifest) = records.resolve(repository, &reference).await? {
                    self.out(format!("{tag}\t{}", manifest.digest)).await?;
                }
            }
            last = page.entries.last().cloned();
            if !page.more {
                return Ok(0);
            }
        }
    }

    async fn tag_remove(&self, repository: &RepoName, tags: Vec<Tag>) -> Result<u8, Failure> {
        let mut exit = 0;
        for tag in tags {
            if self.store.content.records().delete_tag(repository, &tag).await? {
                self.out(format!("removed {repository}:{tag}; its manifest stays")).await?;
            } else {
                self.talk(format!("registry: {repository}:{tag}: no such tag")).await?;
                exit = 1;
            }
        }
        Ok(exit)
    }

    async fn backup(&self, directory: &std::path::Path) -> Result<u8, Failure> {
        let Store { content, collector } = self.store;
        let (lines, mut said) = (self.lines.clone(), Instant::now());
        let copied = backup::backup(content, collector, directory, |copied| {
            if said.elapsed() > PROGRESS {
                said = Instant::now();
                let text = format!("{} copied, {}", copied.blobs, bytes(copied.bytes));
                let _ = lines.try_send(Line::Err(text));
            }
        })
        .await?;
        self.out(format!(
            "copied {}, {}; {} were there already",
            count(copied.blobs, "blob"),
            bytes(copied.bytes),
            copied.kept
        ))
        .await?;
        for digest in &copied.rotten {
            self.talk(format!("registry: {digest}: rotten, so it is not in the backup")).await?;
        }
        Ok(if copied.rotten.is_empty() { 0 } else { EXIT_DAMAGE })
    }
}

fn usage_row(size: &str, own: &str, manifests: &str, tags: &str, repo: &str) -> String {
    format!("{size:>11} {own:>11} {manifests:>10} {tags:>8}  {repo}")
}

fn usage_json(usage: &RepoUsage) -> String {
    serde_json::json!({
        "repository": usage.repo,
        "tags": usage.tags,
        "manifests": usage.manifests,
        "manifest_bytes": usage.manifest_bytes,
        "blobs": usage.blobs,
        "blob_bytes": usage.blob_bytes,
        "own_bytes": usage.own_bytes,
    })
    .to_string()
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    summary: Summary,
    findings: Vec<Finding>,
}

/// Findings in a JSON report at most; all are counted.
const FINDINGS_MAX: usize = 10_000;

struct Printer {
    lines: Lines,
    json: bool,
    findings: Vec<Finding>,
    said: Instant,
}

#[async_trait]
impl Listener for Printer {
    async fn found(&mut self, finding: Finding) -> bool {
        if self.json {
            if self.findings.len() < FINDINGS_MAX {
                self.findings.push(finding);
            }
            return !self.lines.is_closed();
        }
        let word = match (finding.repaired, finding.severity) {
            (true, _) => "repaired",
            (false, Severity::Damage) => "DAMAGE",
            (false, Severity::Leftover) => "leftover",
            (false, Severity::Unchecked) => "unchecked",
        };
        let line = Line::Out(format!("{word}: {}: {}", finding.kind, finding.text));
        self.lines.send(line).await.is_ok()
    }

    async fn progress(&mut self, summary: &Summary) -> bool {
        if self.said.elapsed() > PROGRESS {
            self.said = Instant::now();
            let text = format!(
                "{}, {}, {} checked",
                count(summary.records, "record"),
                count(summary.blobs, "blob"),
                bytes(summary.bytes)
            );
            let _ = self.lines.try_send(Line::Err(text));
        }
        !self.lines.is_closed()
    }
}
