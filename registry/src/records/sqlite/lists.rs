//! Ordered lists, a page at a time: each is one range of one index.

use rusqlite::{Connection, params};
use shared::{Digest, RepoName, Tag};

use super::blobs::limit;
use super::ids::{self, NameColumn, TagColumn, name_text};
use crate::records::{Page, ReferrerPage};

/// A page out of `n + 1` entries.
pub(super) fn page<T>(mut entries: Vec<T>, n: usize) -> Page<T> {
    let more = entries.len() > n;
    entries.truncate(n);
    Page { entries, more }
}

pub(super) fn tags(
    c: &Connection,
    repo: &RepoName,
    last: Option<&str>,
    n: usize,
) -> rusqlite::Result<Option<Page<Tag>>> {
    let Some(repo) = listed_id(c, repo)? else { return Ok(None) };
    let tags: rusqlite::Result<Vec<Tag>> = c
        .prepare_cached(
            "SELECT name FROM tag WHERE repo = ?1 AND name > ?2 ORDER BY name LIMIT ?3",
        )?
        .query_map(params![repo, last.unwrap_or(""), limit(n.saturating_add(1))], |row| {
            row.get::<_, TagColumn>(0).map(|tag| tag.0)
        })?
        .collect();
    Ok(Some(page(tags?, n)))
}

/// The number of a repository that has a manifest.
pub(super) fn listed_id(c: &Connection, repo: &RepoName) -> rusqlite::Result<Option<i64>> {
    use rusqlite::OptionalExtension as _;
    c.prepare_cached("SELECT id FROM repo WHERE name = ?1 AND listed = 1")?
        .query_row([name_text(repo.as_str())], |row| row.get(0))
        .optional()
}

pub(super) fn repositories(
    c: &Connection,
    last: Option<&str>,
    n: usize,
) -> rusqlite::Result<Page<RepoName>> {
    let names: rusqlite::Result<Vec<RepoName>> = c
        .prepare_cached(
            "SELECT name FROM repo WHERE listed = 1 AND name > ?1 ORDER BY name LIMIT ?2",
        )?
        .query_map(params![name_text(last.unwrap_or("")), limit(n.saturating_add(1))], |row| {
            row.get::<_, NameColumn>(0).map(|name| name.0)
        })?
        .collect();
    Ok(page(names?, n))
}

/// Where a page of referrers ended. They are ordered by type, then by arrival, which is the order
/// of the one index that serves lists with and without a filter.
#[derive(Clone, Default)]
struct Place {
    artifact_type: String,
    manifest: i64,
}

impl Place {
    fn parse(text: &str) -> Option<Self> {
        let (manifest, hex) = text.split_once('-')?;
        let bytes = hex.as_bytes().chunks(2).map(|pair| {
            std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok())
        });
        let artifact_type = String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()?;
        Some(Self { artifact_type, manifest: manifest.parse().ok()? })
    }

    fn text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!("{}-", self.manifest);
        for byte in self.artifact_type.bytes() {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

pub(super) fn referrers(
    c: &Connection,
    repo: &RepoName,
    subject: &Digest,
    types: &[String],
    after: Option<&str>,
    max_bytes: usize,
) -> rusqlite::Result<ReferrerPage> {
    let (Some(repo), Some(subject)) = (ids::repo_id(c, repo)?, ids::digest_id(c, subject)?) else {
        return Ok(ReferrerPage::default());
    };
    let mut filler = Filler {
        after: after.and_then(Place::parse).unwrap_or_default(),
        page: ReferrerPage::default(),
        bytes: 0,
        max_bytes,
    };
    if types.is_empty() {
        filler.fill(
            &mut c.prepare_cached(
                "SELECT descriptor, artifact_type, id FROM manifest
                 WHERE subject = ?1 AND repo = ?2 AND (artifact_type, id) > (?3, ?4)
                 ORDER BY artifact_type, id",
            )?,
            (subject, repo),
        )?;
        return Ok(filler.page);
    }
    let mut types: Vec<&String> = types.iter().collect();
    types.sort_unstable();
    types.dedup();
    for artifact_type in types {
        if *artifact_type < filler.after.artifact_type {
            continue;
        }
        if *artifact_type > filler.after.artifact_type {
            filler.after = Place { artifact_type: artifact_type.clone(), manifest: 0 };
        }
        let whole = filler.fill(
            &mut c.prepare_cached(
                "SELECT descriptor, artifact_type, id FROM manifest
                 WHERE subject = ?1 AND repo = ?2 AND artifact_type = ?3 AND id > ?4
                 ORDER BY id",
            )?,
            (subject, repo),
        )?;
        if !whole {
            break;
        }
    }
    Ok(filler.page)
}

struct Filler {
    after: Place,
    page: ReferrerPage,
    bytes: usize,
    max_bytes: usize,
}

impl Filler {
    /// Adds rows until the page is full; whether all of them went in.
    fn fill(
        &mut self,
        statement: &mut rusqlite::CachedStatement<'_>,
        (subject, repo): (i64, i64),
    ) -> rusqlite::Result<bool> {
        let after = self.after.clone();
        let mut rows =
            statement.query(params![subject, repo, after.artifact_type, after.manifest])?;
        while let Some(row) = rows.next()? {
            let descriptor: String = row.get(0)?;
            // One more for the comma: a page may hold tens of thousands of small descriptors.
            let length = self.bytes.saturating_add(descriptor.len() + 1);
            if !self.page.descriptors.is_empty() && length > self.max_bytes {
                self.page.next = Some(self.after.text());
                return Ok(false);
            }
            self.bytes = length;
            self.page.descriptors.push(descriptor);
            self.after = Place { artifact_type: row.get(1)?, manifest: row.get(2)? };
        }
        Ok(true)
    }
}
