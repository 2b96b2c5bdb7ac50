//! Blobs: bytes by their digest, read in pieces, hashed on the way.

mod folder;
mod pump;
mod sink;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use machines::oci::{Descriptor, Digest};

pub use self::folder::{Folder, Incoming};
pub(crate) use self::folder::{is_incoming, private, replace};
pub(crate) use self::sink::{Absorb, Piece};
pub use self::sink::{BlobSink, Discard, Memory, Scratch};

use crate::Fault;

/// Bytes that can be read at any offset: in memory, or a part of a file that is kept open, so that what a name leads to
/// later has no effect (FAULTS S22). They are not trusted: whoever reads them hashes what was read (F15).
#[derive(Clone, Debug)]
pub struct Blob {
    place: Arc<str>,
    content: Content,
    size: u64,
}

#[derive(Clone, Debug)]
enum Content {
    Memory(Bytes),
    File { file: Arc<File>, offset: u64 },
}

impl Blob {
    /// Bytes in memory.
    #[must_use]
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Self { place: "memory".into(), content: Content::Memory(bytes), size }
    }

    /// A whole file, as long as it is now.
    ///
    /// # Errors
    /// When it is no regular file.
    pub fn from_file(file: File, place: &str) -> Result<Self, Fault> {
        let meta = file.metadata().map_err(|error| Fault::file(place.as_ref(), "cannot be looked at", error))?;
        if !meta.is_file() {
            return Err(Fault::broken(place, "is no regular file"));
        }
        Ok(Self::part(Arc::new(file), 0, meta.len(), place))
    }

    pub(crate) fn part(file: Arc<File>, offset: u64, size: u64, place: &str) -> Self {
        Self { place: place.into(), content: Content::File { file, offset }, size }
    }

    /// The length in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Where it lies, for messages.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Reads into `buffer` from byte `at`; fewer bytes than it holds only at the end, or when the file was cut.
    ///
    /// # Errors
    /// The operating system's.
    pub fn read_at(&self, at: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(at)).unwrap_or(usize::MAX);
        let want = buffer.len().min(left);
        let buffer = buffer.get_mut(..want).unwrap_or_default();
        match &self.content {
            Content::Memory(bytes) => {
                let from = usize::try_from(at).unwrap_or(usize::MAX);
                let part = bytes.get(from..).and_then(|rest| rest.get(..want)).unwrap_or_default();
                buffer.copy_from_slice(part);
                Ok(want)
            }
            Content::File { file, offset } => {
                let mut filled = 0;
                while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                    let from = offset.saturating_add(at).saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
                    match file.read_at(rest, from) {
                        Ok(0) => break,
                        Ok(n) => filled += n,
                        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(filled)
            }
        }
    }

    /// All of it, when that is at most `max` bytes. Not checked against a digest.
    ///
    /// # Errors
    /// When it is longer, or cannot be read.
    pub(crate) fn read(&self, max: u64) -> Result<Vec<u8>, Fault> {
        if self.size > max {
            return Err(Fault::too_long(&self.place, "bytes", max));
        }
        let mut bytes = vec![0; usize::try_from(self.size).unwrap_or(usize::MAX)];
        let len = self.read_at(0, &mut bytes).map_err(|error| self.unreadable(error))?;
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Whether it is what `descriptor` says: all of it is read and hashed. Blocks.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn is(&self, descriptor: &Descriptor) -> Result<bool, Fault> {
        if self.size != descriptor.size {
            return Ok(false);
        }
        Ok(self.pump(self.size, Discard)?.matching(descriptor).is_ok())
    }

    fn unreadable(&self, error: std::io::Error) -> Fault {
        Fault::file(self.place.as_ref().as_ref(), "cannot be read", error)
    }
}

/// What went through, and what it came to.
#[derive(Debug)]
pub struct Streamed<S> {
    sink: S,
    digest: Digest,
    size: u64,
    place: Arc<str>,
}

/// What went through and was exactly what the descriptor said. Only [`Streamed::matching`] makes it, so that nothing is
/// kept that did not pass that check (FAULTS S12).
#[derive(Debug)]
pub struct Matched<S> {
    sink: S,
    digest: Digest,
    size: u64,
}

impl<S> Streamed<S> {
    pub(crate) const fn new(sink: S, digest: Digest, size: u64, place: Arc<str>) -> Self {
        Self { sink, digest, size, place }
    }

    /// SHA-256 of what went through.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// How many bytes went through.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Where it went, whatever it is.
    pub(crate) fn into_sink(self) -> S {
        self.sink
    }

    /// What went through, when it is what `descriptor` says.
    ///
    /// # Errors
    /// [`Fault::Mismatch`] with both digests and lengths; the sink is dropped, and with it what it holds.
    pub fn matching(self, descriptor: &Descriptor) -> Result<Matched<S>, Fault> {
        if (self.digest, self.size) == (descriptor.digest, descriptor.size) {
            return Ok(Matched { sink: self.sink, digest: self.digest, size: self.size });
        }
        Err(Fault::Mismatch {
            place: self.place.as_ref().to_owned(),
            want: descriptor.digest,
            want_bytes: descriptor.size,
            got: self.digest,
            got_bytes: self.size,
        })
    }
}

impl<S> Matched<S> {
    /// The same blob in the sink within its sink, when there is one.
    pub(crate) fn transpose<T>(self, inner: impl FnOnce(S) -> Option<T>) -> Option<Matched<T>> {
        Some(Matched { sink: inner(self.sink)?, digest: self.digest, size: self.size })
    }

    /// Where it went.
    #[must_use]
    pub fn into_sink(self) -> S {
        self.sink
    }

    /// SHA-256 of what went through.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// How many bytes went through.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }
}
