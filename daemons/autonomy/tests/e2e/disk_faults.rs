//! A disk that fails, for real: `strace` puts the errors where the kernel would (FAULTS D05, D06, D07, D09). Where there
//! is no `strace`, or it may not trace, these tests say so and do nothing; on CI they fail.

use std::process::{Command, Stdio};

use crate::harness::{ECHO, Node, Response, Runtime};

/// A runtime under strace with one injected fault.
fn under(node: &Node, inject: &str) -> Option<Runtime> {
    let works = Command::new("strace").args(["-e", "trace=none", "true"]).stderr(Stdio::null()).status();
    if !works.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("CI").is_none(), "strace is missing or may not trace; install it");
        eprintln!("strace is not there or may not trace: this test proves nothing here");
        return None;
    }
    let plain = node.command(&[]);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "--signal=none", "-o", "/dev/null", "-e", inject]);
    command.arg(plain.get_program()).args(plain.get_args()).env_remove("AUTONOMY_STRICT_MODE");
    Some(Runtime::spawn(command).started())
}

/// strace passes no signals on to what it traces: ends the runtime itself.
fn end(node: &Node, runtime: Runtime) {
    let pid = std::fs::read_to_string(node.telemetry().join("telemetry.lock")).unwrap();
    let _ = Command::new("kill").args(["-s", "KILL", pid.trim()]).status();
    drop(runtime);
}

fn fails_closed(inject: &str) {
    let node = Node::demo();
    // One good run first, so that the injected one counts from the same state.
    let runtime = node.start(&[]);
    assert_eq!(runtime.call(ECHO).status, 200);
    runtime.stop();
    let before = node.frames().len();
    let Some(runtime) = under(&node, inject) else { return };
    let mut answers: Vec<Response> = Vec::new();
    // strace counts for each thread by itself, and a call is served by any of several.
    while answers.len() < 200 && answers.iter().filter(|answer| answer.status != 200).count() < 4 {
        answers.push(runtime.call(ECHO));
    }
    let failed = answers.iter().position(|answer| answer.status != 200).expect("the fault was met");
    assert!(matches!(answers[failed].status, 500 | 503), "{:?}", answers[failed]);
    for answer in &answers[failed + 1..] {
        assert_eq!((answer.status, answer.decision().as_str(), answer.reason().as_str()), (503, "deny", "wal_failed"));
    }
    assert_eq!(runtime.get("/health").body, r#"{"status":"degraded","mode":"wal_failed"}"#);
    end(&node, runtime);
    // A restart recovers from what is on the disk: what was answered is there.
    let runtime = node.start(&[]);
    assert_eq!(runtime.call(ECHO).status, 200);
    runtime.stop();
    assert!(node.verify().status.success());
    assert!(node.frames().len() >= before + 2 * failed);
}

#[test]
fn d05_a_sync_that_fails_once_stops_the_log_until_a_restart() {
    fails_closed("inject=fdatasync:error=EIO:when=9");
}

#[test]
fn d06_a_late_write_error_stops_it_as_well() {
    fails_closed("inject=pwrite64:error=EIO:when=11");
}

#[test]
fn d07_d08_a_full_disk_denies_and_loses_nothing() {
    fails_closed("inject=pwrite64:error=ENOSPC:when=11");
    fails_closed("inject=fdatasync:error=ENOSPC:when=9");
}

#[test]
fn d09_interrupted_calls_are_continued_and_counted() {
    let node = Node::demo();
    let Some(runtime) = under(&node, "inject=pwrite64:error=EINTR:when=5+7") else { return };
    for _ in 0..10 {
        assert_eq!(runtime.call(ECHO).status, 200);
    }
    let metrics = runtime.get("/metrics").body;
    let count = metrics.lines().find_map(|line| line.strip_prefix("autonomy_disk_continued_writes_total ")).unwrap();
    assert!(count.parse::<u64>().unwrap() > 0);
    end(&node, runtime);
}
