//! Upload sessions: bytes that arrive before their digest is known.
//!
//! A session is two files, so that it survives the process: `data`, whose length *is* the offset,
//! and `state`, which says whose it is and how far it was hashed. A saved hash is believed only
//! within the boot that wrote it: after a power cut the length of `data` proves nothing about its
//! bytes, and a believed hash would publish holes under a good digest.

use std::fs::{self, File};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use shared::{Algorithm, Digest, Hasher, RepoName};

use super::ahead;
use super::{Checkpoint, Disk, StoreError, UploadId, hash_range};
use crate::failpoint::fail_point;
use crate::store::Block;
use crate::sys;

/// `state` on the disk. Written in place, shorter than a page: a kill leaves the old or the new
/// text, and a torn one does not parse, which makes the session unknown.
#[derive(Serialize, Deserialize)]
struct State {
    repo: RepoName,
    algorithm: String,
    /// Bytes that `hash` covers.
    offset: u64,
    hash: String,
    boot_id: String,
}

/// Bytes between two requests to begin write-back: long enough to be sequential, short enough
/// that the final sync finds little left.
const WRITEBACK_BYTES: u64 = 8 << 20;

/// Bytes between two saves of the hash while one request goes on: what a restart reads again.
const SAVE_BYTES: u64 = 64 << 20;

/// Bytes that are claimed ahead at most, after a look at the free space.
const CLAIM_BYTES: u64 = 8 << 20;

/// Below this a claim costs more than it saves.
const CLAIM_BYTES_MIN: u64 = 256 << 10;

/// An upload session, held by one writer at a time.
#[derive(Debug)]
pub struct Session {
    id: UploadId,
    repo: RepoName,
    hasher: Hasher,
    algorithm: Algorithm,
    offset: u64,
    /// What `state` on the disk says; `None` when it does not say what is here.
    saved: Option<u64>,
    written_back: u64,
    /// Up to here the disk was found to have room.
    claimed: u64,
    /// Where the body that arrives ends, if it said so.
    expected_end: Option<u64>,
    /// Up to here, perhaps behind its end, the file may hold space.
    allocated: u64,
    /// Open while somebody writes; an idle session holds no descriptor.
    data: Option<File>,
    direct: Direct,
    /// What went past the page cache, mostly, and nobody has asked to be read back yet.
    unread: Range<u64>,
}

/// The same file, written past the page cache. Source: open(2), `O_DIRECT`.
#[derive(Debug, Default)]
enum Direct {
    #[default]
    Closed,
    Open(File),
    /// The file system cannot.
    Refused,
}

impl Disk {
    pub(super) fn session_dir(&self, id: &UploadId) -> PathBuf {
        self.root.join("uploads").join(id.to_string())
    }

    /// Starts a session. It survives the process, but not a power cut.
    ///
    /// # Errors
    /// [`StoreError::Full`] when not even that fits.
    pub fn create_session(
        &self,
        repo: &RepoName,
        algorithm: Algorithm,
    ) -> Result<Session, StoreError> {
        self.ready_for_writes()?;
        let id = UploadId::new();
        let dir = self.session_dir(&id);
        let mut session = Session {
            id,
            repo: repo.clone(),
            hasher: Hasher::new(algorithm),
            algorithm,
            offset: 0,
            saved: None,
            written_back: 0,
            claimed: 0,
            expected_end: None,
            allocated: 0,
            data: None,
            direct: Direct::Closed,
            unread: 0..0,
        };
        fail_point!("upload-create");
        let made = fs::create_dir(&dir)
            .map_err(|source| self.failed("create the upload", source))
            .and_then(|()| {
                File::options()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(dir.join("data"))
                    .map_err(|source| self.upload_failed(&id, "create the upload", source))
            })
            .and_then(|data| {
                session.data = Some(data);
                session.save(self)
            });
        if let Err(error) = made {
            let _ = fs::remove_dir_all(&dir);
            return Err(error);
        }
        Ok(session)
    }

    /// Takes up a session that an earlier process left. `None` when there is none, or nothing that
    /// can be gone on with. Reads back only bytes that no trusted hash covers.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn load_session(&self, id: UploadId) -> Result<Option<Session>, StoreError> {
        let dir = self.session_dir(&id);
        let Ok(text) = fs::read(dir.join("state")) else { return Ok(None) };
        let Ok(state) = serde_json::from_slice::<State>(&text) else { return Ok(None) };
        let Ok(algorithm) = state.algorithm.parse() else { return Ok(None) };
        let data = match File::options().read(true).write(true).open(dir.join("data")) {
            Ok(data) => data,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.failed("open the upload", source)),
        };
        let resume = || -> io::Result<(Hasher, u64)> {
            let length = data.metadata()?.len();
            let trusted = (state.boot_id == self.boot_id && state.offset <= length)
                .then(|| restore(algorithm, &state.hash))
                .flatten();
            let (mut hasher, from) = match trusted {
                Some(hasher) => (hasher, state.offset),
                None => (Hasher::new(algorithm), 0),
            };
            hash_range(&data, &mut hasher, from, length - from)?;
            Ok((hasher, length))
        };
        let (hasher, offset) = resume().map_err(|source| self.failed("read the upload", source))?;
        Ok(Some(Session {
            id,
            repo: state.repo,
            hasher,
            algorithm,
            offset,
            saved: None,
            written_back: 0,
            claimed: offset,
            expected_end: None,
            allocated: u64::MAX,
            data: Some(data),
            direct: Direct::Closed,
            unread: 0..0,
        }))
    }

    /// Sorts an error of an upload's files, which may be ended at any time.
    pub(super) fn upload_failed(
        &self,
        id: &UploadId,
        what: &'static str,
        source: io::Error,
    ) -> StoreError {
        // The bytes are what is removed first.
        let gone =
            source.kind() == io::ErrorKind::NotFound && !self.session_dir(id).join("data").exists();
        if gone { StoreError::Gone } else { self.failed(what, source) }
    }

    /// Whether a session's files are there.
    pub fn has_session(&self, id: &UploadId) -> bool {
        self.session_dir(id).join("state").exists()
    }

    /// Bytes that a session has on the disk; 0 if it has none, or none can be seen.
    pub fn session_bytes(&self, id: &UploadId) -> u64 {
        fs::metadata(self.session_dir(id).join("data")).map_or(0, |meta| meta.len())
    }

    /// Removes a session and its bytes. One that is not there is no error.
    pub fn remove_session(&self, id: &UploadId) {
        let dir = self.session_dir(id);
        let _ = fs::remove_file(dir.join("data"));
        let _ = fs::remove_file(dir.join("state"));
        if let Err(error) = fs::remove_dir(&dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(upload = %id, %error, "could not remove an upload");
        }
    }

    /// Sessions on the disk and when each was last written to.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn sessions(&self) -> io::Result<Vec<(UploadId, SystemTime)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.root.join("uploads"))? {
            let entry = entry?;
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let touched = |name: &str| fs::metadata(entry.path().join(name))?.modified();
            if let Ok(time) =
                touched("data").or_else(|_| entry.metadata().and_then(|meta| meta.modified()))
            {
                found.push((id, time));
            }
        }
        Ok(found)
    }
}

impl Session {
    pub fn id(&self) -> UploadId {
        self.id
    }

    pub fn repo(&self) -> &RepoName {
        &self.repo
    }

    /// Bytes received.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { hasher: self.hasher.clone(), offset: self.offset }
    }

    /// Takes back everything appended since `checkpoint` was made.
    ///
    /// # Errors
    /// When the file cannot be shortened.
    pub fn rewind(&mut self, disk: &Disk, checkpoint: Checkpoint) -> Result<(), StoreError> {
        self.open(disk)?;
        self.hasher = checkpoint.hasher;
        self.offset = checkpoint.offset;
        self.saved = None;
        self.unread = 0..0;
        self.written_back = self.written_back.min(self.offset);
        self.allocated = u64::MAX;
        self.trim(disk)?;
        self.save(disk)
    }

    /// Says how many bytes are about to arrive, if that is known.
    pub fn expect(&mut self, bytes: Option<u64>) {
        self.expected_end = bytes.map(|bytes| self.offset.saturating_add(bytes));
    }

    /// Makes sure that the next `length` bytes find room, and some more after them.
    ///
    /// Space is given to the file before its bytes: delayed allocation, block by block, costs
    /// ext4 half as much again as the whole write. As much as has arrived and never what a client
    /// only announces, which would let a few words fill the disk.
    fn claim(&mut self, disk: &Disk, length: u64) -> Result<(), StoreError> {
        if self.offset + length <= self.claimed {
            return Ok(());
        }
        disk.ready_for_writes()?;
        let announced = self.expected_end.map_or(u64::MAX, |end| end.saturating_sub(self.offset));
        let arrived = if fail_point!("claim-arrived", off) { CLAIM_BYTES } else { self.offset };
        let ahead = arrived.min(CLAIM_BYTES).min(announced).max(length);
        self.claimed = self.offset + ahead;
        if ahead < CLAIM_BYTES_MIN {
            return Ok(());
        }
        self.open(disk)?;
        let Some(data) = &self.data else { return Ok(()) };
        // The length of the file must stay: it is the upload's offset.
        let keep = rustix::fs::FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(data, keep, self.offset, ahead) {
            Ok(()) => self.allocated = self.allocated.max(self.claimed),
            Err(Errno::IO) => {
                return Err(disk.failed("claim space for the upload", Errno::IO.into()));
            }
            // A file system that cannot loses nothing, and of a full disk the write will tell.
            Err(_) => {}
        }
        Ok(())
    }

    /// Gives back what the file holds behind its end.
    fn trim(&mut self, disk: &Disk) -> Result<(), StoreError> {
        self.claimed = self.offset;
        if let Some(data) = &self.data
            && self.allocated > self.offset
        {
            data.set_len(self.offset)
                .map_err(|source| disk.failed("shorten the upload", source))?;
            self.allocated = self.offset;
        }
        Ok(())
    }

    /// Appends `chunks`. What was written before an error stays; the offset says how much.
    ///
    /// # Errors
    /// [`StoreError::Full`] beyond the reserve, or when the disk has no room.
    pub fn append(&mut self, disk: &Disk, chunks: &[impl AsRef<[u8]>]) -> Result<(), StoreError> {
        let chunks = chunks.iter().map(AsRef::as_ref).filter(|chunk| !chunk.is_empty());
        self.claim(disk, chunks.clone().map(|chunk| chunk.len() as u64).sum())?;
        let mut slices: Vec<IoSlice<'_>> = chunks.map(IoSlice::new).collect();
        let mut slices = slices.as_mut_slice();
        self.open(disk)?;
        let Some(data) = &self.data else { return Ok(()) };
        // One write per loop, each hashed before the next, so that hash and offset never differ.
        while !slices.is_empty() {
            let written = match rustix::io::pwritev(data, slices, self.offset) {
                Ok(written) => written,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(disk.failed("write the upload", errno.into())),
            };
            let mut left = written;
            for slice in slices.iter() {
                let part = left.min(slice.len());
                self.hasher.update(&slice[..part]);
                left -= part;
                if left == 0 {
                    break;
                }
            }
            self.offset += written as u64;
            IoSlice::advance_slices(&mut slices, written);
        }
        if self.offset - self.written_back >= WRITEBACK_BYTES {
            // Only a hint: where the kernel refuses it the final sync does all the work.
            let _ = sys::start_writeback(data, self.written_back, self.offset - self.written_back);
            self.written_back = self.offset;
        }
        if self.offset - self.saved.unwrap_or(0) >= SAVE_BYTES {
            self.save(disk)?;
        }
        Ok(())
    }

    /// Appends a block, past the page cache where that pays.
    ///
    /// # Errors
    /// See [`Session::append`].
    pub fn append_block(&mut self, disk: &Disk, block: &Block) -> Result<(), StoreError> {
        let bytes = block.bytes();
        if self.offset < disk.direct_from || !block.is_whole() {
            return self.append(disk, &[bytes]);
        }
        self.claim(disk, bytes.len() as u64)?;
        self.open_direct(disk)?;
        let Direct::Open(direct) = &self.direct else { return self.append(disk, &[bytes]) };
        let written = match rustix::io::pwrite(direct, bytes, self.offset) {
            Ok(written) => written,
            Err(Errno::INTR) => 0,
            // A disk with other wishes than usual.
            Err(Errno::INVAL) => {
                self.direct = Direct::Refused;
                0
            }
            Err(errno) => return Err(disk.failed("write the upload", errno.into())),
        };
        self.hasher.update(&bytes[..written]);
        if self.unread.is_empty() {
            self.unread.start = self.offset;
        }
        self.offset += written as u64;
        self.unread.end = self.offset;
        if self.unread.end - self.unread.start >= ahead::PART_BYTES {
            self.read_back(disk);
        }
        // Nothing, or what is not aligned any more.
        self.append(disk, &[&bytes[written..]])
    }

    /// Has what went past the page cache read into it, as far as there is memory.
    fn read_back(&mut self, disk: &Disk) {
        let Range { start, end } = std::mem::take(&mut self.unread);
        if let (Some(ahead), Some(data)) = (&disk.ahead, &self.data)
            && start < end
        {
            ahead.ask(data, start, end - start);
        }
    }

    fn open_direct(&mut self, disk: &Disk) -> Result<(), StoreError> {
        if !matches!(self.direct, Direct::Closed) {
            return Ok(());
        }
        let path = disk.session_dir(&self.id).join("data");
        let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        self.direct = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => Direct::Open(file.into()),
            Err(Errno::INVAL) => Direct::Refused,
            Err(errno) => {
                return Err(disk.upload_failed(&self.id, "open the upload", errno.into()));
            }
        };
        Ok(())
    }

    fn open(&mut self, disk: &Disk) -> Result<(), StoreError> {
        if self.data.is_none() {
            let path = disk.session_dir(&self.id).join("data");
            let file = File::options().read(true).write(true).open(path);
            let failed = |source| disk.upload_failed(&self.id, "open the upload", source);
            self.data = Some(file.map_err(failed)?);
        }
        Ok(())
    }

    /// Saves how far the hash has come and closes the file. The session survives the process, not
    /// a power cut.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub fn pause(&mut self, disk: &Disk) -> Result<(), StoreError> {
        let current = self.saved == Some(self.offset);
        let trimmed = self.trim(disk);
        let saved = if current { Ok(()) } else { self.save(disk) };
        self.data = None;
        self.direct = Direct::Closed;
        self.expected_end = None;
        trimmed.and(saved)
    }

    /// Whether [`Self::pause`] has nothing to write.
    pub fn is_saved(&self) -> bool {
        self.saved == Some(self.offset) && self.allocated <= self.offset
    }

    fn save(&mut self, disk: &Disk) -> Result<(), StoreError> {
        let state = State {
            repo: self.repo.clone(),
            algorithm: self.algorithm.as_str().to_owned(),
            offset: self.offset,
            hash: save_hash(&self.hasher),
            boot_id: disk.boot_id.clone(),
        };
        let text = serde_json::to_vec(&state)
            .map_err(|error| disk.failed("save the upload's state", io::Error::other(error)))?;
        let write = || {
            let path = disk.session_dir(&self.id).join("state");
            let file = File::options().create(true).truncate(false).write(true).open(path)?;
            file.write_all_at(&text, 0)?;
            file.set_len(text.len() as u64)
        };
        let failed = |source| disk.upload_failed(&self.id, "save the upload's state", source);
        write().map_err(failed)?;
        self.saved = Some(self.offset);
        Ok(())
    }

    /// Makes the received bytes durable (not yet their name; that is [`Disk::publish`]) and gives
    /// their digest by `algorithm`, reading them again if they were hashed by another.
    ///
    /// # Errors
    /// After an error the bytes must be dropped and not synced again.
    pub fn sync(&mut self, disk: &Disk, algorithm: Algorithm) -> Result<Digest, StoreError> {
        self.open(disk)?;
        self.trim(disk)?;
        self.read_back(disk);
        let Some(data) = &self.data else { return Ok(self.hasher.clone().finish()) };
        let digest = if algorithm == self.algorithm {
            self.hasher.clone().finish()
        } else {
            let mut hasher = Hasher::new(algorithm);
            hash_range(data, &mut hasher, 0, self.offset)
                .map_err(|source| disk.failed("read the upload", source))?;
            hasher.finish()
        };
        let sync = || if fail_point!("upload-sync", off) { Ok(()) } else { data.sync_data() };
        fail_point!("upload-sync-fails", io)
            .and_then(|()| sync())
            .map_err(|source| disk.sync_failed("sync the upload", source))?;
        fail_point!("upload-synced");
        Ok(digest)
    }
}

fn save_hash(hasher: &Hasher) -> String {
    match hasher {
        Hasher::Sha256(hasher) => to_hex(&hasher.serialize()),
        Hasher::Sha512(hasher) => to_hex(&hasher.serialize()),
    }
}

fn restore(algorithm: Algorithm, text: &str) -> Option<Hasher> {
    fn state<T: SerializableState>(text: &str) -> Option<T> {
        let bytes = from_hex(text)?;
        let state = SerializedState::<T>::try_from(bytes.as_slice()).ok()?;
        T::deserialize(&state).ok()
    }
    Some(match algorithm {
        Algorithm::Sha256 => Hasher::Sha256(state(text)?),
        Algorithm::Sha512 => Hasher::Sha512(state(text)?),
    })
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;

    fn open(dir: &std::path::Path) -> Disk {
        Disk::open(dir, &Options { reserve: Some(0), ..Options::default() }).unwrap()
    }

    fn repo() -> RepoName {
        "a/b".parse().unwrap()
    }

    #[test]
    fn arrives_and_is_published() {
        let dir = tempfile::tempdir().unwrap();
        let disk = open(dir.path());
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let mut session = disk.create_session(&repo(), Algorithm::Sha256).unwrap();
            session.append(&disk, &["ab", "", "c"]).unwrap();
            assert_eq!(session.offset(), 3);
            let digest = session.sync(&disk, algorithm).unwrap();
            assert_eq!(digest, Digest::of(algorithm, b"abc"));
            disk.publish(&session.id(), &digest).unwrap();
            disk.remove_session(&session.id());
            assert_eq!(fs::read(disk.blob_path(&digest)).unwrap(), b"abc");
            assert!(disk.sessions().unwrap().is_empty());
        }
    }

    /// Appends `bytes` as a body that arrives in blocks.
    fn append_blocks(disk: &Disk, session: &mut Session, mut bytes: &[u8]) {
        let mut block = Block::take();
        while !bytes.is_empty() {
            block.begin(session.offset());
            let part = block.room().len().min(bytes.len());
            block.room()[..part].copy_from_slice(&bytes[..part]);
            block.add(part);
            session.append_block(disk, &block).unwrap();
            block.clear();
            bytes = &bytes[part..];
        }
    }

    #[test]
    fn blocks_go_past_the_page_cache_and_pieces_do_not() {
        let dir = tempfile::tempdir().unwrap();
        for direct_from in [Some(0), Some(2 << 20), None] {
            let options = Options { reserve: Some(0), direct_from, ..Options::default() };
            let disk = Disk::open(dir.path(), &options).unwrap();
            let bytes: Vec<u8> = (0_u32..(5 << 20) / 4).flat_map(u32::to_le_bytes).collect();
            let mut session = disk.create_session(&repo(), Algorithm::Sha256).unwrap();
            let (head, rest) = bytes.split_at(3);
            session.append(&disk, &[head]).unwrap();
            append_blocks(&disk, &mut session, rest);
            assert_eq!(matches!(session.direct, Direct::Closed), direct_from.is_none());
            let whole = session.checkpoint();
            append_blocks(&disk, &mut session, &bytes);
            session.rewind(&disk, whole).unwrap();
            session.pause(&disk).unwrap();
            append_blocks(&disk, &mut session, &bytes);
            let twice = [&bytes[..], &bytes[..]].concat();
            let digest = session.sync(&disk, Algorithm::Sha256).unwrap();
            assert_eq!(digest, Digest::sha256(&twice));
            disk.publish(&session.id(), &digest).unwrap();
            assert!(fs::read(disk.blob_path(&digest)).unwrap() == twice);
        }
    }

    #[test]
    fn goes_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let disk = open(dir.path());
        let mut session = disk.create_session(&repo(), Algorithm::Sha256).unwrap();
        session.append(&disk, &["hello "]).unwrap();
        session.pause(&disk).unwrap();
        // Not saved: a kill in the middle of a request.
        session.append(&disk, &["wor"]).unwrap();
        let id = session.id();
        drop((session, disk));

        let disk = open(dir.path());
        let mut session = disk.load_session(id).unwrap().unwrap();
        assert_eq!((session.offset(), session.repo()), (9, &repo()));
        session.append(&disk, &["ld"]).unwrap();
        assert_eq!(session.sync(&disk, Algorithm::Sha256).unwrap(), Digest::sha256(b"hello world"));
    }

    #[test]
    fn a_saved_hash_of_another_boot_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = open(dir.path());
        let mut session = disk.create_session(&repo(), Algorithm::Sha256).unwrap();
        session.append(&disk, &["good"]).unwrap();
        session.pause(&disk).unwrap();
        // What a power cut leaves: the length is right, the bytes are not.
        fs::write(disk.session_dir(&session.id()).join("data"), b"\0\0\0\0").unwrap();
        disk.boot_id = "another".into();
        let mut session = disk.load_session(session.id()).unwrap().unwrap();
        assert_eq!(session.sync(&disk, Algorithm::Sha256).unwrap(), Digest::sha256(b"\0\0\0\0"));
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let disk =
            Disk::open(dir.path(), &Options { reserve: Some(u64::MAX), ..Options::default() })
                .unwrap();
        let error = disk.create_session(&repo(), Algorithm::Sha256).unwrap_err();
        assert!(matches!(error, StoreError::Full), "{error}");
        assert!(disk.sessions().unwrap().is_empty());
    }
}
