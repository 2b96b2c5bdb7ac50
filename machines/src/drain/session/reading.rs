//! What was read: it extends the index or fills the batch, or it does not fit.

use alloc::format;
use alloc::string::ToString;

use crate::disk::{Completion, Done, Fault, FaultKind, File};
use crate::time::Now;
use crate::wal::files::parse_safe_seq;
use crate::wal::frame::PREFIX;
use crate::wal::scan::Step;

use super::super::batch::Class;
use super::super::delivery::Delivery;
use super::super::files::Files;
use super::super::index::{Block, Fed};
use super::super::{Config, unreadable};
use super::{AT_ONCE, LARGE, MISFITS, PAUSE, Reading, Session, Wrong};

impl Session {
    pub(super) fn was_read(
        &mut self,
        now: Now,
        why: Reading,
        completion: Completion,
        config: &Config,
    ) -> Result<(), Wrong> {
        match (why, completion) {
            (Reading::List, Ok(Done::Listing(listing))) => {
                self.files = Files::of(&listing);
                self.look_again = false;
                Ok(())
            }
            (Reading::List, Err(fault)) => {
                Err(Wrong::Unreadable(format!("cannot list the log folder: {}", fault.kind)))
            }
            (Reading::Safe, Ok(Done::Bytes(bytes))) => {
                let Some(safe) = parse_safe_seq(&bytes) else {
                    let words = "telemetry.safe_seq is not 8 bytes; look with `autonomy wal verify`";
                    return Err(Wrong::Unreadable(words.to_string()));
                };
                self.target = self.target.max(safe);
                self.fresh = true;
                Ok(())
            }
            (Reading::Safe, Err(fault)) => Err(Wrong::Unreadable(unreadable(File::SafeSeq, fault.kind))),
            (Reading::Walk { file, len }, Ok(Done::Bytes(bytes))) => self.walked(now, file, len, &bytes),
            (Reading::Gather { file, len, block }, Ok(Done::Bytes(bytes))) => {
                self.gathered(now, file, len, &block, &bytes, config)
            }
            // Between the sealing of the live file and the making of the next one.
            (
                Reading::Walk { file, .. } | Reading::Gather { file, .. },
                Err(Fault { kind: FaultKind::NotFound, .. }),
            ) => self.misfit(now, file, self.index.at, self.index.link.next, "there is no such file"),
            (Reading::Walk { file, .. } | Reading::Gather { file, .. }, Err(fault)) => {
                Err(Wrong::Unreadable(unreadable(file, fault.kind)))
            }
            (_, Ok(Done::Nothing | Done::Bytes(_) | Done::Tail { .. } | Done::Listing(_))) => {
                panic!("drain: a read completed with something else")
            }
        }
    }

    fn walked(&mut self, now: Now, file: File, len: u32, bytes: &[u8]) -> Result<(), Wrong> {
        let (at, seq) = (self.index.at, self.index.link.next);
        match self.index.feed(bytes, self.target, &self.cursors) {
            Fed::Progress => self.fits(),
            Fed::More => {
                let ends = bytes.len() < usize::try_from(len).unwrap_or(usize::MAX);
                // A sealed file holds what it was sealed with: one without a frame is damaged.
                let moved = self.index.link.next > self.index.segment;
                if matches!(file, File::Sealed(_)) && bytes.is_empty() && moved {
                    // The segment is read to its end: the next one begins with the frame that belongs here.
                    self.index.segment = self.index.link.next;
                    self.index.at = 0;
                } else if !ends && len < LARGE {
                    self.large = true;
                } else {
                    return self.misfit(now, file, at, seq, "the file ends before the safe-point");
                }
            }
            Fed::Bad(bad) => return self.misfit(now, file, at, seq, &format!("{bad:?}")),
        }
        Ok(())
    }

    fn gathered(
        &mut self,
        now: Now,
        file: File,
        len: u32,
        block: &Block,
        bytes: &[u8],
        config: &Config,
    ) -> Result<(), Wrong> {
        let Some(mut batch) = self.gather.take() else { return Ok(()) };
        let class = batch.class;
        let Some(mut place) = *self.places.get(class) else { return Ok(()) };
        let cursor = *self.cursors.get(class);
        let mut off = 0usize;
        let mut full = false;
        let mut wrong = None;
        while !full && *self.index.waiting().get(class) > 0 && place.at < block.end {
            let before = place.link;
            match place.link.step(bytes.get(off..).unwrap_or(&[])) {
                // Not what the index was made of: the files are not those that were looked through.
                Step::Frame(frame, _) if frame.seq.get() > self.index.last() => {
                    place.link = before;
                    wrong = Some("a frame that was not there".to_string());
                    break;
                }
                Step::Frame(frame, raw) => {
                    let size = PREFIX + raw.len();
                    if Class::of(frame.kind) == class && frame.seq.get() > cursor {
                        if !batch.is_empty() && batch.size().saturating_add(size) > config.batch_bytes {
                            place.link = before;
                            full = true;
                            break;
                        }
                        batch.push(raw, frame.seq, frame.kind);
                        self.index.gathered(frame.kind);
                        full = batch.len() >= config.batch_records;
                    }
                    off += size;
                    place.at = place.at.saturating_add(u64::try_from(size).unwrap_or(u64::MAX));
                }
                Step::More => {
                    wrong = Some("the file ends too early".to_string());
                    break;
                }
                Step::Bad(bad) => {
                    wrong = Some(format!("{bad:?}"));
                    break;
                }
            }
        }
        *self.places.get_mut(class) = Some(place);
        if full || *self.index.waiting().get(class) == 0 {
            self.delivery = Some(Delivery::new(batch));
            self.fits();
            return Ok(());
        }
        self.gather = Some(batch);
        match wrong {
            Some(_) if off > 0 => self.fits(),
            None => self.fits(),
            Some(_) if len < LARGE && bytes.len() >= usize::try_from(len).unwrap_or(usize::MAX) && !self.large => {
                self.large = true;
            }
            Some(wrong) => return self.misfit(now, file, place.at, place.link.next, &wrong),
        }
        Ok(())
    }

    fn fits(&mut self) {
        self.misfits = 0;
        self.large = false;
    }

    /// What was read is not what belongs there: the writer may just have renamed the file. Looks again, and calls it damage
    /// when it stays so.
    fn misfit(&mut self, now: Now, file: File, at: u64, seq: u64, what: &str) -> Result<(), Wrong> {
        self.misfits += 1;
        if self.misfits > MISFITS {
            return Err(Wrong::Misfit(format!(
                "the log is damaged: {what} at sequence {} ({}, offset {at}); look with `autonomy wal verify`, mend with \
                 `autonomy wal repair`",
                seq,
                file.name()
            )));
        }
        self.look_again = true;
        if self.misfits > AT_ONCE {
            self.not_before = Some(now.mono.after(PAUSE));
        }
        Ok(())
    }
}
