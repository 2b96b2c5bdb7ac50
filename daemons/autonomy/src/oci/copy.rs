//! `autonomy oci pull`, `oci copy` and `bundle create`: an image with all that is attached to it, from place to place.

use std::io::IsTerminal as _;
use std::sync::Arc;

use daemon_common::failure::{Ended, Failure};
use daemon_common::output::{Output, object};
use indicatif::{ProgressBar, ProgressStyle};
use io_artifacts::copy::{self, Copied, Progress};
use io_artifacts::source::{Archive, Transport};
use machines::json::Value;
use machines::oci::{Digest, MAX_MANIFEST, Place, Reference, Target, media, tags};
use machines::verify::MAX_REFERRERS;

use super::attach::{Kind, attached, tag_of};
use crate::artifacts::{Resolved, block_on, create, open, resolve};
use crate::cli::{self, Access};

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
    let tag = tag_of(&from, image, &resolved.digest).await?;
    let to = destination(tag.as_deref(), to);
    let copied = run(&from, (resolved.digest, tag.as_deref()), &create(&to, access).await?, &to.target).await?;
    Ok((to, copied))
}

/// Copies, with a bar for a person at a terminal. The image is asked for by its digest alone: its tag, which may have moved
/// since it was resolved, only leads to what lies beside it.
async fn run(
    from: &Transport,
    (image, tag): (Digest, Option<&str>),
    to: &Transport,
    name: &Target,
) -> Result<Copied, Failure> {
    let bar = Arc::new(Bar::new());
    let copied = copy::copy_resolved(from, (&image, tag), to, name, Arc::clone(&bar) as Arc<dyn Progress>).await;
    bar.0.finish_and_clear();
    Ok(copied?)
}

/// A layout or archive without a tag takes the image's own.
fn destination(tag: Option<&str>, to: &Reference) -> Reference {
    match (&to.target, tag) {
        (Target::Only, Some(tag)) => to.at(Target::Tag(tag.to_owned())),
        (Target::Only | Target::Tag(_) | Target::Digest(_), _) => to.clone(),
    }
}

/// `bundle create`: a new archive of a whole release, in the place of an old one of that name.
pub fn create_bundle(args: &cli::BundleCreate, output: Output) -> Ended {
    let out = args.out.display().to_string();
    let copied = block_on(async {
        let from = open(&args.image, &args.access).await?;
        let resolved = resolve(&from, &args.image.target).await?;
        let tag = tag_of(&from, &args.image, &resolved.digest).await?;
        whole(&from, &args.image, &resolved, tag.as_deref()).await?;
        let to = tag.clone().map_or(Target::Only, Target::Tag);
        let image = (resolved.digest, tag.as_deref());
        run(&from, image, &Transport::Archive(Archive::anew(&args.out)), &to).await
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
async fn whole(from: &Transport, image: &Reference, resolved: &Resolved, tag: Option<&str>) -> Result<(), Failure> {
    let found = attached(from, resolved, tag).await?;
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
