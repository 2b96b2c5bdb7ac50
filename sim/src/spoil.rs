//! How what is broken on purpose changes chains and operations.

use std::collections::BTreeMap;

use machines::activation::Record;
use machines::disk::{Dir, Done, FaultKind as Kind, File, Lane, Lock, Op, Replaced};
use machines::net::{Answer, Body, Got};
use machines::precheck::files::Marker;
use machines::wal::files::{CLASSES, Positions};

use crate::policies;
use crate::sabotage::Sabotage;
use crate::world::{BACKGROUND, World, fired};

impl World {
    /// A chain as a broken driver or machine would run it.
    pub(crate) fn spoil_chain(&mut self, proc: usize, lane: Lane, ops: &mut Vec<Op>) {
        let Some(sabotage) = self.sabotage else { return };
        self.disk.lies.sync_does_nothing = sabotage == Sabotage::SyncDoesNothing;
        self.disk.lies.sync_dir_does_nothing = sabotage == Sabotage::SyncDirDoesNothing;
        self.disk.lies.drop_nth_append = if sabotage == Sabotage::AppendDropped { 5 } else { 0 };
        if sabotage == Sabotage::PublishesBeforeSync && proc == 0 && lane == Lane::Log && ops.len() >= 2 {
            let last = ops.len() - 1;
            if matches!(ops.get(last), Some(Op::Publish(_))) {
                ops.swap(last - 1, last);
            }
        }
        if sabotage == Sabotage::RecoveryDoesNotSync && proc == 0 && !self.node.ready {
            ops.retain(|op| !matches!(op, Op::Sync(File::Live)));
        }
        if sabotage == Sabotage::RewriteSkipped {
            ops.retain(|op| !matches!(op, Op::Rewrite { .. }));
        }
        if sabotage == Sabotage::RenameWithoutSync {
            ops.retain(|op| !matches!(op, Op::Sync(File::Temp(Replaced::Activation))));
        }
        if proc != 0 && proc < BACKGROUND {
            self.spoil_release(sabotage, ops);
        }
        if sabotage == Sabotage::LoadNotAtomic {
            let ours = |op: &Op| {
                matches!(op, Op::Sync(File::Temp(Replaced::Activation)) | Op::Rename { to: File::Activation, .. })
            };
            ops.retain(|op| !ours(op));
            for op in ops.iter_mut() {
                if let Op::Put { file, .. } = op
                    && *file == File::Temp(Replaced::Activation)
                {
                    *file = File::Activation;
                }
            }
        }
    }

    /// The chain of a broken operator.
    fn spoil_release(&self, sabotage: Sabotage, ops: &mut Vec<Op>) {
        let of_lock = |op: &Op| {
            matches!(
                op,
                Op::Put { file: File::Temp(Replaced::Lock(_)), .. }
                    | Op::Sync(File::Temp(Replaced::Lock(_)))
                    | Op::Rename { to: File::Lock(_), .. }
                    | Op::SyncDir(Dir::Locks)
            )
        };
        let activates = ops.iter().any(of_lock);
        if sabotage == Sabotage::LockNotSynced {
            ops.retain(|op| !matches!(op, Op::Sync(File::Temp(Replaced::Lock(_)))));
        }
        if sabotage == Sabotage::LockAfterActivation {
            let mut moved: Vec<Op> = ops.extract_if(.., |op| of_lock(op)).collect();
            let unlock = ops.pop();
            ops.append(&mut moved);
            ops.extend(unlock);
        }
        for op in ops.iter_mut().filter(|_| activates) {
            let Op::Put { file: File::Temp(what), bytes } = op else { continue };
            if sabotage == Sabotage::BundleFetchedTwice && matches!(what, Replaced::Bundle(_)) {
                let other = policies::ALL.iter().find(|variant| variant.bytes != *bytes);
                *bytes = other.map_or_else(Vec::new, |other| other.bytes.clone());
            }
            if sabotage == Sabotage::LockRewritten && matches!(what, Replaced::Lock(_)) {
                *bytes = String::from_utf8_lossy(bytes).replacen("1.0.", "9.0.", 1).into_bytes();
            }
            if sabotage == Sabotage::TimeFloorFromClock && *what == Replaced::Activation {
                let text = String::from_utf8_lossy(bytes);
                let (start, _) = text.split_once(",\"time_floor\":").unwrap_or_default();
                let now = self.clock.now(self.now).wall;
                *bytes = format!("{start},\"time_floor\":\"{now}\"}}\n").into_bytes();
            }
        }
    }

    /// An operation as a broken device would do it; `None` = as it is.
    pub(crate) fn spoil_op(&mut self, proc: usize, op: &Op) -> Option<Result<Done, Kind>> {
        match (self.sabotage?, op) {
            (Sabotage::StaleActivation, Op::Read { file: File::Activation, .. })
                if proc == 0 && !self.first_activation.is_empty() =>
            {
                Some(Ok(Done::Bytes(self.first_activation.clone())))
            }
            (Sabotage::MarkerIgnored, Op::Read { file: File::Precheck, .. }) => {
                let boot_id = self.required_boot()?;
                Some(Ok(Done::Bytes(Marker { boot_id, exit: 0 }.to_bytes())))
            }
            (Sabotage::FloorIgnored, Op::Read { file: File::SafeSeq, .. }) if proc == 0 => {
                Some(Ok(Done::Bytes(vec![0; 8])))
            }
            (Sabotage::GoodFrameCut, Op::Read { file: File::Live, at, .. })
                if proc == 0 && !self.node.ready && self.has_fired(fired::MEDIA_LOG) =>
            {
                let last = self.ledger.at(crate::ledger::look(&self.disk).last)?;
                let place = last.start.checked_sub(usize::try_from(*at).ok()?)? + 20;
                let here = self.disk.number(File::Live) == Some(last.inode);
                let Ok(Done::Bytes(mut bytes)) = self.disk.apply(op) else { return None };
                *bytes.get_mut(place).filter(|_| here)? ^= 1;
                Some(Ok(Done::Bytes(bytes)))
            }
            (Sabotage::WholeLogRefused, Op::Read { file: File::Base, .. })
                if proc == 0 && self.has_fired(fired::MEDIA_LOG) =>
            {
                Some(Ok(Done::Bytes(Vec::new())))
            }
            (Sabotage::OutcomeLost, Op::Append { file: File::Live, bytes, .. })
                if bytes.windows(15).any(|w| w == b"outcome_unknown") =>
            {
                Some(Ok(Done::Nothing))
            }
            (Sabotage::ExportPastSafe, Op::Read { file: File::SafeSeq, .. }) if proc >= BACKGROUND => {
                let last = self.ledger.entries.last().map_or(0, |entry| entry.seq);
                Some(Ok(Done::Bytes(last.to_le_bytes().to_vec())))
            }
            (Sabotage::ErrorsForgotten, Op::Read { file: File::Positions, .. }) if proc >= BACKGROUND => {
                let [_, decision, lifecycle] = self.cursors();
                let error = self.safe_on_disk();
                Some(Ok(Done::Bytes(self.positions([error, decision, lifecycle])?)))
            }
            (Sabotage::UndeliveredRemoved, Op::Read { file: File::Positions, .. }) if proc == 0 => {
                Some(Ok(Done::Bytes(self.positions([self.safe_on_disk(); 3])?)))
            }
            (Sabotage::FloorNotKept, Op::Read { file: File::Activation, .. }) if proc != 0 && proc < BACKGROUND => {
                let text = String::from_utf8_lossy(self.disk.read(File::Activation)?).into_owned();
                let (start, rest) = text.split_once(",\"floors\":{")?;
                let (floors, end) = rest.split_once('}')?;
                // Only those of locks: the floors of policies have oracles of their own.
                let kept: Vec<&str> = floors.split(',').filter(|floor| floor.starts_with("\"policy/")).collect();
                Some(Ok(Done::Bytes(format!("{start},\"floors\":{{{}}}{end}", kept.join(",")).into_bytes())))
            }
            (Sabotage::RecordForOtherBytes, Op::Read { file: File::Verified(bundle), .. }) => {
                let there = self.disk.names().find(|file| matches!(file, File::Verified(_)))?;
                let record = Record::parse(self.disk.read(there)?)?;
                Some(Ok(Done::Bytes(Record { bundle: *bundle, ..record }.to_bytes())))
            }
            (Sabotage::CursorNotSynced, Op::Sync(File::Temp(Replaced::Positions))) => Some(Ok(Done::Nothing)),
            (Sabotage::RejectedLost, Op::Rename { to: File::Rejected(_), .. }) => Some(Ok(Done::Nothing)),
            (Sabotage::DrainLockShared, Op::Lock(Lock::Drain)) => Some(Ok(Done::Nothing)),
            _ => None,
        }
    }

    fn positions(&self, cursors: [u64; 3]) -> Option<Vec<u8>> {
        let cursors: BTreeMap<String, u64> = CLASSES.iter().map(|class| (*class).to_owned()).zip(cursors).collect();
        Some(Positions { log_id: self.log_id?, cursors, repairs: 0 }.to_bytes())
    }

    /// An answer of the collector as a broken driver reads it.
    pub(crate) fn spoil_answer(&self, got: Got) -> Got {
        if self.sabotaged_by(Sabotage::RejectionTaken)
            && let Got::Answered(Answer { status: 400 | 413 | 422, .. }) = &got
        {
            let body = Body::Full { words: String::new() };
            return Got::Answered(Answer { status: 200, retry_after: None, body });
        }
        got
    }
}
