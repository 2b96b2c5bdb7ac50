//! Image manifests and indexes (image-spec 1.1), and Docker's older forms of both.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::descriptor::{read_strings, strings};
use super::{Descriptor, MAX_MANIFEST, Refusal, media};
use crate::json::{self, Value};

/// Most layers of an image.
pub const MAX_LAYERS: usize = 256;
/// Most entries of an index.
pub const MAX_CHILDREN: usize = 1024;

/// A manifest of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifest {
    /// An image, or an artifact in the shape of one.
    Image(Image),
    /// A list of manifests.
    Index(Index),
}

/// An image manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// `mediaType`.
    pub media_type: String,
    /// `artifactType`: what it is about, when it is no image.
    pub artifact_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, in order.
    pub layers: Vec<Descriptor>,
    /// What it refers to.
    pub subject: Option<Descriptor>,
    /// Free remarks.
    pub annotations: BTreeMap<String, String>,
}

/// An index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// `mediaType`.
    pub media_type: String,
    /// `artifactType`.
    pub artifact_type: Option<String>,
    /// Its entries.
    pub manifests: Vec<Descriptor>,
    /// What it refers to.
    pub subject: Option<Descriptor>,
    /// Free remarks.
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads a manifest. `media_type` is what the descriptor or the header that led to it said; a document that says
    /// otherwise, or that is both an image and an index, is refused (FAULTS S16).
    ///
    /// # Errors
    /// What is wrong, and in which field.
    pub fn parse(bytes: &[u8], media_type: Option<&str>) -> Result<Self, Refusal> {
        let most = usize::try_from(MAX_MANIFEST).unwrap_or(usize::MAX);
        let value = json::parse(bytes, &json::Limits::bytes(most))
            .map_err(|cause| Refusal::Json { what: "manifest", cause })?;
        let bad = |field: &str, must| Refusal::Field { what: "manifest", field: field.into(), must };
        if value.get("schemaVersion").and_then(Value::as_u64) != Some(2) {
            return Err(bad("schemaVersion", "2"));
        }
        let text = |field: &'static str| match value.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                value.as_str().map(|text| Some(String::from(text))).ok_or_else(|| bad(field, "a media type"))
            }
        };
        let own = text("mediaType")?;
        if let (Some(own), Some(wanted)) = (&own, media_type)
            && own != wanted
        {
            return Err(Refusal::MediaType { wanted: plain(wanted), found: plain(own) });
        }
        let is_index = value.get("manifests").is_some();
        if is_index && (value.get("layers").is_some() || value.get("config").is_some()) {
            return Err(Refusal::MediaType {
                wanted: "one kind".into(),
                found: "an image and an index at once".into(),
            });
        }
        let default = if is_index { media::IMAGE_INDEX } else { media::IMAGE_MANIFEST };
        let kind = own.or_else(|| media_type.map(String::from)).unwrap_or_else(|| String::from(default));
        let index_kind = match kind.as_str() {
            media::IMAGE_INDEX | media::DOCKER_LIST => true,
            media::IMAGE_MANIFEST | media::DOCKER_MANIFEST => false,
            other => {
                return Err(Refusal::MediaType {
                    wanted: "an OCI image manifest or index".into(),
                    found: plain(other),
                });
            }
        };
        if index_kind != is_index {
            let found = if is_index { "an index by its fields" } else { "an image by its fields" };
            return Err(Refusal::MediaType { wanted: kind, found: found.into() });
        }
        let artifact_type = text("artifactType")?;
        let subject = match value.get("subject") {
            None | Some(Value::Null) => None,
            Some(subject) => Some(Descriptor::parse(subject, "subject")?),
        };
        let annotations =
            read_strings(value.get("annotations")).ok_or_else(|| bad("annotations", "an object of strings"))?;
        if is_index {
            let manifests = list(&value, "manifests", MAX_CHILDREN)?;
            return Ok(Self::Index(Index { media_type: kind, artifact_type, manifests, subject, annotations }));
        }
        let config = Descriptor::parse(value.get("config").unwrap_or(&Value::Null), "config")?;
        let layers = list(&value, "layers", MAX_LAYERS)?;
        Ok(Self::Image(Image { media_type: kind, artifact_type, config, layers, subject, annotations }))
    }

    /// What it refers to.
    #[must_use]
    pub const fn subject(&self) -> Option<&Descriptor> {
        match self {
            Self::Image(image) => image.subject.as_ref(),
            Self::Index(index) => index.subject.as_ref(),
        }
    }

    /// `mediaType`.
    #[must_use]
    pub fn media_type(&self) -> &str {
        match self {
            Self::Image(image) => &image.media_type,
            Self::Index(index) => &index.media_type,
        }
    }

    /// What it is about: `artifactType`, or for an image without one its configuration's media type (image-spec,
    /// "Guidelines for Artifact Usage").
    #[must_use]
    pub fn artifact_type(&self) -> Option<&str> {
        match self {
            Self::Image(image) => Some(image.artifact_type.as_deref().unwrap_or(&image.config.media_type)),
            Self::Index(index) => index.artifact_type.as_deref(),
        }
    }
}

impl Image {
    /// An artifact: one layer of this kind, the empty configuration, and what it refers to.
    #[must_use]
    pub fn artifact(kind: &str, layer: Descriptor, subject: Option<Descriptor>) -> Self {
        Self {
            media_type: media::IMAGE_MANIFEST.into(),
            artifact_type: Some(kind.into()),
            config: Descriptor::of(media::EMPTY_JSON, super::EMPTY_BLOB),
            layers: alloc::vec![layer],
            subject,
            annotations: BTreeMap::new(),
        }
    }

    /// The document's bytes: compact JSON, keys in byte order.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut members =
            common(&self.media_type, self.artifact_type.as_deref(), self.subject.as_ref(), &self.annotations);
        members.insert("config".into(), self.config.to_value());
        members.insert("layers".into(), Value::Array(self.layers.iter().map(Descriptor::to_value).collect()));
        Value::Object(members).to_text().into_bytes()
    }
}

impl Index {
    /// An index of these manifests.
    #[must_use]
    pub const fn new(media_type: String, manifests: Vec<Descriptor>) -> Self {
        Self { media_type, artifact_type: None, manifests, subject: None, annotations: BTreeMap::new() }
    }

    /// The document's bytes: compact JSON, keys in byte order.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut members =
            common(&self.media_type, self.artifact_type.as_deref(), self.subject.as_ref(), &self.annotations);
        members.insert("manifests".into(), Value::Array(self.manifests.iter().map(Descriptor::to_value).collect()));
        Value::Object(members).to_text().into_bytes()
    }
}

fn common(
    media_type: &str,
    artifact_type: Option<&str>,
    subject: Option<&Descriptor>,
    annotations: &BTreeMap<String, String>,
) -> BTreeMap<String, Value> {
    let mut members = BTreeMap::new();
    members.insert("schemaVersion".into(), Value::from(2_u64));
    members.insert("mediaType".into(), Value::from(media_type));
    if let Some(kind) = artifact_type {
        members.insert("artifactType".into(), Value::from(kind));
    }
    if let Some(subject) = subject {
        members.insert("subject".into(), subject.to_value());
    }
    if !annotations.is_empty() {
        members.insert("annotations".into(), strings(annotations));
    }
    members
}

/// A media type for a message: short, and harmless on a terminal.
fn plain(text: &str) -> String {
    text.chars().take(120).flat_map(char::escape_default).collect()
}

fn list(value: &Value, field: &str, most: usize) -> Result<Vec<Descriptor>, Refusal> {
    let bad = |must| Refusal::Field { what: "manifest", field: field.into(), must };
    let items = match value.get(field) {
        // What a registry that is written in Go says when nothing refers to an image.
        Some(Value::Null) if field == "manifests" => &[],
        items => items.and_then(Value::as_array).ok_or_else(|| bad("a list of descriptors"))?,
    };
    if items.len() > most {
        return Err(bad("at most 256 layers, or 1024 manifests, long"));
    }
    items.iter().enumerate().map(|(i, item)| Descriptor::parse(item, &alloc::format!("{field}[{i}]"))).collect()
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
