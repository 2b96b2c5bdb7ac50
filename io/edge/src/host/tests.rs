use std::os::unix::fs::symlink;

use super::*;

#[test]
fn this_host_says_what_it_is() {
    let components = Sources::default().components().unwrap();
    let uname = rustix::system::uname();
    assert_eq!(components.kernel, uname.release().to_str().unwrap());
    assert_eq!(components.machine, uname.machine().to_str().unwrap());
    assert!(!components.libc.is_empty());
    let given = Sources { kernel: Text::File("/proc/sys/kernel/osrelease".into()), ..Sources::default() };
    assert_eq!(given.components().unwrap().composite_hash(), components.composite_hash());
}

#[test]
fn another_root_file_system_is_read_as_it_would_read_itself() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    for made in ["etc", "usr/lib"] {
        std::fs::create_dir_all(root.join(made)).unwrap();
    }
    std::fs::write(root.join("usr/lib/os-release"), "ID=inside\n").unwrap();
    std::fs::write(root.join("etc/own"), "own").unwrap();
    std::fs::write(folder.path().join("secret"), "ID=outside\n").unwrap();
    let mut sources = Sources { root: root.clone(), machine: Text::Is("x86_64".into()), ..Sources::default() };
    sources.extra_files = vec!["/etc/own".into(), "/etc/absolute".into(), "/etc/above".into(), "/etc/own/x".into()];
    symlink("/etc/own", root.join("etc/absolute")).unwrap();
    symlink("../../../secret", root.join("etc/above")).unwrap();
    let id = |sources: &Sources| sources.components().unwrap().os_release.get("ID").cloned();
    assert_eq!(id(&sources).as_deref(), Some("inside"), "the second place");
    symlink("/usr/lib/os-release", root.join("etc/os-release")).unwrap();
    assert_eq!(id(&sources).as_deref(), Some("inside"), "an absolute link of that system");
    let own = Some(Hash32(*blake3::hash(b"own").as_bytes()));
    let found: Vec<_> = sources.components().unwrap().files.into_values().collect();
    // In the order of the names: above, absolute, own, own/x.
    assert_eq!(found, [None, own, own, None], "above the root is the root");
    std::fs::write(root.join("etc/given"), "ID=given\n").unwrap();
    sources.os_release = Some(root.join("etc/given"));
    assert_eq!(id(&sources).as_deref(), Some("given"));
    sources.extra_files = vec!["/etc/own".into(); MOST_EXTRA_FILES + 1];
    assert!(sources.components().unwrap_err().contains("more than 64"));
}

#[test]
fn texts_are_one_short_printable_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text");
    let read = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        Text::File(file.clone()).read("kernel release", b"")
    };
    assert_eq!(read(b"6.1.0\n").as_deref(), Ok("6.1.0"));
    for bad in [&b""[..], b" \n", b"a\nb", b"\xff", "\u{e4}".as_bytes(), &[b'a'; 257], b"a\0b"] {
        assert!(read(bad).unwrap_err().starts_with("kernel release: "), "{bad:?}");
    }
    assert_eq!(Text::Is(" x ".into()).read("machine", b""), Ok("x".into()));
    assert!(Text::Own.read("machine", b"").is_err());
}

#[test]
fn paths_of_extra_files_are_absolute_and_printable() {
    assert_eq!(extra_file("/etc/a b~"), Ok(()));
    for bad in ["etc/x", "", "/\u{e4}", "/a\nb", "/a\0"] {
        assert!(extra_file(bad).is_err(), "{bad:?}");
    }
    assert!(extra_file(&format!("/{}", "a".repeat(MOST_PATH))).is_err());
}

#[test]
fn the_id_of_this_boot_is_the_kernels_or_a_fault() {
    assert_eq!(boot_id(Path::new(BOOT_ID)).unwrap().len(), 36);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("boot_id");
    std::fs::write(&file, "0f1e2d3c-0000-4000-8000-000000000001\n").unwrap();
    assert_eq!(boot_id(&file).unwrap(), "0f1e2d3c-0000-4000-8000-000000000001");
    for bad in ["", "0f1e2d3c", "0f1e2d3c-0000-4000-8000-00000000000\"", &"a".repeat(400)] {
        std::fs::write(&file, bad).unwrap();
        assert!(boot_id(&file).unwrap_err().contains("boot_id"), "{bad:?}");
    }
    assert!(boot_id(&folder.path().join("none")).unwrap_err().contains("none"));
}
