//! The threads that serve connections, each with a runtime of its own.
//!
//! A connection stays with its thread, and all that is done for its requests with it: no request waits for another
//! processor to wake up, what was allocated is freed where it was taken, and requests come to their turn in order.

use std::net::TcpStream as Unregistered;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use metrics::Gauge;
use tokio::net::TcpStream;
use tokio::runtime::{self, Runtime};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use super::connection::{ConnectionContext, serve_connection};

/// How long cancelled work may take to notice.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// The threads, one for each processor.
pub(super) struct Workers {
    all: Vec<Worker>,
    /// Counts connections in the metrics.
    gauge: Gauge,
    /// Closed when all threads have ended.
    ended: mpsc::Receiver<()>,
}

struct Worker {
    /// As many as there are places for connections.
    connections: mpsc::UnboundedSender<Accepted>,
    open: Arc<AtomicUsize>,
}

/// A connection for a worker, which is counted as long as this is there.
struct Accepted {
    stream: Unregistered,
    counted: Counted,
}

struct Counted {
    open: Arc<AtomicUsize>,
    gauge: Gauge,
    _place: OwnedSemaphorePermit,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.gauge.decrement(1.0);
    }
}

impl Workers {
    /// Starts the threads. They run until they are told that there are no more connections and those that they have are
    /// closed, or until the server is told to end at once.
    ///
    /// # Errors
    /// The system refuses threads or file handles.
    pub(super) fn start(context: &Arc<ConnectionContext>, gauge: Gauge) -> std::io::Result<Self> {
        let number = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let (alive, ended) = mpsc::channel(1);
        let mut all = Vec::with_capacity(number);
        for _ in 0..number {
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let (connections, accepted) = mpsc::unbounded_channel();
            let (context, alive) = (Arc::clone(context), alive.clone());
            thread::Builder::new().name("connections".to_owned()).spawn(move || {
                work(runtime, accepted, context);
                drop(alive);
            })?;
            all.push(Worker { connections, open: Arc::default() });
        }
        Ok(Self { all, gauge, ended })
    }

    /// Connections that are open.
    pub(super) fn open(&self) -> usize {
        self.all.iter().map(|worker| worker.open.load(Ordering::Relaxed)).sum()
    }

    /// Hands a connection to the worker that has the fewest.
    pub(super) fn serve(&self, stream: TcpStream, place: OwnedSemaphorePermit) -> std::io::Result<()> {
        let stream = stream.into_std()?;
        if let Some(worker) = self.all.iter().min_by_key(|worker| worker.open.load(Ordering::Relaxed)) {
            worker.open.fetch_add(1, Ordering::Relaxed);
            self.gauge.increment(1.0);
            let counted =
                Counted { open: Arc::clone(&worker.open), gauge: self.gauge.clone(), _place: place };
            // A worker that is gone drops it, which closes it.
            let _ = worker.connections.send(Accepted { stream, counted });
        }
        Ok(())
    }

    /// Says that there are no more connections; the future ends when all workers have.
    pub(super) async fn finish(self) {
        let Self { all, mut ended, .. } = self;
        drop(all);
        let _ = ended.recv().await;
    }
}

fn work(runtime: Runtime, accepted: mpsc::UnboundedReceiver<Accepted>, context: Arc<ConnectionContext>) {
    runtime.block_on(take_connections(accepted, context));
    // What parses a large body may take its time.
    runtime.shutdown_timeout(LAST_WAIT);
}

async fn take_connections(mut accepted: mpsc::UnboundedReceiver<Accepted>, context: Arc<ConnectionContext>) {
    let mut connections = JoinSet::new();
    let mut more = true;
    while more || !connections.is_empty() {
        tokio::select! {
            () = context.shutdown.ending() => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => report(&ended),
            next = accepted.recv(), if more => match next {
                Some(next) => drop(connections.spawn(serve(next, Arc::clone(&context)))),
                None => more = false,
            },
        }
    }
    connections.abort_all();
    let _ = timeout(LAST_WAIT, async { while connections.join_next().await.is_some() {} }).await;
}

async fn serve(accepted: Accepted, context: Arc<ConnectionContext>) {
    let Accepted { stream, counted } = accepted;
    match TcpStream::from_std(stream) {
        Ok(stream) => serve_connection(stream, context).await,
        Err(error) => tracing::warn!(%error, "cannot serve a connection"),
    }
    drop(counted);
}

/// Says of a task that ended by a panic.
pub(super) fn report(ended: &Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("a connection's task panicked; the server goes on");
    }
}
