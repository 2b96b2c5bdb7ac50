#![no_main]
//! Policy bundles: gzip, tar, manifest. What does not begin like gzip is taken for the archive within.
use std::io::Write as _;

use libfuzzer_sys::fuzz_target;
use machines::policy::bundle::{self, MAX_FILES, MAX_PACKED};

include!("tar_sums.rs");

fuzz_target!(|bytes: &[u8]| {
    let bytes = if bytes.starts_with(b"\x1f\x8b") {
        bytes.to_vec()
    } else {
        let mut gzip = flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::none());
        gzip.write_all(&with_sums(bytes)).expect("into memory");
        gzip.finish().expect("into memory")
    };
    let Ok(bundle) = bundle::open(&bytes) else { return };
    assert!(bytes.len() <= MAX_PACKED && bundle.files.len() < MAX_FILES);
    for name in bundle.files.keys() {
        assert!(!name.starts_with('/') && name.split('/').all(|part| !matches!(part, "" | "." | "..")), "{name:?}");
    }
});
