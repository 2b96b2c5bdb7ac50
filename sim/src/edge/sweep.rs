//! Running many stories, and each twentieth twice.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::marks::Counts;
use super::plan::Plan;
use super::sabotage::Sabotage;
use super::swarm;
use super::world::{Outcome, World};
use crate::oracles::{Failure, Oracle};
use crate::sweep::{Options, guarded, runs_twice};

/// What came of a sweep.
#[derive(Debug, Default)]
pub struct Report {
    /// How many stories were told.
    pub seeds: u64,
    /// How many operations they had.
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

/// Runs a plan; a panic of the machine becomes a failure.
pub fn run(world: &mut World, plan: &Plan) -> Outcome {
    guarded(|| world.run(plan)).unwrap_or_else(|words| Outcome {
        failure: Some(Failure { oracle: Oracle::Panic, words, at_us: 0 }),
        hash: 0,
        events: 0,
        exits: Vec::new(),
        notes: Vec::new(),
    })
}

/// Runs a plan, and once more where it is asked for: both runs must be the same.
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

/// Sweeps. What `options` breaks belongs to the other world; here it is `sabotage`.
#[must_use]
pub fn sweep(options: &Options, sabotage: Option<Sabotage>) -> Report {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let until = options.time.map(|time| Instant::now() + time);
    let whole = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            scope.spawn(|| {
                let mut world = sabotage.map_or_else(World::default, World::sabotaged);
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
                    whole.add(mine);
                }
            });
        }
    });
    whole.into_inner().unwrap_or_default()
}

impl Report {
    fn add(&mut self, mut other: Self) {
        self.seeds += other.seeds;
        self.events += other.events;
        self.hash = self.hash.wrapping_add(other.hash);
        self.counts.add(&other.counts);
        self.failures.append(&mut other.failures);
        if let Some(failure) = other.failure
            && self.failure.as_ref().is_none_or(|old| failure.0 < old.0)
        {
            self.failure = Some(failure);
        }
    }
}
