//! Copies an image with all that is attached to it from one place to another: the manifests beneath an index, what refers
//! to them and to that in turn (signatures, locks, policies), and the tags that stand for such by convention.
//!
//! Blobs go first, then manifests, what is attached before what it is attached to; the tag that was asked for is set last.
//! Whoever sees the tag sees everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use machines::oci::{Descriptor, Digest, MAX_MANIFEST, Manifest, Target, media, tags};
use tokio::task::JoinSet;

use crate::Fault;
use crate::blob::{Discard, Scratch};
use crate::cache::Cache;
use crate::source::{Found, Transport};

/// Most manifests of one copy.
const MAX_MANIFESTS: usize = 1024;
/// Most bytes of manifests of one copy: they are held in memory.
const MAX_MANIFEST_BYTES: usize = 16 * 1024 * 1024;
/// Most blobs of one copy.
const MAX_BLOBS: usize = 8192;
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
    let plan = Plan::of(from, at).await?;
    let mut copied = Copied { digest: Some(plan.root), manifests: plan.nodes.len(), ..Copied::default() };
    progress.planned(plan.blobs.len(), plan.blobs.values().fold(0, |sum, blob| blob.size.saturating_add(sum)));
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
    for (tag, digest) in plan.tags(at, name) {
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

/// Puts the image `at` in `from`, with all that is attached, into the blob cache: manifests too, each by its digest.
///
/// # Errors
/// When something cannot be read, is not what its digest says, or does not fit into the cache beside what is pinned there.
pub async fn keep(from: &Transport, at: &Target, cache: &Cache) -> Result<Copied, Fault> {
    let plan = Plan::of(from, at).await?;
    let mut copied = Copied { digest: Some(plan.root), manifests: plan.nodes.len(), ..Copied::default() };
    let no_room = || Fault::refused(from.place(), "there is no room for it in the blob cache");
    for blob in plan.blobs.values() {
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
    for node in plan.nodes.values() {
        let (there, media_type, bytes) = (cache.clone(), node.media_type.clone(), node.bytes.clone());
        let put = tokio::task::spawn_blocking(move || there.put(&Descriptor::of(&media_type, &bytes), bytes));
        if !put.await.map_err(|error| Fault::task(from.place(), &error))?? {
            return Err(no_room());
        }
    }
    Ok(copied)
}

async fn put(plan: &Plan, to: &Transport, target: &Target, digest: Digest) -> Result<(), Fault> {
    let Some(node) = plan.nodes.get(&digest) else { return Ok(()) };
    to.put_manifest(target, &node.media_type, &node.bytes).await.map(drop)
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
    bytes: usize,
}

/// What is still to be looked at.
type Queue = Vec<(Digest, Option<Manifest>, Way, u32)>;

impl Plan {
    async fn of(from: &Transport, at: &Target) -> Result<Self, Fault> {
        let image = from.manifest(at, MAX_MANIFEST).await?;
        let root = Digest::of(&image.bytes);
        let (nodes, blobs) = (BTreeMap::new(), BTreeMap::new());
        let (found, signatures, beside) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let mut plan = Self { root, nodes, found, blobs, signatures, beside, bytes: 0 };
        let mut queue = Queue::new();
        plan.add(from, image, (Way::Named, 0), &mut queue)?;
        if let Target::Tag(tag) = at {
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
        let known = [media::IMAGE_MANIFEST, media::IMAGE_INDEX, media::DOCKER_MANIFEST, media::DOCKER_LIST];
        for entry in from.referrers(&to, None, MAX_REFERRERS).await? {
            // Kinds of manifests from before OCI 1.1 are nothing to us.
            if !known.contains(&entry.media_type.as_str()) {
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
                for blob in image.layers.iter().chain([&image.config]) {
                    let before = self.blobs.insert(blob.digest, blob.clone());
                    if before.is_some_and(|before| before.size != blob.size) {
                        return Err(Fault::broken(
                            from.place(),
                            format!("two descriptors of {} differ in size", blob.digest),
                        ));
                    }
                }
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

    /// The tags besides the one that was asked for.
    fn tags(&self, at: &Target, name: &Target) -> Vec<(String, Digest)> {
        let mut tags: Vec<_> = self.signatures.iter().map(|(tag, digest)| (tag.clone(), *digest)).collect();
        let tag = match (name, at) {
            (Target::Tag(tag), _) => tag,
            (Target::Digest(_) | Target::Only, _) => return tags,
        };
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
