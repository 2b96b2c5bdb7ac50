use super::tests::{FIELDS, OBJECTS, draft, harmless, members, read, value_of};
use super::*;
use crate::canonical::tests::{dice, respell};
use crate::json::Value;
use proptest::prelude::*;
use std::format;
use std::string::ToString;

fn any_name() -> impl Strategy<Value = String> {
    "[a-z0-9._-]{1,64}"
}

fn any_version() -> impl Strategy<Value = Version> {
    r"(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})(-[a-z][0-9a-z-]{0,6}(\.[a-z]{1,3})?)?(\+[0-9a-zA-Z.-]?[0-9a-z]{1,8})?"
        .prop_filter_map("an empty identifier", |text| Version::parse(&text).ok())
}

fn any_reference() -> impl Strategy<Value = String> {
    prop_oneof![
        "(localhost|[a-z]{1,8}\\.[a-z]{2,3})(:[1-9][0-9]{0,3})?/[a-z0-9]{1,9}(/[a-z0-9]{1,9})?(:[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,12})?",
        "oci:[a-zA-Z0-9./\"\\\\_-]{1,30}(:[a-z0-9]{1,9})?",
        "oci-archive:[a-z0-9./]{1,30}",
        any::<[u8; 32]>().prop_map(|hash| format!("ghcr.io/a/b@sha256:{}", Hash32(hash))),
    ]
}

fn any_input() -> impl Strategy<Value = Option<InputHash>> {
    prop_oneof![
        Just(None),
        any::<[u8; 32]>().prop_map(|hash| Some(InputHash::Sha256(Hash32(hash)))),
        any::<[u8; 32]>().prop_map(|hash| Some(InputHash::Blake3(Hash32(hash)))),
    ]
}

prop_compose! {
    fn any_draft()(
        name in any_name(),
        version in any_version(),
        sequence in prop_oneof![0..=MAX_SEQUENCE, 0_u64..9, Just(MAX_SEQUENCE)],
        channels in prop::collection::btree_set(any_name(), 0..=MAX_CHANNELS),
        references in (any_reference(), any_reference()),
        digests in any::<([u8; 32], [u8; 32])>(),
        bundle_version in any_version(),
        bounds in prop::collection::vec(("[<>]=?|=", any_version()), 1..4),
        inputs in (any_input(), any_input()),
    ) -> Draft {
        let bounds: Vec<_> = bounds.iter().map(|(sign, v)| {
            let text = v.to_string();
            format!("{sign}{}", text.split('+').next().unwrap())
        }).collect();
        Draft {
            name,
            version,
            sequence,
            channels: channels.into_iter().rev().collect(),
            agent_artifact: AgentArtifact { reference: references.0, digest: Digest::from_hash(Hash32(digests.0)) },
            policy_bundle: PolicyBundle { reference: references.1, digest: Digest::from_hash(Hash32(digests.1)), version: bundle_version },
            runtime: Runtime::parse(&bounds.join("  ")).unwrap(),
            inputs: Inputs { prompt: inputs.0, tool_inputs: inputs.1 },
        }
    }
}

proptest! {
    #[test]
    fn j08_a_lock_its_file_and_its_canonical_bytes_mean_the_same(draft in any_draft()) {
        let lock = Lock::new(draft.clone()).unwrap();
        prop_assert!(lock.matches());
        prop_assert_eq!(
            (&lock.name, &lock.version, lock.sequence, &lock.channels),
            (&draft.name, &draft.version, draft.sequence, &draft.channels)
        );
        prop_assert_eq!(
            (&lock.agent_artifact, &lock.policy_bundle, &lock.runtime, &lock.inputs),
            (&draft.agent_artifact, &draft.policy_bundle, &draft.runtime, &draft.inputs)
        );
        let bytes = lock.to_bytes();
        prop_assert_eq!(&Lock::read(&bytes).unwrap(), &lock);

        // The document's own canonical form, computed on a path that knows nothing of locks.
        let document = canonical::parse(&bytes, MAX_BYTES).unwrap();
        prop_assert_eq!(&Lock::read(&canonical::to_bytes(&document).unwrap()).unwrap(), &lock);
        let mut members = document.into_object().unwrap();
        members.remove("behavioral_fingerprint").unwrap();
        prop_assert_eq!(canonical::to_bytes(&Value::Object(members)).unwrap(), lock.canonical());
    }

    #[test]
    fn order_layout_and_escapes_do_not_change_the_fingerprint(draft in any_draft(), seed in any::<u64>()) {
        let lock = Lock::new(draft).unwrap();
        let mut text = String::new();
        respell(&value_of(&lock), &mut dice(seed), &mut text);
        let read = Lock::read(text.as_bytes()).unwrap();
        prop_assert_eq!(&read, &lock, "{}", text);
        prop_assert!(read.matches());
        prop_assert_eq!(read.to_bytes(), lock.to_bytes());
    }

    #[test]
    fn s18_two_drafts_that_differ_have_two_fingerprints(a in any_draft(), b in any_draft(), part in 0..8) {
        // b is a with one part from another draft.
        let b = match part {
            0 => Draft { name: b.name, ..a.clone() },
            1 => Draft { version: b.version, ..a.clone() },
            2 => Draft { sequence: b.sequence, ..a.clone() },
            3 => Draft { channels: b.channels, ..a.clone() },
            4 => Draft { agent_artifact: b.agent_artifact, ..a.clone() },
            5 => Draft { policy_bundle: b.policy_bundle, ..a.clone() },
            6 => Draft { runtime: b.runtime, ..a.clone() },
            _ => Draft { inputs: b.inputs, ..a.clone() },
        };
        let differ = a != b;
        prop_assert_eq!(Lock::new(a).unwrap().fingerprint != Lock::new(b).unwrap().fingerprint, differ);
    }

    #[test]
    fn s19_any_other_name_is_an_unknown_field(name in any::<String>(), within in 0..OBJECTS.len()) {
        let mut value = value_of(&Lock::new(draft()).unwrap());
        let known = FIELDS.iter().any(|path| path.rsplit('.').next() == Some(&name));
        prop_assume!(!known);
        members(&mut value, OBJECTS[within]).insert(name, Value::Null);
        prop_assert!(read(&value).is_err());
    }

    #[test]
    fn no_bytes_make_the_reader_panic(at in 0_usize..900, junk in prop::collection::vec(any::<u8>(), 0..12), lost in 0_usize..12) {
        let lock = Lock::new(draft()).unwrap();
        let bytes = lock.to_bytes();
        let at = at.min(bytes.len());
        let mut changed = bytes[..at].to_vec();
        changed.extend(&junk);
        changed.extend(bytes.iter().skip(at + lost));
        prop_assert!(harmless(&changed, &lock));
    }
}
