//! The signed list of operations with which a node rebuilds its runtime on a new operating system (SPEC 10).
//!
//! `runtime/manifest.json` is signed as it lies there: `runtime/manifest.json.sig` holds 64 raw bytes of Ed25519 over its
//! bytes. The bytes are read once; [`Unverified`] holds them until the signature was checked, and only [`Verified`]
//! can be parsed, so that no operation can come from other bytes than the signed ones (SPEC 12 I-E2; FAULTS B04, J08).

mod plan;
mod read;
#[cfg(test)]
mod tests;
mod write;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

pub use self::plan::{Destinations, Plan, Step};
pub use self::read::is_node_id;

use crate::canonical;
use crate::fields::Wrong;
use crate::ids::Hash32;
use crate::precheck::host::Ask;
use crate::tree::{BadPath, Mode};

/// Most bytes of a manifest.
pub const MAX_BYTES: u32 = 4 << 20;
/// Most operations of a manifest.
pub const MAX_OPERATIONS: usize = 4096;
/// Most bytes that one `write_file` writes.
pub const MAX_CONTENT: usize = 1 << 20;
/// Most bytes of a link's target.
pub const MAX_TARGET: usize = 1024;
/// The largest version: 2^53-1.
pub const MAX_VERSION: u64 = (1 << 53) - 1;

/// A manifest and its signature, as they were read.
#[derive(Clone, Debug)]
pub struct Unverified {
    bytes: Arc<[u8]>,
    key: [u8; 32],
    signature: [u8; 64],
}

/// The bytes of a manifest whose signature was found good.
#[derive(Clone, Debug)]
pub struct Verified {
    bytes: Arc<[u8]>,
}

/// A parsed manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Raised with every release; never below the highest that this node completed.
    pub version: u64,
    /// The one node that it is for; `None` for every node that trusts the key.
    pub node: Option<String>,
    /// Where the runtime's binary lies after the operations; as in an operation's destination.
    pub binary_path: String,
    /// What is done, in this order.
    pub operations: Vec<Operation>,
}

/// One operation. Paths are relative to the state root, or absolute and beneath it or a folder of `[reconstruct] allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Install a file from `runtime/binaries/`.
    CopyBinary {
        /// The file, relative to the state root.
        source: String,
        /// Where it goes.
        destination: String,
        /// Its permission bits.
        mode: Mode,
        /// BLAKE3 of its bytes.
        blake3: Hash32,
    },
    /// Make a folder, or set the mode of the one that is there.
    EnsureDir {
        /// The folder.
        path: String,
        /// Its permission bits.
        mode: Mode,
    },
    /// Write a small file.
    WriteFile {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: Mode,
        /// Its content.
        content: Vec<u8>,
    },
    /// Make a symbolic link.
    Symlink {
        /// The link.
        path: String,
        /// What it points at; not out of the folders that may be written.
        target: String,
    },
}

/// Why a manifest is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The signature file has another length.
    #[error("the signature must be 64 bytes, the raw Ed25519 signature, found {0}")]
    SignatureLength(usize),
    /// The key file has another length.
    #[error("the public key must be 32 raw bytes of Ed25519, found {0}")]
    KeyLength(usize),
    /// It is no JSON that can be signed.
    #[error(transparent)]
    Json(#[from] canonical::Refusal),
    /// A field is wrong.
    #[error(transparent)]
    Field(#[from] Wrong),
    /// A path cannot be used.
    #[error("`{field}` is {path:?}: {cause}")]
    Path {
        /// The field.
        field: String,
        /// The path as given.
        path: String,
        /// What is wrong with it.
        cause: BadPath,
    },
    /// An absolute path outside.
    #[error(
        "`{field}` is {path:?}, which lies neither beneath the state root nor beneath a folder of [reconstruct] allow"
    )]
    Outside {
        /// The field.
        field: String,
        /// The path as given.
        path: String,
    },
    /// A path that belongs to the node itself.
    #[error("`{field}` is {path:?}: {folder} is the node's own and no operation may write there")]
    Reserved {
        /// The field.
        field: String,
        /// The path as given.
        path: String,
        /// What it lies in.
        folder: &'static str,
    },
    /// A source that is not beneath `runtime/binaries/`.
    #[error("`{field}` is {path:?}: a source lies beneath runtime/binaries/, like runtime/binaries/agent")]
    Source {
        /// The field.
        field: String,
        /// The path as given.
        path: String,
    },
    /// Two paths that one file system could not keep apart.
    #[error("`{field}` is {path:?}, which clashes with {other:?}")]
    Clash {
        /// The field.
        field: String,
        /// The path as given.
        path: String,
        /// The path before it.
        other: String,
    },
    /// A link out of the folders that may be written.
    #[error("`{field}` is {target:?}, which leads out of the folders that may be written")]
    Target {
        /// The field.
        field: String,
        /// The target as given.
        target: String,
    },
}

impl Unverified {
    /// Holds what was read.
    ///
    /// # Errors
    /// When key or signature have a wrong length.
    pub fn new(bytes: Vec<u8>, key: &[u8], signature: &[u8]) -> Result<Self, Refusal> {
        let key = key.try_into().map_err(|_| Refusal::KeyLength(key.len()))?;
        let signature = signature.try_into().map_err(|_| Refusal::SignatureLength(signature.len()))?;
        Ok(Self { bytes: bytes.into(), key, signature })
    }

    /// The question whether the signature is good.
    #[must_use]
    pub fn question(&self) -> Ask {
        Ask::Ed25519 { key: self.key, message: Arc::clone(&self.bytes), signature: self.signature }
    }

    /// The same bytes, once the answer to [`Unverified::question`] is yes; the only way to [`Verified`].
    #[must_use]
    pub fn answered(self, good: bool) -> Option<Verified> {
        good.then_some(Verified { bytes: self.bytes })
    }
}

impl Verified {
    /// Parses the signed bytes.
    ///
    /// # Errors
    /// What is wrong with them, naming the field.
    pub fn parse(&self) -> Result<Manifest, Refusal> {
        Manifest::parse(&self.bytes)
    }
}

impl Manifest {
    /// BLAKE3 of the runtime's binary, where an operation of this manifest installs it.
    #[must_use]
    pub fn binary_hash(&self) -> Option<Hash32> {
        self.operations.iter().find_map(|operation| match operation {
            Operation::CopyBinary { destination, blake3, .. } if *destination == self.binary_path => Some(*blake3),
            Operation::CopyBinary { .. }
            | Operation::EnsureDir { .. }
            | Operation::WriteFile { .. }
            | Operation::Symlink { .. } => None,
        })
    }
}
