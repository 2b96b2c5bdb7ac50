//! Ed25519, for manifests of operations and for publishers of objects (SPEC 10 and 11).

use std::path::Path;

use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _, KeypairBytes};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use p256::pkcs8::{EncodePrivateKey as _, LineEnding};
use zeroize::Zeroizing;

use super::{Fault, Fingerprint, files, forbid_core_dumps, random};

/// A private key with its public half.
pub struct Ed25519Key(SigningKey);

impl Ed25519Key {
    /// Reads a key: PKCS#8 in PEM, not encrypted, as [`super::generate`] and `openssl genpkey -algorithm ed25519` make it.
    ///
    /// # Errors
    /// When the file cannot be read, others may read it, or it is no such key; also when it names a public half that is
    /// not its own.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        forbid_core_dumps()?;
        let pem = files::read_private(path)?;
        let text = std::str::from_utf8(&pem).ok();
        text.and_then(|text| SigningKey::from_pkcs8_pem(text).ok()).map(Self).ok_or_else(|| Fault::Format {
            path: path.into(),
            what: "no Ed25519 private key in PKCS#8 PEM (BEGIN PRIVATE KEY)".into(),
        })
    }

    /// Makes a new key.
    pub(super) fn new() -> Result<Self, Fault> {
        forbid_core_dumps()?;
        Ok(Self(SigningKey::from_bytes(&*random::<32>()?)))
    }

    /// The private key as PEM. Without the public half (PKCS#8 version 1): OpenSSL 3 reads no other.
    pub(super) fn to_pem(&self) -> Option<Zeroizing<String>> {
        let secret_key = Zeroizing::new(self.0.to_bytes());
        let pair = KeypairBytes { secret_key: *secret_key, public_key: None };
        pair.to_pkcs8_pem(LineEnding::LF).ok()
    }

    /// Signs a message.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> Ed25519PublicKey {
        Ed25519PublicKey(self.0.verifying_key())
    }
}

impl std::fmt::Debug for Ed25519Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ed25519Key({})", self.public().fingerprint())
    }
}

/// A public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ed25519PublicKey(VerifyingKey);

impl Ed25519PublicKey {
    /// Reads a public key: a file of exactly 32 bytes.
    ///
    /// # Errors
    /// When the file cannot be read or does not hold a key.
    pub fn read(path: &Path) -> Result<Self, Fault> {
        let bytes = files::read_public(path)?;
        let key = <[u8; 32]>::try_from(bytes.as_slice()).ok().and_then(|bytes| Self::from_bytes(&bytes));
        key.ok_or_else(|| Fault::Format {
            path: path.into(),
            what: "no Ed25519 public key: wanted are its 32 raw bytes, a canonical point that is not of small order"
                .into(),
        })
    }

    /// The key with these bytes. A point of small order, under which a signature can be made that fits almost every
    /// message, and an encoding that is not canonical are none (FAULTS S08).
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let key = VerifyingKey::from_bytes(bytes).ok()?;
        let canonical = key.to_edwards().compress().to_bytes() == *bytes;
        (canonical && !key.is_weak()).then_some(Self(key))
    }

    /// The 32 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// Whether `signature` is this key's over `message`: 64 bytes, s below the order, no small-order point (strict
    /// verification), so that a signature cannot be turned into another one by someone without the key (FAULTS S08).
    #[must_use]
    pub fn check(&self, message: &[u8], signature: &[u8]) -> bool {
        <[u8; 64]>::try_from(signature)
            .is_ok_and(|bytes| self.0.verify_strict(message, &Signature::from_bytes(&bytes)).is_ok())
    }

    /// For people.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let der = self.0.to_public_key_der();
        Fingerprint::of(der.as_ref().map_or(&[], |der| der.as_bytes()))
    }
}
