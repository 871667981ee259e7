//! The database file: its tables, its format marker, how connections to it are opened.
//!
//! Digests are integers everywhere but in one table, because each stands in several indexes and
//! 33 bytes repeated there are what makes pushes slow once millions are stored. Indexes lead with
//! the digest rather than the repository where they can: what is new has the highest number, so
//! that pushes append to an index instead of writing all over it.

use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::failpoint::fail_point;

/// `Road`, in ASCII: what `file` and a wrong program see in the header.
const APPLICATION_ID: i32 = 0x526f_6164;

/// The form of the tables. Raise it with every change that an older program would misread, and
/// add the step from the form before to [`migrate`]. There is no way back but a backup.
pub(super) const FORMAT: i32 = 1;

/// Statements kept compiled per connection; there are about eighty.
const STATEMENTS_MAX: usize = 128;

/// KiB of page cache: most of what is touched again is the upper levels of the trees.
const WRITER_CACHE_KIB: i32 = 16 * 1024;
const READER_CACHE_KIB: i32 = 2 * 1024;

pub(super) const STATE_LIVE: i64 = 0;
pub(super) const STATE_REMOVING: i64 = 1;
pub(super) const STATE_QUARANTINED: i64 = 2;

/// The first column of a review: what it looks at.
pub(super) const REVIEW_LINK: i64 = 0;
pub(super) const REVIEW_BLOB: i64 = 1;

const TABLES: &str = "
    CREATE TABLE meta(key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;

    -- name: with ! for /, whose byte order is distribution's catalog order.
    -- listed: whether the repository has a manifest; a flag, because a count would be rewritten
    -- by every push.
    CREATE TABLE repo(
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, listed INTEGER NOT NULL DEFAULT 0);
    CREATE INDEX repo_listed ON repo(name) WHERE listed = 1;

    -- digest: one byte for the algorithm, then the raw hash.
    -- manifests: how many manifests have it as their own digest or as their subject.
    -- size, state: of the blob, if there is one. A row goes when nothing refers to it any more, and
    -- its number is not given again: a review may still be queued under it.
    CREATE TABLE digest(
        id INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB NOT NULL UNIQUE, manifests INTEGER NOT NULL DEFAULT 0,
        size INTEGER, state INTEGER);
    CREATE INDEX blob_unsettled ON digest(state) WHERE state > 0;

    CREATE TABLE link(
        blob INTEGER, repo INTEGER, condemned_at INTEGER, PRIMARY KEY(blob, repo)) WITHOUT ROWID;

    -- pushed_at: the collection clock. created_at: Unix seconds, for people.
    -- children: the ids of the digests it names, 8 bytes each, little-endian, sorted.
    -- Small columns first: a list of referrers does not read the bytes.
    CREATE TABLE manifest(
        id INTEGER PRIMARY KEY, repo INTEGER NOT NULL, digest INTEGER NOT NULL,
        pushed_at INTEGER NOT NULL, created_at INTEGER NOT NULL, media_type TEXT NOT NULL,
        subject INTEGER, artifact_type TEXT, descriptor TEXT,
        children BLOB NOT NULL, bytes BLOB NOT NULL);
    CREATE UNIQUE INDEX manifest_of ON manifest(repo, digest);
    CREATE INDEX referrer ON manifest(subject, repo, artifact_type) WHERE subject IS NOT NULL;

    -- child: a blob or a manifest, which may be absent.
    -- promised: it was there when the parent was pushed, and no client has deleted it since.
    CREATE TABLE edge(
        child INTEGER, repo INTEGER, parent INTEGER, promised INTEGER NOT NULL,
        PRIMARY KEY(child, repo, parent)) WITHOUT ROWID;

    CREATE TABLE tag(
        repo INTEGER, name TEXT, manifest INTEGER NOT NULL, created_at INTEGER NOT NULL,
        PRIMARY KEY(repo, name)) WITHOUT ROWID;
    CREATE INDEX tag_of ON tag(manifest);

    -- repo: 0 in the review of a blob.
    CREATE TABLE review(
        due INTEGER, kind INTEGER, repo INTEGER, digest INTEGER,
        PRIMARY KEY(due, kind, repo, digest)) WITHOUT ROWID;
";

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the records are in format {found}, and this program knows formats up to {FORMAT}")]
    NewerFormat { found: i32 },
    #[error("the file is a SQLite database of another program (application id {found:#x})")]
    Foreign { found: i32 },
    #[error("the records cannot be opened")]
    Sqlite(#[from] rusqlite::Error),
    /// Not a database of records, or not a whole one.
    #[error("the records are damaged: {0}")]
    Damaged(String),
    #[error("the records' directory cannot be used")]
    Io(#[from] std::io::Error),
}

impl OpenError {
    /// Whether the file is there and cannot be understood.
    pub fn is_damage(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        match self {
            Self::Sqlite(error) => {
                matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
            }
            Self::Damaged(_) => true,
            Self::Foreign { .. } | Self::NewerFormat { .. } | Self::Io(_) => false,
        }
    }
}

/// Opens the database for writing, creates or migrates it, and makes its directory entry durable.
pub(super) fn open_writer(path: &Path) -> Result<Connection, OpenError> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_EXRESCODE,
    )?;
    check_marker(&connection)?;
    configure(&connection, WRITER_CACHE_KIB)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let synchronous = if fail_point!("log-sync", off) { "NORMAL" } else { "FULL" };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    migrate(&connection)?;
    if let Some(directory) = path.parent() {
        std::fs::File::open(directory)?.sync_all()?;
    }
    Ok(connection)
}

/// Opens one more connection for a thread that only reads.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_EXRESCODE,
    )?;
    configure(&connection, READER_CACHE_KIB)?;
    Ok(connection)
}

/// Opens the connection that checkpoints.
pub(super) fn open_checkpointer(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_EXRESCODE,
    )?;
    configure(&connection, READER_CACHE_KIB)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    Ok(connection)
}

/// Whose records a copy holds: see [`identity`]. Looks at all of it and changes nothing beside it.
///
/// # Errors
/// When it is not whole, or holds no records.
pub fn inspect(path: &Path) -> Result<String, OpenError> {
    let file = std::fs::File::open(path)?;
    if file.metadata()?.len() == 0 {
        // To SQLite that is a database, of nothing.
        return Err(OpenError::Damaged("the file is empty".to_owned()));
    }
    let connection = open_reader(path)?;
    check_marker(&connection)?;
    let looked: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if looked != "ok" {
        return Err(OpenError::Damaged(looked));
    }
    identity(&connection)?.ok_or_else(|| OpenError::Damaged("they name no registry".to_owned()))
}

/// The name that a registry's records were given when they were made, and that every copy has.
fn identity(connection: &Connection) -> rusqlite::Result<Option<String>> {
    use rusqlite::OptionalExtension as _;
    connection
        .query_row("SELECT value FROM meta WHERE key = 'identity'", [], |row| row.get(0))
        .optional()
}

/// Names records that have no name yet.
pub(super) fn give_identity(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .execute(
            "INSERT OR IGNORE INTO meta(key, value) VALUES ('identity', ?1)",
            [uuid::Uuid::new_v4().to_string()],
        )
        .map(drop)
}

fn configure(connection: &Connection, cache_kib: i32) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // A last connection that closes must not checkpoint on its own: after a failed sync, syncing
    // again would seem to succeed though the kernel has dropped the pages.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update(None, "cache_size", -cache_kib)
}

/// Refuses what is not ours or is newer, before anything is written to it.
fn check_marker(connection: &Connection) -> Result<(), OpenError> {
    let marker = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let (application, format) = (marker("application_id")?, marker("user_version")?);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match application {
        APPLICATION_ID if format > FORMAT => Err(OpenError::NewerFormat { found: format }),
        APPLICATION_ID => Ok(()),
        0 if tables == 0 => Ok(()),
        found => Err(OpenError::Foreign { found }),
    }
}

/// Brings the tables to [`FORMAT`] in one transaction.
fn migrate(connection: &Connection) -> Result<(), OpenError> {
    let format: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if format == FORMAT {
        return Ok(());
    }
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE;
         {TABLES}
         PRAGMA application_id = {APPLICATION_ID};
         PRAGMA user_version = {FORMAT};
         COMMIT;"
    ))?;
    Ok(())
}

/// Reads a number that is kept beside the facts; 0 if it was never written.
pub(super) fn meta(connection: &Connection, key: &str) -> rusqlite::Result<i64> {
    use rusqlite::OptionalExtension as _;
    let value = connection
        .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()?;
    Ok(value.unwrap_or(0))
}

pub(super) fn set_meta(connection: &Connection, key: &str, value: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO meta(key, value) VALUES (?1, ?2)")?
        .execute((key, value))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_newer_format_and_a_foreign_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("records.db");
        drop(open_writer(&path).unwrap());
        drop(open_writer(&path).unwrap());

        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "user_version", FORMAT + 1).unwrap();
        assert!(matches!(open_writer(&path), Err(OpenError::NewerFormat { .. })));
        connection.pragma_update(None, "application_id", 7).unwrap();
        assert!(matches!(open_writer(&path), Err(OpenError::Foreign { found: 7 })));

        let other = directory.path().join("other.db");
        Connection::open(&other).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
        assert!(matches!(open_writer(&other), Err(OpenError::Foreign { found: 0 })));
    }
}
