//! Time, memory and stack. Each case prints what it cost (`cargo test -p io-policy --test bounds -- --nocapture`).
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{PATIENT, files, judge, one, policy, refusal, value};
use io_policy::{Limits, compile};
use machines::json::Value;
use machines::policy::input::Input;
use machines::policy::verdict::{Evaluation, EvaluationFault};

/// A bound is looked at every few steps, so it is passed by a little; a shared machine may add much.
const LATEST: Duration = Duration::from_millis(1500);

fn run(name: &str, rules: &str, params: &Value) -> Result<Evaluation, EvaluationFault> {
    run_within(&Limits::default(), name, rules, params)
}

fn run_within(limits: &Limits, name: &str, rules: &str, params: &Value) -> Result<Evaluation, EvaluationFault> {
    let policy = compile(&one(&format!("package autonomy\nimport input.params as i\n{rules}\n")), limits).unwrap();
    let params = params.clone();
    let judged = io_policy::spawn("evaluator", move || {
        let started = Instant::now();
        (judge(&policy, "k", &params), started.elapsed())
    });
    let (result, took) = judged.unwrap().join().unwrap();
    println!("{name:<28} {took:>12?}  {:.60}", format!("{result:?}"));
    assert!(took < LATEST, "{name} took {took:?}");
    result
}

/// About a MiB, the most that a request may have.
fn big() -> Value {
    let list: Vec<Value> = (0..60_000_u64).map(Value::from).collect();
    let text = "ab".repeat(150_000);
    let words: Vec<Value> = (0..20_000).map(|n| Value::from(format!("word{n}"))).collect();
    let members = [
        ("l", Value::Array(list)),
        ("s", Value::from(text)),
        ("a", Value::from("a".repeat(100_000))),
        ("w", Value::Array(words)),
        ("one", Value::from(1_u64)),
    ];
    Value::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

#[test]
fn p09_an_evaluation_that_blows_up_ends_at_its_budget() {
    let big = big();
    for (name, rules) in [
        ("cross product", "allow if { some x in i.l; some y in i.l; x + y == -1 }"),
        ("three loops", "allow if { some x in i.l; some y in i.l; some z in i.l; x + y + z == -1 }"),
        ("nested comprehensions", "allow if count([[x, y] | some x in i.l; some y in i.l]) == 1"),
        ("set of pairs", "allow if count({[x, y] | some x in i.l; some y in i.l}) == 1"),
        ("every in every", "allow if every x in i.l { every y in i.l { x + y >= 0 } }"),
        ("membership in a loop", "allow if { some x in i.l; not x in i.l }"),
        ("join of a large list", "allow if { some x in i.l; count(i.l) == x; concat(\",\", i.w) == \"\" }"),
        ("contains in a loop", "allow if { some w in i.w; contains(i.s, w) }"),
        ("functions", "f(x) := count([y | some y in i.l; y > x])\nallow if { some x in i.l; f(x) == -1 }"),
        ("sort in a loop", "allow if { some x in i.l; sort(i.w) == x }"),
        ("deny reasons", "allow := true\ndeny contains sprintf(\"%d %d\", [x, y]) if { some x in i.l; some y in i.l }"),
        ("union in a loop", "s := {x | some x in i.w}\nallow if { some x in i.w; count(s | {x, 1}) == 0 }"),
        ("replace in a loop", "allow if { some x in i.l; replace(i.s, \"a\", \"bbbbbbbb\") == x }"),
    ] {
        assert_eq!(run(name, rules, &big), Err(EvaluationFault::Budget), "{name}");
    }
}

/// What is not bounded within one step: comparing two values that are built of shared parts, and so are far larger
/// than their memory. Only the author of a policy can do it, with some twenty rules made for it; the caller of the
/// evaluator gives up on the thread. This is a measurement; the time doubles with each level.
#[test]
fn p09_comparing_values_of_shared_parts_is_the_known_gap() {
    let mut rules = String::from("a0 := [1]\nb0 := [1]\n");
    for n in 0..20 {
        rules += &format!("a{0} := [a{n}, a{n}]\nb{0} := [b{n}, b{n}]\n", n + 1);
    }
    let result = run("shared parts, 20 levels", &format!("{rules}allow if a20 == b20"), &value("{}"));
    assert!(matches!(result, Ok(_) | Err(EvaluationFault::Budget)), "{result:?}");
}

#[test]
fn p09_doubling_ends_at_the_budget() {
    let doubling = |first: &str, step: &str| {
        let mut rules = format!("x0 := {first}\n");
        for n in 0..60 {
            rules += &format!("x{} := {}\n", n + 1, step.replace('X', &format!("x{n}")));
        }
        rules + "allow if x60 == 1"
    };
    for (name, first, step) in [
        ("concat", "\"ab\"", "concat(\"\", [X, X])"),
        ("sprintf", "\"ab\"", "sprintf(\"%s%s\", [X, X])"),
        ("sprintf %v", "[1]", "[sprintf(\"%v\", [[X, X]])]"),
        ("replace", "\"ab\"", "replace(X, \"ab\", \"abab\")"),
        ("regex.replace", "\"ab\"", "regex.replace(X, \"a\", \"ababab\")"),
        ("array.concat", "[1, 2]", "array.concat(X, X)"),
        ("json.marshal", "\"\\\"\"", "json.marshal(X)"),
        ("base64", "\"ab\"", "base64.encode(concat(\"\", [X, X]))"),
        ("multiplication", "3", "X * X"),
        ("bits.lsh", "3", "bits.lsh(X, 4000)"),
        ("upper of a shared value", "[\"a\"]", "[X, X]"),
    ] {
        let mut rules = doubling(first, step);
        if name.starts_with("upper") {
            rules += "\nallow if upper(x60) == 1";
            rules = rules.replace("allow if x60 == 1\n", "");
        }
        let result = run(name, &rules, &value("{}"));
        assert!(matches!(result, Err(EvaluationFault::Budget | EvaluationFault::Error(_))), "{name}: {result:?}");
    }
}

#[test]
fn p09_one_call_cannot_be_large() {
    let big = big();
    let mut huge = big.clone();
    if let Value::Object(members) = &mut huge {
        members.insert(String::from("n"), value("9007199254740991"));
        members.insert(String::from("exp"), Value::from("1e999999999"));
        members.insert(String::from("format"), Value::from("%999999999d"));
        members.insert(String::from("digit"), Value::from("%²d"));
        members.insert(String::from("path"), Value::from("a/".repeat(100_000)));
        members.insert(String::from("json"), Value::from("[".repeat(100_000)));
        members.insert(String::from("pattern"), Value::from("(a*)*b".repeat(1000)));
    }
    for (name, call) in [
        ("range", "numbers.range(0, i.n)"),
        ("range down", "numbers.range(i.n, -5)"),
        ("range_step", "numbers.range_step(0, i.n, 1)"),
        ("indexof", "indexof(i.a, concat(\"\", [substring(i.a, 0, 50000), \"b\"]))"),
        ("strings.count", "strings.count(i.a, substring(i.a, 0, 50000))"),
        ("split", "split(i.s, \"\")"),
        ("to_number", "to_number(i.exp)"),
        ("units.parse", "units.parse(i.exp)"),
        ("width", "sprintf(i.format, [1])"),
        ("width that is no ASCII", "sprintf(i.digit, [1])"),
        ("precision", "sprintf(\"%.99999f\", [1.5])"),
        ("json.remove", "json.remove(i, [i.path])"),
        ("json.filter", "json.filter(i, [i.path])"),
        ("json.unmarshal", "json.unmarshal(i.json)"),
        ("pattern of a caller", "regex.match(i.pattern, i.a)"),
        ("empty text", "strings.count(i.s, \"\")"),
        ("sprintf of everything", "count([sprintf(\"%v\", [i]) | some x in i.l])"),
        ("marshal of everything", "count([json.marshal(i) | some x in i.l])"),
        ("object.subset", "object.subset(i.l, i.l)"),
        ("any_prefix_match", "strings.any_prefix_match(i.w, i.w)"),
        ("product", "product(array.concat(i.l, i.l))"),
    ] {
        let _ = run(name, &format!("allow if {call} == 1"), &huge);
    }
}

#[test]
fn p08_a_regular_expression_takes_linear_time() {
    let big = big();
    for pattern in ["(a+)+b", "(a|aa)*b", "(a*)*b", "(.*)*x", "^(([a-z])+.)+[A-Z]([a-z])+$", "a{0,50}a{50}b"] {
        let result = run_within(&PATIENT, pattern, &format!("allow if regex.match(`{pattern}`, i.a)"), &big);
        assert_eq!(result.unwrap().allow, None, "{pattern}");
    }
    for pattern in [
        r"(\w{100}){100}",
        r"(\p{L}{50}){50}",
        &"a?".repeat(3000),
        "(((((((((a{10}){10}){10}){10}){10}){10}){10}){10}){10})",
    ] {
        let refusal = refusal(&format!("package autonomy\nallow if {{\n regex.match(`{pattern}`, input.kind)\n}}"));
        assert_eq!(refusal.line, Some(3), "{pattern:.40}");
    }
    let in_a_loop = "allow if { some w in i.w; regex.match(concat(\"\", [w, `([a-z]{10}){5}`]), i.s) }";
    assert_eq!(run("compiled in a loop", in_a_loop, &big), Err(EvaluationFault::Budget));
}

#[test]
fn p10_deep_and_wide_input_is_taken_within_the_bound() {
    let deep = value(&format!("{{\"l\":{}1{}}}", "[".repeat(62), "]".repeat(62)));
    assert!(run_within(&PATIENT, "deep", "allow if i.l == i.l", &deep).is_ok());
    let wide = Value::Object((0..60_000).map(|n| (format!("k{n}"), Value::from(n as u64))).collect());
    assert!(run_within(&PATIENT, "wide", "allow if i.k59999 == 59999", &wide).unwrap().allow.is_some());
}

#[test]
fn x04_deep_nesting_is_refused_with_its_line() {
    for (open, close) in [
        ("[", "]"),
        ("{", "}"),
        ("(", ")"),
        ("{\"a\": ", "}"),
        ("[y | y := ", "]"),
        ("abs(", ")"),
        ("{ {y} | y := ", "}"),
    ] {
        for depth in [25, 300, 20_000] {
            let text =
                format!("package autonomy\nallow if {{\n x := {}1{} }}", open.repeat(depth), close.repeat(depth));
            let refusal = refusal(&text);
            assert_eq!(refusal.line, Some(3), "{open} {depth}: {refusal}");
        }
    }
    let every =
        format!("package autonomy\nallow if {{ {} true {} }}", "every x in [1] {\n".repeat(1000), "}".repeat(1000));
    assert!(refusal(&every).line.is_some_and(|line| line < 30));
    for chain in
        [" + 1\n".repeat(30_000), "\n| {1}".repeat(30_000), "\n == 1".repeat(30_000), "\n in [1]".repeat(30_000)]
    {
        let started = Instant::now();
        let _ = refusal(&format!("package autonomy\nallow := 1{chain}"));
        assert!(started.elapsed() < 4 * LATEST, "{:?}", started.elapsed());
    }
}

#[test]
fn x04_rules_and_functions_that_go_too_deep_are_refused() {
    let chain = |len: usize, call: &str| {
        let rules: String = (0..len).map(|n| format!("r{n}{} := r{}{call}\n", call.replace('1', "x"), n + 1)).collect();
        format!("package autonomy\n{rules}r{len}{} := 1\nallow := r0{call}\n", call.replace('1', "x"))
    };
    for call in ["", "(1)"] {
        let refusal = refusal(&chain(3000, call));
        assert!(refusal.what.contains("too deep") && refusal.line.is_some(), "{refusal}");
    }
    for text in [
        "package autonomy\nallow if f(1)\nf(x) := f(x)",
        "package autonomy\nallow if f(1)\nf(x) := g(x)\ng(x) := f(x + 1)",
        "package autonomy\nallow := true\nf(x) := g(x) if x > 0\ng(x) := count([y | y := f(x)])",
    ] {
        assert_eq!(refusal(text).line, Some(3), "{text}");
    }
    // A rule that depends on itself is an error when it is evaluated.
    let policy = policy("package autonomy\nallow if b\nb if c\nc if b");
    assert!(matches!(judge(&policy, "k", &value("{}")), Err(EvaluationFault::Error(_))));
}

/// The deepest policies that are still loaded, and the deepest values that they can build, on the stack that is asked
/// for.
#[test]
fn x04_the_stack_is_large_enough_for_what_is_loaded() {
    let mut texts = Vec::new();
    // Rules in a chain; functions in a chain; rules of many statements that iterate.
    let chain: String = (0..440).map(|n| format!("r{n} := r{}\n", n + 1)).collect();
    texts.push(format!("{chain}r440 := true\nallow := r0"));
    let chain: String = (0..300).map(|n| format!("f{n}(x) := f{}(x)\n", n + 1)).collect();
    texts.push(format!("{chain}f300(x) := x\nallow := f0(true)"));
    let loops: String = (0..300).map(|n| format!(" some x{n} in [1]\n")).collect();
    let chain: String = (0..3).map(|n| format!("q{n} if {{\n{loops} q{}\n}}\n", n + 1)).collect();
    texts.push(format!("{chain}q3 := true\nallow := q0"));
    let sum = format!("({}1{})", "(".repeat(12), format!("{})", " + 1".repeat(18)).repeat(12));
    let chain: String = (0..8).map(|n| format!("s{n} := s{} + {sum}\n", n + 1)).collect();
    texts.push(format!("{chain}s8 := 1\nallow := s0 > 1"));
    for text in texts {
        let policy = policy(&format!("package autonomy\n{text}\n"));
        let result = io_policy::spawn("deep", move || judge(&policy, "k", &value("{}"))).unwrap().join().unwrap();
        let allow = result.unwrap_or_else(|fault| panic!("{fault:?}\n{text:.200}")).allow;
        assert_eq!(allow, Some(Value::Bool(true)), "{text:.200}");
    }
    // A value that is nested as deep as the time allows: compared, printed in an error, and dropped.
    let doubling: String = (0..16).map(|n| format!("g{}(x) := g{n}(g{n}(x))\n", n + 1)).collect();
    for last in
        ["allow if g13(1) == g13(2)", "allow if g13(1) + 1 == 2", "allow if upper(g13(1)) == 2", "allow := g13(1)"]
    {
        let limits = Limits { time: Some(Duration::from_secs(5)), ..Limits::default() };
        let policy = compile(&one(&format!("package autonomy\ng0(x) := [x]\n{doubling}{last}")), &limits).unwrap();
        let deep = io_policy::spawn("deep", move || judge(&policy, "k", &value("{}"))).unwrap();
        println!("{last}: {:.80}", format!("{:?}", deep.join().unwrap()));
    }
}

#[test]
fn sizes_are_bounded() {
    assert!(refusal(&format!("package autonomy\nallow := true\n{}", "# x\n".repeat(300_000))).what.contains("bytes"));
    assert!(refusal(&format!("package autonomy\nallow := \"{}\"", "x".repeat(2000))).line == Some(2));
    let many: Vec<(String, String)> =
        (0..6).map(|n| (format!("f{n}.rego"), format!("package p{n}\n{}", "# comment\n".repeat(15_000)))).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    assert!(compile(&files(&many), &Limits::default()).is_err());
}

#[test]
fn without_a_clock_an_evaluation_repeats_exactly() {
    let limits = Limits { time: None, ..Limits::default() };
    let text = "package autonomy\nallow if count([x | some x in numbers.range(1, 2000); x % 7 == 0]) == 285";
    let policy = compile(&one(text), &limits).unwrap();
    for _ in 0..3 {
        assert_eq!(judge(&policy, "k", &value("{}")).unwrap().allow, Some(Value::Bool(true)));
    }
}

/// Two policies side by side, in many threads: each answer is of the policy that was asked.
#[test]
fn p16_policies_do_not_see_each_other() {
    let texts = ["allow := \"first\"\nhelper := 1", "allow := \"second\"\nhelper := 2"];
    let policies: Vec<_> = texts.iter().map(|text| policy(&format!("package autonomy\n{text}"))).collect();
    std::thread::scope(|scope| {
        for n in 0..4_usize {
            let policies = &policies;
            scope.spawn(move || {
                let mut evaluators: Vec<_> = policies.iter().map(io_policy::Policy::evaluator).collect();
                for round in 0..500 {
                    let at = (n + round) % 2;
                    let params = Value::Null;
                    let input = Input { kind: "k", params: &params, node_id: "n", agent: None };
                    let allow = evaluators[at].evaluate(&input).unwrap().allow;
                    assert_eq!(allow, Some(Value::from(["first", "second"][at])));
                }
            });
        }
    });
}
