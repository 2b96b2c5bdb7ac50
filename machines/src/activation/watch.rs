//! The runtime's side of activation: follows `activation.json` and opens what it names.

use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::disk::{self, Completion, Dir, Done, Fault, FaultKind, File, Lane, Lock, Op, Replaced, Tag};
use crate::ids::Hash32;
use crate::machine::{Deadline, Event, Level, Machine, Note, Outbox};
use crate::policy::bundle::Bundle;
use crate::semver::Version;
use crate::time::{Mono, Now, Span};
use crate::work::{self, Compiled, Got};

use super::history::{End, Line, TAIL_BYTES, What};
use super::{Activation, BUNDLE_BYTES, MAX_BYTES, Slot};

/// How often the file is looked at: a load is served well within a second (SPEC 3).
const POLL: Span = Span::from_millis(250);

/// How long a bundle may take to be opened before it counts as unusable for now.
const OPENING: Span = Span::from_secs(30);

/// The bit that tells this machine's work from the interceptor's, which counts from zero.
pub const WORK: u64 = 1 << 63;

/// Nothing can be asked of it.
#[derive(Clone, Copy, Debug)]
pub enum Input {}

/// What it tells.
#[derive(Debug)]
pub enum Change {
    /// The file was looked at for the first time since the start, and what it names was opened or refused.
    Settled,
    /// This policy is in force from now on; `None` denies all.
    Policy(Option<Opened>),
    /// What the file names as current cannot be used.
    Fallback {
        /// Why.
        reason: String,
        /// The version that is used instead; `None` denies all.
        to: Option<String>,
    },
}

/// An opened policy.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The bundle.
    pub bundle: Arc<Bundle>,
    /// The compiled rules.
    pub compiled: Compiled,
}

/// The machine.
#[derive(Debug)]
pub struct Watch {
    runtime: Version,
    require_verified: bool,
    tags: u32,
    works: u64,
    settled: bool,
    /// The file's bytes as last acted on.
    seen: Option<Vec<u8>>,
    activation: Activation,
    in_force: Option<Slot>,
    unreadable: bool,
    /// A bundle could not be read for the device's sake: the same file is worth another try.
    again: bool,
    /// The fallback that was told last, so that it is told once.
    told: Option<(String, Option<String>)>,
    /// The lock whose copy `active-lock.json` is; the outer `None` until it was made in this life.
    copied: Option<Option<Hash32>>,
    stage: Stage,
    /// Lines for the history that wait for their turn.
    lines: VecDeque<Line>,
}

#[derive(Debug)]
enum Stage {
    /// Until the next look.
    Resting(Mono),
    Looking(Tag),
    /// The file changed: making durable what is there, and reading it once more, before it is acted on. Whoever wrote
    /// it may have been cut short between the rename and the sync of the folder; a policy that was named in an
    /// answer must not be gone after a power cut.
    Confirming(Tag, Vec<u8>),
    /// Reading a bundle of the file that was just read.
    Reading(Tag, Candidate),
    Opening(work::Tag, Candidate, Mono),
    /// Appending to the history: holding the lock, reading its end.
    ReadingHistory(Tag),
    WritingHistory(Tag),
    /// Reading the lock in force, for its copy.
    ReadingLock(Tag),
    /// Replacing or removing the copy.
    CopyingLock(Tag),
    /// Giving the lock back after a history that could not be written.
    Unlocking(Tag),
}

/// A bundle that is being tried, and what was wrong with the one before it.
#[derive(Debug)]
struct Candidate {
    slot: Slot,
    /// The slots to try after it.
    next: Option<Slot>,
    /// Why the current one could not be used, once that is known.
    refused: Option<(Slot, String)>,
}

impl Machine for Watch {
    const NAME: &'static str = "activation";
    type Input = Input;
    type Output = Change;

    fn handle(&mut self, now: Now, event: Event<Input>, out: &mut Outbox<'_, Change>) {
        match event {
            Event::Start(_) => self.look(out),
            Event::Due => match core::mem::replace(&mut self.stage, Stage::Resting(now.mono)) {
                Stage::Resting(until) if until <= now.mono => self.look(out),
                Stage::Opening(_, candidate, until) if until <= now.mono => {
                    self.again = true;
                    self.unusable(now, candidate, "opening it takes too long".into(), out);
                }
                waiting @ (Stage::Resting(_)
                | Stage::Looking(_)
                | Stage::Confirming(..)
                | Stage::Reading(..)
                | Stage::Opening(..)
                | Stage::ReadingHistory(_)
                | Stage::WritingHistory(_)
                | Stage::ReadingLock(_)
                | Stage::CopyingLock(_)
                | Stage::Unlocking(_)) => self.stage = waiting,
            },
            Event::Disk(tag, completion) => self.on_disk(now, tag, completion, out),
            Event::Tree(tag, _) => panic!("activation: it has no files by path: {tag:?}"),
            Event::Net(tag, _) => panic!("activation: it has no network: {tag:?}"),
            Event::Work(tag, got) => self.on_work(now, tag, got, out),
            Event::Input(never) => match never {},
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        match self.stage {
            Stage::Resting(at) => Some(Deadline { at, why: "look at activation.json" }),
            Stage::Opening(_, _, at) => Some(Deadline { at, why: "a bundle that takes too long to open" }),
            Stage::Looking(_)
            | Stage::Confirming(..)
            | Stage::Reading(..)
            | Stage::ReadingHistory(_)
            | Stage::WritingHistory(_)
            | Stage::ReadingLock(_)
            | Stage::CopyingLock(_)
            | Stage::Unlocking(_) => None,
        }
    }

    fn check(&self) {
        assert!(self.lines.len() <= 16, "activation: history lines pile up");
    }
}

impl Watch {
    /// A watch that has looked at nothing yet. With `require_verified`, only bundles whose digest passed the four
    /// steps on this node are admitted.
    #[must_use]
    pub fn new(runtime: Version, require_verified: bool) -> Self {
        Self {
            runtime,
            require_verified,
            tags: 0,
            works: WORK,
            settled: false,
            seen: None,
            activation: Activation::default(),
            in_force: None,
            unreadable: false,
            again: false,
            told: None,
            copied: None,
            stage: Stage::Resting(Mono::ZERO),
            lines: VecDeque::new(),
        }
    }

    /// What the file said when it was last acted on.
    #[must_use]
    pub const fn activation(&self) -> &Activation {
        &self.activation
    }

    /// The bundle in force.
    #[must_use]
    pub const fn in_force(&self) -> Option<&Slot> {
        self.in_force.as_ref()
    }

    fn tag(&mut self) -> Tag {
        self.tags = self.tags.wrapping_add(1);
        Tag { lane: Lane::Policy, id: self.tags }
    }

    fn look(&mut self, out: &mut Outbox<'_, Change>) {
        let tag = self.tag();
        self.stage = Stage::Looking(tag);
        out.disk(tag, vec![Op::Read { file: File::Activation, at: 0, len: MAX_BYTES }]);
    }

    fn rest(&mut self, now: Now, out: &mut Outbox<'_, Change>) {
        if !self.settled {
            self.settled = true;
            out.output(Change::Settled);
        }
        if self.lines.is_empty() {
            return self.copy_lock(now, out);
        }
        let tag = self.tag();
        self.stage = Stage::ReadingHistory(tag);
        out.disk(tag, vec![Op::Lock(Lock::Activation), Op::ReadTail { file: File::History, len: TAIL_BYTES }]);
    }

    /// Remakes `active-lock.json` when another lock is in force than it shows: at the start and after a change (SPEC 8).
    fn copy_lock(&mut self, now: Now, out: &mut Outbox<'_, Change>) {
        let wanted = self.in_force.as_ref().and_then(|slot| slot.lock.as_ref()).map(|lock| lock.fingerprint);
        if self.copied == Some(wanted) {
            self.stage = Stage::Resting(now.mono.after(POLL));
            return;
        }
        self.copied = Some(wanted);
        let tag = self.tag();
        match wanted {
            Some(fingerprint) => {
                self.stage = Stage::ReadingLock(tag);
                let len = u32::try_from(crate::lock::MAX_BYTES).unwrap_or(u32::MAX);
                out.disk(tag, vec![Op::Read { file: File::Lock(fingerprint), at: 0, len }]);
            }
            None => {
                self.stage = Stage::CopyingLock(tag);
                out.disk(tag, vec![Op::Remove(File::ActiveLock)]);
            }
        }
    }

    /// The copy is for people: what is in force does not hang on it, and it is not tried again.
    fn lock_not_copied(&mut self, now: Now, fault: &Fault, out: &mut Outbox<'_, Change>) {
        out.note(
            Note::new(Level::Warn, "active_lock_not_written")
                .with("file", "telemetry/active-lock.json")
                .with("cause", fault.kind.to_string()),
        );
        self.stage = Stage::Resting(now.mono.after(POLL));
    }

    fn on_disk(&mut self, now: Now, tag: Tag, completion: Completion, out: &mut Outbox<'_, Change>) {
        match core::mem::replace(&mut self.stage, Stage::Resting(now.mono)) {
            Stage::Looking(mine) if mine == tag => self.looked(now, completion, out),
            Stage::Confirming(mine, bytes) if mine == tag => self.confirmed(now, bytes, completion, out),
            Stage::Reading(mine, candidate) if mine == tag => self.read(now, candidate, completion, out),
            Stage::ReadingHistory(mine) if mine == tag => self.history_read(now, completion, out),
            Stage::WritingHistory(mine) if mine == tag => {
                let Err(fault) = completion else {
                    self.stage = Stage::Resting(now.mono.after(POLL));
                    return;
                };
                // The chain ended before it gave the lock back; without it no load would ever get it.
                out.note(history_lost(&fault.kind.to_string()));
                let tag = self.tag();
                self.stage = Stage::Unlocking(tag);
                out.disk(tag, vec![Op::Unlock(Lock::Activation)]);
            }
            Stage::ReadingLock(mine) if mine == tag => match completion {
                Ok(Done::Bytes(bytes)) => {
                    let tag = self.tag();
                    self.stage = Stage::CopyingLock(tag);
                    out.disk(tag, disk::replace(Replaced::ActiveLock, bytes));
                }
                Ok(Done::Nothing | Done::Tail { .. } | Done::Listing(_)) => panic!("activation: a read without bytes"),
                Err(fault) => self.lock_not_copied(now, &fault, out),
            },
            Stage::CopyingLock(mine) if mine == tag => match completion {
                Ok(_) => self.stage = Stage::Resting(now.mono.after(POLL)),
                Err(fault) => self.lock_not_copied(now, &fault, out),
            },
            Stage::Unlocking(mine) if mine == tag => self.stage = Stage::Resting(now.mono.after(POLL)),
            Stage::Resting(_)
            | Stage::Looking(_)
            | Stage::Confirming(..)
            | Stage::Reading(..)
            | Stage::Opening(..)
            | Stage::ReadingHistory(_)
            | Stage::WritingHistory(_)
            | Stage::ReadingLock(_)
            | Stage::CopyingLock(_)
            | Stage::Unlocking(_) => panic!("activation: an unexpected completion: {tag:?}"),
        }
    }

    fn looked(&mut self, now: Now, completion: Completion, out: &mut Outbox<'_, Change>) {
        let bytes = match completion {
            Ok(Done::Bytes(bytes)) => Some(bytes),
            Err(Fault { kind: FaultKind::NotFound, .. }) => None,
            Ok(Done::Nothing | Done::Tail { .. } | Done::Listing(_)) => panic!("activation: a read without bytes"),
            Err(fault) => return self.unreadable(now, fault, out),
        };
        if self.settled && self.seen == bytes && !self.again {
            self.unreadable = false;
            return self.rest(now, out);
        }
        let Some(bytes) = bytes else {
            self.unreadable = false;
            self.seen = None;
            self.again = false;
            self.activation = Activation::default();
            self.put_in_force(None, out);
            return self.rest(now, out);
        };
        let tag = self.tag();
        self.stage = Stage::Confirming(tag, bytes);
        let read = Op::Read { file: File::Activation, at: 0, len: MAX_BYTES };
        // Its content was synced before it got this name; the name itself may not have been.
        out.disk(tag, vec![Op::SyncDir(Dir::State), read]);
    }

    /// The device's trouble says nothing of what is in force: keep it and look again.
    fn unreadable(&mut self, now: Now, fault: Fault, out: &mut Outbox<'_, Change>) {
        if !core::mem::replace(&mut self.unreadable, true) {
            out.note(
                Note::new(Level::Warn, "activation_unreadable")
                    .with("file", "activation.json")
                    .with("cause", fault.kind.to_string()),
            );
        }
        self.rest(now, out);
    }

    /// The file is durable: act on it, unless it was replaced meanwhile; then the next look sees that.
    fn confirmed(&mut self, now: Now, bytes: Vec<u8>, completion: Completion, out: &mut Outbox<'_, Change>) {
        match completion {
            Ok(Done::Bytes(again)) if again == bytes => self.act_on(now, bytes, out),
            Ok(Done::Bytes(_)) | Err(Fault { kind: FaultKind::NotFound, .. }) => self.look(out),
            Ok(Done::Nothing | Done::Tail { .. } | Done::Listing(_)) => panic!("activation: a read without bytes"),
            Err(fault) => self.unreadable(now, fault, out),
        }
    }

    fn act_on(&mut self, now: Now, bytes: Vec<u8>, out: &mut Outbox<'_, Change>) {
        self.again = false;
        self.unreadable = false;
        let parsed = Activation::parse(&bytes);
        if self.seen.as_ref() != Some(&bytes) {
            self.told = None;
        }
        self.seen = Some(bytes);
        match parsed {
            Ok(activation) => {
                self.activation = activation;
                match (self.activation.current.clone(), self.activation.lkg.clone()) {
                    (Some(slot), next) => self.try_slot(Candidate { slot, next, refused: None }, out),
                    (None, _) => {
                        self.put_in_force(None, out);
                        self.rest(now, out);
                    }
                }
            }
            Err(words) => {
                self.activation = Activation::default();
                self.put_in_force(None, out);
                self.fell_back(None, alloc::format!("activation.json is damaged: {words}"), None, out);
                self.rest(now, out);
            }
        }
    }

    fn try_slot(&mut self, candidate: Candidate, out: &mut Outbox<'_, Change>) {
        let tag = self.tag();
        let file = File::Bundle(candidate.slot.bundle);
        self.stage = Stage::Reading(tag, candidate);
        out.disk(tag, vec![Op::Read { file, at: 0, len: BUNDLE_BYTES }]);
    }

    fn read(&mut self, now: Now, candidate: Candidate, completion: Completion, out: &mut Outbox<'_, Change>) {
        match completion {
            Ok(Done::Bytes(bytes)) => {
                self.works += 1;
                let tag = work::Tag(self.works);
                self.stage = Stage::Opening(tag, candidate, now.mono.after(OPENING));
                out.work(tag, work::Op::OpenBundle(bytes));
            }
            Ok(Done::Nothing | Done::Tail { .. } | Done::Listing(_)) => panic!("activation: a read without bytes"),
            Err(fault) => {
                self.again |= fault.kind != FaultKind::NotFound;
                let words = alloc::format!("its file cannot be read: {}", fault.kind);
                self.unusable(now, candidate, words, out);
            }
        }
    }

    fn on_work(&mut self, now: Now, tag: work::Tag, got: Got, out: &mut Outbox<'_, Change>) {
        let candidate = match core::mem::replace(&mut self.stage, Stage::Resting(now.mono)) {
            Stage::Opening(mine, candidate, _) if mine == tag => candidate,
            // It was given up; what comes late is not used.
            other @ (Stage::Opening(..)
            | Stage::Resting(_)
            | Stage::Looking(_)
            | Stage::Confirming(..)
            | Stage::Reading(..)
            | Stage::ReadingHistory(_)
            | Stage::WritingHistory(_)
            | Stage::ReadingLock(_)
            | Stage::CopyingLock(_)
            | Stage::Unlocking(_)) => {
                self.stage = other;
                return;
            }
        };
        let Got::Opened(opened) = got else { panic!("activation: work of another kind") };
        match opened.and_then(|(bundle, compiled)| self.admit(&candidate.slot, bundle, compiled)) {
            Ok(opened) => {
                let Candidate { slot, refused, .. } = candidate;
                if let Some((refused, words)) = refused {
                    self.fell_back(Some(refused), words, Some(slot.version.clone()), out);
                }
                self.put_in_force(Some((slot, opened)), out);
                self.rest(now, out);
            }
            Err(words) => self.unusable(now, candidate, words, out),
        }
    }

    /// The rules by which a bundle that the file names may be in force (SPEC 3).
    fn admit(&self, slot: &Slot, bundle: Arc<Bundle>, compiled: Compiled) -> Result<Opened, String> {
        if !slot.names(&bundle) {
            return Err("its file holds another bundle".into());
        }
        if self.require_verified && slot.lock.is_none() {
            return Err("require_verified is on and this bundle did not pass the four steps on this node".into());
        }
        self.activation.admit(&bundle, &self.runtime)?;
        Ok(Opened { bundle, compiled })
    }

    fn unusable(&mut self, now: Now, candidate: Candidate, words: String, out: &mut Outbox<'_, Change>) {
        let Candidate { slot, next, refused } = candidate;
        let first = refused.unwrap_or((slot, words.clone()));
        if let Some(slot) = next {
            return self.try_slot(Candidate { slot, next: None, refused: Some(first) }, out);
        }
        let reason =
            if first.1 == words { words } else { alloc::format!("{}; nor the last known good one: {words}", first.1) };
        self.put_in_force(None, out);
        self.fell_back(Some(first.0), reason, None, out);
        self.rest(now, out);
    }

    fn put_in_force(&mut self, policy: Option<(Slot, Opened)>, out: &mut Outbox<'_, Change>) {
        let (slot, opened) = policy.unzip();
        if self.settled && slot == self.in_force {
            // Tried again with the same end: nothing changes for anybody.
            return;
        }
        let msg = if slot.is_some() { "policy_in_force" } else { "policy_none" };
        let mut note = Note::new(Level::Info, msg);
        if let Some(slot) = &slot {
            note = note
                .with("name", slot.name.as_str())
                .with("version", slot.version.as_str())
                .with("hash", alloc::format!("sha256:{}", slot.bundle_hash));
        }
        out.note(note);
        self.in_force = slot;
        out.output(Change::Policy(opened));
    }

    fn fell_back(&mut self, slot: Option<Slot>, reason: String, to: Option<String>, out: &mut Outbox<'_, Change>) {
        if self.told.as_ref().is_some_and(|told| (&told.0, &told.1) == (&reason, &to)) {
            return;
        }
        self.told = Some((reason.clone(), to.clone()));
        out.note(
            Note::new(Level::Warn, "policy_fallback")
                .with("reason", reason.as_str())
                .with("to", to.as_deref().unwrap_or("deny-all")),
        );
        if self.lines.len() < 16 {
            self.lines.push_back(Line::of(What::Fallback, slot, Some(reason.clone())));
        }
        out.output(Change::Fallback { reason, to });
    }

    fn history_read(&mut self, now: Now, completion: Completion, out: &mut Outbox<'_, Change>) {
        let end = match completion {
            Ok(Done::Tail { total, bytes }) => End::read(total, &bytes),
            Err(Fault { step: 1, kind: FaultKind::NotFound }) => Ok(End::empty()),
            Ok(Done::Nothing | Done::Bytes(_) | Done::Listing(_)) => panic!("activation: a tail without bytes"),
            Err(fault) => Err(fault.kind.to_string()),
        };
        let lines: Vec<Line> = core::mem::take(&mut self.lines).into();
        let mut chain = match end {
            Ok(end) => end.append(now.wall, &lines),
            Err(words) => {
                out.note(history_lost(&words));
                Vec::new()
            }
        };
        chain.push(Op::Unlock(Lock::Activation));
        let tag = self.tag();
        self.stage = Stage::WritingHistory(tag);
        out.disk(tag, chain);
    }
}

fn history_lost(words: &str) -> Note {
    Note::new(Level::Warn, "policy_history_not_written").with("file", "policy/history.jsonl").with("cause", words)
}
