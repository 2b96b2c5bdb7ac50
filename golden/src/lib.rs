//! Bytes that must not change by accident, and the lint of the rooms.
//!
//! Each fixture lies in a folder beneath `golden/fixtures`: inputs written by hand and outputs written by
//! `make golden-update`. `make check-golden` computes the outputs again and shows every difference. A change of an
//! output is a change of a format: it needs a reason in the change log, or it is a mistake.

pub mod diff;
pub mod fixtures;
pub mod lint;
pub mod tree;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The repository's root: the folder above this package.
#[must_use]
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}

/// Every difference between the outputs on disk and the ones computed now, in words; empty when they agree.
///
/// # Errors
/// An input that cannot be read or is not understood.
pub fn check(fixtures: &Path) -> Result<Vec<String>> {
    let mut differences = Vec::new();
    for fixture in fixtures::all() {
        let folder = fixtures.join(fixture.folder);
        let want = fixture.outputs(&folder)?;
        for (name, new) in &want {
            let path = folder.join(name);
            match std::fs::read(&path) {
                Ok(old) if old == *new => {}
                Ok(old) => differences.push(diff::describe(&path, &old, new)),
                Err(e) => differences.push(format!("{}: {e}; `make golden-update` writes it", path.display())),
            }
        }
        for name in tree::names(&folder)? {
            if !want.contains_key(&name) && !fixture.is_input(&name) {
                let path = folder.join(&name);
                differences.push(format!("{}: neither an input nor an output; remove it", path.display()));
            }
        }
    }
    Ok(differences)
}

/// Writes the outputs computed now; returns the files that changed.
///
/// # Errors
/// An input that cannot be read or is not understood, or a file that cannot be written.
pub fn update(fixtures: &Path) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for fixture in fixtures::all() {
        let folder = fixtures.join(fixture.folder);
        for (name, new) in fixture.outputs(&folder)? {
            let path = folder.join(name);
            if std::fs::read(&path).is_ok_and(|old| old == new) {
                continue;
            }
            std::fs::write(&path, new).with_context(|| format!("cannot write {}", path.display()))?;
            written.push(path);
        }
    }
    Ok(written)
}
