//! Why a bundle is not taken.

use alloc::string::String;

use crate::ids::Hash32;
use crate::json;
use crate::semver;

/// Why a bundle is refused. Nothing of a refused bundle is used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// More compressed bytes than a bundle may have.
    #[error("the bundle has {len} bytes, the limit is {max}")]
    TooLarge {
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// More unpacked bytes than a bundle may have; unpacking stopped there.
    #[error("the bundle unpacks to more than {max} bytes")]
    Bomb {
        /// Bytes allowed.
        max: usize,
    },
    /// Not one well-formed gzip member (RFC 1952).
    #[error("the bundle is not one gzip member: {0}")]
    Gzip(&'static str),
    /// Something follows the gzip member.
    #[error("{0} bytes follow the gzip member; a bundle is exactly one member and nothing else")]
    Trailing(usize),
    /// The archive is not canonical ustar (POSIX.1-1988).
    #[error("tar archive, at byte {offset}: {what}; pack with `tar --format=ustar` or `autonomy policy build`")]
    Tar {
        /// Where, in the unpacked archive.
        offset: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// An entry that is no regular file.
    #[error("entry {name:?} is {kind}; a bundle holds regular files only; pack them by name with `tar --format=ustar`")]
    EntryKind {
        /// The entry's name as far as it is readable.
        name: String,
        /// What it is.
        kind: &'static str,
    },
    /// A file name outside the allow-list.
    #[error("file name {name:?}: {what}")]
    Name {
        /// The name as far as it is readable.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Two files of one name, or of names that differ only in case, or one name is a folder of the other.
    #[error("file names {first:?} and {second:?} are the same, or differ only in case, or nest in each other")]
    Clash {
        /// The earlier one.
        first: String,
        /// The later one.
        second: String,
    },
    /// More files than a bundle may have.
    #[error("more than {max} files")]
    TooManyFiles {
        /// Files allowed.
        max: usize,
    },
    /// One file is too large.
    #[error("file {name:?} has {len} bytes, the limit is {max}")]
    FileTooLarge {
        /// The file.
        name: String,
        /// Its bytes.
        len: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// There is no `manifest.json`.
    #[error("manifest.json is missing")]
    NoManifest,
    /// There is no Rego file.
    #[error("there is no .rego file")]
    NoRego,
    /// A Rego file is not UTF-8.
    #[error("file {name:?} is not UTF-8 text (byte {at})")]
    NotText {
        /// The file.
        name: String,
        /// The first byte that is wrong.
        at: usize,
    },
    /// A JSON file is not valid JSON.
    #[error("{name}: {cause}")]
    Json {
        /// The file.
        name: &'static str,
        /// What is wrong with it.
        cause: json::Error,
    },
    /// A JSON file does not hold an object.
    #[error("{name}: must be a JSON object, is {found}")]
    NotAnObject {
        /// The file.
        name: &'static str,
        /// What it holds.
        found: &'static str,
    },
    /// A field of the manifest that the format does not have.
    #[error("manifest.json: unknown field {field:?}; names are compared exactly, also in case")]
    UnknownField {
        /// The field.
        field: String,
    },
    /// A required field of the manifest is missing.
    #[error("manifest.json: {field} is missing; `autonomy policy build` writes it")]
    MissingField {
        /// The field.
        field: &'static str,
    },
    /// A field of the manifest has a bad value.
    #[error("manifest.json: {field} must be {must}, is {found}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it must be.
        must: &'static str,
        /// What it is, as JSON, cut when long.
        found: String,
    },
    /// A version or range of the manifest.
    #[error("manifest.json: {field}: {cause}")]
    Version {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        cause: semver::Refusal,
    },
    /// The floor of the manifest bars the bundle itself.
    #[error("manifest.json: min_sequence {min_sequence} is above sequence {sequence}, the bundle would bar itself")]
    Floor {
        /// `sequence`
        sequence: u64,
        /// `min_sequence`
        min_sequence: u64,
    },
    /// `bundle_hash` does not fit the content.
    #[error("bundle_hash does not fit: manifest.json says sha256:{want}, the content has sha256:{got}")]
    BundleHash {
        /// What the manifest says.
        want: Hash32,
        /// What the content has.
        got: Hash32,
    },
    /// The bundle wants another runtime.
    #[error("the bundle requires runtime {required}, this is {runtime}")]
    Incompatible {
        /// `required_runtime_version`
        required: String,
        /// This runtime's version.
        runtime: String,
    },
}
