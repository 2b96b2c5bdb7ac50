//! What one decision costs beside the bare engine: `cargo run --release -p io-policy --example decision`.
//!
//! Prints the median and the 99th percentile, in microseconds, of
//! - `bare`: the engine as its own examples use it: input text to value, one shared engine, both queries;
//! - `bare, bounded`: the same with the engine's timer;
//! - `evaluate`: this crate, from a parsed request; `with parsing`: the same from the request's text;
//! - `virtual machine`: the engine's faster evaluator, which is not used because its answers are not always Rego's.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use io_policy::{Limits, compile};
use machines::json;
use machines::policy::input::Input;
use regorus::languages::rego::compiler::Compiler;
use regorus::rvm::RegoVM;
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};

const ALLOW: &str = "data.autonomy.allow";
const DENY: &str = "data.autonomy.deny";

fn main() {
    for (name, rego, kind, params) in cases() {
        println!("{name}");
        let text = format!(r#"{{"kind":"{kind}","params":{params},"node":{{"id":"node-1"}}}}"#);
        bare(&rego, &text);
        ours(rego, &kind, &params);
    }
}

fn cases() -> Vec<(&'static str, String, String, String)> {
    let two = "package autonomy\n\ndefault allow := false\n\nallow if input.kind == \"tool.echo\"\n\ndeny contains \"no shell\" if input.kind == \"tool.shell\"\n";
    let mut hundred = String::from("package autonomy\n\ndefault allow := false\n");
    for n in 0..50 {
        hundred += &format!("allow if {{\n\tinput.kind == \"tool.k{n}\"\n\tcount(input.params.message) < 100\n}}\n");
        hundred += &format!(
            "deny contains \"no {n}\" if {{\n\tinput.kind == \"tool.x{n}\"\n\tstartswith(input.params.message, \"p{n}\")\n}}\n"
        );
    }
    let shell = "package autonomy\n\ndefault allow := false\n\nsafe := {\"ls\", \"cat\", \"git\"}\n\nallow if {\n\tinput.kind == \"tool.shell\"\n\tinput.params.argv[0] in safe\n\tevery arg in input.params.argv { not contains(arg, \"..\") }\n}\n\ndeny contains sprintf(\"%s is outside\", [arg]) if {\n\tsome arg in input.params.argv\n\tstartswith(arg, \"/\")\n\tnot startswith(arg, \"/srv/\")\n}\n";
    vec![
        ("2 rules", two.into(), "tool.echo".into(), r#"{"message":"hello"}"#.into()),
        ("100 rules", hundred, "tool.k49".into(), r#"{"message":"hello"}"#.into()),
        ("shell", shell.into(), "tool.shell".into(), r#"{"argv":["git","diff","--stat","/srv/main","HEAD"]}"#.into()),
    ]
}

fn bare(rego: &str, text: &str) {
    let mut engine = Engine::new();
    engine.set_strict_builtin_errors(true);
    engine.add_policy("p.rego".into(), rego.to_owned()).expect("the policy is valid");
    let mut bounded = engine.clone();
    let compiled = engine.compile_with_entrypoint(&ALLOW.into()).expect("the rule exists");
    let both = |engine: &mut Engine| {
        engine.set_input(Value::from_json_str(text).expect("valid JSON"));
        black_box(engine.eval_rule(ALLOW.into()).expect("evaluates"));
        black_box(engine.eval_rule(DENY.into()).expect("evaluates"));
    };
    print("bare", || both(&mut engine));
    let timer =
        ExecutionTimerConfig { limit: Duration::from_millis(50), check_interval: NonZeroU32::new(8).expect("8") };
    bounded.set_execution_timer_config(timer);
    print("bare, bounded", || both(&mut bounded));
    let program = Compiler::compile_from_policy(&compiled, &[ALLOW, DENY]).expect("compiles");
    let mut machine = RegoVM::new();
    machine.load_program(program);
    machine.set_data(Value::new_object()).expect("no rule is there");
    print("virtual machine", || {
        machine.set_input(Value::from_json_str(text).expect("valid JSON"));
        black_box(machine.execute_entry_point_by_name(ALLOW).expect("evaluates"));
        black_box(machine.execute_entry_point_by_name(DENY).expect("evaluates"));
    });
}

fn ours(rego: String, kind: &str, params: &str) {
    let files = BTreeMap::from([(String::from("p.rego"), rego.into_bytes())]);
    let mut evaluator = compile(&files, &Limits::default()).expect("the policy is valid").evaluator();
    let limits = json::Limits::bytes(1 << 20);
    let parsed = json::parse(params.as_bytes(), &limits).expect("valid JSON");
    let mut judge = |params: &json::Value| {
        black_box(evaluator.evaluate(&Input { kind, params, node_id: "node-1", agent: None }).expect("evaluates"));
    };
    print("evaluate", || judge(&parsed));
    print("evaluate, with parsing", || judge(&json::parse(params.as_bytes(), &limits).expect("valid JSON")));
}

fn print(name: &str, mut work: impl FnMut()) {
    const WARM_UP: usize = 2_000;
    const ROUNDS: usize = 20_000;
    let mut times = Vec::with_capacity(ROUNDS);
    for round in 0..WARM_UP + ROUNDS {
        let started = Instant::now();
        work();
        if round >= WARM_UP {
            times.push(started.elapsed());
        }
    }
    times.sort_unstable();
    let at = |part: usize| times[ROUNDS * part / 100].as_secs_f64() * 1e6;
    println!("  {name:<24} p50 {:>7.1} µs   p99 {:>7.1} µs", at(50), at(99));
}
