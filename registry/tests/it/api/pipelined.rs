//! Several requests at once on one connection: each gets its own whole answer, in order, however
//! the bytes were cut and however long a handler takes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use shared::Digest;

use crate::api::harness::{Answer, Registry};

/// Reads the answers of a connection one by one.
struct Answers {
    tcp: TcpStream,
    bytes: Vec<u8>,
}

impl Answers {
    /// The answer to one request; `method` says whether it has a body.
    #[track_caller]
    fn next(&mut self, method: &str) -> Answer {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(mut answer) = Answer::parse(&self.bytes) {
                let head = self.bytes.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
                let length =
                    answer.header("content-length").map_or(0, |text| text.parse().unwrap());
                let length = if method == "HEAD" { 0 } else { length };
                if answer.body.len() >= length {
                    answer.body.truncate(length);
                    self.bytes.drain(..head + length);
                    return answer;
                }
            }
            let mut buffer = [0; 65536];
            let read = self.tcp.read(&mut buffer).unwrap();
            let so_far = String::from_utf8_lossy(&self.bytes);
            assert!(read > 0 && Instant::now() < deadline, "{method}: only {so_far:?}");
            self.bytes.extend(&buffer[..read]);
        }
    }

    /// Closes; nothing may be left.
    #[track_caller]
    fn end(mut self) {
        self.tcp.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = self.tcp.read_to_end(&mut self.bytes);
        assert_eq!(String::from_utf8_lossy(&self.bytes), "");
    }
}

fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n")
}

/// A registry with a page of tags, whose handler waits for the disk, and its connection.
fn start() -> (Registry, Answers, Vec<u8>) {
    let registry = Registry::start();
    registry.push_image("a", "v1", b"{}");
    let page = registry.get(TAGS).expect(200).body;
    let tcp = registry.connect();
    tcp.set_nodelay(true).unwrap();
    (registry, Answers { tcp, bytes: Vec::new() }, page)
}

const TAGS: &str = "/v2/a/tags/list";

#[test]
fn a_head_behind_a_get_that_waits_leaves_the_gets_body_alone() {
    let (_registry, mut answers, page) = start();
    for pause in [None, Some(0), Some(20), Some(50), Some(100), Some(200), Some(500)] {
        for _ in 0..20 {
            let (get, head) = (request("GET", TAGS), request("HEAD", TAGS));
            match pause {
                None => answers.tcp.write_all(format!("{get}{head}").as_bytes()).unwrap(),
                Some(micros) => {
                    answers.tcp.write_all(get.as_bytes()).unwrap();
                    std::thread::sleep(Duration::from_micros(micros));
                    answers.tcp.write_all(head.as_bytes()).unwrap();
                }
            }
            assert_eq!(answers.next("GET").expect(200).body, page, "{pause:?}");
            let head = answers.next("HEAD").expect(200);
            assert_eq!(head.header("content-length"), Some(page.len().to_string().as_str()));
        }
    }
    answers.end();
}

#[test]
fn what_a_pipelined_request_asks_of_the_connection_is_its_own() {
    let (_registry, mut answers, page) = start();
    let last = request("GET", TAGS).replace("Host", "Connection: close\r\nHost");
    answers.tcp.write_all(format!("{}{last}", request("GET", TAGS)).as_bytes()).unwrap();
    let first = answers.next("GET").expect(200);
    assert_eq!((first.header("connection"), &first.body), (None, &page));
    let second = answers.next("GET").expect(200);
    assert_eq!((second.header("connection"), &second.body), (Some("close"), &page));
    answers.end();
}

#[test]
fn many_requests_in_any_pieces_are_answered_in_order() {
    let (registry, mut answers, page) = start();
    let content = vec![b'x'; 200_000];
    let blob = format!("/v2/a/blobs/{}", registry.push_blob("a", &content));
    let kinds = [("GET", TAGS), ("HEAD", TAGS), ("GET", "/v2/"), ("GET", &blob), ("HEAD", &blob)];
    let requests: Vec<_> = kinds.iter().cycle().take(40).collect();
    let text: String = requests.iter().map(|(method, path)| request(method, path)).collect();
    for step in [text.len(), 1000, 61, 7] {
        let (mut sender, text) = (answers.tcp.try_clone().unwrap(), text.clone());
        let sending = std::thread::spawn(move || {
            for piece in text.as_bytes().chunks(step) {
                sender.write_all(piece).unwrap();
            }
        });
        for (method, path) in &requests {
            let answer = answers.next(method).expect(200);
            let whole = match *path {
                TAGS => &page,
                "/v2/" => &b"{}".to_vec(),
                _ => &content,
            };
            assert_eq!(answer.header("content-length"), Some(&*whole.len().to_string()));
            assert!(*method == "HEAD" || answer.body == *whole, "{method} {path} by {step}");
        }
        sending.join().unwrap();
    }
    answers.end();
}

#[test]
fn a_request_behind_a_body_is_answered_when_the_bodys_has_its_answer() {
    let (registry, mut answers, page) = start();
    // A body that actix reads, one that is taken past it, and a chunked one.
    for (length, chunked) in [(1000, false), (100_000, false), (100_000, true)] {
        let content = vec![length as u8; length];
        let location = registry.start_upload("a");
        let digest = Digest::sha256(&content);
        let framing = match chunked {
            true => "Transfer-Encoding: chunked".to_owned(),
            false => format!("Content-Length: {length}"),
        };
        let mut bytes = request("GET", TAGS).into_bytes();
        bytes.extend(
            format!("PUT {location}?digest={digest} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n")
                .bytes(),
        );
        if chunked {
            bytes.extend(format!("{length:x}\r\n").bytes().chain(content.iter().copied()));
            bytes.extend(b"\r\n0\r\n\r\n");
        } else {
            bytes.extend(&content);
        }
        bytes.extend(request("GET", TAGS).bytes().chain(request("HEAD", TAGS).bytes()));
        answers.tcp.write_all(&bytes).unwrap();
        assert_eq!(answers.next("GET").expect(200).body, page);
        answers.next("PUT").expect(201);
        assert_eq!(answers.next("GET").expect(200).body, page);
        answers.next("HEAD").expect(200);
        let blob = registry.get(&format!("/v2/a/blobs/{digest}")).expect(200);
        assert_eq!(blob.body, content);
    }
    answers.end();
}

#[test]
fn what_is_no_request_waits_for_the_answer_before_it_too() {
    let (_registry, mut answers, page) = start();
    let text = format!("{}garbage\r\n\r\n", request("GET", TAGS));
    answers.tcp.write_all(text.as_bytes()).unwrap();
    assert_eq!(answers.next("GET").expect(200).body, page);
    answers.next("GET").expect(400);
}

#[test]
fn a_client_that_sends_all_and_ends_gets_every_answer() {
    let (_registry, mut answers, page) = start();
    answers.tcp.write_all(request("GET", TAGS).repeat(3).as_bytes()).unwrap();
    answers.tcp.shutdown(std::net::Shutdown::Write).unwrap();
    for _ in 0..3 {
        assert_eq!(answers.next("GET").expect(200).body, page);
    }
}

#[test]
fn a_connection_that_rests_is_not_taken_for_a_slow_head() {
    let registry = Registry::start_with(|config| config.limits.head = Duration::from_millis(200));
    registry.push_image("a", "v1", b"{}");
    for path in ["/v2/", TAGS, "/v2/a/manifests/v1"] {
        let mut answers = Answers { tcp: registry.connect(), bytes: Vec::new() };
        for _ in 0..3 {
            answers.tcp.write_all(request("GET", path).as_bytes()).unwrap();
            answers.next("GET").expect(200);
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

#[test]
fn part_of_a_head_on_a_connection_that_was_used_is_not_waited_for() {
    let registry = Registry::start_with(|config| config.limits.head = Duration::from_millis(300));
    registry.push_image("a", "v1", b"{}");
    for path in ["/v2/", TAGS] {
        let mut answers = Answers { tcp: registry.connect(), bytes: Vec::new() };
        answers.tcp.write_all(request("GET", path).as_bytes()).unwrap();
        answers.next("GET").expect(200);
        let begun = Instant::now();
        answers.tcp.write_all(b"GET /v2/ HTTP/1.1\r\n").unwrap();
        let _ = answers.tcp.read_to_end(&mut answers.bytes);
        assert!(begun.elapsed() < Duration::from_secs(10), "{path}");
    }
}
