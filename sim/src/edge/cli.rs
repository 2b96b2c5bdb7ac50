//! `sim edge …`: the same commands for the world of a node's start.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::marks::MARKS;
use super::plan::Plan;
use super::world::World;
use super::{exhaust, sabotage, shrink, swarm, sweep};
use crate::oracles::Failure;
use crate::sweep::Options;

/// A seed, or a plan file; and what is broken on purpose.
#[derive(Clone, Debug, Default)]
pub struct One {
    /// The plan file.
    pub plan: Option<std::path::PathBuf>,
    /// The seed.
    pub seed: Option<u64>,
    /// A name that `sabotage` prints.
    pub sabotage: Option<String>,
}

impl One {
    fn plan(&self) -> anyhow::Result<Plan> {
        if let Some(path) = &self.plan {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            return Plan::parse(&text).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()));
        }
        Ok(swarm::plan(self.seed.context("name a plan file, or a seed by SEED=… or --seed")?))
    }

    fn world(&self) -> anyhow::Result<World> {
        let Some(name) = &self.sabotage else { return Ok(World::default()) };
        let found = sabotage::ALL.iter().find(|(_, known)| known == name);
        Ok(World::sabotaged(found.with_context(|| format!("nothing to break is named {name}"))?.0))
    }

    fn words(&self, command: &str) -> String {
        match &self.plan {
            Some(path) => format!("cargo run -p sim -- edge {command} {}", path.display()),
            None => format!("SEED={} cargo run -p sim -- edge {command}", self.seed.unwrap_or(0)),
        }
    }

    fn explain(&self, plan: &Plan, failure: &Failure) -> anyhow::Result<()> {
        println!("\nFAILED {} at operation {}: {}", failure.oracle.name(), failure.at_us, failure.words);
        println!("seed {}, {} steps, {} of them odd", plan.seed, plan.steps.len(), plan.faults());
        let (_, text) = shrink::timeline(&mut self.world()?, plan, Some(40));
        println!("{text}\nrepeat: {}\nshrink: {}", self.words("replay"), self.words("shrink"));
        Ok(())
    }
}

/// Sweeps; the exit code.
///
/// # Errors
/// None but those of explaining a failure.
pub fn sweep_many(options: &Options, marks: bool) -> anyhow::Result<u8> {
    let began = Instant::now();
    let report = sweep::sweep(options, None);
    let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
    println!(
        "sim edge: {} seeds from {}, {} operations each, {} seeds/s on {} threads, traces {:016x}",
        report.seeds,
        options.from,
        report.events / report.seeds.max(1),
        report.seeds * 1_000 / millis,
        options.threads,
        report.hash
    );
    if marks {
        for (mark, name) in MARKS {
            println!("{:>10}  {name}", report.counts.of(*mark));
        }
        for name in report.counts.missing() {
            println!("never reached: {name}");
        }
    }
    for (seed, failure) in &report.failures {
        println!("seed {seed}: {}: {}", failure.oracle.name(), failure.words);
    }
    let Some((seed, failure)) = report.failure else { return Ok(0) };
    One { seed: Some(seed), ..One::default() }.explain(&swarm::plan(seed), &failure)?;
    Ok(failure.oracle.exit_code())
}

/// Runs one plan twice.
///
/// # Errors
/// When there is no such plan.
pub fn replay(one: &One) -> anyhow::Result<u8> {
    let plan = one.plan()?;
    let outcome = sweep::run_checked(&mut one.world()?, &plan, true);
    println!(
        "seed {}: {} operations, exits {:?}, trace {:016x}",
        plan.seed, outcome.events, outcome.exits, outcome.hash
    );
    let Some(failure) = outcome.failure else {
        println!("nothing failed");
        return Ok(0);
    };
    one.explain(&plan, &failure)?;
    Ok(failure.oracle.exit_code())
}

/// Prints the smallest plan that breaks the same invariant.
///
/// # Errors
/// When there is no such plan.
pub fn shrink_one(one: &One) -> anyhow::Result<u8> {
    let plan = one.plan()?;
    let mut world = one.world()?;
    let Some(failure) = sweep::run_checked(&mut world, &plan, true).failure else {
        println!("nothing fails: there is nothing to shrink");
        return Ok(0);
    };
    let (small, runs) = shrink::shrink(&mut world, &plan, failure.oracle);
    let (failure, _) = shrink::timeline(&mut world, &small, None);
    if let Some(failure) = &failure {
        println!("# {}: {}", failure.oracle.name(), failure.words);
    }
    println!("# from {} steps to {} in {runs} runs", plan.steps.len(), small.steps.len());
    print!("{small}");
    Ok(failure.map_or(0, |failure| failure.oracle.exit_code()))
}

/// Prints everything that happens.
///
/// # Errors
/// When there is no such plan.
pub fn timeline(one: &One) -> anyhow::Result<u8> {
    let (failure, text) = shrink::timeline(&mut one.world()?, &one.plan()?, None);
    print!("{text}");
    Ok(failure.map_or(0, |failure| failure.oracle.exit_code()))
}

/// Tries every crash point of every scenario.
#[must_use]
pub fn exhaust_all(width: exhaust::Width) -> u8 {
    let (mut points, mut states) = (0, 0);
    for scenario in exhaust::scenarios() {
        let began = Instant::now();
        let report = exhaust::crashes(&scenario, width);
        points += report.points;
        states += report.states;
        let took = began.elapsed().as_millis();
        println!("sim edge: {}: {} crash points, {} states, {took} ms", scenario.name, report.points, report.states);
        if let Some((path, failure)) = report.failure {
            println!("{path}\nFAILED {}: {}", failure.oracle.name(), failure.words);
            return failure.oracle.exit_code();
        }
    }
    println!("sim edge: {points} crash points of reconstructions from {states} states, all survived");
    0
}

/// Breaks one thing after the other on purpose.
#[must_use]
pub fn sabotage_all() -> u8 {
    let mut missed = 0;
    for (sabotage, name) in sabotage::ALL {
        let options = Options { from: 0, seeds: 1_000, time: None::<Duration>, threads: 1, sabotage: None, all: false };
        let report = sweep::sweep(&options, Some(*sabotage));
        match report.failure {
            Some((seed, failure)) => println!(
                "caught  {name:<28} after {:>4} seeds (seed {seed}): {}: {}",
                report.seeds,
                failure.oracle.name(),
                failure.words
            ),
            None => {
                println!("MISSED  {name}");
                missed += 1;
            }
        }
    }
    if missed == 0 { 0 } else { 5 }
}
