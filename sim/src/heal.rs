//! The second half of every run: all faults end, and everything must drain. What is stuck is named in words.

use machines::drain::Why;
use machines::machine::Machine as _;
use machines::runtime::Mode;

use crate::disk::Survival;
use crate::drainer::Ended;
use crate::lanes::LANES;
use crate::ledger::NONE;
use crate::marks::Mark;
use crate::oracles::Oracle;
use crate::plan::{Call, Crash, Tool};
use crate::policies;
use crate::prechecks::Marking;
use crate::rng::{Stream, draw};
use crate::world::{BACKGROUND, DRAIN_US, Ev, PROBE, Phase, Stage, US, World, fired};

/// How often the world looks whether it is done, in microseconds.
const LOOK_US: u64 = 10_000;
/// Small batches were tried before; what is left goes quickly.
const LEAST_BATCH: u32 = 100;
/// The longest time that a background drain rests of its own choice, in microseconds, and a little.
const LONGEST_REST_US: u64 = 32_000_000;

impl World {
    /// All faults end.
    pub(crate) fn heal(&mut self) {
        if self.phase != Phase::Faults {
            return;
        }
        self.say(|| "world: everything is healed".to_owned());
        self.phase = Phase::Draining;
        self.healed_us = self.us();
        self.armed.clear();
        self.full_until = 0;
        self.stall_until = 0;
        self.node.paused_until = self.now;
        self.collector.until = 0;
        self.clock.drift(self.now, 0);
        self.reschedule_all();
        for state in &mut self.loops {
            state.next = state.n;
        }
        if self.node.machine.is_none() {
            let epoch = self.node.epoch;
            self.push(self.now + 1_000, Ev::Start { epoch });
        }
        if self.plan.config.precheck {
            self.mark_precheck(Marking::Passes);
        }
        self.catch_up();
        self.push(self.now + LOOK_US * US, Ev::Watch);
    }

    /// Somebody reads the log; a node whose log failed is started again.
    fn catch_up(&mut self) {
        self.read_log();
        if self.node.machine.as_ref().is_some_and(|machine| machine.mode() == Mode::WalFailed) && self.node.ready {
            self.say(|| "operator: restarts the node, whose log failed".to_owned());
            self.crash_node(Crash::Process, 1_000);
        }
    }

    fn is_idle(&self) -> bool {
        let quiet = self.lanes.iter().take(LANES).all(|lane| lane.chains.is_empty());
        self.node.machine.is_some() && self.node.ready && self.waiting == 0 && !self.operating() && quiet
    }

    /// Looks whether the phase is over.
    pub(crate) fn watch(&mut self) {
        if self.failure.is_some() || self.phase == Phase::Over {
            return;
        }
        let longer = if self.phase == Phase::Delivering { LONGEST_REST_US } else { 0 };
        if self.us() > self.healed_us + DRAIN_US + longer {
            let words = self.stuck();
            return self.fail(Oracle::Liveness, || words);
        }
        match self.phase {
            Phase::Faults | Phase::Over => {}
            Phase::Draining => self.drain(),
            Phase::Probing if self.waiting == 0 => self.probed(),
            Phase::Probing => {}
            Phase::Restarting if self.is_idle() => {
                // What was left open before is closed now: one more look at the whole log, whose chain was verified just now.
                self.check_log(false);
                self.check_outcomes();
                self.last_drain = None;
                self.phase = Phase::Delivering;
                self.deliver();
            }
            Phase::Restarting => {}
            Phase::Delivering => self.deliver(),
        }
        if self.phase != Phase::Over {
            let rests =
                if self.phase == Phase::Delivering && !self.draining() { self.background_rests_until() } else { 0 };
            self.push(rests.max(self.now) + LOOK_US * US, Ev::Watch);
        }
    }

    /// What is left is delivered, by the background where it wakes soon, else by a command.
    fn deliver(&mut self) {
        if self.draining() {
            return;
        }
        // Runs in which nobody drained end so only now and then: delivering costs as much as the run.
        let nobody = self.drain_epoch == 0 && !draw(self.plan.seed, Stream::Harness, 3, 0).is_multiple_of(6);
        if nobody || self.is_drained() {
            if !nobody {
                self.check_all_delivered();
            }
            if self.failure.is_none() {
                self.hit(Mark::Drained);
            }
            self.phase = Phase::Over;
            return;
        }
        if self.is_stuck_on_damage() {
            self.phase = Phase::Over;
            return;
        }
        // Mostly somebody is in a hurry; now and then the background has to do it alone.
        let patient = draw(self.plan.seed, Stream::Harness, 2, 0).is_multiple_of(8);
        let limit = if patient { LONGEST_REST_US * US } else { 1_500_000 * US };
        if self.drainer(BACKGROUND).is_some() && self.background_rests_until() < self.now + limit {
            return;
        }
        let batch = self.plan.config.batch.max(LEAST_BATCH);
        self.drain_command(batch, None);
    }

    /// The log is damaged where the drain has to read. Nothing undelivered goes, so that only an operator's repair leads out.
    fn is_stuck_on_damage(&self) -> bool {
        self.last_drain == Some(Ended::Failed(Why::Log)) && self.has_fired(fired::MEDIA_LOG) && !self.is_deliverable()
    }

    fn drain(&mut self) {
        let mode = self.node.machine.as_ref().map(|machine| machine.mode());
        if matches!(mode, Some(Mode::WalFailed | Mode::WalFull)) {
            self.catch_up();
            if mode == Some(Mode::WalFull) && !self.draining() && !self.is_drained() {
                if self.is_stuck_on_damage() {
                    self.phase = Phase::Over;
                    return;
                }
                let batch = self.plan.config.batch;
                self.drain_command(batch, None);
            }
            return;
        }
        let last = self.commits.last().map_or(0, |commit| commit.at_us);
        // A new policy is served within a second; what could not be read is looked at again.
        let served = self.us() > last + 1_000_000 || last == 0;
        let unread = self.has_fired(fired::READ) || self.fallen_back;
        let looked = self.us() > self.healed_us.max(self.node.started_us) + 600_000 || !unread;
        if !self.is_idle() || !served || !looked || !self.gate_is_open() {
            return;
        }
        self.phase = Phase::Probing;
        self.probe += 2;
        for (id, class) in [(PROBE + self.probe, policies::ALWAYS), (PROBE + self.probe + 1, 1)] {
            self.add_call(Call { id, tool: Tool::Echo, class, pad: 0 }, NONE);
            self.call(id);
        }
    }

    /// The last calls were answered: as they must be where nothing is wrong.
    fn probed(&mut self) {
        let expected = self.expected_policy();
        let Some(rec) = self.place_of(PROBE + self.probe).and_then(|at| self.calls.get(at)).copied() else { return };
        let mode = self.node.machine.as_ref().map(|machine| machine.mode());
        let broken = self.has_fired(fired::MEDIA_POLICY);
        let strict = self.plan.config.strict;
        let usable = expected.is_some() && !strict && !broken;
        if mode == Some(Mode::WalFailed) && self.has_fired(fired::CUT) {
            // Only now the node noticed what was done to its file.
            self.phase = Phase::Draining;
            return;
        }
        if mode == Some(Mode::WalFull) && !self.is_drained() {
            // These calls filled the log.
            self.phase = Phase::Draining;
            return;
        }
        if rec.stage != Stage::Answered {
            return self.fail(Oracle::Liveness, || format!("the last call was not answered: {:?}", rec.stage));
        }
        if usable && (rec.status != 200 || mode != Some(Mode::Normal)) {
            return self.fail(Oracle::Liveness, || {
                format!("a policy is in force, and a call that it allows gets {} in mode {mode:?}", rec.status)
            });
        }
        if usable && !self.fallen_back {
            let named = self.commits.get(self.gen_floor as usize).map(|commit| commit.variant);
            if named != expected {
                return self.fail(Oracle::PolicyOrder, || {
                    format!("policy {expected:?} is in force for over a second, and {named:?} decides")
                });
            }
        }
        self.phase = Phase::Restarting;
        let kind = match draw(self.plan.seed, Stream::Harness, 1, 0) % 3 {
            0 => Crash::Process,
            1 => Crash::Power(Survival::Mix),
            _ => Crash::Power(Survival::Nothing),
        };
        self.crash_node(kind, 1_000);
    }

    /// What does not come to an end, in words.
    fn stuck(&self) -> String {
        let mut words = format!("30 s after everything was healed, phase {:?}:", self.phase);
        match &self.node.machine {
            None => words.push_str(" the node is down"),
            Some(machine) => {
                let why = machine.deadline().map_or("nothing", |deadline| deadline.why);
                words.push_str(&format!(
                    " the node is in mode {} (ready: {}) and waits to {why};",
                    machine.mode().as_str(),
                    self.node.ready
                ));
            }
        }
        let waiting: Vec<String> =
            self.calls.iter().filter(|rec| rec.stage == Stage::Waiting).map(|rec| rec.call.id.to_string()).collect();
        words.push_str(&format!(" {} calls wait for an answer [{}];", waiting.len(), waiting.join(" ")));
        words.push_str(&format!(" {} operators at work, lock held by {:?};", self.operators_alive(), self.lock));
        for (at, lane) in self.lanes.iter().enumerate().filter(|(_, lane)| !lane.chains.is_empty()) {
            words.push_str(&format!(
                " process {} lane {} has {} chains (waits for the lock: {});",
                at / LANES,
                at % LANES,
                lane.chains.len(),
                lane.waits
            ));
        }
        words
    }
}
