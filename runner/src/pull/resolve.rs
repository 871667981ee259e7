//! From a reference to the manifest of one platform, checked.

use reqwest::Method;
use reqwest::header::HeaderMap;
use shared::manifest::{Descriptor, Manifest, Platform};
use shared::{DiffId, Digest, ImageRef, media_type};

use super::PullError;
use super::client::{Client, MANIFEST_BYTES_MAX, accepts_manifests};
use crate::images::{Lease, Store};
use crate::spec::ImageConfig;

/// An index in an index is legal and pointless; deeper than this nobody nests in earnest.
const INDEX_DEPTH_MAX: usize = 3;
const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// Docker's limit is 127 for what it builds; overlayfs takes 500.
const LAYERS_MAX: usize = 500;

/// An image as the registry describes it; everything but its layers is in the store.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// What the reference means at the registry: an index, or the manifest itself.
    pub(crate) digest: Digest,
    pub(crate) manifest: Digest,
    pub(crate) config: Digest,
    pub(crate) platform: Platform,
    pub(crate) layers: Vec<LayerToFetch>,
}

#[derive(Clone, Debug)]
pub(crate) struct LayerToFetch {
    pub(crate) blob: Digest,
    /// Compressed bytes.
    pub(crate) size: u64,
    pub(crate) diff_id: DiffId,
}

pub(crate) struct Resolver<'a> {
    pub(crate) store: &'a Store,
    pub(crate) lease: &'a Lease,
    pub(crate) client: &'a Client,
    /// `--platform`
    pub(crate) asked: Option<&'a Platform>,
}

impl Resolver<'_> {
    pub(crate) async fn resolve(&self) -> Result<Resolved, PullError> {
        let reference = self.client.image().reference();
        let (digest, mut bytes) = match &self.client.image().digest {
            Some(digest) => (digest.clone(), self.manifest(digest).await?),
            None => self.tagged(&reference.to_string()).await?,
        };
        let mut manifest_digest = digest.clone();
        for _ in 0..=INDEX_DEPTH_MAX {
            let manifest = self.parse(&bytes)?;
            if !manifest.is_index() {
                return self.image(digest, manifest_digest, manifest).await;
            }
            let chosen = self.choose(manifest.manifests.unwrap_or_default())?;
            manifest_digest = chosen.digest.clone();
            bytes = self.manifest(&chosen.digest).await?;
        }
        Err(self.unusable(format!("its indexes are nested more than {INDEX_DEPTH_MAX} deep")))
    }

    /// What a tag means now. Where the registry says which digest that is and the store has it,
    /// nothing more is fetched.
    async fn tagged(&self, tag: &str) -> Result<(Digest, Vec<u8>), PullError> {
        let path = format!("manifests/{tag}");
        let answer = self.client.send(Method::HEAD, &path, accepts_manifests()).await;
        let known = match &answer {
            Ok(response) => response
                .headers()
                .get("docker-content-digest")
                .and_then(|digest| digest.to_str().ok()?.parse::<Digest>().ok()),
            // A HEAD has no body to say which 404 it is; the GET has.
            Err(_) => None,
        };
        if let Some(digest) = known
            && let Some(bytes) = self.held(&digest)?
        {
            return Ok((digest, bytes));
        }
        let response = match self.client.send(Method::GET, &path, accepts_manifests()).await {
            Err(PullError::NotFound { image, name, code, .. }) => {
                let tags = self.client.tags().await;
                return Err(PullError::NotFound { image, name, code, tags });
            }
            other => other?,
        };
        let announced = response
            .headers()
            .get("docker-content-digest")
            .and_then(|digest| digest.to_str().ok()?.parse::<Digest>().ok());
        let bytes = self.client.read_whole(response, MANIFEST_BYTES_MAX).await?;
        let algorithm = announced.as_ref().map_or(shared::Algorithm::Sha256, Digest::algorithm);
        let digest = Digest::of(algorithm, &bytes);
        if let Some(announced) = announced.filter(|announced| *announced != digest) {
            return Err(self.corrupt(format!("manifest {announced}"), &digest));
        }
        self.keep(&digest, &bytes)?;
        Ok((digest, bytes))
    }

    /// A manifest by its digest, from the store or the registry.
    async fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, PullError> {
        if let Some(bytes) = self.held(digest)? {
            return Ok(bytes);
        }
        let path = format!("manifests/{digest}");
        let what = format!("manifest {digest}");
        self.fetch(digest, &path, accepts_manifests(), MANIFEST_BYTES_MAX, what).await
    }

    /// Fetches content of a known digest, and keeps it when it is right.
    async fn fetch(
        &self,
        digest: &Digest,
        path: &str,
        headers: HeaderMap,
        bytes_max: u64,
        what: String,
    ) -> Result<Vec<u8>, PullError> {
        let response = self.client.send(Method::GET, path, headers).await?;
        let bytes = self.client.read_whole(response, bytes_max).await?;
        let got = Digest::of(digest.algorithm(), &bytes);
        if got != *digest {
            return Err(self.corrupt(what, &got));
        }
        self.keep(digest, &bytes)?;
        Ok(bytes)
    }

    /// Content that the store has, once the lease names it. Rotten content counts as missing.
    fn held(&self, digest: &Digest) -> Result<Option<Vec<u8>>, PullError> {
        let _hold = self.store.hold_shared()?;
        self.lease.add_blob(digest)?;
        Ok(self.store.blob(digest).ok())
    }

    fn keep(&self, digest: &Digest, bytes: &[u8]) -> Result<(), PullError> {
        let _hold = self.store.hold_shared()?;
        self.lease.add_blob(digest)?;
        Ok(self.store.write_blob(digest, bytes)?)
    }

    fn parse(&self, bytes: &[u8]) -> Result<Manifest, PullError> {
        let manifest = Manifest::parse(bytes)
            .map_err(|error| self.unusable(format!("its manifest cannot be read: {error}")))?;
        if manifest.schema_version == Some(1) {
            return Err(self.unusable(
                "its manifest is of Docker's old schema 1; push it again with a current tool"
                    .into(),
            ));
        }
        // CVE-2021-41190: one text that two programs read as two things.
        let is_image = manifest.layers.is_some() || manifest.config.is_some();
        if is_image == manifest.manifests.is_some() || manifest.is_index() == is_image {
            return Err(self.unusable("its manifest is neither an image nor an index".into()));
        }
        Ok(manifest)
    }

    fn choose(&self, mut manifests: Vec<Descriptor>) -> Result<Descriptor, PullError> {
        let host = host_platform();
        let wanted = self.asked.unwrap_or(&host);
        // Attestations of BuildKit stand beside the images, for a platform "unknown".
        manifests.retain(|entry| {
            entry.platform.as_ref().is_none_or(|platform| platform.os != "unknown")
        });
        let ranked = manifests.iter().filter_map(|entry| {
            let platform = entry.platform.as_ref()?;
            Some((suits(platform, wanted)?, entry))
        });
        // The first of the best: the order of an index is its author's preference.
        if let Some((_, best)) = ranked.rev().max_by_key(|(rank, _)| *rank) {
            return Ok(best.clone());
        }
        if let [only] = &manifests[..]
            && only.platform.is_none()
        {
            return Ok(only.clone());
        }
        let mut available: Vec<String> = manifests
            .iter()
            .map(|entry| entry.platform.as_ref().map_or("an unnamed one".into(), platform_text))
            .collect();
        available.dedup();
        Err(PullError::NoPlatform {
            image: self.client.image().to_string(),
            wanted: platform_text(wanted),
            available,
        })
    }

    async fn image(
        &self,
        digest: Digest,
        manifest_digest: Digest,
        manifest: Manifest,
    ) -> Result<Resolved, PullError> {
        let missing = || self.unusable("its manifest names no configuration".into());
        let config = manifest.config.ok_or_else(missing)?;
        let layers = manifest.layers.unwrap_or_default();
        if layers.len() > LAYERS_MAX {
            return Err(self.unusable(format!("it has more than {LAYERS_MAX} layers")));
        }
        if config.size > CONFIG_BYTES_MAX {
            return Err(self.unusable("its configuration is too large".into()));
        }
        let bytes = match self.held(&config.digest)? {
            Some(bytes) => bytes,
            None => {
                let path = format!("blobs/{}", config.digest);
                let what = format!("configuration {}", config.digest);
                let headers = HeaderMap::new();
                self.fetch(&config.digest, &path, headers, CONFIG_BYTES_MAX, what).await?
            }
        };
        if bytes.len() as u64 != config.size {
            return Err(self.wrong_size(&config, bytes.len() as u64));
        }
        let (parsed, _) = ImageConfig::read(&bytes)
            .map_err(|error| self.unusable(format!("its configuration cannot be read: {error}")))?;
        let platform = parsed.platform();
        let kind = manifest.artifact_type.unwrap_or(config.media_type);
        let diff_ids = parsed.rootfs.map(|rootfs| rootfs.diff_ids).ok_or_else(|| {
            self.unusable(format!("it is an artifact of type {kind}, and has no root filesystem"))
        })?;
        // Before its layers: those of Windows are on no registry, which would be said instead.
        let platform = self.platform(platform)?;
        Ok(Resolved {
            layers: self.layers(layers, diff_ids)?,
            digest,
            manifest: manifest_digest,
            config: config.digest,
            platform,
        })
    }

    fn layers(
        &self,
        layers: Vec<Descriptor>,
        diff_ids: Vec<DiffId>,
    ) -> Result<Vec<LayerToFetch>, PullError> {
        if layers.len() != diff_ids.len() {
            return Err(self.unusable(format!(
                "its manifest has {} layers and its configuration {}",
                layers.len(),
                diff_ids.len()
            )));
        }
        let pairs = layers.into_iter().zip(diff_ids);
        pairs
            .map(|(layer, diff_id)| {
                if media_type::is_nondistributable(&layer.media_type) {
                    let image = self.client.image().to_string();
                    return Err(PullError::Foreign { image, layer: layer.digest });
                }
                Ok(LayerToFetch { blob: layer.digest, size: layer.size, diff_id })
            })
            .collect()
    }

    /// An image without an index says in its configuration what it runs on.
    fn platform(&self, platform: Platform) -> Result<Platform, PullError> {
        if !platform.os.is_empty() && platform.os != "linux" {
            let image = self.client.image().to_string();
            return Err(PullError::System { image, platform: platform_text(&platform) });
        }
        match self.asked {
            Some(wanted) if !platform.os.is_empty() && suits(&platform, wanted).is_none() => {
                Err(PullError::NoPlatform {
                    image: self.client.image().to_string(),
                    wanted: platform_text(wanted),
                    available: vec![platform_text(&platform)],
                })
            }
            _ => Ok(platform),
        }
    }

    fn unusable(&self, why: String) -> PullError {
        PullError::Manifest { image: self.client.image().to_string(), why }
    }

    fn corrupt(&self, what: String, got: &Digest) -> PullError {
        let image = self.client.image().to_string();
        PullError::Corrupt { image, what, got: got.to_string() }
    }

    fn wrong_size(&self, descriptor: &Descriptor, got: u64) -> PullError {
        PullError::Corrupt {
            image: self.client.image().to_string(),
            what: format!("{} of {} bytes", descriptor.digest, descriptor.size),
            got: format!("{got} bytes"),
        }
    }
}

/// In words that an image was built for another kind of processor, where nobody asked for one.
pub fn foreign_platform(image: &crate::images::Image) -> Option<String> {
    let (has, host) = (&image.platform, host_platform());
    if has.architecture.is_empty() || suits(has, &host).is_some() {
        return None;
    }
    let (has, host) = (platform_text(has), platform_text(&host));
    Some(format!("the image is for {has}, and this machine is {host}"))
}

/// What this machine runs.
pub(super) fn host_platform() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    };
    Platform { architecture: architecture.into(), os: "linux".into(), ..Platform::default() }
}

/// `--platform`: `linux/arm64/v8`, or `arm64` alone, with the names that people use.
///
/// # Errors
/// Where it has more than three parts or an empty one.
pub fn parse_platform(text: &str) -> Result<Platform, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let bad = || format!("--platform {text}: it has the form os/architecture[/variant]");
    if parts.iter().any(|part| part.is_empty()) {
        return Err(bad());
    }
    let (os, architecture, variant) = match parts[..] {
        [architecture] => ("linux", architecture, None),
        [os, architecture] => (os, architecture, None),
        [os, architecture, variant] => (os, architecture, Some(variant)),
        _ => return Err(bad()),
    };
    let (architecture, variant) = match architecture {
        "x86_64" | "x86-64" => ("amd64", variant),
        "aarch64" => ("arm64", variant),
        "armhf" => ("arm", variant.or(Some("v7"))),
        "armel" => ("arm", variant.or(Some("v6"))),
        "i386" => ("386", variant),
        other => (other, variant),
    };
    Ok(Platform {
        architecture: architecture.into(),
        os: os.into(),
        variant: variant.map(str::to_owned),
        ..Platform::default()
    })
}

/// How well an image for `has` runs on `wanted`; none where it does not. Larger is better.
pub(super) fn suits(has: &Platform, wanted: &Platform) -> Option<u32> {
    if has.os != wanted.os || has.architecture != wanted.architecture {
        return None;
    }
    let level = |platform: &Platform| match (&*platform.architecture, platform.variant.as_deref()) {
        ("arm", variant) => variant.unwrap_or("v7").trim_start_matches('v').parse().ok(),
        ("arm64", variant) => variant.unwrap_or("v8").trim_start_matches('v').parse().ok(),
        ("amd64", variant) => variant.unwrap_or("v1").trim_start_matches('v').parse().ok(),
        (_, variant) => Some(u32::from(variant.is_some())),
    };
    let (has, wanted) = (level(has)?, level(wanted)?);
    // A processor runs what was built for its elders.
    (has <= wanted).then_some(has + 1)
}

/// `linux/arm/v7`
pub fn platform_text(platform: &Platform) -> String {
    let mut text = format!("{}/{}", platform.os, platform.architecture);
    if let Some(variant) = &platform.variant {
        text.push('/');
        text.push_str(variant);
    }
    text
}

/// Whether a local image will do for what was asked.
pub(crate) fn is_wanted(image: &crate::images::Image, asked: Option<&Platform>) -> bool {
    asked.is_none_or(|wanted| {
        image.platform.os.is_empty() || suits(&image.platform, wanted).is_some()
    })
}

/// The reference under which an image is recorded.
pub(crate) fn recorded_reference(image: &ImageRef) -> String {
    match &image.digest {
        Some(_) => ImageRef { tag: None, ..image.clone() }.to_string(),
        None => image.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms() {
        let of = |text: &str| parse_platform(text).unwrap();
        assert_eq!(platform_text(&of("arm64")), "linux/arm64");
        assert_eq!(platform_text(&of("linux/armhf")), "linux/arm/v7");
        assert_eq!(platform_text(&of("linux/x86_64")), "linux/amd64");
        for text in ["", "/", "linux/", "a/b/c/d"] {
            assert!(parse_platform(text).is_err(), "{text}");
        }
        for (has, wanted, fits) in [
            ("linux/amd64", "linux/amd64", true),
            ("linux/arm64/v8", "linux/arm64", true),
            ("linux/arm/v6", "linux/arm/v7", true),
            ("linux/arm/v7", "linux/arm/v6", false),
            ("linux/amd64/v3", "linux/amd64", false),
            ("windows/amd64", "linux/amd64", false),
        ] {
            assert_eq!(suits(&of(has), &of(wanted)).is_some(), fits, "{has} on {wanted}");
        }
        assert!(
            suits(&of("linux/arm/v7"), &of("linux/arm/v7"))
                > suits(&of("linux/arm/v6"), &of("linux/arm/v7"))
        );
    }
}
