//! The figures of the product, each beside its floor in the same run. `make bench` calls it.

mod client;
mod drain;
mod footprint;
mod host;
mod precheck;
mod programs;
mod recovery;
mod report;
mod supply;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

const USAGE: &str = "usage: bench --autonomy FILE [--target DIR] [--only SECTION] [--quick]
  sections: tools, footprint, recovery, drain, verify, pull, precheck, decision, simulator";

struct Options {
    autonomy: PathBuf,
    target: PathBuf,
    only: Option<String>,
    quick: bool,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(e) => {
            eprintln!("bench: {e:#}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    demo::scratch::clean_up_on_signals()?;
    let out = options.target.join("bench");
    std::fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let bench = tools::Bench { autonomy: &options.autonomy, within: &out, quick: options.quick };
    let mut report = report::Report::default();
    type Section<'a> = (&'static str, &'a dyn Fn(&mut report::Report) -> Result<()>);
    let sections: [Section<'_>; 9] = [
        ("tools", &|report| tools::measure(&bench, report)),
        ("footprint", &|report| footprint::measure(&bench, report)),
        ("recovery", &|report| recovery::measure(&bench, report)),
        ("drain", &|report| drain::measure(&bench, report)),
        ("verify", &|report| supply::verify(&bench, report)),
        ("pull", &|report| supply::pull(&bench, report)),
        ("precheck", &|report| precheck::measure(&bench, report)),
        ("decision", &|report| programs::decisions(&options.target, report)),
        ("simulator", &|report| programs::simulator(&bench, &options.target, report)),
    ];
    let mut failed = Vec::new();
    for (name, measure) in sections {
        if options.only.as_deref().is_none_or(|only| only == name)
            && let Err(e) = measure(&mut report)
        {
            println!("  FAILED: {e:#}");
            failed.push(name);
        }
    }
    println!();
    report.print();
    report.write(&out)?;
    println!("written to {}", out.display());
    if failed.is_empty() { Ok(()) } else { bail!("these sections failed: {}", failed.join(", ")) }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options { autonomy: PathBuf::new(), target: "target".into(), only: None, quick: false };
    while let Some(flag) = arguments.next() {
        if flag == "--quick" {
            options.quick = true;
            continue;
        }
        let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--autonomy" => options.autonomy = value.into(),
            "--target" => options.target = value.into(),
            "--only" => options.only = Some(value),
            _ => bail!("unknown flag {flag}"),
        }
    }
    if options.autonomy.as_os_str().is_empty() {
        bail!("--autonomy is missing");
    }
    Ok(options)
}
