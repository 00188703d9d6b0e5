//! The HTTP server: connections with limits, checks that every request passes, OpenAI's routes.

mod activity;
mod answer;
mod body;
mod connection;
mod framing;
mod guard;
mod io;
mod options;
mod progress;
mod record;
mod reply;
mod reply_body;
mod routes;
mod server;
mod shutdown;
mod workers;

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::gateway::Gateway;
use crate::keys::Authenticator;
use crate::limits::Limits;
use crate::metrics::Metrics;
use activity::Pulse;
use reply_body::ReplyBody;

pub use options::{DEFAULT_PORT, ServeError, ServerOptions};
pub use server::{Server, serve};
pub use shutdown::Shutdown;

/// A request whose body is still to be read.
type HttpRequest = hyper::Request<hyper::body::Incoming>;
/// A reply that may still be added to.
type Reply = hyper::Response<ReplyBody>;

/// What routes and checks share.
type Service = Arc<Shared>;

struct Shared {
    gateway: Arc<Gateway>,
    keys: Authenticator,
    limits: Limits,
    allowed_hosts: Vec<String>,
    cors_origins: Vec<String>,
    metrics: Arc<Metrics>,
    pulse: Arc<Pulse>,
    /// Bytes of request bodies that may still be taken in.
    bodies: Arc<Semaphore>,
    shutdown: Shutdown,
    /// Where work is done that would keep a worker from its other connections.
    beside: Handle,
}
