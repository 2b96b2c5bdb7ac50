//! Readable text of what happened, made only when a run is repeated for a reader.

use std::fmt::Write as _;

use crate::oracles::Failure;
use crate::plan::Plan;
use crate::sweep::run;
use crate::world::World;

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
        let _ = writeln!(text, "{:>10} us  {}", line.at_us, line.text);
    }
    (outcome.failure, text)
}
