//! What comes out of an evaluation, and what is decided from it.
#![allow(clippy::unwrap_used)]

mod common;

use common::{allow, judge, policy, value};
use machines::json::Value;
use machines::policy::verdict::{Evaluation, EvaluationFault, Verdict, decide};

fn verdict(text: &str, params: &str) -> Verdict {
    decide(judge(&policy(text), "tool.echo", &value(params)).as_ref())
}

fn deny(reason: &str) -> Verdict {
    Verdict::Deny(reason.to_owned())
}

/// An error at any place of a policy is the whole decision's error; nothing beside it makes it an allow.
#[test]
fn p02_an_error_never_permits() {
    let errors = [
        "upper(input.params.n) == \"X\"",
        "1 / input.params.zero == 1",
        "input.params.s + 1 == 2",
        "to_number(\"x\") == 1",
        "conflict == 1",
        "regex.match(input.params.open, \"x\")",
        "json.unmarshal(input.params.s) == 1",
        "f(1) == 1",
        "count(input.params.n) == 1",
        "{k: v | some k in [1]; some v in [1, 2]} == {}",
    ];
    let helpers = "conflict := 1 if true\nconflict := 2 if true\nf(x) := 1 if x > 0\nf(x) := 2 if x < 2\n";
    let params = r#"{"n":5,"zero":0,"s":"str","open":"("}"#;
    for error in errors {
        for rules in [
            format!("allow if {error}"),
            format!("allow if not {error}"),
            format!("allow := true\ndeny contains \"no\" if {error}"),
            format!("allow := true\ndeny contains \"no\" if not {error}"),
            format!("allow := true\ndeny contains \"no\" if {{ some x in [1]; {error} }}"),
            format!("allow := true\ndeny contains x if {{ x := [1 | {error}] }}"),
            format!("default allow := true\nallow := false if {error}"),
            format!("allow if helper\nhelper if {error}"),
            format!("allow if not helper\nhelper if {error}"),
            format!("allow if g(1)\ng(x) if {{ x == 1; {error} }}\ng(x) if x == 1"),
            format!("allow if {{ every x in [1] {{ {error} }} }}"),
            format!("allow if false\nelse if {error}"),
        ] {
            let text = format!("package autonomy\n{helpers}{rules}");
            let judged = judge(&policy(&text), "k", &value(params));
            assert!(matches!(judged, Err(EvaluationFault::Error(_))), "{judged:?}\n{rules}");
            assert_eq!(decide(judged.as_ref()), deny("evaluator_error"), "{rules}");
        }
    }
}

#[test]
fn p03_deny_comes_beside_allow() {
    for (rules, expected) in [
        ("allow := true", Verdict::Allow),
        ("allow := true\ndeny contains x if some x in []", Verdict::Allow),
        ("allow := true\ndeny contains \"b\"\ndeny contains \"a\"", deny("a; b")),
        ("allow := false\ndeny contains \"a\"", deny("a")),
        ("deny contains \"a\" if false", deny("no_match")),
        ("allow if input.params.x == 2", deny("no_match")),
        ("allow if input.params.x == 1", Verdict::Allow),
        (
            "allow if input.kind == \"tool.echo\"\ndeny contains msg if { input.params.x == 1; msg := sprintf(\"x is %d\", [input.params.x]) }",
            deny("x is 1"),
        ),
    ] {
        assert_eq!(verdict(&format!("package autonomy\n{rules}"), r#"{"x":1}"#), expected, "{rules}");
    }
}

#[test]
fn p04_values_of_other_types_come_as_they_are() {
    for (rule, expected) in [
        ("allow := \"true\"", "\"true\""),
        ("allow := 1", "1"),
        ("allow := {}", "{}"),
        ("allow := [true]", "[true]"),
        ("allow := null", "null"),
        ("allow := {true}", "[true]"),
        ("allow contains true", "[true]"),
        ("allow := 0.5", "0.5"),
        ("allow[x] := 1 if some x in [\"a\"]", r#"{"a":1}"#),
    ] {
        let text = format!("package autonomy\n{rule}");
        assert_eq!(allow(&text, "{}"), Ok(Some(value(expected))), "{rule}");
        assert_eq!(verdict(&text, "{}"), deny("type_error"), "{rule}");
    }
    for rule in [
        "deny := \"x\"",
        "deny := true",
        "deny contains 1",
        "deny[\"x\"] := 1 if true",
        "deny := 1",
        "deny := [[\"a\"]]",
    ] {
        let Ok(policy) =
            io_policy::compile(&common::one(&format!("package autonomy\nallow := true\n{rule}")), &Default::default())
        else {
            continue;
        };
        assert_eq!(decide(judge(&policy, "k", &value("{}")).as_ref()), deny("type_error"), "{rule}");
    }
}

#[test]
fn p13_numbers_are_equal_by_value() {
    for (text, found, expected) in [
        ("input.params.x == 1", r#"{"x":1.0}"#, true),
        ("input.params.x == 1.0", r#"{"x":1}"#, true),
        ("input.params.x == 0", r#"{"x":-0}"#, true),
        ("input.params.x == 9007199254740993", r#"{"x":9007199254740993}"#, true),
        ("input.params.x == 9007199254740992", r#"{"x":9007199254740993}"#, false),
        ("input.params.x == 18446744073709551615", r#"{"x":18446744073709551615}"#, true),
        ("input.params.x + 1 == 18446744073709551616", r#"{"x":18446744073709551615}"#, true),
        ("input.params.x - 1 == -9223372036854775809", r#"{"x":-9223372036854775808}"#, true),
        ("input.params.x == 0.1", r#"{"x":0.1}"#, true),
        ("input.params.x == 100", r#"{"x":1e2}"#, true),
        ("input.params.x in {1, 2}", r#"{"x":2.0}"#, true),
    ] {
        let expected = if expected { Some(Value::Bool(true)) } else { None };
        assert_eq!(allow(&format!("package autonomy\nallow if {text}"), found), Ok(expected), "{text} {found}");
    }
}

#[test]
fn p23_no_rule_that_matches_is_undefined() {
    let judged =
        judge(&policy("package autonomy\nallow if input.kind == \"a\"\ndeny contains 1 if false"), "b", &value("{}"));
    assert_eq!(judged, Ok(Evaluation { allow: None, deny: Some(Value::Array(Vec::new())) }));
    assert_eq!(decide(judged.as_ref()), deny("no_match"));
}
