//! Keys: how they are made, kept, read and used (SPEC 7; docs/keys.md).
//!
//! Two families that never meet, because an algorithm belongs to its key and no field of a document chooses one (FAULTS
//! S07): ECDSA over P-256 with SHA-256, as cosign has it, for signatures of images ([`SigningKey`], [`PublicKeys`]); and
//! Ed25519 for manifests and publishers ([`Ed25519Key`], [`Ed25519PublicKey`]).
//!
//! A private key lives in memory that is overwritten when it is dropped, in a process whose core is never dumped from
//! then on (X13); none of the types here shows a secret by `Debug` or in an error (C06). A key pair holds both halves,
//! and signing takes no public key from outside (S09):
//!
//! ```compile_fail,E0061
//! fn sign(key: &io_artifacts::keys::Ed25519Key, public: &io_artifacts::keys::Ed25519PublicKey) -> [u8; 64] {
//!     key.sign(b"message", public)
//! }
//! ```

mod cosign;
mod ed25519;
mod files;
mod generate;
mod password;
mod secret_box;
mod trust;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

pub use cosign::{PublicKey, SigningKey};
pub use ed25519::{Ed25519Key, Ed25519PublicKey};
pub use generate::{Generated, Kind, generate};
pub use password::{PASSWORD_VARIABLE, Password};
pub use trust::{MAX_KEYS, PublicKeys};

/// The longest key file that is read, in bytes.
pub const MAX_FILE: u64 = 16 * 1024;

/// Why a key cannot be made, read or used. No message holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The file or folder cannot be read.
    #[error("{path}: cannot be read: {source}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file cannot be written.
    #[error("{path}: cannot be written: {source}", path = path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is a file of that name already.
    #[error("{path}: exists, and a key is never overwritten; choose another --out, or move the old pair away", path = .0.display())]
    Exists(PathBuf),
    /// Not a regular file, or too long for a key.
    #[error("{path}: is no key: {what}", path = path.display())]
    NoKey {
        /// Which file.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// Others may read the private key (FAULTS T16).
    #[error("{path}: mode {mode:04o} gives others access to the private key; run: chmod 600 {path}", path = path.display())]
    LooseMode {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds something else than such a key.
    #[error("{path}: {what}", path = path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and what is wanted.
        what: String,
    },
    /// The password does not open the private key.
    #[error("{path}: cannot be opened: the password (COSIGN_PASSWORD) is wrong, or the file is damaged", path = .0.display())]
    Password(PathBuf),
    /// A place that should hold trusted keys holds none.
    #[error("no trusted key: {0}")]
    NoKeys(String),
    /// More keys or files than are looked at.
    #[error("{place}: more than {max} {what}")]
    TooMany {
        /// Where.
        place: String,
        /// The bound.
        max: usize,
        /// Of what.
        what: &'static str,
    },
    /// The kernel gave no entropy, or takes no order about core dumps.
    #[error("{what}: {source}")]
    Kernel {
        /// What was asked for.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

/// SHA-256 of a public key's DER (SubjectPublicKeyInfo), for people: `sha256:<hex>`, as `openssl pkey -pubin -outform
/// DER | sha256sum` gives it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(spki: &[u8]) -> Self {
        Self(Sha256::digest(spki).into())
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hex = String::from("sha256:");
        machines::ids::write_hex(&self.0, &mut hex);
        f.write_str(&hex)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// From here on the kernel dumps no core of this process, for it is about to hold a secret (FAULTS X13). Locking memory
/// against swapping would need `unsafe`, which no crate here has; a machine that holds keys has its swap encrypted or
/// off.
fn forbid_core_dumps() -> Result<(), Fault> {
    use rustix::process::{DumpableBehavior, Resource, getrlimit, set_dumpable_behavior, setrlimit};
    let failed = |errno: rustix::io::Errno| Fault::Kernel {
        what: "core dumps cannot be switched off for a process that holds a private key",
        source: errno.into(),
    };
    let limit = getrlimit(Resource::Core);
    setrlimit(Resource::Core, rustix::process::Rlimit { current: Some(0), ..limit }).map_err(failed)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed)
}

/// Fills an array from the kernel's random source.
fn random<const N: usize>() -> Result<zeroize::Zeroizing<[u8; N]>, Fault> {
    let mut bytes = zeroize::Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|e| Fault::Kernel {
        what: "no entropy from the kernel",
        source: std::io::Error::other(e.to_string()),
    })?;
    Ok(bytes)
}
