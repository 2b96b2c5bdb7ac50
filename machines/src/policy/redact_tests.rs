use super::*;
use crate::json::tests::any_value;
use crate::json::{self, Limits};
use proptest::prelude::*;
use std::format;
use std::string::ToString;

fn value(text: &str) -> Value {
    json::parse(text.as_bytes(), &Limits::default()).unwrap()
}

fn paths(texts: &[&str]) -> Vec<Path> {
    texts.iter().map(|text| Path::parse(text).unwrap()).collect()
}

fn capped(value: &Value) -> String {
    let mut out = String::from("before");
    write_capped(value, &mut out);
    out.strip_prefix("before").unwrap().to_string()
}

fn digest(text: &str) -> String {
    format!("{{\"blake3\":\"blake3:{}\",\"bytes\":{}}}", blake3::hash(text.as_bytes()).to_hex(), text.len())
}

#[test]
fn paths_start_in_params_or_output_and_have_no_empty_name() {
    for text in ["params", "output", "params.a", "output.a.*.b", "params.é-1 x", "params.*"] {
        assert_eq!(Path::parse(text).unwrap().as_str(), text);
    }
    for text in
        ["", "a", "input.a", "Params.a", "params.", "params..a", ".params", "params.a.", " params", "params.a\n"]
    {
        assert_eq!(Path::parse(text), None, "{text:?}");
    }
    assert!(Path::parse(&format!("params.{}", "a".repeat(249))).is_some());
    assert!(Path::parse(&format!("params.{}", "a".repeat(250))).is_none());
}

#[test]
fn what_paths_reach_is_masked_and_named() {
    let input = value(r#"{"a":{"b":1,"c":[{"d":1},{"d":{"e":2}},3]},"password":"x","*":0}"#);
    for (texts, masked, hits) in [
        (
            &["params.password"][..],
            r#"{"*":0,"a":{"b":1,"c":[{"d":1},{"d":{"e":2}},3]},"password":"***"}"#,
            &["params.password"][..],
        ),
        (
            &["params.a.c.*.d"],
            r#"{"*":0,"a":{"b":1,"c":[{"d":"***"},{"d":"***"},3]},"password":"x"}"#,
            &["params.a.c.*.d"],
        ),
        (&["params.a.*"], r#"{"*":0,"a":{"b":"***","c":"***"},"password":"x"}"#, &["params.a.*"]),
        (
            &["params.*.c.*.d.e"],
            r#"{"*":0,"a":{"b":1,"c":[{"d":1},{"d":{"e":"***"}},3]},"password":"x"}"#,
            &["params.*.c.*.d.e"],
        ),
        (&["params.a.b", "params.a", "output.a"], r#"{"*":0,"a":"***","password":"x"}"#, &["params.a.b", "params.a"]),
        (&["params.a", "params.a.b"], r#"{"*":0,"a":"***","password":"x"}"#, &["params.a", "params.a.b"]),
        (&["params"], r#""***""#, &["params"]),
    ] {
        let paths = paths(texts);
        let (found, reached) = mask(&input, Root::Params, &paths);
        assert_eq!(found.to_text(), masked, "{texts:?}");
        assert_eq!(reached, hits);
    }
}

#[test]
fn paths_that_reach_nothing_copy_nothing() {
    let input = value(r#"{"a":[1],"b":"x"}"#);
    let paths = paths(&["params.c", "params.a.0", "params.b.x", "params.B", "output.a", "params.a.*.x"]);
    let (found, reached) = mask(&input, Root::Params, &paths);
    assert!(matches!(found, Cow::Borrowed(_)) && reached.is_empty());
    let (found, reached) = mask(&input, Root::Output, &paths);
    assert_eq!((found.to_text().as_str(), reached), (r#"{"a":"***","b":"x"}"#, std::vec!["output.a"]));
}

#[test]
fn small_values_are_written_as_they_are() {
    let text = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_VALUE - 8));
    assert_eq!(text.len(), MAX_VALUE);
    assert_eq!(capped(&value(&text)), text);
}

#[test]
fn large_values_are_replaced_where_they_are() {
    let long = "é\n".repeat(1500);
    let string = Value::from(long.as_str());
    let text = string.to_text();
    assert!(text.len() > MAX_VALUE);
    assert_eq!(capped(&string), digest(&text));
    let object = Value::Object([("a".to_string(), Value::from(1_u64)), ("b".to_string(), string.clone())].into());
    assert_eq!(capped(&object), format!("{{\"a\":1,\"b\":{}}}", digest(&text)));
    let twice = Value::Array(std::vec![string.clone(), Value::Null, string]);
    assert_eq!(capped(&twice), format!("[{0},null,{0}]", digest(&text)));
}

#[test]
fn a_parent_is_measured_again_and_hashed_as_it_was() {
    let long = format!("\"{}\"", "x".repeat(5000));
    let many = format!("[{}{long}]", "1234567890,".repeat(380));
    assert!(many.len() - long.len() > MAX_VALUE, "still too long without the string");
    assert_eq!(capped(&value(&many)), digest(&many));
    let outer = format!("{{\"m\":{many},\"n\":{long}}}");
    assert_eq!(capped(&value(&outer)), format!("{{\"m\":{},\"n\":{}}}", digest(&many), digest(&long)));
    let key = format!("{{\"{}\":1}}", "k".repeat(5000));
    assert_eq!(capped(&value(&format!("[{key}]"))), format!("[{}]", digest(&key)));
}

#[test]
fn deep_values_do_not_cost_more_than_they_are() {
    let mut nested = Value::from("x".repeat(1 << 19).as_str());
    for _ in 0..63 {
        nested = Value::Array(std::vec![Value::from("y".repeat(4090).as_str()), nested]);
    }
    assert!(capped(&nested).len() <= MAX_VALUE);
}

#[test]
fn digests_are_of_the_compact_text_whatever_its_size() {
    let mut out = String::new();
    write_digest(&value(" { \"b\" : 1 , \"a\" : [ ] } "), &mut out);
    assert_eq!(out, digest(r#"{"a":[],"b":1}"#));
}

/// The rule of SPEC 4 word for word, slowly: children first, then the parent as it then is.
fn model(value: &Value) -> Value {
    let inner = match value {
        Value::Array(items) => Value::Array(items.iter().map(model).collect()),
        Value::Object(members) => Value::Object(members.iter().map(|(k, v)| (k.clone(), model(v))).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    };
    if inner.to_text().len() > MAX_VALUE { self::value(&digest(&value.to_text())) } else { inner }
}

fn large() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        3 => any_value(),
        2 => (500_usize..6000).prop_map(|len| Value::from("\u{1}é".repeat(len / 8).as_str())),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::btree_map("[a-c]|\\PC{0,30}", inner, 0..5).prop_map(Value::Object),
        ]
    })
}

proptest! {
    #[test]
    fn the_cap_agrees_with_its_model(value in large()) {
        let text = capped(&value);
        prop_assert!(text.len() <= MAX_VALUE);
        prop_assert_eq!(&text, &model(&value).to_text());
    }

    #[test]
    fn nothing_that_a_path_reaches_is_left(value in any_value(), names in prop::collection::vec("[a-c*]", 0..4)) {
        let text = ["params".to_string()].into_iter().chain(names).collect::<Vec<_>>().join(".");
        let paths = paths(&[&text]);
        let (masked, hits) = mask(&value, Root::Params, &paths);
        prop_assert_eq!(hits.is_empty(), matches!(masked, Cow::Borrowed(_)));
        let (again, _) = mask(&masked, Root::Params, &paths);
        prop_assert_eq!(again.as_ref(), masked.as_ref(), "a second pass finds only masks");
    }
}
