//! Chains of disk operations on their way: one queue per lane of each process.

use std::collections::VecDeque;

use machines::disk::{Lane, Op, Tag};

/// A chain and how far it is.
#[derive(Debug)]
pub struct Chain {
    /// Its tag.
    pub tag: Tag,
    /// Its operations.
    pub ops: Vec<Op>,
    /// The next one.
    pub step: usize,
    /// The machine was told already (a broken device did so).
    pub told: bool,
}

/// One lane of one process.
#[derive(Debug, Default)]
pub struct Queue {
    /// The chains; the first is under way.
    pub chains: VecDeque<Chain>,
    /// Operations done so far in the run: the key of the next one's noise.
    pub ops: u64,
    /// The first operation waits for the lock.
    pub waits: bool,
}

impl Queue {
    /// Forgets the chains and keeps the count.
    pub fn clear(&mut self) {
        self.chains.clear();
        self.waits = false;
    }
}

/// The place of a lane in a process.
#[must_use]
pub const fn index(lane: Lane) -> usize {
    match lane {
        Lane::Log | Lane::Drain => 0,
        Lane::Keeping | Lane::Cursors | Lane::Marker => 1,
        Lane::Policy => 2,
    }
}

/// Lanes of a process.
pub const LANES: usize = 3;
