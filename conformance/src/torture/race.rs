//! Collection at full speed beside clients that push, mount, retag and delete.
//!
//! The registry collects by itself, all the time. `docker-registry` has a command, which runs over
//! and over beside the server; its documentation wants the server stopped or read-only for that.
//! Every acknowledged image is pulled whole: now and then while its pusher still has it, and once
//! more after the race.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::Target;
use crate::http::{Connection, Request};
use crate::image::{
    OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Random, noise, path_of, sha256, with_query,
};
use crate::registry::{Program, Registry};
use crate::{process, wait};

/// Two repositories, so that there is something to mount.
const REPOS: [&str; 2] = ["race/a", "race/b"];
/// Few layers, so that everybody needs what somebody else has just deleted.
const LAYERS: u64 = 6;
const PUSHERS: usize = 4;
/// Images stored before the race, so that a collection has something to walk.
const STORED: usize = 200;
/// A pusher keeps at most so many images, so that layers often have nobody who names them.
const KEPT: usize = 3;

/// What came of a race.
#[derive(Clone, Debug, Default)]
pub struct Race {
    pub took: Duration,
    /// Images that somebody tried to push, and those of them that were acknowledged.
    pub tried: u64,
    pub acknowledged: u64,
    pub deleted: u64,
    /// Layers that were found present or mounted, which is what a collection can pull away.
    pub reused: u64,
    /// How often the peer's command ran; ours is always on.
    pub collections: Option<u64>,
    /// Pushes that were refused, without the client's fault.
    pub refused: u64,
    /// Pushes that were refused because this machine was too slow: more than the grace had passed
    /// since the first layer was looked for.
    pub late: u64,
    /// Acknowledged, not deleted, and not whole when it was pulled.
    pub broken: u64,
    pub examples: Vec<String>,
    /// Files of blobs that are left when everything has been deleted and collected.
    pub left: Option<usize>,
}

impl Race {
    fn example(&mut self, text: String) {
        if self.examples.len() < 20 {
            self.examples.push(text);
        }
    }
}

struct Shared {
    registry: Registry,
    grace: Option<Duration>,
    over: AtomicBool,
    race: Mutex<Race>,
}

impl Shared {
    fn with(&self, change: impl FnOnce(&mut Race)) {
        change(&mut self.race.lock().expect("no pusher panics with the lock held"));
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

/// Races for `long`, or with `until_broken` until something is refused or broken.
///
/// # Errors
/// When the registry cannot be started or the rig fails.
pub fn run(target: &Target, long: Duration, seed: u64, until_broken: bool) -> Result<Race> {
    let shared = Shared {
        registry: Registry::start(target.options()?)?,
        grace: target.has_collection().then_some(super::GRACE),
        over: AtomicBool::new(false),
        race: Mutex::default(),
    };
    let mut stored = Pusher::new(&shared, seed);
    for number in 0..STORED as u64 {
        stored.push(&[LAYERS + number])?;
    }
    let mut pushers: Vec<Pusher<'_>> =
        (1..=PUSHERS as u64).map(|number| Pusher::new(&shared, seed + number)).collect();
    let began = Instant::now();
    let raced = thread::scope(|scope| {
        let workers: Vec<_> =
            pushers.iter_mut().map(|pusher| scope.spawn(|| pusher.work())).collect();
        let collector = scope.spawn(|| collect(&shared, target));
        while began.elapsed() < long && !workers.iter().all(|worker| worker.is_finished()) {
            thread::sleep(Duration::from_millis(20));
            let failed = |race: &Race| race.refused + race.broken > 0;
            if until_broken && failed(&shared.race.lock().expect("as above")) {
                break;
            }
        }
        shared.over.store(true, Ordering::Release);
        let results = workers.into_iter().map(|worker| worker.join().expect("no panic"));
        let results: Result<()> = results.collect();
        results.and(collector.join().expect("no panic"))
    });
    raced?;
    let took = began.elapsed();
    pushers.iter_mut().chain([&mut stored]).try_for_each(Pusher::end)?;
    drop((stored, pushers));
    finish(target, &shared, until_broken)?;
    let race = shared.race.into_inner().expect("as above");
    Ok(Race { took, ..race })
}

/// Runs the peer's collection over and over; ours is always on.
fn collect(shared: &Shared, target: &Target) -> Result<()> {
    while target.program == Program::DockerRegistry && !shared.is_over() {
        collect_once(shared)?;
        shared.with(|race| *race.collections.get_or_insert(0) += 1);
    }
    Ok(())
}

fn collect_once(shared: &Shared) -> Result<()> {
    let mut command = Command::new(crate::tool("docker-registry")?);
    command.arg("garbage-collect").arg(shared.registry.docker_registry_config());
    // It fails when a file goes away under it; that is a collection as well.
    process::run_for(Duration::from_secs(120), &mut command)?;
    Ok(())
}

/// Everything has been deleted: the space comes back.
fn finish(target: &Target, shared: &Shared, until_broken: bool) -> Result<()> {
    if until_broken {
        return Ok(());
    }
    let blobs = match target.program {
        Program::Roadstead => shared.registry.data().join("blobs"),
        Program::DockerRegistry => shared.registry.data().join("docker/registry/v2/blobs"),
    };
    if target.program == Program::DockerRegistry {
        collect_once(shared)?;
    } else {
        let limit = super::GRACE * 10;
        let _ = wait::until("the space", limit, || Ok((files(&blobs)? == 0).then_some(())));
    }
    let left = files(&blobs)?;
    shared.with(|race| race.left = Some(left));
    Ok(())
}

fn files(directory: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() { files(&entry.path())? } else { 1 };
    }
    Ok(count)
}

/// An image that was acknowledged: where, its digest, and its blobs' digests.
struct Stored {
    repo: &'static str,
    digest: String,
    blobs: Vec<String>,
}

struct Pusher<'s> {
    shared: &'s Shared,
    connection: Option<Connection>,
    random: Random,
    images: Vec<Stored>,
    /// Between the layers of the next image and its manifest.
    pause: Duration,
}

/// What became of a request, from the pusher's point of view.
type Push<T> = std::result::Result<T, String>;

impl<'s> Pusher<'s> {
    fn new(shared: &'s Shared, seed: u64) -> Self {
        let random = Random::new(seed.wrapping_mul(0x9e37_79b9));
        Self { shared, connection: None, random, images: Vec::new(), pause: Duration::ZERO }
    }

    fn work(&mut self) -> Result<()> {
        while !self.shared.is_over() {
            let layers = [self.random.next_u64() % LAYERS, self.random.next_u64() % LAYERS];
            if self.random.below(4) == 0 {
                // Long enough to meet collection, short enough to stay within the grace.
                self.pause = super::GRACE.mul_f64(self.random.below(100) as f64 / 200.0);
            }
            self.push(&layers)?;
            self.pause = Duration::ZERO;
            if self.random.below(2) == 0 {
                let index = self.random.below(self.images.len().max(1));
                if index < self.images.len() && !self.is_whole(index)? {
                    self.images.swap_remove(index);
                }
            }
            while self.images.len() > 1 + self.random.below(KEPT) {
                let index = self.random.below(self.images.len());
                self.delete(index)?;
            }
        }
        Ok(())
    }

    /// After the race: what is still there is whole; then it goes too.
    fn end(&mut self) -> Result<()> {
        while let Some(index) = self.images.len().checked_sub(1) {
            if self.is_whole(index)? {
                self.delete(index)?;
            } else {
                self.images.pop();
            }
        }
        Ok(())
    }

    /// Pushes an image of a config of its own and these layers.
    fn push(&mut self, layers: &[u64]) -> Result<()> {
        self.shared.with(|race| race.tried += 1);
        let began = Instant::now();
        match self.try_push(layers) {
            Ok(stored) => {
                self.shared.with(|race| race.acknowledged += 1);
                self.images.push(stored);
            }
            Err(why)
                if why.contains("MANIFEST_BLOB_UNKNOWN")
                    && self.shared.grace.is_some_and(|grace| began.elapsed() >= grace) =>
            {
                self.shared.with(|race| race.late += 1);
            }
            Err(why) => self.shared.with(|race| {
                race.refused += 1;
                race.example(format!("refused: {why}"));
            }),
        }
        Ok(())
    }

    fn try_push(&mut self, layers: &[u64]) -> Push<Stored> {
        let repo = REPOS[self.random.below(2)];
        let config = format!("{{\"serial\":{}}}", self.random.next_u64()).into_bytes();
        let mut contents = vec![config];
        contents.extend(layers.iter().map(|&number| noise(number, 20_000 + number as usize)));
        let mut blobs = Vec::new();
        for bytes in &contents {
            blobs.push(self.ensure(repo, bytes)?);
        }
        thread::sleep(self.pause);
        let manifest = manifest(&contents);
        let digest = sha256(&manifest);
        // By digest, or by a tag that everybody moves.
        let tag = format!("t{}", self.random.below(3));
        let reference = if self.random.below(2) == 0 { &digest } else { &tag };
        let target = format!("/v2/{repo}/manifests/{reference}");
        let request = Request::new("PUT", &target).header("Content-Type", OCI_MANIFEST);
        self.expect(request.bytes(&manifest), 201, &target)?;
        Ok(Stored { repo, digest, blobs })
    }

    /// Makes a layer present as clients do: look, then mount, then upload.
    fn ensure(&mut self, repo: &str, bytes: &[u8]) -> Push<String> {
        let digest = sha256(bytes);
        let path = format!("/v2/{repo}/blobs/{digest}");
        let (status, _, _) = self.ask(Request::new("HEAD", &path))?;
        if status == 200 {
            self.shared.with(|race| race.reused += 1);
            return Ok(digest);
        }
        let other = if repo == REPOS[0] { REPOS[1] } else { REPOS[0] };
        let target = match self.random.below(2) {
            0 => format!("/v2/{repo}/blobs/uploads/?mount={digest}&from={other}"),
            _ => format!("/v2/{repo}/blobs/uploads/"),
        };
        let (status, location, body) = self.ask(Request::new("POST", &target))?;
        match status {
            201 => {
                self.shared.with(|race| race.reused += 1);
                return Ok(digest);
            }
            202 => {}
            _ => return Err(format!("{target}: {status} {body}")),
        }
        let target = with_query(path_of(&location), &format!("digest={digest}"));
        let request =
            Request::new("PUT", &target).header("Content-Type", "application/octet-stream");
        self.expect(request.bytes(bytes), 201, &target)?;
        Ok(digest)
    }

    /// Whether an image can be pulled whole; counted if not.
    fn is_whole(&mut self, index: usize) -> Result<bool> {
        let stored = &self.images[index];
        let place = |kind: &str, digest: &str| format!("/v2/{}/{kind}/{digest}", stored.repo);
        let mut targets = BTreeMap::from([(place("manifests", &stored.digest), &stored.digest)]);
        targets.extend(stored.blobs.iter().map(|digest| (place("blobs", digest), digest)));
        let targets: Vec<(String, String)> =
            targets.into_iter().map(|(target, digest)| (target, digest.clone())).collect();
        for (target, digest) in targets {
            let mut body = Vec::new();
            let got = self
                .exchange(Request::new("GET", &target).header("Accept", OCI_MANIFEST), &mut body);
            let why = match got {
                Ok((200, _)) if sha256(&body) == digest => continue,
                Ok((status, _)) => format!("{status}, {} bytes", body.len()),
                Err(error) => format!("{error:#}"),
            };
            self.shared.with(|race| {
                race.broken += 1;
                race.example(format!("broken: {target}: {why}"));
            });
            return Ok(false);
        }
        Ok(true)
    }

    fn delete(&mut self, index: usize) -> Result<()> {
        let Stored { repo, digest, .. } = self.images.swap_remove(index);
        let target = format!("/v2/{repo}/manifests/{digest}");
        let (status, _) = self.exchange(Request::new("DELETE", &target), &mut Vec::new())?;
        if status != 202 {
            self.shared.with(|race| {
                race.broken += 1;
                race.example(format!("DELETE {target}: {status}"));
            });
        }
        self.shared.with(|race| race.deleted += 1);
        Ok(())
    }

    fn expect(&mut self, request: Request<'_>, wanted: u16, target: &str) -> Push<()> {
        let (status, _, body) = self.ask(request)?;
        if status == wanted { Ok(()) } else { Err(format!("{target}: {status} {body}")) }
    }

    fn ask(&mut self, request: Request<'_>) -> Push<(u16, String, String)> {
        let mut body = Vec::new();
        let (status, location) =
            self.exchange(request, &mut body).map_err(|error| format!("{error:#}"))?;
        Ok((status, location, String::from_utf8_lossy(&body).into_owned()))
    }

    /// One request on the kept connection: status and Location.
    fn exchange(&mut self, request: Request<'_>, body: &mut Vec<u8>) -> Result<(u16, String)> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.shared.registry.address())?,
        };
        let answer = connection.exchange_into(request, body)?;
        if answer.header("connection").is_none_or(|value| value != "close") {
            self.connection = Some(connection);
        }
        let location = answer.header("location").unwrap_or_default().to_owned();
        ensure!(answer.status != 429, "a limit that nobody set: {answer:?}");
        Ok((answer.status, location))
    }
}

fn manifest(layers: &[Vec<u8>]) -> Vec<u8> {
    let layer = |media_type: &str, bytes: &Vec<u8>| json!({"mediaType": media_type, "digest": sha256(bytes), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": layer(OCI_CONFIG, &layers[0]),
        "layers": layers[1..].iter().map(|one| layer(OCI_LAYER, one)).collect::<Vec<_>>(),
    });
    manifest.to_string().into_bytes()
}
