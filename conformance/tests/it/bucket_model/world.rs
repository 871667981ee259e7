//! The model: programs that take turns at the bucket, crash, and lose answers.

use stateright::{Model, Property};

use super::blobs;
use super::bucket::{Answer, Body, Bucket, Change, Due, Key, Life, Object, Request, When, Write};
use super::judge;
use super::manifests;
use super::program::{Bad, Io, Memory, Op, Outcome, Stop};

/// What is run: each client's operations one after another, all clients at once.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub clients: Vec<Vec<Op>>,
    /// Operations that had ended before anything of the above began.
    pub before: Vec<Op>,
    pub crashes: u8,
    /// Writes whose answer is lost; each may have happened, or happen later.
    pub losses: u8,
    pub bad: Option<Bad>,
    pub events: bool,
    pub holds: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Client {
    /// Which of its operations is next.
    pub next: u8,
    pub begun: bool,
    pub crashed: bool,
    log: Vec<Answer>,
    asks: Option<Request>,
    memory: Memory,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub bucket: Bucket,
    pub clients: Vec<Client>,
    pub outcomes: Vec<Option<Outcome>>,
    /// Per operation, those that had ended when it began.
    pub after: Vec<u16>,
    pub ended: u16,
    late: Vec<(u8, Write)>,
    crashes: u8,
    losses: u8,
    /// Per operation that reads a tag, what the tag has named since it began: bit 0 nothing, bit
    /// n + 1 manifest n.
    pub(super) truths: Vec<u8>,
    /// What has happened to manifests and links, whoever did it.
    pub changes: Vec<Change>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    Step(u8),
    Other(u8),
    Take(u8, Key),
    /// The write happens, the answer is lost.
    Lose(u8),
    /// Neither; it may happen later.
    Delay(u8),
    Arrive(u8),
    Crash(u8),
}

impl World {
    /// The number of an operation in all of them; those of `before` come last.
    pub(super) fn number(&self, client: usize, next: u8) -> u8 {
        let earlier: usize = self.clients[..client].iter().map(Vec::len).sum();
        u8::try_from(earlier).unwrap_or(u8::MAX) + next
    }

    pub(super) fn ops(&self) -> impl Iterator<Item = &Op> {
        self.clients.iter().flatten()
    }

    fn run(&self, op: &Op, io: &mut Io<'_>) -> Result<Outcome, Stop> {
        io.bad = self.bad;
        io.events = self.events;
        io.holds = self.holds;
        match *op {
            Op::Upload(repo, blob) => blobs::upload(io, repo, blob),
            Op::Resume(repo, blob) => blobs::resume(io, repo, blob),
            Op::Small(repo, blob) => blobs::small(io, repo, blob),
            Op::Get(repo, blob) => blobs::get(io, repo, blob),
            Op::Head(repo, blob) => blobs::head(io, repo, blob),
            Op::Mount { from, to, blob } => blobs::mount(io, from, to, blob),
            Op::Unlink(repo, blob) => blobs::unlink(io, repo, blob),
            Op::Push(repo, man, tag) => manifests::push(io, repo, man, tag),
            Op::Retag(repo, man, tag) => manifests::retag(io, repo, man, tag),
            Op::Delete(repo, man) => manifests::delete(io, repo, man),
            Op::DeleteUntagged(repo, man) => manifests::delete_untagged(io, repo, man),
            Op::Untag(repo, tag) => manifests::untag(io, repo, tag),
            Op::ByTag(repo, tag) => manifests::by_tag(io, repo, tag),
            Op::Guess(repo, tag) => manifests::guess(io, repo, tag),
            Op::Review => blobs::review(io),
            Op::Recover => manifests::recover(io),
            Op::Sweep => blobs::sweep(io),
            Op::UseSecret => manifests::use_secret(io),
            Op::Revoke => manifests::revoke(io),
        }
    }

    /// Runs an operation to its end while nobody else does anything.
    pub(super) fn alone(&self, state: &mut State, op: &Op, number: u8) -> Outcome {
        let mut log = Vec::new();
        loop {
            let mut io = Io::new(number, &log, None);
            match self.run(op, &mut io) {
                Ok(outcome) => return outcome,
                Err(Stop::GivesUp) => return Outcome::GaveUp,
                Err(Stop::Asks(Request::Either)) => log.push(Answer::First(true)),
                Err(Stop::Asks(Request::Take(due))) => match state.due(due, 0).first() {
                    Some((key, object)) => log.push(Answer::Taken(*key, *object)),
                    None => return Outcome::GaveUp,
                },
                Err(Stop::Asks(request)) => {
                    let answer = state.serve(&request, 0, 0);
                    log.push(answer);
                }
            }
        }
    }

    fn go_on(&self, state: &mut State, who: usize) {
        let Some(op) = self.clients[who].get(usize::from(state.clients[who].next)) else {
            state.clients[who].asks = None;
            return;
        };
        let number = self.number(who, state.clients[who].next);
        let client = &state.clients[who];
        let mut io = Io::new(number, &client.log, client.memory);
        let outcome = match self.run(op, &mut io) {
            Err(Stop::Asks(request)) => {
                state.clients[who].asks = Some(request);
                return;
            }
            Err(Stop::GivesUp) => Outcome::GaveUp,
            Ok(outcome) => outcome,
        };
        let memory = io.memory;
        state.outcomes[usize::from(number)] = Some(outcome);
        state.ended |= 1 << number;
        let client = &mut state.clients[who];
        *client = Client {
            next: client.next + 1,
            begun: false,
            crashed: false,
            log: Vec::new(),
            asks: None,
            memory,
        };
        self.go_on(state, who);
        self.forget_ended(state);
    }

    /// Ages are relative to what still runs.
    fn forget_ended(&self, state: &mut State) {
        let (requests, clients) = self.running(state);
        for object in state.bucket.0.values_mut() {
            object.requests &= requests;
            object.clients &= clients;
        }
    }

    fn running(&self, state: &State) -> (u16, u8) {
        let (mut requests, mut clients) = (0, 0);
        for (who, client) in state.clients.iter().enumerate() {
            let number = self.number(who, client.next);
            let over = usize::from(client.next) >= self.clients[who].len();
            if !client.crashed && !over && (client.begun || client.next > 0) {
                clients |= 1 << who;
                requests |= if client.begun { 1 << number } else { 0 };
            }
        }
        for (number, _) in &state.late {
            requests |= 1 << number;
        }
        (requests, clients)
    }

    /// What the tags name now, for those who read them.
    fn note_truths(&self, state: &mut State) {
        for (who, client) in
            state.clients.iter().enumerate().filter(|(_, it)| it.begun && !it.crashed)
        {
            let op = self.clients[who].get(usize::from(client.next));
            if let Some(Op::ByTag(repo, tag) | Op::Guess(repo, tag)) = op {
                let named = judge::named(&state.bucket, *repo, *tag);
                let number = usize::from(self.number(who, client.next));
                state.truths[number] |= named.map_or(1, |man| 2 << man);
            }
        }
    }

    fn answer(&self, state: &mut State, who: usize, answer: Answer) {
        state.clients[who].log.push(answer);
        self.go_on(state, who);
    }

    fn begin(&self, state: &mut State, who: usize) -> u8 {
        let number = self.number(who, state.clients[who].next);
        if !state.clients[who].begun {
            state.clients[who].begun = true;
            state.after[usize::from(number)] = state.ended;
            self.note_truths(state);
        }
        number
    }

    /// Nothing more happens by itself.
    pub(super) fn is_over(&self, state: &State) -> bool {
        let mut actions = Vec::new();
        self.actions(state, &mut actions);
        !actions.iter().any(|it| !matches!(it, Action::Crash(_)))
    }
}

impl State {
    pub(super) fn due(&self, due: Due, running: u16) -> Vec<(Key, Object)> {
        let all = self.bucket.0.iter().filter(|(key, it)| {
            it.requests & running == 0
                && matches!(
                    (due, key),
                    (Due::Todo, Key::Todo(_))
                        | (Due::Intent, Key::Intent(_))
                        | (Due::Session, Key::Up(_))
                )
        });
        all.map(|(key, object)| (*key, *object)).collect()
    }

    fn serve(&mut self, request: &Request, requests: u16, clients: u8) -> Answer {
        match request {
            Request::Get(key) => Answer::Got(self.bucket.get(*key)),
            Request::List(list) => Answer::Listed(self.bucket.list(*list)),
            Request::Write(write) => {
                let before = self.bucket.get(write.key);
                if !self.bucket.write(write, requests, clients) {
                    return Answer::Changed;
                }
                self.note(write, before);
                Answer::Written
            }
            Request::Either | Request::Take(_) => unreachable!("the scheduler's"),
        }
    }

    /// What a write changed, for the judge.
    fn note(&mut self, write: &Write, before: Option<Object>) {
        let life = |body: Option<Body>| match body {
            Some(Body::Man(_, inc, _)) => Some(inc),
            _ => None,
        };
        let (was, is) = (before.map(|it| it.body), write.to.map(|(_, body)| body));
        if let (Key::Man(..), false) = (write.key, life(was) == life(is)) {
            self.changes.extend(life(was).map(Change::Deleted));
            self.changes.extend(life(is).map(Change::Pushed));
        }
        if let (Key::Link(blob, repo), Some(Body::Link(Life::Live, _))) = (write.key, is) {
            self.changes.push(Change::Uploaded(repo, blob, 0));
        }
        self.changes.sort_unstable();
        self.changes.dedup();
    }
}

pub(super) const PREPARED: u8 = 200;

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let count = self.ops().count();
        let client = Client {
            next: 0,
            begun: false,
            crashed: false,
            log: Vec::new(),
            asks: None,
            memory: None,
        };
        let mut state = State {
            bucket: Bucket::default(),
            clients: vec![client; self.clients.len()],
            outcomes: vec![None; count],
            after: vec![0; count],
            ended: 0,
            late: Vec::new(),
            crashes: self.crashes,
            losses: self.losses,
            changes: Vec::new(),
            truths: vec![0; count],
        };
        if self.ops().any(|op| matches!(op, Op::UseSecret | Op::Revoke)) {
            let secret = Object { w: 1, body: Body::Secret(0), requests: 0, clients: 0 };
            state.bucket.0.insert(Key::Secret, secret);
        }
        for (number, op) in self.before.iter().enumerate() {
            let number = PREPARED + u8::try_from(number).unwrap_or(0);
            let outcome = self.alone(&mut state, op, number);
            assert!(outcome != Outcome::GaveUp, "{op:?} before the rest: {outcome:?}");
        }
        for who in 0..self.clients.len() {
            self.go_on(&mut state, who);
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let (running, _) = self.running(state);
        for (who, client) in (0u8..).zip(&state.clients) {
            let Some(asks) = client.asks.filter(|_| !client.crashed) else { continue };
            match asks {
                Request::Take(due) => {
                    // What it takes itself is no obstacle to what it takes.
                    let takes = state.due(due, running);
                    actions.extend(takes.into_iter().map(|(key, _)| Action::Take(who, key)));
                }
                Request::Either => actions.extend([Action::Step(who), Action::Other(who)]),
                Request::Get(_) | Request::List(_) => actions.push(Action::Step(who)),
                Request::Write(write) => {
                    actions.push(Action::Step(who));
                    if state.losses > 0 && write.when != When::Always {
                        actions.extend([Action::Lose(who), Action::Delay(who)]);
                    }
                }
            }
            if state.crashes > 0 && client.begun && !matches!(asks, Request::Take(_)) {
                actions.push(Action::Crash(who));
            }
        }
        for at in 0..state.late.len() {
            actions.push(Action::Arrive(u8::try_from(at).unwrap_or(0)));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let (Action::Step(who)
        | Action::Other(who)
        | Action::Take(who, _)
        | Action::Lose(who)
        | Action::Delay(who)
        | Action::Crash(who)
        | Action::Arrive(who)) = action;
        let who = usize::from(who);
        if let Action::Arrive(_) = action {
            let (number, write) = state.late.remove(who);
            let (requests, clients) = self.running(&state);
            let _ = state.serve(&Request::Write(write), requests | 1 << number, clients);
            self.note_truths(&mut state);
            self.forget_ended(&mut state);
            return Some(state);
        }
        let number = self.begin(&mut state, who);
        let (requests, clients) = self.running(&state);
        let asks = state.clients[who].asks?;
        match action {
            Action::Step(_) if asks == Request::Either => {
                self.answer(&mut state, who, Answer::First(true))
            }
            Action::Other(_) => self.answer(&mut state, who, Answer::First(false)),
            Action::Take(_, key) => {
                let object = state.bucket.get(key)?;
                self.answer(&mut state, who, Answer::Taken(key, object));
            }
            Action::Step(_) => {
                let answer = state.serve(&asks, requests, clients);
                self.note_truths(&mut state);
                self.answer(&mut state, who, answer);
            }
            Action::Lose(_) => {
                state.losses -= 1;
                let _ = state.serve(&asks, requests, clients);
                self.note_truths(&mut state);
                self.answer(&mut state, who, Answer::Unknown);
            }
            Action::Delay(_) => {
                state.losses -= 1;
                let Request::Write(write) = asks else { return None };
                state.late.push((number, write));
                self.answer(&mut state, who, Answer::Unknown);
            }
            Action::Crash(_) | Action::Arrive(_) => {
                state.crashes -= 1;
                state.ended |= 1 << number;
                let client = &mut state.clients[who];
                (client.crashed, client.asks, client.log) = (true, None, Vec::new());
                self.forget_ended(&mut state);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what was promised is there", judge::promises),
            Property::always("a read was true", judge::reads),
            Property::always("no event without its change", judge::events_follow),
            Property::always(
                "at the end: one order explains all answers, nothing leaks, all is told",
                judge::ending,
            ),
        ]
    }
}
