//! `demo story` plays the story, `demo drills` breaks things on purpose; `make demo` and `make demo-drills` call it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use demo::shell::{Pace, Shell};
use demo::{act1, act2, act3, act4, drills, scratch};

const USAGE: &str =
    "usage: demo story|run|run-unsigned|offline-drain|os-replacement|drills --autonomy FILE [--policies DIR] [--rounds N] [--drill N]
  DEMO_PACE=SECONDS waits after each step of the story, DEMO_PACE=ask until Enter is pressed";

struct Options {
    play: String,
    autonomy: PathBuf,
    policies: PathBuf,
    rounds: u32,
    drill: Option<u32>,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(e) => {
            eprintln!("demo: {e:#}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    run(&options).unwrap_or_else(|e| {
        eprintln!("demo: {e:#}");
        ExitCode::FAILURE
    })
}

fn run(options: &Options) -> Result<ExitCode> {
    let pace = Pace::parse(std::env::var("DEMO_PACE").ok().as_deref())?;
    scratch::clean_up_on_signals()?;
    let shell = Shell::new(&options.autonomy, pace);
    if options.play == "drills" {
        return drills::run(&shell, &options.autonomy, &options.policies, options.rounds, options.drill);
    }
    let play = match options.play.as_str() {
        "run" => act2::alone,
        "run-unsigned" => act2::unsigned,
        "offline-drain" => act3::alone,
        "os-replacement" => act4::alone,
        _ => act1::play,
    };
    let checks = play(&shell, &options.autonomy, &options.policies)?;
    Ok(checks.finish("what was shown"))
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
    let plays = ["story", "run", "run-unsigned", "offline-drain", "os-replacement", "drills"];
    let play = arguments.next().filter(|play| plays.contains(&play.as_str()));
    let play = play.with_context(|| format!("the first argument is one of {}", plays.join(", ")))?;
    let policies = Path::new("demo/policies").to_path_buf();
    let mut options = Options { play, autonomy: PathBuf::new(), policies, rounds: 10, drill: None };
    while let Some(flag) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--autonomy" => options.autonomy = PathBuf::from(value),
            "--policies" => options.policies = PathBuf::from(value),
            "--drill" => options.drill = Some(value.parse().context("--drill needs a number")?),
            "--rounds" => options.rounds = value.parse().context("--rounds needs a number")?,
            _ => bail!("unknown flag {flag}"),
        }
    }
    if options.autonomy.as_os_str().is_empty() {
        bail!("--autonomy is missing");
    }
    Ok(options)
}
