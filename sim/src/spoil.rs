//! How what is broken on purpose changes chains and operations.

use machines::disk::{Done, FaultKind as Kind, File, Lane, Op, Replaced};

use crate::sabotage::Sabotage;
use crate::world::World;

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

    /// An operation as a broken device would do it; `None` = as it is.
    pub(crate) fn spoil_op(&mut self, proc: usize, op: &Op) -> Option<Result<Done, Kind>> {
        match (self.sabotage?, op) {
            (Sabotage::StaleActivation, Op::Read { file: File::Activation, .. })
                if proc == 0 && !self.first_activation.is_empty() =>
            {
                Some(Ok(Done::Bytes(self.first_activation.clone())))
            }
            (Sabotage::FloorIgnored, Op::Read { file: File::SafeSeq, .. }) if proc == 0 => {
                Some(Ok(Done::Bytes(vec![0; 8])))
            }
            (Sabotage::OutcomeLost, Op::Append { file: File::Live, bytes, .. })
                if bytes.windows(15).any(|w| w == b"outcome_unknown") =>
            {
                Some(Ok(Done::Nothing))
            }
            _ => None,
        }
    }
}
