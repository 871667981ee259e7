//! Rows of the protocol's checklist that take a process of its own: killed, measured, collecting.
//! The others are in `api`, under the same numbers.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::support::{Server, image, sound, wait};
use shared::{Digest, Hasher};

const QUIET: [(&str, &str); 1] = [("REGISTRY_GC_INTERVAL", "1h")];

fn content(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|n| ((n * 31 + seed * 7) >> 3) as u8).collect()
}

#[test]
fn row_33_an_upload_goes_on_after_kill_9_in_the_middle_of_a_patch() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let bytes = content(1, 3 << 20);
    let server = Server::start(&root, &QUIET);
    let mut client = server.client();
    let started = client.request("POST", "/v2/a/blobs/uploads/", "", b"").unwrap();
    let location = started.header("location").unwrap().to_owned();
    let mut tcp = TcpStream::connect(&server.address).unwrap();
    let length = bytes.len();
    write!(tcp, "PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n")
        .unwrap();
    tcp.write_all(&bytes[..2 << 20]).unwrap();
    let offset = |client: &mut crate::support::Client| -> usize {
        let told = client.get(&location).unwrap();
        let last: usize = told.header("range").unwrap()[2..].parse().unwrap();
        if last == 0 { 0 } else { last + 1 }
    };
    wait("bytes arrive", || (offset(&mut client) > 1 << 20).then_some(()));
    server.kill();

    let server = Server::start(&root, &QUIET);
    let mut client = server.client();
    let kept = offset(&mut client);
    assert!((1 << 20..=2 << 20).contains(&kept), "{kept} bytes were kept");
    let patched = client.request("PATCH", &location, "", &bytes[kept..]).unwrap();
    assert_eq!(patched.status, 202);
    let digest = Digest::sha256(&bytes);
    let put = client.request("PUT", &format!("{location}?digest={digest}"), "", b"").unwrap();
    assert_eq!(put.status, 201);
    assert_eq!(client.get(&format!("/v2/a/blobs/{digest}")).unwrap().body, bytes);
}

#[test]
fn row_34_a_blob_is_whole_after_kill_9_right_after_its_201() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let mut acknowledged: Vec<Vec<u8>> = Vec::new();
    for round in 0..6 {
        let server = Server::start(&root, &QUIET);
        let mut client = server.client();
        for bytes in &acknowledged {
            let path = format!("/v2/a/blobs/{}", Digest::sha256(bytes));
            assert_eq!(client.get(&path).unwrap().body, *bytes);
        }
        let bytes = content(round, 1 + round * 100_000);
        let pushed = match round % 2 {
            0 => client.push_blob("a", &bytes),
            _ => client.push_blob_in_chunks("a", &bytes),
        };
        let status = pushed.unwrap().status;
        server.kill();
        assert_eq!(status, 201);
        acknowledged.push(bytes);
    }
    sound(&root);
}

/// A mebibyte of a large layer.
fn piece(number: usize) -> Vec<u8> {
    let mut piece = vec![0x5a; 1 << 20];
    piece[..8].copy_from_slice(&number.to_le_bytes());
    piece
}

/// Large enough to stand out from what the process takes anyway. That memory does not depend on the
/// size at all is seen with 10 GiB by the load test in `conformance`.
#[test]
fn row_40_a_large_layer_takes_no_memory() {
    const PIECES: usize = 384;
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("store"), &QUIET);
    let mut hasher = Hasher::new(shared::Algorithm::Sha256);
    (0..PIECES).for_each(|number| hasher.update(&piece(number)));
    let digest = hasher.finish();
    let mut tcp = TcpStream::connect(&server.address).unwrap();
    write!(
        tcp,
        "POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        PIECES << 20
    )
    .unwrap();
    (0..PIECES).for_each(|number| tcp.write_all(&piece(number)).unwrap());
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");

    let mut tcp = TcpStream::connect(&server.address).unwrap();
    write!(tcp, "GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let (mut received, mut buffer) = (0, vec![0; 1 << 20]);
    loop {
        match tcp.read(&mut buffer).unwrap() {
            0 => break,
            read => received += read,
        }
    }
    assert!(received > PIECES << 20, "{received}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 64 << 10, "{peak} KiB at most");
}

#[test]
fn row_45_a_mount_rescues_a_condemned_blob() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let server = Server::start(
        &root,
        &[
            ("REGISTRY_GC_INTERVAL", "100ms"),
            ("REGISTRY_GC_REVIEWDELAY", "0s"),
            ("REGISTRY_GC_GRACE", "4s"),
        ],
    );
    let mut client = server.client();
    let bytes = content(45, 1000);
    let digest = Digest::sha256(&bytes);
    assert_eq!(client.push_blob("a", &bytes).unwrap().status, 201);
    wait("the blob is condemned", || {
        let metrics = String::from_utf8(client.get("/metrics").unwrap().body).unwrap();
        metrics.contains("registry_gc_condemned_total 1\n").then_some(())
    });
    assert_eq!(client.mount("b", &digest, "a").unwrap().status, 201);
    assert_eq!(client.push_manifest("b", "t", &image(&[&bytes])).unwrap().status, 201);
    // Nobody names it in the other repository, so that link goes when its time has come, and the
    // blob with it if the mount had not kept it.
    let of = |repo: &str| format!("/v2/{repo}/blobs/{digest}");
    wait("the grace is over", || (client.get(&of("a")).unwrap().status == 404).then_some(()));
    client.pull("b", "t").unwrap();
    assert_eq!(client.get(&of("b")).unwrap().body, bytes);
    server.stop();
    sound(&root);
}
