//! The one place of this crate that gives a file the name it is to have (SPEC 1; FAULTS D19): the file was written and
//! synced under another name; now it is renamed, and the folder synced.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::path::Arg;

/// What becomes of a file that has the name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is replaced.
    Replace,
    /// It stays, and the new file keeps its other name: an error of the kind `AlreadyExists`.
    Refuse,
}

/// Opens the folder that a path lies in.
///
/// # Errors
/// When it cannot be opened.
pub(crate) fn folder_of(path: &Path) -> io::Result<OwnedFd> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, folder, flags, Mode::empty())?)
}

/// Gives the file `from` of one folder the name `to` in another or the same one, durably.
///
/// # Errors
/// When the rename or the sync fails; after a failed sync the file has its name and may lose it with the power.
pub(crate) fn named<N: Arg + Copy>(
    (from_folder, from): (impl AsFd, N),
    (to_folder, to): (impl AsFd, N),
    taken: Taken,
) -> io::Result<()> {
    let flags = match taken {
        Taken::Replace => RenameFlags::empty(),
        Taken::Refuse => RenameFlags::NOREPLACE,
    };
    match rustix::fs::renameat_with(&from_folder, from, &to_folder, to, flags) {
        Ok(()) => {}
        // A file system that cannot: a second name is not given twice either. The first is taken away then.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if taken == Taken::Refuse => {
            rustix::fs::linkat(&from_folder, from, &to_folder, to, AtFlags::empty())?;
            rustix::fs::unlinkat(&from_folder, from, AtFlags::empty())?;
        }
        Err(errno) => return Err(errno.into()),
    }
    Ok(rustix::fs::fsync(&to_folder)?)
}
