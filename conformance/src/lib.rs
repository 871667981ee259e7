//! What the black-box tests, benchmarks and demonstrations share.
//!
//! Everything here works from outside: it starts the binaries of this workspace (and of their
//! peers) as a user would, and imports neither crate. A tool that is missing is an error with the
//! command that installs it, never a skip.
//!
//! Whatever leaves this process (child processes, mounts, interfaces) is also written down with the
//! [`janitor`], so that an interrupted run leaves nothing behind either.

pub mod basics;
pub mod bench;
pub mod checks;
pub mod cpio;
pub mod demo;
pub mod engine;
pub mod guest;
pub mod http;
pub mod image;
pub mod install;
pub mod janitor;
pub mod process;
pub mod registry;
pub mod rootfs;
pub mod rrun;
pub mod ship;
pub mod terminal;
pub mod torture;
pub mod trace;
pub mod tree;
pub mod wait;
pub mod world;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

pub use registry::Registry;

/// The root of the source tree.
pub fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The path of one of this workspace's programs: `registry` or `rrun`.
///
/// Taken from `ROADSTEAD_BIN_DIR`, else from the release directory of this build.
///
/// # Errors
/// When it was not built yet.
pub fn bin(name: &str) -> anyhow::Result<PathBuf> {
    let dir = match std::env::var_os("ROADSTEAD_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => target_dir().join("release"),
    };
    let path = dir.join(name);
    if !path.is_file() {
        bail!("{} does not exist: run `make build` first", path.display());
    }
    Ok(path)
}

/// The path of the registry that can be told to leave a step out: the debug build.
///
/// Taken from `ROADSTEAD_FAILPOINTS_BIN`, else from the debug directory of this build.
///
/// # Errors
/// When it was not built yet.
pub fn failpoints_bin() -> anyhow::Result<PathBuf> {
    let path = match std::env::var_os("ROADSTEAD_FAILPOINTS_BIN") {
        Some(path) => PathBuf::from(path),
        None => target_dir().join("debug/registry"),
    };
    if !path.is_file() {
        bail!("{} does not exist: run `cargo build` first", path.display());
    }
    Ok(path)
}

fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// The directory of programs that `conformance install` builds, which nothing else writes to.
pub fn tools_dir() -> PathBuf {
    workspace().join(".tools/bin")
}

/// The path of a program from outside: one that `conformance install` built, else one of Debian's.
///
/// Debian's directories come before `/usr/local`, so that the versions are the ones that were
/// declared.
///
/// # Errors
/// When it is not installed.
pub fn tool(name: &str) -> anyhow::Result<PathBuf> {
    let places = ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/usr/local/sbin"];
    std::iter::once(tools_dir())
        .chain(places.into_iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not installed: run `make install` as root"))
}

/// Whether this process is root; most of what is tested here needs it.
///
/// # Errors
/// When it is not.
pub fn require_root() -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let root = status.lines().any(|line| line.starts_with("Uid:\t0\t0\t"));
    if !root {
        bail!("this needs root: it mounts file systems and starts daemons");
    }
    Ok(())
}
