//! The `edgectl` command: asks `edged` over its control socket, or the files of a state root; it decides nothing.

mod ask;
mod epoch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use daemon_common::failure::{self, Ended};
use daemon_common::output::Output;
use machines::json::Value;

/// Asks the edge daemon how it stands.
#[derive(Debug, Parser)]
#[command(name = "edgectl", version, arg_required_else_help = true)]
#[command(after_help = "Examples:
  edgectl status
  edgectl epoch
  edgectl --socket /tmp/ctl.sock --output json status
  edgectl epoch --state-root /var/lib/autonomy      # reads the files; edged need not run

Exit codes: 0 done, 1 refused or failed, 2 usage, 3 edged does not run or cannot be reached.")]
struct Cli {
    /// The control socket of edged
    #[arg(long, value_name = "PATH", global = true, default_value = "/run/edged/ctl.sock")]
    socket: PathBuf,
    /// How results are printed.
    #[arg(long, value_enum, global = true, default_value_t)]
    output: Output,
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say how edged stands.
    Status,
    /// Say which boot epoch the node is in.
    Epoch(Epoch),
}

#[derive(Debug, Args)]
struct Epoch {
    /// Read it from the files of this state root instead of asking edged
    #[arg(long, value_name = "DIR")]
    state_root: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = match &cli.command {
        Command::Status => status(&cli),
        Command::Epoch(args) => epoch::epoch(&cli.socket, args.state_root.as_deref(), cli.output),
    };
    failure::exit("edgectl", ended)
}

fn status(cli: &Cli) -> Ended {
    let status = ask::ask(&cli.socket, "/v1/status")?;
    let text = lines(&status, "").join("\n");
    cli.output.print(&text, || status)?;
    Ok(0)
}

/// A line for each value, in the order of the keys.
fn lines(value: &Value, within: &str) -> Vec<String> {
    let Some(members) = value.as_object() else {
        let text = value.as_str().map_or_else(|| value.to_text(), ToOwned::to_owned);
        return vec![format!("{within}: {}", daemon_common::output::harmless(&text))];
    };
    let name = |key: &str| if within.is_empty() { key.to_owned() } else { format!("{within}.{key}") };
    members.iter().flat_map(|(key, value)| lines(value, &name(key))).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn flags_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }
}
