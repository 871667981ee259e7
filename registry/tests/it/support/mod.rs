//! The built registry, started by itself, and a client of raw HTTP/1.1.
#![allow(unreachable_pub, reason = "what the suites share")]

#[cfg(target_arch = "x86_64")]
pub mod tracer;

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use shared::Digest;

pub const BINARY: &str = env!("CARGO_BIN_EXE_registry");

/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const BYTES: &str = "application/octet-stream";

/// Waits until `done` gives something.
pub fn wait<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(began.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The number that a metric has; 0 without one.
pub fn metric(client: &mut Client, name: &str) -> f64 {
    let text = String::from_utf8(client.get("/metrics").unwrap().body).unwrap();
    let line =
        text.lines().find(|line| line.strip_prefix(name).is_some_and(|l| l.starts_with(' ')));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

/// A running server. Killed when dropped.
pub struct Server {
    pub address: String,
    pub root: PathBuf,
    child: Child,
}

impl Server {
    /// Starts on a free port and waits until it serves.
    pub fn start(root: &Path, environment: &[(&str, &str)]) -> Self {
        let log = root.with_extension("log");
        let file = std::fs::File::create(&log).unwrap();
        let child = Command::new(BINARY)
            .args(["serve", "--addr", "127.0.0.1:0", "--root"])
            .arg(root)
            .env("REGISTRY_LOG_FORMATTER", "json")
            .envs(environment.iter().copied())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self { address: String::new(), root: root.to_owned(), child };
        server.address = wait("the server starts", || {
            let text = std::fs::read_to_string(&log).unwrap();
            assert!(server.child.try_wait().unwrap().is_none(), "the server ended: {text}");
            let (_, rest) = text.split_once("\"address\":\"")?;
            rest.split_once('"').map(|(address, _)| address.to_owned())
        });
        server
    }

    pub fn client(&self) -> Client {
        Client::new(&self.address)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.root.with_extension("log")).unwrap()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and waits for an orderly end.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = wait("the server stops", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}: {}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs an operator's command on a directory.
pub fn command(root: &Path, arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).arg("--root").arg(root).output().unwrap()
}

/// `fsck --json`, which must find no damage. Its report.
pub fn sound(root: &Path) -> serde_json::Value {
    let output = command(root, &["fsck", "--json"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "fsck: {text} {talk}");
    serde_json::from_str(&text).unwrap()
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One connection, opened anew when it was closed.
pub struct Client {
    address: String,
    connection: Option<BufReader<TcpStream>>,
    /// The `Authorization` of every request.
    pub authorization: Option<String>,
}

impl Client {
    pub fn new(address: &str) -> Self {
        Self { address: address.to_owned(), connection: None, authorization: None }
    }

    /// Sends a request and reads the whole answer. An error is the connection's.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> io::Result<Answer> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(&self.address)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                stream.set_nodelay(true)?;
                BufReader::new(stream)
            }
        };
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        head += &format!("Content-Length: {}\r\n", body.len());
        if !content_type.is_empty() {
            head += &format!("Content-Type: {content_type}\r\n");
        }
        if let Some(authorization) = &self.authorization {
            head += &format!("Authorization: {authorization}\r\n");
        }
        head += "\r\n";
        let mut message = head.into_bytes();
        message.extend_from_slice(body);
        connection.get_mut().write_all(&message)?;
        let answer = read_answer(&mut connection, method == "HEAD")?;
        let closes = answer.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        self.connection = (!closes).then_some(connection);
        Ok(answer)
    }

    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.request("GET", path, "", b"")
    }

    pub fn head(&mut self, path: &str) -> io::Result<Answer> {
        self.request("HEAD", path, "", b"")
    }

    pub fn delete(&mut self, path: &str) -> io::Result<Answer> {
        self.request("DELETE", path, "", b"")
    }

    /// POST and PUT.
    pub fn push_blob(&mut self, repo: &str, bytes: &[u8]) -> io::Result<Answer> {
        let digest = Digest::sha256(bytes);
        let started = self.request("POST", &format!("/v2/{repo}/blobs/uploads/"), "", b"")?;
        let Some(location) = location(&started) else { return Ok(started) };
        let join = if location.contains('?') { '&' } else { '?' };
        self.request("PUT", &format!("{location}{join}digest={digest}"), BYTES, bytes)
    }

    /// POST, PATCH, PATCH, PUT.
    pub fn push_blob_in_chunks(&mut self, repo: &str, bytes: &[u8]) -> io::Result<Answer> {
        let digest = Digest::sha256(bytes);
        let mut last = self.request("POST", &format!("/v2/{repo}/blobs/uploads/"), "", b"")?;
        for half in [&bytes[..bytes.len() / 2], &bytes[bytes.len() / 2..]] {
            let Some(location) = location(&last) else { return Ok(last) };
            last = self.request("PATCH", &location, BYTES, half)?;
        }
        let Some(location) = location(&last) else { return Ok(last) };
        let join = if location.contains('?') { '&' } else { '?' };
        self.request("PUT", &format!("{location}{join}digest={digest}"), "", b"")
    }

    pub fn mount(&mut self, repo: &str, digest: &Digest, from: &str) -> io::Result<Answer> {
        self.request(
            "POST",
            &format!("/v2/{repo}/blobs/uploads/?mount={digest}&from={from}"),
            "",
            b"",
        )
    }

    pub fn push_manifest(&mut self, repo: &str, reference: &str, text: &str) -> io::Result<Answer> {
        self.request("PUT", &format!("/v2/{repo}/manifests/{reference}"), MANIFEST, text.as_bytes())
    }

    /// Pulls an image whole and checks every byte. `Err` says what is wrong.
    pub fn pull(&mut self, repo: &str, reference: &str) -> Result<(), String> {
        let path = format!("/v2/{repo}/manifests/{reference}");
        let manifest = self.get(&path).map_err(|error| format!("{path}: {error}"))?;
        if manifest.status != 200 {
            return Err(format!("{path}: {} {}", manifest.status, manifest.text()));
        }
        let parsed: serde_json::Value =
            serde_json::from_slice(&manifest.body).map_err(|error| format!("{path}: {error}"))?;
        let layers = parsed["layers"].as_array().cloned().unwrap_or_default();
        for descriptor in layers.iter().chain(std::iter::once(&parsed["config"])) {
            let digest = descriptor["digest"].as_str().unwrap_or_default();
            let path = format!("/v2/{repo}/blobs/{digest}");
            let blob = self.get(&path).map_err(|error| format!("{path}: {error}"))?;
            if blob.status != 200 || Digest::sha256(&blob.body).to_string() != digest {
                return Err(format!("{reference}: {path}: {} {}", blob.status, blob.body.len()));
            }
        }
        Ok(())
    }
}

/// The path of an upload's next request.
fn location(answer: &Answer) -> Option<String> {
    let location = answer.header("location").filter(|_| answer.status == 202)?;
    Some(location[location.find("/v2/")?..].to_owned())
}

fn read_answer(connection: &mut BufReader<TcpStream>, head: bool) -> io::Result<Answer> {
    let mut line = String::new();
    let mut next = |connection: &mut BufReader<TcpStream>| -> io::Result<String> {
        line.clear();
        if connection.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    };
    let status = next(connection)?;
    let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
    let mut answer = Answer { status: status.unwrap_or(0), headers: Vec::new(), body: Vec::new() };
    loop {
        let text = next(connection)?;
        let Some((name, value)) = text.split_once(':') else { break };
        answer.headers.push((name.to_owned(), value.trim().to_owned()));
    }
    if head || answer.status == 204 || answer.status == 304 {
        return Ok(answer);
    }
    if let Some(length) = answer.header("content-length") {
        let length = length.parse().map_err(|_| io::ErrorKind::InvalidData)?;
        answer.body = vec![0; length];
        connection.read_exact(&mut answer.body)?;
        return Ok(answer);
    }
    loop {
        let size = next(connection)?;
        let size = usize::from_str_radix(&size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut chunk = vec![0; size + 2];
        connection.read_exact(&mut chunk)?;
        answer.body.extend_from_slice(&chunk[..size]);
        if size == 0 {
            return Ok(answer);
        }
    }
}

/// An image manifest over these blobs; the first is its config.
pub fn image(blobs: &[&[u8]]) -> String {
    let descriptor = |kind: &str, bytes: &[u8]| {
        serde_json::json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": Digest::sha256(bytes).to_string(),
            "size": bytes.len(),
        })
    };
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("config.v1+json", blobs[0]),
        "layers": blobs[1..].iter().map(|b| descriptor("layer.v1.tar", b)).collect::<Vec<_>>(),
    })
    .to_string()
}
