//! Cleaning up when a run is interrupted, killed, or ends with something held in a `static`.
//!
//! One shell per process waits on a pipe that only this process holds; when the pipe closes, for
//! whatever reason, it runs the commands that were left with it, newest first, and removes the
//! scratch directory. Guards that clean up by themselves take their command back.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;

struct Janitor {
    scratch: PathBuf,
    next: AtomicU32,
    // Held, never written to: the shell reads the end of it.
    _pipe: ChildStdin,
}

static JANITOR: OnceLock<Janitor> = OnceLock::new();

const SCRIPT: &str = r#"
trap '' INT TERM HUP
cat > /dev/null
for chore in $(ls "$1/chores" | sort -r); do sh "$1/chores/$chore"; done > "$1/janitor.log" 2>&1
rm -rf --one-file-system "$1"
"#;

fn janitor() -> &'static Janitor {
    JANITOR.get_or_init(|| start().expect("a janitor can be started: sh, cat, sort and /tmp exist"))
}

fn start() -> io::Result<Janitor> {
    let base = std::env::var_os("ROADSTEAD_SCRATCH_DIR").unwrap_or_else(|| "/tmp".into());
    let scratch = Path::new(&base).join(format!("roadstead-{}", std::process::id()));
    fs::create_dir_all(scratch.join("chores"))?;
    let mut shell = Command::new("sh")
        .args(["-c", SCRIPT, "janitor"])
        .arg(&scratch)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    let pipe = shell.stdin.take().expect("stdin was asked for");
    Ok(Janitor { scratch, next: AtomicU32::new(0), _pipe: pipe })
}

/// A command that runs when this process ends, unless it is [done](Chore::done) before.
#[derive(Debug)]
#[must_use]
pub struct Chore(PathBuf);

impl Chore {
    /// Takes the command back: what it would have done has been done.
    pub fn done(&self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Leaves a shell command to be run when this process has ended.
///
/// # Errors
/// When the scratch directory cannot be written.
pub fn leave(command: &str) -> anyhow::Result<Chore> {
    let janitor = janitor();
    let number = janitor.next.fetch_add(1, Ordering::Relaxed);
    let path = janitor.scratch.join(format!("chores/{number:06}"));
    fs::write(&path, command).with_context(|| format!("write {}", path.display()))?;
    Ok(Chore(path))
}

/// A directory of its own, removed when dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes an empty directory whose name starts with `name`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let janitor = janitor();
        let number = janitor.next.fetch_add(1, Ordering::Relaxed);
        let path = janitor.scratch.join(format!("{name}-{number}"));
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // `rm`, because it stays on one file system: a mount left inside must not be emptied.
        let _ = Command::new("rm").args(["-rf", "--one-file-system"]).arg(&self.0).status();
    }
}
