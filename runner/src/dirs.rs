//! Where the runner keeps things: ROOT survives a reboot, RUNROOT does not.

use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::fs::Mode;

use crate::known_bad::left_out;

/// The two directories of one user's runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirs {
    /// Images, containers, volumes: `/var/lib/roadstead`, or `$XDG_DATA_HOME/roadstead`.
    pub root: PathBuf,
    /// What lives as long as this boot: `/run/roadstead`, or `$XDG_RUNTIME_DIR/roadstead`.
    pub runroot: PathBuf,
}

/// Why there is no place to keep things.
#[derive(Debug, thiserror::Error)]
pub enum NoDirs {
    #[error("neither --root nor RRUN_ROOT nor XDG_DATA_HOME nor HOME is set")]
    Root,
    #[error("neither --runroot nor RRUN_RUNROOT nor XDG_RUNTIME_DIR is set")]
    Runroot,
    #[error("cannot make {} absolute", path.display())]
    Relative { path: PathBuf, source: io::Error },
}

impl Dirs {
    /// The directories that flags (`--root`, `--runroot`), the environment (`RRUN_ROOT`,
    /// `RRUN_RUNROOT`) or, last, the user's kind decide. Makes nothing.
    pub fn resolve(root: Option<&Path>, runroot: Option<&Path>) -> Result<Self, NoDirs> {
        let is_root = rustix::process::geteuid().is_root();
        let root =
            given(root, "RRUN_ROOT").or_else(|| default_root(is_root)).ok_or(NoDirs::Root)?;
        let runroot = given(runroot, "RRUN_RUNROOT")
            .or_else(|| default_runroot(is_root))
            .ok_or(NoDirs::Runroot)?;
        Ok(Self { root: absolute(root)?, runroot: absolute(runroot)? })
    }

    /// Makes RUNROOT (0711: the container's root passes through it), `mnt` (0755, the place where
    /// root filesystems are attached, empty), `c` and `net`.
    pub fn make_runroot(&self) -> io::Result<()> {
        let make = |path: PathBuf, mode| match fs::DirBuilder::new().mode(mode).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        };
        if let Some(parent) = self.runroot.parent() {
            make_parents(parent)?;
        }
        make(self.runroot.clone(), 0o711)?;
        make(self.runroot.join("mnt"), 0o755)?;
        make(self.runroot.join("c"), 0o711)?;
        make(self.runroot.join("net"), 0o700)
    }
}

/// Makes a directory with those above it where there are none. Whatever the caller's umask says,
/// nobody else can write there: he could put another store in the place of ours.
///
/// # Errors
/// As mkdir(2).
pub(crate) fn make_parents(path: &Path) -> io::Result<()> {
    let mode = if left_out("parents-closed") { 0o777 } else { 0o755 };
    fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Takes from others the right to write to what this program makes, whatever its caller's umask is;
/// what that takes away besides stays away.
pub fn restrict_umask() {
    let others = Mode::WGRP | Mode::WOTH;
    if left_out("parents-closed") {
        return;
    }
    let callers = rustix::process::umask(others);
    rustix::process::umask(callers | others);
}

fn given(flag: Option<&Path>, variable: &str) -> Option<PathBuf> {
    flag.map(Path::to_owned).or_else(|| env_path(variable))
}

fn env_path(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from)
}

fn default_root(is_root: bool) -> Option<PathBuf> {
    if is_root {
        return Some("/var/lib/roadstead".into());
    }
    env_path("XDG_DATA_HOME")
        .or_else(|| env_path("HOME").map(|home| home.join(".local/share")))
        .map(|base| base.join("roadstead"))
}

fn default_runroot(is_root: bool) -> Option<PathBuf> {
    if is_root {
        return Some("/run/roadstead".into());
    }
    let user = rustix::process::geteuid().as_raw();
    let is_ours = |path: &PathBuf| {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == user)
    };
    // Without a login session (su, cron). Never below /tmp, which is cleaned by age.
    let usual = || Some(PathBuf::from(format!("/run/user/{user}"))).filter(is_ours);
    let beside = || {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(default_root(false)?.join(format!("run-{}", boot.trim())))
    };
    let base = env_path("XDG_RUNTIME_DIR").filter(is_ours).or_else(usual);
    base.map(|base| base.join("roadstead")).or_else(beside)
}

/// Another store on this host that somebody may have meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OtherStore {
    Root,
    /// Of the person, by name, who called `sudo`.
    User(String),
}

/// The store of the other kind of user, if there is one; none where a directory was chosen.
pub fn other_store() -> Option<OtherStore> {
    if env_path("RRUN_ROOT").is_some() {
        return None;
    }
    if !rustix::process::geteuid().is_root() {
        return default_root(true)?.exists().then_some(OtherStore::Root);
    }
    let name = std::env::var("SUDO_USER").ok().filter(|name| name != "root")?;
    let accounts = fs::read_to_string("/etc/passwd").ok()?;
    let home = home_of(&name, &accounts)?;
    home.join(".local/share/roadstead").exists().then_some(OtherStore::User(name))
}

/// Source: passwd(5).
fn home_of(name: &str, accounts: &str) -> Option<PathBuf> {
    let account = accounts.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    account.split(':').nth(4).map(PathBuf::from)
}

fn absolute(path: PathBuf) -> Result<PathBuf, NoDirs> {
    std::path::absolute(&path).map_err(|source| NoDirs::Relative { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_decide_and_become_absolute() {
        let dirs = Dirs::resolve(Some(Path::new("a")), Some(Path::new("/b"))).unwrap();
        assert_eq!(dirs.root, std::env::current_dir().unwrap().join("a"));
        assert_eq!(dirs.runroot, Path::new("/b"));
    }

    #[test]
    fn homes_of_accounts() {
        let accounts = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nan:x\n";
        assert_eq!(home_of("ann", accounts), Some("/home/ann".into()));
        assert_eq!(home_of("an", accounts), None);
        assert_eq!(home_of("bob", accounts), None);
    }
}
