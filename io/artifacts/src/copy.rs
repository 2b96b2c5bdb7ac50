//! Copies an image with all that is attached to it from one place to another: the manifests beneath an index, what refers
//! to them and to that in turn (signatures, locks, policies), and the tags that stand for such by convention.
//!
//! Blobs go first, then manifests, what is attached before what it is attached to; the tag that was asked for is set last.
//! Whoever sees the tag sees everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use machines::oci::{Descriptor, Digest, MAX_MANIFEST, Manifest, Target, tags};
use machines::signature::{MAX_SIGNATURES, simple};
use machines::verify::Inventory;
use tokio::task::JoinSet;

use crate::Fault;
use crate::blob::{Blob, Discard, Scratch};
use crate::cache::Cache;
use crate::source::{Found, MAX_BLOB, Transport, is_manifest};

/// Most manifests of one copy.
const MAX_MANIFESTS: usize = 1024;
/// Most bytes of manifests of one copy: they are held in memory.
const MAX_MANIFEST_BYTES: usize = 16 * 1024 * 1024;
/// Most blobs of one copy.
const MAX_BLOBS: usize = 8192;
/// Most bytes of blobs of one copy: what a manifest announces is believed up to here, before the first byte comes.
const MAX_BLOB_BYTES: u64 = 64 * 1024 * 1024 * 1024;
/// Most entries of one list of referrers.
const MAX_REFERRERS: u32 = 256;
/// How far something may be attached to something attached.
const MAX_DEPTH: u32 = 8;
/// How many blobs are on their way at once.
const AT_ONCE: usize = 4;

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// The image's digest.
    pub digest: Option<Digest>,
    /// How many manifests, the image's own among them.
    pub manifests: usize,
    /// How many blobs were there already.
    pub blobs_there: usize,
    /// How many blobs were copied.
    pub blobs_copied: usize,
    /// Their bytes.
    pub bytes_copied: u64,
}

/// Is told what happens, for people who wait.
pub trait Progress: Send + Sync + 'static {
    /// What there is to copy, before the first blob.
    fn planned(&self, blobs: usize, bytes: u64) {
        let _ = (blobs, bytes);
    }
    /// A blob is there.
    fn blob(&self, digest: &Digest, bytes: u64) {
        let _ = (digest, bytes);
    }
}

impl Progress for () {}

/// Copies the image `at` in `from`, with all that is attached, to `to` under `name`. An archive is written at the end.
///
/// # Errors
/// When something cannot be read, is not what its digest says, is more than there may be, or cannot be kept. What was
/// copied until then is not listed under the tag.
pub async fn copy(
    from: &Transport,
    at: &Target,
    to: &Transport,
    name: &Target,
    progress: Arc<dyn Progress>,
) -> Result<Copied, Fault> {
    let tag = if let Target::Tag(tag) = at { Some(tag.as_str()) } else { None };
    carry(Plan::of(from, at, tag).await?, from, to, name, progress).await
}

/// As [`copy()`], of an image that was resolved before: its manifest is asked for by the digest, whatever its tag leads to by
/// now. The tag leads to what lies beside it, `<tag>-lock` and `<tag>-policy`.
///
/// # Errors
/// As for [`copy()`].
pub async fn copy_resolved(
    from: &Transport,
    (image, tag): (&Digest, Option<&str>),
    to: &Transport,
    name: &Target,
    progress: Arc<dyn Progress>,
) -> Result<Copied, Fault> {
    carry(Plan::of(from, &Target::Digest(*image), tag).await?, from, to, name, progress).await
}

async fn carry(
    plan: Plan,
    from: &Transport,
    to: &Transport,
    name: &Target,
    progress: Arc<dyn Progress>,
) -> Result<Copied, Fault> {
    let mut copied = Copied { digest: Some(plan.root), manifests: plan.nodes.len(), ..Copied::default() };
    progress.planned(plan.blobs.len(), plan.blob_bytes);
    let mut waiting = plan.blobs.values().cloned();
    let mut running = JoinSet::new();
    loop {
        while running.len() < AT_ONCE
            && let Some(blob) = waiting.next()
        {
            let (from, to) = (from.clone(), to.clone());
            running.spawn(async move { copy_blob(&from, &to, &blob).await.map(|moved| (blob, moved)) });
        }
        let Some(done) = running.join_next().await else { break };
        let (blob, moved) = done.map_err(|error| Fault::task(to.place(), &error))??;
        progress.blob(&blob.digest, blob.size);
        if moved {
            copied.blobs_copied += 1;
            copied.bytes_copied = copied.bytes_copied.saturating_add(blob.size);
        } else {
            copied.blobs_there += 1;
        }
    }
    for digest in plan.order() {
        put(&plan, to, &Target::Digest(digest), digest).await?;
    }
    for (tag, digest) in &plan.signatures {
        put_signatures(&plan, to, tag, *digest).await?;
    }
    for (tag, digest) in plan.tags(name) {
        put(&plan, to, &Target::Tag(tag), digest).await?;
    }
    match name {
        Target::Tag(_) | Target::Only => put(&plan, to, name, plan.root).await?,
        Target::Digest(digest) if *digest == plan.root => {}
        Target::Digest(digest) => {
            return Err(Fault::refused(to.place(), format!("the image is {}, not {digest}", plan.root)));
        }
    }
    to.finish().await?;
    Ok(copied)
}

/// Puts what was verified into the blob cache, manifests too, each by its digest; what else is attached to the image stays
/// where it is. It is read once more, and hashed on its way.
///
/// # Errors
/// When something cannot be read, is not what its digest says, or does not fit into the cache beside what is pinned there;
/// when another process takes the room meanwhile.
pub async fn keep(from: &Transport, parts: &Inventory, cache: &Cache) -> Result<Copied, Fault> {
    let all: Vec<Descriptor> = parts.blobs.values().chain(parts.manifests.values()).cloned().collect();
    check_sizes(from, parts)?;
    let total = all.iter().map(|part| part.size).fold(0, u64::saturating_add);
    if total > cache.max_bytes() {
        let why = format!("it takes {total} bytes, and the blob cache holds at most {}", cache.max_bytes());
        return Err(Fault::refused(from.place(), why));
    }
    // What makes room for the rest must not be a part of it.
    let cache = &cache.sparing(all.iter().map(|part| part.digest));
    let mut copied = Copied { manifests: parts.manifests.len(), ..Copied::default() };
    let no_room = || Fault::refused(from.place(), "there is no room for it in the blob cache");
    for blob in parts.blobs.values() {
        let (there, wanted) = (cache.clone(), blob.clone());
        let looked = tokio::task::spawn_blocking(move || match there.stream(&wanted, || Ok(Discard))? {
            Some(_) => Ok((true, None)),
            None => there.incoming(&wanted).map(|incoming| (false, incoming)),
        });
        match looked.await.map_err(|error| Fault::task(from.place(), &error))?? {
            (true, _) => copied.blobs_there += 1,
            (false, None) => return Err(no_room()),
            (false, Some(incoming)) => {
                let matched = from.stream(blob, incoming).await?;
                let kept = tokio::task::spawn_blocking(move || matched.keep());
                kept.await.map_err(|error| Fault::task(from.place(), &error))??;
                copied.blobs_copied += 1;
                copied.bytes_copied = copied.bytes_copied.saturating_add(blob.size);
            }
        }
    }
    for part in parts.manifests.values() {
        let found = from.manifest(&Target::Digest(part.digest), MAX_MANIFEST).await?;
        let (there, part) = (cache.clone(), part.clone());
        let put = tokio::task::spawn_blocking(move || there.put(&part, found.bytes));
        if !put.await.map_err(|error| Fault::task(from.place(), &error))?? {
            return Err(no_room());
        }
    }
    let there = cache.clone();
    let missing = tokio::task::spawn_blocking(move || there.first_missing(&all));
    match missing.await.map_err(|error| Fault::task(from.place(), &error))?? {
        None => Ok(copied),
        Some(digest) => Err(Fault::refused(
            from.place(),
            format!("another process took the room of {digest} in the blob cache; try again"),
        )),
    }
}

/// The bounds of a copy hold for what is kept, too.
fn check_sizes(from: &Transport, parts: &Inventory) -> Result<(), Fault> {
    let mut total: u64 = 0;
    for blob in parts.blobs.values() {
        if blob.size > MAX_BLOB {
            return Err(long_blob(from, blob));
        }
        total = total.saturating_add(blob.size);
    }
    if total > MAX_BLOB_BYTES { Err(many_bytes(from)) } else { Ok(()) }
}

fn long_blob(from: &Transport, blob: &Descriptor) -> Fault {
    let what = format!("bytes of the blob {}, whose descriptor says {}", blob.digest, blob.size);
    Fault::too_long(from.place(), what, MAX_BLOB)
}

fn many_bytes(from: &Transport) -> Fault {
    Fault::too_long(from.place(), "bytes of blobs of one image", MAX_BLOB_BYTES)
}

async fn put(plan: &Plan, to: &Transport, target: &Target, digest: Digest) -> Result<(), Fault> {
    let Some(node) = plan.nodes.get(&digest) else { return Ok(()) };
    to.put_manifest(target, &node.media_type, &node.bytes).await.map(drop)
}

/// Sets the tag of cosign's signatures. Those that lie there already stay: whoever copies adds his own to them.
async fn put_signatures(plan: &Plan, to: &Transport, tag: &str, digest: Digest) -> Result<(), Fault> {
    let Some(node) = plan.nodes.get(&digest) else { return Ok(()) };
    let target = Target::Tag(tag.to_owned());
    let found = match there(to.manifest(&target, MAX_MANIFEST).await) {
        Ok(Some(found)) if Digest::of(&found.bytes) != digest => found,
        // What is damaged is mended.
        Ok(_) | Err(Fault::Mismatch { .. }) => return put(plan, to, &target, digest).await,
        Err(fault) => return Err(fault),
    };
    let mut layers = signatures_of(to, &found.bytes, found.media_type.as_deref())?;
    let known = layers.len();
    for layer in signatures_of(to, &node.bytes, Some(&node.media_type))? {
        let signature = |layer: &Descriptor| layer.annotations.get(simple::SIGNATURE).cloned();
        let same = |other: &Descriptor| other.digest == layer.digest && signature(other) == signature(&layer);
        if !layers.iter().any(same) {
            layers.push(layer);
        }
    }
    if layers.len() == known {
        return Ok(());
    }
    if layers.len() > MAX_SIGNATURES {
        let why = format!(
            "under {tag} there would be {} signatures, and nobody looks at more than {MAX_SIGNATURES}; remove that tag",
            layers.len()
        );
        return Err(Fault::refused(to.place(), why));
    }
    let (config, manifest) = simple::manifest(layers);
    to.put_blob(&manifest.config, &Blob::from_bytes(config)).await?;
    to.put_manifest(&target, &manifest.media_type, &manifest.to_bytes()).await.map(drop)
}

fn signatures_of(to: &Transport, bytes: &[u8], media_type: Option<&str>) -> Result<Vec<Descriptor>, Fault> {
    match Manifest::parse(bytes, media_type) {
        Ok(Manifest::Image(image)) => Ok(image.layers),
        Ok(Manifest::Index(_)) => {
            Err(Fault::refused(to.place(), "under a tag of signatures lies an index, which cannot be added to"))
        }
        Err(refusal) => Err(Fault::document(to.place(), "the signatures under their tag", &refusal)),
    }
}

/// Whether the blob had to be moved.
async fn copy_blob(from: &Transport, to: &Transport, blob: &Descriptor) -> Result<bool, Fault> {
    if to.has_blob(blob).await? {
        return Ok(false);
    }
    if let (Transport::Registry(from), Transport::Registry(to)) = (from, to)
        && from.host() == to.host()
        && to.mount(blob, from.repository()).await?
    {
        return Ok(true);
    }
    if let Some(incoming) = to.incoming().await? {
        let matched = from.stream(blob, incoming).await?;
        let kept = tokio::task::spawn_blocking(move || matched.keep());
        kept.await.map_err(|error| Fault::task(to.place(), &error))??;
        return Ok(true);
    }
    let there = from.blob(blob, Scratch::new).await?;
    to.put_blob(blob, &there).await?;
    Ok(true)
}

/// A manifest that is copied.
struct Node {
    media_type: String,
    bytes: Vec<u8>,
    children: Vec<Digest>,
}

/// How a manifest was found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Named, listed by an index, or referring to another one.
    Named,
    /// By the tag of cosign's signatures: such are not signed themselves.
    Signature,
}

/// All that is copied.
struct Plan {
    root: Digest,
    nodes: BTreeMap<Digest, Node>,
    /// The order in which they were found.
    found: Vec<Digest>,
    blobs: BTreeMap<Digest, Descriptor>,
    /// Tags of cosign's signatures.
    signatures: BTreeMap<String, Digest>,
    /// `<tag>-lock` and `<tag>-policy`, by what is behind the tag.
    beside: BTreeMap<&'static str, Digest>,
    /// Of manifests.
    bytes: usize,
    blob_bytes: u64,
}

/// What is still to be looked at.
type Queue = Vec<(Digest, Option<Manifest>, Way, u32)>;

impl Plan {
    /// The image `at`, what is attached to it, and what lies beside `tag`.
    async fn of(from: &Transport, at: &Target, tag: Option<&str>) -> Result<Self, Fault> {
        let image = from.manifest(at, MAX_MANIFEST).await?;
        let root = Digest::of(&image.bytes);
        let (nodes, blobs) = (BTreeMap::new(), BTreeMap::new());
        let (found, signatures, beside) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let mut plan = Self { root, nodes, found, blobs, signatures, beside, bytes: 0, blob_bytes: 0 };
        let mut queue = Queue::new();
        plan.add(from, image, (Way::Named, 0), &mut queue)?;
        if let Some(tag) = tag {
            for (kind, beside) in [("-lock", tags::lock(tag)), ("-policy", tags::policy(tag))] {
                let Some(beside) = beside else { continue };
                if let Some(manifest) = there(from.manifest(&Target::Tag(beside), MAX_MANIFEST).await)? {
                    let digest = Digest::of(&manifest.bytes);
                    plan.beside.insert(kind, digest);
                    plan.add(from, manifest, (Way::Named, 1), &mut queue)?;
                }
            }
        }
        while let Some((digest, manifest, way, depth)) = queue.pop() {
            if let Some(Manifest::Index(index)) = manifest {
                for child in &index.manifests {
                    plan.fetch(from, child, (Way::Named, depth.saturating_add(1)), &mut queue).await?;
                }
            }
            if way == Way::Signature {
                continue;
            }
            plan.attached(from, digest, depth.saturating_add(1), &mut queue).await?;
        }
        Ok(plan)
    }

    /// What is attached to a manifest.
    async fn attached(&mut self, from: &Transport, to: Digest, depth: u32, queue: &mut Queue) -> Result<(), Fault> {
        for entry in from.referrers(&to, None, MAX_REFERRERS).await? {
            // Kinds of manifests from before OCI 1.1 are nothing to us.
            if !is_manifest(&entry.media_type) {
                continue;
            }
            match self.fetch(from, &entry, (Way::Named, depth), queue).await {
                // A list may be older than what it lists.
                Err(fault) if fault.is_not_found() => {}
                other => other?,
            }
        }
        let tag = tags::signature(&to);
        if let Some(manifest) = there(from.manifest(&Target::Tag(tag.clone()), MAX_MANIFEST).await)? {
            self.signatures.insert(tag, Digest::of(&manifest.bytes));
            self.add(from, manifest, (Way::Signature, depth), queue)?;
        }
        Ok(())
    }

    async fn fetch(
        &mut self,
        from: &Transport,
        entry: &Descriptor,
        how: (Way, u32),
        queue: &mut Queue,
    ) -> Result<(), Fault> {
        if self.nodes.contains_key(&entry.digest) {
            return Ok(());
        }
        let max = u32::try_from(entry.size).unwrap_or(u32::MAX).min(MAX_MANIFEST);
        let mut manifest = from.manifest(&Target::Digest(entry.digest), max).await?;
        if u64::try_from(manifest.bytes.len()) != Ok(entry.size) {
            let why = format!(
                "manifest {} has {} bytes, its descriptor says {}",
                entry.digest,
                manifest.bytes.len(),
                entry.size
            );
            return Err(Fault::broken(from.place(), why));
        }
        // What led to it says what it is (FAULTS S16).
        manifest.media_type = Some(entry.media_type.clone());
        self.add(from, manifest, how, queue)
    }

    fn add(
        &mut self,
        from: &Transport,
        found: Found,
        (way, depth): (Way, u32),
        queue: &mut Queue,
    ) -> Result<(), Fault> {
        let Found { media_type, bytes, .. } = found;
        let digest = Digest::of(&bytes);
        if self.nodes.contains_key(&digest) {
            return Ok(());
        }
        let many = |what: &str, max: usize| Fault::too_long(from.place(), what, u64::try_from(max).unwrap_or(u64::MAX));
        if depth > MAX_DEPTH {
            return Err(many("levels of manifests that refer to each other", usize::try_from(MAX_DEPTH).unwrap_or(8)));
        }
        self.bytes = self.bytes.saturating_add(bytes.len());
        if self.nodes.len() >= MAX_MANIFESTS {
            return Err(many("manifests of one image", MAX_MANIFESTS));
        }
        if self.bytes > MAX_MANIFEST_BYTES {
            return Err(many("bytes of manifests of one image", MAX_MANIFEST_BYTES));
        }
        let manifest = Manifest::parse(&bytes, media_type.as_deref())
            .map_err(|refusal| Fault::document(from.place(), &format!("manifest {digest}"), &refusal))?;
        let mut children = Vec::new();
        match &manifest {
            Manifest::Image(image) => {
                image.layers.iter().chain([&image.config]).try_for_each(|blob| self.add_blob(from, blob))?;
            }
            Manifest::Index(index) => children.extend(index.manifests.iter().map(|child| child.digest)),
        }
        if self.blobs.len() > MAX_BLOBS {
            return Err(many("blobs of one image", MAX_BLOBS));
        }
        let media_type = manifest.media_type().to_owned();
        self.nodes.insert(digest, Node { media_type, bytes, children });
        self.found.push(digest);
        queue.push((digest, Some(manifest), way, depth));
        Ok(())
    }

    fn add_blob(&mut self, from: &Transport, blob: &Descriptor) -> Result<(), Fault> {
        if blob.size > MAX_BLOB {
            return Err(long_blob(from, blob));
        }
        match self.blobs.insert(blob.digest, blob.clone()) {
            Some(before) if before.size != blob.size => {
                return Err(Fault::broken(from.place(), format!("two descriptors of {} differ in size", blob.digest)));
            }
            Some(_) => {}
            None => self.blob_bytes = self.blob_bytes.saturating_add(blob.size),
        }
        if self.blob_bytes > MAX_BLOB_BYTES {
            return Err(many_bytes(from));
        }
        Ok(())
    }

    /// What was found last goes first, and each behind its children. The root is among them, without a tag yet.
    fn order(&self) -> Vec<Digest> {
        let (mut done, mut order) = (BTreeSet::new(), Vec::new());
        for digest in self.found.iter().rev() {
            // Each is looked at twice: to put its children above it, and when they are done.
            let mut stack = vec![(*digest, false)];
            while let Some((digest, children_done)) = stack.pop() {
                if children_done {
                    order.push(digest);
                } else if done.insert(digest) {
                    stack.push((digest, true));
                    let children = self.nodes.get(&digest).map_or(&[][..], |node| &node.children);
                    stack.extend(children.iter().map(|child| (*child, false)));
                }
            }
        }
        order
    }

    /// The tags beside the one that was asked for.
    fn tags(&self, name: &Target) -> Vec<(String, Digest)> {
        let mut tags = Vec::new();
        let Target::Tag(tag) = name else { return tags };
        for (kind, digest) in &self.beside {
            let beside = if *kind == "-lock" { tags::lock(tag) } else { tags::policy(tag) };
            tags.extend(beside.map(|beside| (beside, *digest)));
        }
        tags
    }
}

/// What is not there is no failure.
fn there(found: Result<Found, Fault>) -> Result<Option<Found>, Fault> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(fault) if fault.is_not_found() => Ok(None),
        Err(fault) => Err(fault),
    }
}
