//! Pulling, pushing and deleting manifests (end-3, end-7, end-9).

use actix_web::http::header;
use actix_web::http::{Method, StatusCode};
use shared::manifest::BYTES_MAX as MANIFEST_BYTES_MAX;
use shared::{ErrorCode, Reference, RepoName, Tag, media_type};

use super::Call;
use super::blobs::{etag, not_modified, not_modified_reply};
use super::body::Body;
use super::error::ApiError;
use super::incoming::Incoming;
use super::respond::{
    CONTENT_DIGEST, Finish as _, OCI_SUBJECT, OCI_TAG, Reply, digest_value, reply,
};
use crate::content::DeleteError;

/// `?tag=` in one request at most; the specification wants ten taken.
const TAGS_MAX: usize = 100;

pub(super) async fn get(call: &Call, repo: &RepoName, text: &str) -> Result<Reply, ApiError> {
    let reference = read_reference(text)?;
    let found = call.content().manifest(repo, &reference).await?;
    let manifest = found.ok_or_else(|| ApiError::manifest_unknown(text))?;
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

/// A reference to read by. What is no tag names nothing, which is 404 and not 400.
fn read_reference(text: &str) -> Result<Reference, ApiError> {
    match text.parse() {
        Ok(reference) => Ok(reference),
        Err(shared::InvalidReference::Digest(why)) => Err(ApiError::invalid_digest(why)),
        Err(_) => Err(ApiError::manifest_unknown(text)),
    }
}

pub(super) async fn put(
    call: &Call,
    repo: &RepoName,
    text: &str,
    body: Incoming,
) -> Result<Reply, ApiError> {
    let reference = match text.parse::<Reference>() {
        Ok(reference) => reference,
        Err(shared::InvalidReference::Digest(why)) => return Err(ApiError::invalid_digest(why)),
        Err(why) => return Err(ApiError::bad_request(ErrorCode::ManifestInvalid, why.to_string())),
    };
    let tags = tags(call, &reference)?;
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
        call.content().push_manifest(repo, &reference, tags.clone(), content_type, bytes).await?;
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
        let tag: Tag = text.parse().map_err(|why: shared::InvalidReference| {
            ApiError::bad_request(ErrorCode::ManifestInvalid, why.to_string())
        })?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Ok(tags)
}

pub(super) async fn delete(call: &Call, repo: &RepoName, text: &str) -> Result<Reply, ApiError> {
    let reference = read_reference(text)?;
    match call.content().delete_manifest(repo, &reference).await {
        Ok(()) => Ok(reply(StatusCode::ACCEPTED).empty().into()),
        Err(DeleteError::Unknown) => Err(ApiError::manifest_unknown(text)),
        Err(error) => Err(error.into()),
    }
}
