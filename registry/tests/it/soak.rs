//! Pushing, pulling, mounting, retagging, deleting and collecting at once, at full speed and with
//! seconds of grace: no push fails because of collection, nothing acknowledged becomes unreadable,
//! and the space of what was deleted comes back. With the grace, the rescue or the lock left out
//! the same test fails.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Client, Server, image, sound, wait};
use shared::Digest;

/// Two repositories, so that there is something to mount, and few layers, so that everybody needs
/// what somebody else has just deleted.
const REPOS: [&str; 2] = ["soak/a", "soak/b"];
const LAYERS: usize = 6;
const PUSHERS: usize = 4;

/// A push takes at most [`PAUSE_MAX_MS`] between finding a layer and naming
/// it, so that a slow machine has time left.
const GRACE: &str = "3s";
const PAUSE_MAX_MS: u64 = 1500;

/// A small generator, so that a failure can be run again with its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn layer(&mut self) -> Vec<u8> {
        layer(self.below(LAYERS as u64))
    }
}

fn layer(number: u64) -> Vec<u8> {
    format!("layer {number} ").repeat(2000).into_bytes()
}

/// What the clients saw.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    pushed: AtomicU64,
    pulled: AtomicU64,
    deleted: AtomicU64,
    mounted: AtomicU64,
    found: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Seen {
    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
        self.stop.store(true, Ordering::Release);
    }
}

/// Makes a layer present as clients do: HEAD, then mount, then upload.
fn ensure(
    client: &mut Client,
    seen: &Seen,
    random: &mut Random,
    repo: &str,
    bytes: &[u8],
) -> Result<(), String> {
    let digest = Digest::sha256(bytes);
    let path = format!("/v2/{repo}/blobs/{digest}");
    let other = if repo == REPOS[0] { REPOS[1] } else { REPOS[0] };
    let mount = |client: &mut Client| {
        let mounted = client.mount(repo, &digest, other).map_err(|error| error.to_string())?;
        let done = mounted.status == 201;
        seen.mounted.fetch_add(u64::from(done), Ordering::Relaxed);
        Ok::<bool, String>(done)
    };
    if random.below(8) == 0 && mount(client)? {
        return Ok(());
    }
    if client.head(&path).map_err(|error| error.to_string())?.status == 200 {
        seen.found.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    }
    if random.below(2) == 0 && mount(client)? {
        return Ok(());
    }
    let pushed = client.push_blob(repo, bytes).map_err(|error| error.to_string())?;
    if pushed.status == 201 { Ok(()) } else { Err(format!("PUT {path}: {}", pushed.status)) }
}

/// One image: its layers, a pause, its manifest, a pull.
fn push(
    client: &mut Client,
    seen: &Seen,
    random: &mut Random,
    serial: &str,
) -> Result<(&'static str, String), String> {
    let repo = REPOS[random.below(2) as usize];
    let config = format!("{{\"serial\":\"{serial}\"}}").into_bytes();
    let (one, two) = (random.layer(), random.layer());
    for bytes in [&one, &two, &config] {
        ensure(client, seen, random, repo, bytes)?;
    }
    if random.below(4) == 0 {
        std::thread::sleep(Duration::from_millis(random.below(PAUSE_MAX_MS)));
    }
    let manifest = image(&[&config, &one, &two]);
    let digest = Digest::sha256(manifest.as_bytes()).to_string();
    // By digest, or by a tag that everybody moves.
    let tag = format!("t{}", random.below(3));
    let reference = if random.below(2) == 0 { &digest } else { &tag };
    let pushed = client.push_manifest(repo, reference, &manifest).map_err(|e| e.to_string())?;
    if pushed.status != 201 {
        let body = String::from_utf8_lossy(&pushed.body).into_owned();
        return Err(format!("PUT {repo} {reference}: {} {body}", pushed.status));
    }
    seen.pushed.fetch_add(1, Ordering::Relaxed);
    Ok((repo, digest))
}

fn pusher(server: &Server, seen: &Seen, number: usize) {
    let mut client = server.client();
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (number as u64 + 1));
    let mut own: Vec<(&str, String)> = Vec::new();
    let mut serial = 0;
    while !seen.stop.load(Ordering::Acquire) {
        serial += 1;
        match push(&mut client, seen, &mut random, &format!("{number}-{serial}")) {
            Ok(image) => own.push(image),
            Err(error) => return seen.wrong(error),
        }
        // Only its pusher deletes an image, so until then it must be whole.
        let (repo, digest) = &own[random.below(own.len() as u64) as usize];
        if let Err(error) = client.pull(repo, digest) {
            return seen.wrong(error);
        }
        seen.pulled.fetch_add(1, Ordering::Relaxed);
        while own.len() > 1 + random.below(3) as usize {
            let (repo, digest) = own.swap_remove(random.below(own.len() as u64) as usize);
            match client.delete(&format!("/v2/{repo}/manifests/{digest}")) {
                Ok(answer) if answer.status == 202 => {}
                other => return seen.wrong(format!("DELETE {repo}@{digest}: {other:?}")),
            }
            seen.deleted.fetch_add(1, Ordering::Relaxed);
        }
    }
    for (repo, digest) in &own {
        if let Err(error) = client.pull(repo, digest) {
            return seen.wrong(error);
        }
    }
    for (repo, digest) in own {
        let _ = client.delete(&format!("/v2/{repo}/manifests/{digest}"));
    }
}

/// Pushes one blob over and over and deletes it: a deleted blob has no grace, so its removal and
/// its next push meet all the time.
fn flapper(server: &Server, seen: &Seen, number: usize) {
    let mut client = server.client();
    let mut random = Random(0x2545_f491_4f6c_dd1d ^ (number as u64 + 1));
    let bytes = format!("flap {number}").into_bytes();
    let path = format!("/v2/soak/flap/blobs/{}", Digest::sha256(&bytes));
    while !seen.stop.load(Ordering::Acquire) {
        match client.push_blob("soak/flap", &bytes) {
            Ok(answer) if answer.status == 201 => {}
            other => return seen.wrong(format!("PUT {path}: {other:?}")),
        }
        // Long enough for a removal that had begun before the push.
        std::thread::sleep(Duration::from_millis(random.below(60)));
        match client.get(&path) {
            Ok(answer) if answer.status == 200 && answer.body == bytes => {}
            other => return seen.wrong(format!("GET {path}: {other:?}")),
        }
        match client.delete(&path) {
            Ok(answer) if answer.status == 202 => {}
            other => return seen.wrong(format!("DELETE {path}: {other:?}")),
        }
        std::thread::sleep(Duration::from_millis(random.below(150)));
    }
}

/// Runs everything until something is wrong, or for so long. What was wrong.
fn soak(root: &Path, failpoints: &str, long: Duration) -> (Seen, Server) {
    let environment = [
        ("REGISTRY_GC_GRACE", GRACE),
        ("REGISTRY_GC_REVIEWDELAY", "1s"),
        ("REGISTRY_GC_INTERVAL", "100ms"),
        ("REGISTRY_FAILPOINTS", failpoints),
    ];
    let server = Server::start(root, &environment);
    let seen = Seen::default();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..PUSHERS {
            let (server, seen) = (&server, &seen);
            scope.spawn(move || pusher(server, seen, number));
            scope.spawn(move || flapper(server, seen, number));
        }
        while began.elapsed() < long && !seen.stop.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(20));
        }
        seen.stop.store(true, Ordering::Release);
    });
    (seen, server)
}

fn blobs_stored(root: &Path) -> usize {
    let shards = std::fs::read_dir(root.join("blobs/sha256")).unwrap();
    shards.map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap().count()).sum()
}

#[test]
fn collection_stops_nobody_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let (seen, server) = soak(&root, "", Duration::from_secs(12));
    assert_eq!(*seen.wrong.lock().unwrap(), Vec::<String>::new());
    let metrics = server.client().get("/metrics").unwrap();
    let metrics = String::from_utf8(metrics.body).unwrap();
    let metric = |name: &str| -> u64 {
        let line = metrics.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0)
    };
    let counts = [
        ("pushed", seen.pushed.load(Ordering::Relaxed)),
        ("pulled", seen.pulled.load(Ordering::Relaxed)),
        ("deleted", seen.deleted.load(Ordering::Relaxed)),
        ("layers found", seen.found.load(Ordering::Relaxed)),
        ("mounted", seen.mounted.load(Ordering::Relaxed)),
        ("condemned", metric("registry_gc_condemned_total")),
        ("rescued", metric("registry_gc_rescued_total")),
        ("freed", metric("registry_gc_deleted_total")),
    ];
    eprintln!("{counts:?}");
    for (what, count) in counts {
        assert!(count > 0, "nothing {what}: the test did not test");
    }
    // Everything was deleted: after the grace all of it is back.
    wait("the space comes back", || (blobs_stored(&root) == 0).then_some(()));
    server.stop();
    let report = sound(&root);
    assert_eq!(report["leftovers"], 0, "{report}");
}

/// Each of these must be noticed.
fn is_noticed(failpoints: &str) {
    let directory = tempfile::tempdir().unwrap();
    let (seen, _server) =
        soak(&directory.path().join("store"), failpoints, Duration::from_secs(60));
    let wrong = seen.wrong.lock().unwrap();
    assert!(!wrong.is_empty(), "{failpoints}: nothing went wrong");
    eprintln!("{failpoints}: {}", wrong[0]);
}

#[test]
fn without_the_grace_it_fails() {
    is_noticed("grace=off");
}

#[test]
fn without_the_rescue_it_fails() {
    is_noticed("rescue=off");
}

#[test]
fn without_the_lock_it_fails() {
    is_noticed("collect-lock=off;collect-begun=sleep");
}
