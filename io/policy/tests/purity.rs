//! What a policy must not contain, refused at load with file and line.
#![allow(clippy::unwrap_used)]

mod common;

use common::{allow, files, judge, one, policy, refusal, value};
use io_policy::{Limits, compile};
use machines::json::Value;
use machines::policy::input::Input;
use machines::policy::verdict::EvaluationFault;

const FORBIDDEN: &[&str] = &[
    "http.send",
    "net.lookup_ip_addr",
    "net.cidr_contains",
    "time.now_ns",
    "rand.intn",
    "opa.runtime",
    "uuid.rfc4122",
    "walk",
    "print",
    "trace",
    "json.patch",
    "io.jwt.decode",
    "crypto.sha256",
    "strings.replace_n",
    "nonsense",
    "__builtin_host_await",
    "__builtin_sets.union",
    "graph.reachable",
];

#[test]
fn p07_what_is_not_pure_or_not_bounded_is_refused_with_its_line() {
    for name in FORBIDDEN {
        // Also in a rule that nothing uses, in a helper, behind `not`, in a comprehension, as an argument.
        for (text, line) in [
            (format!("package autonomy\nallow := true\nunused if {name}({{}})"), 3),
            (format!("package autonomy\nallow if not {name}(1)"), 2),
            (format!("package autonomy\nallow if {{\n  x := [y |\n    y := count({name}(1))]\n}}"), 4),
            (format!("package autonomy\ndeny contains {name}(1) if true"), 2),
            (format!("package autonomy\nallow if every x in [1] {{\n {name}(x) }}"), 3),
            (format!("package autonomy\nallow if false\nelse if {name}(1)"), 3),
            (format!("package autonomy\np[{name}(1)] := 2 if true\nallow if p"), 2),
            (format!("package autonomy\nallow if input.x[{name}(1)]"), 2),
        ] {
            let refusal = refusal(&text);
            assert_eq!((refusal.file.as_deref(), refusal.line), (Some("p.rego"), Some(line)), "{refusal}\n{text}");
            assert!(refusal.what.contains(name), "{refusal}\n{text}");
        }
    }
}

#[test]
fn p07_a_call_is_found_however_it_is_written() {
    for call in [
        "http . send({})",
        "http.\n  send({})",
        "http.send ({})",
        "http[\"send\"]({})",
        "http[`send`]({})",
        "http . # comment\n send({})",
        "\thttp.send\t({})",
    ] {
        let text = format!("package autonomy\nallow if {{\n {call}\n}}");
        // Some of these forms are no Rego; none may be loaded.
        let refusal = refusal(&text);
        assert!(refusal.line.is_some(), "{refusal}");
    }
    // Behind an alias, and where data has something of that name.
    for (text, line) in [
        ("package autonomy\nimport data.http as h\nallow if h.send({})", 3),
        ("package autonomy\nimport data.x as http\nallow if http.send({})", 3),
        ("package autonomy\nallow if data.http.send({})", 2),
    ] {
        assert_eq!(refusal(text).line, Some(line), "{text}");
    }
}

#[test]
fn p07_the_name_of_a_call_in_a_text_is_no_call() {
    for text in [
        "allow if input.params.s == \"http.send({})\"",
        "allow if input.params.s == `http.send({})`",
        "# http.send({})\nallow if input.params.s == \"http.send({})\" # rand.intn(1)",
        "allow if input.params.s == \"\\\"http.send({})\"\nallow if true",
        "allow if { some http in [{\"send\": 1}]; http.send == 1 }",
    ] {
        assert_eq!(
            allow(&format!("package autonomy\n{text}"), r#"{"s":"http.send({})"}"#),
            Ok(Some(Value::Bool(true)))
        );
    }
}

#[test]
fn p06_no_builtin_function_can_be_put_in_anothers_place() {
    let names: Vec<&str> = regorus::unstable::BUILTINS.keys().copied().chain(FORBIDDEN.iter().copied()).collect();
    for name in names {
        for text in [
            format!("package autonomy\nf(x) := x\nallow if {{\n f(1) with f as {name}\n}}"),
            format!("package autonomy\nf(x) := x\nallow if {{\n count([1]) with count as {name}\n}}"),
            format!("package autonomy\nf(x) := x\nallow if {{\n count([1]) with {name} as f\n}}"),
        ] {
            assert_eq!(refusal(&text).line, Some(4), "{text}");
        }
    }
    assert_eq!(refusal("package autonomy\nallow if input.x with input as {\"x\": true}").line, Some(2));
    assert_eq!(refusal("package autonomy\nallow if data.x with data.x as true").line, Some(2));
}

#[test]
fn p06_a_function_must_not_take_the_name_of_a_builtin() {
    for text in ["contains(a, b) := true", "upper(x) := x", "count := 5", "regex.match(a, b) := true"] {
        assert_eq!(refusal(&format!("package autonomy\nallow := true\n{text}")).line, Some(3), "{text}");
    }
}

#[test]
fn p21_only_input_and_data_can_be_imported() {
    assert_eq!(refusal("package autonomy\nimport peers.state\nallow := true").line, Some(2));
    for import in ["rego.v1", "future.keywords.in", "data.other", "input.params as p"] {
        policy(&format!("package autonomy\nimport {import}\nallow := true"));
    }
}

/// CVE-2025-46569: a request's path was compiled as Rego.
#[test]
fn p05_what_a_caller_sends_is_never_rego() {
    let policy = policy("package autonomy\ndefault allow := false\nallow if input.kind == \"tool.echo\"\nsecret := 1");
    for text in [
        "true",
        "data.autonomy.secret",
        "tool.echo\"] | true",
        "x\nallow := true",
        "allow if true",
        "{}) or true #",
        "tool.echo\"\n}\nallow if {\n true",
        "`",
        "${input}",
        "http.send({})",
        "data",
        "not data.autonomy.allow",
    ] {
        let params = Value::from(text);
        let mut evaluator = policy.evaluator();
        for input in [
            Input { kind: text, params: &params, node_id: "n", agent: None },
            Input { kind: "k", params: &params, node_id: text, agent: Some(text) },
        ] {
            assert_eq!(evaluator.evaluate(&input).unwrap().allow, Some(Value::Bool(false)), "{text}");
        }
    }
}

/// GHSA-hcw3-j74m-qc58: what was loaded was not what had been written. Here the text is never written out again.
#[test]
fn p20_the_text_is_taken_as_it_is() {
    let text = "package autonomy\r\n\r\nallow if {\r\n\tinput.params.s == \"a\\u0062\" # é\r\n}\r\n";
    assert_eq!(allow(text, r#"{"s":"ab"}"#), Ok(Some(Value::Bool(true))));
    let refusal = compile(&one("package autonomy\nallow if {\n"), &Limits::default()).unwrap_err();
    assert_eq!(refusal.file.as_deref(), Some("p.rego"), "{refusal}");
}

#[test]
fn the_input_is_what_the_specification_says() {
    let text = "package autonomy\nallow := input";
    let params = value(r#"{"a":[1,null,{"b":-0.5}]}"#);
    let mut evaluator = policy(text).evaluator();
    for agent in [None, Some("claude")] {
        let input = Input { kind: "tool.echo", params: &params, node_id: "node-1", agent };
        assert_eq!(evaluator.evaluate(&input).unwrap().allow, Some(input.to_value()));
    }
}

#[test]
fn data_json_is_data_and_must_not_meet_a_rule() {
    let rego = "package autonomy\nallow if input.params.x in data.allowed\nlist := data.other.list";
    let load = |data: &str| compile(&files(&[("p.rego", rego), ("data.json", data)]), &Limits::default());
    let policy = load(r#"{"allowed":[1,2],"other":{"list":3}}"#).unwrap();
    assert_eq!(judge(&policy, "k", &value(r#"{"x":2}"#)).unwrap().allow, Some(Value::Bool(true)));
    assert_eq!(judge(&policy, "k", &value(r#"{"x":3}"#)).unwrap().allow, None);
    for (data, what) in [
        (r#"{"autonomy":{}}"#, "`autonomy`"),
        (r#"{"a":1,"a":2}"#, ""),
        ("[]", "must be an object"),
        ("{", ""),
        (r#"{"x":1e400}"#, ""),
    ] {
        let refusal = load(data).unwrap_err();
        assert_eq!(refusal.file.as_deref(), Some("data.json"), "{data}");
        assert!(refusal.what.contains(what), "{refusal}");
    }
    let other = [("p.rego", "package autonomy\nallow := data.x.y"), ("q.rego", "package x\ny := 1")];
    for (data, fits) in [(r#"{"x":{"z":1}}"#, true), (r#"{"x":{"y":1}}"#, false), (r#"{"x":5}"#, false)] {
        let all: Vec<_> = other.iter().copied().chain([("data.json", data)]).collect();
        assert_eq!(compile(&files(&all), &Limits::default()).is_ok(), fits, "{data}");
    }
}

#[test]
fn a_policy_without_the_two_rules_is_refused() {
    for text in ["package autonomy\nother := 1", "package other\nallow := true", "package autonomy"] {
        assert_eq!(refusal(text).to_string(), "defines neither data.autonomy.allow nor data.autonomy.deny");
    }
    assert!(refusal("package autonomy\nallow.x := 1").what.contains("must be one rule"));
    assert!(refusal("package autonomy.allow\nx := 1").what.contains("must be one rule"));
    assert!(compile(&files(&[]), &Limits::default()).is_err());
    // One of them is enough.
    let only = policy("package autonomy\ndeny contains \"no\"");
    assert_eq!(
        judge(&only, "k", &value("{}")).unwrap(),
        machines::policy::verdict::Evaluation { allow: None, deny: Some(value(r#"["no"]"#)) }
    );
}

#[test]
fn a_default_must_be_constant() {
    for (text, fits) in [
        ("default allow := {\"a\": [1, -2, {\"x\"}, null]}", true),
        ("default allow := set()", true),
        ("default allow := input.x", false),
        ("default allow := count([1])", false),
        ("default allow := [x | x := 1]", false),
        ("default allow := 1 + 1", false),
    ] {
        let loaded = compile(&one(&format!("package autonomy\n{text}")), &Limits::default());
        assert_eq!(loaded.is_ok(), fits, "{text}: {loaded:?}");
    }
}

#[test]
fn errors_in_the_text_name_the_line() {
    for (text, line) in [
        ("package autonomy\nallow if {\n  input.x ==\n}\n", 4),
        ("package autonomy\n\nallow { true }\n", 3),
        ("package autonomy\nallow if x == 1\n", 2),
        ("package autonomy\nallow if count(1, 2)\n", 2),
        ("package autonomy\nf(x) := x\nallow if f(1, 2)\n", 3),
        ("package autonomy\nallow if regex.match(\"(\", input.kind)\n", 2),
        ("package autonomy\nallow if regex.match(`(\\w{1000}){1000}`, input.kind)\n", 2),
        ("package autonomy\nallow := \"\u{7}\"\n", 2),
    ] {
        let refusal = refusal(text);
        assert_eq!((refusal.file.as_deref(), refusal.line), (Some("p.rego"), Some(line)), "{refusal}\n{text}");
    }
    let all = std::collections::BTreeMap::from([(String::from("p.rego"), vec![b'#', 0xff])]);
    assert_eq!(compile(&all, &Limits::default()).unwrap_err().to_string(), "p.rego: is not UTF-8 text, from byte 1");
}

#[test]
fn an_error_names_the_line_and_repeats_no_value() {
    let fault =
        allow("package autonomy\n\nallow if upper(input.params.token) == \"X\"", r#"{"token":12345678}"#).unwrap_err();
    let EvaluationFault::Error(text) = fault else { panic!("{fault:?}") };
    assert_eq!(text, "p.rego:3: `upper`: argument 1 must be string, not number");
    let fault = allow("package autonomy\nallow := input.params.token + 1", r#"{"token":"hunter2"}"#).unwrap_err();
    let EvaluationFault::Error(text) = fault else { panic!("{fault:?}") };
    assert!(text.starts_with("p.rego:2: ") && !text.contains("hunter2"), "{text}");
}
