//! `epoch/chain.jsonl`: the commit point of every reconstruction, hash-chained (SPEC 10).
//!
//! A line is `{"epoch","previous_hash","new_hash","manifest_version","at","prev","h"}`. `prev` is the `h` of the line before
//! it, of the first line BLAKE3-256 of the ASCII bytes `autonomy-epoch-v1`. A line ends like a frame of the log: `h` is
//! BLAKE3-256 over `prev` as 32 raw bytes and the line's bytes up to that field. Epochs count from 0, one by one, and
//! `manifest_version` never falls. A line is added by replacing the file as a whole, so that no half line is ever there
//! and whatever does not verify is damage.

use alloc::string::String;
use alloc::vec::Vec;

use crate::canonical;
use crate::fields::Fields;
use crate::ids::Hash32;
use crate::json::push_u64;
use crate::time::Wall;
use crate::wal::frame::split_tail;

/// Most bytes of the file: more than twelve thousand reconstructions.
pub const MAX_BYTES: u32 = 4 << 20;

/// One reconstruction, or the first start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The boot epoch from here on.
    pub epoch: u64,
    /// The fingerprint before.
    pub previous_hash: Hash32,
    /// The fingerprint from here on.
    pub new_hash: Hash32,
    /// The version of the manifest that was carried out; 0 for the first start.
    pub manifest_version: u64,
    /// When.
    pub at: Wall,
}

/// A chain that verifies; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    bytes: Vec<u8>,
    /// The last three lines, the last one first.
    last: Entry,
    before: Option<Entry>,
    earlier: Option<Entry>,
    h: Hash32,
}

impl Chain {
    /// A chain of one line: the first start on this host.
    #[must_use]
    pub fn first(host: Hash32, at: Wall) -> Self {
        let entry = Entry { epoch: 0, previous_hash: Hash32([0; 32]), new_hash: host, manifest_version: 0, at };
        let mut bytes = Vec::new();
        let h = write_line(&mut bytes, &genesis(), &entry);
        Self { bytes, last: entry, before: None, earlier: None, h }
    }

    /// Reads and verifies a whole chain.
    ///
    /// # Errors
    /// Which line does not follow, and why.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (mut earlier, mut before, mut last) = (None, None, None::<Entry>);
        let mut h = genesis();
        for (n, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
            let wrong = |words: &str| alloc::format!("line {} {words}", n + 1);
            let (covered, own) = split_tail(line).ok_or_else(|| wrong("is no line of a chain of epochs"))?;
            if link(&h, covered) != own {
                return Err(wrong("does not verify"));
            }
            let entry = read(line, &h).map_err(|words| wrong(&alloc::format!("is wrong: {words}")))?;
            let follows = match &last {
                None => entry.epoch == 0,
                Some(before) => {
                    before.epoch.checked_add(1) == Some(entry.epoch)
                        && before.manifest_version <= entry.manifest_version
                }
            };
            if !follows {
                return Err(wrong("has an epoch or a manifest version that does not follow"));
            }
            (earlier, before, last) = (before, last, Some(entry));
            h = own;
        }
        match last {
            Some(last) => Ok(Self { bytes: bytes.to_vec(), last, before, earlier, h }),
            None => Err("it is empty".into()),
        }
    }

    /// The last line.
    #[must_use]
    pub const fn last(&self) -> &Entry {
        &self.last
    }

    /// The line before the last.
    #[must_use]
    pub const fn before(&self) -> Option<&Entry> {
        self.before.as_ref()
    }

    /// The line before that.
    #[must_use]
    pub const fn earlier(&self) -> Option<&Entry> {
        self.earlier.as_ref()
    }

    /// The chain with one more line; `None` at the end of the numbers, or when the file would be too large.
    #[must_use]
    pub fn with(&self, previous_hash: Hash32, new_hash: Hash32, manifest_version: u64, at: Wall) -> Option<Self> {
        let entry = Entry { epoch: self.last.epoch.checked_add(1)?, previous_hash, new_hash, manifest_version, at };
        let mut bytes = self.bytes.clone();
        let h = write_line(&mut bytes, &self.h, &entry);
        let fits = u32::try_from(bytes.len()).is_ok_and(|len| len <= MAX_BYTES);
        fits.then(|| Self { bytes, earlier: self.before.clone(), before: Some(self.last.clone()), last: entry, h })
    }

    /// Every line with its `h`, the first one first.
    #[must_use]
    pub fn lines(&self) -> Vec<(Entry, Hash32)> {
        let mut prev = genesis();
        let mut lines = Vec::new();
        // They verified when the chain was made.
        for line in self.bytes.split_inclusive(|b| *b == b'\n') {
            let (Some((_, h)), Ok(entry)) = (split_tail(line), read(line, &prev)) else { break };
            prev = h;
            lines.push((entry, h));
        }
        lines
    }

    /// The file's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn genesis() -> Hash32 {
    Hash32(*blake3::hash(b"autonomy-epoch-v1").as_bytes())
}

fn link(prev: &Hash32, covered: &[u8]) -> Hash32 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&prev.0);
    hasher.update(covered);
    Hash32(*hasher.finalize().as_bytes())
}

fn read(line: &[u8], prev: &Hash32) -> Result<Entry, String> {
    let words = |error: &dyn core::fmt::Display| alloc::format!("{error}");
    let value = canonical::parse(line, line.len()).map_err(|e| words(&e))?;
    let mut fields = Fields::open(value, "entry").map_err(|e| words(&e))?;
    let mut entry = || -> Result<(Entry, Hash32), crate::fields::Wrong> {
        let entry = Entry {
            epoch: fields.number("epoch")?,
            previous_hash: fields.bare_hash("previous_hash")?,
            new_hash: fields.bare_hash("new_hash")?,
            manifest_version: fields.number("manifest_version")?,
            at: fields.need("at", "a time like 2026-01-31T12:00:00.000000Z", |v| Wall::parse_rfc3339(v.as_str()?))?,
        };
        fields.bare_hash("h")?;
        Ok((entry, fields.bare_hash("prev")?))
    };
    let (entry, named) = entry().map_err(|e| words(&e))?;
    fields.finish().map_err(|e| words(&e))?;
    if named != *prev { Err("`entry.prev` is not the hash of the line before it".into()) } else { Ok(entry) }
}

fn write_line(out: &mut Vec<u8>, prev: &Hash32, entry: &Entry) -> Hash32 {
    let mut text = String::from("{\"epoch\":");
    push_u64(&mut text, entry.epoch);
    text.push_str(",\"previous_hash\":\"");
    entry.previous_hash.write_hex(&mut text);
    text.push_str("\",\"new_hash\":\"");
    entry.new_hash.write_hex(&mut text);
    text.push_str("\",\"manifest_version\":");
    push_u64(&mut text, entry.manifest_version);
    text.push_str(",\"at\":\"");
    entry.at.write_rfc3339(&mut text);
    text.push_str("\",\"prev\":\"");
    prev.write_hex(&mut text);
    text.push('"');
    let h = link(prev, text.as_bytes());
    text.push_str(",\"h\":\"");
    h.write_hex(&mut text);
    text.push_str("\"}\n");
    out.extend_from_slice(text.as_bytes());
    h
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Chain {
        let at = Wall::from_micros(1_763_724_637_000_000);
        let chain = Chain::first(Hash32([1; 32]), at);
        let chain = chain.with(Hash32([1; 32]), Hash32([2; 32]), 3, at).unwrap();
        chain.with(Hash32([0; 32]), Hash32([3; 32]), 3, at).unwrap()
    }

    #[test]
    fn a_chain_is_read_as_it_was_written() {
        let chain = three();
        assert_eq!(Chain::parse(chain.bytes()).unwrap(), chain);
        assert_eq!((chain.last().epoch, chain.before().unwrap().epoch), (2, 1));
        insta::assert_snapshot!(core::str::from_utf8(chain.bytes()).unwrap());
        let lines = chain.lines();
        assert_eq!(lines.iter().map(|(entry, _)| entry.epoch).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(lines.last().unwrap(), &(chain.last().clone(), chain.h));
    }

    #[test]
    fn b07_every_byte_and_every_cut_within_a_line_is_found() {
        let good = three();
        let bytes = good.bytes();
        for at in 0..bytes.len() {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1;
            assert!(Chain::parse(&bad).is_err(), "byte {at}");
        }
        for len in 0..bytes.len() {
            let whole_lines = len > 0 && bytes[len - 1] == b'\n';
            assert_eq!(Chain::parse(&bytes[..len]).is_ok(), whole_lines, "cut at {len}");
        }
        let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
        assert!(Chain::parse(&[lines[0], lines[2]].concat()).is_err());
        assert!(Chain::parse(&[lines[0], lines[1], lines[1]].concat()).is_err());
        assert!(Chain::parse(lines[1]).is_err());
    }

    #[test]
    fn u01_a_version_below_the_one_before_is_no_chain() {
        let chain = three();
        let lower = chain.with(Hash32([3; 32]), Hash32([4; 32]), 2, Wall::default()).unwrap();
        assert!(Chain::parse(lower.bytes()).unwrap_err().contains("line 4"));
    }
}
