//! The `autonomy` command: parses flags and configuration, builds the wiring, calls `io`; it decides nothing.

mod artifacts;
mod background;
mod bundle;
mod bundles;
mod cli;
mod config;
mod keys;
mod lock;
mod manifest;
mod oci;
mod policy;
mod release;
mod run;
mod runtime;
mod telemetry;
mod terminal;
mod verify;
mod wal;

use std::process::ExitCode;

use clap::Parser;
use daemon_common::{failure, output};

use crate::cli::Later;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let ended = match cli.command {
        cli::Command::Runtime(Later(cli::RuntimeCommand::Start(args))) => runtime::start(&args),
        cli::Command::Run(Later(args)) => run::run(&args),
        cli::Command::Policy(Later(command)) => policy::dispatch(command, cli.output),
        cli::Command::Verify(Later(args)) => verify::verify(&args, cli.output),
        cli::Command::Lock(Later(command)) => lock::dispatch(command, cli.output),
        cli::Command::Keys(Later(command)) => keys::dispatch(command, cli.output),
        cli::Command::Oci(Later(command)) => oci::dispatch(command, cli.output),
        cli::Command::Bundle(Later(command)) => bundle::dispatch(command, cli.output),
        cli::Command::Release(Later(command)) => release::dispatch(command, cli.output),
        cli::Command::Manifest(Later(command)) => manifest::dispatch(command, cli.output),
        cli::Command::Wal(Later(command)) => wal::dispatch(command, cli.output),
        cli::Command::Telemetry(Later(command)) => telemetry::dispatch(command, cli.output),
        cli::Command::Version => version(cli.output),
    };
    failure::exit("autonomy", ended)
}

fn version(output: output::Output) -> failure::Ended {
    let text = format!("autonomy {}", cli::VERSION);
    output.print(&text, || output::object([("version", machines::json::Value::from(cli::VERSION))]))?;
    Ok(0)
}
