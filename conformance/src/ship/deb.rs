//! Debian packages of the programs, by dpkg-deb from a tree that is laid out here: the same bytes
//! from the same commit.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::build::{Platform, epoch};
use super::image::VERSION;
use crate::janitor::Scratch;
use crate::{process, workspace};

const MAINTAINER: &str = "Roadstead <roadstead@localhost.localdomain>";

/// What a package is made of beside its program.
struct Recipe {
    program: &'static str,
    /// For people, as the manual's page says it.
    summary: &'static str,
    description: &'static str,
    relations: &'static str,
    section: &'static str,
    /// Files of `packaging/` and where they go.
    files: &'static [(&'static str, &'static str)],
    /// Of `packaging/`.
    scripts: Option<&'static str>,
    conffiles: &'static [&'static str],
}

const REGISTRY: Recipe = Recipe {
    program: "registry",
    summary: "registry of container images in one binary and a directory",
    description: " An OCI Distribution registry: docker, podman, skopeo and others push to it\n \
        and pull from it. What it has acknowledged survives a power cut; what is\n \
        deleted gives its space back while everybody goes on.\n",
    relations: "Depends: systemd | systemd-standalone-sysusers, procps, init-system-helpers (>= 1.54~)\n\
        Recommends: ca-certificates\n",
    section: "net",
    files: &[
        ("registry.service", "lib/systemd/system/registry.service"),
        ("registry.socket", "lib/systemd/system/registry.socket"),
        ("registry.sysusers", "usr/lib/sysusers.d/registry.conf"),
        ("config.yml", "etc/registry/config.yml"),
    ],
    scripts: Some("registry.deb"),
    conffiles: &["/etc/registry/config.yml"],
};

const RRUN: Recipe = Recipe {
    program: "rrun",
    summary: "runs container images as docker run does, without a daemon",
    description: " Pulls an image and runs it: overlayfs, namespaces, cgroup limits, Docker's\n \
        seccomp policy, capabilities and exit codes. Nothing stays in the background\n \
        but one small process for each container.\n",
    relations: "Recommends: ca-certificates\n",
    section: "admin",
    files: &[],
    scripts: None,
    conffiles: &[],
};

/// What lintian is told about static programs.
const STATIC: &[&str] =
    &["statically-linked-binary", "shared-library-lacks-prerequisites", "hardening-no-pie"];

/// Writes both packages into `directory`; `binaries` are the registry and rrun, which have to run
/// here: their completions and manuals come from themselves.
///
/// # Errors
/// When a program does not run, or dpkg-deb fails.
pub fn write(directory: &Path, binaries: [&Path; 2], platform: Platform) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(directory)?;
    let recipes = [&REGISTRY, &RRUN].into_iter().zip(binaries);
    recipes.map(|(recipe, binary)| recipe.write(directory, binary, platform)).collect()
}

/// A tree in the making.
struct Tree(PathBuf);

impl Tree {
    fn file(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let path = self.0.join(path);
        let parent = path.parent().context("a file lies in a directory")?;
        fs::create_dir_all(parent)?;
        fs::write(&path, bytes)?;
        Ok(fs::set_permissions(&path, fs::Permissions::from_mode(mode))?)
    }

    /// Whatever the umask of whoever builds is.
    fn open_directories(directory: &Path) -> Result<()> {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                Self::open_directories(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Bytes of all files, in KiB, as `Installed-Size` counts.
    fn size(directory: &Path) -> Result<u64> {
        let mut sum = 0;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            sum += match entry.file_type()?.is_dir() {
                true => Self::size(&entry.path())?,
                false => entry.metadata()?.len().div_ceil(1024),
            };
        }
        Ok(sum)
    }
}

impl Recipe {
    fn package(&self) -> String {
        format!("roadstead-{}", self.program)
    }

    fn write(&self, directory: &Path, binary: &Path, platform: Platform) -> Result<PathBuf> {
        let scratch = Scratch::new("deb")?;
        let tree = Tree(scratch.path().join("tree"));
        let program = format!("usr/bin/{}", self.program);
        tree.file(&program, &[], 0o755)?;
        // Symbols are three quarters of it, and nobody's who installs it.
        process::run(Command::new("strip").arg("-o").arg(tree.0.join(&program)).arg(binary))?;
        fs::set_permissions(tree.0.join(&program), fs::Permissions::from_mode(0o755))?;
        for (from, to) in self.files {
            tree.file(to, &fs::read(workspace().join("packaging").join(from))?, 0o644)?;
        }
        self.completions(&tree, binary)?;
        self.manual(&tree, binary, scratch.path())?;
        self.papers(&tree)?;
        let size = Tree::size(&tree.0)?;
        self.control(&tree, platform, size)?;
        Tree::open_directories(&tree.0)?;
        let name = format!("{}_{VERSION}_{}.deb", self.package(), platform.architecture());
        let path = directory.join(name);
        process::run(
            Command::new("dpkg-deb")
                .args(["--root-owner-group", "-Zgzip", "--build"])
                .args([&tree.0, &path])
                .env("SOURCE_DATE_EPOCH", epoch()?.to_string()),
        )?;
        Ok(path)
    }

    fn completions(&self, tree: &Tree, binary: &Path) -> Result<()> {
        for (shell, directory, name) in [
            ("bash", "usr/share/bash-completion/completions", self.program.to_owned()),
            ("zsh", "usr/share/zsh/vendor-completions", format!("_{}", self.program)),
            ("fish", "usr/share/fish/vendor_completions.d", format!("{}.fish", self.program)),
        ] {
            let script = process::run(Command::new(binary).args(["completion", shell]))?;
            tree.file(&format!("{directory}/{name}"), script.as_bytes(), 0o644)?;
        }
        Ok(())
    }

    /// The registry writes its pages itself; rrun's is its help.
    fn manual(&self, tree: &Tree, binary: &Path, scratch: &Path) -> Result<()> {
        let mut pages = Vec::new();
        if self.program == "rrun" {
            pages.push(("rrun.1".to_owned(), self.help_as_manual(binary)?));
        } else {
            let written = scratch.join("man");
            process::run(Command::new(binary).arg("man").arg(&written))?;
            for entry in fs::read_dir(&written)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                pages.push((name, fs::read_to_string(entry.path())?));
            }
        }
        for (name, text) in pages {
            let packed = super::image::gzip(text.as_bytes())?;
            tree.file(&format!("usr/share/man/man1/{name}.gz"), &packed, 0o644)?;
        }
        Ok(())
    }

    fn help_as_manual(&self, binary: &Path) -> Result<String> {
        let mut page = format!(
            ".TH {} 1 \"\" \"{} {VERSION}\"\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n.nf\n",
            self.program, self.program, self.program, self.summary
        );
        let overview = process::run(Command::new(binary).arg("--help"))?;
        let (first, rest) = overview.split_once('\n').unwrap_or((&overview, ""));
        page += &format!("{}\n.fi\n.SH DESCRIPTION\n.nf\n{}\n.fi\n", roff(first), roff(rest));
        for verb in ["run", "pull", "exec"] {
            let help = process::run(Command::new(binary).args([verb, "--help"]))?;
            page += &format!(".SH {}\n.nf\n{}\n.fi\n", verb.to_uppercase(), roff(&help));
        }
        Ok(page)
    }

    fn papers(&self, tree: &Tree) -> Result<()> {
        let package = self.package();
        let time = time::OffsetDateTime::from_unix_timestamp(i64::try_from(epoch()?)?)?;
        let date = time.format(&time::format_description::well_known::Rfc2822)?;
        let changes = format!(
            "{package} ({VERSION}) unstable; urgency=medium\n\n  * What changed stands in the \
             project's CHANGELOG.md.\n\n -- {MAINTAINER}  {date}\n"
        );
        let copyright = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
            Upstream-Name: Roadstead\n\nFiles: *\nCopyright: 2026, the authors of Roadstead\n\
            License: Apache-2.0\n On Debian systems the whole text of the licence is in\n \
            /usr/share/common-licenses/Apache-2.0.\n";
        let overrides: String = STATIC.iter().map(|tag| format!("{package}: {tag}\n")).collect();
        let packed = super::image::gzip(changes.as_bytes())?;
        tree.file(&format!("usr/share/doc/{package}/changelog.gz"), &packed, 0o644)?;
        tree.file(&format!("usr/share/doc/{package}/copyright"), copyright.as_bytes(), 0o644)?;
        tree.file(&format!("usr/share/lintian/overrides/{package}"), overrides.as_bytes(), 0o644)
    }

    fn control(&self, tree: &Tree, platform: Platform, size: u64) -> Result<()> {
        let control = format!(
            "Package: {}\nVersion: {VERSION}\nArchitecture: {}\nMaintainer: {MAINTAINER}\n\
             Installed-Size: {size}\n{}Section: {}\nPriority: optional\nDescription: {}\n{}",
            self.package(),
            platform.architecture(),
            self.relations,
            self.section,
            self.summary,
            self.description
        );
        if !self.conffiles.is_empty() {
            let lines: String = self.conffiles.iter().map(|path| format!("{path}\n")).collect();
            tree.file("DEBIAN/conffiles", lines.as_bytes(), 0o644)?;
        }
        for name in ["postinst", "prerm", "postrm"] {
            let Some(scripts) = self.scripts else { break };
            let script = fs::read(workspace().join("packaging").join(scripts).join(name))?;
            tree.file(&format!("DEBIAN/{name}"), &script, 0o755)?;
        }
        let sums = process::shell(
            "cd \"$1\" && find . -type f ! -path './DEBIAN/*' -printf '%P\\n' | LC_ALL=C sort \
             | tr '\\n' '\\0' | xargs -0 md5sum",
            &[&tree.0],
        )?;
        tree.file("DEBIAN/md5sums", sums.as_bytes(), 0o644)?;
        tree.file("DEBIAN/control", control.as_bytes(), 0o644)
    }
}

/// Text that roff shows as it is.
fn roff(text: &str) -> String {
    let mut escaped = String::new();
    for line in text.lines() {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        // A line that begins so is a request.
        let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
        escaped += &format!("{guard}{line}\n");
    }
    escaped
}

/// Writes `SHA256SUMS` of the files in `directory`.
///
/// # Errors
/// When a file cannot be read.
pub fn checksums(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("SHA256SUMS");
    let sums = process::shell(
        "cd \"$1\" && find . -maxdepth 1 -type f ! -name SHA256SUMS -printf '%P\\n' \
         | LC_ALL=C sort | tr '\\n' '\\0' | xargs -0 sha256sum",
        &[directory],
    )?;
    fs::File::create(&path)?.write_all(sums.as_bytes())?;
    Ok(path)
}
