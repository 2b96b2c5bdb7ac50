//! The `autonomy` command: parses flags and configuration, builds the wiring, calls `io`; it decides nothing.

mod artifacts;
mod background;
mod bundle;
mod bundles;
mod cli;
mod config;
mod failure;
mod keys;
mod lock;
mod oci;
mod output;
mod policy;
mod release;
mod run;
mod runtime;
mod settings;
mod telemetry;
mod terminal;
mod verify;
mod wal;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let ended = match cli.command {
        cli::Command::Runtime(cli::RuntimeCommand::Start(args)) => runtime::start(&args),
        cli::Command::Run(args) => run::run(&args),
        cli::Command::Policy(command) => policy::dispatch(command, cli.output),
        cli::Command::Verify(args) => verify::verify(&args, cli.output),
        cli::Command::Lock(command) => lock::dispatch(command, cli.output),
        cli::Command::Keys(command) => keys::dispatch(command, cli.output),
        cli::Command::Oci(command) => oci::dispatch(command, cli.output),
        cli::Command::Bundle(command) => bundle::dispatch(command, cli.output),
        cli::Command::Release(command) => release::dispatch(command, cli.output),
        cli::Command::Wal(command) => wal::dispatch(command, cli.output),
        cli::Command::Telemetry(command) => telemetry::dispatch(command, cli.output),
        cli::Command::Version => version(cli.output),
    };
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            let lines: Vec<String> = failure.message.lines().map(output::harmless).collect();
            eprintln!("autonomy: {}", lines.join("\n"));
            ExitCode::from(failure.code)
        }
    }
}

fn version(output: output::Output) -> failure::Ended {
    let text = format!("autonomy {}", cli::VERSION);
    output.print(&text, || output::object([("version", machines::json::Value::from(cli::VERSION))]))?;
    Ok(0)
}
