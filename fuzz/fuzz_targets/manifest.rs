#![no_main]
//! Manifests, indexes and references of OCI.
use libfuzzer_sys::fuzz_target;
use machines::oci::{Digest, Manifest, Reference};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = core::str::from_utf8(bytes) {
        let _ = Digest::parse(text);
        if let Ok(reference) = Reference::parse(text) {
            // A tag beside a digest is given up, and a tag that is not written is `latest`: written once, it stays.
            let written = reference.to_string();
            let again = Reference::parse(&written).expect("what was read can be written and read");
            assert_eq!((again.to_string(), &again), (written, &reference));
        }
    }
    let Ok(manifest) = Manifest::parse(bytes, None) else { return };
    let written = match &manifest {
        Manifest::Image(image) => image.to_bytes(),
        Manifest::Index(index) => index.to_bytes(),
    };
    assert_eq!(Manifest::parse(&written, Some(manifest.media_type())).as_ref(), Ok(&manifest));
});
