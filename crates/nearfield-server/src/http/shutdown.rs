//! How a server is asked to stop.

use tokio_util::sync::CancellationToken;

/// A request to stop, shared by whoever asks and the server that obeys. The first request lets running answers
/// finish, the second ends them.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    now: CancellationToken,
}

impl Shutdown {
    /// Nothing asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks to stop; asked again, to stop at once.
    pub fn request(&self) {
        if self.drain.is_cancelled() {
            self.now.cancel();
        } else {
            self.drain.cancel();
        }
    }

    /// Ends at once what still runs.
    pub(super) fn end(&self) {
        self.drain.cancel();
        self.now.cancel();
    }

    /// Asks to stop when the process is told to: by Ctrl-C or, on Unix, by SIGTERM. Each signal counts. Must be
    /// called inside a Tokio runtime.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let shutdown = self.clone();
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        received = interrupt.recv() => if received.is_none() { return },
                        received = terminate.recv() => if received.is_none() { return },
                    }
                    shutdown.request();
                }
            });
        }
        #[cfg(not(unix))]
        tokio::spawn(async move {
            while tokio::signal::ctrl_c().await.is_ok() {
                shutdown.request();
            }
        });
        Ok(())
    }

    /// Waits until the first request.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Waits until the second request.
    pub async fn ending(&self) {
        self.now.cancelled().await;
    }

    /// Whether a stop was asked for.
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }
}
