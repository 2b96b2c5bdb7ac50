//! cosign's box around a private key: JSON in PEM, scrypt, and NaCl's secretbox (XSalsa20-Poly1305) over PKCS#8.
//!
//! The format is go-securesystemslib's `encrypted`. Its reader takes three strengths of scrypt and nothing else, so that a
//! file cannot make its reader spend memory at will; so does this one: at most 128 MiB.

use base64ct::{Base64, Encoding as _};
use crypto_secretbox::{AeadInPlace as _, Key, KeyInit as _, Nonce, Tag, XSalsa20Poly1305};
use machines::json::{self, Limits, Value};
use zeroize::Zeroizing;

use super::{Fault, Password, random};

/// The PEM label that is written.
pub(super) const LABEL: &str = "ENCRYPTED SIGSTORE PRIVATE KEY";
/// The label of cosign before version 2, which is read as well.
pub(super) const OLDER_LABEL: &str = "ENCRYPTED COSIGN PRIVATE KEY";

/// The strengths, as the logarithm of scrypt's N; r is 8 and p is 1 in all of them (32, 64 and 128 MiB).
const STRENGTHS: [u8; 3] = [15, 16, 17];
/// The strength that cosign writes, and we.
const STRENGTH: u8 = 16;
const R: u32 = 8;
const P: u32 = 1;

const SALT: usize = 32;
const NONCE: usize = 24;
const TAG: usize = 16;

/// Why a box does not open.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unopened {
    /// It is no such box.
    Malformed(String),
    /// Wrong password, or changed bytes: the two cannot be told apart.
    WrongPassword,
}

/// Closes a box.
pub(super) fn seal(secret: &[u8], password: &Password) -> Result<String, Fault> {
    let salt = random::<SALT>()?;
    let nonce = random::<NONCE>()?;
    let mut text = Zeroizing::new(secret.to_vec());
    let cipher = cipher(password, salt.as_slice(), STRENGTH);
    let sealed = cipher.and_then(|cipher| {
        let nonce = Nonce::from(*nonce);
        cipher.encrypt_in_place_detached(&nonce, b"", &mut text).ok()
    });
    let tag = sealed.ok_or_else(|| Fault::Kernel {
        what: "the private key cannot be encrypted",
        source: std::io::ErrorKind::InvalidInput.into(),
    })?;
    let sealed = [tag.as_slice(), text.as_slice()].concat();
    let (salt, nonce, sealed) = (
        Base64::encode_string(salt.as_slice()),
        Base64::encode_string(nonce.as_slice()),
        Base64::encode_string(&sealed),
    );
    let n = 1_u32 << STRENGTH;
    Ok(format!(
        r#"{{"kdf":{{"name":"scrypt","params":{{"N":{n},"r":{R},"p":{P}}},"salt":"{salt}"}},"cipher":{{"name":"nacl/secretbox","nonce":"{nonce}"}},"ciphertext":"{sealed}"}}"#
    ))
}

/// Opens a box.
pub(super) fn open(bytes: &[u8], password: &Password) -> Result<Zeroizing<Vec<u8>>, Unopened> {
    let malformed = |what: &str| Unopened::Malformed(what.into());
    let value = json::parse(bytes, &Limits::bytes(bytes.len())).map_err(|e| Unopened::Malformed(e.to_string()))?;
    let get = |path: &[&str]| path.iter().try_fold(&value, |value, name| value.get(name));
    let is = |path: &[&str], text: &str| get(path).and_then(Value::as_str) == Some(text);
    if !is(&["kdf", "name"], "scrypt") || !is(&["cipher", "name"], "nacl/secretbox") {
        return Err(malformed("the private key is not encrypted by scrypt and nacl/secretbox"));
    }
    let number = |name| get(&["kdf", "params", name]).and_then(Value::as_u64);
    let (r, p) = (number("r"), number("p"));
    let strength = STRENGTHS.into_iter().find(|log_n| number("N") == Some(1 << log_n));
    let (Some(strength), Some(8), Some(1)) = (strength, r, p) else {
        return Err(malformed("scrypt's parameters are none of cosign's (N 32768, 65536 or 131072, r 8, p 1)"));
    };
    let part = |path: &[&str]| get(path).and_then(Value::as_str).and_then(|text| Base64::decode_vec(text).ok());
    let salt = part(&["kdf", "salt"]).ok_or_else(|| malformed("`kdf.salt` is no base64"))?;
    let nonce = part(&["cipher", "nonce"]).and_then(|bytes| <[u8; NONCE]>::try_from(bytes).ok());
    let nonce = nonce.ok_or_else(|| malformed("`cipher.nonce` is not 24 bytes in base64"))?;
    let sealed = part(&["ciphertext"]).map(Zeroizing::new);
    let sealed = sealed.ok_or_else(|| malformed("`ciphertext` is no base64"))?;
    let Some((tag, text)) = sealed.split_first_chunk::<TAG>() else {
        return Err(malformed("`ciphertext` is too short"));
    };
    let mut text = Zeroizing::new(text.to_vec());
    let cipher = cipher(password, &salt, strength).ok_or_else(|| malformed("scrypt's parameters"))?;
    cipher
        .decrypt_in_place_detached(&Nonce::from(nonce), b"", &mut text, &Tag::from(*tag))
        .map_err(|_| Unopened::WrongPassword)?;
    Ok(text)
}

fn cipher(password: &Password, salt: &[u8], log_n: u8) -> Option<XSalsa20Poly1305> {
    let params = scrypt::Params::new(log_n, R, P).ok()?;
    let mut key = Zeroizing::new([0; 32]);
    scrypt::scrypt(password.bytes(), salt, &params, key.as_mut_slice()).ok()?;
    Some(XSalsa20Poly1305::new(Key::from_slice(key.as_slice())))
}
