//! One node and everything around it, as discrete events. A world is reused between runs; a run is a function of its plan.

use std::collections::BinaryHeap;

use machines::machine::{Effect, Machine as _};
use machines::runtime;

use crate::clock::Clock;
use crate::collector::Collector;
use crate::disk::Disk;
use crate::drainer::{Drainer, Ended};
use crate::harm::Harm;
use crate::lanes::{LANES, Queue};
use crate::ledger::{Ledger, NONE};
use crate::marks::{Counts, Mark};
use crate::oracles::{Commit, Failure, Oracle};
use crate::oracles_release::Supply;
use crate::plan::{Call, Plan, What, When};
use crate::rng::{Stream, draw};
use crate::sabotage::Sabotage;
use crate::trace::{Line, Trace};

pub use crate::state::Outcome;
pub(crate) use crate::state::*;

/// The world.
#[derive(Debug, Default)]
pub struct World {
    pub(crate) plan: Plan,
    pub(crate) now: u64,
    heap: BinaryHeap<Entry>,
    order: u64,
    pub(crate) events: u64,
    pub(crate) disk: Disk,
    pub(crate) ledger: Ledger,
    pub(crate) node: Node,
    pub(crate) clock: Clock,
    pub(crate) operators: [Option<Operator>; OPERATORS],
    pub(crate) operator_epoch: u32,
    pub(crate) lanes: [Queue; PROCS * LANES],
    pub(crate) lock: Option<u8>,
    pub(crate) drains: [Option<Box<Drainer>>; DRAINS],
    pub(crate) drain_epoch: u32,
    /// Who holds the lock of the drain.
    pub(crate) drain_lock: Option<u8>,
    /// The command that holds the writer's lock; the node's process has it while it lives.
    pub(crate) writer: Option<u8>,
    pub(crate) last_drain: Option<Ended>,
    pub(crate) collector: Collector,
    pub(crate) work: Vec<WorkSlot>,
    pub(crate) calls: Vec<CallRec>,
    pub(crate) loops: Vec<LoopState>,
    pub(crate) waiting: u32,
    pub(crate) effects: Vec<Effect<runtime::Output>>,
    pub(crate) body: String,
    triggers: Vec<(u32, u32, u32)>,
    seal_triggers: Vec<(u32, u32, u32)>,
    pub(crate) seals: u32,
    next_trigger: usize,
    pub(crate) armed: Vec<Armed>,
    pub(crate) full_until: u64,
    pub(crate) full_syncs: bool,
    pub(crate) full_renames: bool,
    pub(crate) stall_until: u64,
    pub(crate) stall_add: u64,
    pub(crate) fired: u32,
    pub(crate) phase: Phase,
    pub(crate) healed_us: u64,
    pub(crate) commits: Vec<Commit>,
    /// No later call may be decided by an older commit.
    pub(crate) gen_floor: u32,
    /// The latest commit whose load was reported as done, and when.
    pub(crate) acked: Option<(u32, u64)>,
    pub(crate) fallen_back: bool,
    pub(crate) exposed: Vec<u64>,
    /// Frames below are known to have been delivered before they were removed.
    pub(crate) removed_upto: u64,
    pub(crate) last_crash_us: u64,
    pub(crate) last_crash_process: bool,
    pub(crate) life_effects: [u32; 16],
    pub(crate) trace: Trace,
    /// Situations that were reached.
    pub counts: Counts,
    pub(crate) failure: Option<Failure>,
    pub(crate) sabotage: Option<Sabotage>,
    pub(crate) first_activation: Vec<u8>,
    timeline: Option<Vec<Line>>,
    pub(crate) harm: Harm,
    /// The number of the last probe, from `PROBE`.
    pub(crate) probe: u32,
    pub(crate) log_id: Option<machines::ids::Uuid>,
    /// Fingerprints of what was written as `telemetry.base`.
    pub(crate) bases: Vec<u64>,
    pub(crate) supply: Supply,
    pub(crate) gate: crate::prechecks::Gate,
}

impl World {
    /// A world in which this is broken on purpose.
    #[must_use]
    pub fn sabotaged(sabotage: Sabotage) -> Self {
        Self { sabotage: Some(sabotage), ..Self::default() }
    }

    /// Keeps lines of text from now on.
    pub fn keep_timeline(&mut self) {
        self.timeline = Some(Vec::new());
    }

    /// The lines of the last run.
    #[must_use]
    pub fn timeline(&self) -> &[Line] {
        self.timeline.as_deref().unwrap_or(&[])
    }

    /// The answers that callers got in the last run: number, status, whether allowed.
    pub fn answers(&self) -> impl Iterator<Item = (u32, u16, bool)> + '_ {
        let answered = self.calls.iter().filter(|rec| rec.stage == Stage::Answered);
        answered.map(|rec| (rec.call.id, rec.status, rec.allow))
    }

    /// How the verifications of the last run ended, in that order.
    #[must_use]
    pub fn verdicts(&self) -> &[crate::oracles_release::Verdict] {
        &self.supply.verdicts
    }

    /// Runs a plan from beginning to end.
    pub fn run(&mut self, plan: &Plan) -> Outcome {
        self.reset(plan);
        self.begin();
        while self.failure.is_none() && self.phase != Phase::Over {
            let Some(entry) = self.heap.pop() else {
                self.fail(Oracle::Liveness, || "nothing is left to happen, and the run is not over".into());
                break;
            };
            debug_assert!(entry.at >= self.now, "time goes back");
            self.now = entry.at;
            self.events += 1;
            self.dispatch(entry);
        }
        self.keep_effects();
        Outcome {
            failure: self.failure.take(),
            hash: self.trace.hash(),
            events: self.events,
            effects: self.life_effects,
        }
    }

    /// A machine panicked: everything is made anew but what was counted. Gives the time.
    pub(crate) fn after_panic(&mut self, words: &str) -> u64 {
        let at_us = self.us();
        self.say(|| format!("PANIC: {words}"));
        let counts = std::mem::take(&mut self.counts);
        *self = Self { sabotage: self.sabotage, timeline: self.timeline.take(), counts, ..Self::default() };
        at_us
    }

    fn reset(&mut self, plan: &Plan) {
        self.plan.clone_from(plan);
        self.now = 0;
        self.heap.clear();
        self.order = 0;
        self.events = 0;
        self.disk.reset(plan.seed);
        self.ledger.reset();
        self.node = Node::default();
        let wall = match draw(plan.seed, Stream::Config, 77, 0) % 16 {
            0 => 0,
            1 => 300_000_000_000_000_000,
            n => 1_790_000_000_000_000 + n * 86_400_000_000,
        };
        self.clock = Clock::new(wall);
        self.operators = Default::default();
        self.operator_epoch = 0;
        for lane in &mut self.lanes {
            lane.clear();
            lane.ops = 0;
        }
        self.lock = None;
        self.drains = Default::default();
        self.drain_epoch = 0;
        self.drain_lock = None;
        self.writer = None;
        self.last_drain = None;
        self.collector.reset();
        self.work.clear();
        self.calls.clear();
        self.loops.clear();
        self.waiting = 0;
        self.effects.clear();
        self.triggers.clear();
        self.seal_triggers.clear();
        self.seals = 0;
        self.next_trigger = 0;
        self.armed.clear();
        self.full_until = 0;
        self.stall_until = 0;
        self.fired = 0;
        self.phase = Phase::Faults;
        self.healed_us = 0;
        self.commits.clear();
        self.gen_floor = 0;
        self.acked = None;
        self.fallen_back = false;
        self.exposed.clear();
        self.removed_upto = 1;
        self.last_crash_us = 0;
        self.last_crash_process = false;
        self.life_effects = [0; 16];
        self.trace = Trace::default();
        self.failure = None;
        self.first_activation.clear();
        self.harm.reset();
        self.probe = 0;
        self.log_id = None;
        self.bases.clear();
        self.supply.reset();
        self.gate = crate::prechecks::Gate::default();
        if let Some(lines) = &mut self.timeline {
            lines.clear();
        }
    }

    fn begin(&mut self) {
        let steps = std::mem::take(&mut self.plan.steps);
        for (index, step) in (0u32..).zip(&steps) {
            match step.when {
                When::At(us) => self.push(us * US, Ev::Step(index)),
                When::Effect { life, n } => self.triggers.push((life, n, index)),
                When::Seal { nth, step } => self.seal_triggers.push((nth, step, index)),
            }
            match step.what {
                What::Call(call) => self.add_call(call, NONE),
                What::Loop { call, n, think_us } => {
                    let by = u32::try_from(self.loops.len()).unwrap_or(NONE);
                    self.loops.push(LoopState { first: call.id, n, think_us, next: 0 });
                    for i in 0..n {
                        self.add_call(Call { id: call.id + i, ..call }, by);
                    }
                }
                What::Load { .. }
                | What::Rollback { .. }
                | What::Fetch { .. }
                | What::ResetFloor { .. }
                | What::Stop { .. }
                | What::Mark { .. }
                | What::Read
                | What::Drain { .. }
                | What::Collector { .. }
                | What::Crash { .. }
                | What::FailOp { .. }
                | What::Full { .. }
                | What::Stall { .. }
                | What::Rot { .. }
                | What::Misdirect
                | What::CutLive { .. }
                | What::Jump { .. }
                | What::Drift { .. }
                | What::Pause { .. } => {}
            }
        }
        self.plan.steps = steps;
        self.calls.sort_unstable_by_key(|rec| rec.call.id);
        self.calls.dedup_by_key(|rec| rec.call.id);
        self.triggers.sort_unstable();
        self.install();
        self.write_past();
        self.push(0, Ev::Start { epoch: 0 });
        self.push(self.plan.config.heal_us * US, Ev::Heal);
    }

    pub(crate) fn add_call(&mut self, call: Call, by_loop: u32) {
        self.calls.push(CallRec::new(call, by_loop));
    }

    /// The place of a call in the list, which is sorted by number.
    pub(crate) fn place_of(&self, id: u32) -> Option<usize> {
        // Numbers mostly count from one without gaps.
        let near = (id as usize).wrapping_sub(1);
        if self.calls.get(near).is_some_and(|rec| rec.call.id == id) {
            return Some(near);
        }
        self.calls.binary_search_by_key(&id, |rec| rec.call.id).ok()
    }

    pub(crate) fn push(&mut self, at: u64, ev: Ev) {
        self.order += 1;
        self.heap.push(Entry { at, order: self.order, ev });
    }

    pub(crate) const fn us(&self) -> u64 {
        self.now / US
    }

    pub(crate) fn has_fired(&self, what: u32) -> bool {
        self.fired & what != 0
    }

    pub(crate) fn sabotaged_by(&self, what: Sabotage) -> bool {
        self.sabotage == Some(what)
    }

    /// Notes the first failure.
    pub(crate) fn fail(&mut self, oracle: Oracle, words: impl FnOnce() -> String) {
        if self.failure.is_none() {
            let words = words();
            self.say(|| format!("FAILED {}: {words}", oracle.name()));
            self.failure = Some(Failure { oracle, words, at_us: self.us() });
        }
    }

    /// Writes a line of the timeline, when somebody reads one.
    pub(crate) fn say(&mut self, words: impl FnOnce() -> String) {
        let at_us = self.us();
        if let Some(lines) = &mut self.timeline {
            lines.push(Line { at_us, text: words() });
        }
    }

    pub(crate) fn hit(&mut self, mark: Mark) {
        self.counts.hit(mark);
    }

    fn dispatch(&mut self, entry: Entry) {
        // A stopped process does nothing until it goes on.
        if self.now < self.node.paused_until && self.is_of_node(entry.ev) {
            let at = self.node.paused_until;
            return self.push(at, entry.ev);
        }
        match entry.ev {
            Ev::Step(index) => self.step(index),
            Ev::Disk { proc, lane, epoch } => self.disk_event(proc, lane, epoch),
            Ev::Work { slot, epoch } => self.work_event(slot, epoch),
            Ev::Due { epoch, token } => self.due_event(epoch, token),
            Ev::Start { epoch } => {
                if epoch != self.node.epoch || self.node.machine.is_some() {
                    return;
                }
                if self.writer.is_some() {
                    // A command has the log open; whoever starts the node tries again.
                    return self.push(self.now + 3_000 * US, Ev::Start { epoch });
                }
                self.start_node();
            }
            Ev::Early { tag, epoch } => self.early_event(tag, epoch),
            Ev::Client(at) => self.next_of_loop(at),
            Ev::Background { epoch } => self.start_background(epoch),
            Ev::DrainDue { proc, epoch, token } => self.drain_due(usize::from(proc), epoch, token),
            Ev::Precheck { boot } => self.precheck_passes(boot),
            Ev::Arrive(number) => self.arrive(number),
            Ev::Copy(number) => self.copy(number),
            Ev::Answer(number) => self.answer(number),
            Ev::Heal => self.heal(),
            Ev::Watch => self.watch(),
        }
    }

    fn step(&mut self, index: u32) {
        let Some(step) = self.plan.steps.get(index as usize).copied() else { return };
        if step.what.is_fault() && self.phase != Phase::Faults {
            return;
        }
        self.trace.record(1, u64::from(index), self.now);
        self.say(|| format!("plan: {step}"));
        match step.what {
            What::Call(call) => self.call(call.id),
            What::Loop { call, .. } => {
                if let Some(at) = self.loops.iter().position(|l| l.first == call.id) {
                    self.next_of_loop(u32::try_from(at).unwrap_or(0));
                }
            }
            What::Load { variant, crash } => self.load(variant, crash),
            What::Rollback { below, crash } => self.rollback(below, crash),
            What::Fetch { order, crash } => self.fetch(order, crash),
            What::ResetFloor { name, time, crash } => self.reset_floor(name, time, crash),
            What::Stop { down_us } => self.stop_node(down_us),
            What::Mark { marking } => self.mark_precheck(marking),
            What::Read => self.read_log(),
            What::Drain { batch, crash } => {
                self.drain_command(batch, crash);
            }
            What::Collector { manner, for_us, retry_us } => self.collector_becomes(manner, for_us, retry_us),
            What::Crash { kind, down_us } => self.crash_node(kind, down_us),
            What::FailOp { op, file, nospace, partial } => self.armed.push(Armed { op, file, nospace, partial }),
            What::Full { for_us, syncs, renames } => {
                self.full_until = self.now + for_us * US;
                self.full_syncs = syncs;
                self.full_renames = renames;
            }
            What::Stall { for_us, add_us } => {
                self.stall_until = self.now + for_us * US;
                self.stall_add = add_us * US;
                self.fired |= fired::SLOW;
            }
            What::Rot { file, place, evicted } => self.rot(file, place, evicted),
            What::Misdirect => {
                self.disk.misdirect(machines::disk::File::Live);
            }
            What::CutLive { permille } => self.cut_live(permille),
            What::Jump { by_us } => {
                self.clock.jump(by_us);
                if by_us < 0 {
                    self.hit(Mark::ClockBack);
                }
            }
            What::Drift { ppm } => {
                self.clock.drift(self.now, ppm);
                self.reschedule_all();
            }
            What::Pause { for_us } => {
                self.node.paused_until = self.now + for_us * US;
                self.fired |= fired::SLOW;
                self.hit(Mark::Paused);
            }
        }
    }

    /// An effect of the node took place: crash points fall here. True when the process is gone.
    pub(crate) fn effect_done(&mut self) -> bool {
        let epoch = self.node.epoch;
        self.node.effects += 1;
        self.fire_triggers();
        epoch != self.node.epoch
    }

    /// Fires what the plan has for the current effect of the current life.
    pub(crate) fn fire_triggers(&mut self) {
        let at = (self.node.life, self.node.effects);
        while let Some((life, n, index)) = self.triggers.get(self.next_trigger).copied() {
            if (life, n) > at {
                return;
            }
            self.next_trigger += 1;
            if (life, n) == at {
                self.step(index);
            }
        }
    }

    /// An operation of a sealing chain took effect: crash points fall here too.
    pub(crate) fn seal_step(&mut self, step: usize) {
        let at = self.seal_triggers.iter().position(|t| t.0 == self.seals && t.1 as usize == step);
        if let Some(at) = at {
            let (_, _, index) = self.seal_triggers.remove(at);
            self.step(index);
        }
    }

    pub(crate) fn keep_effects(&mut self) {
        let at = (self.node.life as usize).saturating_sub(1);
        if let Some(slot) = self.life_effects.get_mut(at) {
            *slot = (*slot).max(self.node.effects);
        }
    }

    /// The clocks changed: asks everybody again when they want to be woken.
    pub(crate) fn reschedule_all(&mut self) {
        self.reschedule();
        for proc in BACKGROUND..PROCS {
            self.reschedule_drain(proc);
        }
    }

    /// Asks the node again when it wants to be woken.
    pub(crate) fn reschedule(&mut self) {
        let Some(machine) = &self.node.machine else { return };
        let Some(deadline) = machine.deadline() else { return };
        let at = self.clock.when(deadline.at).max(self.now);
        if at < self.node.due_at {
            self.node.due_at = at;
            self.node.due_token += 1;
            let (epoch, token) = (self.node.epoch, self.node.due_token);
            self.push(at, Ev::Due { epoch, token });
        }
    }
}

impl World {
    /// Whether the event happens inside the node's process.
    fn is_of_node(&self, ev: Ev) -> bool {
        let ours = |proc: u8| proc == 0 || usize::from(proc) == BACKGROUND;
        match ev {
            Ev::Disk { proc, .. } | Ev::DrainDue { proc, .. } => ours(proc),
            Ev::Due { .. } | Ev::Work { .. } | Ev::Early { .. } | Ev::Background { .. } => true,
            Ev::Answer(number) => {
                self.collector.requests.get(number as usize).is_some_and(|request| ours(request.proc))
            }
            Ev::Step(_) | Ev::Start { .. } | Ev::Client(_) | Ev::Arrive(_) | Ev::Copy(_) => false,
            Ev::Precheck { .. } | Ev::Heal | Ev::Watch => false,
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(0)
    }
}
