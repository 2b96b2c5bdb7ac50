//! Running many seeds, on one thread or several, each with a world of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::marks::Counts;
use crate::oracles::{Failure, Oracle};
use crate::plan::Plan;
use crate::rng::{Stream, draw};
use crate::sabotage::Sabotage;
use crate::swarm;
use crate::world::{Outcome, World};

/// What to sweep.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The first seed.
    pub from: u64,
    /// How many at most.
    pub seeds: u64,
    /// How long at most.
    pub time: Option<Duration>,
    /// On how many threads.
    pub threads: usize,
    /// What is broken on purpose.
    pub sabotage: Option<Sabotage>,
    /// Do not stop at a failure.
    pub all: bool,
}

/// What came of a sweep.
#[derive(Debug, Default)]
pub struct Report {
    /// How many seeds were run.
    pub seeds: u64,
    /// How many events they had.
    pub events: u64,
    /// The failure of the lowest seed among those that failed.
    pub failure: Option<(u64, Failure)>,
    /// All failures, where they were asked for.
    pub failures: Vec<(u64, Failure)>,
    /// Situations that were reached.
    pub counts: Counts,
    /// The sum of all trace hashes: the same under any number of threads.
    pub hash: u64,
}

static OUTSIDE: AtomicU64 = AtomicU64::new(0);

/// A number from outside of every plan: what sabotaged runs use to be unlike each other.
pub(crate) fn outside_number() -> u64 {
    OUTSIDE.fetch_add(7_919, Ordering::Relaxed)
}

thread_local! {
    static PANIC: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
    static QUIET: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Panics inside a run are failures of that run, not lines on a terminal.
fn quiet_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                PANIC.set(info.to_string());
            } else {
                before(info);
            }
        }));
    });
}

/// Runs this; a panic becomes an error with its words.
pub(crate) fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    quiet_panics();
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    QUIET.set(false);
    result.map_err(|_| PANIC.take())
}

/// Runs a plan; a panic of a machine becomes a failure, and the world is made anew.
pub fn run(world: &mut World, plan: &Plan) -> Outcome {
    guarded(|| world.run(plan)).unwrap_or_else(|words| {
        let at_us = world.after_panic(&words);
        Outcome { failure: Some(Failure { oracle: Oracle::Panic, words, at_us }), hash: 0, events: 0, effects: [0; 16] }
    })
}

/// Runs a plan, and once more where the seed says so (5 %): both runs must be the same.
pub fn run_checked(world: &mut World, plan: &Plan, twice: bool) -> Outcome {
    let first = run(world, plan);
    if !twice || first.failure.is_some() {
        return first;
    }
    let counts = world.counts.clone();
    let second = run(world, plan);
    world.counts = counts;
    if second.hash == first.hash && second.failure.is_none() {
        return first;
    }
    let words = format!("trace {:016x}, then {:016x}", first.hash, second.hash);
    Outcome { failure: Some(Failure { oracle: Oracle::Determinism, words, at_us: 0 }), ..first }
}

/// Whether a seed is run twice.
#[must_use]
pub fn runs_twice(seed: u64) -> bool {
    draw(seed, Stream::Harness, 0, 0).is_multiple_of(20)
}

/// Where seeds start: 0 at a desk, on CI a number from the commit's hash, so that every commit looks elsewhere.
#[must_use]
pub fn first_seed() -> u64 {
    if std::env::var_os("CI").is_none() {
        return 0;
    }
    if let Some(base) = std::env::var("SIM_BASE").ok().and_then(|text| text.parse().ok()) {
        return base;
    }
    let head = std::process::Command::new("git").args(["rev-parse", "HEAD"]).output();
    let text = head.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
    text.get(..12).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

/// Sweeps.
#[must_use]
pub fn sweep(options: &Options) -> Report {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let until = options.time.map(|time| Instant::now() + time);
    let whole = Mutex::new(Report::default());
    let one = || {
        let mut world = options.sabotage.map_or_else(World::default, World::sabotaged);
        let mut mine = Report::default();
        while !stop.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= options.seeds || until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
            let seed = options.from.wrapping_add(at);
            let outcome = run_checked(&mut world, &swarm::plan(seed), runs_twice(seed));
            mine.seeds += 1;
            mine.events += outcome.events;
            mine.hash = mine.hash.wrapping_add(outcome.hash);
            if let Some(failure) = outcome.failure {
                if options.all {
                    mine.failures.push((seed, failure.clone()));
                }
                if mine.failure.as_ref().is_none_or(|old| seed < old.0) {
                    mine.failure = Some((seed, failure));
                }
                stop.store(!options.all, Ordering::Relaxed);
            }
        }
        mine.counts = world.counts.clone();
        if let Ok(mut whole) = whole.lock() {
            whole.seeds += mine.seeds;
            whole.events += mine.events;
            whole.hash = whole.hash.wrapping_add(mine.hash);
            whole.counts.add(&mine.counts);
            whole.failures.append(&mut mine.failures);
            if let Some(failure) = mine.failure
                && whole.failure.as_ref().is_none_or(|old| failure.0 < old.0)
            {
                whole.failure = Some(failure);
            }
        }
    };
    if options.threads <= 1 {
        // An allocator that knows of one thread takes no locks.
        one();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..options.threads {
                scope.spawn(one);
            }
        });
    }
    whole.into_inner().unwrap_or_default()
}
