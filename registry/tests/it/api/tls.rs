//! The same over TLS: what must hold of connections holds there too, and certificates change while
//! the server runs.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use registry::config::Config;
use registry::tls::{Clients, Minimum, Settings, Tls};
use shared::Digest;
use tempfile::TempDir;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion, version,
};

use crate::api::harness::{Answer, Registry, wait_for};

const BINARY: &str = env!("CARGO_BIN_EXE_registry");

/// A folder with an authority and what it vouches for.
pub(crate) struct Lab(TempDir);

impl Lab {
    pub(crate) fn new() -> Self {
        let lab = Self(TempDir::new().unwrap());
        lab.openssl("req -x509 -days 9 -subj /CN=Lab -out ca.crt -keyout ca.key", &NEW_KEY);
        lab.vouch_for("server");
        lab
    }

    fn openssl(&self, words: &str, more: &[&str]) {
        let mut command = Command::new("openssl");
        command.args(words.split(' ')).args(more).current_dir(self.0.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{words}: {output:?}");
    }

    /// Makes `NAME.crt` and `NAME.key`, for 127.0.0.1.
    fn vouch_for(&self, name: &str) {
        std::fs::write(
            self.path("names"),
            "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n",
        )
        .unwrap();
        let request = format!("req -subj /CN={name} -out {name}.csr -keyout {name}.key");
        self.openssl(&request, &NEW_KEY);
        let signed = "x509 -req -days 9 -CA ca.crt -CAkey ca.key -CAcreateserial -extfile names";
        self.openssl(&format!("{signed} -in {name}.csr -out {name}.crt"), &[]);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn settings(&self, name: &str) -> Settings {
        let file = |kind| self.path(&format!("{name}.{kind}"));
        Settings::new(file("crt"), file("key"))
    }

    fn serve(&self, change: impl FnOnce(&mut Config)) -> Registry {
        Registry::start_with(|config| {
            config.tls = Some(self.settings("server"));
            change(config);
        })
    }

    pub(crate) fn client(
        &self,
        identity: Option<&str>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.path("ca.crt"))).unwrap();
        let provider = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap();
                let chain = vec![certificate(&self.path(&format!("{name}.crt")))];
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// A connection whose handshake is done, as far as the client knows.
    fn connect(&self, registry: &Registry) -> Client {
        connect(registry.connect(), self.client(None, &ALL)).unwrap()
    }

    fn get(&self, registry: &Registry, path: &str) -> Answer {
        ask(&mut self.connect(registry), "GET", path, "", b"")
    }

    /// What the server shows to a new client.
    fn shown(&self, registry: &Registry) -> CertificateDer<'static> {
        let client = self.connect(registry);
        client.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

pub(crate) const ALL: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

pub(crate) type Client = StreamOwned<ClientConnection, TcpStream>;

fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

pub(crate) fn connect(mut tcp: TcpStream, config: Arc<ClientConfig>) -> io::Result<Client> {
    let name = "localhost".try_into().unwrap();
    let mut session = ClientConnection::new(config, name).unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut tcp)?;
    }
    Ok(StreamOwned::new(session, tcp))
}

/// One request on a connection that goes on. `framing` is `""` for a `Content-Length`.
fn ask(
    client: &mut (impl Read + Write),
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> Answer {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}");
    let mut bytes = match headers.contains("chunked") {
        true => format!("{head}\r\n{length:x}\r\n").into_bytes(),
        false => format!("{head}Content-Length: {length}\r\n\r\n").into_bytes(),
    };
    bytes.extend(body);
    if headers.contains("chunked") {
        bytes.extend(b"\r\n0\r\n\r\n");
    }
    client.write_all(&bytes).unwrap();
    client.flush().unwrap();
    read_answer(client, method == "HEAD").unwrap()
}

fn read_answer(client: &mut impl Read, head: bool) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    let mut answer = Answer::parse(&bytes).unwrap();
    let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
    answer.body = vec![0; if head { 0 } else { length }];
    client.read_exact(&mut answer.body)?;
    Ok(answer)
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 16) as u8).collect()
}

#[test]
fn row_96_many_requests_go_over_one_tls_connection() {
    let lab = Lab::new();
    let registry = lab.serve(|_| {});
    for (round, versions) in [&ALL[..1], &ALL[1..]].into_iter().enumerate() {
        let mut client = connect(registry.connect(), lab.client(None, versions)).unwrap();
        assert_eq!(client.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        for length in [0, 1, 1000, 70_000, 3_000_000] {
            let bytes = content(length + round);
            let digest = Digest::sha256(&bytes);
            let start = ask(&mut client, "POST", "/v2/a/blobs/uploads/", "", b"").expect(202);
            let location = start.header("location").unwrap();
            assert!(location.starts_with("/v2/"), "{location}");
            let (first, last) = bytes.split_at(length / 3);
            let chunked = "Transfer-Encoding: chunked\r\n";
            if !first.is_empty() {
                ask(&mut client, "PATCH", location, chunked, first).expect(202);
            }
            let put = format!("{location}?digest={digest}");
            ask(&mut client, "PUT", &put, "", last).expect(201);
            let path = format!("/v2/a/blobs/{digest}");
            assert_eq!(ask(&mut client, "GET", &path, "", b"").expect(200).body, bytes);
            let head = ask(&mut client, "HEAD", &path, "", b"").expect(200);
            assert_eq!(head.header("content-length"), Some(bytes.len().to_string().as_str()));
            if length > 1000 {
                let range = "Range: bytes=500-69999\r\n";
                let part = ask(&mut client, "GET", &path, range, b"").expect(206);
                assert_eq!(part.body, bytes[500..70_000]);
            }
            ask(&mut client, "GET", "/v2/a/manifests/none", "", b"").expect(404);
        }
        // Behind each other, in one record.
        let pipelined = "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\nHEAD /v2/ HTTP/1.1\r\nHost: x\r\n\r\n";
        client.write_all(pipelined.as_bytes()).unwrap();
        assert_eq!(read_answer(&mut client, false).unwrap().expect(200).body, b"{}");
        read_answer(&mut client, true).unwrap().expect(200);
    }
}

/// A client that sends and reads at the same time, as Go's does.
fn send_and_read(client: Client, head: &str, body: usize) -> Option<Answer> {
    let (session, tcp) = client.into_parts();
    let session = Arc::new(Mutex::new(session));
    let mut wire = tcp.try_clone().unwrap();
    let sending = {
        let (session, mut left) = (Arc::clone(&session), body);
        let mut piece = head.as_bytes().to_vec();
        std::thread::spawn(move || {
            while !piece.is_empty() {
                let mut sealed = Vec::new();
                {
                    let mut session = session.lock().unwrap();
                    session.writer().write_all(&piece).unwrap();
                    while session.wants_write() {
                        session.write_tls(&mut sealed).unwrap();
                    }
                }
                if wire.write_all(&sealed).is_err() {
                    return false;
                }
                piece = vec![b'x'; left.min(32 << 10)];
                left -= piece.len();
            }
            true
        })
    };
    let (mut tcp, mut answer, mut sealed) = (tcp, Vec::new(), vec![0; 16 << 10]);
    while let Ok(read) = tcp.read(&mut sealed) {
        let mut session = session.lock().unwrap();
        let mut rest = &sealed[..read];
        while !rest.is_empty() {
            session.read_tls(&mut rest).unwrap();
            session.process_new_packets().unwrap();
        }
        let _ = session.reader().read_to_end(&mut answer);
        if read == 0 {
            break;
        }
    }
    sending.join().unwrap();
    Answer::parse(&answer)
}

#[test]
fn row_96_a_refusal_in_mid_body_is_seen_over_tls() {
    // More than the buffers of both sides hold.
    const LENGTH: usize = 20 << 20;
    let lab = Lab::new();
    let registry = lab.serve(|_| {});
    let start = |client: &mut Client| {
        let started = ask(client, "POST", "/v2/a/blobs/uploads/", "", b"").expect(202);
        started.header("location").unwrap().to_owned()
    };
    let unknown = "/v2/a/blobs/uploads/00000000-0000-4000-8000-000000000000".to_owned();
    for framing in [format!("Content-Length: {LENGTH}"), "Transfer-Encoding: chunked".to_owned()] {
        // One chunk of that size, and an answer before its end.
        let begin = if framing.contains("chunked") { "1400000\r\n" } else { "" };
        for (method, headers, want) in [
            ("PUT", "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n", 413),
            ("PATCH", "Content-Range: 500-20971519\r\n", 416),
            ("PATCH", "", 404),
        ] {
            let mut client = lab.connect(&registry);
            let path = match want {
                413 => "/v2/a/manifests/t".to_owned(),
                416 => start(&mut client),
                _ => unknown.clone(),
            };
            let head =
                format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}{framing}\r\n\r\n{begin}");
            let answer = send_and_read(client, &head, LENGTH);
            assert_eq!(answer.map(|answer| answer.status), Some(want), "{head}");
        }
    }
}

#[test]
fn row_96_time_limits_hold_over_tls() {
    let limit = Duration::from_millis(400);
    let lab = Lab::new();
    let registry = lab.serve(|config| {
        config.limits.head = limit;
        // Timed by actix, whose clock ticks twice a second.
        config.limits.idle = 2 * limit;
    });
    let is_cut = |what: &str, mut tcp: TcpStream, dribble: &[u8]| {
        let begun = Instant::now();
        let mut writer = tcp.try_clone().unwrap();
        let bytes = dribble.to_vec();
        let writing = std::thread::spawn(move || {
            for byte in bytes.iter().cycle().take(if bytes.is_empty() { 0 } else { 400 }) {
                if writer.write_all(&[*byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let _ = tcp.read_to_end(&mut Vec::new());
        assert!(begun.elapsed() >= limit / 2, "{what}: cut early");
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}: not cut");
        writing.join().unwrap();
    };
    is_cut("silence", registry.connect(), b"");
    // The beginning of a record of 512 bytes, and then one by one.
    is_cut("a slow handshake", registry.connect(), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    is_cut("silence after the handshake", lab.connect(&registry).sock, b"");
    // Bytes of a record that is never whole are no head either.
    is_cut("a slow head", lab.connect(&registry).sock, b"\x17\x03\x03\x40\x00aaaaaaaaaaaaaaaaaaa");
    let mut client = lab.connect(&registry);
    ask(&mut client, "GET", "/v2/", "", b"").expect(200);
    is_cut("a connection that rests", client.sock, b"");
    let mut late = lab.connect(&registry);
    late.write_all(b"GET /v2/ HTTP/1.1\r\nX: ").unwrap();
    let begun = Instant::now();
    while late.write_all(b"a").and_then(|()| late.flush()).is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(10), "a head byte by byte: not cut");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn row_96_a_client_that_takes_no_answer_over_tls_is_cut_and_a_slow_one_is_not() {
    let lab = Lab::new();
    let registry = lab.serve(|config| config.limits.write = Duration::from_millis(500));
    let bytes = content(24 << 20);
    let digest = Digest::sha256(&bytes);
    let mut client = lab.connect(&registry);
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    ask(&mut client, "POST", &path, "", &bytes).expect(201);
    let path = format!("/v2/a/blobs/{digest}");
    let get = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    client.write_all(get.as_bytes()).unwrap();
    client.flush().unwrap();
    let none_runs = "registry_http_in_flight_requests{handler=\"blob\"} 0";
    let in_flight = || {
        let text = String::from_utf8(lab.get(&registry, "/metrics").expect(200).body).unwrap();
        text.contains(none_runs)
    };
    std::thread::sleep(Duration::from_millis(200));
    wait_for("cutting the connection", in_flight);
    drop(client);

    let mut client = lab.connect(&registry);
    client.write_all(get.as_bytes()).unwrap();
    let (mut total, mut buffer) = (0, vec![0; 16 << 10]);
    loop {
        if total % (1 << 20) < 16 << 10 {
            std::thread::sleep(Duration::from_millis(100));
        }
        match client.read(&mut buffer).unwrap() {
            0 => break,
            read => total += read,
        }
    }
    assert!(total > bytes.len(), "{total}");
}

#[test]
fn a_renewed_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    let lab = Lab::new();
    lab.vouch_for("renewed");
    // As Kubernetes mounts a secret: links to a link that is turned over.
    for (folder, name) in [("v1", "server"), ("v2", "renewed"), ("v3", "server")] {
        std::fs::create_dir(lab.path(folder)).unwrap();
        for kind in ["crt", "key"] {
            let target = lab.path(folder).join(format!("tls.{kind}"));
            std::fs::copy(lab.path(&format!("{name}.{kind}")), target).unwrap();
        }
    }
    std::fs::write(lab.path("v3").join("tls.key"), "torn").unwrap();
    let turn_over = |folder: &str| {
        symlink(folder, lab.path("next")).unwrap();
        std::fs::rename(lab.path("next"), lab.path("data")).unwrap();
    };
    turn_over("v1");
    for kind in ["crt", "key"] {
        symlink(format!("data/tls.{kind}"), lab.path(&format!("tls.{kind}"))).unwrap();
    }
    let registry = lab.serve(|config| {
        let tls = lab.settings("tls");
        config.tls = Some(Settings { refresh: Duration::from_millis(50), ..tls });
    });
    let mut old = lab.connect(&registry);
    assert_eq!(lab.shown(&registry), certificate(&lab.path("server.crt")));
    turn_over("v2");
    let renewed = certificate(&lab.path("renewed.crt"));
    wait_for("the new certificate", || lab.shown(&registry) == renewed);
    ask(&mut old, "GET", "/v2/", "", b"").expect(200);

    turn_over("v3");
    let metrics = || String::from_utf8(lab.get(&registry, "/metrics").body).unwrap();
    wait_for("noticing", || metrics().contains("\nregistry_config_last_reload_successful 0\n"));
    assert_eq!(lab.shown(&registry), renewed, "a broken pair changes nothing");
    turn_over("v1");
    wait_for("the mended pair", || {
        metrics().contains("\nregistry_config_last_reload_successful 1\n")
    });
    assert_eq!(lab.shown(&registry), certificate(&lab.path("server.crt")));
    ask(&mut old, "GET", "/v2/", "", b"").expect(200);
}

#[test]
fn clients_must_show_a_certificate_where_that_is_configured() {
    let lab = Lab::new();
    let stranger = Lab::new();
    lab.vouch_for("client");
    for file in ["server.crt", "server.key"] {
        std::fs::copy(stranger.path(file), lab.path(&format!("stranger{}", &file[6..]))).unwrap();
    }
    let authorities = vec![lab.path("ca.crt")];
    for (clients, none, foreign) in [
        (Clients::Anybody, true, true),
        (Clients::Certified(authorities.clone()), false, false),
        (Clients::CertifiedIfGiven(authorities), true, false),
    ] {
        let registry = lab.serve(|config| config.tls.as_mut().unwrap().clients = clients.clone());
        for versions in [&ALL[..1], &ALL[1..]] {
            for (identity, welcome) in
                [(Some("client"), true), (None, none), (Some("stranger"), foreign)]
            {
                // With TLS 1.3 a client is done before the server has seen its certificate.
                let asked = connect(registry.connect(), lab.client(identity, versions));
                let answer = asked.and_then(|mut client| {
                    client.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")?;
                    read_answer(&mut client, false)
                });
                match answer {
                    Ok(answer) => assert!(welcome && answer.status == 200, "{identity:?}"),
                    // The reason, and no connection that is merely reset.
                    Err(error) => {
                        let told = error.to_string().contains("received fatal alert");
                        assert!(!welcome && told, "{clients:?} {identity:?}: {error}");
                    }
                }
            }
        }
    }
}

#[test]
fn versions_and_cipher_suites_are_as_configured() {
    let lab = Lab::new();
    let registry = lab.serve(|config| {
        config.tls.as_mut().unwrap().minimum = Minimum::Tls13;
    });
    assert!(connect(registry.connect(), lab.client(None, &ALL[..1])).is_err());
    lab.get(&registry, "/v2/").expect(200);
    let only = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256";
    let registry = lab.serve(|config| {
        config.tls.as_mut().unwrap().cipher_suites = vec![only.to_owned()];
    });
    let client = connect(registry.connect(), lab.client(None, &ALL[..1])).unwrap();
    let suite = client.conn.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite.as_str(), Some(only));
}

#[test]
fn plain_http_gets_an_answer_that_says_so() {
    let lab = Lab::new();
    let registry = lab.serve(|_| {});
    let answer = registry.get("/v2/").expect(400);
    assert_eq!(answer.body, b"Client sent an HTTP request to an HTTPS server.\n");
    // With a body on its way too.
    registry.send("PUT", "/v2/a/manifests/t", &[], &vec![0; 1 << 20]).expect(400);
    let metrics = String::from_utf8(lab.get(&registry, "/metrics").expect(200).body).unwrap();
    assert!(metrics.contains("registry_tls_handshake_errors_total 2\n"), "{metrics}");
    assert!(metrics.contains("registry_tls_certificate_expiry_timestamp_seconds 1"));
}

#[test]
fn what_is_wrong_with_the_files_is_said_before_anybody_connects() {
    let lab = Lab::new();
    lab.vouch_for("other");
    let write = |name: &str, bytes: &[u8]| std::fs::write(lab.path(name), bytes).unwrap();
    let encrypt = "ec -in server.key -out locked.key -aes256 -passout pass:x";
    lab.openssl(encrypt, &[]);
    lab.openssl("x509 -in server.crt -outform der -out der.crt", &[]);
    write("torn.crt", b"-----BEGIN CERTIFICATE-----\nMIIB\n");
    write("empty.crt", b"");
    write(
        "chain.crt",
        &[
            std::fs::read(lab.path("ca.crt")).unwrap(),
            std::fs::read(lab.path("server.crt")).unwrap(),
        ]
        .concat(),
    );
    std::fs::create_dir(lab.path("folder.crt")).unwrap();
    for (crt, key, which, words) in [
        ("none.crt", "server.key", "certificate", "none.crt: No such file"),
        ("folder.crt", "server.key", "certificate", "folder.crt: Is a directory"),
        ("empty.crt", "server.key", "certificate", "holds no certificate in PEM"),
        ("der.crt", "server.key", "certificate", "holds no certificate in PEM"),
        ("torn.crt", "server.key", "certificate", "no sound PEM"),
        ("server.crt", "none.key", "key", "none.key: No such file"),
        ("server.crt", "server.crt", "key", "holds no private key in PEM"),
        ("server.crt", "locked.key", "key", "the key is encrypted"),
        ("server.crt", "other.key", "key", "not the key of the first certificate"),
        ("chain.crt", "server.key", "key", "put the server's own certificate first"),
    ] {
        let settings = Settings::new(lab.path(crt), lab.path(key));
        let error = Tls::new(settings).unwrap_err().to_string();
        assert!(error.starts_with(&format!("http.tls.{which}: ")), "{crt} {key}: {error}");
        assert!(error.contains(words), "{crt} {key}: {error}");

        let check = lab.run(&["config", "check"], crt, key);
        assert_eq!(check.status.code(), Some(78), "{check:?}");
        assert!(String::from_utf8_lossy(&check.stderr).contains(words), "{check:?}");
    }
    let started = lab.run(&["serve", "--addr", "127.0.0.1:0", "--root", "store"], "none.crt", "x");
    assert_eq!(started.status.code(), Some(78), "{started:?}");
    assert!(!lab.path("store").exists(), "nothing was begun");

    let mode = |mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(lab.path("server.key"), permissions).unwrap();
        lab.run(&["config", "check"], "server.crt", "server.key")
    };
    let warned = mode(0o644);
    assert!(String::from_utf8_lossy(&warned.stderr).contains("chmod o-r"), "{warned:?}");
    assert_eq!(warned.status.code(), Some(0));
    assert!(mode(0o640).stderr.is_empty());
}

impl Lab {
    fn run(&self, words: &[&str], crt: &str, key: &str) -> Output {
        let mut command = Command::new(BINARY);
        command.args(words).current_dir(self.0.path());
        command.env("REGISTRY_HTTP_TLS_CERTIFICATE", self.path(crt));
        command.env("REGISTRY_HTTP_TLS_KEY", self.path(key)).output().unwrap()
    }
}

/// A process, killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn sighup_reads_the_certificate_again_and_healthcheck_speaks_tls() {
    let lab = Lab::new();
    lab.vouch_for("renewed");
    let log = lab.path("log");
    let file = std::fs::File::create(&log).unwrap();
    let process = Command::new(BINARY)
        .args(["serve", "--addr", "127.0.0.1:0", "--root", "store"])
        .args(["--tls-cert", "server.crt", "--tls-key", "server.key"])
        .env("REGISTRY_LOG_FORMATTER", "json")
        .current_dir(lab.0.path())
        .stderr(file)
        .stdin(Stdio::null())
        .spawn();
    let process = Process(process.unwrap());
    let said = || std::fs::read_to_string(&log).unwrap();
    wait_for("the start", || said().contains("\"serving\""));
    let text = said();
    assert!(text.contains("\"tls\":true"), "{text}");
    let (_, address) = text.split_once("\"address\":\"").unwrap();
    let address = &address[..address.find('"').unwrap()];

    for scheme in ["http", "https"] {
        let url = format!("{scheme}://{address}/readyz");
        let asked = Command::new(BINARY).args(["healthcheck", &url]).output().unwrap();
        assert!(asked.status.success(), "{url}: {asked:?}");
    }
    let shown = || {
        let tcp = TcpStream::connect(address).unwrap();
        let client = connect(tcp, lab.client(None, &ALL)).unwrap();
        client.conn.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let first = shown();
    for kind in ["crt", "key"] {
        std::fs::copy(lab.path(&format!("renewed.{kind}")), lab.path(&format!("server.{kind}")))
            .unwrap();
    }
    let pid = rustix::process::Pid::from_child(&process.0);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    wait_for("the new certificate", || shown() != first);
    wait_for("the word in the log", || said().contains("are shown the certificate as it is now"));
}
