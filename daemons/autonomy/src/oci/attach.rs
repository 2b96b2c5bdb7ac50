//! Locks and policy bundles of images: attached, found, pulled.

use std::path::Path;

use daemon_common::failure::{Ended, Failure};
use daemon_common::output::{Output, object};
use io_artifacts::blob::Blob;
use io_artifacts::source::Transport;
use machines::json::Value;
use machines::lock::Lock;
use machines::oci::{
    Descriptor, Digest, EMPTY_BLOB, Image, MAX_MANIFEST, Manifest, Place, Reference, Target, media, tags,
};
use machines::policy::bundle::MAX_PACKED;
use machines::verify::MAX_REFERRERS;

use crate::artifacts::{self, Resolved, block_on, create, open, resolve};
use crate::cli;
use crate::lock as locks;

/// What can be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A lock.
    Lock,
    /// A policy bundle.
    Policy,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Lock, Self::Policy];

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Policy => "policy bundle",
        }
    }

    const fn media_type(self) -> &'static str {
        match self {
            Self::Lock => media::LOCK,
            Self::Policy => media::POLICY_BUNDLE,
        }
    }

    fn tag(self, tag: &str) -> Option<String> {
        match self {
            Self::Lock => tags::lock(tag),
            Self::Policy => tags::policy(tag),
        }
    }

    fn most(self) -> u64 {
        let most = match self {
            Self::Lock => machines::lock::MAX_BYTES,
            Self::Policy => MAX_PACKED,
        };
        u64::try_from(most).unwrap_or(u64::MAX)
    }
}

/// Something that is attached.
#[derive(Clone, Debug)]
pub struct Attached {
    /// What.
    pub kind: Kind,
    /// Its manifest: what signatures of it name.
    pub manifest: Descriptor,
    /// The lock's or the bundle's own bytes.
    pub layer: Descriptor,
}

/// Attaches a lock.
pub fn lock(args: &cli::OciAttachLock, output: Output) -> Ended {
    let (lock, bytes) = locks::read(&args.lock)?;
    if !lock.matches() {
        eprintln!(
            "autonomy: {}: states another fingerprint than blake3:{}; step 3 of a verification will fail",
            args.lock.display(),
            lock.computed()
        );
    }
    let wants = lock.agent_artifact.digest;
    let warn = move |image: &Digest| {
        if *image != wants {
            eprintln!(
                "autonomy: the lock binds the image {wants}, this one is {image}; step 2 of a verification will fail"
            );
        }
    };
    attach(Kind::Lock, &args.image, &args.access, bytes, warn, output)
}

/// Attaches a policy bundle.
pub fn policy(args: &cli::OciAttachPolicy, output: Output) -> Ended {
    let (_, bytes) = locks::read_bundle(&args.bundle)?;
    attach(Kind::Policy, &args.image, &args.access, bytes, |_| {}, output)
}

fn attach(
    kind: Kind,
    image: &Reference,
    access: &cli::Access,
    bytes: Vec<u8>,
    look: impl Fn(&Digest),
    output: Output,
) -> Ended {
    let (subject, manifest, tag) = block_on(async {
        let at = writable(image, access).await?;
        let subject = resolve(&at, &image.target).await?;
        look(&subject.digest);
        let layer = Descriptor::of(kind.media_type(), &bytes);
        let artifact = Image::artifact(kind.media_type(), layer.clone(), Some(subject.descriptor()));
        at.put_blob(&artifact.config, &Blob::from_bytes(EMPTY_BLOB.to_vec())).await?;
        at.put_blob(&layer, &Blob::from_bytes(bytes)).await?;
        let manifest = artifact.to_bytes();
        let digest = Digest::of(&manifest);
        let tag = tag_of(&at, image, &subject.digest).await?.and_then(|tag| kind.tag(&tag));
        let target = tag.clone().map_or(Target::Digest(digest), Target::Tag);
        at.put_manifest(&target, &artifact.media_type, &manifest).await?;
        at.finish().await?;
        Ok((subject.digest, digest, tag))
    })?;
    let mut text = format!("{} attached to {subject}: {manifest}", kind.name());
    if let Some(tag) = &tag {
        text.push_str(&format!("\ntag: {tag}"));
    }
    output.print(&text, || {
        object([
            ("kind", Value::from(kind.name())),
            ("image", artifacts::digest(&subject)),
            ("digest", artifacts::digest(&manifest)),
            ("tag", tag.clone().map_or(Value::Null, Value::from)),
        ])
    })?;
    Ok(0)
}

/// Opens the place of an image that has to be there to write beside it.
pub async fn writable(image: &Reference, access: &cli::Access) -> Result<Transport, Failure> {
    // A layout or archive that is not there must not be made by a mistyped name.
    if !matches!(image.place, Place::Registry { .. }) {
        open(image, access).await?;
    }
    create(image, access).await
}

/// The tag beside which an image's attachments lie: the one that it was named by. In a layout or archive of one image, the
/// one that it has there.
pub async fn tag_of(at: &Transport, image: &Reference, digest: &Digest) -> Result<Option<String>, Failure> {
    if let Target::Digest(_) | Target::Tag(_) = image.target {
        return Ok(image.tag().map(str::to_owned));
    }
    let most = u32::try_from(machines::oci::MAX_CHILDREN).unwrap_or(u32::MAX);
    for tag in at.tags(most).await? {
        let found = at.manifest(&Target::Tag(tag.clone()), MAX_MANIFEST).await?;
        if found.digest == Some(*digest) {
            return Ok(Some(tag));
        }
    }
    Ok(None)
}

/// What is attached to an image: what refers to it, and what lies under the tags beside its own and refers to nothing else.
pub async fn attached(at: &Transport, image: &Resolved, tag: Option<&str>) -> Result<Vec<Attached>, Failure> {
    let mut found: Vec<Attached> = Vec::new();
    let referrers = at.referrers(&image.digest, None, MAX_REFERRERS).await?;
    for kind in Kind::ALL {
        let listed = referrers.iter().filter(|entry| entry.artifact_type.as_deref() == Some(kind.media_type()));
        let mut manifests = Vec::new();
        for entry in listed {
            manifests.push(resolve(at, &Target::Digest(entry.digest)).await?);
        }
        manifests.extend(artifacts::tagged(at, tag.and_then(|tag| kind.tag(tag))).await?);
        for resolved in manifests {
            if found.iter().any(|known| known.manifest.digest == resolved.digest) {
                continue;
            }
            found.extend(attachment(kind, &resolved, &image.digest));
        }
    }
    Ok(found)
}

/// What a manifest attaches to the image, if it attaches anything to it.
fn attachment(kind: Kind, resolved: &Resolved, image: &Digest) -> Option<Attached> {
    let Manifest::Image(artifact) = &resolved.manifest else { return None };
    let ours = artifact.subject.as_ref().is_none_or(|subject| subject.digest == *image);
    let [layer] = artifact.layers.as_slice() else { return None };
    let fits =
        ours && artifact.artifact_type.as_deref() == Some(kind.media_type()) && layer.media_type == kind.media_type();
    fits.then(|| Attached { kind, manifest: resolved.descriptor(), layer: layer.clone() })
}

/// The lock that is attached with the highest sequence, and its bytes. Nothing of it is verified.
pub async fn newest_lock(at: &Transport, attached: &[Attached]) -> Result<Option<(Lock, Vec<u8>)>, Failure> {
    let mut newest: Option<(Lock, Vec<u8>)> = None;
    for found in attached.iter().filter(|found| found.kind == Kind::Lock) {
        let bytes = at.bytes(&found.layer, Kind::Lock.most()).await?;
        let lock = Lock::read(&bytes)
            .map_err(|refusal| Failure::refused(format!("{}: {}: {refusal}", at.place(), found.manifest.digest)))?;
        if newest.as_ref().is_none_or(|(known, _)| known.sequence < lock.sequence) {
            newest = Some((lock, bytes));
        }
    }
    Ok(newest)
}

/// `oci pull-lock`
pub fn pull_lock(args: &cli::OciPullSidecar, output: Output) -> Ended {
    let (image, bytes) = block_on(async {
        let at = open(&args.image, &args.access).await?;
        let image = resolve(&at, &args.image.target).await?;
        let tag = tag_of(&at, &args.image, &image.digest).await?;
        let found = attached(&at, &image, tag.as_deref()).await?;
        match newest_lock(&at, &found).await? {
            Some((_, bytes)) => Ok((image.digest, bytes)),
            None => Err(nothing(Kind::Lock, &args.image)),
        }
    })?;
    pulled(Kind::Lock, &image, &args.out, &bytes, output)
}

/// `oci pull-policy`: the bundle that the lock names, or the only one.
pub fn pull_policy(args: &cli::OciPullSidecar, output: Output) -> Ended {
    let (image, bytes) = block_on(async {
        let at = open(&args.image, &args.access).await?;
        let image = resolve(&at, &args.image.target).await?;
        let tag = tag_of(&at, &args.image, &image.digest).await?;
        let found = attached(&at, &image, tag.as_deref()).await?;
        let named = newest_lock(&at, &found).await?.map(|(lock, _)| lock.policy_bundle.digest);
        let mut bundles: Vec<&Descriptor> =
            found.iter().filter(|found| found.kind == Kind::Policy).map(|found| &found.layer).collect();
        bundles.dedup_by_key(|layer| layer.digest);
        let chosen = match (bundles.iter().find(|layer| Some(layer.digest) == named), bundles.as_slice()) {
            (Some(named), _) => *named,
            (None, []) => return Err(nothing(Kind::Policy, &args.image)),
            (None, [only]) => *only,
            (None, several) => {
                let list: Vec<String> = several.iter().map(|layer| layer.digest.to_string()).collect();
                return Err(Failure::refused(format!(
                    "{}: several policy bundles are attached and no lock names one of them: {}",
                    args.image,
                    list.join(", ")
                )));
            }
        };
        Ok((image.digest, at.bytes(chosen, Kind::Policy.most()).await?))
    })?;
    pulled(Kind::Policy, &image, &args.out, &bytes, output)
}

fn nothing(kind: Kind, image: &Reference) -> Failure {
    Failure::refused(format!("{image}: no {} is attached", kind.name()))
}

fn pulled(kind: Kind, image: &Digest, out: &Path, bytes: &[u8], output: Output) -> Ended {
    let name = out.display().to_string();
    std::fs::write(out, bytes).map_err(|error| Failure::refused(format!("{name}: {error}")))?;
    let digest = Digest::of(bytes);
    let text = format!("{} of {image}: {name}\ndigest: {digest} (not verified)", kind.name());
    output.print(&text, || {
        object([
            ("image", artifacts::digest(image)),
            ("out", Value::from(name)),
            ("digest", artifacts::digest(&digest)),
        ])
    })?;
    Ok(0)
}
