use super::*;
use crate::semver::Version;
use proptest::prelude::*;
use std::string::ToString;
use std::vec;

/// Made by `tar --format=ustar --owner=0 --group=0 --mtime=2026-11-21T00:00:00Z -cf - shell_deny.rego manifest.json
/// echo_allow.rego data.json | gzip -n` (GNU tar 1.34); `bundle_hash` was computed apart from this code.
const GNU: &[u8] = include_bytes!("testdata/gnu_ustar.tar.gz");

fn files() -> BTreeMap<String, Vec<u8>> {
    [
        ("echo_allow.rego", &b"package autonomy\n\nallow if input.kind == \"tool.echo\"\n"[..]),
        ("shell_deny.rego", b"package autonomy\n\ndeny contains \"no\" if input.kind == \"tool.shell\"\n"),
        ("data.json", b"{\"a\":1}"),
    ]
    .map(|(name, content)| (name.to_string(), content.to_vec()))
    .into()
}

fn options() -> BuildOptions {
    BuildOptions {
        version: "1.4.0".to_string(),
        name: Some("demo".to_string()),
        sequence: 7,
        min_sequence: 3,
        runtime_version: Some(">=0.1.0 <1.0.0".to_string()),
        redact: vec!["params.password".to_string(), "output.*.token".to_string()],
    }
}

/// A bundle of raw entries, for what `build` would not write.
fn packed(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in entries {
        tar::append(&mut archive, name, content).unwrap();
    }
    tar::finish(&mut archive);
    gzip::pack(&archive)
}

/// The refusal of a bundle of these files and a fitting manifest.
fn refusal(entries: &[(&str, &[u8])]) -> Refusal {
    let files = entries.iter().map(|(name, content)| (name.to_string(), content.to_vec())).collect();
    build(&files, &BuildOptions { version: "1.0.0".to_string(), ..BuildOptions::default() }).unwrap_err()
}

#[test]
fn bundles_made_by_gnu_tar_and_gzip_are_taken() {
    let bundle = open(GNU).unwrap();
    assert_eq!(bundle.bundle_hash.to_string(), "f253a70d542222ea90e955d32d39eda61035ff902be486b7d56f1d023b9197b1");
    assert_eq!(bundle.digest.to_string(), "336fc5558c8c93b9a25e6047e904cd0e60bae2b8493cfa0ecf0a6b20eb5e9c0c");
    assert_eq!(bundle.rego().map(|(name, _)| name).collect::<Vec<_>>(), ["echo_allow.rego", "shell_deny.rego"]);
    assert_eq!(bundle.data(), Some("{\"limits\": {\"echo\": 3}}\n"));
    let manifest = &bundle.manifest;
    assert_eq!((manifest.name.as_str(), manifest.sequence, manifest.min_sequence), ("demo", 7, 3));
    assert_eq!(manifest.version.to_string(), "1.4.0");
    assert_eq!(manifest.compatible(&Version::parse("0.1.0").unwrap()), Ok(()));
    assert_eq!(manifest.redact[0].as_str(), "params.password");
}

#[test]
fn what_is_built_opens_and_is_reproducible() {
    let bytes = build(&files(), &options()).unwrap();
    let bundle = open(&bytes).unwrap();
    assert_eq!(bundle.files, files());
    assert_eq!(bundle.digest, Hash32(Sha256::digest(&bytes).into()));
    assert_eq!(bundle.bundle_hash, bundle.manifest.bundle_hash);
    assert_eq!(build(&files(), &options()).unwrap(), bytes);
    assert_eq!(bytes[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255]);
    let mut other = options();
    other.sequence = 8;
    assert_ne!(open(&build(&files(), &other).unwrap()).unwrap().bundle_hash, bundle.bundle_hash);
}

#[test]
fn compatibility_is_decided_by_the_range() {
    let runtime = Version::parse("0.1.0").unwrap();
    let with = |range: Option<&str>| {
        let options = BuildOptions { runtime_version: range.map(String::from), ..options() };
        open(&build(&files(), &options).unwrap()).unwrap().manifest.compatible(&runtime)
    };
    assert_eq!(with(None), Ok(()));
    assert_eq!(with(Some(">=0.1.0 <1.0.0")), Ok(()));
    assert_eq!(with(Some(">=0.2.0")).unwrap_err().to_string(), "the bundle requires runtime >=0.2.0, this is 0.1.0");
}

#[test]
fn p20_the_digest_is_of_the_bytes_given_and_sources_are_kept_as_they_are() {
    let mut bytes = GNU.to_vec();
    // The time in the gzip header: the content is the same, the identity is not.
    bytes[4] = 1;
    let (a, b) = (open(GNU).unwrap(), open(&bytes).unwrap());
    assert_eq!((&a.files, a.bundle_hash), (&b.files, b.bundle_hash));
    assert_ne!(a.digest, b.digest);
    let odd = BTreeMap::from([("x.rego".to_string(), b"package  autonomy\r\n#\xe2\x80\xa8\r\n\t\n\n".to_vec())]);
    assert_eq!(open(&build(&odd, &options()).unwrap()).unwrap().files, odd);
}

#[test]
fn content_that_does_not_fit_the_hash_is_refused_with_both_hashes() {
    let good = open(&build(&files(), &options()).unwrap()).unwrap();
    let manifest = format_manifest(&good);
    let bytes =
        packed(&[("echo_allow.rego", b"package autonomy\nallow := true\n"), ("manifest.json", manifest.as_bytes())]);
    let message = open(&bytes).unwrap_err().to_string();
    assert!(message.contains(&std::format!("says sha256:{}, the content has sha256:", good.bundle_hash)), "{message}");
    // Moving a byte from a name to the content must not go unseen: the lengths are hashed.
    let moved = packed(&[("a.rego", b"xy"), ("manifest.json", manifest.as_bytes())]);
    let apart = packed(&[("ax.rego", b"y"), ("manifest.json", manifest.as_bytes())]);
    assert_ne!(open(&moved).unwrap_err(), open(&apart).unwrap_err());
}

fn format_manifest(bundle: &Bundle) -> String {
    std::format!("{{\"policy_bundle_version\":\"1.0.0\",\"bundle_hash\":\"sha256:{}\"}}", bundle.bundle_hash)
}

#[test]
fn only_the_files_of_the_format_are_admitted() {
    let rego: (&str, &[u8]) = ("a.rego", b"package autonomy");
    for name in [
        "a.sh",
        "a.rego.bak",
        "B.REGO",
        "data.yaml",
        "Data.json",
        "sub/data.json",
        "sub/manifest.json",
        ".rego",
        "a/.rego",
        "rego",
    ] {
        assert!(matches!(refusal(&[rego, (name, b"{}")]), Refusal::Name { .. }), "{name}");
    }
    assert!(matches!(refusal(&[rego, ("manifest.json", b"{}")]), Refusal::Name { .. }));
    assert!(matches!(refusal(&[rego, ("../b.rego", b"")]), Refusal::Name { .. }));
    assert_eq!(refusal(&[("data.json", b"{}")]), Refusal::NoRego);
    assert_eq!(refusal(&[]), Refusal::NoRego);
    assert_eq!(open(&packed(&[rego])), Err(Refusal::NoManifest));
    let nested = BTreeMap::from([("lib/util.rego".to_string(), b"package lib".to_vec())]);
    assert!(build(&nested, &options()).is_ok());
}

#[test]
fn contents_are_checked() {
    assert_eq!(refusal(&[("a.rego", b"package a\xff")]), Refusal::NotText { name: "a.rego".to_string(), at: 9 });
    let rego: (&str, &[u8]) = ("a.rego", b"package autonomy");
    for data in [&b"{\"a\":1,\"a\":2}"[..], b"", b"{", b"{\"a\":1e400}", b"\xef\xbb\xbf{}"] {
        assert!(matches!(refusal(&[rego, ("data.json", data)]), Refusal::Json { name: "data.json", .. }));
    }
    assert_eq!(refusal(&[rego, ("data.json", b"[]")]), Refusal::NotAnObject { name: "data.json", found: "array" });
    let deep = ["{\"a\":".repeat(65), "1".to_string(), "}".repeat(65)].concat();
    assert!(matches!(refusal(&[rego, ("data.json", deep.as_bytes())]), Refusal::Json { .. }));
}

#[test]
fn bad_options_are_refused_as_open_would_refuse_them() {
    let with = |change: fn(&mut BuildOptions)| {
        let mut options = options();
        change(&mut options);
        build(&files(), &options).unwrap_err()
    };
    assert!(matches!(with(|o| o.version = "1.0".to_string()), Refusal::Version { .. }));
    assert!(matches!(with(|o| o.runtime_version = Some("1.0.0".to_string())), Refusal::Version { .. }));
    assert!(matches!(with(|o| o.name = Some("A".to_string())), Refusal::Field { field: "name", .. }));
    assert!(matches!(with(|o| o.sequence = 1 << 53), Refusal::Field { field: "sequence", .. }));
    assert!(matches!(with(|o| o.min_sequence = 8), Refusal::Floor { .. }));
    assert!(matches!(with(|o| o.redact.push("x".to_string())), Refusal::Field { field: "redact", .. }));
}

#[test]
fn f07_every_limit_holds() {
    let rego = |n: usize, len: usize| (std::format!("f{n:03}.rego"), vec![b'#'; len]);
    let of = |count: usize, len: usize| build(&(0..count).map(|n| rego(n, len)).collect(), &options());
    assert!(of(MAX_FILES - 1, 1).is_ok(), "the manifest is a file, too");
    assert_eq!(of(MAX_FILES, 1), Err(Refusal::TooManyFiles { max: MAX_FILES }));
    assert!(of(1, 1024 * 1024).is_ok());
    assert!(matches!(of(1, 1024 * 1024 + 1), Err(Refusal::FileTooLarge { .. })));
    assert!(of(7, 1024 * 1024).is_ok());
    assert_eq!(of(8, 1024 * 1024), Err(Refusal::Bomb { max: MAX_UNPACKED }));
    let zeros = gzip::pack(&vec![0; MAX_UNPACKED + 512]);
    assert_eq!(open(&zeros), Err(Refusal::Bomb { max: MAX_UNPACKED }));
    let len = MAX_PACKED + 1;
    assert_eq!(open(&vec![0; len]), Err(Refusal::TooLarge { len, max: MAX_PACKED }));
    assert!(matches!(open(&vec![0; MAX_PACKED]), Err(Refusal::Gzip(_))));
}

#[test]
fn f08_a_second_layer_or_member_is_refused() {
    let bytes = build(&files(), &options()).unwrap();
    assert!(matches!(open(&gzip::pack(&bytes)), Err(Refusal::Tar { .. })));
    assert_eq!(open(&[bytes.clone(), bytes.clone()].concat()), Err(Refusal::Trailing(bytes.len())));
}

/// Every flip of every bit: nothing else may come out than what went in.
#[test]
fn every_flipped_bit_is_refused_or_changes_nothing() {
    let bytes = build(&files(), &options()).unwrap();
    let good = open(&bytes).unwrap();
    let mut taken = 0;
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            if let Ok(bundle) = open(&flipped) {
                assert_ne!(bundle.digest, good.digest);
                assert_eq!(Bundle { digest: good.digest, ..bundle }, good, "byte {at}, bit {bit}");
                taken += 1;
            }
        }
    }
    // Time, extra flags and system of the gzip header are 6 bytes; the text flag is a bit; and the last byte of
    // the deflate stream may have up to 7 bits that mean nothing.
    assert!((49..=56).contains(&taken), "{taken}");
}

proptest! {
    #[test]
    fn p20_every_bundle_round_trips(
        rego in prop::collection::btree_map("[a-z_]{1,12}(/[a-z]{1,4}){0,2}\\.rego", "\\PC{0,200}", 1..6),
        sequence in 0..=manifest::MAX_SEQUENCE,
        redact in prop::collection::vec("(params|output)(\\.[a-zé*]{1,5}){0,3}", 0..4),
    ) {
        let files: BTreeMap<_, _> = rego.into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
        let options = BuildOptions { sequence, redact, ..options() };
        prop_assume!(sequence >= options.min_sequence);
        match build(&files, &options) {
            Ok(bytes) => {
                let bundle = open(&bytes).unwrap();
                prop_assert_eq!(&bundle.files, &files);
                prop_assert_eq!(bundle.manifest.sequence, sequence);
                let paths: Vec<_> = bundle.manifest.redact.iter().map(|path| path.as_str().to_string()).collect();
                prop_assert_eq!(paths, options.redact);
            }
            Err(refusal) => {
                let clash = matches!(refusal, Refusal::Clash { .. });
                prop_assert!(clash, "{}", refusal);
            }
        }
    }

    #[test]
    fn no_bytes_make_open_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), cut in 0_usize..600) {
        let _ = open(&bytes);
        let mut mixed = GNU[..cut.min(GNU.len())].to_vec();
        mixed.extend_from_slice(&bytes);
        prop_assert!(mixed == GNU || open(&mixed).is_err());
        // Past the checks of gzip, into the archive and the manifest.
        prop_assert!(open(&gzip::pack(&bytes)).is_err());
        let opened = open(&packed(&[("a.rego", b""), ("manifest.json", &bytes)]));
        let refused = matches!(opened, Err(Refusal::Json { .. } | Refusal::NotAnObject { .. }));
        prop_assert!(refused);
    }
}
