//! A directory tree as lines of text, so that two programs' views of one image can be compared
//! entry by entry.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// Files up to this length are shown, longer ones by their digest.
const SHOWN_BYTES_MAX: usize = 100;

/// Every path beneath `root` on its mount, in order; mount points below it are left out.
///
/// `d mode owner path`, `f … =content` or `#digest:length`, `l owner path -> target`, `c`/`b` with
/// the device number, `p`, `s`; then `x path name=value` for each extended attribute, `h path path…`
/// at the first of several names of one file, and `t path seconds` for its time.
///
/// # Errors
/// If something of it cannot be read.
pub fn lines(root: &Path) -> Result<Vec<String>> {
    // With a slash at its end a link to the root, as /proc/PID/root is one, is followed.
    let root = &root.join("");
    let mut found = BTreeMap::new();
    walk(root, mount_of(root)?, Path::new(""), &mut found)?;
    ensure!(found.len() > 1, "{} is empty", root.display());
    let mut names: BTreeMap<(u64, u64), Vec<String>> = BTreeMap::new();
    for (path, metadata) in &found {
        if !metadata.is_dir() && metadata.nlink() > 1 {
            names
                .entry((metadata.dev(), metadata.ino()))
                .or_default()
                .push(shown(path.as_os_str()));
        }
    }
    let mut lines = Vec::new();
    for (path, metadata) in &found {
        let full = root.join(path);
        let name = shown(path.as_os_str());
        lines.push(describe(&full, &name, metadata).with_context(|| full.display().to_string())?);
        for (attribute, value) in attributes(&full)? {
            lines.push(format!("x {name} {attribute}={value}"));
        }
        let linked = names.get(&(metadata.dev(), metadata.ino()));
        if let Some(all) = linked.filter(|all| all.len() > 1 && all[0] == name) {
            lines.push(format!("h {}", all.join(" ")));
        }
        lines.push(format!("t {name} {}.{:09}", metadata.mtime(), metadata.mtime_nsec()));
    }
    Ok(lines)
}

/// The path that a line is about.
#[must_use]
pub fn path_of(line: &str) -> &str {
    let mut words = line.split(' ');
    let skipped = match words.next() {
        Some("d" | "f" | "c" | "b" | "p" | "s") => 2,
        Some("l") => 1,
        _ => 0,
    };
    words.nth(skipped).unwrap_or_default()
}

fn walk(
    root: &Path,
    mount: u64,
    path: &Path,
    found: &mut BTreeMap<PathBuf, Metadata>,
) -> Result<()> {
    let full = root.join(path);
    if mount_of(&full)? != mount {
        return Ok(());
    }
    let metadata = fs::symlink_metadata(&full).with_context(|| full.display().to_string())?;
    let is_directory = metadata.is_dir();
    found.insert(path.to_owned(), metadata);
    if is_directory {
        for entry in fs::read_dir(&full)? {
            walk(root, mount, &path.join(entry?.file_name()), found)?;
        }
    }
    Ok(())
}

fn mount_of(path: &Path) -> Result<u64> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let status = statx(CWD, path, flags, StatxFlags::MNT_ID);
    Ok(status.with_context(|| path.display().to_string())?.stx_mnt_id)
}

fn describe(full: &Path, name: &str, metadata: &Metadata) -> Result<String> {
    let kind = metadata.file_type();
    let owner = format!("{}:{}", metadata.uid(), metadata.gid());
    let mode = metadata.mode() & 0o7777;
    let device = || {
        let number = metadata.rdev();
        format!("{},{}", rustix::fs::major(number), rustix::fs::minor(number))
    };
    Ok(match () {
        () if kind.is_dir() => format!("d {mode:04o} {owner} {name}"),
        () if kind.is_symlink() => {
            format!("l {owner} {name} -> {}", shown(fs::read_link(full)?.as_os_str()))
        }
        () if kind.is_char_device() => format!("c {mode:04o} {owner} {name} {}", device()),
        () if kind.is_block_device() => format!("b {mode:04o} {owner} {name} {}", device()),
        () if kind.is_fifo() => format!("p {mode:04o} {owner} {name}"),
        () if kind.is_socket() => format!("s {mode:04o} {owner} {name}"),
        () => format!("f {mode:04o} {owner} {name} {}", content(&fs::read(full)?)),
    })
}

fn content(bytes: &[u8]) -> String {
    if bytes.len() <= SHOWN_BYTES_MAX {
        return format!("={}", shown(OsStr::from_bytes(bytes)));
    }
    format!("#{}:{}", crate::image::sha256(bytes), bytes.len())
}

fn attributes(path: &Path) -> Result<Vec<(String, String)>> {
    let mut buffer = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut buffer[..])?;
    let names: Vec<Vec<u8>> =
        buffer[..length].split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect();
    let mut found = Vec::new();
    for name in names {
        let name = String::from_utf8_lossy(&name).into_owned();
        // The host's labels are no part of an image.
        if name == "security.selinux" {
            continue;
        }
        let length = rustix::fs::lgetxattr(path, &*name, &mut buffer[..])?;
        found.push((name, shown(OsStr::from_bytes(&buffer[..length]))));
    }
    found.sort();
    Ok(found)
}

/// Printable ASCII as it is, everything else as `%xx`; the root is `.`.
fn shown(text: &OsStr) -> String {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return ".".to_owned();
    }
    let plain = |b: u8| (b'!'..=b'~').contains(&b) && b != b'%';
    bytes
        .iter()
        .map(|b| if plain(*b) { char::from(*b).to_string() } else { format!("%{b:02x}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_told_entry_by_entry() -> Result<()> {
        let directory = tempfile::tempdir()?;
        fs::write(directory.path().join("a b"), "x")?;
        fs::hard_link(directory.path().join("a b"), directory.path().join("c"))?;
        std::os::unix::fs::symlink("c", directory.path().join("d"))?;
        let told = lines(directory.path())?;
        assert!(told.iter().any(|l| l.starts_with("f ") && l.ends_with(" a%20b =x")), "{told:?}");
        assert!(told.contains(&"h a%20b c".to_owned()), "{told:?}");
        assert!(told.iter().any(|l| l.starts_with("l ") && l.ends_with(" d -> c")), "{told:?}");
        let paths: Vec<&str> = told.iter().map(|l| path_of(l)).collect();
        assert!(paths.iter().all(|p| [".", "a%20b", "c", "d"].contains(p)), "{paths:?}");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link)?;
        assert!(lines(&link)?.len() > told.len(), "a link to the root is followed");
        Ok(())
    }
}
