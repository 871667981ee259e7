//! What the clients asked for and were told, and what may therefore be read afterwards.
//!
//! Every write is written down before it is sent and again when it was acknowledged. What a name
//! may be read as follows from that alone: the value of every write that was not certainly
//! followed by another acknowledged one (linearizability of a register). Several clients may thus
//! write to one name at once, and a request that was never answered may have happened or not.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// First, because what a check finds of manifests decides what it asks of blobs.
    Manifest,
    Tag,
    Blob,
}

/// Something in a repository: a tag by its name, the others by their digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub kind: Kind,
    pub repo: String,
    pub name: String,
}

impl Key {
    pub fn new(kind: Kind, repo: &str, name: &str) -> Self {
        Self { kind, repo: repo.to_owned(), name: name.to_owned() }
    }

    /// Where it is read and deleted.
    pub fn target(&self) -> String {
        let place = if self.kind == Kind::Blob { "blobs" } else { "manifests" };
        format!("/v2/{}/{place}/{}", self.repo, self.name)
    }
}

/// The digest that a name leads to; `None`: it leads nowhere.
pub type Value = Option<String>;

#[derive(Clone, Debug)]
struct Write {
    began: u64,
    /// When it was acknowledged.
    ended: Option<u64>,
    value: Value,
}

#[derive(Debug)]
struct Entry {
    writes: Vec<Write>,
    /// When it was last certainly wanted by somebody: collection must leave it alone for a grace
    /// from here on.
    wanted: Option<Instant>,
}

impl Default for Entry {
    fn default() -> Self {
        Self { writes: vec![Write { began: 0, ended: Some(0), value: None }], wanted: None }
    }
}

impl Entry {
    /// The writes that a reader may see, when nobody writes any more.
    fn possible(&self) -> impl Iterator<Item = &Write> {
        let acknowledged = self.writes.iter().filter(|write| write.ended.is_some());
        let last = acknowledged.map(|write| write.began).max().unwrap_or(0);
        self.writes.iter().filter(move |write| write.ended.is_none_or(|ended| ended >= last))
    }

    /// The value, if only one is possible.
    fn certain(&self) -> Option<&Value> {
        let mut possible = self.possible().map(|write| &write.value);
        let first = possible.next()?;
        possible.all(|other| other == first).then_some(first)
    }
}

/// An upload that was begun and not finished.
#[derive(Clone, Debug)]
pub struct Upload {
    pub repo: String,
    pub location: String,
    /// Its bytes are [`crate::image::noise`] of these two.
    pub seed: u64,
    pub length: usize,
    /// Bytes that the registry said it has.
    pub told: usize,
    /// Bytes that may have reached it.
    pub sent: usize,
    /// The request that closes it may have reached it.
    pub finishing: bool,
}

/// A promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Breach {
    /// Acknowledged, and not there.
    Lost,
    /// There, with other bytes than its digest says: torn, zero, or somebody else's.
    Torn,
    /// A tag that names a manifest that it must not name any more, or not yet.
    Stale,
    /// An acknowledged delete that is undone.
    Undone,
    /// An answer of 5xx, or none, to a read.
    Unreadable,
    /// A correct request that was refused.
    Refused,
    /// An upload that goes on where it must not, or not where it must.
    Upload,
    /// What the registry's own checker says.
    Fsck,
}

impl Breach {
    pub const ALL: [Self; 8] = [
        Self::Lost,
        Self::Torn,
        Self::Stale,
        Self::Undone,
        Self::Unreadable,
        Self::Refused,
        Self::Upload,
        Self::Fsck,
    ];

    /// Whether something acknowledged is not as it was acknowledged.
    pub fn is_loss(self) -> bool {
        !matches!(self, Self::Refused | Self::Fsck)
    }

    /// In a table's head.
    pub fn title(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Torn => "wrong bytes served",
            Self::Stale => "tag wrong",
            Self::Undone => "delete undone",
            Self::Unreadable => "unreadable",
            Self::Refused => "correct request refused",
            Self::Upload => "upload mixed up",
            Self::Fsck => "fsck",
        }
    }
}

/// Acknowledged writes, by what they were.
#[derive(Clone, Copy, Debug, Default)]
pub struct Acknowledged {
    pub blobs: u64,
    pub mounts: u64,
    pub manifests: u64,
    pub tags: u64,
    pub deletes: u64,
}

impl Acknowledged {
    pub fn total(&self) -> u64 {
        self.blobs + self.mounts + self.manifests + self.tags + self.deletes
    }
}

#[derive(Debug, Default)]
struct State {
    clock: u64,
    keys: BTreeMap<Key, Entry>,
    /// The blobs that a manifest of a repository names.
    names: BTreeMap<Key, Vec<String>>,
    uploads: Vec<Upload>,
    breaches: Vec<(Breach, String)>,
    acknowledged: Acknowledged,
}

/// The log of one store's life.
#[derive(Debug)]
pub struct Oracle {
    state: Mutex<State>,
    /// How long collection leaves alone what nobody names; `None`: there is no collection.
    grace: Option<Duration>,
}

/// A write that was sent, or is about to be.
#[derive(Debug)]
#[must_use]
pub struct Ticket {
    number: u64,
    at: Instant,
    keys: Vec<Key>,
}

impl Oracle {
    pub fn new(grace: Option<Duration>) -> Self {
        Self { state: Mutex::new(State::default()), grace }
    }

    pub fn grace(&self) -> Option<Duration> {
        self.grace
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no client panics with the lock held")
    }

    /// A write of several names at once that is about to be sent.
    pub fn begin(&self, changes: Vec<(Key, Value)>) -> Ticket {
        let mut state = self.lock();
        state.clock += 1;
        let number = state.clock;
        let mut keys = Vec::new();
        for (key, value) in changes {
            let entry = state.keys.entry(key.clone()).or_default();
            let kept: Vec<Write> = entry.possible().cloned().collect();
            entry.writes = kept;
            entry.writes.push(Write { began: number, ended: None, value });
            keys.push(key);
        }
        Ticket { number, at: Instant::now(), keys }
    }

    /// The write was acknowledged.
    pub fn acknowledge(&self, ticket: &Ticket, count: impl FnOnce(&mut Acknowledged)) {
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        for key in &ticket.keys {
            let Some(entry) = state.keys.get_mut(key) else { continue };
            let write = entry.writes.iter_mut().find(|write| write.began == ticket.number);
            let Some(write) = write else { continue };
            write.ended = Some(now);
            match (key.kind, &write.value) {
                (Kind::Blob, Some(_)) => entry.wanted = Some(ticket.at),
                // What it named has a grace from here on.
                (Kind::Manifest, None) => {
                    for blob in state.names.get(key).cloned().unwrap_or_default() {
                        want(&mut state, &Key::new(Kind::Blob, &key.repo, &blob), ticket.at);
                    }
                }
                _ => {}
            }
        }
        count(&mut state.acknowledged);
    }

    /// The write was refused: it never happened.
    pub fn refuse(&self, ticket: &Ticket) {
        let mut state = self.lock();
        for key in &ticket.keys {
            if let Some(entry) = state.keys.get_mut(key) {
                entry.writes.retain(|write| write.began != ticket.number);
            }
        }
    }

    /// The registry said that a blob is there: it has a grace from `sent` on.
    pub fn seen(&self, key: &Key, sent: Instant) {
        want(&mut self.lock(), key, sent);
    }

    /// The blobs that a manifest names; before it is pushed.
    pub fn name(&self, manifest: &Key, blobs: &[String]) {
        self.lock().names.insert(manifest.clone(), blobs.to_vec());
    }

    /// What is certainly there of a kind in a repository, with what it leads to.
    pub fn live(&self, kind: Kind, repo: &str) -> Vec<(String, String)> {
        let state = self.lock();
        let of_kind = state.keys.iter().filter(|(key, _)| key.kind == kind && key.repo == repo);
        let live = of_kind.filter_map(|(key, entry)| {
            let value = entry.certain()?.clone()?;
            Some((key.name.clone(), value))
        });
        live.collect()
    }

    /// Tags that may lead to a manifest.
    pub fn tags_of(&self, repo: &str, digest: &str) -> Vec<String> {
        let state = self.lock();
        let tags = state.keys.iter().filter(|(key, _)| key.kind == Kind::Tag && key.repo == repo);
        let leads =
            |entry: &Entry| entry.possible().any(|write| write.value.as_deref() == Some(digest));
        tags.filter(|(_, entry)| leads(entry)).map(|(key, _)| key.name.clone()).collect()
    }

    /// Whether a manifest that may be there names the blob.
    pub fn is_named(&self, blob: &Key) -> bool {
        let state = self.lock();
        named_by(&state, blob, |entry| entry.possible().any(|write| write.value.is_some()))
    }

    /// Everything that was ever asked for.
    pub fn keys(&self) -> Vec<Key> {
        self.lock().keys.keys().cloned().collect()
    }

    /// Judges a read, made while nobody writes to the name, and goes on from what was read.
    pub fn read(&self, key: &Key, value: Value) {
        let mut state = self.lock();
        let Some(entry) = state.keys.get(key) else { return };
        if !entry.possible().any(|write| write.value == value) {
            let breach = match (&value, entry.certain()) {
                (Some(_), Some(None)) => Some(Breach::Undone),
                (Some(_), _) => Some(Breach::Stale),
                (None, _) if key.kind == Kind::Blob && !self.is_owed(&state, key) => None,
                (None, _) => Some(Breach::Lost),
            };
            if let Some(breach) = breach {
                let wanted: Vec<&Value> = entry.possible().map(|write| &write.value).collect();
                let text = format!("{} is {value:?}, may be {wanted:?}", key.target());
                state.breaches.push((breach, text));
            }
        }
        state.clock += 1;
        let now = state.clock;
        if let Some(entry) = state.keys.get_mut(key) {
            entry.writes = vec![Write { began: now, ended: Some(now), value }];
        }
    }

    /// Whether collection must have left a blob alone until now.
    fn is_owed(&self, state: &State, blob: &Key) -> bool {
        let Some(grace) = self.grace else { return true };
        let wanted = state.keys.get(blob).and_then(|entry| entry.wanted);
        wanted.is_some_and(|wanted| wanted.elapsed() < grace)
            || named_by(state, blob, |entry| matches!(entry.certain(), Some(Some(_))))
    }

    pub fn breach(&self, breach: Breach, text: String) {
        self.lock().breaches.push((breach, text));
    }

    pub fn leave_upload(&self, upload: Upload) {
        self.lock().uploads.push(upload);
    }

    pub fn take_uploads(&self) -> Vec<Upload> {
        std::mem::take(&mut self.lock().uploads)
    }

    pub fn take_breaches(&self) -> Vec<(Breach, String)> {
        std::mem::take(&mut self.lock().breaches)
    }

    pub fn acknowledged(&self) -> Acknowledged {
        self.lock().acknowledged
    }
}

fn want(state: &mut State, blob: &Key, at: Instant) {
    if let Some(entry) = state.keys.get_mut(blob) {
        entry.wanted = entry.wanted.max(Some(at));
    }
}

/// Whether a manifest of the blob's repository of which `is` holds names it.
fn named_by(state: &State, blob: &Key, is: impl Fn(&Entry) -> bool) -> bool {
    state.names.iter().any(|(manifest, blobs)| {
        manifest.repo == blob.repo
            && blobs.contains(&blob.name)
            && state.keys.get(manifest).is_some_and(&is)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag() -> Key {
        Key::new(Kind::Tag, "r", "t")
    }

    fn put(oracle: &Oracle, value: Option<&str>) -> Ticket {
        oracle.begin(vec![(tag(), value.map(str::to_owned))])
    }

    fn breaches(oracle: &Oracle, value: Option<&str>) -> Vec<Breach> {
        oracle.read(&tag(), value.map(str::to_owned));
        oracle.take_breaches().into_iter().map(|(breach, _)| breach).collect()
    }

    #[test]
    fn a_write_without_an_answer_may_have_happened() {
        for (value, want) in [
            (Some("a"), vec![]),
            (Some("b"), vec![]),
            (Some("c"), vec![Breach::Stale]),
            (None, vec![Breach::Lost]),
        ] {
            let oracle = Oracle::new(None);
            let first = put(&oracle, Some("a"));
            oracle.acknowledge(&first, |_| ());
            let _unanswered = put(&oracle, Some("b"));
            assert_eq!(breaches(&oracle, value), want, "{value:?}");
            // What was read once stays.
            assert_eq!(breaches(&oracle, value), vec![]);
        }
    }

    #[test]
    fn an_acknowledged_write_ends_those_before_it() {
        let oracle = Oracle::new(None);
        let first = put(&oracle, Some("a"));
        oracle.acknowledge(&first, |_| ());
        let second = put(&oracle, None);
        oracle.acknowledge(&second, |_| ());
        assert_eq!(breaches(&oracle, Some("a")), vec![Breach::Undone]);
    }

    #[test]
    fn writes_at_once_may_end_in_either_order() {
        for value in ["a", "b"] {
            let oracle = Oracle::new(None);
            let (one, two) = (put(&oracle, Some("a")), put(&oracle, Some("b")));
            oracle.acknowledge(&two, |_| ());
            oracle.acknowledge(&one, |_| ());
            assert_eq!(breaches(&oracle, Some(value)), vec![]);
        }
    }

    #[test]
    fn a_blob_that_nobody_names_may_go_after_the_grace() {
        for (grace, named, want) in [
            (Some(Duration::ZERO), false, vec![]),
            (Some(Duration::ZERO), true, vec![Breach::Lost]),
            (Some(Duration::from_secs(60)), false, vec![Breach::Lost]),
            (None, false, vec![Breach::Lost]),
        ] {
            let oracle = Oracle::new(grace);
            let (blob, manifest) =
                (Key::new(Kind::Blob, "r", "b"), Key::new(Kind::Manifest, "r", "m"));
            let pushed = oracle.begin(vec![(blob.clone(), Some("b".into()))]);
            oracle.acknowledge(&pushed, |_| ());
            if named {
                oracle.name(&manifest, &["b".into()]);
                let pushed = oracle.begin(vec![(manifest, Some("m".into()))]);
                oracle.acknowledge(&pushed, |_| ());
            }
            oracle.read(&blob, None);
            let found: Vec<Breach> = oracle.take_breaches().into_iter().map(|(b, _)| b).collect();
            assert_eq!(found, want, "{grace:?} {named}");
        }
    }
}
