//! Comparing passwords with bcrypt, so that nobody else pays for it: on threads of its own, in a
//! queue that is fair to addresses, once for equal questions, and not at all for what was right a
//! moment ago.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::{hmac, rand};
use tokio::sync::oneshot;

use super::Htpasswd;
use crate::failpoint::fail_point;

/// Questions that wait at most, of one address and of all.
const WAITING_EACH: usize = 16;
const WAITING_ALL: usize = 256;

/// How long a question waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pairs that were right, and for how long they are remembered.
const REMEMBERED_MAX: usize = 4096;
const REMEMBERED: Duration = Duration::from_secs(600);

/// Wrong passwords of one name from one network at once, and time until there may be one more.
const GUESSES: f64 = 10.0;
const GUESS_EACH: Duration = Duration::from_secs(6);

/// Names and networks whose guesses are counted.
const GUESSERS_MAX: usize = 65_536;

/// How much these threads leave the processors to others. Source: setpriority(2).
const NICE: i32 = 10;

/// Too many wait: try again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

type Mac = [u8; 32];

/// Whom the queue is fair to: an IPv4 address, or a network of IPv6, which one client has whole.
type Network = u128;

#[derive(Debug)]
struct Question {
    mac: Mac,
    hash: Arc<str>,
    password: Vec<u8>,
}

#[derive(Debug, Default)]
struct Queue {
    of: HashMap<Network, VecDeque<Question>>,
    turns: VecDeque<Network>,
    waiting: usize,
    asking: HashMap<Mac, Vec<oneshot::Sender<bool>>>,
    remembered: HashMap<Mac, Instant>,
    guesses: HashMap<Mac, (f64, Instant)>,
    ended: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Checker {
    key: hmac::Key,
    shared: Arc<(Mutex<Queue>, Condvar)>,
}

impl Checker {
    pub(super) fn start() -> io::Result<Self> {
        let mut key = [0; 32];
        rand::fill(&mut key).map_err(|_| io::Error::other("no random bytes"))?;
        let shared: Arc<(Mutex<Queue>, Condvar)> = Arc::default();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..(processors / 2).max(1) {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("password".into()).spawn(move || work(&shared))?;
        }
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key), shared })
    }

    fn mac(&self, parts: [&[u8]; 2]) -> Mac {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(parts[0]);
        context.update(&[0]);
        context.update(parts[1]);
        let tag = context.sign();
        let mut mac = [0; 32];
        mac.copy_from_slice(tag.as_ref());
        mac
    }

    /// Whether it is the password of `name`, which `from` says.
    pub(super) async fn check(
        &self,
        users: &Htpasswd,
        name: &str,
        password: &[u8],
        from: Option<IpAddr>,
    ) -> Result<bool, Busy> {
        let network = network(from);
        let pick = self.mac([b"name", name.as_bytes()]);
        let known = users.hash_of(name).cloned();
        let first = u64::from_ne_bytes([
            pick[0], pick[1], pick[2], pick[3], pick[4], pick[5], pick[6], pick[7],
        ]);
        let hash = known.clone().unwrap_or_else(|| users.any_hash(first));
        let mac = self.mac([hash.as_bytes(), password]);
        let guesser = self.mac([&pick, &network.to_be_bytes()]);
        let answer = {
            let mut queue = lock(&self.shared.0);
            let now = Instant::now();
            let right = queue.remembered.get(&mac).is_some_and(|until| *until > now);
            if right && known.is_some() {
                return Ok(true);
            }
            if !queue.guess(guesser, now) {
                return Ok(false);
            }
            match queue.ask(network, Question { mac, hash, password: password.to_vec() }) {
                Ok(answer) => answer,
                Err(busy) => {
                    queue.unguess(&guesser);
                    return Err(busy);
                }
            }
        };
        self.shared.1.notify_one();
        let right = match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(right)) => right && known.is_some(),
            _ => {
                lock(&self.shared.0).unguess(&guesser);
                return Err(Busy);
            }
        };
        if right {
            lock(&self.shared.0).unguess(&guesser);
        }
        Ok(right)
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        lock(&self.shared.0).ended = true;
        self.shared.1.notify_all();
    }
}

impl Queue {
    /// Whether another password may be tried.
    fn guess(&mut self, guesser: Mac, now: Instant) -> bool {
        if self.guesses.len() >= GUESSERS_MAX {
            let full = GUESS_EACH.mul_f64(GUESSES);
            self.guesses.retain(|_, (_, at)| now.duration_since(*at) < full);
            // Whoever filled it in less than a minute is not kept from going on; nobody else is
            // kept out either.
            if self.guesses.len() >= GUESSERS_MAX {
                self.guesses.clear();
            }
        }
        let (left, at) = self.guesses.entry(guesser).or_insert((GUESSES, now));
        let more = now.duration_since(*at).as_secs_f64() / GUESS_EACH.as_secs_f64();
        (*left, *at) = ((*left + more).min(GUESSES), now);
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        true
    }

    /// It was none, or was not looked at.
    fn unguess(&mut self, guesser: &Mac) {
        if let Some((left, _)) = self.guesses.get_mut(guesser) {
            *left = (*left + 1.0).min(GUESSES);
        }
    }

    fn ask(&mut self, from: Network, question: Question) -> Result<oneshot::Receiver<bool>, Busy> {
        let (tell, answer) = oneshot::channel();
        if let Some(asking) = self.asking.get_mut(&question.mac) {
            asking.push(tell);
            return Ok(answer);
        }
        let own = self.of.get(&from).map_or(0, VecDeque::len);
        if own >= WAITING_EACH || self.waiting >= WAITING_ALL {
            return Err(Busy);
        }
        if own == 0 {
            self.turns.push_back(from);
        }
        self.asking.insert(question.mac, vec![tell]);
        self.of.entry(from).or_default().push_back(question);
        self.waiting += 1;
        Ok(answer)
    }

    /// The next question, of the address whose turn it is.
    fn next(&mut self) -> Option<Question> {
        let from = self.turns.pop_front()?;
        let own = self.of.get_mut(&from)?;
        let question = own.pop_front();
        if own.is_empty() {
            self.of.remove(&from);
        } else {
            self.turns.push_back(from);
        }
        self.waiting -= usize::from(question.is_some());
        question
    }

    fn remember(&mut self, mac: Mac) {
        let now = Instant::now();
        if self.remembered.len() >= REMEMBERED_MAX {
            self.remembered.retain(|_, until| *until > now);
        }
        if self.remembered.len() >= REMEMBERED_MAX {
            self.remembered.clear();
        }
        self.remembered.insert(mac, now + REMEMBERED);
    }
}

fn work(shared: &(Mutex<Queue>, Condvar)) {
    // Of this thread alone. That it cannot be is no reason not to work.
    let _ = rustix::process::setpriority_process(None, NICE);
    loop {
        let mut queue = lock(&shared.0);
        let question = loop {
            if queue.ended {
                return;
            }
            match queue.next() {
                Some(question) => break question,
                None => queue = shared.1.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        };
        // Nobody waits for it any more.
        let gone = |asking: &Vec<oneshot::Sender<bool>>| asking.iter().all(|tell| tell.is_closed());
        if queue.asking.get(&question.mac).is_none_or(gone) {
            queue.asking.remove(&question.mac);
            continue;
        }
        drop(queue);
        let right = bcrypt::verify(&question.password, &question.hash).unwrap_or(false);
        let mut queue = lock(&shared.0);
        if right && !fail_point!("remember-passwords", off) {
            queue.remember(question.mac);
        }
        for tell in queue.asking.remove(&question.mac).into_iter().flatten() {
            let _ = tell.send(right);
        }
    }
}

fn network(from: Option<IpAddr>) -> Network {
    match from.map(|address| address.to_canonical()) {
        None => 0,
        Some(IpAddr::V4(address)) => u128::from(u32::from(address)) | 1 << 127,
        Some(IpAddr::V6(address)) => u128::from(address) >> 64,
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(byte: u8) -> Question {
        Question { mac: [byte; 32], hash: "".into(), password: Vec::new() }
    }

    #[test]
    fn addresses_take_turns_and_have_places_of_their_own() {
        let mut queue = Queue::default();
        let many: Vec<_> = (0..20).map(|byte| queue.ask(1, question(byte))).collect();
        assert_eq!(many.iter().filter(|answer| answer.is_ok()).count(), WAITING_EACH);
        let other = queue.ask(2, question(100));
        assert!(other.is_ok());
        // Equal questions are asked once, whoever asks.
        let same = queue.ask(3, question(100));
        assert!(same.is_ok());
        assert_eq!(queue.waiting, WAITING_EACH + 1);
        let order: Vec<_> = std::iter::from_fn(|| queue.next()).map(|next| next.mac[0]).collect();
        assert_eq!(order[..3], [0, 100, 1]);
        assert_eq!((order.len(), queue.waiting, queue.of.len()), (WAITING_EACH + 1, 0, 0));
    }

    #[test]
    fn guesses_come_back_with_time() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let tried = (0..15).filter(|_| queue.guess([1; 32], now)).count();
        assert_eq!(tried, 10);
        assert!(queue.guess([2; 32], now));
        assert!(!queue.guess([1; 32], now + GUESS_EACH / 2));
        assert!(queue.guess([1; 32], now + GUESS_EACH));
        queue.unguess(&[1; 32]);
        assert!(queue.guess([1; 32], now + GUESS_EACH));
    }
}
