//! One connection, from its first byte to its last.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use nearfield_api::{Error, ErrorKind};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use super::activity::{Activity, HoldingBody};
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
    let Some(acceptor) = &context.tls else {
        return serve_stream(stream, local, &context).await;
    };
    tokio::select! {
        accepted = timeout(context.limits.header_read, acceptor.accept(stream)) => match accepted {
            Ok(Ok(stream)) => serve_stream(stream, local, &context).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        },
        () = context.shutdown.draining() => {}
    }
}

async fn serve_stream<S>(stream: S, local: SocketAddr, context: &ConnectionContext)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &context.limits;
    let verdict = Verdict::default();
    let watch = HeadWatch::new(limits.header_bytes, limits.headers, verdict.clone());
    let io = TokioIo::new(WatchedStream::new(stream, watch, limits.write_stall));
    let activity = Activity::new();
    let heads = AtomicU64::new(0);
    let service = service_fn(|request: Request<Incoming>| {
        let number = heads.fetch_add(1, Ordering::Relaxed);
        let refusal = if request.version() < Version::HTTP_2 { verdict.refusal(number) } else { None };
        let service = Arc::clone(&context.service);
        let busy = activity.enter();
        // Boxed, so that a connection that asks nothing takes no room for it.
        Box::pin(async move {
            let response = answer(request, local, refusal, service).await;
            Ok::<_, Infallible>(response.map(|body| HoldingBody::new(body, busy, |_| {})))
        })
    });
    let builder = builder(limits, &context.shutdown);
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut draining = false;
    loop {
        let (idle, patience) = match activity.idle_since() {
            _ if draining => (activity.idle_since(), DRAIN_IDLE),
            idle if heads.load(Ordering::Relaxed) == 0 => (idle, limits.header_read),
            idle => (idle, limits.idle),
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
            () = context.shutdown.draining(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            () = sleep_until(wake) => {
                if activity.idle_since().is_some_and(|since| since.elapsed() >= patience) {
                    tracing::debug!("closing a connection that asks nothing");
                    return;
                }
            }
        }
    }
}

/// The HTTP library with our limits.
fn builder(limits: &Limits, shutdown: &Shutdown) -> Builder<Executor> {
    let mut builder = Builder::new(Executor(shutdown.clone()));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .max_buf_size(limits.header_bytes.max(LEAST_BUFFER));
    // The watch refuses what passes our own limit, and to set one here costs every request.
    if limits.headers > USUAL_HEADERS {
        builder.http1().max_headers(limits.headers);
    }
    builder
        .http2()
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
