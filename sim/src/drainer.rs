//! The drain's processes: one in the background of the runtime, and commands beside it or alone with the log. A command that
//! finds no writer recovers the log first.

use std::sync::Arc;

use machines::disk::{Completion, File, Lane, Lock, Op, Tag};
use machines::drain::batch::Batch;
use machines::drain::{self, Drain, Output, Until, Why};
use machines::machine::{Effect, Event, Machine as _, Outbox};
use machines::time::{Mono, Span};
use machines::wal::{self, Wal};

use crate::lanes::LANES;
use crate::marks::Mark;
use crate::oracles::Oracle;
use crate::world::{BACKGROUND, Ev, PROCS, Phase, World, fired};

/// What a process is at.
#[derive(Debug)]
enum Work {
    /// A command that found no writer opens and closes the log.
    Recovering(Box<Wal>),
    Draining(Box<Drain>),
}

/// A drain's process.
#[derive(Debug)]
pub(crate) struct Drainer {
    work: Work,
    pub epoch: u32,
    batch: u32,
    effects: u32,
    /// After how many effects it is killed.
    crash: Option<u32>,
    due_at: u64,
    due_token: u32,
    /// It has said its last word; chains that it had handed out are finished.
    ended: bool,
    /// The log is open (while recovering).
    opened: bool,
    /// The highest safe-point that it has read.
    pub safe: u64,
    /// The highest safe-point that it read and that can be true: a rotten one points behind the log.
    pub owed: u64,
    /// For each class, the batches of higher classes that went while it waited.
    pub passed: [u32; 3],
    pub last: Option<Arc<Batch>>,
    /// What it sent last was not taken.
    pub failed: bool,
    /// Records that were answered for, and no durable cursor covers them yet.
    pub unsaved: Vec<u32>,
    /// It was asked to wait until then.
    pub held_until: Option<Mono>,
    /// It was answered with something else than success.
    trouble: bool,
    /// It lists the folder again: what it read did not fit.
    pub misfit: bool,
    /// It began without a writer.
    alone: bool,
    /// It began beside a running node.
    beside: bool,
    /// It has read frames since it opened the log.
    reads: bool,
    /// An operation of its own failed.
    pub faulted: bool,
}

/// How the last command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Complete,
    Failed(Why),
}

impl Drainer {
    /// Whether it has said its last word.
    pub(crate) const fn is_over(&self) -> bool {
        self.ended
    }
}

impl World {
    pub(crate) fn drainer(&self, proc: usize) -> Option<&Drainer> {
        self.drains.get(proc.checked_sub(BACKGROUND)?)?.as_deref()
    }

    pub(crate) fn drainer_mut(&mut self, proc: usize) -> Option<&mut Drainer> {
        self.drains.get_mut(proc.checked_sub(BACKGROUND)?)?.as_deref_mut()
    }

    fn begin_drainer(&mut self, proc: usize, work: Work, batch: u32, crash: Option<u32>) {
        self.drain_epoch += 1;
        let alone = matches!(work, Work::Recovering(_));
        let drainer = Drainer {
            work,
            epoch: self.drain_epoch,
            batch,
            effects: 0,
            crash,
            due_at: u64::MAX,
            due_token: 0,
            ended: false,
            opened: false,
            safe: 0,
            owed: 0,
            passed: [0; 3],
            last: None,
            failed: false,
            unsaved: Vec::new(),
            held_until: None,
            trouble: false,
            misfit: false,
            alone,
            beside: self.node.machine.is_some(),
            reads: false,
            faulted: false,
        };
        let entropy = self.entropy(2 << 32 | u64::from(self.drain_epoch));
        if let Some(slot) = proc.checked_sub(BACKGROUND).and_then(|at| self.drains.get_mut(at)) {
            *slot = Some(Box::new(drainer));
        }
        if alone {
            self.feed_wal(proc, Event::Start(entropy));
        } else {
            self.feed_drain(proc, Event::Start(entropy));
        }
    }

    fn draining_work(&self, batch: u32, until: Until) -> Work {
        let config = drain::Config {
            batch_records: batch as usize,
            until,
            timeout: Span::from_micros(self.plan.config.patience_us),
            ..drain::Config::default()
        };
        Work::Draining(Box::new(Drain::new(config)))
    }

    /// The runtime is ready and begins to drain in the background.
    pub(crate) fn start_background(&mut self, epoch: u32) {
        let there = self.node.machine.is_some() && self.node.epoch == epoch && !self.node.stopping;
        if there && self.drainer(BACKGROUND).is_none() {
            let batch = self.plan.config.batch;
            let work = self.draining_work(batch, Until::Stopped);
            self.begin_drainer(BACKGROUND, work, batch, None);
        }
    }

    /// `telemetry drain` by somebody. False when as many run as there may be, or there is no log.
    pub(crate) fn drain_command(&mut self, batch: u32, crash: Option<u32>) -> bool {
        let free = (BACKGROUND + 1..PROCS).find(|proc| self.drainer(*proc).is_none());
        let Some(proc) = free else { return false };
        let log = [File::Base, File::SafeSeq, File::Live];
        if !self.disk.names().any(|file| log.contains(&file) || matches!(file, File::Sealed(_))) {
            return false;
        }
        self.say(|| format!("drain p{proc} starts"));
        let work = if self.node.machine.is_none() && self.writer.is_none() {
            self.writer = u8::try_from(proc).ok();
            self.begin_opening();
            Work::Recovering(Box::new(Wal::new(wal::Config::default())))
        } else {
            self.draining_work(batch, Until::Empty)
        };
        self.begin_drainer(proc, work, batch, crash);
        true
    }

    /// Whether a command is at work.
    pub(crate) fn draining(&self) -> bool {
        (BACKGROUND + 1..PROCS).any(|proc| self.drainer(proc).is_some())
    }

    /// Gives a drain an event.
    pub(crate) fn feed_drain(&mut self, proc: usize, event: Event<drain::Input>) {
        let now = self.clock.now(self.now);
        let Some(drainer) = self.drainer_mut(proc).filter(|drainer| !drainer.ended) else { return };
        let epoch = drainer.epoch;
        let Work::Draining(machine) = &mut drainer.work else { return };
        let mut effects: Vec<Effect<Output>> = Vec::new();
        machine.handle(now, event, &mut Outbox::over(&mut effects));
        machine.check();
        for effect in effects {
            match effect {
                Effect::Disk(tag, ops) => {
                    self.note_drain_chain(proc, tag, &ops);
                    self.submit(proc, tag, ops);
                }
                Effect::Tree(tag, _) => panic!("the drain has no files by path: {tag:?}"),
                Effect::Net(tag, op) => self.export(proc, tag, op),
                Effect::Work(tag, _) => panic!("the drain has no workers: {tag:?}"),
                Effect::Output(output) => self.drain_said(proc, output),
                Effect::Note(note) => {
                    self.say(|| format!("p{proc}: {}", note.msg));
                    continue;
                }
                Effect::Halt(halt) => panic!("a drain halts: {}", halt.message),
            }
            if self.failure.is_some() || self.drain_effect(proc, epoch) {
                return;
            }
        }
        self.reschedule_drain(proc);
        self.end_if_over(proc);
    }

    /// Gives a log that is recovered by a command an event.
    fn feed_wal(&mut self, proc: usize, event: Event<wal::Input>) {
        let now = self.clock.now(self.now);
        let Some(drainer) = self.drainer_mut(proc).filter(|drainer| !drainer.ended) else { return };
        let epoch = drainer.epoch;
        let Work::Recovering(machine) = &mut drainer.work else { return };
        let mut effects: Vec<Effect<wal::Output>> = Vec::new();
        machine.handle(now, event, &mut Outbox::over(&mut effects));
        machine.check();
        let (mut stop, mut over) = (false, false);
        for effect in effects {
            match effect {
                Effect::Disk(tag, ops) => self.submit(proc, tag, ops),
                Effect::Tree(..) | Effect::Net(..) | Effect::Work(..) => {
                    panic!("the log has neither network nor workers")
                }
                Effect::Output(wal::Output::Opened { .. }) => {
                    self.opened_by_drain(proc);
                    stop = true;
                }
                Effect::Output(wal::Output::Stopped) => over = true,
                Effect::Output(wal::Output::Failed) => self.command_ends(proc, Ended::Failed(Why::Log)),
                Effect::Output(wal::Output::Released(_) | wal::Output::Refused(..)) => {}
                Effect::Note(note) => {
                    self.on_note(&note);
                    continue;
                }
                Effect::Halt(halt) => {
                    self.check_halt(&halt);
                    self.command_ends(proc, Ended::Failed(Why::Log));
                }
            }
            if self.failure.is_some() || self.drain_effect(proc, epoch) {
                return;
            }
        }
        if stop {
            self.feed_wal(proc, Event::Input(wal::Input::Stop));
        }
        if over {
            self.recovered_by_drain(proc);
        }
        self.end_if_over(proc);
    }

    /// The command has opened the log: what was promised is held against it as at any start.
    fn opened_by_drain(&mut self, proc: usize) {
        self.say(|| format!("p{proc}: the log is open"));
        if let Some(drainer) = self.drainer_mut(proc) {
            drainer.opened = true;
        }
        self.check_identity();
        self.check_log(true);
        self.hit(Mark::RecoveredByDrain);
    }

    /// The log is closed again; now it is drained.
    fn recovered_by_drain(&mut self, proc: usize) {
        if self.drainer(proc).is_none_or(|drainer| !drainer.opened || drainer.ended) {
            return;
        }
        self.check_settled_log(true);
        self.give_writer_back(proc);
        let batch = self.drainer(proc).map_or(1, |drainer| drainer.batch);
        let work = self.draining_work(batch, Until::Empty);
        let epoch = self.drain_epoch;
        let entropy = self.entropy(3 << 32 | u64::from(epoch));
        if let Some(drainer) = self.drainer_mut(proc) {
            drainer.work = work;
        }
        self.feed_drain(proc, Event::Start(entropy));
    }

    fn give_writer_back(&mut self, proc: usize) {
        if self.writer.is_some_and(|writer| usize::from(writer) == proc) {
            self.writer = None;
            self.ledger.forget_unplaced();
        }
    }

    /// A chain of a drain's process ended.
    pub(crate) fn drain_completion(&mut self, proc: usize, tag: Tag, completion: Completion) {
        if tag.lane == Lane::Cursors {
            self.check_saved(proc, &completion);
        }
        match self.drainer(proc).map(|drainer| &drainer.work) {
            Some(Work::Recovering(_)) => self.feed_wal(proc, Event::Disk(tag, completion)),
            Some(Work::Draining(_)) => self.feed_drain(proc, Event::Disk(tag, completion)),
            None => {}
        }
        self.end_if_over(proc);
    }

    /// Counts an effect of a drain's process, and kills it where the plan says so. True when it is gone.
    pub(crate) fn drain_effect(&mut self, proc: usize, epoch: u32) -> bool {
        if proc == BACKGROUND {
            self.effect_done();
        } else {
            let healed = self.phase != Phase::Faults;
            if let Some(drainer) = self.drainer_mut(proc) {
                drainer.effects += 1;
                if drainer.crash == Some(drainer.effects) && !healed {
                    self.kill_drain(proc, true);
                }
            }
        }
        self.drainer(proc).is_none_or(|drainer| drainer.epoch != epoch)
    }

    /// Asks a drain when it wants to be woken.
    pub(crate) fn reschedule_drain(&mut self, proc: usize) {
        let clock = self.clock;
        let now = self.now;
        let Some(drainer) = self.drainer_mut(proc).filter(|drainer| !drainer.ended) else { return };
        let deadline = match &drainer.work {
            Work::Draining(machine) => machine.deadline(),
            // A log that is closed as soon as it is open keeps no house.
            Work::Recovering(_) => None,
        };
        let Some(deadline) = deadline else { return };
        let at = clock.when(deadline.at).max(now);
        if at < drainer.due_at {
            drainer.due_at = at;
            drainer.due_token += 1;
            let (epoch, token) = (drainer.epoch, drainer.due_token);
            self.push(at, Ev::DrainDue { proc: u8::try_from(proc).unwrap_or(0), epoch, token });
        }
    }

    /// When the background drain wants to be woken; 0 when it is at work.
    pub(crate) fn background_rests_until(&self) -> u64 {
        let Some(Drainer { work: Work::Draining(machine), .. }) = self.drainer(BACKGROUND) else { return 0 };
        machine.deadline().map_or(0, |deadline| self.clock.when(deadline.at))
    }

    /// Wakes a drain if it is time.
    pub(crate) fn drain_due(&mut self, proc: usize, epoch: u32, token: u32) {
        let now = self.clock.now(self.now);
        let Some(drainer) = self.drainer_mut(proc) else { return };
        if drainer.epoch != epoch || drainer.due_token != token {
            return;
        }
        drainer.due_at = u64::MAX;
        let Work::Draining(machine) = &drainer.work else { return };
        if machine.deadline().is_some_and(|deadline| deadline.at <= now.mono) {
            self.trace.record(21, proc as u64, self.now);
            self.feed_drain(proc, Event::Due);
        } else {
            self.reschedule_drain(proc);
        }
    }

    fn drain_said(&mut self, proc: usize, output: Output) {
        self.say(|| format!("p{proc}: {output:?}"));
        match output {
            Output::Queued(queue) => self.check_queue(proc, &queue),
            Output::Accepted { .. } => {
                let Some(drainer) = self.drainer_mut(proc) else { return };
                let mark = match (drainer.alone, drainer.beside, proc == BACKGROUND) {
                    (_, _, true) => Some(Mark::DrainedInBackground),
                    (true, ..) => Some(Mark::DrainedAlone),
                    (_, true, _) => Some(Mark::DrainedBeside),
                    (false, false, false) => None,
                };
                if let Some(mark) = mark {
                    self.hit(mark);
                }
            }
            Output::Rejected { .. } => {}
            Output::Trouble { .. } => {
                if let Some(drainer) = self.drainer_mut(proc) {
                    drainer.trouble = true;
                }
            }
            Output::Complete { .. } => {
                self.check_complete(proc);
                if proc != BACKGROUND {
                    self.command_ends(proc, Ended::Complete);
                }
            }
            Output::Failed(failure) => {
                self.check_failed(proc, &failure);
                self.command_ends(proc, Ended::Failed(failure.why));
            }
            Output::Stopped => {
                if let Some(drainer) = self.drainer_mut(proc) {
                    drainer.ended = true;
                }
            }
        }
    }

    /// A command gave up: there must be a reason.
    fn check_failed(&mut self, proc: usize, failure: &drain::Failure) {
        let Some(drainer) = self.drainer(proc) else { return };
        let (trouble, faulted, safe) = (drainer.trouble, drainer.faulted, drainer.safe);
        let fine = match failure.why {
            Why::Unreachable | Why::Refused => trouble,
            Why::Held => self.drain_lock.is_some_and(|owner| usize::from(owner) != proc),
            Why::Log => {
                // A damaged safe-point may have been overwritten since it was read.
                let ahead = safe > crate::ledger::look(&self.disk).last;
                let damaged = self.has_fired(fired::MEDIA_LOG) && (ahead || !self.is_deliverable());
                // A log that is being made, or that a crash has left half made or half sealed.
                faulted || damaged || !self.node.ready
            }
        };
        if failure.why == Why::Held {
            self.hit(Mark::HeldByAnother);
        }
        if !fine {
            let message = failure.message.clone();
            self.fail(Oracle::Undelivered, || format!("drain p{proc} gives up without a reason: {message}"));
        }
    }

    fn command_ends(&mut self, proc: usize, how: Ended) {
        self.trace.record(22, proc as u64, u64::from(how == Ended::Complete));
        self.last_drain = Some(how);
        if let Some(drainer) = self.drainer_mut(proc) {
            drainer.ended = true;
        }
    }

    /// A process that has said its last word goes when its chains are done.
    fn end_if_over(&mut self, proc: usize) {
        let ended = self.drainer(proc).is_some_and(|drainer| drainer.ended);
        let quiet = self.lanes.iter().skip(proc * LANES).take(LANES).all(|lane| lane.chains.is_empty());
        if !ended || !quiet {
            return;
        }
        self.kill_drain(proc, false);
        if proc == BACKGROUND && self.node.stopping && self.node.machine.is_some() {
            self.feed(Event::Input(machines::runtime::Input::Stop));
        }
    }

    /// Asks the background drain to stop. False when there is none.
    pub(crate) fn stop_background(&mut self) -> bool {
        if self.drainer(BACKGROUND).is_none() {
            return false;
        }
        self.feed_drain(BACKGROUND, Event::Input(drain::Input::Stop));
        true
    }

    /// A drain's process is gone; `cut` = it was killed in mid-operation.
    pub(crate) fn kill_drain(&mut self, proc: usize, cut: bool) {
        let Some(drainer) = self.drainer(proc) else { return };
        let epoch = drainer.epoch;
        if cut {
            let recovering = matches!(drainer.work, Work::Recovering(_));
            let answered = !drainer.unsaved.is_empty();
            let mine =
                |request: &&crate::collector::Request| usize::from(request.proc) == proc && request.epoch == epoch;
            let stored = self.collector.requests.iter().rev().find(mine).is_some_and(|request| request.is_unanswered());
            if answered || stored {
                self.hit(Mark::KilledBeforeCursor);
            }
            if recovering {
                self.hit(Mark::RecoveryCrashed);
            }
            for lane in 0..LANES {
                self.cut_in_flight(proc * LANES + lane);
            }
        }
        self.say(|| format!("drain p{proc} ends"));
        for lane in self.lanes.iter_mut().skip(proc * LANES).take(LANES) {
            lane.clear();
        }
        if let Some(slot) = self.drains.get_mut(proc - BACKGROUND) {
            *slot = None;
        }
        if self.drain_lock.is_some_and(|owner| usize::from(owner) == proc) {
            self.drain_lock = None;
        }
        self.give_writer_back(proc);
    }

    /// Takes the lock of the drain; false when another process has it.
    pub(crate) fn lock_drain(&mut self, proc: usize) -> bool {
        match self.drain_lock {
            Some(owner) if usize::from(owner) != proc => false,
            Some(_) | None => {
                self.drain_lock = u8::try_from(proc).ok();
                true
            }
        }
    }

    pub(crate) fn unlock_drain(&mut self, proc: usize) {
        if self.drain_lock.is_some_and(|owner| usize::from(owner) == proc) {
            self.drain_lock = None;
        }
    }

    /// What a chain of a drain says about how it goes.
    fn note_drain_chain(&mut self, proc: usize, _tag: Tag, ops: &[Op]) {
        let Some(drainer) = self.drainer_mut(proc) else { return };
        match ops {
            [Op::Lock(Lock::Drain), Op::Read { file: File::Base, .. }] => {
                drainer.passed = [0; 3];
                drainer.reads = false;
            }
            // Opening lists once, before anything is read.
            [Op::List] if drainer.reads => drainer.misfit = true,
            [Op::Read { file: File::Live | File::Sealed(_), .. }] => drainer.reads = true,
            _ => {}
        }
    }
}
