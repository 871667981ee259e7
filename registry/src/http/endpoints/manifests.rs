//! Pulling, pushing and deleting manifests (end-3, end-7, end-9).

use actix_web::http::header;
use actix_web::http::{Method, StatusCode};
use shared::manifest::BYTES_MAX as MANIFEST_BYTES_MAX;
use shared::{Reference, Tag, media_type};

use super::blobs::{etag, not_modified, not_modified_reply};
use crate::content::DeleteError;
use crate::http::Call;
use crate::http::authorize::{Allowed, Create, Delete, Pull};
use crate::http::body::Body;
use crate::http::error::ApiError;
use crate::http::incoming::Incoming;
use crate::http::respond::{
    CONTENT_DIGEST, Finish as _, OCI_SUBJECT, OCI_TAG, Reply, digest_value, reply,
};

pub(super) async fn get(
    call: &Call,
    pull: &Allowed<Pull>,
    reference: &Reference,
) -> Result<Reply, ApiError> {
    let found = call.content().manifest(pull.repository(), reference).await?;
    let manifest = found.ok_or_else(|| ApiError::manifest_unknown(&reference.to_string()))?;
    if not_modified(call, &manifest.digest) {
        return Ok(not_modified_reply(&manifest.digest));
    }
    let body = if call.req.method() == Method::HEAD {
        Body::head(manifest.bytes.len() as u64)
    } else {
        let bytes =
            call.state.manifests.share(&manifest).ok_or_else(ApiError::too_many_manifests)?;
        Body::from(bytes)
    };
    // What the client accepts is not looked at: another manifest would have another digest.
    Ok(reply(StatusCode::OK)
        .insert_header((header::CONTENT_TYPE, manifest.media_type.as_str()))
        .insert_header((header::ETAG, etag(&manifest.digest)))
        .insert_header((CONTENT_DIGEST, digest_value(&manifest.digest)))
        .message_body_or_500(body)
        .into())
}

pub(super) async fn put(
    call: &Call,
    create: &Allowed<Create>,
    reference: &Reference,
    tags: Vec<Tag>,
    body: Incoming,
) -> Result<Reply, ApiError> {
    let repo = create.repository();
    if body.length().is_some_and(|announced| announced > MANIFEST_BYTES_MAX as u64) {
        return Err(ApiError::manifest_too_large(MANIFEST_BYTES_MAX));
    }
    let bytes = body.collect(MANIFEST_BYTES_MAX).await?;
    let bytes = bytes.ok_or_else(|| ApiError::manifest_too_large(MANIFEST_BYTES_MAX))?;
    let content_type = call
        .header(header::CONTENT_TYPE)
        .map(media_type::essence)
        .filter(|essence| !essence.is_empty());
    let pushed =
        call.content().push_manifest(repo, reference, tags.clone(), content_type, bytes).await?;
    let mut builder = reply(StatusCode::CREATED);
    builder
        .insert_header((
            header::LOCATION,
            call.url(&format!("/v2/{repo}/manifests/{}", pushed.digest)),
        ))
        .insert_header((CONTENT_DIGEST, digest_value(&pushed.digest)));
    if let Some(subject) = &pushed.subject {
        builder.insert_header((OCI_SUBJECT, digest_value(subject)));
    }
    for tag in &tags {
        builder.append_header((OCI_TAG, tag.as_str()));
    }
    Ok(builder.empty().into())
}

pub(super) async fn delete(
    call: &Call,
    delete: &Allowed<Delete>,
    reference: &Reference,
) -> Result<Reply, ApiError> {
    match call.content().delete_manifest(delete.repository(), reference).await {
        Ok(()) => Ok(reply(StatusCode::ACCEPTED).empty().into()),
        Err(DeleteError::Unknown) => Err(ApiError::manifest_unknown(&reference.to_string())),
        Err(error) => Err(error.into()),
    }
}
