use std::sync::{Arc, Mutex};

use io_artifacts::Fault;
use io_artifacts::blob::{Blob, Discard};
use io_artifacts::cache::Cache;
use io_artifacts::copy::{Progress, copy, copy_resolved, keep};
use io_artifacts::source::Transport;
use machines::oci::{Descriptor, Digest, Image, Index, MAX_MANIFEST, Manifest, Place, Target, media, tags};
use machines::signature::simple;
use machines::verify::Inventory;

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

#[tokio::test]
async fn s11_a_resolved_image_is_copied_by_its_digest_and_its_tag_is_not_asked_for_again() {
    let config = b"{}";
    let image = Image::artifact("x", Descriptor::of(media::EMPTY_JSON, config), None).to_bytes();
    let digest = Digest::of(&image);
    let server = Server::start(move |request| match request.path.as_str() {
        path if path == format!("/v2/app/manifests/{digest}") => answer(200, image.clone()),
        path if path == format!("/v2/app/blobs/{}", Digest::of(config)) => answer(200, config.to_vec()),
        _ => answer(404, ""),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let to = create(&layout(folder.path())).await;
    let copied = copy_resolved(&server.open().await, (&digest, Some("v1")), &to, &tag("v1"), quiet()).await.unwrap();
    assert_eq!(copied.digest, Some(digest));
    let paths: Vec<String> = server.requests().into_iter().map(|request| request.path).collect();
    assert!(paths.iter().all(|path| !path.ends_with("/manifests/v1")), "{paths:?}");
    assert!(paths.iter().any(|path| path.ends_with("/manifests/v1-lock")), "what lies beside it comes along");
}

#[tokio::test]
async fn s14_more_bytes_than_a_copy_may_have_are_refused_before_the_first() {
    const GIB: u64 = 1 << 30;
    let folder = tempfile::tempdir().unwrap();
    let to = create(&layout(folder.path())).await;
    let state = tempfile::tempdir().unwrap();
    let cache = Cache::open(state.path(), 1 << 20).unwrap();
    for (sizes, words) in
        [(vec![16 * GIB + 1], "bytes of the blob"), (vec![16 * GIB; 5], "bytes of blobs of one image")]
    {
        let mut image = Image::artifact("x", Descriptor::of(media::EMPTY_JSON, b"{}"), None);
        image.layers.extend(sizes.iter().enumerate().map(|(n, size)| Descriptor {
            size: *size,
            ..Descriptor::of(media::IMAGE_LAYER, &[u8::try_from(n).unwrap()])
        }));
        let parts = inventory(&[], &image.layers);
        let image = image.to_bytes();
        let server = Server::start(move |request| match request.path.as_str() {
            "/v2/app/manifests/v1" => answer(200, image.clone()),
            _ => answer(404, ""),
        })
        .await;
        let from = server.open().await;
        let fault = copy(&from, &tag("v1"), &to, &tag("v1"), quiet()).await.unwrap_err();
        assert!(matches!(fault, Fault::TooLong { .. }) && fault.to_string().contains(words), "{fault}");
        assert!(keep(&from, &parts, &cache).await.unwrap_err().to_string().contains(words));
        assert!(server.requests().iter().all(|request| !request.path.contains("/blobs/")));
        let long = Descriptor { size: 16 * GIB + 1, ..Descriptor::of(media::IMAGE_LAYER, b"x") };
        assert!(matches!(from.stream(&long, Discard).await, Err(Fault::TooLong { .. })));
    }
}

#[tokio::test]
async fn what_is_kept_in_the_cache_removes_nothing_of_itself() {
    let folder = tempfile::tempdir().unwrap();
    let from = create(&layout(folder.path())).await;
    let content = image(&from, &[&[1; 400], &[2; 400]]).await;
    let root = put(&from, &tag("v1"), &content).await;
    let parts = inventory(std::slice::from_ref(&root), &content.layers);
    let state = tempfile::tempdir().unwrap();
    let small = Cache::open(state.path(), 900).unwrap();
    let fault = keep(&from, &parts, &small).await.unwrap_err().to_string();
    assert!(fault.contains("the blob cache holds at most 900"), "{fault}");
    assert_eq!(small.bytes_held().unwrap(), 0, "nothing of it is stored");
    // What others left behind goes, and nothing of the image.
    let cache = Cache::open(state.path(), 2000).unwrap();
    for n in 3..7 {
        assert!(cache.put(&Descriptor::of(media::OCTET_STREAM, &[n; 450]), vec![n; 450]).unwrap());
    }
    let kept = keep(&from, &parts, &cache).await.unwrap();
    assert_eq!((kept.manifests, kept.blobs_copied, kept.blobs_there), (1, 2, 0));
    for bytes in [vec![1; 400], vec![2; 400]] {
        let layer = Descriptor::of(media::IMAGE_LAYER, &bytes);
        assert_eq!(cache.bytes(&layer, 400).unwrap(), Some(bytes));
    }
    assert!(cache.bytes(&root, 1 << 20).unwrap().is_some());
    // What was not asked for is not there, and what is not what it is called is not kept.
    assert_eq!(cache.bytes(&content.config, 1 << 20).unwrap(), None);
    let wrong = Descriptor { size: 399, ..content.layers[0].clone() };
    assert!(keep(&from, &inventory(&[], &[wrong]), &Cache::open(state.path(), 2000).unwrap()).await.is_err());
}

fn inventory(manifests: &[Descriptor], blobs: &[Descriptor]) -> Inventory {
    let by_digest = |all: &[Descriptor]| all.iter().map(|one| (one.digest, one.clone())).collect();
    Inventory { manifests: by_digest(manifests), blobs: by_digest(blobs) }
}

#[tokio::test]
async fn the_signatures_at_the_destination_stay_beside_those_that_come() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (layout(&folder.path().join("one")), layout(&folder.path().join("two")));
    let to = archive(&folder.path().join("to.tar"));
    let mut signed = None;
    for (place, signer) in [(&one, &b"first"[..]), (&two, b"second")] {
        let there = create(place).await;
        let root = put(&there, &tag("v1"), &image(&there, &[b"content"]).await).await;
        let payload = format!("payload for {}", root.digest).into_bytes();
        let layer = simple::layer(&payload, signer);
        there.put_blob(&layer, &Blob::from_bytes(payload)).await.unwrap();
        let (config, manifest) = simple::manifest(vec![layer]);
        there.put_blob(&manifest.config, &Blob::from_bytes(config)).await.unwrap();
        put(&there, &Target::Tag(tags::signature(&root.digest)), &manifest).await;
        signed = Some(root);
    }
    let signature = Target::Tag(tags::signature(&signed.unwrap().digest));
    let mut seen = Vec::new();
    for from in [&one, &two, &one, &two] {
        let target = create(&to).await;
        copy(&open(from).await, &tag("v1"), &target, &tag("v1"), quiet()).await.unwrap();
        let found = open(&to).await.manifest(&signature, MAX_MANIFEST).await.unwrap();
        let Manifest::Image(manifest) = Manifest::parse(&found.bytes, None).unwrap() else { panic!("no image") };
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            assert!(open(&to).await.has_blob(blob).await.unwrap());
        }
        seen.push((manifest.layers.len(), found.digest));
    }
    assert_eq!(seen.iter().map(|(count, _)| *count).collect::<Vec<_>>(), [1, 2, 2, 2]);
    assert!(seen[1..].iter().all(|(_, digest)| *digest == seen[1].1), "what is there already changes nothing");
}
