//! The simulator's own test run: regressions first, then a sweep, then the proofs that the sweep means something.

use std::time::Duration;

use machines::disk::{Completion, Lane, Op, Tag};
use sim::conformance::{self, DiskUnderTest};
use sim::disk::{Disk, Survival};
use sim::oracles::Oracle;
use sim::plan::Plan;
use sim::sabotage;
use sim::sweep::{Options, Report, run, run_checked, sweep};
use sim::world::World;
use sim::{exhaust, shrink, swarm, timeline};

fn options(from: u64, seeds: u64) -> Options {
    Options { from, seeds, time: None, threads: threads(), sabotage: None, all: false }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(4)
}

fn no_failure(report: &Report) {
    if let Some((seed, failure)) = &report.failure {
        let plan = swarm::plan(*seed);
        let (_, text) = timeline::timeline(&mut World::default(), &plan, Some(40));
        panic!(
            "seed {seed} ({} steps, mask {}): {} at {} us: {}\n{text}\nrepeat: SEED={seed} cargo run -p sim -- replay\nshrink: SEED={seed} cargo run -p sim -- shrink",
            plan.steps.len(),
            plan.mask,
            failure.oracle.name(),
            failure.at_us,
            failure.words,
        );
    }
}

/// Every plan that once failed, for ever.
#[test]
fn a_regressions_do_not_come_back() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let mut names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    // The plans of a node's start lie in a folder of their own.
    names.retain(|path| path.is_file());
    names.sort();
    assert!(!names.is_empty(), "{} holds no plan", folder.display());
    let mut failed = Vec::new();
    for path in names {
        let plan = Plan::parse(&std::fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        if let Some(failure) = run_checked(&mut World::default(), &plan, true).failure {
            failed.push(format!("{}: {}: {}", path.display(), failure.oracle.name(), failure.words));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// About ten seconds of seeds that nobody has looked at in this commit, or from 0 at a desk.
#[test]
fn b_sweep_finds_nothing() {
    let from = sim::sweep::first_seed();
    println!("sim: seeds from {from}");
    let report = sweep(&Options { time: Some(Duration::from_secs(10)), ..options(from, u64::MAX) });
    no_failure(&report);
    assert!(report.seeds > 500, "only {} seeds in ten seconds", report.seeds);
}

#[test]
fn c_marks_are_reached() {
    let mut from = 0;
    let mut counts = sim::marks::Counts::default();
    while from < 40_000 && !counts.missing().is_empty() {
        let report = sweep(&options(from, 2_000));
        no_failure(&report);
        counts.add(&report.counts);
        from += 2_000;
    }
    assert!(counts.missing().is_empty(), "never reached in {from} seeds: {:?}", counts.missing());
}

#[test]
fn d_each_sabotage_is_caught_within_1000_seeds() {
    let mut missed = Vec::new();
    for (sabotage, name) in sabotage::ALL {
        let report = sweep(&Options { sabotage: Some(*sabotage), threads: 1, ..options(0, 1_000) });
        if report.failure.is_none() {
            missed.push(*name);
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

#[test]
fn e_every_crash_point_of_a_small_plan_is_survived() {
    let mut world = World::default();
    let crashes = exhaust::crashes(&mut world, &exhaust::small_plan(1), true);
    let draining = exhaust::crashes(&mut world, &exhaust::draining_plan(1), true);
    let loads = exhaust::loads(&mut world, 1);
    let drains = exhaust::drains(&mut world, 1);
    let releases = exhaust::releases(&mut world, 1);
    for report in [&crashes, &draining, &loads, &drains, &releases] {
        if let Some((plan, failure)) = &report.failure {
            panic!("{}: {}\n{plan}", failure.oracle.name(), failure.words);
        }
    }
    assert!(crashes.points > 5_000, "only {} crash points", crashes.points);
    assert!(loads.points >= 300, "only {} crash points of loads", loads.points);
    assert!(draining.points > 3_000, "only {} crash points with a drain in the background", draining.points);
    assert!(drains.points >= 180, "only {} crash points of drains", drains.points);
    assert!(releases.points >= 3_000, "only {} crash points of activations", releases.points);
    let loads = loads.points + releases.points;
    println!("sim: {} crash points", crashes.points + draining.points + loads + drains.points);
}

/// C10: the same seeds give the same traces on any number of threads and in a world that was used before.
#[test]
fn c10_traces_are_the_same_under_any_number_of_threads() {
    let one = sweep(&Options { threads: 1, ..options(5_000, 400) });
    let many = sweep(&Options { threads: 3, ..options(5_000, 400) });
    no_failure(&one);
    assert_eq!((one.hash, one.events, one.seeds), (many.hash, many.events, many.seeds));
    let mut used = World::default();
    for seed in [5_001, 7, 5_001] {
        run(&mut used, &swarm::plan(seed));
    }
    let again = run(&mut used, &swarm::plan(5_001));
    assert_eq!(again.hash, run(&mut World::default(), &swarm::plan(5_001)).hash);
}

#[test]
fn a_plan_runs_the_same_from_its_text() {
    for seed in 0..60 {
        let plan = swarm::plan(seed);
        let read = Plan::parse(&plan.to_string()).unwrap();
        let (a, b) = (run(&mut World::default(), &plan), run(&mut World::default(), &read));
        assert_eq!((a.hash, a.events), (b.hash, b.events), "seed {seed}");
    }
}

/// A smaller plan counts only when it breaks the same invariant, and shrinking does make plans smaller.
#[test]
fn shrinking_keeps_the_invariant_that_broke() {
    let sabotage = sabotage::Sabotage::FloorIgnored;
    let report = sweep(&Options { sabotage: Some(sabotage), threads: 1, ..options(0, 1_000) });
    let (seed, failure) = report.failure.expect("sabotage is caught");
    assert_ne!(failure.oracle, Oracle::Panic);
    let plan = swarm::plan(seed);
    let mut world = World::sabotaged(sabotage);
    let (small, runs) = shrink::shrink(&mut world, &plan, failure.oracle);
    assert!(
        small.steps.len() * 2 <= plan.steps.len(),
        "{} of {} steps after {runs} runs",
        small.steps.len(),
        plan.steps.len()
    );
    assert_eq!(run(&mut world, &small).failure.map(|f| f.oracle), Some(failure.oracle));
    let (_, text) = timeline::timeline(&mut world, &small, Some(20));
    assert!(text.contains("FAILED"), "{text}");
}

struct Simulated(Disk);

impl DiskUnderTest for Simulated {
    fn run_all(&mut self, chains: Vec<(Tag, Vec<Op>)>) -> Vec<(Tag, Completion)> {
        let mut done = Vec::new();
        // Lanes side by side: one operation of each in turn, as the world does it.
        let mut lanes: Vec<Vec<(Tag, Vec<Op>)>> = vec![Vec::new(), Vec::new(), Vec::new()];
        for chain in chains {
            let lane = match chain.0.lane {
                Lane::Log | Lane::Drain => 0,
                Lane::Keeping | Lane::Cursors | Lane::Marker => 1,
                Lane::Policy => 2,
            };
            lanes[lane].push(chain);
        }
        let mut steps = [0usize; 3];
        while lanes.iter().any(|lane| !lane.is_empty()) {
            for (lane, step) in lanes.iter_mut().zip(&mut steps) {
                let Some((tag, ops)) = lane.first() else { continue };
                let result = self.0.apply(&ops[*step]);
                let last = *step + 1 == ops.len();
                match result {
                    Err(kind) => done.push((*tag, Err(machines::disk::Fault { step: *step, kind }))),
                    Ok(value) if last => done.push((*tag, Ok(value))),
                    Ok(_) => {
                        *step += 1;
                        continue;
                    }
                }
                *step = 0;
                lane.remove(0);
            }
        }
        done
    }

    fn tamper_truncate(&mut self, file: machines::disk::File, len: u64) {
        self.0.tamper_truncate(file, usize::try_from(len).unwrap());
    }

    fn restart(&mut self) {}

    fn power_cut(&mut self) -> bool {
        self.0.power_loss(Survival::Nothing);
        true
    }
}

#[test]
fn the_simulated_disk_keeps_the_contract() {
    conformance::run_suite(|| Simulated(Disk::default())).unwrap();
}
