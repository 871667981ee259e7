//! `conformance demo`: one push and one run, shown in the programs' own words.
//!
//! Needs nothing but the two programs and the compiler that built them: the image's only file is
//! compiled on the spot and pushed over plain HTTP. Everything lies in one temporary directory and
//! is gone afterwards, whatever happens in between (see [`crate::janitor`]).

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::http::Request;
use crate::janitor::{self, Scratch};
use crate::process::Server;
use crate::wait;

/// The source of the image's program; see there.
const PROGRAM: &str = include_str!("../demo/app.rs");

/// Where `registry serve` listens when nobody says otherwise.
const DEFAULT_PORT: u16 = 5000;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// The limits of the demonstration's container.
const LIMITS: [&str; 6] = ["--memory", "64m", "--cpus", "0.5", "--pids-limit", "32"];

/// Runs the demonstration and narrates it on standard output.
///
/// # Errors
/// If this is not root, or a step fails; everything is cleaned up then too.
pub fn run() -> Result<()> {
    crate::require_root().context(
        "the demonstration makes a container, which needs root for now: sudo -E make demo",
    )?;
    let (registry, rrun) = (crate::bin("registry")?, crate::bin("rrun")?);
    let scratch = Scratch::new("demo")?;

    step(1, "An image of one file");
    let image = Image::build(&scratch)?;

    step(2, "A registry on an empty directory");
    let mut registry = DemoRegistry::start(&registry, &scratch)?;

    step(3, "Push");
    registry.push("app", "latest", &image)?;
    registry.show_log()?;

    step(4, "Pull and run, isolated and limited");
    let reference = format!("localhost:{}/app", registry.address.port());
    run_container(&rrun, &scratch, &reference)?;
    registry.show_log()?;

    step(5, "Stop");
    registry.stop()?;
    let directory = scratch.path().to_owned();
    drop(scratch);
    ensure!(!directory.exists(), "{} is still there", directory.display());
    say("registry stopped, containers, images and directories removed");
    println!();
    Ok(())
}

fn step(number: u32, title: &str) {
    println!("\n{number}. {title}");
}

fn say(text: &str) {
    println!("   {text}");
}

/// Shows a command as a person would type it.
fn prompt(program: &str, arguments: &[&str]) {
    println!("   $ {program} {}", arguments.join(" "));
}

/// An image in memory: what is pushed.
struct Image {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

impl Image {
    fn build(scratch: &Scratch) -> Result<Self> {
        let program = compile(scratch)?;
        let tar = single_file_tar("app", &program)?;
        let layer = gzip(&tar)?;
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Entrypoint": ["/app"], "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": [digest(&tar)] },
            "history": [{ "created_by": "conformance demo" }],
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer)],
        }))?;
        say(&format!("layer    {}  {:>4} KiB", short(&layer), layer.len() / 1024));
        say(&format!("manifest {}", short(&manifest)));
        Ok(Self { layer, config, manifest })
    }
}

/// Compiles the program into a static executable.
fn compile(scratch: &Scratch) -> Result<Vec<u8>> {
    let (source, target) = (scratch.join("app.rs"), scratch.join("app"));
    fs::write(&source, PROGRAM)?;
    let started = Instant::now();
    let arguments =
        ["--edition=2024", "-O", "-Ctarget-feature=+crt-static", "-Cstrip=symbols", "-o"];
    prompt("rustc", &["-O -C target-feature=+crt-static app.rs"]);
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(compiler)
        .args(arguments)
        .args([&target, &source])
        .output()
        .context("starting rustc: it comes with cargo, which built these programs")?;
    ensure!(output.status.success(), "rustc failed:\n{}", String::from_utf8_lossy(&output.stderr));
    let program = fs::read(&target)?;
    let took = started.elapsed().as_secs_f64();
    say(&format!("/app     static, {} KiB, compiled in {took:.1} s", program.len() / 1024));
    Ok(program)
}

fn single_file_tar(name: &str, content: &[u8]) -> Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    header.set_mtime(0);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, name, content)?;
    Ok(archive.into_inner()?)
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

fn short(bytes: &[u8]) -> String {
    digest(bytes).chars().take("sha256:".len() + 12).collect()
}

fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}

/// The machine's architecture in the words of an image's configuration (Go's GOARCH).
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `registry serve`, with what it says kept in a file and shown step by step.
struct DemoRegistry {
    server: Server,
    address: SocketAddr,
    log: PathBuf,
    shown: u64,
}

impl DemoRegistry {
    fn start(binary: &Path, scratch: &Scratch) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let (data, log) = (scratch.join("registry-data"), scratch.join("registry.log"));
        prompt(&format!("REGISTRY_HTTP_ADDR={address} registry"), &["serve"]);
        let mut command = Command::new(binary);
        command
            .arg("serve")
            .env("REGISTRY_HTTP_ADDR", address.to_string())
            .env("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", &data)
            .env("REGISTRY_LOG_FORMATTER", "text")
            .env("NO_COLOR", "1")
            .current_dir(scratch.path());
        let mut server = Server::start(&mut command, &log)?;
        wait::until("the registry to answer", Duration::from_secs(10), || {
            server.check()?;
            let answer = Request::new("GET", "/v2/").send(address);
            Ok(answer.ok().filter(|response| response.status == 200))
        })?;
        let mut registry = Self { server, address, log, shown: 0 };
        registry.show_log()?;
        Ok(registry)
    }

    /// Prints what the registry has said since the last time.
    fn show_log(&mut self) -> Result<()> {
        let mut file = fs::File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.shown))?;
        let mut text = String::new();
        self.shown += file.read_to_string(&mut text)? as u64;
        for line in text.lines() {
            println!("   registry | {line}");
        }
        Ok(())
    }

    fn push(&self, repository: &str, tag: &str, image: &Image) -> Result<()> {
        for blob in [&image.layer, &image.config] {
            self.push_blob(repository, blob)?;
        }
        let target = format!("/v2/{repository}/manifests/{tag}");
        Request::new("PUT", &target)
            .header("Content-Type", MANIFEST_TYPE)
            .bytes(&image.manifest)
            .send(self.address)?
            .expect(201)?;
        say(&format!("PUT  {target}  201 Created"));
        Ok(())
    }

    /// An upload in one request after the session was opened (distribution-spec, "Pushing a blob
    /// monolithically").
    fn push_blob(&self, repository: &str, blob: &[u8]) -> Result<()> {
        let opened = Request::new("POST", &format!("/v2/{repository}/blobs/uploads/"))
            .send(self.address)?
            .expect(202)?;
        let location = opened.need("location")?;
        let path = match location.strip_prefix("http://") {
            Some(rest) => &rest[rest.find('/').context("a location without a path")?..],
            None => location,
        };
        let separator = if path.contains('?') { '&' } else { '?' };
        let target = format!("{path}{separator}digest={}", digest(blob));
        Request::new("PUT", &target)
            .header("Content-Type", "application/octet-stream")
            .bytes(blob)
            .send(self.address)?
            .expect(201)?;
        say(&format!("PUT  /v2/{repository}/blobs/… {}  201 Created", short(blob)));
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        self.server.stop(Duration::from_secs(10))?;
        self.show_log()
    }
}

/// The default port if it is free, else any.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, DEFAULT_PORT))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    Ok(listener.local_addr()?.port())
}

fn run_container(rrun: &Path, scratch: &Scratch, reference: &str) -> Result<()> {
    let (root, runroot) = (scratch.join("rrun"), scratch.join("rrun-run"));
    let mut shown = LIMITS.to_vec();
    shown.push(reference);
    prompt("rrun", &shown);
    let mut command = Command::new(rrun);
    command.env("RRUN_ROOT", &root).env("RRUN_RUNROOT", &runroot).args(LIMITS).arg(reference);
    // The container's process ends with rrun, and rrun with this process: by Ctrl-C, which the
    // terminal sends to both, or by the janitor.
    let mut child = command.spawn().with_context(|| format!("starting {}", rrun.display()))?;
    let chore = janitor::leave(&format!("kill -TERM {} && sleep 1", child.id()))?;
    let status = child.wait()?;
    chore.done();
    match (status.code(), status.signal()) {
        (Some(0), _) => {}
        (Some(code), _) => {
            bail!("rrun ended with exit status {code}; `rrun doctor` tells what this host lacks")
        }
        (None, signal) => bail!("rrun was ended by signal {}", signal.unwrap_or_default()),
    }
    wait::until("the container to be cleaned up", Duration::from_secs(5), || {
        let left = fs::read_dir(root.join("containers")).map_or(0, Iterator::count);
        Ok((left == 0).then_some(()))
    })
}
