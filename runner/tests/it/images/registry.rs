//! A registry of a few lines, with faults on demand. It answers what `rrun pull` asks.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use shared::Digest;

use crate::corpus::Encoding;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What goes wrong with one blob.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fault {
    /// Close the connection after so many bytes, so many times.
    pub(crate) cut: Option<(usize, u32)>,
    /// Wait so long after every 64 KiB.
    pub(crate) slow: Option<Duration>,
    /// Answer 200 from the start whatever range is asked for.
    pub(crate) no_ranges: bool,
}

#[derive(Default)]
pub(crate) struct State {
    blobs: HashMap<String, Vec<u8>>,
    /// By `repository tag` and `repository digest`: media type and bytes.
    manifests: HashMap<(String, String), (String, Vec<u8>)>,
    pub(crate) faults: HashMap<String, Fault>,
    /// `GET /v2/… range`, in order.
    pub(crate) log: Vec<String>,
    /// Authorization headers as they came.
    pub(crate) authorizations: Vec<String>,
    /// Ask for a token; the realm is this server's `/token`, or another one.
    pub(crate) wants_token: bool,
    pub(crate) realm: Option<String>,
    /// Who may pull: `user:password` in base64. Asked for by a token, or directly.
    pub(crate) login: Option<String>,
    pub(crate) asks_directly: bool,
    /// Send blobs elsewhere.
    pub(crate) redirect_blobs_to: Option<String>,
    pub(crate) etag: Option<String>,
    /// Send another manifest digest than the content's.
    pub(crate) wrong_digest_header: bool,
}

#[derive(Clone)]
pub(crate) struct Registry {
    state: Arc<Mutex<State>>,
    pub(crate) address: String,
}

impl Registry {
    /// Listens until the process ends.
    pub(crate) fn start() -> Self {
        Self::start_at("127.0.0.1:0")
    }

    pub(crate) fn start_at(address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let registry = Self { state: Arc::default(), address };
        let serving = registry.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let registry = serving.clone();
                std::thread::spawn(move || registry.serve(&stream));
            }
        });
        registry
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    pub(crate) fn blob(&self, bytes: Vec<u8>) -> String {
        let digest = Digest::sha256(&bytes).to_string();
        self.state().blobs.insert(digest.clone(), bytes);
        digest
    }

    pub(crate) fn blob_bytes(&self, digest: &str) -> Vec<u8> {
        self.state().blobs[digest].clone()
    }

    pub(crate) fn blob_digests(&self) -> Vec<String> {
        self.state().blobs.keys().cloned().collect()
    }

    pub(crate) fn forget_blob(&self, digest: &str) {
        self.state().blobs.remove(digest);
    }

    /// Serves other bytes under the digest.
    pub(crate) fn replace_blob(&self, digest: &str, bytes: Vec<u8>) {
        self.state().blobs.insert(digest.to_owned(), bytes);
    }

    pub(crate) fn manifest(&self, name: &str, media_type: &str, manifest: &Value) -> String {
        let bytes = serde_json::to_vec(manifest).unwrap();
        let digest = Digest::sha256(&bytes).to_string();
        let (repository, tag) = name.split_once(':').unwrap();
        for key in [tag, &digest] {
            let key = (repository.to_owned(), key.to_owned());
            self.state().manifests.insert(key, (media_type.to_owned(), bytes.clone()));
        }
        digest
    }

    /// An image of these layers; answers the digests of manifest and layers' blobs.
    pub(crate) fn image(
        &self,
        name: &str,
        layers: &[(Vec<u8>, Encoding)],
    ) -> (String, Vec<String>) {
        let mut parts = Parts::default();
        for (tar, encoding) in layers {
            parts.add(self, tar, *encoding);
        }
        let manifest = parts.manifest(self, json!({ "architecture": "amd64", "os": "linux" }));
        (self.manifest(name, MANIFEST, &manifest), parts.blobs)
    }

    fn serve(&self, mut stream: &TcpStream) {
        let mut first = [0];
        if stream.peek(&mut first).is_ok() && first == [0x16] {
            // Somebody speaks TLS.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        let mut reader = BufReader::new(stream);
        while let Some(request) = Request::read(&mut reader) {
            if !self.answer(&request, stream).unwrap_or(false) {
                return;
            }
        }
    }

    /// Answers whether the connection may go on.
    fn answer(&self, request: &Request, stream: &TcpStream) -> std::io::Result<bool> {
        {
            let mut state = self.state();
            let line = format!("{} {} {}", request.method, request.path, request.header("range"));
            state.log.push(line.trim().to_owned());
            let authorization = request.header("authorization").to_owned();
            if !authorization.is_empty() {
                state.authorizations.push(authorization);
            }
        }
        if request.path.starts_with("/token") {
            return self.answer_token(request, stream);
        }
        if !self.lets_in(request) {
            let challenge = if self.state().asks_directly {
                "Www-Authenticate: Basic realm=\"test\"".to_owned()
            } else {
                self.challenge()
            };
            let body =
                br#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
            return respond(stream, request, "401 Unauthorized", &[challenge], body);
        }
        if self.state().wants_token && request.header("authorization").is_empty() {
            return respond(stream, request, "401 Unauthorized", &[self.challenge()], b"{}");
        }
        let path = request.path.split('?').next().unwrap_or_default();
        if path == "/v2/" {
            return respond(stream, request, "200 OK", &[], b"{}");
        }
        let path = path.strip_prefix("/v2/").unwrap_or_default();
        if let Some((repository, name)) = path.split_once("/manifests/") {
            return self.answer_manifest(request, stream, repository, name);
        }
        if let Some((_, digest)) = path.split_once("/blobs/") {
            return self.answer_blob(request, stream, digest);
        }
        if let Some(repository) = path.strip_suffix("/tags/list") {
            let tags: Vec<String> = self
                .state()
                .manifests
                .keys()
                .filter(|(known, tag)| known == repository && !tag.contains(':'))
                .map(|(_, tag)| tag.clone())
                .collect();
            return respond_page(stream, request, repository, tags);
        }
        respond(stream, request, "404 Not Found", &[], b"{}")
    }

    fn challenge(&self) -> String {
        let own = format!("http://{}/token", self.address);
        let realm = self.state().realm.clone().unwrap_or(own);
        format!("Www-Authenticate: Bearer realm=\"{realm}\",service=\"test\"")
    }

    fn lets_in(&self, request: &Request) -> bool {
        let state = self.state();
        let Some(login) = &state.login else { return true };
        let given = request.header("authorization");
        match given.split_once(' ') {
            Some(("Bearer", token)) => token == "user-token",
            Some(("Basic", given)) => state.asks_directly && given == login,
            _ => false,
        }
    }

    fn answer_token(&self, request: &Request, stream: &TcpStream) -> std::io::Result<bool> {
        let login = self.state().login.clone();
        let given = request.header("authorization").strip_prefix("Basic ").map(str::to_owned);
        let token = match (login, given) {
            (None, _) => "anonymous-token",
            (Some(login), Some(given)) if given == login => "user-token",
            (Some(_), Some(_)) => {
                let body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"wrong password"}]}"#;
                return respond(stream, request, "401 Unauthorized", &[], body);
            }
            (Some(_), None) if request.body.contains("refresh_token=kept-token") => "user-token",
            (Some(_), None) => "anonymous-token",
        };
        let body = json!({ "token": token }).to_string();
        respond(stream, request, "200 OK", &[], body.as_bytes())
    }

    fn answer_manifest(
        &self,
        request: &Request,
        stream: &TcpStream,
        repository: &str,
        name: &str,
    ) -> std::io::Result<bool> {
        let key = (repository.to_owned(), name.to_owned());
        let (found, wrong) = {
            let state = self.state();
            (state.manifests.get(&key).cloned(), state.wrong_digest_header)
        };
        let Some((media_type, bytes)) = found else {
            let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
            return respond(stream, request, "404 Not Found", &[], body);
        };
        let digest = if wrong { Digest::sha256(b"other") } else { Digest::sha256(&bytes) };
        let headers =
            [format!("Content-Type: {media_type}"), format!("Docker-Content-Digest: {digest}")];
        respond(stream, request, "200 OK", &headers, &bytes)
    }

    fn answer_blob(
        &self,
        request: &Request,
        mut stream: &TcpStream,
        digest: &str,
    ) -> std::io::Result<bool> {
        let (bytes, fault, redirect, etag) = {
            let state = self.state();
            let etag = state.etag.clone().unwrap_or_else(|| format!("\"{digest}\""));
            let fault = state.faults.get(digest).copied().unwrap_or_default();
            (state.blobs.get(digest).cloned(), fault, state.redirect_blobs_to.clone(), etag)
        };
        if let Some(to) = redirect {
            let location = format!("Location: {to}{}", request.path);
            return respond(stream, request, "307 Temporary Redirect", &[location], b"");
        }
        let Some(bytes) = bytes else {
            let body = br#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#;
            return respond(stream, request, "404 Not Found", &[], body);
        };
        let range = request.header("range").strip_prefix("bytes=").map(str::to_owned);
        let from = range.and_then(|range| range.trim_end_matches('-').parse::<usize>().ok());
        let same = ["", etag.as_str()].contains(&request.header("if-range"));
        let from = from.filter(|_| same && !fault.no_ranges);
        let (status, start) = match from {
            Some(from) if from < bytes.len() => ("206 Partial Content", from),
            Some(_) => return respond(stream, request, "416 Range Not Satisfiable", &[], b""),
            None => ("200 OK", 0),
        };
        let mut head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: {etag}\r\n",
            bytes.len() - start
        );
        if from.is_some() {
            head +=
                &format!("Content-Range: bytes {start}-{}/{}\r\n", bytes.len() - 1, bytes.len());
        }
        stream.write_all((head + "\r\n").as_bytes())?;
        let mut body = &bytes[start..];
        let mut whole = true;
        if let Some((after, times)) =
            fault.cut.filter(|(after, times)| *times > 0 && body.len() > *after)
        {
            body = &body[..after];
            whole = false;
            if let Some(fault) = self.state().faults.get_mut(digest) {
                fault.cut = Some((after, times - 1));
            }
        }
        for piece in body.chunks(64 << 10) {
            stream.write_all(piece)?;
            if let Some(pause) = fault.slow {
                std::thread::sleep(pause);
            }
        }
        Ok(whole)
    }
}

/// The parts of an image that is being made.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) blobs: Vec<String>,
    pub(crate) descriptors: Vec<Value>,
    pub(crate) diff_ids: Vec<String>,
}

impl Parts {
    pub(crate) fn add(&mut self, registry: &Registry, tar: &[u8], encoding: Encoding) {
        // Layers whose first bytes say that they are compressed are what they are: broken ones.
        self.diff_ids.push(Digest::sha256(tar).to_string());
        let blob = encode(tar, encoding);
        let size = blob.len();
        let digest = registry.blob(blob);
        let suffix = match encoding {
            Encoding::Plain | Encoding::GzipUnsaid => "",
            Encoding::Gzip | Encoding::GzipTwice => "+gzip",
            Encoding::Zstd | Encoding::ZstdFrames => "+zstd",
        };
        self.descriptors.push(json!({
            "mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
            "digest": digest, "size": size,
        }));
        self.blobs.push(digest);
    }

    pub(crate) fn manifest(&self, registry: &Registry, mut config: Value) -> Value {
        config["rootfs"] = json!({ "type": "layers", "diff_ids": self.diff_ids });
        config["config"] = json!({ "Cmd": ["sh"], "Labels": { "kind": "test" } });
        let config = serde_json::to_vec(&config).unwrap();
        let size = config.len();
        json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": registry.blob(config), "size": size,
            },
            "layers": self.descriptors,
        })
    }
}

fn encode(tar: &[u8], encoding: Encoding) -> Vec<u8> {
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    let (first, second) = tar.split_at(tar.len() / 2);
    match encoding {
        Encoding::Plain => tar.to_vec(),
        Encoding::Gzip | Encoding::GzipUnsaid => gzip(tar),
        Encoding::Zstd => zstd(tar),
        Encoding::GzipTwice => [gzip(first), gzip(second)].concat(),
        Encoding::ZstdFrames => {
            let skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc";
            [&skippable[..], &zstd(first), &zstd(second), skippable].concat()
        }
    }
}

struct Request {
    method: String,
    path: String,
    headers: HashMap<String, String>,
    body: String,
}

impl Request {
    fn read(reader: &mut impl BufRead) -> Option<Self> {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&count| count > 0)?;
        let mut words = line.split_whitespace();
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).ok()?;
        let body = String::from_utf8_lossy(&body).into_owned();
        Some(Self { method, path, headers, body })
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// Two tags a page, whatever was asked for.
fn respond_page(
    stream: &TcpStream,
    request: &Request,
    repository: &str,
    mut tags: Vec<String>,
) -> std::io::Result<bool> {
    tags.sort();
    let last = request.path.split("last=").nth(1).map(|rest| rest.split('&').next().unwrap());
    tags.retain(|tag| last.is_none_or(|last| tag.as_str() > last));
    let mut headers = Vec::new();
    if tags.len() > 2 {
        tags.truncate(2);
        let next = format!("/v2/{repository}/tags/list?last={}&n=2", tags[1]);
        headers.push(format!("Link: <{next}>; rel=\"next\""));
    }
    let body = json!({ "name": repository, "tags": tags }).to_string();
    respond(stream, request, "200 OK", &headers, body.as_bytes())
}

fn respond(
    mut stream: &TcpStream,
    request: &Request,
    status: &str,
    headers: &[String],
    body: &[u8],
) -> std::io::Result<bool> {
    let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
    for header in headers {
        head += &format!("{header}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    if request.method != "HEAD" {
        stream.write_all(body)?;
    }
    Ok(true)
}
