//! cosign's keys: ECDSA over P-256 with SHA-256.

use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use std::path::Path;

use base64ct::{Base64, Encoding as _};
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{self, Signature};
use p256::pkcs8::{
    DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding,
};
use zeroize::Zeroizing;

use super::secret_box::{self, Unopened};
use super::{Fault, Fingerprint, Password, files, forbid_core_dumps, random};

/// The longest signature in DER: two integers of 33 bytes and their headers.
const MAX_DER: usize = 72;

const WANTED: &str = "only ECDSA keys over P-256 are taken, as `cosign generate-key-pair` makes them";

/// A private key of cosign's, with its public half.
pub struct SigningKey(ecdsa::SigningKey);

impl SigningKey {
    /// Reads and decrypts a key that cosign or [`super::generate`] made.
    ///
    /// # Errors
    /// When the file cannot be read, others may read it, it is no such key, or the password is wrong.
    pub fn open(path: &Path, password: &Password) -> Result<Self, Fault> {
        forbid_core_dumps()?;
        let pem = files::read_private(path)?;
        let format = |what: &str| Fault::Format { path: path.into(), what: what.into() };
        let (label, sealed) = pem_rfc7468::decode_vec(&pem).map_err(|_| {
            format("no PEM; a private key of cosign's starts with BEGIN ENCRYPTED SIGSTORE PRIVATE KEY")
        })?;
        if label != secret_box::LABEL && label != secret_box::OLDER_LABEL {
            return Err(Fault::Format {
                path: path.into(),
                what: format!("holds {label:?}; wanted is {:?}, see `cosign import-key-pair`", secret_box::LABEL),
            });
        }
        let der = secret_box::open(&sealed, password).map_err(|unopened| match unopened {
            Unopened::WrongPassword => Fault::Password(path.into()),
            Unopened::Malformed(what) => Fault::Format { path: path.into(), what },
        })?;
        ecdsa::SigningKey::from_pkcs8_der(&der).map(Self).map_err(|_| format(WANTED))
    }

    /// Makes a new key.
    pub(super) fn new() -> Result<Self, Fault> {
        forbid_core_dumps()?;
        // One draw in 2^32 is above the curve's order; that many in a row do not happen while the kernel gives entropy.
        for _ in 0..8 {
            if let Ok(key) = ecdsa::SigningKey::from_slice(random::<32>()?.as_slice()) {
                return Ok(Self(key));
            }
        }
        Err(Fault::Kernel { what: "no usable entropy from the kernel", source: std::io::ErrorKind::InvalidData.into() })
    }

    /// The encrypted private key as PEM.
    pub(super) fn to_pem(&self, password: &Password) -> Result<Zeroizing<String>, Fault> {
        let broken = || Fault::Kernel {
            what: "the private key cannot be encoded",
            source: std::io::ErrorKind::InvalidData.into(),
        };
        let der = self.0.to_pkcs8_der().map_err(|_| broken())?;
        let sealed = secret_box::seal(der.as_bytes(), password)?;
        pem_rfc7468::encode_string(secret_box::LABEL, LineEnding::LF, sealed.as_bytes())
            .map(Zeroizing::new)
            .map_err(|_| broken())
    }

    /// Signs a message: DER, deterministic (RFC 6979), with the lower of the two values that s may have. Whoever checks it
    /// must not rely on that: see [`super::PublicKeys::check`].
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature: Signature = self.0.sign(message);
        signature.normalize_s().to_der().as_bytes().to_vec()
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(*self.0.verifying_key())
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.public().fingerprint())
    }
}

/// A public key of cosign's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(ecdsa::VerifyingKey);

impl PublicKey {
    /// Reads a public key: PEM, `PUBLIC KEY`. Keys of other kinds (RSA, P-384, Ed25519) are refused: one algorithm, so that
    /// nothing has to choose between several.
    ///
    /// # Errors
    /// When the file cannot be read or holds something else.
    pub fn read(path: &Path) -> Result<Self, Fault> {
        let pem = files::read_public(path)?;
        let text = std::str::from_utf8(&pem).ok();
        text.and_then(|text| ecdsa::VerifyingKey::from_public_key_pem(text).ok())
            .map(Self)
            .ok_or_else(|| Fault::Format { path: path.into(), what: format!("no such public key in PEM; {WANTED}") })
    }

    /// Whether `signature` is this key's over `message`. It is parsed as DER, strictly.
    #[must_use]
    pub fn check(&self, message: &[u8], signature: &[u8]) -> bool {
        parse_der(signature).is_some_and(|signature| self.check_parsed(message, &signature))
    }

    pub(super) fn check_parsed(&self, message: &[u8], signature: &Signature) -> bool {
        let point = self.0.to_sec1_point(false);
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point.as_bytes());
        key.verify(message, signature.to_bytes().as_slice()).is_ok()
    }

    /// As PEM.
    pub(super) fn to_pem(self) -> Option<String> {
        self.0.to_public_key_pem(LineEnding::LF).ok()
    }

    /// For people.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let der = self.0.to_public_key_der();
        Fingerprint::of(der.as_ref().map_or(&[], |der| der.as_bytes()))
    }

    /// What cosign writes into a bundle to name the key: the fingerprint's bytes in base64.
    #[must_use]
    pub fn hint(&self) -> String {
        Base64::encode_string(self.fingerprint().bytes())
    }
}

/// Reads a signature. Anything but canonical DER of two numbers from 1 to n-1 is none.
pub(super) fn parse_der(signature: &[u8]) -> Option<Signature> {
    if signature.len() > MAX_DER {
        return None;
    }
    let der = ecdsa::DerSignature::from_bytes(signature).ok()?;
    Signature::try_from(der).ok()
}
