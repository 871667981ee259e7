//! Real clients go whole rounds: push, list, pull, attach, discover, copy, sign, verify, delete.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use conformance::checks::Checks;
use conformance::image::{self, descriptor};
use conformance::janitor::Scratch;
use conformance::process::run_for;
use conformance::registry::{Options, Registry};
use conformance::world::World;
use serde_json::{Value, json};

/// One command of a client on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

#[test]
fn docker_pushes_and_all_pull_the_same_bytes() -> Result<()> {
    let world = World::start()?;
    let reference = world.push_debian()?;
    let clients = Clients::new(world.registry(), world.directory())?;
    let pushed = clients.manifest("debian", "1")?;
    let mut checks = Checks::default();
    checks.check("the image has several layers", || {
        let layers = pushed["layers"].as_array().map_or(0, Vec::len);
        ensure!(layers >= 4, "{layers} layers");
        Ok(())
    });
    checks.check("docker pulls it back", || {
        let engine = world.engine();
        let id = engine.docker_ok(&["inspect", "--format={{.Id}}", &reference])?.stdout;
        engine.docker_ok(&["rmi", "--force", &reference])?;
        engine.docker_ok(&["system", "prune", "--all", "--force"])?;
        engine.docker_ok(&["pull", "--quiet", &reference])?;
        let again = engine.docker_ok(&["inspect", "--format={{.Id}}", &reference])?.stdout;
        ensure!(id == again, "{id} was pushed, {again} came back");
        Ok(())
    });
    checks.check("skopeo pulls it", || {
        let target = clients.scratch.join("skopeo");
        clients.skopeo(&[
            "copy",
            "--src-tls-verify=false",
            &clients.docker("debian:1"),
            &dir(&target),
        ])?;
        same_blobs(&pushed, &target, |digest| digest.to_owned())
    });
    checks.check("crane pulls it", || {
        let target = clients.scratch.join("crane");
        clients.tool(
            "crane",
            &["pull", "--insecure", "--format=oci", &clients.name("debian:1"), path(&target)],
        )?;
        same_blobs(&pushed, &target.join("blobs/sha256"), |digest| digest.to_owned())
    });
    checks.check("podman pulls it", || {
        let id = clients.podman(&[
            "pull",
            "--quiet",
            "--tls-verify=false",
            &clients.name("debian:1"),
        ])?;
        let config = pushed["config"]["digest"].as_str().context("a config")?;
        ensure!(config.ends_with(id.trim()), "{config} was pushed, {id} came back");
        Ok(())
    });
    checks.check("podman and buildah push it on", || {
        let name = clients.name("debian:1");
        clients.podman(&["push", "--tls-verify=false", &name, &clients.name("podman:1")])?;
        clients.buildah(&["push", "--tls-verify=false", &name, &clients.docker("buildah:1")])?;
        for repository in ["podman", "buildah"] {
            let config = clients.manifest(repository, "1")?["config"]["digest"].clone();
            ensure!(config == pushed["config"]["digest"], "{repository}: {config}");
        }
        Ok(())
    });
    checks.check("docker pushes what is there: layers exist or are mounted", || {
        let engine = world.engine();
        let name = world.reference("again:1");
        engine.docker_ok(&["tag", &reference, &name])?;
        let outcome = engine.docker_ok(&["push", &name])?;
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        ensure!(said.contains("Mounted from") || said.contains("Layer already exists"), "{said}");
        Ok(())
    });
    checks.finish()
}

#[test]
fn clients_go_whole_rounds() -> Result<()> {
    let registry = Registry::start(Options::default())?;
    let scratch = Scratch::new("rounds")?;
    let clients = Clients::new(&registry, scratch.path())?;
    let subject = image::oci_image(&[("one", b"1"), ("two", b"2")])?;
    image::push_image(&registry, "app", "v1", &subject)?;
    let mut checks = Checks::default();
    checks.check("crane: list, catalog, digest, copy, tag, delete", || crane(&clients, &subject));
    checks.check("skopeo: inspect, list, copy, delete", || skopeo(&clients));
    checks.check("oras: push, pull, attach, discover, copy with referrers, delete", || {
        oras(&clients)
    });
    checks.check("regctl: referrers, copy with referrers, tags, delete", || regctl(&clients));
    checks.check("helm: push and pull a chart", || helm(&clients));
    checks.check("cosign: sign and verify with a key", || cosign(&clients, &subject.digest()));
    checks.check("a BuildKit cache index, whose children are blobs", || cache_index(&clients));
    checks.check("a Docker manifest list", || manifest_list(&clients));
    checks.check("an image of sixty layers", || sixty_layers(&clients));
    checks.check("a manifest of almost 4 MB", || large_manifest(&clients));
    checks.finish()
}

struct Clients<'a> {
    registry: &'a Registry,
    scratch: PathBuf,
    storage: [String; 4],
}

impl<'a> Clients<'a> {
    fn new(registry: &'a Registry, scratch: &Path) -> Result<Self> {
        let scratch = scratch.join("clients");
        fs::create_dir_all(&scratch)?;
        let at = |name: &str| path(&scratch.join(name)).to_owned();
        // vfs: nothing stays mounted.
        let storage = ["--root".into(), at("storage"), "--runroot".into(), at("storage-run")];
        Ok(Self { registry, scratch, storage })
    }

    fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.registry.localhost())
    }

    fn docker(&self, image: &str) -> String {
        format!("docker://{}", self.name(image))
    }

    fn tool(&self, name: &str, arguments: &[&str]) -> Result<String> {
        self.run(Command::new(conformance::tool(name)?).args(arguments))
    }

    fn skopeo(&self, arguments: &[&str]) -> Result<String> {
        let program = conformance::tool("skopeo")?;
        self.run(Command::new(program).arg("--insecure-policy").args(arguments))
    }

    fn podman(&self, arguments: &[&str]) -> Result<String> {
        let program = conformance::tool("podman")?;
        let driver = ["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none"];
        self.run(Command::new(program).args(driver).args(&self.storage).args(arguments))
    }

    fn buildah(&self, arguments: &[&str]) -> Result<String> {
        let program = conformance::tool("buildah")?;
        let driver = ["--storage-driver=vfs"];
        self.run(Command::new(program).args(driver).args(&self.storage).args(arguments))
    }

    fn run(&self, command: &mut Command) -> Result<String> {
        // Nobody's logins, caches and keys but the test's.
        command.env("HOME", &self.scratch).current_dir(&self.scratch);
        command.env("COSIGN_PASSWORD", "").env("XDG_RUNTIME_DIR", &self.scratch);
        let output = run_for(PATIENCE, command)?;
        ensure!(
            output.status.success(),
            "{command:?}: {}\n{}\n{}",
            output.status,
            output.stdout,
            output.stderr
        );
        Ok(output.stdout)
    }

    fn manifest(&self, repository: &str, reference: &str) -> Result<Value> {
        let target = format!("/v2/{repository}/manifests/{reference}");
        self.registry.get(&target)?.expect(200)?.json()
    }

    fn is_gone(&self, repository: &str, reference: &str) -> Result<()> {
        self.registry.get(&format!("/v2/{repository}/manifests/{reference}"))?.expect(404)?;
        Ok(())
    }

    fn file(&self, name: &str, content: &str) -> Result<String> {
        let file = self.scratch.join(name);
        fs::write(&file, content)?;
        Ok(path(&file).to_owned())
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

fn dir(target: &Path) -> String {
    format!("dir:{}", target.display())
}

/// Every blob that the manifest names lies in `directory`, under the hexadecimal part of its
/// digest, and has that digest.
fn same_blobs(manifest: &Value, directory: &Path, name: impl Fn(&str) -> String) -> Result<()> {
    let layers = manifest["layers"].as_array().context("layers")?;
    for blob in layers.iter().chain([&manifest["config"]]) {
        let digest = blob["digest"].as_str().context("a digest")?;
        let hex = digest.strip_prefix("sha256:").context("a sha256 digest")?;
        let bytes = fs::read(directory.join(name(hex)))?;
        ensure!(image::sha256(&bytes) == digest, "{digest} came back as {}", image::sha256(&bytes));
    }
    Ok(())
}

fn crane(clients: &Clients<'_>, subject: &image::Image) -> Result<()> {
    let crane = |arguments: &[&str]| {
        let all: Vec<&str> = arguments.iter().copied().chain(["--insecure"]).collect();
        clients.tool("crane", &all)
    };
    ensure!(crane(&["ls", &clients.name("app")])?.contains("v1"));
    ensure!(crane(&["catalog", &clients.registry.localhost()])?.contains("app"));
    ensure!(crane(&["digest", &clients.name("app:v1")])?.trim() == subject.digest());
    crane(&["copy", &clients.name("app:v1"), &clients.name("crane/copy:v1")])?;
    crane(&["tag", &clients.name("crane/copy:v1"), "v2"])?;
    ensure!(crane(&["digest", &clients.name("crane/copy:v2")])?.trim() == subject.digest());
    crane(&["validate", "--remote", &clients.name("crane/copy:v2")])?;
    crane(&["delete", &format!("{}@{}", clients.name("crane/copy"), subject.digest())])?;
    clients.is_gone("crane/copy", "v1")?;
    clients.is_gone("crane/copy", "v2")
}

fn skopeo(clients: &Clients<'_>) -> Result<()> {
    let no_tls = "--tls-verify=false";
    ensure!(clients.skopeo(&["inspect", no_tls, &clients.docker("app:v1")])?.contains("app"));
    ensure!(clients.skopeo(&["list-tags", no_tls, &clients.docker("app")])?.contains("v1"));
    let (from, to) = (clients.docker("app:v1"), clients.docker("skopeo/copy:v1"));
    let no_tls = ["--src-tls-verify=false", "--dest-tls-verify=false"];
    clients.skopeo(&["copy", no_tls[0], no_tls[1], &from, &to])?;
    clients.skopeo(&[
        "copy",
        "--format=v2s2",
        no_tls[0],
        no_tls[1],
        &from,
        &clients.docker("skopeo/v2:v1"),
    ])?;
    clients.skopeo(&["delete", "--tls-verify=false", &to])?;
    clients.is_gone("skopeo/copy", "v1")
}

fn oras(clients: &Clients<'_>) -> Result<()> {
    let oras = |arguments: &[&str]| clients.tool("oras", arguments);
    clients.file("sbom.json", "{\"spdxVersion\":\"SPDX-2.3\"}")?;
    clients.file("hello.txt", "hello")?;
    let name = clients.name("oras:v1");
    oras(&["push", "--plain-http", &name, "hello.txt:text/plain"])?;
    oras(&[
        "attach",
        "--plain-http",
        "--artifact-type",
        "application/spdx+json",
        &name,
        "sbom.json",
    ])?;
    let found = oras(&["discover", "--plain-http", "--format", "json", &name])?;
    ensure!(found.contains("application/spdx+json"), "{found}");
    let out = clients.scratch.join("oras-out");
    oras(&["pull", "--plain-http", "--output", path(&out), &name])?;
    ensure!(fs::read_to_string(out.join("hello.txt"))? == "hello");
    let copy = clients.name("oras-copy:v1");
    oras(&["cp", "--recursive", "--from-plain-http", "--to-plain-http", &name, &copy])?;
    let found = oras(&["discover", "--plain-http", "--format", "json", &copy])?;
    ensure!(found.contains("application/spdx+json"), "{found}");
    oras(&["manifest", "delete", "--plain-http", "--force", &copy])?;
    clients.is_gone("oras-copy", "v1")
}

fn regctl(clients: &Clients<'_>) -> Result<()> {
    let regctl = |arguments: &[&str]| clients.tool("regctl", arguments);
    regctl(&["registry", "set", "--tls", "disabled", &clients.registry.localhost()])?;
    ensure!(regctl(&["tag", "ls", &clients.name("app")])?.contains("v1"));
    let (from, to) = (clients.name("app:v1"), clients.name("regctl/copy:v1"));
    regctl(&[
        "artifact",
        "put",
        "--artifact-type",
        "application/x.note",
        "--subject",
        &from,
        "--file",
        &clients.file("note", "x")?,
    ])?;
    regctl(&["image", "copy", "--referrers", &from, &to])?;
    let list = regctl(&["artifact", "list", "--format", "{{json .}}", &to])?;
    ensure!(list.contains("application/x.note"), "{list}");
    regctl(&["tag", "delete", &to])?;
    clients.is_gone("regctl/copy", "v1")
}

fn helm(clients: &Clients<'_>) -> Result<()> {
    let helm = |arguments: &[&str]| clients.tool("helm", arguments);
    helm(&["create", "chart"])?;
    helm(&["package", "chart"])?;
    let charts = format!("oci://{}/charts", clients.registry.localhost());
    helm(&["push", "chart-0.1.0.tgz", &charts, "--plain-http"])?;
    let out = clients.scratch.join("helm-out");
    fs::create_dir(&out)?;
    let chart = format!("{charts}/chart");
    helm(&["pull", &chart, "--version", "0.1.0", "--plain-http", "--destination", path(&out)])?;
    let (pushed, pulled) = (
        fs::read(clients.scratch.join("chart-0.1.0.tgz"))?,
        fs::read(out.join("chart-0.1.0.tgz"))?,
    );
    ensure!(pushed == pulled, "the chart came back changed");
    Ok(())
}

fn cosign(clients: &Clients<'_>, digest: &str) -> Result<()> {
    let cosign = |arguments: &[&str]| clients.tool("cosign", arguments);
    cosign(&["generate-key-pair"])?;
    let name = format!("{}@{digest}", clients.name("app"));
    let plain = ["--allow-insecure-registry", "--allow-http-registry"];
    cosign(&[
        "sign",
        "--yes",
        "--tlog-upload=false",
        "--key",
        "cosign.key",
        plain[0],
        plain[1],
        &name,
    ])?;
    cosign(&[
        "verify",
        "--insecure-ignore-tlog=true",
        "--key",
        "cosign.pub",
        plain[0],
        plain[1],
        &name,
    ])?;
    Ok(())
}

/// What BuildKit before 0.21 pushes as a cache: an index whose children are layer blobs.
fn cache_index(clients: &Clients<'_>) -> Result<()> {
    let registry = clients.registry;
    let layer = image::gzip(&image::layer_tar("cached", b"yes")?)?;
    let config = serde_json::to_vec(&json!({"layers": [{"blob": image::sha256(&layer)}]}))?;
    image::push_blob(registry, "cache", &layer)?;
    image::push_blob(registry, "cache", &config)?;
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": image::OCI_INDEX,
        "manifests": [
            descriptor(image::OCI_LAYER_GZIP, &layer),
            descriptor("application/vnd.buildkit.cacheconfig.v0", &config),
        ],
    }))?;
    image::push_manifest(registry, "cache", "main", image::OCI_INDEX, &index)?;
    let back = registry.get("/v2/cache/manifests/main")?.expect(200)?;
    ensure!(back.body == index, "the index came back changed");
    registry.get(&format!("/v2/cache/blobs/{}", image::sha256(&layer)))?.expect(200)?;
    Ok(())
}

fn manifest_list(clients: &Clients<'_>) -> Result<()> {
    let child = image::docker_image(&[("x", b"docker")])?;
    image::push_image(clients.registry, "list", &child.digest(), &child)?;
    let mut entry = child.descriptor();
    entry["platform"] = json!({"architecture": "amd64", "os": "linux"});
    let list = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": image::DOCKER_LIST, "manifests": [entry],
    }))?;
    image::push_manifest(clients.registry, "list", "v1", image::DOCKER_LIST, &list)?;
    let raw =
        clients.skopeo(&["inspect", "--raw", "--tls-verify=false", &clients.docker("list:v1")])?;
    ensure!(raw.as_bytes() == list, "{raw}");
    let out = clients.scratch.join("list");
    clients.skopeo(&["copy", "--src-tls-verify=false", &clients.docker("list:v1"), &dir(&out)])?;
    Ok(())
}

fn sixty_layers(clients: &Clients<'_>) -> Result<()> {
    let files: Vec<(String, Vec<u8>)> =
        (0..60).map(|n| (format!("file-{n}"), image::noise(n, 1000))).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    let many = image::oci_image(&files)?;
    image::push_image(clients.registry, "sixty", "v1", &many)?;
    let out = clients.scratch.join("sixty");
    clients.tool(
        "crane",
        &["pull", "--insecure", "--format=oci", &clients.name("sixty:v1"), path(&out)],
    )?;
    same_blobs(&clients.manifest("sixty", "v1")?, &out.join("blobs/sha256"), |hex| hex.to_owned())
}

fn large_manifest(clients: &Clients<'_>) -> Result<()> {
    let base = image::oci_image(&[("x", b"large")])?;
    image::push_image(clients.registry, "large", "small", &base)?;
    let mut manifest: Value = serde_json::from_slice(&base.manifest)?;
    let annotations: serde_json::Map<String, Value> =
        (0..390).map(|n| (format!("org.example.{n}"), json!("x".repeat(10_000)))).collect();
    manifest["annotations"] = Value::Object(annotations);
    let bytes = serde_json::to_vec(&manifest)?;
    ensure!(bytes.len() > 3_900_000, "{} bytes", bytes.len());
    image::push_manifest(clients.registry, "large", "v1", &base.media_type, &bytes)?;
    let raw = clients.tool("crane", &["manifest", "--insecure", &clients.name("large:v1")])?;
    ensure!(raw.trim_end().as_bytes() == bytes, "the manifest came back changed");
    Ok(())
}
