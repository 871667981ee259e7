//! Connections that mean no good, by the thousand, and what they may cost. Each defence in two runs:
//! as it is, and left out, which the same check must notice.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use shared::Digest;
use tokio_rustls::rustls::ClientConnection;

use crate::api::tls::{ALL, Client, Lab, connect};
use crate::support::{self, Server, image, wait};

/// A server with limits that are over soon.
struct Case {
    server: Server,
    lab: Lab,
    tls: bool,
    _directory: tempfile::TempDir,
}

/// Each of the limits of the generated connections.
const LIMIT: Duration = Duration::from_millis(500);

const SHORT: [(&str, &str); 5] = [
    ("REGISTRY_LIMITS_HEAD", "500ms"),
    ("REGISTRY_LIMITS_BODY", "500ms"),
    ("REGISTRY_LIMITS_IDLE", "500ms"),
    ("REGISTRY_LIMITS_WRITE", "500ms"),
    ("REGISTRY_LIMITS_DISCONNECT", "500ms"),
];

const MANIFEST: &[u8] = b"{}";

impl Case {
    fn start(tls: bool, environment: &[(&str, &str)]) -> Self {
        let (directory, lab) = (tempfile::tempdir().unwrap(), Lab::new());
        let files = [lab.path("server.crt"), lab.path("server.key")];
        let mut all = environment.to_vec();
        all.extend([("REGISTRY_GC_INTERVAL", "1h"), ("REGISTRY_SCRUB_RATE", "0")]);
        if tls {
            all.push(("REGISTRY_HTTP_TLS_CERTIFICATE", files[0].to_str().unwrap()));
            all.push(("REGISTRY_HTTP_TLS_KEY", files[1].to_str().unwrap()));
        }
        let server = Server::start(&directory.path().join("store"), &all);
        Self { server, lab, tls, _directory: directory }
    }

    fn tcp(&self) -> TcpStream {
        let tcp = TcpStream::connect(&self.server.address).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        tcp
    }

    fn tls(&self) -> Client {
        connect(self.tcp(), self.lab.client(None, &ALL)).unwrap()
    }

    /// Sends on a new connection and gives everything that comes until its end.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut answer = Vec::new();
        if self.tls {
            let mut client = self.tls();
            let _ = client.write_all(bytes).and_then(|()| client.flush());
            let _ = client.read_to_end(&mut answer);
        } else {
            let mut client = self.tcp();
            let _ = client.write_all(bytes);
            let _ = client.read_to_end(&mut answer);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn get(&self, path: &str) -> String {
        self.raw(get(path, "Connection: close\r\n").as_bytes())
    }

    fn push(&self, content: &[u8]) -> Digest {
        let digest = Digest::sha256(content);
        let mut bytes = format!(
            "POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n",
            content.len()
        )
        .into_bytes();
        bytes.extend(content);
        let answer = self.raw(&bytes);
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        digest
    }

    /// Pushes a manifest of about `length` bytes.
    fn push_manifest(&self, tag: &str, length: usize) {
        self.push(MANIFEST);
        let note = format!(",\"annotations\":{{\"{tag}\":\"{}\"}}}}", "x".repeat(length));
        let manifest = image(&[MANIFEST]);
        let manifest = format!("{}{note}", manifest.strip_suffix('}').unwrap());
        let head = format!(
            "PUT /v2/a/manifests/{tag} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Content-Type: {}\r\nContent-Length: {}\r\n\r\n",
            support::MANIFEST,
            manifest.len()
        );
        let answer = self.raw(format!("{head}{manifest}").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }

    /// Sockets that the server has open.
    fn sockets(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.server.pid())).unwrap();
        open.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    }

    /// Bytes of memory that the server has.
    fn memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.server.pid());
        let text = std::fs::read_to_string(path).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
    }
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n")
}

/// xorshift64*: a connection is found again by its number.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}

/// What a connection sends before it falls silent: one to three requests, cut anywhere.
fn requests(random: &mut Random, blob: &Digest, upload: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..1 + random.below(3) {
        let body = "x".repeat(random.below(3000));
        let length = body.len() + random.below(2) * 100_000;
        bytes.extend(
            match random.below(12) {
                0 => get("/v2/", ""),
                1 => get(&format!("/v2/a/blobs/{blob}"), ""),
                2 => get("/v2/a/manifests/long", ""),
                3 => get("/v2/", "Connection: close\r\n"),
                4 => get("/v2/", "X!#$: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n"),
                5 => format!("get / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n{body}"),
                6 => format!("GET /v2/ HTTP/1.1\nHost: x\n\n{body}"),
                7 => format!(
                    "PATCH {upload} HTTP/1.1\r\nHost: x\r\nX!: a\r\nTransfer-Encoding: \
                     chunked\r\n\r\n{length:x}\r\n{body}\r\n"
                ),
                8 => format!(
                    "PATCH {upload} HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n\
                     Content-Length: {length}\r\n\r\n{body}"
                ),
                9 => format!(
                    "PUT /v2/a/manifests/x HTTP/1.0\r\nConnection: keep-alive\r\n\
                     Content-Length: {length}\r\n\r\n{body}"
                ),
                10 => format!("POST /v2/a/blobs/uploads/ HTTP/1.0\r\n\r\n{body}"),
                _ => format!(
                    "PUT /v2/a/manifests/x HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\
                     Content-Length: {length}\r\n\r\n"
                ),
            }
            .bytes(),
        );
    }
    let cut = random.below(bytes.len() + 1);
    bytes.truncate(if random.below(4) == 0 { bytes.len() } else { cut });
    bytes
}

/// Opens `count` connections that fall silent. Whether all of them are closed when their limits are
/// over.
fn all_end(case: &Case, seed: u64, count: u64) -> bool {
    let blob = case.push(&vec![7; 12 << 20]);
    case.push_manifest("long", 4_000_000);
    let upload = case.raw(
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
        Content-Length: 0\r\n\r\n",
    );
    let upload =
        upload.lines().find_map(|line| line.strip_prefix("location: ")).unwrap().to_owned();
    wait("the connections before end", || (case.sockets() < 30).then_some(()));
    let before = case.sockets();
    let open: Vec<_> = (seed..seed + count)
        .map(|number| {
            let mut random = Random(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let bytes = requests(&mut random, &blob, &upload);
            let mut tcp = case.tcp();
            let sent =
                if case.tls { encrypted(case, &mut tcp, &bytes, &mut random) } else { bytes };
            // The server may have ended it already.
            let _ = tcp.write_all(&sent);
            tcp
        })
        .collect();
    // Whoever comes later is accepted later: all of them are the server's now.
    assert!(case.get("/v2/").starts_with("HTTP/1.1 200"));
    // One silence of each kind may follow another: a body's, its answer's twice, and the parting's.
    let deadline = Instant::now() + 5 * LIMIT + Duration::from_secs(6);
    while Instant::now() < deadline && case.sockets() > before {
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(open);
    let left = case.sockets().saturating_sub(before);
    if left > 0 {
        eprintln!("{left} of {count} connections from {seed} on are open");
    }
    left == 0
}

/// The bytes of a TLS client that sends these, cut anywhere, be it in the handshake.
fn encrypted(case: &Case, tcp: &mut TcpStream, bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let config = case.lab.client(None, &ALL);
    let mut session = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    let mut sent = Vec::new();
    if random.below(4) == 0 {
        session.write_tls(&mut sent).unwrap();
    } else {
        while session.is_handshaking() {
            session.complete_io(tcp).unwrap();
        }
        session.writer().write_all(bytes).unwrap();
        while session.wants_write() {
            session.write_tls(&mut sent).unwrap();
        }
    }
    let cut = random.below(sent.len() + 1);
    sent.truncate(if random.below(3) == 0 { cut } else { sent.len() });
    sent
}

#[test]
fn no_connection_is_open_after_its_limits() {
    for (tls, rounds, count) in [(false, 6, 400), (true, 3, 200)] {
        let case = Case::start(tls, &SHORT);
        for round in 0..rounds {
            assert!(all_end(&case, 1 + round * count, count), "tls: {tls}, round {round}");
        }
        assert!(case.get("/v2/").starts_with("HTTP/1.1 200"));
    }
}

#[test]
fn a_timer_that_is_left_out_is_noticed() {
    let mut environment = SHORT.to_vec();
    environment.push(("REGISTRY_FAILPOINTS", "connection-timer=off"));
    assert!(!all_end(&Case::start(false, &environment), 1, 40));
}

/// Fills the places with connections that rest. Whether another one gets in, and one that rested the
/// longest went.
fn gives_way(failpoints: &str) -> bool {
    let places = [("REGISTRY_LIMITS_CONNECTIONS", "8"), ("REGISTRY_FAILPOINTS", failpoints)];
    let case = Case::start(false, &places);
    let mut resting: Vec<_> = (0..40).map(|_| case.tcp()).collect();
    let mut buffer = [0; 1000];
    let mut answered = 0;
    for tcp in &mut resting {
        let _ = tcp.write_all(get("/v2/", "").as_bytes());
        answered += usize::from(matches!(tcp.read(&mut buffer), Ok(1..)));
    }
    // Those that said nothing for the longest went for the others.
    let mut last = case.tcp();
    last.write_all(get("/v2/", "").as_bytes()).unwrap();
    let read = last.read(&mut buffer).unwrap_or(0);
    answered > 0 && buffer[..read].starts_with(b"HTTP/1.1 200")
}

#[test]
fn the_connection_that_rests_the_longest_gives_way() {
    assert!(gives_way(""));
    assert!(!gives_way("give-way=off"), "not noticed");
}

/// Fills the places with uploads. Whether a probe is answered, and another request told why not.
fn probes_get_in(failpoints: &str) -> bool {
    let places = [("REGISTRY_LIMITS_CONNECTIONS", "8"), ("REGISTRY_FAILPOINTS", failpoints)];
    let case = Case::start(false, &places);
    let busy: Vec<_> = (0..8)
        .map(|_| {
            let mut tcp = case.tcp();
            let put =
                "PUT /v2/a/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{";
            tcp.write_all(put.as_bytes()).unwrap();
            tcp
        })
        .collect();
    // Until all of them are received from.
    std::thread::sleep(Duration::from_millis(500));
    let (probe, pull) = (case.get("/livez"), case.get("/v2/"));
    drop(busy);
    probe.starts_with("HTTP/1.1 200")
        && pull.starts_with("HTTP/1.1 503")
        && pull.contains("retry-after: ")
}

#[test]
fn probes_have_places_of_their_own() {
    assert!(probes_get_in(""));
    assert!(!probes_get_in("probe-places=off"), "not noticed");
}

#[test]
fn a_start_says_when_descriptors_are_too_few() {
    let enough = Case::start(false, &[("REGISTRY_LIMITS_CONNECTIONS", "10")]);
    assert!(!enough.server.log().contains("limit of open files"));
    let many = Case::start(false, &[("REGISTRY_LIMITS_CONNECTIONS", "600000000")]);
    assert!(many.server.log().contains("limit of open files is too low"));
}

#[test]
fn an_upload_that_pauses_for_too_long_is_told_where_to_go_on() {
    let case = Case::start(false, &[("REGISTRY_LIMITS_BODY", "1s")]);
    let start = "POST /v2/a/blobs/uploads/ HTTP/1.0\r\n\r\n";
    let upload = case.raw(start.as_bytes());
    assert!(upload.starts_with("HTTP/1.0 202"), "{upload}");
    let upload = upload.lines().find_map(|line| line.strip_prefix("location: ")).unwrap();
    let head = format!("PATCH {upload} HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n");
    let begun = Instant::now();
    let answer = case.raw(format!("{head}0123456789").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(begun.elapsed() >= Duration::from_millis(990), "{:?}", begun.elapsed());
    for line in ["range: 0-9", &format!("location: {upload}"), "connection: close"] {
        assert!(answer.lines().any(|other| other == line), "{line}: {answer}");
    }
    // One that is slow, but goes on, is not.
    let mut tcp = case.tcp();
    tcp.write_all(head.as_bytes()).unwrap();
    for _ in 0..6 {
        tcp.write_all(&[b'x'; 1500]).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut answer = [0; 12];
    tcp.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 202");
}

/// What so many readers of a manifest of 4.2 MB that read nothing cost, in bytes.
fn cost_of_slow_readers(count: usize, failpoints: &str) -> u64 {
    let case = Case::start(false, &[("REGISTRY_FAILPOINTS", failpoints)]);
    case.push_manifest("long", 4_200_000);
    assert!(case.get("/v2/a/manifests/long").starts_with("HTTP/1.1 200"));
    let before = case.memory();
    let readers: Vec<_> = (0..count)
        .map(|_| {
            let mut tcp = case.tcp();
            tcp.write_all(get("/v2/a/manifests/long", "").as_bytes()).unwrap();
            let mut start = [0; 12];
            tcp.read_exact(&mut start).unwrap();
            assert_eq!(&start, b"HTTP/1.1 200");
            tcp
        })
        .collect();
    let cost = case.memory().saturating_sub(before);
    drop(readers);
    cost
}

#[test]
fn slow_readers_of_a_long_manifest_hold_it_once() {
    let cost = cost_of_slow_readers(300, "");
    eprintln!("300 slow readers of a manifest of 4.2 MB: {} KiB", cost >> 10);
    assert!(cost < 50 << 20, "{cost}");
    let copies = cost_of_slow_readers(40, "share-manifests=off");
    assert!(copies > 50 << 20, "not noticed: {copies}");
}

#[test]
fn manifests_in_flight_are_bounded_and_short_ones_go_on() {
    let case = Case::start(false, &[("REGISTRY_LIMITS_MANIFESTS", "16MiB")]);
    let tags = ["one", "two", "three"];
    for tag in tags {
        case.push_manifest(tag, 4_200_000);
    }
    case.push_manifest("short", 100_000);
    let mut slow = Vec::new();
    for tag in &tags[..2] {
        let mut tcp = case.tcp();
        tcp.write_all(get(&format!("/v2/a/manifests/{tag}"), "").as_bytes()).unwrap();
        tcp.read_exact(&mut [0; 12]).unwrap();
        slow.push(tcp);
    }
    let third = case.get("/v2/a/manifests/three");
    assert!(third.starts_with("HTTP/1.1 503") && third.contains("retry-after: "), "{third:.300}");
    for tag in ["one", "short"] {
        assert!(case.get(&format!("/v2/a/manifests/{tag}")).starts_with("HTTP/1.1 200"), "{tag}");
    }
    drop(slow);
    wait("room", || case.get("/v2/a/manifests/three").starts_with("HTTP/1.1 200").then_some(()));
}

/// What a connection costs that stands still after `bytes`, in bytes.
fn cost_of_a_connection(tls: bool, count: usize, bytes: &str) -> u64 {
    let case = Case::start(tls, &[]);
    let mut plain = Vec::new();
    let mut encrypted = Vec::new();
    let mut before = 0;
    // The first half is for what is taken once.
    for half in 0..2 {
        for _ in 0..count / 2 {
            if tls {
                let mut client = case.tls();
                client.write_all(bytes.as_bytes()).unwrap();
                client.flush().unwrap();
                if bytes.ends_with("\r\n\r\n") {
                    client.read_exact(&mut [0; 12]).unwrap();
                }
                encrypted.push(client);
            } else {
                let mut client = case.tcp();
                client.write_all(bytes.as_bytes()).unwrap();
                if bytes.ends_with("\r\n\r\n") {
                    client.read_exact(&mut [0; 12]).unwrap();
                }
                plain.push(client);
            }
        }
        std::thread::sleep(Duration::from_millis(300));
        if half == 0 {
            before = case.memory();
        }
    }
    case.memory().saturating_sub(before) / (count as u64 / 2)
}

#[test]
fn connections_that_stand_still_cost_little() {
    let request = get("/v2/", "");
    for (tls, bytes, most) in [
        (false, &*request, 8 << 10),
        (false, "GET /v2/ HTTP/1.1\r\nHo", 8 << 10),
        (false, "", 8 << 10),
        (true, &*request, 24 << 10),
        (true, "GET /v2/ HTTP/1.1\r\nHo", 24 << 10),
    ] {
        let cost = cost_of_a_connection(tls, if tls { 600 } else { 2000 }, bytes);
        eprintln!("tls: {tls}, after {} bytes: {cost} bytes each", bytes.len());
        assert!(cost < most, "tls: {tls}, after {bytes:?}: {cost}");
    }
}

/// Cuts the file of a blob that is being sent. Whether the answers end, the blob is served no more,
/// and others are answered.
fn an_end_ends(tls: bool, failpoints: &str) -> bool {
    let case = Case::start(tls, &[("REGISTRY_FAILPOINTS", failpoints)]);
    let digest = case.push(&vec![3; 48 << 20]);
    let request = get(&format!("/v2/a/blobs/{digest}"), "");
    let mut slow: Vec<_> = (0..4)
        .map(|_| {
            let mut start = [0; 12];
            if tls {
                let mut client = case.tls();
                client.write_all(request.as_bytes()).unwrap();
                client.flush().unwrap();
                client.read_exact(&mut start).unwrap();
                (Some(client), None)
            } else {
                let mut client = case.tcp();
                client.write_all(request.as_bytes()).unwrap();
                client.read_exact(&mut start).unwrap();
                (None, Some(client))
            }
        })
        .collect();
    let hex = digest.hex();
    let file = case.server.root.join("blobs/sha256").join(&hex[..2]).join(hex);
    std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(0).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut lengths = Vec::new();
            for (encrypted, plain) in &mut slow {
                let mut bytes = Vec::new();
                if let Some(client) = encrypted {
                    let _ = client.sock.set_read_timeout(Some(Duration::from_secs(4)));
                    let _ = client.read_to_end(&mut bytes);
                } else if let Some(client) = plain {
                    let _ = client.read_to_end(&mut bytes);
                }
                lengths.push(bytes.len());
            }
            let _ = tell.send(lengths.iter().all(|length| *length < 48 << 20));
        });
        let short = told.recv_timeout(Duration::from_secs(30)) == Ok(true);
        let (tell, told) = std::sync::mpsc::channel();
        let (case, digest) = (&case, &digest);
        // Enough to meet every worker.
        for _ in 0..4 {
            let tell = tell.clone();
            scope.spawn(move || {
                let head = format!(
                    "HEAD /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
                );
                let mut answer = String::new();
                for _ in 0..50 {
                    answer = match tls {
                        true => probe_tls(case, &head),
                        false => case.raw(head.as_bytes()),
                    };
                    if answer.starts_with("HTTP/1.1 404") || answer.is_empty() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
                let _ = tell.send(answer.starts_with("HTTP/1.1 404"));
            });
        }
        short && (0..4).all(|_| told.recv_timeout(Duration::from_secs(10)) == Ok(true))
    })
}

/// The answer to a request over TLS, or nothing where the server says nothing.
fn probe_tls(case: &Case, request: &str) -> String {
    let tcp = case.tcp();
    tcp.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let Ok(mut client) = connect(tcp, case.lab.client(None, &ALL)) else { return String::new() };
    let mut answer = Vec::new();
    let _ = client.write_all(request.as_bytes()).and_then(|()| client.flush());
    let _ = client.read_to_end(&mut answer);
    let _ = client.sock.shutdown(Shutdown::Both);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_file_that_ends_while_it_is_sent_ends_the_answer_and_hurts_nobody_else() {
    assert!(an_end_ends(false, ""));
    assert!(an_end_ends(true, ""));
    assert!(!an_end_ends(true, "zero-bytes=off"), "not noticed");
}
