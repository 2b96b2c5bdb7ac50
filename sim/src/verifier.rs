//! Operators who verify a release: the four steps against a source that may lie, and then the change of what is in force.

use machines::activation::{Activation, Command, Loader, Terms};
use machines::disk::File;
use machines::ids::Hash32;
use machines::machine::{Effect, Event, Machine as _, Outbox};
use machines::verify::{self, Ask, Failed, Options, Outcome, Output, Passed, Release, SourceFault, Verified, Verify};
use machines::work::{Got, Tag};

use crate::oracles_release::announced;
use crate::plan::{Goal, NAMES, Order, Wants};
use crate::registry::{self, day};
use crate::releases::{self, ALL};
use crate::rng::{Stream, draw};
use crate::sabotage::Sabotage;
use crate::source::Source;
use crate::world::{Checking, Deed, Errand, Job, World};

impl World {
    /// A release is verified by another process and then put in force or stored.
    pub(crate) fn fetch(&mut self, order: Order, crash: Option<u32>) {
        let key = draw(self.plan.seed, Stream::Net, 1 << 41 | u64::from(self.operator_epoch), 0);
        let Some(source) = Source::new(&order, key) else { return };
        let Some(release) = releases::release(order.release) else { return };
        let floor = self.time_floor();
        let wall = self.clock.now(self.now).wall;
        let told = if self.sabotaged_by(Sabotage::TimeFloorUnread) { day(0) } else { floor };
        let machine = Verify::new(Options {
            reference: release.reference.clone(),
            require_lock: true,
            require_policy: true,
            max_age: verify::MAX_AGE,
            allow_undated: false,
            time_floor: told,
            runtime: crate::node::version(),
            platform: ("linux".to_owned(), "amd64".to_owned()),
            timeout: verify::TIMEOUT,
            budget: verify::BUDGET,
        });
        let checking = Checking { source, floor, clock: (wall, wall), steps: Vec::new(), passed: None };
        let deed = Deed::Verifying(Box::new(machine));
        let begun = self.begin_operator(deed, Errand::Fetch(order), crash, Some(Box::new(checking)));
        let Some((proc, entropy)) = begun else { return };
        self.say(|| format!("operator p{proc}: verifies release {}", order.release));
        self.feed_verify(proc, Event::Start(entropy));
    }

    /// The earliest that it can be, as the command reads it: the later of the node's floor and of the build.
    fn time_floor(&self) -> machines::time::Wall {
        let activation = self.disk.read(File::Activation).and_then(|bytes| Activation::parse(bytes).ok());
        day(0).max(activation.and_then(|activation| activation.time_floor).unwrap_or_default())
    }

    fn checking(&mut self, proc: usize) -> Option<&mut Checking> {
        self.operator(proc)?.checking.as_deref_mut()
    }

    /// Gives a verification an event.
    fn feed_verify(&mut self, proc: usize, event: Event<verify::Input>) {
        let now = self.clock.now(self.now);
        if let Some(checking) = self.checking(proc) {
            checking.clock = (checking.clock.0.min(now.wall), checking.clock.1.max(now.wall));
        }
        let mut effects: Vec<Effect<Output>> = Vec::new();
        let Some(operator) = self.operator(proc) else { return };
        let epoch = operator.epoch;
        let Deed::Verifying(machine) = &mut operator.deed else { return };
        machine.handle(now, event, &mut Outbox::over(&mut effects));
        machine.check();
        for effect in effects {
            match effect {
                Effect::Work(tag, op) => self.start_work(proc, tag, op),
                Effect::Disk(tag, _) => panic!("a verification has no disk: {tag:?}"),
                Effect::Tree(tag, _) => panic!("a verification has no files by path: {tag:?}"),
                Effect::Net(tag, _) => panic!("a verification asks by work alone: {tag:?}"),
                Effect::Output(Output::Step(step, outcome)) => self.step_ended(proc, step, &outcome),
                Effect::Output(Output::End(result)) => self.verified(proc, *result),
                Effect::Note(_) => continue,
                Effect::Halt(halt) => panic!("a verification halts: {}", halt.message),
            }
            self.operator_effect(proc);
            if self.operator(proc).is_none_or(|o| o.epoch != epoch) || self.failure.is_some() {
                return;
            }
        }
    }

    /// A piece of work of an operator's process is done.
    pub(crate) fn operator_work(&mut self, proc: usize, tag: Tag, got: Got) {
        match self.operator(proc).map(|operator| &operator.deed) {
            Some(Deed::Verifying(_)) => self.feed_verify(proc, Event::Work(tag, got)),
            Some(Deed::Changing(_)) => self.feed_operator(proc, Event::Work(tag, got)),
            None => {}
        }
    }

    /// The source is asked; it takes its time, so that answers come in any order.
    pub(crate) fn ask_source(&mut self, proc: usize, tag: Tag, ask: &Ask) {
        let believed = self.sabotaged_by(Sabotage::LayerHashBelieved);
        let epoch = self.operator_epoch;
        let noise = draw(self.plan.seed, Stream::Net, 1 << 42 | u64::from(epoch), tag.0);
        let Some(checking) = self.checking(proc) else { return };
        let mut answer = checking.source.answer(ask);
        if let (true, Ask::Stream(descriptor), Ok(verify::Answer::Hashed { .. })) = (believed, ask, &answer) {
            answer = Ok(verify::Answer::Hashed { digest: descriptor.digest, size: descriptor.size });
        }
        let takes = match (&answer, noise % 16) {
            (Err(SourceFault::Unreachable(_)), _) => 20_000_000 + noise % 100_000_000,
            (_, 0) => 1_000_000 + noise % 30_000_000,
            _ => 20_000 + noise % 1_500_000,
        };
        self.say(|| format!("p{proc} asks: {}{}", words(ask), answer.as_ref().err().map_or("", |_| " (refused)")));
        self.trace.record(30, tag.0, u64::from(answer.is_ok()));
        self.schedule(proc, tag, Job::Known(Some(Got::Artifact(answer))), Some(takes));
    }

    /// A signature is checked.
    pub(crate) fn check_signature(&mut self, proc: usize, tag: Tag, message: &[u8], signature: &[u8]) {
        let mut key = registry::check(message, signature);
        if self.sabotaged_by(Sabotage::SignatureBelieved) {
            key = Some(0);
        }
        if self.sabotaged_by(Sabotage::PayloadDigestIgnored) {
            key = ALL.registry.made.get(signature).copied();
        }
        self.trace.record(31, tag.0, key.map_or(0, |key| 1 + u64::from(key)));
        let noise = draw(self.plan.seed, Stream::WorkLatency, tag.0, 1 << 33 | u64::from(self.operator_epoch));
        self.schedule(proc, tag, Job::Known(Some(Got::Checked(key))), Some(30_000 + noise % 200_000));
    }

    fn step_ended(&mut self, proc: usize, step: verify::Step, outcome: &Outcome) {
        self.say(|| match outcome {
            Outcome::Pass => format!("p{proc} [PASS] Step {}: {}", step.number(), step.title()),
            Outcome::Fail(why) => format!("p{proc} [FAIL] Step {}: {why}", step.number()),
            Outcome::Skip(why) => format!("p{proc} [SKIP] Step {}: {why}", step.number()),
        });
        let how = match outcome {
            Outcome::Pass => Some(true),
            Outcome::Fail(_) => Some(false),
            Outcome::Skip(_) => None,
        };
        if let Some(checking) = self.checking(proc) {
            checking.steps.push((step, how));
        }
    }

    /// The verification ended; what passed is put in force or stored by the same process.
    fn verified(&mut self, proc: usize, result: Result<Passed, Failed>) {
        self.trace.record(32, proc as u64, u64::from(result.is_ok()));
        self.check_verdict(proc, &result);
        let passed = match result {
            Ok(passed) => passed.release,
            // Sabotage: what passed last is as good.
            Err(_) if self.sabotaged_by(Sabotage::FailureIgnored) => self.supply.last.clone(),
            Err(why) => {
                self.say(|| format!("operator p{proc}: {why}"));
                None
            }
        };
        let (Some(release), None) = (passed, &self.failure) else { return self.kill_operator(proc, false) };
        if self.sabotage.is_some() {
            self.supply.last = Some(release.clone());
        }
        self.take_release(proc, release);
    }

    fn take_release(&mut self, proc: usize, release: Verified<Release>) {
        self.operator_epoch += 1;
        let epoch = self.operator_epoch;
        let entropy = self.entropy(1 << 32 | u64::from(epoch));
        let Some(operator) = self.operator(proc) else { return };
        let Errand::Fetch(order) = operator.errand else { return };
        let release = Box::new(release);
        let command = match order.goal {
            Goal::Import => Command::Remember { release },
            Goal::Activate(wants) => Command::Activate { release, terms: terms(wants, order.release) },
        };
        // Whatever the verification still waits for is of no use any more.
        operator.epoch = epoch;
        operator.deed = Deed::Changing(Box::new(Loader::new(command, crate::node::version())));
        self.feed_operator(proc, Event::Start(entropy));
    }
}

/// What a release has to be besides, as the machine is told it.
fn terms(wants: Wants, release: u8) -> Terms {
    let name = |at: usize| NAMES.get(at).map(|name| (*name).to_owned());
    match wants {
        Wants::Anything => Terms::default(),
        Wants::Agent => Terms { name: name(0), ..Terms::default() },
        Wants::Other => Terms { name: name(1), ..Terms::default() },
        Wants::Stable => Terms { channel: Some("stable".to_owned()), ..Terms::default() },
        Wants::Beta => Terms { channel: Some("beta".to_owned()), ..Terms::default() },
        Wants::Announced => Terms { fingerprint: announced(release), ..Terms::default() },
        Wants::Unannounced => Terms { fingerprint: Some(Hash32([7; 32])), ..Terms::default() },
    }
}

/// An ask in a few words.
fn words(ask: &Ask) -> String {
    match ask {
        Ask::Manifest { at: machines::oci::Target::Tag(tag), .. } => format!("manifest {tag}"),
        Ask::Manifest { at, .. } => format!("manifest {at:?}"),
        Ask::Referrers { subject, .. } => format!("referrers {subject}"),
        Ask::Bytes(descriptor) => format!("bytes {}", descriptor.digest),
        Ask::Stream(descriptor) => format!("stream {}", descriptor.digest),
    }
}
