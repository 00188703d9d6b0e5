//! Listens, accepts, and stops.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_rustls::TlsAcceptor;

use super::activity::Pulse;
use super::connection::{ConnectionContext, refuse_connection};
use super::options::{allowed_hosts, is_loopback, origins, resolve};
use super::workers::{Workers, report};
use super::{ServeError, ServerOptions, Shared, Shutdown};
use crate::gateway::Gateway;
use crate::keys::Authenticator;
use crate::metrics::Metrics;
use crate::tls;

/// Connections that are told at one moment that there is no room. More are only closed.
const REFUSALS: usize = 64;
/// Connections that may wait to be accepted.
const QUEUE: u32 = 1024;
/// Pause after the system could not hand out a connection, such as when file handles run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often metrics are tidied.
const UPKEEP: Duration = Duration::from_secs(5);

/// A server that holds its port and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    options: ServerOptions,
    tls: Option<Arc<rustls::ServerConfig>>,
    allowed_hosts: Vec<String>,
    cors_origins: Vec<String>,
}

impl Server {
    /// Checks the options and takes the port.
    pub async fn bind(options: ServerOptions) -> Result<Self, ServeError> {
        let allowed_hosts = allowed_hosts(&options.allowed_hosts)?;
        let cors_origins = origins(&options.cors_origins)?;
        let tls = options.tls.as_ref().map(tls::server_config).transpose()?;
        let address = resolve(&options).await?;
        let listener = listen(address).map_err(|source| match source.kind() {
            std::io::ErrorKind::AddrInUse => {
                ServeError::PortInUse { host: options.host.clone(), port: options.port }
            }
            _ => ServeError::Listen { address, source },
        })?;
        let address = listener.local_addr().map_err(|source| ServeError::Listen { address, source })?;
        Ok(Self { listener, address, options, tls, allowed_hosts, cors_origins })
    }

    /// Where the server listens; the real port when 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL for OpenAI's clients.
    pub fn base_url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/v1", self.address)
    }

    /// Answers requests until it is told to stop, and running answers have ended or had their time.
    pub async fn run(
        self,
        gateway: Arc<Gateway>,
        keys: Authenticator,
        shutdown: Shutdown,
    ) -> Result<(), ServeError> {
        if !is_loopback(self.address.ip()) && self.tls.is_none() {
            tracing::warn!(address = %self.address, "serving without TLS beyond this machine, as was asked");
        }
        let limits = self.options.limits;
        let metrics = Metrics::new().map_err(|error| ServeError::Metrics(error.to_string()))?;
        let metrics = Arc::new(metrics);
        let shared = Arc::new(Shared {
            gateway,
            keys,
            limits: limits.clone(),
            allowed_hosts: self.allowed_hosts,
            cors_origins: self.cors_origins,
            metrics: Arc::clone(&metrics),
            pulse: Arc::new(Pulse::new(limits.stall)),
            bodies: Arc::new(Semaphore::new(limits.bodies_in_flight_bytes.min(Semaphore::MAX_PERMITS))),
            shutdown: shutdown.clone(),
            beside: Handle::current(),
        });
        let context = Arc::new(ConnectionContext {
            service: shared,
            limits: limits.clone(),
            tls: self.tls.map(TlsAcceptor::from),
            shutdown: shutdown.clone(),
        });
        // The workers end with this, also where nobody waits for it any more.
        let _end = OnDrop(|| shutdown.end());
        let listening = Listening {
            listener: self.listener,
            places: Arc::new(Semaphore::new(limits.connections)),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            workers: Workers::start(&context, metrics.connections()).map_err(ServeError::Workers)?,
            metrics,
            context,
        };
        tracing::info!(address = %self.address, "listening");
        listening.run().await;
        Ok(())
    }
}

/// Takes the port. What comes while nothing is accepted waits in a queue that a whole office fits into at once: one that
/// overflows has clients wait a second, or several.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A server that starts anew takes its port at once.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(QUEUE)
}

/// Binds and runs in one step.
pub async fn serve(
    options: ServerOptions,
    gateway: Arc<Gateway>,
    keys: Authenticator,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    Server::bind(options).await?.run(gateway, keys, shutdown).await
}

/// The accept loop's state.
struct Listening {
    listener: TcpListener,
    places: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    workers: Workers,
    metrics: Arc<Metrics>,
    context: Arc<ConnectionContext>,
}

impl Listening {
    async fn run(self) {
        let mut refused = JoinSet::new();
        let mut upkeep = interval(UPKEEP);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.context.shutdown.draining() => break,
                Some(ended) = refused.join_next(), if !refused.is_empty() => report(&ended),
                _ = upkeep.tick() => self.metrics.upkeep(),
                accepted = self.listener.accept() => {
                    let taken = accepted.and_then(|(stream, _)| self.take(stream, &mut refused));
                    if let Err(error) = taken {
                        tracing::warn!(%error, "cannot accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        // From here on the system refuses new connections by itself.
        drop(self.listener);
        drain(self.workers, &self.context).await;
    }

    fn take(&self, stream: TcpStream, refused: &mut JoinSet<()>) -> std::io::Result<()> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return self.workers.serve(stream, place);
        }
        self.metrics.refused("full");
        if self.context.tls.is_none()
            && let Ok(refusal) = Arc::clone(&self.refusals).try_acquire_owned()
        {
            refused.spawn(async move {
                refuse_connection(stream).await;
                drop(refusal);
            });
        }
        Ok(())
    }
}

/// Gives running requests their time, then ends them.
async fn drain(workers: Workers, context: &ConnectionContext) {
    tracing::info!(connections = workers.open(), "stopping; running answers may finish");
    let mut finished = pin!(workers.finish());
    tokio::select! {
        () = finished.as_mut() => return,
        () = sleep(context.limits.grace) => tracing::warn!("time is up; ending what still runs"),
        () = context.shutdown.ending() => tracing::warn!("asked again; ending what still runs"),
    }
    context.shutdown.end();
    finished.await;
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
