//! After a crash: everything that was ever asked for is read and judged, uploads go on, and the
//! registry works again.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::load::value_read;
use super::oracle::{Breach, Key, Kind, Oracle, Upload};
use crate::http::{Connection, Request, Response};
use crate::image::{OCI_MANIFEST, finish_upload, noise, oci_image, path_of, push_image, sha256};
use crate::registry::Registry;

/// What a crash may do to an upload that was under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uploads {
    /// It goes on, with every byte that it was told of.
    GoOn,
    /// It may have lost bytes, or itself.
    MayStartOver,
}

/// What was seen of uploads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Uploads that went on where the registry said, to the right blob.
    pub resumed: u64,
    /// Uploads that have to start over.
    pub started_over: u64,
}

/// Reads and judges everything; breaches go to the oracle.
///
/// # Errors
/// When the registry does not answer at all.
pub fn check(registry: &Registry, oracle: &Oracle, uploads: Uploads) -> Result<Seen> {
    let mut connection = None;
    for key in oracle.keys() {
        read(registry, &mut connection, oracle, &key)?;
    }
    lists(registry, oracle)?;
    let mut seen = Seen::default();
    for upload in oracle.take_uploads() {
        if resume(registry, oracle, &upload, uploads)? {
            seen.resumed += 1;
        } else if !upload.finishing {
            seen.started_over += 1;
        }
    }
    works(registry, oracle);
    Ok(seen)
}

fn read(
    registry: &Registry,
    kept: &mut Option<Connection>,
    oracle: &Oracle,
    key: &Key,
) -> Result<()> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Connection::open(registry.address())?,
    };
    let target = key.target();
    let request = Request::new("GET", &target).header("Accept", OCI_MANIFEST);
    match connection.exchange(request) {
        // A server that fails in the middle of an answer breaks the connection.
        Err(error) => oracle.breach(Breach::Unreadable, format!("{target}: {error:#}")),
        Ok(answer) => {
            match value_read(key, &answer) {
                Ok(value) => oracle.read(key, value),
                Err((breach, text)) => oracle.breach(breach, text),
            }
            if answer.header("connection").is_none_or(|value| value != "close") {
                *kept = Some(connection);
            }
        }
    }
    Ok(())
}

/// The list of tags says what reading each of them said.
fn lists(registry: &Registry, oracle: &Oracle) -> Result<()> {
    let keys = oracle.keys();
    let repos: BTreeSet<&String> =
        keys.iter().filter(|key| key.kind == Kind::Tag).map(|key| &key.repo).collect();
    for repo in repos {
        let live = oracle.live(Kind::Tag, repo);
        let wanted: BTreeSet<String> = live.into_iter().map(|(tag, _)| tag).collect();
        let answer = registry.get(&format!("/v2/{repo}/tags/list"))?;
        let listed: BTreeSet<String> = match answer.status {
            404 => BTreeSet::new(),
            200 => {
                let body = answer.json()?;
                let tags = body["tags"].as_array().into_iter().flatten();
                tags.filter_map(|tag| Some(tag.as_str()?.to_owned())).collect()
            }
            status => {
                let text = format!("the tags of {repo}: {status} {}", answer.text());
                oracle.breach(Breach::Unreadable, text);
                continue;
            }
        };
        if listed != wanted {
            let text = format!("the tags of {repo} are {wanted:?}, the list says {listed:?}");
            oracle.breach(Breach::Stale, text);
        }
    }
    Ok(())
}

/// Goes on with an upload. Whether that was possible.
fn resume(registry: &Registry, oracle: &Oracle, upload: &Upload, uploads: Uploads) -> Result<bool> {
    let lost = |why: String| {
        if uploads == Uploads::GoOn && !upload.finishing {
            oracle.breach(Breach::Upload, format!("{}: {why}; {upload:?}", upload.location));
        }
        Ok(false)
    };
    let status = registry.get(&upload.location)?;
    if status.status != 204 {
        return lost(format!("{} {}", status.status, status.text()));
    }
    let offset = offset_of(&status)?;
    let at_least = if uploads == Uploads::GoOn { upload.told } else { 0 };
    if !(at_least..=upload.sent).contains(&offset) {
        let text = format!("{}: goes on at {offset}; {upload:?}", upload.location);
        oracle.breach(Breach::Upload, text);
        return Ok(false);
    }
    let bytes = noise(upload.seed, upload.length);
    let mut location = path_of(status.header("location").unwrap_or(&upload.location)).to_owned();
    if offset < bytes.len() {
        let answer = Request::new("PATCH", &location)
            .header("Content-Type", "application/octet-stream")
            .header("Content-Range", format!("{offset}-{}", bytes.len() - 1))
            .bytes(&bytes[offset..])
            .send(registry.address())?;
        if answer.status != 202 {
            return lost(format!("PATCH: {} {}", answer.status, answer.text()));
        }
        location = path_of(answer.need("location")?).to_owned();
    }
    let digest = sha256(&bytes);
    let key = Key::new(Kind::Blob, &upload.repo, &digest);
    let ticket = oracle.begin(vec![(key.clone(), Some(digest.clone()))]);
    // Refusing is right where the bytes that it kept are not those that were sent.
    if let Err(error) = finish_upload(registry, &location, &digest, b"") {
        oracle.refuse(&ticket);
        return lost(format!("{error:#}"));
    }
    oracle.acknowledge(&ticket, |count| count.blobs += 1);
    read(registry, &mut None, oracle, &key)?;
    Ok(true)
}

/// How many bytes an upload has, by the Range of its status. `0-0` is nothing: no upload here
/// stops at one byte for long.
fn offset_of(status: &Response) -> Result<usize> {
    let range = status.need("range")?;
    let last = range.split_once('-').with_context(|| range.to_owned())?.1;
    let last: usize = last.parse().with_context(|| range.to_owned())?;
    Ok(if last == 0 { 0 } else { last + 1 })
}

/// A push from nothing works.
fn works(registry: &Registry, oracle: &Oracle) {
    let began = Instant::now();
    let serial = format!("{began:?}");
    let pushed = oci_image(&[("serial", serial.as_bytes())])
        .and_then(|image| push_image(registry, "torture/after", "latest", &image));
    if let Err(error) = pushed {
        oracle.breach(Breach::Refused, format!("a push after the restart: {error:#}"));
    }
}
