//! Key files: read whole and bounded, written once and durably.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use io_drive::place::{self, Taken};
use rustix::fs::{CWD, Mode, OFlags};
use zeroize::Zeroizing;

use super::{Fault, MAX_FILE, random};

/// Who may read a file that is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Only its owner.
    Private,
    /// Everybody.
    Public,
}

/// Reads a private key. A mode that lets group or others at it is refused; the mode is that of the open file, so that
/// what was checked is what is read.
pub(super) fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let (file, mode) = open(path)?;
    if mode & 0o077 != 0 {
        return Err(Fault::LooseMode { path: path.into(), mode });
    }
    read(path, file)
}

/// Reads a public key.
pub(super) fn read_public(path: &Path) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let (file, _) = open(path)?;
    read(path, file)
}

/// Opens a regular file. A link is followed: a mounted secret is one.
fn open(path: &Path) -> Result<(File, u32), Fault> {
    let unreadable = |source| Fault::Read { path: path.into(), source };
    let flags = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(Fault::NoKey { path: path.into(), what: "not a regular file" });
    }
    Ok((file, meta.mode() & 0o7777))
}

fn read(path: &Path, file: File) -> Result<Zeroizing<Vec<u8>>, Fault> {
    // Room for all at once: a buffer that grows would leave copies behind.
    let room = usize::try_from(MAX_FILE).unwrap_or(usize::MAX).saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    let read = file.take(MAX_FILE.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|source| Fault::Read { path: path.into(), source })?;
    if bytes.len() >= room {
        return Err(Fault::NoKey { path: path.into(), what: "longer than 16 KiB" });
    }
    Ok(bytes)
}

/// A file that was written beside its place, synced, and not yet named. Dropping it removes it.
pub(super) struct Draft {
    temp: PathBuf,
    path: PathBuf,
    named: bool,
}

impl Draft {
    /// Writes `bytes` beside `path`.
    pub fn write(path: &Path, bytes: &[u8], access: Access) -> Result<Self, Fault> {
        let failed = |source: std::io::Error| Fault::Write { path: path.into(), source };
        let name = path.file_name().ok_or_else(|| failed(std::io::ErrorKind::InvalidFilename.into()))?;
        let mut unique = String::new();
        machines::ids::write_hex(random::<8>()?.as_slice(), &mut unique);
        let mut temp = std::ffi::OsString::from(".");
        temp.push(name);
        temp.push(format!(".{unique}.tmp"));
        let temp = path.with_file_name(temp);
        let mode = match access {
            Access::Private => Mode::RUSR | Mode::WUSR,
            Access::Public => Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH,
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, &temp, flags, mode).map_err(|errno| failed(errno.into()))?;
        let draft = Self { temp, path: path.into(), named: false };
        let mut file = File::from(fd);
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(draft)
    }

    /// Gives the file its name durably, unless there is one of that name.
    pub fn name(mut self) -> Result<(), Fault> {
        let failed = |error: std::io::Error| {
            if error.kind() == std::io::ErrorKind::AlreadyExists {
                Fault::Exists(self.path.clone())
            } else {
                Fault::Write { path: self.path.clone(), source: error }
            }
        };
        let names = self.temp.file_name().zip(self.path.file_name());
        let (temp, name) = names.ok_or_else(|| failed(std::io::ErrorKind::InvalidFilename.into()))?;
        let folder = place::folder_of(&self.path).map_err(failed)?;
        place::named((&folder, temp), (&folder, name), Taken::Refuse).map_err(failed)?;
        self.named = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.named {
            // Best effort: what stays is a file of mode 0600 with a name of its own.
            _ = std::fs::remove_file(&self.temp);
        }
    }
}
