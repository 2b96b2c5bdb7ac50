use super::*;
use crate::json::{self, Limits, Value};
use alloc::collections::BTreeMap;
use std::format;
use std::string::ToString;
use std::vec;

const A: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn digest(byte: u8) -> Digest {
    Digest::from_hash(Hash32([byte; 32]))
}

fn version(text: &str) -> Version {
    Version::parse(text).unwrap()
}

pub(super) fn draft() -> Draft {
    Draft {
        name: "myapp".into(),
        version: version("1.0.0"),
        sequence: 7,
        channels: vec!["stable".into(), "canary".into()],
        agent_artifact: AgentArtifact { reference: "registry.local:5000/myapp:v1.0.0".into(), digest: digest(0xa1) },
        policy_bundle: PolicyBundle {
            reference: "registry.local:5000/myapp:v1.0.0-policy".into(),
            digest: digest(0xb2),
            version: version("1.2.3"),
        },
        runtime: Runtime::parse(">=0.1.0 <2.0.0").unwrap(),
        inputs: Inputs {
            prompt: Some(InputHash::Sha256(Hash32([0xc3; 32]))),
            tool_inputs: Some(InputHash::Blake3(Hash32([0xd4; 32]))),
        },
    }
}

fn least() -> Draft {
    Draft { channels: Vec::new(), inputs: Inputs::default(), ..draft() }
}

pub(super) fn value_of(lock: &Lock) -> Value {
    json::parse(&lock.to_bytes(), &Limits::default()).unwrap()
}

pub(super) fn read(value: &Value) -> Result<Lock, Refusal> {
    Lock::read(value.to_text().as_bytes())
}

/// The member at a path like `a.b`, for a test to change or remove.
pub(super) fn members<'v>(value: &'v mut Value, within: &str) -> &'v mut BTreeMap<String, Value> {
    let mut at = value;
    for part in within.split('.').filter(|part| !part.is_empty()) {
        let Value::Object(members) = at else { panic!("no object above {part}") };
        at = members.get_mut(part).unwrap();
    }
    let Value::Object(members) = at else { panic!("{within} is no object") };
    members
}

fn with(path: &str, new: impl Into<Value>) -> Value {
    let mut value = value_of(&Lock::new(draft()).unwrap());
    let (within, key) = path.rsplit_once('.').unwrap_or(("", path));
    members(&mut value, within).insert(key.into(), new.into());
    value
}

fn without(path: &str) -> Value {
    let mut value = value_of(&Lock::new(draft()).unwrap());
    let (within, key) = path.rsplit_once('.').unwrap_or(("", path));
    members(&mut value, within).remove(key).unwrap();
    value
}

/// All fields of the schema, by path.
pub(super) const FIELDS: [&str; 20] = [
    "schema_version",
    "name",
    "version",
    "sequence",
    "channels",
    "agent_artifact",
    "agent_artifact.ref",
    "agent_artifact.digest",
    "policy_bundle",
    "policy_bundle.ref",
    "policy_bundle.digest",
    "policy_bundle.version",
    "runtime",
    "runtime.required_version",
    "inputs",
    "inputs.prompt_hash",
    "inputs.tool_inputs_hash",
    "behavioral_fingerprint",
    // Not of the schema; they stand for the elements of a list.
    "channels[0]",
    "channels[1]",
];

pub(super) const OBJECTS: [&str; 5] = ["", "agent_artifact", "policy_bundle", "runtime", "inputs"];

#[test]
fn a_lock_is_written_for_people_and_the_same_each_time() {
    let lock = Lock::new(draft()).unwrap();
    assert!(lock.matches());
    let b = "b2".repeat(32);
    let (a, c, d) = ("a1".repeat(32), "c3".repeat(32), "d4".repeat(32));
    let want = format!(
        r#"{{
  "schema_version": 0,
  "name": "myapp",
  "version": "1.0.0",
  "sequence": 7,
  "channels": [
    "stable",
    "canary"
  ],
  "agent_artifact": {{
    "ref": "registry.local:5000/myapp:v1.0.0",
    "digest": "sha256:{a}"
  }},
  "policy_bundle": {{
    "ref": "registry.local:5000/myapp:v1.0.0-policy",
    "digest": "sha256:{b}",
    "version": "1.2.3"
  }},
  "runtime": {{
    "required_version": ">=0.1.0 <2.0.0"
  }},
  "inputs": {{
    "prompt_hash": "sha256:{c}",
    "tool_inputs_hash": "blake3:{d}"
  }},
  "behavioral_fingerprint": "blake3:{}"
}}
"#,
        lock.fingerprint
    );
    assert_eq!(core::str::from_utf8(&lock.to_bytes()).unwrap(), want);
    assert_eq!(Lock::new(draft()).unwrap(), lock);
}

#[test]
fn the_fingerprint_is_blake3_of_the_canonical_form_without_it() {
    let lock = Lock::new(draft()).unwrap();
    let (a, b, c, d) = ("a1".repeat(32), "b2".repeat(32), "c3".repeat(32), "d4".repeat(32));
    // Written out by hand, keys sorted.
    let canonical = format!(
        "{{\"agent_artifact\":{{\"digest\":\"sha256:{a}\",\"ref\":\"registry.local:5000/myapp:v1.0.0\"}},\
         \"channels\":[\"stable\",\"canary\"],\
         \"inputs\":{{\"prompt_hash\":\"sha256:{c}\",\"tool_inputs_hash\":\"blake3:{d}\"}},\
         \"name\":\"myapp\",\
         \"policy_bundle\":{{\"digest\":\"sha256:{b}\",\"ref\":\"registry.local:5000/myapp:v1.0.0-policy\",\"version\":\"1.2.3\"}},\
         \"runtime\":{{\"required_version\":\">=0.1.0 <2.0.0\"}},\
         \"schema_version\":0,\"sequence\":7,\"version\":\"1.0.0\"}}"
    );
    assert_eq!(core::str::from_utf8(&lock.canonical()).unwrap(), canonical);
    assert_eq!(lock.fingerprint.0, *blake3::hash(canonical.as_bytes()).as_bytes());
}

#[test]
fn what_is_absent_is_not_written() {
    let lock = Lock::new(least()).unwrap();
    let text = core::str::from_utf8(&lock.to_bytes()).unwrap().to_string();
    assert!(!text.contains("channels") && !text.contains("inputs"), "{text}");
    let one = Inputs { prompt: None, ..draft().inputs };
    let lock = Lock::new(Draft { inputs: one, ..least() }).unwrap();
    assert!(!core::str::from_utf8(&lock.canonical()).unwrap().contains("prompt_hash"));
    assert_eq!(Lock::read(&lock.to_bytes()).unwrap(), lock);
}

#[test]
fn s18_every_changed_field_is_another_fingerprint() {
    let lock = Lock::new(draft()).unwrap();
    let other = "e5".repeat(32);
    let (sha, blake) = (format!("sha256:{other}"), format!("blake3:{other}"));
    let changes: [(&str, Value); 19] = [
        ("name", "myapp2".into()),
        ("version", "1.0.1".into()),
        ("version", "1.0.0+build".into()),
        ("sequence", 8_u64.into()),
        ("channels", vec!["canary".into(), "stable".into()].into()),
        ("channels", vec!["stable".into()].into()),
        ("agent_artifact.ref", "registry.local:5000/myapp:v1.0.1".into()),
        ("agent_artifact.digest", sha.as_str().into()),
        ("policy_bundle.ref", "oci:layout".into()),
        ("policy_bundle.digest", sha.as_str().into()),
        ("policy_bundle.version", "1.2.4".into()),
        ("runtime.required_version", ">=0.1.0 <2.0.1".into()),
        // The same range in another spelling: what is written counts.
        ("runtime.required_version", ">=0.1.0  <2.0.0".into()),
        ("inputs.prompt_hash", sha.as_str().into()),
        ("inputs.prompt_hash", format!("blake3:{}", "c3".repeat(32)).into()),
        ("inputs.tool_inputs_hash", blake.as_str().into()),
        ("channels", vec!["stable".into(), "canary".into(), "x".into()].into()),
        ("sequence", MAX_SEQUENCE.into()),
        ("sequence", 0_u64.into()),
    ];
    for (path, new) in changes {
        let changed = read(&with(path, new.clone())).unwrap_or_else(|e| panic!("{path} = {new}: {e}"));
        assert!(!changed.matches(), "{path} = {new}");
        assert_eq!(changed.fingerprint, lock.fingerprint);
        assert_ne!(changed.computed(), lock.computed(), "{path} = {new}");
    }
    // The fingerprint itself, one digit at a time.
    let digits = lock.fingerprint.to_string();
    for at in 0..64 {
        let mut wrong = digits.clone();
        wrong.replace_range(at..=at, if digits.as_bytes()[at] == b'0' { "1" } else { "0" });
        let changed = read(&with("behavioral_fingerprint", format!("blake3:{wrong}"))).unwrap();
        assert!(!changed.matches() && changed.computed() == lock.computed());
    }
}

#[test]
fn s18_every_removed_field_is_refused_or_another_fingerprint() {
    for path in FIELDS.into_iter().filter(|path| !path.contains('[')) {
        match read(&without(path)) {
            Err(Refusal::MissingField { field, .. }) => assert_eq!(field, path),
            Err(other) => panic!("{path}: {other}"),
            Ok(lock) => {
                let optional = path == "channels" || path.starts_with("inputs");
                assert!(optional && !lock.matches(), "{path}");
            }
        }
    }
}

#[test]
fn s18_every_field_of_another_kind_is_refused() {
    for path in FIELDS.into_iter().filter(|path| !path.contains('[')) {
        for wrong in [
            Value::Null,
            Value::from(true),
            Value::from(1_u64),
            Value::from(-1_i64),
            Value::from(""),
            Value::from("\u{202e}\n"),
            Value::from(Vec::new()),
            Value::from(vec![Value::Null]),
            Value::Object(BTreeMap::new()),
        ] {
            // The one that is good: a sequence of 1.
            if path == "sequence" && wrong == Value::from(1_u64) {
                continue;
            }
            let message = match read(&with(path, wrong.clone())) {
                Ok(lock) => panic!("{path} = {wrong} was read as {lock:?}"),
                Err(refusal) => refusal.to_string(),
            };
            assert!(message.contains(path) && !message.contains('\u{202e}'), "{path} = {wrong}: {message}");
            assert!(!message.contains('\n'), "{message:?}");
        }
    }
}

#[test]
fn s19_j09_unknown_fields_are_refused_at_every_level() {
    for within in OBJECTS {
        let known = members(&mut value_of(&Lock::new(draft()).unwrap()), within).clone();
        let mut names: Vec<String> =
            known.keys().flat_map(|key| [key.to_uppercase(), format!("{key} "), format!("_{key}")]).collect();
        names.extend(["", "x", "created_at", "name\0", "channel"].map(String::from));
        // A field that belongs elsewhere.
        names.extend(
            FIELDS
                .iter()
                .filter_map(|path| path.rsplit('.').next())
                .filter(|key| !known.contains_key(*key))
                .map(String::from),
        );
        for name in names {
            let path = if within.is_empty() { name.clone() } else { format!("{within}.{name}") };
            let mut value = value_of(&Lock::new(draft()).unwrap());
            members(&mut value, within).insert(name.clone(), Value::from("x"));
            match read(&value) {
                Err(Refusal::UnknownField { field, known, .. }) => {
                    assert_eq!(field, format!("{name:?}"));
                    assert!(known.contains("digest") || known.contains("_"), "{known}");
                }
                other => panic!("{path:?}: {other:?}"),
            }
        }
    }
    let message = read(&with("agent_artifact.Digest", "x")).unwrap_err().to_string();
    assert_eq!(
        message,
        "lock: unknown field \"Digest\"; agent_artifact has ref, digest, compared exactly, also in case"
    );
}

#[test]
fn a_later_schema_is_called_that() {
    let mut value = with("schema_version", 1_u64);
    members(&mut value, "").insert("novelty".into(), Value::from(1_u64));
    assert_eq!(
        read(&value).unwrap_err().to_string(),
        "lock: schema_version must be 0, the schema that this release reads; it is 1"
    );
}

#[test]
fn j01_j02_duplicate_fields_are_refused_at_every_level_raw_or_escaped() {
    let text = value_of(&Lock::new(draft()).unwrap()).to_text();
    let mut tried = 0;
    for (at, _) in text.match_indices("\":") {
        let start = text[..at].rfind('"').unwrap();
        let key = &text[start + 1..at];
        for spelled in [key.to_string(), format!("\\u{:04x}{}", key.as_bytes()[0], &key[1..])] {
            let doubled = format!("{}\"{spelled}\":0,{}", &text[..start], &text[start..]);
            let message = Lock::read(doubled.as_bytes()).unwrap_err().to_string();
            assert!(message.starts_with("lock: duplicate key at ") && message.contains(key), "{message}");
            tried += 1;
        }
    }
    assert_eq!(tried, 2 * 18);
}

#[test]
fn j03_a_sequence_has_one_spelling() {
    let text = value_of(&Lock::new(draft()).unwrap()).to_text();
    for spelled in ["7.0", "7e0", "70e-1", "-0", "0.0", "7.5", "9007199254740992", "18446744073709551616", "1e400"] {
        let message =
            Lock::read(text.replace("\"sequence\":7", &format!("\"sequence\":{spelled}")).as_bytes()).unwrap_err();
        assert!(message.to_string().starts_with("lock: sequence is "), "{spelled}: {message}");
    }
    let schema = text.replace("\"schema_version\":0", "\"schema_version\":0.0");
    assert!(Lock::read(schema.as_bytes()).unwrap_err().to_string().starts_with("lock: schema_version is 0.0; "));
}

#[test]
fn bad_values_are_refused_with_field_and_wish() {
    let upper = A.to_uppercase();
    let hashes = [
        A,
        "sha256:",
        &format!("sha256:{upper}"),
        &format!("SHA256:{A}"),
        &format!("sha256:{A}0"),
        &format!("sha256:{}", &A[1..]),
        &format!("sha256: {}", &A[1..]),
        &format!("sha512:{A}{A}"),
        &format!("md5:{A}"),
    ]
    .map(String::from);
    let sha = format!("sha256:{A}");
    let blake = format!("blake3:{A}");
    for (path, prefix, other) in [
        ("agent_artifact.digest", "sha256:", Some(&blake)),
        ("policy_bundle.digest", "sha256:", Some(&blake)),
        ("behavioral_fingerprint", "blake3:", Some(&sha)),
        ("inputs.prompt_hash", "sha256:", None),
        ("inputs.tool_inputs_hash", "blake3:", None),
    ] {
        for hash in hashes.iter().map(|hash| hash.replace("sha256:", prefix)).chain(other.cloned()) {
            match read(&with(path, hash.as_str())) {
                Err(Refusal::Field { field, must, .. }) => {
                    assert_eq!(field, path, "{hash}");
                    assert!(must.contains(prefix) && must.ends_with("64 lower-case hex digits"), "{must}");
                }
                found => panic!("{path} = {hash}: {found:?}"),
            }
        }
    }
    let names = ["", "A", "a b", "a/b", "ä", "a\0", &"a".repeat(65), "stable\n"].map(String::from);
    for name in &names {
        assert!(matches!(read(&with("name", name.as_str())), Err(Refusal::Field { .. })), "{name:?}");
        let channels = vec![Value::from(name.as_str())];
        assert!(matches!(read(&with("channels", channels)), Err(Refusal::Field { .. })), "{name:?}");
    }
    assert!(read(&with("name", "a".repeat(64))).is_ok());
    let list = |n: u64| (0..n).map(|i| Value::from(format!("c{i}"))).collect::<Vec<_>>();
    assert!(read(&with("channels", list(16))).is_ok());
    for channels in [list(17), vec!["a".into(), "b".into(), "a".into()]] {
        assert!(
            read(&with("channels", channels)).unwrap_err().to_string().contains("channels must be a list of 1 to 16")
        );
    }
    for path in ["version", "policy_bundle.version"] {
        for bad in ["1.0", "v1.0.0", "01.0.0", "latest", "1.0.0 "] {
            assert!(matches!(read(&with(path, bad)), Err(Refusal::Version { field, .. }) if field == path), "{bad}");
        }
    }
    for bad in ["", "*", "1.0.0", "^1.0.0", ">=1.0", ">=1.0.0,<2.0.0"] {
        let refusal = read(&with("runtime.required_version", bad)).unwrap_err();
        assert!(refusal.to_string().starts_with("lock: runtime.required_version: "), "{bad}: {refusal}");
    }
    for path in ["agent_artifact.ref", "policy_bundle.ref"] {
        for bad in [
            "",
            "localhost/app:v 1",
            "oci:gr\u{f6}sse",
            "oci:a\u{202e}b",
            "oci:a\u{7f}",
            &format!("oci:{}", "a".repeat(252)),
        ] {
            assert!(matches!(read(&with(path, bad)), Err(Refusal::Field { field, .. }) if field == path), "{bad}");
        }
        for good in [
            "oci:dir",
            "oci-archive:site.tar:v1",
            "localhost/app",
            &format!("localhost/app:v1@{sha}"),
            &format!("oci:{}", "a".repeat(251)),
        ] {
            let lock = read(&with(path, good)).unwrap();
            assert!([&lock.agent_artifact.reference, &lock.policy_bundle.reference].contains(&&good.to_string()));
        }
    }
}

#[test]
fn what_is_no_object_or_too_long_is_refused() {
    for text in ["[]", "null", "0", "\"x\"", "true"] {
        let message = Lock::read(text.as_bytes()).unwrap_err().to_string();
        assert!(message.starts_with("lock: the document must be an object, is "), "{message}");
    }
    assert_eq!(
        read(&with("runtime", "x")).unwrap_err(),
        Refusal::NotAnObject { field: "runtime".into(), found: "string" }
    );
    let mut bytes = Lock::new(draft()).unwrap().to_bytes();
    bytes.resize(MAX_BYTES, b' ');
    assert!(Lock::read(&bytes).unwrap().matches());
    bytes.push(b' ');
    assert!(Lock::read(&bytes).unwrap_err().to_string().contains("the limit is 65536"));
}

#[test]
fn what_would_not_be_read_is_not_made() {
    let refused = |draft| Lock::new(draft).unwrap_err().to_string();
    assert!(refused(Draft { name: "A".into(), ..draft() }).starts_with("lock: name must be 1 to 64"));
    assert!(refused(Draft { sequence: MAX_SEQUENCE + 1, ..draft() }).starts_with("lock: sequence is 9007199254740992"));
    assert!(refused(Draft { channels: vec!["a".into(), "a".into()], ..draft() }).contains("channels must be"));
    let agent = AgentArtifact { reference: "an app".into(), ..draft().agent_artifact };
    assert!(refused(Draft { agent_artifact: agent, ..draft() }).starts_with("lock: agent_artifact.ref must be"));
    assert!(Lock::new(Draft { sequence: MAX_SEQUENCE, ..draft() }).unwrap().matches());
}

#[test]
fn runtimes_are_admitted_by_the_range() {
    let lock = Lock::new(draft()).unwrap();
    for (text, admitted) in
        [("0.0.9", false), ("0.1.0-rc.1", false), ("0.1.0", true), ("1.9.9", true), ("2.0.0", false)]
    {
        assert_eq!(lock.runtime.admits(&version(text)), admitted, "{text}");
    }
}

/// A changed byte is refused, or gives another fingerprint, or means the same.
pub(super) fn harmless(changed: &[u8], lock: &Lock) -> bool {
    match Lock::read(changed) {
        Err(_) => true,
        Ok(found) => !found.matches() || found == *lock,
    }
}

#[test]
fn s18_every_flipped_added_or_lost_byte_is_harmless() {
    for lock in [Lock::new(draft()).unwrap(), Lock::new(least()).unwrap()] {
        let bytes = lock.to_bytes();
        let mut same = 0;
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            for new in 0..=u8::MAX {
                changed[at] = new;
                assert!(harmless(&changed, &lock), "byte {at} set to {new}");
                same += usize::from(new != bytes[at] && Lock::read(&changed).is_ok_and(|found| found.matches()));
            }
            changed.remove(at);
            assert!(harmless(&changed, &lock), "byte {at} removed");
            for new in [b' ', b'0', b'"', b'\\', b',', b'{', bytes[at]] {
                let mut changed = bytes.clone();
                changed.insert(at, new);
                assert!(harmless(&changed, &lock), "{new} put in at {at}");
            }
        }
        // Each blank may be any of three others, and nothing else may change.
        let blanks = text_blanks(&bytes);
        assert_eq!(same, blanks * 3);
    }
}

/// Whitespace outside strings.
fn text_blanks(bytes: &[u8]) -> usize {
    let mut quoted = false;
    bytes
        .iter()
        .filter(|byte| {
            quoted ^= **byte == b'"';
            !quoted && byte.is_ascii_whitespace()
        })
        .count()
}
