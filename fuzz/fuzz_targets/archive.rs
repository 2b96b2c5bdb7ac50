#![no_main]
//! Archives of an image layout, as they come on a stick.
use std::os::unix::fs::FileExt as _;
use std::sync::LazyLock;

use io_artifacts::source::Archive;
use libfuzzer_sys::fuzz_target;
use machines::oci::Target;

/// One file, written anew for each input.
static PLACE: LazyLock<(std::path::PathBuf, std::fs::File)> = LazyLock::new(|| {
    let folder = std::env::var_os("FUZZ_TMP").map_or_else(std::env::temp_dir, Into::into);
    let path = folder.join(format!("fuzz-archive-{}.tar", std::process::id()));
    let file = std::fs::File::create(&path).expect("a file for the archive");
    (path, file)
});

include!("tar_sums.rs");

fuzz_target!(|bytes: &[u8]| {
    let bytes = &with_sums(bytes);
    let (path, file) = &*PLACE;
    file.set_len(0).and_then(|()| file.write_all_at(bytes, 0)).expect("the archive is written");
    let Ok(archive) = Archive::open(path) else { return };
    if let Ok(tags) = archive.tags() {
        for tag in tags.into_iter().take(4) {
            let _ = archive.manifest(&Target::Tag(tag), 1 << 20);
        }
    }
    if let Ok(found) = archive.manifest(&Target::Only, 1 << 20) {
        let _ = archive.referrers(&machines::oci::Digest::of(&found.bytes), 64);
    }
});
