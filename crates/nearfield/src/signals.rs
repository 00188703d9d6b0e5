//! Requests to stop: Ctrl-C and, on Unix, the signals that end a process.

use std::future::pending;

use crate::failure::INTERRUPTED;

/// Waits until the process is asked to stop. From the first call on the signals do nothing else, so this is for work
/// that ends in order when it is told to.
#[cfg(unix)]
pub(crate) async fn stop_requested() {
    use tokio::signal::unix::{Signal, SignalKind, signal};
    async fn received(signal: std::io::Result<Signal>) {
        match signal {
            Ok(mut signal) => {
                signal.recv().await;
            }
            // The system refuses a handler: then its own way of ending us stays.
            Err(_) => pending().await,
        }
    }
    tokio::select! {
        () = received(signal(SignalKind::interrupt())) => {}
        () = received(signal(SignalKind::terminate())) => {}
        () = received(signal(SignalKind::hangup())) => {}
    }
}

/// Waits until the process is asked to stop.
#[cfg(not(unix))]
pub(crate) async fn stop_requested() {
    interrupted().await;
}

/// Ends the process at once when it is asked to stop: for work that has nothing to put in order. A pull before it has
/// taken the signals' own effect away.
pub(crate) fn exit_when_stopped() {
    tokio::spawn(async {
        stop_requested().await;
        std::process::exit(i32::from(INTERRUPTED));
    });
}

/// Waits for Ctrl-C.
pub(crate) async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        pending::<()>().await;
    }
}
