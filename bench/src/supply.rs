//! Verifying an image from a layout beside one SHA-256 pass over the same bytes; pulling one from our registry beside
//! Debian's docker-registry.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use demo::http::Client;
use demo::registry::Registry;
use demo::release::{Draft, Keys, own};
use demo::scratch::{self, Scratch};
use demo::shell::{Pace, Shell};
use machines::oci::{Digest, Manifest, Reference};
use sha2::Digest as _;

use crate::host;
use crate::report::{Figure, Report, median};
use crate::tools::Bench;

const MIB: usize = 1 << 20;
/// How much of a blob the floor reads at once, in bytes.
const PART: usize = 256 * 1024;
/// What a verification may take beside the hash, in milliseconds: the start of a process among it.
const BESIDE_MS: f64 = 2.0;

/// A signed release with an image of some size, and everything that belongs to it.
struct Release {
    folder: PathBuf,
    image: String,
    keys: Keys,
    /// The image's one layer.
    layer: Digest,
}

impl Release {
    /// An image of `size` bytes that look random, in a layout beneath `folder`.
    fn make(bench: &Bench<'_>, folder: &Path, size: usize) -> Result<Self> {
        let shell = Shell::new(bench.autonomy, Pace::Straight).muted();
        std::fs::create_dir_all(folder)?;
        let (agent, layer) = (folder.join("agent"), folder.join("layout"));
        random(&agent, size)?;
        let bundle = folder.join("bundle.tar.gz");
        let built = bundle.display().to_string();
        let done =
            shell.quietly(&["policy", "build", "--in", "demo/policies", "--out", &built, "--version", "1.0.0"])?;
        ensure!(done.code == 0, "policy build: {}", done.err);
        let image = format!("oci:{}:v1", layer.display());
        let release = Draft {
            image: &image,
            agent: &agent,
            bundle: &bundle,
            name: "bench",
            version: "1.0.0",
            sequence: 1,
            channel: "stable",
            lock: &folder.join("autonomy.lock.json"),
        };
        release.publish(&shell)?;
        let keys = Keys::generate(&shell, &folder.join("cosign"))?;
        own(&shell, &keys, &image, &[])?;
        let layer = Digest::from_hash(machines::ids::Hash32(hash(&agent)?.0));
        std::fs::remove_file(&agent)?;
        Ok(Self { folder: folder.to_path_buf(), image, keys, layer })
    }

    fn blob(&self) -> PathBuf {
        self.folder.join("layout/blobs/sha256").join(self.layer.hex())
    }
}

/// Bytes without a pattern, the same in each run.
fn random(path: &Path, size: usize) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut part = Vec::with_capacity(MIB);
    for _ in 0..size / MIB {
        part.clear();
        while part.len() < MIB {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            part.extend_from_slice(&state.to_le_bytes());
        }
        file.write_all(&part)?;
    }
    Ok(())
}

/// SHA-256 of a file, and how long reading and hashing it took, in milliseconds.
fn hash(path: &Path) -> Result<([u8; 32], f64)> {
    let began = Instant::now();
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (mut hash, mut part) = (sha2::Sha256::new(), vec![0; PART]);
    loop {
        let read = file.read(&mut part)?;
        if read == 0 {
            return Ok((hash.finalize().into(), millis(began)));
        }
        hash.update(part.get(..read).unwrap_or_default());
    }
}

fn millis(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

/// Runs a command to its end: how long it took in milliseconds, and the most memory that it was seen to have, in MiB.
fn run(command: &mut Command, watch: bool) -> Result<(f64, f64)> {
    let began = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut peak = 0;
    // Watching takes time from a machine of two cores: what is watched is not timed.
    while watch && child.try_wait()?.is_none() {
        peak = host::told(child.id(), "status", "VmHWM").map_or(peak, |now| peak.max(now));
        std::thread::sleep(Duration::from_micros(500));
    }
    let done = child.wait_with_output()?;
    let took = millis(began);
    ensure!(done.status.success(), "{}: {}", done.status, String::from_utf8_lossy(&done.stderr));
    #[allow(clippy::cast_precision_loss)] // KiB of memory
    Ok((took, peak as f64 / 1024.0))
}

/// Measures verifications.
///
/// # Errors
/// A run that fails.
pub fn verify(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    println!("verify of an image from a layout, interleaved with one pass of SHA-256 over the same bytes");
    let scratch = Scratch::new(Some(bench.within))?;
    let mut last = None;
    for size in if bench.quick { vec![1, 32] } else { vec![1, 32, 256] } {
        let release = Release::make(bench, &scratch.path().join(format!("{size}")), size * MIB)?;
        let command = |image: &str| {
            let mut command = Command::new(bench.autonomy);
            command.args(["verify", "--image", image, "--require-lock", "--require-policy", "--pubkey"]);
            command.arg(&release.keys.public).arg("--state-root").arg(scratch.path().join("no-node"));
            command
        };
        let (mut floors, mut times, mut overs, mut peak) = (Vec::new(), Vec::new(), Vec::new(), 0.0_f64);
        let mut starts = Vec::new();
        for _ in 0..bench.rounds(if size == 256 { 15 } else { 31 }) {
            let before = hash(&release.blob())?.1;
            let took = run(&mut command(&release.image), false)?.0;
            let floor = f64::midpoint(before, hash(&release.blob())?.1);
            starts.push(run(Command::new(bench.autonomy).arg("--version"), false)?.0);
            overs.push((took - BESIDE_MS) / floor);
            floors.push(floor);
            times.push(took);
        }
        for _ in 0..bench.rounds(5) {
            peak = peak.max(run(&mut command(&release.image), true)?.1);
        }
        figures(size, (median(times), median(floors), median(overs), peak), report);
        let name = format!("of that the start of a process: autonomy --version, beside {size} MiB");
        let (measured, goal) = (median(starts), String::new());
        report.add("verify", Figure { name, measured, floor: None, unit: "ms", goal, reached: None });
        last = Some(release);
    }
    if let Some(release) = last {
        beside_cosign(bench, &scratch, &release, report)?;
    }
    Ok(())
}

fn figures(size: usize, (took, floor, over, peak): (f64, f64, f64, f64), report: &mut Report) {
    let row = |name: &str, measured, floor, unit, goal: &str, reached| Figure {
        name: format!("{name}, {size} MiB"),
        measured,
        floor,
        unit,
        goal: goal.into(),
        reached,
    };
    report.add("verify", row("verify beside one SHA-256 pass", took, Some(floor), "ms", "", None));
    let goal = "at most 1.15 passes and 2 ms";
    let name = "verify without 2 ms, in passes, median of the rounds";
    report.add("verify", row(name, over, None, "", goal, Some(over <= 1.15)));
    let goal = "at most 32 MiB";
    report.add("verify", row("peak memory of verify", peak, None, "MiB", goal, Some(peak <= 32.0)));
}

/// `cosign verify` reads the manifest and its signature, and never the image's bytes.
fn beside_cosign(bench: &Bench<'_>, scratch: &Scratch, release: &Release, report: &mut Report) -> Result<()> {
    if Command::new("cosign").arg("version").stdin(Stdio::null()).output().is_err() {
        println!("  cosign is not installed: nothing to stand beside");
        return Ok(());
    }
    let registry = Registry::new(bench.autonomy, &scratch.path().join("registry"))?;
    let _up = registry.quietly()?;
    let image = format!("{}/bench:v1", registry.address);
    copy(bench, &release.image, &image)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds(9) {
        let mut command = Command::new("cosign");
        command.args(["verify", "--insecure-ignore-tlog", &image, "--key"]).arg(&release.keys.public);
        theirs.push(run(&mut command, false).context("cosign verify")?.0);
        let mut command = Command::new(bench.autonomy);
        let verify = ["verify", "--require-lock", "--require-policy", "--image", &image, "--pubkey"];
        command.args(verify).arg(&release.keys.public).arg("--state-root").arg(scratch.path().join("no-node"));
        ours.push(run(&mut command, false)?.0);
    }
    let row = |name: &str, measured| Figure {
        name: name.into(),
        measured,
        floor: None,
        unit: "ms",
        goal: String::new(),
        reached: None,
    };
    report.add("verify", row("cosign verify from our registry: manifest and signature, not the bytes", median(theirs)));
    report.add("verify", row("verify from our registry: four steps and every byte of the same image", median(ours)));
    Ok(())
}

fn copy(bench: &Bench<'_>, from: &str, to: &str) -> Result<f64> {
    Ok(run(Command::new(bench.autonomy).args(["oci", "copy", from, to]), false)?.0)
}

/// Measures pulls.
///
/// # Errors
/// A run that fails.
pub fn pull(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let size = if bench.quick { 32 } else { 256 };
    println!("pull of an image of {size} MiB over loopback");
    let scratch = Scratch::new(Some(bench.within))?;
    let release = Release::make(bench, &scratch.path().join("release"), size * MIB)?;
    let ours = Registry::new(bench.autonomy, &scratch.path().join("ours"))?;
    let _ours_up = ours.quietly()?;
    let theirs = Theirs::start(&scratch.path().join("theirs"))?;
    let mut places = vec![("our registry", ours.address)];
    match &theirs {
        Some(theirs) => places.push(("docker-registry", theirs.address)),
        None => println!("  docker-registry is not installed: nothing to stand beside"),
    }
    for (_, address) in &places {
        copy(bench, &release.image, &format!("{address}/bench:v1"))?;
    }
    let mut raws = vec![Vec::new(); places.len()];
    let mut pulls = raws.clone();
    for round in 0..bench.rounds(9) {
        for turn in 0..places.len() {
            // Each is the first one in every other round.
            let which = (round + turn) % places.len();
            let (Some((_, address)), Some(raw), Some(pull)) =
                (places.get(which), raws.get_mut(which), pulls.get_mut(which))
            else {
                continue;
            };
            raw.push(fetch(*address, &release.layer, size * MIB)?);
            let to = scratch.path().join("pulled");
            let image = Reference::parse(&format!("{address}/bench:v1")).map_err(|e| anyhow::anyhow!("{e}"))?;
            pull.push(copy(bench, &image.to_string(), &format!("oci:{}:v1", to.display()))?);
            whole(&to, &release.layer)?;
            std::fs::remove_dir_all(&to)?;
        }
    }
    let medians = |all: Vec<Vec<f64>>| all.into_iter().map(median).collect::<Vec<_>>();
    let (raws, pulls) = (medians(raws), medians(pulls));
    let theirs = |all: &[f64], which: usize| all.get(1).copied().filter(|_| which == 0);
    for (which, ((name, _), (raw, pull))) in places.iter().zip(raws.iter().zip(&pulls)).enumerate() {
        let row = |what: &str, measured: f64, floor| Figure {
            name: format!("{what} {name}, {size} MiB"),
            measured,
            floor,
            unit: "ms",
            goal: String::new(),
            reached: None,
        };
        report.add("pull", row("the layer read from a socket and thrown away, from", *raw, theirs(&raws, which)));
        report.add("pull", row("oci copy into a layout, hashed and synced, from", *pull, theirs(&pulls, which)));
    }
    Ok(())
}

/// That a pull brought the layer, so that nothing fast and wrong is measured.
fn whole(layout: &Path, layer: &Digest) -> Result<()> {
    let index = std::fs::read(layout.join("index.json"))?;
    let index = Manifest::parse(&index, None).map_err(|refusal| anyhow::anyhow!("index.json: {refusal}"))?;
    ensure!(matches!(&index, Manifest::Index(index) if index.manifests.len() == 9), "not all was copied: {index:?}");
    let found = hash(&layout.join("blobs/sha256").join(layer.hex()))?.0;
    ensure!(found == layer.hash().0, "the layer has other bytes");
    Ok(())
}

/// Reads a blob through a socket and throws it away: how long it took in milliseconds.
fn fetch(address: SocketAddr, layer: &Digest, size: usize) -> Result<f64> {
    let began = Instant::now();
    let stream = TcpStream::connect(address)?;
    let request = format!("GET /v2/bench/blobs/{layer} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    (&stream).write_all(request.as_bytes())?;
    let mut reader = BufReader::with_capacity(PART, stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    ensure!(line.contains(" 200 "), "{address} answers {line}");
    while line != "\r\n" {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "{address} ended within the head");
    }
    let mut left = size;
    while left > 0 {
        let read = reader.fill_buf()?.len();
        ensure!(read > 0, "{address} ended {left} bytes too early");
        reader.consume(read);
        left = left.saturating_sub(read);
    }
    Ok(millis(began))
}

/// Debian's docker-registry.
struct Theirs {
    address: SocketAddr,
    child: Arc<Mutex<Child>>,
}

impl Drop for Theirs {
    fn drop(&mut self) {
        scratch::kill(&self.child);
    }
}

impl Theirs {
    /// Starts it on a free port, where it is installed.
    fn start(folder: &Path) -> Result<Option<Self>> {
        std::fs::create_dir_all(folder)?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let config = folder.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}/data}}}}\nhttp: {{addr: \"{address}\"}}\n",
            folder.display()
        );
        std::fs::write(&config, text)?;
        let log = File::create(folder.join("log"))?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = match command.spawn() {
            Ok(child) => scratch::guarded(child),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context("docker-registry"),
        };
        let theirs = Self { address, child };
        let until = Instant::now() + Duration::from_secs(10);
        let patience = Duration::from_secs(1);
        while !Client::connect(address, patience).and_then(|mut c| c.get("/v2/")).is_ok_and(|a| a.status == 200) {
            if Instant::now() > until {
                let said = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
                bail!("docker-registry does not answer on {address}:\n{said}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Some(theirs))
    }
}
