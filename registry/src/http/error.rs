//! What a failed request is answered with: one status, one or more codes of the specification.

use std::borrow::Cow;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use shared::{Digest, ErrorCode, InvalidDigest, InvalidReference};

use super::body::Body;
use super::respond::{Finish as _, Reply, reply, text_value};
use crate::content::{
    ContentError, DeleteError, FinishError, PushError, ReceiveError, SessionError,
};
use crate::records::RecordsError;
use crate::store::{StoreError, is_out_of_descriptors};

/// One entry of the body.
#[derive(Debug)]
struct Entry {
    code: ErrorCode,
    message: Cow<'static, str>,
    detail: Option<serde_json::Value>,
}

/// A failed request.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    entries: Vec<Entry>,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

impl ApiError {
    pub(crate) fn new(
        status: StatusCode,
        code: ErrorCode,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let entry = Entry { code, message: message.into(), detail: None };
        Self { status, entries: vec![entry], headers: Vec::new() }
    }

    pub(crate) fn bad_request(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(crate) fn not_found(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn with_detail(mut self, detail: serde_json::Value) -> Self {
        if let Some(entry) = self.entries.first_mut() {
            entry.detail = Some(detail);
        }
        self
    }

    pub(crate) fn method_not_allowed(allowed: &str) -> Self {
        let message = format!("this endpoint knows {allowed}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, message)
            .with_header(header::ALLOW, text_value(allowed))
    }

    /// 401, with what it would take. Source: RFC 7617 §2; distribution's words.
    pub(crate) fn unauthorized(realm: &str, repository: &str, actions: &[&str]) -> Self {
        let mut quoted = String::with_capacity(realm.len());
        for c in realm.chars() {
            if matches!(c, '"' | '\\') {
                quoted.push('\\');
            }
            quoted.push(c);
        }
        let challenge = text_value(&format!("Basic realm=\"{quoted}\""));
        let wanted = |action: &&str| {
            serde_json::json!({
                "Type": "repository", "Class": "", "Name": repository, "Action": action
            })
        };
        let detail = match actions {
            [] => serde_json::Value::Null,
            actions => actions.iter().map(wanted).collect(),
        };
        let message = "authentication required";
        Self::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message)
            .with_header(header::WWW_AUTHENTICATE, challenge)
            .with_header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
            .with_detail(detail)
    }

    /// 429: more passwords wait to be compared than is good for anybody.
    pub(crate) fn too_many_logins() -> Self {
        let message = "too many passwords wait to be checked: try again";
        Self::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, message)
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("5"))
    }

    pub(crate) fn no_such_endpoint() -> Self {
        Self::not_found(ErrorCode::NameUnknown, "there is no such endpoint")
    }

    pub(crate) fn malformed_path() -> Self {
        let message = "the path does not decode to text: after % stand two hexadecimal digits";
        Self::bad_request(ErrorCode::NameInvalid, message)
    }

    pub(crate) fn invalid_name(why: InvalidReference) -> Self {
        Self::bad_request(ErrorCode::NameInvalid, why.to_string())
    }

    pub(crate) fn invalid_digest(why: InvalidDigest) -> Self {
        Self::bad_request(ErrorCode::DigestInvalid, why.to_string())
    }

    pub(crate) fn blob_unknown(digest: &Digest) -> Self {
        Self::not_found(ErrorCode::BlobUnknown, "the repository has no such blob")
            .with_detail(serde_json::json!({ "digest": digest }))
    }

    pub(crate) fn manifest_unknown(reference: &str) -> Self {
        let reference: String = reference.chars().take(256).collect();
        Self::not_found(ErrorCode::ManifestUnknown, "the repository has no such manifest")
            .with_detail(serde_json::json!({ "reference": reference }))
    }

    pub(crate) fn upload_unknown() -> Self {
        Self::not_found(
            ErrorCode::BlobUploadUnknown,
            "the repository has no such upload: it was never started, or ended, or expired",
        )
    }

    pub(crate) fn body_broken() -> Self {
        Self::bad_request(ErrorCode::SizeInvalid, "the request's body did not arrive whole")
    }

    /// The codes, for logs and metrics.
    pub(crate) fn code(&self) -> &'static str {
        self.entries.first().map_or("", |entry| entry.code.as_str())
    }

    pub(crate) fn into_reply(self) -> Reply {
        let code = self.code();
        let entries: Vec<_> = self
            .entries
            .into_iter()
            .map(|entry| {
                let mut object =
                    serde_json::json!({ "code": entry.code, "message": entry.message });
                if let Some(detail) = entry.detail {
                    object["detail"] = detail;
                }
                object
            })
            .collect();
        let text = serde_json::json!({ "errors": entries }).to_string();
        let mut builder = reply(self.status);
        builder.insert_header((header::CONTENT_TYPE, "application/json"));
        for header in self.headers {
            builder.append_header(header);
        }
        Reply { response: builder.message_body_or_500(Body::from(text)), code: Some(code) }
    }
}

impl From<ContentError> for ApiError {
    fn from(error: ContentError) -> Self {
        // Denied is the code nearest to "not now": the specification has none for a server's own
        // trouble, and clients read the message.
        match error {
            ContentError::Store(StoreError::Full) | ContentError::Records(RecordsError::Full) => {
                Self::new(
                    StatusCode::INSUFFICIENT_STORAGE,
                    ErrorCode::Denied,
                    "the registry's disk is full: delete images or add space, then push again",
                )
            }
            ContentError::Store(StoreError::ReadOnly(_))
            | ContentError::Records(RecordsError::ReadOnly) => Self::unavailable(
                "the registry is read-only since a write to its disk failed; pulls go on",
            ),
            // As distribution does: a client that tries again would not get on.
            ContentError::Maintenance => Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                ErrorCode::Unsupported,
                "the registry is read-only (storage.maintenance.readonly); pulls go on",
            )
            .with_header(header::ALLOW, HeaderValue::from_static("GET, HEAD")),
            ContentError::Records(RecordsError::Unavailable | RecordsError::Unknown) => {
                Self::unavailable("what the registry stores in cannot be reached: try again")
            }
            ContentError::Records(RecordsError::Closed) => {
                Self::unavailable("the registry is shutting down: try again")
            }
            ContentError::Store(StoreError::Gone) => Self::upload_unknown(),
            ContentError::Store(StoreError::Io { source, .. })
                if is_out_of_descriptors(&source) =>
            {
                Self::unavailable("the registry has too many open files at this moment: try again")
            }
            ContentError::Store(StoreError::Io { what, source }) => {
                tracing::error!(what, error = %source, "the store failed");
                Self::internal()
            }
            ContentError::Records(RecordsError::Failed(why)) => {
                tracing::error!(error = why, "the records failed");
                Self::internal()
            }
            ContentError::Store(StoreError::Task) => Self::internal(),
        }
    }
}

impl ApiError {
    fn unavailable(message: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Denied, message)
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("30"))
    }

    /// Clients that take their manifests slowly hold as much memory as they may.
    pub(crate) fn too_many_manifests() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::TooManyRequests,
            "the registry is sending as many long manifests as it may (limits.manifests): try again",
        )
        .with_header(header::RETRY_AFTER, HeaderValue::from_static("5"))
    }

    /// The cause goes to the log, never to the client: it may name paths.
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::Denied,
            "the registry failed; its log says why",
        )
    }

    /// 413, for a body beyond the limit.
    pub(crate) fn manifest_too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::SizeInvalid,
            format!("a manifest has at most {limit} bytes"),
        )
    }
}

impl From<DeleteError> for ApiError {
    /// Of a blob; for manifests the caller names what is unknown.
    fn from(error: DeleteError) -> Self {
        match error {
            DeleteError::Unknown => Self::not_found(ErrorCode::BlobUnknown, error.to_string()),
            DeleteError::Disabled => {
                Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, error.to_string())
                    .with_header(header::ALLOW, HeaderValue::from_static("GET, HEAD"))
            }
            DeleteError::Content(error) => error.into(),
        }
    }
}

impl From<PushError> for ApiError {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Invalid(why) => {
                Self::bad_request(ErrorCode::ManifestInvalid, why.to_string())
            }
            PushError::DigestMismatch { ref actual } => {
                let detail = serde_json::json!({ "actual": actual });
                Self::bad_request(ErrorCode::DigestInvalid, error.to_string()).with_detail(detail)
            }
            PushError::Missing(digests) => Self {
                status: StatusCode::BAD_REQUEST,
                entries: digests
                    .iter()
                    .map(|digest| Entry {
                        code: ErrorCode::ManifestBlobUnknown,
                        message: "the manifest names content that the repository lacks".into(),
                        detail: Some(serde_json::json!({ "digest": digest })),
                    })
                    .collect(),
                headers: Vec::new(),
            },
            PushError::Content(error) => error.into(),
        }
    }
}

impl From<SessionError> for ApiError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Unknown => Self::upload_unknown(),
            // The caller answers 416 with the place to go on from, where it can.
            SessionError::Busy { .. } => {
                Self::new(StatusCode::CONFLICT, ErrorCode::BlobUploadInvalid, error.to_string())
            }
            SessionError::TooMany => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                ErrorCode::TooManyRequests,
                error.to_string(),
            )
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("60")),
            SessionError::Content(error) => error.into(),
        }
    }
}

impl From<FinishError> for ApiError {
    fn from(error: FinishError) -> Self {
        match error {
            FinishError::Mismatch { ref actual } => {
                let detail = serde_json::json!({ "actual": actual });
                Self::bad_request(ErrorCode::DigestInvalid, error.to_string()).with_detail(detail)
            }
            FinishError::Cancelled | FinishError::StartOver => Self::upload_unknown(),
            FinishError::Content(error) => error.into(),
        }
    }
}

impl<E> From<ReceiveError<E>> for ApiError
where
    ApiError: From<E>,
{
    fn from(error: ReceiveError<E>) -> Self {
        match error {
            ReceiveError::Body(error) => error.into(),
            ReceiveError::TooLong | ReceiveError::TooShort => {
                let message = match error {
                    ReceiveError::TooLong => "the body is longer than its Content-Range",
                    _ => "the body is shorter than its Content-Range",
                };
                Self::new(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::SizeInvalid, message)
            }
            ReceiveError::Cancelled => Self::upload_unknown(),
            ReceiveError::Content(error) => error.into(),
        }
    }
}
