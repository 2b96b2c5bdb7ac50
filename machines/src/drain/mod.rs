//! The drain: carries every event to a collector at least once, the most important first (SPEC 5). See LIFECYCLE.md beside
//! this file.
//!
//! It reads what the log's safe-point covers, sends it in batches of one class, and moves the cursors in
//! `telemetry.pos` only after the receiver's answer was read; the next batch leaves when they are durable. It never
//! writes to the log, so that it may run beside a writer or in another process.

mod answers;
pub mod batch;
mod delivery;
mod files;
mod index;
#[cfg(test)]
mod log_tests;
mod opening;
pub mod order;
mod rejected;
mod session;
#[cfg(test)]
mod tests;
pub mod verdict;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec;

use crate::disk::{self, Completion, FaultKind, File, Lane, Lock, Op, Tag};
use crate::machine::{Deadline, Event, Level, Machine, Note, Outbox};
use crate::net;
use crate::time::{Mono, Now, Span};

use opening::{Opening, Went};
use session::{Glimpse, Next, Session, Wrong};

/// The most records that a batch may hold.
pub const MOST_RECORDS: usize = 65_536;

/// How the drain goes about it.
#[derive(Clone, Debug)]
pub struct Config {
    /// The most records in a batch; 1 to [`MOST_RECORDS`].
    pub batch_records: usize,
    /// The most bytes of frames in a batch, unless one frame alone is longer.
    pub batch_bytes: usize,
    /// Whether it ends when what was there is delivered, or goes on.
    pub until: Until,
    /// How long a command tries before it gives up; and, at most ten seconds of it, how long an answer may take.
    pub timeout: Span,
}

impl Default for Config {
    fn default() -> Self {
        Self { batch_records: 512, batch_bytes: 4 << 20, until: Until::Empty, timeout: Span::from_secs(30) }
    }
}

/// When the drain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// When everything below the safe-point of its start is delivered, or when it cannot be.
    Empty,
    /// When it is told to.
    Stopped,
}

/// What is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// End now: what was not answered is sent again by the next drain.
    Stop,
}

/// What waits to be delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Errors.
    pub errors: u64,
    /// Decisions.
    pub decisions: u64,
    /// Lifecycle events.
    pub lifecycle: u64,
    /// Actions, which ride along with decisions and are counted nowhere else.
    pub actions: u64,
}

impl Queue {
    /// How many events there are: all but actions.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.errors.saturating_add(self.decisions).saturating_add(self.lifecycle)
    }
}

/// What it tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The log was looked through: this is what goes. A drain that goes on says it each time that something new waits.
    Queued(Queue),
    /// The receiver took a batch, or the part of it that was sent.
    Accepted {
        /// Which one, from 1.
        batch: u64,
        /// How many events were in it.
        events: u64,
        /// How many records, actions too.
        records: u64,
        /// The receiver's warning, mostly empty.
        words: String,
    },
    /// The receiver rejected records; they are in `rejected/`.
    Rejected {
        /// How many.
        records: u64,
        /// The receiver's words.
        words: String,
    },
    /// A try failed.
    Trouble {
        /// What happened.
        words: String,
        /// When it is tried again; `None` when it is not.
        retry_in: Option<Span>,
    },
    /// Everything that there was is delivered. A drain until empty ends with it.
    Complete {
        /// How many events were accepted since the start.
        events: u64,
    },
    /// A drain until empty gave up.
    Failed(Failure),
    /// It was told to stop and has stopped.
    Stopped,
}

/// Why a drain gave up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Of which kind.
    pub why: Why,
    /// In words, for the operator.
    pub message: String,
}

/// The kinds of giving up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nobody answered.
    Unreachable,
    /// The receiver does not want it.
    Refused,
    /// Another drain is at work.
    Held,
    /// The log or the cursors cannot be read or written.
    Log,
}

impl Why {
    /// The exit code of a command (SPEC 1).
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Unreachable => 3,
            Self::Refused | Self::Held | Self::Log => 1,
        }
    }
}

/// The drain as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What waits, as far as it was looked at.
    pub queued: Queue,
    /// Events accepted since the start.
    pub sent: u64,
    /// Records rejected since the start.
    pub rejected: u64,
    /// What the last try failed with, if it did.
    pub trouble: Option<String>,
}

/// How often an idle drain looks for something new.
const POLL: Span = Span::from_secs(1);
/// How often a log that does not fit what was known of it is opened anew before it is called damaged.
const REOPEN: u32 = 2;
/// How often a log is looked at that cannot be opened yet.
const EARLY: Span = Span::from_millis(200);
/// The first wait after a failed try; it doubles up to the longest.
const FIRST_WAIT: Span = Span::from_millis(500);
/// Batches or records in a row of which the receiver took nothing before it counts as the wrong receiver.
const MOST_SPOILED: u32 = 100;
/// The longest wait of the drain's own choice.
const LONGEST_WAIT: Span = Span::from_secs(30);

/// The machine.
#[derive(Debug)]
pub struct Drain {
    config: Config,
    noise: [u8; 32],
    phase: Phase,
    tags: u32,
    tally: Tally,
}

/// What is counted over the whole life.
#[derive(Clone, Debug, Default)]
struct Tally {
    batches: u64,
    sent: u64,
    rejected: u64,
    /// Tries that failed in a row.
    failed: u32,
    /// Since when nothing was accepted although it was tried.
    since: Option<Mono>,
    /// Batches in a row of which something was rejected.
    spoiled: u32,
    trouble: Option<String>,
    held_said: bool,
    /// How often the log was opened anew because something did not fit, since cursors last moved.
    reopened: u32,
    /// Since when the log cannot be opened yet.
    early: Option<Mono>,
}

impl Tally {
    /// The cursors moved: whatever was wrong is over.
    fn moved(&mut self) {
        (self.failed, self.reopened, self.early) = (0, 0, None);
        self.trouble = None;
    }
}

#[derive(Debug)]
enum Phase {
    New,
    /// Taking the lock and reading the small files.
    Opening(Box<Opening>),
    /// Reading and sending; the lock is held.
    Draining(Box<Session>),
    /// Waiting, without the lock, with what is known of the log.
    Resting {
        until: Mono,
        why: &'static str,
        kept: Option<Box<Session>>,
    },
    /// Looking, without the lock, whether there is anything new.
    Glancing(Tag, Box<Session>),
    /// Taking the lock again and looking whether somebody else moved the cursors.
    Returning(Tag, Box<Session>),
    Ended,
}

impl Machine for Drain {
    const NAME: &'static str = "drain";
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Now, event: Event<Input>, out: &mut Outbox<'_, Output>) {
        match event {
            Event::Start(entropy) => {
                self.noise = entropy.0;
                self.open(out);
            }
            Event::Due => self.due(now, out),
            Event::Disk(tag, completion) => self.on_disk(now, tag, completion, out),
            Event::Tree(tag, _) => panic!("drain: it has no files by path: {tag:?}"),
            Event::Net(tag, got) => self.on_net(now, tag, got, out),
            Event::Work(tag, _) => panic!("drain: it has no workers: {tag:?}"),
            Event::Input(Input::Stop) => {
                if !matches!(self.phase, Phase::Ended) {
                    self.end(Output::Stopped, out);
                }
            }
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        match &self.phase {
            Phase::Resting { until, why, .. } => Some(Deadline { at: *until, why }),
            Phase::Draining(session) => session.deadline(),
            Phase::New | Phase::Opening(_) | Phase::Glancing(..) | Phase::Returning(..) | Phase::Ended => None,
        }
    }

    fn check(&self) {
        if let Phase::Draining(session) = &self.phase {
            session.check();
        }
    }
}

impl Drain {
    /// A drain that was not started yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let config = Config { batch_records: config.batch_records.clamp(1, MOST_RECORDS), ..config };
        Self { config, noise: [0; 32], phase: Phase::New, tags: 0, tally: Tally::default() }
    }

    /// The drain as an operator sees it.
    #[must_use]
    pub fn status(&self) -> Status {
        let session = match &self.phase {
            Phase::Draining(session) | Phase::Glancing(_, session) | Phase::Returning(_, session) => Some(session),
            Phase::Resting { kept, .. } => kept.as_ref(),
            Phase::New | Phase::Opening(_) | Phase::Ended => None,
        };
        Status {
            queued: session.map(|session| session.queue()).unwrap_or_default(),
            sent: self.tally.sent,
            rejected: self.tally.rejected,
            trouble: self.tally.trouble.clone(),
        }
    }

    fn tag(&mut self, lane: Lane) -> Tag {
        self.tags = self.tags.wrapping_add(1);
        Tag { lane, id: self.tags }
    }

    /// Locks are taken and given back in the lane of the cursors, so that a write that is still under way is over before
    /// anybody else has the lock, and before we read the cursors again.
    fn open(&mut self, out: &mut Outbox<'_, Output>) {
        let tag = self.tag(Lane::Cursors);
        let (opening, chain) = Opening::begin(tag);
        self.phase = Phase::Opening(Box::new(opening));
        out.disk(tag, chain);
    }

    fn due(&mut self, now: Now, out: &mut Outbox<'_, Output>) {
        match core::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Resting { until, kept, .. } if until <= now.mono => match kept {
                None => self.open(out),
                // Something waits: back to it. Otherwise a glance without the lock is enough.
                Some(session) if session.has_work() => self.come_back(session, out),
                Some(session) => {
                    let tag = self.tag(Lane::Drain);
                    out.disk(tag, vec![Op::Read { file: File::SafeSeq, at: 0, len: 64 }]);
                    self.phase = Phase::Glancing(tag, session);
                }
            },
            Phase::Draining(session) => self.go_on(now, session, out),
            other @ (Phase::New
            | Phase::Opening(_)
            | Phase::Resting { .. }
            | Phase::Glancing(..)
            | Phase::Returning(..)
            | Phase::Ended) => self.phase = other,
        }
    }

    fn come_back(&mut self, session: Box<Session>, out: &mut Outbox<'_, Output>) {
        let tag = self.tag(Lane::Cursors);
        out.disk(tag, vec![Op::Lock(Lock::Drain), Op::Read { file: File::Positions, at: 0, len: 4096 }]);
        self.phase = Phase::Returning(tag, session);
    }

    fn on_disk(&mut self, now: Now, tag: Tag, completion: Completion, out: &mut Outbox<'_, Output>) {
        match core::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Opening(mut opening) if opening.awaits(tag) => {
                let next = self.tag(Lane::Drain);
                match opening.on_disk(next, completion) {
                    Went::On(chain) => {
                        self.phase = Phase::Opening(opening);
                        out.disk(next, chain);
                    }
                    Went::Open(session) => self.go_on(now, session, out),
                    Went::Held => self.held(now, None, out),
                    Went::TooEarly(message) => self.too_early(now, message, out),
                    Went::Wrong(message) => self.give_up(now, Why::Log, message, out),
                }
            }
            Phase::Draining(mut session) => match session.on_disk(now, tag, completion, &self.config) {
                Ok(moved) => {
                    if moved {
                        self.tally.moved();
                    }
                    self.go_on(now, session, out);
                }
                // The writer removed files that were delivered, or somebody changed them while we rested.
                Err(Wrong::Misfit(_)) if self.tally.reopened < REOPEN => {
                    self.tally.reopened += 1;
                    self.open(out);
                }
                Err(Wrong::Misfit(message) | Wrong::Unreadable(message)) => self.give_up(now, Why::Log, message, out),
                Err(Wrong::Write(message)) => self.cannot_write(now, session, message, out),
            },
            Phase::Glancing(mine, mut session) if mine == tag => match session.glanced(&completion) {
                Glimpse::More => self.come_back(session, out),
                Glimpse::Nothing => self.rest(now.mono.after(POLL), "look for new events", Some(session)),
                Glimpse::Other => self.open(out),
            },
            Phase::Returning(mine, session) if mine == tag => match completion {
                Err(disk::Fault { step: 0, kind: FaultKind::Held }) => self.held(now, Some(session), out),
                other if session.still_at(&other) => self.go_on(now, session, out),
                // Somebody else drained meanwhile, or the folder is not readable: from the beginning. The lock is ours.
                _ => self.open(out),
            },
            // Completions of what was given up.
            other @ (Phase::New
            | Phase::Opening(_)
            | Phase::Resting { .. }
            | Phase::Glancing(..)
            | Phase::Returning(..)
            | Phase::Ended) => self.phase = other,
        }
    }

    fn on_net(&mut self, now: Now, tag: net::Tag, got: net::Got, out: &mut Outbox<'_, Output>) {
        match core::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Draining(session) if session.awaits(tag) => self.answered(now, session, got, out),
            other @ (Phase::New
            | Phase::Opening(_)
            | Phase::Draining(_)
            | Phase::Resting { .. }
            | Phase::Glancing(..)
            | Phase::Returning(..)
            | Phase::Ended) => self.phase = other,
        }
    }

    /// Starts whatever can be started.
    fn go_on(&mut self, now: Now, mut session: Box<Session>, out: &mut Outbox<'_, Output>) {
        loop {
            match session.next(now, &self.config, self.tally.since) {
                Next::Wait => break self.phase = Phase::Draining(session),
                Next::Disk(lane, chain) => {
                    let tag = self.tag(lane);
                    session.asked(tag);
                    out.disk(tag, chain);
                }
                Next::Net(op) => {
                    self.tags = self.tags.wrapping_add(1);
                    let tag = net::Tag(u64::from(self.tags));
                    session.sent(tag);
                    self.tally.since.get_or_insert(now.mono);
                    out.net(tag, op);
                }
                Next::Say(queue) => out.output(Output::Queued(queue)),
                Next::Empty => break self.emptied(now, session, out),
                Next::End => break self.spoiled(out),
            }
        }
    }

    /// The log is being recovered, it seems.
    fn too_early(&mut self, now: Now, message: String, out: &mut Outbox<'_, Output>) {
        let since = *self.tally.early.get_or_insert(now.mono);
        if now.mono.since(since) >= self.config.timeout {
            self.tally.early = None;
            return self.give_up(now, Why::Log, message, out);
        }
        self.unlock(out);
        self.rest(now.mono.after(EARLY), "wait for the log's recovery", None);
    }

    /// The cursors could not be written. What they stand for was delivered and is not sent again as long as nobody else
    /// moves them: only the write is tried again.
    fn cannot_write(&mut self, now: Now, session: Box<Session>, message: String, out: &mut Outbox<'_, Output>) {
        match self.config.until {
            Until::Empty => self.end(Output::Failed(Failure { why: Why::Log, message }), out),
            Until::Stopped => {
                let wait = self.wait();
                self.tally.trouble = Some(message.clone());
                out.output(Output::Trouble { words: message, retry_in: Some(wait) });
                self.unlock(out);
                self.rest(now.mono.after(wait), "write the cursors again", Some(session));
            }
        }
    }

    /// Everything is delivered and the cursors are durable.
    fn emptied(&mut self, now: Now, mut session: Box<Session>, out: &mut Outbox<'_, Output>) {
        match self.config.until {
            Until::Empty => {
                let events = self.tally.sent;
                self.end(Output::Complete { events }, out);
            }
            Until::Stopped => {
                self.tally.moved();
                if session.was_announced() {
                    out.output(Output::Complete { events: self.tally.sent });
                }
                self.unlock(out);
                self.rest(now.mono.after(POLL), "look for new events", Some(session));
            }
        }
    }

    /// A command's receiver rejected everything for a while; what it rejected is durable in `rejected/`.
    fn spoiled(&mut self, out: &mut Outbox<'_, Output>) {
        let words = format!("the receiver took nothing of {MOST_SPOILED} batches or records in a row");
        let message = format!("{words}; is this the right receiver? What it rejected is in rejected/");
        self.fail(words, Failure { why: Why::Refused, message }, out);
    }

    fn rest(&mut self, until: Mono, why: &'static str, mut kept: Option<Box<Session>>) {
        if let Some(session) = &mut kept {
            session.forget_read();
        }
        self.phase = Phase::Resting { until, why, kept };
    }

    fn unlock(&mut self, out: &mut Outbox<'_, Output>) {
        let tag = self.tag(Lane::Cursors);
        out.disk(tag, vec![Op::Unlock(Lock::Drain)]);
    }

    fn end(&mut self, last: Output, out: &mut Outbox<'_, Output>) {
        self.unlock(out);
        self.phase = Phase::Ended;
        out.output(last);
    }

    /// Another drain has the folder.
    fn held(&mut self, now: Now, kept: Option<Box<Session>>, out: &mut Outbox<'_, Output>) {
        let message = "another drain is at work on this log; wait for it or stop it";
        match self.config.until {
            Until::Empty => {
                self.phase = Phase::Ended;
                out.output(Output::Failed(Failure { why: Why::Held, message: message.into() }));
            }
            Until::Stopped => {
                if !core::mem::replace(&mut self.tally.held_said, true) {
                    out.note(Note::new(Level::Info, "drain_waits").with("detail", message));
                }
                self.rest(now.mono.after(POLL), "another drain is at work", kept);
            }
        }
    }

    /// The log cannot be read or the receiver not be reached by trying again now.
    fn give_up(&mut self, now: Now, why: Why, message: String, out: &mut Outbox<'_, Output>) {
        match self.config.until {
            Until::Empty => self.end(Output::Failed(Failure { why, message }), out),
            Until::Stopped => {
                let wait = self.wait();
                self.tally.trouble = Some(message.clone());
                out.output(Output::Trouble { words: message, retry_in: Some(wait) });
                self.unlock(out);
                self.rest(now.mono.after(wait), "try again from the beginning", None);
            }
        }
    }

    /// The wait before the next try: doubled each time, and spread so that many nodes do not come at once.
    fn wait(&mut self) -> Span {
        let doubled = FIRST_WAIT.as_nanos() << self.tally.failed.min(10);
        self.tally.failed = self.tally.failed.saturating_add(1);
        let draw = blake3::keyed_hash(&self.noise, &self.tally.failed.to_le_bytes());
        let spread = u64::from(draw.as_bytes().first().copied().unwrap_or(0));
        // Between three quarters and five quarters.
        let spread = (doubled / 4).saturating_mul(3).saturating_add((doubled / 512).saturating_mul(spread));
        Span::from_nanos(spread.min(LONGEST_WAIT.as_nanos()))
    }
}

/// What a file of the log is called where something is wrong with it.
fn unreadable(file: File, kind: FaultKind) -> String {
    format!("cannot read {}: {kind}", file.name())
}
