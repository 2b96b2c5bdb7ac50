//! The password of a private key.

use std::fmt;
use std::os::unix::ffi::OsStringExt as _;

use zeroize::Zeroizing;

/// The variable that cosign and we read the password from.
pub const PASSWORD_VARIABLE: &str = "COSIGN_PASSWORD";

/// A password, overwritten when it is dropped and never shown. It may be empty, as cosign has it: the private key is then
/// protected by its file mode alone.
#[derive(Clone)]
pub struct Password(Zeroizing<Vec<u8>>);

impl Password {
    /// The password with these bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The value of `COSIGN_PASSWORD` when it is set, be it empty. Asking on a terminal otherwise is for the command line.
    #[must_use]
    pub fn from_env() -> Option<Self> {
        std::env::var_os(PASSWORD_VARIABLE).map(|value| Self::new(value.into_vec()))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}
