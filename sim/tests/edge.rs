//! The world of a node's start: regressions, a sweep, marks, sabotage, and every crash point of a reconstruction.

use std::sync::Mutex;
use std::time::Duration;

use machines::disk::FaultKind;
use machines::tree::{Completion, Done, Fault, Op, Opened, Root};
use sim::edge::conformance::conformance;
use sim::edge::exhaust::{self, Report, Width};
use sim::edge::marks::Counts;
use sim::edge::plan::Plan;
use sim::edge::sweep::{run, run_checked, sweep};
use sim::edge::tree::Tree;
use sim::edge::world::World;
use sim::edge::{sabotage, shrink, swarm};
use sim::oracles::{Failure, Oracle};
use sim::sweep::Options;

fn options(from: u64, seeds: u64) -> Options {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    Options { from, seeds, time: None, threads, sabotage: None, all: false }
}

fn no_failure(failure: &Option<(u64, Failure)>) {
    if let Some((seed, failure)) = failure {
        let (_, text) = shrink::timeline(&mut World::default(), &swarm::plan(*seed), Some(40));
        panic!(
            "seed {seed}: {}: {}\n{text}\nrepeat: SEED={seed} cargo run -p sim -- edge replay\nshrink: SEED={seed} cargo run -p sim -- edge shrink",
            failure.oracle.name(),
            failure.words,
        );
    }
}

/// Every story that once failed, for ever.
#[test]
fn a_regressions_do_not_come_back() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions/edge");
    let mut names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
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

/// Some seconds of stories that nobody has looked at in this commit, or from 0 at a desk.
#[test]
fn b_sweep_finds_nothing() {
    let from = sim::sweep::first_seed();
    let report = sweep(&Options { time: Some(Duration::from_secs(5)), ..options(from, u64::MAX) }, None);
    println!("sim edge: {} seeds from {from}", report.seeds);
    no_failure(&report.failure);
    assert!(report.seeds > 200, "only {} seeds in five seconds", report.seeds);
}

#[test]
fn c_marks_are_reached() {
    let mut from = 0;
    let mut counts = Counts::default();
    while from < 12_000 && !counts.missing().is_empty() {
        let report = sweep(&options(from, 1_000), None);
        no_failure(&report.failure);
        counts.add(&report.counts);
        from += 1_000;
    }
    assert!(counts.missing().is_empty(), "never reached in {from} seeds: {:?}", counts.missing());
}

#[test]
fn d_each_sabotage_is_caught_within_1000_seeds() {
    let mut missed = Vec::new();
    for (sabotage, name) in sabotage::ALL {
        if sweep(&options(0, 1_000), Some(*sabotage)).failure.is_none() {
            missed.push(*name);
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

/// B01, B06, B08, T17: a kill and a power cut at every operation, and at every operation of the attempts behind it; a failure and
/// no space at every operation. `docs/simulation.md` says how many crash points that are.
#[test]
fn e_b01_b06_b08_t17_every_crash_point_of_a_reconstruction_is_survived() {
    let scenarios = exhaust::scenarios();
    let next = Mutex::new(scenarios.iter().rev().collect::<Vec<_>>());
    let reports: Mutex<Vec<Report>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..options(0, 0).threads {
            scope.spawn(|| {
                loop {
                    let Some(scenario) = next.lock().unwrap().pop() else { return };
                    let report = exhaust::crashes(scenario, Width::Narrow);
                    reports.lock().unwrap().push(report);
                }
            });
        }
    });
    let reports = reports.into_inner().unwrap();
    assert_eq!(reports.len(), scenarios.len());
    for report in &reports {
        if let Some((path, failure)) = &report.failure {
            panic!("{path}\n{}: {}", failure.oracle.name(), failure.words);
        }
    }
    let points: u64 = reports.iter().map(|report| report.points).sum();
    let states: u64 = reports.iter().map(|report| report.states).sum();
    println!("sim edge: {points} crash points of reconstructions from {states} states");
    let docs = include_str!("../../docs/simulation.md");
    let said = format!("**{points} crash points**");
    assert!(docs.contains(&said), "docs/simulation.md has to say {said}, as many as there are now");
}

/// C10: the same seeds give the same traces on any number of threads and in a world that was used before.
#[test]
fn c10_traces_are_the_same_under_any_number_of_threads() {
    let one = sweep(&Options { threads: 1, ..options(5_000, 400) }, None);
    let many = sweep(&Options { threads: 3, ..options(5_000, 400) }, None);
    no_failure(&one.failure);
    assert_eq!((one.hash, one.events, one.seeds), (many.hash, many.events, many.seeds));
}

#[test]
fn a_plan_runs_the_same_from_its_text() {
    for seed in 0..200 {
        let plan = swarm::plan(seed);
        let read = Plan::parse(&plan.to_string()).unwrap();
        assert_eq!(read, plan, "seed {seed}");
        let (a, b) = (run(&mut World::default(), &plan), run(&mut World::default(), &read));
        assert_eq!((a.hash, a.events), (b.hash, b.events), "seed {seed}");
    }
}

/// A shorter story counts only when it breaks the same invariant, and shrinking does make stories shorter.
#[test]
fn shrinking_keeps_the_invariant_that_broke() {
    let sabotage = sabotage::Sabotage::CopyNotCompared;
    let report = sweep(&Options { threads: 1, ..options(0, 1_000) }, Some(sabotage));
    let (seed, failure) = report.failure.expect("sabotage is caught");
    assert_eq!(failure.oracle, Oracle::UnverifiedOperation);
    let plan = swarm::plan(seed);
    let mut world = World::sabotaged(sabotage);
    let (small, runs) = shrink::shrink(&mut world, &plan, failure.oracle);
    assert!(small.steps.len() * 2 <= plan.steps.len(), "{} steps after {runs} runs:\n{small}", small.steps.len());
    let (failure, text) = shrink::timeline(&mut world, &small, Some(20));
    assert_eq!(failure.map(|failure| failure.oracle), Some(Oracle::UnverifiedOperation));
    assert!(text.contains("FAILED"), "{text}");
}

#[test]
fn the_simulated_tree_keeps_the_contract() {
    let mut tree = Tree::default();
    let run = |tree: &mut Tree, op: &Op| {
        let open = tree.at(sim::edge::tree::View::Cache, &machines::tree::Place::top(Root::State)).is_some();
        if *op == Op::Open(Root::State) {
            if !open {
                tree.add_root(Root::State);
            }
            return Ok(Done::Opened(Opened { ours: true, mode: 0o700, writable: true }));
        }
        // There is no other root, and nothing in one that was not opened.
        if matches!(op, Op::Open(Root::Allowed(_))) || !open {
            return Err(FaultKind::NotFound);
        }
        tree.apply(op)
    };
    let mut chain = |ops: Vec<Op>| -> Completion {
        let mut last = Done::Nothing;
        for (step, op) in ops.iter().enumerate() {
            last = run(&mut tree, op).map_err(|kind| Fault { step, kind })?;
        }
        Ok(last)
    };
    conformance(&mut chain).unwrap();
}
