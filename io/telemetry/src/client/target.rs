//! Where requests go: an `http` or `https` URL, checked before anything is sent.

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper::http::uri::{Authority, PathAndQuery};

/// Why a URL is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{url}: {why}")]
pub struct UrlError {
    /// The URL as given, without what may be a password.
    pub url: String,
    /// What is wrong and what to write instead.
    pub why: &'static str,
}

/// A checked URL.
#[derive(Clone, Debug)]
pub struct Target {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// The host's name or address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The request target: an absolute path.
    pub path: Uri,
    /// The value of `Host`.
    pub authority: HeaderValue,
}

impl Target {
    /// Reads `url`, and puts `resource` (`/v1/logs`) behind its path unless the path ends in it already.
    ///
    /// # Errors
    /// When it is no plain `http://host[:port][/path]` or `https://…`.
    pub fn parse(url: &str, resource: &str) -> Result<Self, UrlError> {
        let refuse = |why| UrlError { url: without_user(url), why };
        if url.contains(['#', '?']) {
            return Err(refuse("a query or fragment has no place in an endpoint"));
        }
        let uri: Uri = url.parse().map_err(|_| refuse("is not a URL; write http://host:port"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) | None => return Err(refuse("must begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| refuse("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(refuse("holds a user name; give credentials as a header"));
        }
        let host = host(authority).ok_or_else(|| refuse("names no host"))?;
        let port = port(authority, tls).ok_or_else(|| refuse("the port is not a number from 1 to 65535"))?;
        let prefix = uri.path().trim_end_matches('/');
        let path = if prefix.ends_with(resource) { prefix.to_owned() } else { format!("{prefix}{resource}") };
        let path = PathAndQuery::try_from(path).map_err(|_| refuse("the path is not a URL's path"))?;
        let authority = HeaderValue::from_str(authority.as_str()).map_err(|_| refuse("names no host"))?;
        Ok(Self { tls, host, port, path: Uri::from(path), authority })
    }
}

fn host(authority: &Authority) -> Option<String> {
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (!bare.is_empty()).then(|| bare.to_owned())
}

fn port(authority: &Authority, tls: bool) -> Option<u16> {
    let given = authority.as_str().strip_prefix(authority.host())?;
    match given.strip_prefix(':') {
        Some(_) => authority.port_u16().filter(|port| *port > 0),
        None => Some(if tls { 443 } else { 80 }),
    }
}

/// The URL as it may be shown: what stands before an `@` may be a password.
fn without_user(url: &str) -> String {
    let shown: String = match url.rsplit_once('@') {
        Some((_, rest)) => format!("…@{rest}"),
        None => url.to_owned(),
    };
    shown.chars().take(256).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target::parse(url, "/v1/logs").unwrap()
    }

    #[test]
    fn the_resource_is_put_behind_the_path_once() {
        for (url, path) in [
            ("http://collector:4318", "/v1/logs"),
            ("http://collector:4318/", "/v1/logs"),
            ("http://collector:4318/v1/logs", "/v1/logs"),
            ("http://collector:4318/v1/logs/", "/v1/logs"),
            ("http://collector:4318/otlp", "/otlp/v1/logs"),
            ("http://collector:4318/otlp/v1/logs", "/otlp/v1/logs"),
        ] {
            assert_eq!(target(url).path, path, "{url}");
        }
    }

    #[test]
    fn host_and_port_are_read_as_urls_have_them() {
        let of = |url: &str| (target(url).host, target(url).port, target(url).tls);
        assert_eq!(of("http://collector"), ("collector".into(), 80, false));
        assert_eq!(of("https://collector"), ("collector".into(), 443, true));
        assert_eq!(of("HTTPS://[::1]:4318/x"), ("::1".into(), 4318, true));
        assert_eq!(target("http://[::1]:4318").authority, "[::1]:4318");
    }

    #[test]
    fn what_is_no_plain_url_is_refused_by_its_reason() {
        for url in [
            "",
            "collector:4318",
            "collector",
            "/v1/logs",
            "ftp://collector",
            "unix:///run/x",
            "http://",
            "http://:4318",
            "http://collector:",
            "http://collector:0",
            "http://collector:65536",
            "http://collector:x",
            "http://collector/?token=x",
            "http://collector/#x",
            "http://collector /",
            "http://user:secret@collector",
        ] {
            let error = Target::parse(url, "/v1/logs").unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
