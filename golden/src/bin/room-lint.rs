//! `room-lint` checks the rules of the house that the compiler cannot see; `make lint` runs it.

use std::process::ExitCode;

fn main() -> ExitCode {
    let findings = match golden::lint::check(&golden::root()) {
        Ok(findings) => findings,
        Err(e) => {
            eprintln!("room-lint: {e:#}");
            return ExitCode::FAILURE;
        }
    };
    for warning in &findings.warnings {
        println!("warning: {warning}");
    }
    for error in &findings.errors {
        println!("error: {error}");
    }
    println!("room-lint: {} errors, {} warnings", findings.errors.len(), findings.warnings.len());
    if findings.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
