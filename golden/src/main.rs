//! `golden check` compares the fixtures with what is computed now; `golden update` writes them.

use std::process::ExitCode;

use anyhow::Result;

const USAGE: &str = "usage: golden check | golden update";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["check"] => check(),
        ["update"] => update(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    done.unwrap_or_else(|e| {
        eprintln!("golden: {e:#}");
        ExitCode::FAILURE
    })
}

fn check() -> Result<ExitCode> {
    let differences = golden::check(&golden::root().join("golden/fixtures"))?;
    for difference in &differences {
        println!("{difference}");
    }
    if differences.is_empty() {
        println!("golden: all fixtures are as computed");
        return Ok(ExitCode::SUCCESS);
    }
    println!("golden: {} files differ; if that is wanted, `make golden-update` writes them", differences.len());
    Ok(ExitCode::FAILURE)
}

fn update() -> Result<ExitCode> {
    let written = golden::update(&golden::root().join("golden/fixtures"))?;
    for path in &written {
        println!("wrote {}", path.display());
    }
    println!("golden: {} files changed", written.len());
    Ok(ExitCode::SUCCESS)
}
