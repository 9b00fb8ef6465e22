//! Which names a request may use for this node.
//!
//! The API listens on loopback without TLS, so a page in a browser on the same machine can reach it. It must not be
//! able to read or do anything: no answer ever allows another origin, the token travels in a header that no browser
//! sends by itself, and a page that has pointed its own name at this address (DNS rebinding) is refused here.
//!
//! Invariant: a request whose `Host` is a name that the node was not told of is refused. Addresses are let through:
//! a rebound name is a name, and a page that came from an address cannot change what that address is.

use std::net::IpAddr;

use axum::http::{HeaderMap, Method, Uri, Version, header};
use shoal_protocol::{Kind, Problem};

/// The names of this node, beside `localhost` and all addresses.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hosts {
    names: Vec<String>,
}

impl Hosts {
    /// The names in these URLs, such as `http://edge-1.example:7451`.
    pub(crate) fn of_urls<'a>(urls: impl IntoIterator<Item = &'a str>) -> Self {
        let authorities = urls.into_iter().filter_map(|url| url.parse::<Uri>().ok()?.authority().cloned());
        Self { names: authorities.map(|authority| authority.host().to_ascii_lowercase()).collect() }
    }

    /// Refuses a request that was meant for somebody else, or that a page of another origin makes.
    pub(crate) fn check(
        &self,
        method: &Method,
        uri: &Uri,
        version: Version,
        headers: &HeaderMap,
    ) -> Result<(), Problem> {
        let mut given = headers.get_all(header::HOST).iter();
        let host = match (uri.authority(), given.next(), given.next()) {
            (_, _, Some(_)) => return Err(Problem::new(Kind::Malformed, "the request has two Host headers")),
            (Some(authority), _, _) => Some(authority.as_str()),
            (None, Some(host), None) => Some(host.to_str().unwrap_or("\u{fffd}")),
            (None, None, None) => None,
        };
        match host {
            // Only a browser can be misled, and every browser sends HTTP/1.1 with a Host.
            None if version == Version::HTTP_10 => {}
            None => return Err(Problem::new(Kind::Malformed, "the request has no Host header")),
            Some(host) if self.knows(host) => {}
            Some(host) => {
                let shown: String = host.chars().take(100).collect();
                let sentence = format!(
                    "this node is not called {shown:?}: use its address, localhost or the name that it was given"
                );
                return Err(Problem::new(Kind::Forbidden, sentence));
            }
        }
        let changes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        match headers.get(header::ORIGIN) {
            Some(origin) if changes && !same_origin(origin.as_bytes(), host) => {
                Err(Problem::new(Kind::Forbidden, "a page of another origin may not change anything here"))
            }
            _ => Ok(()),
        }
    }

    fn knows(&self, authority: &str) -> bool {
        let Some(host) = host_of(authority) else { return false };
        let host = host.to_ascii_lowercase();
        host.parse::<IpAddr>().is_ok()
            || host == "localhost"
            || host.ends_with(".localhost")
            || self.names.contains(&host)
    }
}

/// The host without brackets and port; none if the rest is no port.
fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        rest.split_once(']')?
    } else if let Some(colon) = authority.find(':') {
        authority.split_at(colon)
    } else {
        (authority, "")
    };
    let no_port = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    (no_port && !host.is_empty()).then_some(host)
}

fn same_origin(origin: &[u8], host: Option<&str>) -> bool {
    let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    matches!((authority, host), (Some(authority), Some(host)) if authority.eq_ignore_ascii_case(host.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hosts: &Hosts, method: Method, host: &str, origin: Option<&str>) -> Result<(), Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        hosts.check(&method, &Uri::from_static("/job"), Version::HTTP_11, &headers)
    }

    #[test]
    fn addresses_and_known_names_are_let_through() {
        let hosts = Hosts::of_urls(["http://Edge-1.example:7451"]);
        for host in [
            "127.0.0.1:7451",
            "127.0.0.1",
            "[::1]:7451",
            "[::1]",
            "localhost:1",
            "LOCALHOST",
            "a.localhost:80",
            "192.168.7.9:80",
            "edge-1.example:7451",
            "EDGE-1.example",
        ] {
            assert_eq!(check(&hosts, Method::GET, host, None), Ok(()), "{host}");
        }
    }

    #[test]
    fn a_rebound_name_is_refused() {
        let hosts = Hosts::of_urls(["http://edge-1.example:7451"]);
        for host in [
            "evil.example:7451",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "",
            ":80",
            "127.0.0.1:x",
            "edge-1.example.evil",
            "[::1",
            "notlocalhost",
        ] {
            let problem = check(&hosts, Method::GET, host, None).expect_err(host);
            assert_eq!(problem.kind, Kind::Forbidden, "{host}");
        }
    }

    #[test]
    fn a_page_of_another_origin_changes_nothing() {
        let hosts = Hosts::default();
        let post = |origin| check(&hosts, Method::POST, "127.0.0.1:7451", origin);
        assert_eq!(post(None), Ok(()));
        assert_eq!(post(Some("http://127.0.0.1:7451")), Ok(()));
        assert!(post(Some("http://127.0.0.1:8000")).is_err());
        assert!(post(Some("https://evil.example")).is_err());
        assert!(post(Some("null")).is_err());
        assert_eq!(check(&hosts, Method::GET, "127.0.0.1:7451", Some("https://evil.example")), Ok(()));
    }

    #[test]
    fn a_missing_or_doubled_host_is_refused() {
        let uri = Uri::from_static("/");
        let hosts = Hosts::default();
        let mut headers = HeaderMap::new();
        assert!(hosts.check(&Method::GET, &uri, Version::HTTP_11, &headers).is_err());
        assert!(hosts.check(&Method::GET, &uri, Version::HTTP_10, &headers).is_ok());
        headers.append(header::HOST, "localhost".parse().unwrap());
        headers.append(header::HOST, "evil.example".parse().unwrap());
        assert!(hosts.check(&Method::GET, &uri, Version::HTTP_11, &headers).is_err());
    }
}
