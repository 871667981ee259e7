//! The support probe (end-1), and what is not the specification's: health and metrics.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::http::header;

use super::body::Body;
use super::respond::{Finish as _, Reply, reply};
use super::route::Probe;
use super::{Call, State};
use crate::observe::Gauges;
use crate::records::Totals;

pub(super) fn base() -> Reply {
    reply(StatusCode::OK)
        .insert_header((header::CONTENT_TYPE, "application/json"))
        .message_body_or_500(Body::from("{}".to_owned()))
        .into()
}

/// Whether the process lives, and whether it should be sent work. Says no more than that: the
/// probes are open to everybody.
pub(super) fn health(call: &Call, probe: Probe) -> Reply {
    let state = &call.state;
    let (status, word) = match probe {
        Probe::Live => (StatusCode::OK, "ok"),
        Probe::Ready if state.draining.load(Ordering::Acquire) => {
            (StatusCode::SERVICE_UNAVAILABLE, "draining")
        }
        Probe::Ready if state.content.writes_refused().is_some() => {
            (StatusCode::SERVICE_UNAVAILABLE, "read-only: a write to the disk failed")
        }
        Probe::Ready => (StatusCode::OK, "ok"),
    };
    reply(status)
        .insert_header((header::CONTENT_TYPE, "text/plain; charset=utf-8"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .message_body_or_500(Body::from(format!("{word}\n")))
        .into()
}

/// How old the count of what is stored may be: it reads every index once.
const TOTALS_AGE: Duration = Duration::from_secs(60);

/// How much is stored.
async fn totals(state: &State) -> Totals {
    let remembered = *state.totals.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((counted, totals)) = remembered
        && counted.elapsed() < TOTALS_AGE
    {
        return totals;
    }
    let totals = state.content.records().totals().await.unwrap_or_default();
    *state.totals.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), totals));
    totals
}

pub(super) async fn metrics(call: &Call) -> Reply {
    let state = &call.state;
    let waiting = state.content.records().waiting().await.unwrap_or_default();
    let text = state.metrics.encode(Gauges {
        uploads_active: state.content.open_uploads(),
        disk_free_bytes: state.content.disk().free_bytes().unwrap_or(0),
        writable: state.content.writes_refused().is_none(),
        waiting,
        totals: totals(state).await,
    });
    reply(StatusCode::OK)
        .insert_header((
            header::CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ))
        .message_body_or_500(Body::from(text))
        .into()
}
