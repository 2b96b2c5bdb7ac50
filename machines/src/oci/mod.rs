//! OCI image-spec 1.1 as far as the product needs it: digests, descriptors, manifests, indexes and references.
//!
//! A document is untrusted input. It is read strictly where two readers could understand it differently (duplicate keys,
//! a media type that contradicts where it came from, an image that is an index as well) and tolerantly where the
//! specification asks for it (unknown fields).

mod descriptor;
mod digest;
mod manifest;
mod reference;

use alloc::string::String;

use crate::json;

pub use descriptor::{Descriptor, Platform};
pub use digest::Digest;
pub use manifest::{Image, Index, MAX_CHILDREN, MAX_LAYERS, Manifest};
pub use reference::{Place, Reference, Target, check_tag};

/// The longest manifest or index, in bytes (distribution-spec: registries take at least 4 MiB).
pub const MAX_MANIFEST: u32 = 4 * 1024 * 1024;

/// The empty descriptor's blob (image-spec, "Guidance for an Empty Descriptor").
pub const EMPTY_BLOB: &[u8] = b"{}";

/// Media types.
pub mod media {
    /// An image manifest.
    pub const IMAGE_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An image index.
    pub const IMAGE_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// Docker's image manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// An image's configuration.
    pub const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// An image's layer, a tar archive compressed with gzip.
    pub const IMAGE_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// The empty blob.
    pub const EMPTY_JSON: &str = "application/vnd.oci.empty.v1+json";
    /// A blob of no particular kind.
    pub const OCTET_STREAM: &str = "application/octet-stream";
    /// A lock (SPEC 7).
    pub const LOCK: &str = "application/vnd.autonomyops.lock.v1+json";
    /// A policy bundle (SPEC 7).
    pub const POLICY_BUNDLE: &str = "application/vnd.autonomyops.policy-bundle.v1+tar";
    /// The payload of cosign 2's signatures.
    pub const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
    /// A sigstore bundle, as cosign 3 attaches it.
    pub const SIGSTORE_BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
    /// The annotation of an entry of a layout's index that names its tag.
    pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
}

/// Tags that stand for something by convention.
pub mod tags {
    use super::Digest;
    use alloc::string::String;

    /// The longest tag, in bytes (distribution-spec).
    pub const MAX: usize = 128;

    /// Where cosign 2 keeps the signatures of the manifest `digest`.
    #[must_use]
    pub fn signature(digest: &Digest) -> String {
        alloc::format!("sha256-{}.sig", digest.hash())
    }

    /// The index of the manifests that refer to `digest`, where a registry has no Referrers API (distribution-spec,
    /// "Referrers Tag Schema").
    #[must_use]
    pub fn referrers(digest: &Digest) -> String {
        alloc::format!("sha256-{}", digest.hash())
    }

    /// Where the lock of the image `tag` lies besides (SPEC 7); `None` when there is no room for it in a tag.
    #[must_use]
    pub fn lock(tag: &str) -> Option<String> {
        fits(alloc::format!("{tag}-lock"))
    }

    /// Where the policy bundle of the image `tag` lies besides (SPEC 7); `None` when there is no room for it in a tag.
    #[must_use]
    pub fn policy(tag: &str) -> Option<String> {
        fits(alloc::format!("{tag}-policy"))
    }

    fn fits(tag: String) -> Option<String> {
        (tag.len() <= MAX).then_some(tag)
    }
}

/// Why a document or a reference is not taken.
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
    /// The document's kind contradicts itself or where it came from.
    #[error("the manifest is {found}, and it was named as {wanted}")]
    MediaType {
        /// What the descriptor, the header or the other field said.
        wanted: String,
        /// What the document says.
        found: String,
    },
    /// No digest of the one algorithm.
    #[error("{found:?} is no digest; it must be sha256: and 64 lower-case hex digits")]
    Digest {
        /// The text, cut short.
        found: String,
    },
    /// No reference.
    #[error(
        "{found:?} is no image reference: {why}; write registry/name:tag, registry/name@sha256:…, oci:DIR[:tag] or oci-archive:FILE[:tag]"
    )]
    Reference {
        /// The text, cut short.
        found: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// The beginning of a text for a message.
fn excerpt(text: &str) -> String {
    let mut cut: String = text.chars().take(120).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}
