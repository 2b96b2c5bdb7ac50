//! The drills, live: no or corrupt policy, kill -9 under load, the collector's outage, tampered releases, another system.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use machines::activation::Activation;
use machines::disk::File;
use machines::policy::bundle::{self, BuildOptions};

use crate::act1::ECHO;
use crate::http::Answer;
use crate::node::{Node, Running};
use crate::scratch::Scratch;
use crate::shell::Shell;
use crate::{checks, drill3, drill4, drill5, journal, load};

/// One row of the table.
#[derive(Debug)]
pub struct Row {
    /// The drill's number.
    pub drill: &'static str,
    /// What is broken.
    pub broken: String,
    /// What must happen.
    pub must: &'static str,
    /// What happened.
    pub happened: String,
    /// Whether it is what must happen.
    pub holds: bool,
}

/// Runs the drills, or only one of them, and prints their table; `rounds` is how often drills 2 and 3 kill.
///
/// # Errors
/// Something that a drill needs does not run at all.
pub fn run(shell: &Shell, autonomy: &Path, policies: &Path, rounds: u32, only: Option<u32>) -> Result<ExitCode> {
    let mut rows = Vec::new();
    let wanted = |drill| only.is_none_or(|only| only == drill);
    ensure!((1..=5).any(wanted), "there are drills 1 to 5");
    if wanted(1) {
        shell.act("Drill 1: no policy, a corrupt one, two corrupt ones");
        policy(shell, autonomy, policies, &mut rows)?;
    }
    if wanted(2) {
        shell.act("Drill 2: kill -9 under load");
        kills(shell, autonomy, policies, rounds, &mut rows)?;
    }
    if wanted(3) {
        shell.act("Drill 3: the collector is away, the drain is killed");
        drill3::run(shell, autonomy, policies, rounds, &mut rows)?;
    }
    if wanted(4) {
        shell.act("Drill 4: every part of a release is changed, removed, swapped, resigned, outdated");
        drill4::run(shell, autonomy, policies, &mut rows)?;
    }
    if wanted(5) {
        shell.act("Drill 5: the operating system is replaced, the key is missing, the precheck is killed");
        drill5::run(shell, autonomy, rounds, &mut rows)?;
    }
    let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
    println!("\ndrills");
    print!("{}", checks::table(&["drill", "what is broken", "what must happen", "what happened", "result"], &cells));
    let good = rows.iter().all(|row| row.holds);
    println!("drills: {} of {} as they must be", rows.iter().filter(|row| row.holds).count(), rows.len());
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let (broken, happened) = (self.broken.clone(), self.happened.clone());
        vec![self.drill.into(), broken, self.must.into(), happened, checks::word(self.holds)]
    }
}

struct Drill<'a> {
    shell: &'a Shell,
    node: Node,
    rows: &'a mut Vec<Row>,
}

impl Drill<'_> {
    fn row(&mut self, broken: &str, must: &'static str, happened: String, holds: bool) {
        self.shell.say(&format!("{} {broken}: {happened}", checks::word(holds)));
        self.rows.push(Row { drill: "1", broken: broken.into(), must, happened, holds });
    }

    fn load(&self, bundle: &Path) -> Result<crate::shell::Printed> {
        let (bundle, root) = (bundle.display().to_string(), self.node.root.display().to_string());
        self.shell.quietly(&["policy", "load", "--bundle", &bundle, "--state-root", &root])
    }

    /// Starts, asks for health and an echo, stops.
    fn ask(&self) -> Result<(String, Answer)> {
        let running = self.node.start()?;
        let mode = running.get("/health")?.text("mode");
        let echo = running.call(ECHO)?;
        stop(running)?;
        Ok((mode, echo))
    }

    fn activation(&self) -> Result<Activation> {
        let path = self.node.root.join(File::Activation.name());
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Activation::parse(&bytes).map_err(anyhow::Error::msg)
    }

    /// Flips one bit in the middle of a stored bundle.
    fn damage(&self, digest: machines::ids::Hash32) -> Result<()> {
        let path = self.node.policy().join("bundles").join(File::Bundle(digest).name());
        let mut bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// SIGTERM, and it must end with 0.
///
/// # Errors
/// It does not.
pub fn stop(running: Running) -> Result<()> {
    let status = running.stop()?;
    ensure!(status.success(), "the runtime ended with {status} on SIGTERM");
    Ok(())
}

fn policy(shell: &Shell, autonomy: &Path, policies: &Path, rows: &mut Vec<Row>) -> Result<()> {
    let scratch = Scratch::new(None)?;
    let node = Node::new(autonomy, &scratch.path().join("state"))?;
    let mut drill = Drill { shell, node, rows };
    let said = |mode: &str, echo: &Answer| {
        let reason = echo.text("reason");
        let because = if reason.is_empty() { String::new() } else { format!(", reason {reason}") };
        format!("mode {mode}; echo {} {}{because}", echo.status, echo.text("decision"))
    };

    let (mode, echo) = drill.ask()?;
    let denied = (echo.status, &*echo.text("reason")) == (403, "no_policy");
    let must = "mode no_policy; echo 403 deny, reason no_policy";
    drill.row("no policy was ever loaded", must, said(&mode, &echo), mode == "no_policy" && denied);

    for (version, name) in [("1.0.0", "one.tar.gz"), ("2.0.0", "two.tar.gz")] {
        let bundle = scratch.path().join(name);
        write_bundle(policies, version, &bundle)?;
        let done = drill.load(&bundle)?;
        ensure!(done.code == 0, "policy load of {version} failed: {}", done.err);
    }
    let before = drill.activation()?;
    let tampered = scratch.path().join("tampered.tar.gz");
    write_bundle(policies, "3.0.0", &tampered)?;
    let mut bytes = std::fs::read(&tampered)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&tampered, bytes)?;
    let done = drill.load(&tampered)?;
    let words = format!("{}{}", done.out, done.err);
    let refused = done.code == 1 && words.contains("policy load: REJECTED — ");
    let same = drill.activation()? == before;
    let happened = format!("exit {}; activation.json {}", done.code, if same { "unchanged" } else { "CHANGED" });
    drill.row("a bundle with one bit flipped is loaded", "REJECTED, exit 1; all as before", happened, refused && same);

    let (current, lkg) = (before.current.context("no current bundle")?, before.lkg.context("no LKG bundle")?);
    drill.damage(current.bundle)?;
    let (mode, echo) = drill.ask()?;
    let fallback = journal::read(&drill.node.telemetry())?.errors.iter().any(|e| e.contains("\"policy_fallback\""));
    let by = echo.text("policy_ref");
    let happened = format!("mode {mode}; echo {} by {by}; policy_fallback {}", echo.status, yes(fallback));
    let holds = mode == "normal" && echo.status == 200 && by == "1.0.0" && fallback;
    let must = "the last known good 1.0.0 decides; event policy_fallback in the log";
    drill.row("one bit of the current bundle 2.0.0 on disk", must, happened, holds);

    drill.damage(lkg.bundle)?;
    let (mode, echo) = drill.ask()?;
    let denied = (echo.status, &*echo.text("reason")) == (403, "no_policy");
    let must = "mode no_policy; echo 403 deny, reason no_policy";
    drill.row("one bit of both bundles on disk", must, said(&mode, &echo), mode == "no_policy" && denied);
    Ok(())
}

fn kills(shell: &Shell, autonomy: &Path, policies: &Path, rounds: u32, rows: &mut Vec<Row>) -> Result<()> {
    let scratch = Scratch::new(None)?;
    let node = loaded_node(shell, autonomy, policies, scratch.path())?;
    let wal = node.telemetry().display().to_string();
    let (mut answered, mut problems, mut frames) = (Vec::new(), Vec::new(), 0);
    for round in 0..rounds {
        let running = node.start()?;
        let load = load::Load::start(running.address, 64)?;
        // Moments spread over a second by an odd stride, so that rounds meet different states.
        std::thread::sleep(Duration::from_millis(150 + u64::from(round) * 617 % 1000));
        running.kill_9();
        answered.extend(load.stop());
        stop(node.start().with_context(|| format!("the start after kill {}", round + 1))?)?;
        let verified = shell.quietly(&["wal", "verify", "--dir", &wal])?;
        if verified.code != 0 {
            problems.push(format!("round {}: {}", round + 1, verified.out.trim_end()));
        }
        let journal = journal::read(&node.telemetry())?;
        problems.extend(load::missing(&answered, &journal));
        frames = journal.last;
        shell.say(&format!("kill {} of {rounds}: {} answers so far, {frames} frames", round + 1, answered.len()));
    }
    for problem in problems.iter().take(20) {
        shell.say(problem);
    }
    let holds = problems.is_empty() && answered.len() > 100;
    rows.push(Row {
        drill: "2",
        broken: format!("kill -9, {rounds} times, under 64 clients"),
        must: "every answered audit_id is in the log after each restart; wal verify OK",
        happened: format!("{} answers, {frames} frames, {} problems", answered.len(), problems.len()),
        holds,
    });
    Ok(())
}

/// A node in this folder with the demo's policy in force.
///
/// # Errors
/// The policy cannot be loaded.
pub fn loaded_node(shell: &Shell, autonomy: &Path, policies: &Path, folder: &Path) -> Result<Node> {
    let node = Node::new(autonomy, &folder.join("state"))?;
    let bundle = folder.join("one.tar.gz");
    write_bundle(policies, "1.0.0", &bundle)?;
    let (file, root) = (bundle.display().to_string(), node.root.display().to_string());
    let loaded = shell.quietly(&["policy", "load", "--bundle", &file, "--state-root", &root])?;
    ensure!(loaded.code == 0, "policy load failed: {}", loaded.err);
    Ok(node)
}

fn write_bundle(policies: &Path, version: &str, out: &PathBuf) -> Result<()> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(policies).with_context(|| format!("cannot list {}", policies.display()))? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.ends_with(".rego") && !name.ends_with("_test.rego") {
            files.insert(name, std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
        }
    }
    let options = BuildOptions { version: version.into(), ..BuildOptions::default() };
    let bytes = bundle::build(&files, &options).context("building a bundle")?;
    std::fs::write(out, bytes).with_context(|| format!("cannot write {}", out.display()))
}

fn yes(holds: bool) -> &'static str {
    if holds { "recorded" } else { "MISSING" }
}
