//! `conformance demo`: one push and one run, shown in the programs' own words.
//!
//! Needs nothing but the two programs and the compiler that built them: the image's only file is
//! compiled on the spot and pushed over plain HTTP. Everything lies in one temporary directory and
//! is gone afterwards, whatever happens in between (see [`crate::janitor`]).

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use crate::http::Request;
use crate::janitor::{self, Scratch};
use crate::oci_image::{Image, short};
use crate::process::Server;
use crate::wait;

/// The source of the image's program; see there.
const PROGRAM: &str = include_str!("../demo/app.rs");

/// Where `registry serve` listens when nobody says otherwise.
const DEFAULT_PORT: u16 = 5000;

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
    let image = build_image(&scratch)?;

    step(2, "A registry on an empty directory");
    let mut registry = DemoRegistry::start(&registry, &scratch)?;

    step(3, "Push");
    image.push(registry.address, "app", "latest", say)?;
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
    line("");
    Ok(())
}

/// A reader that has seen enough (`make demo | head`) is no reason to stop half way.
fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn step(number: u32, title: &str) {
    line(&format!("\n{number}. {title}"));
}

fn say(text: &str) {
    line(&format!("   {text}"));
}

/// Shows a command as a person would type it.
fn prompt(program: &str, arguments: &[&str]) {
    line(&format!("   $ {program} {}", arguments.join(" ")));
}

fn build_image(scratch: &Scratch) -> Result<Image> {
    let tar = single_file_tar("app", &compile(scratch)?)?;
    let image = Image::new(&[tar], &json!({ "Entrypoint": ["/app"], "WorkingDir": "/" }))?;
    let size: usize = image.layers.iter().map(Vec::len).sum();
    say(&format!("layer    {}  {:>4} KiB", short(&image.layers[0]), size / 1024));
    say(&format!("manifest {}", short(&image.manifest)));
    Ok(image)
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
            say(&format!("registry | {line}"));
        }
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
