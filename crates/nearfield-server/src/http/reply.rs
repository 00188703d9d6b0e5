//! Replies in OpenAI's form.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use nearfield_api::openai::error_body;
use nearfield_api::{Error, ErrorKind};

use super::Reply;
use super::reply_body::ReplyBody;

/// The name of the header that carries a request's id.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The most characters of a header that repeats a text.
const LONGEST_HEADER: usize = 256;

/// A reply of JSON text.
pub(super) fn json(status: StatusCode, text: String) -> Reply {
    let mut response = Response::new(ReplyBody::Whole(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The reply that says what went wrong. The error's kind travels along as an extension, for log and metrics.
pub(super) fn error_response(error: &Error) -> Reply {
    let status = StatusCode::from_u16(error.kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, error_body(error));
    let headers = response.headers_mut();
    if let Some(seconds) = retry_seconds(error) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.kind == ErrorKind::Authentication {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response.extensions_mut().insert(error.kind);
    response
}

/// The same with a status that is finer than the error's kind.
pub(super) fn error_with_status(status: StatusCode, error: &Error) -> Reply {
    let mut response = error_response(error);
    *response.status_mut() = status;
    response
}

/// Whole seconds to wait, at least 1, where waiting helps.
fn retry_seconds(error: &Error) -> Option<u64> {
    let busy = matches!(error.kind, ErrorKind::RateLimited | ErrorKind::Overloaded);
    let wait = error.retry_after.or_else(|| busy.then_some(Duration::ZERO))?;
    Some((wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1))
}

/// A header's value from text that may hold anything.
pub(super) fn header_text(text: &str) -> HeaderValue {
    let fits = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    let plain: Cow<'_, str> = if text.len() <= LONGEST_HEADER && text.bytes().all(fits) {
        text.into()
    } else {
        let fitting = |c: char| u8::try_from(c).is_ok_and(fits);
        text.chars().map(|c| if fitting(c) { c } else { '?' }).take(LONGEST_HEADER).collect()
    };
    HeaderValue::from_str(&plain).unwrap_or_else(|_| HeaderValue::from_static("?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_whole_seconds() {
        let seconds = |kind, wait: Option<u64>| {
            let mut error = Error::new(kind, "x");
            error.retry_after = wait.map(Duration::from_millis);
            let response = error_response(&error);
            response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(seconds(ErrorKind::Overloaded, None).as_deref(), Some("1"));
        assert_eq!(seconds(ErrorKind::RateLimited, Some(0)).as_deref(), Some("1"));
        assert_eq!(seconds(ErrorKind::RateLimited, Some(1001)).as_deref(), Some("2"));
        assert_eq!(seconds(ErrorKind::Overloaded, Some(3000)).as_deref(), Some("3"));
        assert_eq!(seconds(ErrorKind::InvalidRequest, None), None);
    }

    #[test]
    fn headers_hold_any_text() {
        assert_eq!(header_text("a b\r\nx: y\u{e9}"), "a b??x: y?");
    }
}
