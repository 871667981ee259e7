//! What a service manager hands over and is told: sockets, readiness, a sign of life. Source:
//! sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).

use std::time::Duration;

use sd_notify::NotifyState;

use crate::http::{Bound, Pulse, ServerError};
use crate::sys;

/// The name of the socket (`FileDescriptorName=`) that is `http.debug.addr`'s.
const DEBUG: &str = "debug";

/// Signs of life in each period of the watchdog.
const SIGNS: u32 = 3;

/// Sockets that are bound already.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) registry: Vec<Bound>,
    pub(crate) debug: Option<Bound>,
}

/// The sockets that were handed over, if any were. To be called once.
///
/// # Errors
/// [`ServerError::Given`] for what is no listening TCP socket.
pub(crate) fn sockets() -> Result<Sockets, ServerError> {
    let given = |error| ServerError::Given(format!("they cannot be taken over: {error}"));
    let mut sockets = Sockets::default();
    for (descriptor, name) in sd_notify::listen_fds_with_names().map_err(given)? {
        let bound = Bound::given(sys::take_over(descriptor), &name)?;
        match (&*name, &sockets.debug) {
            (DEBUG, None) => sockets.debug = Some(bound),
            (DEBUG, Some(_)) => {
                let why = "two of them are called debug: there is one http.debug.addr";
                return Err(ServerError::Given(why.to_owned()));
            }
            _ => sockets.registry.push(bound),
        }
    }
    Ok(sockets)
}

/// Requests are answered from now on.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// What is configured is being read again; [`ready`] ends it.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no clock"),
    }
}

/// No connection is taken any more.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// How often the workers are to show that they get on, if somebody watches them.
pub(crate) fn pulse() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|period| period / (SIGNS * 2))
}

/// Gives a sign of life for as long as every worker does.
pub(crate) async fn show_life(pulse: Pulse) {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    loop {
        tokio::time::sleep(period / SIGNS).await;
        if pulse.all_beat() {
            tell(&[NotifyState::Watchdog]);
        } else {
            tracing::warn!("a worker does not get on: the watchdog is not told that it does");
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager (NOTIFY_SOCKET) could not be told");
    }
}
