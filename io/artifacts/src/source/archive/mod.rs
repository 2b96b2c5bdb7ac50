//! A tar archive of an OCI image layout: one file that carries an image and all that is attached to it.
//!
//! The file is opened once and kept; blobs are read from it where they lie, so that its size costs no memory, and what its
//! name leads to later has no effect (FAULTS F15, S22). What is added is held in a folder beside it until the whole
//! archive is written anew and takes the old one's place by one rename.

mod scan;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use machines::oci::{Descriptor, Digest, Index, MAX_MANIFEST, Target, media};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Found;
use super::local::{self, Local};
use crate::Fault;
use crate::blob::{Blob, Incoming};

use self::scan::Contents;
use self::write::Staging;

/// An archive. Its methods block.
#[derive(Clone, Debug)]
pub struct Archive {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    place: String,
    path: PathBuf,
    state: Mutex<State>,
}

/// What is there, and what is to be written.
#[derive(Debug)]
struct State {
    base: Option<Arc<Base>>,
    /// Device and inode of what lay there when it was opened or written last.
    seen: Option<(u64, u64)>,
    index: Index,
    staging: Option<Staging>,
}

/// The archive as it is there.
#[derive(Debug)]
struct Base {
    file: Arc<File>,
    blobs: BTreeMap<Digest, Part>,
}

/// Where a blob lies in the file.
#[derive(Clone, Copy, Debug)]
struct Part {
    offset: u64,
    size: u64,
}

impl Archive {
    /// Opens an archive that is there.
    ///
    /// # Errors
    /// When there is none, or it is not exactly a tar archive of a layout.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let place = place(path);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT => Fault::missing(&place, "such file"),
            other => Fault::file(path, "cannot be opened", other),
        })?;
        let file = File::from(fd);
        let meta = file.metadata().map_err(|error| Fault::file(path, "cannot be looked at", error))?;
        if !meta.is_file() {
            return Err(Fault::unreadable(&place, "is no regular file"));
        }
        let Contents { marker, index, blobs } = scan::scan(&place, &file, meta.len())?;
        let file = Arc::new(file);
        let read = |part: Part, max| Blob::part(Arc::clone(&file), part.offset, part.size, &place).read(max);
        local::check_marker(&place, &read(marker, local::MAX_MARKER)?)?;
        let index = local::read_index(&place, &read(index, u64::from(MAX_MANIFEST))?)?;
        let base = Arc::new(Base { file, blobs });
        Ok(Self::over(path, place, (Some(base), Some((meta.dev(), meta.ino()))), index))
    }

    /// Begins an archive that takes the place of whatever lies there; nothing changes before [`Archive::finish`].
    #[must_use]
    pub fn anew(path: &Path) -> Self {
        Self::over(path, place(path), (None, lies_there(path)), Index::new(media::IMAGE_INDEX.into(), Vec::new()))
    }

    /// Opens an archive to write to it, or begins one where there is none. Nothing is there before [`Archive::finish`].
    ///
    /// # Errors
    /// As for [`Archive::open`].
    pub fn create(path: &Path) -> Result<Self, Fault> {
        match Self::open(path) {
            Err(fault) if fault.is_not_found() => Ok(Self::anew(path)),
            other => other,
        }
    }

    fn over(path: &Path, place: String, there: (Option<Arc<Base>>, Option<(u64, u64)>), index: Index) -> Self {
        let state = Mutex::new(State { base: there.0, seen: there.1, index, staging: None });
        Self { inner: Arc::new(Inner { place, path: path.to_owned(), state }) }
    }

    /// Its path with `oci-archive:`, for messages.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.inner.place
    }

    /// The bytes of a manifest, not checked against a digest.
    ///
    /// # Errors
    /// When it is not there, is too long, or cannot be read.
    pub fn manifest(&self, at: &Target, max: u32) -> Result<Found, Fault> {
        local::manifest(self, at, max)
    }

    /// What refers to `subject`, at most `max` entries.
    ///
    /// # Errors
    /// When there are more.
    pub fn referrers(&self, subject: &Digest, max: u32) -> Result<Vec<Descriptor>, Fault> {
        local::referrers(self, subject, max)
    }

    /// A blob, not checked.
    ///
    /// # Errors
    /// When it is not there.
    pub fn blob(&self, digest: &Digest) -> Result<Blob, Fault> {
        local::blob(self, digest)
    }

    /// Whether this blob is there, or held to be written, and whole: it is read and hashed, so that a damaged one is
    /// replaced.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn has_blob(&self, descriptor: &Descriptor) -> Result<bool, Fault> {
        Local::blob(self, &descriptor.digest)?.map_or(Ok(false), |blob| blob.is(descriptor))
    }

    /// A blob that is about to come in. Dropping what is made here before it is kept leaves nothing.
    ///
    /// # Errors
    /// When no file can be made beside the archive.
    pub fn incoming(&self) -> Result<Incoming, Fault> {
        self.state().staging(&self.inner.path)?.blobs().incoming()
    }

    /// Holds a blob to be written, when it is what the descriptor says.
    ///
    /// # Errors
    /// When it is not, or cannot be read or written.
    pub fn put_blob(&self, descriptor: &Descriptor, blob: &Blob) -> Result<(), Fault> {
        let folder = Arc::clone(self.state().staging(&self.inner.path)?.blobs());
        folder.put(descriptor, blob)
    }

    /// Holds a manifest to be written, and lists it as a layout does.
    ///
    /// # Errors
    /// When it is no manifest of this kind, or cannot be written.
    pub fn put_manifest(&self, target: &Target, media_type: &str, bytes: &[u8]) -> Result<Digest, Fault> {
        let (digest, manifest) = local::check_put(self.place(), target, media_type, bytes)?;
        let blob = Blob::from_bytes(bytes.to_vec());
        self.put_blob(&Descriptor::new(media_type, digest, blob.size()), &blob)?;
        let mut state = self.state();
        state.index = local::listed(self.place(), state.index.clone(), target, (digest, &manifest), blob.size())?;
        Ok(digest)
    }

    /// The tags, sorted.
    ///
    /// # Errors
    /// Never: the index was read when the archive was opened.
    pub fn tags(&self) -> Result<Vec<String>, Fault> {
        local::tags(self)
    }

    /// Writes the archive, if something was put since it was opened or written: beside the old one, synced, by one rename. Canonical ustar, owner and
    /// time 0; `oci-layout`, `index.json`, then the blobs by digest: the same content gives the same bytes.
    ///
    /// # Errors
    /// When it cannot be written; when a blob has 8 GiB or more; when somebody else wrote the archive meanwhile.
    pub fn finish(&self) -> Result<(), Fault> {
        // Held to the end: nobody adds to what is being written.
        let mut state = self.state();
        let state = &mut *state;
        let Some(staging) = &state.staging else { return Ok(()) };
        // Nobody else writes it between the look at what lies there and the rename.
        let held = write::hold(&self.inner.path)?;
        let mut index = state.index.clone();
        index.manifests.sort_by(|a, b| (local::tag_of(a), a.digest).cmp(&(local::tag_of(b), b.digest)));
        let mut blobs = BTreeMap::new();
        if lies_there(&self.inner.path) != state.seen {
            return Err(Fault::refused(
                self.place(),
                "somebody else wrote it meanwhile; nothing was written, try again",
            ));
        }
        if let Some(base) = &state.base {
            for (digest, part) in &base.blobs {
                blobs.insert(*digest, base.blob(*part, self.place()));
            }
        }
        for (digest, _, _) in staging.blobs().list()? {
            blobs.extend(staging.blobs().blob(&digest)?.map(|blob| (digest, blob)));
        }
        write::write(&self.inner.path, &index.to_bytes(), &blobs)?;
        let written = Self::open(&self.inner.path)?;
        drop(held);
        let mut written = written.state();
        (state.base, state.seen) = (written.base.take(), written.seen);
        state.index = index;
        // Only now: after a failure everything is still there to be written.
        state.staging = None;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn staging(&mut self, archive: &Path) -> Result<&Staging, Fault> {
        let staging = match self.staging.take() {
            Some(staging) => staging,
            None => Staging::beside(archive)?,
        };
        Ok(self.staging.insert(staging))
    }
}

impl Base {
    fn blob(&self, part: Part, place: &str) -> Blob {
        Blob::part(Arc::clone(&self.file), part.offset, part.size, place)
    }
}

impl Local for Archive {
    fn place(&self) -> &str {
        &self.inner.place
    }

    fn index(&self) -> Result<Index, Fault> {
        Ok(self.state().index.clone())
    }

    fn blob(&self, digest: &Digest) -> Result<Option<Blob>, Fault> {
        let state = self.state();
        if let Some(staging) = &state.staging
            && let Some(blob) = staging.blobs().blob(digest)?
        {
            return Ok(Some(blob));
        }
        let base = state.base.as_ref();
        Ok(base.and_then(|base| base.blobs.get(digest).map(|part| base.blob(*part, self.place()))))
    }
}

fn place(path: &Path) -> String {
    format!("oci-archive:{}", path.display())
}

/// Device and inode of what a path leads to now.
fn lies_there(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok()
}
