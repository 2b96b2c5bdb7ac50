//! Writing an archive: canonical ustar, always in the same order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use io_drive::place::{self, Taken};
use machines::oci::{Descriptor, Digest, media};
use machines::tar::{self, BLOCK};
use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags};

use super::super::local::MARKER;
use super::scan::{BLOBS, MAX_ENTRIES};
use crate::Fault;
use crate::blob::{Blob, BlobSink, Folder, private};

/// What the names of such folders say, and those of archives that are being written.
const STAGED: &str = "blobs";
const WRITTEN: &str = "new";

/// A folder beside the archive for what will go into it. It is removed with the value; what a process that was killed left
/// behind, when the next one begins.
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
    blobs: Arc<Folder>,
    /// Says that its maker lives.
    _lock: OwnedFd,
}

impl Staging {
    pub(super) fn beside(archive: &Path) -> Result<Self, Fault> {
        let path = beside(archive, STAGED)?;
        // What is made is locked before anybody sweeps.
        let held = hold(archive)?;
        sweep(archive);
        let failed = |errno: rustix::io::Errno| Fault::file(&path, "cannot be made", errno);
        rustix::fs::mkdir(&path, Mode::RWXU).map_err(failed)?;
        let blobs = Arc::new(Folder::named(&path, Mode::RUSR | Mode::WUSR)?);
        let lock = blobs.lock()?;
        drop(held);
        Ok(Self { path, blobs, _lock: lock })
    }

    pub(super) const fn blobs(&self) -> &Arc<Folder> {
        &self.blobs
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // By descriptor and name: what may have been laid in the folder's place stays (FAULTS F10).
        clear(&self.blobs);
        let _ = rustix::fs::rmdir(&self.path);
    }
}

fn clear(blobs: &Folder) {
    for (digest, _, _) in blobs.list().unwrap_or_default() {
        let _ = blobs.remove(&digest);
    }
    blobs.sweep();
}

/// Waits for the lock of the folder that an archive lies in. Who writes an archive there has it, until the value is dropped.
pub(super) fn hold(archive: &Path) -> Result<OwnedFd, Fault> {
    let failed = |error: io::Error| Fault::file(archive, "its folder cannot be locked", error);
    let folder = place::folder_of(archive).map_err(failed)?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&folder, FlockOperation::LockExclusive))
        .map_err(|errno| failed(errno.into()))?;
    Ok(folder)
}

/// Removes what writers of this archive that are gone left beside it. What cannot be removed now is left for the next time.
fn sweep(archive: &Path) {
    let folder = archive.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(folder) = Folder::named(folder, Mode::RUSR | Mode::WUSR) else { return };
    let (Ok(staged), Ok(written)) = (prefix(archive, STAGED), prefix(archive, WRITTEN)) else { return };
    let Ok(entries) = Dir::read_from(&folder) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().to_str() else { continue };
        if is_private(&staged, name) {
            let Ok(Some(left)) = folder.inside(name) else { continue };
            if let Some(_held) = left.try_lock() {
                clear(&left);
                let _ = rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR);
            }
        } else if is_private(&written, name) {
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(fd) = rustix::fs::openat(&folder, name, flags, Mode::empty()) else { continue };
            if rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let _ = rustix::fs::unlinkat(&folder, name, AtFlags::empty());
            }
        }
    }
}

/// Whether this is a name that [`private`] made.
fn is_private(prefix: &str, name: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.len() == 16 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn prefix(archive: &Path, what: &str) -> Result<String, Fault> {
    let name = archive.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| Fault::refused(&archive.display().to_string(), "is no name of a file"))?;
    Ok(format!(".{name}.{what}-"))
}

/// A name beside the archive that nobody can foresee.
fn beside(archive: &Path, what: &str) -> Result<PathBuf, Fault> {
    let own = private(&prefix(archive, what)?)
        .map_err(|errno| Fault::file(archive, "the system gives no random bytes", errno))?;
    Ok(archive.with_file_name(own))
}

/// Writes the archive `path`.
pub(super) fn write(path: &Path, index: &[u8], blobs: &BTreeMap<Digest, Blob>) -> Result<(), Fault> {
    if blobs.len() > MAX_ENTRIES - 2 {
        let max = u64::try_from(MAX_ENTRIES).unwrap_or(u64::MAX);
        return Err(Fault::too_long(&path.display().to_string(), "entries", max));
    }
    let own = beside(path, WRITTEN)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    let fd = rustix::fs::open(&own, flags, mode).map_err(|errno| Fault::file(&own, "cannot be made", errno))?;
    let names = own.file_name().zip(path.file_name());
    let (temp, name) = names.ok_or_else(|| Fault::refused(&path.display().to_string(), "is no name of a file"))?;
    // Nobody sweeps while the folder's lock is held, which it is; this is for those who look without it.
    let _ = rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive);
    let written = fill(&File::from(fd), index, blobs, path).and_then(|()| {
        let named =
            place::folder_of(path).and_then(|folder| place::named((&folder, temp), (&folder, name), Taken::Replace));
        named.map_err(|error| Fault::file(path, "cannot be put in place", error))
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&own);
    }
    written
}

fn fill(file: &File, index: &[u8], blobs: &BTreeMap<Digest, Blob>, path: &Path) -> Result<(), Fault> {
    let failed = |error: io::Error| Fault::file(path, "cannot be written", error);
    let mut out = BufWriter::with_capacity(256 * 1024, file.try_clone().map_err(failed)?);
    for (name, bytes) in [("oci-layout", MARKER), ("index.json", index)] {
        head(&mut out, name, u64::try_from(bytes.len()).unwrap_or(u64::MAX), path)?;
        out.write_all(bytes).and_then(|()| pad(&mut out, u64::try_from(bytes.len()).unwrap_or(0))).map_err(failed)?;
    }
    for (digest, blob) in blobs {
        head(&mut out, &format!("{BLOBS}{}", digest.hex()), blob.size(), path)?;
        // What is written is hashed: an archive never holds other bytes than its names say (FAULTS F15).
        let descriptor = Descriptor::new(media::OCTET_STREAM, *digest, blob.size());
        out = blob.pump(blob.size(), Tail(out))?.matching(&descriptor)?.into_sink().0;
        pad(&mut out, blob.size()).map_err(failed)?;
    }
    out.write_all(&[0; 2 * BLOCK]).and_then(|()| out.flush()).and_then(|()| file.sync_all()).map_err(failed)
}

fn head(out: &mut impl Write, name: &str, size: u64, path: &Path) -> Result<(), Fault> {
    let header =
        tar::header(name, size).map_err(|refusal| Fault::refused(&path.display().to_string(), refusal.to_string()))?;
    out.write_all(&header).map_err(|error| Fault::file(path, "cannot be written", error))
}

fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    let missing = usize::try_from(tar::padded(size).saturating_sub(size)).unwrap_or(0);
    out.write_all([0; BLOCK].get(..missing).unwrap_or_default())
}

/// The end of the archive that is being written. It cannot begin anew, and blobs of this machine never do.
struct Tail(BufWriter<File>);

impl BlobSink for Tail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn restart(&mut self) -> io::Result<()> {
        Err(io::Error::other("an archive is written once, from its beginning to its end"))
    }
}
