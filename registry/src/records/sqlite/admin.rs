//! What operators ask: blobs and manifests in bulk, usage, removal of a repository, the check.

use rusqlite::{Connection, OptionalExtension as _, params};
use shared::{Digest, RepoName};

use super::blobs::limit;
use super::collect;
use super::ids::{self, Children, DigestColumn, NameColumn, TagColumn, digest_bytes};
use super::lists::{self, page};
use super::manifests::{self, IS_KEPT};
use super::schema::{REVIEW_BLOB, REVIEW_LINK, STATE_LIVE, STATE_QUARANTINED, STATE_REMOVING};
use super::writer::Change;
use crate::records::{
    BlobRecord, BlobState, CheckCursor, CheckPage, Fault, GcTime, Page, RepoUsage, ScrubProgress,
    Totals,
};

fn blob_record(row: &rusqlite::Row<'_>) -> rusqlite::Result<BlobRecord> {
    Ok(BlobRecord {
        digest: row.get::<_, DigestColumn>(0)?.0,
        size: row.get(1)?,
        state: match row.get::<_, i64>(2)? {
            STATE_LIVE => BlobState::Live,
            STATE_QUARANTINED => BlobState::Quarantined,
            _ => BlobState::Removing,
        },
        links: row.get(3)?,
    })
}

pub(super) fn blobs(
    c: &Connection,
    after: Option<&Digest>,
    n: usize,
) -> rusqlite::Result<Vec<BlobRecord>> {
    c.prepare_cached(
        "SELECT digest, size, state, (SELECT count(*) FROM link WHERE blob = id) FROM digest
         WHERE digest > ?1 AND state IS NOT NULL ORDER BY digest LIMIT ?2",
    )?
    .query_map(params![after.map(digest_bytes).unwrap_or_default(), limit(n)], blob_record)?
    .collect()
}

pub(super) fn find_blobs(
    c: &Connection,
    digests: &[Digest],
) -> rusqlite::Result<Vec<Option<BlobRecord>>> {
    let mut statement = c.prepare_cached(
        "SELECT digest, size, state, (SELECT count(*) FROM link WHERE blob = id) FROM digest
         WHERE digest = ?1 AND state IS NOT NULL",
    )?;
    digests
        .iter()
        .map(|digest| statement.query_row([digest_bytes(digest)], blob_record).optional())
        .collect()
}

pub(super) fn list_manifests(
    c: &Connection,
    repo: &RepoName,
    untagged: Option<GcTime>,
    after: Option<&Digest>,
    n: usize,
) -> rusqlite::Result<Page<Digest>> {
    let Some(repo) = ids::repo_id(c, repo)? else {
        return Ok(Page { entries: Vec::new(), more: false });
    };
    // Numbers of digests grow with arrival; a digest that is gone by now was behind the caller.
    let after = match after {
        Some(after) => ids::digest_id(c, after)?.unwrap_or(0),
        None => 0,
    };
    let (kept, before) = match untagged {
        Some(before) => (format!("AND NOT {IS_KEPT}"), before),
        None => (String::new(), GcTime::MAX),
    };
    let digests: rusqlite::Result<Vec<Digest>> = c
        .prepare_cached(&format!(
            "SELECT d.digest FROM manifest m JOIN digest d ON d.id = m.digest
             WHERE m.repo = ?1 AND m.digest > ?2 AND m.pushed_at <= ?3 {kept}
             ORDER BY m.digest LIMIT ?4"
        ))?
        .query_map(params![repo, after, before.as_millis(), limit(n.saturating_add(1))], |row| {
            row.get::<_, DigestColumn>(0).map(|digest| digest.0)
        })?
        .collect();
    Ok(page(digests?, n))
}

pub(super) fn usage(c: &Connection, name: &RepoName) -> rusqlite::Result<Option<RepoUsage>> {
    let Some(repo) = lists::listed_id(c, name)? else { return Ok(None) };
    let tags = c
        .prepare_cached("SELECT count(*) FROM tag WHERE repo = ?1")?
        .query_row([repo], |row| row.get(0))?;
    let mut usage = RepoUsage {
        repo: name.clone(),
        tags,
        manifests: 0,
        manifest_bytes: 0,
        blobs: 0,
        blob_bytes: 0,
        own_bytes: 0,
    };
    let mut children = std::collections::HashSet::new();
    let mut statement =
        c.prepare_cached("SELECT children, length(bytes) FROM manifest WHERE repo = ?1")?;
    let mut rows = statement.query([repo])?;
    while let Some(row) = rows.next()? {
        usage.manifests += 1;
        usage.manifest_bytes += row.get::<_, u64>(1)?;
        children.extend(row.get::<_, Children>(0)?.0);
    }
    let mut blob = c.prepare_cached(
        "SELECT size, EXISTS (SELECT 1 FROM link WHERE blob = id AND repo <> ?2) FROM digest
         WHERE id = ?1 AND state = ?3
         AND EXISTS (SELECT 1 FROM link WHERE blob = id AND repo = ?2)",
    )?;
    for child in children {
        let found: Option<(u64, bool)> = blob
            .query_row([child, repo, STATE_LIVE], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        if let Some((size, elsewhere)) = found {
            usage.blobs += 1;
            usage.blob_bytes += size;
            usage.own_bytes += if elsewhere { 0 } else { size };
        }
    }
    Ok(Some(usage))
}

pub(super) fn remove_repository(
    change: &mut Change<'_>,
    name: &RepoName,
) -> rusqlite::Result<bool> {
    let c = change.connection;
    let Some(repo) = lists::listed_id(c, name)? else { return Ok(false) };
    let manifests: rusqlite::Result<Vec<i64>> = c
        .prepare_cached("SELECT id FROM manifest WHERE repo = ?1")?
        .query_map([repo], |row| row.get(0))?
        .collect();
    for manifest in manifests? {
        manifests::delete_by_id(change, repo, manifest)?;
    }
    manifests::unlist_if_empty(c, repo)?;
    change.touch(name);
    Ok(true)
}

/// The digest after which a scrub goes on; an empty one between two passes.
const SCRUB_AFTER: &str = "scrub_after";
const SCRUB_FINISHED: &str = "scrub_finished";

pub(super) fn scrub_progress(c: &Connection) -> rusqlite::Result<ScrubProgress> {
    let after = c
        .prepare_cached("SELECT value FROM meta WHERE key = ?1 AND value <> x''")?
        .query_row([SCRUB_AFTER], |row| row.get::<_, DigestColumn>(0).map(|digest| digest.0))
        .optional()?;
    let finished = c
        .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
        .query_row([SCRUB_FINISHED], |row| row.get(0).map(GcTime::from_millis))
        .optional()?;
    Ok(ScrubProgress { after, finished })
}

pub(super) fn save_scrub_progress(
    c: &Connection,
    progress: &ScrubProgress,
) -> rusqlite::Result<()> {
    let mut save = c.prepare_cached("INSERT OR REPLACE INTO meta(key, value) VALUES (?1, ?2)")?;
    save.execute(params![
        SCRUB_AFTER,
        progress.after.as_ref().map(digest_bytes).unwrap_or_default()
    ])?;
    if let Some(finished) = progress.finished {
        save.execute(params![SCRUB_FINISHED, finished.as_millis()])?;
    }
    Ok(())
}

pub(super) fn totals(c: &Connection) -> rusqlite::Result<Totals> {
    let count = |sql: &str| c.prepare_cached(sql)?.query_row([], |row| row.get::<_, u64>(0));
    let (blobs, blob_bytes) = c
        .prepare_cached("SELECT count(*), coalesce(sum(size), 0) FROM digest WHERE state = ?1")?
        .query_row([STATE_LIVE], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Totals {
        repositories: count("SELECT count(*) FROM repo WHERE listed = 1")?,
        tags: count("SELECT count(*) FROM tag")?,
        manifests: count("SELECT count(*) FROM manifest")?,
        blobs,
        blob_bytes,
    })
}

/// The parts of a check, in their order.
const PHASE_FILE: u8 = 0;
const PHASE_MANIFESTS: u8 = 1;
const PHASE_REPOSITORIES: u8 = 2;
const PHASE_TAGS: u8 = 3;
const PHASE_DIGESTS: u8 = 4;

/// A place in a check: a phase and the last row that was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    phase: u8,
    after: i64,
}

impl Cursor {
    /// What no check gave is the beginning.
    pub(super) fn parse(text: &CheckCursor) -> Self {
        let parse = || {
            let (phase, after) = text.0.split_once('.')?;
            Some(Self { phase: phase.parse().ok()?, after: after.parse().ok()? })
        };
        parse().unwrap_or_default()
    }

    fn text(self) -> CheckCursor {
        CheckCursor(format!("{}.{}", self.phase, self.after))
    }
}

/// One page of a check. `repair` is given where the caller may write.
pub(super) fn check(
    c: &Connection,
    cursor: Cursor,
    n: usize,
    repair: Option<GcTime>,
) -> rusqlite::Result<CheckPage> {
    let mut page = CheckPage::default();
    let next = match cursor.phase {
        // By [`super::whole`], on a connection of its own.
        PHASE_FILE => None,
        PHASE_MANIFESTS => check_manifests(c, cursor.after, n, repair.is_some(), &mut page)?,
        PHASE_REPOSITORIES => check_listing(c, cursor.after, n, repair.is_some(), &mut page)?,
        PHASE_TAGS => check_tags(c, cursor.after, &mut page)?,
        _ => check_digests(c, cursor.after, n, repair, &mut page)?,
    };
    page.next = match next {
        Some(after) => Some(Cursor { after, ..cursor }.text()),
        None if cursor.phase < PHASE_DIGESTS => {
            Some(Cursor { phase: cursor.phase + 1, after: 0 }.text())
        }
        None => None,
    };
    Ok(page)
}

/// Bytes of manifests hashed per page: a page that repairs keeps the writer for so long.
const CHECK_BYTES: usize = 16 << 20;

/// Every manifest: its bytes, its edges, and that what was promised is there.
fn check_manifests(
    c: &Connection,
    after: i64,
    n: usize,
    repair: bool,
    page: &mut CheckPage,
) -> rusqlite::Result<Option<i64>> {
    let mut statement = c.prepare_cached(
        "SELECT m.id, m.repo, r.name, d.digest, m.children, m.bytes
         FROM manifest m JOIN repo r ON r.id = m.repo JOIN digest d ON d.id = m.digest
         WHERE m.id > ?1 ORDER BY m.id LIMIT ?2",
    )?;
    let mut rows = statement.query([after, limit(n)])?;
    let (mut last, mut hashed) = (None, 0);
    while hashed < CHECK_BYTES
        && let Some(row) = rows.next()?
    {
        let (manifest, repo): (i64, i64) = (row.get(0)?, row.get(1)?);
        let name = row.get::<_, NameColumn>(2)?.0;
        let digest = row.get::<_, DigestColumn>(3)?.0;
        let bytes = row.get_ref(5)?.as_blob()?;
        hashed += bytes.len();
        if Digest::of(digest.algorithm(), bytes) != digest {
            let (repo, digest) = (name.clone(), digest.clone());
            page.faults.push(Fault::ManifestRotten { repo, digest });
        }
        for child in row.get::<_, Children>(4)?.0 {
            if let Some(fault) = check_edge(c, repo, &name, (manifest, &digest), child, repair)? {
                page.faults.push(fault);
            }
        }
        page.examined += 1;
        last = Some(manifest);
    }
    Ok(last)
}

fn check_edge(
    c: &Connection,
    repo: i64,
    name: &RepoName,
    (manifest, digest): (i64, &Digest),
    child: i64,
    repair: bool,
) -> rusqlite::Result<Option<Fault>> {
    let promised: Option<bool> = c
        .prepare_cached("SELECT promised FROM edge WHERE child = ?1 AND repo = ?2 AND parent = ?3")?
        .query_row([child, repo, manifest], |row| row.get(0))
        .optional()?;
    let Some(child_digest) = ids::digest_of(c, child)? else {
        let detail = format!("{name}@{digest} names the unknown digest number {child}");
        return Ok(Some(Fault::Damaged { detail }));
    };
    let present = manifests::is_readable(c, repo, child)?
        || c.prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM manifest WHERE repo = ?1 AND digest = ?2)",
        )?
        .query_row([repo, child], |row| row.get(0))?;
    let (repo_name, manifest_digest) = (name.clone(), digest.clone());
    Ok(match promised {
        None => {
            if repair {
                c.prepare_cached(
                    "INSERT INTO edge(child, repo, parent, promised) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![child, repo, manifest, present])?;
            }
            Some(Fault::EdgeMissing {
                repo: repo_name,
                manifest: manifest_digest,
                child: child_digest,
            })
        }
        Some(true) if !present => Some(Fault::ChildMissing {
            repo: repo_name,
            manifest: manifest_digest,
            child: child_digest,
        }),
        Some(_) => None,
    })
}

fn check_listing(
    c: &Connection,
    after: i64,
    n: usize,
    repair: bool,
    page: &mut CheckPage,
) -> rusqlite::Result<Option<i64>> {
    let repos: rusqlite::Result<Vec<(i64, String, bool, bool)>> = c
        .prepare_cached(
            "SELECT id, name, listed, EXISTS (SELECT 1 FROM manifest m WHERE m.repo = repo.id) FROM repo
             WHERE id > ?1 ORDER BY id LIMIT ?2",
        )?
        .query_map([after, limit(n)], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?
        .collect();
    let mut last = None;
    for (id, name, listed, has_manifest) in repos? {
        page.examined += 1;
        last = Some(id);
        let Ok(repo) = name.replace('!', "/").parse() else {
            page.faults.push(Fault::Damaged { detail: format!("a repository is named {name:?}") });
            continue;
        };
        if listed != has_manifest {
            if repair {
                c.prepare_cached("UPDATE repo SET listed = ?2 WHERE id = ?1")?
                    .execute(params![id, has_manifest])?;
            }
            page.faults.push(Fault::Listing { repo });
        }
    }
    Ok(last)
}

/// The tags of one repository: the one after `after`.
fn check_tags(c: &Connection, after: i64, page: &mut CheckPage) -> rusqlite::Result<Option<i64>> {
    let next: Option<i64> = c
        .prepare_cached("SELECT min(repo) FROM tag WHERE repo > ?1")?
        .query_row([after], |row| row.get(0))?;
    let Some(repo) = next else { return Ok(None) };
    let count: u64 = c
        .prepare_cached("SELECT count(*) FROM tag WHERE repo = ?1")?
        .query_row([repo], |row| row.get(0))?;
    page.examined += count;
    let Some(name) = ids::repo_name(c, repo)? else {
        let detail = format!("{count} tags belong to the unknown repository number {repo}");
        page.faults.push(Fault::Damaged { detail });
        return Ok(Some(repo));
    };
    let mut statement = c.prepare_cached(
        "SELECT t.name FROM tag t LEFT JOIN manifest m ON m.id = t.manifest AND m.repo = t.repo
         WHERE t.repo = ?1 AND m.id IS NULL",
    )?;
    let mut rows = statement.query([repo])?;
    while let Some(row) = rows.next()? {
        let tag = row.get::<_, TagColumn>(0)?.0;
        page.faults.push(Fault::TagDangling { repo: name.clone(), tag });
    }
    Ok(Some(repo))
}

/// Digests by number: their stray edges, their links, and whether somebody watches what is unnamed.
fn check_digests(
    c: &Connection,
    after: i64,
    n: usize,
    repair: Option<GcTime>,
    page: &mut CheckPage,
) -> rusqlite::Result<Option<i64>> {
    type Row = (i64, DigestColumn, Option<i64>);
    let digests: rusqlite::Result<Vec<Row>> = c
        .prepare_cached("SELECT id, digest, state FROM digest WHERE id > ?1 ORDER BY id LIMIT ?2")?
        .query_map([after, limit(n)], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect();
    let mut last = None;
    let mut queue = None;
    for (id, DigestColumn(digest), state) in digests? {
        page.examined += 1;
        last = Some(id);
        check_stray_edges(c, id, &digest, repair.is_some(), page)?;
        for (repo, name) in check_links(c, id, &digest, state, page)? {
            let set = match &mut queue {
                Some(set) => set,
                unread => unread.insert(collect::queued_set(c)?),
            };
            let kind = if repo == 0 { REVIEW_BLOB } else { REVIEW_LINK };
            if set.contains(&(kind, repo, id)) {
                continue;
            }
            if let Some(now) = repair {
                collect::requeue(c, now, repo, id)?;
            }
            page.faults.push(Fault::Unwatched { repo: name, digest: digest.clone() });
        }
    }
    Ok(last)
}

fn check_stray_edges(
    c: &Connection,
    id: i64,
    digest: &Digest,
    repair: bool,
    page: &mut CheckPage,
) -> rusqlite::Result<()> {
    let stray: rusqlite::Result<Vec<(i64, i64)>> = c
        .prepare_cached(
            "SELECT e.repo, e.parent FROM edge e
             LEFT JOIN manifest m ON m.id = e.parent AND m.repo = e.repo
             WHERE e.child = ?1 AND m.id IS NULL",
        )?
        .query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect();
    for (repo, parent) in stray? {
        let Some(name) = ids::repo_name(c, repo)? else { continue };
        if repair {
            c.prepare_cached("DELETE FROM edge WHERE child = ?1 AND repo = ?2 AND parent = ?3")?
                .execute([id, repo, parent])?;
        }
        page.faults.push(Fault::EdgeStray { repo: name, child: digest.clone() });
    }
    Ok(())
}

/// Checks the links of a digest. Returns what must be in the queue: unnamed links (their
/// repository), or the blob itself (0) if no link names it.
fn check_links(
    c: &Connection,
    id: i64,
    digest: &Digest,
    state: Option<i64>,
    page: &mut CheckPage,
) -> rusqlite::Result<Vec<(i64, Option<RepoName>)>> {
    let links: rusqlite::Result<Vec<(i64, NameColumn, bool)>> = c
        .prepare_cached(
            "SELECT l.repo, r.name,
                    EXISTS (SELECT 1 FROM edge e WHERE e.child = l.blob AND e.repo = l.repo)
             FROM link l JOIN repo r ON r.id = l.repo WHERE l.blob = ?1",
        )?
        .query_map([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect();
    let links = links?;
    let mut unwatched = Vec::new();
    if links.is_empty() && matches!(state, Some(STATE_LIVE | STATE_QUARANTINED)) {
        unwatched.push((0, None));
    }
    for (repo, NameColumn(name), named) in links {
        if matches!(state, None | Some(STATE_REMOVING)) {
            page.faults.push(Fault::LinkDangling { repo: name.clone(), digest: digest.clone() });
        }
        if !named {
            unwatched.push((repo, Some(name)));
        }
    }
    Ok(unwatched)
}
