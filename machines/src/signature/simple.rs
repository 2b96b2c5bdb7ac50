//! Simple signing: cosign 2's layout (cosign's SIGNATURE_SPEC, containers-signature(5)).
//!
//! Under the tag `sha256-<hex>.sig` lies an image manifest with one layer for each signature. The layer's bytes are the
//! signed payload, its annotation holds the signature in base64.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use base64ct::{Base64, Encoding as _};

use super::{
    Claim, MAX_PAYLOAD, MAX_SIGNATURE, MAX_SIGNATURES, Refusal, annotations, base64, field, members, object, parse,
    strings,
};
use crate::json::Value;
use crate::oci::{Descriptor, Digest, Image, media};

/// The annotation of a layer that holds its signature, base64.
pub const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// What `critical.type` says in a signature of cosign's.
const TYPE: &str = "cosign container image signature";

const WHAT: &str = "signature payload";
const MANIFEST: &str = "signature manifest";

/// The bytes to sign: this digest, known under `docker_reference` (registry and repository, or with a tag; skopeo's
/// policies may compare it), with these annotations.
#[must_use]
pub fn payload(digest: &Digest, docker_reference: &str, annotations: &BTreeMap<String, String>) -> Vec<u8> {
    let text = |text: &str| Value::from(text);
    let optional = if annotations.is_empty() { Value::Null } else { strings(annotations) };
    let critical = members([
        ("identity", members([("docker-reference", text(docker_reference))])),
        ("image", members([("docker-manifest-digest", Value::from(alloc::format!("{digest}")))])),
        ("type", text(TYPE)),
    ]);
    members([("critical", critical), ("optional", optional)]).to_text().into_bytes()
}

/// Reads a signed payload. Every member of `critical` must be understood, so an unknown one is a refusal.
///
/// # Errors
/// What is wrong, and in which field.
pub fn read(bytes: &[u8]) -> Result<Claim, Refusal> {
    let value = parse(WHAT, bytes, MAX_PAYLOAD)?;
    let top = object(WHAT, "", Some(&value), &["critical", "optional"])?;
    let critical = object(WHAT, "critical", top.get("critical"), &["identity", "image", "type"])?;
    if critical.get("type").and_then(Value::as_str) != Some(TYPE) {
        return Err(field(WHAT, "critical.type", "\"cosign container image signature\""));
    }
    let identity = object(WHAT, "critical.identity", critical.get("identity"), &["docker-reference"])?;
    if identity.get("docker-reference").and_then(Value::as_str).is_none() {
        return Err(field(WHAT, "critical.identity.docker-reference", "a string"));
    }
    let image = object(WHAT, "critical.image", critical.get("image"), &["docker-manifest-digest"])?;
    let digest = image
        .get("docker-manifest-digest")
        .and_then(Value::as_str)
        .ok_or_else(|| field(WHAT, "critical.image.docker-manifest-digest", "a digest"))?;
    Ok(Claim {
        digest: Digest::parse(digest).map_err(|cause| Refusal::Digest { what: WHAT, cause })?,
        annotations: annotations(WHAT, "optional", top.get("optional"))?,
    })
}

/// The signatures of a manifest that lies under a `.sig` tag: the layer that holds the payload, and the signature over
/// its bytes. Layers of other kinds are passed over; the list may be empty, and an empty list is no signature (FAULTS
/// S05).
///
/// # Errors
/// More layers than [`MAX_SIGNATURES`], a payload longer than [`MAX_PAYLOAD`], or a layer of this kind without a
/// signature in base64.
pub fn signatures(image: &Image) -> Result<Vec<(Descriptor, Vec<u8>)>, Refusal> {
    if image.layers.len() > MAX_SIGNATURES {
        let found = alloc::format!("{} signatures", image.layers.len());
        return Err(Refusal::TooMuch { what: MANIFEST, found, max: MAX_SIGNATURES });
    }
    let layers = image.layers.iter().enumerate().filter(|(_, layer)| layer.media_type == media::SIMPLE_SIGNING);
    layers
        .map(|(at, layer)| {
            if usize::try_from(layer.size).unwrap_or(usize::MAX) > MAX_PAYLOAD {
                let found = alloc::format!("layers[{at}] of {} bytes", layer.size);
                return Err(Refusal::TooMuch { what: MANIFEST, found, max: MAX_PAYLOAD });
            }
            let name = alloc::format!("layers[{at}].annotations.{SIGNATURE}");
            let text = layer.annotations.get(SIGNATURE).map(String::as_str);
            Ok((layer.clone(), base64(MANIFEST, &name, text, MAX_SIGNATURE)?))
        })
        .collect()
}

/// The layer that carries `payload` with `signature` over it.
#[must_use]
pub fn layer(payload: &[u8], signature: &[u8]) -> Descriptor {
    let mut layer = Descriptor::of(media::SIMPLE_SIGNING, payload);
    layer.annotations.insert(SIGNATURE.into(), Base64::encode_string(signature));
    layer
}

/// The manifest to keep under the `.sig` tag, and its configuration, as cosign makes both. To add a signature, give the
/// layers that are there and the new one behind them.
#[must_use]
pub fn manifest(layers: Vec<Descriptor>) -> (Vec<u8>, Image) {
    let never = || Value::from("0001-01-01T00:00:00Z");
    let diff_ids: Vec<Value> = layers.iter().map(|layer| Value::from(alloc::format!("{}", layer.digest))).collect();
    let history: Vec<Value> = layers.iter().map(|_| members([("created", never())])).collect();
    let config = members([
        ("architecture", Value::from("")),
        ("config", Value::Object(BTreeMap::new())),
        ("created", never()),
        ("history", Value::from(history)),
        ("os", Value::from("")),
        ("rootfs", members([("diff_ids", Value::from(diff_ids)), ("type", Value::from("layers"))])),
    ]);
    let config = config.to_text().into_bytes();
    let image = Image {
        media_type: media::IMAGE_MANIFEST.into(),
        artifact_type: None,
        config: Descriptor::of(media::IMAGE_CONFIG, &config),
        layers,
        subject: None,
        annotations: BTreeMap::new(),
    };
    (config, image)
}
