//! Images made by hand, and pushed by the plainest client there is.

use std::io::Write as _;

use anyhow::Context as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha512};

use crate::http::Response;
use crate::registry::Registry;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// `sha256:<hex>` of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// `sha512:<hex>` of some bytes.
pub fn sha512(bytes: &[u8]) -> String {
    format!("sha512:{}", hex(&Sha512::digest(bytes)))
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A descriptor (image-spec, descriptor.md) of some bytes.
pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": sha256(bytes), "size": bytes.len()})
}

/// Bytes that look random and are the same for the same seed; splitmix64, which is enough for
/// bytes that must merely not compress and not repeat.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next_u64().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A reproducible source of choices (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next_u64() % bound as u64) as usize
    }
}

impl std::io::Read for Random {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        for piece in buffer.chunks_mut(8) {
            let bytes = self.next_u64().to_le_bytes();
            piece.copy_from_slice(&bytes[..piece.len()]);
        }
        Ok(buffer.len())
    }
}

/// A tar of one file.
///
/// # Errors
/// Never for contents that fit into memory.
pub fn layer_tar(path: &str, contents: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(contents.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    builder.append_data(&mut header, path, contents)?;
    Ok(builder.into_inner()?)
}

/// The gzip of some bytes.
///
/// # Errors
/// Never for bytes that fit into memory.
pub fn gzip(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    gzip_at(flate2::Compression::fast(), bytes)
}

fn gzip_at(level: flate2::Compression, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// An image: a manifest and the blobs that it names.
#[derive(Clone, Debug)]
pub struct Image {
    pub media_type: String,
    pub manifest: Vec<u8>,
    pub blobs: Vec<Vec<u8>>,
}

impl Image {
    pub fn digest(&self) -> String {
        sha256(&self.manifest)
    }

    pub fn descriptor(&self) -> Value {
        descriptor(&self.media_type, &self.manifest)
    }
}

/// A valid OCI image for linux/amd64 whose layers hold one file each.
///
/// # Errors
/// Never for contents that fit into memory.
pub fn oci_image(files: &[(&str, &[u8])]) -> anyhow::Result<Image> {
    image(files, OCI_MANIFEST, OCI_CONFIG, OCI_LAYER_GZIP)
}

/// The same as Docker's schema 2.
///
/// # Errors
/// Never for contents that fit into memory.
pub fn docker_image(files: &[(&str, &[u8])]) -> anyhow::Result<Image> {
    image(files, DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER)
}

fn image(
    files: &[(&str, &[u8])],
    manifest_type: &str,
    config_type: &str,
    layer_type: &str,
) -> anyhow::Result<Image> {
    let mut diff_ids = Vec::new();
    let mut layers = Vec::new();
    let mut blobs = Vec::new();
    for (path, contents) in files {
        let tar = layer_tar(path, contents)?;
        let blob = gzip(&tar)?;
        diff_ids.push(sha256(&tar));
        layers.push(descriptor(layer_type, &blob));
        blobs.push(blob);
    }
    let config = serde_json::to_vec(&json!({
        "created": "2024-01-01T00:00:00Z",
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/true"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": files.iter().map(|(path, _)| json!({"created_by": path})).collect::<Vec<_>>(),
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": descriptor(config_type, &config),
        "layers": layers,
    }))?;
    blobs.push(config);
    Ok(Image { media_type: manifest_type.to_owned(), manifest, blobs })
}

/// An OCI image for this machine's architecture of any layers, given as tar archives from the
/// lowest up, compressed as the tools of the trade do by default; `config` is the object of that
/// name in the image configuration.
///
/// # Errors
/// Never for contents that fit into memory.
pub fn image_of_tars(tars: &[Vec<u8>], config: &Value) -> anyhow::Result<Image> {
    let mut blobs = Vec::new();
    for tar in tars {
        blobs.push(gzip_at(flate2::Compression::default(), tar)?);
    }
    let layers: Vec<Value> = blobs.iter().map(|blob| descriptor(OCI_LAYER_GZIP, blob)).collect();
    let config = serde_json::to_vec(&json!({
        "architecture": architecture(),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": tars.iter().map(|tar| sha256(tar)).collect::<Vec<_>>()},
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, &config),
        "layers": layers,
    }))?;
    blobs.push(config);
    Ok(Image { media_type: OCI_MANIFEST.to_owned(), manifest, blobs })
}

/// An image of one static program that is a shell and its tools.
///
/// # Errors
/// If busybox-static is not installed (`make install`).
pub fn busybox() -> anyhow::Result<Image> {
    let program = std::fs::read("/bin/busybox").context("busybox-static is not installed")?;
    let listed = std::process::Command::new("/bin/busybox").arg("--list").output()?.stdout;
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind, mode, link: Option<&str>, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        match link {
            Some(target) => builder.append_link(&mut header, name, target),
            None => builder.append_data(&mut header, name, bytes),
        }
    };
    for (directory, mode) in [("bin/", 0o755), ("etc/", 0o755), ("root/", 0o700), ("tmp/", 0o1777)]
    {
        add(directory, tar::EntryType::Directory, mode, None, b"")?;
    }
    add("etc/passwd", tar::EntryType::Regular, 0o644, None, b"root:x:0:0::/root:/bin/sh\n")?;
    add("bin/busybox", tar::EntryType::Regular, 0o755, None, &program)?;
    for tool in String::from_utf8_lossy(&listed).lines().filter(|tool| *tool != "busybox") {
        add(&format!("bin/{tool}"), tar::EntryType::Symlink, 0o777, Some("busybox"), b"")?;
    }
    let config = json!({"Env": ["PATH=/bin"], "Cmd": ["sh"]});
    image_of_tars(&[builder.into_inner()?], &config)
}

/// The machine's architecture in the words of an image's configuration (Go's GOARCH).
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Pushes a blob in one request.
///
/// # Errors
/// When the answer is not 201.
pub fn push_blob(registry: &Registry, repository: &str, bytes: &[u8]) -> anyhow::Result<String> {
    let digest = sha256(bytes);
    let target = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
    let answer = registry.send("POST", &target, "application/octet-stream", bytes)?;
    if answer.status != 202 {
        answer.expect(201)?;
        return Ok(digest);
    }
    // A registry may refuse the short form by opening an upload (distribution-spec, end-4b).
    finish_upload(registry, answer.need("location")?, &digest, bytes)?;
    Ok(digest)
}

/// Sends `bytes` and closes an upload.
///
/// # Errors
/// When the answer is not 201.
pub fn finish_upload(
    registry: &Registry,
    location: &str,
    digest: &str,
    bytes: &[u8],
) -> anyhow::Result<Response> {
    let target = with_query(location, &format!("digest={digest}"));
    registry.send("PUT", &target, "application/octet-stream", bytes)?.expect(201)
}

/// Path and query of a Location, with one more parameter.
pub fn with_query(location: &str, parameter: &str) -> String {
    let path = path_of(location);
    let joint = if path.contains('?') { '&' } else { '?' };
    format!("{path}{joint}{parameter}")
}

/// Path and query of a Location, which may be absolute or relative to the host.
pub fn path_of(location: &str) -> &str {
    match location.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => location,
    }
}

/// Opens an upload; gives its Location.
///
/// # Errors
/// When the answer is not 202 with a Location.
pub fn open_upload(registry: &Registry, repository: &str) -> anyhow::Result<String> {
    let answer = registry.request("POST", &format!("/v2/{repository}/blobs/uploads/"))?;
    Ok(path_of(answer.expect(202)?.need("location")?).to_owned())
}

/// Puts a manifest under a tag or digest.
///
/// # Errors
/// When the answer is not 201.
pub fn push_manifest(
    registry: &Registry,
    repository: &str,
    reference: &str,
    media_type: &str,
    bytes: &[u8],
) -> anyhow::Result<Response> {
    let target = format!("/v2/{repository}/manifests/{reference}");
    registry.send("PUT", &target, media_type, bytes)?.expect(201)
}

/// Pushes an image whole.
///
/// # Errors
/// When any answer is not 201.
pub fn push_image(
    registry: &Registry,
    repository: &str,
    reference: &str,
    image: &Image,
) -> anyhow::Result<()> {
    for blob in &image.blobs {
        push_blob(registry, repository, blob)?;
    }
    push_manifest(registry, repository, reference, &image.media_type, &image.manifest)
        .with_context(|| format!("push {repository}:{reference}"))?;
    Ok(())
}
