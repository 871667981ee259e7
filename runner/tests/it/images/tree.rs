//! What a container of an image would see, through the kernel's overlayfs, as lines of text.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use runner::container::RootAttributes;
use runner::path_text::to_text as path_to_text;
use serde_json::Value;
use shared::Digest;

use crate::corpus::tar::MTIME;
use crate::images::host::Host;

/// Mounts the image as the launcher does, in a mount namespace of this thread, and reads it.
pub(crate) fn of_image(host: &Host, record: &Value) -> Vec<String> {
    let root = host.root();
    let mut lowers: Vec<String> = Vec::new();
    if let Some(chain) = record["fixups"].as_str() {
        lowers.push(root.join("fixups").join(chain).join("fs").display().to_string());
    }
    for layer in record["layers"].as_array().unwrap().iter().rev() {
        let name = layer.as_str().unwrap().replacen(':', "-", 1);
        lowers.push(root.join("layers").join(name).join("fs").display().to_string());
    }
    let attributes: RootAttributes = serde_json::from_value(record["root"].clone()).unwrap();
    let stage = host.path().join("mounted");
    std::thread::scope(|scope| {
        scope.spawn(|| mounted(&stage, &lowers, &attributes)).join().unwrap()
    })
}

fn mounted(stage: &Path, lowers: &[String], attributes: &RootAttributes) -> Vec<String> {
    for folder in ["u", "w", "m", "none", "l"] {
        std::fs::create_dir_all(stage.join(folder)).unwrap();
    }
    std::fs::set_permissions(stage.join("u"), PermissionsExt::from_mode(attributes.mode)).unwrap();
    std::os::unix::fs::chown(stage.join("u"), Some(attributes.uid), Some(attributes.gid)).unwrap();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    // Short names: the options of mount(2) end with a page.
    let mut options = String::from("lowerdir=");
    for (at, lower) in lowers.iter().enumerate() {
        let link = stage.join("l").join(at.to_string());
        std::os::unix::fs::symlink(lower, link).unwrap();
        options += &format!("{}{at}", if at == 0 { "" } else { ":" });
    }
    if lowers.is_empty() {
        options += "../none";
    }
    options += ",upperdir=../u,workdir=../w,index=off,metacopy=off,redirect_dir=nofollow,xino=off";
    std::env::set_current_dir(stage.join("l")).unwrap_or_else(|error| panic!("{error}"));
    let target = stage.join("m");
    mount(Some("overlay"), &target, Some("overlay"), MsFlags::empty(), Some(&*options)).unwrap();
    let lines = of_directory(&target, true);
    nix::mount::umount(&target).unwrap();
    std::env::set_current_dir("/").unwrap();
    std::fs::remove_dir_all(stage).unwrap();
    lines
}

/// Every path beneath `root`, in the form that [`crate::corpus::Case::tree`] describes.
pub(crate) fn of_directory(root: &Path, times: bool) -> Vec<String> {
    let mut found = BTreeMap::new();
    walk(root, Path::new(""), &mut found);
    let mut inodes: BTreeMap<(u64, u64), Vec<String>> = BTreeMap::new();
    for (path, metadata) in found.values() {
        if !metadata.is_dir() && metadata.nlink() > 1 {
            let names = inodes.entry((metadata.dev(), metadata.ino())).or_default();
            names.push(text(path));
        }
    }
    let mut lines = Vec::new();
    for (path, metadata) in found.values() {
        let full = root.join(path);
        lines.push(line(&full, path, metadata));
        for name in xattrs(&full) {
            let mut value = vec![0; 1024];
            let length = rustix::fs::lgetxattr(&full, &*name, &mut value[..]).unwrap();
            lines.push(format!("x {} {name}={}", text(path), path_to_text(&value[..length])));
        }
        if let Some(names) = inodes.get(&(metadata.dev(), metadata.ino()))
            && names.len() > 1
            && names[0] == text(path)
        {
            lines.push(format!("h {}", names.join(" ")));
        }
        let time = (metadata.mtime(), metadata.mtime_nsec());
        // Directories that no entry names have the time of their making.
        let made = metadata.is_dir() && time.0 > MTIME + 1_000_000;
        if times && !path.as_os_str().is_empty() && !made && time != (MTIME, 0) {
            lines.push(format!("t {} {}.{}", text(path), time.0, time.1));
        }
    }
    lines
}

fn walk(
    root: &Path,
    path: &Path,
    found: &mut BTreeMap<Vec<u8>, (std::path::PathBuf, std::fs::Metadata)>,
) {
    let full = root.join(path);
    let metadata = full.symlink_metadata().unwrap();
    let is_dir = metadata.is_dir();
    found.insert(path.as_os_str().as_bytes().to_vec(), (path.to_owned(), metadata));
    if is_dir {
        for entry in std::fs::read_dir(full).unwrap() {
            walk(root, &path.join(entry.unwrap().file_name()), found);
        }
    }
}

fn text(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() { ".".into() } else { path_to_text(bytes) }
}

fn line(full: &Path, path: &Path, metadata: &std::fs::Metadata) -> String {
    let (kind, path) = (metadata.file_type(), text(path));
    let owner = format!("{}:{}", metadata.uid(), metadata.gid());
    let mode = metadata.mode() & 0o7777;
    let device = || {
        let rdev = metadata.rdev();
        format!("{},{}", rustix::fs::major(rdev), rustix::fs::minor(rdev))
    };
    if kind.is_dir() {
        format!("d {mode:04o} {owner} {path}")
    } else if kind.is_symlink() {
        let target = std::fs::read_link(full).unwrap();
        format!("l {owner} {path} -> {}", path_to_text(target.as_os_str().as_bytes()))
    } else if kind.is_char_device() {
        format!("c {mode:04o} {owner} {path} {}", device())
    } else if kind.is_block_device() {
        format!("b {mode:04o} {owner} {path} {}", device())
    } else if kind.is_fifo() {
        format!("p {mode:04o} {owner} {path}")
    } else {
        let content = std::fs::read(full).unwrap();
        let printable = content.len() <= 100 && content.iter().all(|b| (b' '..=b'~').contains(b));
        let shown = if printable {
            format!("={}", String::from_utf8_lossy(&content))
        } else {
            format!("#{}:{}", Digest::sha256(&content).short(), content.len())
        };
        format!("f {mode:04o} {owner} {path} {shown}")
    }
}

/// Overlay's own are not shown to the container either.
fn xattrs(path: &Path) -> Vec<String> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let mut names: Vec<String> =
        names.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    names.retain(|name| name != "security.selinux");
    names.sort();
    names
}
