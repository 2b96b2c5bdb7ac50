//! One file that is being written, and what is known of it.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock};

use machines::disk::FaultKind;
use rustix::fs::Stat;
use rustix::io::Errno;

use super::{Meter, kind_of};
use crate::fuse::lock;

/// How much is written again at once.
const REWRITE_BYTES: usize = 1 << 20;

/// A descriptor, the length that the file has by our own writes, and the first failure of a write or sync.
pub struct Open {
    fd: OwnedFd,
    len: Mutex<Option<u64>>,
    broken: OnceLock<FaultKind>,
    meter: Arc<dyn Meter>,
}

impl Open {
    pub fn new(fd: OwnedFd, len: Option<u64>, meter: Arc<dyn Meter>) -> Self {
        Self { fd, len: Mutex::new(len), broken: OnceLock::new(), meter }
    }

    pub fn is_broken(&self) -> bool {
        self.broken.get().is_some()
    }

    /// Refuses what failed before: pages that the kernel marked clean after a failed sync would make a second one
    /// succeed and prove nothing (FAULTS D05, D06).
    fn usable(&self) -> Result<(), FaultKind> {
        self.broken.get().map_or(Ok(()), |kind| Err(*kind))
    }

    fn fail(&self, errno: Errno) -> FaultKind {
        *self.broken.get_or_init(|| kind_of(errno))
    }

    /// Checks that the file is `len` bytes long and is the one that its name leads to.
    pub fn expect(&self, len: u64, named: &Stat) -> Result<(), FaultKind> {
        self.usable()?;
        let own = rustix::fs::fstat(&self.fd).map_err(kind_of)?;
        let same = (own.st_dev, own.st_ino) == (named.st_dev, named.st_ino);
        if same && u64::try_from(own.st_size) == Ok(len) { Ok(()) } else { Err(FaultKind::Changed) }
    }

    /// Writes `bytes` at `at`, continuing after a short or interrupted write (D09).
    pub fn append(&self, at: u64, bytes: &[u8]) -> Result<(), FaultKind> {
        let end = self.write(at, bytes)?;
        *lock(&self.len) = Some(end);
        Ok(())
    }

    /// Writes what stands between two offsets again as it is, so that the next sync covers it.
    pub fn rewrite(&self, from: u64, to: u64) -> Result<(), FaultKind> {
        self.usable()?;
        let mut buffer = vec![0; REWRITE_BYTES];
        let mut at = from;
        while at < to {
            let want = usize::try_from(to - at).unwrap_or(REWRITE_BYTES).min(REWRITE_BYTES);
            let part = buffer.get_mut(..want).unwrap_or_default();
            let read = rustix::io::retry_on_intr(|| rustix::io::pread(&self.fd, &mut *part, at)).map_err(kind_of)?;
            if read == 0 {
                return Err(FaultKind::Changed);
            }
            at = self.write(at, part.get(..read).unwrap_or(&[]))?;
        }
        Ok(())
    }

    /// Writes all of `bytes`; the offset behind them.
    fn write(&self, at: u64, bytes: &[u8]) -> Result<u64, FaultKind> {
        self.usable()?;
        let mut rest = bytes;
        let mut offset = at;
        while !rest.is_empty() {
            match rustix::io::pwrite(&self.fd, rest, offset) {
                Ok(0) => return Err(self.fail(Errno::IO)),
                Ok(n) => {
                    rest = rest.get(n..).unwrap_or(&[]);
                    offset = offset.saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
                    if !rest.is_empty() {
                        self.meter.continued();
                    }
                }
                Err(Errno::INTR) => self.meter.continued(),
                Err(errno) => return Err(self.fail(errno)),
            }
        }
        Ok(offset)
    }

    /// One aligned write of 8 bytes at the start: a reader sees the old ones or the new ones.
    pub fn overwrite_8(&self, bytes: [u8; 8]) -> Result<(), FaultKind> {
        self.usable()?;
        loop {
            match rustix::io::pwrite(&self.fd, &bytes, 0) {
                Ok(8) => return Ok(()),
                Ok(_) => return Err(self.fail(Errno::IO)),
                Err(Errno::INTR) => self.meter.continued(),
                Err(errno) => return Err(self.fail(errno)),
            }
        }
    }

    /// Cuts the file; one that is shorter already is not what it was.
    pub fn truncate(&self, len: u64) -> Result<(), FaultKind> {
        self.usable()?;
        let size = rustix::fs::fstat(&self.fd).map_err(kind_of)?.st_size;
        if u64::try_from(size).is_ok_and(|size| size < len) {
            return Err(FaultKind::Changed);
        }
        rustix::io::retry_on_intr(|| rustix::fs::ftruncate(&self.fd, len)).map_err(|errno| self.fail(errno))?;
        *lock(&self.len) = Some(len);
        Ok(())
    }

    /// Makes the content and length durable, and checks that the file still is what was written: a file that was
    /// cut or unlinked meanwhile holds nothing for anybody (D26).
    pub fn sync(&self) -> Result<(), FaultKind> {
        self.usable()?;
        rustix::io::retry_on_intr(|| rustix::fs::fdatasync(&self.fd)).map_err(|errno| self.fail(errno))?;
        let stat = rustix::fs::fstat(&self.fd).map_err(kind_of)?;
        let whole = lock(&self.len).is_none_or(|len| u64::try_from(stat.st_size) == Ok(len));
        if whole && stat.st_nlink > 0 { Ok(()) } else { Err(FaultKind::Changed) }
    }
}
