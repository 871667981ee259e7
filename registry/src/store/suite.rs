//! One suite over every implementation of [`Store`].

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use shared::{Algorithm, Digest, RepoName};

use super::disk::{self, Disk, DiskStore};
use super::memory::{self, MemoryStore};
use super::*;
use crate::records::memory::MemoryRecords;
use crate::records::{BlobState, Publish, Records};

struct Subject {
    store: Arc<dyn Store>,
    records: MemoryRecords,
    _directory: Option<tempfile::TempDir>,
}

fn subjects() -> [Subject; 2] {
    let directory = tempfile::tempdir().unwrap();
    let options = disk::Options { reserve: Some(0), ..disk::Options::default() };
    let disk = Disk::open(directory.path(), &options).unwrap();
    let records = || MemoryRecords::new(Duration::ZERO);
    [
        Subject {
            store: Arc::new(DiskStore::new(Arc::new(disk))),
            records: records(),
            _directory: Some(directory),
        },
        Subject {
            store: Arc::new(MemoryStore::new(memory::Options::default())),
            records: records(),
            _directory: None,
        },
    ]
}

fn repo() -> RepoName {
    "a/b".parse().unwrap()
}

/// Appends bytes as a body that arrives in blocks.
fn append(upload: &mut dyn Upload, mut bytes: &[u8]) -> Result<(), StoreError> {
    let mut block = Block::take();
    while !bytes.is_empty() {
        block.begin(upload.offset());
        let part = block.room().len().min(bytes.len());
        block.room()[..part].copy_from_slice(&bytes[..part]);
        block.add(part);
        block = upload.append(block)?;
        bytes = &bytes[part..];
    }
    block.give_back();
    Ok(())
}

impl Subject {
    /// As `content` does.
    async fn publish(&self, upload: Box<dyn Upload>, digest: &Digest) -> RepoBlob {
        let mut sealed = upload.seal(digest).await.unwrap();
        let _guard = self.store.lock(digest).await;
        let place = sealed.publish().await.unwrap();
        let (size, resumed) = (sealed.size(), sealed.resumed());
        let publish = Publish { repo: repo(), digest: digest.clone(), size, place, resumed };
        let kept = self.records.publish(publish).await.unwrap();
        sealed.end(Some(kept)).await;
        self.records.find_blob(&repo(), digest).await.unwrap().unwrap()
    }

    async fn read(&self, blob: &RepoBlob, range: Range<u64>) -> Vec<u8> {
        match self.store.open(blob, range.clone(), false).await.unwrap().unwrap() {
            Source::File(mut file) => {
                let mut whole = Vec::new();
                file.read_to_end(&mut whole).unwrap();
                whole[range.start as usize..range.end as usize].to_vec()
            }
            Source::Bytes(bytes) => bytes.to_vec(),
            Source::Stream(stream) => {
                let pieces: Vec<Bytes> = stream.try_collect().await.unwrap();
                pieces.concat()
            }
            Source::Redirect(_) => panic!("nobody may be sent elsewhere"),
        }
    }
}

#[tokio::test]
async fn what_arrives_in_pieces_is_read_in_ranges_and_removed() {
    for subject in subjects() {
        let store = &subject.store;
        let bytes: Vec<u8> = (0_u32..(3 << 20) / 4 + 1).flat_map(u32::to_le_bytes).collect();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let digest = Digest::of(algorithm, &bytes);
            let mut upload = store.begin(&repo(), Algorithm::Sha256).await.unwrap();
            append(&mut *upload, &bytes[..7]).unwrap();
            let id = upload.id();
            assert_eq!(upload.pause().await.unwrap(), 7);
            assert_eq!(store.offset(&repo(), id).await.unwrap(), 7);
            let mut upload = store.resume(&repo(), id).await.unwrap();
            upload.expect(Some(bytes.len() as u64 - 7));
            upload.room().await.unwrap();
            append(&mut *upload, &bytes[7..]).unwrap();
            let blob = subject.publish(upload, &digest).await;
            assert_eq!(blob.size(), bytes.len() as u64);
            assert!(matches!(store.resume(&repo(), id).await, Err(UploadError::Unknown)));
            assert!(subject.read(&blob, 0..blob.size()).await == bytes);
            assert_eq!(subject.read(&blob, 5..9).await, bytes[5..9]);
            let record = BlobRecord {
                digest: digest.clone(),
                size: blob.size(),
                state: BlobState::Live,
                links: 1,
            };
            assert_eq!(store.look_at(&record).await.unwrap(), None);
            assert_eq!(store.verify(&record, Box::new(|_| true)).await.unwrap(), None);
            let longer = BlobRecord { size: blob.size() + 1, ..record.clone() };
            assert_eq!(store.look_at(&longer).await.unwrap(), Some(Rotten::Length(blob.size())));
            store.remove(&digest, blob.place()).await.unwrap();
            store.remove(&digest, blob.place()).await.unwrap();
            let opened = store.open(&blob, 0..1, false).await.unwrap();
            assert!(matches!(opened, Err(Rotten::Absent)), "{opened:?}");
            assert_eq!(
                store.verify(&record, Box::new(|_| true)).await.unwrap(),
                Some(Rotten::Absent)
            );
        }
        assert_eq!(store.figures().uploads, 0);
    }
}

#[tokio::test]
async fn an_upload_is_its_repositorys_and_one_writers() {
    for subject in subjects() {
        let store = &subject.store;
        let upload = store.begin(&repo(), Algorithm::Sha256).await.unwrap();
        let id = upload.id();
        let other: RepoName = "b".parse().unwrap();
        assert!(matches!(store.resume(&other, id).await, Err(UploadError::Unknown)));
        assert!(matches!(store.offset(&other, id).await, Err(UploadError::Unknown)));
        assert!(matches!(store.cancel(&other, id).await, Err(UploadError::Unknown)));
        let busy = store.resume(&repo(), id).await;
        assert!(matches!(busy, Err(UploadError::Busy { offset: 0 })), "{busy:?}");
        assert_eq!(store.expire(Duration::ZERO).await.unwrap(), 0, "it is being written to");
        store.cancel(&repo(), id).await.unwrap();
        assert!(upload.cancelled());
        let sealed = upload.seal(&Digest::sha256(b"")).await;
        assert!(sealed.is_err(), "{sealed:?}");
        assert!(matches!(store.offset(&repo(), id).await, Err(UploadError::Unknown)));
    }
}

#[tokio::test]
async fn what_is_taken_back_or_dropped_is_as_if_it_had_not_come() {
    for subject in subjects() {
        let store = &subject.store;
        let mut upload = store.begin(&repo(), Algorithm::Sha256).await.unwrap();
        let id = upload.id();
        append(&mut *upload, b"good").unwrap();
        let before = upload.checkpoint();
        append(&mut *upload, b"bad").unwrap();
        upload.rewind(before).await.unwrap();
        let mut upload = store.resume(&repo(), id).await.unwrap();
        assert_eq!(upload.offset(), 4);
        append(&mut *upload, b"!").unwrap();
        drop(upload);
        let upload = store.resume(&repo(), id).await.unwrap();
        assert_eq!(upload.offset(), 5, "what was dropped goes on");
        let wrong = upload.seal(&Digest::sha256(b"goodbad!")).await.unwrap_err();
        let actual = Digest::sha256(b"good!");
        assert!(matches!(wrong, SealError::Mismatch { actual: found } if found == actual));
        assert!(matches!(store.resume(&repo(), id).await, Err(UploadError::Unknown)));
        let resting = store.begin(&repo(), Algorithm::Sha256).await.unwrap();
        drop(resting);
        store.settled().await;
        assert_eq!(store.expire(Duration::ZERO).await.unwrap(), 1);
        assert_eq!(store.figures().uploads, 0);
    }
}

#[tokio::test]
async fn memory_holds_what_it_may_and_gives_back_what_goes() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(memory::Options { limit: 10 }));
    let records = MemoryRecords::new(Duration::ZERO);
    let subject = Subject { store: Arc::clone(&store), records, _directory: None };
    let digest = Digest::sha256(b"12345");
    for _ in 0..2 {
        // The second time the same bytes take the place of the first.
        let mut upload = store.begin(&repo(), Algorithm::Sha256).await.unwrap();
        append(&mut *upload, b"12345").unwrap();
        subject.publish(upload, &digest).await;
        assert_eq!(store.figures().free_bytes, 5);
    }
    let mut upload = store.begin(&repo(), Algorithm::Sha256).await.unwrap();
    assert!(matches!(append(&mut *upload, b"123456"), Err(StoreError::Full)));
    assert_eq!((store.figures().free_bytes, store.figures().uploads), (5, 0));
    store.remove(&digest, &Place::File).await.unwrap();
    assert_eq!(store.figures().free_bytes, 10);
}
