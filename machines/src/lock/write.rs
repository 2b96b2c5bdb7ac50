//! From a lock to its texts. One list of fields, in the order of the specification, is the source of both.

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;

use super::{Lock, SCHEMA};
use crate::ids::Hash32;
use crate::json::{Value, escape_into, push_u64};

/// The names of the schema.
pub(super) mod names {
    pub const SCHEMA_VERSION: &str = "schema_version";
    pub const NAME: &str = "name";
    pub const VERSION: &str = "version";
    pub const SEQUENCE: &str = "sequence";
    pub const CHANNELS: &str = "channels";
    pub const AGENT_ARTIFACT: &str = "agent_artifact";
    pub const POLICY_BUNDLE: &str = "policy_bundle";
    pub const REF: &str = "ref";
    pub const DIGEST: &str = "digest";
    pub const RUNTIME: &str = "runtime";
    pub const REQUIRED_VERSION: &str = "required_version";
    pub const INPUTS: &str = "inputs";
    pub const PROMPT_HASH: &str = "prompt_hash";
    pub const TOOL_INPUTS_HASH: &str = "tool_inputs_hash";
    pub const FINGERPRINT: &str = "behavioral_fingerprint";

    pub const TOP: [&str; 10] = [
        SCHEMA_VERSION,
        NAME,
        VERSION,
        SEQUENCE,
        CHANNELS,
        AGENT_ARTIFACT,
        POLICY_BUNDLE,
        RUNTIME,
        INPUTS,
        FINGERPRINT,
    ];
    pub const AGENT: [&str; 2] = [REF, DIGEST];
    pub const POLICY: [&str; 3] = [REF, DIGEST, VERSION];
    pub const RUNTIME_FIELDS: [&str; 1] = [REQUIRED_VERSION];
    pub const INPUT_FIELDS: [&str; 2] = [PROMPT_HASH, TOOL_INPUTS_HASH];
}

/// A part of a lock, its fields in order.
pub(super) enum Node {
    Text(String),
    Number(u64),
    List(Vec<Node>),
    Object(Fields),
}

type Fields = Vec<(&'static str, Node)>;

/// Every field but the fingerprint; what is absent is not listed.
pub(super) fn fields(lock: &Lock) -> Fields {
    let text = |text: &dyn fmt::Display| Node::Text(text.to_string());
    let (agent, policy) = (&lock.agent_artifact, &lock.policy_bundle);
    let agent = [(names::REF, text(&agent.reference)), (names::DIGEST, text(&agent.digest))];
    let policy = [
        (names::REF, text(&policy.reference)),
        (names::DIGEST, text(&policy.digest)),
        (names::VERSION, text(&policy.version)),
    ];
    let mut fields = Vec::from([
        (names::SCHEMA_VERSION, Node::Number(SCHEMA)),
        (names::NAME, text(&lock.name)),
        (names::VERSION, text(&lock.version)),
        (names::SEQUENCE, Node::Number(lock.sequence)),
    ]);
    if !lock.channels.is_empty() {
        fields.push((names::CHANNELS, Node::List(lock.channels.iter().map(|channel| text(channel)).collect())));
    }
    fields.push((names::AGENT_ARTIFACT, Node::Object(agent.into())));
    fields.push((names::POLICY_BUNDLE, Node::Object(policy.into())));
    fields.push((names::RUNTIME, Node::Object([(names::REQUIRED_VERSION, text(&lock.runtime))].into())));
    let hashes = [(names::PROMPT_HASH, lock.inputs.prompt), (names::TOOL_INPUTS_HASH, lock.inputs.tool_inputs)];
    let inputs: Fields = hashes.iter().filter_map(|(name, hash)| Some((*name, text(hash.as_ref()?)))).collect();
    if !inputs.is_empty() {
        fields.push((names::INPUTS, Node::Object(inputs)));
    }
    fields
}

/// The fields as a value, for the canonical form.
pub(super) fn value(fields: &Fields) -> Value {
    Value::Object(fields.iter().map(|(name, node)| (String::from(*name), node.value())).collect())
}

/// The whole lock as a file for people.
pub(super) fn file(lock: &Lock) -> String {
    let mut fields = fields(lock);
    fields.push((names::FINGERPRINT, Node::Text(fingerprint(&lock.fingerprint))));
    let mut out = String::new();
    Node::Object(fields).write(1, &mut out);
    out.push('\n');
    out
}

fn fingerprint(hash: &Hash32) -> String {
    alloc::format!("blake3:{hash}")
}

impl Node {
    fn value(&self) -> Value {
        match self {
            Self::Text(text) => Value::from(text.as_str()),
            Self::Number(n) => Value::from(*n),
            Self::List(items) => Value::Array(items.iter().map(Self::value).collect()),
            Self::Object(fields) => value(fields),
        }
    }

    /// Appends the text; what it holds is indented `depth` times.
    fn write(&self, depth: usize, out: &mut String) {
        match self {
            Self::Text(text) => escape_into(text, out),
            Self::Number(n) => push_u64(out, *n),
            Self::List(items) => block(('[', ']'), items, depth, out, |item, out| {
                item.write(depth.saturating_add(1), out);
            }),
            Self::Object(fields) => block(('{', '}'), fields, depth, out, |(name, node), out| {
                escape_into(name, out);
                out.push_str(": ");
                node.write(depth.saturating_add(1), out);
            }),
        }
    }
}

/// Items one to a line between brackets. There is at least one: nothing empty is written.
fn block<T>((open, close): (char, char), items: &[T], depth: usize, out: &mut String, put: impl Fn(&T, &mut String)) {
    let indent = |depth: usize, out: &mut String| {
        out.push('\n');
        out.extend(core::iter::repeat_n("  ", depth));
    };
    out.push(open);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        indent(depth, out);
        put(item, out);
    }
    indent(depth.saturating_sub(1), out);
    out.push(close);
}
