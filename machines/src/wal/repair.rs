//! The operator's way out of a log that is refused (SPEC 4): every frame that verifies stays, and each lost range
//! is replaced by one tombstone, so that the log opens again and says what it lost.
//!
//! Only the planning is here, file by file, oldest first; the caller reads, quarantines and writes.

use alloc::string::String;
use alloc::vec::Vec;

use crate::disk::File;
use crate::ids::{Hash32, IdSource, Seq, Uuid};
use crate::machine::Entropy;
use crate::time::Wall;

use super::files::{Base, CLASSES, Positions};
use super::frame::{self, Frame, Kind, PREFIX, Place, Record, split_tail};
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

impl Summary {
    /// The cursors behind the repair of a log, given those before it, if they are the log's: one repair more, and low
    /// enough that the tombstones are delivered. A tombstone that stands for what another class had waiting may lie below
    /// the cursor of errors, whose own records were further on.
    #[must_use]
    pub fn cursors(&self, base: &Base, before: Option<&Positions>) -> Positions {
        let none = || Positions {
            log_id: base.log_id,
            cursors: CLASSES.iter().map(|class| ((*class).into(), base.first_seq.get().saturating_sub(1))).collect(),
            repairs: 0,
        };
        let mut after = before.filter(|before| before.log_id == base.log_id).cloned().unwrap_or_else(none);
        after.repairs = after.repairs.saturating_add(1);
        if let Some(cursor) = after.cursors.get_mut("error")
            && let Some(first) = self.lost.iter().filter(|(_, last)| *last <= *cursor).map(|(first, _)| *first).min()
        {
            *cursor = first.saturating_sub(1);
        }
        after
    }
}

/// How far a safe-point or a cursor may lie above the last frame that is there and still be believed; a damaged
/// one would otherwise use up the sequence numbers.
const BELIEVABLE: u64 = 1 << 32;

/// The plan of a repair, made while the files go by.
#[derive(Debug)]
pub struct Repair {
    base: Option<Base>,
    base_is_new: bool,
    node_id: String,
    /// The log that the cursors belong to.
    cursors_of: Option<Uuid>,
    floors: [u64; 2],
    chain: Chain,
    /// The stored hash at the end of the file before.
    carried: Option<Hash32>,
    /// The first sequence that was lost at the end of a sealed file, if no frame stood behind it yet.
    cut_in_sealed: Option<u64>,
    ids: IdSource,
    now: Wall,
    summary: Summary,
}

impl Repair {
    /// Begins a repair with the small files as far as they could be read. Without a usable base a new one is made
    /// for the first frame that is there; that frame cannot be verified then and counts as lost.
    #[must_use]
    pub fn new(
        base: Option<Base>,
        node_id: &str,
        safe: Option<u64>,
        positions: Option<&Positions>,
        ids: IdSource,
        now: Wall,
    ) -> Self {
        let mut base_is_new = base.is_none();
        let base = base.map(|base| {
            if base.first_seq > Seq::FIRST || base.prev_h == frame::genesis(&base.log_id) {
                return base;
            }
            // One of the two is damaged. The cursors may know the log's id.
            base_is_new = true;
            let known = positions.map(|p| p.log_id).filter(|id| frame::genesis(id) == base.prev_h);
            let log_id = known.unwrap_or(base.log_id);
            Base { log_id, prev_h: frame::genesis(&log_id), ..base }
        });
        let ours = positions.filter(|p| base.as_ref().is_none_or(|base| base.log_id == p.log_id));
        let floors = [safe.unwrap_or(0), ours.map_or(0, Positions::highest)];
        let (first, prev) = base.as_ref().map_or((Seq::FIRST, Hash32([0; 32])), |b| (b.first_seq, b.prev_h));
        Self {
            chain: Chain::new(first, prev),
            base,
            base_is_new,
            node_id: node_id.into(),
            cursors_of: positions.map(|p| p.log_id),
            floors,
            carried: None,
            cut_in_sealed: None,
            ids,
            now,
            summary: Summary::default(),
        }
    }

    /// Takes the next file, oldest first, and says what becomes of it. The live one comes last, with no bytes if it
    /// is missing.
    pub fn file(&mut self, file: File, bytes: &[u8]) -> Verdict {
        let last = file == File::Live;
        self.find_base(file, bytes);
        let start = Seq::new(self.chain.next);
        let mut out: Vec<u8> = Vec::new();
        let mut at = 0usize;
        loop {
            let rest = bytes.get(at..).unwrap_or(&[]);
            let (good, bad) = self.chain.read(rest, true, &mut |_, _| self.summary.kept += 1);
            out.extend_from_slice(rest.get(..good).unwrap_or(&[]));
            at += good;
            if good > 0 {
                self.cut_in_sealed = None;
            }
            if bad.is_none() {
                break;
            }
            let rest = bytes.get(at..).unwrap_or(&[]);
            match self.next_good(rest, at == 0) {
                Some((offset, seq, bridge)) => {
                    self.bury(seq.saturating_sub(1), bridge, &mut out);
                    self.cut_in_sealed = None;
                    at += offset;
                }
                None => {
                    self.summary.cut += u64::try_from(rest.len()).unwrap_or(u64::MAX);
                    if !last {
                        // What is sealed was durable: at least one frame is lost, even if nothing else says so.
                        self.cut_in_sealed = Some(self.chain.next);
                    }
                    break;
                }
            }
        }
        self.carried = split_tail(bytes).map(|(_, h)| h);
        if last {
            self.bury_the_end(&mut out);
        }
        let name = match (file, start) {
            (File::Sealed(_), Some(first)) => File::Sealed(first),
            (other, _) => other,
        };
        if !last && out.is_empty() {
            Verdict::Drop
        } else if name == file && out == bytes {
            Verdict::Keep
        } else {
            Verdict::Replace(name, out)
        }
    }

    /// The base, if it has to be written, and what was done.
    #[must_use]
    pub fn finish(mut self) -> (Base, bool, Summary) {
        self.summary.last = self.chain.last();
        let base = match self.base.take() {
            Some(base) => base,
            None => {
                let log_id = self.cursors_of.unwrap_or_else(|| self.ids.next(self.now));
                Base { log_id, node_id: self.node_id, first_seq: Seq::FIRST, prev_h: frame::genesis(&log_id) }
            }
        };
        (base, self.base_is_new, self.summary)
    }

    /// Without a base, makes one from the first frame that is there. The log's id is derived from that frame, so that
    /// a repair that was cut short is taken up again under the same id.
    fn find_base(&mut self, file: File, bytes: &[u8]) {
        if self.base.is_some() || bytes.is_empty() {
            return;
        }
        let length = bytes.first_chunk::<PREFIX>().map(|n| u32::from_be_bytes(*n));
        let whole = length.and_then(|n| bytes.get(PREFIX..)?.get(..usize::try_from(n).ok()?));
        let frame = whole.and_then(Frame::parse);
        let lost = frame.as_ref().and_then(|frame| Tombstone::of(frame.body));
        let named = if let File::Sealed(first) = file { Some(first) } else { None };
        let read = lost.map_or_else(|| frame.as_ref().map(|f| f.seq), |lost| Seq::new(lost.first));
        let first_seq = named.or(read).unwrap_or(Seq::FIRST);
        let seed = lost.map(|lost| lost.bridge).or(frame.as_ref().map(|f| f.h)).unwrap_or(Hash32([0; 32]));
        let log_id = self.cursors_of.unwrap_or_else(|| IdSource::new(Entropy(seed.0)).next(Wall::default()));
        let base = Base { log_id, node_id: self.node_id.clone(), first_seq, prev_h: frame::genesis(&log_id) };
        self.chain = Chain::new(base.first_seq, base.prev_h);
        self.base = Some(base);
    }

    /// Everything up to the floor was durable and has to be accounted for.
    fn bury_the_end(&mut self, out: &mut Vec<u8>) {
        let believable = self.chain.last().saturating_add(BELIEVABLE).min(1 << 53);
        let floor = self.floors.into_iter().filter(|floor| *floor <= believable).max().unwrap_or(0);
        let floor = floor.max(self.cut_in_sealed.unwrap_or(0));
        if floor >= self.chain.next {
            self.bury(floor, self.chain.prev, out);
        }
    }

    /// The first frame behind the damage that verifies against the hash before it and leaves a gap to fill: its
    /// offset, the first sequence that it accounts for, and that hash.
    fn next_good(&self, rest: &[u8], at_start: bool) -> Option<(usize, u64, Hash32)> {
        let mut found = None;
        let mut take = |frame: &Frame<'_>, offset: usize, before: Hash32| {
            let seq = Tombstone::of(frame.body).map_or(frame.seq.get(), |lost| lost.first);
            if found.is_none() && seq > self.chain.next {
                found = Some((offset, seq, before));
            }
        };
        if let (true, Some(before)) = (at_start, self.carried) {
            // The first frame of a file stands behind the last one of the file before.
            let length = rest.first_chunk::<PREFIX>().map(|n| u32::from_be_bytes(*n));
            let whole = length.and_then(|n| rest.get(PREFIX..)?.get(..usize::try_from(n).ok()?));
            if let Some(frame) = whole.and_then(Frame::parse).filter(|frame| frame.follows(&before)) {
                take(&frame, 0, before);
            }
        }
        each_good_behind(rest, &mut take);
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
