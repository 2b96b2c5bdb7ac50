//! SPEC 3 from the outside: loading, hot reload, rollback, refusal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use machines::json::Value;

use crate::harness::{ECHO, Node, SHELL, finish, json, stderr, stdout, until};

const ALLOW: &str = "package autonomy\nallow := true";

#[test]
fn a_load_prints_the_files_and_the_hash() {
    let node = Node::bare();
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../../demo/policies");
    let loaded = node.load(demo.as_ref(), "1.0.0", &[]);
    let text = stdout(&loaded);
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("policy loaded: echo_allow.rego + shell_deny.rego"));
    assert!(lines.next().unwrap().starts_with("bundle hash: sha256:"));
    let status = stdout(&finish(&["policy", "status", "--state-root", node.path()]));
    assert!(status.starts_with("active: policy 1.0.0 (sequence 0) sha256:"), "{status}");
}

#[test]
fn the_same_input_builds_the_same_bytes() {
    let node = Node::bare();
    let one = std::fs::read(node.build_rego(ALLOW, "1.0.0", &[])).unwrap();
    let two = std::fs::read(node.build_rego(ALLOW, "1.0.0", &[])).unwrap();
    assert_eq!(one, two);
}

#[test]
fn p07_a_refused_bundle_leaves_everything_as_it_was() {
    let node = Node::demo();
    let before = std::fs::read(node.root.path().join("activation.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("p.rego"), "package autonomy\nallow if time.now_ns() > 0").unwrap();
    let out = dir.path().join("b.tar.gz");
    let built = finish(&[
        "policy",
        "build",
        "--in",
        dir.path().to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
        "--version",
        "2.0.0",
    ]);
    assert_eq!(built.status.code(), Some(1));
    assert!(stderr(&built).contains("p.rego:2"), "{}", stderr(&built));
    std::fs::write(&out, b"no bundle").unwrap();
    let loaded = node.load_bundle(&out);
    assert_eq!(loaded.status.code(), Some(1));
    assert!(stderr(&loaded).starts_with("policy load: REJECTED — "), "{}", stderr(&loaded));
    assert_eq!(std::fs::read(node.root.path().join("activation.json")).unwrap(), before);
    let missing = node.load_bundle("/no/such/bundle".as_ref());
    assert_eq!(missing.status.code(), Some(3));
}

#[test]
fn p16_a_running_runtime_takes_a_new_policy_and_drops_no_call() {
    let node = Node::demo();
    let runtime = node.start(&[]);
    let stop = Arc::new(AtomicBool::new(false));
    let caller = {
        let (stop, mut connection) = (Arc::clone(&stop), runtime.connect());
        std::thread::spawn(move || {
            let mut versions = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let answer = connection.call(ECHO);
                assert_eq!(answer.status, 200, "{answer:?}");
                versions.push(answer.text("policy_ref"));
            }
            versions
        })
    };
    let loaded = node.load_rego(ALLOW, "2.0.0", &[]);
    assert!(loaded.status.success(), "{}", stderr(&loaded));
    until("the new policy", || (runtime.call(ECHO).text("policy_ref") == "2.0.0").then_some(()));
    stop.store(true, Ordering::Relaxed);
    let mut versions = caller.join().unwrap();
    versions.dedup();
    assert!(versions == ["1.0.0", "2.0.0"] || versions == ["1.0.0"], "{versions:?}");
    runtime.stop();
    assert!(node.verify().status.success());
}

#[test]
fn a_rollback_goes_to_the_last_known_good_policy_and_respects_the_floor() {
    let node = Node::demo();
    assert!(node.load_rego(ALLOW, "2.0.0", &["--sequence", "5", "--min-sequence", "5"]).status.success());
    let refused = finish(&["policy", "rollback", "--state-root", node.path()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).starts_with("policy rollback: REJECTED — "), "{}", stderr(&refused));
    let below = ["policy", "rollback", "--state-root", node.path(), "--below-floor", "--reason", "drill"];
    let done = finish(&below);
    assert!(done.status.success(), "{}", stderr(&done));
    assert!(stdout(&done).starts_with("policy rolled back: echo_allow.rego + shell_deny.rego"));
    assert_eq!(finish(&["policy", "rollback", "--below-floor"]).status.code(), Some(2));
}

#[test]
fn p17_p18_a_corrupt_policy_falls_back_and_two_corrupt_ones_deny_all() {
    let node = Node::demo();
    assert!(node.load_rego(ALLOW, "2.0.0", &[]).status.success());
    let activation = json(&std::fs::read_to_string(node.root.path().join("activation.json")).unwrap());
    let file = |slot: &str| {
        let digest = activation.get(slot).and_then(|s| s.get("bundle")).and_then(Value::as_str).unwrap();
        node.root.path().join("policy/bundles").join(format!("{}.tar.gz", digest.strip_prefix("sha256:").unwrap()))
    };
    std::fs::write(file("current"), b"damaged").unwrap();
    let runtime = node.start(&[]);
    let answer = runtime.call(ECHO);
    assert_eq!((answer.status, answer.text("policy_ref").as_str()), (200, "1.0.0"));
    runtime.stop();
    let codes: Vec<_> =
        node.frames().iter().filter_map(|f| f.get("body")?.get("code")?.as_str().map(str::to_owned)).collect();
    assert_eq!(codes, ["policy_fallback"]);
    std::fs::write(file("lkg"), b"damaged").unwrap();
    let runtime = node.start(&[]);
    assert_eq!(runtime.call(ECHO).reason(), "no_policy");
    assert_eq!(runtime.get("/health").body, r#"{"status":"degraded","mode":"no_policy"}"#);
}

#[test]
fn p09_a_slow_decision_is_denied_budget_and_others_do_not_wait_for_it() {
    let slow = "package autonomy\nallow if input.kind == \"tool.echo\"\nallow if {\n input.kind == \"tool.slow\"\n some i, j, k\n \
                numbers.range(1, 3000)[i]\n numbers.range(1, 3000)[j]\n numbers.range(1, 3000)[k]\n i + j + k == -1\n}";
    let node = Node::with_policy(slow);
    let config = node.root.path().join("runtime.toml");
    std::fs::write(&config, "[policy]\ndecision_limit_ms = 1500\n").unwrap();
    let runtime = node.start(&["--config", config.to_str().unwrap()]);
    let mut waiting: Vec<_> = (0..2).map(|_| runtime.connect()).collect();
    for connection in &mut waiting {
        let text = crate::harness::request(
            "POST",
            "/v1/tool",
            &["Host: localhost", "Content-Type: application/json"],
            r#"{"kind":"tool.slow"}"#,
        );
        connection.send(text.as_bytes()).unwrap();
    }
    let started = std::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(runtime.call(ECHO).status, 200);
    }
    assert!(started.elapsed().as_millis() < 1500, "{:?}", started.elapsed());
    for mut connection in waiting {
        let answer = connection.receive().unwrap();
        assert_eq!((answer.status, answer.reason().as_str()), (403, "budget"));
    }
}

#[test]
fn a_call_can_be_tried_without_being_made() {
    let node = Node::demo();
    let call = node.root.path().join("call.json");
    for (body, decision) in [(ECHO, "decision: allow"), (SHELL, "decision: deny\nreason: shell is not allowed")] {
        std::fs::write(&call, body).unwrap();
        let out =
            finish(&["policy", "eval", "--input", call.to_str().unwrap(), "--state-root", node.path(), "--explain"]);
        assert!(stdout(&out).starts_with(decision), "{} {}", stdout(&out), stderr(&out));
        assert!(stdout(&out).contains("echo_allow.rego: evaluated"), "{}", stdout(&out));
    }
}

#[test]
fn policy_tests_pass_or_fail_with_the_command() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("p.rego"), ALLOW).unwrap();
    // As with `opa test`: none is no failure, unless it is said to be one.
    let none = finish(&["policy", "test", dir.path().to_str().unwrap()]);
    assert_eq!((none.status.code(), stdout(&none).as_str()), (Some(0), "PASS: 0/0\n"));
    assert!(stderr(&none).contains("there is no test"), "{}", stderr(&none));
    let none = finish(&["policy", "test", dir.path().to_str().unwrap(), "--fail-on-empty"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(stderr(&none).contains("there is no test"), "{}", stderr(&none));
    let demo = finish(&["policy", "test", concat!(env!("CARGO_MANIFEST_DIR"), "/../../demo/policies")]);
    assert_eq!((demo.status.code(), stdout(&demo).ends_with("PASS: 3/3\n")), (Some(0), true), "{}", stdout(&demo));
    std::fs::write(dir.path().join("p_test.rego"), "package autonomy_test\ntest_allow if data.autonomy.allow").unwrap();
    let passed = finish(&["policy", "test", dir.path().to_str().unwrap()]);
    assert_eq!(passed.status.code(), Some(0), "{}", stderr(&passed));
    assert!(stdout(&passed).contains("PASS: 1/1"), "{}", stdout(&passed));
    std::fs::write(dir.path().join("q_test.rego"), "package q_test\ntest_not if not data.autonomy.allow").unwrap();
    let failed = finish(&["policy", "test", dir.path().to_str().unwrap()]);
    assert_eq!(failed.status.code(), Some(1));
}

#[test]
fn every_command_about_a_nodes_policy_takes_its_configuration_file() {
    let (node, other) = (Node::demo(), Node::bare());
    assert!(node.load_rego(ALLOW, "2.0.0", &[]).status.success());
    let config = other.root.path().join("runtime.toml");
    std::fs::write(&config, format!("[node]\nstate_root = {:?}\n", node.path())).unwrap();
    let config = config.display().to_string();
    let with = |args: &[&str]| finish(&[args, &["--config", &config]].concat());
    assert!(stdout(&with(&["policy", "status"])).starts_with("active: policy 2.0.0 "));
    let call = node.root.path().join("call.json").display().to_string();
    std::fs::write(&call, ECHO).unwrap();
    assert!(stdout(&with(&["policy", "eval", "--input", &call])).starts_with("decision: allow"));
    let back = with(&["policy", "rollback"]);
    assert!(back.status.success(), "{}", stderr(&back));
    assert!(stdout(&with(&["policy", "status"])).starts_with("active: policy 1.0.0 "));
    let reset = with(&["release", "floor", "reset", "--name", "agent", "--reason", "drill"]);
    assert_eq!(reset.status.code(), Some(1));
    assert!(stderr(&reset).contains("there is no floor of `agent`"), "{}", stderr(&reset));
    let history = std::fs::read_to_string(node.root.path().join("policy/history.jsonl")).unwrap();
    assert!(history.lines().last().unwrap().contains("no floor of `agent`"), "it is that node's: {history}");
    // A flag goes before the file, and a file that is not there is said to be.
    assert!(stdout(&with(&["policy", "status", "--state-root", other.path()])).starts_with("active: none"));
    for args in [&["policy", "status"][..], &["policy", "rollback"]] {
        assert_eq!(finish(&[args, &["--config", "/no/such/file"]].concat()).status.code(), Some(3), "{args:?}");
    }
}
