//! Images made in memory and pushed over plain HTTP, byte by byte the same for every client.

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::http::Request;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An OCI image of gzip layers, ready to be pushed.
#[derive(Clone, Debug)]
pub struct Image {
    pub layers: Vec<Vec<u8>>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

impl Image {
    /// Compresses layers, given as tar archives from the lowest up, and describes them; `config` is
    /// the image configuration's `config` object (image-spec, config.md).
    ///
    /// # Errors
    /// If compression fails.
    pub fn new(tars: &[Vec<u8>], config: &Value) -> Result<Self> {
        let layers = tars.iter().map(|tar| gzip(tar)).collect::<Result<Vec<_>>>()?;
        let diff_ids: Vec<String> = tars.iter().map(|tar| digest(tar)).collect();
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        }))?;
        let descriptors: Vec<Value> = layers.iter().map(|l| descriptor(LAYER_TYPE, l)).collect();
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(CONFIG_TYPE, &config),
            "layers": descriptors,
        }))?;
        Ok(Self { layers, config, manifest })
    }

    /// Pushes blobs, then the manifest under a tag; tells each request that mattered.
    ///
    /// # Errors
    /// If the registry refuses anything.
    pub fn push(
        &self,
        to: SocketAddr,
        repository: &str,
        tag: &str,
        tell: impl Fn(&str),
    ) -> Result<()> {
        for blob in self.layers.iter().chain([&self.config]) {
            push_blob(to, repository, blob)?;
            tell(&format!("PUT  /v2/{repository}/blobs/… {}  201 Created", short(blob)));
        }
        let target = format!("/v2/{repository}/manifests/{tag}");
        let request = Request::new("PUT", &target).header("Content-Type", MANIFEST_TYPE);
        request.bytes(&self.manifest).send(to)?.expect(201)?;
        tell(&format!("PUT  {target}  201 Created"));
        Ok(())
    }
}

/// One request after the session was opened (distribution-spec, "Pushing a blob monolithically").
fn push_blob(to: SocketAddr, repository: &str, blob: &[u8]) -> Result<()> {
    let opened =
        Request::new("POST", &format!("/v2/{repository}/blobs/uploads/")).send(to)?.expect(202)?;
    let location = opened.need("location")?;
    let path = match location.strip_prefix("http://") {
        Some(rest) => &rest[rest.find('/').context("a location without a path")?..],
        None => location,
    };
    let separator = if path.contains('?') { '&' } else { '?' };
    let target = format!("{path}{separator}digest={}", digest(blob));
    let request = Request::new("PUT", &target).header("Content-Type", "application/octet-stream");
    request.bytes(blob).send(to)?.expect(201).map(drop)
}

/// `sha256:` and 64 hex digits.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// A digest as people read it: twelve digits.
#[must_use]
pub fn short(bytes: &[u8]) -> String {
    digest(bytes).chars().take("sha256:".len() + 12).collect()
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}

/// The machine's architecture in the words of an image's configuration (Go's GOARCH).
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
