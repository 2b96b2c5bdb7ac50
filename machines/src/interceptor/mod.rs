//! The tool boundary (SPEC 2): decide, record durably, run, record durably, answer — in that order, without
//! exception. Whatever breaks on the way becomes a deny. See LIFECYCLE.md beside this file.

mod answer;
mod record;
mod request;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::ids::{IdSource, Uuid};
use crate::json::Value;
use crate::machine::{Deadline, Entropy, Event, Machine, Outbox};
use crate::policy::redact;
use crate::policy::verdict::{self, EvaluationFault, Verdict};
use crate::time::{Mono, Now, Span};
use crate::wal::{self, Class, Durable, Refused, Ticket};
use crate::work::{self, Compiled, Got, ToolFault};

pub use answer::{Answer, Decided, PolicyRef, Unavailable};
pub use request::{MAX_BODY, Request};

/// The reason of a deny for want of a precheck.
const PRECHECK_FAILED: &str = "precheck_failed";

/// The driver's number for a waiting caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// How calls are handled.
#[derive(Clone, Debug)]
pub struct Config {
    /// Deny every call, whatever the policy says.
    pub strict: bool,
    /// Calls that may be under way at once.
    pub max_in_flight: usize,
    /// How long a tool may run.
    pub tool_timeout: Span,
    /// How long a decision may take before the call is denied `budget`. The engine's own instruction count comes
    /// first; this is for an engine that hangs.
    pub decision_backstop: Span,
    /// The tools that exist, and whether the operator enabled them.
    pub tools: BTreeMap<String, bool>,
}

/// A policy in force.
#[derive(Clone, Debug)]
pub struct Active {
    /// How answers name it.
    pub policy: Arc<PolicyRef>,
    /// What is masked in frames.
    pub redact: Vec<redact::Path>,
    /// The compiled rules.
    pub compiled: Compiled,
}

/// What is asked of the interceptor.
#[derive(Debug)]
pub enum Input {
    /// Handle this call.
    Call(CallId, Arc<Request>),
    /// From now on this policy is in force; `None` denies all.
    Policy(Option<Arc<Active>>),
    /// Whether this boot's precheck passed; asked for only where calls wait for one.
    Precheck {
        /// It did: calls are decided by policy from now on. Else each is denied.
        passed: bool,
    },
    /// Calls may be begun; these earlier ones were left without an outcome by a crash.
    Open(Vec<Uuid>),
    /// The log: these appends are durable.
    Recorded(Ticket, Durable),
    /// The log: this append is not, or cannot be known to be, in the log.
    NotRecorded(Ticket, Refused),
    /// The log cannot be written any more.
    LogFailed,
    /// Take no more calls; `Idle` follows when none is under way.
    Stop,
}

/// What it tells.
#[derive(Debug)]
pub enum Output {
    /// Tell the caller.
    Answer(CallId, Answer),
    /// Append to the log.
    Append(wal::Input),
    /// The last call before a stop was answered.
    Idle,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls allowed, durably.
    pub allowed: u64,
    /// Calls denied, durably.
    pub denied: u64,
    /// Allowed calls whose tool failed or ran out of time.
    pub failed: u64,
    /// Calls refused for want of a place.
    pub overload: u64,
    /// Calls refused because the log could not take them.
    pub not_recorded: u64,
    /// Results that came after their call had been given up.
    pub late: u64,
}

/// The machine.
#[derive(Debug)]
pub struct Interceptor {
    config: Config,
    ids: IdSource,
    policy: Option<Arc<Active>>,
    /// A precheck is required, and none of this boot is known to have passed.
    barred: bool,
    gate: Gate,
    stopping: bool,
    /// Calls under way by an own ascending key.
    calls: BTreeMap<u64, Call>,
    deadlines: BTreeSet<(Mono, u64)>,
    next: u64,
    counters: Counters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    /// Starting: calls wait in line.
    Waiting,
    Open,
    LogFailed,
}

#[derive(Debug)]
struct Call {
    caller: CallId,
    request: Arc<Request>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Taken, before the log and the policy were looked at.
    Queued,
    /// The policy is being asked.
    Evaluating { policy: Arc<Active>, until: Mono },
    /// A deny is on its way into the log.
    Denying { decided: Decided, reason: String },
    /// An allow is on its way into the log.
    Allowing { id: Uuid, policy: Arc<Active> },
    /// The tool runs.
    Running { id: Uuid, policy: Arc<Active>, since: Mono, until: Mono },
    /// The outcome is on its way into the log.
    Recording { decided: Decided, outcome: Outcome },
}

#[derive(Debug)]
enum Outcome {
    Output(Value),
    Failed(u16, String),
}

impl Machine for Interceptor {
    const NAME: &'static str = "interceptor";
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Now, event: Event<Input>, out: &mut Outbox<'_, Output>) {
        match event {
            Event::Start(entropy) => self.ids = IdSource::new(entropy),
            Event::Due => self.due(now, out),
            Event::Work(tag, got) => self.worked(now, tag, got, out),
            Event::Disk(tag, _) => panic!("interceptor: it has no disk: {tag:?}"),
            Event::Tree(tag, _) => panic!("interceptor: it has no files by path: {tag:?}"),
            Event::Net(tag, _) => panic!("interceptor: it has no network: {tag:?}"),
            Event::Input(Input::Call(caller, request)) => self.call(now, caller, request, out),
            Event::Input(Input::Policy(policy)) => self.policy = policy,
            Event::Input(Input::Precheck { passed }) => self.barred = !passed,
            Event::Input(Input::Open(unfinished)) => self.open(now, &unfinished, out),
            Event::Input(Input::Recorded(ticket, proof)) => self.recorded(now, ticket, &proof, out),
            Event::Input(Input::NotRecorded(ticket, why)) => self.not_recorded(ticket, why, out),
            Event::Input(Input::LogFailed) => self.log_failed(out),
            Event::Input(Input::Stop) => {
                self.refuse_queued(Unavailable::Stopping, out);
                self.stopping = true;
                if self.calls.is_empty() {
                    out.output(Output::Idle);
                }
            }
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        let (at, key) = self.deadlines.first()?;
        let why = match self.calls.get(key).map(|call| &call.phase) {
            Some(Phase::Evaluating { .. }) => "a decision that takes too long",
            Some(
                Phase::Running { .. }
                | Phase::Queued
                | Phase::Denying { .. }
                | Phase::Allowing { .. }
                | Phase::Recording { .. },
            )
            | None => "a tool that takes too long",
        };
        Some(Deadline { at: *at, why })
    }

    fn check(&self) {
        assert!(self.calls.len() <= self.config.max_in_flight, "interceptor: more calls than may be in flight");
        assert!(self.deadlines.len() <= self.calls.len(), "interceptor: a deadline of no call");
    }
}

impl Interceptor {
    /// An interceptor that lets calls wait until it is opened. A barred one denies every call until it is told that a precheck
    /// passed.
    #[must_use]
    pub fn new(config: Config, barred: bool) -> Self {
        Self {
            config,
            ids: IdSource::new(Entropy([0; 32])),
            policy: None,
            barred,
            gate: Gate::Waiting,
            stopping: false,
            calls: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            next: 0,
            counters: Counters::default(),
        }
    }

    /// Calls under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.calls.len()
    }

    /// What was counted since the start.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// The policy in force.
    #[must_use]
    pub const fn policy(&self) -> Option<&Arc<Active>> {
        self.policy.as_ref()
    }

    /// Whether calls are denied for want of a precheck.
    #[must_use]
    pub const fn is_barred(&self) -> bool {
        self.barred
    }

    fn call(&mut self, now: Now, caller: CallId, request: Arc<Request>, out: &mut Outbox<'_, Output>) {
        let refusal = match self.gate {
            Gate::LogFailed => Some(Unavailable::WalFailed),
            Gate::Waiting | Gate::Open if self.stopping => Some(Unavailable::Stopping),
            Gate::Waiting | Gate::Open if self.calls.len() >= self.config.max_in_flight => Some(Unavailable::Overload),
            Gate::Waiting | Gate::Open => None,
        };
        if let Some(why) = refusal {
            match why {
                Unavailable::Overload => self.counters.overload += 1,
                Unavailable::WalFailed | Unavailable::WalFull => self.counters.not_recorded += 1,
                Unavailable::Stopping => {}
            }
            return out.output(Output::Answer(caller, Answer::unavailable(why)));
        }
        let key = self.next;
        self.next += 1;
        self.calls.insert(key, Call { caller, request, phase: Phase::Queued });
        if self.gate == Gate::Open {
            self.decide(now, key, out);
        }
    }

    /// Step 2 of the order: ask the policy, or deny where there is nothing to ask.
    fn decide(&mut self, now: Now, key: u64, out: &mut Outbox<'_, Output>) {
        if self.config.strict {
            return self.deny(now, key, self.policy.clone(), "strict".into(), out);
        }
        if self.barred {
            return self.deny(now, key, self.policy.clone(), PRECHECK_FAILED.into(), out);
        }
        let Some(policy) = self.policy.clone() else {
            return self.deny(now, key, None, "no_policy".into(), out);
        };
        let Some(call) = self.calls.get_mut(&key) else { return };
        let until = now.mono.after(self.config.decision_backstop);
        out.work(
            evaluation(key),
            work::Op::Evaluate { policy: policy.compiled.clone(), request: Arc::clone(&call.request) },
        );
        call.phase = Phase::Evaluating { policy, until };
        self.deadlines.insert((until, key));
    }

    fn worked(&mut self, now: Now, tag: work::Tag, got: Got, out: &mut Outbox<'_, Output>) {
        let key = tag.0 >> 1;
        match got {
            Got::Evaluated(result) if tag == evaluation(key) => self.evaluated(now, key, result.as_ref(), out),
            Got::Ran(result) if tag == running(key) => self.ran(now, key, result, out),
            Got::Evaluated(_) | Got::Ran(_) | Got::Opened(_) | Got::Artifact(_) | Got::Checked(_) | Got::Host(_) => {
                panic!("interceptor: work of another kind: {tag:?}")
            }
        }
    }

    fn evaluated(
        &mut self,
        now: Now,
        key: u64,
        result: Result<&verdict::Evaluation, &EvaluationFault>,
        out: &mut Outbox<'_, Output>,
    ) {
        let Some(Call { phase: Phase::Evaluating { policy, until }, request, .. }) = self.calls.get(&key) else {
            // Given up before: what comes late decides nothing.
            self.counters.late += 1;
            return;
        };
        let (policy, until) = (Arc::clone(policy), *until);
        let known = self.config.tools.get(request.kind()).copied();
        self.deadlines.remove(&(until, key));
        match (verdict::decide(result), known) {
            (Verdict::Deny(reason), _) => self.deny(now, key, Some(policy), reason, out),
            (Verdict::Allow, None) => self.deny(now, key, Some(policy), "unknown_tool".into(), out),
            (Verdict::Allow, Some(false)) => self.deny(now, key, Some(policy), "tool_disabled".into(), out),
            // The marker turned bad while the policy was asked.
            (Verdict::Allow, Some(true)) if self.barred => {
                self.deny(now, key, Some(policy), PRECHECK_FAILED.into(), out);
            }
            (Verdict::Allow, Some(true)) => self.allow(now, key, policy, out),
        }
    }

    /// Step 3 for a deny.
    fn deny(&mut self, now: Now, key: u64, policy: Option<Arc<Active>>, reason: String, out: &mut Outbox<'_, Output>) {
        let id = self.ids.next(now.wall);
        let Some(call) = self.calls.get_mut(&key) else { return };
        let record = record::decision(id, &call.request, policy.as_deref(), Some(&reason));
        let decided = Decided { audit_id: id, policy: policy.map(|p| Arc::clone(&p.policy)) };
        call.phase = Phase::Denying { decided, reason };
        append(key, Class::Deny, record, out);
    }

    /// Step 3 for an allow.
    fn allow(&mut self, now: Now, key: u64, policy: Arc<Active>, out: &mut Outbox<'_, Output>) {
        let id = self.ids.next(now.wall);
        let Some(call) = self.calls.get_mut(&key) else { return };
        let record = record::decision(id, &call.request, Some(&policy), None);
        call.phase = Phase::Allowing { id, policy };
        append(key, Class::Allow, record, out);
    }

    /// A frame of a call is durable: steps 4 and 6.
    fn recorded(&mut self, now: Now, ticket: Ticket, proof: &Durable, out: &mut Outbox<'_, Output>) {
        let key = ticket.0;
        let Some(call) = self.calls.remove(&key) else { panic!("interceptor: a frame of no call was recorded") };
        match call.phase {
            Phase::Denying { decided, reason } => {
                self.counters.denied += 1;
                self.answer(call.caller, Answer::denied(proof, reason, decided), out);
            }
            Phase::Allowing { id, policy } => {
                let phase = self.run(now, key, proof, id, policy, &call.request, out);
                self.calls.insert(key, Call { phase, ..call });
            }
            Phase::Recording { decided, outcome } => {
                let answer = match outcome {
                    Outcome::Output(output) => Answer::output(proof, output, decided),
                    Outcome::Failed(status, error) => {
                        self.counters.failed += 1;
                        Answer::failed(proof, status, error, decided)
                    }
                };
                self.counters.allowed += 1;
                self.answer(call.caller, answer, out);
            }
            Phase::Queued | Phase::Evaluating { .. } | Phase::Running { .. } => {
                panic!("interceptor: a call without a frame was recorded")
            }
        }
    }

    /// Step 4: the tool runs only on the proof that its decision is durable.
    #[allow(clippy::too_many_arguments)]
    fn run(
        &mut self,
        now: Now,
        key: u64,
        _decision: &Durable,
        id: Uuid,
        policy: Arc<Active>,
        request: &Arc<Request>,
        out: &mut Outbox<'_, Output>,
    ) -> Phase {
        let until = now.mono.after(self.config.tool_timeout);
        self.deadlines.insert((until, key));
        out.work(running(key), work::Op::Tool(Arc::clone(request)));
        Phase::Running { id, policy, since: now.mono, until }
    }

    /// Step 5.
    fn ran(&mut self, now: Now, key: u64, result: Result<Value, ToolFault>, out: &mut Outbox<'_, Output>) {
        let Some(Call { phase: Phase::Running { until, .. }, .. }) = self.calls.get(&key) else {
            self.counters.late += 1;
            return;
        };
        self.deadlines.remove(&(*until, key));
        self.finish(now, key, result, out);
    }

    fn finish(&mut self, now: Now, key: u64, result: Result<Value, ToolFault>, out: &mut Outbox<'_, Output>) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        let Phase::Running { id, policy, since, .. } = &call.phase else { return };
        let (id, policy, took) = (*id, Arc::clone(policy), now.mono.since(*since));
        let (record, outcome) = match result {
            Ok(output) => (record::action(id, &call.request, &policy, took, &output), Outcome::Output(output)),
            Err(fault) => {
                let (status, code, words) = match fault {
                    ToolFault::BadParams(words) => (400, "invalid_params", words),
                    ToolFault::Failed(words) => (502, "tool_failed", words),
                    ToolFault::TimedOut => {
                        (504, "tool_timeout", String::from("the tool ran out of time and was stopped"))
                    }
                };
                let error = alloc::format!("{code}: {words}");
                (record::failure(id, &call.request, took, code, &words), Outcome::Failed(status, error))
            }
        };
        let decided = Decided { audit_id: id, policy: Some(Arc::clone(&policy.policy)) };
        call.phase = Phase::Recording { decided, outcome };
        append(key, Class::Outcome, record, out);
    }

    fn not_recorded(&mut self, ticket: Ticket, why: Refused, out: &mut Outbox<'_, Output>) {
        let Some(call) = self.calls.remove(&ticket.0) else { return };
        let why = match why {
            Refused::Failed | Refused::TooLong => Unavailable::WalFailed,
            Refused::Full => Unavailable::WalFull,
            Refused::Backlog => Unavailable::Overload,
        };
        self.counters.not_recorded += 1;
        let answer = match call.phase {
            Phase::Recording { decided, .. } => Answer::outcome_not_recorded(decided),
            Phase::Queued
            | Phase::Evaluating { .. }
            | Phase::Denying { .. }
            | Phase::Allowing { .. }
            | Phase::Running { .. } => Answer::unavailable(why),
        };
        self.answer(call.caller, answer, out);
    }

    fn due(&mut self, now: Now, out: &mut Outbox<'_, Output>) {
        while let Some((at, key)) = self.deadlines.first().copied() {
            if at > now.mono {
                return;
            }
            self.deadlines.remove(&(at, key));
            match self.calls.get(&key).map(|call| &call.phase) {
                Some(Phase::Evaluating { policy, .. }) => {
                    let reason = match verdict::decide(Err(&EvaluationFault::Budget)) {
                        Verdict::Deny(reason) => reason,
                        Verdict::Allow => panic!("interceptor: a spent budget allows nothing"),
                    };
                    self.deny(now, key, Some(Arc::clone(policy)), reason, out);
                }
                Some(Phase::Running { .. }) => {
                    out.work(running(key), work::Op::CancelTool);
                    self.finish(now, key, Err(ToolFault::TimedOut), out);
                }
                Some(Phase::Queued | Phase::Denying { .. } | Phase::Allowing { .. } | Phase::Recording { .. })
                | None => panic!("interceptor: a deadline of a call that waits for nothing"),
            }
        }
    }

    fn open(&mut self, now: Now, unfinished: &[Uuid], out: &mut Outbox<'_, Output>) {
        for id in unfinished {
            out.output(Output::Append(wal::Input::Append {
                ticket: None,
                class: Class::Outcome,
                record: record::outcome_unknown(*id, None),
            }));
        }
        if self.gate != Gate::Waiting {
            return;
        }
        self.gate = Gate::Open;
        let waiting: Vec<u64> = self.calls.keys().copied().collect();
        for key in waiting {
            self.decide(now, key, out);
        }
    }

    fn log_failed(&mut self, out: &mut Outbox<'_, Output>) {
        self.gate = Gate::LogFailed;
        self.refuse_queued(Unavailable::WalFailed, out);
    }

    fn refuse_queued(&mut self, why: Unavailable, out: &mut Outbox<'_, Output>) {
        let queued: Vec<u64> =
            self.calls.iter().filter(|(_, c)| matches!(c.phase, Phase::Queued)).map(|(key, _)| *key).collect();
        for key in queued {
            if let Some(call) = self.calls.remove(&key) {
                self.answer(call.caller, Answer::unavailable(why), out);
            }
        }
    }

    fn answer(&mut self, caller: CallId, answer: Answer, out: &mut Outbox<'_, Output>) {
        out.output(Output::Answer(caller, answer));
        if self.stopping && self.calls.is_empty() {
            out.output(Output::Idle);
        }
    }
}

/// The tag of a call's evaluation.
const fn evaluation(key: u64) -> work::Tag {
    work::Tag(key << 1)
}

/// The tag of a call's tool.
const fn running(key: u64) -> work::Tag {
    work::Tag(key << 1 | 1)
}

fn append(key: u64, class: Class, record: wal::frame::Record, out: &mut Outbox<'_, Output>) {
    out.output(Output::Append(wal::Input::Append { ticket: Some(Ticket(key)), class, record }));
}
