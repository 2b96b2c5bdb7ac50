//! The writer lock of a log folder: one process writes, the second is refused (FAULTS D23).

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

const TRIES: u32 = 5;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// `telemetry.lock`, held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct WriterLock {
    _fd: OwnedFd,
}

/// Why the lock was not given.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else writes this log.
    #[error("telemetry.lock is held by another writer{}; stop it first, or give another folder with --wal-dir",
        .0.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Held(Option<u32>),
    /// The lock file cannot be used.
    #[error("telemetry.lock: {0}")]
    Io(#[from] std::io::Error),
}

impl WriterLock {
    /// Takes the lock of the folder behind this descriptor, or says who has it. Waits a moment at most, for those who
    /// only ask whether it is held.
    ///
    /// # Errors
    /// When another process has it, or the file cannot be made or written.
    pub fn take(folder: impl AsFd) -> Result<Self, LockError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::openat(folder, "telemetry.lock", flags, Mode::RUSR | Mode::WUSR).map_err(io)?;
        let mut tries = 0;
        loop {
            tries += 1;
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if tries < TRIES => std::thread::sleep(PAUSE),
                Err(Errno::WOULDBLOCK) => return Err(LockError::Held(holder(&fd))),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(io(errno)),
            }
        }
        // The number is for people; the lock itself is the kernel's.
        let pid = format!("{}\n", std::process::id());
        rustix::fs::ftruncate(&fd, 0).map_err(io)?;
        rustix::io::pwrite(&fd, pid.as_bytes(), 0).map_err(io)?;
        Ok(Self { _fd: fd })
    }
}

impl WriterLock {
    /// Whether somebody holds the lock of the folder behind this descriptor. Makes no file; a lock that cannot be asked
    /// for counts as held.
    #[must_use]
    pub fn is_held(folder: impl AsFd) -> bool {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match rustix::fs::openat(folder, "telemetry.lock", flags, Mode::empty()) {
            Ok(fd) => rustix::fs::flock(&fd, FlockOperation::NonBlockingLockShared).is_err(),
            Err(errno) => errno != Errno::NOENT,
        }
    }
}

fn holder(fd: &OwnedFd) -> Option<u32> {
    let mut text = [0; 16];
    let len = rustix::io::pread(fd, &mut text, 0).ok()?;
    std::str::from_utf8(text.get(..len)?).ok()?.trim_end().parse().ok()
}

fn io(errno: Errno) -> LockError {
    LockError::Io(errno.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d23_a_second_writer_is_refused_and_told_who_has_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let open = || std::fs::File::open(folder.path()).unwrap();
        let first = WriterLock::take(open()).unwrap();
        let refused = WriterLock::take(open()).unwrap_err();
        assert!(matches!(refused, LockError::Held(Some(pid)) if pid == std::process::id()));
        assert!(refused.to_string().contains(&std::process::id().to_string()));
        assert!(WriterLock::is_held(open()));
        drop(first);
        assert!(!WriterLock::is_held(open()));
        WriterLock::take(open()).unwrap();
    }
}
