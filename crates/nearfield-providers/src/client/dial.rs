//! The way to a backend: straight, by a proxy, or by a Unix socket.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http::uri::Scheme;
use hyper::Uri;
use hyper::header::HeaderValue;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection as Connect, HttpConnector};
use tower_service::Service;
use url::Url;

use super::PING_INTERVAL;
use super::connector::BoxError;
use crate::ProviderError;
use crate::connection::Connection;
use crate::encoding::base64;

/// Opens connections without TLS of their own.
#[derive(Clone)]
pub(super) enum Dial {
    Direct(HttpConnector),
    Proxy(Arc<Proxy>),
    /// Every connection goes through this Unix socket.
    Socket(Arc<PathBuf>),
}

/// A proxy that the backend names.
pub(super) struct Proxy {
    address: Uri,
    /// What shows that we may use it.
    authorization: Option<HeaderValue>,
    /// Leads to the proxy itself.
    way: HttpsConnector<HttpConnector>,
}

impl Dial {
    /// Straight to the address.
    pub(super) fn direct() -> Self {
        Self::Direct(tcp())
    }

    /// As a backend's connection says. This machine is never reached through a proxy.
    pub(super) fn new(
        options: &Connection,
        loopback: bool,
        tls: &rustls::ClientConfig,
    ) -> Result<Self, ProviderError> {
        let wrong = |setting: &'static str, reason: String| ProviderError::Setting {
            backend: options.name.clone(),
            setting,
            reason,
        };
        let proxy = options.proxy.as_ref().map(|text| Proxy::parse(text, tls)).transpose();
        let proxy = proxy.map_err(|reason| wrong("proxy", reason))?;
        match (&options.socket, proxy) {
            (Some(_), Some(_)) => {
                let reason = "takes the place of the network, so it cannot stand beside `proxy`; remove one";
                Err(wrong("socket", reason.to_owned()))
            }
            (Some(_), None) if cfg!(not(unix)) => {
                let reason = "cannot be used on this system, which has no Unix sockets";
                Err(wrong("socket", reason.to_owned()))
            }
            (Some(path), None) => Ok(Self::Socket(Arc::new(path.clone()))),
            (None, Some(proxy)) if !loopback => Ok(Self::Proxy(Arc::new(proxy))),
            (None, _) => Ok(Self::direct()),
        }
    }

    /// The header for requests that go to a proxy as they are, without a tunnel through it.
    pub(super) fn proxy_authorization(&self) -> Option<HeaderValue> {
        match self {
            Self::Proxy(proxy) => proxy.authorization.clone(),
            Self::Direct(_) | Self::Socket(_) => None,
        }
    }
}

fn tcp() -> HttpConnector {
    let mut connector = HttpConnector::new();
    // TLS is put over it.
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(PING_INTERVAL));
    connector
}

impl Proxy {
    /// Reads a proxy's address. The error is the end of a sentence that begins with the setting's name; it never repeats
    /// the address, which may hold a password.
    fn parse(text: &str, tls: &rustls::ClientConfig) -> Result<Self, String> {
        let wrong = |why: &str| format!("is no address of a proxy ({why}); it looks like http://host:3128");
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let mut url = Url::parse(&text).map_err(|error| wrong(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("it is neither http nor https"));
        }
        let decoded =
            |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let user = decoded(url.username());
        let password = url.password().map(decoded).unwrap_or_default();
        let authorization = if user.is_empty() && password.is_empty() {
            None
        } else {
            let value = format!("Basic {}", base64(format!("{user}:{password}").as_bytes()));
            let mut value =
                HeaderValue::from_str(&value).map_err(|_| wrong("its password cannot be sent"))?;
            value.set_sensitive(true);
            Some(value)
        };
        let bare = url.set_username("").and_then(|()| url.set_password(None));
        bare.map_err(|()| wrong("it has no host"))?;
        let address = url.as_str().parse().map_err(|_| wrong("it cannot be asked for"))?;
        let way = HttpsConnectorBuilder::new()
            .with_tls_config(tls.clone())
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp());
        Ok(Self { address, authorization, way })
    }

    /// A tunnel to an address with TLS; to another the proxy itself, which is then sent whole addresses.
    async fn connect(&self, address: Uri) -> Result<Wire, BoxError> {
        let mut way = self.way.clone();
        if address.scheme() != Some(&Scheme::HTTPS) {
            let stream = way.call(self.address.clone()).await?;
            return Ok(Wire::new(stream, true));
        }
        let mut tunnel = Tunnel::new(self.address.clone(), way);
        if let Some(value) = &self.authorization {
            tunnel = tunnel.with_auth(value.clone());
        }
        Ok(Wire::new(tunnel.call(address).await?, false))
    }
}

impl Service<Uri> for Dial {
    type Response = Wire;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Direct(connector) => connector.poll_ready(context).map_err(Into::into),
            Self::Proxy(_) | Self::Socket(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        match self {
            Self::Direct(connector) => {
                let connecting = connector.call(address);
                Box::pin(async move { Ok(Wire::new(connecting.await?, false)) })
            }
            Self::Proxy(proxy) => {
                let proxy = Arc::clone(proxy);
                Box::pin(async move { proxy.connect(address).await })
            }
            Self::Socket(path) => {
                let path = Arc::clone(path);
                Box::pin(async move { socket(&path).await })
            }
        }
    }
}

#[cfg(unix)]
async fn socket(path: &std::path::Path) -> Result<Wire, BoxError> {
    let stream = tokio::net::UnixStream::connect(path).await?;
    Ok(Wire::new(hyper_util::rt::TokioIo::new(stream), false))
}

#[cfg(not(unix))]
async fn socket(_: &std::path::Path) -> Result<Wire, BoxError> {
    Err(io::Error::from(io::ErrorKind::Unsupported).into())
}

trait Stream: Read + Write + Unpin + Send {}

impl<S: Read + Write + Unpin + Send> Stream for S {}

/// The bytes of a connection.
pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    /// Whether a proxy reads what is asked.
    proxied: bool,
    /// Whether the other end has not yet taken all that it was last offered.
    owes: bool,
}

impl Wire {
    fn new(stream: impl Stream + 'static, proxied: bool) -> Self {
        Self { stream: Box::new(stream), proxied, owes: false }
    }

    /// Whether the other end is there, has taken all and says nothing, as it should between two requests.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let read =
            Pin::new(&mut *self.stream).poll_read(&mut Context::from_waker(Waker::noop()), buffer.unfilled());
        !self.owes && read.is_pending()
    }

    fn offered(&mut self, length: usize, taken: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.owes = !matches!(taken, Poll::Ready(Ok(taken)) if taken >= length);
        taken
    }

    /// Whether a proxy reads what is asked.
    pub(super) const fn is_proxied(&self) -> bool {
        self.proxied
    }
}

impl Connect for Wire {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.proxied)
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_read(context, buffer)
    }
}

impl Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = Pin::new(&mut *self.stream).poll_write(context, bytes);
        self.offered(bytes.len(), taken)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let taken = Pin::new(&mut *self.stream).poll_write_vectored(context, slices);
        self.offered(slices.iter().map(|slice| slice.len()).sum(), taken)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The library flushes only what it has offered whole.
        let flushed = Pin::new(&mut *self.stream).poll_flush(context);
        self.owes = flushed.is_pending();
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(context)
    }
}
