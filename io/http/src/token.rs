//! A token that stands in a file of its own.

use std::io;
use std::path::{Path, PathBuf};

/// A token, kept as its hash: two hashes are compared in constant time whatever their texts.
#[derive(Clone, Copy)]
pub struct Token(blake3::Hash);

/// Why a file gives no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("{0}: cannot read the token: {1}")]
    Unreadable(PathBuf, #[source] io::Error),
    /// It holds something else.
    #[error("{0}: must hold one token of 16 to 1024 visible ASCII characters in one line")]
    Unusable(PathBuf),
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// This text as a token; `None` when it is not 16 to 1024 visible ASCII characters.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let fits = (16..=1024).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| Self(blake3::hash(text.as_bytes())))
    }

    /// Reads a token from a file that holds it and at most a line's end.
    ///
    /// # Errors
    /// When the file cannot be read or holds something else.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let text = std::fs::read_to_string(path).map_err(|error| TokenError::Unreadable(path.into(), error))?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Self::new(text.strip_suffix('\r').unwrap_or(text)).ok_or_else(|| TokenError::Unusable(path.into()))
    }

    /// Whether this is the token.
    #[must_use]
    pub fn is(&self, given: &[u8]) -> bool {
        blake3::hash(given) == self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_line_of_visible_characters() {
        for text in ["", "short", "0123456789abcde\n", "0123456789 abcdef", "0123456789äbcdef"] {
            assert!(Token::new(text).is_none(), "{text:?}");
        }
        let token = Token::new("0123456789abcdef").unwrap();
        assert!(token.is(b"0123456789abcdef") && !token.is(b"0123456789abcdeF") && !token.is(b""));
        assert_eq!(format!("{token:?}"), "Token");
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in ["0123456789abcdef", "0123456789abcdef\n", "0123456789abcdef\r\n"] {
            std::fs::write(file.path(), text).unwrap();
            assert!(Token::read(file.path()).unwrap().is(b"0123456789abcdef"));
        }
        std::fs::write(file.path(), "0123456789abcdef\nmore\n").unwrap();
        assert!(matches!(Token::read(file.path()), Err(TokenError::Unusable(_))));
        assert!(matches!(Token::read(&file.path().join("none")), Err(TokenError::Unreadable(..))));
    }
}
