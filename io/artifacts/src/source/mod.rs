//! Where artifacts lie: a registry, an image layout in a folder, or a tar archive of one, behind one interface (SPEC 7).
//!
//! No source is trusted. What the public methods give was compared with the digest that named it; what is named by a tag
//! alone cannot be, and its digest is for the caller to judge.

mod archive;
mod known;
mod layout;
mod local;
mod registry;

use std::path::Path;

use machines::oci::{Descriptor, Digest, Place, Target, media};
use tokio::runtime::RuntimeFlavor;

pub use self::archive::Archive;
pub use self::layout::Layout;
pub use self::registry::{Credentials, Options, Registry, Timeouts};

use crate::Fault;
use crate::blob::{Blob, BlobSink, Incoming, Matched, Memory, Streamed};

/// A manifest as a source gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What the source calls it: a content type, or the media type in its index.
    pub media_type: Option<String>,
    /// The digest under which the source keeps it, where it names one.
    pub digest: Option<Digest>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A place of artifacts. Cloning gives another handle of the same place.
#[derive(Clone, Debug)]
pub enum Transport {
    /// A repository of a registry.
    Registry(Registry),
    /// A folder.
    Layout(Layout),
    /// A tar archive.
    Archive(Archive),
}

/// Runs what blocks on a thread that may.
async fn blocking<T, F>(place: &str, work: F) -> Result<T, Fault>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Fault> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(|error| Fault::task(place, &error))?
}

/// Whether what takes no longer than a thread takes to be started is done right here: the runtime has one thread, and so one
/// thing to do.
pub(crate) fn here() -> bool {
    tokio::runtime::Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread
}

/// Runs what blocks only shortly: at once, where the runtime has one thread and so one thing to do, else on a thread that may
/// block.
async fn briefly<T, F>(place: &str, work: F) -> Result<T, Fault>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Fault> + Send + 'static,
{
    if here() { work() } else { blocking(place, work).await }
}

/// The longest blob that is taken from anywhere, in bytes: 16 GiB.
pub(crate) const MAX_BLOB: u64 = 16 * 1024 * 1024 * 1024;

/// Whether what has this media type is a manifest or an index that we read. Kinds from before OCI 1.1 are not.
pub(crate) fn is_manifest(media_type: &str) -> bool {
    [media::IMAGE_MANIFEST, media::IMAGE_INDEX, media::DOCKER_MANIFEST, media::DOCKER_LIST].contains(&media_type)
}

/// The longest blob that is read at once, in bytes: half a millisecond of hashing.
const SHORT: u64 = 1024 * 1024;

impl Transport {
    /// Opens a place to read from it. Of a registry, this resolves its name.
    ///
    /// # Errors
    /// When there is no such place, or it cannot be read or reached.
    pub async fn open(place: &Place, options: &Options) -> Result<Self, Fault> {
        Self::at(place, options, false).await
    }

    /// Opens a place to write to it; a layout that is not there is made, an archive is begun.
    ///
    /// # Errors
    /// As for [`Transport::open`], and when it cannot be made.
    pub async fn create(place: &Place, options: &Options) -> Result<Self, Fault> {
        Self::at(place, options, true).await
    }

    async fn at(place: &Place, options: &Options, write: bool) -> Result<Self, Fault> {
        match place {
            Place::Registry { host, repository } => {
                Registry::open(host, repository, options, write).await.map(Self::Registry)
            }
            Place::Layout(path) if !write => {
                let path = path.clone();
                briefly(&place.to_string(), move || Layout::open(Path::new(&path)).map(Self::Layout)).await
            }
            Place::Layout(path) | Place::Archive(path) => {
                let (path, archive) = (path.clone(), matches!(place, Place::Archive(_)));
                blocking(&place.to_string(), move || {
                    let path = Path::new(&path);
                    match (archive, write) {
                        (true, true) => Archive::create(path).map(Self::Archive),
                        (true, false) => Archive::open(path).map(Self::Archive),
                        (false, true) => Layout::create(path).map(Self::Layout),
                        (false, false) => Layout::open(path).map(Self::Layout),
                    }
                })
                .await
            }
        }
    }

    /// Where it is, for messages: `host/repository`, `oci:DIR`, `oci-archive:FILE`.
    #[must_use]
    pub fn place(&self) -> &str {
        match self {
            Self::Registry(registry) => registry.place(),
            Self::Layout(layout) => layout.place(),
            Self::Archive(archive) => archive.place(),
        }
    }

    /// The bytes of a manifest or index, at most `max`. When it was named by a digest, or the source keeps it under one,
    /// they are what that digest says.
    ///
    /// # Errors
    /// When it is not there, is too long, is not what the digest says, or cannot be read.
    pub async fn manifest(&self, at: &Target, max: u32) -> Result<Found, Fault> {
        let found = self.manifest_unchecked(at, max).await?;
        let want = match (at, &self) {
            (Target::Digest(digest), _) => Some(*digest),
            // A registry's word is not taken; a layout's index is what led to the blob.
            (Target::Tag(_) | Target::Only, Self::Registry(_)) => None,
            (Target::Tag(_) | Target::Only, Self::Layout(_) | Self::Archive(_)) => found.digest,
        };
        let got = Digest::of(&found.bytes);
        match want {
            Some(want) if want != got => {
                let len = u64::try_from(found.bytes.len()).unwrap_or(u64::MAX);
                Err(Fault::Mismatch { place: self.place().to_owned(), want, want_bytes: len, got, got_bytes: len })
            }
            Some(_) | None => Ok(Found { digest: Some(got), ..found }),
        }
    }

    /// As [`Transport::manifest`], not compared with any digest: for who judges the bytes himself.
    pub(crate) async fn manifest_unchecked(&self, at: &Target, max: u32) -> Result<Found, Fault> {
        let at = at.clone();
        match self {
            Self::Registry(registry) => registry.manifest(&at, max).await,
            Self::Layout(layout) => {
                let layout = layout.clone();
                briefly(self.place(), move || layout.manifest(&at, max)).await
            }
            Self::Archive(archive) => {
                let archive = archive.clone();
                briefly(self.place(), move || archive.manifest(&at, max)).await
            }
        }
    }

    /// The manifests that refer to `subject`, as the source lists them, in its order, each once; only those about
    /// `artifact_type`, when one is given. Nothing refers to what the source does not know.
    ///
    /// # Errors
    /// When there are more than `max` before any is left out, or the list cannot be read.
    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
        max: u32,
    ) -> Result<Vec<Descriptor>, Fault> {
        let subject = *subject;
        let mut listed = match self {
            Self::Registry(registry) => registry.referrers(&subject, max).await?,
            Self::Layout(layout) => {
                let layout = layout.clone();
                briefly(self.place(), move || layout.referrers(&subject, max)).await?
            }
            Self::Archive(archive) => {
                let archive = archive.clone();
                briefly(self.place(), move || archive.referrers(&subject, max)).await?
            }
        };
        if let Some(wanted) = artifact_type {
            listed.retain(|entry| entry.artifact_type.as_deref() == Some(wanted));
        }
        Ok(listed)
    }

    /// The bytes of a blob, exactly what the descriptor says, when it says at most `max`.
    ///
    /// # Errors
    /// When it says more, or the blob is not there, is something else, or cannot be read.
    pub async fn bytes(&self, descriptor: &Descriptor, max: u64) -> Result<Vec<u8>, Fault> {
        if descriptor.size > max {
            return Err(Fault::too_long(self.place(), format!("bytes of {}", descriptor.digest), max));
        }
        let Memory(bytes) = self.stream(descriptor, Memory::default()).await?.into_sink();
        Ok(bytes)
    }

    /// Reads a blob through `sink`, hashed on the way. It is exactly what the descriptor says.
    ///
    /// # Errors
    /// When it is not, is not there, or cannot be read; the sink is dropped then.
    pub async fn stream<S: BlobSink>(&self, descriptor: &Descriptor, sink: S) -> Result<Matched<S>, Fault> {
        self.stream_unchecked(descriptor, sink).await?.matching(descriptor)
    }

    /// As [`Transport::stream`], up to one byte past the descriptor's size and not yet compared with it.
    pub(crate) async fn stream_unchecked<S: BlobSink>(
        &self,
        descriptor: &Descriptor,
        sink: S,
    ) -> Result<Streamed<S>, Fault> {
        if let Self::Registry(registry) = self {
            return registry.stream(descriptor, sink).await;
        }
        let (this, digest, most) = (self.clone(), descriptor.digest, descriptor.size.saturating_add(1));
        let work = move || this.local_blob(&digest)?.pump(most, sink);
        if descriptor.size <= SHORT { briefly(self.place(), work).await } else { blocking(self.place(), work).await }
    }

    /// A blob to read from, where it lies on this machine; from a registry it is fetched into `scratch` first. Compared
    /// with its digest only in that case: whoever reads it hashes it.
    pub(crate) async fn blob<S>(&self, descriptor: &Descriptor, scratch: S) -> Result<Blob, Fault>
    where
        S: FnOnce() -> Result<crate::blob::Scratch, Fault>,
    {
        if let Self::Registry(registry) = self {
            return registry.stream(descriptor, scratch()?).await?.matching(descriptor)?.into_sink().into_blob();
        }
        let (this, digest) = (self.clone(), descriptor.digest);
        blocking(self.place(), move || this.local_blob(&digest)).await
    }

    fn local_blob(&self, digest: &Digest) -> Result<Blob, Fault> {
        match self {
            Self::Registry(registry) => Err(Fault::refused(registry.place(), "lies on another machine")),
            Self::Layout(layout) => layout.blob(digest),
            Self::Archive(archive) => archive.blob(digest),
        }
    }

    /// A blob that is about to come in, where blobs are files of this machine; `None` for a registry.
    pub(crate) async fn incoming(&self) -> Result<Option<Incoming>, Fault> {
        let this = self.clone();
        blocking(self.place(), move || match this {
            Self::Registry(_) => Ok(None),
            Self::Layout(layout) => layout.incoming().map(Some),
            Self::Archive(archive) => archive.incoming().map(Some),
        })
        .await
    }

    /// Whether a blob of this digest and length is there. On this machine it is read and hashed; a registry is believed.
    ///
    /// # Errors
    /// When the place cannot be read or reached.
    pub async fn has_blob(&self, descriptor: &Descriptor) -> Result<bool, Fault> {
        let (this, descriptor) = (self.clone(), descriptor.clone());
        match this {
            Self::Registry(registry) => registry.has_blob(&descriptor).await,
            Self::Layout(layout) => blocking(self.place(), move || layout.has_blob(&descriptor)).await,
            Self::Archive(archive) => blocking(self.place(), move || archive.has_blob(&descriptor)).await,
        }
    }

    /// Keeps a blob, when it is what the descriptor says; it is hashed while it is read.
    ///
    /// # Errors
    /// When it is not, or cannot be read or kept.
    pub async fn put_blob(&self, descriptor: &Descriptor, blob: &Blob) -> Result<(), Fault> {
        let (this, descriptor, blob) = (self.clone(), descriptor.clone(), blob.clone());
        match this {
            Self::Registry(registry) => registry.put_blob(&descriptor, &blob).await,
            Self::Layout(layout) => blocking(self.place(), move || layout.put_blob(&descriptor, &blob)).await,
            Self::Archive(archive) => blocking(self.place(), move || archive.put_blob(&descriptor, &blob)).await,
        }
    }

    /// Keeps a manifest under a tag, or by its digest alone; [`Target::Only`] lists it without a tag. What it refers to
    /// then lists it.
    ///
    /// # Errors
    /// When it is no manifest of this media type, is not what the digest says, or cannot be kept.
    pub async fn put_manifest(&self, target: &Target, media_type: &str, bytes: &[u8]) -> Result<Digest, Fault> {
        let (this, target, media_type, bytes) = (self.clone(), target.clone(), media_type.to_owned(), bytes.to_vec());
        match this {
            Self::Registry(registry) => registry.put_manifest(&target, &media_type, bytes).await,
            Self::Layout(layout) => {
                blocking(self.place(), move || layout.put_manifest(&target, &media_type, &bytes)).await
            }
            Self::Archive(archive) => {
                blocking(self.place(), move || archive.put_manifest(&target, &media_type, &bytes)).await
            }
        }
    }

    /// The tags, sorted, at most `max`.
    ///
    /// # Errors
    /// When there are more, or they cannot be read.
    pub async fn tags(&self, max: u32) -> Result<Vec<String>, Fault> {
        let tags = match self.clone() {
            Self::Registry(registry) => registry.tags(max).await?,
            Self::Layout(layout) => blocking(self.place(), move || layout.tags()).await?,
            Self::Archive(archive) => blocking(self.place(), move || archive.tags()).await?,
        };
        if tags.len() > usize::try_from(max).unwrap_or(usize::MAX) {
            return Err(Fault::too_long(self.place(), "tags", u64::from(max)));
        }
        Ok(tags)
    }

    /// Ends writing. An archive is written now and not before. Elsewhere nothing is left to do.
    ///
    /// # Errors
    /// When the archive cannot be written; nothing has changed then.
    pub async fn finish(&self) -> Result<(), Fault> {
        match self.clone() {
            Self::Registry(_) | Self::Layout(_) => Ok(()),
            Self::Archive(archive) => blocking(self.place(), move || archive.finish()).await,
        }
    }
}
