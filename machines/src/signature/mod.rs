//! Signatures of images in both of cosign's layouts, as formats: what is signed, and where it lies (SPEC 7).
//!
//! Nothing here knows a key. A reader gives back the bytes that were signed, the signature over them and the claim that
//! they make; whoever asks checks the signature first, and then compares the claim with the digest that was
//! pulled (FAULTS S03). What does not parse is refused, never skipped (S04).
//!
//! The two layouts sign different bytes: a JSON object here ([`simple`]), the pre-authentication encoding of an
//! envelope there ([`dsse::pae`]), which starts with `DSSEv1 ` and is no JSON. A signature of one kind is never one of
//! the other (S10).

pub mod bundle;
pub mod dsse;
pub mod simple;

#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use base64ct::{Base64, Encoding as _};

use crate::json::{self, Value};
use crate::oci::{self, Digest};

/// The signed annotation that says when it was signed, RFC 3339 (SPEC 7, freshness).
pub const SIGNED_AT: &str = "autonomy.signed-at";

/// The longest signed payload, in bytes: the JSON of [`simple`], the statement within a [`bundle`].
pub const MAX_PAYLOAD: usize = 16 * 1024;
/// The longest sigstore bundle, in bytes.
pub const MAX_BUNDLE: usize = 64 * 1024;
/// Most signatures that are looked at beneath one image in one layout (FAULTS S14).
pub const MAX_SIGNATURES: usize = 64;
/// Most annotations of one signature.
pub const MAX_ANNOTATIONS: usize = 64;
/// The longest signature, in bytes; those of P-256 have at most 72, other people's RSA keys make longer ones.
pub const MAX_SIGNATURE: usize = 1024;

/// Annotations whose names start so are ours, and must be strings.
const OUR_ANNOTATIONS: &str = "autonomy.";

/// What a signature says once it is known to be good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The manifest that is signed.
    pub digest: Digest,
    /// The annotations that are strings. Others may be there (skopeo signs a number) and say nothing to us.
    pub annotations: BTreeMap<String, String>,
}

/// Why a document is not taken for a signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Not JSON as every boundary of the product takes it.
    #[error("{what}: {cause}")]
    Json {
        /// Which document.
        what: &'static str,
        /// What is wrong with it.
        cause: json::Error,
    },
    /// A field is missing or is not what it must be.
    #[error("{what}: `{field}` must be {must}")]
    Field {
        /// Which document.
        what: &'static str,
        /// The field.
        field: String,
        /// What it must be.
        must: &'static str,
    },
    /// A field that has no place here; it may restrict what the signer meant, so it is not passed over.
    #[error("{what}: unknown field `{field}`")]
    Unknown {
        /// Which document.
        what: &'static str,
        /// The field.
        field: String,
    },
    /// The digest is none.
    #[error("{what}: {cause}")]
    Digest {
        /// Which document.
        what: &'static str,
        /// What is wrong with it.
        cause: oci::Refusal,
    },
    /// More than is looked at.
    #[error("{what}: {found}, at most {max} are taken")]
    TooMuch {
        /// Which document.
        what: &'static str,
        /// How much of what was found, like `70 signatures`.
        found: String,
        /// The bound, in the same unit.
        max: usize,
    },
    /// A good bundle about something else, an attestation for one. Beside a signature it is no fault.
    #[error("sigstore bundle: the statement is a {predicate:?}, no signature of an image; sign with `cosign sign`")]
    OtherStatement {
        /// Its predicate type.
        predicate: String,
    },
    /// Signed with a certificate.
    #[error(
        "sigstore bundle: signed with a certificate; only signatures by key are taken, sign with `cosign sign --key`"
    )]
    Certificate,
    /// A bundle of `cosign sign-blob`.
    #[error(
        "sigstore bundle: a message signature, as `cosign sign-blob` makes it; an image is signed with `cosign sign`"
    )]
    MessageSignature,
}

fn field(what: &'static str, field: &str, must: &'static str) -> Refusal {
    Refusal::Field { what, field: field.into(), must }
}

fn parse(what: &'static str, bytes: &[u8], max: usize) -> Result<Value, Refusal> {
    json::parse(bytes, &json::Limits::bytes(max)).map_err(|cause| Refusal::Json { what, cause })
}

/// The object at `value`, when all its members are among `known`.
fn object<'a>(
    what: &'static str,
    name: &str,
    value: Option<&'a Value>,
    known: &[&str],
) -> Result<&'a BTreeMap<String, Value>, Refusal> {
    let members = value.and_then(Value::as_object).ok_or_else(|| field(what, name, "an object"))?;
    match members.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(members),
        Some(key) => {
            let key: String = key.chars().take(64).flat_map(char::escape_default).collect();
            let field = if name.is_empty() { key } else { alloc::format!("{name}.{key}") };
            Err(Refusal::Unknown { what, field })
        }
    }
}

/// Bytes in base64 with padding, at most `max` of them.
fn base64(what: &'static str, name: &str, text: Option<&str>, max: usize) -> Result<Vec<u8>, Refusal> {
    let must = || field(what, name, "base64");
    let text = text.ok_or_else(must)?;
    // Four characters for three bytes, the last group filled up: known before anything is decoded.
    if text.len() > max.div_ceil(3).saturating_mul(4) {
        let found = alloc::format!("{} bytes in `{name}`", text.len().div_euclid(4).saturating_mul(3));
        return Err(Refusal::TooMuch { what, found, max });
    }
    Base64::decode_vec(text).map_err(|_| must())
}

/// The signed annotations that are strings (see [`Claim::annotations`]).
fn annotations(what: &'static str, name: &str, value: Option<&Value>) -> Result<BTreeMap<String, String>, Refusal> {
    let members = match value {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(value) => value.as_object().ok_or_else(|| field(what, name, "an object"))?,
    };
    if members.len() > MAX_ANNOTATIONS {
        let found = alloc::format!("{} annotations", members.len());
        return Err(Refusal::TooMuch { what, found, max: MAX_ANNOTATIONS });
    }
    let mut strings = BTreeMap::new();
    for (key, value) in members {
        match value.as_str() {
            Some(text) => _ = strings.insert(key.clone(), text.into()),
            None if key.starts_with(OUR_ANNOTATIONS) => {
                return Err(field(what, &alloc::format!("{name}.{key}"), "a string"));
            }
            None => {}
        }
    }
    Ok(strings)
}

/// An object of strings.
fn strings(map: &BTreeMap<String, String>) -> Value {
    Value::Object(map.iter().map(|(key, text)| (key.clone(), Value::from(text.as_str()))).collect())
}

/// An object of these members.
fn members<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Object(members.into_iter().map(|(key, value)| (String::from(key), value)).collect())
}
