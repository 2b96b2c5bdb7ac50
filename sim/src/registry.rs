//! A registry's content as it was pushed: manifests, blobs, tags, referrers; and the signatures of the simulation.
//!
//! A signature is a keyed hash of the message: whoever has the key can make one, nobody else can, and nothing depends on
//! real cryptography. Everything else (manifests, payloads, bundles, locks) is in its real form.

use std::collections::BTreeMap;

use machines::oci::{Descriptor, Digest, Image, Manifest, media, tags};
use machines::signature::{SIGNED_AT, bundle, simple};
use machines::time::Wall;

use crate::supply::Part;

/// The keys that the node trusts.
pub const TRUSTED: [u8; 2] = [1, 2];
/// A key that it does not trust.
pub const STRANGER: u8 = 9;

/// A signature of the simulation.
#[must_use]
pub fn sign(key: u8, message: &[u8]) -> Vec<u8> {
    blake3::keyed_hash(&[key; 32], message).as_bytes().to_vec()
}

/// Which trusted key made it.
#[must_use]
pub fn check(message: &[u8], signature: &[u8]) -> Option<u16> {
    let made = |key: &u8| sign(*key, message) == signature;
    TRUSTED.iter().position(made).and_then(|at| u16::try_from(at).ok())
}

/// A manifest or a blob.
#[derive(Debug)]
pub struct Stored {
    /// What it belongs to.
    pub part: Part,
    /// The media type of a manifest.
    pub media_type: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// In which of cosign's layouts something is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The tag `sha256-….sig`.
    Simple,
    /// A sigstore bundle that refers to it.
    Bundle,
    /// Both.
    Both,
}

/// The content.
#[derive(Debug, Default)]
pub struct Registry {
    /// By digest.
    pub manifests: BTreeMap<Digest, Stored>,
    /// By digest.
    pub blobs: BTreeMap<Digest, Stored>,
    /// Where tags lead.
    pub tags: BTreeMap<String, Digest>,
    /// What refers to a manifest.
    pub referrers: BTreeMap<Digest, Vec<Descriptor>>,
    /// Layers of manifests of signatures, by what they sign.
    simple: BTreeMap<Digest, Vec<Descriptor>>,
    /// Every signature that a trusted key ever made, and which.
    pub made: BTreeMap<Vec<u8>, u16>,
}

impl Registry {
    /// Keeps a blob.
    pub fn blob(&mut self, part: Part, media_type: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(media_type, bytes);
        let stored = Stored { part, media_type: media_type.to_owned(), bytes: bytes.to_vec() };
        self.blobs.insert(descriptor.digest, stored);
        descriptor
    }

    /// Keeps a manifest.
    pub fn manifest(&mut self, part: Part, media_type: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(media_type, bytes);
        let stored = Stored { part, media_type: media_type.to_owned(), bytes: bytes.to_vec() };
        self.manifests.insert(descriptor.digest, stored);
        descriptor
    }

    /// Attaches a blob to a manifest: as a referrer, and under this tag.
    pub fn attach(&mut self, part: Part, kind: &str, bytes: &[u8], subject: &Descriptor, tag: &str) -> Descriptor {
        let layer = self.blob(part, kind, bytes);
        let image = Image::artifact(kind, layer, Some(subject.clone()));
        let mut descriptor = self.manifest(part, media::IMAGE_MANIFEST, &image.to_bytes());
        self.tags.insert(tag.to_owned(), descriptor.digest);
        descriptor.artifact_type = Some(kind.to_owned());
        self.referrers.entry(subject.digest).or_default().push(descriptor.clone());
        descriptor
    }

    /// Attaches what a manifest attaches once more, by others, before it and behind it in every order.
    pub fn double(&mut self, part: Part, kept: &Descriptor) {
        let Some(stored) = self.manifests.get(&kept.digest) else { return };
        let Ok(Manifest::Image(image)) = Manifest::parse(&stored.bytes, None) else { return };
        for n in 0..3 {
            let mut other = image.clone();
            other.annotations.insert("copy".to_owned(), format!("{n}"));
            let mut descriptor = self.manifest(part, media::IMAGE_MANIFEST, &other.to_bytes());
            descriptor.artifact_type.clone_from(&kept.artifact_type);
            let subject = image.subject.as_ref().map(|subject| subject.digest);
            subject.into_iter().for_each(|subject| self.referrers.entry(subject).or_default().push(descriptor.clone()));
        }
    }

    /// A signature by this key in this layout, with a date or without.
    pub fn sign(&mut self, subject: &Descriptor, layout: Layout, key: u8, date: Option<&str>) {
        let annotations: BTreeMap<String, String> =
            date.map(|date| (SIGNED_AT.to_owned(), date.to_owned())).into_iter().collect();
        if matches!(layout, Layout::Simple | Layout::Both) {
            let payload = simple::payload(&subject.digest, "registry.sim/agent", &annotations);
            self.simple_layer(&subject.digest, &payload, &sign(key, &payload));
        }
        if matches!(layout, Layout::Bundle | Layout::Both) {
            let mut made = Vec::new();
            let signer = |message: &[u8]| {
                made = sign(key, message);
                made.clone()
            };
            let bytes = bundle::make(&subject.digest, &annotations, signer, "simulated");
            self.note_made(&made, key);
            self.sigstore_bundle(subject, &bytes, date);
        }
        if let Some(key) = TRUSTED.iter().find(|trusted| **trusted == key) {
            let payload = simple::payload(&subject.digest, "registry.sim/agent", &annotations);
            self.note_made(&sign(*key, &payload), *key);
        }
    }

    fn note_made(&mut self, signature: &[u8], key: u8) {
        if let Some(number) = TRUSTED.iter().position(|trusted| *trusted == key) {
            self.made.insert(signature.to_vec(), u16::try_from(number).unwrap_or(0));
        }
    }

    /// Another layer of the manifest under the tag `sha256-….sig`.
    pub fn simple_layer(&mut self, subject: &Digest, payload: &[u8], signature: &[u8]) {
        self.simple_layers(subject, &[(payload.to_vec(), signature.to_vec())]);
    }

    /// More layers of it.
    pub fn simple_layers(&mut self, subject: &Digest, more: &[(Vec<u8>, Vec<u8>)]) {
        for (payload, _) in more {
            self.blob(Part::Signature, media::SIMPLE_SIGNING, payload);
        }
        let layers = self.simple.entry(*subject).or_default();
        layers.extend(more.iter().map(|(payload, signature)| simple::layer(payload, signature)));
        let (config, image) = simple::manifest(layers.clone());
        self.blob(Part::Signature, media::IMAGE_CONFIG, &config);
        let kept = self.manifest(Part::Signature, media::IMAGE_MANIFEST, &image.to_bytes());
        self.tags.insert(tags::signature(subject), kept.digest);
    }

    /// A sigstore bundle that refers to `subject`.
    pub fn sigstore_bundle(&mut self, subject: &Descriptor, bytes: &[u8], date: Option<&str>) {
        self.blob(Part::Signature, media::SIGSTORE_BUNDLE, bytes);
        let image = bundle::referrer(subject, bytes, date);
        let mut descriptor = self.manifest(Part::Signature, media::IMAGE_MANIFEST, &image.to_bytes());
        descriptor.artifact_type = Some(media::SIGSTORE_BUNDLE.to_owned());
        self.referrers.entry(subject.digest).or_default().push(descriptor);
    }
}

/// A day of the simulation's calendar, at noon: day 0 is 2026-09-01, when this program was built.
#[must_use]
pub const fn day(n: i64) -> Wall {
    let micros = (1_788_220_800 + n * 86_400 + 43_200) * 1_000_000;
    Wall::from_micros(if micros < 0 { 0 } else { micros.unsigned_abs() })
}
