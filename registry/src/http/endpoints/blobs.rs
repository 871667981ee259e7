//! Pulling and deleting blobs (end-2, end-10).

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

use actix_web::HttpResponseBuilder;
use actix_web::http::StatusCode;
use actix_web::http::header::HeaderValue;
use actix_web::http::{Method, header};
use bytes::Bytes;
use rustix::io::ReadWriteFlags;
use shared::{Digest, RepoName};
use uuid::Uuid;

use crate::content::{DeleteError, Source};
use crate::http::Call;
use crate::http::authorize::{Allowed, Delete, Pull};
use crate::http::body::{Body, FilePart, Part, StreamPart};
use crate::http::error::ApiError;
use crate::http::range::Wanted;
use crate::http::respond::{CONTENT_DIGEST, Finish as _, Reply, digest_value, reply};

/// Up to here a blob in memory is read at once: two system calls are then dearer than a copy.
const INLINE_BYTES: u64 = 16 << 10;

pub(super) async fn get(
    call: &Call,
    pull: &Allowed<Pull>,
    digest: &Digest,
) -> Result<Reply, ApiError> {
    let repo = pull.repository();
    let head = call.req.method() == Method::HEAD;
    if head {
        // A client that is told "it is here" skips its upload: the blob must stay for a while.
        let blob = call.content().promise_blob(repo, digest).await?;
        let blob = blob.ok_or_else(|| ApiError::blob_unknown(digest))?;
        return Ok(head_reply(call, digest, blob.size()));
    }
    let blob = call.content().find_blob(repo, digest).await?;
    let blob = blob.ok_or_else(|| ApiError::blob_unknown(digest))?;
    let size = blob.size();
    if not_modified(call, digest) {
        return Ok(not_modified_reply(digest));
    }
    let parts = match wanted(call, digest, size) {
        Wanted::All => None,
        Wanted::Parts(parts) => Some(parts),
        Wanted::Unsatisfiable => return Err(unsatisfiable(size)),
    };
    let range = match parts.as_deref() {
        Some(&[(first, last)]) => first..last + 1,
        _ => 0..size,
    };
    let source = call.content().open_blob(repo, blob, range.clone(), true).await?;
    let source = source.ok_or_else(|| ApiError::blob_unknown(digest))?;
    let sending = Sending { call, repo, digest, size };
    Ok(match (source, parts) {
        (Source::Redirect(to), _) => redirect(digest, &to),
        (Source::File(file), Some(parts)) if parts.len() > 1 => {
            let (file, short) = (Arc::new(file), sending.short());
            sending.several(&parts, |first, length| {
                Part::File(FilePart::new(Arc::clone(&file), first, length, Rc::clone(&short)))
            })
        }
        (Source::Bytes(bytes), Some(parts)) if parts.len() > 1 => {
            let place = |at| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
            sending.several(&parts, |first, length| {
                Part::Bytes(bytes.slice(place(first)..place(first + length)))
            })
        }
        (Source::File(file), parts) => {
            let (first, length) = (range.start, range.end - range.start);
            let part = match read_in_memory(&file, first, length) {
                Some(bytes) => Part::Bytes(bytes),
                None => Part::File(FilePart::new(Arc::new(file), first, length, sending.short())),
            };
            sending.one(range, parts.is_some(), part)
        }
        (Source::Bytes(bytes), parts) => sending.one(range, parts.is_some(), Part::Bytes(bytes)),
        (Source::Stream(stream), parts) => {
            // Of several ranges all of them: one stream has one beginning.
            let length = range.end - range.start;
            let part = matches!(parts.as_deref(), Some([_]));
            sending.one(range, part, Part::Stream(StreamPart { stream, length }))
        }
    })
}

/// Sends the client where the bytes are. The address is good for a while only, and lets in whoever
/// has it.
fn redirect(digest: &Digest, to: &str) -> Reply {
    reply(StatusCode::TEMPORARY_REDIRECT)
        .insert_header((header::LOCATION, to))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((CONTENT_DIGEST, digest_value(digest)))
        .empty()
        .into()
}

/// The headers of every answer with bytes of a blob.
fn with_bytes(status: StatusCode, digest: &Digest) -> HttpResponseBuilder {
    let mut builder = reply(status);
    builder
        .insert_header((header::ACCEPT_RANGES, "bytes"))
        .insert_header((header::ETAG, etag(digest)))
        .insert_header((CONTENT_DIGEST, digest_value(digest)));
    builder
}

/// A blob on its way to a client.
struct Sending<'a> {
    call: &'a Call,
    repo: &'a RepoName,
    digest: &'a Digest,
    size: u64,
}

impl Sending<'_> {
    /// One range, or the whole.
    fn one(&self, range: Range<u64>, partial: bool, part: Part) -> Reply {
        let mut builder = if partial {
            let mut builder = with_bytes(StatusCode::PARTIAL_CONTENT, self.digest);
            let range = format!("bytes {}-{}/{}", range.start, range.end - 1, self.size);
            builder.insert_header((header::CONTENT_RANGE, range));
            builder
        } else {
            with_bytes(StatusCode::OK, self.digest)
        };
        builder.insert_header((header::CONTENT_TYPE, "application/octet-stream"));
        if range.is_empty() {
            return builder.empty().into();
        }
        builder.message_body_or_500(Body::parts(vec![part])).into()
    }

    /// Several parts in one answer. Source: RFC 9110 §14.6.
    fn several(&self, ranges: &[(u64, u64)], bytes: impl Fn(u64, u64) -> Part) -> Reply {
        let size = self.size;
        // Nobody knows it before the answer: no blob can be made to hold it.
        let boundary = Uuid::new_v4().simple().to_string();
        let mut parts = Vec::with_capacity(2 * ranges.len() + 1);
        for (first, last) in ranges {
            let before = format!(
                "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\
                 Content-Range: bytes {first}-{last}/{size}\r\n\r\n"
            );
            parts.extend([Part::Bytes(before.into()), bytes(*first, last - first + 1)]);
        }
        parts.push(Part::Bytes(format!("\r\n--{boundary}--\r\n").into()));
        let mut builder = with_bytes(StatusCode::PARTIAL_CONTENT, self.digest);
        let kind = format!("multipart/byteranges; boundary={boundary}");
        builder.insert_header((header::CONTENT_TYPE, kind));
        builder.message_body_or_500(Body::parts(parts)).into()
    }

    /// What becomes of a blob whose file ends while it is sent.
    fn short(&self) -> Rc<dyn Fn(u64)> {
        let (content, size) = (self.call.content().clone(), self.size);
        let (repo, digest) = (self.repo.clone(), self.digest.clone());
        Rc::new(move |offset| {
            let (content, repo, digest) = (content.clone(), repo.clone(), digest.clone());
            actix_rt::spawn(async move { content.meet_end(&repo, &digest, size, offset).await });
        })
    }
}

fn head_reply(call: &Call, digest: &Digest, size: u64) -> Reply {
    if not_modified(call, digest) {
        return not_modified_reply(digest);
    }
    reply(StatusCode::OK)
        .insert_header((header::CONTENT_TYPE, "application/octet-stream"))
        .insert_header((header::ACCEPT_RANGES, "bytes"))
        .insert_header((header::ETAG, etag(digest)))
        .insert_header((CONTENT_DIGEST, digest_value(digest)))
        .message_body_or_500(Body::head(size))
        .into()
}

/// Which bytes the request wants. Source: RFC 9110 §13.1.5, §14.2.
fn wanted(call: &Call, digest: &Digest, size: u64) -> Wanted {
    let Some(range) = call.header(header::RANGE) else { return Wanted::All };
    // A blob never changes, so only an If-Range that names another one makes the range void.
    let matches = call.header(header::IF_RANGE).is_none_or(|tag| tag.trim() == etag(digest));
    if matches { Wanted::parse(range, size) } else { Wanted::All }
}

fn unsatisfiable(size: u64) -> ApiError {
    let range = HeaderValue::try_from(format!("bytes */{size}"));
    ApiError::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        shared::ErrorCode::SizeInvalid,
        format!("the blob has {size} bytes, none of them in the range"),
    )
    .with_header(header::CONTENT_RANGE, range.unwrap_or(HeaderValue::from_static("bytes */*")))
}

/// The entity tag: content under a digest never changes.
pub(super) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether the client has it already. Source: RFC 9110 §13.1.2.
pub(super) fn not_modified(call: &Call, digest: &Digest) -> bool {
    call.header(header::IF_NONE_MATCH).is_some_and(|header| {
        let own = etag(digest);
        header
            .split(',')
            .map(|tag| tag.trim())
            .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == own)
    })
}

pub(super) fn not_modified_reply(digest: &Digest) -> Reply {
    reply(StatusCode::NOT_MODIFIED)
        .insert_header((header::ETAG, etag(digest)))
        .insert_header((CONTENT_DIGEST, digest_value(digest)))
        .empty()
        .into()
}

/// The range's bytes if they are few and can be had without waiting for the disk.
fn read_in_memory(file: impl AsFd, offset: u64, length: u64) -> Option<Bytes> {
    if length > INLINE_BYTES {
        return None;
    }
    let mut buffer = vec![0; usize::try_from(length).ok()?];
    let slice = io::IoSliceMut::new(&mut buffer);
    let read = rustix::io::preadv2(file, &mut [slice], offset, ReadWriteFlags::NOWAIT).ok()?;
    (read == buffer.len()).then(|| buffer.into())
}

pub(super) async fn delete(
    call: &Call,
    delete: &Allowed<Delete>,
    digest: &Digest,
) -> Result<Reply, ApiError> {
    match call.content().delete_blob(delete.repository(), digest).await {
        Ok(()) => Ok(reply(StatusCode::ACCEPTED).empty().into()),
        Err(DeleteError::Unknown) => Err(ApiError::blob_unknown(digest)),
        Err(error) => Err(error.into()),
    }
}
