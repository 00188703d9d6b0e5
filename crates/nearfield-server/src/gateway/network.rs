//! Whether there is a network, as far as this machine can tell without asking anybody.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::Uri;
use nearfield_router::rules::Connectivity;

/// How long a look at the links holds.
const GLANCE: Duration = Duration::from_millis(250);
/// A port for questions about routes; nothing is sent there.
const DISCARD: u16 = 9;
/// Where Linux lists them.
const LINKS: &str = "/sys/class/net";

/// What is known of the network. It is inferred from where the configured backends are and from this machine's own
/// links and routes; nobody is ever probed for it, and no packet is sent.
#[derive(Debug, Default)]
pub struct Network {
    kind: Kind,
}

#[derive(Debug, Default)]
enum Kind {
    /// Nothing says that there is none.
    #[default]
    Assumed,
    /// There is none, by the operator's word.
    Refused,
    /// There is one while one of these can be reached, as far as can be seen from here.
    Watched { ways: Vec<Way>, seen: Mutex<Option<(Instant, Connectivity)>> },
}

/// Where a backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// At an address, to which there is a route or not.
    Address(IpAddr),
    /// Behind a name: wherever a link leads.
    Name,
}

impl Way {
    fn of(url: &str) -> Option<Self> {
        let uri: Uri = url.trim().parse().ok()?;
        let host = uri.host()?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        Some(match bare.parse() {
            Ok(address) => Self::Address(address),
            Err(_) if bare.trim_end_matches('.').eq_ignore_ascii_case("localhost") => {
                Self::Address(Ipv4Addr::LOCALHOST.into())
            }
            Err(_) => Self::Name,
        })
    }

    fn is_open(self) -> bool {
        match self {
            Self::Address(address) => has_route(address),
            Self::Name => links(Path::new(LINKS)) == Connectivity::Online,
        }
    }
}

/// Whether the system has a route to an address. Connecting a datagram socket asks only for that and sends nothing.
fn has_route(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((address, DISCARD))).is_ok()
}

impl Network {
    /// No network, whatever the links say.
    pub fn refused() -> Self {
        Self { kind: Kind::Refused }
    }

    /// A network while one of the backends at these addresses can be reached as far as links and routes tell. Without
    /// any: while a link is up.
    pub fn towards(urls: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut ways: Vec<Way> = urls.into_iter().filter_map(|url| Way::of(url.as_ref())).collect();
        if ways.is_empty() {
            ways.push(Way::Name);
        }
        Self { kind: Kind::Watched { ways, seen: Mutex::new(None) } }
    }

    /// Whether there is one now.
    pub(super) fn connectivity(&self) -> Connectivity {
        match &self.kind {
            Kind::Assumed => Connectivity::Online,
            Kind::Refused => Connectivity::Offline,
            Kind::Watched { ways, seen } => {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                match *seen {
                    Some((when, found)) if now.duration_since(when) < GLANCE => found,
                    _ => {
                        let open = ways.iter().any(|way| way.is_open());
                        let found = if open { Connectivity::Online } else { Connectivity::Offline };
                        *seen = Some((now, found));
                        found
                    }
                }
            }
        }
    }
}

/// Offline only where links are listed and every one but loopback says that it is down. Links without a carrier to
/// watch, such as tunnels, say `unknown`.
fn links(folder: &Path) -> Connectivity {
    let Ok(entries) = std::fs::read_dir(folder) else { return Connectivity::Online };
    for entry in entries.flatten().filter(|entry| entry.file_name() != "lo") {
        let state = std::fs::read_to_string(entry.path().join("operstate")).unwrap_or_default();
        if matches!(state.trim(), "up" | "unknown") {
            return Connectivity::Online;
        }
    }
    Connectivity::Offline
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_is_up_is_a_network() {
        let folder = tempfile::tempdir().unwrap();
        let set = |name: &str, state: &str| {
            let link = folder.path().join(name);
            std::fs::create_dir_all(&link).unwrap();
            std::fs::write(link.join("operstate"), format!("{state}\n")).unwrap();
        };
        set("lo", "unknown");
        assert_eq!(links(folder.path()), Connectivity::Offline);
        set("eth0", "down");
        assert_eq!(links(folder.path()), Connectivity::Offline);
        set("eth0", "up");
        assert_eq!(links(folder.path()), Connectivity::Online);
        set("eth0", "lowerlayerdown");
        set("wg0", "unknown");
        assert_eq!(links(folder.path()), Connectivity::Online);
        assert_eq!(links(&folder.path().join("none")), Connectivity::Online, "no list says nothing");
    }

    #[test]
    fn ways_are_read_from_addresses() {
        let here = Some(Way::Address(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(Way::of("http://localhost:8000/v1"), here);
        assert_eq!(Way::of("http://127.0.0.1/v1"), here);
        assert_eq!(Way::of("https://[::1]:9/v1"), Some(Way::Address(Ipv6Addr::LOCALHOST.into())));
        assert_eq!(Way::of("https://api.example/v1"), Some(Way::Name));
        assert_eq!(Way::of("not an address"), None);
        // What this machine itself answers does not depend on links.
        assert_eq!(Network::towards(["http://127.0.0.1:1/v1"]).connectivity(), Connectivity::Online);
    }

    #[test]
    fn the_operators_word_goes_before_links() {
        assert_eq!(Network::refused().connectivity(), Connectivity::Offline);
        assert_eq!(Network::default().connectivity(), Connectivity::Online);
    }
}
