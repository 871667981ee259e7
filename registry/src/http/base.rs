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
use crate::observe::{Form, Gauges};
use crate::records::Totals;

pub(super) fn base() -> Reply {
    reply(StatusCode::OK)
        .insert_header((header::CONTENT_TYPE, "application/json"))
        .message_body_or_500(Body::from("{}".to_owned()))
        .into()
}

/// What an endpoint knows, without doing any of it: browsers ask before a page of another origin may
/// do it, and never with credentials. The headers that let it are the operator's (`http.headers`).
pub(super) fn options(allowed: &'static str) -> Reply {
    reply(StatusCode::OK).insert_header((header::ALLOW, allowed)).empty().into()
}

/// Whether the process lives, and whether it should be sent work. Says no more than that: the
/// probes are open to everybody.
pub(super) fn health(call: &Call, probe: Probe) -> Reply {
    let (status, word) = match probe {
        Probe::Live => (StatusCode::OK, "ok"),
        Probe::Ready => match unready(call) {
            // Kubernetes' form of leaving a check out: pulls go on while writes fail.
            Some(Unready::ReadOnly)
                if call.query("exclude").iter().any(|name| name == "writes") =>
            {
                (StatusCode::OK, "ok")
            }
            Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why.word()),
            None => (StatusCode::OK, "ok"),
        },
    };
    reply(status)
        .insert_header((header::CONTENT_TYPE, "text/plain; charset=utf-8"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .message_body_or_500(Body::from(format!("{word}\n")))
        .into()
}

/// Why no work should be sent here.
enum Unready {
    Draining,
    ReadOnly,
}

impl Unready {
    fn word(&self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::ReadOnly => "read-only: a write to the disk failed",
        }
    }
}

fn unready(call: &Call) -> Option<Unready> {
    if call.state.draining.load(Ordering::Acquire) {
        return Some(Unready::Draining);
    }
    call.content().writes_refused().map(|_| Unready::ReadOnly)
}

/// The checks that fail, by name, as distribution tells them.
pub(super) fn checks(call: &Call) -> Reply {
    let (status, failing) = match unready(call) {
        None => (StatusCode::OK, serde_json::json!({})),
        Some(why @ Unready::Draining) => {
            (StatusCode::SERVICE_UNAVAILABLE, serde_json::json!({ "server": why.word() }))
        }
        Some(why @ Unready::ReadOnly) => {
            (StatusCode::SERVICE_UNAVAILABLE, serde_json::json!({ "storagedriver": why.word() }))
        }
    };
    reply(status)
        .insert_header((header::CONTENT_TYPE, "application/json"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .message_body_or_500(Body::from(failing.to_string()))
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
    let form = Form::accepted(call.header(header::ACCEPT).unwrap_or_default());
    let gauges = Gauges {
        uploads_active: state.content.open_uploads(),
        disk_free_bytes: state.content.disk().free_bytes().unwrap_or(0),
        writable: state.content.writes_refused().is_none(),
        waiting,
        totals: totals(state).await,
    };
    reply(StatusCode::OK)
        .insert_header((header::CONTENT_TYPE, form.content_type()))
        .insert_header((header::VARY, "Accept"))
        .message_body_or_500(Body::from(state.metrics.encode(gauges, form)))
        .into()
}
