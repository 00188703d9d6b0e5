//! The address of a backend's API.

use std::net::IpAddr;

use http::uri::{Authority, PathAndQuery, Scheme};
use hyper::Uri;
use nearfield_api::{Error, ErrorKind};
use url::{Host, Url};

/// An address that may be sent keys and prompts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BaseUrl {
    scheme: Scheme,
    authority: Authority,
    /// Without a slash at its end.
    path: String,
    loopback: bool,
}

impl BaseUrl {
    /// Checks an address. The error is the end of a sentence that begins with the setting's name; it never repeats
    /// the address, which may hold a password.
    pub(crate) fn parse(text: &str, allow_plaintext: bool) -> Result<Self, String> {
        let url = Url::parse(text.trim())
            .map_err(|error| format!("is no address ({error}); it looks like https://host/v1"))?;
        let host = url.host().ok_or("has no host; it looks like https://host/v1")?;
        let loopback = is_loopback(&host);
        if !url.username().is_empty() || url.password().is_some() {
            return Err("holds a user name or password; set `key` to a reference instead".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(
                "has a query or fragment; it must end with the path, as in https://host/v1".to_owned()
            );
        }
        match url.scheme() {
            "https" => {}
            "http" if loopback || allow_plaintext => {}
            "http" => {
                return Err(format!(
                    "leads to {host} over plain http, which shows key and prompts to the network; use https, or set \
                     allow_plaintext = true when the network itself is protected"
                ));
            }
            _ => return Err("is neither https nor http; it looks like https://host/v1".to_owned()),
        }
        let uri: Uri = url.as_str().parse().map_err(|error| format!("is no address ({error})"))?;
        let path = uri.path().trim_end_matches('/').to_owned();
        let parts = uri.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err("has no host; it looks like https://host/v1".to_owned());
        };
        Ok(Self { scheme, authority, path, loopback })
    }

    /// The address of a route, which begins with a slash or is empty.
    pub(crate) fn join(&self, route: &str) -> Result<Uri, Error> {
        let place = [&self.path, route].concat();
        let place = if place.is_empty() { "/".to_owned() } else { place };
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = PathAndQuery::from_maybe_shared(bytes::Bytes::from(place)).ok();
        Uri::from_parts(parts).map_err(|_| {
            Error::new(ErrorKind::Internal, "The backend's address and a route do not make one address.")
        })
    }

    /// Whether it leads to this machine.
    pub(crate) const fn is_loopback(&self) -> bool {
        self.loopback
    }
}

/// Whether an address leads to this machine; what is no address does not.
pub fn is_loopback_url(text: &str) -> bool {
    Url::parse(text.trim()).is_ok_and(|url| url.host().is_some_and(|host| is_loopback(&host)))
}

fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => name.trim_end_matches('.').eq_ignore_ascii_case("localhost"),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => IpAddr::V6(*address).to_canonical().is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_follow_the_path() {
        for base in ["https://host.example/v1", "https://host.example/v1/", " https://host.example/v1//\n"] {
            let url = BaseUrl::parse(base, false).unwrap();
            assert_eq!(url.join("/models").unwrap(), "https://host.example/v1/models");
            assert!(!url.is_loopback());
        }
        let bare = BaseUrl::parse("https://host.example", false).unwrap();
        assert_eq!(bare.join("/models").unwrap(), "https://host.example/models");
        assert_eq!(bare.join("").unwrap(), "https://host.example/");
        assert_eq!(bare.join("/a?b=c").unwrap(), "https://host.example/a?b=c");
        assert!(bare.join("/a b").is_err());
    }

    #[test]
    fn plain_http_is_for_this_machine() {
        for base in [
            "http://localhost:8000/v1",
            "http://127.0.0.1/v1",
            "http://127.9.9.9/v1",
            "http://[::1]:1/v1",
            "http://[::ffff:127.0.0.1]/v1",
        ] {
            assert!(BaseUrl::parse(base, false).unwrap().is_loopback(), "{base}");
        }
        for base in ["http://host.example/v1", "http://10.0.0.1/v1", "http://localhost.example/v1"] {
            let error = BaseUrl::parse(base, false).unwrap_err();
            assert!(error.contains("allow_plaintext"), "{error}");
            assert!(!BaseUrl::parse(base, true).unwrap().is_loopback(), "{base}");
        }
    }

    #[test]
    fn what_is_no_base_is_refused_without_repeating_it() {
        for base in [
            "hunter2",
            "",
            "https://",
            "ftp://host/hunter2",
            "file:///hunter2",
            "data:hunter2",
            "https://u:hunter2@host/v1",
            "https://hunter2@host/v1",
            "https://host/v1?key=hunter2",
            "https://host/v1#hunter2",
        ] {
            let error = BaseUrl::parse(base, true).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
