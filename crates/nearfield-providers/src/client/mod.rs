//! The HTTP client: connections that are used again, and what its errors mean.

mod bell;
mod connector;
mod dial;
mod line;
mod tls;

use std::error::Error as StdError;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use hyper::header::{HeaderMap, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use nearfield_api::{Error, ErrorKind};

use crate::connection::Connection;
use crate::{ProviderError, Timeouts};
use connector::{BoxError, Connector, TookTooLong};
use dial::Dial;
use line::{LineBody, Lines};

/// Shorter than the 60 s after which common load balancers close a connection, since a request that meets the close
/// half way fails.
const LONGEST_IDLE_CONNECTION: Duration = Duration::from_secs(55);
/// How often a connection in use is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// For a connection of [`Client::direct`].
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const NAME: HeaderValue = HeaderValue::from_static(concat!("nearfield/", env!("CARGO_PKG_VERSION")));

/// A request. Boxed, since each future on its way would have room for it.
pub(crate) type Request = Box<hyper::Request<RequestBody>>;
/// Boxed since the library keeps room for 32 requests on each connection.
pub(crate) type RequestBody = Box<Full<Bytes>>;

/// A reply, of which the head is there.
pub(crate) struct Response {
    head: http::response::Parts,
    body: Body,
}

/// What comes after a reply's head.
pub(crate) enum Body {
    Line(Box<LineBody>),
    Shared(Incoming),
}

/// Why a request got no reply.
pub(crate) enum SendError {
    /// No connection came about.
    Unconnected(BoxError),
    /// It broke before the reply.
    Broken(BoxError),
}

impl From<legacy::Error> for SendError {
    fn from(error: legacy::Error) -> Self {
        if error.is_connect() { Self::Unconnected(error.into()) } else { Self::Broken(error.into()) }
    }
}

/// Sends requests over connections that it keeps. It follows no redirect, since policy did not allow the other place,
/// and repeats nothing that can have left. The environment's proxies are ignored: only a proxy that the backend names is
/// used, and this machine is never reached through one.
pub(crate) struct Client {
    /// With TLS, where several requests may share a connection.
    shared: legacy::Client<Connector, RequestBody>,
    /// Without.
    lines: Lines,
    /// Goes with requests that a proxy sees.
    proxy_authorization: Option<HeaderValue>,
}

impl Client {
    /// A client for a backend's connection.
    pub(crate) fn new(options: &Connection, loopback: bool) -> Result<Self, ProviderError> {
        let tls = tls::config(options)?;
        let dial = Dial::new(options, loopback, &tls)?;
        Ok(Self::over(dial, tls, options.timeouts.connect))
    }

    /// A client without proxy, trust or socket of any backend.
    pub(crate) fn direct(backend: &str) -> Result<Self, ProviderError> {
        Ok(Self::over(Dial::direct(), tls::system(backend)?, CONNECT_TIMEOUT))
    }

    fn over(dial: Dial, tls: rustls::ClientConfig, timeout: Duration) -> Self {
        let proxy_authorization = dial.proxy_authorization();
        let lines = Lines::new(dial.clone(), timeout);
        let shared = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(LONGEST_IDLE_CONNECTION)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .build(Connector::new(dial, tls, timeout));
        Self { shared, lines, proxy_authorization }
    }

    /// Sends a request; returns the head of its reply.
    pub(crate) async fn send(&self, mut request: Request) -> Result<Response, SendError> {
        request.headers_mut().insert(USER_AGENT, NAME);
        let plain = request.uri().scheme_str() == Some("http");
        if let Some(value) = self.proxy_authorization.as_ref().filter(|_| plain) {
            request.headers_mut().insert(PROXY_AUTHORIZATION, value.clone());
        }
        #[cfg(feature = "sabotage")]
        let again = request.clone();
        let response = self.once(request, plain).await?;
        #[cfg(feature = "sabotage")]
        let response = match crate::sabotage::follow(again, &response) {
            Some(again) => self.once(again, plain).await?,
            None => response,
        };
        Ok(response)
    }

    async fn once(&self, request: Request, plain: bool) -> Result<Response, SendError> {
        if plain {
            let (head, body) = self.lines.send(request).await?;
            return Ok(Response { head, body: Body::Line(Box::new(body)) });
        }
        let (head, body) = self.shared.request(*request).await?.into_parts();
        Ok(Response { head, body: Body::Shared(body) })
    }
}

impl Response {
    pub(crate) const fn status(&self) -> StatusCode {
        self.head.status
    }

    pub(crate) const fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The body alone. The head keeps what the connection has read, which then must read into new memory.
    pub(crate) fn into_body(self) -> Body {
        self.body
    }

    /// The next bytes of the body; `None` at its end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        self.body.chunk().await
    }
}

impl Body {
    /// The next bytes; `None` at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        poll_fn(|context| match self {
            Self::Line(body) => body.poll_chunk(context),
            Self::Shared(body) => poll_chunk(body, context),
        })
        .await
    }
}

/// The next bytes of a body; `None` at its end.
fn poll_chunk(body: &mut Incoming, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, hyper::Error>> {
    while let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(context)) {
        // Trailers say nothing to us.
        if let Ok(bytes) = frame?.into_data()
            && !bytes.is_empty()
        {
            return Poll::Ready(Ok(Some(bytes)));
        }
    }
    Poll::Ready(Ok(None))
}

/// The error for a request that found no answer.
pub(crate) fn unanswered(error: &SendError, timeouts: &Timeouts) -> Error {
    let (what, error) = match error {
        SendError::Unconnected(error) if took_too_long(&**error) => {
            return Error::new(
                ErrorKind::Timeout,
                format!("The backend could not be connected to within {} s.", timeouts.connect.as_secs_f32()),
            );
        }
        SendError::Unconnected(error) => {
            ("The backend cannot be reached; check its base URL, the network and its `proxy`", error)
        }
        SendError::Broken(error) => ("The backend's connection broke before it answered", error),
    };
    Error::new(ErrorKind::Upstream, format!("{what} ({}).", deepest(&**error)))
}

/// The error for an answer that broke off.
pub(crate) fn broken(error: &hyper::Error) -> Error {
    Error::new(
        ErrorKind::Upstream,
        format!("The backend's connection broke in the middle of its answer ({}).", deepest(error)),
    )
}

fn took_too_long(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(<dyn StdError>::is::<TookTooLong>)
}

/// The innermost cause, which is the only one that says something, and never the address.
fn deepest(error: &(dyn StdError + 'static)) -> String {
    causes(error).last().map_or_else(String::new, ToString::to_string)
}

/// An error and what is behind it, the outermost first.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&cause| cause.source())
}
