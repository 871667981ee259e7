//! Random histories of requests against a model in memory: several clients at once, each in a
//! repository of its own over contents that all of them share, and one tag that all of them move.
//!
//! Halfway the registry is killed with SIGKILL: everything that was acknowledged must be there. A
//! failure names its seed; `ROADSTEAD_MODEL_SEED` runs that one again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use conformance::http::Request;
use conformance::image::{
    self, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Random, descriptor, noise, open_upload, push_blob,
    sha256, with_query,
};
use conformance::registry::{Options, Registry};
use serde_json::{Value, json};

const CLIENTS: u64 = 6;
const STEPS: usize = 120;
const SEEDS: [u64; 2] = [1, 20_260_101];
const TAGS: [&str; 4] = ["a", "B", "c.1", "_d"];
const CONTENTS: u64 = 5;

#[test]
fn random_histories_agree_with_the_model() -> anyhow::Result<()> {
    let seeds = match std::env::var("ROADSTEAD_MODEL_SEED") {
        Ok(seed) => vec![seed.parse().context("ROADSTEAD_MODEL_SEED is a number")?],
        Err(_) => SEEDS.to_vec(),
    };
    for seed in seeds {
        run(seed).with_context(|| format!("ROADSTEAD_MODEL_SEED={seed} shows this again"))?;
        println!("seed {seed}: {CLIENTS} clients, {} requests and more each", 2 * STEPS);
    }
    Ok(())
}

fn run(seed: u64) -> anyhow::Result<()> {
    let mut registry = Registry::start(Options::default())?;
    let shared = SharedTag::new(&registry)?;
    let mut clients: Vec<Client> = (0..CLIENTS).map(|number| Client::new(seed, number)).collect();
    for _ in 0..2 {
        std::thread::scope(|scope| {
            let (registry, shared) = (&registry, &shared);
            let running: Vec<_> = clients
                .iter_mut()
                .map(|client| scope.spawn(move || client.act(registry, shared)))
                .collect();
            running.into_iter().try_for_each(|client| client.join().expect("a client panicked"))
        })?;
        registry.crash_and_restart()?;
        for client in &mut clients {
            client.check_all(&registry).context("after kill -9")?;
        }
        shared.read(&registry).context("after kill -9")?;
    }
    shared.check()
}

/// One client, and what its repository must hold.
struct Client {
    name: String,
    number: u64,
    random: Random,
    blobs: BTreeSet<u64>,
    /// digest → (bytes, subject)
    manifests: BTreeMap<String, (Vec<u8>, Option<String>)>,
    tags: BTreeMap<&'static str, String>,
    /// An upload that is open: location, content, bytes sent.
    upload: Option<(String, u64, usize)>,
}

/// Contents that every client pushes, so that deletes in one repository meet pushes in others.
fn content(number: u64) -> Vec<u8> {
    noise(number, 1000 + 20_000 * number as usize)
}

impl Client {
    fn new(seed: u64, number: u64) -> Self {
        Self {
            name: format!("model/{number}"),
            number,
            random: Random::new(seed.wrapping_mul(1000) + number),
            blobs: BTreeSet::new(),
            manifests: BTreeMap::new(),
            tags: BTreeMap::new(),
            upload: None,
        }
    }

    fn act(&mut self, registry: &Registry, shared: &SharedTag) -> anyhow::Result<()> {
        for step in 0..STEPS {
            let choice = self.random.below(20);
            let result = match choice {
                0..=2 => self.push_blob(registry),
                3 => self.mount(registry),
                4..=5 => self.upload_a_piece(registry),
                6 => self.delete_blob(registry),
                7..=9 => self.put_manifest(registry),
                10 => self.delete_tag(registry),
                11 => self.delete_manifest(registry),
                12 => self.check_blob(registry, None),
                13..=14 => self.check_tag(registry, None),
                15 => self.check_tags(registry),
                16 => self.check_referrers(registry),
                17 => shared
                    .write(registry, self.number * 1_000_000 + self.random.next_u64() % 999_999),
                _ => shared.read(registry),
            };
            result.with_context(|| format!("{}: step {step}, choice {choice}", self.name))?;
        }
        Ok(())
    }

    fn target(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.name)
    }

    fn some_content(&mut self) -> u64 {
        self.random.next_u64() % CONTENTS
    }

    fn push_blob(&mut self, registry: &Registry) -> anyhow::Result<()> {
        let number = self.some_content();
        let bytes = content(number);
        if self.random.below(2) == 0 {
            push_blob(registry, &self.name, &bytes)?;
        } else {
            let location = open_upload(registry, &self.name)?;
            image::finish_upload(registry, &location, &sha256(&bytes), &bytes)?;
        }
        self.blobs.insert(number);
        Ok(())
    }

    /// What the others hold is not known here: both answers are right, and say what holds now.
    fn mount(&mut self, registry: &Registry) -> anyhow::Result<()> {
        let number = self.some_content();
        let from = self.random.next_u64() % CLIENTS;
        let digest = sha256(&content(number));
        let query = format!("blobs/uploads/?mount={digest}&from=model/{from}");
        let answer = registry.request("POST", &self.target(&query))?;
        match answer.status {
            201 => drop(self.blobs.insert(number)),
            _ => drop(answer.expect(202)?),
        }
        Ok(())
    }

    fn upload_a_piece(&mut self, registry: &Registry) -> anyhow::Result<()> {
        let (location, number, sent) = match self.upload.take() {
            Some(open) => open,
            None => (open_upload(registry, &self.name)?, self.some_content(), 0),
        };
        let bytes = content(number);
        let piece = &bytes[sent..(sent + 9000).min(bytes.len())];
        if piece.len() < 9000 {
            image::finish_upload(registry, &location, &sha256(&bytes), piece)?;
            self.blobs.insert(number);
            return Ok(());
        }
        // Sometimes at a place that is wrong, which must change nothing.
        let wrong = self.random.below(4) == 0;
        let start = if wrong { sent + 1 } else { sent };
        let answer = Request::new("PATCH", &location)
            .header("Content-Range", format!("{start}-{}", start + piece.len() - 1))
            .bytes(piece)
            .send(registry.address())?
            .expect(if wrong { 416 } else { 202 })?;
        let sent = if wrong { sent } else { sent + piece.len() };
        let range = answer.need("range")?;
        ensure!(range == format!("0-{}", sent.saturating_sub(1)), "{range}, {sent} were sent");
        self.upload = Some((image::path_of(answer.need("location")?).to_owned(), number, sent));
        Ok(())
    }

    fn delete_blob(&mut self, registry: &Registry) -> anyhow::Result<()> {
        let number = self.some_content();
        let target = self.target(&format!("blobs/{}", sha256(&content(number))));
        let expected = if self.blobs.remove(&number) { 202 } else { 404 };
        registry.request("DELETE", &target)?.expect(expected)?;
        Ok(())
    }

    fn put_manifest(&mut self, registry: &Registry) -> anyhow::Result<()> {
        let parts = [self.some_content(), self.some_content()];
        let subject = match self.random.below(3) {
            0 => self.manifests.keys().next().cloned(),
            _ => None,
        };
        let manifest = manifest(&parts, subject.as_deref(), &[self.random.below(8) as u64]);
        let digest = sha256(&manifest);
        let tag = TAGS[self.random.below(TAGS.len())];
        let by_tag = self.random.below(3) > 0;
        let reference = if by_tag { tag } else { &digest };
        let target = self.target(&format!("manifests/{reference}"));
        let complete = parts.iter().all(|part| self.blobs.contains(part));
        let answer = registry.send("PUT", &target, OCI_MANIFEST, &manifest)?;
        if !complete {
            answer.expect(400)?;
            return Ok(());
        }
        answer.expect(201)?;
        if by_tag {
            self.tags.insert(tag, digest.clone());
        }
        self.manifests.insert(digest, (manifest, subject));
        Ok(())
    }

    fn delete_tag(&mut self, registry: &Registry) -> anyhow::Result<()> {
        let tag = TAGS[self.random.below(TAGS.len())];
        let expected = if self.tags.remove(tag).is_some() { 202 } else { 404 };
        let target = self.target(&format!("manifests/{tag}"));
        registry.request("DELETE", &target)?.expect(expected)?;
        Ok(())
    }

    fn delete_manifest(&mut self, registry: &Registry) -> anyhow::Result<()> {
        let known = self.manifests.len();
        let digest = match known {
            0 => sha256(b"no manifest"),
            _ => self.manifests.keys().nth(self.random.below(known)).context("one")?.clone(),
        };
        let expected = if self.manifests.remove(&digest).is_some() { 202 } else { 404 };
        self.tags.retain(|_, named| *named != digest);
        let target = self.target(&format!("manifests/{digest}"));
        registry.request("DELETE", &target)?.expect(expected)?;
        Ok(())
    }

    fn check_blob(&mut self, registry: &Registry, number: Option<u64>) -> anyhow::Result<()> {
        let number = number.unwrap_or_else(|| self.some_content());
        let bytes = content(number);
        let target = self.target(&format!("blobs/{}", sha256(&bytes)));
        let is_held = self.blobs.contains(&number);
        let answer = registry.get(&target)?.expect(if is_held { 200 } else { 404 })?;
        ensure!(!is_held || answer.body == bytes, "other bytes than were pushed");
        Ok(())
    }

    fn check_tag(&mut self, registry: &Registry, tag: Option<&'static str>) -> anyhow::Result<()> {
        let tag = tag.unwrap_or_else(|| TAGS[self.random.below(TAGS.len())]);
        let answer = registry.get(&self.target(&format!("manifests/{tag}")))?;
        match self.tags.get(tag) {
            None => drop(answer.expect(404)?),
            Some(digest) => {
                let answer = answer.expect(200)?;
                ensure!(answer.need("docker-content-digest")? == digest, "{tag} names another");
                ensure!(answer.body == self.manifests[digest].0, "other bytes under {tag}");
            }
        }
        Ok(())
    }

    fn check_tags(&mut self, registry: &Registry) -> anyhow::Result<()> {
        let answer = registry.get(&self.target("tags/list"))?;
        if answer.status == 404 && self.manifests.is_empty() {
            return Ok(());
        }
        let answer = answer.expect(200)?.json()?;
        // A BTreeMap is in the order of bytes, which is ASCII's.
        let expected: Vec<&str> = self.tags.keys().copied().collect();
        ensure!(answer["tags"] == json!(expected), "{answer}, not {expected:?}");
        Ok(())
    }

    fn check_referrers(&mut self, registry: &Registry) -> anyhow::Result<()> {
        let subjects = self.manifests.values().filter_map(|(_, subject)| subject.clone());
        let subjects: BTreeSet<String> = subjects.chain(self.manifests.keys().cloned()).collect();
        for subject in subjects {
            let answer = registry.get(&self.target(&format!("referrers/{subject}")))?;
            let answer = answer.expect(200)?.json()?;
            let listed = answer["manifests"].as_array().context("manifests")?;
            let listed: BTreeSet<&str> =
                listed.iter().filter_map(|entry| entry["digest"].as_str()).collect();
            let expected: BTreeSet<&str> = self
                .manifests
                .iter()
                .filter(|(_, (_, of))| of.as_deref() == Some(subject.as_str()))
                .map(|(digest, _)| digest.as_str())
                .collect();
            ensure!(listed == expected, "referrers of {subject}: {listed:?}, not {expected:?}");
        }
        Ok(())
    }

    fn check_all(&mut self, registry: &Registry) -> anyhow::Result<()> {
        for number in 0..CONTENTS {
            self.check_blob(registry, Some(number))?;
        }
        for tag in TAGS {
            self.check_tag(registry, Some(tag))?;
        }
        for (digest, (bytes, _)) in &self.manifests {
            let target = self.target(&format!("manifests/{digest}"));
            ensure!(registry.get(&target)?.expect(200)?.body == *bytes, "{digest}");
        }
        self.check_tags(registry)?;
        self.check_referrers(registry)?;
        if let Some((location, _, sent)) = &self.upload {
            let status = registry.get(location)?.expect(204)?;
            let range = status.need("range")?;
            ensure!(range == format!("0-{}", sent.saturating_sub(1)), "{range}, not {sent}");
        }
        Ok(())
    }
}

fn manifest(parts: &[u64; 2], subject: Option<&str>, salt: &[u64]) -> Vec<u8> {
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, &content(parts[0])),
        "layers": [descriptor(OCI_LAYER, &content(parts[1]))],
        "annotations": {"salt": format!("{salt:?}")},
    });
    if let Some(digest) = subject {
        let size = 1;
        manifest["subject"] = json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": size});
    }
    manifest.to_string().into_bytes()
}

/// A tag that all clients move; every value is written once, so each read names its write.
struct SharedTag {
    base: Instant,
    writes: Mutex<BTreeMap<String, Span>>,
    reads: Mutex<Vec<(String, Span)>>,
}

/// When a request was sent and when its answer was there, in nanoseconds from one start.
#[derive(Clone, Copy, Debug)]
struct Span {
    sent: u128,
    answered: u128,
}

const SHARED: &str = "model/shared";

impl SharedTag {
    fn new(registry: &Registry) -> anyhow::Result<Self> {
        for number in 0..CONTENTS {
            push_blob(registry, SHARED, &content(number))?;
        }
        let tag = Self { base: Instant::now(), writes: Mutex::default(), reads: Mutex::default() };
        tag.write(registry, 0)?;
        Ok(tag)
    }

    fn timed<T>(&self, ask: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, Span)> {
        let sent = self.base.elapsed().as_nanos();
        let value = ask()?;
        Ok((value, Span { sent, answered: self.base.elapsed().as_nanos() }))
    }

    fn write(&self, registry: &Registry, salt: u64) -> anyhow::Result<()> {
        let sent = self.base.elapsed().as_nanos();
        let manifest = manifest(&[0, 1], None, &[salt, sent as u64]);
        let target =
            with_query(&format!("/v2/{SHARED}/manifests/{}", sha256(&manifest)), "tag=moved");
        let (_, span) =
            self.timed(|| registry.send("PUT", &target, OCI_MANIFEST, &manifest)?.expect(201))?;
        let mut writes = self.writes.lock().expect("no client panicked");
        ensure!(writes.insert(sha256(&manifest), span).is_none(), "two writes of one value");
        Ok(())
    }

    fn read(&self, registry: &Registry) -> anyhow::Result<()> {
        let target = format!("/v2/{SHARED}/manifests/moved");
        let (answer, span) = self.timed(|| registry.get(&target)?.expect(200))?;
        let digest = answer.need("docker-content-digest")?.to_owned();
        ensure!(sha256(&answer.body) == digest, "a torn answer");
        self.reads.lock().expect("no client panicked").push((digest, span));
        Ok(())
    }

    /// What a register that is linearizable must satisfy when each value is written once: no read
    /// from the future, none of a value that another finished write had replaced by then.
    fn check(&self) -> anyhow::Result<()> {
        let writes = self.writes.lock().expect("no client panicked");
        let reads = self.reads.lock().expect("no client panicked");
        for (digest, read) in reads.iter() {
            let write = writes.get(digest).with_context(|| format!("nobody wrote {digest}"))?;
            ensure!(write.sent < read.answered, "read before it was written: {digest}");
            let newer = writes
                .values()
                .find(|other| other.sent > write.answered && other.answered < read.sent);
            ensure!(newer.is_none(), "{digest} was read after it was replaced: {newer:?}");
        }
        ensure!(reads.len() > 50, "only {} reads", reads.len());
        Ok(())
    }
}

#[test]
fn the_register_check_sees_a_stale_read() -> anyhow::Result<()> {
    let span = |sent, answered| Span { sent, answered };
    let tag = SharedTag {
        base: Instant::now(),
        writes: Mutex::new(BTreeMap::from([
            ("old".to_owned(), span(0, 1)),
            ("new".to_owned(), span(2, 3)),
        ])),
        reads: Mutex::new((0..60).map(|at| ("new".to_owned(), span(4 + at, 5 + at))).collect()),
    };
    tag.check()?;
    tag.reads.lock().expect("not poisoned").push(("old".to_owned(), span(4, 5)));
    ensure!(tag.check().is_err(), "a stale read was not seen");
    Ok(())
}

/// The model is JSON of one shape; a change of it would silently test less.
#[test]
fn manifests_of_the_model_name_two_contents() -> anyhow::Result<()> {
    let manifest: Value = serde_json::from_slice(&manifest(&[0, 1], None, &[7]))?;
    ensure!(manifest["config"]["digest"] == json!(sha256(&content(0))));
    ensure!(manifest["layers"][0]["digest"] == json!(sha256(&content(1))));
    Ok(())
}
