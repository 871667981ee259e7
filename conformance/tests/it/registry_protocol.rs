//! What the official suite leaves out: codes, limits, names, ranges, sessions, paging, and the
//! demands of clients beyond the specification.

use std::io::{Read as _, Write as _};

use anyhow::{Context as _, ensure};
use conformance::http::{Body, Connection, Request, Response};
use conformance::image::{
    self, DOCKER_LIST, OCI_EMPTY, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, descriptor, noise,
    open_upload, push_blob, push_image, push_manifest, sha256, sha512, with_query,
};
use conformance::registry::{Options, Registry};
use serde_json::json;

const ABSENT: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

fn start() -> anyhow::Result<Registry> {
    Registry::start(Options::default())
}

#[test]
fn every_answer_names_the_api_and_errors_have_codes() -> anyhow::Result<()> {
    let registry = start()?;
    for target in ["/v2/", "/v2"] {
        let answer = registry.get(target)?.expect(200)?;
        ensure!(answer.json()? == json!({}), "{}", answer.text());
    }
    let cases = [
        ("GET", format!("/v2/a/blobs/{ABSENT}"), 404, "BLOB_UNKNOWN"),
        ("GET", "/v2/a/manifests/none".into(), 404, "MANIFEST_UNKNOWN"),
        ("GET", format!("/v2/a/manifests/{ABSENT}"), 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/a/tags/list".into(), 404, "NAME_UNKNOWN"),
        ("GET", "/v2/A/tags/list".into(), 400, "NAME_INVALID"),
        ("GET", "/v2/a/blobs/sha256:abc".into(), 400, "DIGEST_INVALID"),
        ("GET", "/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e".into(), 400, "DIGEST_INVALID"),
        ("GET", "/v2/a/referrers/latest".into(), 400, "DIGEST_INVALID"),
        ("DELETE", format!("/v2/a/blobs/{ABSENT}"), 404, "BLOB_UNKNOWN"),
        ("DELETE", "/v2/a/manifests/none".into(), 404, "MANIFEST_UNKNOWN"),
        ("POST", "/v2/a/blobs/uploads/?digest-algorithm=md5".into(), 400, "DIGEST_INVALID"),
        ("PUT", "/v2/a/manifests/-bad".into(), 400, "MANIFEST_INVALID"),
    ];
    for (method, target, status, code) in cases {
        let answer = registry.request(method, &target)?;
        let version = answer.need("docker-distribution-api-version")?;
        ensure!(version == "registry/2.0", "{version}");
        let checked = match code {
            // The specification names no code for a bad tag.
            "MANIFEST_INVALID" => answer.expect(status).map(drop),
            code => answer.expect_error(status, &[code]).map(drop),
        };
        checked.with_context(|| format!("{method} {target}"))?;
    }
    let wrong = registry.request("PUT", "/v2/a/tags/list")?.expect(405)?;
    ensure!(wrong.need("allow")?.contains("GET"), "{wrong:?}");
    Ok(())
}

#[test]
fn bad_names_create_nothing() -> anyhow::Result<()> {
    let registry = start()?;
    let long = format!("/v2/{}/blobs/uploads/", "a".repeat(300));
    let names = [
        "/v2/../blobs/uploads/",
        "/v2/%2e%2e/blobs/uploads/",
        "/v2/a/%2e%2e/b/blobs/uploads/",
        "/v2/a//b/blobs/uploads/",
        "/v2/a%2fb%00/blobs/uploads/",
        "/v2/%c3%a9/blobs/uploads/",
        "/v2/a%2f..%2fb/blobs/uploads/",
        "/v2/a_/blobs/uploads/",
        "/v2/-a/blobs/uploads/",
        "/v2/a___b/blobs/uploads/",
        &long,
    ];
    for target in names {
        let answer = registry.request("POST", target)?;
        ensure!((400..500).contains(&answer.status), "{target}: {answer:?}");
        ensure!(answer.json()?["errors"][0]["code"].is_string(), "{target}: {answer:?}");
    }
    let catalog = registry.get("/v2/_catalog")?.expect(200)?.json()?;
    ensure!(catalog == json!({"repositories": []}), "{catalog}");
    Ok(())
}

#[test]
fn repositories_may_be_called_like_routes() -> anyhow::Result<()> {
    let registry = start()?;
    let image = image::oci_image(&[("file", b"x")])?;
    for name in ["a/manifests/b", "a/blobs/uploads", "tags/list/x", "v2/v2", "a/referrers/b"] {
        push_image(&registry, name, "1", &image).with_context(|| name.to_owned())?;
        let got = registry.get(&format!("/v2/{name}/manifests/1"))?.expect(200)?;
        ensure!(got.body == image.manifest, "{name}");
        let tags = registry.get(&format!("/v2/{name}/tags/list"))?.expect(200)?.json()?;
        ensure!(tags == json!({"name": name, "tags": ["1"]}), "{tags}");
    }
    Ok(())
}

#[test]
fn blob_reads_follow_http() -> anyhow::Result<()> {
    let registry = start()?;
    let bytes = noise(1, 10_000);
    let digest = push_blob(&registry, "a", &bytes)?;
    let target = format!("/v2/a/blobs/{digest}");
    let get = registry.get(&target)?.expect(200)?;
    let head = registry.request("HEAD", &target)?.expect(200)?;
    for answer in [&get, &head] {
        ensure!(answer.need("content-length")? == "10000", "{answer:?}");
        ensure!(answer.need("docker-content-digest")? == digest, "{answer:?}");
        ensure!(answer.need("accept-ranges")? == "bytes", "{answer:?}");
        ensure!(answer.need("content-type")? == "application/octet-stream", "{answer:?}");
        ensure!(answer.need("etag")? == format!("\"{digest}\""), "{answer:?}");
    }
    ensure!(get.body == bytes && head.body.is_empty());
    let ranges: [(&str, usize, usize); 5] = [
        ("bytes=0-0", 0, 1),
        ("bytes=500-1499", 500, 1500),
        ("bytes=9000-", 9000, 10_000),
        ("bytes=-500", 9500, 10_000),
        ("bytes=9000-99999999999", 9000, 10_000),
    ];
    for (range, from, to) in ranges {
        let part = ranged(&registry, &target, range)?.expect(206)?;
        ensure!(part.body == bytes[from..to], "{range}");
        ensure!(part.need("content-range")? == format!("bytes {from}-{}/10000", to - 1), "{range}");
    }
    for range in ["bytes=10000-", "bytes=99999-100000"] {
        let none = ranged(&registry, &target, range)?.expect(416)?;
        ensure!(none.need("content-range")? == "bytes */10000", "{none:?}");
        ensure!(none.need("content-length")?.parse::<usize>()? == none.body.len());
    }
    for range in ["pages=1-2", "bytes=a-b", "bytes=", "bytes=18446744073709551616-"] {
        let answer = ranged(&registry, &target, range)?;
        ensure!([200, 416].contains(&answer.status), "{range}: {}", answer.status);
    }
    let etag = format!("\"{digest}\"");
    let cached = Request::new("GET", &target).header("If-None-Match", &etag);
    ensure!(cached.send(registry.address())?.expect(304)?.body.is_empty());
    let changed = Request::new("GET", &target)
        .header("Range", "bytes=0-1")
        .header("If-Range", "\"sha256:other\"");
    ensure!(changed.send(registry.address())?.expect(200)?.body == bytes);
    registry.get(&format!("/v2/b/blobs/{digest}"))?.expect_error(404, &["BLOB_UNKNOWN"])?;
    Ok(())
}

fn ranged(registry: &Registry, target: &str, range: &str) -> anyhow::Result<Response> {
    Request::new("GET", target).header("Range", range).send(registry.address())
}

#[test]
fn the_empty_blob_works_everywhere() -> anyhow::Result<()> {
    let registry = start()?;
    let digest = push_blob(&registry, "a", b"")?;
    let target = format!("/v2/a/blobs/{digest}");
    ensure!(registry.get(&target)?.expect(200)?.need("content-length")? == "0");
    ensure!(registry.request("HEAD", &target)?.expect(200)?.need("content-length")? == "0");
    ranged(&registry, &target, "bytes=0-0")?.expect(416)?;
    let location = open_upload(&registry, "b")?;
    image::finish_upload(&registry, &location, &digest, b"")?;
    Ok(())
}

#[test]
fn answers_are_never_encoded() -> anyhow::Result<()> {
    let registry = start()?;
    let image = image::oci_image(&[("file", &[b'x'; 5000])])?;
    push_image(&registry, "a", "1", &image)?;
    let blob = format!("/v2/a/blobs/{}", sha256(&image.blobs[0]));
    for target in ["/v2/a/manifests/1", &blob, "/v2/a/tags/list", "/v2/_catalog"] {
        let request = Request::new("GET", target).header("Accept-Encoding", "gzip, zstd, br");
        let answer = request.send(registry.address())?.expect(200)?;
        ensure!(answer.header("content-encoding").is_none(), "{target}");
        ensure!(answer.header("content-length").is_some(), "{target}");
    }
    Ok(())
}

#[test]
fn an_upload_in_pieces_tells_where_it_stands() -> anyhow::Result<()> {
    let registry = start()?;
    let opened = Request::new("POST", "/v2/a/blobs/uploads/?origin=b")
        .header("Content-Type", "application/json")
        .send(registry.address())?
        .expect(202)?;
    ensure!(opened.need("content-length")? == "0", "{opened:?}");
    ensure!(opened.need("range")? == "0-0", "{opened:?}");
    let id = opened.need("docker-upload-uuid")?;
    ensure!(id.len() == 36 && opened.need("location")?.contains(id), "{opened:?}");
    let first = image::path_of(opened.need("location")?).to_owned();

    let bytes = noise(2, 3000);
    let patched = patch(&registry, &first, "0-999", &bytes[..1000])?.expect(202)?;
    ensure!(patched.need("range")? == "0-999", "{patched:?}");
    let second = image::path_of(patched.need("location")?).to_owned();
    // Docker writes this into the size of the layer.
    let patched = patch(&registry, &second, "1000-1999", &bytes[1000..2000])?.expect(202)?;
    ensure!(patched.need("range")? == "0-1999", "{patched:?}");

    for range in ["0-999", "1000-1999", "3000-3999", "2999-2000", "x", "-", "1-", "-1", "0-garbage"]
    {
        let refused = patch(&registry, &second, range, &bytes[2000..])?.expect(416)?;
        ensure!(refused.need("range")? == "0-1999", "{range}: {refused:?}");
        refused.need("location")?;
        let put = Request::new("PUT", &with_query(&second, &format!("digest={}", sha256(&bytes))))
            .header("Content-Range", range)
            .bytes(&bytes[2000..])
            .send(registry.address())?;
        put.expect(416).with_context(|| format!("PUT {range}"))?;
    }
    // A length that is not the span of the range.
    patch(&registry, &second, "2000-2004", &bytes[2000..])?.expect(416)?;
    for stale in [&first, &second] {
        let status = registry.get(stale)?.expect(204)?;
        ensure!(status.need("range")? == "0-1999", "{status:?}");
    }
    registry.request("PUT", &second)?.expect(400)?;
    image::finish_upload(&registry, &second, &sha256(&bytes), &bytes[2000..])?;
    let got = registry.get(&format!("/v2/a/blobs/{}", sha256(&bytes)))?.expect(200)?;
    ensure!(got.body == bytes);
    registry.get(&second)?.expect_error(404, &["BLOB_UPLOAD_UNKNOWN"])?;
    Ok(())
}

fn patch(
    registry: &Registry,
    location: &str,
    range: &str,
    bytes: &[u8],
) -> anyhow::Result<Response> {
    Request::new("PATCH", location)
        .header("Content-Range", range)
        .bytes(bytes)
        .send(registry.address())
}

#[test]
fn wrong_digests_leave_nothing() -> anyhow::Result<()> {
    let registry = start()?;
    let wrong = sha256(b"something else");
    let location = open_upload(&registry, "a")?;
    let target = with_query(&location, &format!("digest={wrong}"));
    let put = |target: &str| registry.send("PUT", target, "application/octet-stream", b"bytes");
    put(&target)?.expect_error(400, &["DIGEST_INVALID"])?;
    registry.get(&location)?.expect_error(404, &["BLOB_UPLOAD_UNKNOWN"])?;
    registry.get(&format!("/v2/a/blobs/{wrong}"))?.expect(404)?;
    registry.get(&format!("/v2/a/blobs/{}", sha256(b"bytes")))?.expect(404)?;
    let single = format!("/v2/a/blobs/uploads/?digest={wrong}");
    let answer = registry.send("POST", &single, "application/octet-stream", b"bytes")?;
    answer.expect_error(400, &["DIGEST_INVALID"])?;
    // An upload belongs to its repository, and ends when it is cancelled.
    let location = open_upload(&registry, "a")?;
    registry.get(&location.replacen("/v2/a/", "/v2/b/", 1))?.expect(404)?;
    registry.request("DELETE", &location)?.expect(204)?;
    registry.get(&location)?.expect_error(404, &["BLOB_UPLOAD_UNKNOWN"])?;
    Ok(())
}

#[test]
fn sha512_with_and_without_a_hint() -> anyhow::Result<()> {
    let registry = start()?;
    let bytes = noise(3, 70_000);
    let digest = sha512(&bytes);
    for open in ["/v2/a/blobs/uploads/", "/v2/b/blobs/uploads/?digest-algorithm=sha512"] {
        let opened = registry.request("POST", open)?.expect(202)?;
        let location = opened.need("location")?;
        image::finish_upload(&registry, location, &digest, &bytes)?;
    }
    let single = format!("/v2/c/blobs/uploads/?digest={digest}");
    registry.send("POST", &single, "application/octet-stream", &bytes)?.expect(201)?;
    for name in ["a", "b", "c"] {
        let got = registry.get(&format!("/v2/{name}/blobs/{digest}"))?.expect(200)?;
        ensure!(got.body == bytes && got.need("docker-content-digest")? == digest);
    }
    let image = image::oci_image(&[("file", b"x")])?;
    for blob in &image.blobs {
        push_blob(&registry, "a", blob)?;
    }
    let digest = sha512(&image.manifest);
    let target = format!("{digest}?tag=one&tag=two");
    push_manifest(&registry, "a", &target, OCI_MANIFEST, &image.manifest)?;
    let got = registry.request("HEAD", "/v2/a/manifests/two")?.expect(200)?;
    ensure!(got.need("docker-content-digest")? == digest, "{got:?}");
    Ok(())
}

#[test]
fn mounts_answer_201_or_open_an_upload() -> anyhow::Result<()> {
    let registry = start()?;
    let digest = push_blob(&registry, "source", b"shared")?;
    let mounted = registry
        .request("POST", &format!("/v2/target/blobs/uploads/?mount={digest}&from=source"))?
        .expect(201)?;
    let location = image::path_of(mounted.need("location")?);
    ensure!(location == format!("/v2/target/blobs/{digest}"), "{location}");
    ensure!(mounted.need("docker-content-digest")? == digest);
    ensure!(registry.get(location)?.expect(200)?.body == b"shared");
    let anonymous = format!("/v2/other/blobs/uploads/?mount={digest}");
    registry.request("POST", &anonymous)?.expect(201)?;
    for query in [
        format!("mount={ABSENT}&from=source"),
        format!("mount={digest}&from=nowhere"),
        format!("mount={digest}&from=../bad"),
        format!("mount={ABSENT}"),
    ] {
        let answer = registry.request("POST", &format!("/v2/third/blobs/uploads/?{query}"))?;
        answer.expect(202).with_context(|| query.clone())?.need("location")?;
    }
    Ok(())
}

#[test]
fn manifests_are_kept_as_they_came() -> anyhow::Result<()> {
    let registry = start()?;
    let image = image::oci_image(&[("file", b"x")])?;
    push_image(&registry, "a", "1", &image)?;
    let odd: Vec<u8> = [b"\n  ".as_slice(), &image.manifest, b"\n\n"].concat();
    let target = "/v2/a/manifests/odd";
    let put = Request::new("PUT", target)
        .header("Content-Type", format!("{OCI_MANIFEST}; charset=utf-8"))
        .body(Body::Chunked(&[&odd[..10], &odd[10..]]))
        .send(registry.address())?
        .expect(201)?;
    ensure!(put.need("docker-content-digest")? == sha256(&odd));
    for accept in ["", "*/*", "text/html", OCI_MANIFEST, OCI_INDEX] {
        let mut request = Request::new("GET", target);
        if !accept.is_empty() {
            request = request.header("Accept", accept);
        }
        let got = request.send(registry.address())?.expect(200)?;
        ensure!(got.body == odd && got.need("content-type")? == OCI_MANIFEST, "{accept}");
    }
    let head = registry.request("HEAD", target)?.expect(200)?;
    ensure!(head.need("content-length")? == odd.len().to_string());
    ensure!(head.need("docker-content-digest")? == sha256(&odd));
    // Without any content type, as some clients push: found in the manifest.
    let untyped = registry.send("PUT", "/v2/a/manifests/untyped", "", &image.manifest)?;
    untyped.expect(201)?;
    let got = registry.get("/v2/a/manifests/untyped")?.expect(200)?;
    ensure!(got.need("content-type")? == OCI_MANIFEST);
    Ok(())
}

#[test]
fn missing_parts_are_all_named() -> anyhow::Result<()> {
    let registry = start()?;
    let image = image::oci_image(&[("one", b"1"), ("two", b"2")])?;
    let refused = registry.send("PUT", "/v2/a/manifests/1", OCI_MANIFEST, &image.manifest)?;
    let codes = ["MANIFEST_BLOB_UNKNOWN"; 3];
    let refused = refused.expect_error(400, &codes)?;
    for blob in &image.blobs {
        ensure!(refused.text().contains(&sha256(blob)), "{}", refused.text());
    }
    registry.get("/v2/a/manifests/1")?.expect(404)?;
    Ok(())
}

#[test]
fn strange_manifests_are_refused() -> anyhow::Result<()> {
    let registry = start()?;
    push_blob(&registry, "a", b"{}")?;
    let empty = descriptor(OCI_EMPTY, b"{}");
    let text = |value: serde_json::Value| value.to_string();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": empty, "layers": []});
    let with = |key: &str, value: serde_json::Value| {
        let mut changed = manifest.clone();
        changed[key] = value;
        changed.to_string()
    };
    let negative = json!([{"mediaType": OCI_LAYER, "digest": ABSENT, "size": -1}]);
    let cases = [
        ("not JSON", OCI_MANIFEST, "x".to_owned()),
        ("no bytes", OCI_MANIFEST, String::new()),
        ("a list", OCI_MANIFEST, "[]".to_owned()),
        ("nested", OCI_MANIFEST, deep),
        ("both kinds", OCI_MANIFEST, with("manifests", json!([]))),
        ("another type", OCI_MANIFEST, with("mediaType", json!(OCI_INDEX))),
        ("a negative size", OCI_MANIFEST, with("layers", negative)),
        ("no digest", OCI_MANIFEST, with("layers", json!([{"mediaType": OCI_LAYER}]))),
        (
            "twice the same key",
            OCI_MANIFEST,
            format!("{{\"schemaVersion\":2,\"config\":{empty},\"layers\":[],\"layers\":[]}}"),
        ),
        (
            "schema 1",
            "application/vnd.docker.distribution.manifest.v1+json",
            text(json!({"schemaVersion": 1, "name": "a", "tag": "1", "fsLayers": []})),
        ),
        (
            "schema 1, signed",
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            text(json!({"schemaVersion": 1, "name": "a", "tag": "1", "fsLayers": []})),
        ),
    ];
    for (what, media_type, body) in cases {
        let answer = registry.send("PUT", "/v2/a/manifests/bad", media_type, body.as_bytes())?;
        answer.expect_error(400, &["MANIFEST_INVALID"]).with_context(|| what.to_owned())?;
    }
    registry.get("/v2/a/manifests/bad")?.expect(404)?;
    let other = format!("/v2/a/manifests/{ABSENT}");
    let answer = registry.send("PUT", &other, OCI_MANIFEST, manifest.to_string().as_bytes())?;
    answer.expect_error(400, &["DIGEST_INVALID"])?;
    Ok(())
}

#[test]
fn large_manifests_up_to_the_limit() -> anyhow::Result<()> {
    let registry = start()?;
    push_blob(&registry, "a", b"{}")?;
    let sized = |length: usize| {
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(OCI_EMPTY, b"{}"),
            "layers": [], "annotations": {"filler": "x".repeat(length)}})
        .to_string()
    };
    let accepted = sized(4_000_000);
    push_manifest(&registry, "a", "large", OCI_MANIFEST, accepted.as_bytes())?;
    let got = registry.get("/v2/a/manifests/large")?.expect(200)?;
    ensure!(got.body == accepted.as_bytes());
    let refused = sized(32 << 20);
    let whole = registry.send("PUT", "/v2/a/manifests/huge", OCI_MANIFEST, refused.as_bytes())?;
    whole.expect(413)?;
    let bytes = refused.as_bytes();
    let chunked = Request::new("PUT", "/v2/a/manifests/huge")
        .header("Content-Type", OCI_MANIFEST)
        .body(Body::Chunked(&[&bytes[..1 << 20], &bytes[1 << 20..]]))
        .send(registry.address())?;
    chunked.expect(413)?;
    Ok(())
}

#[test]
fn several_tags_at_once() -> anyhow::Result<()> {
    let registry = start()?;
    let image = image::oci_image(&[("file", b"x")])?;
    push_image(&registry, "a", "base", &image)?;
    let query = (0..10).map(|n| format!("tag=t{n}")).collect::<Vec<_>>().join("&");
    let target = format!("{}?{query}", image.digest());
    let put = push_manifest(&registry, "a", &target, OCI_MANIFEST, &image.manifest)?;
    let named = put.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("oci-tag"));
    let named = named.map(|(_, value)| value.clone()).collect::<Vec<_>>().join(",");
    for n in 0..10 {
        ensure!(named.split(',').any(|tag| tag.trim() == format!("t{n}")), "{named}");
        registry.get(&format!("/v2/a/manifests/t{n}"))?.expect(200)?;
    }
    let bad = format!("/v2/a/manifests/{}?tag=good&tag=-bad", image.digest());
    registry.send("PUT", &bad, OCI_MANIFEST, &image.manifest)?.expect(400)?;
    registry.get("/v2/a/manifests/good")?.expect(404)?;
    let on_tag = "/v2/a/manifests/base?tag=other";
    registry.send("PUT", on_tag, OCI_MANIFEST, &image.manifest)?.expect(400)?;
    let many = (0..2000).map(|n| format!("tag=t{n}")).collect::<Vec<_>>().join("&");
    let many = format!("/v2/a/manifests/{}?{many}", image.digest());
    registry.send("PUT", &many, OCI_MANIFEST, &image.manifest)?.expect(414)?;
    Ok(())
}

#[test]
fn lists_are_sorted_and_page() -> anyhow::Result<()> {
    let registry = start()?;
    let image = image::oci_image(&[("file", b"x")])?;
    push_image(&registry, "a", "b", &image)?;
    for tag in ["B", "a", "_x", "1", "Z", "b.1", "b-1"] {
        push_manifest(&registry, "a", tag, OCI_MANIFEST, &image.manifest)?;
    }
    let sorted = ["1", "B", "Z", "_x", "a", "b", "b-1", "b.1"];
    let tags = |query: &str| -> anyhow::Result<(Vec<String>, Option<String>)> {
        let answer = registry.get(&format!("/v2/a/tags/list{query}"))?.expect(200)?;
        let link = answer.header("link").map(str::to_owned);
        Ok((serde_json::from_value(answer.json()?["tags"].clone())?, link))
    };
    ensure!(tags("")? == (sorted.map(str::to_owned).to_vec(), None));
    ensure!(tags("?n=0")? == (vec![], None));
    ensure!(tags("?last=_x")?.0 == ["a", "b", "b-1", "b.1"]);
    ensure!(tags("?last=c")?.0.is_empty(), "after the last there is nothing");
    ensure!(tags("?last=C")?.0 == sorted[2..], "`last` need not exist");
    ensure!(tags("?n=2147483648")?.0 == sorted);
    for n in ["-1", "x", "1.5"] {
        let answer = registry.get(&format!("/v2/a/tags/list?n={n}"))?;
        ensure!(answer.status == 400, "{n}: {}", answer.status);
    }
    let mut seen = Vec::new();
    let mut target = "/v2/a/tags/list?n=3".to_owned();
    loop {
        let answer = registry.get(&target)?.expect(200)?;
        let page: Vec<String> = serde_json::from_value(answer.json()?["tags"].clone())?;
        ensure!(page.len() <= 3);
        seen.extend(page);
        match answer.header("link") {
            Some(link) => target = next_of(link)?,
            None => break,
        }
    }
    ensure!(seen == sorted, "{seen:?}");
    for name in ["c/1", "b", "c/0"] {
        push_image(&registry, name, "1", &image)?;
    }
    let first = registry.get("/v2/_catalog?n=3")?.expect(200)?;
    ensure!(first.json()? == json!({"repositories": ["a", "b", "c/0"]}), "{}", first.text());
    let rest = registry.get(&next_of(first.need("link")?)?)?.expect(200)?;
    ensure!(rest.json()? == json!({"repositories": ["c/1"]}), "{}", rest.text());
    Ok(())
}

/// The target of a `Link: <…>; rel="next"`, which must be an absolute path.
fn next_of(link: &str) -> anyhow::Result<String> {
    let (target, rest) = link
        .strip_prefix('<')
        .and_then(|link| link.split_once('>'))
        .with_context(|| format!("the link {link}"))?;
    ensure!(rest.trim() == "; rel=\"next\"" && target.starts_with("/v2/"), "{link}");
    Ok(target.to_owned())
}

#[test]
fn referrers_are_described_filtered_and_gone_at_once() -> anyhow::Result<()> {
    let registry = start()?;
    let subject = image::oci_image(&[("file", b"x")])?;
    let unknown = registry.get(&format!("/v2/nowhere/referrers/{ABSENT}"))?.expect(200)?;
    ensure!(unknown.json()?["manifests"] == json!([]), "{}", unknown.text());
    push_blob(&registry, "a", b"{}")?;
    let push = |kind: Option<&str>, note: &str| -> anyhow::Result<String> {
        let mut manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": descriptor("application/x.config", b"{}"), "layers": [],
            "subject": subject.descriptor(), "annotations": {"note": note}});
        if let Some(kind) = kind {
            manifest["artifactType"] = json!(kind);
        }
        let bytes = manifest.to_string();
        let digest = sha256(bytes.as_bytes());
        let put = push_manifest(&registry, "a", &digest, OCI_MANIFEST, bytes.as_bytes())?;
        ensure!(put.need("oci-subject")? == subject.digest(), "{put:?}");
        Ok(digest)
    };
    // Before the subject is there.
    let one = push(Some("application/x.one"), "1")?;
    let two = push(Some("application/x.two"), "2")?;
    let three = push(None, "3")?;
    push_image(&registry, "a", "1", &subject)?;
    let list = |query: &str| -> anyhow::Result<(Response, Vec<serde_json::Value>)> {
        let target = format!("/v2/a/referrers/{}{query}", subject.digest());
        let answer = registry.get(&target)?.expect(200)?;
        ensure!(answer.need("content-type")? == OCI_INDEX);
        let found = answer.json()?["manifests"].as_array().context("manifests")?.clone();
        Ok((answer, found))
    };
    let (answer, all) = list("")?;
    ensure!(all.len() == 3 && answer.header("oci-filters-applied").is_none(), "{answer:?}");
    let third = all.iter().find(|item| item["digest"] == json!(three)).context("the third")?;
    ensure!(third["artifactType"] == "application/x.config", "{third}");
    ensure!(third["annotations"]["note"] == "3", "{third}");
    let (answer, some) = list("?artifactType=application%2Fx.one")?;
    ensure!(some.len() == 1 && some[0]["digest"] == json!(one), "{some:?}");
    ensure!(answer.need("oci-filters-applied")? == "artifactType");
    let (_, some) = list("?artifactType=application/x.one&artifactType=application/x.two")?;
    ensure!(some.len() == 2, "{some:?}");
    registry.request("DELETE", &format!("/v2/a/manifests/{two}"))?.expect(202)?;
    ensure!(list("")?.1.len() == 2);
    registry.request("DELETE", &format!("/v2/a/manifests/{}", subject.digest()))?.expect(202)?;
    ensure!(list("")?.1.len() == 2, "referrers outlive their subject");
    Ok(())
}

#[test]
fn deletes_take_what_they_name() -> anyhow::Result<()> {
    let registry = start()?;
    let image = image::oci_image(&[("file", b"x")])?;
    push_image(&registry, "a", "one", &image)?;
    push_image(&registry, "b", "one", &image)?;
    for tag in ["two", "three"] {
        push_manifest(&registry, "a", tag, OCI_MANIFEST, &image.manifest)?;
    }
    registry.request("DELETE", "/v2/a/manifests/one")?.expect(202)?;
    registry.get("/v2/a/manifests/one")?.expect(404)?;
    registry.get("/v2/a/manifests/two")?.expect(200)?;
    registry.request("DELETE", &format!("/v2/a/manifests/{}", image.digest()))?.expect(202)?;
    for reference in ["two", "three", &image.digest()] {
        registry.get(&format!("/v2/a/manifests/{reference}"))?.expect(404)?;
        registry.request("DELETE", &format!("/v2/a/manifests/{reference}"))?.expect(404)?;
    }
    let blob = sha256(&image.blobs[0]);
    registry.request("DELETE", &format!("/v2/a/blobs/{blob}"))?.expect(202)?;
    registry.get(&format!("/v2/a/blobs/{blob}"))?.expect(404)?;
    registry.get(&format!("/v2/b/blobs/{blob}"))?.expect(200)?;

    let keeping = Options::default().env("REGISTRY_STORAGE_DELETE_ENABLED", "false");
    let registry = Registry::start(keeping)?;
    push_image(&registry, "a", "one", &image)?;
    for target in ["manifests/one".to_owned(), format!("blobs/{blob}")] {
        let answer = registry.request("DELETE", &format!("/v2/a/{target}"))?;
        answer.expect_error(405, &["UNSUPPORTED"])?;
    }
    Ok(())
}

#[test]
fn an_index_keeps_manifests_and_blobs_as_children() -> anyhow::Result<()> {
    let registry = start()?;
    // A cache index as BuildKit before 0.21 writes it: its children are layers and a config.
    let layer = image::gzip(&image::layer_tar("file", b"cached")?)?;
    let config = br#"{"layers":[{"blob":"x"}],"records":[]}"#;
    for blob in [layer.as_slice(), config] {
        push_blob(&registry, "cache", blob)?;
    }
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
        descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer),
        descriptor("application/vnd.buildkit.cacheconfig.v0", config),
    ]})
    .to_string();
    push_manifest(&registry, "cache", "main", OCI_INDEX, index.as_bytes())?;
    let got = registry.get("/v2/cache/manifests/main")?.expect(200)?;
    ensure!(got.body == index.as_bytes());
    ensure!(
        registry.get(&format!("/v2/cache/blobs/{}", sha256(&layer)))?.expect(200)?.body == layer
    );

    let amd64 = image::docker_image(&[("file", b"amd64")])?;
    let arm64 = image::docker_image(&[("file", b"arm64")])?;
    for image in [&amd64, &arm64] {
        push_image(&registry, "list", &image.digest(), image)?;
    }
    let list = json!({"schemaVersion": 2, "mediaType": DOCKER_LIST,
        "manifests": [amd64.descriptor(), arm64.descriptor()]})
    .to_string();
    push_manifest(&registry, "list", "1", DOCKER_LIST, list.as_bytes())?;
    let got = registry.get("/v2/list/manifests/1")?.expect(200)?;
    ensure!(got.body == list.as_bytes() && got.need("content-type")? == DOCKER_LIST);
    Ok(())
}

#[test]
fn an_early_refusal_reaches_a_client_that_still_sends() -> anyhow::Result<()> {
    let registry = start()?;
    let bytes = vec![0; 64 << 20];
    for target in ["/v2/BAD/blobs/uploads/x?digest=x", "/v2/a/blobs/uploads/none?digest=x"] {
        let answer = registry.send("PUT", target, "application/octet-stream", &bytes)?;
        ensure!((400..500).contains(&answer.status), "{answer:?}");
    }
    Ok(())
}

#[test]
fn bad_framing_is_refused() -> anyhow::Result<()> {
    let registry = start()?;
    let heads = [
        "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\
         Content-Length: 2\r\n\r\nxx",
        "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        "GET /v2/ HTTP/1.1\r\nHost: a\r\nX\0Y: 1\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n",
    ];
    for head in heads {
        let mut connection = Connection::open(registry.address())?;
        let stream = connection.stream();
        stream.write_all(head.as_bytes())?;
        let mut answer = [0; 12];
        let read = stream.read(&mut answer).unwrap_or(0);
        ensure!(read == 0 || answer.starts_with(b"HTTP/1.1 4"), "{head:?}: {answer:?}");
    }
    registry.get("/v2/")?.expect(200)?;
    Ok(())
}

#[test]
fn concurrent_pushes_of_tags_and_referrers_lose_nothing() -> anyhow::Result<()> {
    let registry = start()?;
    let subject = image::oci_image(&[("file", b"x")])?;
    push_image(&registry, "a", "1", &subject)?;
    push_blob(&registry, "a", b"{}")?;
    let each = |worker: usize| -> anyhow::Result<()> {
        for n in 0..50 {
            let bytes = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
                "artifactType": "application/x", "config": descriptor(OCI_EMPTY, b"{}"),
                "layers": [], "subject": subject.descriptor(),
                "annotations": {"n": format!("{worker}-{n}")}})
            .to_string();
            push_manifest(&registry, "a", "moving", OCI_MANIFEST, bytes.as_bytes())?;
            let seen = registry.get("/v2/a/manifests/moving")?.expect(200)?;
            ensure!(seen.need("docker-content-digest")? == sha256(&seen.body), "a torn tag");
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..20).map(|worker| scope.spawn(move || each(worker))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker panicked"))
    })?;
    let list = registry.get(&format!("/v2/a/referrers/{}", subject.digest()))?.expect(200)?;
    let count = list.json()?["manifests"].as_array().map(Vec::len);
    ensure!(count == Some(1000), "{count:?} of 1000 referrers");
    Ok(())
}
