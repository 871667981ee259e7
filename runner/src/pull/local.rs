//! Images that are here already, and layers that a power cut took from them.

use shared::ImageRef;
use shared::manifest::Manifest;

use super::registry::{Job, finish};
use super::resolve::{LayerToFetch, is_wanted};
use super::{PullError, PullOptions, PullPolicy};
use crate::images::{Image, Lease, Store, StoreError};

/// A local image that suits what was asked for.
pub(crate) struct Found {
    image: Image,
}

/// Finds it by name or id.
pub(crate) fn find(
    store: &Store,
    text: &str,
    options: &PullOptions,
) -> Result<Option<Found>, PullError> {
    let found = store.find_image(text)?;
    Ok(found
        .filter(|image| is_wanted(image, options.platform.as_ref()))
        .map(|image| Found { image }))
}

impl Found {
    /// The image under a lease, its layers whole. Missing ones are made again, from what the store
    /// has of them or from the registry.
    pub(crate) fn image(
        &self,
        store: &Store,
        options: &PullOptions,
    ) -> Result<(Image, Lease), PullError> {
        let image = &self.image;
        let lease = store.lease()?;
        if lease_image(store, &lease, image)? {
            return Ok((image.clone(), lease));
        }
        let name: ImageRef = image
            .reference
            .parse()
            .map_err(|source| PullError::Reference { text: image.reference.clone(), source })?;
        match stored_layers(store, image) {
            Ok(layers) => {
                let offline = options.policy == PullPolicy::Never;
                Job::new(store, &lease, &name, options)?.layers(&layers, offline)?;
                let image = finish(store, image.clone())?;
                Ok((image, lease))
            }
            Err(_) if options.policy != PullPolicy::Never => {
                drop(lease);
                super::registry::pull(store, &name, options)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Puts all of an image into the lease; answers whether all of it is whole.
fn lease_image(store: &Store, lease: &Lease, image: &Image) -> Result<bool, StoreError> {
    let _hold = store.hold_shared()?;
    for digest in [&image.digest, &image.manifest, &image.config] {
        lease.add_blob(digest)?;
    }
    for layer in &image.diff_ids {
        lease.add_layer(layer)?;
    }
    if let Some(chain) = &image.fixups {
        lease.add_fixups(chain)?;
    }
    for layer in &image.layers {
        match store.layer(layer) {
            Ok(_) => {}
            Err(StoreError::NoSuchLayer(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    match &image.fixups {
        Some(chain) => match store.fixups(chain) {
            Ok(_) => Ok(true),
            Err(StoreError::Damaged { .. }) => Ok(false),
            Err(error) => Err(error),
        },
        None => Ok(true),
    }
}

/// What the image's own manifest says of its layers.
fn stored_layers(store: &Store, image: &Image) -> Result<Vec<LayerToFetch>, StoreError> {
    let damaged = |why: &str| StoreError::Damaged {
        what: format!("manifest {}", image.manifest),
        why: why.into(),
    };
    let manifest =
        Manifest::parse(&store.blob(&image.manifest)?).map_err(|_| damaged("it cannot be read"))?;
    // Without it the image cannot be run or inspected, whatever its layers.
    store.blob(&image.config)?;
    let layers = manifest.layers.unwrap_or_default();
    if layers.len() != image.diff_ids.len() {
        return Err(damaged("it has another number of layers"));
    }
    let pairs = layers.into_iter().zip(image.diff_ids.iter().cloned());
    Ok(pairs
        .map(|(layer, diff_id)| LayerToFetch { blob: layer.digest, size: layer.size, diff_id })
        .collect())
}
