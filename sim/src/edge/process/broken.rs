//! Devices that are broken on purpose, and what they do instead.

use machines::disk::FaultKind;
use machines::ids::Hash32;
use machines::tree::{Done, Kind, Op, Place};

use super::Process;
use crate::edge::ledger::File;
use crate::edge::material::{self, state};
use crate::edge::run::Run;
use crate::edge::sabotage::Sabotage;

impl Process {
    /// What a device that is broken on purpose does instead.
    pub(super) fn by_sabotage(&mut self, run: &mut Run, op: &Op) -> Option<Result<Done, FaultKind>> {
        let fine = Some(Ok(Done::Nothing));
        let step = |place: &Place| {
            let made = self.approved.into_iter().flat_map(|release| &release.made);
            made.into_iter().any(|made| made.at == *place || made.at.temp() == *place)
        };
        match (run.sabotage?, op) {
            (Sabotage::SyncDoesNothing, Op::Sync(_)) | (Sabotage::SyncFolderDoesNothing, Op::SyncFolder(_)) => fine,
            (Sabotage::ChainNotSynced, Op::Sync(at)) if *at == File::Chain.place().temp() => fine,
            (Sabotage::InstalledNotSynced, Op::Sync(at)) if step(at) => fine,
            (Sabotage::EpochFirst, op) if self.touches_destination(op) => {
                self.deferred.push(op.clone());
                if let Op::Copy { from, .. } = op { Some(run.tree.apply(&Op::Hash(from.clone()))) } else { fine }
            }
            (Sabotage::EpochFirst, Op::Rename { to, .. }) if File::Chain.is(to) => {
                let result = run.tree.apply(op);
                for op in std::mem::take(&mut self.deferred) {
                    let _ = run.tree.apply(&op);
                }
                Some(result)
            }
            (Sabotage::ProjectionsFirst, Op::Rename { to, .. }) if File::Chain.is(to) => {
                self.deferred.push(op.clone());
                fine
            }
            (Sabotage::ProjectionsFirst, Op::Rename { to, .. }) if File::Print.is(to) => {
                let result = run.tree.apply(op);
                for op in std::mem::take(&mut self.deferred) {
                    let _ = run.tree.apply(&op);
                }
                Some(result)
            }
            (Sabotage::PreflightSkipped, Op::Hash(_)) => {
                let place = op_place(op)?;
                let wanted = self.approved?.made.iter().find_map(|made| match &made.makes {
                    material::Makes::Copy(n, content) => {
                        let from = material::SOURCES.get(*n).map(|path| state(path));
                        (from.as_ref() == Some(place)).then(|| content.clone())
                    }
                    material::Makes::File(_) | material::Makes::Folder | material::Makes::Link(_) => None,
                })?;
                Some(Ok(Done::Hash(Hash32(*blake3::hash(wanted.bytes()).as_bytes()), 0)))
            }
            (Sabotage::PreflightSkipped, Op::Look(place)) if step(place) => Some(Ok(Done::Is(Kind::Nothing))),
            (Sabotage::CopyNotCompared, Op::Copy { to, .. }) => {
                let made = self.approved?.made.iter().find(|made| made.at.temp() == *to)?;
                let material::Makes::Copy(_, content) = &made.makes else { return None };
                let wanted = Hash32(*blake3::hash(content.bytes()).as_bytes());
                Some(run.tree.apply(op).map(|_| Done::Hash(wanted, 0)))
            }
            (Sabotage::MarkerFirst, Op::Put { at, mode, .. }) if *at == File::Marker.place().temp() => {
                let bytes = run.marker(0).bytes().to_vec();
                Some(run.tree.apply(&Op::Put { at: at.clone(), bytes, mode: *mode }))
            }
            (Sabotage::StaleChain, Op::Read { at, .. }) if File::Chain.is(at) => {
                let result = run.tree.apply(op);
                if let Ok(Done::Bytes(bytes)) = &result {
                    // The first line is the first chain.
                    let first = bytes.split_inclusive(|b| *b == b'\n').next().unwrap_or_default().to_vec();
                    self.first_chain = Some(first);
                }
                self.first_chain.clone().map_or(Some(result), |bytes| Some(Ok(Done::Bytes(bytes))))
            }
            (Sabotage::ExchangeInSteps, Op::Exchange { a, b }) => {
                let aside = a.temp();
                let renames = [(a, &aside), (b, a), (&aside, b)];
                for (from, to) in renames {
                    let _ = run.tree.apply(&Op::Rename { from: from.clone(), to: to.clone() });
                    run.judge_identity("an exchange in steps");
                }
                fine
            }
            (Sabotage::RenameInPlace, Op::Rename { from, to }) if File::Chain.is(to) => {
                let content = run.tree.file(from)?;
                let _ = run.tree.apply(&Op::Remove(to.clone()));
                let mode = machines::tree::Mode::PRIVATE;
                let put = Op::Put { at: to.clone(), bytes: content.bytes().to_vec(), mode };
                let _ = run.tree.apply(&put);
                Some(run.tree.apply(&Op::Remove(from.clone())))
            }
            (_, _) => None,
        }
    }

    fn touches_destination(&self, op: &Op) -> bool {
        let made = || self.approved.into_iter().flat_map(|release| &release.made);
        let is = |place: &Place| made().any(|made| made.at == *place || made.at.temp() == *place);
        if let Op::SyncFolder(place) = op {
            return made().any(|made| made.at.folder() == *place || made.at == *place);
        }
        if let Op::Rename { from, to } = op {
            return is(from) || is(to);
        }
        let looks = matches!(op, Op::Look(_) | Op::Hash(_) | Op::Read { .. } | Op::List { .. } | Op::Open(_));
        !looks && op_place(op).is_some_and(is)
    }
}

/// The place that an operation is about.
fn op_place(op: &Op) -> Option<&Place> {
    match op {
        Op::Open(_) | Op::Lock => None,
        Op::Look(at)
        | Op::List { at, .. }
        | Op::Read { at, .. }
        | Op::Hash(at)
        | Op::Put { at, .. }
        | Op::Copy { to: at, .. }
        | Op::MakeFolder { at, .. }
        | Op::Link { at, .. }
        | Op::Sync(at)
        | Op::SyncFolder(at)
        | Op::Rename { to: at, .. }
        | Op::Exchange { a: at, .. }
        | Op::Remove(at)
        | Op::RemoveFolder(at) => Some(at),
    }
}
