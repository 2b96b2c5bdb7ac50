//! New key pairs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::files::{Access, Draft};
use super::{Ed25519Key, Fault, Fingerprint, Password, SigningKey};

/// What a key pair is for, and so of what kind it is (SPEC 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Signs images, locks and policy bundles: ECDSA P-256, encrypted as cosign has it.
    Cosign,
    /// Signs manifests of operations: Ed25519.
    Manifest,
    /// Signs relay objects: Ed25519.
    Publisher,
}

/// A pair that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// The private key, mode 0600.
    pub private: PathBuf,
    /// The public key, mode 0644.
    pub public: PathBuf,
    /// Of the public key.
    pub fingerprint: Fingerprint,
}

/// Makes `PREFIX.key` and `PREFIX.pub`. Both are whole, synced and named one after the other; neither ever replaces a file.
/// The password is for [`Kind::Cosign`] alone, and may be empty; the other kinds are not encrypted.
///
/// # Errors
/// When one of the files is there, or cannot be written; then neither is made.
pub fn generate(kind: Kind, prefix: &Path, password: &Password) -> Result<Generated, Fault> {
    let (private, public) = (with_ending(prefix, ".key"), with_ending(prefix, ".pub"));
    for path in [&private, &public] {
        // Only to say so before the work; naming the file is what decides.
        if path.symlink_metadata().is_ok() {
            return Err(Fault::Exists(path.clone()));
        }
    }
    let unencodable =
        || Fault::Kernel { what: "the key cannot be encoded", source: std::io::ErrorKind::InvalidData.into() };
    let (secret, open, fingerprint) = match kind {
        Kind::Cosign => {
            let key = SigningKey::new()?;
            let pem = key.public().to_pem().ok_or_else(unencodable)?;
            (key.to_pem(password)?, pem.into_bytes(), key.public().fingerprint())
        }
        Kind::Manifest | Kind::Publisher => {
            let key = Ed25519Key::new()?;
            (key.to_pem().ok_or_else(unencodable)?, key.public().to_bytes().to_vec(), key.public().fingerprint())
        }
    };
    let private_draft = Draft::write(&private, secret.as_bytes(), Access::Private)?;
    let public_draft = Draft::write(&public, &open, Access::Public)?;
    private_draft.name()?;
    if let Err(fault) = public_draft.name() {
        // Half a pair helps nobody; this half was made by this very call.
        _ = std::fs::remove_file(&private);
        return Err(fault);
    }
    Ok(Generated { private, public, fingerprint })
}

/// `PREFIX.key`: the ending is added, for `site.a` is a prefix as well.
fn with_ending(prefix: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(prefix);
    name.push(ending);
    name.into()
}
