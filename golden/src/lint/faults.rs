//! `docs/faults.md` names a test for every row of the fault catalogue that applies, and the tests exist.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;

use super::Findings;
use crate::tree;

/// The rows that the tool boundary answers for: first letter, first and last number.
const ROWS: [(char, u32, u32); 8] =
    [('D', 1, 30), ('X', 1, 14), ('P', 1, 23), ('J', 1, 12), ('A', 2, 17), ('T', 18, 18), ('N', 14, 14), ('N', 16, 17)];

pub(super) fn check(root: &Path, functions: &BTreeSet<String>, findings: &mut Findings) -> Result<()> {
    let path = root.join("docs/faults.md");
    if !path.is_file() {
        findings.errors.push("docs/faults.md is missing: it names a test, or a reason, for every row".into());
        return Ok(());
    }
    let text = tree::read_text(&path)?;
    let mut seen = BTreeSet::new();
    for (n, line) in (1..).zip(text.lines()) {
        let Some((id, answer)) = row(line) else { continue };
        if !seen.insert(id.to_owned()) {
            findings.errors.push(format!("docs/faults.md:{n}: row {id} stands there twice"));
        }
        let named: Vec<&str> = tests(id, answer).collect();
        for test in &named {
            if !functions.contains(*test) {
                findings.errors.push(format!("docs/faults.md:{n}: row {id} names `{test}`, which no source has"));
            }
        }
        if named.is_empty() && answer.split_whitespace().count() < 4 {
            findings.errors.push(format!("docs/faults.md:{n}: row {id} has neither a test nor a reason"));
        }
    }
    for (letter, first, last) in ROWS {
        for id in (first..=last).map(|n| format!("{letter}{n:02}")) {
            if !seen.contains(&id) {
                findings.errors.push(format!("docs/faults.md: row {id} is missing"));
            }
        }
    }
    Ok(())
}

/// A table's row: its id and what stands behind it.
fn row(line: &str) -> Option<(&str, &str)> {
    let (id, answer) = line.trim().strip_prefix('|')?.split_once('|')?;
    let id = id.trim().trim_matches('`');
    let (letter, digits) = id.split_at_checked(1)?;
    let fits = letter.chars().all(|c| c.is_ascii_uppercase()) && digits.len() == 2;
    (fits && digits.bytes().all(|b| b.is_ascii_digit())).then_some((id, answer))
}

/// The test names among the words in backticks: those that start with the row's id, and those of at least four
/// words joined by `_`. Shorter ones are codes and fields.
fn tests<'a>(id: &str, answer: &'a str) -> impl Iterator<Item = &'a str> {
    let prefix = format!("{}_", id.to_lowercase());
    let quoted = answer.split('`').skip(1).step_by(2).filter_map(|word| word.rsplit("::").next());
    quoted.filter(move |word| {
        let name = word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        name && (word.starts_with(&prefix) || word.matches('_').count() >= 3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_its_test_is_found() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("docs")).unwrap();
        let table = "| row | answer |\n|---|---|\n| D01 | `d01_there`, `wal::the_log_reads_back` answers `wal_failed` |\n\
                     | D02 | `d02_gone` |\n| D03 | |\n| D04 | The machine has no such device at all. |\n| D01 | again and again here |\n";
        std::fs::write(root.path().join("docs/faults.md"), table).unwrap();
        let functions = ["d01_there", "the_log_reads_back"].map(String::from).into();
        let mut findings = Findings::default();
        check(root.path(), &functions, &mut findings).unwrap();
        let (missing, wrong): (Vec<_>, Vec<_>) = findings.errors.iter().partition(|e| e.ends_with("is missing"));
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        assert!(
            wrong[0].contains("`d02_gone`") && wrong[1].contains("D03 has neither") && wrong[2].contains("D01 stands")
        );
        assert!(missing.iter().any(|e| e.contains("row D05")) && !missing.iter().any(|e| e.contains("row D04")));
    }
}
