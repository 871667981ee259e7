//! A registry under test: ours, or Debian's `docker-registry` for comparison and as a control.

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::http::{Request, Response};
use crate::janitor::Scratch;
use crate::process::Server;
use crate::{bin, tool, wait};

/// Which program serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Roadstead,
    /// Debian's `docker-registry`.
    DockerRegistry,
}

/// Its name in the registry's scratch directory.
const DOCKER_REGISTRY_CONFIG: &str = "docker-registry.yml";

/// How a registry is started.
#[derive(Clone, Debug)]
pub struct Options {
    program: Program,
    binary: Option<PathBuf>,
    data: Option<PathBuf>,
    env: Vec<(String, String)>,
    wrapper: Vec<OsString>,
    port: Option<u16>,
    tls: bool,
    ready_within: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            program: Program::Roadstead,
            binary: None,
            data: None,
            env: Vec::new(),
            wrapper: Vec::new(),
            port: None,
            tls: false,
            ready_within: Duration::from_secs(20),
        }
    }
}

impl Options {
    #[must_use]
    pub fn program(mut self, program: Program) -> Self {
        self.program = program;
        self
    }

    /// Starts this build of our registry, not the release.
    #[must_use]
    pub fn binary(mut self, binary: impl Into<PathBuf>) -> Self {
        self.binary = Some(binary.into());
        self
    }

    /// Keeps the data in `directory`, which outlives the registry, not in one of its own.
    #[must_use]
    pub fn data(mut self, directory: impl Into<PathBuf>) -> Self {
        self.data = Some(directory.into());
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it through another program (`strace -o FILE`), which must end by exec or wait for it.
    #[must_use]
    pub fn wrapper<S: Into<OsString>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.wrapper = words.into_iter().map(Into::into).collect();
        self
    }

    /// Listens on this port, not on a free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Speaks TLS; requests of this process are not answered then.
    #[must_use]
    pub fn tls(mut self, certificate: &Path, key: &Path) -> Self {
        self.tls = true;
        self.env("REGISTRY_HTTP_TLS_CERTIFICATE", &certificate.to_string_lossy())
            .env("REGISTRY_HTTP_TLS_KEY", &key.to_string_lossy())
    }

    #[must_use]
    pub fn ready_within(mut self, limit: Duration) -> Self {
        self.ready_within = limit;
        self
    }
}

/// A running registry: killed with SIGKILL when dropped; its log is shown when the test fails.
#[derive(Debug)]
pub struct Registry {
    server: Server,
    address: SocketAddr,
    options: Options,
    data: PathBuf,
    ready_after: Duration,
    scratch: Scratch,
}

impl Registry {
    /// Starts a registry and waits until `/v2/` answers 200, or 400 where it speaks TLS.
    ///
    /// # Errors
    /// When the program is missing, ends, or is not ready in time; with its log.
    pub fn start(options: Options) -> anyhow::Result<Self> {
        let scratch = Scratch::new("registry")?;
        let data = match &options.data {
            Some(data) => data.clone(),
            None => scratch.join("data"),
        };
        let port = match options.port {
            Some(port) => port,
            None => free_port()?,
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (server, ready_after) = launch(&options, &data, address, scratch.path())?;
        Ok(Self { server, address, options, data, ready_after, scratch })
    }

    /// Kills it with SIGKILL and starts it again on the same data and address.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub fn crash_and_restart(&mut self) -> anyhow::Result<()> {
        self.server.kill();
        self.restart()
    }

    /// Starts it again after [`Registry::server`] was killed or stopped.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let (server, ready_after) =
            launch(&self.options, &self.data, self.address, self.scratch.path())?;
        self.server = server;
        self.ready_after = ready_after;
        Ok(())
    }

    pub fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `127.0.0.1:PORT`, as it stands in an image reference.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// `localhost:PORT`, for clients that speak plain HTTP to that name alone.
    pub fn localhost(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What it has written so far.
    pub fn log(&self) -> PathBuf {
        self.scratch.join("log")
    }

    /// The configuration file of a [`Program::DockerRegistry`], for its other commands.
    pub fn docker_registry_config(&self) -> PathBuf {
        self.scratch.join(DOCKER_REGISTRY_CONFIG)
    }

    /// How long the last start took until `/v2/` answered.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Sends a request without headers or body.
    ///
    /// # Errors
    /// When the connection fails; any status is an answer.
    pub fn request(&self, method: &str, target: &str) -> anyhow::Result<Response> {
        Request::new(method, target).send(self.address)
    }

    /// # Errors
    /// As [`Registry::request`].
    pub fn get(&self, target: &str) -> anyhow::Result<Response> {
        self.request("GET", target)
    }

    /// Sends a request with a body, and with a content type if that is not empty.
    ///
    /// # Errors
    /// As [`Registry::request`].
    pub fn send(
        &self,
        method: &str,
        target: &str,
        content_type: &str,
        body: &[u8],
    ) -> anyhow::Result<Response> {
        let mut request = Request::new(method, target).bytes(body);
        if !content_type.is_empty() {
            request = request.header("Content-Type", content_type);
        }
        request.send(self.address)
    }
}

fn launch(
    options: &Options,
    data: &Path,
    address: SocketAddr,
    scratch: &Path,
) -> anyhow::Result<(Server, Duration)> {
    let mut command = command(options, data, address, scratch)?;
    let log = scratch.join("log");
    let start = Instant::now();
    let mut server = Server::start(&mut command, &log)?;
    let ready = wait::until("the registry's /v2/", options.ready_within, || {
        server.check()?;
        let answer = Request::new("GET", "/v2/").send(address).ok();
        Ok(answer.filter(|answer| answer.status == if options.tls { 400 } else { 200 }))
    });
    ready.with_context(|| format!("the registry's log:\n{}", server.log_tail()))?;
    Ok((server, start.elapsed()))
}

fn command(
    options: &Options,
    data: &Path,
    address: SocketAddr,
    scratch: &Path,
) -> anyhow::Result<Command> {
    let mut words: Vec<OsString> = options.wrapper.clone();
    match options.program {
        Program::Roadstead => {
            let binary = match &options.binary {
                Some(binary) => binary.clone(),
                None => bin("registry")?,
            };
            words.push(binary.into());
            words.push("serve".into());
        }
        Program::DockerRegistry => {
            let config = scratch.join(DOCKER_REGISTRY_CONFIG);
            fs::write(&config, docker_registry_config(data, address))?;
            words.extend([tool("docker-registry")?.into(), "serve".into(), config.into()]);
        }
    }
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).current_dir(scratch);
    if options.program == Program::Roadstead {
        command
            .env("REGISTRY_HTTP_ADDR", address.to_string())
            .env("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", data);
    }
    command.envs(options.env.iter().cloned());
    Ok(command)
}

/// As Debian's package configures it, with deletes on and one line of log per error. With a secret
/// of its own, because uploads would not survive a restart without one.
fn docker_registry_config(data: &Path, address: SocketAddr) -> String {
    format!(
        "version: 0.1\n\
         log: {{level: error, accesslog: {{disabled: true}}}}\n\
         storage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\n\
         http: {{addr: \"{address}\", secret: upload}}\n",
        data.display()
    )
}

/// A port of the loopback address that nobody listens on.
///
/// From below the range that the kernel gives to outgoing connections, so that none of those
/// takes it between here and the server's bind.
///
/// # Errors
/// When there is none.
pub fn free_port() -> anyhow::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 9000) as u16;
    for _ in 0..9000 {
        let port = 20_000 + (start + NEXT.fetch_add(7, Ordering::Relaxed)) % 9000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no free port between 20000 and 29000")
}
