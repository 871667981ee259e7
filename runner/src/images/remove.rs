//! Taking names away, and everything that nothing reaches any more.

use std::collections::HashSet;

use rustix::fs::AtFlags;
use rustix::io::Errno;
use shared::manifest::Manifest;
use shared::{DiffId, Digest, ImageRef};

use super::layer::LayerFacts;
use super::record::{record_name, repository_of};
use super::{Hold, Image, InUse, Store, StoreError, familiar_name, files, lock};
use crate::container::ImageUse;
use crate::known_bad::left_out;

/// Compressed bytes of a pull that was given up stay so long. Seconds.
const PART_SECONDS_MAX: i64 = 7 * 24 * 60 * 60;

/// What a removal took away.
#[derive(Debug, Default)]
pub struct Removed {
    /// Names, as people type them.
    pub untagged: Vec<String>,
    /// Ids of images, then of layers, that are in the store no more.
    pub deleted: Vec<String>,
    /// Content of the files of these layers, bytes.
    pub bytes: u64,
    /// A record that cannot be read: while it is there no content goes, because it might need it.
    pub kept_for: Option<StoreError>,
}

/// Everything that has to stay.
#[derive(Default)]
struct Reachable {
    blobs: HashSet<Digest>,
    layers: HashSet<DiffId>,
    fixups: HashSet<String>,
}

impl Store {
    /// Takes away the image that `text` names: one name of it, or with an id all of them.
    ///
    /// # Errors
    /// [`StoreError::NoSuchImage`]; [`StoreError::InUse`] in Docker's words, unless `force`. A
    /// container keeps its layers in any case.
    pub fn remove_image(&self, text: &str, force: bool) -> Result<Removed, StoreError> {
        let hold = self.hold_exclusive()?;
        let chosen = match self.find_image(text) {
            Ok(Some(image)) => image,
            other => {
                let Some(name) = self.damaged_record(text)? else {
                    let none = || StoreError::NoSuchImage(text.to_owned());
                    return Err(other.err().unwrap_or_else(none));
                };
                return self.remove_damaged(hold, &name);
            }
        };
        let mut all = self.images()?;
        all.retain(|image| image.config == chosen.config);
        let named = text.parse::<ImageRef>().ok();
        let named = named.map(|name| self.image_named(&name)).transpose()?.flatten();
        let by_name = named.is_some_and(|image| image.reference == chosen.reference);
        let going = if by_name { going_with(&chosen, &all) } else { all.clone() };
        if !force {
            self.refuse_if_used(text, &chosen, &all, &going, by_name)?;
        }
        let mut removed = Removed::default();
        for image in &going {
            self.untag(image, &mut removed)?;
        }
        if going.len() == all.len() {
            removed.untagged.extend(digest_names(&going));
            removed.deleted.push(chosen.config.to_string());
        }
        self.sweep(&hold, &mut removed)?;
        drop(hold);
        self.try_empty_trash()?;
        Ok(removed)
    }

    /// Takes away a record that nobody can read; what it alone reached goes with it.
    fn remove_damaged(&self, hold: Hold, name: &str) -> Result<Removed, StoreError> {
        self.unlink_record(name)?;
        let untagged = vec![name.trim_end_matches(".json").to_owned()];
        let mut removed = Removed { untagged, ..Removed::default() };
        self.sweep(&hold, &mut removed)?;
        drop(hold);
        self.try_empty_trash()?;
        Ok(removed)
    }

    fn unlink_record(&self, name: &str) -> Result<(), StoreError> {
        let path = format!("images/{name}");
        match rustix::fs::unlinkat(self.dir(), &path, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(StoreError::io(format!("remove {path}"))(error)),
        }
    }

    fn refuse_if_used(
        &self,
        text: &str,
        chosen: &Image,
        all: &[Image],
        going: &[Image],
        by_name: bool,
    ) -> Result<(), StoreError> {
        let repositories: HashSet<&str> =
            all.iter().map(|image| repository_of(&image.reference)).collect();
        if !by_name && repositories.len() > 1 {
            return Err(InUse::ManyRepositories { image: chosen.config.short() }.into());
        }
        if going.len() < all.len() {
            return Ok(());
        }
        for container in self.containers()? {
            // One that cannot be read cannot say what it uses; its layers are not swept either.
            let Ok(record) = container.record() else { continue };
            if record.image.config != chosen.config {
                continue;
            }
            let (image, container) = (chosen.config.short(), container.id[..12].to_owned());
            return Err(if by_name {
                InUse::ByContainer { reference: text.to_owned(), container, image }
            } else {
                InUse::IdByContainer { image, container }
            }
            .into());
        }
        Ok(())
    }

    fn untag(&self, image: &Image, removed: &mut Removed) -> Result<(), StoreError> {
        self.unlink_record(&record_name(&image.reference))?;
        removed.untagged.push(familiar_name(&image.reference).to_owned());
        Ok(())
    }

    /// Takes away images that nobody uses: those without a tag, or with `all` every one that no
    /// container was made of; and of these the ones that `wanted` agrees to.
    pub fn prune_images(
        &self,
        all: bool,
        wanted: impl Fn(&Image) -> bool,
    ) -> Result<Removed, StoreError> {
        let hold = self.hold_exclusive()?;
        let images = self.images()?;
        let mut used = HashSet::new();
        for container in self.containers()? {
            used.insert(container.record()?.image.config);
        }
        let tagged: HashSet<Digest> = images
            .iter()
            .filter(|image| !image.reference.contains('@'))
            .map(|image| image.config.clone())
            .collect();
        let mut removed = Removed::default();
        let mut gone = HashSet::new();
        for image in &images {
            let spare = used.contains(&image.config) || !all && tagged.contains(&image.config);
            if !spare && wanted(image) {
                self.untag(image, &mut removed)?;
                gone.insert(image.config.clone());
            }
        }
        removed.deleted.extend(gone.iter().map(Digest::to_string));
        self.sweep(&hold, &mut removed)?;
        drop(hold);
        self.try_empty_trash()?;
        Ok(removed)
    }

    /// Moves everything that nothing reaches into the trash. Roots are images, containers and
    /// living leases. Where an image's record is damaged nothing goes, because it might reach
    /// anything; that is noted in `removed`, and keeps nobody from removing names.
    ///
    /// # Errors
    /// Another root that cannot be read: nothing is taken away either.
    pub(crate) fn sweep(&self, _exclusive: &Hold, removed: &mut Removed) -> Result<(), StoreError> {
        let reachable = match self.reachable() {
            Err(error @ StoreError::DamagedImage { .. }) if !left_out("bad-record-passed") => {
                removed.kept_for = Some(error);
                return Ok(());
            }
            other => other?,
        };
        let what = || StoreError::io("sweep the store");
        for name in files::names(self.dir(), "layers").map_err(what())? {
            let keeps = super::layer::digest_of(&name)
                .is_some_and(|digest| reachable.layers.contains(&DiffId(digest)));
            if !keeps {
                let path = format!("layers/{name}");
                removed.deleted.push(name.replacen('-', ":", 1));
                removed.bytes = removed.bytes.saturating_add(self.content_bytes(&path));
                self.to_trash(&path).map_err(what())?;
            }
        }
        for name in files::names(self.dir(), "fixups").map_err(what())? {
            if !reachable.fixups.contains(&name) {
                self.to_trash(&format!("fixups/{name}")).map_err(what())?;
            }
        }
        for algorithm in ["sha256", "sha512"] {
            let folder = format!("blobs/{algorithm}");
            for hex in files::names(self.dir(), &folder).map_err(what())? {
                let digest = format!("{algorithm}:{hex}").parse::<Digest>();
                if !digest.is_ok_and(|digest| reachable.blobs.contains(&digest)) {
                    self.to_trash(&format!("{folder}/{hex}")).map_err(what())?;
                }
            }
        }
        self.abandon_work()?;
        self.sweep_ids().map_err(what())?;
        self.sweep_locks()?;
        self.sweep_parts()
    }

    pub(super) fn content_bytes(&self, layer: &str) -> u64 {
        let json = files::read(self.dir(), &format!("{layer}/layer.json")).ok().flatten();
        json.and_then(|json| serde_json::from_slice::<LayerFacts>(&json).ok())
            .map_or(0, |facts| facts.bytes)
    }

    fn reachable(&self) -> Result<Reachable, StoreError> {
        let mut reachable = Reachable::default();
        for image in self.image_records()? {
            let image = image?;
            reachable.blobs.insert(image.digest.clone());
            self.reach(&mut reachable, &image.to_use());
            // Also what an opaque root hides: pulling the image again must not fetch it again.
            reachable.layers.extend(image.diff_ids);
        }
        for container in self.containers()? {
            self.reach(&mut reachable, &container.record()?.image);
        }
        self.reach_leases(&mut reachable)?;
        Ok(reachable)
    }

    fn reach(&self, reachable: &mut Reachable, image: &ImageUse) {
        reachable.layers.extend(image.layers.iter().cloned());
        reachable.fixups.extend(image.fixups.clone());
        reachable.blobs.extend([image.manifest.clone(), image.config.clone()]);
        // A manifest that is gone or rotten keeps no compressed layers; the unpacked ones stay.
        let manifest = self.blob(&image.manifest).ok();
        let layers = manifest
            .and_then(|bytes| Manifest::parse(&bytes).ok())
            .and_then(|manifest| manifest.layers);
        reachable.blobs.extend(layers.into_iter().flatten().map(|layer| layer.digest));
    }

    fn reach_leases(&self, reachable: &mut Reachable) -> Result<(), StoreError> {
        for text in self.living_leases()? {
            for line in text.lines() {
                match line.split_once(' ') {
                    Some(("blob", digest)) => reachable.blobs.extend(digest.parse::<Digest>()),
                    Some(("layer", layer)) => reachable.layers.extend(layer.parse::<DiffId>()),
                    Some(("fixups", chain)) => drop(reachable.fixups.insert(chain.to_owned())),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// What living leases name. One whose lock can be taken is dead, and is taken away: `lock` is
    /// held exclusively, so none is just being made.
    pub(super) fn living_leases(&self) -> Result<Vec<String>, StoreError> {
        let what = || StoreError::io("read a lease");
        let mut living = Vec::new();
        for name in files::names(self.dir(), "leases").map_err(what())? {
            let path = format!("leases/{name}");
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
            let mode = rustix::fs::Mode::empty();
            let file = match rustix::fs::openat(self.dir(), &path, flags, mode) {
                Err(Errno::NOENT) => continue,
                other => other.map_err(what())?,
            };
            if lock::try_exclusive(&file).map_err(what())? {
                // Its owner may be removing it as well.
                let _ = rustix::fs::unlinkat(self.dir(), &path, AtFlags::empty());
                continue;
            }
            let text = files::read(self.dir(), &path).map_err(what())?.unwrap_or_default();
            living.push(String::from_utf8_lossy(&text).into_owned());
        }
        Ok(living)
    }

    /// Locks that nobody holds. Whoever opens one now finds, once it is locked, that the path
    /// names another file, and opens again.
    fn sweep_locks(&self) -> Result<(), StoreError> {
        let what = || StoreError::io("sweep the locks");
        for name in files::names(self.dir(), "locks").map_err(what())? {
            let path = format!("locks/{name}");
            let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
            let mode = rustix::fs::Mode::empty();
            let file = match rustix::fs::openat(self.dir(), &path, flags, mode) {
                Err(Errno::NOENT) => continue,
                other => other.map_err(what())?,
            };
            if lock::try_exclusive(&file).map_err(what())? {
                rustix::fs::unlinkat(self.dir(), &path, AtFlags::empty()).map_err(what())?;
            }
        }
        Ok(())
    }

    fn sweep_parts(&self) -> Result<(), StoreError> {
        let what = || StoreError::io("sweep unfinished downloads");
        let now = crate::timestamp::Timestamp::now().seconds;
        for name in files::names(self.dir(), "ingest").map_err(what())? {
            let path = format!("ingest/{name}");
            let stat = match rustix::fs::statat(self.dir(), &path, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                other => other.map_err(what())?,
            };
            if now - stat.st_mtime > PART_SECONDS_MAX {
                self.to_trash(&path).map_err(what())?;
            }
        }
        Ok(())
    }

    /// Gives `image` its name. An image that had the name until now, and has no other, keeps one
    /// by its digest, as Docker keeps it without a tag. The caller holds `lock` shared and knows
    /// that everything of the image is there. Durable when it returns.
    pub(crate) fn name_image(&self, image: &Image) -> Result<(), StoreError> {
        let before = match self.image_record(&record_name(&image.reference)) {
            // What it was nobody can tell any more.
            Err(StoreError::DamagedImage { .. }) => None,
            other => other?,
        };
        if let Some(before) = before
            && before.config != image.config
            && !before.reference.contains('@')
        {
            let untagged = format!("{}@{}", repository_of(&before.reference), before.digest);
            self.write_image(&Image { reference: untagged, ..before })?;
        }
        self.write_image(image)
    }

    /// Gives the image that `source` names a further name.
    ///
    /// # Errors
    /// [`StoreError::NoSuchImage`].
    pub fn tag_image(&self, source: &str, target: &ImageRef) -> Result<(), StoreError> {
        let _hold = self.hold_shared()?;
        let image =
            self.find_image(source)?.ok_or_else(|| StoreError::NoSuchImage(source.to_owned()))?;
        self.name_image(&Image { reference: target.to_string(), ..image })
    }
}

/// The image under one name; with its last tag in a repository the names by digest go as well.
fn going_with(chosen: &Image, all: &[Image]) -> Vec<Image> {
    let repository = repository_of(&chosen.reference);
    let others = all.iter().filter(|image| {
        image.reference != chosen.reference && repository_of(&image.reference) == repository
    });
    let others: Vec<&Image> = others.collect();
    let mut going = vec![chosen.clone()];
    if others.iter().all(|image| image.reference.contains('@')) {
        going.extend(others.into_iter().cloned());
    }
    going
}

/// `name@sha256:…` for each repository, as `rmi` of the last name says it.
fn digest_names(images: &[Image]) -> Vec<String> {
    let mut names: Vec<String> = images
        .iter()
        .filter(|image| !image.reference.contains('@'))
        .map(|image| {
            let repository = repository_of(&image.reference);
            format!("{}@{}", familiar_name(repository), image.digest)
        })
        .collect();
    names.dedup();
    names
}
