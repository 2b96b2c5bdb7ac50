//! One file: its bytes in the page cache, its bytes on the medium, and what lies between the two.

use super::{PAGE, SECTOR, Survival};
use crate::rng::{Rng, Stream, draw};

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub cache: Vec<u8>,
    pub medium: Vec<u8>,
    /// Ranges of the cache that the next sync writes.
    pub dirty: Vec<(usize, usize)>,
    /// Ranges that a failed sync marked clean without writing them.
    pub lost: Vec<(usize, usize)>,
    /// The bytes below are on the medium and equal in the cache.
    pub firm: usize,
    /// The next sync writes to the wrong place.
    pub misdirect: bool,
    /// Bytes of the medium were damaged and the page cache may still hide it.
    pub rotten: bool,
}

impl Inode {
    pub fn clear(&mut self) {
        self.cache.clear();
        self.medium.clear();
        self.dirty.clear();
        self.lost.clear();
        self.firm = 0;
        self.misdirect = false;
        self.rotten = false;
    }

    fn touch(&mut self, from: usize, to: usize) {
        self.firm = self.firm.min(from);
        if let Some(last) = self.dirty.last_mut()
            && last.1 == from
        {
            last.1 = to;
            return;
        }
        self.dirty.push((from, to));
    }

    pub fn append(&mut self, bytes: &[u8]) {
        let from = self.cache.len();
        self.cache.extend_from_slice(bytes);
        if !bytes.is_empty() {
            self.touch(from, self.cache.len());
        }
    }

    pub fn overwrite(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if self.cache.len() < end {
            self.cache.resize(end, 0);
        }
        if let Some(place) = self.cache.get_mut(at..end) {
            place.copy_from_slice(bytes);
        }
        self.touch(at, end);
    }

    /// The same bytes once more: the next sync writes them, also where a failed sync had marked them clean.
    pub fn rewrite(&mut self, from: usize, to: usize) {
        if from < to {
            self.dirty.push((from, to));
        }
    }

    pub fn truncate(&mut self, len: usize) {
        self.cache.truncate(len);
        self.firm = self.firm.min(len);
        for list in [&mut self.dirty, &mut self.lost] {
            list.retain_mut(|range| {
                range.1 = range.1.min(len);
                range.0 < range.1
            });
        }
    }

    /// Copies a range of the cache to the medium, which is long enough.
    fn write_back(&mut self, from: usize, to: usize) {
        if let (Some(place), Some(bytes)) = (self.medium.get_mut(from..to), self.cache.get(from..to)) {
            place.copy_from_slice(bytes);
        }
    }

    /// Writes what is dirty. Gives the lowest byte that a misdirected write damaged, if it was one.
    pub fn sync(&mut self) -> Option<usize> {
        let mut dirty = std::mem::take(&mut self.dirty);
        let mut damaged = None;
        if self.misdirect && !dirty.is_empty() {
            // The bytes go to the page before the one they belong to; their own place keeps what it had.
            self.misdirect = false;
            self.rotten = true;
            self.medium.resize(self.cache.len(), 0);
            for (from, to) in dirty.drain(..) {
                let wrong = from.saturating_sub(PAGE) / SECTOR * SECTOR;
                let len = (to - from).min(SECTOR);
                if let (Some(place), Some(bytes)) =
                    (self.medium.get_mut(wrong..wrong + len), self.cache.get(from..from + len))
                {
                    place.copy_from_slice(bytes);
                }
                self.lost.push((from, to));
                damaged = Some(damaged.unwrap_or(wrong).min(wrong));
            }
            self.firm = self.firm.min(damaged.unwrap_or(0));
        } else {
            self.medium.resize(self.cache.len(), 0);
            for (from, to) in dirty.drain(..) {
                self.write_back(from, to);
                // What is written again is no longer lost; what sticks out still is.
                let lost = std::mem::take(&mut self.lost);
                for (low, high) in lost {
                    let pieces = [(low, high.min(from)), (low.max(to), high)];
                    self.lost.extend(pieces.iter().filter(|piece| piece.0 < piece.1));
                }
            }
            self.firm = self.lost.iter().map(|range| range.0).min().unwrap_or(self.cache.len());
        }
        self.dirty = dirty;
        damaged
    }

    pub fn sync_fails(&mut self, key: u64) {
        let mut rng = Rng::new(key, Stream::Survival, 1);
        if rng.ratio(1, 2) {
            self.medium.resize(self.cache.len(), 0);
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        for (from, to) in dirty.drain(..) {
            if to <= self.medium.len() && rng.ratio(1, 2) {
                self.write_back(from, to);
            } else {
                self.lost.push((from, to));
            }
        }
        self.dirty = dirty;
        if self.lost.is_empty() && self.medium.len() == self.cache.len() {
            self.firm = self.cache.len();
        }
    }

    pub fn is_settled(&self) -> bool {
        !self.rotten && self.dirty.is_empty() && self.lost.is_empty() && self.cache.len() == self.medium.len()
    }

    pub fn power_loss(&mut self, key: u64, how: Survival) {
        if !self.is_settled() {
            match how {
                Survival::Nothing => {}
                Survival::Everything => {
                    let lost = std::mem::take(&mut self.lost);
                    self.medium.resize(self.cache.len(), 0);
                    for at in 0..self.dirty.len() {
                        if let Some((from, to)) = self.dirty.get(at).copied() {
                            self.write_back(from, to);
                        }
                    }
                    self.lost = lost;
                }
                Survival::Mix | Survival::MixSubset => self.mix(key),
            }
            self.cache.clear();
            self.cache.extend_from_slice(&self.medium);
        }
        self.dirty.clear();
        self.lost.clear();
        self.misdirect = false;
        self.rotten = false;
        self.firm = self.cache.len();
    }

    fn mix(&mut self, key: u64) {
        let old = self.medium.len();
        let new = self.cache.len();
        let len = match draw(key, Stream::Survival, 0, 0) % 4 {
            0 => old,
            1 | 2 => new,
            _ => {
                let mut rng = Rng::new(key, Stream::Survival, 0);
                let (low, high) = (old.min(new) as u64, old.max(new) as u64);
                usize::try_from(rng.range(low, high)).unwrap_or(old)
            }
        };
        // Bytes below `durable` were on the medium: their sectors are old or new, never anything else.
        let durable = old;
        self.medium.resize(len, 0);
        for at in 0..self.dirty.len() {
            let Some((from, to)) = self.dirty.get(at).copied() else { break };
            let mut sector = from / SECTOR;
            while sector * SECTOR < to {
                let low = from.max(sector * SECTOR);
                let high = to.min((sector + 1) * SECTOR).min(len);
                if low < high {
                    self.mix_sector(key, sector, low, high, durable);
                }
                sector += 1;
            }
        }
    }

    fn mix_sector(&mut self, key: u64, sector: usize, low: usize, high: usize, durable: usize) {
        let page_fate = draw(key, Stream::Survival, 1 + (sector / (PAGE / SECTOR)) as u64, 1) % 20;
        let own = draw(key, Stream::Survival, sector as u64, 2);
        let fate = match page_fate {
            0..=8 => 0,
            9..=12 => 1,
            13..=16 => own % 2,
            _ => own % 4,
        };
        match fate {
            0 => self.write_back(low, high),
            1 => {}
            // Torn or garbage: what was durable is written as a whole, the rest is cut at a byte or is noise.
            _ => {
                let fresh = low.max(durable).min(high);
                self.write_back(low, fresh);
                let mut rng = Rng::new(key, Stream::Garbage, sector as u64);
                let cut = usize::try_from(rng.range(fresh as u64, high as u64)).unwrap_or(high);
                self.write_back(fresh, cut);
                if fate == 3
                    && let Some(place) = self.medium.get_mut(cut..high)
                {
                    place.fill_with(|| rng.next().to_le_bytes()[0]);
                }
            }
        }
    }
}
