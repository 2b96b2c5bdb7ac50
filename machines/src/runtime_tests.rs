//! The wired runtime on a perfect disk: the order of a call, every mode, and loads from another process.

use std::boxed::Box;
use std::collections::BTreeMap;
use std::format;
use std::string::{String, ToString};
use std::sync::Arc;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::activation::{Activation, Command, Loader};
use crate::disk::{FaultKind, File};
use crate::json::Value;
use crate::policy::bundle::{self, BuildOptions};
use crate::policy::verdict::{Evaluation, EvaluationFault};
use crate::solo::{Files, Solo};
use crate::time::Span;
use crate::work::{self, Compiled, Got, ToolFault};

type Node = Solo<Runtime>;

fn config() -> Config {
    Config {
        calls: interceptor::Config {
            strict: false,
            max_in_flight: 4,
            tool_timeout: Span::from_secs(30),
            decision_backstop: Span::from_secs(1),
            tools: BTreeMap::from([("tool.echo".to_string(), true), ("tool.shell".to_string(), false)]),
        },
        wal: wal::Config { node_id: Some("n1".into()), ..wal::Config::default() },
        version: Version::parse("0.1.0").unwrap(),
        require_verified: false,
        require_precheck: None,
    }
}

fn bundle(version: &str, sequence: u64, min_sequence: u64) -> Vec<u8> {
    let files = BTreeMap::from([("p.rego".to_string(), b"package autonomy\n".to_vec())]);
    let options = BuildOptions { version: version.into(), sequence, min_sequence, ..BuildOptions::default() };
    bundle::build(&files, &options).unwrap()
}

fn opened(bytes: &[u8]) -> Got {
    Got::Opened(
        bundle::open(bytes).map(|b| (Arc::new(b), Compiled(Arc::new(())))).map_err(|refusal| refusal.to_string()),
    )
}

/// Runs a load or a rollback against these files and returns what it said.
fn operate(files: &Files, command: Command, fail: Option<(usize, FaultKind)>) -> (Files, Result<Report, String>) {
    let mut loader = Solo::started(Loader::new(command, Version::parse("0.1.0").unwrap()), files.clone());
    let mut chains = 0;
    loop {
        if let Some((tag, work::Op::OpenBundle(bytes))) = loader.works.pop_front() {
            loader.event(Event::Work(tag, opened(&bytes)));
        }
        if loader
            .chains
            .front()
            .is_some_and(|(_, chain)| chain.contains(&crate::disk::Op::Unlock(crate::disk::Lock::Activation)))
        {
            loader.fail = fail;
            chains += 1;
        }
        if !loader.step() && loader.works.is_empty() {
            break;
        }
    }
    assert!(chains <= 1, "one chain changes things");
    let said = loader.outputs.pop().expect("an end");
    (loader.files, said.map(|report| report.activation))
}

type Report = Activation;

fn load(files: &Files, bytes: Vec<u8>) -> (Files, Result<Report, String>) {
    operate(files, Command::Load { bytes, require_verified: false }, None)
}

fn loaded(bytes: Vec<u8>) -> Files {
    let (files, said) = load(&Files::new(), bytes);
    said.unwrap();
    files
}

/// Answers all bundle openings and disk chains until nothing moves.
fn settle(node: &mut Node) {
    loop {
        node.run();
        let Some(at) = node.works.iter().position(|(_, op)| matches!(op, work::Op::OpenBundle(_))) else { return };
        let Some((tag, work::Op::OpenBundle(bytes))) = node.works.remove(at) else { return };
        node.event(Event::Work(tag, opened(&bytes)));
    }
}

fn start(config: Config, files: Files) -> Node {
    let mut node = Solo::started(Runtime::new(config), files);
    settle(&mut node);
    node
}

fn request(body: &str) -> Arc<Request> {
    Arc::new(Request::parse(body.as_bytes(), None).unwrap())
}

fn call(node: &mut Node, id: u64) {
    node.input(Input::Call(CallId(id), request(r#"{"kind":"tool.echo","params":{"message":"hello"}}"#)));
}

fn allow() -> Got {
    Got::Evaluated(Ok(Evaluation { allow: Some(Value::Bool(true)), deny: None }))
}

fn work(node: &mut Node, got: Got) {
    let (tag, _) = node.works.pop_front().expect("work");
    node.event(Event::Work(tag, got));
}

fn answers(node: &Node) -> Vec<(u64, u16, String)> {
    node.outputs
        .iter()
        .filter_map(|o| match o {
            Output::Answer(CallId(id), answer) => {
                Some((*id, answer.status(), answer.reason().or(answer.error()).unwrap_or("").to_string()))
            }
            Output::Ready | Output::Stopped => None,
        })
        .collect()
}

fn log_text(node: &Node) -> String {
    node.files.get(&File::Live).map_or_else(String::new, |bytes| String::from_utf8_lossy(bytes).into_owned())
}

#[test]
fn transcript_of_an_allowed_and_a_denied_call() {
    let mut node = start(config(), loaded(bundle("1.0.0", 0, 0)));
    node.transcript = "-- an allowed call\n".into();
    call(&mut node, 1);
    work(&mut node, allow());
    assert!(node.works.is_empty(), "I-D2: the tool does not run before its decision is durable");
    node.run();
    work(&mut node, Got::Ran(Ok(Value::Object(BTreeMap::from([("message".into(), Value::String("hello".into()))])))));
    assert!(answers(&node).is_empty(), "no answer before the outcome is durable");
    node.run();
    node.transcript.push_str("-- a denied call\n");
    call(&mut node, 2);
    work(&mut node, Got::Evaluated(Ok(Evaluation { allow: None, deny: None })));
    assert_eq!(answers(&node).len(), 1, "no answer before the decision is durable");
    node.run();
    assert_eq!(answers(&node), [(1, 200, String::new()), (2, 403, "no_match".into())]);
    insta::assert_snapshot!(node.transcript);
}

#[test]
fn an_allowed_answer_has_the_fields_of_the_contract() {
    let mut node = start(config(), loaded(bundle("1.0.0", 0, 0)));
    call(&mut node, 1);
    work(&mut node, allow());
    node.run();
    work(&mut node, Got::Ran(Ok(Value::Object(BTreeMap::from([("message".into(), Value::String("hello".into()))])))));
    node.run();
    let Some(Output::Answer(_, answer)) = node.outputs.last() else { panic!("an answer") };
    let body: serde_json::Value = serde_json::from_str(&answer.body()).unwrap();
    assert_eq!(body["decision"], "allow");
    assert_eq!(body["output"], serde_json::json!({"message": "hello"}));
    assert_eq!(body["policy_ref"], "1.0.0");
    assert!(body["policy_hash"].as_str().unwrap().starts_with("sha256:"));
    let id = body["audit_id"].as_str().unwrap();
    assert_eq!(log_text(&node).matches(id).count(), 2, "a decision and an action");
}

#[test]
fn p01_p22_modes_and_results_enumerated_only_one_pair_allows() {
    type Case = (&'static str, Box<dyn Fn() -> Got>);
    let results: Vec<Case> = vec![
        ("allow", Box::new(allow)),
        ("no_match", Box::new(|| Got::Evaluated(Ok(Evaluation { allow: None, deny: None })))),
        (
            "type_error",
            Box::new(|| Got::Evaluated(Ok(Evaluation { allow: Some(Value::String("true".into())), deny: None }))),
        ),
        (
            "denied",
            Box::new(|| {
                let reasons = Value::Array(vec![Value::String("b".into()), Value::String("a".into())]);
                Got::Evaluated(Ok(Evaluation { allow: Some(Value::Bool(true)), deny: Some(reasons) }))
            }),
        ),
        ("evaluator_error", Box::new(|| Got::Evaluated(Err(EvaluationFault::Error("x".into()))))),
        ("evaluator_error", Box::new(|| Got::Evaluated(Err(EvaluationFault::Panic)))),
        ("budget", Box::new(|| Got::Evaluated(Err(EvaluationFault::Budget)))),
    ];
    for strict in [false, true] {
        for policy in [false, true] {
            for (name, got) in &results {
                let files = if policy { loaded(bundle("1.0.0", 0, 0)) } else { Files::new() };
                let mut config = config();
                config.calls.strict = strict;
                let mut node = start(config, files);
                assert_eq!(node.machine.mode().is_ready(), policy && !strict);
                call(&mut node, 1);
                if policy && !strict {
                    work(&mut node, got());
                }
                node.run();
                let allowed = policy && !strict && *name == "allow";
                assert_eq!(node.works.len(), usize::from(allowed), "the tool runs only when allowed");
                if !allowed {
                    let want = match (strict, policy, *name) {
                        (true, _, _) => "strict",
                        (_, false, _) => "no_policy",
                        (_, _, "denied") => "a; b",
                        (_, _, name) => name,
                    };
                    assert_eq!(answers(&node), [(1, 403, want.to_string())]);
                    assert_eq!(log_text(&node).matches("\"kind\":\"decision\"").count(), 1, "a deny is recorded");
                }
            }
        }
    }
}

#[test]
fn a_tool_that_is_disabled_or_unknown_is_refused_in_code_even_when_policy_allows() {
    let mut node = start(config(), loaded(bundle("1.0.0", 0, 0)));
    for (id, kind, reason) in [(1, "tool.shell", "tool_disabled"), (2, "tool.nope", "unknown_tool")] {
        node.input(Input::Call(CallId(id), request(&format!(r#"{{"kind":"{kind}"}}"#))));
        work(&mut node, allow());
        node.run();
        assert_eq!(answers(&node).pop(), Some((id, 403, reason.to_string())));
        assert!(node.works.is_empty());
    }
}

#[test]
fn without_a_policy_parameters_are_recorded_as_hash_and_length_only() {
    let mut node = start(config(), Files::new());
    node.input(Input::Call(CallId(1), request(r#"{"kind":"tool.echo","params":{"message":"secret"}}"#)));
    node.run();
    assert!(!log_text(&node).contains("secret"));
    assert!(log_text(&node).contains("\"params\":{\"blake3\":\"blake3:"));
}

#[test]
fn x03_a_tool_that_fails_or_does_not_fit_leaves_an_error_event() {
    for (fault, status, code) in [
        (ToolFault::BadParams("no `message`".into()), 400, "invalid_params"),
        (ToolFault::Failed("boom".into()), 502, "tool_failed"),
        (ToolFault::TimedOut, 504, "tool_timeout"),
    ] {
        let mut node = start(config(), loaded(bundle("1.0.0", 0, 0)));
        call(&mut node, 1);
        work(&mut node, allow());
        node.run();
        work(&mut node, Got::Ran(Err(fault)));
        node.run();
        let (_, got, error) = answers(&node).pop().unwrap();
        assert_eq!(got, status);
        assert!(error.starts_with(code), "{error}");
        assert!(log_text(&node).contains(&format!("\"kind\":\"error\"")) && log_text(&node).contains(code));
    }
}

#[test]
fn a_tool_that_hangs_is_given_up_and_its_late_answer_is_dropped() {
    let mut node = start(config(), loaded(bundle("1.0.0", 0, 0)));
    call(&mut node, 1);
    work(&mut node, allow());
    node.run();
    let (tag, _) = node.works.pop_front().unwrap();
    while answers(&node).is_empty() {
        node.wake();
    }
    assert!(matches!(node.works.pop_front(), Some((cancelled, work::Op::CancelTool)) if cancelled == tag));
    assert_eq!(answers(&node)[0].1, 504);
    node.event(Event::Work(tag, Got::Ran(Ok(Value::Null))));
    node.run();
    assert_eq!(answers(&node).len(), 1);
    assert_eq!(node.machine.status().counters.late, 1);
}

#[test]
fn a_decision_that_hangs_is_denied_budget_and_its_late_result_is_dropped() {
    let mut node = start(config(), loaded(bundle("1.0.0", 0, 0)));
    call(&mut node, 1);
    let (tag, _) = node.works.pop_front().unwrap();
    while answers(&node).is_empty() {
        node.wake();
    }
    assert_eq!(answers(&node), [(1, 403, "budget".to_string())]);
    node.event(Event::Work(tag, allow()));
    node.run();
    assert_eq!(answers(&node).len(), 1, "nothing turns a deny into an allow");
}

#[test]
fn d24_calls_past_the_limit_are_refused_at_once() {
    let mut node = start(config(), loaded(bundle("1.0.0", 0, 0)));
    for id in 0..6 {
        call(&mut node, id);
    }
    assert_eq!(answers(&node), [(4, 503, "overload".to_string()), (5, 503, "overload".to_string())]);
}

#[test]
fn d05_when_the_log_fails_waiting_calls_are_denied_and_a_tool_that_ran_says_so() {
    let mut node = start(config(), loaded(bundle("1.0.0", 0, 0)));
    call(&mut node, 1);
    work(&mut node, allow());
    node.run();
    call(&mut node, 2);
    let (first, _) = node.works.pop_front().unwrap();
    work(&mut node, allow());
    node.fail = Some((1, FaultKind::Io(5)));
    node.run();
    assert_eq!(answers(&node), [(2, 503, "wal_failed".to_string())]);
    assert_eq!(node.machine.mode(), Mode::WalFailed);
    node.event(Event::Work(first, Got::Ran(Ok(Value::Null))));
    assert_eq!(answers(&node)[1], (1, 500, "outcome_not_recorded".to_string()));
    call(&mut node, 3);
    assert_eq!(answers(&node)[2], (3, 503, "wal_failed".to_string()));
}

#[test]
fn a_call_left_open_by_a_crash_gets_outcome_unknown_once() {
    let mut node = start(config(), loaded(bundle("1.0.0", 0, 0)));
    call(&mut node, 1);
    work(&mut node, allow());
    node.run();
    let after_crash = start(config(), node.files);
    assert_eq!(log_text(&after_crash).matches("outcome_unknown").count(), 1);
    let again = start(config(), after_crash.files);
    assert_eq!(log_text(&again).matches("outcome_unknown").count(), 1);
}

#[test]
fn x08_a_stop_answers_what_runs_takes_no_more_and_closes_the_log() {
    let mut node = start(config(), loaded(bundle("1.0.0", 0, 0)));
    call(&mut node, 1);
    node.input(Input::Stop);
    call(&mut node, 2);
    assert_eq!(answers(&node), [(2, 503, "stopping".to_string())]);
    work(&mut node, allow());
    node.run();
    assert!(!node.outputs.iter().any(|o| matches!(o, Output::Stopped)));
    work(&mut node, Got::Ran(Ok(Value::Null)));
    node.run();
    assert_eq!(answers(&node).len(), 2);
    assert!(matches!(node.outputs.last(), Some(Output::Stopped)));
}

#[test]
fn p16_p17_a_load_is_served_within_a_second_and_calls_name_one_policy() {
    let mut node = start(config(), loaded(bundle("1.0.0", 0, 0)));
    call(&mut node, 1);
    let (files, said) = load(&node.files, bundle("2.0.0", 0, 0));
    said.unwrap();
    node.files = files;
    node.wake();
    settle(&mut node);
    call(&mut node, 2);
    for _ in 0..2 {
        let at = node.works.iter().position(|(_, op)| matches!(op, work::Op::Evaluate { .. })).unwrap();
        let (tag, _) = node.works.remove(at).unwrap();
        node.event(Event::Work(tag, Got::Evaluated(Ok(Evaluation { allow: None, deny: None }))));
    }
    node.run();
    let refs: Vec<String> = node
        .outputs
        .iter()
        .filter_map(|o| {
            if let Output::Answer(_, a) = o { a.decided()?.policy.as_ref().map(|p| p.version.clone()) } else { None }
        })
        .collect();
    assert_eq!(refs, ["1.0.0", "2.0.0"]);
    assert_eq!(node.machine.status().activation.lkg.map(|s| s.version).as_deref(), Some("1.0.0"));
}

#[test]
fn p17_p18_a_corrupt_current_falls_back_and_two_corrupt_ones_deny_all() {
    let (files, _) = load(&loaded(bundle("1.0.0", 0, 0)), bundle("2.0.0", 0, 0));
    let activation = Activation::parse(&files[&File::Activation]).unwrap();
    let current = File::Bundle(activation.current.as_ref().unwrap().bundle);
    let lkg = File::Bundle(activation.lkg.as_ref().unwrap().bundle);
    let mut broken = files.clone();
    broken.get_mut(&current).unwrap()[40] ^= 1;
    let node = start(config(), broken.clone());
    assert_eq!(node.machine.status().in_force.map(|s| s.version).as_deref(), Some("1.0.0"));
    assert_eq!(log_text(&node).matches("policy_fallback").count(), 1);
    assert!(String::from_utf8_lossy(&node.files[&File::History]).contains("\"event\":\"fallback\""));
    crate::activation::history::verify(&node.files[&File::History]).unwrap();
    broken.remove(&lkg);
    let node = start(config(), broken);
    assert_eq!(node.machine.mode(), Mode::NoPolicy);
    assert_eq!(log_text(&node).matches("policy_fallback").count(), 1);
}

#[test]
fn p19_a_bundle_below_its_floor_is_refused_also_as_last_known_good() {
    let files = loaded(bundle("1.0.0", 1, 0));
    let (files, said) = load(&files, bundle("2.0.0", 5, 3));
    assert_eq!(said.unwrap().policy_floor("policy"), 3);
    let (same, said) = load(&files, bundle("1.5.0", 2, 0));
    assert!(said.unwrap_err().contains("below its floor 3"));
    assert_eq!(same[&File::Activation], files[&File::Activation], "I-P4: everything is as before");
    // The last known good one is barred too: a corrupt current leaves nothing.
    let activation = Activation::parse(&files[&File::Activation]).unwrap();
    let mut broken = files.clone();
    broken.get_mut(&File::Bundle(activation.current.unwrap().bundle)).unwrap()[40] ^= 1;
    assert_eq!(start(config(), broken).machine.mode(), Mode::NoPolicy);
    let (_, said) = operate(&files, Command::Rollback { below_floor: None }, None);
    assert!(said.unwrap_err().contains("--below-floor"));
    let (after, said) = operate(&files, Command::Rollback { below_floor: Some("it broke".into()) }, None);
    assert_eq!(said.unwrap().current.unwrap().version, "1.0.0");
    let history = String::from_utf8_lossy(&after[&File::History]).into_owned();
    assert!(history.contains("\"event\":\"rollback\"") && history.contains("it broke"));
    assert_eq!(start(config(), after).machine.mode(), Mode::Normal);
}

#[test]
fn p17_a_load_cut_short_at_any_step_is_before_or_after_and_never_between() {
    let files = loaded(bundle("1.0.0", 0, 0));
    let new = bundle("2.0.0", 0, 0);
    let mut seen = [0, 0];
    for step in 0..14 {
        let command = Command::Load { bytes: new.clone(), require_verified: false };
        let (after, said) = operate(&files, command, Some((step, FaultKind::Io(5))));
        let version = Activation::parse(&after[&File::Activation]).unwrap().current.unwrap().version;
        seen[usize::from(version == "2.0.0")] += 1;
        if version == "1.0.0" {
            assert!(said.is_err(), "step {step}");
            assert_eq!(after[&File::Activation], files[&File::Activation]);
        }
        let node = start(config(), after.clone());
        assert_eq!(node.machine.mode(), Mode::Normal, "step {step}");
        assert!(!log_text(&node).contains("policy_fallback"), "step {step}");
        // The history stays whole, and the next load says what was not committed.
        let (last, said) = load(&after, bundle("3.0.0", 0, 0));
        said.unwrap();
        let history = &last[&File::History];
        crate::activation::history::verify(history).unwrap();
        let text = String::from_utf8_lossy(history);
        let promised = text.contains("\"version\":\"2.0.0\"");
        assert_eq!(text.contains("not_committed"), promised && version == "1.0.0", "step {step}");
    }
    assert!(seen[0] >= 5 && seen[1] >= 1, "{seen:?}");
}

#[test]
fn a_refused_load_changes_nothing_but_the_history() {
    let files = loaded(bundle("1.0.0", 0, 0));
    let files_range = BTreeMap::from([("p.rego".to_string(), b"package autonomy\n".to_vec())]);
    let options =
        BuildOptions { version: "9.0.0".into(), runtime_version: Some(">=99.0.0".into()), ..BuildOptions::default() };
    let incompatible = bundle::build(&files_range, &options).unwrap();
    let mut tampered = bundle("2.0.0", 0, 0);
    let middle = tampered.len() / 2;
    tampered[middle] ^= 1;
    for bytes in [incompatible, tampered, b"".to_vec(), b"not a bundle".to_vec()] {
        let (mut after, said) = load(&files, bytes);
        assert!(said.is_err());
        let history = after.remove(&File::History).unwrap();
        assert!(String::from_utf8_lossy(&history).contains("\"event\":\"refused\""));
        let mut before = files.clone();
        before.remove(&File::History);
        assert_eq!(after, before);
    }
}

#[test]
fn a_rollback_needs_something_to_go_back_to() {
    let (_, said) = operate(&loaded(bundle("1.0.0", 0, 0)), Command::Rollback { below_floor: None }, None);
    assert!(said.unwrap_err().contains("no last known good"));
}

#[test]
fn require_verified_admits_nothing_that_did_not_pass_the_four_steps() {
    let files = loaded(bundle("1.0.0", 0, 0));
    let mut strict = config();
    strict.require_verified = true;
    assert_eq!(start(strict, files.clone()).machine.mode(), Mode::NoPolicy);
    let command = Command::Load { bytes: bundle("2.0.0", 0, 0), require_verified: true };
    assert!(operate(&files, command, None).1.unwrap_err().contains("require_verified"));
}

#[test]
fn x06_a_bundle_that_the_device_would_not_give_is_tried_again_and_told_once() {
    let files = loaded(bundle("1.0.0", 0, 0));
    let mut node = Solo::new(Runtime::new(config()), files);
    node.event(Event::Start(crate::machine::Entropy([3; 32])));
    // The log opens; the bundle cannot be read, twice.
    for _ in 0..2 {
        while !reads_bundle(&node) {
            if node.chains.is_empty() {
                let due = node.machine.deadline().unwrap();
                node.now.mono = node.now.mono.max(due.at);
                node.event(Event::Due);
            } else {
                node.step();
            }
        }
        node.fail = Some((0, FaultKind::Io(24)));
        node.step();
        node.run();
    }
    assert_eq!(node.machine.mode(), Mode::NoPolicy);
    assert_eq!(log_text(&node).matches("policy_fallback").count(), 1);
    node.wake();
    settle(&mut node);
    assert_eq!(node.machine.mode(), Mode::Normal);
}

fn reads_bundle(node: &Node) -> bool {
    use crate::disk::Op;
    node.chains.front().is_some_and(|(_, chain)| matches!(chain.first(), Some(Op::Read { file: File::Bundle(_), .. })))
}

#[test]
fn a_changed_activation_is_durable_before_any_answer_names_it() {
    let mut node = start(config(), loaded(bundle("1.0.0", 0, 0)));
    node.files = load(&node.files, bundle("2.0.0", 0, 0)).0;
    node.transcript.clear();
    node.wake();
    settle(&mut node);
    let order: Vec<usize> = ["SyncDir(State)", "Read { file: Bundle"]
        .iter()
        .map(|op| node.transcript.find(op).unwrap_or_else(|| panic!("{op} in {}", node.transcript)))
        .collect();
    assert!(order.is_sorted(), "{}", node.transcript);
    assert_eq!(node.machine.status().in_force.map(|s| s.version).as_deref(), Some("2.0.0"));
}

#[test]
fn p19_a_bundle_bars_what_it_bars_whichever_way_it_came_into_force() {
    // 5 is loaded, 6 bars everything below 6; back to 5 by force, forward to 6 again: 5 is barred again.
    let files = loaded(bundle("1.0.0", 5, 0));
    let (files, said) = load(&files, bundle("2.0.0", 6, 6));
    said.unwrap();
    let (files, said) = operate(&files, Command::Rollback { below_floor: Some("try".into()) }, None);
    assert_eq!(said.unwrap().policy_floor("policy"), 5);
    let (files, said) = operate(&files, Command::Rollback { below_floor: None }, None);
    assert_eq!(said.unwrap().policy_floor("policy"), 6);
    assert!(load(&files, bundle("1.0.0", 5, 0)).1.unwrap_err().contains("below its floor 6"));
}

#[path = "runtime_precheck_tests.rs"]
mod precheck_required;
