//! `policy/history.jsonl`: what was loaded, refused, rolled back and fallen back from, hash-chained (SPEC 3).
//!
//! Each line is one JSON object that ends like a frame of the log: `"h"` is BLAKE3-256 over the previous line's `h`
//! (32 raw bytes) and this line's bytes up to that field. The first line follows BLAKE3-256 of the ASCII bytes
//! `autonomy-policy-history-v1`. A line is written before `activation.json` is replaced, and names the file that will be:
//! `activation` is the hash `h` in it. Where the next change finds another file, the one before was cut short, and a
//! `not_committed` line says so first.

use alloc::string::String;
use alloc::vec::Vec;

use crate::disk::{Dir, File, Op};
use crate::ids::Hash32;
use crate::json::{self, escape_into, push_u64};
use crate::time::Wall;
use crate::wal::frame::split_tail;

use super::Slot;

/// How much of the end of the file is read: many times the longest line.
pub const TAIL_BYTES: u32 = 64 * 1024;

/// The longest reason in a line, in characters.
const MAX_REASON: usize = 1024;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A bundle was put in force.
    Load,
    /// A bundle was refused.
    Refused,
    /// The last known good bundle was put in force by an operator.
    Rollback,
    /// The runtime could not use the current bundle.
    Fallback,
    /// A verified release was put in force.
    Activate,
    /// A release passed the four steps and was stored, not put in force.
    Verified,
    /// An operator reset the floor of a lock's name.
    FloorReset,
    /// The last change before this line was cut short: `activation.json` never said it.
    NotCommitted,
}

impl What {
    /// The text in the line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Refused => "refused",
            Self::Rollback => "rollback",
            Self::Fallback => "fallback",
            Self::Activate => "activate",
            Self::Verified => "verified",
            Self::FloorReset => "floor_reset",
            Self::NotCommitted => "not_committed",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [
            Self::Load,
            Self::Refused,
            Self::Rollback,
            Self::Fallback,
            Self::Activate,
            Self::Verified,
            Self::FloorReset,
            Self::NotCommitted,
        ]
        .into_iter()
        .find(|what| what.as_str() == text)
    }
}

/// One line to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What happened.
    pub what: What,
    /// The bundle that it happened to, where one could be read.
    pub slot: Option<Slot>,
    /// Why, where there is a reason.
    pub reason: Option<String>,
    /// Of a change: the hash of the `activation.json` that says it, [`super::Activation::hash`].
    pub activation: Option<Hash32>,
}

impl Line {
    /// A line of something that changes no `activation.json`.
    #[must_use]
    pub const fn of(what: What, slot: Option<Slot>, reason: Option<String>) -> Self {
        Self { what, slot, reason, activation: None }
    }
}

/// The end of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Bytes of whole lines; a line cut short behind them is removed before the next is written.
    len: u64,
    /// Where the bytes begin that were read.
    from: u64,
    torn: bool,
    lines: u64,
    h: Hash32,
    /// The `activation.json` that the last change was about to write, unless a line behind it says that it never was.
    /// None where no change is among the lines that were read, or one that was written before lines said so.
    pub change: Option<Hash32>,
}

impl End {
    /// The end of a file that is not there.
    #[must_use]
    pub fn empty() -> Self {
        let h = Hash32(*blake3::hash(b"autonomy-policy-history-v1").as_bytes());
        Self { len: 0, from: 0, torn: false, lines: 0, h, change: None }
    }

    /// Reads the end of a file of `total` bytes from its last bytes. What a cut append left behind the last line
    /// that verifies counts as torn, whether or not it ends in a line feed.
    ///
    /// # Errors
    /// A line is damaged and whole ones stand behind it: that is no cut append.
    pub fn read(total: u64, tail: &[u8]) -> Result<Self, String> {
        let damaged = || String::from("policy/history.jsonl is damaged in the middle; move it away to go on");
        let whole = u64::try_from(tail.len()).unwrap_or(u64::MAX) >= total;
        let mut end = Self::empty();
        let mut good = 0usize;
        // Without the file's start the first line of the window is cut, and the one behind it has nothing to verify against.
        let mut anchored = whole;
        if !whole {
            good = tail.iter().position(|b| *b == b'\n').map_or(tail.len(), |at| at + 1);
        }
        let mut at = good;
        let mut before: Option<Hash32> = None;
        for line in tail.get(good..).unwrap_or(&[]).split_inclusive(|b| *b == b'\n') {
            at += line.len();
            let Some((covered, h)) = split_tail(line) else {
                before = None;
                continue;
            };
            if good + line.len() == at && (!anchored || link(&end.h, covered) == h) && end.take(line, h) {
                anchored = true;
                good = at;
            } else if before.is_some_and(|before| link(&before, covered) == h) {
                return Err(damaged());
            }
            before = Some(h);
        }
        if !anchored && total > 0 {
            return Err(damaged());
        }
        end.torn = good < tail.len();
        end.len = total.saturating_sub(u64::try_from(tail.len() - good).unwrap_or(u64::MAX));
        end.from = total.saturating_sub(u64::try_from(tail.len()).unwrap_or(u64::MAX));
        Ok(end)
    }

    /// Takes a line over; false when it is none of ours.
    fn take(&mut self, line: &[u8], h: Hash32) -> bool {
        let Ok(value) = json::parse(line, &json::Limits::default()) else { return false };
        let Some(what) = value.get("event").and_then(json::Value::as_str).and_then(What::parse) else { return false };
        let Some(n) = value.get("n").and_then(json::Value::as_u64) else { return false };
        match what {
            What::Load | What::Rollback | What::Activate | What::Verified | What::FloorReset => {
                let hex = value.get("activation").and_then(json::Value::as_str).and_then(|t| t.strip_prefix("blake3:"));
                self.change = hex.and_then(|hex| Hash32::parse_hex(hex.as_bytes()));
            }
            What::NotCommitted => self.change = None,
            What::Refused | What::Fallback => {}
        }
        (self.lines, self.h) = (n, h);
        true
    }

    /// The operations that append these lines durably.
    #[must_use]
    pub fn append(&self, at: Wall, lines: &[Line]) -> Vec<Op> {
        let mut bytes = Vec::new();
        let (mut h, mut n) = (self.h, self.lines);
        for line in lines {
            n = n.saturating_add(1);
            h = write_line(&mut bytes, &h, n, at, line);
        }
        let mut chain = Vec::new();
        if self.torn {
            chain.push(Op::Truncate { file: File::History, len: self.len });
        }
        if self.len == 0 && !self.torn {
            chain.push(Op::Put { file: File::History, bytes });
        } else {
            if self.from < self.len {
                // An earlier sync may have failed and left lines in the cache that are clean and not on the device.
                chain.push(Op::Rewrite { file: File::History, from: self.from, to: self.len });
            }
            chain.push(Op::Append { file: File::History, at: self.len, bytes });
        }
        chain.push(Op::Sync(File::History));
        chain.push(Op::SyncDir(Dir::Policy));
        chain
    }
}

fn write_line(out: &mut Vec<u8>, prev: &Hash32, n: u64, at: Wall, line: &Line) -> Hash32 {
    let mut text = String::from("{\"n\":");
    push_u64(&mut text, n);
    text.push_str(",\"at\":\"");
    at.write_rfc3339(&mut text);
    text.push_str("\",\"event\":\"");
    text.push_str(line.what.as_str());
    text.push('"');
    if let Some(slot) = &line.slot {
        text.push_str(",\"bundle\":\"sha256:");
        slot.bundle.write_hex(&mut text);
        text.push_str("\",\"name\":");
        escape_into(&slot.name, &mut text);
        text.push_str(",\"version\":");
        escape_into(&slot.version, &mut text);
        text.push_str(",\"sequence\":");
        push_u64(&mut text, slot.sequence);
        text.push_str(",\"bundle_hash\":\"sha256:");
        slot.bundle_hash.write_hex(&mut text);
        text.push('"');
        if let Some(lock) = &slot.lock {
            text.push_str(",\"lock\":");
            lock.write(&mut text);
        }
    }
    if let Some(activation) = &line.activation {
        text.push_str(",\"activation\":\"blake3:");
        activation.write_hex(&mut text);
        text.push('"');
    }
    if let Some(reason) = &line.reason {
        text.push_str(",\"reason\":");
        let short: String = reason.chars().take(MAX_REASON).collect();
        escape_into(&short, &mut text);
    }
    let h = link(prev, text.as_bytes());
    text.push_str(",\"h\":\"");
    h.write_hex(&mut text);
    text.push_str("\"}\n");
    out.extend_from_slice(text.as_bytes());
    h
}

fn link(prev: &Hash32, covered: &[u8]) -> Hash32 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&prev.0);
    hasher.update(covered);
    Hash32(*hasher.finalize().as_bytes())
}

/// Verifies a whole history: every line follows the one before it. Returns the number of lines.
///
/// # Errors
/// The number of the first line that does not, and why.
pub fn verify(bytes: &[u8]) -> Result<u64, String> {
    let mut prev = End::empty().h;
    let mut count = 0u64;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        count += 1;
        let wrong = |words: &str| alloc::format!("line {count}: {words}");
        let (covered, h) = split_tail(line).ok_or_else(|| wrong("not a line of a policy history"))?;
        if link(&prev, covered) != h {
            return Err(wrong("its hash does not verify against the line before it"));
        }
        prev = h;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn lines() -> Vec<u8> {
        let mut bytes = vec![];
        let slot = Slot {
            bundle: Hash32([1; 32]),
            name: "policy".into(),
            version: "1.0.0".into(),
            sequence: 4,
            bundle_hash: Hash32([2; 32]),
            lock: None,
        };
        let mut end = End::empty();
        for line in [
            Line { activation: Some(Hash32([3; 32])), ..Line::of(What::Load, Some(slot), None) },
            Line::of(What::Refused, None, Some("no \"manifest.json\"\n".into())),
        ] {
            for op in end.append(Wall::from_micros(1), core::slice::from_ref(&line)) {
                match op {
                    Op::Put { bytes: b, .. } | Op::Append { bytes: b, .. } => bytes.extend(b),
                    Op::Sync(_) | Op::SyncDir(_) | Op::Rewrite { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            let total = u64::try_from(bytes.len()).unwrap();
            end = End::read(total, &bytes).unwrap();
        }
        bytes
    }

    #[test]
    fn lines_chain_and_every_flipped_bit_shows() {
        let bytes = lines();
        assert_eq!(verify(&bytes), Ok(2));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(verify(&damaged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_line_cut_short_is_removed_before_the_next_is_written() {
        let bytes = lines();
        let first = bytes.iter().position(|b| *b == b'\n').unwrap() + 1;
        for cut in first + 1..bytes.len() - 1 {
            let end = End::read(u64::try_from(cut).unwrap(), &bytes[..cut]).unwrap();
            assert_eq!((end.len, end.torn, end.lines), (u64::try_from(first).unwrap(), true, 1));
            assert_eq!(end.change, Some(Hash32([3; 32])));
            let ops = end.append(Wall::from_micros(2), &[Line::of(What::NotCommitted, None, None)]);
            assert_eq!(ops[0], Op::Truncate { file: File::History, len: end.len });
        }
    }

    #[test]
    fn an_append_that_lost_bytes_but_kept_its_line_feed_counts_as_torn() {
        let bytes = lines();
        let first = bytes.iter().position(|b| *b == b'\n').unwrap() + 1;
        for at in first..bytes.len() - 1 {
            let mut damaged = bytes.clone();
            damaged[at] = 0;
            let end = End::read(u64::try_from(bytes.len()).unwrap(), &damaged).unwrap();
            assert_eq!((end.len, end.torn, end.lines), (u64::try_from(first).unwrap(), true, 1), "byte {at}");
        }
        // A damaged line with whole ones behind it is another matter.
        let mut long = bytes.clone();
        let mut end = End::read(u64::try_from(bytes.len()).unwrap(), &bytes).unwrap();
        for _ in 0..2 {
            for op in end.append(Wall::from_micros(3), &[Line::of(What::Refused, None, None)]) {
                if let Op::Append { bytes: more, .. } = op {
                    long.extend(more);
                }
            }
            end = End::read(u64::try_from(long.len()).unwrap(), &long).unwrap();
        }
        assert_eq!((end.lines, end.change), (4, Some(Hash32([3; 32]))), "refusals do not hide the last change");
        assert_eq!(verify(&long), Ok(4));
        long[first + 10] = 0;
        assert!(End::read(u64::try_from(long.len()).unwrap(), &long).is_err());
        // A window that does not reach the start.
        let window = &long[first - 20..];
        assert!(End::read(u64::try_from(long.len()).unwrap(), window).is_err());
    }
}
