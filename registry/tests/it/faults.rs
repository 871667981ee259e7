//! Each system call that changes the disk fails once, in the middle of each kind of request: with
//! ENOSPC nothing acknowledged is lost and the registry goes on by itself; with EIO it turns
//! read-only, says so, goes on serving, and works again after a restart.
//!
//! A sync that fails turns it read-only whatever the error: the kernel marks the pages clean, and a
//! second sync that succeeds would prove nothing. A full file system refuses writes, not syncs;
//! ENOSPC at a sync is storage that ran out below one.

use std::path::{Path, PathBuf};

use crate::support::tracer::{Hit, Kind, Tracer};
use crate::support::{Client, Server, command, image, sound};
use nix::errno::Errno;
use shared::Digest;

/// What is asked of the registry when a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Blob,
    BlobInChunks,
    /// In part written past the page cache.
    LargeBlob,
    Mount,
    Manifest,
    DeleteTag,
    DeleteManifest,
    DeleteBlob,
    Collect,
    /// Of so many pages that the log is moved into the database behind it.
    LargeManifest,
}

/// Those of which every call is tried.
const REQUESTS: [Request; 9] = [
    Request::Blob,
    Request::BlobInChunks,
    Request::LargeBlob,
    Request::Mount,
    Request::Manifest,
    Request::DeleteTag,
    Request::DeleteManifest,
    Request::DeleteBlob,
    Request::Collect,
];

/// The same without those whose calls are some of another's: a broken disk costs a restart each.
const DISTINCT: [Request; 5] = [
    Request::BlobInChunks,
    Request::LargeBlob,
    Request::Manifest,
    Request::DeleteBlob,
    Request::Collect,
];

const CONFIG: &[u8] = b"{}";

/// Calls of a large manifest that are tried; it has thousands.
const SAMPLES: u64 = 8;

/// Requests whose effect is looked at again after every restart; all of them are at the end.
const LOOKED_AT_AGAIN: usize = 12;

/// Nothing is collected by itself, and whole blocks are written past the page cache.
const QUIET: [(&str, &str); 4] = [
    ("REGISTRY_STORAGE_FILESYSTEM_DIRECTFROM", "0"),
    ("REGISTRY_GC_INTERVAL", "1h"),
    ("REGISTRY_GC_REVIEWDELAY", "1h"),
    ("REGISTRY_SCRUB_RATE", "0"),
];

/// A request with contents of its own.
#[derive(Clone, Copy, Debug)]
struct Step {
    request: Request,
    number: u64,
}

impl Step {
    fn blob(self) -> Vec<u8> {
        let mut bytes = format!("{:?} {}", self.request, self.number).into_bytes();
        if self.request == Request::LargeBlob {
            bytes.resize((2 << 20) + 1, 7);
        }
        bytes
    }

    fn blob_path(self, repo: &str) -> String {
        format!("/v2/{repo}/blobs/{}", Digest::sha256(&self.blob()))
    }

    fn manifest(self) -> String {
        let large = self.request == Request::LargeManifest;
        let filler = "x".repeat(if large { 4_000_000 } else { 0 });
        let notes = format!("{{\"annotations\":{{\"n\":\"{self:?}{filler}\"}},");
        image(&[CONFIG]).replacen('{', &notes, 1)
    }

    fn manifest_digest(self) -> String {
        Digest::sha256(self.manifest().as_bytes()).to_string()
    }

    fn tag(self) -> String {
        format!("t{}", self.number)
    }

    /// Makes what the request takes away.
    fn prepare(self, client: &mut Client) {
        match self.request {
            Request::Blob | Request::BlobInChunks | Request::LargeBlob => {}
            Request::Manifest | Request::LargeManifest => {}
            Request::Mount | Request::DeleteBlob | Request::Collect => {
                assert_eq!(client.push_blob("a", &self.blob()).unwrap().status, 201, "{self:?}");
            }
            Request::DeleteTag | Request::DeleteManifest => {
                let pushed = client.push_manifest("a", &self.tag(), &self.manifest()).unwrap();
                assert_eq!(pushed.status, 201, "{self:?}");
            }
        }
    }

    /// The answer's status; `None` when there was none.
    fn send(self, client: &mut Client, root: &Path) -> Option<u16> {
        let answer = match self.request {
            Request::Blob | Request::LargeBlob => client.push_blob("a", &self.blob()),
            Request::BlobInChunks => client.push_blob_in_chunks("a", &self.blob()),
            Request::Mount => client.mount("b", &Digest::sha256(&self.blob()), "a"),
            Request::Manifest | Request::LargeManifest => {
                client.push_manifest("a", "moved", &self.manifest())
            }
            Request::DeleteTag => client.delete(&format!("/v2/a/manifests/{}", self.tag())),
            Request::DeleteManifest => {
                client.delete(&format!("/v2/a/manifests/{}", self.manifest_digest()))
            }
            Request::DeleteBlob => client.delete(&self.blob_path("a")),
            Request::Collect => {
                let done = command(root, &["garbage-collect", "--grace", "0"]);
                return Some(if done.status.success() { 200 } else { 500 });
            }
        };
        answer.ok().map(|answer| answer.status)
    }

    fn succeeded(self, status: Option<u16>) -> bool {
        match self.request {
            Request::Collect => status == Some(200),
            Request::DeleteTag | Request::DeleteManifest | Request::DeleteBlob => {
                status == Some(202)
            }
            _ => status == Some(201),
        }
    }

    /// Names what was pushed, so that no collection takes it.
    fn name(self, client: &mut Client) {
        let repo = match self.request {
            Request::Blob | Request::BlobInChunks | Request::LargeBlob => "a",
            Request::Mount => "b",
            _ => return,
        };
        let tag = format!("{self:?}").replace([' ', ':', '{', '}', ','], "");
        let named = client.push_manifest(repo, &tag, &image(&[&self.blob()])).unwrap();
        assert_eq!(named.status, 201, "{self:?}");
    }

    /// Whether what was acknowledged is so.
    fn holds(self, client: &mut Client) -> bool {
        let mut is = |path: &str, status: u16| client.head(path).unwrap().status == status;
        match self.request {
            Request::Blob | Request::BlobInChunks | Request::LargeBlob => {
                is(&self.blob_path("a"), 200)
            }
            Request::Mount => is(&self.blob_path("b"), 200),
            Request::Manifest | Request::LargeManifest => {
                is(&format!("/v2/a/manifests/{}", self.manifest_digest()), 200)
            }
            Request::DeleteTag => is(&format!("/v2/a/manifests/{}", self.tag()), 404),
            Request::DeleteManifest => {
                is(&format!("/v2/a/manifests/{}", self.manifest_digest()), 404)
            }
            Request::DeleteBlob | Request::Collect => is(&self.blob_path("a"), 404),
        }
    }
}

/// A server under test and what it has acknowledged.
struct Bench {
    root: PathBuf,
    failpoints: &'static str,
    running: Option<(Server, Tracer)>,
    number: u64,
    acknowledged: Vec<Step>,
    failed: usize,
}

impl Bench {
    fn new(directory: &Path, failpoints: &'static str) -> Self {
        let root = directory.join("store");
        let mut bench =
            Self { root, failpoints, running: None, number: 0, acknowledged: vec![], failed: 0 };
        bench.start();
        let mut client = bench.client();
        assert_eq!(client.push_blob("a", CONFIG).unwrap().status, 201);
        assert_eq!(client.push_manifest("a", "kept", &image(&[CONFIG])).unwrap().status, 201);
        bench
    }

    fn start(&mut self) {
        let mut environment = QUIET.to_vec();
        // When a log at rest is emptied is no request's doing: calls could not be counted.
        let failpoints = format!("{};rest-checkpoint=off", self.failpoints);
        environment.push(("REGISTRY_FAILPOINTS", &failpoints));
        let server = Server::start(&self.root, &environment);
        // The first round of collection is over before calls are counted.
        assert_eq!(server.client().get("/metrics").unwrap().status, 200);
        let tracer = Tracer::attach(server.pid(), &self.root);
        self.running = Some((server, tracer));
    }

    fn client(&self) -> Client {
        self.running.as_ref().unwrap().0.client()
    }

    /// An end, orderly or not, and a new start: what was acknowledged is still so.
    fn restart(&mut self) {
        let (server, tracer) = self.running.take().unwrap();
        drop(tracer);
        if self.number.is_multiple_of(2) {
            server.kill()
        } else {
            server.stop()
        }
        self.start();
        self.check(LOOKED_AT_AGAIN);
    }

    fn check(&self, newest: usize) {
        let mut client = self.client();
        client.pull("a", "kept").unwrap();
        for step in self.acknowledged.iter().rev().take(newest) {
            assert!(step.holds(&mut client), "{step:?}: acknowledged, and not so");
        }
    }

    /// Fails the `nth` call of a request; false when it has fewer.
    fn fail(&mut self, request: Request, nth: u64, errno: Errno) -> bool {
        self.number += 1;
        let step = Step { request, number: self.number };
        let mut client = self.client();
        step.prepare(&mut client);
        let tracer = &self.running.as_ref().unwrap().1;
        tracer.arm(nth, errno);
        let status = step.send(&mut client, &self.root);
        if request == Request::LargeManifest {
            tracer.rest();
        }
        let hit = tracer.disarm();
        let done = step.succeeded(status);
        if done {
            self.acknowledged.push(step);
            assert!(step.holds(&mut client), "{step:?}: acknowledged, and not so: {hit:?}");
        }
        let Some(hit) = hit else {
            assert!(done, "{step:?}: nothing failed, and {status:?}");
            step.name(&mut client);
            return false;
        };
        self.failed += 1;
        eprintln!("{request:?} {nth} {errno}: {} {}: {status:?}", hit.name, hit.path);
        let mut client = self.client();
        client.pull("a", "kept").unwrap();
        let ready = client.get("/readyz").unwrap().status == 200;
        match errno {
            Errno::ENOSPC => self.no_space(step, &hit, status, ready),
            _ => assert!(!ready || !hit.loses_writes(), "it goes on writing after {hit:?}"),
        }
        if !ready {
            let refused = client.push_manifest("a", "refused", &image(&[CONFIG])).unwrap();
            assert_eq!(refused.status, 503, "not ready, and pushes are taken: {hit:?}");
            self.restart();
        }
        if !done {
            self.again(step, &hit);
        }
        step.name(&mut self.client());
        true
    }

    fn no_space(&self, step: Step, hit: &Hit, status: Option<u16>, ready: bool) {
        let refused = !step.succeeded(status) && step.request != Request::Collect;
        assert_eq!(
            ready,
            hit.kind != Kind::Sync,
            "{step:?}: read-only by a sync, and only by one: {hit:?}"
        );
        if refused && ready {
            assert_eq!(status, Some(507), "{step:?}: {hit:?}");
        }
        if refused {
            let left = std::fs::read_dir(self.root.join("uploads")).unwrap().count();
            assert_eq!(left, 0, "{step:?}: space was not given back after {hit:?}");
        }
    }

    /// The request repeated, with nothing in its way.
    fn again(&mut self, step: Step, hit: &Hit) {
        let mut client = self.client();
        let status = step.send(&mut client, &self.root);
        // What was to be deleted may be gone already.
        let gone = status == Some(404) && step.holds(&mut client);
        assert!(step.succeeded(status) || gone, "{step:?} repeated after {hit:?}: {status:?}");
        assert!(step.holds(&mut client), "{step:?} repeated after {hit:?}");
        self.acknowledged.push(step);
    }

    /// Every call of every request.
    fn all(&mut self, requests: &[Request], errno: Errno) {
        for request in requests {
            let calls = (1..).take_while(|nth| self.fail(*request, *nth, errno)).count();
            assert!(calls >= 3, "{request:?}: only {calls} calls failed");
        }
    }

    /// Some calls of a large manifest, from the first to the last.
    fn large(&mut self, errno: Errno) {
        assert!(!self.fail(Request::LargeManifest, u64::MAX, errno));
        let calls = self.running.as_ref().unwrap().1.seen();
        assert!(calls > 1000, "{calls}");
        for sample in 0..SAMPLES {
            // The last calls differ from time to time: the last sample stays before them.
            self.fail(Request::LargeManifest, 1 + calls * sample / SAMPLES, errno);
        }
    }

    /// After it all: nothing is damaged, and what the failures left behind can be given back.
    fn end(mut self) {
        self.restart();
        self.check(usize::MAX);
        let (server, tracer) = self.running.take().unwrap();
        drop(tracer);
        server.stop();
        assert!(command(&self.root, &["garbage-collect", "--grace", "0"]).status.success());
        let report = sound(&self.root);
        assert_eq!(report["leftovers"], 0, "{report}");
    }
}

#[test]
fn no_space_at_any_call_loses_nothing_and_is_overcome_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(directory.path(), "");
    bench.all(&REQUESTS, Errno::ENOSPC);
    bench.large(Errno::ENOSPC);
    println!("{} calls failed for want of space", bench.failed);
    bench.end();
}

#[test]
fn a_broken_disk_at_any_call_stops_pushes_and_not_pulls() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(directory.path(), "");
    bench.all(&DISTINCT, Errno::EIO);
    bench.large(Errno::EIO);
    println!("{} calls failed by a broken disk", bench.failed);
    bench.end();
}

/// The suite sees what it is there to see.
#[test]
fn what_is_left_out_is_noticed() {
    for (failpoints, errno, request, said) in [
        ("give-back=off", Errno::ENOSPC, Request::Blob, "space was not given back"),
        ("read-only=off", Errno::EIO, Request::Blob, "it goes on writing"),
        ("read-only=off", Errno::EIO, Request::Manifest, "not ready, and pushes are taken"),
        ("commit=off", Errno::ENOSPC, Request::Manifest, "acknowledged, and not so"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let failed = std::panic::catch_unwind(|| {
            let mut bench = Bench::new(directory.path(), "");
            bench.failpoints = failpoints;
            bench.restart();
            bench.all(&[request], errno);
            bench.end();
        });
        let why = failed.err().and_then(|why| why.downcast::<String>().ok());
        assert!(why.as_ref().is_some_and(|why| why.contains(said)), "{failpoints}: {why:?}");
    }
}
