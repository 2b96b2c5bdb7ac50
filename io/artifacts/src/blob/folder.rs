//! A folder of blobs by their digest: `blobs/sha256/` of an image layout, and of the cache.
//!
//! Folders are opened one component after another without following a link, and kept by descriptor; every name below is
//! one that we chose. What a folder's name leads to later has no effect (FAULTS F09, F13).

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use io_drive::place::{self, Taken};
use machines::oci::{Descriptor, Digest};
use rustix::fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;

use super::{Blob, BlobSink, Matched};
use crate::Fault;

/// What the name of a file begins with that is not complete.
const INCOMING: &str = ".incoming-";
/// How often a name for a new file is chosen anew.
const TRIES: usize = 8;

/// A folder by its descriptor.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
    /// The mode of new files, and of new folders with the bits to enter them.
    mode: Mode,
}

impl Folder {
    /// Opens a folder that somebody named; a link in its path is followed, as everywhere on a command line.
    ///
    /// # Errors
    /// When it is not there or is no folder.
    pub fn named(path: &Path, mode: Mode) -> Result<Self, Fault> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path: path.to_owned(), mode }),
            Err(Errno::NOENT) => Err(Fault::missing(&path.display().to_string(), "such folder")),
            Err(errno) => Err(Fault::file(path, "cannot be opened as a folder", errno)),
        }
    }

    /// Opens the folder `name` in this one, which must not be a link; `None` when there is none.
    ///
    /// # Errors
    /// When it is a link or no folder, or cannot be opened.
    pub fn inside(&self, name: &str) -> Result<Option<Self>, Fault> {
        let path = self.path.join(name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { fd, path, mode: self.mode })),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => Err(Fault::broken(
                &path.display().to_string(),
                "is a symbolic link or no folder; links are not followed",
            )),
            Err(errno) => Err(Fault::file(&path, "cannot be opened as a folder", errno)),
        }
    }

    /// Opens the folder `name` in this one, made when it is missing.
    ///
    /// # Errors
    /// As for [`Folder::inside`], or when it cannot be made.
    pub fn make(&self, name: &str) -> Result<Self, Fault> {
        let mode = self.mode | (Mode::RUSR | Mode::WUSR | Mode::XUSR) | enter(self.mode);
        match rustix::fs::mkdirat(&self.fd, name, mode) {
            // Whoever made it may not have come to sync it.
            Ok(()) | Err(Errno::EXIST) => {
                rustix::fs::fsync(&self.fd).map_err(|errno| Fault::file(&self.path, "cannot be synced", errno))?
            }
            Err(errno) => return Err(Fault::file(&self.path.join(name), "cannot be made", errno)),
        }
        self.inside(name)?.ok_or_else(|| Fault::missing(&self.path.display().to_string(), format!("folder {name}")))
    }

    /// Its path, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file `name`; `None` when there is none.
    ///
    /// # Errors
    /// When it is a link or no regular file, or cannot be opened.
    pub fn file(&self, name: &str) -> Result<Option<Blob>, Fault> {
        let path = self.path.join(name);
        // Without blocking, so that a pipe laid in its place cannot hold us up.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => {
                return Err(Fault::broken(&path.display().to_string(), "is a symbolic link; links are not followed"));
            }
            Err(errno) => return Err(Fault::file(&path, "cannot be opened", errno)),
        };
        Blob::from_file(fd.into(), &path.display().to_string()).map(Some)
    }

    /// The blob of this digest; `None` when there is none. Its bytes are not checked here.
    ///
    /// # Errors
    /// When it is a link or no regular file, or cannot be opened.
    pub fn blob(&self, digest: &Digest) -> Result<Option<Blob>, Fault> {
        self.file(&digest.hex())
    }

    /// A new file in this folder that nobody sees until it is kept.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn incoming(self: &Arc<Self>) -> Result<Incoming, Fault> {
        let failed = |errno: Errno| Fault::file(&self.path, "no file can be made in it", errno);
        for _ in 0..TRIES {
            let name = private(INCOMING).map_err(failed)?;
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = match rustix::fs::openat(&self.fd, &name, flags, self.mode) {
                Ok(fd) => fd,
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(failed(errno)),
            };
            // The lock says that its writer lives. Somebody may have swept it away before.
            let locked = rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive);
            let alive = locked.is_ok() && rustix::fs::fstat(&fd).map_err(failed)?.st_nlink > 0;
            if alive {
                return Ok(Incoming {
                    folder: Arc::clone(self),
                    name: Some(name),
                    file: fd.into(),
                    reserved: 0,
                    gate: None,
                });
            }
        }
        Err(failed(Errno::AGAIN))
    }

    /// Removes what writers that are gone left behind.
    pub fn sweep(&self) {
        let Ok(entries) = Dir::read_from(&self.fd) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if !is_incoming(name.to_bytes()) {
                continue;
            }
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(fd) = rustix::fs::openat(&self.fd, name, flags, Mode::empty()) else { continue };
            if rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_ok() {
                // What cannot be removed now is left for the next sweep.
                let _ = rustix::fs::unlinkat(&self.fd, name, AtFlags::empty());
            }
        }
    }

    /// The blobs: digest, length in bytes, and when they were used last, in nanoseconds since 1970.
    pub(crate) fn list(&self) -> Result<Vec<(Digest, u64, i128)>, Fault> {
        let failed = |errno: Errno| Fault::file(&self.path, "cannot be listed", errno);
        let mut found = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_str().ok().map(|name| format!("sha256:{name}"));
            let Some(digest) = name.and_then(|name| Digest::parse(&name).ok()) else { continue };
            match rustix::fs::statat(&self.fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                    let used = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
                    found.push((digest, u64::try_from(stat.st_size).unwrap_or(0), used));
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(found)
    }

    /// Removes the blob of this digest, when it is there.
    pub(crate) fn remove(&self, digest: &Digest) -> Result<(), Fault> {
        match rustix::fs::unlinkat(&self.fd, digest.hex(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Fault::file(&self.path.join(digest.hex()), "cannot be removed", errno)),
        }
    }

    /// Waits for the lock of this folder, which is given back when the value is dropped.
    pub(crate) fn lock(&self) -> Result<OwnedFd, Fault> {
        self.locked(FlockOperation::LockExclusive).map_err(|errno| Fault::file(&self.path, "cannot be locked", errno))
    }

    /// The lock of this folder, when nobody has it.
    pub(crate) fn try_lock(&self) -> Option<OwnedFd> {
        self.locked(FlockOperation::NonBlockingLockExclusive).ok()
    }

    fn locked(&self, how: FlockOperation) -> Result<OwnedFd, Errno> {
        // A descriptor of its own: the lock belongs to what was opened.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, ".", flags, Mode::empty())?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&fd, how))?;
        Ok(fd)
    }

    /// Notes that the blob of this digest was used now.
    pub(crate) fn touch(&self, digest: &Digest) -> Result<(), Fault> {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        match rustix::fs::utimensat(&self.fd, digest.hex(), &times, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Fault::file(&self.path.join(digest.hex()), "its time cannot be set", errno)),
        }
    }

    /// How many bytes the files take that are not complete, as long as they will be.
    pub(crate) fn incoming_bytes(&self) -> Result<u64, Fault> {
        let failed = |errno: Errno| Fault::file(&self.path, "cannot be listed", errno);
        let mut total = 0_u64;
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if is_incoming(entry.file_name().to_bytes())
                && let Ok(stat) = rustix::fs::statat(&self.fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
            {
                total = total.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
            }
        }
        Ok(total)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Who may read may enter.
fn enter(mode: Mode) -> Mode {
    let mut bits = Mode::empty();
    for (read, enter) in [(Mode::RGRP, Mode::XGRP), (Mode::ROTH, Mode::XOTH)] {
        if mode.contains(read) {
            bits |= enter;
        }
    }
    bits
}

/// Whether a file of this name is one that is not complete.
pub(crate) fn is_incoming(name: &[u8]) -> bool {
    name.starts_with(INCOMING.as_bytes())
}

/// A name that nobody can foresee (FAULTS F14).
pub(crate) fn private(prefix: &str) -> Result<String, Errno> {
    let mut entropy = [0; 8];
    getrandom::fill(&mut entropy).map_err(|_| Errno::AGAIN)?;
    Ok(format!("{prefix}{:016x}", u64::from_le_bytes(entropy)))
}

/// Replaces the file `name` of the folder as a whole: another beside it, written, synced, renamed, the folder synced
/// (SPEC 1).
pub(crate) fn replace(folder: &Arc<Folder>, name: &str, bytes: &[u8]) -> Result<(), Fault> {
    let path = folder.path.join(name);
    let mut incoming = folder.incoming()?;
    incoming.file.write_all(bytes).map_err(|error| Fault::file(&path, "cannot be written", error))?;
    incoming.put_in_place(name)
}

/// A file that is being written. Dropped before it is kept, it is removed.
#[derive(Debug)]
pub struct Incoming {
    folder: Arc<Folder>,
    name: Option<String>,
    file: File,
    /// How long the file is made before it is written.
    reserved: u64,
    /// The folder whose lock is held while the file gets its name, so that who counts under it counts each file once.
    gate: Option<Arc<Folder>>,
}

impl Incoming {
    /// From now on the file gets its name only under this folder's lock.
    pub(crate) fn behind(&mut self, gate: &Arc<Folder>) {
        self.gate = Some(Arc::clone(gate));
    }

    /// Makes the file as long as it will be, so that others see what is coming.
    pub(crate) fn reserve(&mut self, bytes: u64) -> io::Result<()> {
        self.reserved = bytes;
        self.file.set_len(bytes)
    }

    fn put_in_place(mut self, name: &str) -> Result<(), Fault> {
        let path = self.folder.path.join(name);
        let failed = |errno: Errno| Fault::file(&path, "cannot be made durable", errno);
        rustix::io::retry_on_intr(|| rustix::fs::fsync(&self.file)).map_err(failed)?;
        if let Some(own) = &self.name {
            let held = self.gate.as_ref().map(|gate| gate.lock()).transpose()?;
            let to = (&self.folder.fd, name);
            place::named((&self.folder.fd, own.as_str()), to, Taken::Replace)
                .map_err(|error| Fault::file(&path, "cannot be put in place", error))?;
            drop(held);
        }
        self.name = None;
        Ok(())
    }
}

impl Matched<Incoming> {
    /// Gives the blob its name, durably: synced, renamed, the folder synced. One of the same digest is replaced, which
    /// mends it if it was damaged.
    ///
    /// # Errors
    /// When that cannot be done; nothing is visible then.
    pub fn keep(self) -> Result<Digest, Fault> {
        self.sink.put_in_place(&self.digest.hex())?;
        Ok(self.digest)
    }
}

impl Folder {
    /// Keeps `blob` when it is what `descriptor` says. Blocks.
    ///
    /// # Errors
    /// When it is not, or cannot be read or written.
    pub fn put(self: &Arc<Self>, descriptor: &Descriptor, blob: &Blob) -> Result<(), Fault> {
        let most = descriptor.size.saturating_add(1);
        blob.pump(most, self.incoming()?)?.matching(descriptor)?.keep().map(drop)
    }
}

impl BlobSink for Incoming {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.set_len(self.reserved)?;
        io::Seek::rewind(&mut self.file)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // What cannot be removed is swept away later.
            let _ = rustix::fs::unlinkat(&self.folder.fd, name.as_str(), AtFlags::empty());
        }
    }
}
