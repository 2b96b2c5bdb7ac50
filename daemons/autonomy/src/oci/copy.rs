//! `autonomy oci pull`, `oci copy` and `bundle create`: an image with all that is attached to it, from place to place.

use std::io::IsTerminal as _;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use io_artifacts::copy::{self, Copied, Progress};
use io_artifacts::source::{Archive, Transport};
use machines::json::Value;
use machines::oci::{Digest, MAX_MANIFEST, Place, Reference, Target, media, tags};
use machines::verify::MAX_REFERRERS;

use super::attach::{Kind, attached, tag_of};
use crate::artifacts::{Resolved, block_on, create, open, resolve};
use crate::cli::{self, Access};
use crate::failure::{Ended, Failure};
use crate::output::{Output, object};

/// `oci pull`
pub fn pull(args: &cli::OciPull, output: Output) -> Ended {
    if let Place::Registry { .. } = args.to.place {
        return Err(Failure::usage(format!(
            "--to {}: pull to oci:DIR or oci-archive:FILE; see `autonomy oci copy`",
            args.to
        )));
    }
    let (to, copied) = block_on(transfer(&args.image, &args.to, &args.access))?;
    said("pulled", &to, &copied, output)
}

/// `oci copy`
pub fn copy(args: &cli::OciCopy, output: Output) -> Ended {
    let (to, copied) = block_on(transfer(&args.from, &args.to, &args.access))?;
    said("copied", &to, &copied, output)
}

fn said(what: &str, to: &Reference, copied: &Copied, output: Output) -> Ended {
    let digest = copied.digest.map(|digest| digest.to_string()).unwrap_or_default();
    let count = |n: usize| Value::from(u64::try_from(n).unwrap_or(u64::MAX));
    let text = format!(
        "{what}: {to}\ndigest: {digest}\n{} manifests; {} blobs copied ({} bytes), {} were there",
        copied.manifests, copied.blobs_copied, copied.bytes_copied, copied.blobs_there
    );
    output.print(&text, || {
        object([
            ("reference", Value::from(to.to_string())),
            ("digest", Value::from(digest.as_str())),
            ("manifests", count(copied.manifests)),
            ("blobs_copied", count(copied.blobs_copied)),
            ("blobs_there", count(copied.blobs_there)),
            ("bytes_copied", Value::from(copied.bytes_copied)),
        ])
    })?;
    Ok(0)
}

/// Copies, and says where it is now.
async fn transfer(image: &Reference, to: &Reference, access: &Access) -> Result<(Reference, Copied), Failure> {
    let from = open(image, access).await?;
    let resolved = resolve(&from, &image.target).await?;
    let at = named(&from, image, &resolved).await?;
    let to = destination(&at, to);
    let copied = copy_to(&from, &at, &to, access).await?;
    Ok((to, copied))
}

async fn copy_to(from: &Transport, at: &Target, to: &Reference, access: &Access) -> Result<Copied, Failure> {
    run(from, at, &create(to, access).await?, &to.target).await
}

/// Copies, with a bar for a person at a terminal.
async fn run(from: &Transport, at: &Target, to: &Transport, name: &Target) -> Result<Copied, Failure> {
    let bar = Arc::new(Bar::new());
    let copied = copy::copy(from, at, to, name, Arc::clone(&bar) as Arc<dyn Progress>).await;
    bar.0.finish_and_clear();
    Ok(copied?)
}

/// The image as its place names it: by the one tag of a layout or archive too, so that what lies beside that tag comes along.
async fn named(from: &Transport, image: &Reference, resolved: &Resolved) -> Result<Target, Failure> {
    let tag = tag_of(from, image, &resolved.digest).await?;
    Ok(tag.map_or_else(|| image.target.clone(), Target::Tag))
}

/// A layout or archive without a tag takes the image's own.
fn destination(at: &Target, to: &Reference) -> Reference {
    match (&to.target, at) {
        (Target::Only, Target::Tag(tag)) => to.at(Target::Tag(tag.clone())),
        (Target::Only | Target::Tag(_) | Target::Digest(_), _) => to.clone(),
    }
}

/// `bundle create`: a new archive of a whole release, in the place of an old one of that name.
pub fn create_bundle(args: &cli::BundleCreate, output: Output) -> Ended {
    let out = args.out.display().to_string();
    let copied = block_on(async {
        let from = open(&args.image, &args.access).await?;
        let resolved = resolve(&from, &args.image.target).await?;
        whole(&from, &args.image, &resolved).await?;
        let at = named(&from, &args.image, &resolved).await?;
        let to = if let Target::Tag(_) = &at { at.clone() } else { Target::Only };
        run(&from, &at, &Transport::Archive(Archive::anew(&args.out)), &to).await
    })?;
    let digest = copied.digest.map(|digest| digest.to_string()).unwrap_or_default();
    let text = format!(
        "bundle created: {out}\nimage: {digest}\n{} manifests, {} blobs",
        copied.manifests, copied.blobs_copied
    );
    output.print(&text, || {
        object([
            ("out", Value::from(out)),
            ("digest", Value::from(digest.as_str())),
            ("bytes", Value::from(copied.bytes_copied)),
        ])
    })?;
    Ok(0)
}

/// Whether everything is there that an import wants; that it is right, the import finds out.
///
/// # Errors
/// What is missing.
async fn whole(from: &Transport, image: &Reference, resolved: &Resolved) -> Result<(), Failure> {
    let tag = tag_of(from, image, &resolved.digest).await?;
    let found = attached(from, resolved, tag.as_deref()).await?;
    let missing = |what: &str, how: &str| {
        Failure::refused(format!("{image}: {what}; a bundle holds a whole release: see `autonomy oci {how} --help`"))
    };
    for (kind, how) in [(Kind::Lock, "attach-lock"), (Kind::Policy, "attach-policy")] {
        if !found.iter().any(|found| found.kind == kind) {
            return Err(missing(&format!("no {} is attached", kind.name()), how));
        }
    }
    let subjects = found.iter().map(|found| (found.kind.name(), found.manifest.digest));
    for (what, digest) in subjects.chain([("image", resolved.digest)]) {
        if !is_signed(from, &digest).await? {
            return Err(missing(&format!("the {what} {digest} is not signed"), "sign"));
        }
    }
    Ok(())
}

async fn is_signed(from: &Transport, digest: &Digest) -> Result<bool, Failure> {
    match from.manifest(&Target::Tag(tags::signature(digest)), MAX_MANIFEST).await {
        Ok(_) => return Ok(true),
        Err(fault) if fault.is_not_found() => {}
        Err(fault) => return Err(fault.into()),
    }
    Ok(!from.referrers(digest, Some(media::SIGSTORE_BUNDLE), MAX_REFERRERS).await?.is_empty())
}

/// How far a copy is, for a person at a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {msg}");
        Self(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }
}

impl Progress for Bar {
    fn planned(&self, blobs: usize, bytes: u64) {
        self.0.set_length(bytes);
        self.0.set_message(format!("{blobs} blobs"));
    }

    fn blob(&self, _digest: &Digest, bytes: u64) {
        self.0.inc(bytes);
    }
}
