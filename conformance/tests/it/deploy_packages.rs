//! The Debian packages: what is in them, and what they do on a machine that systemd has booted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use conformance::checks::Checks;
use conformance::janitor::Scratch;
use conformance::ship::{build::Platform, deb};
use conformance::{bin, process, require_root, rootfs, tool, workspace};

fn packages(directory: &Path) -> Result<Vec<PathBuf>> {
    let (registry, rrun) = (bin("registry")?, bin("rrun")?);
    deb::write(directory, [&registry, &rrun], Platform::host()?)
}

#[test]
fn packages_are_made_boot_serve_and_leave() -> Result<()> {
    require_root()?;
    let scratch = Scratch::new("packages")?;
    let made = packages(&scratch.path().join("made"))?;
    let mut checks = Checks::default();
    checks.check("made again, they are the same bytes", || {
        for (one, two) in made.iter().zip(packages(&scratch.path().join("again"))?) {
            ensure!(fs::read(one)? == fs::read(&two)?, "{} and {}", one.display(), two.display());
        }
        Ok(())
    });
    for package in &made {
        let name = package.file_name().context("a package has a name")?.to_string_lossy();
        checks.check(&format!("{name} has what belongs into it"), || contents(package));
    }
    checks.check("the unit is exposed by 2.0 at most", exposure);
    std::thread::scope(|scope| {
        let looked = scope.spawn(|| lintian(&made));
        checks.check("on a booted machine", || boot(&made, scratch.path()));
        let looked = looked.join().unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")));
        checks.check("lintian has nothing against them", || looked);
    });
    checks.finish()
}

fn contents(package: &Path) -> Result<()> {
    let listed = process::run(Command::new(tool("dpkg-deb")?).arg("--contents").arg(package))?;
    let program = if listed.contains("usr/bin/rrun") { "rrun" } else { "registry" };
    let mut wanted = vec![
        format!("./usr/bin/{program}"),
        format!("./usr/share/man/man1/{program}.1.gz"),
        format!("./usr/share/bash-completion/completions/{program}"),
        format!("./usr/share/zsh/vendor-completions/_{program}"),
        format!("./usr/share/fish/vendor_completions.d/{program}.fish"),
        format!("./usr/share/doc/roadstead-{program}/copyright"),
    ];
    if program == "registry" {
        wanted.extend(
            [
                "./usr/share/man/man1/registry-serve.1.gz",
                "./usr/share/man/man1/registry-garbage-collect.1.gz",
                "./etc/registry/config.yml",
                "./lib/systemd/system/registry.service",
                "./lib/systemd/system/registry.socket",
                "./usr/lib/sysusers.d/registry.conf",
            ]
            .map(str::to_owned),
        );
    }
    for path in wanted {
        let line = listed.lines().find(|line| line.ends_with(&format!(" {path}")));
        let line = line.with_context(|| format!("no {path} in\n{listed}"))?;
        let mode = if path.starts_with("./usr/bin/") { "-rwxr-xr-x" } else { "-rw-r--r--" };
        ensure!(line.starts_with(&format!("{mode} root/root")), "{line}");
    }
    Ok(())
}

/// The project has no address, and the programs of the tests are not static; those that people get
/// are seen to be when they are built.
const LET_PASS: &str = "bogus-mail-host,bogus-mail-host-in-debian-changelog,\
    missing-dependency-on-libc,undeclared-elf-prerequisites";

fn lintian(packages: &[PathBuf]) -> Result<()> {
    let mut command = Command::new(tool("lintian")?);
    command.args(["--fail-on", "error,warning", "--allow-root", "--suppress-tags", LET_PASS]);
    process::run(command.args(packages)).map(drop)
}

fn exposure() -> Result<()> {
    let unit = workspace().join("packaging/registry.service");
    let mut command = Command::new(tool("systemd-analyze")?);
    command.args(["security", "--offline=true", "--no-pager", "--threshold=20"]);
    process::run(command.arg(unit)).map(drop)
}

/// Runs `deploy_packages/booted.sh` on a machine that systemd has booted in a container, and then
/// switches it off.
fn boot(packages: &[PathBuf], scratch: &Path) -> Result<()> {
    let root = scratch.join("root");
    rootfs::unpack_archive(&rootfs::bootable_archive()?, &root)?;
    let inside = root.join("test");
    fs::create_dir(&inside)?;
    for package in packages {
        fs::copy(package, inside.join(package.file_name().context("a name")?))?;
    }
    certificate(&inside)?;
    fs::write(inside.join("booted.sh"), include_str!("deploy_packages/booted.sh"))?;
    fs::write(
        root.join("etc/systemd/system/test.service"),
        "[Unit]\nAfter=basic.target\n[Service]\nType=oneshot\n\
         ExecStart=/bin/bash /test/booted.sh\nStandardOutput=file:/test/said\n\
         StandardError=inherit\nExecStopPost=/bin/systemctl --no-block poweroff\n",
    )?;
    let wants = root.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    std::os::unix::fs::symlink("../test.service", wants.join("test.service"))?;
    let mut command = Command::new(tool("systemd-nspawn")?);
    command.args(["--boot", "--quiet", "--register=no", "--keep-unit", "--private-network"]);
    command.args(["--console=pipe", "--directory"]).arg(&root);
    let output = process::run_for(Duration::from_secs(120), &mut command)?;
    let said = fs::read_to_string(inside.join("said")).unwrap_or_default();
    ensure!(
        said.lines().any(|line| line == "all of it holds"),
        "{said}\n{}\n{}",
        output.stdout,
        output.stderr
    );
    Ok(())
}

/// A pair of which root alone reads the key.
fn certificate(directory: &Path) -> Result<()> {
    let mut command = Command::new(tool("openssl")?);
    command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"]);
    command.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]);
    command.arg("-keyout").arg(directory.join("tls.key"));
    command.arg("-out").arg(directory.join("tls.crt"));
    process::run(&mut command).map(drop)
}
