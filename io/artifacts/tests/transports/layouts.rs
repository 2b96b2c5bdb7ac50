use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use io_artifacts::Fault;
use io_artifacts::blob::{Blob, Discard};
use io_artifacts::source::{Layout, Options, Transport};
use machines::oci::{Descriptor, Digest, Image, Index, MAX_MANIFEST, Target, media, tags};

use crate::images::{attach, check_release, create, image, layout, open, put, put_blob, release, tag};

fn blob_path(root: &Path, digest: &Digest) -> PathBuf {
    root.join("blobs/sha256").join(digest.hex())
}

#[tokio::test]
async fn what_is_put_into_a_layout_is_found_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let place = layout(&folder.path().join("new/site"));
    let root = release(&create(&place).await).await;
    let there = open(&place).await;
    check_release(&there, &root).await;
    let tags = there.tags(100).await.unwrap();
    assert!(tags.contains(&"v1".into()) && tags.contains(&"v1-lock".into()) && tags.len() == 6, "{tags:?}");
    assert!(matches!(there.tags(5).await, Err(Fault::TooLong { max: 5, .. })));
    assert_eq!(there.manifest(&Target::Only, MAX_MANIFEST).await.unwrap().digest, Some(root.digest));
    assert!(there.manifest(&tag("v2"), MAX_MANIFEST).await.unwrap_err().is_not_found());
    // What other readers of the format look at.
    let marker = std::fs::read(folder.path().join("new/site/oci-layout")).unwrap();
    assert_eq!(marker, br#"{"imageLayoutVersion":"1.0.0"}"#);
}

#[tokio::test]
async fn a_tag_moves_and_the_only_image_is_told_from_what_is_attached() {
    let folder = tempfile::tempdir().unwrap();
    let there = create(&layout(folder.path())).await;
    let one = put(&there, &tag("v1"), &image(&there, &[b"one"]).await).await;
    let two = put(&there, &tag("v1"), &image(&there, &[b"two"]).await).await;
    assert_eq!(there.manifest(&tag("v1"), MAX_MANIFEST).await.unwrap().digest, Some(two.digest));
    attach(&there, media::LOCK, b"lock", &two).await;
    assert_eq!(there.manifest(&Target::Only, MAX_MANIFEST).await.unwrap().digest, Some(two.digest));
    let three = put(&there, &Target::Only, &image(&there, &[b"three"]).await).await;
    let fault = there.manifest(&Target::Only, MAX_MANIFEST).await.unwrap_err().to_string();
    assert!(fault.contains("v1") && fault.contains("several images"), "{fault}");
    for digest in [one.digest, three.digest] {
        assert!(there.manifest(&Target::Digest(digest), MAX_MANIFEST).await.is_ok(), "by digest");
    }
    assert!(there.manifest(&tag("v1"), 10).await.is_err(), "longer than it may be");
}

#[tokio::test]
async fn referrers_are_found_by_subject_and_by_the_tag_schema_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let there = create(&layout(folder.path())).await;
    let root = put(&there, &tag("v1"), &image(&there, &[b"one"]).await).await;
    let listed = attach(&there, media::LOCK, b"lock", &root).await;
    // Kept without being listed, as copies from a registry without a Referrers API are.
    let hidden =
        Image::artifact(media::POLICY_BUNDLE, put_blob(&there, media::POLICY_BUNDLE, b"p").await, Some(root.clone()));
    let hidden = put_blob(&there, media::IMAGE_MANIFEST, &hidden.to_bytes()).await;
    assert_eq!(there.referrers(&root.digest, None, 8).await.unwrap().len(), 1);
    let mut entry = hidden.clone();
    entry.artifact_type = Some(media::POLICY_BUNDLE.into());
    let mut again = listed.clone();
    again.artifact_type = Some(media::LOCK.into());
    let index = Index::new(media::IMAGE_INDEX.into(), vec![entry, again]).to_bytes();
    there.put_manifest(&Target::Tag(tags::referrers(&root.digest)), media::IMAGE_INDEX, &index).await.unwrap();
    let found = there.referrers(&root.digest, None, 8).await.unwrap();
    let mut digests: Vec<_> = found.iter().map(|entry| entry.digest).collect();
    digests.sort();
    let mut wanted = vec![listed.digest, hidden.digest];
    wanted.sort();
    assert_eq!(digests, wanted, "each once");
    assert_eq!(there.referrers(&root.digest, Some(media::LOCK), 8).await.unwrap().len(), 1);
    assert!(matches!(there.referrers(&root.digest, None, 1).await, Err(Fault::TooLong { max: 1, .. })));
    assert!(there.referrers(&listed.digest, None, 8).await.unwrap().is_empty());
}

#[tokio::test]
async fn s12_other_bytes_under_a_digest_are_told_and_never_kept() {
    let folder = tempfile::tempdir().unwrap();
    let there = create(&layout(folder.path())).await;
    let blob = put_blob(&there, media::OCTET_STREAM, &[7; 3000]).await;
    let mut bytes = std::fs::read(blob_path(folder.path(), &blob.digest)).unwrap();
    bytes[1000] ^= 1;
    for (damage, len) in [(bytes, 3000), (vec![7; 2999], 2999), (vec![7; 3001], 3001), (vec![7; 9000], 3001)] {
        std::fs::write(blob_path(folder.path(), &blob.digest), damage).unwrap();
        let fault = there.bytes(&blob, 4000).await.unwrap_err();
        assert!(matches!(fault, Fault::Mismatch { got_bytes, .. } if got_bytes == len), "{fault}");
        assert!(there.stream(&blob, Discard).await.is_err());
    }
    assert!(matches!(there.bytes(&blob, 2999).await, Err(Fault::TooLong { .. })));
    let other = Descriptor::of(media::OCTET_STREAM, b"one");
    assert!(there.put_blob(&other, &Blob::from_bytes(b"two".to_vec())).await.is_err());
    assert!(!there.has_blob(&other).await.unwrap());
    let names = std::fs::read_dir(folder.path().join("blobs/sha256")).unwrap().count();
    assert_eq!(names, 1, "nothing is left of what did not match");
    let manifest = image(&there, &[b"x"]).await.to_bytes();
    let wrong = Target::Digest(Digest::of(b"other"));
    assert!(matches!(there.put_manifest(&wrong, media::IMAGE_MANIFEST, &manifest).await, Err(Fault::Mismatch { .. })));
    let root = put(&there, &tag("v1"), &image(&there, &[b"x"]).await).await;
    std::fs::write(blob_path(folder.path(), &root.digest), b"{}").unwrap();
    for at in [tag("v1"), Target::Digest(root.digest), Target::Only] {
        assert!(matches!(there.manifest(&at, MAX_MANIFEST).await, Err(Fault::Mismatch { .. })), "{at:?}");
    }
}

#[tokio::test]
async fn f02_f04_f13_links_and_other_things_in_place_of_files_are_refused() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    std::fs::write(&secret, b"secret").unwrap();
    let descriptor = Descriptor::of(media::OCTET_STREAM, b"secret");
    let folder = tempfile::tempdir().unwrap();
    let there = create(&layout(folder.path())).await;
    let path = blob_path(folder.path(), &descriptor.digest);
    for target in [secret.clone(), "/proc/self/exe".into(), "/proc/self/fd/0".into()] {
        symlink(&target, &path).unwrap();
        let fault = there.bytes(&descriptor, 100).await.unwrap_err().to_string();
        assert!(fault.contains("link"), "{fault}");
        std::fs::remove_file(&path).unwrap();
    }
    std::fs::create_dir(&path).unwrap();
    assert!(there.bytes(&descriptor, 100).await.is_err(), "a folder");
    std::fs::remove_dir(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert!(there.bytes(&descriptor, 100).await.is_err(), "a pipe does not hold us up");
    for (name, whole) in [("index.json", false), ("oci-layout", false), ("blobs", true), ("blobs/sha256", true)] {
        let folder = tempfile::tempdir().unwrap();
        let moved = folder.path().join("moved");
        let site = folder.path().join("site");
        put(&create(&layout(&site)).await, &tag("v1"), &Image::artifact("x", descriptor.clone(), None)).await;
        std::fs::rename(site.join(name), &moved).unwrap();
        symlink(&moved, site.join(name)).unwrap();
        let opened = Transport::open(&layout(&site), &Options::default()).await;
        let read = match opened {
            Ok(there) => there.manifest(&tag("v1"), MAX_MANIFEST).await.map(drop),
            Err(fault) => Err(fault),
        };
        let fault = read.unwrap_err().to_string();
        assert!(fault.contains("link"), "{name}: {fault}");
        assert_eq!(whole, moved.is_dir());
    }
}

#[test]
fn f09_a_folder_swapped_for_a_link_while_blobs_are_written_leads_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let (site, outside) = (folder.path().join("site"), folder.path().join("outside"));
    std::fs::create_dir(&outside).unwrap();
    Layout::create(&site).unwrap();
    symlink(&outside, folder.path().join("link")).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let racer = std::thread::spawn({
        let (over, top) = (Arc::clone(&over), folder.path().to_path_buf());
        move || {
            let dir = std::fs::File::open(&top).unwrap();
            while !over.load(Ordering::Relaxed) {
                // Both the last folder and the one above it.
                for name in ["site/blobs/sha256", "site/blobs"] {
                    let swap = rustix::fs::RenameFlags::EXCHANGE;
                    for _ in 0..2 {
                        rustix::fs::renameat_with(&dir, name, &dir, "link", swap).unwrap();
                    }
                }
            }
        }
    });
    let (mut kept, mut refused) = (0_u32, 0_u32);
    for turn in 0..3000_u32 {
        let bytes = turn.to_le_bytes().to_vec();
        let descriptor = Descriptor::of(media::OCTET_STREAM, &bytes);
        let put = Layout::open(&site).and_then(|there| there.put_blob(&descriptor, &Blob::from_bytes(bytes)));
        match put {
            Ok(()) => kept += 1,
            Err(_) => refused += 1,
        }
    }
    over.store(true, Ordering::Relaxed);
    racer.join().unwrap();
    assert!(kept > 0 && refused > 0, "the race was run: {kept} kept, {refused} refused");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "nothing outside was touched");
}

#[tokio::test]
async fn hostile_indexes_are_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let there = create(&layout(folder.path())).await;
    let one = put(&there, &tag("v1"), &image(&there, &[b"one"]).await).await;
    let entry = |digest: &str, size: &str, tag: &str| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{size},"annotations":{{"org.opencontainers.image.ref.name":"{tag}"}}}}"#
        )
    };
    let (own, size) = (one.digest.to_string(), one.size.to_string());
    let list = |entries: &[String]| format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
    let other = format!("sha256:{}", "0".repeat(64));
    for (index, words) in [
        (list(&[entry("../../etc/passwd", "6", "v1")]), "digest"),
        (list(&[entry("sha256:../../../etc/passwd", "6", "v1")]), "digest"),
        (list(&[entry(&own, &size, "v1"), entry(&other, "1", "v1")]), "several images"),
        (list(&[entry(&other, "1", "v1")]), "no blob"),
        (r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#.into(), "index.json"),
        (r#"{"schemaVersion":2,"config":{},"layers":[]}"#.into(), "index"),
        (list(&vec![entry(&own, &size, "v1"); 1025]), "1024"),
        (format!("{}{}", list(&[entry(&own, &size, "v1")]), " ".repeat(4 << 20)), "more than"),
        (String::new(), "index.json"),
    ] {
        std::fs::write(folder.path().join("index.json"), index).unwrap();
        let fault = there.manifest(&tag("v1"), MAX_MANIFEST).await.unwrap_err().to_string();
        assert!(fault.contains(words), "{words}: {fault}");
    }
    for marker in ["", "{}", r#"{"imageLayoutVersion":"2.0.0"}"#, r#"{"imageLayoutVersion":1}"#, &"x".repeat(5000)] {
        std::fs::write(folder.path().join("oci-layout"), marker).unwrap();
        assert!(Layout::open(folder.path()).is_err(), "{marker}");
    }
    let full = tempfile::tempdir().unwrap();
    std::fs::write(full.path().join("file"), b"x").unwrap();
    let fault = Layout::create(full.path()).unwrap_err().to_string();
    assert!(fault.contains("holds other things"), "{fault}");
    assert!(Layout::open(&full.path().join("none")).unwrap_err().is_not_found());
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_at_once_lose_no_entry_of_the_index() {
    let folder = tempfile::tempdir().unwrap();
    let place = layout(folder.path());
    create(&place).await;
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..8_u8 {
        let place = place.clone();
        writers.spawn(async move {
            let there = create(&place).await;
            for turn in 0..4_u8 {
                let image = image(&there, &[&[n, turn]]).await;
                put(&there, &tag(&format!("v{n}-{turn}")), &image).await;
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    assert_eq!(open(&place).await.tags(100).await.unwrap().len(), 32);
    let leftovers = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(leftovers, 3, "blobs, index.json, oci-layout and nothing else");
}

#[tokio::test]
async fn s21_a_damaged_blob_of_the_right_length_is_not_taken_for_the_blob() {
    let folder = tempfile::tempdir().unwrap();
    let there = create(&layout(folder.path())).await;
    let blob = put_blob(&there, media::OCTET_STREAM, b"whole").await;
    assert!(there.has_blob(&blob).await.unwrap());
    std::fs::write(blob_path(folder.path(), &blob.digest), b"whale").unwrap();
    assert!(!there.has_blob(&blob).await.unwrap());
    put_blob(&there, media::OCTET_STREAM, b"whole").await;
    assert_eq!(there.bytes(&blob, 10).await.unwrap(), b"whole");
}

#[tokio::test]
async fn what_refers_to_an_image_does_not_vanish_by_being_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let there = create(&layout(folder.path())).await;
    let root = put(&there, &tag("v1"), &image(&there, &[b"one"]).await).await;
    let lock = attach(&there, media::LOCK, b"lock", &root).await;
    let (path, index) = (blob_path(folder.path(), &lock.digest), folder.path().join("index.json"));
    let (whole, listed) = (std::fs::read(&path).unwrap(), std::fs::read_to_string(&index).unwrap());
    let referrers = || there.referrers(&root.digest, None, 8);
    assert_eq!(referrers().await.unwrap().len(), 1);
    let mut changed = whole.clone();
    changed[20] ^= 1;
    std::fs::write(&path, changed).unwrap();
    assert!(matches!(referrers().await, Err(Fault::Mismatch { .. })));
    std::fs::write(&path, &whole[1..]).unwrap();
    assert!(matches!(referrers().await, Err(Fault::Broken { .. })));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(referrers().await, Err(Fault::Broken { .. })), "and not \"not found\"");
    // What the tag schema lists is no less there.
    let index_of = Index::new(media::IMAGE_INDEX.into(), vec![lock.clone()]).to_bytes();
    let bare = create(&layout(&folder.path().join("bare"))).await;
    let schema = Target::Tag(tags::referrers(&root.digest));
    bare.put_manifest(&schema, media::IMAGE_INDEX, &index_of).await.unwrap();
    assert!(matches!(bare.referrers(&root.digest, None, 8).await, Err(Fault::Broken { .. })));
    std::fs::write(&path, &whole).unwrap();
    let size = format!("\"size\":{}", lock.size);
    assert!(listed.contains(&size));
    std::fs::write(&index, listed.replace(&size, "\"size\":7")).unwrap();
    assert!(matches!(referrers().await, Err(Fault::Broken { .. })), "the index lies about its length");
    // Of another kind, it is nothing to us.
    let foreign = listed.replace(
        "\"manifests\":[",
        &format!(
            r#""manifests":[{{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","digest":"{}","size":3}},"#,
            Digest::of(b"foreign")
        ),
    );
    std::fs::write(&index, foreign).unwrap();
    assert_eq!(referrers().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_layout_whose_making_was_cut_short_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a/b/site");
    for step in 0..3 {
        std::fs::create_dir_all(root.join("blobs/sha256")).unwrap();
        if step > 0 {
            std::fs::write(root.join(".incoming-0123456789abcdef"), b"{").unwrap();
        }
        if step > 1 {
            std::fs::write(root.join("index.json"), br#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
        }
        let there = create(&layout(&root)).await;
        put(&there, &tag("v1"), &image(&there, &[b"one"]).await).await;
        assert_eq!(open(&layout(&root)).await.tags(4).await.unwrap(), ["v1"]);
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 3, "what was half written is swept away");
        std::fs::remove_dir_all(folder.path().join("a")).unwrap();
    }
    std::fs::create_dir_all(root.join("blobs")).unwrap();
    std::fs::write(root.join("notes.txt"), b"mine").unwrap();
    assert!(Layout::create(&root).unwrap_err().to_string().contains("holds other things"));
}
