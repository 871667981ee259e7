//! What holds for every command: where things are kept, and how much is told.

use std::path::{Path, PathBuf};

use crate::cli::flags::{Arguments, Flag};
use crate::failure::Failure;

pub(super) const FLAGS: &[Flag] = &[
    Flag::one("root", "DIR", "where images and containers are kept [env RRUN_ROOT]"),
    Flag::one("runroot", "DIR", "where the state of this boot is kept [env RRUN_RUNROOT]"),
    Flag::switch("debug", "tell every step and request on standard error"),
    Flag::switch("help", "show this").short('h'),
];

/// The settings that every command shares, from flags, then the environment, then the defaults.
#[derive(Clone, Debug)]
pub struct Globals {
    /// `$ROOT`: images, layers, containers, volumes. Absolute.
    pub root: PathBuf,
    /// `$RUN`: locks, sockets and state that a reboot may forget. Absolute.
    pub runroot: PathBuf,
    pub debug: bool,
}

impl Globals {
    pub(super) fn new(arguments: &Arguments) -> Result<Self, Failure> {
        let is_root = rustix::process::geteuid().is_root();
        let place = |flag: &str, variable: &str, rootful: &str, rootless: &dyn Fn() -> _| {
            let given = arguments.value(flag).map(PathBuf::from);
            let given = given.or_else(|| std::env::var_os(variable).map(PathBuf::from));
            let place = match given.filter(|path| !path.as_os_str().is_empty()) {
                Some(path) => path,
                None if is_root => PathBuf::from(rootful),
                None => rootless()?,
            };
            std::path::absolute(&place).map_err(|error| {
                Failure::new(format!("--{flag}={}", place.display())).because(&error)
            })
        };
        let debug = arguments.has("debug");
        start_log(debug);
        Ok(Self {
            root: place("root", "RRUN_ROOT", "/var/lib/roadstead", &data_home)?,
            runroot: place("runroot", "RRUN_RUNROOT", "/run/roadstead", &runtime_dir)?,
            debug,
        })
    }

    /// `$ROOT/containers`.
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// `$ROOT/volumes`.
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }
}

/// Logging costs a millisecond of a start that takes three: it is set up only when asked for.
fn start_log(debug: bool) {
    let filter = std::env::var("RRUN_LOG").ok().filter(|text| !text.is_empty());
    if !debug && filter.is_none() {
        return;
    }
    let filter = filter.unwrap_or_else(|| "rrun=debug,runner=debug,shared=debug".to_owned());
    // A second start (the tests) finds a subscriber in place, which is as good.
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

fn data_home() -> Result<PathBuf, Failure> {
    if let Some(home) = std::env::var_os("XDG_DATA_HOME").filter(|home| !home.is_empty()) {
        return Ok(Path::new(&home).join("roadstead"));
    }
    match std::env::var_os("HOME").filter(|home| !home.is_empty()) {
        Some(home) => Ok(Path::new(&home).join(".local/share/roadstead")),
        None => Err(Failure::new("no place for images: HOME and XDG_DATA_HOME are not set")
            .hint("name one: rrun --root DIR …")),
    }
}

fn runtime_dir() -> Result<PathBuf, Failure> {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => Ok(Path::new(&dir).join("roadstead")),
        None => Err(Failure::new("no place for running state: XDG_RUNTIME_DIR is not set")
            .hint("name one: rrun --runroot DIR …")),
    }
}
