//! The bucket as the programs see it: one linearizable map with conditional writes, and the one
//! request at a time by which a program talks to it.

use std::collections::BTreeMap;

/// Uuids and the random `w` of bodies: which operation drew it, and as which one. So the same draw
/// has the same name in every interleaving, and states meet.
pub(super) type Id = u16;
pub(super) type Repo = u8;
pub(super) type Blob = u8;
pub(super) type Man = u8;
pub(super) type Tag = u8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Key {
    Up(Id),
    Data(Id),
    Blob(Blob),
    Link(Blob, Repo),
    /// child, repository, parent, life of the parent
    Edge(Blob, Repo, Man, Id),
    Man(Repo, Man),
    Tag(Repo, Tag),
    /// A tag that once named this life.
    By(Repo, Man, Id, Tag),
    Referrer(Repo, Man, Id),
    Names(Repo),
    Todo(Id),
    Intent(Id),
    Event(Change),
    Secret,
}

/// What an event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Change {
    Uploaded(Repo, Blob, Id),
    Pushed(Id),
    Deleted(Id),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Target {
    Link(Blob, Repo),
    Blob(Blob),
    Data(Id, Blob),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Life {
    Live,
    Condemned,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Body {
    /// †
    Tomb,
    /// Keys that are their own content: bytes, claims, edges, events.
    Claim,
    /// A session, before its PUT.
    Open(Blob),
    Committing(Repo, Blob),
    DeadSession(Blob),
    Blob(Life, Id),
    /// `None`: the bytes are in the link itself.
    Link(Life, Option<Id>),
    /// Life, and the intent of the push that began it.
    Man(Life, Id, Id),
    Tag(Man, Id),
    Names(Life),
    Push {
        repo: Repo,
        man: Man,
        inc: Id,
        tag: Option<Tag>,
        children: bool,
    },
    /// `pushed`: the push of that life had not told of itself yet.
    Delete {
        repo: Repo,
        man: Man,
        inc: Id,
        pushed: bool,
        children: bool,
    },
    Todo(Target),
    /// How often it was used.
    Secret(u8),
}

/// What a key holds. `w` and the body are its ETag: one is the MD5 of the other.
///
/// Ages: the requests and the clients that were under way when it was written and still are. The
/// grace has passed once there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Object {
    pub w: Id,
    pub body: Body,
    pub requests: u16,
    pub clients: u8,
}

impl Object {
    /// Without its dates, which no condition compares.
    pub(super) fn undated(self) -> Self {
        Self { requests: 0, clients: 0, ..self }
    }

    pub(super) fn same(&self, other: &Self) -> bool {
        (self.w, self.body) == (other.w, other.body)
    }
}

/// A set of keys to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum List {
    Edges(Blob, Repo),
    Links(Blob),
    Men(Repo),
    By(Repo, Man, Id),
}

impl List {
    fn has(self, key: &Key) -> bool {
        match (self, *key) {
            (Self::Edges(b, r), Key::Edge(b2, r2, ..)) => (b, r) == (b2, r2),
            (Self::Links(b), Key::Link(b2, _)) => b == b2,
            (Self::Men(r), Key::Man(r2, _)) => r == r2,
            (Self::By(r, m, i), Key::By(r2, m2, i2, _)) => (r, m, i) == (r2, m2, i2),
            _ => false,
        }
    }
}

/// The condition of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum When {
    Always,
    Absent,
    Is(Object),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Write {
    pub key: Key,
    pub when: When,
    /// `None`: a plain DELETE, of keys that carry a uuid.
    pub to: Option<(Id, Body)>,
}

/// One request, or a question to the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Request {
    Get(Key),
    List(List),
    Write(Write),
    /// Two requests that are sent in parallel: which one comes first.
    Either,
    /// A todo or an intent that is due, or a session that nobody works on.
    Take(Due),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Due {
    Todo,
    Intent,
    Session,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Answer {
    Got(Option<Object>),
    /// Each with whether it is there (not †), and whether its grace has passed.
    Listed(Vec<(Key, bool, bool)>),
    Written,
    /// 412 or 409.
    Changed,
    /// No answer: it may have happened, may happen yet, or never.
    Unknown,
    First(bool),
    Taken(Key, Object),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Bucket(pub BTreeMap<Key, Object>);

impl Bucket {
    pub(super) fn get(&self, key: Key) -> Option<Object> {
        self.0.get(&key).copied()
    }

    pub(super) fn list(&self, list: List) -> Vec<(Key, bool, bool)> {
        let all = self.0.iter().filter(|(key, _)| list.has(key));
        all.map(|(key, it)| (*key, it.body != Body::Tomb, it.requests == 0)).collect()
    }

    /// Whether it was written.
    pub(super) fn write(&mut self, write: &Write, requests: u16, clients: u8) -> bool {
        let holds = match (write.when, self.0.get(&write.key)) {
            (When::Always, _) | (When::Absent, None) => true,
            (When::Is(seen), Some(now)) => seen.same(now),
            (When::Absent, Some(_)) | (When::Is(_), None) => false,
        };
        if holds {
            match write.to {
                Some((w, body)) => {
                    let dated = matches!(
                        body,
                        Body::Tomb
                            | Body::Todo(_)
                            | Body::Open(_)
                            | Body::Committing(..)
                            | Body::Push { .. }
                            | Body::Delete { .. }
                            | Body::Blob(Life::Condemned, _)
                            | Body::Link(Life::Condemned, _)
                    );
                    let (requests, clients) = if dated { (requests, clients) } else { (0, 0) };
                    self.0.insert(write.key, Object { w, body, requests, clients });
                }
                None => drop(self.0.remove(&write.key)),
            }
        }
        holds
    }
}
