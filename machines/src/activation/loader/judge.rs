//! What becomes of a command, and what the history says of it. Nothing is read or written here.

use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Command, Loader};
use crate::activation::history::{End, Line, What};
use crate::activation::{Activation, LockSlot, MAX_BYTES, Record, Slot};
use crate::policy::bundle::Bundle;

/// What was decided: what will be in force, or why nothing changes.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // one of them, for a moment
pub(super) enum Verdict {
    Commit { before: Activation, after: Activation, bundle: Option<Arc<Bundle>> },
    Refuse { before: Option<Activation>, slot: Option<Slot>, reason: String },
}

/// A change that nobody could read afterwards is not made.
pub(super) fn readable(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Commit { before, after, bundle } if after.to_bytes().len() > MAX => {
            let reason =
                alloc::format!("activation.json would be longer than {MAX} bytes: it keeps a floor for each name");
            Verdict::Refuse { before: Some(before), slot: bundle.as_deref().map(Slot::of), reason }
        }
        kept @ (Verdict::Commit { .. } | Verdict::Refuse { .. }) => kept,
    }
}

#[allow(clippy::as_conversions)] // a constant that fits
const MAX: usize = MAX_BYTES as usize;

impl Loader {
    /// An image that was refused: so it is recorded.
    pub(super) fn refused(&self, before: Option<Activation>) -> Verdict {
        let reason = match &self.command {
            Command::Refused { reason } => reason.clone(),
            Command::Load { .. }
            | Command::Rollback { .. }
            | Command::Activate { .. }
            | Command::Remember { .. }
            | Command::ResetFloor { .. } => panic!("loader: nothing was refused before"),
        };
        Verdict::Refuse { before, slot: None, reason }
    }

    /// A bundle that is loaded by itself, with the lock of its record where one is asked for.
    pub(super) fn judge_load(&self, before: Activation, bundle: Arc<Bundle>, lock: Option<LockSlot>) -> Verdict {
        let mut after = before.with(&bundle, lock.clone());
        if lock.is_none() && before.current.as_ref().is_some_and(|current| current.names(&bundle)) {
            // The very bundle in force, loaded once more by itself, loses nothing of what it came with.
            after.current.clone_from(&before.current);
        }
        match before.admit(&bundle, &self.runtime) {
            Ok(()) => Verdict::Commit { after, before, bundle: Some(bundle) },
            Err(reason) => Verdict::Refuse { before: Some(before), slot: Some(Slot::of(&bundle)), reason },
        }
    }

    /// Whether this record is of a later release than the one that is to be remembered. Whoever imports an older one takes
    /// nothing away by it; what is put in force is remembered in any case.
    pub(super) fn is_outdone(&self, record: Option<&Record>) -> bool {
        let Command::Remember { release } = &self.command else { return false };
        let lock = &release.get().lock;
        record.is_some_and(|known| known.lock.name == lock.name && known.lock.sequence > lock.sequence)
    }

    pub(super) fn judge_release(&self, before: Activation, bundle: Arc<Bundle>) -> Verdict {
        let (release, judged) = match &self.command {
            Command::Activate { release, terms } => {
                let release = release.get();
                let admitted = before.admit_release(release, terms).map_err(|rejection| rejection.to_string());
                let judged = admitted.and_then(|()| before.admit(&bundle, &self.runtime));
                (release, judged.map(|()| before.with(&bundle, Some(LockSlot::of(release)))))
            }
            Command::Remember { release } => {
                let release = release.get();
                let mut after = before.clone();
                after.saw(&LockSlot::of(release));
                // An older one may be kept; one of another name has no business here.
                let named = before.admit_lock(&release.lock.name, u64::MAX, self.name.as_deref());
                (release, named.map_err(|rejection| rejection.to_string()).map(|()| after))
            }
            Command::Load { .. } | Command::Rollback { .. } | Command::Refused { .. } | Command::ResetFloor { .. } => {
                panic!("loader: it judges no release")
            }
        };
        match judged {
            Ok(after) => Verdict::Commit { before, after, bundle: Some(bundle) },
            Err(reason) => {
                let slot = Slot { lock: Some(LockSlot::of(release)), ..Slot::of(&bundle) };
                Verdict::Refuse { before: Some(before), slot: Some(slot), reason }
            }
        }
    }

    pub(super) fn judge_rollback(&self, before: Activation, bundle: Arc<Bundle>) -> Verdict {
        let below_floor = matches!(&self.command, Command::Rollback { below_floor: Some(_) });
        let after = before.swapped(&bundle, below_floor);
        let lock = after.current.as_ref().and_then(|current| current.lock.as_ref());
        let admitted = if !after.current.as_ref().is_some_and(|current| current.names(&bundle)) {
            Err(String::from("the last known good bundle's file holds another bundle"))
        } else {
            let lock_admitted = match lock {
                Some(lock) => {
                    let sequence = if below_floor { u64::MAX } else { lock.sequence };
                    let name = self.name.as_deref().unwrap_or(&lock.name);
                    before.admit_lock(&lock.name, sequence, Some(name)).map_err(|no| no.to_string())
                }
                None => Ok(()),
            };
            lock_admitted
                .and_then(|()| after.admit(&bundle, &self.runtime))
                .map_err(|words| alloc::format!("{words}; `--below-floor --reason TEXT` goes below it and is recorded"))
        };
        match admitted {
            Ok(()) => Verdict::Commit { before, after, bundle: Some(bundle) },
            Err(reason) => Verdict::Refuse { before: Some(before), slot: Some(Slot::of(&bundle)), reason },
        }
    }

    pub(super) fn lines(&self, verdict: &Verdict, end: &End) -> Vec<Line> {
        let mut lines = Vec::new();
        let (before, line) = match verdict {
            Verdict::Commit { before, after, bundle } => {
                let (what, reason) = match &self.command {
                    Command::Load { .. } => (What::Load, None),
                    Command::Rollback { below_floor } => (What::Rollback, below_floor.clone()),
                    Command::Activate { .. } => (What::Activate, None),
                    Command::Remember { .. } => (What::Verified, None),
                    Command::Refused { .. } => panic!("loader: a refusal changes nothing"),
                    Command::ResetFloor { name, reason, .. } => {
                        let mut words = alloc::format!("{name} {}: {reason}", before.lock_floor(name));
                        if let (Some(old), None) = (before.time_floor, after.time_floor) {
                            words = alloc::format!("time floor {old}; {words}");
                        }
                        (What::FloorReset, Some(words))
                    }
                };
                let slot = match &self.command {
                    Command::Remember { release } => {
                        let release = release.get();
                        Some(Slot { lock: Some(LockSlot::of(release)), ..Slot::of(&release.bundle) })
                    }
                    Command::Load { .. } | Command::Rollback { .. } | Command::Activate { .. } => after.current.clone(),
                    Command::Refused { .. } | Command::ResetFloor { .. } => bundle.as_deref().map(Slot::of),
                };
                (Some(before), Line { activation: Some(after.hash()), ..Line::of(what, slot, reason) })
            }
            Verdict::Refuse { before, slot, reason } => {
                (before.as_ref(), Line::of(What::Refused, slot.clone(), Some(reason.clone())))
            }
        };
        // The last line promised a file that is not there: its change was cut short.
        if let (Some(before), Some(change)) = (before, end.change)
            && before.hash() != change
        {
            lines.push(Line::of(What::NotCommitted, None, None));
        }
        lines.push(line);
        lines
    }
}
