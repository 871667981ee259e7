//! How much room things take.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use shared::{DiffId, Digest};

use super::layer::layer_path;
use super::{ContainerDir, Image, Store, StoreError, files};
use crate::known_bad::left_out;

/// Sizes on disk, for `system df`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub total: usize,
    pub active: usize,
    pub bytes: u64,
    /// What a prune would give back.
    pub reclaimable: u64,
}

impl Usage {
    /// Counts one more thing. The sizes are what files claim, and a sparse one claims anything.
    pub fn add(&mut self, bytes: u64, is_active: bool) {
        self.total += 1;
        self.active += usize::from(is_active);
        self.bytes = self.bytes.saturating_add(bytes);
        let reclaimable = if is_active { 0 } else { bytes };
        self.reclaimable = self.reclaimable.saturating_add(reclaimable);
    }
}

/// How much of an image is in other images as well, bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImageSize {
    pub shared: u64,
    pub unique: u64,
}

impl Store {
    /// Images: each layer counted once.
    pub fn image_usage(&self) -> Result<Usage, StoreError> {
        let images = self.images()?;
        let mut used = HashSet::new();
        for container in self.containers()? {
            used.extend(container.record().ok().map(|record| record.image.config));
        }
        let ids: HashSet<&Digest> = images.iter().map(|image| &image.config).collect();
        let (mut layers, mut kept) = (HashSet::new(), HashSet::new());
        for image in &images {
            layers.extend(&image.diff_ids);
            if used.contains(&image.config) {
                kept.extend(&image.diff_ids);
            }
        }
        let bytes = self.layers_bytes(layers);
        Ok(Usage {
            total: ids.len(),
            active: ids.iter().filter(|id| used.contains(**id)).count(),
            bytes,
            reclaimable: bytes.saturating_sub(self.layers_bytes(kept)),
        })
    }

    /// Content of layers, bytes; one that is missing takes no room.
    pub fn layers_bytes<'a>(&self, layers: impl IntoIterator<Item = &'a DiffId>) -> u64 {
        let sizes = layers.into_iter().map(|layer| self.content_bytes(&layer_path(layer)));
        sizes.fold(0, u64::saturating_add)
    }

    /// For each image, by its id, what it shares with the others of `images` and what not.
    pub fn image_sizes(&self, images: &[Image]) -> HashMap<Digest, ImageSize> {
        let mut layers: HashMap<&Digest, HashSet<&DiffId>> = HashMap::new();
        for image in images {
            layers.entry(&image.config).or_default().extend(&image.diff_ids);
        }
        let mut users: HashMap<&DiffId, usize> = HashMap::new();
        for layer in layers.values().flatten() {
            *users.entry(layer).or_default() += 1;
        }
        let size = |id: &Digest, own: &HashSet<&DiffId>| {
            let (unique, shared): (Vec<&DiffId>, Vec<&DiffId>) =
                own.iter().partition(|layer| users[**layer] == 1);
            let size =
                ImageSize { shared: self.layers_bytes(shared), unique: self.layers_bytes(unique) };
            (id.clone(), size)
        };
        layers.iter().map(|(id, own)| size(id, own)).collect()
    }
}

/// What a container has written, bytes.
pub fn written_bytes(store: &Store, container: &ContainerDir) -> u64 {
    if let Some(bytes) = store.bytes_inside(&container.path().join("rw/u")) {
        return bytes;
    }
    files::open_dir(container.dir(), "rw/u").map_or(0, tree_bytes)
}

/// What is in a volume, bytes.
pub fn volume_bytes(store: &Store, name: &str) -> u64 {
    if let Some(bytes) = store.bytes_inside(&crate::volumes::data(&store.volumes(), name)) {
        return bytes;
    }
    let open = |dir: BorrowedFd<'_>, name: &str| files::open_dir(dir, name);
    let data = open(store.dir(), "volumes")
        .and_then(|volumes| open(volumes.as_fd(), name))
        .and_then(|volume| open(volume.as_fd(), "_data"));
    data.map_or(0, tree_bytes)
}

/// Where a walk goes on when it comes back to a directory.
struct Above {
    offset: i64,
    device: u64,
    inode: u64,
}

/// Content of the regular files beneath a directory, each counted once, bytes.
///
/// A container may change the tree meanwhile: what vanishes takes no room, and nothing leads out of
/// it, neither a link in a directory's place nor a mount. One directory is open at a time, because
/// a container decides how deep they are; the way back up is `..`, seen to be where it came from.
pub fn tree_bytes(top: OwnedFd) -> u64 {
    let (Ok(start), Ok(mut dir)) = (rustix::fs::fstat(&top), Dir::read_from(&top)) else {
        return 0;
    };
    let (mut here, mut above, mut bytes) = (start, Vec::new(), 0u64);
    let mut linked = HashSet::new();
    loop {
        let Some(Ok(entry)) = dir.read() else {
            let Some(Above { offset, device, inode }) = above.pop() else { return bytes };
            let Some((up, stat)) = step(&dir, c"..") else { return bytes };
            if (stat.st_dev, stat.st_ino) != (device, inode) {
                // Moved elsewhere, out of what is being counted perhaps.
                return bytes;
            }
            (dir, here) = (up, stat);
            if dir.seek(offset).is_err() {
                return bytes;
            }
            continue;
        };
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        let Ok(fd) = dir.fd() else { return bytes };
        let Ok(stat) = rustix::fs::statat(fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile
                if stat.st_dev == start.st_dev
                    && (stat.st_nlink == 1 || linked.insert(stat.st_ino)) =>
            {
                bytes = bytes.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
            }
            FileType::Directory => {
                let Some((below, found)) = step(&dir, entry.file_name()) else { continue };
                if found.st_dev != start.st_dev && !left_out("walks-follow-nothing") {
                    continue;
                }
                let (device, inode) = (here.st_dev, here.st_ino);
                above.push(Above { offset: entry.offset(), device, inode });
                (dir, here) = (below, found);
            }
            _ => {}
        }
    }
}

/// A directory beside or in one that is being read, and what it is.
fn step(dir: &Dir, name: &CStr) -> Option<(Dir, Stat)> {
    let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    if left_out("walks-follow-nothing") {
        flags -= OFlags::NOFOLLOW;
    }
    let fd = rustix::fs::openat(dir.fd().ok()?, name, flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&fd).ok()?;
    Some((Dir::new(fd).ok()?, stat))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(path: &std::path::Path) -> u64 {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        tree_bytes(rustix::fs::open(path, flags, Mode::empty()).unwrap())
    }

    #[test]
    fn every_file_counts_once_however_deep() {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, length: usize| {
            let path = place.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, vec![b'x'; length]).unwrap();
        };
        for name in ["a", "d/b", "d/e/c", "f/g", "z"] {
            write(name, 100);
        }
        std::fs::hard_link(place.path().join("a"), place.path().join("d/again")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", place.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/etc", place.path().join("d/link")).unwrap();
        assert_eq!(bytes_of(place.path()), 500);
        let deep = "p/".repeat(400);
        write(&format!("{deep}x"), 7);
        assert_eq!(bytes_of(place.path()), 507);
    }
}
