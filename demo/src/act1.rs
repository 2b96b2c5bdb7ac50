//! Act 1 of the story: policy in force, echo allowed, shell denied, everything durable; then a crash under load, and
//! strict mode.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::checks::Checks;
use crate::http::Answer;
use crate::node::{Node, Running};
use crate::scratch::Scratch;
use crate::shell::Shell;
use crate::{act2, act3, act4, journal, load};

/// The echo call of the story.
pub const ECHO: &str = r#"{"kind":"tool.echo","params":{"message":"hello"}}"#;
/// The shell call of the story.
pub const SHELL: &str = r#"{"kind":"tool.shell","params":{"command":"id"}}"#;

const CLIENTS: u32 = 64;

/// Plays it; `policies` is the folder of the demo's Rego files.
///
/// # Errors
/// Something that the story needs does not run at all; a check that fails is no error.
pub fn play(shell: &Shell, autonomy: &Path, policies: &Path) -> Result<Checks> {
    let scratch = Scratch::new(None)?;
    let mut checks = Checks::default();
    let mut node = Node::new(autonomy, &scratch.path().join("state"))?;
    policy(shell, &mut checks, &node, scratch.path(), policies)?;
    let running = start(shell, &node)?;
    enforcement(shell, &mut checks, &node, &running)?;
    act2::play(shell, &mut checks, &node, &running, scratch.path())?;
    act3::play(shell, &mut checks, &node, &running, &act3::received(&scratch)?)?;
    let edge = act4::play(shell, &mut checks, &node, scratch.path())?;
    let running = crash(shell, &mut checks, &node, running)?;
    act4::coda(shell, &mut checks, &edge)?;
    strict(shell, &mut checks, &mut node, running)?;
    Ok(checks)
}

/// Builds and loads the demo's policy.
///
/// # Errors
/// The binary cannot be run.
pub fn policy(shell: &Shell, checks: &mut Checks, node: &Node, scratch: &Path, policies: &Path) -> Result<()> {
    shell.act("Day 0: the policy is built and loaded");
    let policies = policies.display().to_string();
    let built = [scratch.join("bundle.tar.gz"), scratch.join("again.tar.gz")].map(|path| path.display().to_string());
    for out in &built {
        let done = shell.autonomy(&["policy", "build", "--in", &policies, "--out", out, "--version", "1.0.0"])?;
        let name = Path::new(out).file_name().unwrap_or_default().to_string_lossy();
        checks.that(&format!("policy build of {name} exits 0"), done.code == 0, &done.err);
    }
    let [first, again] = [&built[0], &built[1]].map(|path| std::fs::read(path).unwrap_or_default());
    checks.that("the same input builds the same bytes", !first.is_empty() && first == again, "the bundles differ");

    let root = node.root.display().to_string();
    let done = shell.autonomy(&["policy", "load", "--bundle", &built[0], "--state-root", &root])?;
    checks.that("policy load exits 0", done.code == 0, &done.err);
    checks.marker("policy loaded: echo_allow.rego + shell_deny.rego", &done.out);
    checks.marker("bundle hash: sha256:", &done.out);
    Ok(())
}

/// Shows and starts the runtime.
///
/// # Errors
/// It does not start.
pub fn start(shell: &Shell, node: &Node) -> Result<Running> {
    let variables: String = node.environment.iter().map(|(name, value)| format!("{name}={value} ")).collect();
    shell.type_in(&format!("{variables}autonomy {} &", node.arguments().join(" ")));
    let running = node.start()?;
    shell.print(&format!("[pid {}]", running.pid));
    Ok(running)
}

/// The calls of Act 1 and what the log holds of them.
///
/// # Errors
/// The runtime does not answer.
pub fn enforcement(shell: &Shell, checks: &mut Checks, node: &Node, running: &Running) -> Result<()> {
    shell.act("Act 1: policy enforcement");
    let health = get(shell, running, "/health", "")?;
    let body = health.body.trim_end();
    checks.that(
        r#"health is exactly {"status":"ok","mode":"normal"}"#,
        health.status == 200 && body == r#"{"status":"ok","mode":"normal"}"#,
        body,
    );
    shell.say("Runtime is up, policy loaded, mode normal.");

    let echo = post(shell, running, ECHO, ".decision")?;
    checks.that("echo: 200, decision \"allow\"", (echo.status, &*echo.text("decision")) == (200, "allow"), &echo.body);
    let denied = post(shell, running, SHELL, ".decision")?;
    let holds = (denied.status, &*denied.text("decision")) == (403, "deny");
    checks.that("shell: 403, decision \"deny\"", holds, &denied.body);
    shell.say("The policy allows echo, denies shell. Each answer names the record that it stands on:");

    let id = echo.text("audit_id");
    let told = get(shell, running, &format!("/v1/calls/{id}"), "")?;
    checks.that("the log knows the echo call", told.status == 200 && told.body.contains(&id), &told.body);

    let wal = node.telemetry().display().to_string();
    let inspect = shell.autonomy(&["wal", "inspect", "--dir", &wal, "--output", "json"])?;
    let frames = machines::json::parse(inspect.out.as_bytes(), &machines::json::Limits::default()).unwrap_or_default();
    let count = |kind| frames.get("frames").and_then(|f| f.get(kind)).and_then(machines::json::Value::as_u64);
    let holds = (count("decision"), count("action")) == (Some(2), Some(1));
    checks.that("the log holds 2 decisions and 1 action", holds, &inspect.out);
    verify(shell, checks, &wal, "after the calls")
}

fn crash(shell: &Shell, checks: &mut Checks, node: &Node, running: Running) -> Result<Running> {
    shell.act("Crash under load: kill -9 while 64 clients call");
    let wal = node.telemetry().display().to_string();
    let load = load::Load::start(running.address, CLIENTS)?;
    std::thread::sleep(Duration::from_millis(1500));
    shell.type_in(&format!("kill -9 {}", running.pid));
    running.kill_9();
    let answered = load.stop();
    shell.print(&format!("{CLIENTS} clients had {} answers before the connections broke", answered.len()));
    checks.that("the clients had answers before the crash", answered.len() > 100, "too few to prove anything");

    let running = start(shell, node)?;
    let health = get(shell, &running, "/health", "")?;
    let what = "after the crash it is up again, mode normal";
    checks.that(what, health.body.trim_end() == r#"{"status":"ok","mode":"normal"}"#, &health.body);
    let status = running.stop().context("stopping it to read the log in peace")?;
    checks.that("SIGTERM ends the runtime with 0", status.success(), &status.to_string());
    verify(shell, checks, &wal, "after the crash")?;
    let journal = journal::read(&node.telemetry())?;
    let missing = load::missing(&answered, &journal);
    let what = "every answered audit_id is in the log, with its outcome";
    shell.say(&format!("{} answered calls looked up in a log of {} frames", answered.len(), journal.last));
    checks.that(what, missing.is_empty() && !answered.is_empty(), &missing.join("\n"));
    start(shell, node)
}

fn strict(shell: &Shell, checks: &mut Checks, node: &mut Node, running: Running) -> Result<()> {
    shell.act("Coda: strict mode denies everything");
    shell.type_in(&format!("kill {}", running.pid));
    running.stop()?;
    shell.print("");
    node.environment.push(("AUTONOMY_STRICT_MODE".into(), "1".into()));
    let running = start(shell, node)?;
    let health = get(shell, &running, "/health", ".mode")?;
    checks.that("mode is \"strict\"", health.text("mode") == "strict", &health.body);
    let echo = post(shell, &running, ECHO, ".decision")?;
    let holds = (echo.status, &*echo.text("decision"), &*echo.text("reason")) == (403, "deny", "strict");
    checks.that("echo is denied in strict mode, reason strict", holds, &echo.body);
    let status = running.stop()?;
    checks.that("the runtime ends with 0", status.success(), &status.to_string());
    let journal = journal::read(&node.telemetry())?;
    let recorded = journal.calls.get(&echo.text("audit_id")).and_then(|call| call.decision.clone()).unwrap_or_default();
    checks.that("the strict deny is in the log", recorded.contains(r#""reason":"strict""#), &recorded);
    shell.say("The system never proceeds with unverifiable state.");
    Ok(())
}

/// `wal verify` must say that the log is good.
///
/// # Errors
/// The binary cannot be run.
pub fn verify(shell: &Shell, checks: &mut Checks, wal: &str, when: &str) -> Result<()> {
    let done = shell.autonomy(&["wal", "verify", "--dir", wal])?;
    checks.that(
        &format!("wal verify: OK, {when}"),
        done.code == 0 && done.out.starts_with("wal verify: OK — "),
        &done.out,
    );
    Ok(())
}

/// `curl` as a person would type it, and what `jq` would print; an empty filter prints the body as it is.
fn get(shell: &Shell, running: &Running, path: &str, filter: &str) -> Result<Answer> {
    shell.type_in(&format!("curl -s http://{}{path}{}", running.address, piped(filter)));
    let answer = running.get(path)?;
    shell.print(&filtered(&answer, filter));
    Ok(answer)
}

/// A tool call, by `curl` as a person would type it.
///
/// # Errors
/// No answer.
pub fn post(shell: &Shell, running: &Running, body: &str, filter: &str) -> Result<Answer> {
    let url = format!("http://{}/v1/tool", running.address);
    shell.type_in(&format!(
        "curl -s -X POST {url} \\\n    -H 'Content-Type: application/json' \\\n    -d '{body}'{}",
        piped(filter)
    ));
    let answer = running.call(body)?;
    shell.print(&filtered(&answer, filter));
    Ok(answer)
}

fn piped(filter: &str) -> String {
    if filter.is_empty() { String::new() } else { format!(" | jq {filter}") }
}

fn filtered(answer: &Answer, filter: &str) -> String {
    let member = filter.trim_start_matches('.');
    if member.is_empty() {
        return answer.body.clone();
    }
    answer.json().get(member).map_or_else(|| "null".into(), machines::json::Value::to_text)
}
