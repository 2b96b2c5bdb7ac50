use machines::oci::media;
use std::path::PathBuf;

use super::*;
use crate::blob::Discard;

fn cache(max_bytes: u64) -> (tempfile::TempDir, Cache) {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::open(root.path(), max_bytes).unwrap();
    (root, cache)
}

fn blob(n: u8, len: usize) -> (Descriptor, Vec<u8>) {
    let bytes = vec![n; len];
    (Descriptor::of(media::OCTET_STREAM, &bytes), bytes)
}

fn path(root: &tempfile::TempDir, descriptor: &Descriptor) -> PathBuf {
    root.path().join("blobs/sha256").join(descriptor.digest.hex())
}

fn put(cache: &Cache, n: u8, len: usize) -> Descriptor {
    let (descriptor, bytes) = blob(n, len);
    assert!(cache.put(&descriptor, bytes).unwrap());
    // Times of use are told apart by the file system's clock.
    std::thread::sleep(std::time::Duration::from_millis(12));
    descriptor
}

fn has(cache: &Cache, descriptor: &Descriptor) -> bool {
    cache.stream(descriptor, || Ok(Discard)).unwrap().is_some()
}

fn files(root: &tempfile::TempDir) -> usize {
    std::fs::read_dir(root.path().join("blobs/sha256")).unwrap().count()
}

#[test]
fn what_is_put_is_read_back_and_what_is_not_there_is_missing() {
    let (_root, cache) = cache(1000);
    let one = put(&cache, 1, 100);
    assert_eq!(cache.bytes(&one, 100).unwrap(), Some(vec![1; 100]));
    assert!(cache.bytes(&one, 99).is_err());
    assert_eq!(cache.bytes(&blob(2, 5).0, 100).unwrap(), None);
    let lie = Descriptor { size: 99, ..one.clone() };
    assert_eq!(cache.bytes(&lie, 100).unwrap(), None);
    assert!(has(&cache, &one), "a descriptor that lies removes nothing");
}

#[test]
fn s12_nothing_is_visible_before_its_digest_matched() {
    let (root, cache) = cache(1000);
    let (descriptor, bytes) = blob(1, 100);
    let mut incoming = cache.incoming(&descriptor).unwrap().unwrap();
    incoming.write(&bytes).unwrap();
    assert!(!path(&root, &descriptor).exists() && !has(&cache, &descriptor));
    drop(incoming);
    assert_eq!(files(&root), 0, "what was given up leaves nothing");
    let fault = cache.put(&descriptor, vec![2; 100]).unwrap_err();
    assert!(matches!(fault, Fault::Mismatch { .. }), "{fault}");
    assert!(cache.put(&descriptor, vec![1; 99]).is_err() && cache.put(&descriptor, vec![1; 101]).is_err());
    assert_eq!(files(&root), 0);
}

#[test]
fn s21_a_damaged_blob_is_removed_and_missing() {
    let (root, cache) = cache(1000);
    let one = put(&cache, 1, 100);
    let mut bytes = std::fs::read(path(&root, &one)).unwrap();
    bytes[50] ^= 1;
    std::fs::write(path(&root, &one), &bytes).unwrap();
    assert!(!has(&cache, &one));
    assert!(!path(&root, &one).exists());
    let one = put(&cache, 1, 100);
    std::fs::write(path(&root, &one), [1; 101]).unwrap();
    assert!(!has(&cache, &one), "grown");
    put(&cache, 1, 100);
    assert!(has(&cache, &one), "mended");
    std::fs::remove_file(path(&root, &one)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", path(&root, &one)).unwrap();
    assert!(cache.bytes(&one, 100).is_err(), "a link is not followed");
}

#[test]
fn the_bound_holds_and_what_was_used_longest_ago_goes_first() {
    let (_root, cache) = cache(300);
    let [one, two, three] = [1, 2, 3].map(|n| put(&cache, n, 100));
    assert!(has(&cache, &one), "used again");
    std::thread::sleep(std::time::Duration::from_millis(12));
    let four = put(&cache, 4, 100);
    assert!(!has(&cache, &two) && has(&cache, &one) && has(&cache, &three) && has(&cache, &four));
    assert_eq!(cache.bytes_held().unwrap(), 300);
    let (large, bytes) = blob(5, 301);
    assert!(!cache.put(&large, bytes).unwrap(), "larger than the cache");
    assert_eq!(cache.bytes_held().unwrap(), 300);
}

#[test]
fn what_is_pinned_never_goes_and_nothing_goes_in_vain() {
    let (root, cache) = cache(300);
    let [one, two] = [1, 2].map(|n| put(&cache, n, 100));
    cache.pin(&one.digest).unwrap();
    let reopened = Cache::open(root.path(), 300).unwrap();
    let (large, bytes) = blob(3, 250);
    assert!(!reopened.put(&large, bytes).unwrap());
    assert!(has(&cache, &one) && has(&cache, &two));
    let three = put(&reopened, 4, 200);
    assert!(has(&cache, &one) && !has(&cache, &two) && has(&cache, &three));
    cache.unpin(&one.digest).unwrap();
    put(&cache, 5, 300);
    assert!(!has(&cache, &one));
}

#[test]
fn what_is_coming_counts_and_what_the_dead_left_is_swept_away() {
    let (root, cache) = cache(300);
    let (one, _) = blob(1, 200);
    let coming = cache.incoming(&one).unwrap().unwrap();
    assert!(cache.incoming(&blob(2, 101).0).unwrap().is_none(), "there is no room beside what is coming");
    // Of a process that was killed: its lock is gone, its file is not.
    std::fs::write(root.path().join("blobs/sha256/.incoming-0123"), "x").unwrap();
    let other = Cache::open(root.path(), 300).unwrap();
    assert_eq!(files(&root), 1, "what lives stays");
    drop(coming);
    assert_eq!(files(&root), 0);
    assert!(other.incoming(&blob(2, 101).0).unwrap().is_some());
}

#[test]
fn many_at_once_keep_the_bound_and_what_they_read_is_whole() {
    let (root, _) = cache(0);
    let workers: Vec<_> = (0..4_u8)
        .map(|worker| {
            let cache = Cache::open(root.path(), 1000).unwrap();
            std::thread::spawn(move || {
                for turn in 0..30_u8 {
                    let (descriptor, bytes) = blob(worker.wrapping_mul(7).wrapping_add(turn) % 16, 150);
                    let kept = cache.put(&descriptor, bytes.clone()).unwrap();
                    if let Some(read) = cache.bytes(&descriptor, 150).unwrap() {
                        assert_eq!(read, bytes);
                    }
                    assert!(cache.bytes_held().unwrap() <= 1000);
                    // Others fill the cache with what is on its way.
                    let _ = kept;
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    assert!(files(&root) <= 6);
}
