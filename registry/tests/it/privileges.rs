//! What `registry serve` becomes when the image's environment has it started as root. The built
//! program, the kernel's own word on it (`/proc/PID/status`), and no container. Needs root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::{BINARY, Server, image, wait};

const OWN: u32 = 65532;

const ASKED: (&str, &str) = ("ROADSTEAD_DROP_ROOT", "1");

/// A directory that everybody may pass through.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    place
}

fn directory(place: &tempfile::TempDir, name: &str, owner: u32, filled: bool) -> PathBuf {
    let path = place.path().join(name);
    fs::create_dir(&path).unwrap();
    if filled {
        fs::write(path.join("something"), "there").unwrap();
        chown(path.join("something"), Some(owner), Some(owner)).unwrap();
    }
    chown(&path, Some(owner), Some(owner)).unwrap();
    path
}

fn owner(path: &Path) -> u32 {
    fs::metadata(path).unwrap().uid()
}

/// A field of `/proc/PID/status` of every thread, which must agree.
fn field(server: &Server, name: &str) -> String {
    let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let mut values: Vec<String> = threads
        .filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).ok())
        .map(|status| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.unwrap_or_else(|| panic!("{name}: {status}")).to_owned()
        })
        .collect();
    values.dedup();
    assert_eq!(values.len(), 1, "{values:?}");
    values[0].split_once(':').unwrap().1.trim().replace('\t', " ")
}

/// Whether nothing is left of root but, perhaps, its number.
fn bare(server: &Server) -> bool {
    let none = |set| field(server, set).trim_start_matches('0').is_empty();
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].into_iter().all(none)
        && field(server, "NoNewPrivs") == "1"
}

fn uid(server: &Server) -> String {
    field(server, "Uid")
}

fn four(uid: u32) -> String {
    [uid; 4].map(|uid| uid.to_string()).join(" ")
}

fn pushes(server: &Server) {
    let mut client = server.client();
    for blob in [b"{}".as_slice(), b"a layer"] {
        assert_eq!(client.push_blob("app", blob).unwrap().status, 201);
    }
    let manifest = image(&[b"{}", b"a layer"]);
    assert_eq!(client.push_manifest("app", "v1", &manifest).unwrap().status, 201);
}

/// A start that must come to nothing, through `wrapper`.
fn refused(root: &Path, wrapper: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let words = wrapper.iter().copied().chain([BINARY]).collect::<Vec<_>>();
    let Output { status, stderr, .. } = Command::new(words[0])
        .args(&words[1..])
        .args(["serve", "--addr", "127.0.0.1:0", "--root"])
        .arg(root)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

/// A pair of files, the key root's alone.
fn certificate(place: &tempfile::TempDir) -> (String, String) {
    let path = |name| place.path().join(name).to_str().unwrap().to_owned();
    let (certificate, key) = (path("tls.crt"), path("tls.key"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"])
        .args(["-subj", "/CN=localhost", "-out", &certificate, "-keyout", &key])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    (certificate, key)
}

#[test]
fn a_new_or_empty_directory_becomes_the_images_own() {
    let place = place();
    for root in [
        place.path().join("new"),
        directory(&place, "empty", 0, false),
        directory(&place, "volume", OWN, false),
    ] {
        let server = Server::start(&root, &[ASKED]);
        assert_eq!(uid(&server), four(OWN), "{}", root.display());
        assert_eq!(field(&server, "Gid"), four(OWN));
        assert_eq!(field(&server, "Groups"), "");
        assert!(bare(&server));
        assert_eq!(owner(&root), OWN);
        pushes(&server);
        server.stop();
        assert_eq!(owner(&root.join("blobs")), OWN);
    }
}

#[test]
fn data_stays_its_owners() {
    let place = place();
    for owner_of_it in [0, 1234, OWN] {
        let root = directory(&place, &owner_of_it.to_string(), owner_of_it, true);
        let server = Server::start(&root, &[ASKED]);
        assert_eq!(uid(&server), four(owner_of_it));
        assert!(bare(&server));
        pushes(&server);
        server.stop();
        assert_eq!(owner(&root), owner_of_it);
        assert_eq!(owner(&root.join("blobs")), owner_of_it);
        // The second start finds what the first one has left.
        let server = Server::start(&root, &[ASKED]);
        assert_eq!(uid(&server), four(owner_of_it));
        server.client().pull("app", "v1").unwrap();
        server.stop();
    }
}

#[test]
fn elsewhere_root_stays_root_with_one_warning() {
    let place = place();
    for environment in [&[][..], &[("ROADSTEAD_DROP_ROOT", "0")]] {
        let root = directory(&place, &format!("root{}", environment.len()), 0, false);
        let server = Server::start(&root, environment);
        assert_eq!(uid(&server), four(0));
        assert!(!bare(&server));
        assert_eq!(owner(&root), 0);
        assert_eq!(server.log().matches("this process is root and stays it").count(), 1);
        server.stop();
    }
}

#[test]
fn a_port_below_1024_is_bound_before_anything_is_given_up() {
    let place = place();
    let root = place.path().join("data");
    // The address of the command line comes first, so it is given by the file.
    let config = place.path().join("config.yml");
    fs::write(&config, "http: {addr: '127.0.0.1:449'}\n").unwrap();
    let log = fs::File::create(root.with_extension("log")).unwrap();
    let mut child = Command::new(BINARY)
        .args(["serve", "--root"])
        .arg(&root)
        .arg(&config)
        .env(ASKED.0, ASKED.1)
        .stderr(log)
        .spawn()
        .unwrap();
    wait("port 449 answers", || std::net::TcpStream::connect("127.0.0.1:449").ok());
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(status.contains("Uid:\t65532\t65532"), "{status}");
}

#[test]
fn a_key_that_only_root_can_read_keeps_it_root() {
    let place = place();
    let (certificate, key) = certificate(&place);
    let environment =
        [ASKED, ("REGISTRY_HTTP_TLS_CERTIFICATE", &certificate), ("REGISTRY_HTTP_TLS_KEY", &key)];
    for (name, owner_before) in [("fresh", 0), ("volume", OWN)] {
        let root = directory(&place, name, owner_before, false);
        let server = Server::start(&root, &environment);
        assert_eq!(uid(&server), four(0), "{name}");
        assert!(bare(&server));
        assert_eq!(owner(&root), 0);
        assert!(server.log().contains(&format!("\"file\":\"{key}\"")), "{}", server.log());
        // Renewed, as it was: root's alone. It must be read again.
        let again = certificate_again(&place, &server);
        assert!(again.contains("new connections are shown the certificate"), "{again}");
        server.stop();
    }
    // With the key in everybody's reach there is no reason to.
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let server = Server::start(&directory(&place, "open", 0, false), &environment);
    assert_eq!(uid(&server), four(OWN));
    server.stop();
}

/// Renews the pair, asks for it, and gives the log.
fn certificate_again(place: &tempfile::TempDir, server: &Server) -> String {
    certificate(place);
    let pid = rustix::process::Pid::from_raw(server.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    wait("the certificate is read again", || {
        let log = server.log();
        (log.contains("are shown the certificate") || log.contains("stays as it was"))
            .then_some(log)
    })
}

#[test]
fn a_configuration_that_only_root_can_read_keeps_it_root() {
    let place = place();
    let config = place.path().join("config.yml");
    fs::write(&config, "http: {addr: '127.0.0.1:0'}\n").unwrap();
    fs::set_permissions(&config, Permissions::from_mode(0o600)).unwrap();
    let root = directory(&place, "data", 0, false);
    let config = config.to_str().unwrap();
    let server = Server::start(&root, &[ASKED, ("REGISTRY_CONFIGURATION_PATH", config)]);
    assert_eq!(uid(&server), four(0));
    assert!(bare(&server));
    assert!(server.log().contains(&format!("\"file\":\"{config}\"")), "{}", server.log());
    server.stop();
}

#[test]
fn somebodys_data_beside_a_key_of_roots_is_refused_with_the_remedies() {
    let place = place();
    let (certificate, key) = certificate(&place);
    let root = directory(&place, "data", OWN, true);
    let environment =
        [ASKED, ("REGISTRY_HTTP_TLS_CERTIFICATE", &certificate), ("REGISTRY_HTTP_TLS_KEY", &key)];
    let (code, said) = refused(&root, &[], &environment);
    assert_eq!(code, Some(78), "{said}");
    for word in [&key, "chown 65532", "mount it so that user 65532 can read it"] {
        assert!(said.contains(word), "{said}");
    }
    assert_eq!(owner(&root), OWN);
}

#[test]
fn without_capabilities_it_says_which_user_to_start_as() {
    let place = place();
    let bare_root = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    for (name, owner, filled) in
        [("empty", 0, false), ("volume", OWN, false), ("other", 1234, true)]
    {
        let root = directory(&place, name, owner, filled);
        let (code, said) = refused(&root, &bare_root, &[ASKED]);
        assert_eq!(code, Some(78), "{name}: {said}");
        let user = if filled { 1234 } else { OWN };
        assert!(said.contains(&format!("--user {user}:{user}")), "{name}: {said}");
    }
}

#[test]
fn in_a_namespace_without_that_user_it_goes_on_as_it_is() {
    let place = place();
    let root = directory(&place, "data", 0, false);
    let log = root.with_extension("log");
    let mut child = Command::new("unshare")
        .args(["--user", "--map-root-user", BINARY, "serve", "--addr", "127.0.0.1:0", "--root"])
        .arg(&root)
        .env(ASKED.0, ASKED.1)
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let said = wait("it serves", || {
        let said = fs::read_to_string(&log).unwrap();
        said.contains("serving").then_some(said)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(said.matches("this process stays root").count(), 1, "{said}");
    assert_eq!(owner(&root), 0);
}

#[test]
fn capabilities_that_are_kept_are_noticed() {
    let place = place();
    let root = directory(&place, "data", 0, true);
    let left_out = ("REGISTRY_FAILPOINTS", "root-keeps-capabilities=off");
    let server = Server::start(&root, &[ASKED, left_out]);
    assert!(!bare(&server), "the check above would not see that they are kept");
    server.stop();
}
