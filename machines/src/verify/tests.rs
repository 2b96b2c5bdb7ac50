//! The machine against a source in memory: what passes, what fails at which step, and that no order of answers and no fault
//! of the source changes that.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use std::string::ToString;

use super::testing::*;
use super::*;
use crate::lock::Runtime;
use crate::machine::{Effect, Entropy, Event, Machine as _, Outbox};
use crate::oci::{Descriptor, Index, Manifest, Platform, Target, media, tags};
use crate::signature;
use crate::time::{Mono, Now};
use crate::work::Got;

#[test]
fn a_release_passes_in_both_layouts_and_comes_out_with_its_very_bytes() {
    for layout in [Layout::Simple, Layout::Bundle] {
        let parts = Parts { layout, ..Parts::default() };
        let (source, image) = parts.publish();
        let ended = run(&source, options());
        let passed = ended.end.unwrap();
        assert_eq!((passed.image, passed.key), (image, 0));
        let release = passed.release.unwrap();
        assert_eq!(release.get().bundle_bytes, parts.bundle);
        assert_eq!(release.get().lock_bytes, lock(image, &parts.bundle, 7).to_bytes());
        assert_eq!(release.get().signed_at.to_string(), "2025-11-01T00:00:00.000000Z");
        // By digest, without the tags beside it: what refers to the image is enough.
        let by_digest = Options { reference: options().reference.at(Target::Digest(image)), ..options() };
        assert!(run(&source, by_digest).end.unwrap().release.is_some());
    }
}

#[test]
fn no_order_of_answers_and_no_fault_of_the_source_makes_a_difference() {
    let (source, _) = Parts { layout: Layout::Bundle, ..Parts::default() }.publish();
    let total = run(&source, options()).asks;
    for seed in 0..200_usize {
        let mut state = seed;
        let pick = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        assert!(run_with(&source, options(), TODAY, pick, None).end.unwrap().release.is_some(), "seed {seed}");
    }
    for n in 1..=total {
        for fault in [SourceFault::Unreachable("down".into()), SourceFault::Denied("401".into())] {
            let ended = run_with(&source, options(), TODAY, |_| 0, Some((n, fault)));
            assert!(matches!(ended.end, Err(Failed::Source(_))), "ask {n}: {:?}", ended.end);
        }
        let mismatch = SourceFault::Mismatch { want: Digest::of(b"a"), got: Digest::of(b"b") };
        for fault in [SourceFault::NotFound, SourceFault::TooLong { max: 1 }, mismatch] {
            // The same thing may be found another way; what passes is whole all the same.
            let ended = run_with(&source, options(), TODAY, |_| 0, Some((n, fault)));
            if let Ok(passed) = ended.end {
                assert!(passed.release.is_some(), "ask {n}");
            }
        }
    }
}

#[test]
fn s01_s02_s05_an_image_without_a_signature_of_a_trusted_key_fails_at_step_1() {
    for (keys, words) in [
        ([None, Some(OURS), Some(OURS)], "no signature of the image"),
        ([Some(THEIRS), Some(OURS), Some(OURS)], "no trusted key made it"),
        ([Some(OURS), None, Some(OURS)], "no signature of the lock"),
        ([Some(OURS), Some(THEIRS), Some(OURS)], "no signature of the lock"),
        ([Some(OURS), Some(OURS), None], "no signature of the policy bundle"),
        ([Some(OURS), Some(OURS), Some(THEIRS)], "no signature of the policy bundle"),
    ] {
        for layout in [Layout::Simple, Layout::Bundle] {
            let ended = run(&Parts { keys, layout, ..Parts::default() }.publish().0, options());
            assert_eq!(ended.failed(), Some(1), "{}", ended.words());
            assert!(ended.words().contains(words), "{}", ended.words());
            assert!(ended.steps[1..].iter().all(|(_, outcome)| *outcome == Outcome::Skip(String::new())));
        }
    }
    // One good signature among others is enough.
    let (mut source, image) = Parts { keys: [Some(THEIRS), Some(OURS), Some(OURS)], ..Parts::default() }.publish();
    source.sign(image, OURS, Layout::Bundle, Some("2025-11-01T00:00:00Z"));
    assert!(run(&source, options()).end.is_ok());
}

#[test]
fn s03_a_signature_over_another_digest_counts_for_nothing() {
    let (mut source, image) = Parts { keys: [None, Some(OURS), Some(OURS)], ..Parts::default() }.publish();
    let other = Parts { layers: vec![b"other".to_vec()], ..Parts::default() }.publish_into(&mut source, "other");
    // The other image's signatures, offered as this one's.
    let moved = source.tags[&tags::signature(&other)];
    source.tags.insert(tags::signature(&image), moved);
    let ended = run(&source, options());
    assert_eq!(ended.failed(), Some(1));
    assert!(ended.words().contains(&format!("it is a signature of {other}")), "{}", ended.words());
    // The lock's signature for the image, and the other way round.
    let (mut source, image) = Parts::default().publish();
    let lock = source.tags["v1.0.0-lock"];
    let (a, b) = (source.tags[&tags::signature(&image)], source.tags[&tags::signature(&lock)]);
    source.tags.insert(tags::signature(&image), b);
    source.tags.insert(tags::signature(&lock), a);
    assert_eq!(run(&source, options()).failed(), Some(1));
}

#[test]
fn s04_what_does_not_parse_counts_for_nothing() {
    let (source, image) = Parts::default().publish();
    let at = source.tags[&tags::signature(&image)];
    let Manifest::Image(signatures) = Manifest::parse(&source.manifests[&at], None).unwrap() else { panic!() };
    let payload = source.blobs[&signatures.layers[0].digest].clone();
    for garbage in [&b"{}"[..], b"", b"\xff", b"[]", b"null", &payload[..payload.len() - 1]] {
        // Signed by the right key, and still not a payload.
        let mut source = source.clone();
        let layer = signature::simple::layer(garbage, &OURS.sign(garbage));
        source.blobs.insert(layer.digest, garbage.to_vec());
        source.put(Some(&tags::signature(&image)), signature::simple::manifest(vec![layer]).1.to_bytes());
        assert_eq!(run(&source, options()).failed(), Some(1));
    }
    // Other bytes than the manifest names.
    let mut altered = source.clone();
    altered.blobs.insert(signatures.layers[0].digest, b"{}".to_vec());
    assert_eq!(run(&altered, options()).failed(), Some(1));
}

#[test]
fn s12_s17_every_component_altered_removed_or_swapped_fails_at_its_step() {
    let (good, image) = Parts::default().publish();
    let other = Parts { layers: vec![b"other".to_vec()], bundle: policy("1.2.3", ">=0.0.1"), ..Parts::default() };
    let step = |change: &dyn Fn(&mut Source)| {
        let mut source = good.clone();
        let foreign = other.publish_into(&mut source, "other");
        assert_ne!(foreign, image);
        change(&mut source);
        let ended = run(&source, options());
        (ended.failed(), ended.words())
    };
    let layer = Digest::of(b"layer two");
    let lock_of = |source: &Source| source.tags["v1.0.0-lock"];
    let policy_of = |source: &Source| source.tags["v1.0.0-policy"];
    let drop_lock = |source: &mut Source| {
        let lock = lock_of(source);
        source.tags.remove("v1.0.0-lock");
        source.referrers.get_mut(&image).unwrap().retain(|found| found.digest != lock);
    };
    let drop_policy = |source: &mut Source| {
        let policy = policy_of(source);
        source.tags.remove("v1.0.0-policy");
        source.referrers.get_mut(&image).unwrap().retain(|found| found.digest != policy);
    };
    type Change<'a> = (&'a str, u8, &'a dyn Fn(&mut Source));
    let table: [Change<'_>; 13] = [
        ("manifest altered", 1, &|s| {
            let bytes = s.manifests.get_mut(&image).unwrap();
            *bytes = String::from_utf8(bytes.clone()).unwrap().replace("tar+gzip", "tar+zstd").into_bytes();
        }),
        ("layer altered", 2, &|s| {
            s.blobs.insert(layer, b"layer twO".to_vec());
        }),
        ("layer longer", 2, &|s| {
            s.blobs.insert(layer, b"layer two and more".to_vec());
        }),
        ("layer removed", 2, &|s| {
            s.blobs.remove(&layer);
        }),
        ("tag moved to another release", 0, &|s| {
            s.tags.insert(TAG.into(), s.tags["other"]);
        }),
        ("lock altered", 1, &|s| {
            let lock = lock_of(s);
            let Manifest::Image(m) = Manifest::parse(&s.manifests[&lock], None).unwrap() else { panic!() };
            s.blobs.insert(m.layers[0].digest, b"{}".to_vec());
        }),
        ("lock removed", 1, &drop_lock),
        ("lock of another release", 2, &|s| {
            drop_lock(s);
            s.tags.insert("v1.0.0-lock".into(), s.tags["other-lock"]);
        }),
        ("bundle altered", 2, &|s| {
            s.blobs.insert(Digest::of(&Parts::default().bundle), b"x".to_vec());
        }),
        ("bundle removed", 1, &drop_policy),
        ("bundle of another release", 2, &|s| {
            drop_policy(s);
            s.tags.insert("v1.0.0-policy".into(), s.tags["other-policy"]);
        }),
        ("signature removed", 1, &|s| {
            s.tags.remove(&tags::signature(&image));
        }),
        ("lock's signature removed", 1, &|s| {
            s.tags.remove(&tags::signature(&lock_of(s)));
        }),
    ];
    for (what, want, change) in table {
        let (failed, words) = step(change);
        assert_eq!(failed.unwrap_or(0), want, "{what}: {words}");
    }
}

#[test]
fn s18_a_signed_lock_that_is_wrong_fails_at_the_step_of_what_is_wrong() {
    type Lockf = fn(Digest, &[u8]) -> Option<Vec<u8>>;
    let altered: Lockf = |image, bundle| {
        let text = String::from_utf8(lock(image, bundle, 7).to_bytes()).unwrap();
        Some(text.replace("\"sequence\": 7", "\"sequence\": 8").into_bytes())
    };
    let other_image: Lockf = |_, bundle| Some(lock(Digest::of(b"x"), bundle, 7).to_bytes());
    let other_bundle: Lockf = |image, _| Some(lock(image, b"x", 7).to_bytes());
    let unreadable: Lockf = |_, _| Some(b"{}".to_vec());
    let other_version: Lockf = |image, bundle| {
        let mut draft = draft(image, bundle, 7);
        draft.policy_bundle.version = Version::parse("1.2.4").unwrap();
        Some(Lock::new(draft).unwrap().to_bytes())
    };
    let other_runtime: Lockf = |image, bundle| {
        let mut draft = draft(image, bundle, 7);
        draft.runtime = Runtime::parse(">=2.0.0").unwrap();
        Some(Lock::new(draft).unwrap().to_bytes())
    };
    for (what, lock, want, words) in [
        ("altered", altered, 3, "canonical form gives"),
        ("another image", other_image, 2, "the lock binds the image"),
        ("another bundle", other_bundle, 2, "the lock binds the policy bundle"),
        ("no lock at all", unreadable, 2, "cannot be read"),
        ("another version", other_version, 4, "version 1.2.4, got 1.2.3"),
        ("another runtime", other_runtime, 4, "this one is 0.1.0"),
    ] {
        let ended = run(&Parts { lock, ..Parts::default() }.publish().0, options());
        assert_eq!(ended.failed(), Some(want), "{what}: {}", ended.words());
        assert!(ended.words().contains(words), "{what}: {}", ended.words());
    }
    let bundle = policy("1.2.3", ">=5.0.0");
    let ended = run(&Parts { bundle, ..Parts::default() }.publish().0, options());
    assert_eq!(ended.failed(), Some(4), "a bundle for another runtime: {}", ended.words());
    let ended = run(&Parts { bundle: b"no bundle".to_vec(), ..Parts::default() }.publish().0, options());
    assert_eq!(ended.failed(), Some(4), "signed, named by the lock, and no bundle: {}", ended.words());
}

#[test]
fn without_a_lock_or_a_bundle_only_what_is_there_is_said_to_hold() {
    let none = Parts { lock: |_, _| None, ..Parts::default() };
    let lax = || Options { require_lock: false, require_policy: false, ..options() };
    let ended = run(&none.publish().0, options());
    assert_eq!(ended.failed(), Some(1), "{}", ended.words());
    let ended = run(&none.publish().0, lax());
    assert!(ended.end.is_ok_and(|passed| passed.release.is_none() && passed.lock.is_none()));
    let outcomes: Vec<bool> = ended.steps.iter().map(|(_, outcome)| *outcome == Outcome::Pass).collect();
    assert_eq!(outcomes, [true, false, false, false]);
    // The signature of a bundle that is there counts even so, and so do the image's own bytes.
    let unsigned = Parts { keys: [Some(OURS), None, Some(THEIRS)], ..none.clone() };
    assert_eq!(run(&unsigned.publish().0, lax()).failed(), Some(1));
    let (mut source, _) = none.publish();
    source.blobs.insert(Digest::of(b"layer two"), b"layer twO".to_vec());
    assert_eq!(run(&source, lax()).failed(), Some(1));
    // A bundle that is no bundle is none, and so is one whose bytes are not those that were signed.
    let required = || Options { require_policy: true, ..lax() };
    assert!(run(&none.publish().0, required()).end.is_ok());
    let (mut source, image) = Parts { attach_bundle: false, ..none.clone() }.publish();
    source.tags.insert("v1.0.0-policy".into(), image);
    let ended = run(&source, required());
    assert!(ended.failed() == Some(1) && ended.words().contains("cannot be read"), "{}", ended.words());
    let (mut source, _) = none.publish();
    source.blobs.insert(Digest::of(&none.bundle), b"x".to_vec());
    assert_eq!(run(&source, required()).failed(), Some(1));
    // A lock without its bundle.
    let half = Parts { attach_bundle: false, ..Parts::default() };
    let ended = run(&half.publish().0, Options { require_policy: true, ..lax() });
    assert_eq!(ended.failed(), Some(1), "{}", ended.words());
    let ended = run(&half.publish().0, lax());
    assert!(ended.end.is_ok_and(|passed| passed.release.is_none() && passed.lock.is_some()));
    assert_eq!(ended.steps[3].1, Outcome::Skip("no policy bundle is attached".into()));
}

#[test]
fn of_several_locks_the_one_for_this_image_with_the_highest_sequence_counts() {
    let (mut source, image) = Parts::default().publish();
    let bundle = Parts::default().bundle;
    let newer = source.attach(media::LOCK, image, None, &lock(image, &bundle, 9).to_bytes());
    let ended = run(&source, options());
    assert_eq!(ended.failed(), Some(1), "the newer one is not signed: {}", ended.words());
    source.sign(newer, OURS, Layout::Bundle, None);
    let foreign = source.attach(media::LOCK, image, None, &lock(Digest::of(b"x"), &bundle, 99).to_bytes());
    source.sign(foreign, OURS, Layout::Bundle, None);
    assert_eq!(run(&source, options()).end.unwrap().lock.unwrap().sequence, 9);
    // One that nobody can read is not passed over.
    source.attach(media::LOCK, image, None, b"{\"schema_version\":1}");
    assert_eq!(run(&source, options()).failed(), Some(1));
    // A listing that names what refers elsewhere, or is not there, is not passed over either.
    let (mut source, image) = Parts::default().publish();
    let mut lie = Descriptor::of(media::IMAGE_MANIFEST, b"nowhere");
    lie.artifact_type = Some(media::LOCK.into());
    source.referrers.get_mut(&image).unwrap().push(lie);
    assert_eq!(run(&source, options()).failed(), Some(1));
}

#[test]
fn s14_too_many_signatures_locks_and_bundles_are_not_looked_at() {
    let (mut source, image) = Parts { keys: [None, Some(OURS), Some(OURS)], ..Parts::default() }.publish();
    for n in 0..100_u32 {
        let at = format!("2025-11-01T00:00:{:02}.{n:06}Z", n % 60);
        source.sign(image, THEIRS, Layout::Bundle, Some(&at));
    }
    let flooded = Some((3, SourceFault::TooLong { max: 256 }));
    let unlisted = run_with(&source, options(), TODAY, |_| 0, flooded);
    assert!(unlisted.words().contains("cannot be listed"), "{}", unlisted.words());
    let ended = run(&source, options());
    assert_eq!(ended.failed(), Some(1));
    assert!(ended.asks < 3 * MAX_SIGNATURES, "{} questions", ended.asks);
    assert!(ended.words().contains("more than 64"), "{}", ended.words());
    let (mut source, image) = Parts::default().publish();
    for n in 0..100_u64 {
        source.attach(media::LOCK, image, None, &lock(image, &n.to_le_bytes(), n).to_bytes());
    }
    let ended = run(&source, options());
    assert_eq!(ended.failed(), Some(1));
    assert!(ended.asks < 200 && ended.words().contains("more than 32"), "{}", ended.words());
}

#[test]
fn t09_t10_t11_freshness_goes_by_the_later_of_clock_and_floor() {
    let run_at = |signed_at: Option<&'static str>, now: &str, floor: &str, allow_undated: bool| {
        let parts = Parts { signed_at, ..Parts::default() };
        let time = |text: &str| Wall::parse_any_rfc3339(text).unwrap();
        let options = Options { time_floor: time(floor), allow_undated, ..options() };
        run_with(&parts.publish().0, options, time(now), |_| 0, None)
    };
    let (zero, signed) = ("1970-01-01T00:00:00Z", "2025-11-01T00:00:00Z");
    for (signed_at, now, floor, passes) in [
        (Some(signed), "2025-11-02T00:00:00Z", zero, true),
        (Some(signed), "2026-11-01T00:00:00Z", zero, true),
        (Some(signed), "2026-11-01T00:00:01Z", zero, false),
        // The clock was set back, or never set; the floor knows better.
        (Some(signed), zero, "2026-11-02T00:00:00Z", false),
        (Some(signed), zero, zero, true),
        (Some("2025-11-01T02:00:00+02:00"), "2026-11-01T00:00:00Z", zero, true),
        (Some("2025-11-01T02:00:00-02:00"), "2026-11-01T00:00:01Z", zero, true),
        (Some("yesterday"), "2025-11-02T00:00:00Z", zero, false),
        (Some("2025-11-01"), "2025-11-02T00:00:00Z", zero, false),
        (None, "2025-11-02T00:00:00Z", zero, false),
    ] {
        let ended = run_at(signed_at, now, floor, false);
        assert_eq!(ended.end.is_ok(), passes, "{signed_at:?} at {now}, floor {floor}: {}", ended.words());
        assert!(passes || ended.failed() == Some(1));
        if signed_at.is_none() {
            assert!(ended.words().contains("autonomy oci sign --image localhost:5000/app:v1.0.0"), "{}", ended.words());
        }
    }
    // Undated serves looking, never activation.
    assert!(run_at(None, signed, zero, true).end.unwrap().release.is_none());
    assert!(run_at(Some("yesterday"), signed, zero, true).end.is_err());
    // Of several, the newest counts; an old one beside it does no harm.
    let (mut source, image) = Parts { signed_at: Some("2020-01-01T00:00:00Z"), ..Parts::default() }.publish();
    source.sign(image, OURS, Layout::Simple, Some(signed));
    let ended = run(&source, options());
    assert!(ended.words().contains("the lock: expired"), "{}", ended.words());
    let attached: BTreeSet<Digest> = ["v1.0.0-lock", "v1.0.0-policy"].iter().map(|tag| source.tags[*tag]).collect();
    for digest in attached {
        source.sign(digest, OURS, Layout::Bundle, Some(signed));
    }
    assert!(run(&source, options()).end.is_ok());
}

#[test]
fn s11_s13_s15_what_is_resolved_is_what_is_judged() {
    // A source that says another digest than its bytes have.
    let (mut source, image) = Parts::default().publish();
    let other = Parts { layers: vec![b"other".to_vec()], ..Parts::default() }.publish_into(&mut source, "other");
    let bytes = source.manifests[&other].clone();
    source.manifests.insert(image, bytes);
    assert_eq!(run(&source, options()).failed(), Some(1));
    // An index: its entry for this platform goes through, and there has to be one.
    let (mut source, image) = Parts { keys: [None; 3], ..Parts::default() }.publish();
    let entry = |os: &str, source: &Source| {
        let mut child = Descriptor::of(media::IMAGE_MANIFEST, &source.manifests[&image]);
        child.platform = Some(Platform { os: os.into(), architecture: "amd64".into(), variant: None });
        child
    };
    for (os, layer, want) in [("linux", &b"layer two"[..], 0), ("plan9", b"layer two", 2), ("linux", b"layer twO", 2)] {
        source.blobs.insert(Digest::of(b"layer two"), layer.to_vec());
        let index = Index::new(media::IMAGE_INDEX.into(), vec![entry(os, &source)]);
        let index = source.put(Some(TAG), index.to_bytes());
        let bundle = Parts::default().bundle;
        let lock = source.attach(media::LOCK, index, Some("v1.0.0-lock"), &lock(index, &bundle, 7).to_bytes());
        let policy = source.attach(media::POLICY_BUNDLE, index, Some("v1.0.0-policy"), &bundle);
        for digest in [index, lock, policy] {
            source.sign(digest, OURS, Layout::Simple, Some("2025-11-01T00:00:00Z"));
        }
        let ended = run(&source, options());
        assert_eq!(ended.failed().unwrap_or(0), want, "{os}: {}", ended.words());
    }
    // Nothing is there: nothing is known.
    let missing = run(&Source::default(), options());
    assert!(matches!(missing.end, Err(Failed::Source(_))) && missing.steps.is_empty());
}

/// The manifest under this tag once more, with a remark: other bytes, the same content, and nobody signed it.
fn twin(source: &mut Source, tag: &str, remark: &str) -> Digest {
    let Manifest::Image(mut image) = Manifest::parse(&source.manifests[&source.tags[tag]], None).unwrap() else {
        panic!("no image")
    };
    image.annotations.insert("remark".into(), remark.into());
    source.put(None, image.to_bytes())
}

#[test]
fn what_is_attached_twice_counts_when_one_of_them_is_signed() {
    for tag in ["v1.0.0-lock", "v1.0.0-policy"] {
        for n in 0..8 {
            let (mut source, _) = Parts::default().publish();
            let stranger = twin(&mut source, tag, &format!("{n}"));
            let ended = run(&source, options());
            assert!(ended.end.is_ok(), "{tag}: {}", ended.words());
            // By the tag it is found as well, and a bad signature of it changes nothing.
            source.tags.insert(tag.into(), stranger);
            source.sign(stranger, THEIRS, Layout::Bundle, None);
            let ended = run(&source, options());
            let parts = ended.end.unwrap().release.unwrap().into_inner().parts;
            assert!(!parts.manifests.contains_key(&stranger), "{tag}: what is not signed is none of its parts");
        }
        let keys = if tag == "v1.0.0-lock" { [Some(OURS), None, Some(OURS)] } else { [Some(OURS), Some(OURS), None] };
        let (mut source, _) = Parts { keys, ..Parts::default() }.publish();
        twin(&mut source, tag, "neither is signed");
        assert_eq!(run(&source, options()).failed(), Some(1), "{tag}");
    }
}

#[test]
fn the_parts_of_a_release_are_what_was_judged_and_nothing_that_lies_beside_it() {
    for layout in [Layout::Simple, Layout::Bundle] {
        let (mut source, image) = Parts { layout, ..Parts::default() }.publish();
        let honest: BTreeSet<Digest> = source.manifests.keys().chain(source.blobs.keys()).copied().collect();
        let (lock, bundle) = (source.tags["v1.0.0-lock"], Parts::default().bundle);
        let junk: Vec<Digest> = vec![
            source.attach(media::LOCK, image, None, &super::testing::lock(image, &bundle, 3).to_bytes()),
            source.attach("application/vnd.example.sbom", image, None, b"a list of parts"),
            twin(&mut source, "v1.0.0-policy", "junk"),
        ];
        source.sign(image, THEIRS, Layout::Bundle, Some("2025-11-01T00:00:00Z"));
        source.sign(lock, THEIRS, Layout::Simple, None);
        let parts = run(&source, options()).end.unwrap().release.unwrap().into_inner().parts;
        let kept: BTreeSet<Digest> = parts.manifests.keys().chain(parts.blobs.keys()).copied().collect();
        assert!(junk.iter().all(|digest| !kept.contains(digest)), "{kept:?}");
        // The list of signatures changed by the stranger's; what it lists of his is not kept.
        let lists = usize::from(layout == Layout::Simple);
        assert_eq!(kept.difference(&honest).count(), lists, "{kept:?}");
        for (digest, part) in parts.manifests.iter().chain(&parts.blobs) {
            let bytes = source.manifests.get(digest).or_else(|| source.blobs.get(digest)).unwrap();
            assert_eq!((part.digest, part.size), (Digest::of(bytes), bytes.len() as u64));
        }
        for wanted in [image, lock, source.tags["v1.0.0-policy"], Digest::of(&bundle), Digest::of(b"layer two")] {
            assert!(kept.contains(&wanted), "{wanted}");
        }
        assert!(kept.len() >= 12, "with the signatures of three manifests: {kept:?}");
    }
}

#[test]
fn s13_what_all_answers_together_may_weigh_is_bounded() {
    let (mut source, image) = Parts::default().publish();
    let honest = {
        let whole = run(&source, Options { budget: u64::MAX, ..options() });
        assert!(whole.end.is_ok());
        let weigh = |limit: u64| run(&source, Options { budget: limit, ..options() }).end.is_ok();
        (1..16).map(|n| 1_u64 << n).find(|limit| weigh(*limit)).unwrap()
    };
    assert!(honest < BUDGET / 1_000, "an honest release is far below: {honest}");
    // Manifests that are long because of what is remarked in them: each is within its own bounds, together they are not.
    for n in 0..20 {
        let bytes = super::testing::lock(image, &Parts::default().bundle, n).to_bytes();
        let layer = source.blob(media::LOCK, &bytes);
        let subject = Descriptor::of(media::IMAGE_MANIFEST, &source.manifests[&image]);
        let mut long = crate::oci::Image::artifact(media::LOCK, layer, Some(subject));
        long.annotations.insert("remark".into(), "x".repeat(10_000));
        source.put(None, long.to_bytes());
    }
    let ended = run(&source, Options { budget: 100_000, ..options() });
    assert_eq!(ended.failed(), Some(1));
    assert!(ended.words().contains("more than 100000 bytes of manifests, listings"), "{}", ended.words());
    // So are listings.
    let (mut source, image) = Parts::default().publish();
    for n in 0..200_u32 {
        let mut entry = Descriptor::of(media::IMAGE_MANIFEST, &n.to_le_bytes());
        entry.annotations.insert("remark".into(), "x".repeat(1_000));
        source.referrers.get_mut(&image).unwrap().push(entry);
    }
    let ended = run(&source, Options { budget: 100_000, ..options() });
    assert!(ended.failed() == Some(1) && ended.words().contains("more than 100000 bytes"), "{}", ended.words());
}

#[test]
fn a_verification_that_is_not_over_in_time_ends_and_nothing_is_known() {
    let mut machine = Verify::new(Options { timeout: Span::from_secs(600), ..options() });
    assert_eq!(machine.deadline(), None, "it has not begun");
    let at = |seconds: u64| Now { mono: Mono::from_nanos(seconds * 1_000_000_000), wall: TODAY };
    let mut feed = |now: Now, event| {
        let mut effects = Vec::new();
        machine.handle(now, event, &mut Outbox::over(&mut effects));
        machine.check();
        (effects, machine.deadline().map(|deadline| deadline.at))
    };
    let (asked, deadline) = feed(at(5), Event::Start(Entropy([0; 32])));
    assert_eq!((asked.len(), deadline), (1, Some(at(605).mono)));
    let (effects, deadline) = feed(at(604), Event::Due);
    assert!(effects.is_empty() && deadline.is_some(), "one that comes early is harmless");
    let (effects, deadline) = feed(at(605), Event::Due);
    let [Effect::Output(Output::End(end))] = effects.as_slice() else { panic!("{effects:?}") };
    let Err(Failed::Source(words)) = end.as_ref() else { panic!("{end:?}") };
    assert!(words.contains("not over within 600 s") && words.contains("--timeout"), "{words}");
    assert_eq!(deadline, None);
    // What comes late is dropped.
    let (effects, _) = feed(at(606), Event::Work(crate::work::Tag(1), Got::Artifact(Err(SourceFault::NotFound))));
    assert!(effects.is_empty() && feed(at(9_999), Event::Due).0.is_empty());
}
