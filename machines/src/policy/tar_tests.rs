use super::*;
use proptest::prelude::*;
use std::format;
use std::string::ToString;

const LIMITS: Limits = Limits { files: 4, file_bytes: 2000 };

/// A header as GNU tar 1.34 writes it with `--format=ustar`, without what `append` leaves out.
fn header(name: &[u8], kind: u8, size: usize) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name);
    put(100, b"0000664\x000001750\x000001750\x00");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"15075342437\0");
    put(156, &[kind]);
    put(257, b"ustar\x0000builder");
    put(297, b"builder");
    put(329, b"0000000\x000000000\x00");
    signed(block)
}

fn signed(mut block: [u8; 512]) -> [u8; 512] {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn archive(entries: &[([u8; 512], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (header, data) in entries {
        out.extend_from_slice(header);
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    // GNU tar fills up its last record of 20 blocks.
    out.resize((out.len() + 1024).next_multiple_of(10240), 0);
    out
}

fn named(name: &str) -> Result<usize, Refusal> {
    read(&archive(&[(header(name.as_bytes(), b'0', 1), b"x")]), &LIMITS).map(|files| files.len())
}

fn changed(at: usize, bytes: &[u8]) -> Refusal {
    let mut block = header(b"a.rego", b'0', 1);
    block[at..at + bytes.len()].copy_from_slice(bytes);
    match read(&archive(&[(signed(block), b"x")]), &LIMITS) {
        Ok(_) => panic!("read with {bytes:?} at {at}"),
        Err(refusal) => refusal,
    }
}

#[test]
fn archives_as_gnu_tar_writes_them_are_read() {
    let bytes = archive(&[
        (header(b"a.rego", b'0', 5), b"hello"),
        (header(b"dir/b.rego", b'0', 512), &[7; 512]),
        (header(b"empty", b'0', 0), b""),
    ]);
    let files = read(&bytes, &LIMITS).unwrap();
    assert_eq!(files.keys().copied().collect::<Vec<_>>(), ["a.rego", "dir/b.rego", "empty"]);
    assert_eq!(files["a.rego"], b"hello");
    assert_eq!(files["dir/b.rego"], [7; 512]);
    assert_eq!(files["empty"], b"");
}

#[test]
fn what_is_appended_is_what_gnu_tar_writes() {
    let mut out = Vec::new();
    append(&mut out, "a.rego", b"hello").unwrap();
    let mut gnu = header(b"a.rego", b'0', 5);
    gnu[100..124].copy_from_slice(b"0000644\x000000000\x000000000\x00");
    gnu[136..147].fill(b'0');
    gnu[265..329].fill(0);
    assert_eq!(out[..512], signed(gnu));
    assert_eq!(out.len(), 1024);
}

#[test]
fn f01_names_outside_the_allow_list_are_refused() {
    for name in [
        "../a.rego",
        "..",
        ".",
        "./a.rego",
        "a/../b.rego",
        "a/./b.rego",
        "a/..",
        "/a.rego",
        "//a",
        "a//b",
        "a/",
        "/",
        "C:a",
        "C:\\a",
        "a\\b",
        "..\\a",
        "a b",
        "a\tb",
        "a\nb",
        "a\u{1}b",
        "a\u{7f}",
        "a:b",
        "a*",
        "a?",
        "~",
        "$HOME",
        "a|b",
        "%2e%2e",
        "a;b",
        "é.rego",
        "\u{202e}a",
        "\u{ff0e}\u{ff0e}/a",
        "a\u{200b}b",
        "a'b",
        "a\"b",
        "<a>",
        "a&b",
        "a=b",
        "a,b",
        "a@b",
        "a+b",
        "a#b",
        "(a)",
        "[a]",
        "{a}",
        "a!b",
        "a^b",
        "a`b",
        "",
    ] {
        assert!(matches!(named(name), Err(Refusal::Name { .. })), "{name:?}");
    }
    let bytes = archive(&[(header(b"a\xff", b'0', 1), b"x")]);
    assert!(matches!(read(&bytes, &LIMITS), Err(Refusal::Name { .. })), "not UTF-8");
    for name in ["a", "a.rego", "A-b_c.0/..d/...", ".rego", "-rf", &"n".repeat(100)] {
        assert_eq!(named(name), Ok(1), "{name:?}");
    }
    assert!(check_name("n".repeat(101).as_bytes()).is_err());
}

#[test]
fn f01_nothing_may_hide_behind_the_end_of_a_name() {
    assert!(matches!(named("a.rego\0.sh"), Err(Refusal::Tar { .. })));
    assert!(matches!(changed(99, b"x"), Refusal::Tar { .. }));
}

#[test]
fn f02_f03_f04_only_regular_files_are_taken() {
    for (kind, words) in [
        (b'\0', "old tar format"),
        (b'1', "hard link"),
        (b'2', "symbolic link"),
        (b'3', "device"),
        (b'4', "device"),
        (b'5', "folder"),
        (b'6', "FIFO"),
        (b'7', "unknown kind"),
        (b'Z', "unknown kind"),
        (0xff, "unknown kind"),
    ] {
        let message = changed(156, &[kind]).to_string();
        assert!(message.contains(words), "{kind}: {message}");
    }
    assert!(matches!(changed(157, b"/etc/passwd"), Refusal::Tar { .. }), "a link target");
}

#[test]
fn f05_extension_headers_are_refused() {
    for kind in *b"xgXLKSMVND" {
        let record = b"13 size=1000\n";
        let mut extension = header(b"PaxHeaders/a.rego", b'0', record.len());
        extension[156] = kind;
        let bytes = archive(&[(signed(extension), record), (header(b"a.rego", b'0', 1), b"x")]);
        assert!(matches!(read(&bytes, &LIMITS), Err(Refusal::EntryKind { .. })), "{}", char::from(kind));
    }
}

#[test]
fn f05_headers_that_are_not_canonical_ustar_are_refused() {
    let cases: [(usize, &[u8]); 25] = [
        (257, b"ustar  \0"),
        (257, b"\0\0\0\0\0\0\0\0"),
        (257, b"ustar\x0001"),
        (263, b"  "),
        (345, b"prefix"),
        (499, b"x"),
        (500, b"x"),
        (511, b"\x01"),
        (124, b"\x80\0\0\0\0\0\0\0\0\0\0\x01"),
        (124, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        (124, b"          1\0"),
        (124, b"-0000000001\0"),
        (124, b"00000000008\0"),
        (124, b"0x000000001\0"),
        (124, b"000000000001"),
        (124, b"1\0\0\0\0\0\0\0\0\x002\0"),
        (124, b"\0\0\0\0\0\0\0\0\0\0\0\0"),
        (100, b"rw-r--r-"),
        (108, b"\x80\0\0\0\0\0\0\x01"),
        (116, b"1 2\0\0\0\0\0"),
        (136, b"99999999999\0"),
        (329, b"x"),
        (337, b" "),
        (273, b"x"),
        (305, b"x"),
    ];
    for (at, bytes) in cases {
        let refusal = changed(at, bytes);
        assert!(matches!(refusal, Refusal::Tar { offset: 0, .. }), "{at} {bytes:?}: {refusal}");
    }
    // Fields without use may be empty altogether.
    let mut block = header(b"a.rego", b'0', 1);
    for range in [100..124, 136..148, 265..345] {
        block[range].fill(0);
    }
    assert!(read(&archive(&[(signed(block), b"x")]), &LIMITS).is_ok());
}

#[test]
fn f05_checksums_must_fit() {
    for at in [0, 100, 130, 148, 153, 156, 257, 300, 511] {
        let mut bytes = archive(&[(header(b"a.rego", b'0', 1), b"x")]);
        bytes[at] ^= 1;
        assert!(read(&bytes, &LIMITS).is_err(), "{at}");
    }
    let mut block = header(b"a.rego", b'0', 1);
    block[148..156].fill(b' ');
    assert!(read(&archive(&[(block, b"x")]), &LIMITS).is_err());
}

#[test]
fn f05_an_archive_ends_in_two_zero_blocks_and_nothing_else() {
    let good = archive(&[(header(b"a.rego", b'0', 1), b"x")]);
    assert!(read(&good[..2048], &LIMITS).is_ok());
    for len in [0, 511, 512, 1023, 1024, 1536, 2047, 2049] {
        assert!(matches!(read(&good[..len], &LIMITS), Err(Refusal::Tar { .. })), "{len}");
    }
    for at in [1536, 2047, 2048, 10239] {
        let mut bytes = good.clone();
        bytes[at] = 1;
        assert!(matches!(read(&bytes, &LIMITS), Err(Refusal::Tar { .. })), "{at}");
    }
    let second = archive(&[(header(b"b.rego", b'0', 1), b"y")]);
    assert!(read(&[good, second].concat(), &LIMITS).is_err(), "an archive behind the archive");
}

#[test]
fn f05_padding_is_zero_and_sizes_stay_within_the_archive() {
    let mut bytes = archive(&[(header(b"a.rego", b'0', 1), b"x")]);
    bytes[513] = 1;
    assert!(matches!(read(&bytes, &LIMITS), Err(Refusal::Tar { offset: 513, .. })));
    let bytes = [&header(b"a.rego", b'0', 1500)[..], &[1; 1024]].concat();
    assert!(matches!(read(&bytes, &LIMITS), Err(Refusal::Tar { offset: 512, .. })));
}

#[test]
fn f06_names_that_clash_are_refused() {
    for (first, second) in [
        ("a.rego", "a.rego"),
        ("a.rego", "A.rego"),
        ("D/a", "d/A"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("A/b/c", "a/B"),
        ("a", "A/b/c"),
    ] {
        let bytes = archive(&[(header(first.as_bytes(), b'0', 0), b""), (header(second.as_bytes(), b'0', 0), b"")]);
        let clash = Refusal::Clash { first: first.to_string(), second: second.to_string() };
        assert_eq!(read(&bytes, &LIMITS).unwrap_err(), clash);
    }
    let bytes =
        archive(&[(header(b"a/b", b'0', 0), b""), (header(b"a/c", b'0', 0), b""), (header(b"a.b", b'0', 0), b"")]);
    assert_eq!(read(&bytes, &LIMITS).unwrap().len(), 3);
}

#[test]
fn f07_counts_and_sizes_are_limited_by_what_the_header_says() {
    let names: Vec<_> = (0..5).map(|n| format!("f{n}")).collect();
    let entries: Vec<_> = names.iter().map(|n| (header(n.as_bytes(), b'0', 0), &b""[..])).collect();
    assert_eq!(read(&archive(&entries[..4]), &LIMITS).unwrap().len(), 4);
    assert_eq!(read(&archive(&entries), &LIMITS), Err(Refusal::TooManyFiles { max: 4 }));
    assert_eq!(
        changed(124, b"77777777777\0"),
        Refusal::FileTooLarge { name: "a.rego".to_string(), len: 0o77_777_777_777, max: 2000 }
    );
}

proptest! {
    #[test]
    fn what_is_written_is_read_equal(
        files in prop::collection::btree_map("[A-Za-z0-9_-]{1,20}(/[a-z]{1,3}\\.[a-z]{1,3}){0,3}", prop::collection::vec(any::<u8>(), 0..1100), 0..4),
    ) {
        let mut names = Names::default();
        prop_assume!(files.keys().all(|name| names.add(name).is_ok()));
        let mut out = Vec::new();
        for (name, data) in &files {
            append(&mut out, name, data).unwrap();
        }
        finish(&mut out);
        let read = read(&out, &LIMITS).unwrap();
        prop_assert_eq!(read.len(), files.len());
        for (name, data) in &files {
            prop_assert_eq!(read[name.as_str()], data.as_slice());
        }
    }

    #[test]
    fn f05_damage_is_refused_or_changes_nothing_but_what_it_hits(at in 0_usize..10240, bit in 0_u8..8) {
        let mut bytes = archive(&[(header(b"a.rego", b'0', 5), b"hello"), (header(b"b.rego", b'0', 0), b"")]);
        let good = bytes.clone();
        bytes[at] ^= 1 << bit;
        let before = read(&good, &LIMITS).unwrap();
        match read(&bytes, &LIMITS) {
            // Only a file's own bytes have no check of their own here, and the checksum may end in NUL or space.
            Ok(after) if (512..517).contains(&at) => prop_assert_ne!(after, before),
            Ok(after) => prop_assert_eq!(after, before),
            Err(_) => prop_assert!(!(512..517).contains(&at)),
        }
    }

    #[test]
    fn f01_no_name_passes_that_leaves_its_folder(name in "[./a\\\\]{1,12}|\\PC{0,12}") {
        if check_name(name.as_bytes()).is_ok() {
            let path = std::path::Path::new(&name);
            let normal = |c: std::path::Component<'_>| matches!(c, std::path::Component::Normal(_));
            prop_assert!(path.components().all(normal), "{name}");
            prop_assert_eq!(path.components().count(), name.split('/').count());
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..2048), sizes in any::<u64>()) {
        let _ = read(&bytes, &LIMITS);
        let len = bytes.len() / 512 * 512;
        bytes.truncate(len);
        let mut block = header(b"a.rego", b'0', 0);
        block[124..135].copy_from_slice(format!("{:011o}", sizes >> 31).as_bytes());
        let _ = read(&[[signed(block)].concat(), bytes].concat(), &LIMITS);
    }
}
