//! Recovery's eyes: reads a log folder from front to back and says what it found. It changes nothing, so that
//! `wal verify` and the opening of the log are one piece of code; what is done about the finding is the log's
//! business (`Wal`).

use alloc::vec;
use alloc::vec::Vec;

use crate::disk::{Completion, Done, FaultKind, File, Lane, Op, Tag};
use crate::ids::Seq;
use crate::machine::{Deadline, Event, Machine, Outbox};
use crate::time::{Now, Wall};

use super::files::{Base, Positions, parse_safe_seq};
use super::frame::genesis;
use super::scan::{Bad, Chain, OVERLAP, seq_at, shows_durable};
use super::verdict::{Cause, Facts, Segment, Verdict, judge};

/// Bytes asked for in one read of frames: they stay in the processor's cache between reading and hashing.
const CHUNK: u32 = 120 * 1024;

/// Bytes asked for where a frame is longer than that, and in a search.
const LARGE: u32 = 1024 * 1024;

/// Bytes asked for of the small files; more than any of them has.
const SMALL: u32 = 4096;

/// A sealed file that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedFile {
    /// Its first sequence.
    pub first: Seq,
    /// Its last sequence.
    pub last: u64,
    /// The chain behind its last frame.
    pub h: crate::ids::Hash32,
    /// Its length in bytes.
    pub bytes: u64,
    /// When its last frame was written.
    pub ts: Wall,
}

/// The live file that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveFile {
    /// The sequence of its first frame, or of the next one to be written.
    pub first: Seq,
    /// Its length in bytes.
    pub bytes: u64,
    /// How many of them are good frames.
    pub good: u64,
    /// Where the first frame above the stored safe-point begins; `good` when there is none.
    pub unconfirmed: u64,
}

/// Bad bytes behind the last good frame of the live file that nobody can have been answered from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// Where they begin.
    pub offset: u64,
    /// How many there are.
    pub bytes: u64,
    /// What is wrong with the first of them.
    pub bad: Bad,
}

/// Why the log must not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The cause.
    pub cause: Cause,
    /// The sequence at which it shows.
    pub seq: u64,
    /// The file in which it shows.
    pub file: File,
    /// The offset in that file.
    pub offset: u64,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The log's base; `None` in a folder without one.
    pub base: Option<Base>,
    /// The value of `telemetry.safe_seq`; `None` when it is missing or not 8 bytes.
    pub safe: Option<u64>,
    /// The cursors, if any.
    pub positions: Option<Positions>,
    /// The retained sealed files, oldest first.
    pub sealed: Vec<SealedFile>,
    /// Sealed files that lie wholly below the first retained sequence.
    pub stale: Vec<File>,
    /// The live file; `None` when it is missing.
    pub live: Option<LiveFile>,
    /// The chain behind the last good frame; `None` when no frame was read.
    pub chain: Option<Chain>,
    /// Bytes to cut, if any.
    pub torn: Option<TornTail>,
    /// Why the log must not be opened, if so.
    pub refusal: Option<Refusal>,
}

impl Finding {
    /// The last good sequence; 0 when there is none.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.chain.as_ref().map_or(0, Chain::last)
    }
}

/// What recovery tells.
#[derive(Clone, Debug)]
pub enum Output {
    /// The log was read.
    Found(alloc::boxed::Box<Finding>),
    /// A file could not be read.
    Unreadable(File, FaultKind),
}

/// Nothing can be asked of it.
#[derive(Clone, Copy, Debug)]
pub enum Input {}

/// The machine. It asks for `List` and `Read` only.
#[derive(Debug)]
pub struct Recovery {
    stage: Stage,
    tags: u32,
    found: Finding,
    listing: Vec<(File, u64)>,
}

#[derive(Debug)]
enum Stage {
    Idle,
    Listing,
    ReadingBase,
    ReadingSafe,
    ReadingPositions,
    Scanning(Scanning),
    Searching(Searching),
    Done,
}

/// Reading frames: which file, from where.
#[derive(Debug)]
struct Scanning {
    chain: Chain,
    floor: u64,
    /// Index into the listing of frame files, oldest first.
    files: Vec<(File, u64)>,
    index: usize,
    at: u64,
    /// The first sequence of the file that is being read.
    first: u64,
    /// Where in that file the first frame above the stored safe-point begins.
    unconfirmed: Option<u64>,
    /// How many bytes the last read asked for.
    asked: u32,
}

/// Looking for good frames behind a bad one in the live file.
#[derive(Debug)]
struct Searching {
    scanning: Scanning,
    bad: Bad,
    at: u64,
    shown: bool,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            stage: Stage::Idle,
            tags: 0,
            listing: Vec::new(),
            found: Finding {
                base: None,
                safe: None,
                positions: None,
                sealed: Vec::new(),
                stale: Vec::new(),
                live: None,
                chain: None,
                torn: None,
                refusal: None,
            },
        }
    }
}

impl Machine for Recovery {
    const NAME: &'static str = "wal-recovery";
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, _now: Now, event: Event<Input>, out: &mut Outbox<'_, Output>) {
        match event {
            Event::Start(_) => {
                self.stage = Stage::Listing;
                self.ask(Op::List, out);
            }
            Event::Disk(_, completion) => self.on_disk(completion, out),
            Event::Due | Event::Tree(..) | Event::Net(..) | Event::Work(..) => {}
            Event::Input(never) => match never {},
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        None
    }

    fn check(&self) {}
}

impl Recovery {
    fn ask(&mut self, op: Op, out: &mut Outbox<'_, Output>) {
        self.tags += 1;
        out.disk(Tag { lane: Lane::Log, id: self.tags }, vec![op]);
    }

    fn on_disk(&mut self, completion: Completion, out: &mut Outbox<'_, Output>) {
        let stage = core::mem::replace(&mut self.stage, Stage::Done);
        let file = stage.file();
        let bytes = match completion {
            Ok(Done::Bytes(bytes)) => bytes,
            Ok(Done::Listing(listing)) => {
                self.listing = listing;
                self.listing.sort_unstable();
                return self.after_listing(out);
            }
            Ok(Done::Nothing | Done::Tail { .. }) => panic!("wal recovery: a read completed without bytes"),
            Err(fault) => return out.output(Output::Unreadable(file, fault.kind)),
        };
        match stage {
            Stage::ReadingBase => {
                self.found.base = Base::parse(&bytes);
                self.read_safe(out);
            }
            Stage::ReadingSafe => {
                self.found.safe = parse_safe_seq(&bytes);
                self.read_positions(out);
            }
            Stage::ReadingPositions => {
                self.found.positions = Positions::parse(&bytes);
                self.begin(out);
            }
            Stage::Scanning(scanning) => self.on_frames(scanning, &bytes, out),
            Stage::Searching(searching) => self.on_search(searching, &bytes, out),
            Stage::Idle | Stage::Listing | Stage::Done => panic!("wal recovery: an unexpected completion"),
        }
    }

    fn len_of(&self, file: File) -> Option<u64> {
        self.listing.iter().find(|(f, _)| *f == file).map(|(_, len)| *len)
    }

    fn after_listing(&mut self, out: &mut Outbox<'_, Output>) {
        if self.len_of(File::Base).is_some() {
            self.stage = Stage::ReadingBase;
            self.ask(Op::Read { file: File::Base, at: 0, len: SMALL }, out);
        } else {
            self.read_safe(out);
        }
    }

    fn read_safe(&mut self, out: &mut Outbox<'_, Output>) {
        if self.len_of(File::SafeSeq).is_some() {
            self.stage = Stage::ReadingSafe;
            self.ask(Op::Read { file: File::SafeSeq, at: 0, len: SMALL }, out);
        } else {
            self.read_positions(out);
        }
    }

    fn read_positions(&mut self, out: &mut Outbox<'_, Output>) {
        if self.len_of(File::Positions).is_some() {
            self.stage = Stage::ReadingPositions;
            self.ask(Op::Read { file: File::Positions, at: 0, len: SMALL }, out);
        } else {
            self.begin(out);
        }
    }

    /// All small files are read: settle what can be settled without frames, then read the frames.
    fn begin(&mut self, out: &mut Outbox<'_, Output>) {
        let sealed: Vec<(Seq, u64)> =
            self.listing.iter().filter_map(|(file, len)| Some((file.sealed_first()?, *len))).collect();
        let live = self.len_of(File::Live);
        let frames = !sealed.is_empty() || live.is_some_and(|len| len > 0);
        let Some(base) = self.found.base.clone() else {
            let used = frames || self.len_of(File::Base).is_some() || self.found.safe.is_some_and(|safe| safe > 0);
            if used || self.len_of(File::Positions).is_some() {
                self.refuse(Cause::BaseMissing, 0, File::Base, 0);
            }
            return self.finish(out);
        };
        if base.first_seq == Seq::FIRST && base.prev_h != genesis(&base.log_id) {
            // A damaged log id would make every cursor foreign. Later bases are checked by the cursors' own log id.
            self.refuse(Cause::BaseMissing, 1, File::Base, 0);
            return self.finish(out);
        }
        if self.len_of(File::Positions).is_some()
            && self.found.positions.as_ref().is_none_or(|p| p.log_id != base.log_id)
        {
            self.refuse(Cause::PositionsForeign, 0, File::Positions, 0);
            return self.finish(out);
        }
        let cursor = self.found.positions.as_ref().map_or(0, Positions::highest);
        let Some(safe) = self.found.safe else {
            if frames || base.first_seq > Seq::FIRST || cursor > 0 {
                self.refuse(Cause::SafeSeqMissing, base.first_seq.get(), File::SafeSeq, 0);
            }
            return self.finish(out);
        };
        let mut files = Vec::new();
        for (i, (first, len)) in sealed.iter().enumerate() {
            // A removal that was cut short leaves files below the base behind; the base moves in whole files.
            let next = sealed.get(i + 1).map(|(next, _)| *next);
            if *first < base.first_seq && next.is_none_or(|next| next <= base.first_seq) {
                self.found.stale.push(File::Sealed(*first));
            } else {
                files.push((File::Sealed(*first), *len));
            }
        }
        if let Some(len) = live {
            files.push((File::Live, len));
        }
        let chain = Chain::new(base.first_seq, base.prev_h);
        let first = chain.next;
        let floor = safe.max(cursor);
        self.next_file(Scanning { chain, floor, files, index: 0, at: 0, first, unconfirmed: None, asked: CHUNK }, out);
    }

    /// Starts the file at `index`, or ends the scan.
    fn next_file(&mut self, mut scanning: Scanning, out: &mut Outbox<'_, Output>) {
        let Some((file, len)) = scanning.files.get(scanning.index).copied() else {
            return self.end_of_log(scanning, out);
        };
        scanning.at = 0;
        scanning.first = scanning.chain.next;
        scanning.unconfirmed = None;
        if let File::Sealed(first) = file
            && first.get() != scanning.chain.next
        {
            let cause = if scanning.index == 0 { Cause::FirstSeqUnexpected } else { Cause::SeqGap };
            self.refuse(cause, scanning.chain.next, file, 0);
            self.found.chain = Some(scanning.chain);
            return self.finish(out);
        }
        if let (File::Sealed(first), 0) = (file, len) {
            // A file is sealed with what it holds.
            self.refuse(Cause::SeqGap, first.get(), file, 0);
            self.found.chain = Some(scanning.chain);
            return self.finish(out);
        }
        if len == 0 {
            self.file_read(&scanning, file, 0);
            scanning.index += 1;
            return self.next_file(scanning, out);
        }
        scanning.asked = CHUNK;
        self.ask(Op::Read { file, at: 0, len: CHUNK }, out);
        self.stage = Stage::Scanning(scanning);
    }

    fn on_frames(&mut self, mut scanning: Scanning, bytes: &[u8], out: &mut Outbox<'_, Output>) {
        let Some((file, len)) = scanning.files.get(scanning.index).copied() else {
            panic!("wal recovery: frames of no file");
        };
        let end = scanning.at.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if end < len && is_short(bytes, scanning.asked) {
            return self.shrunk(file, out);
        }
        // The listing's length is the file's: what a writer beside us appends since is not ours to judge.
        let over = usize::try_from(end.saturating_sub(len)).unwrap_or(usize::MAX);
        let bytes = bytes.get(..bytes.len().saturating_sub(over)).unwrap_or(&[]);
        let at_end = end >= len || bytes.is_empty();
        let (safe, start) = (self.found.safe.unwrap_or(0), scanning.at);
        let mut unconfirmed = scanning.unconfirmed;
        let (good, bad) = scanning.chain.read(bytes, at_end, &mut |frame, at| {
            if unconfirmed.is_none() && frame.seq.get() > safe {
                unconfirmed = Some(start.saturating_add(u64::try_from(at).unwrap_or(u64::MAX)));
            }
        });
        scanning.unconfirmed = unconfirmed;
        scanning.at = scanning.at.saturating_add(u64::try_from(good).unwrap_or(u64::MAX));
        if let Some(bad) = bad {
            // An older frame in the place of a newer one was durable itself: no torn write leaves that.
            let here = bytes.get(good..).and_then(seq_at).filter(|_| bad == Bad::Seq);
            return self.on_bad(scanning, file, bad, here, out);
        }
        if at_end {
            self.file_read(&scanning, file, len);
            scanning.index += 1;
            return self.next_file(scanning, out);
        }
        // A frame that is longer than a chunk needs a larger one.
        scanning.asked = if good == 0 { LARGE } else { CHUNK };
        self.ask(Op::Read { file, at: scanning.at, len: scanning.asked }, out);
        self.stage = Stage::Scanning(scanning);
    }

    /// The file ends before the length that was listed: somebody else changes it.
    fn shrunk(&mut self, file: File, out: &mut Outbox<'_, Output>) {
        self.stage = Stage::Done;
        out.output(Output::Unreadable(file, FaultKind::Changed));
    }

    fn file_read(&mut self, scanning: &Scanning, file: File, bytes: u64) {
        match (file, Seq::new(scanning.first)) {
            (File::Live, Some(first)) => {
                let unconfirmed = scanning.unconfirmed.unwrap_or(scanning.at);
                self.found.live = Some(LiveFile { first, bytes, good: scanning.at, unconfirmed });
            }
            (File::Sealed(first), _) => self.found.sealed.push(SealedFile {
                first,
                last: scanning.chain.last(),
                h: scanning.chain.prev,
                bytes,
                ts: core::str::from_utf8(&scanning.chain.last_ts)
                    .ok()
                    .and_then(Wall::parse_rfc3339)
                    .unwrap_or_default(),
            }),
            _ => {}
        }
    }

    /// A bad frame: judge it at once where the place alone decides, else look behind it first.
    fn on_bad(&mut self, scanning: Scanning, file: File, bad: Bad, here: Option<u64>, out: &mut Outbox<'_, Output>) {
        let below = here.unwrap_or(u64::MAX).min(scanning.chain.next) <= scanning.floor;
        if file == File::Live && !below {
            let at = scanning.at;
            self.ask(Op::Read { file, at, len: LARGE }, out);
            self.stage = Stage::Searching(Searching { scanning, bad, at, shown: false });
            return;
        }
        self.settle(scanning, file, bad, below, false, out);
    }

    fn on_search(&mut self, mut searching: Searching, bytes: &[u8], out: &mut Outbox<'_, Output>) {
        let (next, floor) = (searching.scanning.chain.next, searching.scanning.floor);
        searching.shown |= shows_durable(bytes, next, floor);
        let len = self.len_of(File::Live).unwrap_or(0);
        let read = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if searching.at.saturating_add(read) < len && is_short(bytes, LARGE) {
            return self.shrunk(File::Live, out);
        }
        if bytes.is_empty() || searching.at.saturating_add(read) >= len {
            let Searching { scanning, bad, shown, .. } = searching;
            return self.settle(scanning, File::Live, bad, false, shown, out);
        }
        let overlap = u64::try_from(OVERLAP).unwrap_or(0);
        searching.at = searching.at.saturating_add(read.saturating_sub(overlap).max(1));
        self.ask(Op::Read { file: File::Live, at: searching.at, len: LARGE }, out);
        self.stage = Stage::Searching(searching);
    }

    fn settle(
        &mut self,
        scanning: Scanning,
        file: File,
        bad: Bad,
        at_or_below_floor: bool,
        shown_durable: bool,
        out: &mut Outbox<'_, Output>,
    ) {
        let facts = Facts {
            segment: if file == File::Live { Segment::Live } else { Segment::Sealed },
            bad,
            first_of_log: self.found.base.as_ref().is_some_and(|b| b.first_seq.get() == scanning.chain.next),
            at_or_below_floor,
            shown_durable,
        };
        let len = self.len_of(file).unwrap_or(0);
        match judge(facts) {
            Verdict::Refuse(cause) => {
                self.refuse(cause, scanning.chain.next, file, scanning.at);
                self.found.chain = Some(scanning.chain);
                self.finish(out);
            }
            Verdict::Cut => {
                self.found.torn = Some(TornTail { offset: scanning.at, bytes: len.saturating_sub(scanning.at), bad });
                self.file_read(&scanning, file, len);
                self.end_of_log(scanning, out);
            }
        }
    }

    /// All frames are read: hold the floor against them.
    fn end_of_log(&mut self, scanning: Scanning, out: &mut Outbox<'_, Output>) {
        let (last, floor) = (scanning.chain.last(), scanning.floor);
        let before_first = self.found.base.as_ref().map_or(0, |b| b.first_seq.get().saturating_sub(1));
        let (file, offset) = scanning.files.last().map_or((File::Live, 0), |(file, _)| (*file, scanning.at));
        if floor > last {
            self.refuse(Cause::SafeSeqGtMaxSeq, last.saturating_add(1), file, offset);
        } else if floor < before_first {
            self.refuse(Cause::SafeSeqNotFound, floor, File::SafeSeq, 0);
        }
        self.found.chain = Some(scanning.chain);
        self.finish(out);
    }

    fn refuse(&mut self, cause: Cause, seq: u64, file: File, offset: u64) {
        self.found.refusal = Some(Refusal { cause, seq, file, offset });
    }

    fn finish(&mut self, out: &mut Outbox<'_, Output>) {
        let found = core::mem::take(self).found;
        self.stage = Stage::Done;
        out.output(Output::Found(alloc::boxed::Box::new(found)));
    }
}

/// Whether a read gave less than it was asked for.
fn is_short(bytes: &[u8], asked: u32) -> bool {
    u32::try_from(bytes.len()).is_ok_and(|len| len < asked)
}

impl Stage {
    /// The file that is being read.
    fn file(&self) -> File {
        match self {
            Self::Idle | Self::Listing | Self::Done | Self::ReadingBase => File::Base,
            Self::ReadingSafe => File::SafeSeq,
            Self::ReadingPositions => File::Positions,
            Self::Scanning(s) => s.files.get(s.index).map_or(File::Live, |(file, _)| *file),
            Self::Searching(_) => File::Live,
        }
    }
}
