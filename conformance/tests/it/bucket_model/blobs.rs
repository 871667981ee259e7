//! Uploads, small blobs in their links, HEAD, mounts, DELETE of a blob.

use super::bucket::{Blob, Body, Change, Due, Id, Key, Life, List, Object, Repo, Target, When};
use super::program::{Bad, Changed, Io, Outcome, ROUNDS, Step};

use Life::{Condemned, Gone, Live};

pub(super) fn upload(io: &mut Io<'_>, repo: Repo, blob: Blob) -> Step<Outcome> {
    let data = io.draw();
    let late = io.leaves_out(Bad::CommittingLate);
    io.put(Key::Up(data), Body::Open(blob))?;
    // In parallel: their order is the scheduler's.
    if io.first()? {
        io.put(Key::Data(data), Body::Claim)?;
        if !late {
            io.put(Key::Up(data), Body::Committing(repo, blob))?;
        }
        io.todo(Target::Link(blob, repo))?;
    } else {
        io.todo(Target::Link(blob, repo))?;
        if !late {
            io.put(Key::Up(data), Body::Committing(repo, blob))?;
        }
        io.put(Key::Data(data), Body::Claim)?;
    }
    publish(io, repo, blob, data, true)
}

pub(super) fn resume(io: &mut Io<'_>, repo: Repo, blob: Blob) -> Step<Outcome> {
    let (Key::Up(data), session) = io.take(Due::Session)? else { return io.give_up() };
    if session.body != Body::Committing(repo, blob) {
        return Ok(Outcome::Refused);
    }
    if io.swap(Key::Up(data), When::Is(session), session.body)?.is_err() {
        return io.give_up();
    }
    io.todo(Target::Link(blob, repo))?;
    if io.get(Key::Data(data))?.is_none() {
        io.put(Key::Data(data), Body::Claim)?;
    }
    publish(io, repo, blob, data, false)
}

fn publish(io: &mut Io<'_>, repo: Repo, blob: Blob, own: Id, first: bool) -> Step<Outcome> {
    for pass in 0..ROUNDS {
        if io.leaves_out(Bad::LinkBeforeBlob) {
            link(io, repo, blob, Some(own))?;
        }
        let Some(data) = point(io, blob, own, first && pass == 0)? else {
            return Ok(Outcome::Refused);
        };
        if io.leaves_out(Bad::CommittingLate) && pass == 0 {
            io.put(Key::Up(own), Body::Committing(repo, blob))?;
        }
        if !io.leaves_out(Bad::LinkBeforeBlob) {
            link(io, repo, blob, Some(data))?;
        }
        if !still(io, blob, data)? {
            continue;
        }
        if io.events {
            io.put(Key::Event(Change::Uploaded(repo, blob, own)), Body::Claim)?;
        }
        if data != own {
            io.delete(Key::Data(own))?;
        }
        io.delete(Key::Up(own))?;
        return Ok(Outcome::Done);
    }
    io.give_up()
}

/// Step 4: the data that `blob/D` names; `None`: it is gone, and ours may have been published.
fn point(io: &mut Io<'_>, blob: Blob, own: Id, may_revive: bool) -> Step<Option<Id>> {
    let key = Key::Blob(blob);
    if io.swap(key, When::Absent, Body::Blob(Live, own))?.is_ok() {
        return Ok(Some(own));
    }
    if io.leaves_out(Bad::ExistsIsSuccess) {
        io.delete(Key::Data(own))?;
    }
    for _ in 0..ROUNDS {
        let (found, when) = io.read(key)?;
        match found {
            Some(Body::Blob(Live, data)) => return Ok(Some(data)),
            Some(Body::Blob(Condemned, data)) => {
                if io.swap(key, when, Body::Blob(Live, data))?.is_ok() {
                    return Ok(Some(data));
                }
            }
            _ if !may_revive => return Ok(None),
            _ => {
                if io.swap(key, when, Body::Blob(Live, own))?.is_ok() {
                    return Ok(Some(own));
                }
            }
        }
    }
    io.give_up()
}

/// Step 5.
fn link(io: &mut Io<'_>, repo: Repo, blob: Blob, data: Option<Id>) -> Step<Object> {
    let key = Key::Link(blob, repo);
    for _ in 0..ROUNDS {
        let seen = io.get(key)?;
        let wanted = Body::Link(Live, data);
        if let Some(seen) = seen.filter(|it| it.body == wanted) {
            return Ok(seen);
        }
        if let Ok(written) = io.swap(key, seen.map_or(When::Absent, When::Is), wanted)? {
            return Ok(written);
        }
    }
    io.give_up()
}

/// Step 6.
fn still(io: &mut Io<'_>, blob: Blob, data: Id) -> Step<bool> {
    for _ in 0..ROUNDS {
        let (found, when) = io.read(Key::Blob(blob))?;
        match found {
            Some(Body::Blob(Live, now)) if now == data => return Ok(true),
            Some(Body::Blob(Condemned, now)) if now == data => {
                if io.swap(Key::Blob(blob), when, Body::Blob(Live, data))?.is_ok() {
                    return Ok(true);
                }
            }
            _ => return Ok(false),
        }
    }
    io.give_up()
}

/// A blob that lives in its link: nothing else is written.
pub(super) fn small(io: &mut Io<'_>, repo: Repo, blob: Blob) -> Step<Outcome> {
    io.todo(Target::Link(blob, repo))?;
    link(io, repo, blob, None)?;
    Ok(Outcome::Done)
}

pub(super) fn head(io: &mut Io<'_>, repo: Repo, blob: Blob) -> Step<Outcome> {
    Ok(if claim(io, repo, blob, true)? { Outcome::Done } else { Outcome::Refused })
}

pub(super) fn get(io: &mut Io<'_>, repo: Repo, blob: Blob) -> Step<Outcome> {
    let (Some(Body::Link(_, data)), _) = io.read(Key::Link(blob, repo))? else {
        return Ok(Outcome::Refused);
    };
    let Some(data) = data else { return Ok(Outcome::Done) };
    if io.get(Key::Data(data))?.is_some() {
        return Ok(Outcome::Done);
    }
    match io.read(Key::Blob(blob))?.0 {
        Some(Body::Blob(Live | Condemned, now)) if now != data => {
            let there = io.get(Key::Data(now))?.is_some();
            Ok(if there { Outcome::Done } else { Outcome::Refused })
        }
        _ => Ok(Outcome::Refused),
    }
}

/// Link and blob, in this order, each turned live: what HEAD and a push do.
pub(super) fn claim(io: &mut Io<'_>, repo: Repo, blob: Blob, head: bool) -> Step<bool> {
    let rescues = !(head && io.leaves_out(Bad::HeadRescuesNothing));
    for _ in 0..ROUNDS {
        let key = Key::Link(blob, repo);
        let (found, when) = io.read(key)?;
        let Some(Body::Link(life, data)) = found else { return Ok(false) };
        if life == Condemned && rescues {
            if head {
                io.todo(Target::Link(blob, repo))?;
            }
            if io.swap(key, when, Body::Link(Live, data))?.is_err() {
                continue;
            }
        }
        let Some(data) = data else { return Ok(true) };
        let (found, when) = io.read(Key::Blob(blob))?;
        match found {
            Some(Body::Blob(Live, now)) if now == data => return Ok(true),
            Some(Body::Blob(Condemned, now)) if now == data => {
                if !rescues || io.swap(Key::Blob(blob), when, Body::Blob(Live, now))?.is_ok() {
                    return Ok(true);
                }
            }
            Some(Body::Blob(Live | Condemned, now)) => {
                let (_, when) = io.read(key)?;
                let _: Result<Object, Changed> = io.swap(key, when, Body::Link(Live, Some(now)))?;
            }
            _ => return Ok(false),
        }
    }
    io.give_up()
}

pub(super) fn mount(io: &mut Io<'_>, from: Repo, to: Repo, blob: Blob) -> Step<Outcome> {
    let (Some(Body::Link(_, mut data)), _) = io.read(Key::Link(blob, from))? else {
        return Ok(Outcome::Refused);
    };
    io.todo(Target::Link(blob, to))?;
    for _ in 0..ROUNDS {
        let written = link(io, to, blob, data)?;
        let Some(own) = data else { return Ok(Outcome::Done) };
        let (found, when) = io.read(Key::Blob(blob))?;
        match found {
            Some(Body::Blob(Live, now)) if now == own => return Ok(Outcome::Done),
            Some(Body::Blob(Condemned, now)) if now == own => {
                if io.swap(Key::Blob(blob), when, Body::Blob(Live, now))?.is_ok() {
                    return Ok(Outcome::Done);
                }
            }
            Some(Body::Blob(Live | Condemned, now)) => data = Some(now),
            _ => {
                let _: Result<Object, Changed> =
                    io.swap(Key::Link(blob, to), When::Is(written), Body::Tomb)?;
                return Ok(Outcome::Refused);
            }
        }
    }
    io.give_up()
}

pub(super) fn unlink(io: &mut Io<'_>, repo: Repo, blob: Blob) -> Step<Outcome> {
    for _ in 0..ROUNDS {
        let (found, when) = io.read(Key::Link(blob, repo))?;
        if found.is_none() {
            return Ok(Outcome::Refused);
        }
        let early = !io.leaves_out(Bad::TodoAfterUnnaming);
        if early {
            io.todo(Target::Blob(blob))?;
        }
        if io.swap(Key::Link(blob, repo), when, Body::Tomb)?.is_ok() {
            if !early {
                io.todo(Target::Blob(blob))?;
            }
            return Ok(Outcome::Done);
        }
    }
    io.give_up()
}

/// A session that nobody works on.
pub(super) fn sweep(io: &mut Io<'_>) -> Step<Outcome> {
    let (Key::Up(data), session) = io.take(Due::Session)? else { return io.give_up() };
    let (repo, blob) = match session.body {
        Body::Committing(repo, blob) => (repo, blob),
        Body::Open(blob) | Body::DeadSession(blob) => (0, blob),
        _ => return io.give_up(),
    };
    if io.swap(Key::Up(data), When::Is(session), Body::DeadSession(blob))?.is_err() {
        return Ok(Outcome::Done);
    }
    if io.events && matches!(session.body, Body::Committing(..)) {
        let (link, _) = io.read(Key::Link(blob, repo))?;
        if matches!(link, Some(Body::Link(_, Some(named))) if named == data) {
            io.put(Key::Event(Change::Uploaded(repo, blob, data)), Body::Claim)?;
        }
    }
    // A session that has not come to its PUT names no digest.
    let found = match session.body {
        Body::Open(_) => None,
        _ => io.read(Key::Blob(blob))?.0,
    };
    let published = matches!(found, Some(Body::Blob(_, named)) if named == data);
    if !published || io.leaves_out(Bad::SweepWithoutData) {
        io.delete(Key::Data(data))?;
    }
    io.delete(Key::Up(data))?;
    Ok(Outcome::Done)
}

/// Settles one review.
pub(super) fn review(io: &mut Io<'_>) -> Step<Outcome> {
    let (entry, todo) = io.take(Due::Todo)?;
    let Body::Todo(target) = todo.body else { return io.give_up() };
    let settled = match target {
        Target::Link(blob, repo) => review_link(io, repo, blob)?,
        Target::Blob(blob) => review_blob(io, blob)?,
        Target::Data(data, blob) => review_data(io, data, blob)?,
    };
    match settled {
        Settled::Done => io.delete(entry)?,
        Settled::Later => {
            io.todo(target)?;
            io.delete(entry)?;
        }
        Settled::Overtaken => {}
    }
    Ok(Outcome::Done)
}

enum Settled {
    Done,
    Later,
    Overtaken,
}

impl From<Result<Object, Changed>> for Settled {
    fn from(swapped: Result<Object, Changed>) -> Self {
        if swapped.is_ok() { Self::Done } else { Self::Overtaken }
    }
}

fn review_link(io: &mut Io<'_>, repo: Repo, blob: Blob) -> Step<Settled> {
    let (key, names) = (Key::Link(blob, repo), List::Edges(blob, repo));
    let seen = io.get(key)?;
    let Some(seen @ Object { body: Body::Link(life, data), .. }) = seen else {
        io.todo(Target::Blob(blob))?;
        return Ok(Settled::Done);
    };
    let live = Body::Link(Live, data);
    // What is due is looked up once more.
    if !io.leaves_out(Bad::RemoverLooksNoMore) && io.any(names)? {
        return match life {
            Live => Ok(Settled::Done),
            _ => Ok(io.swap(key, When::Is(seen), live)?.into()),
        };
    }
    if life == Live {
        let Ok(condemned) = io.swap(key, When::Is(seen), Body::Link(Condemned, data))? else {
            return Ok(Settled::Overtaken);
        };
        if !io.leaves_out(Bad::RemoverLooksNoMore) && io.any(names)? {
            return Ok(io.swap(key, When::Is(condemned), live)?.into());
        }
        return Ok(Settled::Later);
    }
    if seen.clients != 0 {
        return Ok(Settled::Later);
    }
    // Bytes in the link leave no blob behind.
    if data.is_some() && !io.leaves_out(Bad::TodoAfterUnnaming) {
        io.todo(Target::Blob(blob))?;
    }
    let removed = io.swap(key, When::Is(seen), Body::Tomb)?;
    if data.is_some() && removed.is_ok() && io.leaves_out(Bad::TodoAfterUnnaming) {
        io.todo(Target::Blob(blob))?;
    }
    Ok(removed.into())
}

fn review_blob(io: &mut Io<'_>, blob: Blob) -> Step<Settled> {
    let key = Key::Blob(blob);
    let Some(seen @ Object { body: Body::Blob(life, data), .. }) = io.get(key)? else {
        return Ok(Settled::Done);
    };
    if life == Gone {
        return Ok(Settled::Done);
    }
    let links = io.list(List::Links(blob))?;
    if links.iter().any(|(_, there, _)| *there) {
        return match life {
            Live => Ok(Settled::Done),
            _ => Ok(io.swap(key, When::Is(seen), Body::Blob(Live, data))?.into()),
        };
    }
    if life == Live {
        let Ok(now) = io.swap(key, When::Is(seen), Body::Blob(Condemned, data))? else {
            return Ok(Settled::Overtaken);
        };
        if io.any(List::Links(blob))? {
            return Ok(io.swap(key, When::Is(now), Body::Blob(Live, data))?.into());
        }
        return Ok(Settled::Later);
    }
    if seen.requests != 0 || links.iter().any(|(_, _, old)| !old) {
        return Ok(Settled::Later);
    }
    io.todo(Target::Data(data, blob))?;
    Ok(io.swap(key, When::Is(seen), Body::Blob(Gone, data))?.into())
}

fn review_data(io: &mut Io<'_>, data: Id, blob: Blob) -> Step<Settled> {
    match io.get(Key::Blob(blob))?.map(|it| it.body) {
        Some(Body::Blob(Condemned, now)) if now == data => Ok(Settled::Later),
        Some(Body::Blob(Live, now)) if now == data => Ok(Settled::Done),
        _ => {
            io.delete(Key::Data(data))?;
            Ok(Settled::Done)
        }
    }
}
