//! The log while it is open: group commit, sealing, the safe-point, and making room.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;

use crate::disk::{self, Completion, Dir, Done, FaultKind, File, Lane, Op, Replaced, Tag};
use crate::ids::{Hash32, Seq, Uuid};
use crate::machine::{Deadline, Level, Note, Outbox};
use crate::time::{Mono, Now, Span, Wall};

use super::files::{Base, Positions};
use super::frame::{self, Kind, Place, Record};
use super::recovery::{Finding, SealedFile};
use super::scan::ALLOW;
use super::space::Room;
use super::{Class, Config, Durable, Output, Refused, Status, Ticket};

/// The most that may wait for the disk in memory, in bytes.
const BACKLOG: usize = 16 * 1024 * 1024;

/// How often the safe-point is synced and the cursors are read again.
const KEEPING: Span = Span::from_secs(1);

/// The writer.
#[derive(Debug)]
pub struct Writer {
    base: Base,
    room: Room,
    retain: Span,
    tags: u32,
    /// The sequence of the next frame, and the chain before it.
    next: u64,
    head: Hash32,
    /// The last durable sequence.
    synced: u64,
    /// When the newest frame was made.
    newest: Wall,
    sealed: VecDeque<SealedFile>,
    live: Live,
    batch: Batch,
    flight: Option<Flight>,
    /// Seal the live file although it is small, to be able to remove it.
    seal_now: bool,
    /// Allowed calls without an outcome in the log.
    open: BTreeMap<Uuid, Seq>,
    /// Appends that found no room and wait for the cursors to be read again.
    squeezed: VecDeque<(Option<Ticket>, Class, Record)>,
    keeping: Keeping,
    /// The cursors as last read.
    delivered: u64,
    /// The safe-point was published but not synced since; and when to.
    safe_sync_at: Option<Mono>,
    keep_at: Option<Mono>,
    full: bool,
    shed: u64,
    stopping: bool,
}

/// The live file: its first sequence and how long it is with everything that was handed to the disk.
#[derive(Debug)]
struct Live {
    first: u64,
    len: u64,
}

/// Appended, not yet handed to the disk.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    tickets: Vec<(Ticket, Seq)>,
    last: u64,
    /// The chain before its first frame.
    before: Option<Hash32>,
}

/// Handed to the disk, not yet known durable.
#[derive(Debug)]
struct Flight {
    tag: Tag,
    tickets: Vec<(Ticket, Seq)>,
    last: u64,
    /// The file that this flush seals; it may be removed only once it has its name.
    sealing: Option<SealedFile>,
}

/// What the housekeeping lane is doing.
#[derive(Debug)]
enum Keeping {
    Nothing,
    SyncingSafe(Tag),
    ReadingPositions(Tag),
    /// Removing this many of the oldest sealed files.
    Removing(Tag, usize),
}

impl Writer {
    /// The writer of a log that was found so and made good, and the calls without an outcome.
    pub fn new(now: Now, config: &Config, base: Base, finding: Finding) -> (Self, Vec<Uuid>) {
        let (next, head, open) = match finding.chain {
            Some(chain) => (chain.next, chain.prev, chain.open),
            None => (base.first_seq.get(), base.prev_h, BTreeMap::new()),
        };
        let mut unfinished: Vec<(Seq, Uuid)> = open.iter().map(|(id, seq)| (*seq, *id)).collect();
        unfinished.sort_unstable();
        let live =
            finding.live.map_or(Live { first: next, len: 0 }, |live| Live { first: live.first.get(), len: live.good });
        let mut writer = Self {
            room: Room::new(config.max_bytes, config.on_full),
            retain: config.retain,
            tags: 0,
            next,
            head,
            synced: next.saturating_sub(1),
            newest: Wall::default(),
            sealed: finding.sealed.into(),
            live,
            batch: Batch::default(),
            flight: None,
            seal_now: false,
            open,
            squeezed: VecDeque::new(),
            keeping: Keeping::Nothing,
            delivered: finding.positions.as_ref().map_or(0, Positions::delivered),
            safe_sync_at: None,
            keep_at: None,
            full: false,
            shed: 0,
            stopping: false,
            base,
        };
        writer.full = !writer.has_room();
        if writer.full || !writer.sealed.is_empty() || writer.delivered < writer.synced {
            writer.keep_at = Some(now.mono.after(KEEPING));
        }
        (writer, unfinished.into_iter().map(|(_, id)| id).collect())
    }

    /// Appends a record, or lets it wait for room, or refuses it.
    pub fn append(
        &mut self,
        now: Now,
        ticket: Option<Ticket>,
        class: Class,
        record: Record,
        out: &mut Outbox<'_, Output>,
    ) -> Result<(), FaultKind> {
        let len = frame::bound(record.body.len());
        let refuse = |why, record: &Record, out: &mut Outbox<'_, Output>| {
            match ticket {
                Some(ticket) => out.output(Output::Refused(ticket, why)),
                None => out.note(not_recorded(record)),
            }
            Ok(())
        };
        if len > frame::MAX_FRAME {
            return refuse(Refused::TooLong, &record, out);
        }
        // An outcome is never refused for that: its call was let in, and the calls under way are bounded.
        let backlog = class != Class::Outcome && self.batch.bytes.len().saturating_add(len) > BACKLOG;
        if backlog || self.next == u64::MAX {
            return refuse(Refused::Backlog, &record, out);
        }
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        // Who waits for room waits in line: an outcome has its room already, everything else queues up.
        let in_line = class != Class::Outcome && !self.squeezed.is_empty();
        if in_line || !self.room.admits(class, len, self.used(), self.open_calls()) {
            // The cursors may have moved since they were last read: look before refusing (SPEC 4).
            self.squeezed.push_back((ticket, class, record));
            self.read_positions(out);
            return Ok(());
        }
        self.put(now, ticket, class, record);
        self.flush(out);
        Ok(())
    }

    /// A chain of the log ended. An error means that the log cannot be written any more.
    pub fn on_disk(
        &mut self,
        now: Now,
        tag: Tag,
        completion: Completion,
        out: &mut Outbox<'_, Output>,
    ) -> Result<(), FaultKind> {
        if self.flight.as_ref().is_some_and(|flight| flight.tag == tag) {
            return self.flushed(now, completion, out);
        }
        match core::mem::replace(&mut self.keeping, Keeping::Nothing) {
            Keeping::SyncingSafe(mine) if mine == tag => {
                // A failed sync of any of the log's files counts (FAULTS D06).
                completion.map_err(|fault| fault.kind)?;
                if !self.squeezed.is_empty() {
                    self.read_positions(out);
                }
                self.stopped_if_idle(out);
                Ok(())
            }
            Keeping::ReadingPositions(mine) if mine == tag => {
                self.positions_read(now, completion, out);
                Ok(())
            }
            Keeping::Removing(mine, count) if mine == tag => self.removed(now, completion, count, out),
            Keeping::Nothing | Keeping::SyncingSafe(_) | Keeping::ReadingPositions(_) | Keeping::Removing(..) => {
                panic!("wal: completion of a chain that is not under way: {tag:?}")
            }
        }
    }

    /// The time of the deadline has come.
    pub fn on_due(&mut self, now: Now, out: &mut Outbox<'_, Output>) {
        if !matches!(self.keeping, Keeping::Nothing) {
            return;
        }
        if self.keep_at.is_some_and(|at| at <= now.mono) {
            self.keep_at = None;
            self.read_positions(out);
        } else if self.safe_sync_at.is_some_and(|at| at <= now.mono) {
            self.sync_safe(out);
        }
    }

    /// When housekeeping is next due. While some is under way its completion comes first.
    pub fn deadline(&self) -> Option<Deadline> {
        if !matches!(self.keeping, Keeping::Nothing) {
            return None;
        }
        let safe = self.safe_sync_at.map(|at| Deadline { at, why: "sync the safe-point" });
        let keep = self.keep_at.map(|at| Deadline { at, why: "read the cursors" });
        Deadline::earlier(safe, keep)
    }

    /// Asks for everything to be made durable, the safe-point too.
    pub fn stop(&mut self, out: &mut Outbox<'_, Output>) {
        self.stopping = true;
        self.flush(out);
        self.stopped_if_idle(out);
    }

    /// Gives up: everybody who waits is told that nothing is known of their append.
    pub fn abandon(&mut self, out: &mut Outbox<'_, Output>) {
        let flight = self.flight.take();
        let waiting = flight.into_iter().flat_map(|f| f.tickets).chain(core::mem::take(&mut self.batch).tickets);
        for (ticket, _) in waiting {
            out.output(Output::Refused(ticket, Refused::Failed));
        }
        for (ticket, _, _) in core::mem::take(&mut self.squeezed) {
            if let Some(ticket) = ticket {
                out.output(Output::Refused(ticket, Refused::Failed));
            }
        }
        if self.stopping {
            out.output(Output::Stopped);
        }
    }

    /// Whether undelivered events fill the log.
    pub const fn is_full(&self) -> bool {
        self.full
    }

    /// The log as an operator sees it.
    pub fn status(&self) -> Status {
        Status {
            log_id: self.base.log_id,
            node_id: self.base.node_id.clone(),
            head: self.next.saturating_sub(1),
            safe: self.synced,
            delivered: self.delivered,
            bytes: self.used(),
            segments: u64::try_from(self.sealed.len()).unwrap_or(u64::MAX).saturating_add(1),
            shed: self.shed,
        }
    }

    /// Panics on a broken invariant.
    pub fn check(&self) {
        let written = self.flight.as_ref().map_or(self.synced, |f| f.last);
        let appended = self.next.saturating_sub(1);
        assert!(self.synced <= written && written <= appended, "wal: watermarks out of order");
        assert!(self.batch.bytes.is_empty() || self.flight.is_some(), "wal: a batch waits for no flush");
        assert!(self.batch.bytes.is_empty() == (written == appended), "wal: frames in neither batch nor flight");
        assert!(self.live.first <= self.next, "wal: the live file starts behind the head");
        assert!(self.sealed.iter().is_sorted_by(|a, b| a.first < b.first), "wal: sealed files out of order");
    }

    fn open_calls(&self) -> u64 {
        u64::try_from(self.open.len()).unwrap_or(u64::MAX)
    }

    fn used(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|file| file.bytes).sum();
        let sealing = self.flight.as_ref().and_then(|flight| flight.sealing).map_or(0, |file| file.bytes);
        let batch = u64::try_from(self.batch.bytes.len()).unwrap_or(u64::MAX);
        sealed.saturating_add(sealing).saturating_add(self.live.len).saturating_add(batch)
    }

    fn tag(&mut self, lane: Lane) -> Tag {
        self.tags = self.tags.wrapping_add(1);
        Tag { lane, id: self.tags }
    }

    /// Puts a record that has room into the batch.
    fn put(&mut self, now: Now, ticket: Option<Ticket>, class: Class, record: Record) {
        let Some(seq) = Seq::new(self.next) else { return };
        match class {
            Class::Allow => {
                debug_assert!(record.body.starts_with(ALLOW) && record.kind == Kind::Decision);
                self.open.insert(record.audit_id, seq);
            }
            Class::Outcome => {
                self.open.remove(&record.audit_id);
            }
            Class::Deny | Class::Lifecycle | Class::Fault => {}
        }
        self.batch.before.get_or_insert(self.head);
        let place = Place { seq, ts: now.wall, safe: self.synced };
        self.head = frame::encode(&mut self.batch.bytes, &self.head, &place, &record);
        self.batch.last = self.next;
        self.next = self.next.saturating_add(1);
        self.newest = now.wall;
        if let Some(ticket) = ticket {
            self.batch.tickets.push((ticket, seq));
        }
    }

    /// Hands the batch to the disk unless a flush is under way: its completion takes what has gathered by then.
    fn flush(&mut self, out: &mut Outbox<'_, Output>) {
        let seal = self.live.len >= self.room.seal_at() || self.seal_now && self.live.len > 0;
        if self.flight.is_some() || self.batch.bytes.is_empty() && !seal {
            return;
        }
        let batch = core::mem::take(&mut self.batch);
        let mut chain = Vec::with_capacity(8);
        let sealing = if seal { self.seal(batch.before.unwrap_or(self.head), &mut chain) } else { None };
        self.seal_now = false;
        let last = batch.last.max(self.synced);
        if let Some(seq) = Seq::new(batch.last) {
            let at = self.live.len;
            self.live.len = at.saturating_add(u64::try_from(batch.bytes.len()).unwrap_or(u64::MAX));
            chain.push(Op::Append { file: File::Live, at, bytes: batch.bytes });
            chain.push(Op::Sync(File::Live));
            chain.push(Op::Publish(seq));
        }
        let tag = self.tag(Lane::Log);
        self.flight = Some(Flight { tag, tickets: batch.tickets, last, sealing });
        out.disk(tag, chain);
    }

    /// Closes the live file under its own name and starts a new one. Nothing is in flight: everything in the
    /// file is durable, and `h` is the chain behind it.
    fn seal(&mut self, h: Hash32, chain: &mut Vec<Op>) -> Option<SealedFile> {
        let first = Seq::new(self.live.first)?;
        let last = self.synced;
        let file = SealedFile { first, last, h, bytes: self.live.len, ts: self.newest };
        self.live = Live { first: last.saturating_add(1), len: 0 };
        chain.extend([
            Op::Sync(File::SafeSeq),
            Op::Rename { from: File::Live, to: File::Sealed(first) },
            Op::Put { file: File::Live, bytes: Vec::new() },
            Op::SyncDir(Dir::Telemetry),
        ]);
        Some(file)
    }

    fn flushed(&mut self, now: Now, completion: Completion, out: &mut Outbox<'_, Output>) -> Result<(), FaultKind> {
        // On a fault the flight stays where it is: `abandon` tells those who wait for it.
        completion.map_err(|fault| fault.kind)?;
        let Some(flight) = self.flight.take() else { return Ok(()) };
        self.synced = flight.last;
        let sealed = flight.sealing.is_some();
        self.sealed.extend(flight.sealing);
        let due = now.mono.after(KEEPING);
        self.safe_sync_at.get_or_insert(due);
        self.keep_at.get_or_insert(due);
        // The next batch goes to the disk before anybody is answered: the device is never idle for that.
        self.flush(out);
        if !flight.tickets.is_empty() {
            let released = flight.tickets.into_iter().map(|(ticket, seq)| (ticket, Durable { seq })).collect();
            out.output(Output::Released(released));
        }
        if !self.squeezed.is_empty() || sealed && self.full {
            self.read_positions(out);
        }
        self.stopped_if_idle(out);
        Ok(())
    }

    fn sync_safe(&mut self, out: &mut Outbox<'_, Output>) {
        self.safe_sync_at = None;
        let tag = self.tag(Lane::Keeping);
        self.keeping = Keeping::SyncingSafe(tag);
        out.disk(tag, vec![Op::Sync(File::SafeSeq)]);
    }

    fn stopped_if_idle(&mut self, out: &mut Outbox<'_, Output>) {
        let idle = self.flight.is_none() && self.squeezed.is_empty() && matches!(self.keeping, Keeping::Nothing);
        if !self.stopping || !idle {
            return;
        }
        if self.safe_sync_at.is_some() {
            return self.sync_safe(out);
        }
        self.stopping = false;
        out.output(Output::Stopped);
    }
}

/// Making room: only the writer removes, the base moves on before a file goes, and nothing undelivered goes.
impl Writer {
    fn read_positions(&mut self, out: &mut Outbox<'_, Output>) {
        if !matches!(self.keeping, Keeping::Nothing) {
            return;
        }
        let tag = self.tag(Lane::Keeping);
        self.keeping = Keeping::ReadingPositions(tag);
        out.disk(tag, vec![Op::Read { file: File::Positions, at: 0, len: 4096 }]);
    }

    fn positions_read(&mut self, now: Now, completion: Completion, out: &mut Outbox<'_, Output>) {
        match completion {
            Ok(Done::Bytes(bytes)) => match Positions::parse(&bytes) {
                Some(at) if at.log_id == self.base.log_id && at.highest() <= self.published() => {
                    self.delivered = self.delivered.max(at.delivered());
                }
                Some(_) | None => out.note(
                    Note::new(Level::Warn, "wal_positions_ignored")
                        .with("file", "telemetry.pos")
                        .with("detail", "unreadable, or the cursors of another log; nothing counts as delivered by it"),
                ),
            },
            Err(disk::Fault { kind: FaultKind::NotFound, .. }) => {}
            Ok(Done::Nothing | Done::Tail { .. } | Done::Listing(_)) | Err(_) => {
                out.note(Note::new(Level::Warn, "wal_positions_unreadable").with("file", "telemetry.pos"));
            }
        }
        self.make_room(now, out);
    }

    /// Removes what may go and is wanted gone; else settles those who wait for room.
    fn make_room(&mut self, now: Now, out: &mut Outbox<'_, Output>) {
        let count = self.removable(now);
        if count > 0 {
            return self.remove(count, out);
        }
        let wanted = !self.squeezed.is_empty() || self.full;
        let live_delivered =
            self.live.len > 0 && self.flight.is_none() && self.synced <= self.delivered && self.open.is_empty();
        if wanted && live_delivered {
            // Seal it, so that it can go; its completion reads the cursors again.
            self.seal_now = true;
            return self.flush(out);
        }
        self.settle(now, out);
    }

    /// How many of the oldest sealed files are delivered, hold no call that waits for its outcome, and are either
    /// older than the retention or in the way.
    fn removable(&self, now: Now) -> usize {
        let first_open = self.open.values().map(|seq| seq.get()).min().unwrap_or(u64::MAX);
        let mut used = self.used();
        let mut count = 0;
        for file in &self.sealed {
            let old = now.wall.since(file.ts) >= self.retain;
            let short = !self.squeezed.is_empty() || self.full || self.room.is_short(used, self.open_calls());
            if file.last > self.delivered || file.last >= first_open || !(old || short) {
                break;
            }
            used = used.saturating_sub(file.bytes);
            count += 1;
        }
        count
    }

    fn remove(&mut self, count: usize, out: &mut Outbox<'_, Output>) {
        let Some((last, h)) = self.sealed.get(count.saturating_sub(1)).map(|file| (file.last, file.h)) else { return };
        let Some(first_seq) = Seq::new(last.saturating_add(1)) else { return };
        let base = Base { first_seq, prev_h: h, ..self.base.clone() };
        // The safe-point first: it must never be found below the base.
        let mut chain = vec![Op::Sync(File::SafeSeq)];
        chain.extend(disk::replace(Replaced::Base, base.to_bytes()));
        chain.extend(self.sealed.iter().take(count).map(|file| Op::Remove(File::Sealed(file.first))));
        chain.push(Op::SyncDir(Dir::Telemetry));
        let tag = self.tag(Lane::Keeping);
        self.keeping = Keeping::Removing(tag, count);
        out.disk(tag, chain);
    }

    fn removed(
        &mut self,
        now: Now,
        completion: Completion,
        count: usize,
        out: &mut Outbox<'_, Output>,
    ) -> Result<(), FaultKind> {
        match completion {
            Ok(_) => {
                let gone: Vec<SealedFile> = self.sealed.drain(..count.min(self.sealed.len())).collect();
                if let Some(file) = gone.last()
                    && let Some(first_seq) = Seq::new(file.last.saturating_add(1))
                {
                    self.base.first_seq = first_seq;
                    self.base.prev_h = file.h;
                }
                if !self.squeezed.is_empty() {
                    // Some of them came after the cursors were read. Each turn removes a file, so that this ends.
                    self.read_positions(out);
                    return Ok(());
                }
            }
            // The new base was not yet in place: nothing changed, and another time will do.
            Err(disk::Fault { step: 1 | 2, kind }) => out.note(
                Note::new(Level::Warn, "wal_removal_put_off").with("cause", alloc::string::ToString::to_string(&kind)),
            ),
            Err(fault) => return Err(fault.kind),
        }
        self.settle(now, out);
        Ok(())
    }

    /// Those who waited for room get it, in line, or are refused.
    fn settle(&mut self, now: Now, out: &mut Outbox<'_, Output>) {
        let mut refused_call = false;
        for (ticket, class, record) in core::mem::take(&mut self.squeezed) {
            let len = u64::try_from(frame::bound(record.body.len())).unwrap_or(u64::MAX);
            if self.room.admits(class, len, self.used(), self.open_calls()) {
                self.put(now, ticket, class, record);
                continue;
            }
            match class {
                Class::Allow | Class::Deny => refused_call = true,
                Class::Lifecycle => self.shed = self.shed.saturating_add(1),
                Class::Outcome | Class::Fault => {}
            }
            match ticket {
                Some(ticket) => out.output(Output::Refused(ticket, Refused::Full)),
                None => out.note(not_recorded(&record)),
            }
        }
        let full = refused_call || !self.has_room();
        if full != self.full {
            let (level, msg) = if full { (Level::Warn, "wal_full") } else { (Level::Info, "wal_has_room_again") };
            out.note(Note::new(level, msg).with("bytes", self.used()).with("undelivered", self.undelivered()));
            self.full = full;
        }
        if self.full || !self.sealed.is_empty() || self.delivered < self.synced {
            self.keep_at = Some(now.mono.after(KEEPING));
        }
        self.flush(out);
        self.stopped_if_idle(out);
    }

    /// The highest safe-point that a reader may have seen: a flush publishes its own before its completion is here.
    fn published(&self) -> u64 {
        self.flight.as_ref().map_or(self.synced, |flight| flight.last)
    }

    /// Whether another allowed call has room.
    fn has_room(&self) -> bool {
        self.room.admits(Class::Allow, super::space::OUTCOME, self.used(), self.open_calls())
    }

    fn undelivered(&self) -> u64 {
        self.next.saturating_sub(1).saturating_sub(self.delivered)
    }
}

/// An event that nobody waits for and that found no room: the log line is all that is left of it.
fn not_recorded(record: &Record) -> Note {
    Note::new(Level::Warn, "event_not_recorded").with("kind", record.kind.as_str()).with("body", record.body.as_str())
}
