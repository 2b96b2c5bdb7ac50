//! A change of what is in force, from reading to the one commit point: the replacement of `activation.json`. An operator
//! asks for it, or a release that was verified. Cut short anywhere, everything is as before or wholly done.

mod judge;

use alloc::boxed::Box;
use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::disk::{self, Completion, Dir, Done, Fault, FaultKind, File, Lane, Lock, Op, Replaced, Tag};
use crate::ids::Hash32;
use crate::machine::{Deadline, Event, Machine, Outbox};
use crate::policy::bundle::Bundle;
use crate::semver::Version;
use crate::time::Now;
use crate::verify::{Release, Verified};
use crate::work::{self, Got};

use self::judge::Verdict;
use super::history::{End, TAIL_BYTES};
use super::{Activation, BUNDLE_BYTES, LockSlot, MAX_BYTES, Record, Slot, Terms, verified};

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
    /// Note that an image was refused before there was anything to put in force; it ends as every refusal does.
    Refused {
        /// Which image, and why.
        reason: String,
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
    /// What is remembered of this bundle is of a later release than the one at hand, and stays.
    keeps_record: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Idle,
    /// Holding the lock from here on.
    ReadingActivation(Result<Option<Arc<Bundle>>, String>),
    ReadingLkg(Activation),
    /// Whether the bundle of a load passed the four steps on this node; nothing of it is unpacked before (FAULTS S27).
    ReadingRecord(Activation),
    /// The bundle of a load that has such a record, with its lock.
    OpeningVerified(Activation, LockSlot),
    /// What is remembered of the bundle of a release that is to be remembered.
    ReadingOlder(Activation, Arc<Bundle>),
    /// The bundle of a load, before the lock is taken.
    OpeningNew,
    OpeningLkg(Activation),
    ReadingHistory(Verdict),
    Writing(Verdict, bool),
    Done,
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
            Event::Tree(tag, _) => panic!("loader: it has no files by path: {tag:?}"),
            Event::Net(tag, _) => panic!("loader: it has no network: {tag:?}"),
            Event::Work(tag, Got::Evaluated(_) | Got::Ran(_) | Got::Artifact(_) | Got::Checked(_) | Got::Host(_)) => {
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
        Self { command, runtime, name: None, keeps_record: false, stage: Stage::Idle }
    }

    /// The same on a node that is configured for locks of this name.
    #[must_use]
    pub fn configured_for(mut self, name: Option<String>) -> Self {
        self.name = name;
        self
    }

    fn start(&mut self, out: &mut Outbox<'_, <Self as Machine>::Output>) {
        match &self.command {
            Command::Load { bytes, require_verified: false } => {
                self.stage = Stage::OpeningNew;
                out.work(WORK, work::Op::OpenBundle(bytes.clone()));
            }
            Command::Activate { release, .. } | Command::Remember { release } => {
                let bundle = Arc::clone(&release.get().bundle);
                self.lock(Ok(Some(bundle)), out);
            }
            Command::Load { require_verified: true, .. }
            | Command::Rollback { .. }
            | Command::Refused { .. }
            | Command::ResetFloor { .. } => self.lock(Ok(None), out),
        }
    }

    fn lock(&mut self, bundle: Result<Option<Arc<Bundle>>, String>, out: &mut Outbox<'_, <Self as Machine>::Output>) {
        self.stage = Stage::ReadingActivation(bundle);
        out.disk(TAG, vec![Op::Lock(Lock::Activation), Op::Read { file: File::Activation, at: 0, len: MAX_BYTES }]);
    }

    fn opened(&mut self, opened: Result<Arc<Bundle>, String>, out: &mut Outbox<'_, <Self as Machine>::Output>) {
        match core::mem::replace(&mut self.stage, Stage::Done) {
            Stage::OpeningNew => self.lock(opened.map(Some), out),
            Stage::OpeningVerified(before, lock) => {
                let verdict = match opened {
                    Ok(bundle) => self.judge_load(before, bundle, Some(lock)),
                    Err(reason) => Verdict::Refuse { before: Some(before), slot: None, reason },
                };
                self.read_history(verdict, out);
            }
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
            | Stage::ReadingRecord(_)
            | Stage::ReadingOlder(..)
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
            Stage::ReadingRecord(before) => self.record_read(before, completion, out),
            Stage::ReadingOlder(before, bundle) => {
                self.keeps_record = self.is_outdone(record(bundle.digest, completion).as_ref());
                let verdict = self.judge_release(before, bundle);
                self.read_history(verdict, out);
            }
            Stage::ReadingHistory(verdict) => self.write(now, verdict, completion, out),
            Stage::Writing(verdict, history) => self.written(verdict, history, completion, out),
            Stage::Idle | Stage::OpeningNew | Stage::OpeningVerified(..) | Stage::OpeningLkg(_) | Stage::Done => {
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
            (before, Ok(None)) if matches!(self.command, Command::Refused { .. }) => self.refused(before.ok()),
            (Err(reason), bundle) => {
                let slot = bundle.ok().flatten().map(|b| Slot::of(&b));
                Verdict::Refuse { before: None, slot, reason }
            }
            (Ok(before), Err(reason)) => Verdict::Refuse { before: Some(before), slot: None, reason },
            (Ok(before), Ok(Some(bundle))) => match &self.command {
                Command::Activate { .. } => self.judge_release(before, bundle),
                Command::Remember { .. } => {
                    let digest = bundle.digest;
                    self.stage = Stage::ReadingOlder(before, bundle);
                    return read_record(digest, out);
                }
                Command::Load { .. }
                | Command::Rollback { .. }
                | Command::Refused { .. }
                | Command::ResetFloor { .. } => self.judge_load(before, bundle, None),
            },
            (Ok(before), Ok(None)) => return self.judge_without_bundle(before, out),
        };
        self.read_history(verdict, out);
    }

    /// What of a command can be judged before a bundle is open.
    fn judge_without_bundle(&mut self, before: Activation, out: &mut Outbox<'_, <Self as Machine>::Output>) {
        let verdict = match (&self.command, before.lkg.clone()) {
            (Command::Load { bytes, .. }, _) => {
                let digest = *crate::oci::Digest::of(bytes).hash();
                self.stage = Stage::ReadingRecord(before);
                return read_record(digest, out);
            }
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
        };
        self.read_history(verdict, out);
    }

    /// Opens the bundle of a load when its record admits it.
    fn record_read(
        &mut self,
        before: Activation,
        completion: Completion,
        out: &mut Outbox<'_, <Self as Machine>::Output>,
    ) {
        let Command::Load { bytes, .. } = &self.command else { panic!("loader: a record was read for nothing") };
        let digest = crate::oci::Digest::of(bytes);
        let admitted = record(*digest.hash(), completion)
            .ok_or_else(|| {
                alloc::format!(
                    "require_verified is on and this bundle did not pass the four steps on this node ({digest}); load \
                     it with `autonomy policy load --image REF --pubkey FILE`"
                )
            })
            .and_then(|record| {
                let lock = record.lock;
                let admitted = before.admit_lock(&lock.name, lock.sequence, self.name.as_deref());
                admitted.map_err(|no| no.to_string()).map(|()| lock)
            });
        match admitted {
            Ok(lock) => {
                out.work(WORK, work::Op::OpenBundle(bytes.clone()));
                self.stage = Stage::OpeningVerified(before, lock);
            }
            Err(reason) => self.read_history(Verdict::Refuse { before: Some(before), slot: None, reason }, out),
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
            (Verdict::Refuse { before, slot, reason }, Err(why)) => {
                let reason = alloc::format!("{reason} (and the refusal could not be recorded: {why})");
                (Verdict::Refuse { before, slot, reason }, None)
            }
        };
        let verdict = judge::readable(verdict);
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
                if !self.keeps_record {
                    chain.extend(disk::replace(Replaced::Verified(bundle), Record { bundle, lock }.to_bytes()));
                }
            }
            Command::Rollback { .. } | Command::Refused { .. } | Command::ResetFloor { .. } => {}
        }
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

fn read_record(bundle: Hash32, out: &mut Outbox<'_, <Loader as Machine>::Output>) {
    out.disk(TAG, vec![Op::Read { file: File::Verified(bundle), at: 0, len: verified::MAX_BYTES }]);
}

/// What was read, if it is a record of this bundle.
fn record(bundle: Hash32, completion: Completion) -> Option<Record> {
    match completion {
        Ok(Done::Bytes(bytes)) => Record::parse(&bytes).filter(|record| record.bundle == bundle),
        Ok(Done::Nothing | Done::Tail { .. } | Done::Listing(_)) => panic!("loader: a read without bytes"),
        Err(_) => None,
    }
}
