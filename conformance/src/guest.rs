//! A virtual machine with Debian's kernel and nothing but cgroup v2, emulated in software.
//!
//! Hosts differ in how they mount cgroups; most users' machines have pure v2, the machine that runs
//! the tests may not. The guest's root is the minimal Debian of [`crate::rootfs`] on ext4, so the
//! same binaries run in it; it has no network but its own loopback.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::cpio;
use crate::rootfs::{self, run};
use crate::rrun::{self, Outcome};

/// The package that names the current kernel for virtual machines.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// What the guest needs of the kernel's modules: its disk, and the container's root.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "overlay"];

/// The guest's memory, MiB: the programs' own need is a tenth of it.
const MEMORY_MIB: u32 = 1536;

/// The root disk, sparse.
const DISK: &str = "3G";

/// Stands before the script's exit status on the last line of the console.
const EXIT_MARK: &str = "@@guest-exit ";

/// Kernel, modules and what to put into the guest.
#[derive(Debug)]
pub struct Guest {
    kernel: PathBuf,
    initramfs: PathBuf,
    directory: tempfile::TempDir,
}

impl Guest {
    /// Fetches the kernel (once, kept under `.tools/`) and unpacks the root.
    ///
    /// # Errors
    /// If a package cannot be fetched, or busybox is not installed.
    pub fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("guest-").tempdir()?;
        let kernel_root = kernel_package()?;
        let kernel = only_match(&kernel_root.join("boot"), "vmlinuz-")?;
        let initramfs = directory.path().join("initramfs.cpio");
        fs::write(&initramfs, make_initramfs(&kernel_root)?)?;
        let guest = Self { kernel, initramfs, directory };
        rootfs::unpack(&guest.root())?;
        Ok(guest)
    }

    /// The directory that becomes the guest's root filesystem.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// Copies a file or a whole directory into the root, at an absolute path of the guest's.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn add(&self, source: &Path, target: &str) -> Result<()> {
        let target = self.root().join(target.trim_start_matches('/'));
        let parent = target.parent().context("the target is the root itself")?;
        fs::create_dir_all(parent)?;
        run(Command::new("cp").args(["--archive", "--dereference"]).arg(source).arg(&target))
    }

    /// Boots, runs a shell script as the machine's first process, shuts down.
    ///
    /// The outcome's `stdout` is the whole console, its code the script's exit status.
    ///
    /// # Errors
    /// If the machine does not come up, or the script does not end within `patience`.
    pub fn run(&self, script: &str, patience: Duration) -> Result<Outcome> {
        self.write_script(script)?;
        let disk = self.directory.path().join("disk.img");
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-F", "-d"]).arg(self.root()).arg(&disk).arg(DISK);
        run(&mut mkfs)?;
        let started = Instant::now();
        let mut machine = rrun::finish(self.machine(&disk), patience)?;
        machine.stdout = machine.stdout.replace("\r\n", "\n");
        machine.elapsed = started.elapsed();
        let exit = machine.stdout.lines().rev().find_map(|l| l.trim().strip_prefix(EXIT_MARK));
        let Some(code) = exit.and_then(|c| c.trim().parse().ok()) else {
            bail!(
                "the guest's script did not end; its console:\n{}{}",
                machine.stdout,
                machine.stderr
            );
        };
        machine.code = code;
        Ok(machine)
    }

    fn write_script(&self, script: &str) -> Result<()> {
        let init = self.root().join("guest-init");
        fs::write(&init, INIT.replace("@@EXIT_MARK@@", EXIT_MARK))?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        fs::write(self.root().join("guest-script"), script)?;
        self.add(Path::new("/bin/busybox"), "/usr/local/bin/busybox")
            .context("busybox-static is not installed (make install)")
    }

    fn machine(&self, disk: &Path) -> Command {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"]);
        qemu.args(["-m", &MEMORY_MIB.to_string(), "-nographic", "-no-reboot", "-nic", "none"]);
        qemu.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initramfs);
        // A power cut of the host is no subject here: `unsafe` spares every flush.
        qemu.arg("-drive")
            .arg(format!("file={},format=raw,if=virtio,cache=unsafe", disk.display()));
        qemu.args(["-append", "console=ttyS0 quiet panic=-1 cgroup_no_v1=all mitigations=off"]);
        qemu.stdin(Stdio::null());
        qemu
    }
}

/// The first process of the guest's root: the mounts of a machine with systemd, then the script.
const INIT: &str = r#"#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
busybox ip link set lo up
hostname guest
echo '127.0.0.1 localhost' > /etc/hosts
cd /
sh /guest-script </dev/null
status=$?
echo
echo "@@EXIT_MARK@@$status"
sync
echo o > /proc/sysrq-trigger
sleep 60
"#;

/// The initial file system's only program: finds the disk and changes over to it.
fn initramfs_script(modules: &[String]) -> String {
    let load: String = modules.iter().map(|m| format!("$b insmod /modules/{m}.ko\n")).collect();
    format!(
        "#!/bin/busybox sh\n\
         b=/bin/busybox\n\
         $b mount -t devtmpfs dev /dev\n\
         $b mount -t proc proc /proc\n\
         {load}\
         $b mount -t ext4 /dev/vda /root\n\
         $b umount /proc\n\
         $b mount --move /dev /root/dev\n\
         exec $b switch_root /root /guest-init\n"
    )
}

fn make_initramfs(kernel_root: &Path) -> Result<Vec<u8>> {
    let versions = kernel_root.join("lib/modules");
    let modules_root = only_match(&versions, "")?;
    let mut order = Vec::new();
    for module in MODULES {
        resolve(&modules_root, module, &mut BTreeSet::new(), &mut order)?;
    }
    let mut archive = cpio::Archive::default();
    for directory in ["bin", "dev", "proc", "root", "modules"] {
        archive.directory(directory);
    }
    let busybox =
        fs::read("/bin/busybox").context("busybox-static is not installed (make install)")?;
    archive.file("bin/busybox", 0o755, &busybox);
    for module in &order {
        let path = find_module(&modules_root, module)?.context("a module vanished")?;
        archive.file(&format!("modules/{module}.ko"), 0o644, &fs::read(path)?);
    }
    archive.file("init", 0o755, initramfs_script(&order).as_bytes());
    Ok(archive.finish())
}

/// Appends a module after those that it needs; one that is built in has no file and is left out.
fn resolve(
    root: &Path,
    module: &str,
    seen: &mut BTreeSet<String>,
    order: &mut Vec<String>,
) -> Result<()> {
    if order.iter().any(|m| m == module) || !seen.insert(module.to_owned()) {
        return Ok(());
    }
    let Some(path) = find_module(root, module)? else { return Ok(()) };
    let bytes = fs::read(&path)?;
    // The package's modules.dep is made by its installation script, which did not run; the
    // modules themselves carry the same list.
    for needed in bytes.split(|b| *b == 0).filter_map(|field| field.strip_prefix(b"depends=")) {
        for name in String::from_utf8_lossy(needed).split(',').filter(|n| !n.is_empty()) {
            resolve(root, name, seen, order)?;
        }
    }
    order.push(module.to_owned());
    Ok(())
}

fn find_module(root: &Path, module: &str) -> Result<Option<PathBuf>> {
    let output =
        Command::new("find").arg(root).args(["-name", &format!("{module}.ko")]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().map(PathBuf::from))
}

/// The unpacked kernel package.
fn kernel_package() -> Result<PathBuf> {
    let tools = rootfs::tools_directory()?;
    let unpacked = tools.join("guest-kernel");
    let lock = fs::File::create(tools.join("guest-kernel.lock"))?;
    lock.lock().context("waiting for another process that fetches the kernel")?;
    if unpacked.is_dir() {
        return Ok(unpacked);
    }
    let download = tempfile::Builder::new().prefix("kernel-").tempdir_in(&tools)?;
    let package = newest_kernel()?;
    eprintln!("fetching {package} for the guest, once, kept in {}", unpacked.display());
    run(Command::new("apt-get").args(["download", &package]).current_dir(download.path()))?;
    let archive = only_match(download.path(), "linux-image")?;
    let staging = download.path().join("unpacked");
    run(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&staging))?;
    fs::rename(&staging, &unpacked)?;
    Ok(unpacked)
}

/// The package with the kernel that [`KERNEL_PACKAGE`] stands for now.
fn newest_kernel() -> Result<String> {
    let output = Command::new("apt-cache").args(["depends", KERNEL_PACKAGE]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let depends = text.lines().find_map(|l| l.trim().strip_prefix("Depends: "));
    depends.map(str::to_owned).with_context(|| {
        format!("apt knows no {KERNEL_PACKAGE}: run `apt-get update` (make install does it)")
    })
}

fn only_match(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
    let mut paths = entries.flatten().map(|e| e.path());
    let found =
        paths.find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)));
    found.with_context(|| format!("nothing named {prefix}* in {}", directory.display()))
}

/// Fails where the console shows that the kernel itself had trouble.
///
/// # Errors
/// If there is an oops, a warning or a hung task on the console.
pub fn expect_calm_kernel(console: &str) -> Result<()> {
    let trouble = ["Oops", "BUG:", "Call Trace", "blocked for more than", "Kernel panic"];
    let found: Vec<&str> =
        console.lines().filter(|l| trouble.iter().any(|t| l.contains(t))).collect();
    ensure!(found.is_empty(), "the guest's kernel complains:\n{}", found.join("\n"));
    Ok(())
}

/// Writes the console where a failing test's reader finds it.
///
/// # Errors
/// If it cannot be written.
pub fn keep_console(name: &str, console: &str) -> Result<PathBuf> {
    let path = rootfs::tools_directory()?.join(format!("console-{name}.log"));
    fs::File::create(&path)?.write_all(console.as_bytes())?;
    Ok(path)
}
