//! The check before `edged` starts: is this the host that the node was built for, and if not, may it be rebuilt (SPEC 10).
//!
//! One precheck runs from start to end and ends with an exit code; LIFECYCLE.md draws its phases. The first check that
//! fails decides. The chain of epochs is the commit point of a reconstruction: what precedes it can be done again, what
//! follows it can be finished from the chain alone, so a precheck that was cut at any instant is completed by the next.

pub mod certificates;
pub mod chain;
pub mod files;
pub mod host;
mod reconstruct;
mod refusal;
mod rotate;
#[cfg(test)]
mod tests;
pub mod verdict;
pub mod watch;

use alloc::string::String;
use alloc::vec::Vec;

use self::certificates::Pair;
use self::chain::Chain;
use self::files::{Evidence, Fingerprint, Marker, Name};
use self::host::{Answer, Ask, Components};
use self::reconstruct::{Job, Preparation, Proof, Purpose};
use self::refusal::Refusal;
use self::rotate::Rotation;
use self::verdict::{Found, OF_FIRST, OF_LATER, Projection, State, Verdict};
use crate::activation::Activation;
use crate::disk::FaultKind;
use crate::ids::Hash32;
use crate::machine::{Deadline, Event, Level, Machine, Note, Outbox};
use crate::manifest::Destinations;
use crate::time::{Mono, Now, Wall};
use crate::tree::{self, Done, Fault, Kind, Mode, Op, Place, Root, Tag};
use crate::work;

/// The exit codes of `edged` (SPEC 10).
pub mod exit {
    /// Everything is as it has to be.
    pub const PASSED: u8 = 0;
    /// The configuration is faulty.
    pub const CONFIGURATION: u8 = 1;
    /// The state root cannot be used.
    pub const STATE_ROOT: u8 = 2;
    /// The certificate cannot be used.
    pub const CERTIFICATE: u8 = 3;
    /// Somebody else holds the state root.
    pub const HELD: u8 = 4;
    /// The reconstruction was refused or failed.
    pub const RECONSTRUCTION: u8 = 5;
    /// The command line is faulty (`EX_USAGE`).
    pub const USAGE: u8 = 64;
}

/// What a precheck is told before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[node] id`.
    pub node_id: Option<String>,
    /// Where operations may write.
    pub destinations: Destinations,
    /// The configured paths beneath the state root, with their keys.
    pub paths: Vec<(&'static str, Place)>,
    /// `[tls]`; `None` when no certificate is configured.
    pub tls: Option<Pair>,
    /// The relay is on and needs a certificate.
    pub relay: bool,
    /// `trust.manifest_key` names a key outside the state root.
    pub pinned_key: bool,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// Put the certificate in `identity/next/` in force first.
    pub rotate: bool,
    /// When this program was built: no clock is believed to be before it (FAULTS T09, T11).
    pub built_at: Wall,
}

/// Nothing can be asked of it.
#[derive(Clone, Copy, Debug)]
pub enum Input {}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The exit code.
    pub exit: u8,
    /// The boot epoch, where it passed.
    pub boot_epoch: Option<u64>,
}

/// The machine.
#[derive(Debug)]
pub struct Precheck {
    config: Config,
    tags: u32,
    phase: Phase,
    /// What was read of the node's files so far.
    found: FoundSoFar,
    /// The host and its fingerprint; read once (FAULTS B12).
    host: Option<(Components, Hash32)>,
    /// The marker that is there.
    marker: Option<Vec<u8>>,
    /// The chain, once it is in force.
    chain: Option<Chain>,
    /// BLAKE3 of the binary that the evidence of the chain's last line names.
    binary_hash: Option<Hash32>,
    /// The bytes of the current evidence, which become the previous one's.
    current_bytes: Option<Vec<u8>>,
    /// There was no `epoch/previous/evidence.json`, and perhaps no folder for it.
    no_previous: bool,
    /// The fingerprint before, while the runtime is rebuilt.
    replaced: Option<Hash32>,
    /// When the reconstruction began.
    began: Option<Mono>,
    /// The time that certificates are judged at, once the floor was read.
    judged_at: Wall,
    /// The lock is held, so the marker may be written.
    locked: bool,
    /// The chain was begun in this life.
    first: bool,
}

#[derive(Debug, Default)]
struct FoundSoFar {
    chain: Found<Chain>,
    fingerprint: Found<Fingerprint>,
    current: Found<Evidence>,
    previous: Found<Evidence>,
    ran_before: bool,
}

/// What is waited for.
#[derive(Debug)]
enum Phase {
    /// For the start.
    Fresh,
    /// The state root is being opened.
    Opening,
    /// Its lock is being taken.
    Locking,
    /// The n-th configured path is being looked at.
    Looking(usize),
    /// The next identity is being put in force.
    Rotating(Rotation),
    /// The floor of time is being read.
    ReadingFloor(Pair),
    /// The certificate is being read; the time that it is judged at.
    Certificates(Wall),
    /// One of the node's files is being read.
    Reading(Name),
    /// The host is being read.
    Host,
    /// A signed manifest is being proven.
    Proving(Purpose, Proof),
    /// Everything that a plan needs is being looked at, before anything is written.
    Preparing(Preparation),
    /// This boot's marker is being set to "not passed".
    Arming(Job),
    /// A step is being carried out.
    Operating(Job),
    /// The failed copy of a step is being removed.
    Clearing(Refusal),
    /// Folders for the first start are being made.
    MakingFolders,
    /// The chain is being replaced by this one.
    Committing(Chain),
    /// The names of the records that were found are being made durable, before anything that follows from them is written;
    /// what a crash left unwritten.
    Resuming(Vec<Projection>),
    /// Files that follow from the chain are being written: the first of these.
    Projecting(Vec<Projection>),
    /// The marker is being written; how it will end.
    Marking(Ended),
    /// The marker of a refusal could not be written, so an older one is being removed; how it will end.
    Unmarking(Ended),
    /// It has ended.
    Over,
}

impl Machine for Precheck {
    const NAME: &'static str = "precheck";
    type Input = Input;
    type Output = Ended;

    fn handle(&mut self, now: Now, event: Event<Input>, out: &mut Outbox<'_, Ended>) {
        match event {
            Event::Start(_) => self.chain_of(Phase::Opening, alloc::vec![Op::Open(Root::State)], out),
            Event::Tree(tag, completion) => {
                if tag != Tag(self.tags) {
                    panic!("precheck: {tag:?} is not what is waited for");
                }
                self.on_tree(now, completion, out);
            }
            Event::Work(tag, got) => {
                let work::Got::Host(answer) = got else { panic!("precheck: work of another kind: {tag:?}") };
                if tag != work::Tag(u64::from(self.tags)) {
                    panic!("precheck: {tag:?} is not what is waited for");
                }
                self.on_answer(now, answer, out);
            }
            Event::Due => {}
            Event::Disk(tag, _) => panic!("precheck: it has no files by name: {tag:?}"),
            Event::Net(tag, _) => panic!("precheck: it has no network: {tag:?}"),
            Event::Input(never) => match never {},
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        None
    }

    fn check(&self) {
        let armed = matches!(self.phase, Phase::Operating(_) | Phase::Clearing(_));
        assert!(!armed || self.replaced.is_some(), "operations without another host");
    }
}

impl Precheck {
    /// A precheck that was not started yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            tags: 0,
            phase: Phase::Fresh,
            found: FoundSoFar::default(),
            host: None,
            marker: None,
            chain: None,
            binary_hash: None,
            current_bytes: None,
            no_previous: false,
            replaced: None,
            began: None,
            judged_at: Wall::default(),
            locked: false,
            first: false,
        }
    }

    /// Asks for a chain and waits for it in this phase.
    fn chain_of(&mut self, phase: Phase, chain: Vec<Op>, out: &mut Outbox<'_, Ended>) {
        self.tags = self.tags.wrapping_add(1);
        self.phase = phase;
        out.tree(Tag(self.tags), chain);
    }

    /// Asks for work and waits for it in this phase.
    fn work_of(&mut self, phase: Phase, ask: Ask, out: &mut Outbox<'_, Ended>) {
        self.tags = self.tags.wrapping_add(1);
        self.phase = phase;
        out.work(work::Tag(u64::from(self.tags)), work::Op::Host(ask));
    }

    fn on_tree(&mut self, now: Now, got: tree::Completion, out: &mut Outbox<'_, Ended>) {
        match core::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Opening => self.opened(got, out),
            Phase::Locking => match got {
                Ok(_) => {
                    self.locked = true;
                    match self.config.tls {
                        None if self.config.rotate => self.rotate(out),
                        Some(_) | None => self.check_certificate(out),
                    }
                }
                Err(Fault { kind: FaultKind::Held, .. }) => self.refuse(Refusal::held(), out),
                Err(fault) => self.refuse(Refusal::state_root(&fault), out),
            },
            Phase::Looking(n) => self.looked(n, &got, out),
            Phase::Rotating(rotation) => self.rotated(rotation, got, out),
            Phase::ReadingFloor(pair) => self.floor_read(now, pair, got, out),
            Phase::Reading(name) => self.read(name, got, out),
            Phase::Proving(purpose, proof) => self.proof_read(now, purpose, proof, got, out),
            Phase::Preparing(preparation) => self.prepared(now, preparation, got, out),
            Phase::Arming(job) => match got {
                Ok(_) => {
                    self.marker = Some(self.marker_of(exit::RECONSTRUCTION));
                    self.operate(now, job, out);
                }
                Err(fault) => self.refuse(Refusal::cannot_write(Name::Marker.as_str(), &fault), out),
            },
            Phase::Operating(job) => self.operated(now, job, got, out),
            Phase::Clearing(refusal) => self.refuse(refusal, out),
            Phase::MakingFolders => match got {
                Ok(_) => self.commit_first(now, out),
                Err(fault) => self.refuse(Refusal::cannot_write(Name::Epoch.as_str(), &fault), out),
            },
            Phase::Committing(chain) => match got {
                Ok(_) => self.committed(now, chain, out),
                Err(fault) => self.refuse(Refusal::cannot_write(Name::Chain.as_str(), &fault), out),
            },
            Phase::Resuming(unwritten) => self.resumed(now, unwritten, got, out),
            Phase::Projecting(left) => self.projected(now, left, got, out),
            Phase::Marking(ended) => self.marked(ended, got, out),
            // Whether or not: the refusal stands.
            Phase::Unmarking(ended) => self.end(ended, out),
            phase @ (Phase::Fresh | Phase::Certificates(_) | Phase::Host | Phase::Over) => {
                panic!("precheck: no files were asked for in {phase:?}")
            }
        }
    }

    fn on_answer(&mut self, now: Now, got: Answer, out: &mut Outbox<'_, Ended>) {
        match (core::mem::replace(&mut self.phase, Phase::Over), got) {
            (Phase::Certificates(at), Answer::Certificates(Ok(found))) => match found.fault(at) {
                None => self.read_next(Name::Marker, out),
                Some(fault) => self.refuse(Refusal::certificate(fault, found.not_after), out),
            },
            (Phase::Certificates(_), Answer::Certificates(Err(words))) => {
                self.refuse(Refusal::certificate_unreadable(words), out);
            }
            (Phase::Rotating(rotation), Answer::Certificates(found)) => self.next_checked(rotation, found, out),
            (Phase::Host, Answer::Components(Ok(components))) => {
                let hash = components.composite_hash();
                self.host = Some((components, hash));
                self.judge(now, hash, out);
            }
            (Phase::Host, Answer::Components(Err(words))) => self.refuse(Refusal::host(words), out),
            (Phase::Proving(purpose, proof), got) => self.proof_worked(now, purpose, proof, got, out),
            (phase, got) => panic!("precheck: {got:?} was not asked for in {phase:?}"),
        }
    }

    fn opened(&mut self, got: tree::Completion, out: &mut Outbox<'_, Ended>) {
        match got {
            Ok(Done::Opened(root)) => match Refusal::of_root(root) {
                None => self.look_at(0, out),
                Some(refusal) => self.refuse(refusal, out),
            },
            Ok(other) => panic!("precheck: {other:?} is no opened root"),
            Err(fault) => self.refuse(Refusal::state_root(&fault), out),
        }
    }

    /// Looks at the n-th configured path: none may lead out of the state root.
    fn look_at(&mut self, n: usize, out: &mut Outbox<'_, Ended>) {
        match self.config.paths.get(n) {
            Some((_, place)) => {
                let op = Op::Look(place.clone());
                self.chain_of(Phase::Looking(n), alloc::vec![op], out);
            }
            None => self.chain_of(Phase::Locking, alloc::vec![Op::Lock], out),
        }
    }

    fn looked(&mut self, n: usize, got: &tree::Completion, out: &mut Outbox<'_, Ended>) {
        let key = self.config.paths.get(n).map_or("", |(key, _)| *key);
        match got {
            Ok(Done::Is(Kind::Nothing | Kind::File { .. } | Kind::Folder | Kind::Other))
            // Whether it can be read is the certificate's check.
            | Err(Fault { kind: FaultKind::NotFound | FaultKind::Denied, .. }) => self.look_at(n.saturating_add(1), out),
            Ok(Done::Is(Kind::Link)) | Err(Fault { kind: FaultKind::Refused, .. }) => {
                self.refuse(Refusal::outside(key), out);
            }
            Ok(other) => panic!("precheck: {other:?} is no look"),
            Err(fault) => self.refuse(Refusal::state_root(fault), out),
        }
    }

    fn check_certificate(&mut self, out: &mut Outbox<'_, Ended>) {
        match self.config.tls.clone() {
            Some(pair) => self.chain_of(Phase::ReadingFloor(pair), reading(Name::Activation), out),
            None if self.config.relay => self.refuse(Refusal::no_certificate(), out),
            None => self.read_next(Name::Marker, out),
        }
    }

    /// The certificate is judged at the latest time that is known: the clock's, the build's, or that of a signed release.
    fn floor_read(&mut self, now: Now, pair: Pair, got: tree::Completion, out: &mut Outbox<'_, Ended>) {
        let signed = match got {
            Ok(Done::Bytes(bytes)) => {
                Activation::parse(&bytes).map_or(None, |activation| activation.time_floor).unwrap_or_default()
            }
            // The floor is a help against a clock that was set back; without it the others count.
            Ok(_) | Err(_) => Wall::default(),
        };
        let floor = signed.max(self.config.built_at);
        if now.wall < floor {
            let mut text = String::new();
            floor.write_rfc3339(&mut text);
            out.note(Note::new(Level::Warn, "clock_rollback").with("floor", text));
        }
        self.judged_at = floor.max(now.wall);
        if self.config.rotate {
            self.rotate(out);
        } else {
            self.certify(pair, out);
        }
    }

    /// Has the certificate in force read.
    fn certify(&mut self, pair: Pair, out: &mut Outbox<'_, Ended>) {
        self.work_of(Phase::Certificates(self.judged_at), Ask::Certificates(pair), out);
    }

    fn read_next(&mut self, name: Name, out: &mut Outbox<'_, Ended>) {
        // Of the log only whether it is there.
        let ops = if name == Name::EdgeLog { alloc::vec![Op::Look(name.place())] } else { reading(name) };
        self.chain_of(Phase::Reading(name), ops, out);
    }

    fn read(&mut self, name: Name, got: tree::Completion, out: &mut Outbox<'_, Ended>) {
        let bytes = match got {
            Ok(Done::Bytes(bytes)) => Some(Ok(bytes)),
            Ok(Done::Is(kind)) => {
                self.found.ran_before = kind != Kind::Nothing;
                None
            }
            Ok(other) => panic!("precheck: {other:?} is not what a file holds"),
            Err(Fault { kind: FaultKind::NotFound, .. }) => None,
            // A fault of the device is no verdict about the file: nothing is decided on half of the facts.
            Err(fault @ Fault { kind: FaultKind::Io(_) | FaultKind::Denied, .. }) => {
                return self.refuse(Refusal::cannot_read(name.as_str(), &fault), out);
            }
            Err(fault) => {
                // What cannot be looked at counts as there.
                self.found.ran_before = name == Name::EdgeLog;
                Some(Err(alloc::format!("{}", fault.kind)))
            }
        };
        let next = if name == Name::Marker {
            self.marker = bytes.and_then(Result::ok);
            Name::Chain
        } else if name == Name::Chain {
            self.found.chain = bytes.map(|bytes| Chain::parse(&bytes?));
            Name::Fingerprint
        } else if name == Name::Fingerprint {
            self.found.fingerprint = bytes.map(|bytes| Fingerprint::parse(&bytes?));
            Name::Current
        } else if name == Name::Current {
            self.current_bytes = bytes.clone().and_then(Result::ok);
            self.found.current = bytes.map(|bytes| Evidence::parse(&bytes?));
            Name::Previous
        } else if name == Name::Previous {
            self.found.previous = bytes.map(|bytes| Evidence::parse(&bytes?));
            Name::EdgeLog
        } else {
            return self.work_of(Phase::Host, Ask::Components, out);
        };
        self.read_next(next, out);
    }

    fn judge(&mut self, now: Now, host: Hash32, out: &mut Outbox<'_, Ended>) {
        let FoundSoFar { chain, fingerprint, current, previous, ran_before } = core::mem::take(&mut self.found);
        let folders = [
            (Name::Epoch, chain.is_some()),
            (Name::CurrentFolder, current.is_some()),
            (Name::PreviousFolder, previous.is_some()),
            (Name::Bootstrap, fingerprint.is_some()),
        ];
        let folders: Vec<Name> = folders.into_iter().filter_map(|(folder, there)| there.then_some(folder)).collect();
        let state = State { chain, fingerprint, current, previous, ran_before };
        self.no_previous = state.previous.is_none();
        match state.judge(host) {
            Verdict::Refused(contradiction) => self.refuse(Refusal::contradiction(&contradiction), out),
            Verdict::FirstRun => {
                let folders = [Name::Bootstrap, Name::Epoch, Name::CurrentFolder];
                self.chain_of(Phase::MakingFolders, folders.into_iter().flat_map(making).collect(), out);
            }
            Verdict::Stands { unwritten, replaced } => {
                let stored = state.fingerprint.and_then(Result::ok);
                if let (Some(_), Some(stored), Some((components, _))) = (replaced, stored, &self.host) {
                    let changed = components.changed(&stored.components).join(",");
                    if !changed.is_empty() {
                        out.note(Note::new(Level::Info, "edge.os.components_changed").with("changed", changed));
                    }
                }
                self.replaced = replaced;
                self.chain = state.chain.and_then(Result::ok);
                if let (Some(chain), false) = (&self.chain, unwritten.is_empty()) {
                    out.note(Note::new(Level::Info, "edge.os.commit_finished").with("boot_epoch", chain.last().epoch));
                }
                if unwritten.is_empty() && replaced.is_none() {
                    return self.settled(now, out);
                }
                // Who wrote what was found may have been killed before its name was durable. What follows from it is
                // written when it is: else a power cut leaves a state that no crash explains.
                let ops = folders.into_iter().map(|folder| Op::SyncFolder(folder.place())).collect();
                self.chain_of(Phase::Resuming(unwritten), ops, out);
            }
        }
    }

    fn resumed(&mut self, now: Now, unwritten: Vec<Projection>, got: tree::Completion, out: &mut Outbox<'_, Ended>) {
        match got {
            Ok(_) if unwritten.is_empty() => self.settled(now, out),
            // The evidence names the binary, and only the manifest knows it.
            Ok(_) if unwritten.contains(&Projection::Current) => self.prove(now, Purpose::Finish(unwritten), out),
            Ok(_) => self.project(now, unwritten, out),
            Err(fault) => self.refuse(Refusal::cannot_write("a record that was found", &fault), out),
        }
    }

    fn commit_first(&mut self, now: Now, out: &mut Outbox<'_, Ended>) {
        let host = self.host_hash();
        self.commit(Chain::first(host, now.wall), out);
    }

    fn commit(&mut self, chain: Chain, out: &mut Outbox<'_, Ended>) {
        let replace = tree::replace(&Name::Chain.place(), chain.bytes().to_vec(), Mode::PRIVATE);
        self.chain_of(Phase::Committing(chain), replace, out);
    }

    fn committed(&mut self, now: Now, chain: Chain, out: &mut Outbox<'_, Ended>) {
        self.first = chain.last().epoch == 0;
        self.chain = Some(chain);
        self.project(now, if self.first { OF_FIRST.to_vec() } else { OF_LATER.to_vec() }, out);
    }

    /// Writes the first of these, or goes on when nothing is left.
    fn project(&mut self, now: Now, left: Vec<Projection>, out: &mut Outbox<'_, Ended>) {
        let (Some(first), Some(chain)) = (left.first(), &self.chain) else { return self.settled(now, out) };
        let last = chain.last();
        let (name, bytes) = match first {
            Projection::Previous => {
                let bytes = self.current_bytes.clone().unwrap_or_default();
                (Name::Previous, bytes)
            }
            Projection::Current => {
                let bytes = Evidence::of(last, self.binary_hash).to_bytes();
                self.current_bytes = Some(bytes.clone());
                (Name::Current, bytes)
            }
            Projection::Fingerprint => {
                let components = match &self.host {
                    Some((components, hash)) if *hash == last.new_hash => components.to_value(),
                    // Replaced once more since: what that host was made of is not known any more.
                    Some(_) | None => files::nothing(),
                };
                let file = Fingerprint {
                    composite_hash: last.new_hash,
                    components,
                    boot_epoch: last.epoch,
                    captured_at: last.at,
                };
                (Name::Fingerprint, file.to_bytes())
            }
        };
        // The others were made before the chain's first line.
        let make = *first == Projection::Previous && self.no_previous;
        let mut ops: Vec<Op> = if make { making(Name::PreviousFolder).to_vec() } else { Vec::new() };
        ops.extend(tree::replace(&name.place(), bytes, Mode::PRIVATE));
        self.chain_of(Phase::Projecting(left), ops, out);
    }

    fn projected(&mut self, now: Now, mut left: Vec<Projection>, got: tree::Completion, out: &mut Outbox<'_, Ended>) {
        match got {
            Ok(_) => {
                if !left.is_empty() {
                    left.remove(0);
                }
                self.project(now, left, out);
            }
            Err(fault) => self.refuse(Refusal::cannot_write("a file that follows from epoch/chain.jsonl", &fault), out),
        }
    }

    /// Chain and projections agree: is the host still another one?
    fn settled(&mut self, now: Now, out: &mut Outbox<'_, Ended>) {
        let Some(last) = self.chain.as_ref().map(Chain::last) else { return };
        let epoch = last.epoch;
        let host = self.host_hash();
        if let Some(began) = self.began {
            let took = now.mono.since(began);
            out.note(
                Note::new(Level::Info, "edge.os.reconstruction_completed")
                    .with("duration_seconds", took)
                    .with("boot_epoch", epoch),
            );
        } else if let Some(previous) = self.replaced {
            out.note(
                Note::new(Level::Warn, "edge.os.update_detected")
                    .with("previous_hash", alloc::format!("{previous}"))
                    .with("current_hash", alloc::format!("{host}")),
            );
            return self.prove(now, Purpose::Reconstruct, out);
        } else {
            let msg = if self.first { "edge.os.first_run" } else { "edge.os.unchanged" };
            out.note(
                Note::new(Level::Info, msg).with("current_hash", alloc::format!("{host}")).with("boot_epoch", epoch),
            );
        }
        self.mark(Ended { exit: exit::PASSED, boot_epoch: Some(epoch) }, out);
    }

    fn host_hash(&self) -> Hash32 {
        self.host.as_ref().map_or(Hash32([0; 32]), |(_, hash)| *hash)
    }

    /// Ends with a refusal: says why, and leaves the marker behind where that is allowed.
    fn refuse(&mut self, refusal: Refusal, out: &mut Outbox<'_, Ended>) {
        let ended = Ended { exit: refusal.exit, boot_epoch: None };
        out.note(refusal.note);
        if self.locked && !refusal.unmarked && matches!(ended.exit, exit::CERTIFICATE | exit::RECONSTRUCTION) {
            self.mark(ended, out);
        } else {
            self.end(ended, out);
        }
    }

    /// Writes this boot's marker, unless it says the same already. It is not synced: after a power cut the boot is another
    /// one, and no marker counts.
    fn mark(&mut self, ended: Ended, out: &mut Outbox<'_, Ended>) {
        match self.marking(ended.exit) {
            Some(ops) => self.chain_of(Phase::Marking(ended), ops, out),
            None => self.end(ended, out),
        }
    }

    fn marker_of(&self, exit: u8) -> Vec<u8> {
        Marker { boot_id: self.config.boot_id.clone(), exit }.to_bytes()
    }

    fn marking(&self, exit: u8) -> Option<Vec<Op>> {
        let bytes = self.marker_of(exit);
        let at = Name::Marker.place();
        let temp = at.temp();
        (self.marker.as_ref() != Some(&bytes)).then(|| {
            alloc::vec![
                Op::Remove(temp.clone()),
                Op::Put { at: temp.clone(), bytes, mode: Mode::PRIVATE },
                Op::Rename { from: temp, to: at },
            ]
        })
    }

    fn marked(&mut self, ended: Ended, got: tree::Completion, out: &mut Outbox<'_, Ended>) {
        match got {
            Ok(_) => self.end(ended, out),
            Err(fault) if ended.exit == exit::PASSED => {
                let refusal = Refusal::cannot_mark(&fault);
                out.note(refusal.note);
                self.end(Ended { exit: refusal.exit, boot_epoch: None }, out);
            }
            // A refusal stands without its marker: none counts as "not passed". An older one might say that this boot passed.
            Err(fault) => {
                out.note(Refusal::cannot_mark(&fault).note);
                self.chain_of(Phase::Unmarking(ended), alloc::vec![Op::Remove(Name::Marker.place())], out);
            }
        }
    }

    fn end(&mut self, ended: Ended, out: &mut Outbox<'_, Ended>) {
        self.phase = Phase::Over;
        out.output(ended);
    }
}

/// Reads one of the node's files.
fn reading(name: Name) -> Vec<Op> {
    alloc::vec![Op::Read { at: name.place(), most: name.most() }]
}

/// Makes one of the node's folders, durably.
fn making(name: Name) -> [Op; 3] {
    let at = name.place();
    [
        Op::MakeFolder { at: at.clone(), mode: Mode::PRIVATE_FOLDER },
        Op::SyncFolder(at.clone()),
        Op::SyncFolder(at.folder()),
    ]
}
