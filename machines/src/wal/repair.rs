//! The operator's way out of a log that is refused (SPEC 4): every frame that verifies stays, and each lost range
//! is replaced by one tombstone, so that the log opens again and says what it lost.
//!
//! Only the planning is here, file by file, oldest first; the caller reads, quarantines and writes.

use alloc::vec::Vec;

use crate::disk::File;
use crate::ids::{Hash32, IdSource, Seq};
use crate::time::Wall;

use super::files::{Base, Positions};
use super::frame::{self, Frame, Kind, Place, Record, split_tail};
use super::scan::{Chain, Tombstone, each_good_behind};

/// What one file becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays as it is, under its name.
    Keep,
    /// It is replaced by this file with these bytes, which may have another name.
    Replace(File, Vec<u8>),
    /// Nothing in it verifies.
    Drop,
}

/// What was done to the log as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The lost ranges, first and last sequence.
    pub lost: Vec<(u64, u64)>,
    /// Frames that stay.
    pub kept: u64,
    /// Bytes behind the last frame that nobody was answered from.
    pub cut: u64,
    /// The last sequence of the log, which is its safe-point.
    pub last: u64,
}

/// The plan of a repair, made while the files go by.
#[derive(Debug)]
pub struct Repair {
    base: Base,
    base_is_new: bool,
    chain: Chain,
    floor: u64,
    ids: IdSource,
    now: Wall,
    summary: Summary,
}

impl Repair {
    /// Begins a repair. Without a base a new one is made for the first sequence that is there; the frame at it
    /// cannot be verified then and counts as lost.
    #[must_use]
    pub fn new(
        base: Option<Base>,
        first_there: Option<Seq>,
        node_id: &str,
        safe: Option<u64>,
        positions: Option<&Positions>,
        mut ids: IdSource,
        now: Wall,
    ) -> Self {
        let base_is_new = base.is_none();
        let base = base.unwrap_or_else(|| {
            let log_id = positions.map_or_else(|| ids.next(now), |p| p.log_id);
            let first_seq = first_there.unwrap_or(Seq::FIRST);
            Base { log_id, node_id: node_id.into(), first_seq, prev_h: frame::genesis(&log_id) }
        });
        let ours = positions.filter(|p| p.log_id == base.log_id);
        let floor = safe.unwrap_or(0).max(ours.map_or(0, Positions::highest));
        let chain = Chain::new(base.first_seq, base.prev_h);
        Self { base, base_is_new, chain, floor, ids, now, summary: Summary::default() }
    }

    /// Takes the next file, `last` with the live one, and says what becomes of it.
    pub fn file(&mut self, file: File, bytes: &[u8], last: bool) -> Verdict {
        let start = Seq::new(self.chain.next);
        let mut out: Vec<u8> = Vec::new();
        let mut at = 0usize;
        loop {
            let rest = bytes.get(at..).unwrap_or(&[]);
            let (good, bad) = self.chain.read(rest, true, &mut |_, _| self.summary.kept += 1);
            out.extend_from_slice(rest.get(..good).unwrap_or(&[]));
            at += good;
            if bad.is_none() {
                break;
            }
            let rest = bytes.get(at..).unwrap_or(&[]);
            match self.next_good(rest) {
                Some((offset, seq, bridge)) => {
                    self.bury(seq.saturating_sub(1), bridge, &mut out);
                    at += offset;
                }
                None => {
                    self.summary.cut += u64::try_from(rest.len()).unwrap_or(u64::MAX);
                    break;
                }
            }
        }
        if last && self.floor >= self.chain.next {
            self.bury(self.floor, self.chain.prev, &mut out);
        }
        let name = match (file, start) {
            (File::Sealed(_), Some(first)) => File::Sealed(first),
            (other, _) => other,
        };
        if name == file && out == bytes {
            return Verdict::Keep;
        }
        if file != File::Live && out.is_empty() { Verdict::Drop } else { Verdict::Replace(name, out) }
    }

    /// The base, if it has to be written, and what was done.
    #[must_use]
    pub fn finish(mut self) -> (Base, bool, Summary) {
        self.summary.last = self.chain.last();
        (self.base, self.base_is_new, self.summary)
    }

    /// The first frame behind the damage that verifies against the hash before it and leaves a gap to fill.
    fn next_good(&self, rest: &[u8]) -> Option<(usize, u64, Hash32)> {
        let mut found = None;
        each_good_behind(rest, &mut |frame: &Frame<'_>, offset| {
            if found.is_none() && frame.seq.get() > self.chain.next && Tombstone::of(frame.body).is_none() {
                let before = rest.get(..offset).and_then(split_tail).map(|(_, h)| h);
                found = before.map(|h| (offset, frame.seq.get(), h));
            }
        });
        found
    }

    /// Puts a tombstone for everything from the next sequence to `last`.
    fn bury(&mut self, last: u64, bridge: Hash32, out: &mut Vec<u8>) {
        let Some(seq) = Seq::new(last) else { return };
        let lost = Tombstone { first: self.chain.next, last, bridge };
        let record = Record { kind: Kind::Error, audit_id: self.ids.next(self.now), trace: None, body: lost.body() };
        let place = Place { seq, ts: self.now, safe: self.chain.last() };
        frame::encode(out, &self.chain.prev, &place, &record);
        self.summary.lost.push((lost.first, last));
        self.chain.next = last.saturating_add(1);
        self.chain.prev = bridge;
    }
}
