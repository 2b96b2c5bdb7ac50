//! Why a lock is not taken.

use alloc::string::String;

use crate::{canonical, semver};

/// Why a lock is refused. Fields are named by their path, like `agent_artifact.digest`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No document that can be hashed: bad JSON, duplicate keys, numbers that are not whole, ….
    #[error("lock: {0}")]
    Canonical(#[from] canonical::Refusal),
    /// The document, or a part of it, is no object.
    #[error("lock: {field} must be an object, is {found}")]
    NotAnObject {
        /// Which one.
        field: String,
        /// The kind of value that is there.
        found: &'static str,
    },
    /// A field that the schema does not have.
    #[error("lock: unknown field {field}; {within} has {known}, compared exactly, also in case")]
    UnknownField {
        /// The field.
        field: String,
        /// The object that it stands in.
        within: &'static str,
        /// The fields that it may have.
        known: String,
    },
    /// A required field is missing.
    #[error("lock: {field} is missing; it must be {must}")]
    MissingField {
        /// The field.
        field: String,
        /// What it must be.
        must: &'static str,
    },
    /// A field has a bad value.
    #[error("lock: {field} must be {must}; it is {found}")]
    Field {
        /// The field.
        field: String,
        /// What it must be.
        must: &'static str,
        /// What it is, as JSON, cut when long.
        found: String,
    },
    /// A version or a range is none.
    #[error("lock: {field}: {cause}")]
    Version {
        /// The field.
        field: String,
        /// What is wrong with it.
        cause: semver::Refusal,
    },
}
