//! Requests with the rules of this crate: which hosts see credentials, which redirects are followed, what is retried.

use std::error::Error as _;
use std::fmt;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Certificate, Client, Response, StatusCode, redirect};
use tokio::sync::OnceCell;
use url::Url;

use crate::error::HubError;
use crate::progress::Meter;
use crate::reference::{is_allowed_address, is_loopback};
use crate::secret::{Credential, scrub, shown, strip_user_info};
use crate::settings::HubSettings;

/// Most redirects followed for one request.
const MAX_REDIRECTS: usize = 10;
/// Longest pause between attempts that no server asked for.
const MAX_BACKOFF: Duration = Duration::from_secs(8);
/// The hub's header that says why it refuses.
const ERROR_CODE: &str = "x-error-code";

/// Sends requests.
pub(crate) struct HttpClient {
    settings: Arc<HubSettings>,
    /// For other machines: the system's certificates and proxy settings.
    remote: OnceCell<Client>,
    /// For this machine: never through a proxy.
    local: OnceCell<Client>,
}

/// One thing to fetch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resource<'a> {
    pub(crate) url: &'a Url,
    pub(crate) credential: Option<&'a Credential>,
}

/// An attempt that brought nothing, and whether another one may.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Boxed, to keep results small.
    pub(crate) error: Box<HubError>,
    pub(crate) retry: Retry,
    /// The hub's own word for it, if it gave one.
    pub(crate) code: Option<String>,
}

/// What may follow a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// It would fail again.
    Never,
    /// After a pause of our choice.
    Backoff,
    /// After the pause that the server asks for.
    After(Duration),
}

impl Failure {
    pub(crate) fn fatal(error: HubError) -> Self {
        Self { error: Box::new(error), retry: Retry::Never, code: None }
    }

    pub(crate) fn passing(error: HubError) -> Self {
        Self { error: Box::new(error), retry: Retry::Backoff, code: None }
    }

    pub(crate) fn cut(url: &Url, reason: impl Into<String>) -> Self {
        Self::passing(HubError::Network { url: shown(url), reason: reason.into(), unreachable: false })
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::fatal(error)
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A client prints its proxies, and those may hold passwords.
        formatter.write_str("HttpClient")
    }
}

impl HttpClient {
    pub(crate) fn new(settings: Arc<HubSettings>) -> Self {
        Self { settings, remote: OnceCell::new(), local: OnceCell::new() }
    }

    async fn client_for(&self, url: &Url) -> Result<&Client, HubError> {
        let (cell, local) = if is_loopback(url) { (&self.local, true) } else { (&self.remote, false) };
        cell.get_or_try_init(|| async { build_client(&self.settings, url, local) }).await
    }

    /// Sends one GET and follows redirects. Answers 200, 206 and 416 are returned, all others are failures.
    pub(crate) async fn get(&self, resource: Resource<'_>, headers: &HeaderMap) -> Result<Response, Failure> {
        let mut url = resource.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.client_for(&url).await?.get(url.clone()).headers(headers.clone());
            if let Some(header) = resource.credential.and_then(|credential| credential.header_for(&url)) {
                request = request.header(AUTHORIZATION, header);
            }
            let response = match tokio::time::timeout(self.settings.idle_timeout, request.send()).await {
                Err(_) => {
                    return Err(Failure::passing(HubError::Stalled {
                        url: shown(&url),
                        after: self.settings.idle_timeout,
                    }));
                }
                Ok(Err(error)) => return Err(transport_failure(&url, error)),
                Ok(Ok(response)) => response,
            };
            match response.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                    return Ok(response);
                }
                status if status.is_redirection() => {
                    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
                    url = redirect_target(&url, location)?;
                }
                _ => return Err(self.refusal(&url, &response)),
            }
        }
        Err(Failure::fatal(HubError::BadResponse {
            url: shown(resource.url),
            reason: format!("more than {MAX_REDIRECTS} redirects"),
        }))
    }

    /// Fetches a small document as text, with retries.
    pub(crate) async fn get_text(
        &self,
        resource: Resource<'_>,
        limit: usize,
        retries: &mut Retries,
        meter: &Meter<'_>,
    ) -> Result<String, Failure> {
        loop {
            match self.get_text_once(resource, limit).await {
                Ok(text) => {
                    retries.reset();
                    return Ok(text);
                }
                Err(failure) => retries.pause(failure, meter).await?,
            }
        }
    }

    async fn get_text_once(&self, resource: Resource<'_>, limit: usize) -> Result<String, Failure> {
        let mut response = self.get(resource, &plain_headers()).await?;
        let bad = |reason: &str| {
            Failure::fatal(HubError::BadResponse { url: shown(resource.url), reason: reason.to_owned() })
        };
        if response.status() != StatusCode::OK {
            return Err(bad("the server answers a plain request with a part"));
        }
        let mut bytes = Vec::new();
        loop {
            let chunk = match tokio::time::timeout(self.settings.idle_timeout, response.chunk()).await {
                Err(_) => {
                    let after = self.settings.idle_timeout;
                    return Err(Failure::passing(HubError::Stalled { url: shown(resource.url), after }));
                }
                Ok(Err(error)) => return Err(transport_failure(resource.url, error)),
                Ok(Ok(None)) => break,
                Ok(Ok(Some(chunk))) => chunk,
            };
            if bytes.len() + chunk.len() > limit {
                return Err(bad(&format!("the answer is longer than {limit} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        String::from_utf8(bytes).map_err(|_| bad("the answer is not UTF-8"))
    }

    /// The failure for an answer that is neither content nor a redirect.
    fn refusal(&self, url: &Url, response: &Response) -> Failure {
        let status = response.status();
        let code =
            response.headers().get(ERROR_CODE).and_then(|code| code.to_str().ok()).map(ToOwned::to_owned);
        let wait =
            response.headers().get(RETRY_AFTER).and_then(|value| parse_retry_after(value, SystemTime::now()));
        let passing = matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504);
        if let Some(wait) = wait.filter(|_| passing) {
            if wait > self.settings.max_retry_after {
                return Failure::fatal(HubError::RateLimited { url: shown(url), wait });
            }
            return Failure { error: Box::new(status_error(url, status)), retry: Retry::After(wait), code };
        }
        let retry = if passing { Retry::Backoff } else { Retry::Never };
        Failure { error: Box::new(status_error(url, status)), retry, code }
    }
}

/// Most attempts when no connection comes about at all.
const MAX_CONNECT_ATTEMPTS: u32 = 3;
/// Most attempts at a source that has brought nothing yet while another one waits.
const MAX_OPENING_ATTEMPTS: u32 = 2;

/// Counts attempts that bring nothing new, and pauses between them.
#[derive(Debug)]
pub(crate) struct Retries {
    attempts: u32,
    delay: Duration,
    failed: u32,
    /// Another source waits, and this one has brought nothing yet.
    replaceable: bool,
}

impl Retries {
    /// `has_alternative`: another source waits, so that a host that cannot be reached or is silent is given up at once.
    pub(crate) fn new(settings: &HubSettings, has_alternative: bool) -> Self {
        Self {
            attempts: settings.attempts.max(1),
            delay: settings.retry_delay,
            failed: 0,
            replaceable: has_alternative,
        }
    }

    /// Something new came: the count starts again.
    pub(crate) fn reset(&mut self) {
        self.failed = 0;
        self.replaceable = false;
    }

    /// How many attempts in a row may end like this.
    fn limit(&self, error: &HubError) -> u32 {
        match error {
            HubError::Network { unreachable: true, .. } | HubError::Stalled { .. } if self.replaceable => 1,
            _ if self.replaceable => self.attempts.min(MAX_OPENING_ATTEMPTS),
            HubError::Network { unreachable: true, .. } => self.attempts.min(MAX_CONNECT_ATTEMPTS),
            _ => self.attempts,
        }
    }

    /// Waits before the next attempt, or gives the failure back when there is none.
    pub(crate) async fn pause(&mut self, failure: Failure, meter: &Meter<'_>) -> Result<(), Failure> {
        self.failed += 1;
        let backoff = self.delay.saturating_mul(1 << (self.failed - 1).min(10)).min(MAX_BACKOFF);
        let wait = match failure.retry {
            Retry::Never => return Err(failure),
            _ if self.failed >= self.limit(&failure.error) => return Err(failure),
            Retry::Backoff => backoff,
            Retry::After(wait) => wait.max(backoff),
        };
        tracing::debug!(error = %failure.error, attempt = self.failed, "trying again");
        if wait >= Duration::from_secs(2) {
            meter.message(&format!("{}; trying again in {} s", failure.error, wait.as_secs()));
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// Headers of every request: no content coding, since lengths and ranges count the bytes of the file.
pub(crate) fn plain_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers
}

/// The failure for a transport error, told without the address's secrets.
pub(crate) fn transport_failure(url: &Url, error: reqwest::Error) -> Failure {
    let unreachable = error.is_connect();
    let error = error.without_url();
    let mut deepest: &dyn std::error::Error = &error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    let what = if unreachable { "cannot connect" } else { "the connection broke" };
    let reason = format!("{what}: {}", scrub(&deepest.to_string()));
    debug_assert!(error.url().is_none());
    Failure::passing(HubError::Network { url: shown(url), reason, unreachable })
}

fn build_client(settings: &HubSettings, url: &Url, local: bool) -> Result<Client, HubError> {
    let mut builder = Client::builder()
        .user_agent(concat!("nearfield/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .connect_timeout(settings.connect_timeout);
    if local {
        builder = builder.no_proxy();
    }
    if let Some(path) = &settings.certificate_bundle {
        let pem = fs::read(path).map_err(|error| HubError::io(path, error))?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| HubError::InvalidSetting {
            name: "certificate bundle",
            reason: format!("{}: {}", path.display(), error.without_url()),
        })?;
        builder = builder.tls_certs_merge(certificates);
    }
    // Not a mistake in a setting of ours: pip brings certificates of its own and may well succeed.
    builder.build().map_err(|error| HubError::Network {
        url: shown(url),
        reason: format!(
            "TLS cannot be set up ({}); install the system's CA certificates",
            error.source().map_or_else(|| error.to_string(), ToString::to_string)
        ),
        unreachable: true,
    })
}

/// Where a redirect from `from` leads, if it may be followed.
fn redirect_target(from: &Url, location: Option<&str>) -> Result<Url, Failure> {
    let bad = |reason: String| Failure::fatal(HubError::BadResponse { url: shown(from), reason });
    let location = location.ok_or_else(|| bad("the server redirects without saying where".to_owned()))?;
    let mut target =
        from.join(location).map_err(|error| bad(format!("the redirect leads nowhere: {error}")))?;
    strip_user_info(&mut target);
    if from.scheme() == "https" && target.scheme() != "https" {
        return Err(bad(format!("refused to follow a redirect from https to {}", target.scheme())));
    }
    if !is_allowed_address(&target) || (is_loopback(&target) && !is_loopback(from)) {
        return Err(bad(format!("refused to follow a redirect to {}", shown(&target))));
    }
    Ok(target)
}

fn status_error(url: &Url, status: StatusCode) -> HubError {
    let hint = match status.as_u16() {
        401 | 403 => "; it asks for credentials that were not given or do not suffice",
        404 | 410 => "; check the name: there is no such file",
        407 => "; the proxy asks for credentials",
        408 | 425 | 429 | 500..=599 => "; run the command again later to continue where it stopped",
        _ => "",
    };
    HubError::Status { url: shown(url), status: status.as_u16(), hint: hint.to_owned() }
}

/// `Retry-After` as seconds or as an HTTP date.
fn parse_retry_after(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let parse = |text: &str| parse_retry_after(&HeaderValue::from_str(text).unwrap(), now);
        assert_eq!(parse("7"), Some(Duration::from_secs(7)));
        assert_eq!(
            parse(&httpdate::fmt_http_date(now + Duration::from_secs(90))),
            Some(Duration::from_secs(90))
        );
        assert_eq!(parse(&httpdate::fmt_http_date(now - Duration::from_secs(90))), Some(Duration::ZERO));
        assert_eq!(parse("soon"), None);
        assert_eq!(parse("-1"), None);
    }

    #[test]
    fn redirects_never_lead_from_https_to_http_nor_from_outside_to_this_machine() {
        let target = |from: &str, location: &str| {
            let target = redirect_target(&from.parse().unwrap(), Some(location));
            target.map(|url| url.to_string()).map_err(|failure| failure.error.to_string())
        };
        assert_eq!(target("https://a.example/x", "/y?s=1").unwrap(), "https://a.example/y?s=1");
        assert_eq!(target("https://a.example/x", "https://u:p@b.example/z").unwrap(), "https://b.example/z");
        assert!(target("https://a.example/x", "http://127.0.0.1/z").unwrap_err().contains("https to http"));
        assert!(target("https://a.example/x", "https://127.0.0.1/z").unwrap_err().contains("refused"));
        assert!(target("http://127.0.0.1/x", "http://b.example/z").unwrap_err().contains("refused"));
        assert!(target("http://127.0.0.1/x", "file:///etc/passwd").unwrap_err().contains("refused"));
    }
}
