//! Memory at rest, time from exec to the first decision, and bytes that reach the device.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use demo::act1::ECHO;
use demo::http::Client;
use demo::scratch::Scratch;

use crate::client::{self, Ask};
use crate::host;
use crate::report::{Figure, Report, median};
use crate::tools::{Bench, ended};

/// Clients of the load. How many events they put into each sync depends on the disk, and is counted.
const CLIENTS: usize = 64;
/// Events a sync that the goal speaks of.
const BATCH: f64 = 32.0;
/// Bytes of a frame whose call has a few hundred bytes of parameters.
const LARGER: u64 = 541;
/// The runtime's count of syncs.
const SYNCS: &str = "autonomy_disk_sync_duration_seconds_count";
/// The runtime's count of events.
const HEAD: &str = "autonomy_wal_head_sequence";

/// Measures all three.
///
/// # Errors
/// A run that fails.
pub fn measure(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    println!("footprint");
    let scratch = Scratch::new(Some(bench.within))?;
    let node = bench.node(&scratch)?;
    let mut starts = Vec::new();
    for _ in 0..bench.rounds(12) {
        let began = Instant::now();
        let running = node.spawn()?;
        loop {
            let answer =
                Client::connect(running.address, Duration::from_secs(5)).and_then(|mut c| c.post("/v1/tool", ECHO));
            if answer.is_ok_and(|answer| answer.status == 200) {
                break;
            }
            anyhow::ensure!(began.elapsed() < Duration::from_secs(10), "no decision in 10 s:\n{}", running.stderr());
            std::thread::sleep(Duration::from_micros(200));
        }
        starts.push(began.elapsed().as_secs_f64() * 1e3);
        ended(running)?;
    }
    let first = median(starts);
    report.add("footprint", absolute("exec to first decision", first, "ms", "at most 50 ms", first <= 50.0));

    let running = node.start()?;
    std::thread::sleep(bench.time(2000));
    let resident = mib(host::told(running.pid, "status", "VmRSS")? * 1024);
    report.add("footprint", absolute("idle resident memory", resident, "MiB", "at most 20 MiB", resident <= 20.0));

    let written = || host::told(running.pid, "io", "write_bytes");
    client::run(running.address, CLIENTS, Ask::Echo, bench.time(500))?;
    let count = |name: &str| counted(running.address, name);
    let (bytes, log) = (written()?, log_bytes(&node.telemetry())?);
    let (syncs, events) = (count(SYNCS)?, count(HEAD)?);
    client::run(running.address, CLIENTS, Ask::Echo, bench.time(4000))?;
    let (bytes, log) = (mib(written()? - bytes), mib(log_bytes(&node.telemetry())? - log).max(f64::MIN_POSITIVE));
    let (syncs, events) = ((count(SYNCS)? - syncs).max(1.0), (count(HEAD)? - events).max(1.0));
    // A sync writes whole pages: what it adds to the frames does not depend on how many there are.
    let at_batch = |each_sync: f64, frame: f64| 1.0 + each_sync / (BATCH * frame);
    let (each_sync, page) = ((bytes - log) / syncs, mib(u64::try_from(rustix::param::page_size())?));
    let of_run = format!("device bytes per frame byte, as run: {:.0} events a sync", events / syncs);
    report.add("footprint", Figure { reached: None, ..absolute(&of_run, bytes / log, "", "", false) });
    let goal = "at most 1.3";
    // The demo's calls are about the smallest; agents send more words.
    for frame in [log / events, mib(LARGER)] {
        let name = format!(
            "device bytes per frame byte at {BATCH} events a sync of {:.0} B each, beside one page a sync",
            frame * 1024.0 * 1024.0
        );
        let (ratio, floor) = (at_batch(each_sync, frame), at_batch(page, frame));
        report.add("footprint", Figure { floor: Some(floor), ..absolute(&name, ratio, "", goal, ratio <= 1.3) });
    }
    let resident = mib(host::told(running.pid, "status", "VmRSS")? * 1024);
    let name = "resident memory after the load".into();
    report.add(
        "footprint",
        Figure { name, measured: resident, floor: None, unit: "MiB", goal: String::new(), reached: None },
    );
    ended(running)
}

fn absolute(name: &str, measured: f64, unit: &'static str, goal: &str, reached: bool) -> Figure {
    Figure { name: name.into(), measured, floor: None, unit, goal: goal.into(), reached: Some(reached) }
}

/// A number that the runtime counts.
fn counted(address: SocketAddr, name: &str) -> Result<f64> {
    let text = Client::connect(address, Duration::from_secs(5))?.get("/metrics")?.body;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
    value.with_context(|| format!("/metrics has no {name}"))
}

/// Bytes of all frames.
fn log_bytes(telemetry: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(telemetry).with_context(|| format!("cannot list {}", telemetry.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(".wal") {
            sum += entry.metadata()?.len();
        }
    }
    Ok(sum)
}

#[allow(clippy::cast_precision_loss)] // sizes stay far below 2^52
fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}
