//! `autonomy oci push`: an image from files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use daemon_common::failure::{Ended, Failure};
use daemon_common::output::{Output, object};
use io_artifacts::blob::{Blob, Discard};
use machines::json::Value;
use machines::oci::{Descriptor, Image, Target, media};

use super::pack;
use crate::artifacts::{self, block_on, create};
use crate::cli;

/// The layer of a folder: a tar archive, not compressed, so that no compressor's version shows in its digest.
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// The annotation that names a layer's file.
const TITLE: &str = "org.opencontainers.image.title";

/// Makes the image and pushes it.
pub fn push(args: &cli::OciPush, output: Output) -> Ended {
    if matches!(args.to.target, Target::Digest(_)) {
        return Err(Failure::usage(format!("--to {}: an image that is made has no digest yet; name a tag", args.to)));
    }
    let annotations = artifacts::annotations(&args.annotations)?;
    let platform = platform(args.platform.as_deref())?;
    let layers = layers(&args.files)?;
    let config = config(&layers, &platform);
    let image = Image {
        media_type: media::IMAGE_MANIFEST.into(),
        artifact_type: None,
        config: Descriptor::of(media::IMAGE_CONFIG, &config),
        layers: layers.iter().map(|(descriptor, _)| descriptor.clone()).collect(),
        subject: None,
        annotations,
    };
    let digest = block_on(async {
        let to = create(&args.to, &args.access).await?;
        for (descriptor, blob) in &layers {
            if !to.has_blob(descriptor).await? {
                to.put_blob(descriptor, blob).await?;
            }
        }
        to.put_blob(&image.config, &Blob::from_bytes(config)).await?;
        let digest = to.put_manifest(&args.to.target, &image.media_type, &image.to_bytes()).await?;
        to.finish().await?;
        Ok(digest)
    })?;
    let text = format!("pushed: {}\ndigest: {digest}", args.to);
    output.print(&text, || {
        object([("reference", Value::from(args.to.to_string())), ("digest", artifacts::digest(&digest))])
    })?;
    Ok(0)
}

/// The layers in the order in which their files were named.
fn layers(files: &[std::path::PathBuf]) -> Result<Vec<(Descriptor, Blob)>, Failure> {
    let unreadable = |path: &Path, error: std::io::Error| Failure::unreadable(format!("{}: {error}", path.display()));
    let mut layers = Vec::new();
    let mut names = BTreeSet::new();
    for path in files {
        let meta = std::fs::metadata(path).map_err(|error| unreadable(path, error))?;
        if meta.is_dir() {
            if files.len() > 1 {
                return Err(Failure::usage(format!("{}: give one folder, or only files", path.display())));
            }
            let blob = pack::folder(path)?;
            return Ok(vec![(describe(TAR, &blob)?, blob)]);
        }
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Failure::refused(format!("{}: the name is not UTF-8", path.display())))?;
        if !names.insert(name) {
            return Err(Failure::usage(format!("{}: two files are called {name}", path.display())));
        }
        let file = File::open(path).map_err(|error| unreadable(path, error))?;
        let blob = Blob::from_file(file, &path.display().to_string())?;
        let mut descriptor = describe(media::OCTET_STREAM, &blob)?;
        descriptor.annotations.insert(TITLE.into(), name.to_owned());
        layers.push((descriptor, blob));
    }
    Ok(layers)
}

/// The descriptor of a blob; what it becomes later, `put_blob` refuses.
fn describe(media_type: &str, blob: &Blob) -> Result<Descriptor, Failure> {
    let hashed = blob.pump(blob.size(), Discard)?;
    Ok(Descriptor::new(media_type, hashed.digest(), hashed.size()))
}

fn platform(given: Option<&str>) -> Result<(String, String), Failure> {
    let Some(text) = given else { return Ok(artifacts::platform()) };
    let word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    match text.split_once('/') {
        Some((os, architecture)) if word(os) && word(architecture) => Ok((os.to_owned(), architecture.to_owned())),
        Some(_) | None => Err(Failure::usage(format!("--platform {text:?}: write OS/ARCHITECTURE, like linux/arm64"))),
    }
}

/// The configuration (image-spec, "OCI Image Configuration"); nothing of it tells when or where it was made.
fn config(layers: &[(Descriptor, Blob)], (os, architecture): &(String, String)) -> Vec<u8> {
    let diff_ids = layers.iter().map(|(layer, _)| artifacts::digest(&layer.digest)).collect();
    let rootfs = object([("type", Value::from("layers")), ("diff_ids", Value::Array(diff_ids))]);
    let config = object([
        ("architecture", Value::from(architecture.as_str())),
        ("os", Value::from(os.as_str())),
        ("config", Value::Object(BTreeMap::new())),
        ("rootfs", rootfs),
    ]);
    config.to_text().into_bytes()
}
