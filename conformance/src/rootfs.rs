//! A minimal Debian, made by mmdebstrap (or debootstrap) once and kept under `.tools/`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// The release whose packages the tests know.
const SUITE: &str = "bookworm";

/// `ps` for the tests; everything else comes with the minimal set.
const PACKAGES: &str = "procps";

/// The archive of the root filesystem, made if it is not there yet. Takes a minute the first time.
///
/// # Errors
/// If neither program is installed, or the mirror cannot be reached.
pub fn archive() -> Result<PathBuf> {
    made(&format!("debian-{SUITE}"), PACKAGES)
}

/// The same with a service manager, for packages that bring a service.
///
/// # Errors
/// As with [`archive`].
pub fn bootable_archive() -> Result<PathBuf> {
    made(&format!("debian-{SUITE}-boots"), &format!("{PACKAGES},systemd"))
}

fn made(name: &str, packages: &str) -> Result<PathBuf> {
    let tools = tools_directory()?;
    let path = tools.join(format!("{name}.tar"));
    // Two test programs may ask at once; the second waits for the first one's archive.
    let lock = File::create(tools.join("debian.lock")).context("opening the lock of .tools")?;
    lock.lock().context("waiting for another process that makes the Debian root")?;
    if !path.exists() {
        let unfinished = tools.join(format!("{name}.tar.unfinished"));
        eprintln!("making a Debian root ({SUITE}), about a minute, kept in {}", path.display());
        make(&unfinished, packages)?;
        fs::rename(&unfinished, &path).context("putting the Debian root into place")?;
    }
    Ok(path)
}

/// Unpacks the archive into a directory, as root with every owner kept.
///
/// # Errors
/// If the archive cannot be made or unpacked.
pub fn unpack(directory: &Path) -> Result<()> {
    unpack_archive(&archive()?, directory)
}

/// [`unpack`] of one of these archives.
///
/// # Errors
/// If it cannot be unpacked.
pub fn unpack_archive(archive: &Path, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file").arg(archive).arg("--directory").arg(directory);
    tar.args(["--numeric-owner", "--xattrs", "--xattrs-include=*"]);
    run(&mut tar)
}

/// `.tools/` at the top of the workspace: what tests need and may keep between runs.
///
/// # Errors
/// If it cannot be made.
pub fn tools_directory() -> Result<PathBuf> {
    let top =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace has no directory")?;
    let tools = top.join(".tools");
    fs::create_dir_all(&tools).with_context(|| format!("making {}", tools.display()))?;
    Ok(tools)
}

fn make(archive: &Path, packages: &str) -> Result<()> {
    let with_mmdebstrap = Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase", "--format=tar"])
        .arg(format!("--include={packages}"))
        .args(["--aptopt=Acquire::Retries \"3\"", SUITE])
        .arg(archive)
        .status();
    match with_mmdebstrap {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            eprintln!("mmdebstrap failed ({status}); trying debootstrap");
            make_with_debootstrap(archive, packages)
        }
        Err(_) => make_with_debootstrap(archive, packages),
    }
}

fn make_with_debootstrap(archive: &Path, packages: &str) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut debootstrap = Command::new("debootstrap");
    debootstrap
        .args(["--variant=minbase", &format!("--include={packages}"), SUITE])
        .arg(directory.path());
    run(&mut debootstrap)?;
    let mut tar = Command::new("tar");
    tar.arg("--create").arg("--file").arg(archive).arg("--directory").arg(directory.path());
    run(tar.args(["--numeric-owner", "--xattrs", "--one-file-system", "."]))
}

/// Runs a command that must succeed; its words appear among the test's.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| {
        format!(
            "starting {}: install it with `make install`",
            command.get_program().to_string_lossy()
        )
    })?;
    ensure!(
        output.status.success(),
        "{command:?} failed ({})\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
