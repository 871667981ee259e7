//! Our reader of tars beside the crate `tar`: what both accept they must read alike, and ours must
//! never panic.

use std::io::Read;

use proptest::prelude::*;
use shared::Algorithm;

use super::decode::Decoder;
use super::entry::{self, Kind, padding};
use super::stream::Stream;

/// Path, kind, mode, owner, link and content of each entry.
type Seen = Vec<(Vec<u8>, u8, u32, u64, u64, Vec<u8>, Vec<u8>)>;

/// What ours reads; none where it refuses.
fn ours(bytes: &[u8]) -> Option<Seen> {
    let decoder = Decoder::new(bytes).ok()?;
    let mut stream = Stream::new(decoder, Algorithm::Sha256, 1 << 30);
    let mut seen = Vec::new();
    while let Some(entry) = entry::next(&mut stream).ok()? {
        let letter = match entry.kind {
            Kind::Regular => b'0',
            Kind::HardLink => b'1',
            Kind::Symlink => b'2',
            Kind::CharDevice => b'3',
            Kind::BlockDevice => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
            Kind::Other(letter) => letter,
        };
        let mut content = Vec::new();
        stream
            .copy(entry.stored, |bytes| {
                content.extend_from_slice(bytes);
                Ok(())
            })
            .ok()?;
        stream.skip(padding(entry.stored)).ok()?;
        let (uid, gid) = (u64::from(entry.uid), u64::from(entry.gid));
        seen.push((entry.path, letter, entry.mode, uid, gid, entry.link, content));
    }
    stream.finish().ok()?;
    Some(seen)
}

fn theirs(bytes: &[u8]) -> Option<Seen> {
    let mut archive = tar::Archive::new(bytes);
    let mut seen = Vec::new();
    for entry in archive.entries().ok()? {
        let mut entry = entry.ok()?;
        let mut content = Vec::new();
        entry.read_to_end(&mut content).ok()?;
        let header = entry.header();
        let letter = match header.entry_type().as_byte() {
            0 | b'7' => b'0',
            letter => letter,
        };
        let (mode, uid, gid) =
            (header.mode().ok()? & 0o7777, header.uid().ok()?, header.gid().ok()?);
        let link = entry.link_name_bytes().unwrap_or_default().into_owned();
        seen.push((entry.path_bytes().into_owned(), letter, mode, uid, gid, link, content));
    }
    Some(seen)
}

fn written(entries: &[(String, u8, u32, u32, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, mode, id, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_uid(u64::from(*id));
        header.set_gid(u64::from(id / 2));
        header.set_mtime(1);
        let kind = [b'0', b'5', b'2', b'1', b'6'][usize::from(kind % 5)];
        header.set_entry_type(tar::EntryType::new(kind));
        match kind {
            b'1' | b'2' => {
                header.set_size(0);
                builder.append_link(&mut header, name, name).unwrap();
            }
            b'0' => {
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, name, &content[..]).unwrap();
            }
            _ => {
                header.set_size(0);
                builder.append_data(&mut header, name, &b""[..]).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

fn entries() -> impl Strategy<Value = Vec<(String, u8, u32, u32, Vec<u8>)>> {
    // Names past 100 bytes need GNU's long names, ids past 2097151 its binary numbers.
    let name = "[a-z]{1,60}(/[a-zA-Z0-9 ._-]{1,80}[a-z]){0,3}";
    let content = proptest::collection::vec(any::<u8>(), 0..1500);
    let entry = (name, any::<u8>(), 0..0o10000u32, 0..u32::MAX - 1, content);
    proptest::collection::vec(entry, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn both_read_what_one_writes(entries in entries()) {
        let bytes = written(&entries);
        let ours = ours(&bytes);
        prop_assert!(ours.is_some());
        prop_assert_eq!(ours, theirs(&bytes));
    }

    /// A changed byte is refused, or read as the other reads it, or not: but without a panic, and
    /// never to more content than there are bytes.
    #[test]
    fn damage_does_no_harm(entries in entries(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = written(&entries);
        let length = bytes.len();
        bytes[at.index(length)] = to;
        if let Some(seen) = ours(&bytes) {
            let content: usize = seen.iter().map(|entry| entry.6.len()).sum();
            prop_assert!(content <= length);
        }
    }

    #[test]
    fn noise_does_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let _ = ours(&bytes);
    }
}
