//! A world that tells stories: a plan in, what came of it out.

use machines::tree::Op;

use super::marks::{Counts, Mark};
use super::plan::{Check, Cut, Edit, End, Plan, Step, What};
use super::process::Process;
use super::run::Run;
use super::sabotage::Sabotage;
use crate::oracles::{Failure, Oracle};
use crate::trace::Line;

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The first invariant that broke.
    pub failure: Option<Failure>,
    /// The hash of what happened.
    pub hash: u64,
    /// How many operations there were.
    pub events: u64,
    /// The exit codes of the plan's prechecks, in order; `None` for one that was cut.
    pub exits: Vec<Option<u8>>,
    /// What their logs said last, for drills.
    pub notes: Vec<Vec<&'static str>>,
}

/// Tells stories, one after the other.
#[derive(Debug, Default)]
pub struct World {
    /// Situations that were reached.
    pub counts: Counts,
    sabotage: Option<Sabotage>,
    keep: bool,
    lines: Vec<Line>,
}

impl World {
    /// A world in which this is broken.
    #[must_use]
    pub fn sabotaged(sabotage: Sabotage) -> Self {
        Self { sabotage: Some(sabotage), ..Self::default() }
    }

    /// The next run is kept for readers.
    pub const fn keep_timeline(&mut self) {
        self.keep = true;
    }

    /// What happened in the run that was kept.
    pub fn timeline(&mut self) -> Vec<Line> {
        self.keep = false;
        std::mem::take(&mut self.lines)
    }

    /// Tells a story to its end: after the plan everything but the records is healed, and a precheck has to pass, where the
    /// records go together; where they do not, it has to pass when they were put back.
    pub fn run(&mut self, plan: &Plan) -> Outcome {
        let mut run = Run::new(plan.seed, plan.config, self.sabotage);
        run.lines = self.keep.then(Vec::new);
        run.prepare();
        let mut story = Story::default();
        for step in &plan.steps {
            if run.failure.is_some() {
                break;
            }
            run.say(|| format!("-- {step}"));
            story.step(&mut run, step);
        }
        if run.failure.is_none() {
            end_well(&mut run);
        }
        self.counts.add(&run.counts);
        self.lines = run.lines.take().unwrap_or_default();
        let Story { exits, notes, .. } = story;
        Outcome { failure: run.failure, hash: run.trace.hash(), events: run.events, exits, notes }
    }
}

#[derive(Debug, Default)]
struct Story {
    exits: Vec<Option<u8>>,
    notes: Vec<Vec<&'static str>>,
    /// Prechecks that were cut while a reconstruction was unfinished.
    attempts: u32,
}

impl Story {
    fn step(&mut self, run: &mut Run, step: &Step) {
        match step {
            Step::Precheck(check) => {
                let process = tell(run, check);
                if let End::Power(..) = check.end
                    && process.ended.is_none()
                    && run.ledger.unfinished
                {
                    self.attempts += 1;
                    if self.attempts > 1 {
                        run.mark(Mark::SecondAttempt);
                    }
                }
                self.exits.push(process.ended.map(|ended| ended.exit));
                self.notes.push(process.notes);
            }
            Step::Boot(host) => {
                mark_hosts(run, *host);
                run.reboot(*host % 6);
            }
            Step::Power(host, survival) => run.power_cut(*host % 6, *survival),
            Step::Edit(edit) => run.edit(*edit),
        }
    }
}

fn mark_hosts(run: &mut Run, next: u8) {
    match (run.host / 2 == next / 2, run.host % 2 == next % 2) {
        (false, true) => run.mark(Mark::KernelOnly),
        (true, false) => run.mark(Mark::LibcOnly),
        (true, true) | (false, false) => {}
    }
}

/// A precheck with all that happens to it.
pub(super) fn tell(run: &mut Run, check: &Check) -> Process {
    let mut process = Process::start(run, check.rotate, check.fault);
    let mut beside: Option<Process> = None;
    let mut waiting = check.beside;
    loop {
        let cut = match check.end {
            End::Itself => None,
            End::Kill(cut) | End::Power(cut, _) => Some(cut),
        };
        if let Some(cut) = cut
            && process.next().is_some()
            && process.ops >= cut.at
        {
            end_early(run, &process, cut, check.end);
            return process;
        }
        if let Some((at, edit)) = check.meddle
            && process.meddled.is_none()
            && process.next().is_some()
            && process.ops >= at
        {
            meddle(run, &mut process, edit);
        }
        if waiting.is_some_and(|at| process.ops >= at) && process.ended.is_none() {
            waiting = None;
            beside = Some(Process::start(run, false, super::plan::Fault::None));
        }
        let goes = process.step(run);
        let other_goes = beside.as_mut().is_some_and(|other| other.step(run));
        if !goes && !other_goes {
            return process;
        }
    }
}

/// Somebody changes something under a precheck.
fn meddle(run: &mut Run, process: &mut Process, edit: Edit) {
    let held = run.held_by.is_some_and(|by| by != process.number);
    let whole = run.whole;
    run.edit(edit);
    // Who changes the identity may break it; who changes something else may not.
    run.whole = whole && run.identity_is_whole(super::tree::View::Cache);
    let after = run.forecast(process.rotate, held);
    process.meddled = Some(edit);
    process.also.extend([after.exit, 5]);
    if process.rotate {
        // Its rotation may be over by now.
        process.also.extend([3, run.forecast(false, held).exit]);
    }
}

fn end_early(run: &mut Run, process: &Process, cut: Cut, end: End) {
    let number = process.number;
    if cut.half
        && let Some(op @ (Op::Put { .. } | Op::Copy { .. })) = process.next().cloned().as_ref()
    {
        run.judge_half(process, op);
        run.tree.apply_half(op);
    }
    if process.committed {
        run.mark(Mark::KilledAfter);
    } else if process.touched {
        run.mark(Mark::KilledBefore);
    }
    run.held_by = None;
    run.trace.record(5, u64::from(cut.at), u64::from(cut.half));
    match end {
        End::Itself => {}
        End::Kill(_) => run.say(|| format!("p{number}: killed")),
        End::Power(_, survival) => {
            let host = run.host;
            run.power_cut(host, survival);
        }
    }
}

/// Heals everything and sees to it that the node starts.
fn end_well(run: &mut Run) {
    run.say(|| "-- everything is healed".to_owned());
    run.heal();
    let check = Check::default();
    let mut last = tell(run, &check);
    if last.ended.is_some_and(|ended| ended.exit == 5) && last.forecast.contradicts {
        run.edit(Edit { what: What::RecordsRight, n: 0 });
        run.mark(Mark::PutBack);
        last = tell(run, &check);
    }
    if run.config.relay && !run.config.tls {
        // Nobody but who writes the configuration can heal that.
        return;
    }
    let passed = last.ended.is_some_and(|ended| ended.exit == 0);
    if !passed && run.failure.is_none() {
        let words = format!("everything is healed, and the precheck says {:?}: {:?}", last.ended, last.notes);
        run.fail(Oracle::Liveness, words);
    }
    judge_end(run, &check);
}

/// A node that passed passes again, with nothing to do.
pub(super) fn judge_end(run: &mut Run, check: &Check) {
    let again = tell(run, check);
    if !again.forecast.unchanged() && run.failure.is_none() {
        run.fail(Oracle::Converges, format!("there is still something to do: {}", again.forecast.why));
    }
    if run.failure.is_none() {
        run.mark(Mark::Healed);
    }
}
