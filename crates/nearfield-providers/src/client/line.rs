//! Connections without TLS, which whoever asks over them moves along.
//!
//! The library's own client gives each connection a task. A piece of an answer then goes through two tasks, and often
//! through two processors, which at thousands of requests a second, and for a lone one, takes as long as all else that is
//! done with it. Without TLS there is one request at a time on a connection, so nobody but its caller needs to look at it.
//! Between two requests only the socket is kept: the library's buffers would be most of the memory of a quiet gateway.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use hyper::Uri;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, Parts, SendRequest};
use hyper::header::{HOST, HeaderValue};
use tokio::runtime::{self, Handle};
use tokio::time::{Instant, sleep};
use tower_service::Service as _;

use super::bell::Bell;
use super::connector::in_time;
use super::dial::{Dial, Wire};
use super::{LONGEST_IDLE_CONNECTION, Request, RequestBody, SendError, poll_chunk};

/// One connection with its request under way.
struct Line {
    sender: SendRequest<RequestBody>,
    connection: Moving,
    bell: Arc<Bell>,
    /// Rings it.
    waker: Waker,
    /// The runtime that it was opened in, which hears what comes over it.
    home: Handle,
}

impl Line {
    async fn begin(Resting { wire, home }: Resting) -> Result<Self, SendError> {
        let made = http1::handshake(wire).await;
        let (sender, connection) = made.map_err(|error| SendError::Unconnected(error.into()))?;
        let bell = Arc::<Bell>::default();
        let waker = Waker::from(Arc::clone(&bell));
        Ok(Self { sender, connection: Some(Box::new(connection)), bell, waker, home })
    }

    /// Polls what waits for the connection, and the connection with it.
    fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        mut waits: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Self { connection, bell, waker, .. } = self;
        bell.poll(context, waker, |inner| {
            advance(connection, inner);
            waits(inner)
        })
    }

    /// What is left after a request; `None` if the connection cannot serve another one.
    fn rest(mut self) -> Option<Resting> {
        advance(&mut self.connection, &mut Context::from_waker(Waker::noop()));
        let connection = self.connection.filter(|_| self.sender.is_ready())?;
        let Parts { io, read_buf, .. } = connection.into_parts();
        let mut resting = Resting { wire: io, home: self.home };
        (read_buf.is_empty() && resting.wire.is_quiet()).then_some(resting)
    }
}

/// What moves a connection; `None` once it has ended.
type Moving = Option<Box<Connection<Wire, RequestBody>>>;

fn advance(connection: &mut Moving, context: &mut Context<'_>) {
    let ended = connection.as_mut().is_none_or(|own| Pin::new(own).poll(context).is_ready());
    if ended {
        // Why is told to the request that is under way.
        *connection = None;
    }
}

/// A connection between two requests.
struct Resting {
    wire: Wire,
    home: Handle,
}

/// Makes connections, and keeps them.
pub(super) struct Lines {
    dial: Dial,
    connect: Duration,
    idle: Arc<Idle>,
}

/// Connections that wait for their next request, and since when. Each serves the runtime that it was opened in: for
/// another, each piece of an answer would wake up two processors.
#[derive(Default)]
struct Idle(Mutex<HashMap<runtime::Id, ByAuthority>>);

type ByAuthority = HashMap<Authority, Vec<(Resting, Instant)>>;

impl Lines {
    pub(super) fn new(dial: Dial, connect: Duration) -> Self {
        Self { dial, connect, idle: Arc::default() }
    }

    /// Sends a request to an address without TLS.
    pub(super) async fn send(
        &self,
        mut request: Request,
    ) -> Result<(http::response::Parts, LineBody), SendError> {
        let address = request.uri().clone();
        let authority = address.authority().cloned().unwrap_or_else(|| Authority::from_static("localhost"));
        if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
            request.headers_mut().entry(HOST).or_insert(host);
        }
        loop {
            let used = self.idle.take(&authority);
            let again = used.is_some();
            let resting = match used {
                Some(resting) => resting,
                // Boxed, since few requests need it.
                None => Box::pin(self.open(address.clone())).await?,
            };
            *request.uri_mut() = target(&address, resting.wire.is_proxied());
            let mut line = Line::begin(resting).await?;
            let mut answering = pin!(line.sender.try_send_request(*request));
            let answered = poll_fn(|context| line.poll(context, |inner| answering.as_mut().poll(inner)));
            match answered.await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let idle = Arc::clone(&self.idle);
                    return Ok((head, LineBody { body: Some(body), line: Some(line), authority, idle }));
                }
                Err(mut error) => match error.take_message().filter(|_| again) {
                    // It was closed while it waited, before anything was sent.
                    Some(unsent) => *request = unsent,
                    None => return Err(SendError::Broken(error.into_error().into())),
                },
            }
        }
    }

    async fn open(&self, address: Uri) -> Result<Resting, SendError> {
        let connecting = self.dial.clone().call(address);
        let wire = in_time(self.connect, connecting).await.map_err(SendError::Unconnected)?;
        Ok(Resting { wire, home: Handle::current() })
    }
}

impl Idle {
    fn all(&self) -> MutexGuard<'_, HashMap<runtime::Id, ByAuthority>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was used last: those used before may be closed first.
    fn take(&self, authority: &Authority) -> Option<Resting> {
        let runtime = Handle::try_current().ok()?.id();
        loop {
            let (mut resting, since) = self.all().get_mut(&runtime)?.get_mut(authority)?.pop()?;
            if since.elapsed() < LONGEST_IDLE_CONNECTION && resting.wire.is_quiet() {
                return Some(resting);
            }
        }
    }

    /// Keeps a connection for another request.
    fn put(self: &Arc<Self>, authority: Authority, resting: Resting) {
        let runtime = resting.home.id();
        let mut all = self.all();
        let own = all.entry(runtime).or_default();
        if own.is_empty() {
            resting.home.spawn(close_idle(Arc::downgrade(self), runtime));
        }
        own.entry(authority).or_default().push((resting, Instant::now()));
    }
}

/// Closes what was not used for long in a runtime, or was closed by its other end, until there is nothing more.
async fn close_idle(idle: Weak<Idle>, runtime: runtime::Id) {
    loop {
        sleep(LONGEST_IDLE_CONNECTION / 8).await;
        let Some(idle) = idle.upgrade() else { return };
        let mut all = idle.all();
        let Some(own) = all.get_mut(&runtime) else { return };
        own.retain(|_, all| {
            all.retain_mut(|(own, since)| since.elapsed() < LONGEST_IDLE_CONNECTION && own.wire.is_quiet());
            !all.is_empty()
        });
        if own.is_empty() {
            all.remove(&runtime);
            return;
        }
    }
}

/// An address as it stands in a request: whole for a proxy, else without scheme and host.
fn target(address: &Uri, whole: bool) -> Uri {
    let path = address.path_and_query().filter(|_| !whole);
    path.map_or_else(|| address.clone(), |path| Uri::from(path.clone()))
}

/// The body of a reply. When it is dropped and its end is there, read or not, its connection serves another request; else
/// the connection is closed.
pub(crate) struct LineBody {
    /// `None` only while it is dropped.
    body: Option<Incoming>,
    line: Option<Line>,
    authority: Authority,
    idle: Arc<Idle>,
}

impl LineBody {
    /// The next bytes; `None` at the end.
    pub(super) fn poll_chunk(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, hyper::Error>> {
        let (Some(body), Some(line)) = (&mut self.body, &mut self.line) else { return Poll::Ready(Ok(None)) };
        line.poll(context, |inner| poll_chunk(body, inner))
    }
}

impl Drop for LineBody {
    fn drop(&mut self) {
        // Without it the connection reads the rest that is there, and ends where there is more to come.
        self.body = None;
        if let Some(resting) = self.line.take().and_then(Line::rest) {
            self.idle.put(self.authority.clone(), resting);
        }
    }
}
