//! The clock that grace is measured by.
//!
//! Neither of the machine's clocks will do alone: the wall clock jumps (a step by NTP from 1970 to
//! today would end every grace at once), the monotonic one starts anew with each boot. This one
//! goes on from where the records last saw it, by the *lesser* of what the two say has passed. It
//! can only be late, and late means that something is kept longer.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// A point on the clock: milliseconds during which this store's collector was running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GcTime(u64);

impl GcTime {
    /// Later than every other.
    pub const MAX: Self = Self(i64::MAX as u64);

    pub fn from_millis(millis: u64) -> Self {
        Self(millis.min(Self::MAX.0))
    }

    pub fn as_millis(self) -> u64 {
        self.0
    }

    /// This point and `duration`, at most [`Self::MAX`].
    pub fn after(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self::from_millis(self.0.saturating_add(millis))
    }

    /// How long from `earlier` to here; zero if it is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for GcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

/// See the module.
#[derive(Debug)]
pub struct GcClock(Mutex<Reading>);

#[derive(Debug)]
struct Reading {
    now: Duration,
    monotonic: Instant,
    wall: SystemTime,
}

impl GcClock {
    /// A clock that goes on from `start`, where the records left it.
    pub fn starting_at(start: GcTime) -> Self {
        Self(Mutex::new(Reading {
            now: Duration::from_millis(start.0),
            monotonic: Instant::now(),
            wall: SystemTime::now(),
        }))
    }

    pub fn now(&self) -> GcTime {
        let mut reading = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        reading.advance(Instant::now(), SystemTime::now());
        GcTime::from_millis(u64::try_from(reading.now.as_millis()).unwrap_or(u64::MAX))
    }

    /// Lets time pass, for tests of grace that do not wait for it.
    pub fn advance(&self, by: Duration) {
        let mut reading = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        reading.now += by;
    }
}

impl Reading {
    fn advance(&mut self, monotonic: Instant, wall: SystemTime) {
        let by_monotonic = monotonic.saturating_duration_since(self.monotonic);
        let by_wall = wall.duration_since(self.wall).unwrap_or(Duration::ZERO);
        self.now += by_monotonic.min(by_wall);
        self.monotonic = monotonic;
        self.wall = wall;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advances_by_the_lesser_of_both_clocks() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let wall = SystemTime::UNIX_EPOCH;
        let mut reading = Reading { now: Duration::ZERO, monotonic: start, wall };
        for (monotonic, wall, want, what) in [
            (start + second, wall + second, second, "both"),
            (start + 2 * second, wall + 1000 * second, 2 * second, "the wall clock jumps ahead"),
            (start + 3 * second, wall, 2 * second, "the wall clock jumps back"),
            (start + 4 * second, wall + second, 3 * second, "and goes on from there"),
            (start + 4 * second, wall + 9 * second, 3 * second, "asleep"),
        ] {
            reading.advance(monotonic, wall);
            assert_eq!(reading.now, want, "{what}");
        }
    }

    #[test]
    fn goes_on_from_where_it_was() {
        let clock = GcClock::starting_at(GcTime::from_millis(5000));
        let first = clock.now();
        assert!(first >= GcTime::from_millis(5000));
        clock.advance(Duration::from_secs(60));
        assert!(clock.now().since(first) >= Duration::from_secs(60));
    }
}
