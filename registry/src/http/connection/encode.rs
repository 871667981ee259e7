//! The head of an answer.

use actix_http::ServiceConfig;
use actix_web::HttpResponse;
use actix_web::http::{StatusCode, Version, header};
use bytes::{BufMut as _, BytesMut};

/// Room for a usual head and for a small body behind it.
const HEAD_BYTES: usize = 1 << 10;

/// What an answer's head says beside its fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Framed {
    /// The request's version, which the answer has too.
    pub(super) version: Version,
    /// Bytes of the body, be it that none are sent: in answer to a HEAD.
    pub(super) length: u64,
    /// No request follows.
    pub(super) close: bool,
}

/// Writes the head. `clock` knows the date.
pub(super) fn head(response: &HttpResponse<()>, framed: Framed, clock: &ServiceConfig) -> BytesMut {
    let status = response.status();
    let reason = response.head().reason();
    let mut head = BytesMut::with_capacity(HEAD_BYTES);
    let old = framed.version == Version::HTTP_10;
    head.put_slice(if old { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    head.put_slice(status.as_str().as_bytes());
    head.put_u8(b' ');
    head.put_slice(reason.as_bytes());
    head.put_slice(b"\r\n");
    // Source: RFC 9110 §8.6; a 304's would be the length of what it does not repeat.
    if !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        field(&mut head, header::CONTENT_LENGTH.as_str(), framed.length.to_string().as_bytes());
    }
    match (framed.close, old) {
        (true, false) => field(&mut head, "connection", b"close"),
        (false, true) => field(&mut head, "connection", b"keep-alive"),
        (true, true) | (false, false) => {}
    }
    let own = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION];
    for (name, value) in response.headers() {
        if !own.contains(name) {
            field(&mut head, name.as_str(), value.as_bytes());
        }
    }
    if !response.headers().contains_key(header::DATE) {
        clock.write_date_header(&mut head, false);
    }
    head.put_slice(b"\r\n");
    head
}

fn field(head: &mut BytesMut, name: &str, value: &[u8]) {
    head.put_slice(name.as_bytes());
    head.put_slice(b": ");
    head.put_slice(value);
    head.put_slice(b"\r\n");
}
