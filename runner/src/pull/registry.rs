//! A pull, from the first request to the image's record.

use std::collections::HashSet;
use std::path::Path;

use futures_util::future::try_join_all;
use shared::ImageRef;
use tokio::sync::Semaphore;

use super::client::{Client, Login};
use super::error::human_bytes;
use super::layer::Fetcher;
use super::progress::Progress;
use super::resolve::{LayerToFetch, Resolved, Resolver, recorded_reference};
use super::{PullError, PullOptions};
use crate::credentials::{Credentials, Keyring, Place, Secret};
use crate::images::{Image, Lease, Store};
use crate::timestamp::Timestamp;
use crate::unpack::Limits;

/// Layers at once. More sockets than this gain nothing on a fast network, and on a slow one the
/// registry is the limit; each costs two processes.
const LAYERS_AT_ONCE: usize = 4;

/// The program that is running, also when its file has been replaced meanwhile.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// One pull: a registry, a repository, a lease.
pub(crate) struct Job<'a> {
    store: &'a Store,
    lease: &'a Lease,
    client: Client,
    options: &'a PullOptions,
    progress: Progress,
}

/// Pulls an image and records it under its name.
pub(crate) fn pull(
    store: &Store,
    name: &ImageRef,
    options: &PullOptions,
) -> Result<(Image, Lease), PullError> {
    let lease = store.lease()?;
    let job = Job::new(store, &lease, name, options)?;
    let reference = recorded_reference(name);
    let before = store.image_named(name)?;
    let shown = name.tag.as_ref().map_or_else(|| name.reference().to_string(), |t| t.to_string());
    job.progress.say(&format!("{shown}: Pulling from {}", name.repository));
    let runtime = runtime()?;
    let resolved = runtime.block_on(job.resolve())?;
    job.run_layers(&runtime, &resolved.layers, false)?;
    let image = record(store, &reference, &resolved)?;
    let news = match before {
        Some(before) if before.manifest == image.manifest && before.reference == reference => {
            "Image is up to date for"
        }
        _ => "Downloaded newer image for",
    };
    job.progress.say(&format!("Digest: {}", image.digest));
    job.progress
        .say(&format!("Status: {news} {}", crate::images::familiar_name(&name.to_string())));
    drop(job);
    Ok((image, lease))
}

/// See [`super::tags`].
pub(crate) fn tags(name: &ImageRef, options: &PullOptions) -> Result<Vec<String>, PullError> {
    let client = Client::new(name, options)?;
    runtime()?.block_on(client.all_tags())
}

/// See [`super::log_in`].
pub(crate) fn log_in(
    registry: &str,
    username: &str,
    password: &str,
    options: &PullOptions,
) -> Result<(Login, Place), PullError> {
    // Of a registry alone; the repository is asked for nothing.
    let image: ImageRef = format!("{registry}/login")
        .parse()
        .map_err(|source| PullError::Reference { text: registry.to_owned(), source })?;
    let client = Client::new(&ImageRef { registry: registry.to_owned(), ..image }, options)?;
    let secret = Secret::Password(password.to_owned());
    let credentials =
        Credentials { username: username.to_owned(), secret: secret.clone(), place: Place::Flag };
    let login = runtime()?.block_on(client.log_in(credentials))?;
    let place = Keyring::new(&options.credentials).keep(registry, username, &secret)?;
    Ok((login, place))
}

fn runtime() -> Result<tokio::runtime::Runtime, PullError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|source| {
        PullError::Store(crate::images::StoreError::Io { what: "start the network".into(), source })
    })
}

impl<'a> Job<'a> {
    pub(crate) fn new(
        store: &'a Store,
        lease: &'a Lease,
        name: &ImageRef,
        options: &'a PullOptions,
    ) -> Result<Self, PullError> {
        let client = Client::new(name, options)?;
        let progress = Progress::new(options.progress);
        Ok(Self { store, lease, client, options, progress })
    }

    async fn resolve(&self) -> Result<Resolved, PullError> {
        let resolver = Resolver {
            store: self.store,
            lease: self.lease,
            client: &self.client,
            asked: self.options.platform.as_ref(),
        };
        resolver.resolve().await
    }

    /// Brings all of these layers into the store.
    pub(crate) fn layers(&self, layers: &[LayerToFetch], offline: bool) -> Result<(), PullError> {
        self.run_layers(&runtime()?, layers, offline)
    }

    fn run_layers(
        &self,
        runtime: &tokio::runtime::Runtime,
        layers: &[LayerToFetch],
        offline: bool,
    ) -> Result<(), PullError> {
        self.check_space(layers)?;
        self.progress.expect(layers.iter().map(|layer| (layer.blob.clone(), layer.size)));
        let mut seen = HashSet::new();
        let mut wanted: Vec<&LayerToFetch> =
            layers.iter().filter(|layer| seen.insert(&layer.diff_id)).collect();
        // The largest takes longest, so it begins first.
        wanted.sort_by_key(|layer| std::cmp::Reverse(layer.size));
        let fetcher = Fetcher {
            store: self.store,
            lease: self.lease,
            client: &self.client,
            program: Path::new(OWN_PROGRAM),
            limits: Limits::from_environment(),
            progress: &self.progress,
            slots: Semaphore::new(LAYERS_AT_ONCE),
            offline,
        };
        let fetched =
            runtime.block_on(try_join_all(wanted.into_iter().map(|layer| fetcher.fetch(layer))));
        self.progress.finish();
        let unpacked = fetched?;
        if unpacked.contains(&true) {
            self.store.make_durable_later(Path::new(OWN_PROGRAM));
        }
        Ok(())
    }

    /// A disk that cannot even hold what is to be fetched is known before the first byte.
    fn check_space(&self, layers: &[LayerToFetch]) -> Result<(), PullError> {
        let missing: u64 = layers
            .iter()
            .filter(|layer| self.store.layer(&layer.diff_id).is_err())
            // Compressed, and unpacked: never smaller but for what cannot be compressed.
            .map(|layer| if self.store.has_blob(&layer.blob) { layer.size } else { 2 * layer.size })
            .sum();
        match self.store.free_bytes() {
            Some(free) if free < missing => Err(PullError::NoSpace {
                image: self.client.image().to_string(),
                needed: format!("at least {}", human_bytes(missing - free)),
                free: human_bytes(free),
                root: self.store.root().to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

/// Writes the record; an image that had the name keeps one by its digest.
fn record(store: &Store, reference: &str, resolved: &Resolved) -> Result<Image, PullError> {
    let diff_ids: Vec<_> = resolved.layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let stack = store.stack(&diff_ids)?;
    let image = Image {
        reference: reference.to_owned(),
        digest: resolved.digest.clone(),
        manifest: resolved.manifest.clone(),
        config: resolved.config.clone(),
        platform: resolved.platform.clone(),
        pulled_at: Timestamp::now().to_rfc3339(),
        diff_ids,
        layers: stack.layers,
        fixups: stack.fixups,
        root: stack.root,
        size: stack.size,
    };
    let _hold = store.hold_shared()?;
    store.name_image(&image)?;
    Ok(image)
}

/// An image whose layers were made again: the same, with its fixups made again too.
pub(crate) fn finish(store: &Store, image: Image) -> Result<Image, PullError> {
    let stack = store.stack(&image.diff_ids)?;
    Ok(Image { layers: stack.layers, fixups: stack.fixups, root: stack.root, ..image })
}
