//! Blobs, manifests and tags.

use std::fs::File;
use std::io;
use std::sync::PoisonError;

use machines::ids::Hash32;
use machines::json::Value;
use machines::oci::{Descriptor, Digest, Manifest, Target};

use super::{REPOSITORIES, Store, UPLOADS, bytes_name, missing_is_none, random_name, within};
use crate::serve::route::Repository;

/// The longest media type that is kept, in bytes.
const MEDIA_TYPE_MAX: u64 = 255;
/// The longest descriptor of a referrer, in bytes: its annotations are told in every listing.
const REFERRER_MAX: usize = 256 * 1024;

/// Bytes that were found.
#[derive(Debug)]
pub struct Found {
    /// Their digest.
    pub digest: Digest,
    /// Their media type, when they are a manifest's.
    pub media_type: Option<String>,
    /// The open file.
    pub file: File,
    /// Its length.
    pub size: u64,
}

/// Why a manifest is not taken.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// It names something that the repository does not have.
    #[error("the manifest names {0}, which this repository does not have; push it first")]
    Unknown(Digest),
    /// It gives something a wrong size.
    #[error("the manifest says that {digest} is {said} bytes long, and it is {is}")]
    Size {
        /// What.
        digest: Digest,
        /// As the manifest says.
        said: u64,
        /// As it is.
        is: u64,
    },
    /// Its annotations are too long to be listed.
    #[error("the annotations of a manifest with a subject may take 256 KiB at most")]
    Annotations,
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Store {
    /// A blob of a repository.
    pub fn blob(&self, repository: &Repository, digest: &Digest) -> io::Result<Option<Found>> {
        let name = format!("{}/{}", within(repository, "_blobs"), digest.hash());
        if self.root.exists(&name)? { self.open_bytes(digest, None) } else { Ok(None) }
    }

    /// A manifest of a repository, by tag or digest.
    pub fn manifest(&self, repository: &Repository, target: &Target) -> io::Result<Option<Found>> {
        let digest = match target {
            Target::Digest(digest) => *digest,
            Target::Tag(tag) => match self.tag(repository, tag)? {
                Some(digest) => digest,
                None => return Ok(None),
            },
            Target::Only => return Ok(None),
        };
        let name = format!("{}/{}", within(repository, "_manifests"), digest.hash());
        match missing_is_none(self.root.read_all(&name, MEDIA_TYPE_MAX))? {
            Some(media_type) => self.open_bytes(&digest, Some(String::from_utf8_lossy(&media_type).into_owned())),
            None => Ok(None),
        }
    }

    fn open_bytes(&self, digest: &Digest, media_type: Option<String>) -> io::Result<Option<Found>> {
        let Some(file) = missing_is_none(self.root.read(&bytes_name(digest)))? else { return Ok(None) };
        let size = file.metadata()?.len();
        Ok(Some(Found { digest: *digest, media_type, file, size }))
    }

    pub(super) fn tag(&self, repository: &Repository, tag: &str) -> io::Result<Option<Digest>> {
        let text = missing_is_none(self.root.read_all(&format!("{}/{tag}", within(repository, "_tags")), 128))?;
        text.map(|text| {
            let digest = std::str::from_utf8(&text).ok().and_then(|text| Digest::parse(text).ok());
            digest.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("the tag {tag:?} holds no digest")))
        })
        .transpose()
    }

    /// Gives a written and hashed upload its name and the repository its blob.
    pub fn keep_blob(&self, repository: &Repository, upload: &str, file: &File, digest: &Digest) -> io::Result<()> {
        file.sync_all()?;
        let _shared = self.changes.read().unwrap_or_else(PoisonError::into_inner);
        self.root.put_in_place(&format!("{UPLOADS}/{upload}"), &bytes_name(digest))?;
        self.name_blob(repository, digest)
    }

    /// Gives a repository a blob that another one has; `false` when that has it not.
    pub fn mount(&self, repository: &Repository, from: &Repository, digest: &Digest) -> io::Result<bool> {
        let _shared = self.changes.read().unwrap_or_else(PoisonError::into_inner);
        let there = self.blob(from, digest)?.is_some();
        if there {
            self.name_blob(repository, digest)?;
        }
        Ok(there)
    }

    fn name_blob(&self, repository: &Repository, digest: &Digest) -> io::Result<()> {
        let folder = within(repository, "_blobs");
        self.make_folders(&folder)?;
        match self.root.create(&format!("{folder}/{}", digest.hash())) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        // Also for one that was there: who made it may not have come to this yet.
        self.root.sync_folder(&folder)
    }

    /// Takes a manifest into a repository, and lets the tag name it: what it is made of must be there.
    pub fn put_manifest(
        &self,
        repository: &Repository,
        tag: Option<&str>,
        manifest: &Manifest,
        bytes: &[u8],
    ) -> Result<Digest, PutError> {
        let _shared = self.changes.read().unwrap_or_else(PoisonError::into_inner);
        self.check_parts(repository, manifest)?;
        let mut descriptor = Descriptor::of(manifest.media_type(), bytes);
        let digest = descriptor.digest;
        let referrer = manifest.subject().map(|subject| {
            descriptor.artifact_type = manifest.artifact_type().map(String::from);
            descriptor.annotations = match manifest {
                Manifest::Image(image) => image.annotations.clone(),
                Manifest::Index(index) => index.annotations.clone(),
            };
            (subject.digest, descriptor.to_value().to_text())
        });
        if referrer.as_ref().is_some_and(|(_, text)| text.len() > REFERRER_MAX) {
            return Err(PutError::Annotations);
        }
        let hex = digest.hash().to_string();
        self.keep_bytes(&digest, bytes)?;
        self.put(&within(repository, "_manifests"), &hex, manifest.media_type().as_bytes())?;
        if let Some((subject, text)) = referrer {
            self.put(&format!("{}/{}", within(repository, "_referrers"), subject.hash()), &hex, text.as_bytes())?;
        }
        if let Some(tag) = tag {
            self.put(&within(repository, "_tags"), tag, digest.to_string().as_bytes())?;
        }
        Ok(digest)
    }

    fn keep_bytes(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        let temp = format!("{UPLOADS}/{}", random_name()?);
        self.root.write_new(&temp, bytes)?;
        let renamed = self.root.put_in_place(&temp, &bytes_name(digest));
        if renamed.is_err() {
            let _ = self.root.remove(&temp);
        }
        renamed
    }

    fn check_parts(&self, repository: &Repository, manifest: &Manifest) -> Result<(), PutError> {
        let check = |part: &Descriptor, found: Option<Found>| match found {
            None => Err(PutError::Unknown(part.digest)),
            Some(found) if found.size != part.size => {
                Err(PutError::Size { digest: part.digest, said: part.size, is: found.size })
            }
            Some(_) => Ok(()),
        };
        match manifest {
            Manifest::Image(image) => image
                .layers
                .iter()
                .filter(|layer| !lies_elsewhere(&layer.media_type))
                .chain([&image.config])
                .try_for_each(|part| check(part, self.blob(repository, &part.digest)?)),
            Manifest::Index(index) => index
                .manifests
                .iter()
                .try_for_each(|part| check(part, self.manifest(repository, &Target::Digest(part.digest))?)),
        }
    }

    /// Takes a tag away; `false` when it was not there.
    pub fn delete_tag(&self, repository: &Repository, tag: &str) -> io::Result<bool> {
        let _alone = self.changes.write().unwrap_or_else(PoisonError::into_inner);
        self.take(&within(repository, "_tags"), tag)
    }

    /// Takes a manifest away, with the tags that name it and its place among the referrers of its subject; `false` when it
    /// was not there. The bytes go when nothing names them at the next start.
    pub fn delete_manifest(&self, repository: &Repository, digest: &Digest) -> io::Result<bool> {
        let _alone = self.changes.write().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = self.manifest(repository, &Target::Digest(*digest))? else { return Ok(false) };
        let tags = within(repository, "_tags");
        if let Some(entries) = missing_is_none(self.root.entries(&tags))? {
            for entry in entries {
                let tag = entry?.name;
                if self.tag(repository, &tag)? == Some(*digest) {
                    self.take(&tags, &tag)?;
                }
            }
        }
        let hex = digest.hash().to_string();
        let bytes = self.root.read_all(&bytes_name(digest), u64::from(machines::oci::MAX_MANIFEST))?;
        if let Ok(manifest) = Manifest::parse(&bytes, found.media_type.as_deref())
            && let Some(subject) = manifest.subject()
        {
            self.take(&format!("{}/{}", within(repository, "_referrers"), subject.digest.hash()), &hex)?;
        }
        self.take(&within(repository, "_manifests"), &hex)
    }

    /// Takes a blob away from a repository; `false` when it was not there. As for a manifest, the bytes go later.
    pub fn delete_blob(&self, repository: &Repository, digest: &Digest) -> io::Result<bool> {
        let _alone = self.changes.write().unwrap_or_else(PoisonError::into_inner);
        self.take(&within(repository, "_blobs"), &digest.hash().to_string())
    }

    /// Whether anything was ever pushed to this repository.
    pub fn has_repository(&self, repository: &Repository) -> io::Result<bool> {
        Ok(self.root.exists(&within(repository, "_manifests"))? || self.root.exists(&within(repository, "_blobs"))?)
    }

    /// Calls with the name of each repository, in no order.
    pub(super) fn each_repository(&self, each: &mut dyn FnMut(&str) -> io::Result<()>) -> io::Result<()> {
        let mut waiting = vec![String::new()];
        while let Some(name) = waiting.pop() {
            let folder = if name.is_empty() { REPOSITORIES.into() } else { format!("{REPOSITORIES}/{name}") };
            let mut is_one = false;
            for entry in self.root.entries(&folder)? {
                let entry = entry?;
                if matches!(entry.name.as_str(), "_blobs" | "_manifests") {
                    is_one = true;
                } else if !entry.name.starts_with('_') && entry.is_folder {
                    waiting.push(if name.is_empty() { entry.name } else { format!("{name}/{}", entry.name) });
                }
            }
            if is_one {
                each(&name)?;
            }
        }
        Ok(())
    }

    /// The descriptor of one referrer, and whether it is of the wanted kind.
    pub(super) fn referrer(&self, folder: &str, hash: &Hash32, kind: Option<&str>) -> io::Result<Option<Value>> {
        let limit = u64::try_from(REFERRER_MAX).unwrap_or(u64::MAX);
        let Some(text) = missing_is_none(self.root.read_all(&format!("{folder}/{hash}"), limit))? else {
            return Ok(None);
        };
        let limits = machines::json::Limits::bytes(REFERRER_MAX);
        let value = machines::json::parse(&text, &limits).map_err(|error| io::Error::other(error.to_string()))?;
        let wanted = kind.is_none_or(|kind| value.get("artifactType").and_then(Value::as_str) == Some(kind));
        Ok(wanted.then_some(value))
    }
}

/// Layers that registries do not hold (image-spec, "Non-Distributable Layers", and Docker's foreign layers).
fn lies_elsewhere(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
}
