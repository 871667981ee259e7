//! Who refers to a manifest.

use serde_json::{Value, json};
use shared::{Digest, media_type};

use crate::api::harness::{Registry, image, subject};

fn list(registry: &Registry, subject: &Digest, query: &str) -> Vec<Value> {
    let path = format!("/v2/a/referrers/{subject}{query}");
    registry.get(&path).expect(200).json()["manifests"].as_array().unwrap().clone()
}

#[test]
fn row_72_and_73_nothing_is_an_empty_index() {
    let registry = Registry::start();
    let nobody = Digest::sha256(b"nobody");
    let answer = registry.get(&format!("/v2/a/referrers/{nobody}")).expect(200);
    assert_eq!(answer.header("content-type"), Some(media_type::OCI_INDEX));
    assert_eq!(answer.header("oci-filters-applied"), None);
    let want = json!({"schemaVersion":2,"mediaType":media_type::OCI_INDEX,"manifests":[]});
    assert_eq!(answer.json(), want);
    for digest in ["sha256:0", "x", "md5:00", "latest"] {
        registry.get(&format!("/v2/a/referrers/{digest}")).expect_error(400, "DIGEST_INVALID");
    }
}

#[test]
fn row_59_and_74_to_77_referrers_are_listed() {
    let registry = Registry::start();
    let config = registry.push_blob("a", b"{}");
    let target = image(&config, 2, "");
    let digest = Digest::sha256(&target);
    let of_target = subject(&digest);
    let typed = image(
        &config,
        2,
        &format!("{of_target},\"artifactType\":\"t/typed\",\"annotations\":{{\"k\":\"v\"}}"),
    );
    let plain = image(&config, 2, &of_target);
    let index = format!(r#"{{"schemaVersion":2,"manifests":[]{of_target}}}"#).into_bytes();
    for bytes in [&typed, &plain, &index] {
        let path = Digest::sha256(bytes).to_string();
        let answer = registry.put_manifest("a", &path, bytes).expect(201);
        assert_eq!(answer.header("oci-subject"), Some(digest.to_string().as_str()));
    }
    let check = || {
        let found = list(&registry, &digest, "");
        assert_eq!(found.len(), 3, "the subject is not needed");
        let entry = |bytes: &[u8]| {
            let digest = Digest::sha256(bytes).to_string();
            found.iter().find(|entry| entry["digest"] == digest.as_str()).unwrap()
        };
        assert_eq!(entry(&typed)["artifactType"], "t/typed");
        assert_eq!(entry(&typed)["annotations"], json!({ "k": "v" }));
        assert_eq!(entry(&typed)["size"], typed.len());
        assert_eq!(entry(&plain)["artifactType"], "application/vnd.oci.image.config.v1+json");
        assert_eq!(entry(&index)["mediaType"], media_type::OCI_INDEX);
        assert_eq!(entry(&index).get("artifactType"), None, "an index has no config to name it");
    };
    check();
    registry.put_manifest("a", "t", &target).expect(201);
    check();
    registry.delete(&format!("/v2/a/manifests/{digest}")).expect(202);
    check();
    let filtered =
        registry.get(&format!("/v2/a/referrers/{digest}?artifactType=t/typed")).expect(200);
    assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(filtered.json()["manifests"].as_array().unwrap().len(), 1);
    let both = "?artifactType=t/typed&artifactType=application%2Fvnd.oci.image.config.v1%2Bjson";
    assert_eq!(list(&registry, &digest, both).len(), 2, "either type");
    assert!(list(&registry, &digest, "?artifactType=none").is_empty());
    registry.delete(&format!("/v2/a/manifests/{}", Digest::sha256(&typed))).expect(202);
    assert_eq!(list(&registry, &digest, "").len(), 2);
}

#[test]
fn row_78_pages_are_cut_by_bytes() {
    let registry = Registry::start();
    let config = registry.push_blob("a", b"{}");
    let target = Digest::sha256(b"target");
    for at in 0..3 {
        let long = at.to_string().repeat(2_000_000);
        let more = format!("{},\"annotations\":{{\"k\":\"{long}\"}}", subject(&target));
        let bytes = image(&config, 2, &more);
        registry.put_manifest("a", &Digest::sha256(&bytes).to_string(), &bytes).expect(201);
    }
    let (mut entries, mut next) = (0, Some(format!("/v2/a/referrers/{target}")));
    let mut pages = 0;
    while let Some(path) = next {
        let answer = registry.get(&path).expect(200);
        assert!(answer.body.len() < 4 * 1048 * 1048, "one page fits what clients read");
        entries += answer.json()["manifests"].as_array().unwrap().len();
        pages += 1;
        let link = answer.header("link").map(str::to_owned);
        next = link.map(|link| link.trim_start_matches('<').split('>').next().unwrap().to_owned());
    }
    assert_eq!((entries, pages), (3, 2));
}

#[test]
fn row_80_many_pushes_at_once_are_all_listed() {
    let registry = Registry::start();
    let config = registry.push_blob("a", b"{}");
    let target = Digest::sha256(b"target");
    std::thread::scope(|scope| {
        for thread in 0..10 {
            let (registry, config, target) = (&registry, &config, &target);
            scope.spawn(move || {
                for at in 0..100 {
                    let name = format!(",\"annotations\":{{\"n\":\"{thread}-{at}\"}}");
                    let bytes = image(config, 2, &format!("{}{name}", subject(target)));
                    let path = Digest::sha256(&bytes).to_string();
                    registry.put_manifest("a", &path, &bytes).expect(201);
                }
            });
        }
    });
    assert_eq!(list(&registry, &target, "").len(), 1000);
}
