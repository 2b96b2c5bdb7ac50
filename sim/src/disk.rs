//! A disk that forgets: page cache and medium are two things, and a power loss decides what is left of the difference.
//!
//! What is modelled, and no more kindly than real devices behave:
//!
//! - A file has bytes in the page cache (what reads give) and bytes on the medium (what a power loss leaves).
//! - At a power loss every page of 4096 bytes that was written and not synced is kept, dropped, mixed by sectors of 512
//!   bytes, or, only in bytes that were never durable, torn at a byte or filled with garbage. Sectors are power-atomic
//!   for bytes that were durable before. The length may be the old one, the new one or one in between.
//! - Creations, renames and removals are atomic each. At a power loss a prefix of them survives, or a subset that
//!   respects the order of operations on one name.
//! - A failed sync leaves pages clean that are not on the medium: no later sync brings them there.
//! - A process crash leaves the page cache as it is.
//!
//! What survives is drawn by the identity of the file and page, so that a smaller plan keeps the noise of the larger.

mod inode;
#[cfg(test)]
mod tests;

use machines::disk::{Dir, Done, FaultKind, File, Op};

use crate::rng::{Rng, Stream, draw, mix};
use inode::Inode;

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// How a power loss treats what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Page by page and sector by sector, with torn and garbage bytes; a prefix of the directory's operations.
    Mix,
    /// As `Mix`, and a subset of the directory's operations.
    MixSubset,
    /// Everything unsynced is lost: strict power loss.
    Nothing,
    /// Everything unsynced is kept.
    Everything,
}

/// A device that does not do what it says. Only the simulator's own tests turn one on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lies {
    /// `Sync` reports success and does nothing.
    pub sync_does_nothing: bool,
    /// `SyncDir` reports success and does nothing.
    pub sync_dir_does_nothing: bool,
    /// Every n-th append reports success and does nothing; 0 = none.
    pub drop_nth_append: u32,
}

#[derive(Clone, Copy, Debug)]
enum DirOp {
    Link(File, u32),
    Rename(File, File),
    Unlink(File),
}

impl DirOp {
    fn dir(self) -> Dir {
        match self {
            Self::Link(file, _) | Self::Unlink(file) | Self::Rename(file, _) => file.dir(),
        }
    }

    fn names(self) -> (File, File) {
        match self {
            Self::Link(file, _) | Self::Unlink(file) => (file, file),
            Self::Rename(from, to) => (from, to),
        }
    }

    fn apply(self, names: &mut Vec<(File, u32)>) {
        match self {
            Self::Link(file, inode) => {
                names.retain(|entry| entry.0 != file);
                names.push((file, inode));
            }
            Self::Unlink(file) => names.retain(|entry| entry.0 != file),
            Self::Rename(from, to) => {
                if let Some(inode) = lookup(names, from) {
                    names.retain(|entry| entry.0 != from && entry.0 != to);
                    names.push((to, inode));
                }
            }
        }
    }
}

fn lookup(names: &[(File, u32)], file: File) -> Option<u32> {
    names.iter().find(|entry| entry.0 == file).map(|entry| entry.1)
}

/// A number that names a file in draws.
#[must_use]
pub fn identity(file: File) -> u64 {
    let of_replaced = |what: machines::disk::Replaced| match what.file() {
        File::Base => 1,
        File::SafeSeq => 2,
        File::Activation => 3,
        File::Bundle(hash) => 4 ^ u64::from(hash.0[0]) << 8 ^ u64::from(hash.0[1]) << 16,
        File::Positions => 6,
        File::Rejected(seq) => 7 ^ seq.get() << 8,
        File::Lock(hash) => 9 ^ u64::from(hash.0[0]) << 8,
        File::Verified(hash) => 10 ^ u64::from(hash.0[0]) << 8,
        File::ActiveLock => 11,
        File::Precheck => 12,
        File::Live | File::Sealed(_) | File::History | File::Temp(_) => 5,
    };
    match file {
        File::Live => 1,
        File::Sealed(seq) => mix(seq.get()),
        File::SafeSeq => 2,
        File::Base => 3,
        File::Positions => 4,
        File::Activation => 5,
        File::History => 6,
        File::Bundle(hash) => 7 ^ u64::from(hash.0[0]) << 8 ^ u64::from(hash.0[1]) << 16,
        File::Rejected(seq) => 8 ^ seq.get() << 8,
        File::Lock(hash) => 9 ^ u64::from(hash.0[0]) << 8,
        File::Verified(hash) => 10 ^ u64::from(hash.0[0]) << 8,
        File::ActiveLock => 11,
        File::Precheck => 12,
        File::Temp(what) => 1 << 40 | of_replaced(what),
    }
}

/// The simulated disk of one node.
#[derive(Debug, Default)]
pub struct Disk {
    inodes: Vec<Inode>,
    used: usize,
    names: Vec<(File, u32)>,
    firm_names: Vec<(File, u32)>,
    pending: Vec<DirOp>,
    seed: u64,
    losses: u64,
    appends: u32,
    /// The file and the lowest byte that the last misdirected write damaged.
    misdirected: Option<(u32, usize)>,
    /// What the device lies about.
    pub lies: Lies,
}

impl Disk {
    /// An empty disk for the run `seed`; keeps its buffers.
    pub fn reset(&mut self, seed: u64) {
        for inode in self.inodes.iter_mut().take(self.used) {
            inode.clear();
        }
        self.used = 0;
        self.names.clear();
        self.firm_names.clear();
        self.pending.clear();
        self.seed = seed;
        self.losses = 0;
        self.appends = 0;
        self.misdirected = None;
        self.lies = Lies::default();
    }

    fn inode(&self, file: File) -> Option<&Inode> {
        self.inodes.get(lookup(&self.names, file)? as usize)
    }

    fn inode_mut(&mut self, file: File) -> Option<&mut Inode> {
        let at = lookup(&self.names, file)?;
        self.inodes.get_mut(at as usize)
    }

    /// What a reader of the file sees; `None` when there is no such name.
    #[must_use]
    pub fn read(&self, file: File) -> Option<&[u8]> {
        Some(self.inode(file)?.cache.as_slice())
    }

    /// The number behind a name, which a rename does not change.
    #[must_use]
    pub fn number(&self, file: File) -> Option<u32> {
        lookup(&self.names, file)
    }

    /// What a reader sees who holds the file open under its number.
    #[must_use]
    pub fn read_number(&self, number: u32) -> &[u8] {
        self.inodes.get(number as usize).map_or(&[], |inode| inode.cache.as_slice())
    }

    /// How many bytes from the start would survive any power loss, the name included: 0 when the name is not durable.
    #[must_use]
    pub fn firm(&self, number: u32) -> usize {
        let named = self.firm_names.iter().any(|entry| entry.1 == number);
        if named { self.inodes.get(number as usize).map_or(0, |inode| inode.firm) } else { 0 }
    }

    /// Whether the file would survive any power loss as it is, its name included.
    #[must_use]
    pub fn is_durable(&self, file: File) -> bool {
        let Some(number) = lookup(&self.names, file) else { return false };
        let whole = self.inodes.get(number as usize).is_some_and(|inode| inode.firm >= inode.cache.len());
        whole && lookup(&self.firm_names, file) == Some(number)
    }

    /// Whether any power loss leaves the file with the bytes that it has now. An equal file in its place counts, which
    /// another one was renamed over and which may come back.
    #[must_use]
    pub fn is_lasting(&self, file: File) -> bool {
        let whole = |number: u32| self.inodes.get(number as usize).filter(|inode| inode.firm >= inode.cache.len());
        let now = lookup(&self.names, file).and_then(whole);
        let firm = lookup(&self.firm_names, file).and_then(whole);
        now.zip(firm).is_some_and(|(now, firm)| now.cache == firm.cache)
    }

    /// The names that are there, in no order.
    pub fn names(&self) -> impl Iterator<Item = File> + '_ {
        self.names.iter().map(|entry| entry.0)
    }

    /// Bytes in all files.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.names.iter().map(|entry| self.inodes.get(entry.1 as usize).map_or(0, |inode| inode.cache.len())).sum()
    }

    fn create(&mut self) -> u32 {
        if self.used == self.inodes.len() {
            self.inodes.push(Inode::default());
        }
        self.used += 1;
        u32::try_from(self.used - 1).unwrap_or(u32::MAX)
    }

    fn pend(&mut self, op: DirOp) {
        op.apply(&mut self.names);
        self.pending.push(op);
    }

    /// Does one operation as a whole, without any fault. `Lock` and `Unlock` are not the disk's and do nothing here.
    ///
    /// # Errors
    /// What the contract says of a name that is missing or a length that is not what the writer thinks.
    pub fn apply(&mut self, op: &Op) -> Result<Done, FaultKind> {
        match op {
            Op::List => return Ok(Done::Listing(self.listing())),
            Op::Read { file, at, len } => {
                let bytes = self.read(*file).ok_or(FaultKind::NotFound)?;
                let from = usize::try_from(*at).unwrap_or(usize::MAX).min(bytes.len());
                let to = from.saturating_add(*len as usize).min(bytes.len());
                return Ok(Done::Bytes(bytes.get(from..to).unwrap_or(&[]).to_vec()));
            }
            Op::ReadTail { file, len } => {
                let bytes = self.read(*file).ok_or(FaultKind::NotFound)?;
                let from = bytes.len().saturating_sub(*len as usize);
                return Ok(Done::Tail { total: bytes.len() as u64, bytes: bytes.get(from..).unwrap_or(&[]).to_vec() });
            }
            Op::Put { file, bytes } => self.put(*file, bytes),
            Op::Append { file, at, bytes } => {
                self.appends += 1;
                let dropped = self.lies.drop_nth_append != 0 && self.appends.is_multiple_of(self.lies.drop_nth_append);
                let inode = self.inode_mut(*file).ok_or(FaultKind::NotFound)?;
                if inode.cache.len() as u64 != *at {
                    return Err(FaultKind::Changed);
                }
                if !dropped {
                    inode.append(bytes);
                }
            }
            Op::Rewrite { file, from, to } => {
                let inode = self.inode_mut(*file).ok_or(FaultKind::NotFound)?;
                let (from, to) =
                    (usize::try_from(*from).unwrap_or(usize::MAX), usize::try_from(*to).unwrap_or(usize::MAX));
                if from > to || to > inode.cache.len() {
                    return Err(FaultKind::Changed);
                }
                inode.rewrite(from, to);
            }
            Op::Publish(seq) => {
                self.inode_mut(File::SafeSeq).ok_or(FaultKind::NotFound)?.overwrite(0, &seq.get().to_le_bytes());
            }
            Op::Truncate { file, len } => {
                let inode = self.inode_mut(*file).ok_or(FaultKind::NotFound)?;
                let len = usize::try_from(*len).unwrap_or(usize::MAX);
                if len > inode.cache.len() {
                    return Err(FaultKind::Changed);
                }
                inode.truncate(len);
            }
            Op::Sync(file) => {
                let lies = self.lies.sync_does_nothing;
                let number = self.number(*file).ok_or(FaultKind::NotFound)?;
                if !lies {
                    self.sync(number);
                }
            }
            Op::Rename { from, to } => {
                lookup(&self.names, *from).ok_or(FaultKind::NotFound)?;
                self.pend(DirOp::Rename(*from, *to));
            }
            Op::Remove(file) => {
                if lookup(&self.names, *file).is_some() {
                    self.pend(DirOp::Unlink(*file));
                }
            }
            Op::SyncDir(dir) => {
                if !self.lies.sync_dir_does_nothing {
                    let firm = &mut self.firm_names;
                    self.pending.retain(|op| {
                        if op.dir() == *dir {
                            op.apply(firm);
                        }
                        op.dir() != *dir
                    });
                }
            }
            Op::MakeDir(_) | Op::Lock(_) | Op::Unlock(_) => {}
        }
        Ok(Done::Nothing)
    }

    /// Does the part of a writing operation that lies before its `cut`-th byte, as a crash in mid-write leaves it.
    pub fn apply_cut(&mut self, op: &Op, cut: usize) {
        match op {
            Op::Put { file, bytes } => self.put(*file, bytes.get(..cut).unwrap_or(bytes)),
            Op::Append { file, at, bytes } => {
                if let Some(inode) = self.inode_mut(*file)
                    && inode.cache.len() as u64 == *at
                {
                    inode.append(bytes.get(..cut).unwrap_or(bytes));
                }
            }
            Op::List
            | Op::Read { .. }
            | Op::ReadTail { .. }
            | Op::Rewrite { .. }
            | Op::Publish(_)
            | Op::Truncate { .. }
            | Op::Sync(_)
            | Op::Rename { .. }
            | Op::Remove(_)
            | Op::SyncDir(_)
            | Op::MakeDir(_)
            | Op::Lock(_)
            | Op::Unlock(_) => {}
        }
    }

    fn sync(&mut self, number: u32) {
        if let Some(at) = self.inodes.get_mut(number as usize).and_then(Inode::sync) {
            self.misdirected = Some((number, at));
        }
    }

    /// The file and the lowest byte that a misdirected write damaged since this was last asked.
    pub fn take_misdirected(&mut self) -> Option<(u32, usize)> {
        self.misdirected.take()
    }

    /// Whether the page cache may hide damage to the medium of the log.
    #[must_use]
    pub fn hides_damage(&self) -> bool {
        let names = self.names.iter().chain(&self.firm_names).filter(|entry| entry.0.dir() == Dir::Telemetry);
        names.map(|entry| entry.1 as usize).any(|at| self.inodes.get(at).is_some_and(|inode| inode.rotten))
    }

    fn put(&mut self, file: File, bytes: &[u8]) {
        if lookup(&self.names, file).is_none() {
            let number = self.create();
            self.pend(DirOp::Link(file, number));
        }
        if let Some(inode) = self.inode_mut(file) {
            inode.truncate(0);
            inode.append(bytes);
        }
    }

    fn listing(&self) -> Vec<(File, u64)> {
        let mut found: Vec<(File, u64)> = self
            .names
            .iter()
            .filter(|entry| {
                matches!(entry.0, File::Live | File::Sealed(_) | File::SafeSeq | File::Base | File::Positions)
            })
            .map(|entry| (entry.0, self.read(entry.0).map_or(0, |bytes| bytes.len() as u64)))
            .collect();
        // A real directory has no order either.
        let turn = usize::try_from(draw(self.seed, Stream::Garbage, self.losses, 9) % 7).unwrap_or(0);
        let len = found.len().max(1);
        found.rotate_left(turn % len);
        found
    }

    /// A sync that fails: its pages are clean now, and some of them are not on the medium.
    pub fn sync_fails(&mut self, file: File, key: u64) {
        if let Some(inode) = self.inode_mut(file) {
            inode.sync_fails(key);
        }
    }

    /// The power goes; what was not synced is decided, and the page cache is gone.
    pub fn power_loss(&mut self, how: Survival) {
        self.losses += 1;
        let key = draw(self.seed, Stream::Survival, self.losses, 3);
        let pending = std::mem::take(&mut self.pending);
        let keep = Rng::new(key, Stream::Survival, 4).range(0, pending.len() as u64);
        let mut broken: Vec<File> = Vec::new();
        for (at, op) in pending.iter().enumerate() {
            let (a, b) = op.names();
            let survives = match how {
                Survival::Nothing => false,
                Survival::Everything => true,
                Survival::Mix => (at as u64) < keep,
                Survival::MixSubset => {
                    !draw(key, Stream::Survival, identity(b), 5).is_multiple_of(3)
                        && !broken.iter().any(|name| *name == a || *name == b)
                }
            };
            if survives {
                op.apply(&mut self.firm_names);
            } else {
                broken.push(a);
                broken.push(b);
            }
        }
        self.names.clear();
        self.names.extend_from_slice(&self.firm_names);
        for at in 0..self.names.len() {
            let Some((file, number)) = self.names.get(at).copied() else { break };
            if let Some(inode) = self.inodes.get_mut(number as usize) {
                inode.power_loss(mix(key ^ identity(file)), how);
            }
        }
        self.pending = pending;
        self.pending.clear();
    }

    /// Whether a power loss could change anything now.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty()
            && self.names.iter().all(|entry| self.inodes.get(entry.1 as usize).is_none_or(Inode::is_settled))
    }

    /// Flips one durable bit of a file, chosen by `place`; `evicted` = the page cache does not hide it. Gives the byte's
    /// offset, or `None` when the file has no durable byte.
    pub fn rot(&mut self, file: File, place: u64, evicted: bool) -> Option<usize> {
        let inode = self.inode_mut(file)?;
        let len = inode.firm.min(inode.medium.len());
        let at = usize::try_from(place % u64::try_from(len).ok().filter(|n| *n > 0)?).ok()?;
        let bit = 1u8 << (mix(place) % 8);
        *inode.medium.get_mut(at)? ^= bit;
        if evicted {
            *inode.cache.get_mut(at)? ^= bit;
        } else {
            inode.rotten = true;
        }
        Some(at)
    }

    /// The file's next sync that writes writes to the wrong place. False when there is no such file.
    pub fn misdirect(&mut self, file: File) -> bool {
        self.inode_mut(file).map(|inode| inode.misdirect = true).is_some()
    }

    /// An operator cuts the file to `len` bytes, durably. False when it is not longer than that.
    pub fn tamper_truncate(&mut self, file: File, len: usize) -> bool {
        let Some(number) = self.number(file) else { return false };
        let Some(inode) = self.inodes.get_mut(number as usize).filter(|i| i.cache.len() > len) else { return false };
        inode.truncate(len);
        self.sync(number);
        true
    }

    /// Removes a file behind everybody's back, durably.
    pub fn tamper_remove(&mut self, file: File) {
        self.names.retain(|entry| entry.0 != file);
        self.firm_names.retain(|entry| entry.0 != file);
    }

    /// A hash over names and bytes of the files that `wanted` picks, as readers see them; the order of names does not count.
    #[must_use]
    pub fn fingerprint(&self, wanted: impl Fn(File) -> bool) -> u64 {
        let mut sum = 0u64;
        for (file, number) in self.names.iter().filter(|entry| wanted(entry.0)) {
            let mut hash = mix(identity(*file));
            let bytes = self.read_number(*number);
            let (words, rest) = bytes.as_chunks::<8>();
            for word in words {
                hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
            }
            for byte in rest {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
            }
            sum = sum.wrapping_add(mix(hash ^ bytes.len() as u64));
        }
        sum
    }
}
