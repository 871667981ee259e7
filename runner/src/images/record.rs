//! `images/*.json`: what a name means here, and finding it by name or by id.

use serde::{Deserialize, Serialize};
use shared::manifest::Platform;
use shared::{DiffId, Digest, ImageRef};

use super::{Store, StoreError, files, to_json};
use crate::container::{ImageUse, RootAttributes};

/// An image under one name, with everything that running it needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Image {
    /// Complete: `docker.io/library/alpine:latest`, or `…@sha256:…` where no tag names it (any
    /// more).
    pub reference: String,
    /// What the reference resolved to at the registry: an index, or the manifest itself.
    pub digest: Digest,
    pub manifest: Digest,
    /// Also the image's id.
    pub config: Digest,
    pub platform: Platform,
    /// RFC 3339, UTC.
    pub pulled_at: String,
    /// Every layer as the image lists it, from the lowest up.
    pub diff_ids: Vec<DiffId>,
    /// What is stacked: without repetitions, and without what an opaque root hides.
    pub layers: Vec<DiffId>,
    /// The directory under `fixups/` that goes on top of the layers.
    pub fixups: Option<String>,
    pub root: RootAttributes,
    /// Content of regular files in all layers, bytes.
    pub size: u64,
}

impl Image {
    /// What a container's record keeps of it.
    pub fn to_use(&self) -> ImageUse {
        ImageUse {
            reference: self.reference.clone(),
            manifest: self.manifest.clone(),
            config: self.config.clone(),
            layers: self.layers.clone(),
            fixups: self.fixups.clone(),
            root: self.root.clone(),
            foreign: None,
        }
    }
}

/// The name as people type it: `docker.io/library/alpine:3` is `alpine:3`.
pub fn familiar_name(reference: &str) -> &str {
    let Some(rest) = reference.strip_prefix("docker.io/") else { return reference };
    match rest.strip_prefix("library/") {
        Some(short) if !short.contains('/') => short,
        _ => rest,
    }
}

pub(crate) fn record_name(reference: &str) -> String {
    format!("{}.json", Digest::sha256(reference.as_bytes()).hex())
}

impl Store {
    /// The image that a person means by `text`: a name, or the beginning of an id.
    ///
    /// # Errors
    /// [`StoreError::AmbiguousImage`] where several ids begin so.
    pub fn find_image(&self, text: &str) -> Result<Option<Image>, StoreError> {
        if let Ok(name) = text.parse::<ImageRef>()
            && let Some(image) = self.image_named(&name)?
        {
            return Ok(Some(image));
        }
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        if prefix.is_empty() || !prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(None);
        }
        let mut found = self.images()?;
        found.retain(|image| image.config.hex().starts_with(prefix));
        let Some(first) = found.first() else { return Ok(None) };
        let mut ids: Vec<_> = found.iter().map(|image| &image.config).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() > 1 {
            return Err(StoreError::AmbiguousImage { text: text.into(), count: ids.len() });
        }
        Ok(Some(first.clone()))
    }

    /// The image of exactly this name. A digest with or without a tag means what was pulled by it.
    pub fn image_named(&self, name: &ImageRef) -> Result<Option<Image>, StoreError> {
        let Some(digest) = &name.digest else {
            return self.image_record(&record_name(&name.to_string()));
        };
        let pinned = ImageRef { tag: None, ..name.clone() };
        if let Some(image) = self.image_record(&record_name(&pinned.to_string()))? {
            return Ok(Some(image));
        }
        let repository = format!("{}/{}", name.registry, name.repository);
        Ok(self.images()?.into_iter().find(|image| {
            (image.digest == *digest || image.manifest == *digest)
                && repository_of(&image.reference) == repository
        }))
    }

    /// Every image, ordered by name. One that several names mean is listed under each; a record that
    /// cannot be read is passed over, so that it keeps nobody from the others.
    pub fn images(&self) -> Result<Vec<Image>, StoreError> {
        Ok(self.image_records()?.into_iter().flatten().collect())
    }

    /// The same, with what cannot be read: what is decided of all images must not be decided without
    /// one.
    pub fn image_records(&self) -> Result<Vec<Result<Image, StoreError>>, StoreError> {
        let names = files::names(self.dir(), "images").map_err(StoreError::io("list images"))?;
        // One that went away meanwhile is no error.
        let records = names.iter().filter_map(|name| self.image_record(name).transpose());
        let mut records: Vec<_> = records.collect();
        records.sort_by(|a, b| {
            let name = |one: &Result<Image, _>| one.as_ref().ok().map(|one| one.reference.clone());
            name(a).cmp(&name(b))
        });
        Ok(records)
    }

    pub(crate) fn image_record(&self, name: &str) -> Result<Option<Image>, StoreError> {
        let path = format!("images/{name}");
        let Some(bytes) =
            files::read(self.dir(), &path).map_err(StoreError::io(format!("read {path}")))?
        else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| StoreError::DamagedImage {
            id: name.trim_end_matches(".json").to_owned(),
            why: error.to_string(),
        })
    }

    /// The file below `images/` that holds no image any more, and which `text` means: by the name
    /// that the image had, or by the beginning of what stands in its place where it is told of.
    pub(super) fn damaged_record(&self, text: &str) -> Result<Option<String>, StoreError> {
        let by_name = text.parse::<ImageRef>().ok().map(|name| record_name(&name.to_string()));
        let mut found = Vec::new();
        for record in self.image_records()? {
            let Err(StoreError::DamagedImage { id, .. }) = record else { continue };
            let name = format!("{id}.json");
            if by_name.as_ref() == Some(&name) {
                return Ok(Some(name));
            }
            if !text.is_empty() && id.starts_with(text) {
                found.push(name);
            }
        }
        if found.len() > 1 {
            return Err(StoreError::AmbiguousImage { text: text.into(), count: found.len() });
        }
        Ok(found.pop())
    }

    /// Makes `image.reference` mean `image`. With `lock` held shared by the caller, who also holds
    /// a lease on everything that the image names. Durable when it returns.
    pub(crate) fn write_image(&self, image: &Image) -> Result<(), StoreError> {
        let name = record_name(&image.reference);
        files::replace(self.dir(), "images", &name, &to_json(image), files::Durably::Yes)
            .map_err(StoreError::io(format!("record {}", image.reference)))
    }

    /// The bytes of a manifest or configuration.
    ///
    /// # Errors
    /// [`StoreError::NoSuchBlob`] where it is missing; [`StoreError::Damaged`] where it rotted.
    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = blob_path(digest);
        let bytes = files::read(self.dir(), &path)
            .map_err(StoreError::io(format!("read {path}")))?
            .ok_or_else(|| StoreError::NoSuchBlob(digest.clone()))?;
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            let why = "its content has another digest".into();
            return Err(StoreError::Damaged { what: path, why });
        }
        Ok(bytes)
    }
}

/// `blobs/sha256/<hex>`
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// The reference without tag and digest.
pub fn repository_of(reference: &str) -> &str {
    let name = reference.split('@').next().unwrap_or(reference);
    match name.rsplit_once(':') {
        // A colon before the last slash belongs to a port.
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_people_type_them() {
        for (full, short, repository) in [
            ("docker.io/library/alpine:3", "alpine:3", "docker.io/library/alpine"),
            ("docker.io/a/b:c", "a/b:c", "docker.io/a/b"),
            ("localhost:5000/app:latest", "localhost:5000/app:latest", "localhost:5000/app"),
            ("localhost:5000/app@sha256:00", "localhost:5000/app@sha256:00", "localhost:5000/app"),
        ] {
            assert_eq!(familiar_name(full), short);
            assert_eq!(repository_of(full), repository);
        }
    }
}
