//! The registry's image, made without a daemon: the same bytes twice, loaded by every engine, pushed
//! to our own registry and run from there, as root and as nobody.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use conformance::checks::Checks;
use conformance::engine::Engine;
use conformance::http::Request;
use conformance::image::sha256;
use conformance::janitor::Scratch;
use conformance::registry::{Options, Registry, free_port};
use conformance::rrun::Rrun;
use conformance::ship::build::{self, Platform};
use conformance::ship::image::{self, Image};
use conformance::{bin, process, tool, wait};
use serde_json::Value;

/// The static binary that `make static` has built.
fn binary() -> Result<PathBuf> {
    let path = build::path("registry", Platform::host()?, "release")?;
    ensure!(path.is_file(), "{} does not exist: run `make static` first", path.display());
    Ok(path)
}

fn make(directory: &Path) -> Result<Image> {
    image::write(directory, &[(Platform::host()?, binary()?)])
}

/// The files of a tar archive.
fn files(archive: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes)?;
        files.push((entry.path()?.to_string_lossy().into_owned(), bytes));
    }
    Ok(files)
}

#[test]
fn two_directories_give_one_digest_and_a_sound_layout() -> Result<()> {
    let scratch = Scratch::new("image")?;
    let first = make(&scratch.join("a"))?;
    let second = make(&scratch.join("b"))?;
    let bytes = fs::read(&first.path)?;
    ensure!(first.digest == second.digest && bytes == fs::read(&second.path)?, "two images differ");
    let files = files(&bytes)?;
    let find = |path: &str| -> Result<&[u8]> {
        let found = files.iter().find(|(name, _)| name == path);
        Ok(found.with_context(|| format!("no {path}"))?.1.as_slice())
    };
    for (path, bytes) in files.iter().filter(|(path, _)| path.starts_with("blobs/sha256/")) {
        let digest = path.replace("blobs/", "").replace('/', ":");
        ensure!(sha256(bytes) == digest, "{path} is not what it is called");
    }
    let layout: Value = serde_json::from_slice(find("index.json")?)?;
    ensure!(layout["manifests"][0]["digest"] == first.digest.as_str(), "{layout}");
    let docker: Value = serde_json::from_slice(find("manifest.json")?)?;
    let config = docker[0]["Config"].as_str().context("Config")?;
    let config: Value = serde_json::from_slice(find(config)?)?;
    let settings = &config["config"];
    ensure!(settings["User"].is_null(), "a swap must find root's data: {settings}");
    ensure!(settings["Env"][1] == "ROADSTEAD_DROP_ROOT=1", "{settings}");
    ensure!(settings["Healthcheck"]["Test"][2] == "healthcheck", "{settings}");
    Ok(())
}

/// A container of an engine, on this host's network, removed at the end.
struct Container<'a> {
    engine: &'a Engine,
    address: SocketAddr,
}

impl<'a> Container<'a> {
    fn run(engine: &'a Engine, image: &str, arguments: &[&str]) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let variable = format!("REGISTRY_HTTP_ADDR={address}");
        let mut words = vec!["run", "--detach", "--name=registry", "--network=host"];
        words.extend(["--env", &variable]);
        words.extend(arguments);
        words.push(image);
        engine.docker_ok(&words)?;
        let container = Self { engine, address };
        wait::until("the container to answer", Duration::from_secs(30), || {
            let state =
                engine.docker_ok(&["inspect", "--format={{.State.Running}}", "registry"])?;
            ensure!(state.stdout.trim() == "true", "it ended: {}", container.log()?);
            let ready = Request::new("GET", "/v2/").send(address);
            Ok(ready.is_ok_and(|answer| answer.status == 200).then_some(()))
        })?;
        Ok(container)
    }

    fn log(&self) -> Result<String> {
        let said = self.engine.docker_ok(&["logs", "registry"])?;
        Ok(said.stdout + &said.stderr)
    }

    /// The process's user and effective capabilities.
    fn identity(&self) -> Result<(String, String)> {
        let pid = self.engine.docker_ok(&["inspect", "--format={{.State.Pid}}", "registry"])?;
        let status = fs::read_to_string(format!("/proc/{}/status", pid.stdout.trim()))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or("").split_whitespace().next().unwrap_or("").to_owned()
        };
        Ok((field("Uid:"), field("CapEff:")))
    }

    fn status(&self, method: &str, target: &str) -> Result<u16> {
        Ok(Request::new(method, target).send(self.address)?.status)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log().unwrap_or_default());
        }
        let _ = self.engine.docker_ok(&["rm", "--force", "--volumes", "registry"]);
    }
}

const NO_CAPABILITIES: &str = "0000000000000000";

#[test]
fn docker_loads_it_and_runs_it_as_root_and_as_nobody() -> Result<()> {
    let scratch = Scratch::new("image-docker")?;
    let made = make(&scratch.join("image"))?;
    let directory = scratch.join("docker");
    fs::create_dir(&directory)?;
    let engine = Engine::start(&directory)?;
    let said = engine.docker_ok(&["load", "--input", &made.path.to_string_lossy()])?;
    ensure!(said.stdout.contains(&made.reference), "{}", said.stdout);
    let mut checks = Checks::default();
    let alone = |(uid, capabilities): (String, String), expected: &str| -> Result<()> {
        ensure!(uid == expected && capabilities == NO_CAPABILITIES, "uid {uid}, {capabilities}");
        Ok(())
    };
    checks.check("docker run, a volume of its own", || {
        let container = Container::run(&engine, &made.reference, &[])?;
        alone(container.identity()?, "65532")?;
        // Distribution's defaults: a delete is refused.
        let delete = container.status("DELETE", &format!("/v2/app/manifests/{}", sha256(b"x")))?;
        ensure!(delete == 405, "{delete}");
        Ok(())
    });
    checks.check("docker run, hardened", || {
        let container = Container::run(
            &engine,
            &made.reference,
            &[
                "--read-only",
                "--cap-drop=ALL",
                "--user=65532:65532",
                "--security-opt=no-new-privileges",
                "--pids-limit=256",
                "--memory=512m",
            ],
        )?;
        alone(container.identity()?, "65532")
    });
    for (name, owner, filled, expected) in
        [("empty", 0, false, "65532"), ("roots", 0, true, "0"), ("users", 1000, true, "1000")]
    {
        checks.check(&format!("docker run, a directory of the host's: {name}"), || {
            let data = scratch.join(name);
            fs::create_dir(&data)?;
            if filled {
                fs::write(data.join("something"), "there")?;
            }
            std::os::unix::fs::chown(&data, Some(owner), Some(owner))?;
            let volume = format!("{}:/var/lib/registry", data.display());
            let container = Container::run(&engine, &made.reference, &["--volume", &volume])?;
            alone(container.identity()?, expected)
        });
    }
    for place in ["/etc/distribution/config.yml", "/etc/docker/registry/config.yml"] {
        checks.check(&format!("a configuration at {place}"), || {
            let file = scratch.join("config.yml");
            fs::write(&file, "version: 0.1\nstorage: {delete: {enabled: true}, filesystem: {rootdirectory: /var/lib/registry}}\n")?;
            let volume = format!("{}:{place}:ro", file.display());
            let container = Container::run(&engine, &made.reference, &["--volume", &volume])?;
            let delete = container.status("DELETE", &format!("/v2/app/manifests/{}", sha256(b"x")))?;
            ensure!(delete == 404, "the file was not read: {delete}");
            Ok(())
        });
    }
    checks.finish()
}

#[test]
fn other_clients_take_it_and_it_runs_from_our_own_registry() -> Result<()> {
    let scratch = Scratch::new("image-clients")?;
    let made = make(&scratch.join("image"))?;
    let file = made.path.to_string_lossy().into_owned();
    let registry = Registry::start(Options::default())?;
    let name =
        |client: &str| format!("{}/{client}/registry:{}", registry.localhost(), image::VERSION);
    let digest = |client: &str| -> Result<String> {
        let target = format!("/v2/{client}/registry/manifests/{}", image::VERSION);
        Ok(registry.get(&target)?.expect(200)?.need("docker-content-digest")?.to_owned())
    };
    let mut checks = Checks::default();
    checks.check("skopeo copies all platforms, under the same digest", || {
        process::run(
            Command::new(tool("skopeo")?)
                .args(["copy", "--all", "--dest-tls-verify=false"])
                .arg(format!("oci-archive:{file}"))
                .arg(format!("docker://{}", name("skopeo"))),
        )?;
        ensure!(digest("skopeo")? == made.digest, "another digest");
        Ok(())
    });
    checks.check("crane pushes it", || {
        process::run(Command::new(tool("crane")?).args([
            "push",
            "--insecure",
            &file,
            &name("crane"),
        ]))?;
        digest("crane").map(drop)
    });
    checks.check("podman loads and starts it", || {
        let podman = || -> Result<Command> {
            let mut command = Command::new(tool("podman")?);
            command.arg("--root").arg(scratch.join("podman"));
            command.arg("--runroot").arg(scratch.join("podman-run"));
            // Its default runtime refuses hosts with hybrid cgroups, and its default limits those
            // without CAP_SYS_RESOURCE: both are given.
            command.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--runtime"]);
            command.arg(tool("runc")?);
            Ok(command)
        };
        process::run(podman()?.args(["load", "--input", &file]))?;
        let said = process::run(podman()?.args([
            "run",
            "--rm",
            "--network=none",
            "--ulimit=nofile=1024:1024",
            "--ulimit=nproc=1024:1024",
            "--read-only",
            "--cap-drop=ALL",
            "--user=65532",
            &made.reference,
            "version",
        ]))?;
        ensure!(said.trim() == format!("registry {}", image::VERSION), "{said}");
        Ok(())
    });
    checks.check("rrun pulls it from there and starts it", || {
        let rrun = Rrun::new(bin("rrun")?)?;
        let said = rrun.out(["run", "--rm", "--read-only", &name("skopeo"), "version"])?;
        ensure!(said.trim() == format!("registry {}", image::VERSION), "{said}");
        Ok(())
    });
    checks.finish()
}
