//! Blobs: pull, delete, mount.

use std::io::{Read as _, Write as _};

use shared::Digest;

use crate::api::harness::{Answer, Registry, sha512, wait_for};

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

#[test]
fn row_9_and_10_head_and_get_agree() {
    let registry = Registry::start();
    // Empty, read inline, sent by the kernel.
    for length in [0, 1, 5000, 300_000] {
        let content = content(length);
        let digest = registry.push_blob("a/b", &content);
        let path = format!("/v2/a/b/blobs/{digest}");
        let (head, get) = (registry.head(&path).expect(200), registry.get(&path).expect(200));
        assert_eq!((head.body.len(), &get.body), (0, &content));
        for name in
            ["content-length", "content-type", "docker-content-digest", "etag", "accept-ranges"]
        {
            assert_eq!(head.header(name), get.header(name), "{name}");
        }
        assert_eq!(get.header("content-length"), Some(length.to_string().as_str()));
        assert_eq!(get.header("docker-content-digest"), Some(digest.to_string().as_str()));
        assert_eq!(get.header("content-type"), Some("application/octet-stream"));
        assert_eq!(get.header("accept-ranges"), Some("bytes"));
    }
}

#[test]
fn row_11_unknown_and_malformed() {
    let registry = Registry::start();
    let unknown = Digest::sha256(b"nobody");
    registry.get(&format!("/v2/a/blobs/{unknown}")).expect_error(404, "BLOB_UNKNOWN");
    assert_eq!(registry.head(&format!("/v2/a/blobs/{unknown}")).expect(404).body.len(), 0);
    let upper = unknown.to_string().to_uppercase().replace("SHA256", "sha256");
    for digest in ["x", "sha256:", "sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e", &upper] {
        registry.get(&format!("/v2/a/blobs/{digest}")).expect_error(400, "DIGEST_INVALID");
    }
}

#[test]
fn row_12_and_13_ranges() {
    let registry = Registry::start();
    let content = content(40_000);
    let path = format!("/v2/a/blobs/{}", registry.push_blob("a", &content));
    let get = |range: &str| registry.send("GET", &path, &[("Range", range)], b"");
    for (range, first, last) in [
        ("bytes=0-0", 0, 0),
        ("bytes=500-1499", 500, 1499),
        ("bytes=500-", 500, 39_999),
        ("bytes=-500", 39_500, 39_999),
        ("bytes=39000-99999", 39_000, 39_999),
        ("bytes=0-", 0, 39_999),
    ] {
        let answer = get(range).expect(206);
        assert_eq!(answer.body, &content[first..=last], "{range}");
        let want = format!("bytes {first}-{last}/40000");
        assert_eq!(answer.header("content-range"), Some(want.as_str()));
        assert_eq!(answer.header("content-length"), Some((last - first + 1).to_string().as_str()));
    }
    for range in ["bytes=500-0", "bytes=40000-", "bytes=50000-60000", "bytes=-0"] {
        let answer = get(range).expect(416);
        assert_eq!(answer.header("content-range"), Some("bytes */40000"), "{range}");
        assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
    }
    for range in ["pages=1-2", "bytes=x-", "bytes=0-39999,0-0"] {
        assert_eq!(get(range).expect(200).body.len(), 40_000, "{range}");
    }
    let empty = format!("/v2/a/blobs/{}", registry.push_blob("a", b""));
    registry.send("GET", &empty, &[("Range", "bytes=0-")], b"").expect(416);
}

/// A partial pull of a zstd:chunked image asks for hundreds of parts at once.
#[test]
fn several_ranges_are_one_answer_in_parts() {
    let registry = Registry::start();
    // More than one is read at once from memory, and one that is sent as a file.
    let content = content(3 << 20);
    let path = format!("/v2/a/blobs/{}", registry.push_blob("a", &content));
    let size = content.len();
    let wanted = [(5, 9), (0, 0), (100_000, 2_000_000), (size - 3, size - 1)];
    let ranges: Vec<_> = wanted.iter().map(|(first, last)| format!("{first}-{last}")).collect();
    let range = format!("bytes={},{size}-", ranges.join(", "));
    let answer = registry.send("GET", &path, &[("Range", &range)], b"").expect(206);
    let length = answer.body.len().to_string();
    assert_eq!(answer.header("content-length"), Some(length.as_str()));
    assert_eq!(answer.header("content-range"), None);
    let kind = answer.header("content-type").unwrap();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mut want = Vec::new();
    for (first, last) in wanted {
        want.extend(
            format!(
                "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\
                 Content-Range: bytes {first}-{last}/{size}\r\n\r\n"
            )
            .bytes(),
        );
        want.extend(&content[first..=last]);
    }
    want.extend(format!("\r\n--{boundary}--\r\n").bytes());
    assert!(answer.body == want, "{} bytes, wanted {}", answer.body.len(), want.len());
    // The connection goes on behind it.
    let mut tcp = registry.connect();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nRange: {range}\r\n\r\n");
    let last = "GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    std::io::Write::write_all(&mut tcp, format!("{request}{request}{last}").as_bytes()).unwrap();
    let mut answers = Vec::new();
    std::io::Read::read_to_end(&mut tcp, &mut answers).unwrap();
    let text = String::from_utf8_lossy(&answers);
    assert_eq!(text.matches("HTTP/1.1 206").count(), 2);
    assert!(text.ends_with("{}"), "{}", answers.len());
    assert!(answers.len() > 2 * want.len());
    let one = registry.send("GET", &path, &[("Range", "bytes=1-2,99999999-")], b"").expect(206);
    assert_eq!(one.header("content-range"), Some(format!("bytes 1-2/{size}").as_str()));
    registry.send("GET", &path, &[("Range", "bytes=9999999-,8888888-")], b"").expect(416);
}

#[test]
fn row_14_conditions() {
    let registry = Registry::start();
    let digest = registry.push_blob("a", b"hello");
    let path = format!("/v2/a/blobs/{digest}");
    let etag = format!("\"{digest}\"");
    for (header, value, status) in [
        ("If-None-Match", etag.as_str(), 304),
        ("If-None-Match", "*", 304),
        ("If-None-Match", "\"other\"", 200),
        ("If-None-Match", &format!("\"x\", W/{etag}"), 304),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = registry.send(method, &path, &[(header, value)], b"").expect(status);
            assert_eq!(answer.header("etag"), Some(etag.as_str()));
            assert_eq!(answer.body.is_empty(), status == 304 || method == "HEAD");
        }
    }
    let range = ("Range", "bytes=1-2");
    let same = registry.send("GET", &path, &[range, ("If-Range", &etag)], b"").expect(206);
    assert_eq!(same.body, b"el");
    let other = registry.send("GET", &path, &[range, ("If-Range", "\"other\"")], b"").expect(200);
    assert_eq!(other.body, b"hello");
}

#[test]
fn row_15_a_blob_belongs_to_its_repository() {
    let registry = Registry::start();
    let digest = registry.push_blob("a", b"secret");
    registry.get(&format!("/v2/b/blobs/{digest}")).expect_error(404, "BLOB_UNKNOWN");
    registry.head(&format!("/v2/b/blobs/{digest}")).expect(404);
}

#[test]
fn row_16_the_empty_blob_works_everywhere() {
    let registry = Registry::start();
    let digest = Digest::sha256(b"");
    let path = |repo: &str| format!("/v2/{repo}/blobs/{digest}");
    // Pushed in each of the ways.
    registry.push_blob("post", b"");
    let location = registry.start_upload("put");
    registry.send("PUT", &format!("{location}?digest={digest}"), &[], b"").expect(201);
    let location = registry.start_upload("patch");
    registry.send("PATCH", &location, &[], b"").expect(202);
    let chunked = [("Transfer-Encoding", "chunked")];
    registry.send("PATCH", &location, &chunked, b"").expect(202);
    registry.send("PUT", &format!("{location}?digest={digest}"), &[], b"").expect(201);
    let mount = format!("/v2/mount/blobs/uploads/?mount={digest}&from=post");
    registry.send("POST", &mount, &[], b"").expect(201);
    for repo in ["post", "put", "patch", "mount"] {
        let got = registry.get(&path(repo)).expect(200);
        let head = registry.head(&path(repo)).expect(200);
        for answer in [&got, &head] {
            assert_eq!(answer.header("content-length"), Some("0"), "{repo}");
            assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));
            assert!(answer.body.is_empty());
        }
        let ranged = registry.send("GET", &path(repo), &[("Range", "bytes=0-")], b"").expect(416);
        assert_eq!(ranged.header("content-range"), Some("bytes */0"));
    }
    registry.put_manifest("post", "t", &crate::api::harness::image(&digest, 0, "")).expect(201);
    registry.delete(&path("put")).expect(202);
    registry.get(&path("put")).expect(404);
}

#[test]
fn row_41_what_was_created_is_where_its_location_says() {
    let registry = Registry::start();
    let digest = Digest::sha256(b"content");
    let post = format!("/v2/a/blobs/uploads/?digest={digest}");
    let upload = registry.start_upload("b");
    let put = format!("{upload}?digest={digest}");
    let mount = format!("/v2/c/blobs/uploads/?mount={digest}&from=a");
    for (method, path, body) in
        [("POST", &post, &b"content"[..]), ("PUT", &put, b"content"), ("POST", &mount, b"")]
    {
        let created = registry.send(method, path, &[], body).expect(201);
        let location = created.header("location").unwrap();
        assert_eq!(registry.get(location).expect(200).body, b"content", "{path}");
        assert_eq!(created.header("docker-content-digest"), Some(digest.to_string().as_str()));
    }
    let config = registry.push_blob("a", b"{}");
    let manifest = crate::api::harness::image(&config, 2, "");
    for reference in ["t", &Digest::sha256(&manifest).to_string()] {
        let created = registry.put_manifest("a", reference, &manifest).expect(201);
        let location = created.header("location").unwrap();
        assert_eq!(registry.get(location).expect(200).body, manifest, "{reference}");
    }
}

#[test]
fn row_17_a_client_that_hangs_up_leaks_nothing() {
    let registry = Registry::start();
    let digest = registry.push_blob("a", &vec![1; 20 << 20]);
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    for _ in 0..20 {
        let mut tcp = registry.connect();
        write!(tcp, "GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut some = [0; 1000];
        tcp.read_exact(&mut some).unwrap();
    }
    // Other tests of this process open and close files as well: some slack.
    wait_for("closing the files", || descriptors() < before + 15);
    registry.get(&format!("/v2/a/blobs/{digest}")).expect(200);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let registry = Registry::start();
    let content = content(200_000);
    let digest = registry.push_blob("a", &content);
    let one = format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n");
    let last = "GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut rest = registry.raw(format!("{}{last}", one.repeat(5)).as_bytes());
    for _ in 0..5 {
        let answer = Answer::parse(&rest).unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(&answer.body[..content.len()], content);
        rest = answer.body[content.len()..].to_vec();
    }
    assert_eq!(Answer::parse(&rest).unwrap().body, b"{}");
}

#[test]
fn row_42_to_44_mounts() {
    let registry = Registry::start();
    let digest = registry.push_blob("from", b"layer");
    let mount = |query: &str| {
        registry.send("POST", &format!("/v2/to/blobs/uploads/?mount={query}"), &[], b"")
    };
    for query in [
        format!("{}&from=from", Digest::sha256(b"absent")),
        format!("{digest}&from=nowhere"),
        format!("{digest}&from=NO"),
        Digest::sha256(b"absent").to_string(),
    ] {
        let answer = mount(&query).expect(202);
        assert!(answer.header("location").unwrap().contains("/blobs/uploads/"), "{query}");
    }
    let answer = mount(&format!("{digest}&from=from")).expect(201);
    let location = format!("/v2/to/blobs/{digest}");
    assert_eq!(answer.header("location"), Some(location.as_str()));
    assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));
    assert_eq!(registry.get(&location).expect(200).body, b"layer");
    let anonymous =
        registry.send("POST", &format!("/v2/x/blobs/uploads/?mount={digest}"), &[], b"");
    anonymous.expect(201);
    registry.get(&format!("/v2/x/blobs/{digest}")).expect(200);
    mount("x&from=from").expect_error(400, "DIGEST_INVALID");
}

#[test]
fn row_83_and_85_a_delete_is_immediate_and_of_one_repository() {
    let registry = Registry::start();
    for repo in ["a", "b"] {
        registry.push_blob(repo, b"shared");
    }
    let digest = Digest::sha256(b"shared");
    registry.delete(&format!("/v2/a/blobs/{digest}")).expect(202);
    registry.head(&format!("/v2/a/blobs/{digest}")).expect(404);
    registry.get(&format!("/v2/b/blobs/{digest}")).expect(200);
    registry.delete(&format!("/v2/a/blobs/{digest}")).expect_error(404, "BLOB_UNKNOWN");
}

#[test]
fn row_84_deletes_can_be_turned_off() {
    let registry = Registry::start_with(|config| config.policy.delete_enabled = false);
    let manifest = registry.push_image("a", "t", b"{}");
    for path in [
        format!("/v2/a/blobs/{}", Digest::sha256(b"{}")),
        format!("/v2/a/manifests/{}", Digest::sha256(&manifest)),
        "/v2/a/manifests/t".to_owned(),
    ] {
        registry.delete(&path).expect_error(405, "UNSUPPORTED");
        registry.get(&path).expect(200);
    }
}

#[test]
fn row_29_sha512_is_another_blob() {
    let registry = Registry::start();
    let digest = sha512(b"long");
    for query in ["", "?digest-algorithm=sha512"] {
        let repo = format!("r{}", query.len());
        let start = registry.send("POST", &format!("/v2/{repo}/blobs/uploads/{query}"), &[], b"");
        let location = start.expect(202).header("location").unwrap().to_owned();
        registry.send("PUT", &format!("{location}?digest={digest}"), &[], b"long").expect(201);
        let path = format!("/v2/{repo}/blobs/{digest}");
        assert_eq!(registry.get(&path).expect(200).body, b"long");
        let other = Digest::sha256(b"long");
        registry.get(&format!("/v2/{repo}/blobs/{other}")).expect(404);
    }
    let single = format!("/v2/s/blobs/uploads/?digest={digest}");
    registry.send("POST", &single, &[], b"long").expect(201);
}
