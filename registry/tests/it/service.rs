//! As a service manager starts it: sockets that it hands over, and what it is told.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{self, Client, Server, image, wait};

/// Where the service manager hears.
struct Ear {
    socket: UnixDatagram,
    path: String,
    _directory: tempfile::TempDir,
}

impl Ear {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, path: path.to_string_lossy().into_owned(), _directory: directory }
    }

    /// Whether this is said within `patience`; what else is said meanwhile is passed over.
    fn hears(&self, words: &str, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.socket.set_read_timeout(Some(left)).unwrap();
            let mut buffer = [0; 1024];
            let Ok(length) = self.socket.recv(&mut buffer) else { return false };
            if String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == words) {
                return true;
            }
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

fn signal(server: &Server, signal: Signal) {
    kill(Pid::from_raw(server.pid().try_into().unwrap()), signal).unwrap();
}

#[test]
fn the_service_manager_is_told_what_goes_on() {
    let (directory, ear) = (tempfile::tempdir().unwrap(), Ear::new());
    let environment = [("NOTIFY_SOCKET", ear.path.as_str())];
    let server = Server::start(&directory.path().join("store"), &environment);
    assert!(ear.hears("READY=1", PATIENCE));
    assert_eq!(server.client().get("/readyz").unwrap().status, 200);
    signal(&server, Signal::SIGHUP);
    assert!(ear.hears("RELOADING=1", PATIENCE));
    assert!(ear.hears("READY=1", PATIENCE));
    signal(&server, Signal::SIGTERM);
    assert!(ear.hears("STOPPING=1", PATIENCE));
}

#[test]
fn the_watchdog_is_fed_by_workers_that_get_on() {
    let (directory, ear) = (tempfile::tempdir().unwrap(), Ear::new());
    let armed = directory.path().join("armed");
    let environment = [
        ("NOTIFY_SOCKET", ear.path.as_str()),
        ("WATCHDOG_USEC", "600000"),
        ("REGISTRY_FAILPOINTS", "manifest-read=hang;read-on-pool=off"),
        ("REGISTRY_FAILPOINTS_ARMED", armed.to_str().unwrap()),
    ];
    let server = Server::start(&directory.path().join("store"), &environment);
    for _ in 0..3 {
        assert!(ear.hears("WATCHDOG=1", PATIENCE));
    }
    let mut client = server.client();
    assert_eq!(client.push_blob("app", b"{}").unwrap().status, 201);
    std::fs::write(&armed, "").unwrap();
    let filler = format!("{{\"annotations\":{{\"n\":\"{}\"}},", "x".repeat(100_000));
    let large = image(&[b"{}"]).replacen('{', &filler, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| client.push_manifest("app", "v1", &large));
        // One of the workers hangs: within two periods it is missed.
        wait("the log says so", || server.log().contains("does not get on").then_some(()));
        while ear.hears("WATCHDOG=1", Duration::from_millis(1)) {}
        assert!(!ear.hears("WATCHDOG=1", Duration::from_millis(900)));
        std::fs::remove_file(&armed).unwrap();
    });
    assert!(ear.hears("WATCHDOG=1", PATIENCE));
}

/// Starts the registry with descriptors 3 and 4, as a service manager does.
fn activate(root: &Path, names: &str, sockets: [OwnedFd; 2], debug: Option<&str>) -> Child {
    let [first, second] = sockets;
    let script = "exec 3<&0 4>&1 </dev/null >/dev/null; LISTEN_PID=$$ LISTEN_FDS=2 exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", support::BINARY, "serve", "--root"]).arg(root);
    // Would be in the way if it were bound.
    command.args(["--addr", "192.0.2.1:1"]).env("LISTEN_FDNAMES", names);
    command.envs(debug.map(|addr| ("REGISTRY_HTTP_DEBUG_ADDR", addr)));
    command.stdin(Stdio::from(first)).stdout(Stdio::from(second)).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// Ends a server, and gives what it said.
fn end(child: Child) -> String {
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    String::from_utf8_lossy(&child.wait_with_output().unwrap().stderr).into_owned()
}

#[test]
fn every_socket_that_is_handed_over_is_served_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let ((one, first), (two, second)) = (listener(), listener());
    // Before anybody serves: the kernel lets clients in, who wait.
    let mut early = Client::new(&first);
    let child = activate(&root, "web:web", [one.into(), two.into()], None);
    assert_eq!(early.get("/v2/").unwrap().status, 200);
    assert_eq!(Client::new(&second).get("/v2/").unwrap().status, 200);
    end(child);
}

#[test]
fn the_socket_called_debug_is_the_debug_listener() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let ((one, first), (two, second)) = (listener(), listener());
    let child = activate(&root, "web:debug", [one.into(), two.into()], Some("192.0.2.1:2"));
    assert_eq!(Client::new(&second).get("/metrics").unwrap().status, 200);
    assert_eq!(Client::new(&second).get("/v2/").unwrap().status, 404);
    assert_eq!(Client::new(&first).get("/v2/").unwrap().status, 200);
    assert_eq!(Client::new(&first).get("/metrics").unwrap().status, 404);
    end(child);
}

#[test]
fn a_socket_that_cannot_be_served_is_refused_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let datagrams = || UdpSocket::bind("127.0.0.1:0").unwrap().into();
    for (names, second, words) in [
        ("web:mail", datagrams(), "\"mail\" is no TCP socket that listens"),
        ("web:debug", listener().0.into(), "http.debug.addr is not set"),
        ("web", listener().0.into(), "invalid LISTEN_FDNAMES"),
    ] {
        let child = activate(&root, names, [listener().0.into(), second], None);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(words) && output.status.code() == Some(1), "{names}: {said}");
    }
}
