//! Who may ask: `Host`, `Origin` and the bearer token (SPEC 2, FAULTS T18, A16).

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, Uri};

/// A refusal by its status and reason.
pub type Refused = (u16, &'static str);

/// A bearer token, kept as its hash: two hashes are compared in constant time whatever their texts.
#[derive(Clone)]
pub struct Token(blake3::Hash);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// Why the server must not listen.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Anybody could call.
    #[error("{0} is not a loopback address: give --token-file, or listen on 127.0.0.1")]
    TokenRequired(SocketAddr),
    /// The token's file cannot be read.
    #[error("{0}: cannot read the token: {1}")]
    TokenUnreadable(String, #[source] std::io::Error),
    /// The file holds no usable token.
    #[error("{0}: must hold one token of 16 to 1024 visible ASCII characters in one line")]
    TokenUnusable(String),
}

impl Token {
    /// This text as a token; `None` when it is not 16 to 1024 visible ASCII characters.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let fits = (16..=1024).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| Self(blake3::hash(text.as_bytes())))
    }

    /// Reads a token from a file that holds it and at most a line feed.
    ///
    /// # Errors
    /// When the file cannot be read or holds something else.
    pub fn read(path: &Path) -> Result<Self, AccessError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| AccessError::TokenUnreadable(name.clone(), e))?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Self::new(text.strip_suffix('\r').unwrap_or(text)).ok_or(AccessError::TokenUnusable(name))
    }
}

/// Who may ask.
#[derive(Clone, Debug)]
pub struct Access {
    token: Option<Token>,
    names: Vec<String>,
    own: Option<IpAddr>,
}

impl Access {
    /// The rules of a server on `listen`: `names` are host names that are accepted beside the loopback ones.
    ///
    /// # Errors
    /// When another address than loopback has no token.
    pub fn new(listen: SocketAddr, token: Option<Token>, names: &[String]) -> Result<Self, AccessError> {
        if token.is_none() && !listen.ip().is_loopback() {
            return Err(AccessError::TokenRequired(listen));
        }
        let own = Some(listen.ip()).filter(|ip| !ip.is_unspecified());
        Ok(Self { token, names: names.iter().map(|name| name.to_ascii_lowercase()).collect(), own })
    }

    /// Checks `Host` (400 when missing or twice, 403 when foreign), then `Origin` (403 when foreign).
    ///
    /// # Errors
    /// The refusal.
    pub fn check_site(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refused> {
        let mut hosts = headers.get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err((400, "invalid_request: exactly one Host header is required"));
        };
        let target = uri.authority().map(axum::http::uri::Authority::as_str);
        let host = host.to_str().unwrap_or_default();
        // A target in absolute form names the host as well, and is held to the same.
        if !self.knows(host) || target.is_some_and(|target| !self.knows(target)) {
            return Err((403, "host_not_allowed"));
        }
        let mut origins = headers.get_all(ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => Ok(()),
            (Some(origin), None) if self.is_own_origin(origin.to_str().unwrap_or_default()) => Ok(()),
            (Some(_), _) => Err((403, "origin_not_allowed")),
        }
    }

    /// Checks the bearer token.
    ///
    /// # Errors
    /// The refusal.
    pub fn check_token(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let Some(Token(want)) = &self.token else { return Ok(()) };
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(given), None) = (given.next(), given.next()) else { return Err((401, "unauthorized")) };
        let token = given.to_str().ok().and_then(|text| text.split_once(' '));
        match token {
            Some((scheme, token))
                if scheme.eq_ignore_ascii_case("bearer") && blake3::hash(token.as_bytes()) == *want =>
            {
                Ok(())
            }
            Some(_) | None => Err((401, "unauthorized")),
        }
    }

    fn is_own_origin(&self, origin: &str) -> bool {
        let site = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        site.is_some_and(|site| self.knows(site))
    }

    /// Whether `host[:port]` is a loopback name or address, this server's own address or a configured name.
    fn knows(&self, authority: &str) -> bool {
        let Some(host) = host_of(authority) else { return false };
        if let Ok(ip) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            let bracketed = host.starts_with('[') && host.ends_with(']');
            return bracketed == ip.is_ipv6() && (ip.is_loopback() || Some(ip) == self.own);
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
    use axum::http::HeaderValue;

    use super::*;

    fn access(names: &[&str]) -> Access {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Access::new("127.0.0.1:7777".parse().unwrap(), None, &names).unwrap()
    }

    fn site(access: &Access, pairs: &[(&'static str, &str)]) -> Result<(), u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        access.check_site(&Uri::from_static("/v1/tool"), &headers).map_err(|(status, _)| status)
    }

    #[test]
    fn t18_only_loopback_and_configured_hosts_are_known_on_any_port() {
        let access = access(&["Node-7.internal"]);
        for host in [
            "127.0.0.1",
            "127.0.0.1:7777",
            "127.9.9.9:1",
            "localhost:80",
            "LOCALHOST",
            "[::1]:7777",
            "node-7.internal:9",
        ] {
            assert_eq!(site(&access, &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:7777",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.0.0.1",
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
            assert_eq!(site(&access, &[("host", host)]), Err(403), "{host}");
        }
    }

    #[test]
    fn t18_a_missing_or_doubled_host_is_a_bad_request() {
        let access = access(&[]);
        assert_eq!(site(&access, &[]), Err(400));
        assert_eq!(site(&access, &[("host", "localhost"), ("host", "localhost")]), Err(400));
    }

    #[test]
    fn a16_another_sites_page_is_refused_by_its_origin() {
        let access = access(&[]);
        let with = |origin: &str| site(&access, &[("host", "localhost"), ("origin", origin)]);
        assert_eq!(with("http://localhost:3000"), Ok(()));
        assert_eq!(with("http://127.0.0.1:7777"), Ok(()));
        for origin in
            ["null", "http://evil.example", "https://localhost.evil.example", "file://localhost", "", "localhost"]
        {
            assert_eq!(with(origin), Err(403), "{origin}");
        }
        let twice = [("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://localhost")];
        assert_eq!(site(&access, &twice), Err(403));
    }

    #[test]
    fn u22_a_target_in_absolute_form_is_held_to_the_same_hosts() {
        let mut headers = HeaderMap::new();
        headers.append("host", HeaderValue::from_static("localhost"));
        let uri = Uri::from_static("http://evil.example/v1/tool");
        assert!(matches!(access(&[]).check_site(&uri, &headers), Err((403, _))));
        assert_eq!(access(&[]).check_site(&Uri::from_static("http://localhost:7777/v1/tool"), &headers), Ok(()));
    }

    #[test]
    fn another_address_than_loopback_needs_a_token() {
        let listen: SocketAddr = "0.0.0.0:7777".parse().unwrap();
        assert!(matches!(Access::new(listen, None, &[]), Err(AccessError::TokenRequired(_))));
        let token = Token::new("0123456789abcdef").unwrap();
        let access = Access::new("10.1.2.3:7777".parse().unwrap(), Some(token), &[]).unwrap();
        assert_eq!(site(&access, &[("host", "10.1.2.3:7777")]), Ok(()));
        let given = |text: &str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(text).unwrap())]);
            access.check_token(&headers)
        };
        assert_eq!(given("Bearer 0123456789abcdef"), Ok(()));
        assert_eq!(given("bearer 0123456789abcdef"), Ok(()));
        for text in ["Bearer 0123456789abcdeF", "Bearer ", "Basic 0123456789abcdef", "0123456789abcdef", "Bearer"] {
            assert_eq!(given(text), Err((401, "unauthorized")), "{text}");
        }
        assert_eq!(access.check_token(&HeaderMap::new()), Err((401, "unauthorized")));
    }

    #[test]
    fn a_token_is_one_line_of_visible_characters() {
        for text in ["", "short", "0123456789abcde\n", "0123456789 abcdef", "0123456789äbcdef"] {
            assert!(Token::new(text).is_none(), "{text:?}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789abcdef\n").unwrap();
        assert!(Token::read(file.path()).is_ok());
        std::fs::write(file.path(), "0123456789abcdef\nmore\n").unwrap();
        assert!(matches!(Token::read(file.path()), Err(AccessError::TokenUnusable(_))));
    }
}
