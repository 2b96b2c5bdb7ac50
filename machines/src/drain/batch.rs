//! What is sent at once: frames of one class, in order, with the log that they are from.

use alloc::string::String;
use alloc::vec::Vec;

use crate::ids::{Seq, Uuid};
use crate::wal::frame::{Frame, Kind};

/// A class of events (SPEC 5), most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Faults.
    Error,
    /// Decisions, and actions behind them.
    Decision,
    /// Phases.
    Lifecycle,
}

impl Class {
    /// All of them, most important first.
    pub const ALL: [Self; 3] = [Self::Error, Self::Decision, Self::Lifecycle];

    /// The class that an event of this kind travels in.
    #[must_use]
    pub const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Error => Self::Error,
            Kind::Decision | Kind::Action => Self::Decision,
            Kind::Lifecycle => Self::Lifecycle,
        }
    }

    /// The name of its cursor in `telemetry.pos`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Decision => "decision",
            Self::Lifecycle => "lifecycle",
        }
    }
}

/// One value for each class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerClass<T> {
    /// Of errors.
    pub error: T,
    /// Of decisions and their actions.
    pub decision: T,
    /// Of lifecycle events.
    pub lifecycle: T,
}

impl<T> PerClass<T> {
    /// The value of a class.
    pub const fn get(&self, class: Class) -> &T {
        match class {
            Class::Error => &self.error,
            Class::Decision => &self.decision,
            Class::Lifecycle => &self.lifecycle,
        }
    }

    /// The value of a class, to change it.
    pub const fn get_mut(&mut self, class: Class) -> &mut T {
        match class {
            Class::Error => &mut self.error,
            Class::Decision => &mut self.decision,
            Class::Lifecycle => &mut self.lifecycle,
        }
    }
}

/// Where a record lies in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    start: usize,
    end: usize,
    /// Its sequence.
    pub seq: Seq,
    /// Its kind.
    pub kind: Kind,
}

/// Records of one class, in order of sequence. Each was verified against the chain when it was read.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The log.
    pub log_id: Uuid,
    /// The node that wrote it.
    pub node_id: String,
    /// The class.
    pub class: Class,
    bytes: Vec<u8>,
    items: Vec<Item>,
}

impl Batch {
    /// A batch without records.
    #[must_use]
    pub const fn new(log_id: Uuid, node_id: String, class: Class) -> Self {
        Self { log_id, node_id, class, bytes: Vec::new(), items: Vec::new() }
    }

    /// Appends a frame, given as its N bytes.
    pub fn push(&mut self, frame: &[u8], seq: Seq, kind: Kind) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(frame);
        self.items.push(Item { start, end: self.bytes.len(), seq, kind });
    }

    /// The records.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The bytes of all records.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The N bytes of a record's frame.
    #[must_use]
    pub fn raw(&self, item: &Item) -> &[u8] {
        self.bytes.get(item.start..item.end).unwrap_or(&[])
    }

    /// The frames of the records from `from` up to `to`.
    pub fn frames(&self, from: usize, to: usize) -> impl Iterator<Item = Frame<'_>> {
        self.items.get(from..to).unwrap_or(&[]).iter().filter_map(|item| Frame::parse(self.raw(item)))
    }

    /// How many of the records from `from` up to `to` are counted as events: all but actions (SPEC 5).
    #[must_use]
    pub fn events(&self, from: usize, to: usize) -> u64 {
        let counted = self.items.get(from..to).unwrap_or(&[]).iter().filter(|item| item.kind != Kind::Action).count();
        u64::try_from(counted).unwrap_or(u64::MAX)
    }
}

/// The id under which a record is known for ever (SPEC 5): `<node_id>:wal:<seq>:<first 16 hex of h>`.
#[must_use]
pub fn event_id(node_id: &str, frame: &Frame<'_>) -> String {
    let mut id = String::with_capacity(node_id.len() + 42);
    id.push_str(node_id);
    id.push_str(":wal:");
    crate::json::push_u64(&mut id, frame.seq.get());
    id.push(':');
    let (head, _) = frame.h.0.split_at(8);
    crate::ids::write_hex(head, &mut id);
    id
}
