//! Why an artifact could not be read or kept.

use std::path::{Path, PathBuf};

use machines::oci::{self, Digest};

/// What went wrong, with the place that it went wrong at.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The place says that it is not there.
    #[error("{place}: there is no {what}")]
    NotFound {
        /// The registry's repository, the layout or the archive.
        place: String,
        /// What was asked for.
        what: String,
    },
    /// The place cannot be reached or read, or gives no answer that can be used.
    #[error("{place}: {why}")]
    Unreachable {
        /// The registry's repository, the layout or the archive.
        place: String,
        /// Why, and what to do.
        why: String,
    },
    /// The place wants other credentials.
    #[error("{place}: {why}")]
    Denied {
        /// The registry's repository.
        place: String,
        /// The registry's words, and what to do.
        why: String,
    },
    /// More than there may be. Reading stopped there (FAULTS S13, S14).
    #[error("{place}: {what}: more than {max}")]
    TooLong {
        /// Where.
        place: String,
        /// What is too long.
        what: String,
        /// Bytes or entries allowed.
        max: u64,
    },
    /// Other bytes than the digest says (FAULTS S12).
    #[error("{place}: wanted {want} of {want_bytes} bytes, got {got} of {got_bytes} bytes")]
    Mismatch {
        /// Where.
        place: String,
        /// The digest that was asked for.
        want: Digest,
        /// Its length, in bytes.
        want_bytes: u64,
        /// The digest of what came; of its beginning, when more came than was asked for.
        got: Digest,
        /// How many bytes were read.
        got_bytes: u64,
    },
    /// Something there is not what it must be.
    #[error("{place}: {why}")]
    Broken {
        /// Where, with the file or field.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// A file or folder cannot be used.
    #[error("{path}: {what}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The operating system's words.
        error: std::io::Error,
    },
    /// What was asked for cannot be done here.
    #[error("{place}: {why}")]
    Refused {
        /// Where.
        place: String,
        /// Why, and what to do instead.
        why: String,
    },
}

impl Fault {
    pub(crate) fn file(path: &Path, what: &'static str, error: impl Into<std::io::Error>) -> Self {
        Self::File { path: path.to_owned(), what, error: error.into() }
    }

    pub(crate) fn missing(place: &str, what: impl Into<String>) -> Self {
        Self::NotFound { place: place.to_owned(), what: what.into() }
    }

    pub(crate) fn broken(place: &str, why: impl Into<String>) -> Self {
        Self::Broken { place: place.to_owned(), why: why.into() }
    }

    /// A file that cannot be read as what it is said to be: cut, torn, or something else altogether.
    pub(crate) fn unreadable(place: &str, why: impl Into<String>) -> Self {
        Self::Unreachable { place: place.to_owned(), why: why.into() }
    }

    pub(crate) fn refused(place: &str, why: impl Into<String>) -> Self {
        Self::Refused { place: place.to_owned(), why: why.into() }
    }

    pub(crate) fn too_long(place: &str, what: impl Into<String>, max: u64) -> Self {
        Self::TooLong { place: place.to_owned(), what: what.into(), max }
    }

    pub(crate) fn document(place: &str, name: &str, refusal: &oci::Refusal) -> Self {
        Self::Broken { place: place.to_owned(), why: format!("{name}: {refusal}") }
    }

    /// A task that a panic or the end of the runtime cut short.
    pub(crate) fn task(place: &str, error: &tokio::task::JoinError) -> Self {
        Self::Broken { place: place.to_owned(), why: format!("the work on it was cut short: {error}") }
    }

    /// Whether the place says that it is not there.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}
