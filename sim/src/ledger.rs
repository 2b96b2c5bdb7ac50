//! What was ever handed to the disk as a frame, and the simulator's own reading of a log. Nothing here uses the code under
//! test: frames are read by their documented form (SPEC 4).

use machines::disk::File;
use machines::ids::Seq;

use crate::disk::Disk;

mod frame;
pub(crate) use frame::number;
pub use frame::{DECISION, ERROR, LIFECYCLE, Parsed, base, next_frame, parse, place, uuid};
use frame::{follows, tail_hash, whole_hash};

/// No entry.
pub const NONE: u32 = u32::MAX;

/// Kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A decision that allows.
    Allow,
    /// A decision that denies.
    Deny,
    /// An outcome: an action, or an error of a call.
    Outcome,
    /// The error `outcome_unknown`.
    Unknown,
    /// Anything else.
    Other,
}

/// A frame that was once handed to the disk.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its sequence.
    pub seq: u64,
    /// The first 16 digits of its hash.
    pub h: u64,
    /// Its kind.
    pub kind: Kind,
    /// Its call, or `NONE`.
    pub call: u32,
    /// Its id.
    pub audit: u128,
    /// The file that it was written to, or `NONE`.
    pub inode: u32,
    /// Where it starts.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// The scan that found it last.
    pub mark: u32,
    /// The class that it is delivered in.
    pub class: u8,
    /// The entry that had the sequence before.
    older: u32,
    /// Where its bytes are kept.
    text: usize,
    /// The hash behind which it was found to verify.
    follows: Option<[u8; 32]>,
}

/// What is wrong with a log that was opened.
#[derive(Clone, Debug)]
pub struct Wrong(pub String);

/// A log as it was found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// The first sequence that is kept.
    pub first: u64,
    /// The last one; `first - 1` when there is none.
    pub last: u64,
}

/// The files that hold frames from `first` on, oldest first, and where each starts; the live one comes last.
fn frame_files(disk: &Disk, first: u64) -> Vec<(u64, File)> {
    let place = |file| {
        if let File::Sealed(seq) = file {
            return Some((seq.get(), file));
        }
        (file == File::Live).then_some((u64::MAX, file))
    };
    let mut files: Vec<(u64, File)> = disk.names().filter_map(place).filter(|(seq, _)| *seq >= first).collect();
    files.sort_unstable();
    files
}

/// How much of the log on a disk is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The last frame that verifies from `telemetry.base` on; 0 when none does.
    pub last: u64,
    /// Nothing else is there.
    pub whole: bool,
}

/// Reads what is on the disk now, as far as it verifies. Nothing need be open.
#[must_use]
pub fn look(disk: &Disk) -> Seen {
    let Some((first, mut prev)) = disk.read(File::Base).and_then(base) else { return Seen { last: 0, whole: false } };
    let mut next = first;
    let mut whole = true;
    for (seq, file) in frame_files(disk, first) {
        whole &= seq == u64::MAX || seq == next;
        let mut rest = disk.read(file).unwrap_or(&[]);
        while whole && !rest.is_empty() {
            let good = next_frame(rest).and_then(|(frame, len)| {
                let seen = number(frame.strip_prefix(b"{\"seq\":")?)?.0;
                (seen == next && follows(frame, &prev)).then_some((whole_hash(frame)?, len))
            });
            match good {
                Some((hash, len)) => {
                    prev = hash;
                    next += 1;
                    rest = rest.get(len..).unwrap_or(&[]);
                }
                None => whole = false,
            }
        }
    }
    Seen { last: next.saturating_sub(1), whole }
}

/// All frames that were ever written, by sequence.
#[derive(Debug, Default)]
pub struct Ledger {
    /// In the order in which they were handed in.
    pub entries: Vec<Entry>,
    /// The bytes of all of them.
    text: Vec<u8>,
    by_seq: Vec<u32>,
    unplaced: usize,
    /// Entries from here on were handed in by the life that runs.
    life: usize,
    /// Calls that are allowed and have no outcome yet.
    open: Vec<(u128, u32)>,
    scans: u32,
}

impl Ledger {
    /// Forgets everything, keeps the buffers.
    pub fn reset(&mut self) {
        self.entries.clear();
        self.text.clear();
        self.by_seq.clear();
        self.unplaced = 0;
        self.life = 0;
        self.open.clear();
        self.scans = 0;
    }

    /// The entry that has the sequence now.
    #[must_use]
    pub fn at(&self, seq: u64) -> Option<&Entry> {
        let index = self.by_seq.get(usize::try_from(seq).ok()?).copied()?;
        self.entries.get(index as usize)
    }

    /// The entry of this number.
    #[must_use]
    pub fn entry(&self, index: u32) -> Option<&Entry> {
        self.entries.get(index as usize)
    }

    /// The number of the latest scan.
    #[must_use]
    pub const fn scan(&self) -> u32 {
        self.scans
    }

    /// Frames are handed to the disk, to be written from `at`. Calls `each` with every frame's number and what it says.
    pub fn submit(&mut self, bytes: &[u8], at: u64, mut each: impl FnMut(u32, &mut Entry, &Parsed)) -> usize {
        let mut rest = bytes;
        let mut start = usize::try_from(at).unwrap_or(usize::MAX);
        let mut count = 0;
        while let Some((frame, len)) = next_frame(rest) {
            let (written, behind) = rest.split_at(len);
            rest = behind;
            let Some(parsed) = parse(frame) else { continue };
            let call = match parsed.kind {
                Kind::Outcome | Kind::Unknown => self.close(parsed.audit),
                Kind::Allow | Kind::Deny | Kind::Other => parsed.call,
            };
            if parsed.kind == Kind::Allow {
                self.open.push((parsed.audit, call));
            }
            let index = u32::try_from(self.entries.len()).unwrap_or(NONE);
            let slot = usize::try_from(parsed.seq).unwrap_or(0);
            if self.by_seq.len() <= slot {
                self.by_seq.resize(slot + 1, NONE);
            }
            let older = std::mem::replace(&mut self.by_seq[slot], index);
            let mut entry = Entry {
                seq: parsed.seq,
                h: parsed.h,
                kind: parsed.kind,
                call,
                audit: parsed.audit,
                inode: NONE,
                start,
                end: start + len,
                mark: 0,
                class: parsed.class,
                older,
                text: self.text.len(),
                follows: None,
            };
            self.text.extend_from_slice(written);
            each(index, &mut entry, &parsed);
            self.entries.push(entry);
            start += len;
            count += 1;
        }
        count
    }

    /// The call whose allow has this id; its outcome is here now.
    fn close(&mut self, audit: u128) -> u32 {
        match self.open.iter().position(|entry| entry.0 == audit) {
            Some(at) => self.open.remove(at).1,
            None => NONE,
        }
    }

    /// What was handed in last was written to the file `inode` from `at` on.
    pub fn place(&mut self, inode: u32, at: u64, len: usize) {
        let from = usize::try_from(at).unwrap_or(usize::MAX);
        while let Some(entry) = self.entries.get_mut(self.unplaced) {
            if entry.start < from || entry.start >= from + len {
                break;
            }
            entry.inode = inode;
            self.unplaced += 1;
        }
    }

    /// The process is gone: what was handed in and not written will never be.
    pub fn forget_unplaced(&mut self) {
        self.unplaced = self.entries.len();
        self.life = self.entries.len();
    }

    /// The last frame of the log, up to `last`, that an earlier life of the process wrote.
    #[must_use]
    pub fn last_of_before(&self, last: u64) -> Option<u32> {
        let all = self.by_seq.get(..=usize::try_from(last).ok()?)?;
        all.iter().rev().copied().find(|index| *index != NONE && (*index as usize) < self.life)
    }

    /// The first sequence in the log of which the file `inode` holds bytes behind `at`.
    #[must_use]
    pub fn first_behind(&self, inode: u32, at: usize) -> Option<u64> {
        let there = self.by_seq.iter().filter_map(|index| self.entry(*index));
        there.filter(|entry| entry.inode == inode && entry.end > at).map(|entry| entry.seq).min()
    }

    /// The number of a frame that was once written, also of one that is cut by now.
    #[must_use]
    pub fn index_of(&self, seq: u64, h: u64) -> u32 {
        let at = self.entries.iter().position(|entry| entry.seq == seq && entry.h == h);
        at.and_then(|at| u32::try_from(at).ok()).unwrap_or(NONE)
    }

    /// The bytes of a frame as they were handed in, with their length.
    pub(crate) fn written(&self, entry: &Entry) -> Option<&[u8]> {
        self.text.get(entry.text..entry.text + (entry.end - entry.start))
    }

    /// The highest sequence that was ever handed in: what a damaged safe-point says beyond it names nothing.
    pub(crate) fn highest(&self) -> u64 {
        (self.by_seq.len() as u64).saturating_sub(1)
    }

    /// The number of the frame that has the sequence now.
    pub(crate) fn find_current(&self, seq: u64) -> Option<u32> {
        self.by_seq.get(usize::try_from(seq).ok()?).copied().filter(|index| *index != NONE)
    }

    /// The number of a frame that was once written under this sequence with this hash.
    pub(crate) fn find(&self, seq: u64, h: u64) -> Option<u32> {
        let mut index = self.by_seq.get(usize::try_from(seq).ok()?).copied()?;
        while let Some(entry) = self.entries.get(index as usize) {
            if entry.h == h {
                return Some(index);
            }
            index = entry.older;
        }
        None
    }

    /// Reads the log that a recovery has just opened, marks what is in it, and forgets numbers beyond its end. With
    /// `verify`, the chain is computed anew.
    ///
    /// # Errors
    /// What cannot be: a gap, a broken chain, bytes that are no frame, a frame that nobody wrote.
    pub fn scan_log(&mut self, disk: &Disk, verify: bool) -> Result<Found, Wrong> {
        self.scans += 1;
        let Some((first, mut prev)) = disk.read(File::Base).and_then(base) else {
            return Err(Wrong("telemetry.base is missing or unreadable in an opened log".into()));
        };
        let mut next = first;
        for (seq, file) in frame_files(disk, first) {
            if seq != u64::MAX && seq != next {
                return Err(Wrong(format!("sealed file {} where sequence {next} belongs", file.name())));
            }
            let Some(inode) = disk.number(file) else { continue };
            let bytes = disk.read_number(inode);
            let mut at = 0usize;
            while at < bytes.len() {
                let Some((frame, len)) = bytes.get(at..).and_then(next_frame) else {
                    return Err(Wrong(format!("{}: half a frame at {at} of an opened log", file.name())));
                };
                let seen = number(frame.strip_prefix(b"{\"seq\":").unwrap_or(&[])).map(|n| n.0);
                let (Some(seen), Some(h)) = (seen, tail_hash(frame)) else {
                    return Err(Wrong(format!("{}: no frame at {at} of an opened log", file.name())));
                };
                if seen != next {
                    return Err(Wrong(format!("{}: sequence {seen} where {next} belongs", file.name())));
                }
                let same = |index: &u32| {
                    self.entry(*index).is_some_and(|entry| self.written(entry) == bytes.get(at..at + len))
                };
                let Some(index) = self.find(seen, h).filter(same) else {
                    return Err(Wrong(format!("{}: sequence {seen} holds a frame that nobody wrote", file.name())));
                };
                if let Some(entry) = self.entries.get_mut(index as usize) {
                    // The same bytes behind the same hash need not be hashed twice.
                    if verify && entry.follows != Some(prev) && !follows(frame, &prev) {
                        return Err(Wrong(format!(
                            "{}: sequence {seen} breaks the chain of an opened log",
                            file.name()
                        )));
                    }
                    if verify {
                        entry.follows = Some(prev);
                        prev = whole_hash(frame).unwrap_or(prev);
                    }
                    entry.inode = inode;
                    entry.start = at;
                    entry.end = at + len;
                    entry.mark = self.scans;
                }
                if let Some(slot) = usize::try_from(seen).ok().and_then(|s| self.by_seq.get_mut(s)) {
                    *slot = index;
                }
                at += len;
                next += 1;
            }
        }
        // What lies behind the end was cut: its numbers will be given anew.
        if let Ok(end) = usize::try_from(next) {
            let unplaced = u32::try_from(self.unplaced).unwrap_or(NONE);
            for slot in self.by_seq.iter_mut().skip(end).filter(|slot| **slot < unplaced) {
                *slot = NONE;
            }
        }
        self.reopen();
        Ok(Found { first, last: next - 1 })
    }

    /// Finds out anew which allows in the log have no outcome.
    fn reopen(&mut self) {
        self.open.clear();
        let unplaced = self.unplaced;
        let there = self.entries.iter().enumerate().filter(|(at, entry)| entry.mark == self.scans || *at >= unplaced);
        for (_, entry) in there {
            match entry.kind {
                Kind::Allow => self.open.push((entry.audit, entry.call)),
                Kind::Outcome | Kind::Unknown => self.open.retain(|open| open.0 != entry.audit),
                Kind::Deny | Kind::Other => {}
            }
        }
    }

    /// How many allows in the log have no outcome.
    #[must_use]
    pub fn without_outcome(&self) -> usize {
        self.open.len()
    }

    /// Whether the frame would survive any power loss now.
    #[must_use]
    pub fn is_firm(&self, disk: &Disk, index: u32) -> bool {
        self.entry(index).is_some_and(|entry| entry.inode != NONE && disk.firm(entry.inode) >= entry.end)
    }

    /// A name for a sealed file, for messages.
    #[must_use]
    pub fn sealed_name(first: u64) -> String {
        Seq::new(first).map_or_else(String::new, |seq| File::Sealed(seq).name())
    }
}
