//! One suite over every implementation of [`Records`].

use std::sync::Arc;
use std::time::Duration;

use shared::{Digest, RepoName, Tag};

use super::memory::MemoryRecords;
use super::sqlite::{Options, SqliteRecords};
use super::*;

pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// Records under test, with a clock that can be moved.
pub(super) struct Subject {
    pub(super) records: Arc<dyn Records>,
    pub(super) advance: Box<dyn Fn(Duration)>,
    _directory: Option<tempfile::TempDir>,
}

pub(super) fn sqlite() -> Subject {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { review_delay: HOUR, readers: 2, ..Options::default() };
    let records = Arc::new(SqliteRecords::open(directory.path(), &options).unwrap());
    let clock = Arc::clone(&records);
    let advance = Box::new(move |by| clock.advance_clock(by));
    Subject { records, advance, _directory: Some(directory) }
}

pub(super) fn memory() -> Subject {
    let records = Arc::new(MemoryRecords::new(HOUR));
    let clock = Arc::clone(&records);
    Subject { records, advance: Box::new(move |by| clock.advance_clock(by)), _directory: None }
}

pub(super) fn repo(name: &str) -> RepoName {
    name.parse().unwrap()
}

pub(super) fn tag(name: &str) -> Tag {
    name.parse().unwrap()
}

pub(super) fn digest(text: &str) -> Digest {
    Digest::sha256(text.as_bytes())
}

pub(super) fn blob_child(text: &str) -> Child {
    Child { digest: digest(text), kind: ChildKind::Blob, required: true }
}

/// A manifest whose bytes are `text`, naming the blobs of these texts.
pub(super) fn manifest(name: &str, text: &str, children: &[&str], tags: &[&str]) -> PutManifest {
    PutManifest {
        repo: repo(name),
        digest: digest(text),
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        bytes: Bytes::copy_from_slice(text.as_bytes()),
        children: children.iter().map(|child| blob_child(child)).collect(),
        referrer: None,
        tags: tags.iter().map(|name| tag(name)).collect(),
        missing: Missing::Refuse,
    }
}

pub(super) fn by_tag(name: &str) -> Reference {
    Reference::Tag(tag(name))
}

pub(super) fn by_digest(text: &str) -> Reference {
    Reference::Digest(digest(text))
}

impl Subject {
    async fn blob(&self, name: &str, text: &str) {
        let size = text.len() as u64;
        self.records.publish(Publish::file(&repo(name), &digest(text), size)).await.unwrap();
    }

    async fn put(&self, push: PutManifest) -> bool {
        self.records.put_manifest(push).await.unwrap().created
    }

    async fn holds(&self, name: &str, text: &str) -> Option<RepoBlob> {
        self.records.find_blob(&repo(name), &digest(text)).await.unwrap()
    }

    async fn text(&self, name: &str, reference: Reference) -> Option<String> {
        let found = self.records.resolve(&repo(name), &reference).await.unwrap()?;
        Some(String::from_utf8(found.bytes.to_vec()).unwrap())
    }

    async fn tags(&self, name: &str) -> Option<Vec<String>> {
        let page = self.records.list_tags(&repo(name), None, 1000).await.unwrap()?;
        Some(page.entries.iter().map(ToString::to_string).collect())
    }

    async fn catalog(&self) -> Vec<String> {
        let page = self.records.list_repositories(None, 1000).await.unwrap();
        page.entries.iter().map(ToString::to_string).collect()
    }

    async fn review(&self, grace: Duration) -> Reviewed {
        let scope = ReviewScope { grace, all: false, max: 1000, after: None };
        self.records.review(scope).await.unwrap()
    }

    async fn faults(&self) -> Vec<Fault> {
        check_all(&*self.records).await
    }
}

pub(super) async fn check_all(records: &dyn Records) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut cursor = Some(CheckCursor::default());
    while let Some(at) = cursor {
        let page = records.check(at, 3, false).await.unwrap();
        faults.extend(page.faults);
        cursor = page.next;
    }
    faults
}

async fn a_blob_is_readable_only_where_it_is_linked(s: &Subject) {
    assert_eq!(s.holds("a", "one").await, None);
    s.blob("a", "one").await;
    let found = s.holds("a", "one").await.unwrap();
    assert_eq!((found.digest(), found.size(), found.condemned()), (&digest("one"), 3, false));
    assert_eq!(s.holds("b", "one").await, None);
    assert_eq!(s.holds("a", "two").await, None);
    assert_eq!(s.records.holders(&digest("one"), 9).await.unwrap(), [repo("a")]);

    let long = Digest::of(shared::Algorithm::Sha512, b"one");
    assert_eq!(s.records.find_blob(&repo("a"), &long).await.unwrap(), None);
    s.records.publish(Publish::file(&repo("a"), &long, 3)).await.unwrap();
    assert!(s.records.find_blob(&repo("a"), &long).await.unwrap().is_some());
}

async fn mount_links_what_another_repository_holds(s: &Subject) {
    s.blob("a", "one").await;
    let (a, b, c) = (repo("a"), repo("b"), repo("c"));
    assert_eq!(s.records.mount(&b, Some(&c), &digest("one")).await.unwrap(), None);
    assert_eq!(s.records.mount(&b, Some(&a), &digest("two")).await.unwrap(), None);
    assert_eq!(s.holds("b", "one").await, None);
    assert_eq!(s.records.mount(&b, Some(&a), &digest("one")).await.unwrap().unwrap().size(), 3);
    assert!(s.holds("b", "one").await.is_some());
    assert!(s.records.mount(&c, None, &digest("one")).await.unwrap().is_some());
    assert_eq!(s.records.mount(&c, None, &digest("none")).await.unwrap(), None);
    assert!(s.holds("c", "one").await.is_some());
    assert_eq!(s.records.holders(&digest("one"), 2).await.unwrap().len(), 2);
}

async fn a_manifest_with_missing_children_changes_nothing(s: &Subject) {
    s.blob("a", "here").await;
    s.blob("b", "elsewhere").await;
    let mut push = manifest("a", "m", &["gone", "here", "elsewhere", "gone"], &["t"]);
    match s.records.put_manifest(push.clone()).await {
        Err(PutManifestError::Missing(missing)) => {
            assert_eq!(missing, [digest("gone"), digest("elsewhere")]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(s.text("a", by_digest("m")).await, None);
    assert_eq!(s.tags("a").await, None);
    assert_eq!(s.catalog().await, Vec::<String>::new());

    for child in &mut push.children {
        child.required = child.digest == digest("here");
    }
    assert!(s.put(push.clone()).await, "children that may be absent");
    assert!(!s.put(push).await, "a second push of the same manifest");
    let sparse = PutManifest { missing: Missing::Accept, ..manifest("a", "n", &["gone"], &[]) };
    assert!(s.put(sparse).await);
    assert_eq!(s.faults().await, []);
}

async fn a_tag_names_one_manifest_and_several_name_the_same(s: &Subject) {
    assert!(s.put(manifest("a", "m1", &[], &["x", "y"])).await);
    assert!(s.put(manifest("a", "m2", &[], &["y", "z"])).await);
    assert_eq!(s.text("a", by_tag("x")).await.as_deref(), Some("m1"));
    assert_eq!(s.text("a", by_tag("y")).await.as_deref(), Some("m2"));
    assert_eq!(s.text("b", by_tag("y")).await, None);
    let found = s.records.resolve(&repo("a"), &by_tag("z")).await.unwrap().unwrap();
    assert_eq!(found.digest, digest("m2"));
    assert_eq!(found.media_type, "application/vnd.oci.image.manifest.v1+json");

    assert!(s.records.delete_tag(&repo("a"), &tag("y")).await.unwrap());
    assert!(!s.records.delete_tag(&repo("a"), &tag("y")).await.unwrap());
    assert_eq!(s.text("a", by_digest("m2")).await.as_deref(), Some("m2"), "the manifest stays");
    assert!(s.records.delete_manifest(&repo("a"), &digest("m1")).await.unwrap());
    assert!(!s.records.delete_manifest(&repo("a"), &digest("m1")).await.unwrap());
    assert_eq!(s.tags("a").await.unwrap(), ["z"], "a manifest takes its tags along");
    assert!(s.records.delete_manifest(&repo("a"), &digest("m2")).await.unwrap());
    assert_eq!(s.tags("a").await, None, "without a manifest the repository is unknown");
    assert_eq!(s.faults().await, []);
}

async fn an_untagged_repository_is_known(s: &Subject) {
    s.put(manifest("a", "m", &[], &[])).await;
    assert_eq!(s.tags("a").await.unwrap(), Vec::<String>::new());
    assert_eq!(s.catalog().await, ["a"]);
}

async fn lists_come_in_pages_and_in_order(s: &Subject) {
    for name in ["b", "a/b", "a-b", "a", "a.b", "a/b/c", "a0"] {
        s.put(manifest(name, name, &[], &["Z", "a", "A", "_", "1.0", "b"])).await;
    }
    let catalog = s.catalog().await;
    assert_eq!(catalog, ["a", "a/b", "a/b/c", "a-b", "a.b", "a0", "b"], "`/` comes first");
    let page = s.records.list_repositories(Some("a/b"), 2).await.unwrap();
    assert_eq!(page, Page { entries: vec![repo("a/b/c"), repo("a-b")], more: true });
    let page = s.records.list_repositories(Some("a0"), 1).await.unwrap();
    assert_eq!(page, Page { entries: vec![repo("b")], more: false });
    let page = s.records.list_repositories(Some("\u{e4} no name"), 9).await.unwrap();
    assert_eq!(page, Page { entries: vec![], more: false });

    assert_eq!(s.tags("a").await.unwrap(), ["1.0", "A", "Z", "_", "a", "b"]);
    let page = s.records.list_tags(&repo("a"), Some("A"), 2).await.unwrap().unwrap();
    assert_eq!(page, Page { entries: vec![tag("Z"), tag("_")], more: true });
    let page = s.records.list_tags(&repo("a"), Some("Zz"), 3).await.unwrap().unwrap();
    assert_eq!(page, Page { entries: vec![tag("_"), tag("a"), tag("b")], more: false });
    let none = s.records.list_tags(&repo("a"), None, 0).await.unwrap().unwrap();
    assert_eq!(none, Page { entries: vec![], more: true });
}

fn referrer(text: &str, artifact_type: &str) -> PutManifest {
    let referrer = Referrer {
        subject: digest("subject"),
        artifact_type: artifact_type.into(),
        descriptor: format!("{{\"d\":\"{text}\"}}"),
    };
    PutManifest { referrer: Some(referrer), ..manifest("a", text, &[], &[]) }
}

async fn all_referrers(s: &Subject, types: &[&str], max_bytes: usize) -> Vec<String> {
    let types: Vec<String> = types.iter().map(|t| (*t).to_owned()).collect();
    let (mut all, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = s
            .records
            .referrers(&repo("a"), &digest("subject"), &types, after.as_deref(), max_bytes)
            .await
            .unwrap();
        assert!(page.next.is_none() || !page.descriptors.is_empty());
        all.extend(page.descriptors);
        pages += 1;
        assert!(pages < 50, "pages lead in a circle");
        match page.next {
            Some(next) => {
                assert!(next.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
                after = Some(next);
            }
            None => break,
        }
    }
    all.sort();
    all
}

async fn referrers_are_found_filtered_and_paged(s: &Subject) {
    for (text, artifact_type) in
        [("r1", "t/b"), ("r2", "t/a"), ("r3", "t/b"), ("r4", ""), ("r5", "t/\u{fc}")]
    {
        s.put(referrer(text, artifact_type)).await;
    }
    s.put(manifest("a", "unrelated", &[], &[])).await;
    let texts = |names: &[&str]| -> Vec<String> {
        names.iter().map(|name| format!("{{\"d\":\"{name}\"}}")).collect()
    };
    for max_bytes in [1, 10, 25, 1000] {
        let all = all_referrers(s, &[], max_bytes).await;
        assert_eq!(all, texts(&["r1", "r2", "r3", "r4", "r5"]), "{max_bytes}");
        assert_eq!(all_referrers(s, &["t/b"], max_bytes).await, texts(&["r1", "r3"]));
        let two = all_referrers(s, &["t/b", "t/a", "t/b", "none"], max_bytes).await;
        assert_eq!(two, texts(&["r1", "r2", "r3"]), "{max_bytes}");
    }
    let subject = digest("subject");
    let mangled = s.records.referrers(&repo("a"), &subject, &[], Some("?"), 1000).await.unwrap();
    assert_eq!(mangled.descriptors.len(), 5, "from the beginning");
    let elsewhere = s.records.referrers(&repo("b"), &subject, &[], None, 1000).await.unwrap();
    assert_eq!(elsewhere, ReferrerPage::default());
    s.records.delete_manifest(&repo("a"), &digest("r2")).await.unwrap();
    assert_eq!(all_referrers(s, &["t/a"], 1000).await, Vec::<String>::new());
    assert_eq!(s.faults().await, []);
}

async fn an_upload_that_nobody_names_goes_after_review_and_grace(s: &Subject) {
    s.blob("a", "one").await;
    assert_eq!(s.review(24 * HOUR).await, Reviewed::default(), "not due yet");
    (s.advance)(HOUR);
    assert_eq!(s.review(24 * HOUR).await.condemned, 1);
    assert!(s.holds("a", "one").await.unwrap().condemned());
    assert!(
        s.records.begin_removal(&digest("one")).await.unwrap().is_none(),
        "condemned links count"
    );
    let waiting = s.records.waiting().await.unwrap();
    assert_eq!((waiting.condemned_links, waiting.condemned_bytes, waiting.reviews), (1, 3, 1));

    let now = Reclaimable { blobs: 1, bytes: 3 };
    assert_eq!(s.records.reclaimable(24 * HOUR).await.unwrap(), Reclaimable::default());
    assert_eq!(s.records.reclaimable(Duration::ZERO).await.unwrap(), now);

    (s.advance)(23 * HOUR);
    assert_eq!(s.review(24 * HOUR).await.unlinked, 0);
    assert_eq!(s.records.reclaimable(22 * HOUR).await.unwrap(), now);
    (s.advance)(HOUR);
    assert_eq!(s.review(24 * HOUR).await.unlinked, 1);
    assert_eq!(s.holds("a", "one").await, None);
    assert_eq!(s.review(24 * HOUR).await.removable, [digest("one")]);
    assert_eq!(s.review(24 * HOUR).await.removable, [digest("one")], "until it is gone");
    assert!(s.records.begin_removal(&digest("one")).await.unwrap().is_some());
    assert_eq!(s.records.interrupted_removals(9).await.unwrap(), [digest("one")]);
    assert!(
        s.records.begin_removal(&digest("one")).await.unwrap().is_some(),
        "after a crash, again"
    );
    s.records.end_removal(&digest("one"), &Place::File).await.unwrap();
    s.records.end_removal(&digest("one"), &Place::File).await.unwrap();
    assert_eq!(s.review(24 * HOUR).await.removable, []);
    assert_eq!(s.records.waiting().await.unwrap(), Waiting::default());
    assert_eq!(s.records.list_blobs(None, 9).await.unwrap(), []);
}

async fn what_a_manifest_names_is_never_condemned(s: &Subject) {
    s.blob("a", "one").await;
    s.put(manifest("a", "m", &["one"], &["t"])).await;
    (s.advance)(HOUR);
    assert_eq!(s.review(HOUR).await.settled, 1);
    assert_eq!(s.records.waiting().await.unwrap().reviews, 0);
    assert!(!s.holds("a", "one").await.unwrap().condemned());

    s.put(manifest("a", "other", &["one"], &[])).await;
    s.records.delete_manifest(&repo("a"), &digest("m")).await.unwrap();
    assert_eq!(s.review(HOUR).await, Reviewed::default(), "another manifest names it");
    s.records.delete_manifest(&repo("a"), &digest("other")).await.unwrap();
    assert_eq!(s.review(HOUR).await.condemned, 1);
    assert_eq!(s.faults().await, []);
}

async fn condemn(s: &Subject) {
    s.blob("a", "one").await;
    (s.advance)(HOUR);
    assert_eq!(s.review(2 * HOUR).await.condemned, 1);
    (s.advance)(HOUR);
}

/// After a rescue at `h`, the link lives until `h` + grace at least, and goes at last.
async fn is_rescued(s: &Subject, named: bool) {
    assert!(!s.holds("a", "one").await.unwrap().condemned());
    (s.advance)(HOUR);
    s.review(2 * HOUR).await;
    assert!(s.holds("a", "one").await.is_some());
    for _ in 0..4 {
        (s.advance)(HOUR);
        s.review(2 * HOUR).await;
    }
    assert_eq!(s.holds("a", "one").await.is_some(), named);
    assert!(s.records.waiting().await.unwrap().rescued > 0);
    assert_eq!(s.faults().await, []);
}

async fn head_rescues(s: &Subject) {
    condemn(s).await;
    assert!(s.records.promise_blob(&repo("a"), &digest("one"), true).await.unwrap().is_some());
    assert!(s.records.promise_blob(&repo("b"), &digest("one"), true).await.unwrap().is_none());
    is_rescued(s, false).await;
}

async fn upload_rescues(s: &Subject) {
    condemn(s).await;
    s.blob("a", "one").await;
    is_rescued(s, false).await;
}

async fn mount_rescues(s: &Subject) {
    condemn(s).await;
    s.records.mount(&repo("a"), Some(&repo("a")), &digest("one")).await.unwrap().unwrap();
    is_rescued(s, false).await;
}

async fn a_manifest_rescues(s: &Subject) {
    condemn(s).await;
    s.put(manifest("a", "m", &["one"], &[])).await;
    is_rescued(s, true).await;
}

async fn a_refused_manifest_rescues_nothing(s: &Subject) {
    condemn(s).await;
    let refused = s.records.put_manifest(manifest("a", "m", &["one", "gone"], &[])).await;
    assert!(matches!(refused, Err(PutManifestError::Missing(_))));
    assert!(s.holds("a", "one").await.unwrap().condemned());
    assert_eq!(s.records.waiting().await.unwrap().rescued, 0);
}

async fn no_grace_removes_at_once_what_nobody_names(s: &Subject) {
    s.blob("a", "one").await;
    s.blob("a", "named").await;
    s.put(manifest("a", "m", &["named"], &[])).await;
    let mut removable = Vec::new();
    for _ in 0..2 {
        let mut after = None;
        loop {
            let scope = ReviewScope { grace: Duration::ZERO, all: true, max: 1, after };
            let reviewed = s.records.review(scope).await.unwrap();
            removable.extend(reviewed.removable);
            after = reviewed.next;
            if after.is_none() {
                break;
            }
        }
    }
    removable.dedup();
    assert_eq!(removable, [digest("one")]);
    assert!(s.holds("a", "named").await.is_some());
}

async fn all_reviews_with_grace_come_to_an_end(s: &Subject) {
    for n in 0..5 {
        s.blob("a", &format!("blob {n}")).await;
    }
    let (mut after, mut rounds) = (None, 0);
    loop {
        let scope = ReviewScope { grace: HOUR, all: true, max: 2, after };
        after = s.records.review(scope).await.unwrap().next;
        rounds += 1;
        assert!(rounds < 20, "the queue is walked in a circle");
        if after.is_none() {
            break;
        }
    }
    assert_eq!(s.records.waiting().await.unwrap().condemned_links, 5);
}

async fn a_deleted_link_frees_the_blob_unless_it_is_linked_elsewhere(s: &Subject) {
    s.blob("a", "one").await;
    s.blob("b", "one").await;
    assert!(s.records.unlink_blob(&repo("a"), &digest("one")).await.unwrap());
    assert!(!s.records.unlink_blob(&repo("a"), &digest("one")).await.unwrap());
    assert_eq!(s.holds("a", "one").await, None);
    assert!(s.holds("b", "one").await.is_some());
    assert_eq!(s.review(HOUR).await.removable, []);
    assert!(s.records.begin_removal(&digest("one")).await.unwrap().is_none());
    s.records.unlink_blob(&repo("b"), &digest("one")).await.unwrap();
    assert_eq!(s.review(HOUR).await.removable, [digest("one")]);
    s.blob("b", "one").await;
    assert!(
        s.records.begin_removal(&digest("one")).await.unwrap().is_none(),
        "linked again meanwhile"
    );
    assert_eq!(s.review(HOUR).await.removable, []);
}

async fn a_client_may_delete_what_a_manifest_names(s: &Subject) {
    s.blob("a", "one").await;
    s.put(manifest("a", "m", &["one"], &["t"])).await;
    s.records.unlink_blob(&repo("a"), &digest("one")).await.unwrap();
    assert_eq!(s.faults().await, [], "the client's will is no fault");
    let again = s.records.put_manifest(manifest("a", "m", &["one"], &["t"])).await;
    assert!(matches!(again, Err(PutManifestError::Missing(_))));
    s.blob("a", "one").await;
    s.put(manifest("a", "m", &["one"], &["t"])).await;
    assert_eq!(s.faults().await, []);
}

async fn an_index_protects_manifests_and_blobs(s: &Subject) {
    let entry = |text: &str| Child {
        digest: digest(text),
        kind: ChildKind::ManifestOrBlob,
        required: true,
    };
    s.blob("a", "layer").await;
    s.put(manifest("a", "child", &["layer"], &[])).await;
    s.blob("a", "cache").await;
    let index = PutManifest {
        children: vec![entry("child"), entry("cache")],
        ..manifest("a", "index", &[], &["t"])
    };
    s.put(index.clone()).await;
    let untagged = s.records.list_manifests(&repo("a"), Some(GcTime::MAX), None, 9).await.unwrap();
    assert_eq!(untagged.entries, [], "an index keeps its children");
    (s.advance)(HOUR);
    s.review(Duration::ZERO).await;
    assert!(s.holds("a", "cache").await.is_some(), "an index names blobs too");

    let missing = PutManifest { children: vec![entry("none")], ..index };
    assert!(matches!(s.records.put_manifest(missing).await, Err(PutManifestError::Missing(_))));
    let layer = manifest("a", "x", &["child"], &[]);
    let layer = s.records.put_manifest(layer).await;
    assert!(matches!(layer, Err(PutManifestError::Missing(_))), "a manifest is not a layer");
    assert_eq!(s.faults().await, []);
}

async fn untagged_manifests_go_by_rule_only_and_not_while_young(s: &Subject) {
    s.put(manifest("a", "old", &[], &[])).await;
    s.put(manifest("a", "subject", &[], &["t"])).await;
    s.put(referrer("sbom", "t/sbom")).await;
    (s.advance)(2 * HOUR);
    let now = s.records.gc_now();
    s.put(manifest("a", "young", &[], &[])).await;
    let page = s.records.list_manifests(&repo("a"), Some(GcTime::MAX), None, 1).await.unwrap();
    assert!(page.more);
    let rest = s
        .records
        .list_manifests(&repo("a"), Some(GcTime::MAX), page.entries.last(), 9)
        .await
        .unwrap();
    let mut untagged: Vec<Digest> = page.entries.into_iter().chain(rest.entries).collect();
    untagged.sort();
    let mut want = vec![digest("old"), digest("young")];
    want.sort();
    assert_eq!(untagged, want);
    assert_eq!(s.records.list_manifests(&repo("a"), None, None, 9).await.unwrap().entries.len(), 4);

    let before = GcTime::from_millis(now.as_millis() - 1);
    for (text, goes) in [("old", true), ("subject", false), ("sbom", false), ("young", false)] {
        let deleted = s.records.delete_untagged(&repo("a"), &digest(text), before).await.unwrap();
        assert_eq!(deleted, goes, "{text}");
    }
    assert_eq!(s.text("a", by_digest("old")).await, None);
}

async fn a_rotten_blob_is_out_of_service_until_it_is_pushed_again(s: &Subject) {
    s.blob("a", "one").await;
    s.put(manifest("a", "m", &["one"], &[])).await;
    assert!(s.records.quarantine(&digest("one")).await.unwrap());
    assert!(!s.records.quarantine(&digest("one")).await.unwrap());
    assert_eq!(s.holds("a", "one").await, None);
    assert!(s.records.promise_blob(&repo("a"), &digest("one"), true).await.unwrap().is_none());
    assert_eq!(s.records.mount(&repo("b"), Some(&repo("a")), &digest("one")).await.unwrap(), None);
    assert_eq!(s.records.mount(&repo("b"), None, &digest("one")).await.unwrap(), None);
    let again = s.records.put_manifest(manifest("a", "n", &["one"], &[])).await;
    assert!(matches!(again, Err(PutManifestError::Missing(_))));
    assert_eq!(s.records.waiting().await.unwrap().quarantined, 1);
    s.blob("b", "one").await;
    assert!(s.holds("a", "one").await.is_some(), "healed for everybody");
    assert_eq!(s.records.waiting().await.unwrap().quarantined, 0);
}

async fn stamps_move_with_every_change_of_the_repository(s: &Subject) {
    let stamp = || s.records.change_stamp(&repo("a")).unwrap();
    let mut last = stamp();
    macro_rules! moves {
        ($operation:expr) => {
            $operation;
            assert_ne!(stamp(), last, stringify!($operation));
            last = stamp();
        };
    }
    moves!(s.blob("a", "one").await);
    moves!(s.put(manifest("a", "m", &["one"], &["t"])).await);
    moves!(s.records.delete_tag(&repo("a"), &tag("t")).await.unwrap());
    moves!(s.records.delete_manifest(&repo("a"), &digest("m")).await.unwrap());
    moves!(s.review(HOUR).await);
    moves!(s.records.promise_blob(&repo("a"), &digest("one"), true).await.unwrap());
    moves!(s.records.quarantine(&digest("one")).await.unwrap());
    moves!(s.blob("a", "one").await);
    moves!(s.records.unlink_blob(&repo("a"), &digest("one")).await.unwrap());
    s.blob("b", "two").await;
    moves!(s.records.mount(&repo("a"), None, &digest("two")).await.unwrap());
    let _ = last;
}

async fn usage_counts_shared_blobs_apart(s: &Subject) {
    assert_eq!(s.records.usage(&repo("a")).await.unwrap(), None);
    for name in ["a", "b"] {
        s.blob(name, "shared").await;
    }
    s.blob("a", "own").await;
    s.put(manifest("a", "m1", &["shared", "own"], &["x", "y"])).await;
    s.put(manifest("a", "m2", &["shared"], &[])).await;
    let usage = s.records.usage(&repo("a")).await.unwrap().unwrap();
    let want = RepoUsage {
        repo: repo("a"),
        tags: 2,
        manifests: 2,
        manifest_bytes: 4,
        blobs: 2,
        blob_bytes: 9,
        own_bytes: 3,
    };
    assert_eq!(usage, want);
    let want = Totals { repositories: 1, tags: 2, manifests: 2, blobs: 2, blob_bytes: 9 };
    assert_eq!(s.records.totals().await.unwrap(), Some(want));
    assert!(s.records.remove_repository(&repo("a")).await.unwrap());
    assert!(!s.records.remove_repository(&repo("a")).await.unwrap());
    assert_eq!(s.records.usage(&repo("a")).await.unwrap(), None);
    assert_eq!(s.catalog().await, Vec::<String>::new());
    assert_eq!(s.review(HOUR).await.condemned, 2);
    assert_eq!(s.faults().await, []);
}

async fn the_scrub_goes_on_where_it_was(s: &Subject) {
    assert_eq!(s.records.scrub_progress().await.unwrap(), ScrubProgress::default());
    for progress in [
        ScrubProgress { after: Some(digest("a")), finished: None },
        ScrubProgress { after: Some(digest("b")), finished: Some(GcTime::from_millis(7)) },
        ScrubProgress { after: None, finished: Some(GcTime::from_millis(9)) },
    ] {
        s.records.save_scrub_progress(&progress).await.unwrap();
        assert_eq!(s.records.scrub_progress().await.unwrap(), progress);
    }
}

async fn blobs_are_listed_in_pages(s: &Subject) {
    let mut want = Vec::new();
    for n in 0..5 {
        s.blob("a", &format!("blob {n}")).await;
        want.push(digest(&format!("blob {n}")));
    }
    want.sort();
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = s.records.list_blobs(after.as_ref(), 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.digest.clone());
        found.extend(page.into_iter().map(|blob| blob.digest));
    }
    assert_eq!(found, want);
    let looked_up = s.records.find_blobs(&[digest("none"), digest("blob 3")]).await.unwrap();
    assert_eq!(looked_up[0], None);
    let blob = looked_up[1].as_ref().unwrap();
    assert_eq!((blob.size, blob.links, blob.state), (6, 1, BlobState::Live));
}

macro_rules! suite {
    ($($test:ident)*) => {
        mod on_sqlite {
            $(#[tokio::test] async fn $test() { super::$test(&super::sqlite()).await; })*
        }
        mod in_memory {
            $(#[tokio::test] async fn $test() { super::$test(&super::memory()).await; })*
        }
    };
}

suite! {
    a_blob_is_readable_only_where_it_is_linked
    mount_links_what_another_repository_holds
    a_manifest_with_missing_children_changes_nothing
    a_tag_names_one_manifest_and_several_name_the_same
    an_untagged_repository_is_known
    lists_come_in_pages_and_in_order
    referrers_are_found_filtered_and_paged
    an_upload_that_nobody_names_goes_after_review_and_grace
    what_a_manifest_names_is_never_condemned
    head_rescues
    upload_rescues
    mount_rescues
    a_manifest_rescues
    a_refused_manifest_rescues_nothing
    no_grace_removes_at_once_what_nobody_names
    all_reviews_with_grace_come_to_an_end
    a_deleted_link_frees_the_blob_unless_it_is_linked_elsewhere
    a_client_may_delete_what_a_manifest_names
    an_index_protects_manifests_and_blobs
    untagged_manifests_go_by_rule_only_and_not_while_young
    a_rotten_blob_is_out_of_service_until_it_is_pushed_again
    stamps_move_with_every_change_of_the_repository
    usage_counts_shared_blobs_apart
    blobs_are_listed_in_pages
    the_scrub_goes_on_where_it_was
}
