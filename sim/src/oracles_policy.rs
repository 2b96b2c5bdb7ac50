//! What must hold of policies: their order in answers, commits, loads, fallbacks.

use machines::disk::File;

use crate::ledger::NONE;
use crate::marks::Mark;
use crate::oracles::{AnswerView, Commit, Oracle};
use crate::oracles_release::{EMPTY, NOTHING, Seen, UNKNOWN};
use crate::policies;
use crate::world::{CallRec, Errand, World, fired};

impl World {
    /// **I-P3**, by the earliest commit that the call may have been decided by: what is concluded from it is never too much.
    pub(crate) fn check_order(&mut self, rec: &CallRec, variant: u8) {
        let id = rec.call.id;
        let verified = self.plan.config.verified;
        // Where only verified ones count, one that has no lock decides nothing.
        let fits = |commit: &Commit| commit.variant == variant && !(verified && commit.seen.lock == NOTHING);
        let found = self.commits.iter().skip(rec.floor as usize).position(fits);
        match found {
            Some(at) => {
                let at = rec.floor + u32::try_from(at).unwrap_or(0);
                if at > self.gen_floor {
                    self.hit(Mark::HotReload);
                    self.gen_floor = at;
                }
            }
            None if self.fallen_back && self.commits.iter().any(fits) => {}
            None => {
                let floor = rec.floor;
                let words = if self.commits.iter().any(fits) {
                    "which is older than an answer before it"
                } else {
                    "which was never in force"
                };
                self.fail(Oracle::PolicyOrder, || {
                    format!("call {id} is decided by policy {variant}, {words} (commit {floor})")
                });
            }
        }
    }

    pub(crate) fn check_no_policy(&mut self, rec: &CallRec, view: &AnswerView<'_>) {
        let id = rec.call.id;
        let acked = self.acked.filter(|(at, _)| self.commits.get(*at as usize).is_some_and(|c| c.variant != NOTHING));
        let known = acked.is_some_and(|(_, us)| rec.sent_us > us + 1_500_000) || rec.floor > 0;
        let settled = self.acked.is_some_and(|(at, _)| at == 0) && self.plan.config.policy.is_some();
        let excuse = self.fallen_back || self.has_fired(fired::MEDIA_POLICY | fired::READ | fired::SLOW);
        let barred = view.reason == Some("precheck_failed");
        let named = view.reason == Some("no_policy") || barred || self.plan.config.strict;
        if !named || (known || settled) && !excuse {
            self.fail(Oracle::PolicyOrder, || format!("call {id} is decided by no policy although one is in force"));
        }
    }

    /// `activation.json` was replaced by a process.
    pub(crate) fn committed(&mut self, proc: usize) {
        let unreadable = Seen { variant: UNKNOWN, ..EMPTY };
        let (seen, print) = self.seen_on_disk().unwrap_or((unreadable, 0));
        let variant = seen.variant;
        let index = u32::try_from(self.commits.len()).unwrap_or(NONE);
        let operator = proc.checked_sub(1).and_then(|p| self.operators.get_mut(p)).and_then(Option::as_mut);
        let (before, errand) = operator.map_or((0, None), |o| {
            o.committed = Some(index);
            (o.before, Some(o.errand))
        });
        let earlier = self.commits.iter().rev().find(|c| c.print == before).copied();
        let (was, floor) = earlier.map_or((EMPTY, 0), |c| (c.seen, c.floor));
        let (sequence, min) = policies::variant(variant).map_or((0, 0), |v| (v.sequence, v.min_sequence));
        let usable = policies::variant(variant).is_some_and(|v| v.opened.is_ok()) && variant != policies::INCOMPATIBLE;
        let below = errand == Some(Errand::Rollback { below: true });
        // What was in force stays so, whatever was barred meanwhile.
        let stays = errand.is_some_and(|errand| !errand.sets_policy());
        if !stays && (!usable || sequence < floor && !below) {
            self.fail(Oracle::LoadAdmitted, || {
                format!("policy {variant} (sequence {sequence}, floor {floor}) was put in force")
            });
        }
        let floor = match (below, stays) {
            (true, _) => floor.min(sequence).max(min),
            (false, true) => floor,
            (false, false) => floor.max(min),
        };
        let at_us = self.us();
        self.trace.record(17, u64::from(variant), print);
        self.say(|| format!("commit {index}: policy {variant}, lock {}, floors {:?}", seen.lock, seen.floors));
        let known = earlier.is_some() || before == 0 && !self.has_fired(fired::MEDIA_POLICY);
        self.check_replaced(proc, Some(&was).filter(|_| known), &seen);
        self.commits.push(Commit { variant, print, floor, at_us, seen });
    }

    /// **I-P4**: `activation.json` is what it was before or what it is after, and what was reported as done is done.
    pub(crate) fn check_activation_whole(&mut self) {
        if self.has_fired(fired::MEDIA_POLICY) {
            return;
        }
        let Some((seen, print)) = self.seen_on_disk() else {
            if self.disk.read(File::Activation).is_some() {
                return self.fail(Oracle::LoadAtomic, || "activation.json is no whole file".into());
            }
            if self.acked.is_some() {
                self.fail(Oracle::LoadAtomic, || "activation.json is gone".into());
            }
            return;
        };
        let Some(at) = self.commits.iter().rposition(|commit| commit.print == print) else {
            return self.fail(Oracle::LoadAtomic, || "activation.json is neither as before nor as after".into());
        };
        if self.acked.is_some_and(|(acked, _)| (at as u64) < u64::from(acked)) {
            return self.fail(Oracle::LoadAtomic, || "a load was reported as done and is undone".into());
        }
        self.check_named(&seen, false);
    }

    /// A node starts: what it will find.
    pub(crate) fn check_activation_at_start(&mut self) {
        self.fallen_back = false;
        self.check_activation_whole();
    }

    /// The node does not use the current policy.
    pub(crate) fn check_fallback(&mut self) {
        if !self.has_fired(fired::MEDIA_POLICY | fired::READ) {
            self.fail(Oracle::Fallback, || "the node fell back from a policy that nothing had damaged".into());
        }
    }

    /// A load ended with a report.
    pub(crate) fn check_load(&mut self, proc: usize, ok: bool) {
        let Some(Some(operator)) = proc.checked_sub(1).and_then(|p| self.operators.get(p)) else { return };
        let (committed, before, faulted) = (operator.committed, operator.before_all, operator.faulted);
        let alone = operator.commits as usize == self.commits.len();
        let locked = operator.locked;
        match committed {
            Some(index) if ok => {
                let firm = self
                    .disk
                    .number(File::Activation)
                    .is_some_and(|number| self.disk.firm(number) >= self.disk.read_number(number).len());
                let latest = index as usize + 1 == self.commits.len();
                if latest && !firm && !self.has_fired(fired::LOST_SYNC | fired::MEDIA_POLICY) {
                    return self.fail(Oracle::LoadAtomic, || "a load is reported as done and not durable".into());
                }
                let us = self.us();
                self.acked =
                    Some(self.acked.map_or((index, us), |(old, at)| if old > index { (old, at) } else { (index, us) }));
            }
            None if ok => self.fail(Oracle::LoadAtomic, || "a load is reported as done and changed nothing".into()),
            Some(_) if !faulted => {
                self.fail(Oracle::LoadAtomic, || "a load is reported as refused and took effect".into());
            }
            // One that failed for the device may leave a bundle that nothing names.
            None if locked && alone && !faulted => {
                if self.policy_print() != before && !self.has_fired(fired::MEDIA_POLICY) {
                    self.fail(Oracle::LoadAtomic, || "a refused load changed activation.json or a bundle".into());
                }
            }
            Some(_) | None => {}
        }
    }

    /// A hash over `activation.json` and all bundles, locks and records.
    pub(crate) fn policy_print(&self) -> u64 {
        let ours = |file| matches!(file, File::Activation | File::Bundle(_) | File::Lock(_) | File::Verified(_));
        self.disk.fingerprint(ours)
    }

    /// The policy that has to decide once everything is quiet.
    pub(crate) fn expected_policy(&self) -> Option<u8> {
        self.seen_on_disk().map(|(seen, _)| seen.variant).filter(|variant| *variant != NOTHING)
    }
}
