//! The blob cache beneath the state root (SPEC 7): `blobs/sha256/<hex>`, and `blobs/pinned/<hex>` for what must stay.
//!
//! Nothing is visible under its digest before the digest matched (FAULTS S12), and nothing is believed for being there:
//! who reads, hashes (S21). Several processes may use one cache: what changes its extent is done under one lock, and a
//! blob that is being read stays readable when it is removed.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use machines::oci::{Descriptor, Digest};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::Fault;
use crate::blob::{Blob, BlobSink, Folder, Incoming, Matched, Memory};

/// A cache of blobs. Its methods block. Cloning gives another handle of the same cache.
#[derive(Clone, Debug)]
pub struct Cache {
    top: Arc<Folder>,
    blobs: Arc<Folder>,
    pinned: Arc<Folder>,
    max_bytes: u64,
    /// What this handle removes for nobody.
    spared: Arc<BTreeSet<Digest>>,
}

impl Cache {
    /// Opens the cache beneath a state root that is there, made when it is missing, for at most `max_bytes` of blobs.
    /// What writers that are gone left behind is removed.
    ///
    /// # Errors
    /// When a folder cannot be made or opened, or is a link.
    pub fn open(state_root: &Path, max_bytes: u64) -> Result<Self, Fault> {
        let top = Folder::named(state_root, Mode::RUSR | Mode::WUSR)?.make("blobs")?;
        let blobs = top.make("sha256")?;
        let pinned = top.make("pinned")?;
        blobs.sweep();
        let spared = Arc::default();
        Ok(Self { top: Arc::new(top), blobs: Arc::new(blobs), pinned: Arc::new(pinned), max_bytes, spared })
    }

    /// Most bytes of blobs in it.
    pub(crate) const fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Another handle, which makes room without these: they belong together. Unlike a pin, that ends with the process,
    /// however it ends.
    pub(crate) fn sparing(&self, digests: impl IntoIterator<Item = Digest>) -> Self {
        Self { spared: Arc::new(digests.into_iter().collect()), ..self.clone() }
    }

    /// The first of these that is not there, or of another length.
    pub(crate) fn first_missing(&self, wanted: &[Descriptor]) -> Result<Option<Digest>, Fault> {
        let _held = self.top.lock()?;
        for descriptor in wanted {
            if self.blobs.blob(&descriptor.digest)?.is_none_or(|blob| blob.size() != descriptor.size) {
                return Ok(Some(descriptor.digest));
            }
        }
        Ok(None)
    }

    /// Reads a blob through the sink that `sink` makes, hashed on the way. `None` when it is not there; one that is not
    /// what its descriptor says is removed and not there either.
    ///
    /// # Errors
    /// When a blob that is there cannot be read, or the sink does not take it.
    pub fn stream<S: BlobSink>(
        &self,
        descriptor: &Descriptor,
        sink: impl FnOnce() -> Result<S, Fault>,
    ) -> Result<Option<Matched<S>>, Fault> {
        let Some(blob) = self.blob(descriptor)? else { return Ok(None) };
        match blob.pump(descriptor.size.saturating_add(1), sink()?)?.matching(descriptor) {
            Ok(matched) => Ok(Some(matched)),
            Err(_) => {
                self.remove_damaged(descriptor)?;
                Ok(None)
            }
        }
    }

    /// The bytes of a small blob, checked; `None` as for [`Cache::stream`].
    ///
    /// # Errors
    /// When it is longer than `max`, or cannot be read.
    pub fn bytes(&self, descriptor: &Descriptor, max: u64) -> Result<Option<Vec<u8>>, Fault> {
        if descriptor.size > max {
            let what = format!("bytes of {}", descriptor.digest);
            return Err(Fault::too_long(&self.top.path().display().to_string(), what, max));
        }
        let matched = self.stream(descriptor, || Ok(Memory::default()))?;
        Ok(matched.map(|matched| matched.into_sink().0))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Option<Blob>, Fault> {
        let Some(blob) = self.blobs.blob(&descriptor.digest)? else { return Ok(None) };
        if blob.size() != descriptor.size {
            // Cut, or grown; or the descriptor lies, and then the blob is fetched again and told from it.
            return Ok(None);
        }
        self.blobs.touch(&descriptor.digest)?;
        Ok(Some(blob))
    }

    /// Another process may have mended it meanwhile: then it is missing, and fetched once more.
    fn remove_damaged(&self, descriptor: &Descriptor) -> Result<(), Fault> {
        tracing::warn!(digest = %descriptor.digest, "a blob in the cache was damaged and is removed");
        self.blobs.remove(&descriptor.digest)
    }

    /// A file for a blob that is about to come, with room made for it: what was used longest ago goes first, and nothing
    /// that is pinned. `None` when there cannot be room.
    ///
    /// # Errors
    /// When the cache cannot be listed or written.
    pub fn incoming(&self, descriptor: &Descriptor) -> Result<Option<Incoming>, Fault> {
        if descriptor.size > self.max_bytes {
            return Ok(None);
        }
        let held = self.top.lock()?;
        if !self.make_room(descriptor.size)? {
            return Ok(None);
        }
        let mut incoming = self.blobs.incoming()?;
        incoming.behind(&self.top);
        // Counted by everybody from now on.
        incoming
            .reserve(descriptor.size)
            .map_err(|error| Fault::file(self.blobs.path(), "there is no room for a blob in it", error))?;
        drop(held);
        Ok(Some(incoming))
    }

    fn make_room(&self, bytes: u64) -> Result<bool, Fault> {
        let mut blobs = self.blobs.list()?;
        let there: u64 = blobs.iter().map(|(_, len, _)| len).sum();
        let mut total = there.saturating_add(self.blobs.incoming_bytes()?).saturating_add(bytes);
        if total <= self.max_bytes {
            return Ok(true);
        }
        blobs.sort_unstable_by_key(|(digest, _, used)| (*used, *digest));
        let mut going = Vec::new();
        for (digest, len, _) in blobs {
            if total <= self.max_bytes {
                break;
            }
            if !self.is_pinned(&digest)? {
                total = total.saturating_sub(len);
                going.push(digest);
            }
        }
        // Nothing goes in vain.
        if total > self.max_bytes {
            return Ok(false);
        }
        for digest in going {
            self.blobs.remove(&digest)?;
        }
        Ok(true)
    }

    /// Keeps a blob that came and matched.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub fn keep(&self, blob: Matched<Incoming>) -> Result<Digest, Fault> {
        blob.keep()
    }

    /// Keeps bytes that are in memory; `false` when there cannot be room.
    ///
    /// # Errors
    /// When they are not what the descriptor says, or cannot be written.
    pub fn put(&self, descriptor: &Descriptor, bytes: Vec<u8>) -> Result<bool, Fault> {
        let Some(incoming) = self.incoming(descriptor)? else { return Ok(false) };
        let blob = Blob::from_bytes(bytes);
        self.keep(blob.pump(blob.size(), incoming)?.matching(descriptor)?)?;
        Ok(true)
    }

    /// From now on the blob of this digest stays, whoever needs room, also after a restart.
    ///
    /// # Errors
    /// When that cannot be noted durably.
    pub fn pin(&self, digest: &Digest) -> Result<(), Fault> {
        let held = self.top.lock()?;
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed = |errno: Errno| Fault::file(self.pinned.path(), "a pin cannot be noted in it", errno);
        let pin = rustix::fs::openat(&*self.pinned, digest.hex(), flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        drop(pin);
        rustix::fs::fsync(&*self.pinned).map_err(failed)?;
        drop(held);
        Ok(())
    }

    /// The blob of this digest may go.
    ///
    /// # Errors
    /// When that cannot be noted durably.
    pub fn unpin(&self, digest: &Digest) -> Result<(), Fault> {
        self.pinned.remove(digest)?;
        rustix::fs::fsync(&*self.pinned).map_err(|errno| Fault::file(self.pinned.path(), "cannot be synced", errno))
    }

    fn is_pinned(&self, digest: &Digest) -> Result<bool, Fault> {
        if self.spared.contains(digest) {
            return Ok(true);
        }
        match rustix::fs::statat(&*self.pinned, digest.hex(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(Fault::file(self.pinned.path(), "cannot be looked at", errno)),
        }
    }

    /// How many bytes of blobs there are.
    ///
    /// # Errors
    /// When the cache cannot be listed.
    pub fn bytes_held(&self) -> Result<u64, Fault> {
        let _held = self.top.lock()?;
        Ok(self.blobs.list()?.iter().map(|(_, len, _)| len).sum())
    }
}

#[cfg(test)]
mod tests;
