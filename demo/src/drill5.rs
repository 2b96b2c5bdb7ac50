//! Drill 5, live: another operating system under the node, with what must be refused and with kills in the middle.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use machines::precheck::chain::Chain;
use machines::precheck::files::Name;

use crate::act4::{AGENT, seal, stored, tamper, write};
use crate::checks::{self, Checks};
use crate::drills::Row;
use crate::edge::Edge;
use crate::node::Node;
use crate::scratch::Scratch;
use crate::shell::Shell;

/// Large enough that a kill falls into the copy.
const LARGE: usize = 16 << 20;

struct Drill<'a> {
    shell: &'a Shell,
    muted: Shell,
    edge: Edge,
    rows: &'a mut Vec<Row>,
}

/// Runs it.
///
/// # Errors
/// Something that the drill needs does not run at all.
pub fn run(shell: &Shell, autonomy: &Path, rounds: u32, rows: &mut Vec<Row>) -> Result<()> {
    let scratch = Scratch::new(None)?;
    let node = Node::new(autonomy, &scratch.path().join("state"))?;
    let edge = Edge::new(&node, scratch.path())?;
    let muted = shell.muted();
    let mut drill = Drill { shell, muted, edge, rows };
    ensure!(drill.edge.init(&drill.muted)?.code == 0, "edged init failed");
    drill.seal(1)?;
    ensure!(drill.edge.precheck(&drill.muted)?.code == 0, "the first precheck failed");

    drill.passes("nothing: another system, a signed manifest", 1)?;
    let key = drill.edge.path(Name::Key);
    drill.refused("key: removed", "manifest verify key missing on reconstruction path", &key, None)?;
    drill.refused("key: another one", "manifest signature is not good", &key, Some(&[7; 32]))?;
    let manifest = drill.edge.path(Name::Manifest);
    let mut altered = read(&manifest)?;
    let at = altered.iter().position(|b| *b == b'1').context("a version in the manifest")?;
    altered[at] = b'9';
    drill.refused("manifest: a byte of it", "manifest signature is not good", &manifest, Some(&altered))?;
    drill.refused("manifest: removed", "manifest or its signature missing", &manifest, None)?;
    let source = drill.edge.runtime().join("binaries/bin/agent");
    drill.refused("binary: another one after signing", "is not what was signed", &source, Some(b"evil"))?;
    let fingerprint = drill.edge.path(Name::Fingerprint);
    drill.refused("fingerprint: wiped beside evidence", "contradict each other", &fingerprint, None)?;
    let chain = drill.edge.path(Name::Chain);
    let first = read(&chain)?.split_inclusive(|b| *b == b'\n').next().unwrap_or_default().to_vec();
    drill.refused("chain: set back to its first line", "contradict each other", &chain, Some(&first))?;
    drill.older()?;
    drill.kills(rounds)
}

impl Drill<'_> {
    fn row(&mut self, broken: &str, must: &'static str, happened: String, holds: bool) {
        self.shell.say(&format!("{} {broken}: {happened}", checks::word(holds)));
        self.rows.push(Row { drill: "5", broken: broken.into(), must, happened, holds });
    }

    /// A signed manifest of this version; every command of it has to succeed.
    fn seal(&self, version: u64) -> Result<()> {
        let mut checks = Checks::muted();
        seal(&self.muted, &mut checks, &self.edge, version)?;
        ensure!(checks.all_pass(), "the manifest of version {version} cannot be made");
        Ok(())
    }

    fn epoch(&self) -> Result<u64> {
        let chain = Chain::parse(&read(&self.edge.path(Name::Chain))?).map_err(anyhow::Error::msg)?;
        Ok(chain.last().epoch)
    }

    fn passes(&mut self, broken: &str, by: u64) -> Result<()> {
        let before = self.epoch()?;
        tamper(&self.muted, &self.edge)?;
        let done = self.edge.precheck(&self.muted)?;
        let (after, installed) = (self.epoch()?, self.edge.installed("agent")? == AGENT);
        let holds = done.code == 0 && after == before + by && installed;
        let happened = format!("exit {}, epoch {before} to {after}, binary {}", done.code, said(installed));
        self.row(broken, "exit 0, the epoch advances once, the signed binary", happened, holds);
        Ok(())
    }

    /// One file is another or gone: exit 5 with these words, and nothing else changes. Then everything is put back.
    fn refused(&mut self, broken: &str, words: &str, file: &Path, other: Option<&[u8]>) -> Result<()> {
        let kept = read(file)?;
        let is_fingerprint = file == self.edge.path(Name::Fingerprint);
        tamper(&self.muted, &self.edge)?;
        match other {
            Some(bytes) => std::fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))?,
            None => std::fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?,
        }
        let before = self.tree()?;
        let done = self.edge.precheck(&self.muted)?;
        let same = self.tree()? == before;
        let started = self.edge.start_refused(&self.muted)?;
        let holds = done.code == 5 && done.err.contains(words) && same && started.code == 5;
        let happened = format!("exit {}, edged run exits {}, files {}", done.code, started.code, unchanged(same));
        self.row(broken, "exit 5, edged does not start, nothing is written", happened, holds);
        std::fs::write(file, &kept).with_context(|| format!("cannot write {}", file.display()))?;
        if !is_fingerprint {
            tamper(&self.muted, &self.edge)?;
        }
        let healed = self.edge.precheck(&self.muted)?;
        ensure!(healed.code == 0, "{broken}: put back, the precheck still ends with {}:\n{}", healed.code, healed.err);
        Ok(())
    }

    fn older(&mut self) -> Result<()> {
        self.seal(5)?;
        tamper(&self.muted, &self.edge)?;
        ensure!(self.edge.precheck(&self.muted)?.code == 0, "version 5 was not taken");
        self.seal(4)?;
        tamper(&self.muted, &self.edge)?;
        let before = self.tree()?;
        let done = self.edge.precheck(&self.muted)?;
        let same = self.tree()? == before;
        let holds = done.code == 5 && done.err.contains("is older than the one that was carried out") && same;
        let happened = format!("exit {}, files {}", done.code, unchanged(same));
        self.row("manifest: signed, of an older version", "exit 5, nothing is written", happened, holds);
        self.seal(6)?;
        ensure!(self.edge.precheck(&self.muted)?.code == 0, "version 6 was not taken");
        Ok(())
    }

    /// Kills prechecks at instants spread over the time that one takes; the next one has to complete each.
    fn kills(&mut self, rounds: u32) -> Result<()> {
        let large: Vec<u8> = (0..LARGE).map(|n| u8::try_from(n % 251).unwrap_or(0)).collect();
        write(&self.edge.files()?.join("bin/large"), &large)?;
        let (mut cut, mut wrong) = (0u32, Vec::new());
        let took = {
            self.seal(7)?;
            tamper(&self.muted, &self.edge)?;
            let began = Instant::now();
            ensure!(self.edge.precheck(&self.muted)?.code == 0, "version 7 was not taken");
            began.elapsed()
        };
        for round in 0..rounds {
            let before = self.epoch()?;
            std::fs::remove_file(self.edge.runtime().join("bin/large")).ok();
            tamper(&self.muted, &self.edge)?;
            let mut child = self.edge.begin_precheck()?;
            std::thread::sleep(took.mul_f64(f64::from(round + 1) / f64::from(rounds + 1)));
            child.kill().context("killing a precheck")?;
            cut += u32::from(!child.wait().context("waiting for a precheck")?.success());
            let done = self.edge.precheck(&self.muted)?;
            let (after, same) = (self.epoch()?, self.edge.installed("large")? == large);
            // Killed behind its commit, the epoch has advanced; it never advances twice for one system.
            if done.code != 0 || after != before + 1 || !same || stored(&self.edge)?.boot_epoch != after {
                wrong.push(format!("round {round}: exit {}, epoch {before} to {after}", done.code));
            }
        }
        let happened = format!("{cut} of {rounds} killed in the middle, {} wrong {}", wrong.len(), wrong.join("; "));
        let must = "the next precheck exits 0, the signed bytes, the epoch advanced once";
        self.row("precheck: kill -9", must, happened, wrong.is_empty() && cut > 0);
        Ok(())
    }

    /// Every file beneath the state root but this boot's marker, with its bytes.
    fn tree(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut found = Vec::new();
        walk(Path::new(&self.edge.root()), &mut found)?;
        found.retain(|(path, _)| !path.ends_with(Name::Marker.as_str()));
        found.sort();
        Ok(found)
    }
}

fn walk(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.symlink_metadata()?.is_dir() {
            walk(&path, found)?;
        } else {
            found.push((path.display().to_string(), read(&path)?));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

const fn said(holds: bool) -> &'static str {
    if holds { "as signed" } else { "another" }
}

const fn unchanged(holds: bool) -> &'static str {
    if holds { "unchanged" } else { "changed" }
}
