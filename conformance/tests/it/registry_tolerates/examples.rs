//! Configuration as distribution's documentation, its images and its charts have it: files and
//! variables, each loaded and served, or refused with its reason.

use std::fs;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use conformance::janitor::Scratch;
use conformance::process::Server;
use conformance::registry::free_port;
use conformance::{bin, wait};

use super::{PATIENCE, certificate};

/// What is told to the registry, and the word of its refusal, if it has to refuse.
struct Example {
    file: &'static str,
    variables: &'static [(&'static str, &'static str)],
    refused: Option<&'static str>,
}

const fn serves(file: &'static str) -> Example {
    Example { file, variables: &[], refused: None }
}

const fn refused(file: &'static str, why: &'static str) -> Example {
    Example { file, variables: &[], refused: Some(why) }
}

const fn set(variables: &'static [(&'static str, &'static str)]) -> Example {
    Example { file: "version: 0.1", variables, refused: None }
}

const fn set_refused(
    variables: &'static [(&'static str, &'static str)],
    why: &'static str,
) -> Example {
    Example { file: "version: 0.1", variables, refused: Some(why) }
}

const EXAMPLES: &[Example] = &[
    // The files of its images and of its source tree.
    serves(
        "version: 0.1\nlog:\n  fields:\n    service: registry\nstorage:\n  cache:\n    blobdescriptor: inmemory\n  filesystem: {}\nhttp:\n  headers:\n    X-Content-Type-Options: [nosniff]\nhealth:\n  storagedriver:\n    enabled: true\n    interval: 10s\n    threshold: 3\n",
    ),
    serves(
        "version: 0.1\nlog:\n  level: debug\n  fields:\n    service: registry\n    environment: development\nstorage:\n  delete:\n    enabled: true\n  cache:\n    blobdescriptor: redis\n  maintenance:\n    uploadpurging:\n      enabled: false\nhttp:\n  debug:\n    prometheus:\n      enabled: true\n      path: /metrics\n  headers:\n    X-Content-Type-Options: [nosniff]\nredis:\n  addr: localhost:6379\n  pool:\n    maxidle: 16\n    maxactive: 64\n    idletimeout: 300s\n  dialtimeout: 10ms\n  readtimeout: 10ms\n  writetimeout: 10ms\nnotifications:\n  events:\n    includereferences: true\n  endpoints:\n    - name: local-5003\n      url: http://localhost:5003/callback\n      headers:\n        Authorization: [Bearer x]\n      timeout: 1s\n      threshold: 10\n      backoff: 1s\n      disabled: true\nhealth:\n  storagedriver:\n    enabled: true\n    interval: 10s\n    threshold: 3\n",
    ),
    refused(
        "version: 0.1\nproxy:\n  remoteurl: https://registry-1.docker.io\n  username: [username]\n  password: [password]\n",
        "proxy",
    ),
    serves("version: 0.1\nproxy:\n  remoteurl:\n  username:\n  password:\n"),
    // Sections of the page on the configuration.
    serves(
        "version: 0.1\nlog:\n  accesslog:\n    disabled: true\n  level: debug\n  formatter: text\n  fields:\n    service: registry\n    environment: staging\n",
    ),
    serves("version: 0.1\nlog: {formatter: logstash}"),
    serves("version: 0.1\nloglevel: debug"),
    serves(
        "version: 0.1\nlog:\n  hooks:\n    - type: mail\n      disabled: true\n      levels: [panic]\n      options:\n        smtp:\n          addr: mail.example.com:25\n          username: mailuser\n          password: password\n          insecure: true\n        from: sender@example.com\n        to: [errors@example.com]\n",
    ),
    serves("version: 0.1\nstorage:\n  filesystem:\n    maxthreads: 100\n"),
    refused(
        "version: 0.1\nstorage:\n  azure:\n    accountname: accountname\n    accountkey: base64encodedaccountkey\n    container: containername\n",
        "storage.azure",
    ),
    refused(
        "version: 0.1\nstorage:\n  gcs:\n    bucket: bucketname\n    keyfile: /path/to/keyfile\n    rootdirectory: /gcs/object/name/prefix\n    chunksize: 5242880\n",
        "storage.gcs",
    ),
    refused(
        "version: 0.1\nstorage:\n  s3:\n    accesskey: awsaccesskey\n    secretkey: awssecretkey\n    region: us-west-1\n    regionendpoint: http://myobjects.local\n    bucket: bucketname\n    encrypt: true\n    keyid: mykeyid\n    secure: true\n    v4auth: true\n    chunksize: 5242880\n    multipartcopychunksize: 33554432\n    rootdirectory: /s3/object/name/prefix\n",
        "storage.s3",
    ),
    refused(
        "version: 0.1\nstorage:\n  swift:\n    username: username\n    password: password\n    authurl: https://storage.example/auth/v2.0\n    container: containername\n",
        "storage.swift",
    ),
    refused(
        "version: 0.1\nstorage:\n  oss:\n    accesskeyid: id\n    accesskeysecret: secret\n    region: region\n    bucket: bucketname\n",
        "storage.oss",
    ),
    serves("version: 0.1\nstorage:\n  inmemory:\n"),
    serves("version: 0.1\nstorage:\n  delete:\n    enabled: false\n"),
    serves("version: 0.1\nstorage:\n  redirect:\n    disable: false\n"),
    serves(
        "version: 0.1\nstorage:\n  cache:\n    blobdescriptor: inmemory\n    blobdescriptorsize: 10000\n",
    ),
    serves(
        "version: 0.1\nstorage:\n  maintenance:\n    uploadpurging:\n      enabled: true\n      age: 168h\n      interval: 24h\n      dryrun: false\n    readonly:\n      enabled: false\n",
    ),
    serves("version: 0.1\nstorage:\n  maintenance:\n    readonly:\n      enabled: true\n"),
    refused(
        "version: 0.1\nauth:\n  silly:\n    realm: silly-realm\n    service: silly-service\n",
        "auth",
    ),
    refused(
        "version: 0.1\nauth:\n  token:\n    autoredirect: true\n    realm: token-realm\n    service: token-service\n    issuer: registry-token-issuer\n    rootcertbundle: /root/certs/bundle\n",
        "auth",
    ),
    serves("version: 0.1\nauth:\n  htpasswd:\n    realm: basic-realm\n    path: USERS\n"),
    refused(
        "version: 0.1\nauth:\n  htpasswd:\n    realm: basic-realm\n    path: /path/to/htpasswd\n",
        "registry user add",
    ),
    serves("version: 0.1\nauth: none\n"),
    refused(
        "version: 0.1\nmiddleware:\n  registry:\n    - name: ARegistryMiddleware\n      options:\n        foo: bar\n",
        "middleware",
    ),
    refused(
        "version: 0.1\nmiddleware:\n  storage:\n    - name: cloudfront\n      options:\n        baseurl: https://my.cloudfronted.domain.com/\n        privatekey: /path/to/pem\n        keypairid: cloudfrontkeypairid\n        duration: 3000s\n",
        "middleware",
    ),
    refused(
        "version: 0.1\nmiddleware:\n  storage:\n    - name: redirect\n      options:\n        baseurl: https://example.com/\n",
        "middleware",
    ),
    serves(
        "version: 0.1\nreporting:\n  bugsnag:\n    apikey: bugsnagapikey\n    releasestage: production\n    endpoint: http://127.0.0.1:1\n  newrelic:\n    licensekey: newreliclicensekey\n    name: newrelicname\n    verbose: true\n",
    ),
    serves(
        "version: 0.1\nhttp:\n  net: tcp\n  host: https://myregistryaddress.org:5000\n  secret: asecretforlocaldevelopment\n  relativeurls: false\n  draintimeout: 60s\n",
    ),
    serves("version: 0.1\nhttp:\n  tls:\n    certificate: CERTIFICATE\n    key: KEY\n"),
    serves(
        "version: 0.1\nhttp:\n  tls:\n    certificate: CERTIFICATE\n    key: KEY\n    clientcas: [CERTIFICATE]\n    clientauth: verify-client-cert-if-given\n    minimumtls: tls1.2\n    ciphersuites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n",
    ),
    refused(
        "version: 0.1\nhttp:\n  tls:\n    letsencrypt:\n      cachefile: /path/to/cache-file\n      email: emailused@letsencrypt.com\n      hosts: [myregistryaddress.org]\n",
        "letsencrypt",
    ),
    serves("version: 0.1\nhttp:\n  debug:\n    addr: 127.0.0.1:0\n"),
    serves(
        "version: 0.1\nhttp:\n  debug:\n    addr: 127.0.0.1:0\n    prometheus:\n      enabled: true\n      path: /metrics\n",
    ),
    serves(
        "version: 0.1\nhttp:\n  headers:\n    X-Content-Type-Options: [nosniff]\n    Access-Control-Allow-Origin: ['*']\n    Access-Control-Allow-Credentials: [true]\n    Access-Control-Max-Age: [1728000]\n",
    ),
    serves("version: 0.1\nhttp:\n  http2:\n    disabled: false\n"),
    refused("version: 0.1\nhttp:\n  prefix: /my/nested/registry/\n", "http.prefix"),
    refused("version: 0.1\nhttp:\n  net: unix\n", "http.net"),
    serves(
        "version: 0.1\nnotifications:\n  events:\n    includereferences: true\n  endpoints:\n    - name: alistener\n      disabled: false\n      url: https://my.listener.com/event\n      headers: {}\n      timeout: 1s\n      threshold: 10\n      backoff: 1s\n      ignoredmediatypes: [application/octet-stream]\n      ignore:\n        mediatypes: [application/octet-stream]\n        actions: [pull]\n",
    ),
    serves(
        "version: 0.1\nredis:\n  addr: localhost:6379\n  password: asecret\n  db: 0\n  dialtimeout: 10ms\n  readtimeout: 10ms\n  writetimeout: 10ms\n  pool:\n    maxidle: 16\n    maxactive: 64\n    idletimeout: 300s\n  tls:\n    enabled: false\n",
    ),
    serves(
        "version: 0.1\nhealth:\n  storagedriver: {enabled: true, interval: 10s, threshold: 3}\n  file:\n    - file: /path/to/checked/file\n      interval: 10s\n  http:\n    - uri: http://server.to.check/must/return/200\n      headers:\n        Authorization: [Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==]\n      statuscode: 200\n      timeout: 3s\n      interval: 10s\n      threshold: 3\n  tcp:\n    - addr: redis-server.domain.com:6379\n      timeout: 3s\n      interval: 10s\n      threshold: 3\n",
    ),
    serves(
        "version: 0.1\ncompatibility:\n  schema1:\n    signingkeyfile: /etc/registry/key.json\n    enabled: true\n",
    ),
    serves("version: 0.1\nvalidation:\n  disabled: true\n"),
    serves("version: 0.1\nvalidation:\n  manifests:\n    urls:\n      allow: []\n      deny: []\n"),
    refused(
        "version: 0.1\nvalidation:\n  manifests:\n    urls:\n      allow:\n        - ^https?://([^/]+\\.)*example\\.com/\n      deny:\n        - ^https?://www\\.example\\.com/\n",
        "validation.manifests.urls",
    ),
    serves("version: 0.1\nvalidation:\n  manifests:\n    indexes:\n      platforms: none\n"),
    serves("version: 0.1\npolicy:\n  repository:\n    classes: [image]\n"),
    serves("version: 0.1\ncatalog:\n  maxentries: 1000\ntags:\n  maxtags: 100\n"),
    serves("version: 0.1\nstorage:\n  tag:\n    concurrencylimit: 8\n"),
    // Variables of the page on deploying, of compose files and charts.
    set(&[("REGISTRY_HTTP_SECRET", "0123456789")]),
    set(&[("REGISTRY_HTTP_TLS_CERTIFICATE", "CERTIFICATE"), ("REGISTRY_HTTP_TLS_KEY", "KEY")]),
    set(&[("REGISTRY_STORAGE_DELETE_ENABLED", "true"), ("REGISTRY_LOG_LEVEL", "debug")]),
    set(&[
        ("REGISTRY_HTTP_HEADERS_Access-Control-Allow-Origin", "['http://ui.example']"),
        ("REGISTRY_HTTP_HEADERS_Access-Control-Allow-Methods", "[HEAD,GET,OPTIONS,DELETE]"),
        ("REGISTRY_HTTP_HEADERS_Access-Control-Allow-Credentials", "[true]"),
    ]),
    set(&[
        ("REGISTRY_STORAGE", "filesystem"),
        ("REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR", "inmemory"),
    ]),
    set(&[
        ("REGISTRY_HTTP_DEBUG_ADDR", "127.0.0.1:0"),
        ("REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED", "true"),
    ]),
    set(&[
        ("REGISTRY_REDIS_PORT", "tcp://10.0.0.1:6379"),
        ("REGISTRY_PORT_5000_TCP_ADDR", "10.0.0.2"),
        ("REGISTRY_PROXY_SERVICE_HOST", "10.0.0.3"),
        ("REGISTRY_AUTH_FILE", "/run/auth.json"),
    ]),
    set(&[
        ("REGISTRY_AUTH", "htpasswd"),
        ("REGISTRY_AUTH_HTPASSWD_REALM", "Registry Realm"),
        ("REGISTRY_AUTH_HTPASSWD_PATH", "USERS"),
    ]),
    set_refused(&[("REGISTRY_AUTH", "htpasswd")], "auth.htpasswd.realm"),
    set_refused(
        &[
            ("REGISTRY_STORAGE", "s3"),
            ("REGISTRY_STORAGE_S3_BUCKET", "b"),
            ("REGISTRY_STORAGE_S3_REGION", "eu-west-1"),
        ],
        "REGISTRY_STORAGE",
    ),
    set_refused(
        &[("REGISTRY_PROXY_REMOTEURL", "https://registry-1.docker.io")],
        "REGISTRY_PROXY_REMOTEURL",
    ),
    set_refused(
        &[("REGISTRY_AUTH_TOKEN_REALM", "https://auth.example/token")],
        "REGISTRY_AUTH_TOKEN_REALM",
    ),
];

#[test]
fn documented_configurations_are_served_or_refused_with_their_reason() -> Result<()> {
    ensure!(EXAMPLES.len() >= 50, "{} examples", EXAMPLES.len());
    let scratch = Scratch::new("examples")?;
    certificate(&scratch)?;
    // In the form of bcrypt's hashes; nobody logs in.
    fs::write(scratch.join("users"), format!("ann:$2y$10${}\n", "a".repeat(53)))?;
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(example) = EXAMPLES.get(number) else { break };
                    if let Err(error) = run(example, &scratch, number) {
                        let mut failed = failed.lock().unwrap_or_else(|error| error.into_inner());
                        failed
                            .push(format!("{}\n{:?}\n{error:#}", example.file, example.variables));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(|error| error.into_inner());
    ensure!(failed.is_empty(), "{}", failed.join("\n---\n"));
    let refusals = EXAMPLES.iter().filter(|example| example.refused.is_some()).count();
    println!("{} examples, {refusals} of them refused", EXAMPLES.len());
    Ok(())
}

fn run(example: &Example, scratch: &Scratch, number: usize) -> Result<()> {
    let port = free_port()?;
    let files = |text: &str| {
        text.replace("CERTIFICATE", &scratch.join("server.crt").to_string_lossy())
            .replace("KEY", &scratch.join("server.key").to_string_lossy())
            .replace("USERS", &scratch.join("users").to_string_lossy())
    };
    let path = scratch.join(format!("{number}.yml"));
    fs::write(&path, files(example.file))?;
    let mut command = Command::new(bin("registry")?);
    command.arg("serve").args(["--addr", &format!("127.0.0.1:{port}")]).arg(&path);
    // What is kept in memory has no directory.
    if !example.file.contains("  inmemory:\n") {
        command.arg("--root").arg(scratch.join(format!("data-{number}")));
    }
    command.envs(example.variables.iter().map(|(name, value)| (*name, files(value))));
    let log = scratch.join(format!("{number}.log"));
    let mut server = Server::start(&mut command, &log)?;
    match example.refused {
        None => wait::until("it serves", PATIENCE, || {
            server.check()?;
            Ok(std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop))
        }),
        Some(why) => {
            let ended = wait::until("it refuses", PATIENCE, || match server.check() {
                Ok(()) => Ok(None),
                Err(error) => Ok(Some(error.to_string())),
            })?;
            let said = fs::read_to_string(&log).context("its log")?;
            ensure!(ended.contains("78") && said.contains(why), "{ended}\n{said}");
            Ok(())
        }
    }
}
