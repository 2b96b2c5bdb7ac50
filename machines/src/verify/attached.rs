//! What is attached to an image: its locks and policy bundles (SPEC 7), found by what refers to the image and by the plain
//! tags beside its own.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::Inventory;
use super::ask::{Answer, Ask, SourceFault};
use crate::lock::{self, Lock};
use crate::oci::{Descriptor, Digest, MAX_MANIFEST, Manifest, Target, media};

/// Most locks, and most bundles, that are looked at.
const MAX_EACH: usize = 32;

/// What a manifest that is attached holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Lock,
    Policy,
}

impl Kind {
    const fn media_type(self) -> &'static str {
        match self {
            Self::Lock => media::LOCK,
            Self::Policy => media::POLICY_BUNDLE,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Policy => "policy bundle",
        }
    }
}

/// A lock that is attached.
#[derive(Clone, Debug)]
pub(super) struct FoundLock {
    /// Its manifest: what signatures of it name.
    pub(super) manifest: Digest,
    /// The lock and its bytes, or why it cannot be read.
    pub(super) read: Result<(Lock, Vec<u8>), String>,
    /// Whether its bytes are those that its manifest names: only then do signatures of the manifest speak of them.
    pub(super) genuine: bool,
    /// Manifest and lock, where both could be read.
    pub(super) parts: Inventory,
}

/// A bundle that is attached; its bytes are not fetched yet.
#[derive(Clone, Debug)]
pub(super) struct FoundPolicy {
    /// Its manifest: what signatures of it name.
    pub(super) manifest: Digest,
    /// The bundle, or why its manifest cannot be read.
    pub(super) layer: Result<Descriptor, String>,
    /// Manifest and bundle, where the manifest could be read.
    pub(super) parts: Inventory,
}

#[derive(Debug)]
enum Pending {
    /// A manifest, by its digest or by a tag.
    Manifest(Kind, Option<Digest>),
    /// The lock of this manifest, which is among the parts.
    Lock(Digest, Box<(Descriptor, Inventory)>),
}

/// The search.
#[derive(Debug)]
pub(super) struct Attached {
    image: Digest,
    pending: BTreeMap<u64, Pending>,
    /// By the digest of their manifests, so that one found twice counts once.
    locks: BTreeMap<Digest, FoundLock>,
    policies: BTreeMap<Digest, FoundPolicy>,
}

impl Attached {
    /// Starts the search among what refers to the image, and under these tags.
    pub(super) fn start(
        image: Digest,
        referrers: &[Descriptor],
        tags: [(Kind, Option<String>); 2],
        ask: &mut impl FnMut(Ask) -> u64,
    ) -> Self {
        let mut search = Self { image, pending: BTreeMap::new(), locks: BTreeMap::new(), policies: BTreeMap::new() };
        for kind in [Kind::Lock, Kind::Policy] {
            let of_kind = referrers.iter().filter(|found| found.artifact_type.as_deref() == Some(kind.media_type()));
            // One too many is asked for, so that there being too many shows.
            for found in of_kind.take(MAX_EACH.saturating_add(1)) {
                let ask_for = Ask::Manifest { at: Target::Digest(found.digest), max: MAX_MANIFEST };
                search.pending.insert(ask(ask_for), Pending::Manifest(kind, Some(found.digest)));
            }
        }
        for (kind, tag) in tags {
            if let Some(tag) = tag {
                let ask_for = Ask::Manifest { at: Target::Tag(tag), max: MAX_MANIFEST };
                search.pending.insert(ask(ask_for), Pending::Manifest(kind, None));
            }
        }
        search
    }

    pub(super) fn is_over(&self) -> bool {
        self.pending.is_empty()
    }

    /// An answer of the source.
    ///
    /// # Errors
    /// When the source cannot be reached.
    pub(super) fn answered(
        &mut self,
        number: u64,
        answer: Result<Answer, SourceFault>,
        ask: &mut impl FnMut(Ask) -> u64,
    ) -> Result<(), SourceFault> {
        let Some(pending) = self.pending.remove(&number) else { return Ok(()) };
        match (pending, answer) {
            (_, Err(fault @ (SourceFault::Unreachable(_) | SourceFault::Denied(_)))) => return Err(fault),
            // A tag that is not there is no attachment.
            (Pending::Manifest(_, None), Err(SourceFault::NotFound)) => {}
            (
                Pending::Manifest(kind, wanted),
                Err(fault @ (SourceFault::NotFound | SourceFault::TooLong { .. } | SourceFault::Mismatch { .. })),
            ) => {
                self.unreadable(kind, wanted.unwrap_or(self.image), fault.to_string());
            }
            (Pending::Manifest(kind, wanted), Ok(Answer::Manifest { media_type, bytes, .. })) => {
                self.manifest(kind, wanted, media_type.as_deref(), &bytes, ask);
            }
            (
                Pending::Lock(manifest, ..),
                Err(fault @ (SourceFault::NotFound | SourceFault::TooLong { .. } | SourceFault::Mismatch { .. })),
            ) => {
                self.unreadable(Kind::Lock, manifest, fault.to_string());
            }
            (Pending::Lock(manifest, wanted), Ok(Answer::Bytes(bytes))) => {
                let (descriptor, parts) = *wanted;
                self.lock(manifest, &descriptor, parts, bytes);
            }
            (pending, Ok(answer)) => panic!("verify: {answer:?} is no answer to {pending:?}"),
        }
        Ok(())
    }

    fn manifest(
        &mut self,
        kind: Kind,
        wanted: Option<Digest>,
        media_type: Option<&str>,
        bytes: &[u8],
        ask: &mut impl FnMut(Ask) -> u64,
    ) {
        let digest = Digest::of(bytes);
        if let Some(wanted) = wanted
            && wanted != digest
        {
            return self.unreadable(kind, wanted, alloc::format!("its manifest's bytes are those of {digest}"));
        }
        let image = match Manifest::parse(bytes, media_type) {
            Ok(Manifest::Image(image)) if image.artifact_type.as_deref() == Some(kind.media_type()) => image,
            Ok(Manifest::Image(_) | Manifest::Index(_)) => {
                return self.unreadable(
                    kind,
                    digest,
                    alloc::format!("its manifest is not of the kind {}", kind.media_type()),
                );
            }
            Err(refusal) => return self.unreadable(kind, digest, refusal.to_string()),
        };
        let refers = image.subject.as_ref().map(|subject| subject.digest);
        if wanted.is_some() && refers != Some(self.image) {
            // The listing lies; it may also list what is not there.
            return self.unreadable(kind, digest, "its manifest refers to another image".into());
        }
        let [layer] = image.layers.as_slice() else {
            return self.unreadable(kind, digest, "its manifest must have exactly one layer".into());
        };
        if layer.media_type != kind.media_type() {
            return self.unreadable(kind, digest, alloc::format!("its layer is not of the kind {}", kind.media_type()));
        }
        let mut parts = Inventory::default();
        parts.add_manifest(&image.media_type, bytes);
        parts.add_blob(layer);
        match kind {
            Kind::Policy => {
                self.policies.insert(digest, FoundPolicy { manifest: digest, layer: Ok(layer.clone()), parts });
            }
            Kind::Lock if layer.size > u64::try_from(lock::MAX_BYTES).unwrap_or(0) => {
                self.unreadable(kind, digest, alloc::format!("a lock has at most {} bytes", lock::MAX_BYTES));
            }
            Kind::Lock => {
                let pending = Pending::Lock(digest, Box::new((layer.clone(), parts)));
                self.pending.insert(ask(Ask::Bytes(layer.clone())), pending);
            }
        }
    }

    fn lock(&mut self, manifest: Digest, descriptor: &Descriptor, parts: Inventory, bytes: Vec<u8>) {
        let got = Digest::of(&bytes);
        let read = if got == descriptor.digest {
            let unreadable =
                |refusal: lock::Refusal| alloc::format!("the lock that is attached cannot be read: {refusal}");
            Lock::read(&bytes).map_err(unreadable).map(|lock| (lock, bytes))
        } else {
            Err(alloc::format!("the lock's bytes are those of {got}, its manifest names {}", descriptor.digest))
        };
        self.locks.insert(manifest, FoundLock { manifest, read, genuine: got == descriptor.digest, parts });
    }

    /// What is attached and cannot be read is kept: it must not look as if nothing were attached.
    fn unreadable(&mut self, kind: Kind, manifest: Digest, why: String) {
        let words = alloc::format!("the {} {manifest} that is attached cannot be read: {why}", kind.name());
        match kind {
            Kind::Lock => {
                let parts = Inventory::default();
                self.locks.insert(manifest, FoundLock { manifest, read: Err(words), genuine: false, parts });
            }
            Kind::Policy => {
                let parts = Inventory::default();
                self.policies.entry(manifest).or_insert(FoundPolicy { manifest, layer: Err(words), parts });
            }
        }
    }

    /// The lock of the image: the one that names it with the highest sequence. One that cannot be read comes first, since
    /// nobody knows what it says; one for another image comes last. The very same bytes may be attached by several
    /// manifests: then all of them are given, for any of them may be the one that is signed.
    ///
    /// # Errors
    /// When more are attached than are looked at.
    pub(super) fn chosen_locks(&self) -> Result<Vec<FoundLock>, String> {
        if self.locks.len() > MAX_EACH || self.policies.len() > MAX_EACH {
            return Err(alloc::format!("more than {MAX_EACH} locks or policy bundles are attached to the image"));
        }
        let rank = |found: &&FoundLock| match &found.read {
            Err(_) => (2, 0),
            Ok((lock, _)) => (u8::from(lock.agent_artifact.digest == self.image), lock.sequence),
        };
        let Some(chosen) = self.locks.values().max_by_key(rank) else { return Ok(Vec::new()) };
        let bytes = |found: &FoundLock| found.read.as_ref().ok().map(|(_, bytes)| Digest::of(bytes));
        let same = |found: &&FoundLock| {
            found.manifest == chosen.manifest || bytes(found).is_some_and(|digest| bytes(chosen) == Some(digest))
        };
        Ok(self.locks.values().filter(same).cloned().collect())
    }

    /// The bundle that the lock names, by every manifest that attaches it; else any, one that cannot be read before others.
    /// Without a lock each that is attached.
    pub(super) fn chosen_policies(&self, lock: Option<&Lock>) -> Vec<FoundPolicy> {
        let Some(lock) = lock else { return self.policies.values().cloned().collect() };
        let names =
            |found: &&FoundPolicy| found.layer.as_ref().is_ok_and(|layer| layer.digest == lock.policy_bundle.digest);
        let named: Vec<FoundPolicy> = self.policies.values().filter(names).cloned().collect();
        if !named.is_empty() {
            return named;
        }
        let unreadable = self.policies.values().find(|found| found.layer.is_err());
        unreadable.or_else(|| self.policies.values().next()).cloned().into_iter().collect()
    }
}
