//! Where the bytes of a blob go while they are hashed.

use std::fs::File;
use std::io::{self, Write as _};

use bytes::Bytes;
use machines::ids::Hash32;
use machines::oci::Digest;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};

use super::Blob;
use crate::Fault;

/// Takes the bytes of one blob in order.
pub trait BlobSink: Send + 'static {
    /// The next bytes.
    ///
    /// # Errors
    /// When they cannot be kept; the blob is given up.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Everything so far is void: the source begins anew.
    ///
    /// # Errors
    /// When that cannot be done; the blob is given up.
    fn restart(&mut self) -> io::Result<()>;
}

/// Keeps nothing: for hashing alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Discard;

impl BlobSink for Discard {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps it in memory, for what is small. What is read is bounded by the descriptor's size and by the caller.
#[derive(Clone, Debug, Default)]
pub struct Memory(pub Vec<u8>);

impl BlobSink for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.0.clear();
        Ok(())
    }
}

impl<S: BlobSink> BlobSink for Option<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.as_mut().map_or(Ok(()), |sink| sink.write(bytes))
    }

    fn restart(&mut self) -> io::Result<()> {
        self.as_mut().map_or(Ok(()), BlobSink::restart)
    }
}

/// A file without a name, for what must be read again to be sent on. It goes away with its descriptor.
#[derive(Debug)]
pub struct Scratch(File);

impl Scratch {
    /// A file in the folder for temporary files.
    ///
    /// # Errors
    /// When it cannot be made there.
    pub fn new() -> Result<Self, Fault> {
        let folder = std::env::temp_dir();
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let nameless = rustix::fs::open(&folder, flags, Mode::RUSR | Mode::WUSR);
        let file = nameless.or_else(|_| {
            // File systems without nameless files: one that loses its name at once.
            let name = super::private("autonomy-scratch-")?;
            let path = folder.join(name);
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
            rustix::fs::unlink(&path).map(|()| file)
        });
        file.map(|fd| Self(fd.into()))
            .map_err(|errno| Fault::file(&folder, "no temporary file can be made in it", errno))
    }

    /// What was written, to read it again.
    ///
    /// # Errors
    /// When the file cannot be looked at.
    pub fn into_blob(self) -> Result<Blob, Fault> {
        Blob::from_file(self.0, "a temporary file")
    }
}

impl BlobSink for Scratch {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.0.set_len(0)?;
        io::Seek::rewind(&mut self.0)
    }
}

/// A part of what comes from afar.
pub(crate) enum Piece {
    Bytes(Bytes),
    Restart,
}

/// Hashes what goes into a sink.
pub(crate) struct Absorb<S> {
    sink: S,
    hash: Sha256,
    size: u64,
}

impl<S: BlobSink> Absorb<S> {
    pub(crate) fn new(sink: S) -> Self {
        Self { sink, hash: Sha256::new(), size: 0 }
    }

    pub(crate) fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.size = self.size.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.sink.write(bytes)
    }

    pub(crate) fn piece(&mut self, piece: Piece) -> io::Result<()> {
        match piece {
            Piece::Bytes(bytes) => self.take(&bytes),
            Piece::Restart => {
                self.hash = Sha256::new();
                self.size = 0;
                self.sink.restart()
            }
        }
    }

    pub(crate) fn finish(self) -> (S, Digest, u64) {
        (self.sink, Digest::from_hash(Hash32(self.hash.finalize().into())), self.size)
    }
}
