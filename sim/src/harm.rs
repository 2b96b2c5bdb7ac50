//! What faults of the medium did to the log, and exactly what that may excuse.
//!
//! A fault names the first frame that it may have damaged. From then until a whole log was checked and nothing more hides
//! on the medium, a frame may be missing only if it is that one or a later one, and only if a start found it so: above the
//! floor of that start, and not among the frames that verified then. What a start may have lost stays known until the log
//! is checked, also when that start crashed before it said that it was open. Frames that were written later are not excused.

use machines::disk::File;

use crate::ledger::{Seen, look};
use crate::oracles::Oracle;
use crate::world::{Phase, World, fired};

/// No frame is damaged.
pub(crate) const NONE: u64 = u64::MAX;

/// What a start may take for a torn tail.
#[derive(Clone, Copy, Debug)]
struct Loss {
    /// What the disk said was durable.
    floor: u64,
    /// The last frame that verified from `telemetry.base` on.
    kept: u64,
    /// How many frames had ever been written: those behind came later.
    written: usize,
}

/// The damage to the log that may still be there.
#[derive(Debug)]
pub(crate) struct Harm {
    /// Frames from here on may get lost.
    from: u64,
    /// The bytes of frames from here on may be damaged, or were never written.
    bytes: u64,
    /// Of the starts since the log was last checked.
    losses: Vec<Loss>,
    /// When the last damage came, in microseconds.
    at_us: u64,
}

impl Default for Harm {
    fn default() -> Self {
        Self { from: NONE, bytes: NONE, losses: Vec::new(), at_us: 0 }
    }
}

impl Harm {
    pub(crate) fn reset(&mut self) {
        self.from = NONE;
        self.bytes = NONE;
        self.losses.clear();
        self.at_us = 0;
    }

    /// Whether the bytes of this frame may be damaged.
    pub(crate) const fn reaches(&self, seq: u64) -> bool {
        seq >= self.bytes
    }

    /// Whether the bytes of any frame may be damaged.
    pub(crate) const fn reaches_any(&self) -> bool {
        self.bytes != NONE
    }
}

impl World {
    /// Bytes of a file of frames were damaged from this offset on.
    pub(crate) fn harm_bytes(&mut self, number: u32, at: usize) {
        let seq = self.ledger.first_behind(number, at).unwrap_or(NONE);
        self.harm(seq, seq);
    }

    /// Bytes of this file were damaged from this offset on; `safe` was the safe-point before.
    pub(crate) fn harm_file(&mut self, file: File, at: usize, safe: u64) {
        match file {
            File::Live | File::Sealed(_) => {
                if let Some(number) = self.disk.number(file) {
                    self.harm_bytes(number, at);
                }
            }
            // The frames are what they were, and none of them verifies any more.
            File::Base => self.harm(0, NONE),
            // A higher one shows readers what is not durable yet, and keeps a start from writing it again.
            File::SafeSeq => self.harm(safe.saturating_add(1), safe.saturating_add(1)),
            File::Positions => {
                self.harm(NONE, NONE);
            }
            File::Rejected(_)
            | File::Activation
            | File::History
            | File::Bundle(_)
            | File::Lock(_)
            | File::Verified(_)
            | File::ActiveLock
            | File::Precheck
            | File::Temp(_) => self.harm(NONE, NONE),
        }
    }

    fn harm(&mut self, from: u64, bytes: u64) {
        self.fired |= fired::MEDIA_LOG;
        self.harm.from = self.harm.from.min(from);
        self.harm.bytes = self.harm.bytes.min(bytes);
        self.harm.at_us = self.us();
        // A node that is still reading may see it one way or the other.
        if self.node.machine.is_some() && !self.node.ready || self.writer.is_some() {
            self.note_loss();
        }
    }

    /// What a start that reads the log now may take for a torn tail.
    pub(crate) fn note_loss(&mut self) {
        if self.harm.from != NONE {
            let kept = look(&self.disk).last;
            self.harm.losses.push(Loss { floor: self.floor_on_disk(), kept, written: self.ledger.entries.len() });
        }
    }

    /// Whether the damage explains that the frame of this number is missing.
    pub(crate) fn harm_excuses(&self, index: u32) -> bool {
        let Some(seq) = self.ledger.entry(index).map(|entry| entry.seq) else { return false };
        let explains = |loss: &Loss| seq > loss.floor && seq > loss.kept && (index as usize) < loss.written;
        seq >= self.harm.from && self.harm.losses.iter().any(explains)
    }

    /// The whole log was checked: what was lost is settled. If the medium hides nothing more, the damage is over.
    pub(crate) fn settle_harm(&mut self, verified: bool) {
        self.harm.losses.clear();
        if verified && !self.disk.hides_damage() {
            self.harm.from = NONE;
            self.harm.bytes = NONE;
        }
    }

    /// Damage that came after the node had read the file is the next append's or the next start's to notice.
    pub(crate) fn was_damaged_in_this_life(&self) -> bool {
        self.has_fired(fired::MEDIA_LOG) && self.harm.at_us >= self.node.started_us
    }

    /// Whether everything about the log is as it must be: no start has a reason to refuse it.
    pub(crate) fn log_is_sound(&self) -> bool {
        let Seen { last, whole } = look(&self.disk);
        let base = self.disk.fingerprint(|file| file == File::Base);
        let positions = self.disk.read(File::Positions).map(machines::wal::files::Positions::parse);
        whole
            && self.bases.contains(&base)
            && positions.is_none_or(|positions| positions.is_some_and(|p| Some(p.log_id) == self.log_id))
            && self.disk.read(File::SafeSeq).is_some_and(|bytes| bytes.len() == 8)
            && self.floor_on_disk() <= last
    }

    /// The log is still the one that its consumers know.
    ///
    /// `telemetry.base` has no checksum. While nothing was removed, its `prev_h` follows from its `log_id`, so that damage
    /// to the id has to be noticed; after that a flipped digit of the id cannot be told from another id, and the run ends
    /// here: nothing that is delivered counts any more.
    pub(crate) fn check_identity(&mut self) {
        if self.was_damaged_in_this_life() {
            return;
        }
        let base = self.disk.read(File::Base).and_then(machines::wal::files::Base::parse);
        let found = base.as_ref().map(|base| base.log_id);
        if found != self.log_id {
            if !self.has_fired(fired::MEDIA_LOG) {
                return self.fail(Oracle::LogShape, || "the log has another id than it was created with".into());
            }
            if base.is_some_and(|base| base.first_seq.get() == 1) {
                self.fail(Oracle::LogShape, || {
                    "the log was opened under another log id than it was written with".into()
                });
            }
            self.phase = Phase::Over;
        }
    }

    /// `telemetry.base` was replaced: with a new log's, before the log is open, or the base moves on.
    pub(crate) fn base_written(&mut self) {
        let base = self.disk.read(File::Base).and_then(machines::wal::files::Base::parse);
        let found = base.map(|base| base.log_id);
        self.bases.push(self.disk.fingerprint(|file| file == File::Base));
        if self.node.ready && found != self.log_id {
            self.fail(Oracle::LogShape, || "the open log got another id".into());
        }
        self.log_id = found;
    }
}
