//! Every crash point of a reconstruction, and of the attempts that follow it: a kill and a power cut between any two
//! operations and in the middle of every file that is written, with what survives tried out; then the same in the second
//! attempt and in the third; and no space, or a failure, at every operation. Whatever was cut, the next precheck that is left
//! alone has to come to its end, and a second one has to find nothing to do.
//!
//! States that go on equally are gone on from once, and a cut behind an operation that only read is the one before it.

use std::collections::BTreeSet;

use machines::tree::Op;

use super::edits::lines_of;
use super::plan::{Check, Config, Edit, Fault, What};
use super::process::Process;
use super::run::Run;
use super::tree::{Survival, View};
use super::world::{judge_end, tell};
use crate::oracles::{Failure, Oracle};
use crate::sweep::guarded;

/// How many attempts are cut, one after the other; in the larger scenarios one less, but for [`Width::Wide`].
pub const DEPTH: usize = 3;
/// So many unsynced things are kept and dropped in every combination.
const FEW: usize = 4;
/// Mixtures with torn files that are tried besides.
const MIXTURES: u64 = 3;

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// Every combination of what survives in the first attempt, less in those behind it: some seconds.
    Narrow,
    /// Every combination in the second attempt too, and its failures: some minutes.
    Wide,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Crash points and failures that were tried.
    pub points: u64,
    /// Different states that prechecks started from.
    pub states: u64,
    /// The first that failed: the cuts that led there, and how.
    pub failure: Option<(String, Failure)>,
}

/// A state of the world that is worth looking at, and how it has to end.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    run: Run,
    rotate: bool,
    /// Each power cut is followed by another host.
    flips: bool,
    /// The epoch at the end, where no host flips.
    epoch: u64,
    /// How many attempts are cut in the narrow search.
    depth: usize,
}

/// All of them.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    let fresh = || {
        let mut run = Run::new(1, Config::default(), None);
        run.prepare();
        run
    };
    let passed = |mut run: Run| {
        tell(&mut run, &Check::default());
        run
    };
    let on = |mut run: Run, host: u8| {
        run.reboot(host);
        run
    };
    let with = |mut run: Run, what: What, n: u8| {
        run.edit(Edit { what, n });
        run
    };
    let rebuilt = || passed(on(passed(fresh()), 1));
    let newer = || with(with(rebuilt(), What::Release, 1), What::SourcesRight, 0);
    let next = || with(passed(fresh()), What::Next, 250);
    let rotated = || {
        let mut run = next();
        tell(&mut run, &Check { rotate: true, ..Check::default() });
        with(run, What::Next, 251)
    };
    let one = |name, run, epoch| Scenario { name, run, rotate: false, flips: false, epoch, depth: DEPTH };
    vec![
        one("first start", fresh(), 0),
        one("reconstruction", on(passed(fresh()), 1), 1),
        one("reconstruction over an earlier one", on(newer(), 2), 2),
        Scenario { rotate: true, ..one("rotation", next(), 0) },
        Scenario { rotate: true, depth: 2, ..one("second rotation and a reconstruction", on(rotated(), 1), 1) },
        Scenario { flips: true, ..one("first start, hosts flip", fresh(), 0) },
        Scenario { flips: true, depth: 2, ..one("reconstruction, hosts flip", on(passed(fresh()), 1), 1) },
    ]
}

/// Tries everything in a scenario.
#[must_use]
pub fn crashes(scenario: &Scenario, width: Width) -> Report {
    let mut search = Search { scenario, width, report: Report::default(), seen: BTreeSet::new(), path: Vec::new() };
    let depth = if width == Width::Wide { DEPTH } else { scenario.depth };
    let result = guarded(|| search.from(&scenario.run, depth, true));
    if let Err(words) = result {
        search.failed(Failure { oracle: Oracle::Panic, words, at_us: 0 });
    }
    search.report.states = u64::try_from(search.seen.len()).unwrap_or(u64::MAX);
    search.report
}

struct Search<'a> {
    scenario: &'a Scenario,
    width: Width,
    report: Report,
    seen: BTreeSet<(u64, usize)>,
    path: Vec<String>,
}

impl Search<'_> {
    fn failed(&mut self, failure: Failure) {
        if self.report.failure.is_none() {
            self.report.failure = Some((format!("{}: {}", self.scenario.name, self.path.join(", ")), failure));
        }
    }

    /// A precheck from this state, cut everywhere, with so many cuts left.
    fn from(&mut self, state: &Run, left: usize, first: bool) {
        if self.report.failure.is_some() || !self.seen.insert((state.key(), left)) {
            return;
        }
        let mut run = state.clone();
        let mut process = Process::start(&mut run, self.scenario.rotate, Fault::None);
        let mut another = true;
        while process.ended.is_none() && run.failure.is_none() {
            if left > 0
                && let Some(op) = process.next().cloned()
            {
                self.cut(&run, &process, &op, left, another);
                another = changes_something(&op);
            }
            process.step(&mut run);
        }
        let ops = process.ops;
        if first || (left > 1 && self.width == Width::Wide) {
            for at in 0..ops {
                for fault in [Fault::Fails(at), Fault::Full(at)] {
                    self.fault(state, fault, left);
                }
            }
        }
        self.finish(run, &process);
    }

    /// The process is gone before this operation, where that is another state than before the one before it, or in its middle.
    fn cut(&mut self, run: &Run, process: &Process, op: &Op, left: usize, another: bool) {
        let middle = matches!(op, Op::Put { .. } | Op::Copy { .. });
        for half in [another.then_some(false), middle.then_some(true)].iter().flatten() {
            let mut cut = run.clone();
            cut.held_by = None;
            if *half {
                cut.tree.apply_half(op);
            }
            self.go_on(cut.clone(), || format!("killed at {}{}", process.ops, if *half { "h" } else { "" }), left);
            for survival in survivals(&cut, left, self.width) {
                let mut dark = cut.clone();
                let host = if self.scenario.flips { 1 + dark.host % 3 } else { dark.host };
                dark.power_cut(host, survival);
                let words = || format!("power cut at {}{} ({survival})", process.ops, if *half { "h" } else { "" });
                self.go_on(dark, words, left);
            }
        }
    }

    /// An operation fails; the precheck ends by itself.
    fn fault(&mut self, state: &Run, fault: Fault, left: usize) {
        let mut run = state.clone();
        let mut process = Process::start(&mut run, self.scenario.rotate, fault);
        while process.step(&mut run) {}
        self.go_on(run, || format!("{fault:?}"), left);
    }

    fn go_on(&mut self, run: Run, words: impl FnOnce() -> String, left: usize) {
        if self.report.failure.is_some() {
            return;
        }
        self.report.points += 1;
        if self.seen.contains(&(run.key(), left.saturating_sub(1))) && run.failure.is_none() {
            return;
        }
        self.path.push(words());
        if let Some(failure) = run.failure.clone() {
            self.failed(failure);
        } else {
            self.from(&run, left.saturating_sub(1), false);
        }
        self.path.pop();
    }

    /// A precheck was left alone: the node is as it has to be.
    fn finish(&mut self, mut run: Run, process: &Process) {
        let exit = process.ended.map(|ended| ended.exit);
        let turned = self.scenario.rotate && exit == Some(3) && process.forecast.why == "next identity";
        if turned {
            // The next identity came in force before the cut.
            let again = tell(&mut run, &Check::default());
            if again.ended.is_none_or(|ended| ended.exit != 0) {
                run.fail(Oracle::Converges, format!("the precheck after a rotation says {:?}", again.notes));
            }
        } else if exit != Some(0) {
            run.fail(Oracle::Converges, format!("left alone, a precheck says {:?}: {:?}", exit, process.notes));
        }
        judge_end(&mut run, &Check::default());
        let epoch = lines_of(&run).last().map(|line| line.epoch);
        if !self.scenario.flips && epoch != Some(self.scenario.epoch) && run.failure.is_none() {
            run.fail(Oracle::EpochOnce, format!("the epoch is {epoch:?} and not {}", self.scenario.epoch));
        }
        if !run.identity_is_whole(View::Cache) {
            run.fail(Oracle::Identity, "no whole identity in the end");
        }
        if let Some(failure) = run.failure {
            self.failed(failure);
        }
    }
}

/// Whether a cut behind this operation is another than one before it.
fn changes_something(op: &Op) -> bool {
    match op {
        Op::Open(_) | Op::Lock | Op::Look(_) | Op::List { .. } | Op::Read { .. } | Op::Hash(_) => false,
        Op::Put { .. }
        | Op::Copy { .. }
        | Op::MakeFolder { .. }
        | Op::Link { .. }
        | Op::Sync(_)
        | Op::SyncFolder(_)
        | Op::Rename { .. }
        | Op::Exchange { .. }
        | Op::Remove(_)
        | Op::RemoveFolder(_) => true,
    }
}

/// What may survive of what is unsynced now.
fn survivals(run: &Run, left: usize, width: Width) -> Vec<Survival> {
    let unsynced = run.tree.unsynced();
    if unsynced == 0 {
        return vec![Survival::All];
    }
    let mixtures = (0..MIXTURES).map(Survival::Mix);
    match left {
        ..=1 => vec![Survival::All, Survival::None],
        2 if width == Width::Narrow => vec![Survival::All, Survival::None, Survival::Mix(0)],
        _ if unsynced <= FEW => (0..1u64 << unsynced).map(Survival::Bits).chain(mixtures).collect(),
        _ => [Survival::All, Survival::None].into_iter().chain(mixtures).collect(),
    }
}
