//! The process dies at each durability edge, in the middle of each kind of request. Afterwards
//! nothing acknowledged is lost, nothing is damaged, the request can be repeated, and what the
//! crash left behind is given back.

use std::io;
use std::path::{Path, PathBuf};

use crate::support::{Answer, Client, Server, command, image, sound, wait};
use shared::Digest;

/// Where the process dies: every edge of a write that must be in order with another one.
const POINTS: [&str; 8] = [
    "upload-synced",
    "publish-renamed",
    "publish-synced",
    "records-before-commit",
    "records-after-commit",
    "collect-begun",
    "collect-unlinked",
    "collect-ended",
];

/// What is asked of it at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Blob,
    BlobInChunks,
    /// Bytes that are stored already, for another repository.
    KnownBlob,
    Mount,
    ManifestByTag,
    ManifestByDigest,
    DeleteTag,
    DeleteManifest,
    DeleteBlob,
    Collect,
}

const REQUESTS: [Request; 10] = [
    Request::Blob,
    Request::BlobInChunks,
    Request::KnownBlob,
    Request::Mount,
    Request::ManifestByTag,
    Request::ManifestByDigest,
    Request::DeleteTag,
    Request::DeleteManifest,
    Request::DeleteBlob,
    Request::Collect,
];

/// The cells in which the point is on the request's way.
fn reaches(request: Request, point: &str) -> bool {
    match point {
        "upload-synced" | "publish-renamed" | "publish-synced" => {
            matches!(request, Request::Blob | Request::BlobInChunks | Request::KnownBlob)
        }
        "collect-begun" | "collect-unlinked" | "collect-ended" => request == Request::Collect,
        _ => true,
    }
}

const CONFIG: &[u8] = b"{}";
const LAYER: &[u8] = b"a layer that is kept";
const UNNAMED: &[u8] = b"a blob that nobody names";
const NEW: &[u8] = b"a blob that is pushed when the process dies";

fn kept() -> String {
    image(&[CONFIG, LAYER])
}

fn doomed() -> String {
    image(&[CONFIG, LAYER, CONFIG])
}

fn new_manifest() -> String {
    image(&[LAYER, CONFIG])
}

fn digest_of(text: &str) -> String {
    Digest::sha256(text.as_bytes()).to_string()
}

/// Nothing is collected by itself while a cell runs.
const QUIET: [(&str, &str); 2] =
    [("REGISTRY_GC_INTERVAL", "1h"), ("REGISTRY_GC_REVIEWDELAY", "1h")];

fn expect(answer: io::Result<Answer>, status: u16) {
    let answer = answer.unwrap();
    assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(&answer.body));
}

/// What every cell starts from.
fn prepare(root: &Path) {
    let server = Server::start(root, &QUIET);
    let mut client = server.client();
    for blob in [CONFIG, LAYER, UNNAMED] {
        expect(client.push_blob("a", blob), 201);
    }
    expect(client.push_manifest("a", "kept", &kept()), 201);
    expect(client.push_manifest("a", "doomed", &doomed()), 201);
    expect(client.push_manifest("a", "moved", &doomed()), 201);
    server.stop();
}

/// Sends the request; collection runs as a command beside the server.
fn send(request: Request, client: &mut Client, root: &Path) -> Option<u16> {
    let status = |answer: io::Result<Answer>| answer.ok().map(|answer| answer.status);
    match request {
        Request::Blob => status(client.push_blob("a", NEW)),
        Request::BlobInChunks => status(client.push_blob_in_chunks("a", NEW)),
        Request::KnownBlob => status(client.push_blob("b", LAYER)),
        Request::Mount => status(client.mount("b", &Digest::sha256(LAYER), "a")),
        Request::ManifestByTag => status(client.push_manifest("a", "moved", &new_manifest())),
        Request::ManifestByDigest => {
            status(client.push_manifest("a", &digest_of(&new_manifest()), &new_manifest()))
        }
        Request::DeleteTag => status(client.delete("/v2/a/manifests/doomed")),
        Request::DeleteManifest => {
            status(client.delete(&format!("/v2/a/manifests/{}", digest_of(&doomed()))))
        }
        Request::DeleteBlob => {
            status(client.delete(&format!("/v2/a/blobs/{}", Digest::sha256(UNNAMED))))
        }
        Request::Collect => {
            let done = command(root, &["garbage-collect", "--grace", "0"]);
            done.status.success().then_some(200)
        }
    }
}

/// Whether what the request asks for is so.
fn holds(request: Request, client: &mut Client, root: &Path) -> bool {
    let mut is = |path: String, want: u16| client.head(&path).unwrap().status == want;
    let unnamed = root.join("blobs/sha256");
    match request {
        Request::Blob | Request::BlobInChunks => {
            is(format!("/v2/a/blobs/{}", Digest::sha256(NEW)), 200)
        }
        Request::KnownBlob | Request::Mount => {
            is(format!("/v2/b/blobs/{}", Digest::sha256(LAYER)), 200)
        }
        Request::ManifestByTag => {
            let moved = client.head("/v2/a/manifests/moved").unwrap();
            moved.header("docker-content-digest") == Some(&digest_of(&new_manifest()))
        }
        Request::ManifestByDigest => {
            is(format!("/v2/a/manifests/{}", digest_of(&new_manifest())), 200)
        }
        Request::DeleteTag => is("/v2/a/manifests/doomed".into(), 404),
        Request::DeleteManifest => {
            is(format!("/v2/a/manifests/{}", digest_of(&doomed())), 404)
                && is("/v2/a/manifests/doomed".into(), 404)
        }
        Request::DeleteBlob => is(format!("/v2/a/blobs/{}", Digest::sha256(UNNAMED)), 404),
        Request::Collect => {
            let hex = Digest::sha256(UNNAMED).hex();
            !unnamed.join(&hex[..2]).join(&hex).exists()
        }
    }
}

fn succeeded(request: Request, status: Option<u16>) -> bool {
    match (request, status) {
        // 404: it had been done before the answer was lost.
        (Request::DeleteTag | Request::DeleteManifest | Request::DeleteBlob, Some(202 | 404)) => {
            true
        }
        (Request::Collect, Some(200)) => true,
        (_, Some(201)) => true,
        _ => false,
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
}

/// Kills a server in the middle of a request. Whether the request was acknowledged.
fn crash(root: &Path, request: Request, failpoints: &str) -> bool {
    let (mut server, armed) = serve_unarmed(root, failpoints);
    let mut client = server.client();
    std::fs::write(&armed, "").unwrap();
    let status = send(request, &mut client, root);
    if !failpoints.contains("abort") {
        server.kill();
    } else {
        wait("the process dies", || server.has_ended().then_some(()));
    }
    std::fs::remove_file(&armed).unwrap();
    succeeded(request, status)
}

/// After the crash: nothing is damaged, nothing of before is lost, the request can be repeated,
/// and no space stays lost.
fn recover(root: &Path, request: Request, acknowledged: bool) {
    sound(root);
    let server = Server::start(root, &QUIET);
    let mut client = server.client();
    client.pull("a", "kept").unwrap();
    client.pull("a", &digest_of(&kept())).unwrap();
    if acknowledged {
        assert!(holds(request, &mut client, root), "acknowledged, and lost");
    }
    let status = send(request, &mut client, root);
    assert!(succeeded(request, status), "the request repeated: {status:?}");
    assert!(holds(request, &mut client, root), "repeated, acknowledged, and not so");
    server.stop();
    // What a crash leaves is given back: files without a record by the sweep, the rest in order.
    assert!(command(root, &["garbage-collect", "--grace", "0"]).status.success());
    let report = sound(root);
    assert_eq!(report["leftovers"], 0, "{report}");
}

#[test]
fn dying_at_any_edge_of_any_request_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("base");
    prepare(&base);
    let mut cells = 0;
    for request in REQUESTS {
        for point in POINTS.iter().filter(|point| reaches(request, point)) {
            let cell = directory.path().join(format!("{request:?}-{point}"));
            eprintln!("{request:?} dies at {point}");
            copy(&base, &cell);
            let acknowledged = crash(&cell, request, &format!("{point}=abort"));
            // The command collects by itself when it finds that the server has died already.
            assert!(!acknowledged || request == Request::Collect, "it died before the answer");
            recover(&cell, request, acknowledged);
            std::fs::remove_dir_all(&cell).unwrap();
            cells += 1;
        }
    }
    assert_eq!(cells, 10 * 2 + 3 * 3 + 3);
}

/// The suite sees what it is there to see: an answer before the commit.
#[test]
fn answering_before_the_commit_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("base");
    prepare(&base);
    for request in [Request::Blob, Request::ManifestByTag, Request::DeleteManifest] {
        let cell = directory.path().join(format!("{request:?}"));
        copy(&base, &cell);
        assert!(crash(&cell, request, "commit=off"), "{request:?}: answered");
        let recovered = std::panic::catch_unwind(|| recover(&cell, request, true));
        assert!(recovered.is_err(), "{request:?}: acknowledged, lost, and nobody noticed");
    }
}

/// Serves `root` with fail points that do nothing until the file that is returned exists.
fn serve_unarmed(root: &Path, failpoints: &str) -> (Server, PathBuf) {
    let armed = root.with_extension("armed");
    let armed_text = armed.to_string_lossy().into_owned();
    let mut environment = QUIET.to_vec();
    environment.push(("REGISTRY_FAILPOINTS", failpoints));
    environment.push(("REGISTRY_FAILPOINTS_ARMED", &armed_text));
    (Server::start(root, &environment), armed)
}

/// A write or sync that fails fails its request, turns the store read-only, and lets pulls go on;
/// after a restart everything works.
#[test]
fn a_failing_disk_stops_pushes_and_not_pulls() {
    let directory = tempfile::tempdir().unwrap();
    // ENOSPC at a sync is storage that ran out below a file system: no better than a broken disk.
    for point in [
        "upload-sync-fails=eio",
        "upload-sync-fails=enospc",
        "shard-sync-fails=eio",
        "shard-sync-fails=enospc",
    ] {
        let root = directory.path().join(point);
        prepare(&root);
        let (server, armed) = serve_unarmed(&root, point);
        let mut client = server.client();
        assert_eq!(client.get("/readyz").unwrap().status, 200);
        std::fs::write(&armed, "").unwrap();
        let failed = client.push_blob("a", NEW).unwrap();
        assert!(failed.status >= 500 && failed.status != 507, "{point}: {}", failed.status);
        assert_eq!(client.get("/readyz").unwrap().status, 503, "{point}");
        // What is there can still be pulled.
        assert_eq!(client.get("/readyz?exclude=writes").unwrap().status, 200, "{point}");
        let refused = client.push_manifest("a", "new", &new_manifest()).unwrap();
        assert!(refused.status >= 500, "{}", refused.status);
        client.pull("a", "kept").unwrap();
        std::fs::remove_file(&armed).unwrap();
        server.kill();
        recover(&root, Request::Blob, false);
    }
}

/// The thread that writes the records is gone: nothing can be stored any more, and whoever asks
/// whether the registry is ready is told so.
#[test]
fn a_panic_of_the_writer_turns_readiness_off_and_pulls_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    prepare(&root);
    let (server, armed) = serve_unarmed(&root, "records-before-commit=panic@1");
    let mut client = server.client();
    assert_eq!(client.get("/readyz").unwrap().status, 200);
    std::fs::write(&armed, "").unwrap();
    expect(client.push_manifest("a", "new", &new_manifest()), 503);
    wait("it is not ready", || (client.get("/readyz").unwrap().status == 503).then_some(()));
    assert_eq!(client.get("/livez").unwrap().status, 200);
    expect(client.push_manifest("a", "new", &new_manifest()), 503);
    client.pull("a", "kept").unwrap();
    server.kill();
    recover(&root, Request::Blob, false);
}
