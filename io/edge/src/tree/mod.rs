//! The driver of [`machines::tree`]: its operations over real files, as its contract says.
//!
//! Every path is resolved beneath its root's descriptor and no link is followed (FAULTS F02, F03, F09, F13): see
//! [`io_drive::beneath`]. What is made gets mode 0600 or 0700 first and its own mode last, whatever the umask (F12).

mod faults;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use io_drive::beneath;
use io_drive::place::{self, Taken};
use machines::disk::FaultKind;
use machines::ids::Hash32;
use machines::tree::{Completion, Done, Fault, Kind, Mode, Op, Opened, Place, Root};
use rustix::fs::{Access, AtFlags, Dir, FileType, FlockOperation, Mode as Bits, OFlags, Stat, StatVfsMountFlags};
use rustix::io::Errno;

use self::faults::{of_errno, of_error, of_rename};
use crate::bounded::streamed;

/// Most descriptors of written files that are kept until they are renamed.
const MOST_KEPT: usize = 128;

/// The files of one node by path. Holds the lock of the state root, once taken, until it is dropped.
#[derive(Debug)]
pub struct Tree {
    state_root: PathBuf,
    allow: Vec<PathBuf>,
    opened: BTreeMap<Root, beneath::Root>,
    /// Files that were written and not yet renamed or removed, by their own descriptors: a sync reports the errors of the
    /// very writes, and one that failed is not issued again.
    kept: BTreeMap<Place, Kept>,
    syncs: u64,
    walks: bool,
}

#[derive(Debug)]
struct Kept {
    file: File,
    failed: Option<FaultKind>,
}

/// What a file's descriptor says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its permission bits.
    pub mode: u16,
    /// The number of the user that it belongs to.
    pub owner: u32,
}

impl Tree {
    /// A tree over these roots; nothing is opened yet. `allow` are the folders of `[reconstruct] allow` in their order.
    #[must_use]
    pub fn new(state_root: impl Into<PathBuf>, allow: Vec<PathBuf>) -> Self {
        Self {
            state_root: state_root.into(),
            allow,
            opened: BTreeMap::new(),
            kept: BTreeMap::new(),
            syncs: 0,
            walks: false,
        }
    }

    /// The same tree without openat2(2): for kernels and filters that do not let it through, and for tests of that way.
    #[must_use]
    pub fn walking(self) -> Self {
        Self { walks: true, ..self }
    }

    /// Runs the operations of a chain in order; the first that fails ends it.
    pub fn run(&mut self, chain: Vec<Op>) -> Completion {
        let mut done = Done::Nothing;
        for (step, op) in chain.into_iter().enumerate() {
            done = self.carry_out(op).map_err(|kind| Fault { step, kind })?;
        }
        Ok(done)
    }

    /// Opens the state root and takes its lock for the life of this value.
    ///
    /// # Errors
    /// Step 0 when it cannot be opened, step 1 when the lock is not given; [`FaultKind::Held`] when another has it.
    pub fn hold(&mut self) -> Result<Opened, Fault> {
        let opened = self.open(Root::State).map_err(|kind| Fault { step: 0, kind })?;
        self.lock().map_err(|kind| Fault { step: 1, kind })?;
        Ok(opened)
    }

    /// A whole regular file, read through one descriptor, and what that says of it.
    ///
    /// # Errors
    /// As of [`Op::Read`].
    pub fn read(&self, at: &Place, most: u32) -> Result<(Vec<u8>, Facts), FaultKind> {
        let file = self.regular(at)?;
        let stat = rustix::fs::fstat(&file).map_err(of_errno)?;
        let most = u64::from(most);
        let len = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        if len > most {
            return Err(FaultKind::TooLarge);
        }
        // One allocation: no copy of a key is left behind by a buffer that grew.
        let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0).saturating_add(1));
        file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| of_error(&error))?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > most {
            return Err(FaultKind::TooLarge);
        }
        Ok((bytes, Facts { mode: mode(&stat), owner: stat.st_uid }))
    }

    /// A root that was opened.
    #[must_use]
    pub fn folder(&self, root: Root) -> Option<&beneath::Root> {
        self.opened.get(&root)
    }

    /// How many files and folders were synced so far.
    #[must_use]
    pub const fn syncs(&self) -> u64 {
        self.syncs
    }

    fn carry_out(&mut self, op: Op) -> Result<Done, FaultKind> {
        match op {
            Op::Open(root) => return self.open(root).map(Done::Opened),
            Op::Lock => self.lock()?,
            Op::Look(at) => return self.look(&at).map(Done::Is),
            Op::List { at, most } => return self.list(&at, most).map(Done::Names),
            Op::Read { at, most } => return self.read(&at, most).map(|(bytes, _)| Done::Bytes(bytes)),
            Op::Hash(at) => {
                let (hash, len) = consumed(&mut self.regular(&at)?, |_| Ok(()))?;
                return Ok(Done::Hash(hash, len));
            }
            Op::Put { at, bytes, mode } => self.put(at, &bytes, mode)?,
            Op::Copy { from, to, mode } => {
                let (hash, len) = self.copy(&from, to, mode)?;
                return Ok(Done::Hash(hash, len));
            }
            Op::MakeFolder { at, mode } => self.make_folder(&at, mode)?,
            Op::Link { at, target } => {
                let (folder, name) = self.above(&at)?;
                rustix::fs::symlinkat(target.as_str(), &folder, name).map_err(of_errno)?;
            }
            Op::Sync(at) => self.sync(&at)?,
            Op::SyncFolder(at) => {
                let folder = self.root(&at)?.folder(at.path.as_str()).map_err(|error| of_error(&error))?;
                self.syncs += 1;
                rustix::fs::fsync(&folder).map_err(of_errno)?;
            }
            Op::Rename { from, to } => self.rename(&from, &to)?,
            Op::Exchange { a, b } => self.exchange(&a, &b)?,
            Op::Remove(at) => self.remove(&at, AtFlags::empty())?,
            Op::RemoveFolder(at) => self.remove(&at, AtFlags::REMOVEDIR)?,
        }
        Ok(Done::Nothing)
    }

    fn open(&mut self, root: Root) -> Result<Opened, FaultKind> {
        if !self.opened.contains_key(&root) {
            let path = match root {
                Root::State => &self.state_root,
                Root::Allowed(n) => self.allow.get(usize::from(n)).ok_or(FaultKind::NotFound)?,
            };
            let folder = if self.walks { beneath::Root::open_walking(path) } else { beneath::Root::open(path) };
            let folder = folder.map_err(|error| of_error(&error))?;
            if let (Root::Allowed(_), Some(own)) = (root, self.opened.get(&Root::State)) {
                // However it is spelled: the state root's own folders are nobody's to write.
                if holds(folder.fd(), own.fd())? || holds(own.fd(), folder.fd())? {
                    return Err(FaultKind::Refused);
                }
            }
            self.opened.insert(root, folder);
        }
        let fd = self.opened.get(&root).ok_or(FaultKind::NotFound)?.fd();
        let stat = rustix::fs::fstat(fd).map_err(of_errno)?;
        // The kernel is asked as it will judge: with capabilities, access lists and mounts, which no permission bits show.
        let access = rustix::fs::accessat(fd, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS);
        let mount = rustix::fs::fstatvfs(fd).map_err(of_errno)?.f_flag;
        Ok(Opened {
            ours: stat.st_uid == rustix::process::geteuid().as_raw() || stat.st_uid == 0,
            mode: mode(&stat),
            writable: access.is_ok() && !mount.contains(StatVfsMountFlags::RDONLY),
        })
    }

    /// The lock belongs to the open folder: nothing is made for it, and it ends with the process.
    fn lock(&mut self) -> Result<(), FaultKind> {
        let fd = self.opened.get(&Root::State).ok_or(NOT_OPENED)?.fd();
        match rustix::io::retry_on_intr(|| rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive)) {
            Err(Errno::WOULDBLOCK) => Err(FaultKind::Held),
            other => other.map_err(of_errno),
        }
    }

    fn look(&self, at: &Place) -> Result<Kind, FaultKind> {
        if at.path.as_str().is_empty() {
            return self.root(at).map(|_| Kind::Folder);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        match self.root(at)?.resolve(at.path.as_str(), flags, Bits::empty()) {
            Ok(fd) => Ok(kind(&rustix::fs::fstat(fd).map_err(of_errno)?)),
            Err(error) => {
                let kind = of_error(&error);
                if kind == FaultKind::NotFound { Ok(Kind::Nothing) } else { Err(kind) }
            }
        }
    }

    fn list(&self, at: &Place, most: u32) -> Result<Vec<(String, Kind)>, FaultKind> {
        let folder = self.root(at)?.folder(at.path.as_str()).map_err(|error| of_error(&error))?;
        let mut found = Vec::new();
        for entry in Dir::read_from(folder.as_fd()).map_err(of_errno)? {
            let entry = entry.map_err(of_errno)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if u64::try_from(found.len()).unwrap_or(u64::MAX) >= u64::from(most) {
                return Err(FaultKind::TooLarge);
            }
            let stat = match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                // Removed since.
                Err(Errno::NOENT) => continue,
                other => other.map_err(of_errno)?,
            };
            // A name that is no text is shown with a sign that no path may have, so that nobody takes the folder for empty.
            found.push((name.to_string_lossy().into_owned(), kind(&stat)));
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    fn put(&mut self, at: Place, bytes: &[u8], mode: Mode) -> Result<(), FaultKind> {
        let mut file = self.create(&at)?;
        let written = file.write_all(bytes).and_then(|()| give_mode(&file, mode));
        self.keep(at, file, written.map_err(|error| of_error(&error)))
    }

    fn copy(&mut self, from: &Place, to: Place, mode: Mode) -> Result<(Hash32, u64), FaultKind> {
        let mut source = self.regular(from)?;
        let mut file = self.create(&to)?;
        let copied = consumed(&mut source, |piece| file.write_all(piece));
        let copied = copied.and_then(|done| give_mode(&file, mode).map(|()| done).map_err(|error| of_error(&error)));
        let done = copied.map_or((Hash32([0; 32]), 0), |done| done);
        self.keep(to, file, copied.map(drop)).map(|()| done)
    }

    /// Makes a file, mode 0600; something there, also a link, is refused (FAULTS F14).
    fn create(&mut self, at: &Place) -> Result<File, FaultKind> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let fd = self.root(at)?.resolve(at.path.as_str(), flags, Bits::RUSR | Bits::WUSR);
        let file = File::from(fd.map_err(|error| of_error(&error))?);
        self.kept.remove(at);
        Ok(file)
    }

    fn keep(&mut self, at: Place, file: File, written: Result<(), FaultKind>) -> Result<(), FaultKind> {
        if self.kept.len() >= MOST_KEPT {
            self.kept.pop_first();
        }
        self.kept.insert(at, Kept { file, failed: written.err() });
        written
    }

    fn make_folder(&self, at: &Place, mode: Mode) -> Result<(), FaultKind> {
        let (folder, name) = self.above(at)?;
        match rustix::fs::mkdirat(&folder, name, Bits::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(of_errno(errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&folder, name, flags, Bits::empty()).map_err(of_errno)?;
        let stat = rustix::fs::fstat(&made).map_err(of_errno)?;
        if self::mode(&stat) != mode.bits() {
            rustix::fs::fchmod(&made, bits(mode)).map_err(of_errno)?;
        }
        Ok(())
    }

    fn sync(&mut self, at: &Place) -> Result<(), FaultKind> {
        self.is_still_there(at)?;
        let file = match self.kept.get(at) {
            Some(Kept { failed: Some(kind), .. }) => return Err(*kind),
            Some(Kept { failed: None, .. }) => None,
            None => Some(self.regular(at)?),
        };
        self.syncs += 1;
        match (file, self.kept.get_mut(at)) {
            (Some(file), _) => rustix::fs::fsync(&file).map_err(of_errno),
            (None, Some(kept)) => {
                let synced = rustix::fs::fsync(&kept.file).map_err(of_errno);
                kept.failed = synced.err();
                synced
            }
            (None, None) => Err(FaultKind::NotFound),
        }
    }

    fn rename(&mut self, from: &Place, to: &Place) -> Result<(), FaultKind> {
        if from.root != to.root {
            return Err(FaultKind::Refused);
        }
        let (from_folder, from_name) = self.above(from)?;
        let (to_folder, to_name) = self.above(to)?;
        let moved = rustix::fs::statat(&from_folder, from_name, AtFlags::SYMLINK_NOFOLLOW).map_err(of_errno)?;
        self.is_still_there(from)?;
        // The kernel itself refuses to put a file over a folder. A folder over an empty one it would put.
        let taken = if kind(&moved) == Kind::Folder { Taken::Refuse } else { Taken::Replace };
        place::moved((&from_folder, from_name), (&to_folder, to_name), taken).map_err(of_rename)?;
        if kind(&moved) == Kind::Folder {
            self.kept.clear();
        }
        self.kept.remove(from);
        self.kept.remove(to);
        Ok(())
    }

    fn exchange(&mut self, a: &Place, b: &Place) -> Result<(), FaultKind> {
        if a.root != b.root {
            return Err(FaultKind::Refused);
        }
        let (a_folder, a_name) = self.above(a)?;
        let (b_folder, b_name) = self.above(b)?;
        place::exchanged((&a_folder, a_name), (&b_folder, b_name)).map_err(of_rename)?;
        self.kept.clear();
        Ok(())
    }

    fn remove(&mut self, at: &Place, flags: AtFlags) -> Result<(), FaultKind> {
        self.kept.remove(at);
        let removed =
            self.above(at).and_then(|(folder, name)| rustix::fs::unlinkat(&folder, name, flags).map_err(of_errno));
        match removed {
            Err(FaultKind::NotFound) => Ok(()),
            other => other,
        }
    }

    /// Where a file that was written is no longer the one of its name, somebody else was there (FAULTS F14).
    fn is_still_there(&self, at: &Place) -> Result<(), FaultKind> {
        let Some(kept) = self.kept.get(at) else { return Ok(()) };
        let (folder, name) = self.above(at)?;
        let own = rustix::fs::fstat(&kept.file).map_err(of_errno)?;
        match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) if (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino) => Ok(()),
            Ok(_) | Err(Errno::NOENT) => Err(FaultKind::Changed),
            Err(errno) => Err(of_errno(errno)),
        }
    }

    fn root(&self, at: &Place) -> Result<&beneath::Root, FaultKind> {
        self.opened.get(&at.root).ok_or(NOT_OPENED)
    }

    /// The folder that holds a place, by descriptor, and the name in it. A root has no name.
    fn above<'a>(&self, at: &'a Place) -> Result<(OwnedFd, &'a str), FaultKind> {
        self.root(at)?.above(at.path.as_str()).map_err(|error| of_error(&error))
    }

    fn regular(&self, at: &Place) -> Result<File, FaultKind> {
        self.root(at)?.read(at.path.as_str()).map_err(|error| of_error(&error))
    }
}

/// An operation beneath a root that was not opened: the machine asks for the root first.
const NOT_OPENED: FaultKind = FaultKind::Io(Errno::BADF.raw_os_error());

/// Reads a file from where it stands to its end. One that is longer or shorter then than when it was opened is not read
/// as a whole (FAULTS F15).
fn consumed(file: &mut File, piece: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(Hash32, u64), FaultKind> {
    let len = file.metadata().map_err(|error| of_error(&error))?.len();
    let (hash, read) = streamed(file, len.saturating_add(1), piece).map_err(|error| of_error(&error))?;
    if read == len { Ok((hash, len)) } else { Err(FaultKind::Changed) }
}

fn give_mode(file: &File, mode: Mode) -> io::Result<()> {
    Ok(rustix::fs::fchmod(file, bits(mode))?)
}

fn bits(mode: Mode) -> Bits {
    Bits::from_raw_mode(u32::from(mode.bits()))
}

fn mode(stat: &Stat) -> u16 {
    u16::try_from(stat.st_mode & 0o7777).unwrap_or(0o7777)
}

fn kind(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File { len: u64::try_from(stat.st_size).unwrap_or(u64::MAX), mode: mode(stat) },
        FileType::Directory => Kind::Folder,
        FileType::Symlink => Kind::Link,
        FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => {
            Kind::Other
        }
    }
}

#[cfg(test)]
mod tests;

/// Whether a folder is `outer` or lies beneath it, by what the folders are and not by their names.
fn holds(outer: impl AsFd, inner: impl AsFd) -> Result<bool, FaultKind> {
    let which = |stat: Stat| (stat.st_dev, stat.st_ino);
    let above = |fd: &dyn AsFd| {
        rustix::fs::openat(fd, "..", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Bits::empty())
            .map_err(of_errno)
    };
    let wanted = rustix::fs::fstat(outer).map(which).map_err(of_errno)?;
    let mut at = rustix::fs::fstat(&inner).map(which).map_err(of_errno)?;
    let mut folder = above(&inner)?;
    while at != wanted {
        let next = rustix::fs::fstat(&folder).map(which).map_err(of_errno)?;
        // The root of the file system is its own parent.
        if next == at {
            return Ok(false);
        }
        at = next;
        folder = above(&folder)?;
    }
    Ok(true)
}
