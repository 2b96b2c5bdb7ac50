//! What policy judges (SPEC 3): `{"kind":…,"params":…,"node":{"id":…},"agent":…}`.

use alloc::collections::BTreeMap;
use alloc::string::String;

use crate::json::{Value, escape_into};

/// The input of one evaluation, by reference: an engine builds its own values from the parts.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The tool's name.
    pub kind: &'a str,
    /// The parameters: the very value that the tool gets.
    pub params: &'a Value,
    /// This node's id.
    pub node_id: &'a str,
    /// Whom the caller claims to be; absent from the input when the caller claims nothing.
    pub agent: Option<&'a str>,
}

impl Input<'_> {
    /// Appends the input as compact JSON.
    pub fn write(&self, out: &mut String) {
        out.push('{');
        if let Some(agent) = self.agent {
            out.push_str("\"agent\":");
            escape_into(agent, out);
            out.push(',');
        }
        out.push_str("\"kind\":");
        escape_into(self.kind, out);
        out.push_str(",\"node\":{\"id\":");
        escape_into(self.node_id, out);
        out.push_str("},\"params\":");
        self.params.write(out);
        out.push('}');
    }

    /// The input as a value of its own; copies the parameters.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let node = BTreeMap::from([(String::from("id"), Value::from(self.node_id))]);
        let mut members = BTreeMap::from([
            (String::from("kind"), Value::from(self.kind)),
            (String::from("node"), Value::Object(node)),
            (String::from("params"), self.params.clone()),
        ]);
        if let Some(agent) = self.agent {
            members.insert(String::from("agent"), Value::from(agent));
        }
        Value::Object(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::tests::any_value;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_and_value_say_the_same(
            kind in "[a-z0-9._-]{1,64}", params in any_value(), node in any::<String>(), agent in prop::option::of(any::<String>()),
        ) {
            let input = Input { kind: &kind, params: &params, node_id: &node, agent: agent.as_deref() };
            let mut text = String::new();
            input.write(&mut text);
            prop_assert_eq!(&text, &input.to_value().to_text());
            let value = input.to_value();
            prop_assert_eq!(value.get("params"), Some(&params));
            prop_assert_eq!(value.get("agent").and_then(Value::as_str), agent.as_deref());
            prop_assert_eq!(value.get("node").and_then(|n| n.get("id")).and_then(Value::as_str), Some(node.as_str()));
        }
    }
}
