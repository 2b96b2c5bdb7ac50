//! The wiring of `edged`: its own log, and what it says of the node's epochs (SPEC 10).
//!
//! Each line of `epoch/chain.jsonl` becomes one `lifecycle` frame of the log in `edge/telemetry/`. How far that went is kept in
//! `edge/reported.json`, which is replaced when the frame is durable. A crash in between says a line twice; both frames
//! have the same `audit_id`, which follows from the line, so that whoever reads them can tell.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use crate::canonical;
use crate::disk::FaultKind;
use crate::fields::{Fields, Wrong};
use crate::ids::{Hash32, IdSource, Uuid};
use crate::json::push_u64;
use crate::machine::{Deadline, Effect, Entropy, Event, Halt, Level, Machine, Note, Outbox};
use crate::precheck::chain::{Chain, Entry};
use crate::precheck::exit;
use crate::precheck::files::{Marker, Name};
use crate::time::Now;
use crate::tree::{self, Done, Fault, Mode, Op, Opened, Tag};
use crate::wal::{self, Class, Ticket, Wal, frame};

/// Most bytes of `edge/reported.json`.
const MOST_REPORTED: u32 = 4096;

/// How `edged` runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// How its log is kept.
    pub wal: wal::Config,
}

/// What is asked of it.
#[derive(Clone, Copy, Debug)]
pub enum Input {
    /// Make everything durable, then say `Stopped`.
    Stop,
}

/// What it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The log is open and every epoch is in it, or will not be in it before the next start.
    Ready,
    /// The log is closed.
    Stopped,
}

/// It as an operator sees it.
#[derive(Clone, Debug)]
pub struct Status {
    /// The chain's last line; `None` before it was read.
    pub epoch: Option<Entry>,
    /// Whether the log takes frames.
    pub health: wal::Health,
    /// The log; `None` before it was opened.
    pub wal: Option<wal::Status>,
}

/// `edge/reported.json`: the last line of the chain that the log has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// The log.
    pub log_id: Uuid,
    /// The line's epoch.
    pub epoch: u64,
    /// The line's `h`.
    pub h: Hash32,
}

/// The chain is not the one whose lines were said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetBack {
    /// It ends before a line that was said.
    #[error(
        "epoch/chain.jsonl ends at epoch {last}, and edge/reported.json says that epoch {reported} is in the log: the chain \
         was set back; put it back from a copy"
    )]
    Short {
        /// The chain's last epoch.
        last: u64,
        /// The epoch that was said.
        reported: u64,
    },
    /// That line is another one now.
    #[error(
        "epoch {0} of epoch/chain.jsonl is not the one that edge/reported.json says is in the log: the chain was replaced; \
         put it back from a copy"
    )]
    Other(u64),
}

/// The lines of the chain that the log does not have, in order. `reported` is `None` where nothing is known; what was said in
/// another log is said again.
///
/// # Errors
/// When the chain is not the one that was said.
pub fn missing(chain: &Chain, reported: Option<&Reported>, log_id: Uuid) -> Result<Vec<(Entry, Hash32)>, SetBack> {
    let mut lines = chain.lines();
    let Some(reported) = reported else { return Ok(lines) };
    match lines.iter().find(|(entry, _)| entry.epoch == reported.epoch) {
        None => return Err(SetBack::Short { last: chain.last().epoch, reported: reported.epoch }),
        Some((_, h)) if *h != reported.h => return Err(SetBack::Other(reported.epoch)),
        Some(_) => {}
    }
    if reported.log_id == log_id {
        lines.retain(|(entry, _)| entry.epoch > reported.epoch);
    }
    Ok(lines)
}

/// Whether `edged` may run on this state root: what opening it and taking its lock gave.
///
/// # Errors
/// Why not, with the exit code of SPEC 10.
pub fn admit_root(held: Result<Opened, Fault>) -> Result<(), Halt> {
    let halt = |code, message: String| Err(Halt { code, message });
    match held {
        Ok(root) if !root.writable => halt(exit::STATE_ROOT, "the state root is not writable".into()),
        Ok(root) if !root.ours => {
            let words = "the state root belongs to another user; chown it to the user that edged runs as";
            halt(exit::STATE_ROOT, words.into())
        }
        Ok(root) if root.mode & 0o022 != 0 => {
            let words = alloc::format!("the state root is writable by others (mode {:04o}); chmod 0700 it", root.mode);
            halt(exit::STATE_ROOT, words)
        }
        Ok(_) => Ok(()),
        Err(Fault { kind: FaultKind::Held, .. }) => {
            halt(exit::HELD, "a precheck or another edged holds the state root; wait for it, or stop it".into())
        }
        Err(Fault { kind: FaultKind::NotFound, .. }) => {
            halt(exit::STATE_ROOT, "the state root is missing; edged init --state-root DIR lays one out".into())
        }
        Err(fault) => halt(exit::STATE_ROOT, alloc::format!("the state root cannot be used: {}", fault.kind)),
    }
}

/// Whether `edged` may run in this boot: what `bootstrap/precheck.json` says.
///
/// # Errors
/// Why not, with exit code 5: there is no marker, it is another boot's, or it says that the precheck did not pass.
pub fn admit_boot(marker: tree::Completion, boot_id: &str) -> Result<(), Halt> {
    let halt = |words: String| Halt { code: exit::RECONSTRUCTION, message: words };
    let bytes = bytes(marker).map_err(|kind| halt(alloc::format!("bootstrap/precheck.json: {kind}")))?;
    Marker::passed(bytes.as_deref(), boot_id).map_err(|why| halt(alloc::format!("{why}; run: edged precheck")))
}

/// The machine.
#[derive(Debug)]
pub struct Edge {
    wal: Wal,
    tags: u32,
    phase: Phase,
    chain: Option<Chain>,
    /// What `edge/reported.json` says; the inner `None` when it says nothing that can be used.
    reported: Option<Option<Reported>>,
    /// The log is open.
    opened: bool,
    stopping: bool,
    // Kept between events so that its room is not allocated anew.
    wal_effects: Vec<Effect<wal::Output>>,
}

/// What is waited for.
#[derive(Debug)]
enum Phase {
    /// For the start.
    Fresh,
    /// The chain is being read.
    ReadingChain,
    /// `edge/reported.json` is being read.
    ReadingReported,
    /// The log is being opened.
    Opening,
    /// The first of these lines is being made durable in the log; the last one that was.
    Saying(VecDeque<(Entry, Hash32)>, Option<(u64, Hash32)>),
    /// `edge/reported.json` is being replaced.
    Noting,
    /// Nothing more is to be said.
    Serving,
    /// It ended the process.
    Halted,
}

impl Machine for Edge {
    const NAME: &'static str = "edge";
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Now, event: Event<Input>, out: &mut Outbox<'_, Output>) {
        match event {
            Event::Start(entropy) => {
                let own = Entropy(*blake3::keyed_hash(&entropy.0, b"wal").as_bytes());
                self.log(now, Event::Start(own), out);
                self.read(Phase::ReadingChain, out);
            }
            Event::Due => self.log(now, Event::Due, out),
            Event::Disk(tag, completion) => self.log(now, Event::Disk(tag, completion), out),
            Event::Tree(tag, completion) => {
                if tag != Tag(self.tags) {
                    panic!("edge: {tag:?} is not what is waited for");
                }
                self.on_tree(now, completion, out);
            }
            Event::Net(tag, _) => panic!("edge: it has no network: {tag:?}"),
            Event::Work(tag, _) => panic!("edge: it has no workers: {tag:?}"),
            Event::Input(Input::Stop) => {
                self.stopping = true;
                self.log(now, Event::Input(wal::Input::Stop), out);
            }
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        self.wal.deadline()
    }

    fn check(&self) {
        self.wal.check();
        let says = matches!(self.phase, Phase::Saying(..) | Phase::Noting);
        assert!(!says || self.opened, "an epoch is said in a log that is not open");
    }
}

impl Edge {
    /// One that was not started yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            wal: Wal::new(config.wal),
            tags: 0,
            phase: Phase::Fresh,
            chain: None,
            reported: None,
            opened: false,
            stopping: false,
            wal_effects: Vec::new(),
        }
    }

    /// It as an operator sees it.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            epoch: self.chain.as_ref().map(|chain| chain.last().clone()),
            health: self.wal.health(),
            wal: self.wal.status(),
        }
    }

    fn chain_of(&mut self, phase: Phase, chain: Vec<Op>, out: &mut Outbox<'_, Output>) {
        self.tags = self.tags.wrapping_add(1);
        self.phase = phase;
        out.tree(Tag(self.tags), chain);
    }

    fn read(&mut self, phase: Phase, out: &mut Outbox<'_, Output>) {
        let op = match phase {
            Phase::ReadingReported => Op::Read { at: Name::Reported.place(), most: MOST_REPORTED },
            Phase::Fresh
            | Phase::ReadingChain
            | Phase::Opening
            | Phase::Saying(..)
            | Phase::Noting
            | Phase::Serving
            | Phase::Halted => Op::Read { at: Name::Chain.place(), most: Name::Chain.most() },
        };
        self.chain_of(phase, alloc::vec![op], out);
    }

    fn halt(&mut self, message: String, out: &mut Outbox<'_, Output>) {
        self.phase = Phase::Halted;
        out.halt(Halt { code: exit::RECONSTRUCTION, message });
    }

    fn on_tree(&mut self, now: Now, got: tree::Completion, out: &mut Outbox<'_, Output>) {
        match core::mem::replace(&mut self.phase, Phase::Halted) {
            Phase::ReadingChain => match bytes(got).map(|bytes| bytes.map(|bytes| Chain::parse(&bytes))) {
                Ok(Some(Ok(chain))) => {
                    self.chain = Some(chain);
                    self.read(Phase::ReadingReported, out);
                }
                Ok(Some(Err(cause))) => self.halt(alloc::format!("epoch/chain.jsonl is damaged: {cause}"), out),
                Ok(None) => self.halt("epoch/chain.jsonl is missing; run: edged precheck".into(), out),
                Err(kind) => self.halt(alloc::format!("epoch/chain.jsonl cannot be read: {kind}"), out),
            },
            Phase::ReadingReported => {
                let found = match bytes(got) {
                    Ok(None) => Ok(None),
                    Ok(Some(bytes)) => Reported::parse(&bytes).map(Some),
                    Err(kind) => Err(alloc::format!("{kind}")),
                };
                let reported = found.unwrap_or_else(|cause| {
                    // Saying an epoch twice is harmless; not saying one is not.
                    let note = Note::new(Level::Warn, "edge.reported.unusable").with("file", Name::Reported.as_str());
                    out.note(note.with("error", cause));
                    None
                });
                self.reported = Some(reported);
                self.phase = Phase::Opening;
                self.begin(now, out);
            }
            Phase::Noting => {
                if let Err(fault) = got {
                    let note =
                        Note::new(Level::Warn, "edge.reported.not_written").with("file", Name::Reported.as_str());
                    out.note(note.with("error", alloc::format!("{}", fault.kind)));
                }
                self.serve(out);
            }
            phase @ (Phase::Fresh | Phase::Opening | Phase::Saying(..) | Phase::Serving | Phase::Halted) => {
                panic!("edge: no files were asked for in {phase:?}")
            }
        }
    }

    /// Says what is missing, once the log is open and both files were read.
    fn begin(&mut self, now: Now, out: &mut Outbox<'_, Output>) {
        if !matches!(self.phase, Phase::Opening) || !self.opened {
            return;
        }
        let (Some(chain), Some(reported), Some(log)) = (&self.chain, &self.reported, self.wal.status()) else { return };
        match missing(chain, reported.as_ref(), log.log_id) {
            Ok(lines) => self.say(now, lines.into(), None, out),
            Err(set_back) => self.halt(alloc::format!("{set_back}"), out),
        }
    }

    /// Appends the first of these lines; one at a time, so that they stand in the log in their order.
    fn say(
        &mut self,
        now: Now,
        lines: VecDeque<(Entry, Hash32)>,
        said: Option<(u64, Hash32)>,
        out: &mut Outbox<'_, Output>,
    ) {
        let Some((entry, h)) = lines.front() else { return self.note_said(said, out) };
        let record = record(entry, h);
        let ticket = Some(Ticket(entry.epoch));
        self.phase = Phase::Saying(lines, said);
        self.log(now, Event::Input(wal::Input::Append { ticket, class: Class::Lifecycle, record }), out);
    }

    fn note_said(&mut self, said: Option<(u64, Hash32)>, out: &mut Outbox<'_, Output>) {
        let (Some((epoch, h)), Some(log)) = (said, self.wal.status()) else { return self.serve(out) };
        let bytes = Reported { log_id: log.log_id, epoch, h }.to_bytes();
        let ops = tree::replace(&Name::Reported.place(), bytes, Mode::PRIVATE);
        self.chain_of(Phase::Noting, ops, out);
    }

    fn serve(&mut self, out: &mut Outbox<'_, Output>) {
        self.phase = Phase::Serving;
        out.output(Output::Ready);
    }

    fn said(&mut self, now: Now, out: &mut Outbox<'_, Output>) {
        let Phase::Saying(lines, _) = &mut self.phase else { return };
        let Some((entry, h)) = lines.pop_front() else { return };
        let lines = core::mem::take(lines);
        self.say(now, lines, Some((entry.epoch, h)), out);
    }

    fn not_said(&mut self, why: wal::Refused, out: &mut Outbox<'_, Output>) {
        let Phase::Saying(lines, said) = &mut self.phase else { return };
        let (left, said) = (lines.len(), *said);
        out.note(
            Note::new(Level::Error, "edge.epoch.not_recorded")
                .with("epochs", u64::try_from(left).unwrap_or(u64::MAX))
                .with("error", alloc::format!("{why:?}"))
                .with("hint", "the next start tries again"),
        );
        self.note_said(said, out);
    }

    fn log(&mut self, now: Now, event: Event<wal::Input>, out: &mut Outbox<'_, Output>) {
        let mut effects = core::mem::take(&mut self.wal_effects);
        self.wal.handle(now, event, &mut Outbox::over(&mut effects));
        for effect in effects.drain(..) {
            match effect {
                Effect::Disk(tag, chain) => out.disk(tag, chain),
                Effect::Tree(tag, _) => panic!("edge: the log has no files by path: {tag:?}"),
                Effect::Net(tag, _) => panic!("edge: the log has no network: {tag:?}"),
                Effect::Work(tag, _) => panic!("edge: the log has no workers: {tag:?}"),
                Effect::Note(note) => out.note(note),
                Effect::Halt(halt) => out.halt(halt),
                // It has no calls that a crash could have left open.
                Effect::Output(wal::Output::Opened { .. }) => {
                    self.opened = true;
                    self.begin(now, out);
                }
                Effect::Output(wal::Output::Released(released)) => {
                    for _ in released {
                        self.said(now, out);
                    }
                }
                Effect::Output(wal::Output::Refused(_, why)) => self.not_said(why, out),
                // Its health says so; a restart recovers.
                Effect::Output(wal::Output::Failed) => {}
                Effect::Output(wal::Output::Stopped) => {
                    if core::mem::replace(&mut self.stopping, false) {
                        out.output(Output::Stopped);
                    }
                }
            }
        }
        self.wal_effects = effects;
    }
}

/// What a file holds; `None` when there is none.
fn bytes(got: tree::Completion) -> Result<Option<Vec<u8>>, FaultKind> {
    match got {
        Ok(Done::Bytes(bytes)) => Ok(Some(bytes)),
        Err(Fault { kind: FaultKind::NotFound, .. }) => Ok(None),
        Err(fault) => Err(fault.kind),
        Ok(other) => panic!("edge: {other:?} is not what a file holds"),
    }
}

/// The frame of a line of the chain.
fn record(entry: &Entry, h: &Hash32) -> frame::Record {
    let mut body = String::from("{\"phase\":");
    body.push_str(if entry.epoch == 0 { "\"os_first_run\"" } else { "\"os_reconstruction_completed\"" });
    body.push_str(",\"boot_epoch\":");
    push_u64(&mut body, entry.epoch);
    if entry.epoch > 0 {
        body.push_str(",\"previous_hash\":\"");
        entry.previous_hash.write_hex(&mut body);
        body.push('"');
    }
    body.push_str(",\"new_hash\":\"");
    entry.new_hash.write_hex(&mut body);
    body.push('"');
    if entry.epoch > 0 {
        body.push_str(",\"manifest_version\":");
        push_u64(&mut body, entry.manifest_version);
    }
    body.push_str(",\"at\":\"");
    entry.at.write_rfc3339(&mut body);
    body.push_str("\"}");
    // The line's own hash is the entropy: the same line has the same id, whoever says it and however often.
    let audit_id = IdSource::new(Entropy(h.0)).next(entry.at);
    frame::Record { kind: frame::Kind::Lifecycle, audit_id, trace: None, body }
}

impl Reported {
    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let words = |wrong: Wrong| alloc::format!("{wrong}");
        let value = canonical::parse(bytes, bytes.len()).map_err(|cause| alloc::format!("{cause}"))?;
        let mut fields = Fields::open(value, "reported").map_err(words)?;
        let mut read = || -> Result<Self, Wrong> {
            Ok(Self {
                log_id: fields.need("log_id", "a UUID", |value| Uuid::parse(value.as_str()?.as_bytes()))?,
                epoch: fields.number("epoch")?,
                h: fields.bare_hash("h")?,
            })
        };
        let file = read().map_err(words)?;
        fields.finish().map_err(words)?;
        Ok(file)
    }

    /// The file's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        alloc::format!("{{\"log_id\":\"{}\",\"epoch\":{},\"h\":\"{}\"}}\n", self.log_id, self.epoch, self.h)
            .into_bytes()
    }
}

#[cfg(test)]
mod tests;
