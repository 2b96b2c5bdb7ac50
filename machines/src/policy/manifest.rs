//! `manifest.json` of a policy bundle (SPEC 3): a closed schema, every name compared exactly.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Refusal, redact};
use crate::ids::Hash32;
use crate::json::{self, Value};
use crate::semver::{Range, Version};

/// The manifest's file name.
pub const FILE: &str = "manifest.json";
/// The name of a bundle whose manifest gives none.
pub const DEFAULT_NAME: &str = "policy";
/// Largest `sequence`: 2^53-1, which every JSON reader keeps exactly.
pub const MAX_SEQUENCE: u64 = (1 << 53) - 1;
/// Most paths in `redact`.
pub const MAX_REDACT: usize = 64;

pub(super) const VERSION: &str = "policy_bundle_version";
pub(super) const RUNTIME: &str = "required_runtime_version";
pub(super) const HASH: &str = "bundle_hash";
pub(super) const NAME: &str = "name";
pub(super) const SEQUENCE: &str = "sequence";
pub(super) const MIN_SEQUENCE: &str = "min_sequence";
pub(super) const REDACT: &str = "redact";

/// What a bundle says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// `policy_bundle_version`; a decision names it as `policy_ref`.
    pub version: Version,
    /// `required_runtime_version`; none admits every runtime.
    pub required_runtime: Option<Range>,
    /// `bundle_hash`, without its prefix.
    pub bundle_hash: Hash32,
    /// `name`: sequences of bundles of one name are compared with each other.
    pub name: String,
    /// `sequence`
    pub sequence: u64,
    /// `min_sequence`: every bundle of this name below it is barred for ever.
    pub min_sequence: u64,
    /// `redact`: what is masked before a frame is made.
    pub redact: Vec<redact::Path>,
}

impl Manifest {
    /// Whether a runtime of version `runtime` may use the bundle.
    ///
    /// # Errors
    /// [`Refusal::Incompatible`] when `required_runtime_version` bars it.
    pub fn compatible(&self, runtime: &Version) -> Result<(), Refusal> {
        match &self.required_runtime {
            Some(range) if !range.admits(runtime) => {
                Err(Refusal::Incompatible { required: alloc::format!("{range}"), runtime: alloc::format!("{runtime}") })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Reads a manifest; with it the canonical JSON (RFC 8785) of the same document without `bundle_hash`, over
    /// which that hash goes.
    ///
    /// Names are ASCII, and numbers were made exact integers by the parser, so the compact text of the value
    /// is the canonical one.
    pub(super) fn read(bytes: &[u8]) -> Result<(Self, String), Refusal> {
        let cause = |cause| Refusal::Json { name: FILE, cause };
        let document = json::parse(bytes, &json::Limits::bytes(bytes.len())).map_err(cause)?;
        let members = document.into_object().map_err(|v| Refusal::NotAnObject { name: FILE, found: v.kind() })?;
        let mut fields = Fields(members);
        let bundle_hash = fields.take(HASH, "sha256: and 64 lower-case hex digits", |value| {
            Hash32::parse_hex(value.as_str()?.strip_prefix("sha256:")?.as_bytes())
        })?;
        let hashed = Value::Object(fields.0.clone()).to_text();
        let version = fields.take(VERSION, "a string", |value| value.as_str().map(String::from))?;
        let manifest = Self {
            version: match version {
                Some(text) => Version::parse(&text).map_err(|cause| Refusal::Version { field: VERSION, cause })?,
                None => return Err(Refusal::MissingField { field: VERSION }),
            },
            required_runtime: fields
                .take(RUNTIME, "a string", |value| value.as_str().map(String::from))?
                .map(|text| Range::parse(&text).map_err(|cause| Refusal::Version { field: RUNTIME, cause }))
                .transpose()?,
            bundle_hash: bundle_hash.ok_or(Refusal::MissingField { field: HASH })?,
            name: fields.take(NAME, "1 to 64 of a-z 0-9 . _ -", name)?.unwrap_or_else(|| String::from(DEFAULT_NAME)),
            sequence: fields.take(SEQUENCE, SEQUENCE_MUST, sequence)?.unwrap_or(0),
            min_sequence: fields.take(MIN_SEQUENCE, SEQUENCE_MUST, sequence)?.unwrap_or(0),
            redact: fields.take(REDACT, REDACT_MUST, paths)?.unwrap_or_default(),
        };
        fields.finish()?;
        let (sequence, min_sequence) = (manifest.sequence, manifest.min_sequence);
        if min_sequence > sequence {
            return Err(Refusal::Floor { sequence, min_sequence });
        }
        Ok((manifest, hashed))
    }
}

const SEQUENCE_MUST: &str = "an integer from 0 to 2^53-1";
const REDACT_MUST: &str = "a list of at most 64 paths like \"params.password\" or \"output.items.*.token\"";

fn name(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    ((1..=64).contains(&text.len()) && text.bytes().all(allowed)).then(|| String::from(text))
}

fn sequence(value: &Value) -> Option<u64> {
    value.as_u64().filter(|n| *n <= MAX_SEQUENCE)
}

fn paths(value: &Value) -> Option<Vec<redact::Path>> {
    let items = value.as_array().filter(|items| items.len() <= MAX_REDACT)?;
    items.iter().map(|item| redact::Path::parse(item.as_str()?)).collect()
}

/// The members not yet taken.
struct Fields(BTreeMap<String, Value>);

impl Fields {
    fn take<T>(
        &mut self,
        field: &'static str,
        must: &'static str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let Some(value) = self.0.remove(field) else { return Ok(None) };
        match read(&value) {
            Some(found) => Ok(Some(found)),
            None => Err(Refusal::Field { field, must, found: excerpt(&value) }),
        }
    }

    fn finish(self) -> Result<(), Refusal> {
        match self.0.into_keys().next() {
            Some(field) => Err(Refusal::UnknownField { field: field.chars().take(64).collect() }),
            None => Ok(()),
        }
    }
}

fn excerpt(value: &Value) -> String {
    let text = value.to_text();
    let mut cut: String = text.chars().take(80).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;
    use std::string::ToString;

    const DIGITS: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn read(rest: &str) -> Result<(Manifest, String), Refusal> {
        Manifest::read(
            format!("{{\"policy_bundle_version\":\"1.2.3\",\"bundle_hash\":\"sha256:{DIGITS}\"{rest}}}").as_bytes(),
        )
    }

    #[test]
    fn absent_fields_have_their_defaults() {
        let (manifest, hashed) = read("").unwrap();
        assert_eq!(manifest.version.to_string(), "1.2.3");
        assert_eq!(manifest.bundle_hash.to_string(), DIGITS);
        assert_eq!((manifest.name.as_str(), manifest.sequence, manifest.min_sequence), ("policy", 0, 0));
        assert!(manifest.required_runtime.is_none() && manifest.redact.is_empty());
        assert_eq!(hashed, r#"{"policy_bundle_version":"1.2.3"}"#, "defaults are not hashed");
    }

    #[test]
    fn the_canonical_form_does_not_depend_on_spelling() {
        let (_, a) = read(r#", "sequence": 7.0 , "name":"\u0061", "redact":["params.\u00e9"]"#).unwrap();
        let (_, b) = read(r#","redact":["params.é"],"name":"a","sequence":7"#).unwrap();
        assert_eq!(a, b);
        assert_eq!(a, r#"{"name":"a","policy_bundle_version":"1.2.3","redact":["params.é"],"sequence":7}"#);
    }

    #[test]
    fn j09_unknown_and_differently_spelled_fields_are_refused() {
        for field in ["Name", "NAME", "name ", "sequence_", "nam\u{435}", "", "required_runtime"] {
            let refusal = read(&format!(",\"{field}\":\"x\"")).unwrap_err();
            assert_eq!(refusal, Refusal::UnknownField { field: field.to_string() });
        }
        assert!(matches!(read(",\"name\":\"a\",\"n\\u0061me\":\"a\""), Err(Refusal::Json { .. })));
    }

    #[test]
    fn bad_values_are_refused_with_field_and_value() {
        for (rest, field) in [
            ("\"name\":\"\"", NAME),
            ("\"name\":\"Policy\"", NAME),
            ("\"name\":\"a/b\"", NAME),
            ("\"name\":1", NAME),
            ("\"name\":null", NAME),
            ("\"sequence\":-1", SEQUENCE),
            ("\"sequence\":1.5", SEQUENCE),
            ("\"sequence\":\"1\"", SEQUENCE),
            ("\"sequence\":9007199254740992", SEQUENCE),
            ("\"min_sequence\":[]", MIN_SEQUENCE),
            ("\"redact\":\"params.a\"", REDACT),
            ("\"redact\":[1]", REDACT),
            ("\"redact\":[\"input.a\"]", REDACT),
            ("\"redact\":[\"params..a\"]", REDACT),
            ("\"required_runtime_version\":1", RUNTIME),
        ] {
            match read(&format!(",{rest}")).unwrap_err() {
                Refusal::Field { field: found, .. } => assert_eq!(found, field),
                other => panic!("{rest}: {other}"),
            }
        }
        let name = "a".repeat(65);
        let message = read(&format!(",\"name\":\"{name}\"")).unwrap_err().to_string();
        assert!(message.contains("name must be 1 to 64 of a-z 0-9 . _ -, is \"aaa"), "{message}");
        assert!(read(&format!(",\"name\":\"{}\"", "a".repeat(64))).is_ok());
        assert!(read(",\"sequence\":9007199254740991,\"min_sequence\":9007199254740991").is_ok());
    }

    #[test]
    fn the_required_fields_are_required() {
        let missing = |text: &str| Manifest::read(text.as_bytes()).unwrap_err();
        assert_eq!(missing("{}"), Refusal::MissingField { field: VERSION });
        assert_eq!(missing("{\"policy_bundle_version\":\"1.0.0\"}"), Refusal::MissingField { field: HASH });
        assert!(matches!(missing("[]"), Refusal::NotAnObject { found: "array", .. }));
        assert!(matches!(missing("{\"policy_bundle_version\":\"1.0\"}"), Refusal::Version { field: VERSION, .. }));
        for hash in [DIGITS, "sha256:", "SHA256:0", &format!("sha256:{}", DIGITS.to_uppercase()), "blake3:00"] {
            let text = format!("{{\"policy_bundle_version\":\"1.0.0\",\"bundle_hash\":\"{hash}\"}}");
            assert!(matches!(missing(&text), Refusal::Field { field: HASH, .. }), "{hash}");
        }
    }

    #[test]
    fn a_range_without_an_operator_is_refused() {
        let refusal = read(",\"required_runtime_version\":\"0.1.0\"").unwrap_err();
        assert!(matches!(refusal, Refusal::Version { field: RUNTIME, .. }));
    }

    #[test]
    fn a_floor_above_the_own_sequence_is_refused() {
        assert_eq!(
            read(",\"sequence\":3,\"min_sequence\":4").unwrap_err(),
            Refusal::Floor { sequence: 3, min_sequence: 4 }
        );
        assert!(read(",\"sequence\":3,\"min_sequence\":3").is_ok());
    }
}
