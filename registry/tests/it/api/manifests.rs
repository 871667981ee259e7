//! Manifests and tags.

use shared::{Digest, media_type};

use crate::api::harness::{Answer, Registry, image, sha512};

const MANIFEST_MAX: usize = 4 * 1048 * 1048;

fn put(registry: &Registry, path: &str, content_type: &str, bytes: &[u8]) -> Answer {
    registry.send("PUT", path, &[("Content-Type", content_type)], bytes)
}

#[test]
fn row_46_47_60_and_61_bytes_come_back() {
    let registry = Registry::start();
    let config = registry.push_blob("a", b"{}");
    // Odd spacing, a field nobody knows, a trailing line.
    let manifest = [b" ".as_slice(), &image(&config, 2, ",\"x\" : [1.0]"), b"\n"].concat();
    let digest = Digest::sha256(&manifest);
    let headers = [("Content-Type", media_type::OCI_MANIFEST), ("Transfer-Encoding", "chunked")];
    let answer = registry.send("PUT", "/v2/a/manifests/t", &headers, &manifest).expect(201);
    assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));
    let location = answer.header("location").unwrap();
    assert_eq!(location, format!("/v2/a/manifests/{digest}"));
    for path in [location, "/v2/a/manifests/t"] {
        let (get, head) = (registry.get(path).expect(200), registry.head(path).expect(200));
        assert_eq!((&get.body, head.body.len()), (&manifest, 0));
        for name in ["content-type", "content-length", "docker-content-digest", "etag"] {
            assert_eq!(get.header(name), head.header(name));
        }
        assert_eq!(get.header("content-type"), Some(media_type::OCI_MANIFEST));
        assert_eq!(get.header("etag"), Some(format!("\"{digest}\"").as_str()));
        let etag = format!("\"{digest}\"");
        let fresh = registry.send("GET", path, &[("If-None-Match", &etag)], b"").expect(304);
        assert!(fresh.body.is_empty());
    }
}

#[test]
fn row_48_large_manifests() {
    let registry = Registry::start();
    let config = registry.push_blob("a", b"{}");
    let sized = |length: usize| {
        let empty = image(&config, 2, ",\"annotations\":{\"a\":\"\"}").len();
        let filler = "x".repeat(length - empty);
        image(&config, 2, &format!(",\"annotations\":{{\"a\":\"{filler}\"}}"))
    };
    let largest = sized(MANIFEST_MAX);
    put(&registry, "/v2/a/manifests/t", media_type::OCI_MANIFEST, &largest).expect(201);
    assert_eq!(registry.get("/v2/a/manifests/t").expect(200).body, largest);
    let beyond = sized(MANIFEST_MAX + 1);
    let answer = put(&registry, "/v2/a/manifests/u", media_type::OCI_MANIFEST, &beyond);
    answer.expect_error(413, "SIZE_INVALID");
    let headers = [("Content-Type", media_type::OCI_MANIFEST), ("Transfer-Encoding", "chunked")];
    registry.send("PUT", "/v2/a/manifests/u", &headers, &beyond).expect(413);
    registry.get("/v2/a/manifests/u").expect(404);
}

#[test]
fn row_49_and_50_digest_and_type_must_agree() {
    let registry = Registry::start();
    let config = registry.push_blob("a", b"{}");
    let manifest = image(&config, 2, "");
    let other = Digest::sha256(b"other");
    registry.put_manifest("a", &other.to_string(), &manifest).expect_error(400, "DIGEST_INVALID");
    registry.put_manifest("a", "sha256:bad", &manifest).expect_error(400, "DIGEST_INVALID");
    let parameters = format!("{}; charset=utf-8", media_type::OCI_MANIFEST);
    put(&registry, "/v2/a/manifests/p", &parameters, &manifest).expect(201);
    let get = registry.get("/v2/a/manifests/p").expect(200);
    assert_eq!(get.header("content-type"), Some(media_type::OCI_MANIFEST));
    registry.send("PUT", "/v2/a/manifests/none", &[], &manifest).expect(201);
    let own = format!(",\"mediaType\":\"{}\"", media_type::DOCKER_MANIFEST);
    let docker = image(&config, 2, &own);
    registry.send("PUT", "/v2/a/manifests/own", &[], &docker).expect(201);
    let get = registry.get("/v2/a/manifests/own").expect(200);
    assert_eq!(get.header("content-type"), Some(media_type::DOCKER_MANIFEST));
    for content_type in [media_type::OCI_MANIFEST, media_type::DOCKER_LIST, "text/plain"] {
        let answer = put(&registry, "/v2/a/manifests/x", content_type, &docker);
        answer.expect_error(400, "MANIFEST_INVALID");
    }
}

#[test]
fn row_51_and_52_what_a_manifest_names_must_be_there() {
    let registry = Registry::start();
    let (absent, also) = (Digest::sha256(b"absent"), Digest::sha256(b"also"));
    let layers = format!(
        r#"{{"mediaType":"l","digest":"{also}","size":4}},{{"mediaType":"l","digest":"{also}","size":4}},
           {{"mediaType":"{}","digest":"{}","size":1,"urls":["https://e.example"]}}"#,
        media_type::DOCKER_FOREIGN_LAYER,
        Digest::sha256(b"foreign")
    );
    let manifest = String::from_utf8(image(&absent, 6, "")).unwrap();
    let manifest = manifest.replace("\"layers\":[]", &format!("\"layers\":[{layers}]"));
    let answer = registry.put_manifest("a", "t", manifest.as_bytes());
    let answer = answer.expect_error(400, "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(answer.codes().len(), 2, "one error per digest");
    assert!(String::from_utf8_lossy(&answer.body).contains(&also.to_string()));
    registry.get("/v2/a/manifests/t").expect_error(404, "MANIFEST_UNKNOWN");
    registry.push_blob("a", b"absent");
    registry.push_blob("a", b"also");
    registry.put_manifest("a", "t", manifest.as_bytes()).expect(201);
    registry.put_manifest("b", "t", manifest.as_bytes()).expect(400);
    let sparse = Registry::start_with(|config| {
        config.policy.missing = registry::records::Missing::Accept;
    });
    sparse.put_manifest("a", "t", manifest.as_bytes()).expect(201);
}

#[test]
fn row_53_what_the_specification_allows() {
    let registry = Registry::start();
    let config = registry.push_blob("a", b"{}");
    let empty = br#"{"schemaVersion":2,"manifests":[]}"#;
    registry.put_manifest("a", "empty", empty).expect(201);
    for (tag, more) in [
        ("type", ",\"artifactType\":\"application/x.unknown\""),
        ("field", ",\"org.example.field\":{\"deep\":[{}]}"),
        ("annotated", ",\"annotations\":{\"k\":\"v\"}"),
    ] {
        registry.put_manifest("a", tag, &image(&config, 2, more)).expect(201);
    }
    let without = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"x/y","digest":"{config}","size":2,"data":"e30="}}}}"#
    );
    registry.put_manifest("a", "nolayers", without.as_bytes()).expect(201);
}

#[test]
fn row_54_what_can_be_read_in_two_ways_is_refused() {
    let registry = Registry::start();
    let config = registry.push_blob("a", b"{}");
    for (content_type, bytes) in [
        (media_type::OCI_MANIFEST, b"not json".to_vec()),
        (media_type::OCI_MANIFEST, b"[]".to_vec()),
        (media_type::OCI_MANIFEST, Vec::new()),
        (media_type::OCI_MANIFEST, image(&config, 2, ",\"manifests\":[]")),
        (media_type::OCI_MANIFEST, image(&config, 2, ",\"layers\":[]")),
        (media_type::OCI_MANIFEST, image(&config, 2, ",\"Layers\":[]")),
        (media_type::OCI_INDEX, image(&config, 2, "")),
        (media_type::DOCKER_SCHEMA1, br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec()),
        (media_type::DOCKER_SCHEMA1_SIGNED, br#"{"schemaVersion":1}"#.to_vec()),
    ] {
        let answer = put(&registry, "/v2/a/manifests/t", content_type, &bytes);
        answer.expect_error(400, "MANIFEST_INVALID");
    }
    let schema1 = put(&registry, "/v2/a/manifests/t", media_type::DOCKER_SCHEMA1, b"{}");
    assert!(String::from_utf8_lossy(&schema1.body).contains("docker 1.10"), "says what to do");
    registry.get("/v2/a/tags/list").expect_error(404, "NAME_UNKNOWN");
}

#[test]
fn row_55_invalid_tags() {
    let registry = Registry::start();
    let manifest = image(&registry.push_blob("a", b"{}"), 2, "");
    for tag in [".a", "-a", &"t".repeat(129), "a%20b", "%C3%A4"] {
        registry.put_manifest("a", tag, &manifest).expect_error(400, "MANIFEST_INVALID");
        registry.get(&format!("/v2/a/manifests/{tag}")).expect_error(404, "MANIFEST_UNKNOWN");
        registry.head(&format!("/v2/a/manifests/{tag}")).expect(404);
    }
}

#[test]
fn row_56_several_tags_in_one_push() {
    let registry = Registry::start();
    let manifest = image(&registry.push_blob("a", b"{}"), 2, "");
    let digest = Digest::sha256(&manifest);
    let names: Vec<String> = (0..10).map(|at| format!("v{at}")).collect();
    let query = names.iter().map(|name| format!("tag={name}")).collect::<Vec<_>>().join("&");
    let answer = registry.put_manifest("a", &format!("{digest}?{query}"), &manifest).expect(201);
    let mut given: Vec<&str> = answer
        .headers
        .iter()
        .filter(|(name, _)| name == "oci-tag")
        .flat_map(|(_, value)| value.split(',').map(str::trim))
        .collect();
    given.sort_unstable();
    assert_eq!(given, names);
    for name in &names {
        assert_eq!(registry.get(&format!("/v2/a/manifests/{name}")).expect(200).body, manifest);
    }
    registry.put_manifest("a", "t?tag=u", &manifest).expect_error(400, "UNSUPPORTED");
    let bad = format!("{digest}?tag=new&tag=-bad");
    registry.put_manifest("a", &bad, &manifest).expect(400);
    registry.get("/v2/a/manifests/new").expect(404);
    let many = (0..200).map(|at| format!("tag=m{at}")).collect::<Vec<_>>().join("&");
    registry.put_manifest("a", &format!("{digest}?{many}"), &manifest).expect(414);
}

#[test]
fn row_57_a_tag_keeps_its_digests_algorithm() {
    let registry = Registry::start();
    let manifest = image(&registry.push_blob("a", b"{}"), 2, "");
    let digest = sha512(&manifest);
    registry.put_manifest("a", &format!("{digest}?tag=long"), &manifest).expect(201);
    let get = registry.get("/v2/a/manifests/long").expect(200);
    assert_eq!(get.header("docker-content-digest"), Some(digest.to_string().as_str()));
    registry.get(&format!("/v2/a/manifests/{}", Digest::sha256(&manifest))).expect(404);
}

#[test]
fn row_58_a_tag_is_never_torn_or_missing() {
    let registry = Registry::start();
    let config = registry.push_blob("a", b"{}");
    let versions: Vec<Vec<u8>> = (0..4)
        .map(|at| image(&config, 2, &format!(",\"annotations\":{{\"v\":\"{at}\"}}")))
        .collect();
    registry.put_manifest("a", "t", &versions[0]).expect(201);
    std::thread::scope(|scope| {
        for version in &versions {
            let registry = &registry;
            scope.spawn(move || {
                for _ in 0..25 {
                    registry.put_manifest("a", "t", version).expect(201);
                }
            });
        }
        for _ in 0..200 {
            let got = registry.get("/v2/a/manifests/t").expect(200);
            assert!(versions.contains(&got.body));
        }
    });
    registry.put_manifest("a", "t", &versions[2]).expect(201);
    assert_eq!(registry.get("/v2/a/manifests/t").body, versions[2], "the last one counts");
}

#[test]
fn row_62_and_63_accept_is_not_looked_at() {
    let registry = Registry::start();
    let manifest = registry.push_image("a", "t", b"{}");
    for accept in [
        vec![],
        vec![("Accept", "*/*")],
        vec![("Accept", media_type::DOCKER_MANIFEST)],
        vec![("Accept", "text/html"), ("Accept", "application/json")],
    ] {
        let get = registry.send("GET", "/v2/a/manifests/t", &accept, b"").expect(200);
        assert_eq!(get.body, manifest);
        assert_eq!(get.header("content-type"), Some(media_type::OCI_MANIFEST));
    }
}

#[test]
fn row_64_docker_lists() {
    let registry = Registry::start();
    let child = image(&registry.push_blob("a", b"{}"), 2, "");
    put(&registry, "/v2/a/manifests/c", media_type::DOCKER_MANIFEST, &child).expect(201);
    let digest = Digest::sha256(&child);
    let list = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{{"mediaType":"{}","digest":"{digest}","size":{},"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#,
        media_type::DOCKER_LIST,
        media_type::DOCKER_MANIFEST,
        child.len()
    );
    put(&registry, "/v2/a/manifests/l", media_type::DOCKER_LIST, list.as_bytes()).expect(201);
    let get = registry.get("/v2/a/manifests/l").expect(200);
    assert_eq!(get.header("content-type"), Some(media_type::DOCKER_LIST));
    assert_eq!(get.body, list.as_bytes());
}

#[test]
fn row_65_a_manifest_is_no_blob() {
    let registry = Registry::start();
    let digest = Digest::sha256(&registry.push_image("a", "t", b"{}"));
    registry.get(&format!("/v2/a/blobs/{digest}")).expect_error(404, "BLOB_UNKNOWN");
}

#[test]
fn row_81_82_and_85_deletes() {
    let registry = Registry::start();
    let manifest = registry.push_image("a", "one", b"{}");
    registry.put_manifest("a", "two", &manifest).expect(201);
    let path = format!("/v2/a/manifests/{}", Digest::sha256(&manifest));
    registry.delete("/v2/a/manifests/one").expect(202);
    registry.get("/v2/a/manifests/one").expect(404);
    for still in ["/v2/a/manifests/two", &path] {
        registry.get(still).expect(200);
    }
    registry.delete("/v2/a/manifests/one").expect_error(404, "MANIFEST_UNKNOWN");
    registry.delete(&path).expect(202);
    for gone in ["/v2/a/manifests/two", &path] {
        registry.get(gone).expect_error(404, "MANIFEST_UNKNOWN");
    }
    registry.delete(&path).expect_error(404, "MANIFEST_UNKNOWN");
    registry.get("/v2/a/tags/list").expect_error(404, "NAME_UNKNOWN");
}

#[test]
fn row_101_an_index_of_blobs_is_taken() {
    let registry = Registry::start();
    let layer = registry.push_blob("cache", b"layer");
    let config = registry.push_blob("cache", b"{}");
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{{"mediaType":"{}","digest":"{layer}","size":5}},{{"mediaType":"application/vnd.buildkit.cacheconfig.v0","digest":"{config}","size":2}}]}}"#,
        media_type::OCI_INDEX,
        media_type::OCI_LAYER_GZIP
    );
    registry.put_manifest("cache", "t", index.as_bytes()).expect(201);
    assert_eq!(registry.get("/v2/cache/manifests/t").expect(200).body, index.as_bytes());
}
