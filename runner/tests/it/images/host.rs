//! One runner's store in a directory of its own, and the program on it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

pub(crate) struct Host {
    dir: tempfile::TempDir,
}

/// Memory, where it keeps all that layers need: thousands of small files are made and deleted.
fn fast_disk() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let probe = tempfile::tempdir_in(memory);
    let keeps_xattrs = probe.is_ok_and(|probe| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(probe.path(), "user.probe", b"1", flags).is_ok()
    });
    if keeps_xattrs { memory.to_owned() } else { std::env::temp_dir() }
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Host {
    pub(crate) fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        let dir = tempfile::Builder::new().prefix("rrun-images-").tempdir_in(fast_disk());
        Self { dir: dir.unwrap() }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rrun"));
        command
            .args(words)
            .env("RRUN_ROOT", self.root())
            .env("RRUN_RUNROOT", self.dir.path().join("run"))
            // Nobody is logged in anywhere.
            .env("HOME", self.dir.path().join("home"))
            .env("XDG_RUNTIME_DIR", self.dir.path().join("runtime"))
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("DOCKER_CONFIG")
            .env_remove("DOCKER_AUTH_CONFIG")
            .env_remove("REGISTRY_AUTH_FILE")
            // Nothing of the machine's own network is changed; what is about networks says so.
            .env("RRUN_NETWORK", "none")
            .env_remove("RRUN_PROGRESS")
            .env_remove("DOCKER_DEFAULT_PLATFORM");
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Said {
        said(self.command(words).output().unwrap())
    }

    /// Runs a command that must succeed.
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> String {
        let said = self.run(words);
        assert_eq!(said.code, Some(0), "{said:?}");
        said.out
    }

    /// The one image record of this name.
    pub(crate) fn record(&self, reference: &str) -> Value {
        let records = std::fs::read_dir(self.root().join("images")).unwrap();
        records
            .flatten()
            .map(|entry| {
                serde_json::from_slice::<Value>(&std::fs::read(entry.path()).unwrap()).unwrap()
            })
            .find(|record| record["reference"] == reference)
            .unwrap_or_else(|| panic!("no record of {reference}"))
    }

    /// Names in one of the store's folders.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.root().join(folder)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().map(|e| e.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Nothing is left of something that failed: no layer, no staging, no trash, no lease.
    pub(crate) fn assert_clean(&self) {
        for folder in ["layers", "work", "trash", "leases", "images", "fixups", "ingest"] {
            assert_eq!(self.names(folder), Vec::<String>::new(), "{folder}");
        }
    }
}

pub(crate) fn said(output: Output) -> Said {
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
