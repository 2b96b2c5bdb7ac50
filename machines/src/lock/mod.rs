//! The lock, `autonomy.lock.json` (SPEC 6): it binds an agent's image, a policy bundle and a behavioural fingerprint.
//!
//! Schema 0 is closed, and each lock has exactly one meaning: what is optional is absent or says something, and no value
//! has two spellings. Only whitespace, the order of fields and escapes in strings may differ from text to text; the
//! fingerprint does not see them.

#[cfg(test)]
mod property_tests;
mod read;
mod refusal;
#[cfg(test)]
mod tests;
mod write;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::canonical::{self, MAX_INTEGER};
use crate::ids::Hash32;
use crate::oci::Digest;
use crate::semver::{self, Range, Version};

pub use refusal::Refusal;

/// The usual file name.
pub const FILE: &str = "autonomy.lock.json";
/// The schema that is read and written.
pub const SCHEMA: u64 = 0;
/// The longest lock that is read, in bytes.
pub const MAX_BYTES: usize = 64 * 1024;
/// Largest `sequence`.
pub const MAX_SEQUENCE: u64 = MAX_INTEGER;
/// Most channels.
pub const MAX_CHANNELS: usize = 16;
/// The longest `ref`, in bytes.
pub const MAX_REFERENCE: usize = 255;

/// A lock that keeps every rule of the schema. Whether its fingerprint is right is a question of its own:
/// [`Lock::matches`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lock {
    /// `name`: sequences of locks of one name are compared with each other.
    pub name: String,
    /// `version`
    pub version: Version,
    /// `sequence`, 0 to 2^53-1.
    pub sequence: u64,
    /// `channels`; empty when the lock has none and so belongs to every channel.
    pub channels: Vec<String>,
    /// `agent_artifact`
    pub agent_artifact: AgentArtifact,
    /// `policy_bundle`
    pub policy_bundle: PolicyBundle,
    /// `runtime`
    pub runtime: Runtime,
    /// `inputs`
    pub inputs: Inputs,
    /// `behavioral_fingerprint`, as the lock states it.
    pub fingerprint: Hash32,
}

/// What a lock is made from; the fingerprint follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// `name`: 1 to 64 of a-z 0-9 . _ -
    pub name: String,
    /// `version`
    pub version: Version,
    /// `sequence`, at most [`MAX_SEQUENCE`].
    pub sequence: u64,
    /// `channels`, at most [`MAX_CHANNELS`], each written like a name; none for every channel.
    pub channels: Vec<String>,
    /// `agent_artifact`
    pub agent_artifact: AgentArtifact,
    /// `policy_bundle`
    pub policy_bundle: PolicyBundle,
    /// `runtime`
    pub runtime: Runtime,
    /// `inputs`
    pub inputs: Inputs,
}

/// `agent_artifact`: the agent's image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentArtifact {
    /// `ref`: where the image was, as written, 1 to 255 bytes of printable ASCII.
    pub reference: String,
    /// `digest`: the image's manifest, or its index where there is one. It alone says which image.
    pub digest: Digest,
}

/// `policy_bundle`: the policy that belongs to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyBundle {
    /// `ref`: where the bundle was, as written, 1 to 255 bytes of printable ASCII.
    pub reference: String,
    /// `digest`: SHA-256 of the bundle's own bytes.
    pub digest: Digest,
    /// `version`: the bundle's `policy_bundle_version`.
    pub version: Version,
}

/// `runtime`: which runtimes the agent may run on, as written.
#[derive(Clone, PartialEq, Eq)]
pub struct Runtime {
    text: String,
    range: Range,
}

impl Runtime {
    /// Reads a `required_version`.
    ///
    /// # Errors
    /// [`semver::Refusal`] for what is no range.
    pub fn parse(text: &str) -> Result<Self, semver::Refusal> {
        Ok(Self { range: Range::parse(text)?, text: text.into() })
    }

    /// Whether the lock admits a runtime of this version.
    #[must_use]
    pub fn admits(&self, runtime: &Version) -> bool {
        self.range.admits(runtime)
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

/// `inputs`: what else shapes the agent's behaviour. Each is optional; a lock without any has no such field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// `prompt_hash`
    pub prompt: Option<InputHash>,
    /// `tool_inputs_hash`
    pub tool_inputs: Option<InputHash>,
}

/// A hash with its prefix, of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputHash {
    /// `sha256:`
    Sha256(Hash32),
    /// `blake3:`
    Blake3(Hash32),
}

impl InputHash {
    /// Reads `sha256:` or `blake3:` and 64 lower-case hex digits; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, hex) = text.split_once(':')?;
        let hash = Hash32::parse_hex(hex.as_bytes())?;
        match kind {
            "sha256" => Some(Self::Sha256(hash)),
            "blake3" => Some(Self::Blake3(hash)),
            _ => None,
        }
    }
}

impl fmt::Display for InputHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(hash) => write!(f, "sha256:{hash}"),
            Self::Blake3(hash) => write!(f, "blake3:{hash}"),
        }
    }
}

impl Lock {
    /// Reads a lock and checks everything but that the fingerprint is right.
    ///
    /// What is used was read from the canonical bytes, not from the text that was given (FAULTS J08).
    ///
    /// # Errors
    /// [`Refusal`], which names the field and what it must be.
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        let given = canonical::parse(bytes, MAX_BYTES)?;
        let document = canonical::parse(&canonical::to_bytes(&given)?, MAX_BYTES)?;
        read::lock(document)
    }

    /// Makes a lock with its fingerprint.
    ///
    /// # Errors
    /// [`Refusal`] for whatever [`Lock::read`] would refuse.
    pub fn new(draft: Draft) -> Result<Self, Refusal> {
        let Draft { name, version, sequence, channels, agent_artifact, policy_bundle, runtime, inputs } = draft;
        let fingerprint = Hash32([0; 32]);
        let mut lock =
            Self { name, version, sequence, channels, agent_artifact, policy_bundle, runtime, inputs, fingerprint };
        lock.fingerprint = lock.computed();
        // The one reader judges what is made as well.
        Self::read(&lock.to_bytes())
    }

    /// The fingerprint as it must be: BLAKE3-256 of [`Lock::canonical`].
    #[must_use]
    pub fn computed(&self) -> Hash32 {
        Hash32(*blake3::hash(&self.canonical()).as_bytes())
    }

    /// Whether the stated fingerprint is the computed one.
    #[must_use]
    pub fn matches(&self) -> bool {
        self.fingerprint == self.computed()
    }

    /// The bytes under the fingerprint: the canonical form (RFC 8785) of the lock without `behavioral_fingerprint`.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        canonical::jcs(&write::value(&write::fields(self))).into_bytes()
    }

    /// The lock as a file: two spaces of indentation, fields in the order of the specification, a line feed at the end.
    /// The same lock gives the same bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        write::file(self).into_bytes()
    }
}
