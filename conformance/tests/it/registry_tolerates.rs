//! Real programs that know distribution's behaviour and not the specification: a browser, scrapers,
//! clients that push only to absolute URLs, and configuration files as its documentation has them.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use conformance::http::Request;
use conformance::janitor::Scratch;
use conformance::process::{self, Server, run_for, shell};
use conformance::registry::{Options, free_port};
use conformance::rrun::Rrun;
use conformance::{Registry, bin, tool, wait};

use crate::registry_differential::requests::{DOCKER, digest, image, push_blobs};

mod examples;

/// One command of a client on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn push_image(registry: &Registry, repo: &str) -> Result<()> {
    push_blobs(registry, repo)?;
    let path = format!("/v2/{repo}/manifests/t");
    registry.send("PUT", &path, DOCKER, image().as_bytes())?.expect(201)?;
    Ok(())
}

/// `promtool check metrics` has nothing to say, and the classic parser of Prometheus' own library for
/// Python reads every line.
#[test]
fn scrapers_read_the_metrics() -> Result<()> {
    let port = free_port()?;
    let options = Options::default()
        .env("REGISTRY_HTTP_DEBUG_ADDR", &format!("127.0.0.1:{port}"))
        .env("REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED", "true");
    let registry = Registry::start(options)?;
    push_image(&registry, "app")?;
    registry.get("/v2/app/manifests/t")?.expect(200)?;
    registry.get("/v2/none/manifests/t")?.expect(404)?;
    registry.get("/metrics")?.expect(404)?;
    let answer = Request::new("GET", "/metrics").send(SocketAddr::from(([127, 0, 0, 1], port)))?;
    let answer = answer.expect(200)?;
    let scratch = Scratch::new("metrics")?;
    let file = scratch.join("metrics");
    fs::write(&file, &answer.body)?;
    let promtool = tool("promtool")?;
    let said = shell("\"$1\" check metrics < \"$2\" 2>&1", &[promtool.as_path(), &file])?;
    ensure!(said.is_empty(), "promtool: {said}");
    let script = "import sys; from prometheus_client.parser import text_string_to_metric_families as f\n\
                  m = {x.name: x for x in f(open(sys.argv[1]).read())}\n\
                  assert m['registry_pulls'].type == 'counter', m.keys()\n\
                  assert m['registry_build_info'].type == 'gauge'\n\
                  assert m['registry_http_request_duration_seconds'].type == 'histogram'\n\
                  print(sum(len(x.samples) for x in m.values()))";
    let samples = process::run(Command::new("/usr/bin/python3").args(["-c", script]).arg(&file))?;
    ensure!(samples.trim().parse::<usize>()? > 500, "{samples} samples");
    // Who accepts it gets OpenMetrics, and its parser reads that.
    let request = Request::new("GET", "/metrics").header("Accept", "application/openmetrics-text");
    let open = request.send(SocketAddr::from(([127, 0, 0, 1], port)))?.expect(200)?;
    fs::write(&file, &open.body)?;
    let script = "import sys; from prometheus_client.openmetrics.parser import text_string_to_metric_families as f\n\
                  print(len(list(f(open(sys.argv[1]).read()))))";
    process::run(Command::new("/usr/bin/python3").args(["-c", script]).arg(&file))?;
    Ok(())
}

/// `registry healthcheck` finds the registry that is configured where it runs.
#[test]
fn the_healthcheck_asks_the_registry_that_is_configured() -> Result<()> {
    let scratch = Scratch::new("healthcheck")?;
    certificate(&scratch)?;
    let debug = format!("127.0.0.1:{}", free_port()?);
    let path = |name: &str| scratch.join(name).to_string_lossy().into_owned();
    for (tls, second) in [(false, false), (true, false), (true, true)] {
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut settings = format!("http:\n  addr: {address}\n");
        if tls {
            let (certificate, key) = (path("server.crt"), path("server.key"));
            settings += &format!("  tls: {{certificate: {certificate}, key: {key}");
            // Nobody gets in here without a certificate: the second listener is for probes.
            settings += &match second {
                true => format!(", clientcas: [{certificate}]}}\n"),
                false => "}\n".to_owned(),
            };
        }
        if second {
            settings += &format!("  debug: {{addr: \"{debug}\"}}\n");
        }
        let data = scratch.join(format!("data-{tls}-{second}"));
        settings += &format!("storage: {{filesystem: {{rootdirectory: {}}}}}\n", data.display());
        let file = scratch.join("config.yml");
        fs::write(&file, settings)?;
        let ask = |variable: &str| -> Result<_> {
            let mut command = Command::new(bin("registry")?);
            command.arg("healthcheck").env("REGISTRY_CONFIGURATION_PATH", &file);
            run_for(PATIENCE, command.env(variable, ":1"))
        };
        ensure!(!ask("OTHER")?.status.success(), "nobody listens yet");
        // As distribution's image is told its file: without a verb.
        let mut command = Command::new(bin("registry")?);
        command.arg(&file).current_dir(scratch.path());
        let mut server = Server::start(&mut command, &scratch.join("log"))?;
        wait::until("a healthy registry", PATIENCE, || {
            server.check()?;
            Ok(ask("OTHER")?.status.success().then_some(()))
        })?;
        // A variable counts here as it does for `serve`.
        let variable = if second { "REGISTRY_HTTP_DEBUG_ADDR" } else { "REGISTRY_HTTP_ADDR" };
        ensure!(!ask(variable)?.status.success(), "port 1 is nobody's");
        ensure!(server.stop(PATIENCE)?.success(), "{}", server.log_tail());
    }
    Ok(())
}

fn certificate(scratch: &Scratch) -> Result<()> {
    let mut command = Command::new(tool("openssl")?);
    command.current_dir(scratch.path()).args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        "server.key",
        "-out",
        "server.crt",
        "-days",
        "30",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
    ]);
    process::run(&mut command)?;
    Ok(())
}

/// How long a slow source says nothing: longer than a client's upload could once pause.
const STALL: Duration = Duration::from_secs(22);

/// Passes connections on to `server`; the answer that first reaches a mebibyte stalls there.
fn stalling_proxy(server: SocketAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || -> Result<()> {
        let stalled = Arc::new(AtomicBool::new(false));
        for client in listener.incoming() {
            let (client, server) = (client?, TcpStream::connect(server)?);
            let (mut requests, mut to) = (client.try_clone()?, server.try_clone()?);
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut requests, &mut to);
                to.shutdown(Shutdown::Write)
            });
            let stalled = Arc::clone(&stalled);
            std::thread::spawn(move || pass_on(server, client, &stalled));
        }
        Ok(())
    });
    Ok(address)
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, stalled: &AtomicBool) -> std::io::Result<()> {
    let (mut buffer, mut passed) = (vec![0; 64 << 10], 0);
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return to.shutdown(Shutdown::Write);
        }
        to.write_all(&buffer[..length])?;
        passed += length;
        if passed > 1 << 20 && !stalled.swap(true, Ordering::Relaxed) {
            std::thread::sleep(STALL);
        }
    }
}

/// A copy between registries uploads what it downloads, and pauses with it.
#[test]
fn skopeo_copies_from_a_source_that_stalls() -> Result<()> {
    let (source, target) =
        (Registry::start(Options::default())?, Registry::start(Options::default())?);
    let image =
        conformance::image::oci_image(&[("noise", &conformance::image::noise(22, 4 << 20))])?;
    conformance::image::push_image(&source, "app", "t", &image)?;
    let from = format!("docker://{}/app:t", stalling_proxy(source.address())?);
    let to = format!("docker://{}/app:t", target.host());
    let begin = Instant::now();
    let mut command = Command::new(tool("skopeo")?);
    command.args(["copy", "--src-tls-verify=false", "--dest-tls-verify=false", &from, &to]);
    let output = run_for(PATIENCE, &mut command)?;
    ensure!(output.status.success(), "{}", output.stderr);
    ensure!(begin.elapsed() >= STALL, "nothing has stalled");
    target.get("/v2/app/manifests/t")?.expect(200)?;
    Ok(())
}

/// Charliecloud pushes only to absolute URLs, and says so without `relativeurls: false`.
#[test]
fn charliecloud_pushes_over_tls() -> Result<()> {
    conformance::require_root()?;
    let scratch = Scratch::new("charliecloud")?;
    certificate(&scratch)?;
    let serve = |relative: &str| -> Result<(Server, u16)> {
        let port = free_port()?;
        let mut command = Command::new(bin("registry")?);
        let flag = |name: &str| scratch.join(name);
        command
            .args(["serve", "--addr", &format!("127.0.0.1:{port}")])
            .arg("--tls-cert")
            .arg(flag("server.crt"))
            .arg("--tls-key")
            .arg(flag("server.key"))
            .arg("--root")
            .arg(flag(relative))
            .env("REGISTRY_HTTP_RELATIVEURLS", relative);
        let server = Server::start(&mut command, &scratch.join("log"))?;
        let up = || Ok(std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop));
        wait::until("the registry", PATIENCE, up)?;
        Ok((server, port))
    };
    // An image needs a history to be pushed.
    let script = r#"cd "$1"; mkdir -p image/bin image/ch; cp /bin/busybox image/bin/
        echo '{"arch":"amd64","cwd":"/","env":{},"labels":{},"shell":["/bin/sh","-c"],"volumes":[],"history":[{"created_by":"x"}]}' > image/ch/metadata.json
        tar cf image.tar -C image ."#;
    shell(script, &[scratch.path()])?;
    let ch_image = |words: &[&str]| {
        let mut command = Command::new("/usr/bin/ch-image");
        command
            .args(words)
            .current_dir(scratch.path())
            // It is Debian's Python that has what it needs.
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .env("USER", "root")
            .env("CH_IMAGE_STORAGE", scratch.join("storage"))
            .env("REQUESTS_CA_BUNDLE", scratch.join("server.crt"));
        run_for(PATIENCE, &mut command)
    };
    let imported = ch_image(&["import", "image.tar", "app"])?;
    ensure!(imported.status.success(), "{imported:?}");
    let (_absolute, port) = serve("false")?;
    let pushed = ch_image(&["push", "app", &format!("localhost:{port}/app:v1")])?;
    ensure!(pushed.status.success(), "{pushed:?}");
    let pulled = ch_image(&["pull", &format!("localhost:{port}/app:v1"), "again"])?;
    ensure!(pulled.status.success(), "{pulled:?}");
    let (_relative, port) = serve("true")?;
    let refused = ch_image(&["push", "app", &format!("localhost:{port}/app:v1")])?;
    let said = [refused.stdout, refused.stderr].concat();
    ensure!(!refused.status.success() && said.contains("No scheme supplied"), "{said}");
    documented(&["No scheme supplied"])
}

/// Whether the page on the configuration has what a client says.
fn documented(words: &[&str]) -> Result<()> {
    let page = fs::read_to_string(conformance::workspace().join("docs/configuration.md"))?;
    for word in words {
        ensure!(page.contains(word), "docs/configuration.md does not say {word:?}");
    }
    Ok(())
}

#[test]
fn the_asynchronous_client_for_python_pushes() -> Result<()> {
    const SCRIPT: &str = r#"
import asyncio, hashlib, json, sys
from docker_registry_client_async import DockerRegistryClientAsync, FormattedSHA256, ImageName, Manifest
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
async def main(host):
    async with DockerRegistryClientAsync() as client:
        name = ImageName.parse(f"{host}/app/web:v1")
        digests = []
        for blob in (b"{}", b"a layer"):
            digest = FormattedSHA256(hashlib.sha256(blob).hexdigest())
            begun = await client.post_blob(name)
            put = await client.put_blob_upload(begun.location, digest, data=blob)
            assert put.client_response.status == 201, put
            digests.append((str(digest), len(blob)))
        entry = lambda kind, at: {"mediaType": kind, "digest": at[0], "size": at[1]}
        manifest = Manifest(json.dumps({
            "schemaVersion": 2, "mediaType": DOCKER,
            "config": entry("application/vnd.docker.container.image.v1+json", digests[0]),
            "layers": [entry("application/vnd.docker.image.rootfs.diff.tar.gzip", digests[1])],
        }).encode(), media_type=DOCKER)
        put = await client.put_manifest(name, manifest)
        assert put.client_response.status == 201, put
        got = await client.get_manifest(name)
        assert got.client_response.status == 200, got
asyncio.run(main(sys.argv[1]))
"#;
    let python = conformance::tools_dir().join("../python/bin/python");
    ensure!(python.is_file(), "{} is not installed: run `make install`", python.display());
    let push = |relative: &str| -> Result<_> {
        let registry =
            Registry::start(Options::default().env("REGISTRY_HTTP_RELATIVEURLS", relative))?;
        let mut command = Command::new(&python);
        command.args(["-c", SCRIPT, &registry.host()]).env("DRCA_DEFAULT_PROTOCOL", "http");
        run_for(PATIENCE, &mut command)
    };
    let pushed = push("false")?;
    ensure!(pushed.status.success(), "{}", pushed.stderr);
    let refused = push("true")?;
    let said = &refused.stderr;
    ensure!(!refused.status.success() && said.contains("InvalidUrlClientError"), "{said}");
    documented(&["InvalidUrlClientError"])
}

/// What is stored can be pulled, the largest manifest too.
#[test]
fn the_largest_manifest_that_is_stored_can_be_pulled() -> Result<()> {
    const BYTES_MAX: usize = 4_393_216;
    conformance::require_root()?;
    let registry = Registry::start(Options::default())?;
    let layer = {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o644);
        tar.append_data(&mut header, "file", &b"hey"[..])?;
        tar.into_inner()?
    };
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        digest(&layer)
    );
    for blob in [config.as_bytes(), &layer] {
        let path = format!("/v2/large/blobs/uploads/?digest={}", digest(blob));
        registry.send("POST", &path, "", blob)?.expect(201)?;
    }
    let oci = "application/vnd.oci.image.manifest.v1+json";
    let manifest = |pad: &str| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{oci}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}],"annotations":{{"a":"{pad}","null":null}}}}"#,
            digest(config.as_bytes()),
            config.len(),
            digest(&layer),
            layer.len()
        )
    };
    let largest = manifest(&"x".repeat(BYTES_MAX - manifest("").len()));
    ensure!(largest.len() == BYTES_MAX);
    registry.send("PUT", "/v2/large/manifests/t", oci, largest.as_bytes())?.expect(201)?;
    let more = format!("{largest} ");
    registry.send("PUT", "/v2/large/manifests/u", oci, more.as_bytes())?.expect(413)?;
    let rrun = Rrun::new(bin("rrun")?)?;
    rrun.out(["pull", &format!("{}/large:t", registry.localhost())])?;
    rrun.expect_nothing_left()
}

/// A page of another origin does in a real browser what registries' web pages do.
#[test]
fn a_web_page_of_another_origin_lists_reads_and_deletes() -> Result<()> {
    const PAGE: &str = r#"<!doctype html><title>page</title><body><script>
(async () => {
  const at = location.hash.slice(1), docker = "application/vnd.docker.distribution.manifest.v2+json";
  const ask = (path, method = "GET") => fetch(at + path,
    {method, credentials: "include", headers: {Accept: docker, Authorization: "Basic eDp5"}});
  const said = [];
  try {
    said.push((await (await ask("/v2/_catalog?n=1")).json()).repositories.join());
    said.push(((await ask("/v2/_catalog?n=1")).headers.get("Link") || "none").includes("next"));
    said.push((await (await ask("/v2/app/tags/list")).json()).tags.join());
    const head = await ask("/v2/app/manifests/t", "HEAD");
    const digest = head.headers.get("Docker-Content-Digest");
    said.push(digest.startsWith("sha256:"));
    said.push((await (await ask("/v2/app/manifests/t")).json()).layers.length);
    said.push((await ask("/v2/app/manifests/" + digest, "DELETE")).status);
    said.push((await ask("/v2/app/manifests/t")).status);
  } catch (error) { said.push(error.toString()); }
  document.body.textContent = "said: " + said.join(" ") + " :end";
})();
</script>"#;
    let page = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let origin = format!("http://{}", page.local_addr()?);
    // As web pages for registries tell their users to configure distribution.
    let registry = Registry::start(
        Options::default()
            .env("REGISTRY_HTTP_HEADERS_Access-Control-Allow-Origin", &format!("['{origin}']"))
            .env(
                "REGISTRY_HTTP_HEADERS_Access-Control-Allow-Methods",
                "[HEAD, GET, OPTIONS, DELETE]",
            )
            .env(
                "REGISTRY_HTTP_HEADERS_Access-Control-Allow-Headers",
                "[Authorization, Accept, Cache-Control]",
            )
            .env("REGISTRY_HTTP_HEADERS_Access-Control-Max-Age", "[1728000]")
            .env("REGISTRY_HTTP_HEADERS_Access-Control-Allow-Credentials", "[true]")
            .env(
                "REGISTRY_HTTP_HEADERS_Access-Control-Expose-Headers",
                "[Docker-Content-Digest, Link]",
            ),
    )?;
    push_image(&registry, "app")?;
    push_image(&registry, "web")?;
    std::thread::spawn(move || {
        for stream in page.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut reader = BufReader::new(&stream);
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                line.clear();
            }
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n{PAGE}",
                PAGE.len()
            );
        }
    });
    let scratch = Scratch::new("browser")?;
    let mut command = Command::new(tool("chromium-headless-shell")?);
    command
        .args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"])
        .arg("--virtual-time-budget=20000")
        .arg(format!("--user-data-dir={}", scratch.path().display()))
        .arg(format!("{origin}/#http://{}", registry.host()))
        .stdin(Stdio::null());
    let seen = run_for(PATIENCE, &mut command)?;
    let said = seen.stdout.split("said: ").nth(1).and_then(|rest| rest.split(" :end").next());
    let said = said.with_context(|| format!("{seen:?}"))?;
    ensure!(said == "app true t true 1 202 404", "{said}");
    Ok(())
}
