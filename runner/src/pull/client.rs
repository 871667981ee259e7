//! Speaking to one registry about one repository.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use shared::error_code::ErrorBody;
use shared::{ImageRef, media_type};

use super::certificates::Certificates;
use super::challenge::{Bearer, Challenge, challenge};
use super::error::Known;
use super::fence::{self, Fence, Fenced, Reach, Sieve};
use super::{PullError, PullOptions};
use crate::credentials::{Credentials, Keyring, Secret};
use crate::known_bad::left_out;

/// Manifests, and answers that are read whole: whatever the registry stores can be pulled.
pub(crate) const MANIFEST_BYTES_MAX: u64 = shared::manifest::BYTES_MAX as u64;
/// Of a thousand tags each: no repository that somebody pulls whole has so many.
const TAG_PAGES_MAX: usize = 100;
const TOKEN_BYTES_MAX: u64 = 1 << 20;
const REDIRECTS_MAX: usize = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Nothing arrives for so long: the connection is dead. No limit on the whole, layers are large.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Port 0 stands for the one in the URL.
const LOOPBACK: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0),
];

/// Where Docker Hub's API is.
const DOCKER_HUB: &str = "registry-1.docker.io";

pub(crate) struct Client {
    /// To the registry itself.
    http: reqwest::Client,
    /// Of the registry's own; they count for what it leads to as well.
    authorities: Vec<reqwest::Certificate>,
    verified: bool,
    /// To where somebody led, by host and port and how near that may be: a connection that one could
    /// lead to is none for another. A certificate of ours for the registry is not shown to them, and
    /// theirs are checked also where the registry's need not be.
    elsewhere: Mutex<HashMap<(String, Reach), reqwest::Client>>,
    image: ImageRef,
    /// Schemes to try, in order, and the one that answered.
    schemes: Vec<&'static str>,
    fence: Fence,
    settled: OnceLock<&'static str>,
    /// Whoever reads on the way may see what is sent to the registry: the person said so.
    insecure: bool,
    keyring: Keyring,
    /// Whoever we are to this registry, once it has asked.
    credentials: OnceLock<Option<Credentials>>,
    /// The `Authorization` of requests to the registry.
    authorization: Mutex<Option<HeaderValue>>,
}

/// What a registry said to who wanted to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Login {
    Proven,
    /// It asks nobody who he is.
    NotAsked,
}

/// An answer of `tags/list`. Registries say `null` for none.
#[derive(serde::Deserialize)]
struct Tags {
    #[serde(default, deserialize_with = "or_none")]
    tags: Vec<String>,
}

fn or_none<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let tags: Option<Vec<String>> = serde::Deserialize::deserialize(from)?;
    Ok(tags.unwrap_or_default())
}

/// A request that did not get an answer worth reading.
enum Failed {
    /// The next scheme may do better.
    Transport(reqwest::Error),
    Final(PullError),
}

/// An answer, and how near whoever gave it may lead.
struct Answer {
    response: Response,
    limit: Reach,
}

/// How one host is spoken to.
struct Connection<'a> {
    host: &'a str,
    loopback: bool,
    verified: bool,
}

impl Connection<'_> {
    fn open(
        &self,
        resolver: Option<Sieve>,
        authorities: Vec<reqwest::Certificate>,
        identity: Option<reqwest::Identity>,
    ) -> reqwest::Result<reqwest::Client> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("rrun/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT);
        if let Some(resolver) = resolver {
            builder = builder.dns_resolver(resolver);
        }
        if self.loopback {
            // RFC 6761, 6.3: `localhost` is the loopback, whatever a resolver or a missing
            // /etc/hosts says; plain HTTP without a question depends on that.
            builder = builder.no_proxy().resolve_to_addrs(self.host, &LOOPBACK);
        }
        if self.loopback || !self.verified {
            // A certificate for `localhost` proves nothing that the address does not.
            builder = builder.tls_danger_accept_invalid_certs(true);
        } else {
            builder = builder.tls_certs_merge(authorities);
        }
        if let Some(identity) = identity {
            builder = builder.identity(identity);
        }
        builder.build()
    }
}

impl Client {
    pub(crate) fn new(image: &ImageRef, options: &PullOptions) -> Result<Self, PullError> {
        let loopback = image.is_loopback();
        let schemes = match (options.plain_http, loopback, options.tls_verify) {
            (true, ..) => vec!["http"],
            (_, true, _) => vec!["http", "https"],
            (_, _, false) => vec!["https", "http"],
            _ => vec!["https"],
        };
        let certificates = Certificates::of(&image.registry)?;
        let own = Connection {
            host: image.registry.split(':').next().unwrap_or_default(),
            loopback,
            verified: options.tls_verify,
        };
        let http = own.open(None, certificates.authorities.clone(), certificates.identity);
        let http = http.map_err(|error| PullError::Protocol {
            image: image.to_string(),
            registry: image.registry.clone(),
            why: format!("cannot be spoken to: {}", causes(&error)),
        })?;
        Ok(Self {
            http,
            authorities: certificates.authorities,
            verified: options.tls_verify,
            elsewhere: Mutex::default(),
            image: image.clone(),
            schemes,
            fence: Fence::from_environment(),
            settled: OnceLock::new(),
            insecure: options.plain_http || !options.tls_verify,
            keyring: Keyring::new(&options.credentials),
            credentials: OnceLock::new(),
            authorization: Mutex::new(None),
        })
    }

    pub(crate) fn image(&self) -> &ImageRef {
        &self.image
    }

    /// One request below the repository (`manifests/latest`): logged in where the registry asks for
    /// it, redirects followed. Answers 2xx, 206 and 416; the rest are errors.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
    ) -> Result<Response, PullError> {
        let path = format!("{}/{path}", self.image.repository);
        let answer = self.send_any(&method, &path, &headers).await?;
        let scope = format!("repository:{}:pull", self.image.repository);
        let Some(challenge) = asked(&answer.response) else {
            return self.checked(answer.response).await;
        };
        if !self.authorize(&challenge, Some(&scope), answer.limit).await? {
            return self.checked(answer.response).await;
        }
        let Answer { response, .. } = self.send_any(&method, &path, &headers).await?;
        self.checked(response).await
    }

    /// Whether `credentials` are the registry's. Source: distribution-spec, "Determining Support";
    /// Docker's command asks for a token without a scope.
    pub(crate) async fn log_in(&self, credentials: Credentials) -> Result<Login, PullError> {
        // Nobody has asked before.
        let _ = self.credentials.set(Some(credentials));
        let none = HeaderMap::new();
        let answer = self.send_any(&Method::GET, "", &none).await?;
        let Some(challenge) = asked(&answer.response) else {
            return self.checked(answer.response).await.map(|_| Login::NotAsked);
        };
        self.authorize(&challenge, None, answer.limit).await?;
        let Answer { response, .. } = self.send_any(&Method::GET, "", &none).await?;
        self.checked(response).await.map(|_| Login::Proven)
    }

    /// Whoever we are to this registry, looked up once.
    fn credentials(&self) -> Result<Option<&Credentials>, PullError> {
        if let Some(found) = self.credentials.get() {
            return Ok(found.as_ref());
        }
        let repository = self.image.repository.to_string();
        let found = self.keyring.find(&self.image.registry, Some(&repository))?;
        Ok(self.credentials.get_or_init(|| found).as_ref())
    }

    /// Takes up what the registry asks for. `false`: there is nothing to tell it.
    async fn authorize(
        &self,
        challenge: &Challenge,
        scope: Option<&str>,
        limit: Reach,
    ) -> Result<bool, PullError> {
        let credentials = self.credentials()?;
        let value = match (challenge, credentials.map(|known| &known.secret)) {
            (_, Some(Secret::RegistryToken(token))) => {
                self.guard_registry()?;
                bearer_value(token)
            }
            (Challenge::Basic, Some(Secret::Password(password))) => {
                self.guard_registry()?;
                credentials.and_then(|known| basic(&known.username, password))
            }
            (Challenge::Basic, _) => return Ok(false),
            (Challenge::Bearer(bearer), _) => {
                let token = self.fetch_token(bearer, credentials, scope, limit).await?;
                bearer_value(&token)
            }
        };
        let value = value
            .ok_or_else(|| self.protocol("was to be told a token that no header holds".into()))?;
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        Ok(true)
    }

    /// Credentials go to the registry by TLS, to this host, or where the person allows it.
    fn guard_registry(&self) -> Result<(), PullError> {
        let is_safe = self.settled.get() == Some(&"https") || self.image.is_loopback();
        if is_safe || self.insecure {
            return Ok(());
        }
        Err(self.protocol("asks for credentials without TLS; they are not sent there".into()))
    }

    /// Whether the token server may see them: by TLS; in plain HTTP on this host if the registry is
    /// there too, or at the registry's own address where the person allows that.
    fn may_see_credentials(&self, realm: &Url) -> bool {
        let own = Url::parse(&format!("http://{}", host_of(&self.image)));
        let is_own = own.is_ok_and(|own| same_origin(realm, &own));
        let is_near = fence::is_this_host(realm.host_str().unwrap_or_default());
        realm.scheme() == "https"
            || is_near && self.image.is_loopback()
            || is_own && self.insecure
            || left_out("credentials-fenced")
    }

    /// What speaks to the host of `url`, to which somebody led who may lead as near as `limit`.
    fn led_to(&self, url: &Url, limit: Reach) -> Result<reqwest::Client, PullError> {
        self.fence.check(url, limit).map_err(|fenced| self.fenced(&fenced))?;
        let host = url.host_str().unwrap_or_default();
        let with_port = host_and_port(url);
        let own = Url::parse(&format!("{}://{}", url.scheme(), host_of(&self.image)));
        let is_own = own.is_ok_and(|own| same_origin(url, &own));
        // Whom TLS has proven to be the registry may be asked whatever its address.
        if is_own && url.scheme() == "https" && self.verified {
            return Ok(self.http.clone());
        }
        let mut all = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&(with_port.clone(), limit)) {
            return Ok(known.clone());
        }
        let certificates = Certificates::of(&with_port)?;
        let authorities = [self.authorities.clone(), certificates.authorities].concat();
        let loopback = fence::is_this_host(host);
        let connection = Connection { host, loopback, verified: self.verified };
        let resolver = Some(self.fence.resolver(url, limit, is_own));
        let opened = connection
            .open(resolver, authorities, certificates.identity)
            .map_err(|error| self.protocol(format!("leads to {host}: {}", causes(&error))))?;
        all.insert((with_port, limit), opened.clone());
        Ok(opened)
    }

    /// Tries the schemes until one answers, and stays with it.
    async fn send_any(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Answer, PullError> {
        let schemes = match self.settled.get() {
            Some(scheme) => std::slice::from_ref(scheme),
            None => &self.schemes[..],
        };
        let mut first = None;
        for scheme in schemes {
            match self.follow(scheme, method, path, headers).await {
                Ok(answer) if is_tls_only(&answer.response) => {}
                Ok(answer) => {
                    // Set twice by requests in parallel, to the same.
                    let _ = self.settled.set(scheme);
                    return Ok(answer);
                }
                Err(Failed::Final(error)) => return Err(error),
                Err(Failed::Transport(error)) => drop(first.get_or_insert(error)),
            }
        }
        Err(match first {
            Some(error) => self.transport_error(&error),
            None => self.protocol("speaks TLS, not plain HTTP".into()),
        })
    }

    async fn follow(
        &self,
        scheme: &str,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Answer, Failed> {
        let host = host_of(&self.image);
        let url = format!("{scheme}://{host}/v2/{path}");
        let origin = Url::parse(&url).map_err(|error| {
            Failed::Final(self.protocol(format!("has an address that cannot be used: {error}")))
        })?;
        let mut url = origin.clone();
        let mut led: Option<Reach> = None;
        for _ in 0..=REDIRECTS_MAX {
            let http = match led {
                Some(limit) => self.led_to(&url, limit).map_err(Failed::Final)?,
                None => self.http.clone(),
            };
            let mut request = http.request(method.clone(), url.clone()).headers(headers.clone());
            // Only to where the token was asked for: whoever a redirect leads to has no business
            // with it (CVE-2020-15157).
            if (same_origin(&url, &origin) || left_out("same-origin"))
                && let Some(value) =
                    &*self.authorization.lock().unwrap_or_else(PoisonError::into_inner)
            {
                request = request.header(header::AUTHORIZATION, value.clone());
            }
            tracing::debug!(%method, url = %without_query(&url), "request");
            let response = request.send().await.map_err(|error| match fence::refusal(&error) {
                Some(fenced) => Failed::Final(self.fenced(fenced)),
                None => Failed::Transport(error),
            })?;
            tracing::debug!(status = response.status().as_u16(), "answer");
            // Nobody on the way leads nearer than he, or whoever led to him, is.
            let reach = self.fence.reach_of(&url, response.remote_addr());
            let limit = led.map_or(reach, |limit| limit.min(reach));
            if !response.status().is_redirection() {
                return Ok(Answer { response, limit });
            }
            url = self.redirected(&url, &response).map_err(Failed::Final)?;
            led = Some(limit);
        }
        Err(Failed::Final(self.protocol(format!("redirects more than {REDIRECTS_MAX} times"))))
    }

    fn redirected(&self, from: &Url, response: &Response) -> Result<Url, PullError> {
        let to = response
            .headers()
            .get(header::LOCATION)
            .and_then(|location| location.to_str().ok())
            .and_then(|location| from.join(location).ok())
            .filter(|to| matches!(to.scheme(), "http" | "https"))
            .ok_or_else(|| self.protocol("redirects to nowhere".into()))?;
        if from.scheme() == "https" && to.scheme() == "http" {
            let why = format!("redirects from TLS to plain HTTP ({})", without_query(&to));
            return Err(self.protocol(why));
        }
        Ok(to)
    }

    /// Asks the token server that the registry names, as whoever we are.
    async fn fetch_token(
        &self,
        challenge: &Bearer,
        credentials: Option<&Credentials>,
        scope: Option<&str>,
        limit: Reach,
    ) -> Result<String, PullError> {
        let bad = |why: String| self.protocol(why);
        let realm = Url::parse(&challenge.realm)
            .ok()
            .filter(|realm| matches!(realm.scheme(), "http" | "https"))
            .ok_or_else(|| bad("names a token server that cannot be used".into()))?;
        if self.settled.get() == Some(&"https") && realm.scheme() == "http" {
            return Err(bad("sends to a token server without TLS".into()));
        }
        if credentials.is_some() && !self.may_see_credentials(&realm) {
            let why = "sends to a token server without TLS; credentials are not sent there";
            return Err(bad(why.into()));
        }
        let http = self.led_to(&realm, limit)?;
        let scope = challenge.scope.as_deref().or(scope);
        let request = token_request(&http, realm, challenge.service.as_deref(), scope, credentials);
        let response = request.send().await.map_err(|error| match fence::refusal(&error) {
            Some(fenced) => self.fenced(fenced),
            None => bad(format!("needs its token server: {}", causes(&error))),
        })?;
        let status = response.status();
        if !status.is_success() {
            let body = self.read_whole(response, TOKEN_BYTES_MAX).await.unwrap_or_default();
            let said: ErrorBody = serde_json::from_slice(&body).unwrap_or_default();
            return Err(match status.as_u16() {
                // OAuth2 says 400 for a refresh token that is none (RFC 6749, 5.2).
                400 | 401 | 403 => self.login(status, &said),
                _ => bad(format!("has a token server that answered {status}")),
            });
        }
        let bytes = self.read_whole(response, TOKEN_BYTES_MAX).await?;
        let answer: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|_| bad("has a token server whose answer cannot be read".into()))?;
        let token = ["token", "access_token"].iter().find_map(|key| answer.get(key)?.as_str());
        let token = token.filter(|token| !token.is_empty()).map(str::to_owned);
        token.ok_or_else(|| bad("has a token server that gives no token".into()))
    }

    async fn checked(&self, response: Response) -> Result<Response, PullError> {
        let status = response.status();
        if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(response);
        }
        let body = self.read_whole(response, MANIFEST_BYTES_MAX).await.unwrap_or_default();
        let said: ErrorBody = serde_json::from_slice(&body).unwrap_or_default();
        let first = said.errors.first();
        let code = first.map(|entry| printable(&entry.code)).filter(|code| !code.is_empty());
        Err(match status {
            StatusCode::NOT_FOUND => PullError::NotFound {
                image: self.image.to_string(),
                name: self.image.to_string(),
                code: code.unwrap_or_else(|| "not found".into()),
                tags: Vec::new(),
            },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.login(status, &said),
            _ => {
                let message = first.map(|entry| printable(&entry.message));
                let words: Vec<String> = code.into_iter().chain(message).collect();
                let said = words.iter().map(|word| format!(" {word}")).collect();
                PullError::Status {
                    image: self.image.to_string(),
                    registry: self.image.registry.clone(),
                    status: status.as_u16(),
                    said,
                }
            }
        })
    }

    fn login(&self, status: StatusCode, said: &ErrorBody) -> PullError {
        let first = said.errors.first();
        let said = |text: &str| Some(printable(text)).filter(|text| !text.is_empty());
        let code = first.and_then(|entry| said(&entry.code));
        let reason = code.or_else(|| said(status.canonical_reason().unwrap_or_default()));
        let known = self.credentials.get().and_then(Option::as_ref);
        PullError::Login {
            registry: self.image.registry.clone(),
            repository: self.image.repository.to_string(),
            status: status.as_u16(),
            code: reason.unwrap_or_default(),
            message: first.and_then(|entry| said(&entry.message)),
            known: known.map(|known| Known {
                user: known.username.clone(),
                place: known.place.to_string(),
            }),
        }
    }

    /// A body of bounded size.
    pub(crate) async fn read_whole(
        &self,
        mut response: Response,
        bytes_max: u64,
    ) -> Result<Vec<u8>, PullError> {
        let mut body = Vec::new();
        loop {
            let chunk = response.chunk().await.map_err(|error| self.transport_error(&error))?;
            let Some(chunk) = chunk else { return Ok(body) };
            if (body.len() + chunk.len()) as u64 > bytes_max {
                return Err(self.protocol(format!("answered with more than {bytes_max} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
    }

    /// The tags of the repository, for a suggestion; none where they cannot be had.
    pub(crate) async fn tags(&self) -> Vec<String> {
        let Ok(response) = self.send(Method::GET, "tags/list?n=100", HeaderMap::new()).await else {
            return Vec::new();
        };
        let body = self.read_whole(response, MANIFEST_BYTES_MAX).await.unwrap_or_default();
        serde_json::from_slice::<Tags>(&body)
            .map(|list| {
                list.tags.into_iter().filter(|t| t.parse::<shared::Tag>().is_ok()).collect()
            })
            .unwrap_or_default()
    }

    /// All tags, page by page. Source: distribution-spec, "Listing Tags".
    pub(crate) async fn all_tags(&self) -> Result<Vec<String>, PullError> {
        let mut all = Vec::new();
        let mut path = "tags/list?n=1000".to_owned();
        for _ in 0..TAG_PAGES_MAX {
            let response = self.send(Method::GET, &path, HeaderMap::new()).await?;
            let next = next_page(response.headers());
            let body = self.read_whole(response, MANIFEST_BYTES_MAX).await?;
            let page: Tags = serde_json::from_slice(&body)
                .map_err(|_| self.protocol("lists tags in a form that cannot be read".into()))?;
            all.extend(page.tags.into_iter().filter(|tag| tag.parse::<shared::Tag>().is_ok()));
            let Some(next) = next else { return Ok(all) };
            // The pages are this repository's, wherever the rest of the address leads.
            let Some((_, query)) = next.split_once('?') else { return Ok(all) };
            path = format!("tags/list?{query}");
        }
        Err(self.protocol(format!("lists tags on more than {TAG_PAGES_MAX} pages")))
    }

    pub(crate) fn protocol(&self, why: String) -> PullError {
        let (image, registry) = (self.image.to_string(), self.image.registry.clone());
        PullError::Protocol { image, registry, why }
    }

    fn fenced(&self, fenced: &Fenced) -> PullError {
        let (image, registry) = (self.image.to_string(), self.image.registry.clone());
        PullError::Fenced { image, registry, fenced: fenced.clone() }
    }

    pub(crate) fn transport_error(&self, error: &reqwest::Error) -> PullError {
        let (image, registry) = (self.image.to_string(), self.image.registry.clone());
        let why = causes(error);
        if why.contains("Connection refused") {
            PullError::Refused { image, registry }
        } else if why.contains("corrupt message") || why.contains("InvalidContentType") {
            PullError::PlainHttp { image, registry }
        } else if why.contains("certificate") {
            // Of whoever showed it: a redirect may have led elsewhere.
            let shown = error.url().map_or_else(|| registry.clone(), host_and_port);
            let is_led_to = shown != registry && shown != host_of(&self.image);
            let why = certificate_words(&why);
            PullError::Certificate { registry: shown, is_led_to, why }
        } else {
            PullError::Unreachable { image, registry, why }
        }
    }
}

/// What an answer asks for who does not say who he is.
fn asked(response: &Response) -> Option<Challenge> {
    if response.status() != StatusCode::UNAUTHORIZED {
        return None;
    }
    let headers = response.headers().get_all(header::WWW_AUTHENTICATE).iter();
    challenge(headers.filter_map(|value| value.to_str().ok()))
}

/// Source: distribution, "Token Authentication Specification" and "OAuth2 token authentication".
fn token_request(
    http: &reqwest::Client,
    mut realm: Url,
    service: Option<&str>,
    scope: Option<&str>,
    credentials: Option<&Credentials>,
) -> reqwest::RequestBuilder {
    let service = service.map(|service| ("service", service));
    let scope = scope.map(|scope| ("scope", scope));
    let asked = service.into_iter().chain(scope);
    if let Some(Credentials { secret: Secret::IdentityToken(token), .. }) = credentials {
        let own =
            [("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", "rrun")];
        let mut form = realm.clone();
        form.set_query(None);
        form.query_pairs_mut().extend_pairs(asked.chain(own));
        return http
            .post(realm)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.query().unwrap_or_default().to_owned());
    }
    realm.query_pairs_mut().extend_pairs(asked);
    match credentials {
        Some(Credentials { username, secret: Secret::Password(password), .. }) => {
            realm.query_pairs_mut().append_pair("account", username);
            let request = http.get(realm);
            match basic(username, password) {
                Some(value) => request.header(header::AUTHORIZATION, value),
                None => request,
            }
        }
        _ => http.get(realm),
    }
}

/// RFC 7617, in UTF-8.
fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    let encoded = BASE64_STANDARD.encode(format!("{username}:{password}"));
    sensitive(&format!("Basic {encoded}"))
}

fn bearer_value(token: &str) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {token}"))
}

/// Not shown where requests are logged.
fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Headers for whichever kind of manifest the registry has.
pub(crate) fn accepts_manifests() -> HeaderMap {
    const TYPES: [&str; 6] = [
        media_type::OCI_INDEX,
        media_type::OCI_MANIFEST,
        media_type::DOCKER_LIST,
        media_type::DOCKER_MANIFEST,
        // Asked for, so that they are refused by name.
        media_type::DOCKER_SCHEMA1_SIGNED,
        media_type::DOCKER_SCHEMA1,
    ];
    TYPES.iter().map(|accept| (header::ACCEPT, HeaderValue::from_static(accept))).collect()
}

/// `Link: <…>; rel="next"`. Source: RFC 5988.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let link = headers.get(header::LINK)?.to_str().ok()?;
    let (address, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then(|| address.to_owned())
}

/// Where the registry of an image is.
fn host_of(image: &ImageRef) -> &str {
    match image.registry.as_str() {
        shared::reference::DEFAULT_REGISTRY => DOCKER_HUB,
        host => host,
    }
}

/// Go's server and nginx answer plain HTTP on a TLS port with a 400 of their own. Asked of whoever
/// answered: a redirect may have led to another.
fn is_tls_only(response: &Response) -> bool {
    response.url().scheme() == "http"
        && response.status() == StatusCode::BAD_REQUEST
        && response.headers().get("docker-distribution-api-version").is_none()
}

fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// As people write it: without the port that the scheme stands for.
fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Presigned addresses carry secrets in their query.
fn without_query(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.into()
}

/// The innermost cause says what happened; the outer ones say that a request failed.
fn causes(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    printable(&innermost.to_string())
}

/// Why a certificate is not trusted that the host's own authorities do not vouch for.
pub(super) const UNKNOWN_AUTHORITY: &str = "it is signed by an authority that is not known here";

/// The words of the TLS library, in words.
fn certificate_words(why: &str) -> String {
    let words = [
        ("UnknownIssuer", UNKNOWN_AUTHORITY),
        (
            "CaUsedAsEndEntity",
            "it is an authority's own, used as a server's (make one with CA:FALSE)",
        ),
    ];
    let known = words.iter().find(|(word, _)| why.contains(word));
    // The others say it themselves: which name, since when.
    let own = why.strip_prefix("invalid peer certificate: ").unwrap_or(why);
    known.map_or(own, |(_, words)| words).to_owned()
}

/// Text of a registry, not without end. What a terminal would obey in it, whoever shows it escapes.
fn printable(text: &str) -> String {
    text.chars().take(300).collect()
}
