//! Manifests, the edges to what they name, and the tags that name them.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension as _, params};
use shared::{Digest, Reference, RepoName, Tag};

use super::blobs;
use super::ids::{self, Children, DigestColumn, digest_bytes, name_text};
use super::schema::{REVIEW_LINK, STATE_LIVE};
use super::writer::{Change, Outcome};
use crate::records::{
    Child, ChildKind, MISSING_MAX, Missing, PutManifest, PutOutcome, StoredManifest,
};

/// A child, looked up in the repository that the manifest is pushed to.
struct Found {
    digest: i64,
    present: bool,
}

/// The required children that the repository lacks, the first [`MISSING_MAX`] of them. Writes
/// nothing: it is asked on a reader first, so that what will be refused costs the writer nothing.
pub(super) fn missing(c: &Connection, push: &PutManifest) -> rusqlite::Result<Vec<Digest>> {
    let mut missing = Vec::new();
    if push.missing == Missing::Accept {
        return Ok(missing);
    }
    let mut seen = HashSet::new();
    for child in push.children.iter().filter(|child| child.required) {
        if seen.insert(&child.digest) && !is_present(c, push, child)? {
            missing.push(child.digest.clone());
            if missing.len() == MISSING_MAX {
                break;
            }
        }
    }
    Ok(missing)
}

fn is_present(c: &Connection, push: &PutManifest, child: &Child) -> rusqlite::Result<bool> {
    if blobs::link(c, &push.repo, &child.digest)?.is_some() {
        return Ok(true);
    }
    Ok(child.kind == ChildKind::ManifestOrBlob
        && c.prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM repo r JOIN digest d
                            JOIN manifest m ON m.repo = r.id AND m.digest = d.id
                            WHERE r.name = ?1 AND d.digest = ?2)",
        )?
        .query_row(params![name_text(push.repo.as_str()), digest_bytes(&child.digest)], |row| {
            row.get(0)
        })?)
}

/// `Err` in the outcome: the digests that are missing; nothing was changed.
pub(super) fn put(
    change: &mut Change<'_>,
    push: &PutManifest,
) -> rusqlite::Result<Outcome<Result<PutOutcome, Vec<Digest>>>> {
    let c = change.connection;
    let repo = ids::repo_id_or_new(c, &push.repo)?;
    change.use_repository(repo);
    let mut children = Vec::with_capacity(push.children.len());
    for child in &push.children {
        let found = find_child(change, push, repo, child)?;
        if !found.present && child.required && push.missing == Missing::Refuse {
            // Gone since it was looked up.
            return Ok(Outcome::Discard(Err(missing(c, push)?)));
        }
        children.push(found);
    }
    children.sort_unstable_by_key(|child| child.digest);
    children.dedup_by_key(|child| child.digest);

    let (manifest, created) = match find_id(c, repo, &push.digest)? {
        Some(manifest) => {
            refresh(change, push, manifest)?;
            (manifest, false)
        }
        None => (insert(change, push, repo, &children)?, true),
    };
    add_edges(c, repo, manifest, &children)?;
    for tag in &push.tags {
        c.prepare_cached(
            "INSERT INTO tag(repo, name, manifest, created_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT(repo, name) DO UPDATE
             SET manifest = excluded.manifest, created_at = excluded.created_at",
        )?
        .execute(params![repo, tag.as_str(), manifest, change.wall])?;
    }
    if created {
        c.prepare_cached("UPDATE repo SET listed = 1 WHERE id = ?1 AND listed = 0")?
            .execute([repo])?;
    }
    change.touch(&push.repo);
    Ok(Outcome::Keep(Ok(PutOutcome { created })))
}

/// Looks a child up, and turns its link live if it is condemned.
fn find_child(
    change: &mut Change<'_>,
    push: &PutManifest,
    repo: i64,
    child: &Child,
) -> rusqlite::Result<Found> {
    let c = change.connection;
    if let Some(link) = blobs::link(c, &push.repo, &child.digest)? {
        if link.condemned {
            blobs::turn_live(change, &push.repo, &link)?;
        }
        return Ok(Found { digest: link.blob, present: true });
    }
    let digest = ids::digest_id_or_new(c, &child.digest)?;
    let present = child.kind == ChildKind::ManifestOrBlob
        && c.prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM manifest WHERE repo = ?1 AND digest = ?2)",
        )?
        .query_row([repo, digest], |row| row.get(0))?;
    Ok(Found { digest, present })
}

fn find_id(c: &Connection, repo: i64, digest: &Digest) -> rusqlite::Result<Option<i64>> {
    c.prepare_cached(
        "SELECT m.id FROM digest d JOIN manifest m ON m.repo = ?1 AND m.digest = d.id
         WHERE d.digest = ?2",
    )?
    .query_row(params![repo, digest_bytes(digest)], |row| row.get(0))
    .optional()
}

/// A manifest that is pushed again.
fn refresh(change: &Change<'_>, push: &PutManifest, manifest: i64) -> rusqlite::Result<()> {
    // Rewriting the row rewrites the manifest's bytes, so only where it matters: without a tag, a
    // rule that removes untagged manifests must see that this one was asked for just now.
    let rewrite = if push.tags.is_empty() {
        "UPDATE manifest SET pushed_at = ?2, media_type = ?3 WHERE id = ?1"
    } else {
        "UPDATE manifest SET pushed_at = ?2, media_type = ?3 WHERE id = ?1 AND media_type <> ?3"
    };
    change.connection.prepare_cached(rewrite)?.execute(params![
        manifest,
        change.now.as_millis(),
        push.media_type
    ])?;
    Ok(())
}

fn insert(
    change: &Change<'_>,
    push: &PutManifest,
    repo: i64,
    children: &[Found],
) -> rusqlite::Result<i64> {
    let c = change.connection;
    let digest = ids::digest_id_or_new(c, &push.digest)?;
    count_manifest(c, digest, 1)?;
    let subject = match &push.referrer {
        Some(referrer) => {
            let subject = ids::digest_id_or_new(c, &referrer.subject)?;
            count_manifest(c, subject, 1)?;
            Some(subject)
        }
        None => None,
    };
    c.prepare_cached(
        "INSERT INTO manifest(repo, digest, pushed_at, created_at, media_type,
                              subject, artifact_type, descriptor, children, bytes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .insert(params![
        repo,
        digest,
        change.now.as_millis(),
        change.wall,
        push.media_type,
        subject,
        push.referrer.as_ref().map(|referrer| &referrer.artifact_type),
        push.referrer.as_ref().map(|referrer| &referrer.descriptor),
        Children(children.iter().map(|child| child.digest).collect()),
        &push.bytes[..],
    ])
}

fn add_edges(c: &Connection, repo: i64, manifest: i64, children: &[Found]) -> rusqlite::Result<()> {
    let mut statement = c.prepare_cached(
        "INSERT INTO edge(child, repo, parent, promised) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT(child, repo, parent) DO UPDATE SET promised = excluded.promised
         WHERE promised <> excluded.promised",
    )?;
    for child in children {
        statement.execute(params![child.digest, repo, manifest, child.present])?;
    }
    Ok(())
}

fn count_manifest(c: &Connection, digest: i64, by: i64) -> rusqlite::Result<()> {
    c.prepare_cached("UPDATE digest SET manifests = manifests + ?2 WHERE id = ?1")?
        .execute([digest, by])?;
    Ok(())
}

pub(super) fn resolve(
    c: &Connection,
    repo: &RepoName,
    reference: &Reference,
) -> rusqlite::Result<Option<StoredManifest>> {
    let stored = |row: &rusqlite::Row<'_>| {
        Ok(StoredManifest {
            digest: row.get::<_, DigestColumn>(0)?.0,
            media_type: row.get(1)?,
            bytes: row.get::<_, Vec<u8>>(2)?.into(),
        })
    };
    let repo = name_text(repo.as_str());
    match reference {
        Reference::Tag(tag) => c
            .prepare_cached(
                "SELECT d.digest, m.media_type, m.bytes
                 FROM repo r JOIN tag t ON t.repo = r.id AND t.name = ?2
                 JOIN manifest m ON m.id = t.manifest JOIN digest d ON d.id = m.digest
                 WHERE r.name = ?1",
            )?
            .query_row(params![repo, tag.as_str()], stored)
            .optional(),
        Reference::Digest(digest) => c
            .prepare_cached(
                "SELECT d.digest, m.media_type, m.bytes
                 FROM repo r JOIN digest d JOIN manifest m ON m.repo = r.id AND m.digest = d.id
                 WHERE r.name = ?1 AND d.digest = ?2",
            )?
            .query_row(params![repo, digest_bytes(digest)], stored)
            .optional(),
    }
}

pub(super) fn delete(
    change: &mut Change<'_>,
    repo: &RepoName,
    digest: &Digest,
) -> rusqlite::Result<bool> {
    let c = change.connection;
    let Some(repo_id) = ids::repo_id(c, repo)? else { return Ok(false) };
    let Some(manifest) = find_id(c, repo_id, digest)? else { return Ok(false) };
    delete_by_id(change, repo_id, manifest)?;
    unlist_if_empty(c, repo_id)?;
    change.touch(repo);
    Ok(true)
}

/// Deletes one manifest with its tags, edges and referrer entry; its children get their review.
pub(super) fn delete_by_id(change: &Change<'_>, repo: i64, manifest: i64) -> rusqlite::Result<()> {
    let c = change.connection;
    let (digest, subject, children): (i64, Option<i64>, Children) = c
        .prepare_cached("SELECT digest, subject, children FROM manifest WHERE id = ?1")?
        .query_row([manifest], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    c.prepare_cached("DELETE FROM tag WHERE manifest = ?1")?.execute([manifest])?;
    c.prepare_cached("DELETE FROM manifest WHERE id = ?1")?.execute([manifest])?;
    for child in children.0 {
        c.prepare_cached("DELETE FROM edge WHERE child = ?1 AND repo = ?2 AND parent = ?3")?
            .execute([child, repo, manifest])?;
        review_child(change, repo, child)?;
        ids::forget_digest(c, child)?;
    }
    // An index that names it is incomplete by the client's will, unless a blob has the digest too.
    c.prepare_cached(
        "UPDATE edge SET promised = 0 WHERE child = ?1 AND repo = ?2
         AND NOT EXISTS (SELECT 1 FROM link WHERE blob = ?1 AND repo = ?2)",
    )?
    .execute([digest, repo])?;
    for counted in std::iter::once(digest).chain(subject) {
        count_manifest(c, counted, -1)?;
        ids::forget_digest(c, counted)?;
    }
    Ok(())
}

/// Queues a link that has lost a name, unless it has another one.
fn review_child(change: &Change<'_>, repo: i64, child: i64) -> rusqlite::Result<()> {
    let c = change.connection;
    let unnamed: bool = c
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM link WHERE blob = ?1 AND repo = ?2)
             AND NOT EXISTS (SELECT 1 FROM edge WHERE child = ?1 AND repo = ?2)",
        )?
        .query_row([child, repo], |row| row.get(0))?;
    if unnamed {
        blobs::queue_review(c, change.now, REVIEW_LINK, repo, child)?;
    }
    Ok(())
}

pub(super) fn unlist_if_empty(c: &Connection, repo: i64) -> rusqlite::Result<()> {
    c.prepare_cached(
        "UPDATE repo SET listed = 0 WHERE id = ?1
         AND NOT EXISTS (SELECT 1 FROM manifest WHERE repo = ?1)",
    )?
    .execute([repo])?;
    Ok(())
}

pub(super) fn delete_tag(
    change: &mut Change<'_>,
    repo: &RepoName,
    tag: &Tag,
) -> rusqlite::Result<bool> {
    let deleted = change
        .connection
        .prepare_cached(
            "DELETE FROM tag WHERE repo = (SELECT id FROM repo WHERE name = ?1) AND name = ?2",
        )?
        .execute(params![name_text(repo.as_str()), tag.as_str()])?;
    change.touch(repo);
    Ok(deleted > 0)
}

/// The condition under which a manifest `m` is kept by something: a tag, an index of its
/// repository, or a subject that exists.
pub(super) const IS_KEPT: &str = "(
    EXISTS (SELECT 1 FROM tag t WHERE t.manifest = m.id)
    OR EXISTS (SELECT 1 FROM edge e WHERE e.child = m.digest AND e.repo = m.repo)
    OR EXISTS (SELECT 1 FROM manifest s WHERE s.repo = m.repo AND s.digest = m.subject))";

/// Deletes a manifest that nothing keeps and that was last pushed at `before` or earlier.
pub(super) fn delete_untagged(
    change: &mut Change<'_>,
    repo: &RepoName,
    digest: &Digest,
    before: u64,
) -> rusqlite::Result<bool> {
    let c = change.connection;
    let Some(repo_id) = ids::repo_id(c, repo)? else { return Ok(false) };
    let manifest: Option<i64> = c
        .prepare_cached(&format!(
            "SELECT m.id FROM digest d JOIN manifest m ON m.repo = ?1 AND m.digest = d.id
             WHERE d.digest = ?2 AND m.pushed_at <= ?3 AND NOT {IS_KEPT}"
        ))?
        .query_row(params![repo_id, digest_bytes(digest), before], |row| row.get(0))
        .optional()?;
    let Some(manifest) = manifest else { return Ok(false) };
    delete_by_id(change, repo_id, manifest)?;
    unlist_if_empty(c, repo_id)?;
    change.touch(repo);
    Ok(true)
}

/// Whether `digest` can be served as a blob from `repo`, by their numbers.
pub(super) fn is_readable(c: &Connection, repo: i64, digest: i64) -> rusqlite::Result<bool> {
    c.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM link l JOIN digest d ON d.id = l.blob
                        WHERE l.blob = ?2 AND l.repo = ?1 AND d.state = ?3)",
    )?
    .query_row([repo, digest, STATE_LIVE], |row| row.get(0))
}
