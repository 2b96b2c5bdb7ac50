//! Descriptors: what a manifest says of the things that it is made of (image-spec, "OCI Content Descriptors").

use alloc::collections::BTreeMap;
use alloc::string::String;

use super::{Digest, Refusal};
use crate::json::Value;

/// The longest media type, in bytes.
const MAX_MEDIA_TYPE: usize = 255;
/// The largest size, in bytes: what every reader of JSON keeps exactly.
const MAX_SIZE: u64 = (1 << 53) - 1;

/// Something by its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Free remarks.
    pub annotations: BTreeMap<String, String>,
    /// What a manifest is about, in listings of referrers.
    pub artifact_type: Option<String>,
    /// What an entry of an index runs on.
    pub platform: Option<Platform>,
}

/// What an image runs on (image-spec, "Image Index").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// As in Go's `GOOS`.
    pub os: String,
    /// As in Go's `GOARCH`.
    pub architecture: String,
    /// Like `v8`.
    pub variant: Option<String>,
}

impl Descriptor {
    /// The descriptor of these bytes.
    #[must_use]
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), u64::try_from(bytes.len()).unwrap_or(u64::MAX))
    }

    /// A descriptor without remarks.
    #[must_use]
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            annotations: BTreeMap::new(),
            artifact_type: None,
            platform: None,
        }
    }

    /// As JSON.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut members = BTreeMap::new();
        let mut put = |name: &str, value: Value| members.insert(String::from(name), value);
        put("mediaType", Value::from(self.media_type.as_str()));
        put("digest", Value::from(alloc::format!("{}", self.digest)));
        put("size", Value::from(self.size));
        if !self.annotations.is_empty() {
            put("annotations", strings(&self.annotations));
        }
        if let Some(kind) = &self.artifact_type {
            put("artifactType", Value::from(kind.as_str()));
        }
        if let Some(platform) = &self.platform {
            let mut inner = BTreeMap::new();
            inner.insert(String::from("os"), Value::from(platform.os.as_str()));
            inner.insert(String::from("architecture"), Value::from(platform.architecture.as_str()));
            if let Some(variant) = &platform.variant {
                inner.insert(String::from("variant"), Value::from(variant.as_str()));
            }
            put("platform", Value::Object(inner));
        }
        Value::Object(members)
    }

    /// Reads a descriptor; `place` names it in messages, like `layers[2]`.
    ///
    /// # Errors
    /// A field that is missing or is not what it must be.
    pub fn parse(value: &Value, place: &str) -> Result<Self, Refusal> {
        let bad =
            |field: &str, must| Refusal::Field { what: "manifest", field: alloc::format!("{place}.{field}"), must };
        if value.as_object().is_none() {
            return Err(Refusal::Field { what: "manifest", field: place.into(), must: "a descriptor" });
        }
        let text = |field: &str| value.get(field).and_then(Value::as_str);
        let media_type = text("mediaType")
            .filter(|kind| (1..=MAX_MEDIA_TYPE).contains(&kind.len()))
            .ok_or_else(|| bad("mediaType", "a media type of at most 255 bytes"))?;
        let digest = text("digest").ok_or_else(|| bad("digest", "a digest"))?;
        let size = value.get("size").and_then(Value::as_u64).filter(|n| *n <= MAX_SIZE);
        let platform = match value.get("platform") {
            None | Some(Value::Null) => None,
            Some(platform) => {
                let part = |field: &str| platform.get(field).and_then(Value::as_str).map(String::from);
                let whole = || bad("platform", "an object with `os` and `architecture`");
                Some(Platform {
                    os: part("os").ok_or_else(whole)?,
                    architecture: part("architecture").ok_or_else(whole)?,
                    variant: part("variant"),
                })
            }
        };
        Ok(Self {
            media_type: media_type.into(),
            digest: Digest::parse(digest)?,
            size: size.ok_or_else(|| bad("size", "a length in bytes, at most 2^53-1"))?,
            annotations: read_strings(value.get("annotations"))
                .ok_or_else(|| bad("annotations", "an object of strings"))?,
            artifact_type: match value.get("artifactType") {
                None | Some(Value::Null) => None,
                Some(kind) => Some(kind.as_str().ok_or_else(|| bad("artifactType", "a media type"))?.into()),
            },
            platform,
        })
    }
}

/// An object of strings; absent is empty.
pub(super) fn read_strings(value: Option<&Value>) -> Option<BTreeMap<String, String>> {
    match value {
        None | Some(Value::Null) => Some(BTreeMap::new()),
        Some(value) => {
            let members = value.as_object()?.iter();
            members.map(|(name, value)| Some((name.clone(), String::from(value.as_str()?)))).collect()
        }
    }
}

pub(super) fn strings(map: &BTreeMap<String, String>) -> Value {
    Value::Object(map.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect())
}
