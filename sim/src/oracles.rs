//! What must hold, checked while a run goes on. Each check names the invariant of SPEC 12 that it stands for.
//!
//! What a fault may excuse, and nothing else:
//!
//! - **A damaged medium** (bit rot, a misdirected write, an operator's cut) of the log: the node may refuse to open it, with
//!   nothing on disk changed, if something about the log is wrong when it says so. It may go on only if every frame that it
//!   keeps verifies from `telemetry.base` on, and then only frames may be missing that the damage reached (the first frame
//!   with damaged bytes and those behind it), that did not verify when a start read them, and that lay above the floor of
//!   that start (safe-point and cursors on the disk), even if they were answered: nothing on the disk said that they had
//!   been durable. What exactly is in `harm.rs`. Once a whole log was checked and the medium hides nothing more, the damage
//!   excuses nothing any more.
//! - **An operator's cut** also excuses `wal_failed`: the writer finds the file shorter than it left it.
//! - **A failed sync** (its pages are clean now and not on the medium): `wal_failed` and its consequences for callers (503,
//!   500) until the next restart. Never a loss, not even when the power goes later: a restart writes again what it keeps.
//! - **A damaged medium or a failed read of policy files**: a fallback to the last known good policy, or deny-all. Damage to
//!   `activation.json` also excuses floors that are not what they were: the file says nothing of itself that would show it.
//! - **A failed operation**: error lines, `wal_failed`, a load that reports failure though it took effect as a whole, a
//!   start that ends with cause `IO` and succeeds later.
//! - **A damaged `telemetry.pos`**: only what would have to be read from it while it is damaged. Its hash shows the damage, so that
//!   nobody may believe it.
//! - **A damaged log**, where a drain would have to read: a drain that gives up, and what it leaves undelivered.
//! - **A slow device or a stopped process**: time-outs (`budget`, 504) where there would be none.
//!
//! Process crashes, power losses, clocks and everything that clients and operators do excuse nothing but the answers
//! of the calls that were under way.

use machines::disk::File;
use machines::ids::Hash32;

use crate::ledger::{Kind, NONE};
use crate::marks::Mark;
use crate::oracles_release::Seen;
use crate::plan::Tool;
use crate::policies::{self, Want};
use crate::world::{CallRec, Ev, Stage, US, World, fired};

/// Which invariant was broken. A smaller plan counts only if it breaks the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Oracle {
    /// I-D1: an answered decision, or its outcome, is not durable or not in the recovered log.
    AnsweredLost,
    /// I-D2: a tool ran before its decision was durable, on a deny, or twice.
    ToolBeforeDecision,
    /// I-D3: a sequence below the safe-point names two contents.
    TwoContents,
    /// I-D3, I-D4: the safe-point is ahead of what is durable.
    SafePointAhead,
    /// I-D5: something undelivered was removed.
    RemovedUndelivered,
    /// A log was opened that does not verify.
    LogShape,
    /// I-P1: an allow without an active, compatible policy.
    AllowWithoutPolicy,
    /// I-P1: an allow, or a judgement, without the precheck that is required.
    AllowWithoutPrecheck,
    /// I-P2: an answer that the policy did not give.
    WrongVerdict,
    /// I-P3: a call was decided by an older policy than an answer before it, or by one that was never in force.
    PolicyOrder,
    /// I-P4: a load left something between before and after, or was reported and lost.
    LoadAtomic,
    /// A bundle was put in force that must be refused.
    LoadAdmitted,
    /// The current policy is not used and nothing explains it.
    Fallback,
    /// An allowed call has no outcome, or two.
    Outcomes,
    /// An answer that cannot be: twice, to nobody, with the wrong status.
    Answer,
    /// An error-level line that no fault explains.
    ErrorNote,
    /// A refusal to run that no media fault explains.
    Halt,
    /// A machine's own invariant broke.
    Panic,
    /// After everything was healed, something does not drain.
    Liveness,
    /// The same plan ran differently the second time.
    Determinism,
    /// I-D4: something was exported that a power loss may take back, or past the safe-point that was read.
    ExportPastSafe,
    /// I-D5: something is neither delivered nor put aside, and the drain or a cursor says that it is.
    Undelivered,
    /// I-D5: a cursor moved too far, back, or was said to be durable and is not.
    Cursor,
    /// A less important class went first, or starved.
    ClassOrder,
    /// Something was sent again without need, or too early.
    Resent,
    /// Two drains at once.
    DrainLock,
    /// I-S1: something is in force, or passed, that is not what was signed.
    Unverified,
    /// I-S2: a release is in force below a floor, or a floor moved.
    BelowFloor,
    /// I-S2: the time floor moved back, or to what nobody signed.
    TimeFloor,
    /// I-S3: `activation.json` names a lock that is not there or not durable.
    ReleaseAtomic,
    /// A verification or an activation ended otherwise than it must.
    Verdict,
    /// I-E1: the epoch advanced without a reconstruction, not once, too early, or went back.
    EpochOnce,
    /// I-E2: something was written that no signed manifest makes, or where nothing may be written.
    UnverifiedOperation,
    /// I-E3: after a crash the records contradict each other, or a precheck does not come to its end.
    Converges,
    /// A precheck ended with another exit code than the state of the world deserves.
    ExitCode,
    /// `bootstrap/precheck.json` says that this boot passed, and it did not; or the other way round.
    Marker,
    /// The node was without a whole identity.
    Identity,
}

impl Oracle {
    /// Its name in reports and regressions.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AnsweredLost => "I-D1 answered-lost",
            Self::ToolBeforeDecision => "I-D2 tool-before-decision",
            Self::TwoContents => "I-D3 two-contents",
            Self::SafePointAhead => "I-D4 safe-point-ahead",
            Self::RemovedUndelivered => "I-D5 removed-undelivered",
            Self::LogShape => "log-shape",
            Self::AllowWithoutPolicy => "I-P1 allow-without-policy",
            Self::AllowWithoutPrecheck => "I-P1 allow-without-precheck",
            Self::WrongVerdict => "I-P2 wrong-verdict",
            Self::PolicyOrder => "I-P3 policy-order",
            Self::LoadAtomic => "I-P4 load-atomic",
            Self::LoadAdmitted => "load-admitted",
            Self::Fallback => "fallback",
            Self::Outcomes => "outcomes",
            Self::Answer => "answer",
            Self::ErrorNote => "error-note",
            Self::Halt => "halt",
            Self::Panic => "panic",
            Self::Liveness => "liveness",
            Self::Determinism => "determinism",
            Self::ExportPastSafe => "I-D4 export-past-safe-point",
            Self::Undelivered => "I-D5 undelivered",
            Self::Cursor => "I-D5 cursor",
            Self::ClassOrder => "class-order",
            Self::Resent => "resent",
            Self::DrainLock => "drain-lock",
            Self::Unverified => "I-S1 unverified",
            Self::BelowFloor => "I-S2 below-floor",
            Self::TimeFloor => "I-S2 time-floor",
            Self::ReleaseAtomic => "I-S3 release-atomic",
            Self::Verdict => "verdict",
            Self::EpochOnce => "I-E1 epoch-once",
            Self::UnverifiedOperation => "I-E2 unverified-operation",
            Self::Converges => "I-E3 converges",
            Self::ExitCode => "exit-code",
            Self::Marker => "marker",
            Self::Identity => "identity",
        }
    }

    /// The process's exit code for it.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        if matches!(self, Self::Liveness) {
            3
        } else if matches!(self, Self::Determinism) {
            4
        } else {
            2
        }
    }
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub oracle: Oracle,
    /// How.
    pub words: String,
    /// When, in microseconds of the world.
    pub at_us: u64,
}

/// One replacement of `activation.json`.
#[derive(Clone, Copy, Debug)]
pub struct Commit {
    /// The variant that it puts in force; `u8::MAX` = none known.
    pub variant: u8,
    /// The file's fingerprint.
    pub print: u64,
    /// The lowest sequence that may be in force after it.
    pub floor: u64,
    /// When.
    pub at_us: u64,
    /// What the file says.
    pub seen: Seen,
}

/// What a caller was told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnswerView<'a> {
    pub id: u32,
    pub status: u16,
    pub allow: bool,
    pub reason: Option<&'a str>,
    pub audit: Option<u128>,
    /// The policy that it names, where it names a decision.
    pub policy: Option<Option<Hash32>>,
}

const NO_EXCUSE_TIMES: u32 = fired::SLOW;

impl World {
    /// Whether a frame would survive a power loss, or the medium was damaged there.
    pub(crate) fn is_firm(&self, index: u32) -> bool {
        self.ledger.is_firm(&self.disk, index) || self.ledger.entry(index).is_some_and(|e| self.harm.reaches(e.seq))
    }

    /// The safe-point as readers see it.
    pub(crate) fn safe_on_disk(&self) -> u64 {
        self.disk.read(File::SafeSeq).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
    }

    /// What the disk says was durable: the floor of SPEC 4.
    pub(crate) fn floor_on_disk(&self) -> u64 {
        self.cursors().into_iter().fold(self.safe_on_disk(), u64::max)
    }

    /// An answer reached its caller.
    pub(crate) fn on_answer(&mut self, view: AnswerView<'_>) {
        let id = view.id;
        self.trace.record(14, u64::from(id) << 16 | u64::from(view.status), self.now);
        let Some(at) = self.place_of(id) else {
            return self.fail(Oracle::Answer, || format!("an answer to call {id}, which nobody made"));
        };
        let Some(rec) = self.calls.get(at).copied() else { return };
        if rec.stage != Stage::Waiting {
            return self.fail(Oracle::Answer, || format!("a second answer to call {id}"));
        }
        match view.policy {
            Some(policy) => self.check_decided(&rec, &view, policy),
            None => self.check_undecided(&rec, &view),
        }
        if let Some(rec) = self.calls.get_mut(at) {
            rec.status = view.status;
            rec.allow = view.allow;
        }
        self.settle_call(at, Stage::Answered);
    }

    fn check_undecided(&mut self, rec: &CallRec, view: &AnswerView<'_>) {
        let id = view.id;
        if view.allow || view.status != 503 || rec.tools_run > 0 {
            let (status, allow, ran) = (view.status, view.allow, rec.tools_run);
            return self.fail(Oracle::Answer, || {
                format!("call {id}: {status} allow={allow} without a decision; its tool ran {ran} times")
            });
        }
        let reason = view.reason.unwrap_or("");
        let broken = fired::DEVICE | fired::LOST_SYNC | fired::CUT;
        let fine = match reason {
            "overload" => {
                self.hit(Mark::Overload);
                self.waiting > self.plan.config.max_in_flight
            }
            "wal_failed" => self.has_fired(broken),
            "wal_full" => self.plan.config.max_bytes < 1 << 24,
            "stopping" => self.node.stopping,
            _ => false,
        };
        if !fine {
            let waiting = self.waiting;
            self.fail(Oracle::Answer, || {
                format!("call {id}: refused with `{reason}` without cause ({waiting} waiting)")
            });
        }
    }

    fn check_decided(&mut self, rec: &CallRec, view: &AnswerView<'_>, policy: Option<Hash32>) {
        let id = view.id;
        let entry = self.ledger.entry(rec.decision).copied();
        let fits = entry.is_some_and(|e| Some(e.audit) == view.audit && (e.kind == Kind::Allow) == view.allow);
        if !fits {
            return self
                .fail(Oracle::AnsweredLost, || format!("call {id} is answered and no such decision was written"));
        }
        if !self.is_firm(rec.decision) {
            return self
                .fail(Oracle::AnsweredLost, || format!("call {id} is answered and its decision is not durable"));
        }
        let variant = match policy {
            None => None,
            Some(hash) => match policies::by_bundle_hash(&hash) {
                Some(variant) => Some(variant.number),
                None => {
                    return self.fail(Oracle::PolicyOrder, || format!("call {id} names a policy that does not exist"));
                }
            },
        };
        match (view.allow, variant) {
            (true, None) => self.fail(Oracle::AllowWithoutPolicy, || format!("call {id} is allowed by no policy")),
            (true, Some(variant)) => self.check_allow(rec, view, variant),
            (false, variant) => self.check_deny(rec, view, variant),
        }
        match variant {
            Some(variant) => self.check_order(rec, variant),
            None => self.check_no_policy(rec, view),
        }
    }

    fn check_allow(&mut self, rec: &CallRec, view: &AnswerView<'_>, variant: u8) {
        let id = view.id;
        if variant == policies::INCOMPATIBLE || variant >= policies::VARIANTS {
            return self.fail(Oracle::AllowWithoutPolicy, || format!("call {id} is allowed by an incompatible policy"));
        }
        let strict = self.plan.config.strict;
        let disabled = rec.call.tool == Tool::Unknown || rec.call.tool == Tool::Shell && !self.plan.config.shell;
        let want = policies::want(variant, rec.call.class);
        if strict || disabled || !want.may_allow() {
            return self.fail(Oracle::WrongVerdict, || {
                format!(
                    "call {id} is allowed: policy {variant} wants {want:?}, strict={strict}, tool disabled={disabled}"
                )
            });
        }
        let slow = self.has_fired(NO_EXCUSE_TIMES);
        let fine = match (view.status, rec.call.tool) {
            (200, Tool::Echo | Tool::Shell | Tool::Slow)
            | (502, Tool::Fail)
            | (504, Tool::Hang | Tool::Lost | Tool::TimedOut | Tool::Slow)
            | (400, Tool::Bad) => true,
            (504, _) => slow,
            (500, _) => {
                self.hit(Mark::OutcomeNotRecorded);
                self.has_fired(fired::DEVICE | fired::LOST_SYNC | fired::CUT)
            }
            _ => false,
        };
        if !fine || rec.tools_run != 1 {
            let (status, ran, tool) = (view.status, rec.tools_run, rec.call.tool);
            return self.fail(Oracle::Answer, || format!("call {id}: {status} of {tool:?}, which ran {ran} times"));
        }
        if view.status != 500 && (rec.outcome == NONE || !self.is_firm(rec.outcome)) {
            self.fail(Oracle::Outcomes, || format!("call {id} is answered and its outcome is not durable"));
        }
    }

    fn check_deny(&mut self, rec: &CallRec, view: &AnswerView<'_>, variant: Option<u8>) {
        let (id, status) = (view.id, view.status);
        if status != 403 || rec.tools_run > 0 {
            return self.fail(Oracle::WrongVerdict, || {
                format!("call {id} is denied with {status}, and its tool may have run")
            });
        }
        let reason = view.reason.unwrap_or("");
        if reason == "budget" {
            self.hit(Mark::Budget);
        }
        self.check_denied_by_precheck(view);
        let Some(variant) = variant else { return };
        let config = &self.plan.config;
        let want = policies::want(variant, rec.call.class);
        let fine = match reason {
            "strict" => config.strict,
            _ if config.strict => false,
            // Looked at above.
            "precheck_failed" => true,
            "budget" => matches!(want, Want::SlowAllow | Want::Budget | Want::Hang) || self.has_fired(NO_EXCUSE_TIMES),
            "tool_disabled" => want.may_allow() && rec.call.tool == Tool::Shell && !config.shell,
            "unknown_tool" => want.may_allow() && rec.call.tool == Tool::Unknown,
            _ => want.reason() == Some(reason),
        };
        if !fine {
            let reason = reason.to_owned();
            self.fail(Oracle::WrongVerdict, || format!("call {id}: `{reason}` where policy {variant} wants {want:?}"));
        }
    }

    /// The safe-point was published.
    pub(crate) fn check_published(&mut self, seq: u64) {
        let written = self.ledger.at(seq);
        let firm = written.is_some_and(|entry| entry.inode != NONE && self.disk.firm(entry.inode) >= entry.end)
            || written.is_some() && self.is_settled_below_base(seq);
        if !firm && !self.harm.reaches(seq) {
            self.fail(Oracle::SafePointAhead, || format!("the safe-point says {seq}, which is not durable"));
        }
    }

    /// Delivered and removed: an empty log goes on from there.
    fn is_settled_below_base(&self, seq: u64) -> bool {
        // A base that rotted under the open log says nothing about what was removed.
        let base = self.disk.fingerprint(|file| file == File::Base);
        let written = if self.bases.contains(&base) { self.disk.read(File::Base) } else { None };
        let first = written.and_then(crate::ledger::base).map_or(0, |(first, _)| first);
        seq < first && self.ledger.find_current(seq).is_some_and(|index| self.is_settled(index))
    }

    /// A reader takes what is below the safe-point, and remembers it for ever.
    pub(crate) fn check_exposure(&mut self) {
        let safe = self.safe_on_disk();
        if self.exposed.is_empty() {
            self.exposed.push(0);
        }
        while (self.exposed.len() as u64) <= safe {
            let seq = self.exposed.len() as u64;
            match self.readable(seq) {
                Some(h) => self.exposed.push(h),
                None if self.harm.reaches(seq) => return,
                None => {
                    return self.fail(Oracle::SafePointAhead, || {
                        format!("the safe-point is {safe} and frame {seq} cannot be read")
                    });
                }
            }
        }
    }

    /// What a reader finds at this sequence, if it is the frame that was written there.
    pub(crate) fn readable(&self, seq: u64) -> Option<u64> {
        let entry = self.ledger.at(seq)?;
        let bytes = self.disk.read_number(entry.inode).get(entry.start..entry.end)?;
        (self.ledger.written(entry) == Some(bytes)).then_some(entry.h)
    }

    /// The node says that it is open: everything that was ever promised is held against the log.
    pub(crate) fn on_ready(&mut self) {
        self.node.ready = true;
        self.fallen_back = self.fallen_back && self.node.life > 0;
        if std::mem::replace(&mut self.node.was_failed, false) {
            self.hit(Mark::RecoveredFromFailed);
        }
        self.trace.record(15, u64::from(self.node.life), self.now);
        if self.plan.config.drain {
            let epoch = self.node.epoch;
            self.push(self.now + 50 * US, Ev::Background { epoch });
        }
        self.check_identity();
        self.say(|| "node: ready".to_owned());
        // Every frame is compared with what was handed in; that it was hashed well is looked at now and then.
        let damage = fired::MEDIA_LOG | fired::LOST_SYNC | fired::DEVICE;
        let verify = self.has_fired(damage) || self.plan.seed.is_multiple_of(4);
        // A log that failed between its opening and now may end in half a frame; the next start looks at it.
        if self.node.machine.as_ref().is_some_and(|machine| machine.mode() != machines::runtime::Mode::WalFailed) {
            self.check_log(verify);
        }
    }

    /// Reads the whole log and holds it against what was promised.
    pub(crate) fn check_log(&mut self, verify: bool) {
        if self.was_damaged_in_this_life() {
            return;
        }
        let found = match self.ledger.scan_log(&self.disk, verify) {
            Ok(found) => found,
            Err(wrong) => return self.fail(Oracle::LogShape, || wrong.0),
        };
        self.trace.record(16, found.first, found.last);
        for seq in self.removed_upto..found.first {
            let index = self.ledger.find_current(seq).unwrap_or(NONE);
            if index != NONE && !self.is_settled(index) {
                self.fail(Oracle::RemovedUndelivered, || {
                    format!("the log starts at {} and frame {seq} was not delivered", found.first)
                });
            }
        }
        self.removed_upto = self.removed_upto.max(found.first);
        if self.node.life > 1 && self.node.floor < found.last && !self.last_crash_process {
            self.hit(Mark::SafePointBehind);
        }
        if found.last >= found.first
            && let Some(index) = self.ledger.last_of_before(found.last)
            && !self.is_firm(index)
        {
            self.fail(Oracle::AnsweredLost, || {
                "the log is open and the last frame of an earlier life is not durable".into()
            });
        }
        self.check_promises(found.first);
        self.check_exposed(found.first, found.last);
        self.check_exports(found.first, found.last);
        if self.failure.is_none() {
            self.settle_harm(verify);
        }
    }

    fn check_promises(&mut self, first: u64) {
        let scan = self.ledger.scan();
        for at in 0..self.calls.len() {
            let Some(rec) = self.calls.get(at).copied() else { return };
            if rec.stage != Stage::Answered || rec.status == 503 {
                continue;
            }
            let outcome = if rec.allow && rec.status != 500 { rec.outcome } else { NONE };
            for (index, what) in [(rec.decision, "decision"), (outcome, "outcome")] {
                let Some(entry) = self.ledger.entry(index).copied() else { continue };
                let kept = entry.mark == scan || entry.seq < first && self.is_settled(index);
                if kept {
                    continue;
                }
                if self.harm_excuses(index) {
                    self.hit(Mark::DamageTookFrames);
                    // It is gone for good: later recoveries have nothing to add.
                    if let Some(rec) = self.calls.get_mut(at) {
                        rec.status = 503;
                    }
                } else {
                    let (id, seq) = (rec.call.id, entry.seq);
                    return self.fail(Oracle::AnsweredLost, || {
                        format!("call {id} was answered and its {what}, frame {seq}, is not in the recovered log")
                    });
                }
            }
        }
    }

    fn check_exposed(&mut self, first: u64, last: u64) {
        let scan = self.ledger.scan();
        let from = usize::try_from(first).unwrap_or(1).max(1);
        for seq in from..self.exposed.len() {
            let Some(h) = self.exposed.get(seq).copied() else { return };
            let seq = seq as u64;
            let same = self.ledger.at(seq).is_some_and(|entry| entry.h == h && entry.mark == scan) && seq <= last;
            if same {
                continue;
            }
            if self.harm_excuses(self.ledger.index_of(seq, h)) {
                self.hit(Mark::DamageTookFrames);
                self.exposed.truncate(usize::try_from(seq).unwrap_or(0));
                return;
            }
            return self.fail(Oracle::TwoContents, || {
                format!("frame {seq} was read below the safe-point and is another one now")
            });
        }
    }

    /// Every allow in the log has exactly one outcome.
    pub(crate) fn check_outcomes(&mut self) {
        let open = self.ledger.without_outcome();
        if open > 0 {
            return self.fail(Oracle::Outcomes, || format!("{open} allowed calls in the log have no outcome"));
        }
        let scan = self.ledger.scan();
        let outcome = |kind| matches!(kind, Kind::Outcome | Kind::Unknown);
        let found = self.ledger.entries.iter().filter(|e| e.mark == scan && outcome(e.kind));
        let mut audits: Vec<u128> = found.map(|e| e.audit).collect();
        let whole = audits.len();
        audits.sort_unstable();
        audits.dedup();
        if audits.len() != whole {
            self.fail(Oracle::Outcomes, || "an allowed call has two outcomes in the log".into());
        }
    }

    /// The node stopped in good order: nothing of the log may be lost any more.
    pub(crate) fn check_settled_log(&mut self, opened: bool) {
        let firm = |file| {
            let number = self.disk.number(file)?;
            Some(self.disk.firm(number) >= self.disk.read_number(number).len())
        };
        let settled = firm(File::Live).unwrap_or(true) && firm(File::SafeSeq).unwrap_or(true);
        let broken = self.has_fired(fired::DEVICE | fired::LOST_SYNC) || self.harm.reaches_any();
        // One that stopped while it was still opening the log has promised nothing.
        if opened && !settled && !broken {
            self.fail(Oracle::AnsweredLost, || {
                "the node stopped in good order and left unsynced bytes in the log".into()
            });
        }
    }
}
