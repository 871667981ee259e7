//! Measures the records alone: durable pushes per second, and what reads cost as the store grows.
//!
//! `cargo run --release -p registry --example records -- DIRECTORY [MANIFESTS [REPOSITORIES]]`
#![allow(clippy::unwrap_used, reason = "a measurement that fails says so")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use registry::records::sqlite::{Options, SqliteRecords};
use registry::records::{
    Child, ChildKind, Missing, Publish, PutManifest, Records, Referrer, ReviewScope,
};
use shared::{Digest, Reference, RepoName};

/// Bytes of a manifest: an image of a dozen layers.
const MANIFEST_BYTES: usize = 1200;

/// Blobs of each manifest: the first its own, the others shared by its repository.
const CHILDREN: usize = 5;

/// Tags of the two repositories between which cost must not differ.
const SMALL: usize = 100;
const LARGE: usize = 100_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().unwrap_or_else(|| "./records-bench".to_owned());
    let number = |text: Option<String>, default| text.map_or(default, |text| text.parse().unwrap());
    let manifests: usize = number(arguments.next(), 100_000);
    let repositories: usize = number(arguments.next(), 10_000);
    std::fs::create_dir_all(&directory).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(Path::new(&directory), manifests, repositories));
}

async fn run(directory: &Path, manifests: usize, repositories: usize) {
    let records = Arc::new(SqliteRecords::open(directory, &Options::default()).unwrap());
    fill(&records, manifests, repositories).await;
    fill_tags(&records, "flat/small", SMALL).await;
    fill_tags(&records, "flat/large", LARGE).await;
    for clients in [1, 32, 128] {
        pushes(&records, clients, repositories).await;
    }
    flatness(&records).await;
    records.close().await.unwrap();
    let began = Instant::now();
    drop(records);
    let opened = SqliteRecords::open(directory, &Options::default()).unwrap();
    println!("open: {:?}", began.elapsed());
    drop(opened);
}

fn push(repo: &RepoName, serial: usize, tags: &[String]) -> PutManifest {
    let mut text = format!("{repo} {serial} ");
    text.push_str(&"m".repeat(MANIFEST_BYTES.saturating_sub(text.len())));
    PutManifest {
        repo: repo.clone(),
        digest: Digest::sha256(text.as_bytes()),
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        bytes: Bytes::from(text),
        children: (0..CHILDREN)
            .map(|n| Child { digest: blob(repo, serial, n), kind: ChildKind::Blob, required: true })
            .collect(),
        referrer: None,
        tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
        missing: Missing::Accept,
    }
}

fn blob(repo: &RepoName, serial: usize, n: usize) -> Digest {
    let own = if n == 0 { serial } else { 0 };
    Digest::sha256(format!("{repo} {own} {n}").as_bytes())
}

async fn fill(records: &Arc<SqliteRecords>, manifests: usize, repositories: usize) {
    let began = Instant::now();
    let each = manifests.div_ceil(128);
    let tasks = (0..128).map(|task| {
        let records = Arc::clone(records);
        tokio::spawn(async move {
            for serial in task * each..((task + 1) * each).min(manifests) {
                let repo: RepoName = format!("fill/r{}", serial % repositories).parse().unwrap();
                for n in 0..CHILDREN {
                    if n == 0 || serial < repositories {
                        records
                            .publish(Publish::file(&repo, &blob(&repo, serial, n), 1000))
                            .await
                            .unwrap();
                    }
                }
                let tags = [format!("v{}", serial / repositories)];
                records.put_manifest(push(&repo, serial, &tags)).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    println!("stored {manifests} manifests in {repositories} repositories: {:?}", began.elapsed());
}

async fn fill_tags(records: &Arc<SqliteRecords>, name: &str, tags: usize) {
    let repo: RepoName = name.parse().unwrap();
    for first in (0..tags).step_by(1000) {
        let tags: Vec<String> = (first..tags.min(first + 1000)).map(|n| format!("t{n}")).collect();
        records.put_manifest(push(&repo, first, &tags)).await.unwrap();
    }
    // A subject with as many referrers as the repository has tags, up to 10,000.
    let subject = Digest::sha256(name.as_bytes());
    let tasks: Vec<_> = (0..tags.min(10_000))
        .map(|n| {
            let mut push = push(&repo, 1_000_000 + n, &[]);
            push.referrer = Some(Referrer {
                subject: subject.clone(),
                artifact_type: "application/vnd.example.sbom".to_owned(),
                descriptor: "{}".repeat(100),
            });
            let records = Arc::clone(records);
            tokio::spawn(async move { records.put_manifest(push).await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn pushes(records: &Arc<SqliteRecords>, clients: usize, repositories: usize) {
    let (began, long) = (Instant::now(), Duration::from_secs(5));
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let records = Arc::clone(records);
            tokio::spawn(async move {
                let mut times = Vec::new();
                while began.elapsed() < long {
                    let serial = 10_000_000 + times.len() * clients + client;
                    let repo = format!("fill/r{}", serial * 7919 % repositories).parse().unwrap();
                    let push = push(&repo, serial, &["latest".to_owned()]);
                    let start = Instant::now();
                    records.put_manifest(push).await.unwrap();
                    times.push(start.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    times.sort_unstable();
    let rate = times.len() as f64 / began.elapsed().as_secs_f64();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!(
        "{clients:>3} clients: {rate:>6.0} durable pushes/s, p50 {:?}, p99 {:?}",
        at(50),
        at(99)
    );
}

/// Prints the median of each operation in the small and in the large repository, measured in turns,
/// so that whatever else the machine does falls on both.
async fn flatness(records: &Arc<SqliteRecords>) {
    const TIMES: usize = 500;
    let repos: [RepoName; 2] = ["flat/small".parse().unwrap(), "flat/large".parse().unwrap()];
    println!("median with {SMALL} and with {LARGE} tags:");
    macro_rules! time {
        ($what:literal, |$repo:ident, $n:ident| $operation:expr) => {
            let mut times = [const { Vec::new() }; 2];
            for $n in 0..TIMES {
                for ($repo, times) in repos.iter().zip(&mut times) {
                    let began = Instant::now();
                    let _ = $operation;
                    times.push(began.elapsed());
                }
            }
            times.iter_mut().for_each(|times| times.sort_unstable());
            println!("  {:<20} {:?} {:?}", $what, times[0][TIMES / 2], times[1][TIMES / 2]);
        };
    }
    time!("manifest by tag", |repo, n| {
        let tag = Reference::Tag(format!("t{}", n % 100).parse().unwrap());
        records.resolve(repo, &tag).await.unwrap().unwrap()
    });
    time!("tags?n=100", |repo, _n| records.list_tags(repo, Some("t50"), 100).await.unwrap());
    time!("catalog?n=100", |_repo, _n| {
        records.list_repositories(Some("fill/r5"), 100).await.unwrap()
    });
    time!("100 referrers", |repo, _n| {
        let subject = Digest::sha256(repo.as_str().as_bytes());
        records.referrers(repo, &subject, &[], None, 20_000).await.unwrap()
    });
    time!("push with a tag", |repo, n| {
        let tags = ["t7".to_owned()];
        records.put_manifest(push(repo, 5_000_000 + n, &tags)).await.unwrap()
    });
    time!("delete by digest", |repo, n| {
        let pushed = push(repo, 5_000_000 + n, &[]);
        assert!(records.delete_manifest(repo, &pushed.digest).await.unwrap());
    });
    time!("review of 100", |_repo, _n| {
        let (grace, after) = (Duration::from_secs(86_400), None);
        records.review(ReviewScope { grace, all: false, max: 100, after }).await.unwrap()
    });
}
