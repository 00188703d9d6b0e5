//! One connection, from its first byte to its last.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use nearfield_api::{Error, ErrorKind};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use super::activity::{Activity, Busy, HoldingBody};
use super::framing::{HeadProblem, HeadWatch, Verdict};
use super::io::WatchedStream;
use super::record::{RecordedBody, unrecorded};
use super::reply::error_response;
use super::routes::handle;
use super::{Reply, Service, Shutdown};
use crate::limits::Limits;

/// The smallest buffer that the HTTP library accepts.
const LEAST_BUFFER: usize = 8192;
/// Headers of one request that it takes unless told otherwise.
const USUAL_HEADERS: usize = 100;
/// How long a connection without a request stays when the server stops: what was written can still leave.
const DRAIN_IDLE: Duration = Duration::from_millis(500);
/// Interval of HTTP/2 pings, and the wait for their answer.
const PING: Duration = Duration::from_secs(20);

/// What HTTP/2 begins with, and no request of HTTP/1 does.
const HTTP2: [u8; 4] = *b"PRI ";
/// Until a beginning that came in pieces is looked at again.
const PEEK_PAUSE: Duration = Duration::from_millis(5);

/// What all connections share.
pub(super) struct ConnectionContext {
    pub(super) service: Service,
    pub(super) limits: Limits,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) shutdown: Shutdown,
}

/// Serves one accepted connection until it ends.
pub(super) async fn serve_connection(stream: TcpStream, context: Arc<ConnectionContext>) {
    let Ok(local) = stream.local_addr() else { return };
    // Tokens are small and urgent.
    let _ = stream.set_nodelay(true);
    let activity = Activity::new();
    // What few connections need is boxed, so that the many take no room for it.
    if let Some(acceptor) = &context.tls {
        return Box::pin(serve_tls(stream, acceptor, local, activity, &context)).await;
    }
    let http2 = tokio::select! {
        http2 = timeout(context.limits.header_read, is_http2(&stream)) => http2.ok(),
        // What comes now can still be answered.
        () = context.shutdown.draining() => Some(false),
    };
    match http2 {
        Some(true) => Box::pin(serve_http2(stream, local, activity, &context)).await,
        Some(false) => serve_http1(stream, local, activity, &context).await,
        None => tracing::debug!("closing a connection that asks nothing"),
    }
}

/// Whether a client begins with HTTP/2, without TLS and unasked. No byte is taken from the stream.
async fn is_http2(stream: &TcpStream) -> bool {
    let mut start = [0; HTTP2.len()];
    loop {
        match stream.peek(&mut start).await {
            // Whoever reads next meets the same end.
            Ok(0) | Err(_) => return false,
            Ok(read) => match begins_http2(start.get(..read).unwrap_or_default()) {
                Some(begins) => return begins,
                None => sleep(PEEK_PAUSE).await,
            },
        }
    }
}

/// `None` while more bytes are needed to tell.
fn begins_http2(bytes: &[u8]) -> Option<bool> {
    let common = bytes.len().min(HTTP2.len());
    let begins = bytes.get(..common) == HTTP2.get(..common);
    (!begins || common == HTTP2.len()).then_some(begins)
}

async fn serve_tls(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    local: SocketAddr,
    activity: Activity,
    context: &ConnectionContext,
) {
    tokio::select! {
        accepted = timeout(context.limits.header_read, acceptor.accept(stream)) => match accepted {
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                serve_http2(stream, local, activity, context).await;
            }
            Ok(Ok(stream)) => serve_http1(stream, local, activity, context).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        },
        () = context.shutdown.draining() => {}
    }
}

async fn serve_http1<S>(stream: S, local: SocketAddr, activity: Activity, context: &ConnectionContext)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let served = Served::new(local, activity, context);
    let io = served.watch(stream);
    let connection =
        http1(&context.limits).serve_connection(io, service_fn(|request| served.answer(request)));
    served.attend(connection, http1::Connection::graceful_shutdown).await;
}

async fn serve_http2<S>(stream: S, local: SocketAddr, activity: Activity, context: &ConnectionContext)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let served = Served::new(local, activity, context);
    let io = served.watch(stream);
    let builder = http2(&context.limits, &context.shutdown);
    let connection = builder.serve_connection(io, service_fn(|request| served.answer(request)));
    served.attend(connection, http2::Connection::graceful_shutdown).await;
}

/// A connection that is served.
struct Served<'a> {
    local: SocketAddr,
    activity: Activity,
    /// Requests whose heads were read.
    heads: AtomicU64,
    verdict: Verdict,
    context: &'a ConnectionContext,
}

/// A request on its way to its reply.
type Answering = Pin<Box<dyn Future<Output = Result<Response<HeldBody>, Infallible>> + Send>>;
/// A reply's body, with which its connection is busy.
type HeldBody = HoldingBody<RecordedBody, Busy>;

impl<'a> Served<'a> {
    fn new(local: SocketAddr, activity: Activity, context: &'a ConnectionContext) -> Self {
        Self { local, activity, heads: AtomicU64::new(0), verdict: Verdict::default(), context }
    }

    fn watch<S>(&self, stream: S) -> TokioIo<WatchedStream<S>> {
        let limits = &self.context.limits;
        let watch = HeadWatch::new(limits.header_bytes, limits.headers, self.verdict.clone());
        TokioIo::new(WatchedStream::new(stream, watch, limits.write_stall))
    }

    fn answer(&self, request: Request<Incoming>) -> Answering {
        let number = self.heads.fetch_add(1, Ordering::Relaxed);
        let refusal = if request.version() < Version::HTTP_2 { self.verdict.refusal(number) } else { None };
        let (service, local) = (Arc::clone(&self.context.service), self.local);
        let busy = self.activity.enter();
        // Boxed, so that a connection that asks nothing takes no room for it.
        Box::pin(async move {
            let response = answer(request, local, refusal, service).await;
            Ok(response.map(|body| HoldingBody::new(body, busy, |_| {})))
        })
    }

    /// Moves a connection along to its end; `stop` tells it to take no more requests.
    async fn attend<C>(&self, connection: C, stop: fn(Pin<&mut C>))
    where
        C: Future<Output = hyper::Result<()>>,
    {
        let (limits, shutdown) = (&self.context.limits, &self.context.shutdown);
        let mut connection = pin!(connection);
        let mut draining = false;
        loop {
            let idle = self.activity.idle_since();
            let patience = match idle {
                _ if draining => DRAIN_IDLE,
                _ if self.heads.load(Ordering::Relaxed) == 0 => limits.header_read,
                _ => limits.idle,
            };
            // While a request runs there is nothing to wait for but its end; look again later.
            let wake = idle.unwrap_or_else(Instant::now) + patience;
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection ended early");
                    }
                    return;
                }
                () = shutdown.draining(), if !draining => {
                    draining = true;
                    stop(connection.as_mut());
                }
                () = sleep_until(wake) => {
                    if self.activity.idle_since().is_some_and(|since| since.elapsed() >= patience) {
                        tracing::debug!("closing a connection that asks nothing");
                        return;
                    }
                }
            }
        }
    }
}

/// The HTTP library with our limits.
fn http1(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .max_buf_size(limits.header_bytes.max(LEAST_BUFFER));
    // The watch refuses what passes our own limit, and to set one here costs every request.
    if limits.headers > USUAL_HEADERS {
        builder.max_headers(limits.headers);
    }
    builder
}

fn http2(limits: &Limits, shutdown: &Shutdown) -> http2::Builder<Executor> {
    let mut builder = http2::Builder::new(Executor(shutdown.clone()));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.http2_streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(20)
        .max_send_buf_size(256 << 10)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}

/// Answers one request, after what only its connection knows was looked at.
async fn answer(
    request: Request<Incoming>,
    local: SocketAddr,
    refusal: Option<HeadProblem>,
    service: Service,
) -> Response<RecordedBody> {
    let chunked =
        request.version() < Version::HTTP_2 && request.headers().contains_key(header::TRANSFER_ENCODING);
    let mut response = if let Some(problem) = refusal {
        unrecorded(refuse(problem))
    } else {
        handle(&service, local, request).await
    };
    // After chunks the watch of the bytes has lost the thread, and after a doubtful request nothing is certain.
    if chunked || refusal.is_some() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn refuse(problem: HeadProblem) -> Reply {
    let (status, message) = match problem {
        HeadProblem::Lengths => (
            StatusCode::BAD_REQUEST,
            "the request gives its length more than once, or in a way that is not one",
        ),
        HeadProblem::TooLarge => {
            (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the request's headers are larger than the limit")
        }
        HeadProblem::Malformed => (StatusCode::BAD_REQUEST, "the request's head cannot be parsed"),
        HeadProblem::AfterClose => (StatusCode::BAD_REQUEST, "no request may follow a chunked one"),
    };
    tracing::info!(%status, "refused a request: {message}");
    let mut response = error_response(&Error::new(ErrorKind::InvalidRequest, message));
    *response.status_mut() = status;
    response
}

/// Runs the requests of an HTTP/2 connection; all end when the server ends at once.
#[derive(Clone)]
struct Executor(Shutdown);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        let shutdown = self.0.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = future => {}
                () = shutdown.ending() => {}
            }
        });
    }
}

/// Tells a plain-text client that there is no room, without reading what it asks.
pub(super) async fn refuse_connection(mut stream: TcpStream) {
    const BODY: &str = concat!(
        r#"{"error":{"message":"the server has too many connections; try again in a second","#,
        r#""type":"overloaded_error","param":null,"code":"too_many_connections"}}"#
    );
    let reply = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         retry-after: 1\r\nconnection: close\r\n\r\n{BODY}",
        BODY.len()
    );
    let polite = async {
        stream.write_all(reply.as_bytes()).await?;
        stream.shutdown().await?;
        // Closing with unread bytes resets the connection, and the reply could be lost with it.
        let mut sink = [0; 4096];
        let mut left = 64;
        while left > 0 && stream.read(&mut sink).await? > 0 {
            left -= 1;
        }
        std::io::Result::Ok(())
    };
    let _ = timeout(Duration::from_secs(1), polite).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http2_is_told_by_its_first_bytes() {
        for (bytes, expected) in [
            ("", None),
            ("P", None),
            ("PRI", None),
            ("PRI ", Some(true)),
            ("PRI * HTTP/2.0\r\n", Some(true)),
            ("G", Some(false)),
            ("PO", Some(false)),
            ("PRINT / HTTP/1.1\r\n", Some(false)),
            ("\r\nGET", Some(false)),
        ] {
            assert_eq!(begins_http2(bytes.as_bytes()), expected, "{bytes:?}");
        }
    }
}
