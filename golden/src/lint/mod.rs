//! The lint of the rooms: what the compiler cannot see of the house's rules. Run by `make lint` and by `make test`.
//!
//! It reads manifests and sources only. Comments and the contents of strings do not count as code.

mod code;
mod faults;
mod manifests;
mod sources;

use std::path::Path;

use anyhow::Result;

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Broken rules, each with its file and what to do.
    pub errors: Vec<String>,
    /// What should be looked at: files that grow too long, longest first.
    pub warnings: Vec<String>,
}

/// Checks the repository at `root`.
///
/// # Errors
/// A file that cannot be read or parsed.
pub fn check(root: &Path) -> Result<Findings> {
    let mut findings = Findings::default();
    let members = manifests::members(root)?;
    manifests::check(root, &members, &mut findings)?;
    let functions = sources::check(root, &members, &mut findings)?;
    faults::check(root, &functions, &mut findings)?;
    Ok(findings)
}
