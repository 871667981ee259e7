//! The registry's image: one layer, one configuration per platform, one file that is an OCI layout
//! and what `docker load` reads at the same time.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};

use super::build::{Platform, epoch};
use crate::image::{OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, descriptor, sha256};

/// The name in front of the tag: nobody else's, since no registry is called so.
pub const NAME: &str = "localhost/roadstead/registry";

/// The workspace's version, the image's tag.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The user that the image brings along.
const OWN: u64 = 65532;

/// Authorities that the registry trusts as a client, from a crate that is locked: the bundles of
/// two hosts differ.
fn authorities() -> Vec<u8> {
    let mut text = String::new();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        text += "-----BEGIN CERTIFICATE-----\n";
        let encoded = STANDARD.encode(certificate);
        for line in encoded.as_bytes().chunks(64) {
            text += &String::from_utf8_lossy(line);
            text.push('\n');
        }
        text += "-----END CERTIFICATE-----\n";
    }
    text.into_bytes()
}

/// The configuration that the image brings along. With `version`, distribution's defaults hold:
/// whoever only changes the image's name finds what was refused before refused still.
const CONFIG: &str = include_str!("config.yml");

const PASSWD: &str = "root:x:0:0:root:/root:/sbin/nologin\n\
    registry:x:65532:65532:registry:/var/lib/registry:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nregistry:x:65532:\n";

/// An image as a file, and the digest by which a registry knows it.
#[derive(Debug)]
pub struct Image {
    pub path: PathBuf,
    /// Of the index.
    pub digest: String,
    /// `NAME:VERSION`, as `docker load` says it.
    pub reference: String,
}

/// Writes `directory/registry-VERSION.tar` with these binaries.
///
/// # Errors
/// When a binary cannot be read or the file not be written.
pub fn write(directory: &Path, binaries: &[(Platform, PathBuf)]) -> Result<Image> {
    ensure!(!binaries.is_empty(), "an image of no platform");
    let epoch = epoch()?;
    let reference = format!("{NAME}:{VERSION}");
    let mut blobs = BTreeMap::new();
    let mut manifests = Vec::new();
    let mut docker = Vec::new();
    for (platform, binary) in binaries {
        let binary = fs::read(binary).with_context(|| binary.display().to_string())?;
        let parts = platform_parts(*platform, &binary, epoch)?;
        if docker.is_empty() {
            docker.push(json!({
                "Config": blob_path(&sha256(&parts.config)),
                "RepoTags": [reference],
                "Layers": [blob_path(&sha256(&parts.layer))],
            }));
        }
        let mut entry = descriptor(OCI_MANIFEST, &parts.manifest);
        entry["platform"] = json!({"architecture": platform.architecture(), "os": "linux"});
        manifests.push(entry);
        for blob in [parts.config, parts.layer, parts.manifest] {
            blobs.insert(blob_path(&sha256(&blob)), blob);
        }
    }
    manifests.sort_by_key(|entry| entry["platform"]["architecture"].to_string());
    let index = pretty(&json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": manifests,
        "annotations": annotations(epoch)?,
    }))?;
    let digest = sha256(&index);
    let mut entry = descriptor(OCI_INDEX, &index);
    entry["annotations"] = json!({
        "io.containerd.image.name": reference,
        "org.opencontainers.image.ref.name": VERSION,
    });
    let layout = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]});
    blobs.insert(blob_path(&digest), index);
    blobs.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
    blobs.insert("index.json".to_owned(), pretty(&layout)?);
    blobs.insert("manifest.json".to_owned(), pretty(&Value::Array(docker))?);
    let path = directory.join(format!("registry-{VERSION}.tar"));
    fs::create_dir_all(directory)?;
    let blobs: Vec<_> = blobs.into_iter().collect();
    fs::write(&path, archive(&blobs, epoch)?).with_context(|| path.display().to_string())?;
    Ok(Image { path, digest, reference })
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn pretty(value: &Value) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec_pretty(value)?)
}

struct Parts {
    config: Vec<u8>,
    layer: Vec<u8>,
    manifest: Vec<u8>,
}

fn platform_parts(platform: Platform, binary: &[u8], epoch: u64) -> Result<Parts> {
    let tar = layer(binary, epoch)?;
    let layer = gzip(&tar)?;
    let config = pretty(&configuration(platform, &sha256(&tar), epoch)?)?;
    let manifest = pretty(&json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, &config),
        "layers": [descriptor(OCI_LAYER_GZIP, &layer)],
        "annotations": annotations(epoch)?,
    }))?;
    Ok(Parts { config, layer, manifest })
}

fn annotations(epoch: u64) -> Result<Value> {
    Ok(json!({
        "org.opencontainers.image.created": rfc3339(epoch)?,
        "org.opencontainers.image.description": "A container image registry",
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.title": "Roadstead registry",
        "org.opencontainers.image.version": VERSION,
    }))
}

/// No user: see `registry/src/privileges.rs`.
fn configuration(platform: Platform, diff_id: &str, epoch: u64) -> Result<Value> {
    Ok(json!({
        "architecture": platform.architecture(),
        "os": "linux",
        "created": rfc3339(epoch)?,
        "config": {
            "Entrypoint": ["/bin/registry"],
            "Cmd": ["serve", "/etc/distribution/config.yml"],
            "Env": ["PATH=/bin", "ROADSTEAD_DROP_ROOT=1"],
            "WorkingDir": "/var/lib/registry",
            "ExposedPorts": {"5000/tcp": {}},
            "Volumes": {"/var/lib/registry": {}},
            "Labels": annotations(epoch)?,
            // Docker's, not OCI's; others pass over it.
            "Healthcheck": {
                "Test": ["CMD", "/bin/registry", "healthcheck"],
                "Interval": 10_000_000_000_u64,
                "Timeout": 6_000_000_000_u64,
                "StartPeriod": 60_000_000_000_u64,
                "Retries": 3,
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": rfc3339(epoch)?, "created_by": "make image"}],
    }))
}

enum Entry<'a> {
    Directory { mode: u32, owner: u64 },
    File { mode: u32, bytes: &'a [u8] },
    Link(&'a str),
}

/// The file system, sorted by path.
fn layer(binary: &[u8], epoch: u64) -> Result<Vec<u8>> {
    let authorities = authorities();
    let directory = |mode, owner| Entry::Directory { mode, owner };
    let file = |bytes| Entry::File { mode: 0o644, bytes };
    let mut tar = tar::Builder::new(Vec::new());
    for (path, entry) in [
        ("bin", directory(0o755, 0)),
        ("bin/registry", Entry::File { mode: 0o755, bytes: binary }),
        ("etc", directory(0o755, 0)),
        ("etc/distribution", directory(0o755, 0)),
        ("etc/distribution/config.yml", file(CONFIG.as_bytes())),
        ("etc/docker", directory(0o755, 0)),
        // Where older images of distribution look: a file or a directory that is mounted there
        // lands in the other one.
        ("etc/docker/registry", Entry::Link("../distribution")),
        ("etc/group", file(GROUP.as_bytes())),
        ("etc/passwd", file(PASSWD.as_bytes())),
        ("etc/ssl", directory(0o755, 0)),
        ("etc/ssl/certs", directory(0o755, 0)),
        ("etc/ssl/certs/ca-certificates.crt", file(&authorities)),
        ("tmp", directory(0o1777, 0)),
        ("var", directory(0o755, 0)),
        ("var/lib", directory(0o755, 0)),
        ("var/lib/registry", directory(0o700, OWN)),
    ] {
        append(&mut tar, path, entry, epoch)?;
    }
    Ok(tar.into_inner()?)
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, entry: Entry<'_>, epoch: u64) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_mtime(epoch);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    match entry {
        Entry::Directory { mode, owner } => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(mode);
            header.set_uid(owner);
            header.set_gid(owner);
            tar.append_data(&mut header, format!("{path}/"), std::io::empty())?;
        }
        Entry::File { mode, bytes } => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(mode);
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, path, bytes)?;
        }
        Entry::Link(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            tar.append_link(&mut header, path, target)?;
        }
    }
    Ok(())
}

/// Without name and time.
pub(super) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    gzip.write_all(bytes)?;
    Ok(gzip.finish()?)
}

/// An archive of files alone, in this order.
pub(super) fn archive<'a>(
    files: impl IntoIterator<Item = &'a (String, Vec<u8>)>,
    epoch: u64,
) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        append(&mut tar, path, Entry::File { mode: 0o644, bytes }, epoch)?;
    }
    Ok(tar.into_inner()?)
}

fn rfc3339(epoch: u64) -> Result<String> {
    let time = time::OffsetDateTime::from_unix_timestamp(i64::try_from(epoch)?)?;
    Ok(time.format(&time::format_description::well_known::Rfc3339)?)
}
