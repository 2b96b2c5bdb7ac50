//! What the machine says of a process and of its disk.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::client::as_f64;
use crate::report::percentile;

/// Times of `writes` appends of `len` bytes with their fdatasync, in microseconds, sorted; the file stays.
///
/// # Errors
/// The file cannot be written.
pub fn write_and_sync(path: &Path, len: usize, writes: usize) -> Result<Vec<f64>> {
    let mut file = File::options().append(true).create(true).open(path)?;
    let bytes = vec![b'x'; len];
    let mut times = Vec::with_capacity(writes);
    for _ in 0..writes {
        let began = Instant::now();
        file.write_all(&bytes)?;
        rustix::fs::fdatasync(&file)?;
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// The median of `write_and_sync`.
///
/// # Errors
/// The file cannot be written.
pub fn sync_p50_us(path: &Path, len: usize, writes: usize) -> Result<f64> {
    let times = write_and_sync(path, len, writes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(percentile(&times, 50))
}

/// CPU time that a process used so far.
///
/// # Errors
/// `/proc` does not tell.
pub fn cpu_of(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The name in brackets may hold blanks; utime and stime are fields 14 and 15.
    let behind = text.rsplit(')').next().unwrap_or_default();
    let field = |n: usize| behind.split_whitespace().nth(n).and_then(|word| word.parse::<u64>().ok());
    let ticks = field(11).zip(field(12)).map(|(user, system)| user + system);
    let ticks = ticks.with_context(|| format!("{path} is not understood"))?;
    Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second().max(1)))
}

/// CPU time that this process used so far.
#[must_use]
pub fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}

/// A number behind a name in one of a process's `/proc` files.
///
/// # Errors
/// `/proc` does not tell.
pub fn told(pid: u32, file: &str, name: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/{file}");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("{path} has no `{name}`"))
}

/// This thread, and what it starts from now on, on one core until this goes out of scope.
#[derive(Debug)]
pub struct OnOneCore {
    before: CpuSet,
}

impl OnOneCore {
    /// Takes the last core that this thread may use.
    ///
    /// # Errors
    /// The system refuses.
    pub fn take() -> Result<Self> {
        let before = sched_getaffinity(None).context("sched_getaffinity")?;
        let last = (0..CpuSet::MAX_CPU).rev().find(|core| before.is_set(*core)).context("no core")?;
        let mut one = CpuSet::new();
        one.set(last);
        sched_setaffinity(None, &one).context("sched_setaffinity")?;
        Ok(Self { before })
    }
}

impl Drop for OnOneCore {
    fn drop(&mut self) {
        // Without it the figures after this one are of one core, which the table then shows.
        let _ = sched_setaffinity(None, &self.before);
    }
}

/// How many cores this process may use.
#[must_use]
pub fn cores() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |n| as_f64(n.get()))
}

/// Lets the kernel forget what it holds of a file's content.
///
/// # Errors
/// The file cannot be opened.
pub fn forget(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    file.sync_all().with_context(|| format!("cannot sync {}", path.display()))?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).context("fadvise")?;
    Ok(())
}
