//! A Docker engine of the test's own: Debian's `dockerd` with directories, socket and pid file
//! apart from any other, without bridge and firewall rules or with a network namespace of its own
//! for them, stopped and unmounted at the end.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::janitor::{self, Chore};
use crate::process::{self, Server};
use crate::rrun::{self, Outcome};
use crate::wait;

/// How long one `docker` command may take: a build of a whole system on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    server: Server,
    directory: PathBuf,
    leftovers: Chore,
}

impl Engine {
    /// Starts an engine that keeps everything in `directory`, which must exist, and waits until it
    /// answers.
    ///
    /// # Errors
    /// If dockerd is missing or does not come up.
    pub fn start(directory: &Path) -> Result<Self> {
        Self::launch(dockerd(directory, false)?, directory)
    }

    /// The same in a network namespace of its own, with Docker's bridge in it: ports that it
    /// publishes are reached from there alone.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn start_apart(directory: &Path) -> Result<Self> {
        Self::launch(dockerd(directory, true)?, directory)
    }

    fn launch(mut dockerd: Command, directory: &Path) -> Result<Self> {
        // Were the engine killed, its mounts would keep the directory.
        let leftovers = janitor::leave(&format!(
            "sleep 1; for m in $(grep -o ' {}/[^ ]*' /proc/self/mountinfo | sort -r); do umount -l $m; done",
            directory.display()
        ))?;
        let server = Server::start(&mut dockerd, &directory.join("log"))?;
        let mut engine = Self { server, directory: directory.to_owned(), leftovers };
        wait::until("dockerd to answer", Duration::from_secs(60), || {
            engine.server.check()?;
            let mut version = engine.docker(["version"]);
            let status = version.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
            Ok(status.success().then_some(()))
        })?;
        Ok(engine)
    }

    /// A `docker` command for this engine, not started yet.
    pub fn docker<I, S>(&self, arguments: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = Command::new(crate::tool("docker").unwrap_or_else(|_| "docker".into()));
        command.arg("--host").arg(self.host());
        command.args(arguments).stdin(Stdio::null());
        command.env("DOCKER_BUILDKIT", "0").env("DOCKER_CONFIG", self.directory.join("config"));
        command
    }

    /// Where it listens, as `DOCKER_HOST` has it.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}", self.directory.join("sock").display())
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

    /// The engine's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Asked to stop, the engine unmounts what it mounted, but for one namespace.
        if self.server.stop(Duration::from_secs(20)).is_ok() {
            let namespace = self.directory.join("exec/netns/default");
            let _ = process::shell("umount -l \"$1\" 2>/dev/null || true", &[namespace]);
            self.leftovers.done();
        }
    }
}

fn dockerd(directory: &Path, apart: bool) -> Result<Command> {
    let program = crate::tool("dockerd")?;
    let mut command = match apart {
        true => {
            let mut command = Command::new("unshare");
            command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]);
            command.arg(program);
            command
        }
        false => Command::new(program),
    };
    let option = |name: &str, value: &str| format!("--{name}={}", directory.join(value).display());
    command.args([
        option("data-root", "data"),
        option("exec-root", "exec"),
        option("pidfile", "pid"),
    ]);
    command.arg(format!("--host=unix://{}", directory.join("sock").display()));
    if !apart {
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        command.args(["--ip-forward=false", "--ip-masq=false"]);
    }
    command.arg("--storage-driver=overlay2");
    // The machine's own configuration must not take part.
    fs::write(directory.join("daemon.json"), "{}")?;
    command.arg(option("config-file", "daemon.json"));
    Ok(command)
}
