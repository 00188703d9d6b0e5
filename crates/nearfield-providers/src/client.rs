//! The HTTP client: trust, proxies, connections, and what its errors mean.

use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

use nearfield_api::{Error, ErrorKind, sabotage};
use reqwest::{Certificate, Client, ClientBuilder, Proxy, redirect};

use crate::ProviderError;
use crate::connection::Connection;

/// Shorter than the 60 s after which common load balancers close a connection, since a request that meets the close
/// half way fails.
const LONGEST_IDLE_CONNECTION: Duration = Duration::from_secs(55);
/// How often an HTTP/2 connection in use is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// A client that follows no redirect and repeats nothing. The environment's proxies are ignored: only a proxy that the
/// backend names is used, and this machine is never reached through one.
pub(crate) fn build(options: &Connection, loopback: bool) -> Result<Client, ProviderError> {
    let mut builder = Client::builder()
        .user_agent(concat!("nearfield/", env!("CARGO_PKG_VERSION")))
        .redirect(redirects())
        .retry(reqwest::retry::never())
        .referer(false)
        .connect_timeout(options.timeouts.connect)
        .pool_idle_timeout(LONGEST_IDLE_CONNECTION)
        .tcp_keepalive(PING_INTERVAL)
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT);
    builder = builder.no_proxy();
    if let Some(proxy) = options.proxy.as_ref().filter(|_| !loopback) {
        let proxy = Proxy::all(proxy).map_err(|error| ProviderError::Setting {
            backend: options.name.clone(),
            setting: "proxy",
            reason: format!("is no address of a proxy ({}); it looks like http://host:3128", deepest(&error)),
        })?;
        builder = builder.proxy(proxy);
    }
    if let Some(socket) = &options.socket {
        builder = through(builder, options, socket)?;
    }
    if options.certificates.is_some() {
        builder = builder.tls_certs_only(certificates(options)?);
    }
    builder
        .build()
        .map_err(|error| ProviderError::Tls { backend: options.name.clone(), reason: deepest(&error) })
}

/// A client without proxy, trust or socket of any backend, which follows no redirect.
pub(crate) fn build_direct(backend: &str) -> Result<Client, ProviderError> {
    let builder = Client::builder()
        .user_agent(concat!("nearfield/", env!("CARGO_PKG_VERSION")))
        .redirect(redirects())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy();
    builder
        .build()
        .map_err(|error| ProviderError::Tls { backend: backend.to_owned(), reason: deepest(&error) })
}

/// None: a reply that leads elsewhere is an error, since policy did not allow the other place.
fn redirects() -> redirect::Policy {
    if sabotage::breaks(sabotage::Break::Redirects) {
        return redirect::Policy::limited(2);
    }
    redirect::Policy::none()
}

/// Has every connection go through a Unix socket.
fn through(
    builder: ClientBuilder,
    options: &Connection,
    socket: &Path,
) -> Result<ClientBuilder, ProviderError> {
    let wrong = |reason: &str| ProviderError::Setting {
        backend: options.name.clone(),
        setting: "socket",
        reason: reason.to_owned(),
    };
    if options.proxy.is_some() {
        return Err(wrong("takes the place of the network, so it cannot stand beside `proxy`; remove one"));
    }
    #[cfg(unix)]
    return Ok(builder.unix_socket(socket));
    #[cfg(not(unix))]
    {
        let _ = (builder, socket);
        Err(wrong("cannot be used on this system, which has no Unix sockets"))
    }
}

/// The authorities of the configured PEM file.
fn certificates(options: &Connection) -> Result<Vec<Certificate>, ProviderError> {
    let path = options.certificates.clone().unwrap_or_default();
    let unusable = |reason: String| ProviderError::Certificates {
        backend: options.name.clone(),
        path: path.clone(),
        reason,
    };
    let pem = std::fs::read(&path).map_err(|error| unusable(error.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| unusable(deepest(&error)))?;
    if certificates.is_empty() {
        return Err(unusable("the file holds no certificate in PEM form".to_owned()));
    }
    Ok(certificates)
}

/// The error for a request that found no answer, or whose answer broke off.
pub(crate) fn transport_error(error: &reqwest::Error, timeouts: &crate::Timeouts) -> Error {
    if error.is_connect() && error.is_timeout() {
        return Error::new(
            ErrorKind::Timeout,
            format!("The backend could not be connected to within {} s.", timeouts.connect.as_secs_f32()),
        );
    }
    let what = if error.is_connect() {
        "The backend cannot be reached; check its base URL, the network and its `proxy`"
    } else if error.is_request() {
        "The backend's connection broke before it answered"
    } else {
        "The backend's connection broke in the middle of its answer"
    };
    Error::new(ErrorKind::Upstream, format!("{what} ({}).", deepest(error)))
}

/// Whether nothing of the request can have left, so that to repeat it is harmless and may help.
pub(crate) fn is_worth_repeating(error: &reqwest::Error) -> bool {
    error.is_connect() && !error.is_timeout()
}

/// The innermost cause, which is the only one that says something, and never the address.
fn deepest(error: &reqwest::Error) -> String {
    let Some(mut cause) = error.source() else {
        return "no further reason is known".to_owned();
    };
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
