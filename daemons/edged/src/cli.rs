//! Flags and commands.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use daemon_common::logs::LogFlags;
use daemon_common::output::Output;
use machines::manifest::is_node_id;

/// This command's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Where the configuration is.
pub const CONFIG: &str = "/etc/edge/edge.toml";

/// Notices that the operating system under a node was replaced, rebuilds its runtime by a signed manifest, and refuses to start
/// when anything cannot be verified.
#[derive(Debug, Parser)]
#[command(name = "edged", version, arg_required_else_help = true)]
#[command(after_help = "Examples:
  edged init --state-root /var/lib/autonomy
  edged --config /etc/edge/edge.toml precheck
  edged --config /etc/edge/edge.toml run
  edged --config /etc/edge/edge.toml config

Exit codes: 0 passed, 1 configuration invalid, 2 state root unusable, 3 certificate unusable or too old, 4 the state root is
held, 5 reconstruction refused or failed: do not start, 64 usage.")]
pub struct Cli {
    /// Configuration file
    #[arg(long, value_name = "FILE", global = true, default_value = CONFIG)]
    pub config: PathBuf,
    /// How results are printed
    #[arg(long, value_enum, global = true, default_value_t)]
    pub output: Output,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check the host against what the node was built for; rebuild when it was replaced. Run it before `edged run`.
    Precheck(Precheck),
    /// Serve until SIGTERM. Refuses unless this boot's precheck passed.
    Run(Run),
    /// Lay out a state root.
    Init(Init),
    /// Print the configuration as it is in force, with every default.
    Config,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edged --config /etc/edge/edge.toml precheck
  edged --config /etc/edge/edge.toml precheck --log-format json
  edged --config /etc/edge/edge.toml precheck --rotate-certs    # puts identity/next/ in force first

Checks, in this order; the first that fails decides the exit code: configuration (1), state root (2), its lock (4),
certificate (3), fingerprint and reconstruction (5).")]
pub struct Precheck {
    /// Put the certificate and key in identity/next/ in force first
    #[arg(long)]
    pub rotate_certs: bool,
    #[command(flatten)]
    pub log: LogFlags,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edged --config /etc/edge/edge.toml run
  edged --config /etc/edge/edge.toml run --log-format json

Says READY=1 to a service manager (NOTIFY_SOCKET) when it serves. Ends with 0 on SIGTERM and SIGINT.")]
pub struct Run {
    #[command(flatten)]
    pub log: LogFlags,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edged init --state-root /var/lib/autonomy
  edged init --state-root /data/autonomy --node edge-07

Makes the folders that are missing, with mode 0700, and edge.toml.example. What is there stays as it is; a state root that was
started from is refused.")]
pub struct Init {
    /// The persistent partition, or a folder on it
    #[arg(long, value_name = "DIR", default_value = "/var/lib/autonomy")]
    pub state_root: PathBuf,
    /// The node's id, for edge.toml.example
    #[arg(long, value_name = "ID", value_parser = node_id)]
    pub node: Option<String>,
}

fn node_id(text: &str) -> Result<String, String> {
    let fits = is_node_id(text).then(|| text.to_owned());
    fits.ok_or_else(|| "must be 1 to 128 characters of a-z A-Z 0-9 . _ -".into())
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
