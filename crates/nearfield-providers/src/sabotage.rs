//! What a test breaks on purpose, to see that it is found.

use std::sync::{Mutex, PoisonError};

use hyper::header::{HeaderMap, LOCATION};
use hyper_util::client::legacy;
use nearfield_api::sabotage::{Break, breaks};

use crate::client::{Connections, Request, Response};

/// Goes where a reply leads, once.
pub(crate) async fn follow(
    connections: &Connections,
    mut request: Request,
    response: Response,
) -> Result<Response, legacy::Error> {
    let place = response.headers().get(LOCATION).and_then(|place| place.to_str().ok()?.parse().ok());
    let Some(place) = place.filter(|_| breaks(Break::Redirects)) else { return Ok(response) };
    *request.uri_mut() = place;
    connections.request(request).await
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
