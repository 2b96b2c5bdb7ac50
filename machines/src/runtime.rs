//! The runtime's wiring: log, activation and interceptor as one machine, so that both drivers share it.
//!
//! It decides nothing of its own but the order in which the parts hear of each other.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::activation::{self, Activation, Change, Watch};
use crate::disk::Lane;
use crate::interceptor::{self, Active, Answer, CallId, Counters, Interceptor, PolicyRef, Request};
use crate::json::escape_into;
use crate::machine::{Deadline, Effect, Entropy, Event, Machine, Outbox};
use crate::precheck::watch as precheck;
use crate::semver::Version;
use crate::time::Now;
use crate::wal::{self, Class, Wal, frame};

/// How the runtime runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// How calls are handled.
    pub calls: interceptor::Config,
    /// How the log is kept.
    pub wal: wal::Config,
    /// This runtime's version, which bundles may require.
    pub version: Version,
    /// Admit only bundles that passed the four steps on this node.
    pub require_verified: bool,
    /// The kernel's id of this boot, where calls are denied until a precheck of this boot passed; else `None`.
    pub require_precheck: Option<String>,
}

/// What is asked of the runtime.
#[derive(Debug)]
pub enum Input {
    /// Handle this call.
    Call(CallId, Arc<Request>),
    /// Answer what runs, make everything durable, then say `Stopped`.
    Stop,
}

/// What it tells.
#[derive(Debug)]
pub enum Output {
    /// The log is open, and the policy and any precheck that is required were looked at: calls that come now are not refused for being early.
    Ready,
    /// Tell the caller.
    Answer(CallId, Answer),
    /// The last call was answered and the log is closed.
    Stopped,
}

/// How the runtime stands; the first that applies (SPEC 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// The log cannot be written until a restart.
    WalFailed,
    /// Every call is denied.
    Strict,
    /// A precheck is required and none of this boot passed: every call is denied.
    PrecheckFailed,
    /// No policy is in force: every call is denied.
    NoPolicy,
    /// Undelivered events fill the log.
    WalFull,
    /// Calls are decided by policy.
    Normal,
}

impl Mode {
    /// The literal text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WalFailed => "wal_failed",
            Self::Strict => "strict",
            Self::PrecheckFailed => "precheck_failed",
            Self::NoPolicy => "no_policy",
            Self::WalFull => "wal_full",
            Self::Normal => "normal",
        }
    }

    /// `ok` in `normal` and `strict`, else `degraded`.
    #[must_use]
    pub const fn status(self) -> &'static str {
        match self {
            Self::Normal | Self::Strict => "ok",
            Self::WalFailed | Self::PrecheckFailed | Self::NoPolicy | Self::WalFull => "degraded",
        }
    }

    /// Whether an allow is possible.
    #[must_use]
    pub const fn is_ready(self) -> bool {
        match self {
            Self::Normal => true,
            Self::WalFailed | Self::Strict | Self::PrecheckFailed | Self::NoPolicy | Self::WalFull => false,
        }
    }
}

/// The runtime as an operator sees it.
#[derive(Clone, Debug)]
pub struct Status {
    /// How it stands.
    pub mode: Mode,
    /// What `activation.json` says.
    pub activation: Activation,
    /// The bundle in force.
    pub in_force: Option<activation::Slot>,
    /// Whether this boot's precheck passed, or why not; `None` where none is required, or before the first look.
    pub precheck: Option<Result<(), String>>,
    /// The log; `None` before it was opened.
    pub wal: Option<wal::Status>,
    /// Calls under way.
    pub in_flight: usize,
    /// What was counted since the start.
    pub counters: Counters,
}

/// The machine.
#[derive(Debug)]
pub struct Runtime {
    strict: bool,
    wal: Wal,
    watch: Watch,
    /// Of one that requires a precheck.
    precheck: Option<precheck::Watch>,
    interceptor: Interceptor,
    startup: Startup,
    stopping: bool,
    // Kept between events so that their room is not allocated anew.
    wal_effects: Vec<Effect<wal::Output>>,
    watch_effects: Vec<Effect<Change>>,
    precheck_effects: Vec<Effect<precheck::Changed>>,
    call_effects: Vec<Effect<interceptor::Output>>,
}

/// Calls are begun when the log, the policy and any precheck that is required are known.
#[derive(Debug, Default)]
struct Startup {
    unfinished: Option<Vec<crate::ids::Uuid>>,
    settled: bool,
    ready: bool,
    ids: Option<crate::ids::IdSource>,
    /// Fallbacks that were found before the log was open.
    faults: Vec<frame::Record>,
}

/// What one part says to another.
type Inner = Event<interceptor::Input>;

impl Machine for Runtime {
    const NAME: &'static str = "runtime";
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Now, event: Event<Input>, out: &mut Outbox<'_, Output>) {
        match event {
            Event::Start(entropy) => {
                // Each part has entropy of its own, so that no two ids are the same.
                let part = |name: &str| Entropy(*blake3::keyed_hash(&entropy.0, name.as_bytes()).as_bytes());
                self.startup.ids = Some(crate::ids::IdSource::new(part("runtime")));
                self.calls(now, Event::Start(part("interceptor")), out);
                self.log(now, Event::Start(part("wal")), out);
                self.policy(now, Event::Start(part("activation")), out);
                self.marker(now, Event::Start(part("precheck")), out);
            }
            Event::Due => {
                let due = |deadline: Option<Deadline>| deadline.is_some_and(|d| d.at <= now.mono);
                if due(self.interceptor.deadline()) {
                    self.calls(now, Event::Due, out);
                }
                if due(self.wal.deadline()) {
                    self.log(now, Event::Due, out);
                }
                if due(self.watch.deadline()) {
                    self.policy(now, Event::Due, out);
                }
                if due(self.precheck.as_ref().and_then(Machine::deadline)) {
                    self.marker(now, Event::Due, out);
                }
            }
            Event::Disk(tag, completion) => match tag.lane {
                Lane::Log | Lane::Keeping => self.log(now, Event::Disk(tag, completion), out),
                Lane::Policy => self.policy(now, Event::Disk(tag, completion), out),
                Lane::Marker => self.marker(now, Event::Disk(tag, completion), out),
                Lane::Drain | Lane::Cursors => panic!("runtime: the drain is a machine of its own: {tag:?}"),
            },
            Event::Tree(tag, _) => panic!("runtime: it has no files by path: {tag:?}"),
            Event::Net(tag, _) => panic!("runtime: nothing was asked over the network: {tag:?}"),
            Event::Work(tag, got) if tag.0 >= activation::WORK => self.policy(now, Event::Work(tag, got), out),
            Event::Work(tag, got) => self.calls(now, Event::Work(tag, got), out),
            Event::Input(Input::Call(caller, request)) => {
                self.calls(now, Event::Input(interceptor::Input::Call(caller, request)), out);
            }
            Event::Input(Input::Stop) => {
                self.stopping = true;
                self.calls(now, Event::Input(interceptor::Input::Stop), out);
            }
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        let inner = Deadline::earlier(self.wal.deadline(), self.watch.deadline());
        let inner = Deadline::earlier(inner, self.precheck.as_ref().and_then(Machine::deadline));
        Deadline::earlier(self.interceptor.deadline(), inner)
    }

    fn check(&self) {
        self.wal.check();
        self.watch.check();
        if let Some(precheck) = &self.precheck {
            precheck.check();
        }
        self.interceptor.check();
    }
}

impl Runtime {
    /// A runtime that was not started yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            strict: config.calls.strict,
            wal: Wal::new(config.wal),
            watch: Watch::new(config.version, config.require_verified),
            interceptor: Interceptor::new(config.calls, config.require_precheck.is_some()),
            precheck: config.require_precheck.map(precheck::Watch::new),
            startup: Startup::default(),
            stopping: false,
            wal_effects: Vec::new(),
            watch_effects: Vec::new(),
            precheck_effects: Vec::new(),
            call_effects: Vec::new(),
        }
    }

    /// How it stands.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self.wal.health() {
            wal::Health::Failed => Mode::WalFailed,
            _ if self.strict => Mode::Strict,
            _ if self.interceptor.is_barred() => Mode::PrecheckFailed,
            wal::Health::Opening => Mode::NoPolicy,
            wal::Health::Open | wal::Health::Full if self.interceptor.policy().is_none() => Mode::NoPolicy,
            wal::Health::Full => Mode::WalFull,
            wal::Health::Open => Mode::Normal,
        }
    }

    /// The runtime as an operator sees it.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            mode: self.mode(),
            activation: self.watch.activation().clone(),
            in_force: self.watch.in_force().cloned(),
            precheck: self.precheck.as_ref().and_then(precheck::Watch::passed).cloned(),
            wal: self.wal.status(),
            in_flight: self.interceptor.in_flight(),
            counters: self.interceptor.counters(),
        }
    }

    fn calls(&mut self, now: Now, event: Inner, out: &mut Outbox<'_, Output>) {
        let mut effects = core::mem::take(&mut self.call_effects);
        self.interceptor.handle(now, event, &mut Outbox::over(&mut effects));
        for effect in effects.drain(..) {
            match effect {
                Effect::Disk(tag, _) => panic!("runtime: the interceptor has no disk: {tag:?}"),
                Effect::Tree(tag, chain) => out.tree(tag, chain),
                Effect::Net(tag, op) => out.net(tag, op),
                Effect::Work(tag, op) => out.work(tag, op),
                Effect::Note(note) => out.note(note),
                Effect::Halt(halt) => out.halt(halt),
                Effect::Output(interceptor::Output::Answer(caller, answer)) => {
                    out.output(Output::Answer(caller, answer));
                }
                Effect::Output(interceptor::Output::Append(append)) => self.log(now, Event::Input(append), out),
                Effect::Output(interceptor::Output::Idle) => self.log(now, Event::Input(wal::Input::Stop), out),
            }
        }
        self.call_effects = effects;
    }

    fn log(&mut self, now: Now, event: Event<wal::Input>, out: &mut Outbox<'_, Output>) {
        let mut effects = core::mem::take(&mut self.wal_effects);
        self.wal.handle(now, event, &mut Outbox::over(&mut effects));
        for effect in effects.drain(..) {
            match effect {
                Effect::Disk(tag, chain) => out.disk(tag, chain),
                Effect::Tree(tag, _) => panic!("runtime: the log has no files by path: {tag:?}"),
                Effect::Net(tag, _) => panic!("runtime: the log has no network: {tag:?}"),
                Effect::Work(tag, _) => panic!("runtime: the log has no workers: {tag:?}"),
                Effect::Note(note) => out.note(note),
                Effect::Halt(halt) => out.halt(halt),
                Effect::Output(wal::Output::Opened { open }) => {
                    self.startup.unfinished = Some(open);
                    self.ready(now, out);
                }
                Effect::Output(wal::Output::Released(released)) => {
                    for (ticket, proof) in released {
                        self.calls(now, Event::Input(interceptor::Input::Recorded(ticket, proof)), out);
                    }
                }
                Effect::Output(wal::Output::Refused(ticket, why)) => {
                    self.calls(now, Event::Input(interceptor::Input::NotRecorded(ticket, why)), out);
                }
                Effect::Output(wal::Output::Failed) => {
                    self.calls(now, Event::Input(interceptor::Input::LogFailed), out);
                }
                Effect::Output(wal::Output::Stopped) => {
                    if core::mem::replace(&mut self.stopping, false) {
                        out.output(Output::Stopped);
                    }
                }
            }
        }
        self.wal_effects = effects;
    }

    fn policy(&mut self, now: Now, event: Event<activation::WatchInput>, out: &mut Outbox<'_, Output>) {
        let mut effects = core::mem::take(&mut self.watch_effects);
        self.watch.handle(now, event, &mut Outbox::over(&mut effects));
        for effect in effects.drain(..) {
            match effect {
                Effect::Disk(tag, chain) => out.disk(tag, chain),
                Effect::Tree(tag, chain) => out.tree(tag, chain),
                Effect::Net(tag, op) => out.net(tag, op),
                Effect::Work(tag, op) => out.work(tag, op),
                Effect::Note(note) => out.note(note),
                Effect::Halt(halt) => out.halt(halt),
                Effect::Output(Change::Policy(opened)) => {
                    let active = opened.map(|opened| {
                        Arc::new(Active {
                            policy: Arc::new(PolicyRef {
                                version: opened.bundle.manifest.version.to_string(),
                                hash: opened.bundle.bundle_hash,
                            }),
                            redact: opened.bundle.manifest.redact.clone(),
                            compiled: opened.compiled,
                        })
                    });
                    self.calls(now, Event::Input(interceptor::Input::Policy(active)), out);
                }
                Effect::Output(Change::Fallback { reason, to }) => self.record_fallback(now, &reason, to, out),
                Effect::Output(Change::Settled) => {
                    self.startup.settled = true;
                    self.ready(now, out);
                }
            }
        }
        self.watch_effects = effects;
    }

    fn marker(&mut self, now: Now, event: Event<precheck::Input>, out: &mut Outbox<'_, Output>) {
        let Some(watch) = &mut self.precheck else { return };
        let mut effects = core::mem::take(&mut self.precheck_effects);
        watch.handle(now, event, &mut Outbox::over(&mut effects));
        for effect in effects.drain(..) {
            match effect {
                Effect::Disk(tag, chain) => out.disk(tag, chain),
                Effect::Tree(tag, chain) => out.tree(tag, chain),
                Effect::Net(tag, op) => out.net(tag, op),
                Effect::Work(tag, op) => out.work(tag, op),
                Effect::Note(note) => out.note(note),
                Effect::Halt(halt) => out.halt(halt),
                Effect::Output(precheck::Changed) => {
                    let passed = self.precheck.as_ref().and_then(precheck::Watch::passed).is_some_and(Result::is_ok);
                    self.calls(now, Event::Input(interceptor::Input::Precheck { passed }), out);
                    self.ready(now, out);
                }
            }
        }
        self.precheck_effects = effects;
    }

    fn ready(&mut self, now: Now, out: &mut Outbox<'_, Output>) {
        let looked = self.precheck.as_ref().is_none_or(|watch| watch.passed().is_some());
        if self.startup.ready || !self.startup.settled || !looked {
            return;
        }
        let Some(unfinished) = self.startup.unfinished.take() else { return };
        self.startup.ready = true;
        for record in core::mem::take(&mut self.startup.faults) {
            self.log(now, Event::Input(wal::Input::Append { ticket: None, class: Class::Fault, record }), out);
        }
        self.calls(now, Event::Input(interceptor::Input::Open(unfinished)), out);
        out.output(Output::Ready);
    }

    /// The `error` event `policy_fallback` (SPEC 3).
    fn record_fallback(&mut self, now: Now, reason: &str, to: Option<String>, out: &mut Outbox<'_, Output>) {
        let Some(ids) = &mut self.startup.ids else { return };
        let mut body = String::from("{\"code\":\"policy_fallback\",\"message\":");
        let short: String = reason.chars().take(1024).collect();
        escape_into(&short, &mut body);
        body.push_str(",\"to\":");
        match to {
            Some(version) => escape_into(&version, &mut body),
            None => body.push_str("null"),
        }
        body.push('}');
        let record = frame::Record { kind: frame::Kind::Error, audit_id: ids.next(now.wall), trace: None, body };
        if !self.startup.ready {
            return self.startup.faults.push(record);
        }
        self.log(now, Event::Input(wal::Input::Append { ticket: None, class: Class::Fault, record }), out);
    }
}

#[cfg(test)]
#[path = "runtime_tests.rs"]
mod tests;
