//! Figures that other rooms measure themselves: decisions in process (`io/policy` alone may name the engine) and the
//! simulator's speed.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::host::OnOneCore;
use crate::report::{Figure, Report};
use crate::tools::Bench;

/// Reads what `io/policy`'s example prints: a case a heading, then `name p50 … µs p99 … µs`.
///
/// # Errors
/// It cannot be run, or prints something else.
pub fn decisions(target: &Path, report: &mut Report) -> Result<()> {
    println!("a decision in process, beside the bare engine");
    let program = target.join("release/examples/decision");
    let text = output(&mut Command::new(&program)).with_context(|| format!("running {}", program.display()))?;
    for case in ["2 rules", "100 rules"] {
        let lines =
            text.lines().skip_while(|line| line.trim() != case).skip(1).take_while(|line| line.starts_with(' '));
        let p50 = |name: &str| lines.clone().find_map(|line| p50_of(line, name));
        let bare = p50("bare").with_context(|| format!("no `bare` for {case} in:\n{text}"))?;
        let ours = p50("evaluate, with parsing").or_else(|| p50("evaluate"));
        let ours = ours.with_context(|| format!("no `evaluate` for {case} in:\n{text}"))?;
        report.add(
            "decision",
            Figure {
                name: format!("a decision, {case}, p50"),
                measured: ours,
                floor: Some(bare),
                unit: "us",
                goal: "at most 1.3 of the bare engine".into(),
                reached: Some(ours <= 1.3 * bare),
            },
        );
    }
    Ok(())
}

fn p50_of(line: &str, name: &str) -> Option<f64> {
    let (label, rest) = line.split_once(" p50 ")?;
    (label.trim() == name).then(|| rest.split_whitespace().next()?.parse().ok()).flatten()
}

/// The simulator's seeds a second on one core, compiled as `make test` compiles it.
///
/// # Errors
/// It cannot be run, or finds a failure.
pub fn simulator(bench: &Bench<'_>, target: &Path, report: &mut Report) -> Result<()> {
    println!("the simulator on one core, test profile");
    let program = target.join("debug/sim");
    let seconds = if bench.quick { "3" } else { "10" };
    let _pinned = OnOneCore::take()?;
    let text = output(Command::new(&program).args(["sweep", "--seconds", seconds]))
        .with_context(|| format!("running {}", program.display()))?;
    let number =
        |unit: &str| text.split(',').find_map(|part| part.trim().split_once(unit)?.0.rsplit(' ').next()?.parse().ok());
    let rate: f64 = number(" seeds/s").with_context(|| format!("no `seeds/s` in:\n{text}"))?;
    let events: f64 = number(" events each").with_context(|| format!("no `events each` in:\n{text}"))?;
    let row = |name: &str, measured, unit, goal: &str, reached| Figure {
        name: name.into(),
        measured,
        floor: None,
        unit,
        goal: goal.into(),
        reached,
    };
    let thousands = rate * events / 1000.0;
    let name = "simulator, seeds of 1000 events each";
    let goal = "at least 1000 seeds/s on one core";
    report.add("simulator", row(name, thousands, "seeds/s", goal, Some(thousands >= 1000.0)));
    report.add("simulator", row("simulator, seeds as they are drawn", rate, "seeds/s", "", None));
    report.add("simulator", row("events of a drawn seed", events, "", "", None));
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let done = command.output()?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    ensure!(done.status.success(), "{}: {text}{}", done.status, String::from_utf8_lossy(&done.stderr));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_example_is_read() {
        let line = "  evaluate, with parsing   p50    12.5 µs   p99    20.1 µs";
        assert_eq!(p50_of(line, "evaluate, with parsing"), Some(12.5));
        assert_eq!(p50_of(line, "evaluate"), None);
    }
}
