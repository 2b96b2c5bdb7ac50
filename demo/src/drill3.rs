//! Drill 3, live: the collector is out while calls go on, and the drain is killed at random moments.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use machines::json::Value;

use crate::act3::{logged, received};
use crate::drills::{Row, loaded_node, stop};
use crate::load;
use crate::node::without_ours;
use crate::scratch::{self, Scratch};
use crate::shell::Shell;
use crate::sink::Sink;

/// Records in a batch of the drain that is killed: small, so that a kill meets it between batches too.
const BATCH: usize = 16;
/// A call that is allowed and fails: its outcome is an error event.
const FAILING: &str = r#"{"kind":"tool.echo","params":{"message":["not","a","text"],"extra":1}}"#;

/// Runs the drill; `rounds` is how often the drain is killed.
///
/// # Errors
/// Something that the drill needs does not run at all.
pub fn run(shell: &Shell, autonomy: &Path, policies: &Path, rounds: u32, rows: &mut Vec<Row>) -> Result<()> {
    outage(shell, autonomy, policies, rows)?;
    kills(shell, autonomy, policies, rounds, rows)
}

/// The collector is away while 64 clients call a runtime that drains in the background.
fn outage(shell: &Shell, autonomy: &Path, policies: &Path, rows: &mut Vec<Row>) -> Result<()> {
    let scratch = Scratch::new(None)?;
    let mut node = loaded_node(shell, autonomy, policies, scratch.path())?;
    let sink = Sink::new(autonomy, &received(&scratch)?)?;
    node.flags = vec!["--otlp-endpoint".into(), format!("http://{}", sink.address)];
    let running = node.start()?;
    let load = load::Load::start(running.address, 64)?;
    std::thread::sleep(Duration::from_millis(1_000));
    let answered = load.stop();
    let refused = running.call(FAILING)?;
    ensure!(refused.text("decision") == "allow" && refused.status != 200, "not a failing call: {}", refused.body);
    let up = sink.quietly("accept")?;
    // The background comes by itself; a clean stop before it is done would only leave the rest for the next start.
    let waited = wait_until(|| Ok(running.get("/v1/status")?.json().get("wal").and_then(undelivered) == Some(0)))?;
    stop(running)?;
    up.stop()?;
    let records = sink.records()?;
    let first = records.first().and_then(|record| record.get("kind")).and_then(Value::as_str).unwrap_or("nothing");
    let log = logged(&node.telemetry())?;
    let (ids, duplicates) = sink.ids()?;
    let happened = format!(
        "{} calls, {} records, {duplicates} twice, {} lost; first delivered: {first}",
        answered.len(),
        log.len(),
        log.difference(&ids).count()
    );
    let holds = waited && ids == log && first == "error" && answered.len() > 100;
    shell.say(&happened);
    rows.push(Row {
        drill: "3",
        broken: "the collector is away while 64 clients call".into(),
        must: "calls are answered; then every record arrives, the error first",
        happened,
        holds,
    });
    Ok(())
}

fn undelivered(wal: &Value) -> Option<u64> {
    wal.get("undelivered").and_then(Value::as_u64)
}

/// `kill -9` of the drain at odd moments while calls go on, then a drain to the end.
fn kills(shell: &Shell, autonomy: &Path, policies: &Path, rounds: u32, rows: &mut Vec<Row>) -> Result<()> {
    let scratch = Scratch::new(None)?;
    let node = loaded_node(shell, autonomy, policies, scratch.path())?;
    let sink = Sink::new(autonomy, &received(&scratch)?)?;
    let up = sink.quietly("accept")?;
    let running = node.start()?;
    let (wal, url) = (node.telemetry().display().to_string(), format!("http://{}", sink.address));
    let batch = BATCH.to_string();
    let drain = ["telemetry", "drain", "--dir", &wal, "--endpoint", &url, "--batch", &batch];
    let mut killed = 0;
    for round in 0..rounds {
        // More calls than the drain delivers in that time, so that a kill never comes too late.
        let load = load::Load::start(running.address, 16)?;
        let mut command = Command::new(autonomy);
        without_ours(&mut command);
        let child = command.args(drain).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = scratch::guarded(child.with_context(|| format!("cannot run {}", autonomy.display()))?);
        std::thread::sleep(Duration::from_millis(20 + u64::from(round) * 37 % 180));
        killed += u32::from(scratch::lock(&child).try_wait()?.is_none());
        scratch::kill(&child);
        let _ = load.stop();
        if round % 10 == 9 {
            shell.say(&format!("drain killed {killed} times in {} rounds", round + 1));
        }
    }
    stop(running)?;
    let last = shell.quietly(&drain)?;
    let again = shell.quietly(&drain)?;
    up.stop()?;
    let log: BTreeSet<String> = logged(&node.telemetry())?;
    let (ids, duplicates) = sink.ids()?;
    let most = usize::try_from(killed).unwrap_or(0) * BATCH;
    let happened = format!(
        "{killed} kills, {} records, {} lost, {duplicates} twice (at most {most})",
        log.len(),
        log.difference(&ids).count()
    );
    let holds = last.code == 0
        && again.out.contains("drain complete: 0 events sent")
        && ids == log
        && duplicates <= most
        && killed * 2 > rounds;
    shell.say(&happened);
    rows.push(Row {
        drill: "3",
        broken: format!("kill -9 of the drain, {rounds} times, while calls go on"),
        must: "the collector's ids are the log's; at most one batch twice for each kill",
        happened,
        holds,
    });
    Ok(())
}

/// Asks until it holds, for at most a minute; whether it did.
fn wait_until(mut holds: impl FnMut() -> Result<bool>) -> Result<bool> {
    for _ in 0..1_200 {
        if holds()? {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(false)
}
