//! A connection with TLS where the address asks for it, in bounded time.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use tokio::time::timeout;
use tower_service::Service;

use super::dial::{Dial, Wire};

/// Why there is no connection.
pub(super) type BoxError = Box<dyn StdError + Send + Sync>;

/// A connection did not come about in its time.
#[derive(Debug, thiserror::Error)]
#[error("it took too long")]
pub(super) struct TookTooLong;

/// Makes connections.
#[derive(Clone)]
pub(crate) struct Connector {
    inner: HttpsConnector<Dial>,
    /// For a connection, TLS included.
    timeout: Duration,
}

impl Connector {
    pub(super) fn new(dial: Dial, tls: rustls::ClientConfig, timeout: Duration) -> Self {
        let inner = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(dial);
        Self { inner, timeout }
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<Wire>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let (connecting, wait) = (self.inner.call(address), self.timeout);
        Box::pin(in_time(wait, connecting))
    }
}

/// A connection, unless it takes longer than this.
pub(super) async fn in_time<T>(
    wait: Duration,
    connecting: impl Future<Output = Result<T, BoxError>>,
) -> Result<T, BoxError> {
    timeout(wait, connecting).await.unwrap_or_else(|_| Err(TookTooLong.into()))
}
