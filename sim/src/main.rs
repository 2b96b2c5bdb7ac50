//! The simulator's command line. See `docs/simulation.md`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use sim::edge::exhaust::Width;
use sim::marks::MARKS;
use sim::oracles::Failure;
use sim::plan::Plan;
use sim::sabotage;
use sim::sweep::{self, Options};
use sim::world::World;
use sim::{edge, exhaust, shrink, swarm, timeline};

/// Runs the machines in a world where disk, power, clock and processes fail.
#[derive(Parser)]
#[command(name = "sim", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run many seeds.
    Sweep(Many),
    /// Run one seed or plan and say what came of it.
    Replay(One),
    /// Make a failing seed or plan smaller.
    Shrink(One),
    /// Print everything that happens in one seed or plan.
    Timeline(One),
    /// Run many seeds and count the situations that they reach.
    Marks(Many),
    /// Crash a small plan at every effect, and its recovery at every effect.
    Exhaust,
    /// Check that each thing broken on purpose is caught within 1,000 seeds.
    Sabotage,
    /// The same for the world of a node's start: precheck and reconstruction.
    #[command(subcommand)]
    Edge(Edge),
}

#[derive(Subcommand)]
enum Edge {
    /// Run many seeds.
    Sweep(Many),
    /// Run one seed or plan and say what came of it.
    Replay(One),
    /// Make a failing seed or plan smaller.
    Shrink(One),
    /// Print everything that happens in one seed or plan.
    Timeline(One),
    /// Run many seeds and count the situations that they reach.
    Marks(Many),
    /// Cut reconstructions at every operation, and the two attempts that follow.
    Exhaust {
        /// Try more of what may survive in the second attempt; takes minutes.
        #[arg(long)]
        wide: bool,
    },
    /// Check that each thing broken on purpose is caught within 1,000 seeds.
    Sabotage,
}

#[derive(Args, Clone)]
struct Many {
    /// How many seeds.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed; at a desk 0, on CI from the commit.
    #[arg(long)]
    from: Option<u64>,
    /// How long at most, in seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Threads, each with its own world.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Go on after a failure, and list all of them at the end.
    #[arg(long)]
    all: bool,
}

#[derive(Args, Clone)]
struct One {
    /// A plan file; without one, the environment variable SEED names a seed.
    plan: Option<std::path::PathBuf>,
    /// The seed.
    #[arg(long, env = "SEED")]
    seed: Option<u64>,
    /// Break this on purpose (a name that `sabotage` prints).
    #[arg(long)]
    sabotage: Option<String>,
}

impl One {
    fn plan(&self) -> anyhow::Result<Plan> {
        if let Some(path) = &self.plan {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            return Plan::parse(&text).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()));
        }
        let seed = self.seed.context("name a plan file, or a seed by SEED=… or --seed")?;
        Ok(swarm::plan(seed))
    }

    fn world(&self) -> anyhow::Result<World> {
        let Some(name) = &self.sabotage else { return Ok(World::default()) };
        let found = sabotage::ALL.iter().find(|(_, known)| known == name);
        Ok(World::sabotaged(found.with_context(|| format!("nothing to break is named {name}"))?.0))
    }

    fn edge(self) -> edge::cli::One {
        edge::cli::One { plan: self.plan, seed: self.seed, sabotage: self.sabotage }
    }

    /// How this run is named on a command line.
    fn words(&self) -> String {
        match &self.plan {
            Some(path) => format!("cargo run -p sim -- COMMAND {}", path.display()),
            None => format!("SEED={} cargo run -p sim -- COMMAND", self.seed.unwrap_or(0)),
        }
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let code = match Cli::parse().command {
        Command::Sweep(many) => match sweep_many(&many, false) {
            0 => edge::cli::sweep_many(&eighth(&many), false)?,
            code => code,
        },
        Command::Marks(many) => sweep_many(&many, true),
        Command::Replay(one) => replay(&one)?,
        Command::Shrink(one) => shrink_one(&one)?,
        Command::Timeline(one) => {
            let (failure, text) = timeline::timeline(&mut one.world()?, &one.plan()?, None);
            print!("{text}");
            failure.map_or(0, |failure| failure.oracle.exit_code())
        }
        Command::Exhaust => exhaust_all(),
        Command::Sabotage => sabotage_all(),
        Command::Edge(command) => match command {
            Edge::Sweep(many) => edge::cli::sweep_many(&many.options(), false)?,
            Edge::Marks(many) => edge::cli::sweep_many(&many.options(), true)?,
            Edge::Replay(one) => edge::cli::replay(&one.edge())?,
            Edge::Shrink(one) => edge::cli::shrink_one(&one.edge())?,
            Edge::Timeline(one) => edge::cli::timeline(&one.edge())?,
            Edge::Exhaust { wide } => edge::cli::exhaust_all(if wide { Width::Wide } else { Width::Narrow }),
            Edge::Sabotage => edge::cli::sabotage_all(),
        },
    };
    Ok(ExitCode::from(code))
}

impl Many {
    fn options(&self) -> Options {
        let seconds = self.seconds.or(if self.seeds.is_none() { Some(10) } else { None });
        Options {
            from: self.from.unwrap_or_else(sweep::first_seed),
            seeds: self.seeds.unwrap_or(u64::MAX),
            time: seconds.map(Duration::from_secs),
            threads: self.threads,
            sabotage: None,
            all: self.all,
        }
    }
}

/// An eighth of the time, or as many seeds, for the other world.
fn eighth(many: &Many) -> Options {
    let options = many.options();
    Options { time: options.time.map(|time| time / 8), ..options }
}

fn sweep_many(many: &Many, marks: bool) -> u8 {
    let options = many.options();
    println!("sim: seeds from {} (at a desk from 0; on CI from the commit or SIM_BASE)", options.from);
    let began = Instant::now();
    let report = sweep::sweep(&options);
    let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
    println!(
        "sim: {} seeds, {} events each, {} seeds/s on {} threads, traces {:016x}",
        report.seeds,
        report.events / report.seeds.max(1),
        report.seeds * 1_000 / millis,
        many.threads,
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
    let Some((seed, failure)) = report.failure else { return 0 };
    explain(&One { plan: None, seed: Some(seed), sabotage: None }, &swarm::plan(seed), &failure);
    failure.oracle.exit_code()
}

fn explain(one: &One, plan: &Plan, failure: &Failure) {
    println!("\nFAILED {} at {} us: {}", failure.oracle.name(), failure.at_us, failure.words);
    println!("seed {}, {} steps, {} of them faults, mask {}", plan.seed, plan.steps.len(), plan.faults(), plan.mask);
    let mut world = one.world().unwrap_or_default();
    let (_, text) = timeline::timeline(&mut world, plan, Some(40));
    println!("{text}");
    println!("repeat: {}", one.words().replace("COMMAND", "replay"));
    println!("shrink: {}", one.words().replace("COMMAND", "shrink"));
}

fn replay(one: &One) -> anyhow::Result<u8> {
    let plan = one.plan()?;
    let outcome = sweep::run_checked(&mut one.world()?, &plan, true);
    println!("seed {}: {} events, trace {:016x}", plan.seed, outcome.events, outcome.hash);
    let Some(failure) = outcome.failure else {
        println!("nothing failed");
        return Ok(0);
    };
    explain(one, &plan, &failure);
    Ok(failure.oracle.exit_code())
}

fn shrink_one(one: &One) -> anyhow::Result<u8> {
    let plan = one.plan()?;
    let mut world = one.world()?;
    let outcome = sweep::run_checked(&mut world, &plan, true);
    let Some(failure) = outcome.failure else {
        println!("nothing fails: there is nothing to shrink");
        return Ok(0);
    };
    let (small, runs) = shrink::shrink(&mut world, &plan, failure.oracle);
    let (failure, _) = timeline::timeline(&mut world, &small, None);
    if let Some(failure) = &failure {
        println!("# {}: {}", failure.oracle.name(), failure.words);
    }
    println!("# from {} steps to {} in {runs} runs", plan.steps.len(), small.steps.len());
    print!("{small}");
    Ok(failure.map_or(0, |failure| failure.oracle.exit_code()))
}

fn exhaust_all() -> u8 {
    let mut world = World::default();
    let mut points = 0;
    let reports = [
        exhaust::crashes(&mut world, &exhaust::small_plan(1), true),
        exhaust::crashes(&mut world, &exhaust::draining_plan(1), true),
        exhaust::loads(&mut world, 1),
        exhaust::drains(&mut world, 1),
        exhaust::releases(&mut world, 1),
    ];
    for report in reports {
        points += report.points;
        if let Some((plan, failure)) = report.failure {
            println!("{plan}");
            println!("FAILED {}: {}", failure.oracle.name(), failure.words);
            return failure.oracle.exit_code();
        }
    }
    println!("sim: {points} crash points, all survived");
    0
}

fn sabotage_all() -> u8 {
    let mut missed = 0;
    for (sabotage, name) in sabotage::ALL {
        let options = Options { from: 0, seeds: 1_000, time: None, threads: 1, sabotage: Some(*sabotage), all: false };
        let report = sweep::sweep(&options);
        match report.failure {
            Some((seed, failure)) => {
                println!(
                    "caught  {name:<24} after {:>4} seeds (seed {seed}): {}: {}",
                    report.seeds,
                    failure.oracle.name(),
                    failure.words
                );
            }
            None => {
                println!("MISSED  {name}");
                missed += 1;
            }
        }
    }
    if missed == 0 { 0 } else { 5 }
}
