//! What layouts and archives have in common: an `index.json` that lists manifests, and blobs by their digest.
//!
//! Both are untrusted input. Which manifest carries a tag is what the index says; what refers to what is found by reading
//! the manifests that the index lists, within a bound.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use machines::json;
use machines::oci::{Descriptor, Digest, Index, MAX_CHILDREN, MAX_MANIFEST, Manifest, Target, check_tag, media, tags};

use super::known::Known;
use super::{Found, is_manifest};
use crate::Fault;
use crate::blob::{Blob, Memory};

/// The longest `oci-layout`, in bytes.
pub(super) const MAX_MARKER: u64 = 4096;
/// The content of an `oci-layout` that we write.
pub(super) const MARKER: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// How many bytes of manifests are read to find out what refers to what.
const MAX_SEARCH: u64 = 64 * 1024 * 1024;

/// A layout in a folder or in an archive.
pub(super) trait Local {
    /// Its path with `oci:` or `oci-archive:`, for messages.
    fn place(&self) -> &str;
    /// What `index.json` lists now.
    fn index(&self) -> Result<Index, Fault>;
    /// The blob of this digest, not checked.
    fn blob(&self, digest: &Digest) -> Result<Option<Blob>, Fault>;
    /// What it has parsed before, where it keeps that.
    fn known(&self) -> Option<&Mutex<Known>> {
        None
    }
}

/// Checks the content of `oci-layout`.
pub(super) fn check_marker(place: &str, bytes: &[u8]) -> Result<(), Fault> {
    let value = json::parse(bytes, &json::Limits::bytes(4096)).ok();
    let version = value.as_ref().and_then(|value| value.get("imageLayoutVersion")?.as_str());
    match version {
        Some("1.0.0") => Ok(()),
        Some(_) => Err(Fault::broken(place, "oci-layout: the version of the layout is not 1.0.0")),
        None => Err(Fault::broken(place, "oci-layout: names no imageLayoutVersion; is it an OCI image layout?")),
    }
}

/// Reads `index.json`.
pub(super) fn read_index(place: &str, bytes: &[u8]) -> Result<Index, Fault> {
    match Manifest::parse(bytes, Some(media::IMAGE_INDEX)) {
        Ok(Manifest::Index(index)) => Ok(index),
        Ok(Manifest::Image(_)) => Err(Fault::broken(place, "index.json: is an image manifest")),
        Err(refusal) => Err(Fault::document(place, "index.json", &refusal)),
    }
}

/// The tag of an entry of an index.
pub(super) fn tag_of(entry: &Descriptor) -> Option<&str> {
    entry.annotations.get(media::REF_NAME).map(String::as_str)
}

/// The blob of this digest.
pub(super) fn blob(local: &impl Local, digest: &Digest) -> Result<Blob, Fault> {
    local.blob(digest)?.ok_or_else(|| Fault::missing(local.place(), format!("blob {digest}")))
}

/// The bytes of a manifest, as they are there.
pub(super) fn manifest(local: &impl Local, at: &Target, max: u32) -> Result<Found, Fault> {
    let entry = match at {
        Target::Digest(digest) => {
            let bytes = blob_bytes(local, digest, max)?;
            return Ok(Found { media_type: None, digest: Some(*digest), bytes });
        }
        Target::Tag(tag) => tagged(local, tag)?,
        Target::Only => only(local)?,
    };
    let bytes = blob_bytes(local, &entry.digest, max)?;
    Ok(Found { media_type: Some(entry.media_type), digest: Some(entry.digest), bytes })
}

fn blob_bytes(local: &impl Local, digest: &Digest, max: u32) -> Result<Vec<u8>, Fault> {
    let blob = blob(local, digest)?;
    if blob.size() > u64::from(max) {
        return Err(Fault::too_long(local.place(), format!("bytes of the manifest {digest}"), u64::from(max)));
    }
    blob.read(u64::from(max))
}

fn tagged(local: &impl Local, tag: &str) -> Result<Descriptor, Fault> {
    let mut entries = local.index()?.manifests.into_iter().filter(|entry| tag_of(entry) == Some(tag));
    let first = entries.next().ok_or_else(|| Fault::missing(local.place(), format!("tag {tag}")))?;
    // Two readers would take two images.
    if entries.any(|other| other.digest != first.digest) {
        return Err(Fault::broken(local.place(), format!("index.json gives the tag {tag} to several images")));
    }
    Ok(first)
}

/// The one image there, what is attached to it aside.
fn only(local: &impl Local) -> Result<Descriptor, Fault> {
    let mut images: Vec<Descriptor> = Vec::new();
    for entry in local.index()?.manifests {
        let attached = tag_of(&entry).is_some_and(is_attachment_tag) || entry.artifact_type.is_some();
        if !attached && images.iter().all(|image| image.digest != entry.digest) {
            images.push(entry);
        }
    }
    if images.len() > 1 {
        let mut search = Search::new(local);
        let mut left = Vec::new();
        for image in images {
            if search.manifest(&image)?.is_none_or(|manifest| manifest.subject().is_none()) {
                left.push(image);
            }
        }
        images = left;
    }
    match images.len() {
        0 => Err(Fault::missing(local.place(), "image in it")),
        1 => images.pop().ok_or_else(|| Fault::missing(local.place(), "image in it")),
        _ => {
            let names: BTreeSet<_> = images.iter().map(|image| tag_of(image).unwrap_or("one without a tag")).collect();
            let names: Vec<_> = names.into_iter().take(10).collect();
            Err(Fault::refused(
                local.place(),
                format!("holds several images ({}); name one as {}:TAG", names.join(", "), local.place()),
            ))
        }
    }
}

/// A tag of cosign's signatures, or of the referrers tag schema.
fn is_attachment_tag(tag: &str) -> bool {
    let stem = tag.strip_suffix(".sig").unwrap_or(tag);
    stem.strip_prefix("sha256-").is_some_and(|hex| Digest::parse(&format!("sha256:{hex}")).is_ok())
}

/// The manifests that refer to `subject`: those that the index lists, and those of the referrers tag schema.
pub(super) fn referrers(local: &impl Local, subject: &Digest, max: u32) -> Result<Vec<Descriptor>, Fault> {
    let index = local.index()?;
    let mut found = Referrers::new(local.place(), max);
    let mut search = Search::new(local);
    let schema = tags::referrers(subject);
    for entry in &index.manifests {
        if tag_of(entry) == Some(schema.as_str()) {
            match search.manifest(entry)?.as_deref() {
                Some(Manifest::Index(listed)) => {
                    for listed in &listed.manifests {
                        if is_manifest(&listed.media_type) {
                            search.manifest(listed)?;
                        }
                        found.add(listed.clone())?;
                    }
                }
                Some(Manifest::Image(_)) | None => {
                    return Err(Fault::broken(local.place(), format!("the tag {schema} leads to no index")));
                }
            }
            continue;
        }
        let Some(manifest) = search.manifest(entry)? else { continue };
        if manifest.subject().is_some_and(|named| named.digest == *subject) {
            found.add(described(entry.digest, entry.size, &manifest))?;
        }
    }
    Ok(found.list)
}

/// How a referrer is listed (distribution-spec, "Listing Referrers").
pub(super) fn described(digest: Digest, size: u64, manifest: &Manifest) -> Descriptor {
    let mut listed = Descriptor::new(manifest.media_type(), digest, size);
    listed.artifact_type = manifest.artifact_type().map(String::from);
    listed.annotations = match manifest {
        Manifest::Image(image) => image.annotations.clone(),
        Manifest::Index(index) => index.annotations.clone(),
    };
    listed
}

/// A list of referrers, each once, up to a bound.
pub(super) struct Referrers<'a> {
    place: &'a str,
    max: u32,
    seen: BTreeSet<Digest>,
    pub(super) list: Vec<Descriptor>,
}

impl<'a> Referrers<'a> {
    pub(super) const fn new(place: &'a str, max: u32) -> Self {
        Self { place, max, seen: BTreeSet::new(), list: Vec::new() }
    }

    pub(super) fn add(&mut self, entry: Descriptor) -> Result<(), Fault> {
        if !self.seen.insert(entry.digest) {
            return Ok(());
        }
        if self.list.len() >= usize::try_from(self.max).unwrap_or(usize::MAX) {
            return Err(Fault::too_long(self.place, "referrers", u64::from(self.max)));
        }
        self.list.push(entry);
        Ok(())
    }
}

/// Reads manifests up to a bound on all of them together.
struct Search<'a, L> {
    local: &'a L,
    left: u64,
}

impl<'a, L: Local> Search<'a, L> {
    const fn new(local: &'a L) -> Self {
        Self { local, left: MAX_SEARCH }
    }

    /// The manifest of an entry of an index; `None` for what is no manifest that we read: it then refers to nothing.
    ///
    /// An entry of a manifest's media type that is missing or damaged is an error: what refers to an image (a lock, a
    /// signature) must not vanish by being damaged.
    fn manifest(&mut self, entry: &Descriptor) -> Result<Option<Arc<Manifest>>, Fault> {
        match self.checked(entry) {
            Ok(bytes) => Ok(self.parsed(entry, &bytes)),
            Err(Fault::NotFound { .. } | Fault::Mismatch { .. } | Fault::Broken { .. } | Fault::TooLong { .. })
                if !is_manifest(&entry.media_type) && self.left > 0 =>
            {
                Ok(None)
            }
            // Not "not found": whoever asks for what refers to an image takes that for none.
            Err(Fault::NotFound { place, what }) => {
                Err(Fault::Broken { place, why: format!("an index lists what is not there: {what}") })
            }
            Err(fault) => Err(fault),
        }
    }

    /// What these bytes of an entry say: they were read and hashed now, whatever was known of them before.
    fn parsed(&self, entry: &Descriptor, bytes: &[u8]) -> Option<Arc<Manifest>> {
        let parse = || Manifest::parse(bytes, None).ok().map(Arc::new);
        let Some(known) = self.local.known() else { return parse() };
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(manifest) = known.manifest(entry.digest) {
            return manifest.clone();
        }
        let manifest = parse();
        known.keep_manifest(entry.digest, bytes, &manifest);
        manifest
    }

    fn checked(&mut self, entry: &Descriptor) -> Result<Vec<u8>, Fault> {
        let place = self.local.place();
        let blob = blob(self.local, &entry.digest)?;
        if blob.size() != entry.size {
            let why = format!("an index says that {} has {} bytes; it has {}", entry.digest, entry.size, blob.size());
            return Err(Fault::broken(place, why));
        }
        if blob.size() > u64::from(MAX_MANIFEST) {
            let what = format!("bytes of the manifest {}", entry.digest);
            return Err(Fault::too_long(place, what, u64::from(MAX_MANIFEST)));
        }
        let Some(left) = self.left.checked_sub(blob.size()) else {
            // Whatever the entry is, nothing more is looked at.
            self.left = 0;
            return Err(Fault::too_long(place, "bytes of manifests to search", MAX_SEARCH));
        };
        self.left = left;
        blob.pump(entry.size, Memory::default())?.matching(entry).map(|matched| matched.into_sink().0)
    }
}

/// The tags there, sorted.
pub(super) fn tags(local: &impl Local) -> Result<Vec<String>, Fault> {
    let index = local.index()?;
    let tags: BTreeSet<&str> = index.manifests.iter().filter_map(tag_of).filter(|tag| check_tag(tag).is_ok()).collect();
    Ok(tags.into_iter().map(String::from).collect())
}

/// The digest of a manifest that is to be kept as `target`, when it can be.
pub(super) fn check_put(
    place: &str,
    target: &Target,
    media_type: &str,
    bytes: &[u8],
) -> Result<(Digest, Manifest), Fault> {
    let manifest = Manifest::parse(bytes, Some(media_type))
        .map_err(|refusal| Fault::document(place, "the manifest to be kept", &refusal))?;
    let digest = Digest::of(bytes);
    match target {
        Target::Digest(wanted) if *wanted != digest => Err(Fault::Mismatch {
            place: place.to_owned(),
            want: *wanted,
            want_bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            got: digest,
            got_bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        }),
        Target::Tag(tag) => {
            check_tag(tag).map_err(|why| Fault::refused(place, why))?;
            Ok((digest, manifest))
        }
        Target::Digest(_) | Target::Only => Ok((digest, manifest)),
    }
}

/// `index` with a manifest that was put. A tag moves to it; without a tag it is listed when nothing else would lead to it:
/// an image, or what refers to another manifest.
pub(super) fn listed(
    place: &str,
    mut index: Index,
    target: &Target,
    (digest, manifest): (Digest, &Manifest),
    size: u64,
) -> Result<Index, Fault> {
    let mut entry = Descriptor::new(manifest.media_type(), digest, size);
    if manifest.subject().is_some() {
        entry.artifact_type = manifest.artifact_type().map(String::from);
    }
    let known = |index: &Index| index.manifests.iter().any(|entry| entry.digest == digest);
    match target {
        Target::Tag(tag) => {
            index
                .manifests
                .retain(|entry| tag_of(entry) != Some(tag) && !(entry.digest == digest && tag_of(entry).is_none()));
            entry.annotations.insert(media::REF_NAME.into(), tag.clone());
        }
        Target::Only if !known(&index) => {}
        Target::Digest(_) if manifest.subject().is_some() && !known(&index) => {}
        Target::Only | Target::Digest(_) => return Ok(index),
    }
    index.manifests.push(entry);
    if index.manifests.len() > MAX_CHILDREN {
        return Err(Fault::too_long(place, "manifests in index.json", u64::try_from(MAX_CHILDREN).unwrap_or(u64::MAX)));
    }
    Ok(index)
}
