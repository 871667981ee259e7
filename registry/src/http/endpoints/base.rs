//! The support probe (end-1), and what is not the specification's: health and metrics.

use std::sync::atomic::Ordering;

use actix_web::http::StatusCode;
use actix_web::http::header;

use crate::http::Call;
use crate::http::body::Body;
use crate::http::respond::{Finish as _, Reply, reply};
use crate::http::route::Probe;
use crate::observe::{Form, Gauges};

/// What load balancers and charts probe.
pub(super) fn root() -> Reply {
    reply(StatusCode::OK).empty().into()
}

pub(super) fn base() -> Reply {
    reply(StatusCode::OK)
        .insert_header((header::CONTENT_TYPE, "application/json"))
        .message_body_or_500(Body::from("{}".to_owned()))
        .into()
}

/// What an endpoint knows, without doing any of it: browsers ask before a page of another origin may
/// do it, and never with credentials. The headers that let it are the operator's (`http.headers`).
pub(super) fn options(allowed: &str) -> Reply {
    reply(StatusCode::OK).insert_header((header::ALLOW, allowed)).empty().into()
}

/// Whether the process lives, and whether it should be sent work. Says no more than that: the
/// probes are open to everybody.
pub(super) fn health(call: &Call, probe: Probe) -> Reply {
    let (status, word) = match probe {
        Probe::Live => (StatusCode::OK, "ok"),
        Probe::Ready => match unready(call) {
            // Kubernetes' form of leaving a check out: pulls go on while writes fail.
            Some(Unready::ReadOnly | Unready::Failing)
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
    Failing,
}

impl Unready {
    fn word(&self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::ReadOnly => "read-only: a write to the disk failed",
            Self::Failing => "the last write to the records failed",
        }
    }
}

fn unready(call: &Call) -> Option<Unready> {
    if call.state.draining.load(Ordering::Acquire) {
        return Some(Unready::Draining);
    }
    if call.content().writes_refused().is_some() {
        return Some(Unready::ReadOnly);
    }
    call.content().is_failing().then_some(Unready::Failing)
}

/// The checks that fail, by name, as distribution tells them.
pub(super) fn checks(call: &Call) -> Reply {
    let (status, failing) = match unready(call) {
        None => (StatusCode::OK, serde_json::json!({})),
        Some(why @ Unready::Draining) => {
            (StatusCode::SERVICE_UNAVAILABLE, serde_json::json!({ "server": why.word() }))
        }
        Some(why @ (Unready::ReadOnly | Unready::Failing)) => {
            (StatusCode::SERVICE_UNAVAILABLE, serde_json::json!({ "storagedriver": why.word() }))
        }
    };
    reply(status)
        .insert_header((header::CONTENT_TYPE, "application/json"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .message_body_or_500(Body::from(failing.to_string()))
        .into()
}

pub(super) async fn metrics(call: &Call) -> Reply {
    let state = &call.state;
    let records = state.content.records();
    let form = Form::accepted(call.header(header::ACCEPT).unwrap_or_default());
    let figures = state.content.store().figures();
    let totals = async { records.totals().await.map(Option::unwrap_or_default) };
    let gauges = Gauges {
        uploads_active: figures.uploads,
        disk_free_bytes: figures.free_bytes,
        disk_capacity_bytes: figures.capacity_bytes,
        writable: state.content.writes_refused().is_none(),
        waiting: state.waiting.get(records.waiting()).await,
        totals: state.totals.get(totals).await,
    };
    reply(StatusCode::OK)
        .insert_header((header::CONTENT_TYPE, form.content_type()))
        .insert_header((header::VARY, "Accept"))
        .message_body_or_500(Body::from(state.metrics.encode(gauges, form)))
        .into()
}
