//! Bodies that are taken from the connection past actix: those of some size, and chunked ones. What
//! must hold of them is where each ends, and that what follows is the next request.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use shared::Digest;

use crate::api::harness::{Answer, Registry, wait_for};

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 16) as u8).collect()
}

fn chunked(content: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in content.chunks(size) {
        bytes.extend(format!("{:x};ext=\"1\"\r\n", piece.len()).bytes());
        bytes.extend(piece);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\nTrailer: is dropped\r\n\r\n");
    bytes
}

/// Reads an answer that has no body, and no byte more.
fn head(tcp: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(tcp.read(&mut byte).unwrap(), 1, "{:?}", String::from_utf8_lossy(&bytes));
        bytes.push(byte[0]);
    }
    Answer::parse(&bytes).unwrap()
}

#[test]
fn a_connection_goes_on_behind_each_kind_of_body() {
    let registry = Registry::start();
    let content = content(300_000);
    let digest = Digest::sha256(&content);
    let mut tcp = registry.connect();
    for round in 0..4 {
        let location = registry.start_upload("a");
        // One body of each kind, the next request right behind it, in one piece.
        let mut bytes =
            format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
                .into_bytes();
        bytes.extend(chunked(&content[..100_000], 1000 + round * 30_000));
        bytes.extend(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n");
        tcp.write_all(&bytes).unwrap();
        let answer = head(&mut tcp).expect(202);
        assert_eq!(answer.header("range"), Some("0-99999"));
        assert_eq!(answer.header("connection"), None);
        let base = head(&mut tcp).expect(200);
        let mut body = vec![0; base.header("content-length").unwrap().parse().unwrap()];
        tcp.read_exact(&mut body).unwrap();

        let mut bytes = format!(
            "PUT {location}?digest={digest} HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n"
        )
        .into_bytes();
        bytes.extend(&content[100_000..]);
        let next = format!("HEAD /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n");
        bytes.extend(next.bytes());
        tcp.write_all(&bytes).unwrap();
        head(&mut tcp).expect(201);
        assert_eq!(head(&mut tcp).expect(200).header("content-length"), Some("300000"));
    }
    assert_eq!(registry.get(&format!("/v2/a/blobs/{digest}")).expect(200).body, content);
}

#[test]
fn heads_and_bodies_arrive_in_any_pieces() {
    let registry = Registry::start();
    let content = content(70_000);
    let digest = Digest::sha256(&content);
    for step in [1, 7, 100, 65_000] {
        let location = registry.start_upload("a");
        let mut bytes = format!(
            "PUT {location}?digest={digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Transfer-Encoding: chunked\r\n\r\n"
        )
        .into_bytes();
        bytes.extend(chunked(&content, 10_000));
        let mut tcp = registry.connect();
        tcp.set_nodelay(true).unwrap();
        let (slow, fast) = bytes.split_at(500);
        for piece in slow.chunks(step) {
            tcp.write_all(piece).unwrap();
            std::thread::sleep(Duration::from_micros(200));
        }
        tcp.write_all(fast).unwrap();
        head(&mut tcp).expect(201);
    }
    assert_eq!(registry.get(&format!("/v2/a/blobs/{digest}")).expect(200).body, content);
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it() {
    let registry = Registry::start();
    let content = content(100_000);
    let location = registry.start_upload("a");
    let mut tcp = registry.connect();
    write!(
        tcp,
        "PUT {location}?digest={} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\
         Content-Length: 100000\r\n\r\n",
        Digest::sha256(&content)
    )
    .unwrap();
    let mut interim = [0; 25];
    tcp.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    tcp.write_all(&content).unwrap();
    head(&mut tcp).expect(201);
}

#[test]
fn the_answer_to_a_body_that_is_not_wanted_can_be_read_and_ends_the_connection() {
    let registry = Registry::start();
    let unknown = "/v2/a/blobs/uploads/00000000-0000-4000-8000-000000000000";
    for framing in ["Content-Length: 30000000", "Transfer-Encoding: chunked"] {
        let mut tcp = registry.connect();
        write!(tcp, "PATCH {unknown} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n").unwrap();
        // More than the buffers of both sides hold.
        let mut sender = tcp.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            let _ =
                sender.write_all(b"1c9c380\r\n").and_then(|()| sender.write_all(&[7; 29_000_000]));
        });
        let answer = head(&mut tcp).expect(404);
        assert_eq!(answer.header("connection"), Some("close"), "{framing}");
        sending.join().unwrap();
    }
    // A request hidden in such a body is none.
    let hidden = format!(
        "PATCH {unknown} HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n\
         POST /v2/hidden/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    );
    let answer = registry.raw(hidden.as_bytes());
    assert_eq!(String::from_utf8_lossy(&answer).matches("HTTP/1.1 ").count(), 1);
}

#[test]
fn what_is_left_of_a_body_that_nobody_reads_is_dropped_if_it_is_there() {
    let registry = Registry::start();
    let unknown = "/v2/a/blobs/uploads/00000000-0000-4000-8000-000000000000";
    let mut tcp = registry.connect();
    let start = "/v2/a/blobs/uploads/";
    for (method, path, status, length) in [
        ("POST", start, 202, 0),
        ("PATCH", unknown, 404, 3000),
        ("PATCH", unknown, 404, 20_000),
        ("HEAD", "/v2/", 200, 10),
    ] {
        let mut bytes =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
                .into_bytes();
        bytes.extend(chunked(&content(length), 1000));
        bytes.extend(b"HEAD /v2/ HTTP/1.1\r\nHost: x\r\n\r\n");
        tcp.write_all(&bytes).unwrap();
        let answer = head(&mut tcp).expect(status);
        assert_eq!(answer.header("connection"), None, "{method} {length}");
        let body = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        tcp.read_exact(&mut vec![0; if method == "HEAD" { 0 } else { body }]).unwrap();
        head(&mut tcp).expect(200);
    }
}

#[test]
fn malformed_chunks_are_refused_and_what_came_before_is_kept() {
    let registry = Registry::start();
    let location = registry.start_upload("a");
    for (body, range) in [("3\r\nabc\r\n+3\r\ndef", "0-2"), ("2\r\nabc\r\n0\r\n\r\n", "0-4")] {
        let answer = registry.raw(
            format!(
                "PATCH {location} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
            )
            .as_bytes(),
        );
        let answer = Answer::parse(&answer).unwrap();
        assert_eq!((answer.status, answer.header("connection")), (400, Some("close")), "{body}");
        assert_eq!(registry.get(&location).header("range"), Some(range));
    }
}

#[test]
fn a_manifest_may_come_so_too() {
    let registry = Registry::start();
    let config = registry.push_blob("a", b"{}");
    let note = format!(r#","annotations":{{"note":"{}"}}"#, "x".repeat(200_000));
    let manifest = crate::api::harness::image(&config, 2, &note);
    registry.put_manifest("a", "v1", &manifest).expect(201);
    let kind = ("Content-Type", shared::media_type::OCI_MANIFEST);
    let headers = [kind, ("Transfer-Encoding", "chunked")];
    registry.send("PUT", "/v2/a/manifests/v2", &headers, &manifest).expect(201);
    assert_eq!(registry.get("/v2/a/manifests/v2").expect(200).body, manifest);
    let long = vec![b' '; 5 << 20];
    let path = "/v2/a/manifests/v3";
    registry.send("PUT", path, &headers, &long).expect_error(413, "SIZE_INVALID");
    registry.send("PUT", path, &[kind], &long).expect_error(413, "SIZE_INVALID");
}

#[test]
fn space_that_was_claimed_and_not_used_is_given_back() {
    use std::os::unix::fs::MetadataExt as _;
    let registry = Registry::start();
    let content = content(1 << 20);
    let location = registry.start_upload("a");
    let headers = [("Transfer-Encoding", "chunked")];
    registry.send("PATCH", &location, &headers, &content).expect(202);
    let id = location.rsplit('/').next().unwrap();
    let data = registry.root().join("uploads").join(id).join("data");
    let blocks = || std::fs::metadata(&data).unwrap().blocks() * 512;
    wait_for("giving space back", || blocks() < 3 << 20);
    assert_eq!(std::fs::metadata(&data).unwrap().len(), 1 << 20);
}

#[test]
fn of_a_large_body_that_breaks_off_all_that_arrived_is_kept() {
    let registry = Registry::start();
    let content = content((40 << 20) + 5);
    let digest = Digest::sha256(&content);
    // Not at the end of a block, and behind the part that goes through the page cache.
    let (pause, end) = ((33 << 20) + 70_001, (37 << 20) + 300_003);
    for framing in ["Content-Length: 41943045", "Transfer-Encoding: chunked"] {
        let location = registry.start_upload("a");
        let mut tcp = registry.connect();
        let head = format!("PATCH {location} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n");
        tcp.write_all(head.as_bytes()).unwrap();
        let pieces = [&content[..pause], &content[pause..end]];
        for piece in pieces {
            if framing.contains("chunked") {
                tcp.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).unwrap();
                tcp.write_all(piece).unwrap();
                tcp.write_all(b"\r\n").unwrap();
            } else {
                tcp.write_all(piece).unwrap();
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        tcp.shutdown(std::net::Shutdown::Write).unwrap();
        let arrived = format!("0-{}", end - 1);
        wait_for("the broken body", || {
            registry.get(&location).header("range") == Some(arrived.as_str())
        });
        let rest = format!("{end}-{}", content.len() - 1);
        let headers = [("Content-Range", rest.as_str())];
        registry.send("PATCH", &location, &headers, &content[end..]).expect(202);
        registry.send("PUT", &format!("{location}?digest={digest}"), &[], b"").expect(201);
        let stored = registry.get(&format!("/v2/a/blobs/{digest}")).expect(200).body;
        assert!(stored == content, "{framing}");
    }
}
