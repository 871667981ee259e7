//! Manifests and tags: pushes, deletions, reads by tag, and what recovers them.

use super::blobs::claim;
use super::bucket::{
    Blob, Body, Change, Due, Id, Key, Life, List, Man, Object, Repo, Tag, Target, When,
};
use super::program::{Bad, Changed, Io, Outcome, ROUNDS, Step};

use Life::{Condemned, Gone, Live};

/// Every manifest of the model names the same blob.
pub(super) const CHILD: Blob = 0;
/// The tag that may be held.
pub(super) const HELD: Tag = 0;

type Seen = (Option<Body>, When);

pub(super) fn push(io: &mut Io<'_>, repo: Repo, man: Man, tag: Option<Tag>) -> Step<Outcome> {
    let mut committed = false;
    let mut intents = Vec::new();
    for _ in 0..ROUNDS {
        // One round: the intent under a new life, the tag, the manifest.
        let (mut inc, mut intent) = (io.draw(), io.draw());
        if !(io.events && io.leaves_out(Bad::EventWithoutIntent)) {
            put_push(io, intent, repo, man, inc, tag)?;
        }
        intents.push(intent);
        let seen_tag = match tag {
            Some(tag) => Some(io.read(Key::Tag(repo, tag))?),
            None => None,
        };
        let seen = io.read(Key::Man(repo, man))?;
        let adopted = match seen.0 {
            Some(Body::Man(_, life, _)) => {
                inc = life;
                intent = io.draw();
                put_push(io, intent, repo, man, inc, tag)?;
                intents.push(intent);
                true
            }
            _ => false,
        };
        let kept = match (tag, seen_tag) {
            (Some(tag), Some((found, _))) => is_held(io, repo, man, tag, found)?,
            _ => false,
        };
        io.put(Key::Edge(CHILD, repo, man, inc), Body::Claim)?;
        if let Some(tag) = tag {
            io.put(Key::By(repo, man, inc, tag), Body::Claim)?;
        }
        if kept || !claim(io, repo, CHILD, false)? {
            let refusal = match kept {
                true => Outcome::Kept,
                false if committed => Outcome::Done,
                false => Outcome::Refused,
            };
            if adopted && !io.leaves_out(Bad::AdoptedEdgesDropped) {
                return Ok(refusal);
            }
            unclaim(io, repo, man, inc, tag)?;
            forget(io, intents)?;
            return Ok(refusal);
        }
        if io.events && io.leaves_out(Bad::EventFirst) {
            io.put(Key::Event(Change::Pushed(inc)), Body::Claim)?;
        }
        if !commit(io, repo, man, inc, intent, &seen, adopted)? {
            clean(io, repo, man, inc, true, tag)?;
            continue;
        }
        committed = true;
        io.put(Key::Referrer(repo, man, inc), Body::Claim)?;
        names(io, repo)?;
        let tagged = match (tag, seen_tag) {
            (Some(tag), Some(seen_tag)) => name(io, repo, man, inc, tag, seen_tag)?,
            _ => true,
        };
        if tagged && last_look(io, repo, man, inc, tag.is_some())? {
            if io.events && !adopted {
                io.put(Key::Event(Change::Pushed(inc)), Body::Claim)?;
            }
            forget(io, intents)?;
            return Ok(Outcome::Done);
        }
        clean(io, repo, man, inc, true, tag)?;
    }
    io.give_up()
}

/// What a refused push had claimed for a life that never was.
fn unclaim(io: &mut Io<'_>, repo: Repo, man: Man, inc: Id, tag: Option<Tag>) -> Step<()> {
    io.todo(Target::Link(CHILD, repo))?;
    io.delete(Key::Edge(CHILD, repo, man, inc))?;
    match tag.filter(|_| !io.leaves_out(Bad::RefusalKeepsHint)) {
        Some(tag) => io.delete(Key::By(repo, man, inc, tag)),
        None => Ok(()),
    }
}

fn forget(io: &mut Io<'_>, intents: Vec<Id>) -> Step<()> {
    intents.into_iter().try_for_each(|intent| io.delete(Key::Intent(intent)))
}

pub(super) fn retag(io: &mut Io<'_>, repo: Repo, man: Man, tag: Tag) -> Step<Outcome> {
    let seen = io.read(Key::Tag(repo, tag))?;
    let (Some(Body::Man(_, inc, _)), _) = io.read(Key::Man(repo, man))? else {
        return Ok(Outcome::Refused);
    };
    let intent = io.draw();
    put_push(io, intent, repo, man, inc, Some(tag))?;
    io.put(Key::By(repo, man, inc, tag), Body::Claim)?;
    if name(io, repo, man, inc, tag, seen)? && last_look(io, repo, man, inc, true)? {
        io.delete(Key::Intent(intent))?;
        return Ok(Outcome::Done);
    }
    io.give_up()
}

fn put_push(io: &mut Io<'_>, id: Id, repo: Repo, man: Man, inc: Id, tag: Option<Tag>) -> Step<()> {
    let children = !io.leaves_out(Bad::IntentWithoutChildren);
    io.put(Key::Intent(id), Body::Push { repo, man, inc, tag, children })
}

/// A held tag is made, not moved; one whose manifest is gone is none.
fn is_held(io: &mut Io<'_>, repo: Repo, man: Man, tag: Tag, found: Option<Body>) -> Step<bool> {
    match found {
        Some(Body::Tag(named, inc)) if io.holds && tag == HELD && named != man => {
            let (life, _) = io.read(Key::Man(repo, named))?;
            Ok(matches!(life, Some(Body::Man(_, now, _)) if now == inc))
        }
        _ => Ok(false),
    }
}

/// Step 4: the commit point. False: the life is over, or another has begun.
fn commit(
    io: &mut Io<'_>,
    repo: Repo,
    man: Man,
    inc: Id,
    intent: Id,
    seen: &Seen,
    adopted: bool,
) -> Step<bool> {
    let key = Key::Man(repo, man);
    if adopted {
        if io.leaves_out(Bad::DeadLifeWritten) {
            let (_, when) = io.read(key)?;
            let written = io.swap(key, when, Body::Man(Live, inc, intent))?;
            return Ok(written.is_ok());
        }
        return alive(io, repo, man, inc);
    }
    Ok(io.swap(key, seen.1, Body::Man(Live, inc, intent))?.is_ok())
}

/// Whether this life is the one there is; a condemned one is turned live.
fn alive(io: &mut Io<'_>, repo: Repo, man: Man, inc: Id) -> Step<bool> {
    for _ in 0..ROUNDS {
        let (found, when) = io.read(Key::Man(repo, man))?;
        match found {
            Some(Body::Man(Live, now, _)) if now == inc => return Ok(true),
            Some(Body::Man(_, now, intent)) if now == inc => {
                if io.swap(Key::Man(repo, man), when, Body::Man(Live, inc, intent))?.is_ok() {
                    return Ok(true);
                }
            }
            _ => return Ok(false),
        }
    }
    io.give_up()
}

/// Step 6. False: the life is over.
fn name(io: &mut Io<'_>, repo: Repo, man: Man, inc: Id, tag: Tag, seen: Seen) -> Step<bool> {
    let mut when = seen.1;
    for _ in 0..ROUNDS {
        if io.swap(Key::Tag(repo, tag), when, Body::Tag(man, inc))?.is_ok() {
            return Ok(true);
        }
        let now = io.read(Key::Tag(repo, tag))?;
        if is_held(io, repo, man, tag, now.0)? {
            return io.give_up();
        }
        when = now.1;
        if !alive(io, repo, man, inc)? {
            return Ok(false);
        }
    }
    io.give_up()
}

/// Step 7. Where tags may be held, whoever deletes has read the tags before its CAS: the manifest
/// is written anew, so that one who had not seen this tag looks again.
fn last_look(io: &mut Io<'_>, repo: Repo, man: Man, inc: Id, tagged: bool) -> Step<bool> {
    if io.leaves_out(Bad::NoLastLook) {
        return Ok(true);
    }
    if !(io.holds && tagged) || io.leaves_out(Bad::HoldSeenOnce) {
        return alive(io, repo, man, inc);
    }
    refresh(io, repo, man, inc)
}

/// The manifest's record written over itself, with a fresh `w`. False: this life is over.
fn refresh(io: &mut Io<'_>, repo: Repo, man: Man, inc: Id) -> Step<bool> {
    for _ in 0..ROUNDS {
        let (found, when) = io.read(Key::Man(repo, man))?;
        let Some(Body::Man(_, now, intent)) = found else { return Ok(false) };
        if now != inc {
            return Ok(false);
        }
        if io.swap(Key::Man(repo, man), when, Body::Man(Live, inc, intent))?.is_ok() {
            return Ok(true);
        }
    }
    io.give_up()
}

/// Idempotent; whoever calls it keeps its intent until it has ended. `own` is the tag of a push:
/// another's clean may have taken the hint away between it and the tag.
fn clean(
    io: &mut Io<'_>,
    repo: Repo,
    man: Man,
    inc: Id,
    children: bool,
    own: Option<Tag>,
) -> Step<()> {
    let mut hints = io.list(List::By(repo, man, inc))?;
    if let Some(own) =
        own.map(|tag| Key::By(repo, man, inc, tag)).filter(|_| !io.leaves_out(Bad::HintsAlone))
    {
        hints.retain(|(key, ..)| *key != own);
        hints.push((own, true, true));
    }
    for (by, ..) in hints {
        let Key::By(_, _, _, tag) = by else { continue };
        let (found, when) = io.read(Key::Tag(repo, tag))?;
        if found == Some(Body::Tag(man, inc)) {
            // Changed: it names something else by now.
            let _: Result<Object, Changed> = io.swap(Key::Tag(repo, tag), when, Body::Tomb)?;
        }
        io.delete(by)?;
    }
    io.delete(Key::Referrer(repo, man, inc))?;
    if children {
        if !io.leaves_out(Bad::TodoAfterUnnaming) {
            io.todo(Target::Link(CHILD, repo))?;
        }
        io.delete(Key::Edge(CHILD, repo, man, inc))?;
        if io.leaves_out(Bad::TodoAfterUnnaming) {
            io.todo(Target::Link(CHILD, repo))?;
        }
    }
    names(io, repo)
}

fn names(io: &mut Io<'_>, repo: Repo) -> Step<()> {
    let key = Key::Names(repo);
    for _ in 0..ROUNDS {
        let (found, when) = io.read(key)?;
        let live = found == Some(Body::Names(Live));
        if io.any(List::Men(repo))? {
            if live || io.swap(key, when, Body::Names(Live))?.is_ok() {
                return Ok(());
            }
            continue;
        }
        if found.is_none() {
            return Ok(());
        }
        let Ok(leaving) = io.swap(key, when, Body::Names(Gone))? else { continue };
        let to = if io.any(List::Men(repo))? { Body::Names(Live) } else { Body::Tomb };
        if io.swap(key, When::Is(leaving), to)?.is_ok() {
            return Ok(());
        }
    }
    io.give_up()
}

pub(super) fn delete(io: &mut Io<'_>, repo: Repo, man: Man) -> Step<Outcome> {
    let key = Key::Man(repo, man);
    let mut intents = Vec::new();
    let (mut found, mut when) = io.read(key)?;
    let Some(Body::Man(_, inc, _)) = found else { return Ok(Outcome::Refused) };
    let mut over = false;
    let mut pushed = false;
    for _ in 0..ROUNDS {
        let Some(Body::Man(_, now, push)) =
            found.filter(|it| matches!(it, Body::Man(_, now, _) if *now == inc))
        else {
            over = true;
            break;
        };
        // In one round with the list of its tags: the push may have died before it told.
        pushed = io.events
            && !io.leaves_out(Bad::PushEventLeftToItsPush)
            && io.get(Key::Intent(push))?.is_some();
        if io.holds && holds(io, repo, man, now)? {
            return Ok(Outcome::Kept);
        }
        let intent = io.draw();
        let children = !io.leaves_out(Bad::IntentWithoutChildren);
        io.put(Key::Intent(intent), Body::Delete { repo, man, inc, pushed, children })?;
        intents.push(intent);
        if io.swap(key, when, Body::Tomb)?.is_ok() {
            over = true;
            break;
        }
        (found, when) = io.read(key)?;
    }
    if !over {
        return io.give_up();
    }
    clean(io, repo, man, inc, true, None)?;
    tell_deleted(io, inc, pushed)?;
    forget(io, intents)?;
    Ok(Outcome::Done)
}

fn tell_deleted(io: &mut Io<'_>, inc: Id, pushed: bool) -> Step<()> {
    if !io.events {
        return Ok(());
    }
    if pushed {
        io.put(Key::Event(Change::Pushed(inc)), Body::Claim)?;
    }
    io.put(Key::Event(Change::Deleted(inc)), Body::Claim)
}

fn holds(io: &mut Io<'_>, repo: Repo, man: Man, inc: Id) -> Step<bool> {
    for (by, ..) in io.list(List::By(repo, man, inc))? {
        let Key::By(_, _, _, tag) = by else { continue };
        let (found, _) = io.read(Key::Tag(repo, tag))?;
        if tag == HELD && found == Some(Body::Tag(man, inc)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Retention: condemned, looked at again, gone.
pub(super) fn delete_untagged(io: &mut Io<'_>, repo: Repo, man: Man) -> Step<Outcome> {
    let key = Key::Man(repo, man);
    let (Some(Body::Man(_, inc, push)), when) = io.read(key)? else {
        return Ok(Outcome::Refused);
    };
    let Ok(condemned) = io.swap(key, when, Body::Man(Condemned, inc, push))? else {
        return io.give_up();
    };
    let mut named = false;
    if !io.leaves_out(Bad::UntaggedWithoutSecondLook) {
        for (by, ..) in io.list(List::By(repo, man, inc))? {
            let Key::By(_, _, _, tag) = by else { continue };
            named |= io.read(Key::Tag(repo, tag))?.0 == Some(Body::Tag(man, inc));
        }
    }
    if named {
        let _: Result<Object, Changed> =
            io.swap(key, When::Is(condemned), Body::Man(Live, inc, push))?;
        return Ok(Outcome::Kept);
    }
    let pushed = io.events && io.get(Key::Intent(push))?.is_some();
    let intent = io.draw();
    io.put(Key::Intent(intent), Body::Delete { repo, man, inc, pushed, children: true })?;
    if io.swap(key, When::Is(condemned), Body::Tomb)?.is_err() {
        // Somebody rescued it, or another deletes it: recovery drops the intent or cleans.
        return io.give_up();
    }
    clean(io, repo, man, inc, true, None)?;
    tell_deleted(io, inc, pushed)?;
    io.delete(Key::Intent(intent))?;
    Ok(Outcome::Done)
}

pub(super) fn untag(io: &mut Io<'_>, repo: Repo, tag: Tag) -> Step<Outcome> {
    for _ in 0..ROUNDS {
        let (found, when) = io.read(Key::Tag(repo, tag))?;
        let Some(Body::Tag(man, inc)) = found else { return Ok(Outcome::Refused) };
        // A tag whose manifest is gone is none.
        let (life, _) = io.read(Key::Man(repo, man))?;
        if !matches!(life, Some(Body::Man(_, now, _)) if now == inc) {
            let (again, _) = io.read(Key::Tag(repo, tag))?;
            if again == found {
                return Ok(Outcome::Refused);
            }
            continue;
        }
        if io.swap(Key::Tag(repo, tag), when, Body::Tomb)?.is_ok() {
            return Ok(Outcome::Done);
        }
    }
    io.give_up()
}

pub(super) fn by_tag(io: &mut Io<'_>, repo: Repo, tag: Tag) -> Step<Outcome> {
    let mut seen = io.get(Key::Tag(repo, tag))?;
    for _ in 0..ROUNDS {
        let Some(object @ Object { body: Body::Tag(man, inc), .. }) = seen else {
            return Ok(Outcome::Read(None));
        };
        let found = io.get(Key::Man(repo, man))?;
        if let Some(record @ Object { body: Body::Man(_, now, _), .. }) = found
            && now == inc
        {
            io.memory = Some((object.undated(), record.undated()));
            return Ok(Outcome::Read(Some(man)));
        }
        seen = io.get(Key::Tag(repo, tag))?;
        if seen.is_some_and(|now| now.same(&object)) {
            return Ok(Outcome::Read(None));
        }
    }
    io.give_up()
}

/// Both asked at once with what is remembered; the guess counts only if the tag has not changed.
pub(super) fn guess(io: &mut Io<'_>, repo: Repo, tag: Tag) -> Step<Outcome> {
    let Some((tag_then, _)) = io.memory else { return by_tag(io, repo, tag) };
    let Body::Tag(man, inc) = tag_then.body else { return io.give_up() };
    let (now, record) = if io.first()? {
        let now = io.get(Key::Tag(repo, tag))?;
        (now, io.get(Key::Man(repo, man))?)
    } else {
        let record = io.get(Key::Man(repo, man))?;
        (io.get(Key::Tag(repo, tag))?, record)
    };
    let alive = matches!(record, Some(Object { body: Body::Man(_, life, _), .. }) if life == inc);
    let counts = if io.leaves_out(Bad::GuessWithout304) {
        now.is_some_and(|now| now.body == tag_then.body)
    } else {
        now.is_some_and(|now| now.same(&tag_then))
    };
    if counts && alive {
        return Ok(Outcome::Read(Some(man)));
    }
    by_tag(io, repo, tag)
}

/// Settles one intent of an operation that has ended, one way or the other. It never commits.
pub(super) fn recover(io: &mut Io<'_>) -> Step<Outcome> {
    let (entry, intent) = io.take(Due::Intent)?;
    match intent.body {
        Body::Push { repo, man, inc, tag, children } => {
            let (found, _) = io.read(Key::Man(repo, man))?;
            if matches!(found, Some(Body::Man(_, now, _)) if now == inc) {
                io.put(Key::Edge(CHILD, repo, man, inc), Body::Claim)?;
                io.put(Key::Referrer(repo, man, inc), Body::Claim)?;
                names(io, repo)?;
                if let Some(tag) = tag.filter(|_| io.leaves_out(Bad::TagsReplayed)) {
                    let (_, when) = io.read(Key::Tag(repo, tag))?;
                    io.put(Key::By(repo, man, inc, tag), Body::Claim)?;
                    let _: Result<Object, Changed> =
                        io.swap(Key::Tag(repo, tag), when, Body::Tag(man, inc))?;
                }
                if io.events {
                    io.put(Key::Event(Change::Pushed(inc)), Body::Claim)?;
                }
                if !alive(io, repo, man, inc)? {
                    clean(io, repo, man, inc, children, tag)?;
                }
            } else {
                clean(io, repo, man, inc, children, tag)?;
            }
        }
        Body::Delete { repo, man, inc, pushed, children } => {
            if !refresh(io, repo, man, inc)? {
                clean(io, repo, man, inc, children, None)?;
                tell_deleted(io, inc, pushed)?;
            }
        }
        _ => return io.give_up(),
    }
    io.delete(entry)?;
    Ok(Outcome::Done)
}

pub(super) fn use_secret(io: &mut Io<'_>) -> Step<Outcome> {
    for _ in 0..ROUNDS {
        let (found, when) = io.read(Key::Secret)?;
        let Some(Body::Secret(used)) = found else { return Ok(Outcome::Refused) };
        if io.leaves_out(Bad::SecretRevokedPlainly) {
            io.put(Key::Secret, Body::Secret(used + 1))?;
            return Ok(Outcome::Done);
        }
        if io.swap(Key::Secret, when, Body::Secret(used + 1))?.is_ok() {
            return Ok(Outcome::Done);
        }
    }
    io.give_up()
}

pub(super) fn revoke(io: &mut Io<'_>) -> Step<Outcome> {
    for _ in 0..ROUNDS {
        let (found, when) = io.read(Key::Secret)?;
        if found.is_none() {
            return Ok(Outcome::Refused);
        }
        if io.swap(Key::Secret, when, Body::Tomb)?.is_ok() {
            return Ok(Outcome::Done);
        }
    }
    io.give_up()
}
