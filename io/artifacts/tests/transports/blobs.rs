//! Blobs on their way through memory.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use io_artifacts::blob::{Blob, BlobSink, Discard, Memory, Scratch};
use machines::oci::{Descriptor, Digest, media};

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

#[test]
fn f15_what_is_hashed_is_what_went_through_at_every_length() {
    for len in
        [0, 1, 511, 256 * 1024 - 1, 256 * 1024, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 * 256 * 1024 + 7, 5 << 20]
    {
        let content = bytes(len);
        let descriptor = Descriptor::of(media::OCTET_STREAM, &content);
        let blob = Blob::from_bytes(content.clone());
        let through = blob.pump(u64::MAX, Memory::default()).unwrap();
        assert_eq!((through.digest(), through.size()), (descriptor.digest, descriptor.size));
        assert_eq!(through.matching(&descriptor).unwrap().into_sink().0, content, "{len}");
        let mut scratch = Scratch::new().unwrap();
        scratch.write(&content).unwrap();
        let again = scratch.into_blob().unwrap().pump(u64::MAX, Discard).unwrap();
        assert_eq!(again.digest(), descriptor.digest);
        let part = u64::try_from(len / 2).unwrap();
        let half = blob.pump(part, Discard).unwrap();
        assert_eq!((half.digest(), half.size()), (Digest::of(&content[..len / 2]), part));
        assert_eq!(half.matching(&descriptor).is_ok(), len == 0);
    }
}

#[test]
fn a_sink_that_fails_ends_the_reading() {
    struct Full(u64);
    impl BlobSink for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0 += u64::try_from(bytes.len()).unwrap();
            if self.0 > 600_000 { Err(io::Error::other("full")) } else { Ok(()) }
        }
        fn restart(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for len in [1 << 20, 8 << 20] {
        let fault = Blob::from_bytes(bytes(len)).pump(u64::MAX, Full(0)).map(drop).unwrap_err();
        assert!(fault.to_string().contains("full"), "{fault}");
    }
}

#[test]
fn f15_a_file_that_grows_or_is_cut_while_it_is_read_is_read_as_long_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blob");
    let content = bytes(2 << 20);
    std::fs::write(&path, &content).unwrap();
    let open = || Blob::from_file(std::fs::File::open(&path).unwrap(), "blob").unwrap();
    let blob = open();
    std::fs::write(&path, [&content[..], b"more"].concat()).unwrap();
    assert_eq!(blob.pump(u64::MAX, Discard).unwrap().digest(), Digest::of(&content));
    let blob = open();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
    let cut = blob.pump(u64::MAX, Discard).unwrap();
    assert_eq!((cut.digest(), cut.size()), (Digest::of(&content[..1 << 20]), 1 << 20));
    // A racer that cuts and fills it: each reading is consistent or told from the whole.
    let over = Arc::new(AtomicBool::new(false));
    let racer = std::thread::spawn({
        let (over, path, content) = (Arc::clone(&over), path.clone(), content.clone());
        move || {
            while !over.load(Ordering::Relaxed) {
                std::fs::write(&path, &content).unwrap();
            }
        }
    });
    let descriptor = Descriptor::of(media::OCTET_STREAM, &content);
    for _ in 0..50 {
        if let Ok(matched) = open().pump(u64::MAX, Memory::default()).unwrap().matching(&descriptor) {
            assert!(matched.into_sink().0 == content);
        }
    }
    over.store(true, Ordering::Relaxed);
    racer.join().unwrap();
}
