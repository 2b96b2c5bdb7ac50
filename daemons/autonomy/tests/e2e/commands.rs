//! `autonomy run`, `wal tail`, `version`, exit codes.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use machines::json::Value;

use crate::harness::{ECHO, Node, autonomy, finish, json, stderr, stdout, until};

#[test]
fn run_gives_a_command_its_own_runtime_and_passes_its_exit_code_on() {
    let dir = tempfile::tempdir().unwrap();
    let script = "test -n \"$AUTONOMY_RUNTIME_URL\" && echo $AUTONOMY_RUNTIME_URL; exit 7";
    let out = finish(&["run", "--dir", dir.path().to_str().unwrap(), "--", "/bin/sh", "-c", script]);
    assert_eq!(out.status.code(), Some(7), "{}", stderr(&out));
    assert!(stdout(&out).starts_with("http://127.0.0.1:"), "{}", stdout(&out));
    let wal = dir.path().join("telemetry");
    assert!(stderr(&out).contains(&format!("the log is in {}", wal.display())), "{}", stderr(&out));
    let verified = finish(&["wal", "verify", "--dir", wal.to_str().unwrap()]);
    assert!(stdout(&verified).starts_with("wal verify: OK — 0 frames"), "{}", stdout(&verified));
}

#[test]
fn run_puts_the_given_policy_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let rego = dir.path().join("mine.rego");
    std::fs::write(&rego, "package autonomy\ndeny contains \"not today\" if input.kind == \"tool.echo\"").unwrap();
    let state = dir.path().join("state");
    let exe = env!("CARGO_BIN_EXE_autonomy");
    let script = format!("{exe} policy eval --input - --state-root {} <<< '{ECHO}'", state.display());
    let args =
        ["run", "--policy", rego.to_str().unwrap(), "--dir", state.to_str().unwrap(), "--", "/bin/bash", "-c", &script];
    let out = finish(&args);
    assert!(stdout(&out).contains("reason: not today"), "{} {}", stdout(&out), stderr(&out));
    std::fs::write(&rego, "package autonomy\nallow if {").unwrap();
    let out = finish(&args);
    assert_eq!(out.status.code(), Some(1));
    assert!(stderr(&out).contains("policy"), "{}", stderr(&out));
}

#[test]
fn run_forwards_signals_and_names_what_ended_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let script = "trap 'exit 42' TERM; echo up; while :; do sleep 0.01; done";
    let mut command = autonomy(&["run", "--dir", dir.path().to_str().unwrap(), "--", "/bin/sh", "-c", script]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    assert!(std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    let status = until("the end", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(42));

    let out = finish(&["run", "--dir", dir.path().to_str().unwrap(), "--", "/bin/sh", "-c", "kill -KILL $$"]);
    assert_eq!(out.status.code(), Some(137), "{}", stderr(&out));
    let out = finish(&["run", "--dir", dir.path().to_str().unwrap(), "--", "/no/such/command"]);
    assert_eq!(out.status.code(), Some(127), "{}", stderr(&out));
}

#[test]
fn tail_follows_the_log_up_to_the_safe_point() {
    let node = Node::demo();
    let runtime = node.start(&[]);
    runtime.call(ECHO);
    let dir = node.telemetry();
    let mut command = autonomy(&["wal", "tail", "-n", "1", "--follow", "--dir", dir.to_str().unwrap()]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let seq = |line: &str| json(line).get("seq").and_then(Value::as_u64);
    assert_eq!(seq(&lines.next().unwrap().unwrap()), Some(2));
    runtime.call(ECHO);
    assert_eq!(seq(&lines.next().unwrap().unwrap()), Some(3));
    assert_eq!(seq(&lines.next().unwrap().unwrap()), Some(4));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn results_come_as_json_where_asked() {
    let node = Node::demo();
    node.start(&[]).stop();
    let version = finish(&["version", "--output", "json"]);
    assert!(json(&stdout(&version)).get("version").is_some());
    let status = finish(&["policy", "status", "--state-root", node.path(), "--output", "json"]);
    let active = json(&stdout(&status)).get("active").cloned().unwrap();
    assert_eq!(active.get("version").and_then(Value::as_str), Some("1.0.0"));
    let fields = node.inspect();
    for field in ["log_id", "node_id", "first_seq", "last_seq", "safe_seq", "frames", "bytes", "segments", "cursors"] {
        assert!(fields.get(field).is_some(), "{field}");
    }
    let verified = finish(&["wal", "verify", "--dir", node.telemetry().to_str().unwrap(), "--output", "json"]);
    assert_eq!(json(&stdout(&verified)).get("ok").and_then(Value::as_bool), Some(true));
}
