//! Pushing blobs: sessions, chunks, mounts (end-4, end-5, end-6, end-11, end-13, end-14).

use actix_web::http::StatusCode;
use actix_web::http::header;
use shared::{Algorithm, Digest, ErrorCode, RepoName};

use crate::content::{ReceiveError, SessionError, UploadId, Writer};
use crate::http::Call;
use crate::http::authorize::{Allowed, Create, Mount, Source};
use crate::http::error::ApiError;
use crate::http::incoming::{BodyError, Incoming};
use crate::http::range::parse_content_range;
use crate::http::respond::{
    CONTENT_DIGEST, Finish as _, Reply, UPLOAD_UUID, digest_value, reply, text_value,
};

/// `POST`: starts an upload, or pushes or mounts a whole blob.
pub(super) async fn start(
    call: &Call,
    create: &Allowed<Create>,
    wanted: Option<Mount>,
    body: Incoming,
) -> Result<Reply, ApiError> {
    let repo = create.repository();
    if let Some(wanted) = wanted
        && let Some(reply) = mount(call, repo, &wanted).await?
    {
        return Ok(reply);
    }
    let digest = match call.query_first("digest") {
        Some(digest) => Some(digest.parse::<Digest>().map_err(ApiError::invalid_digest)?),
        None => None,
    };
    let algorithm = match (&digest, call.query_first("digest-algorithm")) {
        (Some(digest), _) => digest.algorithm(),
        (None, Some(name)) => name.parse().map_err(ApiError::invalid_digest)?,
        (None, None) => Algorithm::Sha256,
    };
    let writer = call.content().start_upload(repo, algorithm).await?;
    let Some(digest) = digest else {
        let id = writer.id();
        return Ok(accepted(call, repo, id, writer.offset()));
    };
    let id = writer.id();
    match body.append_to(call.content(), writer, None).await {
        Ok(writer) => finish(call, writer, &digest).await,
        Err(error) => {
            // Nobody was told this session's name, so nobody can resume it.
            let _ = call.content().cancel_upload(repo, id).await;
            Err(error.into())
        }
    }
}

/// Links a blob of another repository. `None`: it cannot be, start an upload instead. The
/// specification wants that answered like an upload, never as an error.
async fn mount(call: &Call, repo: &RepoName, wanted: &Mount) -> Result<Option<Reply>, ApiError> {
    let from = match &wanted.source {
        Source::Anywhere => None,
        Source::From(from) => Some(from),
        Source::Nowhere => return Ok(None),
    };
    let mounted = call.content().mount(repo, from, &wanted.digest).await?;
    Ok(mounted.map(|_| created(call, repo, &wanted.digest)))
}

/// `PATCH`: appends a chunk, or a stream.
pub(super) async fn patch(
    call: &Call,
    create: &Allowed<Create>,
    id: UploadId,
    body: Incoming,
) -> Result<Reply, ApiError> {
    let repo = create.repository();
    let writer = resume(call, repo, id).await?;
    let length = check_range(call, &writer, body.length())?;
    let writer = receive(call, repo, id, writer, length, body).await?;
    let offset = call.content().pause_upload(writer).await?;
    Ok(accepted(call, repo, id, offset))
}

/// `PUT`: appends the last chunk, if any, and makes a blob of the upload.
pub(super) async fn put(
    call: &Call,
    create: &Allowed<Create>,
    id: UploadId,
    body: Incoming,
) -> Result<Reply, ApiError> {
    let repo = create.repository();
    let digest = call.query_first("digest").ok_or_else(|| {
        ApiError::bad_request(ErrorCode::DigestInvalid, "the request has no digest parameter")
    });
    // The session before the digest: "no such upload" is the more useful answer, and a bad digest
    // leaves the session as it is.
    let writer = resume(call, repo, id).await?;
    let digest: Digest = digest?.parse().map_err(ApiError::invalid_digest)?;
    let length = check_range(call, &writer, body.length())?;
    let writer = receive(call, repo, id, writer, length, body).await?;
    finish(call, writer, &digest).await
}

async fn finish(call: &Call, writer: Writer, digest: &Digest) -> Result<Reply, ApiError> {
    let repo = writer.repo().clone();
    call.content().finish_upload(writer, digest).await?;
    Ok(created(call, &repo, digest))
}

/// `GET`: how far an upload has come.
pub(super) async fn status(
    call: &Call,
    create: &Allowed<Create>,
    id: UploadId,
) -> Result<Reply, ApiError> {
    let repo = create.repository();
    let offset = call.content().upload_offset(repo, id).await?;
    Ok(reply(StatusCode::NO_CONTENT)
        .insert_header((header::LOCATION, location(call, repo, id)))
        .insert_header((header::RANGE, received(offset)))
        .insert_header((UPLOAD_UUID, id.to_string()))
        .empty()
        .into())
}

/// `DELETE`: gives an upload up.
pub(super) async fn cancel(
    call: &Call,
    create: &Allowed<Create>,
    id: UploadId,
) -> Result<Reply, ApiError> {
    call.content().cancel_upload(create.repository(), id).await?;
    Ok(reply(StatusCode::NO_CONTENT).empty().into())
}

async fn resume(call: &Call, repo: &RepoName, id: UploadId) -> Result<Writer, ApiError> {
    match call.content().resume_upload(repo, id).await {
        Ok(writer) => Ok(writer),
        Err(SessionError::Busy { offset }) => {
            Err(out_of_order(call, repo, id, offset, "another request is writing to this upload"))
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the chunk begins where the upload ends. Gives the length that it announces.
fn check_range(
    call: &Call,
    writer: &Writer,
    announced: Option<u64>,
) -> Result<Option<u64>, ApiError> {
    let Some(value) = call.req.head().headers.get(header::CONTENT_RANGE) else { return Ok(None) };
    let refuse = |why| out_of_order(call, writer.repo(), writer.id(), writer.offset(), why);
    let range = value.to_str().ok().and_then(parse_content_range);
    let (first, last) = range.ok_or_else(|| refuse("Content-Range must be first-last"))?;
    if first != writer.offset() {
        return Err(refuse("the chunk does not begin where the upload ends"));
    }
    let length = last - first + 1;
    if announced.is_some_and(|announced| announced != length) {
        return Err(refuse("Content-Length and Content-Range disagree"));
    }
    Ok(Some(length))
}

async fn receive(
    call: &Call,
    repo: &RepoName,
    id: UploadId,
    writer: Writer,
    length: Option<u64>,
    body: Incoming,
) -> Result<Writer, ApiError> {
    let start = writer.offset();
    match body.append_to(call.content(), writer, length).await {
        Ok(writer) => Ok(writer),
        Err(ReceiveError::TooLong) => {
            Err(out_of_order(call, repo, id, start, "the body is longer than its Content-Range"))
        }
        Err(ReceiveError::TooShort) => {
            Err(out_of_order(call, repo, id, start, "the body is shorter than its Content-Range"))
        }
        Err(ReceiveError::Body(slow @ BodyError::Slow)) => {
            let error = slow.into();
            // What arrived is kept.
            match call.content().upload_offset(repo, id).await {
                Ok(offset) => Err(with_place(call, repo, id, offset, error)),
                Err(_) => Err(error),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// 416. Clients take an answer with both `Location` and `Range` as a place to go on from.
fn out_of_order(
    call: &Call,
    repo: &RepoName,
    id: UploadId,
    offset: u64,
    why: &'static str,
) -> ApiError {
    let status = StatusCode::RANGE_NOT_SATISFIABLE;
    let error = ApiError::new(status, ErrorCode::BlobUploadInvalid, why);
    with_place(call, repo, id, offset, error)
}

/// Says where the upload can be gone on with.
fn with_place(
    call: &Call,
    repo: &RepoName,
    id: UploadId,
    offset: u64,
    error: ApiError,
) -> ApiError {
    error
        .with_header(header::LOCATION, text_value(&location(call, repo, id)))
        .with_header(header::RANGE, text_value(&received(offset)))
        .with_header(UPLOAD_UUID, text_value(&id.to_string()))
        // `Range` cannot tell no byte from one.
        .with_detail(serde_json::json!({ "offset": offset }))
}

fn location(call: &Call, repo: &RepoName, id: UploadId) -> String {
    call.url(&format!("/v2/{repo}/blobs/uploads/{id}"))
}

/// The `Range` of an upload: first and last byte, without a unit. Docker computes a layer's size
/// from it, so it must be exact; nothing received is `0-0`, which Docker can parse.
fn received(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

fn accepted(call: &Call, repo: &RepoName, id: UploadId, offset: u64) -> Reply {
    reply(StatusCode::ACCEPTED)
        .insert_header((header::LOCATION, location(call, repo, id)))
        .insert_header((header::RANGE, received(offset)))
        .insert_header((UPLOAD_UUID, id.to_string()))
        .empty()
        .into()
}

fn created(call: &Call, repo: &RepoName, digest: &Digest) -> Reply {
    reply(StatusCode::CREATED)
        .insert_header((header::LOCATION, call.url(&format!("/v2/{repo}/blobs/{digest}"))))
        .insert_header((CONTENT_DIGEST, digest_value(digest)))
        .empty()
        .into()
}
