//! A value that takes long to count and that anybody may ask for.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::failpoint::fail_point;

/// Counted by one asker at a time, and no oftener than every so often; everybody else gets what was
/// counted last.
#[derive(Debug)]
pub struct Counted<T> {
    age: Duration,
    last: Mutex<Option<(Instant, T)>>,
    counting: tokio::sync::Mutex<()>,
}

impl<T: Copy> Counted<T> {
    /// A count that is used for `age`.
    pub fn every(age: Duration) -> Self {
        Self { age, last: Mutex::default(), counting: tokio::sync::Mutex::default() }
    }

    /// The value, from `count` if it is too old and nobody else counts already. A count that fails
    /// leaves what was known, which at first is `T::default()`.
    pub async fn get<E>(&self, count: impl Future<Output = Result<T, E>>) -> T
    where
        T: Default,
    {
        if fail_point!("counted", off) {
            return count.await.unwrap_or_default();
        }
        let known = self.known();
        let _turn = match known {
            Some((counted, value)) if counted.elapsed() < self.age => return value,
            Some((_, value)) => match self.counting.try_lock() {
                Ok(turn) => turn,
                Err(_) => return value,
            },
            // Nothing is known yet: the first count is waited for.
            None => self.counting.lock().await,
        };
        if let Some((counted, value)) = self.known()
            && counted.elapsed() < self.age
        {
            return value;
        }
        let value = match count.await {
            Ok(value) => value,
            Err(_) => known.map_or_else(T::default, |(_, value)| value),
        };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), value));
        value
    }

    fn known(&self) -> Option<(Instant, T)> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn many_askers_count_once_and_again_when_it_is_old() {
        let (counts, age) = (AtomicU64::new(0), Duration::from_millis(200));
        let counted = Counted::every(age);
        let count = || async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok::<u64, ()>(counts.fetch_add(1, Ordering::Relaxed) + 1)
        };
        let asked = join_all((0..16).map(|_| counted.get(count()))).await;
        assert_eq!(asked, [1; 16]);
        tokio::time::sleep(age).await;
        // Whoever asks while it is counted gets the old value at once.
        let asked = join_all((0..16).map(|_| counted.get(count()))).await;
        assert_eq!((asked[0], &asked[1..]), (2, &[1; 15][..]));
        assert_eq!(counted.get(count()).await, 2);
    }

    #[tokio::test]
    async fn a_count_that_fails_is_not_repeated_at_once() {
        let counted = Counted::<u64>::every(Duration::from_secs(60));
        assert_eq!(counted.get(async { Err(()) }).await, 0);
        assert_eq!(counted.get(async { Ok::<u64, ()>(7) }).await, 0);
    }
}
