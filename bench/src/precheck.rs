//! A precheck on the same host, and one that installs a binary of 10 MiB, beside the raw copy with its flushes.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use demo::act4;
use demo::checks::Checks;
use demo::edge::Edge;
use demo::scratch::Scratch;
use demo::shell::{Pace, Shell};

use crate::report::{Figure, Report, median};
use crate::tools::Bench;

const BINARY: usize = 10 << 20;
/// What a precheck may take, beside the copy where there is one, in milliseconds.
const GOAL_MS: f64 = 10.0;

/// Measures both.
///
/// # Errors
/// A run that fails.
pub fn measure(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    println!("precheck: unchanged, and replaced with one binary of {} MiB", BINARY >> 20);
    let scratch = Scratch::new(Some(bench.within))?;
    let node = bench.node(&scratch)?;
    std::fs::create_dir_all(&node.root)?;
    let edge = Edge::new(&node, scratch.path())?;
    let shell = Shell::new(bench.autonomy, Pace::Straight).muted();
    let pass = |what: &str| -> Result<f64> {
        let began = Instant::now();
        let done = edge.precheck(&shell)?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        ensure!(done.code == 0, "{what}: exit {}\n{}", done.code, done.err);
        Ok(took)
    };
    ensure!(edge.init(&shell)?.code == 0, "edged init failed");
    let binary: Vec<u8> = (0..BINARY).map(|n| u8::try_from(n % 251).unwrap_or(0)).collect();
    act4::write(&edge.files()?.join("bin/large"), &binary)?;
    let mut checks = Checks::muted();
    act4::seal(&shell, &mut checks, &edge, 1)?;
    ensure!(checks.all_pass(), "the manifest cannot be made");
    pass("first run")?;
    let source = edge.runtime().join("binaries/bin/large");
    let raw = scratch.path().join("raw");
    let (mut starts, mut unchanged, mut copies, mut replaced) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds(40) {
        starts.push(start(&node.autonomy.with_file_name("edged"))?);
        unchanged.push(pass("unchanged")?);
        copies.push(copy(&source, &raw)?);
        act4::tamper(&shell, &edge)?;
        replaced.push(pass("replaced")?);
    }
    let [start, unchanged, copy, replaced] = [starts, unchanged, copies, replaced].map(median);
    let mut row = |name: &str, measured: f64, floor: Option<f64>, goal: &str, reached: Option<bool>| {
        report.add("precheck", Figure { name: name.into(), measured, floor, unit: "ms", goal: goal.into(), reached });
    };
    row("start of the process (edged --version)", start, None, "", None);
    row("precheck, unchanged", unchanged, Some(start), "at most 10 ms", Some(unchanged <= GOAL_MS));
    row("raw copy of 10 MiB with its flushes", copy, None, "", None);
    let goal = "at most the raw copy plus 10 ms";
    row("precheck, replaced, one binary of 10 MiB", replaced, Some(copy), goal, Some(replaced <= copy + GOAL_MS));
    Ok(())
}

fn start(edged: &Path) -> Result<f64> {
    let began = Instant::now();
    let done = Command::new(edged).arg("--version").stdin(Stdio::null()).output().context("cannot run edged")?;
    ensure!(done.status.success(), "edged --version failed");
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// Reads, writes, syncs, renames and syncs the folder: what no installation that survives a power cut can leave out.
fn copy(from: &Path, to: &Path) -> Result<f64> {
    let began = Instant::now();
    let temp = to.with_extension("tmp");
    let mut source = File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
    let mut copy = OpenOptions::new().write(true).create(true).truncate(true).open(&temp)?;
    let mut part = vec![0; 1 << 20];
    loop {
        let n = source.read(&mut part)?;
        if n == 0 {
            break;
        }
        copy.write_all(part.get(..n).unwrap_or_default())?;
    }
    copy.sync_data()?;
    std::fs::rename(&temp, to)?;
    File::open(to.parent().context("a file lies in a folder")?)?.sync_all()?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}
