//! A change of what is in force, from reading to the one commit point: the replacement of `activation.json`. An operator
//! asks for it, or a release that was verified. Cut short anywhere, everything is as before or wholly done.

use alloc::boxed::Box;
use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::disk::{self, Completion, Dir, Done, Fault, FaultKind, File, Lane, Lock, Op, Replaced, Tag};
use crate::machine::{Deadline, Event, Machine, Outbox};
use crate::policy::bundle::Bundle;
use crate::semver::Version;
use crate::time::Now;
use crate::verify::{Release, Verified};
use crate::work::{self, Got};

use super::history::{End, Line, TAIL_BYTES, What};
use super::{Activation, BUNDLE_BYTES, LockSlot, MAX_BYTES, Record, Slot, Terms, verified};

/// A change that nobody could read afterwards is not made.
fn readable(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Commit { before, after, bundle } if after.to_bytes().len() > MAX => {
            let reason =
                alloc::format!("activation.json would be longer than {MAX} bytes: it keeps a floor for each name");
            Verdict::Refuse { before: Some(before), slot: bundle.as_deref().map(Slot::of), reason }
        }
        kept @ (Verdict::Commit { .. } | Verdict::Refuse { .. }) => kept,
    }
}

#[allow(clippy::as_conversions)] // a constant that fits
const MAX: usize = MAX_BYTES as usize;

/// What the operator asks for.
#[derive(Clone, Debug)]
pub enum Command {
    /// Put this bundle in force.
    Load {
        /// The bundle's bytes.
        bytes: Vec<u8>,
        /// Admit only bundles that passed the four steps on this node.
        require_verified: bool,
    },
    /// Go back to the last known good bundle.
    Rollback {
        /// The reason to go below the floor, if that is wanted.
        below_floor: Option<String>,
    },
    /// Put a verified release in force.
    Activate {
        /// The release.
        release: Box<Verified<Release>>,
        /// What it has to be besides.
        terms: Terms,
    },
    /// Note that a release was verified here, and put nothing in force.
    Remember {
        /// The release.
        release: Box<Verified<Release>>,
    },
    /// Forget the floor of a lock's name.
    ResetFloor {
        /// The name.
        name: String,
        /// Forget the time floor too.
        time: bool,
        /// Why.
        reason: String,
    },
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Report {
    /// The bundle that was asked for; none when a floor was reset.
    pub bundle: Option<Arc<Bundle>>,
    /// What is in force now, as written.
    pub activation: Activation,
}

/// Nothing can be asked of it once it runs.
#[derive(Clone, Copy, Debug)]
pub enum Input {}

/// The machine; its one output is the end.
#[derive(Debug)]
pub struct Loader {
    command: Command,
    runtime: Version,
    /// The name of the locks that this node is configured for.
    name: Option<String>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Idle,
    /// Holding the lock from here on.
    ReadingActivation(Result<Option<Arc<Bundle>>, String>),
    ReadingLkg(Activation),
    /// Whether the bundle of a load passed the four steps on this node.
    ReadingRecord(Activation, Arc<Bundle>),
    /// The bundle of a load, before the lock is taken.
    OpeningNew,
    OpeningLkg(Activation),
    ReadingHistory(Verdict),
    Writing(Verdict, bool),
    Done,
}

/// What was decided: what will be in force, or why nothing changes.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // one of them, for a moment
enum Verdict {
    Commit { before: Activation, after: Activation, bundle: Option<Arc<Bundle>> },
    Refuse { before: Option<Activation>, slot: Option<Slot>, reason: String },
}

const TAG: Tag = Tag { lane: Lane::Policy, id: 0 };
const WORK: work::Tag = work::Tag(0);

impl Machine for Loader {
    const NAME: &'static str = "policy-loader";
    type Input = Input;
    type Output = Result<Report, String>;

    fn handle(&mut self, now: Now, event: Event<Input>, out: &mut Outbox<'_, Self::Output>) {
        match event {
            Event::Start(_) => self.start(out),
            Event::Due => {}
            Event::Disk(_, completion) => self.on_disk(now, completion, out),
            Event::Work(_, Got::Opened(opened)) => self.opened(opened.map(|(bundle, _)| bundle), out),
            Event::Net(tag, _) => panic!("loader: it has no network: {tag:?}"),
            Event::Work(tag, Got::Evaluated(_) | Got::Ran(_) | Got::Artifact(_) | Got::Checked(_)) => {
                panic!("loader: work of another kind: {tag:?}")
            }
            Event::Input(never) => match never {},
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        None
    }

    fn check(&self) {}
}

impl Loader {
    /// A command for a runtime of this version.
    #[must_use]
    pub const fn new(command: Command, runtime: Version) -> Self {
        Self { command, runtime, name: None, stage: Stage::Idle }
    }

    /// The same on a node that is configured for locks of this name.
    #[must_use]
    pub fn configured_for(mut self, name: Option<String>) -> Self {
        self.name = name;
        self
    }

    fn start(&mut self, out: &mut Outbox<'_, <Self as Machine>::Output>) {
        match &self.command {
            Command::Load { bytes, .. } => {
                self.stage = Stage::OpeningNew;
                out.work(WORK, work::Op::OpenBundle(bytes.clone()));
            }
            Command::Activate { release, .. } | Command::Remember { release } => {
                let bundle = Arc::clone(&release.get().bundle);
                self.lock(Ok(Some(bundle)), out);
            }
            Command::Rollback { .. } | Command::ResetFloor { .. } => self.lock(Ok(None), out),
        }
    }

    fn lock(&mut self, bundle: Result<Option<Arc<Bundle>>, String>, out: &mut Outbox<'_, <Self as Machine>::Output>) {
        self.stage = Stage::ReadingActivation(bundle);
        out.disk(TAG, vec![Op::Lock(Lock::Activation), Op::Read { file: File::Activation, at: 0, len: MAX_BYTES }]);
    }

    fn opened(&mut self, opened: Result<Arc<Bundle>, String>, out: &mut Outbox<'_, <Self as Machine>::Output>) {
        match core::mem::replace(&mut self.stage, Stage::Done) {
            Stage::OpeningNew => self.lock(opened.map(Some), out),
            Stage::OpeningLkg(before) => {
                let verdict = match opened {
                    Ok(bundle) => self.judge_rollback(before, bundle),
                    Err(words) => {
                        let slot = before.lkg.clone();
                        let reason = alloc::format!("the last known good bundle cannot be used: {words}");
                        Verdict::Refuse { before: Some(before), slot, reason }
                    }
                };
                self.read_history(verdict, out);
            }
            Stage::Idle
            | Stage::ReadingActivation(_)
            | Stage::ReadingLkg(_)
            | Stage::ReadingRecord(..)
            | Stage::ReadingHistory(_)
            | Stage::Writing(..)
            | Stage::Done => panic!("loader: a bundle was opened that nobody asked for"),
        }
    }

    fn on_disk(&mut self, now: Now, completion: Completion, out: &mut Outbox<'_, <Self as Machine>::Output>) {
        match core::mem::replace(&mut self.stage, Stage::Done) {
            Stage::ReadingActivation(bundle) => self.activation_read(bundle, completion, out),
            Stage::ReadingLkg(before) => match completion {
                Ok(Done::Bytes(bytes)) => {
                    self.stage = Stage::OpeningLkg(before);
                    out.work(WORK, work::Op::OpenBundle(bytes));
                }
                Ok(Done::Nothing | Done::Tail { .. } | Done::Listing(_)) => panic!("loader: a read without bytes"),
                Err(fault) => {
                    let slot = before.lkg.clone();
                    let reason = alloc::format!("the last known good bundle cannot be read: {}", fault.kind);
                    self.read_history(Verdict::Refuse { before: Some(before), slot, reason }, out);
                }
            },
            Stage::ReadingRecord(before, bundle) => {
                let verdict = self.judge_record(before, bundle, completion);
                self.read_history(verdict, out);
            }
            Stage::ReadingHistory(verdict) => self.write(now, verdict, completion, out),
            Stage::Writing(verdict, history) => self.written(verdict, history, completion, out),
            Stage::Idle | Stage::OpeningNew | Stage::OpeningLkg(_) | Stage::Done => {
                panic!("loader: an unexpected completion")
            }
        }
    }

    fn activation_read(
        &mut self,
        bundle: Result<Option<Arc<Bundle>>, String>,
        completion: Completion,
        out: &mut Outbox<'_, <Self as Machine>::Output>,
    ) {
        let before = match completion {
            Ok(Done::Bytes(bytes)) => Activation::parse(&bytes).map_err(|words| {
                alloc::format!("activation.json is damaged ({words}); move it away to start anew without a policy")
            }),
            Err(Fault { step: 1, kind: FaultKind::NotFound }) => Ok(Activation::default()),
            Ok(Done::Nothing | Done::Tail { .. } | Done::Listing(_)) => panic!("loader: a read without bytes"),
            Err(Fault { step: 0, kind }) => {
                return out.output(Err(alloc::format!("the activation lock cannot be taken: {kind}")));
            }
            Err(fault) => Err(alloc::format!("activation.json cannot be read: {}", fault.kind)),
        };
        let verdict = match (before, bundle) {
            (Err(reason), bundle) => {
                let slot = bundle.ok().flatten().map(|b| Slot::of(&b));
                Verdict::Refuse { before: None, slot, reason }
            }
            (Ok(before), Err(reason)) => Verdict::Refuse { before: Some(before), slot: None, reason },
            (Ok(before), Ok(Some(bundle))) => match &self.command {
                Command::Load { require_verified: true, .. } => {
                    let read = Op::Read { file: File::Verified(bundle.digest), at: 0, len: verified::MAX_BYTES };
                    self.stage = Stage::ReadingRecord(before, bundle);
                    return out.disk(TAG, vec![read]);
                }
                Command::Load { .. } | Command::Rollback { .. } | Command::ResetFloor { .. } => {
                    self.judge_load(before, bundle, None)
                }
                Command::Activate { .. } | Command::Remember { .. } => self.judge_release(before, bundle),
            },
            (Ok(before), Ok(None)) => match (&self.command, before.lkg.clone()) {
                (Command::ResetFloor { name, time, .. }, _) => match before.without_floor(name, *time) {
                    Ok(after) => Verdict::Commit { before, after, bundle: None },
                    Err(reason) => Verdict::Refuse { before: Some(before), slot: None, reason },
                },
                (_, Some(slot)) => {
                    self.stage = Stage::ReadingLkg(before);
                    let read = Op::Read { file: File::Bundle(slot.bundle), at: 0, len: BUNDLE_BYTES };
                    return out.disk(TAG, vec![read]);
                }
                (_, None) => Verdict::Refuse {
                    before: Some(before),
                    slot: None,
                    reason: "there is no last known good bundle to go back to".into(),
                },
            },
        };
        self.read_history(verdict, out);
    }

    /// A bundle that is loaded by itself, with the lock of its record where one is asked for.
    fn judge_load(&self, before: Activation, bundle: Arc<Bundle>, lock: Option<LockSlot>) -> Verdict {
        let mut after = before.with(&bundle, lock.clone());
        if lock.is_none() && before.current.as_ref().is_some_and(|current| current.names(&bundle)) {
            // The very bundle in force, loaded once more by itself, loses nothing of what it came with.
            after.current.clone_from(&before.current);
        }
        match before.admit(&bundle, &self.runtime) {
            Ok(()) => Verdict::Commit { after, before, bundle: Some(bundle) },
            Err(reason) => Verdict::Refuse { before: Some(before), slot: Some(Slot::of(&bundle)), reason },
        }
    }

    fn judge_record(&self, before: Activation, bundle: Arc<Bundle>, completion: Completion) -> Verdict {
        let record = match completion {
            Ok(Done::Bytes(bytes)) => Record::parse(&bytes).filter(|record| record.bundle == bundle.digest),
            Ok(Done::Nothing | Done::Tail { .. } | Done::Listing(_)) => panic!("loader: a read without bytes"),
            Err(_) => None,
        };
        let admitted = record
            .ok_or_else(|| {
                String::from(
                    "require_verified is on and this bundle did not pass the four steps on this node; load it with \
                     `autonomy policy load --image REF --pubkey FILE`",
                )
            })
            .and_then(|record| {
                let lock = record.lock;
                let admitted = before.admit_lock(&lock.name, lock.sequence, self.name.as_deref());
                admitted.map_err(|no| no.to_string()).map(|()| lock)
            });
        match admitted {
            Ok(lock) => self.judge_load(before, bundle, Some(lock)),
            Err(reason) => Verdict::Refuse { before: Some(before), slot: Some(Slot::of(&bundle)), reason },
        }
    }

    fn judge_release(&self, before: Activation, bundle: Arc<Bundle>) -> Verdict {
        let (release, judged) = match &self.command {
            Command::Activate { release, terms } => {
                let release = release.get();
                let admitted = before.admit_release(release, terms).map_err(|rejection| rejection.to_string());
                let judged = admitted.and_then(|()| before.admit(&bundle, &self.runtime));
                (release, judged.map(|()| before.with(&bundle, Some(LockSlot::of(release)))))
            }
            Command::Remember { release } => {
                let release = release.get();
                let mut after = before.clone();
                after.saw(&LockSlot::of(release));
                // An older one may be kept; one of another name has no business here.
                let named = before.admit_lock(&release.lock.name, u64::MAX, self.name.as_deref());
                (release, named.map_err(|rejection| rejection.to_string()).map(|()| after))
            }
            Command::Load { .. } | Command::Rollback { .. } | Command::ResetFloor { .. } => {
                panic!("loader: it judges no release")
            }
        };
        match judged {
            Ok(after) => Verdict::Commit { before, after, bundle: Some(bundle) },
            Err(reason) => {
                let slot = Slot { lock: Some(LockSlot::of(release)), ..Slot::of(&bundle) };
                Verdict::Refuse { before: Some(before), slot: Some(slot), reason }
            }
        }
    }

    fn judge_rollback(&self, before: Activation, bundle: Arc<Bundle>) -> Verdict {
        let below_floor = matches!(&self.command, Command::Rollback { below_floor: Some(_) });
        let after = before.swapped(&bundle, below_floor);
        let lock = after.current.as_ref().and_then(|current| current.lock.as_ref());
        let admitted = if !after.current.as_ref().is_some_and(|current| current.names(&bundle)) {
            Err(String::from("the last known good bundle's file holds another bundle"))
        } else {
            let lock_admitted = match lock {
                Some(lock) => {
                    let sequence = if below_floor { u64::MAX } else { lock.sequence };
                    let name = self.name.as_deref().unwrap_or(&lock.name);
                    before.admit_lock(&lock.name, sequence, Some(name)).map_err(|no| no.to_string())
                }
                None => Ok(()),
            };
            lock_admitted
                .and_then(|()| after.admit(&bundle, &self.runtime))
                .map_err(|words| alloc::format!("{words}; `--below-floor --reason TEXT` goes below it and is recorded"))
        };
        match admitted {
            Ok(()) => Verdict::Commit { before, after, bundle: Some(bundle) },
            Err(reason) => Verdict::Refuse { before: Some(before), slot: Some(Slot::of(&bundle)), reason },
        }
    }

    fn read_history(&mut self, verdict: Verdict, out: &mut Outbox<'_, <Self as Machine>::Output>) {
        self.stage = Stage::ReadingHistory(verdict);
        out.disk(TAG, vec![Op::ReadTail { file: File::History, len: TAIL_BYTES }]);
    }

    /// The one chain that changes things: bundle, history, and last the file that says what is in force.
    fn write(
        &mut self,
        now: Now,
        verdict: Verdict,
        completion: Completion,
        out: &mut Outbox<'_, <Self as Machine>::Output>,
    ) {
        let end = match completion {
            Ok(Done::Tail { total, bytes }) => End::read(total, &bytes),
            Err(Fault { kind: FaultKind::NotFound, .. }) => Ok(End::empty()),
            Ok(Done::Nothing | Done::Bytes(_) | Done::Listing(_)) => panic!("loader: a tail without bytes"),
            Err(fault) => Err(alloc::format!("policy/history.jsonl cannot be read: {}", fault.kind)),
        };
        let (verdict, end) = match (verdict, end) {
            (verdict, Ok(end)) => (verdict, Some(end)),
            // A change that cannot be recorded is not made.
            (Verdict::Commit { before, bundle, .. }, Err(reason)) => {
                (Verdict::Refuse { before: Some(before), slot: bundle.as_deref().map(Slot::of), reason }, None)
            }
            (refuse @ Verdict::Refuse { .. }, Err(_)) => (refuse, None),
        };
        let verdict = readable(verdict);
        let mut chain = Vec::new();
        if let Verdict::Commit { .. } = &verdict {
            self.store(&mut chain);
        }
        if let Some(end) = &end {
            chain.extend(end.append(now.wall, &self.lines(&verdict, end)));
        }
        if let Verdict::Commit { after, .. } = &verdict {
            chain.extend(disk::replace(Replaced::Activation, after.to_bytes()));
        }
        chain.push(Op::Unlock(Lock::Activation));
        self.stage = Stage::Writing(verdict, end.is_some());
        out.disk(TAG, chain);
    }

    /// What has to be durable before anything names it.
    fn store(&mut self, chain: &mut Vec<Op>) {
        match &mut self.command {
            Command::Load { bytes, .. } => {
                let bytes = core::mem::take(bytes);
                let digest = crate::oci::Digest::of(&bytes);
                chain.extend(disk::replace(Replaced::Bundle(*digest.hash()), bytes));
            }
            Command::Activate { release, .. } | Command::Remember { release } => {
                let release = release.get();
                let (bundle, lock) = (release.bundle.digest, LockSlot::of(release));
                chain.extend([Op::MakeDir(Dir::Locks), Op::MakeDir(Dir::Verified)]);
                chain.extend(disk::replace(Replaced::Bundle(bundle), release.bundle_bytes.clone()));
                chain.extend(disk::replace(Replaced::Lock(lock.fingerprint), release.lock_bytes.clone()));
                chain.extend(disk::replace(Replaced::Verified(bundle), Record { bundle, lock }.to_bytes()));
            }
            Command::Rollback { .. } | Command::ResetFloor { .. } => {}
        }
    }

    fn lines(&self, verdict: &Verdict, end: &End) -> Vec<Line> {
        let mut lines = Vec::new();
        let (before, line) = match verdict {
            Verdict::Commit { before, after, bundle } => {
                let (what, reason) = match &self.command {
                    Command::Load { .. } => (What::Load, None),
                    Command::Rollback { below_floor } => (What::Rollback, below_floor.clone()),
                    Command::Activate { .. } => (What::Activate, None),
                    Command::Remember { .. } => (What::Verified, None),
                    Command::ResetFloor { name, reason, .. } => {
                        let mut words = alloc::format!("{name} {}: {reason}", before.lock_floor(name));
                        if let (Some(old), None) = (before.time_floor, after.time_floor) {
                            words = alloc::format!("time floor {old}; {words}");
                        }
                        (What::FloorReset, Some(words))
                    }
                };
                let slot = match &self.command {
                    Command::Remember { release } => {
                        let release = release.get();
                        Some(Slot { lock: Some(LockSlot::of(release)), ..Slot::of(&release.bundle) })
                    }
                    Command::Load { .. } | Command::Rollback { .. } | Command::Activate { .. } => after.current.clone(),
                    Command::ResetFloor { .. } => bundle.as_deref().map(Slot::of),
                };
                (Some(before), Line { what, slot, reason })
            }
            Verdict::Refuse { before, slot, reason } => {
                (before.as_ref(), Line { what: What::Refused, slot: slot.clone(), reason: Some(reason.clone()) })
            }
        };
        // The last line promised a change that is not in force: it was cut short.
        if let (Some(before), Some(change)) = (before, end.change)
            && before.current.as_ref().map(|slot| slot.bundle) != Some(change)
        {
            lines.push(Line { what: What::NotCommitted, slot: None, reason: None });
        }
        lines.push(line);
        lines
    }

    fn written(
        &mut self,
        verdict: Verdict,
        history: bool,
        completion: Completion,
        out: &mut Outbox<'_, <Self as Machine>::Output>,
    ) {
        let result = match (verdict, completion) {
            (Verdict::Refuse { reason, .. }, Err(fault)) if history => {
                Err(alloc::format!("{reason} (and the refusal could not be recorded: {})", fault.kind))
            }
            (Verdict::Refuse { reason, .. }, _) => Err(reason),
            (Verdict::Commit { bundle, after, .. }, Ok(_)) => Ok(Report { bundle, activation: after }),
            (Verdict::Commit { .. }, Err(fault)) => Err(alloc::format!(
                "the policy folder cannot be written: {}; `autonomy policy status` says what is in force",
                fault.kind
            )),
        };
        out.output(result);
    }
}
