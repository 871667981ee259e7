//! Uploads: sessions, chunks, two writers, restarts.

use std::io::Write as _;
use std::sync::{Arc, Barrier};

use shared::Digest;

use crate::api::harness::{Answer, IN_MEMORY, Registry, wait_for};

fn range(registry: &Registry, location: &str) -> String {
    let status = registry.get(location).expect(204);
    assert!(status.header("location").is_some());
    assert_eq!(status.header("content-length"), None, "204 has none");
    status.header("range").unwrap().to_owned()
}

fn stored(registry: &Registry, repo: &str, content: &[u8]) -> bool {
    let answer = registry.get(&format!("/v2/{repo}/blobs/{}", Digest::sha256(content)));
    answer.status == 200 && answer.body == content
}

/// In files, or as the registry counts them where there are none.
fn open_uploads(registry: &Registry) -> usize {
    if std::env::var_os(IN_MEMORY).is_none() {
        return std::fs::read_dir(registry.root().join("uploads")).unwrap().count();
    }
    let metrics = String::from_utf8(registry.get("/metrics").expect(200).body).unwrap();
    let open = metrics.lines().find_map(|line| line.strip_prefix("registry_uploads_active "));
    open.unwrap().parse().unwrap()
}

#[test]
fn row_18_and_19_a_session_starts() {
    let registry = Registry::start();
    let headers = [("Content-Type", "application/json")];
    let answer = registry.send("POST", "/v2/a/blobs/uploads/?origin=x", &headers, b"").expect(202);
    let uuid = answer.header("docker-upload-uuid").unwrap();
    assert_eq!(uuid.len(), 36);
    assert_eq!(answer.header("location"), Some(format!("/v2/a/blobs/uploads/{uuid}").as_str()));
    assert_eq!(answer.header("range"), Some("0-0"));
    assert_eq!(answer.header("content-length"), Some("0"));
}

#[test]
fn row_20_a_whole_blob_in_one_post() {
    let registry = Registry::start();
    for content in [&b"one request"[..], b""] {
        let digest = Digest::sha256(content);
        let path = format!("/v2/a/blobs/uploads/?digest={digest}");
        let answer = registry.send("POST", &path, &[], content).expect(201);
        let location = format!("/v2/a/blobs/{digest}");
        assert_eq!(answer.header("location"), Some(location.as_str()));
        assert_eq!(registry.get(&location).expect(200).body, content);
    }
    let path = format!("/v2/a/blobs/uploads/?digest={}", Digest::sha256(b"other"));
    registry.send("POST", &path, &[], b"this").expect_error(400, "DIGEST_INVALID");
    assert_eq!(open_uploads(&registry), 0, "nothing stays of any of them");
}

#[test]
fn row_21_unknown_algorithms() {
    let registry = Registry::start();
    for query in ["digest-algorithm=md5", "digest-algorithm=", "digest=md5:00", "digest=x"] {
        let answer = registry.send("POST", &format!("/v2/a/blobs/uploads/?{query}"), &[], b"");
        answer.expect_error(400, "DIGEST_INVALID");
    }
    assert_eq!(open_uploads(&registry), 0);
}

#[test]
fn row_22_and_23_streams_and_chunks() {
    let registry = Registry::start();
    let location = registry.start_upload("a");
    let chunked = [("Transfer-Encoding", "chunked")];
    let answer = registry.send("PATCH", &location, &chunked, &[b'x'; 5000]).expect(202);
    assert_eq!(answer.header("range"), Some("0-4999"));
    let chunk = [("Content-Range", "5000-5002")];
    let answer = registry.send("PATCH", &location, &chunk, b"yyy").expect(202);
    assert_eq!(answer.header("range"), Some("0-5002"));
    let chunk = [("Content-Range", "bytes 5003-5003/5004")];
    let content = [&[b'x'; 5000][..], b"yyy", b"z"].concat();
    let end = format!("{location}?digest={}", Digest::sha256(&content));
    registry.send("PUT", &end, &chunk, b"z").expect(201);
    assert!(stored(&registry, "a", &content));
}

#[test]
fn row_24_to_26_chunks_out_of_order() {
    let registry = Registry::start();
    let location = registry.start_upload("a");
    registry.send("PATCH", &location, &[("Content-Range", "0-3")], b"good").expect(202);
    let end = format!("{location}?digest={}", Digest::sha256(b"good!"));
    for (method, path) in [("PATCH", &location), ("PUT", &end)] {
        for (value, body) in [
            ("0-3", &b"good"[..]),
            ("5-8", b"good"),
            ("4-2", b"x"),
            ("4-9", b"x"),
            ("4-4", b"xy"),
            ("garbage", b"x"),
            ("4-garbage", b"x"),
            ("-", b"x"),
            ("4-", b"x"),
            ("-4", b"x"),
            ("4-99999999999999999999999999", b"x"),
        ] {
            let answer = registry.send(method, path, &[("Content-Range", value)], body);
            let answer = answer.expect_error(416, "BLOB_UPLOAD_INVALID");
            assert_eq!(answer.header("range"), Some("0-3"), "{method} {value}");
            assert_eq!(answer.header("location"), Some(location.as_str()));
        }
        // The length shows itself only as the body arrives.
        for (value, body) in [("4-4", &b"xy"[..]), ("4-9", b"x")] {
            let headers = [("Content-Range", value), ("Transfer-Encoding", "chunked")];
            registry.send(method, path, &headers, body).expect(416);
        }
        assert_eq!(range(&registry, &location), "0-3", "nothing was written");
    }
    registry.send("PUT", &end, &[("Content-Range", "4-4")], b"!").expect(201);
    assert!(stored(&registry, "a", b"good!"));
}

#[test]
fn row_27_a_put_needs_a_digest() {
    let registry = Registry::start();
    let location = registry.start_upload("a");
    registry.send("PATCH", &location, &[], b"abc").expect(202);
    registry.send("PUT", &location, &[], b"").expect_error(400, "DIGEST_INVALID");
    let bad = format!("{location}?digest=sha256:0");
    registry.send("PUT", &bad, &[], b"").expect_error(400, "DIGEST_INVALID");
    let end = format!("{location}?digest={}", Digest::sha256(b"abc"));
    registry.send("PUT", &end, &[], b"").expect(201);
}

#[test]
fn row_28_a_mismatch_leaves_nothing() {
    let registry = Registry::start();
    let location = registry.start_upload("a");
    let digest = Digest::sha256(b"wanted");
    let end = format!("{location}?digest={digest}");
    registry.send("PUT", &end, &[], b"got").expect_error(400, "DIGEST_INVALID");
    registry.get(&format!("/v2/a/blobs/{digest}")).expect(404);
    registry.get(&format!("/v2/a/blobs/{}", Digest::sha256(b"got"))).expect(404);
    registry.get(&location).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(open_uploads(&registry), 0);
}

#[test]
fn row_30_and_31_cancelled_and_unknown() {
    let registry = Registry::start();
    let location = registry.start_upload("a");
    let elsewhere = location.replace("/v2/a/", "/v2/b/");
    for method in ["GET", "PATCH", "PUT", "DELETE"] {
        registry.send(method, &elsewhere, &[], b"").expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    }
    registry.delete(&location).expect(204);
    for path in [&location, "/v2/a/blobs/uploads/x", "/v2/a/blobs/uploads/..%2e"] {
        for method in ["GET", "PATCH", "DELETE"] {
            registry.send(method, path, &[], b"x").expect_error(404, "BLOB_UPLOAD_UNKNOWN");
        }
    }
    assert_eq!(open_uploads(&registry), 0);
}

#[test]
fn row_32_a_cut_connection_keeps_what_arrived() {
    let registry = Registry::start();
    let location = registry.start_upload("a");
    let mut tcp = registry.connect();
    write!(tcp, "PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n").unwrap();
    tcp.write_all(&[b'a'; 600]).unwrap();
    drop(tcp);
    wait_for("keeping the bytes", || range(&registry, &location) == "0-599");
    let headers = [("Content-Range", "600-999")];
    registry.send("PATCH", &location, &headers, &[b'b'; 400]).expect(202);
    let content = [[b'a'; 600].as_slice(), &[b'b'; 400]].concat();
    let end = format!("{location}?digest={}", Digest::sha256(&content));
    registry.send("PUT", &end, &[], b"").expect(201);
    assert!(stored(&registry, "a", &content));
}

/// Sends a part of a PATCH and ends the connection: in order, or by a reset.
fn cut(registry: &Registry, location: &str, part: &[u8], reset: bool) {
    let mut tcp = registry.connect();
    let announced = part.len() + 1000;
    write!(tcp, "PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {announced}\r\n\r\n")
        .unwrap();
    tcp.write_all(part).unwrap();
    if reset {
        wait_for("reading some of it", || range(registry, location) != "0-0");
        let linger = Some(std::time::Duration::ZERO);
        rustix::net::sockopt::set_socket_linger(&tcp, linger).unwrap();
    }
}

#[test]
fn row_32_nothing_that_was_sent_before_an_orderly_end_is_lost() {
    let registry = Registry::start();
    let content: Vec<u8> = (0..8 << 20).map(|n: u32| (n >> 7) as u8).collect();
    let location = registry.start_upload("a");
    cut(&registry, &location, &content, false);
    let all = format!("0-{}", content.len() - 1);
    wait_for("keeping every byte", || range(&registry, &location) == all);
    let end = format!("{location}?digest={}", Digest::sha256(&content));
    registry.send("PUT", &end, &[], b"").expect(201);
    assert!(stored(&registry, "a", &content));
}

/// The kernel throws away what it has received and nobody has read when a reset arrives; what
/// the server has read is kept, and the upload goes on behind it.
#[test]
fn row_32_a_reset_keeps_what_was_read() {
    let registry = Registry::start();
    let content: Vec<u8> = (0..8 << 20).map(|n: u32| (n >> 5) as u8).collect();
    for _ in 0..3 {
        let location = registry.start_upload("a");
        cut(&registry, &location, &content, true);
        let broken = "registry_http_in_flight_requests{handler=\"blob_upload_chunk\"} 1";
        wait_for("the end of the broken request", || {
            !String::from_utf8(registry.get("/metrics").body).unwrap().contains(broken)
        });
        let told = range(&registry, &location);
        let kept = told.split_once('-').unwrap().1.parse::<usize>().unwrap() + 1;
        let span = format!("{kept}-{}", content.len() - 1);
        let headers = [("Content-Range", span.as_str())];
        if kept < content.len() {
            registry.send("PATCH", &location, &headers, &content[kept..]).expect(202);
        }
        assert!(kept > 1, "nothing was kept");
        let end = format!("{location}?digest={}", Digest::sha256(&content));
        registry.send("PUT", &end, &[], b"").expect(201);
    }
    assert!(stored(&registry, "a", &content));
}

#[test]
fn row_33_an_upload_goes_on_after_a_restart() {
    let registry = Registry::start();
    let location = registry.start_upload("a");
    registry.send("PATCH", &location, &[], b"before ").expect(202);
    let registry = Registry::start_in(registry.stop(), |_| {});
    assert_eq!(range(&registry, &location), "0-6");
    registry.send("PATCH", &location, &[("Content-Range", "7-11")], b"after").expect(202);
    let end = format!("{location}?digest={}", Digest::sha256(b"before after"));
    registry.send("PUT", &end, &[], b"").expect(201);
    let registry = Registry::start_in(registry.stop(), |_| {});
    assert!(stored(&registry, "a", b"before after"));
}

#[test]
fn row_35_two_clients_push_the_same_blob() {
    let registry = Arc::new(Registry::start());
    let content = vec![9; 3 << 20];
    let digest = Digest::sha256(&content);
    let barrier = Arc::new(Barrier::new(8));
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (registry, barrier, content) = (&registry, &barrier, &content);
            let path = format!("/v2/r{client}/blobs/uploads/?digest={digest}");
            scope.spawn(move || {
                barrier.wait();
                registry.send("POST", &path, &[], content).expect(201);
            });
        }
    });
    for client in 0..8 {
        assert!(stored(&registry, &format!("r{client}"), &content));
    }
    let shard = registry.root().join("blobs/sha256").join(&digest.hex()[..2]);
    assert_eq!(std::fs::read_dir(shard).unwrap().count(), 1, "one copy stays");
}

#[test]
fn row_36_two_writers_on_one_session() {
    let registry = Registry::start();
    let location = registry.start_upload("a");
    let headers = [("Content-Range", "0-2999999")];
    let bodies: Vec<Vec<u8>> = (0..4u8).map(|byte| vec![byte; 3_000_000]).collect();
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let send = |body| registry.send("PATCH", &location, &headers, body);
        let threads: Vec<_> = bodies.iter().map(|body| scope.spawn(move || send(body))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let winners: Vec<usize> = (0..4).filter(|at| answers[*at].status == 202).collect();
    assert_eq!(winners.len(), 1, "{:?}", answers.iter().map(|a| a.status).collect::<Vec<_>>());
    assert!(answers.iter().all(|answer| matches!(answer.status, 202 | 416)));
    let end = format!("{location}?digest={}", Digest::sha256(&bodies[winners[0]]));
    registry.send("PUT", &end, &[], b"").expect(201);
}

#[test]
fn row_37_a_put_that_races_an_append() {
    let registry = Registry::start();
    for _ in 0..20 {
        let location = registry.start_upload("a");
        registry.send("PATCH", &location, &[], b"verified").expect(202);
        let end = format!("{location}?digest={}", Digest::sha256(b"verified"));
        let (put, patch) = std::thread::scope(|scope| {
            let put = scope.spawn(|| registry.send("PUT", &end, &[], b""));
            let patch = scope.spawn(|| registry.send("PATCH", &location, &[], b"late"));
            (put.join().unwrap(), patch.join().unwrap())
        });
        assert!(matches!((put.status, patch.status), (201, 404) | (400, 202)), "{put:?} {patch:?}");
        let blob = registry.get(&format!("/v2/a/blobs/{}", Digest::sha256(b"verified")));
        assert!(blob.status == 404 || blob.body == b"verified");
    }
}

#[test]
fn row_38_abandoned_uploads_are_dropped() {
    let purge = registry::config::Purge {
        // Not at once: the upload must have begun by then.
        age: std::time::Duration::from_secs(2),
        interval: std::time::Duration::from_secs(1),
    };
    let registry = Registry::start_with(|config| config.purge = Some(purge));
    let location = registry.start_upload("a");
    wait_for("dropping the upload", || registry.get(&location).status == 404);
    assert_eq!(open_uploads(&registry), 0);
}

#[test]
fn row_39_a_full_disk_is_told_and_leaves_nothing() {
    let registry = Registry::start();
    registry.push_image("a", "t", b"{}");
    let registry = Registry::start_in(registry.stop(), |config| {
        config.store.reserve = Some(u64::MAX);
    });
    registry.get("/readyz").expect(200);
    let digest = Digest::sha256(b"x");
    registry.send("POST", "/v2/a/blobs/uploads/", &[], b"").expect_error(507, "DENIED");
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    registry.send("POST", &path, &[], b"x").expect_error(507, "DENIED");
    assert_eq!(open_uploads(&registry), 0);
    let manifest = registry.get("/v2/a/manifests/t").expect(200).body;
    registry.put_manifest("a", "u", &manifest).expect_error(507, "DENIED");
    registry.delete(&format!("/v2/a/manifests/{}", Digest::sha256(&manifest))).expect(202);
}

#[test]
fn pushes_are_refused_in_maintenance_and_pulls_go_on() {
    let registry = Registry::start();
    registry.push_image("a", "t", b"{}");
    let registry = Registry::start_in(registry.stop(), |config| config.policy.read_only = true);
    registry.send("POST", "/v2/a/blobs/uploads/", &[], b"").expect_error(405, "UNSUPPORTED");
    registry.delete("/v2/a/manifests/t").expect_error(405, "UNSUPPORTED");
    registry.get("/v2/a/manifests/t").expect(200);
}

#[test]
fn a_status_that_races_the_end_of_an_upload_does_not_revive_it() {
    let registry = Registry::start();
    for _ in 0..10 {
        let location = registry.start_upload("a");
        let ended = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                        registry.get(&location);
                    }
                });
            }
            registry.delete(&location).expect(204);
            ended.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        registry.get(&location).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    }
}
