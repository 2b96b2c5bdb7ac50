//! From another host to the commit: the manifest is proven, everything is looked at, and only then is something written.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::files::Name;
use super::host::{Answer, Ask};
use super::refusal::Refusal;
use super::verdict::Projection;
use super::{Ended, Phase, Precheck, exit};
use crate::disk::FaultKind;
use crate::ids::Hash32;
use crate::machine::{Level, Note, Outbox};
use crate::manifest::{Manifest, Plan, Step, Unverified};
use crate::time::Now;
use crate::tree::{self, Done, Kind, Op, Place, Root};

/// What a proven manifest is wanted for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// To rebuild the runtime.
    Reconstruct,
    /// To name the binary in the evidence of a reconstruction that was cut short behind its commit. Without a manifest
    /// the evidence names none.
    Finish(Vec<Projection>),
}

/// How far the proof of a manifest is.
#[derive(Debug)]
pub(super) enum Proof {
    /// The key is being read.
    Key,
    /// The manifest is being read; the key.
    Manifest(Vec<u8>),
    /// The signature is being read; the key and the manifest.
    Signature(Vec<u8>, Vec<u8>),
    /// The signature is being checked.
    Checking(Unverified),
}

/// A question before anything is written.
#[derive(Debug)]
enum Question {
    /// One of `[reconstruct] allow` is opened.
    Open(Root),
    /// This has to be a folder.
    Folder(Place),
    /// A folder can be made here.
    ForFolder(Place),
    /// A file can be put here.
    ForFile(Place),
    /// A link can be put here.
    ForLink(Place),
    /// A source has to have this BLAKE3.
    Source(Place, Hash32),
}

impl Question {
    fn op(&self) -> Op {
        match self {
            Self::Open(root) => Op::Open(*root),
            Self::Folder(at) | Self::ForFolder(at) | Self::ForFile(at) | Self::ForLink(at) => Op::Look(at.clone()),
            Self::Source(at, _) => Op::Hash(at.clone()),
        }
    }
}

/// A plan whose needs are being looked at.
#[derive(Debug)]
pub(super) struct Preparation {
    job: Job,
    asked: Question,
    left: VecDeque<Question>,
}

/// A plan that is being carried out.
#[derive(Debug)]
pub(super) struct Job {
    version: u64,
    steps: VecDeque<Step>,
    /// The copy of the first step was written and has to be put in its place.
    copied: bool,
}

impl Precheck {
    pub(super) fn prove(&mut self, now: Now, purpose: Purpose, out: &mut Outbox<'_, Ended>) {
        if matches!(purpose, Purpose::Reconstruct) {
            self.began = Some(now.mono);
        }
        let phase = Phase::Proving(purpose, Proof::Key);
        if self.config.pinned_key {
            self.work_of(phase, Ask::PinnedKey, out);
        } else {
            self.chain_of(phase, super::reading(Name::Key), out);
        }
    }

    /// There is no proof: a reconstruction ends, evidence is finished without the binary's hash.
    fn unproven(&mut self, now: Now, purpose: Purpose, refusal: Refusal, out: &mut Outbox<'_, Ended>) {
        match purpose {
            Purpose::Reconstruct => self.refuse(refusal, out),
            Purpose::Finish(unwritten) => self.project(now, unwritten, out),
        }
    }

    pub(super) fn proof_read(
        &mut self,
        now: Now,
        purpose: Purpose,
        proof: Proof,
        got: tree::Completion,
        out: &mut Outbox<'_, Ended>,
    ) {
        let file = match proof {
            Proof::Key => Name::Key,
            Proof::Manifest(_) => Name::Manifest,
            Proof::Signature(..) => Name::Signature,
            Proof::Checking(_) => panic!("precheck: a signature is checked by work"),
        };
        let bytes = match got {
            Ok(Done::Bytes(bytes)) => bytes,
            Ok(other) => panic!("precheck: {other:?} is not what a file holds"),
            Err(fault) => {
                let missing = fault.kind == FaultKind::NotFound;
                let refusal = match (file, missing) {
                    (Name::Key, true) => Refusal::key_missing(),
                    (_, true) => Refusal::manifest_missing(file.as_str()),
                    (_, false) => Refusal::cannot_read(file.as_str(), &fault),
                };
                return self.unproven(now, purpose, refusal, out);
            }
        };
        match proof {
            Proof::Key => self.key_read(purpose, bytes, out),
            Proof::Manifest(key) => {
                let phase = Phase::Proving(purpose, Proof::Signature(key, bytes));
                self.chain_of(phase, super::reading(Name::Signature), out);
            }
            Proof::Signature(key, manifest) => match Unverified::new(manifest, &key, &bytes) {
                Ok(unverified) => {
                    let question = unverified.question();
                    self.work_of(Phase::Proving(purpose, Proof::Checking(unverified)), question, out);
                }
                Err(refusal) => self.unproven(now, purpose, Refusal::manifest(&refusal), out),
            },
            Proof::Checking(_) => {}
        }
    }

    fn key_read(&mut self, purpose: Purpose, key: Vec<u8>, out: &mut Outbox<'_, Ended>) {
        self.chain_of(Phase::Proving(purpose, Proof::Manifest(key)), super::reading(Name::Manifest), out);
    }

    pub(super) fn proof_worked(
        &mut self,
        now: Now,
        purpose: Purpose,
        proof: Proof,
        got: Answer,
        out: &mut Outbox<'_, Ended>,
    ) {
        match (proof, got) {
            (Proof::Key, Answer::Key(Ok(Some(key)))) => self.key_read(purpose, key, out),
            (Proof::Key, Answer::Key(Ok(None))) => self.unproven(now, purpose, Refusal::key_missing(), out),
            (Proof::Key, Answer::Key(Err(words))) => self.unproven(now, purpose, Refusal::key_unreadable(words), out),
            (Proof::Checking(unverified), Answer::Signed(good)) => match unverified.answered(good) {
                Some(verified) => match verified.parse() {
                    Ok(manifest) => self.proven(now, purpose, &manifest, out),
                    Err(refusal) => self.unproven(now, purpose, Refusal::manifest(&refusal), out),
                },
                None => self.unproven(now, purpose, Refusal::bad_signature(), out),
            },
            (proof, got) => panic!("precheck: {got:?} was not asked for in {proof:?}"),
        }
    }

    fn proven(&mut self, now: Now, purpose: Purpose, manifest: &Manifest, out: &mut Outbox<'_, Ended>) {
        let highest = self.chain.as_ref().map_or(0, |chain| chain.last().manifest_version);
        match purpose {
            Purpose::Finish(unwritten) => {
                self.binary_hash = manifest.binary_hash().filter(|_| manifest.version == highest);
                self.project(now, unwritten, out);
            }
            Purpose::Reconstruct => {
                let own = self.config.node_id.as_deref();
                if let Some(node) = manifest.node.as_deref().filter(|node| Some(*node) != own) {
                    return self.refuse(Refusal::other_node(node, own), out);
                }
                if manifest.version < highest {
                    return self.refuse(Refusal::older(manifest.version, highest), out);
                }
                match Plan::new(manifest, &self.config.destinations) {
                    Ok(plan) => {
                        self.binary_hash = manifest.binary_hash();
                        self.prepare(now, manifest.version, plan, out);
                    }
                    Err(refusal) => self.refuse(Refusal::manifest(&refusal), out),
                }
            }
        }
    }

    fn prepare(&mut self, now: Now, version: u64, plan: Plan, out: &mut Outbox<'_, Ended>) {
        let mut left: VecDeque<Question> = VecDeque::new();
        let mut roots: Vec<Root> = plan.steps.iter().map(|step| step.at().root).filter(|r| *r != Root::State).collect();
        roots.sort_unstable();
        roots.dedup();
        left.extend(roots.into_iter().map(Question::Open));
        let expected = plan.expected_folders();
        left.extend(expected.iter().filter(|at| !at.path.as_str().is_empty()).cloned().map(Question::Folder));
        for step in &plan.steps {
            if let Step::Copy { from, blake3, .. } = step {
                left.push_back(Question::Source(from.clone(), *blake3));
            }
            left.push_back(for_step(step));
        }
        let job = Job { version, steps: plan.steps.into(), copied: false };
        self.ask(now, job, left, out);
    }

    fn ask(&mut self, now: Now, job: Job, mut left: VecDeque<Question>, out: &mut Outbox<'_, Ended>) {
        match left.pop_front() {
            Some(asked) => {
                let op = asked.op();
                self.chain_of(Phase::Preparing(Preparation { job, asked, left }), alloc::vec![op], out);
            }
            None => {
                out.note(Note::new(Level::Info, "edge.os.reconstruction_started"));
                // From here until the end this boot has not passed, whoever cuts this short.
                match self.marking(exit::RECONSTRUCTION) {
                    Some(ops) => self.chain_of(Phase::Arming(job), ops, out),
                    None => self.operate(now, job, out),
                }
            }
        }
    }

    pub(super) fn prepared(
        &mut self,
        now: Now,
        preparation: Preparation,
        got: tree::Completion,
        out: &mut Outbox<'_, Ended>,
    ) {
        let Preparation { job, asked, left } = preparation;
        let refusal = match (&asked, &got) {
            (Question::Open(root), Ok(Done::Opened(opened))) => Refusal::of_allowed(*root, *opened),
            (Question::Open(root), Err(fault)) => Some(Refusal::unusable(&Place::top(*root), fault)),
            (Question::Source(at, want), Ok(Done::Hash(got, _))) => {
                (got != want).then(|| Refusal::other_bytes(at, *want, *got))
            }
            (Question::Source(at, _), Err(fault)) => Some(Refusal::source(at, fault)),
            (Question::Folder(at), Ok(Done::Is(kind))) => {
                (*kind != Kind::Folder).then(|| Refusal::destination(at, kind))
            }
            (Question::ForFolder(at), Ok(Done::Is(kind))) => {
                (!matches!(kind, Kind::Nothing | Kind::Folder)).then(|| Refusal::destination(at, kind))
            }
            (Question::ForFile(at), Ok(Done::Is(kind))) => {
                (!matches!(kind, Kind::Nothing | Kind::File { .. })).then(|| Refusal::destination(at, kind))
            }
            (Question::ForLink(at), Ok(Done::Is(kind))) => {
                (!matches!(kind, Kind::Nothing | Kind::File { .. } | Kind::Link))
                    .then(|| Refusal::destination(at, kind))
            }
            (
                Question::Folder(at) | Question::ForFolder(at) | Question::ForFile(at) | Question::ForLink(at),
                Err(fault),
            ) => Some(Refusal::unusable(at, fault)),
            (asked, got) => panic!("precheck: {got:?} does not answer {asked:?}"),
        };
        match refusal {
            Some(refusal) => self.refuse(refusal, out),
            None => self.ask(now, job, left, out),
        }
    }

    /// Carries out the first step that is left, or commits.
    pub(super) fn operate(&mut self, now: Now, job: Job, out: &mut Outbox<'_, Ended>) {
        let Some(step) = job.steps.front() else { return self.commit_next(now, job.version, out) };
        let ops = match step {
            Step::Copy { to, .. } if job.copied => tree::settle(to.temp(), to).to_vec(),
            Step::Copy { from, to, mode, .. } => {
                let temp = to.temp();
                let copy = Op::Copy { from: from.clone(), to: temp.clone(), mode: *mode };
                alloc::vec![Op::Remove(temp), copy]
            }
            Step::Folder { at, mode } => alloc::vec![
                Op::MakeFolder { at: at.clone(), mode: *mode },
                Op::SyncFolder(at.clone()),
                Op::SyncFolder(at.folder()),
            ],
            Step::Write { at, mode, bytes } => tree::replace(at, bytes.clone(), *mode),
            Step::Link { at, target } => {
                let temp = at.temp();
                alloc::vec![
                    Op::Remove(temp.clone()),
                    Op::Link { at: temp.clone(), target: target.clone() },
                    Op::Rename { from: temp, to: at.clone() },
                    Op::SyncFolder(at.folder()),
                ]
            }
        };
        self.chain_of(Phase::Operating(job), ops, out);
    }

    pub(super) fn operated(&mut self, now: Now, mut job: Job, got: tree::Completion, out: &mut Outbox<'_, Ended>) {
        let Some(step) = job.steps.front() else { panic!("precheck: a step ended that was not begun") };
        match (step, got) {
            (step, Err(fault)) => {
                let temp = step.at().temp();
                let refusal = Refusal::step(step.at(), &fault);
                self.chain_of(Phase::Clearing(refusal), alloc::vec![Op::Remove(temp)], out);
            }
            // The bytes that were written are judged, not those that were looked at before.
            (Step::Copy { from, to, blake3, .. }, Ok(Done::Hash(got, _))) if !job.copied => {
                if got == *blake3 {
                    job.copied = true;
                    self.operate(now, job, out);
                } else {
                    let refusal = Refusal::other_bytes(from, *blake3, got);
                    self.chain_of(Phase::Clearing(refusal), alloc::vec![Op::Remove(to.temp())], out);
                }
            }
            (_, Ok(_)) => {
                job.steps.pop_front();
                job.copied = false;
                self.operate(now, job, out);
            }
        }
    }

    fn commit_next(&mut self, now: Now, version: u64, out: &mut Outbox<'_, Ended>) {
        let host = self.host_hash();
        let previous = self.replaced.unwrap_or(host);
        match self.chain.as_ref().map(|chain| chain.with(previous, host, version, now.wall)) {
            Some(Some(chain)) => self.commit(chain, out),
            Some(None) => self.refuse(Refusal::chain_full(), out),
            None => panic!("precheck: a reconstruction without a chain"),
        }
    }
}

fn for_step(step: &Step) -> Question {
    match step {
        Step::Copy { to, .. } => Question::ForFile(to.clone()),
        Step::Write { at, .. } => Question::ForFile(at.clone()),
        Step::Link { at, .. } => Question::ForLink(at.clone()),
        Step::Folder { at, .. } => Question::ForFolder(at.clone()),
    }
}
