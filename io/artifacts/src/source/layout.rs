//! The OCI image layout in a folder (image-spec, "Image Layout").

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use io_drive::place::folder_of;
use machines::oci::{Descriptor, Digest, Index, MAX_MANIFEST, Target, media};
use rustix::fs::Mode;

use super::Found;
use super::known::Known;
use super::local::{self, Local};
use crate::Fault;
use crate::blob::{Blob, Folder, Incoming, is_incoming, replace};

const MARKER: &str = "oci-layout";
const INDEX: &str = "index.json";

/// A layout, its folders kept open. Its methods block.
#[derive(Clone, Debug)]
pub struct Layout {
    place: Arc<str>,
    root: Arc<Folder>,
    blobs: Arc<Folder>,
    known: Arc<Mutex<Known>>,
}

impl Layout {
    /// Opens a layout that is there.
    ///
    /// # Errors
    /// When there is none, or it is of an unknown version, or one of its folders is a link.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let root = Folder::named(path, mode())?;
        let place = place(path);
        let marker =
            root.file(MARKER)?.ok_or_else(|| Fault::missing(&place, "oci-layout in it; is it an image layout?"))?;
        local::check_marker(&place, &marker.read(local::MAX_MARKER)?)?;
        let none = || Fault::missing(&place, "blobs/sha256");
        let blobs = root.inside("blobs")?.ok_or_else(none)?.inside("sha256")?.ok_or_else(none)?;
        let (root, blobs) = (Arc::new(root), Arc::new(blobs));
        Ok(Self { place: place.as_str().into(), root, blobs, known: Arc::default() })
    }

    /// Opens a layout to write to it; makes an empty one where there is none.
    ///
    /// # Errors
    /// As for [`Layout::open`]; when it cannot be made; when the folder holds something else.
    pub fn create(path: &Path) -> Result<Self, Fault> {
        let opened = match Folder::named(path, mode()) {
            Err(fault) if fault.is_not_found() => {
                make(path)?;
                Folder::named(path, mode())
            }
            other => other,
        };
        let root = Arc::new(opened?);
        let held = root.lock()?;
        if root.file(MARKER)?.is_none() {
            if !is_unfinished(path)? {
                return Err(Fault::refused(
                    &place(path),
                    "is a folder that holds other things; give an empty or new one",
                ));
            }
            sync_parent(path)?;
            root.make("blobs")?.make("sha256")?;
            if root.file(INDEX)?.is_none() {
                replace(&root, INDEX, &Index::new(media::IMAGE_INDEX.into(), Vec::new()).to_bytes())?;
            }
            // The last thing: a folder that has it is whole.
            replace(&root, MARKER, local::MARKER)?;
        }
        drop(held);
        let layout = Self::open(path)?;
        layout.root.sweep();
        layout.blobs.sweep();
        Ok(layout)
    }

    /// Its path with `oci:`, for messages.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
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
    /// When there are more, or the index cannot be read.
    pub fn referrers(&self, subject: &Digest, max: u32) -> Result<Vec<Descriptor>, Fault> {
        local::referrers(self, subject, max)
    }

    /// A blob, not checked.
    ///
    /// # Errors
    /// When it is not there, or is no regular file.
    pub fn blob(&self, digest: &Digest) -> Result<Blob, Fault> {
        local::blob(self, digest)
    }

    /// Whether this blob is there and whole: it is read and hashed, so that a damaged one is replaced.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn has_blob(&self, descriptor: &Descriptor) -> Result<bool, Fault> {
        self.blobs.blob(&descriptor.digest)?.map_or(Ok(false), |blob| blob.is(descriptor))
    }

    /// A blob that is about to come in.
    ///
    /// # Errors
    /// When no file can be made.
    pub fn incoming(&self) -> Result<Incoming, Fault> {
        self.blobs.incoming()
    }

    /// Keeps a blob, when it is what the descriptor says.
    ///
    /// # Errors
    /// When it is not, or cannot be read or written.
    pub fn put_blob(&self, descriptor: &Descriptor, blob: &Blob) -> Result<(), Fault> {
        self.blobs.put(descriptor, blob)
    }

    /// Keeps a manifest and lists it: under its tag; without one when it is an image or refers to another manifest.
    ///
    /// # Errors
    /// When it is no manifest of this kind, or cannot be written.
    pub fn put_manifest(&self, target: &Target, media_type: &str, bytes: &[u8]) -> Result<Digest, Fault> {
        let (digest, manifest) = local::check_put(&self.place, target, media_type, bytes)?;
        let blob = Blob::from_bytes(bytes.to_vec());
        self.blobs.put(&Descriptor::new(media_type, digest, blob.size()), &blob)?;
        let held = self.root.lock()?;
        let before = self.index()?;
        let after = local::listed(&self.place, before.clone(), target, (digest, &manifest), blob.size())?;
        if after != before {
            replace(&self.root, INDEX, &after.to_bytes())?;
        }
        drop(held);
        Ok(digest)
    }

    /// The tags, sorted.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn tags(&self) -> Result<Vec<String>, Fault> {
        local::tags(self)
    }
}

impl Local for Layout {
    fn place(&self) -> &str {
        &self.place
    }

    fn index(&self) -> Result<Index, Fault> {
        let file = self.root.file(INDEX)?.ok_or_else(|| Fault::missing(&self.place, INDEX))?;
        let bytes = file.read(u64::from(MAX_MANIFEST))?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = known.index(&bytes) {
            return Ok(index.clone());
        }
        let index = local::read_index(&self.place, &bytes)?;
        known.keep_index(bytes, &index);
        Ok(index)
    }

    fn known(&self) -> Option<&Mutex<Known>> {
        Some(&self.known)
    }

    fn blob(&self, digest: &Digest) -> Result<Option<Blob>, Fault> {
        self.blobs.blob(digest)
    }
}

/// Makes a folder and those above it that are missing, durably.
fn make(path: &Path) -> Result<(), Fault> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).collect();
    for folder in missing.into_iter().rev() {
        match std::fs::create_dir(folder) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Fault::file(folder, "cannot be made", error)),
        }
        sync_parent(folder)?;
    }
    Ok(())
}

fn sync_parent(path: &Path) -> Result<(), Fault> {
    let synced = folder_of(path).and_then(|folder| Ok(rustix::fs::fsync(&folder)?));
    synced.map_err(|error| Fault::file(path, "its folder cannot be synced", error))
}

/// Whether a folder without a marker is empty, or holds only what we make before the marker: then its maker was cut short.
fn is_unfinished(path: &Path) -> Result<bool, Fault> {
    let failed = |error| Fault::file(path, "cannot be listed", error);
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name != "blobs" && name != INDEX && !is_incoming(name.as_encoded_bytes()) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn place(path: &Path) -> String {
    format!("oci:{}", path.display())
}

/// A layout is made to be handed on: everybody may read it.
fn mode() -> Mode {
    Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH
}
