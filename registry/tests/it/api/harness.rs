//! A server on a free port and a client that hides nothing.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use registry::config::{Config, Storage};
use registry::store::memory::Options;
use shared::{Algorithm, Digest};
use tempfile::TempDir;

/// In the environment, it has every registry here keep everything in memory.
pub(crate) const IN_MEMORY: &str = "REGISTRY_TEST_INMEMORY";

/// A registry in a directory of its own. Stops when dropped.
pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    pub(crate) debug_address: Option<SocketAddr>,
    dir: Option<TempDir>,
    stop: Option<Box<dyn FnOnce() + Send + Sync>>,
    thread: Option<JoinHandle<()>>,
}

impl Registry {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub(crate) fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(TempDir::new().unwrap(), change)
    }

    pub(crate) fn start_in(dir: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            addr: "127.0.0.1:0".to_owned(),
            root: dir.path().to_owned(),
            workers: Some(2),
            ..Config::default()
        };
        config.store.reserve = Some(0);
        if std::env::var_os(IN_MEMORY).is_some() {
            config.storage = Storage::Memory(Options::default());
        }
        change(&mut config);
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                let started = registry::start(&config).unwrap();
                let handle = started.handle();
                let system = actix_rt::System::current();
                let arbiter = system.arbiter().clone();
                let stop = move || {
                    arbiter.spawn(async move { handle.stop(true).await });
                };
                let stop: Box<dyn FnOnce() + Send + Sync> = Box::new(stop);
                tell.send((started.address, started.debug_address, stop)).unwrap();
                started.wait().await.unwrap();
            });
        });
        let (address, debug_address, stop) = told.recv_timeout(Duration::from_secs(30)).unwrap();
        Self { address, debug_address, dir: Some(dir), stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    /// Stops the server and gives its directory.
    pub(crate) fn stop(mut self) -> TempDir {
        self.end();
        self.dir.take().unwrap()
    }

    fn end(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop();
        }
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let tcp = TcpStream::connect(self.address).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        tcp
    }

    /// Sends bytes as they are, and reads until the server closes.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut tcp = self.connect();
        let _ = tcp.write_all(bytes);
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer);
        answer
    }

    /// One request on a connection of its own.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nHost: registry\r\nConnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        let chunked =
            headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding"));
        let mut bytes;
        if chunked {
            bytes = format!("{request}\r\n").into_bytes();
            for piece in body.chunks(1000) {
                bytes.extend(format!("{:x}\r\n", piece.len()).bytes());
                bytes.extend(piece);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
        } else {
            bytes = format!("{request}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
            bytes.extend(body);
        }
        let answer = self.raw(&bytes);
        Answer::parse(&answer).unwrap_or_else(|| {
            panic!("{method} {path}: no answer in {:?}", String::from_utf8_lossy(&answer))
        })
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    pub(crate) fn head(&self, path: &str) -> Answer {
        self.send("HEAD", path, &[], b"")
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], b"")
    }

    /// Starts an upload and gives its path.
    pub(crate) fn start_upload(&self, repo: &str) -> String {
        let answer = self.send("POST", &format!("/v2/{repo}/blobs/uploads/"), &[], b"");
        assert_eq!(answer.status, 202);
        answer.header("location").unwrap().to_owned()
    }

    /// Pushes a blob and gives its digest.
    pub(crate) fn push_blob(&self, repo: &str, content: &[u8]) -> Digest {
        let digest = Digest::sha256(content);
        let path = format!("/v2/{repo}/blobs/uploads/?digest={digest}");
        assert_eq!(self.send("POST", &path, &[], content).status, 201);
        digest
    }

    /// Pushes an image of one config under `reference` and gives its bytes.
    pub(crate) fn push_image(&self, repo: &str, reference: &str, config: &[u8]) -> Vec<u8> {
        let config = self.push_blob(repo, config);
        let manifest = image(&config, 2, "");
        self.put_manifest(repo, reference, &manifest).expect(201);
        manifest
    }

    pub(crate) fn put_manifest(&self, repo: &str, reference: &str, bytes: &[u8]) -> Answer {
        let kind = if String::from_utf8_lossy(bytes).contains("\"manifests\"") {
            shared::media_type::OCI_INDEX
        } else {
            shared::media_type::OCI_MANIFEST
        };
        let path = format!("/v2/{repo}/manifests/{reference}");
        self.send("PUT", &path, &[("Content-Type", kind)], bytes)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.end();
    }
}

/// An image manifest; `more` stands before its closing brace.
pub(crate) fn image(config: &Digest, size: usize, more: &str) -> Vec<u8> {
    format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":{size}}},"layers":[]{more}}}"#
    )
    .into_bytes()
}

/// `,"subject":{…}` for [`image`].
pub(crate) fn subject(digest: &Digest) -> String {
    format!(
        r#","subject":{{"mediaType":"{}","digest":"{digest}","size":7}}"#,
        shared::media_type::OCI_MANIFEST
    )
}

pub(crate) fn sha512(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha512, content)
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Reads the first final answer in `bytes`; what follows its head is its body.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        if status == 100 {
            return Self::parse(&bytes[end + 4..]);
        }
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Some(Self { status, headers, body: bytes[end + 4..].to_vec() })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The error codes of a failed request.
    pub(crate) fn codes(&self) -> Vec<String> {
        let body: shared::error_code::ErrorBody = serde_json::from_slice(&self.body).unwrap();
        body.errors.into_iter().map(|error| error.code).collect()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    #[track_caller]
    pub(crate) fn expect_error(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert!(answer.codes().iter().all(|found| found == code), "{:?}", answer.codes());
        assert!(!answer.codes().is_empty());
        answer
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}
