//! Clients that mean no good, or are broken.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use shared::Digest;

use crate::api::harness::{Answer, Registry, wait_for};

#[test]
fn garbage_is_answered_and_nothing_falls_over() {
    let registry = Registry::start();
    for request in [
        &b"\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v2/ HTTP/9.9\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v2/\xff\xfe/tags/list HTTP/1.1\r\n\r\n",
    ] {
        let mut tcp = registry.connect();
        tcp.write_all(request).unwrap();
        tcp.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer);
        if let Some(answer) = Answer::parse(&answer) {
            assert!((400..500).contains(&answer.status) || answer.status == 202, "{answer:?}");
        }
    }
    let long = format!("GET /v2/{} HTTP/1.1\r\nConnection: close\r\n\r\n", "a/".repeat(100_000));
    registry.raw(long.as_bytes());
    registry.get("/v2/").expect(200);
}

#[test]
fn a_head_that_is_too_long_is_refused() {
    let registry = Registry::start();
    let get = "GET /v2/ HTTP/1.1\r\nHost: x\r\n";
    let name = format!("{get}{}: y\r\n\r\n", "x".repeat(70_000));
    let value = format!("{get}X: {}\r\n\r\n", "x".repeat(300_000));
    for long in [name.clone(), value, format!("{get}\r\n{name}")] {
        let answer = String::from_utf8(registry.raw(long.as_bytes())).unwrap();
        let last = answer.rsplit("HTTP/1.1 ").next().unwrap();
        assert!(last.starts_with("400 "), "{answer}");
    }
    let fits = format!("{get}Connection: close\r\nX: {}\r\n\r\n", "x".repeat(30_000));
    assert_eq!(Answer::parse(&registry.raw(fits.as_bytes())).unwrap().status, 200);
}

#[test]
fn a_head_that_does_not_arrive_is_not_waited_for() {
    let limit = Duration::from_millis(300);
    let registry = Registry::start_with(|config| config.limits.head = limit);
    // On a new connection, on one that has served a request, and on one that says nothing.
    for (first, dribbles) in
        [("", true), ("GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", true), ("", false)]
    {
        let mut tcp = registry.connect();
        tcp.write_all(first.as_bytes()).unwrap();
        if !first.is_empty() {
            let mut buffer = [0; 1000];
            let read = tcp.read(&mut buffer).unwrap();
            assert_eq!(Answer::parse(&buffer[..read]).unwrap().status, 200);
        }
        let begun = Instant::now();
        let mut dribble = tcp.try_clone().unwrap();
        let writer = std::thread::spawn(move || {
            if !dribbles {
                return;
            }
            let _ = dribble.write_all(b"GET /v2/ HTTP/1.1\r\nX: ");
            while dribble.write_all(b"a").is_ok() && begun.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let _ = tcp.read_to_end(&mut Vec::new());
        assert!(begun.elapsed() >= limit - Duration::from_millis(50), "cut early: {first:?}");
        assert!(begun.elapsed() < Duration::from_secs(10), "the connection was cut");
        writer.join().unwrap();
    }
}

#[test]
fn an_idle_connection_is_closed() {
    let registry = Registry::start_with(|config| config.limits.idle = Duration::from_millis(300));
    let mut tcp = registry.connect();
    tcp.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let begun = Instant::now();
    let mut rest = Vec::new();
    tcp.read_to_end(&mut rest).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(Answer::parse(&rest).unwrap().status, 200);
}

#[test]
fn a_client_that_takes_no_answer_is_cut() {
    let registry = Registry::start_with(|config| config.limits.write = Duration::from_millis(500));
    let digest = registry.push_blob("a", &vec![1; 64 << 20]);
    let mut tcp = registry.connect();
    write!(tcp, "GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let metric = || {
        let text = String::from_utf8(registry.get("/metrics").expect(200).body).unwrap();
        text.contains("registry_http_in_flight_requests{handler=\"blob\"} 0")
    };
    std::thread::sleep(Duration::from_millis(200));
    wait_for("cutting the connection", metric);
    // One that reads slowly, but reads, is served to the end.
    let mut tcp = registry.connect();
    let digest = registry.push_blob("a", &vec![2; 12 << 20]);
    write!(tcp, "GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let (mut total, mut buffer) = (0, vec![0; 1 << 20]);
    loop {
        std::thread::sleep(Duration::from_millis(100));
        match tcp.read(&mut buffer).unwrap() {
            0 => break,
            read => total += read,
        }
    }
    assert!(total > 12 << 20, "{total}");
}

#[test]
fn an_early_refusal_reaches_a_client_that_still_sends() {
    let registry = Registry::start();
    let mut tcp = registry.connect();
    let length = 64 << 20;
    write!(tcp, "PUT /v2/a/manifests/t HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n")
        .unwrap();
    let mut sender = tcp.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        let piece = vec![b'x'; 1 << 20];
        (0..64).all(|_| sender.write_all(&piece).is_ok())
    });
    let mut answer = Vec::new();
    let _ = tcp.read_to_end(&mut answer);
    assert_eq!(Answer::parse(&answer).map(|answer| answer.status), Some(413));
    writer.join().unwrap();
}

#[test]
fn an_upload_that_is_given_up_by_a_delete_stops() {
    let registry = Registry::start();
    let location = registry.start_upload("a");
    let mut tcp = registry.connect();
    write!(tcp, "PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
        .unwrap();
    tcp.write_all(&vec![0; 1 << 20]).unwrap();
    wait_for("bytes to arrive", || {
        registry.get(&location).header("range").is_some_and(|range| range != "0-0")
    });
    registry.delete(&location).expect(204);
    let mut sender = tcp.try_clone().unwrap();
    let writer = std::thread::spawn(move || while sender.write_all(&[0; 1 << 16]).is_ok() {});
    let mut answer = Vec::new();
    let _ = tcp.read_to_end(&mut answer);
    drop(tcp);
    writer.join().unwrap();
    assert_eq!(Answer::parse(&answer).map(|answer| answer.status), Some(404));
    registry.get(&format!("/v2/a/blobs/{}", Digest::sha256(b""))).expect(404);
}

/// Each of these is answered as often as it holds requests, and what is hidden in a body is none.
#[test]
fn requests_are_found_where_they_are_and_nowhere_else() {
    let registry = Registry::start();
    let hidden = "POST /v2/hidden/blobs/uploads/ HTTP/1.1\r\nHost: x\r\n\r\n";
    let last = "GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let length = hidden.len();
    let chunk = format!("{length:x}\r\n{hidden}\r\n0\r\n\r\n");
    let long = format!("{hidden}{}", "x".repeat(70_000 - length));
    let unknown = "PATCH /v2/a/blobs/uploads/00000000-0000-4000-8000-000000000000";
    let with = |request: &str, fields: &str, body: &str| {
        format!("{request} HTTP/1.1\r\nHost: x\r\n{fields}\r\n{body}{last}")
    };
    let (get, mut wrong) = ("GET /v2/", Vec::new());
    for (bytes, statuses) in [
        (with(get, &format!("Content-Length: {length}\r\n"), hidden), &[200, 200][..]),
        (with(get, "Transfer-Encoding: chunked\r\n", &chunk), &[200, 200]),
        (with(unknown, "Transfer-Encoding: chunked\r\n", &chunk), &[404, 200]),
        (
            with(unknown, "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n", &chunk),
            &[404, 200],
        ),
        // Too long to be dropped: the connection ends instead.
        (with(unknown, "Content-Length: 700000\r\n", &long), &[404]),
        // What can be read in two ways.
        (with(get, "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", &chunk), &[400]),
        (with(get, &format!("Content-Length: {length}\r\nContent-Length: 0\r\n"), hidden), &[400]),
        (with(get, &format!("Content-Length: +{length}\r\n"), hidden), &[400]),
        (with(get, "Content-Length: 0, 0\r\n", hidden), &[400]),
        (with(get, "Transfer-Encoding : chunked\r\n", &chunk), &[400]),
        (with(get, "Transfer-Encoding:\r\n chunked\r\n", &chunk), &[400]),
        (with(get, "Transfer-Encoding: chunked, identity\r\n", &chunk), &[400]),
        (with(get, "Transfer-Encoding: xchunked\r\n", &chunk), &[400]),
        (with(get, "X: a\rTransfer-Encoding: chunked\r\n", &chunk), &[400]),
        (with(unknown, "Transfer-Encoding: chunked\r\n", &format!("0\r\n{hidden}")), &[404]),
        (with(unknown, "Transfer-Encoding: chunked\r\n", &format!("1 {chunk}")), &[404]),
        (
            format!("GET /v2/ HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"),
            &[400],
        ),
        // Behind an end, and behind what is no request, there is nothing more.
        (with(get, "Connection: close\r\n", ""), &[200]),
        (with(get, "", "no request\r\n\r\n"), &[200, 400]),
    ] {
        let answer = String::from_utf8(registry.raw(bytes.as_bytes())).unwrap();
        let seen: Vec<u16> = answer
            .split("HTTP/1.")
            .skip(1)
            .map(|part| part.split(' ').nth(1).unwrap().parse().unwrap())
            .collect();
        if seen != statuses {
            wrong.push(format!("{bytes:.200}: {seen:?} and not {statuses:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let uploads = std::fs::read_dir(registry.root().join("uploads")).unwrap().count();
    assert_eq!(uploads, 0, "a request in a body was one");
}
