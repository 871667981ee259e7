//! Every key that distribution documents, by file and by variable, with a right, an empty, a null and
//! a wrong value: does the program start?

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use conformance::janitor::Scratch;
use conformance::{bin, registry, tool};
use serde_json::Value;

use super::Seen;

/// A key, a right value and a wrong one. `PORT`, `HTPASSWD`, `CERTIFICATE` and `KEY` are put in.
type Key = (&'static str, &'static str, &'static str);

pub(crate) const KEYS: &[Key] = &[
    ("version", "0.1", "0.9"),
    ("log.level", "info", "loud"),
    ("log.formatter", "json", "xml"),
    ("log.fields", "{service: registry}", "[1]"),
    ("log.accesslog.disabled", "true", "perhaps"),
    ("log.hooks", "[{type: mail, disabled: true, levels: [panic]}]", "x"),
    ("log.reportcaller", "true", "perhaps"),
    ("loglevel", "debug", "loud"),
    ("storage", "filesystem", "nowhere"),
    ("storage.filesystem.rootdirectory", "DATA", "[1]"),
    ("storage.filesystem.maxthreads", "100", "many"),
    ("storage.inmemory", "{}", "[1]"),
    ("storage.s3.bucket", "b", "[1]"),
    ("storage.azure.container", "c", "[1]"),
    ("storage.gcs.bucket", "b", "[1]"),
    ("storage.swift.container", "c", "[1]"),
    ("storage.oss.bucket", "b", "[1]"),
    ("storage.cache.blobdescriptor", "inmemory", "elsewhere"),
    ("storage.cache.blobdescriptorsize", "1000", "many"),
    ("storage.delete.enabled", "true", "perhaps"),
    ("storage.redirect.disable", "true", "perhaps"),
    ("storage.maintenance.uploadpurging.enabled", "false", "perhaps"),
    ("storage.maintenance.uploadpurging.age", "168h", "soon"),
    ("storage.maintenance.uploadpurging.interval", "24h", "soon"),
    ("storage.maintenance.uploadpurging.dryrun", "false", "perhaps"),
    ("storage.maintenance.readonly.enabled", "false", "perhaps"),
    ("auth", "none", "nobody"),
    ("auth.silly", "{realm: r, service: s}", "[1]"),
    ("auth.htpasswd", "{realm: r, path: HTPASSWD}", "{realm: r}"),
    ("auth.htpasswd.realm", "r", "[1]"),
    ("auth.token", "{realm: r, service: s, issuer: i, rootcertbundle: CERTIFICATE}", "{realm: r}"),
    ("middleware.registry", "[]", "x"),
    ("middleware.repository", "[]", "x"),
    ("middleware.storage", "[]", "[{name: nothing}]"),
    ("reporting.bugsnag.apikey", "''", "[1]"),
    ("reporting.newrelic.licensekey", "''", "[1]"),
    ("http.addr", "PORT", "nowhere"),
    ("http.net", "tcp", "pigeon"),
    ("http.prefix", "/", "/registry/"),
    ("http.host", "https://registry.example", "no host"),
    ("http.secret", "s", "[1]"),
    ("http.relativeurls", "true", "perhaps"),
    ("http.draintimeout", "60s", "soon"),
    ("http.tls", "{certificate: CERTIFICATE, key: KEY}", "{certificate: /none, key: /none}"),
    ("http.tls.certificate", "CERTIFICATE", "/none"),
    ("http.tls.clientcas", "[]", "x"),
    ("http.tls.minimumtls", "tls1.2", "ssl3"),
    ("http.tls.letsencrypt", "{}", "[1]"),
    ("http.debug.addr", "127.0.0.1:0", "[1]"),
    ("http.debug.prometheus.enabled", "true", "perhaps"),
    ("http.debug.prometheus.path", "/metrics", "[1]"),
    ("http.headers", "{X-Content-Type-Options: [nosniff]}", "x"),
    ("http.headers.X-A", "[true, 7]", "{a: b}"),
    ("http.http2.disabled", "true", "perhaps"),
    ("notifications.events.includereferences", "true", "perhaps"),
    ("notifications.endpoints", "[]", "x"),
    ("redis.addr", "127.0.0.1:1", "[1]"),
    ("redis.password", "p", "[1]"),
    ("redis.db", "0", "many"),
    ("redis.dialtimeout", "10ms", "soon"),
    ("redis.pool.maxidle", "16", "many"),
    ("redis.pool.idletimeout", "300s", "soon"),
    ("health.storagedriver", "{enabled: true, interval: 10s, threshold: 3}", "x"),
    ("health.storagedriver.enabled", "true", "perhaps"),
    ("health.storagedriver.threshold", "3", "many"),
    ("health.file", "[{file: /none, interval: 10s}]", "x"),
    ("health.http", "[{uri: 'http://127.0.0.1:1', interval: 10s}]", "x"),
    ("health.tcp", "[{addr: '127.0.0.1:1', interval: 10s, timeout: 3s}]", "x"),
    ("proxy.remoteurl", "http://127.0.0.1:1", "[1]"),
    ("proxy.username", "u", "[1]"),
    ("proxy.password", "p", "[1]"),
    ("compatibility.schema1.enabled", "false", "perhaps"),
    ("compatibility.schema1.signingkeyfile", "''", "/none"),
    ("validation.disabled", "true", "perhaps"),
    ("validation.enabled", "false", "perhaps"),
    ("validation.manifests.urls.allow", "[]", "x"),
    ("validation.manifests.urls.deny", "['^https?://a.example/']", "['(']"),
    ("policy.repository.classes", "[image]", "x"),
];

const SECTIONS: [&str; 3] = ["storage.s3", "storage.inmemory", "storage.filesystem"];

/// One key with one value.
#[derive(Clone)]
struct Job {
    name: String,
    key: &'static str,
    value: String,
    by_variable: bool,
}

fn jobs() -> Vec<Job> {
    let mut jobs = Vec::new();
    for (key, right, wrong) in KEYS {
        for (kind, value) in
            [("right", *right), ("empty", "''"), ("null", "null"), ("wrong", *wrong)]
        {
            for by_variable in [false, true] {
                // An address without a port is any free one, on all addresses of the host.
                if *key == "http.addr" && value.len() < 5 {
                    continue;
                }
                let value = if by_variable && kind == "empty" { "" } else { value };
                let shown = if kind == "right" || kind == "wrong" { value } else { kind };
                jobs.push(Job {
                    name: format!("{key}: {shown}"),
                    key,
                    value: value.to_owned(),
                    by_variable,
                });
            }
        }
    }
    for key in SECTIONS {
        let name = format!("{key}: nothing behind it");
        jobs.push(Job { name, key, value: "null".to_owned(), by_variable: false });
    }
    for (variable, value) in [
        ("REGISTRY_REDIS_PORT", "tcp://10.0.0.1:6379"),
        ("REGISTRY_PROXY_SERVICE_HOST", "10.0.0.1"),
        ("REGISTRY_NOTIFICATIONS_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("REGISTRY_AUTH_FILE", "/run/auth.json"),
        ("REGISTRY_AUTH_PORT", "tcp://10.0.0.1:80"),
        ("REGISTRY_HTTP_ADR", "x"),
        ("REGISTRY_NOBODYS", "x"),
        ("REGISTRY_ACCESS_RULES", "[]"),
        ("REGISTRY_TOKENS_KEY", "k"),
    ] {
        let name = format!("{variable}={value}");
        jobs.push(Job { name, key: variable, value: value.to_owned(), by_variable: true });
    }
    jobs
}

/// Whether a key names a driver, beside which there must be no other.
fn is_driver(key: &str) -> bool {
    let drivers = ["inmemory", "s3", "azure", "gcs", "swift", "oss"];
    let driver = key.strip_prefix("storage.").and_then(|rest| rest.split('.').next());
    driver.is_some_and(|driver| drivers.contains(&driver)) || key == "storage"
}

/// What stands around the key: a directory and an address.
fn file(job: &Job, data: &Path, port: u16) -> String {
    let mut tree = serde_json::json!({
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": true}},
        "storage": {"filesystem": {"rootdirectory": data}},
        "http": {"addr": format!("127.0.0.1:{port}"), "secret": "x"},
    });
    if is_driver(job.key) {
        tree["storage"] = Value::Object(Default::default());
    }
    if job.by_variable {
        return tree.to_string();
    }
    let mut place = &mut tree;
    for word in job.key.split('.') {
        if !place[word].is_object() {
            place[word] = Value::Object(Default::default());
        }
        place = &mut place[word];
    }
    *place = Value::String("@@".to_owned());
    tree.to_string().replace("\"@@\"", &job.value)
}

fn variable(key: &str) -> String {
    if key.starts_with("REGISTRY_") {
        return key.to_owned();
    }
    let words: Vec<_> = key.split('.').collect();
    // The name of a header is not in capitals.
    let upper = words.iter().map(|word| {
        if word.starts_with("X-") { (*word).to_owned() } else { word.to_ascii_uppercase() }
    });
    format!("REGISTRY_{}", upper.collect::<Vec<_>>().join("_"))
}

pub(crate) fn keys() -> Result<Seen> {
    let scratch = Scratch::new("keys")?;
    let jobs = jobs();
    let next = AtomicUsize::new(0);
    let found: Mutex<BTreeMap<usize, Result<(String, String)>>> = Mutex::default();
    certificate(scratch.path())?;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(number) else { break };
                    let outcome = run(job, scratch.path(), number);
                    let mut found = found.lock().unwrap_or_else(|error| error.into_inner());
                    found.insert(number, outcome);
                }
            });
        }
    });
    let found = found.into_inner().unwrap_or_else(|error| error.into_inner());
    let mut seen = Seen::default();
    for ((_, outcome), job) in found.into_iter().zip(&jobs) {
        let (theirs, ours) = outcome?;
        let how = if job.by_variable { "variable" } else { "file" };
        let name = if job.key.starts_with("REGISTRY_") {
            job.name.clone()
        } else {
            format!("{} ({how})", job.name)
        };
        seen.note(name, theirs, ours);
    }
    ensure!(seen.asked > 400, "{} keys and values", seen.asked);
    Ok(seen)
}

fn certificate(directory: &Path) -> Result<()> {
    let mut command = Command::new(tool("openssl")?);
    command.current_dir(directory).args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        "key.pem",
        "-out",
        "certificate.pem",
        "-days",
        "30",
        "-subj",
        "/CN=localhost",
    ]);
    conformance::process::run(&mut command)?;
    Ok(fs::write(directory.join("htpasswd"), "")?)
}

fn run(job: &Job, scratch: &Path, number: usize) -> Result<(String, String)> {
    let directory = scratch.join(number.to_string());
    fs::create_dir(&directory)?;
    let port = registry::free_port()?;
    let put_in = |text: &str| {
        text.replace("PORT", &format!("127.0.0.1:{port}"))
            .replace("DATA", &directory.join("data").to_string_lossy())
            .replace("HTPASSWD", &scratch.join("htpasswd").to_string_lossy())
            .replace("CERTIFICATE", &scratch.join("certificate.pem").to_string_lossy())
            .replace("KEY", &scratch.join("key.pem").to_string_lossy())
    };
    let mut job = job.clone();
    if !job.key.starts_with("REGISTRY_") {
        job.value = put_in(&job.value);
    }
    let path = directory.join("config.yml");
    fs::write(&path, file(&job, &directory.join("data"), port))?;
    let with = |mut command: Command| {
        command.current_dir(&directory).stdin(Stdio::null());
        if job.by_variable {
            command.env(variable(job.key), &job.value);
        }
        command
    };
    let mut theirs = Command::new(tool("docker-registry")?);
    theirs.arg("serve").arg(&path);
    let mut ours = Command::new(bin("registry")?);
    ours.args(["config", "check"]).arg(&path);
    Ok((start(with(theirs), port)?, check(with(ours), job.key)?))
}

/// Whether it serves.
fn start(mut command: Command, port: u16) -> Result<String> {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let began = Instant::now();
    let outcome = loop {
        if child.try_wait()?.is_some() {
            return Ok("refuses".to_owned());
        }
        if answers(port) {
            break "starts";
        }
        if began.elapsed() > Duration::from_secs(20) {
            break "neither starts nor ends";
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    child.kill()?;
    child.wait()?;
    Ok(outcome.to_owned())
}

/// Whether anything is answered: distribution listens before it reads its certificates, and ends
/// when it cannot. (Over TLS this is answered too, by what is wrong with it.)
fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<usize> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        stream.read(&mut [0])
    };
    ask().is_ok_and(|length| length > 0)
}

/// What a start would say.
fn check(mut command: Command, key: &str) -> Result<String> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let of_key = |line: &str| {
        let (noted, _) = line.split_once(" has no effect")?;
        let noted = noted.strip_prefix("registry: ")?;
        Some(key.starts_with(noted) || noted.starts_with(key) || noted == variable(key))
    };
    let told = said.lines().filter_map(of_key).any(|told| told);
    Ok(match output.status.code() {
        Some(0) if told => "starts; no effect, told".to_owned(),
        Some(0) => "starts".to_owned(),
        Some(78) => {
            ensure!(!said.trim().is_empty(), "{key}: refused without a word");
            "refuses".to_owned()
        }
        code => anyhow::bail!("{key}: {code:?}: {said}"),
    })
}
