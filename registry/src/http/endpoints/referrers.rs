//! Who refers to a manifest (end-12).

use actix_web::http::{StatusCode, header};
use shared::{Digest, media_type};

use crate::content::referrers_index;
use crate::http::Call;
use crate::http::authorize::{Allowed, Pull};
use crate::http::body::Body;
use crate::http::error::ApiError;
use crate::http::paging::{encode, next_link};
use crate::http::respond::{Finish as _, OCI_FILTERS, Reply, reply};

/// Filters in one request at most.
const TYPES_MAX: usize = 100;

/// Never 404: a subject that is not there yet may have referrers.
pub(super) async fn list(
    call: &Call,
    pull: &Allowed<Pull>,
    subject: &Digest,
) -> Result<Reply, ApiError> {
    let repo = pull.repository();
    let types: Vec<String> =
        call.query("artifactType").into_iter().filter(|text| !text.is_empty()).collect();
    if types.len() > TYPES_MAX {
        return Err(ApiError::bad_request(
            shared::ErrorCode::Unsupported,
            format!("a request takes at most {TYPES_MAX} artifactType parameters"),
        ));
    }
    let after = call.query_first("after");
    let page = call.content().referrers(repo, subject, &types, after.as_deref()).await?;
    let mut builder = reply(StatusCode::OK);
    builder.insert_header((header::CONTENT_TYPE, media_type::OCI_INDEX));
    if !types.is_empty() {
        builder.insert_header((OCI_FILTERS, "artifactType"));
    }
    if let Some(next) = &page.next {
        let mut url = format!("/v2/{repo}/referrers/{subject}?after={next}");
        for artifact_type in &types {
            url.push_str("&artifactType=");
            url.push_str(&encode(artifact_type));
        }
        builder.insert_header((header::LINK, next_link(&call.url(&url))));
    }
    Ok(builder.message_body_or_500(Body::from(referrers_index(&page))).into())
}
