//! The `edged` command: parses flags and configuration, builds the wiring, calls `io`; it decides nothing.

mod assurance;
mod cli;
mod config;
mod control;
mod init;
mod metrics;
mod node;
mod notify;
mod places;
mod precheck;
mod run;
mod show;

use std::process::ExitCode;

use clap::Parser as _;
use daemon_common::failure;
use machines::precheck::exit;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // There is nobody to tell when this fails.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::PASSED });
        }
    };
    let ended = match &cli.command {
        cli::Command::Precheck(args) => precheck::precheck(&cli, args),
        cli::Command::Run(args) => run::run(&cli, args),
        cli::Command::Init(args) => init::init(args, cli.output),
        cli::Command::Config => show::show(&cli),
    };
    failure::exit("edged", ended)
}
