//! Why a policy is not loaded, and where.

use std::fmt;

/// A policy that is not loaded: what is wrong, in which file and line, and what to do about it.
///
/// Displays as `file:line: what`, without the parts that are unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// The file's name in the bundle, when the fault is in one file.
    pub file: Option<String>,
    /// The line, counted from 1, when it is known.
    pub line: Option<u32>,
    /// What is wrong, in one line.
    pub what: String,
}

impl Refusal {
    /// A fault at a line of a file.
    pub(crate) fn at(file: &str, line: u32, what: impl Into<String>) -> Self {
        Self { file: Some(file.to_owned()), line: Some(line), what: what.into() }
    }

    /// A fault of a whole file.
    pub(crate) fn file(file: &str, what: impl Into<String>) -> Self {
        Self { file: Some(file.to_owned()), line: None, what: what.into() }
    }

    /// A fault of the policy as a whole.
    pub(crate) fn whole(what: impl Into<String>) -> Self {
        Self { file: None, line: None, what: what.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            match self.line {
                Some(line) => write!(f, "{file}:{line}: ")?,
                None => write!(f, "{file}: ")?,
            }
        }
        f.write_str(&self.what)
    }
}
