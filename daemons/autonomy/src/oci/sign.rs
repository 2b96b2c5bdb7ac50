//! `autonomy oci sign`: signatures in both of cosign's layouts.

use std::collections::BTreeMap;

use daemon_common::failure::{Ended, Failure};
use daemon_common::output::{Output, object};
use io_artifacts::blob::Blob;
use io_artifacts::keys::SigningKey;
use io_artifacts::source::Transport;
use io_drive::clock;
use machines::json::Value;
use machines::oci::{Descriptor, EMPTY_BLOB, MAX_MANIFEST, Manifest, Place, Reference, Target, tags};
use machines::signature::{MAX_PAYLOAD, MAX_SIGNATURES, SIGNED_AT, bundle, simple};
use machines::time::Wall;

use super::attach::{attached, tag_of, writable};
use crate::artifacts::{self, block_on, password_of, resolve};
use crate::cli::{self, SignatureLayout};

/// What is signed, and how.
struct Signer<'a> {
    at: &'a Transport,
    key: &'a SigningKey,
    /// What simple signing calls the image.
    identity: String,
    annotations: BTreeMap<String, String>,
    layout: SignatureLayout,
}

/// Signs the image to which the name leads now, and what is attached to it.
pub fn sign(args: &cli::OciSign, output: Output) -> Ended {
    let annotations = dated(artifacts::annotations(&args.annotations)?)?;
    let signed_at = annotations.get(SIGNED_AT).cloned().unwrap_or_default();
    let key = SigningKey::open(&args.key, &password_of(&args.key)?)?;
    let signed = block_on(async {
        let at = writable(&args.image, &args.access).await?;
        let image = resolve(&at, &args.image.target).await?;
        let mut subjects = vec![("image", image.descriptor())];
        if args.recursive {
            let tag = tag_of(&at, &args.image, &image.digest).await?;
            let found = attached(&at, &image, tag.as_deref()).await?;
            subjects.extend(found.into_iter().map(|found| (found.kind.name(), found.manifest)));
        }
        let identity = args.identity.clone().unwrap_or_else(|| identity(&args.image));
        let signer = Signer { at: &at, key: &key, identity, annotations, layout: args.layout };
        for (_, subject) in &subjects {
            signer.sign(subject).await?;
        }
        at.finish().await?;
        Ok(subjects)
    })?;
    let lines: Vec<String> =
        signed.iter().map(|(what, subject)| format!("signed {what}: {}", subject.digest)).collect();
    let fingerprint = key.public().fingerprint().to_string();
    let text = format!("{}\nkey: {fingerprint}\n{SIGNED_AT}: {signed_at}", lines.join("\n"));
    output.print(&text, || {
        let signed = signed.iter().map(|(what, subject)| {
            object([("what", Value::from(*what)), ("digest", artifacts::digest(&subject.digest))])
        });
        object([
            ("signed", Value::Array(signed.collect())),
            ("key", Value::from(fingerprint.as_str())),
            ("signed_at", Value::from(signed_at.as_str())),
        ])
    })?;
    Ok(0)
}

/// The annotations with the time of signing, which somebody may have given for himself.
fn dated(mut annotations: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Failure> {
    match annotations.get(SIGNED_AT) {
        Some(text) if Wall::parse_any_rfc3339(text).is_none() => {
            return Err(Failure::usage(format!("-a {SIGNED_AT}={text}: is no RFC 3339 time from 1970 on")));
        }
        Some(_) => {}
        None => _ = annotations.insert(SIGNED_AT.to_owned(), clock::wall().to_string()),
    }
    Ok(annotations)
}

/// A registry's image is known by its repository, another one by where it lies.
fn identity(image: &Reference) -> String {
    match &image.place {
        Place::Registry { host, repository } => format!("{host}/{repository}"),
        local @ (Place::Layout(_) | Place::Archive(_)) => local.to_string(),
    }
}

impl Signer<'_> {
    async fn sign(&self, subject: &Descriptor) -> Result<(), Failure> {
        let (simple, bundle) = match self.layout {
            SignatureLayout::Both => (true, true),
            SignatureLayout::Simple => (true, false),
            SignatureLayout::Bundle => (false, true),
        };
        if simple {
            self.simple(subject).await?;
        }
        if bundle {
            self.bundle(subject).await?;
        }
        Ok(())
    }

    /// Adds a signature to those under the tag `sha256-….sig`.
    async fn simple(&self, subject: &Descriptor) -> Result<(), Failure> {
        let tag = Target::Tag(tags::signature(&subject.digest));
        let mut layers = self.layers(&tag).await?;
        if layers.len() >= MAX_SIGNATURES {
            return Err(Failure::refused(format!(
                "{}: {} has {MAX_SIGNATURES} signatures already, and nobody looks at more; remove the tag {}",
                self.at.place(),
                subject.digest,
                tags::signature(&subject.digest)
            )));
        }
        let payload = simple::payload(&subject.digest, &self.identity, &self.annotations);
        if payload.len() > MAX_PAYLOAD {
            return Err(Failure::usage(format!("the annotations make a payload of more than {MAX_PAYLOAD} bytes")));
        }
        let layer = simple::layer(&payload, &self.key.sign(&payload));
        self.at.put_blob(&layer, &Blob::from_bytes(payload)).await?;
        layers.push(layer);
        let (config, manifest) = simple::manifest(layers);
        self.at.put_blob(&manifest.config, &Blob::from_bytes(config)).await?;
        self.at.put_manifest(&tag, &manifest.media_type, &manifest.to_bytes()).await?;
        Ok(())
    }

    /// The signatures that are there, whoever made them.
    async fn layers(&self, tag: &Target) -> Result<Vec<Descriptor>, Failure> {
        let found = match self.at.manifest(tag, MAX_MANIFEST).await {
            Ok(found) => found,
            Err(fault) if fault.is_not_found() => return Ok(Vec::new()),
            Err(fault) => return Err(fault.into()),
        };
        match Manifest::parse(&found.bytes, found.media_type.as_deref()) {
            Ok(Manifest::Image(image)) => Ok(image.layers),
            Ok(Manifest::Index(_)) => {
                Err(Failure::refused(format!("{}: under the tag of signatures lies an index", self.at.place())))
            }
            Err(refusal) => Err(Failure::refused(format!("{}: the signatures: {refusal}", self.at.place()))),
        }
    }

    /// Attaches a sigstore bundle.
    async fn bundle(&self, subject: &Descriptor) -> Result<(), Failure> {
        let sign = |message: &[u8]| self.key.sign(message);
        let bytes = bundle::make(&subject.digest, &self.annotations, sign, &self.key.public().hint());
        let created = self.annotations.get(SIGNED_AT).map(String::as_str);
        let manifest = bundle::referrer(subject, &bytes, created);
        self.at.put_blob(&manifest.config, &Blob::from_bytes(EMPTY_BLOB.to_vec())).await?;
        for layer in &manifest.layers {
            self.at.put_blob(layer, &Blob::from_bytes(bytes.clone())).await?;
        }
        let encoded = manifest.to_bytes();
        let target = Target::Digest(machines::oci::Digest::of(&encoded));
        self.at.put_manifest(&target, &manifest.media_type, &encoded).await?;
        Ok(())
    }
}
