//! How many connections there are, and which one goes when another one comes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Link, State};
use crate::failpoint::fail_point;

/// Places of each worker for probes alone, for when all others are taken by clients that are being
/// served: a health check that cannot connect has the server restarted, which helps nobody.
pub(super) const PROBES: usize = 64;

/// How long a client may be waited for in the middle of a body or an answer until it counts as one
/// that rests.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many connections are chosen at one look at all of them.
const CHOSEN: usize = 256;

/// How long it is not looked again where there was nothing to choose.
const BARREN: Duration = Duration::from_millis(100);

/// The connections of a worker.
#[derive(Debug)]
pub(super) struct Crowd {
    ordinary: Places,
    probes: Places,
}

#[derive(Debug)]
struct Places {
    most: usize,
    taken: RefCell<BTreeMap<u64, Rc<Link>>>,
    next: Cell<u64>,
    /// Those that rested the longest when all were looked at, and since when they did.
    chosen: RefCell<VecDeque<(u64, Instant)>>,
    barren_until: Cell<Option<Instant>>,
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Rc<Crowd>,
    link: Rc<Link>,
    number: u64,
    probes_only: bool,
}

impl Crowd {
    pub(super) fn new(most: usize) -> Self {
        Self { ordinary: Places::new(most), probes: Places::new(PROBES) }
    }

    /// A place for a new connection. If there is none, the connection that has rested the longest
    /// gives its own; if none rests, there are the places for probes. `None`: all are taken.
    pub(super) fn admit(self: &Rc<Self>, state: State) -> Option<Place> {
        let link = Rc::new(Link::new(state));
        let (number, probes_only) = match self.ordinary.take(&link) {
            Some(number) => (number, false),
            None if fail_point!("probe-places", off) => return None,
            None => (self.probes.take(&link)?, true),
        };
        Some(Place { crowd: Rc::clone(self), link, number, probes_only })
    }

    /// Ends the connections on which nothing happens.
    pub(super) fn stop(&self) {
        for places in [&self.ordinary, &self.probes] {
            for link in places.taken.borrow().values() {
                if matches!(link.state(), State::Silent | State::Resting) {
                    link.dismiss();
                }
            }
        }
    }
}

impl Places {
    fn new(most: usize) -> Self {
        Self {
            most,
            taken: RefCell::default(),
            next: Cell::new(0),
            chosen: RefCell::default(),
            barren_until: Cell::new(None),
        }
    }

    fn take(&self, link: &Rc<Link>) -> Option<u64> {
        if self.taken.borrow().len() >= self.most && !self.dismiss_one() {
            return None;
        }
        let number = self.next.get();
        self.next.set(number + 1);
        self.taken.borrow_mut().insert(number, Rc::clone(link));
        Some(number)
    }

    fn dismiss_one(&self) -> bool {
        if fail_point!("give-way", off) {
            return false;
        }
        loop {
            while let Some((number, since)) = { self.chosen.borrow_mut().pop_front() } {
                let mut taken = self.taken.borrow_mut();
                let Some(link) = taken.get(&number) else { continue };
                if link.since() == since && rests(link).is_some() {
                    link.dismiss();
                    taken.remove(&number);
                    return true;
                }
            }
            if !self.choose() {
                return false;
            }
        }
    }

    /// Looks for those that have rested the longest.
    fn choose(&self) -> bool {
        let now = Instant::now();
        if self.barren_until.get().is_some_and(|until| now < until) {
            return false;
        }
        let taken = self.taken.borrow();
        let resting = taken.iter().filter_map(|(number, link)| Some((rests(link)?, *number)));
        let mut resting: Vec<_> = resting.collect();
        if resting.len() > CHOSEN {
            resting.select_nth_unstable(CHOSEN);
            resting.truncate(CHOSEN);
        }
        resting.sort_unstable();
        self.barren_until.set(resting.is_empty().then(|| now + BARREN));
        *self.chosen.borrow_mut() =
            resting.iter().map(|((_, since), number)| (*number, *since)).collect();
        !resting.is_empty()
    }
}

/// Since when the connection has rested, behind whether it rests in the middle of a request.
fn rests(link: &Link) -> Option<(bool, Instant)> {
    match link.state() {
        State::Working => None,
        State::Receiving | State::Sending => {
            let stalled = link.since().elapsed() > PATIENCE && !link.went_on();
            stalled.then(|| (true, link.since()))
        }
        State::Handshake | State::Silent | State::Head | State::Resting | State::Parting => {
            Some((false, link.since()))
        }
    }
}

impl Place {
    pub(super) fn link(&self) -> &Rc<Link> {
        &self.link
    }

    /// Whether only probes are answered here.
    pub(super) fn probes_only(&self) -> bool {
        self.probes_only
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let places = if self.probes_only { &self.crowd.probes } else { &self.crowd.ordinary };
        places.taken.borrow_mut().remove(&self.number);
    }
}
