//! Blobs and the links that make them readable.

use rusqlite::{Connection, OptionalExtension as _, params};
use shared::{Digest, RepoName};

use super::ids::{self, NameColumn, digest_bytes, name_text};
use super::schema::{REVIEW_BLOB, REVIEW_LINK, STATE_LIVE, STATE_QUARANTINED, STATE_REMOVING};
use super::writer::{Change, Outcome};
use crate::failpoint::fail_point;
use crate::records::{GcTime, Place, RepoBlob};

/// A link as it stands.
pub(super) struct Link {
    pub(super) blob: i64,
    pub(super) repo: i64,
    pub(super) size: u64,
    pub(super) condemned: bool,
}

/// The link of a readable blob.
pub(super) fn link(
    c: &Connection,
    repo: &RepoName,
    digest: &Digest,
) -> rusqlite::Result<Option<Link>> {
    c.prepare_cached(
        "SELECT l.blob, l.repo, d.size, l.condemned_at IS NOT NULL
         FROM digest d JOIN repo r JOIN link l ON l.blob = d.id AND l.repo = r.id
         WHERE d.digest = ?1 AND r.name = ?2 AND d.state = ?3",
    )?
    .query_row(params![digest_bytes(digest), name_text(repo.as_str()), STATE_LIVE], |row| {
        Ok(Link { blob: row.get(0)?, repo: row.get(1)?, size: row.get(2)?, condemned: row.get(3)? })
    })
    .optional()
}

pub(super) fn find(
    c: &Connection,
    repo: &RepoName,
    digest: &Digest,
) -> rusqlite::Result<Option<RepoBlob>> {
    Ok(link(c, repo, digest)?.map(|link| RepoBlob {
        digest: digest.clone(),
        size: link.size,
        place: Place::File,
        condemned: link.condemned,
    }))
}

pub(super) fn rescue(
    change: &mut Change<'_>,
    repo: &RepoName,
    digest: &Digest,
) -> rusqlite::Result<bool> {
    let Some(link) = link(change.connection, repo, digest)? else { return Ok(false) };
    if link.condemned {
        turn_live(change, repo, &link)?;
    }
    Ok(true)
}

/// Ends a link's condemnation. Its review stays queued: it is what looks at the link again.
pub(super) fn turn_live(
    change: &mut Change<'_>,
    repo: &RepoName,
    link: &Link,
) -> rusqlite::Result<()> {
    if fail_point!("rescue", off) {
        return Ok(());
    }
    change
        .connection
        .prepare_cached("UPDATE link SET condemned_at = NULL WHERE blob = ?1 AND repo = ?2")?
        .execute([link.blob, link.repo])?;
    change.touch(repo);
    change.note_rescued(1);
    Ok(())
}

/// Blob live, link live, review queued at `due`. A link that is live already has its review.
pub(super) fn link_published(
    change: &mut Change<'_>,
    repo: &RepoName,
    digest: &Digest,
    size: u64,
    due: GcTime,
) -> rusqlite::Result<()> {
    let c = change.connection;
    let blob = ids::digest_id_or_new(c, digest)?;
    let before: Option<i64> = c
        .prepare_cached("SELECT state FROM digest WHERE id = ?1")?
        .query_row([blob], |row| row.get(0))?;
    if before != Some(STATE_LIVE) {
        c.prepare_cached("UPDATE digest SET size = ?2, state = ?3 WHERE id = ?1")?
            .execute(params![blob, size, STATE_LIVE])?;
    }
    if before == Some(STATE_QUARANTINED) {
        // It may be linked from anywhere, and is readable again.
        change.touch_all();
    }
    add_link(change, repo, blob, size, due)
}

/// Links a blob that is live.
fn add_link(
    change: &mut Change<'_>,
    repo: &RepoName,
    blob: i64,
    size: u64,
    due: GcTime,
) -> rusqlite::Result<()> {
    let c = change.connection;
    let repo_id = ids::repo_id_or_new(c, repo)?;
    change.use_repository(repo_id);
    let condemned: Option<bool> = c
        .prepare_cached("SELECT condemned_at IS NOT NULL FROM link WHERE blob = ?1 AND repo = ?2")?
        .query_row([blob, repo_id], |row| row.get(0))
        .optional()?;
    match condemned {
        Some(true) => turn_live(change, repo, &Link { blob, repo: repo_id, size, condemned: true }),
        Some(false) => Ok(()),
        None => {
            c.prepare_cached("INSERT INTO link(blob, repo) VALUES (?1, ?2)")?
                .execute([blob, repo_id])?;
            // Manifests that named it while it was missing can rely on it from now on.
            c.prepare_cached(
                "UPDATE edge SET promised = 1 WHERE child = ?1 AND repo = ?2 AND promised = 0",
            )?
            .execute([blob, repo_id])?;
            queue_review(c, due, REVIEW_LINK, repo_id, blob)?;
            change.touch(repo);
            Ok(())
        }
    }
}

pub(super) fn mount(
    change: &mut Change<'_>,
    to: &RepoName,
    from: Option<&RepoName>,
    digest: &Digest,
    due: GcTime,
) -> rusqlite::Result<Option<RepoBlob>> {
    let c = change.connection;
    let found: Option<(i64, u64)> = match from {
        Some(from) => link(c, from, digest)?.map(|link| (link.blob, link.size)),
        None => c
            .prepare_cached(
                "SELECT id, size FROM digest WHERE digest = ?1 AND state = ?2
                 AND EXISTS (SELECT 1 FROM link WHERE blob = id)",
            )?
            .query_row(params![digest_bytes(digest), STATE_LIVE], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?,
    };
    let Some((blob, size)) = found else { return Ok(None) };
    add_link(change, to, blob, size, due)?;
    Ok(Some(RepoBlob { digest: digest.clone(), size, place: Place::File, condemned: false }))
}

pub(super) fn holders(
    c: &Connection,
    digest: &Digest,
    max: usize,
) -> rusqlite::Result<Vec<RepoName>> {
    c.prepare_cached(
        "SELECT r.name FROM digest d JOIN link l ON l.blob = d.id JOIN repo r ON r.id = l.repo
         WHERE d.digest = ?1 AND d.state = ?2 LIMIT ?3",
    )?
    .query_map(params![digest_bytes(digest), STATE_LIVE, limit(max)], |row| {
        row.get::<_, NameColumn>(0).map(|name| name.0)
    })?
    .collect()
}

pub(super) fn unlink(
    change: &mut Change<'_>,
    repo: &RepoName,
    digest: &Digest,
) -> rusqlite::Result<bool> {
    let c = change.connection;
    let (Some(repo_id), Some(blob)) = (ids::repo_id(c, repo)?, ids::digest_id(c, digest)?) else {
        return Ok(false);
    };
    let removed = c
        .prepare_cached("DELETE FROM link WHERE blob = ?1 AND repo = ?2")?
        .execute([blob, repo_id])?;
    if removed == 0 {
        return Ok(false);
    }
    // A client took it away: manifests that name it are incomplete by that client's will.
    c.prepare_cached("UPDATE edge SET promised = 0 WHERE child = ?1 AND repo = ?2")?
        .execute([blob, repo_id])?;
    queue_blob_review_if_unlinked(c, blob, change.now)?;
    change.touch(repo);
    Ok(true)
}

pub(super) fn is_linked(c: &Connection, blob: i64) -> rusqlite::Result<bool> {
    c.prepare_cached("SELECT EXISTS (SELECT 1 FROM link WHERE blob = ?1)")?
        .query_row([blob], |row| row.get(0))
}

pub(super) fn queue_blob_review_if_unlinked(
    c: &Connection,
    blob: i64,
    now: GcTime,
) -> rusqlite::Result<()> {
    if is_linked(c, blob)? { Ok(()) } else { queue_review(c, now, REVIEW_BLOB, 0, blob) }
}

pub(super) fn queue_review(
    c: &Connection,
    due: GcTime,
    kind: i64,
    repo: i64,
    digest: i64,
) -> rusqlite::Result<()> {
    c.prepare_cached(
        "INSERT OR IGNORE INTO review(due, kind, repo, digest) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![due.as_millis(), kind, repo, digest])?;
    Ok(())
}

pub(super) fn begin_removal(change: &mut Change<'_>, digest: &Digest) -> rusqlite::Result<bool> {
    let marked = change
        .connection
        .prepare_cached(
            "UPDATE digest SET state = ?2 WHERE digest = ?1 AND state IS NOT NULL
             AND NOT EXISTS (SELECT 1 FROM link WHERE blob = id)",
        )?
        .execute(params![digest_bytes(digest), STATE_REMOVING])?;
    Ok(marked > 0)
}

pub(super) fn end_removal(change: &mut Change<'_>, digest: &Digest) -> rusqlite::Result<()> {
    let c = change.connection;
    let Some(blob) = ids::digest_id(c, digest)? else { return Ok(()) };
    c.prepare_cached("UPDATE digest SET state = NULL, size = NULL WHERE id = ?1 AND state = ?2")?
        .execute([blob, STATE_REMOVING])?;
    ids::forget_digest(c, blob)
}

pub(super) fn interrupted_removals(c: &Connection, max: usize) -> rusqlite::Result<Vec<Digest>> {
    c.prepare_cached("SELECT digest FROM digest WHERE state = ?1 AND state > 0 LIMIT ?2")?
        .query_map([STATE_REMOVING, limit(max)], |row| {
            row.get::<_, ids::DigestColumn>(0).map(|digest| digest.0)
        })?
        .collect()
}

pub(super) fn quarantine(
    change: &mut Change<'_>,
    digest: &Digest,
) -> rusqlite::Result<Outcome<bool>> {
    let marked = change
        .connection
        .prepare_cached("UPDATE digest SET state = ?2 WHERE digest = ?1 AND state = ?3")?
        .execute(params![digest_bytes(digest), STATE_QUARANTINED, STATE_LIVE])?;
    change.touch_all();
    Ok(Outcome::Keep(marked > 0))
}

/// A count for LIMIT.
pub(super) fn limit(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
