//! The pool for calls that block.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::failpoint::fail_point;

/// A task of ours died.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Died;

/// Threads of one worker's pool that may wait for the disk at once. The others are left to those who
/// read: a disk that takes seconds for a sync must not hold up what is in memory.
const SLOW_MAX: usize = 32;

/// The same as [`blocking`] for what may take long: writing, syncing, large manifests.
pub(crate) async fn slow<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Died> {
    // One per worker, as the pool is.
    thread_local! {
        static PLACES: Arc<Semaphore> = Arc::new(Semaphore::new(SLOW_MAX));
    }
    if fail_point!("slow-places", off) {
        return blocking(work).await;
    }
    let places = PLACES.with(Arc::clone);
    let place = places.acquire_owned().await.map_err(|_| Died)?;
    blocking(move || {
        let _place = place;
        work()
    })
    .await
}

/// Runs `work` on the pool for blocking calls.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Died> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Died)
}

/// Runs `work` as a task of its own, so that a client that hangs up cannot stop it half way.
pub(crate) async fn run_to_end<T: Send + 'static, E: From<Died> + Send + 'static>(
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E> {
    tokio::spawn(work).await.map_err(|_| Died)?
}
