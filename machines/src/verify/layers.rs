//! The image's own bytes: everything that its manifest names goes through once, and has to be what the manifest says.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use super::Inventory;
use super::ask::{Answer, Ask, SourceFault};
use crate::oci::{Descriptor, Digest, Image, Index, MAX_MANIFEST, Manifest, Target};

/// What is under way.
#[derive(Debug)]
enum Pending {
    /// The image of an index for this platform.
    Child(Digest),
    /// A configuration or a layer.
    Blob(Descriptor),
}

/// The look through an image.
#[derive(Debug, Default)]
pub(super) struct Layers {
    pending: BTreeMap<u64, Pending>,
    /// What was read and is what it must be.
    pub(super) parts: Inventory,
}

impl Layers {
    /// Starts with an image that was read, or with an index's entry for this platform, and what else is to be held against
    /// its descriptor.
    ///
    /// # Errors
    /// When an index has no image for it.
    pub(super) fn start(
        manifest: &Manifest,
        platform: &(String, String),
        beside: &[Descriptor],
        ask: &mut impl FnMut(Ask) -> u64,
    ) -> Result<Self, String> {
        let mut layers = Self::default();
        for descriptor in beside {
            layers.pending.insert(ask(Ask::Stream(descriptor.clone())), Pending::Blob(descriptor.clone()));
        }
        match manifest {
            Manifest::Image(image) => layers.blobs(image, ask),
            Manifest::Index(index) => {
                let child = child(index, platform)?.digest;
                let number = ask(Ask::Manifest { at: Target::Digest(child), max: MAX_MANIFEST });
                layers.pending.insert(number, Pending::Child(child));
            }
        }
        Ok(layers)
    }

    pub(super) fn is_over(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn asked(&self, number: u64) -> bool {
        self.pending.contains_key(&number)
    }

    /// An answer of the source. The inner error says what is wrong with the image, in words.
    ///
    /// # Errors
    /// When the source cannot be reached.
    pub(super) fn answered(
        &mut self,
        number: u64,
        answer: Result<Answer, SourceFault>,
        ask: &mut impl FnMut(Ask) -> u64,
    ) -> Result<Result<(), String>, SourceFault> {
        let Some(pending) = self.pending.remove(&number) else { return Ok(Ok(())) };
        let what = match &pending {
            Pending::Child(digest) => *digest,
            Pending::Blob(descriptor) => descriptor.digest,
        };
        match (pending, answer) {
            (_, Err(fault @ (SourceFault::Unreachable(_) | SourceFault::Denied(_)))) => Err(fault),
            (_, Err(fault @ (SourceFault::NotFound | SourceFault::TooLong { .. } | SourceFault::Mismatch { .. }))) => {
                Ok(Err(alloc::format!("{what}, a part of the image: {fault}")))
            }
            (Pending::Child(want), Ok(Answer::Manifest { media_type, bytes, .. })) => {
                let got = Digest::of(&bytes);
                if got != want {
                    return Ok(Err(alloc::format!("want the manifest {want}, got the bytes of {got}")));
                }
                match Manifest::parse(&bytes, media_type.as_deref()) {
                    Ok(Manifest::Image(image)) => {
                        self.parts.add_manifest(&image.media_type, &bytes);
                        self.blobs(&image, ask);
                    }
                    Ok(Manifest::Index(_)) => {
                        return Ok(Err(alloc::format!("{want}, an entry of the index, is an index")));
                    }
                    Err(refusal) => return Ok(Err(alloc::format!("{want}, an entry of the index: {refusal}"))),
                }
                Ok(Ok(()))
            }
            (Pending::Blob(want), Ok(Answer::Hashed { digest, size })) => {
                if (digest, size) != (want.digest, want.size) {
                    let (wanted, bytes) = (want.digest, want.size);
                    return Ok(Err(alloc::format!("want {wanted} with {bytes} bytes, got {digest} with {size}")));
                }
                self.parts.add_blob(&want);
                Ok(Ok(()))
            }
            (pending, Ok(answer)) => panic!("verify: {answer:?} is no answer to {pending:?}"),
        }
    }

    fn blobs(&mut self, image: &Image, ask: &mut impl FnMut(Ask) -> u64) {
        let mut seen = BTreeSet::new();
        for descriptor in core::iter::once(&image.config).chain(&image.layers) {
            if seen.insert((descriptor.digest, descriptor.size)) {
                self.pending.insert(ask(Ask::Stream(descriptor.clone())), Pending::Blob(descriptor.clone()));
            }
        }
    }
}

/// The entry of an index for this platform (FAULTS S15).
fn child<'a>(index: &'a Index, (os, architecture): &(String, String)) -> Result<&'a Descriptor, String> {
    let fits =
        |found: &&Descriptor| found.platform.as_ref().is_some_and(|p| p.os == *os && p.architecture == *architecture);
    index.manifests.iter().find(fits).ok_or_else(|| {
        let known: Vec<String> = index
            .manifests
            .iter()
            .filter_map(|found| found.platform.as_ref())
            .take(8)
            .map(|p| alloc::format!("{}/{}", p.os, p.architecture))
            .collect();
        alloc::format!("want an image for {os}/{architecture}, the index has {}", known.join(", "))
    })
}
