//! A node that requires a precheck (SPEC 2, 10): its marker, who writes it, and what must hold of calls.
//!
//! The marker is a file like others: a power loss may tear it or take it away, and makes it another boot's. Whoever writes it does so
//! by one rename and without a sync. What is checked: no call is allowed once the marker has not passed for a while, none is denied
//! `precheck_failed` once it has passed for a while, and until it passes no call is judged by policy at all.

use machines::disk::{File, Op};
use machines::precheck::files::Marker;

use crate::marks::Mark;
use crate::oracles::{AnswerView, Oracle};
use crate::plan::{FileKind, OpKind, Step, What, When};
use crate::rng::{Rng, Stream, draw};
use crate::world::{Ev, Phase, US, World, fired};

/// What somebody leaves as the marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marking {
    /// None.
    Absent,
    /// This boot's precheck passed.
    Passes,
    /// This boot's precheck ended with 5.
    Refused,
    /// This boot's precheck ended with 3.
    Expired,
    /// Another boot's precheck passed.
    OtherBoot,
    /// Half a file.
    Torn,
}

/// All of them with their names.
pub const MARKINGS: &[(&str, Marking)] = &[
    ("absent", Marking::Absent),
    ("passes", Marking::Passes),
    ("refused", Marking::Refused),
    ("expired", Marking::Expired),
    ("other", Marking::OtherBoot),
    ("torn", Marking::Torn),
];

/// How much longer than without one a run with a required precheck goes on: the marker is looked at once a second.
pub(crate) const LONGER_US: u64 = 1_500_000;

/// The node looks once a second by its own clock, which may run a fifth too slow; and an answer takes its time.
const LATE_US: u64 = 1_600_000;

/// What is known of the marker.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Which boot this is.
    boot: u32,
    /// Whether the marker passes now, and since when that is so, in microseconds.
    passes: bool,
    since_us: u64,
    /// A call was denied for want of a precheck, and none was allowed since.
    barred: bool,
    /// A call was allowed in this life, and none denied so since.
    allowed: bool,
}

impl World {
    /// The id of this boot, where the node requires a precheck.
    pub(crate) fn required_boot(&self) -> Option<String> {
        self.plan.config.precheck.then(|| boot_id(self.gate.boot))
    }

    /// Somebody leaves this as the marker.
    pub(crate) fn mark_precheck(&mut self, marking: Marking) {
        let id = boot_id(self.gate.boot);
        let marker = |boot_id: String, exit| Marker { boot_id, exit }.to_bytes();
        let bytes = match marking {
            Marking::Absent => {
                let _ = self.disk.apply(&Op::Remove(File::Precheck));
                return self.marker_changed();
            }
            Marking::Passes => marker(id, 0),
            Marking::Refused => marker(id, 5),
            Marking::Expired => marker(id, 3),
            Marking::OtherBoot => marker("another-boot".to_owned(), 0),
            Marking::Torn => {
                let whole = marker(id, 0);
                whole.get(..whole.len() / 2).unwrap_or(&[]).to_vec()
            }
        };
        let _ = self.disk.apply(&Op::Put { file: File::Precheck, bytes });
        self.marker_changed();
    }

    /// The marker may be another one now.
    pub(crate) fn marker_changed(&mut self) {
        if !self.plan.config.precheck {
            return;
        }
        let passes = Marker::passed(self.disk.read(File::Precheck), &boot_id(self.gate.boot)).is_ok();
        if passes != self.gate.passes {
            self.gate.passes = passes;
            self.gate.since_us = self.us();
            self.trace.record(40, u64::from(passes), self.now);
            self.say(|| format!("marker: {}", if passes { "passes" } else { "does not pass" }));
        }
    }

    /// The machine boots: what was known of an earlier boot counts no more. Mostly a precheck of this one follows.
    pub(crate) fn booted(&mut self) {
        if !self.plan.config.precheck {
            return;
        }
        self.gate.boot += 1;
        self.marker_changed();
        if self.phase != Phase::Faults {
            return self.mark_precheck(Marking::Passes);
        }
        let noise = draw(self.plan.seed, Stream::Load, 3, u64::from(self.gate.boot));
        if !noise.is_multiple_of(4) {
            let boot = self.gate.boot;
            self.push(self.now + noise % 400_000 * US, Ev::Precheck { boot });
        }
    }

    /// The precheck of this boot ends.
    pub(crate) fn precheck_passes(&mut self, boot: u32) {
        if boot == self.gate.boot {
            self.mark_precheck(Marking::Passes);
        }
    }

    /// Whether the marker has been as it is for so long that the node must know.
    fn gate_is_settled(&self) -> bool {
        self.us().saturating_sub(self.gate.since_us) > LATE_US && !self.has_fired(fired::SLOW)
    }

    /// Whether calls must be allowed now, as far as the marker goes.
    pub(crate) fn gate_is_open(&self) -> bool {
        // A look that failed is made up for by the next.
        let since_us = if self.has_fired(fired::READ) { self.healed_us } else { 0 }.max(self.gate.since_us);
        !self.plan.config.precheck || self.gate.passes && self.us() > since_us + LATE_US
    }

    /// An allow is on its way to the disk.
    pub(crate) fn check_allowed_by_precheck(&mut self) {
        if !self.plan.config.precheck {
            return;
        }
        if !self.gate.passes && self.gate_is_settled() {
            let since = self.gate.since_us;
            return self.fail(Oracle::AllowWithoutPrecheck, || {
                format!("a call is allowed, and the marker has not passed since {since} us")
            });
        }
        if std::mem::replace(&mut self.gate.barred, false) {
            self.hit(Mark::PrecheckLetIn);
        }
        // Not those of the past that a run begins with.
        self.gate.allowed |= self.node.ready;
    }

    /// A call was denied: for want of a precheck if and only if there is none.
    pub(crate) fn check_denied_by_precheck(&mut self, view: &AnswerView<'_>) {
        let named = view.reason == Some("precheck_failed");
        let config = &self.plan.config;
        if !config.precheck && !named {
            return;
        }
        let id = view.id;
        if named && (!config.precheck || config.strict) {
            return self.fail(Oracle::WrongVerdict, || format!("call {id}: `precheck_failed`, and none is required"));
        }
        let settled = self.gate_is_settled();
        if named && self.gate.passes && settled && !self.has_fired(fired::READ) {
            return self.fail(Oracle::WrongVerdict, || format!("call {id}: `precheck_failed`, and it passed long ago"));
        }
        if !named && !config.strict && !self.gate.passes && settled {
            let reason = view.reason.unwrap_or("").to_owned();
            return self.fail(Oracle::AllowWithoutPrecheck, || {
                format!("call {id} is judged (`{reason}`), and the marker has not passed for long")
            });
        }
        if named {
            self.hit(Mark::PrecheckBarred);
            if std::mem::replace(&mut self.gate.allowed, false) {
                self.hit(Mark::PrecheckTurned);
            }
            let marker = self.disk.read(File::Precheck).and_then(|bytes| Marker::parse(bytes).ok());
            if marker.is_some_and(|marker| marker.exit == 0 && marker.boot_id != boot_id(self.gate.boot)) {
                self.hit(Mark::PrecheckOfAnotherBoot);
            }
            self.gate.barred = true;
        }
    }
}

fn boot_id(boot: u32) -> String {
    format!("boot-{boot}")
}

/// What happens to the marker in the run of a seed, with numbers of its own.
pub(crate) fn steps(seed: u64, end: u64, steps: &mut Vec<Step>) {
    let mut rng = Rng::new(seed, Stream::Load, 3);
    let mut push = |at: u64, what| steps.push(Step { when: When::At(at), what });
    let mark = |marking| What::Mark { marking };
    // Mostly the precheck has passed before the node starts, or does so soon after.
    match rng.range(0, 7) {
        0 | 1 => {}
        2 | 3 => push(rng.range(0, end / 3), mark(Marking::Passes)),
        _ => push(0, mark(Marking::Passes)),
    }
    for _ in 0..rng.range(0, 3) {
        let soon = rng.ratio(1, 2);
        let at = rng.range(0, if soon { end / 4 } else { end });
        push(at, mark(rng.pick(MARKINGS, ("absent", Marking::Absent)).1));
        if rng.ratio(1, 2) {
            push((at + rng.range(0, 2 * LATE_US)).min(end), mark(Marking::Passes));
        }
    }
    if rng.ratio(1, 6) {
        let what = What::FailOp { op: OpKind::Read, file: FileKind::Marker, nospace: false, partial: false };
        push(rng.range(0, end), what);
    }
}
