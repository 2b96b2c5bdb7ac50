//! A second opinion: the crate `oci-client` reads from our registry what our transport pushed, and the other way round.

use machines::oci::{Digest, MAX_MANIFEST, Manifest, Target, media};
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::manifest::{OciDescriptor, OciManifest};
use oci_client::secrets::RegistryAuth::Anonymous;
use oci_client::{Client, Reference};

use crate::images::{create, open, release, tag};
use crate::pushes::Ours;

fn client() -> Client {
    // It makes a client for TLS even where none is spoken.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() })
}

#[tokio::test]
async fn another_client_pulls_what_we_pushed() {
    let ours = Ours::start().await;
    let root = release(&create(&ours.place("team/app")).await).await;
    let client = client();
    let image: Reference = format!("{}/team/app:v1", ours.host).parse().unwrap();
    let (manifest, digest) = client.pull_manifest(&image, &Anonymous).await.unwrap();
    assert_eq!(digest, root.digest.to_string());
    let OciManifest::ImageIndex(index) = manifest else { panic!("no index") };
    for child in index.manifests {
        let child = image.clone_with_digest(child.digest);
        let (OciManifest::Image(manifest), _) = client.pull_manifest(&child, &Anonymous).await.unwrap() else {
            panic!("no image")
        };
        for layer in manifest.layers.iter().chain([&manifest.config]) {
            let mut bytes = Vec::new();
            client.pull_blob(&image, layer, &mut bytes).await.unwrap();
            assert_eq!(Digest::of(&bytes).to_string(), layer.digest);
        }
    }
    let root = image.clone_with_digest(root.digest.to_string());
    assert_eq!(client.pull_referrers(&root, None).await.unwrap().manifests.len(), 3);
    let locks = client.pull_referrers(&root, Some(media::LOCK)).await.unwrap().manifests;
    assert_eq!(locks.len(), 1);
    assert_eq!(locks[0].artifact_type.as_deref(), Some(media::LOCK));
    assert_eq!(client.list_tags(&image, &Anonymous, None, None).await.unwrap().tags.len(), 6);
}

#[tokio::test]
async fn we_pull_what_another_client_pushed() {
    let ours = Ours::start().await;
    let client = client();
    let image: Reference = format!("{}/team/app:v2", ours.host).parse().unwrap();
    let layers = [vec![1; 300_000], vec![2; 10]].map(|bytes| ImageLayer::oci_v1_gzip(bytes, None));
    let config = Config::oci_v1(br#"{"architecture":"amd64","os":"linux"}"#.to_vec(), None);
    client.push(&image, &layers, config, &Anonymous, None).await.unwrap();
    let there = open(&ours.place("team/app")).await;
    let found = there.manifest(&tag("v2"), MAX_MANIFEST).await.unwrap();
    let Manifest::Image(read) = Manifest::parse(&found.bytes, found.media_type.as_deref()).unwrap() else { panic!() };
    for (layer, pushed) in read.layers.iter().zip(&layers) {
        assert_eq!(there.bytes(layer, 1 << 20).await.unwrap(), pushed.data);
    }
    let digest = found.digest.unwrap();
    let attached = oci_client::manifest::OciImageManifest {
        artifact_type: Some(media::LOCK.into()),
        subject: Some(OciDescriptor {
            media_type: media::IMAGE_MANIFEST.into(),
            digest: digest.to_string(),
            size: i64::try_from(found.bytes.len()).unwrap(),
            ..OciDescriptor::default()
        }),
        config: OciDescriptor {
            media_type: media::IMAGE_CONFIG.into(),
            digest: read.config.digest.to_string(),
            size: i64::try_from(read.config.size).unwrap(),
            ..OciDescriptor::default()
        },
        ..oci_client::manifest::OciImageManifest::default()
    };
    let lock: Reference = format!("{}/team/app:lock", ours.host).parse().unwrap();
    client.push_manifest(&lock, &OciManifest::Image(attached)).await.unwrap();
    let listed = there.referrers(&digest, Some(media::LOCK), 4).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert!(there.manifest(&Target::Digest(listed[0].digest), MAX_MANIFEST).await.is_ok());
}
