//! A number that is equal for trees that behave the same from here on.

use super::{Change, Id, Node, Tree};
use crate::rng::mix;

impl Tree {
    /// Equal for trees that behave the same from here on.
    #[must_use]
    pub fn key(&self) -> u64 {
        let mut numbers: Vec<u64> = vec![0; self.inodes.len()];
        let mut count = 0u64;
        let mut key = 0u64;
        let mut add = |word: u64| key = mix(key ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut left: Vec<Id> = self.roots.values().rev().copied().collect();
        let mut number = |id: Id, left: &mut Vec<Id>| {
            let Some(number) = numbers.get_mut(id) else { return 0 };
            if *number == 0 {
                count += 1;
                *number = count;
                left.push(id);
            }
            *number
        };
        for id in left.clone() {
            number(id, &mut Vec::new());
        }
        let mut changes = self.changes.iter();
        loop {
            while let Some(id) = left.pop() {
                let Some(inode) = self.inodes.get(id) else { continue };
                add(u64::from(inode.mode) << 16 | u64::from(inode.medium_mode));
                match &inode.node {
                    Node::File { cache, medium, dirty } => {
                        add(cache.key);
                        add(medium.key ^ u64::from(*dirty));
                    }
                    Node::Folder { cache, medium } => {
                        for names in [cache, medium] {
                            add(u64::try_from(names.len()).unwrap_or(0) | 1 << 32);
                            for (name, id) in names {
                                add(text(name));
                                add(number(*id, &mut left));
                            }
                        }
                    }
                    Node::Link(target) => add(text(target) | 1),
                }
            }
            let Some(change) = changes.next() else { return key };
            let ((a, one), (b, other), kind) = match change {
                Change::Set(at, id) => ((at, *id), (at, *id), 1),
                Change::Clear(at) => ((at, at.0), (at, at.0), 2),
                Change::Rename(from, to, id) => ((from, *id), (to, *id), 3),
                Change::Exchange((a, one), (b, other)) => ((a, *one), (b, *other), 4),
            };
            add(kind);
            for (at, id) in [(a, one), (b, other)] {
                add(text(&at.1));
                add(number(at.0, &mut left));
                add(number(id, &mut left));
            }
        }
    }
}

fn text(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |key, byte| (key ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
