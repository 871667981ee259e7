//! The one place between a route and its handler: what each route and method needs, and the witness
//! that it is granted. A handler's repository comes from the witness, so that none can be reached
//! without a decision.

use std::marker::PhantomData;

use actix_http::HttpMessage as _;
use actix_web::http::{Method, StatusCode, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use shared::{Digest, ErrorCode, InvalidReference, Reference, RepoName, Tag};

use super::error::ApiError;
use super::route::{Kind, Probe, Route};
use super::{Call, Listener};
use crate::auth::{self, Action, Busy, Decision, Subject};
use crate::content::UploadId;
use crate::failpoint::fail_point;

/// What a route wants of whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing.
    Open,
    /// To know who it is, an anonymous one that was told so included.
    Identity,
    /// Somebody known.
    Subject,
    /// This, in the repository of the path.
    Repository(Action),
}

/// What each route and method needs. What is not in here is answered with 405.
pub(crate) const NEEDS: &[(Kind, &str, Need)] = &[
    (Kind::Root, "GET", Need::Open),
    (Kind::Root, "HEAD", Need::Open),
    (Kind::Health, "GET", Need::Open),
    (Kind::Health, "HEAD", Need::Open),
    (Kind::Checks, "GET", Need::Open),
    (Kind::Checks, "HEAD", Need::Open),
    (Kind::Metrics, "GET", Need::Subject),
    (Kind::Metrics, "HEAD", Need::Subject),
    (Kind::Base, "GET", Need::Identity),
    (Kind::Base, "HEAD", Need::Identity),
    (Kind::Catalog, "GET", Need::Identity),
    (Kind::Catalog, "HEAD", Need::Identity),
    (Kind::Blob, "GET", Need::Repository(Action::Pull)),
    (Kind::Blob, "HEAD", Need::Repository(Action::Pull)),
    (Kind::Blob, "DELETE", Need::Repository(Action::Delete)),
    (Kind::Uploads, "POST", Need::Repository(Action::Create)),
    (Kind::Upload, "GET", Need::Repository(Action::Create)),
    (Kind::Upload, "HEAD", Need::Repository(Action::Create)),
    (Kind::Upload, "PATCH", Need::Repository(Action::Create)),
    (Kind::Upload, "PUT", Need::Repository(Action::Create)),
    // Whoever may begin one may give it up: no client asks for more.
    (Kind::Upload, "DELETE", Need::Repository(Action::Create)),
    (Kind::Manifest, "GET", Need::Repository(Action::Pull)),
    (Kind::Manifest, "HEAD", Need::Repository(Action::Pull)),
    (Kind::Manifest, "PUT", Need::Repository(Action::Create)),
    (Kind::Manifest, "DELETE", Need::Repository(Action::Delete)),
    (Kind::Tags, "GET", Need::Repository(Action::Pull)),
    (Kind::Tags, "HEAD", Need::Repository(Action::Pull)),
    (Kind::Referrers, "GET", Need::Repository(Action::Pull)),
    (Kind::Referrers, "HEAD", Need::Repository(Action::Pull)),
];

/// The methods that an endpoint knows, as an `Allow` header has them.
fn methods(kind: Kind) -> String {
    let known = NEEDS.iter().filter(|(known, ..)| *known == kind);
    known.map(|(_, method, _)| *method).collect::<Vec<_>>().join(", ")
}

/// What may be done, with all that its path names.
#[derive(Debug)]
pub(super) enum Task {
    /// To be told the methods.
    Options(String),
    Root,
    Base,
    Catalog(Caller),
    Health(Probe),
    Checks,
    Metrics,
    BlobGet(Allowed<Pull>, Digest),
    BlobDelete(Allowed<Delete>, Digest),
    UploadStart(Allowed<Create>, Option<Mount>),
    UploadStatus(Allowed<Create>, UploadId),
    UploadAppend(Allowed<Create>, UploadId),
    UploadFinish(Allowed<Create>, UploadId),
    UploadCancel(Allowed<Create>, UploadId),
    ManifestGet(Allowed<Pull>, Reference),
    ManifestPut(Allowed<Create>, Reference, Vec<Tag>),
    ManifestDelete(Allowed<Delete>, Reference),
    TagList(Allowed<Pull>),
    Referrers(Allowed<Pull>, Digest),
}

/// Who asks, once that is known.
#[derive(Debug)]
pub(super) enum Caller {
    /// Nobody is asked: there are neither accounts nor rules.
    Anybody,
    Known(Subject),
}

impl Caller {
    /// Whether it may see that a repository is there.
    pub(super) fn may_pull(&self, call: &Call, repository: &RepoName) -> bool {
        match self {
            Self::Anybody => true,
            Self::Known(subject) => {
                let rules = call.state.rules.as_ref();
                auth::decide(rules, subject, repository.as_str(), Action::Pull) == Decision::Granted
            }
        }
    }
}

/// An action, as a type.
pub(super) trait Act {
    const ACTION: Action;
}

macro_rules! acts {
    ($($name:ident)*) => {
        $(
            #[derive(Debug)]
            pub(super) enum $name {}
            impl Act for $name {
                const ACTION: Action = Action::$name;
            }
        )*
    };
}
acts!(Pull Create Delete);

/// The witness that a caller may do `A` in a repository. Made in this file only.
#[derive(Debug)]
pub(super) struct Allowed<A> {
    repository: RepoName,
    action: PhantomData<A>,
}

impl<A> Allowed<A> {
    pub(super) fn repository(&self) -> &RepoName {
        &self.repository
    }
}

/// A blob that a push wants to have without sending it.
#[derive(Debug)]
pub(super) struct Mount {
    pub(super) digest: Digest,
    pub(super) source: Source,
}

/// Where it is to come from.
#[derive(Debug)]
pub(super) enum Source {
    /// Wherever it is.
    Anywhere,
    From(RepoName),
    /// What cannot be a repository, or is none that the caller may read.
    Nowhere,
}

/// `?tag=` in one request at most; the specification wants ten taken.
const TAGS_MAX: usize = 100;

/// Decides whether a request is done, from its head alone: nothing is looked up, so that what is
/// forbidden and what is missing cannot be told apart.
///
/// # Errors
/// The answer, if it is not.
pub(super) async fn authorize(call: &Call, route: Route) -> Result<Task, ApiError> {
    let method = call.req.method();
    let kind = match route.kind() {
        Some(kind) => kind,
        None if route == Route::Malformed => return Err(ApiError::malformed_path()),
        None => return Err(ApiError::no_such_endpoint()),
    };
    if method == Method::OPTIONS {
        return Ok(Task::Options(methods(kind)));
    }
    if !NEEDS.iter().any(|(known, name, _)| *known == kind && *name == method.as_str()) {
        return Err(ApiError::method_not_allowed(&methods(kind)));
    }
    match route {
        Route::Root => Ok(Task::Root),
        Route::Base => told(call).await.map(|_| Task::Base),
        Route::Catalog => told(call).await.map(Task::Catalog),
        Route::Health(probe) => Ok(Task::Health(probe)),
        Route::Checks => Ok(Task::Checks),
        Route::Metrics => match authenticate(call, None).await? {
            // The debug listener asks nobody.
            Caller::Known(Subject::Anonymous) if call.listener == Listener::Registry => {
                Err(unauthorized(call, None))
            }
            _ => Ok(Task::Metrics),
        },
        Route::Blob { name, digest } => blob(call, &name, &digest).await,
        Route::Uploads { name } => {
            let (name, mount) = (repo_name(&name)?, mount(call)?);
            let allowed = allow(call, name).await?;
            let mount = match mount {
                Some(mount) => Some(readable(call, mount).await?),
                None => None,
            };
            Ok(Task::UploadStart(allowed, mount))
        }
        Route::Upload { name, id } => upload(call, &name, &id).await,
        Route::Manifest { name, reference } => manifest(call, &name, &reference).await,
        Route::Tags { name } => Ok(Task::TagList(allow(call, repo_name(&name)?).await?)),
        Route::Referrers { name, digest } => {
            let (name, subject) = (repo_name(&name)?, read_digest(&digest)?);
            Ok(Task::Referrers(allow(call, name).await?, subject))
        }
        Route::Unknown => Err(ApiError::no_such_endpoint()),
        Route::Malformed => Err(ApiError::malformed_path()),
    }
}

async fn blob(call: &Call, name: &str, digest: &str) -> Result<Task, ApiError> {
    let (name, digest) = (repo_name(name)?, read_digest(digest)?);
    Ok(match *call.req.method() {
        Method::DELETE => Task::BlobDelete(allow(call, name).await?, digest),
        _ => Task::BlobGet(allow(call, name).await?, digest),
    })
}

async fn upload(call: &Call, name: &str, id: &str) -> Result<Task, ApiError> {
    let allowed = allow(call, repo_name(name)?).await?;
    let id: UploadId = id.parse().map_err(|_| ApiError::upload_unknown())?;
    Ok(match *call.req.method() {
        Method::PATCH => Task::UploadAppend(allowed, id),
        Method::PUT => Task::UploadFinish(allowed, id),
        Method::DELETE => Task::UploadCancel(allowed, id),
        _ => Task::UploadStatus(allowed, id),
    })
}

async fn manifest(call: &Call, name: &str, text: &str) -> Result<Task, ApiError> {
    let name = repo_name(name)?;
    let reference = match (text.parse::<Reference>(), call.req.method()) {
        (Ok(reference), _) => Some(reference),
        (Err(InvalidReference::Digest(why)), _) => return Err(ApiError::invalid_digest(why)),
        (Err(why), &Method::PUT) => {
            return Err(ApiError::bad_request(ErrorCode::ManifestInvalid, why.to_string()));
        }
        // What is no tag names nothing, which is 404 and not 400.
        (Err(_), _) => None,
    };
    let found =
        |reference: Option<Reference>| reference.ok_or_else(|| ApiError::manifest_unknown(text));
    Ok(match *call.req.method() {
        Method::PUT => {
            let reference = found(reference)?;
            let tags = tags(call, &reference)?;
            Task::ManifestPut(allow(call, name).await?, reference, tags)
        }
        Method::DELETE => Task::ManifestDelete(allow(call, name).await?, found(reference)?),
        _ => Task::ManifestGet(allow(call, name).await?, found(reference)?),
    })
}

/// The tags that `?tag=` asks for beside a push by digest.
fn tags(call: &Call, reference: &Reference) -> Result<Vec<Tag>, ApiError> {
    let texts = call.query("tag");
    if texts.is_empty() {
        return Ok(Vec::new());
    }
    if let Reference::Tag(_) = reference {
        return Err(ApiError::bad_request(
            ErrorCode::Unsupported,
            "the tag parameter needs a push by digest",
        ));
    }
    if texts.len() > TAGS_MAX {
        return Err(ApiError::new(
            StatusCode::URI_TOO_LONG,
            ErrorCode::Unsupported,
            format!("a push takes at most {TAGS_MAX} tags"),
        ));
    }
    let mut tags: Vec<Tag> = Vec::with_capacity(texts.len());
    for text in texts {
        let tag: Tag = text.parse().map_err(|why: InvalidReference| {
            ApiError::bad_request(ErrorCode::ManifestInvalid, why.to_string())
        })?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Ok(tags)
}

/// The blob that `?mount=` asks for.
fn mount(call: &Call) -> Result<Option<Mount>, ApiError> {
    let Some(digest) = call.query_first("mount") else { return Ok(None) };
    let digest = read_digest(&digest)?;
    let source = match call.query_first("from").map(|from| repo_name(&from)) {
        None => Source::Anywhere,
        Some(Ok(from)) => Source::From(from),
        Some(Err(_)) => Source::Nowhere,
    };
    Ok(Some(Mount { digest, source }))
}

fn read_digest(text: &str) -> Result<Digest, ApiError> {
    text.parse().map_err(ApiError::invalid_digest)
}

/// A repository name that came in a path or a query.
pub(super) fn repo_name(text: &str) -> Result<RepoName, ApiError> {
    text.parse().map_err(ApiError::invalid_name)
}

/// Leaves a source out that the caller may not read: it is answered as one that is not there, and
/// nothing is looked up.
async fn readable(call: &Call, mount: Mount) -> Result<Mount, ApiError> {
    let caller = authenticate(call, None).await?;
    let source = match mount.source {
        Source::From(from) if fail_point!("mount-source", off) => Source::From(from),
        Source::From(from) if caller.may_pull(call, &from) => Source::From(from),
        // Whoever holds it may be somebody whom this caller may not read from.
        Source::Anywhere if call.state.rules.is_none() => Source::Anywhere,
        _ => Source::Nowhere,
    };
    Ok(Mount { source, ..mount })
}

/// Who asks, where only those are answered who say who they are: clients log in no earlier than
/// they are asked, also where everybody may pull.
async fn told(call: &Call) -> Result<Caller, ApiError> {
    match authenticate(call, None).await? {
        Caller::Known(Subject::Anonymous) => Err(unauthorized(call, None)),
        caller => Ok(caller),
    }
}

/// The decision.
async fn allow<A: Act>(call: &Call, repository: RepoName) -> Result<Allowed<A>, ApiError> {
    let wanted = Some((&repository, A::ACTION));
    if let Caller::Known(subject) = authenticate(call, wanted).await? {
        let rules = call.state.rules.as_ref();
        let decision = auth::decide(rules, &subject, repository.as_str(), A::ACTION);
        match (decision, subject) {
            (Decision::Granted, _) => {}
            (Decision::Denied(_), Subject::Anonymous) => {
                return Err(unauthorized(call, wanted));
            }
            (Decision::Denied(why), Subject::User(_)) => {
                return Err(ApiError::new(StatusCode::FORBIDDEN, ErrorCode::Denied, why));
            }
        }
    }
    Ok(Allowed { repository, action: PhantomData })
}

/// Who asks. Wrong credentials make nobody anonymous; the answer to them says what was `wanted`, as
/// the answer to none does.
async fn authenticate(
    call: &Call,
    wanted: Option<(&RepoName, Action)>,
) -> Result<Caller, ApiError> {
    let accounts = match (&call.state.accounts, &call.state.rules) {
        (None, None) => return Ok(Caller::Anybody),
        (accounts, _) => accounts,
    };
    let mut fields = call.req.headers().get_all(header::AUTHORIZATION);
    let field = fields.next();
    if fields.next().is_some() {
        let message = "the request has two Authorization fields";
        return Err(ApiError::bad_request(ErrorCode::Unsupported, message));
    }
    let Some(field) = field else { return Ok(Caller::Known(Subject::Anonymous)) };
    let Some((name, password)) = basic(field.as_bytes()) else {
        return Err(unauthorized(call, wanted));
    };
    // What clients send that have not logged in.
    if name.is_empty() && password.is_empty() {
        return Ok(Caller::Known(Subject::Anonymous));
    }
    let from = call.req.peer_addr().map(|address| address.ip());
    let right = match accounts {
        Some(accounts) => accounts.check(&name, &password, from).await,
        None => Ok(false),
    };
    match right {
        Ok(true) => Ok(Caller::Known(Subject::User(name))),
        Ok(false) => Err(unauthorized(call, wanted)),
        Err(Busy) => Err(ApiError::too_many_logins()),
    }
}

fn unauthorized(call: &Call, wanted: Option<(&RepoName, Action)>) -> ApiError {
    let realm = call.state.accounts.as_ref().map_or("registry", |accounts| accounts.realm());
    let actions: &[&str] = match wanted {
        None => &[],
        Some((_, Action::Pull)) => &["pull"],
        Some((_, Action::Create | Action::Overwrite)) => &["pull", "push"],
        Some((_, Action::Delete)) => &["delete"],
    };
    ApiError::unauthorized(realm, wanted.map_or("", |(name, _)| name.as_str()), actions)
}

/// Longest credentials that are looked at.
const CREDENTIALS_BYTES_MAX: usize = 16 << 10;

/// Name and password. Source: RFC 7617 §2.
fn basic(field: &[u8]) -> Option<(String, Vec<u8>)> {
    let field = std::str::from_utf8(field).ok()?.trim();
    let (scheme, encoded) = field.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || encoded.len() > CREDENTIALS_BYTES_MAX {
        return None;
    }
    let pair = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    let name = String::from_utf8(pair[..colon].to_vec()).ok()?;
    let password = pair[colon + 1..].to_vec();
    Some((name, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_is_in_the_table_once_per_method() {
        for kind in Kind::ALL {
            let methods: Vec<_> =
                NEEDS.iter().filter(|(known, ..)| *known == kind).map(|row| row.1).collect();
            let mut distinct = methods.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert!(
                !methods.is_empty() && distinct.len() == methods.len(),
                "{kind:?}: {methods:?}"
            );
        }
    }

    /// What has a repository in its path is never open, and nothing else names one.
    #[test]
    fn what_names_a_repository_needs_something_in_it() {
        for (kind, method, need) in NEEDS {
            let named = matches!(
                kind,
                Kind::Blob
                    | Kind::Uploads
                    | Kind::Upload
                    | Kind::Manifest
                    | Kind::Tags
                    | Kind::Referrers
            );
            assert_eq!(matches!(need, Need::Repository(_)), named, "{kind:?} {method}");
            let reads = matches!(*method, "GET" | "HEAD");
            let pulls = *need == Need::Repository(Action::Pull);
            assert!(!pulls || reads, "{kind:?} {method} changes something for a right to read");
        }
    }
}
