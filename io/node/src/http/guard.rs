//! Who may ask: `Host`, `Origin` and the bearer token (SPEC 2, FAULTS T18, A16).

use std::net::SocketAddr;
use std::path::Path;

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Uri};
use io_http::{Foreign, Site, TokenError};

/// A refusal by its status and reason.
pub type Refused = (u16, &'static str);

/// Why the server must not listen.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Anybody could call.
    #[error("{0} is not a loopback address: give --token-file, or listen on 127.0.0.1")]
    TokenRequired(SocketAddr),
    /// The token's file cannot be read.
    #[error(transparent)]
    TokenUnreadable(TokenError),
    /// The file holds no usable token.
    #[error(transparent)]
    TokenUnusable(TokenError),
}

/// The bearer token.
#[derive(Clone, Debug)]
pub struct Token(io_http::Token);

impl Token {
    /// This text as a token; `None` when it is not 16 to 1024 visible ASCII characters.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        io_http::Token::new(text).map(Self)
    }

    /// Reads a token from a file that holds it and at most a line's end.
    ///
    /// # Errors
    /// When the file cannot be read or holds something else.
    pub fn read(path: &Path) -> Result<Self, AccessError> {
        io_http::Token::read(path).map(Self).map_err(|error| match error {
            TokenError::Unreadable(..) => AccessError::TokenUnreadable(error),
            TokenError::Unusable(_) => AccessError::TokenUnusable(error),
        })
    }
}

/// Who may ask.
#[derive(Clone, Debug)]
pub struct Access {
    token: Option<Token>,
    site: Site,
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
        Ok(Self { token, site: Site::new(listen, names) })
    }

    /// Checks `Host` (400 when missing or twice, 403 when foreign), then `Origin` (403 when foreign).
    ///
    /// # Errors
    /// The refusal.
    pub fn check_site(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refused> {
        self.site.check(uri, headers).map_err(|foreign| match foreign {
            Foreign::NoHost => (400, "invalid_request: exactly one Host header is required"),
            Foreign::Host => (403, "host_not_allowed"),
            Foreign::Origin => (403, "origin_not_allowed"),
        })
    }

    /// Checks the bearer token.
    ///
    /// # Errors
    /// The refusal.
    pub fn check_token(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let Some(Token(token)) = &self.token else { return Ok(()) };
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(given), None) = (given.next(), given.next()) else { return Err((401, "unauthorized")) };
        match given.to_str().ok().and_then(|text| text.split_once(' ')) {
            Some((scheme, given)) if scheme.eq_ignore_ascii_case("bearer") && token.is(given.as_bytes()) => Ok(()),
            Some(_) | None => Err((401, "unauthorized")),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn site(access: &Access, pairs: &[(&'static str, &str)]) -> Result<(), Refused> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        access.check_site(&Uri::from_static("/v1/tool"), &headers)
    }

    #[test]
    fn t18_a16_what_is_foreign_is_told_in_one_word() {
        let listen = "127.0.0.1:7777".parse().unwrap();
        let access = Access::new(listen, None, &["Node-7.internal".to_owned()]).unwrap();
        for (pairs, said) in [
            (&[("host", "node-7.internal:9")][..], Ok(())),
            (&[], Err((400, "invalid_request"))),
            (&[("host", "localhost"), ("host", "localhost")], Err((400, "invalid_request"))),
            (&[("host", "evil.example")], Err((403, "host_not_allowed"))),
            (&[("host", "localhost"), ("origin", "null")], Err((403, "origin_not_allowed"))),
        ] {
            let label = |(code, words): Refused| (code, words.split(':').next().unwrap_or_default());
            assert_eq!(site(&access, pairs).map_err(label), said, "{pairs:?}");
        }
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
    fn a_tokens_file_is_unreadable_or_unusable() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789abcdef\n").unwrap();
        assert!(Token::read(file.path()).is_ok());
        std::fs::write(file.path(), "short\n").unwrap();
        assert!(matches!(Token::read(file.path()), Err(AccessError::TokenUnusable(_))));
        assert!(matches!(Token::read(&file.path().join("none")), Err(AccessError::TokenUnreadable(_))));
    }
}
