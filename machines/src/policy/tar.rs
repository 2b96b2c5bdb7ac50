//! The archive within a policy bundle: canonical ustar, regular files only, read as a whole from memory.
//!
//! Headers, names and clashes are judged by [`crate::tar`]; what they come to is said in a bundle's words.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::Refusal;
#[cfg(test)]
pub(super) use crate::tar::Names;
use crate::tar::{self, BLOCK, Entry, Folders};

/// What an archive may hold.
pub(super) struct Limits {
    pub(super) files: usize,
    pub(super) file_bytes: u64,
}

/// The files of an archive by name. Names are on the allow-list of [`check_name`] and do not clash.
pub(super) fn read<'a>(archive: &'a [u8], limits: &Limits) -> Result<BTreeMap<&'a str, &'a [u8]>, Refusal> {
    let (blocks, odd) = archive.as_chunks::<BLOCK>();
    if !odd.is_empty() {
        return Err(Refusal::Tar { offset: archive.len(), what: "the length is no multiple of 512" });
    }
    let mut names = tar::Names::default();
    let mut files = BTreeMap::new();
    let mut at = 0_usize;
    loop {
        let offset = at.saturating_mul(BLOCK);
        let block = blocks.get(at).ok_or(Refusal::Tar { offset, what: tar::NO_END })?;
        let (name, len) = match tar::entry(block, u64::try_from(offset).unwrap_or(u64::MAX), Folders::Refused)? {
            Entry::File { name, size } => (name, size),
            // Never given here: folders are refused.
            Entry::Folder { name } => return Err(Refusal::EntryKind { name: name.into(), kind: "a folder" }),
            Entry::End => {
                check_end(blocks.get(at..).unwrap_or_default(), offset)?;
                return Ok(files);
            }
        };
        if len > limits.file_bytes {
            return Err(Refusal::FileTooLarge { name: String::from(name), len, max: limits.file_bytes });
        }
        names.add(name)?;
        if files.len() == limits.files {
            return Err(Refusal::TooManyFiles { max: limits.files });
        }
        let start = offset.saturating_add(BLOCK);
        let cut = Refusal::Tar { offset: start, what: tar::CUT };
        let Ok(len) = usize::try_from(len) else { return Err(cut) };
        let body_blocks = len.div_ceil(BLOCK);
        let end = start.saturating_add(body_blocks.saturating_mul(BLOCK));
        let Some((body, padding)) = archive.get(start..end).and_then(|body| body.split_at_checked(len)) else {
            return Err(cut);
        };
        if padding.iter().any(|b| *b != 0) {
            return Err(Refusal::Tar { offset: start.saturating_add(len), what: tar::PADDING });
        }
        files.insert(name, body);
        at = at.saturating_add(1).saturating_add(body_blocks);
    }
}

fn check_end(rest: &[[u8; BLOCK]], offset: usize) -> Result<(), Refusal> {
    if rest.len() < 2 {
        return Err(Refusal::Tar { offset, what: tar::NO_END });
    }
    if rest.iter().flatten().any(|b| *b != 0) {
        return Err(Refusal::Tar { offset, what: tar::BEHIND_END });
    }
    Ok(())
}

/// A name on the allow-list of [`tar::check_name`].
pub(super) fn check_name(name: &[u8]) -> Result<&str, Refusal> {
    Ok(tar::check_name(name)?)
}

/// Appends one file: mode 0644, owner 0, time 0.
pub(super) fn append(out: &mut Vec<u8>, name: &str, data: &[u8]) -> Result<(), Refusal> {
    out.extend_from_slice(&tar::header(name, u64::try_from(data.len()).unwrap_or(u64::MAX))?);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
    Ok(())
}

/// Appends the end of the archive: two zero blocks.
pub(super) fn finish(out: &mut Vec<u8>) {
    out.resize(out.len().saturating_add(2 * BLOCK), 0);
}

impl From<tar::Refusal> for Refusal {
    fn from(refusal: tar::Refusal) -> Self {
        match refusal {
            // An unpacked bundle has a few MiB.
            tar::Refusal::Malformed { offset, what } => {
                Self::Tar { offset: usize::try_from(offset).unwrap_or(usize::MAX), what }
            }
            tar::Refusal::Kind { name, kind } => Self::EntryKind { name, kind },
            tar::Refusal::Name { name, what } => Self::Name { name, what },
            tar::Refusal::Clash { first, second } => Self::Clash { first, second },
        }
    }
}

#[cfg(test)]
#[path = "tar_tests.rs"]
mod tests;
