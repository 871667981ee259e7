//! Memory, time to start, and cost per request of a registry that holds and does much.
//!
//! Sizes are those that a test run can afford; `ROADSTEAD_FULL=1` takes the promised ones.

use std::io::{self, Read, Write as _};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use conformance::http::{Body, Connection, Request};
use conformance::image::{OCI_EMPTY, OCI_INDEX, hex, noise, open_upload, push_blob, with_query};
use conformance::registry::{Options, Registry};
use serde_json::json;
use sha2::{Digest as _, Sha256};

const MIB: u64 = 1 << 20;

fn full() -> bool {
    std::env::var_os("ROADSTEAD_FULL").is_some()
}

#[test]
fn idle_it_is_small() -> Result<()> {
    let mut registry = Registry::start(Options::default())?;
    push_blob(&registry, "a", &noise(1, 1 << 20))?;
    let resident = registry.server().memory()?.resident_bytes / MIB;
    ensure!(resident < 20, "{resident} MiB resident");
    Ok(())
}

#[test]
fn many_pushes_at_once_take_little_memory() -> Result<()> {
    let mut registry = Registry::start(Options::default())?;
    let size = if full() { 256 * MIB } else { 12 * MIB };
    registry.server().reset_peak()?;
    thread::scope(|scope| {
        let pushes: Vec<_> = (0..64)
            .map(|n| {
                let registry = &registry;
                scope.spawn(move || stream_blob(registry, Bytes::new(n, size)))
            })
            .collect();
        pushes.into_iter().try_for_each(|push| push.join().expect("no panic"))
    })?;
    let peak = registry.server().memory()?.peak_bytes / MIB;
    println!("64 pushes of {} MiB: {peak} MiB at most", size / MIB);
    ensure!(peak < 150, "{peak} MiB");
    Ok(())
}

#[test]
fn a_huge_layer_flows_through() -> Result<()> {
    let mut registry = Registry::start(Options::default())?;
    let size = if full() { 10 << 30 } else { 2 << 30 };
    registry.server().reset_peak()?;
    let bytes = Bytes::new(7, size);
    let digest = bytes.digest();
    stream_blob(&registry, bytes)?;
    let mut hasher = Hasher(Sha256::new());
    let target = format!("/v2/a/blobs/{digest}");
    Connection::open(registry.address())?
        .exchange_into(Request::new("GET", &target), &mut hasher)?
        .expect(200)?;
    ensure!(digest == format!("sha256:{}", hex(&hasher.0.finalize())), "other bytes");
    let peak = registry.server().memory()?.peak_bytes / MIB;
    println!("a layer of {} MiB: {peak} MiB at most", size / MIB);
    ensure!(peak < 40, "{peak} MiB");
    Ok(())
}

#[test]
fn much_stored_costs_neither_start_nor_requests() -> Result<()> {
    let mut registry = Registry::start(Options::default())?;
    let many = if full() { 100_000 } else { 20_000 };
    for name in ["begin", "few"] {
        fill(&registry, |n| (name.to_owned(), index(n, "few")), 100)?;
    }
    fill(&registry, |n| (format!("r/{n:06}"), index(n, "few")), 100)?;
    let small: Vec<_> =
        CASES.iter().map(|(_, line)| typical(&registry, "begin", *line)).collect::<Result<_>>()?;

    let of = |n| if n < 100 { "few" } else { "many" };
    fill(&registry, |n| ("many".to_owned(), index(n, of(n))), many)?;
    let repositories = if full() { 100_000 } else { 10_000 };
    fill(&registry, |n| (format!("s/{n:06}"), index(n, "few")), repositories)?;
    registry.crash_and_restart()?;
    let ready = registry.ready_after();
    println!("ready after {ready:?} with {} manifests", many + repositories);
    ensure!(ready < Duration::from_secs(1), "ready after {ready:?}");

    println!("{many} tags, {repositories} repositories:");
    for ((what, line), small) in CASES.iter().zip(small) {
        is_flat(&registry, what, *line, small)?;
    }
    pages_of_referrers_cost_the_same(&registry)
}

/// Whether requests cost what they did when little was stored, and the same with few and with many
/// tags. What else the machine does may spoil a series, but not three.
fn is_flat(registry: &Registry, what: &str, line: Maker, small: Duration) -> Result<()> {
    let mut result = Ok(());
    for first in (0..SAMPLES).step_by(SERIES) {
        let (few, much) = in_turns(registry, line, first..first + SERIES)?;
        result = flat(&format!("{what} by repositories"), small, few)
            .and_then(|()| flat(&format!("{what} by tags"), few, much));
        if result.is_ok() {
            break;
        }
    }
    result
}

fn pages_of_referrers_cost_the_same(registry: &Registry) -> Result<()> {
    let first = format!("/v2/many/referrers/{}", subject("many"));
    let page = registry.get(&first)?.expect(200)?;
    // What containerd and crane read, who take no second page.
    ensure!(page.body.len() <= 4 * 1048 * 1048, "a page of {} bytes", page.body.len());
    let link = page.need("link").context("a first page of many referrers")?;
    let second = link.trim_start_matches('<').split('>').next().context("a link")?.to_owned();
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..9 {
        for (target, times) in [&first, &second].into_iter().zip(&mut times) {
            let mut connection = Connection::open(registry.address())?;
            times.push(once(&mut connection, get(target.as_str()))?);
        }
    }
    let [first, second] = times.each_mut().map(|times| quartile(times));
    flat("a second page of referrers", first, second)
}

/// Fails when `many` is more than twice `few`.
fn flat(what: &str, few: Duration, many: Duration) -> Result<()> {
    println!("{what}: {few:?} with few, {many:?} with many");
    // Below the slack it is the machine that is measured.
    ensure!(many < few * 2 + Duration::from_micros(200), "{what}: {few:?}, then {many:?}");
    Ok(())
}

#[test]
fn slow_clients_are_cut_and_hurt_nobody() -> Result<()> {
    let registry = Registry::start(Options::default())?;
    push_blob(&registry, "a", b"{}")?;
    let mut slow = Vec::new();
    for _ in 0..2000 {
        let mut stream = TcpStream::connect(registry.address())?;
        stream.write_all(b"GET /v2/ HTTP/1.1\r\nX: ")?;
        stream.set_nonblocking(true)?;
        slow.push(stream);
    }
    let started = Instant::now();
    let mut worst = Duration::ZERO;
    while !slow.is_empty() {
        ensure!(started.elapsed() < Duration::from_secs(40), "{} are not cut", slow.len());
        slow.retain_mut(|stream| stream.write_all(b"a").is_ok() && !is_closed(stream));
        let asked = Instant::now();
        registry.get("/v2/")?.expect(200)?;
        worst = worst.max(asked.elapsed());
        thread::sleep(Duration::from_millis(500));
    }
    println!("all cut after {:?}; a good client waited {worst:?} at most", started.elapsed());
    ensure!(worst < Duration::from_secs(1), "a good client waited {worst:?}");
    Ok(())
}

/// Whether the server has closed a connection; what it said before is read and dropped.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

/// Method, target, body.
type Line = (&'static str, String, Option<Vec<u8>>);

/// Makes the n-th request to a repository.
type Maker = fn(&str, usize) -> Line;

/// What must cost the same however much is stored.
const CASES: [(&str, Maker); 7] = [
    ("GET", |name, n| get(format!("/v2/{name}/manifests/t{:06}", n % 100))),
    ("HEAD", |name, n| ("HEAD", format!("/v2/{name}/manifests/t{:06}", n % 100), None)),
    ("tags", |name, _| get(format!("/v2/{name}/tags/list?n=100"))),
    ("catalog", |_, _| get("/v2/_catalog?n=100")),
    ("referrers", |name, _| get(format!("/v2/{name}/referrers/{}", subject("few")))),
    ("PUT", |name, n| {
        ("PUT", format!("/v2/{name}/manifests/new"), Some(index(1 << 30 | n, "new")))
    }),
    // Last, because it takes away what the others ask for.
    ("DELETE", |name, n| ("DELETE", format!("/v2/{name}/manifests/t{n:06}"), None)),
];

fn get(target: impl Into<String>) -> Line {
    ("GET", target.into(), None)
}

/// Requests that are timed; not more than there are tags in the smaller repository.
const SAMPLES: usize = 90;
const SERIES: usize = 30;

/// Times of the same request to `few` and to `many`, in turns.
fn in_turns(
    registry: &Registry,
    line: Maker,
    samples: Range<usize>,
) -> Result<(Duration, Duration)> {
    let mut connection = Connection::open(registry.address())?;
    let mut times = [Vec::new(), Vec::new()];
    for n in samples {
        for (name, times) in ["few", "many"].into_iter().zip(&mut times) {
            times.push(once(&mut connection, line(name, n))?);
        }
    }
    Ok((quartile(&mut times[0]), quartile(&mut times[1])))
}

fn typical(registry: &Registry, name: &str, line: Maker) -> Result<Duration> {
    let mut connection = Connection::open(registry.address())?;
    let times: Result<Vec<_>> =
        (0..SAMPLES).map(|n| once(&mut connection, line(name, n))).collect();
    Ok(quartile(&mut times?))
}

/// The time that a quarter of the requests took less than: what the machine does besides moves a
/// median.
fn quartile(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 4]
}

fn once(connection: &mut Connection, (method, target, body): Line) -> Result<Duration> {
    let mut request = Request::new(method, &target);
    if let Some(body) = &body {
        request = request.header("Content-Type", OCI_INDEX).bytes(body);
    }
    let started = Instant::now();
    let answer = connection.exchange(request)?;
    let took = started.elapsed();
    ensure!((200..300).contains(&answer.status), "{method} {target}: {answer:?}");
    Ok(took)
}

/// What stored manifests refer to, by a name of ours; absent, as the specification allows.
fn subject(name: &str) -> String {
    format!("sha256:{}", hex(&Sha256::digest(name)))
}

/// An index without children, so that it needs no blobs.
fn index(n: usize, of: &str) -> Vec<u8> {
    let subject = json!({"mediaType": OCI_INDEX, "digest": subject(of), "size": 2});
    let index = json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX, "artifactType": OCI_EMPTY, "manifests": [],
        "subject": subject, "annotations": {"n": n.to_string()},
    });
    index.to_string().into_bytes()
}

/// Pushes `count` indexes with a tag each, by 32 clients.
fn fill(
    registry: &Registry,
    place: impl Fn(usize) -> (String, Vec<u8>) + Sync,
    count: usize,
) -> Result<()> {
    const CLIENTS: usize = 32;
    let client = |first: usize| -> Result<()> {
        let mut connection = Connection::open(registry.address())?;
        for n in (first..count).step_by(CLIENTS) {
            let (name, manifest) = place(n);
            let target = format!("/v2/{name}/manifests/t{n:06}");
            once(&mut connection, ("PUT", target, Some(manifest)))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let client = &client;
        let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || client(n))).collect();
        clients.into_iter().try_for_each(|client| client.join().expect("no panic"))
    })
}

/// Streams a blob in one PUT.
fn stream_blob(registry: &Registry, bytes: Bytes) -> Result<()> {
    let location = open_upload(registry, "a")?;
    let target = with_query(&location, &format!("digest={}", bytes.digest()));
    let mut reader = bytes.clone();
    Request::new("PUT", &target)
        .header("Content-Type", "application/octet-stream")
        .body(Body::Stream(bytes.left, &mut reader))
        .send(registry.address())?
        .expect(201)?;
    Ok(())
}

/// So many bytes that differ from those of another seed and are cheap to make.
#[derive(Clone)]
struct Bytes {
    seed: u64,
    left: u64,
}

impl Bytes {
    fn new(seed: u64, length: u64) -> Self {
        Self { seed, left: length }
    }

    fn digest(&self) -> String {
        let mut hasher = Hasher(Sha256::new());
        io::copy(&mut self.clone(), &mut hasher).expect("neither side fails");
        format!("sha256:{}", hex(&hasher.0.finalize()))
    }
}

impl Read for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
        let noise = NOISE.get_or_init(|| noise(9, 1 << 20));
        // Where the bytes begin depends on the seed and on how many are left, never on how much is
        // read at a time.
        let at = ((self.seed.wrapping_mul(16_411)).wrapping_sub(self.left) % MIB) as usize;
        let length = buffer.len().min(1 << 20).min(usize::try_from(self.left).unwrap_or(1 << 20));
        let length = length.min((MIB as usize) - at);
        buffer[..length].copy_from_slice(&noise[at..at + length]);
        self.left -= length as u64;
        Ok(length)
    }
}

struct Hasher(Sha256);

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
