//! Opening a log of 1 GiB beside reading its files and hashing its frames.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use demo::node::Node;
use demo::scratch::Scratch;
use machines::disk::File;
use machines::ids::{Hash32, IdSource, Seq};
use machines::machine::Entropy;
use machines::time::Wall;
use machines::wal::files::Base;
use machines::wal::frame::{self, Kind, Place, Record};

use crate::host;
use crate::report::{Figure, Report, median};
use crate::tools::{Bench, ended};

const SEGMENT: usize = 64 << 20;
const MIB: f64 = 1024.0 * 1024.0;

/// Measures it; the page cache forgets the files before each reading.
///
/// # Errors
/// A run that fails.
pub fn measure(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let total = if bench.quick { 128 << 20 } else { 1 << 30 };
    println!("recovery of a log of {} MiB", total >> 20);
    let scratch = Scratch::new(Some(bench.within))?;
    let mut node = bench.node(&scratch)?;
    let config = scratch.path().join("runtime.toml");
    std::fs::write(&config, "[wal]\nmax_bytes = 4294967296\n")?;
    node.flags.extend(["--config".into(), config.display().to_string()]);
    let empty = median((0..3).map(|_| open(&node)).collect::<Result<_>>()?);
    std::fs::remove_dir_all(node.telemetry())?;
    std::fs::create_dir_all(node.telemetry())?;
    let files = generate(&node.telemetry(), total)?;
    let mut times: [Vec<f64>; 4] = Default::default();
    for _ in 0..bench.rounds(5) {
        times[0].push(forgotten(&files, || read(&files))?);
        times[1].push(hash(&files)?);
        times[2].push(forgotten(&files, || verify(bench, &node))?);
        times[3].push(forgotten(&files, || open(&node))? - empty);
    }
    let [read, hash, verify, open] = times.map(median);
    let floor = read.max(hash);
    #[allow(clippy::cast_precision_loss)] // a GiB
    let speed = |seconds: f64| total as f64 / MIB / seconds.max(1e-9);
    let mut row = |name: &str, seconds: f64, floor: Option<f64>| {
        let goal = if floor.is_some() { "at least 0.7 of the slower of reading and hashing" } else { "" };
        let (measured, floor) = (speed(seconds), floor.map(speed));
        let reached = floor.map(|floor| measured >= 0.7 * floor);
        report
            .add("recovery", Figure { name: name.into(), measured, floor, unit: "MiB/s", goal: goal.into(), reached });
    };
    row("reading the files", read, None);
    row("BLAKE3 over the frames, in memory", hash, None);
    row("runtime start opens the log", open, Some(floor));
    row("wal verify", verify, Some(floor));
    Ok(())
}

fn forgotten(files: &[PathBuf], timed: impl FnOnce() -> Result<f64>) -> Result<f64> {
    for file in files {
        host::forget(file)?;
    }
    timed()
}

/// Pairs of decision and action like the demo's, in sealed files and a live one; returns the files.
fn generate(telemetry: &Path, total: usize) -> Result<Vec<PathBuf>> {
    let wall = Wall::from_micros(1_763_724_637_123_456);
    let mut ids = IdSource::new(Entropy([7; 32]));
    let log_id = ids.next(wall);
    let mut prev = frame::genesis(&log_id);
    let base = Base { log_id, node_id: "node".into(), first_seq: Seq::FIRST, prev_h: prev };
    std::fs::write(telemetry.join(File::Base.name()), base.to_bytes())?;
    let (mut files, mut seq, mut written) = (Vec::new(), 1u64, 0);
    let mut bytes = Vec::with_capacity(SEGMENT + 4096);
    while written < total {
        bytes.clear();
        let first = Seq::new(seq).context("sequences start from 1")?;
        while bytes.len() < SEGMENT.min(total - written) {
            let audit_id = ids.next(wall);
            for (kind, body) in [(Kind::Decision, DECISION), (Kind::Action, ACTION)] {
                let place = Place { seq: Seq::new(seq).context("a sequence")?, ts: wall, safe: seq - 1 };
                let record = Record { kind, audit_id, trace: None, body: body.into() };
                prev = frame::encode(&mut bytes, &prev, &place, &record);
                seq += 1;
            }
        }
        written += bytes.len();
        let name = if written < total { File::Sealed(first) } else { File::Live }.name();
        let path = telemetry.join(name);
        std::fs::write(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
        files.push(path);
    }
    std::fs::write(telemetry.join(File::SafeSeq.name()), (seq - 1).to_le_bytes())?;
    Ok(files)
}

const DECISION: &str = "{\"decision\":\"allow\",\"tool\":\"tool.echo\",\"params\":{\"message\":\"hello\"},\"policy_ref\":\"1.0.0\",\
    \"policy_hash\":\"sha256:00000000000000000000000000000000000000000000000000000000000000aa\"}";
const ACTION: &str = "{\"outcome\":\"ok\",\"duration_us\":42,\"output\":{\"message\":\"hello\"}}";

fn read(files: &[PathBuf]) -> Result<f64> {
    let began = Instant::now();
    let mut buffer = vec![0; 1 << 20];
    for path in files {
        let mut file = std::fs::File::open(path)?;
        while file.read(&mut buffer)? > 0 {}
    }
    Ok(began.elapsed().as_secs_f64())
}

/// Seconds to hash every frame as the chain does, each file already in memory.
fn hash(files: &[PathBuf]) -> Result<f64> {
    let (mut seconds, mut prev) = (0.0, Hash32([0; 32]));
    for path in files {
        let bytes = std::fs::read(path)?;
        let began = Instant::now();
        let mut rest = bytes.as_slice();
        while let Some((prefix, behind)) = rest.split_first_chunk::<4>() {
            let len = usize::try_from(u32::from_be_bytes(*prefix))?;
            let (body, next) = behind.split_at_checked(len).context("a frame cut short")?;
            let (covered, _) = body.split_at_checked(len.saturating_sub(frame::TAIL)).context("a short frame")?;
            let mut hasher = blake3::Hasher::new();
            hasher.update(&prev.0);
            hasher.update(covered);
            prev = Hash32(*hasher.finalize().as_bytes());
            rest = next;
        }
        seconds += began.elapsed().as_secs_f64();
    }
    std::hint::black_box(prev);
    Ok(seconds)
}

fn verify(bench: &Bench<'_>, node: &Node) -> Result<f64> {
    let shell = demo::shell::Shell::new(bench.autonomy, demo::shell::Pace::Straight);
    let began = Instant::now();
    let done = shell.quietly(&["wal", "verify", "--dir", &node.telemetry().display().to_string()])?;
    ensure!(done.code == 0, "{}{}", done.out, done.err);
    Ok(began.elapsed().as_secs_f64())
}

/// Seconds from exec until the runtime is ready.
fn open(node: &Node) -> Result<f64> {
    let began = Instant::now();
    let running = node.spawn()?;
    loop {
        let ready =
            demo::http::Client::connect(running.address, Duration::from_secs(5)).and_then(|mut c| c.get("/ready"));
        if ready.is_ok_and(|answer| answer.status == 200) {
            break;
        }
        ensure!(began.elapsed() < Duration::from_secs(120), "not ready in 120 s:\n{}", running.stderr());
        // Seldom enough that asking takes no processor from what is measured.
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = began.elapsed().as_secs_f64();
    ended(running)?;
    Ok(took)
}
