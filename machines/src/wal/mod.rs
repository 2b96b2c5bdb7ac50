//! The telemetry log: durable, chained, recovered as a decision table (SPEC 4). See LIFECYCLE.md beside this file.
//!
//! The machine owns bytes, offsets, batching and truncation; a driver moves opaque bytes. Three watermarks:
//! appended ≥ written ≥ synced. One sync is in flight; what arrives meanwhile is the next batch. Its completion
//! releases the tickets of that batch and no others.

pub mod files;
pub mod frame;
pub mod recovery;
pub mod repair;
#[cfg(test)]
mod repair_tests;
pub mod scan;
mod space;
#[cfg(test)]
mod tests;
pub mod verdict;
mod writer;

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use crate::disk::{self, Completion, FaultKind, File, Lane, Op, Replaced, Tag};
use crate::ids::{IdSource, Seq, Uuid};
use crate::machine::{Deadline, Entropy, Event, Halt, Level, Machine, Note, Outbox};
use crate::time::{Now, Span};

use files::Base;
use frame::{Kind, Record};
use recovery::{Finding, Recovery};
use writer::Writer;

/// How the log is kept.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name, written into a new log; `None` takes the log's own, or `node` for a new one.
    pub node_id: Option<String>,
    /// The most that all frames together may take, in bytes; at least 1 MiB.
    pub max_bytes: u64,
    /// How long delivered sealed files are kept.
    pub retain: Span,
    /// What happens when undelivered events fill the log.
    pub on_full: OnFull,
}

impl Default for Config {
    fn default() -> Self {
        Self { node_id: None, max_bytes: 1 << 30, retain: Span::from_secs(7 * 86_400), on_full: OnFull::Deny }
    }
}

/// What happens when undelivered events fill the log (SPEC 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// Deny calls.
    Deny,
    /// Shed lifecycle events first, then deny calls.
    ShedLifecycle,
}

/// Names a waiting append; chosen by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// The proof that a frame is durable. Only the log makes it; an answer takes one as an argument, so that
/// answering before the sync does not compile.
#[derive(Debug)]
pub struct Durable {
    seq: Seq,
}

impl Durable {
    /// The durable frame's sequence.
    #[must_use]
    pub const fn seq(&self) -> Seq {
        self.seq
    }
}

/// What room a record may take when the log is nearly full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A decision that allows: it also reserves the room for its outcome.
    Allow,
    /// A decision that denies.
    Deny,
    /// The outcome of an allowed call, whose room is reserved.
    Outcome,
    /// A phase; may use the reserve, or is shed.
    Lifecycle,
    /// A fault without a call; may use the reserve.
    Fault,
}

/// What is asked of the log.
#[derive(Clone, Debug)]
pub enum Input {
    /// Append a record. With a ticket somebody waits for it: `Released` or `Refused` will name it.
    Append {
        /// Who waits, if anybody does.
        ticket: Option<Ticket>,
        /// What room it may take.
        class: Class,
        /// The record.
        record: Record,
    },
    /// Make everything durable, then say `Stopped`.
    Stop,
}

/// Why an append was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The log cannot be written until a restart.
    Failed,
    /// Undelivered events fill the log.
    Full,
    /// The record is longer than a frame may be.
    TooLong,
    /// More is waiting for the disk than is kept in memory.
    Backlog,
}

/// What the log tells.
#[derive(Debug)]
pub enum Output {
    /// It can be appended to; these allowed calls were left without an outcome by the crash before.
    Opened {
        /// The ids of calls without an outcome, in the order of their decisions.
        open: Vec<Uuid>,
    },
    /// These appends are durable.
    Released(Vec<(Ticket, Durable)>),
    /// This append is not in the log, or it cannot be known whether it is.
    Refused(Ticket, Refused),
    /// Nothing more will be appended until a restart.
    Failed,
    /// Everything is durable, and so is the safe-point.
    Stopped,
}

/// The log as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The log.
    pub log_id: Uuid,
    /// The node that it belongs to.
    pub node_id: String,
    /// The last appended sequence; 0 when there is none.
    pub head: u64,
    /// The last sequence known durable.
    pub safe: u64,
    /// The sequence up to which everything was delivered.
    pub delivered: u64,
    /// Bytes of all frames.
    pub bytes: u64,
    /// Files that hold frames.
    pub segments: u64,
    /// Lifecycle events that were shed for want of room.
    pub shed: u64,
}

/// Whether the log takes appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It is being opened.
    Opening,
    /// It takes appends.
    Open,
    /// Undelivered events fill it.
    Full,
    /// It cannot be written until a restart.
    Failed,
}

/// The machine.
#[derive(Debug)]
pub struct Wal {
    config: Config,
    ids: IdSource,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Reading what is there; appends are refused.
    Recovering(Box<Recovery>),
    /// Making good what was found: the chain of the plan is on the disk.
    Mending(Box<Plan>),
    /// Taking appends.
    Writing(Box<Writer>),
    /// Refused at start, or failed since. Nothing is written any more.
    Failed(Option<Box<Status>>),
}

/// What recovery decided to do about a finding.
#[derive(Debug)]
struct Plan {
    base: Base,
    finding: Finding,
}

const MEND: Tag = Tag { lane: Lane::Log, id: 0 };

impl Machine for Wal {
    const NAME: &'static str = "wal";
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Now, event: Event<Input>, out: &mut Outbox<'_, Output>) {
        match (&mut self.phase, event) {
            (Phase::Recovering(_), Event::Start(entropy)) => {
                self.ids = IdSource::new(entropy);
                self.recover(now, Event::Start(entropy), out);
            }
            (Phase::Recovering(_), event @ Event::Disk(..)) => match event {
                Event::Disk(tag, completion) => self.recover(now, Event::Disk(tag, completion), out),
                Event::Start(_) | Event::Due | Event::Tree(..) | Event::Net(..) | Event::Work(..) | Event::Input(_) => {
                }
            },
            (Phase::Mending(_), Event::Disk(_, completion)) => self.mended(now, completion, out),
            (Phase::Writing(writer), Event::Disk(tag, completion)) => {
                let went = writer.on_disk(now, tag, completion, out);
                self.after(went, out);
            }
            (Phase::Writing(writer), Event::Due) => writer.on_due(now, out),
            (Phase::Writing(writer), Event::Input(Input::Append { ticket, class, record })) => {
                let went = writer.append(now, ticket, class, record, out);
                self.after(went, out);
            }
            (Phase::Writing(writer), Event::Input(Input::Stop)) => writer.stop(out),
            (Phase::Recovering(_) | Phase::Mending(_) | Phase::Failed(_), Event::Input(input)) => match input {
                Input::Append { ticket: Some(ticket), .. } => out.output(Output::Refused(ticket, Refused::Failed)),
                Input::Append { ticket: None, .. } => {}
                Input::Stop => out.output(Output::Stopped),
            },
            // Late completions of a log that failed, and wake-ups of one that waits for nothing.
            (Phase::Failed(_), Event::Disk(..))
            | (_, Event::Due | Event::Tree(..) | Event::Net(..) | Event::Work(..)) => {}
            (Phase::Mending(_) | Phase::Writing(_) | Phase::Failed(_), Event::Start(_)) => {
                panic!("wal: started twice")
            }
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        match &self.phase {
            Phase::Writing(writer) => writer.deadline(),
            Phase::Recovering(_) | Phase::Mending(_) | Phase::Failed(_) => None,
        }
    }

    fn check(&self) {
        match &self.phase {
            Phase::Writing(writer) => writer.check(),
            Phase::Recovering(_) | Phase::Mending(_) | Phase::Failed(_) => {}
        }
    }
}

impl Wal {
    /// A log that was not opened yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, ids: IdSource::new(Entropy([0; 32])), phase: Phase::Recovering(Box::default()) }
    }

    /// The log as an operator sees it; `None` before it was opened.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        match &self.phase {
            Phase::Writing(writer) => Some(writer.status()),
            Phase::Failed(status) => status.as_deref().cloned(),
            Phase::Recovering(_) | Phase::Mending(_) => None,
        }
    }

    /// Whether it takes appends.
    #[must_use]
    pub fn health(&self) -> Health {
        match &self.phase {
            Phase::Writing(writer) if writer.is_full() => Health::Full,
            Phase::Writing(_) => Health::Open,
            Phase::Recovering(_) | Phase::Mending(_) => Health::Opening,
            Phase::Failed(_) => Health::Failed,
        }
    }

    fn recover(&mut self, now: Now, event: Event<recovery::Input>, out: &mut Outbox<'_, Output>) {
        let Phase::Recovering(recovery) = &mut self.phase else { return };
        let mut effects = Vec::new();
        recovery.handle(now, event, &mut Outbox::over(&mut effects));
        for effect in effects {
            match effect {
                crate::machine::Effect::Disk(tag, chain) => out.disk(tag, chain),
                crate::machine::Effect::Output(recovery::Output::Found(finding)) => {
                    self.on_finding(now, *finding, out);
                }
                crate::machine::Effect::Output(recovery::Output::Unreadable(file, kind)) => {
                    self.refuse(&alloc::format!("cannot read {}: {kind}", file.name()), "IO", 0, out);
                }
                crate::machine::Effect::Tree(..)
                | crate::machine::Effect::Net(..)
                | crate::machine::Effect::Work(..)
                | crate::machine::Effect::Note(_)
                | crate::machine::Effect::Halt(_) => {}
            }
        }
    }

    fn on_finding(&mut self, now: Now, finding: Finding, out: &mut Outbox<'_, Output>) {
        if let Some(refusal) = &finding.refusal {
            let words = alloc::format!(
                "the log is damaged: {} at seq {} ({}, offset {}); nothing was changed, \
                 look with `autonomy wal verify`, mend with `autonomy wal repair`",
                refusal.cause,
                refusal.seq,
                refusal.file.name(),
                refusal.offset
            );
            return self.refuse(&words, refusal.cause.as_str(), refusal.seq, out);
        }
        let base = match (&finding.base, &self.config.node_id) {
            (Some(base), Some(want)) if base.node_id != *want => {
                let words = alloc::format!(
                    "the log belongs to node {:?}, not to {want:?}; give another log folder or that node id",
                    base.node_id
                );
                return self.refuse(&words, "NODE_ID_FOREIGN", 0, out);
            }
            (Some(base), _) => base.clone(),
            (None, node_id) => {
                let log_id = self.ids.next(now.wall);
                Base {
                    log_id,
                    node_id: node_id.clone().unwrap_or_else(|| "node".to_string()),
                    first_seq: Seq::FIRST,
                    prev_h: frame::genesis(&log_id),
                }
            }
        };
        let chain = mending(&base, &finding);
        self.phase = Phase::Mending(Box::new(Plan { base, finding }));
        out.disk(MEND, chain);
    }

    fn refuse(&mut self, words: &str, cause: &str, seq: u64, out: &mut Outbox<'_, Output>) {
        self.phase = Phase::Failed(None);
        out.note(
            Note::new(Level::Error, "WAL_RECOVERY_FAIL_HARD")
                .with("cause", cause)
                .with("seq", seq)
                .with("detail", words),
        );
        out.halt(Halt { code: 1, message: words.into() });
        out.output(Output::Failed);
    }

    fn mended(&mut self, now: Now, completion: Completion, out: &mut Outbox<'_, Output>) {
        let Phase::Mending(plan) = core::mem::replace(&mut self.phase, Phase::Failed(None)) else { return };
        if let Err(fault) = completion {
            let words = alloc::format!(
                "the log folder cannot be written: {}; free space or mend the disk, then start again",
                fault.kind
            );
            return self.refuse(&words, "IO", 0, out);
        }
        let Plan { base, finding } = *plan;
        let torn = finding.torn;
        let (mut writer, open) = Writer::new(now, &self.config, base, finding);
        out.output(Output::Opened { open });
        if let Some(torn) = torn {
            out.note(
                Note::new(Level::Warn, "wal_tail_truncated")
                    .with("bytes", torn.bytes)
                    .with("offset", torn.offset)
                    .with("found", alloc::format!("{:?}", torn.bad)),
            );
            let record = Record {
                kind: Kind::Error,
                audit_id: self.ids.next(now.wall),
                trace: None,
                body: alloc::format!(
                    "{{\"code\":\"wal_tail_truncated\",\"message\":\"{} bytes behind the last whole frame were cut; \
                     no answer was given from them\",\"bytes\":{}}}",
                    torn.bytes,
                    torn.bytes
                ),
            };
            let went = writer.append(now, None, Class::Fault, record, out);
            self.phase = Phase::Writing(Box::new(writer));
            return self.after(went, out);
        }
        self.phase = Phase::Writing(Box::new(writer));
    }

    /// Carries out what the writer said about its own end.
    fn after(&mut self, went: Result<(), FaultKind>, out: &mut Outbox<'_, Output>) {
        let Err(kind) = went else { return };
        let Phase::Writing(writer) = &mut self.phase else { return };
        writer.abandon(out);
        let status = writer.status();
        self.phase = Phase::Failed(Some(Box::new(status)));
        out.note(
            Note::new(Level::Error, "wal_failed")
                .with("cause", kind.to_string())
                .with("detail", "the log could not be written; calls are denied until a restart recovers it"),
        );
        out.output(Output::Failed);
    }
}

/// The chain that makes good what was found, so that everything kept is durable before anything is answered
/// from it. It may be cut short anywhere: the next recovery finds a folder from which it does the same.
fn mending(base: &Base, finding: &Finding) -> Vec<Op> {
    let mut chain = Vec::new();
    if finding.base.is_none() {
        chain.extend(disk::replace(Replaced::Base, base.to_bytes()));
    }
    if finding.safe.is_none() {
        chain.extend(disk::replace(Replaced::SafeSeq, vec![0; 8]));
    }
    match &finding.live {
        None => chain.push(Op::Put { file: File::Live, bytes: Vec::new() }),
        Some(live) => {
            if live.good < live.bytes {
                chain.push(Op::Truncate { file: File::Live, len: live.good });
            }
            if live.unconfirmed < live.good {
                // What was read may be in the cache alone, and clean there, if a sync of it failed before the restart.
                chain.push(Op::Rewrite { file: File::Live, from: live.unconfirmed, to: live.good });
            }
        }
    }
    chain.push(Op::Sync(File::Live));
    chain.extend(finding.stale.iter().map(|file| Op::Remove(*file)));
    chain.push(Op::SyncDir(disk::Dir::Telemetry));
    if let Some(last) = Seq::new(finding.last_seq()) {
        chain.push(Op::Publish(last));
        chain.push(Op::Sync(File::SafeSeq));
    }
    chain
}
