//! The drain: how fast it empties a long log beside reading and encoding it, in how much memory, and what it costs the
//! calls beside it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use demo::scratch::{self, Scratch};
use demo::sink::Sink;
use machines::disk::File;
use machines::drain::batch::{Batch, Class};
use machines::ids::{IdSource, Seq};
use machines::json::Value;
use machines::machine::Entropy;
use machines::time::Wall;
use machines::wal::files::Base;
use machines::wal::frame::{self, Frame, Kind, Place, Record};
use rustix::process::{Pid, Signal, kill_process};

use crate::client::{self, Ask, as_f64};
use crate::host;
use crate::report::{Figure, Report, median, percentile};
use crate::tools::{Bench, ended};

const SEGMENT: usize = 64 << 20;
/// Bytes of a body that makes a frame of 300 bytes, and of one that has 300 bytes itself.
const BODIES: [usize; 2] = [60, 300];
const MIB: f64 = 1024.0 * 1024.0;

/// Measures it.
///
/// # Errors
/// A run that fails.
pub fn measure(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    speed(bench, report).context("speed")?;
    priority(bench, report).context("priority")?;
    beside_calls(bench, report).context("beside calls")
}

fn speed(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    for body in BODIES {
        speed_of(bench, body, report)?;
    }
    Ok(())
}

fn speed_of(bench: &Bench<'_>, body: usize, report: &mut Report) -> Result<()> {
    let count = if bench.quick { 200_000 } else { 1_000_000 };
    let scratch = Scratch::new(Some(bench.within))?;
    let sink = Sink::new(bench.autonomy, &scratch.path().join("received"))?;
    let up = sink.quietly("discard")?;
    let telemetry = scratch.path().join("telemetry");
    let files = generate(&telemetry, count, body, |_| Kind::Decision)?;
    let bytes = files.iter().map(|file| Ok(std::fs::metadata(file)?.len())).sum::<Result<u64>>()?;
    let each = bytes / u64::try_from(count)?;
    println!("drain of {count} events of {each} B to a sink that discards, on one core");
    let (mut floors, mut rates, mut peaks) = (Vec::new(), [Vec::new(), Vec::new()], 0.0f64);
    {
        // The sink was started before and has the other cores.
        let _pinned = host::OnOneCore::take()?;
        for _ in 0..bench.rounds(3) {
            floors.push(as_f64(count) / read_and_encode(&files)?);
            for (batch, rates) in ["512", "8192"].into_iter().zip(&mut rates) {
                let _ = std::fs::remove_file(telemetry.join(File::Positions.name()));
                let more = ["--no-compression", "--batch", batch];
                let (seconds, peak) = drain(bench, &telemetry, &sink, &more)?;
                rates.push(as_f64(count) / seconds);
                peaks = peaks.max(peak);
            }
        }
    }
    up.stop()?;
    let floor = median(floors);
    let [usual, large] = rates.map(median);
    let row = |name: &str, measured, floor, goal: &str, reached| Figure {
        name: name.into(),
        measured,
        floor,
        unit: "/s",
        goal: goal.into(),
        reached,
    };
    let named = |what: &str| format!("{what}, events of {each} B");
    report.add("drain", row(&named("reading and encoding the log"), floor, None, "", None));
    let goal = "at least 300,000/s";
    let name = named("drained in batches of 512");
    report.add("drain", row(&name, usual, Some(floor), goal, Some(usual >= 300_000.0)));
    let name = named("drained in batches of 8192");
    report.add("drain", row(&name, large, Some(floor), goal, Some(large >= 300_000.0)));
    report.add(
        "drain",
        Figure {
            name: named("peak memory of a drain"),
            measured: peaks,
            floor: None,
            unit: "MiB",
            goal: "at most 64 MiB".into(),
            reached: Some(peaks <= 64.0),
        },
    );
    Ok(())
}

fn priority(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let count = if bench.quick { 200_000 } else { 1_000_000 };
    println!("one error behind {count} lifecycle events");
    let scratch = Scratch::new(Some(bench.within))?;
    let sink = Sink::new(bench.autonomy, &scratch.path().join("received"))?;
    let telemetry = scratch.path().join("telemetry");
    generate(&telemetry, count, BODIES[1], |n| if n + 1 == count { Kind::Error } else { Kind::Lifecycle })?;
    let up = sink.quietly("accept")?;
    let mut drain = spawn(bench, &telemetry, &sink, &[])?;
    while up.stats()?.get("requests").and_then(Value::as_u64) < Some(2) {
        ensure!(drain.try_wait()?.is_none(), "the drain ended early");
        std::thread::sleep(Duration::from_millis(1));
    }
    drain.kill()?;
    drain.wait()?;
    up.stop()?;
    let place = sink.records()?.iter().position(|r| r.get("kind").and_then(Value::as_str) == Some("error"));
    report.add(
        "drain",
        Figure {
            name: "place of the error among what was delivered".into(),
            measured: place.map_or(f64::INFINITY, |n| as_f64(n + 1)),
            floor: None,
            unit: "",
            goal: "in the first batch".into(),
            reached: Some(place == Some(0)),
        },
    );
    Ok(())
}

/// The p99 of a durable call without and with a drain beside it that gets a quarter of a core.
fn beside_calls(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    println!("durable calls beside a drain that is held to a quarter of a core");
    let scratch = Scratch::new(Some(bench.within))?;
    let node = bench.node(&scratch)?;
    let sink = Sink::new(bench.autonomy, &scratch.path().join("received"))?;
    let up = sink.quietly("discard")?;
    let backlog = scratch.path().join("backlog");
    generate(&backlog, if bench.quick { 400_000 } else { 2_000_000 }, BODIES[1], |_| Kind::Decision)?;
    let running = node.start()?;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds(8) {
        let time = Duration::from_millis(1_000);
        alone.push(percentile(&client::run(running.address, 16, Ask::Echo, time)?.times_us, 99));
        let _ = std::fs::remove_file(backlog.join(File::Positions.name()));
        let drain = spawn(bench, &backlog, &sink, &[])?;
        let done = AtomicBool::new(false);
        let calls = std::thread::scope(|scope| {
            scope.spawn(|| hold_to_a_quarter(drain, &done));
            let calls = client::run(running.address, 16, Ask::Echo, time);
            done.store(true, Ordering::Relaxed);
            calls
        })?;
        beside.push(percentile(&calls.times_us, 99));
    }
    ended(running)?;
    up.stop()?;
    let (alone, beside) = (median(alone), median(beside));
    report.add(
        "drain",
        Figure {
            name: "p99 of a durable call beside a drain, 16 clients".into(),
            measured: beside,
            floor: Some(alone),
            unit: "us",
            goal: "at most 1.5 of the p99 without".into(),
            reached: Some(beside <= 1.5 * alone),
        },
    );
    Ok(())
}

/// Lets a process run 5 ms in every 20, then ends it.
fn hold_to_a_quarter(mut drain: Child, done: &AtomicBool) {
    let pid = i32::try_from(drain.id()).ok().and_then(Pid::from_raw);
    while let (Some(pid), false) = (pid, done.load(Ordering::Relaxed)) {
        if drain.try_wait().is_ok_and(|ended| ended.is_some()) {
            println!("  the drain was done before the calls were");
            return;
        }
        let _ = kill_process(pid, Signal::CONT);
        std::thread::sleep(Duration::from_millis(5));
        let _ = kill_process(pid, Signal::STOP);
        std::thread::sleep(Duration::from_millis(15));
    }
    let _ = drain.kill();
    let _ = drain.wait();
}

fn spawn(bench: &Bench<'_>, telemetry: &Path, sink: &Sink, more: &[&str]) -> Result<Child> {
    let endpoint = format!("http://{}", sink.address);
    let dir = telemetry.display().to_string();
    Command::new(bench.autonomy)
        .args(["telemetry", "drain", "--dir", &dir, "--endpoint", &endpoint])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .with_context(|| format!("cannot run {}", bench.autonomy.display()))
}

/// Seconds of a whole drain, and its peak resident memory in MiB.
fn drain(bench: &Bench<'_>, telemetry: &Path, sink: &Sink, more: &[&str]) -> Result<(f64, f64)> {
    let began = Instant::now();
    let child = scratch::guarded(spawn(bench, telemetry, sink, more)?);
    let pid = scratch::lock(&child).id();
    let mut peak = 0;
    loop {
        if let Some(status) = scratch::lock(&child).try_wait()? {
            ensure!(status.success(), "the drain ended with {status}");
            break;
        }
        // Gone in the moment between the two looks: the last figure stands.
        peak = host::told(pid, "status", "VmHWM").map_or(peak, |now| peak.max(now));
        if began.elapsed() > Duration::from_secs(300) {
            bail!("the drain takes longer than five minutes");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let seconds = began.elapsed().as_secs_f64();
    scratch::kill(&child);
    #[allow(clippy::cast_precision_loss)] // KiB of one process
    Ok((seconds, peak as f64 * 1024.0 / MIB))
}

/// Seconds to read the files and to encode every frame for the wire: no check of the chain, no network, no cursors.
fn read_and_encode(files: &[PathBuf]) -> Result<f64> {
    let began = Instant::now();
    let log_id = IdSource::new(Entropy([7; 32])).next(Wall::from_micros(1));
    let mut encoded = 0;
    for path in files {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut batch = Batch::new(log_id, "node".into(), Class::Decision);
        let mut rest = bytes.as_slice();
        while let Some((prefix, behind)) = rest.split_first_chunk::<4>() {
            let len = usize::try_from(u32::from_be_bytes(*prefix))?;
            let (body, next) = behind.split_at_checked(len).context("a frame cut short")?;
            let frame = Frame::parse(body).context("not a frame")?;
            batch.push(body, frame.seq, frame.kind);
            rest = next;
            if batch.len() == 512 || rest.is_empty() {
                encoded += io_telemetry::encode::to_protobuf(&batch, 0, batch.len())?.len();
                batch = Batch::new(log_id, "node".into(), Class::Decision);
            }
        }
    }
    std::hint::black_box(encoded);
    Ok(began.elapsed().as_secs_f64())
}

/// A log of `count` events in sealed files and a live one; returns the files with frames.
fn generate(telemetry: &Path, count: usize, body: usize, kind: impl Fn(usize) -> Kind) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(telemetry).with_context(|| format!("cannot create {}", telemetry.display()))?;
    let wall = Wall::from_micros(1_763_724_637_123_456);
    let mut ids = IdSource::new(Entropy([7; 32]));
    let log_id = ids.next(wall);
    let mut prev = frame::genesis(&log_id);
    let base = Base { log_id, node_id: "node".into(), first_seq: Seq::FIRST, prev_h: prev };
    std::fs::write(telemetry.join(File::Base.name()), base.to_bytes())?;
    let empty = "{\"decision\":\"deny\",\"tool\":\"tool.echo\",\"params\":{\"message\":\"\"}}";
    let filler = "x".repeat(body.saturating_sub(empty.len()));
    let body = format!("{{\"decision\":\"deny\",\"tool\":\"tool.echo\",\"params\":{{\"message\":\"{filler}\"}}}}");
    let mut files = Vec::new();
    let mut bytes = Vec::with_capacity(SEGMENT + 4096);
    let mut first = 1;
    for n in 0..count {
        let seq = u64::try_from(n)? + 1;
        let place = Place { seq: Seq::new(seq).context("a sequence")?, ts: wall, safe: seq - 1 };
        let record = Record { kind: kind(n), audit_id: ids.next(wall), trace: None, body: body.clone() };
        prev = frame::encode(&mut bytes, &prev, &place, &record);
        let last = n + 1 == count;
        if last || bytes.len() >= SEGMENT {
            let name = if last { File::Live } else { File::Sealed(Seq::new(first).context("a sequence")?) }.name();
            let path = telemetry.join(name);
            std::fs::write(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
            files.push(path);
            bytes.clear();
            first = seq + 1;
        }
    }
    let safe = u64::try_from(count)?;
    std::fs::write(telemetry.join(File::SafeSeq.name()), safe.to_le_bytes())?;
    Ok(files)
}
