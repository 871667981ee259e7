//! From the words outside to the numbers inside, and back.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension as _};
use shared::{Algorithm, Digest, RepoName, Tag};

/// A digest as its column has it: one byte for the algorithm, then the raw hash.
pub(super) struct DigestColumn(pub(super) Digest);

const SHA256: u8 = 1;
const SHA512: u8 = 2;

pub(super) fn digest_bytes(digest: &Digest) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(65);
    bytes.push(match digest.algorithm() {
        Algorithm::Sha256 => SHA256,
        Algorithm::Sha512 => SHA512,
    });
    bytes.extend_from_slice(digest.hash());
    bytes
}

impl FromSql for DigestColumn {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let (algorithm, hash) = value.as_blob()?.split_first().ok_or(FromSqlError::InvalidType)?;
        let algorithm = match *algorithm {
            SHA256 => Algorithm::Sha256,
            SHA512 => Algorithm::Sha512,
            _ => return Err(FromSqlError::InvalidType),
        };
        Digest::from_hash(algorithm, hash).map(Self).map_err(FromSqlError::other)
    }
}

/// A repository's name as its column has it: `!` for `/`, which makes byte order distribution's
/// catalog order (`/` before everything else); `!` cannot stand in a name.
pub(super) struct NameColumn(pub(super) RepoName);

pub(super) fn name_text(name: &str) -> String {
    name.replace('/', "!")
}

impl FromSql for NameColumn {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let name = value.as_str()?.replace('!', "/");
        name.parse().map(Self).map_err(FromSqlError::other)
    }
}

pub(super) struct TagColumn(pub(super) Tag);

impl FromSql for TagColumn {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str()?.parse().map(Self).map_err(FromSqlError::other)
    }
}

/// The ids of a manifest's children, as its row has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Children(pub(super) Vec<i64>);

impl ToSql for Children {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|id| id.to_le_bytes()).collect();
        Ok(bytes.into())
    }
}

impl FromSql for Children {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let (ids, rest) = value.as_blob()?.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(FromSqlError::InvalidType);
        }
        Ok(Self(ids.iter().map(|id| i64::from_le_bytes(*id)).collect()))
    }
}

pub(super) fn repo_id(c: &Connection, repo: &RepoName) -> rusqlite::Result<Option<i64>> {
    c.prepare_cached("SELECT id FROM repo WHERE name = ?1")?
        .query_row([name_text(repo.as_str())], |row| row.get(0))
        .optional()
}

pub(super) fn repo_id_or_new(c: &Connection, repo: &RepoName) -> rusqlite::Result<i64> {
    if let Some(id) = repo_id(c, repo)? {
        return Ok(id);
    }
    c.prepare_cached("INSERT INTO repo(name) VALUES (?1)")?.insert([name_text(repo.as_str())])
}

pub(super) fn repo_name(c: &Connection, id: i64) -> rusqlite::Result<Option<RepoName>> {
    c.prepare_cached("SELECT name FROM repo WHERE id = ?1")?
        .query_row([id], |row| row.get::<_, NameColumn>(0).map(|name| name.0))
        .optional()
}

pub(super) fn digest_id(c: &Connection, digest: &Digest) -> rusqlite::Result<Option<i64>> {
    c.prepare_cached("SELECT id FROM digest WHERE digest = ?1")?
        .query_row([digest_bytes(digest)], |row| row.get(0))
        .optional()
}

pub(super) fn digest_id_or_new(c: &Connection, digest: &Digest) -> rusqlite::Result<i64> {
    if let Some(id) = digest_id(c, digest)? {
        return Ok(id);
    }
    c.prepare_cached("INSERT INTO digest(digest) VALUES (?1)")?.insert([digest_bytes(digest)])
}

pub(super) fn digest_of(c: &Connection, id: i64) -> rusqlite::Result<Option<Digest>> {
    c.prepare_cached("SELECT digest FROM digest WHERE id = ?1")?
        .query_row([id], |row| row.get::<_, DigestColumn>(0).map(|digest| digest.0))
        .optional()
}

/// Drops the number of a digest that nothing refers to any more.
pub(super) fn forget_digest(c: &Connection, id: i64) -> rusqlite::Result<()> {
    c.prepare_cached(
        "DELETE FROM digest WHERE id = ?1 AND manifests = 0 AND state IS NULL
         AND NOT EXISTS (SELECT 1 FROM edge WHERE child = ?1)",
    )?
    .execute([id])?;
    Ok(())
}
