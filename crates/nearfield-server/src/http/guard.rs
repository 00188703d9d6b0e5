//! What every request must pass before a route sees it: the host it was sent to, cross-origin rules, the key.

use std::net::IpAddr;

use http::uri::Authority;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};
use nearfield_api::{Error, ErrorKind};

use super::options::{is_loopback, normal_host};
use super::reply::error_response;
use super::reply_body::ReplyBody;
use super::{Reply, Service};
use crate::keys::KnownKey;

/// Headers of ours that a web page may read.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-request-id, x-nearfield-backend, x-nearfield-locality, x-nearfield-reason, retry-after",
);

/// Refuses requests that were sent to a name that is not ours; `None` lets one pass. A web page can make a browser call this
/// server under the page's own host name (DNS rebinding); the name in the request then gives it away. `local` is the
/// address that the request came in by.
pub(super) fn refuse_host<B>(service: &Service, local: IpAddr, request: &Request<B>) -> Option<Reply> {
    let limits = &service.limits;
    if request.headers().len() > limits.headers {
        let message = format!("the request has more than {} headers", limits.headers);
        let mut response = error_response(&Error::new(ErrorKind::InvalidRequest, message));
        *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Some(response);
    }
    match sent_to(request) {
        Some(host) if is_ours(&host, local, &service.allowed_hosts) => None,
        Some(_) => {
            let message = "this server does not answer to the host name of the request; call it by a loopback or \
                           its own address, or allow the name in its configuration (allowed hosts)";
            let error = Error::new(ErrorKind::PermissionDenied, message).with_code("host_not_allowed");
            let mut response = error_response(&error);
            *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
            Some(response)
        }
        None => {
            let message = "the request must name its host once, in the Host header";
            Some(error_response(&Error::new(ErrorKind::InvalidRequest, message)))
        }
    }
}

/// The one host that the request names, in normal form.
fn sent_to<B>(request: &Request<B>) -> Option<String> {
    let mut headers = request.headers().get_all(header::HOST).iter();
    let header = match (headers.next(), headers.next()) {
        (Some(value), None) => Some(value.to_str().ok()?.parse::<Authority>().ok()?),
        (None, _) => None,
        _ => return None,
    };
    let target = request.uri().authority();
    // HTTP/1 asks for the header even where the target names the host.
    if header.is_none() && request.version() < Version::HTTP_2 {
        return None;
    }
    match (header, target) {
        (Some(header), Some(target)) if !header.as_str().eq_ignore_ascii_case(target.as_str()) => None,
        (Some(authority), _) => Some(authority),
        (None, target) => target.cloned(),
    }
    .filter(|authority| !authority.as_str().contains('@'))
    .map(|authority| normal_host(authority.host()))
}

fn is_ours(host: &str, local: IpAddr, allowed: &[String]) -> bool {
    if host == "localhost" || allowed.iter().any(|name| name == host) {
        return true;
    }
    // An address cannot be rebound, so the one that the connection came in by is as good as loopback.
    host.parse::<IpAddr>()
        .is_ok_and(|address| is_loopback(address) || local.to_canonical() == address.to_canonical())
}

/// What a web page may do: pages of the listed origins may call the server. Without a list, and for all others, no header
/// is added, and browsers refuse on their own.
pub(super) enum CrossOrigin {
    /// No page may.
    Off,
    /// The request comes from no listed origin.
    Other,
    /// It comes from this one.
    Listed(HeaderValue),
}

impl CrossOrigin {
    pub(super) fn of(service: &Service, headers: &HeaderMap) -> Self {
        if service.cors_origins.is_empty() {
            return Self::Off;
        }
        let origin = headers.get(header::ORIGIN).filter(|origin| {
            let listed =
                |text: &str| service.cors_origins.iter().any(|known| known.eq_ignore_ascii_case(text));
            origin.to_str().is_ok_and(listed)
        });
        origin.cloned().map_or(Self::Other, Self::Listed)
    }

    /// The reply to a browser that asks first, without a key, whether it may.
    pub(super) fn preflight<B>(&self, request: &Request<B>) -> Option<Reply> {
        let asks = matches!(self, Self::Listed(_))
            && request.method() == Method::OPTIONS
            && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        asks.then(|| preflight_reply(request.headers()))
    }

    /// Says in a reply who may read it.
    pub(super) fn put(self, reply: &mut Reply) {
        let headers = reply.headers_mut();
        if let Self::Listed(origin) = &self {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
        if !matches!(self, Self::Off) {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
    }
}

fn preflight_reply(asked: &HeaderMap) -> Reply {
    let mut response = Response::new(ReplyBody::EMPTY);
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    // The origin is trusted by configuration; which headers its client library sends is its own matter.
    if let Some(names) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    if asked.contains_key("access-control-request-private-network") {
        let name = HeaderName::from_static("access-control-allow-private-network");
        headers.insert(name, HeaderValue::from_static("true"));
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

/// The good key that a request came with.
///
/// # Errors
/// It came with none, or whether its key is good cannot be told.
pub(super) fn authenticate(service: &Service, headers: &HeaderMap) -> Result<KnownKey, Error> {
    let refused = |message: &str| Error::new(ErrorKind::Authentication, message).with_code("invalid_api_key");
    let presented =
        bearer(headers).ok_or_else(|| refused("no API key: send it as `Authorization: Bearer KEY`"))?;
    match service.keys.check(presented) {
        Ok(Some(key)) => Ok(key),
        Ok(None) => {
            Err(refused("this API key is not known or was revoked; `nearfield keys add` makes a new one"))
        }
        Err(error) => {
            tracing::error!(%error, "the keys cannot be read, so no request is let in");
            let message = "the server cannot read its keys; see its log";
            Err(Error::new(ErrorKind::Internal, message))
        }
    }
}

/// The one key that the headers carry.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim()).filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(uri: &str, hosts: &[&str], version: Version) -> Option<String> {
        let mut request = Request::builder().uri(uri).version(version);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        sent_to(&request.body(()).unwrap())
    }

    #[test]
    fn a_request_names_one_host() {
        let http1 = Version::HTTP_11;
        assert_eq!(named("/", &["LocalHost:80"], http1).as_deref(), Some("localhost"));
        assert_eq!(named("/", &["[::1]:80"], http1).as_deref(), Some("::1"));
        assert_eq!(named("/", &["a.example."], http1).as_deref(), Some("a.example"));
        assert_eq!(named("http://a:1/", &["A:1"], http1).as_deref(), Some("a"));
        assert_eq!(named("http://a/", &[], Version::HTTP_2).as_deref(), Some("a"));
        assert_eq!(named("http://a/", &[], http1), None);
        assert_eq!(named("/", &[], http1), None);
        assert_eq!(named("/", &["a", "a"], http1), None);
        assert_eq!(named("http://a/", &["b"], Version::HTTP_2), None);
        assert_eq!(named("/", &["localhost@evil"], http1), None);
        assert_eq!(named("/", &["a b"], http1), None);
    }

    #[test]
    fn ours_is_loopback_the_own_address_and_what_is_allowed() {
        let local = "192.0.2.7".parse().unwrap();
        let allowed = ["box.example".to_owned()];
        for host in
            ["localhost", "127.0.0.1", "127.9.9.9", "::1", "192.0.2.7", "::ffff:192.0.2.7", "box.example"]
        {
            assert!(is_ours(host, local, &allowed), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "192.0.2.8", "0.0.0.0", "a.box.example", ""] {
            assert!(!is_ours(host, local, &allowed), "{host}");
        }
    }

    #[test]
    fn only_one_bearer_key_is_read() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(read(&["Bearer k"]).as_deref(), Some("k"));
        assert_eq!(read(&["bearer  k "]).as_deref(), Some("k"));
        for values in [&[][..], &["k"], &["Basic k"], &["Bearer "], &["Bearer k", "Bearer k"]] {
            assert_eq!(read(values), None, "{values:?}");
        }
    }
}
