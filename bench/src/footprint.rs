//! Memory at rest, time from exec to the first decision, and bytes that reach the device.

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

/// Clients whose closed loops put about 32 events into each sync: an event waits for the rest of one sync and for the
/// next, so that half of them meet in one.
const CLIENTS: usize = 64;

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
    let (bytes, log) = (written()?, log_bytes(&node.telemetry())?);
    client::run(running.address, CLIENTS, Ask::Echo, bench.time(4000))?;
    let (bytes, log) = (written()? - bytes, log_bytes(&node.telemetry())? - log);
    let ratio = mib(bytes) / mib(log).max(f64::MIN_POSITIVE);
    let name = "device bytes per frame byte, 64 clients (about 32 events a sync)";
    report.add("footprint", absolute(name, ratio, "", "at most 1.3", ratio <= 1.3));
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
