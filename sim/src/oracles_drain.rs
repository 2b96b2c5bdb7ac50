//! What must hold of the drain: I-D3 across exports, I-D4, I-D5, the order of classes, the cursors, the lock.
//!
//! Everything here is judged by the simulator's own ledger, by the disk as it is, and by what the collector did; nothing is
//! asked of the drain.

use machines::disk::{Completion, File};
use machines::drain::Queue;
use machines::net::Export;
use machines::time::{Mono, Span};

use crate::ledger::{self, Kind, NONE};
use crate::marks::Mark;
use crate::oracles::Oracle;
use crate::sabotage::Sabotage;
use crate::world::{World, fired};

/// Batches of higher classes after which a lower one has its turn (SPEC 5), and how much longer it may be for the turns of
/// classes below.
const TURN: u32 = 8;

/// The names of the classes in `telemetry.pos`, most important first.
const NAMES: [&str; 3] = ["error", "decision", "lifecycle"];

/// The cursors in the bytes of `telemetry.pos`, in the order of `NAMES`.
fn cursors(bytes: &[u8]) -> Option<[u64; 3]> {
    let rest = bytes.strip_prefix(b"{\"log_id\":\"")?.get(36..)?;
    let (decision, rest) = ledger::number(rest.strip_prefix(b"\",\"cursors\":{\"decision\":")?)?;
    let (error, rest) = ledger::number(rest.strip_prefix(b",\"error\":")?)?;
    let (lifecycle, rest) = ledger::number(rest.strip_prefix(b",\"lifecycle\":")?)?;
    let rest = rest.strip_prefix(b"},\"repairs\":0,\"h\":\"")?;
    let covered = bytes.get(..bytes.len().checked_sub(TAIL)?)?;
    let mut end = String::new();
    machines::ids::write_hex(blake3::hash(covered).as_bytes(), &mut end);
    end.push_str("\"}\n");
    (rest == end.as_bytes()).then_some([error, decision, lifecycle])
}

/// Bytes of the hash at the end of the file and what is around it.
const TAIL: usize = 73;

impl World {
    /// The cursors on the disk, as readers see them; zeros when there are none.
    pub(crate) fn cursors(&self) -> [u64; 3] {
        self.disk.read(File::Positions).and_then(cursors).unwrap_or_default()
    }

    /// Whether the file of the cursors rotted since it was written: then it says nothing, and its hash says so to all readers.
    fn cursors_rotted(&self) -> bool {
        self.has_fired(fired::MEDIA_LOG)
            && self.disk.read(File::Positions).is_some_and(|bytes| cursors(bytes).is_none())
    }

    /// Whether this record of the log was delivered or put aside.
    pub(crate) fn is_settled(&self, index: u32) -> bool {
        self.collector.fate(index).is_settled()
    }

    /// Whether something of this class waits between its cursor and the safe-point.
    fn waits(&self, class: usize, cursor: u64, safe: u64) -> bool {
        (cursor + 1..=safe.min(self.ledger.highest()))
            .any(|seq| self.ledger.at(seq).is_some_and(|entry| usize::from(entry.class) == class))
    }

    /// **I-D3, I-D4**, the order of classes, and that nothing is sent that a durable cursor covers or before it does. Gives
    /// the records' numbers in the ledger.
    pub(crate) fn check_export(&mut self, proc: usize, export: &Export) -> Vec<u32> {
        if self.drain_lock.is_none_or(|owner| usize::from(owner) != proc) {
            self.fail(Oracle::DrainLock, || format!("drain p{proc} sends and does not hold the lock"));
            return Vec::new();
        }
        let now = self.clock.now(self.now).mono;
        let Some(drainer) = self.drainer_mut(proc) else { return Vec::new() };
        let (safe, unsaved) = (drainer.safe, drainer.unsaved.len());
        let early = drainer.held_until.take().map(|until| now < until);
        let misfit = std::mem::replace(&mut drainer.misfit, false);
        match early {
            Some(true) => {
                self.fail(Oracle::Resent, || format!("drain p{proc} sends before the collector's Retry-After"))
            }
            Some(false) => self.hit(Mark::RetryAfterWaited),
            None => {}
        }
        if misfit {
            self.hit(Mark::SealedUnderReader);
        }
        if unsaved > 0 {
            self.fail(Oracle::Resent, || {
                format!(
                    "drain p{proc} sends while {unsaved} records are answered for and no durable cursor covers them"
                )
            });
        }
        let cursors = self.cursors();
        let mut records = Vec::with_capacity(export.to - export.from);
        let mut again = false;
        for item in export.batch.items().get(export.from..export.to).unwrap_or(&[]) {
            let Some(index) = self.check_exported(export.batch.raw(item), safe, &cursors, export.batch.class.name())
            else {
                return records;
            };
            again |= self.collector.fate(index).stored > 0;
            records.push(index);
        }
        if again {
            self.hit(Mark::SentAgain);
        }
        if !self.cursors_rotted() {
            self.check_class(proc, export, safe, &cursors);
        }
        records
    }

    fn check_exported(&mut self, raw: &[u8], safe: u64, cursors: &[u64; 3], class: &str) -> Option<u32> {
        let index = ledger::place(raw).and_then(|(seq, h)| self.ledger.find(seq, h)).unwrap_or(NONE);
        let Some(entry) = self.ledger.entry(index).copied() else {
            self.fail(Oracle::TwoContents, || "something was exported that nobody wrote to the log".into());
            return None;
        };
        let seq = entry.seq;
        if self.ledger.written(&entry).and_then(|bytes| bytes.get(4..)) != Some(raw) {
            self.fail(Oracle::TwoContents, || {
                format!("frame {seq} was exported with other bytes than it was written with")
            });
        }
        if seq > safe || !self.is_firm(index) {
            self.fail(Oracle::ExportPastSafe, || {
                format!(
                    "frame {seq} is exported; the safe-point that was read is {safe}, and a power loss may take it back"
                )
            });
        }
        let class_at = usize::from(entry.class);
        if NAMES.get(class_at) != Some(&class) {
            self.fail(Oracle::ClassOrder, || format!("frame {seq} travels as {class}"));
        }
        let passed = seq <= cursors.get(class_at).copied().unwrap_or(0);
        if passed {
            self.fail(Oracle::Resent, || {
                format!("frame {seq} is sent again although the cursor says that it was delivered")
            });
        }
        self.check_seen(seq, index);
        Some(index)
    }

    /// No sequence is exported with two contents, ever.
    fn check_seen(&mut self, seq: u64, index: u32) {
        let slot = usize::try_from(seq).unwrap_or(0);
        if self.collector.seen.len() <= slot {
            self.collector.seen.resize(slot + 1, NONE);
        }
        let before = self.collector.seen.get(slot).copied().unwrap_or(NONE);
        if before != NONE && before != index {
            self.fail(Oracle::TwoContents, || format!("sequence {seq} was exported with two contents"));
        }
        if let Some(slot) = self.collector.seen.get_mut(slot) {
            *slot = index;
        }
    }

    /// What was exported is still in the log that was opened just now, or was removed.
    pub(crate) fn check_exports(&mut self, first: u64, last: u64) {
        let scan = self.ledger.scan();
        for seq in first..self.collector.seen.len() as u64 {
            let slot = usize::try_from(seq).unwrap_or(0);
            let index = self.collector.seen.get(slot).copied().unwrap_or(NONE);
            let same = |entry: &ledger::Entry| entry.mark == scan && seq <= last;
            if index == NONE
                || self.ledger.find_current(seq) == Some(index) && self.ledger.entry(index).is_some_and(same)
            {
                continue;
            }
            if !self.harm_excuses(index) {
                return self
                    .fail(Oracle::TwoContents, || format!("frame {seq} was exported and is not in the recovered log"));
            }
            if let Some(slot) = self.collector.seen.get_mut(slot) {
                *slot = NONE;
            }
        }
    }

    /// A batch leaves: nothing of a higher class that the drain could know of waits, unless this class has its turn.
    fn check_class(&mut self, proc: usize, export: &Export, safe: u64, cursors: &[u64; 3]) {
        let Some(drainer) = self.drainer_mut(proc) else { return };
        let again = std::mem::replace(&mut drainer.failed, false);
        if !again && drainer.last.as_ref().is_some_and(|last| std::sync::Arc::ptr_eq(last, &export.batch)) {
            // Another piece of a batch that is being divided.
            return;
        }
        drainer.last = Some(export.batch.clone());
        let passed = drainer.passed;
        let Some(class) = NAMES.iter().position(|name| *name == export.batch.class.name()) else { return };
        let waits = [0, 1, 2].map(|at| self.waits(at, cursors.get(at).copied().unwrap_or(0), safe));
        let higher = (0..class).any(|at| waits.get(at) == Some(&true));
        let mine = passed.get(class).copied().unwrap_or(0);
        if higher && mine < TURN {
            self.fail(Oracle::ClassOrder, || {
                format!(
                    "a batch of {} goes while something more important waits ({mine} went before)",
                    export.batch.class.name()
                )
            });
        }
        if higher {
            self.hit(Mark::StarvationTurn);
        }
        if class == 0 && waits.get(1) == Some(&true) && self.collector.outage {
            self.hit(Mark::ErrorsFirst);
        }
    }

    /// The last of a batch is dealt with: the classes below it that wait were passed over once more.
    fn batch_went(&mut self, proc: usize) {
        let Some(drainer) = self.drainer(proc) else { return };
        let (mut passed, safe) = (drainer.passed, drainer.safe);
        let went = drainer.last.as_ref().map_or("", |batch| batch.class.name());
        let Some(class) = NAMES.iter().position(|name| *name == went) else { return };
        let cursors = self.cursors();
        for (at, passed) in passed.iter_mut().enumerate() {
            let waits = self.waits(at, cursors.get(at).copied().unwrap_or(0), safe);
            *passed = if at == class || !waits { 0 } else { *passed + u32::from(at > class) };
            if *passed > TURN + 2 {
                self.fail(Oracle::ClassOrder, || format!("class {at} was passed over {passed} times"));
            }
        }
        if let Some(drainer) = self.drainer_mut(proc) {
            drainer.passed = passed;
        }
    }

    /// The drain was told what became of these records; with `last`, nothing is left of their batch.
    pub(crate) fn note_settled(&mut self, proc: usize, settled: bool, last: bool, records: &[u32]) {
        let Some(drainer) = self.drainer_mut(proc) else { return };
        if !settled {
            drainer.failed = true;
            return;
        }
        drainer.unsaved.extend_from_slice(records);
        if last {
            self.batch_went(proc);
        }
    }

    /// The drain was asked to wait.
    pub(crate) fn hold_back(&mut self, proc: usize, span: Span) {
        let until = self.clock.now(self.now).mono.after(span.min(Span::from_secs(300)));
        if let Some(drainer) = self.drainer_mut(proc) {
            drainer.held_until = Some(Mono::max(drainer.held_until.unwrap_or(until), until));
        }
    }

    /// A process reads the safe-point.
    pub(crate) fn note_safe_read(&mut self, proc: usize) {
        let safe = self.safe_on_disk();
        let highest = self.ledger.highest();
        if let Some(drainer) = self.drainer_mut(proc) {
            drainer.safe = drainer.safe.max(safe);
            if safe <= highest {
                drainer.owed = drainer.owed.max(safe);
            }
        }
    }

    /// `telemetry.pos` was replaced: no cursor went back, and none passed what was neither taken nor put aside.
    pub(crate) fn check_cursors(&mut self, proc: usize, before: [u64; 3]) {
        let bytes = self.disk.read(File::Positions).unwrap_or(&[]);
        let log = machines::wal::files::Positions::parse(bytes).map(|positions| positions.log_id);
        let Some(after) = cursors(bytes).filter(|_| log.is_some() && log == self.log_id) else {
            return self.fail(Oracle::Cursor, || "telemetry.pos is not what the log's drain writes".into());
        };
        if self.drain_lock.is_none_or(|owner| usize::from(owner) != proc) {
            return self.fail(Oracle::DrainLock, || format!("drain p{proc} moves cursors and does not hold the lock"));
        }
        let safe = self.drainer(proc).map_or(0, |drainer| drainer.safe);
        self.trace.record(23, after.iter().fold(0, |sum, n| sum << 20 | n), self.now);
        for (class, (from, to)) in before.into_iter().zip(after).enumerate() {
            let name = NAMES.get(class).copied().unwrap_or("");
            if to < from || to > safe.max(from) {
                return self.fail(Oracle::Cursor, || {
                    format!("the cursor of {name} moves from {from} to {to}; the safe-point that was read is {safe}")
                });
            }
            for seq in from + 1..=to.min(self.ledger.highest()) {
                let index = self.ledger.find_current(seq).unwrap_or(NONE);
                let here = self.ledger.entry(index).is_some_and(|entry| usize::from(entry.class) == class);
                if here && !self.is_put_away(index) {
                    return self.fail(Oracle::Cursor, || {
                        format!("the cursor of {name} passes frame {seq}, which was neither taken nor put aside")
                    });
                }
            }
        }
    }

    /// Whether a record was taken, or is durably put aside.
    fn is_put_away(&self, index: u32) -> bool {
        let fate = self.collector.fate(index);
        let file = machines::ids::Seq::new(fate.aside).map(File::Rejected);
        fate.taken || fate.refused && file.is_some_and(|file| self.disk.is_durable(file))
    }

    /// The chain that writes the cursors ended: what it stands for is durable.
    pub(crate) fn check_saved(&mut self, proc: usize, completion: &Completion) {
        let Some(drainer) = self.drainer_mut(proc) else { return };
        if drainer.unsaved.is_empty() {
            return;
        }
        let unsaved = std::mem::take(&mut drainer.unsaved);
        if completion.is_err() {
            return;
        }
        if !self.disk.is_durable(File::Positions) {
            return self.fail(Oracle::Cursor, || "the cursors are written and not durable".into());
        }
        if self.cursors_rotted() {
            return;
        }
        let cursors = self.cursors();
        let open = unsaved
            .iter()
            .filter_map(|index| self.ledger.entry(*index))
            .find(|entry| cursors.get(usize::from(entry.class)).is_none_or(|cursor| *cursor < entry.seq));
        if let Some(seq) = open.map(|entry| entry.seq) {
            self.fail(Oracle::Cursor, || format!("frame {seq} was answered for and its cursor is not behind it"));
        }
    }

    /// A file in `rejected/` is in its place: it holds records that were refused, as they are in the log, and says why.
    pub(crate) fn put_aside(&mut self, file: File) {
        let File::Rejected(first) = file else { return };
        let first = first.get();
        self.collector.forget_aside(first);
        let text = self.disk.read(file).unwrap_or(&[]).to_vec();
        let value = machines::json::parse(&text, &machines::json::Limits { max_bytes: 1 << 24, ..Default::default() });
        let records = value.as_ref().ok().and_then(|value| value.get("records")).and_then(|list| list.as_array());
        let words = value.as_ref().ok().and_then(|value| value.get("words")).and_then(|words| words.as_str());
        let (Some(records), Some("simulated" | "too odd")) = (records, words) else {
            return self.fail(Oracle::Undelivered, || format!("{} is no rejected record with its reason", file.name()));
        };
        let mut wrong = records.is_empty();
        for record in records {
            let id = record.get("event_id").and_then(|id| id.as_str()).unwrap_or("");
            let mut parts = id.rsplit(':');
            let h = parts.next().and_then(|h| u64::from_str_radix(h, 16).ok());
            let seq = parts.next().and_then(|seq| seq.parse().ok());
            let index = seq.zip(h).and_then(|(seq, h)| self.ledger.find(seq, h)).unwrap_or(NONE);
            wrong |= !self.collector.fate(index).refused;
            if let Some(fate) = self.collector.fate_mut(index).filter(|_| index != NONE) {
                fate.aside = first;
            }
        }
        if wrong {
            return self
                .fail(Oracle::Undelivered, || format!("{} holds what the collector did not reject", file.name()));
        }
        self.hit(Mark::PutAside);
    }

    /// The drain says what waits.
    pub(crate) fn check_queue(&mut self, proc: usize, queue: &Queue) {
        if self.sabotaged_by(Sabotage::ExportPastSafe) || self.sabotaged_by(Sabotage::ErrorsForgotten) {
            // What these break, others have to find as well.
            return;
        }
        let (cursors, safe) = (self.cursors(), self.drainer(proc).map_or(0, |drainer| drainer.safe));
        let mut counts = [0u64; 4];
        let lowest = cursors.iter().copied().min().unwrap_or(0);
        for seq in lowest + 1..=safe.min(self.ledger.highest()) {
            let Some(entry) = self.ledger.at(seq).copied() else { continue };
            let class = usize::from(entry.class);
            if cursors.get(class).is_none_or(|cursor| *cursor >= seq) {
                continue;
            }
            let slot = if class == ledger::DECISION && entry.kind == Kind::Outcome { 3 } else { class };
            if let Some(count) = counts.get_mut(slot) {
                *count += 1;
            }
        }
        let said = [queue.errors, queue.decisions, queue.lifecycle, queue.actions];
        if said != counts && !self.harm.reaches_any() {
            self.fail(Oracle::Undelivered, || format!("drain p{proc} says that {said:?} wait, and it is {counts:?}"));
        }
    }

    /// A drain says that everything is delivered.
    pub(crate) fn check_complete(&mut self, proc: usize) {
        let Some(drainer) = self.drainer(proc) else { return };
        let (safe, unsaved) = (drainer.owed, drainer.unsaved.len());
        if self.cursors_rotted() {
            return;
        }
        let lowest = self.cursors().into_iter().min().unwrap_or(0);
        let base = self.disk.read(File::Base).and_then(ledger::base).map_or(1, |(first, _)| first);
        // A log of which nothing was ever published needs no cursors.
        if lowest < safe && safe >= base && !self.harm.reaches_any() || unsaved > 0 {
            self.fail(Oracle::Undelivered, || {
                format!("drain p{proc} is complete at cursor {lowest} of {safe}, {unsaved} records unsaved")
            });
        }
    }

    /// **I-D5**, first half: the writer removes a sealed file.
    pub(crate) fn check_removal(&mut self, file: File) {
        let (File::Sealed(first), Some(inode)) = (file, self.disk.number(file)) else { return };
        let mut seq = first.get();
        while let Some(index) = self.ledger.find_current(seq) {
            if self.ledger.entry(index).is_none_or(|entry| entry.inode != inode) {
                return;
            }
            if !self.is_settled(index) {
                return self.fail(Oracle::RemovedUndelivered, || {
                    format!("{} is removed and frame {seq} was not delivered", file.name())
                });
            }
            seq += 1;
        }
    }

    /// **I-D5**, second half: everything up to the safe-point is with the collector or in `rejected/`.
    pub(crate) fn check_all_delivered(&mut self) {
        let safe = self.safe_on_disk();
        for seq in 1..=safe.min(self.ledger.highest()) {
            let Some(index) = self.ledger.find_current(seq) else { continue };
            let fate = self.collector.fate(index);
            let there = machines::ids::Seq::new(fate.aside)
                .is_some_and(|first| self.disk.read(File::Rejected(first)).is_some());
            if fate.stored == 0 && !there {
                return self.fail(Oracle::Undelivered, || {
                    format!("everything is said to be delivered, and frame {seq} is neither stored nor in rejected/")
                });
            }
        }
    }

    /// Whether the drain can read everything that it has to: the chain verifies up to the safe-point, and the small files
    /// are what was written.
    pub(crate) fn is_deliverable(&self) -> bool {
        let positions = self.disk.read(File::Positions).map(machines::wal::files::Positions::parse);
        let base = self.disk.fingerprint(|file| file == File::Base);
        ledger::look(&self.disk).last >= self.safe_on_disk()
            && self.bases.contains(&base)
            && positions.is_none_or(|positions| positions.is_some_and(|p| Some(p.log_id) == self.log_id))
            && self.disk.read(File::SafeSeq).is_some_and(|bytes| bytes.len() == 8)
    }

    /// Whether every class's cursor is at the safe-point.
    pub(crate) fn is_drained(&self) -> bool {
        let safe = self.safe_on_disk();
        safe == 0 || self.cursors().into_iter().all(|cursor| cursor >= safe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machines::ids::IdSource;
    use machines::machine::Entropy;
    use machines::time::Wall;
    use machines::wal::files::Positions;

    #[test]
    fn cursors_are_read_as_the_drain_writes_them_and_not_otherwise() {
        let log_id = IdSource::new(Entropy([3; 32])).next(Wall::default());
        let named = NAMES.iter().map(|name| (*name).to_owned()).zip([7, 41, 0]).collect();
        let bytes = Positions { log_id, cursors: named, repairs: 0 }.to_bytes();
        assert_eq!(cursors(&bytes), Some([7, 41, 0]));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] = b'x';
            assert_eq!(cursors(&damaged), None, "byte {at}");
        }
        assert_eq!(cursors(&bytes[..bytes.len() - 1]), None);
    }
}
