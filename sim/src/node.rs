//! The node's process: it starts, is fed events, crashes; and its callers.

use std::fmt::Write as _;
use std::sync::Arc;

use machines::disk::{File, Op};
use machines::interceptor::{self, CallId, Request};
use machines::machine::{Effect, Entropy, Event, Field, Halt, Level, Machine as _, Note, Outbox};
use machines::runtime::{self, Input, Output, Runtime};
use machines::semver::Version;
use machines::time::Span;
use machines::wal::{self, OnFull};

use crate::disk::Survival;
use crate::lanes::LANES;
use crate::marks::Mark;
use crate::oracles::{AnswerView, Oracle};
use crate::plan::{Crash, TOOLS, Tool};
use crate::rng::{Stream, draw};
use crate::world::{BACKGROUND, Ev, OPERATORS, PROCS, Phase, Stage, US, World, fired};

/// What pads parameters, in pieces that the log keeps as they are.
static PADDING: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| "x".repeat(3_000));

/// This runtime's version, to which bundles are compared.
pub(crate) fn version() -> Version {
    static VERSION: std::sync::LazyLock<Version> =
        std::sync::LazyLock::new(|| Version::parse("1.0.0").unwrap_or_else(|_| panic!("1.0.0 is a version")));
    VERSION.clone()
}

impl World {
    pub(crate) fn config(&self) -> runtime::Config {
        let c = &self.plan.config;
        let known = TOOLS.iter().filter(|tool| **tool != Tool::Unknown);
        runtime::Config {
            calls: interceptor::Config {
                strict: c.strict,
                max_in_flight: c.max_in_flight as usize,
                tool_timeout: Span::from_micros(c.tool_timeout_us),
                decision_backstop: Span::from_micros(c.backstop_us),
                tools: known.map(|tool| (tool.kind().to_owned(), *tool != Tool::Shell || c.shell)).collect(),
            },
            wal: wal::Config {
                node_id: Some("sim".to_owned()),
                max_bytes: c.max_bytes,
                retain: Span::from_micros(c.retain_us),
                on_full: if c.shed { OnFull::ShedLifecycle } else { OnFull::Deny },
            },
            version: version(),
            require_verified: c.verified,
            require_precheck: self.required_boot(),
        }
    }

    pub(crate) fn entropy(&self, stream: u64) -> Entropy {
        let mut bytes = [0u8; 32];
        for (n, word) in (0u64..).zip(bytes.as_chunks_mut::<8>().0) {
            *word = draw(self.plan.seed, Stream::Entropy, stream, n).to_le_bytes();
        }
        Entropy(bytes)
    }

    /// A process is about to read the log in order to open it.
    pub(crate) fn begin_opening(&mut self) {
        self.note_loss();
        let floor = self.floor_on_disk();
        let node = &mut self.node;
        node.floor = floor;
        node.wrote_log = false;
        node.refusal_io = false;
        node.started_us = self.now / US;
    }

    pub(crate) fn start_node(&mut self) {
        self.begin_opening();
        let node = &mut self.node;
        node.life += 1;
        node.effects = 0;
        node.ready = false;
        node.due_at = u64::MAX;
        node.halted = false;
        node.stopping = false;
        node.paused_until = 0;
        let (life, epoch) = (node.life, node.epoch);
        self.trace.record(2, u64::from(life), self.now);
        self.say(|| format!("node: life {life} starts"));
        self.check_activation_at_start();
        self.node.machine = Some(Box::new(Runtime::new(self.config())));
        self.fire_triggers();
        if self.node.epoch == epoch && self.node.machine.is_some() {
            let entropy = self.entropy(u64::from(life));
            self.feed(Event::Start(entropy));
        }
    }

    /// Gives the node one event and carries out what it wants, in order.
    pub(crate) fn feed(&mut self, event: Event<Input>) {
        let Some(mut machine) = self.node.machine.take() else { return };
        let epoch = self.node.epoch;
        let now = self.clock.now(self.now);
        let mut effects = std::mem::take(&mut self.effects);
        machine.handle(now, event, &mut Outbox::over(&mut effects));
        machine.check();
        self.node.machine = Some(machine);
        for effect in effects.drain(..) {
            let counts = !matches!(effect, Effect::Note(_));
            self.node_effect(effect);
            if counts && self.node.epoch == epoch {
                self.effect_done();
            }
            if self.node.epoch != epoch || self.failure.is_some() {
                break;
            }
        }
        self.effects = effects;
        if self.node.epoch == epoch {
            self.reschedule();
        }
    }

    fn node_effect(&mut self, effect: Effect<Output>) {
        match effect {
            Effect::Disk(tag, ops) => self.submit(0, tag, ops),
            Effect::Tree(tag, _) => panic!("the runtime has no files by path: {tag:?}"),
            Effect::Net(tag, _) => panic!("the runtime has no network: {tag:?}"),
            Effect::Work(tag, op) => self.start_work(0, tag, op),
            Effect::Output(Output::Ready) => self.on_ready(),
            Effect::Output(Output::Answer(CallId(id), answer)) => self.on_machine_answer(id, &answer),
            Effect::Output(Output::Stopped) => self.on_stopped(),
            Effect::Note(note) => self.on_note(&note),
            Effect::Halt(halt) => self.on_halt(&halt),
        }
    }

    pub(crate) fn on_note(&mut self, note: &Note) {
        self.trace.record(3, note.msg.len() as u64, note.fields.len() as u64);
        self.say(|| {
            let mut text = format!("node: {:?} {}", note.level, note.msg);
            for (key, value) in &note.fields {
                let _ = match value {
                    Field::Number(_) | Field::Seconds(_) => write!(text, " {key}={}", value.bare().unwrap_or_default()),
                    Field::Text(t) => write!(text, " {key}={t:?}"),
                };
            }
            text
        });
        match note.msg {
            "WAL_RECOVERY_FAIL_HARD" => {
                let io = |f: &(&str, Field)| f.0 == "cause" && f.1 == Field::Text("IO".into());
                self.node.refusal_io = note.fields.iter().any(io);
            }
            "wal_failed" => {
                self.node.was_failed = true;
                let nospace = |f: &(&str, Field)| matches!(&f.1, Field::Text(t) if t.contains("no space"));
                if note.fields.iter().any(nospace) {
                    self.hit(Mark::NoSpaceFailed);
                } else if self.has_fired(fired::LOST_SYNC) {
                    self.hit(Mark::SyncFailed);
                }
            }
            "wal_tail_truncated" => self.hit(Mark::TornTailCut),
            "wal_positions_ignored" | "wal_positions_unreadable" if !self.has_fired(fired::MEDIA_LOG | fired::READ) => {
                self.fail(Oracle::Cursor, || "the writer does not take the cursors, and nothing was broken".into());
            }
            "wal_full" => self.hit(Mark::WalFull),
            "wal_has_room_again" => self.hit(Mark::WalFullResumed),
            "policy_fallback" => {
                self.fallen_back = true;
                let none = |f: &(&str, Field)| f.0 == "to" && f.1 == Field::Text("deny-all".into());
                let all = note.fields.iter().any(none);
                self.hit(if all { Mark::BothSlotsCorrupt } else { Mark::LkgFallback });
                self.check_fallback();
            }
            _ => {}
        }
        let excuse = fired::MEDIA_LOG | fired::MEDIA_POLICY | fired::LOST_SYNC | fired::DEVICE | fired::READ;
        if note.level == Level::Error && !self.has_fired(excuse) {
            self.fail(Oracle::ErrorNote, || format!("the node reports `{}` and nothing was broken", note.msg));
        }
    }

    /// A process refuses to open the log: there must be a reason, and nothing may have been changed.
    pub(crate) fn check_halt(&mut self, halt: &Halt) {
        let io = self.node.refusal_io;
        self.say(|| format!("halts: {}", halt.message));
        self.trace.record(4, u64::from(io), self.now);
        let excuse = if io { fired::DEVICE | fired::READ | fired::MEDIA_LOG } else { fired::MEDIA_LOG };
        if !self.has_fired(excuse) {
            return self.fail(Oracle::Halt, || {
                format!("the node refuses to run and no media fault explains it: {}", halt.message)
            });
        }
        if !io && !self.was_damaged_in_this_life() && self.log_is_sound() {
            return self.fail(Oracle::Halt, || format!("the node refuses a log that is whole: {}", halt.message));
        }
        if !io && self.node.wrote_log {
            self.fail(Oracle::Halt, || "the node refused its log after it had changed it".into());
        }
    }

    fn on_halt(&mut self, halt: &Halt) {
        self.check_halt(halt);
        if self.failure.is_some() {
            return;
        }
        let io = self.node.refusal_io;
        self.node.halted = true;
        if io {
            // The device failed while the log was opened; a supervisor starts the node again.
            self.end_process(20_000);
        } else {
            self.hit(Mark::RefusedToOpen);
            if self.has_fired(fired::MEDIA_LOG) {
                self.hit(Mark::RotDetected);
            }
            self.end_process(0);
            self.phase = Phase::Over;
        }
    }

    fn on_stopped(&mut self) {
        self.hit(Mark::CleanStop);
        let opened = self.node.ready;
        self.check_settled_log(opened);
        if self.waiting > 0 {
            let n = self.waiting;
            self.fail(Oracle::Liveness, || format!("the node stopped and left {n} calls without an answer"));
        }
        let down = self.node.down_us;
        self.end_process(down);
    }

    /// Asks the node to stop.
    pub(crate) fn stop_node(&mut self, down_us: u64) {
        if self.node.machine.is_none() || self.node.stopping || self.phase != Phase::Faults {
            return;
        }
        self.node.stopping = true;
        self.node.down_us = down_us;
        // The drain in the background first: what it does not deliver waits for the next start.
        if !self.stop_background() {
            self.feed(Event::Input(Input::Stop));
        }
    }

    /// The node's process is gone; it comes back after a while.
    fn end_process(&mut self, down_us: u64) {
        self.keep_effects();
        self.kill_drain(BACKGROUND, false);
        for lane in self.lanes.iter_mut().take(LANES) {
            lane.clear();
        }
        self.node.machine = None;
        self.node.epoch += 1;
        self.node.paused_until = 0;
        self.ledger.forget_unplaced();
        if self.lock == Some(0) {
            self.unlock();
        }
        for at in 0..self.calls.len() {
            if self.calls.get(at).is_some_and(|rec| rec.stage == Stage::Waiting) {
                self.settle_call(at, Stage::Lost);
            }
        }
        let epoch = self.node.epoch;
        self.push(self.now + down_us.max(1) * US, Ev::Start { epoch });
    }

    /// The node goes down: operations in flight are cut, and with the power goes what was not synced.
    pub(crate) fn crash_node(&mut self, kind: Crash, down_us: u64) {
        let power = matches!(kind, Crash::Power(_));
        self.trace.record(5, u64::from(power), self.now);
        if self.node.machine.is_some() {
            if !self.node.ready {
                self.hit(Mark::RecoveryCrashed);
            }
            if self.node.life > 1 && self.us().saturating_sub(self.last_crash_us) < 1_000_000 {
                self.hit(Mark::DoubleCrash);
            }
            if let Some(chain) = self.lanes.first().and_then(|lane| lane.chains.front()) {
                let sealing = chain.ops.iter().any(|op| matches!(op, Op::Rename { from: File::Live, .. }));
                let appending = matches!(chain.ops.get(chain.step), Some(Op::Append { .. }));
                if sealing && chain.step > 0 {
                    self.hit(Mark::CrashInSeal);
                }
                if appending && power {
                    self.hit(Mark::PowerInAppend);
                }
            }
            for lane in 0..LANES {
                self.cut_in_flight(lane);
            }
            self.kill_drain(BACKGROUND, true);
        }
        if let Crash::Power(how) = kind {
            for p in 1..=OPERATORS {
                self.kill_operator(p, true);
            }
            for p in BACKGROUND..PROCS {
                self.kill_drain(p, true);
            }
            self.power_loss(how);
        }
        self.last_crash_process = !power;
        self.last_crash_us = self.us();
        self.end_process(down_us);
    }

    fn power_loss(&mut self, how: Survival) {
        if self.last_crash_process && !self.node.ready && !self.disk.is_settled() {
            self.hit(Mark::ProcessThenPower);
        }
        self.disk.power_loss(how);
        self.booted();
        self.lock = None;
        self.check_activation_whole();
    }

    /// What a crash lets through of the operation under way in a lane: nothing, a part, or all of it.
    pub(crate) fn cut_in_flight(&mut self, lane: usize) {
        let Some(queue) = self.lanes.get_mut(lane) else { return };
        if queue.waits {
            return;
        }
        let Some(chain) = queue.chains.pop_front() else { return };
        let key = (lane as u64) << 40 | queue.ops;
        let Some(op) = chain.ops.get(chain.step) else { return };
        let proc = lane / LANES;
        match draw(self.plan.seed, Stream::Cut, key, 0) % 4 {
            0 | 1 => {}
            2 => {
                let bytes = if let Op::Append { bytes, .. } | Op::Put { bytes, .. } = op { bytes.len() } else { 0 };
                let len = bytes as u64;
                if len > 0 {
                    let cut = usize::try_from(draw(self.plan.seed, Stream::Cut, key, 1) % len).unwrap_or(0);
                    self.disk.apply_cut(op, cut);
                    if let (Op::Append { file: File::Live, at, .. }, Some(inode)) = (op, self.disk.number(File::Live)) {
                        self.ledger.place(inode, *at, cut);
                    }
                }
            }
            _ => {
                if !matches!(op, Op::Lock(_) | Op::Unlock(_)) {
                    let _ = self.apply_op(proc, op);
                }
            }
        }
    }

    /// Wakes the node if it is time.
    pub(crate) fn due_event(&mut self, epoch: u32, token: u32) {
        if epoch != self.node.epoch || token != self.node.due_token {
            return;
        }
        self.node.due_at = u64::MAX;
        let now = self.clock.now(self.now);
        let due = self.node.machine.as_ref().and_then(|m| m.deadline());
        if due.is_some_and(|d| d.at <= now.mono) {
            self.trace.record(6, self.now, 0);
            self.feed(Event::Due);
        } else {
            self.reschedule();
        }
    }

    /// A call is made.
    pub(crate) fn call(&mut self, id: u32) {
        let Some(at) = self.place_of(id) else { return };
        let (floor, us) = (self.gen_floor, self.us());
        let Some(rec) = self.calls.get_mut(at) else { return };
        if rec.stage != Stage::Unsent {
            return;
        }
        rec.floor = floor;
        rec.sent_us = us;
        rec.stage = Stage::Waiting;
        let call = rec.call;
        self.waiting += 1;
        if self.node.machine.is_none() {
            return self.settle_call(at, Stage::Refused);
        }
        self.body.clear();
        let _ =
            write!(self.body, "{{\"kind\":\"{}\",\"params\":{{\"n\":{id},\"class\":{}", call.tool.kind(), call.class);
        let mut left = call.pad as usize;
        let mut part = 0u32;
        while left > 0 {
            let len = left.min(PADDING.len());
            let _ = write!(self.body, ",\"p{part}\":\"");
            self.body.push_str(PADDING.get(..len).unwrap_or(""));
            self.body.push('"');
            left -= len;
            part += 1;
        }
        let _ = write!(self.body, "}},\"agent\":\"c{id}\"}}");
        match Request::parse(self.body.as_bytes(), None) {
            Ok(request) => {
                self.trace.record(7, u64::from(id), self.now);
                self.say(|| format!("call {id}: {} class {}", call.tool.kind(), call.class));
                self.feed(Event::Input(Input::Call(CallId(u64::from(id)), Arc::new(request))));
            }
            Err(why) => self.fail(Oracle::Answer, || format!("a valid request is refused: {why}")),
        }
    }

    /// The caller of the call at this place knows how it ended.
    pub(crate) fn settle_call(&mut self, at: usize, stage: Stage) {
        let Some(rec) = self.calls.get_mut(at) else { return };
        rec.stage = stage;
        let (by, id) = (rec.by_loop, rec.call.id);
        self.waiting -= 1;
        if stage != Stage::Answered {
            self.say(|| format!("call {id}: {stage:?}"));
        }
        if let Some(state) = self.loops.get(by as usize) {
            let pause = state.think_us + if stage == Stage::Refused { 5_000 } else { 0 };
            self.push(self.now + pause * US, Ev::Client(by));
        }
    }

    /// A looping client makes its next call.
    pub(crate) fn next_of_loop(&mut self, at: u32) {
        if self.now < self.node.paused_until {
            let until = self.node.paused_until;
            return self.push(until, Ev::Client(at));
        }
        let Some(state) = self.loops.get_mut(at as usize) else { return };
        if state.next < state.n {
            let id = state.first + state.next;
            state.next += 1;
            self.call(id);
        }
    }

    fn on_machine_answer(&mut self, id: u64, answer: &interceptor::Answer) {
        let id = u32::try_from(id).unwrap_or(u32::MAX);
        let decided = answer.decided();
        let audit = decided.map(|d| {
            self.body.clear();
            d.audit_id.write(&mut self.body);
            crate::ledger::uuid(self.body.as_bytes()).unwrap_or(0)
        });
        let policy = decided.map(|d| d.policy.as_ref().map(|p| p.hash));
        self.say(|| {
            let reason = answer.reason().or(answer.error()).unwrap_or("");
            let version = decided.and_then(|d| d.policy.as_ref()).map_or("none", |p| p.version.as_str());
            format!("answer {id}: {} allow={} {reason} policy={version}", answer.status(), answer.is_allow())
        });
        self.on_answer(AnswerView {
            id,
            status: answer.status(),
            allow: answer.is_allow(),
            reason: answer.reason(),
            audit,
            policy,
        });
    }
}
