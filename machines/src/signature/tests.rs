//! The readers against what cosign 3.1.3 made (`fixtures/`), against damage, and against what we make ourselves.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use alloc::{format, vec};

use proptest::prelude::*;

use super::*;
use crate::ids::Hash32;
use crate::json::{Limits, Value};
use crate::oci::{Descriptor, Image, Manifest, media};

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("fixtures/", $name)).as_slice()
    };
}

fn image(bytes: &[u8]) -> Image {
    match Manifest::parse(bytes, Some(media::IMAGE_MANIFEST)).unwrap() {
        Manifest::Image(image) => image,
        Manifest::Index(_) => panic!("an index"),
    }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, text)| (key.to_string(), text.to_string())).collect()
}

fn json(bytes: &[u8]) -> Value {
    crate::json::parse(bytes, &Limits::bytes(MAX_BUNDLE)).unwrap()
}

/// Every fixture: name, simple payload, `.sig` manifest, referrer, bundle, annotations of both layouts.
#[allow(clippy::type_complexity)]
fn layouts() -> Vec<(&'static [u8], &'static [u8], &'static [u8], &'static [u8], Digest, BTreeMap<String, String>)> {
    let digest = |hex: &str| Digest::parse(&format!("sha256:{hex}")).unwrap();
    vec![
        (
            fixture!("demo.payload.json"),
            fixture!("demo.sig-manifest.json"),
            fixture!("demo.referrer.json"),
            fixture!("demo.bundle.json"),
            Digest::of(fixture!("demo.manifest.json")),
            map(&[(SIGNED_AT, "2026-11-21T12:00:00Z"), ("team", "fleet")]),
        ),
        (
            fixture!("plain.payload.json"),
            fixture!("plain.sig-manifest.json"),
            fixture!("plain.referrer.json"),
            fixture!("plain.bundle.json"),
            digest("5d84e030316fe3651e6db521a71e46cfd52cbb5fbfaa72b0e91fc11218d7912f"),
            BTreeMap::new(),
        ),
        (
            fixture!("odd.payload.json"),
            fixture!("odd.sig-manifest.json"),
            fixture!("odd.referrer.json"),
            fixture!("odd.bundle.json"),
            digest("0f1c700d38f15cd398b72a7b6c233af9b9cca9cdfbe14a392957245c7e459d78"),
            map(&[("note", "a<b&c é \\")]),
        ),
    ]
}

#[test]
fn what_cosign_signs_is_read_in_both_layouts() {
    for (payload, sig_manifest, referrer, bundle, digest, annotations) in layouts() {
        let mut simple = simple::read(payload).unwrap();
        simple.annotations.remove("n"); // tells the two signatures of `odd` apart
        assert_eq!(simple, Claim { digest, annotations: annotations.clone() });
        let signatures = simple::signatures(&image(sig_manifest)).unwrap();
        let (layer, der) = signatures.last().unwrap();
        assert_eq!(layer.digest, Digest::of(payload));
        assert_eq!(der[0], 0x30, "DER");

        let signed = bundle::read(bundle).unwrap();
        assert_eq!(signed.claim, Claim { digest, annotations });
        assert!(signed.message.starts_with(b"DSSEv1 28 application/vnd.in-toto+json "));
        assert_eq!(signed.signature[0], 0x30, "DER");
        let referrer = image(referrer);
        assert_eq!(referrer.layers[0].digest, Digest::of(bundle));
        assert_eq!(referrer.subject.unwrap().digest, digest);
    }
    assert_eq!(simple::signatures(&image(fixture!("odd.sig-manifest.json"))).unwrap().len(), 2);
}

#[test]
fn what_we_make_has_the_shape_of_what_cosign_makes() {
    let (payload, sig_manifest, referrer, bundle, digest, annotations) = layouts().remove(0);
    // The payload, byte for byte: nothing in it that the two writers escape differently.
    assert_eq!(simple::payload(&digest, "127.0.0.1:15987/agents/demo", &annotations), payload);
    let none = simple::payload(&digest, "127.0.0.1:15987/agents/demo", &BTreeMap::new());
    assert!(none.ends_with(br#","optional":null}"#));

    // The manifest of the tag, with the same configuration as far as JSON can tell.
    let theirs = image(sig_manifest);
    let (_, der) = simple::signatures(&theirs).unwrap().remove(0);
    let (config, ours) = simple::manifest(vec![simple::layer(payload, &der)]);
    assert_eq!(ours.layers, theirs.layers);
    assert_eq!(ours.config.media_type, theirs.config.media_type);
    assert_eq!(config.len() as u64, theirs.config.size);

    // The bundle, as far as JSON can tell, and the statement within it.
    let signed = bundle::read(bundle).unwrap();
    let made = bundle::make(
        &digest,
        &annotations,
        |_| signed.signature.clone(),
        "MWB46ODkdNYCF2QoEL2mElz4mDYrMEI8QqGhMnyTWck=",
    );
    let statement = |bundle: &[u8]| {
        let payload = json(bundle).get("dsseEnvelope").and_then(|e| e.get("payload")).cloned().unwrap();
        json(&base64("", "", payload.as_str(), MAX_PAYLOAD).unwrap())
    };
    assert_eq!(statement(&made), statement(bundle));
    let mut theirs = json(bundle).into_object().unwrap();
    let mut ours = json(&made).into_object().unwrap();
    for bundle in [&mut theirs, &mut ours] {
        let mut envelope = bundle.remove("dsseEnvelope").unwrap().into_object().unwrap();
        envelope.remove("payload");
        bundle.insert("dsseEnvelope".into(), Value::Object(envelope));
    }
    assert_eq!(ours, theirs);

    // The manifest that refers to the image.
    let mut theirs = image(referrer);
    let subject = theirs.subject.clone().unwrap();
    let ours =
        bundle::referrer(&subject, bundle, theirs.annotations.get("org.opencontainers.image.created").map(|s| &**s));
    theirs.subject = Some(subject);
    assert_eq!(ours, theirs);
}

#[test]
fn s04_a_payload_that_does_not_parse_is_no_signature() {
    let (payload, ..) = layouts().remove(0);
    let good = String::from_utf8(payload.to_vec()).unwrap();
    let digest = &good[good.find("sha256:").unwrap()..][..71];
    let cases = [
        ("", String::new()),
        ("cut short", good[..good.len() - 1].to_string()),
        ("something behind it", format!("{good}{good}")),
        ("a key twice", good.replacen("{\"critical\"", "{\"critical\":{},\"critical\"", 1)),
        (
            "two digests",
            good.replacen(
                "{\"docker-manifest-digest\"",
                "{\"docker-manifest-digest\":\"x\",\"docker-manifest-digest\"",
                1,
            ),
        ),
        ("another type", good.replace("cosign container image signature", "atomic container signature")),
        ("no type", good.replace(",\"type\":\"cosign container image signature\"", "")),
        ("an unknown member of critical", good.replacen("\"image\":", "\"expires\":\"never\",\"image\":", 1)),
        ("an unknown member beside it", good.replacen("{\"critical\"", "{\"extra\":1,\"critical\"", 1)),
        ("upper case", good.replace(digest, &digest.to_uppercase())),
        ("another algorithm", good.replace("sha256:", "sha512:")),
        ("a digest that is a list", good.replace(&format!("\"{digest}\""), &format!("[\"{digest}\"]"))),
        ("a signed-at that is a number", good.replace("\"2026-11-21T12:00:00Z\"", "1790000000")),
        ("too long", format!("{good}{}", " ".repeat(MAX_PAYLOAD))),
        ("many annotations", {
            let many: Vec<String> = (0..=MAX_ANNOTATIONS).map(|n| format!("\"k{n}\":\"\"")).collect();
            good.replace("\"team\":\"fleet\"", &many.join(","))
        }),
    ];
    for (what, text) in cases {
        assert_ne!(text, good, "{what}");
        assert!(simple::read(text.as_bytes()).is_err(), "{what}: {text}");
    }
}

/// What skopeo's own signatures hold: a number beside the strings.
#[test]
fn annotations_that_are_no_strings_say_nothing() {
    let (payload, .., digest, _) = layouts().remove(0);
    let text = String::from_utf8(payload.to_vec()).unwrap().replace("\"fleet\"", "1695209840");
    let claim = simple::read(text.as_bytes()).unwrap();
    assert_eq!(claim, Claim { digest, annotations: map(&[(SIGNED_AT, "2026-11-21T12:00:00Z")]) });
}

/// The bundle of `demo` with one place of its text replaced.
fn with(from: &str, to: &str) -> Result<bundle::Signed, Refusal> {
    let text = String::from_utf8(fixture!("demo.bundle.json").to_vec()).unwrap();
    let changed = text.replacen(from, to, 1);
    assert_ne!(text, changed, "{from:?} is not there");
    bundle::read(changed.as_bytes())
}

/// The bundle of `demo` with one place of its statement replaced.
fn stating(from: &str, to: &str) -> Result<bundle::Signed, Refusal> {
    let bundle = json(fixture!("demo.bundle.json"));
    let old = bundle.get("dsseEnvelope").and_then(|e| e.get("payload")).and_then(Value::as_str).unwrap();
    let statement = String::from_utf8(Base64::decode_vec(old).unwrap()).unwrap();
    let changed = statement.replacen(from, to, 1);
    assert_ne!(statement, changed, "{from:?} is not there");
    with(old, &Base64::encode_string(changed.as_bytes()))
}

#[test]
fn s04_a_bundle_that_does_not_parse_is_no_signature() {
    let cases = [
        with("{\"mediaType\"", "{\"mediaType\":\"x\",\"mediaType\""),
        with("{\"mediaType\"", "{\"extra\":1,\"mediaType\""),
        with(".v0.3+json", ".v0.2+json"),
        with("dsseEnvelope", "dsseEnvelop"),
        with("\"publicKey\"", "\"publicKeys\""),
        with("{\"publicKey\":", "{\"x\":1,\"publicKey\":"),
        with("{\"publicKey\":{", "{\"publicKey\":{},\"certificate\":{"),
        with("application/vnd.in-toto+json", "application/vnd.in-toto+yaml"),
        with("\"payload\":\"", "\"payload\":\"*"),
        with("[{\"sig\"", "[{\"keyid\":\"\",\"cert\":\"\",\"sig\""),
        with("[{\"sig\"", "[{\"sig\":\"\"},{\"sig\""),
        with("\"signatures\":[", "\"signatures\":[],\"x\":["),
        with("{\"sig\":\"", "{\"sig\":\"=="),
        stating("{\"_type\"", "{"),
        stating("Statement/v1", "Statement/v2"),
        stating(",\"predicateType\":\"https://sigstore.dev/cosign/sign/v1\"", ""),
        stating("\"predicate\":{}", "\"predicate\":{\"expires\":\"2020-01-01T00:00:00Z\"}"),
        stating("\"predicate\":{}", "\"predicates\":{}"),
        stating("\"subject\":[", "\"subject\":[{\"digest\":{\"sha256\":\"\"}},"),
        stating("\"sha256\":\"", "\"sha512\":\"00\",\"sha256\":\""),
        stating("\"sha256\":\"b", "\"sha256\":\"B"),
        stating("\"sha256\":\"", "\"sha256\":\"sha256:"),
        stating("\"2026-11-21T12:00:00Z\"", "null"),
        stating("\"digest\"", "\"digest\":{},\"digest\""),
    ];
    for (at, case) in cases.into_iter().enumerate() {
        assert!(case.is_err(), "case {at}: {case:?}");
    }
    assert!(
        with("{\"publicKey\":{", "{\"tlogEntries\":[{\"logIndex\":\"1\"}],\"publicKey\":{").is_ok(),
        "not looked at"
    );
    assert!(stating(",\"predicate\":{}", "").is_ok(), "protobuf leaves out what is empty");
}

#[test]
fn good_bundles_of_other_kinds_are_told_apart() {
    let attestation = bundle::read(fixture!("odd.attestation.bundle.json"));
    let predicate = "https://cosign.sigstore.dev/attestation/v1".into();
    assert_eq!(attestation, Err(Refusal::OtherStatement { predicate }));
    assert_eq!(bundle::read(fixture!("blob.bundle.json")), Err(Refusal::MessageSignature));
    assert_eq!(with("\"publicKey\":{", "\"certificate\":{"), Err(Refusal::Certificate));
}

#[test]
fn s05_a_manifest_without_signatures_gives_an_empty_list() {
    let mut none = image(fixture!("demo.sig-manifest.json"));
    none.layers[0].media_type = media::OCTET_STREAM.into();
    assert_eq!(simple::signatures(&none), Ok(vec![]));
    none.layers.clear();
    assert_eq!(simple::signatures(&none), Ok(vec![]));
}

#[test]
fn s14_counts_and_sizes_are_bounded() {
    let good = image(fixture!("demo.sig-manifest.json"));
    let layer = good.layers[0].clone();
    let many = |count: usize| Image { layers: vec![layer.clone(); count], ..good.clone() };
    assert_eq!(simple::signatures(&many(MAX_SIGNATURES)).unwrap().len(), MAX_SIGNATURES);
    assert!(matches!(simple::signatures(&many(MAX_SIGNATURES + 1)), Err(Refusal::TooMuch { .. })));

    let one = |change: &dyn Fn(&mut Descriptor)| {
        let mut image = good.clone();
        change(&mut image.layers[0]);
        simple::signatures(&image)
    };
    assert!(one(&|layer| layer.size = MAX_PAYLOAD as u64).is_ok());
    assert!(matches!(one(&|layer| layer.size += MAX_PAYLOAD as u64), Err(Refusal::TooMuch { .. })));
    assert!(one(&|layer| _ = layer.annotations.remove(simple::SIGNATURE)).is_err());
    let sign = |text: String| {
        move |layer: &mut Descriptor| {
            _ = layer.annotations.insert(simple::SIGNATURE.into(), text.clone());
        }
    };
    assert!(one(&sign("no base64".into())).is_err());
    assert!(matches!(one(&sign("A".repeat(4 * MAX_SIGNATURE))), Err(Refusal::TooMuch { .. })));

    let bundle = fixture!("demo.bundle.json");
    let long = [bundle, " ".repeat(MAX_BUNDLE).as_bytes()].concat();
    assert!(matches!(bundle::read(&long), Err(Refusal::Json { .. })));
    let long = Base64::encode_string(&vec![b' '; MAX_PAYLOAD + 3]);
    assert!(matches!(with("\"payload\":\"", &format!("\"payload\":\"{long}")), Err(Refusal::TooMuch { .. })));
}

fn claims() -> impl Strategy<Value = Claim> {
    let annotations = proptest::collection::btree_map(".{0,12}", ".{0,24}", 0..8);
    (any::<[u8; 32]>(), annotations)
        .prop_map(|(hash, annotations)| Claim { digest: Digest::from_hash(Hash32(hash)), annotations })
}

proptest! {
    #[test]
    fn what_we_make_reads_back(claim in claims(), reference in ".{0,40}", der in proptest::collection::vec(any::<u8>(), 0..72)) {
        let payload = simple::payload(&claim.digest, &reference, &claim.annotations);
        prop_assert_eq!(simple::read(&payload).unwrap(), claim.clone());
        let (_, manifest) = simple::manifest(vec![simple::layer(&payload, &der)]);
        let manifest = image(&manifest.to_bytes());
        prop_assert_eq!(&simple::signatures(&manifest).unwrap()[0].1, &der);

        let mut asked = Vec::new();
        let made = bundle::make(&claim.digest, &claim.annotations, |message| { asked = message.to_vec(); der.clone() }, "hint");
        let signed = bundle::read(&made).unwrap();
        prop_assert_eq!(&signed.claim, &claim);
        prop_assert_eq!(&signed.signature, &der);
        prop_assert_eq!(&signed.message, &asked);
    }

    /// A signature over one kind of document is never one over another: the bytes that are signed differ, always.
    #[test]
    fn s10_no_signed_bytes_serve_as_both_kinds(claim in claims(), reference in ".{0,40}") {
        let payload = simple::payload(&claim.digest, &reference, &claim.annotations);
        let signed = bundle::read(&bundle::make(&claim.digest, &claim.annotations, |_| vec![], "")).unwrap();
        prop_assert!(simple::read(&signed.message).is_err());
        prop_assert!(!payload.starts_with(b"DSSEv1 "));
        // The type is within what is signed: another one gives other bytes for every payload.
        prop_assert_ne!(dsse::pae("a", &payload), dsse::pae("b", &payload));
        prop_assert_ne!(dsse::pae("a", b"b c"), dsse::pae("a 1 b", b"c"));
    }

    #[test]
    fn s04_no_bytes_bring_the_readers_down(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        _ = simple::read(&bytes);
        _ = bundle::read(&bytes);
        for good in [fixture!("demo.payload.json"), fixture!("demo.bundle.json")] {
            let mut bytes = good.to_vec();
            let at = at.index(bytes.len());
            bytes[at] = to;
            _ = simple::read(&bytes);
            _ = bundle::read(&bytes);
        }
    }

    /// Whatever byte of a signed bundle is changed: it is refused, or the key is asked about other bytes or another
    /// signature, or nothing that counts was changed.
    #[test]
    fn s03_a_changed_bundle_never_claims_something_else_under_the_same_signed_bytes(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let good = fixture!("demo.bundle.json");
        let original = bundle::read(good).unwrap();
        let mut bytes = good.to_vec();
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(signed) = bundle::read(&bytes) && signed.message == original.message {
            prop_assert_eq!(signed.claim, original.claim);
        }
    }
}
