//! What a power loss leaves of what was not synced.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{At, Change, Content, Id, Inode, Node, PAGE, Survival, Tree, View};
use crate::rng::{Rng, Stream, mix};

impl Tree {
    /// Files that a name leads to, or may lead to after a power loss, and whose bytes are not on the medium.
    fn unsynced_files(&self) -> Vec<Id> {
        let mut led_to = self.reachable();
        let mut also = |id: Id| {
            if let Some(led_to) = led_to.get_mut(id) {
                *led_to = true;
            }
        };
        for change in &self.changes {
            match change {
                Change::Set(_, id) | Change::Rename(_, _, id) => also(*id),
                Change::Exchange((_, a), (_, b)) => [*a, *b].into_iter().for_each(&mut also),
                Change::Clear(_) => {}
            }
        }
        let behind = |inode: &Inode| match &inode.node {
            Node::File { cache, medium, .. } => cache != medium || inode.mode != inode.medium_mode,
            Node::Folder { .. } => inode.mode != inode.medium_mode,
            Node::Link(_) => false,
        };
        let inodes = self.inodes.iter().zip(led_to).enumerate();
        inodes.filter(|(_, (inode, led_to))| *led_to && behind(inode)).map(|(id, _)| id).collect()
    }

    /// Which inodes some name leads to.
    fn reachable(&self) -> Vec<bool> {
        let mut seen = vec![false; self.inodes.len()];
        let mut left: Vec<Id> = self.roots.values().copied().collect();
        while let Some(id) = left.pop() {
            if let Some(seen) = seen.get_mut(id)
                && !std::mem::replace(seen, true)
                && let Some(Node::Folder { cache, medium }) = self.node(id)
            {
                left.extend(cache.values().chain(medium.values()));
            }
        }
        seen
    }

    /// How many changes of names are not on the medium.
    #[must_use]
    pub fn changes(&self) -> u64 {
        u64::try_from(self.changes.len()).unwrap_or(u64::MAX)
    }

    /// How many things a power loss decides about: changes of names, then files.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.changes.len() + self.unsynced_files().len()
    }

    /// The power is gone: what survives becomes all that there is.
    pub fn power_cut(&mut self, survival: Survival) {
        let files = self.unsynced_files();
        let changes = std::mem::take(&mut self.changes);
        let keeps = |n: usize| match survival {
            Survival::All => true,
            Survival::None => false,
            Survival::Bits(bits) => bits.checked_shr(u32::try_from(n).unwrap_or(u32::MAX)).unwrap_or(0) & 1 == 1,
            Survival::Mix(key) => mix(key ^ mix(u64::try_from(n).unwrap_or(0))) & 1 == 1,
        };
        let mut dropped: BTreeSet<At> = BTreeSet::new();
        for (n, change) in changes.iter().enumerate() {
            let (a, b) = change.names();
            if keeps(n) && !dropped.contains(a) && !dropped.contains(b) {
                self.on(View::Medium, change);
            } else {
                dropped.extend([a.clone(), b.clone()]);
            }
        }
        for (n, id) in files.into_iter().enumerate() {
            let n = n + changes.len();
            match survival {
                Survival::Mix(key) => self.settle_mixed(id, mix(key ^ mix(0x1_0000 + u64::try_from(n).unwrap_or(0)))),
                Survival::All | Survival::None | Survival::Bits(_) if keeps(n) => self.change_inode(id, |inode| {
                    inode.medium_mode = inode.mode;
                    if let Node::File { cache, medium, .. } = &mut inode.node {
                        *medium = cache.clone();
                    }
                }),
                Survival::All | Survival::None | Survival::Bits(_) => {}
            }
        }
        for inode in &mut self.inodes {
            let behind = match &inode.node {
                Node::File { cache, medium, dirty } => *dirty || cache != medium,
                Node::Folder { cache, medium } => cache != medium,
                Node::Link(_) => false,
            };
            if behind || inode.mode != inode.medium_mode {
                let inode = Arc::make_mut(inode);
                inode.mode = inode.medium_mode;
                match &mut inode.node {
                    Node::File { cache, medium, dirty } => {
                        *cache = medium.clone();
                        *dirty = false;
                    }
                    Node::Folder { cache, medium } => cache.clone_from(medium),
                    Node::Link(_) => {}
                }
            }
        }
        self.compact();
    }

    /// Forgets what no name leads to; only right when nothing is unsynced.
    fn compact(&mut self) {
        let kept = self.reachable();
        let mut next = 0;
        let number = |kept: &bool| {
            next += usize::from(*kept);
            next.saturating_sub(1)
        };
        let number: Vec<Id> = kept.iter().map(number).collect();
        let moved = |id: &mut Id| *id = number.get(*id).copied().unwrap_or(*id);
        self.roots.values_mut().for_each(moved);
        let mut keep = kept.iter();
        self.inodes.retain(|_| keep.next().copied().unwrap_or(true));
        for inode in &mut self.inodes {
            let stays = |id: &Id| number.get(*id) == Some(id);
            if let Node::Folder { cache, medium } = &inode.node
                && !(cache.values().all(stays) && medium.values().all(stays))
                && let Node::Folder { cache, medium } = &mut Arc::make_mut(inode).node
            {
                cache.values_mut().chain(medium.values_mut()).for_each(moved);
            }
        }
    }

    /// Whole, gone, cut short, or page by page.
    fn settle_mixed(&mut self, id: Id, key: u64) {
        let mut rng = Rng::new(key, Stream::Survival, 0);
        self.change_inode(id, |inode| {
            if rng.ratio(1, 2) {
                inode.medium_mode = inode.mode;
            }
            let Node::File { cache, medium, .. } = &mut inode.node else { return };
            *medium = match rng.range(0, 3) {
                0 => return,
                1 => cache.clone(),
                2 => {
                    let len = u64::try_from(cache.bytes.len()).unwrap_or(0);
                    let cut = usize::try_from(rng.range(0, len)).unwrap_or(0);
                    Content::new(cache.bytes.get(..cut).unwrap_or_default())
                }
                _ => {
                    let mut bytes = cache.bytes.to_vec();
                    for page in bytes.chunks_mut(PAGE) {
                        match rng.range(0, 2) {
                            0 => {}
                            1 => page.fill(0),
                            _ => page.fill_with(|| u8::try_from(rng.range(0, 255)).unwrap_or(0)),
                        }
                    }
                    Content::new(&bytes)
                }
            };
        });
    }
}
