//! The verification over real sources. What it judges is tested where it is decided; here it is carried out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use io_artifacts::blob::Blob;
use io_artifacts::cache::Cache;
use io_artifacts::keys::{Kind, Password, PublicKeys, SigningKey, generate};
use io_artifacts::source::Transport;
use io_artifacts::verify::{Means, run};
use machines::oci::{Descriptor, Digest, Place, Reference, Target, media, tags};
use machines::semver::Version;
use machines::signature::{self, simple};
use machines::time::{Mono, Now, Span, Wall};
use machines::verify::{self, BUDGET, Failed, MAX_AGE, Outcome, Passed, Step, TIMEOUT};

use crate::images::{create, image, layout, open, put};
use crate::pushes::Ours;
use crate::scripted::{Body, Server, answer};

const NOW: &str = "2026-11-21T12:00:00Z";

struct Signer {
    key: SigningKey,
    means: Means,
    _folder: tempfile::TempDir,
}

fn signer() -> Signer {
    let folder = tempfile::tempdir().unwrap();
    let password = Password::new(b"secret".to_vec());
    let made = generate(Kind::Cosign, &folder.path().join("site"), &password).unwrap();
    let key = SigningKey::open(&made.private, &password).unwrap();
    let keys = Arc::new(PublicKeys::from_files(&[made.public]).unwrap());
    let open_bundle = Arc::new(|_: Vec<u8>| Err("there is no engine here".to_owned()));
    Signer { key, means: Means { keys, open_bundle, cache: None }, _folder: folder }
}

fn now() -> Now {
    Now { mono: Mono::from_nanos(0), wall: Wall::parse_any_rfc3339(NOW).unwrap() }
}

fn options(place: &Place) -> verify::Options {
    verify::Options {
        reference: Reference { place: place.clone(), target: Target::Tag("v1".into()) },
        require_lock: false,
        require_policy: false,
        max_age: MAX_AGE,
        allow_undated: false,
        time_floor: Wall::from_micros(0),
        runtime: Version::parse("0.1.0").unwrap(),
        platform: ("linux".into(), "amd64".into()),
        timeout: TIMEOUT,
        budget: BUDGET,
    }
}

/// An image `v1` with these layers, signed now, as cosign 2 keeps signatures.
async fn signed(to: &Transport, layers: &[&[u8]], signer: &Signer) -> Descriptor {
    let root = image(to, layers).await;
    let root = put(to, &Target::Tag("v1".into()), &root).await;
    let annotations = [(signature::SIGNED_AT.to_owned(), NOW.to_owned())].into();
    let payload = simple::payload(&root.digest, "registry.local/app", &annotations);
    let made = signer.key.sign(&payload);
    let mut layer = Descriptor::of(media::SIMPLE_SIGNING, &payload);
    layer.annotations.insert(simple::SIGNATURE.into(), base64(&made));
    to.put_blob(&layer, &Blob::from_bytes(payload)).await.unwrap();
    let mut holder = image(to, &[]).await;
    holder.layers.push(layer);
    put(to, &Target::Tag(tags::signature(&root.digest)), &holder).await;
    to.finish().await.unwrap();
    root
}

fn base64(bytes: &[u8]) -> String {
    use base64ct::Encoding as _;
    base64ct::Base64::encode_string(bytes)
}

async fn verify(place: &Place, means: &Means) -> (Result<Passed, Failed>, Vec<(Step, Outcome)>) {
    let mut steps = Vec::new();
    let there = open(place).await;
    let end = run(&there, options(place), means, now(), |step, outcome| steps.push((step, outcome.clone()))).await;
    (end, steps)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_image_passes_from_every_source_and_a_changed_one_fails() {
    let (signer, folder, ours) = (signer(), tempfile::tempdir().unwrap(), Ours::start().await);
    let layers = [vec![1; 3 << 20], vec![2; 100], vec![3; 1 << 20], vec![4; 1], vec![5; 2 << 20], vec![6; 70_000]];
    let layers: Vec<_> = layers.iter().map(Vec::as_slice).collect();
    let site = folder.path().join("site");
    for place in [layout(&site), crate::images::archive(&folder.path().join("a.tar")), ours.place("app")] {
        let root = signed(&create(&place).await, &layers, &signer).await;
        let (end, steps) = verify(&place, &signer.means).await;
        let passed = end.unwrap_or_else(|failed| panic!("{place}: {failed}"));
        assert_eq!((passed.image, passed.key), (root.digest, 0));
        assert_eq!(passed.signed_at, Wall::parse_any_rfc3339(NOW));
        assert_eq!(steps.len(), 4);
        assert_eq!(steps[0], (Step::Signature, Outcome::Pass));
    }
    let stranger = self::signer();
    let (end, _) = verify(&layout(&site), &stranger.means).await;
    assert!(matches!(end, Err(Failed::Step(Step::Signature, _))));
    let victim = site.join("blobs/sha256").join(Digest::of(layers[0]).hex());
    let mut bytes = std::fs::read(&victim).unwrap();
    bytes[1 << 20] ^= 1;
    std::fs::write(&victim, &bytes).unwrap();
    let (end, steps) = verify(&layout(&site), &signer.means).await;
    let Err(Failed::Step(_, reason)) = end else { panic!("{end:?}") };
    assert!(reason.contains(&Digest::of(&bytes).to_string()), "want and got: {reason}");
    assert!(steps.iter().any(|(_, outcome)| matches!(outcome, Outcome::Fail(_))));
    std::fs::remove_file(&victim).unwrap();
    assert!(verify(&layout(&site), &signer.means).await.0.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_through_is_kept_and_found_again_in_the_cache() {
    let (signer, state, ours) = (signer(), tempfile::tempdir().unwrap(), Ours::start().await);
    let place = ours.place("app");
    signed(&create(&place).await, &[&[1; 300_000], &[2; 100]], &signer).await;
    let cache = Cache::open(state.path(), 1 << 20).unwrap();
    let means = Means { cache: Some(cache.clone()), ..signer.means.clone() };
    verify(&place, &means).await.0.unwrap();
    let layer = Descriptor::of(media::IMAGE_LAYER, &[1; 300_000]);
    assert!(cache.bytes(&layer, 1 << 20).unwrap().is_some());
    // Damaged there, it comes from the source again.
    let path = state.path().join("blobs/sha256").join(layer.digest.hex());
    std::fs::write(&path, vec![9; 300_000]).unwrap();
    verify(&place, &means).await.0.unwrap();
    assert_eq!(Digest::of(&std::fs::read(&path).unwrap()), layer.digest);
    // A cache without room is no failure.
    let means = Means { cache: Some(Cache::open(state.path(), 10).unwrap()), ..signer.means.clone() };
    std::fs::remove_file(&path).unwrap();
    verify(&place, &means).await.0.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_source_that_is_not_there_is_a_source_that_cannot_be_read() {
    let (signer, folder) = (signer(), tempfile::tempdir().unwrap());
    let place = layout(folder.path());
    create(&place).await;
    let (end, steps) = verify(&place, &signer.means).await;
    assert!(matches!(end, Err(Failed::Source(_))), "{end:?}");
    assert!(steps.is_empty());
    std::fs::write(folder.path().join("index.json"), b"{").unwrap();
    assert!(matches!(verify(&place, &signer.means).await.0, Err(Failed::Source(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_never_answers_ends_with_the_time_that_was_given() {
    let signer = signer();
    let server = Server::start(|_| answer(200, "").body(Body::Silent(b"{".to_vec()))).await;
    let patient = io_artifacts::source::Timeouts {
        idle: Duration::from_secs(600),
        answer: Duration::from_secs(600),
        least_speed: 1,
        ..io_artifacts::source::Timeouts::default()
    };
    let patient = io_artifacts::source::Options { timeouts: patient, ..crate::scripted::options() };
    let there = Transport::open(&server.place(), &patient).await.unwrap();
    let options = verify::Options { timeout: Span::from_millis(300), ..options(&server.place()) };
    let begun = Instant::now();
    let end = run(&there, options, &signer.means, now(), |_, _| {}).await;
    let Err(Failed::Source(words)) = end else { panic!("{end:?}") };
    assert!(words.contains("--timeout"), "{words}");
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(30), "{took:?}");
}
