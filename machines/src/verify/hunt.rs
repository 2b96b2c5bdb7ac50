//! The signatures of one manifest, in both of cosign's layouts: looked for, read, checked (SPEC 7, step 1).
//!
//! A signature counts when a trusted key made it **and** what it says names the very digest that it is wanted for. What
//! cannot be read counts for nothing, and none at all is a failure (FAULTS S03 to S06).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::Inventory;
use super::ask::{Answer, Ask, SourceFault};
use crate::oci::{Descriptor, Digest, MAX_MANIFEST, Manifest, Target, media, tags};
use crate::signature::{self, Claim, SIGNED_AT, bundle, simple};
use crate::time::Wall;

/// Most signatures of one manifest that are looked at, both layouts together (FAULTS S14).
pub const MAX_SIGNATURES: usize = 64;

/// Most manifests that refer to one manifest.
pub const MAX_REFERRERS: u32 = 256;

/// A question of a hunt, or a signature to be checked.
#[derive(Debug)]
pub(super) enum Want {
    Ask(Ask),
    Check { message: Vec<u8>, signature: Vec<u8> },
}

/// What is under way, by the number under which it was asked.
#[derive(Debug)]
enum Pending {
    /// The manifest of cosign 2's signatures.
    SimpleManifest,
    /// A payload, whose signature is here, and the manifest that names both.
    Payload(Descriptor, Vec<u8>, Inventory),
    Referrers,
    /// The manifest of a sigstore bundle.
    BundleManifest(Digest),
    /// A sigstore bundle, and its manifest.
    Bundle(Descriptor, Inventory),
    /// A check of a signature over this claim, which stands in these.
    Check(Claim, Inventory),
}

/// A signature that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Valid {
    /// The number of the trusted key.
    pub key: u16,
    /// When it was signed, if the signature says so.
    pub signed_at: Option<SignedAt>,
}

/// The signed annotation `autonomy.signed-at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignedAt {
    /// A time.
    At(Wall),
    /// Something else.
    Unreadable(String),
}

/// The hunt.
#[derive(Debug)]
pub(super) struct Hunt {
    subject: Digest,
    pending: BTreeMap<u64, Pending>,
    /// Where the signatures that count stand.
    pub(super) parts: Inventory,
    /// How many signatures were taken up.
    taken: usize,
    valid: Vec<Valid>,
    /// Why those that do not count do not, each once.
    reasons: BTreeSet<String>,
    /// Why what refers to the manifest is not known: then nothing can be said to be missing, nor to be all.
    unlisted: Option<String>,
    /// What else refers to the manifest.
    pub(super) others: Vec<Descriptor>,
}

impl Hunt {
    /// Starts the hunt for the signatures of `subject`.
    pub(super) fn start(subject: Digest, ask: &mut impl FnMut(Want) -> u64) -> Self {
        let mut hunt = Self {
            subject,
            pending: BTreeMap::new(),
            parts: Inventory::default(),
            taken: 0,
            valid: Vec::new(),
            reasons: BTreeSet::new(),
            unlisted: None,
            others: Vec::new(),
        };
        let at = Target::Tag(tags::signature(&subject));
        hunt.want(Pending::SimpleManifest, Want::Ask(Ask::Manifest { at, max: MAX_MANIFEST }), ask);
        hunt.want(Pending::Referrers, Want::Ask(Ask::Referrers { subject, max: MAX_REFERRERS }), ask);
        hunt
    }

    fn want(&mut self, pending: Pending, want: Want, ask: &mut impl FnMut(Want) -> u64) {
        let number = ask(want);
        self.pending.insert(number, pending);
    }

    /// What the signatures are wanted for.
    pub(super) const fn subject(&self) -> Digest {
        self.subject
    }

    /// Whether this question was the hunt's.
    pub(super) fn asked(&self, number: u64) -> bool {
        self.pending.contains_key(&number)
    }

    /// Whether everything was answered.
    pub(super) fn is_over(&self) -> bool {
        self.pending.is_empty()
    }

    /// The newest signature that counts, or why there is none.
    pub(super) fn verdict(&self, what: &str) -> Result<Valid, String> {
        if let Some(why) = &self.unlisted {
            return Err(alloc::format!("what refers to the {what} {} cannot be listed: {why}", self.subject));
        }
        let newest = self.valid.iter().max_by_key(|valid| match &valid.signed_at {
            Some(SignedAt::At(at)) => Some(*at),
            Some(SignedAt::Unreadable(_)) | None => None,
        });
        if let Some(valid) = newest {
            return Ok(valid.clone());
        }
        if self.taken == 0 && self.reasons.is_empty() {
            return Err(alloc::format!("no signature of the {what} {} was found", self.subject));
        }
        let reasons: Vec<&str> = self.reasons.iter().take(4).map(String::as_str).collect();
        Err(alloc::format!("no signature of the {what} {} counts: {}", self.subject, reasons.join("; ")))
    }

    /// An answer of the source.
    ///
    /// # Errors
    /// When the source cannot be reached; a hunt that was not whole proves nothing, not even that a signature is missing.
    pub(super) fn answered(
        &mut self,
        number: u64,
        answer: Result<Answer, SourceFault>,
        ask: &mut impl FnMut(Want) -> u64,
    ) -> Result<(), SourceFault> {
        let Some(pending) = self.pending.remove(&number) else { return Ok(()) };
        let answer = match answer {
            Ok(answer) => answer,
            Err(fault @ (SourceFault::Unreachable(_) | SourceFault::Denied(_))) => return Err(fault),
            Err(fault @ (SourceFault::NotFound | SourceFault::TooLong { .. } | SourceFault::Mismatch { .. })) => {
                self.missing(&pending, &fault);
                return Ok(());
            }
        };
        match (pending, answer) {
            (Pending::SimpleManifest, Answer::Manifest { media_type, bytes, .. }) => {
                self.simple_manifest(media_type.as_deref(), &bytes, ask);
            }
            (Pending::Payload(descriptor, signature, parts), Answer::Bytes(bytes)) => {
                self.payload((&descriptor, parts), &bytes, signature, ask);
            }
            (Pending::Referrers, Answer::Referrers(found)) => self.referrers(found, ask),
            (Pending::BundleManifest(digest), Answer::Manifest { media_type, bytes, .. }) => {
                self.bundle_manifest(&digest, media_type.as_deref(), &bytes, ask);
            }
            (Pending::Bundle(descriptor, parts), Answer::Bytes(bytes)) => {
                self.bundle((&descriptor, parts), &bytes, ask);
            }
            (pending, answer) => panic!("verify: {answer:?} is no answer to {pending:?}"),
        }
        Ok(())
    }

    /// The check of a signature ended.
    pub(super) fn checked(&mut self, number: u64, key: Option<u16>) {
        let Some(Pending::Check(claim, parts)) = self.pending.remove(&number) else { return };
        let Some(key) = key else { return self.does_not_count("no trusted key made it") };
        if claim.digest != self.subject {
            let words = alloc::format!("it is a signature of {}", claim.digest);
            return self.does_not_count(&words);
        }
        let signed_at = claim.annotations.get(SIGNED_AT).map(|text| {
            Wall::parse_any_rfc3339(text)
                .map_or_else(|| SignedAt::Unreadable(text.chars().take(64).collect()), SignedAt::At)
        });
        self.parts.extend(&parts);
        self.valid.push(Valid { key, signed_at });
    }

    fn does_not_count(&mut self, why: &str) {
        if self.reasons.len() < MAX_SIGNATURES {
            self.reasons.insert(String::from(why));
        }
    }

    fn missing(&mut self, pending: &Pending, fault: &SourceFault) {
        match (pending, fault) {
            (Pending::SimpleManifest | Pending::Referrers, SourceFault::NotFound) => {}
            (Pending::Referrers, _) => self.unlisted = Some(fault.to_string()),
            (Pending::SimpleManifest | Pending::BundleManifest(_), _) => {
                self.does_not_count(&alloc::format!("a list of signatures: {fault}"));
            }
            (Pending::Payload(..) | Pending::Bundle(..) | Pending::Check(..), _) => {
                self.does_not_count(&alloc::format!("what was signed: {fault}"));
            }
        }
    }

    /// Takes up one more signature, if there are not too many.
    fn take(&mut self) -> bool {
        if self.taken == MAX_SIGNATURES {
            self.does_not_count(&alloc::format!("more than {MAX_SIGNATURES} signatures; the rest was not looked at"));
            return false;
        }
        self.taken = self.taken.saturating_add(1);
        true
    }

    fn simple_manifest(&mut self, media_type: Option<&str>, bytes: &[u8], ask: &mut impl FnMut(Want) -> u64) {
        let image = match Manifest::parse(bytes, media_type) {
            Ok(Manifest::Image(image)) => image,
            Ok(Manifest::Index(_)) => return self.does_not_count("its manifest is an index"),
            Err(refusal) => return self.does_not_count(&refusal.to_string()),
        };
        let mut parts = Inventory::default();
        parts.add_manifest(&image.media_type, bytes);
        match simple::signatures(&image) {
            Ok(found) => {
                for (descriptor, signature) in found {
                    if !self.take() {
                        return;
                    }
                    if descriptor.size > u64::try_from(signature::MAX_PAYLOAD).unwrap_or(0) {
                        self.does_not_count("its payload is too long");
                        continue;
                    }
                    let want = Want::Ask(Ask::Bytes(descriptor.clone()));
                    self.want(Pending::Payload(descriptor, signature, parts.clone()), want, ask);
                }
            }
            Err(refusal) => self.does_not_count(&refusal.to_string()),
        }
    }

    fn payload(
        &mut self,
        (descriptor, mut parts): (&Descriptor, Inventory),
        bytes: &[u8],
        signature: Vec<u8>,
        ask: &mut impl FnMut(Want) -> u64,
    ) {
        if Digest::of(bytes) != descriptor.digest {
            return self.does_not_count("its payload has other bytes than its manifest names");
        }
        match simple::read(bytes) {
            Ok(claim) => {
                parts.add_blob(descriptor);
                let want = Want::Check { message: bytes.to_vec(), signature };
                self.want(Pending::Check(claim, parts), want, ask);
            }
            Err(refusal) => self.does_not_count(&refusal.to_string()),
        }
    }

    fn referrers(&mut self, found: Vec<Descriptor>, ask: &mut impl FnMut(Want) -> u64) {
        for descriptor in found {
            if descriptor.artifact_type.as_deref() != Some(media::SIGSTORE_BUNDLE) {
                // Of what is attached, only what it is called is of use; its remarks may be long.
                if matches!(descriptor.artifact_type.as_deref(), Some(media::LOCK | media::POLICY_BUNDLE)) {
                    self.others.push(Descriptor { annotations: BTreeMap::new(), ..descriptor });
                }
                continue;
            }
            if !self.take() {
                continue;
            }
            let want = Want::Ask(Ask::Manifest { at: Target::Digest(descriptor.digest), max: MAX_MANIFEST });
            self.want(Pending::BundleManifest(descriptor.digest), want, ask);
        }
    }

    fn bundle_manifest(
        &mut self,
        digest: &Digest,
        media_type: Option<&str>,
        bytes: &[u8],
        ask: &mut impl FnMut(Want) -> u64,
    ) {
        if Digest::of(bytes) != *digest {
            return self.does_not_count("its manifest has other bytes than its digest says");
        }
        let image = match Manifest::parse(bytes, media_type) {
            Ok(Manifest::Image(image)) => image,
            Ok(Manifest::Index(_)) => return self.does_not_count("its manifest is an index"),
            Err(refusal) => return self.does_not_count(&refusal.to_string()),
        };
        if image.subject.as_ref().map(|subject| subject.digest) != Some(self.subject) {
            return self.does_not_count("its manifest refers to something else");
        }
        let [layer] = image.layers.as_slice() else {
            return self.does_not_count("a sigstore bundle has one layer");
        };
        if layer.size > u64::try_from(signature::MAX_BUNDLE).unwrap_or(0) {
            return self.does_not_count("its bundle is too long");
        }
        let mut parts = Inventory::default();
        parts.add_manifest(&image.media_type, bytes);
        self.want(Pending::Bundle(layer.clone(), parts), Want::Ask(Ask::Bytes(layer.clone())), ask);
    }

    fn bundle(
        &mut self,
        (descriptor, mut parts): (&Descriptor, Inventory),
        bytes: &[u8],
        ask: &mut impl FnMut(Want) -> u64,
    ) {
        if Digest::of(bytes) != descriptor.digest {
            return self.does_not_count("its bundle has other bytes than its manifest names");
        }
        match bundle::read(bytes) {
            Ok(signed) => {
                let want = Want::Check { message: signed.message, signature: signed.signature };
                parts.add_blob(descriptor);
                self.want(Pending::Check(signed.claim, parts), want, ask);
            }
            Err(refusal) => self.does_not_count(&refusal.to_string()),
        }
    }
}
