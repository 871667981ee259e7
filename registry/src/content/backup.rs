//! A copy of the whole store that is consistent though the server goes on.
//!
//! Facts first, then the bytes they name, with collection held: whatever a fact in the copy names
//! is still there when its bytes are copied. Bytes are write-once by digest, so a second backup
//! into the same directory copies only what is new.
//! ```text
//! hold collection | facts -> registry.db.new | missing blobs -> blobs/… | rename over registry.db | drop what is no longer named
//! ```
//! The earlier backup stays whole until the rename.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shared::{Digest, Hasher};

use super::collect::Collector;
use super::{Content, ContentError, blocking};
use crate::records::sqlite::DATABASE;
use crate::records::{BlobRecord, BlobState};
use crate::store::{Disk, StoreError};

/// Blobs looked up at a time.
const PAGE: usize = 200;

/// Bytes copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// Where the facts are put together before they replace the earlier ones.
const STAGING: &str = "staging";

/// What a backup or restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    pub blobs: u64,
    pub bytes: u64,
    /// Blobs that were there already.
    pub kept: u64,
    /// Blobs that are rotten or missing in the source: not in the copy.
    pub rotten: Vec<Digest>,
}

/// Copies everything into `target`, durably.
///
/// # Errors
/// When records, disk or target fail; an earlier backup in `target` stays whole.
pub async fn backup(
    content: &Content,
    collector: &Collector,
    target: &Path,
    mut progress: impl FnMut(&Copied),
) -> Result<Copied, ContentError> {
    let _held = collector.hold().await;
    let staging = target.join(STAGING);
    let prepare = staging.clone();
    blocking(move || {
        match fs::remove_dir_all(&prepare) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        fs::create_dir_all(&prepare)
    })
    .await?
    .map_err(|source| failed("create the backup's directory", source))?;
    content.records.backup(&staging).await?;

    let mut copied = Copied::default();
    let mut names = HashSet::new();
    let mut after: Option<Digest> = None;
    loop {
        let page = content.records.list_blobs(after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.digest.clone());
        for blob in page {
            match blob.state {
                BlobState::Live => {}
                BlobState::Removing => continue,
                BlobState::Quarantined => {
                    if blob.links > 0 {
                        copied.rotten.push(blob.digest);
                    }
                    continue;
                }
            }
            names.insert(blob.digest.clone());
            copy_one(content, blob, target, &mut copied).await?;
            progress(&copied);
        }
    }
    let root = target.to_owned();
    blocking(move || finish(&root, &names))
        .await?
        .map_err(|source| failed("finish the backup", source))?;
    Ok(copied)
}

async fn copy_one(
    content: &Content,
    blob: BlobRecord,
    target: &Path,
    copied: &mut Copied,
) -> Result<(), ContentError> {
    let (disk, root, name) = (Arc::clone(&content.disk), target.to_owned(), blob.digest.clone());
    let size = blob.size;
    let result = blocking(move || copy_blob(&disk.blob_path(&name), &root, &name, size)).await?;
    match result.map_err(|source| failed("copy a blob", source))? {
        Outcome::Copied => {
            copied.blobs += 1;
            copied.bytes += size;
        }
        Outcome::Kept => copied.kept += 1,
        Outcome::Rotten => {
            // Deleted by a client just now is not rotten.
            let known = content.records.find_blobs(std::slice::from_ref(&blob.digest)).await?;
            if known.iter().flatten().any(|known| known.links > 0) {
                copied.rotten.push(blob.digest);
            }
        }
    }
    Ok(())
}

enum Outcome {
    Copied,
    Kept,
    Rotten,
}

/// Where `digest` lies under `root`, in the store's own layout.
fn blob_path(root: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    root.join("blobs").join(digest.algorithm().as_str()).join(&hex[..2]).join(hex)
}

/// Copies one blob, checked and durable, unless the target has it with the right length.
fn copy_blob(source: &Path, root: &Path, digest: &Digest, size: u64) -> io::Result<Outcome> {
    let path = blob_path(root, digest);
    if fs::metadata(&path).is_ok_and(|meta| meta.len() == size) {
        return Ok(Outcome::Kept);
    }
    let from = match File::open(source) {
        Ok(from) => from,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::Rotten),
        Err(error) => return Err(error),
    };
    let directory = path.parent().unwrap_or(root);
    fs::create_dir_all(directory)?;
    let partial = path.with_extension("partial");
    let mut to = File::create(&partial)?;
    let mut hasher = Hasher::new(digest.algorithm());
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = 0;
    loop {
        let got = from.read_at(&mut buffer, at)?;
        if got == 0 {
            break;
        }
        hasher.update(&buffer[..got]);
        to.write_all(&buffer[..got])?;
        at += got as u64;
    }
    if hasher.finish() != *digest {
        fs::remove_file(&partial)?;
        return Ok(Outcome::Rotten);
    }
    to.sync_all()?;
    fs::rename(&partial, &path)?;
    File::open(directory)?.sync_all()?;
    Ok(Outcome::Copied)
}

/// Puts the new facts in the place of the earlier ones, then drops blobs that they do not name.
fn finish(root: &Path, names: &HashSet<Digest>) -> io::Result<()> {
    sync_tree(root)?;
    fs::rename(root.join(STAGING).join(DATABASE), root.join(DATABASE))?;
    fs::remove_dir_all(root.join(STAGING))?;
    File::open(root)?.sync_all()?;
    for algorithm in list(&root.join("blobs"))? {
        for shard in list(&algorithm)? {
            for file in list(&shard)? {
                let name =
                    |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
                let text = format!(
                    "{}:{}",
                    name(&algorithm).unwrap_or_default(),
                    name(&file).unwrap_or_default()
                );
                if !text.parse().is_ok_and(|digest| names.contains(&digest)) {
                    fs::remove_file(&file)?;
                }
            }
        }
    }
    Ok(())
}

/// Makes the directories above the shards durable; the shards were synced with each blob.
fn sync_tree(root: &Path) -> io::Result<()> {
    for algorithm in list(&root.join("blobs"))? {
        File::open(&algorithm)?.sync_all()?;
    }
    if root.join("blobs").exists() {
        File::open(root.join("blobs"))?.sync_all()?;
    }
    File::open(root)?.sync_all()
}

fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Why a backup was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("{} is not a backup: it has no {DATABASE}", .0.display())]
    NotABackup(PathBuf),
    #[error("{} holds a registry already; restore into an empty directory", .0.display())]
    NotEmpty(PathBuf),
    #[error("the backup could not be copied: {0}")]
    Io(#[from] io::Error),
}

/// Copies a backup into the empty store that `disk` holds: bytes first, then the facts that name
/// them, all of it durable. What is rotten in the backup is left out.
///
/// # Errors
/// See [`RestoreError`]. The facts come last: a store that was restored half way is still empty.
pub fn restore(
    source: &Path,
    disk: &Disk,
    mut progress: impl FnMut(&Copied),
) -> Result<Copied, RestoreError> {
    let (from, to) = (source.join(DATABASE), disk.root().join(DATABASE));
    if !from.exists() {
        return Err(RestoreError::NotABackup(source.to_owned()));
    }
    if to.exists() {
        return Err(RestoreError::NotEmpty(disk.root().to_owned()));
    }
    let mut copied = Copied::default();
    for algorithm in list(&source.join("blobs"))? {
        for shard in list(&algorithm)? {
            for file in list(&shard)? {
                let Some(digest) = digest_of(&algorithm, &file) else { continue };
                let size = fs::metadata(&file)?.len();
                match copy_blob(&file, disk.root(), &digest, size)? {
                    Outcome::Copied => {
                        copied.blobs += 1;
                        copied.bytes += size;
                    }
                    Outcome::Kept => copied.kept += 1,
                    Outcome::Rotten => copied.rotten.push(digest),
                }
                progress(&copied);
            }
        }
    }
    sync_tree(disk.root())?;
    let partial = disk.root().join("registry.db.partial");
    fs::copy(&from, &partial)?;
    File::open(&partial)?.sync_all()?;
    fs::rename(&partial, &to)?;
    File::open(disk.root())?.sync_all()?;
    Ok(copied)
}

fn digest_of(algorithm: &Path, file: &Path) -> Option<Digest> {
    let (algorithm, hex) = (algorithm.file_name()?.to_str()?, file.file_name()?.to_str()?);
    format!("{algorithm}:{hex}").parse().ok()
}

fn failed(what: &'static str, source: io::Error) -> ContentError {
    StoreError::Io { what, source }.into()
}
