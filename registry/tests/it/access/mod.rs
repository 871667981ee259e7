//! Who is let in: `auth.htpasswd`, asked over the wire.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use registry::auth::Settings;
use tempfile::TempDir;

use crate::api::harness::{Answer, Registry, wait_for};

const DIGEST: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

/// `registry user` on this file, with a password on standard input.
fn user(file: &Path, words: &[&str], password: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_registry"))
        .arg("user")
        .args(words)
        .arg("--file")
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(password.as_bytes());
    child.wait_with_output().unwrap()
}

fn add(file: &Path, name: &str, password: &str) {
    let output = user(file, &["add", name], password);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

struct Guarded {
    registry: Registry,
    file: PathBuf,
    _dir: TempDir,
}

/// A registry with the user `ann`, password `secret`.
fn guarded() -> Guarded {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("htpasswd");
    add(&file, "ann", "secret\n");
    let settings = Settings { realm: "the \"team\"".to_owned(), path: file.clone() };
    let registry = Registry::start_with(|config| config.accounts = Some(settings));
    Guarded { registry, file, _dir: dir }
}

/// `Authorization` of a pair.
fn basic(pair: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(pair))
}

fn ask(registry: &Registry, method: &str, path: &str, authorization: &[&str]) -> Answer {
    let headers: Vec<_> = authorization.iter().map(|value| ("Authorization", *value)).collect();
    registry.send(method, path, &headers, b"")
}

/// Without the id that each answer has of its own.
fn whole(answer: Answer) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let own = |(name, _): &(String, String)| matches!(name.as_str(), "x-request-id" | "date");
    let mut headers: Vec<_> = answer.headers.into_iter().filter(|header| !own(header)).collect();
    headers.sort();
    (answer.status, headers, answer.body)
}

/// Every route and method that is not open, with what it is asked for in 401.
const GUARDED: &[(&str, &str, &[&str])] = &[
    ("GET", "/v2/", &[]),
    ("HEAD", "/v2/", &[]),
    ("GET", "/v2/_catalog", &[]),
    ("GET", "/metrics", &[]),
    ("GET", "/v2/REPO/blobs/DIGEST", &["pull"]),
    ("HEAD", "/v2/REPO/blobs/DIGEST", &["pull"]),
    ("DELETE", "/v2/REPO/blobs/DIGEST", &["delete"]),
    ("POST", "/v2/REPO/blobs/uploads/", &["pull", "push"]),
    ("POST", "/v2/REPO/blobs/uploads/?mount=DIGEST&from=there", &["pull", "push"]),
    ("GET", "/v2/REPO/blobs/uploads/00000000-0000-4000-8000-000000000000", &["pull", "push"]),
    ("PATCH", "/v2/REPO/blobs/uploads/00000000-0000-4000-8000-000000000000", &["pull", "push"]),
    ("PUT", "/v2/REPO/blobs/uploads/00000000-0000-4000-8000-000000000000", &["pull", "push"]),
    ("DELETE", "/v2/REPO/blobs/uploads/00000000-0000-4000-8000-000000000000", &["pull", "push"]),
    ("GET", "/v2/REPO/manifests/v1", &["pull"]),
    ("HEAD", "/v2/REPO/manifests/v1", &["pull"]),
    ("GET", "/v2/REPO/manifests/DIGEST", &["pull"]),
    ("PUT", "/v2/REPO/manifests/v1", &["pull", "push"]),
    ("DELETE", "/v2/REPO/manifests/v1", &["delete"]),
    ("GET", "/v2/REPO/tags/list", &["pull"]),
    ("GET", "/v2/REPO/referrers/DIGEST", &["pull"]),
];

#[test]
fn every_route_asks_and_tells_nobody_what_is_there() {
    let Guarded { registry, file: _, _dir } = guarded();
    let ann = basic("ann:secret");
    // `there` holds a manifest and a blob, `none` does not exist.
    let headers = [("Authorization", ann.as_str())];
    let push = format!("/v2/there/blobs/uploads/?digest={DIGEST}");
    registry.send("POST", &push, &headers, b"{}").expect(201);
    let config = DIGEST.parse().unwrap();
    let manifest = crate::api::harness::image(&config, 2, "");
    let typed = [headers[0], ("Content-Type", shared::media_type::OCI_MANIFEST)];
    registry.send("PUT", "/v2/there/manifests/v1", &typed, &manifest).expect(201);
    for (method, path, actions) in GUARDED {
        let [there, none] = ["there", "none"].map(|repo| {
            let path = path.replace("REPO", repo).replace("DIGEST", DIGEST);
            (repo, path)
        });
        let answers = [&there, &none].map(|(repo, path)| {
            let answer = ask(&registry, method, path, &[]).expect(401);
            let challenge = "Basic realm=\"the \\\"team\\\"\"";
            assert_eq!(answer.header("www-authenticate"), Some(challenge), "{method} {path}");
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            if *method != "HEAD" {
                let error = &answer.json()["errors"][0];
                assert_eq!(error["code"], "UNAUTHORIZED");
                assert_eq!(error["message"], "authentication required");
                let asked = error["detail"].as_array().cloned().unwrap_or_default();
                let asked: Vec<_> =
                    asked.iter().map(|one| one["Action"].as_str().unwrap()).collect();
                assert_eq!(asked, *actions, "{method} {path}");
            }
            let (status, headers, body) = whole(answer);
            let text = String::from_utf8_lossy(&body).replace(repo, "REPO");
            (status, headers.len(), text.len() + text.matches("REPO").count())
        });
        assert_eq!(answers[0], answers[1], "{method} {path}: what is there answers otherwise");
        // Wrong credentials are nobody's, and the same answer.
        for wrong in [&basic("ann:wrong"), &basic("bob:secret"), "Bearer x", "Basic %%", "Basic"] {
            let asked = whole(ask(&registry, method, &there.1, &[wrong]));
            assert_eq!(asked, whole(ask(&registry, method, &there.1, &[])), "{method} {wrong}");
        }
    }
    for (path, status) in [("/livez", 200), ("/readyz", 200), ("/", 200), ("/v2/x", 404)] {
        ask(&registry, "GET", path, &[]).expect(status);
    }
    ask(&registry, "OPTIONS", "/v2/there/tags/list", &[]).expect(200);
    ask(&registry, "GET", "/v2/", &[&ann, &ann]).expect(400);
    ask(&registry, "GET", "/v2/", &[&basic(":")]).expect(401);
    let long = basic(&format!("ann:{}", "x".repeat(20_000)));
    ask(&registry, "GET", "/v2/", &[&long]).expect(401);
    for path in ["/v2/", "/v2/_catalog", "/metrics", "/v2/there/tags/list"] {
        ask(&registry, "GET", path, &[&ann]).expect(200);
    }
    ask(&registry, "GET", "/v2/none/tags/list", &[&ann]).expect(404);
}

#[test]
fn the_file_is_read_again_and_a_broken_one_keeps_the_old() {
    let Guarded { registry, file, _dir } = guarded();
    let enters = |pair: &str| ask(&registry, "GET", "/v2/", &[&basic(pair)]).status == 200;
    assert!(enters("ann:secret"));
    add(&file, "bob", "other");
    wait_for("bob's login", || enters("bob:other"));
    let list = user(&file, &["list"], "");
    assert_eq!(String::from_utf8_lossy(&list.stdout), "ann\nbob\n");
    // What was right is remembered, but not beyond the password.
    add(&file, "ann", "new");
    wait_for("ann's other password", || enters("ann:new"));
    assert!(!enters("ann:secret"));
    let before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{before}broken\n")).unwrap();
    let metrics = |registry: &Registry| {
        let answer = ask(registry, "GET", "/metrics", &[&basic("ann:new")]);
        String::from_utf8(answer.body).unwrap()
    };
    wait_for("the refusal of a broken file", || {
        metrics(&registry).contains("registry_config_last_reload_successful 0")
    });
    assert!(enters("ann:new") && enters("bob:other"));
    std::fs::write(&file, &before).unwrap();
    assert!(user(&file, &["remove", "ann"], "").status.success());
    assert!(!user(&file, &["remove", "ann"], "").status.success());
    wait_for("ann's end", || !enters("ann:new"));
    assert!(enters("bob:other"));
}

/// Whoever guesses pays for it: the others' requests are not held up, and neither is the guesser's
/// neighbour who knows the password.
#[test]
fn wrong_passwords_hold_up_nobody_who_is_in() {
    let Guarded { registry, file: _, _dir } = guarded();
    let ann = basic("ann:secret");
    ask(&registry, "GET", "/v2/", &[&ann]).expect(200);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for guesser in 0..16 {
            let (registry, done) = (&registry, &done);
            scope.spawn(move || {
                let mut number = 0;
                while !done.load(Ordering::Acquire) {
                    let pair = basic(&format!("user{guesser}-{number}:wrong{number}"));
                    let status = ask(registry, "GET", "/v2/", &[&pair]).status;
                    assert!(matches!(status, 401 | 429), "{status}");
                    number += 1;
                }
            });
        }
        let mut times: Vec<Duration> = (0..200)
            .map(|_| {
                let begun = Instant::now();
                ask(&registry, "GET", "/v2/", &[&ann]).expect(200);
                begun.elapsed()
            })
            .collect();
        done.store(true, Ordering::Release);
        times.sort_unstable();
        // A check takes a tenth of a second, and sixteen wait at any time: whoever stood in that
        // queue would wait for longer than this in half of all cases.
        assert!(times[100] < Duration::from_millis(500), "{:?}", times[100]);
    });
}

#[test]
fn guesses_at_one_name_end_and_the_user_gets_in_still() {
    let Guarded { registry, file: _, _dir } = guarded();
    let ann = basic("ann:secret");
    ask(&registry, "GET", "/v2/", &[&ann]).expect(200);
    for number in 0..12 {
        ask(&registry, "GET", "/v2/", &[&basic(&format!("ann:{number}"))]).expect(401);
    }
    ask(&registry, "GET", "/v2/", &[&ann]).expect(200);
}

#[test]
fn without_its_file_it_does_not_start() {
    let dir = TempDir::new().unwrap();
    let serve = |path: &Path| {
        Command::new(env!("CARGO_BIN_EXE_registry"))
            .args(["serve", "--addr", "127.0.0.1:0", "--root"])
            .arg(dir.path().join("data"))
            .env("REGISTRY_AUTH", "htpasswd")
            .env("REGISTRY_AUTH_HTPASSWD_REALM", "Registry Realm")
            .env("REGISTRY_AUTH_HTPASSWD_PATH", path)
            .output()
            .unwrap()
    };
    let absent = serve(&dir.path().join("none"));
    let said = String::from_utf8_lossy(&absent.stderr);
    assert_eq!(absent.status.code(), Some(78), "{said}");
    assert!(said.contains("registry user add NAME --file"), "{said}");
    let broken = dir.path().join("broken");
    std::fs::write(&broken, "# users\nann\n").unwrap();
    let output = serve(&broken);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("line 2"), "{said}");
}
