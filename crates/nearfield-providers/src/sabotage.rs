//! What a test breaks on purpose, to see that it is found.

use std::sync::{Mutex, PoisonError};

use hyper::header::{HeaderMap, LOCATION};
use nearfield_api::sabotage::{Break, breaks};

use crate::client::{Request, Response};

/// The same request for the place that a reply leads to.
pub(crate) fn follow(mut request: Request, response: &Response) -> Option<Request> {
    let place = response.headers().get(LOCATION).filter(|_| breaks(Break::Redirects));
    *request.uri_mut() = place?.to_str().ok()?.parse().ok()?;
    Some(request)
}

/// Adds the headers of the attempt before, whosever it was.
pub(crate) fn keep_headers(request: &mut Request) {
    static BEFORE: Mutex<Option<HeaderMap>> = Mutex::new(None);
    if !breaks(Break::Headers) {
        return;
    }
    let mut before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
    let own = request.headers().clone();
    if let Some(kept) = before.replace(own.clone()) {
        for (name, value) in &kept {
            if !own.contains_key(name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
    }
}
