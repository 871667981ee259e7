//! Threads that read, each with a connection of its own. Not the async runtime's blocking pool:
//! that is shared with work that may take all of it, such as checking passwords.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::schema;
use crate::records::{RecordsError, Result};

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// See the module. The threads end when this is dropped.
pub(super) struct Readers {
    /// `None` once closed.
    queue: Mutex<Option<Sender<Job>>>,
}

impl Readers {
    pub(super) fn start(
        path: &Path,
        name: &str,
        threads: usize,
    ) -> Result<Self, schema::OpenError> {
        let (queue, receiver) = channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..threads {
            let mut connection = schema::open_reader(path)?;
            let receiver = Arc::clone(&receiver);
            std::thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
                while let Some(job) = next(&receiver) {
                    // A read that panics fails its own request and none of the next: the
                    // snapshot ends as the panic passes it.
                    let _ = catch_unwind(AssertUnwindSafe(|| job(&mut connection)));
                }
            })?;
        }
        Ok(Self { queue: Mutex::new(Some(queue)) })
    }

    /// Reads in one snapshot, the newest there is.
    pub(super) async fn read<T, F>(&self, read: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // One transaction, so that several statements see one state.
            let result = connection.transaction().and_then(|snapshot| read(&snapshot));
            // Whoever asked may be gone.
            let _ = reply.send(result);
        });
        {
            let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let queue = queue.as_ref().ok_or(RecordsError::Closed)?;
            queue.send(job).map_err(|_| RecordsError::Closed)?;
        }
        answer
            .await
            .map_err(|_| RecordsError::Failed("a read ended without an answer".into()))?
            .map_err(|error| RecordsError::Failed(error.to_string()))
    }

    /// Ends the threads after what is queued.
    pub(super) fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

fn next(receiver: &Mutex<Receiver<Job>>) -> Option<Job> {
    // Held while waiting: the others wait for the lock instead of the queue.
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}
