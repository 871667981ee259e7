//! Real clients over TLS, at an address that none of them takes for its own machine: the
//! certificate counts, and plain HTTP is no way out.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use conformance::checks::Checks;
use conformance::engine::Engine;
use conformance::image;
use conformance::janitor::Scratch;
use conformance::process::{run_for, shell};
use conformance::registry::{Options, Registry, free_port};
use conformance::rrun::Rrun;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// On the public internet, as far as anybody here can tell (RFC 5737).
const ADDRESS: &str = "203.0.113.30";

/// One command of a client on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

const LAYER_BYTES: usize = 7 << 20;

#[test]
fn clients_push_and_pull_over_tls() -> Result<()> {
    conformance::require_root()?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| island().and_then(|()| push_and_pull()));
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Gives this thread, and what it starts, a network of its own and its own places where clients
/// look for authorities.
fn island() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("new namespaces")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    for folder in ["/etc/docker", "/etc/containers"] {
        fs::create_dir_all(folder)?;
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), none)?;
    }
    shell::<&str>(&format!("ip link set lo up && ip address add {ADDRESS}/32 dev lo"), &[])?;
    Ok(())
}

fn push_and_pull() -> Result<()> {
    let scratch = Scratch::new("tls")?;
    certificates(scratch.path())?;
    let port = free_port()?;
    let host = format!("{ADDRESS}:{port}");
    let options = Options::default()
        .port(port)
        .env("REGISTRY_HTTP_ADDR", &format!("0.0.0.0:{port}"))
        .tls(&scratch.join("server.crt"), &scratch.join("server.key"));
    let registry = Registry::start(options)?;
    let docker = scratch.join("docker");
    fs::create_dir(&docker)?;
    let engine = Engine::start(&docker)?;
    let clients = Clients { scratch: scratch.path() };
    let rrun = Rrun::new(conformance::bin("rrun")?)?;
    let name = format!("{host}/app:docker");
    let context = scratch.join("context");
    fs::create_dir(&context)?;
    fs::write(context.join("noise"), image::noise(96, LAYER_BYTES))?;
    fs::write(context.join("Dockerfile"), "FROM scratch\nADD noise /\nCMD [\"/noise\"]\n")?;
    engine.docker_ok(&["build", "--quiet", "--tag", &name, context.to_str().context("a path")?])?;

    let mut checks = Checks::default();
    checks.check("nobody talks to a registry that nobody vouches for", || {
        let said = engine.docker(["push", &name]).output()?;
        ensure!(!said.status.success(), "docker: {said:?}");
        let said = clients.crane(&["catalog", &host], false);
        ensure!(said.is_err(), "crane: {said:?}");
        let said = rrun.run(["pull", &name])?;
        ensure!(said.code != 0 && said.stderr.contains("is not trusted"), "{said:?}");
        Ok(())
    });
    let authorities = Path::new("/etc/docker/certs.d").join(&host);
    fs::create_dir_all(&authorities)?;
    fs::copy(scratch.join("ca.crt"), authorities.join("ca.crt"))?;
    checks.check("docker pushes", || engine.docker_ok(&["push", "--quiet", &name]).map(drop));
    checks.check("crane reads every byte and pushes", || {
        clients.crane(&["validate", "--remote", &name], true)?;
        clients.crane(&["copy", &name, &format!("{host}/crane:v1")], true)?;
        ensure!(clients.crane(&["catalog", &host], true)?.contains("crane"));
        clients.crane(&["delete", &format!("{host}/crane:v1")], true).map(drop)
    });
    checks.check("skopeo pulls and pushes", || {
        let folder = format!("dir:{}", scratch.join("skopeo").display());
        let skopeo = |words: &[&str]| clients.run("skopeo", words, true);
        skopeo(&["--insecure-policy", "copy", &format!("docker://{name}"), &folder])?;
        let again = format!("docker://{host}/skopeo:v1");
        skopeo(&["--insecure-policy", "copy", &folder, &again]).map(drop)
    });
    checks.check("podman pulls and pushes", || {
        let storage = scratch.join("podman");
        let at = |name: &str| storage.join(name).to_string_lossy().into_owned();
        let (root, run) = (at("root"), at("run"));
        let podman = |words: &[&str]| {
            let place = ["--root", &root, "--runroot", &run, "--storage-driver=vfs"];
            let quiet = ["--cgroup-manager=cgroupfs", "--events-backend=none"];
            clients.run("podman", &[&place[..], &quiet, words].concat(), true)
        };
        // What the machine says about policy is not looked at here: its folder is empty.
        let policy = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
        fs::write("/etc/containers/policy.json", policy)?;
        podman(&["pull", "--quiet", &name])?;
        podman(&["push", &name, &format!("{host}/podman:v1")]).map(drop)
    });
    checks.check("oras pushes and pulls a file", || {
        let reference = format!("{host}/oras:v1");
        fs::copy(context.join("noise"), scratch.join("noise"))?;
        clients.run("oras", &["push", &reference, "noise"], true)?;
        let folder = scratch.join("oras");
        let target = folder.to_str().context("a path")?;
        clients.run("oras", &["pull", "--output", target, &reference], true)?;
        ensure!(fs::read(folder.join("noise"))? == fs::read(context.join("noise"))?);
        Ok(())
    });
    checks.check("docker pulls it back", || {
        engine.docker_ok(&["rmi", "--force", &name])?;
        engine.docker_ok(&["pull", "--quiet", &name]).map(drop)
    });
    checks.check("rrun pulls", || {
        let said = rrun.run(["pull", &name])?;
        ensure!(said.code == 0, "{said:?}");
        Ok(())
    });
    drop(registry);
    checks.finish()
}

/// Makes an authority, and what it says about a server at [`ADDRESS`].
fn certificates(folder: &Path) -> Result<()> {
    let extensions = format!("subjectAltName=IP:{ADDRESS}\nbasicConstraints=CA:FALSE\n");
    fs::write(folder.join("extensions"), extensions)?;
    let script = "cd \"$1\" && exec 2>openssl.log\n\
        new='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'\n\
        openssl req -x509 -days 9 -subj /CN=Lab $new -keyout ca.key -out ca.crt &&\n\
        openssl req -subj /CN=server $new -keyout server.key -out server.csr &&\n\
        openssl x509 -req -days 9 -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial \\\n\
          -extfile extensions -out server.crt\n";
    shell(script, &[folder]).context("making certificates with openssl")?;
    Ok(())
}

struct Clients<'a> {
    scratch: &'a Path,
}

impl Clients<'_> {
    fn crane(&self, words: &[&str], trusting: bool) -> Result<String> {
        self.run("crane", words, trusting)
    }

    /// Go's programs take authorities from a variable, podman and skopeo from `certs.d`.
    fn run(&self, program: &str, words: &[&str], trusting: bool) -> Result<String> {
        let mut command = Command::new(conformance::tool(program)?);
        command.args(words).env("HOME", self.scratch).env("XDG_RUNTIME_DIR", self.scratch);
        command.current_dir(self.scratch);
        if trusting {
            command.env("SSL_CERT_FILE", self.scratch.join("ca.crt"));
        }
        let output = run_for(PATIENCE, &mut command)?;
        ensure!(output.status.success(), "{program} {words:?}: {output:?}");
        Ok(output.stdout)
    }
}
