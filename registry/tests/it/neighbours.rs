//! What one client asks for, a slow disk, a rotten file or a log that nobody reads hurts nobody else.
//! Each case in two runs: as it is, and with the defence left out, which the same check must notice.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use shared::Digest;

use crate::support::{self, Answer, Client, Server, command, image, metric, wait};

const CONFIG: &[u8] = b"{}";
const LAYER: &[u8] = b"a layer";

/// How long anybody waits for an answer that others must not hold up.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server whose fail points do nothing until they are armed.
struct Case {
    server: Server,
    armed: PathBuf,
    _directory: tempfile::TempDir,
}

impl Case {
    fn start(failpoints: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let armed = directory.path().join("armed");
        let environment = [
            ("REGISTRY_FAILPOINTS", failpoints),
            ("REGISTRY_FAILPOINTS_ARMED", armed.to_str().unwrap()),
            ("REGISTRY_GC_INTERVAL", "1h"),
            ("REGISTRY_SCRUB_RATE", "0"),
        ];
        let server = Server::start(&directory.path().join("store"), &environment);
        let case = Self { server, armed, _directory: directory };
        let mut client = case.client();
        for blob in [CONFIG, LAYER] {
            assert_eq!(client.push_blob("app", blob).unwrap().status, 201);
        }
        let pushed = client.push_manifest("app", "v1", &image(&[CONFIG, LAYER])).unwrap();
        assert_eq!(pushed.status, 201);
        case
    }

    fn client(&self) -> Client {
        self.server.client()
    }

    fn root(&self) -> &Path {
        &self.server.root
    }

    fn arm(&self) {
        std::fs::write(&self.armed, "").unwrap();
    }

    fn disarm(&self) {
        std::fs::remove_file(&self.armed).unwrap();
    }

    /// Whether some clients, enough to meet every worker, are answered while `busy` are not.
    fn answers_beside(&self, count: usize, busy: impl Fn(&mut Client, usize) + Sync) -> bool {
        std::thread::scope(|scope| {
            let busy = &busy;
            for n in 0..count {
                scope.spawn(move || busy(&mut self.client(), n));
            }
            // Until all of them are at work, or wait.
            std::thread::sleep(Duration::from_millis(700));
            let (tell, told) = mpsc::channel();
            for _ in 0..6 {
                let tell = tell.clone();
                scope.spawn(move || {
                    let answer = self.client().get(&blob_path(LAYER));
                    let _ = tell.send(answer.is_ok_and(|answer| answer.status == 200));
                });
            }
            let answered = (0..6).all(|_| told.recv_timeout(PATIENCE) == Ok(true));
            self.disarm();
            answered
        })
    }
}

fn blob_path(bytes: &[u8]) -> String {
    format!("/v2/app/blobs/{}", Digest::sha256(bytes))
}

fn file_of(root: &Path, bytes: &[u8]) -> PathBuf {
    let hex = Digest::sha256(bytes).hex();
    root.join("blobs/sha256").join(&hex[..2]).join(hex)
}

fn status(answer: std::io::Result<Answer>) -> u16 {
    answer.unwrap().status
}

/// Harms a blob's file and pulls it. Whether the next push heals it.
fn heals(failpoints: &str, name: &str, harm: impl Fn(&Path)) -> bool {
    let case = Case::start(failpoints);
    case.arm();
    harm(&file_of(case.root(), LAYER));
    let mut client = case.client();
    let path = blob_path(LAYER);
    assert_eq!(status(client.get(&path)), 404, "{name}: neither short nor endless");
    if status(client.head(&path)) != 404 {
        return false;
    }
    assert!(metric(&mut client, "registry_storage_rot_met_total") > 0.0, "{name}");
    let digest = Digest::sha256(LAYER).to_string();
    let log = || case.server.log();
    wait("it is logged", || {
        let told = log().lines().any(|l| l.contains("is rotten") && l.contains(&digest));
        told.then_some(())
    });
    // As a client does that found no layer.
    assert_eq!(status(client.push_blob("app", LAYER)), 201, "{name}");
    client.pull("app", "v1").unwrap();
    true
}

#[test]
fn a_blob_whose_file_is_short_long_missing_or_elsewhere_is_healed_by_the_next_push() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 5] = [
        ("empty", |file| std::fs::write(file, "").unwrap()),
        ("longer", |file| std::fs::write(file, "a layer and more").unwrap()),
        ("missing", |file| std::fs::remove_file(file).unwrap()),
        ("a link", |file| {
            let secret = file.with_extension("secret");
            std::fs::write(&secret, "secrets").unwrap();
            std::fs::remove_file(file).unwrap();
            std::os::unix::fs::symlink(secret, file).unwrap();
        }),
        ("a pipe", |file| {
            std::fs::remove_file(file).unwrap();
            nix::unistd::mkfifo(file, nix::sys::stat::Mode::S_IRUSR).unwrap();
        }),
    ];
    for (name, harm) in harms {
        assert!(heals("", name, harm), "{name}");
    }
    assert!(!heals("meet-rot=off", "empty", harms[0].1), "clients skip the push");
}

/// A disk that is not mounted is no rot: its blobs are served again once it is there.
#[test]
fn blobs_whose_directory_is_gone_are_not_taken_out_of_service() {
    let case = Case::start("");
    let (blobs, away) = (case.root().join("blobs"), case.root().join("away"));
    std::fs::rename(&blobs, &away).unwrap();
    let mut client = case.client();
    assert_eq!(status(client.get(&blob_path(LAYER))), 500);
    std::fs::rename(&away, &blobs).unwrap();
    client.pull("app", "v1").unwrap();
}

#[test]
fn syncs_of_a_slow_disk_hold_up_nobody_who_pulls() {
    let pushes = |failpoints: &str| {
        let case = Case::start(failpoints);
        case.arm();
        // More than the threads of all workers.
        case.answers_beside(130, |client, n| {
            let _ = client.push_blob("app", n.to_string().as_bytes());
        })
    };
    assert!(pushes("upload-sync-fails=hang"));
    for step in ["upload-sync-fails", "upload-create"] {
        let unread = format!("{step}=hang;open-in-memory=off");
        assert!(pushes(&unread), "{step}: what is not at hand is opened all the same");
        assert!(!pushes(&format!("{unread};slow-places=off")), "{step}");
    }
}

#[test]
fn large_manifests_are_read_beside_the_workers() {
    let large = format!("{{\"annotations\":{{\"n\":\"{}\"}},", "x".repeat(100_000));
    let pushes = |failpoints: &str| {
        let case = Case::start(&format!("manifest-read=hang;{failpoints}"));
        case.arm();
        case.answers_beside(6, |client, n| {
            let text = image(&[CONFIG]).replacen('{', &large, 1);
            let _ = client.push_manifest("app", &format!("t{n}"), &text);
        })
    };
    assert!(pushes(""));
    assert!(!pushes("read-on-pool=off"));
}

#[test]
fn the_end_of_a_chunk_is_written_beside_the_workers() {
    let chunks = |failpoints: &str| {
        let case = Case::start(&format!("upload-save=hang;{failpoints}"));
        case.arm();
        case.answers_beside(6, |client, _| {
            let _ = client.push_blob_in_chunks("app", &[7; 100_000]);
        })
    };
    assert!(chunks(""));
    assert!(!chunks("save-on-pool=off"));
}

#[test]
fn metrics_are_counted_by_one_asker_and_beside_those_who_pull() {
    let scrapes = |failpoints: &str| {
        let case = Case::start(&format!("records-count=hang;{failpoints}"));
        case.arm();
        case.answers_beside(12, |client, _| {
            let _ = client.get("/metrics");
        })
    };
    assert!(scrapes(""));
    assert!(!scrapes("counted=off;upkeep-readers=off"));

    let counted_once = |failpoints: &str| {
        let case = Case::start(failpoints);
        case.arm();
        let mut client = case.client();
        let before = metric(&mut client, "registry_gc_waiting_reviews");
        assert_eq!(status(client.push_blob("app", b"one more")), 201);
        metric(&mut client, "registry_gc_waiting_reviews") == before
    };
    assert!(counted_once(""));
    assert!(!counted_once("counted=off"));
}

/// Commits of the records so far.
fn commits(client: &mut Client) -> f64 {
    metric(client, "registry_storage_action_seconds_count{driver=\"sqlite\",action=\"Commit\"}")
}

#[test]
fn a_manifest_of_missing_layers_costs_the_writer_nothing() {
    let refused = |failpoints: &str| {
        let case = Case::start(failpoints);
        case.arm();
        let mut client = case.client();
        let layers: Vec<Vec<u8>> = (0..3000).map(|n: u32| n.to_le_bytes().to_vec()).collect();
        let blobs: Vec<&[u8]> =
            std::iter::once(CONFIG).chain(layers.iter().map(Vec::as_slice)).collect();
        let before = commits(&mut client);
        let answer = client.push_manifest("app", "v2", &image(&blobs)).unwrap();
        assert_eq!(answer.status, 400);
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let errors = body["errors"].as_array().unwrap();
        assert_eq!(errors.len(), 100, "the first ones; the others with the next push");
        assert_eq!(errors[0]["detail"]["digest"], Digest::sha256(&layers[0]).to_string());
        commits(&mut client) == before
    };
    assert!(refused(""));
    assert!(!refused("missing-on-reader=off"));
}

#[test]
fn a_group_of_changes_ends_by_time() {
    let mounts = |failpoints: &str| {
        // 20 ms for each change.
        let case = Case::start(&format!("records-apply=sleep;{failpoints}"));
        case.arm();
        let before = commits(&mut case.client());
        std::thread::scope(|scope| {
            for n in 0..40 {
                let client = case.client();
                scope.spawn(move || {
                    let mut client = client;
                    let mounted = client.mount(&format!("r{n}"), &Digest::sha256(LAYER), "app");
                    assert_eq!(status(mounted), 201);
                });
            }
        });
        commits(&mut case.client()) - before
    };
    assert!(mounts("") >= 10.0, "three changes or four share a commit");
    assert!(mounts("group-time=off") < 10.0);
}

#[test]
fn the_oldest_empty_upload_gives_way() {
    let uploads = |failpoints: &str| {
        // Armed from its beginning: eight uploads at once.
        let directory = tempfile::tempdir().unwrap();
        let failpoints = format!("many-uploads=off;{failpoints}");
        let environment = [("REGISTRY_FAILPOINTS", failpoints.as_str())];
        let server = Server::start(&directory.path().join("store"), &environment);
        let mut client = server.client();
        let mut begin = || client.request("POST", "/v2/app/blobs/uploads/", "", b"").unwrap();
        let location = |answer: &Answer| answer.header("location").unwrap().to_owned();
        let filled = location(&begin());
        let octets = "application/octet-stream";
        let patched = server.client().request("PATCH", &filled, octets, &[7; 100_000]).unwrap();
        assert_eq!(patched.status, 202);
        let started: Vec<Answer> = (0..12).map(|_| begin()).collect();
        if started.iter().any(|answer| answer.status == 429) {
            return false;
        }
        let mut client = server.client();
        let mut known = |path: &str| status(client.get(path)) == 204;
        let alive: Vec<bool> = started.iter().map(|answer| known(&location(answer))).collect();
        assert_eq!(alive.iter().filter(|alive| **alive).count(), 7, "{alive:?}");
        assert!(alive[5..].iter().all(|alive| *alive), "the newest stay: {alive:?}");
        assert!(known(&filled), "one with bytes in it stays");
        true
    };
    assert!(uploads(""));
    assert!(!uploads("upload-gives-way=off"));
}

#[test]
fn uploads_of_before_a_restart_count() {
    let open = |failpoints: &str| {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        let failpoints = format!("many-uploads=off;{failpoints}");
        let environment = [("REGISTRY_FAILPOINTS", failpoints.as_str())];
        let begin = |client: &mut Client| {
            let begun = client.request("POST", "/v2/app/blobs/uploads/", "", b"").unwrap();
            assert_eq!(begun.status, 202);
            begun.header("location").unwrap().to_owned()
        };
        let server = Server::start(&root, &environment);
        let mut client = server.client();
        let before: Vec<String> = (0..8).map(|_| begin(&mut client)).collect();
        server.kill();
        let server = Server::start(&root, &environment);
        let mut client = server.client();
        let counted = metric(&mut client, "registry_uploads_active");
        // One that is gone on with counts once.
        assert_eq!(status(client.get(&before[7])), 204);
        assert_eq!(metric(&mut client, "registry_uploads_active"), counted.max(1.0));
        for _ in 0..3 {
            begin(&mut client);
        }
        (counted, std::fs::read_dir(root.join("uploads")).unwrap().count())
    };
    assert_eq!(open(""), (8.0, 8), "the oldest give way");
    assert_eq!(open("uploads-left=off"), (0.0, 11));
}

#[test]
fn a_browser_is_told_to_run_nothing() {
    let told = |failpoints: &str| {
        let case = Case::start(failpoints);
        case.arm();
        let mut client = case.client();
        let missing = blob_path(b"missing");
        let paths =
            ["/", "/v2/", "/metrics", "/v2/app/manifests/v1", &*blob_path(LAYER), &*missing];
        let answers = paths.map(|path| client.get(path).unwrap());
        answers.iter().all(|answer| {
            answer.header("x-content-type-options") == Some("nosniff")
                && answer.header("content-security-policy").is_some_and(|policy| {
                    policy.contains("default-src 'none'") && policy.contains("sandbox")
                })
        })
    };
    assert!(told(""));
    assert!(!told("untrusted=off"));
}

#[test]
fn a_byte_claims_no_more_of_the_disk_than_has_arrived() {
    use std::os::unix::fs::MetadataExt as _;
    let claimed = |failpoints: &str| {
        let case = Case::start(failpoints);
        case.arm();
        let mut client = case.client();
        let begun = client.request("POST", "/v2/app/blobs/uploads/", "", b"").unwrap();
        let location = begun.header("location").unwrap().to_owned();
        let mut tcp = TcpStream::connect(&case.server.address).unwrap();
        let head = format!(
            "PATCH {} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
            &location[location.find("/v2/").unwrap()..],
            8 << 20
        );
        // At once: a byte that comes later is waited for until there are more.
        tcp.write_all(format!("{head}x").as_bytes()).unwrap();
        let id = location.rsplit('/').next().unwrap();
        let file = case.root().join("uploads").join(id).join("data");
        wait("the byte arrives", || {
            let meta = std::fs::metadata(&file).unwrap();
            (meta.len() == 1).then(|| meta.blocks() * 512)
        })
    };
    assert!(claimed("") < 1 << 20);
    assert!(claimed("claim-arrived=off") >= 8 << 20);
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let serves = |failpoints: &str| {
        let directory = tempfile::tempdir().unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut child = Command::new(support::BINARY)
            .args(["serve", "--addr", &free.to_string(), "--root"])
            .arg(directory.path().join("store"))
            .env("REGISTRY_FAILPOINTS", failpoints)
            .stdout(Stdio::null())
            // Kept and never read.
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut tcp = wait("it serves", || TcpStream::connect(free).ok());
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET /v2/{}/tags/list HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(150));
        let mut answered = 0;
        let mut buffer = [0; 4096];
        // More lines than the queue and the pipe take.
        while answered < 10_000 {
            tcp.write_all(request.as_bytes()).unwrap();
            match tcp.read(&mut buffer) {
                Ok(1..) => answered += 1,
                Ok(0) | Err(_) => break,
            }
        }
        let mut client = Client::new(&free.to_string());
        let all = answered == 10_000;
        let told = all && metric(&mut client, "registry_log_dropped_lines_total") > 0.0;
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(all, told, "what is dropped is counted");
        all
    };
    assert!(serves(""));
    assert!(!serves("log-queue=off"));
}

#[test]
fn a_commit_that_fails_is_seen_by_the_probe_and_leaves_no_file() {
    let fails = |failpoints: &str| {
        let case = Case::start(&format!("commit-fails=eio;{failpoints}"));
        let mut client = case.client();
        assert_eq!(status(client.get("/readyz")), 200);
        case.arm();
        let bytes = b"never recorded";
        assert_eq!(status(client.push_blob("app", bytes)), 500);
        let left = file_of(case.root(), bytes).exists();
        let ready = status(client.get("/readyz")) == 200;
        case.disarm();
        // Nobody pushes to what is not ready: it finds out by itself.
        wait("it is ready again", || (status(client.get("/readyz")) == 200).then_some(()));
        assert_eq!(status(client.push_blob("app", bytes)), 201);
        (ready, left)
    };
    assert_eq!(fails(""), (false, false));
    assert_eq!(fails("failing=off"), (true, false));
    assert_eq!(fails("remove-unrecorded=off"), (false, true));
}

#[test]
fn a_database_that_is_gone_takes_no_pushes() {
    let pushed = |failpoints: &str| {
        let case = Case::start(failpoints);
        case.arm();
        std::fs::remove_file(case.root().join("registry.db")).unwrap();
        let mut client = case.client();
        let pushed = status(client.push_manifest("app", "v2", &image(&[CONFIG])));
        assert_eq!(status(client.get("/readyz")), if pushed == 201 { 200 } else { 503 });
        pushed
    };
    assert_eq!(pushed(""), 503);
    assert_eq!(pushed("records-place=off"), 201, "into a file that nobody will find");
}

#[test]
fn repositories_that_only_a_mount_made_are_forgotten() {
    let left = |failpoints: &str| {
        let case = Case::start(failpoints);
        case.arm();
        let mut client = case.client();
        for n in 0..5 {
            let mounted = client.mount(&format!("m{n}"), &Digest::sha256(LAYER), "app");
            assert_eq!(status(mounted), 201);
        }
        assert!(command(case.root(), &["garbage-collect", "--grace", "0"]).status.success());
        client.pull("app", "v1").unwrap();
        let database = rusqlite::Connection::open(case.root().join("registry.db")).unwrap();
        let count = "SELECT count(*) FROM repo";
        database.query_row(count, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(left(""), 1);
    assert_eq!(left("forget-repositories=off"), 6);
}

#[test]
fn too_many_open_files_are_answered_with_try_again() {
    assert_eq!(without_descriptors(""), 503);
    assert_eq!(without_descriptors("out-of-descriptors=off"), 500);
}

/// What a pull and a push are answered that meet too many open files.
fn without_descriptors(failpoints: &str) -> u16 {
    let case = Case::start(failpoints);
    case.arm();
    let mut client = case.client();
    assert_eq!(status(client.get(&blob_path(LAYER))), 200);
    let limit = |files: &str| {
        let set = Command::new("prlimit")
            .args(["--pid", &case.server.pid().to_string(), &format!("--nofile={files}")])
            .status();
        assert!(set.unwrap().success());
    };
    limit("3:");
    let refused = client.get(&blob_path(LAYER)).unwrap();
    if refused.status != 503 {
        return refused.status;
    }
    assert!(refused.header("retry-after").is_some());
    assert_eq!(status(client.push_blob("app", b"another")), 503);
    limit("1000:");
    assert_eq!(status(client.get(&blob_path(LAYER))), 200);
    assert_eq!(status(client.push_blob("app", b"another")), 201);
    refused.status
}

/// Bytes of a file that are in memory.
fn in_memory(file: &Path) -> u64 {
    let fincore = Command::new("fincore").args(["-b", "-n", "-o", "RES"]).arg(file).output();
    let text = String::from_utf8(fincore.unwrap().stdout).unwrap();
    text.trim().parse().unwrap()
}

#[test]
fn what_was_just_pushed_past_the_page_cache_is_read_back_into_it() {
    let read_back = |failpoints: &str| {
        let directory = tempfile::tempdir().unwrap();
        let environment =
            [("REGISTRY_FAILPOINTS", failpoints), ("REGISTRY_STORAGE_FILESYSTEM_DIRECTFROM", "0")];
        let server = Server::start(&directory.path().join("store"), &environment);
        let layer: Vec<u8> = (0_u32..10 << 20).flat_map(u32::to_le_bytes).collect();
        assert_eq!(status(server.client().push_blob("app", &layer)), 201);
        let file = file_of(&server.root, &layer);
        let deadline = std::time::Instant::now() + PATIENCE;
        while in_memory(&file) < layer.len() as u64 && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        in_memory(&file) * 10 / layer.len() as u64
    };
    assert_eq!(read_back(""), 10);
    assert!(read_back("read-ahead=off") < 5);
}
