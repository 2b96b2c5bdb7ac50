//! Who may be spoken to as whom: `Host` and `Origin` (SPEC 1 and 2, FAULTS T18, A16). A page of another site must not reach
//! a listener by way of a browser on this host.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{HOST, HeaderMap, HeaderValue, ORIGIN};
use hyper::http::uri::Authority;
use hyper::{StatusCode, Uri};

/// The names that a listener answers to.
#[derive(Clone, Debug)]
pub struct Site {
    own: Option<IpAddr>,
    every_address: bool,
    names: Vec<String>,
}

/// Why a request is not for this listener, or not from a page of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Foreign {
    /// `Host` is missing, or is there twice.
    #[error("exactly one Host header is required")]
    NoHost,
    /// `Host`, or a target in absolute form, names somebody else.
    #[error("this Host is not answered to")]
    Host,
    /// `Origin` is a page of somebody else.
    #[error("this Origin is not answered to")]
    Origin,
}

impl Foreign {
    /// 400 for a request that is malformed, 403 for a foreign one.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::NoHost => StatusCode::BAD_REQUEST,
            Self::Host | Self::Origin => StatusCode::FORBIDDEN,
        }
    }
}

impl Site {
    /// The site of a listener on this address, which answers to it, to the loopback names and addresses, and to `names`.
    #[must_use]
    pub fn new(address: SocketAddr, names: &[String]) -> Self {
        let own = Some(address.ip()).filter(|ip| !ip.is_unspecified());
        Self { own, every_address: false, names: names.iter().map(|name| name.to_ascii_lowercase()).collect() }
    }

    /// The same; on the unspecified address it answers to every address as well, but to no other name, which somebody
    /// else may have pointed here.
    #[must_use]
    pub const fn or_any_address(mut self) -> Self {
        self.every_address = self.own.is_none();
        self
    }

    /// The site of a unix socket: loopback names and addresses alone.
    #[must_use]
    pub const fn local() -> Self {
        Self { own: None, every_address: false, names: Vec::new() }
    }

    /// Checks a request's `Host` and its target, then its `Origin`.
    ///
    /// # Errors
    /// What is foreign.
    pub fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Foreign> {
        let mut hosts = headers.get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(Foreign::NoHost) };
        // A target in absolute form names the host as well, and is held to the same.
        let target = uri.authority().map(Authority::as_str);
        if !self.knows(host.to_str().unwrap_or_default()) || target.is_some_and(|target| !self.knows(target)) {
            return Err(Foreign::Host);
        }
        let mut origins = headers.get_all(ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => Ok(()),
            (Some(origin), None) if self.is_own_origin(origin) => Ok(()),
            (Some(_), _) => Err(Foreign::Origin),
        }
    }

    fn is_own_origin(&self, origin: &HeaderValue) -> bool {
        let origin = origin.to_str().unwrap_or_default();
        let site = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        site.is_some_and(|site| self.knows(site))
    }

    /// Whether `host[:port]` is one of ours; the port is not looked at.
    fn knows(&self, authority: &str) -> bool {
        let Some(host) = host_of(authority) else { return false };
        if let Ok(ip) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            let bracketed = host.starts_with('[') && host.ends_with(']');
            let known = ip.is_loopback() || Some(ip) == self.own || self.every_address;
            return known && bracketed == ip.is_ipv6();
        }
        let host = host.to_ascii_lowercase();
        host == "localhost" || host.ends_with(".localhost") || self.names.contains(&host)
    }
}

/// The host of `host[:port]`; `None` when it is not of that form.
fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = match authority.rfind(':') {
        Some(at) if !authority.ends_with(']') => (authority.get(..at)?, authority.get(at + 1..)?),
        Some(_) | None => (authority, "80"),
    };
    let fits = !host.is_empty()
        && port.parse::<u16>().is_ok()
        && port.bytes().all(|b| b.is_ascii_digit())
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']'));
    fits.then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(own: &str) -> Site {
        Site::new(own.parse().unwrap(), &["Node-7.internal".into()])
    }

    fn check(site: &Site, pairs: &[(&'static str, &str)]) -> Result<(), u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        site.check(&Uri::from_static("/v1/tool"), &headers).map_err(|foreign| foreign.status().as_u16())
    }

    #[test]
    fn t18_only_loopback_and_configured_hosts_are_known_on_any_port() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:7777",
            "127.9.9.9:1",
            "localhost:80",
            "LOCALHOST",
            "a.localhost:1",
            "[::1]:7777",
            "node-7.internal:9",
            "10.1.2.3:4318",
        ] {
            assert_eq!(check(&site("10.1.2.3:7777"), &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:7777",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.1.2.4",
            "0.0.0.0",
            "::1",
            "[::1",
            "[127.0.0.1]",
            "[::2]",
            "127.0.0.1:",
            "127.0.0.1:x",
            "127.0.0.1:+80",
            "user@127.0.0.1",
            "127.0.0.1, localhost",
            "",
            ":7777",
            "2130706433",
        ] {
            assert_eq!(check(&site("10.1.2.3:7777"), &[("host", host)]), Err(403), "{host}");
        }
    }

    #[test]
    fn t18_on_the_unspecified_address_only_who_says_so_answers_to_every_address() {
        for (host, strict, open) in [
            ("10.9.9.9:4318", Err(403), Ok(())),
            ("0.0.0.0", Err(403), Ok(())),
            ("evil.example", Err(403), Err(403)),
            ("localhost", Ok(()), Ok(())),
        ] {
            assert_eq!(check(&site("0.0.0.0:4318"), &[("host", host)]), strict, "{host}");
            assert_eq!(check(&site("0.0.0.0:4318").or_any_address(), &[("host", host)]), open, "{host}");
        }
        assert_eq!(check(&site("10.1.2.3:4318").or_any_address(), &[("host", "10.9.9.9")]), Err(403));
        assert_eq!(check(&Site::local(), &[("host", "localhost")]), Ok(()));
        assert_eq!(check(&Site::local(), &[("host", "0.0.0.0")]), Err(403));
    }

    #[test]
    fn t18_a_missing_or_doubled_host_is_a_bad_request() {
        assert_eq!(check(&Site::local(), &[]), Err(400));
        assert_eq!(check(&Site::local(), &[("host", "localhost"), ("host", "localhost")]), Err(400));
    }

    #[test]
    fn a16_another_sites_page_is_refused_by_its_origin() {
        let with = |origin: &str| check(&site("127.0.0.1:7777"), &[("host", "localhost"), ("origin", origin)]);
        assert_eq!(with("http://localhost:3000"), Ok(()));
        assert_eq!(with("https://127.0.0.1:7777"), Ok(()));
        for origin in
            ["null", "http://evil.example", "https://localhost.evil.example", "file://localhost", "", "localhost"]
        {
            assert_eq!(with(origin), Err(403), "{origin}");
        }
        let twice = [("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://localhost")];
        assert_eq!(check(&Site::local(), &twice), Err(403));
    }

    #[test]
    fn u22_a_target_in_absolute_form_is_held_to_the_same_hosts() {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("localhost"))]);
        let uri = Uri::from_static("http://evil.example/v1/tool");
        assert_eq!(Site::local().check(&uri, &headers), Err(Foreign::Host));
        assert_eq!(Site::local().check(&Uri::from_static("http://localhost:7777/v1/tool"), &headers), Ok(()));
    }
}
