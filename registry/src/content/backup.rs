//! A copy of the whole store that is consistent though the server goes on.
//!
//! Facts first, then the bytes they name, with collection held: whatever a fact in the copy names
//! is still there when its bytes are copied. Bytes are write-once by digest, so a second backup
//! into the same directory copies only what is new.
//! ```text
//! hold collection | facts -> registry.db.new | missing blobs -> blobs/… | rename over registry.db | drop what is no longer named
//! ```
//! The earlier backup stays whole until the rename.
//!
//! Only a directory that is empty, or that a backup of the same registry has marked, is written to,
//! and only while nobody else holds its lock: not the store itself, not another one, not another
//! registry's backup. Bytes that lie there are read before they are relied on.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;
use shared::{Algorithm, Digest, Hasher};

use super::collect::Collector;
use super::{Content, ContentError};
use crate::failpoint::fail_point;
use crate::pool::{Died, blocking};
use crate::records::sqlite::{self, DATABASE};
use crate::records::{BlobRecord, BlobState, RecordsError};
use crate::store::StoreError;
use crate::store::disk::{Disk, open_regular};

/// Blobs looked up at a time.
const PAGE: usize = 200;

/// Bytes copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// Marks a directory that holds a backup; its second line says of whose records.
const MARKER: &str = "BACKUP";
const MARKER_HEAD: &str = "A backup made by `registry backup`; `registry restore` reads it.";

/// What may lie in a directory that no backup has marked yet: what a backup that was cut short, or
/// making a file system, leaves.
const NO_CONTENT: [&str; 3] = ["lock", STAGING, "lost+found"];

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

/// Why a backup was not made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(
        "{} is the registry's own directory, or one lies in the other: choose another one",
        .0.display()
    )]
    Own(PathBuf),
    #[error(
        "{} holds something that is no backup: choose an empty directory, or that of an earlier \
         backup",
        .0.display()
    )]
    Foreign(PathBuf),
    #[error(
        "{} holds the backup of another registry: choose another directory, or empty this one",
        .0.display()
    )]
    Another(PathBuf),
    #[error("{} is in use by another backup or registry", .0.display())]
    Busy(PathBuf),
    #[error("cannot {what} {}: {source}", .path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("only a registry on a disk can be copied so")]
    NoDisk,
    #[error("the copy of the records cannot be used: {0}")]
    Records(#[from] sqlite::OpenError),
    #[error(transparent)]
    Content(#[from] ContentError),
}

impl From<Died> for BackupError {
    fn from(died: Died) -> Self {
        Self::Content(died.into())
    }
}

impl From<RecordsError> for BackupError {
    fn from(error: RecordsError) -> Self {
        Self::Content(error.into())
    }
}

/// Makes a registry's directory of one that held a backup, durably: what is pushed from now on must
/// not be written over by the next backup. Blocks.
///
/// # Errors
/// When the mark cannot be removed.
pub fn adopt(root: &Path) -> io::Result<()> {
    match fs::remove_file(root.join(MARKER)) {
        Ok(()) => {
            tracing::warn!("this directory held a backup: it is a registry's own from now on");
            File::open(root)?.sync_all()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// A directory that may be written to, and its lock.
struct Target {
    path: PathBuf,
    _lock: File,
}

impl Target {
    /// Creates the directory if it is not there, for its owner alone, and looks whether it may be
    /// written to. `root` is the store's own. Blocks.
    fn open(root: &Path, path: &Path) -> Result<Self, BackupError> {
        let failed = |what| {
            let path = path.to_owned();
            move |source| BackupError::Io { what, path, source }
        };
        // Before anything is made: a directory in the store would be.
        let resolve = |path: &Path| resolve(path).map_err(failed("resolve"));
        let (inside, own) = (resolve(path)?, resolve(root)?);
        let nested = inside.starts_with(&own) || own.starts_with(&inside);
        if nested && !fail_point!("backup-own", off) {
            return Err(BackupError::Own(path.to_owned()));
        }
        private_directory(path).map_err(failed("create"))?;
        let lock = private().write(true).truncate(false).open(path.join("lock"));
        let lock = lock.map_err(failed("lock"))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) if fail_point!("backup-lock", off) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(BackupError::Busy(path.to_owned())),
            Err(errno) => return Err(failed("lock")(errno.into())),
        }
        if !path.join(MARKER).exists() && !fail_point!("backup-foreign", off) {
            for entry in list(path).map_err(failed("list"))? {
                let known = NO_CONTENT.iter().any(|name| entry.file_name() == Some(name.as_ref()));
                if !known {
                    // The lock is all that was made, and says nothing.
                    return Err(BackupError::Foreign(path.to_owned()));
                }
            }
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn staging(&self) -> PathBuf {
        self.path.join(STAGING)
    }

    /// Blocks.
    fn clear_staging(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.staging()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        private_directory(&self.staging())
    }

    /// Marks the directory as the backup of the records that lie in the staging directory; refuses
    /// when it is another registry's. Durable. Blocks.
    fn mark(&self) -> Result<(), BackupError> {
        let facts = self.staging().join(DATABASE);
        let failed = |source| BackupError::Io { what: "mark", path: self.path.clone(), source };
        let owner_only = fs::Permissions::from_mode(0o600);
        fs::set_permissions(&facts, owner_only).map_err(failed)?;
        let identity = sqlite::inspect(&facts)?;
        let text = format!("{MARKER_HEAD}\n{identity}\n");
        let marker = self.path.join(MARKER);
        match fs::read_to_string(&marker) {
            Ok(found) if found == text => return Ok(()),
            // An empty one is what a power cut leaves of the first backup.
            Ok(_) if fail_point!("backup-another", off) => {}
            Ok(found) if !found.is_empty() => return Err(BackupError::Another(self.path.clone())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let write = || {
            let mut file = private().write(true).truncate(true).open(&marker)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(failed)
    }
}

/// The path without links, of what need not be there yet.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(error);
            };
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(resolve(parent)?.join(name))
        }
        other => other,
    }
}

/// Images are no other local user's business. A directory that is there keeps its mode.
fn private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn private() -> fs::OpenOptions {
    let mut options = File::options();
    options.create(true).mode(0o600);
    options
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
) -> Result<Copied, BackupError> {
    let (disk, records) = content.upkeep.both().ok_or(BackupError::NoDisk)?;
    let _held = collector.hold().await;
    let (root, place) = (disk.root().to_owned(), target.to_owned());
    let target = Arc::new(blocking(move || Target::open(&root, &place)).await??);
    let own = Arc::clone(&target);
    blocking(move || own.clear_staging())
        .await?
        .map_err(|source| failed("create the backup's directory", source))?;
    records.backup(&target.staging()).await?;
    let own = Arc::clone(&target);
    blocking(move || own.mark()).await??;

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
            copy_one(content, disk, blob, target.path(), &mut copied).await?;
            progress(&copied);
        }
    }
    blocking(move || finish(target.path(), &names))
        .await?
        .map_err(|source| failed("finish the backup", source))?;
    Ok(copied)
}

async fn copy_one(
    content: &Content,
    disk: &Arc<Disk>,
    blob: BlobRecord,
    target: &Path,
    copied: &mut Copied,
) -> Result<(), ContentError> {
    let (disk, root, name) = (Arc::clone(disk), target.to_owned(), blob.digest.clone());
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

/// Copies one blob, checked and durable, unless the target has it whole.
fn copy_blob(source: &Path, root: &Path, digest: &Digest, size: u64) -> io::Result<Outcome> {
    let path = blob_path(root, digest);
    if is_whole(&path, digest, size)? {
        return Ok(Outcome::Kept);
    }
    let from = match open_regular(source) {
        Ok(from) => from,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::Rotten),
        Err(error) => return Err(error),
    };
    let directory = path.parent().unwrap_or(root);
    private_directory(directory)?;
    let partial = path.with_extension("partial");
    let mut to = private().write(true).truncate(true).open(&partial)?;
    if hash(&from, digest.algorithm(), |bytes| to.write_all(bytes))? != *digest {
        fs::remove_file(&partial)?;
        return Ok(Outcome::Rotten);
    }
    to.sync_all()?;
    fs::rename(&partial, &path)?;
    File::open(directory)?.sync_all()?;
    Ok(Outcome::Copied)
}

/// Whether a blob lies at `path`, every byte of it: one that has rotted there is copied again.
fn is_whole(path: &Path, digest: &Digest, size: u64) -> io::Result<bool> {
    let file = match open_regular(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() != size {
        return Ok(false);
    }
    if fail_point!("backup-read-again", off) {
        return Ok(true);
    }
    // What cannot be read is as good as rotten here.
    Ok(hash(&file, digest.algorithm(), |_| Ok(())).is_ok_and(|found| found == *digest))
}

/// Reads a file to its end, hands every piece on, and leaves the memory to what clients pull.
fn hash(
    file: &File,
    algorithm: Algorithm,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<Digest> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = 0;
    loop {
        let got = file.read_at(&mut buffer, at)?;
        if got == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&buffer[..got]);
        each(&buffer[..got])?;
        at += got as u64;
    }
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
    #[error("{} is not a backup, or one that was cut short: it has no {what}", .path.display())]
    NotABackup { path: PathBuf, what: &'static str },
    #[error("the records of the backup cannot be used: {0}")]
    Records(#[from] sqlite::OpenError),
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
    for what in [MARKER, DATABASE] {
        if !source.join(what).exists() {
            return Err(RestoreError::NotABackup { path: source.to_owned(), what });
        }
    }
    // Before anything is copied: an empty or a garbled one would be an empty registry.
    inspect(&from)?;
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
    inspect(&partial)?;
    File::open(&partial)?.sync_all()?;
    fs::rename(&partial, &to)?;
    File::open(disk.root())?.sync_all()?;
    Ok(copied)
}

fn inspect(facts: &Path) -> Result<(), sqlite::OpenError> {
    if fail_point!("restore-look", off) {
        return Ok(());
    }
    sqlite::inspect(facts).map(drop)
}

fn digest_of(algorithm: &Path, file: &Path) -> Option<Digest> {
    let (algorithm, hex) = (algorithm.file_name()?.to_str()?, file.file_name()?.to_str()?);
    format!("{algorithm}:{hex}").parse().ok()
}

fn failed(what: &'static str, source: io::Error) -> ContentError {
    StoreError::Io { what, source }.into()
}
