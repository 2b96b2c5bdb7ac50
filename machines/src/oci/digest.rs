//! The digest of the one algorithm that is taken: SHA-256.

use alloc::string::{String, ToString as _};
use core::fmt;

use sha2::{Digest as _, Sha256};

use super::{Refusal, excerpt};
use crate::ids::Hash32;

/// `sha256:` and 64 lower-case hex digits (image-spec, "Digests"). Other algorithms are not taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(Hash32);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Hash32(Sha256::digest(bytes).into()))
    }

    /// The digest whose SHA-256 is `hash`.
    #[must_use]
    pub const fn from_hash(hash: Hash32) -> Self {
        Self(hash)
    }

    /// Reads a digest.
    ///
    /// # Errors
    /// When it is not exactly a digest of SHA-256 in lower case.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        text.strip_prefix("sha256:")
            .and_then(|hex| Hash32::parse_hex(hex.as_bytes()))
            .map(Self)
            .ok_or_else(|| Refusal::Digest { found: excerpt(text) })
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn hash(&self) -> &Hash32 {
        &self.0
    }

    /// The 64 hex digits without the prefix.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
