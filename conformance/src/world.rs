//! What the runner's tests start from: a registry, and images of a Debian system that a real
//! dockerd built and pushed to it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::http::Request;
use crate::janitor::{self, Chore, Scratch};
use crate::process::{self, Server};
use crate::rootfs;
use crate::rrun::{self, Outcome};
use crate::wait;

/// How long one `docker` command may take: a build of the whole system on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// A registry of ours and a Docker engine, both on loopback, with directories of their own.
#[derive(Debug)]
pub struct World {
    // In the order in which they are to go.
    dockerd: Server,
    registry: Server,
    leftovers: Chore,
    address: SocketAddr,
    scratch: Scratch,
}

impl World {
    /// Starts both.
    ///
    /// # Errors
    /// If a program is missing or does not come up.
    pub fn start() -> Result<Self> {
        crate::require_root()?;
        let scratch = Scratch::new("world")?;
        let address = free_address()?;
        let registry = start_registry(&scratch, address)?;
        let docker = scratch.join("docker");
        fs::create_dir(&docker)?;
        // Containers' shims outlive a killed engine; their mounts would keep the directory.
        let leftovers = janitor::leave(&format!(
            "sleep 1; for m in $(grep -o ' {0}[^ ]*' /proc/self/mountinfo | sort -r); do umount -l $m; done",
            docker.display()
        ))?;
        let dockerd = start_dockerd(&docker)?;
        let mut world = Self { dockerd, registry, leftovers, address, scratch };
        world.wait_until_up()?;
        Ok(world)
    }

    fn wait_until_up(&mut self) -> Result<()> {
        wait::until("the registry to answer", Duration::from_secs(20), || {
            self.registry.check()?;
            Ok(Request::new("GET", "/v2/").send(self.address).ok().filter(|r| r.status == 200))
        })?;
        wait::until("dockerd to answer", Duration::from_secs(60), || {
            self.dockerd.check()?;
            let mut version = self.docker(["version"]);
            let status = version.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
            Ok(status.success().then_some(()))
        })
    }

    /// Where the registry listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The registry's data.
    #[must_use]
    pub fn registry_data(&self) -> PathBuf {
        self.scratch.join("registry-data")
    }

    /// Stops the registry, so that its data can be copied.
    ///
    /// # Errors
    /// If it does not stop.
    pub fn stop_registry(&mut self) -> Result<()> {
        self.registry.stop(Duration::from_secs(20)).map(drop)
    }

    /// A directory for a test's own files, removed with the world.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// The full name of an image in the registry: `localhost:PORT/NAME`.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("localhost:{}/{name}", self.address.port())
    }

    /// A `docker` command for this engine, not started yet.
    pub fn docker<I, S>(&self, arguments: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        let mut command = Command::new(crate::tool("docker").unwrap_or_else(|_| "docker".into()));
        let socket = self.scratch.join("docker/sock");
        command.arg("--host").arg(format!("unix://{}", socket.display())).args(arguments);
        command
            .env("DOCKER_BUILDKIT", "0")
            .env("DOCKER_CONFIG", self.scratch.join("docker/config"));
        command.stdin(Stdio::null());
        command
    }

    /// Runs a `docker` command that must succeed.
    ///
    /// # Errors
    /// If it fails, with everything that it said.
    pub fn docker_ok(&self, arguments: &[&str]) -> Result<Outcome> {
        rrun::finish(self.docker(arguments), PATIENCE)?
            .expect_code(0)
            .with_context(|| format!("docker {}", arguments.join(" ")))
    }

    /// The Debian image with a file `/layers` that three further layers wrote to, pushed as
    /// `debian:1`.
    ///
    /// # Errors
    /// If it cannot be made or pushed.
    pub fn push_debian(&self) -> Result<String> {
        let context = self.scratch.join("debian-context");
        fs::create_dir_all(&context)?;
        link_or_copy(&rootfs::archive()?, &context.join("debian.tar"))?;
        let dockerfile = "FROM scratch\n\
                          ADD debian.tar /\n\
                          RUN echo one > /layers\n\
                          RUN echo two >> /layers\n\
                          RUN echo three >> /layers && rm -rf /usr/share/doc/*\n\
                          CMD [\"/bin/bash\"]\n";
        let reference = self.build("debian:1", &context, dockerfile)?;
        self.docker_ok(&["push", "--quiet", &reference])?;
        Ok(reference)
    }

    /// Builds an image from a directory and the text of its Dockerfile; its full name.
    ///
    /// # Errors
    /// If the build fails.
    pub fn build(&self, name: &str, context: &Path, dockerfile: &str) -> Result<String> {
        fs::write(context.join("Dockerfile"), dockerfile)?;
        let reference = self.reference(name);
        let directory = context.to_str().context("a temporary directory with a strange name")?;
        // A step that runs needs no network here, and the engine has no bridge.
        self.docker_ok(&["build", "--quiet", "--network=none", "--tag", &reference, directory])?;
        Ok(reference)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Asked to stop, the engine unmounts what it mounted.
        if self.dockerd.stop(Duration::from_secs(20)).is_ok() {
            let netns = self.scratch.join("docker/exec/netns/default");
            let _ = process::shell("umount -l \"$1\" 2>/dev/null || true", &[netns]);
            self.leftovers.done();
        }
    }
}

fn start_registry(scratch: &Scratch, address: SocketAddr) -> Result<Server> {
    let mut command = Command::new(crate::bin("registry")?);
    command
        .arg("serve")
        .env("REGISTRY_HTTP_ADDR", address.to_string())
        .env("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", scratch.join("registry-data"))
        .current_dir(scratch.path());
    Server::start(&mut command, &scratch.join("registry.log"))
}

/// An engine without a network of its own: no bridge, no firewall rules.
fn start_dockerd(directory: &Path) -> Result<Server> {
    let mut command = Command::new(crate::tool("dockerd")?);
    let option = |name: &str, value: &str| format!("--{name}={}", directory.join(value).display());
    command.args([
        option("data-root", "data"),
        option("exec-root", "exec"),
        option("pidfile", "pid"),
    ]);
    command.arg(format!("--host=unix://{}", directory.join("sock").display()));
    command.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]);
    command.args(["--ip-masq=false", "--storage-driver=overlay2", "--config-file"]);
    // The machine's own configuration must not take part.
    let config = directory.join("daemon.json");
    fs::write(&config, "{}")?;
    command.arg(config);
    Server::start(&mut command, &directory.join("log"))
}

/// A loopback address that is free now.
///
/// # Errors
/// If there is none.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn link_or_copy(source: &Path, target: &Path) -> Result<()> {
    if fs::hard_link(source, target).is_err() {
        fs::copy(source, target)?;
    }
    ensure!(target.is_file(), "{} is not there", target.display());
    Ok(())
}
