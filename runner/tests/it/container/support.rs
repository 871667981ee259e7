//! A runner of its own with one image in it.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::Digest;

/// How long anything that must happen may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One entry of the image's layer.
#[derive(Clone, Copy)]
pub(crate) enum Entry<'a> {
    Directory(&'a str, u32),
    File(&'a str, &'a [u8]),
    Link(&'a str, &'a str),
    Fifo(&'a str),
}

pub(crate) struct Host {
    dir: tempfile::TempDir,
    pub(crate) image: String,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

fn busybox() -> Vec<u8> {
    ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .find_map(|path| std::fs::read(path).ok())
        .expect("these tests need the package busybox-static")
}

/// The tar of a small system: a shell with its tools, `/etc/passwd`, and `extra`, which replaces
/// what it names.
pub(crate) fn layer(extra: &[Entry<'_>]) -> Vec<u8> {
    let named = |entry: &Entry<'_>| match entry {
        Entry::Directory(name, _) | Entry::File(name, _) | Entry::Link(name, _) => {
            (*name).to_owned()
        }
        Entry::Fifo(name) => (*name).to_owned(),
    };
    let shell = busybox();
    let tools = Command::new("busybox").arg("--list").output().unwrap().stdout;
    let tools = String::from_utf8(tools).unwrap();
    let links: Vec<String> =
        tools.lines().filter(|tool| *tool != "busybox").map(|tool| format!("bin/{tool}")).collect();
    let mut entries = vec![
        Entry::Directory("bin", 0o755),
        Entry::Directory("etc", 0o755),
        Entry::Directory("tmp", 0o1777),
        Entry::Directory("proc", 0o755),
        Entry::Directory("sys", 0o755),
        Entry::Directory("dev", 0o755),
        Entry::File("bin/busybox", &shell),
        Entry::File(
            "etc/passwd",
            b"root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n\
              over:x:4294967296:0::/:/bin/sh\nmax:x:4294967295:0::/:/bin/sh\n\
              plus:x:+0:0::/:/bin/sh\n",
        ),
        Entry::File("etc/group", b"root:x:0:\nweb:x:1000:\nextra:x:2000:web\n"),
    ];
    entries.extend(links.iter().map(|link| Entry::Link(link, "busybox")));
    let replaced: Vec<String> = extra.iter().map(named).collect();
    entries.retain(|entry| !replaced.contains(&named(entry)));
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries.iter().chain(extra) {
        let mut header = tar::Header::new_gnu();
        let (kind, mode, bytes): (_, _, &[u8]) = match entry {
            Entry::Directory(_, mode) => (tar::EntryType::Directory, *mode, b""),
            Entry::File(_, bytes) => (tar::EntryType::Regular, 0o755, bytes),
            Entry::Link(_, target) => {
                header.set_link_name_literal(target).unwrap();
                (tar::EntryType::Symlink, 0o777, b"")
            }
            Entry::Fifo(_) => (tar::EntryType::Fifo, 0o644, b""),
        };
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        header.set_mtime(1);
        tar.append_data(&mut header, named(entry), bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Serves an image of one layer until the process ends, and gives its name.
pub(crate) fn serve(layer: Vec<u8>, config: &Value) -> String {
    let digest = |bytes: &[u8]| Digest::sha256(bytes).to_string();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    });
    let config = serde_json::to_vec(&config).unwrap();
    let part = |kind: &str, bytes: &[u8]| {
        let media_type = format!("application/vnd.oci.image.{kind}");
        json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
    };
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": part("config.v1+json", &config),
        "layers": [part("layer.v1.tar", &layer)],
    }))
    .unwrap();
    let blobs = HashMap::from([(digest(&layer), layer), (digest(&config), config)]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let content = Arc::new((manifest, blobs));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let content = Arc::clone(&content);
            std::thread::spawn(move || answer(&stream, &content.0, &content.1, manifest_type));
        }
    });
    format!("{address}/test:latest")
}

fn answer(
    stream: &TcpStream,
    manifest: &[u8],
    blobs: &HashMap<String, Vec<u8>>,
    manifest_type: &str,
) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    while let Some(request) = lines.next() {
        while lines.next().is_some_and(|header| !header.is_empty()) {}
        let path = request.split(' ').nth(1).unwrap_or("");
        let last = path.rsplit('/').next().unwrap_or("");
        let body = match () {
            () if path.contains("/manifests/") => Some(manifest),
            () if path == "/v2/" => Some(&b"{}"[..]),
            () => blobs.get(last).map(Vec::as_slice),
        };
        let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
        let body = body.unwrap_or_default();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {manifest_type}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = stream;
        let sent = stream.write_all(head.as_bytes()).and_then(|()| {
            if request.starts_with("HEAD") { Ok(()) } else { stream.write_all(body) }
        });
        if sent.is_err() {
            return;
        }
    }
}

impl Host {
    /// A runner whose image has nothing unusual in it.
    pub(crate) fn new() -> Self {
        Self::with(&[], &json!({ "Env": ["PATH=/bin"], "Cmd": ["sh"] }))
    }

    /// A runner whose image has these entries and this configuration.
    pub(crate) fn with(extra: &[Entry<'_>], config: &Value) -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        let dir = tempfile::Builder::new().prefix("rrun-container-").tempdir().unwrap();
        let host = Self { dir, image: serve(layer(extra), config) };
        let pulled = host.rrun(&["pull", "-q", &host.image]);
        assert_eq!(pulled.code, 0, "{pulled:?}");
        host
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn image(&self) -> &str {
        &self.image
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rrun"));
        command.args(words);
        self.environment(&mut command);
        command
    }

    pub(crate) fn environment(&self, command: &mut Command) {
        command
            .env("RRUN_ROOT", self.dir.path().join("root"))
            .env("RRUN_RUNROOT", self.dir.path().join("run"))
            // Nothing of the machine's own network is changed; what is about networks says so.
            .env("RRUN_NETWORK", "none")
            .env_remove("DOCKER_DEFAULT_PLATFORM");
    }

    pub(crate) fn rrun(&self, words: &[&str]) -> Said {
        said(self.command(words).output().unwrap())
    }

    /// `rrun run --rm FLAGS IMAGE sh -c SCRIPT`
    pub(crate) fn shell(&self, flags: &[&str], script: &str) -> Said {
        self.rrun(&self.words(&["--rm"], flags, &["sh", "-c", script]))
    }

    /// `rrun run --rm FLAGS IMAGE COMMAND…`
    pub(crate) fn run(&self, flags: &[&str], command: &[&str]) -> Said {
        self.rrun(&self.words(&["--rm"], flags, command))
    }

    /// `rrun run -d --name NAME FLAGS IMAGE sh -c SCRIPT`
    pub(crate) fn detached(&self, name: &str, flags: &[&str], script: &str) {
        let first = ["-d", "--name", name];
        let started = self.rrun(&self.words(&first, flags, &["sh", "-c", script]));
        assert_eq!(started.code, 0, "{started:?}");
    }

    pub(crate) fn words<'a>(
        &'a self,
        first: &[&'a str],
        flags: &[&'a str],
        command: &[&'a str],
    ) -> Vec<&'a str> {
        let image = [self.image.as_str()];
        [&["run"], first, flags, &image, command].concat()
    }

    /// A command that must succeed.
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        let said = self.rrun(words);
        assert_eq!(said.code, 0, "{words:?}: {said:?}");
        said.out
    }

    /// The `state.json` of the one container that runs.
    pub(crate) fn state(&self) -> Value {
        until("a state.json", || {
            let directory = std::fs::read_dir(self.dir.path().join("run/c")).ok()?;
            let path: PathBuf = directory.flatten().next()?.path().join("state.json");
            serde_json::from_slice(&std::fs::read(path).ok()?).ok()
        })
    }

    /// The `state.json` of every container that runs.
    pub(crate) fn states(&self) -> Vec<Value> {
        let directory = std::fs::read_dir(self.dir.path().join("run/c")).unwrap();
        let read = |path: PathBuf| serde_json::from_slice(&std::fs::read(path).ok()?).ok();
        directory.flatten().filter_map(|entry| read(entry.path().join("state.json"))).collect()
    }

    pub(crate) fn pid(&self, of: &str) -> i32 {
        i32::try_from(self.state()[of]["pid"].as_i64().unwrap()).unwrap()
    }

    /// Nothing of any container is left: run directory, record, process, cgroup.
    pub(crate) fn assert_clean(&self, state: Option<&Value>) {
        until("the end of everything", || {
            let empty = |path: &str| {
                let entries = std::fs::read_dir(self.dir.path().join(path));
                entries.map_or(0, Iterator::count) == 0
            };
            let cgroups = state.and_then(|state| state["cgroups"].as_array());
            let gone = |path: &Value| !Path::new(path.as_str().unwrap()).exists();
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            let clean = empty("run/c")
                && empty("root/containers")
                && empty("root/names")
                && cgroups.is_none_or(|all| all.iter().all(gone))
                && !mounts.contains(self.dir.path().to_str().unwrap());
            clean.then_some(())
        });
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A test that has failed must not leave its containers running.
        if std::thread::panicking()
            && let Ok(ids) = self.command(&["ps", "-aq"]).output()
        {
            for id in String::from_utf8_lossy(&ids.stdout).lines() {
                let _ = self.command(&["rm", "-f", id]).output();
            }
        }
    }
}

pub(crate) fn said(output: Output) -> Said {
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Waits for a condition.
pub(crate) fn until<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The end of a process that must come.
pub(crate) fn end_of(mut child: Child) -> Said {
    let status = until("the end of a command", || child.try_wait().unwrap());
    let mut said =
        Said { code: status.code().unwrap_or(-1), out: String::new(), err: String::new() };
    if let Some(mut out) = child.stdout.take() {
        out.read_to_string(&mut said.out).unwrap();
    }
    if let Some(mut err) = child.stderr.take() {
        err.read_to_string(&mut said.err).unwrap();
    }
    said
}

/// The value of a line `Name:\tvalue` of `/proc/PID/status`.
pub(crate) fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {name} in {status}"))
        .trim()
}
