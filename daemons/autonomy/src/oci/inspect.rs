//! `autonomy oci inspect` and `bundle inspect`: what is there. Nothing of it is verified.

use daemon_common::failure::{Ended, Failure};
use daemon_common::output::{Output, harmless, object};
use io_artifacts::source::Transport;
use machines::json::Value;
use machines::oci::{Descriptor, MAX_CHILDREN, MAX_MANIFEST, Manifest, Reference, Target, media, tags};
use machines::signature::{MAX_BUNDLE, MAX_PAYLOAD, SIGNED_AT, bundle, simple};
use machines::verify::MAX_REFERRERS;

use super::attach::{Attached, Kind, attached, newest_lock, tag_of};
use crate::artifacts::{self, Resolved, block_on, open, resolve};
use crate::cli::Access;

/// A signature as it is claimed.
struct Signature {
    layout: &'static str,
    signed_at: Option<String>,
    /// Why it cannot be read.
    broken: Option<String>,
}

/// What is known of an image.
struct Report {
    reference: String,
    image: Resolved,
    tags: Vec<String>,
    referrers: Vec<Descriptor>,
    attached: Vec<(Attached, Vec<Signature>)>,
    signatures: Vec<Signature>,
    lock: Option<machines::lock::Lock>,
}

/// Prints it.
pub fn inspect(image: &Reference, access: &Access, output: Output) -> Ended {
    let report = block_on(look(image, access))?;
    // Each line is made of words of the source, and stays one line.
    let lines: Vec<String> = report.lines().iter().map(|line| harmless(line)).collect();
    output.print(&lines.join("\n"), || report.value())?;
    Ok(0)
}

async fn look(reference: &Reference, access: &Access) -> Result<Report, Failure> {
    let at = open(reference, access).await?;
    let image = resolve(&at, &reference.target).await?;
    let tag = tag_of(&at, reference, &image.digest).await?;
    let tags = at.tags(u32::try_from(MAX_CHILDREN).unwrap_or(u32::MAX)).await?;
    let referrers = at.referrers(&image.digest, None, MAX_REFERRERS).await?;
    let found = attached(&at, &image, tag.as_deref()).await?;
    let lock = newest_lock(&at, &found).await?.map(|(lock, _)| lock);
    let signatures = signatures(&at, &image.descriptor()).await?;
    let mut attached = Vec::new();
    for found in found {
        let signatures = self::signatures(&at, &found.manifest).await?;
        attached.push((found, signatures));
    }
    Ok(Report { reference: reference.to_string(), image, tags, referrers, attached, signatures, lock })
}

/// The signatures of a manifest in both layouts.
async fn signatures(at: &Transport, subject: &Descriptor) -> Result<Vec<Signature>, Failure> {
    let mut found = Vec::new();
    let tag = Target::Tag(tags::signature(&subject.digest));
    match at.manifest(&tag, MAX_MANIFEST).await {
        Ok(manifest) => {
            let layers = match Manifest::parse(&manifest.bytes, manifest.media_type.as_deref()) {
                Ok(Manifest::Image(image)) => simple::signatures(&image).map_err(|refusal| refusal.to_string()),
                Ok(Manifest::Index(_)) => Err("it is an index".to_owned()),
                Err(refusal) => Err(refusal.to_string()),
            };
            match layers {
                Ok(layers) => {
                    for (layer, _) in layers {
                        let bytes = at.bytes(&layer, u64::try_from(MAX_PAYLOAD).unwrap_or(0)).await;
                        let claim = match bytes {
                            Ok(bytes) => simple::read(&bytes).map_err(|refusal| refusal.to_string()),
                            Err(fault) => Err(fault.to_string()),
                        };
                        found.push(Signature::of("simple", claim));
                    }
                }
                Err(why) => found.push(Signature::of("simple", Err(why))),
            }
        }
        Err(fault) if fault.is_not_found() => {}
        Err(fault) => return Err(fault.into()),
    }
    for entry in at.referrers(&subject.digest, Some(media::SIGSTORE_BUNDLE), MAX_REFERRERS).await? {
        found.push(Signature::of("bundle", bundled(at, &entry).await));
    }
    Ok(found)
}

/// The claim of a sigstore bundle.
async fn bundled(at: &Transport, entry: &Descriptor) -> Result<machines::signature::Claim, String> {
    let resolved = resolve(at, &Target::Digest(entry.digest)).await.map_err(|failure| failure.message)?;
    let Manifest::Image(image) = &resolved.manifest else { return Err("it is an index".to_owned()) };
    let [layer] = image.layers.as_slice() else { return Err("it has not exactly one layer".to_owned()) };
    let bytes = at.bytes(layer, u64::try_from(MAX_BUNDLE).unwrap_or(0)).await.map_err(|fault| fault.to_string())?;
    bundle::read(&bytes).map(|signed| signed.claim).map_err(|refusal| refusal.to_string())
}

impl Signature {
    fn of(layout: &'static str, claim: Result<machines::signature::Claim, String>) -> Self {
        match claim {
            Ok(claim) => Self { layout, signed_at: claim.annotations.get(SIGNED_AT).cloned(), broken: None },
            Err(why) => Self { layout, signed_at: None, broken: Some(why) },
        }
    }

    fn words(&self) -> String {
        match (&self.broken, &self.signed_at) {
            (Some(why), _) => format!("{}, unreadable: {why}", self.layout),
            (None, Some(at)) => format!("{}, signed at {at}", self.layout),
            (None, None) => format!("{}, undated", self.layout),
        }
    }

    fn value(&self) -> Value {
        let text = |text: &Option<String>| text.clone().map_or(Value::Null, Value::from);
        object([
            ("layout", Value::from(self.layout)),
            ("signed_at", text(&self.signed_at)),
            ("unreadable", text(&self.broken)),
        ])
    }
}

impl Report {
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("image: {}", self.reference),
            format!("digest: {}", self.image.digest),
            format!("media type: {}", self.image.manifest.media_type()),
        ];
        match &self.image.manifest {
            Manifest::Image(image) => {
                for layer in &image.layers {
                    lines.push(format!("layer: {} ({} bytes, {})", layer.digest, layer.size, layer.media_type));
                }
            }
            Manifest::Index(index) => {
                for entry in &index.manifests {
                    let platform = entry.platform.as_ref().map(|on| format!(", {}/{}", on.os, on.architecture));
                    lines.push(format!("manifest: {}{}", entry.digest, platform.unwrap_or_default()));
                }
            }
        }
        lines.extend(self.tags.iter().map(|tag| format!("tag: {tag}")));
        for entry in &self.referrers {
            lines.push(format!("referrer: {} ({})", entry.digest, entry.artifact_type.as_deref().unwrap_or("no type")));
        }
        lines.push(format!("signatures: {}", list(&self.signatures)));
        for kind in Kind::ALL {
            let mut none = true;
            for (found, signatures) in self.attached.iter().filter(|(found, _)| found.kind == kind) {
                none = false;
                lines.push(format!("{}: {} (signatures: {})", kind.name(), found.layer.digest, list(signatures)));
            }
            if none {
                lines.push(format!("{}: none", kind.name()));
            }
        }
        if let Some(lock) = &self.lock {
            lines.push(format!(
                "release: {} {}, sequence {}, blake3:{}",
                lock.name, lock.version, lock.sequence, lock.fingerprint
            ));
        }
        lines.push("nothing of this is verified".to_owned());
        lines
    }

    fn value(&self) -> Value {
        let strings = |list: &[String]| Value::Array(list.iter().map(|text| Value::from(text.as_str())).collect());
        let signatures = |list: &[Signature]| Value::Array(list.iter().map(Signature::value).collect());
        let parts = match &self.image.manifest {
            Manifest::Image(image) => &image.layers,
            Manifest::Index(index) => &index.manifests,
        };
        let attached = self.attached.iter().map(|(found, list)| {
            object([
                ("kind", Value::from(found.kind.name())),
                ("manifest", artifacts::digest(&found.manifest.digest)),
                ("digest", artifacts::digest(&found.layer.digest)),
                ("signatures", signatures(list)),
            ])
        });
        let has = |kind: Kind| Value::from(self.attached.iter().any(|(found, _)| found.kind == kind));
        let release = self.lock.as_ref().map_or(Value::Null, |lock| {
            object([
                ("name", Value::from(lock.name.as_str())),
                ("version", Value::from(lock.version.to_string())),
                ("sequence", Value::from(lock.sequence)),
                ("fingerprint", Value::from(format!("blake3:{}", lock.fingerprint))),
            ])
        });
        object([
            ("reference", Value::from(self.reference.as_str())),
            ("digest", artifacts::digest(&self.image.digest)),
            ("media_type", Value::from(self.image.manifest.media_type())),
            ("parts", Value::Array(parts.iter().map(Descriptor::to_value).collect())),
            ("tags", strings(&self.tags)),
            ("referrers", Value::Array(self.referrers.iter().map(Descriptor::to_value).collect())),
            ("signatures", signatures(&self.signatures)),
            ("lock_attached", has(Kind::Lock)),
            ("policy_attached", has(Kind::Policy)),
            ("attached", Value::Array(attached.collect())),
            ("release", release),
            ("verified", Value::from(false)),
        ])
    }
}

fn list(signatures: &[Signature]) -> String {
    if signatures.is_empty() {
        return "none".to_owned();
    }
    signatures.iter().map(Signature::words).collect::<Vec<_>>().join("; ")
}
