//! What was ever handed to the disk as a frame, and the simulator's own reading of a log. Nothing here uses the code under
//! test: frames are read by their documented form (SPEC 4).

use machines::disk::File;
use machines::ids::Seq;

use crate::disk::Disk;

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
    /// The entry that had the sequence before.
    older: u32,
}

/// What a frame says to those who read only what they need.
#[derive(Clone, Copy, Debug)]
pub struct Parsed {
    /// Its sequence.
    pub seq: u64,
    /// The first 16 digits of its hash.
    pub h: u64,
    /// Its kind.
    pub kind: Kind,
    /// The call that its `agent` names, or `NONE`.
    pub call: u32,
    /// Its id.
    pub audit: u128,
    /// Whether it is the outcome of a tool that ran out of time.
    pub timeout: bool,
}

const TAIL: usize = 73;

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Reads 36 characters of a UUID.
#[must_use]
pub fn uuid(text: &[u8]) -> Option<u128> {
    let mut n = 0u128;
    for digit in text.iter().filter(|c| **c != b'-') {
        n = n << 4 | u128::from(hex(*digit)?);
    }
    Some(n)
}

fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let len = text.iter().position(|b| !b.is_ascii_digit())?;
    let (digits, rest) = text.split_at_checked(len)?;
    let n = digits.iter().try_fold(0u64, |n, d| n.checked_mul(10)?.checked_add(u64::from(d - b'0')))?;
    Some((n, rest))
}

/// The 64 bits of the hash at a frame's end.
fn tail_hash(frame: &[u8]) -> Option<u64> {
    let tail = frame.get(frame.len().checked_sub(TAIL)?..)?;
    let digits = tail.strip_prefix(b",\"h\":\"")?.get(..16)?;
    digits.iter().try_fold(0u64, |n, d| Some(n << 4 | u64::from(hex(*d)?)))
}

/// The whole hash at a frame's end.
fn whole_hash(frame: &[u8]) -> Option<[u8; 32]> {
    let tail = frame.get(frame.len().checked_sub(TAIL)?..)?;
    hash32(tail.strip_prefix(b",\"h\":\"")?.get(..64)?)
}

fn hash32(digits: &[u8]) -> Option<[u8; 32]> {
    let mut bytes = [0u8; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = hex(pair[0])? << 4 | hex(pair[1])?;
    }
    Some(bytes)
}

/// The frame at the start of `bytes` without its length, and how many bytes both take. `None` when it is not whole.
#[must_use]
pub fn next_frame(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
    Some((rest.get(..len)?, len + 4))
}

/// Reads one frame.
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Parsed> {
    let h = tail_hash(frame)?;
    let (seq, rest) = number(frame.strip_prefix(b"{\"seq\":")?)?;
    let rest = rest.strip_prefix(b",\"ts\":\"")?.get(27..)?.strip_prefix(b"\",\"kind\":\"")?;
    let word = rest.iter().position(|b| *b == b'"')?;
    let (kind, rest) = rest.split_at_checked(word)?;
    let rest = rest.strip_prefix(b"\",\"audit_id\":\"")?;
    let audit = uuid(rest.get(..36)?)?;
    // Trace and span are hex digits or nothing, so that the body starts at the first brace.
    let body_at = rest.iter().take(220).position(|b| *b == b'{')?;
    let body = rest.get(body_at..rest.len().checked_sub(TAIL)?)?;
    let mut timeout = false;
    let kind = match kind {
        b"decision" if body.starts_with(b"{\"decision\":\"allow\"") => Kind::Allow,
        b"decision" => Kind::Deny,
        b"action" => Kind::Outcome,
        b"error" if body.starts_with(b"{\"code\":\"outcome_unknown\"") => Kind::Unknown,
        b"error" if body.starts_with(b"{\"code\":\"tool_") || body.starts_with(b"{\"code\":\"invalid_params") => {
            timeout = body.starts_with(b"{\"code\":\"tool_timeout");
            Kind::Outcome
        }
        _ => Kind::Other,
    };
    let call = match kind {
        Kind::Allow | Kind::Deny => agent(body).unwrap_or(NONE),
        Kind::Outcome | Kind::Unknown | Kind::Other => NONE,
    };
    Some(Parsed { seq, h, kind, call, audit, timeout })
}

fn agent(body: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"\"agent\":\"c";
    let from = body.len().saturating_sub(64);
    let end = body.get(from..)?;
    let at = end.windows(NAME.len()).rposition(|w| w == NAME)?;
    let (n, _) = number(end.get(at + NAME.len()..)?)?;
    u32::try_from(n).ok()
}

/// What `telemetry.base` says: the first sequence and the chain before it.
#[must_use]
pub fn base(bytes: &[u8]) -> Option<(u64, [u8; 32])> {
    let field = |name: &[u8]| {
        let at = bytes.windows(name.len()).position(|w| w == name)?;
        bytes.get(at + name.len()..)
    };
    let (first, _) = number(field(b"\"first_seq\":")?)?;
    Some((first, hash32(field(b"\"prev_h\":\"")?.get(..64)?)?))
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

/// All frames that were ever written, by sequence.
#[derive(Debug, Default)]
pub struct Ledger {
    /// In the order in which they were handed in.
    pub entries: Vec<Entry>,
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
            rest = rest.get(len..).unwrap_or(&[]);
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
                older,
            };
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

    fn find(&self, seq: u64, h: u64) -> Option<u32> {
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
        let mut files: Vec<(u64, File)> = disk
            .names()
            .filter_map(|file| match file {
                File::Sealed(seq) => Some((seq.get(), file)),
                File::Live => Some((u64::MAX, file)),
                File::SafeSeq
                | File::Base
                | File::Positions
                | File::Activation
                | File::History
                | File::Bundle(_)
                | File::Temp(_) => None,
            })
            .collect();
        files.sort_unstable();
        let mut next = first;
        for (seq, file) in files {
            if seq < first {
                continue;
            }
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
                if verify {
                    let mut hasher = blake3::Hasher::new();
                    hasher.update(&prev);
                    hasher.update(frame.get(..frame.len() - TAIL).unwrap_or(&[]));
                    let hash = *hasher.finalize().as_bytes();
                    if whole_hash(frame) != Some(hash) {
                        return Err(Wrong(format!(
                            "{}: sequence {seen} breaks the chain of an opened log",
                            file.name()
                        )));
                    }
                    prev = hash;
                }
                let Some(index) = self.find(seen, h) else {
                    return Err(Wrong(format!("{}: sequence {seen} holds a frame that nobody wrote", file.name())));
                };
                if let Some(entry) = self.entries.get_mut(index as usize) {
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
