//! What must hold of a verification: **I-S1** what passes is genuine byte by byte, and whoever tells the truth gets the verdict
//! that the release deserves, at its step.

use machines::time::Wall;
use machines::verify::{self, Failed, Passed, Step};

use crate::marks::Mark;
use crate::oracles::Oracle;
use crate::oracles_release::Verdict;
use crate::plan::Order;
use crate::policies;
use crate::releases::{self, ALL, Binding, Expect};
use crate::world::{Checking, Errand, World};

/// Whether a date is young enough: surely, surely not, or it hangs on when the clock was read.
fn is_fresh(at: Wall, floor: Wall, clock: (Wall, Wall)) -> Option<bool> {
    let young = |today: Wall| today.max(floor).since(at) <= verify::MAX_AGE;
    let (early, late) = (young(clock.0), young(clock.1));
    (early == late).then_some(early)
}

impl World {
    /// A verification ended: as it must, and with the steps in order.
    pub(crate) fn check_verdict(&mut self, proc: usize, result: &Result<Passed, Failed>) {
        let Some(operator) = self.operator(proc) else { return };
        let Errand::Fetch(order) = operator.errand else { return };
        let Some(checking) = operator.checking.take() else { return };
        let failed = match result {
            Ok(_) => 4,
            Err(Failed::Step(step, _)) => usize::from(step.number()) - 1,
            Err(Failed::Source(_)) => checking.steps.len(),
        };
        let in_order = checking.steps.iter().zip(Step::ALL).enumerate().all(|(at, ((step, how), want))| {
            let wanted = match at.cmp(&failed) {
                std::cmp::Ordering::Less => Some(true),
                std::cmp::Ordering::Equal => Some(false),
                std::cmp::Ordering::Greater => None,
            };
            *step == want && *how == wanted
        });
        let whole = checking.steps.len() == 4 || matches!(result, Err(Failed::Source(_)));
        if !in_order || !whole {
            let steps = checking.steps.clone();
            return self.fail(Oracle::Verdict, || format!("the steps {steps:?} ended with {result:?}"));
        }
        let verdict = match result {
            Ok(passed) => self.check_passed(proc, &checking, passed),
            Err(Failed::Step(step, _)) => Verdict::Failed(*step),
            Err(Failed::Source(_)) => Verdict::Source,
        };
        self.supply.verdicts.push(verdict);
        if self.failure.is_none() {
            self.check_honest(&order, &checking, verdict);
            self.mark_verdict(&order, &checking, verdict);
        }
    }

    /// **I-S1**: what passed is, byte by byte, a release of which every part is genuine and young enough.
    fn check_passed(&mut self, proc: usize, checking: &Checking, passed: &Passed) -> Verdict {
        let Some(got) = passed.release.as_ref().map(verify::Verified::get) else {
            self.fail(Oracle::Verdict, || {
                "a verification that requires lock and policy passed without a release".into()
            });
            return Verdict::Source;
        };
        let release = releases::by_image(&got.image).filter(|release| !release.dates.is_empty());
        let bound = |lock: &&Binding| lock.genuine && lock.image == got.image && lock.bytes == got.lock_bytes;
        let (Some(release), Some(lock)) = (release, ALL.locks.iter().find(bound)) else {
            self.fail(Oracle::Unverified, || format!("{got:?} passed, and it is not genuine"));
            return Verdict::Source;
        };
        let number = release.number;
        let policy = policies::variant(lock.variant);
        if policy.is_none_or(|policy| policy.bytes != got.bundle_bytes || policy.digest != got.bundle.digest) {
            self.fail(Oracle::Unverified, || {
                format!("release {number} passed with another policy than its lock binds")
            });
        }
        if let Some(blob) = release.blobs.iter().find(|blob| !checking.source.honest.contains(blob)) {
            self.fail(Oracle::Unverified, || {
                format!("release {number} passed, and {blob} never came as it was pushed")
            });
        }
        if !release.dates.contains(&got.signed_at) {
            let at = got.signed_at;
            self.fail(Oracle::Unverified, || {
                format!("release {number} passed with the date {at}, which nobody signed")
            });
        } else if is_fresh(got.signed_at, checking.floor, checking.clock) == Some(false) {
            let (at, floor, clock) = (got.signed_at, checking.floor, checking.clock);
            self.fail(Oracle::Unverified, || {
                format!("release {number} passed, signed at {at}, floor {floor}, by the clock {clock:?}")
            });
        }
        self.supply.passed |= 1 << lock.number;
        if let Some(operator) = self.operator(proc) {
            operator.checking =
                Some(Box::new(Checking { passed: Some((lock.number, got.signed_at)), ..checking.clone() }));
        }
        Verdict::Passed(number)
    }

    /// A source that told the truth gets the verdict that the release deserves, and an unreachable one is not blamed on it.
    fn check_honest(&mut self, order: &Order, checking: &Checking, verdict: Verdict) {
        if verdict == Verdict::Source && !checking.source.out_of_reach {
            return self.fail(Oracle::Verdict, || "a source that always answered is called unreachable".into());
        }
        let Some(release) = releases::release(order.release) else { return };
        if checking.source.lied || checking.source.misleads() {
            return;
        }
        let newest = release.dates.iter().max().copied();
        let fresh = newest.map_or(Some(false), |at| is_fresh(at, checking.floor, checking.clock));
        let first = Verdict::Failed(Step::Signature);
        let fine = match (release.expect, fresh) {
            (Expect::Pass | Expect::Either, Some(false)) => verdict == first,
            (Expect::Pass, Some(true)) => verdict == Verdict::Passed(release.number),
            (Expect::Pass, None) | (Expect::Either, _) => {
                verdict == Verdict::Passed(release.number) || verdict == first
            }
            (Expect::Fail(step), Some(true)) => verdict == Verdict::Failed(step),
            (Expect::Fail(step), _) => verdict == Verdict::Failed(step) || verdict == first,
        };
        if !fine {
            let (number, expect) = (release.number, release.expect);
            self.fail(Oracle::Verdict, || {
                format!(
                    "release {number} from an honest source: {verdict:?} where it must be {expect:?}, fresh: {fresh:?}"
                )
            });
        }
    }

    fn mark_verdict(&mut self, order: &Order, checking: &Checking, verdict: Verdict) {
        let source = &checking.source;
        match verdict {
            Verdict::Source => self.hit(Mark::SourceOutOfReach),
            Verdict::Failed(step) => {
                self.hit(match step {
                    Step::Signature => Mark::RejectedStep1,
                    Step::Digest => Mark::RejectedStep2,
                    Step::Fingerprint => Mark::RejectedStep3,
                    Step::Compatibility => Mark::RejectedStep4,
                });
                if source.lied {
                    self.hit(Mark::LieRejected);
                }
                let good = |expect| matches!(expect, Expect::Pass | Expect::Either);
                let release = releases::release(order.release).filter(|r| good(r.expect) && !source.lied);
                let Some(at) = release.filter(|_| !source.misleads()).and_then(|r| r.dates.iter().max().copied())
                else {
                    return;
                };
                let young = |today: Wall| today.since(at) <= verify::MAX_AGE;
                match (young(checking.clock.1), young(checking.floor)) {
                    (true, false) => self.hit(Mark::ExpiredByFloor),
                    (false, true) => self.hit(Mark::ExpiredByClock),
                    (true, true) | (false, false) => {}
                }
            }
            Verdict::Passed(number) => {
                let Some(release) = releases::release(number) else { return };
                let marks = [
                    (release.crowded, Mark::CrowdedPassed),
                    (release.index, Mark::IndexPassed),
                    (source.lied, Mark::PassedInSpite),
                    (source.tells("moved"), Mark::TagMoved),
                ];
                for (_, mark) in marks.into_iter().filter(|(reached, _)| *reached) {
                    self.hit(mark);
                }
            }
        }
    }
}
