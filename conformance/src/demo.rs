//! `conformance demo`: one push and one run, shown in the programs' own words.
//!
//! Needs nothing but the two programs and the compiler that built them: the image's only file is
//! compiled on the spot and pushed over plain HTTP. Everything lies in one temporary directory and
//! is gone afterwards, whatever happens in between (see [`crate::janitor`]).

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use crate::image::{self, Image};
use crate::janitor::{self, Scratch};

use crate::registry::{self, Options, Registry};
use crate::wait;

/// The source of the image's program; see there.
const PROGRAM: &str = include_str!("../demo/app.rs");

/// Where `registry serve` listens when nobody says otherwise.
const DEFAULT_PORT: u16 = 5000;

/// The limits of the demonstration's container.
const LIMITS: [&str; 7] =
    ["--network=none", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "32"];

/// Runs the demonstration and narrates it on standard output.
///
/// # Errors
/// If this is not root, or a step fails; everything is cleaned up then too.
pub fn run() -> Result<()> {
    crate::require_root().context(
        "the demonstration makes a container, which needs root for now: sudo -E make demo",
    )?;
    let rrun = crate::bin("rrun")?;
    let scratch = Scratch::new("demo")?;

    step(1, "An image of one file");
    let image = build_image(&scratch)?;

    step(2, "A registry on an empty directory");
    let mut registry = DemoRegistry::start(&scratch)?;

    step(3, "Push");
    registry.push(&image)?;
    registry.show_log()?;

    step(4, "Pull and run, isolated and limited");
    let reference = format!("{}/app", registry.registry.localhost());
    run_container(&rrun, &scratch, &reference)?;
    registry.show_log()?;

    step(5, "Stop");
    registry.stop()?;
    let directory = scratch.path().to_owned();
    drop((registry, scratch));
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
    let config = json!({ "Entrypoint": ["/app"], "WorkingDir": "/" });
    let image = image::image_of_tars(&[tar], &config)?;
    say(&format!("layer    {}  {:>4} KiB", short(&image.blobs[0]), image.blobs[0].len() / 1024));
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

/// `registry serve`, whose words are shown step by step.
struct DemoRegistry {
    registry: Registry,
    shown: u64,
}

impl DemoRegistry {
    fn start(scratch: &Scratch) -> Result<Self> {
        let port = default_or_free_port()?;
        prompt(&format!("REGISTRY_HTTP_ADDR=127.0.0.1:{port} registry"), &["serve"]);
        let options = Options::default()
            .port(port)
            .data(scratch.join("registry-data"))
            .env("REGISTRY_LOG_FORMATTER", "text")
            .env("NO_COLOR", "1");
        let mut demo = Self { registry: Registry::start(options)?, shown: 0 };
        demo.show_log()?;
        Ok(demo)
    }

    fn push(&self, image: &Image) -> Result<()> {
        image::push_image(&self.registry, "app", "latest", image)?;
        for blob in &image.blobs {
            say(&format!("PUT  /v2/app/blobs/… {}  201 Created", short(blob)));
        }
        say(&format!("PUT  /v2/app/manifests/latest {}  201 Created", short(&image.manifest)));
        Ok(())
    }

    /// Prints what the registry has said since the last time.
    fn show_log(&mut self) -> Result<()> {
        let mut file = fs::File::open(self.registry.log())?;
        file.seek(SeekFrom::Start(self.shown))?;
        let mut text = String::new();
        self.shown += file.read_to_string(&mut text)? as u64;
        for line in text.lines() {
            say(&format!("registry | {line}"));
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        self.registry.server().stop(Duration::from_secs(10))?;
        self.show_log()
    }
}

/// The port where `registry serve` listens when nobody says otherwise, if it is free.
fn default_or_free_port() -> Result<u16> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, DEFAULT_PORT)) {
        Ok(_) => Ok(DEFAULT_PORT),
        Err(_) => registry::free_port(),
    }
}

/// A digest as people read it: twelve digits.
fn short(bytes: &[u8]) -> String {
    image::sha256(bytes).chars().take("sha256:".len() + 12).collect()
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
