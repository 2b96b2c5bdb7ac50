//! Who may do what: a token for writing, and for reading too when the registry is private.
//!
//! Clients of registries (docker, skopeo, crane, cosign) speak Basic when they are challenged with it: the token is the
//! password, the user's name is not looked at. `Authorization: Bearer` with the token is taken as well.

use std::net::SocketAddr;
use std::path::Path;

use base64ct::{Base64, Encoding as _};
use hyper::header::{AUTHORIZATION, HeaderMap};
use io_http::TokenError;

use super::ServeError;
use super::answer::Refusal;

/// The token.
#[derive(Clone, Copy, Debug)]
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
    pub fn read(path: &Path) -> Result<Self, ServeError> {
        io_http::Token::read(path).map(Self).map_err(|error| match error {
            TokenError::Unreadable(..) => ServeError::TokenUnreadable(error),
            TokenError::Unusable(_) => ServeError::TokenUnusable(error),
        })
    }
}

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To learn whether its credential is good (`GET /v2/`).
    Greet,
    /// To read.
    Read,
    /// To change something.
    Write,
}

/// The rules of a server.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    token: Option<Token>,
    private: bool,
}

impl Access {
    /// The rules of a server on `address`.
    ///
    /// # Errors
    /// When anybody on a network could write, or a private registry has no token.
    pub fn new(address: SocketAddr, token: Option<Token>, private: bool, read_only: bool) -> Result<Self, ServeError> {
        if token.is_none() && !address.ip().is_loopback() && !read_only {
            return Err(ServeError::TokenRequired(address));
        }
        if token.is_none() && private {
            return Err(ServeError::PrivateWithoutToken);
        }
        Ok(Self { token, private })
    }

    /// Checks the credential. A wrong one is refused even where none is needed; a client that has none may say so with an
    /// empty name and password.
    ///
    /// # Errors
    /// The refusal, with the challenge.
    pub fn check(&self, wish: Wish, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(Token(want)) = self.token else { return Ok(()) };
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (first, None) = (given.next(), given.next()) else { return Err(Refusal::unauthorized()) };
        let token = match first.map(|value| value.to_str().ok().and_then(credential)) {
            None => None,
            Some(None) => return Err(Refusal::unauthorized()),
            Some(Some(token)) if token.is_empty() => None,
            Some(Some(token)) => Some(token),
        };
        let open = wish == Wish::Read && !self.private;
        match token {
            Some(token) if want.is(&token) => Ok(()),
            None if open => Ok(()),
            Some(_) | None => Err(Refusal::unauthorized()),
        }
    }
}

/// The token of a header's value; empty when there is neither name nor password. `None` when it is of no known form.
fn credential(header: &str) -> Option<Vec<u8>> {
    let (scheme, rest) = header.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.as_bytes().to_vec()).filter(|token| !token.is_empty());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = Base64::decode_vec(rest).ok()?;
    let colon = pair.iter().position(|b| *b == b':')?;
    let (user, password) = pair.split_at(colon);
    let password = password.get(1..)?.to_vec();
    // A name without a password is a wrong password, not none.
    if password.is_empty() && !user.is_empty() { None } else { Some(password) }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn check(access: &Access, wish: Wish, header: Option<&str>) -> Result<(), u16> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(AUTHORIZATION, HeaderValue::from_str(header).unwrap());
        }
        access.check(wish, &headers).map_err(|refusal| refusal.status())
    }

    fn with_token(private: bool) -> Access {
        Access::new("10.1.2.3:5000".parse().unwrap(), Token::new("0123456789abcdef"), private, false).unwrap()
    }

    #[test]
    fn the_token_is_taken_as_bearer_and_as_anybodys_password() {
        let access = with_token(false);
        // "autonomy:0123456789abcdef" and ":0123456789abcdef"
        for good in [
            "Bearer 0123456789abcdef",
            "bearer 0123456789abcdef",
            "Basic YXV0b25vbXk6MDEyMzQ1Njc4OWFiY2RlZg==",
            "basic OjAxMjM0NTY3ODlhYmNkZWY=",
        ] {
            for wish in [Wish::Greet, Wish::Read, Wish::Write] {
                assert_eq!(check(&access, wish, Some(good)), Ok(()), "{good}");
            }
        }
        // "autonomy:0123456789abcdeF", "autonomy:" and no pair at all
        for bad in [
            "Bearer 0123456789abcdeF",
            "Bearer ",
            "Bearer",
            "",
            "Digest x",
            "Basic YXV0b25vbXk6MDEyMzQ1Njc4OWFiY2RlRg==",
            "Basic YXV0b25vbXk6",
            "Basic YXV0b25vbXk=",
            "Basic ***",
            "Basic A",
        ] {
            for wish in [Wish::Greet, Wish::Read, Wish::Write] {
                assert_eq!(check(&access, wish, Some(bad)), Err(401), "{bad:?}");
            }
        }
    }

    #[test]
    fn without_a_credential_one_reads_an_open_registry_and_nothing_more() {
        for none in [None, Some("Basic Og==")] {
            assert_eq!(check(&with_token(false), Wish::Read, none), Ok(()));
            assert_eq!(check(&with_token(false), Wish::Write, none), Err(401));
            assert_eq!(check(&with_token(false), Wish::Greet, none), Err(401), "so that clients send what they have");
            assert_eq!(check(&with_token(true), Wish::Read, none), Err(401));
        }
    }

    #[test]
    fn another_address_than_loopback_needs_a_token_or_takes_no_writes() {
        let everywhere: SocketAddr = "0.0.0.0:5000".parse().unwrap();
        assert!(matches!(Access::new(everywhere, None, false, false), Err(ServeError::TokenRequired(_))));
        assert!(Access::new(everywhere, None, false, true).is_ok());
        assert!(Access::new("[::1]:5000".parse().unwrap(), None, false, false).is_ok());
        assert!(matches!(Access::new(everywhere, None, true, true), Err(ServeError::PrivateWithoutToken)));
    }

    #[test]
    fn a_tokens_file_is_unreadable_or_unusable() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789abcdef\n").unwrap();
        assert!(Token::read(file.path()).is_ok());
        std::fs::write(file.path(), "short\n").unwrap();
        assert!(matches!(Token::read(file.path()), Err(ServeError::TokenUnusable(_))));
        assert!(matches!(Token::read(&file.path().join("none")), Err(ServeError::TokenUnreadable(_))));
    }
}
