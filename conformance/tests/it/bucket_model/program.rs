//! How an operation runs: as straight-line code that is given the answers so far and stops where
//! the next one is missing. The model stores the answers, never a program counter.

use super::bucket::{
    Answer, Blob, Body, Due, Id, Key, List, Man, Object, Repo, Request, Tag, Target, When, Write,
};

/// A measure left out, each of which the checker must miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Bad {
    BodiesWithoutW,
    OneTombstone,
    ExistsIsSuccess,
    RefusalBelieved,
    HeadRescuesNothing,
    TodoAfterUnnaming,
    SweepWithoutData,
    CommittingLate,
    LinkBeforeBlob,
    AdoptedEdgesDropped,
    IntentWithoutChildren,
    DeadLifeWritten,
    NoLastLook,
    HintsAlone,
    RefusalKeepsHint,
    GuessWithout304,
    TagsReplayed,
    UntaggedWithoutSecondLook,
    EventFirst,
    EventWithoutIntent,
    PushEventLeftToItsPush,
    HoldSeenOnce,
    SecretRevokedPlainly,
    RemoverLooksNoMore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Op {
    Upload(Repo, Blob),
    /// The PUT of an upload whose first PUT died.
    Resume(Repo, Blob),
    Small(Repo, Blob),
    Head(Repo, Blob),
    /// Proves the link, then opens the bytes.
    Get(Repo, Blob),
    Mount {
        from: Repo,
        to: Repo,
        blob: Blob,
    },
    Unlink(Repo, Blob),
    Push(Repo, Man, Option<Tag>),
    /// The second half of a push of what is there already, which makes smaller worlds.
    Retag(Repo, Man, Tag),
    Delete(Repo, Man),
    DeleteUntagged(Repo, Man),
    Untag(Repo, Tag),
    ByTag(Repo, Tag),
    /// By tag again, with what the replica remembers of its last read.
    Guess(Repo, Tag),
    Review,
    Recover,
    Sweep,
    UseSecret,
    Revoke,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    Done,
    /// 404, or 400 for a manifest whose children are missing.
    Refused,
    /// Kept by a hold, or (`delete_untagged`) by a name.
    Kept,
    Read(Option<Man>),
    /// 503.
    GaveUp,
}

/// The next answer is not there yet, or the operation gave up.
pub(super) enum Stop {
    Asks(Request),
    GivesUp,
}

pub(super) type Step<T> = Result<T, Stop>;

/// The writer was overtaken: start again from the read.
#[derive(Debug)]
pub(super) struct Changed;

/// What a replica remembers of a read by tag.
pub(super) type Memory = Option<(Object, Object)>;

pub(super) struct Io<'a> {
    pub bad: Option<Bad>,
    /// Events are configured: something is to be told.
    pub events: bool,
    /// Tags may be held.
    pub holds: bool,
    pub memory: Memory,
    op: u8,
    drawn: u8,
    log: &'a [Answer],
    at: usize,
}

/// Rounds after which a request gives up.
pub(super) const ROUNDS: usize = 3;

impl<'a> Io<'a> {
    pub(super) fn new(op: u8, log: &'a [Answer], memory: Memory) -> Self {
        Self { bad: None, events: false, holds: false, memory, op, drawn: 0, log, at: 0 }
    }

    pub(super) fn leaves_out(&self, bad: Bad) -> bool {
        self.bad == Some(bad)
    }

    pub(super) fn draw(&mut self) -> Id {
        self.drawn += 1;
        (u16::from(self.op) + 1) << 8 | u16::from(self.drawn)
    }

    fn ask(&mut self, request: Request) -> Step<Answer> {
        let answer = self.log.get(self.at).cloned().ok_or(Stop::Asks(request))?;
        self.at += 1;
        Ok(answer)
    }

    pub(super) fn get(&mut self, key: Key) -> Step<Option<Object>> {
        match self.ask(Request::Get(key))? {
            Answer::Got(object) => Ok(object),
            other => unreachable!("a GET answered {other:?}"),
        }
    }

    /// As the protocol reads: † and absent are the same, but for what the next write compares.
    pub(super) fn read(&mut self, key: Key) -> Step<(Option<Body>, When)> {
        let object = self.get(key)?;
        Ok((
            object.map(|it| it.body).filter(|it| *it != Body::Tomb),
            object.map_or(When::Absent, When::Is),
        ))
    }

    pub(super) fn list(&mut self, list: List) -> Step<Vec<(Key, bool, bool)>> {
        match self.ask(Request::List(list))? {
            Answer::Listed(keys) => Ok(keys),
            other => unreachable!("a LIST answered {other:?}"),
        }
    }

    pub(super) fn any(&mut self, list: List) -> Step<bool> {
        Ok(self.list(list)?.iter().any(|(_, there, _)| *there))
    }

    /// Whether the first of two parallel requests comes first.
    pub(super) fn first(&mut self) -> Step<bool> {
        match self.ask(Request::Either)? {
            Answer::First(first) => Ok(first),
            other => unreachable!("{other:?}"),
        }
    }

    pub(super) fn take(&mut self, due: Due) -> Step<(Key, Object)> {
        match self.ask(Request::Take(due))? {
            Answer::Taken(key, object) => Ok((key, object)),
            other => unreachable!("{other:?}"),
        }
    }

    /// An unconditional write of a key that carries a uuid: sent again until it is answered.
    pub(super) fn put(&mut self, key: Key, body: Body) -> Step<()> {
        let w = self.w(body);
        self.send(Write { key, when: When::Always, to: Some((w, body)) })
    }

    pub(super) fn delete(&mut self, key: Key) -> Step<()> {
        self.send(Write { key, when: When::Always, to: None })
    }

    fn send(&mut self, write: Write) -> Step<()> {
        while self.ask(Request::Write(write))? == Answer::Unknown {}
        Ok(())
    }

    fn w(&mut self, body: Body) -> Id {
        let w = self.draw();
        match body {
            Body::Tomb if self.leaves_out(Bad::OneTombstone) => 0,
            _ if self.leaves_out(Bad::BodiesWithoutW) => 0,
            _ => w,
        }
    }

    /// Rule 4: a fresh `w`; after no answer the key says whether the write is ours, and so it does
    /// when what was sent again is refused: the first may have arrived in between.
    pub(super) fn swap(
        &mut self,
        key: Key,
        when: When,
        body: Body,
    ) -> Step<Result<Object, Changed>> {
        let w = self.w(body);
        let mine = Object { w, body, requests: 0, clients: 0 };
        let write = Write { key, when, to: Some((w, body)) };
        let mut again = false;
        let believes =
            self.leaves_out(Bad::RefusalBelieved) || self.leaves_out(Bad::ExistsIsSuccess);
        loop {
            match self.ask(Request::Write(write))? {
                Answer::Written => return Ok(Ok(mine)),
                Answer::Changed if !again || believes => {
                    return Ok(Err(Changed));
                }
                _ => again = true,
            }
            if self.leaves_out(Bad::ExistsIsSuccess) {
                continue; // as a library does: its retry meets what it wrote itself
            }
            let now = self.get(key)?;
            let unchanged = match (when, now) {
                (When::Is(seen), Some(now)) => seen.same(&now),
                (When::Absent, None) => true,
                _ => false,
            };
            if now.is_some_and(|now| now.same(&mine)) {
                return Ok(Ok(mine));
            }
            if !unchanged {
                return Ok(Err(Changed));
            }
        }
    }

    pub(super) fn todo(&mut self, target: Target) -> Step<()> {
        let id = self.draw();
        self.put(Key::Todo(id), Body::Todo(target))
    }

    pub(super) fn give_up<T>(&self) -> Step<T> {
        Err(Stop::GivesUp)
    }
}
