//! A precheck at work: it is given what it asks for, one operation after the other, and whoever likes can cut it between any two.

mod broken;

use machines::disk::FaultKind;
use machines::ids::Hash32;
use machines::machine::{Effect, Entropy, Event, Level, Machine as _, Outbox};
use machines::precheck::host::{Answer, Ask};
use machines::precheck::{Ended, Precheck};
use machines::tree::{self, Done, Op, Place, Root};
use machines::work;

use super::ledger::File;
use super::marks::Mark;
use super::material::{self, Release};
use super::plan::{Edit, Fault};
use super::reference::Forecast;
use super::run::Run;
use super::sabotage::Sabotage;
use super::tree::{Content, View};
use crate::oracles::Oracle;

/// More operations than any precheck has.
const MOST: u32 = 3_000;

#[derive(Debug)]
enum Waits {
    Chain(tree::Tag, Vec<Op>, usize),
    Work(work::Tag, Box<Ask>),
    Nothing,
}

/// A precheck.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub number: u32,
    machine: Precheck,
    waits: Waits,
    /// With `--rotate-certs`.
    pub rotate: bool,
    /// Operations so far.
    pub ops: u32,
    fault: Fault,
    /// What it has to come to.
    pub forecast: Forecast,
    /// What it may come to besides, because somebody changed things under it.
    pub also: Vec<u8>,
    /// Who changed what under it.
    pub meddled: Option<Edit>,
    /// What a failed operation makes of its end.
    pub fault_exit: Option<u8>,
    /// Nothing more may be carried out.
    pub over: bool,
    /// It holds the state root.
    pub locked: bool,
    /// It changed something besides the marker.
    pub wrote: bool,
    /// It synced something.
    pub synced: bool,
    /// It touched a destination.
    pub touched: bool,
    /// It committed a line of the chain.
    pub committed: bool,
    /// It read the marker: what follows is beyond certificates.
    pub past_certificates: bool,
    /// The last manifest and key that it was given.
    given: (Option<Content>, Option<Vec<u8>>),
    /// What it may carry out: the release with the very bytes whose signature was found good.
    pub approved: Option<&'static Release>,
    /// The host as it was told.
    pub host: Option<Hash32>,
    /// It logged an error.
    pub errors: bool,
    /// Its log.
    pub notes: Vec<&'static str>,
    /// How it ended.
    pub ended: Option<Ended>,
    deferred: Vec<Op>,
    first_chain: Option<Vec<u8>>,
}

impl Process {
    /// Starts a precheck.
    pub fn start(run: &mut Run, rotate: bool, fault: Fault) -> Self {
        run.processes += 1;
        let number = run.processes;
        let forecast = run.forecast(rotate, false);
        run.say(|| format!("p{number}: precheck starts, to end with {} {}", forecast.exit, forecast.why));
        let machine = Precheck::new(run.settings(rotate));
        let mut process = Self {
            number,
            machine,
            waits: Waits::Nothing,
            rotate,
            ops: 0,
            fault,
            forecast,
            also: Vec::new(),
            meddled: None,
            fault_exit: None,
            over: false,
            locked: false,
            wrote: false,
            synced: false,
            touched: false,
            committed: false,
            past_certificates: false,
            given: (None, None),
            approved: None,
            host: None,
            errors: false,
            notes: Vec::new(),
            ended: None,
            deferred: Vec::new(),
            first_chain: None,
        };
        process.feed(run, Event::Start(Entropy([0; 32])));
        process
    }

    fn feed(&mut self, run: &mut Run, event: Event<machines::precheck::Input>) {
        let mut effects: Vec<Effect<Ended>> = Vec::new();
        self.waits = Waits::Nothing;
        self.machine.handle(run.now(), event, &mut Outbox::over(&mut effects));
        self.machine.check();
        for effect in effects {
            match effect {
                Effect::Tree(tag, ops) => self.waits = Waits::Chain(tag, ops, 0),
                Effect::Work(tag, work::Op::Host(ask)) => self.waits = Waits::Work(tag, Box::new(ask)),
                Effect::Work(tag, op) => panic!("a precheck asks its host alone: {tag:?} {op:?}"),
                Effect::Disk(tag, _) => panic!("a precheck has no files by name: {tag:?}"),
                Effect::Net(tag, _) => panic!("a precheck has no network: {tag:?}"),
                Effect::Halt(halt) => panic!("a precheck halts: {}", halt.message),
                Effect::Note(note) => {
                    self.errors |= note.level == Level::Error;
                    self.notes.push(note.msg);
                    let number = self.number;
                    run.say(|| format!("p{number}: {:?} {} {:?}", note.level, note.msg, note.fields));
                }
                Effect::Output(ended) => {
                    self.ended = Some(ended);
                    run.process_ended(self);
                    if self.locked && run.held_by == Some(self.number) {
                        run.held_by = None;
                    }
                }
            }
        }
    }

    /// The operation that comes next; `None` where an answer does, or nothing.
    #[must_use]
    pub fn next(&self) -> Option<&Op> {
        match &self.waits {
            Waits::Chain(_, ops, at) => ops.get(*at),
            Waits::Work(..) | Waits::Nothing => None,
        }
    }

    /// Gives it what it waits for: one operation, or one answer. False when it has ended.
    pub fn step(&mut self, run: &mut Run) -> bool {
        if self.ended.is_some() || run.failure.is_some() {
            return false;
        }
        if self.ops > MOST {
            run.fail(Oracle::Liveness, "a precheck does not end");
            return false;
        }
        match std::mem::replace(&mut self.waits, Waits::Nothing) {
            Waits::Chain(tag, ops, at) => {
                let Some(op) = ops.get(at).cloned() else { panic!("an empty chain: {tag:?}") };
                self.waits = Waits::Chain(tag, ops, at);
                let result = self.carry_out(run, &op);
                self.ops += 1;
                let Waits::Chain(tag, ops, at) = std::mem::replace(&mut self.waits, Waits::Nothing) else {
                    return false;
                };
                match result {
                    Err(kind) => self.feed(run, Event::Tree(tag, Err(tree::Fault { step: at, kind }))),
                    Ok(done) if at + 1 == ops.len() => self.feed(run, Event::Tree(tag, Ok(done))),
                    Ok(_) => self.waits = Waits::Chain(tag, ops, at + 1),
                }
            }
            Waits::Work(tag, ask) => {
                let answer = run.answer(&ask);
                self.was_answered(run, &ask, &answer);
                self.feed(run, Event::Work(tag, work::Got::Host(answer)));
            }
            Waits::Nothing => {
                run.fail(Oracle::Liveness, "a precheck waits for nothing and has not ended");
                return false;
            }
        }
        self.ended.is_none()
    }

    fn was_answered(&mut self, run: &mut Run, ask: &Ask, answer: &Answer) {
        let number = self.number;
        match (ask, answer) {
            (Ask::Components, Answer::Components(Ok(_))) => self.host = Some(run.host_hash()),
            (Ask::PinnedKey, Answer::Key(Ok(key))) => self.given.1.clone_from(key),
            (Ask::Ed25519 { key, message, signature }, Answer::Signed(good)) => {
                // Whether it may is judged here by the bytes that it was given to read, and the node's own key.
                let message = Content::new(message);
                let truly = material::sign(key, message.bytes()) == *signature
                    && self.given.0.as_ref() == Some(&message)
                    && self.given.1.as_deref() == Some(key.as_slice());
                let release = material::known(message.bytes()).filter(|release| run.admissible(release).is_ok());
                self.approved = release.filter(|_| truly);
                run.say(|| {
                    format!("p{number}: signature good: {good}; may be carried out: {}", truly && release.is_some())
                });
            }
            (
                Ask::Components | Ask::Certificates(_) | Ask::PinnedKey | Ask::Ed25519 { .. },
                Answer::Components(_) | Answer::Certificates(_) | Answer::Key(_) | Answer::Signed(_),
            ) => {}
        }
    }

    /// One operation with whatever fails, under the eyes of the oracles.
    fn carry_out(&mut self, run: &mut Run, op: &Op) -> Result<Done, FaultKind> {
        run.events += 1;
        if let Op::Read { at, .. } = op {
            self.past_certificates |= File::Marker.is(at);
        }
        if let Some(kind) = self.injected(op) {
            run.mark(if kind == FaultKind::NoSpace { Mark::Full } else { Mark::Failed });
            if let Op::Sync(place) = op {
                run.tree.fail_sync(place);
            } else {
                run.tree.apply_half(op);
            }
            self.take_fault(run, op);
            run.trace.record(2, u64::from(self.ops), run.tree.changes());
            let number = self.number;
            run.say(|| format!("p{number} {:>3}: {} -> {kind}", self.ops, words(op)));
            return Err(kind);
        }
        run.judge_before(self, op);
        let result = if let Op::Open(root) = op {
            self.open(run, *root)
        } else if *op == Op::Lock {
            self.lock(run)
        } else {
            self.by_sabotage(run, op).unwrap_or_else(|| run.tree.apply(op))
        };
        self.was_given(op, &result);
        let number = self.number;
        run.say(|| format!("p{number} {:>3}: {} -> {}", self.ops, words(op), outcome(&result)));
        run.trace.record(1, u64::from(self.ops) << 8 | u64::from(result.is_ok()), run.tree.changes());
        if run.broken(Sabotage::Nondeterminism) && self.ops == 20 {
            run.trace.record(9, crate::sweep::outside_number(), 0);
        }
        run.judge_after(self, op, &result);
        result
    }

    fn injected(&self, op: &Op) -> Option<FaultKind> {
        let writes = matches!(
            op,
            Op::Put { .. } | Op::Copy { .. } | Op::MakeFolder { .. } | Op::Link { .. } | Op::Rename { .. }
        );
        match self.fault {
            Fault::Full(from) if writes && self.ops >= from => Some(FaultKind::NoSpace),
            Fault::Fails(at) if self.ops == at => Some(FaultKind::Io(5)),
            Fault::None | Fault::Full(_) | Fault::Fails(_) => None,
        }
    }

    fn open(&mut self, run: &mut Run, root: Root) -> Result<Done, FaultKind> {
        let opened = |ours, mode, writable| Ok(Done::Opened(tree::Opened { ours, mode, writable }));
        match (root, run.root_wrong) {
            (Root::Allowed(_), _) | (Root::State, None) => opened(true, 0o700, true),
            (Root::State, Some(n)) => match n % 4 {
                0 => Err(FaultKind::NotFound),
                1 => opened(false, 0o700, true),
                2 => opened(true, 0o770, true),
                _ => opened(true, 0o755, false),
            },
        }
    }

    fn lock(&mut self, run: &mut Run) -> Result<Done, FaultKind> {
        let held = run.held_by.is_some_and(|by| by != self.number);
        self.forecast = run.forecast(self.rotate, held);
        if held && !run.broken(Sabotage::LockShared) {
            return Err(FaultKind::Held);
        }
        if held {
            run.fail(Oracle::ExitCode, "two prechecks hold the state root");
        }
        run.held_by = Some(self.number);
        self.locked = true;
        // What somebody broke may still be what the medium has.
        run.whole = run.config.tls && [View::Cache, View::Medium].into_iter().all(|view| run.identity_is_whole(view));
        Ok(Done::Nothing)
    }

    fn was_given(&mut self, op: &Op, result: &Result<Done, FaultKind>) {
        if let (Op::Read { at, .. }, Ok(Done::Bytes(bytes))) = (op, result) {
            match at.path.as_str() {
                "runtime/manifest.json" => self.given.0 = Some(Content::new(bytes)),
                "identity/manifest-verify.pub" => self.given.1 = Some(bytes.clone()),
                _ => {}
            }
        }
    }

    /// What a failed operation makes of the exit code, by what it was for.
    #[allow(clippy::wildcard_enum_match_arm)] // whatever else fails is exit 5
    fn take_fault(&mut self, run: &Run, op: &Op) {
        if self.fault_exit.is_some() || self.over {
            return;
        }
        let proof = ["runtime/manifest.json", "runtime/manifest.json.sig", "identity/manifest-verify.pub"];
        let marks = |place: &Place| File::Marker.is_or_temp(place);
        let code = match op {
            Op::Open(Root::State) | Op::Lock => 2,
            Op::Look(place) if run.paths().iter().any(|(_, path)| path == place) => 2,
            // The floor is a help: without it the clock and the build count.
            Op::Read { at, .. } if at.path.as_str() == "activation.json" => {
                let mut without = run.clone();
                without.floor_us = 0;
                self.forecast = without.forecast(self.rotate, false);
                return;
            }
            _ if !self.past_certificates && self.rotate => 3,
            // Evidence is finished without the binary's hash; what follows is proven anew.
            Op::Read { at, .. } if self.forecast.finishes && !self.committed && proof.contains(&at.path.as_str()) => {
                self.also = vec![5];
                return;
            }
            Op::Put { at: place, .. } | Op::Remove(place) | Op::Rename { from: place, .. } if marks(place) => {
                match self.forecast.exit {
                    0 if self.marks_passed(run) => 2,
                    0 => 5,
                    // A refusal stands without its marker.
                    refused => refused,
                }
            }
            _ => 5,
        };
        self.over = true;
        self.fault_exit = Some(code);
    }

    /// Whether the marker that is being written says 0.
    fn marks_passed(&self, run: &Run) -> bool {
        let passed = run.marker(0);
        let ops = match &self.waits {
            Waits::Chain(_, ops, _) => ops.as_slice(),
            Waits::Work(..) | Waits::Nothing => &[],
        };
        ops.iter().any(|op| matches!(op, Op::Put { bytes, .. } if bytes.as_slice() == passed.bytes()))
    }
}

fn words(op: &Op) -> String {
    match op {
        Op::Open(root) => format!("open {root:?}"),
        Op::Lock => "lock".into(),
        Op::Look(at) => format!("look {}", at.path),
        Op::List { at, .. } => format!("list {}", at.path),
        Op::Read { at, .. } => format!("read {}", at.path),
        Op::Hash(at) => format!("hash {}", at.path),
        Op::Put { at, bytes, mode } => format!("put {} {} bytes {mode}", at.path, bytes.len()),
        Op::Copy { from, to, mode } => format!("copy {} to {} {mode}", from.path, to.path),
        Op::MakeFolder { at, mode } => format!("folder {} {mode}", at.path),
        Op::Link { at, target } => format!("link {} to {target}", at.path),
        Op::Sync(at) => format!("sync {}", at.path),
        Op::SyncFolder(at) => format!("sync folder {}", at.path),
        Op::Rename { from, to } => format!("rename {} to {}", from.path, to.path),
        Op::Exchange { a, b } => format!("exchange {} and {}", a.path, b.path),
        Op::Remove(at) => format!("remove {}", at.path),
        Op::RemoveFolder(at) => format!("remove folder {}", at.path),
    }
}

fn outcome(result: &Result<Done, FaultKind>) -> String {
    match result {
        Ok(Done::Nothing) => "done".into(),
        Ok(Done::Bytes(bytes)) => format!("{} bytes", bytes.len()),
        Ok(other) => format!("{other:?}"),
        Err(kind) => kind.to_string(),
    }
}
