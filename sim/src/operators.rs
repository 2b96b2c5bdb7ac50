//! Other processes beside the node: operators who load and roll back policies, a reader of the log, and what damages files
//! behind everybody's back.

use machines::activation::{Activation, Command, Loader, LockSlot, Record, Report};
use machines::disk::{Dir, File, Op};
use machines::machine::{Effect, Entropy, Event, Machine as _, Outbox};

use crate::lanes::LANES;
use crate::marks::Mark;
use crate::plan::{FileKind, Goal, NAMES, Order};
use crate::policies;
use crate::releases;
use crate::world::{Checking, Deed, Errand, OPERATORS, Operator, Phase, World, fired};

type LoaderEvent = Event<<Loader as machines::machine::Machine>::Input>;

impl World {
    /// The node's first policy, loaded before the story begins.
    pub(crate) fn install(&mut self) {
        let Some(variant) = self.plan.config.policy.and_then(policies::variant) else { return };
        let Ok((bundle, _)) = &variant.opened else { return };
        let mut files = vec![(File::Bundle(variant.digest), variant.bytes.clone())];
        // Where only verified ones count, it came with the first release that has it.
        let release = releases::release(variant.number).filter(|_| self.plan.config.verified);
        let lock = release.and_then(|release| releases::lock(release.lock?)).map(|known| {
            self.supply.installed(known);
            let lock = LockSlot {
                fingerprint: known.fingerprint,
                name: NAMES.first().copied().unwrap_or("").to_owned(),
                version: format!("1.0.{}", variant.number),
                sequence: known.sequence,
                image: known.image,
                signed_at: known.slots.first().map_or_else(Default::default, |slot| slot.0),
            };
            files.push((File::Lock(known.fingerprint), known.bytes.clone()));
            let record = Record { bundle: variant.digest, lock: lock.clone() };
            files.push((File::Verified(variant.digest), record.to_bytes()));
            lock
        });
        let activation = Activation::default().with(bundle, lock);
        files.push((File::Activation, activation.to_bytes()));
        for (file, bytes) in files {
            for op in [Op::Put { file, bytes }, Op::Sync(file), Op::SyncDir(file.dir())] {
                let _ = self.disk.apply(&op);
            }
        }
        self.first_activation = activation.to_bytes();
        self.committed(0);
        self.acked = Some((0, 0));
    }

    /// `policy load` by another process.
    pub(crate) fn load(&mut self, variant: u8, crash: Option<u32>) {
        let Some(bundle) = policies::variant(variant) else { return };
        let command = Command::Load { bytes: bundle.bytes.clone(), require_verified: self.plan.config.verified };
        self.operate(command, crash, Errand::Load);
    }

    /// `policy rollback` by another process.
    pub(crate) fn rollback(&mut self, below: bool, crash: Option<u32>) {
        let below_floor = below.then(|| "simulated".to_owned());
        self.operate(Command::Rollback { below_floor }, crash, Errand::Rollback { below });
    }

    /// `release floor reset` by another process.
    pub(crate) fn reset_floor(&mut self, name: u8, time: bool, crash: Option<u32>) {
        let Some(of) = NAMES.get(usize::from(name)).copied() else { return };
        let command = Command::ResetFloor { name: of.to_owned(), time, reason: "simulated".to_owned() };
        self.operate(command, crash, Errand::ResetFloor { name, time });
    }

    fn operate(&mut self, command: Command, crash: Option<u32>, errand: Errand) {
        let deed = Deed::Changing(Box::new(Loader::new(command, crate::node::version())));
        let Some((proc, entropy)) = self.begin_operator(deed, errand, crash, None) else { return };
        self.feed_operator(proc, Event::Start(entropy));
    }

    /// Makes the process, if there may be one more.
    pub(crate) fn begin_operator(
        &mut self,
        deed: Deed,
        errand: Errand,
        crash: Option<u32>,
        checking: Option<Box<Checking>>,
    ) -> Option<(usize, Entropy)> {
        let p = self.operators.iter().position(Option::is_none)?;
        self.operator_epoch += 1;
        let epoch = self.operator_epoch;
        *self.operators.get_mut(p)? = Some(Operator {
            deed,
            errand,
            checking,
            effects: 0,
            crash,
            locked: false,
            before: 0,
            before_all: 0,
            commits: 0,
            faulted: false,
            committed: None,
            epoch,
        });
        Some((p + 1, self.entropy(1 << 32 | u64::from(epoch))))
    }

    pub(crate) fn operator(&mut self, proc: usize) -> Option<&mut Operator> {
        self.operators.get_mut(proc.checked_sub(1)?)?.as_mut()
    }

    /// Gives an operator's process an event.
    pub(crate) fn feed_operator(&mut self, proc: usize, event: LoaderEvent) {
        let now = self.clock.now(self.now);
        let mut effects: Vec<Effect<Result<Report, String>>> = Vec::new();
        let Some(operator) = self.operator(proc) else { return };
        let epoch = operator.epoch;
        let Deed::Changing(machine) = &mut operator.deed else { return };
        machine.handle(now, event, &mut Outbox::over(&mut effects));
        machine.check();
        for effect in effects {
            match effect {
                Effect::Disk(tag, ops) => self.submit(proc, tag, ops),
                Effect::Tree(tag, _) => panic!("the loader has no files by path: {tag:?}"),
                Effect::Net(tag, _) => panic!("the loader has no network: {tag:?}"),
                Effect::Work(tag, op) => self.start_work(proc, tag, op),
                Effect::Output(result) => self.load_done(proc, result),
                Effect::Note(_) => continue,
                Effect::Halt(_) => self.kill_operator(proc, false),
            }
            self.operator_effect(proc);
            if self.operator(proc).is_none_or(|o| o.epoch != epoch) || self.failure.is_some() {
                return;
            }
        }
    }

    /// Counts an effect of an operator's process, and kills it where the plan says so.
    pub(crate) fn operator_effect(&mut self, proc: usize) {
        let healed = self.phase != Phase::Faults;
        let Some(operator) = self.operator(proc) else { return };
        operator.effects += 1;
        if operator.crash == Some(operator.effects) && !healed {
            self.kill_operator(proc, true);
        }
    }

    /// An operator's process is gone; `cut` = it was killed in mid-operation.
    pub(crate) fn kill_operator(&mut self, proc: usize, cut: bool) {
        let Some(before) = self.operator(proc).map(|o| o.committed.is_some()) else { return };
        if cut {
            for lane in 0..LANES {
                self.cut_in_flight(proc * LANES + lane);
            }
            let after = self.operator(proc).is_some_and(|o| o.committed.is_some());
            let release = self.operator(proc).is_some_and(|o| matches!(o.errand, Errand::Fetch(_)));
            self.hit(match (release, before || after) {
                (false, false) => Mark::LoadCrashedBefore,
                (false, true) => Mark::LoadCrashedAfter,
                (true, false) => Mark::ReleaseCutBefore,
                (true, true) => Mark::ReleaseCutAfter,
            });
        }
        self.say(|| format!("operator p{proc} ends"));
        for lane in self.lanes.iter_mut().skip(proc * LANES).take(LANES) {
            lane.clear();
        }
        if let Some(slot) = self.operators.get_mut(proc - 1)
            && let Some(operator) = slot.take()
            && matches!(operator.errand, Errand::Fetch(Order { goal: Goal::Activate(_), .. }))
        {
            self.supply.forget_record(operator.checking.and_then(|checking| checking.passed));
        }
        if self.lock.is_some_and(|owner| usize::from(owner) == proc) {
            self.unlock();
        }
        if cut {
            self.check_activation_whole();
        }
    }

    /// A process took the lock.
    pub(crate) fn locked(&mut self, proc: usize) {
        let before = self.disk.fingerprint(|file| file == File::Activation);
        let before_all = self.policy_print();
        let commits = u32::try_from(self.commits.len()).unwrap_or(0);
        if let Some(operator) = self.operator(proc) {
            operator.locked = true;
            operator.before = before;
            operator.before_all = before_all;
            operator.commits = commits;
        }
    }

    fn load_done(&mut self, proc: usize, result: Result<Report, String>) {
        self.say(|| match &result {
            Ok(report) => {
                let version = report.bundle.as_ref().map(|bundle| bundle.manifest.version.to_string());
                format!("operator p{proc}: loaded {}", version.unwrap_or_default())
            }
            Err(why) => format!("operator p{proc}: refused: {why}"),
        });
        self.trace.record(13, proc as u64, u64::from(result.is_ok()));
        self.check_load(proc, result.is_ok());
        self.check_order_done(proc, result.as_ref().err().map(String::as_str));
        if self.operator(proc).is_some_and(|o| matches!(o.errand, Errand::Rollback { .. })) && result.is_ok() {
            self.hit(Mark::RolledBack);
        }
        if result.is_err() {
            self.hit(Mark::LoadRefused);
        }
        self.kill_operator(proc, false);
    }

    /// Whether an operator is at work.
    pub(crate) fn operating(&self) -> bool {
        self.operators.iter().any(Option::is_some)
    }

    /// A reader reads up to the safe-point; see `oracles.rs` for what is checked of it.
    pub(crate) fn read_log(&mut self) {
        let before = self.exposed.len();
        self.check_exposure();
        let n = self.exposed.len();
        if n != before {
            self.say(|| format!("reader: read up to {}", n.saturating_sub(1)));
        }
    }

    /// A bit of a file rots.
    pub(crate) fn rot(&mut self, kind: FileKind, place: u64, evicted: bool) {
        let mut files: Vec<File> = self.disk.names().filter(|file| is_kind(*file, kind)).collect();
        files.sort_unstable();
        let Some(pick) =
            usize::try_from(place % (files.len().max(1) as u64)).ok().and_then(|at| files.get(at)).copied()
        else {
            return;
        };
        let safe = self.safe_on_disk();
        if let Some(at) = self.disk.rot(pick, place / 7, evicted) {
            if pick.dir() == Dir::Telemetry {
                self.harm_file(pick, at, safe);
            } else {
                self.fired |= fired::MEDIA_POLICY;
            }
            self.say(|| format!("rot: {} byte {at}", pick.name()));
            self.marker_changed();
        }
    }

    /// An operator cuts the live file.
    pub(crate) fn cut_live(&mut self, permille: u32) {
        let len = self.disk.read(File::Live).map_or(0, <[u8]>::len);
        let to = len * permille.min(1_000) as usize / 1_000;
        if self.disk.tamper_truncate(File::Live, to) {
            self.fired |= fired::CUT;
            self.note_misdirected();
            self.harm_file(File::Live, to, 0);
            self.say(|| format!("operator cuts telemetry.wal from {len} to {to} bytes"));
        }
    }

    /// A sync that wrote to the wrong place did its damage.
    pub(crate) fn note_misdirected(&mut self) {
        if let Some((number, at)) = self.disk.take_misdirected() {
            self.harm_bytes(number, at);
            self.say(|| format!("a write went to the wrong place, byte {at} of the log"));
        }
    }

    /// Ends whatever operators still do wrong.
    pub(crate) fn operators_alive(&self) -> usize {
        (1..=OPERATORS).filter(|proc| self.operators.get(proc - 1).is_some_and(Option::is_some)).count()
    }
}

fn is_kind(file: File, kind: FileKind) -> bool {
    match kind {
        FileKind::Any => true,
        FileKind::Live => file == File::Live,
        FileKind::Sealed => matches!(file, File::Sealed(_)),
        FileKind::SafeSeq => file == File::SafeSeq,
        FileKind::Base => file == File::Base,
        FileKind::Positions => file == File::Positions,
        FileKind::Activation => file == File::Activation,
        FileKind::History => file == File::History,
        FileKind::Rejected => matches!(file, File::Rejected(_)),
        FileKind::Bundle => matches!(file, File::Bundle(_)),
        FileKind::Lock => matches!(file, File::Lock(_) | File::Verified(_)),
        FileKind::ActiveLock => file == File::ActiveLock,
        FileKind::Marker => file == File::Precheck,
        FileKind::Temp => matches!(file, File::Temp(_)),
    }
}
