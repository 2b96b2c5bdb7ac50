//! From a canonical document to a lock: a closed schema, every name compared exactly.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::write::names;
use super::{
    AgentArtifact, InputHash, Inputs, Lock, MAX_CHANNELS, MAX_REFERENCE, MAX_SEQUENCE, PolicyBundle, Refusal, Runtime,
    SCHEMA,
};
use crate::ids::Hash32;
use crate::json::Value;
use crate::oci::Digest;
use crate::semver::{self, Version};

const OBJECT: &str = "an object";
const STRING: &str = "a string";
const NAME: &str = "1 to 64 of a-z 0-9 . _ -";
const CHANNELS: &str =
    "a list of 1 to 16 different names, each 1 to 64 of a-z 0-9 . _ - (leave the field out for every channel)";
const INPUTS: &str = "an object with prompt_hash or tool_inputs_hash or both (leave the field out for neither)";
const REFERENCE: &str = "1 to 255 printable ASCII characters without spaces, like registry/name:tag";
const SHA256: &str = "\"sha256:\" and 64 lower-case hex digits";
const BLAKE3: &str = "\"blake3:\" and 64 lower-case hex digits";
const EITHER: &str = "\"sha256:\" or \"blake3:\" and 64 lower-case hex digits";
const VERSION: &str = "a version like 1.2.3";
const RANGE: &str = "constraints like >=1.0.0 <2.0.0";

pub(super) fn lock(document: Value) -> Result<Lock, Refusal> {
    let mut top = Fields::open(document, "", &names::TOP)?;
    // First, so that a lock of a later schema is called that and not full of unknown fields.
    top.need(names::SCHEMA_VERSION, "0, the schema that this release reads", |v| v.as_u64().filter(|n| *n == SCHEMA))?;
    top.closed()?;
    Ok(Lock {
        name: top.need(names::NAME, NAME, name)?,
        version: top.version(names::VERSION)?,
        sequence: top
            .need(names::SEQUENCE, "an integer from 0 to 2^53-1", |v| v.as_u64().filter(|n| *n <= MAX_SEQUENCE))?,
        channels: top.take(names::CHANNELS, CHANNELS, channels)?.unwrap_or_default(),
        agent_artifact: {
            let mut agent = top.object(names::AGENT_ARTIFACT, &names::AGENT)?;
            AgentArtifact { reference: agent.reference()?, digest: agent.need(names::DIGEST, SHA256, digest)? }
        },
        policy_bundle: {
            let mut policy = top.object(names::POLICY_BUNDLE, &names::POLICY)?;
            PolicyBundle {
                reference: policy.reference()?,
                digest: policy.need(names::DIGEST, SHA256, digest)?,
                version: policy.version(names::VERSION)?,
            }
        },
        runtime: top.object(names::RUNTIME, &names::RUNTIME_FIELDS)?.semver(
            names::REQUIRED_VERSION,
            RANGE,
            Runtime::parse,
        )?,
        inputs: inputs(&mut top)?,
        fingerprint: top.need(names::FINGERPRINT, BLAKE3, |value| {
            Hash32::parse_hex(value.as_str()?.strip_prefix("blake3:")?.as_bytes())
        })?,
    })
}

fn inputs(top: &mut Fields) -> Result<Inputs, Refusal> {
    let empty = |value: &Value| value.as_object().is_none_or(BTreeMap::is_empty);
    let Some(given) = top.take(names::INPUTS, INPUTS, |value| (!empty(value)).then(|| value.clone()))? else {
        return Ok(Inputs::default());
    };
    let mut inputs = Fields::open(given, names::INPUTS, &names::INPUT_FIELDS)?;
    inputs.closed()?;
    let hash = |value: &Value| InputHash::parse(value.as_str()?);
    Ok(Inputs {
        prompt: inputs.take(names::PROMPT_HASH, EITHER, hash)?,
        tool_inputs: inputs.take(names::TOOL_INPUTS_HASH, EITHER, hash)?,
    })
}

/// A name, written like that of a policy bundle.
fn name(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    ((1..=64).contains(&text.len()) && text.bytes().all(allowed)).then(|| String::from(text))
}

fn channels(value: &Value) -> Option<Vec<String>> {
    let items = value.as_array().filter(|items| (1..=MAX_CHANNELS).contains(&items.len()))?;
    let mut found: Vec<String> = Vec::with_capacity(items.len());
    for item in items {
        let channel = name(item)?;
        if found.contains(&channel) {
            return None;
        }
        found.push(channel);
    }
    Some(found)
}

fn digest(value: &Value) -> Option<Digest> {
    Digest::parse(value.as_str()?).ok()
}

/// The fields of one object that were not yet taken.
struct Fields {
    /// The object's name; empty for the lock itself.
    within: &'static str,
    known: &'static [&'static str],
    members: BTreeMap<String, Value>,
}

impl Fields {
    fn open(value: Value, within: &'static str, known: &'static [&'static str]) -> Result<Self, Refusal> {
        match value.into_object() {
            Ok(members) => Ok(Self { within, known, members }),
            Err(other) => {
                let field = if within.is_empty() { "the document" } else { within };
                Err(Refusal::NotAnObject { field: field.into(), found: other.kind() })
            }
        }
    }

    /// Refuses members that are none of the known fields.
    fn closed(&self) -> Result<(), Refusal> {
        match self.members.keys().find(|key| !self.known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(Refusal::UnknownField {
                field: alloc::format!("{:?}", key.chars().take(64).collect::<String>()),
                within: if self.within.is_empty() { "the lock" } else { self.within },
                known: self.known.join(", "),
            }),
        }
    }

    fn path(&self, key: &str) -> String {
        if self.within.is_empty() { key.into() } else { alloc::format!("{}.{key}", self.within) }
    }

    fn take<T>(
        &mut self,
        key: &'static str,
        must: &'static str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let Some(value) = self.members.remove(key) else { return Ok(None) };
        match read(&value) {
            Some(found) => Ok(Some(found)),
            None => Err(Refusal::Field { field: self.path(key), must, found: excerpt(&value) }),
        }
    }

    fn need<T>(
        &mut self,
        key: &'static str,
        must: &'static str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T, Refusal> {
        self.take(key, must, read)?.ok_or_else(|| Refusal::MissingField { field: self.path(key), must })
    }

    fn object(&mut self, key: &'static str, known: &'static [&'static str]) -> Result<Self, Refusal> {
        let value = self.need(key, OBJECT, |value| Some(value.clone()))?;
        let object = Self::open(value, key, known)?;
        object.closed()?;
        Ok(object)
    }

    /// A string that `parse` makes something of.
    fn semver<T>(
        &mut self,
        key: &'static str,
        must: &'static str,
        parse: impl FnOnce(&str) -> Result<T, semver::Refusal>,
    ) -> Result<T, Refusal> {
        if !self.members.contains_key(key) {
            return Err(Refusal::MissingField { field: self.path(key), must });
        }
        let text = self.need(key, STRING, |value| value.as_str().map(String::from))?;
        parse(&text).map_err(|cause| Refusal::Version { field: self.path(key), cause })
    }

    fn version(&mut self, key: &'static str) -> Result<Version, Refusal> {
        self.semver(key, VERSION, Version::parse)
    }

    /// Kept as written: it tells people where the thing was. Which one it is, the digest beside it says.
    fn reference(&mut self) -> Result<String, Refusal> {
        self.need(names::REF, REFERENCE, |value| {
            let text = value.as_str()?;
            let plain = (1..=MAX_REFERENCE).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
            plain.then(|| String::from(text))
        })
    }
}

/// A value for a message, short and harmless on a terminal.
fn excerpt(value: &Value) -> String {
    let mut cut = String::new();
    for (n, c) in value.to_text().chars().enumerate() {
        if n == 80 {
            cut.push('…');
            break;
        }
        if c == '"' || c == '\'' || c == '\\' {
            cut.push(c);
        } else {
            cut.extend(c.escape_debug());
        }
    }
    cut
}
