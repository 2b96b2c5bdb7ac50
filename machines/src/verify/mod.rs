//! The four steps (SPEC 7): whether an image is signed, is the one that its lock binds, with the policy that it binds, for
//! this runtime.
//!
//! [`Verify`] asks an artifact's source for bytes and judges them; it trusts nothing that it did not hash itself or have
//! hashed on the way. A [`Verified`] value comes out of it and from nowhere else: only such a value can be activated
//! (FAULTS S26), and it carries the very bytes that were judged, so that nothing is fetched twice (S22).

mod ask;
mod attached;
mod fresh;
mod hunt;
mod layers;
mod machine;
mod sidecars;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::lock::Lock;
use crate::oci::{Descriptor, Digest, Reference};
use crate::policy::bundle::Bundle;
use crate::semver::Version;
use crate::time::{Span, Wall};

pub use ask::{Answer, Ask, SourceFault};
pub use hunt::{MAX_REFERRERS, MAX_SIGNATURES};
pub use machine::{Input, Verify};

/// What is asked of a verification.
#[derive(Clone, Debug)]
pub struct Options {
    /// The image. The source is opened by the driver; the tag leads to the tags beside it.
    pub reference: Reference,
    /// An image without a lock fails.
    pub require_lock: bool,
    /// An image without a policy bundle fails.
    pub require_policy: bool,
    /// How old `autonomy.signed-at` may be.
    pub max_age: Span,
    /// A signature without a date counts. Such a verification never yields a [`Verified`] value.
    pub allow_undated: bool,
    /// The earliest that it can be: the later of the node's time floor and of this program's build.
    pub time_floor: Wall,
    /// This runtime.
    pub runtime: Version,
    /// What images must run on, as in Go's `GOOS` and `GOARCH`; it picks the entry of an index.
    pub platform: (String, String),
    /// How long all of it may take together; then the source counts as one that cannot be read.
    pub timeout: Span,
    /// Most bytes of manifests, listings, signatures, locks and bundles together; layers go through uncounted.
    pub budget: u64,
}

/// How long a verification may take, unless somebody says otherwise.
pub const TIMEOUT: Span = Span::from_secs(600);

/// What a verification may be told in all besides layers, in bytes: no honest release comes near it.
pub const BUDGET: u64 = 64 * 1024 * 1024;

/// How long a signature counts, unless somebody says otherwise: a year (SPEC 7).
pub const MAX_AGE: Span = Span::from_secs(8_760 * 3_600);

/// One of the four steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Signatures.
    Signature,
    /// Digests of image and bundle.
    Digest,
    /// The lock's fingerprint.
    Fingerprint,
    /// Versions.
    Compatibility,
}

impl Step {
    /// All of them in order.
    pub const ALL: [Self; 4] = [Self::Signature, Self::Digest, Self::Fingerprint, Self::Compatibility];

    /// 1 to 4.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Signature => 1,
            Self::Digest => 2,
            Self::Fingerprint => 3,
            Self::Compatibility => 4,
        }
    }

    /// What has passed when it passed (SPEC 7, literally).
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Signature => "cosign signature valid",
            Self::Digest => "agent binary digest matches lock",
            Self::Fingerprint => "behavioral fingerprint matches BLAKE3(canonical(lock))",
            Self::Compatibility => "policy bundle semver compatible with runtime",
        }
    }
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Pass,
    /// It failed: what was wanted and what was found.
    Fail(String),
    /// It was not tried: an earlier one failed, or there is nothing to try it on, in these words.
    Skip(String),
}

/// What a verification tells.
#[derive(Debug)]
pub enum Output {
    /// A step ended; they come in order, each once.
    Step(Step, Outcome),
    /// The end.
    End(Box<Result<Passed, Failed>>),
}

/// A verification that passed, with what it could look at.
#[derive(Debug)]
pub struct Passed {
    /// The image's manifest, or its index.
    pub image: Digest,
    /// The trusted key that signed the image, by its number.
    pub key: u16,
    /// When the image was signed, if that is signed too.
    pub signed_at: Option<Wall>,
    /// The lock, where one is attached.
    pub lock: Option<Lock>,
    /// The policy bundle, where one is attached and a lock names it.
    pub bundle: Option<Arc<Bundle>>,
    /// All of it, when all four steps passed and the signature is dated: what may be activated.
    pub release: Option<Verified<Release>>,
}

/// Why a verification did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// A step failed.
    Step(Step, String),
    /// The source cannot be reached or read: nothing is known.
    Source(String),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(step, reason) => write!(f, "step {}: {reason}", step.number()),
            Self::Source(words) => f.write_str(words),
        }
    }
}

/// What passed all four steps. Only [`Verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// What passed.
    #[must_use]
    pub const fn get(&self) -> &T {
        &self.0
    }

    /// What passed, by value; it cannot be turned back.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// A release: an image, its lock and its policy, as they were verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Release {
    /// The image's manifest, or its index.
    pub image: Digest,
    /// The lock.
    pub lock: Lock,
    /// The lock's own bytes.
    pub lock_bytes: Vec<u8>,
    /// The policy bundle.
    pub bundle: Arc<Bundle>,
    /// The bundle's own bytes.
    pub bundle_bytes: Vec<u8>,
    /// When the image was signed.
    pub signed_at: Wall,
    /// Until when that is recent enough, by the options of the verification.
    pub good_until: Wall,
    /// All that was read of it and was what it had to be.
    pub parts: Inventory,
}

/// The parts of a release, each named by its digest: its image, lock and policy bundle, and the signatures that count. What is
/// attached besides and was not judged, or counts for nothing, is not among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Manifests and indexes.
    pub manifests: BTreeMap<Digest, Descriptor>,
    /// Everything else.
    pub blobs: BTreeMap<Digest, Descriptor>,
}

impl Inventory {
    pub(crate) fn add_manifest(&mut self, media_type: &str, bytes: &[u8]) {
        let descriptor = Descriptor::of(media_type, bytes);
        self.manifests.insert(descriptor.digest, descriptor);
    }

    pub(crate) fn add_blob(&mut self, blob: &Descriptor) {
        self.blobs.insert(blob.digest, Descriptor::new(&blob.media_type, blob.digest, blob.size));
    }

    pub(crate) fn extend(&mut self, other: &Self) {
        self.manifests.extend(other.manifests.clone());
        self.blobs.extend(other.blobs.clone());
    }
}

impl fmt::Debug for Release {
    /// Which release it is; its bytes are no use in a trace.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Release({} {}, sequence {}, {})", self.lock.name, self.lock.version, self.lock.sequence, self.image)
    }
}
