//! What the machine asks of an artifact's source, and what it is told.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::oci::{Descriptor, Digest, Target};

/// A question to the source of an artifact: a registry, a layout or an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The bytes of a manifest or index.
    Manifest {
        /// Which.
        at: Target,
        /// Most bytes; a longer one is [`SourceFault::TooLong`].
        max: u32,
    },
    /// The manifests that refer to another one, as the source lists them.
    Referrers {
        /// The manifest that they refer to.
        subject: Digest,
        /// Most entries; more are [`SourceFault::TooLong`].
        max: u32,
    },
    /// The bytes of a small blob, at most as many as its descriptor says.
    Bytes(Descriptor),
    /// The length and hash of a blob, which goes through without being held. It is read up to one byte past what its
    /// descriptor says.
    Stream(Descriptor),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of [`Ask::Manifest`].
    Manifest {
        /// What the source calls it: a content type, or the media type in its index.
        media_type: Option<String>,
        /// The digest under which the source keeps it, where it names one; it is not trusted.
        digest: Option<Digest>,
        /// Its bytes as they were sent.
        bytes: Vec<u8>,
    },
    /// Of [`Ask::Referrers`]; empty when nothing refers to it.
    Referrers(Vec<Descriptor>),
    /// Of [`Ask::Bytes`].
    Bytes(Vec<u8>),
    /// Of [`Ask::Stream`].
    Hashed {
        /// SHA-256 of what was read.
        digest: Digest,
        /// How much was read, in bytes.
        size: u64,
    },
}

impl Answer {
    /// What it takes to hold it, in bytes, about. What only went through takes nothing.
    pub(super) fn weight(&self) -> u64 {
        let length = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        match self {
            Self::Manifest { bytes, .. } | Self::Bytes(bytes) => length(bytes.len()),
            Self::Referrers(entries) => entries.iter().map(|entry| length(weight(entry))).fold(0, u64::saturating_add),
            Self::Hashed { .. } => 0,
        }
    }
}

fn weight(entry: &Descriptor) -> usize {
    let texts = entry.annotations.iter().map(|(key, value)| key.len().saturating_add(value.len()));
    let named = entry.artifact_type.as_ref().map_or(0, String::len).saturating_add(entry.media_type.len());
    texts.fold(named.saturating_add(size_of::<Descriptor>()), usize::saturating_add)
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceFault {
    /// The source says that it is not there.
    NotFound,
    /// The source cannot be reached or read, in words that name it.
    Unreachable(String),
    /// The source wants credentials that we do not have.
    Denied(String),
    /// It is longer than it may be.
    TooLong {
        /// Bytes or entries allowed.
        max: u64,
    },
    /// It has other bytes than its digest says. A driver that looks may say so; the machine looks in any case.
    Mismatch {
        /// What was asked for.
        want: Digest,
        /// What came.
        got: Digest,
    },
}

impl fmt::Display for SourceFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("it is not there"),
            Self::Unreachable(words) | Self::Denied(words) => f.write_str(words),
            Self::TooLong { max } => write!(f, "it is longer than {max}"),
            Self::Mismatch { want, got } => write!(f, "want {want}, got the bytes of {got}"),
        }
    }
}
