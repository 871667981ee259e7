//! How much room things take.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use shared::{DiffId, Digest};

use super::layer::layer_path;
use super::{ContainerDir, Image, Store, StoreError};

/// Sizes on disk, for `system df`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub total: usize,
    pub active: usize,
    pub bytes: u64,
    /// What a prune would give back.
    pub reclaimable: u64,
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
            reclaimable: bytes - self.layers_bytes(kept),
        })
    }

    /// Content of layers, bytes; one that is missing takes no room.
    pub fn layers_bytes<'a>(&self, layers: impl IntoIterator<Item = &'a DiffId>) -> u64 {
        layers.into_iter().map(|layer| self.content_bytes(&layer_path(layer))).sum()
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
pub fn written_bytes(container: &ContainerDir) -> u64 {
    tree_bytes(&container.path().join("rw/u"))
}

/// Content of the regular files beneath `path`, bytes. What vanishes meanwhile takes no room.
pub fn tree_bytes(path: &Path) -> u64 {
    let mut bytes = 0;
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) if metadata.is_file() => bytes += metadata.size(),
                _ => {}
            }
        }
    }
    bytes
}
