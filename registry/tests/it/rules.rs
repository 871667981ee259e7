//! Rules: every route and method for everybody, as the wire shows it; what is forbidden and what is
//! missing look the same; explanations agree.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use shared::Digest;

use crate::support::{Answer, BINARY, Client, Server, image};

const CONFIG: &[u8] = b"{}";
const LAYER: &[u8] = b"a layer";

const RULES: &str = "
access:
  groups: {team: [ann, dan]}
  rules:
    - {who: anonymous, may: pull, in: 'public/**'}
    - {who: pat, may: pull, in: 'team/**'}
    - {who: 'group:team', may: push, in: ['team/**', '!team/secret/**']}
    - {who: dan, may: delete, in: 'team/**'}
    - {who: root, may: [push, delete], in: '**'}
";

const USERS: [&str; 5] = ["ann", "dan", "pat", "root", "zed"];

/// A registry with users, whose passwords are their names, and images in some repositories.
struct House {
    server: Server,
    config: PathBuf,
    _directory: tempfile::TempDir,
}

impl House {
    fn start(rules: &str, failpoints: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (users, config) = (directory.path().join("users"), directory.path().join("config.yml"));
        let lines = USERS.map(|name| format!("{name}:{}\n", bcrypt::hash(name, 4).unwrap()));
        std::fs::write(&users, lines.concat()).unwrap();
        let htpasswd = format!("auth: {{htpasswd: {{realm: house, path: {users:?}}}}}\n{rules}");
        std::fs::write(&config, htpasswd).unwrap();
        let environment = [
            ("REGISTRY_CONFIGURATION_PATH", config.to_str().unwrap()),
            ("REGISTRY_FAILPOINTS", failpoints),
        ];
        let server = Server::start(&directory.path().join("store"), &environment);
        let house = Self { server, config, _directory: directory };
        let mut root = house.client(Some("root"));
        for name in ["team/app", "team/secret/app", "other/app", "public/app"] {
            for blob in [CONFIG, LAYER] {
                assert_eq!(root.push_blob(name, blob).unwrap().status, 201);
            }
            let pushed = root.push_manifest(name, "v1", &image(&[CONFIG, LAYER])).unwrap();
            assert_eq!(pushed.status, 201);
        }
        house
    }

    fn client(&self, user: Option<&str>) -> Client {
        let mut client = self.server.client();
        client.authorization = user.map(|name| basic(name, name));
        client
    }

    fn command(&self, words: &[&str], input: &str) -> Output {
        command(&self.config, words, input)
    }
}

fn command(config: &Path, words: &[&str], input: &str) -> Output {
    let mut child = Command::new(BINARY)
        .args(words)
        .env("REGISTRY_CONFIGURATION_PATH", config)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that refuses its words reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{password}")))
}

/// Everything that can be asked of a repository, and the least that it takes.
fn cells(name: &str) -> Vec<(&'static str, String, &'static str)> {
    let digest = Digest::sha256(b"of nothing");
    let id = "0f8fad5b-d9cb-469f-a165-70867728950e";
    let path = |rest: &str| format!("/v2/{name}/{rest}");
    let mut cells = Vec::new();
    for method in ["GET", "HEAD"] {
        for rest in [
            "manifests/v1",
            "tags/list",
            &format!("referrers/{digest}"),
            &format!("blobs/{digest}"),
        ] {
            cells.push((method, path(rest), "pull"));
        }
        cells.push((method, path(&format!("blobs/uploads/{id}")), "push"));
    }
    cells.push(("DELETE", path(&format!("blobs/{digest}")), "delete"));
    cells.push(("DELETE", path("manifests/none"), "delete"));
    cells.push(("POST", path("blobs/uploads/"), "push"));
    cells.push(("PUT", path("manifests/v2"), "push"));
    for method in ["PATCH", "PUT", "DELETE"] {
        cells.push((method, path(&format!("blobs/uploads/{id}?digest={digest}")), "push"));
    }
    cells
}

/// What the rules above mean, said again.
fn may(user: Option<&str>, name: &str, action: &str) -> bool {
    let secret = name.starts_with("team/secret");
    match (user, name.split('/').next().unwrap()) {
        (Some("root"), _) => true,
        (_, "public") if action == "pull" => true,
        (Some("pat"), "team") => action == "pull",
        (Some("ann"), "team") => !secret && action != "delete",
        (Some("dan"), "team") => !secret || action != "push",
        _ => false,
    }
}

#[test]
fn every_route_and_method_for_everybody() {
    let house = House::start(RULES, "");
    let names =
        ["team/app", "team/none", "team/secret/app", "other/app", "other/none", "public/app"];
    for user in [None].into_iter().chain(USERS.map(Some)) {
        let mut client = house.client(user);
        for name in names {
            for (method, path, needs) in cells(name) {
                let answer = client.request(method, &path, "", b"").unwrap();
                let case = format!("{user:?} {method} {path}: {answer:?}");
                match (may(user, name, needs), user) {
                    (true, _) => assert!(![401, 403].contains(&answer.status), "{case}"),
                    (false, None) => {
                        assert_eq!(answer.status, 401, "{case}");
                        let challenge = answer.header("www-authenticate");
                        assert_eq!(challenge, Some("Basic realm=\"house\""), "{case}");
                    }
                    (false, Some(_)) => assert_eq!(answer.status, 403, "{case}"),
                }
            }
        }
    }
    // With a wrong password nobody is let in anywhere, where anonymous would be either.
    let mut wrong = house.server.client();
    for given in [
        basic("ann", "dan"),
        basic("nobody", "x"),
        basic("ann", ""),
        "Basic".into(),
        "Basic !".into(),
        "Bearer x.y.z".into(),
        "Negotiate x".into(),
    ] {
        wrong.authorization = Some(given.clone());
        for name in ["public/app", "team/app"] {
            for (method, path, _) in cells(name) {
                let answer = wrong.request(method, &path, "", b"").unwrap();
                assert_eq!(answer.status, 401, "{given} {method} {path}");
            }
        }
        assert_eq!(wrong.get("/v2/").unwrap().status, 401, "{given}");
    }
}

#[test]
fn what_has_no_repository() {
    let house = House::start(RULES, "");
    let status = |user: Option<&str>, path: &str| house.client(user).get(path).unwrap().status;
    for path in ["/v2/", "/v2/_catalog", "/metrics"] {
        assert_eq!(status(None, path), 401, "{path}");
        assert_eq!(status(Some("zed"), path), 200, "{path}");
    }
    for path in ["/", "/livez", "/readyz"] {
        assert_eq!(status(None, path), 200, "{path}");
    }
    let mut client = house.client(None);
    assert_eq!(client.request("OPTIONS", "/v2/team/app/tags/list", "", b"").unwrap().status, 200);
    // An empty name with an empty password is nobody.
    client.authorization = Some(basic("", ""));
    assert_eq!(client.get("/v2/").unwrap().status, 401);
    assert_eq!(client.get("/metrics").unwrap().status, 401);
    assert_eq!(client.get("/v2/public/app/manifests/v1").unwrap().status, 200);
    for (user, names) in [
        (Some("zed"), &["public/app"][..]),
        (Some("pat"), &["public/app", "team/app", "team/secret/app"]),
        (Some("ann"), &["public/app", "team/app"]),
        (Some("root"), &["other/app", "public/app", "team/app", "team/secret/app"]),
    ] {
        let mut client = house.client(user);
        let mut found = Vec::new();
        let mut path = "/v2/_catalog?n=1".to_owned();
        loop {
            let page = client.get(&path).unwrap();
            let list: serde_json::Value = serde_json::from_slice(&page.body).unwrap();
            let list = list["repositories"].as_array().unwrap();
            found.extend(list.iter().map(|name| name.as_str().unwrap().to_owned()));
            let Some(next) = page.header("link") else { break };
            path = next.split(['<', '>']).nth(1).unwrap().to_owned();
        }
        assert_eq!(found, names, "{user:?}");
    }
}

/// The answer without what differs from request to request.
fn shape(answer: &Answer, name: &str) -> String {
    let headers: Vec<_> = answer
        .headers
        .iter()
        .filter(|(key, _)| !["x-request-id", "date"].contains(&key.to_ascii_lowercase().as_str()))
        .collect();
    let text = format!("{} {headers:?} {}", answer.status, String::from_utf8_lossy(&answer.body));
    text.replace(name, "NAME").replace(&name.len().to_string(), "LENGTH")
}

#[test]
fn what_is_forbidden_looks_like_what_is_missing() {
    let house = House::start(RULES, "");
    for user in [None, Some("zed"), Some("ann")] {
        let mut client = house.client(user);
        for ((method, there, _), (_, missing, _)) in
            cells("other/app").into_iter().zip(cells("other/abc"))
        {
            let there = client.request(method, &there, "", b"").unwrap();
            let missing = client.request(method, &missing, "", b"").unwrap();
            assert_eq!(
                shape(&there, "other/app"),
                shape(&missing, "other/abc"),
                "{user:?} {method}"
            );
        }
    }
}

/// A source that may not be read is answered as one that is not there: never with its blob.
fn mounts(house: &House) -> Vec<u16> {
    let mut ann = house.client(Some("ann"));
    let held = Digest::sha256(LAYER);
    let sources = ["other/app", "team/secret/app", "other/none"];
    let mut all: Vec<u16> =
        sources.iter().map(|from| ann.mount("team/new", &held, from).unwrap().status).collect();
    let anywhere = format!("/v2/team/new/blobs/uploads/?mount={held}");
    all.push(ann.request("POST", &anywhere, "", b"").unwrap().status);
    all.push(ann.mount("team/new", &held, "team/app").unwrap().status);
    all
}

#[test]
fn a_mount_shows_nothing_of_its_source() {
    assert_eq!(mounts(&House::start(RULES, "")), [202, 202, 202, 202, 201]);
    let without = House::start(RULES, "mount-source=off");
    assert_eq!(mounts(&without)[0], 201, "nobody would notice");
}

#[test]
fn sentences_say_what_may_be_done() {
    let house = House::start(RULES, "");
    for (user, method, path, want) in [
        ("zed", "GET", "/v2/team/app/tags/list", "zed may not pull from team/app"),
        ("pat", "POST", "/v2/team/app/blobs/uploads/", "pat may pull from team/app, not push"),
        ("ann", "DELETE", "/v2/team/app/manifests/v1", "ann may push to team/app, not delete"),
    ] {
        let answer = house.client(Some(user)).request(method, path, "", b"").unwrap();
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(body["errors"][0]["code"], "DENIED");
        assert_eq!(body["errors"][0]["message"], want);
    }
}

#[test]
fn without_rules_users_may_everything_and_others_nothing() {
    let house = House::start("", "");
    let mut zed = house.client(Some("zed"));
    assert_eq!(zed.pull("other/app", "v1"), Ok(()));
    assert_eq!(zed.delete("/v2/other/app/manifests/v1").unwrap().status, 202);
    assert_eq!(house.client(None).get("/v2/team/app/manifests/v1").unwrap().status, 401);
}

#[test]
fn explanations_agree_with_the_wire() {
    let house = House::start(RULES, "");
    for (number, user) in ["anonymous", "ann", "dan", "pat", "root", "zed"].iter().enumerate() {
        let known = Some(*user).filter(|name| *name != "anonymous");
        for (name, action) in [
            ("team/app", "pull"),
            ("team/app", "push"),
            ("team/secret/app", "push"),
            ("team/secret/app", "delete"),
            ("public/app", "pull"),
        ] {
            let output = house.command(&["access", "explain", user, name, action], "");
            let said = String::from_utf8(output.stdout).unwrap();
            let expected = may(known, name, action);
            assert_eq!(output.status.code(), Some(i32::from(!expected)), "{number} {said}");
            assert!(said.starts_with(if expected { "yes: " } else { "no: " }), "{said}");
        }
    }
    let said = house.command(&["access", "explain", "dan", "team/secret/app", "push"], "").stdout;
    let said = String::from_utf8(said).unwrap();
    let rule = "  rule 4   dan may delete in team/**\n";
    assert_eq!(said, format!("no: dan may delete from team/secret/app, not push\n{rule}"));
    for words in [["ann", "team/app", "fly"], ["bob", "team/app", "pull"], ["ann", "A", "pull"]] {
        let words = [&["access", "explain"][..], &words].concat();
        assert_eq!(house.command(&words, "").status.code(), Some(2), "{words:?}");
    }
}
