//! How a server is set up, and what can be wrong with that.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::uri::Authority;

use crate::limits::Limits;
use crate::tls::{TlsError, TlsFiles};

/// Where a server listens when nothing else is said.
pub const DEFAULT_PORT: u16 = 8420;

/// How a server is set up. The default listens on loopback without TLS.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The name or address to listen on.
    pub host: String,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// Certificate and key for TLS.
    pub tls: Option<TlsFiles>,
    /// Allows a host that is not loopback without TLS.
    pub plaintext: bool,
    /// Host names, without port, under which the server may be called besides loopback's and its own address.
    pub allowed_hosts: Vec<String>,
    /// Origins whose web pages may call the server, such as `https://chat.example`.
    pub cors_origins: Vec<String>,
    /// How much a caller may use.
    pub limits: Limits,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port: DEFAULT_PORT,
            tls: None,
            plaintext: false,
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            limits: Limits::default(),
        }
    }
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The host has no address.
    #[error("cannot listen on {host:?}: {reason}; use an address of this machine, such as 127.0.0.1")]
    BadHost {
        /// The host.
        host: String,
        /// Why not.
        reason: String,
    },
    /// A host that others reach, without protection.
    #[error(
        "{host} can be reached from other machines: give --tls-cert and --tls-key, or say --plaintext if the network between is trusted"
    )]
    Unprotected {
        /// The host.
        host: String,
    },
    /// Somebody listens there already.
    #[error("port {port} on {host} is in use: stop the program that holds it, or choose another with --port")]
    PortInUse {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
    /// The system gives no threads to serve connections.
    #[error("cannot serve connections: {0}; raise this user's limits of threads and open files")]
    Workers(#[source] std::io::Error),
    /// The system does not let us listen there.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// A configured host name that is none.
    #[error("{host:?} is not a host name that can be allowed: write it without scheme, port or path")]
    BadAllowedHost {
        /// The name.
        host: String,
    },
    /// A configured origin that is none.
    #[error(
        "{origin:?} is not an origin: write scheme, host and, where needed, port, such as https://chat.example"
    )]
    BadOrigin {
        /// The origin.
        origin: String,
    },
    /// TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The metrics cannot be set up.
    #[error("the metrics cannot be set up: {0}")]
    Metrics(String),
}

/// The address to listen on.
pub(super) async fn resolve(options: &ServerOptions) -> Result<SocketAddr, ServeError> {
    let bad = |reason: String| ServeError::BadHost { host: options.host.clone(), reason };
    let bare = options.host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<SocketAddr> = match bare.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, options.port)],
        Err(_) => tokio::net::lookup_host((bare, options.port))
            .await
            .map_err(|error| bad(error.to_string()))?
            .collect(),
    };
    // Clients try 127.0.0.1 when ::1 does not answer, but older ones not the other way round.
    let address = addresses
        .iter()
        .find(|address| address.is_ipv4())
        .or_else(|| addresses.first())
        .copied()
        .ok_or_else(|| bad("it has no address".to_owned()))?;
    if !is_loopback(address.ip()) && options.tls.is_none() && !options.plaintext {
        return Err(ServeError::Unprotected { host: options.host.clone() });
    }
    Ok(address)
}

/// Whether only this machine reaches the address.
pub(super) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// The host names in the form in which they are compared.
pub(super) fn allowed_hosts(names: &[String]) -> Result<Vec<String>, ServeError> {
    names
        .iter()
        .map(|name| {
            let bad = || ServeError::BadAllowedHost { host: name.clone() };
            let authority: Authority = name.parse().map_err(|_| bad())?;
            let bare = authority.port().is_none() && !name.contains('@') && !authority.host().is_empty();
            bare.then(|| normal_host(authority.host())).ok_or_else(bad)
        })
        .collect()
}

/// A host in the form in which hosts are compared: lower case, no brackets, no last dot.
pub(super) fn normal_host(host: &str) -> String {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase()
}

/// The origins in the form in which browsers send them.
pub(super) fn origins(origins: &[String]) -> Result<Vec<String>, ServeError> {
    origins
        .iter()
        .map(|origin| {
            let bad = || ServeError::BadOrigin { origin: origin.clone() };
            let (scheme, rest) = origin.split_once("://").ok_or_else(bad)?;
            let authority: Authority = rest.parse().map_err(|_| bad())?;
            let scheme_is_plain = !scheme.is_empty()
                && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
            let named = !authority.host().is_empty() && !rest.contains(['@', '*']);
            (scheme_is_plain && named).then(|| origin.to_ascii_lowercase()).ok_or_else(bad)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn resolved(host: &str, plaintext: bool) -> Result<SocketAddr, ServeError> {
        resolve(&ServerOptions { host: host.to_owned(), port: 1, plaintext, ..ServerOptions::default() })
            .await
    }

    #[tokio::test]
    async fn only_loopback_is_open_without_protection() {
        for host in ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "::ffff:127.0.0.1"] {
            assert!(resolved(host, false).await.is_ok(), "{host}");
        }
        for host in ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1"] {
            assert!(matches!(resolved(host, false).await, Err(ServeError::Unprotected { .. })), "{host}");
            assert!(resolved(host, true).await.is_ok(), "{host}");
        }
        assert!(matches!(resolved("no such host", true).await, Err(ServeError::BadHost { .. })));
    }

    #[test]
    fn names_are_checked() {
        let hosts = |name: &str| allowed_hosts(&[name.to_owned()]);
        assert_eq!(hosts("Box.Example.").unwrap(), ["box.example"]);
        assert_eq!(hosts("[2001:DB8::1]").unwrap(), ["2001:db8::1"]);
        for name in ["", "http://a", "a:80", "a/b", "u@a", "*"] {
            assert!(hosts(name).is_err() || name == "*", "{name:?}");
        }
        let origin = |name: &str| origins(&[name.to_owned()]);
        assert_eq!(origin("https://Chat.Example:8443").unwrap(), ["https://chat.example:8443"]);
        for name in ["", "*", "null", "https://", "https://a/", "https://*.a", "https://u@a", "a"] {
            assert!(origin(name).is_err(), "{name:?}");
        }
    }
}
