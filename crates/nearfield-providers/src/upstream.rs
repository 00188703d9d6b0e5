//! One account at one address: sends requests and reads what is no answer.

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::request::Builder;
use http_body_util::Full;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, StatusCode};
use nearfield_api::openai::{decode_error, parse_retry_after};
use nearfield_api::{Error, ErrorKind};
use tokio::time::{Instant, timeout, timeout_at};

use crate::auth::Auth;
use crate::base_url::BaseUrl;
use crate::client::{self, Client, Response};
use crate::connection::Connection;
use crate::{ProviderError, Timeouts};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// An error body is read so far and no further.
const LARGEST_ERROR_BODY: usize = 64 * 1024;
/// And for so long.
const LONGEST_ERROR_BODY: Duration = Duration::from_secs(5);

pub(crate) struct Upstream {
    pub(crate) name: String,
    pub(crate) timeouts: Timeouts,
    /// Whether a Unix socket leads there.
    pub(crate) by_socket: bool,
    base_url: BaseUrl,
    auth: Auth,
    client: Client,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A client prints its proxies, and those may hold passwords.
        formatter.debug_struct("Upstream").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Upstream {
    pub(crate) fn new(connection: &Connection) -> Result<Self, ProviderError> {
        let name = connection.name.clone();
        let base_url = BaseUrl::parse(&connection.base_url, connection.allow_plaintext)
            .map_err(|reason| ProviderError::BaseUrl { backend: name.clone(), reason })?;
        let client = Client::new(connection, base_url.is_loopback())?;
        Ok(Self {
            name,
            timeouts: connection.timeouts,
            by_socket: connection.socket.is_some(),
            base_url,
            auth: connection.auth.clone(),
            client,
        })
    }

    /// Posts a JSON body and returns the reply when its status is 200. The headers are these, those that show who
    /// sends, and no others: nothing of the caller's own request is passed on.
    pub(crate) async fn post(
        &self,
        path: &str,
        body: String,
        headers: &[(&'static str, &'static str)],
    ) -> Result<Response, Error> {
        let mut request = self.request(Method::POST, path)?.header(CONTENT_TYPE, JSON);
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_static(value));
        }
        self.send(request, body.into(), self.timeouts.first_byte).await
    }

    /// Gets a JSON document of at most `limit` bytes.
    pub(crate) async fn get(
        &self,
        path: &str,
        limit: usize,
        wait: Duration,
        headers: &[(&'static str, &'static str)],
    ) -> Result<Vec<u8>, Error> {
        let deadline = Instant::now() + wait;
        let mut request = self.request(Method::GET, path)?.header(ACCEPT, JSON);
        for (name, value) in headers.iter().filter(|(name, _)| *name != "accept") {
            request = request.header(*name, HeaderValue::from_static(value));
        }
        let mut response = self.send(request, Bytes::new(), wait).await?;
        let mut body = Vec::new();
        loop {
            let chunk = match timeout_at(deadline, response.chunk()).await {
                Err(_) => return Err(self.error(silent(wait))),
                Ok(Err(error)) => return Err(self.error(client::broken(&error))),
                Ok(Ok(None)) => return Ok(body),
                Ok(Ok(Some(chunk))) => chunk,
            };
            if body.len() + chunk.len() > limit {
                return Err(self.error(too_large(limit)));
            }
            body.extend_from_slice(&chunk);
        }
    }

    fn request(&self, method: Method, path: &str) -> Result<Builder, Error> {
        let uri = self.base_url.join(path).map_err(|error| self.error(error))?;
        let identity = HeaderValue::from_static("identity");
        Ok(hyper::Request::builder().method(method).uri(uri).header(ACCEPT_ENCODING, identity))
    }

    /// Sends a request and returns a reply with status 200.
    async fn send(&self, request: Builder, body: Bytes, wait: Duration) -> Result<Response, Error> {
        let request = request.body(Box::new(Full::new(body.clone()))).map_err(|_| {
            self.error(Error::new(ErrorKind::Internal, "The backend's request cannot be written as one."))
        })?;
        let mut request = Box::new(request);
        self.auth.put(&mut request, &body, &self.client).await.map_err(|error| self.error(error))?;
        #[cfg(feature = "sabotage")]
        crate::sabotage::keep_headers(&mut request);
        // Else it would be kept until there is a reply.
        drop(body);
        match timeout(wait, self.client.send(request)).await {
            Err(_) => Err(self.error(silent(wait))),
            Ok(Err(error)) => Err(self.error(client::unanswered(&error, &self.timeouts))),
            Ok(Ok(response)) if response.status() == StatusCode::OK => Ok(response),
            Ok(Ok(response)) => Err(self.refusal(response).await),
        }
    }

    /// The error that a reply with another status tells.
    async fn refusal(&self, mut response: Response) -> Error {
        let status = response.status();
        let wait = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| parse_retry_after(value.to_str().ok()?, SystemTime::now()));
        let mut body = Vec::new();
        let deadline = Instant::now() + LONGEST_ERROR_BODY;
        // The status says what matters: a body that cannot be had, or not whole, only adds no words.
        while let Ok(Ok(Some(chunk))) = timeout_at(deadline, response.chunk()).await {
            if body.len() + chunk.len() > LARGEST_ERROR_BODY {
                break;
            }
            body.extend_from_slice(&chunk);
        }
        self.error(decode_error(status.as_u16(), &body, wait))
    }

    /// An error as it may be shown: without the key, and with the backend's name.
    pub(crate) fn error(&self, error: Error) -> Error {
        let mut error = self.auth.conceal(error);
        // The codecs do not know the name and write "The backend ...".
        if let Some(rest) = error.message.strip_prefix("The backend") {
            error.message = format!("The backend `{}`{rest}", self.name);
        }
        // A provider's words may repeat the prompt: they are for the caller.
        let (backend, kind, code) = (&self.name, error.kind.as_str(), error.code.as_deref());
        tracing::debug!(backend, kind, code, "the backend answered with an error");
        error
    }
}

pub(crate) fn silent(wait: Duration) -> Error {
    Error::new(
        ErrorKind::Timeout,
        format!("The backend did not answer within {} s; ask again later.", wait.as_secs_f32()),
    )
}

pub(crate) fn too_large(limit: usize) -> Error {
    Error::new(
        ErrorKind::Upstream,
        format!("The backend's answer is larger than {limit} bytes and was refused."),
    )
}
