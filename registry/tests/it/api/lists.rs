//! Lists of tags and repositories, in pages.

use serde_json::json;
use shared::Digest;

use crate::api::harness::{Registry, image};

/// A repository `a` with one manifest under these tags.
fn tagged(tags: &[&str]) -> Registry {
    let registry = Registry::start();
    let manifest = image(&registry.push_blob("a", b"{}"), 2, "");
    let digest = Digest::sha256(&manifest);
    for some in tags.chunks(50) {
        let query = some.iter().map(|tag| format!("tag={tag}")).collect::<Vec<_>>().join("&");
        registry.put_manifest("a", &format!("{digest}?{query}"), &manifest).expect(201);
    }
    registry
}

/// Follows the links from `path`; gives the pages' entries under `key`.
fn pages(registry: &Registry, path: &str, key: &str) -> Vec<Vec<String>> {
    let (mut found, mut next) = (Vec::new(), Some(path.to_owned()));
    while let Some(path) = next {
        let answer = registry.get(&path).expect(200);
        let page = answer.json()[key].as_array().unwrap().clone();
        found.push(page.iter().map(|entry| entry.as_str().unwrap().to_owned()).collect());
        next = answer.header("link").map(|link| {
            let (url, rest) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
            assert_eq!(rest, "; rel=\"next\"");
            assert!(url.starts_with("/v2/"), "an absolute path: {url}");
            url.to_owned()
        });
    }
    found
}

#[test]
fn row_66_to_69_tags_in_pages() {
    let registry = tagged(&["b", "A", "a", "_", "B", "a.1", "a-1", "10", "9"]);
    let sorted = ["10", "9", "A", "B", "_", "a", "a-1", "a.1", "b"];
    let list = |query: &str| pages(&registry, &format!("/v2/a/tags/list{query}"), "tags");
    assert_eq!(list(""), [sorted]);
    assert_eq!(list("?n=9"), [sorted], "no link after the last page");
    assert_eq!(list("?n=4"), [&sorted[..4], &sorted[4..8], &sorted[8..]]);
    assert_eq!(list("?n=100000"), [sorted]);
    assert_eq!(list("?last=B"), [&sorted[4..]]);
    assert_eq!(list("?n=2&last=B"), [&sorted[4..6], &sorted[6..8], &sorted[8..]]);
    assert_eq!(list("?last=A0"), [&sorted[3..]], "a tag that is not there is a place as well");
    assert_eq!(list("?last=zz"), [&sorted[9..]]);
    let none = registry.get("/v2/a/tags/list?n=0").expect(200);
    assert_eq!((none.json(), none.header("link")), (json!({ "name": "a", "tags": [] }), None));
    for n in ["-1", "x", "1.5", ""] {
        registry.get(&format!("/v2/a/tags/list?n={n}")).expect_error(400, "UNSUPPORTED");
    }
}

#[test]
fn row_67_pages_have_a_limit() {
    let registry = Registry::start_with(|config| config.http.tags_max = 2);
    let manifest = image(&registry.push_blob("a", b"{}"), 2, "");
    for tag in ["a", "b", "c"] {
        registry.put_manifest("a", tag, &manifest).expect(201);
    }
    for query in ["", "?n=1000"] {
        let got = pages(&registry, &format!("/v2/a/tags/list{query}"), "tags");
        assert_eq!(got, [vec!["a", "b"], vec!["c"]]);
    }
}

#[test]
fn row_69_pages_hold_under_deletes() {
    let names: Vec<String> = (0..40).map(|at| format!("t{at:02}")).collect();
    let registry = tagged(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let first = registry.get("/v2/a/tags/list?n=10").expect(200);
    // The tag that the next page starts after goes.
    registry.delete("/v2/a/manifests/t09").expect(202);
    let link = first.header("link").unwrap().to_owned();
    let url = link.trim_start_matches('<').split('>').next().unwrap();
    let rest: Vec<String> = pages(&registry, url, "tags").concat();
    assert_eq!(rest, names[10..]);
}

#[test]
fn row_70_unknown_repositories() {
    let registry = tagged(&["only"]);
    registry.get("/v2/nowhere/tags/list").expect_error(404, "NAME_UNKNOWN");
    registry.delete("/v2/a/manifests/only").expect(202);
    assert_eq!(registry.get("/v2/a/tags/list").expect(200).json(), json!({"name":"a","tags":[]}));
}

#[test]
fn row_71_the_catalog() {
    let registry = Registry::start();
    assert_eq!(registry.get("/v2/_catalog").expect(200).json(), json!({ "repositories": [] }));
    for repo in ["b", "a/c", "a", "a-b", "a0"] {
        registry.push_image(repo, "t", b"{}");
    }
    registry.push_blob("only-a-blob", b"x");
    let list = |query: &str| pages(&registry, &format!("/v2/_catalog{query}"), "repositories");
    let sorted = ["a", "a/c", "a-b", "a0", "b"];
    assert_eq!(list(""), [sorted], "a slash sorts first, as in distribution");
    assert_eq!(list("?n=2"), [&sorted[..2], &sorted[2..4], &sorted[4..]]);
    assert_eq!(list("?last=a/c&n=10"), [&sorted[2..]]);
    assert_eq!(list("?n=0"), [&sorted[..0]]);
    registry.get("/v2/_catalog?n=-1").expect_error(400, "UNSUPPORTED");
}
