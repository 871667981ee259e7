//! The operators' commands, on a live server and on a stopped directory: what they find, what they
//! free, what they bring back.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::support::{Client, Server, image, sound, wait};
use shared::Digest;

const CONFIG: &[u8] = b"{}";
const LAYER: &[u8] = b"a layer";
const OTHER: &[u8] = b"a layer of another image";

const SLOW: [(&str, &str); 2] = [("REGISTRY_GC_INTERVAL", "1h"), ("REGISTRY_SCRUB_INTERVAL", "1h")];

fn push_image(client: &mut Client, repo: &str, tag: &str, blobs: &[&[u8]]) -> String {
    for blob in blobs {
        assert_eq!(client.push_blob(repo, blob).unwrap().status, 201);
    }
    let text = image(blobs);
    assert_eq!(client.push_manifest(repo, tag, &text).unwrap().status, 201);
    Digest::sha256(text.as_bytes()).to_string()
}

/// A stopped store with one image.
fn store(directory: &Path) -> PathBuf {
    let root = directory.join("store");
    let server = Server::start(&root, &SLOW);
    push_image(&mut server.client(), "app", "v1", &[CONFIG, LAYER]);
    server.stop();
    root
}

fn file_of(root: &Path, bytes: &[u8]) -> PathBuf {
    let hex = Digest::sha256(bytes).hex();
    root.join("blobs/sha256").join(&hex[..2]).join(hex)
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn run(root: &Path, arguments: &[&str]) -> Ran {
    run_without("", root, arguments)
}

/// [`run`] of a program that has these fail points.
fn run_without(points: &str, root: &Path, arguments: &[&str]) -> Ran {
    let mut command = std::process::Command::new(crate::support::BINARY);
    command.args(arguments).arg("--root").arg(root).env("REGISTRY_FAILPOINTS", points);
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap();
    Ran { code, out: text(&output.stdout), err: text(&output.stderr) }
}

fn kinds(report: &str) -> Vec<String> {
    let report: serde_json::Value = serde_json::from_str(report).unwrap();
    let findings = report["findings"].as_array().unwrap();
    findings.iter().map(|found| found["kind"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn fsck_finds_rot_takes_it_out_of_service_and_the_next_push_heals() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 3] = [
        ("flipped", |file| std::fs::write(file, b"a LAYER").unwrap()),
        ("short", |file| std::fs::write(file, b"").unwrap()),
        ("missing", |file| std::fs::remove_file(file).unwrap()),
    ];
    for (name, harm) in harms {
        let directory = tempfile::tempdir().unwrap();
        let root = store(directory.path());
        harm(&file_of(&root, LAYER));
        let found = run(&root, &["fsck", "--json"]);
        assert_eq!((found.code, kinds(&found.out)), (4, vec!["rotten".to_owned()]), "{name}");
        let quick = run(&root, &["fsck", "--quick"]);
        assert_eq!(quick.code, if name == "flipped" { 0 } else { 4 }, "{name}: lengths only");
        assert_eq!(run(&root, &["fsck", "--repair"]).code, 4, "{name}: out of service, not healed");

        let server = Server::start(&root, &SLOW);
        let mut client = server.client();
        let path = format!("/v2/app/blobs/{}", Digest::sha256(LAYER));
        assert_eq!(client.get(&path).unwrap().status, 404, "{name}: served no more");
        assert_eq!(client.head(&path).unwrap().status, 404, "{name}: so that clients push it");
        assert_eq!(run(&root, &["fsck"]).code, 4, "{name}: live");
        assert_eq!(client.push_blob("app", LAYER).unwrap().status, 201);
        client.pull("app", "v1").unwrap();
        sound(&root);
        server.stop();
    }
}

#[test]
fn fsck_finds_and_repairs_what_is_wrong_with_the_records() {
    for (sql, kind, repairable) in [
        ("DELETE FROM edge", "edge-missing", true),
        ("UPDATE repo SET listed = 0", "listing", true),
        ("INSERT INTO edge VALUES (1, 1, 999, 1)", "edge-stray", true),
        (
            "DELETE FROM review; DELETE FROM edge; UPDATE manifest SET children = x''",
            "unwatched",
            true,
        ),
        ("UPDATE manifest SET bytes = x'7b7d'", "manifest-rotten", false),
        ("DELETE FROM link", "child-missing", false),
        ("UPDATE tag SET manifest = 999", "tag-dangling", false),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let root = store(directory.path());
        let database = rusqlite::Connection::open(root.join("registry.db")).unwrap();
        database.execute_batch(sql).unwrap();
        drop(database);
        let found = run(&root, &["fsck", "--json"]);
        assert!(kinds(&found.out).iter().any(|found| found == kind), "{kind}: {}", found.out);
        let leftover = matches!(kind, "edge-stray" | "unwatched");
        assert_eq!(found.code, if leftover { 0 } else { 4 }, "{kind}: {}", found.out);
        let repaired = run(&root, &["fsck", "--repair", "--json"]);
        let again = run(&root, &["fsck", "--json"]);
        let gone = !kinds(&again.out).iter().any(|found| found == kind);
        assert_eq!(gone, repairable, "{kind}: {} {}", repaired.out, again.out);
    }
}

#[test]
fn fsck_finds_files_that_no_record_knows() {
    let directory = tempfile::tempdir().unwrap();
    let root = store(directory.path());
    std::fs::write(file_of(&root, OTHER), OTHER).unwrap();
    let foreign = root.join("blobs/sha256/00/note.txt");
    std::fs::write(&foreign, "mine").unwrap();
    let found = run(&root, &["fsck", "--json"]);
    let mut found_kinds = kinds(&found.out);
    found_kinds.sort();
    assert_eq!(
        (found.code, found_kinds),
        (0, vec!["foreign-file".into(), "unrecorded-file".into()])
    );
    run(&root, &["fsck", "--repair"]);
    assert!(!file_of(&root, OTHER).exists());
    assert!(foreign.exists(), "not ours, not touched");
}

#[test]
fn a_database_that_is_damaged_is_told_and_not_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let root = store(directory.path());
    let path = root.join("registry.db");
    let whole = std::fs::read(&path).unwrap();
    for from in [0, 100, 4096, 3 * 4096] {
        let mut bytes = whole.clone();
        for byte in &mut bytes[from..] {
            *byte ^= 0x5a;
        }
        std::fs::write(&path, bytes).unwrap();
        let found = run(&root, &["fsck"]);
        let talk = format!("{from}: {} {}", found.out, found.err);
        assert!(found.code == 4 && !talk.contains("panicked"), "{talk}");
    }
}

#[test]
fn garbage_collect_says_what_it_freed_and_what_comes_back_when() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let server = Server::start(&root, &SLOW);
    let socket = std::fs::metadata(root.join("admin.sock")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    let mut client = server.client();
    let doomed = push_image(&mut client, "app", "v1", &[CONFIG, LAYER]);
    push_image(&mut client, "app", "v2", &[CONFIG, OTHER]);
    assert_eq!(client.delete(&format!("/v2/app/manifests/{doomed}")).unwrap().status, 202);

    let graced = run(&root, &["garbage-collect"]);
    assert!(graced.out.starts_with("freed 0 blobs, 0 B\n"), "{}", graced.out);
    assert!(graced.out.contains("come back in 23h59m"), "{}", graced.out);
    assert_eq!(
        client.get(&format!("/v2/app/blobs/{}", Digest::sha256(LAYER))).unwrap().status,
        200
    );
    let rehearsed = run(&root, &["gc", "-d", "--grace", "0"]);
    assert!(rehearsed.out.starts_with("would free 1 blob, 7 B\n"), "{}", rehearsed.out);
    assert!(file_of(&root, LAYER).exists());
    let quiet = run(&root, &["garbage-collect", "-q"]);
    assert_eq!((quiet.code, quiet.out.as_str()), (0, ""));

    let now = run(&root, &["garbage-collect", "--grace", "0"]);
    assert_eq!(now.out.lines().next(), Some("freed 1 blob, 7 B"));
    assert!(now.err.contains("--grace 0"), "it says which promise it suspends: {}", now.err);
    assert!(!file_of(&root, LAYER).exists());
    client.pull("app", "v2").unwrap();

    // On a stopped directory, with a rule.
    push_image(&mut client, "app", "v2", &[CONFIG, LAYER]);
    server.stop();
    let rehearsed =
        run(&root, &["garbage-collect", "--dry-run", "--delete-untagged=true", "--grace", "0"]);
    assert!(rehearsed.out.starts_with("would remove 1 untagged manifest"), "{}", rehearsed.out);
    let ruled = run(&root, &["garbage-collect", "-m", "--grace", "0"]);
    // And nothing waits any more.
    assert_eq!(ruled.out, "removed 1 untagged manifest\nfreed 1 blob, 24 B\n");
    sound(&root);
}

#[test]
fn repositories_and_tags_are_listed_measured_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let server = Server::start(&root, &SLOW);
    let mut client = server.client();
    let digest = push_image(&mut client, "app", "v1", &[CONFIG, LAYER]);
    push_image(&mut client, "app", "v2", &[CONFIG, LAYER]);
    push_image(&mut client, "base/os", "v1", &[CONFIG, LAYER]);
    assert_eq!(run(&root, &["repo", "ls"]).out, "app\nbase/os\n");
    assert_eq!(run(&root, &["tag", "ls", "app"]).out, format!("v1\t{digest}\nv2\t{digest}\n"));
    let usage = run(&root, &["du", "--json", "app"]);
    let usage: serde_json::Value = serde_json::from_str(&usage.out).unwrap();
    assert_eq!((&usage["tags"], &usage["blob_bytes"]), (&2.into(), &9.into()));
    assert_eq!(usage["own_bytes"], 0, "everything is shared");

    assert_eq!(run(&root, &["tag", "rm", "app", "v1"]).code, 0);
    assert_eq!(run(&root, &["tag", "rm", "app", "v1"]).code, 1);
    assert_eq!(client.head("/v2/app/manifests/v1").unwrap().status, 404);
    client.pull("app", &digest).unwrap();
    let removed = run(&root, &["repo", "rm", "app", "nothing"]);
    assert_eq!(removed.code, 1, "one of them does not exist");
    assert!(removed.err.contains("nothing: no such repository"), "{}", removed.err);
    assert_eq!(client.get("/v2/app/tags/list").unwrap().status, 404);
    assert_eq!(run(&root, &["repo", "ls"]).out, "base/os\n");
    client.pull("base/os", "v1").unwrap();
    server.stop();
    sound(&root);
}

#[test]
fn a_backup_of_a_live_server_is_whole_and_the_second_copies_only_what_is_new() {
    let directory = tempfile::tempdir().unwrap();
    let (root, copy) = (directory.path().join("store"), directory.path().join("copy"));
    let copy_text = copy.to_string_lossy().into_owned();
    let server = Server::start(&root, &SLOW);
    let mut client = server.client();
    push_image(&mut client, "app", "v1", &[CONFIG, LAYER]);
    let first = run(&root, &["backup", &copy_text]);
    assert_eq!(
        (first.code, first.out.as_str()),
        (0, "copied 2 blobs, 9 B; 0 were there already\n")
    );
    push_image(&mut client, "app", "v2", &[CONFIG, OTHER]);
    let second = run(&root, &["backup", &copy_text]);
    assert_eq!(second.out, "copied 1 blob, 24 B; 2 were there already\n");
    let refused = run(&root, &["restore", &copy_text]);
    assert_eq!(refused.code, 78, "the server holds the directory: {}", refused.err);
    server.kill();

    let restored = directory.path().join("restored");
    assert_eq!(run(&restored, &["restore", &copy_text]).code, 0);
    assert_ne!(run(&restored, &["restore", &copy_text]).code, 0, "it holds a registry now");
    sound(&restored);
    let server = Server::start(&restored, &SLOW);
    for tag in ["v1", "v2"] {
        server.client().pull("app", tag).unwrap();
    }
}

#[test]
fn the_scrub_finds_rot_before_a_client_does() {
    let directory = tempfile::tempdir().unwrap();
    let root = store(directory.path());
    std::fs::write(file_of(&root, LAYER), b"a LAYER").unwrap();
    let server = Server::start(&root, &[("REGISTRY_SCRUB_INTERVAL", "200ms")]);
    let mut client = server.client();
    let path = format!("/v2/app/blobs/{}", Digest::sha256(LAYER));
    wait("the rot is found", || (client.head(&path).unwrap().status == 404).then_some(()));
    let metrics = client.get("/metrics").unwrap();
    let metrics = String::from_utf8(metrics.body).unwrap();
    assert!(metrics.contains("registry_scrub_rotten_total 1\n"), "{metrics}");
    assert!(metrics.contains("registry_storage_quarantined_blobs 1\n"), "{metrics}");
    assert_eq!(client.push_blob("app", LAYER).unwrap().status, 201);
    client.pull("app", "v1").unwrap();
}

#[test]
fn a_store_that_cannot_be_opened_is_said_so() {
    let directory = tempfile::tempdir().unwrap();
    let nothing = run(&directory.path().join("nothing"), &["fsck"]);
    assert_eq!(nothing.code, 78);
    assert!(nothing.err.contains("--root"), "{}", nothing.err);
    let root = store(directory.path());
    let _server = Server::start(&root, &SLOW);
    std::fs::remove_file(root.join("admin.sock")).unwrap();
    let held = run(&root, &["fsck"]);
    assert_eq!(held.code, 78);
    assert!(held.err.contains("in use by another registry process"), "{}", held.err);
}

/// A second process of the same directory refuses connections while it waits, so that clients go
/// elsewhere, and serves once the first one has stopped.
#[test]
fn a_second_server_listens_only_once_it_has_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let first = Server::start(&root, &SLOW);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let spawn = |wait: &str, log: &Path| {
        std::process::Command::new(crate::support::BINARY)
            .args(["serve", "--addr", &port.to_string(), "--root"])
            .arg(&root)
            .env("REGISTRY_HTTP_DRAINTIMEOUT", wait)
            .stderr(std::fs::File::create(log).unwrap())
            .spawn()
            .unwrap()
    };
    let log = directory.path().join("second.log");
    let said = |word: &str| std::fs::read_to_string(&log).unwrap().contains(word).then_some(());
    let mut second = spawn("1s", &log);
    wait("it says that it waits", || said("another registry process holds the directory"));
    assert!(std::net::TcpStream::connect(port).is_err(), "nobody would answer there");
    let status = wait("it gives up", || second.try_wait().unwrap());
    assert_eq!(status.code(), Some(78));
    said("is in use by another registry process").unwrap();

    let mut third = spawn("60s", &log);
    wait("it says that it waits", || said("another registry process holds the directory"));
    first.stop();
    wait("it serves", || std::net::TcpStream::connect(port).ok());
    third.kill().unwrap();
    third.wait().unwrap();
}

/// What a closed terminal sends, and what daemons take as "read your configuration again".
#[test]
fn a_hangup_reads_the_log_level_again_and_ends_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let config = directory.path().join("config.yml");
    std::fs::write(&config, "log: {level: info}").unwrap();
    let file = config.to_string_lossy().into_owned();
    let server = Server::start(&root, &[("REGISTRY_CONFIGURATION_PATH", &file)]);
    let mut client = server.client();
    let hang_up = || {
        let pid = rustix::process::Pid::from_raw(server.pid().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    };
    let metric = |client: &mut Client| {
        let text = String::from_utf8(client.get("/metrics").unwrap().body).unwrap();
        text.contains("registry_config_last_reload_successful 1\n")
    };
    std::fs::write(&config, "log: {level: nonsense}").unwrap();
    hang_up();
    wait("the failure is said", || server.log().contains("log.level").then_some(()));
    assert!(!metric(&mut client), "and shown");

    std::fs::write(&config, "log: {level: error}").unwrap();
    hang_up();
    wait("the level is read", || metric(&mut client).then_some(()));
    let lines = server.log().lines().count();
    assert_eq!(client.get("/v2/").unwrap().status, 200);
    assert_eq!(server.log().lines().count(), lines, "no line per request any more");
    server.stop();
}

fn failpoints<'e>(points: &'e str, armed: &'e Path) -> [(&'e str, &'e str); 4] {
    let [interval, scrub] = SLOW;
    [
        interval,
        scrub,
        ("REGISTRY_FAILPOINTS", points),
        ("REGISTRY_FAILPOINTS_ARMED", armed.to_str().unwrap()),
    ]
}

/// What stands in the log stands there once: a byte that flips in it takes all behind it along.
#[test]
fn the_log_is_empty_a_moment_after_the_last_change() {
    let rests = |points: &str| {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        let server = Server::start(&root, &failpoints(points, directory.path()));
        push_image(&mut server.client(), "app", "v1", &[CONFIG, LAYER]);
        let log = root.join("registry.db-wal");
        let length = || std::fs::metadata(&log).unwrap().len();
        assert!(length() > 0);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(6);
        while length() > 0 && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let empty = length() == 0;
        if empty {
            server.kill();
            // All of it is in the one file.
            std::fs::remove_file(&log).unwrap();
            let server = Server::start(&root, &SLOW);
            server.client().pull("app", "v1").unwrap();
        }
        empty
    };
    assert!(rests(""));
    assert!(!rests("rest-checkpoint=off"));
}

#[test]
fn acknowledged_changes_behind_a_flipped_byte_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let server = Server::start(&root, &failpoints("rest-checkpoint=off", directory.path()));
    let mut client = server.client();
    for tag in 0..30 {
        push_image(&mut client, "app", &format!("v{tag}"), &[CONFIG, LAYER, &[tag]]);
    }
    server.kill();
    let log = root.join("registry.db-wal");
    let whole = std::fs::read(&log).unwrap();
    // A crash leaves the end of the log unfinished: nothing to tell.
    std::fs::write(&log, &whole[..whole.len() - 100]).unwrap();
    let cut = directory.path().join("cut");
    assert!(
        std::process::Command::new("cp").arg("-a").args([&root, &cut]).status().unwrap().success()
    );
    sound(&cut);

    let mut bytes = whole.clone();
    bytes[whole.len() / 3] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    let files = || std::fs::read_dir(root.join("blobs/sha256")).unwrap().count();
    let before = files();
    for _ in 0..2 {
        let found = run(&root, &["fsck"]);
        assert_eq!(found.code, 4, "{} {}", found.out, found.err);
        let told = found.out.contains("had lost acknowledged changes");
        assert!(told, "also when SQLite has forgotten them: {} {}", found.out, found.err);
    }
    assert_eq!(files(), before, "bytes of lost records are kept");
    assert_eq!(std::fs::read(root.join("registry.db-wal.damaged")).unwrap().len(), whole.len());

    // Not looked at, it says nothing.
    let mut bytes = whole.clone();
    bytes[whole.len() / 3] ^= 1;
    std::fs::write(cut.join("registry.db-wal"), bytes).unwrap();
    let found = run_without("log-look=off", &cut, &["fsck"]);
    assert!(!found.out.contains("had lost acknowledged changes"), "{} {}", found.out, found.err);
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_backup_goes_where_only_backups_of_this_registry_are() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let root = store(directory.path());
    let backup = |root: &Path, to: &Path| run(root, &["backup", &text(to)]);
    let refused = |root: &Path, to: &Path, why: &str| {
        let ran = backup(root, to);
        assert!(
            ran.code == 1 && ran.err.contains(why),
            "{}: {} {}",
            to.display(),
            ran.out,
            ran.err
        );
    };

    // The store itself, by whatever name, and what lies in it.
    let link = place("link");
    std::os::unix::fs::symlink(&root, &link).unwrap();
    for own in
        [root.clone(), root.join("blobs"), root.join("new/deep"), link, directory.path().to_owned()]
    {
        refused(&root, &own, "own directory");
    }
    assert!(!root.join("new").exists());

    // Another store, stopped and live, and what is none at all.
    let other = place("other");
    let server = Server::start(&other, &SLOW);
    push_image(&mut server.client(), "other", "v1", &[CONFIG, OTHER]);
    refused(&root, &other, "in use");
    server.stop();
    refused(&root, &other, "no backup");
    std::fs::create_dir(place("papers")).unwrap();
    std::fs::write(place("papers/thesis.txt"), "mine").unwrap();
    refused(&root, &place("papers"), "no backup");
    sound(&other);

    // Another registry's backup.
    let copy = place("copy");
    assert_eq!(backup(&other, &copy).code, 0);
    refused(&root, &copy, "another registry");
    assert_eq!(
        (mode(&copy), mode(&copy.join("blobs")), mode(&copy.join("blobs/sha256"))),
        (0o700, 0o700, 0o700)
    );
    for file in [copy.join("registry.db"), copy.join("BACKUP"), file_of(&copy, OTHER)] {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }

    // Somebody else's lock.
    let mine = place("mine");
    assert_eq!(backup(&root, &mine).code, 0);
    let lock = std::fs::File::open(mine.join("lock")).unwrap();
    lock.lock().unwrap();
    refused(&root, &mine, "in use");

    // Each of these is written to where it is not looked at.
    for (points, to) in [
        ("backup-own=off", root.join("new/deep")),
        ("backup-foreign=off", place("papers")),
        ("backup-another=off", copy.clone()),
        ("backup-lock=off", mine),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let kept = directory.path().join("kept");
        let there = to.exists();
        if there {
            let copied = std::process::Command::new("cp").arg("-a").args([&to, &kept]).status();
            assert!(copied.unwrap().success());
        }
        let ran = run_without(points, &root, &["backup", &text(&to)]);
        assert_eq!(ran.code, 0, "{points}: {}", ran.err);
        std::fs::remove_dir_all(&to).unwrap();
        if there {
            std::fs::rename(&kept, &to).unwrap();
        }
    }

    // Served as it is, it is a store from then on.
    let served = Server::start(&copy, &SLOW);
    served.client().pull("other", "v1").unwrap();
    refused(&other, &copy, "in use");
    push_image(&mut served.client(), "new", "v1", &[CONFIG, LAYER]);
    served.stop();
    refused(&other, &copy, "no backup");
    let served = Server::start(&copy, &SLOW);
    served.client().pull("new", "v1").unwrap();
}

#[test]
fn a_copy_that_has_rotted_is_made_again() {
    let kept = |points: &str| {
        let directory = tempfile::tempdir().unwrap();
        let root = store(directory.path());
        let server = Server::start(&root, &failpoints(points, directory.path()));
        let copy = directory.path().join("copy");
        let backup = || run(&root, &["backup", &copy.to_string_lossy()]).out;
        assert_eq!(backup(), "copied 2 blobs, 9 B; 0 were there already\n");
        std::fs::write(file_of(&copy, LAYER), b"a LAYER").unwrap();
        let again = backup();
        drop(server);
        again
    };
    assert_eq!(kept(""), "copied 1 blob, 7 B; 1 were there already\n");
    assert_eq!(kept("backup-read-again=off"), "copied 0 blobs, 0 B; 2 were there already\n");
}

#[test]
fn nothing_is_restored_from_records_that_are_empty_or_garbage() {
    let directory = tempfile::tempdir().unwrap();
    let root = store(directory.path());
    let copy = directory.path().join("copy");
    assert_eq!(run(&root, &["backup", &copy.to_string_lossy()]).code, 0);
    let database = copy.join("registry.db");
    let whole = std::fs::read(&database).unwrap();
    let mut torn = whole.clone();
    torn.truncate(whole.len() / 2);
    let foreign = directory.path().join("foreign.db");
    let made = rusqlite::Connection::open(&foreign).unwrap();
    made.execute_batch("CREATE TABLE t(x)").unwrap();
    drop(made);
    let foreign = std::fs::read(foreign).unwrap();
    for (name, bytes) in
        [("empty", vec![]), ("garbage", vec![7; 8192]), ("torn", torn), ("foreign", foreign)]
    {
        std::fs::write(&database, bytes).unwrap();
        let restored = directory.path().join(name);
        let ran = run(&restored, &["restore", &copy.to_string_lossy()]);
        assert_ne!(ran.code, 0, "{name}");
        assert!(ran.err.contains("the records of the backup"), "{name}: {}", ran.err);
        assert!(!restored.join("registry.db").exists(), "{name}");
    }
    std::fs::write(&database, []).unwrap();
    let unseen = directory.path().join("unseen");
    let ran = run_without("restore-look=off", &unseen, &["restore", &copy.to_string_lossy()]);
    assert_eq!(ran.code, 0, "an empty registry, for one that was full: {}", ran.err);

    std::fs::write(&database, whole).unwrap();
    std::fs::remove_file(copy.join("BACKUP")).unwrap();
    let unmarked = run(&directory.path().join("unmarked"), &["restore", &copy.to_string_lossy()]);
    assert!(unmarked.err.contains("is not a backup"), "{}", unmarked.err);
}
