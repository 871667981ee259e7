//! What lies on the disk, whatever the records know of it: for the sweep, the scrub and fsck.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::SystemTime;

use rustix::fs::Advice;
use shared::{Algorithm, Digest, Hasher};

use super::{ALGORITHMS, Disk, Rotten};

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;

/// Every shard of the store: `Disk::list_shard` takes one.
pub const SHARDS: usize = 512;

/// A file under `blobs/`.
#[derive(Clone, Debug)]
pub struct Found {
    /// What its name says; `None` for a name that no blob has.
    pub digest: Option<Digest>,
    /// From the data directory.
    pub path: String,
    pub bytes: u64,
    pub modified: SystemTime,
}

impl Disk {
    /// The files of one shard, `0..SHARDS`.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn list_shard(&self, shard: usize) -> io::Result<Vec<Found>> {
        let algorithm = ALGORITHMS[shard / 256 % ALGORITHMS.len()];
        let name = format!("blobs/{algorithm}/{:02x}", shard % 256);
        let mut found = Vec::new();
        for entry in fs::read_dir(self.root.join(&name))? {
            let entry = entry?;
            let file = entry.file_name().to_string_lossy().into_owned();
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let digest = format!("{algorithm}:{file}").parse::<Digest>().ok();
            found.push(Found {
                digest: digest.filter(|digest| shard_of(digest) == shard),
                path: format!("{name}/{file}"),
                bytes: meta.len(),
                modified: meta.modified()?,
            });
        }
        Ok(found)
    }

    /// Reads a blob's file to its end and compares it with what it should be. `step` is told of
    /// bytes read, and may wait; false from it ends the reading early, as if all were well.
    ///
    /// # Errors
    /// When the file cannot be read, which says nothing about its bytes.
    pub fn verify_blob(
        &self,
        digest: &Digest,
        size: u64,
        mut step: impl FnMut(u64) -> bool,
    ) -> io::Result<Option<Rotten>> {
        let file = match self.open_blob(digest) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Some(Rotten::Absent));
            }
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        if length != size {
            return Ok(Some(Rotten::Length(length)));
        }
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; READ_BYTES];
        let mut at = 0;
        while at < length {
            let got = file.read_at(&mut buffer, at)?;
            if got == 0 {
                return Ok(Some(Rotten::Length(at)));
            }
            hasher.update(&buffer[..got]);
            // Nobody asked for these pages: they must not push out the ones that clients pull.
            let _ = rustix::fs::fadvise(
                &file,
                at,
                std::num::NonZeroU64::new(got as u64),
                Advice::DontNeed,
            );
            at += got as u64;
            if !step(got as u64) {
                return Ok(None);
            }
        }
        Ok((hasher.finish() != *digest).then_some(Rotten::Content))
    }

    /// Whether a blob's file is there with this many bytes, without reading it.
    ///
    /// # Errors
    /// When the file cannot be looked at.
    pub fn look_at_blob(&self, digest: &Digest, size: u64) -> io::Result<Option<Rotten>> {
        match fs::symlink_metadata(self.blob_path(digest)) {
            Ok(meta) if !meta.is_file() => Ok(Some(Rotten::Absent)),
            Ok(meta) if meta.len() == size => Ok(None),
            Ok(meta) => Ok(Some(Rotten::Length(meta.len()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.open_blob(digest).map(|_| None).or_else(|error| match error.kind() {
                    io::ErrorKind::NotFound => Ok(Some(Rotten::Absent)),
                    _ => Err(error),
                })
            }
            Err(error) => Err(error),
        }
    }
}

fn shard_of(digest: &Digest) -> usize {
    let offset = match digest.algorithm() {
        Algorithm::Sha256 => 0,
        Algorithm::Sha512 => 256,
    };
    offset + digest.hash().first().copied().map_or(0, usize::from)
}
