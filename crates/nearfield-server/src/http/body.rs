//! Reads a request's body within its limits.

use std::future::poll_fn;
use std::pin::Pin;

use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use nearfield_api::{Error, ErrorKind};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::reply::{error_response, error_with_status};
use super::{Reply, Service, Shared};

/// A body, and the room that it takes of what all bodies together may.
#[derive(Debug)]
pub(super) struct ReadBody {
    pub(super) bytes: Vec<u8>,
    room: Option<OwnedSemaphorePermit>,
}

/// Reads the whole body, or says why not. The error reply ends the connection where bytes may still come.
pub(super) async fn read_body(
    service: &Service,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<ReadBody, Reply> {
    if let Some(reply) = refused_by_headers(service, headers) {
        return Err(reply);
    }
    if let Ok(read) = timeout(service.limits.body_read, collect(service, body)).await {
        return read;
    }
    let seconds = service.limits.body_read.as_secs_f32();
    let message = format!("the request's body did not arrive within {seconds} seconds");
    let error = Error::new(ErrorKind::Timeout, message).with_code("request_timeout");
    Err(closing(error_with_status(StatusCode::REQUEST_TIMEOUT, &error)))
}

/// The reply to a body that need not be read.
fn refused_by_headers(service: &Shared, headers: &HeaderMap) -> Option<Reply> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        let message = "compressed request bodies are not supported; send the JSON as it is";
        let error = Error::new(ErrorKind::InvalidRequest, message).with_code("unsupported_encoding");
        return Some(closing(error_with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, &error)));
    }
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    length
        .is_some_and(|length| length > service.limits.requests.json.bytes as u64)
        .then(|| too_large(service))
}

async fn collect(service: &Shared, mut body: Incoming) -> Result<ReadBody, Reply> {
    let mut read = ReadBody { bytes: Vec::new(), room: None };
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|_| {
            let message = "the request's body was cut or is malformed";
            closing(error_response(&Error::new(ErrorKind::InvalidRequest, message)))
        })?;
        let Ok(piece) = frame.into_data() else { continue };
        if read.bytes.len().saturating_add(piece.len()) > service.limits.requests.json.bytes {
            return Err(too_large(service));
        }
        let room = u32::try_from(piece.len())
            .ok()
            .and_then(|length| std::sync::Arc::clone(&service.bodies).try_acquire_many_owned(length).ok());
        let Some(room) = room else {
            let message = "the server is reading as many large requests as it can; try again in a second";
            return Err(closing(error_response(&Error::new(ErrorKind::Overloaded, message))));
        };
        match &mut read.room {
            Some(held) => held.merge(room),
            none => *none = Some(room),
        }
        read.bytes.extend_from_slice(&piece);
    }
    Ok(read)
}

fn too_large(service: &Shared) -> Reply {
    let limit = service.limits.requests.json.bytes;
    let message = format!("the request's body is larger than {limit} bytes, which is the most");
    let error = Error::new(ErrorKind::InvalidRequest, message).with_code("request_too_large");
    closing(error_with_status(StatusCode::PAYLOAD_TOO_LARGE, &error))
}

/// Ends an HTTP/1 connection after the reply: the rest of the body is not read.
fn closing(mut response: Reply) -> Reply {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
