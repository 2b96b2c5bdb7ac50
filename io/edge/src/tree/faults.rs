//! What the kernel's errors are to a machine.

use std::io;

use machines::disk::FaultKind;
use rustix::io::Errno;

/// Of a call that resolves, opens, reads or writes.
pub(super) fn of_errno(errno: Errno) -> FaultKind {
    match errno {
        Errno::NOENT => FaultKind::NotFound,
        Errno::NOSPC | Errno::DQUOT => FaultKind::NoSpace,
        Errno::ACCESS | Errno::PERM => FaultKind::Denied,
        // A link (ELOOP), a way out of the root (EXDEV), something else on the way or in the place, a socket (ENXIO).
        Errno::LOOP | Errno::XDEV | Errno::NOTDIR | Errno::ISDIR | Errno::EXIST | Errno::NXIO => FaultKind::Refused,
        other => FaultKind::Io(other.raw_os_error()),
    }
}

/// Of a rename: `EXDEV` is another file system there, and no refusal of a name (FAULTS F11).
pub(super) fn of_rename(errno: Errno) -> FaultKind {
    match errno {
        Errno::XDEV => FaultKind::Io(Errno::XDEV.raw_os_error()),
        other => of_errno(other),
    }
}

/// Of an error that may have been found before the kernel was asked: a name that is not plain, no regular file.
pub(super) fn of_error(error: &io::Error) -> FaultKind {
    match (Errno::from_io_error(error), error.kind()) {
        (Some(errno), _) => of_errno(errno),
        (None, io::ErrorKind::FileTooLarge) => FaultKind::TooLarge,
        (None, io::ErrorKind::WriteZero) => FaultKind::Io(0),
        (None, _) => FaultKind::Refused,
    }
}
