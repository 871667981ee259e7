//! The static binaries that go into images and packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{process, workspace};

/// A platform that images are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    Amd64,
    Arm64,
}

impl Platform {
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// Its name in an image's configuration (image-spec, config.md: GOARCH).
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Rust's name of it.
    pub fn triple(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// The machine that this runs on.
    ///
    /// # Errors
    /// When it is neither.
    pub fn host() -> Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => anyhow::bail!("no image is made for {other}"),
        }
    }

    /// Why this platform's binary cannot be built here, if so.
    pub fn obstacle(self) -> Option<String> {
        if Self::host().is_ok_and(|host| host == self) {
            return None;
        }
        let compiler = self.cross_compiler();
        if crate::tool(compiler).is_err() {
            return Some(format!("{compiler} is not installed: run `make install` as root"));
        }
        let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().ok()?;
        let sysroot = String::from_utf8_lossy(&sysroot.stdout).trim().to_owned();
        let library = Path::new(&sysroot).join("lib/rustlib").join(self.triple());
        (!library.is_dir()).then(|| {
            format!(
                "Rust's library for {0} is not installed: `rustup target add {0}`",
                self.triple()
            )
        })
    }

    /// Debian's name of a compiler for it.
    fn cross_compiler(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu-gcc",
            Self::Arm64 => "aarch64-linux-gnu-gcc",
        }
    }
}

/// Builds a program of this workspace for a platform, static, without a trace of where it was
/// built. Gives its path.
///
/// # Errors
/// When cargo fails, with what it said, or when the program is not static.
pub fn build(program: &str, platform: Platform, profile: &str) -> Result<PathBuf> {
    let target = target_dir()?;
    let triple = platform.triple();
    let mut command = Command::new("cargo");
    command.args(["build", "--locked", "--quiet", "--profile", profile, "--target", triple]);
    command.args(["-p", package(program), "--bin", program]).current_dir(workspace());
    let places = places(&target)?;
    let mut rust = vec!["-C".to_owned(), "target-feature=+crt-static".to_owned()];
    rust.extend(places.iter().map(|place| format!("--remap-path-prefix={place}")));
    let c: Vec<_> = places.iter().map(|place| format!("-ffile-prefix-map={place}")).collect();
    let variable = triple.replace('-', "_");
    command.env("CARGO_ENCODED_RUSTFLAGS", rust.join("\u{1f}"));
    command.env(format!("CFLAGS_{variable}"), c.join(" "));
    if Platform::host()? != platform {
        let linker = platform.cross_compiler();
        let name = format!("CARGO_TARGET_{}_LINKER", variable.to_uppercase());
        command.env(name, linker).env(format!("CC_{variable}"), linker);
    }
    let status = command.status().context("run cargo")?;
    ensure!(status.success(), "cargo build of {program} for {triple}: {status}");
    let binary = path(program, platform, profile)?;
    ensure_static(&binary)?;
    Ok(binary)
}

/// Where [`build`] puts it.
///
/// # Errors
/// When the target directory cannot be made.
pub fn path(program: &str, platform: Platform, profile: &str) -> Result<PathBuf> {
    Ok(target_dir()?.join(platform.triple()).join(profile).join(program))
}

fn package(program: &str) -> &str {
    if program == "rrun" { "runner" } else { program }
}

fn target_dir() -> Result<PathBuf> {
    std::fs::create_dir_all(crate::target_dir())?;
    Ok(crate::target_dir().canonicalize()?)
}

/// `PREFIX=NAME` of each place that a build writes into its results. A later one wins, so the
/// target directory, which may lie in the checkout, comes after it.
fn places(target: &Path) -> Result<Vec<String>> {
    let home = match std::env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cargo"),
    };
    let checkout = workspace().canonicalize()?;
    let places = [(checkout.as_path(), "/roadstead"), (target, "/target"), (&home, "/cargo")];
    Ok(places.iter().map(|(path, name)| format!("{}={name}", path.display())).collect())
}

/// The commit's time in seconds, or what `SOURCE_DATE_EPOCH` says.
///
/// # Errors
/// Outside of a checkout without that variable.
pub fn epoch() -> Result<u64> {
    if let Ok(given) = std::env::var("SOURCE_DATE_EPOCH") {
        return given.trim().parse().context("SOURCE_DATE_EPOCH is no number of seconds");
    }
    let time = process::run(
        Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(workspace()),
    )
    .context("the time of the commit: set SOURCE_DATE_EPOCH where there is no git")?;
    Ok(time.trim().parse()?)
}

/// A program that asks for an interpreter wants files that an empty root does not have.
fn ensure_static(binary: &Path) -> Result<()> {
    let headers = process::run(Command::new("readelf").args(["-lW"]).arg(binary))?;
    ensure!(!headers.contains("INTERP"), "{} is not static", binary.display());
    Ok(())
}
