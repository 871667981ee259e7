//! The write-ahead log looked at before SQLite recovers from it: SQLite takes what is whole from the
//! beginning and drops the rest without a word.
//!
//! A crash leaves at most one transaction unfinished at the log's end, because the next one begins
//! only when the one before was synced. Whole transactions behind a frame that is not were therefore
//! acknowledged, and a byte of the log has changed since.
//!
//! Source: <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
const MAGIC: u32 = 0x377f_0682;

/// What is kept beside a log that was found damaged: all of it, as it was.
const KEPT: &str = "-wal.damaged";

/// A log that holds more than SQLite will take from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// The first frame that is not whole, counted from 1.
    pub(super) frame: u64,
    /// Whole transactions behind it.
    pub(super) lost: u64,
}

/// Where the log of the database at `path` is.
fn log_of(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The log that was kept because it was damaged, if there is one.
pub(super) fn kept(path: &Path) -> Option<PathBuf> {
    Some(log_of(path, KEPT)).filter(|kept| kept.exists())
}

/// Keeps a copy of a damaged log, durably, before SQLite forgets what it does not understand.
///
/// # Errors
/// When the log cannot be read or copied.
pub(super) fn keep_if_damaged(path: &Path) -> io::Result<Option<Damage>> {
    let log = log_of(path, "-wal");
    let file = match File::open(&log) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let damage = look(&mut BufReader::with_capacity(1 << 20, file))?;
    if damage.is_some() {
        let kept = log_of(path, KEPT);
        std::fs::copy(&log, &kept)?;
        File::open(&kept)?.sync_all()?;
    }
    Ok(damage)
}

/// Reads a log to its end.
fn look(log: &mut impl io::Read) -> io::Result<Option<Damage>> {
    let mut header = [0; HEADER_BYTES];
    if !fill(log, &mut header)? {
        return Ok(None);
    }
    let magic = word(&header, 0);
    let page = usize::try_from(word(&header, 8)).unwrap_or(usize::MAX);
    let mut sum = Sum { big_endian: magic & 1 == 1, value: (0, 0) };
    sum.add(&header[..24]);
    let valid = magic & !1 == MAGIC && (512..=65_536).contains(&page) && page.is_power_of_two();
    if !valid || sum.value != (word(&header, 24), word(&header, 28)) {
        // Nothing in it can be told from noise.
        return Ok(None);
    }
    let mut frame = vec![0; FRAME_HEADER_BYTES + page];
    let (mut number, mut broken, mut whole) = (0, None, true);
    // Transactions that begin behind the broken one, and whether the one under way is whole.
    let (mut lost, mut behind) = (0, false);
    while fill(log, &mut frame)? {
        number += 1;
        // Else it is what an earlier use of the file has left behind its end, or damaged.
        let ours = frame[8..16] == header[16..24];
        let stored = (word(&frame, 16), word(&frame, 20));
        sum.add(&frame[..8]);
        sum.add(&frame[FRAME_HEADER_BYTES..]);
        let sound = ours && sum.value == stored;
        // Each sum goes on from the one before: the next frame is judged by what stands here.
        sum.value = stored;
        if !sound && broken.is_none() {
            broken = Some(number);
        }
        whole &= sound;
        let commits = word(&frame, 4) != 0 && (ours || broken == Some(number));
        if commits && broken.is_some() {
            lost += u64::from(behind && whole);
            behind = true;
        }
        if commits {
            whole = true;
        }
    }
    Ok(broken.filter(|_| lost > 0).map(|frame| Damage { frame, lost }))
}

/// False at the end, or where less is left.
fn fill(log: &mut impl io::Read, buffer: &mut [u8]) -> io::Result<bool> {
    match log.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

/// The log's cumulative checksum.
struct Sum {
    big_endian: bool,
    value: (u32, u32),
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        let (mut a, mut b) = self.value;
        let (pairs, _) = bytes.as_chunks::<8>();
        for pair in pairs {
            let (x, y) = (word(pair, 0), word(pair, 4));
            let (x, y) = if self.big_endian { (x, y) } else { (x.swap_bytes(), y.swap_bytes()) };
            a = a.wrapping_add(x).wrapping_add(b);
            b = b.wrapping_add(y).wrapping_add(a);
        }
        self.value = (a, b);
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::super::schema;
    use super::*;

    /// A log of `commits` transactions, and its database.
    fn database(directory: &Path, commits: usize) -> PathBuf {
        let path = directory.join("records.db");
        let writer = schema::open_writer(&path).unwrap();
        writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        for n in 0..commits {
            let text = format!("{n} {}", "x".repeat(6000));
            writer.execute("INSERT INTO meta VALUES (?1, ?2)", (n.to_string(), text)).unwrap();
        }
        path
    }

    fn flip(path: &Path, at: u64) {
        let log = log_of(path, "-wal");
        let mut bytes = std::fs::read(&log).unwrap();
        let at = usize::try_from(at).unwrap() % bytes.len();
        bytes[at] ^= 1;
        std::fs::write(log, bytes).unwrap();
    }

    fn rows(path: &Path) -> i64 {
        let reader = Connection::open(path).unwrap();
        reader.query_row("SELECT count(*) FROM meta", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn whole_transactions_behind_a_flipped_byte_are_told_and_a_torn_end_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = database(directory.path(), 30);
        let length = std::fs::metadata(log_of(&path, "-wal")).unwrap().len();
        assert_eq!(keep_if_damaged(&path).unwrap(), None);
        assert_eq!(kept(&path), None);

        // Cut anywhere, as a crash leaves it: what is gone was not acknowledged, or its sync lied.
        for cut in [length - 1, length - 5000, length / 2, 100, 10] {
            let bytes = std::fs::read(log_of(&path, "-wal")).unwrap();
            let cut = &bytes[..usize::try_from(cut).unwrap()];
            assert_eq!(look(&mut &cut[..]).unwrap(), None);
        }

        flip(&path, length - 100);
        assert_eq!(keep_if_damaged(&path).unwrap(), None, "the last one may be a crash's");
        flip(&path, length - 100);

        flip(&path, length / 3);
        let damage = keep_if_damaged(&path).unwrap().unwrap();
        assert!(damage.frame > 5 && (15..25).contains(&damage.lost), "{damage:?}");
        let copy = kept(&path).unwrap();
        assert_eq!(std::fs::metadata(&copy).unwrap().len(), length);
        // As many as SQLite drops, but for the one that holds the byte.
        let found = u64::try_from(rows(&path)).unwrap();
        assert_eq!(found + damage.lost + 1, 30);
    }

    #[test]
    fn what_an_earlier_use_of_the_file_left_is_no_damage() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("records.db");
        let writer = schema::open_writer(&path).unwrap();
        let insert = |n: i64, letter: &str| {
            let text = letter.repeat(6000);
            writer.execute("INSERT OR REPLACE INTO meta VALUES (?1, ?2)", (n.to_string(), text))
        };
        for n in 0..30 {
            insert(n, "x").unwrap();
        }
        writer.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
        for n in 0..3 {
            insert(n, "y").unwrap();
        }
        assert_eq!(keep_if_damaged(&path).unwrap(), None);
        flip(&path, HEADER_BYTES as u64 + 100);
        let damage = keep_if_damaged(&path).unwrap().unwrap();
        assert_eq!(damage, Damage { frame: 1, lost: 2 });
    }
}
