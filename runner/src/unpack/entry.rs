//! Entries of a tar: ustar, GNU and PAX, read as Go's `archive/tar` reads them, because that is
//! what builds and unpacks images elsewhere. Where the formats leave doubt this is strict.
//!
//! The parser is ours so that every length is checked before memory is taken, a sparse map stays
//! a map, and a PAX size is the size that counts (CVE-2025-62518 and its kin are readers that
//! disagreed with themselves about it).
//! Sources: POSIX pax "ustar Interchange Format", tar(5), GNU tar manual "Basic Tar Format" and
//! "Sparse Formats".

use std::collections::BTreeMap;
use std::io::Read;

use super::limits::{EXTENSION_BYTES_MAX, SPARSE_FRAGMENTS_MAX};
use super::report::Refusal;
use super::stream::{BLOCK, Stream};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Regular,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
    /// A type that has no meaning in a layer, as its letter.
    Other(u8),
}

impl Kind {
    /// Whether content follows the header, whatever size it claims.
    fn has_content(self) -> bool {
        matches!(self, Self::Regular | Self::Other(_))
    }
}

/// One entry, its extended headers applied.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds; never before 1970, as Docker bounds them.
    pub(crate) mtime: (i64, u32),
    pub(crate) device: (u32, u32),
    /// Bytes that follow in the tar.
    pub(crate) stored: u64,
    /// Bytes of the file, its holes included.
    pub(crate) size: u64,
    /// Where the stored bytes belong, as offset and length; none for a file without holes.
    pub(crate) sparse: Option<Vec<(u64, u64)>>,
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

/// What extended headers say about the entry that follows them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    uid: Option<u64>,
    gid: Option<u64>,
    size: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: BTreeMap<String, Vec<u8>>,
    sparse: SparseWords,
    /// Bytes of all of these headers.
    bytes: u64,
}

/// The `GNU.sparse.*` records.
#[derive(Default)]
struct SparseWords {
    major: Option<Vec<u8>>,
    minor: Option<Vec<u8>>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    /// Format 0.1; format 0.0 is gathered into the same list.
    map: Vec<u64>,
    has_map: bool,
}

/// Reads headers up to the next entry; none at the end of the archive.
pub(crate) fn next<R: Read>(stream: &mut Stream<R>) -> Result<Option<Entry>, Refusal> {
    let mut extended = Extended::default();
    loop {
        let Some(header) = stream.block()? else { return Ok(None) };
        if header == [0; BLOCK] {
            // The archive ends with two such blocks, or with the bytes.
            return match stream.block()? {
                None => Ok(None),
                Some(second) if second == [0; BLOCK] => Ok(None),
                Some(_) => Err(Refusal::format("a tar entry follows the mark of its end")),
            };
        }
        check_sum(&header)?;
        match header[156] {
            b'x' => {
                let content = extension(stream, &header)?;
                extended.bytes += content.len() as u64;
                if extended.bytes > EXTENSION_BYTES_MAX {
                    return Err(too_long(extended.bytes));
                }
                read_pax(&content, &mut extended)?;
            }
            // Docker ignores what a global header says, too: `git archive` writes a comment.
            b'g' => drop(extension(stream, &header)?),
            b'L' => extended.long_path = Some(until_nul(&extension(stream, &header)?).to_vec()),
            b'K' => extended.long_link = Some(until_nul(&extension(stream, &header)?).to_vec()),
            _ => return entry(stream, &header, extended).map(Some),
        }
    }
}

/// The content of an extended header.
fn extension<R: Read>(stream: &mut Stream<R>, header: &[u8; BLOCK]) -> Result<Vec<u8>, Refusal> {
    let size = unsigned(&header[124..136], "size")?;
    if size > EXTENSION_BYTES_MAX {
        return Err(too_long(size));
    }
    let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    stream.copy(size, |bytes| {
        content.extend_from_slice(bytes);
        Ok(())
    })?;
    stream.skip(padding(size))?;
    Ok(content)
}

fn too_long(size: u64) -> Refusal {
    Refusal::limit(format!("an extended header of {size} bytes (limit: {EXTENSION_BYTES_MAX})"))
}

/// Bytes from `size` to the next block.
pub(crate) fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn entry<R: Read>(
    stream: &mut Stream<R>,
    header: &[u8; BLOCK],
    extended: Extended,
) -> Result<Entry, Refusal> {
    let path = extended.sparse.name.clone();
    let path = extended.long_path.or(path).or(extended.path).unwrap_or_else(|| header_path(header));
    let named = |refusal: Refusal| refusal.at(&path);
    let mut kind = kind_of(header[156]);
    // Before ustar a directory was a file whose name ends with a slash.
    if header[156] == 0 && path.ends_with(b"/") {
        kind = Kind::Directory;
    }
    let size = match extended.size {
        Some(size) => size,
        None => unsigned(&header[124..136], "size").map_err(named)?,
    };
    let id = |extended: Option<u64>, field: &[u8], name: &str| {
        let id = extended.map_or_else(|| unsigned(field, name), Ok).map_err(named)?;
        // The last one is "no change" to chown(2).
        u32::try_from(id)
            .ok()
            .filter(|&id| id != u32::MAX)
            .ok_or_else(|| named(Refusal::format(format!("its {name} {id} is no {name} of Linux"))))
    };
    let mut entry = Entry {
        kind,
        mode: (unsigned(&header[100..108], "mode").map_err(named)? & 0o7777) as u32,
        uid: id(extended.uid, &header[108..116], "uid")?,
        gid: id(extended.gid, &header[116..124], "gid")?,
        mtime: match extended.mtime {
            Some(mtime) => mtime,
            None => (number(&header[136..148]).ok_or_else(|| bad("mtime")).map_err(named)?, 0),
        },
        device: device(header, kind).map_err(named)?,
        stored: if kind.has_content() { size } else { 0 },
        size: if kind.has_content() { size } else { 0 },
        sparse: None,
        xattrs: extended.xattrs.into_iter().collect(),
        link: extended
            .long_link
            .or(extended.link)
            .unwrap_or_else(|| until_nul(&header[157..257]).to_vec()),
        path: path.clone(),
    };
    if entry.mtime.0 < 0 {
        entry.mtime = (0, 0);
    }
    if kind == Kind::Regular {
        read_sparse(stream, header, extended.sparse, &mut entry).map_err(named)?;
    }
    Ok(entry)
}

fn kind_of(letter: u8) -> Kind {
    match letter {
        // `7` is a file that should lie contiguous, `S` GNU's sparse file.
        0 | b'0' | b'7' | b'S' => Kind::Regular,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => Kind::Other(other),
    }
}

fn device(header: &[u8; BLOCK], kind: Kind) -> Result<(u32, u32), Refusal> {
    if !matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
        return Ok((0, 0));
    }
    let part = |field: &[u8]| {
        let number = unsigned(field, "device number")?;
        u32::try_from(number).map_err(|_| bad("device number"))
    };
    Ok((part(&header[329..337])?, part(&header[337..345])?))
}

/// Name, with ustar's prefix in front of it.
fn header_path(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    // GNU's old format has other things in the prefix's place.
    let prefix = if &header[257..263] == b"ustar\0" { until_nul(&header[345..500]) } else { b"" };
    if prefix.is_empty() {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}

fn until_nul(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    &field[..end]
}

fn check_sum(header: &[u8; BLOCK]) -> Result<(), Refusal> {
    let stored = number(&header[148..156]);
    let byte = |at: usize| if (148..156).contains(&at) { b' ' } else { header[at] };
    let unsigned: i64 = (0..BLOCK).map(|at| i64::from(byte(at))).sum();
    // Some old programs summed signed characters.
    let signed: i64 = (0..BLOCK).map(|at| i64::from(byte(at).cast_signed())).sum();
    if stored == Some(unsigned) || stored == Some(signed) {
        Ok(())
    } else {
        Err(Refusal::format("this is not a tar: the checksum of a header is wrong"))
    }
}

fn bad(what: &str) -> Refusal {
    Refusal::format(format!("its {what} cannot be read"))
}

/// A numeric field: octal digits, or GNU's big-endian two's complement with the top bit set.
fn number(field: &[u8]) -> Option<i64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Bit 6 of the first byte is the sign, extended.
        let negative = first & 0x40 != 0;
        let top = i128::from(first & 0x3f) - if negative { 0x40 } else { 0 };
        let mut value = top;
        for &byte in rest {
            value = value.checked_mul(256)?.checked_add(i128::from(byte))?;
        }
        return i64::try_from(value).ok();
    }
    let digits = field.trim_ascii_start();
    let digits = digits.split(|&byte| byte == 0 || byte == b' ').next().unwrap_or(b"");
    let mut value = 0i64;
    for &digit in digits {
        if !(b'0'..=b'7').contains(&digit) {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(i64::from(digit - b'0'))?;
    }
    Some(value)
}

fn unsigned(field: &[u8], name: &str) -> Result<u64, Refusal> {
    number(field).and_then(|value| u64::try_from(value).ok()).ok_or_else(|| bad(name))
}

fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if digits { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// Records `<length> <key>=<value>\n`; anything else is refused, not skipped.
fn read_pax(mut content: &[u8], extended: &mut Extended) -> Result<(), Refusal> {
    let malformed = || Refusal::format("a PAX header is malformed");
    while !content.is_empty() {
        let space = content.iter().take(20).position(|&byte| byte == b' ').ok_or_else(malformed)?;
        let length = decimal(&content[..space]).ok_or_else(malformed)?;
        let length = usize::try_from(length).map_err(|_| malformed())?;
        if length <= space + 1 || length > content.len() || content[length - 1] != b'\n' {
            return Err(malformed());
        }
        let record = &content[space + 1..length - 1];
        let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(malformed)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if key.is_empty() {
            return Err(malformed());
        }
        pax_record(key, value, extended).ok_or_else(|| {
            let key = crate::path_text::to_text(key);
            Refusal::format(format!("the value of {key} in a PAX header is malformed"))
        })?;
        content = &content[length..];
    }
    Ok(())
}

fn pax_record(key: &[u8], value: &[u8], extended: &mut Extended) -> Option<()> {
    let text = |value: &[u8]| {
        // A NUL inside a name would cut it short for the kernel only.
        if value.contains(&0) { None } else { Some(value.to_vec()) }
    };
    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
        let name = std::str::from_utf8(name).ok().filter(|name| !name.contains('\0'))?;
        extended.xattrs.insert(name.to_owned(), value.to_vec());
        return Some(());
    }
    if let Some(word) = key.strip_prefix(b"GNU.sparse.") {
        return sparse_record(word, value, &mut extended.sparse);
    }
    // An empty value takes back what an earlier record said.
    let empty = value.is_empty();
    let some = |parsed: Option<u64>| if empty { Some(None) } else { parsed.map(Some) };
    match key {
        b"path" => extended.path = Some(text(value)?).filter(|_| !empty),
        b"linkpath" => extended.link = Some(text(value)?).filter(|_| !empty),
        b"uid" => extended.uid = some(decimal(value))?,
        b"gid" => extended.gid = some(decimal(value))?,
        b"size" => extended.size = some(decimal(value))?,
        b"mtime" if empty => extended.mtime = None,
        b"mtime" => extended.mtime = Some(pax_time(value)?),
        _ => {}
    }
    Some(())
}

/// `[-]seconds[.fraction]`
fn pax_time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (negative, digits) = match whole.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, whole),
    };
    let seconds = i64::try_from(decimal(digits.as_bytes())?).ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nine: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some((if negative { -seconds } else { seconds }, nine.parse().ok()?))
}

fn sparse_record(word: &[u8], value: &[u8], sparse: &mut SparseWords) -> Option<()> {
    match word {
        b"major" => sparse.major = Some(value.to_vec()),
        b"minor" => sparse.minor = Some(value.to_vec()),
        b"name" if !value.is_empty() && !value.contains(&0) => sparse.name = Some(value.to_vec()),
        b"size" | b"realsize" => sparse.size = Some(decimal(value)?),
        b"offset" | b"numbytes" => {
            // Format 0.0 repeats the two in turn.
            if sparse.map.len().is_multiple_of(2) != (word == b"offset") {
                return None;
            }
            sparse.map.push(decimal(value)?);
            sparse.has_map = true;
        }
        b"map" => {
            sparse.has_map = true;
            if !value.is_empty() {
                for number in value.split(|&byte| byte == b',') {
                    sparse.map.push(decimal(number)?);
                }
            }
        }
        _ => {}
    }
    Some(())
}

/// Finds the entry's holes, in whichever of the four formats they are written.
fn read_sparse<R: Read>(
    stream: &mut Stream<R>,
    header: &[u8; BLOCK],
    words: SparseWords,
    entry: &mut Entry,
) -> Result<(), Refusal> {
    let one = words.major.as_deref() == Some(b"1") && words.minor.as_deref() == Some(b"0");
    let map = if header[156] == b'S' {
        let (size, map) = old_gnu_map(stream, header)?;
        entry.size = size;
        map
    } else if one {
        entry.size = words.size.ok_or_else(|| bad("sparse size"))?;
        let (map, length) = leading_map(stream, entry.stored)?;
        entry.stored -= length;
        map
    } else if words.has_map {
        entry.size = words.size.ok_or_else(|| bad("sparse size"))?;
        words.map
    } else {
        return Ok(());
    };
    entry.sparse = Some(checked_map(&map, entry)?);
    Ok(())
}

/// Fragments in ascending order, within the file, that take exactly the stored bytes.
fn checked_map(numbers: &[u64], entry: &Entry) -> Result<Vec<(u64, u64)>, Refusal> {
    let malformed = || bad("sparse map");
    if !numbers.len().is_multiple_of(2) {
        return Err(malformed());
    }
    let mut map = Vec::with_capacity(numbers.len() / 2);
    let (mut end, mut stored) = (0u64, 0u64);
    for pair in numbers.chunks_exact(2) {
        let (offset, length) = (pair[0], pair[1]);
        let fragment_end = offset.checked_add(length).ok_or_else(malformed)?;
        if offset < end || fragment_end > entry.size {
            return Err(malformed());
        }
        end = fragment_end;
        stored += length;
        if length > 0 {
            map.push((offset, length));
        }
    }
    if stored == entry.stored { Ok(map) } else { Err(malformed()) }
}

/// The old GNU format: four fragments in the header, more in blocks that follow it.
fn old_gnu_map<R: Read>(
    stream: &mut Stream<R>,
    header: &[u8; BLOCK],
) -> Result<(u64, Vec<u64>), Refusal> {
    let size = unsigned(&header[483..495], "sparse size")?;
    let mut map = Vec::new();
    push_fragments(&header[386..482], &mut map)?;
    let mut more = header[482] != 0;
    while more {
        let block = stream.block()?.ok_or_else(|| bad("sparse map"))?;
        push_fragments(&block[..504], &mut map)?;
        more = block[504] != 0;
    }
    Ok((size, map))
}

fn push_fragments(fields: &[u8], map: &mut Vec<u64>) -> Result<(), Refusal> {
    for fragment in fields.chunks_exact(24) {
        if fragment[0] == 0 {
            break;
        }
        map.push(unsigned(&fragment[..12], "sparse map")?);
        map.push(unsigned(&fragment[12..], "sparse map")?);
    }
    bounded(map)
}

fn bounded(map: &[u64]) -> Result<(), Refusal> {
    if map.len() / 2 > SPARSE_FRAGMENTS_MAX {
        return Err(Refusal::limit(format!("more than {SPARSE_FRAGMENTS_MAX} sparse fragments")));
    }
    Ok(())
}

/// PAX format 1.0: the map stands in front of the content, one decimal number a line, padded to a
/// block. Answers the numbers and how many bytes they took.
fn leading_map<R: Read>(stream: &mut Stream<R>, stored: u64) -> Result<(Vec<u64>, u64), Refusal> {
    let malformed = || bad("sparse map");
    let (mut lines, mut line, mut taken) = (Vec::new(), Vec::new(), 0u64);
    let mut wanted = None;
    while wanted.is_none_or(|wanted| lines.len() < wanted) {
        taken += BLOCK as u64;
        if taken > stored {
            return Err(malformed());
        }
        for byte in stream.block()?.ok_or_else(malformed)? {
            if byte != b'\n' {
                line.push(byte);
                if line.len() > 20 && wanted.is_none_or(|wanted| lines.len() < wanted) {
                    return Err(malformed());
                }
                continue;
            }
            let value = decimal(&line).ok_or_else(malformed)?;
            line.clear();
            if wanted.is_none() {
                let count = usize::try_from(value).ok().and_then(|count| count.checked_mul(2));
                wanted = Some(count.ok_or_else(malformed)?);
            } else {
                lines.push(value);
            }
            if wanted.is_some_and(|wanted| lines.len() == wanted) {
                break;
            }
        }
        bounded(&lines)?;
    }
    Ok((lines, taken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numeric_fields() {
        let big = |byte: u8, rest: &[u8]| [&[byte][..], rest].concat();
        for (field, want) in [
            (b"0000644\0".to_vec(), Some(0o644)),
            (b"   644 \0".to_vec(), Some(0o644)),
            (b"\0\0\0\0\0\0\0\0".to_vec(), Some(0)),
            (b"0000648\0".to_vec(), None),
            (b"-000001\0".to_vec(), None),
            (big(0x80, &[0, 0, 0, 0, 0, 1, 0]), Some(256)),
            (big(0xff, &[0xff; 7]), Some(-1)),
            (big(0x80, &[0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None),
        ] {
            assert_eq!(number(&field), want, "{field:?}");
        }
    }

    #[test]
    fn times() {
        for (text, want) in [
            ("1", Some((1, 0))),
            ("1.5", Some((1, 500_000_000))),
            ("-3.25", Some((-3, 250_000_000))),
            ("1.1234567891", Some((1, 123_456_789))),
            ("", None),
            ("x", None),
            ("1.x", None),
            ("+1", None),
        ] {
            assert_eq!(pax_time(text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn malformed_pax_is_refused() {
        for text in [
            &b"6 a=b"[..],
            b"5 a=b\n",
            b"7 a=b\n",
            b"x a=b\n",
            b"5 =b\n",
            b"3 \n",
            b"99999999999999999999999 a=b\n",
            b"9 size=x\n",
            b"11 size=-1\n",
            b"9 path=\0\n",
        ] {
            assert!(read_pax(text, &mut Extended::default()).is_err(), "{text:?}");
        }
        let mut extended = Extended::default();
        read_pax(b"10 uid=70\n11 path=ab\n", &mut extended).unwrap();
        assert_eq!(extended.uid, Some(70));
        assert_eq!(extended.path.unwrap(), b"ab");
    }

    #[test]
    fn padding_reaches_the_next_block() {
        for (size, want) in [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511)] {
            assert_eq!(padding(size), want);
        }
    }
}
