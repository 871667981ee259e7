//! Many clients at once, clumsy and hostile ones among them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use conformance::http::{Connection, Request};
use conformance::image::{self, noise, open_upload, push_blob, sha256};
use conformance::registry::{Options, Registry};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What is promised for a registry that does nothing.
const IDLE_BYTES_MAX: u64 = 20_000_000;
/// Connections that send half a head and then nothing.
const HALF_OPEN: usize = 10_000;
/// Half a head is cut after ten seconds; the rest is a busy machine's.
const CUT_WITHIN: Duration = Duration::from_secs(40);

fn start() -> anyhow::Result<Registry> {
    Registry::start(Options::default())
}

#[test]
fn the_same_blob_from_many_clients_is_one_file() -> anyhow::Result<()> {
    let registry = start()?;
    let bytes = noise(11, 3 << 20);
    let barrier = Barrier::new(8);
    std::thread::scope(|scope| {
        let push = |number: usize| {
            barrier.wait();
            push_blob(&registry, &format!("same/{}", number % 4), &bytes)
        };
        let clients: Vec<_> = (0..8).map(|number| scope.spawn(move || push(number))).collect();
        clients.into_iter().try_for_each(|client| client.join().expect("no panic").map(drop))
    })?;
    let digest = sha256(&bytes);
    for number in 0..4 {
        let got = registry.get(&format!("/v2/same/{number}/blobs/{digest}"))?.expect(200)?;
        ensure!(got.body == bytes);
    }
    let held = bytes_below(registry.data())?;
    let once = bytes.len() as u64;
    ensure!(held >= once && held < 2 * once, "{held} bytes for one blob of {once}");
    Ok(())
}

/// What the files in a directory hold together, without the database, whose log has its own size.
fn bytes_below(directory: &Path) -> anyhow::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let is_database = entry.file_name().to_string_lossy().contains(".db");
        // Files come and go under a running server.
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => sum += bytes_below(&entry.path())?,
            Ok(metadata) if !is_database => sum += metadata.len(),
            _ => {}
        }
    }
    Ok(sum)
}

#[test]
fn two_writers_of_one_upload_never_mix() -> anyhow::Result<()> {
    let registry = start()?;
    for round in 0..20 {
        let location = open_upload(&registry, "a")?;
        let pieces = [noise(100 + round, 300_000), noise(200 + round, 300_000)];
        let barrier = Barrier::new(2);
        let answers = std::thread::scope(|scope| {
            let send = |piece: &'_ [u8]| {
                barrier.wait();
                Request::new("PATCH", &location)
                    .header("Content-Range", "0-299999")
                    .bytes(piece)
                    .send(registry.address())
            };
            let writers: Vec<_> =
                pieces.iter().map(|piece| scope.spawn(move || send(piece))).collect();
            let answers = writers.into_iter().map(|writer| writer.join().expect("no panic"));
            answers.collect::<anyhow::Result<Vec<_>>>()
        })?;
        let accepted: Vec<usize> = (0..2).filter(|&at| answers[at].status == 202).collect();
        ensure!(accepted.len() == 1, "{} of two writers were accepted", accepted.len());
        let refused = answers[1 - accepted[0]].status;
        ensure!([409, 416].contains(&refused), "the other writer got {refused}");
        let winner = &pieces[accepted[0]];
        image::finish_upload(&registry, &location, &sha256(winner), b"")?;
        let got = registry.get(&format!("/v2/a/blobs/{}", sha256(winner)))?.expect(200)?;
        ensure!(got.body == *winner);
    }
    Ok(())
}

#[test]
fn an_idle_registry_is_small() -> anyhow::Result<()> {
    let mut registry = start()?;
    let bytes = noise(13, 32 << 20);
    let digest = push_blob(&registry, "a", &bytes)?;
    ensure!(registry.get(&format!("/v2/a/blobs/{digest}"))?.expect(200)?.body == bytes);
    registry.server().stop(Duration::from_secs(30))?;
    registry.restart()?;
    let memory = registry.server().memory()?;
    println!("idle: {} KiB resident", memory.resident_bytes / 1024);
    ensure!(memory.resident_bytes < IDLE_BYTES_MAX, "{memory:?}");
    Ok(())
}

#[test]
fn half_open_connections_are_cut_and_hurt_nobody() -> anyhow::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(most > HALF_OPEN as u64 + 100, "ulimit -Hn is {most}: this test needs more");
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let registry = start()?;
    let digest = push_blob(&registry, "a", &noise(14, 100_000))?;
    let target = format!("/v2/a/blobs/{digest}");
    let opened = Instant::now();
    let mut held = Vec::with_capacity(HALF_OPEN);
    for _ in 0..HALF_OPEN {
        let mut stream = TcpStream::connect(registry.address())?;
        stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: a\r\nX-Slow: ")?;
        held.push(stream);
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let start = Instant::now();
        registry.get(&target)?.expect(200)?;
        slowest = slowest.max(start.elapsed());
    }
    ensure!(slowest < Duration::from_secs(3), "a good client waited {slowest:?}");
    for stream in &mut held {
        let left = CUT_WITHIN.checked_sub(opened.elapsed()).context("they are not cut in time")?;
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => return Err(error).context("a connection is still open"),
        }
    }
    println!("{HALF_OPEN} cut after {:?}; a good client waited {slowest:?}", opened.elapsed());
    Ok(())
}

#[test]
fn a_body_that_stops_is_cut() -> anyhow::Result<()> {
    // Five minutes, unless told otherwise.
    let registry = Registry::start(Options::default().env("REGISTRY_LIMITS_BODY", "5s"))?;
    let location = open_upload(&registry, "a")?;
    let mut connection = Connection::open(registry.address())?;
    let head =
        format!("PATCH {location} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc");
    connection.stream().write_all(head.as_bytes())?;
    connection.stream().set_read_timeout(Some(Duration::from_secs(45)))?;
    let mut rest = Vec::new();
    let ended = connection.stream().read_to_end(&mut rest);
    let is_cut = match ended {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    ensure!(is_cut, "a body of which nothing more came was waited for");
    ensure!(rest.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&rest));
    registry.get("/v2/")?.expect(200)?;
    Ok(())
}
