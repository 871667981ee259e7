//! What only the database can do wrong: groups, full disks, lost writes, restarts.

use futures_util::future::join_all;

use super::super::suite::{by_digest, by_tag, digest, manifest, repo};
use super::*;
use crate::records::{PutManifestError, RecordsError};

fn open(directory: &Path) -> SqliteRecords {
    SqliteRecords::open(directory, &Options::default()).unwrap()
}

async fn set(records: &SqliteRecords, pragma: &'static str, value: i64) {
    let set = move |change: &mut writer::Change<'_>| {
        change.connection.pragma_update_and_check(None, pragma, value, |_| Ok(()))
    };
    records.change(set).await.unwrap();
}

#[tokio::test]
async fn a_group_keeps_what_is_good_and_refuses_what_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(directory.path());
    records.publish(Publish::file(&repo("a"), &digest("layer"), 5)).await.unwrap();
    let pushes = (0..200).map(|n| {
        let (text, tag) = (format!("manifest {n}"), format!("t{n}"));
        let child = if n % 3 == 0 { "absent" } else { "layer" };
        records.put_manifest(manifest("a", &text, &[child], &[&tag]))
    });
    for (n, result) in join_all(pushes).await.into_iter().enumerate() {
        let found = records.resolve(&repo("a"), &by_tag(&format!("t{n}"))).await.unwrap();
        match result {
            Ok(_) => assert!(n % 3 != 0 && found.is_some(), "{n}"),
            Err(PutManifestError::Missing(_)) => assert!(n % 3 == 0 && found.is_none(), "{n}"),
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_full_disk_fails_what_does_not_fit_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(directory.path());
    set(&records, "max_page_count", 64).await;
    let large = "x".repeat(1 << 20);
    for _ in 0..3 {
        let pushes = (0..9).map(|n| {
            let text = if n == 4 { large.clone() } else { format!("small {n}") };
            records.put_manifest(manifest("a", &text, &[], &[]))
        });
        for (n, result) in join_all(pushes).await.into_iter().enumerate() {
            match result {
                Ok(_) => assert_ne!(n, 4),
                Err(PutManifestError::Records(RecordsError::Full)) => assert_eq!(n, 4),
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert!(records.is_writable(), "a full disk is not a broken one");
    assert!(records.delete_manifest(&repo("a"), &digest("small 1")).await.unwrap());
    set(&records, "max_page_count", i64::from(u32::MAX)).await;
    records.put_manifest(manifest("a", &large, &[], &[])).await.unwrap();
    assert!(records.resolve(&repo("a"), &by_digest(&large)).await.unwrap().is_some());
}

#[tokio::test]
async fn after_a_lost_write_reads_go_on_and_writes_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(directory.path());
    records.publish(Publish::file(&repo("a"), &digest("one"), 3)).await.unwrap();
    let lost = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
    records.shared.poison(&rusqlite::Error::SqliteFailure(lost, None));
    assert!(!records.is_writable());
    let refused = records.publish(Publish::file(&repo("a"), &digest("two"), 3)).await;
    assert!(matches!(refused, Err(RecordsError::ReadOnly)), "{refused:?}");
    assert!(records.find_blob(&repo("a"), &digest("one")).await.unwrap().is_some());
    assert!(matches!(records.close().await, Err(RecordsError::ReadOnly)));

    let records = open(directory.path());
    assert!(records.find_blob(&repo("a"), &digest("one")).await.unwrap().is_some());
    records.publish(Publish::file(&repo("a"), &digest("two"), 3)).await.unwrap();
}

#[test]
fn failures_are_told_apart() {
    use rusqlite::ffi;
    let error = |code| rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
    for (code, full, lost) in [
        (ffi::SQLITE_FULL, true, false),
        (ffi::SQLITE_IOERR_SHMSIZE, true, false),
        (ffi::SQLITE_IOERR_WRITE, false, true),
        (ffi::SQLITE_IOERR_FSYNC, false, true),
        (ffi::SQLITE_IOERR_READ, false, false),
        (ffi::SQLITE_BUSY, false, false),
    ] {
        assert_eq!(writer::is_full(&error(code)), full, "{code}");
        assert_eq!(writer::is_lost_write(&error(code)), lost, "{code}");
    }
}

#[tokio::test]
async fn a_restart_owes_a_sweep_unless_the_records_were_closed() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(directory.path());
    assert!(!records.needs_sweep(), "a new store has nothing to look for");
    records.publish(Publish::file(&repo("a"), &digest("one"), 3)).await.unwrap();
    drop(records);

    let records = open(directory.path());
    assert!(records.needs_sweep());
    records.close().await.unwrap();
    assert!(matches!(records.sweep_done().await, Ok(())));
    let closed = records.publish(Publish::file(&repo("a"), &digest("two"), 3)).await;
    assert!(matches!(closed, Err(RecordsError::Closed)), "{closed:?}");
    let log = directory.path().join("registry.db-wal");
    assert!(!log.exists() || std::fs::metadata(log).unwrap().len() == 0, "the one file is whole");

    let records = open(directory.path());
    assert!(records.needs_sweep(), "owed until it is done");
    records.sweep_done().await.unwrap();
    records.close().await.unwrap();
    assert!(!open(directory.path()).needs_sweep());
}

#[tokio::test]
async fn the_log_stays_short_under_steady_writing() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(directory.path());
    let text = "m".repeat(100_000);
    for n in 0..60 {
        let pushes = (0..20)
            .map(|k| records.put_manifest(manifest("a", &format!("{n} {k} {text}"), &[], &[])));
        for result in join_all(pushes).await {
            result.unwrap();
        }
    }
    let log = std::fs::metadata(directory.path().join("registry.db-wal")).unwrap().len();
    assert!(log < 72 << 20, "120 MB were written and the log has {log} bytes");
}

#[tokio::test]
async fn a_backup_is_the_newest_state_in_one_file() {
    let directory = tempfile::tempdir().unwrap();
    let records = open(directory.path());
    records.put_manifest(manifest("a", "m", &[], &["t"])).await.unwrap();
    let copy = tempfile::tempdir().unwrap();
    records.backup(copy.path()).await.unwrap();
    records.delete_manifest(&repo("a"), &digest("m")).await.unwrap();
    let restored = open(copy.path());
    assert!(restored.resolve(&repo("a"), &by_tag("t")).await.unwrap().is_some());
}
