//! Checks as they are made, and the table of them at the end.

use std::io::IsTerminal as _;
use std::process::ExitCode;

/// What was checked, in order.
#[derive(Debug, Default)]
pub struct Checks {
    rows: Vec<(String, Outcome)>,
    muted: bool,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Pass,
    Fail,
    /// It cannot be made on this machine.
    Skipped,
}

impl Checks {
    /// Checks that are not printed as they are made.
    #[must_use]
    pub fn muted() -> Self {
        Self { rows: Vec::new(), muted: true }
    }

    /// Whether every check that was made holds.
    #[must_use]
    pub fn all_pass(&self) -> bool {
        self.rows.iter().all(|(_, outcome)| *outcome == Outcome::Pass)
    }

    /// Notes and prints whether something holds; `detail` is shown when it does not.
    pub fn that(&mut self, what: &str, holds: bool, detail: &str) {
        if !self.muted {
            println!("  {} {what}", mark(holds));
        }
        if !holds {
            for line in detail.lines() {
                println!("       {line}");
            }
        }
        self.rows.push((what.to_owned(), if holds { Outcome::Pass } else { Outcome::Fail }));
    }

    /// Notes and prints that something cannot be checked on this machine, and why.
    pub fn skipped(&mut self, what: &str, why: &str) {
        println!("  SKIPPED {what}: {why}");
        self.rows.push((format!("{what} ({why})"), Outcome::Skipped));
    }

    /// Notes and prints whether a literal marker stands in an output.
    pub fn marker(&mut self, marker: &str, output: &str) {
        let detail = format!("expected `{marker}` in:\n{output}");
        self.that(&format!("marker {marker}"), output.contains(marker), &detail);
    }

    /// Prints the table; the exit code says whether every row holds that could be checked, and there is at least one.
    #[must_use]
    pub fn finish(&self, title: &str) -> ExitCode {
        let said = |outcome| match outcome {
            Outcome::Pass => word(true),
            Outcome::Fail => word(false),
            Outcome::Skipped => "SKIPPED".into(),
        };
        let rows: Vec<Vec<String>> =
            self.rows.iter().map(|(what, outcome)| vec![what.clone(), said(*outcome)]).collect();
        println!("\n{title}");
        print!("{}", table(&["check", "result"], &rows));
        let count = |wanted| self.rows.iter().filter(|(_, outcome)| *outcome == wanted).count();
        let (passed, skipped) = (count(Outcome::Pass), count(Outcome::Skipped));
        let rest = if skipped == 0 { String::new() } else { format!(", {skipped} skipped") };
        println!("{passed} of {} checks passed{rest}", self.rows.len());
        if count(Outcome::Fail) == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// PASS or FAIL.
#[must_use]
pub fn word(holds: bool) -> String {
    String::from(if holds { "PASS" } else { "FAIL" })
}

fn mark(holds: bool) -> String {
    if !std::io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some() {
        return word(holds);
    }
    let colour = if holds { 32 } else { 31 };
    format!("\x1b[{colour}m{}\x1b[0m", word(holds))
}

/// A table in plain text: cells wrap at 58 characters, in tables of many columns at 34.
#[must_use]
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let most = if head.len() > 3 { 34 } else { 58 };
    let wrap = |cell: &str| wrap(cell, most);
    let head: Vec<Vec<String>> = vec![head.iter().map(|cell| (*cell).to_owned()).collect()];
    let wrapped: Vec<Vec<Vec<String>>> =
        head.iter().chain(rows).map(|row| row.iter().map(|cell| wrap(cell)).collect()).collect();
    let columns = wrapped.iter().map(Vec::len).max().unwrap_or(0);
    let lines_of = |row: &Vec<Vec<String>>, column: usize| row.get(column).cloned().unwrap_or_default();
    let width = |column| {
        let cells = wrapped.iter().flat_map(|row| lines_of(row, column));
        cells.map(|line| line.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let rule: String = widths.iter().map(|width| format!("+{}", "-".repeat(width + 2))).collect();
    let rule = format!("{rule}+\n");
    let mut text = rule.clone();
    for (n, row) in wrapped.iter().enumerate() {
        for line in 0..row.iter().map(Vec::len).max().unwrap_or(0) {
            for (column, width) in widths.iter().enumerate() {
                let part = lines_of(row, column).get(line).cloned().unwrap_or_default();
                let gap = " ".repeat(width.saturating_sub(part.chars().count()));
                text.push_str(&format!("| {part}{gap} "));
            }
            text.push_str("|\n");
        }
        let many_lines = row.iter().any(|cell| cell.len() > 1) || rows.iter().flatten().any(|c| wrap(c).len() > 1);
        if n == 0 || many_lines && n + 1 < wrapped.len() {
            text.push_str(&rule);
        }
    }
    text + &rule
}

fn wrap(cell: &str, most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in cell.split(' ') {
        let Some(line) = lines.last_mut() else { break };
        if !line.is_empty() && line.chars().count() + word.chars().count() >= most {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_wraps() {
        let rows = vec![vec!["a".into(), "word ".repeat(20)], vec!["bb".into(), "ü".into()]];
        let text = table(&["x", "y"], &rows);
        let widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
        assert!(text.lines().count() >= 8, "{text}");
    }

    #[test]
    fn one_failure_or_no_check_at_all_is_a_failure() {
        let mut checks = Checks::default();
        assert_eq!(format!("{:?}", checks.finish("none")), format!("{:?}", ExitCode::FAILURE));
        checks.skipped("unmade", "for a reason");
        assert_eq!(format!("{:?}", checks.finish("nothing but skipped")), format!("{:?}", ExitCode::FAILURE));
        checks.that("good", true, "");
        assert_eq!(format!("{:?}", checks.finish("one")), format!("{:?}", ExitCode::SUCCESS));
        checks.marker("absent", "output");
        assert_eq!(format!("{:?}", checks.finish("two")), format!("{:?}", ExitCode::FAILURE));
    }
}
