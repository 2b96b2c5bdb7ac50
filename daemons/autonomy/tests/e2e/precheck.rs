//! SPEC 2, 10: a runtime that requires a precheck, with markers as `edged precheck` leaves them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use machines::json::Value;

use crate::harness::{ECHO, Node, Runtime, finish, stderr, until};

const OTHER_BOOT: &str = "00000000-0000-4000-8000-000000000000";

fn this_boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned()
}

fn bootstrap(node: &Node) -> PathBuf {
    node.root.path().join("bootstrap")
}

/// Replaces the marker by one rename.
fn mark(node: &Node, boot_id: &str, exit: u8) {
    let folder = bootstrap(node);
    std::fs::create_dir_all(&folder).unwrap();
    let temp = folder.join(".marker");
    std::fs::write(&temp, format!("{{\n  \"boot_id\": \"{boot_id}\",\n  \"exit\": {exit}\n}}\n")).unwrap();
    std::fs::rename(temp, folder.join("precheck.json")).unwrap();
}

fn health(runtime: &Runtime) -> String {
    runtime.get("/health").body
}

const FAILED: &str = r#"{"status":"degraded","mode":"precheck_failed"}"#;
const NORMAL: &str = r#"{"status":"ok","mode":"normal"}"#;

/// Waits for this health; it must come within two seconds of what was done to the marker.
fn turns(runtime: &Runtime, want: &str) {
    let since = Instant::now();
    until("the marker to count", || (health(runtime) == want).then_some(()));
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
}

fn denied(runtime: &Runtime) {
    let answer = runtime.call(ECHO);
    assert_eq!((answer.status, answer.decision().as_str()), (403, "deny"), "{}", answer.body);
    assert_eq!(answer.reason(), "precheck_failed");
    assert_eq!(answer.text("audit_id").len(), 36);
}

fn reason(runtime: &Runtime) -> String {
    let status = runtime.get("/v1/status").json();
    let precheck = status.get("precheck").cloned().unwrap_or(Value::Null);
    assert_eq!(precheck.get("passed"), Some(&Value::Bool(false)), "{precheck:?}");
    precheck.get("reason").and_then(Value::as_str).unwrap().to_owned()
}

#[test]
fn without_a_precheck_of_this_boot_nothing_is_allowed_and_every_call_is_recorded() {
    let node = Node::demo();
    let runtime = node.start(&["--require-precheck"]);
    assert_eq!(health(&runtime), FAILED);
    assert_eq!(runtime.get("/ready").status, 503);
    denied(&runtime);
    assert_eq!(reason(&runtime), "no precheck was run");
    runtime.logged("level=WARN msg=\"precheck_failed\" reason=\"no precheck was run\"");
    assert!(runtime.get("/metrics").body.contains("autonomy_mode{mode=\"precheck_failed\"} 1"));
    // Another boot's does not count, whatever it says; and then this one's does.
    mark(&node, OTHER_BOOT, 0);
    until("the other boot's marker", || reason(&runtime).contains("another boot").then_some(()));
    denied(&runtime);
    mark(&node, &this_boot(), 0);
    turns(&runtime, NORMAL);
    assert_eq!(runtime.call(ECHO).status, 200);
    assert_eq!(runtime.get("/ready").status, 200);
    runtime.logged("level=INFO msg=\"precheck_passed\"");
    runtime.stop();
    let frames = node.frames();
    let reasons: Vec<_> = frames.iter().filter_map(|f| f.get("body")?.get("reason")?.as_str()).collect();
    assert_eq!(reasons, ["precheck_failed", "precheck_failed"]);
    assert_eq!(frames.len(), 4, "two denies, a decision and an action");
}

#[test]
fn a_marker_that_passes_counts_from_the_first_call_on_and_denies_again_when_it_turns_bad() {
    let node = Node::demo();
    mark(&node, &this_boot(), 0);
    let runtime = node.start(&["--require-precheck"]);
    assert_eq!(runtime.call(ECHO).status, 200);
    mark(&node, &this_boot(), 5);
    turns(&runtime, FAILED);
    denied(&runtime);
    assert_eq!(reason(&runtime), "this boot's precheck ended with exit 5");
    mark(&node, &this_boot(), 0);
    turns(&runtime, NORMAL);
    // The folder is taken away, and comes back as another one.
    std::fs::rename(bootstrap(&node), node.root.path().join("aside")).unwrap();
    turns(&runtime, FAILED);
    mark(&node, &this_boot(), 0);
    turns(&runtime, NORMAL);
    runtime.stop();
}

#[test]
fn d27_a_marker_or_folder_that_is_a_link_or_no_marker_does_not_count() {
    let node = Node::demo();
    let real = node.root.path().join("real");
    mark(&node, &this_boot(), 0);
    std::fs::rename(bootstrap(&node), &real).unwrap();
    let link = |to: &Path, at: &Path| std::os::unix::fs::symlink(to, at).unwrap();
    link(&real, &bootstrap(&node));
    let runtime = node.start(&["--require-precheck"]);
    denied(&runtime);
    std::fs::remove_file(bootstrap(&node)).unwrap();
    std::fs::create_dir(bootstrap(&node)).unwrap();
    let marker = bootstrap(&node).join("precheck.json");
    link(&real.join("precheck.json"), &marker);
    until("the linked marker", || reason(&runtime).contains("cannot be read").then_some(()));
    denied(&runtime);
    std::fs::remove_file(&marker).unwrap();
    std::fs::write(&marker, format!("{{\"boot_id\":\"{}\",\"exit\":0", this_boot())).unwrap();
    until("the torn marker", || reason(&runtime).starts_with("bootstrap/precheck.json: ").then_some(()));
    denied(&runtime);
    runtime.stop();
}

#[test]
fn x12_a_required_precheck_stands_in_the_file_or_the_flag_and_strict_comes_first() {
    let node = Node::demo();
    let config = node.root.path().join("runtime.toml");
    let config_flag = ["--config", config.to_str().unwrap()];
    for (file, flags, mode) in [
        ("", &[][..], "normal"),
        ("require_precheck = true\n", &[], "precheck_failed"),
        ("require_precheck = false\n", &["--require-precheck"], "precheck_failed"),
        ("require_precheck = true\nstrict = true\n", &[], "strict"),
    ] {
        std::fs::write(&config, file).unwrap();
        let runtime = node.start(&[&config_flag[..], flags].concat());
        assert_eq!(runtime.get("/v1/status").text("mode"), mode, "{file:?} {flags:?}");
        if mode == "strict" {
            assert_eq!(runtime.call(ECHO).reason(), "strict");
        }
        runtime.stop();
    }
    std::fs::write(&config, "require_prechek = true\n").unwrap();
    let refused = finish(&["runtime", "start", "--config", config_flag[1]]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("did you mean `require_precheck`?"), "{}", stderr(&refused));
}

#[test]
fn without_a_policy_the_precheck_is_named_first() {
    let node = Node::bare();
    let runtime = node.start(&["--require-precheck"]);
    denied(&runtime);
    mark(&node, &this_boot(), 0);
    turns(&runtime, r#"{"status":"degraded","mode":"no_policy"}"#);
    assert_eq!(runtime.call(ECHO).reason(), "no_policy");
    runtime.stop();
}
