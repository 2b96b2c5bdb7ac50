//! The sigstore bundle, version 0.3, as cosign 3 makes it for images: a DSSE envelope around an in-toto statement.
//!
//! The bundle is the one layer of a manifest that refers to the image ([`referrer`]). The statement names the image's
//! digest as its subject and has the predicate type [`SIGN`]; what `cosign sign -a key=value` adds are annotations of
//! the subject. Entries of a transparency log and time stamps may be there and are not looked at: this product trusts
//! keys, offline, and measures age by its own signed annotation (FAULTS S25).

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::dsse::{self, Envelope};
use super::{Claim, MAX_BUNDLE, MAX_PAYLOAD, Refusal, annotations, field, members, object, parse, strings};
use crate::json::Value;
use crate::oci::{Descriptor, Digest, EMPTY_BLOB, Image, media};

/// The predicate type of a signature of an image.
pub const SIGN: &str = "https://sigstore.dev/cosign/sign/v1";

/// The statement's type.
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// How version 0.3 was spelled before its own media type.
const OLDER_MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle+json;version=0.3";

const WHAT: &str = "sigstore bundle";
const STATEMENT: &str = "in-toto statement";

/// A bundle, read. Nothing of it is believed before the signature was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The very bytes that the key signs: the pre-authentication encoding of the statement.
    pub message: Vec<u8>,
    /// The signature over them, DER.
    pub signature: Vec<u8>,
    /// What the statement says.
    pub claim: Claim,
}

/// Reads a bundle that signs an image by key.
///
/// # Errors
/// What is wrong, and in which field. [`Refusal::OtherStatement`], [`Refusal::Certificate`] and
/// [`Refusal::MessageSignature`] are good bundles of a kind that is not taken.
pub fn read(bytes: &[u8]) -> Result<Signed, Refusal> {
    let value = parse(WHAT, bytes, MAX_BUNDLE)?;
    let known = ["mediaType", "verificationMaterial", "dsseEnvelope", "messageSignature"];
    let bundle = object(WHAT, "", Some(&value), &known)?;
    match bundle.get("mediaType").and_then(Value::as_str) {
        Some(media::SIGSTORE_BUNDLE | OLDER_MEDIA_TYPE) => {}
        Some(_) | None => return Err(field(WHAT, "mediaType", "that of a bundle of version 0.3")),
    }
    let envelope = match (bundle.get("dsseEnvelope"), bundle.get("messageSignature")) {
        (Some(envelope), None) => Envelope::read(envelope)?,
        (None, Some(_)) => return Err(Refusal::MessageSignature),
        (None, None) | (Some(_), Some(_)) => return Err(field(WHAT, "dsseEnvelope", "the one content")),
    };
    by_key(bundle.get("verificationMaterial"))?;
    let claim = statement(&envelope.payload)?;
    Ok(Signed { message: envelope.message(), claim, signature: envelope.signature })
}

/// That it is signed by a key. Which key the hint names is not looked at: all trusted keys are tried, and nothing that the
/// bundle says chooses a key or an algorithm (FAULTS S07).
fn by_key(material: Option<&Value>) -> Result<(), Refusal> {
    let kinds = ["publicKey", "certificate", "x509CertificateChain"];
    let known = [kinds.as_slice(), &["tlogEntries", "timestampVerificationData"]].concat();
    let material = object(WHAT, "verificationMaterial", material, &known)?;
    let found: Vec<&str> = kinds.into_iter().filter(|kind| material.contains_key(*kind)).collect();
    match found.as_slice() {
        ["publicKey"] => {
            object(WHAT, "verificationMaterial.publicKey", material.get("publicKey"), &["hint"]).map(|_| ())
        }
        ["certificate" | "x509CertificateChain"] => Err(Refusal::Certificate),
        _ => Err(field(WHAT, "verificationMaterial", "a public key")),
    }
}

/// Reads the statement. It must have exactly one subject with exactly one digest, SHA-256: cosign makes no other, and
/// where there are several, readers differ about whether one or all have to be the image.
fn statement(payload: &[u8]) -> Result<Claim, Refusal> {
    let value = parse(STATEMENT, payload, MAX_PAYLOAD)?;
    // What it is about first: an attestation beside the signature is not to be called malformed.
    if let Some(other) = value.get("predicateType").and_then(Value::as_str).filter(|kind| *kind != SIGN) {
        return Err(Refusal::OtherStatement { predicate: other.chars().take(120).collect() });
    }
    let statement = object(STATEMENT, "", Some(&value), &["_type", "subject", "predicateType", "predicate"])?;
    if statement.get("_type").and_then(Value::as_str) != Some(STATEMENT_TYPE) {
        return Err(field(STATEMENT, "_type", "\"https://in-toto.io/Statement/v1\""));
    }
    if statement.get("predicateType").is_none_or(|kind| kind.as_str().is_none()) {
        return Err(field(STATEMENT, "predicateType", "\"https://sigstore.dev/cosign/sign/v1\""));
    }
    // The predicate of this type is empty. One that says something says something that nobody here understands.
    if let Some(predicate) = statement.get("predicate") {
        object(STATEMENT, "predicate", Some(predicate), &[])?;
    }
    let Some([subject]) = statement.get("subject").and_then(Value::as_array) else {
        return Err(field(STATEMENT, "subject", "an array of exactly one subject"));
    };
    let known = ["name", "uri", "digest", "content", "downloadLocation", "mediaType", "annotations"];
    let subject = object(STATEMENT, "subject[0]", Some(subject), &known)?;
    let digests = object(STATEMENT, "subject[0].digest", subject.get("digest"), &["sha256"])?;
    let hex = digests
        .get("sha256")
        .and_then(Value::as_str)
        .ok_or_else(|| field(STATEMENT, "subject[0].digest.sha256", "64 hex digits"))?;
    let digest =
        Digest::parse(&alloc::format!("sha256:{hex}")).map_err(|cause| Refusal::Digest { what: STATEMENT, cause })?;
    let annotations = annotations(STATEMENT, "subject[0].annotations", subject.get("annotations"))?;
    Ok(Claim { digest, annotations })
}

/// Makes a bundle over `digest` with these annotations. `signature` is given the bytes to sign and gives back DER;
/// `key_hint` is the standard base64 of the SHA-256 of the public key's DER (SubjectPublicKeyInfo), as cosign has it.
#[must_use]
pub fn make(
    digest: &Digest,
    annotations: &BTreeMap<String, String>,
    signature: impl FnOnce(&[u8]) -> Vec<u8>,
    key_hint: &str,
) -> Vec<u8> {
    let empty = || Value::Object(BTreeMap::new());
    let subject =
        members([("digest", members([("sha256", Value::from(digest.hex()))])), ("annotations", strings(annotations))]);
    let statement = members([
        ("_type", Value::from(STATEMENT_TYPE)),
        ("subject", Value::from(alloc::vec![subject])),
        ("predicateType", Value::from(SIGN)),
        ("predicate", empty()),
    ]);
    let payload = statement.to_text().into_bytes();
    let signature = signature(&dsse::pae(dsse::IN_TOTO, &payload));
    let envelope = Envelope { payload, signature };
    let bundle = members([
        ("mediaType", Value::from(media::SIGSTORE_BUNDLE)),
        ("verificationMaterial", members([("publicKey", members([("hint", Value::from(key_hint))]))])),
        ("dsseEnvelope", envelope.to_value()),
    ]);
    bundle.to_text().into_bytes()
}

/// The manifest that attaches `bundle` to `subject`, as cosign 3 makes it; its configuration is [`EMPTY_BLOB`].
/// `created` is an RFC 3339 time for people, the signed annotation's where there is one.
#[must_use]
pub fn referrer(subject: &Descriptor, bundle: &[u8], created: Option<&str>) -> Image {
    let mut config = Descriptor::of(media::EMPTY_JSON, EMPTY_BLOB);
    config.artifact_type = Some(media::SIGSTORE_BUNDLE.into());
    let mut annotations: BTreeMap<String, String> =
        [("dev.sigstore.bundle.content", "dsse-envelope"), ("dev.sigstore.bundle.predicateType", SIGN)]
            .into_iter()
            .map(|(key, text)| (key.to_string(), text.to_string()))
            .collect();
    if let Some(created) = created {
        annotations.insert("org.opencontainers.image.created".into(), created.into());
    }
    Image {
        media_type: media::IMAGE_MANIFEST.into(),
        artifact_type: Some(media::SIGSTORE_BUNDLE.into()),
        config,
        layers: alloc::vec![Descriptor::of(media::SIGSTORE_BUNDLE, bundle)],
        subject: Some(Descriptor::new(&subject.media_type, subject.digest, subject.size)),
        annotations,
    }
}
