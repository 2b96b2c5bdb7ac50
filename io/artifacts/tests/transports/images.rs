//! Images to carry about.

use std::path::Path;
use std::sync::Arc;

use io_artifacts::blob::Blob;
use io_artifacts::source::{Options, Transport};
use machines::oci::{Descriptor, Digest, Image, Index, MAX_MANIFEST, Place, Platform, Target, media, tags};

pub fn layout(path: &Path) -> Place {
    Place::Layout(path.to_str().unwrap().into())
}

pub fn archive(path: &Path) -> Place {
    Place::Archive(path.to_str().unwrap().into())
}

pub fn tag(name: &str) -> Target {
    Target::Tag(name.into())
}

pub async fn create(place: &Place) -> Transport {
    Transport::create(place, &Options::default()).await.unwrap()
}

pub async fn open(place: &Place) -> Transport {
    Transport::open(place, &Options::default()).await.unwrap()
}

pub async fn put_blob(to: &Transport, media_type: &str, bytes: &[u8]) -> Descriptor {
    let descriptor = Descriptor::of(media_type, bytes);
    to.put_blob(&descriptor, &Blob::from_bytes(bytes.to_vec())).await.unwrap();
    descriptor
}

/// An image with these layers, not put yet.
pub async fn image(to: &Transport, layers: &[&[u8]]) -> Image {
    let config = put_blob(to, media::IMAGE_CONFIG, br#"{"architecture":"amd64","os":"linux"}"#).await;
    let mut image = Image::artifact("x", config.clone(), None);
    image.artifact_type = None;
    image.config = config;
    image.layers.clear();
    for layer in layers {
        image.layers.push(put_blob(to, media::IMAGE_LAYER, layer).await);
    }
    image
}

pub async fn put(to: &Transport, target: &Target, image: &Image) -> Descriptor {
    let bytes = image.to_bytes();
    let digest = to.put_manifest(target, media::IMAGE_MANIFEST, &bytes).await.unwrap();
    assert_eq!(digest, Digest::of(&bytes));
    Descriptor::of(media::IMAGE_MANIFEST, &bytes)
}

/// Something that refers to `subject`.
pub async fn attach(to: &Transport, kind: &str, bytes: &[u8], subject: &Descriptor) -> Descriptor {
    put_blob(to, media::EMPTY_JSON, b"{}").await;
    let layer = put_blob(to, kind, bytes).await;
    let attached = Image::artifact(kind, layer, Some(subject.clone()));
    put(to, &Target::Digest(Digest::of(&attached.to_bytes())), &attached).await
}

/// An index of two images, with a lock, a policy, and signatures of each in both layouts.
pub async fn release(to: &Transport) -> Descriptor {
    let mut children = Vec::new();
    for (architecture, layer) in [("amd64", &b"for amd64"[..]), ("arm64", b"for arm64")] {
        let child = image(to, &[layer, b"shared layer"]).await;
        let mut child = put(to, &Target::Digest(Digest::of(&child.to_bytes())), &child).await;
        child.platform = Some(Platform { os: "linux".into(), architecture: architecture.into(), variant: None });
        children.push(child);
    }
    let index = Index::new(media::IMAGE_INDEX.into(), children).to_bytes();
    to.put_manifest(&tag("v1"), media::IMAGE_INDEX, &index).await.unwrap();
    let root = Descriptor::of(media::IMAGE_INDEX, &index);
    let lock = attach(to, media::LOCK, b"a lock", &root).await;
    let policy = attach(to, media::POLICY_BUNDLE, b"a policy", &root).await;
    for (name, beside) in [("v1-lock", &lock), ("v1-policy", &policy)] {
        let found = to.manifest(&Target::Digest(beside.digest), MAX_MANIFEST).await.unwrap();
        to.put_manifest(&tag(name), media::IMAGE_MANIFEST, &found.bytes).await.unwrap();
    }
    for signed in [&root, &lock, &policy] {
        let payload = format!("a signature of {}", signed.digest);
        attach(to, media::SIGSTORE_BUNDLE, payload.as_bytes(), signed).await;
        let signature = image(to, &[payload.as_bytes()]).await;
        put(to, &Target::Tag(tags::signature(&signed.digest)), &signature).await;
    }
    to.finish().await.unwrap();
    root
}

/// Everything of [`release`] is there, and whole.
pub async fn check_release(there: &Transport, root: &Descriptor) {
    let found = there.manifest(&tag("v1"), MAX_MANIFEST).await.unwrap();
    assert_eq!(found.digest, Some(root.digest));
    let machines::oci::Manifest::Index(index) = machines::oci::Manifest::parse(&found.bytes, None).unwrap() else {
        panic!("no index")
    };
    for child in &index.manifests {
        let bytes = there.manifest(&Target::Digest(child.digest), MAX_MANIFEST).await.unwrap().bytes;
        blobs_of(there, &bytes).await;
    }
    let mut kinds: Vec<_> =
        there.referrers(&root.digest, None, 16).await.unwrap().into_iter().map(|d| d.artifact_type.unwrap()).collect();
    kinds.sort();
    assert_eq!(kinds, [media::LOCK, media::POLICY_BUNDLE, media::SIGSTORE_BUNDLE]);
    for (kind, name) in [(media::LOCK, "v1-lock"), (media::POLICY_BUNDLE, "v1-policy")] {
        let attached = there.referrers(&root.digest, Some(kind), 16).await.unwrap();
        assert_eq!(attached.len(), 1);
        let beside = there.manifest(&tag(name), MAX_MANIFEST).await.unwrap();
        assert_eq!(beside.digest, Some(attached[0].digest));
        blobs_of(there, &beside.bytes).await;
        assert_eq!(there.referrers(&attached[0].digest, Some(media::SIGSTORE_BUNDLE), 16).await.unwrap().len(), 1);
        let signature = there.manifest(&Target::Tag(tags::signature(&attached[0].digest)), MAX_MANIFEST).await.unwrap();
        blobs_of(there, &signature.bytes).await;
    }
    assert!(there.manifest(&Target::Tag(tags::signature(&root.digest)), MAX_MANIFEST).await.is_ok());
}

async fn blobs_of(there: &Transport, manifest: &[u8]) {
    let machines::oci::Manifest::Image(image) = machines::oci::Manifest::parse(manifest, None).unwrap() else {
        panic!("no image")
    };
    for blob in image.layers.iter().chain([&image.config]) {
        assert_eq!(Digest::of(&there.bytes(blob, 1 << 20).await.unwrap()), blob.digest);
    }
}

pub fn quiet() -> Arc<dyn io_artifacts::copy::Progress> {
    Arc::new(())
}
