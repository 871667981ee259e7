//! What must hold in every state, and what must hold once everybody has ended.

use super::bucket::{Blob, Body, Bucket, Change, Due, Key, Life, Man, Object, Repo, Tag};
use super::manifests::{CHILD, HELD};
use super::program::{Op, Outcome};
use super::world::{State, World};

/// Numbers of the operations that settle what is left.
const SETTLING: u8 = 40;
const SETTLED_AFTER: u8 = 100;

fn readable(bucket: &Bucket, repo: Repo, blob: Blob) -> bool {
    let Some(Body::Link(_, data)) = bucket.get(Key::Link(blob, repo)).map(|it| it.body) else {
        return false;
    };
    let Some(data) = data else { return true };
    let named = match bucket.get(Key::Blob(blob)).map(|it| it.body) {
        Some(Body::Blob(Life::Live | Life::Condemned, named)) => Some(named),
        _ => None,
    };
    bucket.get(Key::Data(data)).is_some()
        || named.is_some_and(|named| bucket.get(Key::Data(named)).is_some())
}

fn lives(bucket: &Bucket, repo: Repo, man: Man) -> Option<u16> {
    match bucket.get(Key::Man(repo, man)).map(|it| it.body) {
        Some(Body::Man(_, inc, _)) => Some(inc),
        _ => None,
    }
}

/// What a tag names: nothing, if that life is over.
pub(super) fn named(bucket: &Bucket, repo: Repo, tag: Tag) -> Option<Man> {
    match bucket.get(Key::Tag(repo, tag)).map(|it| it.body) {
        Some(Body::Tag(man, inc)) if lives(bucket, repo, man) == Some(inc) => Some(man),
        _ => None,
    }
}

/// A read answers what the tag named at some moment between its request and its answer.
pub(super) fn reads(_: &World, state: &State) -> bool {
    state.outcomes.iter().zip(&state.truths).all(|(outcome, truths)| match outcome {
        Some(Outcome::Read(named)) => truths & named.map_or(1, |man| 2 << man) != 0,
        _ => true,
    })
}

/// The blob that an operation promises to its client, if it is answered with success.
fn promised(op: &Op) -> Option<(Repo, Blob)> {
    match *op {
        Op::Upload(repo, blob)
        | Op::Resume(repo, blob)
        | Op::Small(repo, blob)
        | Op::Head(repo, blob)
        | Op::Mount { to: repo, blob, .. } => Some((repo, blob)),
        _ => None,
    }
}

/// A client may take a blob away from under a manifest.
fn unlinks(world: &World) -> bool {
    world.ops().any(|op| matches!(op, Op::Unlink(..)))
}

/// Whoever was told that a blob is there may name it for as long as the grace lasts, and a
/// manifest's blob is there for as long as the manifest is.
pub(super) fn promises(world: &World, state: &State) -> bool {
    if unlinks(world) {
        return true;
    }
    let whole = |(key, object): (&Key, &Object)| match (key, object.body) {
        (Key::Man(repo, _), Body::Man(..)) => readable(&state.bucket, *repo, CHILD),
        _ => true,
    };
    if !state.bucket.0.iter().all(whole) {
        return false;
    }
    world.clients.iter().enumerate().all(|(who, ops)| {
        let mut told = Vec::new();
        for (next, op) in (0u8..).zip(ops) {
            let outcome = state.outcomes[usize::from(world.number(who, next))];
            if let (Some(promise), Some(Outcome::Done)) = (promised(op), outcome) {
                told.push(promise);
            }
            if let (Op::Push(repo, ..), Some(Outcome::Refused)) = (op, outcome)
                && told.contains(&(*repo, CHILD))
            {
                return false;
            }
        }
        if reads_vanish(world, state, who) {
            return false;
        }
        let client = &state.clients[who];
        client.crashed
            || usize::from(client.next) >= ops.len()
            || told.iter().all(|(repo, blob)| readable(&state.bucket, *repo, *blob))
    })
}

/// What was read once and that nobody deleted or collected is not found any more.
fn reads_vanish(world: &World, state: &State, who: usize) -> bool {
    let reads = (0u8..).zip(&world.clients[who]).filter(|(_, op)| matches!(op, Op::Get(..)));
    let mut answers =
        reads.filter_map(|(next, _)| state.outcomes[usize::from(world.number(who, next))]);
    answers.any(|it| it == Outcome::Done) && answers.any(|it| it == Outcome::Refused)
}

pub(super) fn events_follow(_: &World, state: &State) -> bool {
    state.bucket.0.keys().all(|key| match *key {
        Key::Event(Change::Uploaded(repo, blob, _)) => {
            state.changes.contains(&Change::Uploaded(repo, blob, 0))
        }
        Key::Event(change) => state.changes.contains(&change),
        _ => true,
    })
}

pub(super) fn ending(world: &World, state: &State) -> bool {
    if !world.is_over(state) {
        return true;
    }
    let mut end = state.clone();
    settle(world, &mut end)
        && leaks(&end.bucket, unlinks(world)).is_none()
        && (!world.events || all_told(world, &end))
        && revoked(world, &end)
        && explained(world, state, &end.bucket)
}

/// Says what is wrong with an end.
pub(super) fn verdict(world: &World, state: &State) -> String {
    let mut end = state.clone();
    let settled = settle(world, &mut end);
    format!(
        "settled {settled}, leak {:?}, told {}, explained {}\nsettled bucket {:#?}",
        leaks(&end.bucket, unlinks(world)),
        all_told(world, &end),
        explained(world, state, &end.bucket),
        end.bucket.0
    )
}

/// Recovery, sweep and collection until nothing is left for them; every grace has passed.
fn settle(world: &World, end: &mut State) -> bool {
    for object in end.bucket.0.values_mut() {
        *object = object.undated();
    }
    for number in SETTLING..SETTLED_AFTER {
        let due = [Due::Intent, Due::Session, Due::Todo];
        let Some(due) = due.into_iter().find(|due| !end.due(*due, 0).is_empty()) else {
            return true;
        };
        let op = match due {
            Due::Intent => Op::Recover,
            Due::Session => Op::Sweep,
            Due::Todo => Op::Review,
        };
        world.alone(end, &op, number);
    }
    false
}

/// The first key that nobody will ever need again, or that lacks what it needs.
fn leaks(bucket: &Bucket, unlinks: bool) -> Option<Key> {
    let stray = |key: &Key, object: &Object| {
        match (*key, object.body) {
        (Key::Data(data), _) => !bucket.0.values().any(|it| {
            matches!(it.body, Body::Blob(Life::Live | Life::Condemned, named) if named == data)
        }),
        (Key::Blob(blob), Body::Blob(Life::Live | Life::Condemned, _)) => {
            !bucket.0.iter().any(|(key, it)| {
                matches!(key, Key::Link(b, _) if *b == blob) && it.body != Body::Tomb
            })
        }
        (Key::Link(blob, repo), Body::Link(..)) => {
            !bucket.0.keys().any(|key| matches!(key, Key::Edge(b, r, ..) if (*b, *r) == (blob, repo)))
        }
        (Key::Edge(_, repo, man, inc) | Key::By(repo, man, inc, _) | Key::Referrer(repo, man, inc), _) => {
            lives(bucket, repo, man) != Some(inc)
        }
        // Not a leak but a loss: collected from under its manifest.
        (Key::Man(repo, _), Body::Man(..)) => !unlinks && !readable(bucket, repo, CHILD),
        (Key::Tag(repo, _), Body::Tag(man, inc)) => lives(bucket, repo, man) != Some(inc),
        (Key::Names(repo), body) => {
            let any = bucket.0.iter().any(|(key, it)| {
                matches!(key, Key::Man(r, _) if *r == repo) && it.body != Body::Tomb
            });
            (body == Body::Names(Life::Live)) != any
        }
        _ => false,
    }
    };
    bucket.0.iter().find(|(key, object)| stray(key, object)).map(|(key, _)| *key)
}

fn all_told(world: &World, end: &State) -> bool {
    let told = |change: &Change| end.bucket.get(Key::Event(*change)).is_some();
    // What was there before is told by nobody.
    let ours = |inc: u16| inc >> 8 <= 16;
    let changes = end.changes.iter().all(|change| match change {
        Change::Pushed(inc) => !ours(*inc) || told(change),
        Change::Deleted(_) => told(change),
        Change::Uploaded(..) => true,
    });
    let uploads = world.ops().zip(&end.outcomes).all(|(op, outcome)| match (op, outcome) {
        (Op::Upload(repo, blob), Some(Outcome::Done)) => end.bucket.0.keys().any(
            |key| matches!(key, Key::Event(Change::Uploaded(r, b, _)) if (r, b) == (repo, blob)),
        ),
        _ => true,
    });
    changes && uploads
}

fn revoked(world: &World, end: &State) -> bool {
    let done = world.ops().zip(&end.outcomes);
    let mut revoked =
        done.filter(|(op, outcome)| matches!((op, outcome), (Op::Revoke, Some(Outcome::Done))));
    revoked.next().is_none() || end.bucket.get(Key::Secret).is_some_and(|it| it.body == Body::Tomb)
}

/// A registry that does one thing at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Simple {
    alive: u8,
    tags: [Option<Man>; 2],
}

impl Simple {
    fn has(self, man: Man) -> bool {
        self.alive & 1 << man != 0
    }

    fn push(mut self, man: Man) -> Self {
        self.alive |= 1 << man;
        self
    }

    fn delete(mut self, man: Man) -> Self {
        self.alive &= !(1 << man);
        self.tags = self.tags.map(|tag| tag.filter(|it| *it != man));
        self
    }
}

/// Whether the answers, and what is there at the end, are those of a registry that did one
/// operation after another, each between its request and its answer.
fn explained(world: &World, state: &State, end: &Bucket) -> bool {
    let mut simple = Simple::default();
    for op in &world.before {
        match *op {
            Op::Push(0, man, tag) => {
                simple = simple.push(man);
                if let Some(tag) = tag {
                    simple.tags[usize::from(tag)] = Some(man);
                }
            }
            Op::Delete(0, man) => simple = simple.delete(man),
            _ => {}
        }
    }
    let mut goal = Simple::default();
    for man in 0..2 {
        if lives(end, 0, man).is_some() {
            goal = goal.push(man);
        }
    }
    for tag in 0..2u8 {
        goal.tags[usize::from(tag)] = named(end, 0, tag);
    }
    let ops = world.ops().map(|op| match *op {
        Op::Retag(repo, man, tag) => Op::Push(repo, man, Some(tag)),
        op => op,
    });
    let ops: Vec<Op> = ops.collect();
    Search { world, ops: &ops, state, goal }.from(simple, 0, 0)
}

struct Search<'a> {
    world: &'a World,
    ops: &'a [Op],
    state: &'a State,
    goal: Simple,
}

impl Search<'_> {
    /// `done` and `echoed`: operations placed already, and pushes that a deletion cut short once
    /// before they began their second life.
    fn from(&self, now: Simple, done: u16, echoed: u16) -> bool {
        let all = (1u16 << self.ops.len()) - 1;
        if done == all {
            return now == self.goal;
        }
        (0..self.ops.len()).filter(|at| done & 1 << at == 0).any(|at| {
            let ready = self.state.after[at] & all & !done == 0;
            let mut next = Vec::new();
            self.outcomes(&self.ops[at], self.state.outcomes[at], now, &mut next);
            if ready && next.into_iter().any(|next| self.from(next, done | 1 << at, echoed)) {
                return true;
            }
            let mut echoes = Vec::new();
            if let Op::Push(0, ..) = self.ops[at]
                && ready
                && echoed & 1 << at == 0
            {
                self.outcomes(&self.ops[at], None, now, &mut echoes);
            }
            echoes
                .into_iter()
                .filter(|echo| *echo != now)
                .any(|echo| self.from(echo, done, echoed | 1 << at))
        })
    }

    /// What an operation with this answer may have made of it.
    fn outcomes(&self, op: &Op, outcome: Option<Outcome>, now: Simple, next: &mut Vec<Simple>) {
        let unsure = matches!(outcome, None | Some(Outcome::GaveUp));
        let held = |man: Man| self.world.holds && now.tags[usize::from(HELD)] == Some(man);
        if unsure {
            next.push(now);
        }
        match *op {
            Op::Push(0, man, tag) => self.pushed(man, tag, outcome, now, next),
            Op::Delete(0, man) if unsure || outcome == Some(Outcome::Done) => {
                let others = self
                    .ops
                    .iter()
                    .filter(|op| matches!(op, Op::Delete(..) | Op::DeleteUntagged(..)));
                if now.has(man) && !held(man) {
                    next.push(now.delete(man));
                } else if others.count() > 1 && !now.has(man) {
                    next.push(now);
                }
            }
            Op::Delete(0, man) => match outcome {
                Some(Outcome::Kept) if held(man) => next.push(now),
                Some(Outcome::Refused) if !now.has(man) => next.push(now),
                _ => {}
            },
            Op::DeleteUntagged(0, man) => {
                let untagged = now.has(man) && !now.tags.contains(&Some(man));
                if untagged && (unsure || outcome == Some(Outcome::Done)) {
                    next.push(now.delete(man));
                }
                let kept = outcome == Some(Outcome::Kept);
                if kept || (outcome == Some(Outcome::Refused) && !now.has(man)) {
                    next.push(now);
                }
            }
            Op::Untag(0, tag) => {
                let named = now.tags[usize::from(tag)].is_some();
                let mut untagged = now;
                untagged.tags[usize::from(tag)] = None;
                if named && (unsure || outcome == Some(Outcome::Done)) {
                    next.push(untagged);
                }
                if !named && outcome == Some(Outcome::Refused) {
                    next.push(now);
                }
            }
            Op::ByTag(0, tag) | Op::Guess(0, tag) => {
                if outcome == Some(Outcome::Read(now.tags[usize::from(tag)])) {
                    next.push(now);
                }
            }
            _ => next.push(now),
        }
    }

    fn pushed(
        &self,
        man: Man,
        tag: Option<Tag>,
        outcome: Option<Outcome>,
        now: Simple,
        next: &mut Vec<Simple>,
    ) {
        let named = |tag: Tag| now.tags[usize::from(tag)].filter(|it| *it != man);
        let unsure = matches!(outcome, None | Some(Outcome::GaveUp));
        match (outcome, tag) {
            (Some(Outcome::Kept), Some(tag)) => next.extend(named(tag).map(|_| now)),
            // Without the tag it is half done.
            (_, Some(tag)) if unsure || outcome == Some(Outcome::Done) => {
                let kept = self.world.holds && tag == HELD && named(tag).is_some();
                let mut tagged = now.push(man);
                tagged.tags[usize::from(tag)] = Some(man);
                next.extend((!kept).then_some(tagged));
            }
            (_, None) if outcome == Some(Outcome::Done) => next.push(now.push(man)),
            (Some(Outcome::Refused), _) => next.push(now),
            _ => {}
        }
        if unsure {
            next.push(now.push(man));
        }
    }
}
