//! The one place beside the disk that renames (SPEC 1; FAULTS D19). A file that is to have a name was written and synced
//! under another one; [`named`] renames it and syncs the folder. Those whose syncs are operations of their own take
//! [`moved`] and [`exchanged`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::path::Arg;

/// What becomes of a file that has the name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is replaced.
    Replace,
    /// It stays, and the new file keeps its other name: an error of the kind `AlreadyExists`.
    Refuse,
}

impl Taken {
    const fn flags(self) -> RenameFlags {
        match self {
            Self::Replace => RenameFlags::empty(),
            Self::Refuse => RenameFlags::NOREPLACE,
        }
    }
}

/// Opens the folder that a path lies in.
///
/// # Errors
/// When it cannot be opened.
pub fn folder_of(path: &Path) -> io::Result<OwnedFd> {
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
pub fn named<N: Arg + Copy>(
    (from_folder, from): (impl AsFd, N),
    (to_folder, to): (impl AsFd, N),
    taken: Taken,
) -> io::Result<()> {
    match renamed((from_folder.as_fd(), from), (to_folder.as_fd(), to), taken.flags()) {
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

/// As [`named`], without the sync: the name may be lost with the power until the folder is synced.
///
/// # Errors
/// When the rename fails; `EEXIST` where `taken` refuses.
pub fn moved<N: Arg>(
    (from_folder, from): (impl AsFd, N),
    (to_folder, to): (impl AsFd, N),
    taken: Taken,
) -> Result<(), Errno> {
    renamed((from_folder.as_fd(), from), (to_folder.as_fd(), to), taken.flags())
}

/// Exchanges two names in one step, without a sync.
///
/// # Errors
/// When one of them is not there, or the file system cannot.
pub fn exchanged<N: Arg>((a_folder, a): (impl AsFd, N), (b_folder, b): (impl AsFd, N)) -> Result<(), Errno> {
    renamed((a_folder.as_fd(), a), (b_folder.as_fd(), b), RenameFlags::EXCHANGE)
}

fn renamed<N: Arg>(
    (from_folder, from): (BorrowedFd<'_>, N),
    (to_folder, to): (BorrowedFd<'_>, N),
    flags: RenameFlags,
) -> Result<(), Errno> {
    rustix::fs::renameat_with(from_folder, from, to_folder, to, flags)
}
