use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use io_artifacts::Fault;
use io_artifacts::source::{Archive, Options, Transport};
use machines::oci::{Descriptor, Digest, Image, Index, MAX_MANIFEST, media};
use machines::tar;

use crate::images::{archive, attach, check_release, create, image, layout, open, put, put_blob, quiet, release, tag};

const MARKER: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// An archive of these entries: headers as we make them, or changed.
#[derive(Clone, Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn file(self, name: &str, bytes: &[u8]) -> Self {
        self.entry(tar::header(name, u64::try_from(bytes.len()).unwrap()).unwrap(), bytes)
    }

    fn entry(mut self, header: [u8; 512], bytes: &[u8]) -> Self {
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn signed(mut header: [u8; 512]) -> [u8; 512] {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

fn kind(name: &str, kind: u8, target: &str) -> [u8; 512] {
    let mut header = tar::header("x", 0).unwrap();
    header[..100].fill(0);
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[156] = kind;
    header[157..157 + target.len()].copy_from_slice(target.as_bytes());
    signed(header)
}

fn blob_name(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::of(bytes).hex())
}

/// The entries of an archive with one image `v1`.
fn good() -> Tar {
    let config = br#"{"architecture":"amd64","os":"linux"}"#;
    let mut image = Image::artifact("x", Descriptor::of(media::IMAGE_LAYER, b"layer"), None);
    image.config = Descriptor::of(media::IMAGE_CONFIG, config);
    image.artifact_type = None;
    let manifest = image.to_bytes();
    let mut entry = Descriptor::of(media::IMAGE_MANIFEST, &manifest);
    entry.annotations.insert(media::REF_NAME.into(), "v1".into());
    let index = Index::new(media::IMAGE_INDEX.into(), vec![entry]).to_bytes();
    let tar = Tar::default().file("oci-layout", MARKER).file("index.json", &index);
    tar.file(&blob_name(config), config).file(&blob_name(b"layer"), b"layer").file(&blob_name(&manifest), &manifest)
}

fn read(bytes: &[u8]) -> Result<Archive, Fault> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    std::fs::write(&path, bytes).unwrap();
    let archive = Archive::open(&path)?;
    archive.manifest(&tag("v1"), MAX_MANIFEST)?;
    Ok(archive)
}

fn refused(bytes: &[u8]) -> String {
    read(bytes).map(drop).unwrap_err().to_string()
}

#[tokio::test]
async fn what_is_put_into_an_archive_is_found_in_it_and_the_same_content_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one.tar"), folder.path().join("two.tar"));
    let begun = create(&archive(&one)).await;
    assert!(!one.exists(), "nothing is there before the end");
    let root = release(&begun).await;
    check_release(&begun, &root).await;
    check_release(&open(&archive(&one)).await, &root).await;
    let site = layout(&folder.path().join("site"));
    release(&create(&site).await).await;
    let copy = create(&archive(&two)).await;
    io_artifacts::copy::copy(&open(&site).await, &tag("v1"), &copy, &tag("v1"), quiet()).await.unwrap();
    assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "nothing is left beside them");
}

#[tokio::test]
async fn an_archive_is_added_to_by_one_rename() {
    let folder = tempfile::tempdir().unwrap();
    let place = archive(&folder.path().join("a.tar"));
    let there = create(&place).await;
    let one = put(&there, &tag("v1"), &image(&there, &[b"one"]).await).await;
    there.finish().await.unwrap();
    let before = std::fs::read(folder.path().join("a.tar")).unwrap();
    let more = create(&place).await;
    attach(&more, media::LOCK, b"lock", &one).await;
    assert_eq!(std::fs::read(folder.path().join("a.tar")).unwrap(), before, "not before the end");
    more.finish().await.unwrap();
    // The same handle goes on.
    put(&more, &tag("v2"), &image(&more, &[b"two"]).await).await;
    more.finish().await.unwrap();
    more.finish().await.unwrap();
    let read = open(&place).await;
    assert_eq!(read.referrers(&one.digest, Some(media::LOCK), 4).await.unwrap().len(), 1);
    assert_eq!(read.tags(4).await.unwrap(), ["v1", "v2"]);
    assert!(read.has_blob(&Descriptor::of(media::IMAGE_LAYER, b"one")).await.unwrap());
    // Two that write at once: the second is told.
    let (a, b) = (create(&place).await, create(&place).await);
    put_blob(&a, media::OCTET_STREAM, b"a").await;
    put_blob(&b, media::OCTET_STREAM, b"b").await;
    a.finish().await.unwrap();
    assert!(b.finish().await.unwrap_err().to_string().contains("somebody else"));
    drop((a, b));
    // Begun anew, it takes the place of what lies there.
    let anew = Archive::anew(&folder.path().join("a.tar"));
    let blob = Descriptor::of(media::OCTET_STREAM, b"anew");
    anew.put_blob(&blob, &io_artifacts::blob::Blob::from_bytes(b"anew".to_vec())).unwrap();
    anew.finish().unwrap();
    assert!(anew.has_blob(&blob).unwrap() && anew.tags().unwrap().is_empty());
    assert!(open(&place).await.tags(4).await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn f01_f06_f08_archives_hold_what_a_layout_holds_once_and_nothing_else() {
    assert!(read(&good().end()).is_ok());
    for name in ["etc/passwd", "blobs/sha256", "index.json.bak", "blobs/sha512/00", "INDEX.JSON", "manifest.json"] {
        assert!(refused(&good().file(name, b"x").end()).contains(name), "{name}");
    }
    let upper = blob_name(b"layer").to_uppercase().replace("BLOBS/SHA256", "blobs/sha256");
    assert!(refused(&good().file(&upper, b"layer").end()).contains("holds"), "upper case");
    for name in ["oci-layout", "index.json", blob_name(b"layer").as_str()] {
        assert!(refused(&good().file(name, b"layer").end()).contains("twice"), "{name}");
    }
    for name in ["../index.json", "/index.json", "./index.json", "blobs/../index.json", "blobs//sha256/0", "C:\\x", ""]
    {
        let hostile = good().entry(kind(name, b'0', ""), b"").end();
        assert!(refused(&hostile).contains("file name"), "{name}");
    }
    let behind = [good().end(), good().end()].concat();
    assert!(refused(&behind).contains("follows the zero block"));
    let mut dirt = good().end();
    let len = dirt.len();
    dirt[len - 1] = 1;
    assert!(refused(&dirt).contains("follows the zero block"));
    let mut long = good().end();
    long.resize(long.len() + (2 << 20), 0);
    assert!(refused(&long).contains("behind the end"));
    let good = good().end();
    for cut in [0, 100, 511, 512, 700, good.len() - 1024, good.len() - 513] {
        refused(&good[..cut]);
    }
    assert!(refused(&Tar::default().file("oci-layout", MARKER).end()).contains("index.json"));
    assert!(refused(&Tar::default().end()).contains("oci-layout"));
}

#[test]
fn f02_f03_f04_f05_links_devices_and_extension_headers_are_refused() {
    for (letter, words) in [
        (b'1', "hard link"),
        (b'2', "symbolic link"),
        (b'3', "device"),
        (b'4', "device"),
        (b'6', "FIFO"),
        (b'x', "PAX"),
        (b'g', "PAX"),
        (b'L', "GNU"),
        (b'K', "GNU"),
        (b'S', "GNU"),
        (b'\0', "old tar"),
        (b'7', "unknown"),
    ] {
        let bytes = Tar::default().entry(kind("index.json", letter, "/etc/passwd"), b"").end();
        let message = refused(&bytes);
        assert!(message.contains(words), "{letter}: {message}");
    }
    assert!(refused(&good().entry(kind("index.json", b'0', "target"), b"").end()).contains("link target"));
    // Folders as skopeo writes them, once each, and none else.
    let folders = |names: &[&str]| names.iter().fold(good(), |tar, name| tar.entry(kind(name, b'5', ""), b"")).end();
    assert!(read(&folders(&["blobs/", "blobs/sha256/"])).is_ok());
    for (names, words) in [(&["etc/"][..], "etc"), (&["blobs/", "blobs/"], "twice"), (&["../"], "file name")] {
        assert!(refused(&folders(names)).contains(words), "{names:?}");
    }
    let mut gnu = tar::header("index.json", 0).unwrap();
    gnu[257..265].copy_from_slice(b"ustar  \0");
    assert!(refused(&good().entry(signed(gnu), b"").end()).contains("ustar"));
    let mut huge = tar::header(&blob_name(b"other"), 0).unwrap();
    huge[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert!(refused(&good().entry(signed(huge), b"").end()).contains("octal"));
    let beyond = tar::header(&blob_name(b"other"), 1 << 32).unwrap();
    assert!(refused(&good().entry(beyond, b"").end()).contains("ends within"));
}

#[test]
fn f07_entries_are_counted() {
    let mut tar = good();
    for n in 0..65_536_u32 {
        tar = tar.file(&format!("blobs/sha256/{n:064x}"), b"");
    }
    assert!(refused(&tar.end()).contains("more than 65536"));
}

#[tokio::test]
async fn s12_s22_blobs_are_hashed_as_they_are_used_and_another_file_under_the_name_has_no_effect() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let lying = good().file(&blob_name(b"truth"), b"a lie").end();
    std::fs::write(&path, &lying).unwrap();
    let there = open(&archive(&path)).await;
    let blob = Descriptor::of(media::OCTET_STREAM, b"truth");
    assert!(matches!(there.bytes(&blob, 10).await, Err(Fault::Mismatch { .. })));
    let layer = Descriptor::of(media::IMAGE_LAYER, b"layer");
    std::fs::write(folder.path().join("other"), b"something else altogether").unwrap();
    std::fs::rename(folder.path().join("other"), &path).unwrap();
    assert_eq!(there.bytes(&layer, 10).await.unwrap(), b"layer");
    // Changed in place: told; cut: told.
    let path = folder.path().join("b.tar");
    std::fs::write(&path, &lying).unwrap();
    let there = open(&archive(&path)).await;
    let mut changed = lying.clone();
    let at = changed.windows(5).position(|w| w == b"layer").unwrap();
    changed[at] ^= 1;
    std::fs::write(&path, &changed).unwrap();
    assert!(matches!(there.bytes(&layer, 10).await, Err(Fault::Mismatch { .. })));
    std::fs::File::options().write(true).open(&path).unwrap().set_len(512).unwrap();
    assert!(there.bytes(&layer, 10).await.is_err());
    // An archive with a lie in it is not written on.
    std::fs::write(&path, &lying).unwrap();
    let more = create(&archive(&path)).await;
    put_blob(&more, media::OCTET_STREAM, b"new").await;
    assert!(matches!(more.finish().await, Err(Fault::Mismatch { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), lying);
}

#[tokio::test]
async fn what_is_no_file_is_no_archive() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::default();
    assert!(Transport::open(&archive(folder.path()), &options).await.is_err(), "a folder");
    // What cannot be read at all is told apart from what can be read and is refused.
    let whole = folder.path().join("whole.tar");
    let begun = create(&archive(&whole)).await;
    put(&begun, &tag("v1"), &image(&begun, &[&[7; 2_000]]).await).await;
    begun.finish().await.unwrap();
    let whole = std::fs::read(&whole).unwrap();
    let odd = folder.path().join("odd.tar");
    for cut in (0..whole.len()).step_by(177) {
        std::fs::write(&odd, &whole[..cut]).unwrap();
        let fault = Transport::open(&archive(&odd), &options).await.unwrap_err();
        assert!(matches!(fault, Fault::Unreachable { .. }), "cut at {cut}: {fault}");
    }
    for (words, bytes) in [("garbage", vec![b'x'; 4_096]), ("gzip", [&[0x1f, 0x8b, 8][..], &[0; 4_093]].concat())] {
        std::fs::write(&odd, bytes).unwrap();
        let fault = Transport::open(&archive(&odd), &options).await.unwrap_err();
        assert!(matches!(fault, Fault::Unreachable { .. }) && fault.to_string().contains("no tar"), "{words}: {fault}");
    }
    let mut renamed = whole.clone();
    renamed[0] = b'O';
    std::fs::write(&odd, &renamed).unwrap();
    let fault = Transport::open(&archive(&odd), &options).await.unwrap_err();
    assert!(matches!(fault, Fault::Unreachable { .. }), "its first header is torn: {fault}");
    std::fs::write(&odd, [machines::tar::header("other", 0).unwrap().as_slice(), &[0; 1024]].concat()).unwrap();
    let fault = Transport::open(&archive(&odd), &options).await.unwrap_err();
    assert!(matches!(fault, Fault::Broken { .. }), "an archive of something else: {fault}");
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert!(Transport::open(&archive(&fifo), &options).await.is_err(), "a pipe");
    assert!(Transport::open(&archive(&folder.path().join("none")), &options).await.unwrap_err().is_not_found());
    // A link that somebody names is followed: it is his.
    let path = folder.path().join("a.tar");
    std::fs::write(&path, good().end()).unwrap();
    symlink(&path, folder.path().join("link.tar")).unwrap();
    assert!(Transport::open(&archive(&folder.path().join("link.tar")), &options).await.is_ok());
}

/// FAULTS F05: other readers find in our archives exactly what we put into them.
#[tokio::test]
async fn f05_gnu_tar_and_tar_rs_read_what_we_write_and_we_read_what_gnu_tar_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let root = release(&create(&archive(&path)).await).await;
    let ours = {
        let mut reader = ::tar::Archive::new(std::fs::File::open(&path).unwrap());
        let entries = reader.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            assert_eq!(entry.header().entry_type(), ::tar::EntryType::Regular);
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            (entry.path().unwrap().to_str().unwrap().to_owned(), bytes)
        });
        entries.collect::<Vec<_>>()
    };
    assert_eq!(ours[0].0, "oci-layout");
    assert_eq!(ours[1].0, "index.json");
    assert!(ours[2..].windows(2).all(|pair| pair[0].0 < pair[1].0));
    for (name, bytes) in &ours[2..] {
        assert_eq!(*name, blob_name(bytes));
    }
    // GNU tar is everywhere where this is built.
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let run = |args: &[&str]| {
        let status = Command::new("tar").current_dir(&out).args(args).status().unwrap();
        assert!(status.success(), "{args:?}");
    };
    run(&["-xf", path.to_str().unwrap()]);
    for (name, bytes) in &ours {
        assert_eq!(std::fs::read(out.join(name)).unwrap(), *bytes);
        assert_eq!(out.join(name).metadata().unwrap().permissions().mode() & 0o777, 0o644 & !umask());
    }
    check_release(&open(&layout(&out)).await, &root).await;
    run(&["--format=ustar", "-cf", "../b.tar", "oci-layout", "index.json", "blobs"]);
    check_release(&open(&archive(&folder.path().join("b.tar"))).await, &root).await;
    run(&["--format=ustar", "-cf", "../c.tar", "."]);
    assert!(Archive::open(&folder.path().join("c.tar")).is_err(), "names that begin with ./ are refused");
    run(&["--format=gnu", "-cf", "../d.tar", "oci-layout", "index.json", "blobs"]);
    assert!(Archive::open(&folder.path().join("d.tar")).is_err(), "the GNU format is refused");
}

fn umask() -> u32 {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("probe");
    std::fs::write(&path, b"").unwrap();
    0o666 & !path.metadata().unwrap().permissions().mode()
}

#[tokio::test]
async fn f14_nothing_half_written_is_visible_and_nothing_is_left_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let begun = create(&archive(&path)).await;
    put_blob(&begun, media::OCTET_STREAM, b"held").await;
    let beside: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap()).collect();
    assert_eq!(beside.len(), 1);
    assert_eq!(beside[0].metadata().unwrap().permissions().mode() & 0o777, 0o700);
    drop(begun);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(Transport::create(&archive(Path::new("/proc/none/a.tar")), &Options::default()).await.is_ok());
    let nowhere = create(&archive(&folder.path().join("none/a.tar"))).await;
    let blob = Descriptor::of(media::OCTET_STREAM, b"x");
    let put = nowhere.put_blob(&blob, &io_artifacts::blob::Blob::from_bytes(b"x".to_vec())).await;
    assert!(put.unwrap_err().to_string().contains("none"));
}

#[test]
fn writers_of_one_archive_at_once_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let blob = |n: u8| Descriptor::of(media::OCTET_STREAM, &[n; 64]);
    std::thread::scope(|scope| {
        for n in 0..6_u8 {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..200 {
                    let there = Archive::create(path).unwrap();
                    there.put_blob(&blob(n), &io_artifacts::blob::Blob::from_bytes(vec![n; 64])).unwrap();
                    match there.finish() {
                        Ok(()) => return,
                        Err(fault) => assert!(fault.to_string().contains("somebody else"), "{fault}"),
                    }
                }
                panic!("200 tries and none went through");
            });
        }
    });
    let there = Archive::open(&path).unwrap();
    for n in 0..6 {
        assert!(there.has_blob(&blob(n)).unwrap(), "{n}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn after_a_failure_everything_is_still_there_to_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let there = Archive::create(&path).unwrap();
    let blob = Descriptor::of(media::OCTET_STREAM, b"held");
    there.put_blob(&blob, &io_artifacts::blob::Blob::from_bytes(b"held".to_vec())).unwrap();
    // Something takes the name, and goes away again.
    std::fs::create_dir(&path).unwrap();
    assert!(there.finish().is_err());
    std::fs::remove_dir(&path).unwrap();
    there.finish().unwrap();
    assert!(Archive::open(&path).unwrap().has_blob(&blob).unwrap());
}

#[test]
fn what_a_killed_writer_left_is_swept_and_what_a_living_one_holds_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let left = at(".a.tar.blobs-0123456789abcdef");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("0".repeat(64)), b"a blob").unwrap();
    std::fs::write(left.join(".incoming-0123456789abcdef"), b"a part").unwrap();
    std::fs::write(at(".a.tar.new-0123456789abcdef"), b"half").unwrap();
    let others = [".b.tar.new-0123456789abcdef", ".a.tar.new-mine", "notes"];
    for other in others {
        std::fs::write(at(other), b"other").unwrap();
    }
    let put = |n: u8| {
        let there = Archive::create(&at("a.tar")).unwrap();
        let blob = Descriptor::of(media::OCTET_STREAM, &[n]);
        there.put_blob(&blob, &io_artifacts::blob::Blob::from_bytes(vec![n])).unwrap();
        (there, blob)
    };
    let (living, held) = put(1);
    assert!(!left.exists() && !at(".a.tar.new-0123456789abcdef").exists());
    let (second, _) = put(2);
    drop(second);
    living.finish().unwrap();
    assert!(Archive::open(&at("a.tar")).unwrap().has_blob(&held).unwrap());
    assert!(others.iter().all(|other| at(other).exists()), "what is not of this archive stays");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4);
}

#[tokio::test]
async fn s12_a_damaged_blob_of_an_archive_is_replaced_by_a_whole_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    std::fs::write(&path, good().file(&blob_name(b"truth"), b"a lie").end()).unwrap();
    let more = create(&archive(&path)).await;
    let blob = Descriptor::of(media::OCTET_STREAM, b"truth");
    assert!(!more.has_blob(&blob).await.unwrap());
    put_blob(&more, media::OCTET_STREAM, b"truth").await;
    more.finish().await.unwrap();
    assert_eq!(open(&archive(&path)).await.bytes(&blob, 10).await.unwrap(), b"truth");
}
