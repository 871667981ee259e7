//! `volumes/<name>/`: directories that outlive containers.
//!
//! ```text
//! volumes/<name>/meta.json   {created, labels, anonymous}
//! volumes/<name>/_data       what is mounted
//! ```
//!
//! A volume exists from the moment its `meta.json` does: it is made under a hidden name and renamed.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

/// Begins the name of a volume that is being removed.
pub(crate) const REMOVING: &str = ".old-";

/// What is known of a volume beside its content.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Volume {
    #[serde(skip)]
    pub name: String,
    /// RFC 3339, UTC.
    pub created: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub anonymous: bool,
}

/// Makes the volume `name` in `volumes`, and says whether it was not there before.
pub fn create(volumes: &Path, volume: &Volume) -> io::Result<bool> {
    let public = volumes.join(&volume.name);
    if public.join("meta.json").exists() {
        return Ok(false);
    }
    let staging = volumes.join(format!(".new-{}", crate::random::id()));
    fs::DirBuilder::new().mode(0o711).create(&staging)?;
    let made = fs::create_dir(staging.join("_data"))
        // Whatever the caller's umask: Docker's volumes can be read and passed through.
        .and_then(|()| fs::File::open(staging.join("_data")))
        .and_then(|data| data.set_permissions(fs::Permissions::from_mode(0o755)))
        .and_then(|()| {
            let (meta, bytes) = (staging.join("meta.json"), serde_json::to_vec(volume)?);
            // An anonymous one says nothing that its container's record does not.
            if volume.anonymous { fs::write(meta, bytes) } else { write_durably(&meta, &bytes) }
        })
        .and_then(|()| fs::rename(&staging, &public));
    if let Err(error) = made {
        let _ = fs::remove_dir_all(&staging);
        // Somebody else was faster, with the same result.
        return if public.join("meta.json").exists() { Ok(false) } else { Err(error) };
    }
    Ok(true)
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The volume of this name.
pub fn find(volumes: &Path, name: &str) -> io::Result<Option<Volume>> {
    match fs::read(volumes.join(name).join("meta.json")) {
        Ok(bytes) => {
            // What is in the volume must not be out of reach for the lack of what is said about it.
            let volume = serde_json::from_slice(&bytes).unwrap_or_else(|_| Volume {
                name: String::new(),
                created: String::new(),
                labels: BTreeMap::new(),
                anonymous: false,
            });
            Ok(Some(Volume { name: name.to_owned(), ..volume }))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every volume, ordered by name.
pub fn list(volumes: &Path) -> io::Result<Vec<Volume>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(volumes)? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if !name.starts_with('.') {
            all.extend(find(volumes, &name)?);
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Where the content of the volume lies.
pub fn data(volumes: &Path, name: &str) -> PathBuf {
    volumes.join(name).join("_data")
}

/// Removes the volume with its content. The caller has made sure that nobody uses it. What cannot
/// be deleted is tried again by [`crate::images::Store::empty_trash`].
///
/// In an ordinary user's store its files are other ids', so that deleting them is all left to that.
pub fn remove(volumes: &Path, name: &str) -> io::Result<()> {
    // Hidden first: nobody finds half a volume.
    let hidden = format!("{REMOVING}{}", crate::random::id());
    fs::rename(volumes.join(name), volumes.join(&hidden))?;
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(volumes, flags, Mode::empty())?;
    Ok(crate::images::remove_tree(folder.as_fd(), &CString::new(hidden)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_found_listed_removed() {
        let dir = tempfile::tempdir().unwrap();
        let volume = |name: &str| Volume {
            name: name.into(),
            created: "2026-01-01T00:00:00Z".into(),
            labels: BTreeMap::new(),
            anonymous: false,
        };
        assert!(create(dir.path(), &volume("db")).unwrap());
        fs::write(data(dir.path(), "db").join("x"), "1").unwrap();
        assert!(!create(dir.path(), &volume("db")).unwrap(), "a second time changes nothing");
        assert!(data(dir.path(), "db").join("x").exists());
        create(dir.path(), &volume("a1")).unwrap();
        let names: Vec<String> =
            list(dir.path()).unwrap().into_iter().map(|volume| volume.name).collect();
        assert_eq!(names, ["a1", "db"]);
        fs::write(dir.path().join("db/meta.json"), "").unwrap();
        assert_eq!(find(dir.path(), "db").unwrap().unwrap().name, "db", "torn by a power cut");
        remove(dir.path(), "db").unwrap();
        assert!(find(dir.path(), "db").unwrap().is_none());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
