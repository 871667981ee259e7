//! The protocol of a registry whose facts are objects of a bucket, as a model: small worlds of a
//! few clients, collectors and recoverers, all interleavings of their requests, crashes and lost
//! answers. A measure of the protocol that is left out must be missed by the checker.
//!
//! `BUCKET_MODEL_STATES` bounds each world (states; 0: none), for runs longer than the usual ones.

mod blobs;
mod bucket;
mod judge;
mod manifests;
mod program;
mod world;

use std::time::Instant;

use program::{Bad, Op};
use stateright::{Checker, HasDiscoveries, Model, UniformChooser};
use world::World;

/// States per world in the usual run.
const STATES: usize = 3_000;
/// Where the random walks begin.
const SEED: u64 = 19;

fn states() -> usize {
    match std::env::var("BUCKET_MODEL_STATES").ok().and_then(|it| it.parse().ok()) {
        Some(0) => usize::MAX,
        Some(states) => states,
        None => STATES,
    }
}

/// The world as a name, its clients, and what comes before.
fn world(before: &[Op], clients: &[&[Op]]) -> World {
    World {
        clients: clients.iter().map(|ops| ops.to_vec()).collect(),
        before: before.to_vec(),
        ..World::default()
    }
}

/// What the checker finds against a world: the property, and the way there. First all states as far
/// as the bound goes, breadth first; where that is not all of them, as many again by random walks,
/// which get to the ends.
fn find(name: &str, world: &World, bound: usize) -> Option<String> {
    let started = Instant::now();
    let bounded = || {
        let builder = world.clone().checker().finish_when(HasDiscoveries::Any);
        if bound == usize::MAX { builder } else { builder.target_state_count(bound) }
    };
    let checker = bounded().spawn_bfs().join();
    let (seen, all) = (checker.unique_state_count(), checker.state_count() < bound);
    let mut found = checker.discoveries();
    if !all && found.is_empty() {
        found = bounded().spawn_simulation(SEED, UniformChooser).join().discoveries();
    }
    let all = if all { "" } else { ", bounded" };
    let bad = world.bad.map_or(String::new(), |bad| format!(" without {bad:?}"));
    eprintln!("{name}{bad}: {seen} states{all}, {:?}", started.elapsed());
    found.into_iter().next().map(|(property, path)| {
        let last = path.last_state().clone();
        let actions: Vec<_> = path.into_actions();
        format!("{property}\n{actions:?}\n{last:#?}\n{}", judge::verdict(world, &last))
    })
}

const R: u8 = 0;
const OTHER: u8 = 1;
const B: u8 = 0;
const M: u8 = 0;
const N: u8 = 1;
const T: u8 = 0;

type Worlds = Vec<(&'static str, World)>;

fn crash(world: World) -> World {
    World { crashes: 1, ..world }
}

fn lossy(world: World) -> World {
    World { losses: 1, ..world }
}

fn telling(world: World) -> World {
    World { events: true, ..world }
}

fn holding(world: World) -> World {
    World { holds: true, ..world }
}

/// The worlds that the protocol is held to.
fn worlds() -> Worlds {
    let mut all = worlds_of_blobs();
    all.extend(worlds_of_manifests());
    all
}

const UP: Op = Op::Upload(R, B);

fn worlds_of_blobs() -> Worlds {
    use Op::*;
    let up = UP;
    let gone = [up, Push(R, M, None), Delete(R, M)];
    let there = [up, Push(R, M, Some(T))];
    let two = [up, Push(R, M, Some(T)), Push(R, N, None)];
    vec![
        ("push and collector", world(&[up], &[&[Push(R, M, None)], &[Review, Review]])),
        ("two uploads", world(&[], &[&[up, Push(R, M, None)], &[up]])),
        (
            "two uploads, one lost answer",
            lossy(world(&[], &[&[up, Push(R, M, None)], &[Upload(OTHER, B)]])),
        ),
        ("upload and collector", world(&[], &[&[up, Push(R, M, None)], &[Review, Review, Review]])),
        ("upload, reader", lossy(crash(world(&[], &[&[up], &[Head(R, B), Push(R, M, None)]])))),
        (
            "upload dies, is resumed or swept",
            crash(world(&[], &[&[up], &[Resume(R, B)], &[Sweep]])),
        ),
        (
            "upload dies and is swept",
            crash(world(&[], &[&[up], &[Sweep], &[Head(R, B), Push(R, M, None)]])),
        ),
        (
            "small blob and collector",
            crash(world(&[], &[&[Small(R, B), Push(R, M, None)], &[Review, Review]])),
        ),
        (
            "small and large",
            world(&[], &[&[Small(R, B), Push(R, M, None)], &[up, Push(R, N, None)]]),
        ),
        (
            "small blob mounted",
            world(
                &[Small(R, B)],
                &[
                    &[Mount { from: R, to: OTHER, blob: B }, Push(OTHER, M, None)],
                    &[Review, Review, Review],
                ],
            ),
        ),
        (
            "skip and collector",
            world(&gone, &[&[Head(R, B), Push(R, M, None)], &[Review, Review, Review, Review]]),
        ),
        (
            "skip and two collectors",
            world(&gone, &[&[Head(R, B), Push(R, M, None)], &[Review, Review], &[Review, Review]]),
        ),
        (
            "upload over what is collected",
            world(&gone, &[&[up, Push(R, M, None)], &[Review, Review, Review, Review, Review]]),
        ),
        (
            "mount and collector",
            world(
                &gone,
                &[
                    &[Mount { from: R, to: OTHER, blob: B }, Push(OTHER, M, None)],
                    &[Review, Review, Review, Review],
                ],
            ),
        ),
        (
            "unlink dies",
            crash(world(&[up, Push(R, M, None), Review], &[&[Unlink(R, B)], &[Review, Review]])),
        ),
        (
            "read, condemned, two collectors",
            world(&[up, Review], &[&[Head(R, B), Get(R, B)], &[Review], &[Review]]),
        ),
        (
            "a push kept by a hold",
            holding(world(&two, &[&[Push(R, N, Some(T))], &[Untag(R, T), Delete(R, M)]])),
        ),
        (
            "reader of a tag that goes and comes back",
            world(
                &there,
                &[&[ByTag(R, T), Guess(R, T)], &[Untag(R, T), Delete(R, M)], &[Retag(R, M, T)]],
            ),
        ),
        (
            "skip, condemned, two collectors",
            world(&[up, Review], &[&[Head(R, B), Push(R, M, None)], &[Review], &[Review]]),
        ),
        (
            "upload dies, is swept, another comes",
            crash(world(&[], &[&[up], &[Sweep], &[up, Push(R, M, None)]])),
        ),
        (
            "upload dies under a reader",
            crash(world(&[], &[&[up], &[Sweep], &[Get(R, B), Get(R, B)]])),
        ),
        (
            "a tag that comes and goes",
            lossy(world(
                &[up, Push(R, M, Some(T)), Untag(R, T)],
                &[&[Push(R, M, Some(T)), Untag(R, T)]],
            )),
        ),
        ("deletion dies", crash(world(&there, &[&[Delete(R, M)], &[Recover]]))),
    ]
}

fn worlds_of_manifests() -> Worlds {
    use Op::*;
    let up = UP;
    let there = [up, Push(R, M, Some(T))];
    let named = [up, Push(R, M, None)];
    let two = [up, Push(R, M, Some(T)), Push(R, N, None)];
    vec![
        ("push and deletion", world(&named, &[&[Push(R, M, Some(T))], &[Delete(R, M)]])),
        (
            "push and deletion, crash",
            crash(world(&named, &[&[Push(R, M, Some(T))], &[Delete(R, M)]])),
        ),
        (
            "two pushes of one, deletion",
            world(&named, &[&[Push(R, M, None)], &[Push(R, M, Some(T))], &[Delete(R, M)]]),
        ),
        (
            "pushes of two to a tag",
            lossy(world(&two, &[&[Push(R, N, Some(T))], &[Push(R, M, Some(T))]])),
        ),
        (
            "push dies, another moves its tag",
            crash(world(&named, &[&[Push(R, M, Some(T))], &[Push(R, N, Some(T))], &[Recover]])),
        ),
        (
            "deletion, recovery, push",
            crash(world(&there, &[&[Delete(R, M)], &[Recover], &[Push(R, M, Some(T))]])),
        ),
        (
            "refused push and deletion",
            world(&[], &[&[Push(R, M, Some(T))], &[up, Push(R, M, None)]]),
        ),
        (
            "reader of a tag",
            world(&two, &[&[ByTag(R, T), Guess(R, T)], &[Push(R, N, Some(T)), Delete(R, M)]]),
        ),
        (
            "reader of a tag that comes back",
            world(
                &two,
                &[
                    &[ByTag(R, T), Guess(R, T)],
                    &[Push(R, N, Some(T)), Delete(R, M)],
                    &[Push(R, M, Some(T))],
                ],
            ),
        ),
        ("untag", world(&there, &[&[Untag(R, T)], &[Delete(R, M)], &[ByTag(R, T)]])),
        ("retention and a tag", world(&named, &[&[DeleteUntagged(R, M)], &[Push(R, M, Some(T))]])),
        (
            "retention dies",
            crash(world(&named, &[&[DeleteUntagged(R, M)], &[Push(R, M, Some(T))]])),
        ),
        (
            "events of push and deletion",
            telling(crash(world(&[up], &[&[Push(R, M, None)], &[Delete(R, M)], &[Recover]]))),
        ),
        ("events of an upload", telling(crash(world(&[], &[&[up], &[Sweep]])))),
        ("a held tag", holding(world(&named, &[&[Push(R, M, Some(T))], &[Delete(R, M)]]))),
        (
            "a held tag on a new life",
            holding(world(&[up], &[&[Push(R, M, Some(T))], &[Delete(R, M)]])),
        ),
        (
            "a held tag moves for nobody",
            holding(world(&named, &[&[Push(R, M, Some(T))], &[Push(R, N, Some(T))]])),
        ),
        ("a secret", lossy(world(&[], &[&[UseSecret], &[Revoke], &[UseSecret]]))),
    ]
}

#[test]
fn the_protocol_holds() {
    let mut wrong = Vec::new();
    for (name, world) in worlds() {
        if let Some(found) = find(name, &world, states()) {
            eprintln!("RED {found}");
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "red: {wrong:?}");
}

/// States in which the absence of a measure must show: several times what it takes.
const KNOWN_BAD_STATES: usize = 400_000;

/// Each measure with a world in which its absence shows.
const MEASURES: &[(Bad, &str)] = &[
    (Bad::BodiesWithoutW, "read, condemned, two collectors"),
    (Bad::OneTombstone, "a tag that comes and goes"),
    (Bad::ExistsIsSuccess, "two uploads, one lost answer"),
    (Bad::RefusalBelieved, "a tag that comes and goes"),
    (Bad::HeadRescuesNothing, "skip, condemned, two collectors"),
    (Bad::TodoAfterUnnaming, "unlink dies"),
    (Bad::SweepWithoutData, "upload dies and is swept"),
    (Bad::CommittingLate, "upload dies, is swept, another comes"),
    (Bad::LinkBeforeBlob, "upload dies under a reader"),
    (Bad::AdoptedEdgesDropped, "a push kept by a hold"),
    (Bad::IntentWithoutChildren, "deletion dies"),
    (Bad::DeadLifeWritten, "push and deletion"),
    (Bad::NoLastLook, "push and deletion"),
    (Bad::HintsAlone, "push and deletion, crash"),
    (Bad::RefusalKeepsHint, "refused push and deletion"),
    (Bad::GuessWithout304, "reader of a tag that goes and comes back"),
    (Bad::TagsReplayed, "push dies, another moves its tag"),
    (Bad::UntaggedWithoutSecondLook, "retention and a tag"),
    (Bad::EventFirst, "events of push and deletion"),
    (Bad::EventWithoutIntent, "events of push and deletion"),
    (Bad::PushEventLeftToItsPush, "events of push and deletion"),
    (Bad::HoldSeenOnce, "a held tag"),
    (Bad::SecretRevokedPlainly, "a secret"),
    (Bad::RemoverLooksNoMore, "push and collector"),
];

#[test]
fn each_measure_is_missed() {
    let worlds = worlds();
    let mut unseen = Vec::new();
    for (bad, name) in MEASURES {
        let known = worlds.iter().find(|(it, _)| it == name).map(|(_, world)| world);
        let known = known.unwrap_or_else(|| panic!("no world {name}"));
        let without = World { bad: Some(*bad), ..known.clone() };
        // What the usual run misses is what a longer one has to find.
        if find(name, &without, states().max(KNOWN_BAD_STATES)).is_none() {
            unseen.push((bad, name));
        }
    }
    assert!(unseen.is_empty(), "the checker does not miss: {unseen:?}");
}
