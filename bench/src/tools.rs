//! Durable answers: what one costs beside the raw disk, and how many a second there are under load.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use demo::node::{Node, Running};
use demo::scratch::Scratch;

use crate::client::{self, Ask, as_f64};
use crate::host;
use crate::report::{Figure, Report, median, percentile};

/// Bytes of a raw write: about a decision's frame.
const FRAME: usize = 420;

/// Everything a section needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Bench<'a> {
    /// The release binary.
    pub autonomy: &'a Path,
    /// Where temporary folders are made: on the disk that is measured.
    pub within: &'a Path,
    /// Shorter runs, for trying the benchmark itself.
    pub quick: bool,
}

impl Bench<'_> {
    /// A time, shorter when in a hurry.
    #[must_use]
    pub fn time(&self, millis: u64) -> Duration {
        Duration::from_millis(if self.quick { millis / 5 } else { millis })
    }

    /// A count, smaller when in a hurry.
    #[must_use]
    pub const fn rounds(&self, n: usize) -> usize {
        if self.quick { n.div_ceil(4) } else { n }
    }

    /// A node with the demo's policy in force.
    ///
    /// # Errors
    /// The policy cannot be built or loaded.
    pub fn node(&self, scratch: &Scratch) -> Result<Node> {
        let node = Node::new(self.autonomy, &scratch.path().join("state"))?;
        let bundle = scratch.path().join("bundle.tar.gz").display().to_string();
        let root = node.root.display().to_string();
        let shell = demo::shell::Shell::new(self.autonomy, demo::shell::Pace::Straight);
        for command in [
            &["policy", "build", "--in", "demo/policies", "--out", &bundle, "--version", "1.0.0"][..],
            &["policy", "load", "--bundle", &bundle, "--state-root", &root],
        ] {
            let done = shell.quietly(command)?;
            ensure!(done.code == 0, "autonomy {}: {}", command.join(" "), done.err);
        }
        Ok(node)
    }
}

/// One client, then many.
///
/// # Errors
/// A run that fails.
pub fn measure(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let scratch = Scratch::new(Some(bench.within))?;
    let node = bench.node(&scratch)?;
    one_client(bench, &node, &scratch, report).context("one client")?;
    let per_call_us = cpu_per_call(bench, &node, report).context("one core")?;
    closed_loops(bench, &node, &scratch, per_call_us, report)
}

fn one_client(bench: &Bench<'_>, node: &Node, scratch: &Scratch, report: &mut Report) -> Result<()> {
    println!("durable allow, one client, interleaved with raw write+fdatasync");
    let running = node.start()?;
    let raw = scratch.path().join("state/telemetry/raw");
    let (mut allows, mut raws, mut overs) = (Vec::new(), Vec::new(), Vec::new());
    // Short turns, because the disk drifts: each turn of calls is compared with the raw writes on both sides of it.
    let mut before = host::write_and_sync(&raw, FRAME, 40).context("raw writes")?;
    for _ in 0..bench.rounds(60) {
        let calls = client::run(running.address, 1, Ask::Echo, Duration::from_millis(150))?.times_us;
        let after = host::write_and_sync(&raw, FRAME, 40).context("raw writes")?;
        let beside = f64::midpoint(percentile(&before, 50), percentile(&after, 50));
        overs.push(percentile(&calls, 50) - 2.0 * beside);
        allows.extend(calls);
        raws.extend(std::mem::replace(&mut before, after));
    }
    raws.extend(before);
    std::fs::remove_file(&raw)?;
    ended(running)?;
    allows.sort_by(f64::total_cmp);
    raws.sort_by(f64::total_cmp);
    let (allow, raw) = (percentile(&allows, 50), percentile(&raws, 50));
    let row = |name: &str, measured, floor, goal: &str, reached| Figure {
        name: name.into(),
        measured,
        floor,
        unit: "us",
        goal: goal.into(),
        reached,
    };
    report.add("durable_allow", row("raw write+fdatasync p50", raw, None, "", None));
    report.add("durable_allow", row("raw write+fdatasync p99", percentile(&raws, 99), None, "", None));
    report.add("durable_allow", row("durable allow p50, 1 client", allow, Some(raw), "", None));
    let over = median(overs);
    let name = "durable allow beyond twice raw, p50, median of the turns";
    report.add("durable_allow", row(name, over, None, "at most 150 us", Some(over <= 150.0)));
    report.add("durable_allow", row(name, over, None, "aim: at most 70 us", Some(over <= 70.0)));
    let p99 = percentile(&allows, 99);
    report.add("durable_allow", row("durable allow p99, 1 client", p99, Some(percentile(&raws, 99)), "", None));
    Ok(())
}

/// CPU of server and client for one call, both on one core, in microseconds.
fn cpu_per_call(bench: &Bench<'_>, node: &Node, report: &mut Report) -> Result<f64> {
    println!("CPU per call, one client, server and client on one core");
    let _pinned = host::OnOneCore::take()?;
    let running = node.start()?;
    client::run(running.address, 1, Ask::Echo, bench.time(500))?;
    let before = host::cpu_of(running.pid)? + host::own_cpu();
    let mut calls = 0.0;
    for _ in 0..bench.rounds(4) {
        let ran = client::run(running.address, 1, Ask::Echo, bench.time(1500))?;
        // The warm-up of each run, a fifth of its time, costs CPU too.
        calls += as_f64(ran.calls) * 1.2;
    }
    let used = host::cpu_of(running.pid)? + host::own_cpu() - before;
    ended(running)?;
    let per_call_us = used.as_secs_f64() * 1e6 / calls;
    let name = "c: CPU per call, server and client".into();
    let figure = Figure { name, measured: per_call_us, floor: None, unit: "us", goal: String::new(), reached: None };
    report.add("closed_loop", figure);
    Ok(per_call_us)
}

fn closed_loops(bench: &Bench<'_>, node: &Node, scratch: &Scratch, cpu_us: f64, report: &mut Report) -> Result<()> {
    println!("closed loops, interleaved with raw write+fdatasync and GET /health");
    let running = node.start()?;
    let raw = scratch.path().join("state/telemetry/raw");
    for clients in [16, 64, 256, 1024] {
        let (mut rates, mut bounds) = (Vec::new(), Vec::new());
        let (mut syncs, mut trips, mut others) = (Vec::new(), Vec::new(), 0);
        for _ in 0..bench.rounds(5) {
            let sync_before = host::sync_p50_us(&raw, FRAME, 80)?;
            let trip = percentile(&client::run(running.address, 1, Ask::Health, bench.time(300))?.times_us, 50);
            let ran = client::run(running.address, clients, Ask::Echo, bench.time(2000))
                .with_context(|| format!("{clients} clients"))?;
            let rate = ran.per_second();
            others += ran.others;
            let sync = f64::midpoint(sync_before, host::sync_p50_us(&raw, FRAME, 80)?);
            let by_disk = as_f64(clients) / ((4.0 * sync + trip) / 1e6);
            let by_cpu = host::cores() / (cpu_us / 1e6);
            rates.push(rate);
            bounds.push(by_disk.min(by_cpu));
            syncs.push(sync);
            trips.push(trip);
        }
        let (rate, bound) = (median(rates), median(bounds));
        println!("  T {:.0} us, r {:.0} us", median(syncs), median(trips));
        report.add(
            "closed_loop",
            Figure {
                name: format!("calls a second, {clients} clients"),
                measured: rate,
                floor: Some(bound),
                unit: "/s",
                goal: "at least 0.8 of min(C/(4T+r), k/c)".into(),
                reached: Some(rate >= 0.8 * bound),
            },
        );
        report.add(
            "closed_loop",
            Figure {
                name: format!("answers other than 200, {clients} clients"),
                measured: as_f64(others),
                floor: None,
                unit: "",
                goal: "none".into(),
                reached: Some(others == 0),
            },
        );
    }
    std::fs::remove_file(&raw)?;
    ended(running)
}

/// Stops a runtime; one that ends badly makes the run fail.
///
/// # Errors
/// Its exit status is not 0.
pub fn ended(running: Running) -> Result<()> {
    let status = running.stop()?;
    ensure!(status.success(), "the runtime ended with {status}");
    Ok(())
}
