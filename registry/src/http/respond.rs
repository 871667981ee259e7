//! Building answers.

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder};
use shared::Digest;

use super::body::Body;

pub(crate) const API_VERSION: HeaderName =
    HeaderName::from_static("docker-distribution-api-version");
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(crate) const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
pub(crate) const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
pub(crate) const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
pub(crate) const OCI_FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");

/// An answer and what the log wants to know about it.
pub(crate) struct Reply {
    pub(crate) response: HttpResponse<Body>,
    /// The specification's error code, of a failed request.
    pub(crate) code: Option<&'static str>,
}

impl From<HttpResponse<Body>> for Reply {
    fn from(response: HttpResponse<Body>) -> Self {
        Self { response, code: None }
    }
}

/// Begins an answer.
pub(crate) fn reply(status: StatusCode) -> HttpResponseBuilder {
    HttpResponseBuilder::new(status)
}

/// Ends an answer.
pub(crate) trait Finish {
    fn message_body_or_500(&mut self, body: Body) -> HttpResponse<Body>;

    /// Ends an answer that has no body.
    fn empty(&mut self) -> HttpResponse<Body> {
        self.message_body_or_500(Body::empty())
    }
}

impl Finish for HttpResponseBuilder {
    fn message_body_or_500(&mut self, body: Body) -> HttpResponse<Body> {
        // Fails only when a header could not be built, and every header value here is made of
        // checked parts.
        self.message_body(body).unwrap_or_else(|error| {
            tracing::error!(%error, "an answer could not be built");
            HttpResponse::with_body(StatusCode::INTERNAL_SERVER_ERROR, Body::empty())
        })
    }
}

/// A digest as a header value.
pub(crate) fn digest_value(digest: &Digest) -> HeaderValue {
    text_value(&digest.to_string())
}

/// A text of ours (ASCII, no controls) as a header value.
pub(crate) fn text_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
