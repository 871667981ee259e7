//! A disk whose power can be cut.
//!
//! ```text
//! registry -> ext4 or XFS -> loop device -> FUSE -> qemu-storage-daemon -> image file
//! ```
//! With `kill -9` of the daemon the device is gone at once. What the file system had handed to it
//! is in the image; what was still in the file system's memory (every page and every directory
//! entry that nobody synced) is lost, as it is when power fails. [`control`] shows that on this
//! machine, because a rig that loses nothing would pass everything.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::janitor::{self, Chore, Scratch};
use crate::process::{self, Server};
use crate::wait;

/// Room for what a few rounds of load write. Sparse: only what is written takes space.
const SIZE: &str = "2G";

/// What still reads or writes a dead disk ends within this time.
const UNMOUNT_WAIT: Duration = Duration::from_secs(3);
const COMMAND_WAIT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    Ext4,
    Xfs,
}

impl FileSystem {
    /// As `mkfs` and `mount` call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }
}

impl std::str::FromStr for FileSystem {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "ext4" => Ok(Self::Ext4),
            "xfs" => Ok(Self::Xfs),
            other => bail!("{other}: only ext4 and xfs can be tried"),
        }
    }
}

/// A fresh file system on such a disk, mounted.
#[derive(Debug)]
pub struct CutDisk {
    scratch: Scratch,
    kind: FileSystem,
    daemon: Server,
    chore: Chore,
}

impl CutDisk {
    /// # Errors
    /// Without root, FUSE, loop devices, or one of the programs.
    pub fn new(kind: FileSystem) -> Result<Self> {
        let scratch = Scratch::new("disk")?;
        let script = match kind {
            FileSystem::Ext4 => {
                "mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 \"$1\"/image"
            }
            FileSystem::Xfs => "mkfs.xfs -q \"$1\"/image",
        };
        let script = format!(
            "truncate -s {SIZE} \"$1\"/image; {script}; mkdir \"$1\"/mnt; : > \"$1\"/device"
        );
        process::shell(&script, &[scratch.path()])?;
        let path = scratch.path().display();
        let chore = janitor::leave(&format!("umount -l {path}/mnt; umount -l {path}/device"))?;
        let daemon = export(&scratch)?;
        let disk = Self { scratch, kind, daemon, chore };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.scratch.join("mnt")
    }

    pub fn kind(&self) -> FileSystem {
        self.kind
    }

    /// Cuts the power: from now on nothing reaches the disk.
    pub fn cut(&mut self) {
        self.daemon.kill();
    }

    /// Gives the power back: the file system replays its journal. Whoever used the disk must have
    /// ended before.
    ///
    /// # Errors
    /// When it cannot be unmounted or mounted.
    pub fn revive(&mut self) -> Result<()> {
        self.unmount()?;
        self.daemon = export(&self.scratch)?;
        self.mount()
    }

    /// Unmounts both file systems; a loop device from `mount -o loop` goes with its mount.
    fn unmount(&self) -> Result<()> {
        for path in [self.path(), self.scratch.join("device")] {
            let ended = wait::until("the cut disk to be unmounted", UNMOUNT_WAIT, || {
                let output = process::run_for(COMMAND_WAIT, Command::new("umount").arg(&path))?;
                let gone = output.status.success() || output.stderr.contains("not mounted");
                Ok(gone.then_some(()))
            });
            // Some process that took a copy of all mounts holds it. The device is dead, so nothing
            // can be written through it any more.
            if ended.is_err() {
                process::run(Command::new("umount").arg("-l").arg(&path))?;
            }
        }
        Ok(())
    }

    fn mount(&self) -> Result<()> {
        let device = self.scratch.join("device");
        let options = match self.kind {
            FileSystem::Ext4 => "loop",
            // Some process that took a copy of all mounts may still hold the one that was cut, and
            // XFS refuses a second file system of the same name.
            FileSystem::Xfs => "loop,nouuid",
        };
        process::run(
            Command::new("mount")
                .args(["-t", self.kind.name(), "-o", options])
                .args([&device, &self.path()]),
        )
        .context("mount the disk again")?;
        Ok(())
    }
}

impl Drop for CutDisk {
    fn drop(&mut self) {
        let script = "umount \"$1\"/mnt || umount -l \"$1\"/mnt; umount -l \"$1\"/device";
        let _ = process::shell(script, &[self.scratch.path()]);
        self.daemon.kill();
        self.chore.done();
    }
}

/// Starts the daemon that shows `image` as the file `device`.
fn export(scratch: &Scratch) -> Result<Server> {
    let (image, device) = (scratch.join("image"), scratch.join("device"));
    let mut command = Command::new(crate::tool("qemu-storage-daemon")?);
    command
        .arg("--blockdev")
        // The host itself keeps running, so its page cache is as good as the platter, and its own
        // syncs would only take time.
        .arg(format!("driver=file,node-name=disk,filename={},cache.no-flush=on", image.display()))
        .arg("--export")
        .arg(format!(
            "type=fuse,id=disk,node-name=disk,writable=on,mountpoint={}",
            device.display()
        ));
    let mut daemon = Server::start(&mut command, &scratch.join("daemon.log"))?;
    let wanted = device.display().to_string();
    wait::until("qemu-storage-daemon's export", Duration::from_secs(20), || {
        daemon.check()?;
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        Ok(mounts.lines().any(|line| line.split(' ').nth(1) == Some(&wanted)).then_some(()))
    })?;
    Ok(daemon)
}

/// Shows that the rig loses what it must lose, and nothing else: of three files the synced one
/// stays, a rename that was not synced is undone, and bytes that were not synced are not there.
///
/// # Errors
/// When anything else is the case.
pub fn control(kind: FileSystem) -> Result<()> {
    let mut disk = CutDisk::new(kind)?;
    let path = |name: &str| disk.path().join(name);
    let (kept, old, new, unsynced) = (path("kept"), path("old"), path("new"), path("unsynced"));
    let bytes = [7; 100_000];
    for file in [&kept, &old] {
        let mut file = File::create_new(file)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
    }
    File::create_new(&unsynced)?.write_all(&bytes)?;
    File::open(disk.path())?.sync_all()?;
    fs::rename(&old, &new)?;
    disk.cut();
    disk.revive()?;
    let name = kind.name();
    ensure!(fs::read(&kept).is_ok_and(|read| read == bytes), "{name}: a synced file is lost");
    ensure!(fs::read(&old).is_ok_and(|read| read == bytes), "{name}: an unsynced rename stayed");
    ensure!(!new.exists(), "{name}: an unsynced rename stayed");
    let length = fs::metadata(&unsynced).context("a file whose directory was synced")?.len();
    ensure!(length == 0, "{name}: {length} unsynced bytes stayed");
    Ok(())
}
