//! Reviews: the state machine of links, and what waits in it.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::blobs::{self, limit, queue_review};
use super::ids;
use super::schema::{REVIEW_BLOB, REVIEW_LINK, STATE_LIVE, STATE_QUARANTINED, STATE_REMOVING};
use super::writer::Change;
use crate::failpoint::fail_point;
use crate::records::{GcTime, Reclaimable, ReviewCursor, ReviewScope, Reviewed, Waiting};

/// Repositories forgotten in one change: some ten milliseconds of the writer.
const FORGOTTEN_MAX: i64 = 2000;

/// One entry of the queue; its order is the queue's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Review {
    due: u64,
    kind: i64,
    repo: i64,
    digest: i64,
}

impl Review {
    const START: Self = Self { due: 0, kind: -1, repo: 0, digest: 0 };

    fn cursor(self) -> ReviewCursor {
        let Self { due, kind, repo, digest } = self;
        ReviewCursor(format!("{due}.{kind}.{repo}.{digest}"))
    }

    fn from_cursor(cursor: &ReviewCursor) -> Option<Self> {
        let mut parts = cursor.0.splitn(4, '.');
        let due = parts.next()?.parse().ok()?;
        let mut number = || parts.next()?.parse().ok();
        Some(Self { due, kind: number()?, repo: number()?, digest: number()? })
    }
}

pub(super) fn review(change: &mut Change<'_>, scope: &ReviewScope) -> rusqlite::Result<Reviewed> {
    let until = if scope.all { GcTime::MAX } else { change.now };
    let after = scope.after.as_ref().and_then(Review::from_cursor).unwrap_or(Review::START);
    let queue = queued(change.connection, after, until, scope.max)?;
    let mut reviewed = Reviewed::default();
    if !queue.is_empty() || is_waiting(change.connection)? {
        change.keep_time();
    }
    if queue.len() == scope.max {
        reviewed.next = queue.last().map(|last| last.cursor());
    }
    for entry in queue {
        if entry.kind == REVIEW_LINK {
            review_link(change, scope, entry, &mut reviewed)?;
        } else {
            review_blob(change.connection, entry, &mut reviewed)?;
        }
    }
    Ok(reviewed)
}

fn is_waiting(c: &Connection) -> rusqlite::Result<bool> {
    c.prepare_cached("SELECT EXISTS (SELECT 1 FROM review)")?.query_row([], |row| row.get(0))
}

fn queued(
    c: &Connection,
    after: Review,
    until: GcTime,
    max: usize,
) -> rusqlite::Result<Vec<Review>> {
    c.prepare_cached(
        "SELECT due, kind, repo, digest FROM review
         WHERE (due, kind, repo, digest) > (?1, ?2, ?3, ?4) AND due <= ?5
         ORDER BY due, kind, repo, digest LIMIT ?6",
    )?
    .query_map(
        params![after.due, after.kind, after.repo, after.digest, until.as_millis(), limit(max)],
        |row| {
            Ok(Review {
                due: row.get(0)?,
                kind: row.get(1)?,
                repo: row.get(2)?,
                digest: row.get(3)?,
            })
        },
    )?
    .collect()
}

fn settle(c: &Connection, entry: Review, reviewed: &mut Reviewed) -> rusqlite::Result<()> {
    reviewed.settled += 1;
    c.prepare_cached(
        "DELETE FROM review WHERE due = ?1 AND kind = ?2 AND repo = ?3 AND digest = ?4",
    )?
    .execute(params![entry.due, entry.kind, entry.repo, entry.digest])?;
    Ok(())
}

fn review_link(
    change: &mut Change<'_>,
    scope: &ReviewScope,
    entry: Review,
    reviewed: &mut Reviewed,
) -> rusqlite::Result<()> {
    let c = change.connection;
    let condemned: Option<Option<u64>> = c
        .prepare_cached("SELECT condemned_at FROM link WHERE blob = ?1 AND repo = ?2")?
        .query_row([entry.digest, entry.repo], |row| row.get(0))
        .optional()?;
    let Some(condemned_at) = condemned else { return settle(c, entry, reviewed) };
    let named: bool = c
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM edge WHERE child = ?1 AND repo = ?2)")?
        .query_row([entry.digest, entry.repo], |row| row.get(0))?;
    if named {
        if condemned_at.is_some() {
            set_condemned(change, entry, None)?;
            change.note_rescued(1);
            reviewed.rescued += 1;
        }
        return settle(c, entry, reviewed);
    }
    let since = condemned_at.map_or(change.now, GcTime::from_millis);
    let grace = if fail_point!("grace", off) { Duration::ZERO } else { scope.grace };
    let due = since.after(grace);
    if due <= change.now {
        remove_link(change, entry)?;
        reviewed.unlinked += 1;
        return settle(c, entry, reviewed);
    }
    if condemned_at.is_none() {
        set_condemned(change, entry, Some(change.now))?;
        reviewed.condemned += 1;
    }
    if due.as_millis() != entry.due {
        settle(c, entry, reviewed)?;
        queue_review(c, due, REVIEW_LINK, entry.repo, entry.digest)?;
    }
    Ok(())
}

fn set_condemned(
    change: &mut Change<'_>,
    entry: Review,
    at: Option<GcTime>,
) -> rusqlite::Result<()> {
    change
        .connection
        .prepare_cached("UPDATE link SET condemned_at = ?3 WHERE blob = ?1 AND repo = ?2")?
        .execute(params![entry.digest, entry.repo, at.map(GcTime::as_millis)])?;
    touch(change, entry.repo)
}

fn remove_link(change: &mut Change<'_>, entry: Review) -> rusqlite::Result<()> {
    let c = change.connection;
    c.prepare_cached("DELETE FROM link WHERE blob = ?1 AND repo = ?2")?
        .execute([entry.digest, entry.repo])?;
    blobs::queue_blob_review_if_unlinked(c, entry.digest, change.now)?;
    touch(change, entry.repo)
}

fn touch(change: &mut Change<'_>, repo: i64) -> rusqlite::Result<()> {
    if let Some(repo) = ids::repo_name(change.connection, repo)? {
        change.touch(&repo);
    }
    Ok(())
}

/// An unlinked blob stays in the queue until it is gone: if its removal fails, or the process
/// ends before it, the next round finds it again.
fn review_blob(c: &Connection, entry: Review, reviewed: &mut Reviewed) -> rusqlite::Result<()> {
    let state: Option<Option<i64>> = c
        .prepare_cached("SELECT state FROM digest WHERE id = ?1")?
        .query_row([entry.digest], |row| row.get(0))
        .optional()?;
    let stored = matches!(state, Some(Some(_)));
    if !stored || blobs::is_linked(c, entry.digest)? {
        return settle(c, entry, reviewed);
    }
    if let Some(digest) = ids::digest_of(c, entry.digest)? {
        reviewed.removable.push(digest);
    }
    Ok(())
}

/// Blobs and bytes that a round of everything would free, under this grace.
pub(super) fn reclaimable(
    c: &Connection,
    now: GcTime,
    grace: Duration,
) -> rusqlite::Result<Reclaimable> {
    let before = now.as_millis().checked_sub(GcTime::default().after(grace).as_millis());
    let before = before.map_or(-1, |millis| i64::try_from(millis).unwrap_or(i64::MAX));
    c.prepare_cached(
        "SELECT count(*), coalesce(sum(d.size), 0) FROM (SELECT DISTINCT digest FROM review) v
         CROSS JOIN digest d ON d.id = v.digest
         WHERE d.state IS NOT NULL AND NOT EXISTS (
             SELECT 1 FROM link l WHERE l.blob = d.id AND (
                 coalesce(l.condemned_at, ?1) > ?2
                 OR EXISTS (SELECT 1 FROM edge e WHERE e.child = l.blob AND e.repo = l.repo)))",
    )?
    .query_row(params![now.as_millis(), before], |row| {
        Ok(Reclaimable { blobs: row.get(0)?, bytes: row.get(1)? })
    })
}

pub(super) fn waiting(c: &Connection, rescued: u64) -> rusqlite::Result<Waiting> {
    fail_point!("records-count");
    let (reviews, next): (u64, Option<u64>) = c
        .prepare_cached("SELECT count(*), min(due) FROM review")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    // By way of the queue, which every condemned link is in: that is what waits, and the table of
    // links is everything.
    let (links, first, last): (u64, Option<u64>, Option<u64>) = c
        .prepare_cached(
            "SELECT count(*), min(condemned_at), max(condemned_at) FROM (
                 SELECT DISTINCT l.blob, l.repo, l.condemned_at FROM review v
                 CROSS JOIN link l ON l.blob = v.digest AND l.repo = v.repo
                 WHERE v.kind = ?1 AND l.condemned_at IS NOT NULL)",
        )?
        .query_row([REVIEW_LINK], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let bytes: u64 = c
        .prepare_cached(
            "SELECT coalesce(sum(d.size), 0) FROM (SELECT DISTINCT digest FROM review) v
             CROSS JOIN digest d ON d.id = v.digest
             WHERE d.state = ?1
             AND NOT EXISTS (SELECT 1 FROM link WHERE blob = d.id AND condemned_at IS NULL)",
        )?
        .query_row([STATE_LIVE], |row| row.get(0))?;
    let in_state = |state: i64| -> rusqlite::Result<u64> {
        c.prepare_cached("SELECT count(*) FROM digest WHERE state = ?1 AND state > 0")?
            .query_row([state], |row| row.get(0))
    };
    Ok(Waiting {
        reviews,
        next_review: next.map(GcTime::from_millis),
        condemned_links: links,
        condemned_bytes: bytes,
        condemned_first: first.map(GcTime::from_millis),
        condemned_last: last.map(GcTime::from_millis),
        rescued,
        removing: in_state(STATE_REMOVING)?,
        quarantined: in_state(STATE_QUARANTINED)?,
    })
}

/// Repositories without a link or a manifest. Reads all links.
pub(super) fn empty_repositories(c: &Connection) -> rusqlite::Result<Vec<i64>> {
    c.prepare_cached(
        "SELECT id FROM repo WHERE listed = 0 AND id NOT IN (SELECT repo FROM link)
         AND NOT EXISTS (SELECT 1 FROM manifest m WHERE m.repo = repo.id) LIMIT ?1",
    )?
    .query_map([FORGOTTEN_MAX], |row| row.get(0))?
    .collect()
}

pub(super) fn forget_repositories<'a>(
    c: &Connection,
    repositories: impl Iterator<Item = &'a i64>,
) -> rusqlite::Result<u64> {
    let mut delete = c.prepare_cached("DELETE FROM repo WHERE id = ?1 AND listed = 0")?;
    let mut forgotten = 0;
    for repository in repositories {
        forgotten += delete.execute([repository])? as u64;
    }
    Ok(forgotten)
}

/// Whether the queue holds a review of this link (or, with repository 0, of this blob). Reads the
/// whole queue.
pub(super) fn queued_set(
    c: &Connection,
) -> rusqlite::Result<std::collections::HashSet<(i64, i64, i64)>> {
    c.prepare_cached("SELECT kind, repo, digest FROM review")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect()
}

pub(super) fn requeue(c: &Connection, now: GcTime, repo: i64, digest: i64) -> rusqlite::Result<()> {
    let kind = if repo == 0 { REVIEW_BLOB } else { REVIEW_LINK };
    queue_review(c, now, kind, repo, digest)
}
