//! Values of OTLP as JSON.

use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use serde_json::Value;

/// The text of a value that is text.
pub fn text(value: &AnyValue) -> Option<&str> {
    match value.value.as_ref()? {
        Any::StringValue(text) => Some(text),
        Any::BoolValue(_)
        | Any::IntValue(_)
        | Any::DoubleValue(_)
        | Any::ArrayValue(_)
        | Any::KvlistValue(_)
        | Any::BytesValue(_)
        | Any::StringValueStrindex(_) => None,
    }
}

/// A value as JSON: bytes as hex; a number that JSON does not have, and an index into a table of profiles, as null.
/// Depth is bounded by the decoders of both encodings.
pub fn json(value: AnyValue) -> Value {
    match value.value {
        None | Some(Any::StringValueStrindex(_)) => Value::Null,
        Some(Any::StringValue(text)) => Value::String(text),
        Some(Any::BoolValue(value)) => Value::Bool(value),
        Some(Any::IntValue(number)) => Value::from(number),
        Some(Any::DoubleValue(number)) => Value::from(number),
        Some(Any::ArrayValue(list)) => Value::Array(list.values.into_iter().map(json).collect()),
        Some(Any::KvlistValue(list)) => Value::Object(
            list.values.into_iter().map(|pair| (pair.key, pair.value.map_or(Value::Null, json))).collect(),
        ),
        Some(Any::BytesValue(bytes)) => Value::String(super::hex(&bytes)),
    }
}
