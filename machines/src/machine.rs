//! The one trait: one event in, effects out in one total order.
//!
//! A driver runs a machine in a loop: wait for an event or for the machine's deadline, `handle` it, carry
//! the effects out in the order in which they were pushed, feed their results back as events. A crash is:
//! drop the machine, keep what the disk kept, build a new one. The tokio driver, the simulated world and
//! the solo harness of the transcripts are the three users of this trait.

use alloc::string::String;
use alloc::vec::Vec;

use crate::disk;
use crate::net;
use crate::time::{Mono, Now, Span};
use crate::tree;
use crate::work;

/// A pure state machine.
pub trait Machine {
    /// The machine's name in logs and traces.
    const NAME: &'static str;
    /// What the outside asks of it.
    type Input;
    /// What it tells the outside.
    type Output;

    /// Takes one event and pushes everything that follows from it.
    fn handle(&mut self, now: Now, event: Event<Self::Input>, out: &mut Outbox<'_, Self::Output>);

    /// When the machine next wants `Event::Due`, and why; `None` when it waits for nothing. Asked anew
    /// after each event, so a timer is never cancelled.
    fn deadline(&self) -> Option<Deadline>;

    /// Panics on a broken invariant. Cheap; drivers call it after every event, in production too, so that
    /// a process with a broken machine ends instead of answering.
    fn check(&self);
}

/// 32 bytes of entropy, given in with `Event::Start`; unique ids are derived from it.
#[derive(Clone, Copy, Debug)]
pub struct Entropy(pub [u8; 32]);

/// What a driver feeds in.
#[derive(Clone, Debug)]
pub enum Event<I> {
    /// The first event of a machine's life.
    Start(Entropy),
    /// The time of `deadline()` has come; spurious ones are harmless.
    Due,
    /// A chain of disk operations ended. Each tag completes exactly once.
    Disk(disk::Tag, disk::Completion),
    /// A chain of operations on files by path ended. Each tag completes exactly once.
    Tree(tree::Tag, tree::Completion),
    /// A request over the network ended. Each tag completes exactly once.
    Net(net::Tag, net::Got),
    /// A piece of work ended. Each tag completes at most once; a tool's answer may be lost with the tool.
    Work(work::Tag, work::Got),
    /// A request from outside.
    Input(I),
}

/// What a machine wants done.
#[derive(Clone, Debug)]
pub enum Effect<O> {
    /// Run these disk operations one after another; stop at the first that fails.
    Disk(disk::Tag, Vec<disk::Op>),
    /// Run these operations on files by path one after another; stop at the first that fails.
    Tree(tree::Tag, Vec<tree::Op>),
    /// Ask a peer.
    Net(net::Tag, net::Op),
    /// Compute this on a worker.
    Work(work::Tag, work::Op),
    /// Tell the outside.
    Output(O),
    /// Write a log line.
    Note(Note),
    /// End the process with this exit code: nothing can go on.
    Halt(Halt),
}

/// The machine's face of the effects: it can only push. The driver owns the vector and alone drains it.
#[derive(Debug)]
pub struct Outbox<'a, O> {
    effects: &'a mut Vec<Effect<O>>,
}

impl<'a, O> Outbox<'a, O> {
    /// An outbox that pushes onto `effects`.
    pub fn over(effects: &'a mut Vec<Effect<O>>) -> Self {
        Self { effects }
    }

    /// Asks for a chain of disk operations.
    pub fn disk(&mut self, tag: disk::Tag, chain: Vec<disk::Op>) {
        self.effects.push(Effect::Disk(tag, chain));
    }

    /// Asks for a chain of operations on files by path.
    pub fn tree(&mut self, tag: tree::Tag, chain: Vec<tree::Op>) {
        self.effects.push(Effect::Tree(tag, chain));
    }

    /// Asks a peer.
    pub fn net(&mut self, tag: net::Tag, op: net::Op) {
        self.effects.push(Effect::Net(tag, op));
    }

    /// Asks for work.
    pub fn work(&mut self, tag: work::Tag, op: work::Op) {
        self.effects.push(Effect::Work(tag, op));
    }

    /// Tells the outside.
    pub fn output(&mut self, output: O) {
        self.effects.push(Effect::Output(output));
    }

    /// Writes a log line.
    pub fn note(&mut self, note: Note) {
        self.effects.push(Effect::Note(note));
    }

    /// Ends the process.
    pub fn halt(&mut self, halt: Halt) {
        self.effects.push(Effect::Halt(halt));
    }
}

/// A point in time at which a machine wants to be woken, and why; a stuck test prints the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    /// When.
    pub at: Mono,
    /// Why, in a few words.
    pub why: &'static str,
}

impl Deadline {
    /// The earlier of two deadlines.
    #[must_use]
    pub fn earlier(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        match (a, b) {
            (Some(a), Some(b)) => Some(if b.at < a.at { b } else { a }),
            (Some(one), None) | (None, Some(one)) => Some(one),
            (None, None) => None,
        }
    }
}

/// How loud a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something is broken and somebody has to look at it. In the simulator it fails the run unless an
    /// injected fault explains it.
    Error,
    /// Something is out of the ordinary and was dealt with.
    Warn,
    /// Something worth knowing happened.
    Info,
}

/// A log line: a fixed message and its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How loud.
    pub level: Level,
    /// A fixed text that people and scripts search for.
    pub msg: &'static str,
    /// Fields in the order in which they are printed.
    pub fields: Vec<(&'static str, Field)>,
}

impl Note {
    /// A line without fields.
    #[must_use]
    pub fn new(level: Level, msg: &'static str) -> Self {
        Self { level, msg, fields: Vec::new() }
    }

    /// The same line with one more field.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Field>) -> Self {
        self.fields.push((key, value.into()));
        self
    }
}

/// The value of a log field: numbers and spans are printed bare, texts quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
    /// A span of time, printed in seconds with three decimals.
    Seconds(Span),
}

impl Field {
    /// The text of what is printed bare; `None` for what is quoted.
    #[must_use]
    pub fn bare(&self) -> Option<String> {
        match self {
            Self::Number(n) => Some(alloc::format!("{n}")),
            Self::Seconds(span) => {
                let millis = span.as_nanos() / 1_000_000;
                Some(alloc::format!("{}.{:03}", millis / 1000, millis % 1000))
            }
            Self::Text(_) => None,
        }
    }
}

impl From<u64> for Field {
    fn from(n: u64) -> Self {
        Self::Number(n)
    }
}

impl From<Span> for Field {
    fn from(span: Span) -> Self {
        Self::Seconds(span)
    }
}

impl From<String> for Field {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Field {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

/// The end of the process: why, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    /// The process's exit code (SPEC 1: 1 refused or failed).
    pub code: u8,
    /// What happened, to which file, and what to do.
    pub message: String,
}
