//! Waiting for a condition, with a deadline: nothing here sleeps and hopes.

use std::time::{Duration, Instant};

use anyhow::bail;

/// Calls `probe` until it gives a value, at most for `limit`.
///
/// # Errors
/// When the time is up, naming `what` was waited for; or the first error of the probe.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("waited {limit:?} for {what}");
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
