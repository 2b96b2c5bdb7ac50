//! Values of the project and values of the engine.
//!
//! Numbers keep their value exactly: both models hold 64-bit integers, and fractions as f64 (FAULTS P13).

use std::collections::BTreeMap;

use machines::json::{Number, NumberKind, Value};
use machines::policy::input::Input;

/// Most values of one result.
const MAX_RESULT: u32 = 100_000;
/// Deepest result.
const MAX_DEPTH: u32 = 128;

/// The input of a decision (SPEC 3), built from its parts.
pub(crate) fn input(input: &Input<'_>) -> regorus::Value {
    let mut members = BTreeMap::from([
        (regorus::Value::from("kind"), regorus::Value::from(input.kind)),
        (
            regorus::Value::from("node"),
            object(BTreeMap::from([(regorus::Value::from("id"), regorus::Value::from(input.node_id))])),
        ),
        (regorus::Value::from("params"), to_engine(input.params)),
    ]);
    if let Some(agent) = input.agent {
        members.insert(regorus::Value::from("agent"), regorus::Value::from(agent));
    }
    object(members)
}

fn object(members: BTreeMap<regorus::Value, regorus::Value>) -> regorus::Value {
    regorus::Value::from(members)
}

/// A value for the engine. Recurses once per level; values are at most 64 deep.
pub(crate) fn to_engine(value: &Value) -> regorus::Value {
    match value {
        Value::Null => regorus::Value::Null,
        Value::Bool(b) => regorus::Value::from(*b),
        Value::Number(n) => match n.kind() {
            NumberKind::Unsigned(n) => regorus::Value::from(n),
            NumberKind::Negative(n) => regorus::Value::from(n),
            NumberKind::Fraction(x) => regorus::Value::from(x),
        },
        Value::String(text) => regorus::Value::from(text.as_str()),
        Value::Array(items) => regorus::Value::from(items.iter().map(to_engine).collect::<Vec<_>>()),
        Value::Object(members) => {
            object(members.iter().map(|(key, value)| (regorus::Value::from(key.as_str()), to_engine(value))).collect())
        }
    }
}

/// A result of the engine; `None` when it is undefined. A set becomes an array in the engine's order; an object
/// key that is no string becomes its JSON text, as OPA writes it.
///
/// # Errors
/// What is wrong with the result: it is too large, or holds a number outside the number model.
pub(crate) fn from_engine(value: &regorus::Value) -> Result<Option<Value>, &'static str> {
    if matches!(value, regorus::Value::Undefined) {
        return Ok(None);
    }
    convert(value, &mut MAX_RESULT.clone(), MAX_DEPTH).map(Some)
}

fn convert(value: &regorus::Value, left: &mut u32, depth: u32) -> Result<Value, &'static str> {
    // An engine value may share its parts and be far larger written out than in memory.
    *left = left.checked_sub(1).ok_or("the result is too large")?;
    let depth = depth.checked_sub(1).ok_or("the result is nested too deep")?;
    Ok(match value {
        regorus::Value::Null => Value::Null,
        regorus::Value::Bool(b) => Value::Bool(*b),
        regorus::Value::Number(_) => Value::Number(number(value).ok_or("the result has a number beyond 64 bits")?),
        regorus::Value::String(text) => Value::String(text.as_ref().to_owned()),
        regorus::Value::Array(items) => {
            Value::Array(items.iter().map(|item| convert(item, left, depth)).collect::<Result<_, _>>()?)
        }
        regorus::Value::Set(items) => {
            Value::Array(items.iter_sorted().map(|item| convert(item, left, depth)).collect::<Result<_, _>>()?)
        }
        regorus::Value::Object(members) => {
            let mut out = BTreeMap::new();
            for (key, member) in members.iter_sorted() {
                let key = match convert(key, left, depth)? {
                    Value::String(text) => text,
                    other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                        other.to_text()
                    }
                };
                out.insert(key, convert(member, left, depth)?);
            }
            Value::Object(out)
        }
        regorus::Value::Undefined => return Err("the result has an undefined part"),
    })
}

fn number(value: &regorus::Value) -> Option<Number> {
    if let Ok(n) = value.as_u64() {
        return Some(Number::from(n));
    }
    if let Ok(n) = value.as_i64() {
        return Some(Number::from(n));
    }
    Number::from_f64(value.as_f64().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use machines::json::{Limits, parse};

    fn ours(text: &str) -> Value {
        parse(text.as_bytes(), &Limits::bytes(1 << 20)).expect("valid")
    }

    #[test]
    fn p13_numbers_go_there_and_back_exactly() {
        for text in [
            "0",
            "-1",
            "1",
            "1.5",
            "-0.1",
            "9007199254740992",
            "9007199254740993",
            "18446744073709551615",
            "-9223372036854775808",
            "9223372036854775808",
            "5e-324",
            "1e-7",
        ] {
            let value = ours(text);
            assert_eq!(from_engine(&to_engine(&value)), Ok(Some(value)), "{text}");
        }
        assert_eq!(to_engine(&ours("1.0")), regorus::Value::from(1_u64));
        assert_eq!(to_engine(&ours("-0")), regorus::Value::from(0_u64));
        assert_eq!(from_engine(&regorus::Value::from(u128::MAX)), Err("the result has a number beyond 64 bits"));
    }

    #[test]
    fn sets_become_sorted_arrays_and_keys_become_text() {
        let set = regorus::Value::from_json_str("[3,1,2]").expect("json");
        let set = regorus::Value::from(
            set.as_array().expect("array").iter().cloned().collect::<std::collections::BTreeSet<_>>(),
        );
        assert_eq!(from_engine(&set), Ok(Some(ours("[1,2,3]"))));
        let keyed = object(BTreeMap::from([(regorus::Value::from(1_u64), set)]));
        assert_eq!(from_engine(&keyed), Ok(Some(ours(r#"{"1":[1,2,3]}"#))));
        assert_eq!(from_engine(&regorus::Value::Undefined), Ok(None));
    }

    #[test]
    fn a_result_that_shares_its_parts_is_not_written_out() {
        let mut value = regorus::Value::from(1_u64);
        for _ in 0..60 {
            value = regorus::Value::from(vec![value.clone(), value]);
        }
        assert_eq!(from_engine(&value), Err("the result is too large"));
        let mut value = regorus::Value::from(1_u64);
        for _ in 0..200 {
            value = regorus::Value::from(vec![value]);
        }
        assert_eq!(from_engine(&value), Err("the result is nested too deep"));
    }
}
