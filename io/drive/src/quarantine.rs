//! Where a repair puts damaged files before it replaces them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use machines::disk::{FaultKind, File};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::disk::kind_of;

/// A new folder `quarantine-<time>/` within a log folder.
#[derive(Debug)]
pub struct Quarantine<'d> {
    log: BorrowedFd<'d>,
    folder: OwnedFd,
    /// The folder's name within the log folder.
    pub name: String,
}

impl<'d> Quarantine<'d> {
    /// Makes the folder, synced into the log folder. `time` is digits and letters.
    ///
    /// # Errors
    /// When it cannot be made, also when it is there already.
    pub fn make(log: BorrowedFd<'d>, time: &str) -> Result<Self, FaultKind> {
        let name = format!("quarantine-{time}");
        rustix::fs::mkdirat(log, &name, Mode::RWXU).map_err(kind_of)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(log, &name, flags, Mode::empty()).map_err(kind_of)?;
        rustix::fs::fsync(log).map_err(kind_of)?;
        Ok(Self { log, folder, name })
    }

    /// Gives a file a second, durable name in the quarantine. Its first name stays until it is replaced or removed, so
    /// that a repair that is cut short can be begun anew. A file that is not there is none.
    ///
    /// # Errors
    /// When the file system does not do it.
    pub fn keep(&self, file: File) -> Result<(), FaultKind> {
        let name = file.name();
        match rustix::fs::linkat(self.log, &name, self.folder.as_fd(), &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => rustix::fs::fsync(&self.folder).map_err(kind_of),
            Err(errno) => Err(kind_of(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_file_survives_its_replacement() {
        let log = tempfile::tempdir().unwrap();
        std::fs::write(log.path().join("telemetry.wal"), b"damaged").unwrap();
        let folder = std::fs::File::open(log.path()).unwrap();
        let quarantine = Quarantine::make(folder.as_fd(), "20261121T120000Z").unwrap();
        quarantine.keep(File::Live).unwrap();
        quarantine.keep(File::Base).unwrap();
        std::fs::write(log.path().join("new"), b"mended").unwrap();
        std::fs::rename(log.path().join("new"), log.path().join("telemetry.wal")).unwrap();
        let kept = log.path().join(&quarantine.name).join("telemetry.wal");
        assert_eq!(std::fs::read(kept).unwrap(), b"damaged");
        assert!(Quarantine::make(folder.as_fd(), "20261121T120000Z").is_err());
    }
}
