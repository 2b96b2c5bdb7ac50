//! Act 3 of the story: the collector is down, the agents go on, nothing is lost, and everything is delivered after.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use machines::drain::batch::event_id;

use crate::act1::{post, start, verify};
use crate::checks::Checks;
use crate::node::{Node, Running};
use crate::scratch::Scratch;
use crate::shell::Shell;
use crate::sink::Sink;
use crate::{act1, journal};

/// Plays Act 3 alone, behind Act 1's two calls.
///
/// # Errors
/// Something that the story needs does not run at all; a check that fails is no error.
pub fn alone(shell: &Shell, autonomy: &Path, policies: &Path) -> Result<Checks> {
    let scratch = Scratch::new(None)?;
    let mut checks = Checks::default();
    let node = Node::new(autonomy, &scratch.path().join("state"))?;
    act1::policy(shell, &mut checks, &node, scratch.path(), policies)?;
    let running = start(shell, &node)?;
    post(shell, &running, act1::ECHO, ".decision")?;
    post(shell, &running, act1::SHELL, ".decision")?;
    play(shell, &mut checks, &node, &running, &scratch.path().join("received"))?;
    let status = running.stop()?;
    checks.that("SIGTERM ends the runtime with 0", status.success(), &status.to_string());
    Ok(checks)
}

/// Plays it on a node whose log holds Act 1's two calls and nothing else.
///
/// # Errors
/// Something that the story needs does not run at all.
pub fn play(shell: &Shell, checks: &mut Checks, node: &Node, running: &Running, received: &Path) -> Result<()> {
    shell.act("Act 3: the collector is down, nothing is lost");
    let sink = Sink::new(&node.autonomy, received)?;
    let up = sink.start(shell)?;
    shell.say("The collector is there, and then it is not.");
    shell.type_in(&format!("kill {}", up.pid));
    up.stop()?;
    shell.print("");
    for n in 1..=3 {
        let call = format!(r#"{{"kind":"tool.echo","params":{{"message":"offline-{n}"}}}}"#);
        let answer = post(shell, running, &call, ".decision")?;
        let holds = (answer.status, &*answer.text("decision")) == (200, "allow");
        checks.that(&format!("offline call {n} is allowed"), holds, &answer.body);
    }

    let wal = node.telemetry().display().to_string();
    let url = format!("http://{}", sink.address);
    let drain = ["telemetry", "drain", "--dir", &wal, "--endpoint", &url];
    let failed = shell.autonomy(&drain)?;
    checks.marker("[drain] OTLP error: connection refused", &failed.err);
    checks.marker("drain failed: could not reach endpoint", &failed.err);
    checks.that("the drain exits 3", failed.code == 3, &failed.code.to_string());
    verify(shell, checks, &wal, "after the failed drain")?;

    let up = sink.start(shell)?;
    let done = shell.autonomy(&drain)?;
    let queue = "[drain] priority queue: 5 events (0 errors, 5 decisions, 0 lifecycle)";
    checks.that(&format!("the drain begins with {queue}"), done.out.starts_with(queue), &done.out);
    checks.marker("[drain] batch 1 accepted: 5 events", &done.out);
    checks.marker("drain complete: 5 events sent", &done.out);
    checks.that("the drain exits 0", done.code == 0, &done.err);
    let again = shell.autonomy(&drain)?;
    checks.marker("drain complete: 0 events sent", &again.out);
    up.stop()?;
    shell.print("");

    let (ids, duplicates) = sink.ids()?;
    let log = logged(&node.telemetry())?;
    let what = format!("the collector holds exactly the log's {} records, each once", log.len());
    checks.that(&what, ids == log && duplicates == 0, &format!("{} ids, {duplicates} duplicates", ids.len()));
    shell.say("Written before and during the outage, none deleted on failure, all delivered after.");
    Ok(())
}

/// The event ids of every record in a log to which nobody writes.
pub fn logged(telemetry: &Path) -> Result<BTreeSet<String>> {
    let mut ids = BTreeSet::new();
    let node = journal::base(telemetry)?.node_id;
    journal::each(telemetry, &mut |frame| {
        ids.insert(event_id(&node, frame));
    })?;
    Ok(ids)
}

/// Where a drill or an act puts what its sink receives.
pub fn received(scratch: &Scratch) -> Result<PathBuf> {
    let folder = scratch.path().join("received");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}
