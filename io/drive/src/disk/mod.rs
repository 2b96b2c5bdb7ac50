//! The real disk: the one place where a machine's operations become system calls.
//!
//! Folders are opened once, by descriptor and without following a link (FAULTS D27); every file is opened relative to
//! its folder's descriptor, again without following a link, and made with mode 0600.

mod ahead;
mod file;
mod folders;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use machines::disk::{Completion, Dir, Done, Fault, FaultKind, File, Lock, Op};
use machines::ids::Seq;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

pub use self::folders::{Layout, OpenError, PolicyLayout};

use self::ahead::Ahead;
use self::file::Open;
use self::folders::Folders;
use crate::fuse::lock;

/// Watches what the disk does; for metrics.
pub trait Meter: Send + Sync {
    /// A file was synced, and it took so long.
    fn synced(&self, took: Duration);
    /// A write took fewer bytes than it was given, or was interrupted, and was continued (FAULTS D09).
    fn continued(&self);
}

impl Meter for () {
    fn synced(&self, _took: Duration) {}
    fn continued(&self) {}
}

/// The name of the file whose lock those who change the activation take, beside `activation.json`.
pub const ACTIVATION_LOCK: &str = "activation.lock";
/// The name of the file in the telemetry folder whose lock the one who drains holds.
pub const DRAIN_LOCK: &str = "telemetry.drain.lock";
/// The folder beneath the telemetry folder for what a receiver did not take.
pub const REJECTED: &str = "rejected";

/// A folder's descriptor.
enum Folder<'a> {
    Own(BorrowedFd<'a>),
    Shared(Arc<OwnedFd>),
}

impl AsFd for Folder<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(fd) => *fd,
            Self::Shared(fd) => fd.as_fd(),
        }
    }
}

/// The files of one node, or of one command.
pub struct Disk {
    folders: Folders,
    meter: Arc<dyn Meter>,
    /// Descriptors that are kept: of files being written, until they are synced or renamed, and of the live segment and
    /// the safe-point for good. A descriptor whose write or sync failed stays here, so that none is issued again.
    open: Mutex<BTreeMap<File, Arc<Open>>>,
    activation_lock: Mutex<Option<OwnedFd>>,
    drain_lock: Mutex<Option<OwnedFd>>,
    /// Folders that are not there from the start, opened when they are first used.
    later: Mutex<BTreeMap<Dir, Arc<OwnedFd>>>,
    ahead: Ahead,
}

impl Disk {
    /// Makes the folders that are missing (mode 0700, synced into their parents) and opens all of them.
    ///
    /// # Errors
    /// Names the folder that cannot be made or opened, or is a link.
    pub fn open(layout: &Layout, meter: Arc<dyn Meter>) -> Result<Self, OpenError> {
        Ok(Self::over(Folders::open(layout, true)?, meter))
    }

    /// Opens folders that are there; makes nothing. For commands that only look.
    ///
    /// # Errors
    /// Names the folder that cannot be opened, or is a link.
    pub fn open_existing(layout: &Layout) -> Result<Self, OpenError> {
        Ok(Self::over(Folders::open(layout, false)?, Arc::new(())))
    }

    fn over(folders: Folders, meter: Arc<dyn Meter>) -> Self {
        Self {
            folders,
            meter,
            open: Mutex::new(BTreeMap::new()),
            activation_lock: Mutex::new(None),
            drain_lock: Mutex::new(None),
            later: Mutex::new(BTreeMap::new()),
            ahead: Ahead::default(),
        }
    }

    /// The descriptor of the telemetry folder, when the layout has one.
    #[must_use]
    pub fn telemetry(&self) -> Option<BorrowedFd<'_>> {
        self.folders.telemetry.as_ref().map(OwnedFd::as_fd)
    }

    /// Runs a chain of operations, up to the first that fails. Chains of one lane have to be run one after another by
    /// the caller; lanes may run side by side.
    ///
    /// # Errors
    /// The fault of the first operation that failed; nothing behind it was tried.
    pub fn execute(&self, chain: Vec<Op>) -> Completion {
        let mut last = Done::Nothing;
        for (step, op) in chain.into_iter().enumerate() {
            last = self.run(op).map_err(|kind| Fault { step, kind })?;
        }
        Ok(last)
    }

    fn run(&self, op: Op) -> Result<Done, FaultKind> {
        match op {
            Op::List => return self.list(),
            Op::Read { file, at, len } => return self.read(file, at, len),
            Op::ReadTail { file, len } => return self.read_tail(file, len),
            Op::Put { file, bytes } => self.put(file, &bytes)?,
            Op::Append { file, at, bytes } => self.append(file, at, &bytes)?,
            Op::Publish(seq) => self.publish(seq)?,
            Op::Rewrite { file, from, to } => self.hold(file)?.rewrite(from, to)?,
            Op::Truncate { file, len } => self.hold(file)?.truncate(len)?,
            Op::Sync(file) => self.sync(file)?,
            Op::Rename { from, to } => self.rename(from, to)?,
            Op::Remove(file) => self.remove(file)?,
            Op::SyncDir(dir) => rustix::fs::fsync(self.folder(dir)?).map_err(kind_of)?,
            Op::MakeDir(dir) => self.make_dir(dir)?,
            Op::Lock(Lock::Activation) => self.lock_activation()?,
            Op::Unlock(Lock::Activation) => drop(lock(&self.activation_lock).take()),
            Op::Lock(Lock::Drain) => self.lock_drain()?,
            Op::Unlock(Lock::Drain) => drop(lock(&self.drain_lock).take()),
        }
        Ok(Done::Nothing)
    }

    fn folder(&self, dir: Dir) -> Result<Folder<'_>, FaultKind> {
        let folder = match dir {
            Dir::State => &self.folders.activation,
            Dir::Telemetry => &self.folders.telemetry,
            Dir::Policy => &self.folders.policy,
            Dir::Bundles => &self.folders.bundles,
            Dir::Rejected | Dir::Locks | Dir::Verified => return self.later(dir),
            // Somebody else's, who may put another one in its place: never kept.
            Dir::Bootstrap => return self.folders.bootstrap().map(|fd| Folder::Shared(Arc::new(fd))),
        };
        folder.as_ref().map(|folder| Folder::Own(folder.as_fd())).ok_or(FaultKind::NotFound)
    }

    /// Opens an existing regular file of ours. `O_NONBLOCK` so that a pipe laid in its place cannot hold us up.
    fn open_file(&self, file: File, access: OFlags) -> Result<OwnedFd, FaultKind> {
        let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::openat(self.folder(file.dir())?, file.name(), flags, Mode::empty()).map_err(kind_of)?;
        let stat = rustix::fs::fstat(&fd).map_err(kind_of)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(kind_of(Errno::INVAL));
        }
        Ok(fd)
    }

    /// The kept descriptor of a file that is written, opened when there is none.
    fn hold(&self, file: File) -> Result<Arc<Open>, FaultKind> {
        if let Some(open) = lock(&self.open).get(&file) {
            return Ok(Arc::clone(open));
        }
        let open = Arc::new(Open::new(self.open_file(file, OFlags::RDWR)?, None, Arc::clone(&self.meter)));
        lock(&self.open).insert(file, Arc::clone(&open));
        Ok(open)
    }

    fn list(&self) -> Result<Done, FaultKind> {
        let folder = self.folder(Dir::Telemetry)?;
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(&folder).map_err(kind_of)? {
            let entry = entry.map_err(kind_of)?;
            let Some(file) = entry.file_name().to_str().ok().and_then(File::of_log) else { continue };
            match rustix::fs::statat(&folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => found.push((file, u64::try_from(stat.st_size).unwrap_or(0))),
                // Removed since: as if it had never been listed.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(kind_of(errno)),
            }
        }
        found.sort_unstable();
        Ok(Done::Listing(found))
    }

    fn read(&self, file: File, at: u64, len: u32) -> Result<Done, FaultKind> {
        let fd = self.open_file(file, OFlags::RDONLY)?;
        let left = size_of(&fd)?.saturating_sub(at);
        let want = u64::from(len).min(left);
        self.ahead.reads(&fd, at, u64::from(len), left);
        Ok(Done::Bytes(read_at(&fd, at, want)?))
    }

    fn read_tail(&self, file: File, len: u32) -> Result<Done, FaultKind> {
        let fd = self.open_file(file, OFlags::RDONLY)?;
        let total = size_of(&fd)?;
        let want = u64::from(len).min(total);
        Ok(Done::Tail { total, bytes: read_at(&fd, total - want, want)? })
    }

    /// A new file each time, never the old one emptied: whoever still reads the old one keeps its bytes, and a name
    /// that somebody laid there is not written through (FAULTS F14).
    fn put(&self, file: File, bytes: &[u8]) -> Result<(), FaultKind> {
        let folder = self.folder(file.dir())?;
        let name = file.name();
        lock(&self.open).remove(&file);
        match rustix::fs::unlinkat(&folder, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(kind_of(errno)),
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&folder, &name, flags, Mode::RUSR | Mode::WUSR).map_err(kind_of)?;
        let open = Arc::new(Open::new(fd, Some(0), Arc::clone(&self.meter)));
        lock(&self.open).insert(file, Arc::clone(&open));
        open.append(0, bytes)
    }

    fn append(&self, file: File, at: u64, bytes: &[u8]) -> Result<(), FaultKind> {
        let open = self.hold(file)?;
        let named = match rustix::fs::statat(self.folder(file.dir())?, file.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Err(FaultKind::Changed),
            Err(errno) => return Err(kind_of(errno)),
        };
        // The name must still lead to the very file that we hold, and the file must end where we left it (D26).
        open.expect(at, &named)?;
        open.append(at, bytes)
    }

    fn publish(&self, seq: Seq) -> Result<(), FaultKind> {
        self.hold(File::SafeSeq)?.overwrite_8(seq.get().to_le_bytes())
    }

    fn sync(&self, file: File) -> Result<(), FaultKind> {
        let open = self.hold(file)?;
        let started = Instant::now();
        open.sync()?;
        self.meter.synced(started.elapsed());
        if !matches!(file, File::Live | File::SafeSeq) {
            lock(&self.open).remove(&file);
        }
        Ok(())
    }

    fn rename(&self, from: File, to: File) -> Result<(), FaultKind> {
        let (old, new) = (self.folder(from.dir())?, self.folder(to.dir())?);
        rustix::fs::renameat(old, from.name(), new, to.name()).map_err(kind_of)?;
        let mut open = lock(&self.open);
        open.remove(&to);
        // What failed under the old name failed under the new one.
        if let Some(moved) = open.remove(&from)
            && (moved.is_broken() || matches!(to, File::Live | File::SafeSeq))
        {
            open.insert(to, moved);
        }
        Ok(())
    }

    fn remove(&self, file: File) -> Result<(), FaultKind> {
        lock(&self.open).remove(&file);
        match rustix::fs::unlinkat(self.folder(file.dir())?, file.name(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(kind_of(errno)),
        }
    }

    /// The parent and the name of a folder that is not there from the start.
    const fn place(dir: Dir) -> Option<(Dir, &'static str)> {
        match dir {
            Dir::Rejected => Some((Dir::Telemetry, REJECTED)),
            Dir::Locks => Some((Dir::Policy, "locks")),
            Dir::Verified => Some((Dir::Policy, "verified")),
            Dir::State | Dir::Telemetry | Dir::Policy | Dir::Bundles | Dir::Bootstrap => None,
        }
    }

    /// Makes a folder that is not there from the start, and opens it.
    fn make_dir(&self, dir: Dir) -> Result<(), FaultKind> {
        let Some((parent, name)) = Self::place(dir) else { return self.folder(dir).map(drop) };
        let parent = self.folder(parent)?;
        match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(kind_of(errno)),
        }
        // Opened anew each time: somebody may have taken the old one away.
        lock(&self.later).remove(&dir);
        self.later(dir)?;
        rustix::fs::fsync(&parent).map_err(kind_of)
    }

    /// A folder that is not there from the start, opened if it is there now.
    fn later(&self, dir: Dir) -> Result<Folder<'_>, FaultKind> {
        if let Some(fd) = lock(&self.later).get(&dir) {
            return Ok(Folder::Shared(Arc::clone(fd)));
        }
        let (parent, name) = Self::place(dir).ok_or(FaultKind::NotFound)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.folder(parent)?, name, flags, Mode::empty()).map_err(kind_of)?;
        let fd = Arc::new(fd);
        lock(&self.later).insert(dir, Arc::clone(&fd));
        Ok(Folder::Shared(fd))
    }

    fn lock_drain(&self) -> Result<(), FaultKind> {
        let mut held = lock(&self.drain_lock);
        if held.is_none() {
            *held = Some(take_drain_lock(self.folder(Dir::Telemetry)?.as_fd())?);
        }
        Ok(())
    }

    fn lock_activation(&self) -> Result<(), FaultKind> {
        // A lock that is still held is ours: waiting for it on a second descriptor would never end.
        drop(lock(&self.activation_lock).take());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = rustix::fs::openat(self.folder(Dir::State)?, ACTIVATION_LOCK, flags, mode).map_err(kind_of)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&fd, FlockOperation::LockExclusive)).map_err(kind_of)?;
        *lock(&self.activation_lock) = Some(fd);
        Ok(())
    }
}

fn take_drain_lock(folder: BorrowedFd<'_>) -> Result<OwnedFd, FaultKind> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::openat(folder, DRAIN_LOCK, flags, Mode::RUSR | Mode::WUSR).map_err(kind_of)?;
    match rustix::io::retry_on_intr(|| rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => Ok(fd),
        Err(Errno::WOULDBLOCK) => Err(FaultKind::Held),
        Err(errno) => Err(kind_of(errno)),
    }
}

fn size_of(fd: &OwnedFd) -> Result<u64, FaultKind> {
    let stat = rustix::fs::fstat(fd).map_err(kind_of)?;
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

/// Up to `want` bytes from `at`; fewer when the file became shorter meanwhile.
fn read_at(fd: &OwnedFd, at: u64, want: u64) -> Result<Vec<u8>, FaultKind> {
    let mut bytes = vec![0; usize::try_from(want).unwrap_or(0)];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let offset = at.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
        match rustix::io::pread(fd, rest, offset) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(kind_of(errno)),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// What the machines call an error of the system.
pub(crate) fn kind_of(errno: Errno) -> FaultKind {
    match errno {
        Errno::NOENT => FaultKind::NotFound,
        Errno::NOSPC | Errno::DQUOT => FaultKind::NoSpace,
        other => FaultKind::Io(other.raw_os_error()),
    }
}

#[cfg(test)]
mod tests;
