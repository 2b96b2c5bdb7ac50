//! Who may be spoken to as whom: `Host` and `Origin` (SPEC 1, FAULTS T18). A page of another site must not reach a
//! listener by way of a browser on this host.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use hyper::Uri;
use hyper::header::{HOST, ORIGIN};
use hyper::http::uri::Authority;

/// The names that a listener answers to.
#[derive(Clone, Debug)]
pub struct Site {
    own: IpAddr,
    names: Vec<String>,
}

impl Site {
    /// A site of this address. Loopback names and addresses are its own as well; on the unspecified address so is every
    /// address, but no name, which somebody else may have pointed here.
    #[must_use]
    pub fn new(address: SocketAddr, names: &[String]) -> Self {
        Self { own: address.ip(), names: names.iter().map(|name| name.to_ascii_lowercase()).collect() }
    }

    /// Checks a request's `Host` and `Origin`.
    ///
    /// # Errors
    /// The status and words of the refusal.
    pub fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), (u16, &'static str)> {
        let mut hosts = headers.get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err((400, "exactly one Host header is required"));
        };
        let target = uri.authority().map(Authority::as_str);
        if !self.knows(host.to_str().unwrap_or_default()) || target.is_some_and(|target| !self.knows(target)) {
            return Err((403, "this Host is not answered to"));
        }
        let foreign = |origin: &hyper::header::HeaderValue| {
            let origin = origin.to_str().unwrap_or_default();
            let site = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            !site.is_some_and(|site| self.knows(site))
        };
        if headers.get_all(ORIGIN).iter().any(foreign) {
            return Err((403, "this Origin is not answered to"));
        }
        Ok(())
    }

    fn knows(&self, authority: &str) -> bool {
        let Ok(parsed) = authority.parse::<Authority>() else { return false };
        let host = parsed.host();
        if authority.contains('@') || host.is_empty() || authority.ends_with(':') {
            return false;
        }
        if authority.len() > host.len() && parsed.port_u16().is_none() {
            return false;
        }
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if let Ok(ip) = bare.unwrap_or(host).parse::<IpAddr>() {
            let known = ip.is_loopback() || ip == self.own || self.own.is_unspecified();
            return known && bare.is_some() == ip.is_ipv6();
        }
        let host = host.to_ascii_lowercase();
        host == "localhost" || host.ends_with(".localhost") || self.names.contains(&host)
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn check(own: &str, host: &str, origin: Option<&str>) -> Result<(), u16> {
        let site = Site::new(own.parse().unwrap(), &["Sink.internal".into()]);
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        site.check(&Uri::from_static("/v1/logs"), &headers).map_err(|(status, _)| status)
    }

    #[test]
    fn t18_only_own_names_are_answered_to() {
        for host in
            ["127.0.0.1:4318", "localhost", "a.localhost:1", "[::1]:4318", "sink.internal:4318", "10.1.2.3:4318"]
        {
            assert_eq!(check("10.1.2.3:4318", host, None), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "10.1.2.4",
            "user@localhost",
            "localhost:",
            "localhost:x",
            "",
            "::1",
            "[127.0.0.1]",
        ] {
            assert_eq!(check("10.1.2.3:4318", host, None), Err(403), "{host}");
        }
        assert_eq!(check("0.0.0.0:4318", "10.9.9.9:4318", None), Ok(()));
        assert_eq!(check("0.0.0.0:4318", "evil.example", None), Err(403));
    }

    #[test]
    fn t18_another_sites_page_is_refused_by_its_origin() {
        assert_eq!(check("0.0.0.0:4318", "localhost", Some("http://localhost:3000")), Ok(()));
        for origin in ["null", "http://evil.example", "file://localhost", ""] {
            assert_eq!(check("0.0.0.0:4318", "localhost", Some(origin)), Err(403), "{origin}");
        }
    }

    #[test]
    fn t18_host_is_there_once_and_an_absolute_target_is_held_to_the_same() {
        let site = Site::new("127.0.0.1:1".parse().unwrap(), &[]);
        let mut headers = HeaderMap::new();
        let uri = Uri::from_static("/");
        assert_eq!(site.check(&uri, &headers).unwrap_err().0, 400);
        headers.append(HOST, HeaderValue::from_static("localhost"));
        let evil = Uri::from_static("http://evil.example/v1/logs");
        assert_eq!(site.check(&evil, &headers).unwrap_err().0, 403);
        headers.append(HOST, HeaderValue::from_static("localhost"));
        assert_eq!(site.check(&uri, &headers).unwrap_err().0, 400);
    }
}
