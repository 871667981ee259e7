//! Clients that push, mount, retag, delete and look, until the registry is gone.
//!
//! Each owns a repository, in which it is the only writer, and all write to one more. Contents are
//! drawn from a seed; what is drawn again is deduplicated, mounted, or found present.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::json;

use super::oracle::{Acknowledged, Breach, Key, Kind, Oracle, Ticket, Upload};
use crate::http::{Body, Connection, Request, Response};
use crate::image::{
    OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Random, noise, path_of, sha256, with_query,
};

const OCTETS: &str = "application/octet-stream";
/// The repository that everybody writes to.
pub const SHARED: &str = "torture/shared";
/// Tags per repository: few, so that they move.
const TAGS: usize = 5;
/// Layers that everybody pushes.
const POOL: usize = 12;
/// A repository with more manifests than this gets deletes instead of pushes.
const MANIFESTS_MAX: usize = 24;

/// The registry is gone, on purpose.
#[derive(Debug)]
pub struct Over;

/// What is known of the round.
#[derive(Debug, Default)]
pub struct Round {
    /// From here on failures mean nothing. Acknowledgements still do.
    pub over: AtomicBool,
}

/// What a program cannot do is not asked of it.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    pub deletes_tags: bool,
}

/// One client, for the life of a store.
pub struct Client<'a> {
    address: SocketAddr,
    connection: Option<Connection>,
    oracle: &'a Oracle,
    round: &'a Round,
    abilities: Abilities,
    random: Random,
    own: String,
    others: Vec<String>,
    /// The upload that is under way.
    upload: Option<Upload>,
}

/// Bytes by their seed.
#[derive(Clone, Copy, Debug)]
struct Blob {
    seed: u64,
    length: usize,
}

impl Blob {
    fn bytes(self) -> Vec<u8> {
        noise(self.seed, self.length)
    }
}

pub fn repo_of(client: usize) -> String {
    format!("torture/c{client}")
}

impl<'a> Client<'a> {
    pub fn new(
        address: SocketAddr,
        oracle: &'a Oracle,
        round: &'a Round,
        abilities: Abilities,
        number: usize,
        clients: usize,
        seed: u64,
    ) -> Self {
        let others = (0..clients).filter(|&n| n != number).map(repo_of).collect();
        let random = Random::new(seed.wrapping_add((number as u64) << 32));
        let own = repo_of(number);
        Self {
            address,
            connection: None,
            oracle,
            round,
            abilities,
            random,
            own,
            others,
            upload: None,
        }
    }

    /// Works until the registry is gone.
    pub fn work(&mut self) {
        // What was left of it ended with the last crash.
        self.connection = None;
        while !self.round.over.load(Ordering::Acquire) {
            if self.step().is_err() {
                break;
            }
        }
        if let Some(upload) = self.upload.take() {
            self.oracle.leave_upload(upload);
        }
    }

    fn step(&mut self) -> Result<(), Over> {
        let many = self.oracle.live(Kind::Manifest, &self.own).len() > MANIFESTS_MAX;
        match self.random.below(100) {
            0..40 if many => self.delete_manifest(),
            0..40 => self.push_image(),
            40..50 => self.push_to_all(),
            50..60 => self.retag(),
            60..68 => self.delete_tag(),
            68..78 => self.delete_manifest(),
            78..86 => self.push_and_delete_blob(),
            86..90 => self.leave_upload(),
            _ => self.look(),
        }
    }

    /// An image of its own, by tag or by digest.
    fn push_image(&mut self) -> Result<(), Over> {
        let repo = self.own.clone();
        let tag = (self.random.below(3) > 0).then(|| format!("t{}", self.random.below(TAGS)));
        self.push(&repo, tag)
    }

    /// An image for the repository where everybody moves the same tags.
    fn push_to_all(&mut self) -> Result<(), Over> {
        let tag = format!("s{}", self.random.below(TAGS));
        self.push(SHARED, Some(tag))
    }

    fn push(&mut self, repo: &str, tag: Option<String>) -> Result<(), Over> {
        let mut blobs = vec![self.new_blob()];
        for _ in 0..self.random.below(3) {
            blobs.push(self.pool_blob());
        }
        let began = Instant::now();
        let mut layers = Vec::new();
        for blob in blobs {
            let bytes = blob.bytes();
            let digest = sha256(&bytes);
            if !self.ensure(repo, blob, &bytes, &digest)? {
                return Ok(());
            }
            layers.push((digest, bytes.len()));
        }
        let manifest = manifest(&layers, self.random.next_u64());
        let digest = sha256(&manifest);
        let key = Key::new(Kind::Manifest, repo, &digest);
        let names: Vec<String> = layers.into_iter().map(|(digest, _)| digest).collect();
        self.oracle.name(&key, &names);
        self.put_manifest(key, tag, &manifest, began)
    }

    /// Makes a blob present as clients do: look, else mount, else upload.
    fn ensure(&mut self, repo: &str, blob: Blob, bytes: &[u8], digest: &str) -> Result<bool, Over> {
        let key = Key::new(Kind::Blob, repo, digest);
        if self.random.below(4) > 0 {
            let sent = Instant::now();
            let answer = self.call(Request::new("HEAD", &key.target()))?;
            match answer.status {
                200 => {
                    self.oracle.seen(&key, sent);
                    return Ok(true);
                }
                404 => {}
                _ => return self.want(&answer, &[], &key.target()),
            }
        }
        if self.random.below(2) == 0 && self.mount(&key)? {
            return Ok(true);
        }
        self.upload(&key, blob, bytes)
    }

    fn mount(&mut self, key: &Key) -> Result<bool, Over> {
        let from = self.others[self.random.below(self.others.len())].clone();
        let (repo, digest) = (&key.repo, &key.name);
        let target = format!("/v2/{repo}/blobs/uploads/?mount={digest}&from={from}");
        let ticket = self.oracle.begin(vec![(key.clone(), Some(digest.clone()))]);
        let answer = self.call(Request::new("POST", &target))?;
        if answer.status == 202 {
            // A new upload instead; it is left alone, as by a client that gives up.
            self.oracle.refuse(&ticket);
            return Ok(false);
        }
        self.settle(&ticket, &answer, 201, &target, |count| count.mounts += 1)
    }

    fn upload(&mut self, key: &Key, blob: Blob, bytes: &[u8]) -> Result<bool, Over> {
        let parts = match self.random.below(4) {
            0 => return self.upload_at_once(key, bytes),
            1 => 0,
            2 => 1,
            _ => 1 + self.random.below(4),
        };
        let Some(location) = self.open_upload(&key.repo, blob, "")? else { return Ok(false) };
        let Some(location) = self.send_parts(location, bytes, parts)? else { return Ok(false) };
        self.close_upload(key, &location, bytes)
    }

    /// `POST` with the bytes, which a registry may answer by opening an upload.
    fn upload_at_once(&mut self, key: &Key, bytes: &[u8]) -> Result<bool, Over> {
        let target = format!("/v2/{}/blobs/uploads/?digest={}", key.repo, key.name);
        let ticket = self.oracle.begin(vec![(key.clone(), Some(key.name.clone()))]);
        let request = Request::new("POST", &target).header("Content-Type", OCTETS).bytes(bytes);
        let answer = self.call(request)?;
        if answer.status == 202 {
            let Some(location) = answer.header("location") else { return Ok(false) };
            let location = path_of(location).to_owned();
            self.oracle.refuse(&ticket);
            return self.close_upload(key, &location, bytes);
        }
        self.settle(&ticket, &answer, 201, &target, |count| count.blobs += 1)
    }

    fn open_upload(&mut self, repo: &str, blob: Blob, query: &str) -> Result<Option<String>, Over> {
        let target = format!("/v2/{repo}/blobs/uploads/{query}");
        let answer = self.call(Request::new("POST", &target))?;
        if !self.want(&answer, &[202], &target)? {
            return Ok(None);
        }
        let location = path_of(answer.header("location").unwrap_or_default()).to_owned();
        self.upload = Some(Upload {
            repo: repo.to_owned(),
            location: location.clone(),
            seed: blob.seed,
            length: blob.length,
            told: 0,
            sent: 0,
            finishing: false,
        });
        Ok(Some(location))
    }

    /// Sends so many parts, about all of the bytes; with one part as a stream of chunks.
    fn send_parts(
        &mut self,
        mut location: String,
        bytes: &[u8],
        parts: usize,
    ) -> Result<Option<String>, Over> {
        for part in 0..parts {
            let (from, to) = (bytes.len() * part / parts, bytes.len() * (part + 1) / parts);
            if let Some(upload) = &mut self.upload {
                upload.sent = to;
            }
            let chunk = &bytes[from..to];
            let halves = [&chunk[..chunk.len() / 2], &chunk[chunk.len() / 2..]];
            let halves: Vec<&[u8]> = halves.into_iter().filter(|half| !half.is_empty()).collect();
            let request = Request::new("PATCH", &location).header("Content-Type", OCTETS);
            let request = match parts {
                1 => request.body(Body::Chunked(&halves)),
                _ => request
                    .header("Content-Range", format!("{from}-{}", to.saturating_sub(1)))
                    .bytes(chunk),
            };
            let target = location.clone();
            let answer = self.call(request)?;
            if !self.want(&answer, &[202], &target)? {
                return Ok(None);
            }
            location = path_of(answer.header("location").unwrap_or_default()).to_owned();
            if let Some(upload) = &mut self.upload {
                upload.told = to;
                upload.location.clone_from(&location);
            }
        }
        Ok(Some(location))
    }

    /// Sends what is left of the bytes and closes the upload.
    fn close_upload(&mut self, key: &Key, location: &str, bytes: &[u8]) -> Result<bool, Over> {
        let told = self.upload.as_ref().map_or(0, |upload| upload.told);
        if let Some(upload) = &mut self.upload {
            upload.sent = bytes.len();
            upload.finishing = true;
        }
        let target = with_query(location, &format!("digest={}", key.name));
        let ticket = self.oracle.begin(vec![(key.clone(), Some(key.name.clone()))]);
        let request = Request::new("PUT", &target).header("Content-Type", OCTETS);
        let answer = self.call(request.bytes(&bytes[told..]))?;
        let done = self.settle(&ticket, &answer, 201, &target, |count| count.blobs += 1)?;
        self.upload = None;
        Ok(done)
    }

    /// Begins an upload, sends a part, and goes away.
    fn leave_upload(&mut self) -> Result<(), Over> {
        let (repo, blob) = (self.own.clone(), self.new_blob());
        let bytes = blob.bytes();
        let Some(location) = self.open_upload(&repo, blob, "")? else { return Ok(()) };
        let part = &bytes[..1 + self.random.below(bytes.len())];
        self.send_parts(location, part, 2)?;
        if let Some(upload) = self.upload.take() {
            self.oracle.leave_upload(upload);
        }
        Ok(())
    }

    /// Puts a manifest by its tag, else by its digest. `began`: when its first blob was looked
    /// for.
    fn put_manifest(
        &mut self,
        key: Key,
        tag: Option<String>,
        manifest: &[u8],
        began: Instant,
    ) -> Result<(), Over> {
        let digest = key.name.clone();
        let reference = tag.clone().unwrap_or_else(|| digest.clone());
        let target = format!("/v2/{}/manifests/{reference}", key.repo);
        let mut changes = vec![(key.clone(), Some(digest.clone()))];
        if let Some(tag) = &tag {
            changes.push((Key::new(Kind::Tag, &key.repo, tag), Some(digest)));
        }
        let ticket = self.oracle.begin(changes);
        let request = Request::new("PUT", &target).header("Content-Type", OCI_MANIFEST);
        let answer = self.call(request.bytes(manifest))?;
        // Longer than the grace between a blob and its manifest: that is the client's fault.
        let late = self.oracle.grace().is_some_and(|grace| began.elapsed() >= grace);
        if answer.status == 400 && late {
            self.oracle.refuse(&ticket);
            return Ok(());
        }
        self.settle(&ticket, &answer, 201, &target, |count| {
            count.manifests += 1;
            count.tags += u64::from(tag.is_some());
        })?;
        Ok(())
    }

    /// Moves a tag to a manifest that is there.
    fn retag(&mut self) -> Result<(), Over> {
        let shared = self.random.below(2) == 0;
        let repo = if shared { SHARED.to_owned() } else { self.own.clone() };
        let Some(digest) = self.any(Kind::Manifest, &repo) else { return Ok(()) };
        let key = Key::new(Kind::Manifest, &repo, &digest);
        let target = key.target();
        let answer = self.call(Request::new("GET", &target).header("Accept", OCI_MANIFEST))?;
        if !self.want(&answer, &[200], &target)? {
            return Ok(());
        }
        let tag = format!("{}{}", if shared { 's' } else { 't' }, self.random.below(TAGS));
        self.put_manifest(key, Some(tag), &answer.body, Instant::now())
    }

    fn delete_tag(&mut self) -> Result<(), Over> {
        let repo = if self.random.below(3) == 0 { SHARED.to_owned() } else { self.own.clone() };
        if !self.abilities.deletes_tags {
            return Ok(());
        }
        let Some(tag) = self.any(Kind::Tag, &repo) else { return Ok(()) };
        let key = Key::new(Kind::Tag, &repo, &tag);
        // Somebody else may have deleted it just before.
        self.delete(vec![key], repo == SHARED)
    }

    /// Deletes one of its manifests, and the tags on it with it.
    fn delete_manifest(&mut self) -> Result<(), Over> {
        let repo = self.own.clone();
        let Some(digest) = self.any(Kind::Manifest, &repo) else { return Ok(()) };
        let mut keys = vec![Key::new(Kind::Manifest, &repo, &digest)];
        let tags = self.oracle.tags_of(&repo, &digest);
        keys.extend(tags.iter().map(|tag| Key::new(Kind::Tag, &repo, tag)));
        self.delete(keys, false)
    }

    /// Pushes a blob that nobody names and deletes it, and sometimes pushes it again at once.
    fn push_and_delete_blob(&mut self) -> Result<(), Over> {
        let blob = if self.random.below(2) == 0 { self.pool_blob() } else { self.new_blob() };
        let bytes = blob.bytes();
        let key = Key::new(Kind::Blob, &self.own, &sha256(&bytes));
        if self.oracle.is_named(&key) || !self.upload(&key, blob, &bytes)? {
            return Ok(());
        }
        // It may have gone already, if that took longer than the grace.
        self.delete(vec![key.clone()], self.oracle.grace().is_some())?;
        if self.random.below(2) == 0 {
            self.upload(&key, blob, &bytes)?;
        }
        Ok(())
    }

    /// Deletes the first of these names, with which the others go.
    fn delete(&mut self, keys: Vec<Key>, may_be_gone: bool) -> Result<(), Over> {
        let target = keys[0].target();
        let ticket = self.oracle.begin(keys.into_iter().map(|key| (key, None)).collect());
        let answer = self.call(Request::new("DELETE", &target))?;
        if answer.status == 404 && may_be_gone {
            self.oracle.refuse(&ticket);
            return Ok(());
        }
        self.settle(&ticket, &answer, 202, &target, |count| count.deletes += 1)?;
        Ok(())
    }

    /// Reads something of its own, which nobody else changes.
    fn look(&mut self) -> Result<(), Over> {
        let kind = [Kind::Manifest, Kind::Tag, Kind::Blob][self.random.below(3)];
        let own = self.own.clone();
        let Some(name) = self.any(kind, &own) else { return Ok(()) };
        let key = Key::new(kind, &own, &name);
        let target = key.target();
        let answer = self.call(Request::new("GET", &target).header("Accept", OCI_MANIFEST))?;
        match value_read(&key, &answer) {
            Ok(value) => self.oracle.read(&key, value),
            Err((breach, text)) => {
                if self.round.over.load(Ordering::Acquire) {
                    return Err(Over);
                }
                self.oracle.breach(breach, text);
            }
        }
        Ok(())
    }

    fn any(&mut self, kind: Kind, repo: &str) -> Option<String> {
        let live = self.oracle.live(kind, repo);
        (!live.is_empty()).then(|| live[self.random.below(live.len())].0.clone())
    }

    fn new_blob(&mut self) -> Blob {
        Blob { seed: self.random.next_u64(), length: self.length() }
    }

    fn pool_blob(&mut self) -> Blob {
        let number = self.random.below(POOL);
        // The same length for the same number.
        let length = [100, 5_000, 40_000, 200_000][number % 4] + number;
        Blob { seed: number as u64, length }
    }

    /// Mostly small, sometimes some MiB.
    fn length(&mut self) -> usize {
        let bound = match self.random.below(20) {
            0..12 => 16 << 10,
            12..18 => 256 << 10,
            _ => 4 << 20,
        };
        2 + self.random.below(bound)
    }

    /// One request on the kept connection. A broken one counts against the registry unless the
    /// round is over.
    fn call(&mut self, request: Request<'_>) -> Result<Response, Over> {
        let over = |round: &Round| round.over.load(Ordering::Acquire);
        let opened = match self.connection.take() {
            Some(connection) => Ok(connection),
            None => Connection::open(self.address),
        };
        let answer = opened.and_then(|mut connection| {
            let answer = connection.exchange(request)?;
            Ok((connection, answer))
        });
        match answer {
            Ok((connection, answer)) => {
                let closes = answer.header("connection").is_some_and(|value| value == "close");
                self.connection = (!closes).then_some(connection);
                Ok(answer)
            }
            Err(error) => {
                if !over(self.round) {
                    self.oracle.breach(Breach::Refused, format!("no answer: {error:#}"));
                }
                Err(Over)
            }
        }
    }

    /// Writes down what became of a write. Whether it was acknowledged.
    fn settle(
        &self,
        ticket: &Ticket,
        answer: &Response,
        wanted: u16,
        target: &str,
        count: impl FnOnce(&mut Acknowledged),
    ) -> Result<bool, Over> {
        if answer.status == wanted {
            self.oracle.acknowledge(ticket, count);
            return Ok(true);
        }
        // After a 5xx it may have happened or not.
        if answer.status < 500 {
            self.oracle.refuse(ticket);
        }
        self.want(answer, &[wanted], target)
    }

    /// Whether the answer is one of these. Another one is a correct request refused, unless the
    /// round is over.
    fn want(&self, answer: &Response, wanted: &[u16], target: &str) -> Result<bool, Over> {
        if wanted.contains(&answer.status) {
            return Ok(true);
        }
        if self.round.over.load(Ordering::Acquire) {
            return Err(Over);
        }
        let text = format!("{target}: {} {}", answer.status, answer.text());
        self.oracle.breach(Breach::Refused, text);
        Ok(false)
    }
}

/// What an answer to a GET says that the name leads to.
///
/// # Errors
/// When it is neither the whole content nor 404.
pub fn value_read(key: &Key, answer: &Response) -> Result<Option<String>, (Breach, String)> {
    let target = key.target();
    match answer.status {
        200 => {
            let digest = sha256(&answer.body);
            let said = answer.header("docker-content-digest").is_none_or(|said| said == digest);
            if !said || (key.kind != Kind::Tag && digest != key.name) {
                let length = answer.body.len();
                return Err((Breach::Torn, format!("{target}: {length} bytes of {digest}")));
            }
            Ok(Some(digest))
        }
        404 => Ok(None),
        status => Err((Breach::Unreadable, format!("{target}: {status} {}", answer.text()))),
    }
}

fn manifest(layers: &[(String, usize)], serial: u64) -> Vec<u8> {
    let layer = |media_type: &str, (digest, size): &(String, usize)| json!({"mediaType": media_type, "digest": digest, "size": size});
    // Any blob may be a config; this one is the client's own, and so is the manifest.
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": layer(OCI_CONFIG, &layers[0]),
        "layers": layers[1..].iter().map(|one| layer(OCI_LAYER, one)).collect::<Vec<_>>(),
        "annotations": {"serial": serial.to_string()},
    });
    manifest.to_string().into_bytes()
}
