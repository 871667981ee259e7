//! A host of its own in a network of its own.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::container::support::{Entry, Host, Said, said, until};

/// The host's address towards its neighbour.
pub(crate) const HOST: &str = "192.0.2.1";
pub(crate) const NEIGHBOUR: &str = "192.0.2.2";

/// How long an answer may take, and how long none is waited for.
const ANSWER: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_millis(400);

/// Serves `/www`, which says where it comes from.
pub(crate) const SERVER: &str = "exec httpd -f -p 80 -h /www";

pub(crate) struct Site {
    pub(crate) host: Host,
    neighbour: Child,
}

/// Runs a test on a host in a network namespace of its own, with a neighbour at [`NEIGHBOUR`].
pub(crate) fn on_site(test: impl FnOnce(&Site) + Send) {
    let extra = [Entry::Directory("www", 0o755), Entry::File("www/index.html", b"hello\n")];
    let config = json!({ "Env": ["PATH=/bin"], "Cmd": ["sh"], "ExposedPorts": {"80/tcp": {}} });
    // The image comes from a registry in the namespace of all.
    let host = Host::with(&extra, &config);
    let ended = std::thread::scope(|scope| {
        let run = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            test(&Site::new(host));
        };
        scope.spawn(run).join()
    });
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

/// A program of this host's that must succeed.
pub(crate) fn tool(words: &[&str]) -> String {
    let said = said(Command::new(words[0]).args(&words[1..]).output().unwrap());
    assert_eq!(said.code, 0, "{words:?}: {said:?}");
    said.out
}

pub(crate) fn nft(script: &str) {
    tool(&["nft", script]);
}

impl Site {
    fn new(host: Host) -> Self {
        let neighbour = Command::new("unshare")
            .args(["--net", "sleep", "1000"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = neighbour.id().to_string();
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        until("the neighbour", || {
            let theirs = std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
            (theirs != own).then_some(())
        });
        let site = Self { host, neighbour };
        tool(&["ip", "link", "set", "lo", "up"]);
        tool(&["ip", "link", "add", "up0", "type", "veth", "peer", "eth0", "netns", &pid]);
        tool(&["ip", "address", "add", "192.0.2.1/24", "dev", "up0"]);
        tool(&["ip", "link", "set", "up0", "up"]);
        site.outside(|| {
            tool(&["ip", "address", "add", "192.0.2.2/24", "dev", "eth0"]);
            tool(&["ip", "link", "set", "eth0", "up"]);
            tool(&["ip", "link", "set", "lo", "up"]);
        });
        site
    }

    /// Does something as the neighbour.
    pub(crate) fn outside<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/proc/{}/ns/net", self.neighbour.id())).unwrap();
        std::thread::scope(|scope| {
            let run = || {
                let kind = nix::sched::CloneFlags::CLONE_NEWNET;
                nix::sched::setns(namespace.as_fd(), kind).unwrap();
                what()
            };
            scope.spawn(run).join().unwrap()
        })
    }

    /// Answers every datagram that comes to this port of the network of process `pid` with whom it
    /// came from.
    pub(crate) fn echo_inside(&self, pid: i32, port: u16) {
        let namespace = File::open(format!("/proc/{pid}/ns/net")).unwrap();
        let socket = std::thread::spawn(move || {
            nix::sched::setns(namespace.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            UdpSocket::bind(("0.0.0.0", port)).unwrap()
        });
        let socket = socket.join().unwrap();
        // It ends with this process.
        std::thread::spawn(move || {
            let mut bytes = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut bytes) {
                let _ = socket.send_to(from.ip().to_string().as_bytes(), from);
            }
        });
    }

    /// `web`: a server with these flags, once it answers.
    pub(crate) fn serve(&self, name: &str, flags: &[&str]) {
        self.host.detached(name, flags, SERVER);
        let address = format!("{}:80", self.address(name));
        until("the server", || get(&address));
    }

    /// Address of a container in the default network.
    pub(crate) fn address(&self, name: &str) -> String {
        self.inspect("{{.NetworkSettings.IPAddress}}", name)
    }

    pub(crate) fn inspect(&self, format: &str, name: &str) -> String {
        self.host.ok(&["inspect", "-f", format, name]).trim().to_owned()
    }

    /// What a new container with these flags hears from `http://address:port`.
    pub(crate) fn fetch_inside(&self, flags: &[&str], address: &str, port: u16) -> Said {
        self.host.shell(flags, &fetch(address, port))
    }

    /// The rules, without what packets change.
    pub(crate) fn rules(&self) -> String {
        tool(&["nft", "-s", "list", "ruleset"])
    }
}

/// A script that prints the last line of the answer.
pub(crate) fn fetch(address: &str, port: u16) -> String {
    format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} {port} | tail -n 1")
}

/// What a server answers to this thread; `None`: nothing.
pub(crate) fn get(address: &str) -> Option<String> {
    let address: SocketAddr = address.parse().unwrap();
    let stream = TcpStream::connect_timeout(&address, SILENCE).ok()?;
    stream.set_read_timeout(Some(ANSWER)).unwrap();
    let mut answer = String::new();
    (&stream).write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    (&stream).read_to_string(&mut answer).ok()?;
    Some(answer.rsplit("\r\n").next().unwrap_or_default().to_owned())
}

/// What comes back for one datagram from `from`.
pub(crate) fn echo(from: &UdpSocket, to: &str) -> Option<String> {
    from.set_read_timeout(Some(SILENCE)).unwrap();
    from.send_to(b"ping\n", to).ok()?;
    let mut bytes = [0; 64];
    let (count, _) = from.recv_from(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.neighbour.kill();
        let _ = self.neighbour.wait();
    }
}
