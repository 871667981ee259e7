//! The one timer of a connection.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Poll, ready};

use tokio::time::{Instant, sleep_until};

use super::{Link, State};
use crate::failpoint::fail_point;
use crate::http::server::Limits;

/// Runs a connection until it has ended or stood still for too long in its state.
///
/// The timer is set to an earlier time when a state ends before it, and looked at when it is over:
/// on a connection that is used it is hardly ever touched.
pub(super) async fn watched(
    link: &Link,
    limits: &Limits,
    mut connection: Pin<&mut impl Future<Output = ()>>,
) {
    let mut timer = pin!(sleep_until(link.end(limits)));
    poll_fn(|cx| {
        link.wake_later(cx);
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        loop {
            if link.is_over() {
                return Poll::Ready(());
            }
            if fail_point!("connection-timer", off) {
                return Poll::Pending;
            }
            let end = link.end(limits);
            if end < timer.deadline() {
                timer.as_mut().reset(end);
            }
            ready!(timer.as_mut().poll(cx));
            let late = end <= Instant::now() && !link.went_on();
            // The handler of a body has the word: it keeps what arrived, and answers.
            if late && !(link.state() == State::Receiving && link.tell_late()) {
                return Poll::Ready(());
            }
            timer.as_mut().reset(link.end(limits));
        }
    })
    .await;
}
