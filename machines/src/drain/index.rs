//! Where in the log the undelivered records of each class are: one pass over the log finds all of them, in memory that
//! does not grow with it.
//!
//! The log is divided into blocks. A block says where it begins, which frame belongs there, and how many records of each
//! class it holds. Making it takes a glance at each frame that waits; it is verified when it is gathered for a batch. When
//! there are too many blocks, neighbours become one.

use alloc::collections::VecDeque;

use crate::ids::Hash32;
use crate::wal::frame::{Kind, PREFIX};
use crate::wal::scan::{Bad, Glance, Link, prev_behind};

use super::batch::{Class, PerClass};

/// The most blocks that are kept; about 6 MB.
const MOST: usize = 1 << 16;

/// A stretch of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The segment: the sequence of its first frame.
    pub segment: u64,
    /// Where the block begins, in bytes from the start of the segment.
    pub at: u64,
    /// Where it ends.
    pub end: u64,
    /// The frame that belongs at its beginning.
    pub link: Link,
    /// Records in it that nobody has gathered yet.
    pub records: PerClass<u64>,
}

/// What a stretch of bytes led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fed {
    /// Frames were read.
    Progress,
    /// The first frame is not whole.
    More,
    /// The first frame is not the one that belongs here.
    Bad(Bad),
}

/// The index, and where its end is.
#[derive(Clone, Debug)]
pub struct Index {
    /// The segment in which it ends.
    pub segment: u64,
    /// Where in that segment.
    pub at: u64,
    /// The frame that belongs there.
    pub link: Link,
    blocks: VecDeque<Block>,
    /// For each class, how many blocks at the front hold none of its records.
    passed: PerClass<usize>,
    most: usize,
    /// Records of each class in all blocks; actions count with decisions.
    waiting: PerClass<u64>,
    /// How many of them are actions.
    actions: u64,
}

impl Index {
    /// An index that begins at `at` of `segment`, where the frame `link` belongs.
    #[must_use]
    pub const fn new(segment: u64, at: u64, link: Link) -> Self {
        Self {
            segment,
            at,
            link,
            blocks: VecDeque::new(),
            passed: PerClass { error: 0, decision: 0, lifecycle: 0 },
            most: MOST,
            waiting: PerClass { error: 0, decision: 0, lifecycle: 0 },
            actions: 0,
        }
    }

    /// The last sequence that it has seen.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.link.next.saturating_sub(1)
    }

    /// Records of each class that nobody has gathered yet.
    #[must_use]
    pub const fn waiting(&self) -> &PerClass<u64> {
        &self.waiting
    }

    /// How many of the waiting decisions' records are actions.
    #[must_use]
    pub const fn actions(&self) -> u64 {
        self.actions
    }

    /// Reads the frames at the start of `bytes`, which stand at the index's end, up to the sequence `target`. Records at
    /// or below their class's cursor are passed over.
    pub fn feed(&mut self, bytes: &[u8], target: u64, cursors: &PerClass<u64>) -> Fed {
        let mut block =
            Block { segment: self.segment, at: self.at, end: self.at, link: self.link, records: PerClass::default() };
        let mut off = 0usize;
        let mut went = Fed::Progress;
        let mut last = None;
        let highest = Class::ALL.into_iter().map(|class| *cursors.get(class)).max().unwrap_or(0);
        while self.link.next <= target {
            let rest = bytes.get(off..).unwrap_or(&[]);
            // Above the highest cursor every frame waits, and is verified when it is gathered. Below it some will not be.
            let seen = if self.link.next <= highest { self.link.step(rest).into() } else { self.link.glance(rest) };
            match seen {
                Glance::Frame { seq, kind, bytes } => {
                    off += PREFIX + bytes.len();
                    last = Some(bytes);
                    let class = Class::of(kind);
                    if seq > *cursors.get(class) {
                        *block.records.get_mut(class) += 1;
                        self.actions += u64::from(kind == Kind::Action);
                    }
                }
                Glance::More => {
                    went = Fed::More;
                    break;
                }
                Glance::Bad(bad) => {
                    went = Fed::Bad(bad);
                    break;
                }
            }
        }
        if let Some(last) = last {
            // Bytes without a tail verify nothing: the frame behind them will be found bad when it is read.
            self.link.prev = prev_behind(last).unwrap_or(Hash32([0; 32]));
        }
        self.at = self.at.saturating_add(u64::try_from(off).unwrap_or(u64::MAX));
        block.end = self.at;
        self.push(block);
        if last.is_some() { Fed::Progress } else { went }
    }

    fn push(&mut self, block: Block) {
        if Class::ALL.iter().all(|class| *block.records.get(*class) == 0) {
            return;
        }
        for class in Class::ALL {
            *self.waiting.get_mut(class) += *block.records.get(class);
        }
        self.blocks.push_back(block);
        if self.blocks.len() > self.most {
            self.merge();
        }
    }

    /// Makes one block of every two neighbours that touch each other.
    fn merge(&mut self) {
        let mut merged: VecDeque<Block> = VecDeque::with_capacity(self.most);
        let mut paired = false;
        for block in &self.blocks {
            match merged.back_mut() {
                Some(last) if !paired && last.segment == block.segment && last.end == block.at => {
                    last.end = block.end;
                    for class in Class::ALL {
                        *last.records.get_mut(class) += *block.records.get(class);
                    }
                    paired = true;
                }
                Some(_) | None => {
                    merged.push_back(*block);
                    paired = false;
                }
            }
        }
        self.passed = PerClass::default();
        self.blocks = merged;
        // When little could be merged (every segment holds one block), more are kept.
        if self.blocks.len() > self.most / 4 * 3 {
            self.most = self.most.saturating_mul(2);
        }
    }

    /// The first block that holds records of `class`.
    pub fn find(&mut self, class: Class) -> Option<Block> {
        self.first_of(class).map(|block| *block)
    }

    fn first_of(&mut self, class: Class) -> Option<&mut Block> {
        let passed = self.passed.get_mut(class);
        while self.blocks.get(*passed).is_some_and(|block| *block.records.get(class) == 0) {
            *passed += 1;
        }
        self.blocks.get_mut(*passed)
    }

    /// A record of this kind was gathered from the first block that holds some of its class.
    pub fn gathered(&mut self, kind: Kind) {
        let class = Class::of(kind);
        let Some(block) = self.first_of(class) else {
            panic!("drain: a record was gathered that the index does not hold")
        };
        *block.records.get_mut(class) -= 1;
        *self.waiting.get_mut(class) -= 1;
        self.actions -= u64::from(kind == Kind::Action);
        while self.blocks.front().is_some_and(|block| Class::ALL.iter().all(|c| *block.records.get(*c) == 0)) {
            self.blocks.pop_front();
            for class in Class::ALL {
                let passed = self.passed.get_mut(class);
                *passed = passed.saturating_sub(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::tests::log_of;
    use crate::wal::scan::Step;
    use std::vec::Vec;

    #[test]
    fn memory_stays_flat_and_nothing_is_forgotten_when_blocks_are_merged() {
        let kinds: Vec<Kind> = (0..400)
            .map(|i| match i % 7 {
                0 => Kind::Error,
                1 | 2 => Kind::Lifecycle,
                3 => Kind::Action,
                _ => Kind::Decision,
            })
            .collect();
        let (base, bytes) = log_of(&kinds);
        let start = Link { next: 1, prev: base.prev_h };
        let mut index = Index::new(1, 0, start);
        index.most = 8;
        let mut at = 0;
        while index.last() < 400 {
            let end = bytes.len().min(at + 900);
            assert_eq!(index.feed(&bytes[at..end], 400, &PerClass::default()), Fed::Progress);
            at = usize::try_from(index.at).unwrap();
        }
        assert!(index.blocks.len() <= 9);
        let count = |class| u64::try_from(kinds.iter().filter(|k| Class::of(**k) == class).count()).unwrap();
        for class in Class::ALL {
            assert_eq!(*index.waiting().get(class), count(class));
        }
        // Every block can be read from its beginning.
        let mut seen = 0;
        for block in &index.blocks {
            let (from, to) = (usize::try_from(block.at).unwrap(), usize::try_from(block.end).unwrap());
            let (mut link, mut off) = (block.link, from);
            while off < to {
                let Step::Frame(_, raw) = link.step(&bytes[off..to]) else { panic!("at {off}") };
                off += PREFIX + raw.len();
                seen += 1;
            }
        }
        assert_eq!(seen, 400);
        for kind in &kinds {
            index.gathered(*kind);
        }
        assert!(index.blocks.is_empty());
        assert_eq!((*index.waiting(), index.actions()), (PerClass::default(), 0));
    }
}
