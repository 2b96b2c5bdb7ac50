//! Making a failing plan smaller: delta debugging over its steps, then over its numbers. A smaller plan counts only if it
//! breaks the same invariant.

use crate::oracles::Oracle;
use crate::plan::{Plan, Step, What};
use crate::sweep::run_checked;
use crate::world::World;

fn fails(world: &mut World, plan: &Plan, oracle: Oracle) -> bool {
    let twice = oracle == Oracle::Determinism;
    let outcome = run_checked(world, plan, twice);
    outcome.failure.is_some_and(|failure| failure.oracle == oracle)
}

/// The smallest plan that was found, and after how many runs.
pub fn shrink(world: &mut World, plan: &Plan, oracle: Oracle) -> (Plan, u32) {
    let mut best = plan.clone();
    let mut runs = 0;
    loop {
        let before = best.clone();
        remove_steps(world, &mut best, oracle, &mut runs);
        shorten_loops(world, &mut best, oracle, &mut runs);
        shorten_past(world, &mut best, oracle, &mut runs);
        simplify(world, &mut best, oracle, &mut runs);
        if best == before || runs > 5_000 {
            return (best, runs);
        }
    }
}

/// Takes out ever smaller pieces.
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

fn shorten_loops(world: &mut World, best: &mut Plan, oracle: Oracle, runs: &mut u32) {
    for at in 0..best.steps.len() {
        while let Some(Step { what: What::Loop { n, .. }, .. }) = best.steps.get(at)
            && *n > 1
        {
            let mut tried = best.clone();
            if let Some(Step { what: What::Loop { n, .. }, .. }) = tried.steps.get_mut(at) {
                *n /= 2;
            }
            *runs += 1;
            if !fails(world, &tried, oracle) {
                break;
            }
            *best = tried;
        }
    }
}

/// Halves the log of before the story.
fn shorten_past(world: &mut World, best: &mut Plan, oracle: Oracle, runs: &mut u32) {
    while best.config.past > 0 {
        let mut tried = best.clone();
        tried.config.past /= 2;
        *runs += 1;
        if !fails(world, &tried, oracle) {
            return;
        }
        *best = tried;
    }
}

/// Plainer values, one at a time.
fn simplify(world: &mut World, best: &mut Plan, oracle: Oracle, runs: &mut u32) {
    let edits: [fn(&mut Plan); 10] = [
        |plan| plan.config.strict = false,
        |plan| plan.config.shed = false,
        |plan| plan.config.max_in_flight = 64,
        |plan| plan.config.max_bytes = 1 << 30,
        |plan| plan.config.sync_us = 500,
        |plan| plan.config.drain = false,
        |plan| plan.config.poison = 0,
        |plan| plan.config.batch = 512,
        |plan| plan.config.patience_us = 400_000,
        |plan| plan.mask.0 = 0,
    ];
    for edit in edits {
        let mut tried = best.clone();
        edit(&mut tried);
        *runs += 1;
        if tried != *best && fails(world, &tried, oracle) {
            *best = tried;
        }
    }
    for at in 0..best.steps.len() {
        let mut tried = best.clone();
        if let Some(Step { what: What::Call(call) | What::Loop { call, .. }, .. }) = tried.steps.get_mut(at) {
            call.pad = 0;
        }
        *runs += 1;
        if tried != *best && fails(world, &tried, oracle) {
            *best = tried;
        }
    }
}
