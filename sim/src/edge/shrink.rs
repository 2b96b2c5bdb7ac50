//! Making a failing story shorter, and reading it: a shorter one counts only if it breaks the same invariant.

use std::fmt::Write as _;

use super::plan::{Check, Config, End, Fault, Plan, Step};
use super::sweep::{run, run_checked};
use super::tree::Survival;
use super::world::World;
use crate::oracles::{Failure, Oracle};

fn fails(world: &mut World, plan: &Plan, oracle: Oracle) -> bool {
    let outcome = run_checked(world, plan, oracle == Oracle::Determinism);
    outcome.failure.is_some_and(|failure| failure.oracle == oracle)
}

/// The smallest plan that was found, and after how many runs.
pub fn shrink(world: &mut World, plan: &Plan, oracle: Oracle) -> (Plan, u32) {
    let mut best = plan.clone();
    let mut runs = 0;
    loop {
        let before = best.clone();
        remove_steps(world, &mut best, oracle, &mut runs);
        simplify(world, &mut best, oracle, &mut runs);
        if best == before || runs > 5_000 {
            return (best, runs);
        }
    }
}

fn remove_steps(world: &mut World, best: &mut Plan, oracle: Oracle, runs: &mut u32) {
    let mut size = best.steps.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        while at < best.steps.len() {
            let mut tried = best.clone();
            tried.steps.drain(at..(at + size).min(best.steps.len()));
            *runs += 1;
            if fails(world, &tried, oracle) {
                *best = tried;
            } else {
                at += size;
            }
        }
        if size == 1 {
            return;
        }
        size = size.div_ceil(2);
    }
}

/// Plainer values, one at a time.
fn simplify(world: &mut World, best: &mut Plan, oracle: Oracle, runs: &mut u32) {
    let mut attempt = |tried: Plan, best: &mut Plan| {
        if tried != *best {
            *runs += 1;
            if fails(world, &tried, oracle) {
                *best = tried;
            }
        }
    };
    let fields: [fn(&mut Config, Config); 5] = [
        |c, plain| c.relay = plain.relay,
        |c, plain| c.tls = plain.tls,
        |c, plain| c.pinned = plain.pinned,
        |c, plain| c.named = plain.named,
        |c, plain| c.allow = plain.allow,
    ];
    for field in fields {
        let mut tried = best.clone();
        field(&mut tried.config, Config::default());
        attempt(tried, best);
    }
    let edits: [fn(&mut Check); 5] = [
        |check| check.rotate = false,
        |check| check.end = End::Itself,
        |check| check.fault = Fault::None,
        |check| check.meddle = None,
        |check| check.beside = None,
    ];
    let survivals = [Survival::All, Survival::None];
    for at in 0..best.steps.len() {
        for edit in edits {
            let mut tried = best.clone();
            if let Some(Step::Precheck(check)) = tried.steps.get_mut(at) {
                edit(check);
            }
            attempt(tried, best);
        }
        for survival in survivals {
            let mut tried = best.clone();
            match tried.steps.get_mut(at) {
                Some(Step::Power(_, old) | Step::Precheck(Check { end: End::Power(_, old), .. })) => *old = survival,
                Some(Step::Precheck(_) | Step::Boot(_) | Step::Edit(_)) | None => {}
            }
            attempt(tried, best);
        }
    }
}

/// Runs the plan again and gives its failure and the lines; only the last `around` before the failure where one is given.
pub fn timeline(world: &mut World, plan: &Plan, around: Option<usize>) -> (Option<Failure>, String) {
    world.keep_timeline();
    let outcome = run(world, plan);
    let lines = world.timeline();
    let from = around.map_or(0, |n| lines.len().saturating_sub(n));
    let mut text = String::new();
    if from > 0 {
        let _ = writeln!(text, "  … {from} lines before");
    }
    for line in lines.iter().skip(from) {
        let _ = writeln!(text, "{:>6}  {}", line.at_us, line.text);
    }
    (outcome.failure, text)
}
