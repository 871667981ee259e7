//! Random histories: SQLite and the plain maps in memory answer alike, contradict no promise, and
//! take nothing away within the grace of whoever saw it.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use shared::{Digest, RepoName};

use super::suite::{Subject, by_digest, by_tag, check_all, digest, memory, repo, sqlite, tag};
use super::*;

const GRACE: Duration = Duration::from_secs(4 * 3600);
/// How far a wait goes, once or more. Never a sum of review delay and grace, where the outcome would
/// hang on the milliseconds between the two clocks.
const WAIT: Duration = Duration::from_secs(61 * 60);
const REPOS: [&str; 2] = ["a", "a/b"];
const BLOBS: [&str; 3] = ["one", "two", "three"];
/// Each with what it names: blobs, or (the last two) manifests and a blob.
const MANIFESTS: [(&str, &[&str]); 5] = [
    ("m1", &["one"]),
    ("m2", &["one", "two"]),
    ("m3", &[]),
    ("i1", &["m1", "m3"]),
    ("i2", &["m2", "three"]),
];
const TAGS: [&str; 2] = ["x", "y"];

#[derive(Clone, Debug)]
enum Step {
    Upload { repo: usize, blob: usize },
    Head { repo: usize, blob: usize },
    Mount { to: usize, from: Option<usize>, blob: usize },
    DeleteBlob { repo: usize, blob: usize },
    Push { repo: usize, manifest: usize, tags: Vec<usize>, accept: bool, subject: bool },
    DeleteManifest { repo: usize, manifest: usize },
    DeleteUntagged { repo: usize, manifest: usize },
    DeleteTag { repo: usize, tag: usize },
    RemoveRepository { repo: usize },
    Quarantine { blob: usize },
    Wait { times: u32 },
    Collect { crash: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let (repo, blob, manifest) = (0..REPOS.len(), 0..BLOBS.len(), 0..MANIFESTS.len());
    let tags = prop::collection::vec(0..TAGS.len(), 0..2);
    prop_oneof![
        4 => (repo.clone(), blob.clone()).prop_map(|(repo, blob)| Step::Upload { repo, blob }),
        4 => (repo.clone(), blob.clone()).prop_map(|(repo, blob)| Step::Head { repo, blob }),
        2 => (repo.clone(), prop::option::of(repo.clone()), blob.clone())
            .prop_map(|(to, from, blob)| Step::Mount { to, from, blob }),
        1 => (repo.clone(), blob.clone()).prop_map(|(repo, blob)| Step::DeleteBlob { repo, blob }),
        6 => (repo.clone(), manifest.clone(), tags, prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(repo, manifest, tags, accept, subject)| Step::Push {
                repo, manifest, tags, accept, subject
            }),
        3 => (repo.clone(), manifest.clone())
            .prop_map(|(repo, manifest)| Step::DeleteManifest { repo, manifest }),
        1 => (repo.clone(), manifest).prop_map(|(repo, manifest)| Step::DeleteUntagged { repo, manifest }),
        1 => (repo.clone(), 0..TAGS.len()).prop_map(|(repo, tag)| Step::DeleteTag { repo, tag }),
        1 => repo.prop_map(|repo| Step::RemoveRepository { repo }),
        1 => blob.prop_map(|blob| Step::Quarantine { blob }),
        6 => (1..4u32).prop_map(|times| Step::Wait { times }),
        8 => prop::bool::weighted(0.2).prop_map(|crash| Step::Collect { crash }),
    ]
}

fn push(name: &str, manifest: usize, tags: &[usize], accept: bool, subject: bool) -> PutManifest {
    let (text, children) = MANIFESTS[manifest];
    let kind = if text.starts_with('i') { ChildKind::ManifestOrBlob } else { ChildKind::Blob };
    // A manifest's meaning follows from its bytes: with and without a subject are two manifests.
    let text = if subject { format!("{text} on a subject") } else { text.to_owned() };
    let referrer = subject.then(|| Referrer {
        subject: digest("m3"),
        artifact_type: format!("type/{manifest}"),
        descriptor: text.clone(),
    });
    PutManifest {
        repo: repo(name),
        digest: digest(&text),
        media_type: "m/t".into(),
        bytes: text.into_bytes().into(),
        children: children
            .iter()
            .map(|child| Child { digest: digest(child), kind, required: true })
            .collect(),
        referrer,
        tags: tags.iter().map(|index| tag(TAGS[*index])).collect(),
        missing: if accept { Missing::Accept } else { Missing::Refuse },
    }
}

/// What a step answered, as text, so that two implementations can be compared.
async fn run(subject: &Subject, step: &Step) -> String {
    let records = &subject.records;
    match step {
        Step::Upload { repo: r, blob } => {
            let size = BLOBS[*blob].len() as u64;
            let (repo, blob) = (repo(REPOS[*r]), digest(BLOBS[*blob]));
            format!("{:?}", records.publish(Publish::file(&repo, &blob, size)).await)
        }
        Step::Head { repo: r, blob } => {
            let (name, blob) = (repo(REPOS[*r]), digest(BLOBS[*blob]));
            format!("{:?}", records.promise_blob(&name, &blob, true).await.unwrap())
        }
        Step::Mount { to, from, blob } => {
            let from = from.map(|from| repo(REPOS[from]));
            let (to, blob) = (repo(REPOS[*to]), digest(BLOBS[*blob]));
            format!("{:?}", records.mount(&to, from.as_ref(), &blob).await)
        }
        Step::DeleteBlob { repo: r, blob } => {
            format!("{:?}", records.unlink_blob(&repo(REPOS[*r]), &digest(BLOBS[*blob])).await)
        }
        Step::Push { repo: r, manifest, tags, accept, subject } => {
            let push = push(REPOS[*r], *manifest, tags, *accept, *subject);
            format!("{:?}", records.put_manifest(push).await)
        }
        Step::DeleteManifest { repo: r, manifest } => {
            let digest = digest(MANIFESTS[*manifest].0);
            format!("{:?}", records.delete_manifest(&repo(REPOS[*r]), &digest).await)
        }
        Step::DeleteUntagged { repo: r, manifest } => {
            let digest = digest(MANIFESTS[*manifest].0);
            // Half an hour back, so that the two clocks need not agree to the millisecond.
            let back = records.gc_now().as_millis().saturating_sub(1_800_000);
            let before = GcTime::from_millis(back);
            format!("{:?}", records.delete_untagged(&repo(REPOS[*r]), &digest, before).await)
        }
        Step::DeleteTag { repo: r, tag: index } => {
            format!("{:?}", records.delete_tag(&repo(REPOS[*r]), &tag(TAGS[*index])).await)
        }
        Step::RemoveRepository { repo: r } => {
            format!("{:?}", records.remove_repository(&repo(REPOS[*r])).await)
        }
        Step::Quarantine { blob } => {
            format!("{:?}", records.quarantine(&digest(BLOBS[*blob])).await)
        }
        Step::Wait { times } => {
            (subject.advance)(WAIT * *times);
            String::new()
        }
        Step::Collect { crash } => collect(records.as_ref(), *crash).await,
    }
}

/// One round of collection, or half of one.
async fn collect(records: &dyn Records, crash: bool) -> String {
    let mut gone = Vec::new();
    for _ in 0..2 {
        let scope = ReviewScope { grace: GRACE, all: false, max: 100, after: None };
        let reviewed = records.review(scope).await.unwrap();
        for blob in reviewed.removable {
            if let Some(place) = records.begin_removal(&blob).await.unwrap()
                && !crash
            {
                records.end_removal(&blob, &place).await.unwrap();
                gone.push(blob);
            }
        }
    }
    gone.sort();
    gone.dedup();
    format!("{gone:?}")
}

/// Everything that clients can see, and what waits.
async fn view(records: &dyn Records) -> String {
    let mut lines = Vec::new();
    for name in REPOS {
        let name = repo(name);
        for blob in BLOBS {
            lines.push(format!(
                "{blob} {:?}",
                records.find_blob(&name, &digest(blob)).await.unwrap()
            ));
        }
        for (text, _) in MANIFESTS {
            lines.push(format!("{:?}", records.resolve(&name, &by_digest(text)).await.unwrap()));
        }
        for text in TAGS {
            lines.push(format!("{:?}", records.resolve(&name, &by_tag(text)).await.unwrap()));
        }
        lines.push(format!("{:?}", records.list_tags(&name, None, 9).await.unwrap()));
        lines.push(format!("{:?}", records.usage(&name).await.unwrap()));
        let page = records.referrers(&name, &digest("m3"), &[], None, 1000).await.unwrap();
        lines.push(format!("{:?}", page.descriptors));
    }
    lines.push(format!("{:?}", records.list_repositories(None, 9).await.unwrap()));
    lines.push(format!("{:?}", records.list_blobs(None, 9).await.unwrap()));
    let waiting = records.waiting().await.unwrap();
    lines.push(format!(
        "{} {} {} {}",
        waiting.condemned_links, waiting.condemned_bytes, waiting.removing, waiting.quarantined
    ));
    lines.join("\n")
}

/// When each link was last promised to somebody, by the hours that have passed.
#[derive(Default)]
struct Promises(HashMap<(RepoName, Digest), Duration>);

impl Promises {
    fn after(&mut self, step: &Step, answer: &str, now: Duration) {
        let promised = match step {
            Step::Upload { repo, blob } => Some((repo, blob)),
            Step::Head { repo, blob } if answer != "None" && answer != "rescued false" => {
                Some((repo, blob))
            }
            Step::Mount { to, blob, .. } if answer.starts_with("Ok(Some") => Some((to, blob)),
            // A client that deletes releases everybody; a rotten blob keeps no promise.
            Step::DeleteBlob { repo, blob } => {
                self.0.remove(&(super::suite::repo(REPOS[*repo]), digest(BLOBS[*blob])));
                None
            }
            Step::Quarantine { blob } => {
                self.0.retain(|(_, promised), _| *promised != digest(BLOBS[*blob]));
                None
            }
            _ => None,
        };
        if let Some((repo, blob)) = promised {
            self.0.insert((super::suite::repo(REPOS[*repo]), digest(BLOBS[*blob])), now);
        }
    }

    async fn hold(&self, records: &dyn Records, now: Duration) -> Result<(), TestCaseError> {
        for ((repo, blob), at) in &self.0 {
            if now < *at + GRACE {
                let found = records.find_blob(repo, blob).await.unwrap();
                prop_assert!(
                    found.is_some(),
                    "{repo}@{blob} was promised at {at:?}, gone at {now:?}"
                );
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn sqlite_answers_as_the_model_does(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (real, model) = (sqlite(), memory());
            let (mut promises, mut now) = (Promises::default(), Duration::ZERO);
            for (index, step) in steps.iter().enumerate() {
                let (answer, want) = (run(&real, step).await, run(&model, step).await);
                prop_assert_eq!(&answer, &want, "step {}: {:?}", index, step);
                if let Step::Wait { times } = step {
                    now += WAIT * *times;
                }
                promises.after(step, &answer, now);
                promises.hold(&*real.records, now).await?;
            }
            prop_assert_eq!(view(&*real.records).await, view(&*model.records).await);
            let quarantined = real.records.waiting().await.unwrap().quarantined > 0;
            for fault in check_all(&*real.records).await {
                let rotten = quarantined && matches!(fault, Fault::ChildMissing { .. });
                prop_assert!(rotten, "{}", fault);
            }
            // Left alone, everything that nobody names comes back.
            for _ in 0..3 {
                for subject in [&real, &model] {
                    (subject.advance)(2 * GRACE);
                    collect(&*subject.records, false).await;
                }
            }
            let waiting = real.records.waiting().await.unwrap();
            prop_assert_eq!((waiting.reviews, waiting.condemned_links), (0, 0));
            prop_assert_eq!(view(&*real.records).await, view(&*model.records).await);
            Ok(())
        })?;
    }
}
