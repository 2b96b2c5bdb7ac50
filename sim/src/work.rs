//! Workers: the simulated engine and the simulated tools, with latencies and failures.

use machines::json::Value;
use machines::machine::Event;
use machines::work::{Got, Op, Tag, ToolFault};

use crate::ledger::NONE;
use crate::marks::Mark;
use crate::oracles::{AnswerView, Oracle};
use crate::plan::Tool;
use crate::policies::{self, SimPolicy, Want};
use crate::rng::{Stream, draw};
use crate::sabotage::Sabotage;
use crate::world::{Ev, Job, US, WorkSlot, World};

impl World {
    /// A process asks for work.
    pub(crate) fn start_work(&mut self, proc: usize, tag: Tag, op: Op) {
        match op {
            Op::Evaluate { policy, request } => {
                let call = call_of(request.agent());
                let variant = policy.0.downcast_ref::<SimPolicy>().map_or(u8::MAX, |p| p.0);
                self.evaluate(tag, call, variant);
            }
            Op::Tool(request) => {
                let call = call_of(request.agent());
                self.check_tool_start(call);
                self.run_tool(tag, call);
            }
            Op::OpenBundle(bytes) => {
                let got = Got::Opened(policies::open(&bytes));
                let noise = draw(self.plan.seed, Stream::WorkLatency, tag.0, bytes.len() as u64 | 1 << 32);
                self.schedule(proc, tag, Job::Known(Some(got)), Some(100_000 + noise % 800_000));
            }
            Op::CancelTool => self.cancel(tag),
            Op::Artifact(ask) => self.ask_source(proc, tag, &ask),
            Op::CheckSignature { message, signature } => self.check_signature(proc, tag, &message, &signature),
            Op::Host(_) => panic!("only a precheck asks for the host: {tag:?}"),
        }
    }

    pub(crate) fn schedule(&mut self, proc: usize, tag: Tag, job: Job, takes: Option<u64>) {
        let proc = u8::try_from(proc).unwrap_or(0);
        let epoch = match usize::from(proc).checked_sub(1) {
            None => self.node.epoch,
            Some(p) => self.operators.get(p).and_then(|o| o.as_ref()).map_or(0, |o| o.epoch),
        };
        let slot = u32::try_from(self.work.len()).unwrap_or(NONE);
        self.work.push(WorkSlot { tag, job, proc, epoch, live: true });
        if let Some(takes) = takes {
            self.push(self.now + takes, Ev::Work { slot, epoch });
        }
    }

    fn evaluate(&mut self, tag: Tag, call: u32, variant: u8) {
        let Some(rec) = self.place_of(call).and_then(|at| self.calls.get(at)) else { return };
        let noise = draw(self.plan.seed, Stream::WorkLatency, u64::from(call), 1);
        let limit = self.plan.config.backstop_us * US;
        let takes = match policies::want(variant, rec.call.class) {
            Want::Hang => None,
            Want::SlowAllow => Some(limit / 2 + noise % limit.max(1)),
            Want::Budget => Some(limit / 2),
            Want::Allow | Want::Deny { .. } | Want::NoMatch | Want::Error | Want::Panic | Want::TypeError => {
                Some(10_000 + noise % 120_000)
            }
        };
        self.trace.record(11, u64::from(call), u64::from(variant));
        self.schedule(0, tag, Job::Evaluate { call, variant }, takes);
    }

    fn run_tool(&mut self, tag: Tag, call: u32) {
        let Some(rec) = self.place_of(call).and_then(|at| self.calls.get_mut(at)) else { return };
        rec.tools_run = rec.tools_run.saturating_add(1);
        let tool = rec.call.tool;
        let noise = draw(self.plan.seed, Stream::WorkLatency, u64::from(call), 2);
        let limit = self.plan.config.tool_timeout_us * US;
        let takes = match tool {
            Tool::Hang | Tool::Lost => None,
            Tool::Slow => Some(limit / 2 + noise % limit.max(1)),
            Tool::TimedOut => Some(limit / 2),
            Tool::Echo | Tool::Shell | Tool::Fail | Tool::Bad | Tool::Unknown => Some(20_000 + noise % 1_500_000),
        };
        self.say(|| format!("tool of call {call} starts"));
        self.schedule(0, tag, Job::Tool { call }, takes);
    }

    fn cancel(&mut self, tag: Tag) {
        self.hit(Mark::ToolTimeout);
        let epoch = self.node.epoch;
        let running = |slot: &&mut WorkSlot| {
            slot.live && slot.epoch == epoch && slot.tag == tag && matches!(slot.job, Job::Tool { .. })
        };
        // The tool may have ended just before; then its answer still comes.
        let noise = draw(self.plan.seed, Stream::WorkLatency, tag.0, 3);
        if let Some(slot) = self.work.iter_mut().find(running)
            && noise.is_multiple_of(2)
        {
            slot.live = false;
        }
    }

    /// A piece of work is done.
    pub(crate) fn work_event(&mut self, slot: u32, epoch: u32) {
        let Some(work) = self.work.get_mut(slot as usize) else { return };
        if !work.live || work.epoch != epoch {
            return;
        }
        work.live = false;
        let (tag, proc) = (work.tag, usize::from(work.proc));
        let now = match proc.checked_sub(1) {
            None => self.node.epoch,
            Some(p) => self.operators.get(p).and_then(|o| o.as_ref()).map_or(u32::MAX, |o| o.epoch),
        };
        if now != epoch {
            return;
        }
        self.trace.record(12, u64::from(slot), self.now);
        let got = match &mut work.job {
            Job::Known(got) => got.take(),
            Job::Evaluate { call, variant } => {
                let (call, variant) = (*call, *variant);
                self.evaluated(call, variant)
            }
            Job::Tool { call } => {
                let call = *call;
                Some(Got::Ran(self.ran(call)))
            }
        };
        let Some(got) = got else { return };
        if proc == 0 {
            self.feed(Event::Work(tag, got));
        } else {
            self.operator_work(proc, tag, got);
        }
    }

    fn evaluated(&mut self, call: u32, variant: u8) -> Option<Got> {
        let rec = self.place_of(call).and_then(|at| self.calls.get(at))?;
        if rec.decision != NONE {
            self.counts.hit(Mark::LateResult);
        }
        let mut want = policies::want(variant, rec.call.class);
        if self.sabotaged_by(Sabotage::DenyBecomesAllow) && matches!(want, Want::Deny { .. }) {
            want = Want::Allow;
        }
        if self.sabotaged_by(Sabotage::StalePolicy) {
            let first = self.commits.first().map_or(variant, |commit| commit.variant);
            want = policies::want(first, rec.call.class);
        }
        if want == Want::Hang {
            want = Want::Budget;
        }
        Some(Got::Evaluated(want.evaluate()?))
    }

    fn ran(&mut self, call: u32) -> Result<Value, ToolFault> {
        let Some(rec) = self.place_of(call).and_then(|at| self.calls.get(at)).copied() else {
            return Err(ToolFault::Failed("no such call".into()));
        };
        if rec.outcome != NONE {
            self.hit(Mark::LateResult);
        }
        if self.sabotaged_by(Sabotage::AnswersBeforeOutcome) && rec.stage == crate::world::Stage::Waiting {
            let policy = self.commits.last().and_then(|c| policies::variant(c.variant)).map(|v| v.bundle_hash);
            let audit = self.ledger.entry(rec.decision).map(|entry| entry.audit);
            self.on_answer(AnswerView {
                id: call,
                status: 200,
                allow: true,
                reason: None,
                audit,
                policy: Some(policy),
            });
        }
        match rec.call.tool {
            Tool::Echo | Tool::Shell | Tool::Slow => {
                let pad = "x".repeat((rec.call.pad as usize).min(3_000));
                Ok(Value::from(pad))
            }
            Tool::Fail | Tool::Unknown | Tool::Hang | Tool::Lost => Err(ToolFault::Failed("simulated".into())),
            Tool::Bad => Err(ToolFault::BadParams("simulated".into())),
            Tool::TimedOut => Err(ToolFault::TimedOut),
        }
    }

    /// Sabotage: every allow that is being handed to the disk has its tool started already.
    pub(crate) fn tools_run_early(&mut self) {
        for at in 0..self.calls.len() {
            let Some(rec) = self.calls.get(at).copied() else { return };
            let early = rec.stage == crate::world::Stage::Waiting && rec.tools_run == 0 && rec.decision != NONE;
            if early && self.ledger.entry(rec.decision).is_some_and(|e| e.kind == crate::ledger::Kind::Allow) {
                self.check_tool_start(rec.call.id);
            }
        }
    }

    /// **I-D2**: a tool runs only when its decision would survive a power loss.
    pub(crate) fn check_tool_start(&mut self, call: u32) {
        let rec = self.place_of(call).and_then(|at| self.calls.get(at)).copied();
        let Some(rec) = rec.filter(|rec| rec.decision != NONE) else {
            return self
                .fail(Oracle::ToolBeforeDecision, || format!("the tool of call {call} runs without a decision"));
        };
        let entry = self.ledger.entry(rec.decision).copied();
        if entry.is_none_or(|e| e.kind != crate::ledger::Kind::Allow) {
            return self.fail(Oracle::ToolBeforeDecision, || format!("the tool of call {call} runs on a deny"));
        }
        if rec.tools_run > 0 {
            return self.fail(Oracle::ToolBeforeDecision, || format!("the tool of call {call} runs twice"));
        }
        if !self.is_firm(rec.decision) {
            self.fail(Oracle::ToolBeforeDecision, || {
                format!("the tool of call {call} runs before its decision is durable")
            });
        }
    }
}

fn call_of(agent: Option<&str>) -> u32 {
    agent.and_then(|text| text.strip_prefix('c')).and_then(|n| n.parse().ok()).unwrap_or(NONE)
}
