//! What is answered is in the log, whatever happens to the process (I-D1, I-D2).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use machines::json::Value;

use crate::harness::{ECHO, Node, SHELL, stderr, stdout, until};

fn ids_of(node: &Node, kind: &str) -> Vec<String> {
    let is = |frame: &&Value| frame.get("kind").and_then(Value::as_str) == Some(kind);
    let id = |frame: &Value| frame.get("audit_id").and_then(Value::as_str).unwrap().to_owned();
    node.frames().iter().filter(is).map(id).collect()
}

#[test]
fn x01_after_a_kill_under_load_every_answered_call_is_in_the_log_exactly_once() {
    let node = Node::demo();
    let answered = Arc::new(Mutex::new(BTreeSet::new()));
    for round in 0..8 {
        let runtime = node.start(&[]);
        let before = answered.lock().unwrap().len();
        let stop = Arc::new(AtomicBool::new(false));
        let callers: Vec<_> = (0..6)
            .map(|n| {
                let (answered, stop, address) = (Arc::clone(&answered), Arc::clone(&stop), runtime.address);
                std::thread::spawn(move || {
                    let mut connection = crate::harness::Connection::to(address);
                    while !stop.load(Ordering::Relaxed) {
                        let body = if n % 3 == 0 { SHELL } else { ECHO };
                        let text = crate::harness::request(
                            "POST",
                            "/v1/tool",
                            &["Host: localhost", "Content-Type: application/json"],
                            body,
                        );
                        // The runtime dies in the middle of this.
                        if connection.send(text.as_bytes()).is_err() {
                            return;
                        }
                        let Some(answer) = connection.receive() else { return };
                        answered.lock().unwrap().insert((answer.text("audit_id"), answer.status));
                    }
                })
            })
            .collect();
        until("answers", || (answered.lock().unwrap().len() >= before + 40 + round).then_some(()));
        runtime.kill();
        stop.store(true, Ordering::Relaxed);
        callers.into_iter().for_each(|caller| caller.join().unwrap());
    }
    let runtime = node.start(&[]);
    // Recovery has finished what was cut short: each durable allow has one outcome.
    runtime.stop();
    let verified = node.verify();
    assert!(verified.status.success(), "{}{}", stdout(&verified), stderr(&verified));
    let decisions = ids_of(&node, "decision");
    let unique: BTreeSet<_> = decisions.iter().collect();
    assert_eq!(unique.len(), decisions.len());
    let outcomes: Vec<_> = [ids_of(&node, "action"), ids_of(&node, "error")].concat();
    for (id, status) in answered.lock().unwrap().iter() {
        assert!(unique.contains(id), "{id} was answered and is not in the log");
        if *status == 200 {
            assert_eq!(outcomes.iter().filter(|outcome| *outcome == id).count(), 1, "{id}");
        }
    }
    let allows = node
        .frames()
        .iter()
        .filter(|f| f.get("body").and_then(|b| b.get("decision")).and_then(Value::as_str) == Some("allow"))
        .count();
    let closed = outcomes.iter().filter(|id| unique.contains(id)).count();
    assert_eq!(allows, closed, "each durable allow has an outcome after the restart");
}

#[test]
fn x08_sigterm_in_the_middle_of_work_answers_what_runs_and_ends_with_zero() {
    let node = Node::with_policy("package autonomy\nallow := true");
    let config = node.root.path().join("runtime.toml");
    std::fs::write(&config, "[tools.shell]\nenabled = true\n").unwrap();
    let mut runtime = node.start(&["--config", config.to_str().unwrap()]);
    let gate = node.root.path().join("gate");
    let script = format!("touch {0}.up; while [ ! -e {0} ]; do sleep 0.01; done; echo done", gate.display());
    let body = format!(r#"{{"kind":"tool.shell","params":{{"argv":["/bin/sh","-c",{:?}]}}}}"#, script);
    let mut connection = runtime.connect();
    let text =
        crate::harness::request("POST", "/v1/tool", &["Host: localhost", "Content-Type: application/json"], &body);
    connection.send(text.as_bytes()).unwrap();
    let up = gate.with_extension("up");
    until("the tool's start", || up.exists().then_some(()));
    runtime.signal("TERM");
    runtime.logged("runtime.stopping");
    until("the end of the listener", || std::net::TcpStream::connect(runtime.address).err());
    std::fs::write(&gate, b"").unwrap();
    let answer = connection.receive().unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(runtime.ended().code(), Some(0));
    runtime.logged("runtime.stopped");
    assert!(node.verify().status.success());
    assert_eq!(node.inspect().get("safe_seq"), node.inspect().get("last_seq"));
}

#[test]
fn a_durable_allow_without_an_outcome_gets_one_after_a_crash() {
    let node = Node::with_policy("package autonomy\nallow := true");
    let config = node.root.path().join("runtime.toml");
    std::fs::write(&config, "[tools.shell]\nenabled = true\n").unwrap();
    let args = ["--config", config.to_str().unwrap()];
    let runtime = node.start(&args);
    let up = node.root.path().join("up");
    let body =
        format!(r#"{{"kind":"tool.shell","params":{{"argv":["/bin/sh","-c","touch {}; sleep 60"]}}}}"#, up.display());
    let mut connection = runtime.connect();
    let text =
        crate::harness::request("POST", "/v1/tool", &["Host: localhost", "Content-Type: application/json"], &body);
    connection.send(text.as_bytes()).unwrap();
    until("the tool's start", || up.exists().then_some(()));
    runtime.kill();
    node.start(&args).stop();
    let frames = node.frames();
    assert_eq!(frames.len(), 2, "{frames:?}");
    assert_eq!(frames[0].get("audit_id"), frames[1].get("audit_id"));
    assert_eq!(frames[1].get("body").and_then(|b| b.get("code")), Some(&Value::from("outcome_unknown")));
}

#[test]
fn d23_a_second_writer_is_refused_with_the_first_ones_process_number() {
    let node = Node::demo();
    let runtime = node.start(&[]);
    let mut second = crate::harness::Runtime::spawn(node.command(&[]));
    assert_eq!(second.ended().code(), Some(1));
    let line = second.logged("telemetry.lock");
    assert!(line.contains(&runtime.child.id().to_string()), "{line}");
    assert_eq!(runtime.call(ECHO).status, 200);
}

#[test]
fn d27_a_log_folder_that_is_a_link_is_refused() {
    let node = Node::demo();
    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), node.telemetry()).unwrap();
    let mut refused = crate::harness::Runtime::spawn(node.command(&[]));
    assert_eq!(refused.ended().code(), Some(1));
    refused.logged("symbolic link");
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

#[test]
fn d26_a_log_cut_by_an_operator_fails_closed_until_a_restart() {
    let node = Node::demo();
    let runtime = node.start(&[]);
    assert_eq!(runtime.call(ECHO).status, 200);
    let wal = node.telemetry().join("telemetry.wal");
    std::fs::File::options().write(true).open(&wal).unwrap().set_len(100).unwrap();
    let answer = runtime.call(ECHO);
    assert_eq!((answer.status, answer.decision().as_str(), answer.reason().as_str()), (503, "deny", "wal_failed"));
    assert_eq!(runtime.call(SHELL).status, 503);
    assert_eq!(runtime.get("/health").body, r#"{"status":"degraded","mode":"wal_failed"}"#);
    runtime.logged("wal_failed");
    drop(runtime);
    let mut refused = crate::harness::Runtime::spawn(node.command(&[]));
    assert_eq!(refused.ended().code(), Some(1));
    refused.logged("WAL_RECOVERY_FAIL_HARD");
}

#[test]
fn d03_a_torn_tail_is_cut_and_said() {
    use std::io::Write as _;
    let node = Node::demo();
    let runtime = node.start(&[]);
    runtime.call(ECHO);
    runtime.kill();
    let wal = node.telemetry().join("telemetry.wal");
    std::fs::File::options().append(true).open(&wal).unwrap().write_all(&[0, 0, 1, 0, b'{', b'"']).unwrap();
    let torn = node.verify();
    assert_eq!(torn.status.code(), Some(1));
    assert!(
        stdout(&torn).starts_with("wal verify: FAILED — TORN_TAIL at seq 3 (telemetry.wal, offset "),
        "{}",
        stdout(&torn)
    );
    let runtime = node.start(&[]);
    runtime.logged("wal_tail_truncated");
    runtime.stop();
    assert!(node.verify().status.success());
    let last = node.frames().pop().unwrap();
    assert_eq!(last.get("body").and_then(|b| b.get("bytes")), Some(&Value::from(6u64)));
}

#[test]
fn d04_a_damaged_frame_below_the_safe_point_refuses_to_start_and_repair_is_the_way_out() {
    let node = Node::demo();
    let runtime = node.start(&[]);
    for _ in 0..4 {
        runtime.call(ECHO);
    }
    runtime.stop();
    let wal = node.telemetry().join("telemetry.wal");
    let mut bytes = std::fs::read(&wal).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&wal, &bytes).unwrap();
    let found = node.verify();
    assert_eq!(found.status.code(), Some(1));
    assert!(stdout(&found).starts_with("wal verify: FAILED — WAL_CORRUPT_"), "{}", stdout(&found));
    let mut refused = crate::harness::Runtime::spawn(node.command(&[]));
    assert_eq!(refused.ended().code(), Some(1));
    refused.logged("WAL_RECOVERY_FAIL_HARD");
    assert_eq!(std::fs::read(&wal).unwrap(), bytes, "nothing on the disk may change");

    let dir = node.telemetry();
    let dry = crate::harness::finish(&["wal", "repair", "--dir", dir.to_str().unwrap()]);
    assert_eq!(dry.status.code(), Some(1));
    assert_eq!(std::fs::read(&wal).unwrap(), bytes);
    let mended = crate::harness::finish(&["wal", "repair", "--yes", "--dir", dir.to_str().unwrap()]);
    assert!(mended.status.success(), "{}{}", stdout(&mended), stderr(&mended));
    let quarantine = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).find(|path| path.is_dir()).unwrap();
    assert_eq!(std::fs::read(quarantine.join("telemetry.wal")).unwrap(), bytes);
    assert!(node.verify().status.success(), "{}", stdout(&node.verify()));
    let runtime = node.start(&[]);
    assert_eq!(runtime.call(ECHO).status, 200);
    runtime.stop();
    let codes: Vec<_> =
        node.frames().iter().filter_map(|f| f.get("body")?.get("code")?.as_str().map(str::to_owned)).collect();
    assert!(codes.contains(&"wal_lost_range".to_owned()), "{codes:?}");
}

#[test]
fn verify_may_run_beside_a_writer_and_finds_no_false_damage() {
    let node = Node::demo();
    let runtime = node.start(&[]);
    let stop = Arc::new(AtomicBool::new(false));
    let caller = {
        let (stop, mut connection) = (Arc::clone(&stop), runtime.connect());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(connection.call(ECHO).status, 200);
            }
        })
    };
    for _ in 0..20 {
        let verified = node.verify();
        assert!(verified.status.success(), "{}", stdout(&verified));
    }
    stop.store(true, Ordering::Relaxed);
    caller.join().unwrap();
}

#[test]
fn a_folder_without_a_log_is_a_source_that_cannot_be_read() {
    let node = Node::bare();
    let dir = node.path();
    for command in ["inspect", "verify"] {
        assert_eq!(crate::harness::finish(&["wal", command, "--dir", dir]).status.code(), Some(3), "{command}");
        assert_eq!(crate::harness::finish(&["wal", command, "--dir", "/no/such/folder"]).status.code(), Some(3));
    }
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0);
}
