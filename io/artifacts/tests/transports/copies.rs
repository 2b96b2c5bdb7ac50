use std::sync::{Arc, Mutex};

use io_artifacts::Fault;
use io_artifacts::copy::{Progress, copy};
use io_artifacts::source::Transport;
use machines::oci::{Descriptor, Digest, Image, Index, MAX_MANIFEST, Place, Target, media};

use crate::images::{archive, attach, check_release, create, image, layout, open, put, put_blob, quiet, release, tag};
use crate::pushes::Ours;
use crate::scripted::{Server, answer};

#[tokio::test(flavor = "multi_thread")]
async fn an_image_and_all_that_is_attached_goes_from_any_place_to_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Ours::start().await;
    let first = layout(&folder.path().join("first"));
    let root = release(&create(&first).await).await;
    let other: Place = ours.place("other");
    let mut from = first;
    for to in [
        ours.place("one"),
        other,
        archive(&folder.path().join("a.tar")),
        archive(&folder.path().join("b.tar")),
        ours.place("two"),
        layout(&folder.path().join("second")),
        layout(&folder.path().join("third")),
        archive(&folder.path().join("c.tar")),
    ] {
        let (source, target) = (open(&from).await, create(&to).await);
        let copied = copy(&source, &tag("v1"), &target, &tag("v1"), quiet()).await.unwrap();
        assert_eq!(copied.digest, Some(root.digest));
        // The index, two images, lock, policy, three bundles, three signatures.
        assert_eq!(copied.manifests, 11, "{from} to {to}");
        check_release(&open(&to).await, &root).await;
        let again = copy(&source, &tag("v1"), &create(&to).await, &tag("v1"), quiet()).await.unwrap();
        assert_eq!(again.blobs_copied, 0);
        from = to;
    }
    let same = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert_eq!(same("a.tar"), same("b.tar"));
    assert_eq!(same("a.tar"), same("c.tar"));
}

#[tokio::test]
async fn a_copy_has_the_name_that_it_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (layout(&folder.path().join("from")), layout(&folder.path().join("to")));
    let root = release(&create(&from).await).await;
    let (from, to) = (open(&from).await, create(&to).await);
    copy(&from, &tag("v1"), &to, &tag("next"), quiet()).await.unwrap();
    let tags = to.tags(100).await.unwrap();
    assert!(tags.contains(&"next-lock".into()) && tags.contains(&"next-policy".into()) && !tags.contains(&"v1".into()));
    let other = Target::Digest(Digest::of(b"other"));
    assert!(matches!(copy(&from, &tag("v1"), &to, &other, quiet()).await, Err(Fault::Refused { .. })));
    let alone = create(&archive(&folder.path().join("a.tar"))).await;
    copy(&from, &Target::Digest(root.digest), &alone, &Target::Only, quiet()).await.unwrap();
    let there = open(&archive(&folder.path().join("a.tar"))).await;
    assert_eq!(there.manifest(&Target::Only, MAX_MANIFEST).await.unwrap().digest, Some(root.digest));
    assert!(matches!(copy(&from, &tag("none"), &to, &tag("x"), quiet()).await, Err(Fault::NotFound { .. })));
}

#[tokio::test]
async fn s12_a_damaged_source_lists_nothing_at_the_destination() {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("from"), folder.path().join("to"));
    release(&create(&layout(&source)).await).await;
    let victim = Digest::of(b"shared layer").hex();
    std::fs::write(source.join("blobs/sha256").join(victim), b"shared lAyer").unwrap();
    for to in [layout(&target), archive(&folder.path().join("a.tar"))] {
        let to = create(&to).await;
        let fault = copy(&open(&layout(&source)).await, &tag("v1"), &to, &tag("v1"), quiet()).await.unwrap_err();
        assert!(matches!(fault, Fault::Mismatch { .. }), "{fault}");
        assert!(to.tags(9).await.unwrap().is_empty());
    }
    assert!(!folder.path().join("a.tar").exists());
    let ours = Ours::start().await;
    let to = Transport::create(&ours.place("app"), &crate::scripted::options()).await.unwrap();
    assert!(copy(&open(&layout(&source)).await, &tag("v1"), &to, &tag("v1"), quiet()).await.is_err());
    assert!(to.manifest(&tag("v1"), MAX_MANIFEST).await.is_err());
}

#[tokio::test]
async fn s14_what_is_attached_to_what_is_attached_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let from = create(&layout(&folder.path().join("from"))).await;
    let to = create(&layout(&folder.path().join("to"))).await;
    let mut last = put(&from, &tag("deep"), &image(&from, &[b"x"]).await).await;
    for n in 0..10_u8 {
        last = attach(&from, media::LOCK, &[n], &last).await;
    }
    let fault = copy(&from, &tag("deep"), &to, &tag("v1"), quiet()).await.unwrap_err();
    assert!(matches!(fault, Fault::TooLong { .. }), "{fault}");
    let wide = put(&from, &tag("wide"), &image(&from, &[b"y"]).await).await;
    for n in 0..257_u32 {
        let mut entry = Image::artifact("x", Descriptor::of(media::EMPTY_JSON, b"{}"), Some(wide.clone()));
        entry.annotations.insert("n".into(), n.to_string());
        put(&from, &Target::Digest(Digest::of(&entry.to_bytes())), &entry).await;
    }
    assert!(matches!(copy(&from, &tag("wide"), &to, &tag("v1"), quiet()).await, Err(Fault::TooLong { .. })));
    let nested =
        Index::new(media::IMAGE_INDEX.into(), vec![Descriptor::of(media::IMAGE_MANIFEST, b"missing")]).to_bytes();
    from.put_manifest(&tag("nested"), media::IMAGE_INDEX, &nested).await.unwrap();
    assert!(copy(&from, &tag("nested"), &to, &tag("v1"), quiet()).await.unwrap_err().is_not_found());
    let layer = Descriptor { size: 9, ..put_blob(&from, media::IMAGE_LAYER, b"x").await };
    let mut lying = image(&from, &[b"x"]).await;
    lying.layers.push(layer);
    put(&from, &tag("lying"), &lying).await;
    assert!(matches!(copy(&from, &tag("lying"), &to, &tag("v1"), quiet()).await, Err(Fault::Broken { .. })));
    assert!(to.tags(9).await.unwrap().is_empty());
}

#[tokio::test]
async fn who_waits_is_told() {
    #[derive(Default)]
    struct Told(Mutex<(usize, u64, Vec<u64>)>);
    impl Progress for Told {
        fn planned(&self, blobs: usize, bytes: u64) {
            let mut told = self.0.lock().unwrap();
            (told.0, told.1) = (blobs, bytes);
        }
        fn blob(&self, _digest: &Digest, bytes: u64) {
            self.0.lock().unwrap().2.push(bytes);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let from = create(&layout(&folder.path().join("from"))).await;
    release(&from).await;
    let told = Arc::new(Told::default());
    let to = create(&layout(&folder.path().join("to"))).await;
    let copied = copy(&from, &tag("v1"), &to, &tag("v1"), Arc::<Told>::clone(&told)).await.unwrap();
    let told = told.0.lock().unwrap();
    assert_eq!((told.0, told.1), (copied.blobs_copied, copied.bytes_copied));
    assert_eq!((told.2.len(), told.2.iter().sum::<u64>()), (told.0, told.1));
}

#[tokio::test]
async fn a_list_of_referrers_may_name_what_is_gone_and_what_is_of_other_kinds() {
    let config = b"{}";
    let image = Image::artifact("x", Descriptor::of(media::EMPTY_JSON, config), None).to_bytes();
    let digest = Digest::of(&image);
    let gone = Descriptor::of(media::IMAGE_MANIFEST, b"gone");
    let foreign = Descriptor::of("application/vnd.oci.artifact.manifest.v1+json", b"foreign");
    let index = Index::new(media::IMAGE_INDEX.into(), vec![gone, foreign]).to_bytes();
    let server = Server::start(move |request| match request.path.as_str() {
        "/v2/app/manifests/v1" => answer(200, image.clone()),
        path if path == format!("/v2/app/referrers/{digest}") => answer(200, index.clone()),
        path if path == format!("/v2/app/blobs/{}", Digest::of(config)) => answer(200, config.to_vec()),
        _ => answer(404, ""),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let to = create(&layout(folder.path())).await;
    let copied = copy(&server.open().await, &tag("v1"), &to, &tag("v1"), quiet()).await.unwrap();
    assert_eq!((copied.manifests, copied.blobs_copied), (1, 1));
}
