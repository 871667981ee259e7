//! Pull and unpack of an image of 270 MB, in one layer and in seven, beside `docker pull` and
//! `podman pull`: the same compressed bytes from the same registry into a fresh file system.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::samples::{Samples, aims, children_cpu, load};
use crate::engine::Engine;
use crate::image;
use crate::janitor::{self, Scratch};
use crate::process;
use crate::rootfs;
use crate::world::World;

/// Size of the image's files, uncompressed.
const IMAGE_BYTES: usize = 270_000_000;

const LAYERS: [usize; 2] = [1, 7];

const TOOLS: [&str; 3] = ["rrun pull", "docker pull", "podman pull"];

/// Measures and returns a Markdown section.
///
/// # Errors
/// If a tool is missing or does not get the image.
pub fn measure(rounds: usize) -> Result<String> {
    let world = World::start()?;
    let entries = tree()?;
    let mut text = format!(
        "### Pull and unpack of a {} MB image\n\n\
         {rounds} rounds, interleaved; each pull goes to a new ext4 with a journal on a loop device, from \
         the same registry of ours on loopback. `sync` is what was left to write when the command had \
         returned. CPU is that of the command and, for Docker, of its engine.\n\n\
         | layers | command | median s | min s | max s | CPU s | sync s | median / rrun | CPU / rrun |\n\
         |---|---|---|---|---|---|---|---|---|\n",
        IMAGE_BYTES / 1_000_000
    );
    let before = load();
    let mut reached = Vec::new();
    for layers in LAYERS {
        let name = format!("pull{layers}");
        let image =
            image::image_of_tars(&split(&entries, layers)?, &json!({ "Cmd": ["/bin/true"] }))?;
        image::push_image(world.registry(), &name, "1", &image)?;
        let reference = world.reference(&format!("{name}:1"));
        let mut times: [(Samples, Samples); TOOLS.len()] = Default::default();
        for round in 0..rounds {
            for place in 0..TOOLS.len() {
                let index = (place + round) % TOOLS.len();
                one(TOOLS[index], &reference, &mut times[index])?;
            }
        }
        let ours = times[0].0.median();
        for (tool, (pull, sync)) in TOOLS.iter().zip(&times) {
            text += &format!(
                "| {layers} | {tool} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |\n",
                pull.median() / 1e3,
                pull.min() / 1e3,
                pull.max() / 1e3,
                pull.cpu() / 1e3,
                sync.median() / 1e3,
                pull.median() / ours,
                pull.cpu() / times[0].0.cpu()
            );
            if *tool != TOOLS[0] {
                let aim = format!("layers: {layers}; `{tool}` / `rrun pull` ≥ 3");
                reached.push((aim, 3.0, pull.median() / ours));
            }
        }
    }
    text += "\n";
    text += &aims(&reached);
    text += &format!("\nLoad average {before} before, {} after. {}\n", load(), versions()?);
    Ok(text)
}

fn one(tool: &str, reference: &str, (pull, sync): &mut (Samples, Samples)) -> Result<()> {
    let disk = Disk::new("4G")?;
    let (wall, cpu) = match tool {
        "rrun pull" => with_rrun(&disk, reference)?,
        "docker pull" => with_docker(&disk, reference)?,
        _ => with_podman(&disk, reference)?,
    };
    pull.add(wall, cpu);
    let started = Instant::now();
    process::run(Command::new("sync").arg("--file-system").arg(disk.path()))?;
    sync.add(started.elapsed(), Duration::ZERO);
    // A tool that fetched without unpacking would be fast indeed.
    let used = process::shell("df --output=used -B1 \"$1\" | tail -n 1", &[disk.path()])?;
    let used: usize = used.trim().parse()?;
    ensure!(used > IMAGE_BYTES, "{tool} left only {used} bytes on its disk");
    Ok(())
}

fn with_rrun(disk: &Disk, reference: &str) -> Result<(Duration, Duration)> {
    let mut command = Command::new(crate::bin("rrun")?);
    command.env("RRUN_ROOT", disk.path().join("root")).env("RRUN_RUNROOT", disk.path().join("run"));
    timed(command.args(["pull", reference]), || Ok(Duration::ZERO))
}

fn with_docker(disk: &Disk, reference: &str) -> Result<(Duration, Duration)> {
    let engine = Engine::start(&disk.path())?;
    let pid = engine.pid();
    timed(&mut engine.docker(["pull", reference]), || tree_cpu(pid))
}

fn with_podman(disk: &Disk, reference: &str) -> Result<(Duration, Duration)> {
    let mut command = Command::new(crate::tool("podman")?);
    command
        .arg("--root")
        .arg(disk.path().join("root"))
        .arg("--runroot")
        .arg(disk.path().join("run"));
    command.args(["--storage-driver=overlay", "pull", "--tls-verify=false", reference]);
    timed(&mut command, || Ok(Duration::ZERO))
}

/// Wall time of the command; its CPU time and what `elsewhere` grew by meanwhile.
fn timed(
    command: &mut Command,
    elsewhere: impl Fn() -> Result<Duration>,
) -> Result<(Duration, Duration)> {
    let log = tempfile::NamedTempFile::new()?;
    command.stdin(Stdio::null()).stdout(log.reopen()?).stderr(log.reopen()?);
    let (cpu, other, started) = (children_cpu(), elsewhere()?, Instant::now());
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    let wall = started.elapsed();
    ensure!(status.success(), "{command:?}: {status}\n{}", fs::read_to_string(log.path())?);
    Ok((wall, children_cpu() - cpu + (elsewhere()? - other)))
}

/// CPU time of a process, and of its children that have ended: utime, stime, cutime, cstime of
/// proc(5), in ticks of 10 ms.
fn tree_cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    let ticks: u64 = fields.iter().skip(11).take(4).filter_map(|f| f.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// Header, path, target of a symbolic link, content.
type Entry = (tar::Header, PathBuf, Option<PathBuf>, Vec<u8>);

/// Headers and contents of the image's files: the Debian root, and as many of its files again under
/// `/more` as make the size.
fn tree() -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut size = 0;
    for prefix in ["", "more"] {
        let mut archive = tar::Archive::new(fs::File::open(rootfs::archive()?)?);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let kind = entry.header().entry_type();
            if !(kind.is_file() || kind.is_dir() || kind.is_symlink()) || size >= IMAGE_BYTES {
                continue;
            }
            let path =
                Path::new(prefix).join(entry.path()?.strip_prefix("./").unwrap_or(&entry.path()?));
            if path.as_os_str().is_empty() {
                continue;
            }
            let link = entry.link_name()?.map(std::borrow::Cow::into_owned);
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            size += content.len();
            let mut header = tar::Header::new_gnu();
            header.set_mode(entry.header().mode()?);
            header.set_mtime(entry.header().mtime()?);
            header.set_entry_type(kind);
            header.set_size(content.len() as u64);
            entries.push((header, path, link, content));
        }
    }
    Ok(entries)
}

/// As many archives of about equal size, in the order of the entries.
fn split(entries: &[Entry], layers: usize) -> Result<Vec<Vec<u8>>> {
    let total: usize = entries.iter().map(|e| e.3.len()).sum();
    let mut archives = Vec::new();
    let mut builder = tar::Builder::new(Vec::new());
    let mut size = 0;
    for (header, path, link, content) in entries {
        let mut header = header.clone();
        match link {
            Some(target) => builder.append_link(&mut header, path, target)?,
            None => builder.append_data(&mut header, path, content.as_slice())?,
        }
        size += content.len();
        if archives.len() + 1 < layers && size > total / layers * (archives.len() + 1) {
            let full = std::mem::replace(&mut builder, tar::Builder::new(Vec::new()));
            archives.push(full.into_inner()?);
        }
    }
    archives.push(builder.into_inner()?);
    Ok(archives)
}

fn versions() -> Result<String> {
    let first = |program: &str| -> Result<String> {
        let text = process::run(Command::new(crate::tool(program)?).arg("--version"))?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    };
    Ok(format!("{}; {}.", first("dockerd")?, first("podman")?))
}

/// A fresh ext4 with a journal, in a file, mounted by a loop device.
pub(super) struct Disk {
    scratch: Scratch,
    unmount: janitor::Chore,
}

impl Disk {
    pub(super) fn new(size: &str) -> Result<Self> {
        let scratch = Scratch::new("disk")?;
        let unmount = janitor::leave(&format!("umount -l {}/mnt", scratch.path().display()))?;
        let script = "truncate -s \"$2\" \"$1\"/image; mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 \"$1\"/image; \
                      mkdir \"$1\"/mnt; mount -o loop \"$1\"/image \"$1\"/mnt; sync";
        process::shell(script, &[scratch.path().as_os_str(), size.as_ref()])?;
        Ok(Self { scratch, unmount })
    }

    pub(super) fn path(&self) -> PathBuf {
        self.scratch.join("mnt")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = process::shell("umount \"$1\" || umount -l \"$1\"", &[self.path()]);
        self.unmount.done();
    }
}
