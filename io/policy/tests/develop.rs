//! `policy test` and `policy eval --explain`.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{files, one, value};
use io_policy::{Limits, Outcome, compile, explain, test};
use machines::json::Value;
use machines::policy::verdict::{Evaluation, EvaluationFault};

const LIMITS: Limits = Limits { time: Some(Duration::from_millis(700)), builtin_bytes: Limits::BUILTIN_BYTES };

const POLICY: &str = "package autonomy\n\ndefault allow := false\n\nallow if input.kind == \"tool.echo\"\n\ndeny contains \"no shell\" if {\n\tinput.kind == \"tool.shell\"\n}\n";
const TESTS: &str = r#"package autonomy_test

import data.autonomy

test_echo if {
	autonomy.allow with input as {"kind": "tool.echo"}
}

test_shell if {
	autonomy.deny == {"no shell"} with input as {"kind": "tool.shell"}
	print("seen", autonomy.deny)
}

test_fails if autonomy.allow with input as {"kind": "other"}

test_false := false

test_error if upper(5) == "x"

test_endless if { some x in numbers.range(1, 9000); some y in numbers.range(1, 9000); x + y == 0 }

todo_test_later if false

test_mocked if {
	data.limits.max == 5 with data.limits as {"max": 5}
	f(2) == 7 with g as h
}

f(x) := g(x)
g(x) := x
h(_) := 7
"#;

#[test]
fn tests_pass_fail_and_err() {
    let all = files(&[("autonomy.rego", POLICY), ("autonomy_test.rego", TESTS)]);
    let report = test(&all, &LIMITS).unwrap();
    let found: Vec<_> = report.tests.iter().map(|test| (test.name.as_str(), test.line, &test.outcome)).collect();
    let error = Outcome::Error(String::from("autonomy_test.rego:18: `upper`: argument 1 must be string, not number"));
    let late = Outcome::Error(String::from("past the limits of one decision"));
    assert_eq!(
        found,
        [
            ("data.autonomy_test.test_echo", 5, &Outcome::Pass),
            ("data.autonomy_test.test_endless", 20, &late),
            ("data.autonomy_test.test_error", 18, &error),
            ("data.autonomy_test.test_fails", 14, &Outcome::Fail),
            ("data.autonomy_test.test_false", 16, &Outcome::Fail),
            ("data.autonomy_test.test_mocked", 24, &Outcome::Pass),
            ("data.autonomy_test.test_shell", 9, &Outcome::Pass),
            ("data.autonomy_test.todo_test_later", 22, &Outcome::Skipped),
        ]
    );
    assert!(!report.passed());
    assert!(
        report.tests.iter().all(|test| test.file == "autonomy_test.rego" && test.duration < Duration::from_secs(5))
    );
    let prints: Vec<_> = report.tests.iter().flat_map(|test| &test.prints).collect();
    assert_eq!(prints.len(), 1, "{prints:?}");
    assert!(prints[0].starts_with("autonomy_test.rego:11: seen"), "{prints:?}");
}

#[test]
fn only_passing_tests_pass() {
    let good = format!("{POLICY}\ntest_it if allow with input as {{\"kind\": \"tool.echo\"}}\n");
    assert!(test(&one(&good), &LIMITS).unwrap().passed());
    assert!(!test(&one(POLICY), &LIMITS).unwrap().passed(), "no test is no pass");
    // What is forbidden to a policy is forbidden to its tests, and a bundle must not hold tests that replace things.
    let refusal = test(&one("package autonomy\ntest_a if http.send({})"), &LIMITS).unwrap_err();
    assert_eq!(refusal.to_string(), "p.rego:2: `http.send` reaches the network");
    assert!(compile(&one(&good), &LIMITS).unwrap_err().what.contains("tests only"));
}

#[test]
fn an_explanation_has_values_lines_and_prints() {
    let text = format!(
        "{POLICY}\nallow if {{\n\tprint(\"kind\", input.kind)\n\tinput.params.x == 1\n\tinput.params.y == 2\n}}\n"
    );
    let explained = explain(&one(&text), &value(r#"{"kind":"k","params":{"x":2}}"#), &LIMITS).unwrap();
    assert_eq!(
        explained.evaluation,
        Ok(Evaluation { allow: Some(Value::Bool(false)), deny: Some(Value::Array(Vec::new())) })
    );
    assert_eq!(explained.prints, ["p.rego:12: kind k"]);
    let lines = &explained.lines["p.rego"];
    assert!(lines.covered.is_superset(&[5, 8, 12, 13].into()), "{lines:?}");
    assert!(lines.not_covered.contains(&14), "{lines:?}");
}

#[test]
fn an_explanation_of_a_fault_goes_up_to_it() {
    let text = "package autonomy\nallow if {\n\tinput.params.x == 1\n\tupper(input.params.x) == \"A\"\n}\n";
    let explained = explain(&one(text), &value(r#"{"kind":"k","params":{"x":1}}"#), &LIMITS).unwrap();
    let message = String::from("p.rego:4: `upper`: argument 1 must be string, not number");
    assert_eq!(explained.evaluation, Err(EvaluationFault::Error(message)));
    assert!(explained.lines["p.rego"].covered.contains(&3));
}
