//! Reading a request's body: its length is known before the first byte of it is kept.

use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use machines::interceptor::MAX_BODY;

use super::guard::Refused;

/// The declared length of a JSON body.
///
/// `Transfer-Encoding` is refused: a call's body is small and whole, and a request that has only one way to say
/// its length cannot be understood in two (FAULTS N14).
///
/// # Errors
/// 415 for anything but plain `application/json`, 413 for too long a body, 400 without a length.
pub fn declared(headers: &HeaderMap) -> Result<usize, Refused> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(kind), None) = (types.next(), types.next()) else { return Err((415, "unsupported_media_type")) };
    let essence = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") || headers.contains_key(CONTENT_ENCODING) {
        return Err((415, "unsupported_media_type"));
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        return Err((400, "invalid_request: transfer encodings are not taken, send Content-Length"));
    }
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    match length.map(str::parse::<u64>) {
        Some(Ok(length)) => match usize::try_from(length) {
            Ok(length) if length <= MAX_BODY => Ok(length),
            Ok(_) | Err(_) => Err((413, "payload_too_large")),
        },
        Some(Err(_)) => Err((400, "invalid_request: Content-Length is not a number")),
        None => Err((400, "invalid_request: the body is missing")),
    }
}

/// Reads the body, which is `length` bytes.
///
/// # Errors
/// 400 when it does not come whole, or not in time.
pub async fn read(body: Body, length: usize, within: Duration) -> Result<Bytes, Refused> {
    match tokio::time::timeout(within, whole(body, length)).await {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err((400, "invalid_request: the body did not come whole")),
        Err(_) => Err((400, "invalid_request: the body did not come in time")),
    }
}

async fn whole(mut body: Body, length: usize) -> Option<Bytes> {
    let mut first: Option<Bytes> = None;
    let mut rest: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.ok()?.into_data() else { continue };
        if rest.as_ref().map_or(0, BytesMut::len) + first.as_ref().map_or(0, Bytes::len) + data.len() > length {
            return None;
        }
        match (&mut rest, first.take()) {
            (Some(rest), _) => rest.extend_from_slice(&data),
            // Nearly every body comes in one piece and is not copied.
            (None, None) => first = Some(data),
            (None, Some(head)) => {
                let mut joined = BytesMut::with_capacity(length);
                joined.extend_from_slice(&head);
                joined.extend_from_slice(&data);
                rest = Some(joined);
            }
        }
    }
    let bytes = rest.map(BytesMut::freeze).or(first).unwrap_or_default();
    (bytes.len() == length).then_some(bytes)
}
