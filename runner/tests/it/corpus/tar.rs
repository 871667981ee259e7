//! Tars written byte by byte, so that also those can be made that no tool writes.

pub(crate) const BLOCK: usize = 512;

/// The time of every entry that does not say otherwise.
pub(crate) const MTIME: i64 = 1_700_000_000;

/// One entry. What does not fit into its header becomes a PAX record, as GNU tar and Go do it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: i64,
    pub(crate) link: Vec<u8>,
    pub(crate) device: (u32, u32),
    pub(crate) data: Vec<u8>,
    /// The size that the header tells, where it is to differ from the data's.
    pub(crate) size: Option<u64>,
    pub(crate) pax: Vec<(String, Vec<u8>)>,
}

fn entry(kind: u8, name: impl AsRef<[u8]>, mode: u32) -> Entry {
    Entry {
        name: name.as_ref().to_vec(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: MTIME,
        link: Vec::new(),
        device: (0, 0),
        data: Vec::new(),
        size: None,
        pax: Vec::new(),
    }
}

pub(crate) fn file(name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Entry {
    Entry { data: data.as_ref().to_vec(), ..entry(b'0', name, 0o644) }
}

pub(crate) fn dir(name: impl AsRef<[u8]>) -> Entry {
    entry(b'5', name, 0o755)
}

pub(crate) fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    Entry { link: target.as_ref().to_vec(), ..entry(b'2', name, 0o777) }
}

pub(crate) fn hard_link(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    Entry { link: target.as_ref().to_vec(), ..entry(b'1', name, 0o644) }
}

pub(crate) fn char_device(name: impl AsRef<[u8]>, major: u32, minor: u32) -> Entry {
    Entry { device: (major, minor), ..entry(b'3', name, 0o600) }
}

pub(crate) fn block_device(name: impl AsRef<[u8]>, major: u32, minor: u32) -> Entry {
    Entry { device: (major, minor), ..entry(b'4', name, 0o600) }
}

pub(crate) fn fifo(name: impl AsRef<[u8]>) -> Entry {
    entry(b'6', name, 0o600)
}

pub(crate) fn of_kind(kind: u8, name: impl AsRef<[u8]>) -> Entry {
    entry(kind, name, 0o644)
}

impl Entry {
    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub(crate) fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    pub(crate) fn mtime(mut self, mtime: i64) -> Self {
        self.mtime = mtime;
        self
    }

    pub(crate) fn kind(mut self, kind: u8) -> Self {
        self.kind = kind;
        self
    }

    /// Claims another size than the data has.
    pub(crate) fn size(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }

    pub(crate) fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub(crate) fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }

    /// Header and data, with a PAX header in front where one is needed.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut pax = self.pax.clone();
        let has = |pax: &[(String, Vec<u8>)], key: &str| pax.iter().any(|(known, _)| known == key);
        if self.name.len() > 100 && !has(&pax, "path") {
            pax.push(("path".into(), self.name.clone()));
        }
        if self.link.len() > 100 && !has(&pax, "linkpath") {
            pax.push(("linkpath".into(), self.link.clone()));
        }
        for (key, id) in [("uid", self.uid), ("gid", self.gid)] {
            if id > 0o7_777_777 && !has(&pax, key) {
                pax.push((key.into(), id.to_string().into_bytes()));
            }
        }
        let mut bytes = Vec::new();
        if !pax.is_empty() {
            let records = pax_records(&pax);
            let header = of_kind(b'x', "PaxHeaders/x").header(records.len() as u64);
            bytes.extend(header);
            bytes.extend(padded(&records));
        }
        bytes.extend(self.header(self.size.unwrap_or(self.data.len() as u64)));
        bytes.extend(padded(&self.data));
        bytes
    }

    /// The 512 bytes of a ustar header.
    pub(crate) fn header(&self, size: u64) -> Vec<u8> {
        let mut header = vec![0; BLOCK];
        put(&mut header, 0, &self.name[..self.name.len().min(100)]);
        octal(&mut header[100..108], u64::from(self.mode));
        octal(&mut header[108..116], self.uid & 0o7_777_777);
        octal(&mut header[116..124], self.gid & 0o7_777_777);
        octal(&mut header[124..136], size);
        match u64::try_from(self.mtime) {
            Ok(mtime) => octal(&mut header[136..148], mtime),
            Err(_) => base_256(&mut header[136..148], self.mtime),
        }
        header[156] = self.kind;
        put(&mut header, 157, &self.link[..self.link.len().min(100)]);
        put(&mut header, 257, b"ustar\x0000");
        octal(&mut header[329..337], u64::from(self.device.0));
        octal(&mut header[337..345], u64::from(self.device.1));
        seal(header)
    }
}

/// Writes the checksum into a header.
pub(crate) fn seal(mut header: Vec<u8>) -> Vec<u8> {
    header[148..156].fill(b' ');
    let sum: u64 = header.iter().map(|&byte| u64::from(byte)).sum();
    let text = format!("{sum:06o}\0 ");
    put(&mut header, 148, text.as_bytes());
    header
}

pub(crate) fn put(header: &mut [u8], at: usize, bytes: &[u8]) {
    header[at..at + bytes.len()].copy_from_slice(bytes);
}

fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    if text.len() > digits {
        base_256(field, value.cast_signed());
    } else {
        put(field, 0, text.as_bytes());
        field[digits] = 0;
    }
}

/// GNU's form of a number that octal digits cannot hold.
pub(crate) fn base_256(field: &mut [u8], value: i64) {
    let length = field.len();
    field.fill(if value < 0 { 0xff } else { 0 });
    let bytes = value.to_be_bytes();
    let take = length.min(8);
    field[length - take..].copy_from_slice(&bytes[8 - take..]);
    field[0] |= 0x80;
}

pub(crate) fn pax_records(records: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        bytes.extend(format!("{length} {key}=").bytes());
        bytes.extend(value);
        bytes.push(b'\n');
    }
    bytes
}

pub(crate) fn padded(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    bytes.resize(data.len().div_ceil(BLOCK) * BLOCK, 0);
    bytes
}

/// A whole tar, with the two zero blocks of its end.
pub(crate) fn tar(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
    let mut bytes: Vec<u8> = entries.into_iter().flat_map(|entry| entry.bytes()).collect();
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    bytes
}

/// A GNU long name (`L`) or long link (`K`) in front of an entry.
pub(crate) fn gnu_long(kind: u8, text: &[u8]) -> Vec<u8> {
    let mut data = text.to_vec();
    data.push(0);
    let mut bytes = of_kind(kind, "././@LongLink").header(data.len() as u64);
    bytes.extend(padded(&data));
    bytes
}

/// An old GNU sparse file: its map in the header, in further blocks what does not fit there.
pub(crate) fn gnu_sparse(name: &str, map: &[(u64, &[u8])], real_size: u64) -> Vec<u8> {
    let data: Vec<u8> = map.iter().flat_map(|(_, data)| data.to_vec()).collect();
    let mut header = of_kind(b'S', name).header(data.len() as u64);
    put(&mut header, 257, b"ustar  \0");
    header[345..].fill(0);
    let fragment = |place: &mut [u8], (offset, data): &(u64, &[u8])| {
        octal(&mut place[..12], *offset);
        octal(&mut place[12..24], data.len() as u64);
    };
    for (at, part) in map.iter().take(4).enumerate() {
        fragment(&mut header[386 + at * 24..386 + (at + 1) * 24], part);
    }
    octal(&mut header[483..495], real_size);
    let mut rest = &map[map.len().min(4)..];
    header[482] = u8::from(!rest.is_empty());
    let mut bytes = seal(header);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(21));
        let mut block = vec![0; BLOCK];
        for (at, part) in now.iter().enumerate() {
            fragment(&mut block[at * 24..(at + 1) * 24], part);
        }
        block[504] = u8::from(!later.is_empty());
        bytes.extend(block);
        rest = later;
    }
    bytes.extend(padded(&data));
    bytes
}
