//! HTTP, the only folder that names actix. A request's way: [`route::Route::parse`],
//! [`authorize::authorize`], [`endpoints::perform`].

mod authorize;
mod body;
mod connection;
pub(crate) mod edge;
mod endpoints;
mod error;
mod in_flight;
mod incoming;
mod paging;
mod range;
mod respond;
mod route;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix_http::{HttpMessage as _, Request};
use actix_web::HttpResponse;
use actix_web::http::header::{
    self, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, USER_AGENT, X_CONTENT_TYPE_OPTIONS,
};

use crate::auth::{Accounts, Rules};
use crate::content::Content;
use crate::failpoint::fail_point;
use crate::observe::{Counted, Exchange, Metrics};
use crate::records::{Totals, Waiting};
use body::Body;
use connection::Direct;
use error::ApiError;
use in_flight::InFlight;
use incoming::Incoming;
use respond::{API_VERSION, Reply};
use route::Route;

pub use server::{Bound, Limits, Pulse, Server, ServerError};

/// What every request can reach. Shared by all workers.
#[derive(Debug)]
pub struct State {
    content: Content,
    /// Who is let in; `None`: everybody.
    accounts: Option<Arc<Accounts>>,
    /// What they may do; `None`: everything.
    rules: Option<Rules>,
    metrics: Arc<Metrics>,
    settings: Settings,
    /// Clients come by TLS.
    tls: bool,
    draining: AtomicBool,
    requests: AtomicU64,
    /// Makes request ids of different processes differ.
    process: u32,
    /// How much is stored.
    totals: Counted<Totals>,
    /// What waits for collection.
    waiting: Counted<Waiting>,
    /// Manifests that are being sent.
    manifests: InFlight,
}

/// How old the count of what is stored may be: it reads every index once.
const TOTALS_AGE: Duration = Duration::from_secs(60);

/// The same of what waits for collection: it reads the whole queue, which clients can make long.
const WAITING_AGE: Duration = Duration::from_secs(10);

/// What the configuration says about answers.
#[derive(Clone, Debug)]
pub struct Settings {
    /// One log line per request.
    pub access_log: bool,
    /// Headers on every answer (`http.headers`).
    pub headers: Vec<(String, String)>,
    /// The public address (`http.host`), for absolute `Location`s.
    pub host: Option<String>,
    /// `Location`s without scheme and host, which work behind any proxy (`http.relativeurls`). If
    /// not, those of `host`, else those of the request.
    pub relative_urls: bool,
    /// What `http.debug` says, if it has an address.
    pub debug: Option<Debug>,
    /// Most entries of a catalog page (`catalog.maxentries`).
    pub catalog_max: usize,
    /// Most tags of a page (`tags.maxtags`).
    pub tags_max: usize,
    /// Bytes of manifests that are being sent, together (`limits.manifests`).
    pub manifests_bytes: usize,
}

/// The second listener (`http.debug`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debug {
    /// `host:port`.
    pub addr: String,
    /// Where the metrics are; `None`: nowhere.
    pub metrics: Option<String>,
}

/// Which listener a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listener {
    Registry,
    Debug,
}

/// Whether `name: value` can be sent as a header.
pub(crate) fn is_header(name: &str, value: &str) -> bool {
    HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok()
}

impl State {
    /// `tls`: clients come by TLS.
    pub fn new(
        content: Content,
        accounts: Option<Arc<Accounts>>,
        rules: Option<Rules>,
        metrics: Arc<Metrics>,
        settings: Settings,
        tls: bool,
    ) -> Self {
        Self {
            content,
            accounts,
            rules,
            metrics,
            tls,
            draining: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            process: std::process::id() ^ started_nanos(),
            totals: Counted::every(TOTALS_AGE),
            waiting: Counted::every(WAITING_AGE),
            manifests: InFlight::new(settings.manifests_bytes),
            settings,
        }
    }

    /// From now on the readiness probe fails, so that no new work is sent here.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub fn content(&self) -> &Content {
        &self.content
    }

    pub fn accounts(&self) -> Option<&Accounts> {
        self.accounts.as_deref()
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What a request names.
    fn route(&self, listener: Listener, path: &str) -> Route {
        match (listener, &self.settings.debug) {
            (Listener::Registry, None) => Route::parse(path),
            (Listener::Registry, Some(_)) => match Route::parse(path) {
                Route::Metrics | Route::Checks => Route::Unknown,
                route => route,
            },
            (Listener::Debug, debug) => {
                let metrics = debug.as_ref().and_then(|debug| debug.metrics.as_deref());
                Route::parse_debug(path, metrics)
            }
        }
    }

    /// A name for a request: the client's own if it sent a sensible one.
    fn request_id(&self, req: &Request) -> Arc<str> {
        let own = req.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok());
        let sensible = |id: &&str| {
            (1..=REQUEST_ID_BYTES).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        match own.filter(sensible) {
            Some(id) => id.into(),
            None => {
                let count = self.requests.fetch_add(1, Ordering::Relaxed);
                format!("{:08x}{count:08x}", self.process).into()
            }
        }
    }
}

fn started_nanos() -> u32 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos())
}

/// What is stored here came from strangers: a browser is to run none of it.
const UNTRUSTED: [(HeaderName, &str); 2] =
    [(X_CONTENT_TYPE_OPTIONS, "nosniff"), (CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox")];

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id taken from a client.
const REQUEST_ID_BYTES: usize = 64;

/// The status in logs and metrics of a request whose connection broke before there was an answer;
/// nginx uses it so.
const CLIENT_GONE: u16 = 499;

/// Longest part of a client's text that is logged.
const LOGGED_BYTES: usize = 256;

/// A request on its way to its endpoint.
struct Call {
    state: Arc<State>,
    listener: Listener,
    req: Request,
}

impl Call {
    /// A header's text; `None` when it is absent or not ASCII.
    fn header(&self, name: impl actix_web::http::header::AsHeaderName) -> Option<&str> {
        self.req.headers().get(name)?.to_str().ok()
    }

    fn content(&self) -> &Content {
        &self.state.content
    }

    /// The values of a query parameter, in order, percent-decoded.
    fn query(&self, name: &str) -> Vec<String> {
        paging::query_values(self.req.uri().query().unwrap_or_default(), name)
    }

    /// The first value of a query parameter.
    fn query_first(&self, name: &str) -> Option<String> {
        self.query(name).into_iter().next()
    }

    /// A `Location` or `Link` target.
    fn url(&self, path: &str) -> String {
        let settings = &self.state.settings;
        match (&settings.host, self.host()) {
            _ if settings.relative_urls => path.to_owned(),
            (Some(host), _) => format!("{}{path}", host.trim_end_matches('/')),
            (None, Some(host)) => format!("{}://{host}{path}", self.scheme()),
            (None, None) => path.to_owned(),
        }
    }

    /// How the client reaches this registry. A proxy that ends TLS may say so, and so may anybody
    /// else: that raises the scheme, and never lowers it.
    fn scheme(&self) -> &'static str {
        let forwarded = self.header("x-forwarded-proto").and_then(|list| list.split(',').next());
        let raised = forwarded.is_some_and(|proto| proto.trim().eq_ignore_ascii_case("https"));
        if self.state.tls || raised { "https" } else { "http" }
    }

    /// The host that the client named, if it named one that is one.
    fn host(&self) -> Option<&str> {
        let mut named = self.req.headers().get_all(header::HOST);
        let (only, None) = (named.next()?, named.next()) else { return None };
        only.to_str().ok().filter(|host| route::is_host(host))
    }
}

/// Answers any request.
async fn dispatch(
    state: Arc<State>,
    listener: Listener,
    req: Request,
    body: Option<Direct>,
) -> HttpResponse<Body> {
    let started = Instant::now();
    let route = state.route(listener, req.uri().path());
    let id = state.request_id(&req);
    let received = Arc::new(AtomicU64::new(0));
    let mut exchange = Box::new(Exchange {
        id: Arc::clone(&id),
        method: clip(req.method().as_str()),
        handler: route.handler(),
        path: clip(req.uri().path()),
        repository: route.repository().map(clip),
        reference: route.reference().map(clip),
        // A socket of both families shows `::ffff:10.0.0.1` where everybody writes 10.0.0.1.
        remote: req.peer_addr().map(|address| address.ip().to_canonical()),
        user_agent: req.headers().get(USER_AGENT).and_then(|value| value.to_str().ok()).map(clip),
        started,
        status: CLIENT_GONE,
        error_code: None,
        received: Arc::clone(&received),
        sent: 0,
        access_log: state.settings.access_log && !matches!(route, Route::Health(_) | Route::Checks),
        metrics: Arc::clone(&state.metrics),
    });
    state.metrics.begin(exchange.handler);
    let v2 = req.uri().path().trim_start_matches('/').starts_with("v2");
    let incoming = Incoming::new(body, received);
    let call = Call { state: Arc::clone(&state), listener, req };
    let answered = match answer(&call, route, incoming).await {
        Ok(reply) => reply,
        Err(error) => error.into_reply(),
    };
    exchange.status = answered.response.status().as_u16();
    exchange.error_code = answered.code;
    let mut response = answered.response;
    let headers = response.headers_mut();
    if v2 {
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    }
    headers.insert(REQUEST_ID, respond::text_value(&id));
    let configured = state.settings.headers.iter().filter_map(|(name, value)| {
        Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
    });
    for (name, value) in configured.clone() {
        headers.append(name, value);
    }
    for (name, value) in UNTRUSTED {
        // Whoever configures one of them knows better.
        let left_out = fail_point!("untrusted", off);
        if !left_out && configured.clone().all(|(other, _)| other != name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    response.map_body(|_, body| body.logged(exchange))
}

/// Whether a path is asked by those who watch over the server.
fn is_probe(path: &str) -> bool {
    matches!(Route::parse(path), Route::Health(_))
}

fn clip(text: &str) -> String {
    match text.char_indices().nth(LOGGED_BYTES) {
        Some((end, _)) => text[..end].to_owned(),
        None => text.to_owned(),
    }
}

async fn answer(call: &Call, route: Route, body: Incoming) -> Result<Reply, ApiError> {
    let task = authorize::authorize(call, route).await?;
    endpoints::perform(call, task, body).await
}
