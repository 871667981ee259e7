//! The database file looked at as a whole, beside everything else that goes on.
//!
//! SQLite reads all of it in one snapshot, and while a snapshot is open the log cannot start over.
//! So that the log stays short enough for a quick start, the look is given up when the log has grown
//! too much meanwhile, and repeated table by table.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use super::schema;
use crate::records::Fault;

/// Bytes that the log may grow by while a snapshot is open: twice what it may have by itself.
pub(super) const LOG_GROWTH_MAX: u64 = 128 << 20;

/// How often the log is measured.
const POLL: Duration = Duration::from_millis(50);

/// Looks at the file; a table that could not be looked at because of much writing is a fault of its
/// own. Blocks.
pub(super) fn check(path: &Path, growth_max: u64) -> rusqlite::Result<Vec<Fault>> {
    let connection = schema::open_reader(path)?;
    if let Some(faults) = guarded(&connection, path, growth_max, "PRAGMA quick_check")? {
        return Ok(faults);
    }
    let mut faults = Vec::new();
    for table in tables(&connection)? {
        let sql = format!("PRAGMA quick_check('{table}')");
        match guarded(&connection, path, growth_max, &sql)? {
            Some(found) => faults.extend(found),
            None => faults.push(Fault::Unchecked { table }),
        }
    }
    Ok(faults)
}

fn tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'")?
        .query_map([], |row| row.get(0))?
        .collect()
}

/// Runs a check; `None` if the log grew too much meanwhile.
fn guarded(
    connection: &Connection,
    path: &Path,
    growth_max: u64,
    sql: &str,
) -> rusqlite::Result<Option<Vec<Fault>>> {
    let handle = connection.get_interrupt_handle();
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let length = move || std::fs::metadata(&log).map_or(0, |meta| meta.len());
    let (before, done) = (length(), Arc::new(AtomicBool::new(false)));
    let guard = {
        let done = Arc::clone(&done);
        std::thread::spawn(move || {
            while !done.load(Ordering::Acquire) {
                if length().saturating_sub(before) > growth_max {
                    handle.interrupt();
                }
                std::thread::park_timeout(POLL);
            }
        })
    };
    let result = run(connection, sql);
    done.store(true, Ordering::Release);
    guard.thread().unpark();
    let _ = guard.join();
    match result {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
            Ok(None)
        }
        other => other.map(Some),
    }
}

fn run(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<Fault>> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut faults = Vec::new();
    while let Some(row) = rows.next()? {
        let detail: String = row.get(0)?;
        if detail != "ok" {
            faults.push(Fault::Damaged { detail });
        }
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(directory: &Path) -> (std::path::PathBuf, Connection) {
        let path = directory.join("records.db");
        let writer = schema::open_writer(&path).unwrap();
        (path, writer)
    }

    fn grow(writer: &Connection, bytes: usize) {
        let insert = "INSERT OR REPLACE INTO meta(key, value) VALUES ('filler', randomblob(?1))";
        writer.execute(insert, [bytes]).unwrap();
    }

    #[test]
    fn a_look_is_given_up_when_the_log_grows_meanwhile() {
        let directory = tempfile::tempdir().unwrap();
        let (path, writer) = database(directory.path());
        let reader = schema::open_reader(&path).unwrap();
        // Never ends by itself.
        let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)
                       SELECT 'ok' FROM c WHERE x < 0";
        let given_up = std::thread::scope(|scope| {
            let path = &path;
            let look = scope.spawn(move || guarded(&reader, path, 1 << 20, endless).unwrap());
            while !look.is_finished() {
                grow(&writer, 100_000);
            }
            look.join().unwrap()
        });
        assert_eq!(given_up, None);
        assert_eq!(check(&path, 1 << 20).unwrap(), []);
    }

    #[test]
    fn tables_are_looked_at_one_by_one() {
        let directory = tempfile::tempdir().unwrap();
        let (path, writer) = database(directory.path());
        let names = tables(&writer).unwrap();
        assert!(names.len() >= 7, "{names:?}");
        for table in names {
            let sql = format!("PRAGMA quick_check('{table}')");
            assert_eq!(guarded(&writer, &path, u64::MAX, &sql).unwrap(), Some(vec![]), "{table}");
        }
    }
}
